//! A server under measurement: started on one core, asked for its CPU time and memory, ended politely.

use std::fs;
use std::io;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::Outcome;
use crate::machine::status_field;

/// A started server and, for nginx, its workers. Ends when dropped.
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    /// Whether the work is done by children (nginx's worker) rather than by the process itself.
    works_in_children: bool,
}

impl Process {
    /// Starts `program` pinned to `core`; its messages go to the file `log`.
    pub(crate) fn start(
        name: &'static str,
        core: usize,
        log: &std::path::Path,
        works_in_children: bool,
        program: &mut Command,
    ) -> Outcome<Process> {
        let mut pinned = Command::new("taskset");
        pinned.arg("-c").arg(core.to_string()).arg(program.get_program()).args(program.get_args());
        let log = fs::File::create(log).map_err(|e| format!("cannot create {}: {e}", log.display()))?;
        let errors = log.try_clone().map_err(|e| e.to_string())?;
        let child = pinned
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(|e| format!("cannot start {name} with taskset: {e}"))?;
        Ok(Process { name, child, works_in_children })
    }

    /// Whether it has ended by itself, which a server never should.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// CPU time used so far, user and system, of every thread of every process that does the work.
    pub(crate) fn cpu(&self) -> Outcome<Cpu> {
        let mut sum = Cpu { threads_ns: 0, process_ns: 0 };
        for pid in self.workers()? {
            let gone = |e| format!("{} has gone (pid {pid}): {e}", self.name);
            sum.threads_ns += threads_ns(pid).map_err(gone)?;
            sum.process_ns += process_ns(pid).map_err(gone)?;
        }
        Ok(sum)
    }

    /// Resident bytes of the processes that do the work.
    pub(crate) fn resident_bytes(&self) -> Outcome<u64> {
        let mut sum = 0;
        for pid in self.workers()? {
            let field = status_field(&pid.to_string(), "VmRSS").ok_or_else(|| format!("{} has gone", self.name))?;
            let kib: u64 = field.trim_end_matches("kB").trim().parse().map_err(|_| format!("VmRSS is {field:?}"))?;
            sum += kib * 1024;
        }
        Ok(sum)
    }

    fn workers(&self) -> Outcome<Vec<u32>> {
        let pid = self.child.id();
        if !self.works_in_children {
            return Ok(vec![pid]);
        }
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let workers: Vec<u32> = children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
        if workers.is_empty() { Err(format!("{} has no worker", self.name)) } else { Ok(workers) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGTERM first: a killed nginx master would leave its worker behind.
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let patience = Instant::now() + Duration::from_secs(5);
        while Instant::now() < patience {
            if self.has_ended() {
                return;
            }
            sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU time by two clocks of the kernel.
#[derive(Clone, Copy)]
pub(crate) struct Cpu {
    /// Of the threads that live now, to the nanosecond.
    threads_ns: u64,
    /// Of the process, threads that have ended included, to the clock tick (usually 10 ms, rounded down).
    process_ns: u64,
}

impl Cpu {
    /// Nanoseconds used since `before`: the fine clock, unless a thread's end took its share from it.
    pub(crate) fn since(self, before: Cpu) -> u64 {
        let fine = self.threads_ns.saturating_sub(before.threads_ns);
        let coarse = self.process_ns.saturating_sub(before.process_ns);
        if coarse > fine + fine / 50 + 30_000_000 { coarse } else { fine }
    }
}

/// Time on a core of each thread, from the scheduler's own count; 0 where the kernel keeps none.
fn threads_ns(pid: u32) -> io::Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end between the listing and the reading.
        let Ok(line) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        sum += line.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(sum)
}

fn process_ns(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The command name may hold spaces; user and system time are the 12th and 13th after its parenthesis.
    let fields: Vec<u64> =
        stat.rsplit(')').next().unwrap_or("").split_whitespace().map(|f| f.parse().unwrap_or(0)).collect();
    let ticks = fields.get(11).unwrap_or(&0) + fields.get(12).unwrap_or(&0);
    Ok(ticks * (1_000_000_000 / rustix::param::clock_ticks_per_second().max(1)))
}
