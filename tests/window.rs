// SPDX-License-Identifier: MPL-2.0

//! The window rules against a naive reference that is given each run as a whole.

use std::ops::Range;

use gstdvface::window::{FrameStore, Plan, Planner, Tail, WindowShape, cross_fade};
use proptest::collection::vec;
use proptest::prelude::*;

const FRAME_BYTES: usize = 3;

/// What one window gives to an output frame: which window of the run, at which position, with which share.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Part {
    window: usize,
    slot: usize,
    weight: f32,
}

/// An output frame: which input frame it is, and what it is made of, older window first.
#[derive(Clone, Debug, PartialEq)]
struct Output {
    frame: u64,
    parts: Vec<Part>,
    pixels: Vec<u8>,
}

/// What happens to the stream.
#[derive(Clone, Debug)]
enum Step {
    Frames(usize),
    /// Memory of a frame is asked for, and written, but the frame never comes.
    Abandoned,
    Cut,
    Flush,
}

/// Input frame `frame` of run `run`.
fn frame_pixels(run: usize, frame: u64) -> [u8; FRAME_BYTES] {
    [run as u8, frame as u8, (frame * 37 + run as u64 * 11) as u8]
}

/// Stands in for the restoration. Each restored frame depends on its position and on every frame of the window.
fn restore(window: &[u8]) -> Vec<u8> {
    let mut sum = 7u8;
    for byte in window {
        sum = sum.wrapping_mul(31).wrapping_add(*byte);
    }
    let restored = window.iter().enumerate();
    restored
        .map(|(index, byte)| byte.wrapping_add(sum).wrapping_add((index / FRAME_BYTES) as u8))
        .collect()
}

/// The reference. Windows of a run of `count` frames, each as the list of frames in its T positions.
fn reference_windows(count: usize, frames: usize, overlap: usize) -> Vec<Vec<u64>> {
    if count == 0 {
        return Vec::new();
    }
    if count <= frames {
        return vec![(0..frames).map(|slot| slot.min(count - 1) as u64).collect()];
    }
    let mut starts: Vec<usize> = (0..)
        .map(|k| k * (frames - overlap))
        .take_while(|start| start + frames <= count)
        .collect();
    if starts.last().unwrap() + frames < count {
        starts.push(count - frames);
    }
    starts
        .iter()
        .map(|start| (*start..start + frames).map(|frame| frame as u64).collect())
        .collect()
}

/// The reference. Every output frame of a run of `count` frames.
fn reference_outputs(run: usize, count: usize, frames: usize, overlap: usize) -> Vec<Output> {
    let windows = reference_windows(count, frames, overlap);
    let restored: Vec<Vec<u8>> = windows
        .iter()
        .map(|window| {
            let pixels: Vec<u8> = window.iter().flat_map(|&frame| frame_pixels(run, frame)).collect();
            restore(&pixels)
        })
        .collect();
    let output = |frame: usize| {
        // Each frame belongs to the window on whose regular place (k S to (k + 1) S) it lies, or to the run's last.
        let owner = (frame / (frames - overlap)).min(windows.len() - 1);
        let into_overlap = frame - owner * (frames - overlap);
        let find = |window: usize| windows[window].iter().position(|&other| other == frame as u64).unwrap();
        let mut parts = Vec::new();
        let mut weight = 1.0;
        if owner > 0 && into_overlap < overlap {
            weight = (into_overlap as f32 + 1.0) / (overlap as f32 + 1.0);
            parts.push(Part {
                window: owner - 1,
                slot: find(owner - 1),
                weight: 1.0 - weight,
            });
        }
        parts.push(Part {
            window: owner,
            slot: find(owner),
            weight,
        });
        let pixels_of = |part: &Part| &restored[part.window][part.slot * FRAME_BYTES..][..FRAME_BYTES];
        let pixels = match &parts[..] {
            [only] => pixels_of(only).to_vec(),
            [old, new] => {
                let blend = |(old, new): (&u8, &u8)| {
                    let share = (f64::from(weight) * 16384.0).round() / 16384.0;
                    (f64::from(*old) * (1.0 - share) + f64::from(*new) * share + 0.5).floor() as u8
                };
                pixels_of(old).iter().zip(pixels_of(new)).map(blend).collect()
            }
            _ => unreachable!(),
        };
        Output {
            frame: frame as u64,
            parts,
            pixels,
        }
    };
    (0..count).map(output).collect()
}

