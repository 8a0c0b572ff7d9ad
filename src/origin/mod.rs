//! The media data plane: a request comes in, bytes of a published version go out.
//!
//! ```text
//! &str ─ decode ─▶ Target ─ standing ─▶ () ─ admit ─▶ Permit ─ authorize ─▶ () ─ lookup ─▶ Version
//!      ─ select ─▶ Object ─ condition ─▶ Verdict ─ range ─▶ Ranged ─ respond ─▶ Response<Body>
//! ```
//! `target` `blocks` `server::gate` `authorize` `cache` `version` `encoding` `conditional` `range`
//! `respond`: always in this order. A hit copies no media byte, reads no file and waits for nothing.

mod authorize;
pub mod blocks;
mod cache;
mod cmcd;
pub mod conditional;
pub mod encoding;
mod metrics;
mod observe;
mod plain;
pub mod range;
mod respond;
pub mod target;
mod version;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hyper::body::{Body as _, Incoming};
use hyper::header::{HeaderMap, RANGE, TRANSFER_ENCODING};
use hyper::{Method, Request, Response};
use tracing::{Instrument as _, Span};

pub use authorize::SecretHeader;
pub use cache::Limits as CacheLimits;
pub use respond::ALLOWED_HEADERS;

use crate::base::Result;
use crate::base::clock::Clock;
use crate::base::id::{TrackId, VersionId};
use crate::base::redact;
use crate::base::telemetry::{access, trace};
use crate::cdn::Verifier;
use crate::hls::playlist::HandedOn;
use crate::server::gate::{Gate, Limits as GateLimits, Permit};
use crate::server::{Body, Plain, PlainAnswer, Service, reply};
use crate::store::Store;
use crate::store::mapped::Fetch;
use blocks::{Blocks, Standing, StoreSource};
use cache::{Cache, Lookup, Missed};
use conditional::{Validators, Verdict};
use metrics::Metrics;
use observe::Carried;
use range::Ranged;
use respond::Templates;
use target::{Route, Target};
use version::Version;

/// How to serve.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether `/a` and `/d` take a token. Default on; off, a token in the path is still stripped.
    pub require_token: bool,
    /// Whether `X-Real-IP` names the client of an address-bound token. Default off: only behind a proxy
    /// that sets it, and that nobody can go around.
    pub trust_proxy: bool,
    /// Headers of which a request has to carry one, so that only our CDN gets in. Default none: everybody does.
    pub secret_headers: Vec<SecretHeader>,
    /// Query parameters that playlists hand on to their children. Default none: tokens are in the path.
    pub handed_on: HandedOn,
    /// `Cache-Control` of everything below a version. Default a year, immutable: paths name content.
    pub cache_control: String,
    /// Whether `Cache-Tag`, which Cloudflare purges by, stands beside `CDN-Tag`. Default off.
    pub cache_tag: bool,
    /// Whether even a hit says how long it took (`Server-Timing`). Default off: a cache in front keeps it.
    pub time_hits: bool,
    /// Whom a 451 names as the one who blocks (RFC 7725 §4): a URL, or a reference from this server's root.
    /// Default `/`: this server.
    pub blocked_by: String,
    /// How often to look whether other tracks are blocked. Default twice a second.
    pub blocks_every: Duration,
    /// How many answers and bytes may be on their way.
    pub gate: GateLimits,
    /// How many versions may be open.
    pub cache: CacheLimits,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            require_token: true,
            trust_proxy: false,
            secret_headers: vec![],
            handed_on: &[],
            cache_control: "public, max-age=31536000, immutable".into(),
            cache_tag: false,
            time_hits: false,
            blocked_by: "/".into(),
            blocks_every: Duration::from_millis(500),
            gate: GateLimits::default(),
            cache: CacheLimits::default(),
        }
    }
}

/// The origin; one for the process, shared by the cores.
pub struct Origin {
    options: Options,
    verifier: ArcSwap<Verifier>,
    clock: Clock,
    blocks: Arc<Blocks>,
    gate: Gate,
    cache: Arc<Cache>,
    templates: Templates,
    metrics: Metrics,
    cmcd: cmcd::Counters,
}

