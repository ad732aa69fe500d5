//! Pixels: from a video frame into the square of a bundle, and what the bundle changed back into the frame.
//!
//! The frame is not replaced. The restored pixels and those that the graphs saw take the same way back to the frame's
//! format, and their difference is added to the frame. So the errors of the way cancel out (GStreamer's 8-bit conversion
//! from Y'CbCr to RGB and back darkens by three levels), detail finer than the bundle's size stays, 10-bit video keeps its
//! steps, alpha keeps its values, and a bundle that changes nothing changes no bit.

use std::time::{Duration, Instant};

use gst::glib;
use gst_video::prelude::*;
use gst_video::{
    VideoChromaMode, VideoConverter, VideoConverterConfig, VideoDitherMethod, VideoFormat, VideoFormatInfo, VideoFrame,
    VideoFrameRef, VideoInfo,
};

use crate::scene::{Area, Signature};

type ReadFrame<'a> = VideoFrameRef<&'a gst::BufferRef>;
type WriteFrame<'a> = VideoFrameRef<&'a mut gst::BufferRef>;

/// Raw formats that the element takes: colours of 8 or 10 bits, which GstVideoConverter reads and writes.
pub fn formats() -> impl Iterator<Item = VideoFormat> {
    VideoFormat::iter_raw().filter(|format| {
        let info = VideoFormatInfo::from_format(*format);
        let depths = info.depth();
        // A fourth component is alpha, of which packed 10-bit formats have two bits (Y410 without the flag).
        let colours = &depths[..depths.len().min(3)];
        !info.has_palette() && !colours.is_empty() && colours.iter().all(|depth| matches!(depth, 8 | 10))
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

/// How a difference is added in the frame's own format.
enum Adder {
    /// Every byte is one component of one pixel.
    Bytes,
    /// Every 16-bit word is one component, in the bits of the mask.
    Words { little_endian: bool, mask: u16 },
    /// Components share words: added in the format that GStreamer unpacks them to, with 16 bits.
    Unpacked(Box<Unpacked>),
}

/// Ways to an unpacked format and back, and memory for a frame there.
struct Unpacked {
    unpack: VideoConverter,
    pack: VideoConverter,
    frame: OwnFrame,
}

type OwnFrame = VideoFrame<gst_video::video_frame::Writable>;

/// Converts between frames of one caps and packed RGB of a bundle's size.
pub struct Picture {
    info: VideoInfo,
    /// Where the picture lies in the bundle's frame.
    place: Area,
    into_rgb: VideoConverter,
    /// To the frame's size, in its format or the unpacked one.
    from_rgb: VideoConverter,
    /// Packed RGB, of the bundle's size.
    rgb: OwnFrame,
    /// What the graphs saw, and what they made of it, as `from_rgb` gives them.
    seen: OwnFrame,
    restored: OwnFrame,
    adder: Adder,
    /// Time spent since it was last taken.
    spent: Duration,
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

        let (adder, target) = Adder::new(info)?;
        let mut config = plain_config();
        config.set_src_x(signed(place.x));
        config.set_src_y(signed(place.y));
        config.set_src_width(Some(signed(place.width)));
        config.set_src_height(Some(signed(place.height)));
        let from_rgb = VideoConverter::new(&rgb, &target, Some(config))?;

        Ok(Self {
            info: info.clone(),
            place,
            into_rgb,
            from_rgb,
            rgb: new_frame(&rgb)?,
            seen: new_frame(&target)?,
            restored: new_frame(&target)?,
            adder,
            spent: Duration::ZERO,
        })
    }

    /// The time spent on reading and applying since the last call.
    pub fn take_spent(&mut self) -> Duration {
        std::mem::take(&mut self.spent)
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

    /// Converts and scales a frame to packed RGB [H, W, 3], the borders black.
    pub fn read(&mut self, frame: &ReadFrame<'_>, pixels: &mut [u8]) {
        let started = Instant::now();
        self.into_rgb.frame_ref(frame, &mut self.rgb.as_mut_video_frame_ref());
        let (row_bytes, stride) = (self.rgb.width() as usize * 3, self.rgb.plane_stride()[0] as usize);
        let data = self.rgb.plane_data(0).expect("RGB has one plane");
        for (row, source) in pixels.chunks_exact_mut(row_bytes).zip(data.chunks(stride)) {
            row.copy_from_slice(&source[..row_bytes]);
        }
        self.spent += started.elapsed();
    }

    /// Adds to `frame`, the original, `strength` (0 to 1) times what the graphs changed: from `seen`, packed RGB
    /// [H, W, 3], to what `draw` writes, likewise.
    pub fn apply(&mut self, frame: &mut WriteFrame<'_>, strength: f64, seen: &[u8], draw: impl FnOnce(&mut [u8])) {
        let started = Instant::now();
        write_packed(&mut self.rgb, |pixels| pixels.copy_from_slice(seen));
        self.from_rgb
            .frame_ref(&self.rgb.as_video_frame_ref(), &mut self.seen.as_mut_video_frame_ref());
        write_packed(&mut self.rgb, draw);
        self.from_rgb.frame_ref(
            &self.rgb.as_video_frame_ref(),
            &mut self.restored.as_mut_video_frame_ref(),
        );
        let share = (strength.clamp(0.0, 1.0) * f64::from(FULL)).round() as i32;
        match &mut self.adder {
            Adder::Bytes => each_row(
                &self.info,
                frame,
                &self.seen,
                &self.restored,
                |target, seen, restored| {
                    for ((target, seen), restored) in target.iter_mut().zip(seen).zip(restored) {
                        let value = i32::from(*target) + part(i32::from(*restored) - i32::from(*seen), share);
                        *target = value.clamp(0, 255) as u8;
                    }
                },
            ),
            Adder::Words { little_endian, mask } => {
                let (little_endian, mask) = (*little_endian, *mask);
                each_row(
                    &self.info,
                    frame,
                    &self.seen,
                    &self.restored,
                    |target, seen, restored| {
                        add_words(target, seen, restored, share, little_endian, mask);
                    },
                );
            }
            Adder::Unpacked(unpacked) => {
                let wide = &mut unpacked.frame;
                unpacked.unpack.frame_ref(frame, &mut wide.as_mut_video_frame_ref());
                let info = wide.info().clone();
                let mut target = wide.as_mut_video_frame_ref();
                each_row(
                    &info,
                    &mut target,
                    &self.seen,
                    &self.restored,
                    |target, seen, restored| {
                        add_words(target, seen, restored, share, cfg!(target_endian = "little"), u16::MAX);
                    },
                );
                drop(target);
                unpacked.pack.frame_ref(&wide.as_video_frame_ref(), frame);
            }
        }
        self.spent += started.elapsed();
    }
}

/// Share of 1 in fixed point: 14 bits, so that products with 16-bit differences stay within 32.
const FULL: i32 = 1 << 14;

fn part(difference: i32, share: i32) -> i32 {
    (difference * share + FULL / 2) >> 14
}

/// No dither, so that a frame's pixels depend on its pixels only.
fn plain_config() -> VideoConverterConfig {
    let mut config = VideoConverterConfig::new();
    config.set_dither_method(VideoDitherMethod::None);
    config
}

fn new_frame(info: &VideoInfo) -> Result<OwnFrame, glib::BoolError> {
    let buffer = gst::Buffer::with_size(info.size())?;
    VideoFrame::from_buffer_writable(buffer, info)
        .map_err(|_| glib::bool_error!("cannot map a frame of {}", info.name()))
}

/// Fills an RGB frame, whose rows may be padded, with packed pixels that `draw` writes.
fn write_packed(frame: &mut OwnFrame, draw: impl FnOnce(&mut [u8])) {
    let (row_bytes, stride) = (frame.width() as usize * 3, frame.plane_stride()[0] as usize);
    let rows = frame.height() as usize;
    let data = frame.plane_data_mut(0).expect("RGB has one plane");
    if stride == row_bytes {
        draw(&mut data[..row_bytes * rows]);
        return;
    }
    let mut packed = vec![0; row_bytes * rows];
    draw(&mut packed);
    for (row, source) in data.chunks_mut(stride).zip(packed.chunks_exact(row_bytes)) {
        row[..row_bytes].copy_from_slice(source);
    }
}

impl Adder {
    /// For frames of `info`, with the format and size in which differences are taken.
    fn new(info: &VideoInfo) -> Result<(Self, VideoInfo), glib::BoolError> {
        let format = info.format_info();
        // IYU1 is packed in less than bytes, and has no flag for it.
        let addressable = format.pixel_stride()[..format.n_components() as usize]
            .iter()
            .all(|step| *step > 0);
        if addressable && !format.is_complex() && !format.is_tiled() {
            if format.depth().iter().all(|depth| *depth == 8) {
                return Ok((Self::Bytes, info.clone()));
            }
            let (depth, shift) = (format.depth()[0], format.shift()[0]);
            let alike = format.depth().iter().all(|d| *d == depth) && format.shift().iter().all(|s| *s == shift);
            if alike && depth + shift <= 16 && have_own_places(&format) {
                let mask = (((1u32 << depth) - 1) << shift) as u16;
                let little_endian = format.is_le();
                return Ok((Self::Words { little_endian, mask }, info.clone()));
            }
        }
        let wide = if format.is_rgb() {
            VideoFormat::Argb64
        } else {
            VideoFormat::Ayuv64
        };
        let wide = VideoInfo::builder(wide, info.width(), info.height())
            .colorimetry(&info.colorimetry())
            .fps(info.fps())
            .build()?;
        // Chroma is repeated on the way there and picked on the way back: what is not changed comes back as it was.
        let mut config = plain_config();
        config.set_chroma_mode(VideoChromaMode::None);
        let unpacked = Unpacked {
            unpack: VideoConverter::new(info, &wide, Some(config.clone()))?,
            pack: VideoConverter::new(&wide, info, Some(config))?,
            frame: new_frame(&wide)?,
        };
        Ok((Self::Unpacked(Box::new(unpacked)), wide))
    }
}

/// Whether no two components begin at the same byte of a plane, as those of r210 do.
fn have_own_places(format: &VideoFormatInfo) -> bool {
    let components = 0..format.n_components() as usize;
    let place = |at: usize| (format.plane()[at], format.poffset()[at]);
    components
        .clone()
        .all(|a| components.clone().all(|b| a == b || place(a) != place(b)))
}

/// Calls `work` with every row of every plane: of `target`, and of two frames of the same format and size.
fn each_row(
    info: &VideoInfo,
    target: &mut WriteFrame<'_>,
    a: &OwnFrame,
    b: &OwnFrame,
    mut work: impl FnMut(&mut [u8], &[u8], &[u8]),
) {
    const SAME: &str = "the frames have the same planes";
    for plane in 0..info.n_planes() {
        let (row_bytes, rows) = plane_size(info, plane);
        let stride = |strides: &[i32]| strides[plane as usize] as usize;
        let (target_stride, a_stride, b_stride) = (
            stride(target.plane_stride()),
            stride(a.plane_stride()),
            stride(b.plane_stride()),
        );
        let sources = a
            .plane_data(plane)
            .expect(SAME)
            .chunks(a_stride)
            .zip(b.plane_data(plane).expect(SAME).chunks(b_stride));
        let targets = target.plane_data_mut(plane).expect(SAME).chunks_mut(target_stride);
        for (target, (a, b)) in targets.zip(sources).take(rows) {
            work(&mut target[..row_bytes], &a[..row_bytes], &b[..row_bytes]);
        }
    }
}

/// Bytes of a plane's row that hold pixels, and rows of the plane.
fn plane_size(info: &VideoInfo, plane: u32) -> (usize, usize) {
    let format = info.format_info();
    let components = (0..format.n_components() as usize).filter(|component| format.plane()[*component] == plane);
    components.fold((0, 0), |(row_bytes, rows), component| {
        let columns = format.scale_width(component as u8, info.width()) as usize;
        let bytes = columns * format.pixel_stride()[component] as usize;
        let height = format.scale_height(component as u8, info.height()) as usize;
        (row_bytes.max(bytes), rows.max(height))
    })
}

fn add_words(target: &mut [u8], seen: &[u8], restored: &[u8], share: i32, little_endian: bool, mask: u16) {
    let read = |bytes: &[u8]| {
        let bytes = [bytes[0], bytes[1]];
        let word = if little_endian {
            u16::from_le_bytes(bytes)
        } else {
            u16::from_be_bytes(bytes)
        };
        i32::from(word & mask)
    };
    // Steps of one component value, so that the mask cuts off nothing.
    let shift = mask.trailing_zeros();
    let words = target
        .chunks_exact_mut(2)
        .zip(seen.chunks_exact(2))
        .zip(restored.chunks_exact(2));
    for ((target, seen), restored) in words {
        let difference = (read(restored) - read(seen)) >> shift;
        let value = (read(target) >> shift) + part(difference, share);
        let word = (value.clamp(0, i32::from(mask >> shift)) as u16) << shift;
        target.copy_from_slice(&if little_endian {
            word.to_le_bytes()
        } else {
            word.to_be_bytes()
        });
    }
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
    fn the_graphs_see_the_picture_between_black_borders() {
        for (size, par) in [
            ((64, 16), (1, 1)),
            ((16, 64), (1, 1)),
            ((32, 32), (2, 1)),
            ((30, 50), (1, 3)),
        ] {
            let info = info(VideoFormat::Rgb, size, par);
            let place = letterbox(&info, 32, 32);
            let pixels = seen(&info, 200, (32, 32));
            for (at, pixel) in pixels.chunks_exact(3).enumerate() {
                let (x, y) = (at as u32 % 32, at as u32 / 32);
                let inside =
                    (place.x..place.x + place.width).contains(&x) && (place.y..place.y + place.height).contains(&y);
                let expected: u8 = if inside { 200 } else { 0 };
                // GStreamer's scaler rounds its weights.
                let close = pixel
                    .iter()
                    .all(|value| value.abs_diff(expected) <= u8::from(inside) * 3);
                assert!(close, "{size:?} at {x}, {y}: {pixel:?}");
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
