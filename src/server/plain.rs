//! Plain requests, answered without hyper.
//!
//! Nearly all that a CDN or a player sends is a complete `GET` for something that is open and in the page
//! cache, with header fields that change nothing. For these, hyper's request, maps, response and body cost
//! more than all stages of the service together (docs/decisions/0022). So a resting connection reads into a
//! buffer of its core; a plain request is answered from there, with the service's own stages and the same
//! `send`, and a connection between two requests holds no buffer at all.
//!
//! ```text
//! bytes ─ parse ─▶ Plain ─ Service::call_plain ─▶ PlainAnswer ─▶ socket
//!            └▶ None         └▶ None     hyper gets the same bytes and decides
//! ```
//! Only hyper knows HTTP; this only knows when nothing of it is needed. Another method or version, a query,
//! a body, a field that neither this list nor the service knows, a second request, a miss, a refusal, a cold file:
//! all of it is hyper's. The parser is the one that hyper uses, so that both read the same.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use bytes::{Buf, Bytes};
use hyper::StatusCode;
use hyper::rt::Write as _;
use tokio::io::ReadBuf;

use super::core::Core;
use super::gate::Permit;
use super::socket::Socket;
use super::turns;
use super::watch::{Phase, Verdict, Watched};
use super::wire::Wire as _;
use super::{Limits, Service, reply};
use crate::base::telemetry;

/// A complete `GET` in HTTP/1.1 without query and body, whose fields change nothing but by what is here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plain<'r> {
    /// The request target, beginning with `/`.
    pub path: &'r str,
    /// The only `Range` field.
    pub range: Option<&'r str>,
    /// The only `If-None-Match` field.
    pub none_match: Option<&'r str>,
    /// The only `Accept-Encoding` field.
    pub accept_encoding: Option<&'r str>,
    /// The only `X-Real-IP` field.
    pub real_ip: Option<&'r str>,
    /// Fields that are not known here, at most two. The service sends a request with one that it does not
    /// know either the long way.
    pub unknown: [Option<(&'r str, &'r [u8])>; 2],
}

/// What follows the head of an answer to a plain request.
#[derive(Debug)]
pub struct PlainAnswer {
    /// The whole body; it can leave at once.
    pub body: Bytes,
    /// Comes back when the last byte has left.
    pub permit: Permit,
}

/// Buffers of a core, in use only while a request is read and answered.
#[derive(Debug)]
pub(super) struct Scratch {
    input: Box<[u8]>,
    head: Vec<u8>,
    /// `date: …` and the empty line that ends a head.
    end: Vec<u8>,
}

/// More than any plain request needs.
const INPUT_BYTES: usize = 8 << 10;
/// What it takes to have hyper read and answer a request, in bytes of a long answer: hundreds who ask at once for what is not here
/// go to it in turn, and those who ask for what is here do not wait behind them.
const HANDED_BYTES: usize = 128 << 10;
/// hyper takes a hundred; nobody who asks for a segment sends so many.
const FIELDS_MAX: usize = 40;

impl Scratch {
    pub(super) fn new() -> RefCell<Scratch> {
        let mut scratch = Scratch { input: vec![0; INPUT_BYTES].into(), head: Vec::with_capacity(2048), end: vec![] };
        scratch.tell_date(SystemTime::now());
        RefCell::new(scratch)
    }

    /// Keeps the `Date` of the coming answers (RFC 9110 §6.6.1); called four times a second.
    pub(super) fn tell_date(&mut self, now: SystemTime) {
        self.end.clear();
        self.end.extend_from_slice(format!("date: {}\r\n\r\n", httpdate::fmt_http_date(now)).as_bytes());
    }
}

/// Why `serve` came back.
pub(super) enum Next {
    /// The socket has been rewound to a request that hyper must read.
    Hyper,
    /// No request has come for a while: the socket can wait for one without its task.
    Idle,
    /// The connection is over.
    Over,
}

enum Step {
    Sent,
    Rest(Rest),
    Hyper,
    Idle,
    Over,
}

/// What the kernel did not take at once.
struct Rest {
    head: Bytes,
    body: Bytes,
    _permit: Permit,
}

