//! An origin on a bucket: hundreds of listeners for what nobody has yet, and what a warm disk cache costs.
//!
//! The bucket is a stub in this process: it answers ranges of the files of a directory after a while and at a rate, as
//! a bucket far away does, and counts what is asked. The listeners are a process of their own: one thread that
//! busy-polls the storm, and one for those who ask for what is hot.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
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
    /// MiB a second of one answer.
    pub(crate) mib_per_s: u64,
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
        let due = Duration::from_secs_f64(sent as f64 / (far.mib_per_s << 20) as f64);
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

/// What a listener takes before it must have read it: what a connection that has carried a few segments has grown to
/// (tcp(7), tcp_rmem). One that has carried nothing takes 64 KiB, and the storm would measure how windows grow.
const WINDOW_BYTES: usize = 1 << 20;

/// The child's side: a thread for the storm, and one for those who ask for what is hot.
pub(crate) fn keep(plan: &Plan) -> Outcome<Seen> {
    let free: Vec<TcpStream> = (0..32).map(|_| http::connect(plan.port)).collect::<Outcome<_>>()?;
    // Connected first: what is measured is the answer.
    let streams: Vec<TcpStream> = (0..plan.listeners).map(|_| listener(plan.port)).collect::<Outcome<_>>()?;
    let start = Instant::now();
    let over = AtomicBool::new(false);
    let request = http::request(plan.port, &plan.hot_path, &[]);
    let hot = Hot { request, free, busy: vec![], seen: vec![], rate: plan.hot_rate, start };
    std::thread::scope(|scope| {
        let hot = scope.spawn(|| hot.run(&over));
        let ended = match plan.listeners {
            0 => {
                std::thread::sleep(Duration::from_secs_f64(plan.seconds));
                Ok(())
            }
            _ => storm(plan, streams, start),
        };
        let seconds = start.elapsed().as_secs_f64();
        over.store(true, Ordering::Relaxed);
        let mut seen = hot.join().map_err(|_| "the hot listeners died")??;
        ended?;
        Ok(Seen { seconds, hot_p99_us: percentile(&mut seen, 0.99) })
    })
}

fn listener(port: u16) -> Outcome<TcpStream> {
    let stream = http::connect(port)?;
    stream.set_nonblocking(true).map_err(|e| e.to_string())?;
    let window = rustix::net::sockopt::set_socket_recv_buffer_size(&stream, WINDOW_BYTES);
    window.map_err(|e| format!("cannot set a window: {e}"))?;
    Ok(stream)
}

/// Until the last of them has its last byte.
fn storm(plan: &Plan, streams: Vec<TcpStream>, start: Instant) -> Outcome<()> {
    let request = http::request(plan.port, &plan.path, &[]);
    let ask = |stream| Line::ask(stream, &request, start);
    let mut waiting: Vec<Line> = streams.into_iter().map(ask).collect::<Outcome<_>>()?;
    let mut buffer = vec![0; 256 << 10];
    while !waiting.is_empty() {
        if start.elapsed() > Duration::from_secs(60) {
            return Err(format!("{} of {} still wait after a minute", waiting.len(), plan.listeners));
        }
        let mut at = 0;
        while at < waiting.len() {
            match waiting[at].skip(&mut buffer)? {
                true => drop(waiting.swap_remove(at)),
                false => at += 1,
            }
        }
    }
    Ok(())
}

/// Those who ask for what is hot.
struct Hot {
    request: String,
    free: Vec<TcpStream>,
    busy: Vec<Line>,
    /// Latencies, from the moment each was due.
    seen: Vec<Duration>,
    /// Requests per second; 0 for none.
    rate: f64,
    start: Instant,
}

impl Hot {
    /// Asks on schedule until it is over, sleeping in between. In front of the storm's thread, which never sleeps and is
    /// on the same core: they stand for machines that know nothing of each other (nice(2), for root alone).
    fn run(mut self, over: &AtomicBool) -> Outcome<Vec<Duration>> {
        let _ = rustix::process::nice(-20);
        let mut buffer = vec![0; 256 << 10];
        let mut sent = 0;
        while self.rate > 0.0 && !(over.load(Ordering::Relaxed) && self.busy.is_empty()) {
            let due = |sent: u32| self.start + Duration::from_secs_f64(f64::from(sent) / self.rate);
            while !over.load(Ordering::Relaxed) && due(sent) <= Instant::now() {
                let Some(stream) = self.free.pop() else { break };
                self.busy.push(Line::ask(stream, &self.request, due(sent))?);
                sent += 1;
            }
            let next = due(sent).saturating_duration_since(Instant::now());
            let wait = if self.free.is_empty() { Duration::from_millis(1) } else { next };
            let wait = Timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos().into() };
            let mut ready: Vec<PollFd<'_>> = self.busy.iter().map(|line| PollFd::new(line, PollFlags::IN)).collect();
            rustix::event::poll(&mut ready, Some(&wait)).map_err(|e| format!("cannot wait: {e}"))?;
            let readable: Vec<bool> = ready.iter().map(|fd| !fd.revents().is_empty()).collect();
            for at in (0..readable.len()).rev().filter(|at| readable[*at]) {
                if self.busy[at].read(&mut buffer)? {
                    let line = self.busy.swap_remove(at);
                    self.seen.push(line.since());
                    self.free.push(line.into_stream());
                }
            }
        }
        Ok(self.seen)
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
