//! HTTP/2: the same answers as HTTP/1.1, and bounds on what a peer can make us do.

use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use hyper::http::{HeaderMap, Method, Request};
use segue::base::shutdown::Phase;
use segue::origin;
use segue::server::{Limits, gate};
use tokio::io::{AsyncRead, AsyncWrite};

use super::bench::{Bench, Reply, SEGMENT_BYTES, Setup};
use super::limits::{impatient, with_limits};

/// Runs a client to its end.
pub(super) fn block_on<T>(client: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime
        .block_on(async { tokio::time::timeout(Duration::from_secs(20), client).await.expect("an answer within 20 s") })
}

/// One request and its answer on an HTTP/2 connection over `io`; `lines` as HTTP/1.1 would have them.
pub(super) async fn ask<T>(io: T, method: &str, path: &str, lines: &str) -> Result<Reply, h2::Error>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = h2::client::Builder::new()
        .initial_window_size(8 << 20)
        .initial_connection_window_size(8 << 20)
        .handshake::<_, bytes::Bytes>(io)
        .await?;
    let driving = tokio::spawn(connection);
    let method: Method = method.parse().unwrap();
    let mut request = Request::builder().method(method).uri(format!("http://test{path}"));
    for line in lines.lines() {
        let (name, value) = line.split_once(": ").unwrap();
        request = request.header(name.to_ascii_lowercase(), value);
    }
    let (answer, _) = sender.send_request(request.body(()).unwrap(), true)?;
    let reply = read(answer.await?).await;
    drop(sender);
    driving.abort();
    reply
}

async fn read(answer: hyper::Response<h2::RecvStream>) -> Result<Reply, h2::Error> {
    let status = answer.status().as_u16();
    let headers = named(answer.headers());
    let mut incoming = answer.into_body();
    let mut body = vec![];
    while let Some(part) = incoming.data().await {
        let part = part?;
        incoming.flow_control().release_capacity(part.len())?;
        body.extend_from_slice(&part);
    }
    Ok(Reply { status, headers, body })
}

fn named(headers: &HeaderMap) -> Vec<(String, String)> {
    headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect()
}

fn ask_plain(bench: &Bench, method: &str, path: &str, lines: &str) -> Result<Reply, h2::Error> {
    block_on(async {
        let stream = tokio::net::TcpStream::connect(bench.address).await.unwrap();
        ask(stream, method, path, lines).await
    })
}

/// Requests that between them meet every kind of answer: method, path, header lines.
pub(super) fn cases(bench: &Bench) -> Vec<(&'static str, String, String)> {
    let segment = bench.a("aac/96/00000.mp4");
    let etag = bench.get(&segment, "").header("etag").unwrap().to_owned(); // opened now: no Server-Timing later
    let mut cases = vec![
        ("GET", bench.a("master.m3u8"), String::new()),
        ("GET", bench.a("aac/96/00001.mp4"), String::new()),
        ("GET", bench.a("flac/00002.mp4"), String::new()),
        ("GET", bench.published.path("d", "aac-96.mp4"), "Range: bytes=100000-\r\n".into()),
        ("GET", bench.a("aac/96/00009.mp4"), String::new()),
        ("GET", "/nothing/here".into(), String::new()),
        ("GET", format!("{segment}?{}", "x".repeat(9_000)), String::new()),
        ("OPTIONS", segment.clone(), "Origin: https://a.example\r\nAccess-Control-Request-Method: GET\r\n".into()),
    ];
    for lines in [
        "",
        "Range: bytes=0-0\r\n",
        "Range: bytes=100-50000\r\n",
        "Range: bytes=-5\r\n",
        "Range: bytes=5-4\r\n",
        "Range: bytes=204800-\r\n",
        "If-None-Match: {etag}\r\n",
        "If-Match: \"x\"\r\n",
        "If-Range: {etag}\r\nRange: bytes=0-9\r\n",
    ] {
        for method in ["GET", "HEAD"] {
            cases.push((method, segment.clone(), lines.replace("{etag}", &etag)));
        }
    }
    for method in ["POST", "DELETE", "BREW", "TRACE"] {
        cases.push((method, segment.clone(), String::new()));
    }
    cases
}

