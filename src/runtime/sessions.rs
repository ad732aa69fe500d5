// SPDX-License-Identifier: MPL-2.0

//! The sessions of a bundle's graphs on one provider and device.

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use ort::environment::Environment;
use ort::ep;
use ort::logging::LogLevel;
use ort::session::{Session, builder::SessionBuilder};
use ort::value::{Outlet, TensorElementType, ValueType};
use parking_lot::Mutex;

use super::provider::Channels;
use super::{Provider, ProviderOptions, RuntimeError, arena, capture, engines, log, tells_of_memory, threads};
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
    /// What a user should know of the loading: caches that were built again.
    notices: Vec<String>,
    /// Graphs of which parts run on the CPU, though the provider is another.
    on_cpu: Vec<GraphKind>,
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
        let turn = options.provider.is_cuda().then(capture::shared);
        session_builder(environment, options, is_lean, Channels::Last)?;
        drop(turn);
        // Large graphs are loaded in turn, for what loading takes of memory besides their weights; GPUs have not been tried.
        let is_parallel = options.provider == Provider::Cpu && !is_lean;
        let kinds = GraphKind::ALL
            .into_iter()
            .filter(|kind| bundle.graph_path(*kind).is_some());
        let kinds: Vec<GraphKind> = kinds.collect();
        for_each(&kinds, is_parallel, |kind| bundle.verify_graph(kind))?;
        let _turn = options.provider.is_cuda().then(capture::shared);
        let load_all = || {
            for_each(&kinds, is_parallel, |kind| {
                load_graph(environment, options, is_lean, kind, bundle)
            })
        };
        // Those are also the ones that share an arena.
        let loaded = if is_parallel {
            arena::shared(environment, load_all)?
        } else {
            load_all()?
        };
        let mut graphs = BTreeMap::new();
        let mut infos = BTreeMap::new();
        let (mut notices, mut on_cpu) = (vec![], vec![]);
        for (kind, loaded) in kinds.into_iter().zip(loaded) {
            let session = loaded.session;
            notices.extend(loaded.notice);
            on_cpu.extend(loaded.is_part_on_cpu.then_some(kind));
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
            notices,
            on_cpu,
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

    /// What a user should know of the loading.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    pub fn provider(&self) -> Provider {
        self.options.provider
    }

    /// Graphs of which parts run on the CPU, though the provider is another, as far as ONNX Runtime says.
    pub fn on_cpu(&self) -> &[GraphKind] {
        &self.on_cpu
    }
}

