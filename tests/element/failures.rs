// SPDX-License-Identifier: MPL-2.0

//! Runs that fail while playing, for any reason: no frame is lost, whatever `overload` says.

use std::cell::Cell;
use std::rc::Rc;

use gst::prelude::*;
use gstdvface::restorer::faults::{self, Fault};

use crate::rig::{self, FRAME, Out, Rig, assert_brighter, bytes, flat, frame, labels, rgb, time_segment};

/// Errors as ONNX Runtime words them, and what the bus message must say.
const FAULTS: [(&str, &str); 4] = [
    (
        "Non-zero status code returned while running Gather node",
        "graph dit failed",
    ),
    (
        "Failed to allocate memory for requested buffer of size 1048576",
        "out of memory",
    ),
    (
        "CUDA failure 2: out of memory ; GPU=0 ; expr=cudaMalloc((void**)&p, size)",
        "out of memory",
    ),
    (
        "CUDA failure 719: unspecified launch failure ; GPU=0 ; expr=cudaStreamSynchronize(stream)",
        "graph dit failed",
    ),
];

fn playing(model: &str, overload: &str) -> Rig {
    let element = rig::element(model);
    element.set_property_from_str("overload", overload);
    let rig = Rig::around(element);
    rig.play();
    rig.start(&rgb().to_caps().unwrap());
    rig.take();
    rig.messages(&[]);
    rig
}

/// Runs fail with `text` while the flag is set. Counts the runs of this thread.
fn failing(text: &'static str) -> (Rc<Cell<bool>>, Rc<Cell<u64>>) {
    let (fails, runs) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0)));
    let (flag, count) = (fails.clone(), runs.clone());
    faults::set(move || {
        count.set(count.get() + 1);
        flag.get().then_some(Fault::Error(text))
    });
    (fails, runs)
}

fn warnings(rig: &Rig) -> Vec<String> {
    rig.messages(&[gst::MessageType::Warning])
        .iter()
        .map(|message| match message.view() {
            gst::MessageView::Warning(warning) => warning.error().message().to_string(),
            _ => unreachable!(),
        })
        .collect()
}

fn offsets(out: &[gst::Buffer]) -> Vec<u64> {
    out.iter().map(|buffer| buffer.offset()).collect()
}

#[test]
fn bypass_warns_once_sends_frames_on_and_tries_again_after_longer_and_longer_pauses() {
    for (text, said) in FAULTS {
        let rig = playing("brighter", "bypass");
        let (fails, runs) = failing(text);
        fails.set(true);
        // The frames whose arrival starts a run: a window, then a pause of 5 frames and a window, of 10 and a window, …
        let mut tries = Vec::new();
        for index in 0..120 {
            let before = runs.get();
            rig.push(flat(&rgb(), index, 10)).unwrap();
            if runs.get() > before {
                tries.push(index);
            }
        }
        assert_eq!(tries, [4, 14, 29, 54, 99]);
        let out = rig.take_buffers();
        assert_eq!(
            offsets(&out),
            (0..120).collect::<Vec<_>>(),
            "nothing is held in a pause"
        );
        assert!(out.iter().all(|buffer| bytes(buffer)[0] == 10), "as they came");
        let warned = warnings(&rig);
        assert_eq!(warned.len(), 1, "{warned:?}");
        assert!(
            warned[0].contains(said) && warned[0].contains("overload=bypass"),
            "{warned:?}"
        );

        // It works again: restored from the end of the pause on.
        fails.set(false);
        for index in 120..250 {
            rig.push(flat(&rgb(), index, 10)).unwrap();
        }
        rig.eos();
        let out = rig.take_buffers();
        assert_eq!(offsets(&out), (120..250).collect::<Vec<_>>());
        let first = out.iter().find(|buffer| bytes(buffer)[0] == 11).unwrap().offset();
        // After 80 frames of pause; a rise of one rounds up from the third frame on.
        assert_eq!(first, 99 + 1 + 80 + 2);
        assert!(
            out.iter()
                .filter(|buffer| buffer.offset() >= first)
                .all(|b| bytes(b)[0] == 11)
        );
        assert_eq!(rig.errors(), []);
        assert_eq!(
            ["frames-in", "frames-out", "frames-bypassed"].map(|name| rig.stat(name)),
            [250, 250, 180]
        );
        faults::clear();
    }
}

#[test]
fn block_sends_every_frame_and_then_one_error() {
    for (text, said) in FAULTS {
        let rig = playing("brighter", "block");
        let (fails, _) = failing(text);
        rig.push_all((0..8).map(|index| flat(&rgb(), index, 10)));
        fails.set(true);
        assert_eq!(rig.push(flat(&rgb(), 8, 10)), Err(gst::FlowError::Error));
        assert_eq!(offsets(&rig.take_buffers()), (0..9).collect::<Vec<_>>());
        let messages = rig.messages(&[
            gst::MessageType::Error,
            gst::MessageType::Warning,
            gst::MessageType::Qos,
        ]);
        assert_eq!(messages.len(), 1, "{messages:?}");
        let gst::MessageView::Error(error) = messages[0].view() else {
            panic!("{messages:?}");
        };
        assert!(error.error().message().contains(said), "{error:?}");
        let is_memory = said == "out of memory";
        assert_eq!(
            error.error().matches(gst::ResourceError::NoSpaceLeft),
            is_memory,
            "{error:?}"
        );
        faults::clear();
    }
}

