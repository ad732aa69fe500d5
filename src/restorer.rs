// SPDX-License-Identifier: MPL-2.0

//! One window of u8 frames in, one window of u8 frames out: the four graphs, one after the other.

mod device;
#[cfg(feature = "faults")]
pub mod faults;
#[cfg(test)]
#[path = "../tests/common/library.rs"]
pub(crate) mod library;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};
use std::time::{Duration, Instant};

use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{RunOptions, Session, SessionInputValue, SessionInputs};
use ort::value::{DynValue, TensorRef};

use self::device::{Device, Fixed};
use crate::bundle::GraphKind;
use crate::runtime::{DeviceMemory, Provider, Sessions, capture, without_stop};

/// How often a restorer that waits for a shared session looks whether it is interrupted.
const TURN: Duration = Duration::from_millis(5);

/// A run of the CPU that is long enough to be measured without another before it.
const LONG_RUN: Duration = Duration::from_secs(10);

/// Runs of a graph that mean and 95th percentile are taken over.
const TIMED_RUNS: usize = 256;

/// Why a window was not restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// An [`Interrupt`] was raised.
    #[error("interrupted")]
    Interrupted,

    #[error(
        "out of memory on {device} while graph {graph} ran: {}. Use a smaller bundle, fewer elements, or another device",
        without_stop(reason)
    )]
    OutOfMemory {
        device: String,
        graph: GraphKind,
        reason: String,
    },

    /// A graph that runs, and gives something else than the manifest says.
    #[error("graph {graph}: output {tensor}: expected {expected}, found {found}")]
    Output {
        graph: GraphKind,
        tensor: &'static str,
        expected: String,
        found: String,
    },

    #[error("graph {graph} failed: {reason}")]
    Graph { graph: GraphKind, reason: String },
}

/// Why runs end: each reason is raised and cleared on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    Flush = 1,
    Stop = 2,
    /// The window would be too late.
    Late = 4,
}

/// Ends a run from another thread.
pub struct Interrupt {
    options: RunOptions,
    /// For runs that ONNX Runtime captures, which nobody ends: it would keep what was captured until then as the whole.
    capturing: RunOptions,
    /// Bits of the reasons that hold.
    raised: AtomicU8,
}

impl Interrupt {
    /// # Errors
    /// Fails where ONNX Runtime has no memory for run options.
    pub fn new() -> ort::Result<Self> {
        static NEXT: AtomicI32 = AtomicI32::new(1);
        // Where runs are captured as CUDA graphs: what is captured is bound to the tensors of one element.
        let number = NEXT.fetch_add(1, Ordering::Relaxed).to_string();
        let numbered = || {
            let mut options = RunOptions::new()?;
            options.set("gpu_graph_id", &number)?;
            Ok::<_, ort::Error>(options)
        };
        Ok(Self {
            options: numbered()?,
            capturing: numbered()?,
            raised: AtomicU8::new(0),
        })
    }

    /// Ends the run that is under way, and every later one until the reason is [cleared](Self::clear).
    pub fn raise(&self, reason: Reason) {
        self.raised.fetch_or(reason as u8, Ordering::SeqCst);
        // Setting a flag in memory does not fail.
        let _ = self.options.terminate();
    }

    /// Lets runs go on, unless another reason holds.
    pub fn clear(&self, reason: Reason) {
        let before = self.raised.fetch_and(!(reason as u8), Ordering::SeqCst);
        if before & !(reason as u8) == 0 {
            let _ = self.options.unterminate();
        }
    }

    fn is_raised(&self) -> bool {
        self.raised.load(Ordering::SeqCst) != 0
    }

    /// Whether this is the one reason that holds.
    pub fn is_only(&self, reason: Reason) -> bool {
        self.raised.load(Ordering::SeqCst) == reason as u8
    }
}

/// The restored frames of a window.
pub struct Restored {
    frames: DynValue,
    frame_bytes: usize,
}

