//! The runtime of a core: tokio's current-thread scheduler, under io_uring where the machine allows it.
//!
//! Sockets always stay on readiness (epoll): that is where `sendfile` works. io_uring serves the file
//! side: bytes that are not in the page cache are fetched without blocking the core. Where it is
//! forbidden (containers' seccomp profiles usually do) a small thread pool reads instead.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};

use crate::base::telemetry;
use crate::store::mapped::{BLOCK_BYTES, Mapped};

use super::watch;

/// Which file side to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoMode {
    /// io_uring when a probe at start says that it works.
    #[default]
    Auto,
    /// io_uring, or refuse to start.
    Uring,
    /// The thread pool.
    Plain,
}

/// Cold blocks read at the same time, over all cores: enough for an SSD's queue. Each holds a buffer of
/// one block, 8 MiB together.
const COLD_READS_MAX: usize = 32;
static COLD_READS: Semaphore = Semaphore::const_new(COLD_READS_MAX);

/// Blocks that are being read or wait for their turn, over all cores, and who waits for each: a block that
/// many listeners miss is read once. Bounded by the gate: an answer waits for one block, and blocks ahead
/// of it are only asked for while turns are free. Held to look up or change the map, never across a wait.
static FLIGHTS: Mutex<BTreeMap<Block, Vec<oneshot::Sender<Landed>>>> = Mutex::new(BTreeMap::new());

/// A mapped file (`Mapped::id`) and the number of a block in it.
type Block = (usize, u64);
/// How a read ended.
type Landed = Result<(), Arc<io::Error>>;

thread_local! {
    static ON_URING: Cell<bool> = const { Cell::new(false) };
}

/// Whether io_uring works here: builds a small ring and lets a no-op pass through it. Blocks briefly.
///
/// # Errors
/// What the kernel answered.
pub(super) fn probe() -> io::Result<()> {
    let attempt = || {
        let mut builder = tokio_uring::builder();
        builder.entries(8);
        tokio_uring::Runtime::new(&builder)?.block_on(tokio_uring::no_op())
    };
    // In a thread of its own: the caller may be inside another runtime.
    let probed = std::thread::Builder::new().name("segue-probe".into()).spawn(attempt)?;
    probed.join().unwrap_or_else(|_| Err(io::Error::other("the probe panicked")))
}

/// A core's runtime, not yet running.
pub(super) enum CoreRuntime {
    Uring(tokio_uring::Runtime),
    Plain(tokio::runtime::Runtime, tokio::task::LocalSet),
}

impl CoreRuntime {
    /// Builds it on the thread that will run it.
    pub(super) fn new(on_uring: bool) -> io::Result<CoreRuntime> {
        if on_uring {
            return tokio_uring::Runtime::new(&tokio_uring::builder()).map(CoreRuntime::Uring);
        }
        // A thread for every cold read there can be, and some for fills (bounded by the cache): reads that
        // hang on a sick disk must not keep versions on a healthy one from being opened.
        let threads = COLD_READS_MAX + 8;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(threads).build()?;
        Ok(CoreRuntime::Plain(runtime, tokio::task::LocalSet::new()))
    }

    /// Runs `task` to its end; tasks it spawned are dropped then.
    pub(super) fn run(self, task: impl Future<Output = ()>) {
        match self {
            CoreRuntime::Uring(runtime) => {
                ON_URING.set(true);
                runtime.block_on(task);
            }
            CoreRuntime::Plain(runtime, local) => {
                local.block_on(&runtime, task);
                drop(local);
                // A read that hangs must not keep the process from ending.
                runtime.shutdown_timeout(Duration::from_secs(1));
            }
        }
    }
}

/// A cold block on its way into the page cache. Dropping it gives up the wait; a read that nobody waits
/// for any more is not begun.
#[derive(Debug)]
pub(super) struct Warming(oneshot::Receiver<Landed>);

/// How the wait for a block ended.
pub(super) enum Arrival {
    /// It was read.
    Read,
    /// Its reader stopped before the read was done: ask again.
    Lost,
    /// It cannot be read.
    Failed(Arc<io::Error>),
}

impl Warming {
    /// Whether the bytes have arrived.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Arrival> {
        Pin::new(&mut self.0).poll(cx).map(|landed| match landed {
            Ok(Ok(())) => Arrival::Read,
            Ok(Err(cause)) => Arrival::Failed(cause),
            Err(_) => Arrival::Lost,
        })
    }
}

