// SPDX-License-Identifier: MPL-2.0

//! What this process holds in memory.

use std::ffi::c_int;

/// How much of it may be there more in the last quarter than in the second one: 2%.
const GROWTH: f64 = 0.02;

/// `mallopt`: from this size on a block is a mapping of its own.
const M_MMAP_THRESHOLD: c_int = -3;
/// `mallopt`: how many arenas there are at most.
const M_ARENA_MAX: c_int = -8;

/// glibc's `struct mallinfo2`.
#[repr(C)]
struct Mallinfo2 {
    arena: usize,
    ordblks: usize,
    smblks: usize,
    hblks: usize,
    hblkhd: usize,
    usmblks: usize,
    fsmblks: usize,
    uordblks: usize,
    fordblks: usize,
    keepcost: usize,
}

unsafe extern "C" {
    fn mallopt(parameter: c_int, value: c_int) -> c_int;
    fn malloc_trim(pad: usize) -> c_int;
    fn mallinfo2() -> Mallinfo2;
}

/// Tells the allocator to give frames back as soon as they are freed, and not to open a heap for each new thread: with
/// its defaults the pages between blocks in use come and go by more than a leak that this test is to find.
pub fn keep_nothing() {
    // SAFETY: both take numbers; glibc locks its state around them.
    let done = unsafe { [mallopt(M_MMAP_THRESHOLD, 64 << 10), mallopt(M_ARENA_MAX, 1)] };
    assert_eq!(done, [1, 1], "mallopt");
}

/// Bytes of this process: in memory, and those of them that somebody holds (`malloc` without `free`).
#[derive(Clone, Copy)]
pub struct Memory {
    resident: f64,
    allocated: f64,
}

impl Memory {
    pub fn now() -> Self {
        // SAFETY: they take a number or nothing, and give free memory back to the system.
        let info = unsafe {
            malloc_trim(0);
            mallinfo2()
        };
        let text = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
        Self {
            resident: (pages * 4096) as f64,
            allocated: (info.uordblks + info.hblkhd) as f64,
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// The medians of the second and the last quarter, as text, and what grew by more than it may.
pub fn growth(memory: &[Memory]) -> (String, Vec<String>) {
    let quarter = memory.len() / 4;
    assert!(quarter > 2, "too short to tell of memory");
    let mut said = Vec::new();
    let mut grown = Vec::new();
    for (name, of) in [
        ("resident", (|memory| memory.resident) as fn(&Memory) -> f64),
        ("allocated", |memory| memory.allocated),
    ] {
        let early = median(memory[quarter..quarter * 2].iter().map(of));
        let late = median(memory[quarter * 3..].iter().map(of));
        let growth = late / early - 1.0;
        said.push(format!(
            "{name} {:.2} MB, then {:.2} MB ({:+.2}%)",
            early / 1e6,
            late / 1e6,
            growth * 100.0
        ));
        if growth >= GROWTH {
            grown.push(format!("{name} memory grows by {:.2}%", growth * 100.0));
        }
    }
    (said.join(", "), grown)
}

#[test]
fn growth_is_told() {
    let at = |bytes| Memory {
        resident: bytes,
        allocated: 50e6,
    };
    let flat: Vec<Memory> = (0..40).map(|index| at(50e6 + 1e5 * f64::from(index % 3))).collect();
    assert!(growth(&flat).1.is_empty());
    // 100 kB more at each look.
    let leaking: Vec<Memory> = (0..40).map(|index| at(50e6 + 1e5 * f64::from(index))).collect();
    assert_eq!(growth(&leaking).1, ["resident memory grows by 3.88%"]);
}
