//! Open versions. In: track and version. Out: `Hit` at once, or a fill that all who wait for it share.
//!
//! A fill runs in a task of its own: a listener who hangs up does not take it away from the others.
//! What is not there is not remembered: the next publish may put it there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quick_cache::Weighter;
use quick_cache::sync::Cache as Table;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::version::Version;
use crate::base::id::{TrackId, VersionId};
use crate::base::{Error, Kind};
use crate::hls::playlist::HandedOn;
use crate::store::local::LocalStore;

/// Which version.
pub(super) type Key = (TrackId, VersionId);

/// The bounds.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Files of versions that are kept open; each takes a descriptor and two entries of the kernel's map
    /// table (65,530 by default). Default 8,192: about a thousand versions.
    pub files_max: u64,
    /// Versions being opened or waiting for it; beyond, 503. Default 1,024.
    pub fills_max: usize,
    /// Versions being opened at the same time. Default 4: each hashes and parses an index.
    pub fills_at_once: usize,
    /// How long a request waits for a fill; then 503. Default 10 s, a CDN waits 60.
    pub wait: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { files_max: 8_192, fills_max: 1_024, fills_at_once: 4, wait: Duration::from_secs(10) }
    }
}

/// How a version was found, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Lookup {
    /// It was open.
    Hit,
    /// This request had it opened.
    Fill,
    /// Another request was already having it opened.
    Wait,
}

/// Why there is no version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missed {
    /// There is none.
    NotFound,
    /// Not now: too many fills, too slow, or no room.
    Busy,
    /// It is damaged or cannot be read.
    Broken,
}

pub(super) struct Cache {
    open: Table<Key, Arc<Version>, Files>,
    /// Fills that have not ended. Held only to look up or change the map, never across a wait.
    fills: Mutex<HashMap<Key, watch::Receiver<Option<Outcome>>>>,
    turns: Semaphore,
    store: LocalStore,
    handed_on: HandedOn,
    limits: Limits,
}

type Outcome = Result<Arc<Version>, Missed>;

#[derive(Clone)]
struct Files;

impl Weighter<Key, Arc<Version>> for Files {
    fn weight(&self, _: &Key, version: &Arc<Version>) -> u64 {
        version.files().max(1)
    }
}

impl Cache {
    pub(super) fn new(store: LocalStore, limits: Limits, handed_on: HandedOn) -> Arc<Cache> {
        /// Rungs and extras of a typical version: four AAC, one FLAC, preview, two waveforms.
        const FILES_PER_VERSION: u64 = 8;
        let versions = (limits.files_max / FILES_PER_VERSION).max(1) as usize;
        Arc::new(Cache {
            open: Table::with_weighter(versions, limits.files_max, Files),
            fills: Mutex::default(),
            turns: Semaphore::new(limits.fills_at_once.max(1)),
            store,
            handed_on,
            limits,
        })
    }

    /// The version, if it is open.
    pub(super) fn get(&self, key: &Key) -> Option<Arc<Version>> {
        self.open.get(key)
    }

    /// The version, opened by this call or by one that came before.
    pub(super) async fn fill(self: &Arc<Cache>, key: Key) -> Result<(Arc<Version>, Lookup), Missed> {
        let (mut outcome, lookup) = {
            let mut fills = self.lock();
            // It may have been opened between the caller's look and the lock.
            if let Some(version) = self.get(&key) {
                return Ok((version, Lookup::Hit));
            }
            match fills.get(&key) {
                Some(outcome) => (outcome.clone(), Lookup::Wait),
                None if fills.len() >= self.limits.fills_max => return Err(Missed::Busy),
                None => {
                    let (tx, rx) = watch::channel(None);
                    fills.insert(key, rx.clone());
                    let fill = Fill { cache: self.clone(), key };
                    // Nobody joins it: those who wait see its outcome, or that it died.
                    tokio::spawn(fill.run(tx));
                    (rx, Lookup::Fill)
                }
            }
        };
        match timeout(self.limits.wait, outcome.wait_for(Option::is_some)).await {
            Ok(Ok(outcome)) => outcome.clone().expect("it was waited for").map(|version| (version, lookup)),
            Ok(Err(_)) | Err(_) => Err(Missed::Busy), // its core stopped, or it takes too long
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, watch::Receiver<Option<Outcome>>>> {
        self.fills.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A fill in progress; its end, however it comes, takes it out of the map.
struct Fill {
    cache: Arc<Cache>,
    key: Key,
}

impl Fill {
    async fn run(self, tell: watch::Sender<Option<Outcome>>) {
        let turn = self.cache.turns.acquire().await.expect("the semaphore is never closed");
        let (store, (track, id), handed_on) = (self.cache.store.clone(), self.key, self.cache.handed_on);
        let opened = tokio::task::spawn_blocking(move || Version::open(&store, track, id, handed_on)).await;
        let outcome = match opened.unwrap_or_else(|died| Err(Error::internal("a fill died").because(died))) {
            Ok(version) => {
                let version = Arc::new(version);
                self.cache.open.insert(self.key, version.clone());
                Ok(version)
            }
            Err(error) => Err(explain(&error)),
        };
        drop(turn);
        drop(self); // first out of the map: who comes now finds it in the table or starts afresh
        let _ = tell.send(Some(outcome)); // everyone may have left
    }
}

impl Drop for Fill {
    fn drop(&mut self) {
        self.cache.lock().remove(&self.key);
    }
}

fn explain(error: &Error) -> Missed {
    match error.kind() {
        Kind::NotFound => Missed::NotFound,
        Kind::Busy | Kind::Unavailable => {
            tracing::warn!(error = error.chain(), "a version cannot be opened now");
            Missed::Busy
        }
        _ => {
            tracing::error!(error = error.chain(), "a version cannot be served");
            Missed::Broken
        }
    }
}
