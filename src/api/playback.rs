//! `/tracks/{id}/…`: the stable names of a track's media. In: a track that may be heard. Out: a redirect to where its
//! bytes are, or the bytes.
//!
//! | route | from a directory | from a bucket |
//! |---|---|---|
//! | `master.m3u8` | 302 to a signed playlist | the same; when it cannot be signed, a playlist of URLs that the bucket signs |
//! | `stream`, `download` | the file, with ranges | 302 to a URL that the bucket signs |

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::body::Body as _;
use metrics::counter;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use utoipa::IntoResponses;

use super::caller::Anyone;
use super::gate::{self, Known, Refused, Shared};
use super::openapi::ProblemDocument;
use super::{App, plain, plays, redirect, refuse, tag};
use crate::auth::principal::Principal;
use crate::base::{Error, Kind, Result, hex, telemetry};
use crate::hls::playlist::{self, Scope};
use crate::hls::version::{Family, Object, Rung, VersionIndex};
use crate::server::Beside;
use crate::store::Backend;
use crate::tracks::Track;
use crate::tracks::access::{Ground, Want};

/// How long URLs are valid that the bucket signs.
#[derive(Clone, Copy, Debug)]
pub struct Valid {
    /// Of a stream. Default 15 minutes.
    pub stream: Duration,
    /// Of a download. Default 30 minutes.
    pub download: Duration,
}

impl Default for Valid {
    fn default() -> Valid {
        Valid { stream: Duration::from_secs(15 * 60), download: Duration::from_secs(30 * 60) }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    /// `aac` or `flac`. Default: AAC, which everything plays.
    format: Option<String>,
    /// `30`: thirty seconds, an encode of its own.
    preview: Option<String>,
    share: Option<String>,
}

/// What every way to a file may answer beside all of it.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "it describes answers, and is none")]
enum OfFile {
    /// The part of it that was asked for
    #[response(status = 206, content_type = "audio/mp4")]
    Part(Vec<u8>),
    /// The client has it
    #[response(status = 304)]
    NotModified,
    /// There is no such format
    #[response(status = 400, content_type = "text/plain")]
    Format(String),
    /// It has no such part
    #[response(status = 416, content_type = "text/plain")]
    Unsatisfiable(String),
}

/// What a track that costs something answers to who has not bought it.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "it describes answers, and is none")]
enum Offered {
    /// It costs something, and somebody who has bought it may
    #[response(status = 401, content_type = "application/problem+json")]
    Login(ProblemDocument),
    /// It costs something: the offer is in it
    #[response(status = 402, content_type = "application/problem+json")]
    Payment(ProblemDocument),
}

/// What every way to a track answers when there is none.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "it describes answers, and is none")]
enum Closed {
    /// There is none that they may know of
    #[response(status = 404, content_type = "text/plain")]
    NotFound(String),
    /// A legal demand has closed it
    #[response(status = 451, content_type = "text/plain")]
    Blocked(String),
}

/// `GET /tracks/{id}/master.m3u8`: the stable name of whatever version the track shows now.
#[utoipa::path(
    get, path = "/tracks/{id}/master.m3u8", tag = "media", summary = "Play a track: the stable name of its playlist",
    security((), ("bearer" = []), ("api_key" = [])),
    params(("id" = String, Path, description = "The id of the track"), ("share" = Option<String>, Query, description = "The token of a share: `sgs_…`")),
    responses(
        (status = 200, description = "A playlist whose URLs the bucket signs, when nothing else can be signed", content_type = "application/vnd.apple.mpegurl", body = String),
        (status = 302, description = "To the signed playlist of the version that it shows now, on the CDN when there is one"),
        Offered, Closed
    )
)]
pub(super) async fn alias(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Query(Shared { share }): Query<Shared>,
    Anyone(caller): Anyone,
) -> Response {
    match try_alias(&app, &id, caller.as_ref(), share.as_deref()).await {
        Ok(response) => response,
        Err(refused) => refused.answer(&app),
    }
}

