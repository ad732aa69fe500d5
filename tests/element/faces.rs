// SPDX-License-Identifier: MPL-2.0

//! `region=meta` and `region=detect`: faces in a frame, one, several and none.

use gst::prelude::*;
use gst_video::{VideoFormat, VideoInfo, VideoRegionOfInterestMeta};

use crate::rig::{self, FRAME, Out, Rig, add_face, bytes, flat, frame, info, labels};

/// An element that restores what metas tell of.
pub fn meta_element(model: &str) -> gst::Element {
    let element = rig::element(model);
    element.set_property_from_str("region", "meta");
    element.set_property("min-face-size", 8u32);
    // The bundles of the tests change the low frequencies only.
    element.set_property("match-colours", false);
    element
}

/// Left, top, width, height.
type Box4 = (u32, u32, u32, u32);

/// What was restored in a frame: track, share of the strength, box.
pub fn restored(buffer: &gst::BufferRef) -> Vec<(i32, f64, Box4)> {
    let metas = buffer.iter_meta::<VideoRegionOfInterestMeta>();
    metas
        .filter(|meta| meta.roi_type() == "dvface-restored")
        .map(|meta| {
            let strength = meta.param("dvface-restored").unwrap().get::<f64>("strength").unwrap();
            (meta.id(), strength, meta.rect())
        })
        .collect()
}

fn with_faces(mut buffer: gst::Buffer, faces: &[Box4]) -> gst::Buffer {
    for face in faces {
        add_face(buffer.get_mut().unwrap(), *face);
    }
    buffer
}

pub fn started(element: gst::Element, info: &VideoInfo) -> Rig {
    let rig = Rig::around(element);
    rig.play();
    rig.start(&info.to_caps().unwrap());
    rig.take();
    rig
}

fn flush(rig: &Rig) {
    assert!(rig.event(gst::event::FlushStart::new()));
    assert!(rig.event(gst::event::FlushStop::new(true)));
    assert!(rig.event(rig::time_segment()));
    rig.take();
}

pub fn vga() -> VideoInfo {
    info(VideoFormat::Rgb, 160, 120)
}

/// One face in the middle of a 160x120 frame.
pub const FACE: Box4 = (65, 45, 24, 32);

#[test]
fn without_a_face_the_same_buffers_go_on_at_once_and_nothing_runs() {
    for mode in ["meta", "detect"] {
        let element = meta_element("brighter");
        if mode == "detect" {
            element.set_property_from_str("region", "detect");
            element.set_property("detector", crate::detector("yunet-nothing"));
        }
        let rig = started(element, &vga());
        for index in 0..23 {
            let buffer = frame(&vga(), index);
            let pointer = buffer.as_ptr();
            rig.push(buffer).unwrap();
            let out = rig.take_buffers();
            assert_eq!(out.len(), 1, "{mode}: it is not held");
            assert_eq!(out[0].as_ptr(), pointer, "{mode}: it is the same buffer");
            assert!(bytes(&out[0]) == bytes(&frame(&vga(), index)));
        }
        let counts = [
            "windows",
            "frames-restored",
            "frames-bypassed",
            "frames-without-face",
            "frames-out",
        ];
        assert_eq!(counts.map(|name| rig.stat(name)), [0, 0, 0, 23, 23], "{mode}");
    }
}

/// The base class tells upstream of `GstVideoMeta`. Downstream that does not know it cannot read such a frame.
#[test]
fn frames_without_a_face_lie_as_downstream_can_read_them() {
    let info = rig::info(VideoFormat::I420, 62, 66);
    for knows in [false, true] {
        let rig = Rig::around(meta_element("brighter"));
        rig.on_downstream_query(move |query| match query.view_mut() {
            gst::QueryViewMut::Allocation(query) if knows => {
                query.add_allocation_meta::<gst_video::VideoMeta>(None);
                true
            }
            _ => false,
        });
        rig.play();
        rig.start(&info.to_caps().unwrap());
        for index in 0..3 {
            let wide = crate::pixels::padded(&info, index, 20, 7);
            let pointer = wide.as_ptr();
            rig.push(wide).unwrap();
            let out = rig.take_buffers();
            assert_eq!(out.len(), 1);
            assert_eq!(
                out[0].as_ptr() == pointer,
                knows,
                "it is copied only where it has to be"
            );
            assert_eq!(out[0].meta::<gst_video::VideoMeta>().is_some(), knows);
            assert_eq!(out[0].pts(), Some(FRAME * index));
            assert_eq!(rig::pixels(&info, &out[0]), rig::pixels(&info, &frame(&info, index)));
        }
        assert_eq!(rig.errors(), []);
    }
}

