// SPDX-License-Identifier: MPL-2.0

//! What the graphs changed in a picture: the difference of two pictures in RGB, and its way to other colours. No GStreamer, no ONNX
//! Runtime.

use multiversion::multiversion;

use crate::scene::Area;

/// Fractional bits of a difference: with 5 it stays within 16 bits, also where a filter overshoots.
pub const BITS: u32 = 5;

/// Fractional bits of a matrix.
const MATRIX_BITS: u32 = 14;

/// A difference for each pixel, plane by plane.
#[derive(Clone, Debug, Default)]
pub struct Difference {
    planes: [Vec<i16>; 3],
    width: usize,
    /// Of one row, in RGB.
    rows: [Vec<i16>; 3],
    /// The matrix's shares, as often as a row has pixels: products with what is read beside them vectorise in 16 bits.
    shares: [[Vec<i16>; 3]; 3],
}

impl Difference {
    /// Takes that of `restored` to `seen`, packed RGB, [H, W, 3] with rows of `width` pixels, within `area`, in the colours of
    /// `matrix`.
    ///
    /// # Panics
    /// Panics where the area is not inside.
    pub fn take(&mut self, seen: &[u8], restored: &[u8], width: usize, area: Area, matrix: &Matrix) {
        self.width = area.width as usize;
        for plane in &mut self.planes {
            plane.resize(self.width * area.height as usize, 0);
        }
        for row in &mut self.rows {
            row.resize(self.width, 0);
        }
        for (shares, share) in self.shares.as_flattened_mut().iter_mut().zip(matrix.0.as_flattened()) {
            shares.clear();
            shares.resize(self.width, *share);
        }
        for y in 0..area.height as usize {
            let start = (y + area.y as usize) * width + area.x as usize;
            let row = start * 3..(start + self.width) * 3;
            let targets = y * self.width..(y + 1) * self.width;
            let targets = self.planes.each_mut().map(|plane| &mut plane[targets.clone()]);
            take_row(
                &seen[row.clone()],
                &restored[row],
                &mut self.rows,
                &self.shares,
                targets,
            );
        }
    }

    /// The planes, rows of [`width`](Self::width) values.
    pub fn planes(&self) -> &[Vec<i16>; 3] {
        &self.planes
    }

    pub fn width(&self) -> usize {
        self.width
    }
}

/// A row of packed RGB, by way of `rows`, to a row of each plane.
#[multiversion(targets("x86_64+avx2"))]
fn take_row(
    seen: &[u8],
    restored: &[u8],
    rows: &mut [Vec<i16>; 3],
    shares: &[[Vec<i16>; 3]; 3],
    targets: [&mut [i16]; 3],
) {
    let [red, green, blue] = rows;
    let pixels = seen.chunks_exact(3).zip(restored.chunks_exact(3));
    for ((seen, restored), (red, (green, blue))) in
        pixels.zip(red.iter_mut().zip(green.iter_mut().zip(blue.iter_mut())))
    {
        *red = off(seen[0], restored[0]);
        *green = off(seen[1], restored[1]);
        *blue = off(seen[2], restored[2]);
    }
    for (targets, [a, b, c]) in targets.into_iter().zip(shares) {
        let values = red.iter().zip(&*green).zip(&*blue);
        let shares = a.iter().zip(b).zip(c);
        for (target, (values, shares)) in targets.iter_mut().zip(values.zip(shares)) {
            *target = combined(values, shares);
        }
    }
}

#[inline]
fn off(seen: u8, restored: u8) -> i16 {
    (i16::from(restored) - i16::from(seen)) << BITS
}

#[inline]
fn combined(((x, y), z): Three<'_>, ((a, b), c): Three<'_>) -> i16 {
    let product = |value: &i16, share: &i16| i32::from(*value) * i32::from(*share);
    let sum = product(x, a) + product(y, b) + product(z, c);
    // Never out of range; bounded all the same, which packs faster than cut off bits.
    ((sum + (1 << (MATRIX_BITS - 1))) >> MATRIX_BITS).clamp(i16::MIN.into(), i16::MAX.into()) as i16
}

/// As two zips give them.
type Three<'a> = ((&'a i16, &'a i16), &'a i16);

/// From differences of RGB to those of other colours, both with 8 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix([[i16; 3]; 3]);

impl Matrix {
    /// RGB, times `scales`.
    pub fn rgb(scales: [f64; 3]) -> Self {
        Self([0, 1, 2].map(|row| [0, 1, 2].map(|column| if row == column { fixed(scales[row]) } else { 0 })))
    }

