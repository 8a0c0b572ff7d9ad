//! Sources by URL: a server in many bad moods, and what may not be asked at all.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use segue::base::{Error, Kind};
use segue::transcode::{Allowed, Fetching, Input, Options, ProbeReport, Progress, Remote, check_input, probe};

use super::bench::{Bench, ladder, options};
use crate::support;

/// What was asked.
#[derive(Clone, Debug)]
struct Asked {
    method: String,
    path: String,
    range: Option<(u64, u64)>,
    /// How many requests came before.
    nth: usize,
}

/// What is answered.
#[derive(Clone, Default)]
struct Answer {
    head: String,
    body: Vec<u8>,
    /// Ends the connection after so many bytes of the body.
    cut: Option<usize>,
    /// Sends nothing more after so many bytes, but keeps the connection.
    stall: Option<usize>,
    /// Waits before the byte at this offset of the body until the gate opens.
    gate: Option<(usize, Arc<Gate>)>,
}

#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.changed.notify_all();
    }

    fn pass(&self) {
        let open = self.open.lock().unwrap();
        let limit = Duration::from_secs(30); // then the connection ends and the test fails
        drop(self.changed.wait_timeout_while(open, limit, |open| !*open).unwrap());
    }
}

type Mood = dyn Fn(&Asked) -> Answer + Send + Sync;

/// A server of one object.
struct Server {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    fn new(mood: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, mood): (_, Arc<Mood>) = (Arc::clone(&asked), Arc::new(mood));
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (log, mood) = (Arc::clone(&log), Arc::clone(&mood));
                std::thread::spawn(move || serve(stream.unwrap(), &log, &*mood));
            }
        });
        Server { address, asked }
    }

    /// A server in a good mood until `nth` requests came; then in another.
    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn input(&self) -> Input {
        Path::new(&self.url("/a/song.flac?X-Amz-Signature=5ecretsignature5ecret")).into()
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(mut stream: TcpStream, log: &Mutex<Vec<Asked>>, mood: &Mood) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let mut words = head.split(' ');
    let range =
        head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
    let range = range.map(|range| {
        let (start, end) = range.split_once('-').unwrap();
        (start.parse().unwrap(), end.parse().unwrap())
    });
    let asked = {
        let mut log = log.lock().unwrap();
        let (method, path) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
        let nth = log.len();
        log.push(Asked { method, path, range, nth });
        log.last().unwrap().clone()
    };
    let answer = mood(&asked);
    // Whoever asked may have what it wants and be gone.
    let _ = send(&mut stream, &answer);
}

fn send(stream: &mut TcpStream, answer: &Answer) -> std::io::Result<()> {
    stream.write_all(answer.head.as_bytes())?;
    let mut body = &answer.body[..];
    if let Some((at, gate)) = &answer.gate {
        let (before, after) = body.split_at((*at).min(body.len()));
        stream.write_all(before)?;
        gate.pass();
        body = after;
    }
    if let Some(at) = answer.cut.filter(|at| *at < body.len()) {
        return stream.write_all(&body[..at]);
    }
    if let Some(at) = answer.stall.filter(|at| *at < body.len()) {
        stream.write_all(&body[..at])?;
        std::thread::sleep(Duration::from_secs(30));
        return Ok(());
    }
    stream.write_all(body)
}

/// What a good server answers.
fn give(bytes: &[u8], asked: &Asked) -> Answer {
    give_as(bytes, asked, "ETag: \"one\"\r\n")
}

fn give_as(bytes: &[u8], asked: &Asked, more: &str) -> Answer {
    let total = bytes.len();
    let Some((start, end)) = asked.range else { return whole(bytes, more) };
    if start >= total as u64 {
        return status(416, &format!("Content-Range: bytes */{total}\r\n"));
    }
    let body = bytes[start as usize..=(end as usize).min(total - 1)].to_vec();
    let (length, end) = (body.len(), start as usize + body.len() - 1);
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\n{more}Content-Range: bytes {start}-{end}/{total}\r\nContent-Length: {length}\r\n\r\n"
    );
    Answer { head, body, ..Answer::default() }
}

fn whole(bytes: &[u8], more: &str) -> Answer {
    let head = format!("HTTP/1.1 200 OK\r\n{more}Content-Length: {}\r\n\r\n", bytes.len());
    Answer { head, body: bytes.to_vec(), ..Answer::default() }
}

fn status(code: u16, more: &str) -> Answer {
    Answer { head: format!("HTTP/1.1 {code} Said\r\n{more}Content-Length: 0\r\n\r\n"), ..Answer::default() }
}

