// SPDX-License-Identifier: MPL-2.0

//! What cannot start: one clear error each, and the element works afterwards.

use gst::glib;
use gst::prelude::*;

use crate::rig::{self, Rig, assert_brighter, frame, rgb};

/// Starting fails with exactly one error, which it returns. NULL works, and then the element does with a good bundle.
#[track_caller]
pub fn fails(change: impl FnOnce(&gst::Element)) -> glib::Error {
    let element = rig::element("brighter");
    let good = ["model", "runtime-library"].map(|name| (name, element.property_value(name)));
    change(&element);
    let rig = Rig::around(element);
    assert!(rig.element.set_state(gst::State::Playing).is_err(), "it starts");
    let mut errors = rig.errors();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_eq!(rig.element.property::<Option<String>>("active-provider"), None);
    assert_eq!(rig.query_latency().1, gst::ClockTime::ZERO);
    // A second try fails the same way, NULL or not.
    assert!(rig.element.set_state(gst::State::Paused).is_err());
    assert_eq!(rig.errors().len(), 1);
    rig.element.set_state(gst::State::Null).unwrap();

    for (name, value) in &good {
        rig.element.set_property_from_value(name, value);
    }
    rig.element.set_property_from_str("provider", "cpu");
    rig.element.set_property("window-frames", 0u32);
    rig.element.set_property("overlap-frames", 0u32);
    rig.play();
    rig.start(&rgb().to_caps().unwrap());
    rig.push_all((0..7).map(|index| frame(&rgb(), index)));
    rig.eos();
    assert_brighter(&rgb(), &rig.take_buffers(), 0, 7);
    assert_eq!(rig.errors(), []);
    errors.remove(0)
}

#[track_caller]
pub fn assert_text(error: &glib::Error, pieces: &[&str]) {
    for piece in pieces {
        assert!(
            error.message().contains(piece),
            "\"{piece}\" is not in: {}",
            error.message()
        );
    }
}

#[test]
fn every_broken_bundle_is_one_error_that_says_what_and_where() {
    use gst::ResourceError::{OpenRead, Read};
    let unreadable: &[(&str, &[&str])] = &[("missing-file", &["encoder.onnx"])];
    let broken: &[(&str, &[&str])] = &[
        ("truncated-graph", &["encoder.onnx", "expected", "found"]),
        ("not-onnx", &["encoder.onnx", "expected", "found"]),
        ("wrong-checksum", &["encoder.onnx", "expected sha256", "found"]),
        (
            "escaping-path",
            &[
                "bundle.toml",
                "graphs.encoder.path",
                "expected",
                "../../identity/encoder.onnx",
            ],
        ),
        (
            "absolute-path",
            &["bundle.toml", "graphs.encoder.path", "expected", "/encoder.onnx"],
        ),
        (
            "escaping-external",
            &["dit.onnx", "dit.onnx.data", "../../external/dit.onnx.data"],
        ),
        ("unlisted-external", &["dit.onnx", "none", "dit.onnx.data"]),
        ("wrong-type", &["graph encoder", "frames", "u8", "f32"]),
        ("wrong-type-latent", &["graph dit", "latent", "f32", "f16"]),
        ("wrong-rank", &["graph encoder", "latent", "expected", "found"]),
        (
            "wrong-name",
            &[
                "graph encoder",
                "input frames",
                "expected one input of this name",
                "found none",
            ],
        ),
        ("wrong-t", &["graph encoder", "frames", "5", "9"]),
        (
            "prior-missing-input",
            &["graph dit", "spatial_prior", "expected", "found"],
        ),
        ("huge-dimensions", &["bundle.toml", "expected", "found 4294967"]),
        ("not-toml", &["bundle.toml", "line 1", "expected TOML"]),
        ("wrong-format", &["bundle.toml", "format", "expected 1", "found 2"]),
        ("unknown-key", &["bundle.toml", "frame.depth", "expected", "found"]),
        (
            "missing-field",
            &["bundle.toml", "frame.height", "expected", "found nothing"],
        ),
        (
            "bad-overlap",
            &["bundle.toml", "window.overlap", "expected at most", "found 5"],
        ),
    ];
    for (name, pieces) in unreadable.iter().chain(broken) {
        println!("{name}");
        let error = fails(|element| element.set_property("model", crate::bundle(&format!("broken/{name}"))));
        println!("    {}", error.message());
        assert_text(&error, pieces);
        let is_unreadable = unreadable.iter().any(|(other, _)| other == name);
        assert!(
            if is_unreadable {
                error.matches(OpenRead)
            } else {
                error.matches(Read)
            },
            "{name}: {error:?}"
        );
        let file_of_the_bundle =
            error.message().contains(&format!("broken/{name}")) || error.message().contains("graph ");
        assert!(file_of_the_bundle, "{error}");
    }
    // No broken bundle is left out.
    let folder = crate::bundle("broken");
    assert_eq!(
        std::fs::read_dir(folder).unwrap().count(),
        unreadable.len() + broken.len()
    );
}

