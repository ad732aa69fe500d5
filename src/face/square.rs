// SPDX-License-Identifier: MPL-2.0

//! From a face's box to the part of the frame that the graphs see: a loose crop of head and shoulders, as the bundle's training
//! clips show them.
//!
//! The crop is centred on the face, `1 + 2 * margin` times as high as the box, and has the shape of the bundle's frames, seen at the
//! display's aspect ratio. It never leaves the frame: at the edge it is moved inwards, and made smaller where the frame is too small
//! for it. Mirroring the picture beyond its edge instead would show the graphs what no training clip has. Its sides and corners are
//! multiples of the frame's chroma step, but for a side that ends at the frame's edge.

use super::Rect;
use crate::scene::Area;

/// The frame and what is asked of its crops.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cropper {
    /// Width and height of the frame, in pixels.
    pub frame: (u32, u32),
    /// Width of a pixel by its height.
    pub pixel_aspect: f64,
    /// Width of the bundle's frames by their height.
    pub aspect: f64,
    /// Space around the face on each side, in heights of its box.
    pub margin: f64,
    /// What sides and corners are multiples of, in pixels.
    pub step: (u32, u32),
}

/// How far outside its crop the centre of what shows may be, as a share of its reach.
const FARTHEST: f64 = 0.2;

/// What the graphs see of a face, and where what they make of it shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Crop {
    /// Within the frame.
    pub area: Area,
    /// The face's, in the frame's pixels, in the crop or near it.
    pub centre: (f64, f64),
    /// From there to where nothing of it shows, across and down. Beyond the frame's edge where the crop is moved inwards, or smaller
    /// than the face asks for: as the face moves, nothing jumps.
    pub reach: (f64, f64),
}

impl Cropper {
    /// The crop for a face.
    pub fn crop(&self, face: &Rect) -> Crop {
        let height = face.height * (1.0 + 2.0 * self.margin);
        let width = height * self.aspect / self.pixel_aspect;
        let (frame_width, frame_height) = (f64::from(self.frame.0), f64::from(self.frame.1));
        let shrinks = (frame_width / width, frame_height / height);
        let shrink = shrinks.0.min(shrinks.1).min(1.0);
        let centre = face.centre();
        let (x, area_width) = place(centre.0, width * shrink, self.frame.0, self.step.0);
        let (y, area_height) = place(centre.1, height * shrink, self.frame.1, self.step.1);
        // The side that the frame is too small for is all of the frame's; the other one is smaller with it.
        // Both are where frame and crop have one shape, but for rounding.
        let reach = |length: f64, own: f64| {
            let is_full = own <= shrink * (1.0 + 1e-9);
            if is_full { length / 2.0 } else { length * shrink / 2.0 }
        };
        let reach = (reach(width, shrinks.0), reach(height, shrinks.1));
        // A face whose centre is farther out hardly shows; the box that has it may be larger than the frame, and does.
        let near = |centre: f64, start: u32, length: u32, reach: f64| {
            let (start, end) = (f64::from(start), f64::from(start + length));
            centre.clamp(start - FARTHEST * reach, end + FARTHEST * reach)
        };
        Crop {
            area: Area {
                x,
                y,
                width: area_width,
                height: area_height,
            },
            centre: (
                near(centre.0, x, area_width, reach.0),
                near(centre.1, y, area_height, reach.1),
            ),
            reach,
        }
    }
}

