//! What no part of the program should have to look at: requests that are refused by their head alone. In:
//! a request as hyper decoded it. Out: a refusal, or nothing. The same for both protocols.

use hyper::body::Incoming;
use hyper::header::{ALLOW, HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use hyper::http::uri::Authority;
use hyper::{Method, Request, Response, StatusCode, Version};

use super::body::Body;
use super::{Limits, address, reply};
use crate::base::telemetry::{self, request_id};

/// Refuses what is crooked, too long, or not for an origin, names it and counts it. `crooked` is what
/// `Watched::answer_head` said of its head.
pub(super) fn refuse(request: &Request<Incoming>, limits: &Limits, crooked: bool) -> Option<Response<Body>> {
    let mut refusal = refusal(request, limits, crooked)?;
    let id = request_id::given_or_made(request.headers());
    refusal.headers_mut().insert(request_id::X_REQUEST_ID, request_id::value(&id));
    telemetry::door_refused(refusal.status().as_u16());
    Some(refusal)
}

fn refusal(request: &Request<Incoming>, limits: &Limits, crooked: bool) -> Option<Response<Body>> {
    let headers = request.headers();
    let version = request.version();
    let blanks = version == Version::HTTP_2 && headers.values().any(has_outer_blanks);
    if crooked || blanks || !names_one_host(version, request.uri().authority(), headers) {
        return Some(reply::refuse_and_close(StatusCode::BAD_REQUEST, "bad request\n"));
    }
    let uri = request.uri();
    let uri_bytes = uri.path().len() + uri.query().map_or(0, str::len);
    if uri_bytes > limits.uri_bytes_max {
        return Some(reply::refuse_and_close(StatusCode::URI_TOO_LONG, "URI too long\n"));
    }
    let head_bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if head_bytes > limits.head_bytes_max {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return Some(reply::refuse_and_close(status, "headers too large\n"));
    }
    // Tunnels and echoes are for proxies; hyper would treat a 2xx to CONNECT as one.
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        let mut refusal = reply::refuse_and_close(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS"));
        return Some(refusal);
    }
    if !address::is_sound(request) {
        return Some(reply::refuse_and_close(StatusCode::BAD_REQUEST, "bad request\n"));
    }
    None
}

/// Refuses, for the control plane, bodies whose end two readers could see in two places.
///
/// hyper drops a Content-Length that comes beside a Transfer-Encoding, so the two together cannot be told
/// from chunks alone (RFC 9112 §6.1 asks to refuse or close). Chunks are refused: RFC 9110 §15.5.12.
pub(super) fn refuse_body(request: &Request<Incoming>) -> Option<Response<Body>> {
    let headers = request.headers();
    if headers.contains_key(TRANSFER_ENCODING) {
        let text = "a chunked body is not taken here: send Content-Length, or use HTTP/2\n";
        return Some(reply::refuse_and_close(StatusCode::LENGTH_REQUIRED, text));
    }
    None
}

/// RFC 9113 §8.2.1: "A field value MUST NOT start or end with an ASCII whitespace character". HTTP/1.1 strips them.
fn has_outer_blanks(value: &HeaderValue) -> bool {
    let value = value.as_bytes();
    [value.first(), value.last()].into_iter().flatten().any(|byte| matches!(byte, b' ' | b'\t'))
}

/// Anything else is a request to mislead somebody. RFC 9112 §3.2: a 1.1 request has exactly one Host.
/// RFC 9113 §8.3.1: an HTTP/2 request has an authority or a Host, and when it has both they agree.
fn names_one_host(version: Version, authority: Option<&Authority>, headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (_, Some(_)) => false,
        (None, None) => version < Version::HTTP_11 || (version == Version::HTTP_2 && authority.is_some()),
        (Some(host), None) if version == Version::HTTP_2 => {
            authority.is_none_or(|authority| authority.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes()))
        }
        (Some(_), None) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_around_a_value_are_seen_and_within_it_are_not() {
        for (value, expected) in
            [("", false), ("a", false), ("a b\tc", false), (" a", true), ("a\t", true), (" ", true)]
        {
            assert_eq!(has_outer_blanks(&value.parse().unwrap()), expected, "{value:?}");
        }
    }

    #[test]
    fn a_request_names_exactly_one_host() {
        let check = |version, authority: &str, hosts: &[&str], expected| {
            let authority = (!authority.is_empty()).then(|| authority.parse::<Authority>().unwrap());
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(HOST, host.parse().unwrap());
            }
            assert_eq!(names_one_host(version, authority.as_ref(), &headers), expected, "{authority:?} {hosts:?}");
        };
        check(Version::HTTP_10, "", &[], true);
        check(Version::HTTP_11, "", &[], false);
        check(Version::HTTP_11, "", &["a"], true);
        check(Version::HTTP_11, "elsewhere", &["a"], true); // RFC 9112 §3.2.2: absolute-form wins
        check(Version::HTTP_11, "", &["a", "a"], false);
        check(Version::HTTP_2, "a", &[], true);
        check(Version::HTTP_2, "", &["a"], true);
        check(Version::HTTP_2, "a.Example", &["A.example"], true);
        check(Version::HTTP_2, "a", &["b"], false);
        check(Version::HTTP_2, "", &[], false);
    }
}
