// SPDX-License-Identifier: MPL-2.0

//! How many threads an operator runs in.

use std::num::NonZero;
use std::thread;

/// The number that ONNX Runtime is told for the property's.
///
/// 0 is its own choice: a thread for each core of the machine, each bound to its core. Where this process may not use them all
/// (CPU affinity, a container's quota) it gets as many as it may, which go where they may.
pub(crate) fn of(wanted: u32) -> usize {
    choose(wanted, thread::available_parallelism().ok(), cores())
}

fn choose(wanted: u32, allowed: Option<NonZero<usize>>, cores: Option<usize>) -> usize {
    match (wanted, allowed, cores) {
        (0, Some(allowed), Some(cores)) if allowed.get() < cores => allowed.get(),
        _ => wanted as usize,
    }
}

/// Of the machine; `None` where the system does not say.
fn cores() -> Option<usize> {
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").ok()?;
    count(&online)
}

/// Of a list of numbers and ranges: `0-3,8`.
fn count(list: &str) -> Option<usize> {
    let ranges = list.trim().split(',').map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        Some((last + 1).saturating_sub(first))
    });
    ranges.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_may_not_use_all_cores_gets_as_many_threads_as_it_may() {
        assert_eq!(choose(0, NonZero::new(2), Some(8)), 2);
        assert_eq!(
            choose(0, NonZero::new(8), Some(8)),
            0,
            "ONNX Runtime knows cores from threads"
        );
        assert_eq!(choose(6, NonZero::new(2), Some(8)), 6, "as the user says");
        assert_eq!((choose(0, None, Some(8)), choose(0, NonZero::new(2), None)), (0, 0));
    }

    #[test]
    fn cores_are_counted() {
        assert_eq!(count("0-3,8\n"), Some(5));
        assert_eq!(count("0\n"), Some(1));
        assert_eq!(count("none"), None);
        assert!(cores().is_none_or(|cores| cores > 0));
    }
}
