// SPDX-License-Identifier: MPL-2.0

//! Downstream that refuses buffers in the middle of a window's burst, and graphs that fail while playing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use gst::prelude::*;

use crate::rig::{Rig, assert_brighter, bytes, flat, frame, labels, rgb, time_segment};

#[test]
fn a_refused_buffer_ends_the_burst_and_its_reason_goes_upstream() {
    for error in [
        gst::FlowError::Eos,
        gst::FlowError::NotLinked,
        gst::FlowError::Flushing,
        gst::FlowError::Error,
    ] {
        let rig = Rig::new("brighter");
        rig.start(&rgb().to_caps().unwrap());
        let offered = Arc::new(Mutex::new(Vec::new()));
        let seen = offered.clone();
        rig.on_buffer(move |buffer| {
            seen.lock().unwrap().push(buffer.offset());
            if buffer.offset() == 2 {
                Err(error)
            } else {
                Ok(gst::FlowSuccess::Ok)
            }
        });
        rig.push_all((0..4).map(|index| frame(&rgb(), index)));
        assert_eq!(rig.push(frame(&rgb(), 4)), Err(error));
        assert_eq!(
            *offered.lock().unwrap(),
            [0, 1, 2],
            "nothing is offered after a refusal"
        );
        assert_eq!(rig.stat("frames-out"), 2, "those that downstream took");
        assert_brighter(&rgb(), &rig.take_buffers(), 0, 2);
        // Frame 4 was held for the next window, as the last frames of a window are. It may go on with it.
        rig.push_all((5..8).map(|index| frame(&rgb(), index)));
        rig.eos();
        assert_brighter(&rgb(), &rig.take_buffers(), 4, 4);
        assert_eq!(rig.errors(), [], "the element that refused has the say");
    }
}

#[test]
fn events_behind_a_refused_buffer_are_sent() {
    let rig = Rig::new("brighter");
    rig.start(&rgb().to_caps().unwrap());
    rig.take();
    rig.on_buffer(|_| Err(gst::FlowError::NotLinked));
    rig.push_all((0..2).map(|index| frame(&rgb(), index)));
    let event = gst::event::CustomDownstream::new(gst::Structure::new_empty("kept"));
    assert!(rig.event(event));
    rig.push_all((2..4).map(|index| frame(&rgb(), index)));
    assert_eq!(rig.push(frame(&rgb(), 4)), Err(gst::FlowError::NotLinked));
    assert_eq!(labels(&rig.take()), ["kept"]);
}

#[test]
fn every_success_of_downstream_is_one() {
    let rig = Rig::new("brighter");
    rig.start(&rgb().to_caps().unwrap());
    rig.on_buffer(|buffer| {
        Ok(if buffer.offset() % 2 == 0 {
            gst::FlowSuccess::CustomSuccess
        } else {
            gst::FlowSuccess::Ok
        })
    });
    for index in 0..12 {
        assert_eq!(rig.push(frame(&rgb(), index)), Ok(gst::FlowSuccess::Ok));
    }
    rig.eos();
    assert_brighter(&rgb(), &rig.take_buffers(), 0, 12);
}

#[test]
fn caps_that_downstream_no_longer_takes_are_not_negotiated() {
    let rig = Rig::new("brighter");
    rig.start(&rgb().to_caps().unwrap());
    rig.push_all((0..2).map(|index| frame(&rgb(), index)));
    let refuse = Arc::new(AtomicBool::new(true));
    let refused = refuse.clone();
    rig.on_downstream_query(move |query| match query.view_mut() {
        gst::QueryViewMut::AcceptCaps(query) if refused.load(Ordering::Relaxed) => {
            query.set_result(false);
            true
        }
        _ => false,
    });
    assert!(rig.sink.push_event(gst::event::Reconfigure::new()));
    assert_eq!(rig.push(frame(&rgb(), 2)), Err(gst::FlowError::NotNegotiated));
    // Once it takes them again, what was held is still there; the refused frame is not.
    refuse.store(false, Ordering::Relaxed);
    rig.push_all((2..4).map(|index| frame(&rgb(), index)));
    rig.eos();
    assert_brighter(&rgb(), &rig.take_buffers(), 0, 4);
}

/// The order of what leaves the element: offsets of buffers, and errors.
fn record(rig: &Rig) -> Arc<Mutex<Vec<String>>> {
    let record = Arc::new(Mutex::new(Vec::new()));
    let (buffers, errors) = (record.clone(), record.clone());
    rig.on_buffer(move |buffer| {
        buffers.lock().unwrap().push(buffer.offset().to_string());
        Ok(gst::FlowSuccess::Ok)
    });
    rig.bus.set_sync_handler(move |_, message| {
        if message.type_() == gst::MessageType::Error {
            errors.lock().unwrap().push("error".into());
        }
        gst::BusSyncReply::Pass
    });
    record
}

