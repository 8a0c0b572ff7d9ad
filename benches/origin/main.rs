//! The origin beside nginx and a C loop that parses nothing: CPU per request, rate, latency, memory.
//!
//! ```text
//! cargo bench --bench origin -- [--rounds N] [--seconds S] [--smoke] [--markdown FILE] [--json FILE]
//! ```
//!
//! Machines are noisy, so only what was measured side by side is compared: the servers take turns on one
//! core, wrk asks from another, every figure is the median of the rounds and every bar is a ratio within
//! the run (or a server's own CPU time). Before anything is measured each server's answer is compared
//! byte for byte with the file; a run in which any answer was not the expected one fails.
#![allow(clippy::print_stdout, reason = "the table is the product")]

mod http;
mod idle;
mod machine;
mod paced;
mod peers;
mod process;
mod report;
mod tree;
mod wrk;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use http::Answer;
use idle::Idle;
use machine::Cores;
use paced::Latency;
use peers::{Peer, Who};
use report::{Comparison, Figures, Report};
use tree::Tree;

/// A result whose error is a line for people.
pub(crate) type Outcome<T> = Result<T, String>;

#[derive(Parser)]
#[command(about = "The origin beside nginx and a C floor")]
struct Options {
    /// Rounds; figures are medians over them.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds each server is asked in a round, per kind of answer.
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Only show that everything works: few answers, one round, one second, no verdict.
    #[arg(long)]
    smoke: bool,
    /// Idle connections to hold.
    #[arg(long, default_value_t = 10_000)]
    idle: u64,
    /// Who takes part.
    #[arg(long, value_delimiter = ',', default_values_t = [Who::Segue, Who::Nginx, Who::Floor], value_enum)]
    peers: Vec<Who>,
    /// Only kinds of answers whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Also write the tables as Markdown.
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Also write everything as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Exit with 1 when a bar is missed.
    #[arg(long)]
    strict: bool,
    /// The client half of the paced measurement; not for people.
    #[arg(long, hide = true)]
    paced: Option<String>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = match &options.paced {
        Some(schedule) => paced_client(schedule),
        None => run(&options),
    };
    match outcome {
        Ok(code) => code,
        Err(why) => {
            eprintln!("origin bench: {why}");
            ExitCode::FAILURE
        }
    }
}

fn paced_client(schedule: &str) -> Outcome<ExitCode> {
    let schedule = serde_json::from_str(schedule).map_err(|e| e.to_string())?;
    let latency = paced::keep(&schedule)?;
    println!("{}", serde_json::to_string(&latency).map_err(|e| e.to_string())?);
    Ok(ExitCode::SUCCESS)
}

/// A kind of answer.
struct Row {
    name: String,
    /// Below the version's directory.
    path: String,
    kind: Kind,
    /// Bars of quality.md: CPU relative to nginx, and to the floor.
    nginx_max: f64,
    floor_max: Option<f64>,
}

/// What the client asks with.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Whole,
    Gzip,
    NotModified,
}

/// Q1 and Q4, in the order of the table.
fn rows() -> Vec<Row> {
    let mut rows: Vec<Row> = tree::SIZES_KIB
        .into_iter()
        .map(|kib| Row {
            name: format!("{kib} KiB segment"),
            path: format!("aac/{kib}/00000.mp4"),
            kind: Kind::Whole,
            nginx_max: if kib <= 16 { 0.90 } else { 0.60 },
            floor_max: (kib >= 64).then_some(1.20),
        })
        .collect();
    let small = |name: &str, path: &str, kind| Row {
        name: name.into(),
        path: path.into(),
        kind,
        nginx_max: 0.90,
        floor_max: None,
    };
    rows.push(small("playlist", "aac/64/index.m3u8", Kind::Whole));
    rows.push(small("playlist, gzip", "aac/64/index.m3u8", Kind::Gzip));
    rows.push(small("304", "aac/192/00000.mp4", Kind::NotModified));
    rows
}

/// What one client asks one server again and again, and how long the answer is.
struct Target<'a> {
    peer: &'a Peer,
    path: String,
    headers: Vec<(String, String)>,
    answer_bytes: u64,
}

