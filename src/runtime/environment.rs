//! The one ONNX Runtime environment of a process.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ort::environment::Environment;
use ort::logging::LogLevel;
use parking_lot::Mutex;

use super::{RuntimeError, log};

/// A second environment in one process fails, even after the first is gone, so it stays until the process ends.
static LOADED: Mutex<Option<(PathBuf, Environment)>> = Mutex::new(None);

/// The environment of the library at `path` (absolute); loads it at the first call.
///
/// # Errors
/// [`RuntimeError::LibraryUnusable`]; [`RuntimeError::OtherLibraryLoaded`] where an earlier call loaded another one.
pub fn environment(path: &Path) -> Result<Environment, RuntimeError> {
    let unusable = |reason: String| RuntimeError::LibraryUnusable {
        path: path.into(),
        reason,
    };
    let path_on_disk = path.canonicalize().map_err(|error| unusable(error.to_string()))?;
    let mut loaded = LOADED.lock();
    if let Some((loaded_path, environment)) = &*loaded {
        if *loaded_path == path_on_disk {
            return Ok(environment.clone());
        }
        return Err(RuntimeError::OtherLibraryLoaded {
            loaded: loaded_path.clone(),
            wanted: path_on_disk,
        });
    }
    let environment = ort::init_from(path)
        .map_err(|error| unusable(error.to_string()))?
        .with_name("dvface")
        .with_telemetry(false)
        .with_logger(Arc::new(log::log))
        .build()
        .map_err(|error| unusable(error.to_string()))?;
    // With a logger, the level is that of everything.
    environment.set_log_level(LogLevel::Warning);
    *loaded = Some((path_on_disk, environment.clone()));
    Ok(environment)
}
