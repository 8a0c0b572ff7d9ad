//! Assembly: from settings to a running server, and back down in order.
//!
//! Start: control runtime, addresses, keys, store, origin cores. Stop: readiness off and no new
//! connections, started answers finish, then everything else. A second signal stops at once.

use std::error::Error as _;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::admin::{self, Readiness};
use crate::base::clock::Clock;
use crate::base::error::Context as _;
use crate::base::secret::Secret;
use crate::base::shutdown::{self, Phase, Shutdown, Trigger};
use crate::base::telemetry::{self, Metrics};
use crate::base::{Error, Kind, Result};
use crate::cdn::playback::{Links, Signer};
use crate::cdn::{Live, Verifier, bunny, cloudflare, cloudfront};
#[cfg(feature = "s3")]
use crate::config::Checksums;
#[cfg(feature = "transcode")]
use crate::config::{self, Profile};
use crate::config::{Cdn, Config, TokenForm};
use crate::origin::{self, Origin};
use crate::publish;
use crate::server::tls::Certificate;
use crate::server::{self, IoMode, handover};
use crate::store::{Backend, LocalStore, Store};

#[cfg(feature = "control")]
mod accounts;
mod beside;
#[cfg(feature = "control")]
pub mod database;
#[cfg(all(feature = "control", feature = "transcode"))]
mod demo;
mod keys;
#[cfg(feature = "control")]
mod pages;
#[cfg(feature = "control")]
pub mod payments;
mod tls;
#[cfg(feature = "control")]
mod uploads;
#[cfg(feature = "control")]
mod work;

pub use keys::Reload;
pub use tls::look_at_certificate;

/// Requests that may wait for the control runtime before the cores answer 503.
const HANDOVER_WAITING_MAX: usize = 1024;

/// What a server process does.
#[derive(Clone, Copy, Debug)]
pub struct Roles {
    /// Serve pages and aliases beside media.
    pub pages: bool,
    /// Make a demo track when there is none.
    pub demo: bool,
    /// Work on the queue beside that.
    pub work: bool,
}

/// Everything that tokens are checked against, ready to use.
///
/// # Errors
/// As `Config::bunny_keys` and `Config::cloudfront_keys`; `Usage` for an empty key.
pub fn verifier(config: &Config) -> Result<Verifier> {
    let origin = &config.origin;
    let legacy = |scheme: &str| origin.keys.bunny_legacy.iter().any(|known| known == scheme);
    let accept = bunny::Accept { sha256: legacy("sha256"), md5: legacy("md5") };
    let bunny = live(config.bunny_keys()?.iter().map(bunny::Key::new))?;
    let base = config.media_base_url().unwrap_or_default();
    let cloudfront = live(config.cloudfront_keys()?.into_iter().map(Ok))?;
    let secrets = origin.keys.cloudflare.iter().map(|key| Secret::new(key.as_bytes()));
    let cloudflare = live(secrets.map(|secret| cloudflare::Key::new(&secret)))?;
    Ok(Verifier {
        bunny: bunny.map(|keys| bunny::Keys::new(keys.current, keys.previous).accepting(accept)),
        cloudfront: cloudfront.map(|keys| cloudfront::Keys::new(keys.current, keys.previous, base)),
        cloudflare: cloudflare.map(|keys| cloudflare::Keys::new(keys.current, keys.previous, origin.token_ttl_s)),
    })
}

fn live<K>(mut keys: impl Iterator<Item = Result<K>>) -> Result<Option<Live<K>>> {
    let Some(current) = keys.next().transpose()? else { return Ok(None) };
    Ok(Some(Live { current, previous: keys.next().transpose()? }))
}

/// The store of these settings, with the disk cache when it is to be served from.
///
/// # Errors
/// `Usage` when another process uses the disk cache; `Internal` when directories cannot be made.
pub fn open_store(config: &Config, serves: bool) -> Result<Store> {
    let local = LocalStore::open(&config.store_dir())?;
    match config.store.uses(Backend::S3) {
        false => Ok(local.into()),
        true => with_bucket(config, local, serves),
    }
}

