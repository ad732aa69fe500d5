// SPDX-License-Identifier: MPL-2.0

//! Faults for tests, behind the feature `faults`: what happens to a run before its graphs start. Each thread has its own, and
//! restores in its own, so tests that run side by side do not meet.

use std::cell::RefCell;
use std::time::Duration;

/// What happens to a run.
#[derive(Clone, Debug)]
pub enum Fault {
    /// ONNX Runtime fails with this text.
    Error(&'static str),
    /// It takes so much longer.
    Slow(Duration),
}

type Hook = Box<dyn FnMut() -> Option<Fault>>;

thread_local! {
    static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
}

/// Calls `hook` before every run of this thread from now on, the warm-up's too.
pub fn set(hook: impl FnMut() -> Option<Fault> + 'static) {
    HOOK.with_borrow_mut(|current| *current = Some(Box::new(hook)));
}

/// Runs of this thread are as they are.
pub fn clear() {
    HOOK.with_borrow_mut(Option::take);
}

/// What happens to the run that is about to start.
pub(super) fn next() -> Option<Fault> {
    HOOK.with_borrow_mut(|hook| hook.as_mut().and_then(|hook| hook()))
}
