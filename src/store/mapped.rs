//! Published files in memory. In: an open file and the length it must have. Out: `Bytes` that borrow
//! the page cache, and, for the socket, the way back from a pointer to the file it lies in.
//!
//! All mappings live in one window of addresses reserved at first use. A pointer is in a mapping
//! exactly when it is in the window and its unit's table word says so: two comparisons and one load, no
//! lock, so the socket can ask for every slice it writes.
//!
//! Invariants, which every `unsafe` block below leans on:
//! 1. The window is reserved once and never given back, so no foreign memory is ever inside it.
//! 2. A unit (`UNIT_BYTES`) belongs to at most one `Mapping`; the bitmap behind the lock decides.
//! 3. A table word is non-zero exactly from after the file is mapped until before it is unmapped, and
//!    the descriptor it names stays open for that time: both belong to the same `Mapping`.
//! 4. Published files are written once, fsynced and renamed into place, never truncated or rewritten
//!    (`publish.rs`). The length is checked at opening, so a read below `len` cannot fault (SIGBUS)
//!    unless the disk itself fails. Files of the disk cache (`cache.rs`) have their length from the start; a
//!    byte of theirs is written before `Source::present_until` says that it is there, and never after.
#![allow(unsafe_code)]

use std::fmt::Debug;
use std::fs::File;
use std::future::Future;
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;

use crate::base::error::Context as _;
use crate::base::{Error, Kind, Result};

/// Addresses are handed out in units of 16 MiB: a four-minute AAC rung takes one, a FLAC rung three.
const UNIT_BYTES: usize = 16 << 20;
/// What we ask for, largest first: address space is free, but `ulimit -v` and small machines exist.
const WINDOW_BYTES: [usize; 4] = [4 << 40, 512 << 30, 64 << 30, 8 << 30];
/// Residency is remembered per block of this size, and cold bytes are fetched in such blocks.
pub const BLOCK_BYTES: u64 = 256 << 10;

/// A file mapped read-only. Cheap to clone; the last clone or `Bytes` of it unmaps and closes.
#[derive(Clone, Debug)]
pub struct Mapped {
    mapping: Arc<Mapping>,
    bytes: Bytes,
    /// What brings the bytes that are not in the file yet; `None` when all are.
    source: Option<Arc<dyn Source>>,
}

/// The wait for bytes that are on their way. Dropping it gives up the wait, not the bytes.
pub type Fetch = Pin<Box<dyn Future<Output = std::result::Result<(), Arc<Error>>> + Send>>;

/// What brings the bytes of a file that is not whole.
pub trait Source: Debug + Send + Sync {
    /// The end of what is in the file from `at` on; `at` when that byte is not. At the end or past it: anything past.
    fn present_until(&self, at: u64) -> u64;
    /// Has the byte at `at`, and what is brought along with it, put into the file; one fetch for all who ask.
    /// `until` is where the asker will stop.
    fn fetch(self: Arc<Self>, at: u64, until: u64) -> Fetch;
    /// Somebody reads at `at`; not told more than once a second for a block.
    fn touch(&self, at: u64);
    /// Whether the file has lost its name: who opens it next gets another one.
    fn is_evicted(&self) -> bool;
}

/// Where in which file a pointer lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The descriptor, open as long as the `Bytes` the pointer came from.
    pub fd: RawFd,
    /// Offset of the pointed-at byte in the file.
    pub offset: u64,
}

impl Mapped {
    /// Maps `file`, which must be at least `length` bytes long; what lies beyond is not shown.
    ///
    /// # Errors
    /// `Invalid` when the file is shorter than `length` (it was damaged: serving it would fault),
    /// `Busy` when the window or the kernel's map table is full.
    pub fn open(file: impl Into<Arc<File>>, length: u64) -> Result<Mapped> {
        let file = file.into();
        let found = file.metadata().context(|| "cannot stat a published file")?.len();
        if found < length {
            return Err(Error::invalid(format!("the file has {found} bytes, its index says {length}")));
        }
        let length = usize::try_from(length).map_err(|_| Error::invalid("the file is larger than memory"))?;
        let mapping = Arc::new(Mapping::new(file, length)?);
        let bytes = Bytes::from_owner(Owner(mapping.clone()));
        Ok(Mapped { mapping, bytes, source: None })
    }

    /// The same file, of which only those bytes are there that `source` says are.
    #[must_use]
    pub fn fed_by(mut self, source: Arc<dyn Source>) -> Mapped {
        self.source = Some(source);
        self
    }

