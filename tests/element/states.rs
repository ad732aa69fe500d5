// SPDX-License-Identifier: MPL-2.0

//! Every way up and down, in the middle of a run too; several elements at once; prompt ends.

use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gst::State;
use gst::prelude::*;
use gst_video::VideoFormat;
use gstdvface::bundle::Bundle;
use gstdvface::runtime::{self, Provider, ProviderOptions, SessionCache};

use crate::rig::{self, Rig, assert_brighter, bytes, flat, frame, rgb, time_segment, wait_for};

/// Longest time for an end in the middle of a run, which takes a second.
const PROMPT: Duration = Duration::from_millis(100);

/// The machine of the tests may be busy. What the element waits for it waits for each time; what the scheduler adds it does not.
const TRIES: usize = 3;

/// The right to use the bundle `slow`, whose sessions are loaded and warm, and stay so.
fn slow() -> MutexGuard<'static, gst::Element> {
    static WARM: LazyLock<Mutex<gst::Element>> = LazyLock::new(|| {
        let rig = Rig::around(rig::element("slow"));
        // With a live source the warm-up is over when the element has started.
        rig.on_upstream_query(rig::live_upstream);
        rig.play();
        let element = rig.element.clone();
        // For as long as the process lives.
        std::mem::forget(rig);
        Mutex::new(element)
    });
    WARM.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Pushes a window of frames in a thread, and returns in the middle of its run. The thread gives the last result.
fn start_run(rig: &Rig) -> JoinHandle<Result<gst::FlowSuccess, gst::FlowError>> {
    let before = rig.stat("frames-in");
    let src = rig.src.clone();
    let thread = std::thread::spawn(move || {
        (0..4).try_for_each(|index| src.push(flat(&rgb(), index, 10)).map(|_| ()))?;
        src.push(flat(&rgb(), 4, 10))
    });
    wait_for("five frames", || rig.stat("frames-in") == before + 5);
    std::thread::sleep(Duration::from_millis(60));
    thread
}

/// Measures until it is prompt, some times at most.
#[track_caller]
fn assert_prompt(what: &str, mut measure: impl FnMut() -> Duration) {
    let mut times = Vec::new();
    while times.len() < TRIES && times.last().is_none_or(|time| *time >= PROMPT) {
        times.push(measure());
    }
    println!("{what}: {times:.1?}");
    assert!(*times.last().unwrap() < PROMPT, "{what} takes {times:?}");
}

#[test]
fn every_sequence_of_states() {
    let states = [State::Null, State::Ready, State::Paused, State::Playing];
    // Another element keeps the sessions.
    let _keep = Rig::new("brighter");
    let rig = Rig::around(rig::element("brighter"));
    let mut sequences: Vec<Vec<State>> = vec![vec![]];
    for _ in 0..5 {
        sequences = sequences
            .into_iter()
            .flat_map(|sequence| {
                let last = sequence.last().copied().unwrap_or(State::Null);
                states.iter().filter(move |state| **state != last).map(move |state| {
                    let mut longer = sequence.clone();
                    longer.push(*state);
                    longer
                })
            })
            .collect();
    }
    assert_eq!(sequences.len(), 243);
    for sequence in sequences {
        let mut streaming = false;
        for state in &sequence {
            rig.element.set_state(*state).unwrap();
            if *state < State::Paused {
                streaming = false;
                continue;
            }
            if !streaming {
                streaming = true;
                rig.start(&rgb().to_caps().unwrap());
                rig.take();
            }
            // Leaves frames in the window.
            rig.push_all((0..3).map(|index| frame(&rgb(), index)));
        }
        rig.element.set_state(State::Null).unwrap();
        rig.play();
        rig.start(&rgb().to_caps().unwrap());
        rig.take();
        rig.push_all((0..6).map(|index| frame(&rgb(), index)));
        rig.eos();
        assert_brighter(&rgb(), &rig.take_buffers(), 0, 6);
        rig.element.set_state(State::Null).unwrap();
        assert_eq!(rig.errors(), [], "{sequence:?}");
    }
}