/// Waits for requests and answers them as long as they are plain.
pub(super) async fn serve<S: Service>(
    socket: &mut Socket,
    watched: &Watched,
    peer: SocketAddr,
    core: &Core<S>,
) -> Next {
    if socket.is_rewound() {
        return Next::Hyper;
    }
    if watched.phase() == Phase::Idle {
        watched.enter(Phase::Parked);
    }
    watched.set_bare();
    let mut draining = false;
    // We are to end, and a request has begun: hyper answers it when its head is whole.
    let mut last = false;
    // The beginning of a head whose end has not come: a slow sender costs us no more than what it sent.
    let mut begun = vec![];
    loop {
        let step = poll_fn(|cx| match watched.verdict(cx) {
            Verdict::Close => {
                if !begun.is_empty() {
                    telemetry::door_refused(StatusCode::REQUEST_TIMEOUT.as_u16());
                    socket.last_word(&reply::last(StatusCode::REQUEST_TIMEOUT, false));
                }
                Poll::Ready(Step::Over)
            }
            // hyper answers what has come already, and says in its head that the connection ends.
            Verdict::Drain if !begun.is_empty() => {
                last = true;
                poll_step(cx, socket, watched, peer, core, (&mut begun, last))
            }
            Verdict::Drain if !draining && socket.has_unread() => {
                watched.pronounce_again(Verdict::Drain);
                Poll::Ready(Step::Hyper)
            }
            Verdict::Drain => Poll::Ready(Step::Over),
            Verdict::Go | Verdict::Park if draining => Poll::Ready(Step::Over),
            Verdict::Park if begun.is_empty() => Poll::Ready(Step::Idle),
            Verdict::Go | Verdict::Park => poll_step(cx, socket, watched, peer, core, (&mut begun, last)),
        });
        match step.await {
            Step::Sent => {}
            Step::Rest(rest) => match send(socket, watched, rest).await {
                Some(drain) => draining = drain,
                None => return Next::Over,
            },
            Step::Hyper => {
                turns::take(HANDED_BYTES).await;
                return Next::Hyper;
            }
            Step::Idle => return Next::Idle,
            Step::Over => return Next::Over,
        }
    }
}

/// Reads what has come and answers it.
fn poll_step<S: Service>(
    cx: &mut Context<'_>,
    socket: &mut Socket,
    watched: &Watched,
    peer: SocketAddr,
    core: &Core<S>,
    (begun, last): (&mut Vec<u8>, bool),
) -> Poll<Step> {
    let scratch = &mut *core.scratch.borrow_mut();
    let mut input = ReadBuf::new(&mut scratch.input);
    input.put_slice(begun);
    loop {
        let before = input.filled().len();
        match ready!(socket.poll_receive(cx, &mut input)) {
            Ok(()) if input.filled().len() > before => {}
            _ => return Poll::Ready(Step::Over),
        }
        if !is_begun(input.filled()) {
            break;
        }
        *begun = input.filled().to_vec();
    }
    begun.clear();
    if last {
        watched.pronounce_again(Verdict::Drain);
        socket.hand_over(input.filled());
        return Poll::Ready(Step::Hyper);
    }
    let request = parse(input.filled(), &core.limits);
    scratch.head.clear();
    let Some(answer) = request.and_then(|request| core.service.call_plain(&request, peer, &mut scratch.head)) else {
        socket.hand_over(input.filled());
        return Poll::Ready(Step::Hyper);
    };
    socket.count_plain();
    watched.enter(Phase::Busy);
    scratch.head.extend_from_slice(&scratch.end);
    let PlainAnswer { mut body, permit } = answer;
    let mut head = &scratch.head[..];
    Poll::Ready(match poll_send(cx, socket, &mut head, &mut body) {
        Poll::Ready(true) => {
            watched.enter(Phase::Parked);
            Step::Sent
        }
        Poll::Ready(false) => Step::Over,
        Poll::Pending => Step::Rest(Rest { head: Bytes::copy_from_slice(head), body, _permit: permit }),
    })
}

