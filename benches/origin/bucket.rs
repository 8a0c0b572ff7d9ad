//! An origin on a bucket: hundreds of listeners for what nobody has yet, and what a warm disk cache costs.
//!
//! The bucket is a stub in this process: it answers ranges of the files of a directory after a while and at a rate, as
//! a bucket far away does, and counts what is asked. The listeners are a process of their own, one thread that
//! busy-polls everything.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::Outcome;
use crate::cold::Line;
use crate::http;
use crate::paced::percentile;

/// How far away the bucket is.
#[derive(Clone, Copy)]
pub(crate) struct Far {
    /// Until the first byte of an answer.
    pub(crate) delay: Duration,
    /// Bytes a second of one answer.
    pub(crate) bytes_per_s: u64,
}

/// A bucket over a store's directory. Its threads end with the process.
pub(crate) struct Bucket {
    pub(crate) port: u16,
    asked: Arc<Mutex<HashMap<String, usize>>>,
}

impl Bucket {
    pub(crate) fn serve(store: &Path, far: Far) -> Outcome<Bucket> {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| format!("no bucket: {e}"))?;
        let port = listener.local_addr().map_err(|e| e.to_string())?.port();
        let asked: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
        let (seen, store) = (asked.clone(), store.to_owned());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (seen, store) = (seen.clone(), store.clone());
                std::thread::spawn(move || while answer(&client, &store, far, &seen).is_some() {});
            }
        });
        Ok(Bucket { port, asked })
    }

    /// The most often that one range of media was asked for since the last call, and how many ranges there were.
    pub(crate) fn reads(&self) -> (usize, usize) {
        let asked = std::mem::take(&mut *self.asked.lock().expect("no thread panics with it"));
        (asked.values().copied().max().unwrap_or(0), asked.len())
    }
}

/// One request on a connection that is kept; `None` when it has ended.
fn answer(mut client: &TcpStream, store: &Path, far: Far, seen: &Mutex<HashMap<String, usize>>) -> Option<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    let mut words = head.split(' ');
    let (method, path) = (words.next()?, words.next()?.split('?').next()?);
    let key = path.strip_prefix("/bench/")?;
    let range =
        head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
    std::thread::sleep(far.delay);
    let Ok(file) = File::open(store.join(key)) else {
        return client.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").ok();
    };
    let length = file.metadata().ok()?.len();
    let (start, end) = match &range {
        None => (0, length),
        Some(range) => {
            let (first, last) = range.split_once('-')?;
            (first.parse().ok()?, last.parse::<u64>().ok()? + 1)
        }
    };
    if let Some(range) = range {
        *seen.lock().ok()?.entry(format!("{key} {range}")).or_default() += 1;
    }
    let etag = "ETag: \"x\"\r\nLast-Modified: Sat, 21 Nov 2026 00:00:00 GMT";
    let status = if end - start == length { "200 OK".into() } else { "206 Partial Content".to_owned() };
    let content_range = format!("Content-Range: bytes {start}-{}/{length}", end - 1);
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{content_range}\r\n{etag}\r\n\r\n", end - start);
    client.write_all(answer.as_bytes()).ok()?;
    if method == "HEAD" {
        return Some(());
    }
    let mut bytes = vec![0; (end - start) as usize];
    file.read_exact_at(&mut bytes, start).ok()?;
    let began = Instant::now();
    let mut sent = 0u64;
    for piece in bytes.chunks(64 << 10) {
        client.write_all(piece).ok()?;
        sent += piece.len() as u64;
        let due = Duration::from_secs_f64(sent as f64 / far.bytes_per_s as f64);
        std::thread::sleep(due.saturating_sub(began.elapsed()));
    }
    Some(())
}

/// What the child process shall do, as JSON.
#[derive(Serialize, Deserialize)]
pub(crate) struct Plan {
    /// The server's port on the loopback.
    pub(crate) port: u16,
    /// What all of them ask for, at once.
    pub(crate) path: String,
    pub(crate) listeners: usize,
    /// Meanwhile, others for this.
    pub(crate) hot_path: String,
    /// Hot requests per second; 0 for none.
    pub(crate) hot_rate: f64,
    /// How long to ask for the hot one when nobody asks for the other, in seconds.
    pub(crate) seconds: f64,
}

/// What the child saw.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// Until the last byte of the last of them.
    pub(crate) seconds: f64,
    /// Of the hot answers, from the moment each was due.
    pub(crate) hot_p99_us: f64,
}

