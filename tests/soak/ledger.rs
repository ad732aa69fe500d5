// SPDX-License-Identifier: MPL-2.0

//! What goes into the element and comes out of it: count, order, and what must not overtake frames.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gst::ClockTime;
use gst::prelude::*;
use gstdvface::restorer::faults::{self, Fault};

/// Frames of a window of the bundle `brighter`.
const WINDOW: usize = 5;

/// Text of failures that the test makes.
pub const INJECTED: &str = "injected";

/// What went into the element and has not come out, and what went wrong.
#[derive(Default)]
pub struct Ledger {
    pub held: VecDeque<(Option<ClockTime>, u64)>,
    pub entered: u64,
    pub left: u64,
    pub flushed: u64,
    pub problems: Vec<String>,
}

impl Ledger {
    fn problem(&mut self, text: String) {
        if self.problems.len() < 5 {
            self.problems.push(text);
        }
    }

    /// A flush or a stop takes what is held.
    pub fn clear(&mut self) {
        self.flushed += self.held.len() as u64;
        self.held.clear();
    }
}

/// Whether downstream takes nothing any more: sinks go down first, and what is pushed meanwhile is lost, here as with any
/// element. The stop that goes on takes it. A queue in between gives a push back as soon as the sink, `end`, is down, long
/// before it is down itself.
fn is_cut_off(src: &gst::Pad, end: &gst::Pad) -> bool {
    let is_flushing = |pad: &gst::Pad| pad.pad_flags().contains(gst::PadFlags::FLUSHING);
    is_flushing(end) || src.peer().is_none_or(|peer| is_flushing(&peer))
}

/// Watches both pads of the element; `sink` is the last element of its pipeline.
pub fn watch(element: &gst::Element, sink: &gst::Element, failing: &Arc<AtomicBool>) -> Arc<Mutex<Ledger>> {
    let ledger: Arc<Mutex<Ledger>> = Arc::default();
    let kinds = gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM | gst::PadProbeType::EVENT_FLUSH;
    let (seen, failing) = (ledger.clone(), failing.clone());
    let src = element.static_pad("src").unwrap();
    let end = sink.static_pad("sink").unwrap();
    let (out, out_end) = (src.clone(), end.clone());
    element.static_pad("sink").unwrap().add_probe(kinds, move |_, info| {
        fail_now_and_then(&failing);
        let mut ledger = seen.lock().unwrap();
        match &info.data {
            Some(gst::PadProbeData::Buffer(buffer)) => {
                ledger.entered += 1;
                ledger.held.push_back((buffer.pts(), buffer.offset()));
                if ledger.held.len() > WINDOW && !is_cut_off(&out, &out_end) {
                    let held = ledger.held.len();
                    ledger.problem(format!("{held} frames are held"));
                }
            }
            Some(gst::PadProbeData::Event(event)) if event.type_() == gst::EventType::FlushStop => ledger.clear(),
            _ => {}
        }
        gst::PadProbeReturn::Ok
    });
    let seen = ledger.clone();
    src.add_probe(kinds, move |pad, info| {
        if is_cut_off(pad, &end) {
            return gst::PadProbeReturn::Ok;
        }
        let mut ledger = seen.lock().unwrap();
        match &info.data {
            Some(gst::PadProbeData::Buffer(buffer)) => {
                let found = (buffer.pts(), buffer.offset());
                ledger.left += 1;
                let expected = ledger.held.pop_front();
                if expected != Some(found) {
                    ledger.problem(format!("frame {found:?} comes out, expected {expected:?}"));
                }
            }
            // Nothing that ends a run may overtake its frames.
            Some(gst::PadProbeData::Event(event)) => {
                let ends = [
                    gst::EventType::Eos,
                    gst::EventType::Caps,
                    gst::EventType::Segment,
                    gst::EventType::StreamStart,
                ];
                if ends.contains(&event.type_()) && !ledger.held.is_empty() {
                    let (kind, held) = (event.type_(), ledger.held.len());
                    ledger.problem(format!("{kind} overtakes {held} frames"));
                }
            }
            _ => {}
        }
        gst::PadProbeReturn::Ok
    });
    ledger
}

/// Every 50th run of the streaming thread fails, and every 70th takes long, while the flag is set.
fn fail_now_and_then(failing: &Arc<AtomicBool>) {
    thread_local! {
        static IS_SET: Cell<bool> = const { Cell::new(false) };
    }
    if IS_SET.replace(true) {
        return;
    }
    let (failing, mut run) = (failing.clone(), 0u32);
    faults::set(move || {
        run += 1;
        match run {
            _ if !failing.load(Ordering::SeqCst) => None,
            _ if run.is_multiple_of(50) => Some(Fault::Error(INJECTED)),
            _ if run.is_multiple_of(70) => Some(Fault::Slow(Duration::from_millis(150))),
            _ => None,
        }
    });
}
