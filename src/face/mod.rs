// SPDX-License-Identifier: MPL-2.0

//! Faces in a frame: where they are, which one is which through time, and what of the frame is restored. No GStreamer; ONNX
//! Runtime in `detector` only.

pub mod decode;
pub mod detector;
pub mod mask;
pub mod pose;
pub mod smooth;
pub mod square;
pub mod tone;
pub mod tracks;

/// A rectangle in pixels of a frame; parts of it may lie outside.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rect {
    pub x: f64,
    pub y: f64,
    pub width: f64,
    pub height: f64,
}

impl Rect {
    pub fn area(&self) -> f64 {
        self.width * self.height
    }

    pub fn centre(&self) -> (f64, f64) {
        (self.x + self.width / 2.0, self.y + self.height / 2.0)
    }

    /// Whether it is a place at all: finite, and not empty. What detectors and metas tell is data from strangers.
    pub fn is_sound(&self) -> bool {
        let all = [self.x, self.y, self.width, self.height];
        all.iter().all(|value| value.is_finite() && value.abs() < 1e6) && self.width > 0.0 && self.height > 0.0
    }

    /// As high, and wider by `share` of its width on either side.
    pub fn widened(&self, share: f64) -> Self {
        Self {
            x: self.x - share * self.width,
            width: self.width * (1.0 + 2.0 * share),
            ..*self
        }
    }

    /// Area of what both cover, in square pixels.
    pub fn shared(&self, other: &Self) -> f64 {
        let side =
            |a: f64, a_length: f64, b: f64, b_length: f64| ((a + a_length).min(b + b_length) - a.max(b)).max(0.0);
        side(self.x, self.width, other.x, other.width) * side(self.y, self.height, other.y, other.height)
    }

    /// Intersection over union, 0 to 1.
    pub fn overlap(&self, other: &Self) -> f64 {
        let shared = self.shared(other);
        let all = self.area() + other.area() - shared;
        if all > 0.0 { shared / all } else { 0.0 }
    }
}

/// Points of a face as seen in the picture: the eye on the left, the eye on the right, the tip of the nose, the corners of the
/// mouth on the left and on the right.
pub type Landmarks = [(f64, f64); 5];

/// A face that was found in a frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    pub rect: Rect,
    /// 0 to 1; 1 where whoever found it does not say.
    pub score: f64,
    pub landmarks: Option<Landmarks>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rect(x: f64, y: f64, width: f64, height: f64) -> Rect {
        Rect { x, y, width, height }
    }

    #[test]
    fn overlaps() {
        let a = rect(0.0, 0.0, 10.0, 10.0);
        assert_eq!(a.overlap(&a), 1.0);
        assert_eq!(a.overlap(&rect(10.0, 0.0, 10.0, 10.0)), 0.0);
        assert_eq!(a.overlap(&rect(5.0, 0.0, 10.0, 10.0)), 50.0 / 150.0);
        assert_eq!(rect(0.0, 0.0, 0.0, 0.0).overlap(&rect(0.0, 0.0, 0.0, 0.0)), 0.0);
    }

    #[test]
    fn what_is_no_place_is_not_sound() {
        assert!(rect(-5.0, 3.0, 1.0, 1.0).is_sound());
        for bad in [
            rect(f64::NAN, 0.0, 1.0, 1.0),
            rect(0.0, 0.0, f64::INFINITY, 1.0),
            rect(0.0, 0.0, 1e300, 1.0),
            rect(0.0, 0.0, 0.0, 1.0),
            rect(0.0, 0.0, 1.0, -1.0),
        ] {
            assert!(!bad.is_sound(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn an_overlap_is_a_share_and_mutual(v in proptest::array::uniform8(0.1f64..100.0)) {
            let (a, b) = (rect(v[0], v[1], v[2], v[3]), rect(v[4], v[5], v[6], v[7]));
            prop_assert!((0.0..=1.0 + 1e-9).contains(&a.overlap(&b)));
            prop_assert!((a.overlap(&b) - b.overlap(&a)).abs() < 1e-9);
        }
    }
}
