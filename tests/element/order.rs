// SPDX-License-Identifier: MPL-2.0

//! N frames in are N frames out, in order, with all that belongs to them.

use gst::prelude::*;
use gst_video::{
    VideoCaptionMeta, VideoCaptionType, VideoCropMeta, VideoInfo, VideoRegionOfInterestMeta, VideoTimeCode,
    VideoTimeCodeFlags, VideoTimeCodeMeta,
};

use crate::rig::{self, FRAME, Out, Rig, assert_brighter, bytes, flat, frame, info, rgb, window_parts};

/// Every count from none to three windows, one run after the other in the same stream, each ended by EOS and a flush.
fn every_count(rig: &Rig, info: &VideoInfo, window: u64) {
    rig.start(&info.to_caps().unwrap());
    for count in 0..=3 * window {
        rig.take();
        rig.push_all((0..count).map(|index| frame(info, index)));
        let early = rig.take_buffers();
        assert!(
            (early.len() as u64) <= count && count - (early.len() as u64) < window,
            "{count}: {early:?}"
        );
        rig.eos();
        let rest = rig.take();
        assert!(
            matches!(rest.last(), Some(Out::Event(event)) if event.type_() == gst::EventType::Eos),
            "{count}: EOS comes last"
        );
        let all: Vec<_> = early
            .into_iter()
            .chain(rest.into_iter().filter_map(Out::buffer))
            .collect();
        assert_brighter(info, &all, 0, count);
        assert!(rig.event(gst::event::FlushStart::new()));
        assert!(rig.event(gst::event::FlushStop::new(true)));
        assert!(rig.event(rig::time_segment()));
    }
    assert_eq!(rig.errors(), []);
    let total = (0..=3 * window).sum::<u64>();
    for field in ["frames-in", "frames-out", "frames-restored"] {
        assert_eq!(rig.stat(field), total, "{field}");
    }
    assert_eq!(rig.stat("frames-bypassed"), 0);
}

#[test]
fn every_count_of_frames_with_each_bundle() {
    for model in [
        "brighter",
        "brighter-noprior",
        "brighter-frames",
        "brighter-f16",
        "external",
    ] {
        println!("{model}");
        every_count(&Rig::new(model), &rgb(), 5);
    }
}

#[test]
fn every_count_of_frames_with_windows_of_17() {
    every_count(
        &Rig::new("brighter-long"),
        &info(gst_video::VideoFormat::Rgb, 64, 64),
        17,
    );
}

#[test]
fn every_count_of_frames_with_each_window_length_and_overlap() {
    for (window, overlaps) in [(5, vec![0, 2]), (9, vec![1, 4]), (13, vec![0, 6])] {
        for overlap in overlaps {
            let element = rig::element("brighter-dynamic");
            element.set_property("window-frames", window as u32);
            element.set_property("overlap-frames", overlap as u32);
            let rig = Rig::around(element);
            rig.play();
            every_count(&rig, &rgb(), window);
        }
    }
}

#[test]
fn identity_gives_the_same_pixels() {
    let rig = Rig::new("identity");
    rig.start(&rgb().to_caps().unwrap());
    rig.push_all((0..13).map(|index| frame(&rgb(), index)));
    rig.eos();
    let out = rig.take_buffers();
    assert_eq!(out.len(), 13);
    for (index, buffer) in out.iter().enumerate() {
        assert!(bytes(buffer) == bytes(&frame(&rgb(), index as u64)), "frame {index}");
    }
    assert_eq!(rig.stat("windows"), 3);
}

/// What `blend` makes of frame `index` of a run of black frames: ten times its place in the window.
fn blended((old, new, share): (Option<usize>, usize, f64)) -> u8 {
    let share = (share * 16384.0).round() / 16384.0;
    let new = 10.0 * new as f64;
    (old.map_or(new, |old| 10.0 * old as f64 * (1.0 - share) + new * share) + 0.5).floor() as u8
}

#[test]
fn windows_and_cross_fades_follow_the_rules() {
    let rig = Rig::new("blend");
    rig.start(&rgb().to_caps().unwrap());
    for count in 0..=15 {
        rig.take();
        rig.push_all((0..count).map(|index| flat(&rgb(), index, 0)));
        rig.eos();
        let found: Vec<u8> = rig
            .take_buffers()
            .iter()
            .map(|buffer| {
                let bytes = bytes(buffer);
                assert!(bytes.iter().all(|byte| *byte == bytes[0]));
                bytes[0]
            })
            .collect();
        let expected: Vec<u8> = window_parts(count as usize, 5, 2).into_iter().map(blended).collect();
        assert_eq!(found, expected, "{count} frames");
        rig.event(gst::event::FlushStart::new());
        rig.event(gst::event::FlushStop::new(true));
        rig.event(rig::time_segment());
    }
}

