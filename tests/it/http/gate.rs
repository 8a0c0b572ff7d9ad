//! What a legal demand closes is closed everywhere, soon, for everybody; what is hidden looks as if it
//! had never been. RFC 7725.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use segue::base::clock::Clock;
use segue::base::id::TrackId;
use segue::origin::Origin;
use segue::origin::blocks::{self, Entry, State};
use segue::store::{LocalStore, Store};

use super::bench::{Bench, Reply, Setup, TRACK, keys};
use crate::support::{Server, published, request, said, segue};

fn guarded() -> Bench {
    Bench::with(Setup { origin: Default::default(), ..Setup::default() })
}

fn track() -> TrackId {
    TrackId::decode(TRACK).unwrap()
}

fn store(bench: &Bench) -> Store {
    LocalStore::open(bench.directory.path()).unwrap().into()
}

fn block(bench: &Bench, state: State) {
    let reason = Some("Example Ltd under 17 USC 512".into());
    blocks::block(&store(bench), track(), Entry { state, reason, since_s: 1_800_000_000 }).unwrap();
}

/// Asks until the answer has this status, and says how long that took.
#[track_caller]
fn until(status: u16, ask: impl Fn() -> u16) -> Duration {
    let started = Instant::now();
    loop {
        let last = ask();
        if last == status {
            return started.elapsed();
        }
        assert!(started.elapsed() < Duration::from_secs(20), "still {last} instead of {status}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// One path of every URL space and kind.
fn everywhere(bench: &Bench) -> Vec<String> {
    let rests = [
        "master.m3u8",
        "aac/master.m3u8",
        "flac/master.m3u8",
        "aac/96/index.m3u8",
        "aac/96/init.mp4",
        "flac/00001.mp4",
    ];
    let of = |space, rest| bench.published.path(space, rest);
    let others =
        [("d", "aac-96.mp4"), ("d", "flac.mp4"), ("p", "preview.m4a"), ("w", "peaks.bin"), ("w", "peaks.json")];
    rests.map(|rest| of("a", rest)).into_iter().chain(others.map(|(space, rest)| of(space, rest))).collect()
}

#[test]
fn a_block_closes_every_path_while_it_streams_and_lifting_it_opens_them_again() {
    let bench = guarded();
    let signed = |path: &String| bench.signed(&format!("/{}/{TRACK}/", &path[1..2]), path);
    let paths: Vec<_> = everywhere(&bench).iter().map(signed).collect();
    for path in &paths {
        bench.get(path, "").expect(200);
    }
    // A body on its way, more than the socket holds, of which nothing was read yet.
    let mut streaming = bench.connect();
    let big = signed(&bench.a("flac/00002.mp4"));
    streaming.send(&format!("GET {big} HTTP/1.1\r\nHost: x\r\n\r\n"));
    assert_eq!(streaming.stream.peek(&mut [0]).unwrap(), 1, "it has begun");

    block(&bench, State::Blocked);
    let took = until(451, || bench.get(&paths[0], "").status);
    eprintln!("dark after {} ms", took.as_millis());
    for path in paths.iter().chain(&everywhere(&bench)) {
        // With a token and without: that it is closed is no secret, and no token opens it.
        for lines in ["", "Range: bytes=0-9\r\n", "If-None-Match: *\r\n", "If-Match: \"x\"\r\n"] {
            let reply = bench.get(path, lines);
            reply.expect(451);
            assert_eq!(reply.body, b"unavailable for legal reasons: Example Ltd under 17 USC 512\n");
            for (name, value) in [
                // RFC 7725 §4: "the entity implementing the blocking", not who demands it.
                ("link", "</>; rel=\"blocked-by\""),
                // §3: "A 451 response is cacheable by default", and a lifted block has to show.
                ("cache-control", "no-store"),
                ("content-type", "text/plain; charset=utf-8"),
                ("access-control-allow-origin", "*"),
                ("cross-origin-resource-policy", "cross-origin"),
            ] {
                assert_eq!(reply.header(name), Some(value), "{path} {name}");
            }
            assert_eq!((reply.header("etag"), reply.header("cdn-tag")), (None, None));
        }
        let head = bench.request("HEAD", path, "");
        assert_eq!(head.expect(451).header("content-length"), Some("60"));
    }
    bench.request("OPTIONS", &paths[0], "").expect(204);
    bench.get(&bench.a("aac/96/nothing.mp4"), "").expect(404);
    let whole = streaming.reply(false).unwrap();
    assert!(whole.expect(200).body == bench.published.segment("flac.mp4", 2), "what had begun ends whole");
    streaming.send(&format!("GET {big} HTTP/1.1\r\nHost: x\r\n\r\n"));
    streaming.reply(false).unwrap().expect(451);

    blocks::unblock(&store(&bench), track()).unwrap();
    until(200, || bench.get(&paths[0], "").status);
    for path in &paths {
        bench.get(path, "").expect(200);
    }
}

#[test]
fn another_track_is_not_touched() {
    let bench = Bench::open();
    let other = TrackId::decode("trk_other").unwrap();
    blocks::block(&store(&bench), other, Entry { state: State::Blocked, reason: None, since_s: 1 }).unwrap();
    let of_other = bench.a("master.m3u8").replace(TRACK, "trk_other");
    until(451, || bench.get(&of_other, "").status);
    assert_eq!(bench.get(&of_other, "").body, b"unavailable for legal reasons\n");
    bench.get(&bench.a("master.m3u8"), "").expect(200);
}

#[test]
fn a_hidden_track_looks_as_if_it_had_never_been() {
    for state in [State::Private, State::Deleted] {
        let bench = guarded();
        let visible = |path: &str, lines: &str| bench.get(path, lines);
        visible(&bench.published.path("p", "preview.m4a"), "").expect(200);
        block(&bench, state);
        until(404, || bench.get(&bench.published.path("p", "preview.m4a"), "").status);
        let told = |reply: Reply| {
            let headers: Vec<_> = reply.headers.into_iter().filter(|(name, _)| name != "x-request-id").collect();
            (reply.status, headers, reply.body)
        };
        for path in everywhere(&bench) {
            let unknown = path.replace(TRACK, "trk_0000000000000000none");
            let scope = |path: &str| format!("{}/", &path[..path[3..].find('/').unwrap() + 3]);
            for lines in ["", "Range: bytes=0-9\r\n", "If-None-Match: *\r\n"] {
                // Without a token, and with one that is good for its directory.
                for (here, there) in [
                    (path.clone(), unknown.clone()),
                    (bench.signed(&scope(&path), &path), bench.signed(&scope(&unknown), &unknown)),
                ] {
                    let same = (0..20).any(|_| {
                        // Their dates are of the same second in one of the tries.
                        let (hidden, never) = (told(bench.get(&here, lines)), told(bench.get(&there, lines)));
                        assert!([403, 404].contains(&hidden.0), "{here}: {}", hidden.0);
                        assert_eq!((hidden.0, &hidden.2), (never.0, &never.2), "{here}");
                        hidden == never
                    });
                    assert!(same, "{here} does not look like {there}");
                }
            }
        }
    }
}

#[test]
fn what_is_public_of_a_guarded_track_takes_a_token_and_no_cache_keeps_it() {
    let bench = guarded();
    let public = [("p", "preview.m4a"), ("w", "peaks.bin"), ("w", "peaks.json")];
    let public = public.map(|(space, rest)| bench.published.path(space, rest));
    let guard = |guarded| blocks::guard(&store(&bench), blocks::Guard::All, &[track()], guarded).unwrap();
    guard(true);
    until(404, || bench.get(&public[0], "").status);
    for path in &public {
        let unknown = path.replace(TRACK, "trk_0000000000000000none");
        let (it, never) = (bench.get(path, ""), bench.get(&unknown, ""));
        assert_eq!((it.status, it.header("cache-control"), &it.body), (404, Some("no-store"), &never.body), "{path}");
        let opened = bench.get(&bench.signed(&format!("/{}/{TRACK}/", &path[1..2]), path), "");
        assert_eq!(opened.expect(200).header("cache-control"), Some("private, no-store"), "{path}");
        let wrong = bench.signed(&format!("/a/{TRACK}/"), path);
        assert_eq!(bench.get(&wrong, "").status, 404, "a token for its segments opens {path}");
    }
    let segment = bench.a("aac/96/00001.mp4");
    let signed = bench.signed(&format!("/a/{TRACK}/"), &segment);
    let cached = bench.get(&signed, "").expect(200).header("cache-control").map(str::to_owned);
    assert!(
        cached.is_some_and(|kept| kept.contains("immutable")),
        "what takes a token anyway is kept by caches as before"
    );
    bench.get(&segment, "").expect(403);
    guard(false);
    until(200, || bench.get(&public[0], "").status);
    for path in &public {
        assert!(bench.get(path, "").expect(200).header("cache-control").unwrap().contains("immutable"), "{path}");
    }
}

#[test]
fn an_origin_does_not_start_when_it_cannot_learn_what_is_blocked() {
    let bench = Bench::open();
    block(&bench, State::Blocked);
    let start = || Origin::new(Default::default(), store(&bench), keys(), Clock::System).map(drop);
    start().unwrap();
    let document = bench.directory.path().join("blocks.json");
    let good = fs::read(&document).unwrap();
    fs::write(&document, &good[..good.len() / 2]).unwrap();
    assert!(start().unwrap_err().chain().contains("nothing may be served"));
    fs::remove_file(&document).unwrap();
    assert!(start().unwrap_err().chain().contains("has vanished"));
    fs::write(&document, good).unwrap();
    start().unwrap();
}

/// A copy of the published demo that this test may change, and its ids.
fn own_copy() -> (tempfile::TempDir, String, String) {
    let published = published();
    let dir = tempfile::tempdir().unwrap();
    let copied = Command::new("cp").arg("-r").arg(&published.data).arg(dir.path().join("data")).status().unwrap();
    assert!(copied.success());
    let text = |key: &str| published.report[key].as_str().unwrap().to_owned();
    (dir, text("track_id"), text("version"))
}

fn run(data: &Path, args: &[&str]) -> std::process::Output {
    segue().args(args).arg("--data").arg(data).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn three_origins_on_one_store_go_dark_and_the_pages_with_them() {
    let (dir, track, version) = own_copy();
    let data = dir.path().join("data");
    let servers: Vec<_> = (0..3)
        .map(|_| {
            let settings = [("SEGUE_ORIGIN__BLOCKED_BY", "https://music.example/legal"), ("SEGUE_ORIGIN__CORES", "1")];
            Server::start(&data, &[], &settings)
        })
        .collect();
    let preview = format!("/p/{track}/{version}/preview.m4a");
    let pages = [format!("/watch/{track}"), format!("/tracks/{track}/master.m3u8")];
    for server in &servers {
        assert_eq!([&preview, &pages[0], &pages[1]].map(|path| server.get(path).status), [200, 200, 302]);
    }
    let done = run(&data, &["block", &track, "--reason", "<b>Example</b> under 17 USC 512"]);
    assert!(done.status.success(), "{}", said(&done));
    for server in &servers {
        let took = until(451, || server.get(&preview).status);
        eprintln!("a node went dark {} ms later than the one before", took.as_millis());
        for path in [&preview, &pages[0], &pages[1]] {
            let reply = server.get(path);
            assert_eq!(reply.status, 451, "{path}");
            assert_eq!(reply.header("link"), Some("<https://music.example/legal>; rel=\"blocked-by\""), "{path}");
            assert_eq!(reply.header("cache-control"), Some("no-store"), "{path}");
        }
        let page = server.get(&pages[0]).text();
        assert!(page.contains("&lt;b&gt;Example&lt;/b&gt; under 17 USC 512") && !page.contains("<audio"), "{page}");
        assert_eq!(server.get(&format!("/a/{track}/{version}/flac/00000.mp4")).status, 451);
    }
    let listed = run(&data, &["blocks", "--json"]);
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed[&track]["state"], "blocked");

    // A broken document lifts nothing, anywhere; the metric says that it was seen.
    let document = data.join("store/blocks.json");
    let good = fs::read(&document).unwrap();
    fs::write(&document, b"{").unwrap();
    for server in &servers {
        let failures = || {
            let metrics = request(server.admin, "GET", "/metrics", &[]).text();
            let counted = metrics.lines().find_map(|line| line.strip_prefix("segue_origin_blocks_failures_total "));
            counted.map_or(0, |count| count.parse::<u64>().unwrap())
        };
        until(1, || u16::from(failures() > 1));
        assert_eq!(server.get(&preview).status, 451);
    }
    let refused = run(&data, &["unblock", &track]);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    fs::write(&document, good).unwrap();

    let done = run(&data, &["unblock", &track]);
    assert!(done.status.success(), "{}", said(&done));
    for server in &servers {
        until(200, || server.get(&preview).status);
        assert_eq!([&pages[0], &pages[1]].map(|path| server.get(path).status), [200, 302]);
    }
    let again = run(&data, &["unblock", &track]);
    assert_eq!((again.status.code(), said(&again).lines().count()), (Some(1), 1), "{}", said(&again));

    // Hidden pages are the page of a track that never was, byte for byte.
    let done = run(&data, &["block", &track, "--as", "private"]);
    assert!(done.status.success(), "{}", said(&done));
    for server in &servers {
        until(404, || server.get(&preview).status);
        for path in &pages {
            let (hidden, never) = (server.get(path), server.get(&path.replace(&track, "trk_unknown")));
            assert_eq!((hidden.status, hidden.body), (404, never.body), "{path}");
        }
    }
}

#[test]
fn the_commands_refuse_what_makes_no_sense_in_one_line() {
    let (dir, track, _) = own_copy();
    let data = dir.path().join("data");
    let elsewhere = dir.path().join("elsewhere");
    let long = "x".repeat(1_001);
    for (data, args, code) in [
        (&data, &["block", "trk_unknown"][..], 1),
        (&data, &["block", "no/track"], 2),
        (&data, &["block", &track, "--reason", "two\nlines"], 1),
        (&data, &["block", &track, "--reason", &long], 1),
        (&data, &["block", &track, "--as", "gone"], 2),
        (&data, &["unblock", &track], 1),
        (&elsewhere, &["block", &track], 2),
        (&elsewhere, &["blocks"], 2),
    ] {
        let refused = run(data, args);
        assert_eq!(refused.status.code(), Some(code), "{args:?}: {}", said(&refused));
        assert_eq!(said(&refused).trim_end().lines().count(), 1, "{args:?}: {}", said(&refused));
    }
    assert!(!elsewhere.exists() && !data.join("store/blocks.json").exists());
    assert!(run(&data, &["block", &track, "--as", "deleted"]).status.success());
    let kept = run(&data, &["unblock", &track]);
    assert!(!kept.status.success() && said(&kept).contains("deleted for good"), "{}", said(&kept));
}

/// Kills `segue block` at ever later moments: the document is the old or the new one, whole, and holds
/// every block that was acknowledged.
#[test]
fn a_block_killed_at_any_moment_is_made_or_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let store = Store::from(LocalStore::open(&data.join("store")).unwrap());
    let (mut delay_us, mut killed, mut acknowledged) = (500u64, 0, vec![]);
    for round in 0.. {
        assert!(delay_us < 60_000_000, "the command never ends");
        if acknowledged.len() == 3 {
            break;
        }
        let id = TrackId::decode(&format!("trk_{round}")).unwrap();
        fs::create_dir(data.join("store/v").join(id.as_str())).unwrap();
        let mut child = segue()
            .args(["block", id.as_str(), "--data"])
            .arg(&data)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_micros(delay_us));
        delay_us += delay_us / 12;
        let _ = child.kill();
        match child.wait().unwrap().success() {
            true => acknowledged.push(id),
            false => killed += 1,
        }
        let snapshot = blocks::read(&store).unwrap();
        assert!(acknowledged.iter().all(|id| snapshot.tracks.contains_key(id)), "round {round}");
    }
    let id = TrackId::decode("trk_0").unwrap();
    blocks::block(&store, id, Entry { state: State::Blocked, reason: None, since_s: 1 }).unwrap();
    eprintln!("{killed} killed, {} acknowledged", acknowledged.len());
    assert!(killed > 5, "only {killed} were killed");
    store.sweep().unwrap();
    assert_eq!(fs::read_dir(data.join("store/staging")).unwrap().count(), 0, "and nothing is left behind");
}
