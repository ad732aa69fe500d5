// SPDX-License-Identifier: MPL-2.0

//! Pixels: strides, offsets, pools with padding, letterbox, colorimetry, sizes.

use gst::prelude::*;
use gst_video::prelude::*;
use gst_video::{VideoColorimetry, VideoFormat, VideoFrameRef, VideoInfo, VideoMeta};

use crate::rig::{self, Rig, assert_brighter, bytes, flat, frame, frame_with, info, pixels, rgb, stamp};

/// What comes out for `count` frames.
pub fn restored(model: &str, info: &VideoInfo, frames: impl IntoIterator<Item = gst::Buffer>) -> Vec<gst::Buffer> {
    let rig = Rig::new(model);
    rig.start(&info.to_caps().unwrap());
    rig.push_all(frames);
    rig.eos();
    let out = rig.take_buffers();
    assert_eq!(rig.errors(), []);
    assert_eq!(rig.stat("frames-restored"), out.len() as u64);
    out
}

/// Component values of a frame, one plane's component after the other.
pub fn components(info: &VideoInfo, buffer: &gst::Buffer) -> Vec<Vec<u32>> {
    let frame = VideoFrameRef::from_buffer_ref_readable(buffer, info).unwrap();
    let format = info.format_info();
    (0..format.n_components())
        .map(|component| {
            let at = component as usize;
            let plane = frame.plane_data(format.plane()[at]).unwrap();
            let stride = frame.plane_stride()[format.plane()[at] as usize] as usize;
            let (columns, rows) = (frame.comp_width(component), frame.comp_height(component));
            let step = frame.comp_pstride(component) as usize;
            let offset = frame.comp_poffset(component) as usize;
            // GStreamer 1.22 counts words in that of P010.
            let offset = if format.depth()[at] > 8 && offset % 2 == 1 {
                2 * offset
            } else {
                offset
            };
            (0..rows as usize)
                .flat_map(|y| (0..columns as usize).map(move |x| y * stride + x * step + offset))
                .map(|at_byte| {
                    if format.depth()[at] == 8 {
                        u32::from(plane[at_byte])
                    } else {
                        let pair = [plane[at_byte], plane[at_byte + 1]];
                        let word = if format.is_le() {
                            u16::from_le_bytes(pair)
                        } else {
                            u16::from_be_bytes(pair)
                        };
                        u32::from(word) >> format.shift()[at] & ((1 << format.depth()[at]) - 1)
                    }
                })
                .collect()
        })
        .collect()
}

#[test]
fn rgb_formats_are_one_brighter_in_every_colour() {
    for format in [
        VideoFormat::Rgb,
        VideoFormat::Bgr,
        VideoFormat::Rgbx,
        VideoFormat::Bgrx,
        VideoFormat::Gbr,
    ] {
        let info = info(format, 32, 32);
        let out = restored("brighter", &info, (0..7).map(|index| frame(&info, index)));
        assert_eq!(out.len(), 7);
        for (index, buffer) in out.iter().enumerate() {
            let before = components(&info, &frame(&info, index as u64));
            let after = components(&info, buffer);
            for component in 0..3 {
                let expected: Vec<u32> = before[component].iter().map(|value| value + 1).collect();
                assert!(
                    after[component] == expected,
                    "{format:?} frame {index} component {component}"
                );
            }
        }
    }
}

