// SPDX-License-Identifier: MPL-2.0

//! Where a bundle is looked for.

use std::fs;
use std::path::{Path, PathBuf};

use gstdvface::bundle::{Bundle, BundleError, SearchEnvironment};

use super::{folder, manifest};

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
    .map(place)
    .into();
    let expected: Vec<PathBuf> = places.iter().map(|place| place.join("some")).collect();

    let error = environment.find("some", Some(&plugin)).unwrap_err();
    let text = error.to_string();
    let BundleError::NotFound { model, searched } = error else {
        panic!("{error}")
    };
    assert_eq!((model.as_str(), &searched), ("some", &expected));
    assert!(
        expected.iter().all(|place| text.contains(place.to_str().unwrap())),
        "{text}"
    );
    assert!(text.contains("DVFACE_MODEL_PATH"));

    // From the last place to the first, each goes before those after it. A folder without a manifest is no bundle.
    for folder in expected.iter().rev() {
        fs::create_dir_all(folder).unwrap();
        assert_ne!(environment.find("some", Some(&plugin)).ok().as_ref(), Some(folder));
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
        environment.find(dir.path().to_str().unwrap(), None).unwrap(),
        dir.path()
    );
    assert_eq!(environment.find(".", None).unwrap(), Path::new("."));
    let absent = dir.path().join("absent");
    let error = environment.find(absent.to_str().unwrap(), None).unwrap_err();
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
    assert!(error.to_string().contains("/usr/share/dvface/models"), "{error}");
}
