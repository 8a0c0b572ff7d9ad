//! The control routes. In: requests that are not media, handed over by the public listener. Out:
//! pages, the stable alias of a track, health. Thin: decode, call one function, encode.

pub mod account;
pub mod accounts;
pub mod api_keys;
pub mod auth;
pub mod caller;
mod cookies;
mod described;
mod desk;
mod dmca;
mod email_change;
mod embed;
mod gate;
pub mod keys;
pub mod leaving;
pub mod limiter;
pub mod money;
mod objects;
pub mod openapi;
mod operations;
pub mod playback;
mod plays;
pub mod problem;
mod sent;
mod tracks;
pub mod transcodes;
mod tus;
mod tus_described;
pub mod uploads;
pub mod users;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, options};
use tokio::sync::Semaphore;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::caller::Anyone;
use self::gate::{Known, Refused, Shared};
use crate::admin::plain;
use crate::base::clock::Clock;
use crate::base::id::TrackId;
use crate::base::shutdown::Shutdown;
use crate::base::{Error, Kind};
use crate::cdn::playback::Links;
use crate::db::Db;
use crate::hls::playlist::Scope;
use crate::origin::blocks::{Blocks, Standing};
use crate::origin::conditional::{self, Validators, Verdict};
use crate::origin::{ALLOWED_HEADERS, Origin};
use crate::store::Store;
use crate::tracks::Track;
use crate::tracks::access::Want;
use crate::web::{self, WatchPage, WatchState};

pub use self::plays::Salt;
pub use self::sent::BodyType;

/// What the routes need.
#[derive(Debug)]
pub struct App {
    /// Where tracks are.
    pub store: Store,
    /// Signs playback URLs.
    pub links: Links,
    /// Sends files of the directory.
    pub origin: Arc<Origin>,
    /// How long URLs are valid that the bucket signs.
    pub valid: playback::Valid,
    /// What is not served: the same snapshot as the origin's.
    pub blocks: Arc<Blocks>,
    /// Whose tracks are whose, and who bought what.
    pub db: Db,
    /// Where this server is found, without a slash at its end; `None`: where the request says.
    pub base: Option<String>,
    /// Whether there is a CDN to be asked to forget.
    pub purges: bool,
    /// Failed attempts that make a job dead.
    pub failures_max: u32,
    /// Pictures that are decoded at once.
    pub pictures: Arc<Semaphore>,
    /// Streams of events that may be open.
    pub streams: Arc<Semaphore>,
    /// Streams of events end when the process drains.
    pub shutdown: Shutdown,
    /// What names of listeners are made with today.
    pub salt: Salt,
    /// The time of everything that is written down, or compared with what another node wrote.
    pub clock: Clock,
    /// Expiry of media URLs: origins and a CDN's edges go by their machines' clocks.
    pub media_clock: Clock,
    /// The demo track, while it is being made and after.
    pub demo: Option<Arc<Demo>>,
}

/// The demo track of an empty data directory.
#[derive(Debug)]
pub struct Demo {
    /// Its id, known before it is made.
    pub track: TrackId,
    /// Its title.
    pub title: String,
    /// Set when making it failed: its page then says so instead of waiting for ever.
    pub failed: AtomicBool,
}

/// The pages of the control side, and what players and other sites ask for.
pub fn routes(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(home))
        .route("/tracks/{id}/master.m3u8", options(preflight))
        .route("/tracks/{id}/stream", options(preflight))
        .route("/tracks/{id}/download", options(preflight))
        .route("/tracks/{id}/waveform", options(preflight))
        .route("/oembed", options(preflight))
        .route("/assets/{*path}", get(asset))
        .merge(Router::from(described_media()))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(Arc::clone(&app))
        .merge(desk::pages(app))
}

/// Every type of body that a route reads as JSON, but those of providers.
pub fn bodies() -> impl Iterator<Item = &'static BodyType> {
    let of = [
        auth::BODIES,
        auth::FACTOR_BODIES,
        users::BODIES,
        leaving::BODIES,
        api_keys::BODIES,
        transcodes::BODIES,
        uploads::BODIES,
        money::BODIES,
        tracks::BODIES,
        dmca::BODIES,
    ];
    of.into_iter().flatten()
}

