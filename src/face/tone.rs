//! Colours of a restored face matched to its surroundings: its low frequencies are those of the input.

/// Cells across a frame, whose mean colours are kept: with head and shoulders in the frame, a cell is a seventh of a face high.
/// Whatever is wider than about two of them is the input's.
const CELLS: usize = 16;

/// Takes out of `restored` what is different from `seen` in the large: the difference of the cells' means, between them
/// interpolated. Both are packed RGB, [H, W, 3], with rows of `width` pixels.
///
/// # Panics
/// Panics if the two are not of the same size, or no whole rows.
pub fn match_low_frequencies(seen: &[u8], restored: &mut [u8], width: usize) {
    assert!(seen.len() == restored.len() && seen.len().is_multiple_of(width * 3));
    let height = seen.len() / 3 / width;
    let (columns, rows) = (Axis::new(width), Axis::new(height));
    let cells = differences(seen, restored, &columns, &rows);
    let row_cells = columns.cells * 3;
    let mut line = vec![0i32; row_cells];
    for (y, (restored, _)) in restored
        .chunks_exact_mut(width * 3)
        .zip(seen.chunks_exact(width * 3))
        .enumerate()
    {
        let (above, below, share) = rows.between(y);
        for (at, value) in line.iter_mut().enumerate() {
            let (above, below) = (cells[above * row_cells + at], cells[below * row_cells + at]);
            *value = above + (((below - above) * share) >> BITS);
        }
        for (x, pixel) in restored.chunks_exact_mut(3).enumerate() {
            let (left, right, share) = columns.between(x);
            for (channel, value) in pixel.iter_mut().enumerate() {
                let (left, right) = (line[left * 3 + channel], line[right * 3 + channel]);
                let low = left + (((right - left) * share) >> BITS);
                *value = (i32::from(*value) - ((low + HALF) >> BITS)).clamp(0, 255) as u8;
            }
        }
    }
}

/// Fractional bits of means and shares: products of two stay within 32 bits.
const BITS: u32 = 10;
const HALF: i32 = 1 << (BITS - 1);

/// Mean of `restored` - `seen` in every cell, for each channel, with [`BITS`] fractional bits.
fn differences(seen: &[u8], restored: &[u8], columns: &Axis, rows: &Axis) -> Vec<i32> {
    let row_cells = columns.cells * 3;
    let mut sums = vec![0i32; row_cells * rows.cells];
    let row_bytes = columns.length * 3;
    let lines = seen.chunks_exact(row_bytes).zip(restored.chunks_exact(row_bytes));
    for (y, (seen, restored)) in lines.enumerate() {
        let sums = &mut sums[y / rows.cell * row_cells..][..row_cells];
        let cells = seen.chunks(columns.cell * 3).zip(restored.chunks(columns.cell * 3));
        for (sum, (seen, restored)) in sums.chunks_exact_mut(3).zip(cells) {
            for (seen, restored) in seen.chunks_exact(3).zip(restored.chunks_exact(3)) {
                for channel in 0..3 {
                    sum[channel] += i32::from(restored[channel]) - i32::from(seen[channel]);
                }
            }
        }
    }
    for (at, sum) in sums.iter_mut().enumerate() {
        let pixels = columns.pixels(at % row_cells / 3) * rows.pixels(at / row_cells);
        *sum = ((i64::from(*sum) << BITS) / pixels as i64) as i32;
    }
    sums
}

/// Cells along a side.
struct Axis {
    length: usize,
    /// Pixels of a cell; the last may have fewer.
    cell: usize,
    cells: usize,
    /// For each pixel the cells whose middles it lies between, and how far it is on the way.
    places: Vec<(usize, usize, i32)>,
}

impl Axis {
    fn new(length: usize) -> Self {
        let cell = length.div_ceil(CELLS).max(1);
        let cells = length.div_ceil(cell);
        let places = (0..length).map(|at| {
            // In half pixels, so that middles are whole numbers.
            let way = (2 * at + 1) as i64 - cell as i64;
            let first = way.div_euclid(2 * cell as i64);
            let share = (way.rem_euclid(2 * cell as i64) << BITS) / (2 * cell as i64);
            let bounded = |cell: i64| cell.clamp(0, cells as i64 - 1) as usize;
            (bounded(first), bounded(first + 1), share as i32)
        });
        Self {
            length,
            cell,
            cells,
            places: places.collect(),
        }
    }

    fn between(&self, at: usize) -> (usize, usize, i32) {
        self.places[at]
    }

    /// Pixels of a cell along the side.
    fn pixels(&self, cell: usize) -> usize {
        self.cell.min(self.length - cell * self.cell)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ramp(width: usize, height: usize) -> Vec<u8> {
        (0..width * height * 3)
            .map(|at| (40 + at / 3 % width * 90 / width) as u8)
            .collect()
    }

    #[test]
    fn another_colour_becomes_the_inputs() {
        let seen = ramp(64, 48);
        let mut restored: Vec<u8> = seen
            .iter()
            .enumerate()
            .map(|(at, value)| value + [30, 5, 0][at % 3])
            .collect();
        match_low_frequencies(&seen, &mut restored, 64);
        assert!(restored.iter().zip(&seen).all(|(a, b)| a.abs_diff(*b) <= 1));
    }

    #[test]
    fn a_slow_change_of_colour_becomes_the_inputs_too() {
        let seen = vec![100; 256 * 256 * 3];
        let mut restored: Vec<u8> = (0..256 * 256 * 3).map(|at| (100 + at / 3 % 256 / 8) as u8).collect();
        match_low_frequencies(&seen, &mut restored, 256);
        // At the edges the last half cell is not extrapolated.
        let off = |from: usize, to: usize| {
            let row = restored[from * 3..to * 3].iter();
            row.map(|value| value.abs_diff(100)).max().unwrap()
        };
        assert!(off(8, 248) <= 1, "{}", off(8, 248));
        assert!(off(0, 256) <= 2, "{}", off(0, 256));
    }

    #[test]
    fn detail_stays() {
        let seen = vec![100; 256 * 256 * 3];
        let detail: Vec<u8> = (0..256 * 256 * 3)
            .map(|at| if at / 3 % 2 == 0 { 120 } else { 80 })
            .collect();
        let mut restored = detail.clone();
        match_low_frequencies(&seen, &mut restored, 256);
        assert!(restored == detail);
    }

    proptest! {
        #[test]
        fn what_did_not_change_is_not_changed(width in 1usize..70, height in 1usize..40, seed in any::<u8>()) {
            let seen: Vec<u8> = (0..width * height * 3).map(|at| (at * 7) as u8 ^ seed).collect();
            let mut restored = seen.clone();
            match_low_frequencies(&seen, &mut restored, width);
            prop_assert_eq!(restored, seen);
        }
    }
}
