//! First light, from outside: publish a file, serve it, walk every playlist as a player would, compare
//! what arrives with what was published, kill things at bad moments.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use segue::hls::cmaf;
use segue::hls::version::VersionIndex;

use crate::support::{Server, published, published_server, request, run, said, segue, until};

/// A parsed media playlist: init URI, then (URI, seconds) of each segment.
fn media_playlist(text: &str) -> (String, Vec<(String, f64)>) {
    let (_, playlist) = m3u8_rs::parse_media_playlist(text.as_bytes()).unwrap();
    assert!(playlist.end_list);
    let map = playlist.segments[0].map.as_ref().unwrap().uri.clone();
    (map, playlist.segments.iter().map(|s| (s.uri.clone(), f64::from(s.duration))).collect())
}

fn variants(text: &str) -> Vec<m3u8_rs::VariantStream> {
    m3u8_rs::parse_master_playlist(text.as_bytes()).unwrap().1.variants
}

/// What a player does with a relative URI.
fn join(base: &str, relative: &str) -> String {
    format!("{}/{relative}", &base[..base.rfind('/').unwrap()])
}

fn path_of(url: &str) -> &str {
    &url[url.find("//").unwrap() + 2..][url[url.find("//").unwrap() + 2..].find('/').unwrap()..]
}

#[test]
fn every_uri_of_every_playlist_opens_with_the_token_of_its_master_and_the_numbers_are_true() {
    let served = published_server();
    let mut boundaries: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for master in [&served.aac_master, &served.flac_master, &served.all_master] {
        let master = path_of(master);
        let reply = served.server.get(master);
        assert_eq!(reply.status, 200, "{}", reply.head);
        assert_eq!(reply.header("content-type"), Some("application/vnd.apple.mpegurl"));
        for variant in variants(&reply.text()) {
            assert!(
                !variant.uri.contains("://") && !variant.uri.starts_with('/'),
                "only relative URIs: {}",
                variant.uri
            );
            let playlist_path = join(master, &variant.uri);
            let playlist = served.server.get(&playlist_path);
            assert_eq!(playlist.status, 200, "{playlist_path}");
            let (init_uri, segments) = media_playlist(&playlist.text());
            let init = served.server.get(&join(&playlist_path, &init_uri));
            assert_eq!((init.status, init.header("content-type")), (200, Some("audio/mp4")));
            let mut rung = init.body.clone();
            let (mut bits, mut seconds, mut peak, mut ends) = (0.0, 0.0, 0.0_f64, vec![]);
            for (uri, duration) in &segments {
                let segment = served.server.get(&join(&playlist_path, uri));
                assert_eq!(segment.status, 200);
                assert_eq!(segment.header("content-length"), Some(segment.body.len().to_string().as_str()));
                assert_eq!(segment.header("cache-control"), Some("public, max-age=31536000, immutable"));
                let size = segment.body.len() as f64 * 8.0;
                bits += size;
                seconds += duration;
                ends.push(seconds);
                if *duration >= 3.0 {
                    peak = peak.max(size / duration);
                }
                rung.extend_from_slice(&segment.body);
            }
            let exact = served.samples as f64 / f64::from(served.rate);
            assert!((seconds - exact).abs() < 1e-4, "{playlist_path}: {seconds} s, the source has {exact} s");
            let average = variant.average_bandwidth.unwrap() as f64;
            assert!(
                (average / (bits / seconds) - 1.0).abs() < 0.001,
                "AVERAGE-BANDWIDTH {average} of {}",
                bits / seconds
            );
            let bandwidth = variant.bandwidth as f64;
            assert!(bandwidth >= peak * 0.999 && bandwidth < peak * 1.1, "BANDWIDTH {bandwidth}, peak segment {peak}");
            boundaries.insert(variant.uri.clone(), ends);

            // The same bytes as the rung's file, which is also the progressive form.
            let codec = if variant.codecs.as_deref() == Some("fLaC") { "flac.mp4" } else { "aac-" };
            assert!(["mp4a.40.2", "fLaC"].contains(&variant.codecs.as_deref().unwrap()));
            let (track, version) = ids(&published().report);
            let dir = published().data.join("store/v").join(track).join(version);
            let file = fs::read_dir(dir)
                .unwrap()
                .map(|entry| entry.unwrap())
                .filter(|entry| entry.file_name().to_string_lossy().starts_with(codec))
                .find(|entry| without_free_boxes(&fs::read(entry.path()).unwrap()) == rung);
            assert!(file.is_some(), "{playlist_path} is the slices of no {codec} file");
        }
    }
    assert_eq!(boundaries.len(), 4 + 1 + 5, "{:?}", boundaries.keys());
    let first = boundaries.values().next().unwrap();
    for (uri, ends) in &boundaries {
        let aligned = ends.len() == first.len() && ends.iter().zip(first).all(|(a, b)| (a - b).abs() < 1e-4);
        assert!(aligned, "{uri} has other boundaries");
    }
}

