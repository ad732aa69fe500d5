// SPDX-License-Identifier: MPL-2.0

//! Which face is which through time.
//!
//! A track begins where a face is found that belongs to no other, and follows it: faces are given to tracks so that the sum of what
//! speaks for the pairs (overlap and nearness of the predicted place) is greatest. A face that is not found goes on where it would be
//! for [`HOLD_FRAMES`], then its track fades and ends; behind another face it is waited for longer, and unseen. Tracks begin and end softly, but for those that are there when a scene begins.
//!
//! Of the tracks, up to `max_faces` are shown: those that are shown already, then the largest. A face that is too small, too large,
//! turned too far away or hardly in the frame is followed and not shown. So that a face at a limit does not flicker, one that is shown
//! stays until its size is a tenth beyond, and one that has turned away comes back when it is a fifth inside.

use pathfinding::prelude::{Matrix, kuhn_munkres};

use super::smooth::Smooth;
use super::{Found, Rect, pose};
use crate::pace::FADE_FRAMES;

/// Frames that a face may be lost for, on top of those in which nobody looks for it.
pub const HOLD_FRAMES: u32 = 8;

/// Frames that a face may be behind another one for: two people who walk past each other slowly.
const HIDDEN_FRAMES: u32 = 50;
/// What may hide a face beside the other one's box, in widths of that box: hair, shoulders.
const HIDING_REACH: f64 = 0.5;
/// A face of which less than this share is in the frame does not show: its crop, which stays in the frame, is of something else.
const LEAST_VISIBLE: f64 = 0.2;
/// A box beside another face that is smaller than this share of what was expected is what is still to be seen of a face.
const CUT_OFF: f64 = 0.95;

/// Faces that are followed: bounded, whatever a frame shows.
pub const MAX_TRACKS: usize = 64;

/// Which faces are shown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// How many at once.
    pub max_faces: usize,
    /// Least height of a face, in pixels.
    pub min_height: f64,
    /// Greatest height of a face, in pixels.
    pub max_height: f64,
    /// Greatest [`turn`](pose::turn), for faces with landmarks.
    pub max_turn: f64,
}

/// A track that shows in a frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shown {
    pub id: u64,
    /// The smoothed box of the face.
    pub rect: Rect,
    /// Share of the strength, more than 0.
    pub share: f64,
}

#[derive(Clone, Debug)]
struct Track {
    id: u64,
    place: Smooth,
    /// Frames since it was found.
    unseen: u32,
    /// Those of them in which nothing hid it.
    missing: u32,
    /// When somebody last looked, another face was before it.
    is_hidden: bool,
    /// Smoothed; `None` without landmarks.
    turn: Option<f64>,
    /// Share of it that is in the frame; where it is larger than the frame, of what could be.
    visible: f64,
    /// It is within the limits.
    fits: bool,
    is_shown: bool,
    /// Steps of the fade, up to `FADE_FRAMES + 1`.
    fade: usize,
}

/// All tracks of a stream.
#[derive(Clone, Debug)]
pub struct Tracker {
    limits: Limits,
    /// What of the plane is seen; all of it until somebody says.
    frame: Option<Rect>,
    /// Frames from one search to the next.
    interval: u32,
    tracks: Vec<Track>,
    next_id: u64,
    /// No frame of the scene has been looked at.
    is_new_scene: bool,
}

const FULL: usize = FADE_FRAMES + 1;

impl Tracker {
    /// `interval` is the number of frames from one search for faces to the next.
    pub fn new(limits: Limits, interval: u32) -> Self {
        Self {
            limits,
            frame: None,
            interval,
            tracks: Vec::new(),
            next_id: 1,
            is_new_scene: true,
        }
    }

    /// Frames are of `width` x `height` pixels.
    pub fn set_frame(&mut self, width: u32, height: u32) {
        self.frame = Some(Rect {
            x: 0.0,
            y: 0.0,
            width: width.into(),
            height: height.into(),
        });
    }

