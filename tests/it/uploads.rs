//! Uploads from outside: forms, tus clients that are killed, parts straight to the bucket, viruses, full disks. The
//! same scenarios on SQLite with files, and on PostgreSQL with Ceph's gateway.

mod bucket;
mod clamd;
mod clients;
mod faults;
mod form;
mod kills;
mod rows;
mod traces;
mod tus;

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::postgres::Postgres;
use crate::store::rgw::{ACCESS_KEY, Rgw, SECRET_KEY};
use crate::support::{Random, Reply, Server, answer};

/// A data directory and what a server needs to start in it.
struct Site {
    directory: tempfile::TempDir,
    env: Vec<(String, String)>,
    key: String,
    /// Another owner's.
    other_key: String,
    _postgres: Option<Postgres>,
}

const TUS: &str = "/api/v1/uploads/tus";
const STREAM: (&str, &str) = ("Content-Type", "application/offset+octet-stream");
const V1: (&str, &str) = ("Tus-Resumable", "1.0.0");
const MIB: usize = 1 << 20;

impl Site {
    fn local() -> Site {
        let ((key, sha256), (other_key, other)) = (segue::api::keys::make(), segue::api::keys::make());
        let keys = format!("[{{ id = \"one\", sha256 = \"{sha256}\" }}, {{ id = \"two\", sha256 = \"{other}\" }}]");
        let env = [
            ("SEGUE_API__KEYS", keys.as_str()),
            ("SEGUE_WORKER__POLL_MS", "30"),
            ("SEGUE_WORKER__LEASE_S", "3"),
            ("SEGUE_UPLOADS__LOCK_S", "1"),
            ("SEGUE_LOG__FILTER", "warn"),
        ];
        let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Site { directory: tempfile::tempdir().unwrap(), env, key, other_key, _postgres: None }
    }

