// SPDX-License-Identifier: MPL-2.0

//! A live stream on a machine that is too slow: how much the policy restores, and whether every frame leaves in time. Time is
//! a number here; frames, windows and fades go as in the element.

use std::time::Duration;

use super::{Cause, Moment, Pace};

const WINDOW: usize = 17;
const OVERLAP: usize = 4;
const STRIDE: usize = WINDOW - OVERLAP;
const FRAME: Duration = Duration::from_millis(40);

/// Time between two windows.
const PERIOD: Duration = Duration::from_millis(STRIDE as u64 * 40);

/// What became of a stream.
struct Outcome {
    /// Of all frames.
    restored: f64,
    /// The longest time that a frame was in the element, against its limit: negative where all were in time.
    worst: f64,
    broken_off: usize,
}

/// Plays `frames` frames where the `n`-th run takes `takes(n)`, which the first measurement said was `measured`. The latency allows
/// that, and follows what is expected, up to what a window between two others takes.
fn play(frames: usize, measured: Duration, takes: impl Fn(usize) -> Duration) -> Outcome {
    let mut processing = with_margin(measured);
    let mut pace = Pace::new(WINDOW, measured);
    let mut now = Duration::ZERO;
    // The first frame that waits, frames of the run so far that wait, and whether a window was before in this run.
    let (mut first, mut waiting, mut follows) = (0, 0, false);
    let (mut runs, mut restored, mut broken_off) = (0, 0, 0);
    let mut worst = f64::MIN;
    let time = |index: usize| FRAME * index as u32;
    for index in 0..frames {
        now = now.max(time(index));
        if pace.expected() > processing {
            processing = processing.max(with_margin(pace.expected()).min(with_margin(PERIOD)));
        }
        let latency = FRAME * (WINDOW as u32 - 1) + processing;
        let at = |now| Moment {
            now,
            upstream: Duration::ZERO,
            latency,
            frame: FRAME,
            earliest: None,
        };
        let mut leave = |now: Duration, first: usize, count: usize| {
            for index in first..first + count {
                let limit = at(now).limit(time(index));
                worst = f64::max(worst, now.as_secs_f64() - limit.as_secs_f64());
            }
        };
        if pace.bypasses() {
            if !pace.try_restoring(Some(time(index)), Some(&at(now))) {
                leave(now, index, 1);
                continue;
            }
            (first, waiting, follows) = (index, 0, false);
        }
        waiting += 1;
        if waiting < WINDOW {
            continue;
        }
        if pace.lateness(1, Some(time(first)), Some(&at(now))).is_some() {
            // What the last window holds fades.
            restored += if follows { OVERLAP } else { 0 };
            leave(now, first, waiting);
            pace.bypass(Cause::Late);
            continue;
        }
        let (took, limit) = (takes(runs), at(now).limit(time(first)));
        runs += 1;
        if now + took > limit {
            broken_off += 1;
            restored += if follows { OVERLAP } else { 0 };
            pace.broke_off(limit - now);
            now = limit;
            leave(now, first, waiting);
            pace.bypass(Cause::Late);
            continue;
        }
        now += took;
        pace.ran(STRIDE as u64, took);
        let next = time(first + STRIDE);
        if pace.lateness_from(1, Some(next), Some(&at(now))).is_some() {
            restored += WINDOW;
            leave(now, first, WINDOW);
            pace.bypass(Cause::Late);
        } else {
            restored += STRIDE;
            leave(now, first, STRIDE);
            (first, waiting, follows) = (first + STRIDE, OVERLAP, true);
        }
    }
    Outcome {
        restored: restored as f64 / frames as f64,
        worst,
        broken_off,
    }
}

/// What the latency allows for a window that took `measured`.
fn with_margin(measured: Duration) -> Duration {
    measured + measured / 4 + Duration::from_millis(10)
}

/// The share that a machine can restore which needs `ratio` of the time between two windows for one: where windows are not joined
/// each makes all its frames final, and 1.3 is enough for all.
fn possible(ratio: f64) -> f64 {
    f64::min(1.0, WINDOW as f64 / STRIDE as f64 / ratio)
}

/// Ten minutes at each speed.
#[test]
fn a_machine_that_is_too_slow_restores_most_of_what_it_can() {
    println!("run / period   restored   of what is possible   broken off");
    for ratio in [
        0.5, 0.8, 0.9, 0.95, 1.0, 1.02, 1.05, 1.1, 1.2, 1.3, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0,
    ] {
        let run = PERIOD.mul_f64(ratio);
        let outcome = play(15_000, run, |_| run);
        let share = outcome.restored / possible(ratio);
        println!(
            "{ratio:12.2} {:10.3} {share:21.3} {:12}",
            outcome.restored, outcome.broken_off
        );
        assert!(outcome.worst <= 0.0, "{ratio}: a frame is {} s late", outcome.worst);
        assert!(share >= 0.95, "{ratio}: {share}");
        assert!(ratio > 1.0 || outcome.restored > 0.998, "{ratio}: {}", outcome.restored);
    }
}

/// The same where one run in six takes half as long again, and the others up to a tenth more or less.
#[test]
fn runs_of_different_length_cost_little() {
    println!("run / period   restored   of what is possible   broken off");
    for ratio in [0.7, 0.9, 1.0, 1.1, 1.3, 1.6, 2.0] {
        let mean = PERIOD.mul_f64(ratio);
        let takes = |run: usize| {
            let varied = 0.9 + 0.02 * (run * 7 % 11) as f64;
            mean.mul_f64(if run % 6 == 5 { 1.5 } else { varied })
        };
        let outcome = play(15_000, mean, takes);
        let share = outcome.restored / possible(ratio * (5.0 + 1.5) / 6.0);
        println!(
            "{ratio:12.2} {:10.3} {share:21.3} {:12}",
            outcome.restored, outcome.broken_off
        );
        assert!(outcome.worst <= 0.0, "{ratio}: a frame is {} s late", outcome.worst);
        assert!(share >= 0.65, "{ratio}: {share}");
    }
}

/// A machine that can never be in time does not try for ever: its runs are wasted.
#[test]
fn what_is_never_in_time_is_hardly_tried() {
    let outcome = play(15_000, PERIOD / 2, |_| PERIOD * 3);
    println!("{} runs broken off in ten minutes", outcome.broken_off);
    assert!(outcome.worst <= 0.0);
    assert_eq!(outcome.restored, 0.0);
    assert!(outcome.broken_off < 100, "{}", outcome.broken_off);
}
