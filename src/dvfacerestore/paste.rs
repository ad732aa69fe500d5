// SPDX-License-Identifier: MPL-2.0

//! What the graphs changed, added to a part of a frame in the frame's own format.
//!
//! The difference is taken in RGB, goes to the frame's colours, is scaled to each component's own grid, and is added with the mask's
//! and the strength's share. Nothing of the frame itself is converted, so what is not changed stays bit for bit.

use gst::glib;
use gst_video::prelude::*;
use gst_video::{VideoChromaMode, VideoChromaSite, VideoFormat, VideoFormatInfo, VideoInfo};
use multiversion::multiversion;

use super::components::{Component, Shares};
use super::convert::{Converter, plain_config};
use super::picture::{OwnFrame, WriteFrame, new_frame};
use super::recent::Recent;
use crate::difference::{Difference, Matrix};
use crate::face::mask;
use crate::face::tone::{Low, Places};
use crate::resample::{self, Axis, Scale};
use crate::scene::Area;

/// How much of a difference is added.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share<'a> {
    /// 0 to 1.
    pub strength: f64,
    /// Of [`mask::FULL`], for each [`block`] of the part, row by row; everywhere full without.
    pub weights: Option<&'a [u16]>,
    /// What the difference is in the large is left out.
    pub matches_colours: bool,
}

/// Adds to parts of frames of one caps.
pub(super) struct Paste {
    /// Size of a bundle's frame.
    bundle: (u32, u32),
    /// The part of a bundle's frame that is shown.
    place: Area,
    block: (u32, u32),
    cosited: (bool, bool),
    matrix: Matrix,
    components: Vec<Component>,
    /// Where components share words: the way through the format that GStreamer unpacks them to, with 16 bits.
    unpacked: Option<Unpacked>,
    layouts: Recent<Layout>,
    memory: Memory,
}

/// Ways to an unpacked format and back, and memory for a frame there.
struct Unpacked {
    unpack: Converter,
    pack: Converter,
    frame: OwnFrame,
}

/// Where the samples of a part of one size come from, for each component.
type Layout = Vec<Grid>;

/// Samples of a component, across and down.
struct Grid {
    across: Axis,
    down: Axis,
    cells_across: Places,
    cells_down: Places,
}

#[derive(Default)]
struct Memory {
    restored: Vec<u8>,
    difference: Difference,
    resample: resample::Memory,
    row: Vec<i16>,
    scaled: Vec<i16>,
    /// Of each block.
    parts: Vec<i16>,
    shares: Vec<i16>,
    low: Low,
}

impl Paste {
    /// To frames of `info`, from `place` of a bundle's frames of `bundle` pixels.
    ///
    /// # Errors
    /// Fails where GstVideoConverter does not convert between the two, or memory lacks.
    pub fn new(info: &VideoInfo, bundle: (u32, u32), place: Area) -> Result<Self, glib::BoolError> {
        let format = info.format_info();
        let own = Component::of(&format);
        let (components, unpacked) = match own {
            Some(components) => (components, None),
            None => {
                let unpacked = Unpacked::new(info)?;
                let components = Component::of(&unpacked.frame.info().format_info());
                (components.expect("words of pixels"), Some(unpacked))
            }
        };
        let target = match &unpacked {
            Some(unpacked) => unpacked.frame.info(),
            None => info,
        };
        let site = info.chroma_site();
        Ok(Self {
            bundle,
            place,
            block: block(info),
            cosited: (
                site.contains(VideoChromaSite::H_COSITED),
                site.contains(VideoChromaSite::V_COSITED),
            ),
            matrix: matrix(target),
            components,
            unpacked,
            layouts: Recent::default(),
            memory: Memory::default(),
        })
    }

