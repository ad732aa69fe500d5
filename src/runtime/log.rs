// SPDX-License-Identifier: MPL-2.0

//! Where ONNX Runtime's messages go. By itself it writes to the terminal of the application, at every run that a flush
//! ends.

use std::cell::Cell;

use ort::logging::LogLevel;

/// Of a warning, the only one that says so: parts of a graph run on the CPU, though it is loaded for another provider.
const ON_CPU: &str = "not assigned to the preferred execution providers";

thread_local! {
    static IS_PART_ON_CPU: Cell<bool> = const { Cell::new(false) };
}

/// What `load` gives, and whether parts of the graph that it loads in this thread run on the CPU.
pub(super) fn with_placement<T>(load: impl FnOnce() -> T) -> (T, bool) {
    IS_PART_ON_CPU.set(false);
    let loaded = load();
    (loaded, IS_PART_ON_CPU.get())
}

/// Takes a message of ONNX Runtime.
pub(super) fn log(level: LogLevel, category: &str, _id: &str, location: &str, message: &str) {
    if message.contains(ON_CPU) {
        IS_PART_ON_CPU.set(true);
    }
    write(level, category, location, message);
}

/// To GStreamer's log, category `onnxruntime`.
#[cfg(feature = "element")]
fn write(level: LogLevel, category: &str, location: &str, message: &str) {
    use std::sync::LazyLock;

    static CAT: LazyLock<gst::DebugCategory> =
        LazyLock::new(|| gst::DebugCategory::new("onnxruntime", gst::DebugColorFlags::empty(), Some("ONNX Runtime")));

    match level {
        LogLevel::Fatal | LogLevel::Error => gst::error!(CAT, "{category} {location}: {message}"),
        LogLevel::Warning => gst::warning!(CAT, "{category} {location}: {message}"),
        LogLevel::Info => gst::info!(CAT, "{category} {location}: {message}"),
        LogLevel::Verbose => gst::trace!(CAT, "{category} {location}: {message}"),
    }
}

/// Without GStreamer, to the standard error output: warnings and worse.
#[cfg(not(feature = "element"))]
fn write(level: LogLevel, category: &str, location: &str, message: &str) {
    if matches!(level, LogLevel::Fatal | LogLevel::Error | LogLevel::Warning) {
        eprintln!("ONNX Runtime: {level:?}: {category} {location}: {message}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words of ONNX Runtime 1.23, `VerifyEachNodeIsAssignedToAnEp`.
    #[test]
    fn a_graph_that_runs_in_part_on_the_cpu_is_told() {
        let warn =
            |message: &'static str| move || log(LogLevel::Warning, "onnxruntime", "", "session_state.cc:1316", message);
        let told = "Some nodes were not assigned to the preferred execution providers which may or may not have an negative impact on \
                    performance. e.g. ORT explicitly assigns shape related ops to CPU to improve perf.";
        assert!(with_placement(warn(told)).1);
        assert!(
            !with_placement(warn("Rerunning with verbose output")).1,
            "of this graph alone"
        );
    }
}
