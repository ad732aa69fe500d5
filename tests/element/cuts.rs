// SPDX-License-Identifier: MPL-2.0

//! Cuts of the stream, events between frames, flushes: no window spans a cut, and everything keeps its place.

use gst::prelude::*;
use gst_video::VideoFormat;

use crate::rig::{self, FRAME, Out, Rig, assert_brighter, bytes, flat, frame, info, labels, rgb, stamp, time_segment};

fn custom(name: &str) -> gst::Event {
    gst::event::CustomDownstream::new(gst::Structure::new_empty(name))
}

fn tag(title: &str) -> gst::Event {
    let mut tags = gst::TagList::new();
    tags.get_mut()
        .unwrap()
        .add::<gst::tags::Title>(&title, gst::TagMergeMode::Append);
    gst::event::Tag::new(tags)
}

/// `blend` shows where in its window a frame was: with a cut after `first` frames of `count`, both runs begin anew.
#[track_caller]
fn assert_cut(out: &[gst::Buffer], first: usize, count: usize) {
    let values: Vec<u8> = out.iter().map(|buffer| bytes(buffer)[0]).collect();
    let expected: Vec<u8> = [first, count - first].into_iter().flat_map(run).collect();
    assert_eq!(values, expected, "a cut after {first} frames");
    let order: Vec<u64> = out.iter().map(|buffer| buffer.offset()).collect();
    assert_eq!(order, (0..count as u64).collect::<Vec<_>>());
}

/// Values of a run of black frames in `blend`.
fn run(count: usize) -> Vec<u8> {
    let rig = Rig::new("blend");
    rig.start(&rgb().to_caps().unwrap());
    rig.push_all((0..count as u64).map(|index| flat(&rgb(), index, 0)));
    rig.eos();
    rig.take_buffers().iter().map(|buffer| bytes(buffer)[0]).collect()
}

#[test]
fn no_window_spans_a_cut() {
    type Cut = fn(&Rig, &mut gst::Buffer);
    let cuts: [(&str, Cut); 6] = [
        ("discont", |_, next| {
            next.get_mut().unwrap().set_flags(gst::BufferFlags::DISCONT)
        }),
        ("segment", |rig, _| assert!(rig.event(time_segment()))),
        ("gap", |rig, next| {
            let gap = gst::event::Gap::builder(next.pts().unwrap()).duration(FRAME).build();
            assert!(rig.event(gap));
        }),
        ("stream-start", |rig, _| {
            assert!(rig.event(gst::event::StreamStart::new("another")));
            assert!(rig.event(gst::event::Caps::new(&rgb().to_caps().unwrap())));
            assert!(rig.event(time_segment()));
        }),
        ("caps", |rig, _| {
            let mut caps = rgb().to_caps().unwrap();
            caps.get_mut().unwrap().set("framerate", gst::Fraction::new(30, 1));
            assert!(rig.event(gst::event::Caps::new(&caps)));
        }),
        ("drain query", |rig, _| {
            rig.on_downstream_query(|query| query.type_() == gst::QueryType::Drain);
            assert!(rig.src.peer_query(&mut gst::query::Drain::new()));
        }),
    ];
    for (name, cut) in cuts {
        for first in [0, 1, 3, 5, 6, 8, 9] {
            println!("{name} after {first}");
            let rig = Rig::new("blend");
            rig.start(&rgb().to_caps().unwrap());
            rig.push_all((0..first).map(|index| flat(&rgb(), index, 0)));
            let mut next = flat(&rgb(), first, 0);
            cut(&rig, &mut next);
            let mut out = rig.take_buffers();
            if name != "discont" {
                assert_eq!(out.len() as u64, first, "all that came before the cut goes before it");
            }
            rig.push(next).unwrap();
            rig.push_all((first + 1..first + 7).map(|index| flat(&rgb(), index, 0)));
            rig.eos();
            out.extend(rig.take_buffers());
            assert_cut(&out, first as usize, first as usize + 7);
            assert_eq!(rig.errors(), []);
        }
    }
}

