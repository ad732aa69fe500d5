//! How long a frame may stay in the element.

use std::time::Duration;

use gst::prelude::*;

/// What the latency answer is made of.
#[derive(Clone, Copy, Debug, Default)]
pub struct Latency {
    /// Frames of a window; 0 while no model is loaded.
    window_frames: u64,
    /// Time for restoring a window.
    processing: gst::ClockTime,
    /// From the caps; `None` for a variable or unknown rate.
    frame_duration: Option<gst::ClockTime>,
    /// Longest distance of two frames, where the caps do not say.
    longest_step: Option<gst::ClockTime>,
    last_pts: Option<gst::ClockTime>,
    /// Frames pass through.
    pub disabled: bool,
}

/// A window that takes so much longer than thought changes nothing.
const SHORTEST_RISE: gst::ClockTime = gst::ClockTime::from_mseconds(10);

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

    /// Takes how long a window took with everything around the graphs (conversion, waiting for shared sessions), which the
    /// warm-up does not show. Only what is clearly longer counts: every change makes the pipeline wait anew.
    pub fn observe_processing(&mut self, elapsed: Duration) {
        let elapsed = gst::ClockTime::try_from(elapsed).unwrap_or(gst::ClockTime::MAX);
        let noticeable = self
            .processing
            .saturating_add(self.processing / 4)
            .saturating_add(SHORTEST_RISE);
        if elapsed > noticeable {
            self.processing = elapsed;
        }
    }

    /// Forgets the last frame's time (flush, new segment).
    pub fn cut(&mut self) {
        self.last_pts = None;
    }

    /// (T - 1) frame durations and the processing of a window; zero while frames pass through.
    pub fn total(&self) -> gst::ClockTime {
        let Some(look_ahead) = self.window_frames.checked_sub(1).filter(|_| !self.disabled) else {
            return gst::ClockTime::ZERO;
        };
        let frame = self
            .frame_duration
            .or(self.longest_step)
            .unwrap_or(gst::ClockTime::ZERO);
        frame
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
    fn clearly_longer_windows_count() {
        let mut latency = Latency::new(1, milliseconds(100), false);
        latency.observe_processing(Duration::from_millis(130));
        assert_eq!(latency.total(), milliseconds(100));
        latency.observe_processing(Duration::from_millis(150));
        assert_eq!(latency.total(), milliseconds(150));
        latency.observe_processing(Duration::from_millis(90));
        assert_eq!(latency.total(), milliseconds(150));
    }

    #[test]
    fn nothing_without_a_model() {
        assert_eq!(Latency::default().total(), gst::ClockTime::ZERO);
    }
}