#[cfg(feature = "s3")]
fn with_bucket(config: &Config, local: LocalStore, serves: bool) -> Result<Store> {
    use crate::store::mixed::MixedStore;
    let remote = open_bucket(config, local.clone(), serves)?;
    Ok(match config.store.uses(Backend::Local) {
        false => Store::S3(remote),
        true => Store::Both(MixedStore::new(local, remote, config.store.kind)),
    })
}

/// The bucket of these settings, whether or not `store.kind` says so.
///
/// # Errors
/// As `open_store`.
#[cfg(feature = "s3")]
pub fn open_bucket(config: &Config, local: LocalStore, serves: bool) -> Result<crate::store::remote::RemoteStore> {
    use crate::config::Credentials;
    use crate::store::{cache, credentials, remote::RemoteStore, s3};
    let settings = &config.store.s3;
    let secret = |text: &str| Secret::new(text.as_bytes());
    let options = s3::Options {
        region: settings.region.clone(),
        endpoint: settings.endpoint.clone(),
        path_style: settings.path_style,
        prefix: settings.prefix.clone(),
        session_token: settings.session_token.as_deref().map(secret),
        checksums: settings.checksums == Checksums::Supported,
        connect_timeout: Duration::from_secs(settings.connect_timeout_s),
        read_timeout: Duration::from_secs(settings.read_timeout_s),
        attempts: settings.attempts,
        keys: match settings.credentials {
            Credentials::Keys => credentials::Source::Given,
            Credentials::File => credentials::Source::File(
                settings.credentials_file.clone().unwrap_or_default(),
                settings.credentials_profile.clone(),
            ),
            Credentials::Role => match &settings.role_url {
                None => credentials::Source::Instance(settings.metadata_url.clone()),
                Some(url) => credentials::Source::Container {
                    url: url.clone(),
                    token: settings.role_token.as_deref().map(secret),
                    token_file: settings.role_token_file.clone(),
                },
            },
        },
        public_endpoint: settings.public_endpoint.clone(),
        abandoned: Duration::from_secs(settings.abandoned_s),
        ..s3::Options::new(&settings.bucket, &settings.access_key, secret(&settings.secret_key))
    };
    let cache = serves.then(|| cache::Options::new(&config.cache_dir(), config.cache.bytes_max));
    RemoteStore::open(options, local, cache)
}

#[cfg(not(feature = "s3"))]
fn with_bucket(_: &Config, _: LocalStore, _: bool) -> Result<Store> {
    Err(Error::usage("this build has no S3; set store.kind to local"))
}

/// What signs playback URLs, for the CDN of `origin.cdn`.
fn signer(config: &Config) -> Result<Signer> {
    let verifier = verifier(config)?;
    let signer = match (config.origin.cdn, config.origin.token_form) {
        (Cdn::Bunny, TokenForm::Path) => verifier.bunny.map(|keys| Signer::BunnyPath(keys.current().clone())),
        (Cdn::Bunny, TokenForm::Query) => verifier.bunny.map(|keys| Signer::BunnyQuery(keys.current().clone())),
        (Cdn::CloudFront, _) => verifier.cloudfront.map(|keys| Signer::CloudFront(keys.current().clone())),
        (Cdn::Cloudflare, _) => verifier.cloudflare.map(|keys| Signer::Cloudflare(keys.current().clone())),
    };
    signer.ok_or_else(|| Error::usage("there is no key for origin.cdn; set one below origin.keys"))
}

/// The maker of playback URLs that these settings describe.
///
/// # Errors
/// As `verifier`; `Usage` when there is no key for `origin.cdn`.
pub fn links(config: &Config) -> Result<Links> {
    let signer = match config.origin.require_token {
        true => Some(signer(config)?),
        false => None,
    };
    Ok(Links::new(config.media_base_url(), signer, config.origin.token_ttl_s))
}

