// SPDX-License-Identifier: MPL-2.0

//! Whether a window can be in time, what happens when it cannot, and how the picture goes there and back. No GStreamer, no
//! ONNX Runtime: times are durations, running times where they are points.

use std::collections::VecDeque;
use std::time::Duration;

/// Frames over which the strength goes from restored to unrestored or back: long enough for the eye not to see a step, short
/// enough for the frames at hand when a window ends.
pub const FADE_FRAMES: usize = 4;

/// Runs that the expected time of a window is taken from.
const RECENT_RUNS: usize = 8;

/// The longest pause, in first pauses: 11 s with windows of 17 frames at 25 frames a second.
const LONGEST_PAUSE: u64 = 16;

/// Good frames after which all is well again, in first pauses.
const GOOD_PAUSES: u64 = 2;

/// What the clock says when a window is about to start in a live pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Running time of the clock.
    pub now: Duration,
    /// From a frame's running time to its arrival, as upstream tells.
    pub upstream: Duration,
    /// From a frame's running time until it must have left: the latency of upstream and of the element itself.
    pub latency: Duration,
    /// Duration of a frame; zero where it is not known.
    pub frame: Duration,
    /// Frames before this running time come too late downstream, as a sink told.
    pub earliest: Option<Duration>,
}

impl Moment {
    /// When the frame of running time `first` must have left. A quarter of a frame is no delay: nobody sees it, and clocks are not
    /// that exact.
    pub fn limit(&self, first: Duration) -> Duration {
        first.saturating_add(self.latency).saturating_add(self.frame / 4)
    }

    /// How much too late the frame of running time `first` leaves if a run of `takes` starts at `start`; `None` if it is in
    /// time.
    pub fn lateness(&self, first: Duration, start: Duration, takes: Duration) -> Option<Duration> {
        let end = start.max(self.now).saturating_add(takes);
        let by_clock = (end > self.limit(first)).then(|| end - first.saturating_add(self.latency));
        let by_sink = self.earliest.and_then(|earliest| earliest.checked_sub(first));
        by_clock.max(by_sink.filter(|late| !late.is_zero()))
    }

    /// When the last of `frames` frames arrives whose first has the running time `first`: later than now, or now.
    pub fn arrival(&self, first: Duration, frames: u64) -> Duration {
        let frames = u32::try_from(frames.saturating_sub(1)).unwrap_or(u32::MAX);
        first
            .saturating_add(self.frame.saturating_mul(frames))
            .saturating_add(self.upstream)
            .max(self.now)
    }
}

/// How long a window is going to take.
#[derive(Clone, Debug)]
pub struct Expected {
    recent: VecDeque<Duration>,
    /// The shortest ever; `None` where there was none.
    best: Option<Duration>,
}

impl Expected {
    /// From the first run that was measured; `None`: none was.
    pub fn new(first: impl Into<Option<Duration>>) -> Self {
        Self {
            recent: VecDeque::new(),
            best: first.into(),
        }
    }

    /// Takes the time of a run.
    pub fn add(&mut self, run: Duration) {
        self.add_at_least(run);
        self.best = Some(self.best.map_or(run, |best| best.min(run)));
    }

    /// Takes the time after which a run was ended.
    pub fn add_at_least(&mut self, run: Duration) {
        if self.recent.len() == RECENT_RUNS {
            self.recent.pop_front();
        }
        self.recent.push_back(run);
    }

    /// The second longest of the last eight runs and the best one: one run that took long for a reason of its own does not
    /// count, two do.
    pub fn time(&self) -> Duration {
        let best = self.best.unwrap_or_default();
        let (mut longest, mut second) = (best, best);
        for run in &self.recent {
            if *run > longest {
                (longest, second) = (*run, longest);
            } else {
                second = second.max(*run);
            }
        }
        second
    }

    /// Forgets the longest of the last runs. While nothing runs nothing is measured, and what made the runs long may be over.
    pub fn forget_longest(&mut self) {
        let longest = self.recent.iter().enumerate().max_by_key(|(_, run)| **run);
        if let Some((at, _)) = longest {
            self.recent.remove(at);
        }
    }
}

