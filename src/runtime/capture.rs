// SPDX-License-Identifier: MPL-2.0

//! Turns between captures of CUDA graphs and all else that this process asks of CUDA.
//!
//! ONNX Runtime captures with `cudaStreamCaptureModeGlobal`: while it does, whatever another thread asks of CUDA that may wait for the
//! device (memory, copies) fails, and spoils the capture.

use std::thread;
use std::time::Duration;

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

static TURNS: RwLock<()> = RwLock::new(());

/// How often who waits looks whether it is still to wait.
const LOOK: Duration = Duration::from_millis(5);

/// The longest that a capture which waits for another's turn keeps others from theirs.
const PATIENCE: Duration = Duration::from_secs(1);

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

/// As [`shared`]; `None` as soon as `is_interrupted`.
pub fn shared_unless(is_interrupted: impl Fn() -> bool) -> Option<Turn> {
    while !is_interrupted() {
        if let Some(turn) = TURNS.try_read_for(LOOK) {
            return Some(Turn::Shared(turn));
        }
    }
    None
}

/// Waits until nobody else is at work on a device: for a run that is captured. `None` as soon as `is_interrupted`.
///
/// While it waits others get no turn, so it lets them have theirs again and again: one of them may load for minutes.
pub fn alone_unless(is_interrupted: impl Fn() -> bool) -> Option<Turn> {
    let mut patience = LOOK;
    while !is_interrupted() {
        if let Some(turn) = TURNS.try_write_for(patience) {
            return Some(Turn::Alone(turn));
        }
        thread::sleep(LOOK);
        patience = (patience * 2).min(PATIENCE);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Instant;

    use parking_lot::Mutex;

    /// The tests have one lock between them.
    static TEST: Mutex<()> = Mutex::new(());

    /// Others share the device; who captures has it alone.
    #[test]
    fn captures_wait_for_others_and_others_for_captures() {
        let _test = TEST.lock();
        let is_captured = AtomicBool::new(false);
        let never = || false;
        std::thread::scope(|scope| {
            let (one, other) = (shared(), shared());
            scope.spawn(|| {
                let turn = alone_unless(never);
                is_captured.store(true, Ordering::SeqCst);
                drop(turn);
            });
            std::thread::sleep(Duration::from_millis(20));
            assert!(!is_captured.load(Ordering::SeqCst));
            drop((one, other));
        });
        assert!(is_captured.load(Ordering::SeqCst));
        let turn = alone_unless(never);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _turn = shared_unless(never);
                assert!(is_over.load(Ordering::SeqCst));
            });
            std::thread::sleep(Duration::from_millis(20));
            is_over.store(true, Ordering::SeqCst);
            drop(turn);
        });
    }

    /// A flush ends the wait, and a capture that waits for one that loads keeps nobody else for long.
    #[test]
    fn who_waits_can_be_interrupted_and_lets_others_go_on() {
        let _test = TEST.lock();
        let loading = shared();
        let is_interrupted = AtomicBool::new(false);
        let interrupted = || is_interrupted.load(Ordering::SeqCst);
        let mut waited = Duration::ZERO;
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| alone_unless(interrupted).is_none());
            std::thread::sleep(Duration::from_millis(20));
            let asked = Instant::now();
            for _ in 0..4 {
                drop(shared());
            }
            waited = asked.elapsed();
            is_interrupted.store(true, Ordering::SeqCst);
            assert!(waiting.join().unwrap());
        });
        // For the whole time of the load, if it did not let them.
        assert!(waited < Duration::from_secs(20), "{waited:?}");
        drop(loading);
        let capturing = alone_unless(|| false);
        assert!(shared_unless(|| true).is_none());
        drop(capturing);
    }
}
