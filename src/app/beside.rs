//! What the cores hand over, answered on the control runtime.

use axum::Router;
use tower::ServiceExt as _;

use crate::server::{Body, handover};

/// Answers what the cores hand over. Ends when the cores have.
pub(super) async fn answer(mut from_cores: handover::Receiver, routes: Router) {
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