/// What must not differ between protocols. `Connection` is HTTP/1.1's own (RFC 9113 §8.2.2).
pub(super) fn comparable(reply: &Reply) -> Vec<(String, String)> {
    let own = |name: &str| matches!(name, "date" | "connection" | "x-request-id");
    let mut headers: Vec<_> = reply.headers.iter().filter(|(name, _)| !own(name)).cloned().collect();
    headers.sort();
    headers
}

#[test]
fn both_protocols_answer_alike() {
    let bench = Bench::open();
    let mut statuses = HashSet::new();
    for (method, path, lines) in cases(&bench) {
        let old = bench.request(method, &path, &lines);
        let new = ask_plain(&bench, method, &path, &lines).unwrap();
        let what = format!("{method} {path:.80} {lines}");
        assert_eq!(new.status, old.status, "{what}");
        assert_eq!(comparable(&new), comparable(&old), "{what}");
        assert!(new.body == old.body, "{what}");
        assert!(new.header("date").is_some() && new.header("connection").is_none(), "{what}");
        statuses.insert(new.status);
    }
    assert_eq!(statuses, HashSet::from([200, 204, 206, 304, 404, 405, 412, 414, 416, 501]));
}

#[test]
fn a_body_leaves_in_frames_that_the_kernel_takes_from_the_page_cache() {
    let bench = Bench::open();
    let path = bench.a("aac/96/00000.mp4");
    ask_plain(&bench, "GET", &path, "").unwrap(); // opens the version
    let before = bench.handle.as_ref().unwrap().socket_bytes();
    for _ in 0..4 {
        let reply = ask_plain(&bench, "GET", &path, "").unwrap();
        assert!(reply.body == bench.published.segment("aac-96.mp4", 0));
    }
    let after = bench.handle.as_ref().unwrap().socket_bytes();
    let (kernel, edges, copied) =
        (after.sendfile - before.sendfile, after.edges - before.edges, after.copied - before.copied);
    let bodies = 4 * SEGMENT_BYTES as u64;
    let frames = bodies.div_ceil(16 << 10) + 4;
    // h2 joins each frame's head with the first 247 bytes of its payload; settings and headers come on top.
    assert!(copied <= frames * 256 + 4 * 1024, "{copied} bytes were copied for {frames} frames");
    assert!(kernel + edges >= bodies - frames * 247, "{kernel} + {edges} of {bodies}");
    assert!(kernel >= bodies / 2, "{kernel} of {bodies}");
}

#[test]
fn a_misleading_request_is_refused_and_its_neighbours_are_not() {
    let bench = Bench::open();
    let path = bench.a("aac/96/00001.mp4");
    assert_eq!(ask_plain(&bench, "GET", &path, "Host: elsewhere\r\n").unwrap().status, 400);
    assert_eq!(ask_plain(&bench, "GET", &path, "Host: test\r\n").unwrap().status, 200);
    // RFC 9113 §8.2.2: malformed, a stream error. §8.1.1: a length that lies. §8.3.1: no path, no method.
    let get = |extra: &[u8]| [request_block(&path), extra.to_vec()].concat();
    for (what, block) in [
        ("a connection header", get(b"\x00\x0aconnection\x05close")),
        ("chunks", get(b"\x00\x11transfer-encoding\x07chunked")),
        ("an upper case name", get(b"\x00\x01X\x01y")),
        ("a line break in a value", get(b"\x00\x01x\x04a\r\nb")),
        ("a blank before a value", get(b"\x00\x01x\x02 y")),
        ("a second path", get(b"\x04\x01/")),
        ("a pseudo header late", get(b"\x00\x01x\x01y\x86")),
        ("an unknown pseudo header", [b"\x00\x06:proto\x01x".to_vec(), request_block(&path)].concat()),
        ("no path", vec![0x82, 0x86]),
        ("a length without a body", get(b"\x00\x0econtent-length\x012")),
    ] {
        let mut raw = Raw::open(&bench, &[]);
        raw.frame(HEADERS, END_HEADERS | END_STREAM, 1, &block);
        let end = raw.until(|f| f.stream == 1 || f.kind == GOAWAY).expect(what);
        let refused = end.kind == RST_STREAM || end.kind == GOAWAY;
        assert!(refused || (end.kind == HEADERS && end.payload.first() == Some(&0x8c)), "{what}: {end:?}"); // 400
        if end.kind == RST_STREAM {
            raw.frame(HEADERS, END_HEADERS | END_STREAM, 3, &request_block(&path));
            assert_eq!(raw.body(3).len(), 3_000, "{what}: the connection goes on");
        }
    }
}