async fn try_alias(
    app: &Arc<App>,
    id: &str,
    caller: Option<&Principal>,
    share: Option<&str>,
) -> Result<Response, Refused> {
    let known = gate::look(app, id, caller, share).await?;
    let ground = known.may(Want::Play)?;
    let track = known.shown(app).await?;
    let scope = if track.video { Scope::Video } else { Scope::Aac };
    match app.links.master(track.id, track.version, scope, app.media_clock.unix_s()) {
        Ok(url) => {
            let mut response = redirect(&url, gate::caching(ground, alias_caching(app.links.ttl_s())));
            response.headers_mut().insert("cdn-tag", tag(track.id)); // a takedown or a new owner's wish removes it too
            Ok(response)
        }
        Err(error) => {
            tracing::error!(error = error.chain(), "a playback URL cannot be signed; correct origin.keys and restart");
            Ok(from_bucket(app, &track).await?)
        }
    }
}

/// How long a cache may keep the alias, and show it stale: while it asks again, and when nobody answers (RFC
/// 5861). Never for more than half of the life of the token in it.
pub(super) fn alias_caching(token_ttl_s: Option<u64>) -> HeaderValue {
    let bound = |wanted_s: u64| token_ttl_s.map_or(wanted_s, |ttl_s| wanted_s.min((ttl_s / 2).saturating_sub(60)));
    let (revalidate_s, error_s) = (bound(600), bound(3_600));
    let text = format!("public, max-age=60, stale-while-revalidate={revalidate_s}, stale-if-error={error_s}");
    HeaderValue::try_from(text).expect("digits and words are ASCII")
}

/// A playlist whose segments are ranges of one file in the bucket, by one URL that the bucket signs: it plays where
/// neither the CDN nor the origin would let anybody in.
async fn from_bucket(app: &Arc<App>, track: &Track) -> Result<Response> {
    let index = index(app, track).await?;
    let rung = chosen(&index, Family::Aac).ok_or_else(|| Error::not_found("there is no rung to play"))?;
    // As long as the whole track plays, and a pause.
    let plays = Duration::from_secs_f64(index.duration_s()) + app.valid.stream;
    let url = presigned(app, track, &rung.object, plays.min(WEEK), Shown::default()).await?;
    let Some(url) = url else {
        return Err(Error::new(
            Kind::Unavailable,
            format!("track {} is in no bucket that could sign for it", track.id),
        ));
    };
    counter!(telemetry::PLAYBACK_FALLBACKS).increment(1);
    let headers = [
        (header::CONTENT_TYPE, "application/vnd.apple.mpegurl"),
        (header::CACHE_CONTROL, "no-store"),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((headers, playlist::single_file(rung, &url)).into_response())
}

/// S3 signs for no longer.
const WEEK: Duration = Duration::from_secs(7 * 86_400);

/// `GET /tracks/{id}/stream`: one file from its start, for players that know no HLS; with `?preview=30` the preview.
#[utoipa::path(
    get, path = "/tracks/{id}/stream", tag = "media", summary = "Play a track as one file",
    security((), ("bearer" = []), ("api_key" = [])),
    params(("id" = String, Path, description = "The id of the track"), ("share" = Option<String>, Query, description = "The token of a share: `sgs_…`"), ("format" = Option<String>, Query, description = "`aac` or `flac`; AAC when nobody says"), ("preview" = Option<String>, Query, description = "`30`: thirty seconds, an encode of its own")),
    responses(
        (status = 200, description = "The file", content_type = "audio/mp4", body = Vec<u8>),
        (status = 302, description = "It is in a bucket; this URL opens it for 15 minutes"),
        OfFile, Offered, Closed
    )
)]
pub(super) async fn stream(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    asked: Query<Asked>,
    Anyone(caller): Anyone,
    ConnectInfo(peer): ConnectInfo<std::net::SocketAddr>,
    (method, headers): (Method, HeaderMap),
) -> Response {
    let preview = match asked.preview.as_deref() {
        None => false,
        Some("30") => true,
        Some(_) => return plain(StatusCode::BAD_REQUEST, "preview is 30\n"),
    };
    let known = match gate::look(&app, &id, caller.as_ref(), asked.share.as_deref()).await {
        Ok(known) => known,
        Err(refused) => return refused.answer(&app),
    };
    let request = (method.clone(), headers.clone());
    if preview {
        return self::preview(&app, &known, request).await.unwrap_or_else(|refused| refused.answer(&app));
    }
    let (response, track) = answer(&app, &known, &asked, request, None).await;
    if let Some(track) = track.filter(|_| method == Method::GET && response.status().as_u16() < 400) {
        plays::count(&app, (track.id, track.duration_s()), caller.as_ref(), (&headers, peer)).await;
    }
    response
}

