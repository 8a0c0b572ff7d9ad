//! Versions of a bucket on this machine's disk. In: a version's index and which bytes are wanted. Out: mapped files
//! that have them, fetched at first need.
//!
//! ```text
//! {dir}/lock                        held (flock) by the process that uses the directory
//! {dir}/{track}/{version}/version.json
//! {dir}/{track}/{version}/{object}  full length from the start, sparse: what was not fetched is a hole
//! {dir}/.gone-…                     evicted, being removed
//! ```
//! A file is fetched in chunks of about 1 MiB that begin and end where slices do, so that each can be checked
//! against the hashes of `version.json` before a byte of it is shown. Each slice is checked, written and shown while
//! the rest of its chunk is on its way; a fetch that breaks off goes on behind the last of them. Nothing else says what
//! is there: after a restart a chunk without a hole in it is read and checked once more, when it is first wanted. So a
//! power cut, a full disk or a bad sector costs a fetch and never a wrong byte.
//!
//! Eviction takes whole versions, those first that nobody came back to (a crawler that reads everything once
//! pushes out only what was read once), then by last use. Files are unlinked, not emptied: who is reading one
//! keeps it. `generation` tells the origin to let go of what it holds open.

mod chunk;
mod file;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use metrics::{Counter, Gauge, counter, gauge};
use tokio::sync::Semaphore;

use super::local::VERSION_DOCUMENT;
use super::mapped::Mapped;
use super::s3::Bucket;
use crate::base::error::Context as _;
use crate::base::id::{TrackId, VersionId};
use crate::base::{Error, Kind, Result, hex, telemetry};
use crate::hls::version::{self, DOCUMENT_BYTES_MAX, Rung, VersionIndex};
use file::CachedFile;

/// The bounds.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory; ours alone.
    pub dir: PathBuf,
    /// Bytes it may take, beside what listeners of just evicted versions still read.
    pub bytes_max: u64,
    /// Chunks on their way at a time; each is in memory until it is checked and written. Default 16: about 16 MiB.
    pub fetches_at_once: usize,
    /// Chunks on their way or waiting for it; beyond, 503. Default 1,024.
    pub fetches_max: usize,
    /// How long a listener waits for a chunk; then 503. Default 20 s.
    pub wait: Duration,
}

impl Options {
    /// The defaults for a directory.
    pub fn new(dir: &Path, bytes_max: u64) -> Options {
        Options {
            dir: dir.to_owned(),
            bytes_max,
            fetches_at_once: 16,
            fetches_max: 1_024,
            wait: Duration::from_secs(20),
        }
    }
}

type Key = (TrackId, VersionId);

/// The cache of a process.
#[derive(Debug)]
pub struct DiskCache {
    options: Options,
    bucket: Bucket,
    /// Held to look up or change the map, and while a directory is renamed; never across a request.
    versions: Mutex<HashMap<Key, Arc<Entry>>>,
    /// Bytes of what is in the map.
    used: AtomicU64,
    /// Evictions so far.
    generation: AtomicU64,
    turns: Semaphore,
    queued: AtomicUsize,
    started: Instant,
    _lock: File,
    counts: Counts,
}

struct Counts {
    fetched_bytes: Counter,
    fetches: Counter,
    failures: Counter,
    damaged: Counter,
    evictions: Counter,
    used: Gauge,
}

impl std::fmt::Debug for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Counts")
    }
}

/// A version in the cache.
#[derive(Debug)]
struct Entry {
    key: Key,
    dir: PathBuf,
    bytes: AtomicU64,
    /// Seconds since the cache was opened, plus one; 0 is before that.
    used_s: AtomicU32,
    /// Somebody came back to it.
    reused: AtomicBool,
    evicted: AtomicBool,
    /// Files that are open, by name: two listeners share what is known of one.
    files: Mutex<HashMap<String, Weak<CachedFile>>>,
}

