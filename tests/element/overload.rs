// SPDX-License-Identifier: MPL-2.0

//! Live and late: with `overload=bypass` frames go on unrestored, in order, at once, and fade; with `block` never.
//!
//! The clock is the system's. A test says what time it is by moving the base time, so nothing depends on how fast the machine
//! is: there are hundreds of milliseconds between what is in time and what is late.

use gst::ClockTime;
use gst::prelude::*;
use gstdvface::restorer::faults;

use crate::rig::{self, FRAME, Out, Rig, bytes, flat, frame, labels, rgb, time_segment, window_parts};

/// Time for a window, in the latency answer. The bundles take a few milliseconds.
const DEADLINE: ClockTime = ClockTime::from_mseconds(400);

/// Frames that fade, and the first pause: a window.
const FADE: usize = 4;
const PAUSE: u64 = 5;

/// An element that plays behind a live source.
pub struct Live(pub Rig);

impl Live {
    pub fn new(model: &str, overload: &str) -> Self {
        Self::with(model, overload, |_| ())
    }

    pub fn with(model: &str, overload: &str, change: impl FnOnce(&gst::Element)) -> Self {
        let element = rig::element(model);
        element.set_property_from_str("overload", overload);
        element.set_property("processing-deadline", DEADLINE.nseconds());
        change(&element);
        element.set_clock(Some(&gst::SystemClock::obtain())).unwrap();
        let rig = Rig::around(element);
        rig.play();
        let live = Self(rig);
        live.upstream(true);
        live.0.start(&rgb().to_caps().unwrap());
        live.0.query_latency();
        live.0.messages(&[]);
        live.0.take();
        live
    }

    fn upstream(&self, is_live: bool) {
        self.0.on_upstream_query(move |query| match query.view_mut() {
            gst::QueryViewMut::Latency(query) => {
                query.set(is_live, ClockTime::ZERO, ClockTime::NONE);
                true
            }
            _ => false,
        });
    }

    /// Frame `index` arrives `late` after its time. Gives what comes out.
    pub fn frame(&self, index: u64, late: ClockTime) -> Vec<gst::Buffer> {
        self.buffer(flat(&rgb(), index, 0), late)
    }

    fn buffer(&self, buffer: gst::Buffer, late: ClockTime) -> Vec<gst::Buffer> {
        set_time(&self.0.element, buffer.pts().unwrap() + late);
        self.0.push(buffer).unwrap();
        self.0.take_buffers()
    }

    /// Running times of the frames of QoS messages since the last call.
    pub fn told(&self) -> Vec<Option<ClockTime>> {
        let messages = self.0.messages(&[gst::MessageType::Qos]);
        let running_time = |message: &gst::Message| match message.view() {
            gst::MessageView::Qos(qos) => qos.running_time(),
            _ => unreachable!(),
        };
        messages.iter().map(running_time).collect()
    }

    pub fn counts(&self) -> [u64; 4] {
        ["frames-in", "frames-out", "frames-restored", "frames-bypassed"].map(|name| self.0.stat(name))
    }
}

/// Makes it `now` in running time.
pub fn set_time(element: &gst::Element, now: ClockTime) {
    let clock = element.clock().unwrap();
    element.set_base_time(clock.time() - now);
}

pub const IN_TIME: ClockTime = ClockTime::from_mseconds(5);
pub const LATE: ClockTime = ClockTime::from_seconds(3);

#[track_caller]
pub fn assert_frames(out: &[gst::Buffer], first: u64, values: &[u8]) {
    let found: Vec<(u64, Option<ClockTime>, u8)> = out
        .iter()
        .map(|buffer| (buffer.offset(), buffer.pts(), bytes(buffer)[0]))
        .collect();
    let expected: Vec<_> = values
        .iter()
        .zip(first..)
        .map(|(value, index)| (index, Some(FRAME * index), *value))
        .collect();
    assert_eq!(found, expected);
}

/// What `blend` makes of `count` black frames, with a share for each.
fn blend(count: usize, share: impl Fn(usize) -> f64) -> Vec<u8> {
    window_parts(count, 5, 2)
        .into_iter()
        .enumerate()
        .map(|(index, (old, new, weight))| {
            let new = 10.0 * new as f64;
            let change = old.map_or(new, |old| 10.0 * old as f64 * (1.0 - weight) + new * weight);
            (change.round() * share(index)).round() as u8
        })
        .collect()
}

