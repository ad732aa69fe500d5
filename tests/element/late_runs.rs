// SPDX-License-Identifier: MPL-2.0

//! Live, and a run or a push takes longer than expected: it is ended in time, told, and the latency follows.

use std::time::Duration;

use gst::ClockTime;
use gst::prelude::*;
use gstdvface::restorer::faults::{self, Fault};

use crate::overload::{IN_TIME, LATE, Live, assert_frames, set_time};
use crate::rig::{FRAME, flat, rgb, time_segment};

/// A burst that downstream takes slowly makes the next window late: one warning that says what helps.
#[test]
fn blocked_pushes_that_cost_the_deadline_are_told_once() {
    for (blocks, overload) in [(true, "bypass"), (true, "block"), (false, "bypass")] {
        let live = Live::with("brighter", overload, |element| {
            // So that blocking costs it.
            element.set_property("processing-deadline", 60_000_000u64);
        });
        live.0.on_buffer(move |_| {
            if blocks {
                std::thread::sleep(Duration::from_millis(150));
            }
            Ok(gst::FlowSuccess::Ok)
        });
        let mut warnings = Vec::new();
        for index in 0..20 {
            // What arrives while a window is pushed has waited; the clock says how long.
            let late = if index % 4 == 0 && index > 4 {
                ClockTime::from_mseconds(if blocks { 300 } else { 3000 })
            } else {
                IN_TIME
            };
            live.frame(index, late);
            warnings.extend(live.0.messages(&[gst::MessageType::Warning]));
        }
        let texts: Vec<String> = warnings
            .iter()
            .map(|message| match message.view() {
                gst::MessageView::Warning(warning) => warning.error().message().to_string(),
                _ => unreachable!(),
            })
            .collect();
        assert_eq!(texts.len(), usize::from(blocks), "{overload}: {texts:?}");
        assert!(
            texts.iter().all(|text| text.contains("put a queue behind")),
            "{texts:?}"
        );
    }
}

/// A run that is expected to be in time and is not makes the latency longer, and says so; one alone does not.
#[test]
fn longer_runs_change_the_latency_and_one_long_run_does_not() {
    let live = Live::with("brighter", "block", |element| {
        // Sessions of its own, and so a warm-up without faults.
        element.set_property("processing-deadline", 0u64);
        element.set_property("num-threads", 3u32);
    });
    let own = live.0.query_latency().1;
    let runs = std::cell::Cell::new(0);
    faults::set(move || {
        runs.set(runs.get() + 1);
        [2, 5, 6]
            .contains(&runs.get())
            .then_some(Fault::Slow(Duration::from_millis(700)))
    });
    let mut latencies = Vec::new();
    for index in 0..=4 * 6 {
        live.frame(index, IN_TIME);
        if index > 0 && index % 4 == 0 {
            latencies.push((
                live.0.messages(&[gst::MessageType::Latency]).len(),
                live.0.query_latency().1 >= own + ClockTime::from_mseconds(500),
            ));
        }
    }
    faults::clear();
    assert!(
        own < ClockTime::from_mseconds(160 + 600),
        "a short run was measured: {own}"
    );
    let told: Vec<bool> = latencies.iter().map(|(_, longer)| *longer).collect();
    assert_eq!(told, [false, false, false, false, true, true]);
    assert_eq!(latencies[4].0, 1, "it is told");
}

