// SPDX-License-Identifier: MPL-2.0

//! Colours of a restored face matched to its surroundings: its low frequencies are those of the input.
//!
//! What a difference is in the large is the means of cells, between them interpolated. It is measured on the bundle's frame, and taken
//! out of the difference as it is scaled to the frame.

use multiversion::multiversion;

use crate::resample::Scale;

/// Cells across a frame, whose mean colours are kept: with head and shoulders in the frame, a cell is a seventh of a face high.
/// Whatever is wider than about two of them is the input's.
const CELLS: usize = 16;

/// Fractional bits of shares.
const SHARE_BITS: u32 = 15;

/// Cells along a side, and where samples are among them.
#[derive(Clone, Debug)]
pub struct Places {
    /// Source samples.
    from: usize,
    /// Those of a cell; the last may have fewer.
    cell: usize,
    cells: usize,
    /// For each sample the cells whose middles it lies between, and how far it is on the way.
    between: Vec<(usize, usize, i16)>,
}

impl Places {
    pub fn new(scale: &Scale) -> Self {
        let cell = scale.from.div_ceil(CELLS);
        let cells = scale.from.div_ceil(cell);
        let between = (0..scale.to()).map(|at| {
            let way = scale.centre(at) / cell as f64 - 0.5;
            let share = (way - way.floor()) * f64::from(1 << SHARE_BITS);
            let bounded = |cell: f64| cell.clamp(0.0, cells as f64 - 1.0) as usize;
            (bounded(way.floor()), bounded(way.floor() + 1.0), share as i16)
        });
        Self {
            from: scale.from,
            cell,
            cells,
            between: between.collect(),
        }
    }
}

/// What a plane of differences is in the large.
#[derive(Clone, Debug, Default)]
pub struct Low {
    means: Vec<i16>,
    sums: Vec<i32>,
    /// Every row of cells, between its middles, for each sample of a scaled row.
    wide: Vec<i16>,
    samples: usize,
}

impl Low {
    /// Measures a plane, whose values are at most 2^14 - 1 either way, as those of [`difference`](crate::difference).
    ///
    /// # Panics
    /// Panics if the plane is not of the places' size.
    pub fn measure(&mut self, plane: &[i16], across: &Places, down: &Places) {
        assert_eq!(plane.len(), across.from * down.from);
        self.means.clear();
        // Of columns, over the rows of a cell.
        self.sums.resize(across.from, 0);
        for lines in plane.chunks(across.from * down.cell) {
            self.sums.fill(0);
            for row in lines.chunks_exact(across.from) {
                add_up(row, &mut self.sums);
            }
            let height = lines.len() / across.from;
            for cell in self.sums.chunks(across.cell) {
                let sum: i64 = cell.iter().map(|sum| i64::from(*sum)).sum();
                self.means
                    .push((sum as f64 / (cell.len() * height) as f64).round() as i16);
            }
        }
        self.samples = across.between.len();
        self.wide.clear();
        for cells in self.means.chunks_exact(across.cells) {
            let values = across.between.iter();
            self.wide
                .extend(values.map(|(left, right, share)| between(cells[*left], cells[*right], *share)));
        }
    }

    /// Takes it out of a part of the scaled row `at`, which begins at sample `start`. Values may be farther out by a quarter, as a filter
    /// overshoots.
    pub fn remove(&self, at: usize, start: usize, down: &Places, row: &mut [i16]) {
        let (above, below, share) = down.between[at];
        let wide = |cells: usize| &self.wide[cells * self.samples + start..][..row.len()];
        take_out(wide(above), wide(below), share, row);
    }
}

#[multiversion(targets("x86_64+avx2"))]
fn add_up(row: &[i16], sums: &mut [i32]) {
    for (sum, value) in sums.iter_mut().zip(row) {
        *sum += i32::from(*value);
    }
}

#[multiversion(targets("x86_64+avx2"))]
fn take_out(above: &[i16], below: &[i16], share: i16, row: &mut [i16]) {
    for ((value, above), below) in row.iter_mut().zip(above).zip(below) {
        *value = value.saturating_sub(between(*above, *below, share));
    }
}

/// All in i16, of whose products every CPU gives the upper halves at once: means are no farther apart than it holds.
#[inline]
fn between(first: i16, second: i16, share: i16) -> i16 {
    first + 2 * ((i32::from(second - first) * i32::from(share)) >> (SHARE_BITS + 1)) as i16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A step of a difference.
    const STEP: i16 = 32;

    fn places(from: usize) -> Places {
        Places::new(&Scale {
            from,
            pixels: from,
            step: 1,
            is_cosited: false,
        })
    }

    /// What is left of a plane that is not scaled.
    fn left(mut plane: Vec<i16>, width: usize) -> Vec<i16> {
        let (across, down) = (places(width), places(plane.len() / width));
        let mut low = Low::default();
        low.measure(&plane, &across, &down);
        for (at, row) in plane.chunks_exact_mut(width).enumerate() {
            // In two parts.
            let (first, second) = row.split_at_mut(width / 3);
            low.remove(at, 0, &down, first);
            low.remove(at, width / 3, &down, second);
        }
        plane
    }

    #[test]
    fn another_colour_becomes_the_inputs() {
        let plane = left(vec![30 * STEP; 64 * 48], 64);
        assert!(plane.iter().all(|value| *value == 0));
    }

    #[test]
    fn a_slow_change_of_colour_becomes_the_inputs_too() {
        let plane = left((0..256 * 256).map(|at| (at % 256 / 8) as i16 * STEP).collect(), 256);
        // At the edges the last half cell is not extrapolated.
        let off = |from: usize, to: usize| plane[from..to].iter().map(|value| value.abs()).max().unwrap();
        assert!(off(8, 248) <= STEP, "{}", off(8, 248));
        assert!(off(0, 256) <= 2 * STEP, "{}", off(0, 256));
    }

    #[test]
    fn detail_stays() {
        let detail: Vec<i16> = (0..256 * 256)
            .map(|at| if at % 2 == 0 { 20 } else { -20 } * STEP)
            .collect();
        assert!(left(detail.clone(), 256) == detail);
    }

    /// Cells of a scaled row are where those of the plane are.
    #[test]
    fn a_scaled_ramp_is_taken_out_as_well() {
        let value = |place: f64| 20.0 * place;
        let plane: Vec<i16> = (0..256 * 16).map(|at| value((at % 256) as f64) as i16).collect();
        for (pixels, step) in [(300, 1), (300, 2), (70, 1)] {
            let scale = Scale {
                from: 256,
                pixels,
                step,
                is_cosited: false,
            };
            let (across, down) = (Places::new(&scale), places(16));
            let mut low = Low::default();
            low.measure(&plane, &across, &down);
            let mut row: Vec<i16> = (0..scale.to()).map(|at| value(scale.centre(at) - 0.5) as i16).collect();
            low.remove(3, 0, &down, &mut row);
            let inner = &row[row.len() / 16..row.len() - row.len() / 16];
            assert!(inner.iter().all(|value| value.abs() <= 3), "{pixels} {step}: {inner:?}");
        }
    }

    proptest! {
        #[test]
        fn what_did_not_change_is_not_changed_and_the_rest_fits(
            width in 1usize..70, height in 1usize..40, values in proptest::collection::vec(prop::sample::select(vec![-16320i16, 0, 16320]), 1..9),
        ) {
            prop_assert!(left(vec![0; width * height], width).iter().all(|value| *value == 0));
            // Overflow panics in tests.
            left((0..width * height).map(|at| values[at % values.len()]).collect(), width);
        }
    }
}
