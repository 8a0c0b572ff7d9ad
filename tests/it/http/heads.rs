//! Request heads that are not what they seem: versions, lengths, fragments, hosts.

use std::net::Shutdown;

use segue::server::handover::{self, Message};
use segue::server::{Body, Limits};

use super::bench::{Bench, Client, Reply, Setup};
use super::limits::{impatient, with_limits};

/// One answer that no cache keeps and every page may read, with a short text, and the end of the connection.
#[track_caller]
fn expect_last(client: &mut Client, status: u16, what: &str) -> Reply {
    let reply = client.reply(false).unwrap_or_else(|| panic!("{what}: no answer"));
    assert_eq!(reply.status, status, "{what}");
    for (name, value) in [
        ("connection", "close"),
        ("cache-control", "no-store"),
        ("content-type", "text/plain; charset=utf-8"),
        ("access-control-allow-origin", "*"),
        ("x-content-type-options", "nosniff"),
    ] {
        assert_eq!(reply.header(name), Some(value), "{what}: {name}");
    }
    assert!((5..60).contains(&reply.body.len()), "{what}: {:?}", String::from_utf8_lossy(&reply.body));
    assert!(client.rest().is_empty(), "{what}: nothing follows");
    reply
}

fn said(bench: &Bench, text: &str) -> Client {
    let mut client = bench.connect();
    client.send(text);
    client
}