/// Options that may ask this machine, and are impatient.
fn patient() -> Options {
    let allowed = Allowed { any_host: true, private: vec!["127.0.0.1".parse().unwrap()], ..Allowed::default() };
    let fetching = Fetching { allowed, pause_ms: 1, idle_s: 20, ..Fetching::default() };
    Options { fetching, ..options() }
}

/// A file of `seconds` and what it is when it is read from the disk.
struct Song {
    bytes: Arc<Vec<u8>>,
    local: ProbeReport,
}

impl Song {
    /// 16-bit WAV: 10 s are 1.7 MB, seven blocks.
    fn wav(bench: &Bench, seconds: u32) -> Song {
        Song::of(&bench.music(44_100, 2, seconds * 44_100))
    }

    fn of(path: &Path) -> Song {
        Song { bytes: Arc::new(std::fs::read(path).unwrap()), local: probe(path, &options()).unwrap() }
    }

    /// Reads it from a server in this mood; it must be the same song.
    fn check(&self, mood: impl Fn(&[u8], &Asked) -> Answer + Send + Sync + 'static) -> Vec<Asked> {
        let bytes = Arc::clone(&self.bytes);
        let server = Server::new(move |asked| mood(&bytes, asked));
        assert_eq!(probe(server.input(), &patient()).unwrap(), self.local);
        server.asked()
    }

    /// The same, but it cannot be read.
    fn refused(&self, mood: impl Fn(&[u8], &Asked) -> Answer + Send + Sync + 'static, kind: Kind, said: &str) {
        let bytes = Arc::clone(&self.bytes);
        let server = Server::new(move |asked| mood(&bytes, asked));
        let options = Options { fetching: Fetching { idle_s: 1, ..patient().fetching }, ..patient() };
        check_error(&probe(server.input(), &options).unwrap_err(), kind, said);
    }
}

fn check_error(error: &Error, kind: Kind, said: &str) {
    let line = error.chain();
    assert!(line.contains(said) && line.contains("cannot transcode http") && !line.contains('\n'), "{line}");
    assert_eq!(error.kind(), kind, "{line}");
    assert!(!line.contains("5ecretsignature"), "{line}");
}

#[test]
fn a_source_by_url_gives_the_same_bytes_as_a_file() {
    let bench = Bench::new();
    let flac = bench.convert(&bench.music(44_100, 2, 441_000), "", "a.flac");
    let local = bench.make(&flac);
    let bytes = std::fs::read(&flac).unwrap();
    let server = Server::new(move |asked| give(&bytes, asked));
    let directory = bench.path("out");
    std::fs::create_dir(&directory).unwrap();
    let never = AtomicBool::new(false);
    let index = segue::transcode::run(server.input(), &ladder(), &directory, &patient(), &mut |_| {}, &never).unwrap();
    assert_eq!(index, local.index);
    // What was downloaded had no name, and is gone.
    let mut names: Vec<_> = std::fs::read_dir(&directory).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names.len(), index.objects().count(), "{names:?}");
    let asked = server.asked();
    assert_eq!((asked[0].method.as_str(), asked[0].range), ("GET", Some((0, 0))), "it begins with a probe");
    assert!(asked.iter().all(|asked| asked.method == "GET"), "presigned URLs are bound to their method");
}

/// Three children, one after the other, read what is still arriving or has arrived: the same film as from the disk.
#[test]
fn a_film_by_url_is_the_film_of_the_file() {
    let bench = Bench::new();
    let out = bench.path("clip.mp4");
    let made = std::process::Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-f", "lavfi", "-i", "testsrc2=size=160x90:rate=25:duration=2"])
        .args([
            "-f",
            "lavfi",
            "-i",
            "sine=duration=2",
            "-c:v",
            "libx264",
            "-preset",
            "ultrafast",
            "-pix_fmt",
            "yuv420p",
        ])
        .args(["-c:a", "aac"])
        .arg(&out)
        .status()
        .unwrap();
    assert!(made.success());
    let bytes = std::fs::read(&out).unwrap();
    let server = Server::new(move |asked| give(&bytes, asked));
    let make = |input: Input| {
        let dir = tempfile::tempdir().unwrap();
        let choice = segue::hls::ladder::video::Choice::built_in();
        let never = AtomicBool::new(false);
        segue::transcode::run_as(input, &choice, dir.path(), &patient(), &mut |_| (), &never).unwrap()
    };
    let index = make(server.input());
    assert!(index.video.is_some());
    assert_eq!(index, make(out.as_path().into()));
}

