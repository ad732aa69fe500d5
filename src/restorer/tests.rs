// SPDX-License-Identifier: MPL-2.0

use std::path::Path;

use super::library::runtime_library;
use super::*;
use crate::bundle::Bundle;
use crate::runtime::{self, ProviderOptions, SessionCache};

/// All ways of tensors; those of a GPU with the memory of the CPU.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Host,
    Device,
    /// As with CUDA graphs.
    Fixed,
}

const WAYS: [Way; 3] = [Way::Host, Way::Device, Way::Fixed];

/// For the bundle `name` of tests/bundles.
fn restorer(name: &str, frames: usize, way: Way) -> Restorer {
    let environment = runtime::environment(&runtime_library()).unwrap();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bundles").join(name);
    let bundle = Bundle::open(&dir).unwrap();
    let options = ProviderOptions {
        threads: 1,
        ..ProviderOptions::new(Provider::Cpu)
    };
    let sessions = SessionCache::open(&environment, &bundle, &options).unwrap();
    let interrupt = Arc::new(Interrupt::new().unwrap());
    let mut restorer = Restorer::new(sessions, interrupt, frames, bundle.width(), bundle.height()).unwrap();
    assert!(matches!(restorer.place, Place::Host));
    if way == Way::Host {
        return restorer;
    }
    let is_fixed = way == Way::Fixed;
    let place = Place::on_device(&restorer.sessions, MemoryInfo::default(), restorer.dims, is_fixed).unwrap();
    restorer.place = place;
    restorer
}

fn window(restorer: &Restorer, seed: usize) -> Vec<u8> {
    (0..restorer.window_bytes())
        .map(|at| ((at * 7 + seed * 31) % 251) as u8)
        .collect()
}

#[track_caller]
fn assert_is_of(error: &RestoreError, kind: GraphKind) {
    assert!(
        matches!(error, RestoreError::Graph { graph, .. } if *graph == kind),
        "{error}"
    );
}

/// Sessions of large bundles, which have no arena.
#[test]
fn lean_or_not_the_frames_are_the_same() {
    let mut usual = restorer("external", 5, Way::Host);
    let bundle = Bundle::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bundles/external")).unwrap();
    assert_eq!(bundle.file_bytes(), graph_bytes(bundle.dir()));
    let environment = runtime::environment(&runtime_library()).unwrap();
    let sessions = Sessions::load_as(&environment, &bundle, usual.sessions().options(), true).unwrap();
    let interrupt = Arc::new(Interrupt::new().unwrap());
    let mut lean = Restorer::new(Arc::new(sessions), interrupt, 5, bundle.width(), bundle.height()).unwrap();
    lean.warm_up().unwrap();
    for seed in 0..2 {
        let window = window(&usual, seed);
        let (expected, found) = (usual.restore(&window).unwrap(), lean.restore(&window).unwrap());
        assert!((0..5).all(|slot| expected.frame(slot) == found.frame(slot)), "{seed}");
    }
}

/// Bytes of all files of a folder but the manifest.
fn graph_bytes(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    files
        .filter(|file| file.file_name() != "bundle.toml")
        .map(|file| file.metadata().unwrap().len())
        .sum()
}

/// The way of a GPU, with the memory of the CPU: the same frames, and outputs of one run outlive the next.
#[test]
fn bound_to_memory_or_not_the_frames_are_the_same() {
    for (name, frames) in [
        ("brighter", 5),
        ("brighter-noprior", 5),
        ("brighter-frames", 5),
        ("brighter-f16", 5),
        ("blend", 5),
        ("brighter-dynamic", 9),
        ("brighter-long", 17),
    ] {
        let mut host = restorer(name, frames, Way::Host);
        let windows = [0, 1, 2].map(|seed| window(&host, seed));
        let expected = windows.each_ref().map(|window| host.restore(window).unwrap());
        for way in [Way::Device, Way::Fixed] {
            if way == Way::Fixed && name == "brighter-dynamic" {
                continue; // the next test has it
            }
            let mut device = restorer(name, frames, way);
            assert_eq!(
                device.has_pinned_memory(),
                Some(false),
                "there is no device to pin it for"
            );
            let found = windows.each_ref().map(|window| device.restore(window).unwrap());
            for (seed, (expected, found)) in expected.iter().zip(&found).enumerate() {
                for slot in 0..frames {
                    assert!(
                        expected.frame(slot) == found.frame(slot),
                        "{name}, {way:?}: frame {slot} of window {seed}"
                    );
                }
            }
            for kind in GraphKind::ALL {
                let has_none = kind == GraphKind::Prior && name == "brighter-noprior";
                let runs = if has_none { 0 } else { 3 };
                assert_eq!(device.timing(kind).runs.len(), runs, "{name}, {way:?}: {kind}");
            }
        }
        if name != "blend" {
            let brighter: Vec<u8> = windows[0].iter().map(|value| value + 1).collect();
            assert!(expected[0].frame(0) == &brighter[..expected[0].frame_bytes], "{name}");
        }
    }
}

