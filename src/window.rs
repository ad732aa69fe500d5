// SPDX-License-Identifier: MPL-2.0

//! Which frames make a window, which frames become final with it, and the cross-fade between windows.
//!
//! A *run* is a stretch of frames that no cut interrupts. Its frames have run indexes 0, 1, 2, … Windows of T frames
//! start at 0, S, 2S, … with S = T - O, so that neighbours share O frames. At the end of the run the last window moves
//! back until it ends at the last frame. A run shorter than T is padded by repeating its last frame.
//!
//! Nothing here depends on time or on how the frames arrive: the same frames always give the same windows.

mod store;

use std::ops::Range;

pub use store::{FrameStore, StoreError, cross_fade};

/// Length and overlap of the windows of a run, in frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WindowShape {
    frames: usize,
    overlap: usize,
}

/// Why a pair of length and overlap makes no [`WindowShape`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowShapeError {
    #[error("a window has at least 1 frame, found 0")]
    NoFrames,
    #[error("an overlap is at most half of the window ({} of {frames} frames), found {overlap}", frames / 2)]
    OverlapTooLong { frames: usize, overlap: usize },
}

impl WindowShape {
    /// Windows of `frames` frames (T), of which neighbours share `overlap` (O).
    ///
    /// # Errors
    /// Fails unless 1 <= T and 2 * O <= T. The second rule keeps every frame in at most two windows.
    pub fn new(frames: usize, overlap: usize) -> Result<Self, WindowShapeError> {
        if frames == 0 {
            return Err(WindowShapeError::NoFrames);
        }
        if overlap > frames / 2 {
            return Err(WindowShapeError::OverlapTooLong { frames, overlap });
        }
        Ok(Self { frames, overlap })
    }

    /// T: frames of a window.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// O: frames that two neighbouring windows share.
    pub fn overlap(&self) -> usize {
        self.overlap
    }

    /// S = T - O: frames from the start of one window to the start of the next.
    pub fn stride(&self) -> usize {
        self.frames - self.overlap
    }
}

/// One window to restore. All frames are run indexes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The window's first frame.
    pub first: u64,
    /// Real frames in the window. The T - `real` others repeat the last real one, and what comes of them is dropped.
    pub real: usize,
    /// Frames that become final with this window.
    pub emit: Range<u64>,
    /// First frame of the window before this one in the same run.
    previous_first: Option<u64>,
    /// How many frames, from `emit.start` on, the previous window has part in. 0 if there is none.
    blended: usize,
    /// Frames at the window's end that wait for the next window.
    held: usize,
}

impl Plan {
    /// Position in this window of `frame`, one of its real frames.
    pub fn slot(&self, frame: u64) -> usize {
        debug_assert!(self.contains(frame), "frame {frame} is not in {self:?}");
        (frame - self.first) as usize
    }

    /// Share of this window in `frame`, one of `emit`. The previous window has the rest.
    ///
    /// Over the overlap it goes linearly from the old window to the new one: (i + 1) / (O + 1) for the i-th shared
    /// frame. It is 1 where this window is the only one.
    pub fn weight(&self, frame: u64) -> f32 {
        match self.shared(frame) {
            Some(index) => (index + 1) as f32 / (self.blended + 1) as f32,
            None => 1.0,
        }
    }

    /// Position in the previous window of `frame`, one of `emit`, if that window has part in it.
    pub fn previous_slot(&self, frame: u64) -> Option<usize> {
        self.shared(frame)?;
        Some((frame - self.previous_first?) as usize)
    }

    /// Frames restored by this window that wait to be blended with the next one: its last O. Empty if it is the run's
    /// last window.
    pub fn held(&self) -> Range<u64> {
        self.emit.end..self.emit.end + self.held as u64
    }

    fn contains(&self, frame: u64) -> bool {
        (self.first..self.first + self.real as u64).contains(&frame)
    }

    /// Which of the blended frames `frame` is.
    fn shared(&self, frame: u64) -> Option<usize> {
        debug_assert!(self.emit.contains(&frame), "frame {frame} is not final with {self:?}");
        let index = frame.checked_sub(self.emit.start)?;
        (index < self.blended as u64).then_some(index as usize)
    }
}

/// What is left to do when a run ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Every frame of the run is final.
    Nothing,
    /// No frame came after the last window: these frames of it become final as they are.
    Held(Range<u64>),
    /// A last window.
    Window(Plan),
}

/// Turns a run's frames, one by one, into windows.
#[derive(Clone, Debug)]
pub struct Planner {
    shape: WindowShape,
    /// Frames of the run so far.
    pushed: u64,
    /// Full windows of the run so far. The frames before `windows * stride` are final.
    windows: u64,
}

impl Planner {
    pub fn new(shape: WindowShape) -> Self {
        Self {
            shape,
            pushed: 0,
            windows: 0,
        }
    }

    /// Takes one more frame of the run. Gives the window that it completes, if it does.
    pub fn push(&mut self) -> Option<Plan> {
        self.pushed += 1;
        let first = self.final_frames();
        if self.pushed - first < self.shape.frames as u64 {
            return None;
        }
        let plan = Plan {
            first,
            real: self.shape.frames,
            emit: first..first + self.shape.stride() as u64,
            previous_first: self.previous_first(),
            blended: self.blended(),
            held: self.shape.overlap,
        };
        self.windows += 1;
        Some(plan)
    }