#[test]
fn bodies_and_trailers_that_nobody_asked_for_are_bounded_and_ignored() {
    let bench = Bench::open();
    let path = bench.a("aac/96/00001.mp4");
    let mut raw = Raw::open(&bench, &[]);
    raw.frame(HEADERS, END_HEADERS, 1, &request_block(&path));
    raw.frame(DATA, 0, 1, &[7; 10_000]);
    assert_eq!(raw.body(1).len(), 3_000, "answered without waiting for the body");
    let mut raw = Raw::open(&bench, &[]);
    raw.frame(HEADERS, END_HEADERS, 1, &request_block(&path));
    raw.frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x00\x01x\x01y");
    assert_eq!(raw.body(1).len(), 3_000, "trailers");
    // More than the windows allow is a flow-control error, not memory.
    let mut raw = Raw::open(&bench, &[]);
    raw.frame(HEADERS, END_HEADERS, 1, &request_block(&path));
    for _ in 0..40 {
        raw.frame(DATA, 0, 1, &[7; 16 << 10]);
    }
    assert!(raw.until(|f| f.kind == RST_STREAM || f.kind == GOAWAY).is_some());
}

#[test]
fn a_preface_is_recognised_however_it_is_cut_and_nothing_else_is_taken_for_one() {
    let bench = Bench::open();
    let path = bench.a("aac/96/00001.mp4");
    let preface = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    for cut in [1, 3, 4, 5, 20] {
        let mut raw = Raw { stream: bench.connect().stream };
        raw.stream.set_nodelay(true).unwrap();
        raw.write(&preface[..cut]);
        std::thread::sleep(Duration::from_millis(30));
        raw.write(&preface[cut..]);
        raw.frame(HEADERS, END_HEADERS | END_STREAM, 1, &request_block(&path));
        assert_eq!(raw.body(1).len(), 3_000, "{cut}");
    }
    for (first, second, status) in [("P", "OST", 405), ("PR", "OPFIND", 501), ("PRI", "NT", 501), ("G", "ET", 200)] {
        let mut client = bench.connect();
        client.stream.set_nodelay(true).unwrap();
        client.send(first);
        std::thread::sleep(Duration::from_millis(30));
        client.send(&format!("{second} {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
        client.reply(false).unwrap().expect(status);
    }
    let bench = with_limits(impatient());
    for unfinished in [&b"P"[..], b"PRI * HTTP/2.0\r\n\r\n", &preface[..30]] {
        let mut client = bench.connect();
        client.stream.write_all(unfinished).unwrap();
        client.rest(); // closed by the head's deadline, or this panics
    }
    let mut wrong = bench.connect();
    wrong.send("PRI * HTTP/1.1\r\nHost: x\r\n\r\n");
    wrong.rest();
}

#[test]
fn a_head_that_does_not_end_is_not_waited_for() {
    let bench = with_limits(impatient());
    let mut raw = Raw::open(&bench, &[]);
    raw.frame(HEADERS, END_STREAM, 1, &request_block(&bench.a("aac/96/00001.mp4")));
    for _ in 0..100 {
        if raw.try_frame(CONTINUATION, 0, 1, b"\x00\x01x\x01y").is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(30));
    }
    assert!(raw.until(|_| false).is_none(), "the connection has ended");
}

#[test]
fn an_idle_connection_is_told_and_closed_and_pings_do_not_keep_it() {
    let bench = with_limits(impatient());
    let mut raw = Raw::open(&bench, &[]);
    raw.frame(HEADERS, END_HEADERS | END_STREAM, 1, &request_block(&bench.a("aac/96/00001.mp4")));
    assert_eq!(raw.body(1).len(), 3_000);
    let mut writer = raw.stream.try_clone().unwrap();
    let pinging = std::thread::spawn(move || {
        while writer.write_all(&frame(PING, 0, 0, &[0; 8])).is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let goaway = raw.until(|f| f.kind == GOAWAY).expect("a goodbye");
    assert_eq!(goaway.error(), 0, "no error");
    assert!(raw.until(|_| false).is_none());
    pinging.join().unwrap();
}

#[test]
fn a_peer_whose_windows_stay_shut_costs_no_memory_and_is_let_go() {
    let bench = with_limits(Limits { streams_max: 20, ..impatient() });
    let path = bench.a("flac/00002.mp4");
    bench.get(&path, "").expect(200);
    let before = resident_bytes();
    let greedy: Vec<_> = [0, 1]
        .iter()
        .flat_map(|window| std::iter::repeat_n(*window, 20))
        .map(|window: u32| {
            // SETTINGS_INITIAL_WINDOW_SIZE: nothing, or one byte so that the answers begin.
            let mut raw = Raw::open(&bench, &[(4, window)]);
            for stream in 0..20 {
                raw.frame(HEADERS, END_HEADERS | END_STREAM, 2 * stream + 1, &request_block(&path));
            }
            raw
        })
        .collect();
    assert_eq!(bench.get(&bench.a("aac/96/00000.mp4"), "").expect(200).body.len(), SEGMENT_BYTES);
    let mut sent = 0;
    for mut raw in greedy {
        while let Some(frame) = raw.until(|f| f.kind == DATA) {
            sent += frame.payload.len();
        }
    }
    assert!(sent <= 40 * 20, "{sent} body bytes for windows that were shut");
    // 800 answers of 1.5 MB: a gigabyte if they were buffered.
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes");
    bench.get(&bench.a("aac/96/00000.mp4"), "").expect(200);
}

#[test]
fn a_peer_that_stops_reading_its_socket_is_let_go() {
    let bench = with_limits(impatient());
    let wide = (4, 0x7fff_ffff);
    let mut raw = Raw::open(&bench, &[wide]);
    raw.frame(WINDOW_UPDATE, 0, 0, &0x7000_0000u32.to_be_bytes());
    for stream in 0..50 {
        raw.frame(HEADERS, END_HEADERS | END_STREAM, 2 * stream + 1, &request_block(&bench.a("flac/00002.mp4")));
    }
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while raw.try_frame(PING, 0, 0, &[0; 8]).is_ok() {
        assert!(std::time::Instant::now() < deadline, "still connected");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_permit_comes_back_when_the_last_byte_has_left_not_when_h2_has_it() {
    let limits = gate::Limits { requests_max: 1, ..gate::Limits::default() };
    let origin = origin::Options { require_token: false, gate: limits, ..origin::Options::default() };
    let bench = Bench::with(Setup { origin, ..Setup::default() });
    let path = bench.a("aac/96/00000.mp4");
    bench.get(&path, "").expect(200);
    let mut raw = Raw::open(&bench, &[(4, 1)]);
    raw.frame(HEADERS, END_HEADERS | END_STREAM, 1, &request_block(&path));
    assert_eq!(raw.until(|f| f.kind == DATA).unwrap().payload.len(), 1, "the whole window");
    let refused = bench.get(&path, "");
    assert_eq!(refused.expect(503).header("retry-after"), Some("1"));
    for update in [0, 1] {
        raw.frame(WINDOW_UPDATE, 0, update, &(1u32 << 20).to_be_bytes());
    }
    assert_eq!(raw.body(1).len(), SEGMENT_BYTES - 1);
    let admitted = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        bench.get(&path, "").status == 200
    });
    assert!(admitted);
}

const ENHANCE_YOUR_CALM: u32 = 11;

/// The connection must end, with a reason if it could still be read; and the next one is served.
fn worn_out(bench: &Bench, what: &str, mut raw: Raw) {
    let mut reason = None;
    while let Some(frame) = raw.until(|f| f.kind == GOAWAY) {
        reason = Some(frame.error());
    }
    assert!(reason.is_none_or(|reason| reason == ENHANCE_YOUR_CALM), "{what}: {reason:?}");
    bench.get(&bench.a("aac/96/00001.mp4"), "").expect(200);
}

#[test]
fn rapid_resets_end_the_connection() {
    let bench = Bench::open();
    let block = request_block(&bench.a("aac/96/00000.mp4"));
    bench.get(&bench.a("aac/96/00000.mp4"), "").expect(200);
    let before = resident_bytes();
    for batch in [1, 10, 10_000] {
        let mut raw = Raw::open(&bench, &[(4, 0)]); // no window: only heads of answers come back
        let mut streams = (0..10_000).map(|n| 2 * n + 1);
        loop {
            let pairs = streams.by_ref().take(batch).map(|stream| {
                [frame(HEADERS, END_HEADERS | END_STREAM, stream, &block), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])]
                    .concat()
            });
            let pairs = pairs.collect::<Vec<_>>().concat();
            if pairs.is_empty() || raw.try_write(&pairs).is_err() {
                break;
            }
        }
        let reason = raw.until(|f| f.kind == GOAWAY).map(|goaway| goaway.error());
        assert!(reason == Some(ENHANCE_YOUR_CALM) || batch == 10_000, "in batches of {batch}: {reason:?}");
        worn_out(&bench, "rapid reset", raw);
    }
    assert!(resident_bytes().saturating_sub(before) < 32 << 20);
}

#[test]
fn floods_of_control_frames_end_the_connection() {
    let bench = Bench::open();
    for (what, flood) in [
        ("ping", frame(PING, 0, 0, &[0; 8])),
        ("settings", frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])),
        ("priority", frame(2, 0, 1, &[0, 0, 0, 0, 1])),
        ("unknown", frame(0xee, 0, 0, b"x")),
        ("window updates", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
    ] {
        let mut raw = Raw::open(&bench, &[]);
        for _ in 0..30 {
            raw.write(&flood.repeat(100)); // within a second or so: time gives patience back
        }
        worn_out(&bench, what, raw);
    }
}