#[test]
fn yuv_formats_are_brighter_and_keep_their_colour() {
    for format in [
        VideoFormat::I420,
        VideoFormat::Nv12,
        VideoFormat::Y444,
        VideoFormat::P01010le,
    ] {
        let info = info(format, 32, 32);
        let scale = if format == VideoFormat::P01010le { 4 } else { 1 };
        // Mid grey: the last frame of a window of `blend` gets 40 steps of R = G = B brighter, 219/255 times that in Y'.
        let grey = |index| {
            if scale == 1 {
                flat(&info, index, 128)
            } else {
                frame_with(&info, index, |place| if place % 2 == 0 { 0 } else { 128 })
            }
        };
        let out = restored("blend", &info, (0..5).map(grey));
        let last = components(&info, &out[4]);
        let expected = (128.0 + 40.0 * 219.0 / 255.0) * f64::from(scale);
        for luma in &last[0] {
            assert!(
                (f64::from(*luma) - expected).abs() <= 2.0 * f64::from(scale),
                "{format:?}: {luma} for {expected}"
            );
        }
        for chroma in last[1..].iter().flatten() {
            assert!(chroma.abs_diff(128 * scale) <= scale, "{format:?}: {chroma}");
        }
    }
}

#[test]
fn odd_and_extreme_sizes() {
    let sizes = [
        (1, 1),
        (1, 40),
        (40, 1),
        (2, 2),
        (3, 5),
        (31, 33),
        (33, 31),
        (7, 101),
        (639, 6),
        (1001, 77),
    ];
    for format in [
        VideoFormat::I420,
        VideoFormat::Nv12,
        VideoFormat::Rgb,
        VideoFormat::Yuy2,
        VideoFormat::P01010le,
        VideoFormat::V210,
        VideoFormat::Y41b,
    ] {
        for (width, height) in sizes {
            let info = info(format, width, height);
            let out = restored(
                "identity",
                &info,
                (0..3).map(|index| flat(&info, index, 100 + index as u8)),
            );
            assert_eq!(out.len(), 3, "{format:?} {width}x{height}");
            for (index, buffer) in out.iter().enumerate() {
                let before = flat(&info, index as u64, 100 + index as u8);
                if format == VideoFormat::V210 {
                    // Its unused bits are not kept.
                    assert_eq!(buffer.size(), before.size());
                } else {
                    assert!(
                        components(&info, buffer) == components(&info, &before),
                        "{format:?} {width}x{height} frame {index}"
                    );
                }
            }
        }
    }
}

#[test]
fn detail_finer_than_the_bundle_is_kept() {
    let info = info(VideoFormat::Rgb, 96, 64);
    let out = restored("identity", &info, (0..5).map(|index| frame(&info, index)));
    for (index, buffer) in out.iter().enumerate() {
        assert!(bytes(buffer) == bytes(&frame(&info, index as u64)), "frame {index}");
    }
    let flat_frames = (0..5).map(|index| flat(&info, index, 77));
    for buffer in restored("brighter", &info, flat_frames) {
        assert!(pixels(&info, &buffer).iter().all(|value| *value == 78));
    }
}

/// The same frame with longer rows, and planes that begin later.
pub fn padded(info: &VideoInfo, index: u64, padding: usize, lead: usize) -> gst::Buffer {
    let tight = frame(info, index);
    let source = VideoFrameRef::from_buffer_ref_readable(&tight, info).unwrap();
    let format = info.format_info();
    let mut bytes = vec![0xEE; lead];
    let (mut offsets, mut strides) = (Vec::new(), Vec::new());
    for plane in 0..info.n_planes() {
        let stride = source.plane_stride()[plane as usize] as usize;
        let component = (0..format.n_components())
            .find(|at| format.plane()[*at as usize] == plane)
            .unwrap();
        offsets.push(bytes.len());
        strides.push((stride + padding) as i32);
        let data = source.plane_data(plane).unwrap();
        for row in data.chunks(stride).take(source.comp_height(component) as usize) {
            bytes.extend(row);
            bytes.extend(std::iter::repeat_n(0xEE, padding));
        }
        bytes.extend(std::iter::repeat_n(0xEE, lead));
    }
    let mut buffer = gst::Buffer::from_slice(bytes);
    let changed = buffer.get_mut().unwrap();
    stamp(changed, index);
    VideoMeta::add_full(
        changed,
        gst_video::VideoFrameFlags::empty(),
        info.format(),
        info.width(),
        info.height(),
        &offsets,
        &strides,
    )
    .unwrap();
    buffer
}