    fn with(mut self, name: &str, value: &str) -> Site {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.into(), value.into()));
        self
    }

    fn on_postgresql(self) -> Site {
        let server = Postgres::start();
        let url = server.database("site");
        Site { _postgres: Some(server), ..self.with("DATABASE_URL", &url) }
    }

    /// In a bucket of this name, which is made.
    fn in_bucket(self, rgw: &Rgw, name: &str) -> Site {
        rgw.bucket(name);
        let endpoint = rgw.endpoint();
        self.behind(&endpoint, name)
    }

    fn behind(self, endpoint: &str, name: &str) -> Site {
        self.with("SEGUE_STORE__KIND", "s3")
            .with("SEGUE_STORE__S3__BUCKET", name)
            .with("SEGUE_STORE__S3__ENDPOINT", endpoint)
            .with("SEGUE_STORE__S3__PATH_STYLE", "true")
            .with("SEGUE_STORE__S3__ACCESS_KEY", ACCESS_KEY)
            .with("SEGUE_STORE__S3__SECRET_KEY", SECRET_KEY)
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn serve(&self) -> Api {
        self.serve_with(&[])
    }

    /// Another one for the same rows and bytes, as on another machine.
    fn serve_beside(&self) -> Api {
        let cache = self.directory.path().join("cache-beside");
        self.serve_with(&[("SEGUE_CACHE__DIR", cache.to_str().unwrap())])
    }

    fn serve_with(&self, more: &[(&str, &str)]) -> Api {
        self.serve_as(&[], more)
    }

    fn serve_as(&self, args: &[&str], more: &[(&str, &str)]) -> Api {
        let mut env: Vec<_> = self.env.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        env.extend(more);
        let server = Server::start(&self.data(), args, &env);
        Api { addr: server.addr, server, bearer: format!("Bearer {}", self.key) }
    }

    /// Waits until there are so many: the bytes of what is refused go right after it is.
    fn until_files(&self, files: usize) {
        while self.files() != files {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Files of uploads on this machine's disk.
    fn files(&self) -> usize {
        std::fs::read_dir(self.data().join("store/uploads")).map_or(0, Iterator::count)
    }
}

/// A server and who talks to it.
struct Api {
    addr: SocketAddr,
    server: Server,
    bearer: String,
}

impl Api {
    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let mut all = vec![("Authorization", self.bearer.as_str())];
        all.extend(headers);
        send(self.addr, method, path, &all, body)
    }

    fn json(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let reply = self.send(method, path, &[("Content-Type", "application/json")], body.to_string().as_bytes());
        (reply.status, serde_json::from_slice(&reply.body).unwrap_or(Value::Null))
    }

    fn show(&self, id: &str) -> Value {
        let reply = self.send("GET", &format!("/api/v1/uploads/{id}"), &[], b"");
        assert_eq!(reply.status, 200, "{}", reply.text());
        serde_json::from_slice(&reply.body).unwrap()
    }

    /// Waits until the upload is as wanted; the test runner's own limit ends a wait that is in vain.
    fn until(&self, id: &str, state: &str) -> Value {
        loop {
            let upload = self.show(id);
            if upload["state"] == state {
                return upload;
            }
            assert!(
                !["ready", "refused", "expired", "aborted"].contains(&upload["state"].as_str().unwrap()),
                "{upload:#}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Announces by tus and returns the id.
    fn announce(&self, bytes: usize, more: &[(&str, &str)]) -> String {
        let length = bytes.to_string();
        let mut headers = vec![V1, ("Upload-Length", length.as_str())];
        headers.extend(more);
        let reply = self.send("POST", TUS, &headers, b"");
        assert_eq!(reply.status, 201, "{} {}", reply.head, reply.text());
        let location = reply.header("location").unwrap();
        location.strip_prefix(&format!("{TUS}/")).unwrap().to_owned()
    }

    fn patch(&self, id: &str, offset: usize, body: &[u8], more: &[(&str, &str)]) -> Reply {
        let offset = offset.to_string();
        let mut headers = vec![V1, STREAM, ("Upload-Offset", offset.as_str())];
        headers.extend(more);
        self.send("PATCH", &format!("{TUS}/{id}"), &headers, body)
    }

    fn head(&self, id: &str) -> Reply {
        self.send("HEAD", &format!("{TUS}/{id}"), &[V1], b"")
    }

    fn offset(&self, id: &str) -> usize {
        let reply = self.head(id);
        assert_eq!(reply.status, 200, "{}", reply.head);
        reply.header("upload-offset").unwrap().parse().unwrap()
    }

    /// Sends the rest, in bodies of so many bytes.
    fn finish(&self, id: &str, file: &[u8], each: usize) {
        let mut at = self.offset(id);
        while at < file.len() {
            let end = file.len().min(at + each);
            let reply = self.patch(id, at, &file[at..end], &[]);
            if reply.status == 423 {
                std::thread::sleep(Duration::from_millis(20)); // whoever wrote before is about to let go
                continue;
            }
            assert_eq!(reply.status, 204, "{} {}", reply.head, reply.text());
            at = reply.header("upload-offset").unwrap().parse().unwrap();
            assert_eq!(at, end);
        }
    }
}

/// One request with a body. An answer may come before all of it was taken.
pub(crate) fn send(addr: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    send_as(&addr.to_string(), addr, method, path, headers, body)
}

/// The same to a server that is called `host`.
fn send_as(host: &str, addr: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    let mut stream = begin_as(host, addr, method, path, headers, body.len());
    let _ = stream.write_all(body);
    answer(stream)
}

/// A request whose body the caller writes.
fn begin(addr: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], length: usize) -> TcpStream {
    begin_as(&addr.to_string(), addr, method, path, headers, length)
}

fn begin_as(
    host: &str,
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    length: usize,
) -> TcpStream {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut head =
        format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {length}\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

/// A WAV of noise: so many bytes in all.
pub(crate) fn wav(bytes: usize, seed: u64) -> Vec<u8> {
    let mut wav = b"RIFF".to_vec();
    wav.extend((bytes as u32 - 8).to_le_bytes());
    wav.extend(b"WAVEfmt \x10\0\0\0\x01\0\x02\0");
    wav.extend(44_100u32.to_le_bytes());
    wav.extend(176_400u32.to_le_bytes());
    wav.extend(b"\x04\0\x10\0data");
    wav.extend((bytes as u32 - 44).to_le_bytes());
    let mut random = Random(seed);
    while wav.len() < bytes {
        wav.extend(random.next().to_le_bytes());
    }
    wav.truncate(bytes);
    wav
}

fn sha256(bytes: &[u8]) -> String {
    segue::base::hex::encode(&Sha256::digest(bytes))
}

/// A form: fields, then the file.
pub(crate) fn form_body(fields: &[(&str, &str)], file: Option<(&str, &[u8])>) -> (String, Vec<u8>) {
    let mut body = Vec::new();
    for (name, value) in fields {
        body.extend(
            format!("--b0undary\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n").bytes(),
        );
    }
    if let Some((name, bytes)) = file {
        let head = format!(
            "--b0undary\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\nContent-Type: image/gif\r\n\r\n"
        );
        body.extend(head.bytes());
        body.extend(bytes);
        body.extend(b"\r\n");
    }
    body.extend(b"--b0undary--\r\n");
    ("multipart/form-data; boundary=b0undary".into(), body)
}

impl Api {
    fn form(&self, fields: &[(&str, &str)], file: Option<(&str, &[u8])>, more: &[(&str, &str)]) -> (u16, Value) {
        let (content_type, body) = form_body(fields, file);
        let mut headers = vec![("Content-Type", content_type.as_str())];
        headers.extend(more);
        let reply = self.send("POST", "/api/v1/uploads", &headers, &body);
        (reply.status, serde_json::from_slice(&reply.body).unwrap_or(Value::Null))
    }

    /// Transcodes an upload and waits until the track is there.
    fn transcode(&self, id: &str) -> Value {
        let key = format!("\"{id}\"");
        let body = json!({ "source": { "upload": id } }).to_string();
        let post = || self.send("POST", "/api/v1/transcodes", &[("Idempotency-Key", &key)], body.as_bytes());
        let first = post();
        assert_eq!(first.status, 202, "{}", first.text());
        assert_eq!(post().status, 200, "the same request is the same job");
        let job: Value = serde_json::from_slice(&first.body).unwrap();
        loop {
            let path = format!("/api/v1/transcodes/{}", job["id"].as_str().unwrap());
            let job: Value = serde_json::from_slice(&self.send("GET", &path, &[], b"").body).unwrap();
            if job["state"] == "succeeded" {
                return job;
            }
            assert_ne!(job["state"], "dead", "{job:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
