//! Objects and their headers, methods, ranges, and how bytes leave.

use segue::server::{IoMode, SocketBytes};

use super::bench::{Bench, SEGMENT_BYTES, Setup, TRACK};

/// Every object of the version with its bytes and type.
fn objects(bench: &Bench) -> Vec<(String, Vec<u8>, &'static str)> {
    let p = &bench.published;
    let a = |rest: &str| p.path("a", rest);
    let mut all = vec![];
    for (rung, file) in [("aac/96", "aac-96.mp4"), ("aac/256", "aac-256.mp4"), ("flac", "flac.mp4")] {
        all.push((a(&format!("{rung}/init.mp4")), p.files[file][..700].to_vec(), "audio/mp4"));
        for number in 0..3 {
            let path = a(&format!("{rung}/{number:05}.mp4"));
            all.push((path, p.segment(file, number).to_vec(), "audio/mp4"));
        }
        all.push((p.path("d", file), p.files[file].clone(), "audio/mp4"));
    }
    all.push((p.path("p", "preview.m4a"), p.files["preview.m4a"].clone(), "audio/mp4"));
    all.push((p.path("w", "peaks.bin"), p.files["peaks.bin"].clone(), "application/octet-stream"));
    all.push((p.path("w", "peaks.json"), p.files["peaks.json"].clone(), "application/json"));
    all
}

fn every_object_comes_whole_and_exact(io: IoMode) {
    let bench = Bench::with(Setup { io, ..Setup::default() });
    let mut client = bench.connect();
    for (path, bytes, media) in objects(&bench) {
        let reply = client.request("GET", &path, "");
        reply.expect(200);
        assert!(reply.body == bytes, "{path}");
        assert_eq!(reply.header("content-type"), Some(media), "{path}");
    }
}

#[test]
fn every_object_comes_whole_and_exact_on_threads() {
    every_object_comes_whole_and_exact(IoMode::Plain);
}

#[test]
fn every_object_comes_whole_and_exact_on_whatever_the_machine_offers() {
    every_object_comes_whole_and_exact(IoMode::Auto);
}

#[test]
fn playlists_are_text_that_names_relative_children_which_exist() {
    let bench = Bench::open();
    let mut seen = 0;
    for master in ["master.m3u8", "aac/master.m3u8", "flac/master.m3u8"] {
        let reply = bench.get(&bench.a(master), "");
        reply.expect(200);
        assert_eq!(reply.header("content-type"), Some("application/vnd.apple.mpegurl"));
        let text = String::from_utf8(reply.body).unwrap();
        assert!(text.starts_with("#EXTM3U"), "{text}");
        let base = master.rsplit_once('/').map_or(String::new(), |(directory, _)| format!("{directory}/"));
        for child in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let media = bench.get(&bench.a(&format!("{base}{child}")), "");
            media.expect(200);
            assert!(String::from_utf8(media.body).unwrap().contains("00002.mp4"));
            seen += 1;
        }
    }
    assert_eq!(seen, 6, "three rungs, each in two playlists");
}

#[test]
fn a_segment_carries_every_header_that_caches_and_players_rely_on() {
    let bench = Bench::open();
    let reply = bench.get(&bench.a("aac/96/00000.mp4"), "");
    let rung = &bench.published.index.rungs[0];
    let etag = format!("\"{}\"", segue::base::hex::encode(&rung.segments[0].hash));
    for (name, value) in [
        ("content-length", "204800"),
        ("accept-ranges", "bytes"),
        ("etag", &etag),
        ("cache-control", "public, max-age=31536000, immutable"),
        ("cdn-tag", TRACK),
        ("access-control-allow-origin", "*"),
        ("timing-allow-origin", "*"),
        ("cross-origin-resource-policy", "cross-origin"),
        ("x-content-type-options", "nosniff"),
    ] {
        assert_eq!(reply.header(name), Some(value), "{name}");
    }
    for name in ["Content-Length", "Content-Range", "ETag", "Server-Timing", "Date"] {
        assert!(reply.header("access-control-expose-headers").unwrap().contains(name), "{name}");
    }
    assert!(reply.header("server-timing").unwrap().contains("miss"), "the first request opens the version");
    let modified = httpdate::parse_http_date(reply.header("last-modified").unwrap()).unwrap();
    let now = httpdate::parse_http_date(reply.header("date").unwrap()).unwrap();
    assert!(modified <= now);
    for never in ["set-cookie", "vary", "transfer-encoding", "content-encoding", "content-range"] {
        assert_eq!(reply.header(never), None);
    }
    let again = bench.get(&bench.a("aac/96/00000.mp4"), "");
    assert_eq!(again.header("server-timing"), None, "a hit has nothing to explain");
}