/// The API of the same: tracks, notices, the admin's desk; and what `routes` says of itself.
pub fn catalogue(app: Arc<App>) -> OpenApiRouter {
    let media = OpenApiRouter::with_openapi(described_media().into_openapi());
    described_catalogue().with_state(app).merge(media)
}

/// What players and other sites ask for, and what it says of itself, without what it needs.
fn described_media() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(watch))
        .routes(routes!(playback::alias))
        .routes(routes!(playback::stream))
        .routes(routes!(playback::download))
        .routes(routes!(playback::waveform))
        .merge(tracks::pictures())
        .routes(routes!(embed::track))
        .routes(routes!(embed::oembed))
}

/// What it says of itself, without what it needs.
fn described_catalogue() -> OpenApiRouter<Arc<App>> {
    tracks::described().merge(money::products()).merge(dmca::described()).merge(desk::described())
}

/// Pictures that may be decoded at once: each takes some hundred MB at worst.
pub const PICTURES_MAX: usize = 2;
/// How long after a block every origin is dark, in microseconds: only then is a CDN asked to forget, or it would fetch
/// again. Twice what the origins need to look.
const DARK_US: i64 = 2_000_000;

async fn home(State(app): State<Arc<App>>) -> Response {
    match &app.demo {
        Some(demo) => redirect(&format!("/watch/{}", demo.track), HeaderValue::from_static("no-store")),
        None => web_page(&app, StatusCode::NOT_FOUND, web::not_found_page()),
    }
}

/// 204 to a player on another site that adds headers of its own to its first request.
async fn preflight() -> Response {
    let headers = [
        (header::ALLOW, "GET, HEAD, OPTIONS"),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, OPTIONS"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS),
        (header::ACCESS_CONTROL_MAX_AGE, "86400"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

/// `GET /watch/{id}`.
#[utoipa::path(
    get, path = "/watch/{id}", tag = "pages", summary = "The page of a track",
    security((), ("bearer" = []), ("api_key" = [])),
    params(("id" = String, Path, description = "The id of the track"), ("share" = Option<String>, Query, description = "The token of a share: `sgs_…`")),
    responses(
        (status = 200, description = "A page that plays it, waits for it, or says what it costs", content_type = "text/html", body = String),
        (status = 404, description = "There is none that they may know of", content_type = "text/html", body = String),
        (status = 451, description = "A legal demand has closed it", content_type = "text/html", body = String),
    )
)]
async fn watch(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Query(Shared { share }): Query<Shared>,
    Anyone(caller): Anyone,
    headers: HeaderMap,
) -> Response {
    let answer = async {
        let known = gate::look(&app, &id, caller.as_ref(), share.as_deref()).await?;
        known.may(Want::See)?;
        let track = known.shown(&app).await?;
        match known.may(Want::Play) {
            Ok(_) => {
                Ok(embed::with_card(&app, &known, &track, &headers, |card| player(&app, &known, &track, card)).await)
            }
            Err(Refused::Payment(offer) | Refused::Login(offer)) => {
                Ok(embed::with_card(&app, &known, &track, &headers, |card| {
                    web_page(&app, StatusCode::OK, web::offer_page(card, &offer))
                })
                .await)
            }
            Err(refused) => Err(refused),
        }
    };
    match answer.await {
        Ok(response) => response,
        Err(Refused::NotFound) => demo_or_not_found(&app, &id),
        Err(refused) => refused.page(&app),
    }
}

/// The page of a track that may be heard, with URLs that are signed for whoever asked.
fn player(app: &App, known: &Known, track: &Track, card: &web::Card<'_>) -> Response {
    let now_s = app.media_clock.unix_s();
    let master = |scope| app.links.master(track.id, track.version, scope, now_s);
    // The alias knows what to do when nothing can be signed.
    let alias = || format!("/tracks/{}/master.m3u8", track.id);
    if track.video {
        let film = master(Scope::Video).unwrap_or_else(|_| alias());
        let poster = match known.is_private() {
            true => app.links.guarded(track.id, track.version, "poster.jpg", now_s).unwrap_or_default(),
            false => app.links.poster(track.id, track.version),
        };
        return web_page(app, StatusCode::OK, web::film_page(card, &film, &poster));
    }
    let aac = master(Scope::Aac).unwrap_or_else(|_| alias());
    let flac = (track.flac || track.lossless).then(|| master(Scope::Flac).ok()).flatten();
    let (flac_master, lossless, duration_s) = (flac.as_deref(), track.lossless, track.duration_s());
    let state = WatchState::Ready { aac_master: &aac, flac_master, lossless, duration_s };
    let tags = web::tags(card);
    let html = web::watch_page(&WatchPage { track: track.id.as_str(), title: &track.title, tags: &tags, state });
    web_page(app, StatusCode::OK, html)
}

/// The demo's page exists before the demo does, so that the printed URL works at once.
fn demo_or_not_found(app: &App, id: &str) -> Response {
    match &app.demo {
        Some(demo)
            if demo.track.as_str() == id
                && !demo.failed.load(Ordering::Relaxed)
                && app.blocks.standing(demo.track) == Standing::Open =>
        {
            let preparing = WatchPage { track: id, title: &demo.title, tags: "", state: WatchState::Preparing };
            web_page(app, StatusCode::OK, web::watch_page(&preparing))
        }
        _ => web_page(app, StatusCode::NOT_FOUND, web::not_found_page()),
    }
}

/// Files of the pages. Their names hold a hash of their content, so they never change. The pages
/// themselves are not coded: they hold secrets (signed URLs) beside text that others chose (BREACH).
async fn asset(method: Method, Path(path): Path<String>, asked: HeaderMap) -> Response {
    let Some(asset) = web::asset(&format!("/assets/{path}")) else { return not_found().await };
    let coded = asset.codings.select(&asked, asset.etag);
    let (bytes, etag) = match coded {
        Some(coded) => (coded.bytes.clone(), &coded.etag),
        None => (Bytes::from_static(asset.bytes), asset.etag),
    };
    let validators = Validators { etag: etag.as_bytes(), modified_s: None };
    let (status, send) = match conditional::evaluate(&asked, validators) {
        Verdict::PreconditionFailed => return plain(StatusCode::PRECONDITION_FAILED, "precondition failed\n"),
        Verdict::NotModified => (StatusCode::NOT_MODIFIED, false),
        Verdict::Send => (StatusCode::OK, true),
    };
    let mut headers = HeaderMap::from_iter([
        (header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::VARY, HeaderValue::from_static("Accept-Encoding")),
        (header::ETAG, etag.clone()),
    ]);
    if send {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(asset.content_type));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
        if let Some(coded) = coded {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coded.coding.as_str()));
        }
    }
    let body = if send && method != Method::HEAD { Body::from(bytes) } else { Body::empty() };
    (status, headers, body).into_response()
}

