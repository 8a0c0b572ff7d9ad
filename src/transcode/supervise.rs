//! The parent's side of an attempt: starts the child, listens, and ends it when it fails, hangs, grows
//! too large or is not wanted any more. Nothing the child says is believed without a bound.

use std::fs::File;
use std::io::Read;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};

use super::child::is_most;
use super::plan::Plan;
use super::protocol::{Event, Fault, Outcome, read_event};
use super::sandbox::Report;
use super::source::Source;
use super::{Limits, Options};
use crate::base::error::Context as _;
use crate::base::{Error, Kind, Result};

/// How a child may die that nobody asked to: `jobs::Reason` counts them by these names.
const CRASHED: &str = "crashed";
const MEMORY: &str = "memory";
const TIME: &str = "time";
const FORBIDDEN: &str = "forbidden";
const KILLED: &str = "killed";

/// What the reading thread hands over: an event, or how the pipe ended.
type Heard = std::io::Result<Option<(Event, Vec<u8>)>>;

/// Runs one child to its end. `on_event` sees every event but the last; its error ends the child.
pub(super) fn attempt(
    plan: &Plan,
    source: &Source,
    options: &Options,
    cancel: &AtomicBool,
    on_event: &mut dyn FnMut(Event, Vec<u8>) -> Result<()>,
) -> Result<Outcome> {
    let mut running = Running::start(plan, source.descriptor(), options)?;
    let started = Instant::now();
    let wall = options.limits.wall(plan.input_bytes);
    let mut last_event = None;
    // From when on it could have given its first samples, and how long it had waited for a core by then.
    let (mut since, mut excused) = (started, Duration::ZERO);
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Err(Error::new(Kind::Cancelled, "cancelled"));
        }
        if let Some(error) = source.failure() {
            return Err(error);
        }
        let times = (started, since);
        if let Err(late) = check_time(plan, &options.limits, times, wall, last_event, source.arriving_since()) {
            let in_time = started.elapsed() <= wall;
            // A machine that is too busy to run it says nothing about the input.
            let waited = running.waited_for_a_core();
            if in_time && waited.saturating_sub(excused) >= last_event.unwrap_or(since).elapsed() / 4 {
                (since, excused) = (Instant::now(), waited);
                last_event = last_event.map(|_| since);
                continue;
            }
            return Err(running.starved(plan).filter(|_| in_time).unwrap_or(late));
        }
        running.check_memory(plan, options.limits.resident_bytes_max)?;
        // 50 ms: how soon a cancelled attempt ends.
        match running.events.recv_timeout(Duration::from_millis(50)) {
            Err(RecvTimeoutError::Timeout) => continue,
            Ok(Ok(Some((Event::Done(outcome), _)))) => return Ok(outcome),
            Ok(Ok(Some((Event::Failed { fault: Fault::Input, message }, _)))) => return Err(Error::invalid(message)),
            Ok(Ok(Some((Event::Failed { fault: Fault::Memory, message }, _)))) => {
                return Err(out_of_memory(plan, plan.memory_bytes_max).because(message));
            }
            Ok(Ok(Some((Event::Failed { fault: Fault::Internal, message }, _)))) => {
                return Err(Error::internal(message));
            }
            Ok(Ok(Some((Event::Sandboxed(report), _)))) => {
                warn_of_gaps(&report);
                continue; // no sign of audio yet
            }
            Ok(Ok(Some((Event::Want { at }, _)))) => {
                source.want(at);
                continue;
            }
            Ok(Ok(Some((event, payload)))) => on_event(event, payload)?,
            Ok(Ok(None)) | Err(RecvTimeoutError::Disconnected) => return Err(running.obituary(plan)),
            Ok(Err(cause)) => {
                let died = running.obituary(plan);
                return Err(if cause.kind() == std::io::ErrorKind::UnexpectedEof { died } else { died.because(cause) });
            }
        }
        last_event = Some(Instant::now());
    }
}

/// Which fences a child says it has; nothing else of it is waited for.
pub(super) fn look(plan: &Plan, options: &Options) -> Result<Report> {
    let nothing = File::open("/dev/null").context(|| "cannot open /dev/null")?;
    let mut running = Running::start(plan, &nothing, options)?;
    // Without a registry cache GStreamer looks at every plugin first.
    match running.events.recv_timeout(Duration::from_secs(options.limits.first_sample_s)) {
        Ok(Ok(Some((Event::Sandboxed(report), _)))) => Ok(report),
        Ok(Ok(Some((Event::Failed { message, .. }, _)))) => Err(Error::internal(message)),
        Err(RecvTimeoutError::Timeout) => {
            Err(Error::internal(format!("the transcoder did not start within {} s", options.limits.first_sample_s)))
        }
        _ => Err(running.obituary(plan)),
    }
}

/// A gap is worth one line for each process, not one for each attempt.
fn warn_of_gaps(report: &Report) {
    static ONCE: Once = Once::new();
    let missing = report.missing();
    if !missing.is_empty() {
        ONCE.call_once(|| tracing::warn!(missing = missing.join("; "), "the transcoder's sandbox has gaps"));
    }
}

