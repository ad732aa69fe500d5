// SPDX-License-Identifier: MPL-2.0

//! A face detector in ONNX Runtime: YuNet or Ultra-Light RFB-320, told apart by their inputs and outputs.

use std::path::{Path, PathBuf};

use ort::environment::Environment;
use ort::session::{Session, builder::SessionBuilder};
use ort::value::{TensorElementType, TensorRef, ValueType};

use super::decode::{self, YUNET_STRIDES, YunetHead};
use super::{Found, Rect};
use crate::runtime::without_stop;

/// Long side of the picture that YuNet sees, in pixels: at most, and at least where the frame has as many.
const YUNET_SIDES: (f64, f64) = (160.0, 640.0);
/// Height of the smallest face that YuNet is to find, in pixels of its picture: it was trained for ten.
const YUNET_FACE: f64 = 12.0;
/// What the sides of YuNet's picture are multiples of.
const YUNET_STEP: u32 = 32;
/// Size of the picture that RFB-320 sees.
const RFB_SIZE: (u32, u32) = (320, 240);

/// Scores from which on something is a face.
const YUNET_SCORE: f64 = 0.7;
const RFB_SCORE: f64 = 0.7;

/// Bytes of a detector's file: both that are supported have less than two million.
const FILE_LIMIT: u64 = 64 << 20;

/// Why there is no detector, or why it does not run.
#[derive(Debug, thiserror::Error)]
pub enum DetectorError {
    #[error(
        "region=detect needs the file of a face detector in the property detector. One that works is YuNet, Apache-2.0 licence: \
         onnx/yunet_n_dynamic.onnx of the repository ShiqiYu/libfacedetection.train at commit \
         0047ac24afb1a50a0c6105001c89d1b5b805dbf1, 322906 bytes, sha256 \
         104ee26c71d5c270ce79a6b3dced91c91013260d29a6bf18f9296c5b8c4c2b12; another is Ultra-Light RFB-320, MIT licence: \
         models/onnx/version-RFB-320.onnx of Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB at commit \
         dffdddda9794a50607cba8f318507a28c1c27cab, 1270727 bytes, sha256 \
         34cd7e60aeff28744c657de7a3dc64e872d506741de66987f3426f2b79f88017"
    )]
    NotNamed,

    #[error("detector: {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },

    #[error("detector: {}: {}. Give the file of YuNet (2023) or of Ultra-Light RFB-320", path.display(), without_stop(reason))]
    Unusable { path: PathBuf, reason: String },

    #[error("detector failed: {0}")]
    Run(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Yunet,
    Rfb,
}

/// How a frame is shown to the detector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Size of the detector's picture, in pixels.
    pub size: (u32, u32),
    /// What of it, from its top left corner on, is the frame; the rest is black.
    pub content: (u32, u32),
}

/// A detector that is ready.
pub struct Detector {
    session: Session,
    kind: Kind,
    /// [1, 3, H, W].
    input: Vec<f32>,
}

impl Detector {
    /// Loads the detector in the file `path`; it runs on the CPU with `threads` threads (0 for all cores).
    ///
    /// # Errors
    /// Everything of [`DetectorError`] but `Run`.
    pub fn load(environment: &Environment, path: Option<&Path>, threads: u32) -> Result<Self, DetectorError> {
        let path = path.ok_or(DetectorError::NotNamed)?;
        let unusable = |reason: String| DetectorError::Unusable {
            path: path.into(),
            reason,
        };
        let metadata = std::fs::metadata(path).map_err(|source| DetectorError::Read {
            path: path.into(),
            source,
        })?;
        if !metadata.is_file() || metadata.len() > FILE_LIMIT {
            return Err(unusable("not a file of a detector".into()));
        }
        let session = SessionBuilder::new(environment)
            .map_err(|error| unusable(error.to_string()))?
            .with_intra_threads(crate::runtime::threads::of(threads))
            .map_err(|error| unusable(error.to_string()))?
            .with_intra_op_spinning(false)
            .map_err(|error| unusable(error.to_string()))?
            .commit_from_file(path)
            .map_err(|error| unusable(error.to_string()))?;
        let kind = kind(&session).map_err(unusable)?;
        Ok(Self {
            session,
            kind,
            input: Vec::new(),
        })
    }

    /// How frames of `width` x `height` pixels are shown to it, so that it finds faces of `least` pixels, where it can; `pixel_aspect`
    /// is a pixel's width by its height.
    pub fn view(&self, width: u32, height: u32, pixel_aspect: f64, least: u32) -> View {
        match self.kind {
            Kind::Yunet => yunet_view(width, height, pixel_aspect, least),
            Kind::Rfb => View {
                size: RFB_SIZE,
                content: RFB_SIZE,
            },
        }
    }

