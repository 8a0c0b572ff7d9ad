//! A server with two owners, and what they send it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::postgres::Postgres;
use crate::support::{Reply, Server};

pub(crate) const JSON: (&str, &str) = ("Content-Type", "application/json");

/// A data directory, a database, and the keys of two owners: `one` and `two`.
pub(crate) struct Site {
    pub(crate) directory: tempfile::TempDir,
    env: Vec<(String, String)>,
    keys: [String; 2],
    _postgres: Option<Postgres>,
}

impl Site {
    pub(crate) fn new() -> Site {
        let ((one, first), (two, second)) = (segue::api::keys::make(), segue::api::keys::make());
        let keys = format!("[{{ id = \"one\", sha256 = \"{first}\" }}, {{ id = \"two\", sha256 = \"{second}\" }}]");
        let env = [("SEGUE_API__KEYS", keys.as_str()), ("SEGUE_WORKER__POLL_MS", "30"), ("SEGUE_LOG__FILTER", "warn")];
        let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Site { directory: tempfile::tempdir().unwrap(), env, keys: [one, two], _postgres: None }
    }

    pub(crate) fn on_postgresql() -> Site {
        let server = Postgres::start();
        // As servers are to be run, so that it is seen to be enough.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let url = runtime.block_on(server.for_a_server("site"));
        let mut site = Site::new();
        site.env.push(("DATABASE_URL".into(), url));
        Site { _postgres: Some(server), ..site }
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Site {
        self.env.push((name.into(), value.into()));
        self
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Where its database is, for what only other parts of the program write.
    pub(crate) fn place(&self) -> segue::db::Place {
        match self.env.iter().find(|(name, _)| name == "DATABASE_URL") {
            Some((_, url)) => segue::db::Place::Postgres(url.clone()),
            None => segue::db::Place::Sqlite(self.data().join("segue.db")),
        }
    }

    pub(crate) fn serve(&self) -> Api {
        let env: Vec<_> = self.env.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let server = Server::start(&self.data(), &[], &env);
        Api { addr: server.addr, server, keys: self.keys.clone() }
    }

    /// The key of an owner, by number.
    pub(crate) fn key(&self, number: usize) -> &str {
        &self.keys[number - 1]
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Who {
    One,
    Two,
    Nobody,
}

/// A server and who talks to it.
pub(crate) struct Api {
    pub(crate) addr: SocketAddr,
    pub(crate) server: Server,
    keys: [String; 2],
}

impl Api {
    pub(crate) fn send(&self, who: Who, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let bearer = match who {
            Who::One => Some(format!("Bearer {}", self.keys[0])),
            Who::Two => Some(format!("Bearer {}", self.keys[1])),
            Who::Nobody => None,
        };
        let mut all: Vec<(&str, &str)> = bearer.iter().map(|bearer| ("Authorization", bearer.as_str())).collect();
        all.extend(headers);
        send(self.addr, method, path, &all, body)
    }

    pub(crate) fn get(&self, who: Who, path: &str) -> Reply {
        self.send(who, "GET", path, &[], b"")
    }

    /// A request with a body of JSON, and the answer as JSON.
    pub(crate) fn json(&self, who: Who, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let reply = self.send(who, method, path, &[JSON], body.to_string().as_bytes());
        (reply.status, serde_json::from_slice(&reply.body).unwrap_or(Value::Null))
    }

    pub(crate) fn shown(&self, who: Who, path: &str) -> Value {
        let reply = self.get(who, path);
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        serde_json::from_slice(&reply.body).unwrap()
    }

    /// Uploads a file of the first owner as a form.
    pub(crate) fn upload(&self, kind: &str, name: &str, file: &[u8]) -> String {
        let boundary = "x-segue-test-boundary";
        let mut body = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"kind\"\r\n\r\n{kind}\r\n--{boundary}\r\n\
             Content-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        )
        .into_bytes();
        body.extend_from_slice(file);
        body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        let form = format!("multipart/form-data; boundary={boundary}");
        let reply = self.send(Who::One, "POST", "/api/v1/uploads", &[("Content-Type", &form)], &body);
        assert_eq!(reply.status, 201, "{}", reply.text());
        let upload: Value = serde_json::from_slice(&reply.body).unwrap();
        upload["id"].as_str().unwrap().to_owned()
    }

    /// A track of the first owner, made from a few seconds of sound, when it stands as wanted.
    pub(crate) fn track(&self, more: &Value, state: &str) -> String {
        let upload = self.upload("audio", "song.wav", &wav(6, 440.0));
        let mut body = json!({ "title": "Song", "upload": upload });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, track) = self.json(Who::One, "POST", "/api/v1/tracks", &body);
        assert_eq!(status, 201, "{track}");
        let id = track["id"].as_str().unwrap().to_owned();
        self.until(&id, state);
        id
    }

    /// Waits until a track stands as wanted; the test runner's own limit ends a wait that is in vain.
    pub(crate) fn until(&self, id: &str, state: &str) {
        loop {
            let track = self.shown(Who::One, &format!("/api/v1/tracks/{id}"));
            if track["state"] == state {
                return;
            }
            let goes_on = track["state"] != "failed" || track["waits_for_upload"] == true;
            assert!(state == "failed" || goes_on, "{track:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The value of a metric.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = send(self.server.admin, "GET", "/metrics", &[], b"").text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }
}

/// One request with a body. An answer may come before all of it was taken.
pub(crate) fn send(addr: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n");
    if !body.is_empty() || matches!(method, "POST" | "PUT" | "PATCH") {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let _ = stream.write_all(body);
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("a whole response head") + 4;
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    Reply { status, head, body: bytes.split_off(end) }
}

/// Seconds of a tone, as a WAV file.
pub(crate) fn wav(seconds: u32, hertz: f64) -> Vec<u8> {
    let (rate, channels) = (44_100_u32, 2_u32);
    let mut samples = Vec::new();
    for frame in 0..rate * seconds {
        let value = (f64::from(frame) * hertz * std::f64::consts::TAU / f64::from(rate)).sin() * 12_000.0;
        samples.extend((0..channels).flat_map(|_| (value as i16).to_le_bytes()));
    }
    let mut file = Vec::new();
    file.extend_from_slice(b"RIFF");
    file.extend_from_slice(&(36 + samples.len() as u32).to_le_bytes());
    file.extend_from_slice(b"WAVEfmt \x10\0\0\0\x01\0");
    file.extend_from_slice(&(channels as u16).to_le_bytes());
    file.extend_from_slice(&rate.to_le_bytes());
    file.extend_from_slice(&(rate * channels * 2).to_le_bytes());
    file.extend_from_slice(&(channels as u16 * 2).to_le_bytes());
    file.extend_from_slice(&16_u16.to_le_bytes());
    file.extend_from_slice(b"data");
    file.extend_from_slice(&(samples.len() as u32).to_le_bytes());
    file.extend(samples);
    file
}