/// Pauses, reconfigurations and queries between frames change no pixel.
#[test]
fn chunks_change_nothing() {
    let restore = |between: &dyn Fn(&Rig, u64)| -> Vec<Vec<u8>> {
        let rig = Rig::new("blend");
        rig.start(&rgb().to_caps().unwrap());
        for index in 0..14 {
            rig.push(flat(&rgb(), index, (index * 3) as u8)).unwrap();
            between(&rig, index);
        }
        rig.eos();
        rig.take_buffers().iter().map(bytes).collect()
    };
    let whole = restore(&|_, _| {});
    assert_eq!(whole.len(), 14);
    let paused = restore(&|rig, index| {
        if index % 3 == 1 {
            rig.element.set_state(gst::State::Paused).unwrap();
            rig.element.set_state(gst::State::Playing).unwrap();
        }
    });
    assert!(whole == paused);
    let reconfigured = restore(&|rig, index| {
        if index % 2 == 1 {
            assert!(rig.sink.push_event(gst::event::Reconfigure::new()));
        }
    });
    assert!(whole == reconfigured);
    let queried = restore(&|rig, _| {
        rig.query_latency();
        let mut query = gst::query::Allocation::new(Some(&rgb().to_caps().unwrap()), true);
        assert!(rig.src.peer_query(&mut query));
        let _ = rig.element.property::<gst::Structure>("stats");
    });
    assert!(whole == queried);
    let repeated = restore(&|rig, _| {
        let caps = rgb().to_caps().unwrap();
        assert!(rig.event(gst::event::Caps::new(&caps)), "the same caps again");
    });
    assert!(whole == repeated);
    let listed = {
        let rig = Rig::new("blend");
        rig.start(&rgb().to_caps().unwrap());
        let list: gst::BufferList = (0..14).map(|index| flat(&rgb(), index, (index * 3) as u8)).collect();
        rig.src.push_list(list).unwrap();
        rig.eos();
        rig.take_buffers().iter().map(bytes).collect::<Vec<_>>()
    };
    assert!(whole == listed, "a buffer list");
}

#[test]
fn flags_and_times_are_kept() {
    use gst::BufferFlags as F;
    let flags = [
        F::empty(),
        F::LIVE,
        F::DECODE_ONLY,
        F::RESYNC,
        F::CORRUPTED,
        F::MARKER,
        F::HEADER,
        F::GAP,
        F::DROPPABLE,
        F::DELTA_UNIT,
        F::SYNC_AFTER,
        F::NON_DROPPABLE,
        F::DISCONT,
        F::GAP | F::MARKER | F::CORRUPTED,
    ];
    for model in ["brighter", "identity"] {
        let rig = Rig::new(model);
        rig.start(&rgb().to_caps().unwrap());
        for (index, flags) in flags.iter().enumerate() {
            let mut buffer = frame(&rgb(), index as u64);
            let changed = buffer.get_mut().unwrap();
            changed.set_flags(*flags);
            // Times that follow no rule.
            changed.set_pts((index != 3).then(|| gst::ClockTime::from_nseconds(1000 + 7 * index as u64)));
            changed.set_dts((index % 2 == 0).then(|| gst::ClockTime::from_nseconds(500 + index as u64)));
            changed.set_duration((index % 3 != 0).then(|| gst::ClockTime::from_nseconds(index as u64)));
            changed.set_offset(if index == 5 { u64::MAX } else { 100 - index as u64 });
            changed.set_offset_end(index as u64 * 2);
            rig.push(buffer).unwrap();
        }
        rig.eos();
        let out = rig.take_buffers();
        assert_eq!(out.len(), flags.len());
        for (index, (buffer, flags)) in out.iter().zip(flags).enumerate() {
            assert_eq!(buffer.flags(), flags, "{model} {index}");
            assert_eq!(
                buffer.pts(),
                (index != 3).then(|| gst::ClockTime::from_nseconds(1000 + 7 * index as u64))
            );
            assert_eq!(
                buffer.dts(),
                (index % 2 == 0).then(|| gst::ClockTime::from_nseconds(500 + index as u64))
            );
            assert_eq!(
                buffer.duration(),
                (index % 3 != 0).then(|| gst::ClockTime::from_nseconds(index as u64))
            );
            assert_eq!(buffer.offset(), if index == 5 { u64::MAX } else { 100 - index as u64 });
            assert_eq!(buffer.offset_end(), index as u64 * 2);
        }
    }
}

