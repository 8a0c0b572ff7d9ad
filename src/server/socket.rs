//! The socket under hyper. In: the slices hyper wants written. Out: `sendmsg` for what lies in memory,
//! `sendfile` for what lies in a mapped file, so that a media byte goes from the page cache to the
//! network card without passing through user space.
//!
//! ```text
//! [head][frame of a mapped file] ─▶ sendmsg(head + up to the first page boundary, MSG_MORE)
//!                                ─▶ sendfile(frame's file, page, the rest)
//! ```
//! hyper keeps the protocol and never learns of it: it only sees how many bytes were taken.
#![allow(unsafe_code)]

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::watch::{Phase, Watched};
use crate::store::mapped::{self, Place};

/// Slices of mapped files up to this length are copied: for a page or less, a second system call costs
/// about as much as the copy.
const COPY_BYTES_MAX: usize = 4096;
/// While waiting for the peer to hang up, at most this much of what it still sends is thrown away.
const LINGER_BYTES_MAX: usize = 256 << 10;

/// Bytes that have left, by path. Written by one core only, read by anyone.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Body bytes sent from the page cache.
    sendfile: AtomicU64,
    /// Body bytes of files that left with a head, see `page_edge`.
    edges: AtomicU64,
    /// Body bytes copied from user space.
    copied: AtomicU64,
    /// Requests answered without hyper.
    plain: AtomicU64,
}

/// Body bytes that have left a server, by path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketBytes {
    /// Sent by the kernel from the page cache.
    pub sendfile: u64,
    /// What came before the first page boundary, less than a page for each frame: the kernel's own copy
    /// out of the page cache.
    pub edges: u64,
    /// Copied from user space: playlists, small slices, answers of the control plane.
    pub copied: u64,
    /// Requests that were plain, and answered without hyper.
    pub plain: u64,
}

impl Tally {
    pub(super) fn read(&self) -> SocketBytes {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (sendfile, edges, copied) = (read(&self.sendfile), read(&self.edges), read(&self.copied));
        SocketBytes { sendfile, edges, copied, plain: read(&self.plain) }
    }

    fn add(counter: &AtomicU64, bytes: usize) {
        // Not `fetch_add`: only this core writes, and a locked instruction would cost more than the sum.
        counter.store(counter.load(Ordering::Relaxed) + bytes as u64, Ordering::Relaxed);
    }
}

/// A connection's socket as hyper sees it.
#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    watched: Rc<Watched>,
    tally: Arc<Tally>,
    /// Bytes that a former hyper connection had read too far; they come first.
    rewound: Bytes,
    /// The peer has hung up.
    at_end: bool,
    /// We have sent our last byte; how much we have thrown away since.
    drained: Option<usize>,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, watched: Rc<Watched>, tally: Arc<Tally>) -> Socket {
        Socket { stream, watched, tally, rewound: Bytes::new(), at_end: false, drained: None }
    }

    /// Puts bytes back in front.
    pub(super) fn rewind(&mut self, bytes: Bytes) {
        debug_assert!(self.rewound.is_empty(), "a connection is taken down only after it read everything");
        self.rewound = bytes;
        self.watched.on_read();
    }

    /// Whether bytes have been put back in front.
    pub(super) fn is_rewound(&self) -> bool {
        !self.rewound.is_empty()
    }

    /// Reads into `buffer`; nothing read is the end.
    pub(super) fn poll_receive(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        match buffer.filled().len() - before {
            0 => self.at_end = true,
            _ => self.watched.on_read(),
        }
        Poll::Ready(Ok(()))
    }

    /// Whether the peer has sent what nobody has read.
    pub(super) fn has_unread(&self) -> bool {
        let look = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
        matches!(rustix::net::recv(&self.stream, &mut [0; 1][..], look), Ok((1.., _)))
    }

    /// Counts a request that was answered without hyper.
    pub(super) fn count_plain(&self) {
        Tally::add(&self.tally.plain, 1);
    }

    /// Makes the coming close a reset: a peer that does not read shall not leave its bytes to the
    /// kernel, which would try to deliver them for minutes.
    pub(super) fn reset_on_close(&self) {
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(std::time::Duration::ZERO));
    }

    /// Writes what fits without waiting; for a last word before closing.
    pub(super) fn try_write(&self, bytes: &[u8]) {
        let _ = self.stream.try_write(bytes);
    }
}

impl Read for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, mut into: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        if !socket.rewound.is_empty() {
            let n = socket.rewound.len().min(into.remaining());
            into.put_slice(&socket.rewound[..n]);
            socket.rewound.advance(n);
            return Poll::Ready(Ok(()));
        }
        // SAFETY: `ReadBuf` only writes initialised bytes into the uninitialised part.
        let mut buffer = ReadBuf::uninit(unsafe { into.as_mut() });
        ready!(socket.poll_receive(cx, &mut buffer))?;
        let n = buffer.filled().len();
        // SAFETY: `buffer` has just filled the first `n` bytes of the cursor.
        unsafe { into.advance(n) };
        Poll::Ready(Ok(()))
    }
}