#[test]
fn a_head_that_is_too_large_is_refused_in_words() {
    let bench = Bench::open();
    let path = bench.a("aac/96/00001.mp4");
    let large = format!("X: {}\r\n", "x".repeat(20_000));
    let many = "X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n".repeat(400);
    let long = format!("{path}?{}", "x".repeat(20_000));
    for (path, lines, status) in [(&path, &*large, 431), (&path, &*many, 431), (&long, "", 414)] {
        let reply = ask_plain(&bench, "GET", path, lines).unwrap();
        assert_eq!(reply.status, status);
        assert_eq!(reply.header("cache-control"), Some("no-store"));
        assert!(reply.header("x-request-id").is_some() && reply.header("date").is_some() && !reply.body.is_empty());
    }
}

#[test]
fn floods_of_headers_end_in_a_refusal() {
    let bench = Bench::open();
    let path = bench.a("aac/96/00001.mp4");
    // Many small fields, one large one, and one that a table of one entry makes large (HPACK bomb).
    let bomb = [&b"\x40\x01x\x7f\x81\x1d"[..], &[b'a'; 3840], &[0xbe; 4000]].concat();
    let many = (0..700).flat_map(|_| *b"\x00\x01x\x14aaaaaaaaaaaaaaaaaaaa").collect::<Vec<u8>>();
    for (what, extra) in [("many", many), ("a bomb", bomb)] {
        let mut raw = Raw::open(&bench, &[]);
        let block = [request_block(&path), extra].concat();
        let mut parts = block.chunks(16 << 10).peekable();
        raw.frame(HEADERS, END_STREAM | if parts.len() == 1 { END_HEADERS } else { 0 }, 1, parts.next().unwrap());
        while let Some(part) = parts.next() {
            raw.frame(CONTINUATION, if parts.peek().is_none() { END_HEADERS } else { 0 }, 1, part);
        }
        let end = raw.until(|f| matches!(f.kind, HEADERS | RST_STREAM | GOAWAY)).expect(what);
        // 431 has no index in the static table: it is spelt out.
        assert!(end.kind != HEADERS || end.payload.windows(3).any(|w| w == b"431") || end.payload[0] != 0x88, "{what}");
    }
    let mut raw = Raw::open(&bench, &[]);
    raw.frame(HEADERS, END_STREAM, 1, &request_block(&path));
    let endless = (0..100_000).any(|_| raw.try_frame(CONTINUATION, 0, 1, b"").is_err());
    assert!(endless, "a header block without an end");
    worn_out(&bench, "continuation", raw);
}