#[test]
fn metas_are_kept() {
    let rig = Rig::new("brighter");
    rig.start(&rgb().to_caps().unwrap());
    let reference = gst::Caps::new_empty_simple("timestamp/x-ntp");
    for index in 0..7 {
        let mut buffer = frame(&rgb(), index);
        let meta = buffer.get_mut().unwrap();
        let at = index as u32;
        let mut roi = VideoRegionOfInterestMeta::add(meta, "nose", (at, 2, 3 + at, 4));
        roi.set_id(at as i32);
        roi.add_param(
            gst::Structure::builder("detection")
                .field("confidence", 0.5 + f64::from(at))
                .build(),
        );
        VideoRegionOfInterestMeta::add(meta, "hand", (0, 0, 1, 1));
        let code = VideoTimeCode::new(
            gst::Fraction::new(25, 1),
            None,
            VideoTimeCodeFlags::empty(),
            1,
            2,
            3,
            at,
            0,
        );
        VideoTimeCodeMeta::add(meta, &code.try_into().unwrap());
        VideoCaptionMeta::add(meta, VideoCaptionType::Cea708Raw, &[index as u8, 9]);
        VideoCropMeta::add(meta, (at, 1, 5, 6));
        gst::ReferenceTimestampMeta::add(meta, &reference, FRAME * (index + 50), FRAME);
        gst::meta::CustomMeta::add(meta, "DvfaceTestMeta")
            .unwrap()
            .mut_structure()
            .set("index", at);
        rig.push(buffer).unwrap();
    }
    rig.eos();
    let out = rig.take_buffers();
    assert_brighter(&rgb(), &out, 0, 7);
    for (index, buffer) in out.iter().enumerate() {
        let at = index as u32;
        // Faces that upstream tells of, and those that were restored, are others.
        let rois = buffer.iter_meta::<VideoRegionOfInterestMeta>();
        let rois: Vec<_> = rois
            .filter(|roi| !["face", "dvface-restored"].contains(&roi.roi_type()))
            .collect();
        assert_eq!(rois.len(), 2);
        assert_eq!((rois[0].rect(), rois[0].id()), ((at, 2, 3 + at, 4), at as i32));
        assert_eq!(rois[0].roi_type(), "nose");
        let param = rois[0].param("detection").unwrap();
        assert_eq!(param.get::<f64>("confidence").unwrap(), 0.5 + f64::from(at));
        assert_eq!(rois[1].roi_type(), "hand");
        assert_eq!(buffer.meta::<VideoTimeCodeMeta>().unwrap().tc().frames(), at);
        let caption = buffer.meta::<VideoCaptionMeta>().unwrap();
        assert_eq!(
            (caption.caption_type(), caption.data()),
            (VideoCaptionType::Cea708Raw, &[at as u8, 9][..])
        );
        assert_eq!(buffer.meta::<VideoCropMeta>().unwrap().rect(), (at, 1, 5, 6));
        let time = buffer.meta::<gst::ReferenceTimestampMeta>().unwrap();
        assert_eq!(
            (time.reference(), time.timestamp()),
            (reference.as_ref(), FRAME * (index as u64 + 50))
        );
        let custom = gst::meta::CustomMeta::from_buffer(buffer, "DvfaceTestMeta").unwrap();
        assert_eq!(custom.structure().get::<u32>("index").unwrap(), at);
        let metas = buffer.iter_meta::<gst::Meta>().filter(|meta| {
            ![gst_video::VideoMeta::meta_api(), VideoRegionOfInterestMeta::meta_api()].contains(&meta.api())
        });
        assert_eq!(metas.count(), 5, "none twice, and none of the memory");
    }
}

#[test]
fn a_frame_is_a_copy_and_the_input_is_let_go() {
    let rig = Rig::new("brighter");
    rig.start(&rgb().to_caps().unwrap());
    let kept = frame(&rgb(), 0);
    rig.push(kept.clone()).unwrap();
    assert_eq!(bytes(&kept), bytes(&frame(&rgb(), 0)));
    let mut kept = kept;
    assert!(kept.get_mut().is_some(), "a held frame does not hold its input");
    rig.eos();
    assert_brighter(&rgb(), &rig.take_buffers(), 0, 1);
    assert_eq!(
        bytes(&kept),
        bytes(&frame(&rgb(), 0)),
        "the input's memory is not written"
    );
}