/// What is captured has its sizes for ever.
#[test]
fn cuda_graphs_need_fixed_sizes() {
    let restorer = restorer("brighter-dynamic", 9, Way::Host);
    let error = Place::on_device(&restorer.sessions, MemoryInfo::default(), restorer.dims, true)
        .map(drop)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("cuda-graphs: graph encoder: output latent: expected fixed sizes"),
        "{error}"
    );
}

/// Two elements that share sessions have tensors of their own.
#[test]
fn bound_tensors_are_an_elements_own() {
    let (mut one, mut other) = (restorer("brighter", 5, Way::Fixed), restorer("brighter", 5, Way::Fixed));
    let windows = [1, 2].map(|seed| window(&one, seed));
    for _ in 0..3 {
        let found = [one.restore(&windows[0]).unwrap(), other.restore(&windows[1]).unwrap()];
        for (window, found) in windows.iter().zip(&found) {
            assert!(
                window
                    .iter()
                    .zip(found.frame(0))
                    .all(|(before, after)| before + 1 == *after)
            );
        }
    }
}

#[test]
fn an_interrupt_ends_runs_until_each_reason_is_cleared() {
    for way in WAYS {
        let mut restorer = restorer("brighter", 5, way);
        let frames = window(&restorer, 0);
        let interrupt = restorer.interrupt.clone();
        interrupt.raise(Reason::Flush);
        interrupt.raise(Reason::Stop);
        assert!(matches!(restorer.restore(&frames), Err(RestoreError::Interrupted)));
        interrupt.clear(Reason::Flush);
        assert!(matches!(restorer.restore(&frames), Err(RestoreError::Interrupted)));
        interrupt.clear(Reason::Stop);
        assert!(restorer.restore(&frames).is_ok());
    }
}

#[test]
fn a_run_that_fails_names_its_graph_and_is_no_end() {
    for way in WAYS {
        let mut restorer = restorer("failing", 5, way);
        let error = restorer
            .restore(&vec![250; restorer.window_bytes()])
            .map(drop)
            .unwrap_err();
        assert_is_of(&error, GraphKind::Dit);
        assert!(error.to_string().contains("Gather"), "{error}");
        assert!(restorer.restore(&vec![10; restorer.window_bytes()]).is_ok());
    }
}

/// A bundle whose graphs take any number of frames gives as many as it takes.
#[test]
fn a_window_of_the_wrong_length_is_an_error() {
    let mut restorer = restorer("brighter", 9, Way::Host);
    let error = restorer
        .restore(&vec![10; restorer.window_bytes()])
        .map(drop)
        .unwrap_err();
    assert_is_of(&error, GraphKind::Encoder);
}

#[test]
fn timings_are_of_the_last_runs() {
    let mut timing = Timing::default();
    assert_eq!((timing.mean_ms(), timing.p95_ms()), (0.0, 0.0));
    for milliseconds in 1..=100 {
        timing.add(Duration::from_millis(milliseconds));
    }
    assert!((timing.mean_ms() - 50.5).abs() < 1e-9);
    assert!((timing.p95_ms() - 95.0).abs() < 1e-9);
    for _ in 0..TIMED_RUNS {
        timing.add(Duration::from_millis(7));
    }
    assert!((timing.mean_ms() - 7.0).abs() < 1e-9 && (timing.p95_ms() - 7.0).abs() < 1e-9);
}

#[test]
fn the_oldest_run_is_left_out_where_there_are_others() {
    let mut timing = Timing::default();
    timing.forget_oldest();
    timing.add(Duration::from_millis(90));
    timing.forget_oldest();
    assert!((timing.mean_ms() - 90.0).abs() < 1e-9);
    timing.add(Duration::from_millis(10));
    timing.forget_oldest();
    assert!((timing.mean_ms() - 10.0).abs() < 1e-9);
}
