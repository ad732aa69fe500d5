// SPDX-License-Identifier: MPL-2.0

//! Streams that are not as usual: backwards, sought in, with odd times, sizes that change all the time, huge frames.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use gst::ClockTime;
use gst::prelude::*;
use gst_video::VideoFormat;

use crate::rig::{self, FRAME, Out, Rig, bytes, flat, frame, info, labels, rgb, time_segment};

fn segment(rate: f64) -> gst::Event {
    let mut segment = gst::FormattedSegment::<ClockTime>::new();
    segment.set_rate(rate);
    segment.set_start(ClockTime::ZERO);
    segment.set_stop(ClockTime::from_seconds(10));
    gst::event::Segment::new(&segment)
}

#[test]
fn reverse_playback_passes_frames_unrestored_and_says_so_once() {
    let rig = Rig::new("brighter");
    rig.start(&rgb().to_caps().unwrap());
    rig.push_all((0..3).map(|index| frame(&rgb(), index)));
    assert!(rig.event(segment(-1.0)));
    assert_eq!(rig.stat("frames-restored"), 3, "what was before is restored");
    rig.take();
    rig.messages(&[]);
    for index in (0..12).rev() {
        rig.push(frame(&rgb(), index)).unwrap();
        let out = rig.take_buffers();
        assert_eq!(out.len(), 1, "at once");
        assert_eq!((out[0].offset(), out[0].pts()), (index, Some(FRAME * index)));
        assert_eq!(bytes(&out[0]), bytes(&frame(&rgb(), index)));
        let event = gst::event::CustomDownstream::new(gst::Structure::new_empty("between"));
        assert!(rig.event(event));
        assert_eq!(labels(&rig.take()), ["between"]);
    }
    assert!(rig.event(segment(-2.0)));
    rig.push(frame(&rgb(), 0)).unwrap();
    let told = rig.messages(&[gst::MessageType::Info]);
    assert_eq!(told.len(), 1, "{told:?}");
    let gst::MessageView::Info(text) = told[0].view() else {
        unreachable!()
    };
    assert!(text.error().message().contains("reverse playback"), "{text:?}");
    assert_eq!(rig.stat("frames-bypassed"), 13);
    // Forwards again, and faster.
    assert!(rig.event(segment(2.0)));
    rig.take();
    rig.push_all((0..7).map(|index| frame(&rgb(), index)));
    rig.eos();
    rig::assert_brighter(&rgb(), &rig.take_buffers(), 0, 7);
    assert_eq!(rig.errors(), []);
}

/// A file with a key frame every ten frames, and all its frames of one another's length.
fn file() -> tempfile::TempDir {
    crate::init();
    let folder = tempfile::tempdir().unwrap();
    let pipeline = gst::parse::launch(&format!(
        "videotestsrc num-buffers=50 pattern=ball ! video/x-raw,format=I420,width=64,height=48,framerate=25/1 ! \
         x264enc key-int-max=10 bframes=2 speed-preset=ultrafast ! h264parse ! mp4mux ! filesink location={}/clip.mp4",
        folder.path().display()
    ))
    .unwrap();
    run_to_end(&pipeline, None);
    pipeline.set_state(gst::State::Null).unwrap();
    folder
}

/// Plays until EOS; `seek` comes when the first frames have been seen.
fn run_to_end(pipeline: &gst::Element, seek: Option<&dyn Fn(&gst::Element)>) {
    pipeline.set_state(gst::State::Paused).unwrap();
    let (result, ..) = pipeline.state(ClockTime::from_seconds(20));
    result.unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    if let Some(seek) = seek {
        std::thread::sleep(Duration::from_millis(150));
        seek(pipeline);
    }
    let message = pipeline
        .bus()
        .unwrap()
        .timed_pop_filtered(
            ClockTime::from_seconds(30),
            &[gst::MessageType::Eos, gst::MessageType::Error],
        )
        .expect("the end of the stream");
    assert_eq!(message.type_(), gst::MessageType::Eos, "{message:?}");
}

type Frames = Vec<(Option<ClockTime>, Vec<u8>)>;

