// SPDX-License-Identifier: MPL-2.0

//! `bundle.toml`.

use gstdvface::bundle::{Bundle, BundleError, GraphKind};
use proptest::prelude::*;

use super::{MODEL, changed, folder, manifest, open, sha256};

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
    assert_eq!((bundle.window_frames(), bundle.overlap_frames()), (&[17][..], 4));
    assert_eq!((bundle.width(), bundle.height(), bundle.timestep()), (64, 48, 0.4));
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
    assert_eq!(open(&without_prior).unwrap().graph_path(GraphKind::Prior), None);
    assert_eq!(
        open(&changed("description = \"A bundle for tests\"\n", ""))
            .unwrap()
            .description(),
        ""
    );
    assert_eq!(
        open(&changed("timestep = 0.4", "timestep = 1")).unwrap().timestep(),
        1.0
    );
    let several = open(&changed("frames = 17", "frames = [9, 17, 33]")).unwrap();
    assert_eq!(several.window_frames(), [9, 17, 33]);
    assert!(open(&changed(&sha256(MODEL), &sha256(MODEL).to_uppercase())).is_ok());
}

#[test]
fn wrong_fields_name_field_expected_and_found() {
    let cases = [
        ("format = 1", "format = 2\nnew = 3", "format", "1, the format", "2"),
        ("format = 1", "", "format", "1, the format", "nothing"),
        ("format = 1", "format = 1.0", "format", "1, the format", "1.0"),
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
        ("overlap = 4", "overlap = 9", "window.overlap", "at most half", "9"),
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
        ("frames = 17", "frames = 16", "window.frames", "4 * n + 1", "16"),
        ("frames = 17", "frames = 0", "window.frames", "an integer from 1", "0"),
        ("frames = 17", "frames = 261", "window.frames", "to 257", "261"),
        ("frames = 17", "frames = []", "window.frames", "1 to 64", "a list of 0"),
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
        ("frames = 17", "frames = 17.0", "window.frames", "an integer", "17.0"),
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
        ("width = 64", "width = -64", "frame.width", "8 to 8192", "-64"),
        ("height = 48", "height = true", "frame.height", "an integer", "true"),
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
        ("[diffusion]\ntimestep = 0.4", "", "diffusion", "a table", "nothing"),
        (
            "[graphs.dit]",
            "[graphs.dot]",
            "graphs.dot",
            "encoder, prior, dit or decoder",
            "an unknown field",
        ),
        ("path = \"dit.onnx\"", "", "graphs.dit.path", "a path", "nothing"),
        ("path = \"dit.onnx\"", "path = 3", "graphs.dit.path", "a path", "3"),
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
        ("sha256 = \"", "sha256 = \"x", "graphs.encoder.sha256", "64 hex", "\"x"),
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
    assert!(error.contains("size: expected at most 1048576 bytes"), "{error}");
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
        error.contains("window-frames") && error.contains("allows 9 or 17") && error.ends_with("found 13"),
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
