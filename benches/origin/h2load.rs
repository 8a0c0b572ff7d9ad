//! Closed-loop load over HTTP/2 with nghttp2's h2load: eight connections with four streams each, as many
//! requests on their way as wrk has.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::Outcome;
use crate::tls::{CIPHER, Tls};

/// What h2load counted in one run.
pub(crate) struct Counted {
    /// Complete answers.
    pub(crate) requests: u64,
    /// How long it ran.
    pub(crate) duration_s: f64,
    /// Median latency.
    pub(crate) p50_us: f64,
    /// 99th percentile of the latency.
    pub(crate) p99_us: f64,
}

/// Runs h2load on `core` for `seconds` and refuses a run in which any answer was not the expected one: a
/// status other than 2xx, a broken stream, or an average length that is not `body_bytes`.
pub(crate) fn run(
    scratch: &Path,
    core: usize,
    seconds: u64,
    url: &str,
    body_bytes: u64,
    tls: Option<&Tls>,
) -> Outcome<Counted> {
    let log = scratch.join("h2load.log");
    // h2load adds to a log that is there.
    let _ = fs::remove_file(&log);
    let mut h2load = Command::new("taskset");
    h2load.args(["-c", &core.to_string(), "h2load", "-t1", "-c8", "-m4", "--warm-up-time", "0"]);
    h2load.args(["-D", &seconds.to_string()]).arg(format!("--log-file={}", log.display())).arg(url);
    if let Some(tls) = tls {
        h2load.env("OPENSSL_CONF", &tls.client_settings);
    }
    let output = h2load.output().map_err(|e| format!("cannot start h2load: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let wrong = |what: &str| {
        Err(format!("h2load at {url}: {what}: {}{}", text.trim(), String::from_utf8_lossy(&output.stderr).trim()))
    };
    let counts = |line: &str| text.lines().find_map(|l| l.strip_prefix(line)).unwrap_or_default().trim().to_owned();
    let duration_s = counts("finished in ").split("s,").next().and_then(|seconds| seconds.parse::<f64>().ok());
    let (requests, traffic) = (counts("requests:"), counts("traffic:"));
    let (Some(duration_s), Some(done)) = (duration_s, count(&requests, "succeeded")) else { return wrong("no result") };
    if done == 0.0 || ["failed", "errored", "timeout"].iter().any(|kind| count(&requests, kind) != Some(0.0)) {
        return wrong("errors");
    }
    if count(&counts("status codes:"), "2xx").is_none_or(|good| good < done) {
        return wrong("answers with an error status");
    }
    if tls.is_some() && !text.contains(&format!("Cipher: {CIPHER}")) {
        return wrong("another cipher");
    }
    // `…MB (n) total, …KB (n) headers (space savings …%), …MB (n) data`
    let data = traffic.strip_suffix(") data").and_then(|t| t.rsplit_once('(')?.1.parse::<f64>().ok());
    let Some(data) = data else { return wrong("no traffic") };
    // Bodies that were cut by the end of the run are in the sum.
    let cut = 32.0 / done;
    if (data / done / body_bytes as f64 - 1.0).abs() > 0.005 + cut {
        return wrong(&format!("answers averaged {:.0} bytes instead of {body_bytes}", data / done));
    }
    let (p50_us, p99_us) = percentiles(&log)?;
    Ok(Counted { requests: done as u64, duration_s, p50_us, p99_us })
}

/// The number before `kind` in `7 total, 7 started, …`.
fn count(list: &str, kind: &str) -> Option<f64> {
    list.split(", ").find_map(|item| item.strip_suffix(kind)?.trim().parse().ok())
}

/// Median and 99th percentile of a log whose lines are start, status and duration in microseconds.
fn percentiles(log: &Path) -> Outcome<(f64, f64)> {
    let text = fs::read_to_string(log).map_err(|e| format!("h2load left no log: {e}"))?;
    let mut latencies: Vec<u64> = text.lines().filter_map(|line| line.split('\t').nth(2)?.parse().ok()).collect();
    latencies.sort_unstable();
    let at = |share: f64| latencies.get((latencies.len() as f64 * share) as usize).map(|us| *us as f64);
    at(0.50).zip(at(0.99)).ok_or_else(|| "h2load's log is empty".into())
}
