// SPDX-License-Identifier: MPL-2.0

//! Crops of frames as a bundle takes them, also where the crop moves with every frame.

use gst::glib;
use gst_video::prelude::*;
use gst_video::{VideoFormatInfo, VideoInfo};

use super::components::Component;
use super::convert::{Converter, plain_config};
use super::paste::{part_size, wide_info};
use super::picture::{Crop, OwnFrame, ReadFrame, new_frame, rgb_info, whole};
use super::recent::Recent;
use crate::scene::Area;

/// Converts and scales crops of frames of one caps.
pub(super) struct Cutter {
    info: VideoInfo,
    rgb_info: VideoInfo,
    /// Packed RGB, of the bundle's size: memory for the way.
    rgb: OwnFrame,
    /// Whether crops can be copied out of frames; else they are out of [`wide_info`]'s. GstVideoConverter cannot be asked for columns of
    /// a frame whose samples share words, or lie in tiles: it takes others in some of these formats, or writes beyond its memory.
    can_copy: bool,
    /// Rows of a frame in the wide format, as many as the highest crop had.
    rows: Option<OwnFrame>,
    ways: Recent<Way>,
}

/// Memory for a crop of one size, and a converter from there. A converter of a part of a frame would have to be made anew wherever
/// the part moves, which takes longer than the copy.
struct Way {
    cut: OwnFrame,
    crop: Crop,
}

impl Cutter {
    /// For frames of `info` and a bundle of `width` x `height` pixels.
    ///
    /// # Errors
    /// Fails where memory lacks.
    pub fn new(info: &VideoInfo, width: u32, height: u32) -> Result<Self, glib::BoolError> {
        let rgb_info = rgb_info(info, width, height)?;
        Ok(Self {
            info: info.clone(),
            rgb: new_frame(&rgb_info)?,
            rgb_info,
            can_copy: Component::of(&info.format_info()).is_some(),
            rows: None,
            ways: Recent::default(),
        })
    }

    /// Writes the part `area` as packed pixels, [H, W, 3]. It begins at a whole [`block`](super::paste::block).
    ///
    /// # Errors
    /// Fails where GstVideoConverter does not convert between the two, or memory lacks.
    pub fn read(&mut self, frame: &ReadFrame<'_>, area: Area, pixels: &mut [u8]) -> Result<(), glib::BoolError> {
        let rows;
        let (source, area) = if self.can_copy {
            (frame, area)
        } else {
            rows = wide_rows(&mut self.rows, &self.info, frame, area)?.as_video_frame_ref();
            (&rows, Area { y: 0, ..area })
        };
        let make = || Way::new(source.info(), area, &self.rgb_info);
        let way = self.ways.get((area.width, area.height), make)?;
        copy(source, area, &mut way.cut)?;
        way.crop.read(&way.cut.as_video_frame_ref(), &mut self.rgb, pixels);
        Ok(())
    }
}

/// The rows of `area`, all columns of them, in the wide format of a frame of `info`, from row 0 on.
///
/// # Errors
/// Fails where GstVideoConverter does not convert between the two, or memory lacks.
fn wide_rows<'a>(
    rows: &'a mut Option<OwnFrame>,
    info: &VideoInfo,
    frame: &ReadFrame<'_>,
    area: Area,
) -> Result<&'a OwnFrame, glib::BoolError> {
    let rows = match rows.take().filter(|rows| rows.height() >= area.height) {
        Some(high_enough) => rows.insert(high_enough),
        None => rows.insert(new_frame(&wide_info(info, (info.width(), area.height))?)?),
    };
    let mut config = plain_config();
    config.set_src_y(area.y as i32);
    config.set_src_height(Some(area.height as i32));
    config.set_dest_height(Some(area.height as i32));
    config.set_fill_border(false);
    let converter = Converter::new(info, rows.info(), config, area.height)?;
    converter.convert(frame, &mut rows.as_mut_video_frame_ref());
    Ok(rows)
}

impl Way {
    fn new(info: &VideoInfo, area: Area, rgb: &VideoInfo) -> Result<Self, glib::BoolError> {
        let cut = VideoInfo::builder(info.format(), area.width, area.height)
            .colorimetry(&info.colorimetry())
            .chroma_site(info.chroma_site())
            .fps(info.fps())
            .build()?;
        Ok(Self {
            crop: Crop::quick(&cut, rgb)?,
            cut: new_frame(&cut)?,
        })
    }
}

/// Copies the part `area` of a frame to a frame of its size. Where it begins within what shares a chroma sample, chroma is
/// that of the whole.
///
/// # Errors
/// Fails where the part is not in the frame.
fn copy(frame: &ReadFrame<'_>, area: Area, cut: &mut OwnFrame) -> Result<(), glib::BoolError> {
    let format = frame.format_info();
    for plane in 0..frame.n_planes() {
        let start = corner(&format, plane, area.x, area.y);
        let (row_bytes, rows) = part_size(&format, plane, area.width, area.height);
        let stride = |strides: &[i32]| strides[plane as usize] as usize;
        let (from, to) = (stride(frame.plane_stride()), stride(cut.plane_stride()));
        let mut sources = frame.plane_data(plane)?.chunks(from.max(1)).skip(start.1);
        for target in cut.plane_data_mut(plane)?.chunks_mut(to).take(rows) {
            let source = sources.next().and_then(|row| row.get(start.0..start.0 + row_bytes));
            let source = source.ok_or_else(|| glib::bool_error!("a part beyond the frame"))?;
            target[..row_bytes].copy_from_slice(source);
        }
    }
    Ok(())
}