    /// Adds to the part `area` of `frame`, the original, a share of what the graphs changed: from `seen`, packed RGB [H, W, 3], to what
    /// `draw` writes, likewise. The part begins at a whole [`block`], and ends at one or at the frame's end.
    pub fn apply(
        &mut self,
        frame: &mut WriteFrame<'_>,
        area: Area,
        share: Share<'_>,
        seen: &[u8],
        draw: impl FnOnce(&mut [u8]),
    ) {
        let memory = &mut self.memory;
        memory.restored.resize(seen.len(), 0);
        draw(&mut memory.restored);
        let width = self.bundle.0 as usize;
        memory
            .difference
            .take(seen, &memory.restored, width, self.place, &self.matrix);
        // What is lent to `add` apart from the rest.
        match self.unpacked.take() {
            None => self.add(frame, area, share),
            Some(mut unpacked) => {
                unpacked
                    .unpack
                    .convert(frame, &mut unpacked.frame.as_mut_video_frame_ref());
                self.add(&mut unpacked.frame.as_mut_video_frame_ref(), area, share);
                unpacked.pack.convert(&unpacked.frame.as_video_frame_ref(), frame);
                self.unpacked = Some(unpacked);
            }
        }
    }

    /// Scales the difference to each component, and adds it.
    fn add(&mut self, frame: &mut WriteFrame<'_>, area: Area, share: Share<'_>) {
        let (components, place, cosited) = (&self.components, self.place, self.cosited);
        let make = || Ok::<_, std::convert::Infallible>(layout(components, (area.width, area.height), place, cosited));
        let Ok(layout) = self.layouts.get((area.width, area.height), make);
        let Memory {
            difference,
            resample,
            row,
            scaled,
            parts,
            shares: row_shares,
            low,
            ..
        } = &mut self.memory;
        let full = (share.strength.clamp(0.0, 1.0) * f64::from(mask::FULL)).round() as i16;
        if let Some(weights) = share.weights {
            take_parts(weights, full, parts);
        }
        let columns = area.width.div_ceil(self.block.0) as usize;
        let width = difference.width();
        let planes = self.components.iter().zip(layout).zip(difference.planes());
        for ((component, grid), plane) in planes {
            let (across, down) = (&grid.across, &grid.down);
            if share.matches_colours {
                low.measure(plane, &grid.cells_across, &grid.cells_down);
            }
            let stride = frame.plane_stride()[component.plane as usize] as usize;
            let data = frame.plane_data_mut(component.plane).expect("the format's planes");
            let samples = (
                self.block.0 as usize / component.step.0,
                self.block.1 as usize / component.step.1,
            );
            row.clear();
            row.resize(across.row_length(), 0);
            let corner = (area.x as usize / component.step.0, area.y as usize / component.step.1);
            let targets = data.chunks_mut(stride).skip(corner.1).take(down.len());
            for (at, target) in targets.enumerate() {
                // What is not 0 of the row.
                let (span, shares) = match share.weights {
                    None => (0..across.len(), Shares::Even(full)),
                    Some(_) => {
                        let parts = &parts[at / samples.1 * columns..][..columns];
                        let Some(first) = parts.iter().position(|part| *part > 0) else {
                            continue;
                        };
                        let last = parts.iter().rposition(|part| *part > 0).unwrap_or(first);
                        let span = first * samples.0..((last + 1) * samples.0).min(across.len());
                        let parts = &parts[first..=last];
                        let shares = match samples.0 {
                            1 => parts,
                            of_a_block => {
                                if at % samples.1 == 0 {
                                    repeat(parts, of_a_block, row_shares);
                                }
                                // The last block may stick out.
                                &row_shares[..span.len()]
                            }
                        };
                        (span, Shares::Each(shares))
                    }
                };
                down.down(at, plane, width, across.sources(&span), resample, &mut row[..width]);
                across.across(row, span.clone(), resample, scaled);
                if share.matches_colours {
                    low.remove(at, span.start, &grid.cells_down, scaled);
                }
                component.add(target, corner.0 + span.start, scaled, shares);
            }
        }
    }
}

/// The shares of [`mask::FULL`] that blocks with these weights get of a whole frame's.
#[multiversion(targets("x86_64+avx2"))]
fn take_parts(weights: &[u16], full: i16, parts: &mut Vec<i16>) {
    const { assert!(mask::FULL == 1 << 14) };
    parts.clear();
    parts.extend(
        weights
            .iter()
            .map(|weight| ((i32::from(*weight) * i32::from(full) + (1 << 13)) >> 14) as i16),
    );
}