#[test]
fn caps_change_size_and_format_in_the_middle_of_a_window() {
    let rig = Rig::new("brighter");
    let small = rgb();
    rig.start(&small.to_caps().unwrap());
    rig.push_all((0..3).map(|index| frame(&small, index)));
    let kinds = [
        info(VideoFormat::Rgb, 64, 48),
        info(VideoFormat::I420, 31, 17),
        info(VideoFormat::Bgra, 32, 32),
        rgb(),
    ];
    let mut index = 3;
    for kind in &kinds {
        let caps = kind.to_caps().unwrap();
        assert!(rig.event(gst::event::Caps::new(&caps)));
        rig.push_all((index..index + 7).map(|index| frame(kind, index)));
        index += 7;
    }
    rig.eos();
    // Caps that came last, for every buffer.
    let mut caps = None;
    let mut next = 0;
    for item in rig.take() {
        match item {
            Out::Event(event) => {
                if let gst::EventView::Caps(event) = event.view() {
                    caps = Some(gst_video::VideoInfo::from_caps(event.caps()).unwrap());
                }
            }
            Out::Buffer(buffer) => {
                assert_eq!(buffer.offset(), next);
                let expected = match next.checked_sub(3) {
                    None => &small,
                    Some(index) => &kinds[index as usize / 7],
                };
                assert_eq!(caps.as_ref(), Some(expected), "frame {next}");
                assert_eq!(buffer.size(), expected.size());
                next += 1;
            }
        }
    }
    assert_eq!(next, 3 + 7 * kinds.len() as u64);
    assert_eq!(rig.stat("frames-restored"), next);
    assert_eq!(rig.errors(), []);
}

#[test]
fn events_keep_their_place_among_held_frames() {
    let rig = Rig::new("brighter");
    rig.start(&rgb().to_caps().unwrap());
    rig.take();
    assert!(rig.event(custom("first")));
    assert_eq!(labels(&rig.take()), ["first"], "nothing is held: it goes at once");
    let mut expected = Vec::new();
    for index in 0..13 {
        rig.push(frame(&rgb(), index)).unwrap();
        expected.push(index.to_string());
        if index % 4 == 2 {
            assert!(rig.event(tag(&format!("title {index}"))));
            expected.push("tag".into());
        }
        if index % 5 == 1 {
            assert!(rig.event(custom(&format!("custom-{index}"))));
            assert!(rig.event(custom(&format!("again-{index}"))));
            expected.extend([format!("custom-{index}"), format!("again-{index}")]);
        }
        if index == 6 {
            assert!(
                rig.event(gst::event::CustomDownstreamSticky::new(gst::Structure::new_empty(
                    "sticky"
                )))
            );
            expected.push("custom-downstream-sticky".into());
        }
    }
    rig.eos();
    expected.push("eos".into());
    let out = rig.take();
    assert_eq!(labels(&out), expected);
    let buffers: Vec<_> = out.into_iter().filter_map(Out::buffer).collect();
    assert_brighter(&rgb(), &buffers, 0, 13);
}

#[test]
fn events_that_are_not_serialized_overtake() {
    let rig = Rig::new("brighter");
    rig.start(&rgb().to_caps().unwrap());
    rig.push_all((0..2).map(|index| frame(&rgb(), index)));
    rig.take();
    let urgent = gst::event::CustomDownstreamOob::new(gst::Structure::new_empty("urgent"));
    assert!(rig.event(urgent));
    assert_eq!(labels(&rig.take()), ["custom-downstream-oob"]);
}

#[test]
fn a_drain_query_goes_on_after_the_frames_before_it() {
    let rig = Rig::new("brighter");
    rig.start(&rgb().to_caps().unwrap());
    rig.push_all((0..3).map(|index| frame(&rgb(), index)));
    let (sender, seen) = std::sync::mpsc::channel();
    let element = rig.element.clone();
    rig.on_downstream_query(move |query| {
        let is_drain = query.type_() == gst::QueryType::Drain;
        if is_drain {
            let statistics = element.property::<gst::Structure>("stats");
            sender.send(statistics.get::<u64>("frames-out").unwrap()).unwrap();
        }
        is_drain
    });
    assert!(rig.src.peer_query(&mut gst::query::Drain::new()));
    assert_eq!(seen.try_iter().collect::<Vec<_>>(), [3]);
    assert_brighter(&rgb(), &rig.take_buffers(), 0, 3);
}

#[test]
fn nothing_stale_comes_after_a_flush() {
    let rig = Rig::new("blend");
    rig.start(&rgb().to_caps().unwrap());
    for held in 0..9 {
        rig.push_all((0..held).map(|index| flat(&rgb(), index, 0)));
        assert!(rig.event(custom("stale")));
        assert!(rig.event(gst::event::FlushStart::new()));
        assert_eq!(rig.push(flat(&rgb(), 50, 0)), Err(gst::FlowError::Flushing));
        assert!(rig.event(gst::event::FlushStop::new(true)));
        assert!(rig.event(time_segment()));
        rig.take();
        // The window begins anew: the same values as of a stream that begins here.
        rig.push_all((100..107).map(|index| flat(&rgb(), index, 0)));
        rig.eos();
        let out = rig.take();
        assert_eq!(
            labels(&out),
            ["100", "101", "102", "103", "104", "105", "106", "eos"],
            "{held} held"
        );
        let values: Vec<u8> = out
            .into_iter()
            .filter_map(Out::buffer)
            .map(|buffer| bytes(&buffer)[0])
            .collect();
        assert_eq!(values, run(7), "{held} held");
        assert!(rig.event(gst::event::FlushStart::new()));
        assert!(rig.event(gst::event::FlushStop::new(true)));
        assert!(rig.event(time_segment()));
    }
}

