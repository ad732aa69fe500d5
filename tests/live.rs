// SPDX-License-Identifier: MPL-2.0

//! Live runs of a minute: the pipeline's clock against every frame that leaves. Prints what it measures.
//!
//! A frame is late if it leaves the element more than the reported latency of the pipeline plus one frame duration after its
//! running time. The sink plays by the clock behind a queue with room, so it does not keep frames from leaving. The slack of one
//! frame (40 ms) is the specification's; the machine's scheduler has to fit in.
//!
//! `DVFACE_LIVE_SECONDS` is the length of a run (60). `DVFACE_TEST_CLIP` is a video file for the runs with a real clip; without
//! it they take one of ../shared, and without that they are skipped, and say so.

#[path = "common/library.rs"]
mod library;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gst::ClockTime;
use gst::prelude::*;
use library::runtime_library;

const FRAME: ClockTime = ClockTime::from_mseconds(40);

fn init() {
    gst::init().unwrap();
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| gstdvface::plugin_register_static().unwrap());
}

fn seconds() -> u64 {
    std::env::var("DVFACE_LIVE_SECONDS").map_or(60, |text| text.parse().expect("a number of seconds"))
}

/// One test at a time: they measure time.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A real clip of faces, 25 frames a second, and how long it is.
fn clip() -> Option<PathBuf> {
    let named = std::env::var_os("DVFACE_TEST_CLIP").map(PathBuf::from);
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/faces-eval/eval_hq01.mp4");
    if let Some(path) = &named {
        assert!(path.is_file(), "DVFACE_TEST_CLIP={}: no such file", path.display());
    }
    let found = named.or_else(|| shared.is_file().then_some(shared));
    if found.is_none() {
        println!("skipped: DVFACE_TEST_CLIP names no clip, and there is none in ../shared");
    }
    found
}

/// A test picture, live.
fn test_source() -> String {
    "videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width=320,height=240,framerate=25/1".into()
}

/// A clip, over and over, in real time; small, for the tests are not optimised, and pixels take their time.
fn clip_source(clip: &Path) -> String {
    // Clips have some seconds; each part is one more run of it.
    let parts = seconds().div_ceil(2) + 2;
    let part = format!(
        "filesrc location={} ! qtdemux ! h264parse ! avdec_h264 max-threads=1 ! all. ",
        clip.display()
    );
    format!(
        "{} concat name=all ! videorate ! videoscale ! video/x-raw,framerate=25/1,width=128,height=128 ! identity sync=true",
        part.repeat(parts as usize)
    )
}

/// What a run gave.
#[derive(Debug)]
struct Report {
    frames_in: u64,
    frames_out: u64,
    out_of_order: u64,
    /// Later than the latency that was reported when they left, and one frame.
    late: u64,
    restored: u64,
    bypassed: u64,
    windows: u64,
    qos_messages: u64,
    latency: ClockTime,
    /// Of a frame against the reported latency, in milliseconds: positive is later.
    worst_ms: f64,
    median_ms: f64,
}

/// A pipeline that ends with its test, however that ends.
struct Playing(gst::Pipeline);

impl Drop for Playing {
    fn drop(&mut self) {
        let _ = self.0.set_state(gst::State::Null);
    }
}