impl DiskCache {
    /// Opens the directory, making it when it is missing, and removes what crashes left. Blocks: looks at every
    /// file's metadata.
    ///
    /// # Errors
    /// `Usage` when another process uses it; `Internal` when it cannot be read or written.
    pub fn open(options: Options, bucket: Bucket) -> Result<Arc<DiskCache>> {
        let dir = &options.dir;
        let what = || format!("cannot use the cache directory {}", dir.display());
        fs::create_dir_all(dir).context(what)?;
        let lock = File::create(dir.join("lock")).context(what)?;
        if lock.try_lock().is_err() {
            let dir = dir.display();
            return Err(Error::usage(format!("another process uses the cache {dir}; give this one its own cache.dir")));
        }
        let cache = DiskCache {
            bucket,
            versions: Mutex::default(),
            used: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            turns: Semaphore::new(options.fetches_at_once.max(1)),
            queued: AtomicUsize::new(0),
            started: Instant::now(),
            _lock: lock,
            counts: Counts {
                fetched_bytes: counter!(telemetry::STORE_FETCHED_BYTES),
                fetches: counter!(telemetry::STORE_FETCHES, "outcome" => "ok"),
                failures: counter!(telemetry::STORE_FETCHES, "outcome" => "failed"),
                damaged: counter!(telemetry::STORE_FETCHES, "outcome" => "damaged"),
                evictions: counter!(telemetry::CACHE_EVICTIONS),
                used: gauge!(telemetry::CACHE_BYTES),
            },
            options,
        };
        cache.scan().context(|| format!("cannot read the cache directory {}", cache.options.dir.display()))?;
        let cache = Arc::new(cache);
        cache.enforce();
        Ok(cache)
    }

    /// Finds what earlier processes left: versions are kept, the rest is removed.
    fn scan(&self) -> std::io::Result<()> {
        let mut found = Vec::new();
        for track in fs::read_dir(&self.options.dir)? {
            let track = track?;
            let name = track.file_name();
            if name == "lock" || !track.metadata()?.is_dir() {
                continue;
            }
            let Some(id) = name.to_str().and_then(TrackId::decode) else {
                if name.to_string_lossy().starts_with(GONE) {
                    let _ = fs::remove_dir_all(track.path()); // the next start tries again
                }
                continue;
            };
            for version in fs::read_dir(track.path())? {
                let version = version?;
                let decoded = version.file_name().to_str().and_then(VersionId::decode);
                match decoded {
                    Some(version_id) if version.path().join(VERSION_DOCUMENT).exists() => {
                        found.push(((id, version_id), version.path()));
                    }
                    Some(_) => fs::remove_dir_all(version.path())?,
                    None => {}
                }
            }
            let _ = fs::remove_dir(track.path()); // one that holds versions stays
        }
        let mut entries = Vec::new();
        for (key, dir) in found {
            let (mut bytes, mut newest) = (0, 0);
            for file in fs::read_dir(&dir)? {
                let metadata = file?.metadata()?;
                bytes += metadata.blocks() * 512;
                newest = newest.max(metadata.ctime());
            }
            entries.push((newest, Entry::new(key, dir, bytes)));
        }
        // Which was filled last is all that is left of which was used last.
        entries.sort_by_key(|(newest, _)| *newest);
        let mut versions = self.lock();
        for (_, entry) in entries {
            self.used.fetch_add(entry.bytes.load(Ordering::Relaxed), Ordering::Relaxed);
            versions.insert(entry.key, Arc::new(entry));
        }
        Ok(())
    }

    /// How many versions were evicted so far: when it changes, let go of those that say so.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The index of a version, from the disk or from the bucket, as its id says it is. Blocks.
    ///
    /// # Errors
    /// `NotFound` when the bucket has no such version, `Unavailable` when it cannot be asked.
    pub fn document(&self, track: TrackId, version: VersionId) -> Result<Bytes> {
        let key = (track, version);
        if let Some(entry) = self.entry(key) {
            let read = fs::read(entry.dir.join(VERSION_DOCUMENT));
            if let Ok(document) = read
                && VersionIndex::decode_as(version, &document).is_ok()
            {
                return Ok(document.into());
            }
            self.evict(&entry); // damaged on this disk
        }
        let object = format!("v/{track}/{version}/{VERSION_DOCUMENT}");
        let (document, stat) =
            self.bucket.wait(move |bucket: Bucket| async move { bucket.get_all(&object, DOCUMENT_BYTES_MAX).await })?;
        // What the id does not name came broken over the line, as far as a listener is concerned.
        VersionIndex::decode_as(version, &document).map_err(|cause| {
            Error::new(Kind::Unavailable, format!("{} is damaged", self.bucket.place())).because(cause)
        })?;
        let mut kept = self.keep(key, &document, stat.modified_s);
        if kept.as_ref().is_err_and(is_full) {
            self.make_room(None);
            kept = self.keep(key, &document, stat.modified_s);
        }
        kept.map_err(|cause| {
            let what = format!(
                "cannot keep version {version} of track {track} in the cache; free space or lower cache.bytes_max"
            );
            Error::new(Kind::Unavailable, what).because(cause)
        })?;
        Ok(document)
    }