/// A queue does the same: a flush takes the data, not what is known of the stream.
#[test]
fn sticky_events_outlive_a_flush() {
    let rig = Rig::new("brighter");
    rig.start(&rgb().to_caps().unwrap());
    rig.push(frame(&rgb(), 0)).unwrap();
    assert!(rig.event(tag("kept")));
    assert!(rig.event(custom("stale")));
    rig.event(gst::event::FlushStart::new());
    rig.event(gst::event::FlushStop::new(true));
    rig.event(time_segment());
    rig.take();
    rig.push(frame(&rgb(), 1)).unwrap();
    rig.eos();
    assert_eq!(labels(&rig.take()), ["tag", "1", "eos"]);
}

#[test]
fn reconfigure_in_the_middle_of_a_window_loses_nothing() {
    let rig = Rig::new("brighter");
    rig.start(&rgb().to_caps().unwrap());
    let mut asked = 0;
    let (count, answers) = std::sync::mpsc::channel();
    rig.on_downstream_query(move |query| {
        if query.type_() == gst::QueryType::Allocation {
            asked += 1;
            count.send(asked).unwrap();
        }
        false
    });
    for index in 0..13 {
        rig.push(frame(&rgb(), index)).unwrap();
        assert!(rig.sink.push_event(gst::event::Reconfigure::new()));
    }
    rig.eos();
    assert_brighter(&rgb(), &rig.take_buffers(), 0, 13);
    assert_eq!(
        answers.try_iter().last(),
        Some(12),
        "each was followed by an allocation query"
    );
    assert_eq!(rig.stat("windows"), 3, "no window was cut");
}

#[test]
fn a_discont_keeps_its_flag_and_no_other_frame_gets_one() {
    let rig = Rig::new("brighter");
    rig.start(&rgb().to_caps().unwrap());
    for index in 0..12 {
        let mut buffer = frame(&rgb(), index);
        if [0, 3, 4, 9].contains(&index) {
            buffer.get_mut().unwrap().set_flags(gst::BufferFlags::DISCONT);
        }
        rig.push(buffer).unwrap();
    }
    rig.eos();
    let discont: Vec<u64> = rig
        .take_buffers()
        .iter()
        .filter(|buffer| buffer.flags().contains(gst::BufferFlags::DISCONT))
        .map(|buffer| buffer.offset())
        .collect();
    assert_eq!(discont, [0, 3, 4, 9]);
}

#[test]
fn a_stream_after_eos_begins_anew() {
    let rig = Rig::new("brighter");
    rig.start(&rgb().to_caps().unwrap());
    rig.push_all((0..3).map(|index| frame(&rgb(), index)));
    rig.eos();
    assert_brighter(&rgb(), &rig.take_buffers(), 0, 3);
    assert!(rig.event(gst::event::StreamStart::new("next")));
    assert!(rig.event(gst::event::Caps::new(&rgb().to_caps().unwrap())));
    assert!(rig.event(time_segment()));
    rig.push_all((3..9).map(|index| frame(&rgb(), index)));
    rig.eos();
    assert_brighter(&rgb(), &rig.take_buffers(), 3, 6);
}

/// Flushes the element from within the push of frame `at`, as an application's seek from a pad probe does.
fn flush_within(rig: &Rig, at: u64) {
    let src = rig.src.clone();
    rig.on_buffer(move |buffer| {
        if buffer.offset() == at {
            assert!(src.push_event(gst::event::FlushStart::new()));
            assert!(src.push_event(gst::event::FlushStop::new(true)));
            assert!(src.push_event(time_segment()));
        }
        Ok(gst::FlowSuccess::Ok)
    });
}

