// SPDX-License-Identifier: MPL-2.0

//! The one ONNX Runtime environment of a process.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ort::environment::Environment;
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
    keep_quiet();
    let environment = ort::init_from(path)
        .map_err(|error| unusable(load_reason(&error)))?
        .with_name("dvface")
        .with_telemetry(false)
        .with_logger(Arc::new(log::log))
        .build()
        .map_err(|error| unusable(error.to_string()))?;
    *loaded = Some((path_on_disk, environment.clone()));
    Ok(environment)
}

/// ONNX Runtime's own releases for Linux tell Microsoft of every process that they run in (since 1.29), and leave an identifier in the
/// user's cache folder. `with_telemetry` comes too late: the first event is sent while the environment is made. Who has set the variable
/// has decided.
///
/// The plugin calls this when it is loaded, when a process has the fewest threads.
pub fn keep_quiet() {
    const VARIABLE: &str = "ORT_DISABLE_TELEMETRY";
    if std::env::var_os(VARIABLE).is_none() {
        // SAFETY: Rust's own readers take a lock. A `getenv` of C in another thread in this very moment would be a race, which no
        // library that sets a variable can exclude: hence once in a process, and as early as can be.
        unsafe { std::env::set_var(VARIABLE, "1") };
    }
}

/// Why a library cannot be loaded, as the loader says: a dependency that is missing, another architecture.
fn load_reason(error: &ort::LoadDynamicError) -> String {
    match error {
        // Its own text is "dlopen failed".
        ort::LoadDynamicError::Dlopen { error, .. } => {
            error.source().map_or_else(|| error.to_string(), ToString::to_string)
        }
        other => other.to_string(),
    }
}
