// SPDX-License-Identifier: MPL-2.0

//! Measures how fast a bundle's graphs run, window by window. Needs ONNX Runtime and no GStreamer, so that it runs on a
//! bare GPU machine:
//!
//! ```text
//! cargo run --release --bin window-bench -- --bundle models/dvface-nano --provider cpu
//! ```
//!
//! Where GStreamer is not installed at all, its headers included: `--no-default-features --features window-bench` after
//! `--release`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use gstdvface::bundle::{Bundle, GraphKind};
use gstdvface::restorer::{Interrupt, Restorer};
use gstdvface::runtime::{self, LibrarySearch, Provider, ProviderOptions, Sessions};
use serde_json::{Value, json};

#[derive(Clone, Copy, ValueEnum)]
enum ProviderArgument {
    Cpu,
    Cuda,
    Tensorrt,
}

/// Runs the graphs of a bundle, window after window, and prints how long each takes.
#[derive(Parser)]
struct Arguments {
    /// Bundle: path of its folder, or its name
    #[arg(long)]
    bundle: String,
    /// What runs the graphs; there is no falling back to another
    #[arg(long, value_enum, default_value = "cpu")]
    provider: ProviderArgument,
    /// Number of the GPU
    #[arg(long, default_value_t = 0)]
    device_id: u32,
    /// CPU threads within an operator; 0 for all cores
    #[arg(long, default_value_t = 0)]
    threads: u32,
    /// Frames of a window, of those that the bundle allows; 0 for the bundle's
    #[arg(long, default_value_t = 0)]
    window_frames: u32,
    /// Frames that two windows share; 0 for the bundle's
    #[arg(long, default_value_t = 0)]
    overlap_frames: u32,
    /// Windows to measure, after a warm-up
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    windows: u32,
    /// Absolute path of libonnxruntime.so; else ORT_DYLIB_PATH, else beside this program, else the system's
    #[arg(long)]
    runtime_library: Option<PathBuf>,
    /// Folder of TensorRT's engine and timing caches
    #[arg(long, default_value = "engines")]
    engine_cache: PathBuf,
    /// Bytes that the CUDA arena of each graph may take; 0 for no limit
    #[arg(long, default_value_t = 0)]
    gpu_mem_limit: u64,
    /// Capture the runs as CUDA graphs
    #[arg(long)]
    cuda_graphs: bool,
    /// Beginning of the paths of ONNX Runtime's profiles; also says which nodes copy between device and host
    #[arg(long)]
    profile: Option<PathBuf>,
    /// Also write the figures to this file, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let beside = std::env::current_exe()?.parent().map(Path::to_path_buf);
    let bundle = Bundle::open(&Bundle::find(&arguments.bundle, beside.as_deref())?)?;
    let shape = bundle.shape(arguments.window_frames, arguments.overlap_frames)?;
    let library = LibrarySearch::of_process(arguments.runtime_library.clone(), beside).find()?;
    let environment = runtime::environment(&library)?;
    let provider = match arguments.provider {
        ProviderArgument::Cpu => Provider::Cpu,
        ProviderArgument::Cuda => Provider::Cuda,
        ProviderArgument::Tensorrt => Provider::TensorRt,
    };
    let options = ProviderOptions {
        device_id: arguments.device_id,
        threads: arguments.threads,
        engine_cache: arguments.engine_cache.join(bundle.fingerprint()),
        memory_limit: arguments.gpu_mem_limit,
        cuda_graphs: arguments.cuda_graphs,
        profile: arguments.profile.clone(),
        ..ProviderOptions::new(provider)
    };

    let started = Instant::now();
    let sessions = Arc::new(Sessions::load(&environment, &bundle, &options)?);
    let load = started.elapsed();
    for notice in sessions.notices() {
        eprintln!("{notice}");
    }
    let interrupt = Arc::new(Interrupt::new()?);
    let (width, height) = (bundle.width(), bundle.height());
    let mut restorer = Restorer::new(sessions.clone(), interrupt, shape.frames(), width, height)?;
    let started = Instant::now();
    restorer.warm_up()?;
    let warm_up = started.elapsed();

    let frames = test_frames(restorer.window_bytes());
    let mut windows = Vec::new();
    let cpu_before = cpu_time();
    for _ in 0..arguments.windows {
        let started = Instant::now();
        restorer.restore(&frames)?;
        windows.push(started.elapsed());
    }
    let cpu = cpu_time().zip(cpu_before).map(|(after, before)| after - before);