#[test]
fn thirty_times_from_null_to_playing() {
    let rig = Rig::around(rig::element("brighter"));
    for _ in 0..30 {
        rig.play();
        rig.start(&rgb().to_caps().unwrap());
        rig.push_all((0..6).map(|index| frame(&rgb(), index)));
        rig.eos();
        assert_brighter(&rgb(), &rig.take_buffers(), 0, 6);
        rig.element.set_state(State::Null).unwrap();
    }
    assert_eq!(rig.errors(), []);
}

#[test]
fn every_way_down_and_up_in_the_middle_of_a_run() {
    let _turn = slow();
    let downs = [State::Null, State::Ready];
    let ups = [State::Paused, State::Playing];
    let rig = Rig::around(rig::element("slow"));
    for first in ups {
        for pause in [None, Some(State::Paused), Some(State::Playing)] {
            for down in downs {
                assert_prompt(&format!("{first:?} {pause:?} {down:?}"), || {
                    rig.element.set_state(first).unwrap();
                    rig.start(&rgb().to_caps().unwrap());
                    let run = start_run(&rig);
                    rig.take();
                    if let Some(state) = pause {
                        rig.element.set_state(state).unwrap();
                    }
                    let start = Instant::now();
                    rig.element.set_state(down).unwrap();
                    assert_eq!(run.join().unwrap(), Err(gst::FlowError::Flushing));
                    assert!(rig.take_buffers().is_empty());
                    start.elapsed()
                });
            }
        }
    }
    // And it still works.
    rig.play();
    rig.start(&rgb().to_caps().unwrap());
    assert!(start_run(&rig).join().unwrap().is_ok());
    rig.eos();
    let out = rig.take_buffers();
    assert_eq!(out.len(), 5);
    assert!(out.iter().all(|buffer| bytes(buffer)[0] == 11));
    assert_eq!(rig.errors(), []);
}

#[test]
fn a_flush_ends_a_run_at_once() {
    let _turn = slow();
    let rig = Rig::around(rig::element("slow"));
    rig.play();
    rig.start(&rgb().to_caps().unwrap());
    for _ in 0..3 {
        assert_prompt("flush", || {
            let run = start_run(&rig);
            let start = Instant::now();
            assert!(rig.event(gst::event::FlushStart::new()));
            assert_eq!(run.join().unwrap(), Err(gst::FlowError::Flushing));
            assert!(rig.event(gst::event::FlushStop::new(true)));
            let time = start.elapsed();
            assert!(rig.event(time_segment()));
            assert!(rig.take_buffers().is_empty(), "nothing stale");
            time
        });
    }
    // While the tail of a stream is restored, too.
    let windows = rig.stat("windows");
    assert_prompt("flush at the end of a stream", || {
        rig.push_all((0..2).map(|index| flat(&rgb(), index, 10)));
        let ending = {
            let src = rig.src.clone();
            std::thread::spawn(move || src.push_event(gst::event::Eos::new()))
        };
        std::thread::sleep(Duration::from_millis(100));
        let start = Instant::now();
        assert!(rig.event(gst::event::FlushStart::new()));
        ending.join().unwrap();
        assert!(rig.event(gst::event::FlushStop::new(true)));
        let time = start.elapsed();
        assert!(rig.event(time_segment()));
        time
    });
    assert_eq!(rig.stat("windows"), windows);
    rig.take();

    rig.push_all((0..2).map(|index| flat(&rgb(), index, 10)));
    rig.eos();
    let out = rig.take_buffers();
    assert_eq!(out.len(), 2);
    assert!(out.iter().all(|buffer| bytes(buffer)[0] == 11));
    assert_eq!(rig.errors(), []);
}

