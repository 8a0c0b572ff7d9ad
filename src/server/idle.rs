//! Idle connections: nothing in memory but their sockets.
//!
//! ```text
//! connection ─ keep ─▶ Entry ─ its peer sends or leaves ─▶ wait ─▶ a task again
//!                        └─ look: nothing for too long ─▶ closed
//! ```
//! A connection's task, its place in the runtime's reactor and its watch are more than a kilobyte. Between two
//! segments a listener needs none of it: a second epoll instance, itself one descriptor in the reactor, wakes
//! those who have something to say.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::event::epoll;
use slab::Slab;
use tokio::io::unix::AsyncFd;

use super::core::Place;
use super::leaving;
use super::socket::{Socket, readiness};

/// The idle connections of one core.
#[derive(Debug)]
pub(super) struct Idle {
    epoll: OwnedFd,
    kept: RefCell<Slab<Entry>>,
    /// Ticks after which an idle connection is closed.
    ticks_max: u32,
    is_closed: Cell<bool>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    /// Taken only when it is closed.
    pub(super) place: Option<Place>,
    since: u32,
}

impl Entry {
    /// Whether the peer has sent what nobody has read.
    pub(super) fn has_unread(&self) -> bool {
        has_unread(&self.stream)
    }
}

/// Whether there is something to read from a socket. Does not wait.
pub(super) fn has_unread(stream: impl std::os::fd::AsFd) -> bool {
    let look = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
    matches!(rustix::net::recv(stream, &mut [0; 1][..], look), Ok((1.., _)))
}

impl Idle {
    /// None yet. Each is closed after `ticks_max` ticks.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub(super) fn new(ticks_max: u32) -> io::Result<Idle> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Idle { epoll, kept: RefCell::default(), ticks_max, is_closed: Cell::new(false) })
    }

    /// Keeps a connection that has no task until its peer sends something. It ends when the kernel cannot watch
    /// it, and after `close`.
    pub(super) fn keep(&self, socket: Socket, peer: SocketAddr) {
        let since = socket.watched().since();
        let Ok((stream, place)) = socket.into_std() else { return };
        if self.is_closed.get() {
            return;
        }
        let mut kept = self.kept.borrow_mut();
        let vacant = kept.vacant_entry();
        let wake = epoll::EventData::new_u64(vacant.key() as u64);
        if epoll::add(&self.epoll, &stream, wake, epoll::EventFlags::IN | epoll::EventFlags::RDHUP).is_ok() {
            vacant.insert(Entry { stream, peer, place, since });
        }
    }

    /// What `wait` waits for; to be made once, on the runtime that waits.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub(super) fn readiness(&self) -> io::Result<AsyncFd<OwnedFd>> {
        readiness(self.epoll.try_clone()?)
    }

    /// Waits until peers have sent something or left, and moves their connections to `woken`.
    ///
    /// # Errors
    /// What the kernel says about the second epoll instance; it never should.
    pub(super) async fn wait(&self, ready: &AsyncFd<OwnedFd>, woken: &mut Vec<Entry>) -> io::Result<()> {
        const LEFT: epoll::EventFlags =
            epoll::EventFlags::RDHUP.union(epoll::EventFlags::HUP).union(epoll::EventFlags::ERR);
        /// At a time; the core turns to others in between.
        const WOKEN_MAX: usize = 128;
        while woken.is_empty() {
            let mut guard = ready.readable().await?;
            let mut events = Vec::with_capacity(WOKEN_MAX);
            let now = rustix::time::Timespec::default();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&now)) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(cause) => return Err(cause.into()),
                Ok(0) => guard.clear_ready(),
                Ok(_) => {}
            }
            let mut kept = self.kept.borrow_mut();
            for event in &events {
                let Some(entry) = self.take(&mut kept, event.data.u64() as usize) else { continue };
                // Who has only left needs no task to be told so.
                let flags = event.flags;
                if !flags.intersects(LEFT) || entry.has_unread() {
                    woken.push(entry);
                }
            }
        }
        Ok(())
    }

    /// Closes those that have been idle for too long, and counts the others.
    pub(super) fn look(&self, now: u32) -> usize {
        let mut kept = self.kept.borrow_mut();
        kept.retain(|_, entry| {
            let stays = now.wrapping_sub(entry.since) <= self.ticks_max;
            if !stays {
                // Before it may live on under another descriptor: closing this one would not end the watch then.
                let _ = epoll::delete(&self.epoll, &entry.stream);
                leaving::see_off(entry.stream.as_fd(), &mut entry.place);
            }
            stays
        });
        if kept.capacity() > 1024 && kept.len() < kept.capacity() / 4 {
            kept.shrink_to_fit();
        }
        kept.len()
    }

    /// Keeps none any more, and gives back those that are there.
    pub(super) fn close(&self) -> Vec<Entry> {
        self.is_closed.set(true);
        let mut kept = self.kept.borrow_mut();
        let keys: Vec<usize> = kept.iter().map(|(key, _)| key).collect();
        keys.into_iter().filter_map(|key| self.take(&mut kept, key)).collect()
    }

    fn take(&self, kept: &mut Slab<Entry>, key: usize) -> Option<Entry> {
        let entry = kept.try_remove(key)?;
        // Fails for a descriptor that is not watched: that is what we want.
        let _ = epoll::delete(&self.epoll, &entry.stream);
        Some(entry)
    }
}
