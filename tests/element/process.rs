// SPDX-License-Identifier: MPL-2.0

//! What needs a process of its own: libraries that are wrong, leaks, and what inspecting loads.
//!
//! The test binary runs itself: the functions of `child` are ignored tests, each started by one that is not.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Runs a function of `child`.
fn run_child(name: &str, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--ignored", "--exact", "--nocapture", "--test-threads=1"])
        .arg(format!("process::child::{name}"))
        .env("DVFACE_TEST_LIBRARY", crate::runtime_library())
        .env_remove("ORT_DYLIB_PATH")
        .env_remove("GST_DEBUG")
        // With the first of them ONNX Runtime's telemetry is off.
        .env_remove("CI")
        .env_remove("ORT_DISABLE_TELEMETRY")
        .envs(variables.iter().copied());
    let output = command.output().unwrap();
    let (text, log) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{name}: {}\n{text}\n{log}",
        output.status
    );
    output
}

#[test]
fn wrong_libraries() {
    let folder = tempfile::tempdir().unwrap();
    // A runtime of another age: all that is asked of it is its version.
    let source = folder.path().join("old.c");
    std::fs::write(
        &source,
        "struct base { const void *(*api)(unsigned); const char *(*version)(void); };\n\
         static const void *api(unsigned version) { (void) version; return 0; }\n\
         static const char *version(void) { return \"1.10.0\"; }\n\
         static const struct base base = { api, version };\n\
         const struct base *OrtGetApiBase(void) { return &base; }\n",
    )
    .unwrap();
    // The linker of a Rust toolchain.
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(folder.path().join("libold.so"))
        .arg(&source)
        .status()
        .expect("a C compiler, as Rust links with");
    assert!(status.success());
    run_child(
        "wrong_libraries",
        &[("DVFACE_TEST_FOLDER", folder.path().to_str().unwrap())],
    );
}

#[test]
fn no_library() {
    run_child("no_library", &[]);
}

#[test]
fn the_variable_names_the_library() {
    let library = crate::runtime_library();
    run_child(
        "the_variable_names_the_library",
        &[("ORT_DYLIB_PATH", library.to_str().unwrap())],
    );
}

/// Without `ORT_DYLIB_PATH`.
#[test]
fn the_loaders_path_has_the_library() {
    let library = crate::runtime_library();
    let folder = library.parent().unwrap().to_str().unwrap();
    let path = [("LD_LIBRARY_PATH", folder)];
    run_child("the_variable_names_the_library", &path);
}