#[test]
fn a_range_is_a_part_of_the_same_representation() {
    let bench = Bench::open();
    let path = bench.a("aac/96/00000.mp4");
    let whole = bench.get(&path, "");
    let check = |range: &str, start: usize, end: usize| {
        let part = bench.get(&path, &format!("Range: {range}\r\n"));
        part.expect(206);
        assert!(part.body == whole.body[start..end], "{range}");
        let expected = format!("bytes {start}-{}/{SEGMENT_BYTES}", end - 1);
        assert_eq!(part.header("content-range"), Some(expected.as_str()));
        for same in ["etag", "last-modified", "cache-control", "cdn-tag", "content-type", "accept-ranges"] {
            assert_eq!(part.header(same), whole.header(same), "{same}");
        }
    };
    check("bytes=0-0", 0, 1);
    check("bytes=0-", 0, SEGMENT_BYTES);
    check("bytes=100-50000", 100, 50_001);
    check("bytes=-5", SEGMENT_BYTES - 5, SEGMENT_BYTES);
    check("bytes=-999999999", 0, SEGMENT_BYTES);
    check("bytes=5000-18446744073709551615", 5000, SEGMENT_BYTES);
    for ignored in ["bytes=5-4", "bytes=a-b", "items=0-1", "bytes=0-1,3-4"] {
        let reply = bench.get(&path, &format!("Range: {ignored}\r\n"));
        reply.expect(200);
        assert!(reply.body == whole.body, "{ignored}");
    }
    for beyond in ["bytes=204800-", "bytes=-0", "bytes=99999999999999999999-"] {
        let reply = bench.get(&path, &format!("Range: {beyond}\r\n"));
        reply.expect(416);
        assert_eq!(reply.header("content-range"), Some("bytes */204800"));
        assert_eq!(reply.header("cache-control"), Some("no-store"));
        assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
    }
}

#[test]
fn head_answers_as_get_would_without_the_body() {
    let bench = Bench::open();
    let segment = bench.a("aac/96/00000.mp4");
    bench.get(&segment, ""); // opened: no Server-Timing below
    let missing = bench.a("aac/96/00009.mp4");
    let etag = bench.get(&segment, "").header("etag").unwrap().to_owned();
    let cases = [
        (&segment, String::new(), 200),
        (&segment, format!("If-None-Match: {etag}\r\n"), 304),
        (&segment, "If-Match: \"x\"\r\n".into(), 412),
        (&missing, String::new(), 404),
    ];
    for (path, lines, status) in cases {
        let mut client = bench.connect();
        let head = client.request("HEAD", path, &lines);
        let get = client.request("GET", path, &lines);
        head.expect(status);
        get.expect(status);
        let named = |reply: &super::bench::Reply| {
            reply
                .headers
                .iter()
                .filter(|(name, _)| name != "date" && name != "x-request-id")
                .cloned()
                .collect::<Vec<_>>()
        };
        assert_eq!(named(&head), named(&get), "{lines}");
    }
    // RFC 9110 §14.2: Range is defined for GET only.
    let head = bench.request("HEAD", &segment, "Range: bytes=0-9\r\n");
    head.expect(200);
    assert_eq!(head.header("content-length"), Some("204800"));
    bench.request("HEAD", &segment, "Range: bytes=999999-\r\n").expect(200);
}

#[test]
fn a_preflight_allows_ranges() {
    let bench = Bench::open();
    let lines = "Origin: https://embed.example\r\nAccess-Control-Request-Method: GET\r\n\
        Access-Control-Request-Headers: range\r\n";
    let reply = bench.request("OPTIONS", &bench.a("aac/96/00000.mp4"), lines);
    reply.expect(204);
    assert!(reply.header("access-control-allow-headers").unwrap().contains("Range"));
    assert!(reply.header("access-control-allow-methods").unwrap().contains("GET"));
    assert_eq!(reply.header("access-control-max-age"), Some("86400"));
    assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
}

#[test]
fn what_is_not_there_is_a_short_text_that_no_cache_keeps_and_every_page_may_read() {
    let bench = Bench::open();
    let other = "0".repeat(40);
    for path in [
        bench.a("aac/96/00003.mp4"),
        bench.a("aac/97/00000.mp4"),
        bench.a("aac/96/../96/00000.mp4"),
        bench.a("aac/%39%36/00000.mp4"),
        bench.published.path("d", "version.json"),
        bench.published.path("d", "aac-97.mp4"),
        format!("/a/{TRACK}/{other}/master.m3u8"),
        format!("/a/other/{}/master.m3u8", bench.published.version),
        "/a/../../etc/passwd".into(),
        "/a/".into(),
    ] {
        let reply = bench.get(&path, "");
        reply.expect(404);
        assert_eq!(reply.body, b"not found\n", "{path}");
        for (name, value) in [
            ("cache-control", "no-store"),
            ("content-type", "text/plain; charset=utf-8"),
            ("access-control-allow-origin", "*"),
            ("cross-origin-resource-policy", "cross-origin"),
        ] {
            assert_eq!(reply.header(name), Some(value), "{path} {name}");
        }
    }
}

