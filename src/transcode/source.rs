//! Where the source's bytes are: in a file, or in a spool that a download fills while they are read.
//!
//! A spool is a temporary file without a name: the source's bytes, and behind them one byte for each block
//! of it, 0 or 1: whether the block is here. Whoever has the descriptor can read both, so the child needs
//! nothing else; it looks, waits, and asks for a block that is far ahead (`Event::Want`).

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::fetch::Download;
use crate::base::error::Context as _;
use crate::base::{Error, Kind, Result};

/// Reads bytes at any offset, as `pread` does.
pub(super) trait ReadAt {
    /// Up to `out.len()` bytes; 0 at the end.
    fn read_at(&self, at: u64, out: &mut [u8]) -> std::io::Result<usize>;
}

impl ReadAt for File {
    fn read_at(&self, at: u64, out: &mut [u8]) -> std::io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self, out, at)
    }
}

/// An open source.
pub(super) enum Source {
    /// A file, all of it there.
    File(File),
    /// A download.
    Arriving(Download),
}

/// How the child sees which blocks are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Arrivals {
    /// Offset of the first block's byte.
    pub(super) map_at: u64,
    /// Bytes in a block.
    pub(super) block_bytes: u64,
}

impl Source {
    /// What the child gets as descriptor 0; read-only.
    pub(super) fn descriptor(&self) -> &File {
        match self {
            Source::File(file) => file,
            Source::Arriving(download) => &download.spool().reader,
        }
    }

    /// Set for a source that is not all there.
    pub(super) fn arrivals(&self) -> Option<Arrivals> {
        match self {
            Source::File(_) => None,
            Source::Arriving(download) => Some(download.spool().arrivals()),
        }
    }

    /// Why the rest will never be there.
    pub(super) fn failure(&self) -> Option<Error> {
        match self {
            Source::File(_) => None,
            Source::Arriving(download) => download.spool().failure(),
        }
    }

    /// When the last bytes came, if more are to come.
    pub(super) fn arriving_since(&self) -> Option<Instant> {
        match self {
            Source::File(_) => None,
            Source::Arriving(download) => download.spool().arriving_since(),
        }
    }

    /// Somebody waits for the byte at `at`.
    pub(super) fn want(&self, at: u64) {
        if let Source::Arriving(download) = self {
            download.spool().want(at);
        }
    }
}

/// Reads a source that may still arrive: waits for what is missing until nobody wants it any more.
pub(super) struct Patient<'a> {
    pub(super) source: &'a Source,
    /// Ends the waiting.
    pub(super) unwanted: &'a AtomicBool,
    /// Whether to ask for what is far ahead, or to wait for its turn.
    pub(super) asks: bool,
}

impl ReadAt for Patient<'_> {
    fn read_at(&self, at: u64, out: &mut [u8]) -> std::io::Result<usize> {
        match self.source {
            Source::File(file) => ReadAt::read_at(file, at, out),
            Source::Arriving(download) => download.spool().read_at(at, out, self.unwanted, self.asks),
        }
    }
}

/// What a download has brought so far.
pub(super) struct Spool {
    /// Written by the download only.
    file: File,
    reader: File,
    bytes: u64,
    arrived: Mutex<Arrived>,
    /// A block came, or the download ended.
    changed: Condvar,
    /// Tells the download that something is wanted.
    pub(super) wake: Notify,
}

struct Arrived {
    /// Which blocks are here.
    blocks: Vec<bool>,
    /// Blocks before this one are all here.
    first_missing: usize,
    /// First byte, and behind the last, of what was put together last: a connection that breaks off in a block is gone on
    /// with there.
    run: (u64, u64),
    /// The block somebody waits for.
    wanted: Option<usize>,
    last: Instant,
    failure: Option<(Kind, String)>,
}

/// Blocks are 256 KiB: one takes milliseconds to come, and ten hours of CD audio have 24,000.
pub(super) const BLOCK_BYTES: u64 = 256 << 10;

/// How far ahead of where the download is a reader waits for its turn: 1 MiB comes about as soon as the first
/// byte of a new connection.
const NEAR_BLOCKS: usize = 4;

/// What to download next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    /// First byte: the start of a block, or how far the last download got in it.
    pub(super) start: u64,
    /// Behind the last byte.
    pub(super) end: u64,
}

impl Spool {
    /// A spool for `bytes` bytes, none of them here, on the file system of `directory`.
    pub(super) fn new(directory: &Path, bytes: u64) -> Result<Spool> {
        Spool::over(Temporary::new(directory)?, bytes, false)
    }

    /// A spool of bytes that are all here.
    pub(super) fn filled(temporary: Temporary, bytes: u64) -> Result<Spool> {
        Spool::over(temporary, bytes, true)
    }

