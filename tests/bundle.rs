//! Bundles in temporary folders: what is accepted, and that everything else is refused with a clear error.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use gstdvface::bundle::{
    Bundle, BundleError, Contract, ElementType, GraphInfo, GraphKind, SearchEnvironment, TensorInfo,
};
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// An ONNX model with an empty graph.
const MODEL: &[u8] = &[0x08, 10, 0x3A, 0x00];

/// An ONNX model whose graph has one initializer, with its data in the file `location`.
fn model_with_data(location: &str) -> Vec<u8> {
    let field =
        |number: u8, content: &[u8]| [&[number << 3 | 2, content.len() as u8], content].concat();
    let entry = [field(1, b"location"), field(2, location.as_bytes())].concat();
    [&[0x08, 10], &field(7, &field(5, &field(13, &entry)))[..]].concat()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn manifest() -> String {
    let digest = sha256(MODEL);
    let graphs: String = GraphKind::ALL
        .iter()
        .map(|kind| format!("[graphs.{kind}]\npath = \"{kind}.onnx\"\nsha256 = \"{digest}\"\n"))
        .collect();
    format!(
        r#"format = 1
name = "test-bundle"
version = "1.0.0"
license = "MIT"
description = "A bundle for tests"
trained_on = "nothing"

[window]
frames = 17
overlap = 4

[frame]
width = 64
height = 48

[latent]
channels = 16
spatial_stride = 8
temporal_stride = 4

[diffusion]
timestep = 0.4

{graphs}"#
    )
}

/// A folder with `manifest` and the four graphs.
fn folder(manifest: impl AsRef<[u8]>) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("bundle.toml"), manifest).unwrap();
    for kind in GraphKind::ALL {
        fs::write(dir.path().join(format!("{kind}.onnx")), MODEL).unwrap();
    }
    dir
}

fn open(manifest: &str) -> Result<Bundle, BundleError> {
    Bundle::open(folder(manifest).path())
}

/// The manifest with one piece replaced, which must be in it.
fn changed(from: &str, to: &str) -> String {
    let manifest = manifest();
    assert!(manifest.contains(from), "{from}");
    manifest.replacen(from, to, 1)
}

/// Opens a manifest with one piece replaced. It must fail at `field`; gives (expected, found).
fn refused(from: &str, to: &str, field: &str) -> (String, String) {
    match open(&changed(from, to)) {
        Err(BundleError::Manifest {
            file,
            field: at,
            expected,
            found,
        }) => {
            assert_eq!(at, field, "{to}");
            assert!(file.ends_with("bundle.toml"));
            (expected, found)
        }
        other => panic!("{to}: {other:?}"),
    }
}

#[test]
fn valid_bundle() {
    let dir = folder(manifest());
    let bundle = Bundle::open(dir.path()).unwrap();
    bundle.verify().unwrap();
    assert_eq!(
        (bundle.name(), bundle.version(), bundle.license()),
        ("test-bundle", "1.0.0", "MIT")
    );
    assert_eq!(
        (bundle.description(), bundle.trained_on()),
        ("A bundle for tests", "nothing")
    );
    assert_eq!(
        (bundle.window_frames(), bundle.overlap_frames()),
        (&[17][..], 4)
    );
    assert_eq!(
        (bundle.width(), bundle.height(), bundle.timestep()),
        (64, 48, 0.4)
    );
    assert_eq!(bundle.latent_dims(17), [1, 16, 5, 6, 8]);
    for kind in GraphKind::ALL {
        let path = bundle.graph_path(kind).unwrap();
        assert_eq!(path, bundle.dir().join(format!("{kind}.onnx")));
        assert!(path.is_absolute());
    }
}

#[test]
fn optional_parts() {
    let text = manifest();
    let (before, after) = text.split_once("[graphs.prior]").unwrap();
    let without_prior = format!("{before}{}", &after[after.find("[graphs.dit]").unwrap()..]);
    assert_eq!(
        open(&without_prior).unwrap().graph_path(GraphKind::Prior),
        None
    );
    assert_eq!(
        open(&changed("description = \"A bundle for tests\"\n", ""))
            .unwrap()
            .description(),
        ""
    );
    assert_eq!(
        open(&changed("timestep = 0.4", "timestep = 1"))
            .unwrap()
            .timestep(),
        1.0
    );
    let several = open(&changed("frames = 17", "frames = [9, 17, 33]")).unwrap();
    assert_eq!(several.window_frames(), [9, 17, 33]);
    assert!(open(&changed(&sha256(MODEL), &sha256(MODEL).to_uppercase())).is_ok());
}

