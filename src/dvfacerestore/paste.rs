//! What the graphs changed, added to a part of a frame in the frame's own format.

use gst::glib;
use gst_video::prelude::*;
use gst_video::{VideoChromaMode, VideoConverter, VideoFormat, VideoFormatInfo, VideoInfo};

use super::picture::{OwnFrame, WriteFrame, new_frame, plain_config, set_source, whole};
use crate::face::mask;
use crate::scene::Area;

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

/// Adds to one part of frames of one caps.
pub(super) struct Paste {
    info: VideoInfo,
    source: Area,
    /// From packed RGB of the bundle's size to the size of the part, in its format or the unpacked one.
    converter: VideoConverter,
    /// What the graphs saw, and what they made of it, as the converter gives them.
    seen: OwnFrame,
    restored: OwnFrame,
    adder: Adder,
}

impl Paste {
    /// To the part `source` of frames of `info`, from `place` of frames of `rgb`. The part begins at a whole
    /// [`block`] and ends at one, or at the frame's end.
    ///
    /// # Errors
    /// Fails where GstVideoConverter does not convert between the two, or memory lacks.
    pub fn new(info: &VideoInfo, source: Area, rgb: &VideoInfo, place: Area) -> Result<Self, glib::BoolError> {
        let (adder, target) = Adder::new(info, source)?;
        let mut config = plain_config();
        set_source(&mut config, place);
        Ok(Self {
            info: info.clone(),
            source,
            converter: VideoConverter::new(rgb, &target, Some(config))?,
            seen: new_frame(&target)?,
            restored: new_frame(&target)?,
            adder,
        })
    }

    /// The part that it adds to.
    pub fn source(&self) -> Area {
        self.source
    }

    /// Adds to `frame`, the original, `strength` (0 to 1) times what the graphs changed: from `seen`, packed RGB
    /// [H, W, 3], to what `draw` writes, likewise. `weights` are those of the part's [blocks](block), row by row, of
    /// [`mask::FULL`]. `rgb` is memory for the way.
    pub fn apply(
        &mut self,
        frame: &mut WriteFrame<'_>,
        rgb: &mut OwnFrame,
        strength: f64,
        weights: Option<&[u16]>,
        seen: &[u8],
        draw: impl FnOnce(&mut [u8]),
    ) {
        write_packed(rgb, |pixels| pixels.copy_from_slice(seen));
        self.converter
            .frame_ref(&rgb.as_video_frame_ref(), &mut self.seen.as_mut_video_frame_ref());
        write_packed(rgb, draw);
        self.converter
            .frame_ref(&rgb.as_video_frame_ref(), &mut self.restored.as_mut_video_frame_ref());
        let share = (strength.clamp(0.0, 1.0) * f64::from(FULL)).round() as i32;
        let shares = Shares { share, weights };
        match &mut self.adder {
            Adder::Bytes => each_row(
                &self.info,
                self.source,
                &shares,
                1,
                frame,
                &self.seen,
                &self.restored,
                add_bytes,
            ),
            Adder::Words { little_endian, mask } => {
                let (little_endian, mask) = (*little_endian, *mask);
                each_row(
                    &self.info,
                    self.source,
                    &shares,
                    2,
                    frame,
                    &self.seen,
                    &self.restored,
                    |target, seen, restored, share| add_words(target, seen, restored, share, little_endian, mask),
                );
            }
            Adder::Unpacked(unpacked) => {
                let wide = &mut unpacked.frame;
                unpacked.unpack.frame_ref(frame, &mut wide.as_mut_video_frame_ref());
                let info = wide.info().clone();
                let mut target = wide.as_mut_video_frame_ref();
                // Words of pixels, though the mask has the blocks of the frame's format.
                let shares = shares.of_pixels(self.source, block(&self.info));
                let shares = Shares {
                    share: shares.0,
                    weights: shares.1.as_deref(),
                };
                each_row(
                    &info,
                    self.source,
                    &shares,
                    2,
                    &mut target,
                    &self.seen,
                    &self.restored,
                    |target, seen, restored, share| {
                        let little_endian = cfg!(target_endian = "little");
                        add_words(target, seen, restored, share, little_endian, u16::MAX);
                    },
                );
                drop(target);
                unpacked.pack.frame_ref(&wide.as_video_frame_ref(), frame);
            }
        }
    }
}