#[test]
fn padded_rows_and_planes_of_the_input() {
    let cases = [
        (info(VideoFormat::Rgb, 32, 32), 13, 5),
        (info(VideoFormat::Rgb, 31, 9), 1, 3),
        (info(VideoFormat::Bgra, 33, 32), 64, 256),
        (info(VideoFormat::I420, 31, 33), 20, 7),
        (info(VideoFormat::Nv12, 30, 32), 34, 128),
        (info(VideoFormat::P01010le, 31, 31), 18, 6),
    ];
    for (info, padding, lead) in cases {
        let tight = restored("brighter", &info, (0..7).map(|index| frame(&info, index)));
        let wide = restored(
            "brighter",
            &info,
            (0..7).map(|index| padded(&info, index, padding, lead)),
        );
        for (tight, wide) in tight.iter().zip(&wide) {
            assert_eq!(components(&info, tight), components(&info, wide), "{:?}", info.format());
            assert_eq!(wide.size(), info.size(), "the output is not padded");
        }
    }
}

/// Downstream asks for longer rows, by a pool with an alignment.
pub fn use_padded_pool(rig: &Rig, caps: &gst::Caps, info: &VideoInfo, max: u32) -> gst::BufferPool {
    let pool: gst::BufferPool = gst_video::VideoBufferPool::new().upcast();
    let mut config = pool.config();
    config.set_params(Some(caps), info.size() as u32, 0, max);
    config.add_option(gst_video::BUFFER_POOL_OPTION_VIDEO_META.as_str());
    config.add_option(gst_video::BUFFER_POOL_OPTION_VIDEO_ALIGNMENT.as_str());
    config.set_video_alignment(&gst_video::VideoAlignment::new(2, 4, 16, 32, &[15; 4]));
    pool.set_config(config).unwrap();
    let size = pool.config().params().unwrap().1;
    let offered = pool.clone();
    rig.on_downstream_query(move |query| match query.view_mut() {
        gst::QueryViewMut::Allocation(query) => {
            query.add_allocation_pool(Some(&offered), size, 0, max);
            query.add_allocation_meta::<VideoMeta>(None);
            true
        }
        _ => false,
    });
    pool
}

#[test]
fn output_comes_from_downstreams_pool_with_its_padding() {
    for format in [VideoFormat::Rgb, VideoFormat::I420, VideoFormat::Bgra] {
        let info = info(format, 32, 32);
        let caps = info.to_caps().unwrap();
        let expected = restored("brighter", &info, (0..7).map(|index| frame(&info, index)));
        let rig = Rig::new("brighter");
        let pool = use_padded_pool(&rig, &caps, &info, 0);
        rig.start(&caps);
        rig.push_all((0..7).map(|index| frame(&info, index)));
        rig.eos();
        let out = rig.take_buffers();
        assert_eq!(out.len(), 7);
        for (buffer, expected) in out.iter().zip(&expected) {
            assert!(buffer.size() > info.size(), "{format:?}");
            let meta = buffer.meta::<VideoMeta>().unwrap();
            assert!(meta.stride()[0] > info.stride()[0], "{format:?}");
            assert_eq!(components(&info, buffer), components(&info, expected), "{format:?}");
            let owner = unsafe { (*buffer.as_ptr()).pool };
            assert_eq!(owner, pool.as_ptr(), "{format:?}");
        }
    }
}

/// Pools that are too small for a window would wait for buffers that the element itself holds.
#[test]
fn a_pool_with_too_few_buffers_does_not_stop_the_stream() {
    for max in [1, 2, 4, 5, 8, 9, 20] {
        let info = rgb();
        let caps = info.to_caps().unwrap();
        let rig = Rig::new("brighter");
        let pool = use_padded_pool(&rig, &caps, &info, max);
        rig.start(&caps);
        let mut out = Vec::new();
        for index in 0..13 {
            rig.push(frame(&info, index)).unwrap();
            // A sink lets go of what it showed.
            out.extend(rig.take_buffers().iter().map(|buffer| pixels(&info, buffer)));
        }
        rig.eos();
        out.extend(rig.take_buffers().iter().map(|buffer| pixels(&info, buffer)));
        assert_eq!(out.len(), 13, "at most {max} buffers");
        drop(pool);
    }
}

