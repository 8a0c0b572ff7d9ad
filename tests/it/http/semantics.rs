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
            reply.headers.iter().filter(|(name, _)| name != "date").cloned().collect::<Vec<_>>()
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
fn a_preflight_allows_ranges_and_other_methods_are_named() {
    let bench = Bench::open();
    let lines = "Origin: https://embed.example\r\nAccess-Control-Request-Method: GET\r\n\
        Access-Control-Request-Headers: range\r\n";
    let reply = bench.request("OPTIONS", &bench.a("aac/96/00000.mp4"), lines);
    reply.expect(204);
    assert!(reply.header("access-control-allow-headers").unwrap().contains("Range"));
    assert!(reply.header("access-control-allow-methods").unwrap().contains("GET"));
    assert_eq!(reply.header("access-control-max-age"), Some("86400"));
    assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
    for method in ["POST", "PUT", "DELETE", "PATCH", "BREW"] {
        let reply = bench.request(method, &bench.a("aac/96/00000.mp4"), "");
        reply.expect(405);
        assert_eq!(reply.header("allow"), Some("GET, HEAD, OPTIONS"));
    }
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
            let expected = SocketBytes { sendfile: by_kernel, edges: (hits * edge) as u64, ..Default::default() };
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
    bench.get(&bench.a("master.m3u8"), "").expect(200);
}