fn run(options: &Options) -> Outcome<ExitCode> {
    peers::check_tools(&["taskset", "wrk", "nginx", "cc", "gzip"])?;
    let open_files = machine::raise_open_files();
    let cores = Cores::pick();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).map_err(|e| format!("no scratch directory: {e}"))?;
    let script = dir.path().join("wrk.lua");
    std::fs::write(&script, include_str!("wrk.lua")).map_err(|e| e.to_string())?;
    let nginx = machine::version("nginx", "-v");
    let nginx = nginx.trim_start_matches("nginx version: ");
    let wrk = machine::version("wrk", "-v").split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    let mut report = Report::new(format!("{}; {nginx}; {wrk}", machine::description()), options.smoke);
    report.warn_if(cores.server == cores.client, "one core only: server and client share it, ratios mean little");
    report.warn_if(!options.smoke && machine::busy_percent() > 10.0, "the machine was busy with other things");
    report.warn_if(cfg!(debug_assertions), "development build: the figures of segue mean nothing");

    let tree = Tree::build(dir.path())?;
    let (rounds, seconds) = if options.smoke { (1, 1) } else { (options.rounds.max(1), options.seconds.max(1)) };
    let smoke_rows = ["1 KiB segment", "192 KiB segment", "304"];
    let rows: Vec<Row> = rows()
        .into_iter()
        .filter(|row| options.only.as_ref().is_none_or(|part| row.name.contains(part)))
        .filter(|row| !options.smoke || smoke_rows.contains(&row.name.as_str()))
        .collect();
    if rows.is_empty() {
        return Err("no kind of answer is left to measure; see --only".into());
    }
    let lab = Lab { dir: dir.path(), script: &script, cores, tree: &tree, rounds, seconds };

    let segue = if options.peers.contains(&Who::Segue) { Some(lab.start_segue()?) } else { None };
    let nginx =
        if options.peers.contains(&Who::Nginx) { Some(lab.start_nginx(segue.as_ref(), &rows, 1024)?) } else { None };
    let standing: Vec<&Peer> = segue.iter().chain(&nginx).collect();
    let mut paced_rate = None;
    for row in &rows {
        let Some(comparison) = lab.compare(row, &standing, options.peers.contains(&Who::Floor))? else {
            report.note(format!("{}: left out, segue has no such answer", row.name));
            continue;
        };
        if row.path == PACED_PATH && row.kind == Kind::Whole {
            paced_rate = comparison.figures(Who::Nginx).map(|f| f.requests_per_s / 2.0);
        }
        report.add(comparison);
    }

    if let Some(rate) = paced_rate {
        report.paced = Some((rate, lab.paced(&standing, rate)?));
    }
    drop((segue, nginx));
    // Each end of a connection is a file; some are needed for other things.
    let idle = options.idle.min(open_files.saturating_sub(200)).min(if options.smoke { 200 } else { u64::MAX });
    report.warn_if(idle < options.idle && !options.smoke, "fewer idle connections than asked for: see ulimit -n");
    for who in [Who::Segue, Who::Nginx] {
        if options.peers.contains(&who) {
            report.idle.push((who, lab.idle(who, &rows, idle)?));
        }
    }

    println!("{}", report.text());
    if let Some(file) = &options.markdown {
        std::fs::write(file, report.markdown()).map_err(|e| format!("cannot write {}: {e}", file.display()))?;
    }
    if let Some(file) = &options.json {
        std::fs::write(file, report.json()).map_err(|e| format!("cannot write {}: {e}", file.display()))?;
    }
    Ok(if options.strict && report.missed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The answer whose latency is taken at a fixed rate: the segment of a usual rung.
const PACED_PATH: &str = "aac/192/00000.mp4";

/// What every measurement needs.
struct Lab<'a> {
    dir: &'a Path,
    script: &'a Path,
    cores: Cores,
    tree: &'a Tree,
    rounds: usize,
    seconds: u64,
}

