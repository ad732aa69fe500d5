// SPDX-License-Identifier: MPL-2.0

//! `bundle.toml`, format 1: what it may say. All bounds are here. Nothing here opens another file.

use std::collections::BTreeMap;
use std::path::Path;

use toml::{Table, Value};

use super::GraphKind;
use super::error::{BundleError, plain};
use super::fields::{Fields, describe};

/// Name of the manifest in a bundle's folder.
pub(super) const MANIFEST_NAME: &str = "bundle.toml";

/// Largest manifest, in bytes.
pub(super) const MANIFEST_LIMIT: u64 = 1 << 20;

/// Largest tensor that a bundle may ask for, in bytes: the frames of a window, the latent, a prior.
pub(super) const TENSOR_LIMIT: u64 = 1 << 30;

const FORMAT: i64 = 1;
/// Longest window, in frames.
const FRAMES_LIMIT: u32 = 257;
/// Most window lengths of one bundle.
const LENGTHS_LIMIT: usize = 64;
/// Smallest and largest side of a frame, in pixels.
const SIDE_LIMITS: (u32, u32) = (8, 8192);
const CHANNELS_LIMIT: u32 = 4096;
const STRIDE_LIMIT: u32 = 64;
/// Most weight files of one graph.
const WEIGHTS_LIMIT: usize = 64;
/// Longest path of a file, in bytes.
const PATH_LIMIT: usize = 255;
const NAME_LIMIT: usize = 64;
const TEXT_LIMIT: usize = 4096;

/// A file of the bundle, as the manifest lists it.
#[derive(Clone, Debug)]
pub(super) struct ListedFile {
    /// Dotted path of the field that has the path.
    pub field: String,
    /// Relative to the bundle's folder. It has none but plain components.
    pub path: String,
    pub sha256: [u8; 32],
}

/// The files of one graph.
#[derive(Clone, Debug)]
pub(super) struct ListedGraph {
    pub model: ListedFile,
    pub weights: Vec<ListedFile>,
}

/// A valid manifest.
#[derive(Clone, Debug)]
pub(super) struct Manifest {
    pub name: String,
    pub version: String,
    pub license: String,
    pub description: String,
    pub trained_on: String,
    /// T, smallest first. Never empty.
    pub frames: Vec<u32>,
    pub overlap: u32,
    pub width: u32,
    pub height: u32,
    pub channels: u32,
    pub spatial_stride: u32,
    pub temporal_stride: u32,
    pub timestep: f64,
    pub graphs: BTreeMap<GraphKind, ListedGraph>,
}

impl Manifest {
    /// Reads `bytes`, the content of `file`.
    pub fn parse(file: &Path, bytes: &[u8]) -> Result<Self, BundleError> {
        let broken = |field: String, expected: &str, found: &str| BundleError::Manifest {
            file: file.into(),
            field,
            expected: expected.into(),
            found: found.into(),
        };
        if bytes.len() as u64 > MANIFEST_LIMIT {
            let expected = format!("at most {MANIFEST_LIMIT} bytes");
            return Err(broken("size".into(), &expected, "more"));
        }
        let text = std::str::from_utf8(bytes)
            .map_err(|error| broken(format!("byte {}", error.valid_up_to()), "UTF-8 text", "other bytes"))?;
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            let at = error.span().map_or(0, |span| span.start.min(bytes.len()));
            let line = 1 + bytes[..at].iter().filter(|byte| **byte == b'\n').count();
            broken(format!("line {line}"), "TOML", &plain(error.message()))
        })?;
        Self::from_table(file, &table)
    }

    fn from_table(file: &Path, table: &Table) -> Result<Self, BundleError> {
        // The format comes first: a manifest of another format may well have other fields.
        if table.get("format").and_then(Value::as_integer) != Some(FORMAT) {
            return Err(BundleError::Manifest {
                file: file.into(),
                field: "format".into(),
                expected: format!("{FORMAT}, the format that this version reads"),
                found: table.get("format").map_or("nothing".into(), describe),
            });
        }
        let known = [
            "format",
            "name",
            "version",
            "license",
            "description",
            "trained_on",
            "window",
            "frame",
            "latent",
            "diffusion",
            "graphs",
        ];
        let root = Fields::new(file, String::new(), table, &known)?;
        let window = root.table("window", &["frames", "overlap"])?;
        let frame = root.table("frame", &["width", "height"])?;
        let latent = root.table("latent", &["channels", "spatial_stride", "temporal_stride"])?;
        let diffusion = root.table("diffusion", &["timestep"])?;
        let manifest = Self {
            name: root.word(
                "name",
                "1 to 64 letters, digits, '.', '_' or '-', not beginning with '.'",
                accept_name,
            )?,
            version: root.text("version", NAME_LIMIT)?,
            license: root.text("license", TEXT_LIMIT)?,
            description: root.optional_text("description", TEXT_LIMIT)?,
            trained_on: root.optional_text("trained_on", TEXT_LIMIT)?,
            frames: window.integers("frames", 1..=FRAMES_LIMIT, LENGTHS_LIMIT)?,
            overlap: window.integer("overlap", 0..=FRAMES_LIMIT)?,
            width: frame.integer("width", SIDE_LIMITS.0..=SIDE_LIMITS.1)?,
            height: frame.integer("height", SIDE_LIMITS.0..=SIDE_LIMITS.1)?,
            channels: latent.integer("channels", 1..=CHANNELS_LIMIT)?,
            spatial_stride: latent.integer("spatial_stride", 1..=STRIDE_LIMIT)?,
            temporal_stride: latent.integer("temporal_stride", 1..=STRIDE_LIMIT)?,
            timestep: diffusion.number("timestep", 0.0..=1.0)?,
            graphs: read_graphs(&root)?,
        };
        manifest.check_window(&window)?;
        manifest.check_sizes(&frame, &latent)?;
        Ok(manifest)
    }

    fn check_window(&self, window: &Fields) -> Result<(), BundleError> {
        let stride = self.temporal_stride;
        if let Some(frames) = self.frames.iter().find(|frames| (*frames - 1) % stride != 0) {
            let expected = format!("temporal_stride * n + 1 = {stride} * n + 1 frames");
            return Err(window.error("frames", expected, frames));
        }
        let smallest = self.frames[0];
        if self.overlap > smallest / 2 {
            let expected = format!(
                "at most half of the smallest window of {smallest} frames, {}",
                smallest / 2
            );
            return Err(window.error("overlap", expected, self.overlap));
        }
        Ok(())
    }

    fn check_sizes(&self, frame: &Fields, latent: &Fields) -> Result<(), BundleError> {
        let stride = self.spatial_stride;
        for (key, side) in [("width", self.width), ("height", self.height)] {
            if side % stride != 0 {
                return Err(frame.error(key, format!("a multiple of spatial_stride = {stride}"), side));
            }
        }
        // No overflow: the factors are at most 257, 8192, 8192, 4096 and 4.
        let longest = self.longest();
        let bytes = [longest, self.width, self.height, 3]
            .map(u64::from)
            .iter()
            .product::<u64>();
        if bytes > TENSOR_LIMIT {
            let expected = format!("at most {TENSOR_LIMIT} bytes for a window's frames, frames * width * height * 3");
            return Err(frame.error("width", expected, format!("{bytes} bytes")));
        }
        let [channels, frames, height, width] = self.latent_dims(longest).map(u64::from);
        let bytes = channels * frames * height * width * 4;
        if bytes > TENSOR_LIMIT {
            let expected = format!("at most {TENSOR_LIMIT} bytes for a window's latent");
            return Err(latent.error("channels", expected, format!("{bytes} bytes")));
        }
        Ok(())
    }

    /// The largest T.
    pub fn longest(&self) -> u32 {
        self.frames[self.frames.len() - 1]
    }

    /// C, t, h and w of the latent of `frames` frames.
    pub fn latent_dims(&self, frames: u32) -> [u32; 4] {
        [
            self.channels,
            (frames - 1) / self.temporal_stride + 1,
            self.height / self.spatial_stride,
            self.width / self.spatial_stride,
        ]
    }
}

