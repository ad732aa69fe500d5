// SPDX-License-Identifier: MPL-2.0

//! ONNX Runtime: finding and loading the library, execution providers, sessions shared by all elements of a process.

mod arena;
mod cache;
pub(crate) mod capture;
mod device_memory;
mod engines;
mod environment;
mod library;
mod log;
mod provider;
mod sessions;
pub(crate) mod threads;

pub use cache::SessionCache;
pub use device_memory::DeviceMemory;
pub use environment::{environment, keep_quiet};
pub use library::LibrarySearch;
pub use provider::{Provider, ProviderOptions};
pub use sessions::{Graph, Sessions};

use std::path::PathBuf;

use crate::bundle::{BundleError, GraphKind};

/// Why there is no runtime, no provider or no session. The text of each says what, where, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// No libonnxruntime in any of the places.
    #[error(
        "no ONNX Runtime library found (searched: {}). Install one, for example with \"pip install onnxruntime\", and give \
         the path of its libonnxruntime.so in the property runtime-library or in ORT_DYLIB_PATH",
        searched.join(", ")
    )]
    LibraryNotFound { searched: Vec<String> },

    /// A path given by the user that cannot be loaded.
    #[error("{origin}: {}: {reason}", path.display())]
    LibraryPath {
        origin: &'static str,
        path: PathBuf,
        reason: String,
    },

    /// The library is there and cannot be used: not ONNX Runtime, or too old.
    #[error(
        "{}: {}. ONNX Runtime 1.{} or later is needed",
        path.display(),
        without_stop(reason),
        ort::MINOR_VERSION
    )]
    LibraryUnusable { path: PathBuf, reason: String },

    /// Another library is loaded already; a process has one.
    #[error(
        "runtime-library: expected {}, which this process has loaded already, found {}. One process uses one ONNX Runtime: \
         give all elements the same, or restart",
        loaded.display(),
        wanted.display()
    )]
    OtherLibraryLoaded { loaded: PathBuf, wanted: PathBuf },

    /// The provider that the user named cannot run here.
    #[error("provider={provider} is not available: {}. {remedy}", without_stop(reason))]
    ProviderUnavailable {
        provider: &'static str,
        reason: String,
        remedy: &'static str,
    },

    /// ONNX Runtime refuses a graph.
    #[error(
        "graph {graph}: {}: ONNX Runtime cannot load it: {}. Get or export the bundle again",
        path.display(),
        without_stop(reason)
    )]
    GraphRefused {
        graph: GraphKind,
        path: PathBuf,
        reason: String,
    },

    /// A graph that runs in part on the CPU, whose runs cannot be captured.
    #[error(
        "cuda-graphs: graph {graph}: expected one that runs on the GPU alone, found parts that run on the CPU, as 8-bit convolutions do \
         ({reason}). Leave cuda-graphs off, or use a bundle without them"
    )]
    NoCapture { graph: GraphKind, reason: String },

    /// The bundle is wrong.
    #[error(transparent)]
    Bundle(#[from] BundleError),

    /// The device has too little memory.
    #[error("out of memory on {device}: {asked}. Use a smaller bundle, fewer elements, or another device")]
    OutOfMemory { device: String, asked: String },

    /// Any other call of ONNX Runtime that failed.
    #[error("ONNX Runtime: {call}: {reason}")]
    Call { call: &'static str, reason: String },
}

/// Whether an error text of ONNX Runtime tells of memory that could not be had.
pub(crate) fn tells_of_memory(text: &str) -> bool {
    let text = text.to_lowercase();
    [
        "out of memory",
        "failed to allocate memory",
        "bad_alloc",
        "cudaerrormemoryallocation",
        // An arena at its bound (gpu-mem-limit).
        "is smaller than requested bytes",
    ]
    .iter()
    .any(|sign| text.contains(sign))
}

/// A reason of ONNX Runtime, of which some end in a full stop, as a part of a longer text.
pub(crate) fn without_stop(reason: &str) -> &str {
    reason.trim_end().trim_end_matches('.')
}
