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
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::StatusCode;
use hyper::rt::{Read, ReadBufCursor, Write};
use rustix::net::{SendAncillaryBuffer, SendFlags};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::core::{Core, Place as ConnectionPlace};
use super::frames::Frames;
use super::heads::Heads;
use super::plain::Next;
use super::turns::{self, Turn};
use super::watch::{Phase, Watched};
use super::wire::Wire;
use super::{Service, idle, leaving, plain, reply};
use crate::base::telemetry;
use crate::store::mapped::{self, Place};

/// Slices of mapped files up to this length are copied: for a page or less, a second system call costs
/// about as much as the copy.
const COPY_BYTES_MAX: usize = 4096;
/// While waiting for the peer to hang up, at most this much of what it still sends is thrown away.
const LINGER_BYTES_MAX: usize = 256 << 10;

/// Bytes that have left, by path. Written by one core only, read by anyone.
#[derive(Debug)]
pub(super) struct Tally {
    /// Connections whose peer spoke HTTP/1.
    pub(super) http1: metrics::Counter,
    /// Connections whose peer spoke HTTP/2.
    pub(super) http2: metrics::Counter,
    /// Body bytes sent from the page cache.
    sendfile: AtomicU64,
    /// Body bytes of files that left with a head, see `page_edge`.
    edges: AtomicU64,
    /// Body bytes copied from user space.
    copied: AtomicU64,
    /// Requests answered without hyper.
    plain: AtomicU64,
    /// Bytes that left encrypted, heads and frames included.
    encrypted: AtomicU64,
    /// Connections that are idle, as of the last look.
    idle: AtomicU64,
}

/// Body bytes that have left a server, by path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketBytes {
    /// Sent by the kernel from the page cache.
    pub sendfile: u64,
    /// What came before the first page boundary, less than a page for each frame: the kernel's own copy
    /// out of the page cache.
    pub edges: u64,
    /// Copied from user space: playlists, small slices, answers of the control plane. Under HTTP/2 also the
    /// frame heads, and up to 247 bytes of each frame that h2 joins with its head.
    pub copied: u64,
    /// Requests that were plain, and answered without hyper.
    pub plain: u64,
    /// Encrypted in user space, with their heads.
    pub encrypted: u64,
}

impl Tally {
    pub(super) fn new() -> Tally {
        let spoke = |protocol: &'static str| metrics::counter!(telemetry::CONNECTIONS_OPENED, "protocol" => protocol);
        let (sendfile, edges, copied, plain, encrypted, idle) = Default::default();
        Tally { http1: spoke("http1"), http2: spoke("h2"), sendfile, edges, copied, plain, encrypted, idle }
    }

    /// Tells how many connections are idle now; gives back how many were.
    pub(super) fn set_idle(&self, connections: u64) -> u64 {
        self.idle.swap(connections, Ordering::Relaxed)
    }

    /// Connections that were idle at the last look.
    pub(super) fn idle(&self) -> u64 {
        self.idle.load(Ordering::Relaxed)
    }

    /// Counts bytes that leave encrypted.
    pub(super) fn add_encrypted(&self, bytes: usize) {
        Tally::add(&self.encrypted, bytes);
    }

    pub(super) fn read(&self) -> SocketBytes {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SocketBytes {
            sendfile: read(&self.sendfile),
            edges: read(&self.edges),
            copied: read(&self.copied),
            plain: read(&self.plain),
            encrypted: read(&self.encrypted),
        }
    }

    fn add(counter: &AtomicU64, bytes: usize) {
        // Not `fetch_add`: only this core writes, and a locked instruction would cost more than the sum.
        counter.store(counter.load(Ordering::Relaxed) + bytes as u64, Ordering::Relaxed);
    }
}