    /// Ends all tracks: what comes next is another scene.
    pub fn cut(&mut self) {
        self.tracks.clear();
        self.is_new_scene = true;
    }

    /// Takes the next frame: the faces found in it, or `None` where nobody has looked.
    pub fn next(&mut self, found: Option<&[Found]>) {
        for track in &mut self.tracks {
            track.place.step();
            track.unseen = track.unseen.saturating_add(1);
            track.missing += u32::from(!track.is_hidden);
        }
        if let Some(found) = found {
            self.take(found);
        }
        let hold = HOLD_FRAMES + self.interval.saturating_sub(1);
        for track in &mut self.tracks {
            let rect = track.place.rect();
            track.visible = self
                .frame
                .map_or(1.0, |frame| rect.shared(&frame) / rect.area().min(frame.area()));
            track.fits = self.limits.fit(track);
        }
        self.choose(hold);
        for track in &mut self.tracks {
            let wanted = track.is_shown && track.fits && track.unseen <= hold;
            track.fade = match wanted {
                true if self.is_new_scene => FULL,
                true => (track.fade + 1).min(FULL),
                false => track.fade.saturating_sub(1),
            };
            track.is_shown &= wanted || track.fade > 0;
        }
        let is_awaited = |track: &Track| track.missing <= hold && track.unseen <= hold + HIDDEN_FRAMES;
        self.tracks.retain(|track| is_awaited(track) || track.fade > 0);
        self.is_new_scene = self.is_new_scene && found.is_none();
    }

    /// A face that shows is to be looked for in the next frame, whatever the interval: it moves in a way that nobody foresees.
    pub fn is_restless(&self) -> bool {
        self.tracks
            .iter()
            .any(|track| track.is_shown && track.place.is_restless())
    }

    /// What shows in the last frame taken, largest face first.
    pub fn shown(&self) -> Vec<Shown> {
        let mut shown: Vec<Shown> = self
            .tracks
            .iter()
            .filter(|track| track.fade > 0 && track.visible > 0.0)
            .map(|track| Shown {
                id: track.id,
                rect: track.place.rect(),
                share: track.fade as f64 / FULL as f64,
            })
            .collect();
        shown.sort_by(|a, b| b.rect.area().total_cmp(&a.rect.area()).then(a.id.cmp(&b.id)));
        shown
    }

    fn take(&mut self, found: &[Found]) {
        let mut found: Vec<&Found> = found.iter().filter(|found| found.rect.is_sound()).collect();
        found.sort_by(|a, b| b.rect.area().total_cmp(&a.rect.area()));
        found.truncate(MAX_TRACKS);
        let choices = assign(&self.tracks, &found);
        for (at, track) in self.tracks.iter_mut().enumerate() {
            let place = track.place.rect();
            let mut others = choices.iter().enumerate().filter(|(other, _)| *other != at);
            let is_behind = others.any(|(_, choice)| choice.is_some_and(|choice| found[choice].rect.hides(&place)));
            match choices[at].map(|choice| found[choice]) {
                Some(face) if !(is_behind && track.is_cut_off(face)) => track.see(face),
                _ => track.miss(is_behind),
            }
        }
        for (at, found) in found.into_iter().enumerate() {
            // Some detectors find a face twice.
            let is_double = |track: &Track| track.unseen == 0 && track.place.rect().overlap(&found.rect) > 0.4;
            let is_new = !choices.contains(&Some(at)) && !self.tracks.iter().any(is_double);
            if is_new && self.tracks.len() < MAX_TRACKS {
                self.tracks.push(Track::new(self.next_id, found));
                self.next_id += 1;
            }
        }
    }

    /// Fills the places that are free with the largest tracks.
    fn choose(&mut self, hold: u32) {
        let shown = self.tracks.iter().filter(|track| track.is_shown).count();
        let mut others: Vec<usize> = (0..self.tracks.len())
            .filter(|at| {
                let track = &self.tracks[*at];
                !track.is_shown && track.fits && track.unseen <= hold
            })
            .collect();
        let area = |at: &usize| self.tracks[*at].place.rect().area();
        others.sort_by(|a, b| area(b).total_cmp(&area(a)));
        for at in others.into_iter().take(self.limits.max_faces.saturating_sub(shown)) {
            self.tracks[at].is_shown = true;
        }
    }
}