#[test]
fn a_damaged_version_is_refused_without_telling_where_it_lies() {
    let bench = Bench::open();
    let directory = bench.directory.path().join("v").join(TRACK).join(bench.published.version.to_string());
    let file = std::fs::OpenOptions::new().write(true).open(directory.join("flac.mp4")).unwrap();
    file.set_len(1000).unwrap(); // before it is opened: a mapping would fault
    let reply = bench.get(&bench.a("aac/96/00000.mp4"), "");
    reply.expect(500);
    assert_eq!(reply.body, b"this object cannot be served\n");
    assert_eq!(reply.header("cache-control"), Some("no-store"));
}

/// Waits until `bytes` of files have left: the last ones are counted after the client has them.
fn settled(bench: &Bench, bytes: usize) -> SocketBytes {
    let sent = || bench.handle.as_ref().unwrap().socket_bytes();
    let enough = |sent: SocketBytes| sent.sendfile + sent.edges >= bytes as u64;
    (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(5));
        enough(sent())
    });
    sent()
}

#[test]
fn a_hit_of_a_segment_copies_no_media_byte() {
    for io in [IoMode::Plain, IoMode::Auto] {
        let bench = Bench::with(Setup { io, ..Setup::default() });
        let mut client = bench.connect();
        // The first segment begins at byte 700: what is left of that page goes with the head.
        let edge = 4096 - 700;
        for hits in 1..=3 {
            client.request("GET", &bench.a("aac/96/00000.mp4"), "").expect(200);
            // The heads were copied, but they are no media.
            let by_kernel = (hits * (SEGMENT_BYTES - edge)) as u64;
            let plain = hits as u64 - 1; // all but the miss went without hyper
            let (sendfile, edges) = (by_kernel, (hits * edge) as u64);
            let expected = SocketBytes { sendfile, edges, plain, ..Default::default() };
            assert_eq!(settled(&bench, hits * SEGMENT_BYTES), expected, "{io:?}");
        }
        // From a page boundary on, every byte is the kernel's.
        let before = settled(&bench, 0);
        let aligned = format!("Range: bytes={edge}-\r\n");
        client.request("GET", &bench.a("aac/96/00000.mp4"), &aligned).expect(206);
        let after = settled(&bench, 4 * SEGMENT_BYTES - edge);
        assert_eq!(after.sendfile, before.sendfile + (SEGMENT_BYTES - edge) as u64);
        assert_eq!((after.edges, after.copied), (before.edges, 0));
        client.request("GET", &bench.a("aac/96/00001.mp4"), "").expect(200);
        client.request("GET", &bench.a("aac/96/00000.mp4"), "").expect(200);
        assert_eq!(settled(&bench, 5 * SEGMENT_BYTES - edge).copied, 3_000, "a small one is cheaper copied");
    }
}

#[test]
fn requests_come_in_other_shapes_too() {
    let bench = Bench::open();
    let path = bench.a("aac/96/00001.mp4");
    let expected = bench.published.segment("aac-96.mp4", 1);
    // RFC 9112 §3.2.2: absolute-form, whatever Host says.
    let reply = bench.get(&format!("http://elsewhere.example{path}"), "");
    assert_eq!(reply.expect(200).body, expected);
    // RFC 9112 §9.3: 1.0 closes, unless asked to stay.
    let mut old = bench.connect();
    let reply = old.send(&format!("GET {path} HTTP/1.0\r\n\r\n")).reply(false).unwrap();
    assert_eq!(reply.expect(200).body, expected);
    assert!(old.rest().is_empty(), "and the connection ends");
    let mut staying = bench.connect();
    for _ in 0..2 {
        staying.send(&format!("GET {path} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
        assert_eq!(staying.reply(false).unwrap().expect(200).body, expected);
    }
    // Many at once, answered in order.
    let mut piped = bench.connect();
    let request = |range: usize| format!("GET {path} HTTP/1.1\r\nHost: x\r\nRange: bytes={range}-\r\n\r\n");
    piped.send(&(0..40).map(request).collect::<String>());
    for start in 0..40 {
        assert_eq!(piped.reply(false).unwrap().expect(206).body, expected[start..]);
    }
    // A body nobody asked for is read past, or the connection ends; never taken for a request.
    let mut talkative = bench.connect();
    let smuggled = "GET /a/x HTTP/1.1\r\nHost: x\r\n\r\n";
    let lines = format!("Content-Length: {}\r\n\r\n{smuggled}", smuggled.len());
    talkative.send(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n{lines}"));
    assert_eq!(talkative.reply(false).unwrap().expect(200).body, expected);
    talkative.send(&request(7));
    if let Some(reply) = talkative.reply(false) {
        assert_eq!(reply.expect(206).body, expected[7..]);
    }
}

#[test]
fn fifty_cold_requests_open_a_version_once() {
    let bench = Bench::with(Setup { cores: 2, ..Setup::default() });
    let barrier = std::sync::Barrier::new(50);
    let path = bench.a("aac/96/00000.mp4");
    let timings: Vec<_> = std::thread::scope(|scope| {
        let ask = || {
            let mut client = bench.connect();
            barrier.wait();
            let reply = client.request("GET", &path, "");
            assert_eq!(reply.expect(200).body.len(), SEGMENT_BYTES);
            reply.header("server-timing").unwrap_or("hit").to_owned()
        };
        let askers: Vec<_> = (0..50).map(|_| scope.spawn(ask)).collect();
        askers.into_iter().map(|asker| asker.join().unwrap()).collect()
    });
    let fills = timings.iter().filter(|timing| timing.contains("desc=miss")).count();
    assert_eq!(fills, 1, "{timings:?}");
}

#[test]
fn a_version_published_after_a_miss_is_found() {
    let bench = Bench::open();
    let directory = bench.directory.path().join("v").join(TRACK).join(bench.published.version.to_string());
    let aside = bench.directory.path().join("aside");
    std::fs::rename(&directory, &aside).unwrap();
    bench.get(&bench.a("master.m3u8"), "").expect(404);
    std::fs::rename(&aside, &directory).unwrap();
    // What was missed is remembered for a quarter of a second.
    let found = (0..1_000).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(5));
        bench.get(&bench.a("master.m3u8"), "").status == 200
    });
    assert!(found);
}

