// SPDX-License-Identifier: MPL-2.0

//! TensorRT's engine cache: what it cannot read is removed, and built again.

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

/// The engine that TensorRT cannot read, of an error's text: one that is corrupt, or of another TensorRT or GPU.
fn unreadable(text: &str) -> Option<&Path> {
    let (_, rest) = text.split_once("could not deserialize engine from cache: ")?;
    let end = rest.find(".engine")? + ".engine".len();
    Some(Path::new(&rest[..end]))
}

/// What `load` gives; where it fails on an engine in the cache `dir`, what it gives without that one, and a notice.
///
/// # Errors
/// As `load`; the first error where it is about something else, or the cache cannot be cleared.
pub(super) fn load_or_rebuild<T, E: std::fmt::Display>(
    dir: &Path,
    mut load: impl FnMut() -> Result<T, E>,
) -> Result<(T, Option<String>), E> {
    let mut notice = None;
    loop {
        let error = match load() {
            Ok(value) => return Ok((value, notice)),
            Err(error) => error,
        };
        let text = error.to_string();
        let Some(engine) = unreadable(&text) else {
            return Err(error);
        };
        let removed = if engine.starts_with(dir) && engine.is_file() {
            remove(engine)
        } else {
            clear(dir)
        };
        // A graph may have several engines; each turn removes one at least.
        if !removed.is_ok_and(|count| count > 0) {
            return Err(error);
        }
        notice = Some(format!(
            "engine-cache {}: corrupt, or of another TensorRT or GPU ({text}): removed, and built again",
            dir.display()
        ));
    }
}

/// Removes an engine and its profile; returns how many files there were.
fn remove(engine: &Path) -> io::Result<usize> {
    fs::remove_file(engine)?;
    match fs::remove_file(engine.with_extension("profile")) {
        Ok(()) => Ok(2),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(1),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As ONNX Runtime's TensorRT provider says it.
    fn told(engine: &Path) -> String {
        format!(
            "TensorRT EP could not deserialize engine from cache: {}",
            engine.display()
        )
    }

    #[test]
    fn an_engine_that_cannot_be_read_is_removed_and_built_again_once() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.engine", "a.profile", "b.engine", "b.timing", "mine.txt"] {
            fs::write(dir.path().join(name), "noise").unwrap();
        }
        let mut calls = 0;
        let engine = dir.path().join("a.engine");
        let (value, notice) = load_or_rebuild(dir.path(), || {
            calls += 1;
            if engine.exists() { Err(told(&engine)) } else { Ok(7) }
        })
        .unwrap();
        assert_eq!((value, calls), (7, 2));
        let notice = notice.unwrap();
        assert!(
            notice.contains("a.engine") && notice.contains("built again"),
            "{notice}"
        );
        let left = |name| dir.path().join(name).exists();
        assert!(!left("a.profile"), "its profile goes with it");
        assert!(
            left("b.engine") && left("b.timing") && left("mine.txt"),
            "what can be read took minutes to build"
        );
    }

    #[test]
    fn all_engines_of_a_graph_that_cannot_be_read_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let engines = ["a.engine", "b.engine"].map(|name| dir.path().join(name));
        for engine in &engines {
            fs::write(engine, "noise").unwrap();
        }
        let result = load_or_rebuild(dir.path(), || match engines.iter().find(|engine| engine.exists()) {
            Some(engine) => Err(told(engine)),
            None => Ok(()),
        });
        assert!(result.unwrap().1.unwrap().contains("b.engine"));
    }

    /// Where its place is told in another way, all that TensorRT wrote goes, and nothing else.
    #[test]
    fn an_engine_without_a_place_empties_the_cache() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.engine", "a.profile", "b.timing", "mine.txt"] {
            fs::write(dir.path().join(name), "noise").unwrap();
        }
        let engine = dir.path().join("a.engine");
        let result = load_or_rebuild(dir.path(), || {
            if engine.exists() {
                Err(told(Path::new("a.engine")))
            } else {
                Ok(())
            }
        });
        assert!(result.unwrap().1.is_some());
        let left: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["mine.txt"]);
    }

    #[test]
    fn other_errors_leave_the_cache_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.engine"), "fine").unwrap();
        for folder in [dir.path().to_path_buf(), dir.path().join("absent")] {
            for text in ["no such graph".to_owned(), "out of memory".to_owned()] {
                let mut calls = 0;
                let result: Result<((), _), _> = load_or_rebuild(&folder, || {
                    calls += 1;
                    Err(text.clone())
                });
                assert_eq!((result.unwrap_err(), calls), (text, 1));
            }
        }
        let absent = dir.path().join("absent");
        let result: Result<((), _), _> = load_or_rebuild(&absent, || Err(told(&absent.join("a.engine"))));
        assert!(result.is_err(), "there is nothing to remove");
        let (_, notice) = load_or_rebuild(dir.path(), || Ok::<_, &str>(())).unwrap();
        assert!(
            notice.is_none() && dir.path().join("a.engine").exists(),
            "what loads stays"
        );
    }
}