/// Sends the rest of an answer. Says whether the connection shall end then; `None` when it has ended.
async fn send(socket: &mut Socket, watched: &Watched, mut rest: Rest) -> Option<bool> {
    let mut draining = false;
    let whole = poll_fn(|cx| {
        match watched.verdict(cx) {
            Verdict::Close => {
                socket.reset_on_close();
                return Poll::Ready(false);
            }
            Verdict::Drain => draining = true,
            Verdict::Go | Verdict::Park => {}
        }
        poll_send(cx, socket, &mut rest.head, &mut rest.body)
    });
    whole.await.then(|| {
        watched.enter(Phase::Parked);
        draining
    })
}

/// Sends until all is with the kernel (true) or the peer is gone (false). `head` is in one piece.
fn poll_send(cx: &mut Context<'_>, socket: &mut Socket, head: &mut impl Buf, body: &mut Bytes) -> Poll<bool> {
    loop {
        let slices = [IoSlice::new(head.chunk()), IoSlice::new(body)];
        let slices = match (slices[0].is_empty(), slices[1].is_empty()) {
            (true, _) => &slices[1..],
            (false, true) => &slices[..1],
            (false, false) => &slices[..],
        };
        let Ok(sent) = ready!(Pin::new(&mut *socket).poll_write_vectored(cx, slices)) else {
            return Poll::Ready(false);
        };
        let of_head = sent.min(head.remaining());
        head.advance(of_head);
        body.advance(sent - of_head);
        if !head.has_remaining() && body.is_empty() {
            return Poll::Ready(true);
        }
    }
}

/// Whether this may become a plain request and its end is not there. Too long is hyper's to refuse.
fn is_begun(read: &[u8]) -> bool {
    const START: &[u8] = b"GET /";
    const END: &[u8] = b"\r\n\r\n";
    let start = read.len().min(START.len());
    !read.ends_with(END)
        && START[..start] == read[..start]
        && read.len() <= INPUT_BYTES / 2
        && !read.windows(END.len()).any(|end| end == END)
        // hyper also takes a line feed alone for the end of a line: only it knows whether that head is whole.
        && read.iter().enumerate().all(|(at, byte)| *byte != b'\n' || (at > 0 && read[at - 1] == b'\r'))
}

/// A name or an IPv4 address, and perhaps a port (RFC 9110 §7.2).
fn is_plain_host(host: &str) -> bool {
    let (name, port) = host.split_once(':').unwrap_or((host, "80"));
    let named = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    named && port.len() <= 5 && port.parse::<u16>().is_ok_and(|_| port.bytes().all(|b| b.is_ascii_digit()))
}

/// Letters, digits and what else our paths and tokens are made of; a table, because each byte is looked at.
const IN_PATHS: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric()
            || matches!(byte as u8, b'/' | b'.' | b'-' | b'_' | b'~' | b'%' | b'&' | b'=');
        byte += 1;
    }
    table
};

/// The request in `read`, if it is plain and nothing follows it.
fn parse<'r>(read: &'r [u8], limits: &Limits) -> Option<Plain<'r>> {
    if !read.starts_with(b"GET /") || !read.ends_with(b"\r\n\r\n") || read.len() > limits.head_bytes_max {
        return None;
    }
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(read, &mut fields) {
        Ok(httparse::Status::Complete(length)) if length == read.len() => {}
        _ => return None,
    }
    let path = request.path.filter(|path| request.version == Some(1) && path.len() <= limits.uri_bytes_max)?;
    // What `http::Uri` refuses in a path never gets here.
    if !path.bytes().all(|b| IN_PATHS[usize::from(b)]) {
        return None;
    }
    let mut plain = Plain { path, ..Plain::default() };
    let mut host = None;
    for field in request.headers.iter() {
        let place = match Field::of(field.name) {
            Field::Harmless => continue,
            Field::Connection if field.value.eq_ignore_ascii_case(b"keep-alive") => continue,
            Field::Connection | Field::Framing => return None,
            Field::Unknown => {
                *plain.unknown.iter_mut().find(|place| place.is_none())? = Some((field.name, field.value));
                continue;
            }
            Field::Host => &mut host,
            Field::Range => &mut plain.range,
            Field::NoneMatch => &mut plain.none_match,
            Field::AcceptEncoding => &mut plain.accept_encoding,
            Field::RealIp => &mut plain.real_ip,
        };
        // A second one is for hyper and the service to make sense of.
        if place.replace(str::from_utf8(field.value).ok()?).is_some() {
            return None;
        }
    }
    // Only what nobody could doubt: brackets, signs and blanks are for the door to judge.
    is_plain_host(host?).then_some(plain)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Host,
    Range,
    NoneMatch,
    AcceptEncoding,
    RealIp,
    Connection,
    /// Changes no answer of a service.
    Harmless,
    /// Says how the message goes on, or what is to be done with it.
    Framing,
    /// May change the answer.
    Unknown,
}

