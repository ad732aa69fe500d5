//! Where ONNX Runtime's messages go. By itself it writes to the terminal of the application, at every run that a flush
//! ends.

use ort::logging::LogLevel;

/// To GStreamer's log, category `onnxruntime`.
#[cfg(feature = "element")]
pub(super) fn log(level: LogLevel, category: &str, _id: &str, location: &str, message: &str) {
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
pub(super) fn log(level: LogLevel, category: &str, _id: &str, location: &str, message: &str) {
    if matches!(level, LogLevel::Fatal | LogLevel::Error | LogLevel::Warning) {
        eprintln!("ONNX Runtime: {level:?}: {category} {location}: {message}");
    }
}