#[test]
fn a_flush_while_another_element_has_the_session() {
    let _turn = slow();
    let (busy, waiting) = (Rig::around(rig::element("slow")), Rig::around(rig::element("slow")));
    for rig in [&busy, &waiting] {
        rig.play();
        rig.start(&rgb().to_caps().unwrap());
    }
    assert_prompt("flush while waiting", || {
        let first = start_run(&busy);
        let second = start_run(&waiting);
        let start = Instant::now();
        assert!(waiting.event(gst::event::FlushStart::new()));
        assert_eq!(second.join().unwrap(), Err(gst::FlowError::Flushing));
        assert!(waiting.event(gst::event::FlushStop::new(true)));
        let time = start.elapsed();
        // The other's run is its own.
        assert!(first.join().unwrap().is_ok());
        busy.eos();
        assert_eq!(busy.take_buffers().len(), 5);
        busy.start(&rgb().to_caps().unwrap());
        assert!(waiting.event(time_segment()));
        time
    });

    // The same with a way down.
    assert_prompt("NULL while waiting", || {
        waiting.play();
        waiting.start(&rgb().to_caps().unwrap());
        busy.play();
        busy.start(&rgb().to_caps().unwrap());
        let first = start_run(&busy);
        let second = start_run(&waiting);
        let start = Instant::now();
        waiting.element.set_state(State::Null).unwrap();
        assert_eq!(second.join().unwrap(), Err(gst::FlowError::Flushing));
        let time = start.elapsed();
        busy.element.set_state(State::Null).unwrap();
        assert_eq!(first.join().unwrap(), Err(gst::FlowError::Flushing));
        time
    });
}

/// What an end waits for is the operator that runs: those of the bundle that comes with the plugin are short enough.
#[test]
fn a_run_of_the_shipped_bundle_ends_at_once() {
    let element = || {
        let element = rig::element("brighter");
        element.set_property("model", rig::SHIPPED);
        element
    };
    let keeps = rig::Kept(element());
    keeps.0.set_state(State::Paused).unwrap();
    let rig = Rig::around(element());
    let frames = rig::info(VideoFormat::Rgb, 512, 512);
    // Somewhere in the run, which takes a second on one core.
    let mut delays = (0..).map(|index: u64| Duration::from_millis(20 + index * 370 % 400));
    let mut start_run = || {
        let (src, info, before) = (rig.src.clone(), frames.clone(), rig.stat("frames-in"));
        let thread =
            std::thread::spawn(move || (0..17).try_for_each(|index| src.push(flat(&info, index, 10)).map(|_| ())));
        wait_for("a window", || rig.stat("frames-in") == before + 17);
        std::thread::sleep(delays.next().unwrap());
        thread
    };
    rig.play();
    rig.start(&frames.to_caps().unwrap());
    for _ in 0..4 {
        assert_prompt("flush", || {
            let run = start_run();
            let start = Instant::now();
            assert!(rig.event(gst::event::FlushStart::new()));
            assert_eq!(run.join().unwrap(), Err(gst::FlowError::Flushing));
            let time = start.elapsed();
            assert!(rig.event(gst::event::FlushStop::new(true)));
            assert!(rig.event(time_segment()));
            time
        });
    }
    for _ in 0..2 {
        assert_prompt("PLAYING to NULL", || {
            rig.play();
            rig.start(&frames.to_caps().unwrap());
            let run = start_run();
            let start = Instant::now();
            rig.element.set_state(State::Null).unwrap();
            assert_eq!(run.join().unwrap(), Err(gst::FlowError::Flushing));
            start.elapsed()
        });
    }
    // Giving the memory of the graphs back, which the last element of a bundle does, is ONNX Runtime's time.
    let start = Instant::now();
    keeps.0.set_state(State::Null).unwrap();
    println!("the sessions end: {:.1?}", start.elapsed());
}