/// Plays `source` through an element with the bundle `model` for some seconds.
fn play(name: &str, source: &str, model: &str, seconds: u64, change: impl FnOnce(&gst::Element)) -> Report {
    init();
    let bundle = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bundles").join(model);
    let room = "queue max-size-buffers=200 max-size-bytes=0 max-size-time=0";
    let pipeline = gst::parse::launch(&format!(
        "{source} ! {room} name=before ! dvfacerestore name=restore overload=bypass provider=cpu num-threads=1 \
         model={} runtime-library={} ! {room} ! fakesink name=sink sync=true qos=true",
        bundle.display(),
        runtime_library().display()
    ))
    .unwrap()
    .downcast::<gst::Pipeline>()
    .unwrap();
    let playing = Playing(pipeline.clone());
    let element = pipeline.by_name("restore").unwrap();
    change(&element);

    // Of each frame: running time, time from then until it leaves, and the latency that is reported then.
    let seen: Arc<Mutex<Vec<(ClockTime, i64, i64)>>> = Arc::default();
    let reported = Arc::new(AtomicU64::new(0));
    let sink = pipeline.by_name("sink").unwrap();
    {
        let (seen, reported, sink) = (seen.clone(), reported.clone(), sink.downgrade());
        let pad = element.static_pad("src").unwrap();
        pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
            let sink = sink.upgrade().unwrap();
            let segment = pad.sticky_event::<gst::event::Segment>(0).unwrap();
            let segment = segment.segment().downcast_ref::<ClockTime>().unwrap().clone();
            let time = segment.to_running_time(info.buffer().unwrap().pts()).unwrap();
            let now = sink.current_running_time().unwrap();
            let stayed = now.nseconds() as i64 - time.nseconds() as i64;
            let reported = reported.load(Ordering::SeqCst) as i64;
            seen.lock().unwrap().push((time, stayed, reported));
            gst::PadProbeReturn::Ok
        });
    }
    let entered = Arc::new(AtomicU64::new(0));
    {
        let entered = entered.clone();
        let pad = pipeline.by_name("before").unwrap().static_pad("sink").unwrap();
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            entered.fetch_add(1, Ordering::SeqCst);
            gst::PadProbeReturn::Ok
        });
    }

    pipeline.set_state(gst::State::Playing).unwrap();
    let bus = pipeline.bus().unwrap();
    // From the first frame on: before that the element measures how long a window takes.
    let mut end = None;
    let mut qos_messages = 0;
    let mut ended = false;
    while !ended {
        // A sink knows of no latency before it plays.
        let mut query = gst::query::Latency::new();
        if pipeline.query(&mut query) && query.result().0 {
            reported.store(query.result().1.nseconds(), Ordering::SeqCst);
        }
        if let Some(message) = bus.timed_pop(ClockTime::from_mseconds(20)) {
            match message.view() {
                // What every application has to do.
                gst::MessageView::Latency(_) => pipeline.recalculate_latency().unwrap(),
                gst::MessageView::Qos(_) => qos_messages += 1,
                gst::MessageView::Eos(_) => ended = true,
                gst::MessageView::Error(error) => panic!("{name}: {error:?}"),
                gst::MessageView::Warning(warning) => println!("{name}: {warning:?}"),
                _ => {}
            }
        }
        if end.is_none() && entered.load(Ordering::SeqCst) > 0 {
            end = Some(Instant::now() + Duration::from_secs(seconds));
        }
        if end.is_some_and(|end| Instant::now() >= end) {
            // Upstream ends; what is held comes out.
            let sent = pipeline.send_event(gst::event::Eos::new());
            assert!(sent, "{name}");
            let message = bus
                .timed_pop_filtered(ClockTime::from_seconds(30), &[gst::MessageType::Eos])
                .unwrap_or_else(|| panic!("{name}: no end of the stream: it stalls"));
            drop(message);
            ended = true;
        }
    }
    let stats = element.property::<gst::Structure>("stats");
    let stat = |field: &str| stats.get::<u64>(field).unwrap();
    let seen = seen.lock().unwrap();
    // The first frames may leave before the first report.
    let first_report = seen
        .iter()
        .map(|(.., reported)| *reported)
        .find(|reported| *reported > 0);
    let mut lates: Vec<i64> = seen
        .iter()
        .map(|(_, stayed, reported)| match reported {
            0 => stayed - first_report.expect("a latency is reported"),
            reported => stayed - reported,
        })
        .collect();
    lates.sort_unstable();
    let report = Report {
        frames_in: entered.load(Ordering::SeqCst),
        frames_out: seen.len() as u64,
        out_of_order: seen.windows(2).filter(|pair| pair[0].0 >= pair[1].0).count() as u64,
        late: lates.iter().filter(|late| **late > FRAME.nseconds() as i64).count() as u64,
        restored: stat("frames-restored"),
        bypassed: stat("frames-bypassed"),
        windows: stat("windows"),
        qos_messages,
        latency: ClockTime::from_nseconds(reported.load(Ordering::SeqCst)),
        worst_ms: *lates.last().unwrap() as f64 / 1e6,
        median_ms: lates[lates.len() / 2] as f64 / 1e6,
    };
    drop(playing);
    println!(
        "{name}: {} frames in, {} out, {} out of order, {} restored in {} windows, {} bypassed ({} messages); latency {}; against \
         it the worst frame {:+.1} ms, the median {:+.1} ms, {} late",
        report.frames_in,
        report.frames_out,
        report.out_of_order,
        report.restored,
        report.windows,
        report.bypassed,
        report.qos_messages,
        report.latency,
        report.worst_ms,
        report.median_ms,
        report.late
    );
    assert!(!report.latency.is_zero(), "{name}: the pipeline is live");
    report
}

