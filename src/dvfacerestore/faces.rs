// SPDX-License-Identifier: MPL-2.0

//! Where the faces of a frame are: from metas of upstream, or from a detector; and which is which through time.

use gst::glib;
use gst::glib::translate::IntoGlib;
use gst_video::{VideoInfo, VideoRegionOfInterestMeta};
use ort::environment::Environment;

use super::picture::{Crop, OwnFrame, ReadFrame, new_frame, rgb_info};
use super::regions::{FaceLook, RESTORED_TYPE};
use super::settings::{Region, Settings};
use crate::face::detector::{Detector, DetectorError, View};
use crate::face::tracks::{Limits, Shown, Tracker};
use crate::face::{Found, Rect};
use crate::scene::Area;

/// Faces of a stream: found, and followed through time.
pub struct Faces {
    source: Source,
    pub look: FaceLook,
    tracker: Tracker,
}

enum Source {
    /// Regions of interest of this type.
    Metas(glib::Quark),
    Detector(Box<Search>),
}

/// A detector, and how frames of the caps are shown to it.
struct Search {
    detector: Detector,
    /// Frames from one search to the next, where all faces are calm.
    interval: u32,
    /// Height of the smallest face that is looked for, in pixels.
    least: u32,
    /// Frames since the last search.
    since: u32,
    way: Option<Way>,
}

struct Way {
    info: VideoInfo,
    view: View,
    crop: Crop,
    rgb: OwnFrame,
    pixels: Vec<u8>,
}

impl Faces {
    /// As the settings say; `None` where the whole frame is restored.
    ///
    /// # Errors
    /// As [`Detector::load`].
    pub fn open(settings: &Settings, environment: &Environment) -> Result<Option<Self>, DetectorError> {
        let source = match settings.region {
            Region::Frame => return Ok(None),
            Region::Meta => Source::Metas(glib::Quark::from_str(&settings.roi_type)),
            Region::Detect => Source::Detector(Box::new(Search {
                detector: Detector::load(environment, settings.detector.as_deref(), settings.num_threads)?,
                interval: settings.detect_interval,
                least: settings.min_face_size,
                since: 0,
                way: None,
            })),
        };
        let limits = Limits {
            max_faces: settings.max_faces as usize,
            min_height: settings.min_face_size.into(),
            max_height: match settings.max_face_size {
                0 => f64::INFINITY,
                height => height.into(),
            },
            max_turn: settings.max_turn,
        };
        let interval = match source {
            Source::Metas(_) => 1,
            Source::Detector(_) => settings.detect_interval,
        };
        Ok(Some(Self {
            source,
            look: FaceLook {
                margin: settings.face_margin,
                shape: settings.mask.into(),
                matches_colours: settings.match_colours,
            },
            tracker: Tracker::new(limits, interval),
        }))
    }

    /// Takes the frames' caps.
    ///
    /// # Errors
    /// Fails where GstVideoConverter does not convert from them, or memory lacks.
    pub fn set_info(&mut self, info: &VideoInfo) -> Result<(), glib::BoolError> {
        self.tracker.set_frame(info.width(), info.height());
        if let Source::Detector(search) = &mut self.source {
            search.way = Some(Way::new(info, &search.detector, search.least)?);
        }
        Ok(())
    }

    /// What comes next is another scene.
    pub fn cut(&mut self) {
        self.tracker.cut();
        if let Source::Detector(search) = &mut self.source {
            search.since = 0;
        }
    }

    /// The faces that show in the next frame, largest first.
    ///
    /// # Errors
    /// Fails where the detector does not run. The tracks go on then as if nobody had looked.
    pub fn next(&mut self, buffer: &gst::BufferRef, frame: &ReadFrame<'_>) -> Result<Vec<Shown>, DetectorError> {
        let found = match &mut self.source {
            Source::Metas(kind) => Ok(Some(of_metas(buffer, *kind))),
            Source::Detector(search) => search.next(frame, self.tracker.is_restless()),
        };
        match found {
            Ok(found) => {
                self.tracker.next(found.as_deref());
                Ok(self.tracker.shown())
            }
            Err(error) => {
                self.tracker.next(None);
                Err(error)
            }
        }
    }
}

/// Faces that metas of this type tell of.
fn of_metas(buffer: &gst::BufferRef, kind: glib::Quark) -> Vec<Found> {
    let restored = glib::Quark::from_str(RESTORED_TYPE);
    let metas = buffer.iter_meta::<VideoRegionOfInterestMeta>();
    let regions = metas
        // What an element of this kind has restored already is not for another one to find.
        .filter(|meta| is_of(meta, kind) && kind != restored)
        .map(|meta| {
            let (x, y, width, height) = meta.rect();
            Found {
                rect: Rect {
                    x: x.into(),
                    y: y.into(),
                    width: width.into(),
                    height: height.into(),
                },
                score: 1.0,
                landmarks: None,
            }
        });
    #[cfg_attr(not(feature = "analytics"), expect(unused_mut))]
    let mut found: Vec<Found> = regions.collect();
    #[cfg(feature = "analytics")]
    super::analytics::add_detections(&mut found, buffer, kind);
    found
}

/// Whether a region is of this type. It may have none, of which the bindings' `roi_type()` would make a string nevertheless.
fn is_of(meta: &gst::MetaRef<'_, VideoRegionOfInterestMeta>, kind: glib::Quark) -> bool {
    // SAFETY: the meta is borrowed, so it is there.
    unsafe { (*meta.as_ptr()).roi_type == kind.into_glib() }
}

