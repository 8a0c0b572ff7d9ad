//! The origin beside nginx and a C loop that parses nothing: CPU per answer, rate, latency, memory; hot and
//! cold, over HTTP/1.1, HTTP/2 and TLS.
//!
//! ```text
//! cargo bench --bench origin -- [--rounds N] [--seconds S] [--only PART] [--smoke] [--markdown FILE] [--json FILE]
//! ```
//!
//! Machines are noisy, so only what was measured side by side is compared: the servers take turns on one
//! core, the load comes from another, every figure is the median of the rounds and every bar is a ratio
//! within the run (or a server's own CPU time). Before anything is measured each server's answer is compared
//! byte for byte with the file; a run in which any answer was not the expected one fails.
#![allow(clippy::print_stdout, reason = "the table is the product")]

mod bucket;
mod cold;
mod curl;
mod h2load;
mod http;
mod idle;
mod lab;
mod machine;
mod paced;
mod peers;
mod process;
mod report;
mod rows;
mod tls;
mod tree;
mod wrk;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use lab::Lab;
use machine::Cores;
use peers::{Peer, Tuning, Who};
use report::Report;
use rows::{PACED_PATH, Protocol, Row};
use tls::Tls;
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
    /// Versions in the store of the start.
    #[arg(long, default_value_t = 100_000)]
    versions: usize,
    /// Who takes part.
    #[arg(long, value_delimiter = ',', default_values_t = [Who::Segue, Who::Nginx, Who::Floor], value_enum)]
    peers: Vec<Who>,
    /// The segue to measure, such as an older build.
    #[arg(long, value_name = "FILE", default_value = env!("CARGO_BIN_EXE_segue"), hide_default_value = true)]
    segue: PathBuf,
    /// Only kinds of answers, and sections (cold, bucket, idle, token, start), whose name contains this.
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
    /// The client half of the cold measurement; not for people.
    #[arg(long, hide = true)]
    cold: Option<String>,
    /// Until the bucket's first byte, in milliseconds.
    #[arg(long, default_value_t = 100)]
    bucket_ms: u64,
    /// Rates of one answer of the bucket, in MiB a second; a storm for each.
    #[arg(long, default_values_t = [2, 10], num_args = 1.., value_parser = clap::value_parser!(u64).range(1..))]
    bucket_mib_s: Vec<u64>,
    /// Listeners of the cold storm.
    #[arg(long, default_value_t = 500)]
    storm_listeners: usize,
    /// The listeners of the cold storm; not for people.
    #[arg(long, hide = true)]
    storm: Option<String>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|part| name.contains(part))
    }

    fn asks_for(&self, who: Who) -> bool {
        self.peers.contains(&who)
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = match (&options.paced, &options.cold, &options.storm) {
        (Some(schedule), ..) => client(schedule, paced::keep),
        (_, Some(plan), _) => client(plan, cold::keep),
        (.., Some(plan)) => client(plan, bucket::keep),
        _ => run(&options),
    };
    match outcome {
        Ok(code) => code,
        Err(why) => {
            eprintln!("origin bench: {why}");
            ExitCode::FAILURE
        }
    }
}

/// A client in a process of its own: its task as JSON, what it saw as JSON.
fn client<T: serde::de::DeserializeOwned, S: serde::Serialize>(
    task: &str,
    keep: fn(&T) -> Outcome<S>,
) -> Outcome<ExitCode> {
    let task = serde_json::from_str(task).map_err(|e| e.to_string())?;
    println!("{}", serde_json::to_string(&keep(&task)?).map_err(|e| e.to_string())?);
    Ok(ExitCode::SUCCESS)
}

