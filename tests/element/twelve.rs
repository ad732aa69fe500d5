// SPDX-License-Identifier: MPL-2.0

//! The twelve behaviours that a reviewer of GStreamer elements checks first, one test each. The other files go into detail.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gst::ClockTime;
use gst::prelude::*;
use gst_video::{VideoFormat, VideoRegionOfInterestMeta, VideoTimeCode, VideoTimeCodeFlags, VideoTimeCodeMeta};
use gstdvface::restorer::faults::{self, Fault};

use crate::rig::{self, FRAME, Out, Rig, assert_brighter, flat, frame, info, labels, rgb, time_segment};

const SLOW: Fault = Fault::Slow(Duration::from_secs(30));

/// Ends of a run in its middle must be this quick. The machine of the tests may be busy: half of them must be, and none may take
/// four times as long.
const PROMPT: Duration = Duration::from_millis(100);

#[track_caller]
fn assert_prompt(what: &str, mut times: Vec<Duration>) {
    times.sort();
    println!("{what}: {times:?}");
    assert!(times[times.len() / 2] < PROMPT, "{what}: {times:?}");
    assert!(*times.last().unwrap() < PROMPT * 4, "{what}: {times:?}");
}

/// Pushes a window whose run takes very long, in a thread of its own, and returns in the middle of the run.
fn long_run(rig: &Rig) -> std::thread::JoinHandle<Result<(), gst::FlowError>> {
    let src = rig.src.clone();
    let (sender, running) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        faults::set(move || {
            sender.send(()).unwrap();
            Some(SLOW)
        });
        let result = (0..5).try_for_each(|index| src.push(flat(&rgb(), index, 0)).map(|_| ()));
        faults::clear();
        result
    });
    running.recv_timeout(Duration::from_secs(20)).expect("the run starts");
    std::thread::sleep(Duration::from_millis(30));
    thread
}

fn live_answer(rig: &Rig, is_live: bool, min: ClockTime) {
    rig.on_upstream_query(move |query| match query.view_mut() {
        gst::QueryViewMut::Latency(query) => {
            query.set(is_live, min, ClockTime::NONE);
            true
        }
        _ => false,
    });
}

#[test]
fn rule_01_eos_drains_every_frame() {
    for count in [0, 1, 4, 5, 6, 9, 23] {
        let rig = Rig::new("brighter");
        rig.start(&rgb().to_caps().unwrap());
        rig.push_all((0..count).map(|index| frame(&rgb(), index)));
        rig.eos();
        let mut out = rig.take();
        assert_eq!(out.pop().unwrap().label(), "eos");
        let out: Vec<_> = out.into_iter().filter_map(Out::buffer).collect();
        assert_brighter(&rgb(), &out, 0, count);
    }
}

#[test]
fn rule_02_caps_change_drains_with_the_old_caps_and_reconfigure_loses_nothing() {
    let rig = Rig::new("brighter");
    rig.start(&rgb().to_caps().unwrap());
    rig.take();
    rig.push_all((0..3).map(|index| frame(&rgb(), index)));
    assert!(rig.sink.push_event(gst::event::Reconfigure::new()));
    rig.push(frame(&rgb(), 3)).unwrap();
    let other = info(VideoFormat::I420, 64, 48);
    assert!(rig.event(gst::event::Caps::new(&other.to_caps().unwrap())));
    let out = rig.take();
    assert_eq!(labels(&out), ["0", "1", "2", "3", "caps"]);
    let out: Vec<_> = out.into_iter().filter_map(Out::buffer).collect();
    assert_brighter(&rgb(), &out, 0, 4);
}

#[test]
fn rule_03_flush_start_interrupts_a_running_inference_and_nothing_stale_comes_out() {
    let rig = Rig::new("brighter");
    rig.start(&rgb().to_caps().unwrap());
    let mut times = Vec::new();
    for _ in 0..9 {
        let run = long_run(&rig);
        let start = Instant::now();
        assert!(rig.event(gst::event::FlushStart::new()));
        assert_eq!(run.join().unwrap(), Err(gst::FlowError::Flushing));
        times.push(start.elapsed());
        assert!(rig.event(gst::event::FlushStop::new(true)));
        assert!(rig.event(time_segment()));
        rig.take();
        rig.push_all((100..102).map(|index| frame(&rgb(), index)));
        rig.eos();
        let out = rig.take_buffers();
        assert_brighter(&rgb(), &out, 100, 2);
        rig.event(gst::event::FlushStart::new());
        rig.event(gst::event::FlushStop::new(true));
        rig.event(time_segment());
    }
    assert_prompt("FLUSH_START", times);
}

