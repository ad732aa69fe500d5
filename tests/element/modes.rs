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
            "twelve::rule_01",
            "twelve::rule_02",
            "twelve::rule_03_flush_start_interrupts",
            "twelve::rule_04",
            "twelve::rule_07",
            "twelve::rule_09",
            "twelve::rule_10",
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

#[test]
fn the_same_tests_hold_for_region_meta() {
    // Pipelines have no element that tells of faces; what takes long is not repeated; and the count of metas is another with one more.
    the_same_tests_hold_with(
        "meta",
        &["downstream::", "metas_are_kept", "seeks_while", "8k", "real_clips"],
        65,
    );
}

#[test]
fn the_same_tests_hold_for_region_detect() {
    // What takes long is not repeated, and the count of metas is another with that of the result.
    the_same_tests_hold_with("detect", &["metas_are_kept", "8k", "real_clips"], 76);
}
