// SPDX-License-Identifier: MPL-2.0

//! Where the tests find ONNX Runtime. A module of the test binaries and of the library's own tests.

use std::path::{Path, PathBuf};

/// Path of libonnxruntime: in ORT_DYLIB_PATH, or in target/release, where `make build` puts it.
///
/// # Panics
/// A missing runtime is no reason to skip a test.
pub fn runtime_library() -> PathBuf {
    let path = match std::env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("target/release/libonnxruntime.so"),
    };
    assert!(
        path.is_file(),
        "no ONNX Runtime at {}: run `make build`, or set ORT_DYLIB_PATH to the path of libonnxruntime.so",
        path.display()
    );
    path
}
