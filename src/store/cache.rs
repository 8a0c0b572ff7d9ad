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

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use metrics::{Counter, Gauge, counter, gauge};
use sha2::{Digest as _, Sha256};
use tokio::sync::{Semaphore, watch};

use super::local::VERSION_DOCUMENT;
use super::mapped::{Fetch, Mapped, Source};
use super::s3::Bucket;
use crate::base::error::Context as _;
use crate::base::id::{TrackId, VersionId};
use crate::base::{Error, Kind, Result, hex, telemetry};
use crate::hls::version::{self, DOCUMENT_BYTES_MAX, Rung, VersionIndex};

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

/// What a chunk has at least, the last one aside: large enough that the bucket's answer time does not matter, small
/// enough that the first listener of a segment hardly waits for the rest. A minute and a half of AAC at 96 kbit/s.
const CHUNK_BYTES: u64 = 1 << 20;
/// Chunks that arrive damaged are asked for again this often.
const DAMAGED_MAX: u32 = 3;
/// What has come of a chunk is shown when it is so much, or was so long on its way; and at the end.
const SHOWN_BYTES: usize = 256 << 10;
const SHOWN_EVERY: Duration = Duration::from_millis(25);
/// A chunk that is read again after this pause was wanted by somebody else: the version is worth keeping.
const REUSE_S: u32 = 60;

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
                let path = entry.dir.join(&object.name);
                let open = || {
                    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
                    let is_new = file.metadata()?.len() != object.bytes;
                    if is_new {
                        file.set_len(0)?;
                        file.set_len(object.bytes)?;
                    }
                    Ok((file, is_new))
                };
                let (file, is_new) = open().map_err(|cause: std::io::Error| evicted().because(cause))?;
                let chunks = chunks(object, rung);
                let cached = Arc::new(CachedFile {
                    key: format!("v/{track}/{version}/{}", object.name),
                    here: chunks.iter().map(|_| AtomicU64::new(0)).collect(),
                    touched_s: chunks.iter().map(|_| AtomicU32::new(0)).collect(),
                    missing: AtomicUsize::new(chunks.len()),
                    chunks,
                    is_new,
                    file: Arc::new(file),
                    entry: entry.clone(),
                    cache: self.clone(),
                    waiting: Mutex::default(),
                });
                files.insert(object.name.clone(), Arc::downgrade(&cached));
                cached
            }
        };
        drop(files);
        Ok(Mapped::open(cached.file.clone(), object.bytes)?.fed_by(cached))
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

/// A file of the cache that is open.
struct CachedFile {
    /// Of the object in the bucket.
    key: String,
    file: Arc<File>,
    /// Invariant: in order, without gaps, together the file.
    chunks: Box<[Chunk]>,
    /// By chunk: until where its bytes are here; its end, when all are.
    here: Box<[AtomicU64]>,
    /// By chunk: when it was last read, as `DiskCache::now_s`.
    touched_s: Box<[AtomicU32]>,
    /// How many are not whole.
    missing: AtomicUsize,
    /// Whether nothing of it can be on the disk from an earlier process.
    is_new: bool,
    entry: Arc<Entry>,
    cache: Arc<DiskCache>,
    /// Chunks on their way. Held to look up or change, never across a wait.
    waiting: Mutex<HashMap<usize, watch::Receiver<Arrival>>>,
}

/// How far a chunk on its way has come.
#[derive(Debug, Default)]
struct Arrival {
    /// Its bytes are here until there.
    here: u64,
    /// The outcome, at its end.
    landed: Option<Landed>,
}

type Landed = std::result::Result<(), Arc<Error>>;

/// A stretch of a file that is fetched and checked at once.
#[derive(Debug)]
struct Chunk {
    start: u64,
    end: u64,
    proofs: Vec<(u64, Proof)>,
}

/// How the next so many bytes of a chunk are checked.
#[derive(Debug)]
enum Proof {
    /// The first 128 bits of their SHA-256.
    Slice([u8; 16]),
    /// All of it, in hexadecimal.
    Whole(String),
    /// The space between slices: a `free` box without content (ISO/IEC 14496-12 §8.1.2).
    Free,
}

