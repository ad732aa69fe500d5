// SPDX-License-Identifier: MPL-2.0

//! Frames and events in order, until all that is restored of a frame is final.

use std::collections::VecDeque;
use std::time::Duration;

use super::imp::CAT;
use super::regions::{Pictures, Region};

/// What goes downstream next.
pub enum Item {
    Buffer(gst::Buffer),
    /// A frame that should have been restored, and how much too late it would have been.
    Bypassed(gst::Buffer, Duration),
    Event(gst::Event),
}

/// A frame on its way.
pub struct Frame {
    /// What is to be sent: the input's pixels and metadata.
    pub buffer: gst::Buffer,
    pub strength: f64,
    pub running_time: Option<Duration>,
}

/// What waits, in the order of arrival.
enum Waiting {
    Frame(WaitingFrame),
    Event(gst::Event),
}

struct WaitingFrame {
    frame: Frame,
    /// What is to be restored and is not final.
    pending: Vec<Region>,
    kind: Kind,
}

/// What becomes of a frame.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// There is nothing to restore in it.
    Empty,
    /// Nothing of it has been restored.
    Unrestored,
    Restored,
}

/// What has been done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub windows: u64,
    pub restored: u64,
    pub bypassed: u64,
    /// Frames with nothing to restore.
    pub empty: u64,
    /// Faces restored, each in each frame.
    pub faces: u64,
    pub scene_cuts: u64,
    /// Regions that there is memory for.
    pub regions_in_memory: u64,
    /// Time of conversions, both ways.
    pub converting: Duration,
}

#[derive(Default)]
pub struct Queue {
    waiting: VecDeque<Waiting>,
    ready: VecDeque<Item>,
    pub counts: Counts,
}

impl Queue {
    /// Takes a frame of which `regions` are to be restored.
    pub fn push(&mut self, frame: Frame, regions: Vec<Region>) {
        let kind = if regions.is_empty() {
            Kind::Empty
        } else {
            Kind::Unrestored
        };
        self.waiting.push_back(Waiting::Frame(WaitingFrame {
            frame,
            pending: regions,
            kind,
        }));
        self.release();
    }

    /// Takes a frame of which nothing is restored, though it might be; it leaves with those before it.
    pub fn push_unrestored(&mut self, buffer: gst::Buffer) {
        self.waiting.push_back(Waiting::Frame(WaitingFrame {
            frame: Frame {
                buffer,
                strength: 0.0,
                running_time: None,
            },
            pending: Vec::new(),
            kind: Kind::Unrestored,
        }));
        self.release();
    }

    /// Takes an event that keeps its place among the frames.
    pub fn push_event(&mut self, event: gst::Event) {
        self.waiting.push_back(Waiting::Event(event));
        self.release();
    }

    /// The next buffer or event to send.
    pub fn pop_ready(&mut self) -> Option<Item> {
        self.ready.pop_front()
    }

    fn frames(&self) -> impl Iterator<Item = &WaitingFrame> {
        self.waiting.iter().filter_map(|waiting| match waiting {
            Waiting::Frame(frame) => Some(frame),
            Waiting::Event(_) => None,
        })
    }

    fn pending_frames(&self, run: u64) -> impl Iterator<Item = &WaitingFrame> {
        self.frames()
            .filter(move |frame| frame.pending.iter().any(|region| region.run() == run))
    }

    /// Whether frames wait.
    pub fn holds_frames(&self) -> bool {
        self.frames().next().is_some()
    }

    /// Frames in which a run's region is not final.
    pub fn pending(&self, run: u64) -> usize {
        self.pending_frames(run).count()
    }

    /// Running time of one of them.
    pub fn running_time(&self, run: u64, at: usize) -> Option<Duration> {
        self.pending_frames(run).nth(at)?.frame.running_time
    }

    /// Running time of the first waiting frame that has one.
    pub fn first_running_time(&self) -> Option<Duration> {
        self.frames().find_map(|frame| frame.frame.running_time)
    }

