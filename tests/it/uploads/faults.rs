//! A full disk, and a bucket that refuses, resets and cuts short: nothing is lost, the words say what to do, and
//! nothing has to be started again.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Api, MIB, Site, sha256, wav};
use crate::store::rgw::Rgw;

#[test]
fn a_full_disk_keeps_what_it_has_and_says_so() {
    let site = Site::local();
    let api = site.serve();
    let file = wav(12 * MIB, 61);
    let id = api.announce(file.len(), &[]);
    assert_eq!(api.patch(&id, 0, &file[..MIB], &[]).status, 204);
    // Every file of the server may have so many bytes: what the uploads' disk would say.
    let limit = |bytes: &str| {
        let pid = api.server.child.id().to_string();
        let done = Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={bytes}:unlimited")]).status();
        assert!(done.unwrap().success());
    };
    limit("6000000");
    let full = api.patch(&id, MIB, &file[MIB..], &[]);
    assert_eq!(full.status, 507, "{}", full.text());
    assert!(full.text().contains("the disk that takes uploads is full"), "{}", full.text());
    let kept = api.offset(&id);
    assert_eq!(full.header("upload-offset"), Some(&*kept.to_string()));
    assert!((MIB..=6_000_000).contains(&kept), "{kept}");
    // With a checksum none of the body counts.
    let sum = [("Upload-Checksum", "sha1 AAAAAAAAAAAAAAAAAAAAAAAAAAA=")];
    assert_eq!(api.patch(&id, kept, &file[kept..], &sum).status, 507);
    assert_eq!(api.offset(&id), kept);
    let (status, problem) = api.form(&[("kind", "audio")], Some(("a.wav", &file)), &[]);
    assert_eq!(status, 507, "{problem}");
    assert_eq!(site.files(), 1, "a form that did not fit leaves nothing");
    limit("unlimited");
    api.finish(&id, &file, 5 * MIB);
    assert_eq!(api.until(&id, "ready")["sha256"], sha256(&file));
}

/// The disk fills while a job makes its version: the attempt fails with words, shows nothing and leaves nothing, and the
/// next one does it when there is room.
#[test]
fn a_full_disk_below_a_job_is_waited_out() {
    let site = Site::local().with("SEGUE_WORKER__BACKOFF_S", "1").with("SEGUE_WORKER__FAILURES_MAX", "100");
    let api = site.serve();
    let file = wav(12 * MIB, 62); // noise: FLAC makes no less of it
    let id = api.announce(file.len(), &[]);
    api.finish(&id, &file, 12 * MIB);
    api.until(&id, "ready");
    let limit = |bytes: &str| {
        let pid = api.server.child.id().to_string();
        let done = Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={bytes}:unlimited")]).status();
        assert!(done.unwrap().success());
    };
    limit("6000000");
    let body = serde_json::json!({ "source": { "upload": id } }).to_string();
    let queued = api.send("POST", "/api/v1/transcodes", &[("Idempotency-Key", "\"full\"")], body.as_bytes());
    assert_eq!(queued.status, 202, "{}", queued.text());
    let job: serde_json::Value = serde_json::from_slice(&queued.body).unwrap();
    let path = format!("/api/v1/transcodes/{}", job["id"].as_str().unwrap());
    let show = || -> serde_json::Value { serde_json::from_slice(&api.send("GET", &path, &[], b"").body).unwrap() };
    let failed = loop {
        let job = show();
        if job["failures"].as_i64() > Some(0) {
            break job;
        }
        assert_ne!(job["state"], "succeeded", "there was room: {job:#}");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(failed["finished_at"].is_null(), "it is tried again: {failed:#}");
    assert!(failed["error"].as_str().unwrap().contains("File too large"), "{failed:#}");
    let versions = || std::fs::read_dir(site.data().join("store/v")).unwrap().count();
    assert!(versions() <= 1, "nothing but its first rung is shown, which may be whole before the disk is full");
    limit("unlimited");
    loop {
        let job = show();
        if job["state"] == "succeeded" {
            break;
        }
        assert_ne!(job["state"], "dead", "{job:#}");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(versions(), 1);
    assert_eq!(
        std::fs::read_dir(site.data().join("store/staging")).unwrap().count(),
        0,
        "failed attempts left nothing"
    );
}

#[test]
fn a_bucket_in_a_bad_mood_loses_nothing() {
    let rgw = Rgw::start();
    rgw.bucket("moods");
    let proxy = Proxy::before(rgw.port());
    let site = Site::local().behind(&format!("http://{}", proxy.addr), "moods").with("SEGUE_STORE__S3__ATTEMPTS", "2");
    let api = site.serve();
    let file = wav(18 * MIB + 5, 71);

    // A short storm is ridden out: the sender does not hear of it.
    proxy.spoil(Mode::Status(503), "PUT", 1);
    whole(&api, &file, &[]);
    proxy.spoil(Mode::Reset, "PUT", 1);
    whole(&api, &file, &[]);

    // A long one is said, with what is kept; the sender goes on.
    for mode in [Mode::Status(503), Mode::Status(500), Mode::Reset] {
        let id = api.announce(file.len(), &[]);
        assert_eq!(api.patch(&id, 0, &file[..9 * MIB], &[]).status, 204);
        proxy.spoil(mode, "PUT", 100);
        let refused = api.patch(&id, 9 * MIB, &file[9 * MIB..], &[]);
        assert_eq!(refused.status, 503, "{mode:?}: {}", refused.text());
        assert!(refused.header("retry-after").is_some() && refused.text().contains("go on from there"));
        assert_eq!(api.offset(&id), 9 * MIB, "{mode:?}");
        proxy.spoil(mode, "PUT", 0);
        api.finish(&id, &file, 4 * MIB);
        assert_eq!(api.until(&id, "ready")["sha256"], sha256(&file));
    }

    // Cut short while it is looked at: read again, and never taken for whole.
    proxy.spoil(Mode::Truncate, "GET", 1);
    whole(&api, &file, &[]);
    let id = api.announce(file.len(), &[]);
    proxy.spoil(Mode::Truncate, "GET", 1_000);
    api.finish(&id, &file, 30 * MIB);
    while !api.show(&id)["error"].as_str().is_some_and(|error| error.contains("could not be looked at yet")) {
        assert_eq!(api.show(&id)["state"], "verifying");
        std::thread::sleep(Duration::from_millis(30));
    }
    proxy.spoil(Mode::Truncate, "GET", 0);
    assert_eq!(api.until(&id, "ready")["sha256"], sha256(&file));

    // The answer to the last request is lost: the object is there, and found.
    proxy.spoil(Mode::LoseAnswer, "POST", 1);
    whole(&api, &file, &[]);
}

fn whole(api: &Api, file: &[u8], more: &[(&str, &str)]) {
    let id = api.announce(file.len(), more);
    let sent = api.patch(&id, 0, file, &[]);
    assert_eq!(sent.status, 204, "{}", sent.text());
    assert_eq!(api.until(&id, "ready")["sha256"], sha256(file));
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Refused with this status.
    Status(u16),
    /// A reset in the middle of the request.
    Reset,
    /// Half of the answer's body.
    Truncate,
    /// Done, but nobody hears of it.
    LoseAnswer,
}

/// Between the server and the bucket. Spoils requests about objects of uploads on demand; its threads end with the
/// test process.
struct Proxy {
    addr: SocketAddr,
    mood: Arc<Mutex<(Mode, &'static str, usize)>>,
}

impl Proxy {
    fn before(port: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let mood = Arc::new(Mutex::new((Mode::Reset, "", 0)));
        let shared = Arc::clone(&mood);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || pass(client, port, &shared));
            }
        });
        Proxy { addr, mood }
    }

    /// Spoils the next so many requests of this method.
    fn spoil(&self, mode: Mode, method: &'static str, times: usize) {
        *self.mood.lock().unwrap() = (mode, method, times);
    }
}