#[track_caller]
fn assert_kept(name: &str, report: &Report, seconds: u64) {
    assert!(
        report.frames_in >= seconds * 25 * 9 / 10,
        "{name}: the source is live: {report:?}"
    );
    assert_eq!(report.frames_out, report.frames_in, "{name}: all frames come out");
    assert_eq!(report.out_of_order, 0, "{name}");
    assert_eq!(report.late, 0, "{name}: none is late");
    assert_eq!(report.restored + report.bypassed, report.frames_out, "{name}");
}

/// A window takes a second, and there is one every 160 ms.
fn slow(name: &str, source: &str) {
    let seconds = seconds();
    let report = play(name, source, "slow", seconds, |_| ());
    assert_kept(name, &report, seconds);
    assert!(report.bypassed > 0, "{name}: it is too slow");
    assert!(report.restored > 0, "{name}: there was room for some");
    assert!(report.qos_messages > 0, "{name}: it is told");
}

/// A window takes some milliseconds, and the deadline is one of a desktop that does other things, too.
fn fast(name: &str, source: &str) {
    let seconds = seconds();
    let report = play(name, source, "brighter", seconds, |element| {
        element.set_property("processing-deadline", ClockTime::SECOND.nseconds());
    });
    assert_kept(name, &report, seconds);
    assert_eq!((report.restored, report.bypassed), (report.frames_out, 0), "{name}");
    assert_eq!(report.qos_messages, 0, "{name}");
}

#[test]
fn a_slow_model_live() {
    let _turn = turn();
    slow("slow model, test source", &test_source());
}

#[test]
fn a_slow_model_with_a_real_clip() {
    let _turn = turn();
    if let Some(clip) = clip() {
        slow("slow model, clip", &clip_source(&clip));
    }
}

/// The deadline is shorter than a window ever takes: nothing is tried that would be late.
#[test]
fn a_model_that_cannot_make_its_deadline() {
    let _turn = turn();
    let seconds = seconds().min(10);
    let name = "slow model, deadline of 200 ms";
    let report = play(name, &test_source(), "slow", seconds, |element| {
        element.set_property("processing-deadline", ClockTime::from_mseconds(200).nseconds());
    });
    assert_kept(name, &report, seconds);
    assert_eq!((report.restored, report.windows), (0, 0), "{name}");
}

#[test]
fn a_fast_model_live_and_with_a_real_clip() {
    let _turn = turn();
    let other = std::thread::spawn(|| fast("fast model, test source", &test_source()));
    if let Some(clip) = clip() {
        fast("fast model, clip", &clip_source(&clip));
    }
    other.join().unwrap();
}
