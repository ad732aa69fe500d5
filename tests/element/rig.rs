// SPDX-License-Identifier: MPL-2.0

//! The element between two pads: what goes in, and everything that comes out, in one order.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use gst::glib;
use gst::prelude::*;
use gst_video::prelude::*;
use gst_video::{VideoFormat, VideoFrameRef, VideoInfo, VideoRegionOfInterestMeta};

/// What came out downstream.
#[derive(Clone, Debug)]
pub enum Out {
    Buffer(gst::Buffer),
    Event(gst::Event),
}

type Flow = Result<gst::FlowSuccess, gst::FlowError>;
type OnBuffer = dyn FnMut(&gst::Buffer) -> Flow + Send;
type OnQuery = dyn FnMut(&mut gst::QueryRef) -> bool + Send;

/// What the pads around the element do, and what they saw.
#[derive(Default)]
struct Around {
    out: Mutex<Vec<Out>>,
    on_buffer: Mutex<Option<Box<OnBuffer>>>,
    upstream_query: Mutex<Option<Box<OnQuery>>>,
    downstream_query: Mutex<Option<Box<OnQuery>>>,
}

/// An element with a bus and a pad on either side.
pub struct Rig {
    pub element: gst::Element,
    pub bus: gst::Bus,
    pub src: gst::Pad,
    pub sink: gst::Pad,
    around: Arc<Around>,
}

/// The bundle that comes with the plugin.
pub const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/dvface-nano");

/// An element with the bundle `model` of tests/bundles and the runtime of the tests, on the CPU.
pub fn element(model: &str) -> gst::Element {
    crate::init();
    gst::ElementFactory::make("dvfacerestore")
        .property("model", crate::bundle(model))
        .property("runtime-library", crate::runtime_library().to_str().unwrap())
        .property_from_str("provider", "cpu")
        .property("num-threads", 1u32)
        .build()
        .map(|element| in_region_mode(&element).map(|()| element))
        .unwrap()
        .unwrap()
}

/// Which region mode all tests of this process have: DVFACE_TEST_REGION, `frame` where it is not set.
///
/// In the others there is one face, which fills the frame: its crop is the whole frame and its mask has no edge, so that the same
/// frames come out as with `frame`, and the same tests hold.
fn region_mode() -> &'static str {
    static MODE: OnceLock<String> = OnceLock::new();
    MODE.get_or_init(|| std::env::var("DVFACE_TEST_REGION").unwrap_or_else(|_| "frame".into()))
}

/// Sets what [`region_mode`] says.
pub fn in_region_mode(element: &gst::Element) -> Result<(), String> {
    match region_mode() {
        "frame" => return Ok(()),
        "meta" => {
            element.set_property_from_str("region", "meta");
            tell_of_a_face(element);
        }
        "detect" => {
            element.set_property_from_str("region", "detect");
            element.set_property("detector", crate::detector("yunet-whole"));
        }
        other => return Err(format!("DVFACE_TEST_REGION={other}")),
    }
    element.set_property("min-face-size", 0u32);
    // `brighter` changes the low frequencies only.
    element.set_property("match-colours", false);
    Ok(())
}

/// Adds the face to buffers that nobody has told of one: those of a pipeline's source. What [`stamp`] has made is not touched.
fn tell_of_a_face(element: &gst::Element) {
    let sink = element.static_pad("sink").unwrap();
    sink.add_probe(gst::PadProbeType::BUFFER, |_, info| {
        if let Some(gst::PadProbeData::Buffer(buffer)) = &mut info.data
            && buffer.meta::<VideoRegionOfInterestMeta>().is_none()
        {
            add_face(buffer.make_mut(), WHOLE_FACE);
        }
        gst::PadProbeReturn::Ok
    });
}

/// Answers latency queries as a live source does.
pub fn live_upstream(query: &mut gst::QueryRef) -> bool {
    match query.view_mut() {
        gst::QueryViewMut::Latency(query) => {
            query.set(true, gst::ClockTime::ZERO, gst::ClockTime::NONE);
            true
        }
        _ => false,
    }
}

impl Rig {
    /// Plays the bundle `model`.
    pub fn new(model: &str) -> Self {
        let rig = Self::around(element(model));
        rig.play();
        rig
    }

