//! Open versions. In: track and version. Out: `Hit` at once, or a fill that all who wait for it share.
//!
//! A fill runs in a task of its own: a listener who hangs up does not take it away from the others.
//! What is not there is remembered for a moment, by track: who asks for versions at random costs one look
//! at a directory in that time, and a version published meanwhile is found right after.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use quick_cache::Weighter;
use quick_cache::sync::Cache as Table;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tracing::Instrument as _;

use super::version::Version;
use crate::base::id::{TrackId, VersionId};
use crate::base::telemetry::{self, Histogram, histogram};
use crate::base::{Error, Kind};
use crate::hls::playlist::HandedOn;
use crate::store::Store;

/// Which version.
pub(super) type Key = (TrackId, VersionId);

/// The bounds.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Files of versions that are kept open; each takes a descriptor and two entries of the kernel's map
    /// table (65,530 by default). Default 8,192: about a thousand versions. Their playlists, entity tags
    /// and coded forms may take 64 KiB of memory for each: 512 MiB.
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

/// Where the time of a fill went.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stages {
    /// Waiting for one of `Limits::fills_at_once`.
    pub(super) queued: Duration,
    /// Reading and checking the version.
    pub(super) opened: Duration,
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
    /// Made only after a version was not found.
    looks: Table<TrackId, Look>,
    /// Fills that have not ended. Held only to look up or change the map, never across a wait.
    fills: Mutex<HashMap<Key, watch::Receiver<Option<Outcome>>>>,
    turns: Semaphore,
    /// Looks at whether a version exists that may have to ask a bucket.
    looking: Semaphore,
    store: Store,
    handed_on: HandedOn,
    limits: Limits,
    /// How many evictions of the store we have heard of.
    evictions: AtomicU64,
    /// Seconds of fills that found a version, found none, or failed.
    seconds: [&'static Histogram; 3],
}

type Outcome = Result<(Arc<Version>, Stages), Missed>;

#[derive(Clone)]
struct Files;

impl Weighter<Key, Arc<Version>> for Files {
    fn weight(&self, _: &Key, version: &Arc<Version>) -> u64 {
        // The scarcer of the two: an hour of music takes about 64 KiB a rung.
        version.files().max(version.memory_bytes().div_ceil(BYTES_PER_FILE)).max(1)
    }
}

/// Memory that counts as much as an open file.
const BYTES_PER_FILE: u64 = 64 << 10;
/// How long a look at a track's directory is believed. A publish shows no later than this.
const LOOK_TTL: Duration = Duration::from_millis(250);
/// Looks at a time: fewer than the threads of a core, which also read cold blocks.
const LOOKS_AT_ONCE: usize = 24;
/// Tracks whose directories are remembered, some hundred bytes each.
const LOOKS_MAX: usize = 4_096;
/// Versions of one track that are remembered; of a track with more, none are.
const LOOK_VERSIONS_MAX: usize = 64;

/// What was in a track's directory, and when.
#[derive(Clone)]
struct Look {
    at: Instant,
    versions: Arc<[VersionId]>,
}

impl Cache {
    pub(super) fn new(store: Store, limits: Limits, handed_on: HandedOn) -> Arc<Cache> {
        /// Rungs and extras of a typical version: four AAC, one FLAC, preview, four waveforms.
        const FILES_PER_VERSION: u64 = 8;
        let versions = (limits.files_max / FILES_PER_VERSION).max(1) as usize;
        Arc::new(Cache {
            open: Table::with_weighter(versions, limits.files_max, Files),
            looks: Table::new(LOOKS_MAX),
            fills: Mutex::default(),
            turns: Semaphore::new(limits.fills_at_once.max(1)),
            looking: Semaphore::new(LOOKS_AT_ONCE),
            store,
            handed_on,
            limits,
            evictions: AtomicU64::new(0),
            seconds: ["ok", "missing", "failed"]
                .map(|outcome| histogram(telemetry::FILL_SECONDS, &[("outcome", outcome)], &histogram::SECONDS)),
        })
    }

    /// Versions being opened now, or waiting for it.
    pub(super) fn fills(&self) -> usize {
        self.lock().len()
    }

    /// The version, if it is open.
    pub(super) fn get(&self, key: &Key) -> Option<Arc<Version>> {
        self.open.get(key).filter(|version| !version.is_evicted())
    }

    /// Lets go of versions that the disk cache has evicted: their files are gone when nobody reads them.
    pub(super) fn tidy(&self) {
        let evictions = self.store.evictions();
        if self.evictions.swap(evictions, Ordering::Relaxed) != evictions {
            self.open.retain(|_, version| !version.is_evicted());
        }
    }