fn ids(report: &serde_json::Value) -> (String, String) {
    let text = |key: &str| report[key].as_str().unwrap().to_owned();
    (text("track_id"), text("version"))
}

#[test]
fn every_fragment_is_sound_iso_bmff() {
    let published = published();
    let (track, version) = ids(&published.report);
    let dir = published.data.join("store/v").join(track).join(version);
    let index = VersionIndex::decode(&fs::read(dir.join("version.json")).unwrap()).unwrap();
    assert_eq!(index.rungs.len(), 5);
    for rung in &index.rungs {
        let file = fs::read(dir.join(&rung.object.name)).unwrap();
        let init = &file[..rung.init.bytes as usize];
        let mut segments = vec![];
        let mut end = init.len();
        for (segment, start) in rung.segments.iter().zip(rung.offsets()) {
            let start = start as usize;
            assert_eq!(start % 4096, 0, "segments begin at page boundaries");
            let between: Vec<_> = top_boxes(&file[end..start]).into_iter().map(|b| b.0).collect();
            assert!(between.is_empty() || between == ["free"], "{between:?} between segments");
            end = start + segment.bytes as usize;
            segments.push(&file[start..end]);
        }
        assert_eq!(end, file.len(), "the file is the init section, the segments, free boxes, nothing else");
        check_rung(rung, init, &segments);
    }
}

/// An own reading of the boxes, independent of the writer and of `cmaf`'s reader.
fn check_rung(rung: &segue::hls::version::Rung, init: &[u8], segments: &[&[u8]]) {
    let boxes = top_boxes(init);
    assert_eq!(boxes.iter().map(|b| b.0.as_str()).collect::<Vec<_>>(), ["ftyp", "moov"]);
    let mut expected = 0u64;
    let priming = u64::from(rung.priming);
    for (number, bytes) in segments.iter().enumerate() {
        let boxes = top_boxes(bytes);
        let names: Vec<_> = boxes.iter().map(|b| b.0.as_str()).filter(|name| *name != "sidx").collect();
        assert_eq!(names, ["styp", "moof", "mdat"], "{} segment {number}", rung.path());
        let moof = boxes.iter().find(|b| b.0 == "moof").unwrap().1;
        let traf = inner(moof, "traf");
        let tfdt = inner(traf, "tfdt");
        assert_eq!(tfdt[0], 1, "tfdt has 64 bits");
        let time = u64::from_be_bytes(tfdt[4..12].try_into().unwrap());
        assert_eq!(time, expected, "{} segment {number}: tfdt continues where the last segment ended", rung.path());
        let (count, duration, size) = trun(inner(traf, "trun"), inner(traf, "tfhd"));
        let mdat = boxes.iter().find(|b| b.0 == "mdat").unwrap().1;
        assert_eq!(size, mdat.len() as u64, "sample sizes fill mdat");
        assert!(count > 0);
        expected += duration;
        let presented = duration - if number == 0 { priming } else { 0 };
        let last = number + 1 == segments.len();
        let ticks = rung.segments[number].ticks;
        let padding = if last { presented - ticks } else { 0 };
        assert_eq!(presented, ticks + padding, "{} segment {number}: EXTINF is what the samples play", rung.path());
        assert!(!last || padding < 1024, "padding of the last segment: {padding}");
    }
    assert!(expected >= priming + rung.samples);
}