    /// `element` between two pads, in NULL.
    pub fn around(element: gst::Element) -> Self {
        let around = Arc::new(Around::default());
        let src = {
            let queries = around.clone();
            gst::Pad::builder(gst::PadDirection::Src)
                .name("src")
                .event_function(|_, _, _| true)
                .query_function(move |pad, parent, query| {
                    let answered = match &mut *queries.upstream_query.lock().unwrap() {
                        Some(answer) => answer(query),
                        None => false,
                    };
                    answered
                        || match query.view_mut() {
                            gst::QueryViewMut::Latency(query) => {
                                query.set(false, gst::ClockTime::ZERO, gst::ClockTime::NONE);
                                true
                            }
                            _ => gst::Pad::query_default(pad, parent, query),
                        }
                })
                .build()
        };
        let sink = {
            let (buffers, events, queries) = (around.clone(), around.clone(), around.clone());
            gst::Pad::builder(gst::PadDirection::Sink)
                .name("sink")
                .chain_function(move |_, _, buffer| {
                    let result = match &mut *buffers.on_buffer.lock().unwrap() {
                        Some(answer) => answer(&buffer),
                        None => Ok(gst::FlowSuccess::Ok),
                    };
                    if result.is_ok() {
                        buffers.out.lock().unwrap().push(Out::Buffer(buffer));
                    }
                    result
                })
                .event_function(move |_, _, event| {
                    events.out.lock().unwrap().push(Out::Event(event));
                    true
                })
                .query_function(move |pad, parent, query| {
                    let answered = match &mut *queries.downstream_query.lock().unwrap() {
                        Some(answer) => answer(query),
                        None => false,
                    };
                    answered
                        || match query.view_mut() {
                            gst::QueryViewMut::Caps(query) => {
                                let caps = query.filter_owned().unwrap_or_else(gst::Caps::new_any);
                                query.set_result(&caps);
                                true
                            }
                            gst::QueryViewMut::AcceptCaps(query) => {
                                query.set_result(true);
                                true
                            }
                            _ => gst::Pad::query_default(pad, parent, query),
                        }
                })
                .build()
        };
        let bus = gst::Bus::new();
        element.set_bus(Some(&bus));
        src.link(&element.static_pad("sink").unwrap()).unwrap();
        element.static_pad("src").unwrap().link(&sink).unwrap();
        src.set_active(true).unwrap();
        sink.set_active(true).unwrap();
        Self {
            element,
            bus,
            src,
            sink,
            around,
        }
    }

    pub fn play(&self) {
        self.element.set_state(gst::State::Playing).unwrap_or_else(|_| {
            panic!("cannot play: {:?}", self.errors());
        });
    }

    /// Stream start, caps and segment.
    pub fn start(&self, caps: &gst::Caps) {
        assert!(self.event(gst::event::StreamStart::new("test")));
        assert!(self.event(gst::event::Caps::new(caps)));
        assert!(self.event(time_segment()));
    }

    pub fn event(&self, event: gst::Event) -> bool {
        self.src.push_event(event)
    }

    pub fn push(&self, buffer: gst::Buffer) -> Flow {
        self.src.push(buffer)
    }

    pub fn push_all(&self, buffers: impl IntoIterator<Item = gst::Buffer>) {
        for buffer in buffers {
            self.push(buffer).unwrap();
        }
    }

    pub fn eos(&self) {
        assert!(self.event(gst::event::Eos::new()));
    }

    /// Everything that came out since the last call.
    pub fn take(&self) -> Vec<Out> {
        std::mem::take(&mut *self.around.out.lock().unwrap())
    }

    /// The buffers that came out since the last call; the events are dropped.
    pub fn take_buffers(&self) -> Vec<gst::Buffer> {
        self.take().into_iter().filter_map(Out::buffer).collect()
    }

    /// What downstream answers to buffers. Those that are not taken are not among what came out.
    pub fn on_buffer(&self, answer: impl FnMut(&gst::Buffer) -> Flow + Send + 'static) {
        *self.around.on_buffer.lock().unwrap() = Some(Box::new(answer));
    }