/// ONNX Runtime's releases write who the user is into the cache folder, and tell Microsoft of each process.
#[test]
fn nobody_is_told_of_a_run() {
    let home = tempfile::tempdir().unwrap();
    let library = crate::runtime_library();
    run_child(
        "the_variable_names_the_library",
        &[
            ("ORT_DYLIB_PATH", library.to_str().unwrap()),
            ("HOME", home.path().to_str().unwrap()),
            ("XDG_CACHE_HOME", home.path().join("cache").to_str().unwrap()),
        ],
    );
    let mut folders = vec![home.path().to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().to_lowercase();
            assert!(!name.contains("microsoft") && !name.contains("onnxruntime"), "{path:?}");
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
}

#[test]
fn a_wrong_variable_is_an_error() {
    run_child(
        "a_wrong_variable_is_an_error",
        &[("ORT_DYLIB_PATH", "libonnxruntime.so")],
    );
}

#[test]
fn nothing_leaks() {
    for region in ["frame", "meta", "detect"] {
        nothing_leaks_with(region);
    }
}

fn nothing_leaks_with(region: &str) {
    let tracing = [
        ("DVFACE_TEST_REGION", region),
        ("GST_TRACERS", "leaks(check-refs=true)"),
        ("GST_DEBUG", "GST_TRACER:7"),
        ("GST_DEBUG_NO_COLOR", "1"),
        // The tracer warns of the one that is leaked on purpose.
        ("G_DEBUG", ""),
    ];
    let output = run_child("nothing_leaks", &tracing);
    let log = String::from_utf8_lossy(&output.stderr);
    let alive: Vec<&str> = log.lines().filter(|line| line.contains(":: object-alive,")).collect();
    // The caps that the child leaks on purpose show that the tracer is on.
    let (known, leaked): (Vec<&str>, Vec<&str>) =
        alive.into_iter().partition(|line| line.contains("leaked-on-purpose"));
    assert_eq!(known.len(), 1, "the tracer is not on:\n{log}");
    assert!(leaked.is_empty(), "region={region}: {leaked:#?}");
}

/// The plugin as a file, which cargo builds with the tests.
fn plugin() -> PathBuf {
    let deps = std::env::current_exe().unwrap().parent().unwrap().to_path_buf();
    [deps.parent().unwrap(), &deps]
        .iter()
        .map(|folder| folder.join("libgstdvface.so"))
        .find(|path| path.is_file())
        .expect("cargo builds libgstdvface.so with the tests")
}

/// A command that sees no plugin but this one, linked into `folder`.
fn tool(name: &str, folder: &Path) -> Command {
    let link = folder.join("libgstdvface.so");
    if !link.exists() {
        std::os::unix::fs::symlink(plugin(), link).unwrap();
    }
    let mut command = Command::new(name);
    command
        .env("GST_PLUGIN_SYSTEM_PATH_1_0", "")
        .env("GST_PLUGIN_PATH_1_0", folder)
        .env("GST_REGISTRY_1_0", folder.join("registry"))
        .env_remove("ORT_DYLIB_PATH");
    command
}

#[test]
fn inspecting_loads_no_runtime() {
    let folder = tempfile::tempdir().unwrap();
    // The second time reads the registry.
    for _ in 0..2 {
        let output = tool("gst-inspect-1.0", folder.path())
            .arg("dvfacerestore")
            .env("LD_DEBUG", "libs,files")
            .output()
            .expect("gst-inspect-1.0");
        let (text, log) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(output.status.success(), "{log}");
        assert!(log.contains("libgstdvface.so"), "the log shows what is loaded");
        for library in ["onnxruntime", "libcuda", "libcudart", "nvinfer"] {
            assert!(!log.contains(library), "{library} is loaded");
        }
        for line in [
            "DVFace video face restoration",
            "Filter/Effect/Video",
            "GstVideoFilter",
            "dvface",
            "MPL-2.0",
            "changeable only in NULL or READY state",
            "changeable in NULL, READY, PAUSED or PLAYING state",
            "controllable",
            "SINK template: 'sink'",
            "interlace-mode: progressive",
        ] {
            assert!(text.contains(line), "\"{line}\" is not in:\n{text}");
        }
        assert!(!text.contains("Unknown"), "{text}");
    }
}

#[test]
fn a_property_that_cannot_change_is_a_warning() {
    let variables = [("GST_DEBUG", "dvfacerestore:2"), ("GST_DEBUG_NO_COLOR", "1")];
    let output = run_child("a_property_that_cannot_change", &variables);
    let log = String::from_utf8_lossy(&output.stderr);
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warnings.len(), 1, "{log}");
    assert!(
        warnings[0].contains("model cannot change outside NULL and READY"),
        "{log}"
    );
}

/// The plugin as a file finds the library and the bundle beside it: no variable, no property but a name.
#[test]
fn gst_launch_finds_the_library_and_the_bundle_beside_the_plugin() {
    crate::init();
    let folder = tempfile::tempdir().unwrap();
    let link = |path: &Path, name: &str| std::os::unix::fs::symlink(path, folder.path().join(name)).unwrap();
    link(&crate::runtime_library(), "libonnxruntime.so");
    link(crate::bundle("brighter").as_ref(), "brighter");
    for plugin in ["coreelements", "videotestsrc"] {
        let file = gst::Registry::get().find_plugin(plugin).unwrap().filename().unwrap();
        link(&file, file.file_name().unwrap().to_str().unwrap());
    }
    let output = tool("gst-launch-1.0", folder.path())
        .env_remove("DVFACE_MODEL_PATH")
        .args(["-q", "videotestsrc", "num-buffers=7", "pattern=black", "!"])
        .args(["video/x-raw,format=RGB,width=32,height=32,framerate=25/1", "!"])
        .args(["dvfacerestore", "model=brighter", "!", "fakesink", "dump=true"])
        .output()
        .expect("gst-launch-1.0");
    let (text, log) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{text}\n{log}");
    // 7 frames of 3072 bytes, 16 a line; black is one brighter.
    let lines = text.lines().filter(|line| line.contains(&"01 ".repeat(16))).count();
    assert_eq!(lines, 7 * 3072 / 16, "{log}");
    assert!(
        !log.contains("onnxruntime"),
        "nothing is written to the terminal: {log}"
    );
}

