// SPDX-License-Identifier: MPL-2.0

//! The element with generated bundles (tests/bundles): counts, order, pixels, latency, errors, states.
//!
//! Needs libonnxruntime: at ORT_DYLIB_PATH, or in target/release, where `make build` puts it.

#[path = "../common/library.rs"]
mod library;

#[cfg(feature = "analytics")]
mod analytics;
mod crowd;
mod cuda;
mod cuts;
mod detectors;
mod downstream;
mod errors;
mod faces;
mod failures;
mod formats;
mod late_runs;
mod latency;
mod modes;
mod order;
mod overload;
mod paste;
mod pixels;
mod process;
mod properties;
mod regions;
mod rig;
mod scenes;
mod states;
mod streams;
mod strength;
mod twelve;
mod warm_up;

use std::path::Path;
use std::sync::Once;

use library::runtime_library;

/// Initialises GStreamer, with the plugin linked in.
fn init() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        gst::init().unwrap();
        gstdvface::plugin_register_static().unwrap();
        gst::meta::CustomMeta::register("DvfaceTestMeta", &["video", "size", "orientation"]);
    });
}

/// Path of a generated detector.
fn detector(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/detectors/{name}.onnx"));
    assert!(path.is_file(), "no detector {}", path.display());
    path.to_str().unwrap().into()
}

/// Folder of a generated bundle.
fn bundle(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bundles").join(name);
    assert!(path.is_dir(), "no bundle {}", path.display());
    path.to_str().unwrap().into()
}
