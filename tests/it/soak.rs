//! Mixed load for a while, and what it leaves: memory, descriptors, threads and disk of a server that has everything to do
//! must not grow with time. A minute in `make test`, twenty by `make soak`, hours by `make soak SOAK_S=14400`.
//!
//! Compared are the medians of the second quarter of the time and of the last: the first quarter warms up.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Server, published, request};
use crate::uploads::{form_body, send, wav};

/// How long the load lasts, in seconds.
fn lasts() -> Duration {
    Duration::from_secs(std::env::var("SOAK_S").map_or(60, |text| text.parse().expect("SOAK_S is a number")))
}

/// What a process holds at one moment.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Memory of its own in KiB, without mapped files.
    anonymous_kib: f64,
    descriptors: f64,
    threads: f64,
    /// Of its data directory in KiB.
    disk_kib: f64,
}

/// How many times each kind of load was done.
#[derive(Default)]
struct Done {
    playbacks: AtomicU64,
    refusals: AtomicU64,
    uploads: AtomicU64,
    jobs: AtomicU64,
    pages: AtomicU64,
    dropped: AtomicU64,
}

#[test]
fn a_server_under_mixed_load_grows_in_nothing() {
    let (published, dir) = (published(), tempfile::tempdir().unwrap());
    let data = dir.path().join("data");
    copy(&published.data, &data);
    let (key, sha256) = segue::api::keys::make();
    let keys = format!("[{{ id = \"one\", sha256 = \"{sha256}\" }}]");
    let env = [
        ("SEGUE_API__KEYS", keys.as_str()),
        ("SEGUE_WORKER__POLL_MS", "100"),
        ("SEGUE_UPLOADS__LOCK_S", "1"),
        ("SEGUE_LOG__FILTER", "error"),
        ("SEGUE_LOG__ACCESS", "off"),
    ];
    let mut server = Server::start(&data, &[], &env);
    let (over, done) = (AtomicBool::new(false), Done::default());
    let master = published.report["master_url"].as_str().unwrap();
    let watch = format!("/watch/{}", published.report["track_id"].as_str().unwrap());
    let bearer = format!("Bearer {key}");
    let mut samples = Vec::new();
    std::thread::scope(|scope| {
        let (over, done, addr) = (&over, &done, server.addr);
        let pages = [watch.as_str(), "/tracks/nothing/master.m3u8", "/api/v1/upload/limits"];
        for _ in 0..2 {
            scope.spawn(move || again(over, &done.playbacks, || play(addr, master)));
        }
        scope.spawn(move || again(over, &done.refusals, || refused(addr)));
        scope.spawn(move || again(over, &done.dropped, || leave(addr, master)));
        scope.spawn(move || again(over, &done.pages, || look(addr, &pages)));
        let sender = bearer.as_str();
        scope.spawn(move || again(over, &done.uploads, || upload(addr, sender, &done.jobs)));
        let begun = Instant::now();
        while begun.elapsed() < lasts() {
            std::thread::sleep(Duration::from_millis(500));
            samples.push(sample(server.child.id(), &data));
            assert!(server.child.try_wait().unwrap().is_none(), "the server ended");
        }
        over.store(true, Ordering::Relaxed);
    });
    judge(&samples, &done);
    server.signal("TERM");
    assert!(server.child.wait().unwrap().success(), "it ends well");
}