impl Write for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let socket = self.get_mut();
        loop {
            if socket.stream.poll_write_ready(cx)?.is_pending() {
                socket.watched.on_blocked();
                return Poll::Pending;
            }
            let fd = socket.stream.as_raw_fd();
            match socket.stream.try_io(Interest::WRITABLE, || send(fd, slices, &socket.tally)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(n) => {
                    socket.watched.on_written(n);
                    return Poll::Ready(Ok(n));
                }
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true // or hyper flattens every body into one buffer
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes us only when its own buffers are empty.
        self.watched.on_flushed();
        Poll::Ready(Ok(()))
    }

    /// Says goodbye and waits for the peer to hang up. Closing with unread bytes in the receive buffer
    /// would reset the connection and could take our last answer with it (RFC 9112 §9.6).
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        if socket.drained.is_none() {
            socket.drained = Some(0);
            socket.watched.enter(Phase::Lingering);
            // A peer that is already gone cannot be told; that is fine.
            let _ = rustix::net::shutdown(&socket.stream, rustix::net::Shutdown::Write);
        }
        let mut scratch = [0; 4096];
        while !socket.at_end && socket.drained < Some(LINGER_BYTES_MAX) {
            let mut buffer = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut socket.stream).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {
                    socket.drained = socket.drained.map(|sum| sum + buffer.filled().len());
                }
                _ => socket.at_end = true,
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Writes as many of the slices as the kernel takes at once, in order: what lies in memory, up to the
/// first slice of a file, and that slice.
fn send(socket: RawFd, slices: &[IoSlice<'_>], tally: &Tally) -> io::Result<usize> {
    let mut place = None;
    let files_first = slices.iter().position(|slice| {
        place = if slice.len() > COPY_BYTES_MAX { mapped::locate(slice.as_ptr()) } else { None };
        place.is_some()
    });
    let (memory, file) = slices.split_at(files_first.unwrap_or(slices.len()));
    let (Some(place), Some(slice)) = (place, file.first()) else {
        let sent = send_plain(socket, memory, false)?;
        Tally::add(&tally.copied, body_bytes(memory, sent));
        return Ok(sent);
    };

    let edge = page_edge(place.offset, slice.len());
    let mut leading = [IoSlice::new(&[]); LEADING_MAX];
    let Some(leading) = leading.get_mut(..=memory.len()) else {
        return send_plain(socket, memory, true); // more than hyper queues: the file comes at the next call
    };
    leading[..memory.len()].copy_from_slice(memory);
    leading[memory.len()] = IoSlice::new(&slice[..edge]);
    let wanted: usize = leading.iter().map(|slice| slice.len()).sum();
    let mut sent = 0;
    if wanted > 0 {
        sent = send_plain(socket, leading, true)?;
        let of_edge = (sent + edge).saturating_sub(wanted);
        Tally::add(&tally.edges, of_edge);
        Tally::add(&tally.copied, body_bytes(memory, sent - of_edge));
        if sent < wanted {
            return Ok(sent);
        }
    }
    match send_file(socket, Place { offset: place.offset + edge as u64, ..place }, slice.len() - edge) {
        Ok(n) => {
            Tally::add(&tally.sendfile, n);
            Ok(sent + n)
        }
        // What has left must be reported; the same error comes again at the next call.
        Err(_) if sent > 0 => Ok(sent),
        Err(error) => Err(error),
    }
}

/// hyper queues at most 16 bodies behind a head.
const LEADING_MAX: usize = 18;

/// How many bytes of a slice come before its first page boundary. They leave with the head: 64 KiB that
/// begin inside a page are 17 pages, one more than fits into a packet beside the head, and the packet
/// for the rest costs twice as much as all others (measured: 38 against 19 µs at 64 KiB, 48 against 29
/// at 192 KiB). The kernel copies them from the page cache itself; a rung whose slices begin at page
/// boundaries has none.
fn page_edge(offset: u64, length: usize) -> usize {
    const PAGE: u64 = 4096;
    let edge = (PAGE - offset % PAGE) % PAGE;
    // What remains must be worth a `sendfile`.
    if length > edge as usize + COPY_BYTES_MAX { edge as usize } else { 0 }
}

fn send_plain(socket: RawFd, slices: &[IoSlice<'_>], more: bool) -> io::Result<usize> {
    // MSG_MORE: the head shares its packet with the first bytes of the body.
    let flags = libc::MSG_NOSIGNAL | if more { libc::MSG_MORE } else { 0 };
    // SAFETY: `msghdr` is plain data, all zero is valid. `IoSlice` is `iovec` by its documentation; the
    // kernel only reads the slices, which outlive the call.
    let n = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = slices.as_ptr().cast_mut().cast();
        message.msg_iovlen = slices.len() as _;
        libc::sendmsg(socket, &message, flags)
    };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

fn send_file(socket: RawFd, place: Place, length: usize) -> io::Result<usize> {
    let mut offset = place.offset as libc::off_t;
    // SAFETY: both descriptors are open: the socket is ours, the file's lives as long as the slice that
    // `place` was found from (see `mapped::locate`), which hyper holds during this call.
    let n = unsafe { libc::sendfile(socket, place.fd, &mut offset, length) };
    match usize::try_from(n) {
        Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a published file was truncated")),
        Ok(n) => Ok(n),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Of `sent` bytes of these slices, how many belong to bodies. hyper puts a response head only first,
/// and it begins with the protocol's name; the rest of a head that was cut counts as body, which is
/// rare and errs to the side of "copied".
fn body_bytes(slices: &[IoSlice<'_>], sent: usize) -> usize {
    let head = slices.first().filter(|slice| slice.starts_with(b"HTTP/1.")).map_or(0, |slice| slice.len());
    sent.saturating_sub(head)
}