    /// Faces in a picture, packed RGB, [H, W, 3], in its pixels.
    ///
    /// # Errors
    /// [`DetectorError::Run`].
    pub fn detect(&mut self, pixels: &[u8], view: View) -> Result<Vec<Found>, DetectorError> {
        let (width, height) = (view.size.0 as usize, view.size.1 as usize);
        let plane = width * height;
        self.input.resize(plane * 3, 0.0);
        // YuNet takes blue first, as it is.
        let (order, offset, scale) = match self.kind {
            Kind::Yunet => ([2, 1, 0], 0.0, 1.0),
            Kind::Rfb => ([0, 1, 2], 127.0, 1.0 / 128.0),
        };
        for (to, from) in self.input.chunks_exact_mut(plane).zip(order) {
            for (to, pixel) in to.iter_mut().zip(pixels.chunks_exact(3)) {
                *to = (f32::from(pixel[from]) - offset) * scale;
            }
        }
        let failed = |error: ort::Error| DetectorError::Run(error.to_string());
        let dims = [1, 3, height as i64, width as i64];
        let input = TensorRef::from_array_view((dims, &self.input[..])).map_err(failed)?;
        let outputs = self.session.run(ort::inputs!["input" => input]).map_err(failed)?;
        let output = |name: &str| {
            let value = outputs.get(name);
            let value = value.ok_or_else(|| DetectorError::Run(format!("no output {name}")))?;
            let (_, values) = value.try_extract_tensor::<f32>().map_err(failed)?;
            Ok(values)
        };
        match self.kind {
            Kind::Yunet => {
                let head = |stride: usize| {
                    Ok(YunetHead {
                        cls: output(&format!("cls_{stride}"))?,
                        obj: output(&format!("obj_{stride}"))?,
                        bbox: output(&format!("bbox_{stride}"))?,
                        kps: output(&format!("kps_{stride}"))?,
                    })
                };
                let [a, b, c] = YUNET_STRIDES;
                Ok(decode::yunet(&[head(a)?, head(b)?, head(c)?], width, YUNET_SCORE))
            }
            Kind::Rfb => {
                let size = (width as f64, height as f64);
                Ok(decode::rfb(output("scores")?, output("boxes")?, size, RFB_SCORE))
            }
        }
    }
}

impl View {
    /// A face in pixels of a frame of `width` x `height` pixels, from one in pixels of the detector's picture.
    pub fn to_frame(&self, found: &Found, width: u32, height: u32) -> Found {
        let across = f64::from(width) / f64::from(self.content.0);
        let down = f64::from(height) / f64::from(self.content.1);
        Found {
            rect: Rect {
                x: found.rect.x * across,
                y: found.rect.y * down,
                width: found.rect.width * across,
                height: found.rect.height * down,
            },
            score: found.score,
            landmarks: found
                .landmarks
                .map(|points| points.map(|(x, y)| (x * across, y * down))),
        }
    }
}

fn yunet_view(width: u32, height: u32, pixel_aspect: f64, least: u32) -> View {
    // As the display shows it, and never larger than it is.
    let (across, down) = (
        f64::from(width) * pixel_aspect.max(1.0),
        f64::from(height) / pixel_aspect.min(1.0),
    );
    let long = across.max(down);
    let wanted = long * YUNET_FACE / f64::from(least.max(1));
    let scale = (wanted.clamp(YUNET_SIDES.0, YUNET_SIDES.1) / long).min(1.0);
    let side = |length: f64| ((length * scale).round() as u32).max(1);
    let content = (side(across), side(down));
    View {
        size: (
            content.0.next_multiple_of(YUNET_STEP),
            content.1.next_multiple_of(YUNET_STEP),
        ),
        content,
    }
}

/// Which detector a session is.
fn kind(session: &Session) -> Result<Kind, String> {
    let float_dims = |dtype: &ValueType| match dtype {
        ValueType::Tensor {
            ty: TensorElementType::Float32,
            shape,
            ..
        } => Some(shape.to_vec()),
        _ => None,
    };
    let input = session.inputs().iter().find(|input| input.name() == "input");
    let input = input.and_then(|input| float_dims(input.dtype()));
    let has = |name: &str| {
        let output = session.outputs().iter().find(|output| output.name() == name);
        output.is_some_and(|output| float_dims(output.dtype()).is_some())
    };
    let is_yunet = YUNET_STRIDES.iter().all(|stride| {
        ["cls", "obj", "bbox", "kps"]
            .iter()
            .all(|name| has(&format!("{name}_{stride}")))
    });
    match input.as_deref() {
        // Free sides only: others were exported for one size.
        Some([_, 3 | -1, -1, -1]) if is_yunet => Ok(Kind::Yunet),
        Some([_, 3, 240, 320]) if has("scores") && has("boxes") => Ok(Kind::Rfb),
        _ => {
            let names: Vec<&str> = session.outputs().iter().map(|output| output.name()).collect();
            Err(format!(
                "neither of the two detectors that are known: input {input:?}, outputs {}",
                names.join(", ")
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_is_the_frame_as_it_is_seen_in_whole_steps() {
        let view = yunet_view(1280, 720, 1.0, 0);
        assert_eq!((view.content, view.size), ((640, 360), (640, 384)));
        let view = yunet_view(512, 512, 1.0, 12);
        assert_eq!((view.content, view.size), ((512, 512), (512, 512)));
        let view = yunet_view(720, 576, 16.0 / 15.0, 1);
        assert_eq!(view.content, (640, 480));
        let view = yunet_view(1, 4000, 1.0, 1);
        assert_eq!((view.content, view.size), ((1, 640), (32, 640)));
        // Only as large as the least face needs.
        assert_eq!(yunet_view(1280, 720, 1.0, 48).size, (320, 192));
        assert_eq!(yunet_view(1280, 720, 1.0, 1000).content.0, 160);
        let face = Found {
            rect: Rect {
                x: 10.0,
                y: 20.0,
                width: 30.0,
                height: 40.0,
            },
            score: 0.9,
            landmarks: Some([(1.0, 2.0); 5]),
        };
        let face = yunet_view(1280, 720, 1.0, 0).to_frame(&face, 1280, 720);
        assert_eq!(
            (face.rect.x, face.rect.height, face.landmarks.unwrap()[4]),
            (20.0, 80.0, (2.0, 4.0))
        );
    }
}