/// A run that fails or is ended is told on the bus, not on the terminal of the application.
#[test]
fn nothing_is_written_to_the_terminal() {
    let output = run_child("runs_that_fail_and_end", &[]);
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(!log.contains("onnxruntime") && !log.contains("Gather"), "{log}");
    let debug = run_child(
        "runs_that_fail_and_end",
        &[("GST_DEBUG", "onnxruntime:2"), ("G_DEBUG", "")],
    );
    let log = String::from_utf8_lossy(&debug.stderr);
    assert!(log.contains("Gather"), "it is in GStreamer's log: {log}");
}

mod child {
    use gst::prelude::*;

    use crate::errors::assert_text;
    use crate::rig::{self, Rig, assert_brighter, frame, rgb};

    fn library() -> String {
        std::env::var("DVFACE_TEST_LIBRARY").expect("it is run by another test")
    }

    /// An element that is told nothing of a runtime.
    fn element() -> gst::Element {
        crate::init();
        gst::ElementFactory::make("dvfacerestore")
            .property("model", crate::bundle("brighter"))
            .property_from_str("provider", "cpu")
            .build()
            .unwrap()
    }

    fn assert_works(rig: &Rig) {
        rig.play();
        rig.start(&rgb().to_caps().unwrap());
        rig.push_all((0..7).map(|index| frame(&rgb(), index)));
        rig.eos();
        assert_brighter(&rgb(), &rig.take_buffers(), 0, 7);
        rig.element.set_state(gst::State::Null).unwrap();
        assert_eq!(rig.errors(), []);
    }

    #[track_caller]
    fn assert_fails(rig: &Rig, code: impl gst::MessageErrorDomain, pieces: &[&str]) {
        assert!(rig.element.set_state(gst::State::Playing).is_err());
        let errors = rig.errors();
        assert_eq!(errors.len(), 1, "{errors:?}");
        println!("{}", errors[0].message());
        assert!(errors[0].matches(code), "{errors:?}");
        assert_text(&errors[0], pieces);
        rig.element.set_state(gst::State::Null).unwrap();
    }

    #[test]
    #[ignore = "run by wrong_libraries"]
    fn wrong_libraries() {
        let folder = std::path::PathBuf::from(std::env::var("DVFACE_TEST_FOLDER").unwrap());
        let rig = Rig::around(element());
        let set = |path: &str| rig.element.set_property("runtime-library", path);
        let settings = gst::LibraryError::Settings;

        set("libonnxruntime.so");
        assert_fails(&rig, settings, &["runtime-library", "libonnxruntime.so", "absolute"]);
        set("/no/such/libonnxruntime.so");
        assert_fails(
            &rig,
            settings,
            &["runtime-library", "/no/such/libonnxruntime.so", "no such file"],
        );
        set(folder.to_str().unwrap());
        assert_fails(
            &rig,
            settings,
            &["runtime-library", folder.to_str().unwrap(), "no such file"],
        );

        let text = folder.join("text.so");
        std::fs::write(&text, "not a library").unwrap();
        set(text.to_str().unwrap());
        assert_fails(
            &rig,
            gst::LibraryError::Init,
            &[
                text.to_str().unwrap(),
                // As the loader says.
                "file too short",
                "ONNX Runtime 1.17 or later",
            ],
        );
        // The plugin is a library, and not ONNX Runtime.
        let other = super::plugin();
        set(other.to_str().unwrap());
        assert_fails(
            &rig,
            gst::LibraryError::Init,
            &[other.to_str().unwrap(), "OrtGetApiBase", "ONNX Runtime 1.17 or later"],
        );
        let old = folder.join("libold.so");
        set(old.to_str().unwrap());
        assert_fails(
            &rig,
            gst::LibraryError::Init,
            &[old.to_str().unwrap(), "1.10.0", "ONNX Runtime 1.17 or later"],
        );

        // None of them spoils the process.
        set(&library());
        assert_works(&rig);
        // One process, one library: the same by another path, but no other.
        let link = folder.join("link.so");
        std::os::unix::fs::symlink(library(), &link).unwrap();
        set(link.to_str().unwrap());
        assert_works(&rig);
        set(old.to_str().unwrap());
        let loaded = std::fs::canonicalize(library()).unwrap();
        assert_fails(
            &rig,
            settings,
            &[
                "runtime-library",
                "expected",
                loaded.to_str().unwrap(),
                "found",
                old.to_str().unwrap(),
            ],
        );
        set(&library());
        assert_works(&rig);
    }

