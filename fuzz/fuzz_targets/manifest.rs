// SPDX-License-Identifier: MPL-2.0

//! A stranger's bundle.toml: refused with an error, or read with sizes that can be worked with. Never a panic, never a file
//! outside the folder.

#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use gstdvface::bundle::{Bundle, GraphKind};
use libfuzzer_sys::fuzz_target;

/// The folder of a bundle whose graphs are there, so that a manifest that is right is taken.
static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let good = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/bundles/brighter");
    for graph in ["encoder.onnx", "prior.onnx", "dit.onnx", "decoder.onnx"] {
        std::fs::copy(good.join(graph), folder.path().join(graph)).unwrap();
    }
    folder
});

fuzz_target!(|data: &[u8]| {
    let folder = FOLDER.path();
    std::fs::write(folder.join("bundle.toml"), data).unwrap();
    let bundle = match Bundle::open(folder) {
        Ok(bundle) => bundle,
        Err(error) => {
            let text = error.to_string();
            assert!(!text.is_empty() && !text.contains('\0'), "{text:?}");
            return;
        }
    };
    let root = folder.canonicalize().unwrap();
    for graph in GraphKind::ALL {
        if let Some(path) = bundle.graph_path(graph) {
            assert!(path.canonicalize().unwrap().starts_with(&root), "{}", path.display());
        }
    }
    assert!(bundle.width() > 0 && bundle.height() > 0 && !bundle.window_frames().is_empty());
    for frames in bundle.window_frames().iter().copied().chain([0, 1, u32::MAX]) {
        for overlap in [0, 1, bundle.overlap_frames(), u32::MAX] {
            if let Ok(shape) = bundle.shape(frames, overlap) {
                assert!(shape.frames() >= 1 && 2 * shape.overlap() <= shape.frames());
            }
        }
        if bundle.window_frames().contains(&frames) {
            assert!(bundle.latent_dims(frames).iter().all(|side| *side > 0));
        }
    }
    let _ = (bundle.fingerprint(), bundle.file_bytes(), bundle.verify());
});
