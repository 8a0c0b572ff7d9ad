//! Health and metrics, for balancers, orchestrators and Prometheus. In: the shutdown phase and the
//! recorder. Out: `/livez`, `/readyz`, `/metrics` on a listener that stays private.

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;

use crate::base::shutdown::{Phase, Shutdown};

/// Routes of the admin listener.
pub fn routes(shutdown: Shutdown, metrics: PrometheusHandle) -> Router {
    let render = move || {
        let text = metrics.render();
        async move { ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text) }
    };
    health(shutdown).route("/metrics", get(render)).fallback(not_found)
}

/// `/livez` and `/readyz`, which both listeners have.
pub fn health(shutdown: Shutdown) -> Router {
    Router::new().route("/livez", get(livez)).route("/readyz", get(readyz)).with_state(shutdown)
}

/// A short text that nobody stores.
pub(crate) fn plain(status: StatusCode, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
    ];
    (status, headers, text).into_response()
}

async fn livez() -> Response {
    plain(StatusCode::OK, "alive\n")
}

/// Ready until SIGTERM: a balancer must stop sending before we stop answering.
async fn readyz(State(shutdown): State<Shutdown>) -> Response {
    match shutdown.phase() {
        Phase::Running => plain(StatusCode::OK, "ready\n"),
        _ => plain(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
    }
}

async fn not_found() -> Response {
    plain(StatusCode::NOT_FOUND, "not found\n")
}
