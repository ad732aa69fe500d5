// SPDX-License-Identifier: MPL-2.0

//! Where a restored face shows: fully in the middle of its crop, not at all at the edge, with a soft step between. The frame cuts it.

use std::sync::LazyLock;

use super::square::Crop;

/// The shape of a mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Shape {
    #[default]
    Ellipse,
    Square,
}

/// From here on, as a share of the way from the centre to the edge, a mask gets weaker.
const INNER: f64 = 0.65;

/// A mask's full weight: 14 bits, as the strength has them.
pub const FULL: u16 = 1 << 14;

/// The mask of one crop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mask {
    pub shape: Shape,
    pub crop: Crop,
    /// How much of it counts where it lies on others, more than 0, to 1: the share of its strength.
    pub share: f64,
}

impl Mask {
    /// Weight, 0 to 1, at a place of the frame in pixels: what [`blocks`](Self::blocks) is checked against.
    #[cfg(test)]
    fn weight(&self, x: f64, y: f64) -> f64 {
        let area = self.crop.area;
        let (left, top) = (f64::from(area.x), f64::from(area.y));
        let is_in =
            (left..=left + f64::from(area.width)).contains(&x) && (top..=top + f64::from(area.height)).contains(&y);
        if !is_in {
            return 0.0;
        }
        let [columns, rows] = self.sides();
        let (across, down) = (columns.way(x), rows.way(y));
        soft_step(match self.shape {
            Shape::Ellipse => across.hypot(down),
            Shape::Square => across.max(down),
        })
    }

    fn sides(&self) -> [Side; 2] {
        let Crop { area, centre, reach } = self.crop;
        [
            Side {
                start: area.x,
                length: area.width,
                centre: centre.0,
                reach: reach.0,
            },
            Side {
                start: area.y,
                length: area.height,
                centre: centre.1,
                reach: reach.1,
            },
        ]
    }

    /// Weights of the crop's blocks of `block` pixels, row by row, of [`FULL`]: the least of the block's pixels. A block is what
    /// shares a chroma sample, so a sample changes only where all of its pixels may.
    ///
    /// Where the masks of `others` lie on top, the weights are shared, each by its [`share`](Self::share): with their strengths they
    /// are together never more than full, so that no pixel is changed twice, and one that fades gives back what it had.
    pub fn blocks(&self, block: (u32, u32), others: &[Self]) -> Vec<u16> {
        let [columns, rows] = self.sides();
        let squares = |side: Side, block: u32| -> Vec<f32> {
            let ends = (0..side.length.div_ceil(block)).map(|at| side.far(at, block));
            ends.map(|end| side.way(end).powi(2) as f32).collect()
        };
        let (across, down) = (squares(columns, block.0), squares(rows, block.1));
        let mut weights = Vec::with_capacity(across.len() * down.len());
        for down in &down {
            let place = |across: &f32| match self.shape {
                Shape::Ellipse => across + down,
                Shape::Square => across.max(*down),
            };
            let row = across.iter().map(|across| {
                // 0 is at the edge and beyond.
                STEPS[((place(across) * STEPS_TO_EDGE as f32) as usize).min(STEPS_TO_EDGE)]
            });
            weights.extend(row);
        }
        if !others.is_empty() {
            self.divide(&mut weights, block, others);
        }
        weights
    }

    /// Takes the part of `others` from the weights. Row by row, and only where they show, for four faces on each other are a million
    /// blocks a frame.
    fn divide(&self, weights: &mut [u16], block: (u32, u32), others: &[Self]) {
        let [columns, rows] = self.sides();
        let others: Vec<Other> = others
            .iter()
            .map(|mask| Other::new(mask, columns, rows, block))
            .collect();
        let own = fixed(self.share);
        let wide = columns.length.div_ceil(block.0) as usize;
        let mut sums = vec![0u32; wide];
        for (at, weights) in weights.chunks_exact_mut(wide).enumerate() {
            let mut span = wide..0;
            for other in others.iter().filter(|other| other.down[at] < EDGE) {
                if span.is_empty() {
                    sums.fill(0);
                }
                span = span.start.min(other.span.start)..span.end.max(other.span.end);
                other.add(at, &mut sums[other.span.clone()]);
            }
            if !span.is_empty() {
                share_out(&mut weights[span.clone()], &sums[span], own);
            }
        }
    }

    /// Whether two crops have a pixel in common.
    pub fn touches(&self, other: &Self) -> bool {
        let apart = |a: u32, a_length: u32, b: u32, b_length: u32| a + a_length <= b || b + b_length <= a;
        let (a, b) = (self.crop.area, other.crop.area);
        !apart(a.x, a.width, b.x, b.width) && !apart(a.y, a.height, b.y, b.height)
    }
}

/// A share of one, of [`FULL`], rounded up: what is taken for others is never less than they take.
fn fixed(share: f64) -> u32 {
    (share * f64::from(FULL)).ceil() as u32
}

const EDGE: u32 = STEPS_TO_EDGE as u32;