/// A rung's file without what aligns its segments.
fn without_free_boxes(mut file: &[u8]) -> Vec<u8> {
    let mut kept = vec![];
    while let Some(size) = file.first_chunk().map(|size| u32::from_be_bytes(*size) as usize) {
        if &file[4..8] != b"free" {
            kept.extend_from_slice(&file[..size]);
        }
        file = &file[size..];
    }
    kept
}

fn top_boxes(mut bytes: &[u8]) -> Vec<(String, &[u8])> {
    let mut found = vec![];
    while !bytes.is_empty() {
        let size = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
        assert!(size >= 8 && size <= bytes.len(), "a box of {size} bytes in {}", bytes.len());
        found.push((String::from_utf8(bytes[4..8].to_vec()).unwrap(), &bytes[8..size]));
        bytes = &bytes[size..];
    }
    found
}

fn inner<'a>(bytes: &'a [u8], name: &str) -> &'a [u8] {
    top_boxes(bytes).into_iter().find(|b| b.0 == name).unwrap_or_else(|| panic!("no {name}")).1
}

/// Sample count, total duration and total size of a `trun`, with `tfhd`'s default duration.
fn trun(trun: &[u8], tfhd: &[u8]) -> (u32, u64, u64) {
    let word = |bytes: &[u8], at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    let tfhd_flags = word(tfhd, 0) & 0xff_ffff;
    let mut at = 8;
    for (flag, width) in [(0x1, 8), (0x2, 4)] {
        at += if tfhd_flags & flag != 0 { width } else { 0 };
    }
    let default = if tfhd_flags & 0x8 != 0 { word(tfhd, at) } else { 0 };
    let flags = word(trun, 0) & 0xff_ffff;
    let count = word(trun, 4);
    let mut at = 8 + if flags & 0x1 != 0 { 4 } else { 0 } + if flags & 0x4 != 0 { 4 } else { 0 };
    let (mut duration, mut size) = (0u64, 0u64);
    for _ in 0..count {
        let mut next = |present: bool, otherwise: u32| {
            if !present {
                return otherwise;
            }
            at += 4;
            word(trun, at - 4)
        };
        duration += u64::from(next(flags & 0x100 != 0, default));
        size += u64::from(next(flags & 0x200 != 0, 0));
        next(flags & 0x400 != 0, 0);
        next(flags & 0x800 != 0, 0);
    }
    assert_eq!(at, trun.len(), "trun holds its samples and nothing else");
    (count, duration, size)
}

#[test]
fn a_token_opens_its_directory_and_nothing_beside_it() {
    let served = published_server();
    let aac = path_of(&served.aac_master);
    let status = |path: &str| served.server.get(path).status;
    let flac_by_aac_token = aac.replacen("/aac/master", "/flac/master", 1);
    assert_eq!(status(&flac_by_aac_token), 403, "a listener's token does not open lossless");
    assert_eq!(status(&aac.replacen("/aac/master", "/master", 1)), 403);
    let flac = path_of(&served.flac_master);
    assert_eq!(status(&flac.replacen("/flac/master", "/aac/master", 1)), 403);
    let all = path_of(&served.all_master);
    assert_eq!(status(&all.replacen("/master", "/flac/master", 1)), 200, "a lossless listener's token opens both");
    let bare = &aac[aac[1..].find('/').unwrap() + 1..];
    let refused = served.server.get(bare);
    assert_eq!((refused.status, refused.header("cache-control")), (403, Some("no-store")));
    assert_eq!(status(&aac.replacen("HS256-", "HS256-x", 1)), 403);
}

