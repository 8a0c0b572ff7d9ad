//! Two ways to the same answer: a plain request is answered without hyper, any other through it.

use super::bench::{Bench, Reply, Setup};

/// A field no service knows: a request with it is not plain.
const LONG_WAY: &str = "Unheard-Of: 1\r\n";

/// Asks both ways; says whether the first was answered without hyper.
fn ask(bench: &Bench, path: &str, lines: &str) -> (Reply, Reply, bool) {
    let plain = || bench.handle.as_ref().unwrap().socket_bytes().plain;
    let before = plain();
    let short = bench.get(path, lines);
    let between = plain();
    let long = bench.get(path, &format!("{lines}{LONG_WAY}"));
    assert_eq!(plain(), between, "{path} {lines:?}: what is not known is hyper's");
    (short, long, between > before)
}

/// Status, fields without Date, body.
fn comparable(reply: &Reply) -> (u16, Vec<&(String, String)>, &[u8]) {
    let mut fields: Vec<_> =
        reply.headers.iter().filter(|(name, _)| name != "date" && name != "x-request-id").collect();
    fields.sort();
    (reply.status, fields, &reply.body)
}

#[test]
fn both_ways_give_the_same_answer_and_only_hits_are_short() {
    let bench = Bench::open();
    let etag = bench.get(&bench.a("aac/96/00000.mp4"), "").header("etag").unwrap().to_owned();
    for rest in ["aac/96/index.m3u8", "master.m3u8"] {
        for coding in ["gzip", "br, gzip;q=0.5", "identity", "*;q=0", "nonsense;;"] {
            for range in ["", "Range: bytes=3-9\r\n"] {
                let lines = format!("Accept-Encoding: {coding}\r\n{range}");
                let (short, long, was_short) = ask(&bench, &bench.a(rest), &lines);
                assert_eq!(comparable(&short), comparable(&long), "{rest} {lines:?}");
                assert!(was_short, "{rest} {lines:?}");
                let again = format!("If-None-Match: {}\r\n{lines}", short.header("etag").unwrap());
                let (short, long, _) = ask(&bench, &bench.a(rest), &again);
                assert_eq!(comparable(&short), comparable(&long), "{rest} {again:?}");
                assert_eq!(short.status, 304);
            }
        }
    }
    let peaks = bench.published.path("w", "peaks.bin");
    let paths = ["aac/96/00000.mp4", "aac/96/00001.mp4", "aac/96/init.mp4", "aac/96/index.m3u8", "aac/master.m3u8"];
    let paths = paths.map(|rest| bench.a(rest));
    for path in paths.iter().chain([&peaks, &bench.published.path("d", "flac.mp4")]) {
        for lines in
            ["", "Range: bytes=0-99\r\n", "Range: bytes=-5\r\n", "Range: bytes=1-2,4-5\r\n", "Range: items=1\r\n"]
        {
            let (short, long, was_short) = ask(&bench, path, lines);
            assert_eq!(comparable(&short), comparable(&long), "{path} {lines:?}");
            assert!(short.header("date").unwrap().ends_with(" GMT"));
            // The FLAC file is longer than a frame: as a whole it is hyper's.
            assert_eq!(was_short, short.body.len() <= 1 << 20, "{path} {lines:?}");
        }
    }
    let refused =
        ["If-None-Match: \"x\"\r\n", "If-None-Match: *\r\n", "Range: bytes=999999999-\r\n", "Range: bytes=-0\r\n"];
    let known = [format!("If-None-Match: {etag}\r\n"), format!("If-None-Match: {etag}\r\nRange: bytes=0-1\r\n")];
    for (lines, expected) in
        known.iter().map(String::as_str).zip([true, false]).chain(refused.map(|lines| (lines, false)))
    {
        let (short, long, was_short) = ask(&bench, &paths[0], lines);
        assert_eq!(comparable(&short), comparable(&long), "{lines:?}");
        assert_eq!(was_short, expected, "{lines:?}");
    }
    for path in ["aac/96/00009.mp4", "aac/97/00000.mp4", "aac/96/00000.mp4/", "../x"] {
        let (short, long, was_short) = ask(&bench, &bench.a(path), "");
        assert_eq!(comparable(&short), comparable(&long), "{path}");
        assert!(!was_short, "{path}");
    }
}

