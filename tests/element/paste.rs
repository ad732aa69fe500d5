// SPDX-License-Identifier: MPL-2.0

//! What a restored face changes in a frame, and that it changes nothing else.

use gst_video::prelude::*;
use gst_video::{VideoFormat, VideoInfo, VideoRegionOfInterestMeta};

use crate::faces::meta_element;
use crate::pixels::components;
use crate::rig::{Rig, add_face, bytes, flat, frame_with, info};

/// The crop of the face that was restored in a frame.
fn crop(buffer: &gst::Buffer) -> (u32, u32, u32, u32) {
    let metas = buffer.iter_meta::<VideoRegionOfInterestMeta>();
    let mut restored = metas.filter(|meta| meta.roi_type() == "dvface-restored");
    let meta = restored.next().expect("a face was restored");
    assert!(restored.next().is_none());
    let params = meta.param("dvface-restored").unwrap();
    let side = |name: &str| params.get::<u32>(name).unwrap();
    (side("crop-x"), side("crop-y"), side("crop-width"), side("crop-height"))
}

/// The face's box there: left, top, width, height.
fn restored(buffer: &gst::Buffer) -> (u32, u32, u32, u32) {
    let mut metas = buffer.iter_meta::<VideoRegionOfInterestMeta>();
    let meta = metas.find(|meta| meta.roi_type() == "dvface-restored");
    meta.expect("a face was restored").rect()
}

/// Frames with a face that moves, and what becomes of them.
fn moving(info: &VideoInfo, mask: &str) -> Vec<(gst::Buffer, gst::Buffer)> {
    let element = meta_element("blend");
    element.set_property_from_str("mask", mask);
    let rig = Rig::around(element);
    rig.play();
    rig.start(&info.to_caps().unwrap());
    let frames: Vec<_> = (0..11u32)
        .map(|index| {
            // Neither too dark nor too bright for what is added.
            let mut buffer = frame_with(info, index.into(), |place| (60 + (place * 7 + place / 97) % 90) as u8);
            add_face(buffer.get_mut().unwrap(), (52 + 3 * index, 38 + index, 25, 27));
            buffer
        })
        .collect();
    let before: Vec<_> = frames.iter().map(|frame| frame.copy_deep().unwrap()).collect();
    rig.push_all(frames);
    rig.eos();
    let out = rig.take_buffers();
    assert_eq!(out.len(), before.len());
    before.into_iter().zip(out).collect()
}

#[test]
fn outside_the_mask_every_value_is_the_inputs_also_with_subsampled_chroma() {
    let formats = [
        VideoFormat::I420,
        VideoFormat::Nv12,
        VideoFormat::Yuy2,
        VideoFormat::Y41b,
        VideoFormat::Yuv9,
        VideoFormat::Y42b,
        VideoFormat::Y444,
        VideoFormat::Rgb,
        VideoFormat::Bgra,
        VideoFormat::I42010le,
        VideoFormat::P01010le,
    ];
    for format in formats {
        for (width, height) in [(200, 120), (201, 121)] {
            for mask in ["ellipse", "square"] {
                let info = info(format, width, height);
                for (index, (before, after)) in moving(&info, mask).iter().enumerate() {
                    let what = format!("{format:?} {width}x{height} {mask} frame {index}");
                    let changed = check_outside(&info, before, after, mask, &what);
                    // `blend` adds nothing to the first frame of a window.
                    assert!(changed > 100 || index < 3, "{what}: {changed} samples changed");
                }
            }
        }
    }
}

/// Checks that no sample has changed that lies on a pixel outside the mask; counts those that have.
fn check_outside(info: &VideoInfo, before: &gst::Buffer, after: &gst::Buffer, mask: &str, what: &str) -> usize {
    let (x, y, width, height) = crop(after);
    let face = restored(after);
    // Whether a pixel, by its corner that is farthest out, is where the mask is: around the face, of whose place and size the meta has
    // whole pixels.
    let inside = |px: u32, py: u32| {
        if !(x..x + width).contains(&px) || !(y..y + height).contains(&py) {
            return false;
        }
        let out = |at: u32, start: u32, own: u32, length: u32| {
            let half = f64::from(length) / 2.0 + 2.0;
            let from_middle = f64::from(at) - (f64::from(start) + f64::from(own) / 2.0);
            (from_middle.abs().max((from_middle + 1.0).abs())) / half
        };
        let (across, down) = (out(px, face.0, face.2, width), out(py, face.1, face.3, height));
        let way = if mask == "ellipse" {
            across.hypot(down)
        } else {
            across.max(down)
        };
        way < 1.0
    };
    let (old, new) = (components(info, before), components(info, after));
    let format = info.format_info();
    let mut changed = 0;
    for component in 0..format.n_components() {
        let at = component as usize;
        let (across, down) = (1 << format.w_sub()[at], 1 << format.h_sub()[at]);
        let columns = format.scale_width(component as u8, info.width());
        for (place, (old, new)) in old[at].iter().zip(&new[at]).enumerate() {
            if old == new {
                continue;
            }
            changed += 1;
            let (sx, sy) = (place as u32 % columns, place as u32 / columns);
            for py in (sy * down..(sy + 1) * down).filter(|y| *y < info.height()) {
                for px in (sx * across..(sx + 1) * across).filter(|x| *x < info.width()) {
                    assert!(
                        inside(px, py),
                        "{what}: component {component} at {px}, {py} is {new}, was {old}"
                    );
                }
            }
        }
    }
    changed
}

