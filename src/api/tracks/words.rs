//! What belongs to a track and is neither its sound nor its picture: its words, and how often it is heard.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::super::App;
use super::super::caller::{Anyone, Caller};
use super::super::gate::{self, Shared};
use super::super::openapi::ProblemDocument;
use super::super::plays;
use super::super::problem::Problem;
use super::super::transcodes::{no_store, wrong_query};
use super::described::{LyricsView, StatsView};
use super::{Answer, find_own, own, problem};
use crate::api::sent::{self, Raw};
use crate::base::clock::rfc3339;
use crate::db::tracks::Lyrics;
use crate::tracks::access::Want;
use crate::tracks::listener;

/// The longest words of a track, in bytes: those of an opera.
const LYRICS_BYTES_MAX: usize = 64 << 10;

/// The words of a track, to be set.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = NewLyrics)]
#[serde(deny_unknown_fields)]
pub(super) struct Words {
    text: String,
    #[serde(default)]
    language: Option<String>,
}

/// `GET /api/v1/tracks/{id}/lyrics`: to whoever may know of the track.
#[utoipa::path(
    get,
    path = "/api/v1/tracks/{id}/lyrics",
    tag = "tracks",
    summary = "The words",
    security((), ("bearer" = []), ("api_key" = [])),
    params(("id" = String, Path, description = "The id of the track"), ("share" = Option<String>, Query, description = "The token of a share: `sgs_…`")),
    responses((status = 200, description = "The words", body = LyricsView), (status = 404, description = "There is none that they may know of", body = ProblemDocument), (status = 451, description = "A legal demand has closed it", body = ProblemDocument))
)]
pub(super) async fn lyrics(
    State(app): State<Arc<App>>,
    Anyone(caller): Anyone,
    Path(id): Path<String>,
    shared: Result<Query<Shared>, QueryRejection>,
) -> Answer {
    let Query(Shared { share }) = shared.map_err(|cause| wrong_query(&cause))?;
    let known = gate::look(&app, &id, caller.as_ref(), share.as_deref()).await.map_err(problem)?;
    if let Err(refused) = known.may(Want::See) {
        return Ok(refused.problem(&app));
    }
    let words = app.db.lyrics(known.id).await?.ok_or_else(Problem::not_found)?;
    Ok(no_store(axum::Json(view(&words)).into_response()))
}

/// `PUT /api/v1/tracks/{id}/lyrics` with `{"text":"…","language":"en"}`.
#[utoipa::path(
    put,
    path = "/api/v1/tracks/{id}/lyrics",
    tag = "tracks",
    summary = "Set the words",
    security(("bearer" = []), ("api_key" = [])),
    params(("id" = String, Path, description = "The id of the track")),
    request_body = Words,
    responses((status = 200, description = "The words", body = LyricsView), (status = 400, description = "The body cannot be read", body = ProblemDocument), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 404, description = "There is no such track of theirs", body = ProblemDocument), (status = 422, description = "It cannot be done like that", body = ProblemDocument))
)]
pub(super) async fn set_lyrics(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    body: Raw,
) -> Answer {
    let known = own(&app, &id, &caller).await?;
    let Words { text, language } = sent::json_of(body)?;
    if text.trim().is_empty()
        || text.len() > LYRICS_BYTES_MAX
        || text.chars().any(|c| c.is_control() && !"\n\r\t".contains(c))
    {
        let detail = format!("text has 1 to {LYRICS_BYTES_MAX} bytes and no control characters but line breaks");
        return Err(Problem::unprocessable("lyrics", "The words cannot be used", detail));
    }
    let is_tag =
        |tag: &String| (2..=35).contains(&tag.len()) && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if !language.as_ref().is_none_or(is_tag) {
        let detail = "language is a BCP 47 tag such as en or pt-BR";
        return Err(Problem::unprocessable("language", "The language cannot be used", detail));
    }
    let synced = is_synced(&text);
    let words = Lyrics { text, synced, language, updated_us: app.clock.unix_us() };
    app.db.set_lyrics(known.id, Some(&words)).await?;
    Ok(no_store(axum::Json(view(&words)).into_response()))
}

/// `DELETE /api/v1/tracks/{id}/lyrics`.
#[utoipa::path(
    delete,
    path = "/api/v1/tracks/{id}/lyrics",
    tag = "tracks",
    summary = "Remove the words",
    security(("bearer" = []), ("api_key" = [])),
    params(("id" = String, Path, description = "The id of the track")),
    responses((status = 204, description = "They are gone"), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 404, description = "There is no such track of theirs", body = ProblemDocument))
)]
pub(super) async fn remove_lyrics(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Path(id): Path<String>,
) -> Answer {
    let known = own(&app, &id, &caller).await?;
    app.db.set_lyrics(known.id, None).await?;
    Ok(no_store(StatusCode::NO_CONTENT.into_response()))
}