/// Bytes before the pixel at `x`, and rows before the one at `y`, in a plane: of the first one that shares its samples.
fn corner(format: &VideoFormatInfo, plane: u32, x: u32, y: u32) -> (usize, usize) {
    let components: Vec<usize> = (0..format.n_components() as usize)
        .filter(|component| format.plane()[*component] == plane)
        .collect();
    let first = |at: u32, shifts: &[u32]| {
        let shift = components.iter().map(|component| shifts[*component]).max().unwrap_or(0);
        at >> shift << shift
    };
    let (x, y) = (first(x, format.w_sub()), first(y, format.h_sub()));
    components.iter().fold((0, 0), |(bytes, rows), component| {
        let before = (x >> format.w_sub()[*component]) as usize * format.pixel_stride()[*component] as usize;
        (bytes.max(before), rows.max((y >> format.h_sub()[*component]) as usize))
    })
}

/// A buffer of the part of a frame that begins at `corner`, as large as `info` says.
///
/// # Errors
/// Fails where the part is not in the frame, its format has samples that share words, or memory lacks.
pub(super) fn part_of(
    info: &VideoInfo,
    frame: &ReadFrame<'_>,
    corner: (u32, u32),
) -> Result<gst::Buffer, glib::BoolError> {
    let area = Area {
        x: corner.0,
        y: corner.1,
        ..whole(info)
    };
    let is_in = |start: u32, length: u32, limit: u32| start.checked_add(length).is_some_and(|end| end <= limit);
    if !is_in(area.x, area.width, frame.width()) || !is_in(area.y, area.height, frame.height()) {
        return Err(glib::bool_error!("a part beyond the frame"));
    }
    if Component::of(&info.format_info()).is_none() {
        return Err(glib::bool_error!("samples that share words"));
    }
    let mut part = new_frame(info)?;
    copy(frame, area, &mut part)?;
    Ok(part.into_buffer())
}

#[cfg(test)]
mod tests {
    use gst_video::{VideoFormat, VideoFrameRef};

    use super::*;

    /// Formats whose samples share words, or lie in tiles: what is at the crop's place, wherever that is.
    #[test]
    fn a_crop_of_any_format_is_of_its_place() {
        gst::init().unwrap();
        let mut formats = 0;
        for format in crate::dvfacerestore::picture::formats() {
            let info = VideoInfo::builder(format, 202, 90).build().unwrap();
            let rgb = rgb_info(&info, 202, 90).unwrap();
            let mut cutter = Cutter::new(&info, 32, 32).unwrap();
            if cutter.can_copy {
                continue;
            }
            formats += 1;
            let bytes: Vec<u8> = (0..info.size()).map(|at| (at * 7 % 251) as u8).collect();
            let buffer = gst::Buffer::from_slice(bytes);
            let frame = VideoFrameRef::from_buffer_ref_readable(&buffer, &info).unwrap();
            let mut all = vec![0; 202 * 90 * 3];
            let crop = Crop::new(&info, whole(&info), &rgb, whole(&rgb)).unwrap();
            crop.read(&frame, &mut new_frame(&rgb).unwrap(), &mut all);
            for (x, y) in [(0, 0), (6, 2), (100, 40), (170, 58)] {
                let area = Area {
                    x,
                    y,
                    width: 32,
                    height: 32,
                };
                let mut found = vec![0; 32 * 32 * 3];
                cutter.read(&frame, area, &mut found).unwrap();
                // But for the rows at its ends, where the whole frame's chroma goes on.
                for row in 2..30 {
                    let expected = &all[((y + row) * 202 + x) as usize * 3..][..32 * 3];
                    let off = found[row as usize * 32 * 3..][..32 * 3].iter().zip(expected);
                    let worst = off.map(|(a, b)| a.abs_diff(*b)).max();
                    // GStreamer's matrix of 8 bits differs from that of 16 by up to 6 in the wildest colours.
                    assert!(worst <= Some(8), "{format} at {x}, {y}, row {row}: {worst:?}");
                }
            }
        }
        assert!(formats >= 10, "{formats}");
    }

