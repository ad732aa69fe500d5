// SPDX-License-Identifier: MPL-2.0

//! Memory of a run's last frames, and the cross-fade of two restored frames.

use super::{Plan, WindowShape};

/// The frames of the window that is being filled, and the context that the run's last window may need.
///
/// Frames are `frame_bytes` bytes each, in any packed format. The memory is T + S frames, allocated once. Two windows in
/// a row lie at 0 and at S, so they share their O frames in place. Every second window starts over at 0, which copies
/// O frames (T of them if 2 * O = T). Older frames are overwritten only when not even the run's last window needs them.
#[derive(Debug)]
pub struct FrameStore {
    shape: WindowShape,
    frame_bytes: usize,
    bytes: Vec<u8>,
    /// Where the current window starts, in frames: 0 or S.
    base: usize,
    /// Frames of the current window that are there.
    filled: usize,
    /// Frames of the run so far.
    committed: u64,
}

/// Why a [`FrameStore`] cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("{frames} frames of {frame_bytes} bytes are more than an address can reach")]
    TooLarge { frames: usize, frame_bytes: usize },
    #[error("no memory for {bytes} bytes ({frames} frames of {frame_bytes} bytes)")]
    OutOfMemory {
        frames: usize,
        frame_bytes: usize,
        bytes: usize,
    },
}

impl FrameStore {
    /// Memory for windows of `shape`, frames of `frame_bytes` bytes.
    ///
    /// # Errors
    /// Fails if T + S frames are more than `usize` holds, or than the machine gives.
    pub fn new(shape: WindowShape, frame_bytes: usize) -> Result<Self, StoreError> {
        let frames = shape.frames().saturating_add(shape.stride());
        let Some(bytes) = frames.checked_mul(frame_bytes) else {
            return Err(StoreError::TooLarge { frames, frame_bytes });
        };
        let mut memory = Vec::new();
        memory.try_reserve_exact(bytes).map_err(|_| StoreError::OutOfMemory {
            frames,
            frame_bytes,
            bytes,
        })?;
        memory.resize(bytes, 0);
        Ok(Self {
            shape,
            frame_bytes,
            bytes: memory,
            base: 0,
            filled: 0,
            committed: 0,
        })
    }

    /// Memory of the next frame, `frame_bytes` long. The caller writes all of it, then calls [`commit`](Self::commit).
    /// Its content before that is undefined. Without `commit` the next call gives the same memory again.
    #[expect(
        clippy::should_implement_trait,
        reason = "it lends memory of the store, so it cannot be an iterator"
    )]
    pub fn next(&mut self) -> &mut [u8] {
        if self.filled == self.shape.frames() {
            self.start_next_window();
        }
        let at = self.base + self.filled;
        let range = self.byte_range(at, at + 1);
        &mut self.bytes[range]
    }

    /// Takes what was written to [`next`](Self::next) as the run's next frame.
    pub fn commit(&mut self) {
        if self.filled == self.shape.frames() {
            self.start_next_window();
        }
        self.filled += 1;
        self.committed += 1;
    }

    /// The frames of `plan`, T * `frame_bytes` bytes in one piece. After the last real frame it repeats.
    ///
    /// # Panics
    /// Panics if `plan` does not end with the last frame committed: plan and store then belong to different runs.
    pub fn window(&mut self, plan: &Plan) -> &[u8] {
        assert_eq!(
            plan.first + plan.real as u64,
            self.committed,
            "the window does not end with the last frame stored"
        );
        let frames = self.shape.frames();
        if plan.real < frames {
            // Only a run's only window is short, so it lies at 0.
            let last = self.byte_range(plan.real - 1, plan.real);
            for slot in plan.real..frames {
                self.bytes.copy_within(last.clone(), slot * self.frame_bytes);
            }
            return &self.bytes[self.byte_range(0, frames)];
        }
        let older = frames - self.filled;
        if self.base < older {
            // The window lies at 0 and the context before it at the end of the window at S: bring them together. This
            // moves 2 S frames, once in a run.
            let stride = self.shape.stride();
            let all = self.byte_range(0, 2 * stride);
            self.bytes[all].rotate_right(older * self.frame_bytes);
            self.filled = frames;
            return &self.bytes[self.byte_range(0, frames)];
        }
        let start = self.base - older;
        &self.bytes[self.byte_range(start, start + frames)]
    }

    /// The frame `back` frames before the last one committed, one of the current window's.
    pub fn recent(&self, back: usize) -> &[u8] {
        debug_assert!(back < self.filled, "frame {back} is not in the current window");
        let at = self.base + self.filled - 1 - back;
        &self.bytes[self.byte_range(at, at + 1)]
    }

    /// Forgets the frames: the next one is frame 0 of a new run. To be called whenever a run ends.
    pub fn reset(&mut self) {
        self.base = 0;
        self.filled = 0;
        self.committed = 0;
    }

    /// Makes the last O frames of the full current window the first O of the next one.
    fn start_next_window(&mut self) {
        let (stride, overlap) = (self.shape.stride(), self.shape.overlap());
        if self.base == 0 {
            self.base = stride;
        } else if overlap == stride {
            // At 0 the next frame would be written over context that the last window may need. Stay at S instead.
            let window = self.byte_range(stride, stride + self.shape.frames());
            self.bytes.copy_within(window, 0);
        } else {
            let shared = self.byte_range(2 * stride, 2 * stride + overlap);
            self.bytes.copy_within(shared, 0);
            self.base = 0;
        }
        self.filled = overlap;
    }

    fn byte_range(&self, start: usize, end: usize) -> std::ops::Range<usize> {
        start * self.frame_bytes..end * self.frame_bytes
    }
}

