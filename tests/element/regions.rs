// SPDX-License-Identifier: MPL-2.0

//! `region=meta`: metas of a frame that is cropped, and faces that pause where no frame is held.

use gst::prelude::*;
use gst_video::{VideoCropMeta, VideoFormat, VideoFrameFlags, VideoMeta, VideoRegionOfInterestMeta};

use crate::faces::{meta_element, restored, started};
use crate::rig::{self, add_face, bytes, flat, info, rgb, stamp};

/// Places of the faces that upstream told of.
fn told(buffer: &gst::BufferRef) -> Vec<(u32, u32, u32, u32)> {
    let metas = buffer.iter_meta::<VideoRegionOfInterestMeta>();
    metas
        .filter(|meta| meta.roi_type() == "face")
        .map(|meta| meta.rect())
        .collect()
}

#[test]
fn faces_of_a_frame_that_is_cropped_are_moved_into_its_part() {
    let rig = started(meta_element("brighter"), &rgb());
    for index in 0..6 {
        let mut buffer = gst::Buffer::from_slice(vec![100u8; 64 * 48 * 3]);
        let changed = buffer.get_mut().unwrap();
        stamp(changed, index);
        VideoMeta::add(changed, VideoFrameFlags::empty(), VideoFormat::Rgb, 64, 48).unwrap();
        VideoCropMeta::add(changed, (24, 12, 32, 32));
        // In the middle of the part, over its corner, and outside.
        for face in [(36, 22, 10, 12), (50, 40, 10, 12), (2, 3, 10, 12)] {
            add_face(changed, face);
        }
        rig.push(buffer).unwrap();
    }
    rig.eos();
    let out = rig.take_buffers();
    assert_eq!(out.len(), 6);
    for buffer in out {
        assert_eq!(told(&buffer), [(12, 10, 10, 12), (26, 28, 6, 4), (0, 0, 0, 3)]);
        let found: Vec<_> = restored(&buffer).into_iter().map(|(_, _, rect)| rect).collect();
        assert_eq!(found, [(12, 10, 10, 12)], "the others are too small");
    }
    assert_eq!(rig.errors(), []);
}

/// With an overlap of 0 nothing is held when a face pauses just as a window ends. What comes after the pause is a run of its own: `blend`
/// shows with its weights which place in a window a frame had.
#[test]
fn a_face_that_pauses_where_nothing_is_held_begins_anew() {
    let folder = rig::blend_without_overlap();
    let info = info(VideoFormat::Rgb, 160, 120);
    let first_after = |before: u64| {
        let element = meta_element("blend");
        element.set_property("model", folder.path().to_str().unwrap());
        element.set_property_from_str("mask", "square");
        element.set_property("min-face-size", 30u32);
        let rig = started(element, &info);
        let heights = [(before, 34), (30, 22), (3, 40)];
        let heights = heights.iter().flat_map(|(count, height)| (0..*count).map(|_| *height));
        for (index, height) in heights.enumerate() {
            let mut buffer = flat(&info, index as u64, 0);
            add_face(buffer.get_mut().unwrap(), (60, 40, height * 3 / 4, height));
            rig.push(buffer).unwrap();
        }
        rig.eos();
        let shown = |buffer: &gst::Buffer| {
            let share = restored(buffer).first()?.1;
            Some((share, bytes(buffer)[(60 * 160 + 72) * 3]))
        };
        let out = rig.take_buffers();
        assert_eq!(out.len() as u64, before + 33);
        let shown: Vec<_> = out.iter().map(shown).collect();
        let pause = shown.iter().position(Option::is_none).unwrap();
        shown[pause..].iter().flatten().next().copied()
    };
    let expected = first_after(8);
    assert!(expected.is_some());
    for before in [5, 6, 7, 9, 10] {
        assert_eq!(first_after(before), expected, "{before}");
    }
}