#[test]
fn decoding_begins_while_the_download_goes_on() {
    let bench = Bench::new();
    let bytes = std::fs::read(bench.music(44_100, 2, 20 * 44_100)).unwrap();
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    // What is between 60 and 90 percent waits; the end does not, which GStreamer looks at first.
    let (from, to) = (bytes.len() as u64 * 6 / 10, bytes.len() as u64 * 9 / 10);
    let server = Server::new(move |asked| {
        let answer = give(&bytes, asked);
        let start = asked.range.map_or(0, |range| range.0);
        let held = (start < to).then(|| (from.saturating_sub(start) as usize, Arc::clone(&held)));
        Answer { gate: held.filter(|(at, _)| *at < answer.body.len()), ..answer }
    });
    let directory = bench.path("out");
    std::fs::create_dir(&directory).unwrap();
    let mut encoded_early = false;
    let mut watch = |progress| {
        // What is held back comes only after something was encoded.
        if let Progress::Encoded { .. } = progress {
            encoded_early = true;
            gate.open();
        }
    };
    let never = AtomicBool::new(false);
    let index = segue::transcode::run(server.input(), &ladder(), &directory, &patient(), &mut watch, &never).unwrap();
    assert_eq!(index.source.samples, 20 * 44_100);
    assert!(encoded_early);
    assert!(server.asked().len() < 10, "{:?}", server.asked());
}

#[test]
fn an_index_at_the_end_is_fetched_before_the_middle() {
    let bench = Bench::new();
    // 7 MB: the end is farther away than what a reader waits for.
    let wav = bench.music(44_100, 2, 40 * 44_100);
    let song = Song::of(&bench.convert(&wav, "-c:a pcm_s16be -f mov", "end.mov"));
    let asked = song.check(give);
    let starts: Vec<u64> = asked.iter().filter_map(|asked| asked.range).map(|range| range.0).collect();
    let end = song.bytes.len() as u64;
    assert!(starts.len() < 12, "{starts:?}");
    let jump = starts.iter().position(|start| *start > end - (2 << 20));
    assert!(jump.is_some_and(|jump| jump < starts.len() - 1), "after the end came the rest: {starts:?}");
}

#[test]
fn a_server_that_breaks_off_is_asked_for_the_rest() {
    let bench = Bench::new();
    let song = Song::wav(&bench, 10);
    let asked = song.check(|bytes, asked| Answer { cut: Some(400_000), ..give(bytes, asked) });
    assert!(asked.len() > 4, "{asked:?}");
    assert!(asked[2].range.unwrap().0 >= 262_144, "it goes on where it was: {asked:?}");
    song.check(|bytes, asked| match asked.nth {
        0..=2 => status(503, "Retry-After: 0\r\n"),
        3 => status(429, ""),
        _ => give(bytes, asked),
    });
    // The length is promised, the end comes early.
    song.check(|bytes, asked| Answer { cut: (asked.nth == 1).then_some(1_000_000), ..give(bytes, asked) });
    song.refused(|_, _| status(500, ""), Kind::Unavailable, "it answers 500; 7 tries in a row); try again later");
    song.refused(
        |bytes, asked| Answer { stall: Some(10), ..give(bytes, asked) },
        Kind::Unavailable,
        "nothing came for 1 s",
    );
    song.refused(|bytes, asked| Answer { cut: Some(10), ..give(bytes, asked) }, Kind::Unavailable, "the connection");
    // One that never gives a block of ours at once is read all the same, and nothing twice.
    let asked = song.check(|bytes, asked| Answer { cut: Some(100_000), ..give(bytes, asked) });
    let starts: Vec<u64> = asked.iter().filter_map(|asked| asked.range).map(|(first, _)| first).collect();
    assert!(starts.iter().any(|first| first % 262_144 != 0), "{starts:?}");
}

#[test]
fn a_server_without_ranges_is_read_from_its_start() {
    let bench = Bench::new();
    let song = Song::wav(&bench, 10);
    let asked = song.check(|bytes, _| whole(bytes, ""));
    assert_eq!(asked.len(), 1, "the answer to the probe is the download");
    // Broken off, it begins anew, and what comes again is compared.
    song.check(|bytes, asked| Answer { cut: (asked.nth < 2).then_some(900_000), ..whole(bytes, "") });
    let changed = "it changed on its server while it was read; start again";
    song.refused(
        |bytes, asked| {
            let mut bytes = bytes.to_vec();
            bytes[1000] ^= asked.nth as u8;
            Answer { cut: (asked.nth == 0).then_some(900_000), ..whole(&bytes, "") }
        },
        Kind::Unavailable,
        changed,
    );
    // No length: only the end tells.
    song.check(|bytes, _| Answer {
        head: "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".into(),
        body: bytes.to_vec(),
        ..Answer::default()
    });
}