/// The same with a graph that runs in ONNX Runtime, which is asked to terminate.
#[test]
fn rule_03_flush_start_terminates_onnx_runtime() {
    let rig = Rig::around(rig::element("slow"));
    rig.element.set_property("num-threads", 2u32);
    rig.play();
    rig.start(&rgb().to_caps().unwrap());
    let mut times = Vec::new();
    for _ in 0..5 {
        let before = rig.stat("frames-in");
        let src = rig.src.clone();
        let run = std::thread::spawn(move || (0..5).try_for_each(|index| src.push(flat(&rgb(), index, 0)).map(|_| ())));
        rig::wait_for("five frames", || rig.stat("frames-in") == before + 5);
        std::thread::sleep(Duration::from_millis(100));
        let start = Instant::now();
        assert!(rig.event(gst::event::FlushStart::new()));
        assert_eq!(run.join().unwrap(), Err(gst::FlowError::Flushing));
        times.push(start.elapsed());
        assert!(rig.event(gst::event::FlushStop::new(true)));
        assert!(rig.event(time_segment()));
    }
    assert_prompt("FLUSH_START in a graph", times);
    assert_eq!(rig.stat("windows"), 0);
}

#[test]
fn rule_04_serialized_events_and_queries_keep_their_order_and_no_window_spans_a_discontinuity() {
    let rig = Rig::new("brighter");
    rig.start(&rgb().to_caps().unwrap());
    rig.take();
    let mut tags = gst::TagList::new();
    tags.get_mut()
        .unwrap()
        .add::<gst::tags::Title>(&"title", gst::TagMergeMode::Append);
    // The last is what a captioner or an application may put between two frames.
    let custom = gst::event::CustomDownstream::new(gst::Structure::new_empty("captions-change"));
    let gap = gst::event::Gap::builder(FRAME * 8).duration(FRAME).build();
    let steps = [
        (2, gst::event::Tag::new(tags), "tag"),
        (2, custom, "captions-change"),
        (4, gap, "gap"),
        (3, time_segment(), "segment"),
        (1, gst::event::Eos::new(), "eos"),
    ];
    let mut order = Vec::new();
    let mut index = 0;
    for (count, event, label) in steps {
        for _ in 0..count {
            rig.push(frame(&rgb(), index)).unwrap();
            order.push(index.to_string());
            index += 1;
        }
        assert!(rig.event(event));
        order.push(label.into());
    }
    let out = rig.take();
    assert_eq!(labels(&out), order);
    // Windows of 8, 3 and 1 frames end at the gap, the segment and the end: 2 + 1 + 1.
    assert_eq!(rig.stat("windows"), 2 + 1 + 1);
    let out: Vec<_> = out.into_iter().filter_map(Out::buffer).collect();
    assert_brighter(&rgb(), &out, 0, 12);

    // A serialized query waits for what is before it.
    assert!(rig.event(gst::event::StreamStart::new("next")));
    rig.start(&rgb().to_caps().unwrap());
    rig.take();
    let seen = Arc::new(Mutex::new(None));
    let (at_query, element) = (seen.clone(), rig.element.clone());
    rig.on_downstream_query(move |query| {
        let is_drain = query.type_() == gst::QueryType::Drain;
        if is_drain {
            let statistics = element.property::<gst::Structure>("stats");
            *at_query.lock().unwrap() = Some(statistics.get::<u64>("frames-out").unwrap());
        }
        is_drain
    });
    rig.push_all((20..23).map(|index| frame(&rgb(), index)));
    assert!(rig.src.peer_query(&mut gst::query::Drain::new()));
    assert_eq!(*seen.lock().unwrap(), Some(12 + 3));
}

