//! What other sites ask for: the player that they put into a frame, and oEmbed, by which they find it.
//!
//! `/embed/track/{id}` may be framed by anybody, sets no cookie and plays the preview only. `/oembed` reads an address of
//! this server and fetches nothing, so that nobody is asked on a stranger's behalf.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::gate::{self, Known, Refused};
use super::{App, plain, tag};
use crate::base::id::TrackId;
use crate::hls::version::VersionIndex;
use crate::tracks::Track;
use crate::tracks::access::Want;
use crate::web::{self, Card, EMBED_SIZE};

/// The largest small waveform, in bytes: a thousand points as JSON.
const PEAKS_BYTES_MAX: u64 = 64 << 10;
/// The narrowest and the widest player that is offered, in pixels (product T4).
const WIDTHS: (u32, u32) = (240, 1280);
/// The lowest that it can be used at, in pixels.
const HEIGHT_MIN: u32 = 120;
/// How long whoever asks may keep an answer, in seconds: what is taken down shall not stay for long.
const CACHE_S: u32 = 300;

/// `GET /embed/track/{id}`.
#[utoipa::path(
    get, path = "/embed/track/{id}", tag = "pages", summary = "A player for other pages' frames",
    security(()),
    params(("id" = String, Path, description = "The id of the track")),
    responses(
        (status = 200, description = "A page that plays the preview, and sets no cookie", content_type = "text/html", body = String),
        (status = 404, description = "There is none that everybody may know of", content_type = "text/html", body = String),
        (status = 451, description = "A legal demand has closed it", content_type = "text/html", body = String),
    )
)]
pub(super) async fn track(State(app): State<Arc<App>>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    // Nobody is named in a frame: whoever may see it here is everybody.
    let answer = async {
        let known = gate::look(&app, &id, None, None).await?;
        known.may(Want::See)?;
        let track = known.shown(&app).await?;
        let peaks = peaks(&app, &track).await;
        Ok(with_card(&app, &known, &track, &headers, |card| web::embed_page(card, &peaks)).await)
    };
    match answer.await {
        Ok(html) => framed(&app, StatusCode::OK, "public, max-age=60", html, TrackId::decode(&id)),
        Err(Refused::Blocked(track)) => {
            let why = app.blocks.reason(track).unwrap_or_else(|| "taken down after a legal demand".into());
            let html = web::embed_gone_page("Unavailable for legal reasons", &why);
            let status = StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS;
            let mut response = framed(&app, status, "no-store", html, None);
            response.headers_mut().insert(header::LINK, app.blocks.link().clone());
            response
        }
        Err(Refused::NotFound) => {
            let html = web::embed_gone_page("There is nothing here", "The track is private or gone.");
            framed(&app, StatusCode::NOT_FOUND, "no-store", html, None)
        }
        Err(refused) => refused.answer(&app),
    }
}

fn framed(app: &App, status: StatusCode, caching: &'static str, html: String, track: Option<TrackId>) -> Response {
    let csp = HeaderValue::try_from(web::embed_csp(app.links.host())).expect("a checked URL has only visible ASCII");
    let named = HeaderName::from_static;
    let fields = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CACHE_CONTROL, HeaderValue::from_static(caching)),
        (header::CONTENT_SECURITY_POLICY, csp),
        (header::REFERRER_POLICY, HeaderValue::from_static("strict-origin-when-cross-origin")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (named("permissions-policy"), HeaderValue::from_static("camera=(), microphone=(), geolocation=()")),
    ];
    let mut response = (status, fields, html).into_response();
    if let Some(track) = track {
        response.headers_mut().insert(named("cdn-tag"), tag(track));
    }
    response
}

