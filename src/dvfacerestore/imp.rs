// SPDX-License-Identifier: MPL-2.0

//! `dvfacerestore`: restores degraded face video while it streams.
//!
//! Frames are gathered in windows of some frames (17 with the bundle that comes with the plugin) and restored together by
//! DVFace, one-step diffusion guided by a spatial and a temporal codebook, in ONNX Runtime. Every frame comes out once, in
//! order, with its time, flags and metas.
//!
//! ```text
//! gst-launch-1.0 filesrc location=face.mp4 ! decodebin ! videoconvert ! dvfacerestore ! videoconvert ! queue ! autovideosink
//! gst-launch-1.0 v4l2src ! videoconvert ! queue max-size-buffers=100 max-size-bytes=0 max-size-time=0 !
//!     dvfacerestore overload=bypass ! queue max-size-buffers=100 max-size-bytes=0 max-size-time=0 ! videoconvert ! autovideosink
//! ```
//!
//! # Faces
//!
//! With `region=meta` (faces that upstream tells of) and `region=detect` (an own detector) each face has its own windows, and goes
//! back into its frame with a soft mask. A frame without a face goes on as it came.
//!
//! # Threads
//!
//! The graphs run in the streaming thread of the sink pad: upstream waits meanwhile. A window leaves in a burst, and a sink
//! that plays by the clock takes it slowly. So put a `queue` with room for two windows on either side of the element where
//! the source is live.
//!
//! # Live
//!
//! With `overload=bypass` a window of a live stream that could not be in time is not restored: its frames go on as they came,
//! at once, each with a QoS message. The frames before and after fade.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::base_transform::{BaseTransformMode, GenerateOutputSuccess};
use gst_base::subclass::prelude::*;
use gst_video::VideoInfo;
use gst_video::subclass::prelude::*;
use parking_lot::Mutex;

use super::faces::Faces;
use super::latency::{self, Latency};
use super::live::Live;
use super::model::Model;
use super::picture::{self, Picture};
use super::regions::{FacePictures, Pictures};
use super::settings::{self, Settings};
use super::statistics::Statistics;
use super::stream::Stream;
use super::warm_up::WarmUp;
use crate::restorer::{Interrupt, Reason, Restorer};

pub(super) static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new(
        "dvfacerestore",
        gst::DebugColorFlags::empty(),
        Some("Face video restoration"),
    )
});

/// Side of what is seen of a whole frame where only faces are restored: to tell scene cuts, in pixels.
const GLANCE_SIDE: u32 = 128;

/// What the streaming thread works with. It is taken out of its mutex for that time, so that no lock is held while graphs
/// run and buffers are pushed.
pub(super) struct Engine {
    pub(super) restorer: Restorer,
    pub(super) stream: Stream,
    /// `None` where the whole frame is restored.
    pub(super) faces: Option<Faces>,
    /// How long the last burst of frames took to push.
    pub(super) blocked: Duration,
    /// The pace knows how long a window takes in the warm-up.
    pub(super) is_measured: bool,
    /// The durations have the first window, which was the warm-up.
    pub(super) times_warm_up: bool,
    /// Width and height of the bundle's frames, in pixels.
    size: (u32, u32),
}

#[derive(Default)]
pub struct DvFaceRestore {
    pub(super) settings: Mutex<Settings>,
    pub(super) engine: Mutex<Option<Box<Engine>>>,
    pub(super) latency: Mutex<Latency>,
    pub(super) live: Mutex<Live>,
    pub(super) statistics: Mutex<Statistics>,
    /// End of the last frame sent, in stream time. The base class knows only of frames it pushes itself.
    pub(super) position: Mutex<Option<gst::ClockTime>>,
    /// Restoring failed before an event: the next frame's flow return tells.
    pub(super) failed: AtomicBool,
    /// A frame was left out: the next one follows another.
    pub(super) left_out: AtomicBool,
    /// Flushes so far: one from within a push finds the engine away.
    pub(super) flushes: AtomicU32,
    /// Downstream reads frames whose rows and planes lie as a `GstVideoMeta` says.
    pub(super) knows_video_meta: AtomicBool,
    /// Apart from the rest, so that a flush or a state change can end a run.
    pub(super) interrupt: Mutex<Option<Arc<Interrupt>>>,
    /// A warm-up that goes on.
    pub(super) warm_up: Mutex<Option<Arc<WarmUp>>>,
}

