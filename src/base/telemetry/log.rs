//! The log: lines on standard error, written by a thread of its own.
//!
//! A core formats a line and puts it into a bounded queue; nobody waits for a slow terminal or a full
//! pipe. What does not fit is counted and left out. Every line, whoever wrote it, passes `redact` on its
//! way out, and so do panics.

use std::io::{self, Write as _};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::time::Duration;

use tracing::{Event, Level, Metadata};
use tracing_subscriber::filter::FilterExt as _;
use tracing_subscriber::layer::{Context, Filter};
use tracing_subscriber::{EnvFilter, Layer, Registry};

use super::access;
use super::rate::PerSecond;
use crate::base::error::Context as _;
use crate::base::{Error, Result, redact};

/// Lines that wait for the writer, at most …
const LINES_WAITING_MAX: usize = 4_096;
/// … and their bytes: a second of a busy access log.
const BYTES_WAITING_MAX: usize = 1 << 20;
/// A longer line is cut.
const LINE_BYTES_MAX: usize = 8 << 10;
/// Lines of other crates a second: a peer can make h2 warn with every frame it sends.
const FOREIGN_PER_S_MAX: u32 = 10;

static QUEUE: OnceLock<SyncSender<Message>> = OnceLock::new();
static BYTES_WAITING: AtomicUsize = AtomicUsize::new(0);
static DROPPED: AtomicU64 = AtomicU64::new(0);

enum Message {
    Line(Vec<u8>),
    /// Everything before it has been written when it is answered.
    Flush(SyncSender<()>),
}

/// Lines left out so far: the writer was behind, or other crates had too many.
pub(super) fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Waits until what was logged has been written, or for `at_most`.
pub(super) fn flush(at_most: Duration) {
    let Some(queue) = QUEUE.get() else { return };
    let (done, written) = mpsc::sync_channel(1);
    if queue.try_send(Message::Flush(done)).is_ok() {
        let _ = written.recv_timeout(at_most); // a stuck terminal must not keep the process
    }
}

/// The layer that writes lines, and the thread behind it.
pub(super) fn layer(filter: &str, json: bool) -> Result<Box<dyn Layer<Registry> + Send + Sync>> {
    let mut chosen = EnvFilter::try_new(filter)
        .map_err(|cause| Error::usage(format!("the log filter {filter:?} cannot be read")).because(cause))?;
    if !filter.contains(access::TARGET) {
        // `log.access` decides about these lines, not the level of everything else.
        let directive = format!("{}=info", access::TARGET);
        chosen = chosen.add_directive(directive.parse().expect("a target and a level"));
    }
    let queue = start_writer()?;
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(move || Line { queue: queue.clone() })
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()));
    let filter = chosen.and(Foreign(PerSecond::new()));
    Ok(if json { lines.json().with_filter(filter).boxed() } else { lines.compact().with_filter(filter).boxed() })
}

/// Bounds what other crates write. They quote URLs and headers as they came when they debug, so theirs ends at
/// `info`; and what a peer can cause at will must not push our own lines out.
struct Foreign(PerSecond);

impl Foreign {
    fn is_ours(metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("segue")
    }
}

impl<S> Filter<S> for Foreign {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        *metadata.level() <= Level::INFO || Foreign::is_ours(metadata)
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let within = Foreign::is_ours(event.metadata()) || self.0.take(FOREIGN_PER_S_MAX);
        DROPPED.fetch_add(u64::from(!within), Ordering::Relaxed);
        within
    }
}

fn start_writer() -> Result<SyncSender<Message>> {
    let (queue, lines) = mpsc::sync_channel(LINES_WAITING_MAX);
    let write = move || {
        for message in lines {
            match message {
                Message::Line(line) => {
                    BYTES_WAITING.fetch_sub(line.len(), Ordering::Relaxed);
                    write_line(&line);
                }
                Message::Flush(done) => drop(done.try_send(())),
            }
        }
    };
    // Not joined: it ends with the process, after `flush`.
    std::thread::Builder::new().name("log".into()).spawn(write).context(|| "cannot start the log")?;
    QUEUE.set(queue.clone()).map_err(|_| Error::internal("the log was already started"))?;
    Ok(queue)
}

fn write_line(line: &[u8]) {
    let line = String::from_utf8_lossy(line);
    let _ = io::stderr().write_all(redact::text(&line).as_bytes()); // nobody left to tell
}

/// One line on its way to the writer. The formatter hands a whole line to one `write`.
struct Line {
    queue: SyncSender<Message>,
}

impl io::Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut kept = line[..line.len().min(LINE_BYTES_MAX)].to_vec();
        if kept.len() < line.len() {
            kept.push(b'\n');
        }
        let bytes = kept.len();
        let fits = BYTES_WAITING.fetch_add(bytes, Ordering::Relaxed) + bytes <= BYTES_WAITING_MAX;
        if !fits
            || matches!(
                self.queue.try_send(Message::Line(kept)),
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_))
            )
        {
            BYTES_WAITING.fetch_sub(bytes, Ordering::Relaxed);
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes panics lines of the log, redacted like all others: a message may quote what a peer sent.
pub(super) fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let what = panic.payload_as_str().unwrap_or("a panic without words");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        let trace = std::backtrace::Backtrace::capture(); // empty unless RUST_BACKTRACE asks for it
        let trace =
            if trace.status() == std::backtrace::BacktraceStatus::Captured { trace.to_string() } else { String::new() };
        tracing::error!(place, thread = thread.name().unwrap_or_default(), trace, "panicked: {}", redact::text(what));
    }));
}
