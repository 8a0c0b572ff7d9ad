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

/// The machine and how busy it is, for the head of a report.
pub(crate) fn description() -> String {
    let model = std::fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| Some(text.lines().find(|l| l.starts_with("model name"))?.split_once(':')?.1.trim().to_owned()))
        .unwrap_or_else(|| "unknown processor".into());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{model}, {cores} cores, Linux {}, {:.0} % busy before the start", kernel.trim(), busy_percent())
}

/// How busy all cores are with what is not ours, in percent, over the next half second.
pub(crate) fn busy_percent() -> f64 {
    let before = cpu_times();
    std::thread::sleep(std::time::Duration::from_millis(500));
    let after = cpu_times();
    let total = (after.0 - before.0).max(1.0);
    100.0 * (1.0 - (after.1 - before.1) / total)
}

/// Clock ticks of all cores since the start of the machine: all of them, and those without work.
fn cpu_times() -> (f64, f64) {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<f64> = line.split_whitespace().skip(1).take(8).filter_map(|t| t.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal
    (ticks.iter().sum(), ticks.iter().skip(3).take(2).sum())
}

/// The first line of what a program says about its version.
pub(crate) fn version(program: &str, flag: &str) -> String {
    let Ok(output) = Command::new(program).arg(flag).output() else { return format!("{program} missing") };
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).lines().next().unwrap_or(program).to_owned()
}
