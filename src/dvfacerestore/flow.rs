// SPDX-License-Identifier: MPL-2.0

//! The way of frames and events through the element: in, held, out; all of it in the streaming thread.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::base_transform::{InputBuffer, PrepareOutputBufferSuccess};
use gst_base::subclass::prelude::*;
use gst_video::prelude::*;
use gst_video::{VideoCropMeta, VideoFrameRef, VideoInfo, VideoMeta};

use super::cut;
use super::imp::{CAT, DvFaceRestore, Engine};
use super::model;
use super::paste::plane_size;
use super::picture::{Picture, ReadFrame};
use super::regions::Region;
use super::settings::Overload;
use super::stream::{Frame, Item};
use crate::face::detector::DetectorError;
use crate::pace::Cause;
use crate::restorer::RestoreError;

impl DvFaceRestore {
    /// Takes a frame from upstream, and sends on all that it completes.
    pub(super) fn take_frame(&self, buffer: gst::Buffer) -> Result<(), gst::FlowError> {
        if self.failed.swap(false, Ordering::SeqCst) {
            return Err(gst::FlowError::Error);
        }
        self.sync_controlled(&buffer);
        self.statistics.lock().frames_in += 1;
        self.follow_disabled(&buffer)?;
        self.observe_time(&buffer);
        if self.latency.lock().disabled {
            self.statistics.lock().counts.bypassed += 1;
            let buffer = self.handed_on(buffer)?;
            return self.send(Item::Buffer(buffer));
        }
        let buffer = self.cropped(buffer)?;
        if self.is_reverse() {
            self.tell_reverse();
            return self.take_unrestored(&buffer);
        }
        // Not the base class's `is_discont`, which stays set until it has pushed a buffer itself.
        if buffer.flags().contains(gst::BufferFlags::DISCONT) {
            self.drain_before(Some(&buffer))?;
        }
        if self.begins_scene(&buffer)? {
            gst::debug!(CAT, imp = self, "scene cut before {buffer:?}");
            self.drain_before(Some(&buffer))?;
        }
        let Some(regions) = self.find_regions(&buffer)? else {
            // What was held has gone, too.
            let buffer = self.handed_on(buffer)?;
            self.statistics.lock().counts.bypassed += 1;
            return self.send(Item::Bypassed(buffer, Duration::ZERO));
        };
        if regions.is_empty() && !self.holds_frames() {
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

    fn holds_frames(&self) -> bool {
        let engine = self.engine.lock();
        engine.as_ref().is_some_and(|engine| engine.stream.holds_frames())
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

    /// The part of a frame that upstream wants to be seen (`GstVideoCropMeta`) by itself. While frames passed through, upstream was told
    /// what downstream knows, and this frame may have been made before upstream heard that they no longer do. The caps are of the part
    /// then; a crop of another size is something else, and stays as it is.
    fn cropped(&self, buffer: gst::Buffer) -> Result<gst::Buffer, gst::FlowError> {
        let Some(rect) = buffer.meta::<VideoCropMeta>().map(|meta| meta.rect()) else {
            return Ok(buffer);
        };
        let mut output = None;
        self.with_engine(|engine, _| {
            let info = engine.picture()?.info();
            if (rect.2, rect.3) != (info.width(), info.height()) {
                output = Some(buffer);
                return Ok(());
            }
            let cut = cut::part_of(info, &self.mapped(&buffer, info)?, (rect.0, rect.1));
            let mut part = cut.map_err(|error| self.refused(&format!("cannot crop a frame: {error}")))?;
            let target = part.make_mut();
            take_metadata(target, &buffer).map_err(|_| self.unmappable())?;
            if let Some(meta) = target.meta_mut::<VideoCropMeta>() {
                meta.remove().map_err(|_| self.unmappable())?;
            }
            output = Some(part);
            Ok(())
        })?;
        output.ok_or(gst::FlowError::Error)
    }

    /// The very buffer, or a copy of it where downstream could not read it.
    fn handed_on(&self, buffer: gst::Buffer) -> Result<gst::Buffer, gst::FlowError> {
        if !self.may_lie_elsewhere(&buffer) {
            return Ok(buffer);
        }
        let mut output = None;
        self.with_engine(|engine, _| {
            output = Some(self.readable(engine, buffer)?);
            Ok(())
        })?;
        output.ok_or(gst::FlowError::Error)
    }

    /// Upstream may have been told of `GstVideoMeta` by the base class, which copies frames, and downstream not know it: the
    /// rows and planes of a frame that is not copied must lie as the caps say then.
    fn may_lie_elsewhere(&self, buffer: &gst::BufferRef) -> bool {
        !self.knows_video_meta.load(Ordering::SeqCst) && buffer.meta::<VideoMeta>().is_some()
    }

    /// As [`handed_on`](Self::handed_on), for those who have the engine.
    fn readable(&self, engine: &Engine, buffer: gst::Buffer) -> Result<gst::Buffer, Failure> {
        let info = engine.picture()?.info();
        let is_plain = |meta: gst::MetaRef<VideoMeta>| {
            meta.stride() == info.stride() && meta.offset() == info.offset() && buffer.size() >= info.size()
        };
        if !self.may_lie_elsewhere(&buffer) || buffer.meta().is_some_and(is_plain) {
            return Ok(buffer);
        }
        let output = self.tight_as(info, &buffer).map_err(|_| self.unmappable())?;
        self.copied(engine, &buffer, output)
    }

    /// A buffer for a frame of `info` whose rows and planes lie as the caps say, with the metadata of `buffer`.
    fn tight_as(&self, info: &VideoInfo, buffer: &gst::BufferRef) -> Result<gst::Buffer, glib::BoolError> {
        let mut output = gst::Buffer::with_size(info.size())?;
        take_metadata(output.make_mut(), buffer)?;
        Ok(output)
    }

    /// The pixels of `buffer` in `output`. Downstream may not read the memory that upstream uses.
    fn copied(&self, engine: &Engine, buffer: &gst::Buffer, mut output: gst::Buffer) -> Result<gst::Buffer, Failure> {
        let picture = engine.picture()?;
        let info = picture.info();
        let input = self.mapped(buffer, info)?;
        VideoFrameRef::from_buffer_ref_writable(output.make_mut(), info)
            .and_then(|mut frame| picture.copy(&input, &mut frame))
            .map_err(|_| self.unmappable())?;
        Ok(output)
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
    fn with_engine(&self, work: impl FnOnce(&mut Engine, bool) -> Result<(), Failure>) -> Result<(), gst::FlowError> {
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
        while let Some(item) = engine.stream.pop_ready() {
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
        result
    }

    fn send(&self, item: Item) -> Result<(), gst::FlowError> {
        match item {
            Item::Bypassed(buffer, late) => {
                self.tell_bypassed(&buffer, late);
                self.send(Item::Buffer(buffer))
            }
            Item::Buffer(buffer) => {
                gst::log!(CAT, imp = self, "pushing {buffer:?}");
                self.statistics.lock().frames_out += 1;
                self.note_position(&buffer);
                self.obj().src_pad().push(buffer).map(|_| ())
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

    /// A frame to read. Its rows must lie from the top down: the bindings, and GStreamer's scaler, take strides for positive.
    fn mapped<'a>(&self, buffer: &'a gst::BufferRef, info: &VideoInfo) -> Result<ReadFrame<'a>, Failure> {
        let frame = VideoFrameRef::from_buffer_ref_readable(buffer, info).map_err(|_| self.unmappable())?;
        if frame.plane_stride().iter().any(|stride| *stride < 0) {
            return Err(
                self.refused("cannot take a frame whose rows lie from the bottom up (a negative stride in its meta)")
            );
        }
        // Of tiled formats it counts tiles.
        let is_tiled = info.format_info().is_tiled();
        let is_short = |(plane, stride): (usize, &i32)| (*stride as usize) < plane_size(frame.info(), plane as u32).0;
        if !is_tiled && frame.plane_stride().iter().enumerate().any(is_short) {
            return Err(self.refused(
                "cannot take a frame whose rows lie in each other (a stride in its meta is less than a row)",
            ));
        }
        Ok(frame)
    }

    fn unmappable(&self) -> Failure {
        self.refused("cannot map a frame: its memory is not the caps'")
    }

    /// Tells why a frame cannot be taken.
    fn refused(&self, reason: &str) -> Failure {
        self.post_error_message(gst::error_msg!(gst::ResourceError::Failed, ("{reason}")));
        Failure::Flow(gst::FlowError::Error)
    }
}

/// Gives `target`, whose rows and planes lie as the caps say, the metadata of `buffer`.
fn take_metadata(target: &mut gst::BufferRef, buffer: &gst::BufferRef) -> Result<(), glib::BoolError> {
    let what = gst::BufferCopyFlags::FLAGS | gst::BufferCopyFlags::TIMESTAMPS | gst::BufferCopyFlags::META;
    buffer.copy_into(target, what, ..)?;
    target.meta_mut::<VideoMeta>().map_or(Ok(()), gst::MetaRefMut::remove)
}

impl Engine {
    /// What the caps have set up.
    fn picture(&self) -> Result<&Picture, Failure> {
        self.stream
            .picture()
            .ok_or(Failure::Flow(gst::FlowError::NotNegotiated))
    }
}

/// What can go wrong on the way.
enum Failure {
    Restore(RestoreError),
    Detect(DetectorError),
    Flow(gst::FlowError),
}

impl From<RestoreError> for Failure {
    fn from(error: RestoreError) -> Self {
        Self::Restore(error)
    }
}
