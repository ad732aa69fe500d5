//! Pixels: from a video frame into the square of a bundle, and back with a strength.

use gst::glib;
use gst_video::prelude::*;
use gst_video::{
    VideoConverter, VideoConverterConfig, VideoDitherMethod, VideoFormat, VideoFormatInfo, VideoFrame, VideoFrameRef,
    VideoInfo,
};

type ReadFrame<'a> = VideoFrameRef<&'a gst::BufferRef>;
type WriteFrame<'a> = VideoFrameRef<&'a mut gst::BufferRef>;

/// Raw formats that an element can take: components of 8 or 10 bits, which GstVideoConverter reads and writes.
pub fn formats() -> impl Iterator<Item = VideoFormat> {
    VideoFormat::iter_raw().filter(|format| {
        let info = VideoFormatInfo::from_format(*format);
        !info.has_palette()
            && !info.depth().is_empty()
            && info
                .depth()
                .iter()
                .all(|depth| matches!(depth, 8 | 10) || is_small_alpha(&info, *depth))
    })
}

/// Packed 10-bit formats leave two bits for alpha.
fn is_small_alpha(info: &VideoFormatInfo, depth: u32) -> bool {
    info.has_alpha() && depth == 2
}

/// Where the picture lies in the bundle's frame, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rect {
    pub x: u32,
    pub y: u32,
    pub width: u32,
    pub height: u32,
}

/// The largest centred rectangle of `width` x `height` pixels that shows the frame of `info` undistorted (letterbox).
pub fn letterbox(info: &VideoInfo, width: u32, height: u32) -> Rect {
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
    Rect {
        x: (width - fit_width) / 2,
        y: (height - fit_height) / 2,
        width: fit_width,
        height: fit_height,
    }
}

/// How a restored frame and the original are mixed in the frame's own format.
enum Mixer {
    /// Every byte is one component of one pixel.
    Bytes,
    /// Every 16-bit word is one component, in the bits of the mask.
    Words { little_endian: bool, mask: u16 },
    /// Components share words: mixed in the format that GStreamer unpacks them to, with 16 bits.
    Unpacked(Box<Unpacked>),
}

/// Ways to an unpacked format and back, and memory for both frames there.
struct Unpacked {
    unpack: VideoConverter,
    pack: VideoConverter,
    original: VideoFrame<gst_video::video_frame::Writable>,
    restored: VideoFrame<gst_video::video_frame::Writable>,
    has_alpha: bool,
}

/// Converts between frames of one caps and packed RGB of a bundle's size.
pub struct Picture {
    info: VideoInfo,
    rgb: VideoInfo,
    into_rgb: VideoConverter,
    from_rgb: VideoConverter,
    /// Packed RGB, of the bundle's size.
    scratch: VideoFrame<gst_video::video_frame::Writable>,
    /// The restored frame where it is not written to its place at once.
    restored: VideoFrame<gst_video::video_frame::Writable>,
    mixer: Mixer,
}

impl Picture {
    /// For frames of `info` and a bundle of `width` x `height` pixels.
    ///
    /// # Errors
    /// Fails where GstVideoConverter does not convert between the two, or memory lacks.
    pub fn new(info: &VideoInfo, width: u32, height: u32) -> Result<Self, glib::BoolError> {
        // GstVideoConverter refuses two frame rates.
        let rgb = VideoInfo::builder(VideoFormat::Rgb, width, height)
            .fps(info.fps())
            .build()?;
        let place = letterbox(info, width, height);
        let signed = |value: u32| value as i32;

        let mut config = plain_config();
        config.set_dest_x(signed(place.x));
        config.set_dest_y(signed(place.y));
        config.set_dest_width(Some(signed(place.width)));
        config.set_dest_height(Some(signed(place.height)));
        config.set_fill_border(true);
        config.set_border_argb(0xff00_0000);
        let into_rgb = VideoConverter::new(info, &rgb, Some(config))?;

        let mut config = plain_config();
        config.set_src_x(signed(place.x));
        config.set_src_y(signed(place.y));
        config.set_src_width(Some(signed(place.width)));
        config.set_src_height(Some(signed(place.height)));
        let from_rgb = VideoConverter::new(&rgb, info, Some(config))?;

        Ok(Self {
            scratch: new_frame(&rgb)?,
            restored: new_frame(info)?,
            mixer: Mixer::new(info)?,
            info: info.clone(),
            rgb,
            into_rgb,
            from_rgb,
        })
    }

    pub fn info(&self) -> &VideoInfo {
        &self.info
    }