/// Whose API purges, and where it is; `None` when nothing is purged.
#[cfg(feature = "control")]
pub fn purger(config: &Config) -> Option<(crate::cdn::purge::Provider, String)> {
    use crate::cdn::purge::Provider;
    let cdn = &config.cdn;
    let text = |text: &Option<String>| text.clone().unwrap_or_default(); // `problems` names what is missing
    let secret = |text: &Option<String>| Secret::new(text.clone().unwrap_or_default().into_bytes());
    let provider = match cdn.provider? {
        Cdn::Bunny => {
            Provider::Bunny { pull_zone: cdn.bunny_pull_zone.unwrap_or_default(), key: secret(&cdn.bunny_api_key) }
        }
        Cdn::CloudFront => Provider::CloudFront {
            distribution: text(&cdn.cloudfront_distribution),
            access_key: text(&cdn.cloudfront_access_key),
            secret_key: secret(&cdn.cloudfront_secret_key),
        },
        Cdn::Cloudflare => {
            Provider::Cloudflare { zone: text(&cdn.cloudflare_zone), token: secret(&cdn.cloudflare_api_token) }
        }
    };
    let url = cdn.api_url.clone().unwrap_or_else(|| provider.url().to_owned());
    Some((provider, url))
}

/// What the transcoder accepts under these settings.
#[cfg(feature = "transcode")]
pub fn transcode_options(config: &Config) -> crate::transcode::Options {
    let mut options = crate::transcode::Options::default();
    options.limits.duration_s_max = config.transcode.duration_s_max;
    options.limits.input_bytes_max = config.transcode.input_bytes_max;
    options.limits.video_bytes_max = config.transcode.video_bytes_max;
    options.limits.video_duration_s_max = config.transcode.video_duration_s_max;
    options.limits.video_pixels_max = config.transcode.video_pixels_max;
    options.sandbox = match (config.transcode.sandbox, config.profile) {
        (Some(config::Sandbox::Require), _) | (None, Profile::Production) => crate::transcode::Sandbox::Require,
        (Some(config::Sandbox::BestEffort), _) | (None, Profile::Dev) => crate::transcode::Sandbox::BestEffort,
    };
    let sources = &config.sources;
    // What cannot be read allows nothing; `problems` names it.
    options.fetching.allowed = crate::transcode::Allowed {
        hosts: sources.allow_hosts.iter().filter_map(|rule| rule.parse().ok()).collect(),
        any_host: sources.allow_hosts.is_empty() && config.profile == Profile::Dev,
        private: sources.allow_private.iter().filter_map(|network| network.parse().ok()).collect(),
    };
    options.fetching.ca_file.clone_from(&sources.ca_file);
    options.fetching.idle_s = sources.idle_timeout_s;
    options
}

/// Resolves when the process is asked to stop: SIGINT or SIGTERM.
///
/// # Errors
/// When the signals cannot be listened to.
pub async fn stop_signal() -> std::io::Result<()> {
    listen_for_stop()?.await;
    Ok(())
}

/// As `stop_signal`, but from the moment of this call on, not of the first wait. Needs a runtime around it.
fn listen_for_stop() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::signal;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// A server stays when its terminal goes, and SIGHUP asks it to read its certificate again (`tls::keep_fresh`): what is
/// safe for one server shall not end another. Needs a runtime around it.
fn outlive_hangup() -> std::io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    // Not joined: it ends with the runtime.
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            tracing::info!("SIGHUP: certificates and signing keys are read again, everything else at the next start");
        }
    });
    Ok(())
}

/// As `stop_signal`, and SIGHUP: a command that works for the terminal that started it ends with it.
///
/// # Errors
/// As `stop_signal`.
pub async fn hangup_or_stop_signal() -> std::io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        stopped = stop_signal() => stopped,
        _ = hangup.recv() => Ok(()),
    }
}