/// A connection's socket as hyper sees it.
#[derive(Debug)]
pub(super) struct Socket {
    stream: Parting,
    watched: Rc<Watched>,
    tally: Arc<Tally>,
    /// Bytes that have been read and put back; they come first.
    rewound: Bytes,
    /// How many of them, the first ones, `heads` has seen.
    rewound_seen: usize,
    /// Follows the heads that hyper reads; none while nothing of a request is under way.
    heads: Option<Box<Heads>>,
    /// How hyper refused a head; it believes that this was sent.
    refusal: Option<StatusCode>,
    /// The peer has hung up.
    at_end: bool,
    /// We have sent our last byte; how much we have thrown away since.
    drained: Option<usize>,
    /// The first bytes have not come: they tell HTTP/2 from HTTP/1.
    sniffing: bool,
    /// Follows what an HTTP/2 peer sends.
    frames: Option<Box<Frames>>,
    /// The kernel holds back packets that are not full, until `poll_settle`.
    corked: bool,
    /// The last write was taken in part, or not at all.
    cut: bool,
    /// Where it stands among those with long answers.
    turn: Turn,
}

/// Reports when `descriptor` can be read.
///
/// # Errors
/// When the runtime's reactor cannot watch it.
pub(super) fn readiness(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names one open descriptor for as long as it lives.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?)
}

/// How HTTP/2 begins (RFC 9113 §3.4); nothing less is HTTP/2.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl Socket {
    /// A connection whose first bytes tell its protocol.
    pub(super) fn new(stream: TcpStream, watched: Rc<Watched>, tally: Arc<Tally>, place: ConnectionPlace) -> Socket {
        let rewound = Bytes::new();
        let (at_end, drained, sniffing, frames, corked, cut) = (false, None, true, None, false, false);
        let (rewound_seen, heads, refusal) = (0, None, None);
        Socket {
            stream: Parting { stream: Some(stream), place: Some(place) },
            watched,
            tally,
            rewound,
            rewound_seen,
            heads,
            refusal,
            at_end,
            drained,
            sniffing,
            frames,
            corked,
            cut,
            turn: Turn::default(),
        }
    }

    /// A connection whose protocol is known, or whose bytes are not ours to look at.
    pub(super) fn opaque(stream: TcpStream, watched: Rc<Watched>, tally: Arc<Tally>, place: ConnectionPlace) -> Socket {
        Socket { sniffing: false, ..Socket::new(stream, watched, tally, place) }
    }

    /// The bare socket and its place among the connections; nothing that was read may be left in it.
    pub(super) fn into_std(mut self) -> io::Result<(std::net::TcpStream, Option<ConnectionPlace>)> {
        debug_assert!(self.rewound.is_empty() && self.heads.is_none(), "what was read would be lost");
        let stream = self.stream.stream.take().expect(TAKEN);
        Ok((stream.into_std()?, self.stream.place.take()))
    }

    pub(super) fn watched(&self) -> &Watched {
        &self.watched
    }

    pub(super) fn tally(&self) -> &Tally {
        &self.tally
    }

    pub(super) fn is_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_read_ready(cx)
    }

    /// Reads into `buffer`; nothing read is the end.
    pub(super) fn poll_receive(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut *self.stream).poll_read(cx, buffer))?;
        match buffer.filled().len() - before {
            0 => self.at_end = true,
            _ if self.frames.is_none() => self.watched.on_read(),
            _ => {}
        }
        Poll::Ready(Ok(()))
    }

    /// Whether bytes have been put back in front.
    pub(super) fn is_rewound(&self) -> bool {
        !self.rewound.is_empty()
    }

    /// Whether the peer has sent what nobody has read.
    pub(super) fn has_unread(&self) -> bool {
        idle::has_unread(&*self.stream)
    }

    /// Counts a request that is answered without hyper; it was HTTP/1's.
    pub(super) fn count_plain(&mut self) {
        Tally::add(&self.tally.plain, 1);
        if std::mem::take(&mut self.sniffing) {
            self.tally.http1.increment(1);
        }
    }

    /// Puts bytes back for hyper. Are they the first, they tell the protocol.
    pub(super) fn hand_over(&mut self, bytes: &[u8]) {
        if !self.sniffing || matches!(self.sniff(bytes), Sniffed::Pass) {
            self.rewind(Bytes::copy_from_slice(bytes));
            self.rewound_seen = 0; // nothing was left: this connection reads only when all has been taken
        }
    }

    /// Writes memory without counting it.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.poll_written(cx, |fd, _| send_plain(fd, slices, false))
    }

    /// Writes what fits without waiting.
    pub(super) fn try_send(&self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.try_write(bytes)
    }

    fn poll_written(
        &mut self,
        cx: &mut Context<'_>,
        send: impl Fn(BorrowedFd<'_>, &Tally) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            if self.stream.poll_write_ready(cx)?.is_pending() {
                self.watched.on_blocked();
                return Poll::Pending;
            }
            match self.stream.try_io(Interest::WRITABLE, || send(self.stream.as_fd(), &self.tally)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(n) => {
                    self.watched.on_written(n);
                    return Poll::Ready(Ok(n));
                }
            }
        }
    }

    /// Looks at the first bytes of the connection, `read`, after those that were held back. Says whether
    /// they may be passed on; HTTP/2's are kept for whoever speaks it.
    fn sniff(&mut self, read: &[u8]) -> Sniffed {
        if read.is_empty() || (self.rewound.is_empty() && !PREFACE.starts_with(&read[..read.len().min(PREFACE.len())]))
        {
            self.sniffing = false;
            self.tally.http1.increment(1);
            return if self.rewound.is_empty() { Sniffed::Pass } else { Sniffed::Again };
        }
        self.rewound = [&self.rewound, read].concat().into();
        if self.rewound.starts_with(PREFACE) {
            self.sniffing = false;
            self.watched.see_preface();
            return Sniffed::Preface;
        }
        self.sniffing = PREFACE.starts_with(&self.rewound); // too short to tell
        self.tally.http1.increment(u64::from(!self.sniffing));
        Sniffed::Again
    }
}

