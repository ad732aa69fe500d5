// SPDX-License-Identifier: MPL-2.0

//! A stall that is GStreamer's, told apart from one of the element.
//!
//! When the last sink has its frame, a bin remembers the number of the state change under way, and a thread of a pool goes on
//! to PLAYING if the number is still the same then (gstbin.c: `bin_handle_async_done`, `gst_bin_continue_func`). Set to PAUSED
//! and to PLAYING in between, the number is another one, and both calls see a change under way that they leave to that thread:
//! the pipeline stays in PAUSED for ever, with any elements.

use gst::prelude::*;
use gst::{ClockTime, State, StateChangeSuccess};

/// Whether the pipeline waits for a change to PLAYING that no thread makes: each element has come to PAUSED, and none is on its
/// way to PLAYING, where the sink would be the first.
pub fn lost_change(pipeline: &gst::Pipeline) -> bool {
    pipeline.state(ClockTime::ZERO) == (Ok(StateChangeSuccess::Async), State::Paused, State::Playing)
        && pipeline.children().iter().all(|element| {
            element.state(ClockTime::ZERO) == (Ok(StateChangeSuccess::Success), State::Paused, State::VoidPending)
        })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;

    /// The same as by chance in the soak, with GStreamer's own elements: in the moment when the bin has remembered the number.
    #[test]
    fn a_change_to_playing_that_gstreamer_loses_is_told_apart() {
        gst::init().unwrap();
        let pipeline = gst::parse::launch("videotestsrc ! identity ! fakesink sync=true").unwrap();
        let pipeline = pipeline.downcast::<gst::Pipeline>().unwrap();
        let (weak, is_done) = (pipeline.downgrade(), AtomicBool::new(false));
        pipeline.bus().unwrap().set_sync_handler(move |_, message| {
            if let Some(pipeline) = weak.upgrade()
                && message.type_() == gst::MessageType::AsyncDone
                && !is_done.swap(true, Ordering::SeqCst)
            {
                pipeline.set_state(State::Paused).unwrap();
                pipeline.set_state(State::Playing).unwrap();
            }
            gst::BusSyncReply::Drop
        });
        pipeline.set_state(State::Playing).unwrap();
        let (_, state, _) = pipeline.state(ClockTime::from_mseconds(500));
        let is_lost = lost_change(&pipeline);
        // Where a later GStreamer does not lose it, nothing may be found.
        assert_eq!(
            is_lost,
            state != State::Playing,
            "{:?}",
            pipeline.state(ClockTime::ZERO)
        );
        println!("this GStreamer loses the change: {is_lost}");
        // From READY it plays.
        pipeline.set_state(State::Ready).unwrap();
        pipeline.set_state(State::Playing).unwrap();
        let (_, state, _) = pipeline.state(ClockTime::from_seconds(10));
        assert_eq!(state, State::Playing);
        assert!(!lost_change(&pipeline));
        pipeline.set_state(State::Paused).unwrap();
        let _ = pipeline.state(ClockTime::from_seconds(10));
        std::thread::sleep(Duration::from_millis(20));
        assert!(!lost_change(&pipeline), "a pipeline that shall pause is not stalled");
        pipeline.set_state(State::Null).unwrap();
    }
}
