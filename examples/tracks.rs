// SPDX-License-Identifier: MPL-2.0

//! Plays a pipeline and prints the faces that `dvfacerestore` has restored, one line each: frame, track, left, top, width, height,
//! strength.
//!
//! ```text
//! GST_PLUGIN_PATH=target/release cargo run --release --example tracks -- filesrc location=people.mp4 ! decodebin ! \
//!     videoconvert ! dvfacerestore region=detect detector=yunet_n_dynamic.onnx ! fakesink
//! ```
//!
//! Its arguments are those of gst-launch-1.0, a word each. The plugin is the one that GStreamer finds, with runtime and bundle beside it.

use std::sync::atomic::{AtomicU64, Ordering};

use gst::prelude::*;
use gst_video::VideoRegionOfInterestMeta;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    gst::init()?;
    if gst::ElementFactory::find("dvfacerestore").is_none() {
        return Err("no element dvfacerestore: `make build`, and GST_PLUGIN_PATH=target/release".into());
    }
    let line: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = line.iter().map(String::as_str).collect();
    let pipeline = gst::parse::launchv(&words)?;
    let bin = pipeline.downcast_ref::<gst::Bin>().ok_or("not a pipeline")?;
    let element = bin
        .iterate_elements()
        .into_iter()
        .flatten()
        .find(|element| {
            element
                .factory()
                .is_some_and(|factory| factory.name() == "dvfacerestore")
        })
        .ok_or("no dvfacerestore in the pipeline")?;
    let counter = AtomicU64::new(0);
    let src = element.static_pad("src").ok_or("no source pad")?;
    src.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let index = counter.fetch_add(1, Ordering::Relaxed);
        let metas = info
            .buffer()
            .into_iter()
            .flat_map(|buffer| buffer.iter_meta::<VideoRegionOfInterestMeta>());
        for meta in metas {
            // Not by `roi_type()`, which is no string where another element's region has no type.
            let Some(params) = meta.param("dvface-restored") else {
                continue;
            };
            let (x, y, width, height) = meta.rect();
            let strength = params.get::<f64>("strength").ok();
            println!(
                "{index},{},{x},{y},{width},{height},{:.3}",
                meta.id(),
                strength.unwrap_or(0.0)
            );
        }
        gst::PadProbeReturn::Ok
    });
    let bus = pipeline.bus().ok_or("no bus")?;
    let ends = [gst::MessageType::Eos, gst::MessageType::Error];
    let message = match pipeline.set_state(gst::State::Playing) {
        Ok(_) => bus.timed_pop_filtered(gst::ClockTime::NONE, &ends),
        // Why is on the bus.
        Err(_) => bus.pop_filtered(&ends[1..]),
    };
    pipeline.set_state(gst::State::Null)?;
    match message.as_ref().map(|message| message.view()) {
        Some(gst::MessageView::Error(error)) => Err(error.error().into()),
        Some(_) => Ok(()),
        None => Err("the pipeline does not start".into()),
    }
}