#[glib::object_subclass]
impl ObjectSubclass for DvFaceRestore {
    const NAME: &'static str = "GstDvFaceRestore";
    type Type = super::DvFaceRestore;
    type ParentType = gst_video::VideoFilter;
}

impl ObjectImpl for DvFaceRestore {
    fn properties() -> &'static [glib::ParamSpec] {
        settings::properties()
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        let fixed = pspec.flags().contains(gst::PARAM_FLAG_MUTABLE_READY);
        if fixed && self.obj().current_state() > gst::State::Ready {
            gst::warning!(
                CAT,
                imp = self,
                "{} cannot change outside NULL and READY: ignored",
                pspec.name()
            );
            return;
        }
        gst::debug!(CAT, imp = self, "{} = {value:?}", pspec.name());
        self.settings.lock().set(pspec.name(), value);
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        match pspec.name() {
            "active-provider" => self.statistics.lock().provider.to_value(),
            "stats" => self.current_statistics().structure().to_value(),
            name => self.settings.lock().get(name),
        }
    }

    fn constructed(&self) {
        self.parent_constructed();
        // The base class would drop late frames before the window sees them.
        self.obj().set_qos(false);
        // It would also take the GAP flag off frames.
        self.obj().set_gap_aware(true);
    }
}

impl GstObjectImpl for DvFaceRestore {}

impl ElementImpl for DvFaceRestore {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "DVFace video face restoration",
                "Filter/Effect/Video",
                "Restores degraded face video with one-step diffusion (DVFace) in ONNX Runtime",
                "The dvfacerestore developers",
            )
        });
        Some(&*METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            let caps = gst_video::VideoCapsBuilder::new()
                .format_list(picture::formats())
                .field("interlace-mode", "progressive")
                .build();
            [("sink", gst::PadDirection::Sink), ("src", gst::PadDirection::Src)]
                .map(|(name, direction)| {
                    gst::PadTemplate::new(name, direction, gst::PadPresence::Always, &caps)
                        .expect("a name and caps make a template")
                })
                .into()
        });
        TEMPLATES.as_ref()
    }

    fn change_state(&self, transition: gst::StateChange) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        // The base class waits for the streaming thread, which may be in the middle of a run.
        if transition == gst::StateChange::PausedToReady {
            self.raise(Reason::Stop);
            self.interrupt_warm_up();
        }
        self.parent_change_state(transition)
    }
}

impl BaseTransformImpl for DvFaceRestore {
    const MODE: BaseTransformMode = BaseTransformMode::NeverInPlace;
    // Caps in and out are always equal, and frames pass through only when the element is disabled.
    const PASSTHROUGH_ON_SAME_CAPS: bool = false;
    const TRANSFORM_IP_ON_PASSTHROUGH: bool = false;

