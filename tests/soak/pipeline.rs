// SPDX-License-Identifier: MPL-2.0

//! The pipeline that soaks, and its random steps.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gst::ClockTime;
use gst::prelude::*;

use crate::ledger::{INJECTED, Ledger, watch};
use crate::memory::Memory;
use crate::{STALL, number, runtime_library, stall};

/// After this time a change that no thread makes is taken to be lost: what goes on does so within milliseconds.
const LOST: Duration = Duration::from_secs(2);

/// SplitMix64: what it draws depends on its seed only.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn pick<'a, T>(&mut self, values: &'a [T]) -> &'a T {
        &values[self.below(values.len() as u64) as usize]
    }
}

/// While the flag that it gives is set, buffers get none to three faces, which come, go and move.
fn tell_faces(element: &gst::Element) -> Arc<AtomicBool> {
    let flag: Arc<AtomicBool> = Arc::default();
    let (is_set, count) = (flag.clone(), AtomicU64::new(0));
    let sink = element.static_pad("sink").unwrap();
    sink.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        if let Some(gst::PadProbeData::Buffer(buffer)) = &mut info.data
            && is_set.load(Ordering::SeqCst)
        {
            let at = count.fetch_add(1, Ordering::SeqCst);
            for face in 0..3u32 {
                // Each is there for 20 frames of 30.
                let place = (at + u64::from(face) * 11) % 30;
                if place < 20 {
                    let rect = (place as u32 + face * 10, face * 4, 12 + face, 14 + face);
                    gst_video::VideoRegionOfInterestMeta::add(buffer.make_mut(), "face", rect);
                }
            }
        }
        gst::PadProbeReturn::Ok
    });
    flag
}

/// Asks upstream for the position before each frame that the sink gets, in the thread of the last queue, as elements that show
/// progress do. The element may be waiting for that queue meanwhile.
fn ask_from_behind(sink: &gst::Element) {
    let pad = sink.static_pad("sink").unwrap();
    pad.add_probe(gst::PadProbeType::BUFFER, |pad, _| {
        let _ = pad.peer_query(&mut gst::query::Position::new(gst::Format::Time));
        gst::PadProbeReturn::Ok
    });
}

/// The pipeline, and what is drawn for it.
pub struct Soak {
    pipeline: gst::Pipeline,
    source: gst::Element,
    filter: gst::Element,
    element: gst::Element,
    sink: gst::Element,
    pub ledger: Arc<Mutex<Ledger>>,
    failing: Arc<AtomicBool>,
    random: Random,
    live: bool,
    ended: bool,
    /// Buffers get faces of upstream.
    tells_faces: Arc<AtomicBool>,
    pub steps: u64,
    /// Changes to PLAYING that GStreamer lost.
    pub lost_changes: u64,
    pub log: VecDeque<String>,
    /// Memory each time when the pipeline was in NULL, where no frame is held that comes and goes with the caps.
    pub memory: Vec<Memory>,
}

impl Drop for Soak {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

impl Soak {
    pub fn new(seed: u64) -> Self {
        gst::init().unwrap();
        gstdvface::plugin_register_static().unwrap();
        let library = runtime_library();
        let bundle = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bundles/brighter");
        let pipeline = gst::parse::launch(&format!(
            "videotestsrc name=source ! capsfilter name=filter caps-change-mode=delayed ! queue max-size-buffers=20 ! \
             dvfacerestore name=restore overload=bypass provider=cpu num-threads=1 model={} runtime-library={} detector={} \
             min-face-size=4 ! queue max-size-buffers=20 ! fakesink name=sink sync=false",
            bundle.display(),
            library.display(),
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/detectors/yunet-whole.onnx").display()
        ))
        .unwrap()
        .downcast::<gst::Pipeline>()
        .unwrap();
        let by_name = |name: &str| pipeline.by_name(name).unwrap();
        let (source, filter, element, sink) = (
            by_name("source"),
            by_name("filter"),
            by_name("restore"),
            by_name("sink"),
        );
        let failing = Arc::new(AtomicBool::new(true));
        let tells_faces = tell_faces(&element);
        ask_from_behind(&sink);
        let ledger = watch(&element, &sink, &failing);
        let mut soak = Self {
            pipeline,
            source,
            filter,
            element,
            sink,
            ledger,
            failing,
            random: Random(seed),
            live: false,
            ended: false,
            tells_faces,
            steps: 0,
            lost_changes: 0,
            log: VecDeque::new(),
            memory: Vec::new(),
        };
        soak.change_caps();
        soak
    }

