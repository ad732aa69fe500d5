// SPDX-License-Identifier: MPL-2.0

//! The way of frames and events through the element: in, held, out; all of it in the streaming thread.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::base_transform::{InputBuffer, PrepareOutputBufferSuccess};
use gst_base::subclass::prelude::*;

use super::imp::{CAT, DvFaceRestore, Engine};
use super::model;
use super::picture::Picture;
use super::regions::Region;
use super::settings::Overload;
use super::stream::{Frame, Item};
use crate::face::detector::DetectorError;
use crate::pace::Cause;
use crate::restorer::RestoreError;

impl DvFaceRestore {
    /// Takes a frame from upstream, and sends on all that it completes.
    pub(super) fn take_frame(&self, mut buffer: gst::Buffer) -> Result<(), gst::FlowError> {
        if self.failed.swap(false, Ordering::SeqCst) {
            return Err(gst::FlowError::Error);
        }
        let flushes = self.flushes();
        // From within a push of what came before: this frame is from before, too.
        let is_stale = || self.flushes() != flushes;
        self.sync_controlled(&buffer);
        self.statistics.lock().frames_in += 1;
        self.follow_disabled(&buffer)?;
        if is_stale() {
            return Ok(());
        }
        self.observe_time(&buffer);
        if self.latency.lock().disabled {
            self.statistics.lock().counts.bypassed += 1;
            let buffer = self.handed_on(buffer)?;
            return self.send(Item::Buffer(buffer));
        }
        if let Some(reason) = self.unreadable(&buffer) {
            self.drain_before(None)?;
            return if is_stale() {
                Ok(())
            } else {
                self.leave_out(&buffer, &reason)
            };
        }
        if self.left_out.swap(false, Ordering::SeqCst) {
            buffer.make_mut().set_flags(gst::BufferFlags::DISCONT);
        }
        let buffer = self.cropped(buffer)?;
        if self.is_reverse() {
            self.tell_reverse();
            return self.take_unrestored(&buffer);
        }
        // Not the base class's `is_discont`, which stays set until it has pushed a buffer itself.
        if buffer.flags().contains(gst::BufferFlags::DISCONT) {
            self.drain_before(Some(&buffer))?;
            self.forget_scene();
            if is_stale() {
                return Ok(());
            }
        }
        if self.begins_scene(&buffer)? {
            gst::debug!(CAT, imp = self, "scene cut before {buffer:?}");
            self.drain_before(Some(&buffer))?;
            if is_stale() {
                return Ok(());
            }
        }
        let regions = self.find_regions(&buffer)?;
        if is_stale() {
            return Ok(());
        }
        let Some(regions) = regions else {
            // What was held has gone, too.
            let buffer = self.handed_on(buffer)?;
            self.statistics.lock().counts.bypassed += 1;
            return self.send(Item::Bypassed(buffer, Duration::ZERO));
        };
        if regions.is_empty() && self.is_idle() {
            // Nothing to restore, and nothing to wait for: the very buffer, where downstream can read it.
            self.statistics.lock().counts.empty += 1;
            let buffer = self.handed_on(buffer)?;
            return self.send(Item::Buffer(buffer));
        }
        let strength = self.settings.lock().strength;
        let running_time = self.running_time(&buffer).map(Duration::from);
        let output = self.output_for(&buffer)?;
        self.with_engine(|engine, may_bypass| {
            let buffer_copy = self.copied(engine, &buffer, output)?;
            let info = engine.picture()?.info().clone();
            let input = self.mapped(&buffer, &info)?;
            let frame = Frame {
                buffer: buffer_copy,
                strength,
                running_time,
            };
            let Engine { stream, restorer, .. } = engine;
            Ok(self.with_rules(may_bypass, |rules| {
                stream.push_frame(&input, frame, regions, rules, restorer)
            })?)
        })
    }

    /// Sends a frame on as it came, behind those before it.
    fn take_unrestored(&self, buffer: &gst::Buffer) -> Result<(), gst::FlowError> {
        let output = self.output_for(buffer)?;
        self.with_engine(|engine, _| {
            let output = self.copied(engine, buffer, output)?;
            engine.stream.push_unrestored(output);
            Ok(())
        })
    }