impl Origin {
    /// An origin over `store` that takes the tokens `verifier` verifies. The metrics recorder must be
    /// installed before, or nothing is counted.
    ///
    /// # Errors
    /// `Usage` when an option cannot be used; `Invalid` when it cannot be learnt what is blocked.
    pub fn new(
        options: Options,
        store: impl Into<Store>,
        verifier: impl Into<Verifier>,
        clock: Clock,
    ) -> Result<Arc<Origin>> {
        let store = store.into();
        Ok(Arc::new(Origin {
            blocks: Blocks::start(StoreSource::new(store.clone()), options.blocks_every, &options.blocked_by)?,
            gate: Gate::new(options.gate),
            cache: Cache::new(store, options.cache, options.handed_on),
            templates: Templates::new(&options.cache_control, options.cache_tag)?,
            metrics: Metrics::new(),
            cmcd: cmcd::Counters::new(),
            options,
            verifier: ArcSwap::from_pointee(verifier.into()),
            clock,
        }))
    }

    /// What is blocked, for whoever else answers for tracks.
    pub fn blocks(&self) -> Arc<Blocks> {
        self.blocks.clone()
    }

    /// Takes other keys for every request from now on; what was remembered of tokens of the old ones is worth nothing.
    pub fn replace_verifier(&self, verifier: Verifier) {
        self.verifier.store(Arc::new(verifier));
    }

    /// Who sent a request that is not media: the connection's peer, or whom our own proxy says it asks for.
    pub fn client(&self, headers: &HeaderMap, peer: SocketAddr) -> std::net::IpAddr {
        authorize::client_by(headers, peer, self.trusts(headers))
    }

    /// Whether what a request says of its sender may be believed: it comes from a proxy that knows the secret.
    pub fn trusts(&self, headers: &HeaderMap) -> bool {
        self.options.trust_proxy && authorize::has_secret(&self.options.secret_headers, headers)
    }

    /// A whole object of a version under another name than its own, for whoever decided that it may be had: as `/d/`,
    /// `/p/` and `/w/` answer, ranges and conditions and all. Bytes and answers on their way count as everybody's.
    pub async fn file(
        &self,
        (method, headers): (&Method, &HeaderMap),
        (track, version): (TrackId, VersionId),
        name: &str,
    ) -> Response<Body> {
        let space = match name {
            "preview.m4a" => "p",
            "peaks.json" => "w",
            _ => "d",
        };
        let path = format!("/{space}/{track}/{version}/{name}");
        let Some(target) = Target::decode(&path) else { return respond::not_found() };
        let Some(permit) = self.gate.admit() else {
            self.metrics.gate_full();
            return reply::busy("busy, try again\n");
        };
        let version = match self.cache.get(&(track, version)) {
            Some(version) => version,
            None => match self.cache.fill((track, version)).await {
                Ok((version, ..)) => version,
                Err(Missed::NotFound) => return respond::not_found(),
                Err(Missed::Busy) => return reply::busy("busy, try again\n"),
                Err(Missed::Broken) => return respond::broken(),
            },
        };
        let response = self.send((method, headers), &target, &version, permit);
        match first_bytes(method, &response) {
            None => response,
            Some(fetch) => when_begun(response, fetch).await,
        }
    }