#[test]
fn a_token_is_checked_on_the_short_way_too() {
    let mut setup = Setup::default();
    setup.origin.require_token = true;
    let bench = Bench::with(setup);
    let path = bench.a("aac/96/00001.mp4");
    let signed = bench.signed(&bench.a("aac/"), &path);
    bench.get(&signed, "").expect(200);
    let (short, long, was_short) = ask(&bench, &signed, "");
    assert_eq!(comparable(&short), comparable(&long));
    assert_eq!((short.status, was_short), (200, true));
    let flac = bench.signed(&bench.a("aac/"), &bench.a("flac/00001.mp4"));
    let forged = signed.replacen("HS256-", "HS256-A", 1);
    for path in [&path, &flac, &forged] {
        let (short, _, was_short) = ask(&bench, path, "");
        assert_eq!((short.status, was_short), (403, false));
    }
    bench.clock.advance(61);
    let (short, _, was_short) = ask(&bench, &signed, "");
    assert_eq!((short.status, was_short), (403, false), "expired");
}

#[test]
fn a_connection_may_change_ways_between_requests_and_read_slowly() {
    let bench = Bench::open();
    let (path, expected) = (bench.a("aac/96/00002.mp4"), bench.published.segment("aac-96.mp4", 2));
    let mut client = bench.connect();
    for round in 0..6 {
        let lines = if round % 3 == 1 { LONG_WAY } else { "Range: bytes=0-999999\r\n" };
        let reply = client.request("GET", &path, lines);
        assert_eq!(reply.body, expected[..reply.body.len()], "{round}");
        assert_eq!(reply.status, if round % 3 == 1 { 200 } else { 206 });
    }
    // Nothing is read until all has been asked: the socket fills, the rest leaves later, in order.
    let mut slow = bench.connect();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nRange: bytes=0-1048575\r\n\r\n");
    slow.send(&request);
    std::thread::sleep(std::time::Duration::from_millis(50));
    slow.send(&request.repeat(8));
    for _ in 0..9 {
        assert_eq!(slow.reply(false).unwrap().expect(206).body, expected[..1 << 20]);
    }
    // Half a head, then the other half.
    let mut halves = bench.connect();
    let (first, second) = request.split_at(30);
    halves.send(first);
    std::thread::sleep(std::time::Duration::from_millis(50));
    halves.send(second);
    assert_eq!(halves.reply(false).unwrap().expect(206).body, expected[..1 << 20]);
}

#[test]
fn what_hyper_reads_in_another_way_is_hypers() {
    let bench = Bench::open();
    let path = bench.a("aac/96/00001.mp4");
    bench.get(&path, "").expect(200);
    // RFC 9112 §3.2: "A server MUST respond with a 400 (Bad Request) status code to any request message … with
    // an invalid field value" of Host.
    for host in ["a b", "x/y", "a@b", "x:80:80", "x:+80", "x?y", "[::1", "<x>", "x:99999999"] {
        let mut client = bench.connect();
        client.send(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(client.reply(false).unwrap().status, 400, "{host}");
    }
    // RFC 9112 §2.2: a recipient may take a line feed alone for the end of a line; hyper does.
    let mut bare = bench.connect();
    bare.send(&format!("GET {path} HTTP/1.1\nHost: x\n\n"));
    bare.reply(false).unwrap().expect(200);
    // A refusal behind an answer is ours, too, not hyper's bare one.
    let mut second = bench.connect();
    second.send(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\nJUNK\r\n\r\n"));
    second.reply(false).unwrap().expect(200);
    assert_eq!(second.reply(false).unwrap().expect(400).header("cache-control"), Some("no-store"));
    // A body that nobody reads ends the connection, and the answer says so.
    let mut late = bench.connect();
    late.send(&format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"));
    assert_eq!(late.reply(false).unwrap().expect(405).header("connection"), Some("close"));
}

#[test]
fn a_head_that_has_begun_is_answered_although_the_server_is_to_stop() {
    use segue::base::shutdown::Phase;
    let bench = Bench::open();
    let path = bench.a("aac/96/00001.mp4");
    for lines in ["", LONG_WAY] {
        bench.get(&path, lines).expect(200);
    }
    let request = |lines: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n");
    let mut clients = ["", LONG_WAY].map(|lines| {
        let mut client = bench.connect();
        client.request("GET", &path, "").expect(200);
        let whole = request(lines);
        client.send(&whole[..40]);
        (client, whole[40..].to_owned())
    });
    std::thread::sleep(std::time::Duration::from_secs(1)); // what was sent is heard by then
    bench.trigger.as_ref().unwrap().advance(Phase::Draining);
    std::thread::sleep(std::time::Duration::from_millis(300));
    for (client, rest) in &mut clients {
        client.send(rest);
        client.reply(false).expect("the request had started").expect(200);
    }
}
