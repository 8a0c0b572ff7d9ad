//! Files that are not in memory, and what reading them does to everybody else.
//!
//! The kernel is asked to forget the file, which is then verified. A client fetches it in pieces, four at a
//! time, in an order no disk likes; meanwhile listeners of a hot segment ask on a fixed schedule, and it is
//! their latency that counts. One thread busy-polls everything; it runs as a process of its own.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};
use rustix::net::RecvFlags;
use segue::store::mapped::{BLOCK_BYTES, Mapped};
use serde::{Deserialize, Serialize};

use crate::Outcome;
use crate::http;
use crate::paced::percentile;

/// A piece: the segment of a usual rung.
pub(crate) const PIECE_BYTES: u64 = 192 << 10;
/// Pieces on their way at once.
const LISTENERS: usize = 4;

/// What the child process shall do, as JSON.
#[derive(Serialize, Deserialize)]
pub(crate) struct Plan {
    /// The server's port on the loopback.
    pub(crate) port: u16,
    /// The cold file's path with its token, and its length; 0 to ask for nothing cold.
    pub(crate) cold_path: String,
    pub(crate) cold_bytes: u64,
    /// The hot answer's path with its token.
    pub(crate) hot_path: String,
    /// Hot requests per second; 0 for none.
    pub(crate) hot_rate: f64,
    /// How long to ask when nothing is cold, in seconds; else until the last piece is there.
    pub(crate) seconds: f64,
}

/// What the child saw.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) pieces: usize,
    pub(crate) seconds: f64,
    /// 99th percentile of a piece, from its request to its last byte.
    pub(crate) piece_p99_us: f64,
    /// Of the hot answers, from the moment each was due.
    pub(crate) hot_p99_us: f64,
    pub(crate) hot_requests: usize,
}

