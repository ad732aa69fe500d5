// SPDX-License-Identifier: MPL-2.0

//! Frames as the caps have them: read, cut out of larger ones, copied to memory that downstream can read.

use std::sync::atomic::Ordering;

use gst::glib;
use gst::subclass::prelude::*;
use gst_video::prelude::*;
use gst_video::{VideoCropMeta, VideoFrameRef, VideoInfo, VideoMeta, VideoRegionOfInterestMeta};

use super::cut;
use super::flow::Failure;
use super::imp::{DvFaceRestore, Engine};
use super::paste::plane_size;
use super::picture::ReadFrame;

impl DvFaceRestore {
    /// Why a frame cannot be read; `None` where it can, and where there are no caps that say how.
    pub(super) fn unreadable(&self, buffer: &gst::BufferRef) -> Option<String> {
        let info = self.engine.lock().as_ref()?.stream.picture()?.info().clone();
        read(buffer, &info).err()
    }

    /// The part of a frame that upstream wants to be seen (`GstVideoCropMeta`) by itself. While frames passed through, upstream was told
    /// what downstream knows, and this frame may have been made before upstream heard that they no longer do. The caps are of the part
    /// then; a crop of another size is something else, and stays as it is.
    pub(super) fn cropped(&self, buffer: gst::Buffer) -> Result<gst::Buffer, gst::FlowError> {
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
            move_regions(target, rect);
            output = Some(part);
            Ok(())
        })?;
        output.ok_or(gst::FlowError::Error)
    }

    /// The very buffer, or a copy of it where downstream could not read it.
    pub(super) fn handed_on(&self, buffer: gst::Buffer) -> Result<gst::Buffer, gst::FlowError> {
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
    pub(super) fn readable(&self, engine: &Engine, buffer: gst::Buffer) -> Result<gst::Buffer, Failure> {
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
    pub(super) fn copied(
        &self,
        engine: &Engine,
        buffer: &gst::Buffer,
        mut output: gst::Buffer,
    ) -> Result<gst::Buffer, Failure> {
        let picture = engine.picture()?;
        let info = picture.info();
        let input = self.mapped(buffer, info)?;
        VideoFrameRef::from_buffer_ref_writable(output.make_mut(), info)
            .and_then(|mut frame| picture.copy(&input, &mut frame))
            .map_err(|_| self.unmappable())?;
        Ok(output)
    }

    /// A frame to read, of those that are not [`unreadable`](Self::unreadable).
    pub(super) fn mapped<'a>(&self, buffer: &'a gst::BufferRef, info: &VideoInfo) -> Result<ReadFrame<'a>, Failure> {
        read(buffer, info).map_err(|reason| self.refused(&reason))
    }

    fn unmappable(&self) -> Failure {
        self.refused("cannot copy a frame: its memory cannot be mapped")
    }

    /// Tells why a frame cannot be taken.
    fn refused(&self, reason: &str) -> Failure {
        self.post_error_message(gst::error_msg!(gst::ResourceError::Failed, ("{reason}")));
        Failure::Flow(gst::FlowError::Error)
    }
}

/// A frame to read. Its rows must lie from the top down: the bindings, and GStreamer's scaler, take strides for positive.
///
/// # Errors
/// Says why it cannot be read.
fn read<'a>(buffer: &'a gst::BufferRef, info: &VideoInfo) -> Result<ReadFrame<'a>, String> {
    let frame = VideoFrameRef::from_buffer_ref_readable(buffer, info).map_err(|_| {
        let (format, width, height) = (info.format(), info.width(), info.height());
        format!(
            "cannot map a frame: expected {} bytes of {format}, {width}x{height}, or a GstVideoMeta of that size, found {} bytes",
            info.size(),
            buffer.size()
        )
    })?;
    if frame.plane_stride().iter().any(|stride| *stride < 0) {
        return Err("cannot take a frame whose rows lie from the bottom up (a negative stride in its meta)".into());
    }
    // Of tiled formats it counts tiles.
    let is_tiled = info.format_info().is_tiled();
    let is_short = |(plane, stride): (usize, &i32)| (*stride as usize) < plane_size(frame.info(), plane as u32).0;
    if !is_tiled && frame.plane_stride().iter().enumerate().any(is_short) {
        return Err(
            "cannot take a frame whose rows lie in each other (a stride in its meta is less than a row)".into(),
        );
    }
    // GStreamer maps what a meta says without a look at how much memory there is.
    let meta = buffer.meta::<VideoMeta>();
    if meta.is_some_and(|meta| (0..frame.n_planes()).any(|plane| !is_in_memory(&frame, &meta, info, plane))) {
        return Err(format!(
            "cannot take a frame whose GstVideoMeta promises more than its memory of {} bytes",
            buffer.size()
        ));
    }
    Ok(frame)
}

/// Whether there is memory for all of a plane, and one memory, for it is mapped from the one that it begins in.
fn is_in_memory(frame: &ReadFrame<'_>, meta: &VideoMeta, info: &VideoInfo, plane: u32) -> bool {
    let at = plane as usize;
    let length = if info.format_info().is_tiled() {
        let tiles = |stride: i32| (stride & 0xffff) as usize * (stride >> 16) as usize;
        let end = info.offset().get(at + 1).copied().unwrap_or(info.size());
        let of_caps = end - info.offset()[at];
        of_caps
            .div_ceil(tiles(info.stride()[at]).max(1))
            .checked_mul(tiles(frame.plane_stride()[at]))
    } else {
        let (row, rows) = match plane_size(frame.info(), plane) {
            // Of samples that share words: GStreamer copies all of a row, as long as the shorter stride.
            (0, rows) => (frame.plane_stride()[at].min(info.stride()[at]) as usize, rows),
            size => size,
        };
        let before = (frame.plane_stride()[at] as usize).checked_mul(rows.saturating_sub(1));
        before.and_then(|before| before.checked_add(row))
    };
    let start = meta.offset()[at];
    let end = length.and_then(|length| start.checked_add(length));
    let found = end.and_then(|end| frame.buffer().find_memory(start..end));
    found.is_some_and(|(memories, _)| memories.len() == 1)
}

/// Makes regions of interest of a frame those of its part `part`, which is all that there is then. One that is outside becomes empty, at
/// the edge: another may name it as its parent. The place of an analytics detection cannot be changed.
fn move_regions(target: &mut gst::BufferRef, part: (u32, u32, u32, u32)) {
    for mut meta in target.iter_meta_mut::<VideoRegionOfInterestMeta>() {
        let (x, y, width, height) = meta.rect();
        let side = |start: u32, length: u32, from: u32, limit: u32| {
            let within = |place: u32| place.saturating_sub(from).min(limit);
            let first = within(start);
            (first, within(start.saturating_add(length)) - first)
        };
        let (x, width) = side(x, width, part.0, part.2);
        let (y, height) = side(y, height, part.1, part.3);
        meta.set_rect((x, y, width, height));
    }
}

/// Gives `target`, whose rows and planes lie as the caps say, the metadata of `buffer`.
fn take_metadata(target: &mut gst::BufferRef, buffer: &gst::BufferRef) -> Result<(), glib::BoolError> {
    let what = gst::BufferCopyFlags::FLAGS | gst::BufferCopyFlags::TIMESTAMPS | gst::BufferCopyFlags::META;
    buffer.copy_into(target, what, ..)?;
    target.meta_mut::<VideoMeta>().map_or(Ok(()), gst::MetaRefMut::remove)
}
