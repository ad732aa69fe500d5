// SPDX-License-Identifier: MPL-2.0

//! The element's properties.

use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::LazyLock;

use gst::glib;
use gst::glib::translate::ToGlibPtr;
use gst::prelude::*;

use crate::face::mask;

/// What runs the graphs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, glib::Enum)]
#[enum_type(name = "GstDvFaceRestoreProvider")]
#[repr(u32)]
pub enum ProviderChoice {
    #[default]
    #[enum_value(name = "CUDA where it works, else the CPU; a message says which", nick = "auto")]
    Auto,
    #[enum_value(name = "CPU", nick = "cpu")]
    Cpu,
    #[enum_value(name = "NVIDIA CUDA, or an error", nick = "cuda")]
    Cuda,
    #[enum_value(
        name = "NVIDIA TensorRT, or an error; the first start builds engines for minutes",
        nick = "tensorrt"
    )]
    TensorRt,
}

/// Which part of a frame is restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, glib::Enum)]
#[enum_type(name = "GstDvFaceRestoreRegion")]
#[repr(u32)]
pub enum Region {
    #[default]
    #[enum_value(name = "The whole frame, letterboxed to the bundle's size", nick = "frame")]
    Frame,
    #[enum_value(
        name = "Faces that metas of upstream tell of (GstVideoRegionOfInterestMeta)",
        nick = "meta"
    )]
    Meta,
    #[enum_value(name = "Faces that an own detector finds (property detector)", nick = "detect")]
    Detect,
}

/// Where in its crop a restored face shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, glib::Enum)]
#[enum_type(name = "GstDvFaceRestoreMask")]
#[repr(u32)]
pub enum MaskShape {
    #[default]
    #[enum_value(name = "An ellipse with a soft edge", nick = "ellipse")]
    Ellipse,
    #[enum_value(name = "A square with a soft edge", nick = "square")]
    Square,
}

impl From<MaskShape> for mask::Shape {
    fn from(shape: MaskShape) -> Self {
        match shape {
            MaskShape::Ellipse => Self::Ellipse,
            MaskShape::Square => Self::Square,
        }
    }
}

/// What happens in live use when the next window cannot be in time, and when a run fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, glib::Enum)]
#[enum_type(name = "GstDvFaceRestoreOverload")]
#[repr(u32)]
pub enum Overload {
    #[default]
    #[enum_value(
        name = "Every frame is restored, however late; a run that fails is an error",
        nick = "block"
    )]
    Block,
    #[enum_value(
        name = "Live frames that would be late, and frames whose run fails, go on unrestored",
        nick = "bypass"
    )]
    Bypass,
}

/// Values of the properties.
#[derive(Debug, Clone)]
pub struct Settings {
    pub model: String,
    pub provider: ProviderChoice,
    pub device_id: u32,
    pub num_threads: u32,
    pub gpu_mem_limit: u64,
    pub cuda_graphs: bool,
    pub runtime_library: Option<PathBuf>,
    pub engine_cache: Option<PathBuf>,
    pub window_frames: u32,
    pub overlap_frames: u32,
    pub strength: f64,
    pub region: Region,
    pub roi_type: String,
    pub detector: Option<PathBuf>,
    pub detect_interval: u32,
    pub max_faces: u32,
    pub min_face_size: u32,
    pub max_face_size: u32,
    pub max_turn: f64,
    pub face_margin: f64,
    pub mask: MaskShape,
    pub match_colours: bool,
    pub scene_cut: f64,
    pub overload: Overload,
    pub processing_deadline: gst::ClockTime,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            model: "dvface-nano".into(),
            provider: ProviderChoice::default(),
            device_id: 0,
            num_threads: 0,
            gpu_mem_limit: 0,
            cuda_graphs: false,
            runtime_library: None,
            engine_cache: None,
            window_frames: 0,
            overlap_frames: 0,
            strength: 1.0,
            region: Region::default(),
            roi_type: "face".into(),
            detector: None,
            detect_interval: 2,
            max_faces: 4,
            min_face_size: 48,
            max_face_size: 0,
            max_turn: 1.2,
            // Head and shoulders, as in the training clips: 2.25 times the face's height.
            face_margin: 0.625,
            mask: MaskShape::default(),
            match_colours: true,
            scene_cut: 0.0,
            overload: Overload::default(),
            processing_deadline: gst::ClockTime::ZERO,
        }
    }
}