impl Restored {
    /// Frame `slot` of the window, packed RGB, [H, W, 3].
    pub fn frame(&self, slot: usize) -> &[u8] {
        let (_, bytes) = self
            .frames
            .try_extract_tensor::<u8>()
            .expect("type and place were checked when the window was restored");
        &bytes[slot * self.frame_bytes..][..self.frame_bytes]
    }
}

/// Durations of a graph's last runs.
#[derive(Clone, Debug, Default)]
pub struct Timing {
    runs: VecDeque<Duration>,
}

impl Timing {
    fn add(&mut self, duration: Duration) {
        if self.runs.len() == TIMED_RUNS {
            self.runs.pop_front();
        }
        self.runs.push_back(duration);
    }

    /// Leaves out the oldest run, where there are others.
    fn forget_oldest(&mut self) {
        if self.runs.len() > 1 {
            self.runs.pop_front();
        }
    }

    /// Mean in milliseconds; 0 before the first run.
    pub fn mean_ms(&self) -> f64 {
        let total: Duration = self.runs.iter().sum();
        total.as_secs_f64() * 1e3 / self.runs.len().max(1) as f64
    }

    /// 95th percentile (nearest rank) in milliseconds; 0 before the first run.
    pub fn p95_ms(&self) -> f64 {
        let mut sorted: Vec<_> = self.runs.iter().collect();
        sorted.sort_unstable();
        let rank = (sorted.len() * 95).div_ceil(100);
        sorted
            .get(rank.saturating_sub(1))
            .map_or(0.0, |duration| duration.as_secs_f64() * 1e3)
    }
}

/// Where the tensors between the graphs lie.
enum Place {
    /// Main memory: outputs are handed on as they are.
    Host,
    /// A device's memory, through IO bindings that are made for each run.
    Device(Device),
    /// Tensors in a device's memory that stay where they are.
    Fixed(Device, Fixed),
}

impl Place {
    /// # Errors
    /// As [`Device::new`] and [`Fixed::new`].
    fn on_device(
        sessions: &Sessions,
        memory: MemoryInfo<'static>,
        dims: [i64; 4],
        is_fixed: bool,
    ) -> ort::Result<Self> {
        let encoder = sessions.graph(GraphKind::Encoder).expect(CONTRACT);
        let device = Device::new(&encoder.session.lock(), memory, dims)?;
        Ok(if is_fixed {
            let fixed = Fixed::new(sessions, device.memory(), dims)?;
            Self::Fixed(device, fixed)
        } else {
            Self::Device(device)
        })
    }
}

const CONTRACT: &str = "the contract was checked when the graphs were loaded";

/// Restores windows with the sessions of a bundle.
pub struct Restorer {
    // Goes before the sessions whose memory it has.
    place: Place,
    sessions: Arc<Sessions>,
    interrupt: Arc<Interrupt>,
    /// [T, H, W, 3].
    dims: [i64; 4],
    timings: [Timing; 4],
    /// Of the device; `None` on the CPU, and where nobody tells.
    device_memory: Option<DeviceMemory>,
}

impl Restorer {
    /// For windows of `frames` frames of `width` x `height` pixels.
    ///
    /// # Errors
    /// Fails where ONNX Runtime does not know the provider's memory.
    pub fn new(
        sessions: Arc<Sessions>,
        interrupt: Arc<Interrupt>,
        frames: usize,
        width: u32,
        height: u32,
    ) -> ort::Result<Self> {
        let dims = [frames as i64, height.into(), width.into(), 3];
        let options = sessions.options();
        let _turn = options.provider.is_cuda().then(capture::shared);
        let place = match options.provider {
            Provider::Cpu => Place::Host,
            Provider::Cuda | Provider::TensorRt => {
                let device_id = i32::try_from(options.device_id).unwrap_or(i32::MAX);
                let memory = MemoryInfo::new(
                    AllocationDevice::CUDA,
                    device_id,
                    AllocatorType::Device,
                    MemoryType::Default,
                )?;
                Place::on_device(&sessions, memory, dims, options.cuda_graphs)?
            }
        };
        let device_memory = options
            .provider
            .is_cuda()
            .then(|| DeviceMemory::of_device(options.device_id))
            .flatten();
        Ok(Self {
            place,
            sessions,
            interrupt,
            dims,
            timings: Default::default(),
            device_memory,
        })
    }

