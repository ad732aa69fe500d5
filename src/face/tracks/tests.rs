// SPDX-License-Identifier: MPL-2.0

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits {
    max_faces: 4,
    min_height: 30.0,
    max_height: 1000.0,
    max_turn: 1.2,
};

fn face(x: f64, y: f64, height: f64) -> Found {
    Found {
        rect: Rect {
            x: x - height * 0.375,
            y: y - height / 2.0,
            width: height * 0.75,
            height,
        },
        score: 0.9,
        landmarks: None,
    }
}

fn ids(tracker: &Tracker) -> Vec<u64> {
    tracker.shown().iter().map(|shown| shown.id).collect()
}

#[test]
fn faces_of_a_new_scene_are_there_at_once_and_later_ones_fade_in() {
    let mut tracker = Tracker::new(LIMITS, 1);
    tracker.next(Some(&[face(100.0, 100.0, 80.0)]));
    assert_eq!(tracker.shown()[0].share, 1.0);
    let mut shares = Vec::new();
    for _ in 0..6 {
        tracker.next(Some(&[face(100.0, 100.0, 80.0), face(400.0, 100.0, 60.0)]));
        shares.push(tracker.shown()[1].share);
    }
    assert_eq!(shares, [0.2, 0.4, 0.6, 0.8, 1.0, 1.0]);
    assert_eq!(ids(&tracker), [1, 2]);
    tracker.cut();
    assert!(tracker.shown().is_empty());
    tracker.next(Some(&[face(100.0, 100.0, 80.0)]));
    assert_eq!((ids(&tracker), tracker.shown()[0].share), (vec![3], 1.0));
}

#[test]
fn short_losses_do_not_show_and_long_ones_fade_and_end() {
    let mut tracker = Tracker::new(LIMITS, 1);
    for _ in 0..10 {
        tracker.next(Some(&[face(100.0, 100.0, 80.0)]));
    }
    for _ in 0..HOLD_FRAMES {
        tracker.next(Some(&[]));
        assert_eq!(tracker.shown()[0].share, 1.0);
    }
    tracker.next(Some(&[face(103.0, 100.0, 80.0)]));
    assert_eq!(ids(&tracker), [1]);
    let mut shares = Vec::new();
    for _ in 0..HOLD_FRAMES + 6 {
        tracker.next(Some(&[]));
        shares.push(tracker.shown().first().map(|shown| shown.share));
    }
    let fade = &shares[HOLD_FRAMES as usize..];
    assert_eq!(fade, [Some(0.8), Some(0.6), Some(0.4), Some(0.2), None, None]);
    tracker.next(Some(&[face(100.0, 100.0, 80.0)]));
    assert_eq!(ids(&tracker), [2]);
}

/// Two people pass each other; the one behind is hidden for a while.
#[test]
fn who_crosses_keeps_the_identity() {
    for interval in [1u32, 2, 4] {
        let mut tracker = Tracker::new(LIMITS, interval);
        for frame in 0..100u32 {
            let t = f64::from(frame);
            let (a, b) = (face(100.0 + 6.0 * t, 200.0, 120.0), face(700.0 - 6.0 * t, 215.0, 110.0));
            let is_hidden = a.rect.overlap(&b.rect) > 0.5;
            let found: Vec<Found> = if is_hidden { vec![a] } else { vec![b, a] };
            tracker.next(frame.is_multiple_of(interval).then_some(&found[..]));
        }
        let mut shown = tracker.shown();
        shown.sort_by(|a, b| a.rect.x.total_cmp(&b.rect.x));
        assert_eq!(shown.len(), 2, "every {interval}");
        // The one that began on the left is on the right now: it is the larger one, so it has the first number.
        assert_eq!((shown[0].id, shown[1].id), (2, 1), "every {interval}");
    }
}

