//! The frames and events that an element holds: in order, until their window is restored.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use gst_video::VideoFrameRef;

use super::live::Watch;
use super::picture::Picture;
use crate::pace::{self, Cause, Moment, Pace};

use crate::restorer::{Reason, RestoreError, Restored, Restorer};
use crate::scene::Signature;
use crate::window::{FrameStore, Plan, Planner, StoreError, Tail, WindowShape, cross_fade};

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

/// What holds at the time of a call.
pub struct Rules<'a> {
    /// Frames may go on unrestored.
    pub may_bypass: bool,
    /// What the clock says; `None` where nothing can be late.
    pub moment: &'a dyn Fn() -> Option<Moment>,
    /// Ends runs at a running time.
    pub watch: &'a dyn Fn(Duration) -> Option<Watch>,
}

/// What waits, in the order of arrival.
enum Waiting {
    Frame(Frame),
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
    pace: Pace,
    /// Frames of the run so far.
    run_frames: u64,
    /// The run follows unrestored frames.
    fades_in: bool,
    /// Of the last frame looked at.
    signature: Option<Signature>,
    /// The next frame's pixels are in the store already.
    is_read: bool,
    /// How much too late the last window was that was.
    late: Option<Duration>,
}

/// What has been done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub windows: u64,
    pub restored: u64,
    pub bypassed: u64,
    pub scene_cuts: u64,
}

