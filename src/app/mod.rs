//! Assembly: from settings to a running server, and back down in order.
//!
//! Start: keys, store, origin cores, control runtime, listeners. Stop: readiness off and no new
//! connections, started answers finish, then everything else. A second signal stops at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;

use crate::admin;
use crate::base::clock::Clock;
use crate::base::error::Context as _;
use crate::base::shutdown::{self, Phase, Shutdown, Trigger};
use crate::base::{Error, Result, telemetry};
use crate::cdn::bunny::{Key, Keys};
use crate::cdn::playback::Links;
use crate::config::Config;
use crate::origin::{self, Origin};
use crate::server::tls::Certificate;
use crate::server::{self, IoMode, handover};
use crate::store::LocalStore;

#[cfg(all(feature = "control", feature = "transcode"))]
mod demo;
#[cfg(feature = "control")]
mod pages;
mod tls;

/// Requests that may wait for the control runtime before the cores answer 503.
const HANDOVER_WAITING_MAX: usize = 1024;

/// What a server process does.
#[derive(Clone, Copy, Debug)]
pub struct Roles {
    /// Serve pages and aliases beside media.
    pub pages: bool,
    /// Make a demo track when there is none.
    pub demo: bool,
}

/// The signing keys, ready to use.
///
/// # Errors
/// As `Config::bunny_keys`.
pub fn keys(config: &Config) -> Result<Keys> {
    let mut keys = config.bunny_keys()?.into_iter();
    let current = keys.next().ok_or_else(|| Error::usage("there is no signing key"))?;
    Ok(Keys::new(Key::new(&current)?, keys.next().map(|key| Key::new(&key)).transpose()?))
}

/// The maker of playback URLs that these settings describe.
///
/// # Errors
/// As `Config::bunny_keys`.
pub fn links(config: &Config) -> Result<Links> {
    let key = match config.origin.require_token {
        true => Some(keys(config)?.current().clone()),
        false => None,
    };
    Ok(Links::new(config.server.public_base_url.as_deref(), key, config.origin.token_ttl_s))
}

/// What the transcoder accepts under these settings.
#[cfg(feature = "transcode")]
pub fn transcode_options(config: &Config) -> crate::transcode::Options {
    let mut options = crate::transcode::Options::default();
    options.limits.duration_s_max = config.transcode.duration_s_max;
    options.limits.input_bytes_max = config.transcode.input_bytes_max;
    options
}

/// Resolves when the process is asked to stop: SIGINT or SIGTERM.
///
/// # Errors
/// When the signals cannot be listened to.
pub async fn stop_signal() -> std::io::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}

/// As `stop_signal`, and SIGHUP: a command that works for the terminal that started it ends with it.
///
/// # Errors
/// As `stop_signal`.
pub async fn hangup_or_stop_signal() -> std::io::Result<()> {
    let mut hangup = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?;
    tokio::select! {
        stopped = stop_signal() => stopped,
        _ = hangup.recv() => Ok(()),
    }
}

/// Runs the server until it is asked to stop and has drained.
///
/// # Errors
/// `Usage` for settings that cannot work; `Internal` when a listener or a thread cannot start.
pub fn serve(config: &Config, roles: Roles) -> Result<()> {
    telemetry::start_log(&config.log.filter, config.log.json)?;
    let metrics = telemetry::start_metrics()?;
    let keys = keys(config)?;
    let store = LocalStore::open(&config.store_dir())?;
    let (trigger, shutdown) = shutdown::channel();

    let control = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build()
        .context(|| "cannot start the control runtime")?;
    let admin = control.block_on(listen(config.server.admin_listen, "--admin-listen"))?;
    refuse_taken(config.server.listen, "--listen")?;
    let certificate = tls::load(&config.server)?;
    let origin = Origin::new(origin_options(config), store.clone(), keys, Clock::System)?;
    #[cfg(feature = "control")]
    let blocks = origin.blocks();
    let pages = roles.pages && cfg!(feature = "control");
    let (to_control, from_cores) = handover::channel(HANDOVER_WAITING_MAX);
    let server =
        server::start(&server_options(config, certificate.clone()), origin, pages.then_some(to_control), &shutdown)?;

    let io = if server.on_uring() { "io_uring" } else { "plain I/O" };
    say(format_args!("listening on http://{} ({io})", server.local_addr()));
    if let (Some(addr), Some(certificate)) = (server.tls_addr(), certificate) {
        say(format_args!("listening on https://{addr}"));
        control.spawn(tls::keep_fresh(certificate));
    }
    say(format_args!("admin on http://{} (/metrics, /livez, /readyz)", local_addr(&admin)?));
    control.spawn(serve_admin(admin, admin::routes(shutdown.clone(), metrics.clone()), shutdown.clone()));
    control.spawn(keep_metrics_bounded(metrics));
    #[cfg(feature = "control")]
    let pages = {
        let beside = (control.handle(), from_cores);
        pages::start(config, (&store, blocks), &shutdown, roles, beside, server.local_addr())?
    };
    #[cfg(not(feature = "control"))]
    drop((from_cores, roles)); // the cores answer 404 for what is not media
    let sweeper = std::thread::Builder::new().name("sweep".into()).spawn(move || sweep(&store));
    sweeper.context(|| "cannot start the sweeper")?;
    control.block_on(stop_signal()).context(|| "cannot listen for signals")?;
    tracing::info!(drain_s = config.server.drain_s, "draining; a second signal stops at once");
    trigger.advance(Phase::Draining);
    let trigger = Arc::new(trigger);
    control.spawn(stop_on_second_signal(Arc::clone(&trigger)));
    #[cfg(feature = "control")]
    drop(pages); // stops and waits for a transcode that is still running
    let joined = server.join(); // the cores end when their connections have, or at the deadline
    trigger.advance(Phase::Now);
    control.shutdown_timeout(Duration::from_secs(2));
    tracing::info!("stopped");
    joined
}

