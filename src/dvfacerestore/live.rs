// SPDX-License-Identifier: MPL-2.0

//! Live use: what the clock, upstream and the sinks tell, and what the bus is told.

use std::sync::Arc;
use std::time::Duration;

use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use parking_lot::Mutex;

use super::imp::{CAT, DvFaceRestore};
use super::stream::Rules;
use crate::pace::Moment;
use crate::restorer::{Interrupt, Reason};

/// What is known of the pipeline around the element, and what has been said once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Live {
    /// Whether upstream is live, and its latency.
    upstream: Option<(bool, gst::ClockTime)>,
    /// The pipeline's latency, which its sinks wait for.
    configured: Option<gst::ClockTime>,
    /// Frames before this running time come too late, as a sink told.
    earliest: Option<gst::ClockTime>,
    pub told_blocked: bool,
    pub told_failed: bool,
    pub told_unreadable: bool,
    pub told_reverse: bool,
}

/// Ends a run that is too late, unless it is dropped before.
pub struct Watch {
    id: gst::SingleShotClockId,
    interrupt: Arc<Interrupt>,
    /// The clock may be about to call while this is dropped.
    is_on: Arc<Mutex<bool>>,
}

impl Watch {
    fn new(clock: &gst::Clock, time: gst::ClockTime, interrupt: Arc<Interrupt>) -> Option<Self> {
        let id = clock.new_single_shot_id(time);
        let is_on = Arc::new(Mutex::new(true));
        let (on, raised) = (is_on.clone(), interrupt.clone());
        id.wait_async(move |_, _, _| {
            let on = on.lock();
            if *on {
                raised.raise(Reason::Late);
            }
        })
        .ok()?;
        Some(Self { id, interrupt, is_on })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.id.unschedule();
        *self.is_on.lock() = false;
        self.interrupt.clear(Reason::Late);
    }
}

impl DvFaceRestore {
    /// Takes what upstream answers to a latency query.
    pub(super) fn note_upstream_latency(&self, live: bool, min: gst::ClockTime) {
        self.live.lock().upstream = Some((live, min));
    }

    /// Looks at an event on its way upstream.
    pub(super) fn note_upstream_event(&self, event: &gst::Event) {
        match event.view() {
            gst::EventView::Latency(event) => {
                gst::debug!(CAT, imp = self, "the pipeline's latency is {}", event.latency());
                // Zero: no sink plays by the clock, and the pipeline does not look at latencies. The element's own holds.
                self.live.lock().configured = Some(event.latency()).filter(|latency| !latency.is_zero());
            }
            gst::EventView::Qos(event) => {
                let (_, _, late, running_time) = event.get();
                let late = u64::try_from(late).map_or(gst::ClockTime::ZERO, gst::ClockTime::from_nseconds);
                // As the base class counts: with as much again, for the next frames are late, too. Half a frame is no delay.
                let tolerance = self.latency.lock().frame() / 2;
                let earliest = running_time
                    .filter(|_| late > tolerance)
                    .map(|time| time.saturating_add(late).saturating_add(late));
                self.live.lock().earliest = earliest;
            }
            _ => {}
        }
    }

    pub(super) fn is_live(&self) -> bool {
        self.live.lock().upstream.is_some_and(|(live, _)| live)
    }

    /// Forgets what a sink told (flush).
    pub(super) fn forget_qos(&self) {
        self.live.lock().earliest = None;
    }

    /// Running time of a frame.
    pub(super) fn running_time(&self, buffer: &gst::BufferRef) -> Option<gst::ClockTime> {
        let segment = self.obj().segment().downcast::<gst::ClockTime>().ok()?;
        segment.to_running_time(buffer.pts())
    }

    /// Whether the stream plays backwards.
    pub(super) fn is_reverse(&self) -> bool {
        self.obj().segment().rate() < 0.0
    }

