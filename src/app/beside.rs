//! What the cores hand over, answered on the control runtime.

use axum::Router;
use tower::ServiceExt as _;

use crate::server::{Beside, Body, handover};

/// Answers what the cores hand over. Ends when the cores have.
pub(super) async fn answer(mut from_cores: handover::Receiver, routes: Router) {
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