/// Blends two restored frames: `out` = `old` * (1 - `weight`) + `new` * `weight`, rounded to nearest.
///
/// Fixed point with 14 fractional bits, so the result is the same on every machine. A weight of 0 gives `old` and a
/// weight of 1 gives `new` bit for bit. Weights outside 0..=1 are clamped.
///
/// # Panics
/// Panics if the three lengths differ.
pub fn cross_fade(old: &[u8], new: &[u8], weight: f32, out: &mut [u8]) {
    // With 14 bits the weights are i16, whose products vectorise on every CPU. Those of u32 do not on plain x86-64.
    const BITS: u32 = 14;
    const ONE: i16 = 1 << BITS;
    assert!(
        old.len() == new.len() && old.len() == out.len(),
        "frames of different sizes"
    );
    let weight_new = (weight.clamp(0.0, 1.0) * f32::from(ONE)).round() as i16;
    let weight_old = ONE - weight_new;
    for ((out, &old), &new) in out.iter_mut().zip(old).zip(new) {
        let product = |value: u8, weight: i16| i32::from(i16::from(value)) * i32::from(weight);
        let sum = product(old, weight_old) + product(new, weight_new);
        *out = ((sum + i32::from(ONE / 2)) >> BITS) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Planner, Tail};
    use super::*;

    fn shape(frames: usize, overlap: usize) -> WindowShape {
        WindowShape::new(frames, overlap).unwrap()
    }

    /// Windows of `count` frames whose only byte is their run index.
    fn windows(shape: WindowShape, count: u8) -> Vec<Vec<u8>> {
        let mut store = FrameStore::new(shape, 1).unwrap();
        let mut planner = Planner::new(shape);
        let mut windows = Vec::new();
        for frame in 0..count {
            store.next()[0] = frame;
            store.commit();
            if let Some(plan) = planner.push() {
                windows.push(store.window(&plan).to_vec());
            }
        }
        if let Tail::Window(plan) = planner.finish() {
            windows.push(store.window(&plan).to_vec());
            // A second look at the last window must find the same frames.
            windows.dedup();
            assert_eq!(store.window(&plan), windows.last().unwrap());
        }
        windows
    }

    #[test]
    fn windows_hold_their_frames() {
        assert_eq!(windows(shape(5, 2), 2), [[0, 1, 1, 1, 1]]);
        assert_eq!(windows(shape(5, 2), 8), [[0, 1, 2, 3, 4], [3, 4, 5, 6, 7]]);
        assert_eq!(windows(shape(5, 2), 7), [[0, 1, 2, 3, 4], [2, 3, 4, 5, 6]]);
        assert_eq!(
            windows(shape(5, 2), 9),
            [[0, 1, 2, 3, 4], [3, 4, 5, 6, 7], [4, 5, 6, 7, 8]]
        );
        assert_eq!(
            windows(shape(4, 0), 10),
            [[0, 1, 2, 3], [4, 5, 6, 7], [6, 7, 8, 9]],
            "no overlap"
        );
        assert_eq!(windows(shape(1, 0), 3), [[0], [1], [2]]);
        assert_eq!(windows(shape(2, 1), 4), [[0, 1], [1, 2], [2, 3]]);
    }

    #[test]
    fn uncommitted_frame_is_overwritten() {
        let mut store = FrameStore::new(shape(1, 0), 2).unwrap();
        let mut planner = Planner::new(shape(1, 0));
        for frame in 0..4 {
            store.next().fill(99);
            store.next().fill(frame);
            store.commit();
            let plan = planner.push().unwrap();
            assert_eq!(store.window(&plan), [frame; 2]);
        }
    }

    #[test]
    #[should_panic(expected = "does not end with the last frame stored")]
    fn plan_of_another_run_is_refused() {
        let plan = Planner::new(shape(1, 0)).push().unwrap();
        FrameStore::new(shape(1, 0), 1).unwrap().window(&plan);
    }

    #[test]
    fn impossible_sizes_are_errors() {
        let error = FrameStore::new(shape(17, 4), usize::MAX / 2).unwrap_err();
        assert!(matches!(error, StoreError::TooLarge { frames: 30, .. }), "{error}");
        let error = FrameStore::new(shape(17, 4), isize::MAX as usize / 30)
            .map(std::hint::black_box)
            .map(drop);
        assert!(matches!(error, Err(StoreError::OutOfMemory { .. })), "{error:?}");
        let error = FrameStore::new(shape(usize::MAX, 0), 2).unwrap_err();
        assert!(matches!(error, StoreError::TooLarge { .. }), "{error}");
    }

    #[test]
    fn cross_fade_is_exact_at_its_ends_and_rounds_between() {
        let old: Vec<u8> = (0..=255).collect();
        let new: Vec<u8> = (0..=255).rev().collect();
        let mut out = vec![0; 256];
        cross_fade(&old, &new, 0.0, &mut out);
        assert_eq!(out, old);
        cross_fade(&old, &new, 1.0, &mut out);
        assert_eq!(out, new);
        for (numerator, denominator) in [(1, 2), (1, 5), (4, 5), (1, 3)] {
            let weight = numerator as f32 / denominator as f32;
            cross_fade(&old, &new, weight, &mut out);
            for value in 0..256 {
                let exact = f64::from(old[value]) + (f64::from(new[value]) - f64::from(old[value])) * f64::from(weight);
                let error = (f64::from(out[value]) - exact).abs();
                assert!(
                    error <= 0.5 + 255.0 / 32768.0,
                    "{value} at {weight}: {} for {exact}",
                    out[value]
                );
            }
        }
        cross_fade(&old, &old, 0.3, &mut out);
        assert_eq!(out, old, "equal frames stay what they are");
        cross_fade(&[0, 1], &[1, 2], 0.5, &mut out[..2]);
        assert_eq!(out[..2], [1, 2], "halves round up");
    }
}