impl Settings {
    /// Folder of TensorRT's caches.
    pub fn engine_cache_dir(&self) -> PathBuf {
        match &self.engine_cache {
            Some(dir) => dir.clone(),
            None => glib::user_cache_dir().join("dvface").join("engines"),
        }
    }

    /// Value of a readable and writable property.
    pub fn get(&self, name: &str) -> glib::Value {
        match name {
            "model" => self.model.to_value(),
            "provider" => self.provider.to_value(),
            "device-id" => self.device_id.to_value(),
            "num-threads" => self.num_threads.to_value(),
            "gpu-mem-limit" => self.gpu_mem_limit.to_value(),
            "cuda-graphs" => self.cuda_graphs.to_value(),
            "runtime-library" => path_value(self.runtime_library.as_ref()),
            "engine-cache" => path_value(self.engine_cache.as_ref()),
            "window-frames" => self.window_frames.to_value(),
            "overlap-frames" => self.overlap_frames.to_value(),
            "strength" => self.strength.to_value(),
            "region" => self.region.to_value(),
            "roi-type" => self.roi_type.to_value(),
            "detector" => path_value(self.detector.as_ref()),
            "detect-interval" => self.detect_interval.to_value(),
            "max-faces" => self.max_faces.to_value(),
            "min-face-size" => self.min_face_size.to_value(),
            "max-face-size" => self.max_face_size.to_value(),
            "max-turn" => self.max_turn.to_value(),
            "face-margin" => self.face_margin.to_value(),
            "mask" => self.mask.to_value(),
            "match-colours" => self.match_colours.to_value(),
            "scene-cut" => self.scene_cut.to_value(),
            "overload" => self.overload.to_value(),
            "processing-deadline" => self.processing_deadline.nseconds().to_value(),
            _ => unreachable!("{name} is no property of the element"),
        }
    }

    /// Takes a value of the property's type.
    pub fn set(&mut self, name: &str, value: &glib::Value) {
        const TYPE: &str = "GObject checks a property's type";
        match name {
            "model" => self.model = text(value),
            "provider" => self.provider = value.get().expect(TYPE),
            "device-id" => self.device_id = value.get().expect(TYPE),
            "num-threads" => self.num_threads = value.get().expect(TYPE),
            "gpu-mem-limit" => self.gpu_mem_limit = value.get().expect(TYPE),
            "cuda-graphs" => self.cuda_graphs = value.get().expect(TYPE),
            "runtime-library" => self.runtime_library = path(value),
            "engine-cache" => self.engine_cache = path(value),
            "window-frames" => self.window_frames = value.get().expect(TYPE),
            "overlap-frames" => self.overlap_frames = value.get().expect(TYPE),
            "strength" => self.strength = value.get().expect(TYPE),
            "region" => self.region = value.get().expect(TYPE),
            "roi-type" => self.roi_type = text(value),
            "detector" => self.detector = path(value),
            "detect-interval" => self.detect_interval = value.get().expect(TYPE),
            "max-faces" => self.max_faces = value.get().expect(TYPE),
            "min-face-size" => self.min_face_size = value.get().expect(TYPE),
            "max-face-size" => self.max_face_size = value.get().expect(TYPE),
            "max-turn" => self.max_turn = value.get().expect(TYPE),
            "face-margin" => self.face_margin = value.get().expect(TYPE),
            "mask" => self.mask = value.get().expect(TYPE),
            "match-colours" => self.match_colours = value.get().expect(TYPE),
            "scene-cut" => self.scene_cut = value.get().expect(TYPE),
            "overload" => self.overload = value.get().expect(TYPE),
            "processing-deadline" => {
                self.processing_deadline = gst::ClockTime::from_nseconds(value.get().expect(TYPE));
            }
            _ => unreachable!("{name} is no property of the element"),
        }
    }
}

fn path_value(path: Option<&PathBuf>) -> glib::Value {
    path.map(|path| path.to_string_lossy().into_owned()).to_value()
}