    /// What upstream answers to queries.
    pub fn on_upstream_query(&self, answer: impl FnMut(&mut gst::QueryRef) -> bool + Send + 'static) {
        *self.around.upstream_query.lock().unwrap() = Some(Box::new(answer));
    }

    /// What downstream answers to queries.
    pub fn on_downstream_query(&self, answer: impl FnMut(&mut gst::QueryRef) -> bool + Send + 'static) {
        *self.around.downstream_query.lock().unwrap() = Some(Box::new(answer));
    }

    /// Messages on the bus since the last call, of these types.
    pub fn messages(&self, types: &[gst::MessageType]) -> Vec<gst::Message> {
        let mut messages = Vec::new();
        while let Some(message) = self.bus.pop() {
            if types.contains(&message.type_()) {
                messages.push(message);
            }
        }
        messages
    }

    /// Errors on the bus since the last call; other messages are dropped.
    pub fn errors(&self) -> Vec<glib::Error> {
        self.messages(&[gst::MessageType::Error])
            .iter()
            .map(|message| match message.view() {
                gst::MessageView::Error(error) => error.error(),
                _ => unreachable!(),
            })
            .collect()
    }

    /// Minimum and maximum latency, and whether it is live.
    pub fn query_latency(&self) -> (bool, gst::ClockTime, Option<gst::ClockTime>) {
        let mut query = gst::query::Latency::new();
        assert!(self.sink.peer_query(&mut query), "no answer to the latency query");
        query.result()
    }

    /// A number of the statistics.
    pub fn stat(&self, field: &str) -> u64 {
        self.element.property::<gst::Structure>("stats").get(field).unwrap()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // What is left in the pads must not hold a streaming thread.
        self.element.set_state(gst::State::Null).unwrap();
        self.src.set_active(false).unwrap();
        self.sink.set_active(false).unwrap();
        // Messages hold their element, which holds the bus.
        self.bus.set_flushing(true);
    }
}

impl Out {
    pub fn buffer(self) -> Option<gst::Buffer> {
        match self {
            Self::Buffer(buffer) => Some(buffer),
            Self::Event(_) => None,
        }
    }

    /// Short text: a buffer's offset, an event's type, a custom event's name.
    pub fn label(&self) -> String {
        match self {
            Self::Buffer(buffer) => buffer.offset().to_string(),
            Self::Event(event) => match event.structure() {
                Some(structure) if event.type_() == gst::EventType::CustomDownstream => structure.name().to_string(),
                _ => event.type_().name().to_string(),
            },
        }
    }
}

pub fn labels(out: &[Out]) -> Vec<String> {
    out.iter().map(Out::label).collect()
}

pub fn time_segment() -> gst::Event {
    gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new())
}

/// Caps of progressive video at 25 frames a second.
pub fn info(format: VideoFormat, width: u32, height: u32) -> VideoInfo {
    crate::init();
    let info = VideoInfo::builder(format, width, height)
        .fps(gst::Fraction::new(25, 1))
        .build()
        .unwrap();
    // As an element gets it: what caps do not say has other values there, from GStreamer 1.26 on.
    VideoInfo::from_caps(&info.to_caps().unwrap()).unwrap()
}

/// 32x32 RGB: what most bundles take, so that no conversion changes a value.
pub fn rgb() -> VideoInfo {
    info(VideoFormat::Rgb, 32, 32)
}

pub const FRAME: gst::ClockTime = gst::ClockTime::from_mseconds(40);

/// Frame `index`: PTS, duration and offset follow from it. `value` gives each byte of the memory by its place.
pub fn frame_with(info: &VideoInfo, index: u64, value: impl Fn(usize) -> u8) -> gst::Buffer {
    let bytes: Vec<u8> = (0..info.size()).map(value).collect();
    let mut buffer = gst::Buffer::from_slice(bytes);
    stamp(buffer.get_mut().unwrap(), index);
    buffer
}

pub fn stamp(buffer: &mut gst::BufferRef, index: u64) {
    buffer.set_pts(FRAME * index);
    buffer.set_duration(FRAME);
    buffer.set_offset(index);
    buffer.set_offset_end(index + 1);
    if region_mode() == "meta" {
        add_face(buffer, WHOLE_FACE);
    }
}

