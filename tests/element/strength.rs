// SPDX-License-Identifier: MPL-2.0

//! `strength`: the share of the change, per frame, and the way to and from passing frames through.

use std::time::Duration;

use gst::prelude::*;
use gst_base::prelude::*;
use gst_controller::prelude::*;

use crate::rig::{self, FRAME, Rig, assert_brighter, bytes, flat, frame, labels, rgb};

fn latency_messages(rig: &Rig) -> usize {
    rig.messages(&[gst::MessageType::Latency]).len()
}

#[test]
fn no_strength_gives_back_the_same_buffers_at_once() {
    let element = rig::element("brighter");
    element.set_property("strength", 0.0);
    let rig = Rig::around(element);
    rig.play();
    rig.start(&rgb().to_caps().unwrap());
    rig.take();
    for index in 0..7 {
        let buffer = frame(&rgb(), index);
        let pointer = buffer.as_ptr();
        rig.push(buffer).unwrap();
        let out = rig.take_buffers();
        assert_eq!(out.len(), 1, "it is not held");
        assert_eq!(out[0].as_ptr(), pointer, "it is the same object");
        assert_eq!(bytes(&out[0]), bytes(&frame(&rgb(), index)));
    }
    let counts = [
        "windows",
        "frames-restored",
        "frames-bypassed",
        "frames-in",
        "frames-out",
    ]
    .map(|name| rig.stat(name));
    assert_eq!(counts, [0, 0, 7, 7, 7]);
    assert_eq!(rig.query_latency().1, gst::ClockTime::ZERO);
    assert!(
        rig.element
            .downcast_ref::<gst_base::BaseTransform>()
            .unwrap()
            .is_passthrough()
    );
}

#[test]
fn an_allocation_query_passes_through_without_strength() {
    let rig = Rig::new("brighter");
    rig.element.set_property("strength", 0.0);
    rig.start(&rgb().to_caps().unwrap());
    rig.push(frame(&rgb(), 0)).unwrap();
    rig.on_downstream_query(|query| match query.view_mut() {
        gst::QueryViewMut::Allocation(query) => {
            query.add_allocation_pool(None::<&gst::BufferPool>, 12345, 3, 4);
            true
        }
        _ => false,
    });
    let mut query = gst::query::Allocation::new(Some(&rgb().to_caps().unwrap()), true);
    assert!(rig.src.peer_query(&mut query));
    let (_, size, min, max) = query.allocation_pools().next().unwrap();
    assert_eq!((size, min, max), (12345, 3, 4));
}

#[test]
fn changes_while_playing_lose_nothing_and_tell_of_the_latency() {
    let element = rig::element("brighter");
    // On a busy machine a window that takes long is another reason for a message.
    element.set_property("processing-deadline", 500_000_000u64);
    let rig = Rig::around(element);
    rig.play();
    rig.start(&rgb().to_caps().unwrap());
    let with = rig.query_latency().1;
    assert!(with >= FRAME * 4);
    rig.messages(&[]);
    rig.push_all((0..7).map(|index| frame(&rgb(), index)));

    rig.element.set_property("strength", 0.0);
    assert_eq!(latency_messages(&rig), 0, "it follows with the next frame");
    rig.push_all((7..10).map(|index| frame(&rgb(), index)));
    assert_eq!(latency_messages(&rig), 1);
    assert_eq!(rig.query_latency().1, gst::ClockTime::ZERO);
    let out = rig.take_buffers();
    assert_eq!(
        out.len(),
        10,
        "what was held came before the first frame that passes through"
    );
    assert_brighter(&rgb(), &out[..7], 0, 7);
    for (index, buffer) in out[7..].iter().enumerate() {
        assert_eq!(bytes(buffer), bytes(&frame(&rgb(), 7 + index as u64)));
    }

    rig.element.set_property("strength", 1.0);
    rig.push_all((10..17).map(|index| frame(&rgb(), index)));
    assert_eq!(latency_messages(&rig), 1);
    assert_eq!(rig.query_latency().1, with);
    rig.eos();
    assert_brighter(&rgb(), &rig.take_buffers(), 10, 7);
    assert_eq!(
        ["frames-in", "frames-out", "frames-restored", "frames-bypassed"].map(|name| rig.stat(name)),
        [17, 17, 14, 3]
    );
    assert_eq!(rig.errors(), []);
}

#[test]
fn events_wait_across_a_change() {
    let rig = Rig::new("brighter");
    rig.start(&rgb().to_caps().unwrap());
    rig.take();
    rig.push(frame(&rgb(), 0)).unwrap();
    let event = gst::event::CustomDownstream::new(gst::Structure::new_empty("between"));
    assert!(rig.event(event));
    rig.element.set_property("strength", 0.0);
    rig.push(frame(&rgb(), 1)).unwrap();
    assert_eq!(labels(&rig.take()), ["0", "between", "1"]);
}

