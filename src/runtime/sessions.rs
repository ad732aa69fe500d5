//! The sessions of a bundle's graphs on one provider and device.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use ort::environment::Environment;
use ort::ep;
use ort::session::{Session, builder::SessionBuilder};
use ort::value::{Outlet, TensorElementType, ValueType};
use parking_lot::Mutex;

use super::{Provider, ProviderOptions, RuntimeError, tells_of_memory};
use crate::bundle::{Bundle, Contract, ElementType, GraphInfo, GraphKind, TensorInfo};

/// Bundles with more bytes than this run on the CPU without arenas. Each of the four sessions has one, which keeps the
/// greatest memory that a window took of it: gigabytes each for a model of this size, where allocation takes no
/// noticeable time.
const LEAN_BYTES: u64 = 1 << 30;

/// One graph, ready to run. Elements that share it take turns.
pub struct Graph {
    pub kind: GraphKind,
    pub session: Mutex<Session>,
}

/// All graphs of a bundle.
pub struct Sessions {
    graphs: BTreeMap<GraphKind, Graph>,
    contract: Contract,
    options: ProviderOptions,
    /// How long a window took in the warm-up, by its length in frames.
    pub(crate) warm_up: Mutex<BTreeMap<usize, Duration>>,
}

impl Sessions {
    /// Verifies the bundle's files, loads its graphs, and checks them against the manifest.
    ///
    /// # Errors
    /// Everything of [`RuntimeError`] that concerns bundle, provider or graph.
    pub fn load(environment: &Environment, bundle: &Bundle, options: &ProviderOptions) -> Result<Self, RuntimeError> {
        let is_lean = options.provider == Provider::Cpu && bundle.file_bytes() > LEAN_BYTES;
        Self::load_as(environment, bundle, options, is_lean)
    }

    /// As [`load`](Self::load); `is_lean` sessions give memory back to the system as soon as it is free.
    pub(crate) fn load_as(
        environment: &Environment,
        bundle: &Bundle,
        options: &ProviderOptions,
        is_lean: bool,
    ) -> Result<Self, RuntimeError> {
        // Asked first, so that a missing provider is not taken for a broken graph.
        session_builder(environment, options, is_lean)?;
        bundle.verify()?;
        let mut graphs = BTreeMap::new();
        let mut infos = BTreeMap::new();
        for kind in GraphKind::ALL {
            let Some(path) = bundle.graph_path(kind) else {
                continue;
            };
            let session = load_graph(environment, options, is_lean, kind, path)?;
            infos.insert(
                kind,
                GraphInfo {
                    inputs: session.inputs().iter().map(tensor_info).collect(),
                    outputs: session.outputs().iter().map(tensor_info).collect(),
                },
            );
            let session = Mutex::new(session);
            graphs.insert(kind, Graph { kind, session });
        }
        let contract = bundle.check_graphs(&infos)?;
        Ok(Self {
            graphs,
            contract,
            options: options.clone(),
            warm_up: Mutex::default(),
        })
    }

    /// A graph of the bundle; `None` for the prior graph of a bundle without one.
    pub fn graph(&self, kind: GraphKind) -> Option<&Graph> {
        self.graphs.get(&kind)
    }

    pub fn contract(&self) -> &Contract {
        &self.contract
    }

    pub fn options(&self) -> &ProviderOptions {
        &self.options
    }

    pub fn provider(&self) -> Provider {
        self.options.provider
    }
}

fn unavailable(options: &ProviderOptions, reason: String) -> RuntimeError {
    RuntimeError::ProviderUnavailable {
        provider: options.provider.name(),
        reason,
        remedy: options.provider.remedy(),
    }
}

/// Whether an error text is about the GPU's libraries, which start with the first session, and not about the graph.
fn tells_of_gpu(text: &str) -> bool {
    let text = text.to_lowercase();
    ["cudnn", "cublas", "cuda failure", "cuda error", "nvinfer"]
        .iter()
        .any(|sign| text.contains(sign))
}

/// A builder with the provider registered. `is_lean` sessions give memory back to the system as soon as it is free.
fn session_builder(
    environment: &Environment,
    options: &ProviderOptions,
    is_lean: bool,
) -> Result<SessionBuilder, RuntimeError> {
    let call = |call| {
        move |error: ort::Error<SessionBuilder>| RuntimeError::Call {
            call,
            reason: error.to_string(),
        }
    };
    let unavailable = |reason| unavailable(options, reason);
    if options.provider == Provider::TensorRt {
        std::fs::create_dir_all(&options.engine_cache)
            .map_err(|error| unavailable(format!("engine-cache {}: {error}", options.engine_cache.display())))?;
    }
    let builder = SessionBuilder::new(environment)
        .map_err(|error| RuntimeError::Call {
            call: "CreateSessionOptions",
            reason: error.to_string(),
        })?
        .with_intra_threads(options.threads as usize)
        .map_err(call("SetIntraOpNumThreads"))?
        // Four sessions, of which one runs at a time: spinning threads of the others would take its cores.
        .with_intra_op_spinning(false)
        .map_err(call("AddSessionConfigEntry"))?
        .with_execution_providers(options.dispatch())
        .map_err(|error| unavailable(error.to_string()))?;
    if !is_lean {
        return Ok(builder);
    }
    builder
        .with_execution_providers([ep::CPU::default().with_arena_allocator(false).build()])
        .map_err(call("DisableCpuMemArena"))?
        .with_memory_pattern(false)
        .map_err(call("DisableMemPattern"))
}

fn load_graph(
    environment: &Environment,
    options: &ProviderOptions,
    is_lean: bool,
    graph: GraphKind,
    path: &Path,
) -> Result<Session, RuntimeError> {
    session_builder(environment, options, is_lean)?
        .commit_from_file(path)
        .map_err(|error| {
            let reason = error.to_string();
            if tells_of_memory(&reason) {
                RuntimeError::OutOfMemory {
                    device: options.device(),
                    asked: format!("loading graph {graph} ({}): {reason}", path.display()),
                }
            } else if options.provider.is_cuda() && tells_of_gpu(&reason) {
                unavailable(options, reason)
            } else {
                RuntimeError::GraphRefused {
                    graph,
                    path: path.into(),
                    reason,
                }
            }
        })
}

fn tensor_info(outlet: &Outlet) -> TensorInfo {
    let (element, dims) = match outlet.dtype() {
        ValueType::Tensor { ty, shape, .. } => {
            let element = match ty {
                TensorElementType::Uint8 => ElementType::U8,
                TensorElementType::Float32 => ElementType::F32,
                TensorElementType::Float16 => ElementType::F16,
                other => ElementType::Other(other.to_string()),
            };
            (element, shape.to_vec())
        }
        other => (ElementType::Other(other.to_string()), vec![]),
    };
    TensorInfo {
        name: outlet.name().into(),
        element,
        dims,
    }
}
