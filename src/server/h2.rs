//! One HTTP/2 connection, from its preface to goodbye (RFC 9113). In: a wire and what HTTP/1.1 would have
//! been answered. Out: the same answers, many at a time.
//!
//! ```text
//! wire ─▶ hyper + h2 ─▶ a task for each stream: Request ─▶ Service │ Handover ─▶ Pieces of the body
//!   ▲                                                                              │
//!   └── DATA frames that borrow the mapping, as the peer's windows allow ◀─────────┘
//! ```
//! h2 asks for the next piece only when the peer's windows have room, so no body is ever buffered: a peer
//! that does not read costs its streams' bookkeeping, and a pointer for each.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use bytes::{Buf, Bytes};
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_LENGTH, HeaderValue};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};

use super::body::{Body, Carrier, Sent};
use super::core::{Core, OfPeer};
use super::gate::Permit;
use super::watch::{Phase, Verdict, Watched};
use super::wire::{Shared, Wire};
use super::{Limits, Service, conn, door, reply};

/// hyper's settings; the same for every connection.
pub(super) fn protocol(limits: &Limits) -> http2::Builder<OnThisCore> {
    let mut protocol = http2::Builder::new(OnThisCore);
    protocol
        .max_concurrent_streams(limits.streams_max)
        // What a peer may send unread, for all its uploads together and for each.
        .initial_connection_window_size(256 << 10)
        .initial_stream_window_size(64 << 10)
        .max_frame_size(16 << 10)
        // Four times what the door lets in, so that the door refuses in words what is a little too large: h2 answers
        // with a bare status.
        .max_header_list_size(u32::try_from(limits.head_bytes_max.saturating_mul(4)).unwrap_or(u32::MAX))
        // Answers are cheap, so few resets must be waiting; many that were answered wear out `Frames`.
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(64)
        // When less than this waits in a stream, the next piece is asked for. Pieces of files are pointers.
        .max_send_buf_size(64 << 10);
    // No keep-alive pings: idle connections end by the watch, and so do peers that stopped reading.
    protocol
}

/// Serves one connection until it ends.
pub(super) async fn serve<S: Service, W: Wire>(mut wire: W, watched: Rc<Watched>, peer: SocketAddr, core: Rc<Core<S>>) {
    core.tally.http2.increment(1);
    wire.multiplex();
    watched.streams.multiplex();
    watched.enter(Phase::Idle);
    let wire = Rc::new(RefCell::new(wire));
    let answers = (core.clone(), watched.clone());
    let service = service_fn(move |request| {
        let (core, watched) = answers.clone();
        async move { Ok::<_, Infallible>(answer(&core, watched, request, peer).await) }
    });
    let end = {
        let mut connection = pin!(core.http2.serve_connection(Shared(wire.clone()), service));
        poll_fn(|cx| {
            match watched.verdict(cx) {
                Verdict::Go | Verdict::Park => {}
                Verdict::Close if watched.phase() != Phase::Idle => return Poll::Ready(End::TimeUp),
                Verdict::Close | Verdict::Drain => {
                    // GOAWAY. A peer that does not acknowledge it is not waited for.
                    connection.as_mut().graceful_shutdown();
                    if watched.phase() == Phase::Idle {
                        watched.enter(Phase::Lingering);
                    }
                }
            }
            // An error is the peer's, and h2 has told it.
            let done = connection.as_mut().poll(cx).is_ready();
            let settled = wire.borrow_mut().poll_settle(cx);
            match settled {
                _ if done => Poll::Ready(End::Done),
                Poll::Ready(Err(_)) => Poll::Ready(End::Done),
                _ if watched.streams.is_worn_out() => Poll::Ready(End::WornOut),
                _ => Poll::Pending,
            }
        })
        .await
    };
    match end {
        End::Done => {}
        End::TimeUp => wire.borrow().reset_on_close(),
        End::WornOut => {
            core.places.worn_out.increment(1);
            wire.borrow_mut().last_word(ENHANCE_YOUR_CALM);
            // Closing with unread bytes would reset the connection, and the last word with it.
            watched.enter(Phase::Lingering);
            poll_fn(|cx| match watched.verdict(cx) {
                Verdict::Close => Poll::Ready(()),
                _ => Pin::new(&mut *wire.borrow_mut()).poll_shutdown(cx).map(drop),
            })
            .await;
        }
    }
}

enum End {
    Done,
    TimeUp,
    WornOut,
}

/// GOAWAY with that reason, naming no stream: what has been answered was answered (RFC 9113 §6.8, §7).
const ENHANCE_YOUR_CALM: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 11];

/// Spawns the streams of a connection beside it.
#[derive(Clone, Debug)]
pub(super) struct OnThisCore;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for OnThisCore {
    fn execute(&self, stream: F) {
        // Nobody joins it: it ends with its stream, and the watch counts it until then.
        tokio::task::spawn_local(stream);
    }
}

/// Answers one request, with what hyper does under HTTP/1.1 only.
async fn answer<S: Service>(
    core: &Core<S>,
    watched: Rc<Watched>,
    request: Request<Incoming>,
    peer: SocketAddr,
) -> Response<Sent<Rc<Stream>>> {
    let stream = Rc::new(Stream::begin(watched));
    let is_head = *request.method() == Method::HEAD;
    let response = match (core.places.begin_stream(peer), door::refuse(&request, &core.limits, false)) {
        (None, _) => reply::busy("too many requests at once\n"),
        (Some(_), Some(refusal)) => refusal,
        (Some(place), None) => {
            stream.place.replace(Some(place));
            conn::route(core, request, peer).await
        }
    };
    let (mut head, mut body) = response.into_parts();
    // RFC 9110 §8.6: a 204 has no length; a 304 may, and ours does not.
    let has_length = !matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if let Some(bytes) = body.size_hint().exact().filter(|_| has_length) {
        head.headers.entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(bytes));
    }
    if is_head {
        body = Body::empty();
    }
    stream.permit.replace(body.take_permit());
    Response::from_parts(head, Sent::new(body, stream))
}

/// An answer that is not finished: shared by its body and the pieces of it that h2 holds.
struct Stream {
    watched: Rc<Watched>,
    /// Comes back when the last piece has left.
    permit: RefCell<Option<Permit>>,
    /// Likewise.
    place: RefCell<Option<OfPeer>>,
}

impl Stream {
    fn begin(watched: Rc<Watched>) -> Stream {
        watched.begin_stream();
        Stream { watched, permit: RefCell::default(), place: RefCell::default() }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.watched.end_stream();
    }
}

impl Carrier for Rc<Stream> {
    type Data = Piece;

    fn carry(&self, bytes: Bytes) -> Piece {
        self.watched.hold_piece();
        Piece { bytes, stream: self.clone() }
    }
}

/// A part of a body that h2 holds until the peer's windows let it go.
struct Piece {
    bytes: Bytes,
    stream: Rc<Stream>,
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, n: usize) {
        self.bytes.advance(n);
        self.stream.watched.on_piece_moved(n);
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.stream.watched.streams.let_go();
    }
}
