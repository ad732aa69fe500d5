// SPDX-License-Identifier: MPL-2.0

//! Where a bundle is looked for.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::BundleError;
use super::error::plain;
use super::manifest::MANIFEST_NAME;

/// What of the environment says where bundles are. Tests make their own.
#[derive(Clone, Debug, Default)]
pub struct SearchEnvironment {
    /// `DVFACE_MODEL_PATH`: folders that hold bundles, in the system's notation for lists of paths.
    pub model_path: Option<OsString>,
    /// `XDG_DATA_HOME`.
    pub data_home: Option<OsString>,
    /// `HOME`.
    pub home: Option<OsString>,
    /// Installed folders that hold bundles.
    pub installed: Vec<PathBuf>,
}

impl SearchEnvironment {
    /// The environment of this process.
    pub fn of_process() -> Self {
        Self {
            model_path: env::var_os("DVFACE_MODEL_PATH"),
            data_home: env::var_os("XDG_DATA_HOME"),
            home: env::var_os("HOME"),
            installed: ["/usr/local/share/dvface/models", "/usr/share/dvface/models"]
                .map(PathBuf::from)
                .into(),
        }
    }

    /// The folder of the bundle `model`. A name with a path separator, `.` and `..` are that folder. A bare name is
    /// looked for in `DVFACE_MODEL_PATH`, `$XDG_DATA_HOME/dvface/models` (`~/.local/share/dvface/models`),
    /// `plugin_dir`, `plugin_dir/models` and the installed folders; the first that has a manifest wins.
    ///
    /// # Errors
    /// [`BundleError::NotFound`], with every place searched.
    pub fn find(&self, model: &str, plugin_dir: Option<&Path>) -> Result<PathBuf, BundleError> {
        let not_found = |searched| BundleError::NotFound {
            model: plain(model),
            searched,
        };
        if model.is_empty() {
            return Err(not_found(Vec::new()));
        }
        if model.contains(std::path::is_separator) || matches!(model, "." | "..") {
            let folder = PathBuf::from(model);
            return if folder.is_dir() {
                Ok(folder)
            } else {
                Err(not_found(vec![folder]))
            };
        }
        let searched: Vec<PathBuf> = self
            .folders(plugin_dir)
            .into_iter()
            .map(|folder| folder.join(model))
            .collect();
        match searched.iter().find(|folder| folder.join(MANIFEST_NAME).is_file()) {
            Some(folder) => Ok(folder.clone()),
            None => Err(not_found(searched)),
        }
    }

    fn folders(&self, plugin_dir: Option<&Path>) -> Vec<PathBuf> {
        let mut folders = Vec::new();
        if let Some(list) = &self.model_path {
            folders.extend(env::split_paths(list).filter(|folder| !folder.as_os_str().is_empty()));
        }
        // The XDG specification has relative paths ignored.
        let data_home = self
            .data_home
            .as_ref()
            .map(PathBuf::from)
            .filter(|folder| folder.is_absolute());
        let home = self
            .home
            .as_ref()
            .map(PathBuf::from)
            .filter(|folder| folder.is_absolute());
        if let Some(folder) = data_home.or_else(|| Some(home?.join(".local/share"))) {
            folders.push(folder.join("dvface/models"));
        }
        if let Some(folder) = plugin_dir {
            folders.extend([folder.to_path_buf(), folder.join("models")]);
        }
        folders.extend(self.installed.iter().cloned());
        folders
    }
}