/// Runs the server until it is asked to stop and has drained. `reload` reads the settings again, for new keys.
///
/// # Errors
/// `Usage` for settings that cannot work; `Internal` when a listener or a thread cannot start.
pub fn serve(config: &Config, roles: Roles, reload: Reload) -> Result<()> {
    let _telemetry = telemetry::start(&telemetry_options(config))?; // dropped last: what it holds is written then
    let metrics = telemetry::start_metrics()?;
    let (trigger, shutdown) = shutdown::channel();

    let control = control_runtime()?;
    // Before anybody hears that we listen: a signal that comes right then shall drain, not kill.
    let asked_to_stop = control.block_on(async { listen_for_stop() }).context(|| "cannot listen for signals")?;
    control.block_on(async { outlive_hangup() }).context(|| "cannot listen for signals")?;
    // Before anything is made: a server that cannot listen leaves no data directory behind.
    let admin = control.block_on(listen(config.server.admin_listen, "--admin-listen (server.admin_listen)"))?;
    refuse_taken(config.server.listen, "--listen (server.listen)")?;
    let certificate = tls::load(&config.server)?;
    let kept_there = |error| advised(error, &config.data, "--data");
    let verifier = verifier(config).map_err(kept_there)?;
    warn_of_weakness(config);
    // A file that grows beyond its limit is then an error of the write, and not the end of the process (setrlimit(2)).
    let _survives = control.block_on(async { signal(SignalKind::from_raw(libc::SIGXFSZ)) });
    let store = open_store(config, true).map_err(kept_there)?;
    let origin = Origin::new(origin_options(config)?, store.clone(), verifier, Clock::System)?;
    let blocks = origin.blocks();
    let (serving, keyed) = (Arc::clone(&origin), Arc::clone(&origin));
    #[cfg(feature = "control")]
    let db = if roles.pages { Some(control.block_on(database::open(config))?) } else { None };
    #[cfg(feature = "control")]
    let intake = db.as_ref().map(|db| uploads::intake(config, db, &store)).transpose()?;
    let (to_control, from_cores) = handover::channel(HANDOVER_WAITING_MAX);
    let server = server::start(&server_options(config, certificate.clone()), serving, Some(to_control), &shutdown)?;

    let io = if server.on_uring() { "io_uring" } else { "plain I/O" };
    say(format_args!("listening on http://{} ({io})", server.local_addr()));
    if let (Some(addr), Some(certificate)) = (server.tls_addr(), certificate) {
        say(format_args!("listening on https://{addr}"));
        control.spawn(tls::keep_fresh(certificate));
    }
    say(format_args!("admin on http://{} (/metrics, /livez, /readyz)", local_addr(&admin)?));
    let (store_check, store_readable) = store_check();
    let known = {
        let blocks = Arc::clone(&blocks);
        Box::new(move || (!blocks.is_known()).then_some("blocks_unknown"))
    };
    let stale = {
        let blocks = Arc::clone(&blocks);
        Box::new(move || (blocks.age() > STALE).then_some("store_unreachable"))
    };
    let readiness = Readiness::new(shutdown.clone(), vec![store_check, known]).showing(vec![stale]);
    control.spawn(serve_admin(admin, admin::routes(readiness.clone(), metrics.clone()), shutdown.clone()));
    control.spawn(look_around(metrics, config.store_dir(), store_readable));
    #[cfg(feature = "control")]
    let pages = {
        let beside = (control.handle(), from_cores);
        let ground = db.as_ref().map(|db| pages::Ground {
            db: db.clone(),
            queue: pages::queue(config, db, &shutdown),
            uploads: intake.as_ref().map(pages::uploads),
            money: Arc::new(payments::payments(config, db)),
        });
        pages::start(config, (&store, origin), ground, readiness, roles, beside, server.local_addr())?
    };
    #[cfg(feature = "control")]
    let links = pages.links.clone();
    #[cfg(not(feature = "control"))]
    let links = None;
    keys::show_counters();
    control.spawn(keys::keep_fresh(config.clone(), reload, keys::Users { origin: keyed, links }));
    #[cfg(feature = "control")]
    let working = match db.as_ref().zip(intake.as_ref()) {
        Some((db, intake)) if roles.work => {
            let base_url = pages::base_url(config, server.local_addr());
            Some(work::start(config, (db, &store, intake), (false, &base_url), &shutdown, control.handle())?.0)
        }
        _ => None,
    };
    #[cfg(not(feature = "control"))]
    let _ = (origin, roles); // the cores have the one, and the other is about pages
    #[cfg(not(feature = "control"))]
    control.spawn(beside::answer(from_cores, admin::observed(admin::health_alone(readiness))));
    let sweeper = std::thread::Builder::new().name("sweep".into()).spawn(move || sweep(&store));
    sweeper.context(|| "cannot start the sweeper")?;
    control.block_on(asked_to_stop);
    tracing::info!(drain_s = config.server.drain_s, "draining; a second signal stops at once");
    trigger.advance(Phase::Draining);
    let trigger = Arc::new(trigger);
    control.spawn(stop_on_second_signal(Arc::clone(&trigger)));
    #[cfg(feature = "control")]
    drop(pages); // stops and waits for a transcode that is still running
    #[cfg(feature = "control")]
    control.block_on(handed_back(working, &shutdown, config));
    let joined = server.join(); // the cores end when their connections have, or at the deadline
    #[cfg(feature = "control")]
    if let Some(db) = db {
        control.block_on(close(db)); // nobody asks it any more
    }
    trigger.advance(Phase::Now);
    control.shutdown_timeout(Duration::from_secs(2));
    tracing::info!("stopped");
    joined
}

