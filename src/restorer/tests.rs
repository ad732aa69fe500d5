use std::path::Path;

use super::library::runtime_library;
use super::*;
use crate::bundle::Bundle;
use crate::runtime::{self, ProviderOptions, SessionCache};

/// Both ways, that of a GPU with the memory of the CPU. ONNX Runtime is loaded first: memory can be told only then.
fn places() -> [Place; 2] {
    runtime::environment(&runtime_library()).unwrap();
    [Place::Host, Place::Device(MemoryInfo::default())]
}

/// For the bundle `name` of tests/bundles, with tensors between graphs at `place`.
fn restorer(name: &str, frames: usize, place: Place) -> Restorer {
    let environment = runtime::environment(&runtime_library()).unwrap();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bundles").join(name);
    let bundle = Bundle::open(&dir).unwrap();
    let options = ProviderOptions {
        threads: 1,
        ..ProviderOptions::new(Provider::Cpu)
    };
    let sessions = SessionCache::open(&environment, &bundle, &options).unwrap();
    let interrupt = Arc::new(Interrupt::new().unwrap());
    let restorer = Restorer::new(sessions, interrupt, frames, bundle.width(), bundle.height()).unwrap();
    assert!(matches!(restorer.place, Place::Host));
    Restorer { place, ..restorer }
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
    let mut usual = restorer("external", 5, Place::Host);
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
        let mut host = restorer(name, frames, Place::Host);
        let mut device = restorer(name, frames, Place::Device(MemoryInfo::default()));
        let windows = [0, 1, 2].map(|seed| window(&host, seed));
        let expected = windows.each_ref().map(|window| host.restore(window).unwrap());
        let found = windows.each_ref().map(|window| device.restore(window).unwrap());
        for (seed, (expected, found)) in expected.iter().zip(&found).enumerate() {
            for slot in 0..frames {
                assert!(
                    expected.frame(slot) == found.frame(slot),
                    "{name}: frame {slot} of window {seed}"
                );
            }
        }
        if name != "blend" {
            let brighter: Vec<u8> = windows[0].iter().map(|value| value + 1).collect();
            assert!(expected[0].frame(0) == &brighter[..expected[0].frame_bytes], "{name}");
        }
        for kind in GraphKind::ALL {
            let runs = if kind == GraphKind::Prior && name == "brighter-noprior" {
                0
            } else {
                3
            };
            assert_eq!(device.timing(kind).runs.len(), runs, "{name}: {kind}");
        }
    }
}

#[test]
fn an_interrupt_ends_runs_until_each_reason_is_cleared() {
    for place in places() {
        let mut restorer = restorer("brighter", 5, place);
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
    for place in places() {
        let mut restorer = restorer("failing", 5, place);
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
    let mut restorer = restorer("brighter", 9, Place::Host);
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