impl Drop for Sessions {
    fn drop(&mut self) {
        let _turn = self.options.provider.is_cuda().then(capture::shared);
        // A device's memory goes back while it is this one's turn.
        self.graphs.clear();
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
    [
        "cudnn",
        "cublas",
        "cuda failure",
        "cuda error",
        "cuda_execution_provider",
        "nvinfer",
    ]
    .iter()
    .any(|sign| text.contains(sign))
}

/// A builder with the provider registered. `is_lean` sessions give memory back to the system as soon as it is free; others on
/// the CPU have the arena of [`arena::shared`].
fn session_builder(
    environment: &Environment,
    options: &ProviderOptions,
    is_lean: bool,
    channels: Channels,
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
        .with_logger(Arc::new(log::log))
        .map_err(call("SetUserLoggingFunction"))?
        .with_log_level(LogLevel::Warning)
        .map_err(call("SetSessionLogSeverityLevel"))?
        .with_intra_threads(threads::of(options.threads))
        .map_err(call("SetIntraOpNumThreads"))?
        // Four sessions, of which one runs at a time: spinning threads of the others would take its cores.
        .with_intra_op_spinning(false)
        .map_err(call("AddSessionConfigEntry"))?
        .with_execution_providers(options.dispatch(channels))
        .map_err(|error| unavailable(error.to_string()))?;
    if options.provider != Provider::Cpu {
        return Ok(builder);
    }
    // A pattern is one block for all that a run takes, got in the second run, beside the arena that the first one has filled.
    let builder = builder.with_memory_pattern(false).map_err(call("DisableMemPattern"))?;
    if is_lean {
        builder
            .with_execution_providers([ep::CPU::default().with_arena_allocator(false).build()])
            .map_err(call("DisableCpuMemArena"))
    } else {
        builder.with_env_allocators().map_err(call("AddSessionConfigEntry"))
    }
}

/// `work` on each graph, in threads of their own or in turn; the results in the graphs' order.
///
/// # Errors
/// The first graph's error, of those that fail, whichever failed first.
fn for_each<T: Send, E: Send>(
    kinds: &[GraphKind],
    is_parallel: bool,
    work: impl Fn(GraphKind) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    if !is_parallel {
        return kinds.iter().map(|kind| work(*kind)).collect();
    }
    thread::scope(|scope| {
        let work = &work;
        let begin = |kind: &GraphKind| {
            let kind = *kind;
            let name = format!("dvface-{kind}");
            (
                kind,
                thread::Builder::new()
                    .name(name)
                    .spawn_scoped(scope, move || work(kind)),
            )
        };
        let begun: Vec<_> = kinds.iter().map(begin).collect();
        let finish = |(kind, thread): (GraphKind, std::io::Result<thread::ScopedJoinHandle<'_, _>>)| match thread {
            Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
            // There is no thread to be had: this one does it.
            Err(_) => work(kind),
        };
        let results: Vec<_> = begun.into_iter().map(finish).collect();
        results.into_iter().collect()
    })
}

/// A graph's session, and what a user should know of it.
struct Loaded {
    session: Session,
    notice: Option<String>,
    is_part_on_cpu: bool,
}

fn load_graph(
    environment: &Environment,
    options: &ProviderOptions,
    is_lean: bool,
    kind: GraphKind,
    bundle: &Bundle,
) -> Result<Loaded, RuntimeError> {
    let path = bundle.graph_path(kind).expect("asked for graphs of the bundle alone");
    let create = |channels| create_session(environment, options, is_lean, channels, kind, path);
    let load = || match create(Channels::Last) {
        Err(error) if options.provider.is_cuda() && lacks_channels_last(&error.to_string()) => create(Channels::First),
        created => created,
    };
    let (loaded, is_part_on_cpu) = log::with_placement(|| match options.provider {
        Provider::TensorRt => engines::load_or_rebuild(&options.engine_cache, load),
        Provider::Cpu | Provider::Cuda => Ok((load()?, None)),
    });
    let (session, notice) = loaded?;
    Ok(Loaded {
        session,
        notice,
        is_part_on_cpu,
    })
}

/// Whether an error text is of a build of the CUDA provider without kernels for channels last, as those before 1.20 are.
fn lacks_channels_last(text: &str) -> bool {
    text.contains("NHWC layout")
}

fn create_session(
    environment: &Environment,
    options: &ProviderOptions,
    is_lean: bool,
    channels: Channels,
    graph: GraphKind,
    path: &Path,
) -> Result<Session, RuntimeError> {
    let mut builder = session_builder(environment, options, is_lean, channels)?;
    if let Some(prefix) = &options.profile {
        let mut prefix = prefix.clone().into_os_string();
        prefix.push(format!("-{graph}"));
        builder = builder.with_profiling(prefix).map_err(|error| RuntimeError::Call {
            call: "EnableProfiling",
            reason: error.to_string(),
        })?;
    }
    builder.commit_from_file(path).map_err(|error| {
        let reason = error.to_string();
        if tells_of_memory(&reason) {
            RuntimeError::OutOfMemory {
                device: options.device(),
                asked: format!("loading graph {graph} ({}): {reason}", path.display()),
            }
        } else if options.provider.is_cuda() && tells_of_gpu(&reason) {
            unavailable(options, reason)
        } else if options.cuda_graphs && reason.contains("graph capture") {
            RuntimeError::NoCapture { graph, reason }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_without_channels_last_is_no_broken_graph() {
        // Of onnxruntime 1.18, cuda_execution_provider.cc.
        let told = "cuda_execution_provider.cc:270 CUDAExecutionProvider info_.prefer_nhwc == 0 was false. This build does not support \
                    NHWC layout";
        assert!(lacks_channels_last(told) && tells_of_gpu(told));
        assert!(
            !lacks_channels_last("Load model from dit.onnx failed") && !tells_of_gpu("Load model from dit.onnx failed")
        );
    }

    /// Which error is told must not depend on which thread was faster.
    #[test]
    fn the_first_graph_that_fails_is_told_whichever_fails_first() {
        let work = |kind| {
            let rank = kind as u64;
            thread::sleep(Duration::from_millis(20 * (4 - rank)));
            if rank == 0 { Ok(kind) } else { Err(kind) }
        };
        for is_parallel in [true, false] {
            let failed = for_each(&GraphKind::ALL, is_parallel, work);
            assert_eq!(failed.unwrap_err(), GraphKind::Prior);
        }
        let all = for_each(&GraphKind::ALL, true, Ok::<_, ()>);
        assert_eq!(all.unwrap(), GraphKind::ALL, "in the graphs' order");
    }
}