/// What nobody could foresee: a run that takes too long is ended when its first frame has to leave, and its frames leave.
#[test]
fn a_run_that_turns_out_late_is_ended_in_time() {
    let live = Live::new("blend", "bypass");
    for index in 0..7 {
        live.frame(index, IN_TIME);
    }
    faults::set(|| Some(Fault::Slow(Duration::from_secs(20))));
    let start = std::time::Instant::now();
    let out = live.frame(7, IN_TIME);
    let took = start.elapsed();
    faults::clear();
    // Frame 3 has 160 ms and the deadline from its own time on; frame 7 came 160 ms after that.
    println!("ended after {took:?}");
    assert!(took >= Duration::from_millis(390), "not before it is late: {took:?}");
    assert!(took < Duration::from_millis(390 + 500), "{took:?}");
    assert_frames(&out, 3, &[20, 13, 0, 0, 0]);
    assert_eq!(live.told().len(), 3);
    // Its reason is gone with it, and one such run is no rule: after the pause all is as before.
    for index in 8..13 {
        assert_frames(&live.frame(index, IN_TIME), index, &[0]);
    }
    for index in 13..24 {
        live.frame(index, IN_TIME);
    }
    live.0.eos();
    assert_eq!(live.counts(), [24, 24, 5 + 11, 3 + 5]);
    assert!(
        live.0
            .messages(&[gst::MessageType::Latency, gst::MessageType::Warning])
            .is_empty()
    );
}

#[test]
fn block_ends_no_run() {
    let live = Live::new("brighter", "block");
    faults::set(|| Some(Fault::Slow(Duration::from_millis(700))));
    for index in 0..5 {
        live.frame(index, IN_TIME);
    }
    faults::clear();
    assert_eq!(live.counts(), [5, 4, 4, 0]);
}

/// A flush in a run that is about to be ended, again and again around that moment: nothing stale, and the next run goes on.
#[test]
fn flushes_around_the_limit() {
    let live = Live::with("brighter", "bypass", |element| {
        element.set_property("processing-deadline", 30_000_000u64);
    });
    for turn in 0..40u64 {
        faults::set(|| Some(Fault::Slow(Duration::from_secs(20))));
        for index in 0..4 {
            live.frame(index, IN_TIME);
        }
        let flushing = {
            let src = live.0.src.clone();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(20 + turn));
                src.push_event(gst::event::FlushStart::new());
            })
        };
        set_time(&live.0.element, FRAME * 4 + IN_TIME);
        let _ = live.0.push(flat(&rgb(), 4, 0));
        flushing.join().unwrap();
        faults::clear();
        live.0.event(gst::event::FlushStop::new(true));
        live.0.event(time_segment());
        live.0.take();
        // In block mode nothing but the run itself decides.
        live.0.element.set_property_from_str("overload", "block");
        let mut out = Vec::new();
        for index in 0..6 {
            out.extend(live.frame(index, LATE));
        }
        live.0.eos();
        out.extend(live.0.take_buffers());
        assert_frames(&out[2..], 2, &[1; 4]);
        live.0.event(gst::event::FlushStart::new());
        live.0.event(gst::event::FlushStop::new(true));
        live.0.event(time_segment());
        live.0.element.set_property_from_str("overload", "bypass");
    }
    assert_eq!(live.0.errors(), []);
}

/// Windows that take longer than was measured at the start are ended at first; then the latency allows them, and they are restored.
#[test]
fn the_latency_follows_what_windows_take() {
    let live = Live::with("brighter", "bypass", |element| {
        element.set_property("processing-deadline", 0u64);
        element.set_property("num-threads", 4u32);
    });
    let own = live.0.query_latency().1;
    faults::set(|| Some(Fault::Slow(Duration::from_millis(90))));
    let mut frames = 0;
    for index in 0..1000 {
        live.frame(index, IN_TIME);
        frames = index + 1;
        if live.0.stat("windows") >= 3 {
            break;
        }
    }
    faults::clear();
    live.0.eos();
    let longer = live.0.query_latency().1;
    println!("{own} at first, {longer} after {frames} frames");
    assert!(live.0.stat("windows") >= 3, "it never catches up");
    assert!(longer > own, "{own} {longer}");
    // Four frames of look-ahead, and no more than what is allowed for the four frames between two windows.
    let most = FRAME * 4 + FRAME * 5 + ClockTime::from_mseconds(10);
    assert!(longer <= most || own > most, "{longer}");
    assert_eq!(live.counts()[..2], [frames, frames]);
    assert!(!live.0.messages(&[gst::MessageType::Latency]).is_empty());
}