    fn keep(&self, key: Key, document: &[u8], modified_s: u64) -> std::io::Result<()> {
        let dir = self.options.dir.join(key.0.as_str()).join(key.1.to_string());
        let mut versions = self.lock();
        if versions.contains_key(&key) {
            return Ok(());
        }
        let temporary = dir.join("version.tmp");
        let write = || {
            fs::create_dir_all(&dir)?;
            let mut file = File::create(&temporary)?;
            file.write_all(document)?;
            // Every node says the same `Last-Modified`.
            file.set_modified(UNIX_EPOCH + Duration::from_secs(modified_s))?;
            fs::rename(&temporary, dir.join(VERSION_DOCUMENT))
        };
        if let Err(cause) = write() {
            let _ = fs::remove_dir_all(&dir); // nobody knows it yet; the next start removes what stays
            return Err(cause);
        }
        let bytes = (document.len() as u64).next_multiple_of(4096);
        let entry = Entry::new(key, dir, bytes);
        entry.used_s.store(self.now_s(), Ordering::Relaxed);
        versions.insert(key, Arc::new(entry));
        self.used.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Whether the document of a version is here.
    pub fn has(&self, track: TrackId, version: VersionId) -> bool {
        self.entry((track, version)).is_some()
    }

    /// When the document of a version that is here was published.
    pub fn document_modified(&self, track: TrackId, version: VersionId) -> Option<SystemTime> {
        let entry = self.entry((track, version))?;
        fs::metadata(entry.dir.join(VERSION_DOCUMENT)).ok()?.modified().ok()
    }

    /// An object of a version whose document was just read, mapped. Nothing is fetched yet. Blocks briefly.
    ///
    /// # Errors
    /// `Busy` when the version was evicted meanwhile or no more can be mapped.
    pub fn map(
        self: &Arc<Self>,
        (track, version): Key,
        object: &version::Object,
        rung: Option<&Rung>,
    ) -> Result<Mapped> {
        let evicted = || Error::new(Kind::Busy, format!("version {version} of track {track} was evicted meanwhile"));
        let entry = self.entry((track, version)).ok_or_else(evicted)?;
        let mut files = entry.files.lock().unwrap_or_else(PoisonError::into_inner);
        let known = files.get(&object.name).and_then(Weak::upgrade);
        let cached = match known {
            Some(cached) => cached,
            None => {
                let cached = CachedFile::open(self.clone(), entry.clone(), object, rung);
                let cached = Arc::new(cached.map_err(|cause| evicted().because(cause))?);
                files.insert(object.name.clone(), Arc::downgrade(&cached));
                cached
            }
        };
        drop(files);
        Ok(Mapped::open(cached.file(), object.bytes)?.fed_by(cached))
    }

    fn entry(&self, key: Key) -> Option<Arc<Entry>> {
        let entry = self.lock().get(&key).cloned()?;
        entry.used_s.store(self.now_s(), Ordering::Relaxed);
        Some(entry)
    }

    /// Evicts until the budget holds, and a little more, so that it is not asked for every chunk.
    fn enforce(&self) {
        self.counts.used.set(self.used.load(Ordering::Relaxed) as f64);
        if self.used.load(Ordering::Relaxed) <= self.options.bytes_max {
            return;
        }
        let target = self.options.bytes_max - self.options.bytes_max / 20;
        for victim in self.victims() {
            if self.used.load(Ordering::Relaxed) <= target {
                break;
            }
            self.evict(&victim);
        }
        self.counts.used.set(self.used.load(Ordering::Relaxed) as f64);
    }

    /// Evicts a few versions, whatever the budget says: the disk is full. Of what is being read only the names go, and
    /// the space follows when nobody reads it any more.
    fn make_room(&self, but: Option<&Arc<Entry>>) {
        let others = self.victims().into_iter().filter(|other| but.is_none_or(|but| !Arc::ptr_eq(other, but)));
        others.take(4).for_each(|victim| self.evict(&victim));
    }

    /// Evicts every version of such tracks: what was deleted does not lie here until somebody needs the space.
    pub fn evict_tracks(&self, deleted: impl Fn(TrackId) -> bool) {
        let found: Vec<Arc<Entry>> = self.lock().values().filter(|entry| deleted(entry.key.0)).cloned().collect();
        found.iter().for_each(|entry| self.evict(entry));
    }

    /// All versions, those to be evicted first in front. Of what was come back to, at most four fifths of the
    /// budget are preferred: old favourites must go at last too.
    fn victims(&self) -> Vec<Arc<Entry>> {
        let mut all: Vec<Arc<Entry>> = self.lock().values().cloned().collect();
        all.sort_by_key(|entry| std::cmp::Reverse(entry.used_s.load(Ordering::Relaxed)));
        let mut preferred = 0;
        for entry in all.iter().filter(|entry| entry.reused.load(Ordering::Relaxed)) {
            preferred += entry.bytes.load(Ordering::Relaxed);
            if preferred > self.options.bytes_max / 5 * 4 {
                entry.reused.store(false, Ordering::Relaxed);
            }
        }
        all.sort_by_key(|entry| (entry.reused.load(Ordering::Relaxed), entry.used_s.load(Ordering::Relaxed)));
        all
    }

    fn evict(&self, entry: &Arc<Entry>) {
        let gone = {
            let mut versions = self.lock();
            // Another thread may have been faster, and a new one may be in its place.
            if !versions.get(&entry.key).is_some_and(|current| Arc::ptr_eq(current, entry)) {
                return;
            }
            versions.remove(&entry.key);
            entry.evicted.store(true, Ordering::Release);
            self.used.fetch_sub(entry.bytes.load(Ordering::Relaxed), Ordering::Relaxed);
            let mut random = [0; 8];
            getrandom::fill(&mut random).expect("the operating system gives random bytes");
            let gone = self.options.dir.join(format!("{GONE}{}", hex::encode(&random)));
            // Under the lock: nobody makes a new one of that name meanwhile.
            match fs::rename(&entry.dir, &gone) {
                Ok(()) => gone,
                Err(_) => entry.dir.clone(),
            }
        };
        self.generation.fetch_add(1, Ordering::Release);
        self.counts.evictions.increment(1);
        if let Err(cause) = fs::remove_dir_all(&gone) {
            tracing::warn!(%cause, path = %gone.display(), "an evicted version cannot be removed; the next start tries again");
        }
        if let Some(track_dir) = entry.dir.parent() {
            let _ = fs::remove_dir(track_dir); // one that holds other versions stays
        }
    }

    fn now_s(&self) -> u32 {
        u32::try_from(self.started.elapsed().as_secs()).unwrap_or(u32::MAX - 1) + 1
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Arc<Entry>>> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const GONE: &str = ".gone-";

fn is_full(cause: &std::io::Error) -> bool {
    matches!(cause.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

impl Entry {
    fn new(key: Key, dir: PathBuf, bytes: u64) -> Entry {
        Entry {
            key,
            dir,
            bytes: AtomicU64::new(bytes),
            used_s: AtomicU32::new(0),
            reused: AtomicBool::new(false),
            evicted: AtomicBool::new(false),
            files: Mutex::default(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::base::secret::Secret;
    use crate::store::s3;

    /// A cache of 100 KiB in a directory, before a bucket that does not answer.
    pub(super) fn cache(dir: &Path) -> Arc<DiskCache> {
        let options = s3::Options {
            endpoint: Some("http://127.0.0.1:9".into()),
            attempts: 1,
            ..s3::Options::new("none", "key", Secret::new(&b"secret"[..]))
        };
        DiskCache::open(Options::new(dir, 100 << 10), Bucket::open(options).unwrap()).unwrap()
    }

    fn key(number: u8) -> Key {
        (TrackId::decode("trk_1").unwrap(), VersionId::from_digest(&[number; 32]))
    }

    /// A version of some KiB, last used at a second.
    pub(super) fn keep(cache: &DiskCache, number: u8, kib: u64, used_s: u32, reused: bool) -> Arc<Entry> {
        cache.keep(key(number), b"{}", 1_800_000_000).unwrap();
        let entry = cache.lock()[&key(number)].clone();
        let more = kib * 1024 - entry.bytes.swap(kib * 1024, Ordering::Relaxed);
        cache.used.fetch_add(more, Ordering::Relaxed);
        entry.used_s.store(used_s, Ordering::Relaxed);
        entry.reused.store(reused, Ordering::Relaxed);
        entry
    }

    pub(super) fn kept(cache: &DiskCache) -> Vec<u8> {
        let mut kept: Vec<u8> = (0..100).filter(|number| cache.lock().contains_key(&key(*number))).collect();
        kept.sort_unstable();
        kept
    }

    #[test]
    fn a_crawler_pushes_out_what_was_read_once_and_not_what_people_come_back_to() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path());
        keep(&cache, 1, 30, 5, true); // old, and somebody came back
        keep(&cache, 2, 30, 10, false);
        for scanned in 3..50 {
            keep(&cache, scanned, 20, 10 + u32::from(scanned), false);
            cache.enforce();
            assert!(cache.used.load(Ordering::Relaxed) <= 100 << 10);
        }
        assert_eq!(kept(&cache), [1, 47, 48, 49], "the favourite and the newest");
        let entries = fs::read_dir(dir.path().join("trk_1")).unwrap().count();
        assert_eq!(entries, 4, "the others are gone from the disk");
        assert_eq!(cache.generation(), 45);
    }

    #[test]
    fn old_favourites_go_at_last_too() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path());
        for number in 0..5 {
            keep(&cache, number, 20, 1 + u32::from(number), true);
        }
        keep(&cache, 9, 20, 60, false);
        cache.enforce();
        assert_eq!(
            kept(&cache),
            [1, 2, 3, 4],
            "four fifths for favourites; of the others the oldest goes first, then 9"
        );
    }

    #[test]
    fn what_is_evicted_says_so_and_a_new_one_of_that_name_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path());
        let old = keep(&cache, 1, 10, 1, false);
        cache.evict(&old);
        let new = keep(&cache, 1, 10, 2, false);
        assert!(old.evicted.load(Ordering::Relaxed) && !new.evicted.load(Ordering::Relaxed));
        cache.evict(&old); // does not take the new one's place
        assert!(new.dir.join(VERSION_DOCUMENT).exists());
        assert_eq!(cache.used.load(Ordering::Relaxed), 10 << 10);
    }

    #[test]
    fn a_start_keeps_versions_and_removes_what_a_crash_left() {
        let dir = tempfile::tempdir().unwrap();
        {
            let cache = cache(dir.path());
            let entry = keep(&cache, 1, 10, 1, false);
            fs::write(entry.dir.join("aac-96.mp4"), vec![7; 9000]).unwrap();
            let half = dir.path().join("trk_1").join(key(2).1.to_string());
            fs::create_dir(&half).unwrap();
            fs::write(half.join("version.tmp"), "{").unwrap();
            fs::create_dir(dir.path().join(".gone-1")).unwrap();
            fs::create_dir(dir.path().join("somebody's")).unwrap();
        }
        let cache = cache(dir.path());
        assert_eq!(kept(&cache), [1]);
        let used = cache.used.load(Ordering::Relaxed);
        assert!((9_000..32_000).contains(&used), "{used}");
        let mut left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        assert_eq!(left, ["lock", "somebody's", "trk_1"]);
        assert!(!dir.path().join("trk_1").join(key(2).1.to_string()).exists());
    }
}
