//! Closed-loop load with wrk: as many requests as 32 connections and one core can ask for.

use std::path::Path;
use std::process::Command;

use serde::Deserialize;

use crate::Outcome;

/// What wrk counted in one run.
#[derive(Clone, Copy, Deserialize)]
pub(crate) struct Counted {
    /// Complete answers.
    pub(crate) requests: u64,
    /// Bytes received, heads included.
    pub(crate) bytes: u64,
    /// How long it ran.
    pub(crate) duration_us: u64,
    /// Median latency.
    pub(crate) p50_us: u64,
    /// 99th percentile of the latency.
    pub(crate) p99_us: u64,
    /// Answers with a status above 399.
    status: u64,
    /// Connections that failed, broke or timed out.
    socket: u64,
}

/// Runs wrk on `core` for `seconds` and refuses a run in which any answer was not the expected one:
/// an error status, a broken connection, or an average length that is not `answer_bytes`.
pub(crate) fn run(
    script: &Path,
    core: usize,
    seconds: u64,
    url: &str,
    headers: &[(String, String)],
    answer_bytes: u64,
) -> Outcome<Counted> {
    let mut wrk = Command::new("taskset");
    wrk.args(["-c", &core.to_string(), "wrk", "-t1", "-c32", "--timeout", "10s"]);
    wrk.arg(format!("-d{seconds}s")).arg("-s").arg(script);
    for (name, value) in headers {
        wrk.arg("-H").arg(format!("{name}: {value}"));
    }
    let output = wrk.arg(url).output().map_err(|e| format!("cannot start wrk: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|l| l.strip_prefix("RESULT ")).ok_or_else(|| {
        format!("wrk gave no result for {url}: {}{}", text.trim(), String::from_utf8_lossy(&output.stderr).trim())
    })?;
    let counted: Counted = serde_json::from_str(line).map_err(|e| format!("wrk's result {line:?}: {e}"))?;
    if counted.status > 0 || counted.socket > 0 || counted.requests == 0 {
        return Err(format!("wrk met errors at {url}: {line}"));
    }
    // The last answer of each connection may be cut by the end of the run; short runs weigh that more.
    let average = counted.bytes as f64 / counted.requests as f64;
    let cut = 32.0 / counted.requests as f64;
    if (average / answer_bytes as f64 - 1.0).abs() > 0.005 + cut {
        return Err(format!("answers of {url} averaged {average:.0} bytes instead of {answer_bytes}"));
    }
    Ok(counted)
}