/// What a page of this track says of it to other sites, put into `make`.
pub(super) async fn with_card<T>(
    app: &Arc<App>,
    known: &Known,
    track: &Track,
    headers: &HeaderMap,
    make: impl FnOnce(&Card<'_>) -> T,
) -> T {
    let base = base(app, headers);
    let picture = known.row.as_ref().and_then(|row| row.artwork.as_deref());
    let picture = picture.map(|hash| format!("/tracks/{}/artwork/{hash}-640.jpg", track.id));
    let preview = known.may(Want::Preview).is_ok() && !track.video && has_preview(app, track).await;
    let preview = preview.then(|| format!("/tracks/{}/stream?preview=30", track.id));
    make(&Card {
        base: &base,
        track: track.id.as_str(),
        title: &track.title,
        duration_s: track.duration_s(),
        picture: picture.as_deref(),
        preview: preview.as_deref(),
    })
}

/// Where this server is found: as it was told, else as the request says. What an attacker says there is only shown to
/// themselves, unless a cache keeps it: who has one, has told the server.
fn base(app: &App, headers: &HeaderMap) -> String {
    if let Some(base) = &app.base {
        return base.clone();
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
    host.filter(|host| !host.as_str().contains('@')).map_or_else(String::new, |host| format!("http://{host}"))
}

async fn has_preview(app: &Arc<App>, track: &Track) -> bool {
    let (store, id, version) = (app.store.clone(), track.id, track.version);
    let read = tokio::task::spawn_blocking(move || {
        let document = store.read_version(id, version).ok()?;
        VersionIndex::decode_as(version, &document).ok().map(|index| index.has_preview())
    });
    matches!(read.await, Ok(Some(true)))
}

/// The waveform, when there is one: without it the player has a plain line.
async fn peaks(app: &Arc<App>, track: &Track) -> Vec<i8> {
    #[derive(Deserialize)]
    struct Small {
        data: Vec<i8>,
    }
    let (store, id, version) = (app.store.clone(), track.id, track.version);
    let read = tokio::task::spawn_blocking(move || {
        let bytes = store.read_small((id, version), "peaks.json", PEAKS_BYTES_MAX).ok()?;
        serde_json::from_slice::<Small>(&bytes).ok()
    });
    read.await.ok().flatten().map(|small| small.data).unwrap_or_default()
}

#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    url: Option<String>,
    format: Option<String>,
    maxwidth: Option<String>,
    maxheight: Option<String>,
}

/// `GET /oembed?url=&format=json&maxwidth=&maxheight=` (<https://oembed.com>, version 1.0). What is private is 404 as what
/// is not there: 401 would say that there is something.
#[utoipa::path(
    get, path = "/oembed", tag = "pages", summary = "How to put a track's player into a page (oEmbed 1.0)",
    security(()),
    params(
        ("url" = String, Query, description = "The address of a track's page here"),
        ("format" = Option<String>, Query, description = "`json`"),
        ("maxwidth" = Option<u32>, Query, description = "Pixels; 240 to 1280 are kept to"),
        ("maxheight" = Option<u32>, Query, description = "Pixels"),
    ),
    responses(
        (status = 200, description = "`rich`: the code of a frame", content_type = "application/json", body = Rich),
        (status = 400, description = "This is no page of a track of this server", content_type = "text/plain", body = String),
        (status = 404, description = "There is none that everybody may know of", content_type = "text/plain", body = String),
        (status = 501, description = "Only JSON is spoken here", content_type = "text/plain", body = String),
    )
)]
pub(super) async fn oembed(
    State(app): State<Arc<App>>,
    asked: Result<Query<Asked>, QueryRejection>,
    headers: HeaderMap,
) -> Response {
    let Ok(Query(asked)) = asked else { return plain(StatusCode::BAD_REQUEST, "the query cannot be read\n") };
    if asked.format.as_deref().is_some_and(|format| format != "json") {
        return plain(StatusCode::NOT_IMPLEMENTED, "only json is spoken here\n");
    }
    let base = base(&app, &headers);
    let Some(id) = asked.url.as_deref().and_then(|url| track_of(url, &base)) else {
        return plain(StatusCode::BAD_REQUEST, "url is no page of a track of this server\n");
    };
    let found = async {
        let known = gate::look(&app, id.as_str(), None, None).await?;
        known.may(Want::See)?;
        let track = known.shown(&app).await?;
        Ok::<_, Refused>(rich(&base, &track, &asked))
    };
    match found.await {
        Ok(body) => {
            let caching = HeaderValue::try_from(format!("public, max-age={CACHE_S}")).expect("digits and words");
            let fields = [
                (header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8")),
                (header::CACHE_CONTROL, caching),
                (header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
                (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
                (HeaderName::from_static("cdn-tag"), tag(id)),
            ];
            (fields, body.to_string()).into_response()
        }
        // oEmbed knows no 451.
        Err(Refused::NotFound | Refused::Blocked(_)) => plain(StatusCode::NOT_FOUND, "there is no such track\n"),
        Err(refused) => refused.answer(&app),
    }
}

/// What oEmbed answers.
#[derive(ToSchema)]
#[schema(as = OEmbed)]
#[expect(dead_code, reason = "a description of JSON that is made elsewhere")]
struct Rich {
    /// Always `1.0`.
    version: String,
    /// Always `rich`.
    r#type: String,
    provider_name: String,
    provider_url: String,
    title: String,
    /// Seconds.
    cache_age: u32,
    /// Pixels; so is the height.
    width: u32,
    height: u32,
    html: String,
}

/// The track that an address of this server shows; `None` for every other address.
fn track_of(url: &str, base: &str) -> Option<TrackId> {
    let path = url.strip_prefix(base)?.split(['?', '#']).next()?;
    let id = path.strip_prefix("/watch/").or_else(|| path.strip_prefix("/embed/track/"))?;
    TrackId::decode(id)
}

fn rich(base: &str, track: &Track, asked: &Asked) -> Value {
    let number = |text: &Option<String>| text.as_deref().and_then(|text| text.trim().parse::<u32>().ok());
    let width = number(&asked.maxwidth).unwrap_or(EMBED_SIZE.0).clamp(WIDTHS.0, WIDTHS.1);
    let height = number(&asked.maxheight).map_or(EMBED_SIZE.1, |most| most.clamp(HEIGHT_MIN, EMBED_SIZE.1));
    let title = web::escape(&track.title);
    let src = web::escape(&format!("{base}/embed/track/{}", track.id));
    json!({
        "version": "1.0",
        "type": "rich",
        "provider_name": "Segue",
        "provider_url": base,
        "title": track.title,
        "cache_age": CACHE_S,
        "width": width,
        "height": height,
        "html": format!(
            "<iframe src=\"{src}\" title=\"{title}\" width=\"{width}\" height=\"{height}\" allow=\"autoplay; encrypted-media\" \
             sandbox=\"allow-scripts allow-same-origin allow-popups\" frameborder=\"0\"></iframe>"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_this_server_s_own_pages_are_read() {
        let check = |url: &str, id: Option<&str>| {
            let found = track_of(url, "https://music.example");
            assert_eq!(found.map(|id| id.to_string()).as_deref(), id, "{url}");
        };
        check("https://music.example/watch/trk_1", Some("trk_1"));
        check("https://music.example/watch/trk_1?share=x#t=1", Some("trk_1"));
        check("https://music.example/embed/track/trk_1", Some("trk_1"));
        for bad in [
            "",
            "https://music.example",
            "https://music.example.evil/watch/trk_1",
            "https://evil/watch/trk_1",
            "http://music.example/watch/trk_1",
            "https://music.example@evil/watch/trk_1",
            "https://music.example/watch/",
            "https://music.example/watch/trk_1/x",
            "https://music.example/watch/..%2fadmin",
            "https://music.example/studio",
        ] {
            check(bad, None);
        }
    }
}