/// Carries out the plan in a child pinned to `core`.
pub(crate) fn run(core: usize, plan: &Plan) -> Outcome<Seen> {
    let myself = std::env::current_exe().map_err(|e| e.to_string())?;
    let plan = serde_json::to_string(plan).map_err(|e| e.to_string())?;
    let mut child = Command::new("taskset");
    child.args(["-c", &core.to_string()]).arg(myself).arg("--storm").arg(&plan);
    let output = child.output().map_err(|e| format!("cannot start the listeners: {e}"))?;
    if !output.status.success() {
        return Err(format!("the listeners failed: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    serde_json::from_slice(&output.stdout).map_err(|e| format!("the listeners' result: {e}"))
}

/// The child's side.
pub(crate) fn keep(plan: &Plan) -> Outcome<Seen> {
    let connect = || -> Outcome<TcpStream> {
        let stream = http::connect(plan.port)?;
        stream.set_nonblocking(true).map_err(|e| e.to_string())?;
        Ok(stream)
    };
    let request = http::request(plan.port, &plan.path, &[]);
    let hot_request = http::request(plan.port, &plan.hot_path, &[]);
    let free: Vec<TcpStream> = (0..32).map(|_| connect()).collect::<Outcome<_>>()?;
    // Connected first: what is measured is the answer.
    let streams: Vec<TcpStream> = (0..plan.listeners).map(|_| connect()).collect::<Outcome<_>>()?;
    let start = Instant::now();
    let mut waiting: Vec<Line> =
        streams.into_iter().map(|stream| Line::ask(stream, &request, start)).collect::<Outcome<_>>()?;
    let mut hot = Hot { request: hot_request, free, busy: vec![], seen: vec![], sent: 0, rate: plan.hot_rate, start };
    let mut buffer = vec![0; 256 << 10];
    let mut ended = None;
    while ended.is_none() || !hot.busy.is_empty() {
        let elapsed = start.elapsed();
        if elapsed > Duration::from_secs(60) {
            return Err(format!("{} of {} still wait after a minute", waiting.len(), plan.listeners));
        }
        let over = if plan.listeners > 0 { waiting.is_empty() } else { elapsed.as_secs_f64() >= plan.seconds };
        if over && ended.is_none() {
            ended = Some(elapsed);
            hot.rate = 0.0;
        }
        hot.step(&mut buffer)?;
        let mut at = 0;
        while at < waiting.len() {
            match waiting[at].skip(&mut buffer)? {
                true => drop(waiting.swap_remove(at)),
                false => at += 1,
            }
            // After each: with hundreds of listeners a round of this loop takes longer than a hot answer.
            hot.step(&mut buffer)?;
        }
    }
    Ok(Seen { seconds: ended.unwrap_or_default().as_secs_f64(), hot_p99_us: percentile(&mut hot.seen, 0.99) })
}

/// Those who ask for what is hot.
struct Hot {
    request: String,
    free: Vec<TcpStream>,
    busy: Vec<Line>,
    /// Latencies, from the moment each was due.
    seen: Vec<Duration>,
    sent: u32,
    /// Requests per second; 0 for none.
    rate: f64,
    start: Instant,
}

impl Hot {
    /// Sends what is due and reads what has come.
    fn step(&mut self, buffer: &mut [u8]) -> Outcome<()> {
        while self.rate > 0.0 {
            let due = self.start + Duration::from_secs_f64(f64::from(self.sent) / self.rate);
            let Some(stream) = (due <= Instant::now()).then(|| self.free.pop()).flatten() else { break };
            self.busy.push(Line::ask(stream, &self.request, due)?);
            self.sent += 1;
        }
        let mut at = 0;
        while at < self.busy.len() {
            match self.busy[at].read(buffer)? {
                true => {
                    let line = self.busy.swap_remove(at);
                    self.seen.push(line.since());
                    self.free.push(line.into_stream());
                }
                false => at += 1,
            }
        }
        Ok(())
    }
}

/// What a segue on the bucket is told beside everything else.
pub(crate) fn settings(port: u16, cache: &Path) -> String {
    let cache: PathBuf = cache.to_owned();
    format!(
        "[store]\nkind = \"s3\"\n[store.s3]\nbucket = \"bench\"\nendpoint = \"http://127.0.0.1:{port}\"\npath_style = true\n\
         access_key = \"bench\"\nsecret_key = \"bench\"\n[cache]\ndir = {cache:?}\n"
    )
}