    /// The end of what is in the file from `at` on; `at` when that byte is not there.
    pub fn present_until(&self, at: u64) -> u64 {
        self.source.as_ref().map_or(u64::MAX, |source| source.present_until(at))
    }

    /// Has the byte at `at` put into the file, for one who reads up to `until`; `None` when it is there.
    pub fn fetch(&self, at: u64, until: u64) -> Option<Fetch> {
        let source = self.source.as_ref().filter(|source| at < self.len() && source.present_until(at) <= at)?;
        Some(source.clone().fetch(at, until))
    }

    /// Whether the file has lost its name: who opens it next gets another one.
    pub fn is_evicted(&self) -> bool {
        self.source.as_ref().is_some_and(|source| source.is_evicted())
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes `range` of the file, borrowing the page cache. Reading a cold page blocks the thread.
    ///
    /// # Panics
    /// When the range does not lie in the file.
    pub fn slice(&self, range: Range<u64>) -> Bytes {
        self.bytes.slice(range.start as usize..range.end as usize)
    }

    /// The file itself, for positioned reads.
    pub fn file(&self) -> &File {
        &self.mapping.file
    }

    /// A number that no other mapping has at the same time; clones share it.
    pub fn id(&self) -> usize {
        Arc::as_ptr(&self.mapping) as usize
    }

    /// Whether the block that holds `offset` is in the page cache. The kernel is asked at most once
    /// in `MEMORY_TICKS` for each block; a page evicted in between costs one blocking read.
    pub fn is_resident(&self, offset: u64, now_tick: u32) -> bool {
        if self.was_just_resident(offset, now_tick) {
            return true;
        }
        if let Some(source) = &self.source {
            source.touch(offset);
        }
        let resident = self.mapping.ask_kernel((offset / BLOCK_BYTES) as usize);
        if resident {
            self.mark_resident(offset, now_tick);
        }
        resident
    }

    /// Whether the block that holds `offset` was seen in the page cache or read in the last `MEMORY_TICKS`;
    /// the kernel is not asked. Beyond the end there is nothing to fetch.
    pub fn was_just_resident(&self, offset: u64, now_tick: u32) -> bool {
        /// How long an answer is believed: 1 s at 4 ticks a second. A hot block then costs one `mincore`
        /// (about 3 µs) a second, and the kernel hardly evicts what was used so recently.
        const MEMORY_TICKS: i32 = 4;
        let Some(checked) = self.mapping.checked.get((offset / BLOCK_BYTES) as usize) else { return true };
        let last = checked.load(Ordering::Relaxed);
        // Signed: another core's clock may be a tick ahead of ours.
        last != 0 && (now_tick.wrapping_sub(last) as i32) < MEMORY_TICKS
    }

    /// Notes that the block holding `offset` was just read.
    pub fn mark_resident(&self, offset: u64, now_tick: u32) {
        if let Some(checked) = self.mapping.checked.get((offset / BLOCK_BYTES) as usize) {
            checked.store(now_tick.max(1), Ordering::Relaxed);
        }
    }
}

/// Finds the file a pointer lies in; `None` for memory that is not one of ours. The answer holds as
/// long as the `Bytes` the pointer was taken from (invariant 3).
#[inline]
pub fn locate(pointer: *const u8) -> Option<Place> {
    let window = WINDOW.get()?.as_ref()?;
    let at = (pointer as usize).wrapping_sub(window.base);
    if at >= window.bytes {
        return None;
    }
    let word = window.table[at / UNIT_BYTES].load(Ordering::Acquire);
    let (fd, first) = unpack(word)?;
    Some(Place { fd, offset: (at - first * UNIT_BYTES) as u64 })
}

// A table word: descriptor + 1 in the upper half (so that zero means "no mapping"), the first unit of
// the mapping in the lower half.
fn pack(fd: RawFd, first: usize) -> u64 {
    (fd as u64 + 1) << 32 | first as u64
}

fn unpack(word: u64) -> Option<(RawFd, usize)> {
    let fd = (word >> 32).checked_sub(1)?;
    Some((fd as RawFd, (word & 0xffff_ffff) as usize))
}

/// One file in the window.
#[derive(Debug)]
struct Mapping {
    /// A descriptor for both, where somebody else writes to it.
    file: Arc<File>,
    /// First byte; inside the window, at the start of unit `first`. Dangling when `length` is 0.
    base: *const u8,
    length: usize,
    first: usize,
    units: usize,
    /// When each block was last seen resident, in ticks; 0 is never.
    checked: Box<[AtomicU32]>,
}

// SAFETY: the memory is read-only and lives until `Drop`; everything else is atomic or `Send + Sync`.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

/// What `Bytes` keeps alive.
struct Owner(Arc<Mapping>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `base..base + length` is mapped readable for the life of the mapping, which we hold,
        // and the file is never written again (invariant 4).
        unsafe { std::slice::from_raw_parts(self.0.base, self.0.length) }
    }
}

