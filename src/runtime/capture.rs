//! Turns between captures of CUDA graphs and all else that this process asks of CUDA.
//!
//! ONNX Runtime captures with `cudaStreamCaptureModeGlobal`: while it does, whatever another thread asks of CUDA that may wait for the
//! device (memory, copies) fails, and spoils the capture.

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

static TURNS: RwLock<()> = RwLock::new(());

/// Lasts as long as what it was taken for.
#[must_use]
#[allow(dead_code, reason = "held, never looked at")]
pub enum Turn {
    Shared(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

/// Waits until nothing is captured. A thread that has a turn takes no second one.
pub fn shared() -> Turn {
    Turn::Shared(TURNS.read())
}

/// Waits until nobody else is at work on a device: for a run that is captured.
pub fn alone() -> Turn {
    Turn::Alone(TURNS.write())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    /// Others share the device; who captures has it alone.
    #[test]
    fn captures_wait_for_others_and_others_for_captures() {
        let is_captured = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (one, other) = (shared(), shared());
            scope.spawn(|| {
                let turn = alone();
                is_captured.store(true, Ordering::SeqCst);
                drop(turn);
            });
            std::thread::sleep(Duration::from_millis(20));
            assert!(!is_captured.load(Ordering::SeqCst));
            drop((one, other));
        });
        let turn = alone();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _turn = shared();
                assert!(is_over.load(Ordering::SeqCst));
            });
            std::thread::sleep(Duration::from_millis(20));
            is_over.store(true, Ordering::SeqCst);
            drop(turn);
        });
    }
}
