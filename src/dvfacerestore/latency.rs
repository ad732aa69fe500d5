//! How long a frame may stay in the element.

use std::time::Duration;

use gst::prelude::*;

/// What the latency answer is made of.
#[derive(Clone, Copy, Debug, Default)]
pub struct Latency {
    /// Frames of a window; 0 while no model is loaded.
    window_frames: u64,
    /// Time that is allowed for restoring a window.
    processing: gst::ClockTime,
    /// From the caps; `None` for a variable or unknown rate.
    frame_duration: Option<gst::ClockTime>,
    /// Longest distance of two frames, where the caps do not say.
    longest_step: Option<gst::ClockTime>,
    last_pts: Option<gst::ClockTime>,
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

    /// Takes the frame rate of new caps.
    pub fn set_rate(&mut self, fps: gst::Fraction) {
        self.frame_duration = u64::try_from(fps.numer())
            .ok()
            .zip(u64::try_from(fps.denom()).ok())
            .filter(|(numer, _)| *numer > 0)
            .and_then(|(numer, denom)| gst::ClockTime::SECOND.mul_div_round(denom, numer));
        self.longest_step = None;
        self.last_pts = None;
    }

    /// Looks at a frame's time, which tells the rate where the caps do not.
    pub fn observe(&mut self, pts: Option<gst::ClockTime>, duration: Option<gst::ClockTime>) {
        if self.frame_duration.is_some() {
            return;
        }
        let step = pts.zip(self.last_pts).and_then(|(pts, last)| pts.checked_sub(last));
        let step = step.max(duration).filter(|step| *step <= LONGEST_STEP);
        self.longest_step = self.longest_step.max(step);
        self.last_pts = pts.or(self.last_pts);
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
        let between = self.frame().nseconds().checked_mul(stride).filter(|time| *time > 0);
        let bound = between
            .filter(|_| is_bounded)
            .map(gst::ClockTime::from_nseconds)
            .map(with_margin);
        self.processing = bound.map_or(processing, |bound| processing.min(bound).max(self.processing));
    }

    /// Forgets the last frame's time (flush, new segment).
    pub fn cut(&mut self) {
        self.last_pts = None;
    }

    /// Duration of a frame; zero where nothing tells it.
    pub fn frame(&self) -> gst::ClockTime {
        self.frame_duration
            .or(self.longest_step)
            .unwrap_or(gst::ClockTime::ZERO)
    }

    /// (T - 1) frame durations and the processing of a window; zero while frames pass through.
    pub fn total(&self) -> gst::ClockTime {
        let Some(look_ahead) = self.window_frames.checked_sub(1).filter(|_| !self.disabled) else {
            return gst::ClockTime::ZERO;
        };
        self.frame()
            .nseconds()
            .checked_mul(look_ahead)
            .map_or(gst::ClockTime::MAX, gst::ClockTime::from_nseconds)
            .saturating_add(self.processing)
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

    #[test]
    fn unknown_rate_is_observed() {
        let mut latency = Latency::new(5, gst::ClockTime::ZERO, false);
        latency.set_rate(gst::Fraction::new(0, 1));
        assert_eq!(latency.total(), gst::ClockTime::ZERO);
        latency.observe(Some(milliseconds(0)), None);
        latency.observe(Some(milliseconds(50)), None);
        latency.observe(Some(milliseconds(90)), None);
        assert_eq!(latency.total(), milliseconds(200));
        latency.observe(Some(milliseconds(60_000)), None);
        latency.observe(Some(milliseconds(10)), None);
        assert_eq!(latency.total(), milliseconds(200), "gaps and steps back are no rate");
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
