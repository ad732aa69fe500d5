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
    bypasses: bool,
    /// A window was restored since frames went on unrestored, and no run was ended since.
    is_good: bool,
    /// Frames that waited for room since the last pause was over.
    waited: u64,
    /// Windows that run one after the other before a frame may leave.
    together: u32,
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
            bypasses: false,
            is_good: false,
            waited: 0,
            together: 1,
            ending: Duration::ZERO,
        }
    }

    /// Takes the time of a window, where nothing was measured at first.
    pub fn set_measured(&mut self, first: Duration) {
        self.expected = Expected::new(first);
    }

    /// From now on as many windows run one after the other before a frame may leave.
    pub fn run_together(&mut self, windows: usize) {
        self.together = u32::try_from(windows).unwrap_or(u32::MAX).max(1);
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
        if self.lateness_from(first, moment).is_some() {
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
    }

    /// What the windows that run together must have to be started: an eighth more than is expected, for runs are not all equally
    /// long. Of the margin in the latency that is about half.
    fn needed(&self) -> Duration {
        let expected = self.expected().saturating_mul(self.together);
        expected.saturating_add(expected / 8)
    }

    /// How much too late a window would be that starts now, and whose first frame has the running time `first`.
    pub fn lateness(&self, first: Option<Duration>, moment: Option<&Moment>) -> Option<Duration> {
        let (first, moment) = first.zip(moment)?;
        moment.lateness(first, moment.now, self.needed())
    }

    /// The same for a window whose first frame has the running time `first`, and that starts when its last one is there.
    pub fn lateness_from(&self, first: Option<Duration>, moment: Option<&Moment>) -> Option<Duration> {
        let (first, moment) = first.zip(moment)?;
        moment.lateness(first, moment.arrival(first, self.window), self.needed())
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    /// 25 frames a second, 5 frames a window, 120 ms for a window, a source that is 10 ms late.
    fn moment(now: u64) -> Moment {
        Moment {
            now: ms(now),
            upstream: ms(10),
            latency: ms(10 + 4 * 40 + 120),
            frame: ms(40),
            earliest: None,
        }
    }

    #[test]
    fn a_run_is_told_to_end_before_its_frame_has_to_leave() {
        let ms = Duration::from_millis;
        let mut pace = Pace::new(5, ms(1000));
        let before = |pace: &Pace| ms(3000) - pace.end_by(ms(3000));
        assert_eq!(before(&pace), ms(50));
        pace.ended(ms(80));
        assert_eq!(before(&pace), ms(80));
        pace.ended(ms(1));
        assert_eq!(before(&pace), ms(70), "it is forgotten slowly");
        pace.ended(ms(700));
        assert_eq!(before(&pace), ms(125), "a run that takes what is expected is not ended");
        for _ in 0..100 {
            pace.ended(ms(1));
        }
        assert_eq!(before(&pace), ms(50));
        assert_eq!(pace.end_by(ms(20)), Duration::ZERO);
    }

    #[test]
    fn a_window_that_starts_when_its_last_frame_arrives_is_in_time() {
        let arrival = moment(0).arrival(ms(1000), 5);
        assert_eq!(arrival, ms(1000 + 160 + 10));
        let lateness = |start, takes| moment(0).lateness(ms(1000), start, ms(takes));
        assert_eq!(lateness(arrival, 120), None);
        assert_eq!(lateness(arrival, 130), None, "a quarter of a frame is no delay");
        assert_eq!(lateness(arrival, 131), Some(ms(11)));
        assert_eq!(lateness(arrival + ms(50), 120), Some(ms(50)));
        assert_eq!(moment(5000).arrival(ms(1000), 5), ms(5000), "what waits is there");
        assert_eq!(
            moment(1180).lateness(ms(1000), ms(0), ms(131)),
            Some(ms(21)),
            "nothing starts before now"
        );
    }

    #[test]
    fn a_late_sink_counts() {
        let mut moment = moment(1100);
        moment.earliest = Some(ms(1030));
        assert_eq!(moment.lateness(ms(1000), ms(1100), ms(10)), Some(ms(30)));
        assert_eq!(moment.lateness(ms(1030), ms(1100), ms(10)), None);
    }

    #[test]
    fn one_long_run_is_not_expected_again_and_two_are() {
        let mut expected = Expected::new(ms(50));
        assert_eq!(expected.time(), ms(50));
        expected.add(ms(900));
        assert_eq!(expected.time(), ms(50));
        expected.add(ms(60));
        assert_eq!(expected.time(), ms(60));
        expected.add(ms(800));
        assert_eq!(expected.time(), ms(800));
        for _ in 0..RECENT_RUNS {
            expected.add(ms(55));
        }
        assert_eq!(expected.time(), ms(55));
        for _ in 0..RECENT_RUNS + 1 {
            expected.forget_longest();
        }
        assert_eq!(expected.time(), ms(50), "the best stays");
    }

    #[test]
    fn pauses_double_up_to_a_bound_and_shrink_after_some_good_windows() {
        let mut back_off = BackOff::new(5);
        let pause = |back_off: &mut BackOff| {
            back_off.fail();
            let mut frames = 0;
            while !back_off.is_over() {
                back_off.wait();
                frames += 1;
            }
            frames
        };
        assert_eq!(
            (0..6).map(|_| pause(&mut back_off)).collect::<Vec<_>>(),
            [5, 10, 20, 40, 80, 80]
        );
        back_off.succeed(9);
        assert_eq!(pause(&mut back_off), 80);
        back_off.succeed(9);
        back_off.succeed(1);
        assert_eq!(pause(&mut back_off), 5);
    }

    #[test]
    fn restoring_goes_on_after_the_pause_where_there_is_room() {
        let mut pace = Pace::new(5, ms(100));
        assert!(!pace.bypasses());
        pace.bypass(Cause::Late);
        let frame = |index: u64| Some(ms(index * 40));
        // In time from frame 30 on.
        let mut restored = None;
        for index in 0..40 {
            let now = if index < 30 { index * 40 + 400 } else { index * 40 + 10 };
            if pace.try_restoring(frame(index), Some(&moment(now))) {
                restored = Some(index);
                break;
            }
            assert!(pace.bypasses());
        }
        assert_eq!(restored, Some(30));
        assert!(!pace.bypasses());
        // Without a clock only the pause counts.
        pace.bypass(Cause::Failed);
        let waited = (0..).take_while(|_| !pace.try_restoring(None, None)).count();
        assert_eq!(waited, 5);
    }

    #[test]
    fn who_falls_behind_needs_no_pause_and_who_wastes_a_run_does() {
        let pauses = |pace: &mut Pace| (0..).take_while(|_| !pace.try_restoring(None, None)).count();
        let mut pace = Pace::new(5, ms(100));
        for turn in 0..3 {
            pace.ran(4, ms(100));
            pace.bypass(Cause::Late);
            assert_eq!(pauses(&mut pace), 0, "{turn}");
        }
        // Nothing restored since: the try was wrong.
        pace.bypass(Cause::Late);
        assert_eq!(pauses(&mut pace), 5);
        pace.ran(4, ms(100));
        pace.broke_off(ms(100));
        pace.bypass(Cause::Late);
        assert_eq!(pauses(&mut pace), 10, "a run was wasted");
        pace.ran(4, ms(100));
        pace.bypass(Cause::Failed);
        assert_eq!(pauses(&mut pace), 5, "a failure is not the pace's");
    }

    #[test]
    fn what_made_runs_long_is_forgotten_while_nothing_runs() {
        let mut pace = Pace::new(5, ms(100));
        for _ in 0..3 {
            pace.ran(4, ms(500));
        }
        assert!(pace.lateness(Some(ms(0)), Some(&moment(170))).is_some());
        pace.bypass(Cause::Late);
        let tries = (0..1000u64)
            .find(|index| pace.try_restoring(Some(ms(index * 40)), Some(&moment(index * 40 + 10))))
            .expect("it tries again");
        assert!(tries >= 5, "not before the pause is over: {tries}");
        // What never was short enough is not tried: its frames would be late for sure.
        let mut slow = Pace::new(5, ms(500));
        slow.bypass(Cause::Late);
        assert!((0..1000u64).all(|index| !slow.try_restoring(Some(ms(index * 40)), Some(&moment(index * 40 + 10)))));
        slow.resume();
        assert!(!slow.bypasses());
    }

    #[test]
    fn fades_are_steps_of_the_same_size() {
        let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
        for (index, share) in [0.2, 0.4, 0.6, 0.8, 1.0, 1.0].into_iter().enumerate() {
            assert!(near(fade_in(index as u64), share), "{index}");
            assert!(near(fade_out(index, 4), share), "{index}");
            assert!(near(fade_out(index, 9), share), "{index}");
        }
        assert!(near(fade_out(0, 1), 0.5) && near(fade_out(1, 1), 1.0));
        assert!(near(fade_in(u64::MAX), 1.0));
    }

    proptest! {
        /// A window that is admitted ends in time even if it takes an eighth longer than expected, and one that is not would
        /// not.
        #[test]
        fn admitted_is_in_time(
            first in 0u64..100_000,
            late in 0u64..3_000,
            eighths in 0u64..250,
            latency in 0u64..3_000,
            frame in 1u64..200,
        ) {
            let pace = Pace::new(5, ms(eighths * 8));
            let moment = Moment {
                now: ms(first + late),
                upstream: Duration::ZERO,
                latency: ms(latency),
                frame: ms(frame),
                earliest: None,
            };
            let left_at = ms(first + late + eighths * 9);
            let deadline = ms(first + latency) + ms(frame) / 4;
            prop_assert_eq!(pace.lateness(Some(ms(first)), Some(&moment)).is_none(), left_at <= deadline);
        }

        /// Whatever happens: no panic, a pause is bounded, and in the end frames are restored again if there is room.
        #[test]
        fn it_never_stays_away(steps in proptest::collection::vec((0u8..4, 0u64..5_000), 0..200)) {
            let mut pace = Pace::new(7, ms(20));
            let mut index = 0u64;
            for (kind, value) in steps {
                match kind {
                    0 => pace.ran(value, ms(value)),
                    1 => pace.bypass(Cause::Late),
                    2 => pace.bypass(Cause::Failed),
                    _ => {
                        index += 1;
                        if pace.bypasses() {
                            pace.try_restoring(Some(ms(index * 40)), Some(&moment(value)));
                        }
                    }
                }
            }
            if !pace.bypasses() {
                pace.bypass(Cause::Late);
            }
            let bound = 7 * LONGEST_PAUSE + 7 * (RECENT_RUNS as u64 + 1) + 1;
            let found = (0..=bound).any(|_| {
                index += 1;
                pace.try_restoring(Some(ms(index * 40)), Some(&moment(index * 40)))
            });
            prop_assert!(found);
        }

        #[test]
        fn the_second_longest_is_expected(runs in proptest::collection::vec(1u64..1000, 2..50), first in 1u64..1000) {
            let mut expected = Expected::new(ms(first));
            for run in &runs {
                expected.add(ms(*run));
            }
            let best = runs.iter().copied().min().unwrap().min(first);
            let mut last: Vec<u64> = runs.iter().rev().take(RECENT_RUNS).copied().chain([best]).collect();
            last.sort_unstable();
            prop_assert_eq!(expected.time(), ms(last[last.len() - 2]));
        }
    }
}
