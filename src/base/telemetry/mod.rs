//! Logs, metrics and traces: what they are called, where they go, and that none of it costs a hit more
//! than a few atomic additions or holds up a core.
//!
//! ```text
//! tracing events ─▶ log      bounded queue ─▶ redact ─▶ standard error
//! tracing spans  ─▶ trace    bounded queue ─▶ OTLP/HTTP, when a collector is configured
//! counters       ─▶ metrics  ─┐
//! histograms     ─────────────┴▶ `Metrics::render` ─▶ /metrics
//! ```

pub mod access;
pub mod histogram;
mod log;
pub mod names;
mod process;
pub mod rate;
pub mod request_id;
pub mod trace;

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{Counter, counter, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

pub use access::Access;
pub use histogram::{Histogram, histogram};
use names::help;
pub use names::*;

use super::{Error, Result};

/// What to see, and where it goes.
#[derive(Clone, Debug)]
pub struct Options {
    /// `RUST_LOG` syntax.
    pub filter: String,
    /// One JSON object a line instead of text.
    pub json: bool,
    /// Which requests get a line in the log.
    pub access: Access,
    /// Lines a second at most with `Access::Errors`.
    pub errors_per_s_max: u32,
    /// Traces.
    pub trace: trace::Options,
}

/// Logs and traces of the process. Dropping it writes what is still waiting, for a few seconds at most.
#[derive(Debug)]
#[must_use = "what waits to be written is lost unless this is dropped last"]
pub struct Telemetry {
    exporter: Option<trace::Exporter>,
}

/// How long the end of the process may wait for a collector, and for standard error.
const FLUSH_MAX: Duration = Duration::from_secs(3);

/// Starts the log and, when a collector is configured, traces. Lines go to standard error so that
/// `--json` output stays clean. Once in a process.
///
/// # Errors
/// `Usage` for a filter or a collector that cannot be read.
pub fn start(options: &Options) -> Result<Telemetry> {
    let mut layers = vec![log::layer(&options.filter, options.json)?];
    let (spans, exporter) = trace::layer(&options.trace)?.unzip();
    layers.extend(spans);
    let started = tracing_subscriber::registry().with(layers).try_init();
    started.map_err(|cause| Error::internal("the log was already started").because(cause))?;
    access::start(options.access, options.errors_per_s_max);
    log::log_panics();
    Ok(Telemetry { exporter })
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(exporter) = self.exporter.take() {
            exporter.flush(FLUSH_MAX);
        }
        log::flush(FLUSH_MAX);
    }
}

/// What `/metrics` shows.
#[derive(Clone, Debug)]
pub struct Metrics(PrometheusHandle);

/// Installs the Prometheus recorder. Call `Metrics::tick` every few seconds.
///
/// # Errors
/// `Internal` when there is one already.
pub fn start_metrics() -> Result<Metrics> {
    let handle = PrometheusBuilder::new()
        .install_recorder()
        .map_err(|cause| Error::internal("the metrics recorder cannot start").because(cause))?;
    for (kind, name, help) in ALL {
        match kind {
            Kind::Counter => metrics::describe_counter!(*name, *help),
            Kind::Gauge => metrics::describe_gauge!(*name, *help),
            Kind::Histogram => {} // ours bring their own
        }
    }
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    counter!(TRACE_FAILED).increment(0); // shown before it happens
    let _ = DOOR.set(Door::new());
    let metrics = Metrics(handle);
    metrics.tick();
    Ok(metrics)
}

impl Metrics {
    /// The Prometheus text format, version 0.0.4. Its length depends on the number of routes, not on
    /// that of connections, tracks or listeners.
    pub fn render(&self) -> String {
        let mut text = self.0.render();
        histogram::render(&mut text, help);
        process::render(&mut text);
        text
    }

    /// Samples the process and keeps what the recorder holds bounded. Blocks for as long as it takes to
    /// read `/proc/self`.
    pub fn tick(&self) {
        self.0.run_upkeep();
        process::sample();
    }
}

static DOOR: OnceLock<Door> = OnceLock::new();

/// What the server answers before a request has a route.
struct Door([(u16, Counter); 7]);

impl Door {
    fn new() -> Door {
        Door(
            [400, 405, 408, 414, 431, 503, 505]
                .map(|status: u16| (status, counter!(REQUESTS, "route" => "door", "status" => status.to_string()))),
        )
    }
}

/// Counts an answer that was given before any route was known: a crooked or slow head, no room.
pub fn door_refused(status: u16) {
    let Some(Door(counters)) = DOOR.get() else { return };
    match counters.iter().find(|(known, _)| *known == status) {
        Some((_, counter)) => counter.increment(1),
        None => counter!(REQUESTS, "route" => "door", "status" => status.to_string()).increment(1),
    }
}

/// The class of a status, as a label.
pub fn class(status: u16) -> &'static str {
    CLASSES[class_index(status)]
}

/// The classes, for what makes its handles beforehand.
pub const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

/// Where the class of a status stands in `CLASSES`.
pub fn class_index(status: u16) -> usize {
    usize::from(status / 100).clamp(2, 5) - 2
}
