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
    /// Its face is lost, and another one wants its place among those that show.
    gives_way: bool,
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
            let wanted = track.is_shown && track.fits && track.unseen <= hold && !track.gives_way;
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
            if is_new && (self.tracks.len() < MAX_TRACKS || self.forget_least(found.rect.area())) {
                self.tracks.push(Track::new(self.next_id, found));
                self.next_id += 1;
            }
        }
    }

    /// Makes room for a face of `area`: the smallest track that does not show goes, if it is smaller.
    fn forget_least(&mut self, area: f64) -> bool {
        let areas = self.tracks.iter().map(|track| track.place.rect().area());
        let hidden = areas.enumerate().filter(|(at, _)| self.tracks[*at].fade == 0);
        let least = hidden.min_by(|a, b| a.1.total_cmp(&b.1)).filter(|least| least.1 < area);
        least.map(|(at, _)| self.tracks.remove(at)).is_some()
    }

    /// Fills the places that are free with the largest tracks. Tracks whose face is lost give theirs to faces that are there.
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
        let waiting = others.split_off(others.len().min(self.limits.max_faces.saturating_sub(shown)));
        for at in others {
            self.tracks[at].is_shown = true;
        }
        for track in &mut self.tracks {
            track.gives_way = false;
        }
        let is_found = |track: &Track| track.unseen < self.interval;
        let waiting = waiting.iter().filter(|at| is_found(&self.tracks[**at])).count();
        let mut lost: Vec<&mut Track> = self
            .tracks
            .iter_mut()
            .filter(|track| track.is_shown && track.unseen >= self.interval)
            .collect();
        lost.sort_by_key(|track| std::cmp::Reverse(track.unseen));
        for track in lost.into_iter().take(waiting) {
            track.gives_way = true;
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
            gives_way: false,
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
mod tests;