/// Pauses after failures, each twice as long as the one before, in frames.
#[derive(Clone, Debug)]
pub struct BackOff {
    /// The first pause.
    unit: u64,
    /// The next one.
    next: u64,
    /// Frames until the pause is over.
    left: u64,
    /// Good frames since the last pause.
    good: u64,
}

impl BackOff {
    /// With a first pause of `unit` frames.
    pub fn new(unit: u64) -> Self {
        Self {
            unit,
            next: unit,
            left: 0,
            good: 0,
        }
    }

    /// Begins a pause.
    pub fn fail(&mut self) {
        self.left = self.next;
        self.next = self.next.saturating_mul(2).min(self.unit.saturating_mul(LONGEST_PAUSE));
        self.good = 0;
    }

    /// Counts a frame of the pause.
    pub fn wait(&mut self) {
        self.left = self.left.saturating_sub(1);
    }

    pub fn is_over(&self) -> bool {
        self.left == 0
    }

    /// Counts good frames. After some windows of them pauses begin short again: what goes wrong now and then, and not at once
    /// after each pause, is no reason for long ones.
    pub fn succeed(&mut self, frames: u64) {
        self.good = self.good.saturating_add(frames);
        if self.good >= self.unit.saturating_mul(GOOD_PAUSES) {
            self.next = self.unit;
        }
    }
}

/// Why frames go on unrestored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The window would be too late.
    Late,
    /// A run failed.
    Failed,
}

/// When frames are restored and when they go on as they came.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Frames of a window.
    window: u64,
    expected: Expected,
    late: BackOff,
    failed: BackOff,
    /// Until another region is tried beside those that there is time for.
    crowd: BackOff,
    bypasses: bool,
    /// A window was restored since frames went on unrestored, and no run was ended since.
    is_good: bool,
    /// Frames that waited for room since the last pause was over.
    waited: u64,
    /// What it took lately until a run was over that was told to end.
    ending: Duration,
}

impl Pace {
    /// For windows of `window` frames, one of which took `first` when it was measured; `None`: none was.
    pub fn new(window: usize, first: impl Into<Option<Duration>>) -> Self {
        let window = window as u64;
        Self {
            window,
            expected: Expected::new(first),
            late: BackOff::new(window),
            failed: BackOff::new(window),
            crowd: BackOff::new(window),
            bypasses: false,
            is_good: false,
            waited: 0,
            ending: Duration::ZERO,
        }
    }

    /// Takes the time of a window, where nothing was measured at first.
    pub fn set_measured(&mut self, first: Duration) {
        self.expected = Expected::new(first);
    }

    /// How long a window is expected to take.
    pub fn expected(&self) -> Duration {
        self.expected.time()
    }

    /// Whether frames go on unrestored.
    pub fn bypasses(&self) -> bool {
        self.bypasses
    }

    /// Takes a window that made `frames` frames final, and what it took.
    pub fn ran(&mut self, frames: u64, took: Duration) {
        self.expected.add(took);
        self.late.succeed(frames);
        self.failed.succeed(frames);
        self.is_good = true;
    }

    /// Takes a window that was ended after so long, since it would have been late: it takes longer than that.
    pub fn broke_off(&mut self, after: Duration) {
        self.expected.add_at_least(after);
        self.is_good = false;
    }

    /// When a run has to be told to end for its first frame to leave by `limit`. ONNX Runtime ends a run between two operators, the longest
    /// of which is a share of the run; at most what `needed` has to spare, so that a run that is expected to be in time
    /// is not ended.
    pub fn end_by(&self, limit: Duration) -> Duration {
        let expected = self.expected.time();
        limit.saturating_sub(self.ending.clamp(expected / 20, expected / 8))
    }

    /// Takes how long after it was told to end a run was over.
    pub fn ended(&mut self, after: Duration) {
        self.ending = after.max(self.ending * 7 / 8);
    }

    /// From now on frames go on unrestored.
    ///
    /// A machine that is a little too slow falls behind with each window until one would be late. It has done what it could, and
    /// lost nothing: it goes on as soon as there is room, without a pause.
    pub fn bypass(&mut self, cause: Cause) {
        self.bypasses = true;
        self.waited = 0;
        let was_good = std::mem::take(&mut self.is_good);
        match cause {
            Cause::Late if was_good => {}
            Cause::Late => self.late.fail(),
            Cause::Failed => self.failed.fail(),
        }
    }