#[test]
fn half_the_strength_is_half_the_change_and_is_taken_per_frame() {
    let rig = Rig::new("blend");
    rig.start(&rgb().to_caps().unwrap());
    // A window of `blend` adds 0, 10, 20, 30 and 40.
    for (index, strength) in [1.0, 0.5, 0.25, 0.0, 0.75].into_iter().enumerate() {
        rig.element.set_property("strength", strength);
        if strength == 0.0 {
            // That would pass frames through: as low as a strength can be.
            rig.element.set_property("strength", f64::MIN_POSITIVE);
        }
        rig.push(flat(&rgb(), index as u64, 100)).unwrap();
    }
    rig.eos();
    let values: Vec<u8> = rig.take_buffers().iter().map(|buffer| bytes(buffer)[0]).collect();
    assert_eq!(values, [100, 105, 105, 100, 130]);
}

/// A control source gives each frame the value at its own time, not at the time of the window.
#[test]
fn a_controlled_strength_has_each_frames_own_value() {
    let rig = Rig::new("blend");
    let source = gst_controller::InterpolationControlSource::new();
    source.set_mode(gst_controller::InterpolationMode::Linear);
    // From 0 at frame 0 to 1 at frame 4, and 0 from frame 6 on.
    source.set(gst::ClockTime::ZERO, 0.0);
    source.set(FRAME * 4, 1.0);
    source.set(FRAME * 6, 0.0);
    source.set(FRAME * 20, 0.0);
    let binding = gst_controller::DirectControlBinding::new(&rig.element, "strength", &source);
    rig.element.add_control_binding(&binding).unwrap();
    rig.start(&rgb().to_caps().unwrap());
    rig.push_all((0..9).map(|index| flat(&rgb(), index, 100)));
    rig.eos();
    let out = rig.take_buffers();
    assert_eq!(out.len(), 9);
    let parts = rig::window_parts(9, 5, 2);
    for (index, (buffer, (old, new, share))) in out.iter().zip(parts).enumerate() {
        let new = 10.0 * new as f64;
        let change = old.map_or(new, |old| 10.0 * old as f64 * (1.0 - share) + new * share);
        let strength = match index {
            0..=4 => index as f64 / 4.0,
            5 => 0.5,
            _ => 0.0,
        };
        let value = f64::from(bytes(buffer)[0]);
        assert!(
            (value - 100.0 - strength * change.round()).abs() <= 0.51,
            "frame {index}: {value}, strength {strength}"
        );
    }
    assert_eq!(
        rig.stat("windows"),
        3,
        "a controlled strength of 0 does not cut the window"
    );
    assert!(rig.stat("frames-bypassed") >= 3);
}

#[test]
fn a_binding_that_ends_leaves_the_last_value() {
    let rig = Rig::new("brighter");
    rig.element.set_property("strength", 0.0);
    rig.start(&rgb().to_caps().unwrap());
    rig.push(frame(&rgb(), 0)).unwrap();
    assert_eq!(rig.take_buffers().len(), 1, "it passes through");
    let source = gst_controller::InterpolationControlSource::new();
    source.set_mode(gst_controller::InterpolationMode::None);
    source.set(gst::ClockTime::ZERO, 1.0);
    let binding = gst_controller::DirectControlBinding::new(&rig.element, "strength", &source);
    rig.element.add_control_binding(&binding).unwrap();
    rig.push_all((1..4).map(|index| frame(&rgb(), index)));
    assert!(rig.take_buffers().is_empty(), "a binding takes it out of passthrough");
    assert!(rig.element.remove_control_binding(&binding));
    rig.push_all((4..6).map(|index| frame(&rgb(), index)));
    rig.eos();
    assert_brighter(&rgb(), &rig.take_buffers(), 1, 5);
}

/// Another thread changes the strength all the time.
#[test]
fn changes_from_another_thread_lose_nothing() {
    let rig = Rig::new("brighter");
    rig.start(&rgb().to_caps().unwrap());
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let changer = {
        let (element, stop) = (rig.element.clone(), stop.clone());
        std::thread::spawn(move || {
            for value in [0.0, 0.5, 1.0].iter().cycle() {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                element.set_property("strength", *value);
                let _ = element.property::<gst::Structure>("stats");
                std::thread::sleep(Duration::from_micros(300));
            }
        })
    };
    rig.push_all((0..300).map(|index| flat(&rgb(), index, 100)));
    rig.eos();
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    changer.join().unwrap();
    let out = rig.take_buffers();
    assert!(out.iter().map(|buffer| buffer.offset()).eq(0..300));
    assert!(out.iter().all(|buffer| [100, 101].contains(&bytes(buffer)[0])));
    assert_eq!(rig.errors(), []);
}