    /// Leaves a frame out that cannot be read, with `overload=bypass`: a camera's one broken frame should not end a broadcast, as it would
    /// in an encoder, and who maps what a meta promises reads what is not the frame's. Otherwise it is an error.
    fn leave_out(&self, buffer: &gst::BufferRef, reason: &str) -> Result<(), gst::FlowError> {
        if self.settings.lock().overload == Overload::Block {
            self.post_error_message(gst::error_msg!(gst::ResourceError::Failed, ("{reason}")));
            return Err(gst::FlowError::Error);
        }
        self.tell_unreadable(reason);
        self.tell_bypassed(buffer, Duration::ZERO);
        self.left_out.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// What is to be restored of a frame; `None` where the detector fails and it is to go on as it came, as those that were held
    /// have. With `overload=block` it goes on with these before the error does.
    fn find_regions(&self, buffer: &gst::Buffer) -> Result<Option<Vec<Region>>, gst::FlowError> {
        let mut regions = Vec::new();
        let mut passed_over = None;
        self.with_engine(|engine, may_bypass| {
            let info = engine.picture()?.info().clone();
            let Engine { stream, faces, .. } = engine;
            let Some(faces) = faces else {
                regions.push(Region::Whole);
                return Ok(());
            };
            let input = self.mapped(buffer, &info)?;
            match faces.next(buffer, &input) {
                Ok(shown) => {
                    let pictures = stream.pictures().and_then(|pictures| pictures.faces.as_ref());
                    regions = pictures.map(|pictures| pictures.regions(&shown)).unwrap_or_default();
                    Ok(())
                }
                Err(error) if may_bypass => {
                    stream.bypass(Cause::Failed, Duration::ZERO);
                    passed_over = Some(error);
                    Ok(())
                }
                Err(error) => {
                    let buffer = self.readable(engine, buffer.clone())?;
                    engine.stream.push_unrestored(buffer);
                    Err(Failure::Detect(error))
                }
            }
        })?;
        if let Some(error) = passed_over {
            self.tell_failed(&error);
            return Ok(None);
        }
        Ok(Some(regions))
    }

    fn is_idle(&self) -> bool {
        let engine = self.engine.lock();
        engine.as_ref().is_some_and(|engine| engine.stream.is_idle())
    }

    /// Whether a frame begins another scene, as `scene-cut` defines it.
    fn begins_scene(&self, buffer: &gst::Buffer) -> Result<bool, gst::FlowError> {
        let threshold = self.settings.lock().scene_cut;
        if threshold <= 0.0 {
            return Ok(false);
        }
        let mut begins = false;
        self.with_engine(|engine, _| {
            let info = engine.picture()?.info().clone();
            let input = self.mapped(buffer, &info)?;
            begins = engine.stream.begins_scene(&input, threshold);
            Ok(())
        })?;
        Ok(begins)
    }

    /// Takes a serialized event that keeps its place among the frames.
    pub(super) fn take_event(&self, event: gst::Event) -> bool {
        let mut event = Some(event);
        let result = self.with_engine(|engine, _| {
            if engine.stream.holds_frames() {
                engine.stream.push_event(event.take().expect("it is taken once"));
            }
            Ok(())
        });
        match event {
            Some(event) => self.parent_sink_event(event),
            None => result.is_ok(),
        }
    }

    /// Ends the run before an event or a query, and sends on every frame that is held. An event has no flow return: where
    /// restoring fails, an error has been posted, and the next frame gets it.
    pub(super) fn drain(&self) {
        if self.drain_before(None) == Err(gst::FlowError::Error) {
            self.failed.store(true, Ordering::SeqCst);
        }
        self.forget_scene();
    }

    /// What comes next begins a scene of its own, which is no cut that anybody looked for.
    fn forget_scene(&self) {
        if let Some(engine) = self.engine.lock().as_mut() {
            engine.stream.forget_scene();
        }
    }

    /// Ends the run before the frame `next`. Where that fails, `next` goes on with the frames that are held.
    fn drain_before(&self, next: Option<&gst::Buffer>) -> Result<(), gst::FlowError> {
        self.with_engine(|engine, may_bypass| {
            if let Some(faces) = &mut engine.faces {
                faces.cut();
            }
            if engine.stream.is_idle() {
                return Ok(());
            }
            gst::debug!(CAT, imp = self, "draining");
            let Engine { stream, restorer, .. } = engine;
            let drained = self.with_rules(may_bypass, |rules| stream.drain(rules, restorer));
            // What is bypassed is no failure, and `next` is taken as any frame.
            if let (Err(_), Some(next), false) = (&drained, next, may_bypass) {
                let next = self.readable(engine, next.clone())?;
                engine.stream.push_unrestored(next);
            }
            Ok(drained?)
        })
    }

    /// Forgets what is held (flush). The source pad keeps the sticky events, and sends them with what comes next.
    pub(super) fn forget(&self, engine: &mut Engine) {
        if let Some(faces) = &mut engine.faces {
            faces.cut();
        }
        for event in engine.stream.clear() {
            // It refuses where the stream has ended.
            let _ = self.obj().src_pad().store_sticky_event(&event);
        }
    }

    /// Whether frames pass through: no strength, and nothing that would change it from frame to frame.
    pub(super) fn is_disabled(&self) -> bool {
        self.settings.lock().strength <= 0.0 && !self.obj().has_active_control_bindings()
    }

    /// Gives `work` the engine and whether frames may go on unrestored (`overload=bypass`), then sends on what is ready. Where restoring fails, every frame that is held goes on as it
    /// came; with `overload=block` before the error does.
    pub(super) fn with_engine(
        &self,
        work: impl FnOnce(&mut Engine, bool) -> Result<(), Failure>,
    ) -> Result<(), gst::FlowError> {
        let Some(mut engine) = self.engine.lock().take() else {
            return Err(gst::FlowError::Flushing);
        };
        if !engine.is_measured
            && let Some(measured) = engine.restorer.measured()
        {
            engine.is_measured = true;
            engine.times_warm_up = false;
            engine.stream.set_measured(measured);
        }
        // Asked once: it may change while graphs run, and what becomes of a frame depends on it.
        let may_bypass = self.settings.lock().overload == Overload::Bypass;
        let mut done = work(&mut engine, may_bypass);
        let mut passed_over = None;
        match done {
            Err(Failure::Restore(RestoreError::Interrupted)) => self.forget(&mut engine),
            Err(Failure::Restore(error)) if may_bypass => {
                engine.stream.bypass(Cause::Failed, Duration::ZERO);
                passed_over = Some(error);
                done = Ok(());
            }
            Err(Failure::Restore(_) | Failure::Detect(_)) => engine.stream.give_up(),
            Ok(()) | Err(Failure::Flow(_)) => {}
        }
        let counts = engine.stream.take_counts();
        let mut is_first = false;
        {
            let mut statistics = self.statistics.lock();
            statistics.add(counts);
            if counts.windows > 0 {
                // A clip of one window has no other.
                if engine.times_warm_up && statistics.counts.windows > 1 {
                    engine.times_warm_up = false;
                    engine.restorer.forget_oldest();
                }
                statistics.measure(&engine.restorer);
                is_first = statistics.counts.windows == counts.windows;
            }
        }
        if is_first {
            gst::info!(CAT, imp = self, "the first window is restored");
        }
        let late = engine.stream.take_late();
        let blocked = engine.blocked;
        let sent = self.send_ready(&mut engine);
        let expected = engine.stream.expected();
        let stride = engine.stream.shape().stride() as u64;
        *self.engine.lock() = Some(engine);

        let is_measured = counts.windows > 0 || late.is_some();
        if let Some(late) = late.filter(|late| blocked >= *late) {
            self.tell_blocked(blocked, late);
        }
        if let Some(error) = passed_over {
            self.tell_failed(&error);
        }
        if is_measured && self.settings.lock().processing_deadline.is_zero() {
            let is_bounded = may_bypass && self.is_live();
            self.change_latency(|latency| latency.expect(expected, stride, is_bounded));
        }
        match done {
            Ok(()) => sent,
            Err(Failure::Flow(error)) => Err(error),
            Err(Failure::Restore(RestoreError::Interrupted)) => Err(gst::FlowError::Flushing),
            Err(Failure::Detect(error)) => {
                self.post_error_message(model::detector_message(&error));
                Err(gst::FlowError::Error)
            }
            Err(Failure::Restore(error)) => {
                self.post_error_message(model::restore_message(&error));
                Err(gst::FlowError::Error)
            }
        }
    }

    fn send_ready(&self, engine: &mut Engine) -> Result<(), gst::FlowError> {
        let mut result = Ok(());
        let mut pushed = None;
        let flushes = self.flushes();
        while let Some(item) = engine.stream.pop_ready() {
            if self.flushes() != flushes {
                break;
            }
            match item {
                // Downstream takes no more frames; what waits for a window stays, as with any element.
                Item::Buffer(buffer) | Item::Bypassed(buffer, _) if result.is_err() => drop(buffer),
                Item::Buffer(_) | Item::Bypassed(..) => {
                    let started = pushed.get_or_insert_with(Instant::now);
                    result = self.send(item);
                    engine.blocked = started.elapsed();
                }
                // Events are no part of the data flow.
                Item::Event(_) => self.send(item)?,
            }
        }
        if self.flushes() != flushes {
            // Somebody flushed in this very thread, from within a push, which is over; what was held is from before.
            self.forget(engine);
            return Ok(());
        }
        result
    }

    /// Flushes so far.
    fn flushes(&self) -> u32 {
        self.flushes.load(Ordering::SeqCst)
    }

    fn send(&self, item: Item) -> Result<(), gst::FlowError> {
        match item {
            Item::Bypassed(buffer, late) => {
                self.tell_bypassed(&buffer, late);
                self.send(Item::Buffer(buffer))
            }
            Item::Buffer(buffer) => {
                gst::log!(CAT, imp = self, "pushing {buffer:?}");
                self.note_position(&buffer);
                self.obj().src_pad().push(buffer)?;
                self.statistics.lock().frames_out += 1;
                Ok(())
            }
            Item::Event(event) => {
                gst::log!(CAT, imp = self, "sending {event:?}");
                // A refused event stops no data flow.
                let _ = self.parent_sink_event(event);
                Ok(())
            }
        }
    }

    /// Stream time of a frame's end, for those who ask. In stream time from here on: a query may not ask for the segment, for
    /// which the bindings take the lock that the streaming thread holds while it pushes.
    fn note_position(&self, buffer: &gst::BufferRef) {
        let Some(pts) = buffer.pts() else { return };
        let end = pts.saturating_add(buffer.duration().unwrap_or_default());
        let segment = self.obj().segment().downcast::<gst::ClockTime>().ok();
        *self.position.lock() = segment.and_then(|segment| segment.to_stream_time(end));
    }

    /// Brings controlled properties to the frame's time.
    fn sync_controlled(&self, buffer: &gst::BufferRef) {
        let obj = self.obj();
        let time = obj
            .segment()
            .downcast::<gst::ClockTime>()
            .ok()
            .and_then(|segment| segment.to_stream_time(buffer.pts()));
        if let Some(time) = time {
            // Fails where a binding has no value for the time: the property stays as it is then.
            let _ = obj.sync_values(time);
        }
    }

    /// Starts or ends passing frames through with `next`, after sending on those that are held.
    fn follow_disabled(&self, next: &gst::Buffer) -> Result<(), gst::FlowError> {
        let disabled = self.is_disabled();
        if self.latency.lock().disabled == disabled {
            return Ok(());
        }
        gst::debug!(
            CAT,
            imp = self,
            "{}",
            if disabled { "passing through" } else { "restoring" }
        );
        let drained = self.drain_before(Some(next));
        self.change_latency(|latency| latency.disabled = disabled);
        self.obj().set_passthrough(disabled);
        drained?;
        // What upstream knows of downstream's pools and metas is another's now.
        self.obj().reconfigure_sink();
        // The base class has no pool while frames pass through.
        self.obj().reconfigure_src();
        if self.obj().reconfigure() {
            Ok(())
        } else if self.obj().src_pad().pad_flags().contains(gst::PadFlags::FLUSHING) {
            Err(gst::FlowError::Flushing)
        } else {
            Err(gst::FlowError::NotNegotiated)
        }
    }

    fn observe_time(&self, buffer: &gst::BufferRef) {
        let time = self.running_time(buffer);
        self.change_latency(|latency| latency.observe(time, buffer.duration()));
    }

    /// Changes what the latency is made of, and says so on the bus if it is another one then.
    pub(super) fn change_latency(&self, change: impl FnOnce(&mut super::latency::Latency)) {
        let (before, after) = {
            let mut latency = self.latency.lock();
            let before = latency.total();
            change(&mut latency);
            (before, latency.total())
        };
        if before != after {
            gst::debug!(CAT, imp = self, "latency {after}");
            let _ = self
                .obj()
                .post_message(gst::message::Latency::builder().src(&*self.obj()).build());
        }
    }

    /// A buffer of the negotiated pool with the input's metadata.
    fn output_for(&self, buffer: &gst::Buffer) -> Result<gst::Buffer, gst::FlowError> {
        match self.parent_prepare_output_buffer(InputBuffer::Readable(buffer))? {
            PrepareOutputBufferSuccess::Buffer(output) => Ok(output),
            // The base class hands out the input while it passes through.
            PrepareOutputBufferSuccess::InputBuffer => buffer.copy_deep().map_err(|_| gst::FlowError::Error),
        }
    }
}

impl Engine {
    /// What the caps have set up.
    pub(super) fn picture(&self) -> Result<&Picture, Failure> {
        self.stream
            .picture()
            .ok_or(Failure::Flow(gst::FlowError::NotNegotiated))
    }
}

/// What can go wrong on the way.
pub(super) enum Failure {
    Restore(RestoreError),
    Detect(DetectorError),
    Flow(gst::FlowError),
}

impl From<RestoreError> for Failure {
    fn from(error: RestoreError) -> Self {
        Self::Restore(error)
    }
}