    /// Ends the run (end of stream, or a cut). The next frame pushed is frame 0 of a new run.
    pub fn finish(&mut self) -> Tail {
        let frames = self.shape.frames as u64;
        let emit = self.final_frames()..self.pushed;
        let tail = if emit.is_empty() {
            Tail::Nothing
        } else if self.previous_first().is_some_and(|first| first + frames == self.pushed) {
            Tail::Held(emit)
        } else {
            let first = self.pushed.saturating_sub(frames);
            Tail::Window(Plan {
                first,
                real: (self.pushed - first) as usize,
                emit,
                previous_first: self.previous_first(),
                blended: self.blended(),
                held: 0,
            })
        };
        self.reset();
        tail
    }

    /// Forgets the run (flush). The next frame pushed is frame 0 of a new run.
    pub fn reset(&mut self) {
        self.pushed = 0;
        self.windows = 0;
    }

    /// Frames pushed that are not final yet: at most T - 1 between two calls.
    pub fn waiting(&self) -> usize {
        (self.pushed - self.final_frames()) as usize
    }

    fn final_frames(&self) -> u64 {
        self.windows * self.shape.stride() as u64
    }

    fn previous_first(&self) -> Option<u64> {
        Some(self.windows.checked_sub(1)? * self.shape.stride() as u64)
    }

    fn blended(&self) -> usize {
        if self.windows == 0 { 0 } else { self.shape.overlap }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planner(frames: usize, overlap: usize) -> Planner {
        Planner::new(WindowShape::new(frames, overlap).unwrap())
    }

    fn push(planner: &mut Planner, count: usize) -> Vec<Plan> {
        (0..count).filter_map(|_| planner.push()).collect()
    }

    #[test]
    fn shape_rules() {
        assert_eq!(WindowShape::new(0, 0), Err(WindowShapeError::NoFrames));
        assert!(WindowShape::new(1, 0).is_ok());
        assert!(WindowShape::new(1, 1).is_err());
        assert!(WindowShape::new(17, 8).is_ok());
        let error = WindowShape::new(17, 9).unwrap_err();
        assert_eq!(
            error.to_string(),
            "an overlap is at most half of the window (8 of 17 frames), found 9"
        );
        assert!(WindowShape::new(usize::MAX, usize::MAX).is_err());
        let shape = WindowShape::new(17, 4).unwrap();
        assert_eq!((shape.frames(), shape.overlap(), shape.stride()), (17, 4, 13));
    }

    #[test]
    fn second_window_blends_with_the_first() {
        let mut planner = planner(5, 2);
        let plans = push(&mut planner, 8);
        assert_eq!(plans.len(), 2);
        assert_eq!(
            (plans[0].first, plans[0].emit.clone(), plans[0].held()),
            (0, 0..3, 3..5)
        );
        assert_eq!(plans[0].weight(0), 1.0);
        assert_eq!(plans[0].previous_slot(0), None);
        assert_eq!(
            (plans[1].first, plans[1].emit.clone(), plans[1].held()),
            (3, 3..6, 6..8)
        );
        assert_eq!(
            [3, 4, 5].map(|frame| plans[1].weight(frame)),
            [1.0 / 3.0, 2.0 / 3.0, 1.0]
        );
        assert_eq!([3, 4, 5].map(|frame| plans[1].slot(frame)), [0, 1, 2]);
        assert_eq!(
            [3, 4, 5].map(|frame| plans[1].previous_slot(frame)),
            [Some(3), Some(4), None]
        );
        assert_eq!(planner.waiting(), 2);
        assert_eq!(planner.finish(), Tail::Held(6..8));
        assert_eq!(planner.waiting(), 0);
    }

    #[test]
    fn last_window_moves_back() {
        let mut planner = planner(5, 2);
        assert_eq!(push(&mut planner, 6).len(), 1);
        let Tail::Window(plan) = planner.finish() else {
            panic!("no window")
        };
        assert_eq!(
            (plan.first, plan.real, plan.emit.clone(), plan.held()),
            (1, 5, 3..6, 6..6)
        );
        assert_eq!([3, 4, 5].map(|frame| plan.slot(frame)), [2, 3, 4]);
        assert_eq!([3, 4, 5].map(|frame| plan.weight(frame)), [1.0 / 3.0, 2.0 / 3.0, 1.0]);
        assert_eq!(plan.previous_slot(4), Some(4));
    }

    #[test]
    fn short_run_is_one_padded_window() {
        let mut planner = planner(5, 2);
        assert_eq!(planner.finish(), Tail::Nothing);
        assert_eq!(push(&mut planner, 3), []);
        let Tail::Window(plan) = planner.finish() else {
            panic!("no window")
        };
        assert_eq!((plan.first, plan.real, plan.emit.clone()), (0, 3, 0..3));
        assert_eq!(plan.weight(1), 1.0);
        assert_eq!(planner.finish(), Tail::Nothing);
    }

    #[test]
    fn one_frame_windows_without_overlap() {
        let mut planner = planner(1, 0);
        let plans = push(&mut planner, 3);
        assert_eq!(
            plans.iter().map(|plan| plan.emit.clone()).collect::<Vec<_>>(),
            [0..1, 1..2, 2..3]
        );
        assert_eq!(planner.finish(), Tail::Nothing);
    }

    #[test]
    fn flush_forgets_the_run() {
        let mut planner = planner(5, 2);
        push(&mut planner, 7);
        planner.reset();
        assert_eq!(planner.waiting(), 0);
        assert_eq!(planner.finish(), Tail::Nothing);
        assert_eq!(push(&mut planner, 5)[0].first, 0);
    }
}