#[test]
fn a_later_minor_version_is_answered_and_another_major_version_is_505() {
    let bench = Bench::open();
    let path = bench.a("aac/96/00001.mp4");
    let expected = bench.published.segment("aac-96.mp4", 1);
    let get = |version: &str| format!("GET {path} {version}\r\nHost: x\r\n\r\n");
    // RFC 9110 §2.5: "A recipient that receives a message with a major version number that it implements and a
    // minor version number higher than what it implements SHOULD process the message as if it was in the highest
    // minor version within that major version to which the recipient is conformant."
    let mut client = said(&bench, &get("HTTP/1.2"));
    assert_eq!(client.reply(false).unwrap().expect(200).body, expected);
    for version in ["HTTP/1.9", "HTTP/1.1", "HTTP/1.3"] {
        client.send(&get(version));
        assert_eq!(client.reply(false).unwrap().expect(200).body, expected, "{version} on the same connection");
    }
    // In pieces, and behind another request.
    let mut slow = bench.connect();
    slow.stream.set_nodelay(true).unwrap();
    for piece in [&get("HTTP/1.1"), "GET ", &path, " HTTP/1", ".", "2", "\r", "\nHost: x\r\n", "\r\n"] {
        slow.send(piece);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    for _ in 0..2 {
        assert_eq!(slow.reply(false).unwrap().expect(200).body, expected);
    }
    // §15.6.6: "The 505 (HTTP Version Not Supported) status code indicates that the server does not support, or
    // refuses to support, the major version of HTTP that was used in the request message."
    for version in ["HTTP/2.0", "HTTP/3.0", "HTTP/0.9", "HTTP/9.9"] {
        expect_last(&mut said(&bench, &format!("{}{}", get(version), get("HTTP/1.1"))), 505, version);
        let mut second = said(&bench, &get("HTTP/1.1"));
        second.reply(false).unwrap().expect(200);
        second.send(&get(version));
        expect_last(&mut second, 505, version);
    }
    for version in ["HTTP/1", "HTTP/1.10", "http/1.1", "HTTP/11", "HTTP/a.b", "HTTPS/1.1"] {
        expect_last(&mut said(&bench, &get(version)), 400, version);
    }
}

#[test]
fn a_body_behind_a_refused_head_is_never_taken_for_a_request() {
    let bench = Bench::open();
    let path = bench.a("aac/96/00001.mp4");
    let inside = format!("GET {path} HTTP/1.2\r\nHost: x\r\n\r\n");
    for lines in ["Content-Length: 4, 5\r\n", "Content-Length: -1\r\n", "Content-Length: 18446744073709551614\r\n"] {
        let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n");
        expect_last(&mut said(&bench, &format!("{head}{inside}")), 400, lines);
    }
}

#[test]
fn only_the_exact_preface_begins_http_2() {
    let bench = Bench::open();
    let path = bench.a("aac/96/00001.mp4");
    // RFC 9110 §9.1: a method that is not known is 501; it is a request like any other.
    for line in [format!("PRI {path} HTTP/1.1"), "PRI /x HTTP/1.1".into()] {
        let mut client = said(&bench, &format!("{line}\r\nHost: x\r\n\r\n"));
        let status = client.reply(false).unwrap_or_else(|| panic!("{line}: an answer in HTTP/1.1")).status;
        assert_eq!(status, if line.contains("/x") { 404 } else { 501 }, "{line}");
    }
    // RFC 9113 §3.4: all 24 bytes are the preface. Less is a request in a version that is not spoken so.
    for other in ["PRI * HTTP/2.0\r\nHost: x\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\rX"] {
        expect_last(&mut said(&bench, other), 505, other);
    }
    // The whole of it in pieces of a byte, and our SETTINGS come back.
    let mut whole = bench.connect();
    whole.stream.set_nodelay(true).unwrap();
    for byte in "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".chars() {
        whole.send(&byte.to_string());
    }
    whole.stream.shutdown(Shutdown::Write).unwrap();
    let answer = whole.rest();
    assert_eq!(answer.get(3), Some(&4), "a SETTINGS frame: {answer:?}");
}

#[test]
fn lengths_that_come_twice_or_beyond_counting_are_refused_wherever_they_stand() {
    let bench = Bench::open();
    let path = bench.a("aac/96/00001.mp4");
    let good = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    // RFC 9110 §8.6: of a list of identical values a recipient "MUST either reject the message as invalid or
    // replace the duplicated field values with a single valid Content-Length"; we reject, in both spellings.
    // "any Content-Length field value greater than or equal to zero is valid", but a recipient must "prevent
    // parsing errors due to integer conversion overflows": what nobody can count is invalid here.
    for lines in [
        "Content-Length: 5, 5",
        "Content-Length: 5\r\nContent-Length: 5",
        "content-length:5\r\nX: y\r\nCONTENT-LENGTH:  5",
        "Content-Length: 0\r\nContent-Length: 0",
        "Content-Length: 18446744073709551613\r\nContent-Length: 18446744073709551613",
        "Content-Length: 18446744073709551614",
        "Content-Length: 18446744073709551615",
        "Content-Length: 18446744073709551616",
        "Content-Length: 99999999999999999999999999",
    ] {
        for method in ["GET", "POST"] {
            for target in [path.as_str(), "/api/x"] {
                let head = format!("{method} {target} HTTP/1.1\r\nHost: x\r\n{lines}\r\n\r\n");
                expect_last(&mut said(&bench, &format!("{head}hello{good}")), 400, lines);
                let mut behind = said(&bench, &format!("{good}{head}hello{good}"));
                behind.reply(false).unwrap().expect(200);
                expect_last(&mut behind, 400, lines);
            }
        }
    }
    // One of them is as good as none when it is nothing.
    let mut once = said(&bench, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n{good}"));
    for _ in 0..2 {
        once.reply(false).unwrap().expect(200);
    }
}

#[test]
fn targets_with_a_fragment_or_of_another_scheme_are_refused() {
    let bench = Bench::open();
    let path = bench.a("aac/96/00001.mp4");
    // RFC 9112 §3.2.1: origin-form is absolute-path [ "?" query ]; a fragment never leaves the client (RFC 9110
    // §7.1: "excluding any fragment").
    let bad = [
        format!("{path}#x"),
        format!("{path}?a#x"),
        format!("{path}#"),
        format!("http://x{path}#x"),
        "/tracks/1#x".into(),
        format!("ftp://x{path}"),
        format!("ws://x{path}"),
        format!("http://user@x{path}"),
        format!("http://[x]{path}"),
        format!("http://a$b@c{path}"),
        "ftp://x/tracks/1".into(),
        "http://user@x/tracks/1".into(),
    ];
    for target in &bad {
        for method in ["GET", "HEAD", "OPTIONS"] {
            let mut client = said(&bench, &format!("{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n"));
            let reply = client.reply(method == "HEAD").unwrap();
            assert_eq!((reply.status, reply.header("connection")), (400, Some("close")), "{method} {target}");
            assert!(client.rest().is_empty(), "{target}");
        }
    }
    for target in [format!("HTTP://elsewhere:80{path}"), format!("https://[2001:db8::1]{path}")] {
        bench.get(&target, "").expect(200);
    }
}

/// A control plane that answers with the Host it was asked for.
fn host_seen(bench: Setup, ask: impl FnOnce(&Bench)) {
    let (to_control, mut from_cores) = handover::channel(64);
    let bench = Bench::with(Setup { handover: Some(to_control), ..bench });
    let control = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let answering = std::thread::spawn(move || {
        control.block_on(async move {
            while let Some(Message { request, reply, .. }) = from_cores.next().await {
                let host = request.headers().get("host").map(|host| host.as_bytes().to_vec()).unwrap_or_default();
                let _ = reply.send(hyper::Response::new(Body::bytes(host)));
            }
        });
    });
    ask(&bench);
    drop(bench);
    answering.join().unwrap();
}

#[test]
fn a_host_is_checked_on_every_route_and_the_one_in_the_target_counts() {
    host_seen(Setup::default(), |bench| {
        let media = bench.a("aac/96/00001.mp4");
        // RFC 9112 §3.2: "A server MUST respond with a 400 (Bad Request) status code to any HTTP/1.1 request
        // message that lacks a Host header field and to any request message that contains more than one Host header
        // field line or a Host header field with an invalid field value."
        for host in ["a b", "x/y", "u@x", "x:80:80", "[::1", "x?y", "http://x", "<x>"] {
            for target in [media.as_str(), "/tracks/1/master.m3u8", "/", "/api/v1/x", "http://good/tracks/1"] {
                expect_last(&mut said(bench, &format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")), 400, host);
            }
        }
        let seen = |target: &str, lines: &str| {
            let mut client = said(bench, &format!("GET {target} HTTP/1.1\r\n{lines}\r\n"));
            String::from_utf8(client.reply(false).unwrap().expect(200).body.clone()).unwrap()
        };
        assert_eq!(seen("/tracks/1", "Host: said:80\r\n"), "said:80");
        // §3.2.2: "the origin server MUST ignore the received Host header field (if any) and instead use the host
        // information of the request-target."
        assert_eq!(seen("http://named:8080/tracks/1", "Host: said\r\n"), "named:8080");
        let mut none = said(bench, "GET http://named/tracks/1 HTTP/1.1\r\n\r\n");
        none.reply(false).unwrap().expect(400);
    });
}

#[test]
fn a_head_that_does_not_come_is_told_so_in_a_short_text() {
    let bench = with_limits(Limits { ..impatient() });
    // RFC 9110 §15.5.9: 408, and "the server SHOULD send the close connection option".
    for begun in
        ["GET / HTTP/1.1\r\nHost", "GET /a HTTP/1.2\r\nHos", "POST /a HTTP/1.1\r\nX: y\r\n", "PRI * HTTP/2.0\r\n"]
    {
        let reply = expect_last(&mut said(&bench, begun), 408, begun);
        assert_eq!(reply.body, b"request timeout\n");
    }
}

#[test]
fn every_refusal_of_a_request_has_a_name() {
    let bench = Bench::open();
    let media = bench.a("aac/96/00001.mp4");
    for (target, lines, status) in [
        (media.as_str(), "If-Match: \"x\"\r\n", 412),
        (&media, "Host: y\r\n", 400),
        (&media, "Transfer-Encoding: chunked\r\n", 400),
        (&format!("{media}?{}", "x".repeat(9_000)), "", 414),
        ("/tracks/1", "", 404),
        ("/a/nonsense", "", 404),
    ] {
        let reply = bench.get(target, lines);
        assert_eq!(reply.status, status, "{lines}");
        let made = reply.header("x-request-id").unwrap_or_else(|| panic!("{status}: no id"));
        assert_eq!(made.len(), 16, "{status}");
        let given = bench.get(target, &format!("CDN-RequestId: abc\r\n{lines}"));
        assert_eq!(given.header("x-request-id"), Some("abc"), "{status}");
    }
}