    /// Converts and scales a frame to packed RGB [H, W, 3], the borders black.
    pub fn read(&mut self, frame: &ReadFrame<'_>, pixels: &mut [u8]) {
        self.into_rgb
            .frame_ref(frame, &mut self.scratch.as_mut_video_frame_ref());
        let row_bytes = self.rgb.width() as usize * 3;
        let stride = self.scratch.plane_stride()[0] as usize;
        let data = self.scratch.plane_data(0).expect("RGB has one plane");
        for (row, source) in pixels.chunks_exact_mut(row_bytes).zip(data.chunks(stride)) {
            row.copy_from_slice(&source[..row_bytes]);
        }
    }

    /// Puts restored pixels, packed RGB [H, W, 3] that `draw` writes row by row into the memory it is given, in the place
    /// of `frame`, which holds the original. `strength` is their share, 0 to 1; alpha stays the original's.
    pub fn write(&mut self, frame: &mut WriteFrame<'_>, strength: f64, draw: impl FnOnce(&mut [u8])) {
        let row_bytes = self.rgb.width() as usize * 3;
        let stride = self.scratch.plane_stride()[0] as usize;
        let rows = self.rgb.height() as usize;
        let data = self.scratch.plane_data_mut(0).expect("RGB has one plane");
        if stride == row_bytes {
            draw(&mut data[..row_bytes * rows]);
        } else {
            let mut packed = vec![0; row_bytes * rows];
            draw(&mut packed);
            for (row, source) in data.chunks_mut(stride).zip(packed.chunks_exact(row_bytes)) {
                row[..row_bytes].copy_from_slice(source);
            }
        }
        let scratch = self.scratch.as_video_frame_ref();
        if strength >= 1.0 && !self.info.has_alpha() {
            self.from_rgb.frame_ref(&scratch, frame);
            return;
        }
        self.from_rgb
            .frame_ref(&scratch, &mut self.restored.as_mut_video_frame_ref());
        // Shares of 2^14, so that products stay within 32 bits.
        let share = (strength.clamp(0.0, 1.0) * f64::from(FULL)).round() as u32;
        match &mut self.mixer {
            Mixer::Unpacked(unpacked) => unpacked.mix(frame, &self.restored, share),
            mixer => {
                copy_alpha(&self.info, frame, &mut self.restored);
                mix_planes(&self.info, mixer, frame, &self.restored, share);
            }
        }
    }
}

/// Share of 1 in fixed point.
const FULL: u32 = 1 << 14;

fn mixed(original: u32, restored: u32, share: u32) -> u32 {
    (original * (FULL - share) + restored * share + FULL / 2) / FULL
}

/// No dither, so that a frame's pixels depend on its pixels only.
fn plain_config() -> VideoConverterConfig {
    let mut config = VideoConverterConfig::new();
    config.set_dither_method(VideoDitherMethod::None);
    config
}

fn new_frame(info: &VideoInfo) -> Result<VideoFrame<gst_video::video_frame::Writable>, glib::BoolError> {
    let buffer = gst::Buffer::with_size(info.size())?;
    VideoFrame::from_buffer_writable(buffer, info)
        .map_err(|_| glib::bool_error!("cannot map a frame of {}", info.name()))
}

impl Mixer {
    fn new(info: &VideoInfo) -> Result<Self, glib::BoolError> {
        let format = info.format_info();
        if !format.is_complex() && !format.is_tiled() {
            if format.depth().iter().all(|depth| *depth == 8) {
                return Ok(Self::Bytes);
            }
            let (depth, shift) = (format.depth()[0], format.shift()[0]);
            if format.depth().iter().all(|d| *d == depth)
                && format.shift().iter().all(|s| *s == shift)
                && depth + shift <= 16
            {
                return Ok(Self::Words {
                    little_endian: format.is_le(),
                    mask: (((1u32 << depth) - 1) << shift) as u16,
                });
            }
        }
        let wide = if format.is_yuv() || format.is_gray() {
            VideoFormat::Ayuv64
        } else {
            VideoFormat::Argb64
        };
        let wide = VideoInfo::builder(wide, info.width(), info.height())
            .colorimetry(&info.colorimetry())
            .fps(info.fps())
            .build()?;
        Ok(Self::Unpacked(Box::new(Unpacked {
            unpack: VideoConverter::new(info, &wide, Some(plain_config()))?,
            pack: VideoConverter::new(&wide, info, Some(plain_config()))?,
            original: new_frame(&wide)?,
            restored: new_frame(&wide)?,
            has_alpha: info.has_alpha(),
        })))
    }
}