/// `GET /tracks/{id}/download`: the same file, to be kept.
#[utoipa::path(
    get, path = "/tracks/{id}/download", tag = "media", summary = "Download a track",
    security((), ("bearer" = []), ("api_key" = [])),
    params(("id" = String, Path, description = "The id of the track"), ("share" = Option<String>, Query, description = "The token of a share: `sgs_…`"), ("format" = Option<String>, Query, description = "`aac` or `flac`; AAC when nobody says")),
    responses(
        (status = 200, description = "The file, with its name and its digest", content_type = "audio/mp4", body = Vec<u8>),
        (status = 302, description = "It is in a bucket; this URL opens it for 30 minutes"),
        OfFile, Offered, Closed
    )
)]
pub(super) async fn download(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    asked: Query<Asked>,
    Anyone(caller): Anyone,
    (method, headers): (Method, HeaderMap),
) -> Response {
    match gate::look(&app, &id, caller.as_ref(), asked.share.as_deref()).await {
        Ok(known) => answer(&app, &known, &asked, (method, headers), Some(app.valid.download)).await.0,
        Err(refused) => refused.answer(&app),
    }
}

/// Thirty seconds: of a directory the file, of a bucket a redirect to where it is public. No byte of another encode can
/// be asked for here, whatever the range.
async fn preview(app: &Arc<App>, known: &Known, request: (Method, HeaderMap)) -> Result<Response, Refused> {
    let ground = known.may(Want::Preview)?;
    let track = known.shown(app).await?;
    if !index(app, &track).await?.has_preview() {
        return Err(Refused::NotFound);
    }
    let (store, id, version) = (app.store.clone(), track.id, track.version);
    let caching = gate::caching(ground, HeaderValue::from_static("public, max-age=60"));
    let mut response = match blocking(move || Ok(store.backend_of(id, version))).await? {
        Backend::S3 if known.is_unheard() => {
            let now_s = app.media_clock.unix_s();
            redirect(&app.links.guarded(track.id, track.version, "preview.m4a", now_s)?, caching)
        }
        Backend::S3 => redirect(&app.links.preview(track.id, track.version), caching),
        Backend::Local => beside(app, (&request.0, &request.1), &track, ("preview.m4a", caching)).await,
    };
    let headers = response.headers_mut();
    headers.insert("x-preview-cap-seconds", HeaderValue::from_static("30"));
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("X-Preview-Cap-Seconds"));
    Ok(response)
}

/// `GET /tracks/{id}/waveform`: the small JSON of the version that is shown.
#[utoipa::path(
    get, path = "/tracks/{id}/waveform", tag = "media", summary = "The waveform of a track",
    security((), ("bearer" = []), ("api_key" = [])),
    params(("id" = String, Path, description = "The id of the track"), ("share" = Option<String>, Query, description = "The token of a share: `sgs_…`")),
    responses(
        (status = 200, description = "Peaks, as audiowaveform has them", content_type = "application/json", body = Object),
        (status = 206, description = "The part of it that was asked for", content_type = "application/json", body = String),
        (status = 304, description = "The client has it"),
        Closed
    )
)]
pub(super) async fn waveform(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Query(Shared { share }): Query<Shared>,
    Anyone(caller): Anyone,
    (method, headers): (Method, HeaderMap),
) -> Response {
    let answer = async {
        let known = gate::look(&app, &id, caller.as_ref(), share.as_deref()).await?;
        let ground = known.may(Want::See)?;
        let track = known.shown(&app).await?;
        let caching = gate::caching(ground, HeaderValue::from_static("public, max-age=60"));
        Ok::<_, Refused>(beside(&app, (&method, &headers), &track, ("peaks.json", caching)).await)
    };
    answer.await.unwrap_or_else(|refused| refused.answer(&app))
}