/// As above, for longer than a face is shown that is not found: it is waited for, and gone meanwhile.
#[test]
fn who_is_hidden_for_long_comes_back_as_who_it_was() {
    for interval in [1u32, 2, 4] {
        for far in [300.0, 420.0] {
            let mut tracker = Tracker::new(LIMITS, interval);
            let mut least = 2;
            for frame in 0..120u32 {
                let t = f64::from(frame);
                let (a, b) = (
                    face(100.0 + 5.0 * t, 200.0, 120.0),
                    face(far + 400.0 - 5.0 * t, 215.0, 110.0),
                );
                // What is before the other one is wider than its face.
                let is_hidden = (a.rect.x - b.rect.x).abs() < 110.0;
                let found: Vec<Found> = if is_hidden { vec![a] } else { vec![b, a] };
                tracker.next(frame.is_multiple_of(interval).then_some(&found[..]));
                least = least.min(tracker.shown().len());
            }
            let mut shown = tracker.shown();
            shown.sort_by(|a, b| a.rect.x.total_cmp(&b.rect.x));
            let ids: Vec<u64> = shown.iter().map(|shown| shown.id).collect();
            assert_eq!((ids, least), (vec![2, 1], 1), "every {interval}, {far}");
        }
    }
}

/// Nobody waits for a face in an empty place, nor for ever behind another one.
#[test]
fn hidden_tracks_end() {
    let mut tracker = Tracker::new(LIMITS, 1);
    tracker.next(Some(&[face(100.0, 100.0, 80.0), face(170.0, 100.0, 60.0)]));
    for frame in 1..=HOLD_FRAMES + HIDDEN_FRAMES + 1 {
        assert_eq!(tracker.tracks.len(), 2, "{frame}");
        tracker.next(Some(&[face(100.0, 100.0, 80.0)]));
    }
    assert_eq!(tracker.tracks.len(), 1);
    for _ in 0..=HOLD_FRAMES + FULL as u32 {
        tracker.next(Some(&[]));
    }
    assert!(tracker.tracks.is_empty());
}

#[test]
fn the_sum_counts_and_not_the_first_come() {
    let tracks: Vec<Track> = [100.0, 150.0]
        .into_iter()
        .map(|x| Track::new(1, &face(x, 0.0, 100.0)))
        .collect();
    // The first face is nearest to the second track, but the second face can only be that one's.
    let found = [face(130.0, 0.0, 100.0), face(215.0, 0.0, 100.0)];
    assert_eq!(assign(&tracks, &found.iter().collect::<Vec<_>>()), [Some(0), Some(1)]);
    assert_eq!(assign(&tracks, &[]), [None, None]);
    assert_eq!(assign(&tracks, &[&face(1000.0, 0.0, 100.0)]), [None, None]);
}

#[test]
fn as_many_as_allowed_and_the_largest_first() {
    let mut tracker = Tracker::new(Limits { max_faces: 2, ..LIMITS }, 1);
    let crowd: Vec<Found> = (0..50)
        .map(|at| face(200.0 * f64::from(at), 100.0, 50.0 + f64::from(at)))
        .collect();
    tracker.next(Some(&crowd));
    let heights = |tracker: &Tracker| -> Vec<f64> { tracker.shown().iter().map(|shown| shown.rect.height).collect() };
    assert_eq!(heights(&tracker), [99.0, 98.0]);
    // One leaves: the next one takes its place when it has faded.
    for _ in 0..40 {
        tracker.next(Some(&crowd[..49]));
    }
    assert_eq!(
        heights(&tracker)
            .iter()
            .map(|height| height.round())
            .collect::<Vec<_>>(),
        [98.0, 97.0]
    );
}