fn control_runtime() -> Result<tokio::runtime::Runtime> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("control").enable_all().build();
    runtime.context(|| "cannot start the control runtime")
}

/// Runs the pool alone: no public listener, health and metrics only, until it is asked to stop and has
/// handed back what it had.
///
/// # Errors
/// As `serve`; `Unavailable` when the database does not answer.
#[cfg(feature = "control")]
pub fn work(config: &Config) -> Result<()> {
    let _telemetry = telemetry::start(&telemetry_options(config))?; // dropped last: what it holds is written then
    let metrics = telemetry::start_metrics()?;
    let (trigger, shutdown) = shutdown::channel();
    let control = control_runtime()?;
    let asked_to_stop = control.block_on(async { listen_for_stop() }).context(|| "cannot listen for signals")?;
    control.block_on(async { outlive_hangup() }).context(|| "cannot listen for signals")?;
    let admin = control.block_on(listen(config.server.admin_listen, "--admin-listen (server.admin_listen)"))?;
    let store = open_store(config, false).map_err(|error| advised(error, &config.data, "--data"))?;
    let db = control.block_on(database::open(config))?;
    let intake = uploads::intake(config, &db, &store)?;
    // Nobody listens here: links are to the public address, or to where a server listens by default.
    let base_url = pages::base_url(config, config.server.listen);
    let alone = (true, base_url.as_str());
    let (working, reachable) = work::start(config, (&db, &store, &intake), alone, &shutdown, control.handle())?;
    say(format_args!(
        "working on the queue in {}",
        if config.database.url.is_some() { "PostgreSQL" } else { "SQLite" }
    ));
    say(format_args!("admin on http://{} (/metrics, /livez, /readyz)", local_addr(&admin)?));
    let (store_check, store_readable) = store_check();
    let database_check: admin::Check =
        Box::new(move || (!reachable.load(Ordering::Relaxed)).then_some("database_unreachable"));
    let readiness = Readiness::new(shutdown.clone(), vec![store_check, database_check]);
    control.spawn(serve_admin(admin, admin::routes(readiness, metrics.clone()), shutdown.clone()));
    control.spawn(look_around(metrics, config.store_dir(), store_readable));
    let sweeper = std::thread::Builder::new().name("sweep".into()).spawn(move || sweep(&store));
    sweeper.context(|| "cannot start the sweeper")?;
    control.block_on(asked_to_stop);
    tracing::info!(drain_s = config.server.drain_s, "handing back; a second signal stops at once");
    trigger.advance(Phase::Draining);
    let trigger = Arc::new(trigger);
    control.spawn(stop_on_second_signal(Arc::clone(&trigger)));
    control.block_on(async {
        handed_back(Some(working), &shutdown, config).await;
        close(db).await;
    });
    trigger.advance(Phase::Now);
    control.shutdown_timeout(Duration::from_secs(2));
    tracing::info!("stopped");
    Ok(())
}

/// Waits until leases are handed back, for as long as answers may take, or until somebody wants it to stop at once.
#[cfg(feature = "control")]
async fn handed_back(working: Option<crate::workers::supervisor::Working>, shutdown: &Shutdown, config: &Config) {
    let Some(working) = working else { return };
    let mut now = shutdown.clone();
    tokio::select! {
        () = working.ended(Duration::from_secs(config.server.drain_s)) => {}
        () = now.reached(Phase::Now) => {}
    }
}

