//! Health and metrics, for balancers, orchestrators and Prometheus. In: the shutdown phase, checks and
//! the recorder. Out: `/livez`, `/readyz`, `/metrics` on a listener that stays private.
//!
//! Also what is seen of control requests: [`observed`].

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::body::Body as _;
use tracing::Instrument as _;

use crate::base::shutdown::{Phase, Shutdown};
use crate::base::telemetry::{self, Metrics, access, histogram, request_id, trace};
use crate::server::Beside;

/// Routes of the admin listener.
pub fn routes(readiness: Readiness, metrics: Metrics) -> Router {
    let render = move || {
        let text = metrics.render();
        async move { ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text) }
    };
    let metrics = Router::new().route("/metrics", get(render)).layer(map_response(keep_no_refusal));
    health(readiness).merge(metrics).fallback(not_found)
}

/// `/livez` and `/readyz`, which both listeners have.
pub fn health(readiness: Readiness) -> Router {
    let routes = Router::new().route("/livez", get(livez)).route("/readyz", get(readyz));
    routes.with_state(readiness).layer(map_response(keep_no_refusal))
}

/// Those, and nothing else: the public listener of an origin without pages.
pub fn health_alone(readiness: Readiness) -> Router {
    health(readiness).fallback(not_found)
}

/// axum's own refusals (405) name no cache; nobody shall keep them.
async fn keep_no_refusal(mut response: Response) -> Response {
    if response.status().is_client_error() {
        let no_store = HeaderValue::from_static("no-store");
        response.headers_mut().entry(header::CACHE_CONTROL).or_insert(no_store);
    }
    response
}

/// Whether the next request could be answered; cheap to clone.
#[derive(Clone)]
pub struct Readiness {
    shutdown: Shutdown,
    checks: Arc<[Check]>,
    /// What is wrong without being a reason to send requests elsewhere.
    impairments: Arc<[Check]>,
}

/// What is wrong now, in a word for machines; `None` when all is well. Must not block: it only looks at
/// what a background task found out.
pub type Check = Box<dyn Fn() -> Option<&'static str> + Send + Sync>;

impl Readiness {
    /// Ready while `shutdown` says that we run and no check finds anything.
    pub fn new(shutdown: Shutdown, checks: Vec<Check>) -> Readiness {
        Readiness { shutdown, checks: checks.into(), impairments: Arc::new([]) }
    }

    /// Also says what does not go well, although the next request is still better asked here than nowhere: what
    /// every node sees at once must not take all of them out of the balancer.
    #[must_use]
    pub fn showing(mut self, impairments: Vec<Check>) -> Readiness {
        self.impairments = impairments.into();
        self
    }

    /// Why a balancer should send nothing more: it must stop before we stop answering.
    fn reasons(&self) -> Vec<&'static str> {
        let draining = (self.shutdown.phase() != Phase::Running).then_some("draining");
        draining.into_iter().chain(self.checks.iter().filter_map(|check| check())).collect()
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readiness").field("reasons", &self.reasons()).finish_non_exhaustive()
    }
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

/// Whether the process still answers at all: looks at nothing, so that no dependency can restart us.
async fn livez() -> Response {
    plain(StatusCode::OK, "alive\n")
}

/// `{"ready":false,"reasons":["draining"]}`; the status is what machines look at.
async fn readyz(State(readiness): State<Readiness>) -> Response {
    let reasons = readiness.reasons();
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut body = serde_json::json!({ "ready": reasons.is_empty(), "reasons": reasons });
    let degraded: Vec<&str> = readiness.impairments.iter().filter_map(|check| check()).collect();
    if !degraded.is_empty() {
        body["degraded"] = degraded.into();
    }
    (status, [(header::CACHE_CONTROL, "no-store")], axum::Json(body)).into_response()
}

async fn not_found() -> Response {
    plain(StatusCode::NOT_FOUND, "not found\n")
}

/// Counts, traces and logs every request of `routes`, by the template it matched.
pub fn observed(routes: Router) -> Router {
    routes.layer(from_fn(observe))
}

async fn observe(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let template = request.extensions().get::<MatchedPath>().cloned();
    let route = template.as_ref().map_or("unknown", MatchedPath::as_str);
    if matches!(route, "/livez" | "/readyz") {
        return next.run(request).await; // asked every second by machines: neither counted nor traced
    }
    let client = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
    let client = client.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let method = method(&request);
    let id = request_id::given_or_made(request.headers()).into_owned();
    let target = access::path(request.uri().path_and_query().map_or("", |target| target.as_str())).into_owned();
    let span = trace::request(method, route, request.uri().path(), Some(&id), request.headers());
    let answered = next.run(request).instrument(span.clone());
    #[cfg(feature = "control")]
    let (mut response, statements) = crate::db::counted(answered).await;
    #[cfg(not(feature = "control"))]
    let (mut response, statements) = (answered.await, 0_u32);

    let (status, took) = (response.status(), started.elapsed());
    trace::end_request(&span, status);
    let class = telemetry::class(status.as_u16());
    let seconds = histogram(telemetry::CONTROL_SECONDS, &[("route", route), ("class", class)], &histogram::SECONDS);
    seconds.record_duration(took);
    metrics::counter!(telemetry::CONTROL_STATEMENTS, "route" => route.to_owned()).increment(u64::from(statements));
    if status.as_u16() >= 400 {
        let headers = response.headers_mut();
        headers.insert(request_id::X_REQUEST_ID, request_id::value(&id));
        // axum's own refusals, of a path that is no UTF-8 say, name no cache; nobody shall keep them.
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    }
    if access::wants(status.as_u16()) {
        let body_bytes = body_bytes(&response);
        let status = status.as_u16();
        access::log(&access::Entry {
            method,
            target: &target,
            route,
            status,
            body_bytes,
            took,
            request_id: &id,
            client,
        });
    }
    response
}

/// Bytes of the body, as far as they are known before it is sent. One that travels beside the answer is announced by its
/// length alone.
fn body_bytes(response: &Response) -> u64 {
    match response.extensions().get::<Beside>() {
        None => response.body().size_hint().exact().unwrap_or(0),
        Some(beside) => beside.bytes(),
    }
}

/// The method, or what stands for methods nobody knows (OpenTelemetry semantic conventions): a label and
/// a span's name must not be a stranger's choice.
fn method(request: &Request) -> &'static str {
    const KNOWN: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    KNOWN.into_iter().find(|known| *known == request.method().as_str()).unwrap_or("_OTHER")
}
