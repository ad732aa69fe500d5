// SPDX-License-Identifier: MPL-2.0

//! The latency answer and its messages; caps that are refused.

use gst::ClockTime;
use gst::prelude::*;
use gst_base::prelude::*;
use gst_video::VideoFormat;

use crate::rig::{self, FRAME, Rig, assert_brighter, frame, info, rgb, time_segment};

const DEADLINE: ClockTime = ClockTime::from_mseconds(70);

/// An element whose time for processing is set, so that the answer is exact.
fn with_deadline(model: &str, deadline: ClockTime) -> Rig {
    let element = rig::element(model);
    element.set_property("processing-deadline", deadline.nseconds());
    let rig = Rig::around(element);
    rig.play();
    rig
}

fn answer(rig: &Rig, live: bool, min: ClockTime, max: Option<ClockTime>) {
    rig.on_upstream_query(move |query| match query.view_mut() {
        gst::QueryViewMut::Latency(query) => {
            query.set(live, min, max);
            true
        }
        _ => false,
    });
}

fn messages(rig: &Rig) -> usize {
    rig.messages(&[gst::MessageType::Latency]).len()
}

#[test]
fn look_ahead_and_processing_are_added_to_upstreams_latency() {
    let rig = with_deadline("brighter", DEADLINE);
    rig.start(&rgb().to_caps().unwrap());
    let own = FRAME * 4 + DEADLINE;
    let ms = ClockTime::from_mseconds;
    for (live, min, max) in [
        (false, ms(0), None),
        (true, ms(20), None),
        (true, ms(20), Some(ms(100))),
        (false, ms(5), Some(ms(6))),
    ] {
        answer(&rig, live, min, max);
        assert_eq!(rig.query_latency(), (live, min + own, max.map(|max| max + own)));
    }
    assert_eq!(
        rig.element
            .property::<gst::Structure>("stats")
            .get::<ClockTime>("latency")
            .unwrap(),
        own
    );
    // No overflow, and no panic.
    answer(&rig, true, ClockTime::MAX, Some(ClockTime::MAX));
    assert_eq!(rig.query_latency(), (true, ClockTime::MAX, Some(ClockTime::MAX)));
    assert_eq!(rig.errors(), []);
}

#[test]
fn longer_windows_have_more_latency() {
    let rig = with_deadline("brighter-long", DEADLINE);
    rig.start(&info(VideoFormat::Rgb, 64, 64).to_caps().unwrap());
    assert_eq!(rig.query_latency().1, FRAME * 16 + DEADLINE);

    let element = rig::element("brighter-dynamic");
    element.set_property("window-frames", 13u32);
    element.set_property("processing-deadline", DEADLINE.nseconds());
    let rig = Rig::around(element);
    rig.play();
    rig.start(&rgb().to_caps().unwrap());
    assert_eq!(rig.query_latency().1, FRAME * 12 + DEADLINE);
}

/// Another model with another T, set in READY: what holds afterwards is its T, in the answer, in the message that tells of it and
/// in the frames that wait.
#[test]
fn another_model_has_the_latency_of_its_own_window() {
    let rig = with_deadline("brighter", DEADLINE);
    let settings: [(&str, u32, u64); 5] = [
        ("brighter-long", 0, 17),
        ("brighter", 0, 5),
        ("brighter-dynamic", 13, 13),
        ("brighter-dynamic", 9, 9),
        ("identity", 0, 5),
    ];
    rig.start(&rgb().to_caps().unwrap());
    assert_eq!(rig.query_latency().1, FRAME * 4 + DEADLINE);
    for (model, frames, window) in settings {
        // In the middle of a window of the model before.
        rig.push_all((0..3).map(|index| frame(&rgb(), index)));
        rig.element.set_state(gst::State::Ready).unwrap();
        rig.element.set_property("model", crate::bundle(model));
        rig.element.set_property("window-frames", frames);
        rig.play();
        rig.take();
        rig.messages(&[]);
        rig.start(&rgb().to_caps().unwrap());
        assert_eq!(messages(&rig), 1, "{model}: the caps bring the frames' duration");
        let own = FRAME * (window - 1) + DEADLINE;
        answer(&rig, true, FRAME, None);
        assert_eq!(rig.query_latency(), (true, FRAME + own, None), "{model}");
        let told = rig.element.property::<gst::Structure>("stats");
        assert_eq!(told.get::<ClockTime>("latency").unwrap(), own, "{model}");
        // As many frames wait as the answer says.
        rig.take();
        rig.push_all((0..window - 1).map(|index| frame(&rgb(), index)));
        assert!(rig.take_buffers().is_empty(), "{model}");
        rig.push(frame(&rgb(), window - 1)).unwrap();
        assert!(!rig.take_buffers().is_empty(), "{model}");
        assert_eq!(messages(&rig), 0, "{model}: nothing has changed since");
        rig.eos();
        assert!(rig.event(gst::event::FlushStart::new()));
        assert!(rig.event(gst::event::FlushStop::new(true)));
        assert!(rig.event(time_segment()));
    }
    assert_eq!(rig.errors(), []);
}

