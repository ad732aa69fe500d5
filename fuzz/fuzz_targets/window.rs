// SPDX-License-Identifier: MPL-2.0

//! Sequences of window operations: whatever comes, each frame of a run is final once and in order, windows hold the frames that
//! they should, and at most a window waits.

#![no_main]

use arbitrary::Arbitrary;
use gstdvface::pace::{Cause, Moment, Pace};
use gstdvface::window::{FrameStore, Plan, Planner, Tail, WindowShape};
use libfuzzer_sys::fuzz_target;
use std::time::Duration;

#[derive(Arbitrary, Debug)]
enum Step {
    /// Frames, and how much too late the clock says each is, in milliseconds.
    Frames { count: u8, late: u16 },
    /// Memory of a frame is asked for and written, and the frame never comes.
    Abandoned,
    /// Discont, caps, segment, scene cut, end of stream.
    Cut,
    Flush,
    /// A run fails.
    Failure,
    /// A run takes so long.
    Took { ms: u16 },
}

#[derive(Arbitrary, Debug)]
struct Input {
    frames: u8,
    overlap: u8,
    steps: Vec<Step>,
}

/// A user of the modules, as the element is one. A frame's pixels are its number in the run.
struct Stream {
    shape: WindowShape,
    planner: Planner,
    store: FrameStore,
    pace: Pace,
    /// Frames of the run, and those of them that are final.
    pushed: u64,
    done: u64,
    /// Frames since the beginning, for their time.
    index: u64,
    late: u64,
}

fn pixels(frame: u64) -> [u8; 2] {
    [frame as u8, (frame >> 8) as u8 ^ 0x5a]
}

impl Stream {
    fn moment(&self) -> Moment {
        Moment {
            now: Duration::from_millis(self.index * 40 + self.late),
            upstream: Duration::ZERO,
            latency: Duration::from_millis((self.shape.frames() as u64 - 1) * 40 + 100),
            frame: Duration::from_millis(40),
            earliest: None,
        }
    }

    /// Running time of a frame of the run.
    fn time(&self, frame: u64) -> Duration {
        Duration::from_millis((self.index - (self.pushed - frame)) * 40)
    }

    fn push(&mut self) {
        self.index += 1;
        if self.pace.bypasses() {
            assert_eq!(self.pushed, 0, "nothing is held while frames go on unrestored");
            let time = Duration::from_millis(self.index * 40);
            if !self.pace.try_restoring(Some(time), Some(&self.moment())) {
                return;
            }
        }
        self.store.next().copy_from_slice(&pixels(self.pushed));
        self.store.commit();
        self.pushed += 1;
        if let Some(plan) = self.planner.push() {
            assert_eq!(plan.real, self.shape.frames());
            self.restore(&plan);
        }
        assert!(self.pushed - self.done < self.shape.frames() as u64);
        assert_eq!(self.pushed - self.done, self.planner.waiting() as u64);
    }

    fn restore(&mut self, plan: &Plan) {
        if self.pace.lateness(Some(self.time(self.done)), Some(&self.moment())).is_some() {
            self.give_up(Cause::Late);
            return;
        }
        let window = self.store.window(plan);
        for slot in 0..self.shape.frames() {
            let frame = plan.first + slot.min(plan.real - 1) as u64;
            assert_eq!(window[slot * 2..][..2], pixels(frame));
        }
        assert_eq!(plan.emit.start, self.done);
        for frame in plan.emit.clone() {
            let weight = plan.weight(frame);
            assert!(weight > 0.0 && weight <= 1.0);
            assert!(plan.slot(frame) < plan.real);
            assert!(plan.previous_slot(frame).is_none_or(|slot| slot < self.shape.frames()));
        }
        self.done = plan.emit.end;
        assert_eq!(plan.held().start, self.done);
        self.pace.ran(plan.emit.end - plan.emit.start, self.pace.expected());
    }

    /// All that is held goes on; the frames that a window has restored are those of the store.
    fn give_up(&mut self, cause: Cause) {
        let held = (self.pushed - self.done) as usize;
        if self.done > 0 {
            for at in 0..held.min(self.shape.overlap()) {
                assert_eq!(self.store.recent(held - 1 - at), pixels(self.done + at as u64));
            }
        }
        self.reset();
        self.pace.bypass(cause);
    }

    fn cut(&mut self) {
        match self.planner.finish() {
            Tail::Nothing => {}
            Tail::Held(held) => {
                assert_eq!(held, self.done..self.pushed);
                assert_eq!((held.end - held.start) as usize, self.shape.overlap());
            }
            Tail::Window(plan) => {
                let end = self.pushed;
                self.restore(&plan);
                assert!(self.pushed == 0 || self.done == end);
            }
        }
        self.reset();
    }

    fn reset(&mut self) {
        self.planner.reset();
        self.store.reset();
        self.pushed = 0;
        self.done = 0;
    }
}

fuzz_target!(|input: Input| {
    let Ok(shape) = WindowShape::new(input.frames.into(), input.overlap.into()) else {
        assert!(input.frames == 0 || u32::from(input.overlap) * 2 > u32::from(input.frames));
        return;
    };
    let mut stream = Stream {
        shape,
        planner: Planner::new(shape),
        store: FrameStore::new(shape, 2).unwrap(),
        pace: Pace::new(shape.frames(), Duration::from_millis(80)),
        pushed: 0,
        done: 0,
        index: 0,
        late: 0,
    };
    for step in input.steps {
        match step {
            Step::Frames { count, late } => {
                stream.late = late.into();
                (0..count).for_each(|_| stream.push());
            }
            Step::Abandoned => stream.store.next().fill(0xff),
            Step::Cut => stream.cut(),
            Step::Flush => stream.reset(),
            Step::Failure if stream.pushed > 0 => stream.give_up(Cause::Failed),
            Step::Failure => {}
            Step::Took { ms } => stream.pace.ran(1, Duration::from_millis(ms.into())),
        }
    }
});
