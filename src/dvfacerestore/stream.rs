//! The frames and events that an element holds: in order, until their window is restored.

use std::collections::VecDeque;
use std::time::Duration;

use gst_video::VideoFrameRef;

use super::picture::Picture;
use crate::restorer::{RestoreError, Restored, Restorer};
use crate::window::{FrameStore, Plan, Planner, StoreError, Tail, WindowShape, cross_fade};

/// What goes downstream next.
pub enum Item {
    Buffer(gst::Buffer),
    Event(gst::Event),
}

/// What waits, in the order of arrival.
enum Waiting {
    Frame { buffer: gst::Buffer, strength: f64 },
    Event(gst::Event),
}

/// A stream's frames, events and pixels. Calls that may run the graphs take the restorer.
pub struct Stream {
    shape: WindowShape,
    planner: Planner,
    store: FrameStore,
    /// Of the current caps.
    picture: Option<Picture>,
    queue: Queue,
    /// Result of the run's last window, whose last frames wait for the next one.
    previous: Option<Restored>,
}

/// What has been done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub windows: u64,
    pub restored: u64,
    pub bypassed: u64,
    /// Time of conversions, both ways.
    pub converting: Duration,
}

impl Stream {
    /// For windows of `shape` and a bundle's frames of `frame_bytes` bytes.
    ///
    /// # Errors
    /// Fails where there is no memory for a window.
    pub fn new(shape: WindowShape, frame_bytes: usize) -> Result<Self, StoreError> {
        Ok(Self {
            shape,
            planner: Planner::new(shape),
            store: FrameStore::new(shape, frame_bytes)?,
            picture: None,
            queue: Queue::default(),
            previous: None,
        })
    }

    /// Takes the frames' caps. The frames of the caps before must have been drained.
    pub fn set_picture(&mut self, picture: Picture) {
        debug_assert!(!self.holds_frames());
        self.picture = Some(picture);
    }

    pub fn picture(&self) -> Option<&Picture> {
        self.picture.as_ref()
    }

    pub fn shape(&self) -> WindowShape {
        self.shape
    }

    /// Whether frames wait for their window.
    pub fn holds_frames(&self) -> bool {
        self.planner.waiting() > 0
    }

    /// The next buffer or event to send.
    pub fn pop_ready(&mut self) -> Option<Item> {
        self.queue.ready.pop_front()
    }

    pub fn take_counts(&mut self) -> Counts {
        let mut counts = std::mem::take(&mut self.queue.counts);
        counts.converting = self.picture.as_mut().map(Picture::take_spent).unwrap_or_default();
        counts
    }

    /// Takes an event that keeps its place among the frames.
    pub fn push_event(&mut self, event: gst::Event) {
        self.queue.waiting.push_back(Waiting::Event(event));
        self.queue.release_events();
    }

    /// Takes a frame: `input` to restore, `output` with the same pixels and the metadata, to be sent. Restores the window
    /// that it completes.
    ///
    /// # Errors
    /// As [`Restorer::restore`]; the frames are still held then.
    ///
    /// # Panics
    /// Panics without a picture.
    pub fn push_frame(
        &mut self,
        input: &VideoFrameRef<&gst::BufferRef>,
        output: gst::Buffer,
        strength: f64,
        restorer: &mut Restorer,
    ) -> Result<(), RestoreError> {
        let picture = self.picture.as_mut().expect("caps come before frames");
        picture.read(input, self.store.next());
        self.store.commit();
        self.queue.waiting.push_back(Waiting::Frame {
            buffer: output,
            strength,
        });
        match self.planner.push() {
            Some(plan) => self.restore(&plan, restorer),
            None => Ok(()),
        }
    }

    /// Takes a frame that can only be [given up](Self::give_up), since the run before it could not be ended.
    pub fn push_unrestored(&mut self, buffer: gst::Buffer) {
        self.queue.waiting.push_back(Waiting::Frame { buffer, strength: 0.0 });
    }

