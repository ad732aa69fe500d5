// SPDX-License-Identifier: MPL-2.0

//! What an application sees of the element: properties, templates, metadata.

use gst::glib;
use gst::prelude::*;

use crate::rig::{self, Rig};

/// Name, type, whether it can be changed while playing.
const PROPERTIES: [(&str, &str, bool); 27] = [
    ("model", "gchararray", false),
    ("provider", "GstDvFaceRestoreProvider", false),
    ("active-provider", "gchararray", false),
    ("device-id", "guint", false),
    ("num-threads", "guint", false),
    ("gpu-mem-limit", "guint64", false),
    ("cuda-graphs", "gboolean", false),
    ("runtime-library", "gchararray", false),
    ("engine-cache", "gchararray", false),
    ("window-frames", "guint", false),
    ("overlap-frames", "guint", false),
    ("strength", "gdouble", true),
    ("region", "GstDvFaceRestoreRegion", false),
    ("roi-type", "gchararray", false),
    ("detector", "gchararray", false),
    ("detect-interval", "guint", false),
    ("max-faces", "guint", false),
    ("min-face-size", "guint", false),
    ("max-face-size", "guint", false),
    ("max-turn", "gdouble", false),
    ("face-margin", "gdouble", false),
    ("mask", "GstDvFaceRestoreMask", false),
    ("match-colours", "gboolean", false),
    ("scene-cut", "gdouble", true),
    ("overload", "GstDvFaceRestoreOverload", true),
    ("processing-deadline", "guint64", false),
    ("stats", "GstStructure", false),
];

fn own_properties(element: &gst::Element) -> Vec<glib::ParamSpec> {
    let own = element.type_();
    element
        .list_properties()
        .iter()
        .filter(|spec| spec.owner_type() == own)
        .cloned()
        .collect()
}

#[test]
fn every_property_is_described() {
    let element = rig::element("brighter");
    let specs = own_properties(&element);
    let found: Vec<&str> = specs.iter().map(|spec| spec.name()).collect();
    let mut expected = PROPERTIES.map(|(name, ..)| name);
    let mut sorted = found.clone();
    sorted.sort_unstable();
    expected.sort_unstable();
    assert_eq!(sorted, expected);
    for spec in &specs {
        let (_, kind, playing) = PROPERTIES.iter().find(|(name, ..)| *name == spec.name()).unwrap();
        assert_eq!(spec.value_type().name(), *kind, "{}", spec.name());
        let blurb = spec.blurb().expect("a blurb");
        assert!(
            blurb.len() > 15 && blurb.chars().next().unwrap().is_uppercase(),
            "{}: {blurb}",
            spec.name()
        );
        assert!(!spec.nick().is_empty());
        let flags = spec.flags();
        assert!(flags.contains(glib::ParamFlags::READABLE), "{}", spec.name());
        let writable = flags.contains(glib::ParamFlags::WRITABLE);
        assert_eq!(writable, !["active-provider", "stats"].contains(&spec.name()));
        assert_eq!(
            flags.contains(gst::PARAM_FLAG_MUTABLE_PLAYING),
            *playing,
            "{}",
            spec.name()
        );
        assert_eq!(
            flags.contains(gst::PARAM_FLAG_CONTROLLABLE),
            spec.name() == "strength",
            "{}",
            spec.name()
        );
        assert_eq!(
            flags.contains(gst::PARAM_FLAG_MUTABLE_READY),
            writable && !playing,
            "{}",
            spec.name()
        );
    }
}

#[test]
fn defaults_are_those_of_the_specification() {
    crate::init();
    let element = gst::ElementFactory::make("dvfacerestore").build().unwrap();
    for spec in own_properties(&element) {
        if spec.name() == "stats" {
            continue;
        }
        let value = element.property_value(spec.name());
        assert_eq!(
            value.transform::<String>().unwrap().get::<Option<String>>().unwrap(),
            spec.default_value()
                .transform::<String>()
                .unwrap()
                .get::<Option<String>>()
                .unwrap(),
            "{}",
            spec.name()
        );
    }
    assert_eq!(element.property::<String>("model"), "dvface-nano");
    assert_eq!(element.property::<f64>("strength"), 1.0);
    assert_eq!(element.property::<f64>("scene-cut"), 0.0);
    assert_eq!(element.property_value("overload").serialize().unwrap(), "block");
    let stats = element.property::<gst::Structure>("stats");
    assert_eq!(stats.get::<&str>("provider").unwrap(), "none");
    assert_eq!(stats.get::<u64>("frames-in").unwrap(), 0);
}