/// A stream and what it takes among the connections, until its peer has everything.
#[derive(Debug)]
struct Parting {
    stream: Option<TcpStream>,
    place: Option<ConnectionPlace>,
}

const TAKEN: &str = "a stream is taken only together with its socket";

impl Deref for Parting {
    type Target = TcpStream;

    fn deref(&self) -> &TcpStream {
        self.stream.as_ref().expect(TAKEN)
    }
}

impl DerefMut for Parting {
    fn deref_mut(&mut self) -> &mut TcpStream {
        self.stream.as_mut().expect(TAKEN)
    }
}

impl Drop for Parting {
    fn drop(&mut self) {
        if let Some(stream) = &self.stream {
            leaving::see_off(stream.as_fd(), &mut self.place);
        }
    }
}

/// Bytes that were written to a socket and that its peer may still acknowledge: none once it is reset, though the kernel
/// goes on counting what it threw away then.
pub(super) fn undelivered(socket: BorrowedFd<'_>) -> u64 {
    if is_reset(socket) {
        return 0;
    }
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open for as long as it is borrowed; the kernel writes one int (tcp(7), SIOCOUTQ,
    // which has the number of TIOCOUTQ).
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &mut bytes) };
    if done == 0 { u64::try_from(bytes).unwrap_or(0) } else { 0 }
}

/// Whether a connection is over in both directions.
fn is_reset(socket: BorrowedFd<'_>) -> bool {
    // include/net/tcp_states.h; `tcpi_state` is the first byte of what TCP_INFO gives, and no more is asked for.
    const TCP_CLOSE: u8 = 7;
    let (mut state, mut length): (u8, libc::socklen_t) = (0, 1);
    // SAFETY: the descriptor is open for as long as it is borrowed; the kernel writes at most `length` bytes to `state`
    // (tcp(7), TCP_INFO).
    let done = unsafe {
        let (level, name) = (libc::IPPROTO_TCP, libc::TCP_INFO);
        libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut state).cast(), &raw mut length)
    };
    done == 0 && length == 1 && state == TCP_CLOSE
}

/// Lets the kernel take at most `bytes` of what cannot be sent yet, besides what is on its way. Without a bound it takes
/// up to four MiB from each connection (tcp_wmem), for as long as the peer does not read.
pub(super) fn bound_unsent(stream: &TcpStream, bytes: u32) {
    let length = size_of::<u32>() as libc::socklen_t;
    // SAFETY: the descriptor is open for as long as the stream lives; the kernel reads one u32 (tcp(7), TCP_NOTSENT_LOWAT).
    // A kernel that does not know it goes on without.
    let _ = unsafe {
        let (level, name) = (libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT);
        libc::setsockopt(stream.as_raw_fd(), level, name, (&raw const bytes).cast(), length)
    };
}