#[test]
fn after_a_start_without_strength_the_pool_is_downstreams_too() {
    let info = rgb();
    let caps = info.to_caps().unwrap();
    let rig = Rig::new("brighter");
    let pool = use_padded_pool(&rig, &caps, &info, 0);
    rig.element.set_property("strength", 0.0);
    rig.start(&caps);
    rig.push_all((0..2).map(|index| frame(&info, index)));
    assert_eq!(rig.take_buffers().len(), 2);
    rig.element.set_property("strength", 1.0);
    rig.push_all((2..7).map(|index| frame(&info, index)));
    rig.eos();
    let out = rig.take_buffers();
    for buffer in &out {
        assert_eq!(unsafe { (*buffer.as_ptr()).pool }, pool.as_ptr());
    }
    assert_brighter(&info, &out, 2, 5);
}

/// Values that the graphs see at the corner and in the middle of their frame: `brighter` stops at 255, so where the
/// picture is white, nothing changes, and what is beside the picture is not part of the output.
#[test]
fn letterbox_puts_the_picture_back_in_its_place() {
    // (size, pixel aspect ratio)
    let cases = [
        ((64, 16), (1, 1)),
        ((16, 64), (1, 1)),
        ((32, 32), (2, 1)),
        ((32, 32), (1, 3)),
        ((50, 10), (1, 1)),
        ((64, 32), (1, 2)),
        ((720, 576), (16, 15)),
    ];
    for ((width, height), (numer, denom)) in cases {
        let info = VideoInfo::builder(VideoFormat::Rgb, width, height)
            .fps(gst::Fraction::new(25, 1))
            .par(gst::Fraction::new(numer, denom))
            .build()
            .unwrap();
        // A step from dark to bright along each axis, in the middle.
        let stepped = |index| {
            let stride = info.stride()[0] as usize;
            frame_with(&info, index, |place| {
                let (x, y) = (place % stride / 3, place / stride);
                let right = x >= width as usize / 2;
                let low = y >= height as usize / 2;
                50 + 100 * u8::from(right) + 60 * u8::from(low)
            })
        };
        let before = pixels(&info, &stepped(0));
        for buffer in restored("identity", &info, (0..3).map(stepped)) {
            assert!(pixels(&info, &buffer) == before, "{width}x{height} {numer}/{denom}");
        }
        for buffer in restored("brighter", &info, (0..3).map(stepped)) {
            let expected: Vec<u8> = before.iter().map(|value| value + 1).collect();
            assert!(pixels(&info, &buffer) == expected, "{width}x{height} {numer}/{denom}");
        }
    }
}

/// A picture that nearly fills the bundle's frame leaves a border of a row. Black, it would be the sharpest edge in sight, and
/// `dvface-nano` draws a bright line along such a one.
#[test]
fn a_thin_border_of_the_letterbox_leaves_no_line() {
    let element = rig::element("brighter");
    element.set_property("model", rig::SHIPPED);
    let rig = Rig::around(element);
    rig.play();
    let info = VideoInfo::builder(VideoFormat::Rgb, 512, 512)
        .fps(gst::Fraction::new(25, 1))
        .par(gst::Fraction::new(389, 388))
        .build()
        .unwrap();
    let stride = info.stride()[0] as usize;
    // A soft picture: skin's colour, a little brighter from row to row.
    let soft = |place: usize| [170, 100, 60][place % stride % 3] + (place / stride / 16) as u8;
    rig.start(&info.to_caps().unwrap());
    rig.push_all((0..17).map(|index| frame_with(&info, index, soft)));
    rig.eos();
    let out = rig.take_buffers();
    assert_eq!(out.len(), 17);
    let worst = |buffer: &gst::Buffer| {
        let changes = pixels(&info, buffer).into_iter().enumerate();
        changes.map(|(place, value)| value.abs_diff(soft(place))).max().unwrap()
    };
    let worst: Vec<u8> = out.iter().map(worst).collect();
    assert!(worst.iter().all(|value| *value <= 6), "{worst:?}");
}

