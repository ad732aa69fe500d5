// SPDX-License-Identifier: MPL-2.0

//! One CPU arena for all sessions of a bundle. Each would have its own, which keeps the most that its graph ever took,
//! though of the graphs of a window one runs at a time.

use ort::AsPointer;
use ort::environment::Environment;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use parking_lot::Mutex;

use super::RuntimeError;

/// The environment has one shared arena at a time.
static REGISTERED: Mutex<()> = Mutex::new(());

/// What `load` gives. Sessions made in it with [`with_env_allocators`] share an arena, which goes with the last of them.
///
/// [`with_env_allocators`]: ort::session::builder::SessionBuilder::with_env_allocators
///
/// Where another user of the library has registered one, the sessions share that.
///
/// # Errors
/// [`RuntimeError::Call`] where the arena cannot be taken back; as `load`.
pub(super) fn shared<T>(
    environment: &Environment,
    load: impl FnOnce() -> Result<T, RuntimeError>,
) -> Result<T, RuntimeError> {
    let _turn = REGISTERED.lock();
    let Ok(registration) = Registration::new(environment) else {
        return load();
    };
    let loaded = load()?;
    registration.end().map_err(|error| RuntimeError::Call {
        call: "UnregisterAllocator",
        reason: error.to_string(),
    })?;
    Ok(loaded)
}

/// An arena that the environment gives to sessions. Those that have it keep it when this is gone.
struct Registration<'e> {
    environment: &'e Environment,
    memory: MemoryInfo<'static>,
    is_over: bool,
}

impl<'e> Registration<'e> {
    fn new(environment: &'e Environment) -> ort::Result<Self> {
        let memory = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Arena, MemoryType::Default)?;
        // SAFETY: both pointers are valid for the call, which copies what it needs of them; no configuration means ONNX
        // Runtime's own. The lock in `shared` keeps others from the environment's list of allocators.
        let status = unsafe {
            (ort::api().CreateAndRegisterAllocator)(environment.ptr().cast_mut(), memory.ptr(), std::ptr::null())
        };
        // SAFETY: the status is the call's own.
        unsafe { ort::Error::result_from_status(status) }?;
        Ok(Self {
            environment,
            memory,
            is_over: false,
        })
    }

    fn end(mut self) -> ort::Result<()> {
        self.unregister()
    }

    fn unregister(&mut self) -> ort::Result<()> {
        self.is_over = true;
        // SAFETY: as above. Sessions share the ownership of their arena.
        let status = unsafe { (ort::api().UnregisterAllocator)(self.environment.ptr().cast_mut(), self.memory.ptr()) };
        // SAFETY: the status is the call's own.
        unsafe { ort::Error::result_from_status(status) }
    }
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            // Loading has failed, and its error is the one to tell of.
            let _ = self.unregister();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime;

    /// One that stayed would be given to sessions of others, and keep its memory until the process ends.
    #[test]
    fn no_arena_stays_registered_whether_loading_works_or_not() {
        let environment = runtime::environment(&crate::restorer::library::runtime_library()).unwrap();
        let is_registered = |_turn: parking_lot::MutexGuard<'_, ()>| {
            let memory = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Arena, MemoryType::Default).unwrap();
            let mut left = Registration {
                environment: &environment,
                memory,
                is_over: true,
            };
            left.unregister().is_ok()
        };
        let turn = REGISTERED.lock();
        std::mem::forget(Registration::new(&environment).unwrap());
        assert!(is_registered(turn), "what is registered is found");
        assert!(shared(&environment, || Ok(())).is_ok() && !is_registered(REGISTERED.lock()));
        let failed = || Err::<(), _>(RuntimeError::LibraryNotFound { searched: vec![] });
        assert!(shared(&environment, failed).is_err() && !is_registered(REGISTERED.lock()));
    }
}
