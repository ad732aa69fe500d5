// SPDX-License-Identifier: MPL-2.0

//! Pixels: from a video frame into the square of a bundle, and what the bundle changed back into the frame.
//!
//! The frame is not replaced. The difference of the restored pixels to those that the graphs saw is added to the frame. So
//! errors of the way to RGB cancel out, detail finer than the bundle's size stays, 10-bit video keeps its steps, alpha keeps its
//! values, and a bundle that changes nothing changes no bit.

use gst::glib;
use gst_video::prelude::*;
use gst_video::{
    VideoConverterConfig, VideoFormat, VideoFormatInfo, VideoFrame, VideoFrameRef, VideoInfo, VideoResamplerMethod,
};

use super::convert::{Converter, plain_config};
use super::paste::{Paste, Share, plane_size};
use crate::mirror;
use crate::scene::{Area, Signature};

pub type ReadFrame<'a> = VideoFrameRef<&'a gst::BufferRef>;
pub(super) type WriteFrame<'a> = VideoFrameRef<&'a mut gst::BufferRef>;
pub(super) type OwnFrame = VideoFrame<gst_video::video_frame::Writable>;

/// Raw formats that the element takes: colours of 8 or 10 bits, which GstVideoConverter reads and writes. Those of a GStreamer newer
/// than the bindings have no name here, and no test.
pub fn formats() -> impl Iterator<Item = VideoFormat> {
    VideoFormat::iter_raw().filter(|format| {
        let info = VideoFormatInfo::from_format(*format);
        let depths = info.depth();
        // A fourth component is alpha, of which packed 10-bit formats have two bits (Y410 without the flag).
        let colours = &depths[..depths.len().min(3)];
        let is_known = !matches!(format, VideoFormat::__Unknown(_));
        is_known && !info.has_palette() && !colours.is_empty() && colours.iter().all(|depth| matches!(depth, 8 | 10))
    })
}

/// The largest centred rectangle of `width` x `height` pixels that shows the frame of `info` undistorted (letterbox).
pub fn letterbox(info: &VideoInfo, width: u32, height: u32) -> Area {
    // Display aspect ratio: of the pixels' number and of their shape.
    let aspect_width = u128::from(info.width()) * info.par().numer().max(1) as u128;
    let aspect_height = u128::from(info.height()) * info.par().denom().max(1) as u128;
    let (box_width, box_height) = (u128::from(width), u128::from(height));
    // Rounded to the nearest pixel, at least one.
    let scaled = |side: u128, by: u128, over: u128, limit: u128| ((side * by + over / 2) / over).clamp(1, limit) as u32;
    let (fit_width, fit_height) = if aspect_width * box_height >= aspect_height * box_width {
        (width, scaled(aspect_height, box_width, aspect_width, box_height))
    } else {
        (scaled(aspect_width, box_height, aspect_height, box_width), height)
    };
    Area {
        x: (width - fit_width) / 2,
        y: (height - fit_height) / 2,
        width: fit_width,
        height: fit_height,
    }
}

/// The whole of a frame with these caps.
pub(super) fn whole(info: &VideoInfo) -> Area {
    Area {
        x: 0,
        y: 0,
        width: info.width(),
        height: info.height(),
    }
}

/// Converts part of frames to packed RGB of a bundle's size.
pub(super) struct Crop(Converter);

impl Crop {
    /// Of the part `source` of frames of `info`, into `place` of frames of `rgb`, between black borders ([`Picture::read`] fills them).
    ///
    /// # Errors
    /// Fails where GstVideoConverter does not convert between the two.
    pub fn new(info: &VideoInfo, source: Area, rgb: &VideoInfo, place: Area) -> Result<Self, glib::BoolError> {
        Self::with_config(info, source, rgb, place, plain_config())
    }

    fn with_config(
        info: &VideoInfo,
        source: Area,
        rgb: &VideoInfo,
        place: Area,
        mut config: VideoConverterConfig,
    ) -> Result<Self, glib::BoolError> {
        set_source(&mut config, source);
        config.set_dest_x(place.x as i32);
        config.set_dest_y(place.y as i32);
        config.set_dest_width(Some(place.width as i32));
        config.set_dest_height(Some(place.height as i32));
        config.set_fill_border(true);
        config.set_border_argb(0xff00_0000);
        let rows = source.height.min(place.height);
        Ok(Self(Converter::new(info, rgb, config, rows)?))
    }

