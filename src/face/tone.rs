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
    // Every row of cells, between its middles, for each value of a row of pixels.
    let row_cells = columns.cells * 3;
    let wide: Vec<Vec<i16>> = cells
        .chunks_exact(row_cells)
        .map(|cells| {
            let places = (0..width).flat_map(|x| (0..3).map(move |channel| (x, channel)));
            let value = |(x, channel)| {
                let (left, right, share) = columns.places[x];
                between(cells[left * 3 + channel], cells[right * 3 + channel], share)
            };
            places.map(value).collect()
        })
        .collect();
    for (y, restored) in restored.chunks_exact_mut(width * 3).enumerate() {
        let (above, below, share) = rows.places[y];
        for ((value, above), below) in restored.iter_mut().zip(&wide[above]).zip(&wide[below]) {
            let low = between(*above, *below, share);
            *value = (i16::from(*value) - ((low + HALF) >> BITS)).clamp(0, 255) as u8;
        }
    }
}

/// All in i16, whose products vectorise on every CPU: means of at most 255 with [`BITS`] fractional bits are no farther apart than
/// it holds.
fn between(first: i16, second: i16, share: i16) -> i16 {
    first + ((i32::from(second - first) * i32::from(share)) >> SHARE_BITS) as i16
}

/// Fractional bits of means, which are at most 255 and so stay within 16 bits.
const BITS: u32 = 6;
const HALF: i16 = 1 << (BITS - 1);
/// Fractional bits of shares.
const SHARE_BITS: u32 = 10;

/// Mean of `restored` - `seen` in every cell, for each channel, with [`BITS`] fractional bits.
fn differences(seen: &[u8], restored: &[u8], columns: &Axis, rows: &Axis) -> Vec<i16> {
    let row_bytes = columns.length * 3;
    let mut means = Vec::with_capacity(columns.cells * rows.cells * 3);
    // Sums of columns, over the rows of a cell.
    let mut sums = vec![0i32; row_bytes];
    let lines = seen
        .chunks(row_bytes * rows.cell)
        .zip(restored.chunks(row_bytes * rows.cell));
    for (seen, restored) in lines {
        sums.fill(0);
        for (seen, restored) in seen.chunks_exact(row_bytes).zip(restored.chunks_exact(row_bytes)) {
            for ((sum, seen), restored) in sums.iter_mut().zip(seen).zip(restored) {
                *sum += i32::from(i16::from(*restored) - i16::from(*seen));
            }
        }
        let height = seen.len() / row_bytes;
        for cell in sums.chunks(columns.cell * 3) {
            let pixels = (cell.len() / 3 * height) as i64;
            for channel in 0..3 {
                let sum: i64 = cell.iter().skip(channel).step_by(3).map(|sum| i64::from(*sum)).sum();
                means.push(((sum << BITS) / pixels) as i16);
            }
        }
    }
    means
}

/// Cells along a side.
struct Axis {
    length: usize,
    /// Pixels of a cell; the last may have fewer.
    cell: usize,
    cells: usize,
    /// For each pixel the cells whose middles it lies between, and how far it is on the way.
    places: Vec<(usize, usize, i16)>,
}

impl Axis {
    fn new(length: usize) -> Self {
        let cell = length.div_ceil(CELLS).max(1);
        let cells = length.div_ceil(cell);
        let places = (0..length).map(|at| {
            // In half pixels, so that middles are whole numbers.
            let way = (2 * at + 1) as i64 - cell as i64;
            let first = way.div_euclid(2 * cell as i64);
            let share = (way.rem_euclid(2 * cell as i64) << SHARE_BITS) / (2 * cell as i64);
            let bounded = |cell: i64| cell.clamp(0, cells as i64 - 1) as usize;
            (bounded(first), bounded(first + 1), share as i16)
        });
        Self {
            length,
            cell,
            cells,
            places: places.collect(),
        }
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