    fn start(&self) -> Result<(), gst::ErrorMessage> {
        let settings = self.settings.lock().clone();
        self.progress(
            gst::ProgressType::Start,
            "load",
            &format!("Loading the model {}", settings.model),
        );
        let Model {
            bundle,
            shape,
            mut restorer,
            interrupt,
            faces,
            passed_over,
        } = self.or_progress_error("load", self.load_with_progress(&settings))?;
        let provider = restorer.sessions().provider();
        for notice in restorer.sessions().notices() {
            gst::element_imp_warning!(self, gst::ResourceError::Read, ("{notice}"));
        }
        let on_cpu = restorer.sessions().on_cpu();
        if !on_cpu.is_empty() {
            let graphs: Vec<_> = on_cpu.iter().map(ToString::to_string).collect();
            let text = format!(
                "provider={}: ONNX Runtime runs parts of these graphs on the CPU: {}",
                provider.name(),
                graphs.join(", ")
            );
            gst::element_imp_info!(self, gst::LibraryError::Init, ("{text}"), ["{text}"]);
        }
        let device = restorer.sessions().options().device();
        self.progress(
            gst::ProgressType::Complete,
            "load",
            &format!("Loaded {} {} on {device}", bundle.name(), bundle.version()),
        );
        if settings.provider == settings::ProviderChoice::Auto {
            match passed_over {
                // gst-launch prints the second text of an info message.
                Some(reason) => gst::element_imp_info!(
                    self,
                    gst::LibraryError::Init,
                    ("provider=auto: running on the CPU"),
                    ["provider=auto: running on the CPU. CUDA is not available: {reason}"]
                ),
                None => gst::element_imp_info!(
                    self,
                    gst::LibraryError::Init,
                    ("provider=auto: running on {device}"),
                    ["provider=auto: running on {device}"]
                ),
            }
        }

        let measured = self.warm_up(&mut restorer)?;
        let frame_bytes = restorer.window_bytes() / shape.frames();
        let stream = Stream::new(shape, frame_bytes, measured).map_err(|error| {
            // Who fails to start is not stopped.
            self.end_warm_up();
            gst::error_msg!(gst::ResourceError::NoSpaceLeft, ("window of frames: {error}"))
        })?;
        let size = (bundle.width(), bundle.height());
        let processing = Some(settings.processing_deadline)
            .filter(|time| !time.is_zero())
            .or_else(|| {
                Some(latency::with_margin(
                    gst::ClockTime::try_from(measured?).unwrap_or(gst::ClockTime::MAX),
                ))
            })
            .unwrap_or_default();
        *self.latency.lock() = Latency::new(shape.frames() as u64, processing, self.is_disabled());
        *self.statistics.lock() = Statistics::new(provider.name());
        self.failed.store(false, Ordering::SeqCst);
        self.left_out.store(false, Ordering::SeqCst);
        *self.position.lock() = None;
        *self.live.lock() = Live::default();
        *self.interrupt.lock() = Some(interrupt);
        *self.engine.lock() = Some(Box::new(Engine {
            restorer,
            stream,
            faces,
            blocked: Duration::ZERO,
            is_measured: measured.is_some(),
            times_warm_up: measured.is_none(),
            size,
        }));
        let disabled = self.latency.lock().disabled;
        self.obj().set_passthrough(disabled);
        // While frames pass through, downstream itself answers upstream's question of how to allocate.
        self.knows_video_meta.store(disabled, Ordering::SeqCst);
        self.obj().notify("active-provider");
        Ok(())
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        gst::info!(CAT, imp = self, "statistics: {}", self.current_statistics().structure());
        self.end_warm_up();
        let engine = self.engine.lock().take();
        drop(engine);
        *self.interrupt.lock() = None;
        *self.latency.lock() = Latency::default();
        self.statistics.lock().provider = None;
        self.obj().notify("active-provider");
        Ok(())
    }

    fn decide_allocation(&self, query: &mut gst::query::Allocation) -> Result<(), gst::LoggableError> {
        let knows = query.find_allocation_meta::<gst_video::VideoMeta>().is_some();
        self.knows_video_meta.store(knows, Ordering::SeqCst);
        self.keep_roomy_pools(query)?;
        self.parent_decide_allocation(query)
    }