/// Where to cut an object: a rung where its slices end; anything else is one piece.
fn chunks(object: &version::Object, rung: Option<&Rung>) -> Box<[Chunk]> {
    let Some(rung) = rung else {
        let proofs = vec![(object.bytes, Proof::Whole(object.sha256.clone()))];
        return Box::new([Chunk { start: 0, end: object.bytes, proofs }]);
    };
    let mut chunks = Vec::new();
    let mut chunk =
        Chunk { start: 0, end: rung.init.bytes, proofs: vec![(rung.init.bytes, Proof::Slice(rung.init.hash))] };
    for (segment, start) in rung.segments.iter().zip(rung.offsets()) {
        if chunk.end - chunk.start >= CHUNK_BYTES {
            let at = chunk.end;
            chunks.push(std::mem::replace(&mut chunk, Chunk { start: at, end: at, proofs: vec![] }));
        }
        if start > chunk.end {
            chunk.proofs.push((start - chunk.end, Proof::Free));
        }
        chunk.proofs.push((segment.bytes, Proof::Slice(segment.hash)));
        chunk.end = start + segment.bytes; // cannot overflow: `VersionIndex::decode` added them up
    }
    chunks.push(chunk);
    chunks.into()
}

impl Chunk {
    /// Whether these are its bytes.
    fn is(&self, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        self.proofs.iter().all(|(length, proof)| {
            let Some((piece, after)) = rest.split_at_checked(*length as usize) else { return false };
            rest = after;
            proof.is_of(piece)
        }) && rest.is_empty()
    }

    /// What is to be checked from `at` on, which is where one of its proofs begins.
    fn proofs_from(&self, at: u64) -> &[(u64, Proof)] {
        let mut begins = self.start;
        let mut before = |(length, _): &(u64, Proof)| {
            let is_before = begins < at;
            begins += length;
            is_before
        };
        &self.proofs[self.proofs.iter().take_while(|proof| before(proof)).count()..]
    }
}

impl Proof {
    fn is_of(&self, bytes: &[u8]) -> bool {
        match self {
            Proof::Slice(hash) => version::digest128(bytes) == *hash,
            Proof::Whole(sha256) => hex::encode(&Sha256::digest(bytes)) == *sha256,
            Proof::Free => is_free_box(bytes),
        }
    }
}

fn is_free_box(bytes: &[u8]) -> bool {
    let Some((head, content)) = bytes.split_first_chunk::<8>() else { return false };
    let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
    u64::from(length) == bytes.len() as u64 && head[4..] == *b"free" && content.iter().all(|byte| *byte == 0)
}

impl std::fmt::Debug for CachedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CachedFile").field("key", &self.key).finish_non_exhaustive()
    }
}

impl Source for CachedFile {
    fn present_until(&self, at: u64) -> u64 {
        if self.missing.load(Ordering::Acquire) == 0 {
            return u64::MAX;
        }
        let mut until = at;
        let from = self.chunk_at(at);
        if from == self.chunks.len() {
            return u64::MAX;
        }
        // A few are more than a frame: who wants more asks again.
        for (chunk, here) in self.chunks[from..].iter().zip(&self.here[from..]).take(4) {
            let here = here.load(Ordering::Acquire);
            until = until.max(here);
            if here < chunk.end {
                break;
            }
        }
        until
    }

    fn fetch(self: Arc<Self>, at: u64, until: u64) -> Fetch {
        let number = self.chunk_at(at);
        let arrival = self.begin(number);
        // While one is on its way to a listener of more, so is the next; but nothing is guessed under load.
        if self.chunks.get(number).is_some_and(|chunk| chunk.end < until)
            && number + 1 < self.chunks.len()
            && self.cache.turns.available_permits() > 0
        {
            let _ = self.begin(number + 1); // the body asks again when it gets there
        }
        let wait = self.cache.options.wait;
        Box::pin(async move {
            let mut arrival = arrival?;
            let enough = |arrival: &Arrival| arrival.here > at || arrival.landed.is_some();
            match tokio::time::timeout(wait, arrival.wait_for(enough)).await {
                Ok(Ok(arrival)) if arrival.here > at => Ok(()),
                Ok(Ok(arrival)) => arrival.landed.clone().expect("it was waited for"),
                Ok(Err(_)) => Err(Arc::new(Error::new(Kind::Unavailable, "a fetch died"))),
                Err(_) => Err(Arc::new(Error::new(Kind::Unavailable, "the bucket takes too long"))),
            }
        })
    }

