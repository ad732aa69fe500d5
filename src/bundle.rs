// SPDX-License-Identifier: MPL-2.0

//! Bundles: a folder with `bundle.toml` and the graphs that it lists.
//!
//! A bundle is data from strangers. No field of it makes this code read outside the folder, allocate without bound or
//! panic. The bounds: manifest 1 MiB; windows of at most 257 frames, at most 64 lengths; sides of 8 to 8192 pixels; 4096
//! latent channels; strides of at most 64; 1 GiB for the frames, the latent and each prior of a window; ONNX models of
//! 2 GiB; 64 weight files per graph.

mod error;
mod fields;
mod graph;
mod manifest;
mod onnx;
mod search;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::window::WindowShape;
use error::alternatives;
use manifest::{ListedFile, MANIFEST_LIMIT, MANIFEST_NAME, Manifest};
use onnx::ModelError;

pub use error::BundleError;
pub use graph::{Contract, ElementType, GraphInfo, GraphKind, TensorInfo};
pub use search::SearchEnvironment;

/// A bundle whose manifest is valid and whose files are there.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// The folder, canonical.
    dir: PathBuf,
    /// Of the manifest's text.
    digest: [u8; 32],
    manifest: Manifest,
    graph_paths: BTreeMap<GraphKind, PathBuf>,
}

impl Bundle {
    /// The folder of the bundle `model` in this process's environment. See [`SearchEnvironment::find`].
    ///
    /// # Errors
    /// [`BundleError::NotFound`], with every place searched.
    pub fn find(model: &str, plugin_dir: Option<&Path>) -> Result<PathBuf, BundleError> {
        SearchEnvironment::of_process().find(model, plugin_dir)
    }

    /// Opens the bundle in the folder `dir`: reads and checks its manifest, and that every file it lists is in the folder.
    /// What is in the files is for [`verify`](Self::verify).
    ///
    /// # Errors
    /// [`BundleError::Read`], [`BundleError::Manifest`] or [`BundleError::Path`].
    pub fn open(dir: &Path) -> Result<Self, BundleError> {
        let folder = fs::canonicalize(dir).map_err(|source| BundleError::Read {
            file: dir.into(),
            source,
        })?;
        let manifest_path = folder.join(MANIFEST_NAME);
        check_place(&folder, &manifest_path, &manifest_path, MANIFEST_NAME)?;
        let text = read_manifest(&manifest_path)?;
        let manifest = Manifest::parse(&manifest_path, &text)?;
        let mut graph_paths = BTreeMap::new();
        for (kind, graph) in &manifest.graphs {
            for file in std::iter::once(&graph.model).chain(&graph.weights) {
                check_place(&folder, &manifest_path, &folder.join(&file.path), &file.field)?;
            }
            graph_paths.insert(*kind, folder.join(&graph.model.path));
        }
        Ok(Self {
            dir: folder,
            digest: Sha256::digest(text).into(),
            manifest,
            graph_paths,
        })
    }

    /// [`verify_graph`](Self::verify_graph) for each graph, in their order.
    ///
    /// # Errors
    /// As [`verify_graph`](Self::verify_graph).
    pub fn verify(&self) -> Result<(), BundleError> {
        self.manifest
            .graphs
            .keys()
            .try_for_each(|kind| self.verify_graph(*kind))
    }

    /// Reads every file of a graph: its sha256 is the manifest's, and the graph reads no file that the manifest does not list
    /// for it. Takes as long as reading the files does. To be called before the graph is loaded.
    ///
    /// # Errors
    /// [`BundleError::Read`], [`BundleError::Checksum`], [`BundleError::GraphFile`] or [`BundleError::ExternalData`].
    pub fn verify_graph(&self, kind: GraphKind) -> Result<(), BundleError> {
        let Some(graph) = self.manifest.graphs.get(&kind) else {
            return Ok(());
        };
        for file in std::iter::once(&graph.model).chain(&graph.weights) {
            self.verify_digest(file)?;
        }
        self.verify_model(&graph.model, &graph.weights)
    }

    /// Checks the graphs' real inputs and outputs, as the runtime reports them, against the manifest.
    ///
    /// # Errors
    /// [`BundleError::Graph`].
    pub fn check_graphs(&self, graphs: &BTreeMap<GraphKind, GraphInfo>) -> Result<Contract, BundleError> {
        graph::check(&self.manifest, graphs)
    }

    /// The windows for the user's settings, in frames. 0 is the bundle's default: its smallest window, its overlap.
    ///
    /// # Errors
    /// [`BundleError::Setting`] if the bundle does not allow them, with what it allows.
    pub fn shape(&self, window_frames: u32, overlap_frames: u32) -> Result<WindowShape, BundleError> {
        let error = |setting, expected, found: u32| BundleError::Setting {
            bundle: self.manifest.name.clone(),
            setting,
            expected,
            found: found.to_string(),
        };
        let lengths = &self.manifest.frames;
        let frames = if window_frames == 0 { lengths[0] } else { window_frames };
        if !lengths.contains(&frames) {
            return Err(error(
                "window-frames",
                format!("{} (0 for its default)", alternatives(lengths)),
                frames,
            ));
        }
        let overlap = if overlap_frames == 0 {
            self.manifest.overlap
        } else {
            overlap_frames
        };
        WindowShape::new(frames as usize, overlap as usize).map_err(|_| {
            let expected = format!("1 to {} for windows of {frames} frames (0 for its default)", frames / 2);
            error("overlap-frames", expected, overlap)
        })
    }