#[test]
fn wrong_fields_name_field_expected_and_found() {
    let cases = [
        (
            "format = 1",
            "format = 2\nnew = 3",
            "format",
            "1, the format",
            "2",
        ),
        ("format = 1", "", "format", "1, the format", "nothing"),
        (
            "format = 1",
            "format = 1.0",
            "format",
            "1, the format",
            "1.0",
        ),
        ("name = \"test-bundle\"", "name = 7", "name", "letters", "7"),
        ("test-bundle", "../test", "name", "letters", "\"../test\""),
        ("test-bundle", "", "name", "letters", "\"\""),
        (
            "\"1.0.0\"",
            "\"a\\u0000b\"",
            "version",
            "control characters",
            "\"a\u{FFFD}b\"",
        ),
        ("license = \"MIT\"", "", "license", "text", "nothing"),
        (
            "overlap = 4",
            "ovrelap = 4",
            "window.ovrelap",
            "frames or overlap",
            "an unknown field",
        ),
        (
            "overlap = 4",
            "",
            "window.overlap",
            "an integer from 0 to 257",
            "nothing",
        ),
        (
            "overlap = 4",
            "overlap = 9",
            "window.overlap",
            "at most half",
            "9",
        ),
        (
            "overlap = 4",
            "overlap = -1",
            "window.overlap",
            "an integer from 0 to 257",
            "-1",
        ),
        (
            "overlap = 4",
            "overlap = \"4\"",
            "window.overlap",
            "an integer",
            "\"4\"",
        ),
        (
            "frames = 17",
            "frames = 16",
            "window.frames",
            "4 * n + 1",
            "16",
        ),
        (
            "frames = 17",
            "frames = 0",
            "window.frames",
            "an integer from 1",
            "0",
        ),
        (
            "frames = 17",
            "frames = 261",
            "window.frames",
            "to 257",
            "261",
        ),
        (
            "frames = 17",
            "frames = []",
            "window.frames",
            "1 to 64",
            "a list of 0",
        ),
        (
            "frames = 17",
            "frames = [17, 9]",
            "window.frames",
            "smallest first",
            "9 after 17",
        ),
        (
            "frames = 17",
            "frames = [17, 17]",
            "window.frames",
            "smallest first",
            "17 after 17",
        ),
        (
            "frames = 17",
            "frames = [17, \"x\"]",
            "window.frames",
            "smallest first",
            "\"x\"",
        ),
        (
            "frames = 17",
            "frames = [1, 5, 17]",
            "window.overlap",
            "smallest window of 1 frames",
            "4",
        ),
        (
            "frames = 17",
            "frames = 17.0",
            "window.frames",
            "an integer",
            "17.0",
        ),
        (
            "width = 64",
            "width = 60",
            "frame.width",
            "a multiple of spatial_stride = 8",
            "60",
        ),
        (
            "height = 48",
            "height = 52",
            "frame.height",
            "a multiple of spatial_stride = 8",
            "52",
        ),
        (
            "width = 64",
            "width = 9223372036854775807",
            "frame.width",
            "8 to 8192",
            "9223372036854775807",
        ),
        (
            "width = 64",
            "width = 4294967360",
            "frame.width",
            "8 to 8192",
            "4294967360",
        ),
        (
            "width = 64",
            "width = -64",
            "frame.width",
            "8 to 8192",
            "-64",
        ),
        (
            "height = 48",
            "height = true",
            "frame.height",
            "an integer",
            "true",
        ),
        (
            "height = 48",
            "height = 1979-05-27",
            "frame.height",
            "an integer",
            "the date 1979-05-27",
        ),
        (
            "channels = 16",
            "channels = 5000",
            "latent.channels",
            "1 to 4096",
            "5000",
        ),
        (
            "spatial_stride = 8",
            "spatial_stride = 0",
            "latent.spatial_stride",
            "1 to 64",
            "0",
        ),
        (
            "temporal_stride = 4",
            "temporal_stride = 0",
            "latent.temporal_stride",
            "1 to 64",
            "0",
        ),
        (
            "temporal_stride = 4",
            "temporal_stride = 5",
            "window.frames",
            "5 * n + 1",
            "17",
        ),
        (
            "timestep = 0.4",
            "timestep = 1.5",
            "diffusion.timestep",
            "0 to 1",
            "1.5",
        ),
        (
            "timestep = 0.4",
            "timestep = nan",
            "diffusion.timestep",
            "0 to 1",
            "NaN",
        ),
        (
            "timestep = 0.4",
            "timestep = -inf",
            "diffusion.timestep",
            "0 to 1",
            "-inf",
        ),
        (
            "[diffusion]",
            "[difusion]",
            "difusion",
            "only the fields",
            "an unknown field",
        ),
        (
            "[diffusion]\ntimestep = 0.4",
            "",
            "diffusion",
            "a table",
            "nothing",
        ),
        (
            "[graphs.dit]",
            "[graphs.dot]",
            "graphs.dot",
            "encoder, prior, dit or decoder",
            "an unknown field",
        ),
        (
            "path = \"dit.onnx\"",
            "",
            "graphs.dit.path",
            "a path",
            "nothing",
        ),
        (
            "path = \"dit.onnx\"",
            "path = 3",
            "graphs.dit.path",
            "a path",
            "3",
        ),
        (
            "path = \"dit.onnx\"",
            "path = \"bundle.toml\"",
            "graphs.dit.path",
            ".onnx",
            "\"bundle.toml\"",
        ),
        (
            "path = \"dit.onnx\"",
            "path = \"dit.onnx\"\nweights = [3]",
            "graphs.dit.weights[0]",
            "a table",
            "3",
        ),
        (
            "path = \"dit.onnx\"",
            "path = \"dit.onnx\"\nweights = [{ path = \"dit.onnx\" }]",
            "graphs.dit.weights[0].sha256",
            "64 hex",
            "nothing",
        ),
        (
            "sha256 = \"",
            "sha256 = \"x",
            "graphs.encoder.sha256",
            "64 hex",
            "\"x",
        ),
    ];
    for (from, to, field, expected, found) in cases {
        let (expects, finds) = refused(from, to, field);
        assert!(expects.contains(expected), "{to}: expected {expects}");
        assert!(finds.starts_with(found), "{to}: found {finds}");
    }
}

