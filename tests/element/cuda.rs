// SPDX-License-Identifier: MPL-2.0

//! The element on a GPU. Skipped where the runtime of the tests is no CUDA build, or the machine has no device.

use std::path::Path;

use gst::glib;
use gst::prelude::*;
use gst_video::{VideoFormat, VideoInfo};
use gstdvface::runtime::DeviceMemory;

use crate::errors::{assert_text, fails};
use crate::rig::{self, Rig, assert_brighter, bytes, frame, frame_with, info, rgb};

/// Whether the runtime of the tests is a CUDA build.
pub fn is_cuda_build() -> bool {
    crate::runtime_library()
        .with_file_name("libonnxruntime_providers_cuda.so")
        .exists()
}

/// Whether there is a GPU for these tests; says why not. They run at once, captures of CUDA graphs and all.
fn has_gpu() -> bool {
    if !is_cuda_build() {
        println!("skipped: the runtime is no CUDA build");
        return false;
    }
    let has = DeviceMemory::of_device(0).is_some();
    if !has {
        println!("skipped: no CUDA device");
    }
    has
}

fn on_cuda(model: &str) -> gst::Element {
    let element = rig::element(model);
    element.set_property_from_str("provider", "cuda");
    element
}

fn with_graphs(element: gst::Element) -> gst::Element {
    element.set_property("cuda-graphs", true);
    element
}

/// The bundle that comes with the plugin, on a provider; `None` where it is not there, and says so.
fn nano(provider: &str) -> Option<gst::Element> {
    let folder = rig::SHIPPED;
    if !Path::new(folder).join("bundle.toml").is_file() {
        println!("skipped: there is no {folder}");
        return None;
    }
    let element = rig::element("brighter");
    element.set_property("model", folder);
    element.set_property_from_str("provider", provider);
    element.set_property("num-threads", 0u32);
    Some(element)
}

/// Frames of its size.
fn large() -> VideoInfo {
    info(VideoFormat::Rgb, 512, 512)
}

/// Noisy waves that move: no two frames are alike, and there is something to restore.
fn waves(index: u64) -> gst::Buffer {
    frame_with(&large(), index, |place| {
        let (x, y) = ((place / 3 % 512) as f64, (place / 1536) as f64);
        let wave = ((x + 2.0 * index as f64) / 9.0).sin() * (y / 13.0).cos();
        (128.0 + 60.0 * wave + 8.0 * ((place * 7919) % 17) as f64 / 17.0) as u8
    })
}

/// Errors and warnings on the bus since the last call.
fn told(rig: &Rig) -> Vec<glib::Error> {
    let messages = rig.messages(&[gst::MessageType::Error, gst::MessageType::Warning]);
    let error = |message: &gst::Message| match message.view() {
        gst::MessageView::Error(error) => error.error(),
        gst::MessageView::Warning(warning) => warning.error(),
        _ => unreachable!(),
    };
    messages.iter().map(error).collect()
}

/// What comes out of a stream of these frames, which is to go well.
#[track_caller]
fn streamed(rig: &Rig, info: &VideoInfo, mut frames: impl Iterator<Item = gst::Buffer>) -> Vec<gst::Buffer> {
    rig.play();
    rig.start(&info.to_caps().unwrap());
    let pushed = frames.try_for_each(|frame| rig.push(frame).map(drop));
    rig.event(gst::event::Eos::new());
    let told = told(rig);
    assert!(pushed.is_ok() && told.is_empty(), "{pushed:?}: {told:?}");
    rig.take_buffers()
}

/// Plays frames, each of which is to come out one brighter. All differ: one of another window would show.
#[track_caller]
fn plays(rig: &Rig, count: u64) {
    let out = streamed(rig, &rgb(), (0..count).map(|index| frame(&rgb(), index)));
    assert_brighter(&rgb(), &out, 0, count);
}

/// Two elements that share sessions, in threads of their own.
fn at_once(elements: [gst::Element; 2]) -> [Rig; 2] {
    let rigs = elements.map(Rig::around);
    std::thread::scope(|scope| {
        for rig in &rigs {
            scope.spawn(|| plays(rig, 60));
        }
    });
    rigs
}

fn psnr(a: &[gst::Buffer], b: &[gst::Buffer]) -> f64 {
    let [a, b] = [a, b].map(|frames| frames.iter().flat_map(bytes).collect::<Vec<u8>>());
    assert_eq!(a.len(), b.len());
    let square = |(x, y): (&u8, &u8)| f64::from(x.abs_diff(*y)).powi(2);
    let squares: f64 = a.iter().zip(&b).map(square).sum();
    10.0 * (65025.0 * a.len() as f64 / squares.max(1e-9)).log10()
}

/// `provider=auto` says what it took, once, and that is what runs.
#[track_caller]
fn auto_says(element: gst::Element, pieces: &[&str], provider: &str) {
    element.set_property_from_str("provider", "auto");
    let rig = Rig::around(element);
    rig.play();
    let infos = rig.messages(&[gst::MessageType::Info]);
    assert_eq!(infos.len(), 1, "{infos:?}");
    let gst::MessageView::Info(info) = infos[0].view() else {
        unreachable!()
    };
    let text = info.debug().unwrap();
    assert!(pieces.iter().all(|piece| text.contains(piece)), "{text}");
    plays(&rig, 8);
    let stats = rig.element.property::<gst::Structure>("stats");
    assert_eq!(stats.get::<&str>("provider").unwrap(), provider);
}

