//! Refusals: the short answers that are not media. Every one can be read by a script of another site
//! (CORS), is stored by nobody, and says nothing about paths or keys.

use std::time::SystemTime;

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use super::body::Body;
use crate::base::telemetry::request_id;

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

/// The status by which hyper refuses a request head that it cannot read, told by how its answer begins; `None`
/// when this is none of its refusals.
pub(super) fn unreadable(answer: &[u8]) -> Option<StatusCode> {
    let status = answer.strip_prefix(b"HTTP/1.1 ").or_else(|| answer.strip_prefix(b"HTTP/1.0 "))?;
    match status.get(..3)? {
        b"400" => Some(StatusCode::BAD_REQUEST),
        b"414" => Some(StatusCode::URI_TOO_LONG),
        b"431" => Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        _ => None,
    }
}

/// Our answer in place of hyper's, to a request head that cannot be read or to a connection too many. The
/// connection ends after it. HEAD gets no body (RFC 9110 §9.3.2).
pub(super) fn last(status: StatusCode, asks_head: bool) -> Vec<u8> {
    let (reason, text) = match status {
        StatusCode::REQUEST_TIMEOUT => ("Request Timeout", "request timeout\n"),
        StatusCode::URI_TOO_LONG => ("URI Too Long", "URI too long\n"),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => ("Request Header Fields Too Large", "headers too large\n"),
        StatusCode::HTTP_VERSION_NOT_SUPPORTED => ("HTTP Version Not Supported", "HTTP version not supported\n"),
        StatusCode::SERVICE_UNAVAILABLE => ("Service Unavailable", "too many connections\n"),
        _ => ("Bad Request", "bad request\n"),
    };
    let again = if status == StatusCode::SERVICE_UNAVAILABLE { "Retry-After: 1\r\n" } else { "" };
    let (status, length, id) = (status.as_u16(), text.len(), request_id::made());
    let date = httpdate::fmt_http_date(SystemTime::now());
    let body = if asks_head { "" } else { text };
    format!(
        "HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Length: {length}\r\n{again}\
         Content-Type: text/plain; charset=utf-8\r\nCache-Control: no-store\r\n\
         Access-Control-Allow-Origin: *\r\nTiming-Allow-Origin: *\r\nCross-Origin-Resource-Policy: cross-origin\r\n\
         X-Content-Type-Options: nosniff\r\nX-Request-Id: {id}\r\nDate: {date}\r\n\r\n{body}"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_answers_are_whole_and_head_gets_no_body() {
        for status in [400, 408, 414, 431, 503, 505].map(|status| StatusCode::from_u16(status).unwrap()) {
            let ours = String::from_utf8(last(status, false)).unwrap();
            let (head, body) = ours.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{ours}");
            assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{ours}");
            assert!(head.contains("\r\nDate: ") && head.contains("\r\nX-Request-Id: "), "{ours}");
            assert_eq!(head.contains("\r\nRetry-After: 1\r\n"), status == StatusCode::SERVICE_UNAVAILABLE, "{ours}");
            assert!(body.len() > 5 && body.ends_with('\n'), "{ours}");
            let ours = String::from_utf8(last(status, true)).unwrap();
            let (head, nothing) = ours.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())) && nothing.is_empty(), "{ours}");
        }
    }

    #[test]
    fn only_refusals_of_a_head_are_replaced() {
        for status in [400, 414, 431] {
            let theirs = format!("HTTP/1.1 {status} Whatever\r\ncontent-length: 0");
            assert_eq!(unreadable(theirs.as_bytes()).unwrap(), status);
        }
        assert_eq!(unreadable(b"HTTP/1.1 200 OK\r\n"), None);
        assert_eq!(unreadable(b""), None);
    }
}