/// What the last good window still holds fades; events stay where they were.
#[test]
fn held_frames_fade_and_events_keep_their_place() {
    let rig = playing("blend", "bypass");
    let (fails, _) = failing("lost");
    rig.push_all((0..6).map(|index| flat(&rgb(), index, 0)));
    let custom = |name: &str| gst::event::CustomDownstream::new(gst::Structure::new_empty(name));
    assert!(rig.event(custom("after-5")));
    fails.set(true);
    rig.push_all((6..8).map(|index| flat(&rgb(), index, 0)));
    faults::clear();
    let out = rig.take();
    assert_eq!(labels(&out), ["0", "1", "2", "3", "4", "5", "after-5", "6", "7"]);
    let values: Vec<u8> = out.into_iter().filter_map(Out::buffer).map(|b| bytes(&b)[0]).collect();
    // 30 and 40 of the window before, with two thirds and one third.
    assert_eq!(values, [0, 10, 20, 20, 13, 0, 0, 0]);
    let told = rig.messages(&[gst::MessageType::Qos]).len();
    assert_eq!(told, 3, "each frame that should have been restored is told");
}

/// The bundle `failing` fails on bright frames, in ONNX Runtime itself.
#[test]
fn a_graph_that_fails_on_some_frames_restores_the_others() {
    let rig = playing("failing", "bypass");
    let mut index = 0;
    let mut push = |value: u8, count: u64| {
        for _ in 0..count {
            rig.push(flat(&rgb(), index, value)).unwrap();
            index += 1;
        }
    };
    push(10, 9);
    push(250, 20);
    push(10, 40);
    rig.eos();
    let out = rig.take_buffers();
    assert_eq!(offsets(&out), (0..69).collect::<Vec<_>>());
    let changed: Vec<u64> = out
        .iter()
        .filter(|buffer| ![10, 250].contains(&bytes(buffer)[0]))
        .map(|buffer| buffer.offset())
        .collect();
    assert!(changed.starts_with(&[0, 1, 2, 3, 4, 5, 6, 7]), "{changed:?}");
    assert!(changed.ends_with(&[64, 65, 66, 67, 68]), "{changed:?}");
    assert!(!changed.iter().any(|index| (9..29).contains(index)));
    assert_eq!(warnings(&rig).len(), 1);
    assert_eq!(rig.stat("frames-restored") + rig.stat("frames-bypassed"), 69);
}

/// A run that fails at the end of a stretch.
#[test]
fn the_last_run_of_a_stretch_fails() {
    type End = fn(&Rig);
    let ends: [(&str, End); 6] = [
        ("discont", |rig| {
            let mut next = flat(&rgb(), 3, 10);
            next.get_mut().unwrap().set_flags(gst::BufferFlags::DISCONT);
            rig.push(next).unwrap();
        }),
        ("scene", |rig| {
            rig.element.set_property("scene-cut", 0.5);
            rig.push(flat(&rgb(), 2, 10)).unwrap();
            rig.push(flat(&rgb(), 3, 200)).unwrap();
        }),
        ("no strength", |rig| {
            rig.element.set_property("strength", 0.0);
            rig.push(flat(&rgb(), 3, 10)).unwrap();
        }),
        ("eos", |rig| rig.eos()),
        ("caps", |rig| {
            let other = rig::info(gst_video::VideoFormat::Bgr, 32, 32).to_caps().unwrap();
            assert!(rig.event(gst::event::Caps::new(&other)));
        }),
        ("segment", |rig| assert!(rig.event(time_segment()))),
    ];
    for (name, end) in ends {
        let rig = playing("brighter", "bypass");
        let (fails, _) = failing("lost");
        fails.set(true);
        let held = if name == "scene" { 2 } else { 3 };
        rig.push_all((0..held).map(|index| flat(&rgb(), index, 10)));
        end(&rig);
        fails.set(false);
        let out = rig.take_buffers();
        assert!(offsets(&out).starts_with(&[0, 1, 2]), "{name}: {out:?}");
        assert_eq!(warnings(&rig).len(), 1, "{name}");
        assert_eq!(rig.errors(), [], "{name}");
        // Everything that follows comes out, too.
        rig.element.set_property("strength", 1.0);
        rig.start(&rgb().to_caps().unwrap());
        rig.push_all((4..12).map(|index| frame(&rgb(), index)));
        rig.eos();
        assert!(
            offsets(&rig.take_buffers()).ends_with(&[4, 5, 6, 7, 8, 9, 10, 11]),
            "{name}"
        );
        faults::clear();
    }
}

/// A flush ends a pause's frames as it ends a run: nothing stale, and the element works.
#[test]
fn a_flush_in_a_pause() {
    let rig = playing("brighter", "bypass");
    let (fails, _) = failing("lost");
    fails.set(true);
    rig.push_all((0..7).map(|index| frame(&rgb(), index)));
    fails.set(false);
    rig.event(gst::event::FlushStart::new());
    rig.event(gst::event::FlushStop::new(true));
    rig.event(time_segment());
    rig.take();
    rig.push_all((0..40).map(|index| frame(&rgb(), index)));
    rig.eos();
    let out = rig.take_buffers();
    assert_eq!(offsets(&out), (0..40).collect::<Vec<_>>());
    assert_brighter(&rgb(), &out[20..], 20, 20);
    assert_eq!(out.last().unwrap().pts(), Some(FRAME * 39));
    faults::clear();
}