/// Share of 1 in fixed point: 14 bits, so that products with 16-bit differences stay within 32.
const FULL: i32 = 1 << 14;
const _: () = assert!(FULL == mask::FULL as i32);

fn part(difference: i32, share: i32) -> i32 {
    (difference * share + FULL / 2) >> 14
}

/// Width and height in pixels of what shares a chroma sample in frames of `info`.
pub(super) fn block(info: &VideoInfo) -> (u32, u32) {
    let format = info.format_info();
    let step = |shifts: &[u32]| 1 << shifts.iter().copied().max().unwrap_or(0);
    (step(format.w_sub()), step(format.h_sub()))
}

/// What shares of a difference are added.
struct Shares<'a> {
    share: i32,
    /// Of [`mask::FULL`], for each block, row by row.
    weights: Option<&'a [u16]>,
}

impl Shares<'_> {
    /// The same with blocks of one pixel.
    fn of_pixels(&self, source: Area, block: (u32, u32)) -> (i32, Option<Vec<u16>>) {
        let weights = self.weights.map(|weights| {
            let columns = source.width.div_ceil(block.0);
            let at = |x: u32, y: u32| weights[(y / block.1 * columns + x / block.0) as usize];
            (0..source.height)
                .flat_map(|y| (0..source.width).map(move |x| at(x, y)))
                .collect()
        });
        (self.share, weights)
    }
}

/// Shares of a row's elements. With 14 bits they are i16, whose products vectorise on every CPU.
#[derive(Clone, Copy)]
enum RowShare<'a> {
    Even(i16),
    Each(&'a [i16]),
}