#[test]
fn small_and_turned_faces_are_left_alone_and_limits_do_not_flicker() {
    let mut tracker = Tracker::new(LIMITS, 1);
    tracker.next(Some(&[face(100.0, 100.0, 29.0)]));
    assert!(tracker.shown().is_empty());
    for _ in 0..20 {
        tracker.next(Some(&[face(100.0, 100.0, 33.0)]));
    }
    assert_eq!(tracker.shown().len(), 1);
    for _ in 0..20 {
        tracker.next(Some(&[face(100.0, 100.0, 28.5)]));
    }
    assert_eq!(tracker.shown().len(), 1, "a little below stays");
    for _ in 0..20 {
        tracker.next(Some(&[face(100.0, 100.0, 25.0)]));
    }
    assert!(tracker.shown().is_empty());

    let profile = Found {
        landmarks: Some([
            (100.0, 80.0),
            (110.0, 80.0),
            (130.0, 100.0),
            (100.0, 120.0),
            (110.0, 120.0),
        ]),
        ..face(100.0, 100.0, 80.0)
    };
    let ahead = Found {
        landmarks: Some([
            (85.0, 80.0),
            (115.0, 80.0),
            (100.0, 100.0),
            (88.0, 120.0),
            (112.0, 120.0),
        ]),
        ..profile
    };
    let mut tracker = Tracker::new(LIMITS, 1);
    tracker.next(Some(&[ahead]));
    assert_eq!(ids(&tracker), [1]);
    for _ in 0..20 {
        tracker.next(Some(&[profile]));
    }
    assert!(tracker.shown().is_empty(), "turned away");
    for _ in 0..20 {
        tracker.next(Some(&[ahead]));
    }
    assert_eq!(ids(&tracker), [1], "it comes back as the same");
}

/// Its crop would be moved back into the frame, where something else is.
#[test]
fn who_is_not_in_the_frame_does_not_show() {
    let mut tracker = Tracker::new(LIMITS, 1);
    tracker.set_frame(160, 120);
    tracker.next(Some(&[face(80.0, 60.0, 900.0)]));
    assert_eq!(ids(&tracker), [1], "it fills the frame");
    let mut tracker = Tracker::new(LIMITS, 1);
    tracker.set_frame(640, 360);
    tracker.next(Some(&[face(5000.0, 5000.0, 80.0), face(620.0, 200.0, 80.0)]));
    assert_eq!(ids(&tracker), [2], "a quarter of it is out of the frame");
    // Out to the right, by 6 pixels a frame: it is 60 wide. Nobody finds it after the 10th frame.
    let mut shares = Vec::new();
    for step in 1..=20 {
        let faces = [face(620.0 + 6.0 * f64::from(step), 200.0, 80.0)];
        tracker.next(Some(if step <= 10 { &faces } else { &[] }));
        let shown = tracker.shown();
        assert!(shown.iter().all(|shown| shown.rect.x < 640.0), "{step}: {shown:?}");
        shares.push(shown.first().map_or(0.0, |shown| shown.share));
    }
    assert_eq!(shares[..4], [1.0; 4], "{shares:?}");
    assert!(shares.is_sorted_by(|a, b| a >= b) && shares[10] == 0.0, "{shares:?}");
}

/// Whoever was given a face in this look may hide another one, in whatever order the tracks stand, and however long ago the last look
/// was.
#[test]
fn what_is_cut_off_does_not_depend_on_the_order() {
    for interval in [1u32, 4] {
        for front_is_older in [true, false] {
            // The one in front stands; the one behind goes there, and its box ends where the other's hair begins.
            let front = face(400.0, 200.0, 150.0);
            let edge = front.rect.x - 20.0;
            let mut tracker = Tracker::new(LIMITS, interval);
            tracker.next(Some(&[front]));
            if !front_is_older {
                tracker.tracks.clear();
            }
            let mut widths = Vec::new();
            for frame in 0..60u32 {
                let mut behind = face(180.0 + 2.0 * f64::from(frame), 200.0, 120.0);
                behind.rect.width = behind.rect.width.min(edge - behind.rect.x);
                let found = if frame == 0 && !front_is_older {
                    vec![behind]
                } else {
                    vec![front, behind]
                };
                tracker.next(frame.is_multiple_of(interval).then_some(&found[..]));
                let shown = tracker.shown();
                widths.extend(
                    shown
                        .iter()
                        .map(|shown| shown.rect.width)
                        .filter(|width| *width < 100.0),
                );
            }
            assert_eq!(tracker.shown().len(), 2);
            // 45 of 90 pixels are left to be seen in the end.
            let least = widths.iter().copied().fold(f64::INFINITY, f64::min);
            assert!(least > 0.94 * 90.0, "every {interval}, {front_is_older}: {least}");
        }
    }
}

