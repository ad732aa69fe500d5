// SPDX-License-Identifier: MPL-2.0

//! What holds for whole frames holds for faces: the tests of the other files, run over `region=meta` and `region=detect`.

use std::process::Command;

/// The tests of the other files, with every frame one face: see `rig::region_mode`.
fn the_same_tests_hold_with(region: &str, skipped: &[&str], at_least: u32) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "order::",
            "cuts::",
            "strength::",
            "downstream::",
            "latency::",
            "overload::",
            "late_runs::",
            "failures::",
            "scenes::",
            "streams::",
            "states::",
            "twelve::",
        ])
        .env("DVFACE_TEST_REGION", region);
    for name in skipped {
        command.args(["--skip", name]);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let passed: u32 = text
        .lines()
        .filter_map(|line| {
            line.strip_prefix("test result: ok. ")?
                .split(' ')
                .next()?
                .parse::<u32>()
                .ok()
        })
        .sum();
    println!("region={region}: {passed} tests");
    assert!(passed >= at_least, "{text}");
}

/// What is not run again in either mode, and why. All other behaviours are.
const SKIPPED: [&str; 3] = [
    // Looks at the list of properties; no frame is in it.
    "twelve::rule_12",
    // The pixels of a large frame: half a gigabyte, and a crop of it is what `faces` looks at.
    "8k",
    // By hand, on clips that are not part of the repository; what a cut is has nothing to do with faces.
    "real_clips",
];

#[test]
fn the_same_tests_hold_for_region_meta() {
    the_same_tests_hold_with("meta", &SKIPPED, 108);
}

#[test]
fn the_same_tests_hold_for_region_detect() {
    the_same_tests_hold_with("detect", &SKIPPED, 108);
}
