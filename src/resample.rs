// SPDX-License-Identifier: MPL-2.0

//! Scaling of differences along one axis, in 16 bits: rows are combined down the picture first, which vectorises, and then across.
//!
//! The filter is Catmull-Rom, which leaves alone what is not scaled; for chroma, and where a picture gets smaller than four fifths, a
//! triangle as wide as the step. Taps sum to exactly 1, so that one value everywhere stays that value. Beyond the edge is what is at
//! the edge.

use multiversion::multiversion;

/// Fractional bits of taps.
const BITS: u32 = 14;
const ONE: i32 = 1 << BITS;

/// Taps are stored in groups, so that loops have a fixed length.
const GROUP: usize = 4;

/// From here on source samples per target sample are more than a filter of fixed width can see.
const TOO_SMALL: f64 = 1.25;

/// Where each sample along an axis comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// Taps of a sample: 1, where nothing is scaled, or whole groups.
    taps: usize,
    /// First source sample of each sample.
    starts: Vec<usize>,
    /// Shares of the source samples, of [`ONE`], sample by sample.
    shares: Vec<i16>,
    /// Source samples.
    from: usize,
}

/// Memory for the way of rows, whatever their axis.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// What the taps of each sample see.
    seen: Vec<[i16; GROUP]>,
    sums: Vec<i32>,
}

/// How one axis of a picture lies on another.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Source samples.
    pub from: usize,
    /// Pixels on the same way; the last sample may stick out.
    pub pixels: usize,
    /// Pixels that share a sample.
    pub step: usize,
    /// A sample is that of its first pixel, and not of the middle of all.
    pub is_cosited: bool,
}

impl Scale {
    /// Samples.
    pub fn to(&self) -> usize {
        self.pixels.div_ceil(self.step)
    }

    /// The middle of a sample, in source samples from the edge on.
    pub fn centre(&self, at: usize) -> f64 {
        let middle = if self.is_cosited { 0.5 } else { self.step as f64 / 2.0 };
        ((at * self.step) as f64 + middle) * self.from as f64 / self.pixels as f64
    }
}

impl Axis {
    /// # Panics
    /// Panics where a side is empty.
    pub fn new(scale: &Scale) -> Self {
        let Scale { from, pixels, step, .. } = *scale;
        assert!(from > 0 && pixels > 0 && step > 0);
        let to = scale.to();
        if step == 1 && from == pixels {
            return Self {
                taps: 1,
                starts: (0..to).collect(),
                shares: vec![0; to],
                from,
            };
        }
        let stretch = (from * step) as f64 / pixels as f64;
        let kernel = Kernel::new(step == 1 && stretch < TOO_SMALL, stretch);
        // At its reach a kernel is 0.
        let taps = ((2.0 * kernel.reach).ceil() as usize).next_multiple_of(GROUP);
        let (mut starts, mut shares) = (Vec::with_capacity(to), Vec::with_capacity(to * taps));
        for at in 0..to {
            let centre = scale.centre(at) - 0.5;
            let first = (centre - kernel.reach).floor() as i64 + 1;
            let start = first.clamp(0, from.saturating_sub(taps) as i64) as usize;
            let mut weights = vec![0.0; taps];
            for tap in first..first + taps as i64 {
                let place = tap.clamp(0, from as i64 - 1) as usize - start;
                // Beyond the edge the weights of many taps add up at it.
                weights[place] += kernel.at(tap as f64 - centre);
            }
            starts.push(start);
            shares.extend(whole(&weights));
        }
        Self {
            taps,
            starts,
            shares,
            from,
        }
    }

    /// Samples.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// The source samples behind the samples `span`.
    pub fn sources(&self, span: &std::ops::Range<usize>) -> std::ops::Range<usize> {
        if span.is_empty() {
            return 0..0;
        }
        self.starts[span.start]..(self.starts[span.end - 1] + self.taps).min(self.from)
    }

    /// Combines rows of `width` values of `plane`, [`Scale::from`] of them, to the row `at`, of which only the values `columns` are
    /// written. `memory` is for the way.
    ///
    /// # Panics
    /// Panics where the plane has fewer rows, or `out` another width.
    pub fn down(
        &self,
        at: usize,
        plane: &[i16],
        width: usize,
        columns: std::ops::Range<usize>,
        memory: &mut Memory,
        out: &mut [i16],
    ) {
        assert_eq!(out.len(), width);
        let out = &mut out[columns.clone()];
        let row = |row: usize| &plane[row.min(self.from - 1) * width..][columns.clone()];
        if self.taps == 1 {
            out.copy_from_slice(row(self.starts[at]));
            return;
        }
        let groups = self.shares[at * self.taps..][..self.taps].as_chunks().0;
        let sums = &mut memory.sums;
        sums.clear();
        for (group, shares) in groups.iter().enumerate() {
            let start = self.starts[at] + group * GROUP;
            let rows = [0, 1, 2, 3].map(|tap| row(start + tap));
            match groups {
                [_] => combine(rows, shares, out),
                _ => {
                    sums.resize(out.len(), 0);
                    add_up(rows, shares, sums);
                }
            }
        }
        for (out, sum) in out.iter_mut().zip(sums.iter()) {
            *out = rounded(*sum);
        }
    }