    fn say(&mut self, text: String) {
        if self.log.len() == 20 {
            self.log.pop_front();
        }
        self.log.push_back(text);
    }

    fn change_caps(&mut self) {
        let format = *self.random.pick(&["RGB", "I420", "NV12", "BGRA", "I420_10LE"]);
        let (width, height) = *self.random.pick(&[(32, 32), (64, 48), (33, 17), (160, 90)]);
        let rate = *self.random.pick(&["25/1", "50/1", "30/1"]);
        let caps = format!("video/x-raw,format={format},width={width},height={height},framerate={rate}");
        self.say(caps.clone());
        self.filter.set_property("caps", caps.parse::<gst::Caps>().unwrap());
    }

    fn change_region(&mut self) {
        let region = *self.random.pick(&["frame", "meta", "detect"]);
        self.say(format!("region {region}"));
        self.element.set_property_from_str("region", region);
        self.tells_faces.store(region == "meta", Ordering::SeqCst);
    }

    pub fn play(&mut self) {
        self.ended = false;
        while self.pipeline.set_state(gst::State::Playing).is_err() {
            let bus = self.pipeline.bus().unwrap();
            let errors: Vec<_> = std::iter::from_fn(|| bus.pop_filtered(&[gst::MessageType::Error]))
                .map(|message| format!("{:?}", message.view()))
                .collect();
            // GStreamer's threads take turns: one that streamed may start an element, whose warm-up it makes fail.
            let ours = errors.iter().any(|error| error.contains(INJECTED));
            assert!(ours, "it does not play: {errors:?}");
            self.pipeline.set_state(gst::State::Null).unwrap();
        }
    }

    /// Down to `state`, after which nothing of before may come.
    pub fn stop(&mut self, state: gst::State) {
        self.pipeline.set_state(state).unwrap();
        self.ledger.lock().unwrap().clear();
    }

    pub fn step(&mut self) {
        self.steps += 1;
        match self.random.below(100) {
            // A live source gives nothing in PAUSED, where a pipeline waits after a seek: with no element of ours it waits, too.
            0..30 if !self.live => {
                let rate = *self.random.pick(&[1.0, 1.0, 2.0, 0.5, -1.0]);
                let at = ClockTime::from_mseconds(400 + self.random.below(20_000));
                let length = ClockTime::from_mseconds(self.random.below(3_000));
                let stop = if self.random.below(2) == 0 {
                    at + length
                } else {
                    ClockTime::from_seconds(3_600)
                };
                // Reverse playback begins at the stop.
                let stop = if rate < 0.0 { at + length } else { stop };
                self.say(format!("seek at rate {rate} from {at} to {stop}"));
                let flags = gst::SeekFlags::FLUSH | gst::SeekFlags::ACCURATE;
                self.ended = false;
                // A pipeline that is about to change its state may refuse.
                let _ = self
                    .pipeline
                    .seek(rate, flags, gst::SeekType::Set, at, gst::SeekType::Set, stop);
            }
            0..55 => self.change_caps(),
            55..80 => match self.random.below(4) {
                0 => {
                    let strength = *self.random.pick(&[0.0, 0.3, 1.0]);
                    self.say(format!("strength {strength}"));
                    self.element.set_property("strength", strength);
                }
                1 => {
                    let threshold = *self.random.pick(&[0.0, 0.05, 0.5]);
                    self.say(format!("scene-cut {threshold}"));
                    self.element.set_property("scene-cut", threshold);
                }
                2 => {
                    let overload = *self.random.pick(&["block", "bypass"]);
                    self.say(format!("overload {overload}"));
                    self.failing.store(overload == "bypass", Ordering::SeqCst);
                    self.element.set_property_from_str("overload", overload);
                }
                _ => {
                    let _ = self.element.property::<gst::Structure>("stats");
                    let _ = self.pipeline.query(&mut gst::query::Latency::new());
                    let _ = self.element.query_position::<ClockTime>();
                    let _ = self.element.query_duration::<ClockTime>();
                }
            },
            80..90 => {
                self.say("paused and on".into());
                self.pipeline.set_state(gst::State::Paused).unwrap();
                std::thread::sleep(Duration::from_millis(self.random.below(20)));
                self.pipeline.set_state(gst::State::Playing).unwrap();
            }
            90..95 => {
                self.say("ready and on".into());
                self.stop(gst::State::Ready);
                self.change_region();
                self.play();
            }
            _ => {
                let live = self.random.below(3) == 0;
                self.live = live;
                self.say(format!("null and on, live: {live}"));
                self.stop(gst::State::Null);
                self.memory.push(Memory::now());
                self.source.set_property("is-live", live);
                self.sink.set_property("sync", live);
                self.change_region();
                self.play();
            }
        }
    }

