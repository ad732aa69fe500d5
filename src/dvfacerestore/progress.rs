// SPDX-License-Identifier: MPL-2.0

//! Loading that takes minutes, and says that it goes on.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::imp::DvFaceRestore;
use super::model::{self, Model};
use super::settings::{ProviderChoice, Settings};

/// Between two messages of a loading that goes on.
const EVERY: Duration = Duration::from_secs(5);

impl DvFaceRestore {
    /// As [`model::load`]; while TensorRT builds engines, a progress message every few seconds.
    pub(super) fn load_with_progress(&self, settings: &Settings) -> Result<Model, gst::ErrorMessage> {
        let load = || model::load(settings, self.plugin_dir());
        if settings.provider != ProviderChoice::TensorRt {
            return load();
        }
        let cache = settings.engine_cache_dir();
        let say = |elapsed: Duration| {
            self.progress(
                gst::ProgressType::Continue,
                "load",
                &format!(
                    "TensorRT builds engines, which takes minutes and is done once (they are kept in {}): {} s",
                    cache.display(),
                    elapsed.as_secs()
                ),
            );
        };
        telling(EVERY, say, load)
    }
}

/// Does `work`, and calls `say` from another thread `every` so often until it is done.
fn telling<T>(every: Duration, say: impl Fn(Duration) + Send, work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let (done, waiting) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            // The sender is dropped when the work is done, or has panicked.
            while waiting.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                say(started.elapsed());
            }
        });
        let result = work();
        drop(done);
        result
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn long_work_is_told_of_and_short_work_is_not() {
        let told = Mutex::new(vec![]);
        let say = |elapsed| told.lock().unwrap().push(elapsed);
        assert_eq!(telling(Duration::from_secs(60), say, || 1), 1);
        assert!(told.lock().unwrap().is_empty());
        let every = Duration::from_millis(20);
        telling(every, say, || thread::sleep(Duration::from_millis(200)));
        let told = told.into_inner().unwrap();
        assert!((1..=10).contains(&told.len()) && told[0] >= every, "{told:?}");
    }
}