    fn transform_meta<'a>(
        &self,
        _output: &mut gst::BufferRef,
        _meta: gst::MetaRef<'a, gst::Meta>,
        _input: &'a gst::BufferRef,
    ) -> bool {
        // Size, format and orientation stay, so every meta holds. The base class leaves out those of the memory.
        true
    }

    fn submit_input_buffer(&self, is_discont: bool, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        // With the base class's quality of service late frames would never reach the window.
        if self.obj().is_qos() {
            gst::warning!(CAT, imp = self, "qos=true would drop frames: switched off");
            self.obj().set_qos(false);
        }
        self.parent_submit_input_buffer(is_discont, buffer)
    }

    fn generate_output(&self) -> Result<GenerateOutputSuccess, gst::FlowError> {
        // Buffers are pushed in `send_ready`, in one order with the events that wait between them. The base class would
        // also move the DISCONT flag of an input to the next output, which may be an older frame.
        match self.take_queued_buffer() {
            Some(buffer) => self.take_frame(buffer).map(|()| GenerateOutputSuccess::NoOutput),
            None => Ok(GenerateOutputSuccess::NoOutput),
        }
    }

    fn sink_event(&self, event: gst::Event) -> bool {
        use gst::EventView;

        gst::log!(CAT, imp = self, "{event:?}");
        match event.view() {
            EventView::FlushStart(_) => {
                self.raise(Reason::Flush);
                self.flush_warm_up(true);
                self.parent_sink_event(event)
            }
            EventView::FlushStop(_) => {
                self.flushes.fetch_add(1, Ordering::SeqCst);
                if let Some(engine) = self.engine.lock().as_mut() {
                    self.forget(engine);
                }
                self.left_out.store(false, Ordering::SeqCst);
                self.latency.lock().cut();
                self.forget_qos();
                *self.position.lock() = None;
                self.failed.store(false, Ordering::SeqCst);
                if let Some(interrupt) = &*self.interrupt.lock() {
                    interrupt.clear(Reason::Flush);
                }
                self.flush_warm_up(false);
                self.parent_sink_event(event)
            }
            // The same caps again change nothing, and cut no window.
            EventView::Caps(caps) if self.obj().sink_pad().current_caps().as_deref() == Some(caps.caps()) => {
                self.parent_sink_event(event)
            }
            // Nothing may come after a gap that is older than it, and no window spans a change of the stream.
            EventView::Eos(_)
            | EventView::Caps(_)
            | EventView::Segment(_)
            | EventView::SegmentDone(_)
            | EventView::StreamStart(_)
            | EventView::Gap(_) => {
                self.drain();
                self.latency.lock().cut();
                if event.type_() == gst::EventType::Segment {
                    *self.position.lock() = None;
                }
                self.parent_sink_event(event)
            }
            _ if event.is_serialized() => self.take_event(event),
            _ => self.parent_sink_event(event),
        }
    }

    fn src_event(&self, event: gst::Event) -> bool {
        self.note_upstream_event(&event);
        self.parent_src_event(event)
    }

    fn query(&self, direction: gst::PadDirection, query: &mut gst::QueryRef) -> bool {
        match (direction, query.view_mut()) {
            (gst::PadDirection::Src, gst::QueryViewMut::Latency(query)) => {
                let mut upstream = gst::query::Latency::new();
                if !self.obj().sink_pad().peer_query(&mut upstream) {
                    return false;
                }
                let (live, min, max) = upstream.result();
                self.note_upstream_latency(live, min);
                if live {
                    self.settle_warm_up(true, false);
                }
                let own = self.latency.lock().total();
                query.set(live, min.saturating_add(own), max.opt_saturating_add(own));
                true
            }
            (gst::PadDirection::Src, gst::QueryViewMut::Position(query)) if query.format() == gst::Format::Time => {
                let position = *self.position.lock();
                match position {
                    Some(position) => {
                        query.set(position);
                        true
                    }
                    None => self.obj().sink_pad().peer_query(query.query_mut()),
                }
            }
            // The one serialized query beside the allocation's, which tells nothing of frames.
            (gst::PadDirection::Sink, gst::QueryViewMut::Drain(_)) => {
                self.drain();
                BaseTransformImplExt::parent_query(self, direction, query)
            }
            _ => BaseTransformImplExt::parent_query(self, direction, query),
        }
    }
}

impl VideoFilterImpl for DvFaceRestore {
    fn set_info(
        &self,
        _incaps: &gst::Caps,
        in_info: &VideoInfo,
        _outcaps: &gst::Caps,
        _out_info: &VideoInfo,
    ) -> Result<(), gst::LoggableError> {
        gst::debug!(CAT, imp = self, "{in_info:?}");
        if in_info.is_interlaced() {
            return Err(gst::loggable_error!(
                CAT,
                "interlaced video is not supported: put a deinterlacer in front"
            ));
        }
        {
            let mut engine = self.engine.lock();
            let engine = engine
                .as_mut()
                .ok_or_else(|| gst::loggable_error!(CAT, "not started"))?;
            let (width, height) = engine.size;
            let pictures = match &mut engine.faces {
                None => Pictures::new(Picture::new(in_info, width, height)?, None),
                Some(faces) => {
                    faces.set_info(in_info)?;
                    let whole = Picture::new(in_info, GLANCE_SIDE, GLANCE_SIDE)?;
                    Pictures::new(whole, Some(FacePictures::new(in_info, width, height, faces.look)?))
                }
            };
            engine.stream.set_pictures(pictures);
        }
        self.change_latency(|latency| latency.set_rate(in_info.fps()));
        self.settle_warm_up_with_caps();
        Ok(())
    }
}