    /// As videocrop asks for: chroma of an odd place is that of the even one before it.
    #[test]
    fn parts_begin_anywhere() {
        gst::init().unwrap();
        for format in [
            VideoFormat::I420,
            VideoFormat::Nv12,
            VideoFormat::Yuy2,
            VideoFormat::Rgb,
        ] {
            let whole_info = VideoInfo::builder(format, 64, 48).build().unwrap();
            let bytes: Vec<u8> = (0..whole_info.size()).map(|at| (at % 251) as u8).collect();
            let buffer = gst::Buffer::from_slice(bytes.clone());
            let frame = VideoFrameRef::from_buffer_ref_readable(&buffer, &whole_info).unwrap();
            for (x, y, width, height) in [(1, 1, 63, 47), (0, 0, 64, 48), (3, 5, 33, 21), (63, 47, 1, 1)] {
                let info = VideoInfo::builder(format, width, height).build().unwrap();
                let part = part_of(&info, &frame, (x, y)).unwrap();
                let part = VideoFrameRef::from_buffer_ref_readable(&part, &info).unwrap();
                // The first component, Y or R, of the last row.
                let pitch = info.format_info().pixel_stride()[0] as usize;
                let column = if format == VideoFormat::Yuy2 { x & !1 } else { x } as usize;
                let row = part
                    .plane_data(0)
                    .unwrap()
                    .chunks(info.stride()[0] as usize)
                    .nth(height as usize - 1)
                    .unwrap();
                let line = (y + height - 1) as usize * whole_info.stride()[0] as usize;
                let found: Vec<u8> = (0..width as usize).map(|at| row[at * pitch]).collect();
                let expected: Vec<u8> = (0..width as usize)
                    .map(|at| bytes[line + (column + at) * pitch])
                    .collect();
                assert_eq!(found, expected, "{format} at {x}, {y}");
                if format == VideoFormat::I420 {
                    let last = part
                        .plane_data(2)
                        .unwrap()
                        .chunks(info.stride()[2] as usize)
                        .nth((height as usize - 1) / 2);
                    let at =
                        whole_info.offset()[2] + (y as usize / 2 + (height as usize - 1) / 2) * 32 + x as usize / 2;
                    assert_eq!(last.unwrap()[0], bytes[at], "the last row of chroma at {x}, {y}");
                }
            }
            let info = VideoInfo::builder(format, 63, 48).build().unwrap();
            for (x, y) in [(2, 0), (0, 1), (u32::MAX, 0)] {
                assert!(part_of(&info, &frame, (x, y)).is_err(), "{format} at {x}, {y}");
            }
        }
    }

    /// GstVideoConverter writes beyond its memory where it takes a part of a tile.
    #[test]
    fn crops_narrower_than_a_tile_do_no_harm() {
        gst::init().unwrap();
        for format in [VideoFormat::Nv1264z32, VideoFormat::Nv1232l32, VideoFormat::Nv124l4] {
            for (width, height) in [(640, 64), (64, 32), (10, 10)] {
                let info = VideoInfo::builder(format, width, height).build().unwrap();
                let buffer = gst::Buffer::from_slice(vec![100; info.size()]);
                let frame = VideoFrameRef::from_buffer_ref_readable(&buffer, &info).unwrap();
                let mut cutter = Cutter::new(&info, 32, 32).unwrap();
                for side in [2, 8, 10] {
                    for x in [0, width - side] {
                        let area = Area {
                            x,
                            y: 0,
                            width: side,
                            height: side,
                        };
                        let mut found = vec![0; 32 * 32 * 3];
                        cutter.read(&frame, area, &mut found).unwrap();
                        assert!(
                            found.chunks(3).all(|pixel| pixel == &found[..3]),
                            "{format} {width} {side}"
                        );
                    }
                }
            }
        }
    }

    /// A crop that is copied is the picture that GstVideoConverter takes out of the frame.
    #[test]
    fn a_copied_crop_is_the_crop() {
        gst::init().unwrap();
        for format in [
            VideoFormat::I420,
            VideoFormat::Nv12,
            VideoFormat::Yuy2,
            VideoFormat::P01010le,
            VideoFormat::Bgra,
            VideoFormat::A420,
        ] {
            let info = VideoInfo::builder(format, 101, 77).build().unwrap();
            let bytes: Vec<u8> = (0..info.size()).map(|at| (at * 7 % 251) as u8).collect();
            let buffer = gst::Buffer::from_slice(bytes);
            let frame = VideoFrameRef::from_buffer_ref_readable(&buffer, &info).unwrap();
            let mut cutter = Cutter::new(&info, 32, 32).unwrap();
            assert!(cutter.can_copy);
            for (x, y) in [(0, 0), (4, 2), (53, 29)] {
                let area = Area {
                    x: x / 2 * 2,
                    y: y / 2 * 2,
                    width: 48,
                    height: if y == 29 { 49 } else { 48 },
                };
                let mut copied = vec![0; 32 * 32 * 3];
                cutter.read(&frame, area, &mut copied).unwrap();
                let mut taken = vec![1; 32 * 32 * 3];
                let crop = Crop::new(&info, area, &cutter.rgb_info, whole(&cutter.rgb_info)).unwrap();
                crop.read(&frame, &mut cutter.rgb, &mut taken);
                // But for the rows at its ends, where the whole frame's chroma goes on.
                let inner = 3 * 32 * 3..29 * 32 * 3;
                assert!(copied[inner.clone()] == taken[inner], "{format} at {x}, {y}");
            }
        }
    }
}