/// The element does not keep a state change or a query waiting while it runs.
#[test]
fn a_run_holds_no_lock() {
    let _turn = slow();
    let rig = Rig::around(rig::element("slow"));
    rig.play();
    rig.start(&rgb().to_caps().unwrap());
    let run = start_run(&rig);
    assert_prompt("queries, properties and events", || {
        let start = Instant::now();
        rig.query_latency();
        rig.element.set_property("strength", 0.9);
        let _ = rig.element.property::<f64>("strength");
        let _ = rig.element.property::<gst::Structure>("stats");
        let _ = rig.element.property::<Option<String>>("active-provider");
        let _ = rig.src.peer_query_caps(None);
        let _ = rig.element.query_position::<gst::ClockTime>();
        rig.element.set_state(State::Paused).unwrap();
        rig.element.set_state(State::Playing).unwrap();
        assert!(rig.sink.push_event(gst::event::Reconfigure::new()));
        start.elapsed()
    });
    rig.element.set_state(State::Null).unwrap();
    let _ = run.join().unwrap();
}

/// A sink that prerolls keeps the streaming thread in its push for as long as the pipeline is paused.
#[test]
fn a_paused_pipeline_tells_its_position() {
    let element = rig::element("brighter");
    let pipeline = gst::Pipeline::new();
    let make = |name: &str| gst::ElementFactory::make(name).build().unwrap();
    let (source, sink) = (make("videotestsrc"), make("fakesink"));
    source.set_property("num-buffers", 12);
    pipeline.add_many([&source, &element, &sink]).unwrap();
    source.link_filtered(&element, &rgb().to_caps().unwrap()).unwrap();
    element.link(&sink).unwrap();
    pipeline.set_state(State::Paused).unwrap();
    pipeline.state(gst::ClockTime::from_seconds(20)).0.unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || tell.send(element.query_position::<gst::ClockTime>()));
    let position = told.recv_timeout(Duration::from_secs(20));
    pipeline.set_state(State::Null).unwrap();
    assert_eq!(
        position,
        Ok(Some(rig::FRAME)),
        "the end of the frame that the sink holds"
    );
}

/// Flushing seeks of a pipeline, playing and paused, and in the middle of a run.
#[test]
fn flushing_seeks() {
    let _turn = slow();
    for (model, seeks, pause) in [("brighter", 40, 7), ("slow", 8, 60)] {
        let pipeline = gst::Pipeline::new();
        let element = rig::element(model);
        let make = |name: &str| gst::ElementFactory::make(name).build().unwrap();
        let (source, queue, sink) = (make("videotestsrc"), make("queue"), make("fakesink"));
        source.set_property("num-buffers", 12);
        sink.set_property("sync", model == "brighter");
        pipeline.add_many([&source, &element, &queue, &sink]).unwrap();
        source.link_filtered(&element, &rgb().to_caps().unwrap()).unwrap();
        gst::Element::link_many([&element, &queue, &sink]).unwrap();
        pipeline.set_state(State::Paused).unwrap();
        for seek in 0..seeks {
            if seek % 4 == 2 {
                pipeline.set_state(State::Playing).unwrap();
            } else if seek % 4 == 0 {
                pipeline.set_state(State::Paused).unwrap();
            }
            let seek = || {
                let start = Instant::now();
                let position = rig::FRAME * (seek % 5);
                pipeline
                    .seek_simple(gst::SeekFlags::FLUSH | gst::SeekFlags::ACCURATE, position)
                    .unwrap();
                let time = start.elapsed();
                std::thread::sleep(Duration::from_millis(pause));
                time
            };
            assert_prompt("seek", seek);
        }
        if model == "brighter" {
            pipeline.set_state(State::Playing).unwrap();
            let message = pipeline
                .bus()
                .unwrap()
                .timed_pop_filtered(
                    gst::ClockTime::from_seconds(20),
                    &[gst::MessageType::Eos, gst::MessageType::Error],
                )
                .expect("the end of the stream");
            assert_eq!(message.type_(), gst::MessageType::Eos, "{message:?}");
        }
        assert_prompt("NULL", || {
            pipeline.set_state(State::Playing).unwrap();
            std::thread::sleep(Duration::from_millis(pause));
            let start = Instant::now();
            pipeline.set_state(State::Null).unwrap();
            start.elapsed()
        });
    }
}

