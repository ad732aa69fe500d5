// SPDX-License-Identifier: MPL-2.0

//! The parts of a frame that are restored: the whole of it, or a crop for each face; and the way of their pixels.

use std::time::{Duration, Instant};

use gst::glib;
use gst_video::{VideoFrameRef, VideoInfo, VideoRegionOfInterestMeta};

use super::cut::Cutter;
use super::paste::{self, Paste, Share};
use super::picture::{Picture, ReadFrame};
use crate::face::Rect;
use crate::face::mask::{Mask, Shape};
use crate::face::square::Cropper;
use crate::face::tracks::Shown;
use crate::scene::Area;

/// Run of the whole frame. Tracks have numbers from 1 on.
pub const WHOLE: u64 = 0;

/// Type of the region of interest metas that say what was restored.
pub const RESTORED_TYPE: &str = "dvface-restored";

/// A part of a frame that is restored, by its run through time.
#[derive(Clone, Debug)]
pub enum Region {
    Whole,
    Face(FaceRegion),
}

/// A face's part of a frame.
#[derive(Clone, Debug)]
pub struct FaceRegion {
    pub track: u64,
    face: Rect,
    mask: Mask,
    /// Masks of other faces that lie on top.
    others: Vec<Mask>,
}

impl Region {
    pub fn run(&self) -> u64 {
        match self {
            Self::Whole => WHOLE,
            Self::Face(face) => face.track,
        }
    }
}

/// How faces are cut out of frames, and put back.
#[derive(Clone, Copy, Debug)]
pub struct FaceLook {
    /// Space around the face on each side, in heights of its box.
    pub margin: f64,
    pub shape: Shape,
    /// Low frequencies are the input's.
    pub matches_colours: bool,
}

/// Converts crops of frames of one caps to packed RGB of a bundle's size, and back.
pub struct FacePictures {
    info: VideoInfo,
    look: FaceLook,
    cropper: Cropper,
    cutter: Cutter,
    paste: Paste,
}

impl FacePictures {
    /// For frames of `info` and a bundle of `width` x `height` pixels.
    ///
    /// # Errors
    /// Fails where memory lacks.
    pub fn new(info: &VideoInfo, width: u32, height: u32, look: FaceLook) -> Result<Self, glib::BoolError> {
        // All of a bundle's frame.
        let place = Area {
            x: 0,
            y: 0,
            width,
            height,
        };
        Ok(Self {
            info: info.clone(),
            look,
            cropper: Cropper {
                frame: (info.width(), info.height()),
                pixel_aspect: f64::from(info.par().numer().max(1)) / f64::from(info.par().denom().max(1)),
                aspect: f64::from(width) / f64::from(height),
                margin: look.margin,
                step: paste::block(info),
            },
            cutter: Cutter::new(info, width, height)?,
            paste: Paste::new(info, (width, height), place)?,
        })
    }

    /// The parts of a frame in which these faces show.
    pub fn regions(&self, shown: &[Shown]) -> Vec<Region> {
        let masks: Vec<Mask> = shown
            .iter()
            .map(|shown| Mask {
                shape: self.look.shape,
                crop: self.cropper.crop(&shown.rect),
                share: shown.share,
            })
            .collect();
        let regions = shown.iter().zip(&masks).enumerate().map(|(at, (shown, mask))| {
            let others = masks.iter().enumerate();
            Region::Face(FaceRegion {
                track: shown.id,
                face: shown.rect,
                mask: *mask,
                others: others
                    .filter(|(other, touching)| *other != at && touching.touches(mask))
                    .map(|(_, mask)| *mask)
                    .collect(),
            })
        });
        regions.collect()
    }

    /// Converts and scales a face's part of a frame to packed RGB [H, W, 3].
    ///
    /// # Errors
    /// Fails where GstVideoConverter does not convert between the two.
    pub fn read(
        &mut self,
        frame: &ReadFrame<'_>,
        region: &FaceRegion,
        pixels: &mut [u8],
    ) -> Result<(), glib::BoolError> {
        self.cutter.read(frame, region.mask.crop.area, pixels)
    }

