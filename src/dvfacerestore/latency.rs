// SPDX-License-Identifier: MPL-2.0

//! How long a frame may stay in the element.

use std::collections::VecDeque;
use std::time::Duration;

use gst::prelude::*;

/// What the latency answer is made of.
#[derive(Clone, Debug, Default)]
pub struct Latency {
    /// Frames of a window; 0 while no model is loaded.
    window_frames: u64,
    /// Time that is allowed for restoring a window.
    processing: gst::ClockTime,
    /// From the caps; `None` for a variable or unknown rate.
    frame_duration: Option<gst::ClockTime>,
    /// The same by the frames' times, where the caps do not say.
    learnt: Option<gst::ClockTime>,
    /// A whole window has told it since the last caps, and one at any time.
    is_learnt: bool,
    was_learnt: bool,
    /// Running times of the last frames, at most a window's; all of them without a gap or a step back.
    times: VecDeque<gst::ClockTime>,
    /// Frames in a row at which a window took longer to come in than the answer says, and the least of these times.
    slow: Option<(u64, gst::ClockTime)>,
    /// How long a window takes to come in where frames come slower than the caps say.
    slow_window: Option<gst::ClockTime>,
    /// Frames pass through.
    pub disabled: bool,
}

/// What a measured time is given on top of a quarter: a short one varies by more than that.
const MARGIN: gst::ClockTime = gst::ClockTime::from_mseconds(10);

/// The time that the latency answer allows for a window which took `measured`: runs are not all equally long.
pub fn with_margin(measured: gst::ClockTime) -> gst::ClockTime {
    measured.saturating_add(measured / 4).saturating_add(MARGIN)
}

/// Steps beyond this are gaps in the stream, not a frame rate.
const LONGEST_STEP: gst::ClockTime = gst::ClockTime::from_seconds(1);

impl Latency {
    /// Of a loaded model: windows of `window_frames` frames, restored in `processing`.
    pub fn new(window_frames: u64, processing: gst::ClockTime, disabled: bool) -> Self {
        Self {
            window_frames,
            processing,
            disabled,
            ..Default::default()
        }
    }

    /// Frames of a window; 0 while no model is loaded.
    pub fn window_frames(&self) -> u64 {
        self.window_frames
    }

    /// Takes the frame rate of new caps. With the same as before, what was learnt of it holds: a WebRTC sender changes the size of its
    /// pictures as it likes.
    pub fn set_rate(&mut self, fps: gst::Fraction) {
        let frame_duration = u64::try_from(fps.numer())
            .ok()
            .zip(u64::try_from(fps.denom()).ok())
            .filter(|(numer, _)| *numer > 0)
            .and_then(|(numer, denom)| gst::ClockTime::SECOND.mul_div_round(denom, numer));
        if frame_duration != self.frame_duration {
            self.frame_duration = frame_duration;
            self.learnt = None;
            self.was_learnt = false;
            self.slow_window = None;
        }
        // With another size a sender may have another rate as well, which a whole window tells.
        self.is_learnt = false;
        self.cut();
    }

    /// Looks at a frame's running time, which tells the rate where the caps do not, and corrects it where they are wrong: a
    /// camera says 30 frames a second and gives 15 of them where it is dark, and a segment's rate makes a stream slower, too.
    pub fn observe(&mut self, time: Option<gst::ClockTime>, duration: Option<gst::ClockTime>) {
        let step = time.zip(self.times.back()).map(|(time, last)| time.checked_sub(*last));
        if time.is_none() || step.is_some_and(|step| step.is_none_or(|step| step > LONGEST_STEP)) {
            self.cut();
        }
        if let Some(time) = time {
            if self.times.len() as u64 == self.window_frames {
                self.times.pop_front();
            }
            self.times.push_back(time);
        }
        self.learn(duration);
        self.observe_window();
    }