/// A camera says 25 frames a second, and where it is dark it gives 12 or 13.
#[test]
fn frames_that_come_slower_than_the_caps_say_have_more_latency() {
    let slow = |index: u64| {
        let mut buffer = frame(&rgb(), index);
        buffer.make_mut().set_pts(FRAME * 2 * index);
        buffer
    };
    let rig = with_deadline("brighter", DEADLINE);
    rig.start(&rgb().to_caps().unwrap());
    answer(&rig, true, ClockTime::ZERO, None);
    assert_eq!(rig.query_latency().1, FRAME * 4 + DEADLINE);
    rig.messages(&[]);
    rig.push_all((0..8).map(slow));
    assert_eq!(messages(&rig), 0);
    rig.push_all((8..40).map(slow));
    assert_eq!(messages(&rig), 1, "once");
    assert_eq!(rig.query_latency().1, FRAME * 2 * 4 + DEADLINE);
    rig.eos();
    assert_eq!(rig.errors(), []);

    // So it is where the segment's rate makes them slower.
    let rig = with_deadline("brighter", DEADLINE);
    rig.start(&rgb().to_caps().unwrap());
    let mut segment = gst::FormattedSegment::<ClockTime>::new();
    segment.set_rate(0.5);
    assert!(rig.event(gst::event::Segment::new(&segment)));
    rig.push_all((0..20).map(|index| frame(&rgb(), index)));
    assert_eq!(rig.query_latency().1, FRAME * 2 * 4 + DEADLINE);
}

/// The pipeline of a launch line with `element` between what it names `in` and `out`.
fn pipeline_with(element: &gst::Element, line: &str) -> gst::Pipeline {
    let pipeline = gst::parse::launch(line).unwrap().downcast::<gst::Pipeline>().unwrap();
    let [before, after] = ["in", "out"].map(|name| pipeline.by_name(name).unwrap());
    before.unlink(&after);
    pipeline.add(element).unwrap();
    gst::Element::link_many([&before, element, &after]).unwrap();
    pipeline
}

