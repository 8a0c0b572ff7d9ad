//! What is seen of a request beside its counters. In: the request and its answer. Out: a span, a line in
//! the access log, CMCD, a request id and timing on refusals. A plain hit pays one pass over the names of
//! its headers.

use std::net::IpAddr;
use std::time::Duration;

use hyper::header::HeaderValue;
use hyper::{Request, Response};
use tracing::Span;

use super::cmcd;
use super::target::Route;
use crate::base::telemetry::{access, request_id, trace};
use crate::server::Body;

/// What a request carries for us to see.
#[derive(Clone, Copy)]
pub(super) struct Carried<'r> {
    /// Whether there is CMCD, in whatever shape.
    pub(super) cmcd: bool,
    traceparent: Option<&'r HeaderValue>,
}

impl Carried<'_> {
    /// Looks at each header's name once: five lookups by name would hash five names.
    pub(super) fn by<B>(request: &Request<B>) -> Carried<'_> {
        let mut carried = Carried { cmcd: false, traceparent: None };
        for (name, value) in request.headers() {
            match name.as_str().as_bytes() {
                [b'c', b'm', b'c', b'd', b'-', ..] => carried.cmcd = true,
                b"traceparent" => carried.traceparent = Some(value),
                _ => {}
            }
        }
        if let Some(query) = request.uri().query() {
            carried.cmcd |= cmcd::argument(query).is_some();
        }
        carried
    }

    /// A span, when the caller samples this request or it is our turn to; else none.
    pub(super) fn span<B>(&self, request: &Request<B>, route: Route) -> Span {
        match trace::wants(self.traceparent) {
            true => span(request, route),
            false => Span::none(),
        }
    }
}

/// The span of a request: of a miss, or of a sampled hit.
pub(super) fn span<B>(request: &Request<B>, route: Route) -> Span {
    let (method, path, headers) = (request.method().as_str(), request.uri().path(), request.headers());
    trace::request(method, route.as_str(), path, request_id::given(headers), headers)
}

/// Names an answer, in its head when it is a refusal, and writes the line that somebody wants about it.
#[cold]
pub(super) fn close<B>(
    request: &Request<B>,
    client: IpAddr,
    route: Route,
    response: &mut Response<Body>,
    body_bytes: u64,
    took: Duration,
) {
    let status = response.status().as_u16();
    let id = request_id::given_or_made(request.headers());
    if status >= 400 {
        response.headers_mut().insert(request_id::X_REQUEST_ID, request_id::value(&id));
    }
    if access::wants(status) {
        access::log(&access::Entry {
            method: request.method().as_str(),
            target: request.uri().path_and_query().map_or("", |target| target.as_str()),
            route: route.as_str(),
            status,
            body_bytes,
            took,
            request_id: &id,
            client,
        });
    }
}
