//! Names of the metrics, and where logs and metrics go.

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use super::{Error, Result};

/// Requests answered, by `route` template and `status`.
pub const REQUESTS: &str = "segue_origin_requests_total";
/// Time from the decoded request head to the response handed to hyper, in seconds, by `route` template.
pub const REQUEST_SECONDS: &str = "segue_origin_request_seconds";
/// Body bytes handed to the socket, by `route` template.
pub const BODY_BYTES: &str = "segue_origin_body_bytes_total";
/// Body bytes by how they left: `path` is `sendfile`, `edge` (up to the first page boundary, beside the
/// head), `copy` or `tls` (encrypted, heads included).
pub const SOCKET_BYTES: &str = "segue_origin_socket_bytes_total";
/// Version cache answers, by `outcome`: `hit`, `fill`, `wait`, `missing`.
pub const LOOKUPS: &str = "segue_origin_lookups_total";
/// Requests refused at the door, by `reason`.
pub const REFUSED: &str = "segue_origin_refused_total";
/// Open connections now.
pub const CONNECTIONS: &str = "segue_origin_connections";
/// Connections by what their peer spoke: `protocol` is `http1` or `h2`.
pub const CONNECTIONS_OPENED: &str = "segue_origin_connections_opened_total";
/// TLS handshakes by `outcome`: `full`, `resumed`; failed: `timeout`, `closed`, `not_tls`, `incompatible` (no
/// version, cipher or protocol in common), `refused` (the client sent an alert, usually about our
/// certificate), `broken`, `busy`.
pub const TLS_HANDSHAKES: &str = "segue_tls_handshakes_total";
/// Attempts to read the certificate again, by `outcome`: `changed`, `failed`.
pub const TLS_RELOADS: &str = "segue_tls_reloads_total";
/// When the certificate expires, in seconds since 1970.
pub const TLS_NOT_AFTER: &str = "segue_tls_certificate_not_after_seconds";
/// Requests in flight now.
pub const IN_FLIGHT: &str = "segue_origin_requests_in_flight";
/// Body bytes in flight now.
pub const IN_FLIGHT_BYTES: &str = "segue_origin_bytes_in_flight";
/// Tracks that are blocked, private or deleted.
pub const BLOCKS: &str = "segue_origin_blocks";
/// Seconds since the origin last learned which tracks are blocked; seldom above 1.
pub const BLOCKS_AGE: &str = "segue_origin_blocks_age_seconds";
/// Times the origin could not learn which tracks are blocked.
pub const BLOCKS_FAILURES: &str = "segue_origin_blocks_failures_total";

/// 1 when cold files are read by io_uring, 0 when by threads.
pub const IO_URING: &str = "segue_origin_io_uring";

/// Starts the log. `RUST_LOG` syntax; lines go to standard error so that `--json` output stays clean.
pub fn start_log(filter: &str, json: bool) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(filter)
        .map_err(|cause| Error::usage(format!("the log filter {filter:?} cannot be read")).because(cause))?;
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    let started = if json { builder.json().try_init() } else { builder.compact().try_init() };
    started.map_err(|cause| Error::internal("the log was already started").because(cause))
}

/// Installs the Prometheus recorder. The caller renders `/metrics` from the handle and calls
/// `run_upkeep` every few seconds so that histograms stay bounded.
pub fn start_metrics() -> Result<PrometheusHandle> {
    // 25 µs … 2.5 s: a hit takes tens of microseconds, a cold fill may take a second.
    const BUCKETS_S: &[f64] =
        &[25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.25, 0.5, 1.0, 2.5];
    PrometheusBuilder::new()
        .set_buckets(BUCKETS_S)
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(|cause| Error::internal("the metrics recorder cannot start").because(cause))
}