    fn touch(&self, at: u64) {
        let number = self.chunk_at(at);
        let now_s = self.cache.now_s();
        self.entry.used_s.store(now_s, Ordering::Relaxed);
        if let Some(touched_s) = self.touched_s.get(number) {
            let last_s = touched_s.swap(now_s, Ordering::Relaxed);
            if last_s > 0 && now_s.saturating_sub(last_s) >= REUSE_S {
                self.entry.reused.store(true, Ordering::Relaxed);
            }
        }
    }

    fn is_evicted(&self) -> bool {
        self.entry.evicted.load(Ordering::Acquire)
    }
}

impl CachedFile {
    fn chunk_at(&self, at: u64) -> usize {
        self.chunks.partition_point(|chunk| chunk.end <= at)
    }

    /// The arrival of a chunk: one that is on its way, or a new fetch.
    fn begin(self: &Arc<Self>, number: usize) -> std::result::Result<watch::Receiver<Arrival>, Arc<Error>> {
        let mut waiting = self.waiting();
        if let Some(arrival) = waiting.get(&number) {
            return Ok(arrival.clone());
        }
        let is_here = self.chunks.get(number).is_none_or(|chunk| self.has(number) == chunk.end);
        let (tx, rx) = watch::channel(Arrival { here: 0, landed: is_here.then_some(Ok(())) });
        if !is_here {
            if self.cache.queued.fetch_add(1, Ordering::Relaxed) >= self.cache.options.fetches_max {
                self.cache.queued.fetch_sub(1, Ordering::Relaxed);
                return Err(Arc::new(Error::new(Kind::Busy, "too many chunks are on their way")));
            }
            waiting.insert(number, rx.clone());
            // Nobody joins it: its end, whatever it is, reaches those who wait through the channel.
            let flight = Flight { file: self.clone(), number };
            self.cache.bucket.spawn(flight.run(tx));
        }
        Ok(rx)
    }