    /// Of whole frames to whole ones: where they get hardly smaller with the filter of four taps that is used for larger ones, which
    /// is twice as fast as one of five.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn quick(info: &VideoInfo, rgb: &VideoInfo) -> Result<Self, glib::BoolError> {
        let mut config = plain_config();
        // Four fifths and more.
        let is_near = |from: u32, to: u32| from * 4 <= to * 5;
        if is_near(info.width(), rgb.width()) && is_near(info.height(), rgb.height()) {
            config.set_resampler_taps(4);
        }
        Self::with_config(info, whole(info), rgb, whole(rgb), config)
    }

    /// Of whole frames, with a filter that is fast and aliases a little: to look at, not to restore.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn coarse(info: &VideoInfo, rgb: &VideoInfo, place: Area) -> Result<Self, glib::BoolError> {
        let mut config = plain_config();
        config.set_resampler_method(VideoResamplerMethod::Linear);
        config.set_resampler_taps(2);
        Self::with_config(info, whole(info), rgb, place, config)
    }

    /// Writes packed pixels, [H, W, 3]; `rgb` is memory for the way.
    pub fn read(&self, frame: &ReadFrame<'_>, rgb: &mut OwnFrame, pixels: &mut [u8]) {
        self.0.convert(frame, &mut rgb.as_mut_video_frame_ref());
        let (row_bytes, stride) = (rgb.width() as usize * 3, rgb.plane_stride()[0] as usize);
        let data = rgb.plane_data(0).expect("RGB has one plane");
        for (row, source) in pixels.chunks_exact_mut(row_bytes).zip(data.chunks(stride)) {
            row.copy_from_slice(&source[..row_bytes]);
        }
    }
}

/// Converts between whole frames of one caps and packed RGB of a bundle's size.
pub struct Picture {
    info: VideoInfo,
    /// Where the picture lies in the bundle's frame.
    place: Area,
    crop: Crop,
    paste: Paste,
    /// Packed RGB, of the bundle's size.
    rgb: OwnFrame,
}

impl Picture {
    /// For frames of `info` and a bundle of `width` x `height` pixels.
    ///
    /// # Errors
    /// Fails where GstVideoConverter does not convert between the two, or memory lacks.
    pub fn new(info: &VideoInfo, width: u32, height: u32) -> Result<Self, glib::BoolError> {
        let rgb = rgb_info(info, width, height)?;
        let place = letterbox(info, width, height);
        Ok(Self {
            info: info.clone(),
            place,
            crop: Crop::new(info, whole(info), &rgb, place)?,
            paste: Paste::new(info, (width, height), place)?,
            rgb: new_frame(&rgb)?,
        })
    }

    /// Bytes of a frame as [`read`](Self::read) gives it.
    pub fn read_bytes(&self) -> usize {
        self.rgb.width() as usize * self.rgb.height() as usize * 3
    }

    pub fn info(&self) -> &VideoInfo {
        &self.info
    }

    /// The colours of a frame as [`read`](Self::read) gives it, without the borders.
    pub fn signature(&self, pixels: &[u8]) -> Signature {
        Signature::of(pixels, self.rgb.width(), self.place)
    }

    /// Copies a frame.
    ///
    /// # Errors
    /// Fails where a frame's meta gives another size than the caps.
    pub fn copy(&self, source: &ReadFrame<'_>, target: &mut WriteFrame<'_>) -> Result<(), glib::BoolError> {
        source.copy(target)?;
        // Of packed 4:2:2 with an odd width, GStreamer's copy leaves out the last chroma sample.
        if self.info.width() % 2 == 1 && self.info.n_planes() == 1 {
            let (row_bytes, rows) = plane_size(&self.info, 0);
            let strides = (source.plane_stride()[0] as usize, target.plane_stride()[0] as usize);
            let row_bytes = row_bytes.min(strides.0).min(strides.1);
            let sources = source.plane_data(0)?.chunks(strides.0);
            let targets = target.plane_data_mut(0)?.chunks_mut(strides.1);
            for (target, source) in targets.zip(sources).take(rows) {
                target[..row_bytes].copy_from_slice(&source[..row_bytes]);
            }
        }
        Ok(())
    }

