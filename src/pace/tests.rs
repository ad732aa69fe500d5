// SPDX-License-Identifier: MPL-2.0

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
    assert!(pace.lateness(1, Some(ms(0)), Some(&moment(170))).is_some());
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
        prop_assert_eq!(pace.lateness(1, Some(ms(first)), Some(&moment)).is_none(), left_at <= deadline);
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

#[test]
fn as_many_regions_as_there_is_time_for() {
    // A window of 5 frames every 3: 120 ms between two, 120 ms for each in the latency.
    let fitting = |takes: u64, regions: usize| {
        let pace = Pace::new(5, ms(takes));
        pace.fitting(regions, 3, Some(ms(0)), Some(&moment(0)))
    };
    assert_eq!(
        [fitting(25, 1), fitting(25, 3), fitting(25, 4), fitting(25, 9)],
        [1, 3, 4, 4]
    );
    assert_eq!(fitting(60, 2), 1, "an eighth more is needed");
    assert_eq!(fitting(500, 4), 1, "whether there is time for one is for others to say");
    // Latency alone is not enough: two windows of 100 ms every 120 are too many, however late they may be.
    let pace = Pace::new(5, ms(100));
    let patient = Moment {
        latency: ms(5000),
        ..moment(0)
    };
    assert_eq!(pace.fitting(2, 3, Some(ms(0)), Some(&patient)), 1);
    // Nothing is late where there is no clock.
    assert_eq!(pace.fitting(4, 3, Some(ms(0)), None), 4);
}

#[test]
fn another_region_is_tried_after_a_pause_that_grows() {
    let mut pace = Pace::new(5, ms(10));
    let pause = |pace: &mut Pace| {
        pace.crowded();
        (0..)
            .take_while(|_| {
                let waits = !pace.has_room();
                pace.wait_for_room();
                waits
            })
            .count()
    };
    assert!(pace.has_room());
    assert_eq!([pause(&mut pace), pause(&mut pace), pause(&mut pace)], [5, 10, 20]);
    for _ in 0..10 {
        pace.ran(3, ms(10));
    }
    assert_eq!(pause(&mut pace), 40, "that one alone goes well tells nothing of two");
    for _ in 0..10 {
        pace.kept_up(3);
    }
    assert_eq!(pause(&mut pace), 5, "it went well for long");
}