impl DvFaceRestore {
    fn raise(&self, reason: Reason) {
        if let Some(interrupt) = &*self.interrupt.lock() {
            interrupt.raise(reason);
        }
    }

    fn current_statistics(&self) -> Statistics {
        let mut statistics = self.statistics.lock().clone();
        statistics.latency = self.latency.lock().total();
        statistics
    }

    pub(super) fn progress(&self, kind: gst::ProgressType, code: &str, text: &str) {
        gst::debug!(CAT, imp = self, "{text}");
        let message = gst::message::Progress::builder(kind, code, text)
            .src(&*self.obj())
            .build();
        // Without a bus nobody listens.
        let _ = self.obj().post_message(message);
    }

    /// Ends a progress that failed.
    pub(super) fn or_progress_error<T>(
        &self,
        code: &str,
        result: Result<T, gst::ErrorMessage>,
    ) -> Result<T, gst::ErrorMessage> {
        if result.is_err() {
            self.progress(gst::ProgressType::Error, code, "Failed");
        }
        result
    }

    /// Folder of the plugin's file; `None` where it is linked into the application.
    pub(super) fn plugin_dir(&self) -> Option<PathBuf> {
        let plugin = self.obj().factory()?.plugin()?;
        // GST_PLUGIN_PATH may be relative, and the application may change its folder.
        folder_of(&std::path::absolute(plugin.filename()?).ok()?)
    }

    /// Frames are held for up to a window: a pool with fewer buffers would wait for itself for ever, and gives way to an
    /// unlimited one.
    fn keep_roomy_pools(&self, query: &mut gst::query::Allocation) -> Result<(), gst::LoggableError> {
        let (caps, _) = query.get_owned();
        let Some(caps) = caps else {
            return Ok(());
        };
        let info = VideoInfo::from_caps(&caps)?;
        let held = self.engine.lock().as_ref().map_or(0, |engine| {
            let shape = engine.stream.shape();
            shape.frames() + shape.stride()
        });
        let held = u32::try_from(held).unwrap_or(u32::MAX);
        let first = query.allocation_pools().next();
        match first {
            Some((_, _, min, max)) if max == 0 || max.saturating_sub(min) >= held => {}
            Some((_, size, ..)) => {
                gst::debug!(
                    CAT,
                    imp = self,
                    "downstream's pool has too few buffers: using one of our own"
                );
                let size = size.max(info.size() as u32);
                query.set_nth_allocation_pool(0, Some(&unlimited_pool(&caps, size)?), size, 0, 0);
            }
            None => {
                let size = info.size() as u32;
                query.add_allocation_pool(Some(&unlimited_pool(&caps, size)?), size, 0, 0);
            }
        }
        Ok(())
    }
}

/// A pool of buffers of `size` bytes, configured, as who reads its configuration expects it to be.
fn unlimited_pool(caps: &gst::Caps, size: u32) -> Result<gst_video::VideoBufferPool, glib::BoolError> {
    let pool = gst_video::VideoBufferPool::new();
    let mut config = pool.config();
    config.set_params(Some(caps), size, 0, 0);
    pool.set_config(config)?;
    Ok(pool)
}

/// The folder in which what belongs to the plugin lies beside its file. Cargo keeps a second copy of the file in `deps`, with
/// nothing beside it, which GStreamer may find first: it looks into folders of folders.
fn folder_of(plugin: &Path) -> Option<PathBuf> {
    let folder = plugin.parent()?;
    let outer = folder.parent().filter(|_| folder.ends_with("deps"));
    let outer = outer.filter(|outer| plugin.file_name().is_some_and(|name| outer.join(name).is_file()));
    Some(outer.unwrap_or(folder).to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_the_plugin_is_beside_it_and_not_beside_cargos_copy() {
        let folder = tempfile::tempdir().unwrap();
        let (plugin, copy) = (folder.path().join("libx.so"), folder.path().join("deps/libx.so"));
        std::fs::create_dir(folder.path().join("deps")).unwrap();
        std::fs::write(&copy, "").unwrap();
        assert_eq!(folder_of(&copy).unwrap(), folder.path().join("deps"), "the only one");
        std::fs::write(&plugin, "").unwrap();
        assert_eq!(folder_of(&copy).unwrap(), folder.path());
        assert_eq!(folder_of(&plugin).unwrap(), folder.path());
    }
}