/// A face that fills any frame of these tests.
const WHOLE_FACE: (u32, u32, u32, u32) = (0, 0, 10_000, 10_000);

/// The bundle `blend`, whose windows share no frame.
pub fn blend_without_overlap() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(crate::bundle("blend")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let manifest = folder.path().join("bundle.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    assert!(text.contains("overlap = 2"));
    std::fs::write(&manifest, text.replace("overlap = 2", "overlap = 0")).unwrap();
    folder
}

/// An element that goes to NULL when it is dropped, also by a test that fails: GStreamer ends the process otherwise, and the reason is
/// lost.
pub struct Kept(pub gst::Element);

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.0.set_state(gst::State::Null);
    }
}

/// Adds a face as upstream tells of one: left, top, width, height.
pub fn add_face(buffer: &mut gst::BufferRef, rect: (u32, u32, u32, u32)) {
    VideoRegionOfInterestMeta::add(buffer, "face", rect);
}

/// Frame `index` with a pattern of values from 0 to 250 that no other frame near it has.
pub fn frame(info: &VideoInfo, index: u64) -> gst::Buffer {
    frame_with(info, index, |place| pattern(index, place))
}

/// A frame of one value.
pub fn flat(info: &VideoInfo, index: u64, value: u8) -> gst::Buffer {
    frame_with(info, index, |_| value)
}

fn pattern(index: u64, place: usize) -> u8 {
    ((place * 7 + place / 97 + index as usize * 31) % 251) as u8
}

/// The visible bytes of a packed RGB frame, row by row.
pub fn pixels(info: &VideoInfo, buffer: &gst::Buffer) -> Vec<u8> {
    let frame = VideoFrameRef::from_buffer_ref_readable(buffer, info).unwrap();
    let row = info.width() as usize * frame.comp_pstride(0) as usize;
    let stride = frame.plane_stride()[0] as usize;
    let data = frame.plane_data(0).unwrap();
    (0..info.height() as usize)
        .flat_map(|y| &data[y * stride..][..row])
        .copied()
        .collect()
}

/// The bytes of a buffer, padding and all.
pub fn bytes(buffer: &gst::Buffer) -> Vec<u8> {
    buffer.map_readable().unwrap().to_vec()
}

/// Frames from `first` on are there once each, in order, with their time, one brighter than they were.
#[track_caller]
pub fn assert_brighter(info: &VideoInfo, buffers: &[gst::Buffer], first: u64, count: u64) {
    let offsets: Vec<u64> = buffers.iter().map(|buffer| buffer.offset()).collect();
    assert_eq!(offsets, (first..first + count).collect::<Vec<_>>());
    for buffer in buffers {
        let index = buffer.offset();
        assert_eq!(buffer.pts(), Some(FRAME * index));
        assert_eq!(buffer.duration(), Some(FRAME));
        assert_eq!(buffer.offset_end(), index + 1);
        let expected: Vec<u8> = pixels(info, &frame(info, index))
            .iter()
            .map(|value| value + 1)
            .collect();
        assert!(pixels(info, buffer) == expected, "frame {index} is not one brighter");
    }
}

/// The output frames of a run of `count` frames with windows of `frames` and an overlap: for each, its places in the one
/// or two windows that make it, and the share of the later one. From the rules of the window, not from their code.
pub fn window_parts(count: usize, frames: usize, overlap: usize) -> Vec<(Option<usize>, usize, f64)> {
    let stride = frames - overlap;
    let mut starts: Vec<usize> = (0..)
        .map(|k| k * stride)
        .take_while(|start| start + frames <= count)
        .collect();
    if starts.last().is_none_or(|start| start + frames < count) {
        starts.push(count.saturating_sub(frames));
    }
    (0..count)
        .map(|frame| {
            let window = (frame / stride).min(starts.len() - 1);
            let shared = frame - window * stride;
            if window > 0 && shared < overlap {
                let share = (shared + 1) as f64 / (overlap + 1) as f64;
                (Some(frame - starts[window - 1]), frame - starts[window], share)
            } else {
                (None, frame - starts[window], 1.0)
            }
        })
        .collect()
}

/// Calls `ready` until it is true.
pub fn wait_for(what: &str, mut ready: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if ready() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("waited 10 s for {what}");
}
