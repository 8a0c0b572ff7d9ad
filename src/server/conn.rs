//! One connection, from accept to goodbye.
//!
//! `wire → hyper → Request → Service or Handover → Response → wire`, again and again. Between
//! requests hyper is taken down, and after a while the connection's task ends too and only the socket stays
//! (`idle`): ten thousand quiet listeners then cost their kernel sockets and little more.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONNECTION, HeaderMap, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Version};

use super::body::{Body, Carrier, Sent};
use super::core::Core;
use super::heads::{self, Spoken};
use super::plain::Next;
use super::upload::Upload;
use super::watch::{Phase, Verdict, Watched};
use super::wire::Wire;
use super::{Service, address, door, h2, reply};
use crate::base::telemetry::{self, request_id};

/// hyper's buffer for a request head, and how much of a response it queues before it flushes.
const BUFFER_BYTES_MAX: usize = 64 << 10;

/// hyper's settings; the same for every connection.
pub(super) fn protocol() -> http1::Builder {
    let mut protocol = http1::Builder::new();
    protocol
        .writev(true) // and never `pipeline_flush`: it would flatten every body into one buffer
        .max_buf_size(BUFFER_BYTES_MAX)
        .half_close(true) // a client may say all it has to say and then listen
        .header_read_timeout(None); // the watch does it, without a timer for each request
    protocol
}

/// Serves one connection until it ends, or until nothing is left of it but its wire, which comes back then.
pub(super) async fn serve<S: Service, W: Wire>(
    mut wire: W,
    watched: Rc<Watched>,
    peer: SocketAddr,
    core: Rc<Core<S>>,
) -> Option<W> {
    let answers = (core.clone(), watched.clone());
    let mut service = service_fn(move |request| {
        let (core, watched) = answers.clone();
        async move { Ok::<_, Infallible>(answer(&core, watched, request, peer).await) }
    });
    loop {
        match wire.rest(&watched, peer, &core).await {
            Next::Hyper => {}
            Next::Idle => return Some(wire),
            Next::Over => return None,
        }
        if watched.saw_preface() {
            // Boxed: its state is large, and most connections never need it.
            Box::pin(h2::serve(wire, watched, peer, core)).await;
            return None;
        }
        let mut connection = Box::pin(core.http1.serve_connection(wire, service));
        let end = poll_fn(|cx| {
            let verdict = watched.verdict(cx);
            match verdict {
                Verdict::Go | Verdict::Drain => {}
                Verdict::Park => return Poll::Ready(End::Park),
                Verdict::Close => return Poll::Ready(End::TimeUp),
            }
            let mut polled = connection.as_mut().poll(cx);
            if verdict == Verdict::Drain && polled.is_pending() && !watched.saw_preface() {
                // Only now: hyper ends at once when it has not seen a request, be it in its hands already.
                connection.as_mut().graceful_shutdown();
                polled = connection.as_mut().poll(cx);
            }
            match polled {
                Poll::Ready(Ok(())) => Poll::Ready(End::Done),
                // The peer's: a head that cannot be read, or a lost connection.
                Poll::Ready(Err(error)) => Poll::Ready(End::Broken(error)),
                Poll::Pending if watched.saw_preface() => Poll::Ready(End::Http2),
                // All is answered: the next request may be plain again.
                Poll::Pending if W::PLAINTEXT && watched.is_at_rest() => Poll::Ready(End::Park),
                Poll::Pending => Poll::Pending,
            }
        });
        match end.await {
            End::Done => return None,
            End::Broken(error) => {
                let parts = Pin::into_inner(connection).into_parts();
                (wire, service) = (parts.io, parts.service);
                let status = wire.take_refusal()?;
                match refused(status, &error, &parts.read_buf, &watched) {
                    Refused::Again(head) => wire.rewind(head),
                    Refused::With(status) => {
                        say_and_leave(wire, status, &watched).await;
                        return None;
                    }
                }
            }
            End::Http2 => {
                let wire = Pin::into_inner(connection).into_parts().io;
                Box::pin(h2::serve(wire, watched, peer, core)).await;
                return None;
            }
            End::Park => {
                let parts = Pin::into_inner(connection).into_parts();
                (wire, service) = (parts.io, parts.service);
                if !parts.read_buf.is_empty() {
                    wire.rewind(parts.read_buf);
                }
            }
            End::TimeUp => {
                let phase = watched.phase();
                let mut wire = Pin::into_inner(connection).into_parts().io;
                match phase {
                    // RFC 9110 §15.5.9: tell a slow sender, if it still listens.
                    Phase::Head => {
                        telemetry::door_refused(StatusCode::REQUEST_TIMEOUT.as_u16());
                        wire.last_word(&reply::last(StatusCode::REQUEST_TIMEOUT, watched.asks_head()));
                    }
                    Phase::Busy | Phase::Flushing => wire.reset_on_close(),
                    _ => {}
                }
                return None;
            }
        }
    }
}