/// `arriving`: when the last bytes of a source came that is not all there. Who waits for it stands not still.
fn check_time(
    plan: &Plan,
    limits: &Limits,
    (started, first): (Instant, Instant),
    wall: Duration,
    last_event: Option<Instant>,
    arriving: Option<Instant>,
) -> Result<()> {
    let late = |what: String| Err(Error::invalid(format!("{what}; {}", plan.advice())).tagged(TIME));
    if started.elapsed() > wall {
        let most = wall.as_secs();
        return match arriving {
            Some(_) => Err(Error::new(
                Kind::Unavailable,
                format!(
                    "it was not downloaded within {most} s, the most that an input of its size may take; try again"
                ),
            )),
            None => late(format!("gave up after {most} s, the most that an input of its size may take")),
        };
    }
    let since = |at: Instant| arriving.map_or(at, |arrived| arrived.max(at)).elapsed().as_secs();
    match last_event {
        // Broken files make decoders search for ever without an error (seen once in 2000 starts).
        None if since(first) > limits.first_sample_s => {
            let most = limits.first_sample_s;
            let what = if plan.video.is_some() { "picture" } else { "audio" };
            late(format!("no {what} could be decoded within {most} s"))
        }
        Some(at) if since(at) > limits.no_progress_s => {
            late(format!("decoding stood still for {} s", limits.no_progress_s))
        }
        _ => Ok(()),
    }
}

/// A child and the threads that listen to it. Dropping it kills the child and joins the threads.
struct Running {
    child: Child,
    events: Receiver<Heard>,
    listeners: Vec<JoinHandle<()>>,
    complaints: Receiver<Vec<u8>>,
    /// When its memory was looked at.
    weighed: Option<Instant>,
}