#[test]
fn missing_graph_tables() {
    for kind in ["encoder", "dit", "decoder"] {
        let text = manifest();
        let (before, after) = text.split_once(&format!("[graphs.{kind}]")).unwrap();
        let after = after.find("[graphs").map_or("", |at| &after[at..]);
        let error = open(&format!("{before}{after}")).unwrap_err();
        let BundleError::Manifest { field, found, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!(
            (field.as_str(), found.as_str()),
            (&*format!("graphs.{kind}"), "nothing")
        );
    }
}

#[test]
fn sizes_are_bounded_together() {
    let large = changed("width = 64", "width = 8192").replace("height = 48", "height = 8192");
    let error = open(&large).unwrap_err().to_string();
    assert!(
        error.contains("frame.width") && error.contains("3422552064 bytes"),
        "{error}"
    );
    let deep = changed("channels = 16", "channels = 4096")
        .replace("spatial_stride = 8", "spatial_stride = 1")
        .replace("width = 64", "width = 1024")
        .replace("height = 48", "height = 1024");
    let error = open(&deep).unwrap_err().to_string();
    assert!(error.contains("latent.channels"), "{error}");
}

#[test]
fn not_toml() {
    let (expected, found) = refused("[window]", "[window", "line 8");
    assert_eq!(expected, "TOML");
    assert!(!found.is_empty());
    refused("format = 1", "format = 1\nformat = 1", "line 2");
    refused("overlap = 4", "overlap = 99999999999999999999", "line 10");
    for (bytes, at) in [(&b"format = 1\n\xFF"[..], "byte 11"), (&[0; 40], "line 1")] {
        let error = Bundle::open(folder(bytes).path()).unwrap_err();
        assert!(
            matches!(&error, BundleError::Manifest { field, .. } if field == at),
            "{error}"
        );
    }
    let error = open(&"[".repeat(100_000)).unwrap_err();
    assert!(matches!(error, BundleError::Manifest { .. }), "{error}");
    let long = format!("{}#{}", manifest(), "x".repeat(1 << 20));
    let error = open(&long).unwrap_err().to_string();
    assert!(
        error.contains("size: expected at most 1048576 bytes"),
        "{error}"
    );
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
    let weights =
        "path = \"dit.onnx\"\nweights = [{ path = \"*/_ORT_MEM_ADDR_/*\", sha256 = \"\" }]";
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
        assert!(
            field
                == if name == "dit.onnx" {
                    "graphs.dit.path"
                } else {
                    name
                }
        );
        assert!(found.starts_with("a link to"), "{found}");
    }
    // A folder that leads outside.
    let dir = folder(changed("dit.onnx", "away/dit.onnx"));
    symlink(other.path(), dir.path().join("away")).unwrap();
    assert!(matches!(
        Bundle::open(dir.path()),
        Err(BundleError::Path { .. })
    ));
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
    let BundleError::Checksum {
        file,
        expected,
        found,
    } = &error
    else {
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
    let dir = folder(changed(
        &format!("path = \"dit.onnx\"\nsha256 = \"{digest}\""),
        &table,
    ));
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
        assert_eq!(
            (found.as_str(), listed.as_str()),
            (location, "sub/dit.data")
        );
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

#[test]
fn search_goes_through_all_places_in_order() {
    let root = tempfile::tempdir().unwrap();
    let place = |name: &str| root.path().join(name);
    let list = std::env::join_paths([place("first"), place("second")]).unwrap();
    let environment = SearchEnvironment {
        model_path: Some(list),
        data_home: Some(place("data").into()),
        home: Some(place("home").into()),
        installed: vec![place("local"), place("usr")],
    };
    let plugin = place("plugin");
    let places: Vec<PathBuf> = [
        "first",
        "second",
        "data/dvface/models",
        "plugin",
        "plugin/models",
        "local",
        "usr",
    ]
    .map(|p| place(p))
    .into();
    let expected: Vec<PathBuf> = places.iter().map(|place| place.join("some")).collect();

    let error = environment.find("some", Some(&plugin)).unwrap_err();
    let text = error.to_string();
    let BundleError::NotFound { model, searched } = error else {
        panic!("{error}")
    };
    assert_eq!((model.as_str(), &searched), ("some", &expected));
    assert!(
        expected
            .iter()
            .all(|place| text.contains(place.to_str().unwrap())),
        "{text}"
    );
    assert!(text.contains("DVFACE_MODEL_PATH"));

    // From the last place to the first, each goes before those after it. A folder without a manifest is no bundle.
    for folder in expected.iter().rev() {
        fs::create_dir_all(folder).unwrap();
        assert_ne!(
            environment.find("some", Some(&plugin)).ok().as_ref(),
            Some(folder)
        );
        fs::write(folder.join("bundle.toml"), "").unwrap();
        assert_eq!(&environment.find("some", Some(&plugin)).unwrap(), folder);
    }
}

#[test]
fn search_without_data_home_uses_home() {
    for data_home in [None, Some("".into()), Some("relative".into())] {
        let environment = SearchEnvironment {
            data_home,
            home: Some("/h".into()),
            ..Default::default()
        };
        let Err(BundleError::NotFound { searched, .. }) = environment.find("some", None) else {
            panic!()
        };
        assert_eq!(searched, [Path::new("/h/.local/share/dvface/models/some")]);
    }
}

#[test]
fn path_is_that_folder() {
    let environment = SearchEnvironment::default();
    let dir = folder(manifest());
    assert_eq!(
        environment
            .find(dir.path().to_str().unwrap(), None)
            .unwrap(),
        dir.path()
    );
    assert_eq!(environment.find(".", None).unwrap(), Path::new("."));
    let absent = dir.path().join("absent");
    let error = environment
        .find(absent.to_str().unwrap(), None)
        .unwrap_err();
    assert!(
        matches!(&error, BundleError::NotFound { searched, .. } if *searched == [absent]),
        "{error}"
    );
    for empty in ["", "some"] {
        let error = environment.find(empty, None).unwrap_err();
        assert!(
            matches!(&error, BundleError::NotFound { searched, .. } if searched.is_empty()),
            "{error}"
        );
    }
    let error = Bundle::find("no-bundle-has-this-name", Some(dir.path())).unwrap_err();
    assert!(
        error.to_string().contains("/usr/share/dvface/models"),
        "{error}"
    );
}

#[test]
fn shape_takes_what_the_bundle_allows() {
    let bundle = open(&changed("frames = 17", "frames = [9, 17]")).unwrap();
    let shape = |frames, overlap| {
        bundle
            .shape(frames, overlap)
            .map(|shape| (shape.frames(), shape.overlap()))
    };
    assert_eq!(shape(0, 0).unwrap(), (9, 4));
    assert_eq!(shape(17, 0).unwrap(), (17, 4));
    assert_eq!(shape(17, 8).unwrap(), (17, 8));
    assert_eq!(shape(0, 1).unwrap(), (9, 1));
    let error = shape(13, 0).unwrap_err().to_string();
    assert!(
        error.contains("window-frames")
            && error.contains("allows 9 or 17")
            && error.ends_with("found 13"),
        "{error}"
    );
    let error = shape(17, 9).unwrap_err().to_string();
    assert!(
        error.contains("overlap-frames") && error.contains("1 to 8") && error.ends_with("found 9"),
        "{error}"
    );
    assert!(shape(u32::MAX, u32::MAX).is_err());
    assert!(shape(0, u32::MAX).is_err());
}

// Graphs against the manifest.

type Graphs = BTreeMap<GraphKind, GraphInfo>;

fn tensor(name: &str, element: ElementType, dims: &[i64]) -> TensorInfo {
    TensorInfo {
        name: name.into(),
        element,
        dims: dims.into(),
    }
}

/// The graphs of a bundle with `frames` and `latent_frames` as time axes, -1 if dynamic.
fn graphs(frames: i64, latent_frames: i64) -> Graphs {
    let video = || tensor("frames", ElementType::U8, &[frames, 48, 64, 3]);
    let latent = |name| tensor(name, ElementType::F16, &[1, 16, latent_frames, 6, 8]);
    let spatial = || {
        tensor(
            "spatial_prior",
            ElementType::F32,
            &[1, latent_frames, 3, 4, 32],
        )
    };
    let temporal = || tensor("temporal_prior", ElementType::F16, &[1, 2, 1, 1, 8]);
    let graph = |inputs, outputs| GraphInfo { inputs, outputs };
    BTreeMap::from([
        (
            GraphKind::Encoder,
            graph(vec![video()], vec![latent("latent")]),
        ),
        (
            GraphKind::Prior,
            graph(vec![video()], vec![temporal(), spatial()]),
        ),
        (
            GraphKind::Dit,
            graph(
                vec![spatial(), latent("latent"), temporal()],
                vec![latent("restored_latent")],
            ),
        ),
        (
            GraphKind::Decoder,
            graph(vec![latent("restored_latent")], vec![video()]),
        ),
    ])
}

fn get<'a>(graphs: &'a mut Graphs, kind: GraphKind, name: &str) -> &'a mut TensorInfo {
    let graph = graphs.get_mut(&kind).unwrap();
    graph
        .inputs
        .iter_mut()
        .chain(&mut graph.outputs)
        .find(|tensor| tensor.name == name)
        .unwrap()
}

