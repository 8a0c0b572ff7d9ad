//! Responses. In: an object and what to do with it. Out: `Response<Body>`.
//!
//! The headers of a kind of object are put together once; a hit clones them and fills in four values.
//! `Content-Length` and `Date` are hyper's: it knows the body's length and keeps the date of the second.

use std::ops::Range;
use std::time::Duration;

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use super::cache::{Lookup, Stages};
use super::version::{Content, Media, Object, Version};
use crate::base::Result;
use crate::base::error::Error;
use crate::server::gate::Permit;
use crate::server::{Body, reply};

/// Comma-separated tags that a purge names.
const CDN_TAG: HeaderName = HeaderName::from_static("cdn-tag");
/// The same for Cloudflare.
const CACHE_TAG: HeaderName = HeaderName::from_static("cache-tag");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const METHODS: &str = "GET, HEAD, OPTIONS";

/// What a page may add to a request: ranges and conditions, and what players send to measure (CTA-5004
/// CMCD).
pub const ALLOWED_HEADERS: &str = "Range, If-Range, If-Match, If-None-Match, If-Modified-Since, If-Unmodified-Since, \
    Cache-Control, CMCD-Object, CMCD-Request, CMCD-Session, CMCD-Status, \
    traceparent, tracestate";

/// The headers of every kind of object, with places for what differs.
#[derive(Debug)]
pub(super) struct Templates {
    /// By `Media`: 200.
    whole: [HeaderMap; Media::ALL.len()],
    /// By `Media`: 206, with a place for Content-Range.
    part: [HeaderMap; Media::ALL.len()],
    /// By `Media`: the heads of 200, 206 and 304 as text, before and after what differs.
    text: [[(Vec<u8>, Vec<u8>); 3]; Media::ALL.len()],
    /// Whether they have a place for `CACHE_TAG`.
    cache_tag: bool,
}

