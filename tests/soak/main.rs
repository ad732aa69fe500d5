// SPDX-License-Identifier: MPL-2.0

//! Soak: flushing seeks, caps changes, state changes and property changes at random, for as long as one likes. No leak, no
//! stall, and every frame that goes in comes out, once and in order, unless a flush takes it.
//!
//! `DVFACE_SOAK_SECONDS` is how long (120; `make soak` takes 1800), `DVFACE_SOAK_SEED` what is drawn (else the time), which is
//! printed. Threads make two runs of one seed differ, but their steps are the same.

#[path = "../common/library.rs"]
mod library;

mod ledger;
mod memory;
mod pipeline;
mod stall;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use library::runtime_library;
use pipeline::Soak;

/// Longest time for a step, and longest time without a frame while playing.
const STALL: Duration = Duration::from_secs(20);

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect(name))
}

#[test]
fn soak() {
    let seconds = number("DVFACE_SOAK_SECONDS").unwrap_or(120);
    let seed = number("DVFACE_SOAK_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        now.as_secs()
    });
    println!("DVFACE_SOAK_SEED={seed}, {seconds} s");
    memory::keep_nothing();
    let mut soak = Soak::new(seed);
    let heart = Arc::new(AtomicU64::new(0));
    watchdog(seed, &heart);
    soak.play();
    let start = Instant::now();
    let end = start + Duration::from_secs(seconds);
    while Instant::now() < end {
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            soak.step();
            soak.flow();
        }));
        if let Err(panic) = done {
            println!(
                "DVFACE_SOAK_SEED={seed}, step {}: the last steps were {:#?}",
                soak.steps, soak.log
            );
            std::panic::resume_unwind(panic);
        }
        heart.fetch_add(1, Ordering::SeqCst);
    }
    soak.stop(gst::State::Null);
    let (steps, ledger) = (soak.steps, soak.ledger.lock().unwrap());
    let (memory, grown) = memory::growth(&soak.memory);
    println!(
        "DVFACE_SOAK_SEED={seed}: {steps} steps in {seconds} s; {} frames in, {} out, {} taken by flushes and stops; {} changes to \
         PLAYING lost by GStreamer; {memory}",
        ledger.entered, ledger.left, ledger.flushed, soak.lost_changes
    );
    assert_eq!(ledger.entered, ledger.left + ledger.flushed, "DVFACE_SOAK_SEED={seed}");
    assert!(
        ledger.problems.is_empty(),
        "DVFACE_SOAK_SEED={seed}: {:?}",
        ledger.problems
    );
    assert!(
        steps as f64 > seconds as f64,
        "DVFACE_SOAK_SEED={seed}: it hardly moves"
    );
    assert!(grown.is_empty(), "DVFACE_SOAK_SEED={seed}: {grown:?}");
}

/// Ends the process where a step hangs: nothing else could.
fn watchdog(seed: u64, heart: &Arc<AtomicU64>) {
    let heart = heart.clone();
    std::thread::spawn(move || {
        let mut last = (0, Instant::now());
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let beat = heart.load(Ordering::SeqCst);
            if beat != last.0 {
                last = (beat, Instant::now());
            }
            if last.1.elapsed() > STALL * 3 {
                eprintln!("DVFACE_SOAK_SEED={seed}: a step hangs");
                std::process::abort();
            }
        }
    });
}