#[test]
fn two_elements_in_two_threads() {
    let threads: Vec<_> = (0..2)
        .map(|_| {
            std::thread::spawn(|| {
                for _ in 0..3 {
                    let rig = Rig::new("brighter");
                    rig.start(&rgb().to_caps().unwrap());
                    rig.push_all((0..60).map(|index| frame(&rgb(), index)));
                    rig.eos();
                    assert_brighter(&rgb(), &rig.take_buffers(), 0, 60);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn two_elements_in_a_row() {
    let bin = gst::Bin::new();
    let elements = [rig::element("brighter"), rig::element("brighter-f16")];
    bin.add_many(&elements).unwrap();
    gst::Element::link_many(&elements).unwrap();
    for (element, name) in [(&elements[0], "sink"), (&elements[1], "src")] {
        let pad = gst::GhostPad::with_target(&element.static_pad(name).unwrap()).unwrap();
        bin.add_pad(&pad).unwrap();
    }
    let rig = Rig::around(bin.upcast());
    rig.play();
    rig.start(&rgb().to_caps().unwrap());
    rig.push_all((0..12).map(|index| frame(&rgb(), index)));
    rig.eos();
    let out = rig.take_buffers();
    assert_eq!(out.len(), 12);
    for (index, buffer) in out.iter().enumerate() {
        let twice: Vec<u8> = bytes(&frame(&rgb(), index as u64))
            .iter()
            .map(|value| value + 2)
            .collect();
        assert_eq!(bytes(buffer), twice);
    }
    // A bin adds up what is live.
    rig.on_upstream_query(|query| match query.view_mut() {
        gst::QueryViewMut::Latency(query) => {
            query.set(true, gst::ClockTime::ZERO, gst::ClockTime::NONE);
            true
        }
        _ => false,
    });
    let both = rig.query_latency().1;
    assert!(both >= rig::FRAME * 8, "the latencies add up: {both}");
}

#[test]
fn elements_share_their_sessions_and_let_go_of_them() {
    let cache = tempfile::tempdir().unwrap();
    crate::init();
    let environment = runtime::environment(&crate::runtime_library()).unwrap();
    let bundle = Bundle::open(crate::bundle("external").as_ref()).unwrap();
    let options = ProviderOptions {
        threads: 1,
        ..ProviderOptions::new(Provider::Cpu)
    };
    let sessions = SessionCache::open(&environment, &bundle, &options).unwrap();
    assert_eq!(Arc::strong_count(&sessions), 1);
    let rigs: Vec<_> = (0..3)
        .map(|number: u32| {
            let element = rig::element("external");
            // What only a GPU uses parts nobody on the CPU.
            element.set_property("engine-cache", cache.path().join(number.to_string()).to_str().unwrap());
            element.set_property("device-id", number);
            let rig = Rig::around(element);
            rig.play();
            rig
        })
        .collect();
    assert_eq!(Arc::strong_count(&sessions), 4, "all have the same");
    for rig in &rigs {
        rig.element.set_state(State::Ready).unwrap();
    }
    assert_eq!(Arc::strong_count(&sessions), 1, "none keeps them");
    let other = ProviderOptions {
        threads: 2,
        ..options.clone()
    };
    let others = SessionCache::open(&environment, &bundle, &other).unwrap();
    assert!(!Arc::ptr_eq(&sessions, &others), "other options, other sessions");
    let again = SessionCache::open(&environment, &bundle, &options).unwrap();
    assert!(Arc::ptr_eq(&sessions, &again));
}

/// The second element of a bundle does not load and measure again.
#[test]
fn a_second_element_starts_at_once() {
    let _turn = slow();
    assert_prompt("start with warm sessions", || {
        let rig = Rig::around(rig::element("slow"));
        let start = Instant::now();
        rig.play();
        start.elapsed()
    });
}

#[test]
fn an_element_that_was_never_started_is_let_go() {
    for state in [State::Null, State::Ready] {
        let rig = Rig::around(rig::element("brighter"));
        rig.element.set_state(state).unwrap();
        assert!(rig.event(gst::event::FlushStart::new()) || state < State::Paused);
        let weak = rig.element.downgrade();
        drop(rig);
        assert!(weak.upgrade().is_none());
    }
}
