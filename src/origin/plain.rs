//! The stages on the short way: a plain request for something open and in the page cache. In: `Plain`. Out:
//! the head as text, the body as a slice, or `None`: then the long way decides, and says why not.
//!
//! The same decode, admit, authorize, lookup, select, condition and range as in `answer`, and the same header
//! fields: they are written down from the same templates. A test compares both ways answer by answer.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue, IF_NONE_MATCH};

use super::Origin;
use super::authorize;
use super::blocks::Standing;
use super::cache::Lookup;
use super::range::{self, Ranged};
use super::target::{Route, Target};
use super::version::{Content, Object};
use crate::base::telemetry::{access, trace};
use crate::cdn::Presented;
use crate::server::{Body, Plain, PlainAnswer};

impl Origin {
    pub(super) fn answer_plain(
        &self,
        request: &Plain<'_>,
        peer: SocketAddr,
        head: &mut Vec<u8>,
    ) -> Option<PlainAnswer> {
        let started = Instant::now();
        let target = Target::decode(request.path)?;
        if self.options.time_hits || access::wants_all() || trace::samples_hits() {
            return None;
        }
        if self.blocks.standing(target.track) != Standing::Open {
            return None;
        }
        if !self.may_ask(request) {
            return None;
        }
        let mut permit = self.gate.admit()?;
        if self.options.require_token && target.needs_token() {
            if self.options.trust_proxy && request.real_ip.is_some() {
                return None;
            }
            let presented = Presented::Path(target.token?);
            self.verifier.load().verify(presented, target.path, peer.ip(), self.clock.unix_s()).ok()?;
        }
        let version = self.cache.get(&(target.track, target.version))?;
        let object = version.select(&target.object, &fields(request, target.route()))?;
        let (status, range) = select(request, &object)?;
        let body = match (&object.content, status) {
            (_, StatusCode::NOT_MODIFIED) => Bytes::new(),
            (Content::Memory(bytes), _) => bytes.slice(range.start as usize..range.end as usize),
            (Content::File(file, slice), _) => {
                Body::resident(file, slice.start + range.start..slice.start + range.end)?
            }
        };
        if !permit.load(body.len() as u64) {
            return None;
        }
        self.templates.write_head(head, status, &version, &object, &range);
        self.metrics.found(Lookup::Hit);
        self.metrics.answered(target.route(), status, body.len() as u64, started.elapsed());
        Some(PlainAnswer { body, permit })
    }

    /// Whether its unknown fields are the CDN's secret, and that is known.
    fn may_ask(&self, request: &Plain<'_>) -> bool {
        let secrets = &self.options.secret_headers;
        let mut sent = HeaderMap::new();
        for (name, value) in request.unknown.iter().flatten() {
            let secret = secrets.iter().find(|secret| secret.name.as_str().eq_ignore_ascii_case(name));
            match (secret, HeaderValue::from_bytes(value)) {
                (Some(secret), Ok(value)) if !sent.contains_key(&secret.name) => sent.insert(&secret.name, value),
                _ => return false,
            };
        }
        authorize::has_secret(secrets, &sent)
    }
}

/// The fields by which the coding of a text is chosen.
fn fields(request: &Plain<'_>, route: Route) -> HeaderMap {
    let mut fields = HeaderMap::new();
    if !matches!(route, Route::Init | Route::Segment | Route::File | Route::Poster) {
        for (name, value) in [(ACCEPT_ENCODING, request.accept_encoding), (IF_NONE_MATCH, request.none_match)] {
            if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
                fields.insert(name, value);
            }
        }
    }
    fields
}

/// What of the object is asked for: all of it, a part, or nothing because the client has it.
fn select(request: &Plain<'_>, object: &Object<'_>) -> Option<(StatusCode, std::ops::Range<u64>)> {
    let length = object.length();
    match (request.none_match, request.range) {
        (None, None) => Some((StatusCode::OK, 0..length)),
        (Some(tag), None) if tag.as_bytes() == object.etag.as_bytes() => Some((StatusCode::NOT_MODIFIED, 0..0)),
        (None, Some(asked)) => match range::resolve_text(asked, length) {
            Ranged::Part(part) => Some((StatusCode::PARTIAL_CONTENT, part)),
            Ranged::Whole => Some((StatusCode::OK, 0..length)),
            Ranged::Unsatisfiable => None,
        },
        _ => None,
    }
}
