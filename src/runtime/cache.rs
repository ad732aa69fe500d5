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
    fingerprint: String,
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
            fingerprint: bundle.fingerprint(),
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
