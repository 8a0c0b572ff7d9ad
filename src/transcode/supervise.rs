//! The parent's side of an attempt: starts the child, listens, and ends it when it fails, hangs, grows
//! too large or is not wanted any more. Nothing the child says is believed without a bound.

use std::fs::File;
use std::io::Read;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::plan::Plan;
use super::protocol::{Event, Fault, Outcome, read_event};
use super::{Limits, Options};
use crate::base::error::Context as _;
use crate::base::{Error, Kind, Result};

/// What the reading thread hands over: an event, or how the pipe ended.
type Heard = std::io::Result<Option<(Event, Vec<u8>)>>;

/// Runs one child to its end. `on_event` sees every event but the last; its error ends the child.
pub(super) fn attempt(
    plan: &Plan,
    source: &File,
    options: &Options,
    cancel: &AtomicBool,
    on_event: &mut dyn FnMut(Event, Vec<u8>) -> Result<()>,
) -> Result<Outcome> {
    let mut running = Running::start(plan, source, options)?;
    let started = Instant::now();
    let wall = options.limits.wall(plan.input_bytes);
    let mut last_event = None;
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Err(Error::new(Kind::Cancelled, "cancelled"));
        }
        check_time(&options.limits, started, wall, last_event)?;
        // 50 ms: how soon a cancelled attempt ends.
        match running.events.recv_timeout(Duration::from_millis(50)) {
            Err(RecvTimeoutError::Timeout) => continue,
            Ok(Ok(Some((Event::Done(outcome), _)))) => return Ok(outcome),
            Ok(Ok(Some((Event::Failed { fault: Fault::Input, message }, _)))) => return Err(Error::invalid(message)),
            Ok(Ok(Some((Event::Failed { fault: Fault::Internal, message }, _)))) => {
                return Err(Error::internal(message));
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

fn check_time(limits: &Limits, started: Instant, wall: Duration, last_event: Option<Instant>) -> Result<()> {
    let late = |what: String| Err(Error::invalid(what));
    if started.elapsed() > wall {
        let most = wall.as_secs();
        return late(format!(
            "gave up after {most} s, the most that an input of its size may take; export it again as WAV or FLAC"
        ));
    }
    match last_event {
        // Broken files make decoders search for ever without an error (seen once in 2000 starts).
        None if started.elapsed().as_secs() > limits.first_sample_s => {
            let most = limits.first_sample_s;
            late(format!("no audio could be decoded within {most} s; export it again as WAV or FLAC"))
        }
        Some(at) if at.elapsed().as_secs() > limits.no_progress_s => {
            late(format!("decoding stood still for {} s; export it again as WAV or FLAC", limits.no_progress_s))
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
}

impl Running {
    fn start(plan: &Plan, source: &File, options: &Options) -> Result<Running> {
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
            .env("MIMALLOC_PURGE_DELAY", "0")
            .current_dir("/")
            // Ctrl-C goes to everything in the terminal's foreground group; we end the child ourselves, and
            // say why. It dies with us in any case (sandbox.rs).
            .process_group(0)
            .stdin(Stdio::from(source))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context(|| format!("cannot start the transcoder {}", options.exe.display()))?;
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
        Ok(Running { child, events, listeners: vec![listen, overhear], complaints })
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
        let out_of_memory = ["failed to allocate", "memory allocation of", "Cannot allocate memory"];
        if out_of_memory.iter().any(|words| said.contains(words)) {
            let mib = plan.memory_bytes_max >> 20;
            return Error::invalid(format!(
                "decoding it needs more memory than the {mib} MiB it may use; export it again as WAV or FLAC"
            ));
        }
        match signal_of(status) {
            Some("SIGXCPU") => Error::invalid(
                "decoding it takes more processor time than an input of its size may use; export it again as WAV or FLAC",
            ),
            Some("SIGXFSZ") => Error::internal(
                "the transcoder may not write its working files; raise the limit on the size of files (ulimit -f)",
            ),
            Some(signal) => Error::internal(format!("the transcoder was ended by {signal} ({last})")),
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
        _ => "another signal",
    })
}
