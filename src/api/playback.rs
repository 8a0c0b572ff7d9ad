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
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::body::Body as _;
use metrics::counter;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::{App, blocked, find, plain, redirect, refuse, refuse_blocked};
use crate::base::{Error, Kind, Result, hex, telemetry};
use crate::hls::playlist::{self, Scope};
use crate::hls::version::{Family, Object, Rung, VersionIndex};
use crate::server::Beside;
use crate::store::Backend;
use crate::tracks::Track;

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
}

/// `GET /tracks/{id}/master.m3u8`: the stable name of whatever version the track shows now.
pub(super) async fn alias(State(app): State<Arc<App>>, Path(id): Path<String>) -> Response {
    if let Some(track) = blocked(&app, &id) {
        return refuse_blocked(&app, track);
    }
    let track = match find(&app, &id).await {
        Ok(track) => track,
        Err(error) => return refuse(&error),
    };
    let scope = if track.video { Scope::Video } else { Scope::Aac };
    match app.links.master(track.id, track.version, scope, app.clock.unix_s()) {
        Ok(url) => redirect(&url, alias_caching(app.links.ttl_s())),
        Err(error) => {
            tracing::error!(error = error.chain(), "a playback URL cannot be signed; correct origin.keys and restart");
            from_bucket(&app, &track).await.unwrap_or_else(|error| refuse(&error))
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

/// `GET /tracks/{id}/stream`: one file from its start, for players that know no HLS.
pub(super) async fn stream(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    asked: Query<Asked>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    answer(&app, &id, &asked, (method, headers), None).await
}

/// `GET /tracks/{id}/download`: the same file, to be kept.
pub(super) async fn download(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    asked: Query<Asked>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    answer(&app, &id, &asked, (method, headers), Some(app.valid.download)).await
}

async fn answer(
    app: &Arc<App>,
    id: &str,
    asked: &Asked,
    request: (Method, HeaderMap),
    download: Option<Duration>,
) -> Response {
    if let Some(track) = blocked(app, id) {
        return refuse_blocked(app, track);
    }
    let family = match asked.format.as_deref() {
        None | Some("aac") => Family::Aac,
        Some("flac") => Family::Flac,
        Some(_) => return plain(StatusCode::BAD_REQUEST, "format is aac or flac\n"),
    };
    match file(app, id, family, request, download).await {
        Ok(response) => response,
        Err(error) => refuse(&error),
    }
}

async fn file(
    app: &Arc<App>,
    id: &str,
    family: Family,
    (method, headers): (Method, HeaderMap),
    download: Option<Duration>,
) -> Result<Response> {
    let track = find(app, id).await?;
    let index = index(app, &track).await?;
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
    if let Some(url) = presigned(app, &track, &rung.object, valid, shown).await? {
        // Kept for a minute only, and not at all when it would not live much longer.
        let caching = if valid.as_secs() >= 300 { "public, max-age=60" } else { "no-store" };
        return Ok(redirect(&url, HeaderValue::from_static(caching)));
    }
    let key = (track.id, track.version);
    let (mut parts, body) = app.origin.file((&method, &headers), key, &rung.object.name).await.into_parts();
    if parts.status.is_success() || parts.status == StatusCode::NOT_MODIFIED {
        // The name is the track's, and what it shows may change.
        parts.headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=60"));
        let ascii = |text: String| HeaderValue::try_from(text).expect("made of ASCII");
        if let Some(disposition) = disposition {
            parts.headers.insert(header::CONTENT_DISPOSITION, ascii(disposition));
        }
        if let Some(digest) = repr_digest(&rung.object) {
            parts.headers.insert("repr-digest", ascii(digest));
        }
    }
    // axum would say that the body beside it is empty.
    if let Some(length) = body.size_hint().exact().filter(|_| parts.status.is_success()) {
        parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    parts.extensions.insert(Beside::new(body));
    Ok(Response::from_parts(parts, Body::empty()))
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

async fn index(app: &Arc<App>, track: &Track) -> Result<VersionIndex> {
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