/// Upstream events do not wait for anything.
#[test]
fn rule_04_upstream_events_pass() {
    let rig = Rig::new("brighter");
    rig.start(&rgb().to_caps().unwrap());
    rig.push_all((0..3).map(|index| frame(&rgb(), index)));
    let (sender, seen) = std::sync::mpsc::channel();
    rig.src.add_probe(gst::PadProbeType::EVENT_UPSTREAM, move |_, info| {
        sender.send(info.event().unwrap().clone()).unwrap();
        gst::PadProbeReturn::Ok
    });
    let key_unit = gst_video::UpstreamForceKeyUnitEvent::builder()
        .all_headers(true)
        .build();
    let navigation = gst::event::Navigation::new(
        gst::Structure::builder("application/x-gst-navigation")
            .field("event", "mouse-move")
            .field("pointer_x", 5.0f64)
            .field("pointer_y", 7.0f64)
            .build(),
    );
    let latency = gst::event::Latency::new(ClockTime::from_mseconds(900));
    for event in [key_unit, navigation, latency] {
        assert!(rig.sink.push_event(event.clone()));
        let passed = seen.try_recv().expect("it passes");
        assert_eq!(passed.type_(), event.type_());
        assert_eq!(
            passed.structure().map(|structure| structure.to_string()),
            event.structure().map(|structure| structure.to_string())
        );
    }
    assert!(seen.try_recv().is_err());
}

#[test]
fn rule_05_latency_is_right_and_a_message_says_when_it_changes() {
    let deadline = ClockTime::from_mseconds(70);
    let element = rig::element("brighter-dynamic");
    element.set_property("processing-deadline", deadline.nseconds());
    let rig = Rig::around(element);
    let messages = || rig.messages(&[gst::MessageType::Latency]).len();
    for (frames, at_25) in [(0u32, 4), (13, 12)] {
        // With another length of the window: as with another model.
        rig.element.set_state(gst::State::Ready).unwrap();
        rig.element.set_property("window-frames", frames);
        rig.play();
        messages();
        rig.start(&rgb().to_caps().unwrap());
        assert_eq!(messages(), 1);
        for (is_live, min) in [(true, 30), (false, 0)] {
            let min = ClockTime::from_mseconds(min);
            live_answer(&rig, is_live, min);
            assert_eq!(rig.query_latency(), (is_live, min + FRAME * at_25 + deadline, None));
        }
    }
    // A rate that nobody knows: from the frames.
    let mut caps = rgb().to_caps().unwrap();
    caps.get_mut().unwrap().set("framerate", gst::Fraction::new(0, 1));
    assert!(rig.event(gst::event::Caps::new(&caps)));
    assert_eq!((messages(), rig.query_latency().1), (1, deadline));
    rig.push_all((0..2).map(|index| frame(&rgb(), index)));
    assert_eq!((messages(), rig.query_latency().1), (1, FRAME * 12 + deadline));
}

#[test]
fn rule_06_overload_bounds_memory_and_sends_unrestored_frames_with_qos_messages() {
    let element = rig::element("brighter");
    element.set_property_from_str("overload", "bypass");
    element.set_property("processing-deadline", 200_000_000u64);
    let clock = gst::SystemClock::obtain();
    element.set_clock(Some(&clock)).unwrap();
    let rig = Rig::around(element);
    rig.play();
    live_answer(&rig, true, ClockTime::ZERO);
    rig.start(&rgb().to_caps().unwrap());
    rig.take();
    rig.messages(&[]);
    let mut out = 0;
    for index in 0..500u64 {
        rig.element
            .set_base_time(clock.time() - FRAME * index - ClockTime::from_seconds(5));
        rig.push(frame(&rgb(), index)).unwrap();
        out += rig.take_buffers().len() as u64;
        assert!(index + 1 - out < 5, "at most a window is held");
    }
    rig.eos();
    out += rig.take_buffers().len() as u64;
    assert_eq!((out, rig.stat("frames-bypassed")), (500, 500));
    assert_eq!(rig.messages(&[gst::MessageType::Qos]).len(), 500);
}

