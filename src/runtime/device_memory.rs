// SPDX-License-Identifier: MPL-2.0

//! How much of a GPU's memory is taken, as CUDA's driver tells: ONNX Runtime tells of its own arenas from version 1.23 on only.

use std::sync::Arc;

use cudarc::driver::{CudaContext, sys};

/// Watches the memory of a CUDA device.
pub struct DeviceMemory {
    context: Arc<CudaContext>,
    peak: u64,
}

impl DeviceMemory {
    /// Of the device of this number, as CUDA counts them. `None` where there is no driver or no such device.
    pub fn of_device(device_id: u32) -> Option<Self> {
        // SAFETY: libraries of the system are opened, and their constructors run, as for any session on CUDA.
        if !unsafe { sys::is_culib_present() } {
            return None;
        }
        Some(Self {
            context: CudaContext::new(usize::try_from(device_id).ok()?).ok()?,
            peak: 0,
        })
    }

    /// Looks again. Arenas keep what they took, so a look after a window sees the most that the window took.
    pub fn look(&mut self) {
        if let Ok((free, total)) = self.context.mem_get_info() {
            self.peak = self.peak.max(total.saturating_sub(free) as u64);
        }
    }

    /// The most that was taken in any look, in bytes, by all processes.
    pub fn peak(&self) -> u64 {
        self.peak
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine without CUDA's driver has nothing to tell; one with it tells of a number that does not fall.
    #[test]
    fn what_is_not_there_is_not_told_of() {
        assert!(DeviceMemory::of_device(u32::MAX).is_none());
        let Some(mut memory) = DeviceMemory::of_device(0) else {
            eprintln!("skipped: no CUDA device");
            return;
        };
        memory.look();
        let first = memory.peak();
        memory.look();
        assert!(first > 0 && memory.peak() >= first);
    }
}