/// White is 255 for the graphs, whatever Y' it has in the colorimetry of the caps: it cannot get brighter. A darker grey
/// gets as much brighter as the range of Y' says.
#[test]
fn the_graphs_see_white_as_white_for_each_colorimetry() {
    for (colorimetry, white, range) in [
        ("bt601", 235, 219.0),
        ("bt709", 235, 219.0),
        ("bt2020", 235, 219.0),
        ("1:4:0:0", 255, 255.0),
        ("1:3:0:0", 255, 255.0),
    ] {
        let colorimetry: VideoColorimetry = colorimetry.parse().unwrap();
        let info = VideoInfo::builder(VideoFormat::Y444, 32, 32)
            .fps(gst::Fraction::new(25, 1))
            .colorimetry(&colorimetry)
            .build()
            .unwrap();
        for (luma, change) in [(white, 0.0), (white - 80, 40.0)] {
            let picture = |index| frame_with(&info, index, move |place| if place < 32 * 32 { luma } else { 128 });
            // The last frame of a window of `blend` gets 40 brighter.
            let out = restored("blend", &info, (0..5).map(picture));
            let last = components(&info, &out[4]);
            let expected = f64::from(luma) + change * range / 255.0;
            // GStreamer converts with 8 bits.
            assert!(
                last[0].iter().all(|y| (f64::from(*y) - expected).abs() <= 3.0),
                "{colorimetry}: {}",
                last[0][0]
            );
            assert!(
                last[1..].iter().flatten().all(|chroma| chroma.abs_diff(128) <= 1),
                "{colorimetry}"
            );
        }
    }
}

/// Pure red in the colorimetry of the caps: green and blue are 0 for the graphs and get brighter, red is 255 and does not.
/// With another matrix the graphs would see another colour, and the difference would be another one.
#[test]
fn the_graphs_see_red_as_red_for_each_colorimetry() {
    // Y', Cb, Cr of red, full range: Kr, and Cb = 128 - 127.5 Kr / (1 - Kb), Cr = 255.
    let cases = [("1:4:0:0", 0.299, 0.114), ("1:3:0:0", 0.2126, 0.0722)];
    for (colorimetry, kr, kb) in cases {
        let colorimetry: VideoColorimetry = colorimetry.parse().unwrap();
        let info = VideoInfo::builder(VideoFormat::Y444, 32, 32)
            .fps(gst::Fraction::new(25, 1))
            .colorimetry(&colorimetry)
            .build()
            .unwrap();
        let red = [(255.0 * kr) as u8, (128.0 - 127.5 * kr / (1.0 - kb)) as u8, 255];
        let picture = |index| frame_with(&info, index, |place| red[place / (32 * 32)]);
        // `blend` adds 10 to each colour of the window's second frame and 40 to its last one: red stays at 255.
        let out = restored("blend", &info, (0..5).map(picture));
        let last = components(&info, &out[4]);
        let change = |component: usize| f64::from(last[component][0]) - f64::from(red[component]);
        let brighter = 40.0 * (1.0 - kr);
        assert!(
            (change(0) - brighter).abs() <= 2.0,
            "{colorimetry}: Y' changes by {} for {brighter}",
            change(0)
        );
        let cb = 0.5 * (40.0 - brighter) / (1.0 - kb);
        assert!(
            (change(1) - cb).abs() <= 2.0,
            "{colorimetry}: Cb changes by {} for {cb}",
            change(1)
        );
        let cr = 0.5 * (0.0 - brighter) / (1.0 - kr);
        assert!(
            (change(2) - cr).abs() <= 2.0,
            "{colorimetry}: Cr changes by {} for {cr}",
            change(2)
        );
    }
}