    /// Takes the rate from the frames of the first whole window, and at the very first until then from those that there are, where the
    /// caps do not say. The longest step counts as the second longest: a source that stops for a moment is no slower. From then on
    /// only [`observe_window`](Self::observe_window) changes it, until other caps come.
    fn learn(&mut self, duration: Option<gst::ClockTime>) {
        if self.frame_duration.is_some() || self.is_learnt {
            return;
        }
        let mut steps: Vec<u64> = self
            .times
            .iter()
            .zip(self.times.iter().skip(1))
            .map(|(before, after)| after.saturating_sub(*before).nseconds())
            .collect();
        steps.sort_unstable();
        let [.., second, longest] = steps[..] else {
            self.learnt = self.learnt.or(duration.filter(|duration| *duration <= LONGEST_STEP));
            return;
        };
        let usual = (steps.iter().sum::<u64>() - longest + second) / steps.len() as u64;
        self.is_learnt = self.times.len() as u64 == self.window_frames;
        if self.was_learnt && !self.is_learnt {
            return;
        }
        // Every change makes the pipeline wait anew. Of a window's look-ahead the smaller share is a quarter of a frame.
        let share = if self.is_learnt && !self.was_learnt { 64 } else { 4 };
        let is_about = |learnt: gst::ClockTime| learnt.nseconds().abs_diff(usual) <= learnt.nseconds() / share;
        self.was_learnt |= self.is_learnt;
        if !self.learnt.is_some_and(is_about) {
            self.learnt = Some(gst::ClockTime::from_nseconds(usual));
            self.slow_window = None;
        }
    }

    /// How long the last window took to come in; `None` where there is none without a gap.
    fn window(&self) -> Option<gst::ClockTime> {
        let is_whole = self.times.len() as u64 == self.window_frames;
        let (first, last) = self.times.front().zip(self.times.back())?;
        is_whole.then(|| last.saturating_sub(*first))
    }

    /// A frame that is lost is in all windows that it would be in, but in no more: those are slow that stay so for longer.
    fn observe_window(&mut self) {
        let expected = self.look_ahead().saturating_add(self.frame() / 2);
        let Some(window) = self.window().filter(|window| *window > expected) else {
            self.slow = None;
            return;
        };
        let (count, least) = self
            .slow
            .map_or((0, window), |(count, least)| (count, least.min(window)));
        self.slow = Some((count + 1, least));
        if count + 1 >= self.window_frames {
            self.slow_window = self.slow_window.max(Some(least));
            self.slow = None;
        }
    }

    /// Takes how long a window is expected to take with everything around the graphs (conversion, waiting for shared
    /// sessions), which the warm-up does not show. Nothing changes before the margin is used up, for every change makes the
    /// pipeline wait anew. Where `is_bounded`, more than for the time between two windows is not taken: that cannot be kept up,
    /// and a longer delay helps less and less.
    pub fn expect(&mut self, expected: Duration, stride: u64, is_bounded: bool) {
        let expected = gst::ClockTime::try_from(expected).unwrap_or(gst::ClockTime::MAX);
        if expected <= self.processing {
            return;
        }
        let processing = with_margin(expected);
        let between = self.step().nseconds().checked_mul(stride).filter(|time| *time > 0);
        let bound = between
            .filter(|_| is_bounded)
            .map(gst::ClockTime::from_nseconds)
            .map(with_margin);
        self.processing = bound.map_or(processing, |bound| processing.min(bound).max(self.processing));
    }

    /// Forgets the last frames' times (flush, new segment).
    pub fn cut(&mut self) {
        self.times.clear();
        self.slow = None;
    }

    /// Duration of a frame as the caps have it, or as its frames have told; zero where nothing tells it.
    pub fn frame(&self) -> gst::ClockTime {
        self.frame_duration.or(self.learnt).unwrap_or(gst::ClockTime::ZERO)
    }

    /// Time between two frames now: no less than [`frame`](Self::frame).
    pub fn step(&self) -> gst::ClockTime {
        let steps = self.window_frames.saturating_sub(1);
        let now = self.window().filter(|_| steps > 0).map(|window| window / steps);
        self.frame().max(now.unwrap_or_default())
    }

    /// How long the first frame of a window waits for the last one.
    fn look_ahead(&self) -> gst::ClockTime {
        let steps = self.window_frames.saturating_sub(1);
        self.frame()
            .nseconds()
            .checked_mul(steps)
            .map_or(gst::ClockTime::MAX, gst::ClockTime::from_nseconds)
            .max(self.slow_window.unwrap_or_default())
    }