#[test]
fn tokens_can_be_turned_off() {
    let published = published();
    let (track, version) = ids(&published.report);
    let server = Server::start(&published.data, &[], &[("SEGUE_ORIGIN__REQUIRE_TOKEN", "false")]);
    assert_eq!(server.get(&format!("/a/{track}/{version}/aac/master.m3u8")).status, 200);
    assert_eq!(server.get(&format!("/a/{track}/{version}/flac/00000.mp4")).status, 200);
}

#[test]
fn the_alias_redirects_to_a_signed_url_that_plays() {
    let served = published_server();
    let (track, version) = ids(&published().report);
    let alias = served.server.get(&format!("/tracks/{track}/master.m3u8"));
    assert_eq!(alias.status, 302);
    // RFC 5861 §3 and §4; the token lives for six hours.
    let caching = "public, max-age=60, stale-while-revalidate=600, stale-if-error=3600";
    assert_eq!(alias.header("cache-control"), Some(caching));
    assert_eq!(alias.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(alias.header("access-control-allow-origin"), Some("*"));
    let target = alias.header("location").unwrap().to_owned();
    assert!(target.starts_with("/bcdn_token=") && target.contains(&version));
    assert_eq!(served.server.get(&target).status, 200);
    assert_eq!(served.server.get("/tracks/trk_unknown/master.m3u8").status, 404);
    assert_eq!(served.server.get("/watch/trk_unknown").status, 404);
    let posted = request(served.server.addr, "POST", &format!("/tracks/{track}/master.m3u8"), &[]);
    assert_eq!(posted.status, 405);
}

#[test]
fn health_and_metrics_answer_where_they_should() {
    let served = published_server();
    for addr in [served.server.addr, served.server.admin] {
        assert_eq!(request(addr, "GET", "/livez", &[]).status, 200);
        assert_eq!(request(addr, "GET", "/readyz", &[]).status, 200);
    }
    let segment = join(&join(path_of(&served.aac_master), "96/index.m3u8"), "00000.mp4");
    assert_eq!(served.server.get(&segment).status, 200);
    assert_eq!(request(served.server.addr, "GET", "/metrics", &[]).status, 404, "metrics are not public");
    // Counters are sampled four times a second, where there is a core to do it on.
    for name in
        ["segue_origin_requests_total", "segue_origin_socket_bytes_total", "segue_origin_request_seconds_bucket"]
    {
        until(|| request(served.server.admin, "GET", "/metrics", &[]).text().contains(name));
    }
}

#[test]
fn an_origin_without_pages_is_healthy_on_both_listeners_and_knows_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &["--role", "origin"], &[]);
    for path in ["/livez", "/readyz"] {
        assert_eq!(server.get(path).status, 200, "{path}");
        assert_eq!(request(server.admin, "GET", path, &[]).status, 200, "{path}");
    }
    for path in ["/", "/watch/x", "/metrics", "/api/v1/transcodes", "/tracks/x/master.m3u8"] {
        let reply = server.get(path);
        assert_eq!((reply.status, reply.header("cache-control")), (404, Some("no-store")), "{path}");
    }
}

#[test]
fn a_hangup_ends_no_server() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Server::start(directory.path(), &["--role", "origin"], &[]);
    server.signal("HUP");
    server.signal("HUP");
    assert_eq!(server.get("/livez").status, 200);
    server.signal("TERM");
    assert!(server.child.wait().unwrap().success());
}

#[test]
fn sigterm_drains_and_ends_with_success() {
    let served = published_server();
    let mut server = served.server;
    server.signal("TERM");
    let status = server.child.wait().unwrap();
    assert!(status.success(), "{status:?}");
}

