// SPDX-License-Identifier: MPL-2.0

//! The runs of the regions that are restored, and the frames that wait for them.
//!
//! Every region has its own run: its own windows, by the rules of [`window`](crate::window), from the frame in which it begins to the
//! last one before it ends. All frames wait in one queue. A frame leaves when what is restored of it is final: after a window's
//! frames at most, however many regions it has. A frame without a region waits for those before it only.
//!
//! Where several windows are complete with the same frame they run in turn, the largest region's first.

use std::time::{Duration, Instant};

use gst_video::VideoFrameRef;

use super::imp::CAT;
use super::live::Watch;
use super::picture::Picture;
use super::queue::Queue;
pub use super::queue::{Counts, Frame, Item};
use super::regions::{Pictures, Region, WHOLE};
use super::run::Run;
use crate::pace::{self, Cause, Moment, Pace};
use crate::restorer::{Reason, RestoreError, Restorer};
use crate::scene::Signature;
use crate::window::{Plan, StoreError, Tail, WindowShape, cross_fade};

/// What holds at the time of a call.
pub struct Rules<'a> {
    /// Frames may go on unrestored.
    pub may_bypass: bool,
    /// What the clock says; `None` where nothing can be late.
    pub moment: &'a dyn Fn() -> Option<Moment>,
    /// Ends runs at a running time.
    pub watch: &'a dyn Fn(Duration) -> Option<Watch>,
}

/// A stream's frames, events and pixels. Calls that may run the graphs take the restorer.
pub struct Stream {
    shape: WindowShape,
    frame_bytes: usize,
    /// Of the current caps.
    pictures: Option<Pictures>,
    queue: Queue,
    /// Regions of the last frame.
    runs: Vec<Run>,
    /// Memory of runs that have ended, for the next ones.
    spare: Vec<Run>,
    /// Regions at once that were to be restored, at most, so far.
    most_runs: usize,
    /// Runs of regions of the last frame that there was no time for.
    left_out: Vec<u64>,
    pace: Pace,
    /// Of the last frame looked at.
    signature: Option<Signature>,
    /// The next frame's pixels are in the whole frame's store already.
    is_read: bool,
    /// Memory to look at frames, where they are not restored whole.
    glance: Vec<u8>,
    /// How much too late the last window was that was.
    late: Option<Duration>,
}

impl Stream {
    /// For windows of `shape` and a bundle's frames of `frame_bytes` bytes. `measured` is the time of a window; `None` where
    /// that is not known, and nothing is late.
    ///
    /// # Errors
    /// Fails where there is no memory for a window.
    pub fn new(shape: WindowShape, frame_bytes: usize, measured: Option<Duration>) -> Result<Self, StoreError> {
        Ok(Self {
            shape,
            frame_bytes,
            pictures: None,
            queue: Queue::default(),
            runs: Vec::new(),
            spare: vec![Run::new(shape, frame_bytes)?],
            most_runs: 1,
            left_out: Vec::new(),
            pace: Pace::new(shape.frames(), measured),
            signature: None,
            is_read: false,
            glance: Vec::new(),
            late: None,
        })
    }

    /// Takes the frames' caps. The frames of the caps before must have been drained.
    pub fn set_pictures(&mut self, pictures: Pictures) {
        debug_assert!(!self.holds_frames());
        self.pictures = Some(pictures);
    }

    /// Takes the time of a window, where the stream began without.
    pub fn set_measured(&mut self, measured: Duration) {
        self.pace.set_measured(measured);
    }

    /// The way of whole frames.
    pub fn picture(&self) -> Option<&Picture> {
        self.pictures.as_ref().map(|pictures| &pictures.whole)
    }

    pub fn pictures(&self) -> Option<&Pictures> {
        self.pictures.as_ref()
    }

    pub fn shape(&self) -> WindowShape {
        self.shape
    }

    /// Whether frames wait for their window.
    pub fn holds_frames(&self) -> bool {
        self.queue.holds_frames()
    }

    /// Whether no frame waits, and no run goes on.
    pub fn is_idle(&self) -> bool {
        !self.holds_frames() && self.runs.is_empty()
    }