    fn over(Temporary { file, reader }: Temporary, bytes: u64, here: bool) -> Result<Spool> {
        let what = || "cannot use a temporary file for the source";
        let count = bytes.div_ceil(BLOCK_BYTES);
        let blocks = vec![here; usize::try_from(count).unwrap_or(usize::MAX)];
        file.set_len(map_at(bytes) + count).context(what)?;
        if here {
            file.write_all_at(&vec![1; blocks.len()], map_at(bytes)).context(what)?;
        }
        let first_missing = if here { blocks.len() } else { 0 };
        let arrived = Arrived { blocks, first_missing, run: (0, 0), wanted: None, last: Instant::now(), failure: None };
        Ok(Spool { file, reader, bytes, arrived: Mutex::new(arrived), changed: Condvar::new(), wake: Notify::new() })
    }

    /// Length of the source.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn arrivals(&self) -> Arrivals {
        Arrivals { map_at: map_at(self.bytes), block_bytes: BLOCK_BYTES }
    }

    fn lock(&self) -> MutexGuard<'_, Arrived> {
        self.arrived.lock().expect("no panic while locked")
    }

    fn failure(&self) -> Option<Error> {
        self.lock().failure.clone().map(|(kind, message)| Error::new(kind, message))
    }

    fn arriving_since(&self) -> Option<Instant> {
        let arrived = self.lock();
        (arrived.first_missing < arrived.blocks.len()).then_some(arrived.last)
    }

    fn want(&self, at: u64) {
        let mut arrived = self.lock();
        let block = usize::try_from(at / BLOCK_BYTES).unwrap_or(usize::MAX);
        if arrived.blocks.get(block) == Some(&false) && arrived.wanted != Some(block) {
            arrived.wanted = Some(block);
            self.wake.notify_one();
        }
    }

    /// The rest will never be here.
    pub(super) fn fail(&self, error: &Error) {
        self.lock().failure.get_or_insert((error.kind(), error.chain()));
        self.changed.notify_all();
    }

    /// What is missing: from the block that is wanted on, else from the first.
    pub(super) fn next_gap(&self) -> Option<Gap> {
        let mut arrived = self.lock();
        let count = arrived.blocks.len();
        let wanted = arrived.wanted.take().filter(|block| !arrived.blocks[*block]);
        let start = wanted.unwrap_or(arrived.first_missing);
        if start >= count {
            return None;
        }
        let end = (start..count).find(|block| arrived.blocks[*block]).unwrap_or(count);
        let begins = start as u64 * BLOCK_BYTES;
        let (from, to) = arrived.run;
        let start = if from <= begins && to > begins && to < begins + BLOCK_BYTES { to } else { begins };
        Some(Gap { start, end: (end as u64 * BLOCK_BYTES).min(self.bytes) })
    }

    /// Whether somebody waits for what a download that is at `at` would bring much later, or never.
    pub(super) fn is_wanted_elsewhere(&self, at: u64) -> bool {
        let arrived = self.lock();
        let here = (at / BLOCK_BYTES) as usize;
        let near = here..=here + NEAR_BLOCKS;
        arrived.wanted.is_some_and(|wanted| !arrived.blocks[wanted] && !near.contains(&wanted))
    }

    /// Puts bytes in their place. Blocks are here when bytes that began at or before their start, and followed each
    /// other, have passed their end.
    pub(super) fn put(&self, at: u64, bytes: &[u8]) -> std::io::Result<()> {
        self.file.write_all_at(bytes, at)?;
        let end = at + bytes.len() as u64;
        let begun = {
            let mut arrived = self.lock();
            let begun = if arrived.run.1 == at { arrived.run.0 } else { at };
            arrived.run = (begun, end);
            begun
        };
        let first = begun.div_ceil(BLOCK_BYTES).max(at / BLOCK_BYTES);
        let behind = if end == self.bytes { end.div_ceil(BLOCK_BYTES) } else { end / BLOCK_BYTES };
        // First the bytes, then the word that they are here: the child looks in the other order.
        for block in first..behind {
            self.file.write_all_at(&[1], map_at(self.bytes) + block)?;
        }
        let mut arrived = self.lock();
        arrived.last = Instant::now();
        for block in first..behind {
            arrived.blocks[block as usize] = true;
        }
        let count = arrived.blocks.len();
        let from = arrived.first_missing;
        arrived.first_missing = (from..count).find(|block| !arrived.blocks[*block]).unwrap_or(count);
        drop(arrived);
        self.changed.notify_all();
        Ok(())
    }

    /// Whether the bytes are what is here already; for servers that can only begin anew.
    pub(super) fn has(&self, at: u64, bytes: &[u8]) -> std::io::Result<bool> {
        let mut here = vec![0; bytes.len()];
        self.reader.read_exact_at(&mut here, at)?;
        Ok(here == bytes)
    }

    /// Bytes from the start that are all here.
    pub(super) fn contiguous(&self) -> u64 {
        (self.lock().first_missing as u64 * BLOCK_BYTES).min(self.bytes)
    }

    /// Reads what is here, and waits for the first byte if it is not.
    fn read_at(&self, at: u64, out: &mut [u8], unwanted: &AtomicBool, asks: bool) -> std::io::Result<usize> {
        let within = self.bytes.saturating_sub(at).min(out.len() as u64);
        if within == 0 {
            return Ok(0);
        }
        let (first, last) = ((at / BLOCK_BYTES) as usize, ((at + within - 1) / BLOCK_BYTES) as usize);
        let mut arrived = self.lock();
        while !arrived.blocks[first] {
            if let Some((_, message)) = &arrived.failure {
                return Err(std::io::Error::other(message.clone()));
            }
            if unwanted.load(Ordering::Relaxed) {
                return Err(std::io::ErrorKind::Interrupted.into());
            }
            if asks && arrived.wanted != Some(first) {
                arrived.wanted = Some(first);
                self.wake.notify_one();
            }
            // 50 ms: how soon a cancelled attempt ends.
            let (next, _) =
                self.changed.wait_timeout(arrived, Duration::from_millis(50)).expect("no panic while locked");
            arrived = next;
        }
        let behind = (first..=last).find(|block| !arrived.blocks[*block]).unwrap_or(last + 1);
        drop(arrived);
        let here = (behind as u64 * BLOCK_BYTES).min(at + within) - at;
        std::os::unix::fs::FileExt::read_at(&self.reader, &mut out[..here as usize], at)
    }
}