/// A user of planner and store, as the element is one.
struct Stream {
    frames: usize,
    planner: Planner,
    store: FrameStore,
    /// Windows restored in this run, and the last one's restored frames.
    windows: usize,
    restored: Vec<u8>,
    run: usize,
    pushed: u64,
    outputs: Vec<Output>,
    finished: Vec<(usize, Vec<Output>)>,
}

impl Stream {
    fn new(frames: usize, overlap: usize) -> Self {
        let shape = WindowShape::new(frames, overlap).unwrap();
        Self {
            frames,
            planner: Planner::new(shape),
            store: FrameStore::new(shape, FRAME_BYTES).unwrap(),
            windows: 0,
            restored: Vec::new(),
            run: 0,
            pushed: 0,
            outputs: Vec::new(),
            finished: Vec::new(),
        }
    }

    fn push(&mut self) {
        self.store.next().copy_from_slice(&frame_pixels(self.run, self.pushed));
        self.store.commit();
        self.pushed += 1;
        if let Some(plan) = self.planner.push() {
            assert_eq!(plan.real, self.frames);
            self.restore(&plan);
        }
        assert_eq!(self.planner.waiting() as u64, self.pushed - self.outputs.len() as u64);
        assert!(
            self.planner.waiting() < self.frames,
            "more frames wait than a window has"
        );
    }

    fn restore(&mut self, plan: &Plan) {
        let window = self.store.window(plan);
        let expected: Vec<u8> = (0..self.frames as u64)
            .flat_map(|slot| frame_pixels(self.run, plan.first + slot.min(plan.real as u64 - 1)))
            .collect();
        assert_eq!(window, expected);
        let old = std::mem::replace(&mut self.restored, restore(window));
        let at = |restored: &[u8], slot: usize| restored[slot * FRAME_BYTES..][..FRAME_BYTES].to_vec();
        for frame in plan.emit.clone() {
            let (slot, weight) = (plan.slot(frame), plan.weight(frame));
            let mut parts = Vec::new();
            let mut pixels = at(&self.restored, slot);
            if let Some(previous) = plan.previous_slot(frame) {
                parts.push(Part {
                    window: self.windows - 1,
                    slot: previous,
                    weight: 1.0 - weight,
                });
                cross_fade(&at(&old, previous), &pixels.clone(), weight, &mut pixels);
            }
            parts.push(Part {
                window: self.windows,
                slot,
                weight,
            });
            self.outputs.push(Output { frame, parts, pixels });
        }
        assert_eq!(plan.held().start, plan.emit.end);
        self.windows += 1;
    }

    fn end_run(&mut self, flush: bool) {
        if flush {
            self.planner.reset();
        } else {
            match self.planner.finish() {
                Tail::Nothing => {}
                Tail::Held(held) => self.emit_held(held),
                Tail::Window(plan) => {
                    self.restore(&plan);
                    assert!(plan.held().is_empty(), "frames wait for a window that never comes");
                }
            }
        }
        assert_eq!(self.planner.waiting(), 0);
        self.store.reset();
        self.finished
            .push((self.pushed as usize, std::mem::take(&mut self.outputs)));
        self.run += 1;
        self.pushed = 0;
        self.windows = 0;
        self.restored.clear();
    }

    fn emit_held(&mut self, held: Range<u64>) {
        let first = self.pushed - self.frames as u64;
        for frame in held {
            let slot = (frame - first) as usize;
            let parts = vec![Part {
                window: self.windows - 1,
                slot,
                weight: 1.0,
            }];
            let pixels = self.restored[slot * FRAME_BYTES..][..FRAME_BYTES].to_vec();
            self.outputs.push(Output { frame, parts, pixels });
        }
    }
}

