//! One connection, from accept to goodbye.
//!
//! `socket → hyper → Request → Service or Handover → Response → socket`, again and again. Between
//! requests hyper is taken down after a while and only the socket stays: ten thousand quiet listeners
//! then cost their kernel sockets and little more.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::header::{ALLOW, HOST, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Version};
use tokio::net::TcpStream;

use super::body::{Body, BoxError};
use super::core::Core;
use super::socket::Socket;
use super::watch::{Phase, Verdict, Watched};
use super::{Service, plain, reply};
use crate::base::telemetry;

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

/// Serves one connection until it ends.
pub(super) async fn serve<S: Service>(stream: TcpStream, peer: SocketAddr, core: Rc<Core<S>>) {
    let watched = core.watch.register();
    let mut socket = Socket::new(stream, watched.clone(), core.tally.clone());
    let answers = (core.clone(), watched.clone());
    let mut service = service_fn(move |request| {
        let (core, watched) = answers.clone();
        async move { Ok::<_, Infallible>(answer(&core, watched, request, peer).await) }
    });
    while let plain::Next::Hyper = plain::serve(&mut socket, &watched, peer, &core).await {
        let mut connection = Box::pin(core.protocol.serve_connection(socket, service));
        let end = poll_fn(|cx| {
            match watched.verdict(cx) {
                Verdict::Go => {}
                Verdict::Park => return Poll::Ready(End::Park),
                Verdict::Close => return Poll::Ready(End::TimeUp),
                Verdict::Drain => connection.as_mut().graceful_shutdown(),
            }
            // An error here is the peer's: a bad request (already answered) or a lost connection.
            match connection.as_mut().poll(cx) {
                Poll::Ready(end) => {
                    if let Err(error) = end {
                        count_unreadable(&error);
                    }
                    Poll::Ready(End::Done)
                }
                // All is answered: the next request may be plain again.
                Poll::Pending if watched.phase() == Phase::Idle => Poll::Ready(End::Park),
                Poll::Pending => Poll::Pending,
            }
        });
        match end.await {
            End::Done => return,
            End::Park => {
                let parts = Pin::into_inner(connection).into_parts();
                (socket, service) = (parts.io, parts.service);
                if !parts.read_buf.is_empty() {
                    socket.rewind(parts.read_buf);
                }
            }
            End::TimeUp => {
                let phase = watched.phase();
                let socket = Pin::into_inner(connection).into_parts().io;
                match phase {
                    // RFC 9110 §15.5.9: tell a slow sender, if it still listens.
                    Phase::Head => {
                        telemetry::door_refused(StatusCode::REQUEST_TIMEOUT.as_u16());
                        socket.try_write(TOO_SLOW);
                    }
                    Phase::Busy | Phase::Flushing => socket.reset_on_close(),
                    _ => {}
                }
                return;
            }
        }
    }
}

const TOO_SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

enum End {
    Done,
    Park,
    TimeUp,
}

/// Answers one request.
async fn answer<S: Service>(
    core: &Core<S>,
    watched: Rc<Watched>,
    request: Request<Incoming>,
    peer: SocketAddr,
) -> Response<Sent> {
    watched.enter(Phase::Busy);
    let response = match refused_at_the_door(core, &request) {
        Some(refusal) => {
            telemetry::door_refused(refusal.status().as_u16());
            refusal
        }
        None if core.service.takes(request.uri().path()) => core.service.call(request, peer).await,
        None => match &core.handover {
            Some(handover) => handover.call(request, peer).await,
            None => reply::refusal(StatusCode::NOT_FOUND, "not found\n"),
        },
    };
    response.map(|body| Sent { body, watched })
}

/// Counts what hyper refused by itself, before there was a request.
fn count_unreadable(error: &hyper::Error) {
    if error.is_parse_too_large() {
        telemetry::door_refused(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE.as_u16());
    } else if error.is_parse() {
        telemetry::door_refused(StatusCode::BAD_REQUEST.as_u16());
    }
}

/// What no part of the program should have to look at.
fn refused_at_the_door<S: Service>(core: &Core<S>, request: &Request<Incoming>) -> Option<Response<Body>> {
    let headers = request.headers();
    // RFC 9112 §3.2: a 1.1 request has exactly one Host; anything else is a request to mislead somebody.
    let hosts = headers.get_all(HOST).iter().take(2).count();
    if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
        return Some(reply::refuse_and_close(StatusCode::BAD_REQUEST, "bad request\n"));
    }
    let uri = request.uri();
    let uri_bytes = uri.path().len() + uri.query().map_or(0, str::len);
    if uri_bytes > core.limits.uri_bytes_max {
        return Some(reply::refuse_and_close(StatusCode::URI_TOO_LONG, "URI too long\n"));
    }
    let head_bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if head_bytes > core.limits.head_bytes_max {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return Some(reply::refuse_and_close(status, "headers too large\n"));
    }
    // Tunnels and echoes are for proxies; hyper would treat a 2xx to CONNECT as one.
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        let mut refusal = reply::refuse_and_close(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS"));
        return Some(refusal);
    }
    None
}

/// A body on its way; its end is what the watch waits for.
struct Sent {
    body: Body,
    watched: Rc<Watched>,
}

impl hyper::body::Body for Sent {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        if self.watched.phase() == Phase::Busy {
            self.watched.enter_flushing();
        }
    }
}