fn add_bytes(target: &mut [u8], seen: &[u8], restored: &[u8], share: RowShare<'_>) {
    fn add(target: &mut u8, seen: u8, restored: u8, share: i16) {
        let difference = i16::from(restored) - i16::from(seen);
        let part = (i32::from(difference) * i32::from(share) + FULL / 2) >> 14;
        *target = (i16::from(*target) + part as i16).clamp(0, 255) as u8;
    }
    let bytes = target.iter_mut().zip(seen).zip(restored);
    match share {
        RowShare::Even(share) => bytes.for_each(|((target, seen), restored)| add(target, *seen, *restored, share)),
        RowShare::Each(shares) => bytes
            .zip(shares)
            .for_each(|(((target, seen), restored), share)| add(target, *seen, *restored, *share)),
    }
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
    /// For the part `source` of frames of `info`, with the format and size in which differences are taken.
    fn new(info: &VideoInfo, source: Area) -> Result<(Self, VideoInfo), glib::BoolError> {
        let of_part = |format| {
            let builder = VideoInfo::builder(format, source.width, source.height);
            builder.colorimetry(&info.colorimetry()).fps(info.fps())
        };
        let own = || {
            if source == whole(info) {
                return Ok(info.clone());
            }
            of_part(info.format()).chroma_site(info.chroma_site()).build()
        };
        let format = info.format_info();
        // IYU1 is packed in less than bytes, and has no flag for it.
        let addressable = format.pixel_stride()[..format.n_components() as usize]
            .iter()
            .all(|step| *step > 0);
        if addressable && !format.is_complex() && !format.is_tiled() {
            if format.depth().iter().all(|depth| *depth == 8) {
                return Ok((Self::Bytes, own()?));
            }
            let (depth, shift) = (format.depth()[0], format.shift()[0]);
            let alike = format.depth().iter().all(|d| *d == depth) && format.shift().iter().all(|s| *s == shift);
            if alike && depth + shift <= 16 && have_own_places(&format) {
                let mask = (((1u32 << depth) - 1) << shift) as u16;
                let little_endian = format.is_le();
                return Ok((Self::Words { little_endian, mask }, own()?));
            }
        }
        let wide = if format.is_rgb() {
            VideoFormat::Argb64
        } else {
            VideoFormat::Ayuv64
        };
        let target = of_part(wide).build()?;
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
        Ok((Self::Unpacked(Box::new(unpacked)), target))
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

/// Calls `work` with every row of every plane: of the part `source` of `target`, of two frames of the part's size and the
/// same format, and the shares of its elements of `size` bytes.
#[expect(clippy::too_many_arguments, reason = "a loop that three formats share")]
fn each_row(
    info: &VideoInfo,
    source: Area,
    shares: &Shares<'_>,
    size: usize,
    target: &mut WriteFrame<'_>,
    a: &OwnFrame,
    b: &OwnFrame,
    mut work: impl FnMut(&mut [u8], &[u8], &[u8], RowShare<'_>),
) {
    const SAME: &str = "the frames have the same planes";
    let block = block(info);
    let columns = source.width.div_ceil(block.0) as usize;
    let mut row_shares: Vec<i16> = Vec::new();
    for plane in 0..info.n_planes() {
        // Up to the part's start, within the part, and within a block.
        let start = part_size(info, plane, source.x, source.y);
        let (row_bytes, rows) = part_size(info, plane, source.width, source.height);
        let of_block = part_size(info, plane, block.0, block.1);
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
        for (row, (target, (a, b))) in targets.skip(start.1).zip(sources).take(rows).enumerate() {
            let share = match shares.weights {
                None => RowShare::Even(shares.share as i16),
                Some(weights) => {
                    if row % of_block.1 == 0 {
                        let weights = &weights[row / of_block.1 * columns..][..columns];
                        let elements = of_block.0 / size;
                        row_shares.clear();
                        for weight in weights {
                            let share = part(i32::from(*weight), shares.share) as i16;
                            row_shares.extend(std::iter::repeat_n(share, elements));
                        }
                    }
                    RowShare::Each(&row_shares)
                }
            };
            work(
                &mut target[start.0..][..row_bytes],
                &a[..row_bytes],
                &b[..row_bytes],
                share,
            );
        }
    }
}

/// Bytes of a plane's row that hold pixels, and rows of the plane.
pub(super) fn plane_size(info: &VideoInfo, plane: u32) -> (usize, usize) {
    part_size(info, plane, info.width(), info.height())
}

/// The same for a part of `width` x `height` pixels.
fn part_size(info: &VideoInfo, plane: u32, width: u32, height: u32) -> (usize, usize) {
    let format = info.format_info();
    let components = (0..format.n_components() as usize).filter(|component| format.plane()[*component] == plane);
    components.fold((0, 0), |(row_bytes, rows), component| {
        let columns = format.scale_width(component as u8, width) as usize;
        let bytes = columns * format.pixel_stride()[component] as usize;
        let height = format.scale_height(component as u8, height) as usize;
        (row_bytes.max(bytes), rows.max(height))
    })
}

fn add_words(target: &mut [u8], seen: &[u8], restored: &[u8], share: RowShare<'_>, little_endian: bool, mask: u16) {
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
    let add = |target: &mut [u8], seen: &[u8], restored: &[u8], share: i16| {
        let difference = (read(restored) - read(seen)) >> shift;
        let value = (read(target) >> shift) + part(difference, share.into());
        let word = (value.clamp(0, i32::from(mask >> shift)) as u16) << shift;
        target.copy_from_slice(&if little_endian {
            word.to_le_bytes()
        } else {
            word.to_be_bytes()
        });
    };
    let words = target
        .chunks_exact_mut(2)
        .zip(seen.chunks_exact(2))
        .zip(restored.chunks_exact(2));
    match share {
        RowShare::Even(share) => words.for_each(|((target, seen), restored)| add(target, seen, restored, share)),
        RowShare::Each(shares) => words
            .zip(shares)
            .for_each(|(((target, seen), restored), share)| add(target, seen, restored, *share)),
    }
}