fn run(options: &Options) -> Outcome<ExitCode> {
    peers::check_tools(&["taskset", "wrk", "h2load", "nginx", "cc", "gzip", "curl", "openssl"])?;
    let open_files = machine::raise_open_files();
    let cores = Cores::pick();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).map_err(|e| format!("no scratch directory: {e}"))?;
    let nginx = machine::version("nginx", "-v");
    let nginx = nginx.trim_start_matches("nginx version: ");
    let wrk = machine::version("wrk", "-v").split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    let h2load = machine::version("h2load", "--version");
    let mut report = Report::new(format!("{}; {nginx}; {wrk}; {h2load}", machine::description()), options.smoke);
    report.warn_if(cores.server == cores.client, "one core only: server and client share it, ratios mean little");
    report.warn_if(!options.smoke && machine::busy_percent() > 10.0, "the machine was busy with other things");
    report.warn_if(cfg!(debug_assertions), "development build: the figures of segue mean nothing");

    let tree = Tree::build(dir.path(), options.smoke)?;
    let tls = Tls::make(dir.path())?;
    let (rounds, seconds) = if options.smoke { (1, 1) } else { (options.rounds.max(1), options.seconds.max(1)) };
    let lab = Lab { dir: dir.path(), program: &options.segue, cores, tree: &tree, tls: &tls, rounds, seconds };
    let rows: Vec<Row> = rows::rows()
        .into_iter()
        .filter(|row| options.wants(&row.name) && (!options.smoke || rows::SMOKE.contains(&row.name.as_str())))
        .collect();

    measure_hot(&lab, options, &rows, &mut report)?;
    if options.wants("cold") {
        measure_cold(&lab, options, &mut report)?;
    }
    if options.wants("bucket") && options.asks_for(Who::Segue) {
        let listeners = if options.smoke { 20 } else { options.storm_listeners.max(1) };
        let delay_ms = if options.smoke { 5 } else { options.bucket_ms };
        report.note(format!("bucket: a stub that answers after {delay_ms} ms; --bucket-ms, --bucket-mib-s"));
        for mib_per_s in &options.bucket_mib_s {
            let far = bucket::Far { delay: std::time::Duration::from_millis(delay_ms), mib_per_s: *mib_per_s };
            report.add(lab.storm(far, listeners)?);
        }
        report.add(lab.warm_cache()?);
    }
    if options.wants("idle") {
        // Each end of a connection is a file; some are needed for other things.
        let idle = options.idle.min(open_files.saturating_sub(200)).min(if options.smoke { 200 } else { u64::MAX });
        report.warn_if(idle < options.idle && !options.smoke, "fewer idle connections than asked for: see ulimit -n");
        report.add([lab.idle(&options.peers, idle)?]);
    }
    if options.wants("token") && options.asks_for(Who::Segue) {
        report.add([lab.token()?]);
    }
    if options.wants("start") && options.asks_for(Who::Segue) {
        report.add(lab.start(if options.smoke { 100 } else { options.versions.max(1) })?);
    }
    if report.is_empty() {
        return Err("nothing is left to measure; see --only and --peers".into());
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

/// Every row at every server, and the latency at a fixed rate.
fn measure_hot(lab: &Lab<'_>, options: &Options, rows: &[Row], report: &mut Report) -> Outcome<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let segue = if options.asks_for(Who::Segue) { Some(lab.start_segue()?) } else { None };
    let tuning = Tuning { connections: 1024, aio: false };
    let nginx = if options.asks_for(Who::Nginx) { Some(lab.start_nginx(segue.as_ref(), rows, &tuning)?) } else { None };
    let standing: Vec<&Peer> = segue.iter().chain(&nginx).collect();
    // A smoke run has it once.
    let with_floor = |row: &Row| options.asks_for(Who::Floor) && (row.floor_max.is_some() || !options.smoke);
    let mut paced_rate = None;
    for row in rows {
        let Some((loaded, line)) = lab.compare(row, &standing, with_floor(row))? else {
            report.note(format!("{}: left out, segue has no such answer", row.name));
            continue;
        };
        let is_paced = row.protocol == Protocol::Http1 && row.asks.len() == 1 && row.asks[0].path == PACED_PATH;
        if is_paced && row.asks[0].kind == rows::Kind::Whole {
            paced_rate = loaded.rate(Who::Nginx).map(|rate| rate / 2.0);
        }
        report.add_loaded(loaded);
        report.add([line]);
    }
    if let Some(rate) = paced_rate {
        report.add(lab.paced(&standing, rate)?);
    }
    Ok(())
}

/// Files that are not in memory, with an nginx set up for that.
fn measure_cold(lab: &Lab<'_>, options: &Options, report: &mut Report) -> Outcome<()> {
    if let Err(why) = cold::forget(&lab.tree.cold_file()) {
        report.note(format!("cold files: left out, {why}"));
        return Ok(());
    }
    let segue = if options.asks_for(Who::Segue) { Some(lab.start_segue()?) } else { None };
    let tuning = Tuning { connections: 1024, aio: true };
    let nginx = if options.asks_for(Who::Nginx) { Some(lab.start_nginx(segue.as_ref(), &[], &tuning)?) } else { None };
    let standing: Vec<&Peer> = segue.iter().chain(&nginx).collect();
    if !standing.is_empty() {
        report.add(lab.cold(&standing)?);
    }
    Ok(())
}