#[test]
fn in_time_every_frame_is_restored() {
    for overload in ["block", "bypass"] {
        let live = Live::new("brighter", overload);
        let mut out = Vec::new();
        for index in 0..30 {
            out.extend(live.frame(index, IN_TIME));
        }
        live.0.eos();
        out.extend(live.0.take_buffers());
        assert_frames(&out, 0, &[1; 30]);
        assert!(live.told().is_empty());
        assert_eq!(live.counts(), [30, 30, 30, 0]);
    }
}

/// The frames of a late window go on at once, those after it as they come, until a pause is over and there is room.
#[test]
fn a_late_window_is_bypassed_and_restoring_comes_back() {
    let live = Live::new("blend", "bypass");
    for index in 0..4 {
        assert!(live.frame(index, IN_TIME).is_empty(), "they wait for the window");
    }
    assert_frames(&live.frame(4, LATE), 0, &[0; 5]);
    assert_eq!(live.0.stat("windows"), 0);
    assert_eq!(live.told(), (0..5).map(|index| Some(FRAME * index)).collect::<Vec<_>>());
    // The pause, and then still late, and then no more.
    let mut next = 5;
    for late in [LATE; PAUSE as usize + 3] {
        assert_frames(&live.frame(next, late), next, &[0]);
        assert_eq!(live.told(), [Some(FRAME * next)]);
        next += 1;
    }
    let first = next;
    let mut out = Vec::new();
    for _ in 0..11 {
        out.extend(live.frame(next, IN_TIME));
        next += 1;
    }
    live.0.eos();
    out.extend(live.0.take_buffers());
    assert_frames(
        &out,
        first,
        &blend(11, |index| ((index + 1) as f64 / (FADE + 1) as f64).min(1.0)),
    );
    assert!(live.told().is_empty());
    assert_eq!(live.counts(), [24, 24, 11, 13]);
}

/// A window has been restored, and the next one is late: the frames that the first one still holds fade.
#[test]
fn what_is_held_fades_before_unrestored_frames() {
    let live = Live::new("blend", "bypass");
    let mut out = Vec::new();
    for index in 0..7 {
        out.extend(live.frame(index, IN_TIME));
    }
    assert_frames(&out, 0, &[0, 10, 20]);
    // Frames 3 and 4 were the last two of the window, with 30 and 40.
    assert_frames(&live.frame(7, LATE), 3, &[20, 13, 0, 0, 0]);
    assert_eq!(live.counts(), [8, 8, 5, 3]);
    assert_eq!(live.told().len(), 3);
}

/// While a window runs it becomes certain that the next one is late: the window's own frames fade, and nothing is held.
#[test]
fn a_window_fades_where_the_next_one_is_known_to_be_late() {
    let live = Live::new("blend", "bypass");
    let element = live.0.element.clone();
    let mut out = Vec::new();
    for index in 0..4 {
        out.extend(live.frame(index, IN_TIME));
    }
    faults::set(move || {
        set_time(&element, FRAME * 4 + LATE);
        None
    });
    out.extend(live.frame(4, IN_TIME));
    faults::clear();
    // 0, 10, 20, 30, 40 with four fifths and so on of the strength.
    assert_frames(&out, 0, &[0, 8, 12, 12, 8]);
    assert!(live.told().is_empty(), "all of them are restored");
    assert_frames(&live.frame(5, LATE), 5, &[0]);
    assert_eq!(live.counts(), [6, 6, 5, 1]);
    // It has fallen behind and lost nothing: as soon as there is room it begins again, without a pause.
    let mut out = Vec::new();
    for index in 6..11 {
        out.extend(live.frame(index, IN_TIME));
    }
    // 0, 10 and 20 with a fifth, two and three fifths of the strength.
    assert_frames(&out, 6, &[0, 4, 12]);
    assert_eq!(live.counts(), [11, 9, 8, 1]);
}