    /// Y'CbCr times `scales`, by the shares of red and blue in Y' (Kr and Kb of ITU-R BT.601, 709 and 2020). Grey has no Cb or Cr.
    pub fn luma_and_chroma(red: f64, blue: f64, scales: [f64; 3]) -> Self {
        let row = |values: [f64; 3], scale: f64, sum: f64| {
            let [a, c] = [values[0], values[2]].map(|value| fixed(value * scale));
            // Green has the largest share, or makes up for the others.
            [a, fixed(sum * scale) - a - c, c]
        };
        let luma = [red, 1.0 - red - blue, blue];
        let chroma = |own: usize| {
            let over = 2.0 * (1.0 - luma[own]);
            [0, 1, 2].map(|at| (f64::from(at == own) - luma[at]) / over)
        };
        Self([
            row(luma, scales[0], 1.0),
            row(chroma(2), scales[1], 0.0),
            row(chroma(0), scales[2], 0.0),
        ])
    }
}

fn fixed(value: f64) -> i16 {
    // Scales are 1.003 at most: 10 bits of full range.
    (value * f64::from(1 << MATRIX_BITS)).round() as i16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(seen: &[u8], restored: &[u8], matrix: &Matrix) -> Difference {
        let mut difference = Difference::default();
        let width = seen.len() as u32 / 3;
        let area = Area {
            x: 0,
            y: 0,
            width,
            height: 1,
        };
        difference.take(seen, restored, width as usize, area, matrix);
        difference
    }

    #[test]
    fn only_the_area_is_taken() {
        let seen: Vec<u8> = (0..4 * 3 * 3).collect();
        let restored: Vec<u8> = seen.iter().map(|value| value + value / 3).collect();
        let mut difference = Difference::default();
        let area = Area {
            x: 1,
            y: 1,
            width: 2,
            height: 2,
        };
        difference.take(&seen, &restored, 4, area, &Matrix::rgb([1.0; 3]));
        assert_eq!(difference.width(), 2);
        for plane in difference.planes() {
            // Pixels 5, 6, 9 and 10.
            assert_eq!(*plane, [5 << BITS, 6 << BITS, 9 << BITS, 10 << BITS]);
        }
    }

    #[test]
    fn colours_are_those_of_the_standard() {
        // Red by 100, in Y'CbCr of BT.601 with 219 and 224 steps: Y' 0.299, Cb -0.299 / 1.772, Cr 0.5 of it.
        let scales = [219.0 / 255.0, 224.0 / 255.0, 224.0 / 255.0];
        let difference = of(&[0, 0, 0], &[100, 0, 0], &Matrix::luma_and_chroma(0.299, 0.114, scales));
        let found = difference.planes().clone().map(|plane| f64::from(plane[0]) / 32.0);
        for (found, expected) in found.into_iter().zip([
            100.0 * 0.299 * scales[0],
            -100.0 * 0.299 / 1.772 * scales[1],
            50.0 * scales[2],
        ]) {
            assert!((found - expected).abs() < 0.05, "{found}, {expected}");
        }
    }

    proptest! {
        #[test]
        fn nothing_stays_nothing_and_grey_has_no_colour(value in any::<u8>(), off in any::<u8>(), full in any::<bool>()) {
            let scales = if full { [1.0; 3] } else { [219.0 / 255.0, 224.0 / 255.0, 224.0 / 255.0] };
            for (red, blue) in [(0.299, 0.114), (0.2126, 0.0722), (0.2627, 0.0593)] {
                let matrix = Matrix::luma_and_chroma(red, blue, scales);
                let same = of(&[value, off, 3], &[value, off, 3], &matrix);
                prop_assert!(same.planes().iter().all(|plane| plane[0] == 0));
                let grey = of(&[value; 3], &[off; 3], &matrix);
                let found = grey.planes().clone().map(|plane| plane[0]);
                prop_assert_eq!(&found[1..], &[0, 0]);
                let expected = (f64::from(off) - f64::from(value)) * scales[0] * 32.0;
                prop_assert!((f64::from(found[0]) - expected).abs() < 1.0);
            }
        }

        #[test]
        fn rgb_stays_exact(seen in any::<[u8; 3]>(), restored in any::<[u8; 3]>()) {
            let difference = of(&seen, &restored, &Matrix::rgb([1.0; 3]));
            for at in 0..3 {
                prop_assert_eq!(i32::from(difference.planes()[at][0]), (i32::from(restored[at]) - i32::from(seen[at])) << BITS);
            }
        }
    }
}