/// The mask of another crop, by the blocks of one.
struct Other {
    shape: Shape,
    share: u32,
    /// Columns of blocks in which it shows.
    span: std::ops::Range<usize>,
    /// Squares of the ways of these columns, and of all rows, in steps.
    across: Vec<u32>,
    down: Vec<u32>,
}

impl Other {
    fn new(mask: &Mask, columns: Side, rows: Side, block: (u32, u32)) -> Self {
        let ways = |own: Side, block: u32, other: Side| -> Vec<u32> {
            let inside = f64::from(other.start)..=f64::from(other.start + other.length);
            let of = |at: u32| {
                let place = own.far(at, block);
                let steps = (other.way(place).powi(2) * STEPS_TO_EDGE as f64) as u32;
                if inside.contains(&place) { steps.min(EDGE) } else { EDGE }
            };
            (0..own.length.div_ceil(block)).map(of).collect()
        };
        let [across, down] = mask.sides();
        let across = ways(columns, block.0, across);
        let first = across.iter().position(|way| *way < EDGE).unwrap_or(0);
        let end = across
            .iter()
            .rposition(|way| *way < EDGE)
            .map_or(first, |last| last + 1);
        Self {
            shape: mask.shape,
            share: fixed(mask.share),
            span: first..end,
            across: across[first..end].to_vec(),
            down: ways(rows, block.1, down),
        }
    }

    /// Adds its weights in a row of blocks, with its share: of [`ALL`], so that those of all faces fit.
    fn add(&self, row: usize, sums: &mut [u32]) {
        let down = self.down[row];
        let steps: &[u16] = &STEPS;
        let weight = |way: u32| (u32::from(steps[way.min(EDGE) as usize]) * self.share).div_ceil(1 << 4);
        let pairs = sums.iter_mut().zip(&self.across);
        match self.shape {
            Shape::Ellipse => pairs.for_each(|(sum, across)| *sum += weight(across + down)),
            Shape::Square => pairs.for_each(|(sum, across)| *sum += weight(down.max(*across))),
        }
    }
}

/// A full weight with its full share, in sums: those of 64 faces and more fit in 32 bits.
const ALL: u32 = 1 << 24;

/// Weights shared with others, whose `sums` are of [`ALL`]. Rounded down, so that shares of one are not more than one together.
fn share_out(weights: &mut [u16], sums: &[u32], own: u32) {
    for (weight, sum) in weights.iter_mut().zip(sums) {
        let all = (u32::from(*weight) * own).div_ceil(1 << 4) + sum;
        let shared = f32::from(*weight) * (ALL as f32 / all.max(ALL) as f32);
        // To 32 bits first: CPUs convert to those many at once.
        *weight = shared as i32 as u16;
    }
}

/// A side of a crop, in pixels of the frame.
#[derive(Clone, Copy)]
struct Side {
    start: u32,
    length: u32,
    centre: f64,
    reach: f64,
}

impl Side {
    /// Share of the way from the centre to where nothing shows.
    fn way(self, at: f64) -> f64 {
        (at - self.centre).abs() / self.reach
    }

    /// The end of a block that is farther from the centre.
    fn far(self, index: u32, block: u32) -> f64 {
        let start = f64::from(self.start + index * block);
        let end = f64::from(self.start + ((index + 1) * block).min(self.length));
        if self.centre - start > end - self.centre {
            start
        } else {
            end
        }
    }
}

/// Weight at a share of the way to the edge.
fn soft_step(way: f64) -> f64 {
    let left = ((1.0 - way) / (1.0 - INNER)).clamp(0.0, 1.0);
    left * left * (3.0 - 2.0 * left)
}

/// Steps from the middle to the edge by the square of the way, each with the weight at its end.
const STEPS_TO_EDGE: usize = 4096;