    /// Adds to a frame what the graphs changed in a face's part of it, as [`Picture::apply`] does for a whole frame, and says so in a
    /// meta.
    ///
    /// # Errors
    /// Fails where GstVideoConverter does not convert between the two, or memory lacks.
    pub fn apply(
        &mut self,
        buffer: &mut gst::BufferRef,
        region: &FaceRegion,
        strength: f64,
        seen: &[u8],
        draw: impl FnOnce(&mut [u8]),
    ) -> Result<(), glib::BoolError> {
        let strength = strength * region.mask.share;
        let weights = region.mask.blocks(paste::block(&self.info), &region.others);
        let share = Share {
            strength,
            weights: Some(&weights),
            matches_colours: self.look.matches_colours,
        };
        let mut frame = VideoFrameRef::from_buffer_ref_writable(buffer, &self.info)
            .map_err(|_| glib::bool_error!("cannot map a frame for writing"))?;
        self.paste.apply(&mut frame, region.mask.crop.area, share, seen, draw);
        drop(frame);
        self.tell(buffer, region, strength);
        Ok(())
    }

    /// Adds the meta that tells of a restored face.
    fn tell(&self, buffer: &mut gst::BufferRef, region: &FaceRegion, strength: f64) {
        // Of the face's box what is in the frame, in whole pixels.
        let side = |start: f64, length: f64, limit: u32| {
            let bounded = |value: f64| value.round().clamp(0.0, f64::from(limit)) as u32;
            let start_at = bounded(start);
            (start_at, bounded(start + length) - start_at)
        };
        let (x, width) = side(region.face.x, region.face.width, self.info.width());
        let (y, height) = side(region.face.y, region.face.height, self.info.height());
        let area = region.mask.crop.area;
        let mut meta = VideoRegionOfInterestMeta::add(buffer, RESTORED_TYPE, (x, y, width, height));
        // Numbers of tracks are counted up from 1: a stream would have to show faces for years.
        meta.set_id(i32::try_from(region.track).unwrap_or(i32::MAX));
        meta.add_param(
            gst::Structure::builder(RESTORED_TYPE)
                .field("track", region.track)
                .field("strength", strength)
                .field("crop-x", area.x)
                .field("crop-y", area.y)
                .field("crop-width", area.width)
                .field("crop-height", area.height)
                .build(),
        );
    }
}

/// Ways for all regions of frames of one caps.
pub struct Pictures {
    /// Of the whole frame; of the bundle's size where that is what is restored.
    pub whole: Picture,
    pub faces: Option<FacePictures>,
    /// Time spent since it was last taken.
    spent: Duration,
}

impl Pictures {
    pub fn new(whole: Picture, faces: Option<FacePictures>) -> Self {
        Self {
            whole,
            faces,
            spent: Duration::ZERO,
        }
    }

    /// The time spent on reading and applying since the last call.
    pub fn take_spent(&mut self) -> Duration {
        std::mem::take(&mut self.spent)
    }

    /// Reads a region's pixels.
    ///
    /// # Errors
    /// As [`FacePictures::read`].
    pub fn read(&mut self, frame: &ReadFrame<'_>, region: &Region, pixels: &mut [u8]) -> Result<(), glib::BoolError> {
        let started = Instant::now();
        let done = match (region, &mut self.faces) {
            (Region::Face(region), Some(faces)) => faces.read(frame, region, pixels),
            _ => {
                self.whole.read(frame, pixels);
                Ok(())
            }
        };
        self.spent += started.elapsed();
        done
    }

    /// Applies to a frame what the graphs changed in a region.
    ///
    /// # Errors
    /// As [`FacePictures::apply`].
    pub fn apply(
        &mut self,
        buffer: &mut gst::BufferRef,
        region: &Region,
        strength: f64,
        seen: &[u8],
        draw: impl FnOnce(&mut [u8]),
    ) -> Result<(), glib::BoolError> {
        let started = Instant::now();
        let done = match (region, &mut self.faces) {
            (Region::Face(region), Some(faces)) => faces.apply(buffer, region, strength, seen, draw),
            _ => {
                let info = self.whole.info().clone();
                let mut frame = VideoFrameRef::from_buffer_ref_writable(buffer, &info)
                    .map_err(|_| glib::bool_error!("cannot map a frame for writing"))?;
                self.whole.apply(&mut frame, strength, seen, draw);
                Ok(())
            }
        };
        self.spent += started.elapsed();
        done
    }
}