impl Mapping {
    fn new(file: Arc<File>, length: usize) -> Result<Mapping> {
        if length == 0 {
            let base = ptr::NonNull::dangling().as_ptr();
            return Ok(Mapping { file, base, length, first: 0, units: 0, checked: Box::default() });
        }
        let window = window()?;
        let units = length.div_ceil(UNIT_BYTES);
        let first = window.take(units).ok_or_else(|| {
            Error::new(
                Kind::Busy,
                format!("no room in the file window for {length} bytes; fewer versions must be open"),
            )
        })?;
        let base = (window.base + first * UNIT_BYTES) as *mut libc::c_void;
        // SAFETY: the units are ours alone (invariant 2), reserved and inaccessible; MAP_FIXED replaces
        // nothing but that reservation.
        let mapped = unsafe {
            let flags = libc::MAP_SHARED | libc::MAP_FIXED;
            libc::mmap(base, length, libc::PROT_READ, flags, file.as_raw_fd(), 0)
        };
        if mapped == libc::MAP_FAILED {
            let cause = std::io::Error::last_os_error();
            window.give_back(first, units);
            return Err(Error::new(Kind::Busy, format!("the kernel cannot map {length} bytes")).because(cause));
        }
        for word in &window.table[first..first + units] {
            word.store(pack(file.as_raw_fd(), first), Ordering::Release);
        }
        let blocks = length.div_ceil(BLOCK_BYTES as usize);
        let checked = (0..blocks).map(|_| AtomicU32::new(0)).collect();
        Ok(Mapping { file, base: base as *const u8, length, first, units, checked })
    }

    /// Asks the kernel whether every page of a block is in the page cache.
    ///
    /// `mincore` tells the truth only to the file's owner or a writer (Linux 5.2, against side
    /// channels) and says "resident" otherwise: then a cold read blocks, as it would without asking.
    fn ask_kernel(&self, block: usize) -> bool {
        const PAGE: usize = 4096;
        let mut pages = [0u8; BLOCK_BYTES as usize / PAGE];
        let start = block * BLOCK_BYTES as usize;
        let length = (self.length - start).min(BLOCK_BYTES as usize);
        // SAFETY: the block lies in the mapping, starts at a page, and `pages` has one byte for each of
        // its pages (fewer are written when the machine's pages are larger).
        let answer = unsafe { libc::mincore(self.base.add(start) as *mut _, length, pages.as_mut_ptr()) };
        let asked = length.div_ceil(page_bytes());
        answer != 0 || pages[..asked].iter().all(|page| page & 1 == 1)
    }
}

fn page_bytes() -> usize {
    static PAGE: OnceLock<usize> = OnceLock::new();
    *PAGE.get_or_init(rustix::param::page_size)
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.units == 0 {
            return;
        }
        let window = WINDOW.get().and_then(Option::as_ref).expect("a mapping exists only in the window");
        for word in &window.table[self.first..self.first + self.units] {
            word.store(0, Ordering::Release);
        }
        // SAFETY: nobody holds a slice any more (we are being dropped); the whole unit range goes back
        // to the inaccessible reservation, so a stale pointer faults instead of reading another file.
        let restored = unsafe { reserve(self.base as *mut _, self.units * UNIT_BYTES, libc::MAP_FIXED) };
        // Without the reservation the units could be taken by anyone: keep them out of circulation.
        if restored.is_some() {
            window.give_back(self.first, self.units);
        }
    }
}

struct Window {
    base: usize,
    bytes: usize,
    /// One word for each unit: see `pack`.
    table: Box<[AtomicU64]>,
    taken: Mutex<Taken>,
}

/// Which units are taken: one bit each.
struct Taken {
    words: Box<[u64]>,
    /// Where the last search ended; the next starts there, so freed addresses rest for a while.
    cursor: usize,
}

static WINDOW: OnceLock<Option<Window>> = OnceLock::new();

fn window() -> Result<&'static Window> {
    WINDOW
        .get_or_init(|| WINDOW_BYTES.into_iter().find_map(Window::reserve))
        .as_ref()
        .ok_or_else(|| Error::new(Kind::Unavailable, "no address space for mapped files (is `ulimit -v` set?)"))
}