#[test]
fn a_bundle_that_is_not_there() {
    let error = fails(|element| element.set_property("model", "no-such-bundle"));
    assert!(error.matches(gst::ResourceError::NotFound), "{error:?}");
    assert_text(
        &error,
        &["\"no-such-bundle\"", "searched: ", "dvface/models", "DVFACE_MODEL_PATH"],
    );
    let error = fails(|element| element.set_property("model", "/no/such/folder"));
    assert!(error.matches(gst::ResourceError::NotFound), "{error:?}");
    assert_text(&error, &["/no/such/folder"]);
    for empty in [Some(""), None] {
        let error = fails(|element| element.set_property("model", empty));
        assert!(error.matches(gst::ResourceError::NotFound), "{error:?}");
    }
    let folder = tempfile::tempdir().unwrap();
    let error = fails(|element| element.set_property("model", folder.path().to_str().unwrap()));
    assert!(error.matches(gst::ResourceError::OpenRead), "{error:?}");
    assert_text(&error, &["bundle.toml", folder.path().to_str().unwrap()]);
}

#[test]
fn windows_that_the_bundle_does_not_allow() {
    let error = fails(|element| element.set_property("window-frames", 9u32));
    assert!(error.matches(gst::LibraryError::Settings), "{error:?}");
    assert_text(&error, &["window-frames", "\"brighter\"", "allows 5", "found 9"]);
    let error = fails(|element| element.set_property("overlap-frames", 3u32));
    assert!(error.matches(gst::LibraryError::Settings), "{error:?}");
    assert_text(&error, &["overlap-frames", "1 to 2", "found 3"]);
    let error = fails(|element| {
        element.set_property("model", crate::bundle("brighter-dynamic"));
        element.set_property("window-frames", 7u32);
    });
    assert_text(&error, &["window-frames", "5, 9 or 13", "found 7"]);
}

/// Whether the runtime of the tests could run on a GPU: then its provider is no error.
fn has_cuda() -> bool {
    let has = crate::cuda::is_cuda_build();
    if has {
        println!("skipped: the runtime is a CUDA build");
    }
    has
}

#[test]
fn a_named_provider_that_is_missing_is_an_error() {
    if has_cuda() {
        return;
    }
    let cache = tempfile::tempdir().unwrap();
    for provider in ["cuda", "tensorrt"] {
        let error = fails(|element| {
            element.set_property_from_str("provider", provider);
            element.set_property("engine-cache", cache.path().to_str().unwrap());
        });
        assert!(error.matches(gst::LibraryError::Init), "{error:?}");
        assert_text(
            &error,
            &[
                &format!("provider={provider} is not available"),
                "CUDA build of ONNX Runtime",
            ],
        );
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = fails(|element| {
        element.set_property_from_str("provider", "tensorrt");
        element.set_property("engine-cache", file.path().to_str().unwrap());
    });
    assert_text(&error, &["engine-cache", file.path().to_str().unwrap()]);
}

#[test]
fn auto_says_on_the_bus_what_it_chose() {
    if has_cuda() {
        return;
    }
    let element = rig::element("brighter");
    element.set_property_from_str("provider", "auto");
    let (sender, provider) = std::sync::mpsc::channel();
    element.connect_notify(Some("active-provider"), move |element, _| {
        sender
            .send(element.property::<Option<String>>("active-provider"))
            .unwrap();
    });
    let rig = Rig::around(element);
    rig.play();
    let infos = rig.messages(&[gst::MessageType::Info]);
    assert_eq!(infos.len(), 1);
    let gst::MessageView::Info(info) = infos[0].view() else {
        unreachable!()
    };
    assert!(info.error().message().contains("running on the CPU"), "{info:?}");
    assert!(info.debug().unwrap().contains("CUDA is not available"), "{info:?}");
    assert_eq!(provider.try_iter().collect::<Vec<_>>(), [Some("cpu".into())]);
    assert_eq!(
        rig.element
            .property::<gst::Structure>("stats")
            .get::<&str>("provider")
            .unwrap(),
        "cpu"
    );
    rig.element.set_state(gst::State::Null).unwrap();
    assert_eq!(provider.try_iter().collect::<Vec<_>>(), [None]);

    // A named one is no news.
    let rig = Rig::new("brighter");
    assert_eq!(rig.messages(&[gst::MessageType::Info]).len(), 0);
}

#[test]
fn progress_is_told_and_ends() {
    // Threads that no other test has: sessions of its own, whose first run is the warm-up. It is a live source's.
    let rig = Rig::around(rig::element("brighter"));
    rig.on_upstream_query(rig::live_upstream);
    rig.element.set_property("num-threads", 3u32);
    rig.play();
    let told: Vec<_> = rig
        .messages(&[gst::MessageType::Progress])
        .iter()
        .map(|message| match message.view() {
            gst::MessageView::Progress(progress) => {
                let (kind, code, _) = progress.get();
                (kind, code.to_string())
            }
            _ => unreachable!(),
        })
        .collect();
    use gst::ProgressType::{Complete, Error, Start};
    let expected = [
        (Start, "load"),
        (Complete, "load"),
        (Start, "warm-up"),
        (Complete, "warm-up"),
    ];
    assert_eq!(told, expected.map(|(kind, code)| (kind, code.to_string())));

    let element = rig::element("broken/wrong-format");
    let rig = Rig::around(element);
    assert!(rig.element.set_state(gst::State::Paused).is_err());
    let last = rig.messages(&[gst::MessageType::Progress]).pop().unwrap();
    let gst::MessageView::Progress(last) = last.view() else {
        unreachable!()
    };
    assert_eq!((last.get().0, last.get().1), (Error, "load"));
}