    /// Reads the bus. A failure that the test made stops a stream in `overload=block`: it begins anew.
    fn listen(&mut self) {
        while let Some(message) = self.pipeline.bus().unwrap().pop() {
            match message.view() {
                gst::MessageView::Latency(_) => {
                    let _ = self.pipeline.recalculate_latency();
                }
                gst::MessageView::Eos(_) => self.ended = true,
                gst::MessageView::Error(error) => {
                    let text = format!("{error:?}");
                    self.say(text.clone());
                    let ours = text.contains(INJECTED) || text.contains("streaming stopped, reason error");
                    assert!(ours, "{text}");
                    self.stop(gst::State::Null);
                    self.play();
                }
                _ => {}
            }
        }
    }

    /// Where everything stands, to tell who waits for whom.
    fn states(&self) -> Vec<String> {
        let mut states = vec![format!("pipeline {:?}", self.pipeline.state(ClockTime::ZERO))];
        for element in self.pipeline.children() {
            let level = element
                .find_property("current-level-buffers")
                .map(|_| element.property::<u32>("current-level-buffers"));
            states.push(format!(
                "{} {:?} {level:?}",
                element.name(),
                element.state(ClockTime::ZERO)
            ));
        }
        states.push(format!("{} frames held", self.ledger.lock().unwrap().held.len()));
        states
    }

    /// Lets frames flow for a moment, which they must.
    pub fn flow(&mut self) {
        let (entered, before) = {
            let ledger = self.ledger.lock().unwrap();
            (ledger.entered, ledger.left)
        };
        std::thread::sleep(Duration::from_millis(3 + self.random.below(40)));
        let start = Instant::now();
        let mut lost_since = None;
        loop {
            self.listen();
            if stall::lost_change(&self.pipeline) {
                if lost_since.get_or_insert_with(Instant::now).elapsed() > LOST {
                    self.say("a change to PLAYING is lost: ready and on".into());
                    self.lost_changes += 1;
                    self.stop(gst::State::Ready);
                    self.play();
                }
            } else {
                lost_since = None;
            }
            let ledger = self.ledger.lock().unwrap();
            assert!(ledger.problems.is_empty(), "{:?}", ledger.problems);
            if ledger.left > before || self.ended {
                return;
            }
            let new = ledger.entered - entered;
            drop(ledger);
            if start.elapsed() >= STALL {
                hold();
            }
            assert!(
                start.elapsed() < STALL,
                "no frame for {STALL:?}: it stalls; {new} frames went in; {:?}",
                self.states()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Waits for a debugger, for as many seconds as `DVFACE_SOAK_HOLD` says.
fn hold() {
    if let Some(seconds) = number("DVFACE_SOAK_HOLD") {
        eprintln!(
            "stalled: process {} waits {seconds} s for a debugger",
            std::process::id()
        );
        std::thread::sleep(Duration::from_secs(seconds));
    }
}
