// SPDX-License-Identifier: MPL-2.0

//! A stranger's ONNX file, looked through for the weight files that it names: refused with an error or taken, without a panic
//! and without memory beyond its own size.

#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use gstdvface::bundle::Bundle;
use libfuzzer_sys::fuzz_target;

/// A bundle, of which each run replaces one graph.
static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let good = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/bundles/external");
    for entry in std::fs::read_dir(good).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    folder
});

fuzz_target!(|data: &[u8]| {
    let folder = FOLDER.path();
    std::fs::write(folder.join("dit.onnx"), data).unwrap();
    match Bundle::open(folder) {
        // Its checksum is another one, unless it is the very file.
        Ok(bundle) => {
            let _ = bundle.verify();
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
