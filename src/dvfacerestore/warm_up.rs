//! When the graphs run for the first time, and what is measured then.
//!
//! A first run takes longer than the others, and a live stream must know beforehand how long a window takes: its latency
//! answer has it. So with a live source the warm-up is over before the element has started. What is not live is never late,
//! and its first window is its warm-up: the first frame comes out sooner by two windows' time. Where the source is not there
//! yet (a demuxer has no pads then) or does not say, the warm-up runs in a thread of its own until it is known: at the first
//! latency answer, or with the caps.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use parking_lot::Mutex;

use super::imp::{CAT, DvFaceRestore, Engine};
use super::model;
use crate::restorer::{Interrupt, Reason, RestoreError, Restorer};

type Measured = Result<Duration, RestoreError>;

/// A warm-up in a thread of its own.
pub struct WarmUp {
    interrupt: Arc<Interrupt>,
    /// Whoever asks first waits; others wait for that.
    thread: Mutex<Option<JoinHandle<Measured>>>,
}

impl WarmUp {
    /// Runs the graphs of `restorer`, which shares its sessions with the one that restores.
    fn begin(mut restorer: Restorer) -> std::io::Result<Self> {
        let interrupt = restorer.interrupt().clone();
        let thread = thread::Builder::new()
            .name("dvface-warm-up".into())
            .spawn(move || restorer.warm_up())?;
        Ok(Self {
            interrupt,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Waits for its end; `None` where that was done before, or the thread has panicked.
    fn wait(&self) -> Option<Measured> {
        let mut thread = self.thread.lock();
        thread.take().and_then(|thread| thread.join().ok())
    }
}

impl Drop for WarmUp {
    /// Ends it.
    fn drop(&mut self) {
        self.interrupt.raise(Reason::Stop);
        let _ = self.wait();
    }
}

impl DvFaceRestore {
    /// Whether upstream is live, as far as it can be told. It is asked afresh.
    fn asked_live(&self) -> Option<bool> {
        let mut query = gst::query::Latency::new();
        let answered = self.obj().sink_pad().peer_query(&mut query);
        answered.then(|| query.result().0)
    }

    /// The first runs of the graphs, or their beginning. Gives the time of a window where it is known then.
    ///
    /// # Errors
    /// An error message where the graphs fail.
    pub(super) fn warm_up(&self, restorer: &mut Restorer) -> Result<Option<Duration>, gst::ErrorMessage> {
        if let Some(measured) = restorer.measured() {
            return Ok(Some(measured));
        }
        match self.asked_live() {
            Some(false) => Ok(None),
            Some(true) => {
                let frames = restorer.frames();
                self.tell_warm_up(frames, || restorer.warm_up()).map(Some)
            }
            None => {
                let other = Interrupt::new().and_then(|interrupt| restorer.another(Arc::new(interrupt)));
                let begun = other.map(WarmUp::begin);
                match begun {
                    Ok(Ok(begun)) => *self.warm_up.lock() = Some(Arc::new(begun)),
                    // The first window is the warm-up then.
                    Ok(Err(error)) => gst::warning!(CAT, imp = self, "no thread to warm up: {error}"),
                    Err(error) => gst::warning!(CAT, imp = self, "no warm-up: {error}"),
                }
                Ok(None)
            }
        }
    }

    /// Ends a warm-up that goes on: with a live source it is waited for, and its time counts.
    pub(super) fn settle_warm_up(&self, is_live: bool) {
        // Kept in its place while it is waited for, so that others wait as well.
        let Some(warm_up) = self.warm_up.lock().clone() else {
            return;
        };
        if is_live {
            let frames = self.latency.lock().window_frames() as usize;
            self.measure(frames, || match warm_up.wait() {
                Some(result) => result,
                None => Err(RestoreError::Interrupted),
            });
        }
        self.end_warm_up();
    }

    /// As [`settle_warm_up`](Self::settle_warm_up), with what upstream says now. Where it did not call itself live at the start,
    /// and does now, the warm-up is made up for.
    pub(super) fn settle_warm_up_with_caps(&self) {
        let is_measured = |engine: &Option<Box<Engine>>| engine.as_ref().is_none_or(|engine| engine.is_measured);
        if is_measured(&self.engine.lock()) {
            return;
        }
        let is_live = self.asked_live() == Some(true);
        self.settle_warm_up(is_live);
        if !is_live {
            return;
        }
        let Some(mut engine) = self.engine.lock().take() else {
            return;
        };
        if engine.restorer.measured().is_none() {
            let frames = engine.restorer.frames();
            self.measure(frames, || engine.restorer.warm_up());
        }
        *self.engine.lock() = Some(engine);
    }

    /// Has `run` measure a window of `frames` frames for the latency. Where it fails, so will the first window, and that tells.
    fn measure(&self, frames: usize, run: impl FnOnce() -> Measured) {
        if let Ok(measured) = self.tell_warm_up(frames, run)
            && self.settings.lock().processing_deadline.is_zero()
        {
            self.change_latency(|latency| latency.expect(measured, 1, false));
        }
    }

    /// Lets those who wait for a warm-up go on.
    pub(super) fn interrupt_warm_up(&self) {
        if let Some(warm_up) = &*self.warm_up.lock() {
            warm_up.interrupt.raise(Reason::Stop);
        }
    }

    /// Ends a warm-up that goes on. It is taken out first: no lock is held while its thread ends.
    pub(super) fn end_warm_up(&self) {
        let warm_up = self.warm_up.lock().take();
        drop(warm_up);
    }

    /// Tells of a warm-up, and how it ended.
    fn tell_warm_up(&self, frames: usize, run: impl FnOnce() -> Measured) -> Result<Duration, gst::ErrorMessage> {
        self.progress(gst::ProgressType::Start, "warm-up", "First run of the graphs");
        let measured = self.or_progress_error("warm-up", run().map_err(|error| model::restore_message(&error)))?;
        let text = format!(
            "A window of {frames} frames takes {:.1} ms",
            measured.as_secs_f64() * 1e3
        );
        self.progress(gst::ProgressType::Complete, "warm-up", &text);
        Ok(measured)
    }
}
