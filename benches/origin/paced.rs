//! Open-loop load: requests leave on a fixed schedule, whether or not earlier ones were answered.
//!
//! A closed loop like wrk's waits for a slow server and so hides its slowness. Here the latency of a
//! request runs from the moment it was due, so waiting for a free connection counts (no coordinated
//! omission). One thread busy-polls all connections; it runs as a process of its own, pinned to a core.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::Outcome;
use crate::http;

/// A schedule, given to the child process as JSON.
#[derive(Serialize, Deserialize)]
pub(crate) struct Schedule {
    /// The server's port on the loopback.
    pub(crate) port: u16,
    /// Path with the token in front.
    pub(crate) path: String,
    /// Whole answer, head and body: every answer of one object is equally long.
    pub(crate) answer_bytes: u64,
    /// Requests per second.
    pub(crate) rate: f64,
    /// How long.
    pub(crate) seconds: f64,
    /// Connections to spread them over.
    pub(crate) connections: usize,
}

/// Latencies from due time to last byte.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Latency {
    /// Median.
    pub(crate) p50_us: f64,
    /// 99th percentile.
    pub(crate) p99_us: f64,
    /// Requests answered.
    pub(crate) requests: usize,
}

/// Runs the schedule in a child pinned to `core`.
pub(crate) fn run(core: usize, schedule: &Schedule) -> Outcome<Latency> {
    let myself = std::env::current_exe().map_err(|e| e.to_string())?;
    let schedule = serde_json::to_string(schedule).map_err(|e| e.to_string())?;
    let output = Command::new("taskset")
        .args(["-c", &core.to_string()])
        .arg(myself)
        .arg("--paced")
        .arg(&schedule)
        .output()
        .map_err(|e| format!("cannot start the paced client: {e}"))?;
    if !output.status.success() {
        return Err(format!("the paced client failed: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    serde_json::from_slice(&output.stdout).map_err(|e| format!("the paced client's result: {e}"))
}

/// A connection and the request it is busy with.
struct Line {
    stream: TcpStream,
    due: Instant,
    missing: u64,
}

/// The child's side: keeps the schedule and returns what it saw.
pub(crate) fn keep(schedule: &Schedule) -> Outcome<Latency> {
    let request = http::request(schedule.port, &schedule.path, &[]);
    let mut free = Vec::new();
    for _ in 0..schedule.connections {
        let mut stream = http::connect(schedule.port)?;
        let warm = http::exchange(&mut stream, &request)?;
        let bytes = (warm.head.len() + warm.body.len()) as u64;
        if warm.status != 200 || bytes != schedule.answer_bytes {
            return Err(format!("status {} and {bytes} bytes instead of {}", warm.status, schedule.answer_bytes));
        }
        stream.set_nonblocking(true).map_err(|e| e.to_string())?;
        free.push(stream);
    }

    let total = (schedule.rate * schedule.seconds) as usize;
    let interval = Duration::from_secs_f64(1.0 / schedule.rate);
    let start = Instant::now() + Duration::from_millis(20);
    let give_up = start + Duration::from_secs_f64(schedule.seconds + 10.0);
    let mut busy: VecDeque<Line> = VecDeque::new();
    let mut buffer = vec![0; 256 << 10];
    let mut latencies = Vec::with_capacity(total);
    let mut sent = 0;
    while latencies.len() < total {
        let now = Instant::now();
        if now > give_up {
            return Err(format!(
                "{} of {total} requests unanswered ten seconds after the end",
                total - latencies.len()
            ));
        }
        while sent < total && start + interval * sent as u32 <= now {
            let Some(mut stream) = free.pop() else { break };
            // A request of some hundred bytes always fits an idle connection's send buffer.
            stream.write_all(request.as_bytes()).map_err(|e| format!("cannot send: {e}"))?;
            let due = start + interval * sent as u32;
            busy.push_back(Line { stream, due, missing: schedule.answer_bytes });
            sent += 1;
        }
        // The oldest first: answers of equal length mostly complete in the order they were asked for.
        for _ in 0..busy.len() {
            let Some(mut line) = busy.pop_front() else { break };
            match line.stream.read(&mut buffer) {
                Ok(0) => return Err("the server closed a connection".into()),
                Ok(n) => line.missing = line.missing.checked_sub(n as u64).ok_or("an answer was too long")?,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) => return Err(format!("cannot read: {e}")),
            }
            if line.missing == 0 {
                latencies.push(line.due.elapsed());
                free.push(line.stream);
            } else {
                busy.push_back(line);
            }
        }
    }
    Ok(Latency { p50_us: percentile(&mut latencies, 0.50), p99_us: percentile(&mut latencies, 0.99), requests: total })
}

/// The latency that `share` of them do not exceed, in microseconds; sorts them.
pub(crate) fn percentile(of: &mut [Duration], share: f64) -> f64 {
    of.sort_unstable();
    let at = ((of.len() as f64 * share) as usize).min(of.len().saturating_sub(1));
    of.get(at).map_or(0.0, |d| d.as_secs_f64() * 1e6)
}