    /// Converts and scales a frame to packed RGB [H, W, 3], what is beside it its mirror image.
    pub fn read(&mut self, frame: &ReadFrame<'_>, pixels: &mut [u8]) {
        self.crop.read(frame, &mut self.rgb, pixels);
        mirror::fill(pixels, self.rgb.width(), self.place);
    }

    /// Adds to `frame`, the original, `strength` (0 to 1) times what the graphs changed: from `seen`, packed RGB
    /// [H, W, 3], to what `draw` writes, likewise.
    pub fn apply(&mut self, frame: &mut WriteFrame<'_>, strength: f64, seen: &[u8], draw: impl FnOnce(&mut [u8])) {
        let share = Share {
            strength,
            weights: None,
            matches_colours: false,
        };
        self.paste.apply(frame, whole(&self.info), share, seen, draw);
    }
}

/// Packed RGB of a bundle's size, for frames of `info`.
pub(super) fn rgb_info(info: &VideoInfo, width: u32, height: u32) -> Result<VideoInfo, glib::BoolError> {
    // GstVideoConverter refuses two frame rates.
    VideoInfo::builder(VideoFormat::Rgb, width, height)
        .fps(info.fps())
        .build()
}

/// Converts only this part.
fn set_source(config: &mut VideoConverterConfig, source: Area) {
    config.set_src_x(source.x as i32);
    config.set_src_y(source.y as i32);
    config.set_src_width(Some(source.width as i32));
    config.set_src_height(Some(source.height as i32));
}