#[test]
fn a_static_tree_holds_the_same_bytes_as_the_origin_serves() {
    let served = published_server();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("hls");
    let done = run(["transcode".as_ref(), served.source_wav.as_os_str(), "--out".as_ref(), out.as_os_str()]);
    assert!(done.status.success(), "{}", said(&done));
    let read = |path: &str| fs::read(out.join(path)).unwrap_or_else(|cause| panic!("{path}: {cause}"));
    let base = path_of(&served.all_master);
    for path in [
        "master.m3u8",
        "aac/master.m3u8",
        "flac/master.m3u8",
        "aac/64/index.m3u8",
        "aac/160/init.mp4",
        "aac/256/00003.mp4",
        "flac/index.m3u8",
        "flac/00001.mp4",
    ] {
        let reply = served.server.get(&join(base, path));
        assert_eq!(reply.status, 200, "{path}");
        assert!(reply.body == read(path), "{path} differs");
    }
    let (_, version) = ids(&published().report);
    let (_, sealed) = VersionIndex::decode(&read("version.json")).unwrap().seal();
    assert_eq!(sealed.to_string(), version, "same input, same bytes, same version id");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside the tree");
}

#[test]
fn publishing_again_under_the_same_track_shows_the_new_version_and_keeps_the_old() {
    let dir = tempfile::tempdir().unwrap();
    let wav = |name: &str, seconds: &str| {
        let path = dir.path().join(name);
        let sine = format!("sine=frequency=440:sample_rate=48000:duration={seconds}");
        let made =
            Command::new("ffmpeg").args(["-v", "error", "-f", "lavfi", "-i", &sine]).arg(&path).status().unwrap();
        assert!(made.success());
        path
    };
    let data = dir.path().join("data");
    let publish = |file: &Path, more: &[&str]| -> serde_json::Value {
        let output =
            segue().arg("publish").arg(file).args(["--json", "--data"]).arg(&data).args(more).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let first = publish(&wav("one.wav", "2"), &["--title", "Sine"]);
    let (track, old) = ids(&first);
    let second = publish(&wav("two.wav", "3"), &["--track", &track]);
    let (same, new) = ids(&second);
    assert!(same == track && new != old && second["title"] == "Sine");
    let server = Server::start(&data, &[], &[]);
    let location = server.get(&format!("/tracks/{track}/master.m3u8"));
    assert!(location.header("location").unwrap().contains(&new));
    for report in [&first, &second] {
        assert_eq!(server.get(report["master_url"].as_str().unwrap()).status, 200);
    }
}

/// A server that was stopped before the demo was ready, and then something else was published.
#[test]
fn the_demo_is_made_beside_other_tracks() {
    let dir = tempfile::tempdir().unwrap();
    let tracks = dir.path().join("store/tracks");
    fs::create_dir_all(&tracks).unwrap();
    let other = r#"{"id":"trk_other","title":"x","version":"00112233445566778899aabbccddeeff00112233","samples":1,"rate":44100,"lossless":false}"#;
    fs::write(tracks.join("trk_other.json"), other).unwrap();
    let server = Server::start(dir.path(), &["--demo"], &[]);
    let page = server.get("/watch/trk_demo");
    assert!(page.status == 200 && page.text().contains("data-state=\"preparing\""), "{}", page.head);
    // Stopped in the middle: the next start begins again.
    drop(server);
    let server = Server::start(dir.path(), &["--demo"], &[]);
    assert_eq!(server.get("/watch/trk_demo").status, 200);
    server.signal("TERM");
}

/// Kills `publish` at ever later moments until one run survives: after each kill nothing is visible
/// that is not whole, and the next start sweeps what was left.
#[test]
fn a_publish_killed_at_any_moment_leaves_nothing_half_made() {
    let dir = tempfile::tempdir().unwrap();
    let wav = dir.path().join("short.wav");
    let tone = ["-v", "error", "-f", "lavfi", "-i", "sine=frequency=330:sample_rate=44100:duration=4"];
    assert!(Command::new("ffmpeg").args(tone).arg(&wav).status().unwrap().success());
    let data = dir.path().join("data");
    let (mut delay_ms, mut killed, mut finished) = (5u64, 0, 0);
    while finished < 2 {
        assert!(delay_ms < 60_000, "publish never finishes");
        let mut child = segue()
            .arg("publish")
            .arg(&wav)
            .arg("--data")
            .arg(&data)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(delay_ms));
        let _ = child.kill();
        match child.wait().unwrap().success() {
            true => finished += 1,
            false => killed += 1,
        }
        check_store(&data.join("store"));
        delay_ms += delay_ms / 4 + 5;
    }
    assert!(killed > 5, "only {killed} runs were killed");
    drop(Server::start(&data, &[], &[]));
    let staging = data.join("store/staging");
    for _ in 0..100 {
        if fs::read_dir(&staging).unwrap().next().is_none() {
            for track in fs::read_dir(data.join("store/v")).unwrap().map(|entry| entry.unwrap().path()) {
                assert!(fs::read_dir(&track).unwrap().next().is_some(), "{} is empty", track.display());
            }
            // A server that is killed may leave a key half written; the next one sweeps that as well, a little after its start.
            let _server = Server::start(&data, &[], &[]);
            let names =
                || fs::read_dir(data.join("secrets")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
            while !names().all(|name| name.ends_with(".key")) {
                std::thread::sleep(Duration::from_millis(20));
            }
            assert!(names().any(|name| name == "bunny.key"));
            return;
        }
        // The sweep runs beside the start; a server that was killed may not have come so far.
        let server = Server::start(&data, &[], &[]);
        std::thread::sleep(Duration::from_millis(100));
        drop(server);
    }
    panic!("interrupted attempts were not swept");
}

/// Every visible version is whole, and every record points to one.
fn check_store(store: &Path) {
    let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().map(|e| e.unwrap().path()).collect::<Vec<_>>();
    for version in entries(&store.join("v")).iter().flat_map(|track| entries(track)) {
        let id = version.file_name().unwrap().to_str().unwrap().parse().unwrap();
        let index = VersionIndex::decode_as(id, &fs::read(version.join("version.json")).unwrap()).unwrap();
        for object in index.objects() {
            let bytes = fs::read(version.join(&object.name)).unwrap();
            assert_eq!(bytes.len() as u64, object.bytes);
            assert_eq!(sha256(&bytes), object.sha256, "{}", object.name);
        }
    }
    for record in entries(&store.join("tracks")) {
        let track: serde_json::Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
        let (id, version) = (track["id"].as_str().unwrap(), track["version"].as_str().unwrap());
        assert!(store.join("v").join(id).join(version).join("version.json").exists());
    }
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    segue::base::hex::encode(&sha2::Sha256::digest(bytes))
}

#[test]
fn the_readers_of_the_boxes_agree() {
    // `check_rung` above is the independent reader; this keeps the crate's own reader honest with it.
    let published = published();
    let (track, version) = ids(&published.report);
    let dir = published.data.join("store/v").join(track).join(version);
    let index = VersionIndex::decode(&fs::read(dir.join("version.json")).unwrap()).unwrap();
    for rung in &index.rungs {
        let file = fs::read(dir.join(&rung.object.name)).unwrap();
        let init = cmaf::decode_init(&file[..rung.init.bytes as usize]).unwrap();
        assert_eq!((init.rate, init.priming), (rung.rate, rung.priming), "{}", rung.path());
    }
}

/// Says all it has to say, closes its sending side, and listens: the answer must still be whole.
#[test]
fn a_half_closed_client_gets_its_whole_answer() {
    use std::io::{Read as _, Write as _};
    let served = published_server();
    let segment = join(&join(path_of(&served.flac_master), "index.m3u8"), "00001.mp4");
    let expected = served.server.get(&segment).body;
    for path in [segment.as_str(), "/livez"] {
        for _ in 0..10 {
            let mut stream = std::net::TcpStream::connect(served.server.addr).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            assert!(answer.starts_with(b"HTTP/1.1 200 "), "{path}: {} bytes", answer.len());
            assert!(path == "/livez" || answer.ends_with(&expected), "{path}: {} bytes", answer.len());
        }
    }
}
