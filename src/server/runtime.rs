//! The runtime of a core: tokio's current-thread scheduler, under io_uring where the machine allows it.
//!
//! Sockets always stay on readiness (epoll): that is where `sendfile` works. io_uring serves the file
//! side: bytes that are not in the page cache are fetched without blocking the core. Where it is
//! forbidden (containers' seccomp profiles usually do) a small thread pool reads instead.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::{Semaphore, oneshot};

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

/// Reads of cold files in flight at once, over all cores; each holds a buffer of one block.
static COLD_READS: Semaphore = Semaphore::const_new(64);

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
        // Four threads: cold reads are bounded by COLD_READS, fills by the cache; more only queue at the disk.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(4).build()?;
        Ok(CoreRuntime::Plain(runtime, tokio::task::LocalSet::new()))
    }

    /// Runs `task` to its end; tasks it spawned are dropped then.
    pub(super) fn run(self, task: impl Future<Output = ()>) {
        match self {
            CoreRuntime::Uring(runtime) => {
                ON_URING.set(true);
                runtime.block_on(task);
            }
            CoreRuntime::Plain(runtime, local) => local.block_on(&runtime, task),
        }
    }
}

/// A cold range on its way into the page cache.
#[derive(Debug)]
pub(super) struct Warming(oneshot::Receiver<io::Result<()>>);

impl Warming {
    /// Whether the bytes have arrived.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0)
            .poll(cx)
            .map(|done| done.unwrap_or_else(|_| Err(io::Error::other("the core stopped while it read a cold file"))))
    }
}

/// Fetches `range` of `file` into the page cache, beside the core. The read goes on when the listener
/// that caused it leaves: somebody else will want the bytes.
pub(super) fn warm(file: Mapped, range: Range<u64>) -> Warming {
    let (tx, rx) = oneshot::channel();
    let task = async move {
        let _turn = COLD_READS.acquire().await.expect("the semaphore is never closed");
        let result = match ON_URING.get() {
            true => read_by_uring(&file, range.clone()).await,
            false => read_by_pool(file.clone(), range.clone()).await,
        };
        if result.is_ok() {
            range.step_by(BLOCK_BYTES as usize).for_each(|at| file.mark_resident(at, watch::now_tick()));
        }
        let _ = tx.send(result); // nobody waits any more: fine
    };
    tokio::task::spawn_local(task);
    Warming(rx)
}

async fn read_by_uring(file: &Mapped, range: Range<u64>) -> io::Result<()> {
    let ring_file = tokio_uring::fs::File::from_std(file.file().try_clone()?);
    let mut buffer = vec![0; BLOCK_BYTES as usize];
    let mut at = range.start;
    while at < range.end {
        let (result, back) = ring_file.read_at(buffer, at).await;
        buffer = back;
        match result? {
            0 => return Err(truncated()),
            n => at += n as u64,
        }
    }
    ring_file.close().await
}

async fn read_by_pool(file: Mapped, range: Range<u64>) -> io::Result<()> {
    let read = move || {
        let mut buffer = vec![0; BLOCK_BYTES as usize];
        let mut at = range.start;
        while at < range.end {
            match file.file().read_at(&mut buffer, at)? {
                0 => return Err(truncated()),
                n => at += n as u64,
            }
        }
        Ok(())
    };
    tokio::task::spawn_blocking(read).await.unwrap_or_else(|stopped| Err(io::Error::other(stopped)))
}

fn truncated() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "a published file was truncated")
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn check(on_uring: bool) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![9; 700_000]).unwrap();
        let mapped = Mapped::open(file, 700_000).unwrap();
        let runtime = CoreRuntime::new(on_uring).unwrap();
        runtime.run(async move {
            let mut warming = warm(mapped.clone(), 100_000..700_000);
            std::future::poll_fn(|cx| warming.poll(cx)).await.unwrap();
            assert!(mapped.is_resident(500_000, watch::now_tick()));
        });
    }

    #[test]
    fn cold_bytes_are_fetched_by_the_pool_and_by_io_uring_where_it_works() {
        check(false);
        if probe().is_ok() {
            check(true);
        }
    }
}