async fn answer(
    app: &Arc<App>,
    known: &Known,
    asked: &Asked,
    request: (Method, HeaderMap),
    download: Option<Duration>,
) -> (Response, Option<Track>) {
    let family = match asked.format.as_deref() {
        None | Some("aac") => Family::Aac,
        Some("flac") => Family::Flac,
        Some(_) => return (plain(StatusCode::BAD_REQUEST, "format is aac or flac\n"), None),
    };
    let ground = match known.may(Want::Play) {
        Ok(ground) => ground,
        Err(refused) => return (refused.answer(app), None),
    };
    let track = match known.shown(app).await {
        Ok(track) => track,
        Err(refused) => return (refused.answer(app), None),
    };
    match file(app, (&track, ground), family, request, download).await {
        Ok(response) => (response, Some(track)),
        Err(error) => (refuse(&error), None),
    }
}

async fn file(
    app: &Arc<App>,
    (track, ground): (&Track, Ground),
    family: Family,
    (method, headers): (Method, HeaderMap),
    download: Option<Duration>,
) -> Result<Response> {
    let index = index(app, track).await?;
    let rung = match (chosen(&index, family), family) {
        // A version without AAC is played by whoever plays what it has.
        (None, Family::Aac) => index.rungs.first(),
        (rung, _) => rung,
    };
    let rung = rung.ok_or_else(|| Error::not_found("there is no such format"))?;
    let disposition = download.map(|_| content_disposition(&track.title, ending(rung.family)));
    let shown = Shown {
        head: method == Method::HEAD,
        disposition: disposition.clone(),
        content_type: Some("audio/mp4".into()), // by its meaning, whatever the object says
    };
    let valid = download.unwrap_or(app.valid.stream);
    // The name is the track's, and what it shows may change.
    let caching = gate::caching(ground, HeaderValue::from_static("public, max-age=60"));
    if let Some(url) = presigned(app, track, &rung.object, valid, shown).await? {
        // Kept for a minute only, and not at all when it would not live much longer.
        let caching = if valid.as_secs() >= 300 { caching } else { HeaderValue::from_static("no-store") };
        return Ok(redirect(&url, caching));
    }
    let mut response = beside(app, (&method, &headers), track, (&rung.object.name, caching)).await;
    if response.status().is_success() || response.status() == StatusCode::NOT_MODIFIED {
        let ascii = |text: String| HeaderValue::try_from(text).expect("made of ASCII");
        if let Some(disposition) = disposition {
            response.headers_mut().insert(header::CONTENT_DISPOSITION, ascii(disposition));
        }
        if let Some(digest) = repr_digest(&rung.object) {
            response.headers_mut().insert("repr-digest", ascii(digest));
        }
    }
    Ok(response)
}

/// An object of the version that a track shows, with its body beside the answer: no byte of it is copied.
async fn beside(
    app: &App,
    (method, headers): (&Method, &HeaderMap),
    track: &Track,
    (name, caching): (&str, HeaderValue),
) -> Response {
    let (mut parts, body) = app.origin.file((method, headers), (track.id, track.version), name).await.into_parts();
    if parts.status.is_success() || parts.status == StatusCode::NOT_MODIFIED {
        parts.headers.insert(header::CACHE_CONTROL, caching);
    }
    // axum would say that the body beside it is empty.
    if let Some(length) = body.size_hint().exact().filter(|_| parts.status.is_success()) {
        parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    parts.extensions.insert(Beside::new(body));
    Response::from_parts(parts, Body::empty())
}

/// RFC 9530 §3: of the whole file, also when only a part of it is sent.
fn repr_digest(object: &Object) -> Option<String> {
    let sha256 = hex::decode::<32>(object.sha256.as_bytes())?;
    Some(format!("sha-256=:{}:", STANDARD.encode(sha256)))
}

/// The best rung of a family.
fn chosen(index: &VersionIndex, family: Family) -> Option<&Rung> {
    index.rungs.iter().filter(|rung| rung.family == family).max_by_key(|rung| rung.average_bps)
}

fn ending(family: Family) -> &'static str {
    match family {
        Family::Aac => "m4a",
        Family::Flac | Family::Video => "mp4",
    }
}

pub(super) async fn index(app: &Arc<App>, track: &Track) -> Result<VersionIndex> {
    let (store, id, version) = (app.store.clone(), track.id, track.version);
    blocking(move || VersionIndex::decode_as(version, &store.read_version(id, version)?)).await
}

