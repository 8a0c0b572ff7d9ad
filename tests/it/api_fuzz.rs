//! Requests to the control API that nobody would send on purpose: bodies, fields, ids and queries of every route, damaged a
//! little. Whatever comes, the server answers with a refusal it can explain, goes on, and says no more than it should.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use crate::support::{Random, Reply, Server};

/// Requests in `make test`; `API_FUZZ=100000` for many.
fn requests() -> usize {
    std::env::var("API_FUZZ").map_or(3_000, |text| text.parse().expect("API_FUZZ is a number"))
}

/// Method, path, fields and body of requests that are fine, or nearly: `JOB` and `UPLOAD` stand for ids that there are.
const SEEDS: &[(&str, &str, &str, &str)] = &[
    (
        "POST",
        "/api/v1/transcodes",
        "Idempotency-Key: \"k\"\r\nContent-Type: application/json\r\n",
        r#"{"source":{"upload":"UPLOAD"},"title":"Song","track":"trk_x","ladder":"audio","priority":5,"callback":"https://example.com/x"}"#,
    ),
    ("POST", "/api/v1/transcodes", "Idempotency-Key: \"l\"\r\n", r#"{"source":"https://example.com/a.flac"}"#),
    ("GET", "/api/v1/transcodes?limit=5&before=JOB", "", ""),
    ("GET", "/api/v1/transcodes/JOB", "", ""),
    ("DELETE", "/api/v1/transcodes/JOB", "", ""),
    ("POST", "/api/v1/transcodes/JOB/retry", "", r#"{"rungs":["aac/96","flac"]}"#),
    ("GET", "/api/v1/transcodes/JOB/callbacks", "", ""),
    ("POST", "/api/v1/transcodes/JOB/callbacks/redeliver", "", "{}"),
    ("POST", "/api/v1/transcodes/callbacks/redeliver?since=2026-11-20T08:00:00Z", "", ""),
    (
        "POST",
        "/api/v1/uploads",
        "Content-Type: application/json\r\nIdempotency-Key: \"u\"\r\n",
        r#"{"kind":"audio","bytes":1000,"sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","name":"a.flac","track_id":"trk_x"}"#,
    ),
    (
        "POST",
        "/api/v1/uploads",
        "Content-Type: multipart/form-data; boundary=b\r\n",
        "--b\r\nContent-Disposition: form-data; name=\"kind\"\r\n\r\naudio\r\n--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\nRIFF\r\n--b--\r\n",
    ),
    ("GET", "/api/v1/uploads?limit=3&before=UPLOAD", "", ""),
    ("GET", "/api/v1/uploads/UPLOAD", "", ""),
    ("POST", "/api/v1/uploads/UPLOAD/parts", "Content-Type: application/json\r\n", r#"{"parts":[1,2,3]}"#),
    ("POST", "/api/v1/uploads/UPLOAD/complete", "", r#"{"parts":[{"number":1,"etag":"\"x\""}]}"#),
    ("GET", "/api/v1/upload/limits", "", ""),
    (
        "POST",
        "/api/v1/uploads/tus",
        "Tus-Resumable: 1.0.0\r\nUpload-Length: 5\r\nUpload-Metadata: filename YS5mbGFj,kind YXVkaW8=\r\nContent-Type: application/offset+octet-stream\r\nUpload-Checksum: sha1 qvTGHdzF6KLavt4PO0gs2a6pQ00=\r\n",
        "hello",
    ),
    (
        "PATCH",
        "/api/v1/uploads/tus/UPLOAD",
        "Tus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\nContent-Type: application/offset+octet-stream\r\n",
        "hello",
    ),
    ("HEAD", "/api/v1/uploads/tus/UPLOAD", "Tus-Resumable: 1.0.0\r\n", ""),
    ("OPTIONS", "/api/v1/uploads/tus", "Origin: https://example.com\r\n", ""),
    ("POST", "/api/v1/uploads/tus/UPLOAD", "Tus-Resumable: 1.0.0\r\nX-HTTP-Method-Override: DELETE\r\n", ""),
    ("GET", "/tracks/trk_x/master.m3u8?scope=all", "", ""),
    ("GET", "/tracks/trk_x/stream?preview=30", "Range: bytes=0-1\r\n", ""),
    ("GET", "/watch/trk_x", "", ""),
    ("GET", "/api/v1/tracks/trk_x/media?share=sgs_x", "", ""),
    ("GET", "/api/v1/loudness?tracks=trk_x,trk_y", "", ""),
    ("GET", "/api/v1/nothing", "", ""),
];

#[test]
fn damaged_requests_are_refused_in_words_and_never_a_fault_of_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let (key, sha256) = segue::api::keys::make();
    let keys = format!("[{{ id = \"one\", sha256 = \"{sha256}\" }}]");
    let log = dir.path().join("log");
    let env =
        [("SEGUE_API__KEYS", keys.as_str()), ("SEGUE_UPLOADS__OWNER_UPLOADS_MAX", "50"), ("SEGUE_WORKER__CORES", "1")];
    let data = dir.path().join("data");
    let args = ["--role", "api"]; // nobody works on what is enqueued
    let mut server = Server::start_logging_to(File::create(&log).unwrap().into(), &data, &args, &env);
    let bearer = format!("Authorization: Bearer {key}\r\n");
    let made = |path: &str, fields: &str, body: &str| -> String {
        let reply =
            ask(server.addr, format!("POST {path} HTTP/1.1\r\n{bearer}{fields}").as_bytes(), body.as_bytes()).unwrap();
        let value: Value =
            serde_json::from_slice(&reply.body).unwrap_or_else(|_| panic!("{} {}", reply.head, reply.text()));
        value["id"].as_str().unwrap_or_else(|| panic!("{value:#}")).to_owned()
    };
    let upload = made("/api/v1/uploads", "Content-Type: application/json\r\n", r#"{"kind":"audio","bytes":100000}"#);
    let job =
        made("/api/v1/transcodes", "Idempotency-Key: \"first\"\r\n", r#"{"source":"https://example.com/a.flac"}"#);
    let seeds: Vec<_> = SEEDS
        .iter()
        .map(|(method, path, fields, body)| {
            let filled = |text: &str| text.replace("UPLOAD", &upload).replace("JOB", &job);
            (*method, filled(path), filled(fields), filled(body).into_bytes())
        })
        .collect();
    let mut random = Random(0xa91_f022);
    let mut statuses = std::collections::BTreeMap::<u16, usize>::new();
    for round in 0..requests() {
        let (method, path, fields, body) = &seeds[round % seeds.len()];
        let (mut path, mut fields, mut body) = (path.clone().into_bytes(), fields.clone().into_bytes(), body.clone());
        if round >= seeds.len() {
            for _ in 0..=random.below(3) {
                let other = &seeds[random.below(seeds.len())].3;
                match random.below(4) {
                    0 => random.mutate(&mut path, b"/api/v1/%2e%2e/x?a=b&limit=-1"),
                    1 => random.mutate(&mut fields, b"Upload-Length: 18446744073709551616\r\n"),
                    _ => random.mutate(&mut body, other),
                }
            }
        }
        // What would end the head early or be another request is the subject of tests/it/http.
        path.retain(|byte| byte.is_ascii_graphic() && *byte != b'#');
        let fields = String::from_utf8_lossy(&fields).replace("\r\n\r\n", "\r\n");
        let lines = fields.split("\r\n").filter(|line| is_field(line)).map(|line| format!("{line}\r\n"));
        let mut head = format!("{method} ").into_bytes();
        head.extend(&path);
        head.extend(format!(" HTTP/1.1\r\n{bearer}{}", lines.collect::<String>()).bytes());
        let shown = || format!("{}{}", String::from_utf8_lossy(&head), String::from_utf8_lossy(&body));
        let Some(reply) = ask(server.addr, &head, &body) else { panic!("no answer to {}", shown()) };
        *statuses.entry(reply.status).or_default() += 1;
        let fine = matches!(reply.status, 200..=499 | 503);
        assert!(fine, "{} {} to {}", reply.head, reply.text(), shown());
        let is_problem = reply.header("content-type") == Some("application/problem+json");
        if is_problem {
            let problem: Value = serde_json::from_slice(&reply.body).unwrap_or(Value::Null);
            assert!(*method == "HEAD" || problem["status"] == reply.status, "{problem:#} to {}", shown());
        }
        if reply.status >= 400 {
            assert_eq!(reply.header("cache-control"), Some("no-store"), "{} to {}", reply.head, shown());
        }
        if round % 500 == 499 {
            assert!(server.child.try_wait().unwrap().is_none(), "the server ended");
        }
    }
    assert!(statuses.len() > 5, "all kinds of answers: {statuses:?}");
    assert_eq!(server.get("/livez").status, 200);
    let log = fs::read_to_string(log).unwrap();
    assert!(!log.contains("panicked"), "{}", log.lines().find(|line| line.contains("panicked")).unwrap());
    assert!(!log.contains(&key), "the log has the key");
}

/// A field line that hyper takes: a token and visible text.
fn is_field(line: &str) -> bool {
    let Some((name, value)) = line.split_once(':') else { return false };
    let token = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let framing = ["content-length", "transfer-encoding", "host", "connection", "expect", "authorization"];
    !name.is_empty()
        && name.bytes().all(token)
        && value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
        && !framing.contains(&name.to_ascii_lowercase().as_str())
}

/// One request on a connection of its own; `None` when no answer came.
fn ask(addr: SocketAddr, head: &[u8], body: &[u8]) -> Option<Reply> {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut bytes = head.to_vec();
    bytes.extend(format!("Host: {addr}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len()).bytes());
    bytes.extend(body);
    let _ = stream.write_all(&bytes); // an answer may come before all of it was taken
    let mut answer = Vec::new();
    let mut part = [0; 16 << 10];
    while let Ok(n @ 1..) = stream.read(&mut part) {
        answer.extend_from_slice(&part[..n]);
    }
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Reply { status, head, body: answer.split_off(end) })
}