#[test]
fn block_skips_nothing_however_late() {
    let live = Live::new("brighter", "block");
    let mut out = Vec::new();
    for index in 0..30 {
        out.extend(live.frame(index, if index < 7 { IN_TIME } else { LATE }));
    }
    live.0.eos();
    out.extend(live.0.take_buffers());
    assert_frames(&out, 0, &[1; 30]);
    assert!(live.told().is_empty());
    assert_eq!(live.counts(), [30, 30, 30, 0]);
}

#[test]
fn what_is_not_live_is_never_late() {
    let live = Live::new("brighter", "bypass");
    live.upstream(false);
    live.0.query_latency();
    let mut out = Vec::new();
    for index in 0..30 {
        out.extend(live.frame(index, LATE));
    }
    live.0.eos();
    out.extend(live.0.take_buffers());
    assert_frames(&out, 0, &[1; 30]);
    assert_eq!(live.counts(), [30, 30, 30, 0]);
}

/// The end of a run is held to its time like any window; every frame comes before what ended it.
#[test]
fn a_late_end_of_a_run_is_bypassed() {
    type End = fn(&Rig) -> gst::Event;
    let ends: [(&str, End); 4] = [
        ("eos", |_| gst::event::Eos::new()),
        ("segment", |_| time_segment()),
        ("caps", |_| {
            let mut caps = rgb().to_caps().unwrap();
            caps.get_mut().unwrap().set("framerate", gst::Fraction::new(30, 1));
            gst::event::Caps::new(&caps)
        }),
        ("gap", |_| gst::event::Gap::builder(ClockTime::SECOND).build()),
    ];
    for (name, end) in ends {
        let live = Live::new("brighter", "bypass");
        for index in 0..3 {
            assert!(live.frame(index, IN_TIME).is_empty());
        }
        set_time(&live.0.element, FRAME * 2 + LATE);
        assert!(live.0.event(end(&live.0)));
        let out = live.0.take();
        assert_eq!(labels(&out), ["0", "1", "2", name]);
        let out: Vec<_> = out.into_iter().filter_map(Out::buffer).collect();
        assert_frames(&out, 0, &[0; 3]);
        assert_eq!(live.counts(), [3, 3, 0, 3], "{name}");
    }
}

/// A sink that says that frames come too late is believed; its event goes on upstream.
#[test]
fn a_late_sink_makes_windows_bypassed() {
    let live = Live::new("brighter", "bypass");
    let (sender, seen) = std::sync::mpsc::channel();
    live.0.src.add_probe(gst::PadProbeType::EVENT_UPSTREAM, move |_, info| {
        if let Some(event) = info.event() {
            sender.send(event.type_()).unwrap();
        }
        gst::PadProbeReturn::Ok
    });
    let tell = |late: i64, running_time: ClockTime| {
        let kind = gst::QOSType::Underflow;
        live.0
            .sink
            .push_event(gst::event::Qos::new(kind, 1.2, late, running_time));
    };
    // As little as this is no delay.
    tell(15_000_000, FRAME * 2);
    for index in 0..4 {
        live.frame(index, IN_TIME);
    }
    assert_frames(&live.frame(4, IN_TIME), 0, &[1; 4]);
    // 100 ms late at frame 4: so are frames up to 200 ms after it.
    tell(100_000_000, FRAME * 4);
    for index in 5..8 {
        assert!(live.frame(index, IN_TIME).is_empty());
    }
    let out = live.frame(8, IN_TIME);
    assert_eq!(out.len(), 5);
    assert!(out.iter().skip(1).all(|buffer| bytes(buffer)[0] == 0));
    assert_eq!(live.told().len(), 4);
    assert_eq!(seen.try_iter().collect::<Vec<_>>(), [gst::EventType::Qos; 2]);
    // Frames after that time are restored again at once, without another word of the sink.
    for index in 9..30 {
        live.frame(index, IN_TIME);
    }
    assert_eq!(live.0.stat("windows"), 1 + 5);
    // A flush forgets.
    tell(100_000_000_000, FRAME * 30);
    live.0.event(gst::event::FlushStart::new());
    live.0.event(gst::event::FlushStop::new(true));
    live.0.event(time_segment());
    for index in 0..5 {
        live.frame(index, IN_TIME);
    }
    assert_eq!(live.0.stat("windows"), 1 + 5 + 1);
}