#[test]
fn frames_of_8k_with_a_small_bundle() {
    let info = info(VideoFormat::Nv12, 7680, 4320);
    let start = std::time::Instant::now();
    let rig = Rig::new("identity");
    rig.start(&info.to_caps().unwrap());
    rig.push_all((0..2).map(|index| flat(&info, index, 90)));
    rig.eos();
    let out = rig.take_buffers();
    assert_eq!(out.len(), 2);
    for buffer in &out {
        let map = buffer.map_readable().unwrap();
        assert!(map[..] == vec![90; info.size()][..]);
    }
    println!("two 8K frames: {:?}", start.elapsed());
}

/// GStreamer maps what a meta says, also beyond the memory: what lies there is somebody else's.
#[test]
fn a_meta_that_promises_more_than_the_memory_is_refused() {
    for format in [
        VideoFormat::Rgb,
        VideoFormat::I420,
        VideoFormat::Nv1264z32,
        VideoFormat::V210,
        VideoFormat::Uyvp,
        VideoFormat::Nv1210le32,
    ] {
        let kind = info(format, 64, 64);
        let rig = Rig::new("identity");
        rig.start(&kind.to_caps().unwrap());
        // Without its last row, or of tiles a part; formats whose samples share words have rows, too.
        let row = match kind.format_info().is_tiled() {
            true => kind.size() / 8,
            false => kind.stride()[kind.n_planes() as usize - 1] as usize,
        };
        for (index, memory) in [(0, kind.size()), (1, kind.size() - row)] {
            let mut buffer = frame(&kind, index);
            let changed = buffer.get_mut().unwrap();
            gst_video::VideoMeta::add(changed, gst_video::VideoFrameFlags::empty(), format, 64, 64).unwrap();
            if memory < kind.size() {
                changed.replace_all_memory(gst::Memory::from_slice(vec![0u8; memory]));
            }
            let is_whole = memory == kind.size();
            assert_eq!(rig.push(buffer).is_ok(), is_whole, "{format}");
        }
        let told = rig.errors();
        assert!(
            told.len() == 1 && told[0].message().contains("more than its memory"),
            "{format}: {told:?}"
        );
        assert_eq!(rig.take_buffers().len(), 1, "{format}");
    }
}

/// Legal in C: rows from the bottom up, and rows in each other.
#[test]
fn odd_strides_are_refused() {
    let kind = rgb();
    let last = kind.size() - kind.stride()[0] as usize;
    for (offset, stride, told_of) in [(last, -kind.stride()[0], "from the bottom up"), (0, 1, "in each other")] {
        for region in ["frame", "meta"] {
            let element = rig::element("brighter");
            element.set_property_from_str("region", region);
            let rig = Rig::around(element);
            rig.play();
            rig.start(&kind.to_caps().unwrap());
            let mut buffer = frame(&kind, 0);
            unsafe {
                gst_video::ffi::gst_buffer_add_video_meta_full(
                    buffer.get_mut().unwrap().as_mut_ptr(),
                    gst_video::ffi::GST_VIDEO_FRAME_FLAG_NONE,
                    gst_video::ffi::GST_VIDEO_FORMAT_RGB,
                    kind.width(),
                    kind.height(),
                    1,
                    &[offset, 0, 0, 0],
                    &[stride, 0, 0, 0],
                );
            }
            assert_eq!(rig.push(buffer), Err(gst::FlowError::Error));
            let told = rig.errors();
            assert!(
                told.len() == 1 && told[0].message().contains(told_of),
                "{region}: {told:?}"
            );
        }
    }
}