static STEPS: LazyLock<Vec<u16>> = LazyLock::new(|| {
    let end = |step: usize| ((step + 1) as f64 / STEPS_TO_EDGE as f64).sqrt();
    let weight = |step| (soft_step(end(step)) * f64::from(FULL)) as u16;
    (0..=STEPS_TO_EDGE).map(weight).collect()
});

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::face::Rect;
    use crate::face::square::Cropper;
    use crate::scene::Area;

    /// Of a crop that is all in the frame.
    fn mask(shape: Shape, x: u32, y: u32, side: u32) -> Mask {
        let half = f64::from(side) / 2.0;
        Mask {
            shape,
            crop: Crop {
                area: Area {
                    x,
                    y,
                    width: side,
                    height: side,
                },
                centre: (f64::from(x) + half, f64::from(y) + half),
                reach: (half, half),
            },
            share: 1.0,
        }
    }

    #[test]
    fn full_in_the_middle_and_nothing_at_the_edge() {
        for shape in [Shape::Ellipse, Shape::Square] {
            let weights = mask(shape, 100, 100, 64).blocks((1, 1), &[]);
            let at = |x: usize, y: usize| weights[y * 64 + x];
            assert_eq!(at(32, 32), FULL);
            for edge in 0..64 {
                assert_eq!([at(0, edge), at(edge, 0), at(63, edge), at(edge, 63)], [0; 4]);
            }
            // The outermost steps cannot be seen.
            assert!(at(61, 32) < FULL / 10);
            // Never stronger farther out.
            assert!((32..63).all(|x| at(x, 32) >= at(x + 1, 32)));
        }
        let corner = |shape| mask(shape, 100, 100, 64).blocks((1, 1), &[])[9 * 64 + 9];
        assert_eq!(corner(Shape::Ellipse), 0);
        assert!(corner(Shape::Square) > FULL / 2);
    }

    #[test]
    fn the_frame_cuts_the_mask_of_a_face_at_its_edge() {
        let mut mask = mask(Shape::Ellipse, 0, 200, 64);
        mask.crop.centre.0 = 5.0;
        let weights = mask.blocks((2, 2), &[]);
        assert_eq!(weights[16 * 32], FULL, "left edge");
        assert_eq!(weights[16 * 32 + 31], 0, "right edge");
        assert_eq!(weights[16], 0, "top");
    }

    /// What leaves the frame step by step changes step by step.
    #[test]
    fn nothing_jumps_where_a_crop_comes_to_the_frames_edge() {
        let cropper = Cropper {
            frame: (640, 360),
            pixel_aspect: 1.0,
            aspect: 1.0,
            margin: 0.625,
            step: (2, 2),
        };
        for height in [80.0, 158.0, 160.0, 162.0, 240.0] {
            let mut last: Option<Vec<f64>> = None;
            for step in 0..400 {
                let face = Rect {
                    x: 300.0 - f64::from(step),
                    y: 180.0 - height / 2.0,
                    width: height * 0.75,
                    height: height + f64::from(step % 3) * 0.5,
                };
                let mask = Mask {
                    shape: Shape::Ellipse,
                    crop: cropper.crop(&face),
                    share: 1.0,
                };
                let places = (0..64).flat_map(|x| (0..36).map(move |y| (f64::from(x) * 10.0, f64::from(y) * 10.0)));
                let now: Vec<f64> = places.map(|(x, y)| mask.weight(x, y)).collect();
                if let Some(last) = last {
                    let jump = now.iter().zip(&last).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                    assert!(jump < 0.1, "height {height}, step {step}: {jump}");
                }
                last = Some(now);
            }
        }
    }

    /// A face that fades in beside another one takes its part as it does.
    #[test]
    fn who_fades_takes_a_part_that_fades() {
        let a = mask(Shape::Square, 100, 100, 64);
        let weight = |share: f64| {
            let other = Mask {
                share,
                ..mask(Shape::Square, 110, 100, 64)
            };
            a.blocks((1, 1), &[other])[32 * 64 + 32]
        };
        assert_eq!(weight(1.0), FULL / 2);
        assert_eq!(weight(1e-9), FULL - 1, "rounded down");
        let steps = [0.2, 0.4, 0.6, 0.8, 1.0].map(weight);
        assert!(
            steps
                .windows(2)
                .all(|pair| pair[0] > pair[1] && pair[0] - pair[1] < FULL / 5),
            "{steps:?}"
        );
    }

    #[test]
    fn a_block_has_the_least_weight_of_its_pixels() {
        for shape in [Shape::Ellipse, Shape::Square] {
            let mask = mask(shape, 10, 20, 63);
            let (fine, coarse) = (mask.blocks((1, 1), &[]), mask.blocks((4, 2), &[]));
            for (at, weight) in coarse.iter().enumerate() {
                let (row, column) = (at as u32 / 16 * 2, at as u32 % 16 * 4);
                let pixels = (row..(row + 2).min(63)).flat_map(|y| (column..(column + 4).min(63)).map(move |x| (x, y)));
                let least = pixels.map(|(x, y)| fine[(y * 63 + x) as usize]).min().unwrap();
                assert!(weight.abs_diff(least) <= 8, "{shape:?} {at}: {weight}, {least}");
            }
        }
    }

    #[test]
    fn crops_touch_where_they_share_a_pixel() {
        let a = mask(Shape::Square, 100, 100, 64);
        assert!(a.touches(&mask(Shape::Square, 163, 163, 10)));
        assert!(!a.touches(&mask(Shape::Square, 164, 100, 10)));
    }

    proptest! {
        /// Two masks on top of each other are never more than one.
        #[test]
        fn shared_weights_sum_to_one_at_most(x in 0u32..80, y in 0u32..80, square in any::<bool>()) {
            let shape = if square { Shape::Square } else { Shape::Ellipse };
            let (a, b) = (mask(shape, 40, 40, 64), mask(shape, x, y, 48));
            let (of_a, of_b) = (a.blocks((1, 1), &[b]), b.blocks((1, 1), &[a]));
            for py in y..y + 48 {
                for px in x..x + 48 {
                    let own = u32::from(of_b[((py - y) * 48 + px - x) as usize]);
                    let inside = (40..104).contains(&px) && (40..104).contains(&py);
                    let other = if inside { u32::from(of_a[((py - 40) * 64 + px - 40) as usize]) } else { 0 };
                    // The block's far edges differ by a pixel between the two.
                    prop_assert!(own + other <= u32::from(FULL) * 11 / 10, "{px} {py}: {own} + {other}");
                }
            }
        }
    }
}