    async fn answer(
        &self,
        request: &Request<Incoming>,
        peer: SocketAddr,
        target: Option<Target<'_>>,
    ) -> Response<Body> {
        if request.headers().contains_key(TRANSFER_ENCODING) {
            // No media request has a body; a chunked one is how requests are smuggled (RFC 9112 §11.2).
            return respond::bad_request();
        }
        if !authorize::has_secret(&self.options.secret_headers, request.headers()) {
            self.metrics.without_secret();
            return respond::forbidden();
        }
        match *request.method() {
            Method::GET | Method::HEAD => {}
            Method::OPTIONS => return respond::preflight(),
            // RFC 9110 §9.1: 405 for a method that is known and not allowed here, 501 for an unknown one.
            Method::POST | Method::PUT | Method::DELETE | Method::PATCH => return respond::method_not_allowed(),
            _ => return respond::not_implemented(),
        }
        let Some(target) = target else { return respond::not_found() };
        let standing = self.blocks.standing(target.track);
        if standing == Standing::Blocked {
            // Before the token: that a court has closed a track is no secret, and its owner may know too.
            return respond::blocked(self.blocks.link().clone(), self.blocks.explanation(target.track));
        }
        if standing == Standing::Unknown {
            return reply::busy("not ready, try again\n");
        }
        let Some(permit) = self.gate.admit() else {
            self.metrics.gate_full();
            return reply::busy("busy, try again\n");
        };
        if let Some(refusal) = self.refuse_without_grant(request, peer, &target) {
            return refusal;
        }
        let guarded = matches!(standing, Standing::Guarded(guard) if target.is_kept_by(guard));
        if standing == Standing::Hidden || (guarded && !self.is_granted(request, peer, &target)) {
            // After the token, where a version that does not exist is missed: nobody sees a difference.
            self.metrics.missing();
            return respond::not_found();
        }
        let response = match self.cache.get(&(target.track, target.version)) {
            Some(version) => {
                self.metrics.found(Lookup::Hit);
                let asked = (request.method(), request.headers());
                let response = self.send(asked, &target, &version, permit);
                match first_bytes(request.method(), &response) {
                    None => response,
                    Some(fetch) => Box::pin(when_begun(response, fetch)).await,
                }
            }
            // Boxed: the future of a hit stays small.
            None => Box::pin(self.answer_miss(request, &target, permit)).await,
        };
        if guarded && response.status().as_u16() < 400 { respond::for_one(response) } else { response }
    }

    /// Whether a request for what is public of other tracks has a token.
    fn is_granted(&self, request: &Request<Incoming>, peer: SocketAddr, target: &Target<'_>) -> bool {
        let client = authorize::client(request, peer, self.options.trust_proxy);
        authorize::authorize(&self.verifier.load(), target, request, client, self.clock.unix_s()).is_ok()
    }

    fn refuse_without_grant(
        &self,
        request: &Request<Incoming>,
        peer: SocketAddr,
        target: &Target<'_>,
    ) -> Option<Response<Body>> {
        if !self.options.require_token || !target.needs_token() {
            return None;
        }
        let client = authorize::client(request, peer, self.options.trust_proxy);
        let refused =
            authorize::authorize(&self.verifier.load(), target, request, client, self.clock.unix_s()).err()?;
        self.metrics.refused(refused);
        // Neither token nor URL: they would open the door for whoever reads the log.
        tracing::debug!(reason = refused.as_str(), track = %target.track, client = redact::address(client), "refused");
        Some(respond::forbidden())
    }

    async fn answer_miss(&self, request: &Request<Incoming>, target: &Target<'_>, permit: Permit) -> Response<Body> {
        // Inside the span of a sampled request, or one of its own.
        let own = Span::current().is_none().then(|| observe::span(request, target.route()));
        let filled = self.fill_and_send(request, target, permit);
        let Some(span) = own else { return filled.await };
        let response = filled.instrument(span.clone()).await;
        trace::end_request(&span, response.status());
        response
    }

    async fn fill_and_send(&self, request: &Request<Incoming>, target: &Target<'_>, permit: Permit) -> Response<Body> {
        let started = Instant::now();
        match self.cache.fill((target.track, target.version)).await {
            Ok((version, lookup, stages)) => {
                self.metrics.found(lookup);
                let asked = (request.method(), request.headers());
                let mut response = self.send(asked, target, &version, permit);
                if let Some(fetch) = first_bytes(request.method(), &response) {
                    response = when_begun(response, fetch).await;
                }
                respond::time_miss(&mut response, lookup, stages, started.elapsed());
                response
            }
            Err(Missed::NotFound) => {
                self.metrics.missing();
                respond::not_found()
            }
            Err(Missed::Busy) => reply::busy("busy, try again\n"),
            Err(Missed::Broken) => respond::broken(),
        }
    }

