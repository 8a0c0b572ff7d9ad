//! Where a measurement was made: which cores, which versions, how busy.

use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The two cores of a measurement: the server's and the client's.
#[derive(Clone, Copy)]
pub(crate) struct Cores {
    /// The core the servers run on.
    pub(crate) server: usize,
    /// The core the load comes from; the same one on a machine with a single core.
    pub(crate) client: usize,
}

impl Cores {
    /// The first two cores this process may use.
    pub(crate) fn pick() -> Cores {
        let allowed = status_field("self", "Cpus_allowed_list").map(|list| core_list(&list)).unwrap_or_default();
        let server = allowed.first().copied().unwrap_or(0);
        Cores { server, client: allowed.get(1).copied().unwrap_or(server) }
    }
}

/// Reads `0-2,5` as 0, 1, 2, 5.
fn core_list(list: &str) -> Vec<usize> {
    list.split(',')
        .filter_map(|range| {
            let (first, last) = range.trim().split_once('-').unwrap_or((range.trim(), range.trim()));
            Some(first.parse::<usize>().ok()?..=last.parse().ok()?)
        })
        .flatten()
        .collect()
}

/// Raises the soft limit of open files to the hard one, for us and the servers we start; returns it.
pub(crate) fn raise_open_files() -> u64 {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Failure leaves the old soft limit, which is then what we report and plan with.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// A field of `/proc/{pid}/status`.
pub(crate) fn status_field(pid: &str, field: &str) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(field))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// One line about the machine and the peers, for the report.
pub(crate) fn description() -> String {
    let model = std::fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| Some(text.lines().find(|l| l.starts_with("model name"))?.split_once(':')?.1.trim().to_owned()))
        .unwrap_or_else(|| "unknown processor".into());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let nginx = first_line("nginx", "-v");
    let wrk = first_line("wrk", "-v");
    let wrk = wrk.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    format!(
        "{model}, {cores} cores, Linux {}; {}; {wrk}; load {:.2} before the start",
        kernel.trim(),
        nginx.trim_start_matches("nginx version: "),
        load()
    )
}

/// The load average of the last minute.
pub(crate) fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0.0)
}

fn first_line(program: &str, flag: &str) -> String {
    let Ok(output) = Command::new(program).arg(flag).output() else { return format!("{program} missing") };
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).lines().next().unwrap_or(program).to_owned()
}
