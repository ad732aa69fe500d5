//! TensorRT's engine cache: what is broken or of another version is removed, and built again.

use std::fs;
use std::io;
use std::path::Path;

/// Endings of the files that ONNX Runtime's TensorRT provider writes.
const ENDINGS: [&str; 3] = ["engine", "profile", "timing"];

/// Removes the cached engines in `dir`, and nothing else; returns how many files there were. A folder that is not there
/// holds none.
///
/// # Errors
/// Fails where a file cannot be removed.
pub(super) fn clear(dir: &Path) -> io::Result<usize> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut count = 0;
    for entry in entries {
        let path = entry?.path();
        let is_cached = path
            .extension()
            .is_some_and(|ending| ENDINGS.iter().any(|known| ending == *known));
        if is_cached && path.is_file() {
            fs::remove_file(&path)?;
            count += 1;
        }
    }
    Ok(count)
}

/// What `load` gives; where it fails and there were engines in the cache `dir`, what it gives without them, and a notice.
///
/// TensorRT does not say whether an engine or a graph is at fault, so a graph that is fails twice, at the price of a build.
///
/// # Errors
/// As `load`; the first error where the cache is empty or cannot be cleared.
pub(super) fn load_or_rebuild<T, E: std::fmt::Display>(
    dir: &Path,
    mut load: impl FnMut() -> Result<T, E>,
) -> Result<(T, Option<String>), E> {
    let error = match load() {
        Ok(value) => return Ok((value, None)),
        Err(error) => error,
    };
    match clear(dir) {
        Ok(count) if count > 0 => {
            let notice = format!(
                "engine-cache {}: {count} files are corrupt or of another TensorRT or GPU ({error}): removed, and the engines \
                 built again",
                dir.display()
            );
            load().map(|value| (value, Some(notice)))
        }
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_that_fails_is_removed_and_built_again_once() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.engine", "a.profile", "b.timing", "mine.txt"] {
            fs::write(dir.path().join(name), "noise").unwrap();
        }
        let mut calls = 0;
        let engine = dir.path().join("a.engine");
        let (value, notice) = load_or_rebuild(dir.path(), || {
            calls += 1;
            if engine.exists() {
                Err("cannot deserialize")
            } else {
                Ok(7)
            }
        })
        .unwrap();
        assert_eq!((value, calls), (7, 2));
        let notice = notice.unwrap();
        assert!(
            notice.contains("3 files") && notice.contains("cannot deserialize"),
            "{notice}"
        );
        assert!(dir.path().join("mine.txt").exists(), "only what TensorRT wrote goes");
    }

    #[test]
    fn without_a_cache_an_error_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        for folder in [dir.path().to_path_buf(), dir.path().join("absent")] {
            let mut calls = 0;
            let result: Result<((), _), _> = load_or_rebuild(&folder, || {
                calls += 1;
                Err("no such graph")
            });
            assert_eq!((result.unwrap_err(), calls), ("no such graph", 1));
        }
        fs::write(dir.path().join("a.engine"), "fine").unwrap();
        let (_, notice) = load_or_rebuild(dir.path(), || Ok::<_, &str>(())).unwrap();
        assert!(
            notice.is_none() && dir.path().join("a.engine").exists(),
            "what loads stays"
        );
    }
}