    fn send(
        &self,
        (method, headers): (&Method, &HeaderMap),
        target: &Target<'_>,
        version: &Version,
        mut permit: Permit,
    ) -> Response<Body> {
        let Some(object) = version.select(&target.object, headers) else { return respond::not_found() };
        let validators = Validators { etag: object.etag.as_bytes(), modified_s: Some(version.modified_s) };
        match conditional::evaluate(headers, validators) {
            Verdict::NotModified => return self.templates.not_modified(version, object),
            Verdict::PreconditionFailed => return respond::precondition_failed(),
            Verdict::Send => {}
        }
        // RFC 9110 §14.2: only GET has ranges; a HEAD is answered as if there were none.
        let range = match conditional::only(headers, &RANGE) {
            Some(range) if *method == Method::GET => {
                conditional::range_counts(headers, validators, self.clock.unix_s()).then_some(range)
            }
            _ => None,
        };
        let ranged = range::resolve(range, object.length());
        let body_bytes = match &ranged {
            Ranged::Whole => object.length(),
            Ranged::Part(part) => part.end - part.start,
            Ranged::Unsatisfiable => return respond::unsatisfiable(object.length()),
        };
        if !permit.load(body_bytes) {
            self.metrics.gate_full();
            return reply::busy("busy, try again\n");
        }
        match ranged {
            Ranged::Part(part) => self.templates.part(version, object, part, permit),
            _ => self.templates.whole(version, object, permit),
        }
    }
}

/// The wait for the first bytes of an answer, when they are not on this machine yet.
fn first_bytes(method: &Method, response: &Response<Body>) -> Option<Fetch> {
    if *method == Method::GET { response.body().fetch() } else { None }
}

/// The answer once it can be begun; 503 when its bytes cannot be had now: never a head whose body does not come.
async fn when_begun(response: Response<Body>, fetch: Fetch) -> Response<Body> {
    match fetch.await {
        Ok(()) => {
            let turn = response.body().take_turn();
            turn.await;
            response
        }
        Err(error) => {
            tracing::debug!(error = error.chain(), "an answer could not be begun");
            reply::busy("busy, try again\n")
        }
    }
}

impl std::fmt::Debug for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Origin").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Service for Origin {
    fn takes(&self, path: &str) -> bool {
        // What is no path at all (`*`, an authority) is refused here, so that nobody else has to.
        target::is_media(path) || !path.starts_with('/')
    }

    async fn call(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<Body> {
        let started = Instant::now();
        let target = Target::decode(request.uri().path());
        let route = target.as_ref().map_or(Route::Unknown, Target::route);
        let carried = Carried::by(&request);
        let span = carried.span(&request, route);
        let mut response = self.answer(&request, peer, target).instrument(span.clone()).await;
        let body_bytes = match *request.method() {
            Method::HEAD => 0,
            _ => response.body().size_hint().exact().unwrap_or(0),
        };
        let (status, took) = (response.status(), started.elapsed());
        self.metrics.answered(route, status, body_bytes, took);
        if !span.is_none() {
            trace::end_request(&span, response.status());
        }
        if status.as_u16() < 400 {
            if carried.cmcd {
                self.cmcd.count(&request);
            }
            if self.options.time_hits {
                respond::time_hit(&mut response, took);
            }
        }
        if status.as_u16() >= 400 || access::wants_all() {
            let client = authorize::client(&request, peer, self.options.trust_proxy);
            observe::close(&request, client, route, &mut response, body_bytes, took);
        }
        response
    }

    fn call_plain(&self, request: &Plain<'_>, peer: SocketAddr, head: &mut Vec<u8>) -> Option<PlainAnswer> {
        self.answer_plain(request, peer, head)
    }

    fn is_pressed(&self) -> bool {
        self.gate.is_pressed()
    }

    fn on_tick(&self) {
        self.metrics.sample(&self.gate, self.cache.fills());
        self.blocks.sample();
        self.cache.tidy();
    }
}