    /// Until where a chunk is here.
    fn has(&self, number: usize) -> u64 {
        self.here[number].load(Ordering::Acquire)
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<usize, watch::Receiver<Arrival>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn bring(self: &Arc<Self>, number: usize, tell: &watch::Sender<Arrival>) -> Result<()> {
        let _turn = self.cache.turns.acquire().await.expect("the semaphore is never closed");
        if !self.is_new {
            let file = self.clone();
            if off_the_runtime(move || Ok(file.has_on_disk(number))).await? {
                self.show(number, self.chunks[number].end);
                return Ok(());
            }
        }
        self.download(number, tell).await?;
        self.cache.counts.fetches.increment(1);
        let cache = self.cache.clone();
        {
            let _versions = cache.lock(); // or it would be evicted between the question and the sum
            if self.is_evicted() {
                return Ok(());
            }
            let length = self.chunks[number].end - self.chunks[number].start;
            self.entry.bytes.fetch_add(length, Ordering::Relaxed);
            cache.used.fetch_add(length, Ordering::Relaxed);
        }
        off_the_runtime(move || {
            cache.enforce();
            Ok(())
        })
        .await
    }

    /// Fetches what a chunk lacks; tried again from where it broke off.
    async fn download(self: &Arc<Self>, number: usize, tell: &watch::Sender<Arrival>) -> Result<()> {
        let (mut attempt, mut damaged) = (0, 0);
        loop {
            self.cache.bucket.pause(attempt).await;
            let error = match self.download_once(number, tell).await {
                Ok(true) => return Ok(()),
                Ok(false) => {
                    damaged += 1;
                    self.cache.counts.damaged.increment(1);
                    let start = self.has(number);
                    tracing::warn!(key = self.key, start, "bytes that are not what version.json says; asking again");
                    if damaged < DAMAGED_MAX {
                        continue;
                    }
                    return Err(self.not_as_said(number));
                }
                Err(error) => error,
            };
            attempt += 1;
            if error.kind() != Kind::Unavailable || attempt >= self.cache.bucket.attempts() {
                return Err(error);
            }
        }
    }

    fn not_as_said(&self, number: usize) -> Error {
        let (key, start, end) = (&self.key, self.has(number).max(self.chunks[number].start), self.chunks[number].end);
        let what = format!("bytes {start} to {end} of {key} are not what version.json says");
        Error::new(Kind::Unavailable, format!("{what}; compare the object with its source"))
    }

    /// Fetches what a chunk lacks, and shows each slice of it when it has come. False when one is damaged.
    async fn download_once(self: &Arc<Self>, number: usize, tell: &watch::Sender<Arrival>) -> Result<bool> {
        let chunk = &self.chunks[number];
        let mut at = self.has(number).max(chunk.start);
        let mut proofs = chunk.proofs_from(at).iter();
        let mut next = proofs.next();
        let mut arriving = self.cache.bucket.open_range(&self.key, at..chunk.end).await?;
        let (mut bytes, mut checked, mut shown) = (BytesMut::new(), 0, Instant::now());
        while at < chunk.end {
            let frame = arriving.next().await?;
            let is_last = frame.is_none();
            bytes.extend_from_slice(&frame.unwrap_or_default());
            while let Some((length, proof)) = next
                && let Some(piece) = bytes[checked..].get(..*length as usize)
            {
                if !proof.is_of(piece) {
                    return Ok(false);
                }
                checked += piece.len();
                next = proofs.next();
            }
            if is_last && checked < bytes.len() {
                return Ok(false); // `version.json` says less than the chunk's length: not made by us
            }
            // Every time that something is shown, all who wait for it wake up.
            if checked == 0 || !(next.is_none() || checked >= SHOWN_BYTES || shown.elapsed() >= SHOWN_EVERY) {
                continue;
            }
            let (file, piece) = (self.clone(), bytes.split_to(checked).freeze());
            let length = piece.len() as u64;
            off_the_runtime(move || file.write(&piece, at)).await?;
            (at, checked, shown) = (at + length, 0, Instant::now());
            self.cache.counts.fetched_bytes.increment(length);
            self.show(number, at);
            tell.send_modify(|arrival| arrival.here = at);
        }
        Ok(true)
    }

    /// Whether an earlier process left the chunk whole.
    fn has_on_disk(&self, number: usize) -> bool {
        let chunk = &self.chunks[number];
        // Not supported or beyond the data: as good as a hole.
        let hole = rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Hole(chunk.start)).unwrap_or(0);
        if hole < chunk.end {
            return false;
        }
        let mut bytes = vec![0; (chunk.end - chunk.start) as usize];
        self.file.read_exact_at(&mut bytes, chunk.start).is_ok() && chunk.is(&bytes)
    }

    /// Writes what was checked. A full disk costs other versions first.
    fn write(&self, bytes: &[u8], start: u64) -> Result<()> {
        let mut written = self.file.write_all_at(bytes, start);
        if written.as_ref().is_err_and(is_full) {
            self.cache.make_room(Some(&self.entry));
            written = self.file.write_all_at(bytes, start);
        }
        written.map_err(|cause| {
            Error::new(
                Kind::Unavailable,
                format!("cannot write {} to the cache; free space or lower cache.bytes_max", self.key),
            )
            .because(cause)
        })
    }

    /// The bytes of a chunk until there are on the disk.
    fn show(&self, number: usize, until: u64) {
        let end = self.chunks[number].end;
        let before = self.here[number].swap(until, Ordering::AcqRel);
        if before < end && until == end {
            self.missing.fetch_sub(1, Ordering::AcqRel);
        }
        self.touched_s[number].store(self.cache.now_s(), Ordering::Relaxed);
    }
}

/// A chunk on its way; its end, however it comes, takes it out of the map.
struct Flight {
    file: Arc<CachedFile>,
    number: usize,
}