fn view(words: &Lyrics) -> Value {
    json!({
        "text": words.text,
        "synced": words.synced,
        "language": words.language,
        "updated_at": rfc3339(words.updated_us),
    })
}

/// Whether every line that says something begins with a time: `[01:23.45]`.
fn is_synced(text: &str) -> bool {
    let timed = |line: &str| {
        let Some((time, _)) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')) else { return false };
        let Some((minutes, seconds)) = time.split_once(':') else { return false };
        minutes.bytes().all(|b| b.is_ascii_digit())
            && !minutes.is_empty()
            && seconds.parse::<f64>().is_ok_and(|s| (0.0..60.0).contains(&s))
    };
    text.lines().map(str::trim).filter(|line| !line.is_empty()).all(timed)
}

#[derive(Debug, Deserialize)]
pub(super) struct Span {
    days: Option<i64>,
}

/// `GET /api/v1/tracks/{id}/stats?days=30`: to its owner.
#[utoipa::path(
    get,
    path = "/api/v1/tracks/{id}/stats",
    tag = "tracks",
    summary = "How often it is heard",
    security(("bearer" = []), ("api_key" = [])),
    params(("id" = String, Path, description = "The id of the track"), ("days" = Option<i64>, Query, description = "1 to 366; 30 when nobody says")),
    responses((status = 200, description = "Plays by day", body = StatsView), (status = 400, description = "The query cannot be read", body = ProblemDocument), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 404, description = "There is no such track of theirs", body = ProblemDocument))
)]
pub(super) async fn stats(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    span: Result<Query<Span>, QueryRejection>,
) -> Answer {
    let Query(Span { days }) = span.map_err(|cause| wrong_query(&cause))?;
    let known = find_own(&app, &id, &caller).await?;
    let days = days.unwrap_or(30).clamp(1, 366);
    let today = listener::day(app.clock.unix_us());
    let stats = app.db.track_stats(known.id, today - days + 1).await?;
    let date = |day: i64| rfc3339(day * 86_400_000_000)[..10].to_owned();
    let items: Vec<Value> = stats
        .days
        .iter()
        .map(|one| json!({ "day": date(one.day), "plays": one.plays, "listeners": one.listeners }))
        .collect();
    Ok(no_store(axum::Json(json!({ "plays": stats.plays, "days": items })).into_response()))
}

/// `POST /api/v1/tracks/{id}/plays`: a player says that somebody listens. Counted once per listener and playback, so that
/// saying it again changes nothing; the answer is the same either way.
#[utoipa::path(
    post,
    path = "/api/v1/tracks/{id}/plays",
    tag = "tracks",
    summary = "Somebody listens",
    security((), ("bearer" = []), ("api_key" = [])),
    params(("id" = String, Path, description = "The id of the track"), ("share" = Option<String>, Query, description = "The token of a share: `sgs_…`")),
    responses((status = 204, description = "It is counted once per listener and playback"), (status = 401, description = "Log in if you have bought it", body = ProblemDocument), (status = 402, description = "It costs something", body = ProblemDocument), (status = 404, description = "There is none that they may know of", body = ProblemDocument), (status = 451, description = "A legal demand has closed it", body = ProblemDocument))
)]
pub(super) async fn played(
    State(app): State<Arc<App>>,
    Anyone(caller): Anyone,
    Path(id): Path<String>,
    shared: Result<Query<Shared>, QueryRejection>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Answer {
    let Query(Shared { share }) = shared.map_err(|cause| wrong_query(&cause))?;
    let known = gate::look(&app, &id, caller.as_ref(), share.as_deref()).await.map_err(problem)?;
    if let Err(refused) = known.may(Want::Play) {
        return Ok(refused.problem(&app));
    }
    let length_s = match known.row.as_ref().and_then(|row| row.duration_s()) {
        Some(length_s) => length_s,
        None => known.shown(&app).await.map_err(problem)?.duration_s(),
    };
    plays::count(&app, (known.id, length_s), caller.as_ref(), (&headers, peer)).await;
    Ok(no_store(StatusCode::NO_CONTENT.into_response()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_with_a_time_before_each_line_are_synced() {
        for (text, synced) in [
            ("[00:01.20] La\n[00:02] la", true),
            ("[00:01.20] La\n\n[00:02.5] la\n", true),
            ("La la", false),
            ("[00:01] La\nla", false),
            ("[0a:01] La", false),
            ("[00:61] La", false),
            ("[00:-1] La", false),
        ] {
            assert_eq!(is_synced(text), synced, "{text}");
        }
    }
}