impl Templates {
    /// # Errors
    /// `Usage` when `cache_control` cannot be a header.
    pub(super) fn new(cache_control: &str, cache_tag: bool) -> Result<Templates> {
        let caching = HeaderValue::from_str(cache_control)
            .map_err(|cause| Error::usage(format!("{cache_control:?} cannot be Cache-Control")).because(cause))?;
        let whole = Media::ALL.map(|media| {
            let mut headers = HeaderMap::with_capacity(16);
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media.as_str()));
            headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
            headers.insert(header::CACHE_CONTROL, caching.clone());
            for place in [header::ETAG, header::LAST_MODIFIED, CDN_TAG] {
                headers.insert(place, HeaderValue::from_static(""));
            }
            if cache_tag {
                headers.insert(CACHE_TAG, HeaderValue::from_static(""));
            }
            if media.is_text() {
                // On every answer, coded or not: a cache must not give one client another's coding.
                headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
            }
            reply::open_to_all(&mut headers);
            headers
        });
        let part = whole.clone().map(|mut headers| {
            headers.insert(header::CONTENT_RANGE, HeaderValue::from_static(""));
            headers
        });
        let text = Media::ALL.map(|media| {
            let whole = &whole[media as usize];
            let mut not_modified = whole.clone();
            not_modified.remove(header::CONTENT_TYPE);
            [(StatusCode::OK, whole), (StatusCode::PARTIAL_CONTENT, whole), (StatusCode::NOT_MODIFIED, &not_modified)]
                .map(|(status, headers)| around(status, headers))
        });
        Ok(Templates { whole, part, text, cache_tag })
    }

    /// 200 with all of it. The body keeps `permit`.
    pub(super) fn whole(&self, version: &Version, object: Object<'_>, permit: Permit) -> Response<Body> {
        let length = object.length();
        let body = body(&object, 0..length).with_permit(permit);
        respond(StatusCode::OK, fill_in(&self.whole, version, object), body)
    }

    /// 206 with bytes `range` of it. The body keeps `permit`.
    pub(super) fn part(
        &self,
        version: &Version,
        object: Object<'_>,
        range: Range<u64>,
        permit: Permit,
    ) -> Response<Body> {
        let content_range = format!("bytes {}-{}/{}", range.start, range.end - 1, object.length());
        let body = body(&object, range).with_permit(permit);
        let mut headers = fill_in(&self.part, version, object);
        set(&mut headers, &header::CONTENT_RANGE, ascii(content_range));
        respond(StatusCode::PARTIAL_CONTENT, headers, body)
    }

    /// Writes status line and fields of 200, 206 or 304 as text, all but `Date`: what the three functions here
    /// and hyper make together. `range` is what a 206 sends.
    pub(super) fn write_head(
        &self,
        head: &mut Vec<u8>,
        status: StatusCode,
        version: &Version,
        object: &Object<'_>,
        range: &Range<u64>,
    ) {
        let kind = match status {
            StatusCode::OK => 0,
            StatusCode::PARTIAL_CONTENT => 1,
            _ => 2,
        };
        let (before, after) = &self.text[object.media as usize][kind];
        head.extend_from_slice(before);
        field(head, "etag: ", &[object.etag.as_bytes()]);
        field(head, "last-modified: ", &[version.modified.as_bytes()]);
        field(head, "cdn-tag: ", &[version.tag.as_bytes()]);
        if self.cache_tag {
            field(head, "cache-tag: ", &[version.tag.as_bytes()]);
        }
        head.extend_from_slice(after);
        let mut digits = [(); 3].map(|()| itoa::Buffer::new());
        let [first, last, length] = &mut digits;
        if kind == 1 {
            let (first, last) = (first.format(range.start).as_bytes(), last.format(range.end - 1).as_bytes());
            field(
                head,
                "content-range: ",
                &[b"bytes ", first, b"-", last, b"/", length.format(object.length()).as_bytes()],
            );
        }
        if kind != 2 {
            if let Some(coding) = object.coding {
                field(head, "content-encoding: ", &[coding.as_str().as_bytes()]);
            }
            field(head, "content-length: ", &[length.format(range.end - range.start).as_bytes()]);
        }
    }

    /// 304: the validators and cache headers of the 200, no body (RFC 9110 §15.4.5).
    pub(super) fn not_modified(&self, version: &Version, object: Object<'_>) -> Response<Body> {
        let mut headers = fill_in(&self.whole, version, object);
        headers.remove(header::CONTENT_TYPE);
        headers.remove(header::CONTENT_ENCODING);
        respond(StatusCode::NOT_MODIFIED, headers, Body::empty())
    }
}

/// 412.
pub(super) fn precondition_failed() -> Response<Body> {
    reply::refusal(StatusCode::PRECONDITION_FAILED, "precondition failed\n")
}

/// 416, and how long the object is (RFC 9110 §15.5.17).
pub(super) fn unsatisfiable(length: u64) -> Response<Body> {
    let mut response = reply::refusal(StatusCode::RANGE_NOT_SATISFIABLE, "range not satisfiable\n");
    response.headers_mut().insert(header::CONTENT_RANGE, ascii(format!("bytes */{length}")));
    response.headers_mut().insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    response
}

/// Makes an answer one that no cache keeps for others, and no proxy between (RFC 9111 §5.2.2.7).
pub(super) fn for_one(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    response
}

/// 404, for whatever is not there: unknown, unpublished, misspelt.
pub(super) fn not_found() -> Response<Body> {
    reply::refusal(StatusCode::NOT_FOUND, "not found\n")
}

/// 403, without a reason: that would help a forger.
pub(super) fn forbidden() -> Response<Body> {
    reply::refusal(StatusCode::FORBIDDEN, "forbidden\n")
}

/// 500 for a version that is damaged.
pub(super) fn broken() -> Response<Body> {
    reply::refusal(StatusCode::INTERNAL_SERVER_ERROR, "this object cannot be served\n")
}

/// 451 for a track that a legal demand has closed, and who closed it (RFC 7725 §3 and §4).
pub(super) fn blocked(blocked_by: HeaderValue, explanation: String) -> Response<Body> {
    let mut response = reply::refusal(StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS, "");
    *response.body_mut() = Body::bytes(explanation);
    response.headers_mut().insert(header::LINK, blocked_by);
    response
}

