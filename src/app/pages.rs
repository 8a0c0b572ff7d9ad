//! The control side of a serving process: pages, aliases and the demo track, on the control runtime.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::runtime::Handle;
use tower::ServiceExt as _;

#[cfg(feature = "transcode")]
use super::demo;
use super::{Roles, links};
use crate::admin::{self, Readiness};
use crate::api::keys::Keys;
use crate::api::playback::Valid;
use crate::api::transcodes::{self, Queue};
use crate::api::{self, App};
use crate::base::clock::Clock;
use crate::base::shutdown::Shutdown;
use crate::base::{Result, telemetry};
use crate::config::Config;
use crate::db::Db;
use crate::origin::Origin;
use crate::server::{Beside, Body, handover};
use crate::store::Store;

/// What runs beside the cores; dropping it stops a demo that is still being made.
pub(super) struct Running {
    #[cfg(feature = "transcode")]
    _demo: Option<demo::Running>,
}

/// Starts to answer what the cores hand over, and the demo when it is asked for.
pub(super) fn start(
    config: &Config,
    (store, origin, queue): (&Store, Arc<Origin>, Option<Arc<Queue>>),
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

    let links = links(config)?;
    let s3 = &config.store.s3;
    let valid =
        Valid { stream: Duration::from_secs(s3.stream_url_s), download: Duration::from_secs(s3.download_url_s) };
    metrics::counter!(telemetry::PLAYBACK_FALLBACKS).increment(0);
    let blocks = origin.blocks();
    let app = App { store: store.clone(), links, origin, valid, blocks, clock: Clock::System, demo: demo_page };
    let mut routes = api::routes(Arc::new(app)).merge(admin::health(readiness));
    if let Some(queue) = queue {
        routes = routes.merge(transcodes::routes(queue));
    }
    let routes = admin::observed(routes);
    runtime.spawn(answer(from_cores, routes));
    Ok(Running {
        #[cfg(feature = "transcode")]
        _demo: demo.map(|demo| demo.start(config, addr)).transpose()?,
    })
}

/// What the routes of the queue need.
pub(super) fn queue(config: &Config, db: &Db, shutdown: &Shutdown) -> Arc<Queue> {
    let api = &config.api;
    Arc::new(Queue {
        db: db.clone(),
        keys: Keys::new(api.keys.iter().map(|key| (key.id.as_str(), key.sha256.as_str()))),
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

/// Answers what the cores hand over. Ends when the cores have.
async fn answer(mut from_cores: handover::Receiver, routes: Router) {
    while let Some(message) = from_cores.next().await {
        let routes = routes.clone();
        // Not joined: dropping the reply end tells the core, which answers 500.
        tokio::spawn(async move {
            let mut request = message.request.map(axum::body::Body::new);
            request.extensions_mut().insert(axum::extract::ConnectInfo(message.peer));
            let response = match routes.oneshot(request).await {
                Ok(response) => unpacked(response),
                Err(never) => match never {},
            };
            let _ = message.reply.send(response); // the client may have left
        });
    }
}

/// The answer with the body that travelled beside it, or with its own.
fn unpacked(mut response: axum::response::Response) -> hyper::Response<Body> {
    match response.extensions_mut().remove::<Beside>().and_then(|beside| beside.take()) {
        None => response.map(Body::boxed),
        Some(body) => {
            if !response.status().is_success() {
                response.headers_mut().remove(hyper::header::CONTENT_LENGTH); // axum counted another body
            }
            response.map(|_| body)
        }
    }
}