/// Formats whose components share words are added to in an unpacked frame: what is outside comes back as it was.
#[test]
fn outside_the_crop_packed_formats_keep_their_bytes() {
    // Bytes of a row that hold whole groups of pixels, and bits of each byte of a word that hold pixels.
    let formats = [
        (VideoFormat::Uyvp, 500, [0xff; 4]),
        (VideoFormat::V210, 528, [0xff, 0xff, 0xff, 0x3f]),
        (VideoFormat::Y410, 800, [0xff; 4]),
        (VideoFormat::R210, 800, [0x3f, 0xff, 0xff, 0xff]),
    ];
    for (format, row_bytes, bits) in formats {
        let info = info(format, 200, 120);
        let mut changed = 0;
        for (before, after) in moving(&info, "ellipse") {
            let (_, y, _, height) = crop(&after);
            let stride = info.stride()[0] as usize;
            let picture = |buffer: &gst::Buffer| -> Vec<u8> {
                let bytes = bytes(buffer);
                let rows = bytes.chunks(stride).flat_map(|row| &row[..row_bytes]);
                rows.zip(bits.iter().cycle()).map(|(byte, bits)| byte & bits).collect()
            };
            let (before, after) = (picture(&before), picture(&after));
            let rows = before.chunks(row_bytes).zip(after.chunks(row_bytes));
            for (row, (before, after)) in rows.enumerate() {
                let is_outside = !(y as usize..(y + height) as usize).contains(&row);
                // The crop is never in the first tenth of the width.
                let kept = if is_outside { row_bytes } else { row_bytes / 10 };
                assert!(before[..kept] == after[..kept], "{format:?} row {row}");
                changed += usize::from(before != after);
            }
        }
        assert!(changed > 20, "{format:?}: {changed} rows");
    }
}

#[test]
fn in_the_middle_of_the_mask_the_change_is_whole() {
    let info = info(VideoFormat::Rgb, 200, 120);
    let rig = Rig::around(meta_element("brighter"));
    rig.play();
    rig.start(&info.to_caps().unwrap());
    for index in 0..9 {
        let mut buffer = flat(&info, index, 100);
        add_face(buffer.get_mut().unwrap(), (80, 40, 30, 40));
        rig.push(buffer).unwrap();
    }
    rig.eos();
    for buffer in rig.take_buffers() {
        let stride = info.stride()[0] as usize;
        let bytes = bytes(&buffer);
        let at = |x: usize, y: usize| bytes[y * stride + x * 3];
        // The whole box, and not the crop's corner.
        for (x, y) in [(80, 40), (110, 40), (95, 60), (80, 79), (109, 79)] {
            assert_eq!(at(x, y), 101, "{x}, {y}");
        }
        let (x, y, ..) = crop(&buffer);
        assert_eq!(at(x as usize, y as usize), 100);
    }
}

#[test]
fn matched_colours_keep_the_inputs_tone() {
    let info = info(VideoFormat::Rgb, 200, 120);
    for (matches, expected) in [(true, 100), (false, 101)] {
        let element = meta_element("brighter");
        element.set_property("match-colours", matches);
        let rig = Rig::around(element);
        rig.play();
        rig.start(&info.to_caps().unwrap());
        let mut buffer = flat(&info, 0, 100);
        add_face(buffer.get_mut().unwrap(), (80, 40, 30, 40));
        rig.push(buffer).unwrap();
        rig.eos();
        let out = rig.take_buffers();
        assert_eq!(bytes(&out[0])[60 * info.stride()[0] as usize + 95 * 3], expected);
    }
}

/// Where two faces overlap nothing is changed twice.
#[test]
fn overlapping_faces_are_not_changed_twice() {
    let info = info(VideoFormat::Rgb, 200, 120);
    let rig = Rig::around(meta_element("blend"));
    rig.play();
    rig.start(&info.to_caps().unwrap());
    for index in 0..5 {
        let mut buffer = flat(&info, index, 100);
        for x in [70, 90] {
            add_face(buffer.get_mut().unwrap(), (x, 40, 30, 40));
        }
        rig.push(buffer).unwrap();
    }
    rig.eos();
    let out = rig.take_buffers();
    let most = bytes(&out[4]).iter().copied().max().unwrap();
    assert!(
        (139..=141).contains(&most),
        "{most}: the last frame of a window gets 40"
    );
}