/// What the sinks really wait for counts, not what the element would like.
#[test]
fn the_pipelines_latency_is_the_limit() {
    let own = FRAME * 4 + DEADLINE;
    // Zero is what a pipeline says whose sinks do not play by the clock.
    let cases = [
        (own, 1),
        (own + ClockTime::SECOND, 1),
        (FRAME * 2, 0),
        (ClockTime::ZERO, 1),
    ];
    for (latency, windows) in cases {
        let live = Live::new("brighter", "bypass");
        assert!(live.0.sink.push_event(gst::event::Latency::new(latency)));
        for index in 0..5 {
            live.frame(index, IN_TIME);
        }
        assert_eq!(live.0.stat("windows"), windows, "{latency}");
    }
    // More than the answer is downstream's.
    let live = Live::new("brighter", "bypass");
    assert!(live.0.sink.push_event(gst::event::Latency::new(own + LATE * 2)));
    for index in 0..5 {
        live.frame(index, if index < 4 { IN_TIME } else { LATE });
    }
    assert_eq!(live.counts(), [5, 5, 0, 5]);
}

#[test]
fn overload_changes_while_playing() {
    let live = Live::new("brighter", "block");
    for index in 0..4 {
        live.frame(index, LATE);
    }
    live.0.element.set_property_from_str("overload", "bypass");
    assert_frames(&live.frame(4, LATE), 0, &[0; 5]);
    assert_frames(&live.frame(5, LATE), 5, &[0]);
    live.0.element.set_property_from_str("overload", "block");
    let mut out = Vec::new();
    for index in 6..20 {
        out.extend(live.frame(index, LATE));
    }
    live.0.eos();
    out.extend(live.0.take_buffers());
    assert_eq!(out.len(), 14);
    assert_eq!(live.counts(), [20, 20, 14, 6]);
}

/// Frames without a time are restored: nothing tells that they are late.
#[test]
fn frames_without_a_time_are_not_late() {
    let live = Live::new("brighter", "bypass");
    set_time(&live.0.element, LATE);
    for index in 0..12 {
        let mut buffer = frame(&rgb(), index);
        buffer.get_mut().unwrap().set_pts(None);
        live.0.push(buffer).unwrap();
    }
    live.0.eos();
    assert_eq!(live.counts(), [12, 12, 12, 0]);
}

#[test]
fn events_keep_their_place_among_bypassed_frames() {
    let live = Live::new("brighter", "bypass");
    let custom = |name: &str| gst::event::CustomDownstream::new(gst::Structure::new_empty(name));
    let mut expected: Vec<String> = Vec::new();
    for index in 0..12u64 {
        set_time(&live.0.element, FRAME * index + LATE);
        live.0.push(flat(&rgb(), index, 0)).unwrap();
        assert!(live.0.event(custom(&format!("after-{index}"))));
        expected.extend([index.to_string(), format!("after-{index}")]);
    }
    live.0.eos();
    expected.push("eos".into());
    assert_eq!(labels(&live.0.take()), expected);
}

/// The messages' numbers: the frame's times, how late its window would have been, what was restored and what was not.
#[test]
fn qos_messages_count_what_was_done() {
    let live = Live::new("brighter", "bypass");
    for index in 0..5 {
        live.frame(index, IN_TIME);
    }
    for index in 5..9 {
        live.frame(index, LATE);
    }
    let messages = live.0.messages(&[gst::MessageType::Qos]);
    assert_eq!(messages.len(), 4);
    for (message, index) in messages.iter().zip(5..) {
        assert_eq!(message.src(), Some(live.0.element.upcast_ref::<gst::Object>()));
        let gst::MessageView::Qos(qos) = message.view() else {
            unreachable!()
        };
        assert!(qos.live());
        let time = Some(FRAME * index);
        assert_eq!(
            (qos.running_time(), qos.stream_time(), qos.timestamp()),
            (time, time, time)
        );
        assert_eq!(qos.duration(), Some(FRAME));
        let late = qos.jitter();
        assert!((2_500_000_000..3_500_000_000).contains(&late), "{late}");
        let (restored, bypassed) = qos.stats();
        assert_eq!(u64::try_from(restored.value()).unwrap(), 5);
        assert_eq!(u64::try_from(bypassed.value()).unwrap(), 4);
    }
}