impl Unpacked {
    fn mix(&mut self, frame: &mut WriteFrame<'_>, restored: &VideoFrame<gst_video::video_frame::Writable>, share: u32) {
        self.unpack
            .frame_ref(frame, &mut self.original.as_mut_video_frame_ref());
        self.unpack.frame_ref(
            &restored.as_video_frame_ref(),
            &mut self.restored.as_mut_video_frame_ref(),
        );
        let restored = self.restored.plane_data(0).expect("packed formats have one plane");
        let original = self.original.plane_data_mut(0).expect("packed formats have one plane");
        let words = original.chunks_exact_mut(2).zip(restored.chunks_exact(2));
        for (index, (original, restored)) in words.enumerate() {
            // Four words a pixel, alpha first.
            if self.has_alpha && index % 4 == 0 {
                continue;
            }
            let value = mixed(
                u16::from_ne_bytes([original[0], original[1]]).into(),
                u16::from_ne_bytes([restored[0], restored[1]]).into(),
                share,
            );
            original.copy_from_slice(&(value as u16).to_ne_bytes());
        }
        self.pack.frame_ref(&self.original.as_video_frame_ref(), frame);
    }
}

/// Bytes of a plane's row that hold pixels.
fn row_bytes(info: &VideoInfo, plane: usize) -> usize {
    let format = info.format_info();
    (0..format.n_components() as usize)
        .filter(|component| format.plane()[*component] as usize == plane)
        .map(|component| {
            format.scale_width(component as u8, info.width()) as usize * format.pixel_stride()[component] as usize
        })
        .max()
        .unwrap_or(0)
}

/// Rows of a plane.
fn rows(info: &VideoInfo, plane: usize) -> usize {
    let format = info.format_info();
    (0..format.n_components() as usize)
        .find(|component| format.plane()[*component] as usize == plane)
        .map_or(0, |component| {
            format.scale_height(component as u8, info.height()) as usize
        })
}

fn mix_planes(
    info: &VideoInfo,
    mixer: &Mixer,
    frame: &mut WriteFrame<'_>,
    restored: &VideoFrame<gst_video::video_frame::Writable>,
    share: u32,
) {
    for plane in 0..info.n_planes() as usize {
        let (row_bytes, rows) = (row_bytes(info, plane), rows(info, plane));
        let (stride, restored_stride) = (
            frame.plane_stride()[plane] as usize,
            restored.plane_stride()[plane] as usize,
        );
        let source = restored.plane_data(plane as u32).expect("both have the same planes");
        let target = frame.plane_data_mut(plane as u32).expect("both have the same planes");
        for (target, source) in target.chunks_mut(stride).zip(source.chunks(restored_stride)).take(rows) {
            let pairs = target.iter_mut().zip(source).take(row_bytes);
            match mixer {
                Mixer::Words { little_endian, mask } => {
                    mix_words(
                        &mut target[..row_bytes],
                        &source[..row_bytes],
                        share,
                        *little_endian,
                        *mask,
                    );
                }
                _ => pairs.for_each(|(t, s)| *t = mixed((*t).into(), (*s).into(), share) as u8),
            }
        }
    }
}

fn mix_words(target: &mut [u8], source: &[u8], share: u32, little_endian: bool, mask: u16) {
    let read = |bytes: &[u8]| {
        let bytes = [bytes[0], bytes[1]];
        let word = if little_endian {
            u16::from_le_bytes(bytes)
        } else {
            u16::from_be_bytes(bytes)
        };
        u32::from(word & mask)
    };
    let half = u32::from(mask & mask.wrapping_neg()) / 2;
    for (target, source) in target.chunks_exact_mut(2).zip(source.chunks_exact(2)) {
        // Half a step more, since the mask cuts off below it.
        let word = (mixed(read(target), read(source), share) + half).min(u32::from(mask)) as u16 & mask;
        target.copy_from_slice(&if little_endian {
            word.to_le_bytes()
        } else {
            word.to_be_bytes()
        });
    }
}

/// Copies the alpha component, the fourth, of `frame` to `restored`; formats without one are left alone.
fn copy_alpha(info: &VideoInfo, frame: &WriteFrame<'_>, restored: &mut VideoFrame<gst_video::video_frame::Writable>) {
    const ALPHA: usize = 3;
    let format = info.format_info();
    if !format.has_alpha() {
        return;
    }
    let plane = format.plane()[ALPHA] as usize;
    let (step, offset) = (format.pixel_stride()[ALPHA] as usize, format.poffset()[ALPHA] as usize);
    let bytes = format.depth()[ALPHA].div_ceil(8) as usize;
    let (stride, restored_stride) = (
        frame.plane_stride()[plane] as usize,
        restored.plane_stride()[plane] as usize,
    );
    let source = frame.plane_data(plane as u32).expect("both have the same planes");
    let target = restored
        .plane_data_mut(plane as u32)
        .expect("both have the same planes");
    let (columns, rows) = (info.width() as usize, info.height() as usize);
    for (target, source) in target.chunks_mut(restored_stride).zip(source.chunks(stride)).take(rows) {
        for column in 0..columns {
            let at = column * step + offset;
            target[at..at + bytes].copy_from_slice(&source[at..at + bytes]);
        }
    }
}