fn read_graphs(root: &Fields) -> Result<BTreeMap<GraphKind, ListedGraph>, BundleError> {
    let table = root.table("graphs", &GraphKind::ALL.map(GraphKind::name))?;
    let mut graphs = BTreeMap::new();
    for kind in GraphKind::ALL {
        let Some(graph) = table.optional_table(kind.name(), &["path", "sha256", "weights"])? else {
            if kind == GraphKind::Prior {
                continue;
            }
            return Err(table.error(kind.name(), "a table with path and sha256", "nothing"));
        };
        let model = read_file(&graph)?;
        // ONNX Runtime tells its own format, whose files are not checked here, by the ending of the name.
        if !model.path.ends_with(".onnx") {
            return Err(graph.error("path", "a name that ends in .onnx", format!("\"{}\"", model.path)));
        }
        let weights = graph.tables("weights", WEIGHTS_LIMIT, &["path", "sha256"])?;
        let weights = weights.iter().map(read_file).collect::<Result<_, _>>()?;
        graphs.insert(kind, ListedGraph { model, weights });
    }
    Ok(graphs)
}

fn read_file(fields: &Fields) -> Result<ListedFile, BundleError> {
    let expected = "a path in the bundle's folder: 1 to 255 letters, digits, '.', '_', '-', '+' and '/' between names, \
                    not absolute and without '..'";
    Ok(ListedFile {
        field: fields.path("path"),
        path: fields
            .word("path", expected, accept_path)
            .map_err(|error| match error {
                BundleError::Manifest {
                    file,
                    field,
                    expected,
                    found,
                } if fields.value("path").is_some_and(Value::is_str) => BundleError::Path {
                    file,
                    field,
                    expected,
                    found,
                },
                other => other,
            })?,
        sha256: fields.word("sha256", "64 hexadecimal digits", accept_sha256)?,
    })
}

fn accept_name(text: &str) -> Option<String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let accepted = (1..=NAME_LIMIT).contains(&text.len()) && !text.starts_with('.') && text.bytes().all(allowed);
    accepted.then(|| text.into())
}

/// Takes relative paths of plain names only. The small alphabet leaves out what other systems take as a separator or a
/// drive, and the `*/_ORT_MEM_ADDR_/*` that ONNX Runtime takes as an address in memory.
fn accept_path(text: &str) -> Option<String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'+' | b'/');
    let names = |name: &str| !matches!(name, "" | "." | "..");
    let accepted = text.len() <= PATH_LIMIT && text.bytes().all(allowed) && text.split('/').all(names);
    accepted.then(|| text.into())
}

fn accept_sha256(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text
        .chars()
        .map(|digit| Some(digit.to_digit(16)? as u8))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits
        .chunks(2)
        .map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit))
        .collect();
    if digits.len() == 64 {
        bytes.try_into().ok()
    } else {
        None
    }
}
