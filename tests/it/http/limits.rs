//! Bounds: slow, greedy, crooked and impatient clients, and the end of the server.

use std::io::Write as _;
use std::time::Duration;

use segue::base::shutdown::Phase;
use segue::origin;
use segue::server::gate;
use segue::server::handover::{self, Message};
use segue::server::{Body, Limits};

use super::bench::{Bench, Client, Setup};
use crate::support::until;

/// Short deadlines, so that a test sees them pass.
pub(super) fn impatient() -> Limits {
    Limits {
        head_timeout: Duration::from_millis(500),
        idle_timeout: Duration::from_millis(750),
        park_after: Duration::from_millis(250),
        write_stall: Duration::from_millis(500),
        ..Limits::default()
    }
}

pub(super) fn with_limits(limits: Limits) -> Bench {
    Bench::with(Setup { limits, ..Setup::default() })
}

#[test]
fn long_request_lines_and_large_heads_are_refused_and_closed() {
    let bench = Bench::open();
    let path = bench.a("aac/96/00001.mp4");
    for (request, status) in [
        (format!("GET {path}?{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(9_000)), 414),
        (format!("GET {path} HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(20_000)), 431),
        (format!("GET {path} HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: y\r\n".repeat(200)), 431),
        (format!("GET {path} HTTP/1.1\r\nHost: x\r\nX: {}", "x".repeat(100_000)), 431),
        (format!("GET {path}?{}", "x".repeat(300_000)), 414),
    ] {
        let mut client = bench.connect();
        let reply = client.send(&request).reply(false).expect("an answer before the end");
        reply.expect(status);
        assert!(client.rest().is_empty(), "{status} and nothing more");
    }
}

/// Requests that two readers could take for different ones: what is wrong with them, and their lines.
const CROOKED: [(&str, &str); 14] = [
    ("length and chunks", "Host: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("chunks and length", "Host: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n"),
    ("two lengths", "Host: x\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcd"),
    ("a signed length", "Host: x\r\nContent-Length: +4\r\n\r\nabcd"),
    ("the same length twice", "Host: x\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nabcd"),
    ("a list of lengths", "Host: x\r\nContent-Length: 4, 4\r\n\r\nabcd"),
    ("a bad chunk", "Host: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n"),
    ("an unknown coding", "Host: x\r\nTransfer-Encoding: chunked, gzip\r\n\r\n"),
    ("a disguised coding", "Host: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
    ("no host", "\r\n"),
    ("two hosts", "Host: x\r\nHost: y\r\n\r\n"),
    ("a folded line", "Host: x\r\nX: a\r\n b\r\n\r\n"),
    ("a bare control character", "Host: x\r\nX: a\0b\r\n\r\n"),
    ("a space in the name", "Host: x\r\nX y: a\r\n\r\n"),
];

/// One refusal that every page may read, and then the end: what followed was not answered.
fn refused_and_closed(bench: &Bench, what: &str, first: &str, statuses: &[&str]) {
    let mut client = bench.connect();
    client.send(&format!("{first}GET {} HTTP/1.1\r\nHost: x\r\n\r\n", bench.a("aac/96/00001.mp4")));
    let answer = String::from_utf8_lossy(&client.rest()).into_owned();
    let refused = statuses.iter().any(|status| answer.starts_with(&format!("HTTP/1.1 {status} ")));
    assert!(refused, "{what}: {answer:?}");
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{what}: {answer}");
    let answer = answer.to_ascii_lowercase();
    for line in ["access-control-allow-origin: *", "cache-control: no-store", "connection: close"] {
        assert!(answer.contains(line), "{what} lacks {line}: {answer}");
    }
}

#[test]
fn crooked_requests_are_refused_and_end_the_connection() {
    let bench = Bench::open();
    let path = bench.a("aac/96/00001.mp4");
    for (what, lines) in CROOKED {
        refused_and_closed(&bench, what, &format!("GET {path} HTTP/1.1\r\n{lines}"), &["400"]);
    }
    for line in ["GET", "GET  / HTTP/1.1", "GET / HTTP/3", "get\t/ HTTP/1.1", "\u{16}\u{3}\u{1}"] {
        refused_and_closed(&bench, line, &format!("{line}\r\nHost: x\r\n\r\n"), &["400"]);
    }
    for method in ["CONNECT", "TRACE"] {
        let reply = bench.request(method, &path, "");
        assert_eq!(reply.expect(405).header("allow"), Some("GET, HEAD, OPTIONS"));
    }
}

#[test]
fn crooked_requests_for_the_control_plane_do_not_reach_it() {
    let (to_control, mut from_cores) = handover::channel(64);
    let bench = Bench::with(Setup { handover: Some(to_control), ..Setup::default() });
    for method in ["GET", "POST"] {
        for (what, lines) in CROOKED {
            refused_and_closed(&bench, what, &format!("{method} /api/x HTTP/1.1\r\n{lines}"), &["400", "411"]);
        }
        let chunks =
            format!("{method} /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n");
        refused_and_closed(&bench, "chunks", &chunks, &["411"]);
    }
    drop(bench);
    let control = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert!(control.block_on(from_cores.next()).is_none(), "nothing was handed over");
}

#[test]
fn a_body_that_does_not_come_is_an_error_for_whoever_reads_it() {
    let (to_control, mut from_cores) = handover::channel(64);
    let limits = Limits { body_stall: Duration::from_secs(2), ..impatient() };
    let bench = Bench::with(Setup { handover: Some(to_control), limits, ..Setup::default() });
    let control = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answering = std::thread::spawn(move || {
        control.block_on(async move {
            while let Some(Message { request, reply, .. }) = from_cores.next().await {
                let text = match http_body_util::BodyExt::collect(request.into_body()).await {
                    Ok(body) => format!("{} bytes", body.to_bytes().len()),
                    Err(cause) => cause.to_string(),
                };
                let boxed = Body::boxed(http_body_util::Full::new(bytes::Bytes::from(text)));
                let _ = reply.send(hyper::Response::new(boxed));
            }
        });
    });
    let post = "POST /api/x HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n";
    // Nothing at all, and a byte now and then: neither is sending.
    let mut silent = bench.connect();
    let mut dripping = bench.connect();
    silent.send(post);
    dripping.send(post);
    for _ in 0..8 {
        dripping.send("x");
        std::thread::sleep(Duration::from_millis(200));
    }
    for client in [&mut silent, &mut dripping] {
        let reply = client.reply(false).unwrap();
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        assert!(text.contains("fewer than 16 KiB"), "{text}");
        client.rest();
    }
    // Slow but steady: more than 16 KiB in every window, several of them long.
    let mut steady = bench.connect();
    steady.send(post);
    for _ in 0..5 {
        steady.send(&"x".repeat(20_000));
        std::thread::sleep(Duration::from_millis(700));
    }
    assert_eq!(steady.reply(false).unwrap().expect(200).body, b"100000 bytes");
    drop(bench);
    answering.join().unwrap();
}

#[test]
fn a_head_that_does_not_come_is_not_waited_for() {
    let bench = with_limits(impatient());
    let mut silent = bench.connect();
    assert!(silent.rest().is_empty());
    let mut slow = bench.connect();
    slow.send("GET / HTTP/1.1\r\nHost");
    assert!(String::from_utf8_lossy(&slow.rest()).starts_with("HTTP/1.1 408 "));
    // Every byte on time, the head never: it is the head that has a deadline.
    let mut dripping = bench.connect();
    dripping.stream.set_nodelay(true).unwrap();
    for byte in b"GET / HTTP/1.1\r\nX: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa".iter() {
        if dripping.stream.write_all(&[*byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    dripping.rest();
}

#[test]
fn an_idle_connection_is_parked_served_again_and_closed_in_the_end() {
    let patient = Duration::from_secs(5);
    let bench = with_limits(Limits { idle_timeout: patient, head_timeout: patient, ..impatient() });
    let path = bench.a("aac/96/00001.mp4");
    let mut client = bench.connect();
    client.request("GET", &path, "").expect(200);
    wait_for_idle(&bench, 1);
    client.request("GET", &path, "").expect(200);
    // Parked with the start of the next request already read.
    client.send(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\nGET {path} HT"));
    client.reply(false).unwrap().expect(200);
    std::thread::sleep(Duration::from_millis(400));
    client.send("TP/1.1\r\nHost: x\r\n\r\n");
    client.reply(false).unwrap().expect(200);
    assert!(client.rest().is_empty(), "closed when idle for too long");
}

/// Waits until so many connections are idle.
fn wait_for_idle(bench: &Bench, connections: u64) {
    let idle = || bench.handle.as_ref().unwrap().idle_connections();
    until(|| idle() == connections);
}

#[test]
fn of_an_idle_connection_only_the_socket_is_left_and_it_works_as_before() {
    let limits = Limits { idle_timeout: Duration::from_secs(60), ..impatient() };
    let bench = Bench::with(Setup { limits, cores: 2, ..Setup::default() });
    let path = bench.a("aac/96/00001.mp4");
    let mut clients: Vec<Client> = (0..300).map(|_| bench.connect()).collect();
    for client in &mut clients {
        client.request("GET", &path, "").expect(200);
    }
    wait_for_idle(&bench, 300);
    for (number, client) in clients.iter_mut().enumerate() {
        match number % 4 {
            0 => _ = client.request("GET", &path, "").expect(200),
            1 => _ = client.request("HEAD", &path, "X: y\r\n").expect(200), // hyper's
            2 => _ = client.request("GET", &path, "Range: bytes=0-9\r\n").expect(206),
            _ => _ = client.send("no request\r\n\r\n").reply(false).unwrap().expect(400),
        }
    }
    wait_for_idle(&bench, 225);
    clients.truncate(100); // they hang up
    wait_for_idle(&bench, 75);
}

#[test]
fn draining_ends_idle_connections_but_answers_what_they_have_asked() {
    let mut bench = with_limits(Limits { idle_timeout: Duration::from_secs(60), ..impatient() });
    let path = bench.a("aac/96/00001.mp4");
    let mut clients = [bench.connect(), bench.connect()];
    clients.iter_mut().for_each(|client| _ = client.request("GET", &path, "").expect(200));
    wait_for_idle(&bench, 2);
    let [mut asking, mut quiet] = clients;
    asking.send(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
    bench.trigger.as_ref().unwrap().advance(Phase::Draining);
    asking.reply(false).expect("an answer").expect(200);
    assert!(asking.rest().is_empty() && quiet.rest().is_empty(), "and then the end");
    bench.handle.take().unwrap().join().unwrap();
}

#[test]
fn idle_connections_end_when_their_time_is_up() {
    let bench = with_limits(impatient());
    let mut client = bench.connect();
    client.request("GET", &bench.a("aac/96/00001.mp4"), "").expect(200);
    wait_for_idle(&bench, 1);
    assert!(client.rest().is_empty());
    wait_for_idle(&bench, 0);
}

#[test]
fn a_client_that_never_reads_is_let_go_and_nobody_else_notices() {
    let bench = with_limits(impatient());
    let greedy: Vec<Client> = (0..20)
        .map(|_| {
            let mut client = bench.connect();
            let request = format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", bench.a("flac/00002.mp4"));
            client.send(&request.repeat(30));
            client
        })
        .collect();
    bench.get(&bench.a("aac/96/00000.mp4"), "").expect(200);
    for mut client in greedy {
        // Wait without reading: the server must end it on its own.
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        loop {
            match client.stream.write(b"x") {
                Err(_) => break,
                Ok(_) => assert!(std::time::Instant::now() < deadline, "still connected"),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        drop(client.rest());
    }
    bench.get(&bench.a("aac/96/00000.mp4"), "").expect(200);
}

/// A client whose kernel takes little for it.
fn with_small_window(bench: &Bench) -> Client {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    socket.connect(&bench.address.into()).unwrap();
    Client::from(std::net::TcpStream::from(socket))
}

/// Reads so many bytes every 50 ms until the end. How many came, and whether the server reset the connection.
fn read_at(stream: &mut std::net::TcpStream, bytes: usize) -> (usize, bool) {
    use std::io::Read as _;
    let mut part = vec![0; bytes];
    let mut sum = 0;
    loop {
        match stream.read(&mut part) {
            Ok(0) => return (sum, false),
            Ok(n) => sum += n,
            Err(cause) => {
                assert_eq!(cause.kind(), std::io::ErrorKind::ConnectionReset, "{cause}");
                return (sum, true);
            }
        }
        if let Some(cause) = stream.take_error().unwrap() {
            assert_eq!(cause.kind(), std::io::ErrorKind::ConnectionReset, "{cause}");
            return (sum, true); // what our own kernel still has could be read
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_client_that_takes_what_the_kernel_holds_too_slowly_is_let_go_and_a_slow_one_is_not() {
    let bench = with_limits(Limits {
        connections_max: 3,
        send_bytes_per_s_min: 8 << 10,
        send_window: Duration::from_secs(3), // a busy machine reads nothing for a while
        write_stall: Duration::from_secs(600), // everything fits into the send buffer
        ..impatient()
    });
    let path = bench.a("aac/96/00000.mp4");
    let size = super::bench::SEGMENT_BYTES;
    let request = |close: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n{close}\r\n");
    for close in ["", "Connection: close\r\n"] {
        let mut stuck = with_small_window(&bench);
        let mut slow = with_small_window(&bench);
        stuck.send(&request(close));
        slow.send(&request(close));
        // 200 bytes a second: below the bound. 80 KiB: above it, and longer than the connection may be idle.
        let trickle = std::thread::spawn(move || read_at(&mut stuck.stream, 10));
        let (came, reset) = read_at(&mut slow.stream, 4 << 10);
        assert!(came > size && !reset, "{close:?}: {came} of {size}, then {reset}");
        let (came, reset) = trickle.join().unwrap();
        assert!(came < size && reset, "{close:?}: {came} of {size}");
    }
    // Their places are free again.
    until(|| {
        let mut all = [bench.connect(), bench.connect(), bench.connect()];
        all.iter_mut().all(|client| client.request("GET", &bench.a("aac/96/00001.mp4"), "").status == 200)
    });
}

#[test]
fn a_client_that_leaves_in_the_middle_gives_its_place_back() {
    // What it did not take is not waited for: neither what came before its reset nor what the kernel had.
    let bench = with_limits(Limits { connections_max: 4, send_window: Duration::from_secs(600), ..Limits::default() });
    let path = bench.a("flac/00002.mp4");
    for _ in 0..3 {
        let mut leavers: Vec<_> = (0..4).map(|_| with_small_window(&bench)).collect();
        for (number, client) in leavers.iter_mut().enumerate() {
            let close = if number % 2 == 0 { "" } else { "Connection: close\r\n" };
            client.send(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n{close}\r\n"));
            client.stream.peek(&mut [0; 1]).unwrap();
        }
        drop(leavers); // unread bytes: their kernel resets
        until(|| {
            let mut all: Vec<_> = (0..4).map(|_| bench.connect()).collect();
            all.iter_mut().all(|client| client.request("GET", &bench.a("aac/96/00001.mp4"), "").status == 200)
        });
    }
}

#[test]
fn one_connection_too_many_hears_so_at_once() {
    for limits in [
        Limits { connections_max: 2, ..Limits::default() },
        Limits { connections_per_ip_max: 2, loopback_exempt: false, ..Limits::default() },
    ] {
        let bench = with_limits(limits);
        let path = bench.a("aac/96/00001.mp4");
        let mut inside = [bench.connect(), bench.connect()];
        inside.iter_mut().for_each(|client| _ = client.request("GET", &path, "").expect(200));
        let reply = bench.get(&path, "");
        reply.expect(503);
        assert_eq!(reply.header("retry-after"), Some("1"));
        assert_eq!(
            (reply.header("cache-control"), reply.header("x-content-type-options")),
            (Some("no-store"), Some("nosniff"))
        );
        assert!(reply.header("date").is_some() && reply.header("x-request-id").is_some());
        let [first, _second] = inside;
        drop(first);
        let admitted = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            bench.get(&path, "").status == 200
        });
        assert!(admitted, "a place that was given back is given out again");
    }
}

#[test]
fn answers_on_their_way_are_bounded() {
    for limits in [
        gate::Limits { requests_max: 1, ..gate::Limits::default() },
        gate::Limits { bytes_max: 1, ..gate::Limits::default() },
    ] {
        let origin = origin::Options { require_token: false, gate: limits, ..origin::Options::default() };
        let bench = Bench::with(Setup { origin, ..Setup::default() });
        let mut greedy = bench.connect();
        // More than both socket buffers hold, not read: a permit that stays out.
        let request = format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", bench.a("flac/00002.mp4"));
        greedy.send(&request.repeat(20));
        let refused = (0..100).find_map(|_| {
            std::thread::sleep(Duration::from_millis(20));
            let reply = bench.get(&bench.a("aac/96/00000.mp4"), "");
            (reply.status == 503).then_some(reply)
        });
        let refused = refused.expect("the gate fills");
        assert_eq!(refused.header("retry-after"), Some("1"));
        assert_eq!(refused.header("cache-control"), Some("no-store"));
        drop(greedy);
        let admitted = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            bench.get(&bench.a("aac/96/00000.mp4"), "").status == 200
        });
        assert!(admitted, "the permit comes back with the connection");
    }
}

#[test]
fn draining_finishes_what_has_started_and_ends_what_is_idle() {
    let mut bench = Bench::with(Setup { cores: 2, ..Setup::default() });
    let path = bench.a("flac/00002.mp4");
    let mut idle = bench.connect();
    idle.request("GET", &bench.a("aac/96/00001.mp4"), "").expect(200);
    let mut fresh = bench.connect();
    let mut started = bench.connect();
    // Several bodies, more than the socket holds, of which we have read nothing yet.
    started.send(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
    let mut first = [0; 1];
    assert_eq!(started.stream.peek(&mut first).unwrap(), 1, "its answer has begun");
    bench.trigger.as_ref().unwrap().advance(Phase::Draining);
    assert!(idle.rest().is_empty());
    assert!(fresh.rest().is_empty());
    let reply = started.reply(false).expect("the whole body");
    assert!(reply.expect(200).body == bench.published.segment("flac.mp4", 2));
    assert!(started.rest().is_empty(), "and then the end");
    drop(started);
    bench.handle.take().unwrap().join().unwrap();
    assert!(std::net::TcpStream::connect(bench.address).is_err(), "nobody listens any more");
}

#[test]
fn draining_has_a_deadline_and_now_means_now() {
    for (phase, drain) in [(Phase::Draining, Duration::from_millis(300)), (Phase::Now, Duration::from_secs(600))] {
        let mut bench = with_limits(Limits { drain, ..Limits::default() });
        let mut stuck = bench.connect();
        let request = format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", bench.a("flac/00002.mp4"));
        stuck.send(&request.repeat(20));
        let mut first = [0; 1];
        stuck.stream.peek(&mut first).unwrap();
        bench.trigger.as_ref().unwrap().advance(phase);
        bench.handle.take().unwrap().join().unwrap();
    }
}

#[test]
fn what_is_not_media_is_handed_over_or_not_found() {
    Bench::open().get("/tracks/1", "").expect(404);

    let (to_control, mut from_cores) = handover::channel(1);
    let bench = Bench::with(Setup { handover: Some(to_control), ..Setup::default() });
    // Nobody takes it yet: the first waits in the channel, the second hears so.
    let mut waiting = bench.connect();
    waiting.send("POST /api/v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello");
    let refused = (0..100).find_map(|_| {
        std::thread::sleep(Duration::from_millis(10));
        let mut second = bench.connect();
        second.stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        second.send("GET /x HTTP/1.1\r\nHost: x\r\n\r\n").reply(false)
    });
    refused.unwrap().expect(503);

    let control = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answered = std::thread::spawn(move || {
        control.block_on(async move {
            while let Some(Message { request, peer, reply }) = from_cores.next().await {
                assert!(peer.ip().is_loopback());
                let path = request.uri().path().to_owned();
                let body = http_body_util::BodyExt::collect(request.into_body()).await.unwrap().to_bytes();
                let text = format!("{path} {}", String::from_utf8_lossy(&body));
                let boxed = Body::boxed(http_body_util::Full::new(bytes::Bytes::from(text)));
                let _ = reply.send(hyper::Response::new(boxed));
            }
        });
    });
    assert_eq!(waiting.reply(false).unwrap().expect(200).body, b"/api/v1/echo hello");
    assert_eq!(bench.get("/livez", "").expect(200).body, b"/livez ");
    drop(bench); // the last core has ended: so does the receiver
    answered.join().unwrap();
}