impl Stream {
    /// For windows of `shape` and a bundle's frames of `frame_bytes` bytes. `measured` is the time of a window.
    ///
    /// # Errors
    /// Fails where there is no memory for a window.
    pub fn new(shape: WindowShape, frame_bytes: usize, measured: Duration) -> Result<Self, StoreError> {
        Ok(Self {
            shape,
            planner: Planner::new(shape),
            store: FrameStore::new(shape, frame_bytes)?,
            picture: None,
            queue: Queue::default(),
            previous: None,
            pace: Pace::new(shape.frames(), measured),
            run_frames: 0,
            fades_in: false,
            signature: None,
            is_read: false,
            late: None,
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

    /// How long a window is expected to take.
    pub fn expected(&self) -> Duration {
        self.pace.expected()
    }

    /// How much too late a window was since the last call, whether it was restored or not.
    pub fn take_late(&mut self) -> Option<Duration> {
        self.late.take()
    }

    /// The next buffer or event to send.
    pub fn pop_ready(&mut self) -> Option<Item> {
        self.queue.ready.pop_front()
    }

    pub fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.queue.counts)
    }

    /// Takes an event that keeps its place among the frames.
    pub fn push_event(&mut self, event: gst::Event) {
        self.queue.waiting.push_back(Waiting::Event(event));
        self.queue.release_events();
    }

    /// Looks at the next frame, before it is [pushed](Self::push_frame): whether it begins another scene, being farther than
    /// `threshold` from the frame before it.
    ///
    /// # Panics
    /// Panics without a picture.
    pub fn begins_scene(&mut self, input: &VideoFrameRef<&gst::BufferRef>, threshold: f64) -> bool {
        let picture = self.picture.as_mut().expect("caps come before frames");
        picture.read(input, self.store.next());
        self.is_read = true;
        let signature = picture.signature(self.store.next());
        let before = self.signature.replace(signature);
        let is_cut = before
            .zip(self.signature.as_ref())
            .is_some_and(|(before, now)| before.distance(now) > threshold);
        self.queue.counts.scene_cuts += u64::from(is_cut);
        is_cut
    }

    /// Forgets what the last frame looked like: what comes next begins a scene of its own.
    pub fn forget_scene(&mut self) {
        self.signature = None;
    }

    /// Takes a frame: `input` to restore, `frame` to be sent. Restores the window that it completes, unless that could not be
    /// in time.
    ///
    /// # Errors
    /// As [`Restorer::restore`]; the frames are still held then.
    ///
    /// # Panics
    /// Panics without a picture.
    pub fn push_frame(
        &mut self,
        input: &VideoFrameRef<&gst::BufferRef>,
        frame: Frame,
        rules: &Rules<'_>,
        restorer: &mut Restorer,
    ) -> Result<(), RestoreError> {
        if self.pace.bypasses() {
            if !rules.may_bypass {
                self.pace.resume();
            } else if !self.pace.try_restoring(frame.running_time, (rules.moment)().as_ref()) {
                self.is_read = false;
                self.queue.bypass(frame.buffer, Duration::ZERO);
                return Ok(());
            }
            self.fades_in = true;
        }
        if !std::mem::take(&mut self.is_read) {
            let picture = self.picture.as_mut().expect("caps come before frames");
            picture.read(input, self.store.next());
        }
        self.store.commit();
        self.run_frames += 1;
        self.queue.waiting.push_back(Waiting::Frame(frame));
        match self.planner.push() {
            Some(plan) => self.restore(&plan, rules, restorer),
            None => Ok(()),
        }
    }

    /// Takes a frame that is sent as it is, behind those that are held.
    pub fn push_unrestored(&mut self, buffer: gst::Buffer) {
        if self.queue.waiting.is_empty() {
            self.queue.counts.bypassed += 1;
            self.queue.ready.push_back(Item::Buffer(buffer));
        } else {
            // Only to be given up: the run before it could not be ended.
            self.queue.waiting.push_back(Waiting::Frame(Frame {
                buffer,
                strength: 0.0,
                running_time: None,
            }));
        }
    }

    /// Ends the run: restores what is left of it, unless that could not be in time.
    ///
    /// # Errors
    /// As [`Restorer::restore`]; the frames are still held then.
    pub fn drain(&mut self, rules: &Rules<'_>, restorer: &mut Restorer) -> Result<(), RestoreError> {
        match self.planner.finish() {
            Tail::Nothing => {}
            Tail::Window(plan) => self.restore(&plan, rules, restorer)?,
            Tail::Held(frames) => {
                let frames = (frames.end - frames.start) as usize;
                self.finish_held(frames, |_| 1.0);
            }
        }
        self.end_run();
        Ok(())
    }

    /// Makes everything that is held ready as it came, unrestored.
    pub fn give_up(&mut self) {
        for waiting in self.queue.waiting.drain(..) {
            self.queue.ready.push_back(match waiting {
                Waiting::Frame(frame) => {
                    self.queue.counts.bypassed += 1;
                    Item::Buffer(frame.buffer)
                }
                Waiting::Event(event) => Item::Event(event),
            });
        }
        self.end_run();
    }

    /// Makes everything that is held ready, and lets the next frames go on unrestored. What the last window has restored
    /// fades to what it has not.
    pub fn bypass(&mut self, cause: Cause, late: Duration) {
        let held = self.previous.as_ref().map_or(0, |_| self.shape.overlap());
        let held = held.min(self.queue.frames());
        self.finish_held(held, |left| pace::fade_out(left, held));
        while let Some(waiting) = self.queue.waiting.pop_front() {
            match waiting {
                Waiting::Frame(frame) => self.queue.bypass(frame.buffer, late),
                Waiting::Event(event) => self.queue.ready.push_back(Item::Event(event)),
            }
        }
        self.end_run();
        self.pace.bypass(cause);
    }

    /// Forgets everything (flush) but sticky events, which tell of the stream and not of a place in it: those it gives
    /// back.
    pub fn clear(&mut self) -> Vec<gst::Event> {
        let waiting = self.queue.waiting.drain(..).filter_map(|waiting| match waiting {
            Waiting::Event(event) => Some(event),
            Waiting::Frame(_) => None,
        });
        let ready = self.queue.ready.drain(..).filter_map(|item| match item {
            Item::Event(event) => Some(event),
            Item::Buffer(_) | Item::Bypassed(..) => None,
        });
        let sticky = ready.chain(waiting).filter(|event| event.is_sticky()).collect();
        self.end_run();
        self.forget_scene();
        sticky
    }

    fn end_run(&mut self) {
        self.planner.reset();
        self.store.reset();
        self.previous = None;
        self.run_frames = 0;
        self.fades_in = false;
        self.is_read = false;
    }

    /// Makes the first `count` frames ready, which the last window has restored and nothing blends with. `fade` gives the
    /// share of their strength by the number of frames that follow.
    fn finish_held(&mut self, count: usize, fade: impl Fn(usize) -> f64) {
        let Some(restored) = self.previous.take() else {
            debug_assert_eq!(count, 0, "held frames come from a window");
            return;
        };
        let frames = self.queue.frames();
        for at in 0..count {
            let slot = self.shape.frames() - self.shape.overlap() + at;
            let share = fade(count - 1 - at).min(self.entry_share(self.run_frames - (frames - at) as u64));
            let seen = self.store.recent(frames - 1 - at);
            self.queue.finish_frame(self.picture.as_mut(), seen, share, |pixels| {
                pixels.copy_from_slice(restored.frame(slot));
            });
        }
        self.queue.release_events();
    }

    /// Share of the strength for frame `index` of the run, where it follows unrestored frames.
    fn entry_share(&self, index: u64) -> f64 {
        if self.fades_in { pace::fade_in(index) } else { 1.0 }
    }

    fn restore(&mut self, plan: &Plan, rules: &Rules<'_>, restorer: &mut Restorer) -> Result<(), RestoreError> {
        let moment = (rules.moment)();
        let first = self.queue.first_running_time();
        let late = self.pace.lateness(first, moment.as_ref());
        self.late = self.late.max(late);
        if let Some(late) = late.filter(|_| rules.may_bypass) {
            self.bypass(Cause::Late, late);
            return Ok(());
        }
        let started = Instant::now();
        let limit = first.zip(moment).map(|(first, moment)| moment.limit(first));
        let watch = limit.filter(|_| rules.may_bypass).and_then(rules.watch);
        let result = restorer.restore(self.store.window(plan));
        let is_late = restorer.interrupt().is_only(Reason::Late);
        drop(watch);
        let restored = match result {
            Err(RestoreError::Interrupted) if is_late => {
                let late = moment.map_or(Duration::ZERO, |moment| moment.frame / 2);
                self.late = self.late.max(Some(late));
                self.pace.broke_off(started.elapsed());
                self.bypass(Cause::Late, late);
                return Ok(());
            }
            result => result?,
        };

        let fades_out = rules.may_bypass && self.next_would_be_late(plan, rules);
        let last = if fades_out { plan.held().end } else { plan.emit.end };
        let window = self.store.window(plan);
        let previous = self.previous.take();
        let frame_bytes = window.len() / self.shape.frames();
        for frame in plan.emit.start..last {
            let slot = plan.slot(frame);
            let seen = &window[slot * frame_bytes..][..frame_bytes];
            let new = restored.frame(slot);
            let mut share = if self.fades_in { pace::fade_in(frame) } else { 1.0 };
            if fades_out {
                share = share.min(pace::fade_out((last - 1 - frame) as usize, pace::FADE_FRAMES));
            }
            let old = (frame < plan.emit.end).then(|| plan.previous_slot(frame)).flatten();
            let old = old.zip(previous.as_ref());
            self.queue
                .finish_frame(self.picture.as_mut(), seen, share, |pixels| match old {
                    Some((slot, previous)) => cross_fade(previous.frame(slot), new, plan.weight(frame), pixels),
                    None => pixels.copy_from_slice(new),
                });
        }
        self.queue.release_events();
        self.queue.counts.windows += 1;
        self.pace.ran(plan.emit.end - plan.emit.start, started.elapsed());
        if fades_out {
            self.end_run();
            self.pace.bypass(Cause::Late);
        } else if !plan.held().is_empty() {
            self.previous = Some(restored);
        }
        Ok(())
    }

    /// Whether it is known already that the window after `plan` cannot be in time. Better to know now, while there are frames
    /// to fade.
    fn next_would_be_late(&self, plan: &Plan, rules: &Rules<'_>) -> bool {
        if plan.held().is_empty() && self.shape.overlap() > 0 {
            // The last window of a run.
            return false;
        }
        let Some(moment) = (rules.moment)() else {
            return false;
        };
        let at = (plan.emit.end - plan.emit.start) as usize;
        let next = self.queue.running_time(at).or_else(|| {
            let last = self.queue.running_time(at.checked_sub(1)?)?;
            Some(last.saturating_add(moment.frame))
        });
        self.pace.lateness_from(next, Some(&moment)).is_some()
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
    fn waiting_frames(&self) -> impl Iterator<Item = &Frame> {
        self.waiting.iter().filter_map(|waiting| match waiting {
            Waiting::Frame(frame) => Some(frame),
            Waiting::Event(_) => None,
        })
    }

    /// Frames that wait.
    fn frames(&self) -> usize {
        self.waiting_frames().count()
    }

    /// Running time of a waiting frame.
    fn running_time(&self, at: usize) -> Option<Duration> {
        self.waiting_frames().nth(at)?.running_time
    }

    /// Running time of the first waiting frame that has one.
    fn first_running_time(&self) -> Option<Duration> {
        self.waiting_frames().find_map(|frame| frame.running_time)
    }

    /// Makes a frame ready as it came.
    fn bypass(&mut self, buffer: gst::Buffer, late: Duration) {
        self.counts.bypassed += 1;
        self.ready.push_back(Item::Bypassed(buffer, late));
    }

    /// Applies what the graphs made of the first waiting frame, from the pixels `seen` to those that `draw` writes, with
    /// `share` of its strength, and makes it ready.
    fn finish_frame(&mut self, picture: Option<&mut Picture>, seen: &[u8], share: f64, draw: impl FnOnce(&mut [u8])) {
        self.release_events();
        let Some(Waiting::Frame(Frame {
            mut buffer, strength, ..
        })) = self.waiting.pop_front()
        else {
            unreachable!("the planner counts the frames that wait");
        };
        if strength > 0.0 {
            let picture = picture.expect("caps come before frames");
            let info = picture.info().clone();
            match VideoFrameRef::from_buffer_ref_writable(buffer.make_mut(), &info) {
                Ok(mut frame) => picture.apply(&mut frame, strength * share, seen, draw),
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