    let graphs: Vec<(GraphKind, f64, f64)> = GraphKind::ALL
        .into_iter()
        .filter(|kind| sessions.graph(*kind).is_some())
        .map(|kind| (kind, restorer.timing(kind).mean_ms(), restorer.timing(kind).p95_ms()))
        .collect();
    let wall: Duration = windows.iter().sum();
    let mean = milliseconds(wall) / windows.len() as f64;
    windows.sort_unstable();
    let p95 = milliseconds(windows[(windows.len() * 95).div_ceil(100) - 1]);
    let stride = shape.stride();
    let report = json!({
        "bundle": bundle.name(),
        "version": bundle.version(),
        "provider": provider.name(),
        "device": options.device(),
        "threads": arguments.threads,
        "width": width,
        "height": height,
        "window_frames": shape.frames(),
        "overlap_frames": shape.overlap(),
        "windows": windows.len(),
        "load_ms": milliseconds(load),
        "warm_up_ms": milliseconds(warm_up),
        "graphs": graphs.iter().map(|(kind, mean, p95)| (kind.to_string(), json!({"mean_ms": mean, "p95_ms": p95})))
            .collect::<serde_json::Map<String, Value>>(),
        "window_mean_ms": mean,
        "window_p95_ms": p95,
        "window_least_ms": milliseconds(windows[0]),
        "frames_per_second": stride as f64 * 1e3 / mean,
        "latency_ms_at_25_fps": (shape.frames() - 1) as f64 * 40.0 + mean,
        "frame_bytes_in_and_out": 2 * restorer.window_bytes(),
        "cpu_s": cpu,
        "peak_memory_mib": peak_memory_mib(),
        "pinned": restorer.has_pinned_memory(),
        "gpu_memory_peak_mib": restorer.device_memory_peak().map(|bytes| bytes as f64 / f64::from(1 << 20)),
    });
    print_table(&report, &graphs);
    drop(restorer);
    let mut report = report;
    if arguments.profile.is_some() {
        report["copies"] = copies(&sessions)?;
    }
    if let Some(path) = &arguments.json {
        std::fs::write(path, format!("{report:#}\n")).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

fn print_table(report: &Value, graphs: &[(GraphKind, f64, f64)]) {
    let number = |name: &str| report[name].as_f64().unwrap_or_default();
    println!(
        "{} {} on {}, {}x{}, windows of {} frames, {} shared",
        report["bundle"].as_str().unwrap_or_default(),
        report["version"].as_str().unwrap_or_default(),
        report["device"].as_str().unwrap_or_default(),
        report["width"],
        report["height"],
        report["window_frames"],
        report["overlap_frames"]
    );
    println!(
        "loaded in {:.0} ms, warm-up {:.0} ms",
        number("load_ms"),
        number("warm_up_ms")
    );
    println!("{:<10} {:>10} {:>10} {:>8}", "graph", "mean, ms", "p95, ms", "share");
    let window = number("window_mean_ms");
    for (kind, mean, p95) in graphs {
        println!(
            "{:<10} {mean:>10.2} {p95:>10.2} {:>7.1}%",
            kind.to_string(),
            100.0 * mean / window
        );
    }
    let rest = window - graphs.iter().map(|(_, mean, _)| mean).sum::<f64>();
    println!("{:<10} {rest:>10.2} {:>10} {:>7.1}%", "rest", "", 100.0 * rest / window);
    println!("{:<10} {window:>10.2} {:>10.2}", "window", number("window_p95_ms"));
    println!(
        "{:.1} frames per second; latency {:.0} ms at 25 frames per second; peak memory {:.0} MiB",
        number("frames_per_second"),
        number("latency_ms_at_25_fps"),
        number("peak_memory_mib")
    );
    if let Some(is_pinned) = report["pinned"].as_bool() {
        let memory = if is_pinned { "pinned" } else { "ordinary" };
        println!("frames wait for the device in {memory} memory");
    }
    if let Some(peak) = report["gpu_memory_peak_mib"].as_f64() {
        println!("at most {peak:.0} MiB of the device's memory were taken, by all processes");
    }
}

/// Ends the profiles, and counts the nodes that ONNX Runtime put in to copy between device and host: there should be none,
/// for what a window needs of both are its u8 frames, which are bound.
fn copies(sessions: &Sessions) -> Result<Value, Box<dyn std::error::Error>> {
    let mut counts = serde_json::Map::new();
    for kind in GraphKind::ALL {
        let Some(graph) = sessions.graph(kind) else { continue };
        let path = graph.session.lock().end_profiling()?;
        let events: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        let is_copy = |event: &&Value| {
            event["args"]["op_name"]
                .as_str()
                .is_some_and(|name| name.starts_with("Memcpy"))
                && event["name"]
                    .as_str()
                    .is_some_and(|name| name.ends_with("_kernel_time"))
        };
        let count = events
            .as_array()
            .map_or(0, |events| events.iter().filter(is_copy).count());
        println!("{kind}: {count} copies between device and host inside the graph ({path})");
        counts.insert(kind.to_string(), count.into());
    }
    Ok(counts.into())
}

/// Bytes that are neither flat nor noise.
fn test_frames(bytes: usize) -> Vec<u8> {
    (0..bytes)
        .map(|at| ((at / 3 % 509) / 2 + at / 4096 % 7) as u8)
        .collect()
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Seconds of CPU time of this process so far; `None` without /proc.
fn cpu_time() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // After the name, which may hold anything but ends with the last parenthesis: user and system time are the fields 12
    // and 13, in ticks of 10 ms.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(ticks as f64 / 100.0)
}

/// Greatest memory of this process so far; `None` without /proc.
fn peak_memory_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024.0)
}