#[test]
fn matching_graphs_give_the_contract() {
    let bundle = open(&manifest()).unwrap();
    let mut graphs = graphs(17, 5);
    let expected = Contract {
        has_prior: true,
        decoder_takes_frames: false,
        latent: ElementType::F16,
        restored_latent: ElementType::F16,
        priors: Some([
            tensor("spatial_prior", ElementType::F32, &[1, 5, 3, 4, 32]),
            tensor("temporal_prior", ElementType::F16, &[1, 2, 1, 1, 8]),
        ]),
    };
    assert_eq!(bundle.check_graphs(&graphs).unwrap(), expected);
    let video = get(&mut graphs, GraphKind::Encoder, "frames").clone();
    graphs
        .get_mut(&GraphKind::Decoder)
        .unwrap()
        .inputs
        .push(video);
    assert!(bundle.check_graphs(&graphs).unwrap().decoder_takes_frames);
}

#[test]
fn dynamic_time_is_for_several_lengths_only() {
    let several = open(&changed("frames = 17", "frames = [9, 17]")).unwrap();
    let contract = several.check_graphs(&graphs(-1, -1)).unwrap();
    assert_eq!(contract.priors.unwrap()[0].dims, [1, -1, 3, 4, 32]);
    let error = several
        .check_graphs(&graphs(17, 5))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("expected u8 [?, 48, 64, 3], found u8 [17, 48, 64, 3]"),
        "{error}"
    );
    let one = open(&manifest()).unwrap();
    for (frames, latent_frames) in [(-1, 5), (17, -1), (-1, -1), (13, 4), (17, 4)] {
        assert!(
            one.check_graphs(&graphs(frames, latent_frames)).is_err(),
            "{frames} {latent_frames}"
        );
    }
}