    /// The bundle's folder, canonical.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Tells this bundle from any other, and from itself with another manifest.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// Tells this bundle from any other content under the same name: 16 hexadecimal digits of the digest of its files'
    /// digests.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for (kind, graph) in &self.manifest.graphs {
            hash.update(kind.name());
            for file in std::iter::once(&graph.model).chain(&graph.weights) {
                hash.update(file.sha256);
            }
        }
        let digest: [u8; 32] = hash.finalize().into();
        hex(&digest)[..16].to_owned()
    }

    pub fn name(&self) -> &str {
        &self.manifest.name
    }

    pub fn version(&self) -> &str {
        &self.manifest.version
    }

    /// Licence of the weights.
    pub fn license(&self) -> &str {
        &self.manifest.license
    }

    /// Empty if the manifest has none.
    pub fn description(&self) -> &str {
        &self.manifest.description
    }

    /// What the weights saw in training. Empty if the manifest does not say.
    pub fn trained_on(&self) -> &str {
        &self.manifest.trained_on
    }

    /// The window lengths that the graphs take, in frames, smallest first. There is at least one.
    pub fn window_frames(&self) -> &[u32] {
        &self.manifest.frames
    }

    /// Default overlap, in frames.
    pub fn overlap_frames(&self) -> u32 {
        self.manifest.overlap
    }

    /// Width of the frames that the graphs take and give, in pixels.
    pub fn width(&self) -> u32 {
        self.manifest.width
    }

    /// Height of the frames that the graphs take and give, in pixels.
    pub fn height(&self) -> u32 {
        self.manifest.height
    }

    /// Dimensions [1, C, t, h, w] of the latent of a window of `frames` frames, one of [`window_frames`](Self::window_frames).
    pub fn latent_dims(&self, frames: u32) -> [i64; 5] {
        let [channels, frames, height, width] = self.manifest.latent_dims(frames.max(1)).map(i64::from);
        [1, channels, frames, height, width]
    }

    /// t*, the time of the one step, in 0..=1.
    pub fn timestep(&self) -> f64 {
        self.manifest.timestep
    }

    /// The graph's ONNX file. `None` only for the prior graph, which a bundle may do without.
    pub fn graph_path(&self, graph: GraphKind) -> Option<&Path> {
        self.graph_paths.get(&graph).map(PathBuf::as_path)
    }

    /// Bytes of all files, models and weights; those that cannot be asked count as nothing.
    pub fn file_bytes(&self) -> u64 {
        let size = |file: &ListedFile| fs::metadata(self.dir.join(&file.path)).map_or(0, |metadata| metadata.len());
        let graphs = self.manifest.graphs.values();
        graphs
            .flat_map(|graph| std::iter::once(&graph.model).chain(&graph.weights))
            .map(size)
            .sum()
    }

    fn verify_digest(&self, file: &ListedFile) -> Result<(), BundleError> {
        let path = self.dir.join(&file.path);
        let digest = digest_of(&path).map_err(|source| BundleError::Read {
            file: path.clone(),
            source,
        })?;
        if digest != file.sha256 {
            return Err(BundleError::Checksum {
                file: path,
                expected: hex(&file.sha256),
                found: hex(&digest),
            });
        }
        Ok(())
    }

    fn verify_model(&self, model: &ListedFile, weights: &[ListedFile]) -> Result<(), BundleError> {
        let path = self.dir.join(&model.path);
        let read_error = |source| BundleError::Read {
            file: path.clone(),
            source,
        };
        let file = File::open(&path).map_err(read_error)?;
        let length = file.metadata().map_err(read_error)?.len();
        // ONNX takes locations as relative to the folder of the model.
        let folder = Path::new(&model.path).parent().unwrap_or(Path::new(""));
        let check = |location: &str| {
            let place = folder.join(location.strip_prefix("./").unwrap_or(location));
            if weights.iter().any(|file| place.as_os_str() == file.path.as_str()) {
                return Ok(());
            }
            let listed: Vec<&str> = weights.iter().map(|file| file.path.as_str()).collect();
            Err(BundleError::ExternalData {
                file: path.clone(),
                location: error::plain(location),
                listed: if listed.is_empty() {
                    "none".into()
                } else {
                    listed.join(", ")
                },
            })
        };
        onnx::for_each_location(file, length, check).map_err(|error| match error {
            ModelError::Read(source) => read_error(source),
            ModelError::Refused(error) => error,
            ModelError::Invalid { expected, found } => BundleError::GraphFile {
                file: path.clone(),
                expected: expected.into(),
                found,
            },
        })
    }
}

/// Checks that `path` is a file in the folder `dir`, wherever its links lead. `field` is where `manifest` says so.
fn check_place(dir: &Path, manifest: &Path, path: &Path, field: &str) -> Result<(), BundleError> {
    let read_error = |source| BundleError::Read {
        file: path.into(),
        source,
    };
    let place = fs::canonicalize(path).map_err(read_error)?;
    let found = if !place.starts_with(dir) {
        format!("a link to {}", place.display())
    } else if !fs::metadata(&place).map_err(read_error)?.is_file() {
        "something else".to_owned()
    } else {
        return Ok(());
    };
    Err(BundleError::Path {
        file: manifest.into(),
        field: field.into(),
        expected: format!("a file in {}", dir.display()),
        found,
    })
}

fn read_manifest(path: &Path) -> Result<Vec<u8>, BundleError> {
    let read = || {
        let mut bytes = Vec::new();
        // One byte more than the limit, so that a longer file is seen.
        File::open(path)?.take(MANIFEST_LIMIT + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|source: io::Error| BundleError::Read {
        file: path.into(),
        source,
    })
}

fn digest_of(path: &Path) -> io::Result<[u8; 32]> {
    let mut file = File::open(path)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(digest.finalize().into()),
            Ok(count) => digest.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