enum End {
    Done,
    Broken(hyper::Error),
    Park,
    TimeUp,
    Http2,
}

/// Answers one request.
async fn answer<S: Service>(
    core: &Core<S>,
    watched: Rc<Watched>,
    request: Request<Incoming>,
    peer: SocketAddr,
) -> Response<Sent<Answering>> {
    watched.enter(Phase::Busy);
    let unread = !request.body().is_end_stream() && core.service.takes(request.uri().path());
    let stays = request.body().is_end_stream() && stays(request.version(), request.headers());
    let mut response = match door::refuse(&request, &core.limits, watched.answer_head()) {
        Some(refusal) => refusal,
        None => route(core, address::settle_host(request), peer).await,
    };
    if unread {
        // hyper does not wait for the rest of a body that nobody read: it closes, and the client should know
        // (RFC 9112 §9.6).
        response.headers_mut().entry(CONNECTION).or_insert(HeaderValue::from_static("close"));
    }
    watched.set_may_rest(stays && !response.headers().contains_key(CONNECTION));
    response.map(|body| Sent::new(body, Answering(watched)))
}

/// Whether nothing in a request's head lets the connection end after the answer.
fn stays(version: Version, headers: &HeaderMap) -> bool {
    let mut wishes = headers.get_all(CONNECTION).iter();
    version == Version::HTTP_11 && wishes.all(|wish| wish.as_bytes().eq_ignore_ascii_case(b"keep-alive"))
}

/// What becomes of a head that hyper refused.
enum Refused {
    /// It gets these bytes instead.
    Again(Bytes),
    With(StatusCode),
}

/// Looks at a head again that hyper refused with `status`. `unread` is what hyper has not taken.
fn refused(status: StatusCode, error: &hyper::Error, unread: &[u8], watched: &Watched) -> Refused {
    // Only then is the head still unread: after other errors `unread` may be its body. hyper says it in words alone.
    let by_version = error.is_parse() && error.to_string().starts_with("invalid HTTP version");
    match status {
        StatusCode::BAD_REQUEST if by_version => match heads::spoken(unread) {
            Spoken::Later(head) => Refused::Again(head),
            Spoken::Other => Refused::With(StatusCode::HTTP_VERSION_NOT_SUPPORTED),
            Spoken::Nothing => Refused::With(status),
        },
        // hyper calls a length that it cannot count a head that is too large (RFC 9110 §8.6: it is invalid).
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE if watched.is_next_crooked() => {
            Refused::With(StatusCode::BAD_REQUEST)
        }
        // RFC 9112 §3: a request line longer than we wish to parse is a target that is too long, whatever would follow.
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE if heads::is_one_line(unread) => {
            Refused::With(StatusCode::URI_TOO_LONG)
        }
        _ => Refused::With(status),
    }
}

/// Refuses what was no request, and waits a moment for the peer to hang up.
async fn say_and_leave(mut wire: impl Wire, status: StatusCode, watched: &Watched) {
    telemetry::door_refused(status.as_u16());
    wire.last_word(&reply::last(status, watched.asks_head()));
    poll_fn(|cx| match watched.verdict(cx) {
        Verdict::Close => Poll::Ready(()),
        _ => Pin::new(&mut wire).poll_shutdown(cx).map(drop),
    })
    .await;
}

/// To the service, or to the control plane.
pub(super) async fn route<S: Service>(core: &Core<S>, request: Request<Incoming>, peer: SocketAddr) -> Response<Body> {
    if core.service.takes(request.uri().path()) {
        return core.service.call(request, peer).await;
    }
    let id = request_id::given_or_made(request.headers()).into_owned();
    let mut response = match (&core.handover, door::refuse_body(&request)) {
        (None, _) => reply::refusal(StatusCode::NOT_FOUND, "not found\n"),
        (Some(_), Some(refusal)) => refusal,
        (Some(handover), None) => {
            handover.call(request.map(|body| Upload::new(body, core.limits.body_stall)), peer).await
        }
    };
    if response.status().as_u16() >= 400 {
        let id = || request_id::value(&id);
        response.headers_mut().entry(request_id::X_REQUEST_ID).or_insert_with(id);
    }
    response
}

/// An answer that is not finished; its end is what the watch waits for.
struct Answering(Rc<Watched>);

impl Carrier for Answering {
    type Data = Bytes;

    fn carry(&self, bytes: Bytes) -> Bytes {
        bytes
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if self.0.phase() == Phase::Busy {
            self.0.enter_flushing();
        }
    }
}