/// Does some work over and over, and counts it.
fn again(over: &AtomicBool, count: &AtomicU64, mut work: impl FnMut()) {
    while !over.load(Ordering::Relaxed) {
        work();
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Pages, and what is not there.
fn look(addr: SocketAddr, pages: &[&str]) {
    for page in pages {
        let reply = request(addr, "GET", page, &[]);
        assert!(reply.status < 500, "{}", reply.head);
    }
    std::thread::sleep(Duration::from_millis(5));
}

/// As a player: the playlists and every segment of the lowest rung, some of them again, some by range.
fn play(addr: SocketAddr, master: &str) {
    let fetch = |path: &str, headers: &[(&str, &str)], wanted: u16| {
        let reply = request(addr, "GET", path, headers);
        assert_eq!(reply.status, wanted, "{path}: {}", reply.head);
        reply
    };
    let beside = |path: &str, name: &str| format!("{}/{name}", &path[..path.rfind('/').unwrap()]);
    let (_, playlist) = m3u8_rs::parse_master_playlist(&fetch(master, &[], 200).body).unwrap();
    let rung = beside(master, &playlist.variants[0].uri);
    let media = fetch(&rung, &[("Accept-Encoding", "gzip")], 200);
    fetch(&rung, &[("Accept-Encoding", "gzip"), ("If-None-Match", media.header("etag").unwrap())], 304);
    let (_, media) = m3u8_rs::parse_media_playlist(&fetch(&rung, &[], 200).body).unwrap();
    for segment in &media.segments {
        let path = beside(&rung, &segment.uri);
        fetch(&path, &[], 200);
        assert_eq!(fetch(&path, &[("Range", "bytes=100-1099")], 206).body.len(), 1_000);
    }
}

/// What is refused: forged tokens, unknown names, crooked ranges, half a head.
fn refused(addr: SocketAddr) {
    for path in ["/bcdn_token=HS256-AAAA&expires=9999999999/a/x/y/z.mp4", "/a/x/%2e%2e/y", "/nothing", "/d/x"] {
        let reply = request(addr, "GET", path, &[("Range", "bytes=5-1")]);
        assert!((400..500).contains(&reply.status), "{path}: {}", reply.head);
    }
    let mut half = TcpStream::connect(addr).unwrap();
    half.write_all(b"GET /a/x HTTP/1.1\r\nHo").unwrap();
    std::thread::sleep(Duration::from_millis(5));
}

/// A listener who leaves in the middle of an answer.
fn leave(addr: SocketAddr, master: &str) {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let path = master.replace("master.m3u8", "64/00000.mp4");
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\n\r\n").as_bytes()).unwrap();
    let _ = stream.read(&mut [0; 512]);
    std::thread::sleep(Duration::from_millis(5));
}

/// An upload that becomes the same version of the same track each time, and is removed; and one that is given up.
fn upload(addr: SocketAddr, bearer: &str, jobs: &AtomicU64) {
    let ask = |method: &str, path: &str, more: &[(&str, &str)], body: &[u8]| -> Value {
        let mut headers = vec![("Authorization", bearer)];
        headers.extend(more);
        let reply = send(addr, method, path, &headers, body);
        assert!(reply.status < 300, "{method} {path}: {} {}", reply.head, reply.text());
        serde_json::from_slice(&reply.body).unwrap_or(Value::Null)
    };
    let until = |path: &str, state: &str| loop {
        let value = ask("GET", path, &[], b"");
        if value["state"] == state {
            return;
        }
        assert!(!["dead", "refused"].contains(&value["state"].as_str().unwrap()), "{value:#}");
        std::thread::sleep(Duration::from_millis(50));
    };
    let given_up =
        ask("POST", "/api/v1/uploads", &[("Content-Type", "application/json")], br#"{"kind":"audio","bytes":9}"#);
    ask("DELETE", &format!("/api/v1/uploads/{}", given_up["id"].as_str().unwrap()), &[], b"");
    let (content_type, form) = form_body(&[("kind", "audio")], Some(("soak.wav", &wav(600_000, 7))));
    let sent = ask("POST", "/api/v1/uploads", &[("Content-Type", &content_type)], &form);
    let id = sent["id"].as_str().unwrap();
    let path = format!("/api/v1/uploads/{id}");
    until(&path, "ready");
    let key = format!("\"{id}\"");
    let wish = json!({ "source": { "upload": id }, "track": "trk_soak", "title": "Soak" }).to_string();
    let job = ask("POST", "/api/v1/transcodes", &[("Idempotency-Key", &key)], wish.as_bytes());
    until(&format!("/api/v1/transcodes/{}", job["id"].as_str().unwrap()), "succeeded");
    jobs.fetch_add(1, Ordering::Relaxed);
    ask("DELETE", &path, &[], b"");
}

fn sample(pid: u32, data: &Path) -> Sample {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| -> f64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_matches([':', '\t', ' ']).split(' ').next().unwrap().parse().unwrap()
    };
    Sample {
        anonymous_kib: field("RssAnon"),
        descriptors: fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as f64,
        threads: field("Threads"),
        disk_kib: disk(data) as f64 / 1024.0,
    }
}

/// Bytes of files below a directory; what goes while we look is not there.
fn disk(below: &Path) -> u64 {
    let entries = fs::read_dir(below).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(about) if about.is_dir() => disk(&entry.path()),
        Ok(about) => about.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}

/// What is watched: its name, where it is in a sample, and how much more may be normal.
type Kind = (&'static str, fn(&Sample) -> f64, f64);

/// Prints what grew, and panics when it did.
fn judge(samples: &[Sample], done: &Done) {
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (jobs, uploads) = (count(&done.jobs), count(&done.uploads));
    eprintln!(
        "{} playbacks, {} refused, {} left, {} rounds of pages, {uploads} uploads, {jobs} jobs in {} s",
        count(&done.playbacks),
        count(&done.refusals),
        count(&done.dropped),
        count(&done.pages),
        lasts().as_secs()
    );
    assert!(count(&done.playbacks) > 5 && count(&done.refusals) > 5 && jobs > 0, "there was load");
    let median = |part: &[Sample], of: fn(&Sample) -> f64| {
        let mut values: Vec<f64> = part.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let quarter = samples.len() / 4;
    let (early, late) = (&samples[quarter..2 * quarter], &samples[3 * quarter..]);
    // Between the two medians lies half of the time.
    let hours = lasts().as_secs_f64() / 2.0 / 3600.0;
    // What rows of jobs and uploads may take, kept for worker.keep_days, and the write-ahead log.
    let rows_kib = (jobs + 2 * uploads) as f64 * 64.0 + 16_384.0;
    let kinds: [Kind; 4] = [
        ("memory, KiB", |sample| sample.anonymous_kib, 24_576.0),
        ("descriptors", |sample| sample.descriptors, 32.0),
        ("threads", |sample| sample.threads, 8.0),
        ("disk, KiB", |sample| sample.disk_kib, rows_kib),
    ];
    let mut grew = Vec::new();
    for (name, of, allowed) in kinds {
        let (before, after) = (median(early, of), median(late, of));
        // A tenth, for what an allocator keeps, or the allowance, whichever is more.
        let most = f64::max(allowed, before / 10.0);
        let slope = (after - before) / hours;
        eprintln!("{name:12} {before:10.0} then {after:10.0}: {slope:+10.0} an hour, {most:.0} allowed in all");
        if after - before > most {
            grew.push(name);
        }
    }
    assert!(grew.is_empty(), "these grew: {grew:?}");
}

/// A data directory of its own, the store's files copied; the database is made anew.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false if entry.file_name().to_string_lossy().starts_with("segue.db") => {}
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}