/// So it is where the element stops restoring while it plays.
#[test]
fn frames_without_strength_lie_as_downstream_can_read_them() {
    let info = rig::info(VideoFormat::Rgb, 31, 9);
    let rig = Rig::new("brighter");
    rig.start(&info.to_caps().unwrap());
    rig.push_all((0..5).map(|index| frame(&info, index)));
    rig.element.set_property("strength", 0.0);
    rig.take();
    rig.push(crate::pixels::padded(&info, 5, 13, 5)).unwrap();
    let out = rig.take_buffers();
    let last = out.last().unwrap();
    assert_eq!(last.pts(), Some(FRAME * 5));
    assert!(last.meta::<gst_video::VideoMeta>().is_none());
    assert_eq!(rig::pixels(&info, last), rig::pixels(&info, &frame(&info, 5)));
}

#[test]
fn other_types_of_metas_do_not_count_and_the_type_is_a_property() {
    let tagged = |index, kind: &str| {
        let mut buffer = flat(&vga(), index, 100);
        VideoRegionOfInterestMeta::add(buffer.get_mut().unwrap(), kind, FACE);
        buffer
    };
    for (property, kind, counts) in [
        ("face", "vehicle", 0),
        ("vehicle", "vehicle", 7),
        ("dvface-restored", "dvface-restored", 0),
    ] {
        let element = meta_element("brighter");
        element.set_property("roi-type", property);
        let rig = started(element, &vga());
        rig.push_all((0..7).map(|index| tagged(index, kind)));
        rig.eos();
        assert_eq!(rig.take_buffers().len(), 7);
        assert_eq!(rig.stat("frames-restored"), counts, "{property} {kind}");
    }
}

/// Every way for faces to come and go: N in, N out, in order, with their times; who has no face has its pixels.
#[test]
fn faces_that_come_and_go_stall_nothing() {
    let mut seed = 7u64;
    let mut random = |bound: u64| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % bound
    };
    for model in ["brighter", "blend"] {
        let rig = started(meta_element(model), &vga());
        for turn in 0..12 {
            let count = random(60);
            let mut held = 0;
            for index in 0..count {
                let mut faces = Vec::new();
                for _ in 0..random(4) {
                    let size = 8 + random(60) as u32;
                    faces.push((random(200) as u32, random(150) as u32, size, size));
                }
                // Long stretches of one and of none, too.
                match (index + turn * 7) / 16 % 3 {
                    0 => faces = vec![FACE],
                    1 => faces.clear(),
                    _ => {}
                }
                rig.push(with_faces(frame(&vga(), index), &faces)).unwrap();
                let out = rig.take_buffers();
                for buffer in &out {
                    check(buffer, held);
                    held += 1;
                }
                assert!(index + 1 - held < 5, "at most a window is held");
            }
            rig.eos();
            for buffer in rig.take_buffers() {
                check(&buffer, held);
                held += 1;
            }
            assert_eq!(held, count);
            flush(&rig);
        }
        assert_eq!(rig.errors(), []);
        assert_eq!(rig.stat("frames-in"), rig.stat("frames-out"));
        let kinds = ["frames-restored", "frames-bypassed", "frames-without-face"].map(|name| rig.stat(name));
        assert_eq!(kinds.iter().sum::<u64>(), rig.stat("frames-out"), "{kinds:?}");
        assert!(kinds[0] > 0 && kinds[1] == 0 && kinds[2] > 0, "{kinds:?}");
    }

    #[track_caller]
    fn check(buffer: &gst::Buffer, index: u64) {
        assert_eq!((buffer.offset(), buffer.pts()), (index, Some(FRAME * index)));
        assert_eq!(buffer.duration(), Some(FRAME));
        if restored(buffer).is_empty() {
            assert!(
                bytes(buffer) == bytes(&frame(&vga(), index)),
                "frame {index} has no face, and is another"
            );
        }
    }
}

