// SPDX-License-Identifier: MPL-2.0

//! From settings to a restorer that is ready, and from what goes wrong on the way to an error for the bus.

use std::path::PathBuf;
use std::sync::Arc;

use ort::environment::Environment;

use super::faces::Faces;
use super::settings::{ProviderChoice, Settings};
use crate::bundle::{Bundle, BundleError};
use crate::face::detector::DetectorError;
use crate::restorer::{Interrupt, RestoreError, Restorer};
use crate::runtime::{self, LibrarySearch, Provider, ProviderOptions, RuntimeError, SessionCache, Sessions};
use crate::window::WindowShape;

/// A loaded model.
pub struct Model {
    pub bundle: Bundle,
    pub shape: WindowShape,
    pub restorer: Restorer,
    pub interrupt: Arc<Interrupt>,
    /// `None` where the whole frame is restored.
    pub faces: Option<Faces>,
    /// Why `provider=auto` did not take CUDA.
    pub passed_over: Option<String>,
}

/// Loads the bundle that the settings name. Nothing runs yet.
///
/// # Errors
/// An error message with what was wrong, where, and what to do about it.
pub fn load(settings: &Settings, plugin_dir: Option<PathBuf>) -> Result<Model, gst::ErrorMessage> {
    let search = LibrarySearch::of_process(settings.runtime_library.clone(), plugin_dir.clone());
    let dir = Bundle::find(&settings.model, plugin_dir.as_deref()).map_err(|error| bundle_message(&error))?;
    let bundle = Bundle::open(&dir).map_err(|error| bundle_message(&error))?;
    let shape = bundle
        .shape(settings.window_frames, settings.overlap_frames)
        .map_err(|error| bundle_message(&error))?;
    let environment = search
        .find()
        .and_then(|path| runtime::environment(&path))
        .map_err(|error| runtime_message(&error))?;
    let faces = Faces::open(settings, &environment).map_err(|error| detector_message(&error))?;
    let (sessions, passed_over) =
        open_sessions(&environment, &bundle, settings).map_err(|error| runtime_message(&error))?;
    let call = |error: ort::Error| gst::error_msg!(gst::LibraryError::Init, ("ONNX Runtime: {error}"));
    let interrupt = Arc::new(Interrupt::new().map_err(call)?);
    let restorer = Restorer::new(
        sessions,
        interrupt.clone(),
        shape.frames(),
        bundle.width(),
        bundle.height(),
    )
    .map_err(call)?;
    Ok(Model {
        bundle,
        shape,
        restorer,
        interrupt,
        faces,
        passed_over,
    })
}

/// Sessions on the provider that the settings name; with `auto`, on CUDA or else on the CPU, and then why.
fn open_sessions(
    environment: &Environment,
    bundle: &Bundle,
    settings: &Settings,
) -> Result<(Arc<Sessions>, Option<String>), RuntimeError> {
    let open = |provider| {
        // What a provider does not use must not keep elements from sharing its sessions.
        let options = ProviderOptions {
            provider,
            device_id: if provider.is_cuda() { settings.device_id } else { 0 },
            threads: settings.num_threads,
            engine_cache: match provider {
                // Engines hold weights: those of other weights under the same name must not be taken.
                Provider::TensorRt => {
                    let folder = format!("{}-{}", bundle.name(), bundle.fingerprint());
                    settings.engine_cache_dir().join(folder)
                }
                Provider::Cpu | Provider::Cuda => PathBuf::new(),
            },
            memory_limit: if provider.is_cuda() { settings.gpu_mem_limit } else { 0 },
            cuda_graphs: provider.is_cuda() && settings.cuda_graphs,
            profile: None,
        };
        SessionCache::open(environment, bundle, &options)
    };
    let named = match settings.provider {
        ProviderChoice::Auto => None,
        ProviderChoice::Cpu => Some(Provider::Cpu),
        ProviderChoice::Cuda => Some(Provider::Cuda),
        ProviderChoice::TensorRt => Some(Provider::TensorRt),
    };
    if let Some(provider) = named {
        return Ok((open(provider)?, None));
    }
    match open(Provider::Cuda) {
        Ok(sessions) => Ok((sessions, None)),
        Err(RuntimeError::ProviderUnavailable { reason, .. }) => Ok((open(Provider::Cpu)?, Some(reason))),
        // Anything else is wrong on the CPU, too, or for the user to decide (too little GPU memory).
        Err(error) => Err(error),
    }
}

/// The bus error of a bundle that cannot be used.
fn bundle_message(error: &BundleError) -> gst::ErrorMessage {
    match error {
        BundleError::NotFound { .. } => gst::error_msg!(gst::ResourceError::NotFound, ("{error}")),
        BundleError::Read { .. } => gst::error_msg!(gst::ResourceError::OpenRead, ("{error}")),
        BundleError::Setting { .. } => gst::error_msg!(gst::LibraryError::Settings, ("{error}")),
        BundleError::Manifest { .. }
        | BundleError::Path { .. }
        | BundleError::Checksum { .. }
        | BundleError::GraphFile { .. }
        | BundleError::ExternalData { .. }
        | BundleError::Graph { .. } => gst::error_msg!(gst::ResourceError::Read, ("{error}")),
    }
}

/// The bus error of a runtime that cannot be used.
fn runtime_message(error: &RuntimeError) -> gst::ErrorMessage {
    match error {
        RuntimeError::LibraryNotFound { .. } => gst::error_msg!(gst::ResourceError::NotFound, ("{error}")),
        RuntimeError::LibraryPath { .. } | RuntimeError::OtherLibraryLoaded { .. } | RuntimeError::NoCapture { .. } => {
            gst::error_msg!(gst::LibraryError::Settings, ("{error}"))
        }
        RuntimeError::LibraryUnusable { .. } | RuntimeError::ProviderUnavailable { .. } | RuntimeError::Call { .. } => {
            gst::error_msg!(gst::LibraryError::Init, ("{error}"))
        }
        RuntimeError::GraphRefused { .. } => gst::error_msg!(gst::ResourceError::Read, ("{error}")),
        RuntimeError::OutOfMemory { .. } => gst::error_msg!(gst::ResourceError::NoSpaceLeft, ("{error}")),
        RuntimeError::Bundle(error) => bundle_message(error),
    }
}

/// The bus error of a detector that cannot be used, or that failed.
pub fn detector_message(error: &DetectorError) -> gst::ErrorMessage {
    match error {
        DetectorError::NotNamed => gst::error_msg!(gst::LibraryError::Settings, ("{error}")),
        DetectorError::Read { .. } => gst::error_msg!(gst::ResourceError::OpenRead, ("{error}")),
        DetectorError::Unusable { .. } => gst::error_msg!(gst::ResourceError::Read, ("{error}")),
        DetectorError::Run(_) => gst::error_msg!(gst::LibraryError::Failed, ("{error}")),
    }
}

/// The bus error of a window that could not be restored.
pub fn restore_message(error: &RestoreError) -> gst::ErrorMessage {
    match error {
        RestoreError::OutOfMemory { .. } => gst::error_msg!(gst::ResourceError::NoSpaceLeft, ("{error}")),
        RestoreError::Interrupted | RestoreError::Output { .. } | RestoreError::Graph { .. } => {
            gst::error_msg!(gst::LibraryError::Failed, ("{error}"))
        }
    }
}