    /// Makes a frame ready as it came.
    pub fn bypass(&mut self, buffer: gst::Buffer, late: Duration) {
        self.counts.bypassed += 1;
        self.ready.push_back(Item::Bypassed(buffer, late));
    }

    /// Applies what the graphs made of a run's region of the first frame where it is not final, from the pixels `seen` to those that
    /// `draw` writes, with `share` of its strength. Frames that have nothing more to wait for are ready then.
    pub fn finish_region(
        &mut self,
        run: u64,
        pictures: &mut Pictures,
        seen: &[u8],
        share: f64,
        draw: impl FnOnce(&mut [u8]),
    ) {
        let found = self.waiting.iter_mut().find_map(|waiting| match waiting {
            Waiting::Frame(frame) => {
                let at = frame.pending.iter().position(|region| region.run() == run)?;
                Some((at, frame))
            }
            Waiting::Event(_) => None,
        });
        let Some((at, waiting)) = found else {
            unreachable!("the planner counts the frames that wait");
        };
        let region = waiting.pending.remove(at);
        let Frame { buffer, strength, .. } = &mut waiting.frame;
        if *strength > 0.0 {
            match pictures.apply(buffer.make_mut(), &region, *strength * share, seen, draw) {
                Ok(()) => {
                    waiting.kind = Kind::Restored;
                    self.counts.faces += u64::from(matches!(region, Region::Face(_)));
                }
                // Memory lacks: the frame goes on without.
                Err(error) => gst::error!(CAT, "a region goes on unrestored: {error}"),
            }
        }
        self.release();
    }

    /// Lets a run's region go, as it is, in all frames where it is not final.
    pub fn leave_out(&mut self, run: u64) {
        for waiting in &mut self.waiting {
            if let Waiting::Frame(frame) = waiting {
                frame.pending.retain(|region| region.run() != run);
            }
        }
        self.release();
    }

    /// Makes everything ready as it is. With `late`, frames that miss something are told to have been bypassed.
    pub fn release_all(&mut self, late: Option<Duration>) {
        while let Some(waiting) = self.waiting.pop_front() {
            match waiting {
                Waiting::Event(event) => self.ready.push_back(Item::Event(event)),
                Waiting::Frame(frame) if frame.pending.is_empty() => self.leave(frame),
                Waiting::Frame(WaitingFrame { frame, .. }) => match late {
                    Some(late) => self.bypass(frame.buffer, late),
                    None => {
                        self.counts.bypassed += 1;
                        self.ready.push_back(Item::Buffer(frame.buffer));
                    }
                },
            }
        }
    }

    /// Forgets everything but sticky events, which tell of the stream and not of a place in it: those it gives back.
    pub fn clear(&mut self) -> Vec<gst::Event> {
        let waiting = self.waiting.drain(..).filter_map(|waiting| match waiting {
            Waiting::Event(event) => Some(event),
            Waiting::Frame(_) => None,
        });
        let ready = self.ready.drain(..).filter_map(|item| match item {
            Item::Event(event) => Some(event),
            Item::Buffer(_) | Item::Bypassed(..) => None,
        });
        ready.chain(waiting).filter(|event| event.is_sticky()).collect()
    }

    /// Makes ready what nothing before it keeps back.
    fn release(&mut self) {
        loop {
            match self.waiting.pop_front() {
                Some(Waiting::Event(event)) => self.ready.push_back(Item::Event(event)),
                Some(Waiting::Frame(frame)) if frame.pending.is_empty() => self.leave(frame),
                Some(waiting) => {
                    self.waiting.push_front(waiting);
                    return;
                }
                None => return,
            }
        }
    }

    fn leave(&mut self, frame: WaitingFrame) {
        match frame.kind {
            Kind::Empty => self.counts.empty += 1,
            Kind::Unrestored => self.counts.bypassed += 1,
            Kind::Restored => self.counts.restored += 1,
        }
        self.ready.push_back(Item::Buffer(frame.frame.buffer));
    }
}
