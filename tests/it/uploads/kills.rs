//! SIGKILL at any moment while several senders upload, finish and remove, on files and on a bucket, each with both
//! databases: what was acknowledged stays, what ends well is byte by byte what was sent, and nothing else is left.
//!
//! A few rounds in `make test`; `make kills ROUNDS=200` for many.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use segue::store::s3::Bucket;
use serde_json::{Value, json};

use super::bucket::unfinished;
use super::{Api, MIB, STREAM, Site, TUS, V1, form_body, sha256, wav};
use crate::kills;
use crate::store::rgw::Rgw;
use crate::support::{Random, Reply, try_send};

/// Senders at a time.
const SENDERS: u64 = 3;

#[test]
fn uploads_survive_a_server_that_is_killed_at_any_moment() {
    let rounds = kills::rounds().div_ceil(4);
    let rgw = Rgw::start();
    let in_bucket = |site: Site, name: &str| {
        let bucket = rgw.bucket(name);
        // Short, because what a killed server began is looked for again when all its requests must have ended.
        let site = site.in_bucket(&rgw, name).with("SEGUE_STORE__S3__READ_TIMEOUT_S", "2");
        (site.with("SEGUE_STORE__S3__ATTEMPTS", "2"), Some(bucket))
    };
    let sites = [
        (Site::local(), None),
        in_bucket(Site::local(), "kills-sqlite"),
        (Site::local().on_postgresql(), None),
        in_bucket(Site::local().on_postgresql(), "kills-postgresql"),
    ];
    let mut ended = Vec::new();
    for (number, (site, bucket)) in sites.iter().enumerate() {
        let sent = survives(site, rounds, kills::random(20 + number as u64));
        eprintln!("site {number}: {} uploads", sent.len());
        ended.push((site.serve(), sent, bucket));
    }
    for ((site, _), (api, sent, bucket)) in sites.iter().zip(&ended) {
        nothing_else_is_left(site, api, sent, bucket.as_ref());
    }
}

/// What a sender knows of an upload: its id, and what it has to be; `None` when it was removed.
type Sent = (String, Option<String>);