/// An empty string unsets.
fn path(value: &glib::Value) -> Option<PathBuf> {
    let bytes = bytes(value)?;
    (!bytes.is_empty()).then(|| OsStr::from_bytes(bytes).into())
}

/// What is no UTF-8 becomes U+FFFD, and names no bundle and no type.
fn text(value: &glib::Value) -> String {
    String::from_utf8_lossy(bytes(value).unwrap_or_default()).into_owned()
}

/// The bytes of a string, which need not be UTF-8: GObject's strings have no encoding, and names of files none that is certain.
/// `Value::get` panics on others.
fn bytes(value: &glib::Value) -> Option<&[u8]> {
    assert!(value.is::<String>(), "GObject checks a property's type");
    // SAFETY: the value is a string, of which this is NULL or what the value keeps.
    unsafe {
        let text = glib::gobject_ffi::g_value_get_string(value.to_glib_none().0);
        (!text.is_null()).then(|| CStr::from_ptr(text).to_bytes())
    }
}

/// The property specifications.
pub fn properties() -> &'static [glib::ParamSpec] {
    static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
        let default = Settings::default();
        vec![
            glib::ParamSpecString::builder("model")
                .nick("Model")
                .blurb("Bundle of the model, by its name or the path of its folder")
                .default_value(default.model.as_str())
                .mutable_ready()
                .build(),
            glib::ParamSpecEnum::builder_with_default("provider", default.provider)
                .nick("Provider")
                .blurb("Execution provider; one that is named works or is an error")
                .mutable_ready()
                .build(),
            glib::ParamSpecString::builder("active-provider")
                .nick("Active provider")
                .blurb("What the graphs are loaded on (NULL before the model is loaded)")
                .read_only()
                .build(),
            glib::ParamSpecUInt::builder("device-id")
                .nick("Device ID")
                .blurb("Number of the GPU")
                .maximum(i32::MAX as u32)
                .default_value(default.device_id)
                .mutable_ready()
                .build(),
            glib::ParamSpecUInt::builder("num-threads")
                .nick("Number of threads")
                .blurb("CPU threads within an operator (0 = all cores that the process may use)")
                .maximum(1024)
                .default_value(default.num_threads)
                .mutable_ready()
                .build(),
            glib::ParamSpecUInt64::builder("gpu-mem-limit")
                .nick("GPU memory limit")
                .blurb("Bytes that the CUDA provider's arena of each of the four graphs may take (0 = no limit)")
                .default_value(default.gpu_mem_limit)
                .mutable_ready()
                .build(),
            glib::ParamSpecBoolean::builder("cuda-graphs")
                .nick("CUDA graphs")
                .blurb("Capture the graphs' runs as CUDA graphs; for bundles whose graphs run on the GPU alone")
                .default_value(default.cuda_graphs)
                .mutable_ready()
                .build(),
            glib::ParamSpecString::builder("runtime-library")
                .nick("Runtime library")
                .blurb(
                    "Absolute path of libonnxruntime (NULL = ORT_DYLIB_PATH, else beside the plugin, else the system's)",
                )
                .mutable_ready()
                .build(),
            glib::ParamSpecString::builder("engine-cache")
                .nick("Engine cache")
                .blurb("Folder of TensorRT's engine and timing caches (NULL = dvface/engines in the user's cache folder)")
                .mutable_ready()
                .build(),
            glib::ParamSpecUInt::builder("window-frames")
                .nick("Window frames")
                .blurb("Frames that are restored together, one of the lengths that the bundle allows (0 = the bundle's)")
                .default_value(default.window_frames)
                .mutable_ready()
                .build(),
            glib::ParamSpecUInt::builder("overlap-frames")
                .nick("Overlap frames")
                .blurb("Frames that two windows share and that are cross-faded, at most half a window (0 = the bundle's)")
                .default_value(default.overlap_frames)
                .mutable_ready()
                .build(),
            glib::ParamSpecDouble::builder("strength")
                .nick("Strength")
                .blurb("Share of the restored picture in the output; 0 passes the input through")
                .minimum(0.0)
                .maximum(1.0)
                .default_value(default.strength)
                .controllable()
                .mutable_playing()
                .build(),
            glib::ParamSpecEnum::builder_with_default("region", default.region)
                .nick("Region")
                .blurb("Which part of a frame is restored")
                .mutable_ready()
                .build(),
            glib::ParamSpecString::builder("roi-type")
                .nick("Region of interest type")
                .blurb("With region=meta: type of the metas (regions of interest, object detections) that tell of faces")
                .default_value(default.roi_type.as_str())
                .mutable_ready()
                .build(),
            glib::ParamSpecString::builder("detector")
                .nick("Detector")
                .blurb("With region=detect: file of the face detector, YuNet (2023) or Ultra-Light RFB-320 in ONNX form")
                .mutable_ready()
                .build(),
            glib::ParamSpecUInt::builder("detect-interval")
                .nick("Detection interval")
                .blurb("With region=detect: the detector looks at every n-th frame, and at each one while a face moves suddenly")
                .minimum(1)
                .maximum(100)
                .default_value(default.detect_interval)
                .mutable_ready()
                .build(),
            glib::ParamSpecUInt::builder("max-faces")
                .nick("Most faces")
                .blurb("Faces that are restored at once, the largest ones")
                .minimum(1)
                .maximum(64)
                .default_value(default.max_faces)
                .mutable_ready()
                .build(),
            glib::ParamSpecUInt::builder("min-face-size")
                .nick("Least face size")
                .blurb("Faces of less height are left alone, in pixels")
                .default_value(default.min_face_size)
                .mutable_ready()
                .build(),
            glib::ParamSpecUInt::builder("max-face-size")
                .nick("Greatest face size")
                .blurb("Faces of more height are taken for sharp and left alone, in pixels (0 = none are)")
                .default_value(default.max_face_size)
                .mutable_ready()
                .build(),
            glib::ParamSpecDouble::builder("max-turn")
                .nick("Greatest turn")
                .blurb(
                    "Faces turned farther away are left alone, where the detector gives points: the nose's way out of the \
                     middle, 0 from the front, 1 as far out as an eye",
                )
                .minimum(0.0)
                .maximum(4.0)
                .default_value(default.max_turn)
                .mutable_ready()
                .build(),
            glib::ParamSpecDouble::builder("face-margin")
                .nick("Face margin")
                .blurb("What is cut out around a face on each side, in heights of the face")
                .minimum(0.0)
                .maximum(4.0)
                .default_value(default.face_margin)
                .mutable_ready()
                .build(),
            glib::ParamSpecEnum::builder_with_default("mask", default.mask)
                .nick("Mask")
                .blurb("Where in its cutout a restored face shows")
                .mutable_ready()
                .build(),
            glib::ParamSpecBoolean::builder("match-colours")
                .nick("Match colours")
                .blurb("Keep the input's low frequencies in restored faces, so that they have the colours around them")
                .default_value(default.match_colours)
                .mutable_ready()
                .build(),
            glib::ParamSpecDouble::builder("scene-cut")
                .nick("Scene cut")
                .blurb("Change from one frame to the next that is a cut and ends the window (0 = none is, 0.2 suits most)")
                .minimum(0.0)
                .maximum(1.0)
                .default_value(default.scene_cut)
                .mutable_playing()
                .build(),
            glib::ParamSpecEnum::builder_with_default("overload", default.overload)
                .nick("Overload")
                .blurb("What happens when a live window cannot be in time, and when a run fails")
                .mutable_playing()
                .build(),
            glib::ParamSpecUInt64::builder("processing-deadline")
                .nick("Processing deadline")
                .blurb(
                    "Time for restoring a window that the latency answer allows, in nanoseconds (0 = measured, with a margin)",
                )
                .maximum(gst::ClockTime::MAX.nseconds())
                .default_value(default.processing_deadline.nseconds())
                .mutable_ready()
                .build(),
            glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
                .nick("Statistics")
                .blurb(
                    "Frames in, out, restored, bypassed and with nothing to restore; faces restored; windows; regions that \
                     there is memory for; scene cuts; milliseconds of conversion and of each graph; latency; provider; on a GPU \
                     the most of its memory that was taken",
                )
                .read_only()
                .build(),
        ]
    });
    PROPERTIES.as_ref()
}