/// Bright frames make `failing` fail. All that is held goes on as it came, then one error.
#[test]
fn where_a_run_fails_every_held_frame_is_sent_before_the_error() {
    let rig = Rig::new("failing");
    rig.start(&rgb().to_caps().unwrap());
    let record = record(&rig);
    rig.push_all((0..8).map(|index| flat(&rgb(), index, 10)));
    assert_eq!(rig.push(flat(&rgb(), 8, 10)), Ok(gst::FlowSuccess::Ok));
    rig.push_all((9..12).map(|index| flat(&rgb(), index, 250)));
    assert_eq!(rig.push(flat(&rgb(), 12, 250)), Err(gst::FlowError::Error));
    let expected: Vec<String> = (0..13).map(|index| index.to_string()).chain(["error".into()]).collect();
    assert_eq!(*record.lock().unwrap(), expected);
    let out = rig.take_buffers();
    for buffer in &out {
        let index = buffer.offset();
        let value = match index {
            // The last frame of the window before waited for the one that failed.
            0..8 => 11,
            8 => 10,
            _ => 250,
        };
        assert!(bytes(buffer).iter().all(|byte| *byte == value), "frame {index}");
    }
    let errors = rig.errors();
    assert_eq!(errors.len(), 1);
    assert!(errors[0].matches(gst::LibraryError::Failed), "{errors:?}");
    assert!(errors[0].message().contains("graph dit"), "{errors:?}");
    assert_eq!((rig.stat("frames-bypassed"), rig.stat("frames-restored")), (5, 8));
    // The element goes on where upstream does.
    rig.push_all((13..20).map(|index| flat(&rgb(), index, 10)));
    rig.eos();
    let out = rig.take_buffers();
    assert_eq!(out.len(), 7);
    assert!(out.iter().all(|buffer| bytes(buffer)[0] == 11));
}

#[test]
fn where_the_last_run_of_a_stretch_fails_nothing_is_lost() {
    type End = fn(&Rig) -> Result<gst::FlowSuccess, gst::FlowError>;
    let ends: [(&str, End, bool); 6] = [
        (
            "discont",
            |rig| {
                let mut next = flat(&rgb(), 3, 250);
                next.get_mut().unwrap().set_flags(gst::BufferFlags::DISCONT);
                rig.push(next)
            },
            true,
        ),
        (
            "no strength",
            |rig| {
                rig.element.set_property("strength", 0.0);
                rig.push(flat(&rgb(), 3, 250))
            },
            true,
        ),
        (
            "eos",
            |rig| {
                rig.eos();
                Err(gst::FlowError::Error)
            },
            false,
        ),
        (
            "caps",
            |rig| {
                let other = crate::rig::info(gst_video::VideoFormat::Bgr, 32, 32).to_caps().unwrap();
                assert!(rig.event(gst::event::Caps::new(&other)));
                Err(gst::FlowError::Error)
            },
            false,
        ),
        (
            "segment",
            |rig| {
                assert!(rig.event(time_segment()));
                Err(gst::FlowError::Error)
            },
            false,
        ),
        (
            "gap",
            |rig| {
                assert!(rig.event(gst::event::Gap::builder(gst::ClockTime::SECOND).build()));
                Err(gst::FlowError::Error)
            },
            false,
        ),
    ];
    for (name, end, with_next) in ends {
        let rig = Rig::new("failing");
        rig.start(&rgb().to_caps().unwrap());
        let record = record(&rig);
        rig.push_all((0..3).map(|index| flat(&rgb(), index, 250)));
        assert_eq!(end(&rig), Err(gst::FlowError::Error), "{name}");
        let mut expected = vec!["0", "1", "2"];
        if with_next {
            expected.push("3");
        }
        expected.push("error");
        assert_eq!(*record.lock().unwrap(), expected, "{name}");
        assert!(
            rig.take_buffers().iter().all(|buffer| bytes(buffer)[0] == 250),
            "{name}"
        );
    }
}

/// In a pipeline: one error on the bus, and the source stops.
#[test]
fn a_failing_run_stops_the_pipeline_with_one_error() {
    let element = crate::rig::element("failing");
    let pipeline = gst::Pipeline::new();
    let source = gst::ElementFactory::make("videotestsrc")
        .property_from_str("pattern", "white")
        .build()
        .unwrap();
    let sink = gst::ElementFactory::make("fakesink")
        .property("async", false)
        .build()
        .unwrap();
    pipeline.add_many([&source, &element, &sink]).unwrap();
    source.link_filtered(&element, &rgb().to_caps().unwrap()).unwrap();
    element.link(&sink).unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let bus = pipeline.bus().unwrap();
    let error = bus
        .timed_pop_filtered(
            gst::ClockTime::from_seconds(20),
            &[gst::MessageType::Error, gst::MessageType::Eos],
        )
        .unwrap();
    assert_eq!(error.src(), Some(element.upcast_ref::<gst::Object>()));
    // Only the source's own, that the data flow stopped, may follow.
    while let Some(message) = bus.timed_pop_filtered(gst::ClockTime::from_mseconds(200), &[gst::MessageType::Error]) {
        assert_eq!(message.src(), Some(source.upcast_ref::<gst::Object>()), "{message:?}");
    }
    pipeline.set_state(gst::State::Null).unwrap();
}
