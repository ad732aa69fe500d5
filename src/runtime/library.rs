// SPDX-License-Identifier: MPL-2.0

//! Where libonnxruntime is looked for.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::RuntimeError;

const FILE_NAME: &str = "libonnxruntime.so";

/// The places, in order: the property, `ORT_DYLIB_PATH`, the plugin's folder, the folders of `LD_LIBRARY_PATH`, the system's.
#[derive(Clone, Debug, Default)]
pub struct LibrarySearch {
    /// Property `runtime-library`.
    pub property: Option<PathBuf>,
    /// Environment variable `ORT_DYLIB_PATH`.
    pub variable: Option<OsString>,
    /// Folder of the plugin.
    pub plugin_dir: Option<PathBuf>,
    /// Folders of `LD_LIBRARY_PATH`, and library folders of the system.
    pub system: Vec<PathBuf>,
}

impl LibrarySearch {
    /// The search of this process.
    pub fn of_process(property: Option<PathBuf>, plugin_dir: Option<PathBuf>) -> Self {
        let triplet = format!("{}-linux-gnu", env::consts::ARCH);
        let of_system = ["/usr/local/lib", "/usr/lib", "/lib"]
            .iter()
            .flat_map(|dir| [Path::new(dir).join(&triplet), dir.into()])
            .chain(["/usr/local/lib64".into(), "/usr/lib64".into()]);
        let of_loader = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
        // An empty entry is the working directory to the loader, which is no place to take code from.
        let of_loader = env::split_paths(&of_loader).filter(|dir| dir.is_absolute());
        let system = of_loader.chain(of_system).collect();
        Self {
            property,
            variable: env::var_os("ORT_DYLIB_PATH").filter(|value| !value.is_empty()),
            plugin_dir,
            system,
        }
    }

    /// Absolute path of the library to load.
    ///
    /// A path that the user gave is used or refused, never passed over.
    ///
    /// # Errors
    /// [`RuntimeError::LibraryPath`] or [`RuntimeError::LibraryNotFound`], with the places searched.
    pub fn find(&self) -> Result<PathBuf, RuntimeError> {
        let given = [
            ("runtime-library", self.property.clone()),
            ("ORT_DYLIB_PATH", self.variable.clone().map(PathBuf::from)),
        ];
        for (origin, path) in given {
            if let Some(path) = path {
                return check_given(origin, path);
            }
        }
        let mut searched = vec![
            "property runtime-library: not set".to_owned(),
            "ORT_DYLIB_PATH: not set".to_owned(),
        ];
        for dir in self.plugin_dir.iter().chain(&self.system) {
            if let Some(path) = library_in(dir) {
                return Ok(path);
            }
            searched.push(dir.join(FILE_NAME).display().to_string());
        }
        Err(RuntimeError::LibraryNotFound { searched })
    }
}

fn check_given(origin: &'static str, path: PathBuf) -> Result<PathBuf, RuntimeError> {
    let reason = if !path.is_absolute() {
        "expected an absolute path of libonnxruntime.so"
    } else if !path.is_file() {
        "no such file. Give the path of libonnxruntime.so itself"
    } else {
        return Ok(path);
    };
    Err(RuntimeError::LibraryPath {
        origin,
        path,
        reason: reason.into(),
    })
}

/// The library in a folder: without a version, or the one with the greatest version (`libonnxruntime.so.1.17.3`).
fn library_in(dir: &Path) -> Option<PathBuf> {
    let plain = dir.join(FILE_NAME);
    if plain.is_file() {
        return Some(plain);
    }
    let version = |path: &PathBuf| -> Option<Vec<u32>> {
        let name = path.file_name()?.to_str()?;
        let version = name.strip_prefix(FILE_NAME)?.strip_prefix('.')?;
        version.split('.').map(|part| part.parse().ok()).collect()
    };
    std::fs::read_dir(dir)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_file())
        .filter_map(|path| Some((version(&path)?, path)))
        .max()
        .map(|(_, path)| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_places() {
        let dir = tempfile::tempdir().unwrap();
        let in_plugin_dir = dir.path().join("libonnxruntime.so.1.9.0");
        let newer = dir.path().join("libonnxruntime.so.1.17.3");
        std::fs::write(&in_plugin_dir, "").unwrap();
        std::fs::write(&newer, "").unwrap();
        let mut search = LibrarySearch {
            plugin_dir: Some(dir.path().into()),
            ..Default::default()
        };
        assert_eq!(search.find().unwrap(), newer);

        let plain = dir.path().join(FILE_NAME);
        std::fs::write(&plain, "").unwrap();
        assert_eq!(search.find().unwrap(), plain);

        search.variable = Some(in_plugin_dir.clone().into());
        assert_eq!(search.find().unwrap(), in_plugin_dir);

        search.property = Some(newer.clone());
        assert_eq!(search.find().unwrap(), newer);
    }

    #[test]
    fn a_wrong_path_is_an_error_and_not_passed_over() {
        let search = LibrarySearch {
            variable: Some("/nonexistent/libonnxruntime.so".into()),
            system: vec!["/usr/lib".into()],
            ..Default::default()
        };
        let text = search.find().unwrap_err().to_string();
        assert!(text.contains("ORT_DYLIB_PATH: /nonexistent"), "{text}");

        let search = LibrarySearch {
            property: Some("lib/libonnxruntime.so".into()),
            ..Default::default()
        };
        let text = search.find().unwrap_err().to_string();
        assert!(text.contains("runtime-library") && text.contains("absolute"), "{text}");
    }

    #[test]
    fn an_error_lists_the_places() {
        let search = LibrarySearch {
            plugin_dir: Some("/plugins".into()),
            system: vec!["/nowhere/lib".into()],
            ..Default::default()
        };
        let text = search.find().unwrap_err().to_string();
        for place in [
            "ORT_DYLIB_PATH",
            "/plugins/libonnxruntime.so",
            "/nowhere/lib",
            "pip install onnxruntime",
        ] {
            assert!(text.contains(place), "{place} is not in: {text}");
        }
    }
}
