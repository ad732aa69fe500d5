// SPDX-License-Identifier: MPL-2.0

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::GraphKind;

/// What is wrong with a bundle. The text of each says what, where, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// No folder of that name in any of the places.
    #[error(
        "no bundle \"{model}\" found (searched: {}). Give the path of a bundle's folder, or add the folder that holds it \
         to DVFACE_MODEL_PATH",
        list(searched)
    )]
    NotFound { model: String, searched: Vec<PathBuf> },

    /// The system does not give a file of the bundle.
    #[error("cannot read {}: {source}. Check that the bundle is complete and readable", file.display())]
    Read { file: PathBuf, source: io::Error },

    /// The manifest is not TOML, or a field of it is missing, wrong or unknown.
    #[error("{}: {field}: expected {expected}, found {found}. Correct the manifest", file.display())]
    Manifest {
        file: PathBuf,
        /// Dotted path of the field, or the line where the TOML is broken.
        field: String,
        expected: String,
        found: String,
    },

    /// A path in the manifest leads out of the bundle's folder, or to something that is not a file.
    #[error(
        "{}: {field}: expected {expected}, found {found}. A bundle's files must be in its own folder",
        file.display()
    )]
    Path {
        file: PathBuf,
        field: String,
        expected: String,
        found: String,
    },

    /// A file is not the one that the manifest was written for.
    #[error(
        "{}: expected sha256 {expected}, found {found}. The file is damaged or not the bundle's: get the bundle again",
        file.display()
    )]
    Checksum {
        file: PathBuf,
        expected: String,
        found: String,
    },

    /// A graph's file is not an ONNX model that can be used.
    #[error("{}: expected {expected}, found {found}. Export the graph again", file.display())]
    GraphFile {
        file: PathBuf,
        expected: String,
        found: String,
    },

    /// A graph reads a file that the manifest does not list for it.
    #[error(
        "{}: expected external data only in the files that the manifest lists as weights ({listed}), found \"{location}\". \
         List the file with its sha256, or export the graph again",
        file.display()
    )]
    ExternalData {
        file: PathBuf,
        location: String,
        listed: String,
    },

    /// A graph's inputs or outputs are not what the manifest says.
    #[error(
        "graph {graph}: {tensor}: expected {expected}, found {found}. Manifest and graphs do not belong together: export \
         the bundle again"
    )]
    Graph {
        graph: GraphKind,
        tensor: String,
        expected: String,
        found: String,
    },

    /// A setting of the user's that the bundle does not allow.
    #[error("{setting}: the bundle \"{bundle}\" allows {expected}, found {found}")]
    Setting {
        bundle: String,
        setting: &'static str,
        expected: String,
        found: String,
    },
}

fn list(places: &[PathBuf]) -> String {
    if places.is_empty() {
        return "no place, as the name is empty".into();
    }
    let places: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
    places.join(", ")
}

/// Longest piece of a stranger's text in an error, in characters.
const QUOTE_LIMIT: usize = 120;

/// A stranger's text for an error: short, and without control characters, which C strings and terminals do not take.
pub(super) fn quote(text: &str) -> String {
    format!("\"{}\"", plain(text))
}

/// As [`quote`], without the quotation marks.
pub(super) fn plain(text: &str) -> String {
    let mut characters = text.chars();
    let mut plain: String = characters
        .by_ref()
        .take(QUOTE_LIMIT)
        .map(|character| if character.is_control() { '\u{FFFD}' } else { character })
        .collect();
    if characters.next().is_some() {
        plain.push('…');
    }
    plain
}

/// `a, b or c`.
pub(super) fn alternatives<T: fmt::Display>(items: &[T]) -> String {
    let items: Vec<_> = items.iter().map(T::to_string).collect();
    match items.split_last() {
        None => "nothing".into(),
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
    }
}