#[test]
fn draining_finishes_started_streams_and_says_goodbye() {
    let mut bench = Bench::open();
    let path = bench.a("flac/00002.mp4");
    let whole = bench.published.segment("flac.mp4", 2).to_vec();
    let mut idle = Raw::open(&bench, &[]);
    idle.frame(HEADERS, END_HEADERS | END_STREAM, 1, &request_block(&bench.a("aac/96/00001.mp4")));
    assert_eq!(idle.body(1).len(), 3_000);
    let mut started = Raw::open(&bench, &[]);
    started.frame(HEADERS, END_HEADERS | END_STREAM, 1, &request_block(&path));
    let mut body = started.until(|f| f.kind == DATA).unwrap().payload;
    bench.trigger.as_ref().unwrap().advance(Phase::Draining);
    assert_eq!(idle.until(|f| f.kind == GOAWAY).expect("a goodbye").error(), 0);
    for stream in [0, 1] {
        started.frame(WINDOW_UPDATE, 0, stream, &(4u32 << 20).to_be_bytes());
    }
    body.extend(started.body(1));
    assert!(body == whole, "what had started is finished: {} of {}", body.len(), whole.len());
    drop((idle, started));
    bench.handle.take().unwrap().join().unwrap();
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    // Without what is shared: mapped files count as resident once they were looked at.
    let pages = |column| statm.split(' ').nth(column).unwrap().parse::<usize>().unwrap();
    (pages(1) - pages(2)) * 4096
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// GET, http, `path` and an authority, without HPACK's table (RFC 7541 §6.2.2).
fn request_block(path: &str) -> Vec<u8> {
    assert!(path.len() < 127);
    [&[0x82, 0x86, 0x01, 4][..], b"test", &[0x04, path.len() as u8], path.as_bytes()].concat()
}

/// A connection whose frames are made by hand.
struct Raw {
    stream: TcpStream,
}

#[derive(Debug)]
struct Seen {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Seen {
    /// The reason in a GOAWAY.
    fn error(&self) -> u32 {
        u32::from_be_bytes(self.payload[4..8].try_into().unwrap())
    }
}

impl Raw {
    /// Sends the preface and these settings.
    fn open(bench: &Bench, settings: &[(u16, u32)]) -> Raw {
        let mut raw = Raw { stream: bench.connect().stream };
        let settings: Vec<u8> =
            settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
        raw.write(&[PREFACE, &frame(SETTINGS, 0, 0, &settings)].concat());
        raw
    }

    fn write(&mut self, bytes: &[u8]) {
        let _ = self.try_write(bytes); // the server may have closed: what it says, or does not, tells
    }

    fn try_write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.write(&frame(kind, flags, stream, payload));
    }

    fn try_frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> std::io::Result<()> {
        self.try_write(&frame(kind, flags, stream, payload))
    }

    /// The next frame; `None` at the end of the connection.
    fn next(&mut self) -> Option<Seen> {
        let mut head = [0; 9];
        self.fill(&mut head)?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.fill(&mut payload)?;
        let stream = u32::from_be_bytes(head[5..9].try_into().unwrap());
        Some(Seen { kind: head[3], flags: head[4], stream, payload })
    }

    fn fill(&mut self, into: &mut [u8]) -> Option<()> {
        match self.stream.read_exact(into) {
            Ok(()) => Some(()),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("the server is silent"),
            Err(_) => None,
        }
    }

    /// The first frame that `wanted` wants, settings and pings being acknowledged on the way.
    fn until(&mut self, wanted: impl Fn(&Seen) -> bool) -> Option<Seen> {
        loop {
            let seen = self.next()?;
            if matches!(seen.kind, SETTINGS | PING) && seen.flags & 1 == 0 {
                let ack = if seen.kind == PING { &seen.payload[..] } else { &[] };
                self.frame(seen.kind, 1, 0, ack);
            }
            if wanted(&seen) {
                return Some(seen);
            }
        }
    }

    /// The body bytes of a stream that are still to come.
    fn body(&mut self, stream: u32) -> Vec<u8> {
        let mut body = vec![];
        loop {
            let seen = self.until(|f| f.stream == stream && matches!(f.kind, DATA | RST_STREAM)).expect("a body");
            assert_eq!(seen.kind, DATA, "{seen:?}");
            body.extend(&seen.payload);
            if seen.flags & END_STREAM != 0 {
                return body;
            }
        }
    }
}

/// One stream is fed now and then, the others never: the peer does not keep their places.
#[test]
fn feeding_one_stream_does_not_keep_the_others() {
    let bench = with_limits(Limits { streams_max: 50, ..impatient() });
    let path = bench.a("flac/00002.mp4");
    let mut raw = Raw::open(&bench, &[(4, 0)]);
    for stream in 0..50 {
        raw.frame(HEADERS, END_HEADERS | END_STREAM, 2 * stream + 1, &request_block(&path));
    }
    let feeding = std::time::Instant::now();
    let mut feeder = raw.stream.try_clone().unwrap();
    let fed = std::thread::spawn(move || {
        // As much as a single stream would be asked for, several times in each window of the watch.
        while feeding.elapsed() < Duration::from_secs(30) {
            let bytes = frame(WINDOW_UPDATE, 0, 1, &16_500u32.to_be_bytes());
            if std::io::Write::write_all(&mut feeder, &bytes).is_err() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        false
    });
    while raw.until(|f| f.kind == DATA).is_some() {}
    assert!(fed.join().unwrap(), "the connection has ended");
    bench.get(&bench.a("aac/96/00000.mp4"), "").expect(200);
}

#[test]
fn one_peer_has_only_so_many_answers_at_once() {
    let limits = Limits { streams_per_ip_max: 30, loopback_exempt: false, ..Limits::default() };
    let bench = with_limits(limits);
    let path = bench.a("flac/00002.mp4");
    let mut statuses = vec![];
    let mut peers: Vec<Raw> = (0..2).map(|_| Raw::open(&bench, &[(4, 0)])).collect();
    for raw in &mut peers {
        for stream in 0..20 {
            raw.frame(HEADERS, END_HEADERS | END_STREAM, 2 * stream + 1, &request_block(&path));
        }
        for _ in 0..20 {
            let answer = raw.until(|f| f.kind == HEADERS).expect("a head");
            // The static table's 200 is one byte; 503 is written out.
            statuses.push(answer.payload[0] == 0x88);
        }
    }
    assert_eq!(statuses.iter().filter(|ok| **ok).count(), 30, "{statuses:?}");
    drop(peers);
    let admitted = (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        let mut raw = Raw::open(&bench, &[]);
        raw.frame(HEADERS, END_HEADERS | END_STREAM, 1, &request_block(&path));
        raw.until(|f| f.kind == HEADERS).is_some_and(|f| f.payload[0] == 0x88)
    });
    assert!(admitted, "their places come back");
}