#[test]
fn a_face_is_restored_from_its_first_frame_to_its_last_with_fades() {
    let rig = started(meta_element("blend"), &vga());
    // 6 frames without, 20 with, 25 without.
    for index in 0..51 {
        let faces: &[_] = if (6..26).contains(&index) { &[FACE] } else { &[] };
        rig.push(with_faces(flat(&vga(), index, 100), faces)).unwrap();
    }
    let out = rig.take_buffers();
    assert_eq!(out.len(), 51, "what is over has left");
    let shares: Vec<f64> = out
        .iter()
        .map(|buffer| restored(buffer).first().map_or(0.0, |face| face.1))
        .collect();
    let tenths: Vec<u64> = shares.iter().map(|share| (share * 10.0).round() as u64).collect();
    let mut expected = vec![0; 6];
    expected.extend([2, 4, 6, 8]);
    // It is held for eight frames when it is lost, and fades.
    expected.extend([10; 20 - 4 + 8]);
    expected.extend([8, 6, 4, 2]);
    expected.resize(51, 0);
    assert_eq!(tenths, expected);
    for buffer in &out {
        let faces = restored(buffer);
        assert!(faces.iter().all(|(id, _, rect)| *id == 1 && *rect == FACE), "{faces:?}");
        let before = bytes(&flat(&vga(), 0, 100));
        assert!(!faces.is_empty() || bytes(buffer) == before);
    }
    // Windows of 5 frames at 0, 3, … 27 of its 32.
    assert_eq!(rig.stat("windows"), 10);
    assert_eq!(rig.stat("faces-restored"), 32);
}

#[test]
fn at_a_cut_nothing_fades_and_tracks_are_new() {
    let rig = started(meta_element("brighter"), &vga());
    for index in 0..20 {
        let mut buffer = with_faces(flat(&vga(), index, 100), &[FACE]);
        if index == 9 {
            buffer.get_mut().unwrap().set_flags(gst::BufferFlags::DISCONT);
        }
        rig.push(buffer).unwrap();
    }
    rig.eos();
    let out = rig.take_buffers();
    let ids: Vec<i32> = out.iter().map(|buffer| restored(buffer)[0].0).collect();
    assert!(
        ids[..9].iter().all(|id| *id == 1) && ids[9..].iter().all(|id| *id == 2),
        "{ids:?}"
    );
    assert!(out.iter().all(|buffer| restored(buffer)[0].1 == 1.0));

    // The same with a scene that is found to be another.
    let element = meta_element("brighter");
    element.set_property("scene-cut", 0.3);
    let rig = started(element, &vga());
    rig.push_all((0..20).map(|index| with_faces(flat(&vga(), index, if index < 11 { 40 } else { 200 }), &[FACE])));
    rig.eos();
    let ids: Vec<i32> = rig.take_buffers().iter().map(|buffer| restored(buffer)[0].0).collect();
    assert!(
        ids[..11].iter().all(|id| *id == 1) && ids[11..].iter().all(|id| *id == 2),
        "{ids:?}"
    );
    assert_eq!(rig.stat("scene-cuts"), 1);
}

#[test]
fn two_faces_that_cross_keep_their_numbers() {
    let big = info(VideoFormat::I420, 640, 240);
    let rig = started(meta_element("brighter"), &big);
    for index in 0..60u32 {
        let (left, right) = ((20 + 8 * index, 60, 60, 80), (540 - 8 * index, 90, 54, 72));
        let faces = if index % 2 == 0 { [left, right] } else { [right, left] };
        rig.push(with_faces(flat(&big, index.into(), 100), &faces)).unwrap();
    }
    rig.eos();
    let out = rig.take_buffers();
    assert_eq!(out.len(), 60);
    for (buffer, index) in out.iter().zip(0u32..) {
        let faces = restored(buffer);
        assert_eq!(faces.len(), 2);
        let of = |id: i32| faces.iter().find(|face| face.0 == id).unwrap().2;
        assert!(of(1).0.abs_diff(20 + 8 * index) <= 9, "frame {index}: {:?}", of(1));
        assert!(of(2).0.abs_diff(540 - 8 * index) <= 9, "frame {index}: {:?}", of(2));
    }
}

#[test]
fn fifty_faces_are_bounded() {
    let big = info(VideoFormat::Rgb, 1000, 500);
    let element = meta_element("brighter");
    element.set_property("max-faces", 3u32);
    let rig = started(element, &big);
    let crowd: Vec<_> = (0..50u32)
        .map(|at| (at % 10 * 100, at / 10 * 100, 30 + at, 30 + at))
        .collect();
    let mut count = 0;
    for index in 0..30 {
        rig.push(with_faces(flat(&big, index, 100), &crowd)).unwrap();
        count += rig.take_buffers().len() as u64;
        assert!(index + 1 - count < 5, "at most a window is held");
    }
    rig.eos();
    assert_eq!(count + rig.take_buffers().len() as u64, 30);
    assert_eq!(rig.stat("faces-restored"), 3 * 30);
    // For each of three faces windows of 5 frames at 0, 4, … 24, and one that is moved back.
    assert_eq!(rig.stat("windows"), 3 * 8);
    assert_eq!(rig.stat("regions-in-memory"), 3);
}

