// SPDX-License-Identifier: MPL-2.0

//! Real detectors on real faces, where their files are: ../shared is no part of the repository, and neither are they.

use std::path::PathBuf;

use gst::prelude::*;
use gst_video::{VideoFormat, VideoInfo};

use crate::faces::restored;
use crate::rig::{self, Rig, info};

/// What detector/README.md says of the first frame of this clip: left, top, width, height, by both detectors.
const CLIP: &str = "data/faces-eval/eval_hq01.mp4";
const YUNET: (&str, [f64; 4]) = ("yunet_n_dynamic.onnx", [149.74, 103.57, 229.65, 309.77]);
const RFB: (&str, [f64; 4]) = ("version-RFB-320.onnx", [154.72, 103.0, 225.49, 315.02]);

/// A file of the shared folder; says so where it is not there.
fn shared(name: &str) -> Option<String> {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../shared", name].iter().collect();
    if !path.is_file() {
        println!("skipped: there is no {}", path.display());
        return None;
    }
    Some(path.to_str().unwrap().into())
}

/// The first frames of the clip, on a grey frame of `size` at a place.
fn frames(size: (u32, u32), at: (u32, u32), count: usize) -> Option<(VideoInfo, Vec<gst::Buffer>)> {
    let clip = shared(CLIP)?;
    crate::init();
    let info = info(VideoFormat::Rgb, size.0, size.1);
    let pipeline = gst::parse::launch(&format!(
        "filesrc location={clip} ! decodebin ! videoconvert ! video/x-raw,format=RGB ! fakesink name=sink signal-handoffs=true sync=false"
    ))
    .unwrap()
    .downcast::<gst::Bin>()
    .unwrap();
    let (send, receive) = std::sync::mpsc::sync_channel(1);
    pipeline
        .by_name("sink")
        .unwrap()
        .connect("handoff", false, move |values| {
            let _ = send.send(values[1].get::<gst::Buffer>().unwrap());
            None
        });
    pipeline.set_state(gst::State::Playing).unwrap();
    let side = 512;
    let frames = (0..count as u64).map(|index| {
        let picture = receive
            .recv_timeout(std::time::Duration::from_secs(20))
            .expect("a frame");
        let picture = picture.map_readable().unwrap();
        let stride = info.stride()[0] as usize;
        rig::frame_with(&info, index, |place| {
            let (x, y) = ((place % stride / 3) as u32, (place / stride) as u32);
            let inside = (at.0..at.0 + side).contains(&x) && (at.1..at.1 + side).contains(&y);
            if !inside {
                return 110;
            }
            picture[((y - at.1) * side * 3) as usize + place % stride - at.0 as usize * 3]
        })
    });
    let frames = frames.collect();
    drop(receive);
    pipeline.set_state(gst::State::Null).unwrap();
    Some((info, frames))
}

/// Boxes of the faces that were restored in each frame.
fn found(detector: &str, info: &VideoInfo, frames: Vec<gst::Buffer>) -> Vec<Vec<[f64; 4]>> {
    let element = rig::element("identity");
    element.set_property_from_str("region", "detect");
    element.set_property("detector", detector);
    element.set_property("detect-interval", 1u32);
    element.set_property("min-face-size", 32u32);
    let rig = Rig::around(element);
    rig.play();
    rig.start(&info.to_caps().unwrap());
    rig.push_all(frames);
    rig.eos();
    assert_eq!(rig.errors(), []);
    let boxes = |buffer: &gst::Buffer| {
        let faces = restored(buffer);
        let sides = faces
            .iter()
            .map(|(_, _, (x, y, width, height))| [*x, *y, *width, *height].map(f64::from));
        sides.collect()
    };
    rig.take_buffers().iter().map(boxes).collect()
}

fn overlap(a: &[f64; 4], b: &[f64; 4]) -> f64 {
    let side = |at: usize| ((a[at] + a[at + 2]).min(b[at] + b[at + 2]) - a[at].max(b[at])).max(0.0);
    let shared = side(0) * side(1);
    shared / (a[2] * a[3] + b[2] * b[3] - shared)
}

#[test]
fn both_find_the_face_where_their_facts_say() {
    for (file, expected) in [YUNET, RFB] {
        let Some(detector) = shared(&format!("fixtures/detector/{file}")) else {
            continue;
        };
        let Some((info, frames)) = frames((512, 512), (0, 0), 1) else {
            continue;
        };
        let found = found(&detector, &info, frames);
        assert_eq!(found[0].len(), 1, "{file}: {found:?}");
        let overlap = overlap(&found[0][0], &expected);
        println!("{file}: {:?}, overlap with its facts {overlap:.3}", found[0][0]);
        // It sees a smaller picture than the facts were measured with.
        assert!(overlap > 0.85, "{file}: {:?}, expected {expected:?}", found[0][0]);
    }
}

/// In a wide frame, where RFB-320 sees everything narrower; with the face in one place and another.
#[test]
fn both_find_the_face_in_a_wide_frame_and_follow_it() {
    for (file, expected) in [YUNET, RFB] {
        let Some(detector) = shared(&format!("fixtures/detector/{file}")) else {
            continue;
        };
        for at in [(40, 100), (700, 60)] {
            let Some((info, frames)) = frames((1280, 720), at, 6) else {
                continue;
            };
            let expected = [
                expected[0] + f64::from(at.0),
                expected[1] + f64::from(at.1),
                expected[2],
                expected[3],
            ];
            for (index, faces) in found(&detector, &info, frames).iter().enumerate() {
                assert_eq!(faces.len(), 1, "{file} frame {index}: {faces:?}");
                let overlap = overlap(&faces[0], &expected);
                println!("{file} at {at:?}, frame {index}: overlap {overlap:.3}");
                assert!(
                    overlap > 0.7,
                    "{file} frame {index}: {:?}, expected {expected:?}",
                    faces[0]
                );
            }
        }
    }
}

#[test]
fn neither_finds_a_face_where_none_is() {
    let info = info(VideoFormat::I420, 640, 360);
    for (file, _) in [YUNET, RFB] {
        let Some(detector) = shared(&format!("fixtures/detector/{file}")) else {
            continue;
        };
        let frames = (0..5).map(|index| rig::frame(&info, index)).collect();
        let found = found(&detector, &info, frames);
        assert!(found.iter().all(Vec::is_empty), "{file}: {found:?}");
    }
}
