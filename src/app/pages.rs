//! The control side of a serving process: pages, aliases and the demo track, on the control runtime.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::middleware::from_fn_with_state;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use utoipa_axum::router::OpenApiRouter;

#[cfg(feature = "transcode")]
use super::demo;
use super::{Roles, accounts, beside, links};
use crate::admin::{self, Readiness};
use crate::api::caller::{self, Door};
use crate::api::keys::Keys;
use crate::api::leaving::Leaving;
use crate::api::limiter::Limiter;
use crate::api::openapi;
use crate::api::playback::Valid;
use crate::api::transcodes::{self, Queue};
use crate::api::uploads::{self, Uploads};
use crate::api::{self, App, Salt};
use crate::base::clock::Clock;
use crate::base::shutdown::Shutdown;
use crate::base::{Error, Result, telemetry};
use crate::cdn::playback::Links;
use crate::config::Config;
use crate::db::Db;
use crate::intake::Intake;
use crate::origin::Origin;
use crate::payments::Payments;
use crate::server::handover;
use crate::store::Store;

/// What runs beside the cores; dropping it stops a demo that is still being made.
pub(super) struct Running {
    /// What signs playback URLs; clones share its key. `None` where nothing is signed.
    pub(super) links: Option<Links>,
    #[cfg(feature = "transcode")]
    _demo: Option<demo::Running>,
}

/// What the API stands on, in a process that has a database.
pub(super) struct Ground {
    /// The database.
    pub(super) db: Db,
    /// Jobs.
    pub(super) queue: Arc<Queue>,
    /// Files that are sent.
    pub(super) uploads: Option<Arc<Uploads>>,
    /// Money.
    pub(super) money: Arc<Payments>,
}

/// Starts to answer what the cores hand over, and the demo when it is asked for.
pub(super) fn start(
    config: &Config,
    (store, origin): (&Store, Arc<Origin>),
    ground: Option<Ground>,
    readiness: Readiness,
    roles: Roles,
    (runtime, from_cores): (&Handle, handover::Receiver),
    addr: SocketAddr,
) -> Result<Running> {
    #[cfg(feature = "transcode")]
    let demo = if roles.demo { Some(demo::prepare(store)?) } else { None };
    #[cfg(feature = "transcode")]
    let demo_page = demo.as_ref().map(|demo| Arc::clone(&demo.page));
    #[cfg(not(feature = "transcode"))]
    let (demo_page, _) = (None, roles);

    let db = ground.as_ref().map(|ground| &ground.db);
    let limiter = db.map(|db| Arc::new(Limiter::new(db.clone(), Clock::Service)));
    let accounts = match (db, &limiter) {
        (Some(db), Some(limiter)) => accounts::open(config, db, limiter, base_url(config, addr))?,
        _ => None,
    };
    let served_by = Arc::clone(&origin);
    metrics::counter!(telemetry::PLAYBACK_FALLBACKS).increment(0);
    let links = if roles.pages { Some(links(config)?) } else { None };
    let mut described = OpenApiRouter::new();
    let routes = match &links {
        Some(links) => {
            let s3 = &config.store.s3;
            let valid = Valid {
                stream: Duration::from_secs(s3.stream_url_s),
                download: Duration::from_secs(s3.download_url_s),
            };
            let (links, blocks) = (links.clone(), origin.blocks());
            let queue = ground.as_ref().map(|ground| &ground.queue);
            let queue = queue.ok_or_else(|| Error::internal("pages need a database"))?;
            let app = App {
                store: store.clone(),
                links,
                origin,
                valid,
                blocks,
                db: queue.db.clone(),
                base: config.server.public_base_url.as_deref().map(|base| base.trim_end_matches('/').to_owned()),
                purges: config.cdn.provider.is_some(),
                failures_max: config.worker.failures_max,
                pictures: Arc::new(Semaphore::new(api::PICTURES_MAX)),
                streams: Arc::clone(&queue.streams),
                shutdown: queue.shutdown.clone(),
                salt: Salt::default(),
                clock: Clock::Service,
                media_clock: Clock::System,
                demo: demo_page,
            };
            let app = Arc::new(app);
            described = described.merge(api::catalogue(Arc::clone(&app)));
            api::routes(app).merge(admin::health(readiness))
        }
        None => admin::health_alone(readiness),
    };
    // Each module of the API has its line here, and another in `api::openapi::document`.
    if let (Some(accounts), Some(Ground { db, uploads: Some(uploads), .. })) = (&accounts, &ground) {
        let people = accounts::people(config, (db, store, &uploads.intake));
        described = described.merge(api::leaving::routes(Arc::new(Leaving { accounts: Arc::clone(accounts), people })));
    }
    if let Some(Ground { queue, uploads, money, .. }) = ground {
        described = described.merge(transcodes::routes(queue)).merge(api::money::routes(money));
        if let Some(uploads) = uploads {
            described = described.merge(uploads::routes(uploads));
        }
    }
    if let Some(accounts) = &accounts {
        described = described
            .merge(api::auth::routes(Arc::clone(accounts)))
            .merge(api::users::routes(Arc::clone(accounts)))
            .merge(api::api_keys::routes(Arc::clone(accounts)));
    }
    let pages = if accounts.is_some() { api::account::routes() } else { axum::Router::new() };
    let routes = routes.merge(pages).merge(openapi::serve(described));
    let secure = config.server.public_base_url.as_deref().is_some_and(|url| url.starts_with("https://"));
    let door = Arc::new(Door { keys: keys(config), accounts, limiter, origin: served_by, secure });
    let routes = routes.layer(from_fn_with_state(door, caller::named));
    runtime.spawn(beside::answer(from_cores, admin::observed(routes)));
    Ok(Running {
        links,
        #[cfg(feature = "transcode")]
        _demo: demo.map(|demo| demo.start(config, addr)).transpose()?,
    })
}

/// What links to this server begin with. Without a public address, which production demands, they work on this machine.
pub(super) fn base_url(config: &Config, addr: SocketAddr) -> String {
    let known = config.server.public_base_url.as_deref();
    known.map_or_else(|| format!("http://{addr}"), |url| url.trim_end_matches('/').to_owned())
}

/// What the routes of the queue need.
pub(super) fn queue(config: &Config, db: &Db, shutdown: &Shutdown) -> Arc<Queue> {
    let api = &config.api;
    Arc::new(Queue {
        db: db.clone(),
        source_dirs: api.source_dirs.clone(),
        source_keys: api.source_keys.clone(),
        #[cfg(feature = "transcode")]
        transcode: super::transcode_options(config),
        callback_secrets: config.callbacks.secrets.clone(),
        callback_private_hosts: config.callbacks.private_hosts.clone(),
        backend: config.store.kind,
        failures_max: config.worker.failures_max,
        clock: Clock::Service,
        shutdown: shutdown.clone(),
        streams: Arc::new(Semaphore::new(transcodes::STREAMS_MAX)),
    })
}

/// What the routes of uploads need.
pub(super) fn uploads(intake: &Arc<Intake>) -> Arc<Uploads> {
    Arc::new(Uploads { intake: Arc::clone(intake) })
}

fn keys(config: &Config) -> Keys {
    Keys::new(config.api.keys.iter().map(|key| (key.id.as_str(), key.sha256.as_str())))
}