#[test]
fn bundle_without_prior() {
    let text = manifest();
    let (before, after) = text.split_once("[graphs.prior]").unwrap();
    let bundle = open(&format!(
        "{before}{}",
        &after[after.find("[graphs.dit]").unwrap()..]
    ))
    .unwrap();
    let mut graphs = graphs(17, 5);
    let error = bundle.check_graphs(&graphs).unwrap_err().to_string();
    assert!(
        error.contains("graph prior") && error.contains("expected no graph"),
        "{error}"
    );
    graphs.remove(&GraphKind::Prior);
    let error = bundle.check_graphs(&graphs).unwrap_err();
    let BundleError::Graph {
        graph,
        tensor,
        expected,
        found,
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!(
        (*graph, tensor.as_str()),
        (GraphKind::Dit, "input spatial_prior")
    );
    assert_eq!(
        (expected.as_str(), found.as_str()),
        ("no input but latent", "f32 [1, 5, 3, 4, 32]")
    );
    graphs
        .get_mut(&GraphKind::Dit)
        .unwrap()
        .inputs
        .retain(|tensor| tensor.name == "latent");
    let contract = bundle.check_graphs(&graphs).unwrap();
    assert_eq!((contract.has_prior, contract.priors), (false, None));
    graphs.remove(&GraphKind::Dit);
    assert!(
        bundle
            .check_graphs(&graphs)
            .unwrap_err()
            .to_string()
            .contains("found no graph")
    );
}

#[test]
fn wrong_graphs_name_graph_tensor_expected_and_found() {
    let bundle = open(&manifest()).unwrap();
    type Change = fn(&mut TensorInfo);
    let wrong_type: Change = |tensor| tensor.element = ElementType::Other("i64".into());
    let wrong_rank: Change = |tensor| tensor.dims.push(1);
    let no_rank: Change = |tensor| tensor.dims.clear();
    let wrong_name: Change = |tensor| tensor.name.push('2');
    let wrong_size: Change = |tensor| tensor.dims[3] = -10;
    let all = [
        (GraphKind::Encoder, "input frames"),
        (GraphKind::Encoder, "output latent"),
        (GraphKind::Prior, "input frames"),
        (GraphKind::Prior, "output spatial_prior"),
        (GraphKind::Prior, "output temporal_prior"),
        (GraphKind::Dit, "input latent"),
        (GraphKind::Dit, "input spatial_prior"),
        (GraphKind::Dit, "input temporal_prior"),
        (GraphKind::Dit, "output restored_latent"),
        (GraphKind::Decoder, "input restored_latent"),
        (GraphKind::Decoder, "output frames"),
    ];
    for (kind, at) in all {
        let (_, name) = at.split_once(' ').unwrap();
        let found = ["i64", ", 1]", "[]", "none", "-10"];
        for (change, found) in [wrong_type, wrong_rank, no_rank, wrong_name, wrong_size]
            .into_iter()
            .zip(found)
        {
            let mut graphs = graphs(17, 5);
            change(get(&mut graphs, kind, name));
            let error = bundle.check_graphs(&graphs).unwrap_err();
            let BundleError::Graph {
                graph,
                tensor,
                expected,
                found: finds,
            } = &error
            else {
                panic!("{error}")
            };
            assert_eq!((*graph, tensor.as_str()), (kind, at), "{error}");
            assert!(finds.contains(found) && expected != finds, "{error}");
        }
    }
}

#[test]
fn both_sides_of_a_handover_agree() {
    let bundle = open(&manifest()).unwrap();
    for (kind, name) in [
        (GraphKind::Dit, "latent"),
        (GraphKind::Dit, "temporal_prior"),
        (GraphKind::Decoder, "restored_latent"),
    ] {
        let mut graphs = graphs(17, 5);
        get(&mut graphs, kind, name).element = ElementType::F32;
        let error = bundle.check_graphs(&graphs).unwrap_err().to_string();
        assert!(
            error.contains("expected f16 [") && error.contains("found f32 ["),
            "{error}"
        );
    }
    let mut other_size = graphs(17, 5);
    get(&mut other_size, GraphKind::Dit, "spatial_prior").dims[4] = 16;
    assert!(bundle.check_graphs(&other_size).is_err());
    let mut other_type = graphs(17, 5);
    get(&mut other_type, GraphKind::Encoder, "latent").element = ElementType::F32;
    get(&mut other_type, GraphKind::Dit, "latent").element = ElementType::F32;
    assert_eq!(
        bundle.check_graphs(&other_type).unwrap().latent,
        ElementType::F32
    );
}

#[test]
fn priors_are_bounded_and_names_unique() {
    let bundle = open(&manifest()).unwrap();
    for dims in [
        [1, 1 << 20, 1 << 20, 1 << 20, 1 << 20],
        [1, 1, 1 << 29, 1, 1],
        [1, 0, 1, 1, 1],
        [1, -1, 1, 1, 1],
        [2, 1, 1, 1, 1],
    ] {
        let mut graphs = graphs(17, 5);
        for kind in [GraphKind::Prior, GraphKind::Dit] {
            get(&mut graphs, kind, "spatial_prior").dims = dims.into();
        }
        let error = bundle.check_graphs(&graphs).unwrap_err().to_string();
        assert!(
            error.contains("graph prior: output spatial_prior"),
            "{error}"
        );
    }
    let mut doubled = graphs(17, 5);
    let video = get(&mut doubled, GraphKind::Encoder, "frames").clone();
    doubled
        .get_mut(&GraphKind::Encoder)
        .unwrap()
        .inputs
        .push(video);
    let error = bundle.check_graphs(&doubled).unwrap_err().to_string();
    assert!(
        error.contains("expected one input of this name, found 2"),
        "{error}"
    );
    let mut extra = graphs(17, 5);
    let output = tensor("debug\0\n", ElementType::F32, &[1; 40]);
    extra
        .get_mut(&GraphKind::Decoder)
        .unwrap()
        .outputs
        .push(output);
    let error = bundle.check_graphs(&extra).unwrap_err().to_string();
    assert!(
        error.contains("no output but frames") && !error.contains(['\0', '\n']),
        "{error}"
    );
}

/// A TOML value, sensible or not.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        (-2i64..70).prop_map(|number| number.to_string()),
        any::<f64>().prop_map(|number| format!("{number:?}").replace("NaN", "nan")),
        "[ -~]{0,20}".prop_map(|text| format!("{text:?}")),
        ".{0,20}",
        proptest::collection::vec(-1i64..70, 0..80).prop_map(|list| format!("{list:?}")),
        Just("{ path = \"dit.onnx\", sha256 = \"\" }".to_owned()),
        Just("[[], {}, 1.5, \"x\"]".to_owned()),
    ]
}