/// The same in a pipeline that plays: its own latency follows the message.
#[test]
fn a_pipeline_follows_the_window_of_another_model() {
    let element = rig::element("brighter");
    element.set_property("processing-deadline", DEADLINE.nseconds());
    let pipeline = pipeline_with(
        &element,
        "videotestsrc is-live=true ! video/x-raw,format=RGB,width=32,height=32,framerate=25/1 ! identity name=in ! \
         queue name=out ! fakesink name=sink sync=true processing-deadline=0",
    );
    let bus = pipeline.bus().unwrap();
    for (model, window) in [("brighter", 5), ("brighter-long", 17), ("brighter", 5)] {
        pipeline.set_state(gst::State::Ready).unwrap();
        element.set_property("model", crate::bundle(model));
        pipeline.set_state(gst::State::Playing).unwrap();
        // A live source has a frame of its own.
        let expected = FRAME * window + DEADLINE;
        let sink = pipeline.by_name("sink").unwrap();
        // What a sink waits for: as the application does on each message, until it is the new window's.
        let mut configured = ClockTime::ZERO;
        for _ in 0..500 {
            if let Some(message) = bus.timed_pop(ClockTime::from_mseconds(20)) {
                assert_ne!(message.type_(), gst::MessageType::Error, "{message:?}");
                if message.type_() == gst::MessageType::Latency {
                    let _ = pipeline.recalculate_latency();
                }
            }
            configured = sink.downcast_ref::<gst_base::BaseSink>().unwrap().latency();
            if configured == expected {
                break;
            }
        }
        assert_eq!(configured, expected, "{model}");
    }
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn the_time_of_a_window_is_measured() {
    let rig = Rig::around(rig::element("brighter"));
    rig.on_upstream_query(rig::live_upstream);
    rig.play();
    rig.start(&rgb().to_caps().unwrap());
    let own = rig.query_latency().1;
    assert!(own > FRAME * 4 && own < FRAME * 4 + ClockTime::SECOND, "{own}");
}

#[test]
fn no_answer_of_upstream_is_no_answer() {
    let element = rig::element("brighter");
    element.set_state(gst::State::Paused).unwrap();
    let mut query = gst::query::Latency::new();
    assert!(!element.static_pad("src").unwrap().query(&mut query));
    element.set_state(gst::State::Null).unwrap();
}

#[test]
fn an_unknown_rate_is_observed() {
    let rig = with_deadline("brighter", DEADLINE);
    let mut caps = rgb().to_caps().unwrap();
    caps.get_mut().unwrap().set("framerate", gst::Fraction::new(0, 1));
    rig.start(&caps);
    rig.messages(&[]);
    assert_eq!(rig.query_latency().1, DEADLINE);
    let without_duration = |index: u64, pts: u64| {
        let mut buffer = frame(&rgb(), index);
        let changed = buffer.get_mut().unwrap();
        changed.set_duration(None);
        changed.set_pts(ClockTime::from_mseconds(pts));
        buffer
    };
    rig.push(without_duration(0, 0)).unwrap();
    assert_eq!(messages(&rig), 0);
    rig.push(without_duration(1, 800)).unwrap();
    assert_eq!(messages(&rig), 0, "it may be a hole");
    rig.push(without_duration(2, 830)).unwrap();
    assert_eq!(messages(&rig), 1);
    assert_eq!(rig.query_latency().1, ClockTime::from_mseconds(4 * 30) + DEADLINE);
    rig.push(without_duration(3, 860)).unwrap();
    rig.push(without_duration(4, 890)).unwrap();
    assert_eq!(messages(&rig), 0, "nothing new");
    // A lost frame, a hole, a gap, and what follows a flush are no frame rate.
    for (index, pts) in [(5, 950), (6, 1850), (7, 60_000)] {
        rig.push(without_duration(index, pts)).unwrap();
    }
    rig.event(gst::event::FlushStart::new());
    rig.event(gst::event::FlushStop::new(true));
    rig.event(time_segment());
    rig.push(without_duration(8, 60_900)).unwrap();
    // Nor is another size of the frames another rate.
    caps.make_mut().set("width", 64);
    assert!(rig.event(gst::event::Caps::new(&caps)));
    assert_eq!(messages(&rig), 0);
    assert_eq!(rig.query_latency().1, ClockTime::from_mseconds(4 * 30) + DEADLINE);
    assert_eq!(rig.errors(), []);
}

#[test]
fn another_rate_is_told_on_the_bus() {
    let rig = with_deadline("brighter", DEADLINE);
    rig.messages(&[]);
    rig.start(&rgb().to_caps().unwrap());
    assert_eq!(messages(&rig), 1, "the first caps");
    let mut caps = rgb().to_caps().unwrap();
    caps.get_mut().unwrap().set("framerate", gst::Fraction::new(50, 1));
    assert!(rig.event(gst::event::Caps::new(&caps)));
    assert_eq!(messages(&rig), 1);
    assert_eq!(rig.query_latency().1, FRAME * 2 + DEADLINE);
    let larger = info(VideoFormat::Rgb, 64, 64).to_caps().unwrap();
    assert!(rig.event(gst::event::Caps::new(&larger)));
    assert_eq!(messages(&rig), 1);
    let other = info(VideoFormat::I420, 64, 64).to_caps().unwrap();
    assert!(rig.event(gst::event::Caps::new(&other)));
    assert_eq!(messages(&rig), 0, "the same rate");
}

#[test]
fn extreme_settings_are_no_overflow() {
    let rig = with_deadline("brighter", ClockTime::MAX);
    rig.start(&rgb().to_caps().unwrap());
    assert_eq!(rig.query_latency().1, ClockTime::MAX);
    let mut caps = rgb().to_caps().unwrap();
    caps.get_mut()
        .unwrap()
        .set("framerate", gst::Fraction::new(1, i32::MAX));
    assert!(rig.event(gst::event::Caps::new(&caps)));
    assert_eq!(rig.query_latency().1, ClockTime::MAX);
    rig.push_all((0..7).map(|index| frame(&rgb(), index)));
    rig.eos();
    assert_brighter(&rgb(), &rig.take_buffers(), 0, 7);
    assert_eq!(rig.errors(), []);
}

/// In a pipeline with a live source and a sink that plays by the clock, nothing is late.
#[test]
fn a_live_pipeline_is_in_time() {
    let element = rig::element("brighter");
    element.set_property("processing-deadline", ClockTime::from_mseconds(400).nseconds());
    let pipeline = pipeline_with(
        &element,
        "videotestsrc is-live=true num-buffers=12 pattern=black ! video/x-raw,format=RGB,width=32,height=32,framerate=25/1 \
         ! identity name=in ! queue name=out ! fakesink name=sink sync=true",
    );
    pipeline.set_state(gst::State::Playing).unwrap();
    let bus = pipeline.bus().unwrap();
    let message = bus
        .timed_pop_filtered(
            ClockTime::from_seconds(20),
            &[gst::MessageType::Eos, gst::MessageType::Error],
        )
        .expect("the end of the stream");
    assert_eq!(message.type_(), gst::MessageType::Eos);
    assert_eq!(pipeline.latency(), None, "the pipeline's own choice");
    let statistics = pipeline.by_name("sink").unwrap().property::<gst::Structure>("stats");
    assert_eq!(statistics.get::<u64>("rendered").unwrap(), 12);
    assert_eq!(statistics.get::<u64>("dropped").unwrap(), 0);
    let mut query = gst::query::Latency::new();
    assert!(pipeline.query(&mut query));
    let (live, min, _) = query.result();
    assert!(live && min >= FRAME * 4 + ClockTime::from_mseconds(400), "{min}");
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn interlaced_caps_are_refused_and_progressive_is_the_default() {
    let rig = Rig::new("brighter");
    let sink = rig.element.static_pad("sink").unwrap();
    let accepts = |mode: Option<&str>| {
        let mut caps = rgb().to_caps().unwrap();
        let structure = caps.get_mut().unwrap().structure_mut(0).unwrap();
        match mode {
            Some(mode) => structure.set("interlace-mode", mode),
            None => structure.remove_field("interlace-mode"),
        }
        (sink.query_accept_caps(&caps), caps)
    };
    for mode in ["interleaved", "mixed", "fields", "alternate"] {
        assert!(!accepts(Some(mode)).0, "{mode}");
    }
    assert!(accepts(Some("progressive")).0);
    let (accepted, caps) = accepts(None);
    assert!(accepted, "caps without an interlace mode are progressive");
    rig.start(&caps);
    rig.push_all((0..3).map(|index| frame(&rgb(), index)));
    rig.eos();
    assert_brighter(&rgb(), &rig.take_buffers(), 0, 3);

    let (_, interlaced) = accepts(Some("interleaved"));
    assert!(!rig.event(gst::event::Caps::new(&interlaced)));
    assert_eq!(rig.errors(), []);
}

#[test]
fn an_interlaced_stream_fails_to_negotiate() {
    crate::init();
    let element = rig::element("brighter");
    let pipeline = gst::parse::launch(
        "videotestsrc num-buffers=20 ! video/x-raw,format=I420,width=32,height=32,framerate=50/1 ! interlace name=in",
    )
    .unwrap()
    .downcast::<gst::Pipeline>()
    .unwrap();
    let sink = gst::ElementFactory::make("fakesink").build().unwrap();
    pipeline.add_many([&element, &sink]).unwrap();
    let before = pipeline.by_name("in").unwrap();
    let linked = gst::Element::link_many([&before, &element, &sink]);
    if linked.is_ok() {
        let _ = pipeline.set_state(gst::State::Playing);
        let message = pipeline
            .bus()
            .unwrap()
            .timed_pop_filtered(
                ClockTime::from_seconds(10),
                &[gst::MessageType::Eos, gst::MessageType::Error],
            )
            .expect("an error");
        let gst::MessageView::Error(error) = message.view() else {
            panic!("an interlaced stream was taken: {message:?}");
        };
        assert!(error.debug().unwrap().contains("not-negotiated"), "{error:?}");
    }
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn formats_outside_the_template_are_refused() {
    let rig = Rig::new("brighter");
    let sink = rig.element.static_pad("sink").unwrap();
    for caps in [
        "video/x-raw,format=P012_LE,width=32,height=32,framerate=25/1",
        "video/x-raw(memory:GLMemory),format=RGBA,width=32,height=32,framerate=25/1",
        "video/x-bayer,width=32,height=32,framerate=25/1",
    ] {
        assert!(!sink.query_accept_caps(&caps.parse().unwrap()), "{caps}");
    }
    // Downstream's wishes reach upstream.
    rig.on_downstream_query(|query| match query.view_mut() {
        gst::QueryViewMut::Caps(query) => {
            query.set_result(
                &"video/x-raw,format={NV12,I420},width=[1,100]"
                    .parse::<gst::Caps>()
                    .unwrap(),
            );
            true
        }
        _ => false,
    });
    let caps = rig.src.peer_query_caps(None);
    let structure = caps.structure(0).unwrap();
    assert_eq!(structure.get::<gst::List>("format").unwrap().len(), 2, "{caps}");
    assert!(structure.has_field("width"));
    assert_eq!(structure.get::<&str>("interlace-mode").unwrap(), "progressive");
}