    /// Length of the rows that [`across`](Self::across) takes: [`Scale::from`] values, and what taps reach beyond, which counts
    /// nothing.
    pub fn row_length(&self) -> usize {
        self.from.max(self.taps)
    }

    /// Writes the samples `span` of a row. `memory` is for the way.
    ///
    /// # Panics
    /// Panics where the row is shorter than [`row_length`](Self::row_length).
    pub fn across(&self, row: &[i16], span: std::ops::Range<usize>, memory: &mut Memory, out: &mut Vec<i16>) {
        assert_eq!(row.len(), self.row_length());
        out.clear();
        let starts = self.starts[span.clone()].iter();
        let shares = &self.shares[span.start * self.taps..span.end * self.taps];
        match self.taps {
            1 => out.extend_from_slice(&row[span]),
            GROUP => four_across(row, &self.starts[span], shares, memory, out),
            taps => out.extend(starts.zip(shares.chunks_exact(taps)).map(|(start, shares)| {
                let values = row[*start..start + taps].as_chunks().0;
                let groups = values.iter().zip(shares.as_chunks().0);
                rounded(groups.map(|(values, shares)| four(values, shares)).sum())
            })),
        }
    }
}

/// Four rows, each with a share, to one.
#[multiversion(targets("x86_64+avx2"))]
fn combine(rows: [&[i16]; GROUP], shares: &[i16; GROUP], out: &mut [i16]) {
    let [a, b, c, d] = rows.map(|row| row.iter());
    for (out, ((a, b), (c, d))) in out.iter_mut().zip(a.zip(b).zip(c.zip(d))) {
        *out = rounded(four(&[*a, *b, *c, *d], shares));
    }
}

/// The same, not rounded, on top of what is in `sums`.
#[multiversion(targets("x86_64+avx2"))]
fn add_up(rows: [&[i16]; GROUP], shares: &[i16; GROUP], sums: &mut [i32]) {
    let [a, b, c, d] = rows.map(|row| row.iter());
    for (sum, ((a, b), (c, d))) in sums.iter_mut().zip(a.zip(b).zip(c.zip(d))) {
        *sum += four(&[*a, *b, *c, *d], shares);
    }
}

/// Samples of four taps each, in steps that vectorise: what the taps see side by side, products in pairs, and their sums.
#[multiversion(targets("x86_64+avx2"))]
fn four_across(row: &[i16], starts: &[usize], shares: &[i16], memory: &mut Memory, out: &mut Vec<i16>) {
    let Memory { seen, sums } = memory;
    seen.clear();
    seen.extend(starts.iter().map(|start| taps_at(row, *start)));
    sums.resize(2 * seen.len(), 0);
    let pairs = seen.as_flattened().as_chunks().0.iter().zip(shares.as_chunks().0);
    for (sum, ([a, b], [c, d])) in sums.iter_mut().zip(pairs) {
        *sum = i32::from(*a) * i32::from(*c) + i32::from(*b) * i32::from(*d);
    }
    out.extend(sums.as_chunks().0.iter().map(|[first, second]| rounded(first + second)));
}

#[inline]
fn four(values: &[i16; GROUP], shares: &[i16; GROUP]) -> i32 {
    let product = |at: usize| i32::from(values[at]) * i32::from(shares[at]);
    (product(0) + product(1)) + (product(2) + product(3))
}

#[inline]
fn taps_at(row: &[i16], start: usize) -> [i16; GROUP] {
    *row[start..].first_chunk().expect("taps are within the row")
}

/// Sums are never out of range; bounded all the same, which packs faster than cut off bits.
#[inline]
fn rounded(sum: i32) -> i16 {
    ((sum + ONE / 2) >> BITS).clamp(i16::MIN.into(), i16::MAX.into()) as i16
}

/// A filter around 0, with values up to `reach`.
struct Kernel {
    is_cubic: bool,
    reach: f64,
}

impl Kernel {
    fn new(is_cubic: bool, stretch: f64) -> Self {
        let reach = if is_cubic { 2.0 } else { stretch.max(1.0) };
        Self { is_cubic, reach }
    }

