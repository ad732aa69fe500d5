// SPDX-License-Identifier: MPL-2.0

//! Bundles in temporary folders: what is accepted, and that everything else is refused with a clear error.

mod files;
mod graphs;
mod manifest;
mod search;

use std::fs;

use gstdvface::bundle::{Bundle, BundleError, GraphKind};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// An ONNX model with an empty graph.
const MODEL: &[u8] = &[0x08, 10, 0x3A, 0x00];

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn manifest() -> String {
    let digest = sha256(MODEL);
    let graphs: String = GraphKind::ALL
        .iter()
        .map(|kind| format!("[graphs.{kind}]\npath = \"{kind}.onnx\"\nsha256 = \"{digest}\"\n"))
        .collect();
    format!(
        r#"format = 1
name = "test-bundle"
version = "1.0.0"
license = "MIT"
description = "A bundle for tests"
trained_on = "nothing"

[window]
frames = 17
overlap = 4

[frame]
width = 64
height = 48

[latent]
channels = 16
spatial_stride = 8
temporal_stride = 4

[diffusion]
timestep = 0.4

{graphs}"#
    )
}

/// A folder with `manifest` and the four graphs.
fn folder(manifest: impl AsRef<[u8]>) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("bundle.toml"), manifest).unwrap();
    for kind in GraphKind::ALL {
        fs::write(dir.path().join(format!("{kind}.onnx")), MODEL).unwrap();
    }
    dir
}

fn open(manifest: &str) -> Result<Bundle, BundleError> {
    Bundle::open(folder(manifest).path())
}

/// The manifest with one piece replaced, which must be in it.
fn changed(from: &str, to: &str) -> String {
    let manifest = manifest();
    assert!(manifest.contains(from), "{from}");
    manifest.replacen(from, to, 1)
}
