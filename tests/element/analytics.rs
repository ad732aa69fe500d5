// SPDX-License-Identifier: MPL-2.0

//! `region=meta` with object detections of GStreamer's analytics library.

use gst::glib;
use gst::prelude::*;
use gst_analytics::{AnalyticsRelationMeta, AnalyticsRelationMetaODExt as _};

use crate::faces::{self, meta_element, restored, started, vga};
use crate::rig::{add_face, bytes, flat};

type Place = (i32, i32, i32, i32);
/// `faces::FACE` as detections have it.
const FACE: Place = {
    let (x, y, width, height) = faces::FACE;
    (x as i32, y as i32, width as i32, height as i32)
};

fn detect(buffer: &mut gst::BufferRef, detections: &[(&str, Place)]) {
    let mut meta = AnalyticsRelationMeta::add(buffer);
    for (kind, (x, y, width, height)) in detections {
        meta.add_od_mtd(glib::Quark::from_str(*kind), *x, *y, *width, *height, 0.7)
            .unwrap();
    }
}

/// Frames that come out where each frame got in what `prepare` adds.
fn run(roi_type: &str, prepare: impl Fn(&mut gst::BufferRef)) -> Vec<gst::Buffer> {
    let element = meta_element("brighter");
    element.set_property("roi-type", roi_type);
    let info = vga();
    let rig = started(element, &info);
    rig.push_all((0..7).map(|index| {
        let mut buffer = flat(&info, index, 100);
        prepare(buffer.get_mut().unwrap());
        buffer
    }));
    rig.eos();
    let out = rig.take_buffers();
    assert_eq!(out.len(), 7);
    assert_eq!(rig.errors(), []);
    out
}

#[test]
fn a_detection_is_restored_as_a_region_of_interest_is() {
    let roi = run("face", |buffer| add_face(buffer, faces::FACE));
    let detected = run("face", |buffer| {
        detect(buffer, &[("face", FACE), ("chair", (0, 0, 160, 120))]);
    });
    for (roi, detected) in roi.iter().zip(&detected) {
        assert_eq!(restored(roi).len(), 1);
        assert_eq!(restored(detected), restored(roi));
        assert_eq!(bytes(detected), bytes(roi));
        // What downstream needs stays.
        let meta = detected
            .meta::<AnalyticsRelationMeta>()
            .expect("the detections are kept");
        assert_eq!(meta.len(), 2);
    }
}

#[test]
fn the_type_counts_and_a_face_that_is_told_twice_is_one() {
    let other = run("face", |buffer| detect(buffer, &[("chair", FACE)]));
    assert!(other.iter().all(|buffer| restored(buffer).is_empty()));
    let named = run("person", |buffer| detect(buffer, &[("person", FACE)]));
    assert!(named.iter().all(|buffer| restored(buffer).len() == 1));
    // Some elements write both kinds of metas.
    let twice = run("face", |buffer| {
        add_face(buffer, faces::FACE);
        detect(buffer, &[("face", FACE)]);
    });
    assert!(twice.iter().all(|buffer| restored(buffer).len() == 1));
}

/// Nothing that a stranger writes in a meta stalls or ends the stream.
#[test]
fn places_that_are_none_are_left_out() {
    for place in [
        (0, 0, 0, 0),
        (10, 10, -5, 20),
        (i32::MIN, 0, i32::MAX, 4),
        (5000, 5000, 30, 40),
    ] {
        let out = run("face", |buffer| detect(buffer, &[("face", place)]));
        let input = bytes(&flat(&vga(), 0, 100));
        assert!(out.iter().all(|buffer| bytes(buffer) == input), "{place:?}");
    }
    // More than are followed, one upon the other and beside.
    let out = run("face", |buffer| {
        let places: Vec<_> = (0..300).map(|at| ("face", (at % 150, at % 100, 24, 32))).collect();
        detect(buffer, &places);
    });
    assert!(out.iter().all(|buffer| restored(buffer).len() <= 4));
}