    /// Bytes of a window, T x H x W x 3.
    pub fn window_bytes(&self) -> usize {
        self.dims.iter().product::<i64>() as usize
    }

    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// What ends its runs.
    pub fn interrupt(&self) -> &Arc<Interrupt> {
        &self.interrupt
    }

    /// Durations of a graph's runs.
    pub fn timing(&self, graph: GraphKind) -> &Timing {
        &self.timings[graph as usize]
    }

    /// The most memory of the device that was taken after a window, in bytes, by all processes; `None` on the CPU, and where nobody
    /// tells.
    pub fn device_memory_peak(&self) -> Option<u64> {
        self.device_memory.as_ref().map(DeviceMemory::peak)
    }

    /// Whether frames wait for the device in pinned memory; `None` on the CPU.
    pub fn has_pinned_memory(&self) -> Option<bool> {
        match &self.place {
            Place::Host => None,
            Place::Device(device) | Place::Fixed(device, _) => Some(device.is_pinned()),
        }
    }

    /// Leaves the oldest run out of the durations, where there are others: it was the warm-up.
    pub fn forget_oldest(&mut self) {
        self.timings.iter_mut().for_each(Timing::forget_oldest);
    }

    /// Another one of the same sessions and windows, which `interrupt` ends.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn another(&self, interrupt: Arc<Interrupt>) -> ort::Result<Self> {
        let [frames, height, width, _] = self.dims;
        Self::new(
            self.sessions.clone(),
            interrupt,
            frames as usize,
            width as u32,
            height as u32,
        )
    }

    /// Frames of a window.
    pub fn frames(&self) -> usize {
        self.dims[0] as usize
    }

    /// How long a window took in the [warm-up](Self::warm_up) of any restorer that shares the sessions; `None` before one.
    pub fn measured(&self) -> Option<Duration> {
        self.sessions.warm_up.lock().get(&self.frames()).copied()
    }

    /// Whether a run in this thread is as fast as those after it, of which ONNX Runtime captures each thread's own.
    pub fn is_captured(&self) -> bool {
        match &self.place {
            Place::Host | Place::Device(_) => true,
            Place::Fixed(_, fixed) => fixed.is_captured(),
        }
    }

    /// Runs the graphs once on black frames, so that the first real window takes no longer than the others. How long a
    /// second run takes (the first, where it is a long one of the CPU) is measured once for all elements that share the
    /// sessions.
    ///
    /// # Errors
    /// As [`restore`](Self::restore).
    pub fn warm_up(&mut self) -> Result<Duration, RestoreError> {
        if let Some(duration) = self.measured() {
            // What others have captured is theirs.
            if !self.is_captured() {
                self.restore(&vec![0; self.window_bytes()])?;
                self.timings = Default::default();
            }
            return Ok(duration);
        }
        let black = vec![0; self.window_bytes()];
        let start = Instant::now();
        self.restore(&black)?;
        let mut duration = start.elapsed();
        // On the CPU a first run only allocates: where it takes this long, a second would tell no more. A GPU chooses its
        // kernels in it.
        if self.sessions.provider() != Provider::Cpu || duration < LONG_RUN {
            let start = Instant::now();
            self.restore(&black)?;
            duration = start.elapsed();
        }
        self.sessions.warm_up.lock().insert(self.frames(), duration);
        self.timings = Default::default();
        Ok(duration)
    }

    /// Restores `frames`, packed RGB, [T, H, W, 3].
    ///
    /// # Errors
    /// See [`RestoreError`]. A restorer can be used again after any of them.
    pub fn restore(&mut self, frames: &[u8]) -> Result<Restored, RestoreError> {
        #[cfg(feature = "faults")]
        self.suffer()?;
        let sessions = self.sessions.clone();
        let failed = |error: ort::Error| graph_error(&sessions, GraphKind::Encoder, &error);
        match &mut self.place {
            Place::Host => {
                let frames = TensorRef::from_array_view((self.dims, frames))
                    .map_err(failed)?
                    .into_dyn();
                self.run_graphs(&frames)
            }
            Place::Device(device) => {
                let interrupt = &self.interrupt;
                let turn = capture::shared_unless(|| interrupt.is_raised());
                let _turn = turn.ok_or(RestoreError::Interrupted)?;
                let frames = device.upload(frames).map_err(failed)?;
                self.run_graphs(&frames)
            }
            Place::Fixed(device, fixed) => {
                // ONNX Runtime captures in the first run.
                let interrupt = &self.interrupt;
                let turn = if fixed.is_captured() {
                    capture::shared_unless(|| interrupt.is_raised())
                } else {
                    capture::alone_unless(|| interrupt.is_raised())
                };
                let _turn = turn.ok_or(RestoreError::Interrupted)?;
                fixed.take(device, frames).map_err(failed)?;
                self.run_bindings()
            }
        }
    }

    /// What tests do to a run.
    #[cfg(feature = "faults")]
    fn suffer(&self) -> Result<(), RestoreError> {
        match faults::next() {
            Some(faults::Fault::Error(text)) => {
                Err(graph_error(&self.sessions, GraphKind::Dit, &ort::Error::new(text)))
            }
            Some(faults::Fault::Slow(time)) => {
                let end = Instant::now() + time;
                while Instant::now() < end && !self.interrupt.is_raised() {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn run_graphs(&mut self, frames: &DynValue) -> Result<Restored, RestoreError> {
        let contract = self.sessions.contract().clone();
        let [latent] = self.run(GraphKind::Encoder, vec![("frames", frames.view().into())], ["latent"])?;
        let mut dit_inputs = vec![("latent", SessionInputValue::from(latent))];
        if contract.has_prior {
            let [spatial, temporal] = self.run(
                GraphKind::Prior,
                vec![("frames", frames.view().into())],
                ["spatial_prior", "temporal_prior"],
            )?;
            dit_inputs.push(("spatial_prior", spatial.into()));
            dit_inputs.push(("temporal_prior", temporal.into()));
        }
        let [restored] = self.run(GraphKind::Dit, dit_inputs, ["restored_latent"])?;
        let mut decoder_inputs = vec![("restored_latent", SessionInputValue::from(restored))];
        if contract.decoder_takes_frames {
            decoder_inputs.push(("degraded_frames", frames.view().into()));
        }
        let [frames] = self.run(GraphKind::Decoder, decoder_inputs, ["frames"])?;
        self.restored(frames)
    }

    /// Runs the graphs on tensors that they are bound to.
    fn run_bindings(&mut self) -> Result<Restored, RestoreError> {
        let Place::Fixed(_, fixed) = &mut self.place else {
            unreachable!("asked for with bound graphs alone")
        };
        let is_captured = fixed.is_captured();
        for (kind, binding) in fixed.bindings() {
            let capturing = &self.interrupt.capturing;
            let run = |session: &mut Session, options: &RunOptions| {
                let options = if is_captured { options } else { capturing };
                session.run_binding_with_options(binding, options).map(drop)
            };
            let ((), time) = in_turn(&self.sessions, &self.interrupt, *kind, run)?;
            self.timings[*kind as usize].add(time);
        }
        fixed.set_captured();
        let frames = fixed
            .give()
            .map_err(|error| graph_error(&self.sessions, GraphKind::Decoder, &error))?;
        self.restored(frames)
    }

    fn restored(&mut self, frames: DynValue) -> Result<Restored, RestoreError> {
        if let Some(memory) = &mut self.device_memory {
            memory.look();
        }
        self.check_frames(&frames)?;
        Ok(Restored {
            frames,
            frame_bytes: self.window_bytes() / self.dims[0] as usize,
        })
    }

    /// A graph with a dynamic time axis may give another number of frames than it took.
    fn check_frames(&self, frames: &DynValue) -> Result<(), RestoreError> {
        let found = match frames.try_extract_tensor::<u8>() {
            Ok((shape, _)) if **shape == self.dims => return Ok(()),
            Ok((shape, _)) => format!("u8 {shape}"),
            Err(error) => error.to_string(),
        };
        Err(RestoreError::Output {
            graph: GraphKind::Decoder,
            tensor: "frames",
            expected: format!("u8 {:?}", self.dims),
            found,
        })
    }

    fn run<const N: usize>(
        &mut self,
        kind: GraphKind,
        inputs: Vec<(&'static str, SessionInputValue<'_>)>,
        outputs: [&'static str; N],
    ) -> Result<[DynValue; N], RestoreError> {
        let place = &self.place;
        let run = |session: &mut Session, options: &RunOptions| match place {
            // Frames come back; all that lies between stays on the device.
            Place::Device(device) if kind != GraphKind::Decoder => {
                run_bound(session, options, inputs, outputs, device.memory())
            }
            Place::Device(_) => run_bound(session, options, inputs, outputs, &MemoryInfo::default()),
            Place::Host | Place::Fixed(..) => run_on_host(session, options, inputs, outputs),
        };
        let (values, time) = in_turn(&self.sessions, &self.interrupt, kind, run)?;
        self.timings[kind as usize].add(time);
        Ok(values)
    }
}

impl Drop for Restorer {
    fn drop(&mut self) {
        let _turn = self.sessions.provider().is_cuda().then(capture::shared);
        // A device's memory goes back while it is this one's turn.
        self.place = Place::Host;
    }
}

/// What a run of a graph gives, and how long it took, when it is its turn.
fn in_turn<T>(
    sessions: &Sessions,
    interrupt: &Interrupt,
    kind: GraphKind,
    run: impl FnOnce(&mut Session, &RunOptions) -> ort::Result<T>,
) -> Result<(T, Duration), RestoreError> {
    let graph = sessions.graph(kind).expect(CONTRACT);
    let mut session = loop {
        if interrupt.is_raised() {
            return Err(RestoreError::Interrupted);
        }
        if let Some(session) = graph.session.try_lock_for(TURN) {
            break session;
        }
    };
    let start = Instant::now();
    let result = run(&mut session, &interrupt.options);
    drop(session);
    if interrupt.is_raised() {
        return Err(RestoreError::Interrupted);
    }
    let value = result.map_err(|error| graph_error(sessions, kind, &error))?;
    Ok((value, start.elapsed()))
}

fn graph_error(sessions: &Sessions, graph: GraphKind, error: &ort::Error) -> RestoreError {
    let reason = error.to_string();
    if crate::runtime::tells_of_memory(&reason) {
        RestoreError::OutOfMemory {
            device: sessions.options().device(),
            graph,
            reason,
        }
    } else {
        RestoreError::Graph { graph, reason }
    }
}

fn run_on_host<const N: usize>(
    session: &mut Session,
    options: &RunOptions,
    inputs: Vec<(&'static str, SessionInputValue<'_>)>,
    outputs: [&'static str; N],
) -> ort::Result<[DynValue; N]> {
    let inputs: SessionInputs<'_, '_> = inputs.into();
    let mut values = session.run_with_options(inputs, options)?;
    Ok(outputs.map(|name| values.remove(name).expect(CONTRACT)))
}

/// Runs with the outputs bound to `memory`. The binding is made for the run, so that its outputs are the caller's alone.
fn run_bound<const N: usize>(
    session: &mut Session,
    options: &RunOptions,
    inputs: Vec<(&'static str, SessionInputValue<'_>)>,
    outputs: [&'static str; N],
    memory: &MemoryInfo<'_>,
) -> ort::Result<[DynValue; N]> {
    let mut binding = session.create_binding()?;
    for (name, value) in &inputs {
        binding.bind_input(*name, &**value)?;
    }
    for name in outputs {
        binding.bind_output_to_device(name, memory)?;
    }
    let mut values = session.run_binding_with_options(&binding, options)?;
    Ok(outputs.map(|name| values.remove(name).expect(CONTRACT)))
}
