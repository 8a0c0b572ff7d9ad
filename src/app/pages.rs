//! The control side of a serving process: pages, aliases and the demo track, on the control runtime.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use tokio::runtime::Handle;
use tower::ServiceExt as _;

#[cfg(feature = "transcode")]
use super::demo;
use super::{Roles, links};
use crate::admin::{self, Readiness};
use crate::api::{self, App};
use crate::base::Result;
use crate::base::clock::Clock;
use crate::config::Config;
use crate::origin::blocks::Blocks;
use crate::server::{Body, handover};
use crate::store::LocalStore;

/// What runs beside the cores; dropping it stops a demo that is still being made.
pub(super) struct Running {
    #[cfg(feature = "transcode")]
    _demo: Option<demo::Running>,
}

/// Starts to answer what the cores hand over, and the demo when it is asked for.
pub(super) fn start(
    config: &Config,
    (store, blocks): (&LocalStore, Arc<Blocks>),
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
    let app = App { store: store.clone(), links, blocks, clock: Clock::System, demo: demo_page };
    let routes = api::routes(Arc::new(app)).merge(admin::health(readiness));
    let routes = admin::observed(routes);
    runtime.spawn(answer(from_cores, routes));
    Ok(Running {
        #[cfg(feature = "transcode")]
        _demo: demo.map(|demo| demo.start(config, addr)).transpose()?,
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
                Ok(response) => response.map(Body::boxed),
                Err(never) => match never {},
            };
            let _ = message.reply.send(response); // the client may have left
        });
    }
}