/// Has block `block` of `file` read into the page cache, beside the core, unless somebody already does.
/// `None` when it arrived between the caller's look and this one.
pub(super) fn warm(file: &Mapped, block: u64) -> Option<Warming> {
    let (tx, rx) = oneshot::channel();
    let is_first = {
        let mut flights = flights();
        match flights.get_mut(&(file.id(), block)) {
            Some(waiting) => {
                if waiting.len() == waiting.capacity() {
                    waiting.retain(|tx| !tx.is_closed()); // those who left
                }
                waiting.push(tx);
                false
            }
            None if file.was_just_resident(block * BLOCK_BYTES, watch::now_tick()) => return None,
            None => {
                flights.insert((file.id(), block), vec![tx]);
                true
            }
        }
    };
    if is_first {
        // Nobody joins it: its end, whatever it is, reaches those who wait through the map.
        tokio::task::spawn_local(Flight { file: file.clone(), block, landed: None }.run());
    }
    Some(Warming(rx))
}

/// Like `warm`, for a block that will be wanted soon: `None` also when no turn is free, because a busy
/// disk has no time for guesses.
pub(super) fn warm_ahead(file: &Mapped, block: u64) -> Option<Warming> {
    if COLD_READS.available_permits() == 0 { None } else { warm(file, block) }
}

fn flights() -> MutexGuard<'static, BTreeMap<Block, Vec<oneshot::Sender<Landed>>>> {
    FLIGHTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One block being read.
struct Flight {
    file: Mapped,
    block: u64,
    landed: Option<Landed>,
}

impl Flight {
    async fn run(mut self) {
        let _turn = COLD_READS.acquire().await.expect("the semaphore is never closed");
        if self.is_abandoned() {
            return;
        }
        let start = self.block * BLOCK_BYTES;
        let range = start..self.file.len().min(start + BLOCK_BYTES);
        let result = match ON_URING.get() {
            true => read_by_uring(&self.file, range.clone()).await,
            false => read_by_pool(self.file.clone(), range.clone()).await,
        };
        if result.is_ok() {
            self.file.mark_resident(start, watch::now_tick());
            metrics::counter!(telemetry::COLD_BYTES).increment(range.end - range.start);
        }
        self.landed = Some(result.map_err(Arc::new));
    }

    /// Whether all who waited have left. Somebody may come right after: they see a lost flight and ask again.
    fn is_abandoned(&self) -> bool {
        flights().get(&self.key()).is_none_or(|waiting| waiting.iter().all(oneshot::Sender::is_closed))
    }

    fn key(&self) -> Block {
        (self.file.id(), self.block)
    }
}

impl Drop for Flight {
    /// However it ends, with its core too, it leaves the map and those who wait hear of it.
    fn drop(&mut self) {
        let waiting = flights().remove(&self.key()).unwrap_or_default();
        let Some(landed) = self.landed.take() else { return };
        for tx in waiting {
            let _ = tx.send(landed.clone()); // this one has left
        }
    }
}

// Both read into memory that nobody looks at: the page cache is what is filled. It is not zeroed first, and
// each thread keeps one piece of it: fresh memory would cost a page fault for every page that is read.

thread_local! {
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

fn spare_buffer() -> Vec<u8> {
    let mut buffer = SPARE.take();
    buffer.clear();
    buffer.reserve_exact(BLOCK_BYTES as usize);
    buffer
}

async fn read_by_uring(file: &Mapped, range: Range<u64>) -> io::Result<()> {
    let ring_file = tokio_uring::fs::File::from_std(file.file().try_clone()?);
    let mut buffer = spare_buffer();
    let mut at = range.start;
    while at < range.end {
        let (result, back) = ring_file.read_at(buffer, at).await;
        buffer = back;
        match result? {
            0 => return Err(truncated()),
            n => at += n as u64,
        }
    }
    SPARE.set(buffer);
    ring_file.close().await
}

async fn read_by_pool(file: Mapped, range: Range<u64>) -> io::Result<()> {
    let read = move || {
        let mut buffer = spare_buffer();
        let mut at = range.start;
        while at < range.end {
            buffer.clear();
            match rustix::io::pread(file.file(), rustix::buffer::spare_capacity(&mut buffer), at) {
                Ok(0) => return Err(truncated()),
                Ok(n) => at += n as u64,
                Err(rustix::io::Errno::INTR) => {}
                Err(cause) => return Err(cause.into()),
            }
        }
        SPARE.set(buffer);
        Ok(())
    };
    tokio::task::spawn_blocking(read).await.unwrap_or_else(|stopped| Err(io::Error::other(stopped)))
}

fn truncated() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "a published file was truncated")
}