/// What reaches the sink after a seek while playing, with an element in front of it or without.
fn after_seek(file: &str, element: Option<gst::Element>, seek: &dyn Fn(&gst::Element)) -> Frames {
    let pipeline = gst::parse::launch(&format!(
        "filesrc location={file} ! qtdemux ! h264parse ! avdec_h264 max-threads=1 ! queue name=in  \
         queue name=out ! fakesink name=sink sync=true qos=false"
    ))
    .unwrap()
    .downcast::<gst::Pipeline>()
    .unwrap();
    let (before, after) = (pipeline.by_name("in").unwrap(), pipeline.by_name("out").unwrap());
    match element {
        Some(element) => {
            pipeline.add(&element).unwrap();
            gst::Element::link_many([&before, &element, &after]).unwrap();
        }
        None => before.link(&after).unwrap(),
    }
    let seen: Arc<Mutex<Frames>> = Arc::default();
    let frames = seen.clone();
    let pad = pipeline.by_name("sink").unwrap().static_pad("sink").unwrap();
    let kinds = gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM | gst::PadProbeType::EVENT_FLUSH;
    pad.add_probe(kinds, move |_, info| {
        let mut frames = frames.lock().unwrap();
        match &info.data {
            Some(gst::PadProbeData::Buffer(buffer)) => frames.push((buffer.pts(), bytes(buffer))),
            Some(gst::PadProbeData::Event(event)) if event.type_() == gst::EventType::FlushStop => frames.clear(),
            _ => {}
        }
        gst::PadProbeReturn::Ok
    });
    run_to_end(pipeline.upcast_ref(), Some(seek));
    pipeline.set_state(gst::State::Null).unwrap();
    std::mem::take(&mut *seen.lock().unwrap())
}

/// Seeks while playing give the frames that they give without the element, each one changed as it should be.
#[test]
fn seeks_while_playing_give_the_frames_that_they_should() {
    let folder = file();
    let clip = format!("{}/clip.mp4", folder.path().display());
    let at = FRAME * 13 + ClockTime::from_mseconds(10);
    let end = FRAME * 31;
    let flush = gst::SeekFlags::FLUSH;
    let seeks: [(&str, f64, gst::SeekFlags); 5] = [
        ("accurate", 1.0, flush | gst::SeekFlags::ACCURATE),
        ("key unit", 1.0, flush | gst::SeekFlags::KEY_UNIT),
        ("double rate", 2.0, flush | gst::SeekFlags::ACCURATE),
        ("backwards", -1.0, flush | gst::SeekFlags::ACCURATE),
        (
            "half rate, snapped",
            0.5,
            flush | gst::SeekFlags::KEY_UNIT | gst::SeekFlags::SNAP_NEAREST,
        ),
    ];
    for (name, rate, flags) in seeks {
        let seek = |pipeline: &gst::Element| {
            pipeline
                .seek(rate, flags, gst::SeekType::Set, at, gst::SeekType::Set, end)
                .unwrap();
        };
        let expected = after_seek(&clip, None, &seek);
        assert!(expected.len() >= 17, "{name}: {}", expected.len());
        for (model, changes) in [("identity", false), ("brighter", true)] {
            let found = after_seek(&clip, Some(rig::element(model)), &seek);
            let times = |frames: &Frames| frames.iter().map(|(time, _)| *time).collect::<Vec<_>>();
            assert_eq!(times(&found), times(&expected), "{name} with {model}");
            for ((time, found), (_, expected)) in found.iter().zip(&expected) {
                let same = found == expected;
                assert_eq!(same, !(changes && rate > 0.0), "{name} with {model}: {time:?}");
                let far = found.iter().zip(expected).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
                assert!(far <= 2, "{name} with {model}: {time:?} is another frame: {far}");
            }
        }
    }
}

/// Times as they should not be: missing, the same twice, backwards, far apart, and no rate in the caps.
#[test]
fn odd_times_are_kept() {
    let ms = ClockTime::from_mseconds;
    let times = [
        Some(ms(0)),
        None,
        Some(ms(40)),
        Some(ms(40)),
        Some(ms(40)),
        Some(ms(10)),
        None,
        None,
        Some(ms(90_000)),
        Some(ms(90_001)),
        Some(ms(5)),
        Some(ClockTime::from_nseconds(u64::MAX - 1)),
        Some(ms(0)),
        None,
        Some(ms(33)),
        Some(ms(66)),
        Some(ms(101)),
    ];
    for overload in ["block", "bypass"] {
        for count in 1..=times.len() {
            let element = rig::element("brighter");
            element.set_property_from_str("overload", overload);
            element.set_property("scene-cut", 0.9);
            let rig = Rig::around(element);
            rig.play();
            let mut caps = rgb().to_caps().unwrap();
            caps.get_mut().unwrap().set("framerate", gst::Fraction::new(0, 1));
            rig.start(&caps);
            for (index, time) in times[..count].iter().enumerate() {
                let mut buffer = flat(&rgb(), index as u64, 10);
                let changed = buffer.get_mut().unwrap();
                changed.set_pts(*time);
                changed.set_duration((index % 3 == 0).then_some(ms(33)));
                rig.push(buffer).unwrap();
            }
            rig.eos();
            let out = rig.take_buffers();
            let found: Vec<_> = out.iter().map(|buffer| (buffer.offset(), buffer.pts())).collect();
            let expected: Vec<_> = (0..).zip(times[..count].iter().copied()).collect();
            assert_eq!(found, expected);
            assert!(out.iter().all(|buffer| bytes(buffer)[0] == 11), "all are restored");
            assert_eq!(rig.errors(), []);
        }
    }
}