/// Fifty people who come and go all the time, and cuts: memory is that of as many regions as are allowed, and of those that one frame
/// exchanges.
#[test]
fn a_crowd_that_comes_and_goes_is_bounded() {
    let big = info(VideoFormat::Rgb, 1000, 500);
    let element = meta_element("brighter");
    element.set_property("max-faces", 3u32);
    let rig = started(element, &big);
    let mut most = 0;
    for index in 0..120u32 {
        // Each shows for some frames in its place, the larger ones later.
        let faces: Vec<_> = (0..50u32)
            .filter(|at| (index + at * 7) % 40 < 13)
            .map(|at| {
                (
                    at % 10 * 100,
                    at / 10 * 100,
                    30 + (at + index / 3) % 50,
                    40 + (at + index / 3) % 50,
                )
            })
            .collect();
        let mut buffer = with_faces(flat(&big, index.into(), 100), &faces);
        if index % 50 == 49 {
            buffer.get_mut().unwrap().set_flags(gst::BufferFlags::DISCONT);
        }
        rig.push(buffer).unwrap();
        most = most.max(rig.stat("regions-in-memory"));
        for buffer in rig.take_buffers() {
            assert!(restored(&buffer).len() <= 3);
        }
    }
    rig.eos();
    println!("{most} regions in memory at most");
    assert!((3..=6).contains(&most), "{most} regions in memory");
    assert_eq!((rig.stat("frames-in"), rig.stat("frames-out")), (120, 120));
}

#[test]
fn faces_that_are_too_small_or_too_large_are_left_alone() {
    let element = meta_element("brighter");
    element.set_property("min-face-size", 20u32);
    element.set_property("max-face-size", 60u32);
    let rig = started(element, &vga());
    let faces = [(5, 5, 19, 19), (40, 30, 30, 30), (80, 40, 70, 70)];
    rig.push_all((0..9).map(|index| with_faces(flat(&vga(), index, 100), &faces)));
    rig.eos();
    for buffer in rig.take_buffers() {
        let rects: Vec<_> = restored(&buffer).iter().map(|face| face.2).collect();
        assert_eq!(rects, [(40, 30, 30, 30)]);
    }
}

#[test]
fn metas_of_strangers_do_no_harm() {
    let rig = started(meta_element("brighter"), &vga());
    let max = u32::MAX;
    let strange = [
        (0, 0, 0, 0),
        (max, max, max, max),
        (0, 0, max, 1),
        (max, 0, 5, 5),
        (159, 119, 1, 1),
        (0, 0, 1, max),
        (50, 50, 0, 40),
    ];
    for index in 0..12 {
        let mut buffer = with_faces(frame(&vga(), index), &strange);
        // Of no type, as `gst_buffer_add_video_region_of_interest_meta()` makes of NULL.
        let writable = buffer.get_mut().unwrap();
        unsafe {
            gst_video::ffi::gst_buffer_add_video_region_of_interest_meta_id(writable.as_mut_ptr(), 0, 10, 10, 20, 20);
        }
        rig.push(buffer).unwrap();
    }
    rig.eos();
    assert_eq!(rig.take_buffers().len(), 12);
    assert_eq!(rig.errors(), []);
}

/// A place outside the frame is no reason to change what is in it.
#[test]
fn faces_outside_the_frame_are_left_alone() {
    let rig = started(meta_element("brighter"), &vga());
    for place in [(5000, 5000, 30, 40), (160, 40, 30, 40), (40, 118, 30, 40)] {
        rig.push(with_faces(frame(&vga(), 3), &[place])).unwrap();
        flush(&rig);
        rig.push(with_faces(frame(&vga(), 3), &[place])).unwrap();
        rig.eos();
        for buffer in rig.take_buffers() {
            assert_eq!(restored(&buffer), [], "{place:?}");
            assert!(bytes(&buffer) == bytes(&frame(&vga(), 3)), "{place:?}");
        }
        flush(&rig);
    }
}

#[test]
fn events_and_flushes_keep_to_the_rules() {
    let rig = started(meta_element("brighter"), &vga());
    let custom = |name: &str| gst::event::CustomDownstream::new(gst::Structure::new_empty(name));
    // An event waits for the frame with a face before it, and the frame without one behind it waits for both.
    rig.push(with_faces(frame(&vga(), 0), &[FACE])).unwrap();
    assert!(rig.event(custom("a")));
    rig.push(frame(&vga(), 1)).unwrap();
    assert!(rig.take().is_empty());
    rig.eos();
    assert_eq!(labels(&rig.take()), ["0", "a", "1", "eos"]);
    flush(&rig);
    rig.push_all((0..3).map(|index| with_faces(frame(&vga(), index), &[FACE])));
    flush(&rig);
    rig.push_all((10..12).map(|index| with_faces(frame(&vga(), index), &[FACE])));
    rig.eos();
    let out: Vec<_> = rig.take().into_iter().filter_map(Out::buffer).collect();
    assert_eq!(out.iter().map(|buffer| buffer.offset()).collect::<Vec<_>>(), [10, 11]);
    assert!(
        out.iter().all(|buffer| restored(buffer)[0].1 == 1.0),
        "after a flush nothing fades in"
    );
}