/// Start and length of a side of about `length` around `centre`, within 0..`limit`.
fn place(centre: f64, length: f64, limit: u32, step: u32) -> (u32, u32) {
    let step = step.max(1);
    let steps = |value: f64| (value / f64::from(step)).round().max(0.0) as u32 * step;
    // A last step may stick out of a frame whose side is no multiple.
    let mut length = steps(length).max(step).min(limit.next_multiple_of(step));
    let last = limit.next_multiple_of(step) - length;
    let mut start = steps(centre - f64::from(length) / 2.0).min(last);
    // Nor less than a step: GstVideoConverter does not survive a column of a tiled format.
    if limit - start < step && start >= step {
        (start, length) = (start - step, length + step);
    }
    (start, length.min(limit - start))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As GstVideoConverter needs it of tiled formats.
    #[test]
    fn the_last_step_of_an_odd_side_is_no_crop_by_itself() {
        assert_eq!(place(638.5, 1.0, 639, 2), (636, 3));
        assert_eq!(place(636.5, 1.0, 639, 2), (636, 2));
        assert_eq!(place(0.5, 1.0, 1, 2), (0, 1), "there is no more");
    }

    fn cropper(width: u32, height: u32) -> Cropper {
        Cropper {
            frame: (width, height),
            pixel_aspect: 1.0,
            aspect: 1.0,
            margin: 0.625,
            step: (2, 2),
        }
    }

    fn face(x: f64, y: f64, height: f64) -> Rect {
        Rect {
            x,
            y,
            width: height * 0.75,
            height,
        }
    }

    #[test]
    fn a_crop_is_two_and_a_quarter_faces_high() {
        let Crop { area, centre, reach } = cropper(1280, 720).crop(&face(600.0, 300.0, 200.0));
        assert_eq!((centre, reach), ((675.0, 400.0), (225.0, 225.0)));
        assert_eq!((area.width, area.height), (450, 450));
        // 675 and 400 are the face's centre.
        assert_eq!((area.x, area.y), (450, 176));
    }

    #[test]
    fn at_the_edge_it_moves_inwards_and_in_a_small_frame_it_is_smaller() {
        let Crop { area, centre, reach } = cropper(1280, 720).crop(&face(-50.0, 650.0, 100.0));
        assert_eq!((area.x, area.y, area.width, area.height), (0, 720 - 226, 226, 226));
        assert_eq!(
            (centre, reach),
            ((-12.5, 700.0), (112.5, 112.5)),
            "what shows stays on the face"
        );
        let Crop { area, reach, .. } = cropper(641, 361).crop(&face(300.0, 100.0, 300.0));
        assert_eq!(
            reach,
            (180.5, 337.5),
            "as high as the face asks for, as wide as the crop is"
        );
        assert_eq!((area.y, area.height), (0, 361), "the whole height, though it is odd");
        assert!(area.x + area.width <= 641 && area.width.abs_diff(361) <= 1, "{area:?}");
    }

    #[test]
    fn it_has_the_bundles_shape_on_the_display() {
        let mut cropper = cropper(720, 576);
        cropper.pixel_aspect = 16.0 / 15.0;
        let area = cropper.crop(&face(300.0, 200.0, 100.0)).area;
        assert_eq!(area.height, 226);
        assert_eq!(area.width, 210);
        cropper.pixel_aspect = 1.0;
        cropper.aspect = 640.0 / 352.0;
        let area = cropper.crop(&face(300.0, 200.0, 100.0)).area;
        assert_eq!((area.width, area.height), (410, 226));
    }

    proptest! {
        #[test]
        fn a_crop_is_in_the_frame_and_in_steps(
            frame in (1u32..3000, 1u32..3000),
            (x, y, height) in (-500.0f64..3500.0, -500.0f64..3500.0, 0.5f64..5000.0),
            step in (1u32..5, 1u32..5),
            (margin, pixel_aspect, aspect) in (0.0f64..3.0, 0.1f64..10.0, 0.2f64..5.0),
        ) {
            let cropper = Cropper { frame, pixel_aspect, aspect, margin, step };
            let area = cropper.crop(&face(x, y, height)).area;
            prop_assert!(area.width > 0 && area.height > 0);
            prop_assert!(area.x + area.width <= frame.0 && area.y + area.height <= frame.1);
            prop_assert!(area.x.is_multiple_of(step.0) && area.y.is_multiple_of(step.1));
            prop_assert!(area.width.is_multiple_of(step.0) || area.x + area.width == frame.0);
            prop_assert!(area.height.is_multiple_of(step.1) || area.y + area.height == frame.1);
        }
    }
}
