// SPDX-License-Identifier: MPL-2.0

//! A region through time: its windows, its pixels, and what the last window left for the next one.

use crate::pace;
use crate::restorer::Restored;
use crate::window::{FrameStore, Planner, StoreError, WindowShape};

/// A stretch of frames in which one region is restored.
pub struct Run {
    pub id: u64,
    pub planner: Planner,
    pub store: FrameStore,
    /// Result of the last window, whose last frames wait for the next one.
    pub previous: Option<Restored>,
    /// Frames so far.
    pub frames: u64,
    /// It follows unrestored frames.
    pub fades_in: bool,
}

impl Run {
    /// # Errors
    /// Fails where there is no memory for a window.
    pub fn new(shape: WindowShape, frame_bytes: usize) -> Result<Self, StoreError> {
        Ok(Self {
            id: 0,
            planner: Planner::new(shape),
            store: FrameStore::new(shape, frame_bytes)?,
            previous: None,
            frames: 0,
            fades_in: false,
        })
    }

    /// Forgets its frames. The memory stays.
    pub fn reset(&mut self) {
        self.planner.reset();
        self.store.reset();
        self.previous = None;
        self.frames = 0;
        self.fades_in = false;
    }

    /// Share of the strength for frame `index`, where it follows unrestored frames.
    pub fn entry_share(&self, index: u64) -> f64 {
        if self.fades_in { pace::fade_in(index) } else { 1.0 }
    }
}
