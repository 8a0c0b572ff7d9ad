//! A file of the cache: which of its bytes are here, and how the others come. In: what is wanted, from whoever sends
//! it. Out: bytes on the disk that were checked, shown slice by slice.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::sync::watch;

use super::chunk::{Chunk, chunks};
use super::{DiskCache, Entry, is_full};
use crate::base::{Error, Kind, Result};
use crate::hls::version::{self, Rung};
use crate::store::mapped::{Fetch, Source};

/// Chunks that arrive damaged are asked for again this often.
const DAMAGED_MAX: u32 = 3;
/// What has come of a chunk is shown when it is so much, or was so long on its way; and at the end.
const SHOWN_BYTES: usize = 256 << 10;
const SHOWN_EVERY: Duration = Duration::from_millis(25);
/// A chunk that is read again after this pause was wanted by somebody else: the version is worth keeping.
const REUSE_S: u32 = 60;

/// A file of the cache that is open.
pub(super) struct CachedFile {
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
    /// Opens a file of a version's directory, making it when it is missing.
    pub(super) fn open(
        cache: Arc<DiskCache>,
        entry: Arc<Entry>,
        object: &version::Object,
        rung: Option<&Rung>,
    ) -> std::io::Result<CachedFile> {
        let path = entry.dir.join(&object.name);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        let is_new = file.metadata()?.len() != object.bytes;
        if is_new {
            file.set_len(0)?;
            file.set_len(object.bytes)?;
        }
        let (track, version) = entry.key;
        let key = format!("v/{track}/{version}/{}", object.name);
        Ok(CachedFile::new((cache, entry), key, (file, is_new), chunks(object, rung)))
    }

    fn new(
        (cache, entry): (Arc<DiskCache>, Arc<Entry>),
        key: String,
        (file, is_new): (File, bool),
        chunks: Box<[Chunk]>,
    ) -> CachedFile {
        CachedFile {
            key,
            file: Arc::new(file),
            here: chunks.iter().map(|_| AtomicU64::new(0)).collect(),
            touched_s: chunks.iter().map(|_| AtomicU32::new(0)).collect(),
            missing: AtomicUsize::new(chunks.len()),
            chunks,
            is_new,
            entry,
            cache,
            waiting: Mutex::default(),
        }
    }

    /// What is to be mapped.
    pub(super) fn file(&self) -> Arc<File> {
        self.file.clone()
    }

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
    use super::super::tests::{cache, keep, kept};
    use super::*;

    #[test]
    fn a_full_disk_costs_other_versions_first_and_then_a_refusal() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path());
        let entry = keep(&cache, 1, 10, 1, false);
        (2..8).for_each(|other| drop(keep(&cache, other, 10, u32::from(other), false)));
        let full = OpenOptions::new().read(true).write(true).open("/dev/full").unwrap();
        let chunks = Box::new([Chunk { start: 0, end: 3, proofs: vec![] }]);
        let key = "v/trk_1/1/aac-96.mp4".to_owned();
        let file = CachedFile::new((cache.clone(), entry), key, (full, true), chunks);
        let error = file.write(b"abc", 0).unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable);
        let said = error.chain();
        assert!(said.contains("aac-96.mp4") && said.contains("free space or lower cache.bytes_max"), "{said}");
        assert_eq!(kept(&cache), [1, 6, 7], "four made place, the one that is being read stays");
        assert_eq!(file.present_until(0), 0, "what could not be written is not there");
    }
}