/// Everything that arrives for `text` until the connection ends, and how many answers that is.
fn said_to(bench: &Bench, text: &str) -> (String, usize) {
    let mut client = bench.connect();
    let answer = String::from_utf8_lossy(&client.send(text).rest()).into_owned();
    let answers = answer.matches("HTTP/1.1 ").count();
    (answer, answers)
}

#[test]
fn a_target_has_one_spelling_and_others_are_refused_before_anything_is_opened() {
    let bench = Bench::open();
    let good = bench.a("aac/96/00001.mp4");
    let version = bench.published.version.to_string();
    // RFC 3986 §6.2.2 lets these be normalised; we do not, so that a signature and a cache key mean one
    // object. RFC 9110 §4.2.3 leaves that to the origin.
    for other in [
        good.replace("/aac/", "/%61ac/"),
        good.replace("/aac/", "/aac%2f"),
        good.replace("/aac/", "/aac%2F"),
        good.replace("/aac/", "/aac/./"),
        good.replace("/aac/", "/aac/../aac/"),
        good.replace("/aac/", "/aac/%2e%2e/aac/"),
        good.replace("/aac/", "/aac/%2E%2E/aac/"),
        good.replace("/aac/", "/aac/..%2faac/"),
        good.replace("/aac/", "/aac/%c0%ae%c0%ae/aac/"),
        good.replace("/aac/", "/aac/..;/aac/"),
        good.replace("/aac/", "//aac/"),
        good.replace("/aac/", "/AAC/"),
        good.replace("/a/", "/a//"),
        good.replace(&version, &version.to_uppercase()),
        good.replace("00001.mp4", "00001.mp4/"),
        good.replace("00001.mp4", "00001.mp4%00"),
        good.replace("00001.mp4", "00001.mp4%20"),
        good.replace("00001.mp4", "00001.MP4"),
        good.replace("00001.mp4", "1.mp4"),
        good.replace("00001.mp4", "00001.mp4;v=1"),
        good.replace("00001.mp4", "%"),
        good.replace("00001.mp4", "%zz"),
        good.replace("00001.mp4", "0000%31.mp4"),
        good.replace("00001.mp4", "00001.mp4\u{e9}"),
        good.replace("00001.mp4", "..\\00001.mp4"),
        good.replace("00001.mp4", "version.json"),
        "/a/../../../../etc/passwd".into(),
        "/p/..%2f..%2fetc%2fpasswd".into(),
        "/d/....//....//etc/passwd".into(),
    ] {
        let reply = bench.get(&other, "");
        assert!([400, 404].contains(&reply.status), "{other}: {}", reply.status);
        assert!(reply.body.len() < 100, "{other}");
    }
    let first = bench.get(&good, "");
    assert!(first.expect(200).header("server-timing").unwrap().contains("miss"), "nothing was opened until now");
    // RFC 9110 §4.2: the query belongs to the identifier; objects have none, so that it changes nothing.
    for query in ["?", "?x=1", "?%2e%2e/", "?a=b&CMCD=bl%3D1", "??"] {
        assert!(bench.get(&format!("{good}{query}"), "").expect(200).body == first.body, "{query}");
    }
}