impl Running {
    fn start(plan: &Plan, source: &File, options: &Options) -> Result<Running> {
        enough_address_space(plan)?;
        let plan = serde_json::to_string(plan).expect("plain data always serialises");
        let source = source.try_clone().context(|| "cannot share the source with the child")?;
        let mut child = Command::new(&options.exe)
            .arg("child")
            .arg(plan)
            .env_clear()
            .envs(options.env.iter().map(|(name, value)| (name, value)))
            // Two arenas: each reserves 64 MiB of the address space that is limited.
            .env("MALLOC_ARENA_MAX", "2")
            // The same for mimalloc: its arenas of 1 GiB would take half of the address space, and memory it
            // keeps for later counts as used.
            .env("MIMALLOC_ARENA_RESERVE", "32768") // KiB
            .env("MIMALLOC_PURGE_DELAY", "50") // ms: what is freed is mostly taken again at once
            .current_dir("/")
            // Ctrl-C goes to everything in the terminal's foreground group; we end the child ourselves, and
            // say why. It dies with us in any case (sandbox.rs).
            .process_group(0)
            .stdin(Stdio::from(source))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|cause| {
                let advice = match cause.raw_os_error() {
                    Some(libc::EMFILE | libc::ENFILE) => "; raise the limit on open files (ulimit -n, LimitNOFILE=)",
                    Some(libc::EAGAIN) => "; raise the limit on processes (ulimit -u, TasksMax=)",
                    Some(libc::ENOMEM) => "; the machine is out of memory",
                    _ => "",
                };
                Error::internal(format!("cannot start the transcoder {}: {cause}{advice}", options.exe.display()))
            })?;
        let mut out = child.stdout.take().expect("stdout is piped");
        let mut err = child.stderr.take().expect("stderr is piped");
        // 2: one event being written, one waiting; then the pipe fills and the encoders wait.
        let (tell, events) = sync_channel(2);
        let (complain, complaints) = sync_channel(1);
        let listen = std::thread::spawn(move || {
            loop {
                let heard = read_event(&mut out);
                let more = matches!(heard, Ok(Some(_)));
                if tell.send(heard).is_err() || !more {
                    return;
                }
            }
        });
        let overhear = std::thread::spawn(move || {
            let _ = complain.send(tail(&mut err));
        });
        Ok(Running { child, events, listeners: vec![listen, overhear], complaints, weighed: None })
    }

    /// Ends a child that holds more memory than it may. Its address space has a limit too, but that has to
    /// leave room for what is reserved and never touched.
    fn check_memory(&mut self, plan: &Plan, most: u64) -> Result<()> {
        // Not for each of many events in a row.
        if self.weighed.is_some_and(|at| at.elapsed() < Duration::from_millis(50)) {
            return Ok(());
        }
        self.weighed = Some(Instant::now());
        match self.memory().1 > most {
            true => Err(out_of_memory(plan, most)),
            false => Ok(()),
        }
    }

    /// How long the thread that waited longest has stood in line for a core; zero where the kernel does not say.
    fn waited_for_a_core(&self) -> Duration {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).into_iter().flatten().flatten();
        // The second field of schedstat, in nanoseconds (Documentation/scheduler/sched-stats.rst).
        let waited = tasks.filter_map(|task| {
            let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split(' ').nth(1)?.parse().ok()
        });
        Duration::from_nanos(waited.max().unwrap_or(0))
    }

    /// Why a child stands still that has most of the address space it may have: a thread that cannot be started for
    /// want of a stack is no error in GLib's pools, only work that nobody does.
    fn starved(&self, plan: &Plan) -> Option<Error> {
        let most = plan.memory_bytes_max;
        is_most(self.memory().0, most).then(|| out_of_memory(plan, most))
    }

    /// The child's address space, and how much of it is in memory; in bytes, 0 for a child that is gone.
    fn memory(&self) -> (u64, u64) {
        // statm(5): the first two fields, in pages.
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id())).unwrap_or_default();
        let mut fields = statm.split(' ').map(|field| field.parse().unwrap_or(0));
        let mut bytes = || fields.next().unwrap_or(0u64).saturating_mul(rustix::param::page_size() as u64);
        (bytes(), bytes())
    }

    /// Why a child ended that did not say so itself.
    fn obituary(&mut self, plan: &Plan) -> Error {
        let status = self.end();
        let said = self.complaints.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let last = match &lines[lines.len().saturating_sub(3)..] {
            [] => "it said nothing".to_owned(),
            last => last.join(" / "),
        };
        let starved = ["failed to allocate", "memory allocation of", "Cannot allocate memory", "std::bad_alloc"];
        if starved.iter().any(|words| said.contains(words)) {
            return out_of_memory(plan, plan.memory_bytes_max);
        }
        let advice = plan.advice();
        let crashed = |signal: &str| {
            Error::internal(format!(
                "the decoder crashed on it, ended by {signal} ({last}); nothing else was harmed; {advice}"
            ))
            .tagged(CRASHED)
        };
        match signal_of(status) {
            Some("SIGXCPU") => Error::invalid(format!(
                "decoding it takes more processor time than an input of its size may use; {advice}"
            ))
            .tagged(TIME),
            Some("SIGXFSZ") => Error::internal(
                "the transcoder may not write its working files; raise the limit on the size of files (ulimit -f)",
            ),
            Some("SIGSYS") => Error::invalid(format!(
                "decoding it made the decoder do what its sandbox forbids, so it was ended (SIGSYS); {advice}; if every \
                 file ends like this, the kernel's log names the system call"
            ))
            .tagged(FORBIDDEN),
            Some("SIGKILL") => Error::internal(format!(
                "the transcoder was ended by SIGKILL from outside ({last}): by hand, or because the machine ran out of \
                 memory; try again"
            ))
            .tagged(KILLED),
            Some(signal @ ("SIGSEGV" | "SIGBUS" | "SIGILL" | "SIGFPE" | "SIGABRT" | "SIGTRAP")) => crashed(signal),
            Some(signal) => {
                Error::internal(format!("the transcoder was ended by {signal} ({last}); try again")).tagged(KILLED)
            }
            None => Error::internal(format!("the transcoder ended without a result, {status:?} ({last})")),
        }
    }

    fn end(&mut self) -> Option<ExitStatus> {
        // The pipe is closed, so it is gone or about to be; a child that closed it but lingers is killed.
        for _ in 0..100 {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill(); // fails only when it has ended by itself
        self.child.wait().ok()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill(); // fails only when it has ended by itself
        let _ = self.child.wait();
        // Dead children close their pipes; an event that nobody takes must not hold the thread.
        while self.events.recv().is_ok() {}
        for thread in self.listeners.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Refuses to start a child whose libraries would not load: what fails then says nothing of why.
fn enough_address_space(plan: &Plan) -> Result<()> {
    // Below it libav does not load.
    const LEAST: u64 = 1 << 30;
    match getrlimit(Resource::As).maximum {
        Some(given) if given < LEAST && given < plan.memory_bytes_max => Err(Error::internal(format!(
            "the transcoder needs {} MiB of address space to start, and this process may have {} MiB; raise its limit \
             (ulimit -v, LimitAS=)",
            LEAST >> 20,
            given >> 20
        ))
        .tagged(MEMORY)),
        _ => Ok(()),
    }
}

/// The last 8 KiB of what is said: enough for GLib's final words.
fn tail(from: &mut impl Read) -> Vec<u8> {
    const KEEP: usize = 8 << 10;
    let mut kept = Vec::new();
    let mut block = [0; 4096];
    while let Ok(n @ 1..) = from.read(&mut block) {
        kept.extend_from_slice(&block[..n]);
        let excess = kept.len().saturating_sub(KEEP);
        kept.drain(..excess);
    }
    kept
}

fn out_of_memory(plan: &Plan, most: u64) -> Error {
    let (mib, advice) = (most >> 20, plan.advice());
    Error::invalid(format!("decoding it needs more memory than the {mib} MiB it may use; {advice}")).tagged(MEMORY)
}

fn signal_of(status: Option<ExitStatus>) -> Option<&'static str> {
    Some(match status?.signal()? {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGKILL => "SIGKILL",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGILL => "SIGILL",
        libc::SIGFPE => "SIGFPE",
        libc::SIGTERM => "SIGTERM",
        libc::SIGXCPU => "SIGXCPU",
        libc::SIGXFSZ => "SIGXFSZ",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGSYS => "SIGSYS",
        _ => "another signal",
    })
}