#[test]
fn another_object_in_the_middle_is_never_mixed_in() {
    let bench = Bench::new();
    let song = Song::wav(&bench, 10);
    let changed = "it changed on its server while it was read; start again";
    song.refused(
        |bytes, asked| {
            let tag = format!("ETag: \"{}\"\r\n", asked.nth / 2);
            Answer { cut: Some(300_000), ..give_as(bytes, asked, &tag) }
        },
        Kind::Unavailable,
        changed,
    );
    song.refused(
        |bytes, asked| {
            let bytes = if asked.nth < 2 { bytes } else { &bytes[..bytes.len() - 1] };
            Answer { cut: Some(300_000), ..give_as(bytes, asked, "") }
        },
        Kind::Unavailable,
        changed,
    );
    song.refused(
        |bytes, asked| match asked.nth {
            0 => give(bytes, asked),
            _ => give(bytes, &Asked { range: Some((7, 90_000)), ..asked.clone() }),
        },
        Kind::Invalid,
        "answers with other bytes than it was asked for",
    );
}

#[test]
fn an_expired_url_is_signed_anew_if_the_object_is_ours() {
    let bench = Bench::new();
    let song = Song::wav(&bench, 10);
    let expires = |bytes: &[u8], asked: &Asked| match asked.path.contains("fresh") || asked.nth < 2 {
        true => Answer { cut: (asked.nth < 2).then_some(500_000), ..give(bytes, asked) },
        false => status(403, ""),
    };
    song.refused(expires, Kind::Invalid, "the server refuses the URL (403): it has expired or was not signed");
    let bytes = Arc::clone(&song.bytes);
    let server = Server::new(move |asked| expires(&bytes, asked));
    let signed = Arc::new(AtomicUsize::new(0));
    let remote = |fresh: String| {
        let signed = Arc::clone(&signed);
        let resign = move || {
            signed.fetch_add(1, Ordering::Relaxed);
            Ok(fresh.clone())
        };
        Remote { url: server.url("/song.flac?old"), sha256: None, resign: Some(Arc::new(resign)) }
    };
    assert_eq!(probe(remote(server.url("/song.flac?fresh")), &patient()).unwrap(), song.local);
    assert_eq!(signed.load(Ordering::Relaxed), 1);
    // A new URL is looked at like the first, and signing is not tried for ever.
    let error = probe(remote("http://10.0.0.1/x".into()), &patient()).unwrap_err();
    check_error(&error, Kind::Invalid, "a private address");
    let error = probe(remote(server.url("/song.flac?still-old")), &patient()).unwrap_err();
    check_error(&error, Kind::Invalid, "refuses the URL (403)");
}

#[test]
fn redirects_are_followed_on_the_same_server_only() {
    let bench = Bench::new();
    let song = Song::wav(&bench, 2);
    let asked = song.check(|bytes, asked| match asked.path.as_str() {
        "/there" => give(bytes, asked),
        _ => status(302, "Location: /there\r\n"),
    });
    assert_eq!(asked.iter().filter(|asked| asked.path != "/there").count(), 1, "what follows asks there at once");
    song.refused(|_, _| status(302, "Location: /round\r\n"), Kind::Invalid, "it redirects more than 3 times");
    song.refused(|_, _| status(302, ""), Kind::Invalid, "redirects to nowhere");
    for (place, said) in [
        ("http://localhost:1/x", "it redirects to another server (localhost:1)"),
        ("http://169.254.169.254/x", "it redirects to another server (169.254.169.254)"),
        ("//other.example/x", "it redirects to another server (other.example)"),
        ("file:///etc/passwd", "http:// and https:// only"),
    ] {
        let head = format!("Location: {place}\r\n");
        song.refused(move |_, _| status(307, &head), Kind::Invalid, said);
    }
}