/// Reserves inaccessible addresses that cost nothing.
///
/// # Safety
/// With `MAP_FIXED` whatever is mapped at `at` goes away: it must be the caller's.
unsafe fn reserve(at: *mut libc::c_void, bytes: usize, fixed: libc::c_int) -> Option<usize> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | fixed;
    // SAFETY: the caller answers for `at`; without MAP_FIXED the kernel picks free addresses.
    let base = unsafe { libc::mmap(at, bytes, libc::PROT_NONE, flags, -1, 0) };
    (base != libc::MAP_FAILED).then_some(base as usize)
}

impl Window {
    fn reserve(bytes: usize) -> Option<Window> {
        // SAFETY: no MAP_FIXED, nothing is replaced.
        let base = unsafe { reserve(ptr::null_mut(), bytes, 0) }?;
        let units = bytes / UNIT_BYTES;
        Some(Window {
            base,
            bytes,
            table: (0..units).map(|_| AtomicU64::new(0)).collect(),
            taken: Mutex::new(Taken { words: vec![0; units.div_ceil(64)].into(), cursor: 0 }),
        })
    }

    /// Takes `units` neighbours; `None` when there is no such gap.
    fn take(&self, units: usize) -> Option<usize> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let all = self.table.len();
        let from = taken.cursor;
        let first = taken.gap(from..all, units).or_else(|| taken.gap(0..(from + units).min(all), units))?;
        (first..first + units).for_each(|unit| taken.words[unit / 64] |= 1 << (unit % 64));
        taken.cursor = first + units;
        Some(first)
    }

    fn give_back(&self, first: usize, units: usize) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        (first..first + units).for_each(|unit| taken.words[unit / 64] &= !(1 << (unit % 64)));
    }
}

impl Taken {
    fn gap(&self, among: Range<usize>, units: usize) -> Option<usize> {
        let mut run = 0;
        for unit in among {
            run = if self.words[unit / 64] >> (unit % 64) & 1 == 0 { run + 1 } else { 0 };
            if run == units {
                return Some(unit + 1 - units);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn a_pointer_leads_back_to_its_file_and_offset_until_the_last_slice_is_gone() {
        let content: Vec<u8> = (0..70_000u32).map(|i| i as u8).collect();
        let mapped = Mapped::open(file(&content), 70_000).unwrap();
        let slice = mapped.slice(5_000..6_000);
        assert_eq!(slice, content[5_000..6_000]);
        let place = locate(slice.as_ptr()).unwrap();
        assert_eq!(place, Place { fd: mapped.file().as_raw_fd(), offset: 5_000 });
        let pointer = slice.as_ptr();
        drop(mapped);
        assert_eq!(locate(pointer).map(|p| p.offset), Some(5_000), "a slice keeps the mapping");
        drop(slice);
        // Another test may have taken the unit meanwhile, but never for the same descriptor and place.
        assert_ne!(locate(pointer), Some(place));
        assert_eq!(locate(content.as_ptr()), None, "the heap is not in the window");
        assert_eq!(locate(ptr::null()), None);
    }

    #[test]
    fn a_file_over_several_units_is_one_mapping() {
        let long = file(b"");
        long.set_len(2 * UNIT_BYTES as u64 + 10).unwrap();
        let mapped = Mapped::open(long, 2 * UNIT_BYTES as u64 + 10).unwrap();
        let at = 2 * UNIT_BYTES as u64 + 5;
        assert_eq!(locate(mapped.slice(at..at + 1).as_ptr()).unwrap().offset, at);
    }

    #[test]
    fn a_short_file_is_refused_and_an_empty_one_is_empty() {
        assert_eq!(Mapped::open(file(b"abc"), 4).unwrap_err().kind(), Kind::Invalid);
        assert_eq!(Mapped::open(file(b"abcdef"), 4).unwrap().slice(0..4), b"abcd"[..]);
        assert!(Mapped::open(file(b""), 0).unwrap().is_empty());
    }

    #[test]
    fn what_was_just_written_is_resident() {
        let mapped = Mapped::open(file(&vec![7; 600_000]), 600_000).unwrap();
        assert!(mapped.is_resident(0, 1));
        assert!(mapped.is_resident(599_999, 1));
        assert!(mapped.is_resident(9_999_999, 1), "beyond the end there is nothing to fetch");
    }

    #[test]
    fn units_are_found_in_gaps_and_run_out_gracefully() {
        let window = Window::reserve(8 << 30).unwrap();
        let all = window.table.len();
        assert_eq!(window.take(all), Some(0));
        assert_eq!(window.take(1), None);
        window.give_back(3, 2);
        window.give_back(9, 1);
        assert_eq!(window.take(3), None);
        assert_eq!(window.take(2), Some(3));
        assert_eq!(window.take(1), Some(9));
    }
}