    /// How long the windows that may be complete with one frame are expected to take: as many as there have been regions at once.
    pub fn expected(&self) -> Duration {
        self.pace.expected() * self.most_runs as u32
    }

    /// How much too late a window was since the last call, whether it was restored or not.
    pub fn take_late(&mut self) -> Option<Duration> {
        self.late.take()
    }

    /// The next buffer or event to send.
    pub fn pop_ready(&mut self) -> Option<Item> {
        self.queue.pop_ready()
    }

    pub fn take_counts(&mut self) -> Counts {
        let mut counts = std::mem::take(&mut self.queue.counts);
        counts.regions_in_memory = (self.runs.len() + self.spare.len()) as u64;
        counts.converting = self.pictures.as_mut().map(Pictures::take_spent).unwrap_or_default();
        counts
    }

    /// Takes an event that keeps its place among the frames.
    pub fn push_event(&mut self, event: gst::Event) {
        self.queue.push_event(event);
    }

    /// Looks at the next frame, before it is [pushed](Self::push_frame): whether it begins another scene, being farther than
    /// `threshold` from the frame before it.
    ///
    /// # Panics
    /// Panics without pictures.
    pub fn begins_scene(&mut self, input: &VideoFrameRef<&gst::BufferRef>, threshold: f64) -> bool {
        let is_whole = self.pictures.as_ref().is_some_and(|pictures| pictures.faces.is_none());
        // Where the whole frame is restored, what is looked at need not be read again.
        let run = is_whole.then(|| self.run_or_new(WHOLE).ok()).flatten();
        let picture = &mut self.pictures.as_mut().expect("caps come before frames").whole;
        let pixels = match run {
            Some(at) => {
                self.is_read = true;
                self.runs[at].store.next()
            }
            None => {
                self.glance.resize(picture.read_bytes(), 0);
                &mut self.glance[..]
            }
        };
        picture.read(input, pixels);
        let signature = picture.signature(pixels);
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

    /// Takes a frame: `regions` of `input` to restore, the most urgent first, `frame` to be sent. Regions that are no longer there
    /// end. Restores the windows that are complete then, unless that could not be in time.
    ///
    /// # Errors
    /// As [`Restorer::restore`]; the frames are still held then.
    ///
    /// # Panics
    /// Panics without pictures.
    pub fn push_frame(
        &mut self,
        input: &VideoFrameRef<&gst::BufferRef>,
        frame: Frame,
        mut regions: Vec<Region>,
        rules: &Rules<'_>,
        restorer: &mut Restorer,
    ) -> Result<(), RestoreError> {
        let mut fades_in = false;
        if self.pace.bypasses() && !regions.is_empty() {
            // Those that there is time for: whether there is time for one is the question.
            if !rules.may_bypass {
                self.pace.resume();
            } else if !self.pace.try_restoring(frame.running_time, (rules.moment)().as_ref()) {
                self.is_read = false;
                self.queue.bypass(frame.buffer, Duration::ZERO);
                return Ok(());
            }
            fades_in = true;
        }
        let late_comers = self.admit(&mut regions, frame.running_time, rules);
        regions.retain(|region| self.read(input, region, fades_in || late_comers.contains(&region.run())));
        self.is_read = false;
        let runs: Vec<u64> = regions.iter().map(Region::run).collect();
        self.queue.push(frame, regions);

        let gone = self.runs.iter().map(|run| run.id).filter(|run| !runs.contains(run));
        for run in gone.collect::<Vec<_>>() {
            self.finish_run(run, rules, restorer)?;
        }
        let mut due = Vec::new();
        for id in runs {
            if let Some(run) = self.runs.iter_mut().find(|run| run.id == id)
                && let Some(plan) = run.planner.push()
            {
                due.push((id, plan));
            }
        }
        while !due.is_empty() {
            self.keep_up(&mut due, rules);
            let together = due.len();
            let (run, plan) = due.remove(0);
            self.restore(run, &plan, together, rules, restorer)?;
            if self.pace.bypasses() {
                // Every run has ended.
                break;
            }
        }
        Ok(())
    }

    /// Leaves those of `regions` out that there is no time for beside the others, from the last on, where frames may go on unrestored.
    /// Gives the runs of those that begin now and were left out before.
    fn admit(&mut self, regions: &mut Vec<Region>, first: Option<Duration>, rules: &Rules<'_>) -> Vec<u64> {
        self.most_runs = self.most_runs.max(regions.len());
        let were_left_out = std::mem::take(&mut self.left_out);
        self.pace.wait_for_room();
        if rules.may_bypass && regions.len() > 1 {
            let is_running = |runs: &[Run], region: &Region| runs.iter().any(|run| run.id == region.run());
            let running = regions.iter().filter(|region| is_running(&self.runs, region)).count();
            let most = self
                .pace
                .fitting(regions.len(), self.shape.stride(), first, (rules.moment)().as_ref());
            let most = if self.pace.has_room() { most } else { 1 };
            let mut free = most.saturating_sub(running);
            regions.retain(|region| {
                let is_running = is_running(&self.runs, region);
                let is_admitted = is_running || free > 0;
                free -= usize::from(is_admitted && !is_running);
                if !is_admitted {
                    self.left_out.push(region.run());
                }
                is_admitted
            });
        }
        let mut late_comers = were_left_out;
        late_comers.retain(|run| !self.left_out.contains(run));
        late_comers
    }

    /// Leaves the last of the windows that are complete out, and their regions with them, where they would make the frame late and
    /// frames may go on unrestored.
    fn keep_up(&mut self, due: &mut Vec<(u64, Plan)>, rules: &Rules<'_>) {
        if !rules.may_bypass || due.len() < 2 {
            return;
        }
        let (first, moment) = (self.queue.first_running_time(), (rules.moment)());
        let lateness = |windows: usize| self.pace.lateness(windows, first, moment.as_ref());
        if lateness(due.len()).is_none() {
            return;
        }
        let most = (1..due.len()).rev().find(|windows| lateness(*windows).is_none());
        self.pace.crowded();
        for (run, _) in due.split_off(most.unwrap_or(1)) {
            self.leave_out(run);
        }
    }

    /// Ends a run whose region there is no time for. What its last window has restored fades.
    fn leave_out(&mut self, id: u64) {
        let Some(at) = self.runs.iter().position(|run| run.id == id) else {
            return;
        };
        gst::debug!(CAT, "no time for face {id} beside the others");
        self.fade_held(at);
        self.queue.leave_out(id);
        self.end_run(id);
        self.left_out.push(id);
    }

    /// Takes a frame that is sent as it is, behind those that are held.
    pub fn push_unrestored(&mut self, buffer: gst::Buffer) {
        self.queue.push_unrestored(buffer);
    }

    /// Ends all runs: restores what is left of them, unless that could not be in time.
    ///
    /// # Errors
    /// As [`Restorer::restore`]; the frames are still held then.
    pub fn drain(&mut self, rules: &Rules<'_>, restorer: &mut Restorer) -> Result<(), RestoreError> {
        while let Some(run) = self.runs.first().map(|run| run.id) {
            self.finish_run(run, rules, restorer)?;
        }
        self.is_read = false;
        Ok(())
    }

    /// Makes everything that is held ready as it came, unrestored.
    pub fn give_up(&mut self) {
        self.queue.release_all(None);
        self.end_runs();
    }

    /// Makes everything that is held ready, and lets the next frames go on unrestored. What the last windows have restored
    /// fades to what they have not.
    pub fn bypass(&mut self, cause: Cause, late: Duration) {
        self.bypass_all(cause, late, self.runs.len() > 1);
    }

    /// The same; `is_crowd`: with fewer regions there might be time.
    fn bypass_all(&mut self, cause: Cause, late: Duration, is_crowd: bool) {
        for at in 0..self.runs.len() {
            self.fade_held(at);
        }
        if cause == Cause::Late && is_crowd {
            self.pace.crowded();
        }
        self.queue.release_all(Some(late));
        self.end_runs();
        self.pace.bypass(cause);
    }

    /// Forgets everything (flush) but sticky events, which tell of the stream and not of a place in it: those it gives
    /// back.
    pub fn clear(&mut self) -> Vec<gst::Event> {
        self.left_out.clear();
        let sticky = self.queue.clear();
        self.end_runs();
        self.forget_scene();
        sticky
    }

    /// Where a run is; a new one where there is none.
    fn run_or_new(&mut self, id: u64) -> Result<usize, StoreError> {
        if let Some(at) = self.runs.iter().position(|run| run.id == id) {
            return Ok(at);
        }
        let spare = self.spare.pop().map(Ok);
        let run = spare.unwrap_or_else(|| Run::new(self.shape, self.frame_bytes))?;
        self.runs.push(Run { id, ..run });
        Ok(self.runs.len() - 1)
    }

    /// Reads a region's pixels into its run's store. Where that cannot be, the region is left alone in this frame.
    fn read(&mut self, input: &VideoFrameRef<&gst::BufferRef>, region: &Region, fades_in: bool) -> bool {
        let at = match self.run_or_new(region.run()) {
            Ok(at) => at,
            Err(error) => {
                gst::error!(CAT, "a face is left alone: {error}");
                return false;
            }
        };
        let run = &mut self.runs[at];
        if !self.is_read {
            let pictures = self.pictures.as_mut().expect("caps come before frames");
            if let Err(error) = pictures.read(input, region, run.store.next()) {
                gst::error!(CAT, "a face is left alone: {error}");
                return false;
            }
        }
        run.fades_in |= fades_in && run.frames == 0;
        run.store.commit();
        run.frames += 1;
        true
    }

    fn end_runs(&mut self) {
        while let Some(run) = self.runs.last().map(|run| run.id) {
            self.end_run(run);
        }
        self.is_read = false;
    }

    fn end_run(&mut self, id: u64) {
        let Some(at) = self.runs.iter().position(|run| run.id == id) else {
            return;
        };
        let mut run = self.runs.remove(at);
        run.reset();
        self.spare.push(run);
    }

    /// Ends a run: restores what is left of it, unless that could not be in time.
    fn finish_run(&mut self, id: u64, rules: &Rules<'_>, restorer: &mut Restorer) -> Result<(), RestoreError> {
        let Some(at) = self.runs.iter().position(|run| run.id == id) else {
            return Ok(());
        };
        match self.runs[at].planner.finish() {
            Tail::Nothing => {}
            Tail::Window(plan) => self.restore(id, &plan, 1, rules, restorer)?,
            Tail::Held(frames) => {
                let frames = (frames.end - frames.start) as usize;
                self.finish_held(at, frames, |_| 1.0);
            }
        }
        self.end_run(id);
        Ok(())
    }

    /// Makes the first `count` frames of a run final, which the last window has restored and nothing blends with. `fade` gives the
    /// share of their strength by the number of frames that follow.
    fn finish_held(&mut self, at: usize, count: usize, fade: impl Fn(usize) -> f64) {
        let run = &mut self.runs[at];
        let Some(restored) = run.previous.take() else {
            debug_assert_eq!(count, 0, "held frames come from a window");
            return;
        };
        let pictures = self.pictures.as_mut().expect("caps come before frames");
        let frames = self.queue.pending(run.id);
        for at in 0..count {
            let slot = self.shape.frames() - self.shape.overlap() + at;
            let share = fade(count - 1 - at).min(run.entry_share(run.frames - (frames - at) as u64));
            let seen = run.store.recent(frames - 1 - at);
            self.queue.finish_region(run.id, pictures, seen, share, |pixels| {
                pixels.copy_from_slice(restored.frame(slot));
            });
        }
    }

    /// Makes the frames of a run final that its last window has restored: they fade to unrestored ones.
    fn fade_held(&mut self, at: usize) {
        let held = self.runs[at].previous.as_ref().map_or(0, |_| self.shape.overlap());
        let held = held.min(self.queue.pending(self.runs[at].id));
        self.finish_held(at, held, |left| pace::fade_out(left, held));
    }

    /// Restores a window, the first of `together` that are complete.
    fn restore(
        &mut self,
        id: u64,
        plan: &Plan,
        together: usize,
        rules: &Rules<'_>,
        restorer: &mut Restorer,
    ) -> Result<(), RestoreError> {
        let moment = (rules.moment)();
        let first = self.queue.first_running_time();
        let late = self.pace.lateness(together, first, moment.as_ref());
        self.late = self.late.max(late);
        if let Some(late) = late.filter(|_| rules.may_bypass) {
            self.bypass(Cause::Late, late);
            return Ok(());
        }
        let started = Instant::now();
        let limit = first
            .zip(moment)
            .map(|(first, moment)| self.pace.end_by(moment.limit(first)));
        let watch = limit.filter(|_| rules.may_bypass).and_then(rules.watch);
        let at = self.runs.iter().position(|run| run.id == id);
        let at = at.expect("a run that ends is restored before");
        let result = restorer.restore(self.runs[at].store.window(plan));
        let is_late = restorer.interrupt().is_only(Reason::Late);
        if let Some((limit, moment)) = limit.filter(|_| watch.is_some()).zip((rules.moment)())
            && moment.now > limit
        {
            self.pace.ended(moment.now - limit);
        }
        drop(watch);
        let restored = match result {
            Err(RestoreError::Interrupted) if is_late => {
                let late = moment.map_or(Duration::ZERO, |moment| moment.frame / 4);
                self.late = self.late.max(Some(late));
                self.pace.broke_off(started.elapsed());
                self.bypass(Cause::Late, late);
                return Ok(());
            }
            result => result?,
        };

        let fades_out = rules.may_bypass && self.next_would_be_late(id, plan, rules);
        let last = if fades_out { plan.held().end } else { plan.emit.end };
        let is_crowd = self.runs.len() > 1;
        let run = &mut self.runs[at];
        let pictures = self.pictures.as_mut().expect("caps come before frames");
        let previous = run.previous.take();
        let fades_in = run.fades_in;
        let window = run.store.window(plan);
        let frame_bytes = window.len() / self.shape.frames();
        for frame in plan.emit.start..last {
            let slot = plan.slot(frame);
            let seen = &window[slot * frame_bytes..][..frame_bytes];
            let new = restored.frame(slot);
            let mut share = if fades_in { pace::fade_in(frame) } else { 1.0 };
            if fades_out {
                share = share.min(pace::fade_out((last - 1 - frame) as usize, pace::FADE_FRAMES));
            }
            let old = (frame < plan.emit.end).then(|| plan.previous_slot(frame)).flatten();
            let old = old.zip(previous.as_ref());
            self.queue.finish_region(id, pictures, seen, share, |pixels| match old {
                Some((slot, previous)) => cross_fade(previous.frame(slot), new, plan.weight(frame), pixels),
                None => pixels.copy_from_slice(new),
            });
        }
        self.queue.counts.windows += 1;
        self.pace.ran(plan.emit.end - plan.emit.start, started.elapsed());
        if is_crowd && self.left_out.is_empty() {
            self.pace.kept_up(plan.emit.end - plan.emit.start);
        }
        if fades_out {
            self.end_run(id);
            // The other regions stop, too; the largest ones that there is time for begin together again.
            self.bypass_all(Cause::Late, Duration::ZERO, is_crowd);
        } else if !plan.held().is_empty() {
            run.previous = Some(restored);
        }
        Ok(())
    }

    /// Whether it is known already that the window after `plan` cannot be in time. Better to know now, while there are frames
    /// to fade.
    fn next_would_be_late(&mut self, run: u64, plan: &Plan, rules: &Rules<'_>) -> bool {
        if plan.held().is_empty() && self.shape.overlap() > 0 {
            // The last window of a run.
            return false;
        }
        let Some(moment) = (rules.moment)() else {
            return false;
        };
        let at = (plan.emit.end - plan.emit.start) as usize;
        let next = self.queue.running_time(run, at).or_else(|| {
            let last = self.queue.running_time(run, at.checked_sub(1)?)?;
            Some(last.saturating_add(moment.frame))
        });
        self.pace.lateness_from(1, next, Some(&moment)).is_some()
    }
}