#[test]
fn rule_07_null_is_prompt_cycles_work_and_instances_coexist() {
    let other = Rig::new("brighter");
    other.start(&rgb().to_caps().unwrap());
    let rig = Rig::around(rig::element("brighter"));
    let mut times = Vec::new();
    for turn in 0..9 {
        rig.play();
        rig.start(&rgb().to_caps().unwrap());
        let run = long_run(&rig);
        let start = Instant::now();
        rig.element.set_state(gst::State::Null).unwrap();
        times.push(start.elapsed());
        assert_eq!(run.join().unwrap(), Err(gst::FlowError::Flushing));
        other.push(frame(&rgb(), turn)).unwrap();
    }
    assert_prompt("PLAYING to NULL", times);
    other.eos();
    assert_brighter(&rgb(), &other.take_buffers(), 0, 9);
}

#[test]
fn rule_08_what_is_missing_or_wrong_is_one_clear_error() {
    for (property, value) in [
        ("model", "no-such-bundle".to_string()),
        ("model", crate::bundle("broken/wrong-checksum")),
        ("runtime-library", "/no/such/libonnxruntime.so".to_string()),
    ] {
        let error = crate::errors::fails(|element| element.set_property(property, value.clone()));
        assert!(error.message().len() > 20, "{error:?}");
        let has_domain = error.is::<gst::ResourceError>() || error.is::<gst::LibraryError>();
        assert!(has_domain, "{error:?}");
    }
}

#[test]
fn rule_09_no_lock_is_held_across_inference_push_post_or_notify() {
    let touch = |element: &gst::Element| {
        element.set_property("strength", 0.9);
        element.set_property("scene-cut", 0.5);
        element.set_property_from_str("overload", "bypass");
        element.set_property_from_str("overload", "block");
        let _ = element.property::<gst::Structure>("stats");
        let _ = element.property::<Option<String>>("active-provider");
        let _ = element
            .static_pad("src")
            .unwrap()
            .query(&mut gst::query::Latency::new());
        let _ = element.query_position::<ClockTime>();
        let _ = element.query_duration::<ClockTime>();
        element.send_event(gst::event::Latency::new(ClockTime::SECOND));
    };
    // The streaming thread's own lock is no hindrance to itself.
    let touch_elsewhere = move |element: &gst::Element| {
        let (element, (done, all)) = (element.clone(), std::sync::mpsc::channel());
        std::thread::spawn(move || {
            touch(&element);
            done.send(())
        });
        all.recv_timeout(Duration::from_secs(20))
            .expect("nothing waits for the push");
    };
    // In a run.
    let rig = Rig::new("brighter");
    rig.start(&rgb().to_caps().unwrap());
    let run = long_run(&rig);
    let start = Instant::now();
    touch(&rig.element);
    assert!(start.elapsed() < Duration::from_secs(5), "nothing waits for the run");
    rig.event(gst::event::FlushStart::new());
    assert!(run.join().unwrap().is_err());
    rig.event(gst::event::FlushStop::new(true));
    rig.event(time_segment());
    // In a push, in a message and in a notification, from the same thread: a lock would wait for itself. In a push from another
    // one, too, as that of a queue behind the element.
    let element = rig.element.clone();
    rig.on_buffer(move |_| {
        touch(&element);
        touch_elsewhere(&element);
        Ok(gst::FlowSuccess::Ok)
    });
    let element = rig.element.downgrade();
    rig.bus.set_sync_handler(move |_, _| {
        if let Some(element) = element.upgrade() {
            touch(&element);
        }
        gst::BusSyncReply::Pass
    });
    rig.element
        .connect_notify(Some("active-provider"), move |element, _| touch(element));
    rig.push_all((0..12).map(|index| frame(&rgb(), index)));
    rig.eos();
    rig.element.set_state(gst::State::Ready).unwrap();
    rig.play();
    assert_eq!(rig.take_buffers().len(), 12);
}