/// Kills and starts again so many times, while senders send; then they finish what they have begun.
fn survives(site: &Site, rounds: usize, mut random: Random) -> Vec<Sent> {
    let mut api = site.serve();
    let (at, over, sent) = (Mutex::new(api.addr), AtomicBool::new(false), Mutex::new(Vec::new()));
    let seed = random.next();
    std::thread::scope(|scope| {
        for number in 0..SENDERS {
            let (at, over, sent, key) = (&at, &over, &sent, &site.key);
            scope.spawn(move || {
                let mut sender = Sender { at, bearer: format!("Bearer {key}"), random: Random(seed ^ number << 32) };
                loop {
                    let one = sender.one();
                    sent.lock().unwrap().push(one);
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
        }
        for _ in 0..rounds {
            std::thread::sleep(Duration::from_millis(random.below(1_500) as u64));
            api.server.child.kill().unwrap();
            api.server.child.wait().unwrap();
            api = site.serve();
            *at.lock().unwrap() = api.addr;
        }
        over.store(true, Ordering::Relaxed);
    });
    sent.into_inner().unwrap()
}

/// Somebody who sends one file after another, and does not give up.
struct Sender<'a> {
    at: &'a Mutex<SocketAddr>,
    bearer: String,
    random: Random,
}

impl Sender<'_> {
    fn one(&mut self) -> Sent {
        let file = wav(100_000 + self.random.below(18 * MIB), self.random.next());
        match self.random.below(4) {
            0 => self.form(&file),
            kind => self.tus(&file, kind == 1),
        }
    }

    /// Sends a file as a form, again and again under one key, until it is taken.
    fn form(&mut self, file: &[u8]) -> Sent {
        let key = format!("\"form-{:x}\"", self.random.next());
        let (content_type, body) = form_body(&[("kind", "audio"), ("sha256", &sha256(file))], Some(("a.wav", file)));
        let headers = [("Content-Type", content_type.as_str()), ("Idempotency-Key", key.as_str())];
        let reply = self.until_answered("POST", "/api/v1/uploads", &headers, &body, &[200, 201, 202]);
        let upload: Value = serde_json::from_slice(&reply.body).unwrap();
        (upload["id"].as_str().unwrap().to_owned(), Some(sha256(file)))
    }

    /// Sends a file by tus in bodies of any length; gives it up in the middle if `removes`.
    fn tus(&mut self, file: &[u8], removes: bool) -> Sent {
        let (length, key) = (file.len().to_string(), format!("\"tus-{:x}\"", self.random.next()));
        let headers = [V1, ("Upload-Length", length.as_str()), ("Idempotency-Key", key.as_str())];
        let made = self.until_answered("POST", TUS, &headers, b"", &[201]);
        let path = made.header("location").expect("a new upload has a place").to_owned();
        let id = path.rsplit('/').next().unwrap().to_owned();
        let (mut acknowledged, gives_up) = (0, self.random.below(file.len()));
        loop {
            let head = self.until_answered("HEAD", &path, &[V1], b"", &[200]);
            let at: usize = head.header("upload-offset").unwrap().parse().unwrap();
            assert!(at >= acknowledged, "{id}: {acknowledged} bytes were acknowledged, and {at} are there");
            if at == file.len() {
                return (id, Some(sha256(file)));
            }
            if removes && at >= gives_up {
                self.until_answered("DELETE", &path, &[V1], b"", &[204, 410]);
                return (id, None);
            }
            let end = file.len().min(at + 1 + self.random.below(9 * MIB));
            let offset = at.to_string();
            let headers = [V1, STREAM, ("Upload-Offset", offset.as_str())];
            // One try: whatever comes of it, the offset says how far it is.
            if self.ask("PATCH", &path, &headers, &file[at..end]).is_some_and(|reply| reply.status == 204) {
                acknowledged = end;
            }
        }
    }

    /// Asks until there is an answer of these; others are those of a server that is busy, or has just been killed.
    fn until_answered(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        wanted: &[u16],
    ) -> Reply {
        loop {
            if let Some(reply) = self.ask(method, path, headers, body) {
                if wanted.contains(&reply.status) {
                    return reply;
                }
                // Taken, in progress, full, away: none of them is an end.
                let passing = [408, 409, 423, 429, 500, 503, 507].contains(&reply.status);
                assert!(passing, "{method} {path}: {} {}", reply.head, reply.text());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// One request; `None`: there was no whole answer.
    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Option<Reply> {
        let addr = *self.at.lock().unwrap();
        let headers = [&[("Authorization", self.bearer.as_str())], headers].concat();
        try_send(addr, method, path, &headers, body)
    }
}

/// What was sent is ready and right, what was removed is gone, rows agree with bytes, and there is room for all again.
fn nothing_else_is_left(site: &Site, api: &Api, sent: &[Sent], bucket: Option<&Bucket>) {
    let mut kept = BTreeSet::new();
    for (id, sum) in sent {
        match sum {
            Some(sum) => {
                assert_eq!(api.until(id, "ready")["sha256"], sum.as_str(), "{id}");
                kept.insert(id.clone());
            }
            None => assert_eq!(api.show(id)["state"], "aborted"),
        }
    }
    // Forms that were broken off by a kill are nobody's: their senders sent again under the same key.
    let listed = api.json("GET", "/api/v1/uploads?limit=100", &Value::Null).1;
    for upload in listed["items"].as_array().unwrap() {
        let id = upload["id"].as_str().unwrap();
        let known = sent.iter().any(|(known, _)| known == id);
        assert!(known || !["ready", "verifying"].contains(&upload["state"].as_str().unwrap()), "{upload:#}");
    }
    match bucket {
        None => loop {
            let files: BTreeSet<String> = std::fs::read_dir(site.data().join("store/uploads"))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            assert!(files.is_superset(&kept), "{kept:?} are not all in {files:?}");
            if files == kept {
                break;
            }
            std::thread::sleep(Duration::from_millis(100)); // the runner's own limit ends a wait that is in vain
        },
        Some(bucket) => loop {
            let below = |bucket: Bucket| async move {
                let mut keys = BTreeSet::new();
                let mut after = None;
                loop {
                    let page = bucket.list("uploads/", after.as_deref(), 1_000).await?;
                    keys.extend(page.objects.into_iter().map(|object| object.key));
                    after = page.next;
                    if after.is_none() {
                        return Ok(keys);
                    }
                }
            };
            let keys = bucket.wait(below).unwrap();
            let wanted: BTreeSet<String> = kept.iter().map(|id| format!("uploads/{id}/source")).collect();
            assert!(keys.is_superset(&wanted), "{wanted:?} are not all in {keys:?}");
            if keys == wanted && unfinished(bucket) == 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(200));
        },
    }
    // Everything is given back: what is ready is removed, and the quota is whole again.
    for id in &kept {
        assert_eq!(api.send("DELETE", &format!("/api/v1/uploads/{id}"), &[], b"").status, 204);
    }
    let most = json!({ "kind": "video", "bytes": 500 << 20 });
    assert_eq!(api.json("POST", "/api/v1/uploads", &most).0, 201);
}