enum Sniffed {
    /// What was read may be passed on.
    Pass,
    /// Begin anew: with what was held back, or with more from the peer.
    Again,
    /// The connection is HTTP/2's.
    Preface,
}

impl Wire for Socket {
    const PLAINTEXT: bool = true;

    /// Answers plain requests meanwhile.
    async fn rest<S: Service>(&mut self, watched: &Watched, peer: SocketAddr, core: &Core<S>) -> Next {
        plain::serve(self, watched, peer, core).await
    }

    fn rewind(&mut self, bytes: Bytes) {
        self.rewound_seen += bytes.len();
        put_back(&mut self.rewound, bytes);
        self.watched.on_read();
    }

    fn take_refusal(&mut self) -> Option<StatusCode> {
        self.refusal.take()
    }

    fn reset_on_close(&self) {
        let _ = socket2::SockRef::from(&*self.stream).set_linger(Some(std::time::Duration::ZERO));
    }

    fn last_word(&mut self, bytes: &[u8]) {
        if !self.cut {
            let _ = self.try_send(bytes);
        }
    }

    fn multiplex(&mut self) {
        self.frames = Some(Box::new(Frames::new()));
    }

    fn poll_settle(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.corked) {
            let _ = rustix::net::sockopt::set_tcp_cork(&*self.stream, false);
        }
        Poll::Ready(Ok(()))
    }
}

