// SPDX-License-Identifier: MPL-2.0

//! The way of windows through a device's memory: frames cross the bus once each way, and what lies between the graphs stays.

use std::thread::{self, ThreadId};

use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, Session};
use ort::value::{DynTensor, DynValue, Tensor, TensorElementType, ValueType};

use super::CONTRACT;
use crate::bundle::GraphKind;
use crate::runtime::Sessions;

/// A device's memory, and where frames wait for the way there.
pub(super) struct Device {
    memory: MemoryInfo<'static>,
    /// In host memory, kept from window to window: pages that are pinned are dear to make. Owned: ort 2.0.0-rc.15 copies a borrowed
    /// tensor when it is bound, by binding a borrowed one, and so waits for itself for ever.
    staging: Tensor<u8>,
    is_pinned: bool,
}

impl Device {
    /// For windows of `dims`, [T, H, W, 3]. `session` is one on the device.
    ///
    /// # Errors
    /// Fails where memory lacks.
    pub fn new(session: &Session, memory: MemoryInfo<'static>, dims: [i64; 4]) -> ort::Result<Self> {
        let pinned = (memory.allocation_device() == AllocationDevice::CUDA)
            .then(|| pinned_frames(session, memory.device_id(), dims).ok())
            .flatten();
        Ok(Self {
            is_pinned: pinned.is_some(),
            staging: match pinned {
                Some(frames) => frames,
                None => Tensor::new(&Allocator::default(), dims)?,
            },
            memory,
        })
    }

    /// Frames wait in pinned memory, from which the device fetches them itself.
    pub fn is_pinned(&self) -> bool {
        self.is_pinned
    }

    /// Memory in which outputs stay on the device.
    pub fn memory(&self) -> &MemoryInfo<'static> {
        &self.memory
    }

    /// A window on the device, for all graphs that take it.
    ///
    /// # Errors
    /// Fails where memory lacks.
    pub fn upload(&mut self, frames: &[u8]) -> ort::Result<DynValue> {
        self.stage(frames);
        let device = self.memory.allocation_device();
        Ok(self.staging.to(device, self.memory.device_id())?.into_dyn())
    }

    /// # Panics
    /// Panics where `frames` is no window.
    fn stage(&mut self, frames: &[u8]) {
        assert_eq!(self.staging.shape().num_elements(), frames.len());
        let to = self.staging.data_ptr_mut().cast::<u8>();
        // SAFETY: the tensor is the restorer's own, in host memory (of which pinned memory is a part, though ONNX Runtime before 1.23
        // and after it call it by different names), and has as many bytes.
        unsafe { std::ptr::copy_nonoverlapping(frames.as_ptr(), to, frames.len()) };
    }
}

fn pinned_frames(session: &Session, device_id: i32, dims: [i64; 4]) -> ort::Result<Tensor<u8>> {
    let pinned = MemoryInfo::new(
        AllocationDevice::CUDA_PINNED,
        device_id,
        AllocatorType::Device,
        MemoryType::CPUInput,
    )?;
    Tensor::new(&Allocator::new(session, pinned)?, dims)
}

/// Graphs bound to tensors once and for all: a CUDA graph runs again what was captured, at the addresses that it was captured with.
pub(super) struct Fixed {
    frames: DynTensor,
    restored: DynTensor,
    bindings: Vec<(GraphKind, IoBinding)>,
    /// The last thread that all graphs have run in: ONNX Runtime captures them anew for each thread.
    captured_in: Option<ThreadId>,
}

impl Fixed {
    /// For windows of `dims`, [T, H, W, 3], through `sessions`, with all tensors in `memory`.
    ///
    /// # Errors
    /// Fails where a tensor between the graphs has a size that is not fixed, or memory lacks.
    pub fn new(sessions: &Sessions, memory: &MemoryInfo<'static>, dims: [i64; 4]) -> ort::Result<Self> {
        // Not of the sessions' own arenas: what one element has captured writes there, wherever it did when it was captured.
        let tensor = |element, shape: Vec<i64>| {
            let on_host = DynTensor::new(&Allocator::default(), element, shape)?;
            on_host.to(memory.allocation_device(), memory.device_id())
        };
        let frames = tensor(TensorElementType::Uint8, dims.to_vec())?;
        let mut tensors = vec![("degraded_frames".to_owned(), frames)];
        let mut bindings = vec![];
        for (kind, graph) in GraphKind::ALL
            .into_iter()
            .filter_map(|kind| Some((kind, sessions.graph(kind)?)))
        {
            let session = graph.session.lock();
            let mut binding = session.create_binding()?;
            for input in session.inputs() {
                let source = if input.name() == "frames" {
                    "degraded_frames"
                } else {
                    input.name()
                };
                let (_, tensor) = tensors.iter().find(|(name, _)| name == source).expect(CONTRACT);
                binding.bind_input(input.name(), tensor)?;
            }
            for output in session.outputs() {
                let (element, shape) = match output.dtype() {
                    ValueType::Tensor { ty, .. } if output.name() == "frames" => (*ty, dims.to_vec()),
                    ValueType::Tensor { ty, shape, .. } if shape.iter().all(|size| *size > 0) => (*ty, shape.to_vec()),
                    other => {
                        let name = output.name();
                        return Err(ort::Error::new(format!(
                            "cuda-graphs: graph {kind}: output {name}: expected fixed sizes, found {other}"
                        )));
                    }
                };
                let mut tensor = tensor(element, shape)?;
                binding.bind_output(output.name(), &mut tensor)?;
                tensors.push((output.name().to_owned(), tensor));
            }
            bindings.push((kind, binding));
        }
        let (_, restored) = tensors.pop().expect("the decoder's frames are the last");
        let (_, frames) = tensors.swap_remove(0);
        Ok(Self {
            frames,
            restored,
            bindings,
            captured_in: None,
        })
    }

    /// Whether all graphs are captured for this thread.
    pub fn is_captured(&self) -> bool {
        self.captured_in == Some(thread::current().id())
    }

    /// All graphs have run in this thread.
    pub fn set_captured(&mut self) {
        self.captured_in = Some(thread::current().id());
    }

    /// The graphs, in their order, bound to their tensors.
    pub fn bindings(&self) -> &[(GraphKind, IoBinding)] {
        &self.bindings
    }

    /// Has the graphs see a window.
    ///
    /// # Errors
    /// Fails where the copy does.
    pub fn take(&mut self, device: &mut Device, frames: &[u8]) -> ort::Result<()> {
        device.stage(frames);
        device.staging.upcast_ref().copy_into(&mut self.frames)
    }

    /// A copy of the last window's frames, in host memory.
    ///
    /// # Errors
    /// Fails where memory lacks.
    pub fn give(&self) -> ort::Result<DynValue> {
        Ok(self.restored.to(AllocationDevice::CPU, 0)?.into_dyn())
    }
}