/// Every value `times` times. Two and four are what chroma has, and vectorise.
fn repeat(values: &[i16], times: usize, out: &mut Vec<i16>) {
    out.clear();
    match times {
        2 => out.extend(values.iter().flat_map(|value| [*value; 2])),
        4 => out.extend(values.iter().flat_map(|value| [*value; 4])),
        _ => out.extend(values.iter().flat_map(|value| std::iter::repeat_n(*value, times))),
    }
}

/// Width and height in pixels of what shares a chroma sample in frames of `info`.
pub(super) fn block(info: &VideoInfo) -> (u32, u32) {
    let format = info.format_info();
    let step = |shifts: &[u32]| 1 << shifts.iter().copied().max().unwrap_or(0);
    (step(format.w_sub()), step(format.h_sub()))
}

/// Where the samples of a part of `size` pixels come from, with `place` of a bundle's frame behind it.
fn layout(components: &[Component], size: (u32, u32), place: Area, cosited: (bool, bool)) -> Layout {
    let scale = |from: u32, pixels: u32, step: usize, is_cosited: bool| Scale {
        from: from as usize,
        pixels: pixels as usize,
        step,
        is_cosited: is_cosited && step > 1,
    };
    let of = |component: &Component| {
        let across = scale(place.width, size.0, component.step.0, cosited.0);
        let down = scale(place.height, size.1, component.step.1, cosited.1);
        Grid {
            across: Axis::new(&across),
            down: Axis::new(&down),
            cells_across: Places::new(&across),
            cells_down: Places::new(&down),
        }
    };
    components.iter().map(of).collect()
}

/// From RGB to the colours of frames of `info`, as GstVideoConverter has it.
fn matrix(info: &VideoInfo) -> Matrix {
    let format = info.format_info();
    let colorimetry = info.colorimetry();
    let (_, ranges) = format.range_offsets(colorimetry.range());
    // For 8 bits.
    let scale = |at: usize| {
        let depth = format.depth().get(at).or(format.depth().first()).copied().unwrap_or(8);
        f64::from(ranges[at]) / f64::from(1u32 << (depth - 8)) / 255.0
    };
    let scales = [scale(0), scale(1), scale(2)];
    match colorimetry.matrix().kr_kb() {
        Ok((red, blue)) if !format.is_rgb() => Matrix::luma_and_chroma(red, blue, scales),
        _ => Matrix::rgb(scales),
    }
}

impl Unpacked {
    fn new(info: &VideoInfo) -> Result<Self, glib::BoolError> {
        let wide = wide_info(info, (info.width(), info.height()))?;
        // Chroma is repeated on the way there and picked on the way back: what is not changed comes back as it was.
        let mut config = plain_config();
        config.set_chroma_mode(VideoChromaMode::None);
        Ok(Self {
            unpack: Converter::new(info, &wide, config.clone(), info.height())?,
            pack: Converter::new(&wide, info, config, info.height())?,
            frame: new_frame(&wide)?,
        })
    }
}

/// Frames of `size` pixels in the format that GStreamer unpacks those of `info` to, with 16 bits a sample.
pub(super) fn wide_info(info: &VideoInfo, size: (u32, u32)) -> Result<VideoInfo, glib::BoolError> {
    let format = if info.format_info().is_rgb() {
        VideoFormat::Argb64
    } else {
        VideoFormat::Ayuv64
    };
    VideoInfo::builder(format, size.0, size.1)
        .colorimetry(&info.colorimetry())
        .fps(info.fps())
        .build()
}

/// Bytes of a plane's row that hold pixels, and rows of the plane.
pub(super) fn plane_size(info: &VideoInfo, plane: u32) -> (usize, usize) {
    part_size(&info.format_info(), plane, info.width(), info.height())
}

/// The same for a part of `width` x `height` pixels.
pub(super) fn part_size(format: &VideoFormatInfo, plane: u32, width: u32, height: u32) -> (usize, usize) {
    let components = (0..format.n_components() as usize).filter(|component| format.plane()[*component] == plane);
    components.fold((0, 0), |(row_bytes, rows), component| {
        let columns = format.scale_width(component as u8, width) as usize;
        let bytes = columns * format.pixel_stride()[component] as usize;
        let height = format.scale_height(component as u8, height) as usize;
        (row_bytes.max(bytes), rows.max(height))
    })
}
