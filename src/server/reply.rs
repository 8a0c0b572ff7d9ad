//! Refusals: the short answers that are not media. Every one can be read by a script of another site
//! (CORS), is stored by nobody, and says nothing about paths or keys.

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use super::body::Body;

/// `Cross-Origin-Resource-Policy`, Fetch standard §3.7.
pub const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
/// `Timing-Allow-Origin`, Resource Timing §4.5.1.
pub const TIMING_ALLOW_ORIGIN: HeaderName = HeaderName::from_static("timing-allow-origin");

/// The headers that let any page read an answer; on every status.
pub fn open_to_all(headers: &mut HeaderMap) {
    /// What a script may read beside the safelisted headers (Fetch standard, CORS-safelisted).
    const EXPOSED: &str = "Content-Length, Content-Range, Accept-Ranges, ETag, Date, Server-Timing, Retry-After, \
        X-Request-Id";
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    headers.insert(TIMING_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(CROSS_ORIGIN_RESOURCE_POLICY, HeaderValue::from_static("cross-origin"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

/// A short text with a status; `no-store`, so that no cache keeps a refusal.
pub fn refusal(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::bytes(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    open_to_all(headers);
    response
}

/// 503, and when to come back.
pub fn busy(text: &'static str) -> Response<Body> {
    let mut response = refusal(StatusCode::SERVICE_UNAVAILABLE, text);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// A refusal after which the connection ends: what follows on it cannot be trusted.
pub fn refuse_and_close(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = refusal(status, text);
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
