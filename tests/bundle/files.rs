// SPDX-License-Identifier: MPL-2.0

//! The files that a manifest lists.

use std::fs;

use gstdvface::bundle::{Bundle, BundleError};
use tempfile::TempDir;

use super::{MODEL, changed, folder, manifest, open, sha256};

/// An ONNX model whose graph has one initializer, with its data in the file `location`.
fn model_with_data(location: &str) -> Vec<u8> {
    let field = |number: u8, content: &[u8]| [&[number << 3 | 2, content.len() as u8], content].concat();
    let entry = [field(1, b"location"), field(2, location.as_bytes())].concat();
    [&[0x08, 10], &field(7, &field(5, &field(13, &entry)))[..]].concat()
}

#[test]
fn paths_must_stay_inside() {
    let outside = [
        "../dit.onnx",
        "/etc/passwd",
        "a/../../dit.onnx",
        "",
        ".",
        "a//b.onnx",
        "a\\\\b.onnx",
        "C:dit.onnx",
    ];
    for path in outside {
        let error = open(&changed("dit.onnx", path)).unwrap_err();
        assert!(
            matches!(&error, BundleError::Path { field, .. } if field == "graphs.dit.path"),
            "{path}: {error}"
        );
    }
    // What ONNX Runtime would take as an address.
    let weights = "path = \"dit.onnx\"\nweights = [{ path = \"*/_ORT_MEM_ADDR_/*\", sha256 = \"\" }]";
    let error = open(&changed("path = \"dit.onnx\"", weights)).unwrap_err();
    assert!(
        matches!(&error, BundleError::Path { field, .. } if field == "graphs.dit.weights[0].path"),
        "{error}"
    );
}

#[cfg(unix)]
#[test]
fn links_must_stay_inside() {
    use std::os::unix::fs::symlink;

    let other = folder(manifest());
    for name in ["dit.onnx", "bundle.toml"] {
        let dir = folder(manifest());
        fs::remove_file(dir.path().join(name)).unwrap();
        symlink(other.path().join(name), dir.path().join(name)).unwrap();
        let error = Bundle::open(dir.path()).unwrap_err();
        let BundleError::Path { field, found, .. } = &error else {
            panic!("{error}")
        };
        assert!(field == if name == "dit.onnx" { "graphs.dit.path" } else { name });
        assert!(found.starts_with("a link to"), "{found}");
    }
    // A folder that leads outside.
    let dir = folder(changed("dit.onnx", "away/dit.onnx"));
    symlink(other.path(), dir.path().join("away")).unwrap();
    assert!(matches!(Bundle::open(dir.path()), Err(BundleError::Path { .. })));
    // Links inside, and to the bundle, are fine.
    let dir = folder(changed("\"dit.onnx", "\"dit2.onnx"));
    symlink("dit.onnx", dir.path().join("dit2.onnx")).unwrap();
    let link = other.path().join("link");
    symlink(dir.path(), &link).unwrap();
    Bundle::open(&link).unwrap().verify().unwrap();
}

#[test]
fn missing_files_and_folders() {
    let dir = folder(manifest());
    fs::remove_file(dir.path().join("dit.onnx")).unwrap();
    let error = Bundle::open(dir.path()).unwrap_err();
    assert!(
        matches!(&error, BundleError::Read { file, .. } if file.ends_with("dit.onnx")),
        "{error}"
    );
    fs::create_dir(dir.path().join("dit.onnx")).unwrap();
    let error = Bundle::open(dir.path()).unwrap_err();
    assert!(
        matches!(&error, BundleError::Path { field, .. } if field == "graphs.dit.path"),
        "{error}"
    );
    fs::remove_file(dir.path().join("bundle.toml")).unwrap();
    let error = Bundle::open(dir.path()).unwrap_err();
    assert!(
        matches!(&error, BundleError::Read { file, .. } if file.ends_with("bundle.toml")),
        "{error}"
    );
    let error = Bundle::open(&dir.path().join("absent")).unwrap_err();
    assert!(
        matches!(&error, BundleError::Read { file, .. } if file.ends_with("absent")),
        "{error}"
    );
}

#[test]
fn changed_file_is_found() {
    let dir = folder(manifest());
    let bundle = Bundle::open(dir.path()).unwrap();
    let other = [MODEL, &[0x08, 10]].concat();
    fs::write(dir.path().join("decoder.onnx"), &other).unwrap();
    let error = bundle.verify().unwrap_err();
    let BundleError::Checksum { file, expected, found } = &error else {
        panic!("{error}")
    };
    assert!(file.ends_with("decoder.onnx"));
    assert_eq!((expected, found), (&sha256(MODEL), &sha256(&other)));
    fs::remove_file(dir.path().join("decoder.onnx")).unwrap();
    assert!(matches!(bundle.verify(), Err(BundleError::Read { .. })));
}

/// A bundle whose DiT is `model`, in the folder `sub`, with weights in the file `listed` of that folder.
fn bundle_with_dit(model: &[u8], listed: &str) -> (TempDir, Bundle) {
    let (weights, digest) = (b"weights", sha256(MODEL));
    let table = format!(
        "path = \"sub/dit.onnx\"\nsha256 = \"{}\"\nweights = [{{ path = \"sub/{listed}\", sha256 = \"{}\" }}]",
        sha256(model),
        sha256(weights)
    );
    let dir = folder(changed(&format!("path = \"dit.onnx\"\nsha256 = \"{digest}\""), &table));
    fs::create_dir(dir.path().join("sub")).unwrap();
    fs::write(dir.path().join("sub/dit.onnx"), model).unwrap();
    fs::write(dir.path().join("sub").join(listed), weights).unwrap();
    let bundle = Bundle::open(dir.path()).unwrap();
    (dir, bundle)
}

#[test]
fn external_data_must_be_listed() {
    for location in ["dit.data", "./dit.data"] {
        let (dir, bundle) = bundle_with_dit(&model_with_data(location), "dit.data");
        bundle.verify().unwrap();
        fs::write(dir.path().join("sub/dit.data"), b"other").unwrap();
        assert!(matches!(bundle.verify(), Err(BundleError::Checksum { .. })));
    }
    let foreign = [
        "other.data",
        "../dit.onnx",
        "/etc/passwd",
        "sub/dit.data",
        "",
        "a/../dit.data",
        "*/_ORT_MEM_ADDR_/*",
    ];
    for location in foreign {
        let (_dir, bundle) = bundle_with_dit(&model_with_data(location), "dit.data");
        let error = bundle.verify().unwrap_err();
        let BundleError::ExternalData {
            file,
            location: found,
            listed,
        } = &error
        else {
            panic!("{error}")
        };
        assert!(file.ends_with("sub/dit.onnx"));
        assert_eq!((found.as_str(), listed.as_str()), (location, "sub/dit.data"));
    }
}

#[test]
fn broken_model_is_found() {
    let model = model_with_data("dit.data");
    for broken in [&model[..model.len() - 1], &[], b"not a model"] {
        let (_dir, bundle) = bundle_with_dit(broken, "dit.data");
        let error = bundle.verify().unwrap_err();
        assert!(
            matches!(&error, BundleError::GraphFile { file, .. } if file.ends_with("dit.onnx")),
            "{error}"
        );
    }
}