/// Caps change every few frames, to and fro, in the middle of windows and behind whole ones.
#[test]
fn caps_change_every_few_frames() {
    let kinds = [
        rgb(),
        info(VideoFormat::I420, 64, 48),
        info(VideoFormat::Nv12, 33, 17),
        info(VideoFormat::Bgra, 1, 1),
        info(VideoFormat::I42010le, 40, 22),
        info(VideoFormat::Gray8, 200, 8),
        info(VideoFormat::Yuy2, 48, 100),
    ];
    for overload in ["block", "bypass"] {
        let element = rig::element("brighter");
        element.set_property_from_str("overload", overload);
        element.set_property("scene-cut", 0.2);
        let rig = Rig::around(element);
        rig.play();
        rig.start(&kinds[0].to_caps().unwrap());
        rig.take();
        let mut expected = Vec::new();
        let mut index = 0;
        for (turn, kind) in kinds.iter().cycle().take(60).enumerate() {
            assert!(rig.event(gst::event::Caps::new(&kind.to_caps().unwrap())));
            for _ in 0..turn % 8 {
                rig.push(frame(kind, index)).unwrap();
                expected.push((index, kind.size(), turn));
                index += 1;
            }
        }
        rig.eos();
        let mut caps: Option<gst_video::VideoInfo> = Some(kinds[0].clone());
        let mut found = Vec::new();
        for out in rig.take() {
            match out {
                Out::Event(event) => {
                    if let gst::EventView::Caps(event) = event.view() {
                        caps = Some(gst_video::VideoInfo::from_caps(event.caps()).unwrap());
                    }
                }
                Out::Buffer(buffer) => {
                    let turn = expected[found.len()].2;
                    assert_eq!(
                        caps.as_ref(),
                        Some(&kinds[turn % kinds.len()]),
                        "frame {}",
                        buffer.offset()
                    );
                    found.push((buffer.offset(), buffer.size(), turn));
                }
            }
        }
        assert_eq!(found, expected);
        assert_eq!(rig.errors(), []);
        assert_eq!(rig.stat("frames-restored"), index);
    }
}

/// Frames of 8K that come as others do: restored one by one with a short window, or a pipeline refuses them; never a panic.
#[test]
fn frames_of_8k_live() {
    let kind = info(VideoFormat::I420, 7680, 4320);
    let element = rig::element("identity");
    element.set_property_from_str("overload", "bypass");
    element.set_property("scene-cut", 0.2);
    element.set_clock(Some(&gst::SystemClock::obtain())).unwrap();
    let rig = Rig::around(element);
    rig.on_upstream_query(|query| match query.view_mut() {
        gst::QueryViewMut::Latency(query) => {
            query.set(true, ClockTime::ZERO, ClockTime::NONE);
            true
        }
        _ => false,
    });
    rig.play();
    rig.start(&kind.to_caps().unwrap());
    rig.query_latency();
    let start = rig.element.clock().unwrap().time();
    rig.element.set_base_time(start);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let offsets = seen.clone();
    rig.on_buffer(move |buffer| {
        offsets.lock().unwrap().push((buffer.offset(), buffer.size()));
        Ok(gst::FlowSuccess::Ok)
    });
    let one = flat(&kind, 0, 90);
    for index in 0..7 {
        let mut buffer = one.copy();
        rig::stamp(buffer.make_mut(), index);
        rig.push(buffer).unwrap();
        rig.take();
    }
    rig.eos();
    assert_eq!(
        *seen.lock().unwrap(),
        (0..7).map(|index| (index, kind.size())).collect::<Vec<_>>()
    );
    assert_eq!(rig.stat("frames-restored") + rig.stat("frames-bypassed"), 7);
    assert_eq!(rig.errors(), []);
}

/// Segments that rates and bases change in the middle of windows.
#[test]
fn segments_change_rate_in_the_middle_of_windows() {
    let rig = Rig::new("brighter");
    rig.start(&rgb().to_caps().unwrap());
    rig.take();
    let rates = [1.0, 2.0, 0.5, -1.0, -1.0, 1.0, -3.0, 1.0];
    let mut index = 0;
    let mut expected = Vec::new();
    for (turn, rate) in rates.iter().enumerate() {
        assert!(rig.event(segment(*rate)));
        for _ in 0..turn + 2 {
            rig.push(flat(&rgb(), index, 10)).unwrap();
            expected.push((index, if *rate > 0.0 { 11 } else { 10 }));
            index += 1;
        }
    }
    assert!(rig.event(time_segment()));
    let found: Vec<_> = rig.take_buffers().iter().map(|b| (b.offset(), bytes(b)[0])).collect();
    assert_eq!(found, expected);
}