#[test]
fn a_flush_from_within_a_push_loses_what_is_held_too() {
    for at in 0..3 {
        let rig = Rig::new("brighter");
        rig.start(&rgb().to_caps().unwrap());
        flush_within(&rig, at);
        // The first window's first three leave; two are held.
        rig.push_all((0..5).map(|index| frame(&rgb(), index)));
        rig.push_all((100..102).map(|index| frame(&rgb(), index)));
        rig.eos();
        let out = rig.take_buffers();
        let expected = (0..=at).chain(100..102);
        assert!(out.iter().map(|buffer| buffer.offset()).eq(expected), "{at}: {out:?}");
        assert_brighter(&rgb(), &out[at as usize + 1..], 100, 2);
        assert_eq!(rig.errors(), []);
    }
}

#[test]
fn a_frame_that_a_flush_overtakes_is_lost_with_those_before_it() {
    let rig = Rig::new("brighter");
    rig.start(&rgb().to_caps().unwrap());
    flush_within(&rig, 1);
    rig.push_all((0..3).map(|index| frame(&rgb(), index)));
    // It sends on what is held, and that flushes.
    let mut next = frame(&rgb(), 3);
    next.get_mut().unwrap().set_flags(gst::BufferFlags::DISCONT);
    rig.push(next).unwrap();
    rig.push_all((100..102).map(|index| frame(&rgb(), index)));
    rig.eos();
    let out = rig.take_buffers();
    assert!(out.iter().map(|buffer| buffer.offset()).eq([0, 1, 100, 101]), "{out:?}");
}

#[test]
fn a_frame_that_a_flush_overtakes_is_not_passed_through_either() {
    let rig = Rig::new("brighter");
    rig.start(&rgb().to_caps().unwrap());
    flush_within(&rig, 1);
    rig.push_all((0..3).map(|index| frame(&rgb(), index)));
    // It is passed through, after what is held, and that flushes.
    rig.element.set_property("strength", 0.0);
    rig.push(frame(&rgb(), 3)).unwrap();
    rig.push_all((100..102).map(|index| frame(&rgb(), index)));
    let out = rig.take_buffers();
    assert!(out.iter().map(|buffer| buffer.offset()).eq([0, 1, 100, 101]), "{out:?}");
}

/// A frame that cannot be read, in the midst of a window.
fn short(index: u64) -> gst::Buffer {
    let mut short = gst::Buffer::from_slice([0u8; 100]);
    stamp(short.get_mut().unwrap(), index);
    short
}

#[test]
fn frames_of_the_wrong_size_are_an_error_after_those_before_them() {
    let rig = Rig::new("brighter");
    rig.start(&rgb().to_caps().unwrap());
    rig.push_all((0..3).map(|index| frame(&rgb(), index)));
    assert_eq!(rig.push(short(3)), Err(gst::FlowError::Error));
    assert_brighter(&rgb(), &rig.take_buffers(), 0, 3);
    let errors = rig.errors();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(
        errors[0].message().contains(
            "cannot map a frame: expected 3072 bytes of RGB, 32x32, or a GstVideoMeta of that size, found 100 bytes"
        ),
        "{errors:?}"
    );
    rig.eos();
    assert!(rig.take_buffers().is_empty());
}

/// The same, where sending on those before it flushes.
#[test]
fn a_frame_of_the_wrong_size_that_a_flush_overtakes_is_no_error() {
    let rig = Rig::new("brighter");
    rig.start(&rgb().to_caps().unwrap());
    flush_within(&rig, 1);
    rig.push_all((0..3).map(|index| frame(&rgb(), index)));
    rig.push(short(3)).unwrap();
    rig.push_all((100..102).map(|index| frame(&rgb(), index)));
    rig.eos();
    let out = rig.take_buffers();
    assert!(out.iter().map(|buffer| buffer.offset()).eq([0, 1, 100, 101]), "{out:?}");
    assert_eq!(rig.errors(), []);
}

#[test]
fn with_bypass_frames_of_the_wrong_size_are_left_out() {
    let rig = Rig::new("brighter");
    rig.element.set_property_from_str("overload", "bypass");
    rig.start(&rgb().to_caps().unwrap());
    rig.push_all((0..3).map(|index| frame(&rgb(), index)));
    rig.push(short(3)).unwrap();
    rig.push_all((4..11).map(|index| frame(&rgb(), index)));
    rig.push(short(11)).unwrap();
    rig.eos();
    let out = rig.take_buffers();
    assert_brighter(&rgb(), &out[..3], 0, 3);
    assert_brighter(&rgb(), &out[3..], 4, 7);
    let discont = out
        .iter()
        .filter(|buffer| buffer.flags().contains(gst::BufferFlags::DISCONT));
    let discont: Vec<u64> = discont.map(|buffer| buffer.offset()).collect();
    assert_eq!(discont, [4], "something is missing before it");
    assert_eq!((rig.stat("frames-in"), rig.stat("frames-out")), (12, 10));
    let told = rig.messages(&[gst::MessageType::Qos, gst::MessageType::Warning]);
    let count = |kind| told.iter().filter(|message| message.type_() == kind).count();
    assert_eq!(count(gst::MessageType::Qos), 2);
    assert_eq!(count(gst::MessageType::Warning), 1, "once");
    assert_eq!(rig.errors(), []);
}

