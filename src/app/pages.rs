//! The control side of a serving process: pages, aliases and the demo track, on the control runtime.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::middleware::from_fn_with_state;
use tokio::runtime::Handle;
use utoipa_axum::router::OpenApiRouter;

#[cfg(feature = "transcode")]
use super::demo;
use super::{Roles, beside, links};
use crate::admin::{self, Readiness};
use crate::api::caller::{self, Door};
use crate::api::keys::Keys;
use crate::api::openapi;
use crate::api::playback::Valid;
use crate::api::transcodes::{self, Queue};
use crate::api::uploads::{self, Uploads};
use crate::api::{self, App};
use crate::base::clock::Clock;
use crate::base::shutdown::Shutdown;
use crate::base::{Result, telemetry};
use crate::cdn::playback::Links;
use crate::config::Config;
use crate::db::Db;
use crate::intake::Intake;
use crate::origin::Origin;
use crate::server::handover;
use crate::store::Store;

/// What runs beside the cores; dropping it stops a demo that is still being made.
pub(super) struct Running {
    /// What signs playback URLs; clones share its key. `None` where nothing is signed.
    pub(super) links: Option<Links>,
    #[cfg(feature = "transcode")]
    _demo: Option<demo::Running>,
}

/// Starts to answer what the cores hand over, and the demo when it is asked for.
pub(super) fn start(
    config: &Config,
    (store, origin): (&Store, Arc<Origin>),
    (queue, uploads): (Option<Arc<Queue>>, Option<Arc<Uploads>>),
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
    let (demo_page, _) = (None, (roles, addr));

    metrics::counter!(telemetry::PLAYBACK_FALLBACKS).increment(0);
    let links = if roles.pages { Some(links(config)?) } else { None };
    let routes = match &links {
        Some(links) => {
            let s3 = &config.store.s3;
            let valid = Valid {
                stream: Duration::from_secs(s3.stream_url_s),
                download: Duration::from_secs(s3.download_url_s),
            };
            let (links, blocks) = (links.clone(), origin.blocks());
            let app = App { store: store.clone(), links, origin, valid, blocks, clock: Clock::System, demo: demo_page };
            api::routes(Arc::new(app)).merge(admin::health(readiness))
        }
        None => admin::health_alone(readiness),
    };
    // Each module of the API has its line here, and another in `api::openapi::document`.
    let mut described = OpenApiRouter::new();
    if let Some(queue) = queue {
        described = described.merge(transcodes::routes(queue));
    }
    if let Some(uploads) = uploads {
        described = described.merge(uploads::routes(uploads));
    }
    let routes = routes.merge(openapi::serve(described));
    let door = Arc::new(Door { keys: keys(config) });
    let routes = routes.layer(from_fn_with_state(door, caller::named));
    runtime.spawn(beside::answer(from_cores, admin::observed(routes)));
    Ok(Running {
        links,
        #[cfg(feature = "transcode")]
        _demo: demo.map(|demo| demo.start(config, addr)).transpose()?,
    })
}

/// What the routes of the queue need.
pub(super) fn queue(config: &Config, db: &Db, shutdown: &Shutdown) -> Arc<Queue> {
    let api = &config.api;
    Arc::new(Queue {
        db: db.clone(),
        keys: keys(config),
        source_dirs: api.source_dirs.clone(),
        #[cfg(feature = "transcode")]
        transcode: super::transcode_options(config),
        callback_secrets: config.callbacks.secrets.clone(),
        failures_max: config.worker.failures_max,
        clock: Clock::System,
        shutdown: shutdown.clone(),
        streams: Arc::new(tokio::sync::Semaphore::new(transcodes::STREAMS_MAX)),
    })
}

/// What the routes of uploads need.
pub(super) fn uploads(config: &Config, intake: &Arc<Intake>) -> Arc<Uploads> {
    Arc::new(Uploads { intake: Arc::clone(intake), keys: keys(config) })
}

fn keys(config: &Config) -> Keys {
    Keys::new(config.api.keys.iter().map(|key| (key.id.as_str(), key.sha256.as_str())))
}
