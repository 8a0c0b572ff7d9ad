//! Closed-loop load with wrk: as many requests as 32 connections and one core can ask for.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::Deserialize;

use crate::Outcome;
use crate::http;
use crate::tls::Tls;

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

/// What to ask, and what to expect.
pub(crate) struct Load<'a> {
    /// `http` or `https`, host and port.
    pub(crate) base: String,
    pub(crate) port: u16,
    /// Paths, tokens included, with header lines; asked in turn.
    pub(crate) asks: &'a [(String, Vec<(String, String)>)],
    /// Whole answers, heads included, on average.
    pub(crate) answer_bytes: f64,
}

/// Runs wrk on `core` for `seconds` and refuses a run in which any answer was not the expected one: an
/// error status, a broken connection, or an average length that is not `answer_bytes`.
pub(crate) fn run(scratch: &Path, core: usize, seconds: u64, load: &Load<'_>, tls: Option<&Tls>) -> Outcome<Counted> {
    let script = scratch.join("wrk.lua");
    fs::write(&script, script_for(load)).map_err(|e| format!("cannot write wrk's script: {e}"))?;
    let (first, headers) = load.asks.first().ok_or("nothing to ask")?;
    let url = format!("{}{first}", load.base);
    let mut wrk = Command::new("taskset");
    wrk.args(["-c", &core.to_string(), "wrk", "-t1", "-c32", "--timeout", "10s"]);
    wrk.arg(format!("-d{seconds}s")).arg("-s").arg(&script);
    for (name, value) in headers {
        wrk.arg("-H").arg(format!("{name}: {value}"));
    }
    if let Some(tls) = tls {
        wrk.env("OPENSSL_CONF", &tls.client_settings);
    }
    let output = wrk.arg(&url).output().map_err(|e| format!("cannot start wrk: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|l| l.strip_prefix("RESULT ")).ok_or_else(|| {
        format!("wrk gave no result for {url}: {}{}", text.trim(), String::from_utf8_lossy(&output.stderr).trim())
    })?;
    let counted: Counted = serde_json::from_str(line).map_err(|e| format!("wrk's result {line:?}: {e}"))?;
    if counted.status > 0 || counted.socket > 0 || counted.requests == 0 {
        return Err(format!("wrk met errors at {url}: {line}"));
    }
    // The last answer of each connection may be cut by the end of the run; short runs weigh that more. So
    // does a mix that ends in the middle of a turn.
    let average = counted.bytes as f64 / counted.requests as f64;
    let cut = (32.0 + if load.asks.len() > 1 { 20.0 } else { 0.0 }) / counted.requests as f64;
    if (average / load.answer_bytes - 1.0).abs() > 0.005 + cut {
        return Err(format!("answers of {url} averaged {average:.0} bytes instead of {:.0}", load.answer_bytes));
    }
    Ok(counted)
}

/// The script, behind the table of requests where there is more than one.
fn script_for(load: &Load<'_>) -> String {
    const SCRIPT: &str = include_str!("wrk.lua");
    if load.asks.len() < 2 {
        return SCRIPT.to_owned();
    }
    // Requests are printable ASCII and CR LF, which Rust and Lua quote alike.
    let quoted = load.asks.iter().map(|(path, headers)| format!("  {:?},\n", http::request(load.port, path, headers)));
    format!("requests = {{\n{}}}\n{SCRIPT}", quoted.collect::<String>())
}