#[test]
fn methods_are_known_by_their_exact_name() {
    let bench = Bench::open();
    let path = bench.a("aac/96/00000.mp4");
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        // RFC 9110 §15.5.6: "The origin server MUST generate an Allow header field in a 405 response".
        let reply = bench.request(method, &path, "Content-Length: 0\r\n");
        assert_eq!(reply.expect(405).header("allow"), Some("GET, HEAD, OPTIONS"), "{method}");
        assert_eq!(reply.header("cache-control"), Some("no-store"));
    }
    // §9.1: "The method token is case-sensitive"; "An origin server that receives a request method that is
    // unrecognized or not implemented SHOULD respond with the 501 (Not Implemented) status code".
    for method in ["get", "Get", "head", "BREW", "PROPFIND", "GETS", "G"] {
        let reply = bench.request(method, &path, "");
        assert_eq!(reply.expect(501).header("cache-control"), Some("no-store"), "{method}");
    }
    // §9.3.6, §9.3.8: an origin is no proxy and echoes nothing.
    for method in ["CONNECT", "TRACE"] {
        assert_eq!(bench.request(method, &path, "").expect(405).header("allow"), Some("GET, HEAD, OPTIONS"));
    }
    // A body of a refused method is not taken for a request.
    let smuggled = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    let post =
        format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", smuggled.len());
    let (answer, answers) = said_to(&bench, &format!("{post}{smuggled}"));
    assert!(answer.starts_with("HTTP/1.1 405 ") && answers == 1, "{answer}");
}

