// SPDX-License-Identifier: MPL-2.0

//! When the graphs run for the first time, and what is measured then.
//!
//! A first run takes longer than the others, and a live stream must know beforehand how long a window takes: its latency
//! answer has it. So with a live source the warm-up is over before the element has started. What is not live is never late,
//! and its first window is its warm-up: the first frame comes out sooner by two windows' time. Where the source is not there
//! yet (a demuxer has no pads then) or does not say, the warm-up runs in a thread of its own, and the caps, which come before any
//! frame, wait for it where the source turns out to be live.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use parking_lot::{Condvar, Mutex};

use super::imp::{CAT, DvFaceRestore, Engine};
use super::model;
use crate::restorer::{Interrupt, Reason, RestoreError, Restorer};

/// Code of its progress messages.
const CODE: &str = "warm-up";
const CANCELED: &str = "Canceled";

type Measured = Result<Duration, RestoreError>;

/// A warm-up in a thread of its own.
pub struct WarmUp {
    interrupt: Arc<Interrupt>,
    progress: Arc<(Mutex<Progress>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

/// How far it is, and who asks.
#[derive(Default)]
struct Progress {
    /// What was measured; whoever sees it first takes it.
    measured: Option<Measured>,
    is_over: bool,
    /// The streaming thread is not to wait (flush).
    is_flushing: bool,
}

impl WarmUp {
    /// Runs the graphs of `restorer`, which shares its sessions with the one that restores.
    fn begin(mut restorer: Restorer) -> std::io::Result<Self> {
        let interrupt = restorer.interrupt().clone();
        let progress: Arc<(Mutex<Progress>, Condvar)> = Arc::default();
        let of_thread = progress.clone();
        let thread = thread::Builder::new().name("dvface-warm-up".into()).spawn(move || {
            let ended = Ended(of_thread);
            let measured = restorer.warm_up();
            ended.0.0.lock().measured = Some(measured);
        })?;
        Ok(Self {
            interrupt,
            progress,
            thread: Some(thread),
        })
    }

    /// Waits for its end, or for a flush; `None` then, and where another waiter took what was measured.
    fn wait(&self) -> Option<Measured> {
        let (progress, changed) = &*self.progress;
        let mut progress = progress.lock();
        while !(progress.is_over || progress.is_flushing) {
            changed.wait(&mut progress);
        }
        progress.measured.take()
    }

    fn is_over(&self) -> bool {
        self.progress.0.lock().is_over
    }

    /// Whether somebody has what was measured.
    fn is_taken(&self) -> bool {
        let progress = self.progress.0.lock();
        progress.is_over && progress.measured.is_none()
    }

    /// A flush begins or ends.
    fn set_flushing(&self, is_flushing: bool) {
        self.progress.0.lock().is_flushing = is_flushing;
        self.progress.1.notify_all();
    }
}

/// Tells those who wait that the thread ends, however it does.
struct Ended(Arc<(Mutex<Progress>, Condvar)>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.0.lock().is_over = true;
        self.0.1.notify_all();
    }
}

impl Drop for WarmUp {
    /// Ends it.
    fn drop(&mut self) {
        self.interrupt.raise(Reason::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic of the graphs' run was told by the panic hook, and nothing was measured.
            let _ = thread.join();
        }
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
                self.tell_warm_up_begins();
                self.tell_warm_up_ends(frames, restorer.warm_up()).map(Some)
            }
            None => {
                let other = Interrupt::new().and_then(|interrupt| restorer.another(Arc::new(interrupt)));
                let begun = other.map(WarmUp::begin);
                match begun {
                    Ok(Ok(begun)) => {
                        self.tell_warm_up_begins();
                        *self.warm_up.lock() = Some(Arc::new(begun));
                    }
                    // The first window is the warm-up then.
                    Ok(Err(error)) => gst::warning!(CAT, imp = self, "no thread to warm up: {error}"),
                    Err(error) => gst::warning!(CAT, imp = self, "no warm-up: {error}"),
                }
                Ok(None)
            }
        }
    }

    /// Ends a warm-up that goes on: with a live source its time counts, and the streaming thread (`is_streaming`) waits for it, but
    /// not while it is flushed; the warm-up goes on then. Who asks for the latency does not wait: it may be the thread of an element
    /// behind this one, which a change of state ends before it gets here. The caps, before which no frame comes, tell the rest.
    pub(super) fn settle_warm_up(&self, is_live: bool, is_streaming: bool) {
        // Kept in its place while it is waited for, so that others wait as well.
        let Some(warm_up) = self.warm_up.lock().clone() else {
            return;
        };
        if is_live {
            if !is_streaming && !warm_up.is_over() {
                return;
            }
            if let Some(measured) = warm_up.wait() {
                let frames = self.latency.lock().window_frames() as usize;
                self.measure(frames, measured);
            } else if !warm_up.is_over() {
                gst::debug!(CAT, imp = self, "flushed while the warm-up goes on");
                return;
            }
        }
        drop(warm_up);
        if is_live {
            self.end_warm_up();
        } else {
            self.end_warm_up_as(gst::ProgressType::Complete, "Not needed: the source is not live");
        }
    }

    /// As [`settle_warm_up`](Self::settle_warm_up), with what upstream says now. Where it did not call itself live at the start,
    /// and does now, the warm-up is made up for.
    pub(super) fn settle_warm_up_with_caps(&self) {
        // Captured in this thread, in which the frames come.
        let is_ready = |engine: &Engine| engine.is_measured && engine.restorer.is_captured();
        // The pace may know of a warm-up that is over while the latency does not.
        if self.engine.lock().as_deref().is_none_or(is_ready) && self.warm_up.lock().is_none() {
            return;
        }
        let is_live = self.asked_live() == Some(true);
        self.settle_warm_up(is_live, true);
        if !is_live || self.warm_up.lock().is_some() {
            return;
        }
        let Some(mut engine) = self.engine.lock().take() else {
            return;
        };
        if engine.restorer.measured().is_none() {
            let frames = engine.restorer.frames();
            self.tell_warm_up_begins();
            let measured = engine.restorer.warm_up();
            self.measure(frames, measured);
        } else if let Err(error) = engine.restorer.warm_up() {
            gst::debug!(CAT, imp = self, "the first window is captured instead: {error}");
        }
        *self.engine.lock() = Some(engine);
    }

    /// Takes the time of a window of `frames` frames for the latency. Where the run has failed, so will the first window, and
    /// that tells.
    fn measure(&self, frames: usize, measured: Measured) {
        if let Ok(measured) = self.tell_warm_up_ends(frames, measured)
            && self.settings.lock().processing_deadline.is_zero()
        {
            self.change_latency(|latency| latency.expect(measured, 1, false));
        }
    }

    /// A flush begins or ends: the streaming thread does not wait for a warm-up meanwhile.
    pub(super) fn flush_warm_up(&self, is_flushing: bool) {
        if let Some(warm_up) = &*self.warm_up.lock() {
            warm_up.set_flushing(is_flushing);
        }
    }

    /// Lets those who wait for a warm-up go on.
    pub(super) fn interrupt_warm_up(&self) {
        if let Some(warm_up) = &*self.warm_up.lock() {
            warm_up.interrupt.raise(Reason::Stop);
        }
    }

    /// Ends a warm-up that goes on.
    pub(super) fn end_warm_up(&self) {
        self.end_warm_up_as(gst::ProgressType::Canceled, CANCELED);
    }

    /// Ends a warm-up that goes on, and says why. It is taken out first: no lock is held while its thread ends.
    fn end_warm_up_as(&self, kind: gst::ProgressType, text: &str) {
        let Some(warm_up) = self.warm_up.lock().take() else {
            return;
        };
        if !warm_up.is_taken() {
            self.progress(kind, CODE, text);
        }
        drop(warm_up);
    }

    fn tell_warm_up_begins(&self) {
        self.progress(gst::ProgressType::Start, CODE, "First run of the graphs");
    }

    /// Tells how a warm-up ended.
    fn tell_warm_up_ends(&self, frames: usize, measured: Measured) -> Result<Duration, gst::ErrorMessage> {
        let measured = match measured {
            Err(error @ RestoreError::Interrupted) => {
                self.progress(gst::ProgressType::Canceled, CODE, CANCELED);
                return Err(model::restore_message(&error));
            }
            measured => self.or_progress_error(CODE, measured.map_err(|error| model::restore_message(&error)))?,
        };
        let text = format!(
            "A window of {frames} frames takes {:.1} ms",
            measured.as_secs_f64() * 1e3
        );
        self.progress(gst::ProgressType::Complete, CODE, &text);
        Ok(measured)
    }
}