#[test]
fn a_face_found_twice_is_one() {
    let mut tracker = Tracker::new(LIMITS, 1);
    for _ in 0..5 {
        tracker.next(Some(&[face(100.0, 100.0, 80.0), face(106.0, 104.0, 90.0)]));
    }
    assert_eq!(tracker.shown().len(), 1);
}

proptest! {
    /// Whatever is found: bounded, sound, and never more than allowed.
    #[test]
    fn it_holds_against_anything(
        frames in proptest::collection::vec(
            proptest::option::of(proptest::collection::vec(proptest::array::uniform4(-1e7f64..1e7), 0..90)), 1..20),
        nan in any::<bool>(),
    ) {
        let mut tracker = Tracker::new(LIMITS, 3);
        for frame in &frames {
            let found = frame.as_ref().map(|boxes| {
                let rects = boxes.iter().map(|v| Rect { x: v[0], y: v[1], width: v[2] / 1e4, height: if nan { f64::NAN } else { v[3] / 1e4 } });
                rects.map(|rect| Found { rect, score: 1.0, landmarks: Some([(rect.x, rect.y); 5]) }).collect::<Vec<_>>()
            });
            tracker.next(found.as_deref());
            prop_assert!(tracker.shown().len() <= LIMITS.max_faces);
            prop_assert!(tracker.tracks.len() <= MAX_TRACKS);
            prop_assert!(tracker.shown().iter().all(|shown| shown.rect.is_sound() && shown.share > 0.0 && shown.share <= 1.0));
        }
    }
}

/// A detector loses a face that jumps, and finds it elsewhere: what is lost does not keep the only place.
#[test]
fn a_lost_face_gives_its_place_to_one_that_is_there() {
    let mut tracker = Tracker::new(Limits { max_faces: 1, ..LIMITS }, 2);
    for index in 0..20 {
        tracker.next((index % 2 == 0).then_some(&[face(100.0, 100.0, 80.0)]));
    }
    assert_eq!(ids(&tracker), [1]);
    let mut frames = 0;
    while ids(&tracker) != [2] {
        tracker.next((frames % 2 == 0).then_some(&[face(500.0, 100.0, 80.0)]));
        assert!(tracker.shown().len() <= 1, "no more than one at once");
        frames += 1;
        assert!(frames < 3 * FADE_FRAMES as u32, "the place is kept");
    }
    // One that nothing waits for is held, as ever.
    let mut alone = Tracker::new(Limits { max_faces: 1, ..LIMITS }, 1);
    alone.next(Some(&[face(100.0, 100.0, 80.0)]));
    for _ in 0..HOLD_FRAMES {
        alone.next(Some(&[]));
        assert_eq!(alone.shown()[0].share, 1.0);
    }
}

/// Whatever comes before it, and how often.
#[test]
fn a_large_face_is_followed_among_many_small_ones() {
    let mut tracker = Tracker::new(LIMITS, 1);
    let small = |at: u32| face(f64::from(at % 100) * 20.0, f64::from(at / 100) * 20.0, 10.0);
    let nothing = Found {
        rect: Rect {
            width: 0.0,
            ..face(0.0, 0.0, 10.0).rect
        },
        ..face(0.0, 0.0, 10.0)
    };
    let crowd: Vec<Found> = (0..200).map(small).chain((0..100).map(|_| nothing)).collect();
    tracker.next(Some(&crowd));
    let with_one: Vec<Found> = crowd.iter().copied().chain([face(1000.0, 600.0, 200.0)]).collect();
    for _ in 0..3 {
        tracker.next(Some(&with_one));
    }
    assert_eq!(tracker.shown().len(), 1, "the others are too small");
    assert!(tracker.tracks.len() <= MAX_TRACKS);
}