/// Closes the database; one that does not answer is left behind.
#[cfg(feature = "control")]
async fn close(db: crate::db::Db) {
    let _ = tokio::time::timeout(Duration::from_secs(2), db.close()).await;
}

/// What is logged and traced with these settings.
pub fn telemetry_options(config: &Config) -> telemetry::Options {
    let (log, traces) = (&config.log, &config.telemetry);
    telemetry::Options {
        filter: log.filter.clone(),
        json: log.json,
        access: log.access,
        errors_per_s_max: log.errors_per_s_max,
        trace: telemetry::trace::Options {
            endpoint: traces.otlp_traces_endpoint.clone(),
            service: traces.service_name.clone(),
            hits_one_in: match traces.hit_ratio {
                ratio if ratio > 0.0 => (1.0 / ratio).round() as u32,
                _ => 0,
            },
            sampled_hits_per_s_max: traces.sampled_hits_per_s_max,
        },
    }
}

/// Says at start what a weak scheme or key means; it works, but nobody should rely on it for long.
fn warn_of_weakness(config: &Config) {
    for note in config.notes() {
        tracing::warn!("{note}");
    }
    for weakness in config.key_weaknesses() {
        tracing::warn!("{weakness}");
    }
    for scheme in &config.origin.keys.bunny_legacy {
        tracing::warn!(
            scheme,
            "origin.keys.bunny_legacy takes a plain hash for a proof, which is weak; use HS256 in the pull zone and remove it"
        );
    }
}

fn origin_options(config: &Config) -> Result<origin::Options> {
    let settings = &config.origin;
    let mut options = origin::Options { require_token: settings.require_token, ..origin::Options::default() };
    options.secret_headers =
        settings.secret_header.iter().map(|text| origin::SecretHeader::decode(text)).collect::<Result<_>>()?;
    // Then only the CDN gets in, and it names the listener it asks for.
    options.trust_proxy = !options.secret_headers.is_empty();
    if settings.require_token {
        options.handed_on = signer(config)?.params();
    }
    // Cloudflare has its own name for it.
    options.cache_tag = settings.cdn == Cdn::Cloudflare || config.cdn.provider == Some(Cdn::Cloudflare);
    options.time_hits = settings.server_timing_on_hits;
    options.cache.files_max = settings.files_open_max;
    if config.store.uses(Backend::S3) {
        options.blocks_every = Duration::from_secs(1); // each look is a request
        options.cache.wait = Duration::from_secs(20); // a bucket is tried again
    }
    options.gate.requests_max = settings.requests_in_flight_max;
    options.gate.bytes_max = settings.bytes_in_flight_max;
    if let Some(page) = settings.blocked_by.as_ref().or(config.server.public_base_url.as_ref()) {
        options.blocked_by.clone_from(page);
    }
    Ok(options)
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
    let unless_0 = |most: usize| if most == 0 { usize::MAX } else { most };
    limits.connections_per_ip_max = unless_0(settings.connections_per_ip_max);
    limits.streams_per_ip_max = unless_0(settings.streams_per_ip_max);
    limits.head_timeout = Duration::from_secs(settings.header_timeout_s);
    limits.idle_timeout = Duration::from_secs(settings.idle_timeout_s);
    limits.write_stall = Duration::from_secs(settings.write_stall_timeout_s);
    limits.send_bytes_per_s_min = settings.send_bytes_per_s_min;
    limits.send_window = Duration::from_secs(settings.send_window_s);
    limits.body_stall = Duration::from_secs(settings.body_timeout_s);
    limits.drain = Duration::from_secs(settings.drain_s);
    options
}

async fn listen(addr: SocketAddr, setting: &str) -> Result<TcpListener> {
    TcpListener::bind(addr).await.map_err(|cause| not_listening(&cause, addr, setting))
}

/// The cores share their port (`SO_REUSEPORT`), so a second server of the same user would silently get
/// half of the connections. A socket that does not share finds out.
fn refuse_taken(addr: SocketAddr, setting: &str) -> Result<()> {
    std::net::TcpListener::bind(addr).map(drop).map_err(|cause| not_listening(&cause, addr, setting))
}