/// A file that has no name any more, open for writing and for reading.
pub(super) struct Temporary {
    file: File,
    reader: File,
}

impl Temporary {
    pub(super) fn new(directory: &Path) -> Result<Temporary> {
        let what = || format!("cannot make a temporary file in {}", directory.display());
        let named = directory.join(format!(".source-{}-{:016x}", std::process::id(), random()));
        let file = File::options().read(true).write(true).create_new(true).open(&named).context(what)?;
        let reader = File::open(&named);
        std::fs::remove_file(&named).context(what)?;
        Ok(Temporary { file, reader: reader.context(what)? })
    }

    pub(super) fn write(&self, at: u64, bytes: &[u8]) -> std::io::Result<()> {
        self.file.write_all_at(bytes, at)
    }
}

/// The map begins at a page: it is another part of the page cache than the bytes.
fn map_at(bytes: u64) -> u64 {
    bytes.next_multiple_of(4096)
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const B: u64 = BLOCK_BYTES;

    fn spool(bytes: u64) -> (tempfile::TempDir, Spool) {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::new(directory.path(), bytes).unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "it has no name");
        (directory, spool)
    }

    fn map(spool: &Spool) -> Vec<u8> {
        let mut map = vec![0; spool.lock().blocks.len()];
        spool.reader.read_exact_at(&mut map, spool.arrivals().map_at).unwrap();
        map
    }

    #[test]
    fn a_block_is_here_when_all_of_it_is() {
        let (_directory, spool) = spool(2 * B + 10);
        assert_eq!(spool.next_gap(), Some(Gap { start: 0, end: 2 * B + 10 }));
        spool.put(0, &vec![1; B as usize - 1]).unwrap();
        assert_eq!(map(&spool), [0, 0, 0]);
        assert_eq!(spool.next_gap(), Some(Gap { start: B - 1, end: 2 * B + 10 }), "where it broke off");
        spool.put(B - 1, &[2, 3]).unwrap();
        assert_eq!(map(&spool), [1, 0, 0]);
        // The end, by another connection.
        spool.put(2 * B, &[4; 10]).unwrap();
        assert_eq!(map(&spool), [1, 0, 1]);
        assert_eq!(spool.next_gap(), Some(Gap { start: B, end: 2 * B }));
        spool.put(B, &vec![5; B as usize]).unwrap();
        assert_eq!((map(&spool), spool.next_gap(), spool.arriving_since()), (vec![1, 1, 1], None, None));
        let mut out = [0; 4];
        let never = AtomicBool::new(false);
        assert_eq!(spool.read_at(B - 1, &mut out, &never, false).unwrap(), 4);
        assert_eq!(out, [2, 5, 5, 5]);
        assert_eq!(spool.read_at(2 * B + 8, &mut out, &never, false).unwrap(), 2);
    }

    #[test]
    fn what_is_wanted_comes_first_and_what_is_near_in_its_turn() {
        let (_directory, spool) = spool(100 * B);
        spool.want(90 * B + 5);
        assert!(
            spool.is_wanted_elsewhere(0) && !spool.is_wanted_elsewhere(87 * B) && spool.is_wanted_elsewhere(95 * B)
        );
        assert_eq!(spool.next_gap(), Some(Gap { start: 90 * B, end: 100 * B }));
        spool.put(90 * B, &vec![0; 10 * B as usize]).unwrap();
        assert_eq!(spool.next_gap(), Some(Gap { start: 0, end: 90 * B }));
        spool.want(95 * B);
        spool.want(u64::MAX);
        assert_eq!(spool.next_gap(), Some(Gap { start: 0, end: 90 * B }), "it is here, or beyond the end");
    }

    #[test]
    fn who_waits_hears_of_the_failure() {
        let (_directory, spool) = spool(10);
        let never = AtomicBool::new(false);
        let error = std::thread::scope(|scope| {
            let waits = scope.spawn(|| spool.read_at(0, &mut [0; 4], &never, true).unwrap_err());
            spool.fail(&Error::new(Kind::Unavailable, "gone"));
            waits.join().unwrap()
        });
        assert_eq!(error.to_string(), "gone");
        assert_eq!(spool.failure().unwrap().kind(), Kind::Unavailable);
    }
}