    /// Whether the next frame, of running time `first`, begins a window: there is room for one, and the pause after what went
    /// wrong is over. To be asked for every frame while it [bypasses](Self::bypasses).
    pub fn try_restoring(&mut self, first: Option<Duration>, moment: Option<&Moment>) -> bool {
        if !(self.late.is_over() && self.failed.is_over()) {
            self.late.wait();
            self.failed.wait();
            return false;
        }
        if self.lateness_from(1, first, moment).is_some() {
            if self.waited.is_multiple_of(self.window) {
                self.expected.forget_longest();
            }
            self.waited += 1;
            return false;
        }
        self.bypasses = false;
        true
    }

    /// Frames are restored again, whatever was.
    pub fn resume(&mut self) {
        self.bypasses = false;
        self.late = BackOff::new(self.window);
        self.failed = BackOff::new(self.window);
        self.crowd = BackOff::new(self.window);
    }

    /// There was no time for all regions.
    pub fn crowded(&mut self) {
        self.crowd.fail();
    }

    /// Takes a window that made `frames` frames final, while there was time for all of several regions.
    pub fn kept_up(&mut self, frames: u64) {
        self.crowd.succeed(frames);
    }

    /// Counts a frame, of those until another region is tried.
    pub fn wait_for_room(&mut self) {
        self.crowd.wait();
    }

    /// Whether another region may be tried beside those that are restored.
    pub fn has_room(&self) -> bool {
        self.crowd.is_over()
    }

    /// How many of `regions`, one at least, can be restored at once: their windows, of which the next ones begin `stride` frames later,
    /// are in time together and take no longer than those frames. The windows' first frame has the running time `first`.
    pub fn fitting(&self, regions: usize, stride: usize, first: Option<Duration>, moment: Option<&Moment>) -> usize {
        let between = moment.map(|moment| moment.frame.saturating_mul(u32::try_from(stride).unwrap_or(u32::MAX)));
        let between = between.filter(|time| !time.is_zero());
        let fits = |count: usize| {
            between.is_none_or(|time| self.needed(count) <= time) && self.lateness_from(count, first, moment).is_none()
        };
        (2..=regions).rev().find(|count| fits(*count)).unwrap_or(1)
    }

    /// What `windows` that run one after the other must have to be started: an eighth more than is expected, for runs
    /// are not all equally long. Of the margin in the latency that is about half.
    fn needed(&self, windows: usize) -> Duration {
        let expected = self
            .expected()
            .saturating_mul(u32::try_from(windows).unwrap_or(u32::MAX));
        expected.saturating_add(expected / 8)
    }

    /// How much too late the frame of running time `first` would leave after as many windows as that, the first of which starts
    /// now.
    pub fn lateness(&self, windows: usize, first: Option<Duration>, moment: Option<&Moment>) -> Option<Duration> {
        let (first, moment) = first.zip(moment)?;
        moment.lateness(first, moment.now, self.needed(windows))
    }

    /// The same for windows that begin with the frame of running time `first`, and start when their last one is there.
    pub fn lateness_from(&self, windows: usize, first: Option<Duration>, moment: Option<&Moment>) -> Option<Duration> {
        let (first, moment) = first.zip(moment)?;
        moment.lateness(first, moment.arrival(first, self.window), self.needed(windows))
    }
}

/// Share of the strength for frame `index` of a run that follows unrestored frames.
pub fn fade_in(index: u64) -> f64 {
    let index = usize::try_from(index).unwrap_or(FADE_FRAMES).min(FADE_FRAMES);
    (index + 1) as f64 / (FADE_FRAMES + 1) as f64
}

/// Share of the strength for the frame that `left` frames follow before unrestored ones, where `fades` frames fade.
pub fn fade_out(left: usize, fades: usize) -> f64 {
    let fades = fades.min(FADE_FRAMES);
    (left.min(fades) + 1) as f64 / (fades + 1) as f64
}

#[cfg(test)]
mod simulation;

#[cfg(test)]
mod tests;
