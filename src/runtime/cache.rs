// SPDX-License-Identifier: MPL-2.0

//! Sessions by what they were made of: the weights are in memory once, whatever the number of elements.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Weak};

use ort::environment::Environment;
use parking_lot::Mutex;

use super::{ProviderOptions, RuntimeError, Sessions};
use crate::bundle::Bundle;

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    bundle: PathBuf,
    /// A bundle may be exported again in its place.
    digest: [u8; 32],
    options: ProviderOptions,
}

type Slot = Arc<Mutex<Weak<Sessions>>>;

static SLOTS: LazyLock<Mutex<HashMap<Key, Slot>>> = LazyLock::new(Mutex::default);

/// The process's sessions. They live as long as an element uses them.
pub struct SessionCache;

impl SessionCache {
    /// The sessions of a bundle with these options: another element's, or newly loaded ones. Two elements that start
    /// together load once.
    ///
    /// # Errors
    /// As [`Sessions::load`].
    pub fn open(
        environment: &Environment,
        bundle: &Bundle,
        options: &ProviderOptions,
    ) -> Result<Arc<Sessions>, RuntimeError> {
        let key = Key {
            bundle: bundle.dir().into(),
            digest: bundle.digest(),
            options: options.clone(),
        };
        let slot = {
            let mut slots = SLOTS.lock();
            slots.retain(|_, slot| {
                // A slot that somebody waits on, or whose sessions are in use, stays.
                Arc::strong_count(slot) > 1 || slot.lock().strong_count() > 0
            });
            slots.entry(key).or_default().clone()
        };
        let mut slot = slot.lock();
        if let Some(sessions) = slot.upgrade() {
            return Ok(sessions);
        }
        let sessions = Arc::new(Sessions::load(environment, bundle, options)?);
        *slot = Arc::downgrade(&sessions);
        Ok(sessions)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::runtime::{self, LibrarySearch, Provider};

    /// The weights are in memory once, whatever the number of elements, and leave it with the last of them.
    #[test]
    fn who_agrees_in_all_options_shares_sessions() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let library = LibrarySearch::of_process(None, Some(root.join("target/release"))).find();
        let environment = runtime::environment(&library.expect("run `make build`, or set ORT_DYLIB_PATH")).unwrap();
        let bundle = Bundle::open(&root.join("tests/bundles/identity")).unwrap();
        // Of no other test.
        let options = ProviderOptions {
            threads: 3,
            ..ProviderOptions::new(Provider::Cpu)
        };
        let open = |options: &ProviderOptions| SessionCache::open(&environment, &bundle, options).unwrap();
        let first = open(&options);
        let together = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| open(&options))).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect::<Vec<_>>()
        });
        assert!(together.iter().all(|sessions| Arc::ptr_eq(sessions, &first)));
        let other = open(&ProviderOptions {
            threads: 2,
            ..options.clone()
        });
        assert!(!Arc::ptr_eq(&other, &first));
        let held = Arc::downgrade(&first);
        drop((first, together));
        assert!(held.upgrade().is_none(), "nobody uses them: they are gone");
        assert!(held.strong_count() == 0 && Arc::strong_count(&open(&options)) == 1);
    }
}