/// Makes the kernel forget `file`.
///
/// # Errors
/// When it keeps some of it: the file is on a file system in memory.
pub(crate) fn forget(file: &Path) -> Outcome<()> {
    let wrong = |e: &dyn std::fmt::Display| format!("cannot make {} cold: {e}", file.display());
    let open = File::open(file).map_err(|e| wrong(&e))?;
    let bytes = open.metadata().map_err(|e| wrong(&e))?.len();
    // Only clean pages are forgotten.
    open.sync_all().map_err(|e| wrong(&e))?;
    let patience = Instant::now() + Duration::from_secs(5);
    loop {
        fadvise(&open, 0, None, Advice::DontNeed).map_err(|e| wrong(&e))?;
        // A fresh mapping asks the kernel (mincore) and remembers nothing.
        let mapped = Mapped::open(open.try_clone().map_err(|e| wrong(&e))?, bytes).map_err(|e| e.chain())?;
        let warm = (0..bytes).step_by(BLOCK_BYTES as usize).filter(|at| mapped.is_resident(*at, 1)).count();
        match warm {
            0 => return Ok(()),
            _ if Instant::now() > patience => return Err(wrong(&format!("{warm} blocks stay in memory"))),
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Carries out the plan in a child pinned to `core`.
pub(crate) fn run(core: usize, plan: &Plan) -> Outcome<Seen> {
    let myself = std::env::current_exe().map_err(|e| e.to_string())?;
    let plan = serde_json::to_string(plan).map_err(|e| e.to_string())?;
    let mut child = Command::new("taskset");
    child.args(["-c", &core.to_string()]).arg(myself).arg("--cold").arg(&plan);
    let output = child.output().map_err(|e| format!("cannot start the cold client: {e}"))?;
    if !output.status.success() {
        return Err(format!("the cold client failed: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    serde_json::from_slice(&output.stdout).map_err(|e| format!("the cold client's result: {e}"))
}

/// A connection and the request it is busy with.
pub(crate) struct Line {
    stream: TcpStream,
    since: Instant,
    /// Bytes of the answer seen so far that belong to its head, until the head has ended.
    head: Vec<u8>,
    /// Bytes of the body that are missing, once the head is known.
    missing: Option<u64>,
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Line {
    pub(crate) fn ask(mut stream: TcpStream, request: &str, since: Instant) -> Outcome<Line> {
        // A request of some hundred bytes always fits an idle connection's send buffer.
        stream.write_all(request.as_bytes()).map_err(|e| format!("cannot send: {e}"))?;
        Ok(Line { stream, since, head: Vec::new(), missing: None })
    }

    /// How long ago it was due.
    pub(crate) fn since(&self) -> Duration {
        self.since.elapsed()
    }

    /// The connection, for the next request.
    pub(crate) fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// Reads what is there; whether the answer is complete.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Outcome<bool> {
        let read = self.stream.read(buffer);
        self.take(buffer, read)
    }

    /// The same, but the kernel throws the body away instead of copying it (recv(2), `MSG_TRUNC`): a thousand listeners
    /// have a machine each, and ours has no time for their copies.
    pub(crate) fn skip(&mut self, buffer: &mut [u8]) -> Outcome<bool> {
        if self.missing.is_none() {
            return self.read(buffer);
        }
        let skipped = rustix::net::recv(&self.stream, &mut *buffer, RecvFlags::TRUNC);
        self.take(buffer, skipped.map(|(_, n)| n).map_err(Into::into))
    }

    fn take(&mut self, buffer: &[u8], read: std::io::Result<usize>) -> Outcome<bool> {
        let n = match read {
            Ok(0) => return Err("the server closed a connection".into()),
            Ok(n) => n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(e) => return Err(format!("cannot read: {e}")),
        };
        let Some(missing) = &mut self.missing else {
            self.head.extend_from_slice(&buffer[..n]);
            let Some(end) = self.head.windows(4).position(|w| w == b"\r\n\r\n") else { return Ok(false) };
            let head = String::from_utf8_lossy(&self.head[..end]).to_ascii_lowercase();
            if !head.starts_with("http/1.1 20") {
                return Err(format!("not the answer that was asked for: {}", head.lines().next().unwrap_or_default()));
            }
            let length = head.lines().find_map(|l| l.strip_prefix("content-length:")?.trim().parse::<u64>().ok());
            let body = (self.head.len() - end - 4) as u64;
            let missing = length.and_then(|length| length.checked_sub(body)).ok_or("an answer of another length")?;
            self.missing = Some(missing);
            return Ok(missing == 0);
        };
        *missing = missing.checked_sub(n as u64).ok_or("an answer was too long")?;
        Ok(*missing == 0)
    }
}

/// The child's side.
pub(crate) fn keep(plan: &Plan) -> Outcome<Seen> {
    let connect = || -> Outcome<TcpStream> {
        let stream = http::connect(plan.port)?;
        stream.set_nonblocking(true).map_err(|e| e.to_string())?;
        Ok(stream)
    };
    let pieces = (plan.cold_bytes / PIECE_BYTES) as usize;
    let mut order = scattered(pieces).into_iter();
    let piece_request = |piece: usize| {
        let start = piece as u64 * PIECE_BYTES;
        let range = ("Range".to_owned(), format!("bytes={start}-{}", start + PIECE_BYTES - 1));
        http::request(plan.port, &plan.cold_path, &[range])
    };
    let hot_request = http::request(plan.port, &plan.hot_path, &[]);
    let mut free: Vec<TcpStream> = (0..32).map(|_| connect()).collect::<Outcome<_>>()?;
    let mut hot: VecDeque<Line> = VecDeque::new();
    let mut cold: VecDeque<Line> = VecDeque::new();
    let (mut hot_seen, mut cold_seen) = (Vec::new(), Vec::new());
    let mut buffer = vec![0; 256 << 10];
    let mut sent = 0u32;
    let start = Instant::now();
    for piece in order.by_ref().take(LISTENERS) {
        cold.push_back(Line::ask(connect()?, &piece_request(piece), start)?);
    }
    let mut ended = None;
    while ended.is_none() || !hot.is_empty() {
        let now = Instant::now();
        let elapsed = now - start;
        if elapsed > Duration::from_secs(60) {
            return Err(format!("{} of {pieces} pieces after a minute", cold_seen.len()));
        }
        let over = if pieces > 0 { cold_seen.len() == pieces } else { elapsed.as_secs_f64() >= plan.seconds };
        if over && ended.is_none() {
            ended = Some(elapsed);
        }
        while ended.is_none() && plan.hot_rate > 0.0 {
            let due = start + Duration::from_secs_f64(f64::from(sent) / plan.hot_rate);
            if due > now {
                break;
            }
            let Some(stream) = free.pop() else { break };
            hot.push_back(Line::ask(stream, &hot_request, due)?);
            sent += 1;
        }
        for _ in 0..hot.len() {
            let Some(mut line) = hot.pop_front() else { break };
            if line.read(&mut buffer)? {
                hot_seen.push(line.since.elapsed());
                free.push(line.stream);
            } else {
                hot.push_back(line);
            }
        }
        for _ in 0..cold.len() {
            let Some(mut line) = cold.pop_front() else { break };
            if !line.read(&mut buffer)? {
                cold.push_back(line);
                continue;
            }
            cold_seen.push(line.since.elapsed());
            if let Some(piece) = order.next() {
                cold.push_back(Line::ask(line.stream, &piece_request(piece), Instant::now())?);
            }
        }
    }
    Ok(Seen {
        pieces,
        seconds: ended.unwrap_or_default().as_secs_f64(),
        piece_p99_us: percentile(&mut cold_seen, 0.99),
        hot_p99_us: percentile(&mut hot_seen, 0.99),
        hot_requests: hot_seen.len(),
    })
}

/// All numbers below `count`, neighbours far apart, the same on every run.
fn scattered(count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_key(|n| (*n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    order
}