proptest! {
    #[test]
    fn any_bytes_give_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(Bundle::open(folder(bytes).path()).is_err());
    }

    /// A manifest with some values replaced, its lines shuffled or dropped. If it is accepted, what it says is in bounds.
    #[test]
    fn any_change_gives_an_answer(
        values in proptest::collection::vec((any::<prop::sample::Index>(), value()), 0..4),
        dropped in proptest::collection::vec(any::<prop::sample::Index>(), 0..2),
        swapped in proptest::option::of((any::<prop::sample::Index>(), any::<prop::sample::Index>())),
    ) {
        let text = manifest();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        for (index, value) in values {
            let line = &mut lines[index.index(text.lines().count())];
            if let Some((key, _)) = line.split_once(" = ") {
                *line = format!("{key} = {value}");
            }
        }
        for index in dropped {
            lines.remove(index.index(lines.len()));
        }
        if let Some((one, other)) = swapped {
            let (one, other) = (one.index(lines.len()), other.index(lines.len()));
            lines.swap(one, other);
        }
        match open(&lines.join("\n")) {
            Ok(bundle) => {
                let longest = *bundle.window_frames().last().unwrap();
                let bytes = u64::from(longest) * u64::from(bundle.width()) * u64::from(bundle.height()) * 3;
                prop_assert!(longest <= 257 && bytes <= 1 << 30);
                prop_assert!((0.0..=1.0).contains(&bundle.timestep()));
                prop_assert!(bundle.shape(0, 0).is_ok());
                let latent: i64 = bundle.latent_dims(longest).iter().product();
                prop_assert!(latent > 0 && latent * 4 <= 1 << 30);
            }
            Err(error) => prop_assert!(!error.to_string().contains('\0')),
        }
    }
}
