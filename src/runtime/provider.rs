// SPDX-License-Identifier: MPL-2.0

//! Execution providers and their options.

use std::path::PathBuf;

use ort::ep::{self, ExecutionProviderDispatch};

/// What runs the graphs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Provider {
    Cpu,
    Cuda,
    TensorRt,
}

impl Provider {
    /// Nick of the element's property.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::TensorRt => "tensorrt",
        }
    }

    /// Whether tensors between graphs lie in the memory of a CUDA device.
    pub const fn is_cuda(self) -> bool {
        matches!(self, Self::Cuda | Self::TensorRt)
    }

    /// What a user does where the provider cannot run.
    pub(super) const fn remedy(self) -> &'static str {
        match self {
            Self::Cpu => "Check the ONNX Runtime library",
            Self::Cuda => {
                "Use a CUDA build of ONNX Runtime (pip install onnxruntime-gpu) with its libonnxruntime_providers_*.so beside \
                 it, and the CUDA and cuDNN libraries it was built for in the library path"
            }
            Self::TensorRt => {
                "Use a CUDA build of ONNX Runtime with TensorRT's libnvinfer.so.10, CUDA and cuDNN in the library path"
            }
        }
    }
}

/// The order of a picture's data that the CUDA provider's convolutions take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channels {
    First,
    Last,
}

/// A provider with everything that sessions are told about it. Sessions are shared by elements that agree in all of it.
///
/// `new` gives what a provider needs; the rest is set where it is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProviderOptions {
    pub provider: Provider,
    /// CUDA device.
    pub device_id: u32,
    /// CPU threads within an operator; 0 for all cores.
    pub threads: u32,
    /// Folder of TensorRT's engine and timing caches.
    pub engine_cache: PathBuf,
    /// Bytes that the CUDA provider's arena of each graph may take; 0 for no limit.
    pub memory_limit: u64,
    /// Whether runs are captured as CUDA graphs, and then run again as such. Needs graphs of fixed sizes that run on the device alone.
    pub cuda_graphs: bool,
    /// Beginning of the paths of ONNX Runtime's profiles, one file a graph; `None` for no profile.
    pub profile: Option<PathBuf>,
}

impl ProviderOptions {
    /// Device 0, all cores, no limit, no CUDA graphs, no profile.
    pub fn new(provider: Provider) -> Self {
        Self {
            provider,
            device_id: 0,
            threads: 0,
            engine_cache: PathBuf::new(),
            memory_limit: 0,
            cuda_graphs: false,
            profile: None,
        }
    }

    /// The device in words, for errors.
    pub fn device(&self) -> String {
        match self.provider {
            Provider::Cpu => "the CPU".into(),
            Provider::Cuda | Provider::TensorRt => format!("CUDA device {}", self.device_id),
        }
    }

    /// The providers to register, best first. Each is an error where it cannot be registered: without that, ONNX Runtime
    /// falls back to the CPU and says nothing.
    pub(super) fn dispatch(&self, channels: Channels) -> Vec<ExecutionProviderDispatch> {
        let device = i32::try_from(self.device_id).unwrap_or(i32::MAX);
        let cuda = || {
            let mut cuda = ep::CUDA::default()
                .with_device_id(device)
                // Tensor cores take channels last; with channels first cuDNN transposes around every convolution.
                .with_prefer_nhwc(channels == Channels::Last)
                .with_cuda_graph(self.cuda_graphs)
                // Four sessions share the device: an arena that doubles would claim what the others need.
                .with_arena_extend_strategy(ep::ArenaExtendStrategy::SameAsRequested);
            if self.memory_limit > 0 {
                cuda = cuda.with_memory_limit(usize::try_from(self.memory_limit).unwrap_or(usize::MAX));
            }
            cuda.build().error_on_failure()
        };
        match self.provider {
            Provider::Cpu => vec![],
            Provider::Cuda => vec![cuda()],
            Provider::TensorRt => {
                let cache = self.engine_cache.display();
                let tensorrt = ep::TensorRT::default()
                    .with_device_id(device)
                    .with_fp16(true)
                    .with_layer_norm_fp32_fallback(true)
                    .with_engine_cache(true)
                    .with_engine_cache_path(&cache)
                    .with_cuda_graph(self.cuda_graphs)
                    .with_timing_cache(true)
                    .with_timing_cache_path(&cache)
                    .build()
                    .error_on_failure();
                // What TensorRT does not take runs on CUDA.
                vec![tensorrt, cuda()]
            }
        }
    }
}