#[test]
fn a_target_has_the_form_that_its_method_allows() {
    let bench = Bench::open();
    let path = bench.a("aac/96/00001.mp4");
    // RFC 9110 §9.3.7: "An OPTIONS request with an asterisk ("*") as the request target applies to the
    // server in general".
    let all = bench.request("OPTIONS", "*", "");
    assert_eq!(all.expect(204).header("allow"), Some("GET, HEAD, OPTIONS"));
    // RFC 9112 §3.2.4: "The asterisk-form of request-target is only used for a server-wide OPTIONS".
    for line in ["GET *", "HEAD *", "GET example.com:80", "OPTIONS example.com", "GET a/b"] {
        let (answer, answers) =
            said_to(&bench, &format!("{line} HTTP/1.1\r\nHost: x\r\n\r\nGET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert!(answer.starts_with("HTTP/1.1 400 ") && answers == 1, "{line}: {answer}");
    }
    // RFC 9112 §3.2.2: "a server MUST accept the absolute-form in requests", and ignores Host then.
    for origin in ["http://test", "http://elsewhere.example", "https://test:443", "HTTP://TEST"] {
        assert_eq!(bench.get(&format!("{origin}{path}"), "").expect(200).body.len(), 3_000, "{origin}");
    }
    // RFC 9110 §4.2.4: "Before making use of an "http" or "https" URI reference received from an untrusted
    // source, a recipient SHOULD parse for userinfo and treat its presence as an error".
    let (answer, _) = said_to(&bench, &format!("GET http://user@test{path} HTTP/1.1\r\nHost: test\r\n\r\n"));
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    // RFC 9112 §3.2: "A server MUST respond with a 400 (Bad Request) status code … to any request message
    // that contains more than one Host header field line or a Host header field with an invalid field value".
    for host in ["a b", "x/y", "u@x", "x:y", "x:80:80", "[::1", "x?y", "http://x"] {
        let (answer, answers) = said_to(&bench, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").repeat(2));
        assert!(answer.starts_with("HTTP/1.1 400 ") && answers == 1, "{host}: {answer}");
    }
    for host in ["", "x", "x:80", "192.0.2.1:8080", "[2001:db8::1]:443"] {
        let mut client = bench.connect();
        client.send(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        client.reply(false).unwrap().expect(200);
    }
}

#[test]
fn a_range_is_read_as_the_grammar_has_it() {
    let bench = Bench::open();
    let path = bench.a("aac/96/00001.mp4");
    let check = |lines: &str, status: u16, bytes: std::ops::Range<usize>| {
        let reply = bench.get(&path, lines);
        assert_eq!(reply.status, status, "{lines}");
        assert!(status == 416 || reply.body == bench.published.segment("aac-96.mp4", 1)[bytes], "{lines}");
    };
    // RFC 9110 §14.1: "Range units … are case-insensitive"; §5.6.3: blanks around a field's value do not count.
    check("Range: BYTES=0-9\r\n", 206, 0..10);
    check("range:\t bytes=0-9 \t\r\n", 206, 0..10);
    check("RANGE:bytes=-10\r\n", 206, 2_990..3_000);
    // §14.1.2: "If the last-pos value is absent, or if the value is greater than or equal to the current
    // length …, the byte range is interpreted as the remainder of the representation".
    check("Range: bytes=2999-3000\r\n", 206, 2_999..3_000);
    check("Range: bytes=0-2999\r\n", 206, 0..3_000);
    // "If the selected representation is shorter than the specified suffix-length, the entire
    // representation is used".
    check("Range: bytes=-3001\r\n", 206, 0..3_000);
    check("Range: bytes=3000-\r\n", 416, 0..0);
    check("Range: bytes=-0\r\n", 416, 0..0);
    // §14.2: "An origin server MUST ignore a Range header field that contains a range unit it does not
    // understand"; and "MAY ignore" one that is malformed or asks for many ranges.
    for ignored in ["seconds=0-9", "bytes", "bytes=", "bytes=-", "bytes=9-0", "bytes=0x0-9", "bytes=0-9,", "bytes 0-9"]
    {
        let whole = ignored != "bytes=0-9,"; // §5.6.1: an empty element is no element
        check(&format!("Range: {ignored}\r\n"), if whole { 200 } else { 206 }, 0..if whole { 3_000 } else { 10 });
    }
    check("Range: bytes=0-9\r\nRange: bytes=20-29\r\n", 200, 0..3_000);
    // §17.15: many ranges of one object are how a small request becomes a large answer.
    let many = (0..1_500).map(|n| format!("{n}-")).collect::<Vec<_>>().join(",");
    check(&format!("Range: bytes={many}\r\n"), 200, 0..3_000);
    check("Range: bytes=0-9,20-29\r\n", 200, 0..3_000);
    check("Range: bytes=0-9,5-14,0-9\r\n", 200, 0..3_000);
}

#[test]
fn head_has_the_headers_of_get_on_every_status() {
    // RFC 9110 §9.3.2: "The server SHOULD send the same header fields in response to a HEAD request as it
    // would have sent if the request method had been GET", and never content.
    let guarded = Bench::with(Setup { origin: Default::default(), ..Setup::default() });
    let open = Bench::open();
    let full = segue::server::gate::Limits { requests_max: 0, ..Default::default() };
    let full = segue::origin::Options { require_token: false, gate: full, ..Default::default() };
    let full = Bench::with(Setup { origin: full, ..Setup::default() });
    let path = open.a("aac/96/00000.mp4");
    let etag = open.get(&path, "").header("etag").unwrap().to_owned();
    let long = format!("{path}?{}", "x".repeat(9_000));
    let cases = [
        (&open, path.clone(), String::new(), 200),
        (&open, open.a("master.m3u8"), String::new(), 200),
        (&open, path.clone(), format!("If-None-Match: {etag}\r\n"), 304),
        (&open, path.clone(), "Host: twice\r\n".into(), 400),
        (&open, path.clone(), "Transfer-Encoding: chunked\r\n".into(), 400),
        (&guarded, guarded.a("aac/96/00000.mp4"), String::new(), 403),
        (&open, open.a("aac/96/00009.mp4"), String::new(), 404),
        (&open, path.clone(), "If-Match: \"x\"\r\n".into(), 412),
        (&open, long, String::new(), 414),
        (&open, path.clone(), format!("X: {}\r\n", "x".repeat(20_000)), 431),
        (&full, full.a("aac/96/00000.mp4"), String::new(), 503),
    ];
    for (bench, path, lines, status) in cases {
        let ask = |method: &str| {
            let mut client = bench.connect();
            client.send(&format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{lines}\r\n"));
            let reply = client.reply(method == "HEAD").unwrap();
            assert!(client.rest().is_empty(), "{method} {status}: nothing follows");
            let told: Vec<_> = reply
                .headers
                .into_iter()
                .filter(|(name, _)| !["date", "server-timing", "x-request-id"].contains(&&**name))
                .collect();
            (reply.status, told)
        };
        let (head, get) = (ask("HEAD"), ask("GET"));
        assert_eq!(head.0, status, "{lines}");
        assert_eq!(head, get, "{status}");
    }
}

#[test]
fn every_answer_has_a_date_and_a_length_that_fits_its_status() {
    let bench = Bench::open();
    let path = bench.a("aac/96/00000.mp4");
    for (method, lines, status) in [
        ("GET", "", 200),
        ("HEAD", "", 200),
        ("GET", "Range: bytes=0-9\r\n", 206),
        ("GET", "If-None-Match: *\r\n", 304),
        ("GET", "Range: bytes=999999-\r\n", 416),
        ("GET", "If-Match: \"x\"\r\n", 412),
        ("OPTIONS", "", 204),
        ("DELETE", "", 405),
        ("BREW", "", 501),
    ] {
        let reply = bench.request(method, &path, lines);
        reply.expect(status);
        // RFC 9110 §6.6.1: "An origin server with a clock MUST generate a Date header field in all 2xx
        // (Successful), 3xx (Redirection), and 4xx (Client Error) responses".
        httpdate::parse_http_date(reply.header("date").unwrap()).unwrap();
        // §8.6: "A server MUST NOT send a Content-Length header field in any response with a status code
        // of 1xx (Informational) or 204 (No Content)".
        assert_eq!(reply.header("content-length").is_some(), ![204, 304].contains(&status), "{status}");
        for never in ["transfer-encoding", "set-cookie", "server", "x-powered-by"] {
            assert_eq!(reply.header(never), None, "{status}");
        }
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{status}");
        assert_eq!(reply.header("access-control-allow-origin"), Some("*"), "{status}");
    }
}

#[test]
fn a_connection_lives_as_long_as_both_sides_say() {
    let bench = Bench::open();
    let path = bench.a("aac/96/00001.mp4");
    // RFC 9112 §9.3: 1.1 persists; "close" in whatever case, or among other options, ends it.
    let mut client = bench.connect();
    for _ in 0..3 {
        assert_eq!(client.request("GET", &path, "").expect(200).header("connection"), None);
    }
    for close in ["close", "Close", "keep-alive, close"] {
        let mut client = bench.connect();
        let reply = client.request("GET", &path, &format!("Connection: {close}\r\n"));
        // §9.6: a server that receives "close" "SHOULD send a close connection option".
        assert_eq!(reply.expect(200).header("connection"), Some("close"), "{close}");
        assert!(client.rest().is_empty(), "{close}");
    }
    let mut old = bench.connect();
    old.send(&format!("GET {path} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
    assert_eq!(old.reply(false).unwrap().expect(200).header("connection"), Some("keep-alive"));
    // After a 404 or a 416 the connection is as good as before.
    let mut client = bench.connect();
    client.request("GET", &bench.a("aac/96/00009.mp4"), "").expect(404);
    client.request("GET", &path, "Range: bytes=9999-\r\n").expect(416);
    client.request("HEAD", &path, "").expect(200);
    client.request("GET", &path, "").expect(200);
    // Pipelined requests are answered in order (§9.3.2), also when some are refused.
    let get = |lines: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n");
    let batch = [get(""), get("Range: bytes=9999-\r\n"), get("If-None-Match: *\r\n"), get("Range: bytes=0-0\r\n")];
    client.send(&batch.concat());
    for status in [200, 416, 304, 206] {
        client.reply(false).unwrap().expect(status);
    }
}

#[test]
fn expectations_and_upgrades_that_nobody_needs_are_passed_over() {
    let bench = Bench::open();
    let path = bench.a("aac/96/00001.mp4");
    // RFC 9110 §10.1.1: a server may omit the 100 when the request has no content; the first status line
    // is the final one. §7.8: "A server MAY ignore a received Upgrade header field".
    for lines in [
        "Expect: 100-continue\r\n",
        "Upgrade: websocket\r\nConnection: Upgrade\r\n",
        "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        "TE: trailers, deflate\r\n",
        "Accept: text/html;q=0.1\r\n",
        "Accept-Ranges: none\r\n",
        "Max-Forwards: 0\r\n",
        "Content-Length: 0\r\n",
        "Cache-Control: no-cache\r\nPragma: no-cache\r\n",
    ] {
        let reply = bench.get(&path, lines);
        assert_eq!(reply.expect(200).body.len(), 3_000, "{lines}");
        assert_eq!(reply.header("upgrade"), None);
    }
}

#[test]
fn what_could_be_read_in_two_ways_is_refused_and_the_connection_ends() {
    let bench = Bench::open();
    let path = bench.a("aac/96/00001.mp4");
    let second = format!("GET {path} HTTP/1.1\r\nHost: second\r\n\r\n");
    // RFC 9112 §11.2: request smuggling; §6.1 and §6.3 on lengths, §5.1 and §5.2 on field lines, §2.2 on
    // bare carriage returns.
    for (what, head) in [
        ("a list of lengths", "Content-Length: 4, 5\r\n\r\nabcd"),
        ("a negative length", "Content-Length: -1\r\n\r\n"),
        ("a length in hexadecimal", "Content-Length: 0x4\r\n\r\nabcd"),
        ("a length with a fraction", "Content-Length: 4.0\r\n\r\nabcd"),
        ("an empty length", "Content-Length: \r\n\r\n"),
        ("a length beyond counting", "Content-Length: 99999999999999999999999\r\n\r\n"),
        ("a length with a space inside", "Content-Length: 4 4\r\n\r\nabcd"),
        ("chunks", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("chunks with an extension", "Transfer-Encoding: chunked\r\n\r\n1;a=b\r\nx\r\n0\r\n\r\n"),
        ("chunks in another case", "Transfer-Encoding: Chunked\r\n\r\n0\r\n\r\n"),
        ("chunks twice", "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
        ("chunks in two fields", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("chunks and identity", "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
        ("identity", "Transfer-Encoding: identity\r\n\r\n"),
        ("a coding nobody knows", "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        ("a coding behind a vertical tab", "Transfer-Encoding: \u{b}chunked\r\n\r\n0\r\n\r\n"),
        ("a quoted coding", "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n"),
        ("an empty coding", "Transfer-Encoding:\r\n\r\n0\r\n\r\n"),
        ("a tab before the colon", "Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n"),
        ("a space before the colon", "Content-Length : 4\r\n\r\nabcd"),
        ("a folded coding", "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
        ("a bare carriage return", "X: a\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("a field without a name", ": x\r\n\r\n"),
        ("a line that is no field", "nonsense\r\n\r\n"),
        ("a NUL in a name", "X\0Y: a\r\n\r\n"),
        ("a delete in a value", "X: a\u{7f}b\r\n\r\n"),
        ("a name that is not ASCII", "X\u{e9}: a\r\n\r\n"),
    ] {
        let (answer, answers) = said_to(&bench, &format!("GET {path} HTTP/1.1\r\nHost: first\r\n{head}{second}"));
        assert!(answers <= 1 && (answers == 0 || answer.starts_with("HTTP/1.1 400 ")), "{what}: {answer}");
    }
    for (what, text) in [
        ("chunks in 1.0", format!("GET {path} HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{second}")),
        ("a blank before the first field", format!("GET {path} HTTP/1.1\r\n Host: x\r\nX: y\r\n\r\n{second}")),
        ("two blanks in the request line", format!("GET  {path} HTTP/1.1\r\nHost: x\r\n\r\n{second}")),
        ("a blank after the version", format!("GET {path} HTTP/1.1 \r\nHost: x\r\n\r\n{second}")),
        ("a blank in the target", format!("GET {path} x HTTP/1.1\r\nHost: x\r\n\r\n{second}")),
        ("a version without a minor", format!("GET {path} HTTP/1\r\nHost: x\r\n\r\n{second}")),
        ("a version in lower case", format!("GET {path} http/1.1\r\nHost: x\r\n\r\n{second}")),
        ("a version that is not spoken here", format!("GET {path} HTTP/2.0\r\nHost: x\r\n\r\n{second}")),
        ("the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
        ("no version", format!("GET {path}\r\n\r\n{second}")),
        ("no host", format!("GET {path} HTTP/1.1\r\n\r\n{second}")),
        ("a host in 1.0 twice", format!("GET {path} HTTP/1.0\r\nHost: x\r\nHost: x\r\n\r\n{second}")),
        ("a bare carriage return in the line", format!("GET {path}\r HTTP/1.1\r\nHost: x\r\n\r\n{second}")),
        ("a NUL in the target", format!("GET {path}\0 HTTP/1.1\r\nHost: x\r\n\r\n{second}")),
        ("a handshake of TLS", "\u{16}\u{3}\u{1}\0\u{5}hello".to_owned()),
    ] {
        let mut client = bench.connect();
        client.send(&text);
        client.stream.shutdown(std::net::Shutdown::Write).unwrap();
        let answer = String::from_utf8_lossy(&client.rest()).into_owned();
        let answers = answer.matches("HTTP/1.1 ").count();
        let refused = answer.starts_with("HTTP/1.1 400 ") || answer.starts_with("HTTP/1.1 505 ");
        assert!(answers <= 1 && (answers == 0 || refused), "{what}: {answer}");
    }
}

#[test]
fn a_flood_of_versions_that_do_not_exist_costs_one_look_and_hides_no_publish() {
    let bench = Bench::open();
    let directory = bench.directory.path().join("v").join(TRACK);
    let mut client = bench.connect();
    let unknown = |n: u32| format!("/p/{TRACK}/{n:040x}/preview.m4a");
    // Opened before, so that the flood finds a version that is there.
    client.request("GET", &bench.a("master.m3u8"), "").expect(200);
    for n in 0..2_000 {
        client.request("GET", &unknown(n), "").expect(404);
    }
    // What is published in the middle of it is there a moment later: the same content again, for a track
    // that is not known yet.
    let fresh = bench.a("master.m3u8").replace(TRACK, "trk_fresh");
    client.request("GET", &fresh, "").expect(404);
    let copied =
        std::process::Command::new("cp").arg("-r").arg(&directory).arg(directory.with_file_name("aside")).status();
    assert!(copied.unwrap().success());
    std::fs::rename(directory.with_file_name("aside"), directory.with_file_name("trk_fresh")).unwrap();
    let found = (0..1_000).any(|n| {
        std::thread::sleep(std::time::Duration::from_millis(5));
        client.request("GET", &unknown(n).replace(TRACK, "trk_fresh"), "").expect(404);
        client.request("GET", &fresh, "").status == 200
    });
    assert!(found, "a fresh version shows while the flood goes on");
}
