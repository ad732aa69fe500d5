// SPDX-License-Identifier: MPL-2.0

//! When the graphs run first: before the start with a live source, in the first window without, and meanwhile where it is not
//! known.

use std::time::{Duration, Instant};

use gst::prelude::*;

use crate::rig::{self, FRAME, Rig, assert_brighter, frame, live_upstream, rgb};

/// An element with sessions of its own, as no other test has so many threads.
fn cold(threads: u32) -> gst::Element {
    let element = rig::element("brighter");
    element.set_property("num-threads", threads);
    element
}

/// Progress of the warm-up since the last call.
fn told(rig: &Rig) -> Vec<gst::ProgressType> {
    let messages = rig.messages(&[gst::MessageType::Progress]);
    let kinds = messages.iter().filter_map(|message| match message.view() {
        gst::MessageView::Progress(progress) => {
            let (kind, code, _) = progress.get();
            (code == "warm-up").then_some(kind)
        }
        _ => None,
    });
    kinds.collect()
}

const TOLD: [gst::ProgressType; 2] = [gst::ProgressType::Start, gst::ProgressType::Complete];
const LOOK_AHEAD: gst::ClockTime = gst::ClockTime::from_nseconds(FRAME.nseconds() * 4);

#[test]
fn with_a_live_source_a_window_is_measured_before_the_start() {
    let rig = Rig::around(cold(11));
    rig.on_upstream_query(live_upstream);
    rig.play();
    assert_eq!(told(&rig), TOLD);
    rig.start(&rgb().to_caps().unwrap());
    assert!(rig.query_latency().1 > LOOK_AHEAD);
    // What is measured once holds for all that share the sessions.
    let second = Rig::around(cold(11));
    second.on_upstream_query(live_upstream);
    second.play();
    assert_eq!(told(&second), []);
    second.start(&rgb().to_caps().unwrap());
    assert_eq!(second.query_latency(), rig.query_latency());
}

#[test]
fn without_a_live_source_the_first_window_is_the_warm_up() {
    let rig = Rig::around(cold(12));
    rig.play();
    rig.start(&rgb().to_caps().unwrap());
    assert_eq!(rig.query_latency().1, LOOK_AHEAD, "nothing is measured");
    rig.push_all((0..5).map(|index| frame(&rgb(), index)));
    assert!(rig.query_latency().1 > LOOK_AHEAD, "the first window is");
    rig.push_all((5..7).map(|index| frame(&rgb(), index)));
    rig.eos();
    assert_brighter(&rgb(), &rig.take_buffers(), 0, 7);
    assert_eq!(told(&rig), []);
    assert_eq!(rig.errors(), []);
}

/// A demuxer has no pads before it has seen the stream.
#[test]
fn with_a_source_that_comes_later_the_caps_settle_it() {
    for (threads, is_live, is_asked_first) in [(13, true, false), (14, true, true), (15, false, false)] {
        let element = cold(threads);
        element.set_state(gst::State::Paused).unwrap();
        let rig = Rig::around(element);
        if is_live {
            rig.on_upstream_query(live_upstream);
        }
        rig.play();
        if is_asked_first {
            let start = Instant::now();
            rig.query_latency();
            assert!(start.elapsed() < Duration::from_millis(400), "who asks does not wait");
        }
        rig.start(&rgb().to_caps().unwrap());
        if is_live {
            assert!(rig.query_latency().1 > LOOK_AHEAD, "{threads}");
        }
        // It started before there was a bus.
        assert_eq!(told(&rig), [gst::ProgressType::Complete], "{threads}");
        rig.push_all((0..7).map(|index| frame(&rgb(), index)));
        rig.eos();
        assert_brighter(&rgb(), &rig.take_buffers(), 0, 7);
        assert_eq!(rig.errors(), [], "{threads}");
    }
}

/// The bundle takes a second for a window.
#[test]
fn a_warm_up_that_goes_on_ends_with_the_element() {
    let element = rig::element("slow");
    element.set_property("num-threads", 16u32);
    for _ in 0..2 {
        element.set_state(gst::State::Paused).unwrap();
        let start = Instant::now();
        element.set_state(gst::State::Null).unwrap();
        assert!(start.elapsed() < Duration::from_millis(400), "{:?}", start.elapsed());
    }
}

/// Caps that wait for a live source's warm-up do not when they are flushed.
#[test]
fn a_flush_does_not_wait_for_a_warm_up() {
    let element = rig::element("slow");
    element.set_property("num-threads", 17u32);
    element.set_state(gst::State::Paused).unwrap();
    let rig = Rig::around(element);
    rig.on_upstream_query(live_upstream);
    rig.play();
    let start = Instant::now();
    std::thread::scope(|scope| {
        let caps = scope.spawn(|| {
            rig.event(gst::event::StreamStart::new("flushed"));
            rig.event(gst::event::Caps::new(&rgb().to_caps().unwrap()));
            start.elapsed()
        });
        std::thread::sleep(Duration::from_millis(100));
        assert!(rig.event(gst::event::FlushStart::new()));
        let waited = caps.join().unwrap();
        assert!(waited > Duration::from_millis(80), "they do wait without: {waited:?}");
        assert!(waited < Duration::from_millis(500), "{waited:?}");
    });
    assert!(rig.event(gst::event::FlushStop::new(true)));
    // It went on, and its end tells the latency.
    let measured = LOOK_AHEAD + gst::ClockTime::from_mseconds(500);
    crate::rig::wait_for("the end of the warm-up", || rig.query_latency().1 > measured);
    assert_eq!(told(&rig), [gst::ProgressType::Complete]);
    assert_eq!(rig.errors(), []);
}

/// An element behind asks for the latency in its own thread, and is stopped before this one: a muxer of live streams, a compositor.
#[test]
fn a_live_pipeline_with_an_aggregator_ends_at_once() {
    let element = rig::element("slow");
    let pipeline = gst::Pipeline::new();
    element.set_property("num-threads", 18u32);
    let make = |name: &str| gst::ElementFactory::make(name).build().unwrap();
    let (source, queue, mixer, sink) = (
        make("videotestsrc"),
        make("queue"),
        make("compositor"),
        make("fakesink"),
    );
    source.set_property("is-live", true);
    pipeline.add_many([&source, &queue, &element, &mixer, &sink]).unwrap();
    source.link_filtered(&queue, &rgb().to_caps().unwrap()).unwrap();
    gst::Element::link_many([&queue, &element, &mixer, &sink]).unwrap();
    for wait in [0, 100, 250] {
        pipeline.set_state(gst::State::Playing).unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        let start = Instant::now();
        pipeline.set_state(gst::State::Null).unwrap();
        assert!(
            start.elapsed() < Duration::from_millis(700),
            "{wait}: {:?}",
            start.elapsed()
        );
    }
}
