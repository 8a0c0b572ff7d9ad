//! What the process takes of the machine, by the names that Prometheus' own clients use. Read from
//! `/proc/self` (proc(5)) on a tick, not on a scrape: counting descriptors takes time when there are many.

use std::fmt::Write as _;
use std::fs;
use std::sync::{Mutex, PoisonError};

use metrics::counter;

use super::{access, log, names};

/// The last sample as Prometheus text: the recorder has no counters of fractions.
static SAMPLE: Mutex<String> = Mutex::new(String::new());

/// Reads `/proc/self` once. Blocks for microseconds, or some ten milliseconds when the kernel is older
/// than 6.2 and 100,000 connections are open. What cannot be read is left out.
pub(super) fn sample() {
    let mut text = String::new();
    if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(Stat::read) {
        write_stat(&mut text, &stat);
    }
    if let Some(open) = open_descriptors() {
        write(&mut text, names::PROCESS_OPEN_FDS, "gauge", open as f64);
    }
    if let Some(max) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        write(&mut text, names::PROCESS_MAX_FDS, "gauge", max as f64);
    }
    *SAMPLE.lock().unwrap_or_else(PoisonError::into_inner) = text;
    counter!(names::LOG_DROPPED).absolute(log::dropped());
    counter!(names::ACCESS_SUPPRESSED).absolute(access::suppressed());
}

/// Appends the last sample.
pub(super) fn render(out: &mut String) {
    out.push_str(&SAMPLE.lock().unwrap_or_else(PoisonError::into_inner));
}

fn write_stat(text: &mut String, stat: &Stat) {
    let ticks_per_s = rustix::param::clock_ticks_per_second() as f64;
    let page_bytes = rustix::param::page_size() as f64;
    write(text, names::PROCESS_CPU, "counter", stat.cpu_ticks as f64 / ticks_per_s);
    write(text, names::PROCESS_RESIDENT, "gauge", stat.resident_pages as f64 * page_bytes);
    write(text, names::PROCESS_VIRTUAL, "gauge", stat.virtual_bytes as f64);
    write(text, names::PROCESS_THREADS, "gauge", stat.threads as f64);
    if let Some(boot_s) = boot_time_s() {
        write(text, names::PROCESS_START, "gauge", boot_s + stat.start_ticks as f64 / ticks_per_s);
    }
}

fn write(text: &mut String, name: &str, kind: &str, value: f64) {
    let help = names::help(name);
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
}

/// The fields of `/proc/self/stat` we want.
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_ticks: u64,
    threads: u64,
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    /// proc_pid_stat(5): the name of the command, field 2, may hold blanks and parentheses.
    fn read(stat: &str) -> Option<Stat> {
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Stat {
            cpu_ticks: field(14)? + field(15)?,
            threads: field(20)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

fn boot_time_s() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}

/// Since Linux 6.2 the size of the directory is the number of its entries (proc_pid_fd(5)).
fn open_descriptors() -> Option<u64> {
    match fs::metadata("/proc/self/fd").ok()?.len() {
        0 => fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as u64),
        open => Some(open),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_found_behind_any_command_name() {
        let stat = "42 (a b) c) S 1 42 42 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 7 0 9000 123456789 2048 0 0";
        let expected =
            Stat { cpu_ticks: 300, threads: 7, start_ticks: 9_000, virtual_bytes: 123_456_789, resident_pages: 2_048 };
        assert_eq!(Stat::read(stat), Some(expected));
        assert_eq!(Stat::read("42 (x"), None);
    }

    #[test]
    fn this_process_can_be_read() {
        let stat = Stat::read(&fs::read_to_string("/proc/self/stat").unwrap()).unwrap();
        assert!(stat.threads >= 1 && stat.resident_pages > 0 && stat.virtual_bytes > 0);
        assert!(open_descriptors().unwrap() >= 3 && boot_time_s().unwrap() > 0.0);
    }
}