impl Rect {
    /// Who has this face may be before a face at that place.
    fn hides(&self, place: &Self) -> bool {
        self.widened(HIDING_REACH).overlap(place) > 0.0
    }
}

impl Limits {
    fn fit(&self, track: &Track) -> bool {
        let height = track.place.rect().height;
        let turn = track.turn.unwrap_or(0.0);
        // What is shown may be a little beyond.
        let (size, turned) = if track.is_shown { (0.9, 1.0) } else { (1.0, 0.8) };
        height >= self.min_height * size
            && height * size <= self.max_height
            && turn <= self.max_turn * turned
            && track.visible >= LEAST_VISIBLE * size
    }
}

impl Track {
    fn new(id: u64, found: &Found) -> Self {
        Self {
            id,
            place: Smooth::new(&found.rect),
            unseen: 0,
            missing: 0,
            is_hidden: false,
            turn: found.landmarks.as_ref().map(pose::turn),
            visible: 1.0,
            fits: false,
            is_shown: false,
            fade: 0,
        }
    }

    fn see(&mut self, found: &Found) {
        self.place.take(&found.rect);
        self.unseen = 0;
        self.missing = 0;
        self.is_hidden = false;
        if let Some(landmarks) = &found.landmarks {
            // Bounded, so that one profile is forgotten soon.
            let turn = pose::turn(landmarks).min(4.0);
            self.turn = Some(self.turn.map_or(turn, |before| (before.min(4.0) + turn) / 2.0));
        }
    }

    /// Nothing of it was found, or nothing to believe; another face may be before it.
    fn miss(&mut self, is_hidden: bool) {
        self.is_hidden = is_hidden;
        if is_hidden {
            self.place.hide();
        } else {
            self.place.miss();
        }
    }

    /// What was found of a face that is behind another one is the part that is still to be seen. Not believed for long: it may have
    /// become smaller.
    fn is_cut_off(&self, found: &Found) -> bool {
        let place = self.place.rect();
        let is_smaller = found.rect.width < CUT_OFF * place.width || found.rect.height < CUT_OFF * place.height;
        is_smaller && self.unseen <= 2 * HOLD_FRAMES
    }
}

/// What speaks for a face's being the track's, in thousandths; 0 where it cannot be.
fn affinity(track: &Track, found: &Found) -> i64 {
    let expected = track.place.rect();
    let overlap = expected.overlap(&found.rect);
    let (a, b) = (expected.centre(), found.rect.centre());
    let height = expected.height.max(found.rect.height);
    let distance = (a.0 - b.0).hypot(a.1 - b.1) / height;
    let ratio = expected.height / found.rect.height;
    // A head does not move by its own height from one frame to the next, nor change its size much.
    if distance > 0.8 || !(0.5..=2.0).contains(&ratio) {
        return 0;
    }
    ((overlap + (1.0 - distance)) * 1000.0) as i64
}

/// For each track the face that is given to it.
fn assign(tracks: &[Track], found: &[&Found]) -> Vec<Option<usize>> {
    if tracks.is_empty() {
        return Vec::new();
    }
    // A track may also get none: as many columns more as there are tracks.
    let weights = Matrix::from_fn(tracks.len(), found.len() + tracks.len(), |(track, face)| {
        found.get(face).map_or(0, |found| affinity(&tracks[track], found))
    });
    let (_, choices) = kuhn_munkres(&weights);
    let choices = choices.into_iter().enumerate();
    choices
        .map(|(track, face)| Some(face).filter(|face| *face < found.len() && weights[(track, *face)] > 0))
        .collect()
}

#[cfg(test)]
mod tests {
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
        let heights =
            |tracker: &Tracker| -> Vec<f64> { tracker.shown().iter().map(|shown| shown.rect.height).collect() };
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
}