#[test]
fn values_are_kept_and_bounded() {
    let element = rig::element("brighter");
    let set_and_get = |name: &str, text: &str| {
        element.set_property_from_str(name, text);
        element.property_value(name).serialize().unwrap().to_string()
    };
    for (name, text) in [
        ("model", "other"),
        ("provider", "tensorrt"),
        ("device-id", "3"),
        ("num-threads", "2"),
        ("gpu-mem-limit", "2000000000"),
        ("cuda-graphs", "true"),
        ("runtime-library", "/a/b.so"),
        ("engine-cache", "/cache"),
        ("window-frames", "9"),
        ("overlap-frames", "2"),
        ("strength", "0.5"),
        ("region", "detect"),
        ("roi-type", "vehicle"),
        ("detector", "/a/yunet.onnx"),
        ("detect-interval", "7"),
        ("max-faces", "3"),
        ("min-face-size", "50"),
        ("max-face-size", "500"),
        ("max-turn", "0.5"),
        ("face-margin", "1"),
        ("mask", "square"),
        ("match-colours", "false"),
        ("scene-cut", "0.25"),
        ("overload", "bypass"),
        ("processing-deadline", "1000000"),
    ] {
        assert_eq!(set_and_get(name, text), text, "{name}");
    }
    let strength = element.find_property("strength").unwrap();
    let strength = strength.downcast_ref::<glib::ParamSpecDouble>().unwrap();
    assert_eq!((strength.minimum(), strength.maximum()), (0.0, 1.0));
    let deadline = element.find_property("processing-deadline").unwrap();
    let deadline = deadline.downcast_ref::<glib::ParamSpecUInt64>().unwrap();
    assert!(deadline.maximum() < u64::MAX, "the one value that is no time");
    element.set_property("processing-deadline", deadline.maximum());
    element.set_property("runtime-library", "");
    assert_eq!(element.property::<Option<String>>("runtime-library"), None);
}

#[test]
fn what_is_fixed_at_the_start_is_not_changed_later() {
    let rig = Rig::new("brighter");
    let fixed = [
        ("region", "meta"),
        ("max-faces", "2"),
        ("mask", "square"),
        ("model", "other"),
        ("provider", "cuda"),
        ("device-id", "3"),
        ("num-threads", "7"),
        ("gpu-mem-limit", "7"),
        ("cuda-graphs", "true"),
        ("runtime-library", "/other.so"),
        ("engine-cache", "/other"),
        ("window-frames", "9"),
        ("overlap-frames", "1"),
        ("processing-deadline", "5"),
    ];
    for state in [gst::State::Playing, gst::State::Paused] {
        rig.element.set_state(state).unwrap();
        for (name, text) in fixed {
            let before = rig.element.property_value(name).serialize().ok();
            rig.element.set_property_from_str(name, text);
            assert_eq!(
                rig.element.property_value(name).serialize().ok(),
                before,
                "{name} in {state:?}"
            );
        }
        for (name, text) in [("strength", "0.25"), ("scene-cut", "0.5"), ("overload", "bypass")] {
            rig.element.set_property_from_str(name, text);
            assert_eq!(rig.element.property_value(name).serialize().unwrap(), text);
        }
    }
    rig.element.set_state(gst::State::Ready).unwrap();
    for (name, text) in fixed {
        rig.element.set_property_from_str(name, text);
        assert_eq!(rig.element.property_value(name).serialize().unwrap(), text, "{name}");
    }
}

#[test]
fn the_statistics_tell_what_was_done() {
    let rig = Rig::new("brighter");
    rig.start(&rig::rgb().to_caps().unwrap());
    rig.push_all((0..12).map(|index| rig::frame(&rig::rgb(), index)));
    let names = |stats: &gst::StructureRef| stats.fields().map(|name| name.to_string()).collect::<Vec<_>>();
    let stats = rig.element.property::<gst::Structure>("stats");
    assert_eq!(stats.name(), "dvfacerestore-stats");
    for graph in ["encoder", "prior", "dit", "decoder"] {
        let mean = stats.get::<f64>(format!("{graph}-mean-ms")).unwrap();
        let p95 = stats.get::<f64>(format!("{graph}-p95-ms")).unwrap();
        assert!(mean > 0.0 && p95 > 0.0, "{graph}: {mean} {p95}");
    }
    assert_eq!(
        ["frames-in", "frames-out", "windows"].map(|name| stats.get::<u64>(name).unwrap()),
        [12, 8, 2]
    );
    let conversion = stats.get::<f64>("conversion-total-ms").unwrap();
    assert!(conversion > 0.0 && conversion < 60e3, "{conversion}");
    assert_eq!(names(&stats).len(), 12 + 8);

    // Of this start, not of the one before.
    rig.element.set_state(gst::State::Ready).unwrap();
    rig.play();
    assert_eq!(rig.stat("frames-in"), 0);
}

#[test]
fn metadata_and_templates() {
    crate::init();
    let factory = gst::ElementFactory::find("dvfacerestore").unwrap();
    assert_eq!(factory.metadata("klass"), Some("Filter/Effect/Video"));
    for key in ["long-name", "description", "author"] {
        assert!(!factory.metadata(key).unwrap().is_empty());
    }
    assert_eq!(factory.rank(), gst::Rank::NONE, "nothing plugs it by itself");
    assert_eq!(factory.static_pad_templates().len(), 2);
    let element = rig::element("brighter");
    assert!(!element.property::<bool>("qos"), "late frames are kept");
}

/// GObject's strings have no encoding, and names of files need none.
#[test]
fn strings_need_not_be_utf8() {
    use gst::glib::translate::{ToGlibPtr, ToGlibPtrMut};

    let element = rig::element("brighter");
    for name in ["model", "roi-type", "detector", "runtime-library", "engine-cache"] {
        let mut value = gst::glib::Value::from_type(gst::glib::Type::STRING);
        unsafe {
            gst::glib::gobject_ffi::g_value_set_string(value.to_glib_none_mut().0, c"/tmp/\xff\xfe.onnx".as_ptr());
            gst::glib::gobject_ffi::g_object_set_property(
                element.as_ptr().cast(),
                format!("{name}\0").as_ptr().cast(),
                value.to_glib_none().0,
            );
        }
        assert_eq!(element.property::<String>(name), "/tmp/\u{fffd}\u{fffd}.onnx", "{name}");
    }
}