#[cfg(feature = "s3")]
use crate::store::s3::Shown;

/// A URL that the bucket signs; `None` for a track that is in the directory.
#[cfg(feature = "s3")]
async fn presigned(
    app: &Arc<App>,
    track: &Track,
    object: &Object,
    valid: Duration,
    shown: Shown,
) -> Result<Option<String>> {
    let (store, id, version, name) = (app.store.clone(), track.id, track.version, object.name.clone());
    blocking(move || match (store.remote(), store.backend_of(id, version)) {
        (Some(remote), Backend::S3) => remote.presign((id, version), &name, valid, shown).map(Some),
        _ => Ok(None),
    })
    .await
}

#[cfg(not(feature = "s3"))]
#[derive(Default)]
struct Shown {
    head: bool,
    disposition: Option<String>,
    content_type: Option<String>,
}

#[cfg(not(feature = "s3"))]
async fn presigned(_: &Arc<App>, _: &Track, _: &Object, _: Duration, shown: Shown) -> Result<Option<String>> {
    let (_, Shown { head: _, disposition: _, content_type: _ }) = (Backend::Local, shown);
    Ok(None)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|cause| Error::internal("a request was stopped").because(cause))?
}

/// RFC 8187 §3.2.1: what needs no escape.
const ATTR_CHAR: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');
/// The longest name of a file that every file system takes, in bytes, without its ending.
const NAME_BYTES_MAX: usize = 200;

/// What a download is called: in ASCII for old clients, and in full (RFC 6266 §4.3, RFC 8187). A title is somebody's
/// text: it names no directory and hides no ending.
fn content_disposition(title: &str, ending: &str) -> String {
    let mut name: String =
        title
            .chars()
            .map(|c| {
                if c.is_control() || matches!(c, '/' | '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|') {
                    '_'
                } else {
                    c
                }
            })
            .collect();
    let mut end = name.len().min(NAME_BYTES_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name.truncate(end);
    let name = name.trim_matches([' ', '.']);
    let name = if name.is_empty() { "track" } else { name };
    // `%` too: some clients decode what is no escape.
    let ascii: String = name.chars().map(|c| if c.is_ascii() && c != '%' { c } else { '_' }).collect();
    let full = format!("{name}.{ending}");
    let extended = utf8_percent_encode(&full, ATTR_CHAR);
    format!("attachment; filename=\"{ascii}.{ending}\"; filename*=UTF-8''{extended}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_never_shows_an_alias_whose_token_has_expired() {
        let check = |ttl_s, expected| assert_eq!(alias_caching(ttl_s), expected);
        check(None, "public, max-age=60, stale-while-revalidate=600, stale-if-error=3600");
        check(Some(21_600), "public, max-age=60, stale-while-revalidate=600, stale-if-error=3600");
        check(Some(3_600), "public, max-age=60, stale-while-revalidate=600, stale-if-error=1740");
        check(Some(60), "public, max-age=60, stale-while-revalidate=0, stale-if-error=0");
    }

    /// RFC 6266 §4.3 and appendix D: a quoted form for everybody, an extended one for what ASCII has not.
    #[test]
    fn a_download_is_called_what_its_track_is() {
        let check = |title: &str, expected: &str| assert_eq!(content_disposition(title, "m4a"), expected, "{title:?}");
        check("First light", "attachment; filename=\"First light.m4a\"; filename*=UTF-8''First%20light.m4a");
        check("Ça & là", "attachment; filename=\"_a & l_.m4a\"; filename*=UTF-8''%C3%87a%20&%20l%C3%A0.m4a");
        check("\"; x=\"", "attachment; filename=\"_; x=_.m4a\"; filename*=UTF-8''_%3B%20x%3D_.m4a");
        check("../etc/passwd\r\n", "attachment; filename=\"_etc_passwd__.m4a\"; filename*=UTF-8''_etc_passwd__.m4a");
        check(" .. ", "attachment; filename=\"track.m4a\"; filename*=UTF-8''track.m4a");
        check("100%", "attachment; filename=\"100_.m4a\"; filename*=UTF-8''100%25.m4a");
        let long = content_disposition(&"é".repeat(300), "m4a");
        assert!(long.contains(&format!("filename=\"{}.m4a\"", "_".repeat(100))), "{long}");
    }
}