async fn not_found() -> Response {
    plain(StatusCode::NOT_FOUND, "not found\n")
}

async fn method_not_allowed() -> Response {
    plain(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n")
}

/// 451 as the origin says it (RFC 7725).
fn refuse_blocked(app: &App, track: TrackId) -> Response {
    let mut response = plain(StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS, "");
    *response.body_mut() = Body::from(app.blocks.explanation(track));
    response.headers_mut().insert(header::LINK, app.blocks.link().clone());
    response
}

fn refuse(error: &Error) -> Response {
    match error.kind() {
        Kind::NotFound => plain(StatusCode::NOT_FOUND, "not found\n"),
        Kind::Unavailable | Kind::Busy => {
            tracing::warn!(error = error.chain(), "a control request has to wait");
            let mut response = plain(StatusCode::SERVICE_UNAVAILABLE, "not ready, try again\n");
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            response
        }
        _ => {
            tracing::error!(error = error.chain(), "a control request failed");
            plain(StatusCode::INTERNAL_SERVER_ERROR, "internal error\n")
        }
    }
}

fn redirect(url: &str, cache_control: HeaderValue) -> Response {
    let headers = [
        (header::LOCATION, HeaderValue::try_from(url).expect("our URLs are ASCII")),
        (header::CACHE_CONTROL, cache_control),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (StatusCode::FOUND, headers).into_response()
}

/// What a CDN purges a track by.
fn tag(track: TrackId) -> HeaderValue {
    HeaderValue::from_str(track.as_str()).expect("a track id is ASCII")
}

fn web_page(app: &App, status: StatusCode, html: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"), // it holds signed URLs
    ];
    let mut response = (status, headers, html).into_response();
    let csp = HeaderValue::try_from(web::csp(app.links.host())).expect("a checked URL has only visible ASCII");
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, csp);
    for (name, value) in web::SECURITY_HEADERS {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}