impl Read for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, mut into: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        loop {
            if !socket.rewound.is_empty() && !socket.sniffing {
                let n = socket.rewound.len().min(into.remaining());
                into.put_slice(&socket.rewound[..n]);
                let passed = socket.rewound.split_to(n);
                if let Some(frames) = &mut socket.frames {
                    frames.on_bytes(&passed, &socket.watched);
                } else {
                    let seen = socket.rewound_seen.min(n);
                    socket.rewound_seen -= seen;
                    follow(&mut socket.heads, &passed[seen..], &socket.watched);
                }
                return Poll::Ready(Ok(()));
            }
            // SAFETY: `ReadBuf` only writes initialised bytes into the uninitialised part.
            let mut buffer = ReadBuf::uninit(unsafe { into.as_mut() });
            ready!(socket.poll_receive(cx, &mut buffer))?;
            if socket.sniffing {
                match socket.sniff(buffer.filled()) {
                    Sniffed::Pass => {}
                    Sniffed::Again => continue,
                    // The connection's task takes hyper down as soon as this poll has ended.
                    Sniffed::Preface => return Poll::Pending,
                }
            }
            match &mut socket.frames {
                Some(frames) => frames.on_bytes(buffer.filled(), &socket.watched),
                None => follow(&mut socket.heads, buffer.filled(), &socket.watched),
            }
            let n = buffer.filled().len();
            // SAFETY: `buffer` has just filled the first `n` bytes of the cursor.
            unsafe { into.advance(n) };
            return Poll::Ready(Ok(()));
        }
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
        if socket.frames.is_some() {
            return socket.poll_write_frame(cx, slices);
        }
        // Not while an answer is under way: what hyper writes then, between two requests or before the first, is
        // its own refusal. It can be read by no script of another site and may be stored; `take_refusal` lets the
        // connection's task put ours in its place.
        if !matches!(socket.watched.phase(), Phase::Busy | Phase::Flushing)
            && let Some(status) = slices.first().and_then(|slice| reply::unreadable(slice))
        {
            socket.refusal = Some(status);
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        let long = slices.iter().map(|slice| slice.len()).sum::<usize>() > turns::LONG_BYTES;
        if long {
            if socket.stream.poll_write_ready(cx)?.is_pending() {
                socket.watched.on_blocked();
                return Poll::Pending;
            }
            ready!(socket.turn.poll(cx));
        }
        let written = socket.poll_written(cx, |fd, tally| send(fd, slices, tally));
        if long && let Poll::Ready(Ok(bytes)) = written {
            turns::spend(bytes);
        }
        written
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
        if socket.refusal.is_some() {
            return Poll::Ready(Ok(())); // hyper is done; the connection's task says what there is to say
        }
        if socket.drained.is_none() {
            socket.drained = Some(0);
            socket.watched.enter(Phase::Lingering);
            // A peer that is already gone cannot be told; that is fine.
            let _ = rustix::net::shutdown(&*socket.stream, rustix::net::Shutdown::Write);
        }
        let mut scratch = [0; 4096];
        while !socket.at_end && socket.drained < Some(LINGER_BYTES_MAX) {
            let mut buffer = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut *socket.stream).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {
                    socket.drained = socket.drained.map(|sum| sum + buffer.filled().len());
                }
                _ => socket.at_end = true,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Socket {
    /// One frame of HTTP/2. A full one has followers: they share packets, up to the end of this poll.
    fn poll_write_frame(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        const FULL: usize = 8 << 10;
        if !self.corked && slices.last().is_some_and(|payload| payload.len() >= FULL) {
            self.corked = rustix::net::sockopt::set_tcp_cork(&*self.stream, true).is_ok();
        }
        let whole: usize = slices.iter().map(|slice| slice.len()).sum();
        let written = self.poll_written(cx, |fd, tally| send(fd, slices, tally));
        self.cut = !matches!(written, Poll::Ready(Ok(n)) if n == whole);
        written
    }
}

/// Puts `bytes` in front of what is to be read again. hyper may be taken down while it has not taken all of that:
/// with many requests at once it turns to others in between.
pub(super) fn put_back(rewound: &mut Bytes, bytes: Bytes) {
    *rewound = if rewound.is_empty() { bytes } else { [bytes, rewound.clone()].concat().into() };
}

/// Shows `heads` what hyper gets next, and lets it go when no request is under way.
pub(super) fn follow(heads: &mut Option<Box<Heads>>, bytes: &[u8], watched: &Watched) {
    let known = heads.get_or_insert_with(|| Box::new(Heads::new()));
    known.follow(bytes, watched);
    if known.is_between() {
        *heads = None;
    }
}

/// Writes as many of the slices as the kernel takes at once, in order: what lies in memory, up to the
/// first slice of a file, and that slice.
fn send(socket: BorrowedFd<'_>, slices: &[IoSlice<'_>], tally: &Tally) -> io::Result<usize> {
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

// Both by rustix: libc's wrappers are cancellation points and cost more than the way into the kernel.

fn send_plain(socket: BorrowedFd<'_>, slices: &[IoSlice<'_>], more: bool) -> io::Result<usize> {
    // MSG_MORE: the head shares its packet with the first bytes of the body.
    let flags = SendFlags::NOSIGNAL | if more { SendFlags::MORE } else { SendFlags::empty() };
    if let [slice] = slices {
        return Ok(rustix::net::send(socket, slice, flags)?);
    }
    let mut nothing = SendAncillaryBuffer::default();
    Ok(rustix::net::sendmsg(socket, slices, &mut nothing, flags)?)
}

fn send_file(socket: BorrowedFd<'_>, place: Place, length: usize) -> io::Result<usize> {
    // SAFETY: it is open: the file lives as long as the slice that `place` was found from (see
    // `mapped::locate`), which the caller holds.
    let file = unsafe { BorrowedFd::borrow_raw(place.fd) };
    let mut offset = place.offset;
    match rustix::fs::sendfile(socket, file, Some(&mut offset), length)? {
        0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a published file was truncated")),
        n => Ok(n),
    }
}

/// Of `sent` bytes of these slices, how many belong to bodies. hyper puts a response head only first,
/// and it begins with the protocol's name; the rest of a head that was cut counts as body, which is
/// rare and errs to the side of "copied".
fn body_bytes(slices: &[IoSlice<'_>], sent: usize) -> usize {
    let head = slices.first().filter(|slice| slice.starts_with(b"HTTP/1.")).map_or(0, |slice| slice.len());
    sent.saturating_sub(head)
}