#[test]
fn frames_are_restored_on_the_gpu() {
    if !has_gpu() {
        return;
    }
    for model in ["brighter", "brighter-dynamic", "brighter-f16", "brighter-noprior"] {
        println!("{model}");
        let rig = Rig::around(on_cuda(model));
        plays(&rig, 12);
        assert_eq!(rig.element.property::<String>("active-provider"), "cuda");
        assert!(rig.stat("gpu-memory-peak") > 0);
    }
}

#[test]
fn the_shipped_bundle_gives_nearly_the_frames_of_the_cpu() {
    if !has_gpu() {
        return;
    }
    let (Some(cpu), Some(cuda)) = (nano("cpu"), nano("cuda")) else {
        return;
    };
    let input: Vec<_> = (0..34).map(waves).collect();
    let [cpu, cuda] = [cpu, cuda].map(|element| streamed(&Rig::around(element), &large(), (0..34).map(waves)));
    let (apart, changed) = (psnr(&cpu, &cuda), psnr(&cpu, &input));
    println!("{apart:.2} dB apart, changed by {changed:.2} dB");
    // Convolutions in 8 bits are f32 on the GPU, and TF32 there.
    assert!(apart >= 40.0, "{apart} dB apart");
    assert!(changed < apart - 6.0, "changed by {changed} dB, {apart} dB apart");
}

#[test]
fn auto_takes_the_gpu() {
    if !has_gpu() {
        return;
    }
    auto_says(rig::element("brighter"), &["running on CUDA device 0"], "cuda");
}

#[test]
fn cuda_graphs_give_the_same_frames() {
    if !has_gpu() {
        return;
    }
    for model in ["brighter", "brighter-noprior", "brighter-frames"] {
        println!("{model}");
        plays(&Rig::around(with_graphs(on_cuda(model))), 40);
    }
}

/// Each captures, at the same time, and replays what is its own.
#[test]
fn two_elements_with_cuda_graphs_at_once() {
    if !has_gpu() {
        return;
    }
    at_once([(); 2].map(|()| with_graphs(on_cuda("brighter"))));
}

/// Those of the shipped bundle run in part on the CPU.
#[test]
fn graphs_that_cannot_be_captured_are_an_error() {
    if !has_gpu() {
        return;
    }
    let Some(element) = nano("cuda") else { return };
    element.set_property("cuda-graphs", true);
    let rig = Rig::around(element);
    assert!(rig.element.set_state(gst::State::Playing).is_err());
    let told = told(&rig);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].matches(gst::LibraryError::Settings), "{told:?}");
    assert_text(&told[0], &["cuda-graphs", "8-bit convolutions"]);
}

/// One of whole frames and one of faces; the detector stays on the CPU.
#[test]
fn two_streams_at_once() {
    if !has_gpu() {
        return;
    }
    let faces = on_cuda("brighter");
    faces.set_property_from_str("region", "detect");
    faces.set_property("detector", crate::detector("yunet-whole"));
    faces.set_property("min-face-size", 0u32);
    faces.set_property("match-colours", false);
    let [_, faces] = at_once([on_cuda("brighter"), faces]);
    assert_eq!(faces.stat("faces-restored"), 60);
}

#[test]
fn a_device_that_is_not_there_is_an_error_or_with_auto_the_cpu() {
    if !has_gpu() {
        return;
    }
    let error = fails(|element| {
        element.set_property_from_str("provider", "cuda");
        element.set_property("device-id", 99u32);
    });
    println!("{error}");
    assert!(error.matches(gst::LibraryError::Init), "{error:?}");
    assert_text(&error, &["provider=cuda is not available"]);

    let element = rig::element("brighter");
    element.set_property("device-id", 99u32);
    auto_says(element, &["running on the CPU", "CUDA is not available"], "cpu");
}

/// Whether it is the weights or a window that does not fit: it is told of once, and every frame comes out.
#[test]
fn a_memory_limit_that_is_too_small_is_told_of_and_no_frame_is_lost() {
    if !has_gpu() {
        return;
    }
    for (overload, mebibytes) in [("block", 1), ("bypass", 1), ("block", 16), ("bypass", 16)] {
        let Some(element) = nano("cuda") else { return };
        element.set_property("gpu-mem-limit", mebibytes * 1_048_576u64);
        element.set_property_from_str("overload", overload);
        let rig = Rig::around(element);
        if rig.element.set_state(gst::State::Playing).is_ok() {
            rig.start(&large().to_caps().unwrap());
            let pushed = (0..20).take_while(|index| rig.push(waves(*index)).is_ok()).count();
            rig.event(gst::event::Eos::new());
            // The frame whose push fails comes out, too.
            assert_eq!(rig.take_buffers().len(), (pushed + 1).min(20), "{overload}");
        }
        let told = told(&rig);
        println!("{overload}, {mebibytes} MiB: {told:?}");
        assert_eq!(told.len(), 1, "{told:?}");
        assert_text(&told[0], &["memory"]);
    }
}