/// One request; the connection ends with its answer. `None` when either side has left.
fn pass(mut client: TcpStream, port: u16, mood: &Mutex<(Mode, &'static str, usize)>) -> Option<()> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 64 << 10];
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|end| end == b"\r\n\r\n") {
            break end + 4;
        }
        let n = client.read(&mut buffer).ok().filter(|n| *n > 0)?;
        bytes.extend_from_slice(&buffer[..n]);
    };
    let head = String::from_utf8(bytes[..end].to_vec()).ok()?;
    let mut body = bytes.split_off(end);
    let field = |name: &str| {
        head.lines().find_map(|line| Some(line.split_once(':')?).filter(|(known, _)| known.eq_ignore_ascii_case(name)))
    };
    let length: usize = field("content-length").and_then(|(_, value)| value.trim().parse().ok()).unwrap_or(0);
    let about_upload = head.split(' ').nth(1)?.contains("/uploads/upl_");
    let completes = !head.starts_with("POST") || head.split(' ').nth(1)?.contains("uploadId=");
    let mode = {
        let mut mood = mood.lock().unwrap();
        let spoils = about_upload && completes && mood.2 > 0 && head.starts_with(mood.1);
        mood.2 -= usize::from(spoils);
        spoils.then_some(mood.0)
    };
    if field("expect").is_some() {
        client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
    }
    let wanted = if mode == Some(Mode::Reset) { length / 2 } else { length };
    while body.len() < wanted {
        let n = client.read(&mut buffer).ok().filter(|n| *n > 0)?;
        body.extend_from_slice(&buffer[..n]);
    }
    let reset = |client: &TcpStream| rustix::net::sockopt::set_socket_linger(client, Some(Duration::ZERO)).ok();
    match mode {
        Some(Mode::Reset) => return reset(&client),
        Some(Mode::Status(status)) => {
            let answer = format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            return client.write_all(answer.as_bytes()).ok();
        }
        _ => {}
    }
    let mut server = TcpStream::connect(("127.0.0.1", port)).ok()?;
    let kept = head.lines().filter(|line| {
        let line = line.to_ascii_lowercase();
        !line.is_empty() && !line.starts_with("connection:") && !line.starts_with("expect:")
    });
    let mut request: String = kept.map(|line| format!("{line}\r\n")).collect();
    request.push_str("Connection: close\r\n\r\n");
    server.write_all(request.as_bytes()).ok()?;
    server.write_all(&body).ok()?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).ok()?;
    match mode {
        Some(Mode::LoseAnswer) => return reset(&client),
        Some(Mode::Truncate) => {
            let body = answer.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
            answer.truncate(body + (answer.len() - body) / 2);
        }
        _ => {}
    }
    client.write_all(&answer).ok()?;
    client.shutdown(Shutdown::Write).ok()
}