#[test]
fn the_latency_grows_with_the_faces() {
    let element = meta_element("brighter");
    let rig = started(element, &vga());
    let one = rig.query_latency().1;
    assert!(one >= FRAME * 4);
    rig.push_all((0..23).map(|index| with_faces(frame(&vga(), index), &[FACE])));
    let deadline = gst::ClockTime::from_mseconds(500);
    assert!(rig.query_latency().1 < FRAME * 4 + deadline);
    let fixed = meta_element("brighter");
    fixed.set_property("processing-deadline", deadline.nseconds());
    let rig = started(fixed, &vga());
    let faces = [(5, 5, 24, 32), (60, 10, 24, 32), (110, 70, 24, 32)];
    rig.push_all((0..23).map(|index| with_faces(frame(&vga(), index), &faces)));
    assert_eq!(
        rig.query_latency().1,
        FRAME * 4 + deadline,
        "a deadline that is set stays"
    );
}

#[test]
fn strength_holds_for_faces_and_none_is_a_passthrough() {
    let rig = started(meta_element("brighter"), &vga());
    for (index, strength) in [1.0, 0.5, 0.25, 1.0, 0.75].into_iter().enumerate() {
        rig.element.set_property("strength", strength);
        rig.push(with_faces(flat(&vga(), index as u64, 100), &[FACE])).unwrap();
    }
    rig.eos();
    let found: Vec<f64> = rig.take_buffers().iter().map(|buffer| restored(buffer)[0].1).collect();
    assert_eq!(found, [1.0, 0.5, 0.25, 1.0, 0.75]);
    flush(&rig);
    rig.element.set_property("strength", 0.0);
    let buffer = with_faces(flat(&vga(), 0, 100), &[FACE]);
    let pointer = buffer.as_ptr();
    rig.push(buffer).unwrap();
    assert_eq!(rig.take_buffers()[0].as_ptr(), pointer);
}

#[test]
fn a_detector_finds_the_face() {
    for name in ["yunet-whole", "rfb-whole"] {
        for interval in [1u32, 3] {
            let element = meta_element("brighter");
            element.set_property_from_str("region", "detect");
            element.set_property("detector", crate::detector(name));
            element.set_property("detect-interval", interval);
            let rig = started(element, &vga());
            rig.push_all((0..13).map(|index| flat(&vga(), index, 100)));
            rig.eos();
            let out = rig.take_buffers();
            assert_eq!(out.len(), 13);
            for buffer in &out {
                assert_eq!(
                    restored(buffer),
                    [(1, 1.0, (0, 0, 160, 120))],
                    "{name} every {interval}"
                );
            }
        }
    }
}

#[test]
fn a_detector_that_is_missing_or_wrong_is_one_clear_error() {
    let no_file = crate::detector("wrong").replace("wrong", "no-such-file");
    let cases: [(Option<String>, &[&str]); 4] = [
        (
            None,
            &[
                "property detector",
                "YuNet",
                "Apache-2.0",
                "RFB-320",
                "MIT",
                "104ee26c71d5c270ce79a6b3dced91c91013260d29a6bf18f9296c5b8c4c2b12",
            ],
        ),
        (Some(no_file), &["no-such-file.onnx", "No such file"]),
        (Some(crate::detector("wrong")), &["wrong.onnx", "classes", "YuNet"]),
        (
            Some(crate::bundle("identity") + "/bundle.toml"),
            &["bundle.toml", "YuNet"],
        ),
    ];
    for (path, pieces) in cases {
        let element = rig::element("brighter");
        element.set_property_from_str("region", "detect");
        element.set_property("detector", path);
        let rig = Rig::around(element);
        assert!(rig.element.set_state(gst::State::Playing).is_err());
        let errors = rig.errors();
        assert_eq!(errors.len(), 1, "{errors:?}");
        crate::errors::assert_text(&errors[0], pieces);
        assert!(errors[0].is::<gst::ResourceError>() || errors[0].is::<gst::LibraryError>());
        rig.element.set_state(gst::State::Null).unwrap();
        rig.element.set_property_from_str("region", "frame");
        rig.play();
    }
}