    /// Ends the run: restores what is left of it.
    ///
    /// # Errors
    /// As [`Restorer::restore`]; the frames are still held then.
    pub fn drain(&mut self, restorer: &mut Restorer) -> Result<(), RestoreError> {
        match self.planner.finish() {
            Tail::Nothing => {}
            Tail::Window(plan) => self.restore(&plan, restorer)?,
            Tail::Held(frames) => {
                let restored = self.previous.take().expect("held frames come from a window");
                let frames = (frames.end - frames.start) as usize;
                for back in (0..frames).rev() {
                    let slot = self.shape.frames() - 1 - back;
                    let seen = self.store.recent(back);
                    let draw = |pixels: &mut [u8]| pixels.copy_from_slice(restored.frame(slot));
                    self.queue.finish_frame(self.picture.as_mut(), seen, draw);
                }
                self.queue.release_events();
            }
        }
        self.end_run();
        Ok(())
    }

    /// Makes everything that is held ready as it came, unrestored.
    pub fn give_up(&mut self) {
        for waiting in self.queue.waiting.drain(..) {
            self.queue.ready.push_back(match waiting {
                Waiting::Frame { buffer, .. } => {
                    self.queue.counts.bypassed += 1;
                    Item::Buffer(buffer)
                }
                Waiting::Event(event) => Item::Event(event),
            });
        }
        self.end_run();
    }

    /// Forgets everything (flush) but sticky events, which tell of the stream and not of a place in it: those it gives
    /// back.
    pub fn clear(&mut self) -> Vec<gst::Event> {
        let waiting = self.queue.waiting.drain(..).filter_map(|waiting| match waiting {
            Waiting::Event(event) => Some(event),
            Waiting::Frame { .. } => None,
        });
        let ready = self.queue.ready.drain(..).filter_map(|item| match item {
            Item::Event(event) => Some(event),
            Item::Buffer(_) => None,
        });
        let sticky = ready.chain(waiting).filter(|event| event.is_sticky()).collect();
        self.end_run();
        sticky
    }

    fn end_run(&mut self) {
        self.planner.reset();
        self.store.reset();
        self.previous = None;
    }

    fn restore(&mut self, plan: &Plan, restorer: &mut Restorer) -> Result<(), RestoreError> {
        let window = self.store.window(plan);
        let restored = restorer.restore(window)?;
        let previous = self.previous.take();
        let frame_bytes = window.len() / self.shape.frames();
        for frame in plan.emit.clone() {
            let slot = plan.slot(frame);
            let seen = &window[slot * frame_bytes..][..frame_bytes];
            let new = restored.frame(slot);
            let old = plan.previous_slot(frame).zip(previous.as_ref());
            self.queue
                .finish_frame(self.picture.as_mut(), seen, |pixels| match old {
                    Some((slot, previous)) => cross_fade(previous.frame(slot), new, plan.weight(frame), pixels),
                    None => pixels.copy_from_slice(new),
                });
        }
        self.queue.release_events();
        if !plan.held().is_empty() {
            self.previous = Some(restored);
        }
        self.queue.counts.windows += 1;
        Ok(())
    }
}

/// Frames and events in order.
#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    ready: VecDeque<Item>,
    counts: Counts,
}

impl Queue {
    /// Applies what the graphs made of the first waiting frame, from the pixels `seen` to those that `draw` writes, and
    /// makes it ready.
    fn finish_frame(&mut self, picture: Option<&mut Picture>, seen: &[u8], draw: impl FnOnce(&mut [u8])) {
        self.release_events();
        let Some(Waiting::Frame { mut buffer, strength }) = self.waiting.pop_front() else {
            unreachable!("the planner counts the frames that wait");
        };
        if strength > 0.0 {
            let picture = picture.expect("caps come before frames");
            let info = picture.info().clone();
            match VideoFrameRef::from_buffer_ref_writable(buffer.make_mut(), &info) {
                Ok(mut frame) => picture.apply(&mut frame, strength, seen, draw),
                Err(_) => unreachable!("it was mapped for writing when it was filled"),
            }
            self.counts.restored += 1;
        } else {
            self.counts.bypassed += 1;
        }
        self.ready.push_back(Item::Buffer(buffer));
    }

    /// Events with no frame before them are ready.
    fn release_events(&mut self) {
        while let Some(Waiting::Event(_)) = self.waiting.front() {
            if let Some(Waiting::Event(event)) = self.waiting.pop_front() {
                self.ready.push_back(Item::Event(event));
            }
        }
    }
}