fn shapes() -> impl Strategy<Value = (usize, usize)> {
    (1usize..=20).prop_flat_map(|frames| (Just(frames), 0..=frames / 2))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0usize..=40).prop_map(Step::Frames),
        2 => Just(Step::Abandoned),
        2 => Just(Step::Cut),
        1 => Just(Step::Flush),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Any N, T, O, any cuts, flushes and chunks: the same windows, frames, order, weights and pixels as the reference.
    #[test]
    fn streaming_equals_the_reference((frames, overlap) in shapes(), steps in vec(step(), 0..12)) {
        let mut stream = Stream::new(frames, overlap);
        let mut flushed = Vec::new();
        for step in &steps {
            match step {
                Step::Frames(count) => (0..*count).for_each(|_| stream.push()),
                Step::Abandoned => stream.store.next().fill(0xEE),
                Step::Cut | Step::Flush => {
                    flushed.push(matches!(step, Step::Flush));
                    stream.end_run(matches!(step, Step::Flush));
                }
            }
        }
        flushed.push(false);
        stream.end_run(false);

        prop_assert_eq!(stream.finished.len(), flushed.len());
        for (run, ((count, outputs), flushed)) in stream.finished.iter().zip(flushed).enumerate() {
            let mut expected = reference_outputs(run, *count, frames, overlap);
            if flushed {
                // What was final before the flush is what the run's full windows made final.
                prop_assert!(outputs.len() <= expected.len() && expected.len() - outputs.len() < frames);
                let full = if *count < frames { 0 } else { (count - frames) / (frames - overlap) + 1 };
                prop_assert_eq!(outputs.len(), full * (frames - overlap));
                expected.truncate(outputs.len());
            }
            prop_assert_eq!(outputs, &expected);
        }
    }

    /// A cut is the same as two streams, and the chunks in which frames come change nothing.
    #[test]
    fn chunks_change_nothing((frames, overlap) in shapes(), chunks in vec(0usize..30, 0..8)) {
        let mut whole = Stream::new(frames, overlap);
        (0..chunks.iter().sum()).for_each(|_| whole.push());
        whole.end_run(false);
        let mut chunked = Stream::new(frames, overlap);
        for chunk in chunks {
            (0..chunk).for_each(|_| chunked.push());
            chunked.store.next().fill(0xEE);
            let _ = chunked.planner.waiting();
        }
        chunked.end_run(false);
        prop_assert_eq!(whole.finished, chunked.finished);
    }

    /// Every frame comes out once, in order, from at most two windows whose shares sum to one.
    #[test]
    fn each_frame_once_with_shares_that_sum_to_one((frames, overlap) in shapes(), count in 0usize..100) {
        let mut stream = Stream::new(frames, overlap);
        (0..count).for_each(|_| stream.push());
        stream.end_run(false);
        let outputs = &stream.finished[0].1;
        let order: Vec<u64> = outputs.iter().map(|output| output.frame).collect();
        prop_assert_eq!(order, (0..count as u64).collect::<Vec<_>>());
        for output in outputs {
            prop_assert!((1..=2).contains(&output.parts.len()));
            let [.., new] = &output.parts[..] else { unreachable!() };
            let old_share = if output.parts.len() == 2 {
                // The old window fades out linearly over the overlap, by its own count.
                let index = output.frame as usize - new.window * (frames - overlap);
                (overlap - index) as f32 / (overlap + 1) as f32
            } else {
                0.0
            };
            let sum = old_share + new.weight;
            prop_assert!((sum - 1.0).abs() <= 1e-6, "shares of frame {} sum to {sum}", output.frame);
            prop_assert!(output.parts.iter().all(|part| part.weight > 0.0 && part.weight <= 1.0));
        }
    }

    /// The store never grows: every slice it hands out lies in the same T + S frames.
    #[test]
    fn memory_is_bounded((frames, overlap) in shapes(), count in 1usize..200) {
        let shape = WindowShape::new(frames, overlap).unwrap();
        let mut store = FrameStore::new(shape, FRAME_BYTES).unwrap();
        let mut planner = Planner::new(shape);
        let mut span = (usize::MAX, 0);
        let mut note = |slice: &[u8]| {
            let range = slice.as_ptr_range();
            span = (span.0.min(range.start as usize), span.1.max(range.end as usize));
        };
        for _ in 0..count {
            note(store.next());
            store.commit();
            if let Some(plan) = planner.push() {
                note(store.window(&plan));
            }
        }
        if let Tail::Window(plan) = planner.finish() {
            note(store.window(&plan));
        }
        prop_assert!(span.1 - span.0 <= (frames + shape.stride()) * FRAME_BYTES);
    }

    #[test]
    fn shapes_are_checked(frames in 0usize..50, overlap in 0usize..50) {
        prop_assert_eq!(WindowShape::new(frames, overlap).is_ok(), frames >= 1 && 2 * overlap <= frames);
    }

    /// Fixed point against real numbers.
    #[test]
    fn cross_fade_rounds_to_nearest(pairs in vec((any::<u8>(), any::<u8>()), 0..200), weight in 0f32..=1f32) {
        let (old, new): (Vec<u8>, Vec<u8>) = pairs.iter().copied().unzip();
        let mut out = vec![0; old.len()];
        cross_fade(&old, &new, weight, &mut out);
        for ((old, new), out) in pairs.into_iter().zip(out) {
            let exact = f64::from(old) + (f64::from(new) - f64::from(old)) * f64::from(weight);
            prop_assert!((f64::from(out) - exact).abs() <= 0.5 + 255.0 / 32768.0);
            prop_assert!(out >= old.min(new) && out <= old.max(new));
        }
    }
}