/// Why nobody listens, and which setting to change.
fn not_listening(cause: &std::io::Error, addr: SocketAddr, setting: &str) -> Error {
    let advice = match cause.kind() {
        ErrorKind::AddrInUse => "stop what uses it, or choose another address",
        ErrorKind::AddrNotAvailable => "this machine has no such address, choose another",
        ErrorKind::PermissionDenied => "ports below 1024 are for root, choose another",
        _ => "choose another address",
    };
    Error::internal(format!("cannot listen on {addr}: {cause}; {advice} with {setting}"))
}

/// Adds what to do when the place to write to, and not the input, is why something failed. `flag` names
/// the place on the command line.
pub fn advised(error: Error, place: &Path, flag: &str) -> Error {
    let place = place.display();
    let advice = match io_kind(&error) {
        Some(_) if error.kind() == Kind::Usage => return error,
        Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
            format!("free space for {place}, or choose another place with {flag}")
        }
        Some(ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
            format!("let this user write to {place}, or choose another place with {flag}")
        }
        Some(
            ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::AlreadyExists | ErrorKind::InvalidFilename,
        ) => {
            format!("choose another place with {flag}")
        }
        Some(ErrorKind::FileTooLarge) => "raise the limit on the size of files (ulimit -f)".to_owned(),
        _ => return error,
    };
    Error::new(error.kind(), format!("{}; {advice}", error.chain()))
}

/// Whether nothing else could be written there either.
pub fn is_of_the_place(error: &Error) -> bool {
    use ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(io_kind(error), Some(StorageFull | QuotaExceeded | PermissionDenied | ReadOnlyFilesystem))
}

/// What the operating system said, if it was the operating system.
pub fn io_kind(error: &Error) -> Option<ErrorKind> {
    let mut next = error.source();
    while let Some(cause) = next {
        if let Some(cause) = cause.downcast_ref::<std::io::Error>() {
            return Some(cause.kind());
        }
        next = cause.source();
    }
    None
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

/// Every few seconds: samples the process, and looks whether the store can be read. Beside the probes and
/// the scrapes: a disk that hangs must not make them hang.
async fn look_around(metrics: Metrics, store: PathBuf, readable: Arc<AtomicBool>) {
    let mut ticks = tokio::time::interval(Duration::from_secs(5));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (metrics, store) = (metrics.clone(), store.clone());
        let look = move || {
            metrics.tick();
            std::fs::read_dir(store).is_ok()
        };
        let mut looking = tokio::task::spawn_blocking(look);
        let seen = tokio::time::timeout(STORE_LOOK_MAX, &mut looking).await;
        readable.store(matches!(seen, Ok(Ok(true))), Ordering::Relaxed);
        if seen.is_err() {
            let _ = looking.await; // one thread hangs on the disk, not one more every few seconds
        }
    }
}

/// A store that was not heard of for longer is away. What is on the disk is served all the same.
const STALE: Duration = Duration::from_secs(10);
/// A store that takes longer to list a directory is not usable.
const STORE_LOOK_MAX: Duration = Duration::from_secs(10);

fn store_check() -> (admin::Check, Arc<AtomicBool>) {
    let readable = Arc::new(AtomicBool::new(true)); // it was opened a moment ago
    let seen = Arc::clone(&readable);
    (Box::new(move || (!seen.load(Ordering::Relaxed)).then_some("store_unreadable")), readable)
}

async fn stop_on_second_signal(trigger: Arc<Trigger>) {
    if stop_signal().await.is_ok() {
        trigger.advance(Phase::Now);
    }
}

fn sweep(store: &Store) {
    match store.sweep() {
        Ok(0) => {}
        Ok(attempts) => tracing::info!(attempts, "removed what interrupted attempts left in staging"),
        Err(error) => tracing::warn!(error = error.chain(), "cannot sweep the store"),
    }
    match publish::sweep_interim(store, publish::INTERIM_KEPT) {
        Ok(0) => {}
        Ok(versions) => tracing::info!(versions, "removed first rungs that whole versions have replaced"),
        Err(error) => tracing::warn!(error = error.chain(), "cannot look for replaced first rungs"),
    }
}

/// A line on standard output; a closed pipe is the reader's choice.
fn say(line: std::fmt::Arguments<'_>) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "{line}");
}