#[cfg(test)]
pub(super) use tests::{hang, waiting};

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::FileExt as _;

    use super::*;

    /// A file of 700,000 bytes.
    fn file() -> Mapped {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![9; 700_000]).unwrap();
        Mapped::open(file, 700_000).unwrap()
    }

    /// Takes all turns, until dropped: as if the disk had stopped.
    pub(crate) fn hang() -> impl Drop {
        loop {
            match COLD_READS.try_acquire_many(COLD_READS_MAX as u32) {
                Ok(turns) => return turns,
                Err(_) => std::thread::yield_now(), // another test reads
            }
        }
    }

    /// How many wait for blocks of a file.
    pub(crate) fn waiting(file: &Mapped) -> usize {
        let flights = flights();
        let those = flights.iter().filter(|((id, _), _)| *id == file.id());
        those.map(|(_, waiting)| waiting.iter().filter(|tx| !tx.is_closed()).count()).sum()
    }

    async fn arrival(warming: &mut Warming) -> Arrival {
        std::future::poll_fn(|cx| warming.poll(cx)).await
    }

    fn modes() -> &'static [bool] {
        if probe().is_ok() { &[false, true] } else { &[false] }
    }

    #[test]
    fn cold_bytes_are_fetched_by_the_pool_and_by_io_uring_where_it_works() {
        for on_uring in modes() {
            let mapped = file();
            CoreRuntime::new(*on_uring).unwrap().run(async move {
                let mut last = warm(&mapped, 2).unwrap();
                assert!(matches!(arrival(&mut last).await, Arrival::Read));
                assert!(mapped.was_just_resident(699_999, watch::now_tick()));
                assert!(warm(&mapped, 2).is_none(), "it has just arrived");
            });
        }
    }

    #[test]
    fn a_block_many_wait_for_is_read_once_and_one_nobody_waits_for_is_not() {
        for on_uring in modes() {
            let mapped = file();
            CoreRuntime::new(*on_uring).unwrap().run(async move {
                let stuck = hang();
                let mut listeners: Vec<Warming> = (0..50).map(|_| warm(&mapped, 0).unwrap()).collect();
                assert!(warm_ahead(&mapped, 1).is_none(), "no guesses while the disk is busy");
                let abandoned = warm(&mapped, 2).unwrap();
                assert_eq!(waiting(&mapped), 51);
                listeners.truncate(10); // the others leave
                drop(abandoned);
                drop(stuck);
                for warming in &mut listeners {
                    assert!(matches!(arrival(warming).await, Arrival::Read));
                }
                while flights().contains_key(&(mapped.id(), 2)) {
                    tokio::task::yield_now().await;
                }
                assert!(!mapped.was_just_resident(600_000, watch::now_tick()), "its only listener had left");
            });
        }
    }

    #[test]
    fn those_who_wait_for_another_cores_read_ask_again_when_that_core_ends() {
        let mapped = file();
        let theirs = mapped.clone();
        let stuck = hang();
        let mut first = None;
        CoreRuntime::new(false).unwrap().run(async { first = warm(&theirs, 0) });
        drop(stuck);
        CoreRuntime::new(false).unwrap().run(async move {
            assert!(matches!(arrival(&mut first.unwrap()).await, Arrival::Lost));
            let mut again = warm(&mapped, 0).unwrap();
            assert!(matches!(arrival(&mut again).await, Arrival::Read));
        });
    }

    #[test]
    fn a_file_that_cannot_be_read_says_so_to_everyone() {
        let path = tempfile::NamedTempFile::new().unwrap();
        path.as_file().write_all_at(&vec![9; 700_000], 0).unwrap();
        let mapped = Mapped::open(path.reopen().unwrap(), 700_000).unwrap();
        path.as_file().set_len(300_000).unwrap(); // what published files never are: truncated
        CoreRuntime::new(false).unwrap().run(async move {
            let (mut one, mut other) = (warm(&mapped, 2).unwrap(), warm(&mapped, 2).unwrap());
            for warming in [&mut one, &mut other] {
                let Arrival::Failed(cause) = arrival(warming).await else { panic!("the read failed") };
                assert_eq!(cause.to_string(), "a published file was truncated");
            }
        });
    }
}