impl Field {
    /// What a field means to a plain request. What is not listed is `Unknown`: a field that the service reads
    /// one day shall not be forgotten here.
    fn of(name: &str) -> Field {
        let mut lower = [0; 32];
        let Some(lower) = lower.get_mut(..name.len()) else { return Field::Unknown };
        lower.copy_from_slice(name.as_bytes());
        lower.make_ascii_lowercase();
        match &*lower {
            b"host" => Field::Host,
            b"range" => Field::Range,
            b"if-none-match" => Field::NoneMatch,
            b"accept-encoding" => Field::AcceptEncoding,
            b"x-real-ip" => Field::RealIp,
            b"connection" => Field::Connection,
            b"content-length" | b"transfer-encoding" | b"expect" | b"upgrade" | b"te" | b"trailer" => Field::Framing,
            b"user-agent" | b"accept" | b"accept-language" | b"cache-control" | b"pragma" | b"referer" | b"origin"
            | b"priority" | b"dnt" | b"via" | b"forwarded" | b"keep-alive" | b"save-data" => Field::Harmless,
            b"icy-metadata" | b"x-playback-session-id" => Field::Harmless, // ffmpeg, VLC; AVPlayer
            // What browsers say of a page, and CDNs and proxies of themselves.
            _ if [&b"sec-"[..], b"x-forwarded-", b"cdn-", b"cf-", b"x-amz-cf-"]
                .iter()
                .any(|of| lower.starts_with(of)) =>
            {
                Field::Harmless
            }
            _ => Field::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(request: &str) -> Option<Plain<'_>> {
        parse(request.as_bytes(), &Limits::default())
    }

    #[test]
    fn what_players_and_cdns_send_is_plain() {
        let plain = read(
            "GET /a/t/v/00000.mp4 HTTP/1.1\r\nHost: x\r\nUser-Agent: y\r\nAccept: */*\r\nConnection: Keep-Alive\r\n\
             CDN-RequestId: 1\r\nsec-fetch-mode: cors\r\nVia: BunnyCDN\r\nRANGE: bytes=0-1\r\nx-real-ip: 192.0.2.1\r\n\r\n",
        );
        let expected = Plain {
            path: "/a/t/v/00000.mp4",
            range: Some("bytes=0-1"),
            real_ip: Some("192.0.2.1"),
            ..Plain::default()
        };
        assert_eq!(plain, Some(expected));
    }

    #[test]
    fn whatever_needs_http_is_not() {
        assert!(read("GET /a HTTP/1.1\r\nHost: x\r\n\r\n").is_some());
        for request in [
            "",
            "GET /a HTTP/1.1\r\nHost: x\r\n",
            "GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /a HTTP/1.1\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
            "GET /a HTTP/1.0\r\nHost: x\r\n\r\n",
            "HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n",
            "get /a HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET http://x/a HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /a?b HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /\"a HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: x\r\nIf-Range: \"x\"\r\nCookie: a=b\r\nUnheard-Of: c\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: x\r\nRange: bytes=0-1\r\nRange: bytes=2-3\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost : x\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n",
        ] {
            assert_eq!(read(request), None, "{request:?}");
        }
        let unknown = read("GET /a HTTP/1.1\r\nHost: x\r\nIf-Range: y\r\nCookie: a=b\r\n\r\n").unwrap().unknown;
        assert_eq!(unknown, [Some(("If-Range", &b"y"[..])), Some(("Cookie", b"a=b"))]);
        let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(9000));
        assert_eq!(read(&long), None);
        let many = format!("GET /a HTTP/1.1\r\nHost: x\r\n{}\r\n", "Accept: b\r\n".repeat(FIELDS_MAX));
        assert_eq!(read(&many), None);
    }
}
