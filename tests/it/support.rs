//! Real parts for the tests: the built command, a published demo track, a running server, a raw client.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// The built command.
pub(crate) fn segue() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_segue"));
    // Nothing of the developer's settings leaks into a test.
    for (name, _) in std::env::vars().filter(|(name, _)| {
        ["SEGUE_", "OTEL_", "AWS_"].iter().any(|ours| name.starts_with(ours))
            || ["PORT", "DATABASE_URL"].contains(&name.as_str())
    }) {
        command.env_remove(name);
    }
    command
}

/// Runs the command to its end.
pub(crate) fn run<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Output {
    segue().args(args).stdin(Stdio::null()).output().unwrap()
}

/// What the command said, for assertion messages.
pub(crate) fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The demo track, synthesised, transcoded and published once for all tests of this build.
pub(crate) struct Published {
    /// Data directory; read only for tests that share it.
    pub(crate) data: PathBuf,
    /// What was published.
    pub(crate) source_wav: PathBuf,
    /// What `publish --json` printed.
    pub(crate) report: serde_json::Value,
}

/// Publishes the demo track, or takes what an earlier test of the same build published: nextest runs
/// each test in its own process, and a publish costs seconds.
pub(crate) fn published() -> Published {
    let binary = fs::metadata(env!("CARGO_BIN_EXE_segue")).unwrap();
    let stamp = binary.modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("published-{stamp}"));
    let lock = Path::new(env!("CARGO_TARGET_TMPDIR")).join("published.lock");
    let lock = File::create(lock).unwrap();
    lock.lock().unwrap();
    if !dir.exists() {
        for old in fs::read_dir(env!("CARGO_TARGET_TMPDIR")).unwrap().map(|entry| entry.unwrap().path()) {
            if old.file_name().is_some_and(|name| name.to_string_lossy().starts_with("published-")) {
                fs::remove_dir_all(old).unwrap();
            }
        }
        let partial = dir.with_extension("partial");
        let _ = fs::remove_dir_all(&partial);
        fs::create_dir_all(&partial).unwrap();
        let wav = partial.join("demo.wav");
        segue::demo::write_wav(&wav).unwrap();
        let done = segue()
            .args(["publish", "--json", "--title", "First light", "--data"])
            .args([partial.join("data"), wav])
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", said(&done));
        fs::write(partial.join("report.json"), &done.stdout).unwrap();
        fs::rename(&partial, &dir).unwrap();
    }
    drop(lock);
    let report = serde_json::from_slice(&fs::read(dir.join("report.json")).unwrap()).unwrap();
    Published { data: dir.join("data"), source_wav: dir.join("demo.wav"), report }
}

/// A running `segue serve`, killed when dropped.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) addr: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// Where it listens for TLS, when it does.
    pub(crate) tls: Option<SocketAddr>,
}

impl Server {
    /// Starts on free loopback ports and waits until it says where it listens.
    pub(crate) fn start(data: &Path, args: &[&str], env: &[(&str, &str)]) -> Server {
        Server::start_logging_to(Stdio::inherit(), data, args, env)
    }

    /// As `start`, with the log where the test wants it.
    pub(crate) fn start_logging_to(log: Stdio, data: &Path, args: &[&str], env: &[(&str, &str)]) -> Server {
        let mut command = segue();
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data"]).arg(data);
        command.args(args).envs(env.iter().copied()).stderr(log);
        Server::started(command)
    }

    /// A command that becomes a server, started.
    pub(crate) fn started(mut command: Command) -> Server {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (mut addr, mut admin, mut tls) = (None, None, None);
        while addr.is_none() || admin.is_none() {
            let line = lines.next().expect("the server prints where it listens before it ends").unwrap();
            if let Some(text) = line.strip_prefix("listening on http://") {
                addr = text.split_whitespace().next().and_then(|text| text.parse().ok());
            } else if let Some(text) = line.strip_prefix("listening on https://") {
                tls = text.parse().ok();
            } else if let Some(text) = line.strip_prefix("admin on http://") {
                admin = text.split_whitespace().next().and_then(|text| text.parse().ok());
            }
        }
        // Keep reading so that the server never blocks on a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Server { child, addr: addr.unwrap(), admin: admin.unwrap(), tls }
    }

    /// One request on a connection of its own.
    pub(crate) fn get(&self, path: &str) -> Reply {
        request(self.addr, "GET", path, &[])
    }

    /// Sends a signal by number.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A whole HTTP/1.1 answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// The value of a header, by lowercase name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One request on a connection of its own, closed by the server after the answer.
pub(crate) fn request(addr: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
    send(addr, method, path, headers, b"")
}

/// One request with a body on a connection of its own; a server that answers before it has read all of it is heard.
pub(crate) fn send(addr: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let sent = stream.write_all(body);
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    assert!(sent.is_err() || read.is_ok(), "{read:?}");
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("a whole response head") + 4;
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    Reply { status, head, body: bytes.split_off(end) }
}

/// Reads an answer to its end; a reset after it is no matter, because it may be sent while we still write.
pub(crate) fn answer(mut stream: TcpStream) -> Reply {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 << 10];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
        }
    }
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("a whole response head") + 4;
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    Reply { status, head, body: bytes.split_off(end) }
}

/// One request to a server that may be killed at any moment; `None`: there was no whole answer.
pub(crate) fn try_send(
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Option<Reply> {
    let mut stream = TcpStream::connect(addr).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
    let length = body.len();
    let mut head =
        format!("{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\nContent-Length: {length}\r\n");
    headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    let _ = stream.write_all(body); // an answer may come before all of it was taken
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let body = bytes.split_off(end);
    let head = String::from_utf8(bytes).unwrap();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    let reply = Reply { status, head, body };
    let length = reply.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(reply.body.len());
    (method == "HEAD" || reply.body.len() == length).then_some(reply)
}

/// A demo track behind a server, with everything a player test needs to know.
pub(crate) struct Served {
    pub(crate) aac_master: String,
    pub(crate) flac_master: String,
    pub(crate) all_master: String,
    pub(crate) watch: String,
    pub(crate) samples: u64,
    pub(crate) rate: u32,
    pub(crate) source_wav: PathBuf,
    /// Keeps the server running.
    pub(crate) server: Server,
}

/// Serves the demo track with tokens on.
pub(crate) fn published_server() -> Served {
    published_server_with(&[])
}

/// The same with settings from the environment.
pub(crate) fn published_server_with(env: &[(&str, &str)]) -> Served {
    let published = published();
    let server = Server::start(&published.data, &[], env);
    let base = format!("http://{}", server.addr);
    let url = |key: &str| format!("{base}{}", published.report[key].as_str().unwrap());
    Served {
        aac_master: url("master_url"),
        flac_master: url("lossless_master_url"),
        all_master: url("all_master_url"),
        watch: format!("{base}/watch/{}", published.report["track_id"].as_str().unwrap()),
        samples: published.report["samples"].as_u64().unwrap(),
        rate: published.report["rate"].as_u64().unwrap() as u32,
        source_wav: published.source_wav,
        server,
    }
}

/// Asks again until `done`; the test runner's own limit ends a wait that is in vain.
pub(crate) fn until(mut done: impl FnMut() -> bool) {
    while !done() {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The same numbers in every run of a seed (SplitMix64): small, and good enough to damage bytes.
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `most`; 0 when there is none.
    pub(crate) fn below(&mut self, most: usize) -> usize {
        (self.next() % most.max(1) as u64) as usize
    }
}