    /// The version, opened by this call or by one that came before, and where that one's time went.
    pub(super) async fn fill(self: &Arc<Cache>, key: Key) -> Result<(Arc<Version>, Lookup, Stages), Missed> {
        if self.is_known_absent(key) {
            return Err(Missed::NotFound);
        }
        let (mut outcome, lookup) = {
            let mut fills = self.lock();
            // It may have been opened between the caller's look and the lock.
            if let Some(version) = self.get(&key) {
                return Ok((version, Lookup::Hit, Stages::default()));
            }
            match fills.get(&key) {
                Some(outcome) => (outcome.clone(), Lookup::Wait),
                None if fills.len() >= self.limits.fills_max => return Err(Missed::Busy),
                None => {
                    let (tx, rx) = watch::channel(None);
                    fills.insert(key, rx.clone());
                    let fill = Fill { cache: self.clone(), key };
                    // Nobody joins it: those who wait see its outcome, or that it died.
                    let span = tracing::info_span!("fill", track = %key.0, version = %key.1);
                    tokio::spawn(fill.run(tx).instrument(span));
                    (rx, Lookup::Fill)
                }
            }
        };
        match timeout(self.limits.wait, outcome.wait_for(Option::is_some)).await {
            Ok(Ok(outcome)) => {
                outcome.clone().expect("it was waited for").map(|(version, stages)| (version, lookup, stages))
            }
            Ok(Err(_)) | Err(_) => Err(Missed::Busy), // its core stopped, or it takes too long
        }
    }

    fn is_known_absent(&self, (track, version): Key) -> bool {
        self.looks.get(&track).is_some_and(|look| look.at.elapsed() < LOOK_TTL && !look.versions.contains(&version))
    }

    /// Whether the version exists; when not, remembers which do. Blocks.
    fn exists(&self, (track, version): Key) -> Result<bool, Error> {
        if self.store.has_version(track, version)? {
            return Ok(true);
        }
        let at = Instant::now();
        let versions = self.store.versions(track, LOOK_VERSIONS_MAX + 1)?;
        if versions.len() <= LOOK_VERSIONS_MAX {
            self.looks.insert(track, Look { at, versions: versions.into() });
        }
        Ok(false)
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
        let began = Instant::now();
        let outcome = self.open().await.map_err(|error| explain(&error));
        let which = match outcome {
            Ok(_) => 0,
            Err(Missed::NotFound) => 1,
            Err(Missed::Busy | Missed::Broken) => 2,
        };
        self.cache.seconds[which].record_duration(began.elapsed());
        drop(self); // first out of the map: who comes now finds it in the table or starts afresh
        let _ = tell.send(Some(outcome)); // everyone may have left
    }

    async fn open(&self) -> Result<(Arc<Version>, Stages), Error> {
        let began = Instant::now();
        let (cache, key) = (self.cache.clone(), self.key);
        // Before a turn is taken: what does not exist shall not stand in the way of what does, nor a bucket that
        // hangs in the way of what is on this disk.
        if !self.cache.store.is_here(key.0, key.1) {
            let _look = self.cache.looking.acquire().await.expect("the semaphore is never closed");
            if !off_the_core(move || cache.exists(key)).await? {
                return Err(Error::not_found(format!("there is no version {} of track {}", key.1, key.0)));
            }
        }
        let _turn = self.cache.turns.acquire().await.expect("the semaphore is never closed");
        let queued = began.elapsed();
        let (store, handed_on) = (self.cache.store.clone(), self.cache.handed_on);
        let version = Arc::new(off_the_core(move || Version::open(&store, key.0, key.1, handed_on)).await?);
        self.cache.open.insert(key, version.clone());
        Ok((version, Stages { queued, opened: began.elapsed() - queued }))
    }
}

async fn off_the_core<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|died| Err(Error::internal("a fill died").because(died)))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::LocalStore;

    #[tokio::test]
    async fn what_is_not_there_is_remembered_by_track_and_only_for_a_moment() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::open(dir.path()).unwrap();
        let track = TrackId::decode("trk_1").unwrap();
        let id = |digits: &str| VersionId::decode(&digits.repeat(20)).unwrap();
        std::fs::create_dir_all(store.version_dir(track, id("aa"))).unwrap();
        let cache = Cache::new(store.clone().into(), Limits::default(), &[]);
        for unknown in ["00", "01", "02"] {
            assert_eq!(cache.fill((track, id(unknown))).await.unwrap_err(), Missed::NotFound);
        }
        let look = cache.looks.get(&track).expect("one look was remembered for all");
        assert_eq!(*look.versions, [id("aa")]);
        let believed = |age| {
            cache.looks.insert(track, Look { at: Instant::now().checked_sub(age).unwrap(), ..look.clone() });
            [id("aa"), id("00")].map(|version| cache.is_known_absent((track, version)))
        };
        assert_eq!(believed(Duration::ZERO), [false, true], "what is there is never called absent");
        assert_eq!(believed(LOOK_TTL), [false, false]);
        assert_eq!(cache.turns.available_permits(), 4);
        assert!(cache.lock().is_empty());
    }
}