    fn at(&self, x: f64) -> f64 {
        let x = x.abs();
        match (self.is_cubic, x) {
            (true, x) if x < 1.0 => 1.0 + x * x * (1.5 * x - 2.5),
            (true, x) if x < 2.0 => 2.0 + x * (x * (2.5 - 0.5 * x) - 4.0),
            (true, _) => 0.0,
            (false, x) => (1.0 - x / self.reach).max(0.0),
        }
    }
}

/// Shares of [`ONE`] in whole numbers, which sum to it.
fn whole(weights: &[f64]) -> Vec<i16> {
    let sum: f64 = weights.iter().sum();
    let mut shares: Vec<i32> = weights
        .iter()
        .map(|weight| (weight / sum * f64::from(ONE)).round() as i32)
        .collect();
    let rest = ONE - shares.iter().sum::<i32>();
    if let Some(largest) = shares.iter_mut().max() {
        *largest += rest;
    }
    shares.iter().map(|share| *share as i16).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn axis(from: usize, pixels: usize, step: usize, is_cosited: bool) -> Axis {
        Axis::new(&Scale {
            from,
            pixels,
            step,
            is_cosited,
        })
    }

    /// Both ways over a row that is given, of all samples.
    fn scaled(axis: &Axis, values: &[i16]) -> [Vec<i16>; 2] {
        let mut row = values.to_vec();
        row.resize(axis.row_length(), 99);
        let mut across = Vec::new();
        axis.across(&row, 0..axis.len(), &mut Memory::default(), &mut across);
        // A column is a plane of width 1.
        let down = (0..axis.len())
            .map(|at| {
                let mut out = [0];
                axis.down(at, values, 1, 0..1, &mut Memory::default(), &mut out);
                out[0]
            })
            .collect();
        [across, down]
    }

    #[test]
    fn what_is_not_scaled_stays() {
        let values: Vec<i16> = (0..50).map(|at| at * at - 700).collect();
        for out in scaled(&axis(50, 50, 1, false), &values) {
            assert_eq!(out, values);
        }
    }

    /// A ramp is the same ramp at the places of the new samples.
    #[test]
    fn samples_are_where_they_belong() {
        let value = |place: f64| 40.0 * place;
        for (from, pixels, step, is_cosited) in [
            (64, 80, 1, false),
            (64, 60, 1, false),
            (64, 25, 1, false),
            (64, 72, 2, false),
            (64, 72, 2, true),
            (64, 71, 2, true),
            (64, 64, 4, false),
            (64, 700, 1, false),
        ] {
            let values: Vec<i16> = (0..from).map(|at| value(at as f64) as i16).collect();
            let axis = axis(from, pixels, step, is_cosited);
            assert_eq!(axis.len(), pixels.div_ceil(step));
            for out in scaled(&axis, &values) {
                for (at, found) in out.iter().enumerate() {
                    let pixel = (at * step) as f64 + if is_cosited { 0.5 } else { step as f64 / 2.0 };
                    let place = pixel * from as f64 / pixels as f64 - 0.5;
                    // A triangle of any width is off by less than a tenth of a sample; near the edges it is flat beyond.
                    let margin = 2.0 * step as f64 * from as f64 / pixels as f64 + 2.0;
                    if place > margin && place < from as f64 - 1.0 - margin {
                        let off = (f64::from(*found) - value(place)).abs();
                        assert!(off <= 4.0, "{from} to {pixels} by {step}, sample {at}: {off}");
                    }
                }
            }
        }
    }

    #[test]
    fn fine_detail_does_not_alias_where_it_gets_small() {
        let values: Vec<i16> = (0..512).map(|at| if at % 2 == 0 { 1000 } else { -1000 }).collect();
        for pixels in [100, 170, 250] {
            for out in scaled(&axis(512, pixels, 1, false), &values) {
                let inner = &out[3..out.len() - 3];
                assert!(inner.iter().all(|value| value.abs() < 160), "{pixels}: {inner:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn one_value_stays_that_value(
            (from, pixels) in (1usize..90, 1usize..90), step in prop::sample::select(vec![1usize, 2, 4]), cosited in any::<bool>(),
            value in -16000i16..16000,
        ) {
            let axis = axis(from, pixels, step, cosited);
            for out in scaled(&axis, &vec![value; from]) {
                prop_assert_eq!(out, vec![value; pixels.div_ceil(step)]);
            }
        }

        #[test]
        fn both_ways_are_alike_and_bounded(values in proptest::collection::vec(-16320i16..16320, 1..70), pixels in 1usize..120) {
            let axis = axis(values.len(), pixels, 1, false);
            let [across, down] = scaled(&axis, &values);
            prop_assert_eq!(&across, &down);
            // What the cubic overshoots, a quarter, fits.
            prop_assert!(across.iter().all(|value| value.unsigned_abs() <= 20400 + 16));
        }
    }
}