impl Flight {
    async fn run(self, tell: watch::Sender<Arrival>) {
        let landed = self.file.bring(self.number, &tell).await;
        if let Err(error) = &landed {
            self.file.cache.counts.failures.increment(1);
            tracing::warn!(error = error.chain(), "a chunk cannot be had");
        }
        drop(self); // first out of the map: who comes now finds it on the disk or starts afresh
        tell.send_modify(|arrival| arrival.landed = Some(landed.map_err(Arc::new)));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.file.waiting().remove(&self.number);
        self.file.cache.queued.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn off_the_runtime<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|died| Err(Error::internal("writing to the cache died").because(died)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::secret::Secret;
    use crate::hls::version::tests::sample;
    use crate::store::s3;

    /// A cache of 100 KiB in a directory, before a bucket that does not answer.
    fn cache(dir: &Path) -> Arc<DiskCache> {
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
    fn keep(cache: &DiskCache, number: u8, kib: u64, used_s: u32, reused: bool) -> Arc<Entry> {
        cache.keep(key(number), b"{}", 1_800_000_000).unwrap();
        let entry = cache.lock()[&key(number)].clone();
        let more = kib * 1024 - entry.bytes.swap(kib * 1024, Ordering::Relaxed);
        cache.used.fetch_add(more, Ordering::Relaxed);
        entry.used_s.store(used_s, Ordering::Relaxed);
        entry.reused.store(reused, Ordering::Relaxed);
        entry
    }

    fn kept(cache: &DiskCache) -> Vec<u8> {
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

    #[test]
    fn a_full_disk_costs_other_versions_first_and_then_a_refusal() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path());
        let entry = keep(&cache, 1, 10, 1, false);
        (2..8).for_each(|other| drop(keep(&cache, other, 10, u32::from(other), false)));
        let full = OpenOptions::new().read(true).write(true).open("/dev/full").unwrap();
        let file = CachedFile {
            key: "v/trk_1/1/aac-96.mp4".into(),
            file: Arc::new(full),
            chunks: Box::new([Chunk { start: 0, end: 3, proofs: vec![] }]),
            here: Box::new([AtomicU64::new(0)]),
            touched_s: Box::new([AtomicU32::new(0)]),
            missing: AtomicUsize::new(1),
            is_new: true,
            entry,
            cache: cache.clone(),
            waiting: Mutex::default(),
        };
        let error = file.write(b"abc", 0).unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable);
        let said = error.chain();
        assert!(said.contains("aac-96.mp4") && said.contains("free space or lower cache.bytes_max"), "{said}");
        assert_eq!(kept(&cache), [1, 6, 7], "four made place, the one that is being read stays");
        assert_eq!(file.present_until(0), 0, "what could not be written is not there");
    }

    #[test]
    fn chunks_are_the_whole_file_and_end_where_segments_do() {
        let mut rung = sample().rungs.remove(0);
        rung.alignment = 4096;
        let segment = rung.segments[0].clone();
        rung.segments = (0..40).map(|n| version::Segment { bytes: 100_000 + n, ..segment.clone() }).collect();
        let end = rung.offsets().last().unwrap() + rung.segments[39].bytes;
        let object = version::Object { bytes: end, ..rung.object.clone() };
        let chunks = chunks(&object, Some(&rung));
        assert!(chunks.len() == 4 && chunks[0].start == 0 && chunks[3].end == end, "{chunks:?}");
        for chunk in &chunks {
            let proved: u64 = chunk.proofs.iter().map(|(length, _)| length).sum();
            assert_eq!(proved, chunk.end - chunk.start);
        }
        assert!(
            chunks.windows(2).all(|pair| pair[0].end == pair[1].start && pair[0].end - pair[0].start >= CHUNK_BYTES)
        );
    }

    #[test]
    fn a_chunk_is_right_only_byte_by_byte() {
        let free = [&[0, 0, 0, 12][..], b"free", &[0; 4]].concat();
        let bytes = [b"init".to_vec(), free, b"segment".to_vec()].concat();
        let slice = |piece: &[u8]| (piece.len() as u64, Proof::Slice(version::digest128(piece)));
        let proofs = vec![slice(b"init"), (12, Proof::Free), slice(b"segment")];
        let chunk = Chunk { start: 0, end: bytes.len() as u64, proofs };
        assert!(chunk.is(&bytes));
        for at in 0..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[at] ^= 1;
            assert!(!chunk.is(&wrong), "byte {at}");
        }
        assert!(!chunk.is(&bytes[..bytes.len() - 1]) && !chunk.is(&[&bytes[..], b"x"].concat()));
        let whole = Chunk { start: 0, end: 3, proofs: vec![(3, Proof::Whole(hex::encode(&Sha256::digest(b"abc"))))] };
        assert!(whole.is(b"abc") && !whole.is(b"abd"));
    }
}