impl Lab<'_> {
    fn start_segue(&self) -> Outcome<Peer> {
        peers::segue(self.dir, self.cores.server, self.tree)
    }

    /// Starts nginx with the headers of segue's own answers, or without segue with plausible ones.
    fn start_nginx(&self, segue: Option<&Peer>, rows: &[Row], connections: u64) -> Outcome<Peer> {
        // What nginx makes by itself; everything else is added by configuration.
        const OWN: [&str; 10] = [
            "date",
            "server",
            "content-type",
            "content-length",
            "content-encoding",
            "last-modified",
            "etag",
            "accept-ranges",
            "connection",
            "keep-alive",
        ];
        let mut paths: Vec<(String, Vec<(String, String)>)> = Vec::new();
        for row in rows {
            let path = format!("{}{}", self.tree.prefix, row.path);
            if paths.iter().any(|(known, _)| *known == path) {
                continue;
            }
            let headers = match segue {
                Some(segue) => http::get(segue.port, &format!("{}{}", segue.prefix, row.path), &[])?.headers,
                None => PLAUSIBLE.map(|(name, value)| (name.into(), value.into())).into(),
            };
            let added = headers.into_iter().filter(|(name, _)| !OWN.contains(&name.to_ascii_lowercase().as_str()));
            paths.push((path, added.collect()));
            if row.path.ends_with(".m3u8") {
                self.compress(&row.path)?;
            }
        }
        peers::nginx(self.dir, self.cores.server, self.tree, &paths, connections)
    }

    /// Puts the `.gz` that nginx's gzip_static looks for beside a file.
    fn compress(&self, path: &str) -> Outcome<()> {
        let file = self.tree.files.join(&self.tree.prefix[1..]).join(path);
        let status = std::process::Command::new("gzip").args(["-9", "-k", "-n", "-f"]).arg(&file).status();
        if status.is_ok_and(|s| s.success()) { Ok(()) } else { Err(format!("cannot compress {}", file.display())) }
    }

    /// Measures one kind of answer at every server in turn; `None` when segue does not give it.
    fn compare(&self, row: &Row, standing: &[&Peer], with_floor: bool) -> Outcome<Option<Comparison>> {
        let mut targets = Vec::new();
        let mut model: Option<Answer> = None;
        for peer in standing {
            let Some((target, answer)) = self.target(row, peer)? else { return Ok(None) };
            targets.push(target);
            // segue comes first: the floor sends what segue sends.
            model.get_or_insert(answer);
        }
        let floor = match (with_floor, &model) {
            (true, Some(answer)) => Some(peers::floor(self.dir, self.cores.server, answer)?),
            _ => None,
        };
        if let (Some(peer), Some(answer)) = (&floor, &model) {
            let headers = targets.first().map(|t| t.headers.clone()).unwrap_or_default();
            let path = targets.first().map_or_else(|| "/".to_owned(), |t| t.path.clone());
            targets.push(Target { peer, path, headers, answer_bytes: (answer.head.len() + answer.body.len()) as u64 });
        }

        let mut comparison = Comparison::new(&row.name, row.nginx_max, row.floor_max);
        for round in 0..self.rounds {
            // Every server goes first equally often: a burst of noise does not always hit the same one.
            for turn in 0..targets.len() {
                let target = &targets[(round + turn) % targets.len()];
                comparison.add(target.peer.who, self.measure(target)?);
            }
        }
        eprintln!("{}", comparison.progress());
        Ok(Some(comparison))
    }

    /// Checks a server's answer against the file and describes how to ask for it.
    fn target<'p>(&self, row: &Row, peer: &'p Peer) -> Outcome<Option<(Target<'p>, Answer)>> {
        let path = format!("{}{}", peer.prefix, row.path);
        let wrong = |what: String| Err(format!("{}, {}: {what}", peer.who.name(), row.name));
        let whole = http::get(peer.port, &path, &[])?;
        let file = self.tree.files.join(&self.tree.prefix[1..]).join(&row.path);
        let expected = std::fs::read(&file).map_err(|e| format!("cannot read {}: {e}", file.display()))?;
        if whole.status != 200 || whole.body != expected {
            return wrong(format!("status {} and {} bytes that are not the file's", whole.status, whole.body.len()));
        }
        let (headers, answer) = match row.kind {
            Kind::Whole => (vec![], whole),
            Kind::Gzip => {
                let headers = vec![("Accept-Encoding".to_owned(), "gzip".to_owned())];
                let answer = http::get(peer.port, &path, &headers)?;
                if answer.header("content-encoding") != Some("gzip") {
                    return if peer.who == Who::Segue { Ok(None) } else { wrong("it is not compressed".into()) };
                }
                (headers, answer)
            }
            Kind::NotModified => {
                let Some(tag) = whole.header("etag") else { return wrong("there is no ETag".into()) };
                let headers = vec![("If-None-Match".to_owned(), tag.to_owned())];
                let answer = http::get(peer.port, &path, &headers)?;
                if answer.status != 304 {
                    return wrong(format!("status {} instead of 304", answer.status));
                }
                (headers, answer)
            }
        };
        let answer_bytes = (answer.head.len() + answer.body.len()) as u64;
        Ok(Some((Target { peer, path, headers, answer_bytes }, answer)))
    }

    /// One server, one run of wrk.
    fn measure(&self, target: &Target<'_>) -> Outcome<Figures> {
        let url = format!("http://127.0.0.1:{}{}", target.peer.port, target.path);
        let before = target.peer.process.cpu()?;
        let counted =
            wrk::run(self.script, self.cores.client, self.seconds, &url, &target.headers, target.answer_bytes)?;
        let spent = target.peer.process.cpu()?.since(before);
        Ok(Figures {
            requests_per_s: counted.requests as f64 * 1e6 / counted.duration_us as f64,
            p50_us: counted.p50_us as f64,
            p99_us: counted.p99_us as f64,
            cpu_us: spent as f64 / 1e3 / counted.requests as f64,
        })
    }

    /// Latency when requests come at `rate`, whether or not earlier ones are answered; medians of the rounds.
    fn paced(&self, peers: &[&Peer], rate: f64) -> Outcome<Vec<(Who, Latency)>> {
        let mut seen: Vec<(Who, Vec<Latency>)> = peers.iter().map(|peer| (peer.who, Vec::new())).collect();
        for round in 0..self.rounds {
            for turn in 0..peers.len() {
                let at = (round + turn) % peers.len();
                let (port, path) = (peers[at].port, format!("{}{PACED_PATH}", peers[at].prefix));
                let answer = http::get(port, &path, &[])?;
                let answer_bytes = (answer.head.len() + answer.body.len()) as u64;
                let seconds = self.seconds as f64;
                let schedule = paced::Schedule { port, path, answer_bytes, rate, seconds, connections: 64 };
                seen[at].1.push(paced::run(self.cores.client, &schedule)?);
            }
        }
        let middle = |of: &[Latency], field: fn(&Latency) -> f64| report::median(of.iter().map(field));
        Ok(seen
            .into_iter()
            .map(|(who, of)| {
                let requests = of.iter().map(|l| l.requests).sum();
                (who, Latency { p50_us: middle(&of, |l| l.p50_us), p99_us: middle(&of, |l| l.p99_us), requests })
            })
            .collect())
    }

    /// Memory of a freshly started server with `connections` listeners at rest.
    fn idle(&self, who: Who, rows: &[Row], connections: u64) -> Outcome<Idle> {
        let named = |e| format!("{}: {e}", who.name());
        let path = |peer: &Peer| format!("{}{}", peer.prefix, rows[0].path);
        let (before_bytes, peer) = match who {
            Who::Segue => {
                let peer = self.start_segue()?;
                (idle::at_rest(&peer.process, peer.port, &path(&peer)).map_err(named)?, peer)
            }
            // nginx makes its table of connections at the start, as large as it is told. That is memory of
            // connections too, so "before" is an nginx with next to none. It closes idle connections when
            // less than a sixteenth of the table is free, hence the eighth.
            _ => {
                let small = self.start_nginx(None, rows, 64)?;
                let before = idle::at_rest(&small.process, small.port, &path(&small)).map_err(named)?;
                drop(small);
                (before, self.start_nginx(None, rows, connections + connections / 8 + 64)?)
            }
        };
        // A listener rests about six seconds between two segments.
        let rest = Duration::from_secs(if self.rounds > 1 { 6 } else { 1 });
        let after_bytes = idle::with(&peer.process, peer.port, &path(&peer), connections, rest).map_err(named)?;
        Ok(Idle { before_bytes, after_bytes, connections })
    }
}

/// Headers of a media answer when there is no segue to ask.
const PLAUSIBLE: [(&str, &str); 6] = [
    ("Cache-Control", "public, max-age=31536000, immutable"),
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Expose-Headers", "Content-Length, Content-Range, ETag, Server-Timing"),
    ("Timing-Allow-Origin", "*"),
    ("Cross-Origin-Resource-Policy", "cross-origin"),
    ("X-Content-Type-Options", "nosniff"),
];