/// 400 for a target that no client that means well sends, and the end of the connection.
pub(super) fn bad_request() -> Response<Body> {
    reply::refuse_and_close(StatusCode::BAD_REQUEST, "bad request\n")
}

/// 501 for a method that HTTP does not know (RFC 9110 §9.1).
pub(super) fn not_implemented() -> Response<Body> {
    let mut response = reply::refusal(StatusCode::NOT_IMPLEMENTED, "method not implemented\n");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(METHODS));
    response
}

/// 405, and what is allowed.
pub(super) fn method_not_allowed() -> Response<Body> {
    let mut response = reply::refusal(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(METHODS));
    response
}

/// 204 to a preflight (Fetch standard, CORS-preflight) and to any other OPTIONS.
pub(super) fn preflight() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    reply::open_to_all(headers);
    headers.insert(header::ALLOW, HeaderValue::from_static(METHODS));
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(ALLOWED_HEADERS));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    response
}

/// Says where the time of a miss went: in the queue and the fill that it caused, or waiting for another's.
pub(super) fn time_miss(response: &mut Response<Body>, lookup: Lookup, stages: Stages, took: Duration) {
    let timing = match lookup {
        Lookup::Wait => format!("cache;desc=wait, wait;dur={:.1}", ms(took)),
        _ => format!("cache;desc=miss, queue;dur={:.1}, fill;dur={:.1}", ms(stages.queued), ms(stages.opened)),
    };
    response.headers_mut().insert(SERVER_TIMING, ascii(timing));
}

/// Says how long a hit took; only for those who ask for it, a cache in front keeps it with the answer.
pub(super) fn time_hit(response: &mut Response<Body>, took: Duration) {
    let timing = || ascii(format!("cache;desc=hit, total;dur={:.3}", ms(took)));
    response.headers_mut().entry(SERVER_TIMING).or_insert_with(timing);
}

fn ms(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}

/// A status line and the fields before the first place for what differs; the fields after it.
fn around(status: StatusCode, headers: &HeaderMap) -> (Vec<u8>, Vec<u8>) {
    let mut before = format!("HTTP/1.1 {status}\r\n").into_bytes();
    let mut after = vec![];
    let mut text = &mut before;
    for (name, value) in headers {
        match value.as_bytes() {
            b"" => text = &mut after,
            value => text.extend_from_slice(&[name.as_str().as_bytes(), b": ", value, b"\r\n"].concat()),
        }
    }
    (before, after)
}

/// Writes a field, its name up to the value, and the value in pieces.
fn field(head: &mut Vec<u8>, name: &str, values: &[&[u8]]) {
    head.extend_from_slice(name.as_bytes());
    values.iter().for_each(|value| head.extend_from_slice(value));
    head.extend_from_slice(b"\r\n");
}

fn body(object: &Object<'_>, range: Range<u64>) -> Body {
    match &object.content {
        Content::Memory(bytes) => Body::bytes(bytes.slice(range.start as usize..range.end as usize)),
        Content::File(file, slice) => Body::mapped((*file).clone(), slice.start + range.start..slice.start + range.end),
    }
}

fn fill_in(templates: &[HeaderMap; Media::ALL.len()], version: &Version, object: Object<'_>) -> HeaderMap {
    let mut headers = templates[object.media as usize].clone();
    if let Some(coding) = object.coding {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding.as_str()));
    }
    set(&mut headers, &header::ETAG, object.etag);
    set(&mut headers, &header::LAST_MODIFIED, version.modified.clone());
    set(&mut headers, &CDN_TAG, version.tag.clone());
    if let Some(tag) = headers.get_mut(CACHE_TAG) {
        *tag = version.tag.clone();
    }
    headers
}

/// Replaces a place holder, without growing the map.
fn set(headers: &mut HeaderMap, name: &HeaderName, value: HeaderValue) {
    *headers.get_mut(name).expect("the template has a place for it") = value;
}

fn ascii(text: String) -> HeaderValue {
    HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).expect("made of ASCII")
}

fn respond(status: StatusCode, headers: HeaderMap, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}