    /// What the clock says; `None` where nothing can be late: upstream is not live, or the pipeline does not play.
    fn moment(&self) -> Option<Moment> {
        let obj = self.obj();
        if obj.current_state() != gst::State::Playing {
            return None;
        }
        let known = self.live.lock().upstream;
        let (is_live, upstream) = known.or_else(|| {
            let mut query = gst::query::Latency::new();
            let answered = obj.sink_pad().peer_query(&mut query);
            let (live, min, _) = query.result();
            answered.then(|| self.note_upstream_latency(live, min));
            answered.then_some((live, min))
        })?;
        if !is_live {
            return None;
        }
        let now = obj.current_running_time()?;
        let (own, frame) = {
            let latency = self.latency.lock();
            (latency.total(), latency.step())
        };
        let live = *self.live.lock();
        // What the pipeline has beyond this belongs to downstream.
        let reported = upstream.saturating_add(own);
        let latency = live.configured.map_or(reported, |configured| configured.min(reported));
        Some(Moment {
            now: now.into(),
            upstream: upstream.into(),
            latency: latency.into(),
            frame: frame.into(),
            earliest: live.earliest.map(Duration::from),
        })
    }

    /// Ends the run that comes when the clock says `limit` in running time.
    fn watch(&self, limit: Duration) -> Option<Watch> {
        let obj = self.obj();
        let limit = gst::ClockTime::try_from(limit).ok()?;
        let time = obj.base_time()?.checked_add(limit)?;
        let interrupt = self.interrupt.lock().clone()?;
        Watch::new(&obj.clock()?, time, interrupt)
    }

    /// Calls `work` with what holds now.
    pub(super) fn with_rules<T>(&self, may_bypass: bool, work: impl FnOnce(&Rules<'_>) -> T) -> T {
        work(&Rules {
            may_bypass,
            moment: &|| self.moment(),
            watch: &|limit| self.watch(limit),
        })
    }

    /// Says on the bus that a frame goes on unrestored that would have been `late`.
    pub(super) fn tell_bypassed(&self, buffer: &gst::BufferRef, late: Duration) {
        let segment = self.obj().segment().downcast::<gst::ClockTime>().ok();
        let counts = self.statistics.lock().counts;
        let frames = gst::format::Default::from_u64;
        let message = gst::message::Qos::builder(self.is_live())
            .running_time(self.running_time(buffer))
            .stream_time(segment.and_then(|segment| segment.to_stream_time(buffer.pts())))
            .timestamp(buffer.pts())
            .duration(buffer.duration())
            .values(i64::try_from(late.as_nanos()).unwrap_or(i64::MAX), 1.0, 1_000_000)
            .stats(frames(counts.restored), frames(counts.bypassed))
            .src(&*self.obj())
            .build();
        // Without a bus nobody listens.
        let _ = self.obj().post_message(message);
    }

    /// Says once that pushes which took `blocked` made a window `late` that would have been in time without.
    pub(super) fn tell_blocked(&self, blocked: Duration, late: Duration) {
        if std::mem::replace(&mut self.live.lock().told_blocked, true) {
            return;
        }
        let (blocked, late) = (blocked.as_millis(), late.as_millis());
        gst::element_imp_warning!(
            self,
            gst::CoreError::Clock,
            ("Downstream takes the frames of a window too slowly for the next one to be in time; put a queue behind \
              dvfacerestore: dvfacerestore ! queue max-size-buffers=100 max-size-bytes=0 max-size-time=0 ! …"),
            ["pushing a window's frames blocked for {blocked} ms, and the next window is {late} ms late"]
        );
    }

    /// Says once that a run failed, and that its frames go on unrestored.
    pub(super) fn tell_failed(&self, error: &dyn std::error::Error) {
        gst::warning!(CAT, imp = self, "frames go on unrestored: {error}");
        if std::mem::replace(&mut self.live.lock().told_failed, true) {
            return;
        }
        gst::element_imp_warning!(
            self,
            gst::LibraryError::Failed,
            ("overload=bypass: restoring failed, frames go on unrestored until it works again: {error}")
        );
    }

    /// Says once that a frame cannot be read, and that such frames are left out.
    pub(super) fn tell_unreadable(&self, reason: &str) {
        gst::warning!(CAT, imp = self, "a frame is left out: {reason}");
        if std::mem::replace(&mut self.live.lock().told_unreadable, true) {
            return;
        }
        gst::element_imp_warning!(
            self,
            gst::ResourceError::Failed,
            ("overload=bypass: frames that cannot be read are left out: {reason}")
        );
    }

    /// Says once that a stream that plays backwards is not restored.
    pub(super) fn tell_reverse(&self) {
        if std::mem::replace(&mut self.live.lock().told_reverse, true) {
            return;
        }
        let text = "reverse playback: frames go on unrestored";
        gst::info!(CAT, imp = self, "{text}");
        gst::element_imp_info!(self, gst::StreamError::NotImplemented, ("{text}"), ["{text}"]);
    }
}