/// With an overlap of 0 a whole window leaves at once: nothing is held, and a cut there begins a new run all the same.
#[test]
fn a_cut_where_nothing_is_held_begins_a_run_too() {
    let folder = rig::blend_without_overlap();

    for (first, held) in [(5, 0), (10, 0), (7, 2)] {
        let element = rig::element("blend");
        element.set_property("model", folder.path().to_str().unwrap());
        let rig = Rig::around(element);
        rig.play();
        rig.start(&rgb().to_caps().unwrap());
        rig.push_all((0..first).map(|index| flat(&rgb(), index, 0)));
        let before = rig.take_buffers();
        assert_eq!(before.len() as u64, first - held);
        let mut buffer = flat(&rgb(), first, 0);
        buffer.get_mut().unwrap().set_flags(gst::BufferFlags::DISCONT);
        rig.push(buffer).unwrap();
        rig.push_all((first + 1..first + 3).map(|index| flat(&rgb(), index, 0)));
        rig.eos();
        let after = rig.take_buffers();
        let values: Vec<u8> = after
            .iter()
            .rev()
            .take(3)
            .rev()
            .map(|buffer| bytes(buffer)[0])
            .collect();
        // The first three of a window, and not its last three.
        assert_eq!(values, [0, 10, 20], "a cut after {first} frames");
        assert_eq!(before.len() + after.len(), first as usize + 3);
        assert_eq!(rig.errors(), []);
    }
}

/// A frame of 48x40 RGB pixels of which upstream wants 32x32 from 9, 5 on to be seen; each pixel tells its place.
fn cropped_frame(index: u64) -> gst::Buffer {
    let pixels = (0..40u8).flat_map(|y| (0..48u8).flat_map(move |x| [x, y, 100]));
    let mut buffer = gst::Buffer::from_slice(pixels.collect::<Vec<u8>>());
    let changed = buffer.get_mut().unwrap();
    rig::stamp(changed, index);
    let format = gst_video::VideoFormat::Rgb;
    gst_video::VideoMeta::add(changed, gst_video::VideoFrameFlags::empty(), format, 48, 40).unwrap();
    gst_video::VideoCropMeta::add(changed, (9, 5, 32, 32));
    buffer
}

/// While frames pass through, upstream may leave it to downstream to crop them. What comes like that afterwards is cropped here, and
/// upstream is asked to ask again.
#[test]
fn frames_that_are_to_be_cropped_are_not_taken_for_whole_ones() {
    let rig = Rig::new("identity");
    rig.element.set_property("strength", 0.0);
    rig.play();
    rig.start(&rgb().to_caps().unwrap());
    rig.push(cropped_frame(0)).unwrap();
    rig.element.set_property("strength", 1.0);
    rig.push_all((1..11).map(cropped_frame));
    rig.eos();
    assert!(rig.errors().is_empty());
    let out = rig.take_buffers();
    assert_eq!(out.len(), 11);
    assert!(out[0].meta::<gst_video::VideoCropMeta>().is_some(), "it passed through");
    let expected: Vec<u8> = (5..37u8)
        .flat_map(|y| (9..41u8).flat_map(move |x| [x, y, 100]))
        .collect();
    for (index, buffer) in out.iter().enumerate().skip(1) {
        assert!(buffer.meta::<gst_video::VideoCropMeta>().is_none());
        assert_eq!(buffer.pts(), Some(gst::ClockTime::from_mseconds(40 * index as u64)));
        assert!(rig::pixels(&rgb(), buffer) == expected, "frame {index}");
    }
}

#[test]
fn a_crop_beyond_the_frame_is_an_error() {
    let rig = Rig::new("identity");
    rig.play();
    rig.start(&rgb().to_caps().unwrap());
    let mut buffer = cropped_frame(0);
    buffer
        .make_mut()
        .meta_mut::<gst_video::VideoCropMeta>()
        .unwrap()
        .remove()
        .unwrap();
    gst_video::VideoCropMeta::add(buffer.make_mut(), (u32::MAX, 9, 32, 32));
    assert!(rig.push(buffer).is_err());
    assert_eq!(rig.errors().len(), 1);
}