impl Search {
    /// The faces in a frame, if it is time to look again, or there is no time to lose.
    fn next(&mut self, frame: &ReadFrame<'_>, is_urgent: bool) -> Result<Option<Vec<Found>>, DetectorError> {
        let is_time = self.since == 0 || is_urgent;
        self.since = if is_time { 1 } else { self.since + 1 } % self.interval.max(1);
        let Some(way) = self.way.as_mut().filter(|_| is_time) else {
            return Ok(None);
        };
        way.crop.read(frame, &mut way.rgb, &mut way.pixels);
        let found = self.detector.detect(&way.pixels, way.view)?;
        let (width, height) = (way.info.width(), way.info.height());
        Ok(Some(
            found
                .iter()
                .map(|found| way.view.to_frame(found, width, height))
                .collect(),
        ))
    }
}

impl Way {
    fn new(info: &VideoInfo, detector: &Detector, least: u32) -> Result<Self, glib::BoolError> {
        let pixel_aspect = f64::from(info.par().numer().max(1)) / f64::from(info.par().denom().max(1));
        let view = detector.view(info.width(), info.height(), pixel_aspect, least);
        let rgb = rgb_info(info, view.size.0, view.size.1)?;
        let place = Area {
            x: 0,
            y: 0,
            width: view.content.0,
            height: view.content.1,
        };
        Ok(Self {
            info: info.clone(),
            view,
            crop: Crop::coarse(info, &rgb, place)?,
            rgb: new_frame(&rgb)?,
            pixels: vec![0; view.size.0 as usize * view.size.1 as usize * 3],
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gst_video::{VideoFormat, VideoFrameRef};

    use super::*;
    use crate::dvfacerestore::regions::{FacePictures, Region as Part};

    /// Time that this thread has had on a CPU. Other processes on the machine do not count.
    fn cpu_time() -> Duration {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
    }

    /// What a frame of 1280x720 with one moving face costs apart from the graphs of a bundle of 512x512:
    /// `DVFACE_TEST_DETECTOR=yunet_n_dynamic.onnx cargo test --release --lib cost_of_a_face -- --ignored --nocapture`
    #[test]
    #[ignore = "measures; run by hand"]
    fn cost_of_a_face() {
        const FRAMES: u32 = 200;
        gst::init().unwrap();
        let environment = crate::runtime::environment(&crate::restorer::library::runtime_library()).unwrap();
        let info = VideoInfo::builder(VideoFormat::I420, 1280, 720).build().unwrap();
        let settings = Settings {
            region: Region::Detect,
            detector: Some(
                std::env::var_os("DVFACE_TEST_DETECTOR")
                    .expect("DVFACE_TEST_DETECTOR")
                    .into(),
            ),
            num_threads: 1,
            ..Default::default()
        };
        let mut faces = Faces::open(&settings, &environment).unwrap().unwrap();
        faces.set_info(&info).unwrap();
        let mut pictures = FacePictures::new(&info, 512, 512, faces.look).unwrap();
        let mut tracker = Tracker::new(
            Limits {
                max_faces: 4,
                min_height: 0.0,
                max_height: 1e9,
                max_turn: 9.0,
            },
            1,
        );
        let mut times = [Duration::ZERO; 4];
        let mut pixels = vec![0; 512 * 512 * 3];
        for index in 0..FRAMES {
            let bytes: Vec<u8> = (0..info.size())
                .map(|at| (at * 7 % 200 + index as usize % 3) as u8)
                .collect();
            let mut buffer = gst::Buffer::from_slice(bytes);
            let start = cpu_time();
            {
                let frame = VideoFrameRef::from_buffer_ref_readable(&buffer, &info).unwrap();
                faces.next(&buffer, &frame).unwrap();
            }
            times[0] += cpu_time() - start;
            // A face of 240 pixels, so that the crop is 540 wide, which moves every frame.
            let start = cpu_time();
            let way = 200.0 * (f64::from(index) / 20.0).sin();
            tracker.next(Some(&[Found {
                rect: Rect {
                    x: 500.0 + way,
                    y: 200.0 + way / 5.0,
                    width: 180.0,
                    height: 240.0,
                },
                score: 0.9,
                landmarks: None,
            }]));
            let regions = pictures.regions(&tracker.shown());
            times[1] += cpu_time() - start;
            let [Part::Face(region)] = &regions[..] else {
                panic!("one face")
            };
            let start = cpu_time();
            {
                let frame = VideoFrameRef::from_buffer_ref_readable(&buffer, &info).unwrap();
                pictures.read(&frame, region, &mut pixels).unwrap();
            }
            times[2] += cpu_time() - start;
            let restored: Vec<u8> = pixels.iter().map(|value| value.saturating_add(9)).collect();
            let start = cpu_time();
            let draw = |to: &mut [u8]| to.copy_from_slice(&restored);
            pictures
                .apply(buffer.get_mut().unwrap(), region, 1.0, &pixels, draw)
                .unwrap();
            times[3] += cpu_time() - start;
        }
        let [search, follow, read, paste] = times.map(|time| time.as_secs_f64() * 1e3 / f64::from(FRAMES));
        let interval = settings.detect_interval;
        println!(
            "milliseconds a frame: search (every {interval} frames) {search:.2}, tracks {follow:.3}, crop {read:.2}, paste {paste:.2}"
        );
        let all = search + follow + read + paste;
        println!("together {all:.2}");
        assert!(all < 6.0);
    }
}