/// A frame of zeros. GstVideoConverter leaves what is no pixel as it is (the end of rows of packed formats with odd widths, unused
/// bits), and what two frames differ in there must not get into a third.
pub(super) fn new_frame(info: &VideoInfo) -> Result<OwnFrame, glib::BoolError> {
    let mut buffer = gst::Buffer::with_size(info.size())?;
    buffer.make_mut().map_writable()?.fill(0);
    VideoFrame::from_buffer_writable(buffer, info)
        .map_err(|_| glib::bool_error!("cannot map a frame of {}", info.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(format: VideoFormat, size: (u32, u32), par: (i32, i32)) -> VideoInfo {
        gst::init().unwrap();
        VideoInfo::builder(format, size.0, size.1)
            .par(gst::Fraction::new(par.0, par.1))
            .build()
            .unwrap()
    }

    #[test]
    fn a_new_frame_has_nothing_of_old_memory() {
        let info = info(VideoFormat::Yuy2, (33, 7), (1, 1));
        for _ in 0..64 {
            // The allocator gives this memory again.
            drop(std::hint::black_box(vec![0xa5u8; info.size() + 7]));
            let frame = new_frame(&info).unwrap();
            assert!(frame.plane_data(0).unwrap().iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn the_letterbox_is_the_largest_centred_rectangle() {
        let place = |size, par, bundle: (u32, u32)| {
            let place = letterbox(&info(VideoFormat::Rgb, size, par), bundle.0, bundle.1);
            (place.x, place.y, place.width, place.height)
        };
        assert_eq!(place((512, 512), (1, 1), (512, 512)), (0, 0, 512, 512));
        assert_eq!(place((1920, 1080), (1, 1), (512, 512)), (0, 112, 512, 288));
        assert_eq!(place((1080, 1920), (1, 1), (512, 512)), (112, 0, 288, 512));
        assert_eq!(place((32, 32), (2, 1), (32, 32)), (0, 8, 32, 16));
        assert_eq!(place((720, 576), (16, 15), (512, 512)), (0, 64, 512, 384));
        assert_eq!(place((100, 100), (1, 1), (640, 352)), (144, 0, 352, 352));
        assert_eq!(place((8192, 1), (1, 1), (32, 32)), (0, 15, 32, 1));
        assert_eq!(place((1, 8192), (1, i32::MAX), (32, 32)), (15, 0, 1, 32));
    }

    /// What the graphs see of a frame of one value.
    fn seen(info: &VideoInfo, value: u8, bundle: (u32, u32)) -> Vec<u8> {
        let mut picture = Picture::new(info, bundle.0, bundle.1).unwrap();
        let buffer = gst::Buffer::from_slice(vec![value; info.size()]);
        let frame = VideoFrameRef::from_buffer_ref_readable(&buffer, info).unwrap();
        let mut pixels = vec![99; bundle.0 as usize * bundle.1 as usize * 3];
        picture.read(&frame, &mut pixels);
        pixels
    }

    #[test]
    fn the_graphs_see_no_border() {
        for (size, par) in [
            ((64, 16), (1, 1)),
            ((16, 64), (1, 1)),
            ((32, 32), (2, 1)),
            ((32, 32), (389, 388)),
            ((30, 50), (1, 3)),
        ] {
            let pixels = seen(&info(VideoFormat::Rgb, size, par), 200, (32, 32));
            // GStreamer's scaler rounds its weights.
            let worst = pixels.iter().map(|value| value.abs_diff(200)).max();
            assert!(worst <= Some(3), "{size:?}: {worst:?}");
        }
    }

    /// GstVideoConverter keeps rows of the frame before.
    #[test]
    fn a_frame_of_few_rows_is_not_the_one_before() {
        for (format, size, bundle) in [
            (VideoFormat::I420, (400, 1), (32, 32)),
            (VideoFormat::I420, (400, 24), (32, 32)),
            (VideoFormat::Yuy2, (400, 12), (32, 32)),
            (VideoFormat::Gray8, (64, 1), (64, 64)),
            (VideoFormat::V210, (48, 1), (48, 48)),
            (VideoFormat::V210, (48, 9), (48, 48)),
            (VideoFormat::Uyvp, (48, 1), (32, 32)),
        ] {
            let info = info(format, size, (1, 1));
            let mut picture = Picture::new(&info, bundle.0, bundle.1).unwrap();
            let mut pixels = vec![0; bundle.0 as usize * bundle.1 as usize * 3];
            let mut last = Vec::new();
            for value in [40u8, 200, 90] {
                let mut buffer = gst::Buffer::from_slice(vec![value; info.size()]);
                {
                    let frame = VideoFrameRef::from_buffer_ref_readable(&buffer, &info).unwrap();
                    picture.read(&frame, &mut pixels);
                }
                assert!(pixels != last, "{format:?}, {size:?}");
                last.clone_from(&pixels);
                // What the graphs do not change stays.
                let before = buffer.map_readable().unwrap().to_vec();
                let mut frame = VideoFrameRef::from_buffer_ref_writable(buffer.get_mut().unwrap(), &info).unwrap();
                picture.apply(&mut frame, 1.0, &last, |restored| restored.copy_from_slice(&last));
                drop(frame);
                let row = crate::dvfacerestore::paste::plane_size(&info, 0).0;
                let after = buffer.map_readable().unwrap();
                assert!(after[..row] == before[..row], "{format:?}, {size:?}");
            }
        }
    }

    /// Rows of a bundle's frame whose bytes are no multiple of 4 are packed all the same.
    #[test]
    fn rows_of_any_width_are_packed() {
        let info = info(VideoFormat::Rgb, (33, 7), (1, 1));
        assert_eq!(seen(&info, 50, (33, 7)), [50; 33 * 7 * 3]);
        let mut picture = Picture::new(&info, 33, 7).unwrap();
        let mut buffer = gst::Buffer::from_slice(vec![50; info.size()]);
        let before = vec![50; 33 * 7 * 3];
        let changed: Vec<u8> = (0..33 * 7 * 3).map(|at| (at % 200) as u8).collect();
        let mut frame = VideoFrameRef::from_buffer_ref_writable(buffer.get_mut().unwrap(), &info).unwrap();
        picture.apply(&mut frame, 1.0, &before, |pixels| pixels.copy_from_slice(&changed));
        let stride = info.stride()[0] as usize;
        let rows = frame.plane_data(0).unwrap().chunks(stride);
        let found: Vec<u8> = rows.flat_map(|row| &row[..33 * 3]).copied().collect();
        assert_eq!(found, changed);
    }
}