#[test]
fn rule_10_strides_odd_sizes_metas_and_pools_are_respected() {
    // Odd sizes, and a pool of downstream with padded rows; one with too few buffers gives way to another.
    for (format, size, max) in [
        (VideoFormat::I420, (33, 17), 0),
        (VideoFormat::Rgb, (31, 9), 0),
        (VideoFormat::Nv12, (64, 48), 2),
    ] {
        let kind = info(format, size.0, size.1);
        let caps = kind.to_caps().unwrap();
        let rig = Rig::new("brighter");
        let pool = crate::pixels::use_padded_pool(&rig, &caps, &kind, max);
        rig.start(&caps);
        for index in 0..11 {
            rig.push(flat(&kind, index, 100)).unwrap();
        }
        rig.eos();
        let out = rig.take_buffers();
        assert_eq!(out.len(), 11);
        for buffer in &out {
            let owner = unsafe { (*buffer.as_ptr()).pool };
            assert_eq!(owner == pool.as_ptr(), max == 0, "{format:?}");
            let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, &kind).unwrap();
            let row = &frame.plane_data(0).unwrap()[..size.0 as usize];
            assert!(row.iter().all(|value| (100..=102).contains(value)), "{row:?}");
        }
    }
}

#[test]
fn rule_11_metas_survive_and_a_disabled_element_is_a_true_passthrough() {
    let with_metas = |index: u64| {
        let mut buffer = frame(&rgb(), index);
        let changed = buffer.get_mut().unwrap();
        VideoRegionOfInterestMeta::add(changed, "hand", (1, 2, 3, 4));
        let code = VideoTimeCode::new(
            gst::Fraction::new(25, 1),
            None,
            VideoTimeCodeFlags::empty(),
            1,
            2,
            3,
            index as u32 % 25,
            0,
        );
        VideoTimeCodeMeta::add(changed, &code.try_into().unwrap());
        gst_video::VideoCaptionMeta::add(changed, gst_video::VideoCaptionType::Cea608Raw, &[0x80, index as u8]);
        buffer
    };
    for strength in [1.0, 0.0] {
        let rig = Rig::new("brighter");
        rig.element.set_property("strength", strength);
        rig.start(&rgb().to_caps().unwrap());
        let mut sent = Vec::new();
        for index in 0..7 {
            let buffer = with_metas(index);
            sent.push(buffer.as_ptr());
            rig.push(buffer).unwrap();
        }
        rig.eos();
        let out = rig.take_buffers();
        for (buffer, index) in out.iter().zip(0..) {
            // Faces that upstream tells of, and those that were restored, are others.
            let mut regions = buffer.iter_meta::<VideoRegionOfInterestMeta>();
            let hand = regions.find(|region| region.roi_type() == "hand").expect("the region");
            assert_eq!(hand.rect(), (1, 2, 3, 4));
            assert_eq!(buffer.meta::<VideoTimeCodeMeta>().unwrap().tc().frames(), index);
            let caption = buffer.meta::<gst_video::VideoCaptionMeta>().unwrap();
            assert_eq!(caption.data(), [0x80, index as u8]);
        }
        let same = out.iter().map(|buffer| buffer.as_ptr()).eq(sent);
        assert_eq!(same, strength == 0.0, "the very buffers");
    }
}

/// Inspecting, and what it must not load, is in `process`; here what it prints.
#[test]
fn rule_12_inspect_is_complete() {
    crate::init();
    let factory = gst::ElementFactory::find("dvfacerestore").unwrap();
    assert_eq!(factory.metadata("klass"), Some("Filter/Effect/Video"));
    let element = factory.create().build().unwrap();
    for spec in element
        .list_properties()
        .iter()
        .filter(|spec| spec.owner_type() == element.type_())
    {
        assert!(spec.blurb().is_some_and(|blurb| blurb.len() > 15), "{}", spec.name());
        let writable = spec.flags().contains(gst::glib::ParamFlags::WRITABLE);
        let mutable = gst::PARAM_FLAG_MUTABLE_READY | gst::PARAM_FLAG_MUTABLE_PLAYING;
        assert_eq!(spec.flags().intersects(mutable), writable, "{}", spec.name());
        if let Some(spec) = spec.downcast_ref::<gst::glib::ParamSpecEnum>() {
            let class = spec.enum_class();
            for value in class.values() {
                assert!(value.nick().chars().all(|c| c.is_ascii_lowercase()), "{}", value.nick());
                assert!(value.name().len() > 2, "{}", value.name());
            }
        }
    }
}