#[test]
fn answers_that_make_no_sense_are_refused_in_words() {
    let bench = Bench::new();
    let song = Song::wav(&bench, 2);
    song.refused(|_, _| status(404, ""), Kind::NotFound, "there is no such object (404); check the URL");
    song.refused(|_, _| status(418, ""), Kind::Invalid, "the server answers 418; check the URL");
    song.refused(|_, asked| give(b"", asked), Kind::Invalid, "it is empty; upload the file again");
    song.refused(|_, _| whole(b"", ""), Kind::Invalid, "it is empty; upload the file again");
    song.refused(
        |bytes, asked| give_as(bytes, asked, "Content-Encoding: gzip\r\n"),
        Kind::Invalid,
        "the server sends it coded as gzip; store it as it is",
    );
    song.refused(
        |_, _| Answer {
            head: "HTTP/1.1 206 Partial Content\r\nContent-Length: 1\r\n\r\n".into(),
            body: vec![0],
            ..Answer::default()
        },
        Kind::Invalid,
        "a part without saying of what",
    );
    song.refused(
        |_, _| Answer {
            head: format!("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-0/{}\r\n\r\n", u64::MAX),
            ..Answer::default()
        },
        Kind::Invalid,
        "at most 8192 MiB are accepted",
    );
    song.refused(
        |_, _| Answer { head: "SSH-2.0-x\r\n\r\n".into(), ..Answer::default() },
        Kind::Unavailable,
        "try again",
    );
    song.refused(|_, _| whole(b"#EXTM3U\nhttp://127.0.0.1/x\n", ""), Kind::Invalid, "it is an m3u8 playlist");
    let endless = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    song.refused(
        move |_, _| Answer { head: endless.clone(), ..Answer::default() },
        Kind::Unavailable,
        "try again later",
    );
}

#[test]
fn a_hash_that_was_promised_is_compared() {
    let bench = Bench::new();
    let song = Song::wav(&bench, 2);
    let bytes = Arc::clone(&song.bytes);
    let server = Server::new(move |asked| give(&bytes, asked));
    let remote = |sha256: &str| Remote { url: server.url("/x"), sha256: Some(sha256.into()), resign: None };
    assert_eq!(probe(remote(&song.local.source.sha256.to_uppercase()), &patient()).unwrap(), song.local);
    let error = probe(remote(&"0".repeat(64)), &patient()).unwrap_err();
    check_error(&error, Kind::Invalid, "but 0000");
}

#[test]
fn a_cancelled_download_ends_soon() {
    let bench = Bench::new();
    let song = Song::wav(&bench, 10);
    for stall in [0, 300_000] {
        let bytes = Arc::clone(&song.bytes);
        let server = Server::new(move |asked| Answer {
            stall: (asked.nth > 0 || stall == 0).then_some(stall),
            ..give(&bytes, asked)
        });
        let cancel = AtomicBool::new(false);
        let error = std::thread::scope(|scope| {
            let run = scope.spawn(|| {
                let directory = tempfile::tempdir().unwrap();
                segue::transcode::run(server.input(), &ladder(), directory.path(), &patient(), &mut |_| {}, &cancel)
            });
            while server.asked().len() < if stall == 0 { 1 } else { 2 } {
                std::thread::sleep(Duration::from_millis(5));
            }
            cancel.store(true, Ordering::Relaxed);
            run.join().unwrap().unwrap_err()
        });
        assert_eq!(error.kind(), Kind::Cancelled, "{error:?}");
    }
}

#[test]
fn what_may_not_be_asked_is_not_asked() {
    let server = Server::new(|_| status(200, ""));
    let port = server.address.port();
    let check = |url: &str, allowed: Allowed, said: &str| {
        let options = Options { fetching: Fetching { allowed, ..patient().fetching }, ..options() };
        let error = probe(Path::new(url), &options).unwrap_err();
        let line = error.chain();
        assert!(line.contains(said) && !line.contains('\n'), "{url}: {line}");
        assert_eq!(error.kind(), Kind::Invalid, "{url}: {line}");
    };
    let any = || Allowed { any_host: true, ..Allowed::default() };
    let named = |rule: String| Allowed { hosts: vec![rule.parse().unwrap()], ..Allowed::default() };
    check(&server.url("/x"), any(), "add \"127.0.0.1:");
    check(&server.url("/x"), Allowed::default(), "to sources.allow_hosts");
    // A name that is allowed is not enough: where it leads counts.
    check(&server.url("/x"), named(format!("127.0.0.1:{port}")), "is at a loopback address");
    for host in ["localhost", "127.1", "0x7f.1", "2130706433", "[::1]", "[::ffff:127.0.0.1]"] {
        let url = format!("http://{host}:{port}/x");
        check(&url, named(format!("{host}:*")), "sources are not read from");
    }
    check(&format!("http://me:pw@127.0.0.1:{port}/x"), patient().fetching.allowed, "a user or a password");
    check(&format!("ftp://127.0.0.1:{port}/x"), patient().fetching.allowed, "http:// and https:// only");
    check("file:///etc/passwd", patient().fetching.allowed, "http:// and https:// only");
    assert!(server.asked().is_empty(), "{:?}", server.asked());
    assert!(check_input(Path::new("http://h:25/x"), &patient()).unwrap_err().chain().contains("port 25 of h"));
    // An address needs no resolver: who enqueues it hears at once.
    let options = Options { fetching: Fetching { allowed: any(), ..patient().fetching }, ..options() };
    let metadata = check_input(Path::new("http://169.254.169.254/latest/"), &options).unwrap_err().chain();
    assert!(metadata.contains("where clouds keep their metadata"), "{metadata}");
}