fn origin_options(config: &Config) -> origin::Options {
    let settings = &config.origin;
    let mut options = origin::Options { require_token: settings.require_token, ..origin::Options::default() };
    options.cache.files_max = settings.files_open_max;
    options.gate.requests_max = settings.requests_in_flight_max;
    options.gate.bytes_max = settings.bytes_in_flight_max;
    if let Some(page) = settings.blocked_by.as_ref().or(config.server.public_base_url.as_ref()) {
        options.blocked_by.clone_from(page);
    }
    options
}

fn server_options(config: &Config, certificate: Option<Arc<Certificate>>) -> server::Options {
    let settings = &config.server;
    let mut options = server::Options::new(settings.listen);
    options.tls = settings.tls_listen.zip(certificate).map(|(listen, certificate)| server::Tls { listen, certificate });
    if config.origin.cores > 0 {
        options.cores = config.origin.cores;
    }
    options.io = match settings.io.as_str() {
        "uring" => IoMode::Uring,
        "plain" => IoMode::Plain,
        _ => IoMode::Auto,
    };
    let limits = &mut options.limits;
    limits.connections_max = settings.connections_max;
    limits.connections_per_ip_max = match settings.connections_per_ip_max {
        0 => usize::MAX,
        max => max,
    };
    limits.head_timeout = Duration::from_secs(settings.header_timeout_s);
    limits.idle_timeout = Duration::from_secs(settings.idle_timeout_s);
    limits.write_stall = Duration::from_secs(settings.write_stall_timeout_s);
    limits.body_stall = Duration::from_secs(settings.body_timeout_s);
    limits.drain = Duration::from_secs(settings.drain_s);
    options
}

/// Gives up a port with a line that says which flag to change.
async fn listen(addr: SocketAddr, flag: &str) -> Result<TcpListener> {
    TcpListener::bind(addr)
        .await
        .context(|| format!("cannot listen on {addr}; stop what uses it or choose another address with {flag}"))
}

/// The cores share their port (`SO_REUSEPORT`), so a second server of the same user would silently get
/// half of the connections. A socket that does not share finds out.
fn refuse_taken(addr: SocketAddr, setting: &str) -> Result<()> {
    std::net::TcpListener::bind(addr)
        .map(drop)
        .context(|| format!("cannot listen on {addr}; stop what uses it or choose another address with {setting}"))
}

fn local_addr(listener: &TcpListener) -> Result<SocketAddr> {
    listener.local_addr().context(|| "the admin listener has no address")
}

async fn serve_admin(listener: TcpListener, routes: Router, mut shutdown: Shutdown) {
    let stop = async move { shutdown.reached(Phase::Now).await };
    if let Err(cause) = axum::serve(listener, routes).with_graceful_shutdown(stop).await {
        tracing::error!(%cause, "the admin listener ended");
    }
}

/// Histograms keep raw samples until somebody drains them; a scrape does, but nobody has to scrape.
async fn keep_metrics_bounded(metrics: PrometheusHandle) {
    let mut ticks = tokio::time::interval(Duration::from_secs(5));
    loop {
        ticks.tick().await;
        metrics.run_upkeep();
    }
}

async fn stop_on_second_signal(trigger: Arc<Trigger>) {
    if stop_signal().await.is_ok() {
        trigger.advance(Phase::Now);
    }
}

fn sweep(store: &LocalStore) {
    match store.sweep() {
        Ok(0) => {}
        Ok(attempts) => tracing::info!(attempts, "removed what interrupted attempts left in staging"),
        Err(error) => tracing::warn!(error = error.chain(), "cannot sweep the store"),
    }
}

/// A line on standard output; a closed pipe is the reader's choice.
fn say(line: std::fmt::Arguments<'_>) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "{line}");
}