    #[test]
    #[ignore = "run by no_library"]
    fn no_library() {
        let rig = Rig::around(element());
        let search = gstdvface::runtime::LibrarySearch::of_process(None, None);
        if search.find().is_ok() {
            println!("skipped: the system has a libonnxruntime");
            return;
        }
        let pieces = [
            "no ONNX Runtime library found",
            "runtime-library: not set",
            "ORT_DYLIB_PATH",
            "/usr/lib/libonnxruntime.so",
            "pip install",
        ];
        assert_fails(&rig, gst::ResourceError::NotFound, &pieces);
        rig.element.set_property("runtime-library", library());
        assert_works(&rig);
    }

    #[test]
    #[ignore = "run by the_variable_names_the_library"]
    fn the_variable_names_the_library() {
        assert_works(&Rig::around(element()));
    }

    #[test]
    #[ignore = "run by a_wrong_variable_is_an_error"]
    fn a_wrong_variable_is_an_error() {
        let rig = Rig::around(element());
        assert_fails(
            &rig,
            gst::LibraryError::Settings,
            &["ORT_DYLIB_PATH", "libonnxruntime.so", "absolute"],
        );
        // The property comes first.
        rig.element.set_property("runtime-library", library());
        assert_works(&rig);
    }

    #[test]
    #[ignore = "run by a_property_that_cannot_change_is_a_warning"]
    fn a_property_that_cannot_change() {
        let rig = Rig::around(element());
        rig.element.set_property("runtime-library", library());
        rig.element.set_property("model", crate::bundle("brighter"));
        rig.play();
        rig.element.set_property("strength", 0.5);
        rig.element.set_property("model", "other");
        assert_eq!(rig.element.property::<String>("model"), crate::bundle("brighter"));
    }

    #[test]
    #[ignore = "run by nothing_is_written_to_the_terminal"]
    fn runs_that_fail_and_end() {
        let rig = Rig::around(element());
        rig.element.set_property("runtime-library", library());
        rig.element.set_property("model", crate::bundle("failing"));
        rig.play();
        rig.start(&rgb().to_caps().unwrap());
        rig.push_all((0..4).map(|index| rig::flat(&rgb(), index, 250)));
        assert!(rig.push(rig::flat(&rgb(), 4, 250)).is_err());
        assert_eq!(rig.errors().len(), 1);
    }

    #[test]
    #[ignore = "run by nothing_leaks"]
    fn nothing_leaks() {
        let rig = Rig::around(element());
        rig::in_region_mode(&rig.element).unwrap();
        rig.element.set_property("runtime-library", library());
        assert_works(&rig);
        // Frames and events are held when it stops, and when it is flushed.
        for flush in [false, true] {
            rig.play();
            rig.start(&rgb().to_caps().unwrap());
            rig.push_all((0..7).map(|index| frame(&rgb(), index)));
            let event = gst::event::CustomDownstream::new(gst::Structure::new_empty("held"));
            assert!(rig.event(event));
            rig.push_all((7..8).map(|index| frame(&rgb(), index)));
            if flush {
                rig.event(gst::event::FlushStart::new());
                rig.event(gst::event::FlushStop::new(true));
            }
            rig.element.set_state(gst::State::Null).unwrap();
        }
        // Starting fails, a run fails, frames pass through, downstream refuses.
        rig.element.set_property("model", crate::bundle("broken/wrong-type"));
        assert!(rig.element.set_state(gst::State::Paused).is_err());
        rig.element.set_state(gst::State::Null).unwrap();
        rig.element.set_property("model", crate::bundle("failing"));
        rig.play();
        rig.start(&rgb().to_caps().unwrap());
        rig.push_all((0..4).map(|index| rig::flat(&rgb(), index, 250)));
        assert!(rig.push(rig::flat(&rgb(), 4, 250)).is_err());
        rig.element.set_property("strength", 0.0);
        rig.push_all((0..4).map(|index| frame(&rgb(), index)));
        rig.element.set_property("strength", 1.0);
        rig.on_buffer(|_| Err(gst::FlowError::Eos));
        let _ = (0..6).try_for_each(|index| rig.push(frame(&rgb(), index)).map(|_| ()));
        drop(rig);

        std::mem::forget(gst::Caps::new_empty_simple("leaked-on-purpose"));
        // Where the tracer tells what is alive.
        unsafe { gst::deinit() };
    }
}