#[test]
fn https_needs_a_certificate_that_is_trusted() {
    let bench = Bench::new();
    let song = Song::wav(&bench, 2);
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let pem = bench.file("ca.pem", certified.cert.pem());
    let address = tls_server(&certified, Arc::clone(&song.bytes));
    let read = |ca_file: Option<PathBuf>, host: &str| {
        let mut options = patient();
        options.fetching.ca_file = ca_file;
        options.fetching.failures_max = 1;
        options.fetching.allowed.private.push("::1".parse().unwrap());
        options.fetching.allowed.hosts = vec!["localhost:*".parse().unwrap()];
        probe(Path::new(&format!("https://{host}:{}/x", address.port())), &options)
    };
    assert_eq!(read(Some(pem.clone()), "localhost").unwrap(), song.local);
    check_error(&read(None, "localhost").unwrap_err(), Kind::Invalid, "certificate is not accepted");
    check_error(&read(Some(pem), "127.0.0.1").unwrap_err(), Kind::Invalid, "certificate is not accepted");
    let missing = read(Some(bench.path("missing.pem")), "localhost").unwrap_err();
    check_error(&missing, Kind::Usage, "sources.ca_file");
}

fn tls_server(certified: &rcgen::CertifiedKey<rcgen::KeyPair>, bytes: Arc<Vec<u8>>) -> SocketAddr {
    use rustls::pki_types::PrivateKeyDer;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).await;
                let answer = whole(&bytes, "");
                let _ = stream.write_all(answer.head.as_bytes()).await;
                let _ = stream.write_all(&answer.body).await;
                let _ = stream.shutdown().await;
            }
        });
    });
    address
}

#[test]
fn the_command_line_takes_urls() {
    let bench = Bench::new();
    let song = Song::of(&bench.convert(&bench.music(44_100, 2, 2 * 44_100), "", "a.flac"));
    let bytes = Arc::clone(&song.bytes);
    let server = Server::new(move |asked| match asked.path.starts_with("/a/My%20song.flac") {
        true => give(&bytes, asked),
        false => status(404, ""),
    });
    let url = server.url("/a/My%20song.flac?X-Amz-Signature=5ecretsignature5ecret");
    let run = |allow: bool, arguments: &[&str]| {
        let mut command = support::segue();
        if allow {
            command.env("SEGUE_SOURCES__ALLOW_PRIVATE", "[\"127.0.0.1\"]");
        }
        let output = command.args(arguments).output().unwrap();
        let said = support::said(&output);
        assert!(!said.contains("5ecretsignature"), "{said}");
        (output.status.code(), said)
    };
    let out = bench.path("tree").display().to_string();
    let (code, said) = run(true, &["transcode", &url, "--out", &out]);
    assert_eq!(code, Some(0), "{said}");
    assert!(bench.path("tree/master.m3u8").exists());
    let data = bench.path("data").display().to_string();
    let (code, said) = run(true, &["publish", &url, "--data", &data]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("\"My song\""), "{said}");
    let (code, said) = run(true, &["probe", &url]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("/a/My%20song.flac: FLAC, 44100 Hz"), "{said}");
    let (code, said) = run(true, &["probe", &server.url("/other.flac")]);
    assert_eq!((code, said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains("/other.flac: there is no such object (404); check the URL"), "{said}");
    let nowhere = bench.path("nowhere").display().to_string();
    let (code, said) = run(false, &["publish", &url, "--data", &nowhere]);
    assert_eq!((code, said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains("sources.allow_hosts") && !bench.path("nowhere").exists(), "{said}");
}