    /// (T - 1) frame durations and the processing of a window; zero while frames pass through.
    pub fn total(&self) -> gst::ClockTime {
        if self.window_frames == 0 || self.disabled {
            return gst::ClockTime::ZERO;
        }
        self.look_ahead().saturating_add(self.processing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn milliseconds(value: u64) -> gst::ClockTime {
        gst::ClockTime::from_mseconds(value)
    }

    #[test]
    fn known_rate() {
        let mut latency = Latency::new(17, milliseconds(100), false);
        latency.set_rate(gst::Fraction::new(25, 1));
        assert_eq!(latency.total(), milliseconds(16 * 40 + 100));
        latency.observe(Some(milliseconds(0)), Some(milliseconds(400)));
        assert_eq!(latency.total(), milliseconds(16 * 40 + 100));
        latency.disabled = true;
        assert_eq!(latency.total(), gst::ClockTime::ZERO);
    }

    /// A window of 5 frames of unknown rate, and frames at `times` (milliseconds).
    fn unknown(times: impl IntoIterator<Item = u64>) -> Latency {
        let mut latency = Latency::new(5, gst::ClockTime::ZERO, false);
        latency.set_rate(gst::Fraction::new(0, 1));
        for time in times {
            latency.observe(Some(milliseconds(time)), None);
        }
        latency
    }

    #[test]
    fn unknown_rate_is_observed() {
        assert_eq!(unknown([]).total(), gst::ClockTime::ZERO);
        assert_eq!(unknown([0, 50]).total(), gst::ClockTime::ZERO, "it may be a hole");
        assert_eq!(unknown([0, 40, 80]).total(), milliseconds(160));
        assert_eq!(unknown([0, 45, 80, 125]).total(), milliseconds(4 * 35), "about right");
        assert_eq!(
            unknown([0, 45, 80, 125, 160]).total(),
            milliseconds(160),
            "a whole window"
        );
        assert_eq!(unknown([0, 0, 80, 80, 160]).total(), milliseconds(160), "two at once");
        let mut latency = unknown([0, 40, 80]);
        latency.observe(Some(milliseconds(60_000)), None);
        latency.observe(Some(milliseconds(10)), None);
        assert_eq!(latency.total(), milliseconds(160), "gaps and steps back are no rate");
        // The first frame's own duration is better than nothing.
        let mut latency = unknown([]);
        latency.observe(Some(milliseconds(0)), Some(milliseconds(1000)));
        assert_eq!(latency.total(), milliseconds(4000));
        latency.observe(Some(milliseconds(40)), Some(milliseconds(1000)));
        latency.observe(Some(milliseconds(80)), Some(milliseconds(1000)));
        assert_eq!(latency.total(), milliseconds(160));
    }

    #[test]
    fn a_hole_in_a_stream_of_unknown_rate_is_no_rate() {
        for hole in [40, 600, 800] {
            for at in 0..40 {
                let times = (0..80).map(|index| index * 40 + if index > at { hole } else { 0 });
                assert_eq!(unknown(times).total(), milliseconds(160), "{hole} after {at}");
            }
        }
        let mut latency = unknown((0..20).map(|index| index * 40));
        latency.observe(Some(milliseconds(800)), Some(milliseconds(1000)));
        assert_eq!(latency.total(), milliseconds(160), "nor is the duration of one frame");
        // It becomes slower for good, and that is kept with other caps, but not with another rate.
        for index in 0..20 {
            latency.observe(Some(milliseconds(840 + index * 80)), None);
        }
        assert_eq!(latency.total(), milliseconds(320));
        latency.set_rate(gst::Fraction::new(0, 1));
        assert_eq!(latency.total(), milliseconds(320));
        for index in 0..20 {
            latency.observe(Some(milliseconds(5000 + index * 80)), None);
            assert_eq!(latency.total(), milliseconds(320));
        }
        latency.set_rate(gst::Fraction::new(25, 1));
        assert_eq!(latency.total(), milliseconds(160));
        latency.set_rate(gst::Fraction::new(0, 1));
        assert_eq!(latency.total(), gst::ClockTime::ZERO);
    }

    /// A sender that begins slowly, with small pictures.
    #[test]
    fn other_caps_of_unknown_rate_may_be_faster() {
        let mut latency = unknown((0..5).map(|index| index * 200));
        assert_eq!(latency.total(), milliseconds(800));
        latency.set_rate(gst::Fraction::new(0, 1));
        for index in 0..4 {
            latency.observe(Some(milliseconds(1000 + index * 40)), None);
            assert_eq!(latency.total(), milliseconds(800), "not before a whole window");
        }
        latency.observe(Some(milliseconds(1160)), None);
        assert_eq!(latency.total(), milliseconds(160));
    }

    /// A window of 5 frames by the caps' 25 a second, and frames at `times` (milliseconds).
    fn at(times: impl IntoIterator<Item = u64>) -> Latency {
        let mut latency = Latency::new(5, milliseconds(100), false);
        latency.set_rate(gst::Fraction::new(25, 1));
        for time in times {
            latency.observe(Some(milliseconds(time)), Some(milliseconds(40)));
        }
        latency
    }

    #[test]
    fn frames_that_come_slower_than_the_caps_say_are_waited_for() {
        let by_the_caps = milliseconds(4 * 40 + 100);
        assert_eq!(at((0..100).map(|index| index * 40)).total(), by_the_caps);
        assert_eq!(at((0..100).map(|index| index * 40)).step(), milliseconds(40));
        // The fifth frame is the first at which a window is there, and four more are as slow.
        assert_eq!(at((0..8).map(|index| index * 80)).total(), by_the_caps);
        assert_eq!(at((0..9).map(|index| index * 80)).total(), milliseconds(4 * 80 + 100));
        assert_eq!(at((0..9).map(|index| index * 80)).step(), milliseconds(80));
        assert_eq!(at((0..100).map(|index| index * 80)).total(), milliseconds(4 * 80 + 100));
        // Faster ones are not held less: the caps may come true again.
        assert_eq!(at((0..100).map(|index| index * 20)).total(), by_the_caps);
        // It comes back to the caps' rate: the answer stays, the time between frames does not.
        let mut latency = at((0..20).map(|index| index * 80));
        for index in 0..20 {
            latency.observe(Some(milliseconds(20 * 80 + index * 40)), None);
        }
        assert_eq!(latency.total(), milliseconds(4 * 80 + 100));
        assert_eq!(latency.step(), milliseconds(40));
        latency.set_rate(gst::Fraction::new(25, 1));
        assert_eq!(latency.total(), milliseconds(4 * 80 + 100), "it is the same camera");
        latency.set_rate(gst::Fraction::new(50, 1));
        latency.set_rate(gst::Fraction::new(25, 1));
        assert_eq!(latency.total(), by_the_caps);
    }

    #[test]
    fn a_lost_frame_a_gap_and_jitter_are_no_rate() {
        let by_the_caps = milliseconds(4 * 40 + 100);
        let lost = |every: u64| (0..200).filter(move |index| index % every != 0).map(|index| index * 40);
        assert_eq!(at(lost(50)).total(), by_the_caps);
        assert_eq!(at(lost(12)).total(), by_the_caps);
        // Every third: there is no window without one.
        assert!(at(lost(3)).total() > by_the_caps + milliseconds(40));
        let gap = (0..20).map(|index| index * 40 + if index > 9 { 900 } else { 0 });
        assert_eq!(at(gap).total(), by_the_caps);
        let jitter = (0..200).map(|index| index * 40 + index * 7 % 15);
        assert_eq!(at(jitter).total(), by_the_caps);
        let jumps = (0..200).map(|index| index % 9 * 80 + index / 9 * 10_000);
        assert_eq!(
            at(jumps).total(),
            by_the_caps + milliseconds(4 * 40),
            "windows between jumps count"
        );
        let back = (0..200).map(|index| 100_000 - index * 80);
        assert_eq!(at(back).total(), by_the_caps);
    }

    #[test]
    fn longer_windows_than_allowed_count() {
        let mut latency = Latency::new(1, milliseconds(100), false);
        latency.expect(Duration::from_millis(100), 1, false);
        assert_eq!(latency.total(), milliseconds(100));
        latency.expect(Duration::from_millis(120), 1, false);
        assert_eq!(latency.total(), milliseconds(160));
        latency.expect(Duration::from_millis(150), 1, false);
        assert_eq!(latency.total(), milliseconds(160));
    }

    #[test]
    fn no_delay_helps_against_what_cannot_be_kept_up() {
        let mut latency = Latency::new(1, milliseconds(100), false);
        latency.set_rate(gst::Fraction::new(25, 1));
        latency.expect(Duration::from_millis(104), 3, true);
        assert_eq!(latency.total(), milliseconds(140), "104, a quarter and 10");
        latency.expect(Duration::from_millis(500), 3, true);
        assert_eq!(latency.total(), milliseconds(160), "three frames, a quarter and 10");
        latency.expect(Duration::from_millis(500), 3, false);
        assert_eq!(latency.total(), milliseconds(635));
        latency.expect(Duration::from_millis(800), 3, true);
        assert_eq!(latency.total(), milliseconds(635), "it does not shrink");
    }

    #[test]
    fn nothing_without_a_model() {
        assert_eq!(Latency::default().total(), gst::ClockTime::ZERO);
    }
}
