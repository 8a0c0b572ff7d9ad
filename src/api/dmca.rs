//! Notices of infringement: anybody sends one, admins rule on it. In: the six elements of 17 USC 512(c)(3). Out: a
//! receipt; and a track that is dark everywhere, or back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::caller::Caller;
use super::openapi::ProblemDocument;
use super::problem::Problem;
use super::sent::{self, BodyType, Raw, body};
use super::tracks::described::{CounterView, FiledList, FiledView, NoticeView, ReceiptView, StandingView};
use super::tracks::{Answer, Checked};
use super::transcodes::{no_store, wrong_query};
use crate::auth::principal::Principal;
use crate::base::clock::rfc3339;
use crate::base::id::TrackId;
use crate::catalogue;
use crate::db::dmca::{self as rows, By, Filed, PAGE_MAX, Ruled};
use crate::origin::blocks::Standing as Seen;
use crate::tracks::dmca::{Counter, FIELD_CHARS_MAX, Notice, NoticeId, Standing};

/// The largest notice, in bytes.
const BODY_BYTES_MAX: usize = 64 << 10;
/// How long a takedown waits until this process's own origin is dark, before it answers.
const DARK_WAIT: Duration = Duration::from_secs(3);

/// The routes and what they say of themselves, without what they need.
pub(super) fn described() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(notice))
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(take_down))
        .routes(routes!(dismiss))
        .routes(routes!(dispute))
        .routes(routes!(uphold))
        .routes(routes!(restore))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
}

/// What its routes read.
pub(super) const BODIES: &[BodyType] = &[
    body::<Ruling>("Ruling"),
    // Fields that are missing are told apart from those that cannot be read: behind the reading.
    ("Notice", |bytes| sent::json::<Notice>(bytes).is_ok_and(|notice| notice.is_identifiable())),
    ("CounterNotice", |bytes| sent::json::<Counter>(bytes).is_ok_and(|counter| counter.missing().is_empty())),
];

/// `POST /api/v1/dmca/notice`: from anybody. What names no track of ours is kept all the same, in the same words.
#[utoipa::path(
    post,
    path = "/api/v1/dmca/notice",
    tag = "dmca",
    summary = "Say that a track infringes a copyright",
    security(()),
    request_body = NoticeView,
    responses((status = 201, description = "It is kept; with what is missing", body = ReceiptView), (status = 400, description = "A statement is not true, or nobody could tell what is meant", body = ProblemDocument), (status = 413, description = "It is too large", body = ProblemDocument))
)]
async fn notice(State(app): State<Arc<App>>, body: Raw) -> Answer {
    let notice: Notice = sent::json_of(body)?;
    let bad = |name, detail: String| Problem::new(StatusCode::BAD_REQUEST, name, "The notice cannot be taken", detail);
    if let Some(field) = notice.too_long() {
        return Err(bad("notice-too-long", format!("{field} has more than {FIELD_CHARS_MAX} characters")));
    }
    // Not a matter of completing it: without these there is nothing that the law calls a notice (512(c)(3)(A)(v), (vi)).
    for (given, field) in
        [(notice.sworn_statement, "sworn_statement"), (notice.good_faith_statement, "good_faith_statement")]
    {
        if !given {
            return Err(bad(
                "statement-missing",
                format!("{field} has to be true, and true (17 USC 512(c)(3), 512(f))"),
            ));
        }
    }
    if !notice.is_identifiable() {
        let detail = "give at least the work, its location on this server, and a mail address to ask for the rest";
        return Err(bad("notice-unidentifiable", detail.into()));
    }
    let by = By { actor: "public", now_us: app.clock.unix_us() };
    let track = match located(&notice.location) {
        Some(id) => app.db.track(id).await?.map(|row| row.id),
        None => None,
    };
    let filed = app.db.file_notice(&notice, track, by).await?;
    let body = json!({
        "id": filed.id,
        "standing": filed.standing,
        "missing": filed.notice.missing(),
        "received_at": rfc3339(filed.received_us),
    });
    Ok(no_store((StatusCode::CREATED, axum::Json(body)).into_response()))
}

/// The track that a location means: an id, or an address with one behind `watch`, `track` or `tracks`.
fn located(location: &str) -> Option<TrackId> {
    let location = location.trim();
    let path = location.split(['?', '#']).next().unwrap_or_default();
    let mut parts = path.split('/').peekable();
    while let Some(part) = parts.next() {
        if matches!(part, "watch" | "track" | "tracks") {
            return parts.peek().and_then(|id| TrackId::decode(id));
        }
    }
    TrackId::decode(path).filter(|id| id.as_str().starts_with("trk_"))
}

#[derive(Debug, Deserialize)]
struct Page {
    standing: Option<String>,
    before: Option<String>,
    limit: Option<u32>,
}

/// `GET /api/v1/admin/dmca/notices?standing=&before=&limit=`: the latest first.
#[utoipa::path(
    get,
    path = "/api/v1/admin/dmca/notices",
    tag = "admin",
    summary = "Notices",
    security(("bearer" = [])),
    params(("standing" = Option<StandingView>, Query), ("before" = Option<String>, Query, description = "What `next` of the page before says"), ("limit" = Option<u32>, Query, description = "1 to 200; 50 when nobody says")),
    responses((status = 200, description = "The latest first", body = FiledList), (status = 400, description = "The query cannot be read", body = ProblemDocument), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 403, description = "Only admins with a second factor may do this", body = ProblemDocument))
)]
async fn list(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    page: Result<Query<Page>, QueryRejection>,
) -> Answer {
    admin(&caller)?;
    let Query(page) = page.map_err(|cause| wrong_query(&cause))?;
    let wrong =
        |detail: String| Problem::new(StatusCode::BAD_REQUEST, "query-invalid", "The query cannot be read", detail);
    let standing = page.standing.as_deref().map(|text| {
        let all = Standing::ALL.map(Standing::as_str).join(", ");
        Standing::decode(text).ok_or_else(|| wrong(format!("standing is one of {all}")))
    });
    let before =
        page.before.as_deref().map(|text| NoticeId::decode(text).ok_or_else(|| wrong("before is an id".into())));
    let limit = page.limit.unwrap_or(50).clamp(1, PAGE_MAX);
    let found = app.db.notices(standing.transpose()?, before.transpose()?.as_ref(), limit).await?;
    let next = (found.len() == limit as usize).then(|| found.last().map(|filed| filed.id.clone())).flatten();
    let items: Vec<Value> = found.iter().map(view).collect();
    Ok(no_store(axum::Json(json!({ "items": items, "next": next })).into_response()))
}

/// `GET /api/v1/admin/dmca/notices/{id}`: with everything that was done about it.
#[utoipa::path(
    get,
    path = "/api/v1/admin/dmca/notices/{id}",
    tag = "admin",
    summary = "One notice, with all that was done about it",
    security(("bearer" = [])),
    params(("id" = String, Path, description = "The id of the notice")),
    responses((status = 200, description = "The notice", body = FiledView), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 403, description = "Only admins with a second factor may do this", body = ProblemDocument), (status = 404, description = "There is no such notice", body = ProblemDocument))
)]
async fn show(State(app): State<Arc<App>>, Caller(caller): Caller, Path(id): Path<String>) -> Answer {
    admin(&caller)?;
    let id = NoticeId::decode(&id).ok_or_else(Problem::not_found)?;
    let filed = app.db.notice(&id).await?.ok_or_else(Problem::not_found)?;
    let log = app.db.audited(id.as_str()).await?;
    let mut body = view(&filed);
    body["log"] = log
        .iter()
        .map(|line| json!({ "at": rfc3339(line.at_us), "actor": line.actor, "action": line.action, "data": line.body }))
        .collect();
    Ok(no_store(axum::Json(body).into_response()))
}

/// What an admin says of a notice.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
struct Ruling {
    /// Which track is meant, when the notice does not say it so that a program understands.
    #[schema(value_type = Option<String>)]
    track: Option<TrackId>,
    /// Why.
    reason: Option<String>,
}

impl Ruling {
    fn of(body: Raw) -> Checked<Ruling> {
        let nothing = body.as_ref().is_ok_and(axum::body::Bytes::is_empty);
        let ruling: Ruling = if nothing { Ruling::default() } else { sent::json_of(body)? };
        match &ruling.reason {
            Some(reason) if reason.trim().is_empty() || reason.chars().count() > FIELD_CHARS_MAX => {
                let detail = format!("a reason has 1 to {FIELD_CHARS_MAX} characters");
                Err(Problem::unprocessable("reason", "The reason cannot be used", detail))
            }
            _ => Ok(ruling),
        }
    }

    fn reason(&self) -> Checked<&str> {
        let missing = || Problem::unprocessable("reason", "A reason is needed", "say why; it is kept for good");
        self.reason.as_deref().ok_or_else(missing)
    }
}

/// `POST …/takedown`, answered when this server is dark; the others are within the same two seconds.
#[utoipa::path(
    post,
    path = "/api/v1/admin/dmca/notices/{id}/takedown",
    tag = "admin",
    summary = "Close its track",
    security(("bearer" = [])),
    params(("id" = String, Path, description = "The id of the notice")),
    request_body = Option<Ruling>,
    responses((status = 200, description = "The track is dark", body = FiledView), (status = 400, description = "The body cannot be read", body = ProblemDocument), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 403, description = "Only admins with a second factor may do this", body = ProblemDocument), (status = 404, description = "There is no such notice", body = ProblemDocument), (status = 409, description = "It does not stand so that this could be done", body = ProblemDocument), (status = 410, description = "The track is gone", body = ProblemDocument), (status = 422, description = "It cannot be done like that", body = ProblemDocument))
)]
async fn take_down(State(app): State<Arc<App>>, Caller(caller): Caller, Path(id): Path<String>, body: Raw) -> Answer {
    let (id, by) = ruling(&app, &caller, &id)?;
    let Ruling { track, .. } = Ruling::of(body)?;
    let purge_due_us = app.purges.then_some(by.now_us + super::DARK_US);
    let begun = Instant::now();
    let ruled = catalogue::take_down((&app.db, &app.store), &id, track, purge_due_us, by).await?;
    let filed = done(ruled)?;
    let mut dark_after_ms = None;
    while let Some(track) = filed.track
        && begun.elapsed() < DARK_WAIT
    {
        if app.blocks.standing(track) == Seen::Blocked {
            dark_after_ms = Some(begun.elapsed().as_millis() as u64);
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut body = view(&filed);
    body["dark_after_ms"] = json!(dark_after_ms);
    Ok(no_store(axum::Json(body).into_response()))
}

/// `POST …/dismiss` with `{"reason":"…"}`.
#[utoipa::path(
    post,
    path = "/api/v1/admin/dmca/notices/{id}/dismiss",
    tag = "admin",
    summary = "Find that it is no notice",
    security(("bearer" = [])),
    params(("id" = String, Path, description = "The id of the notice")),
    request_body = Option<Ruling>,
    responses((status = 200, description = "It is closed", body = FiledView), (status = 400, description = "The body cannot be read", body = ProblemDocument), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 403, description = "Only admins with a second factor may do this", body = ProblemDocument), (status = 404, description = "There is no such notice", body = ProblemDocument), (status = 409, description = "It does not stand so that this could be done", body = ProblemDocument), (status = 422, description = "It cannot be done like that", body = ProblemDocument))
)]
async fn dismiss(State(app): State<Arc<App>>, Caller(caller): Caller, Path(id): Path<String>, body: Raw) -> Answer {
    let (id, by) = ruling(&app, &caller, &id)?;
    let ruling = Ruling::of(body)?;
    let mut tx = app.db.begin().await?;
    let ruled = rows::dismiss(&mut tx, &id, ruling.reason()?, by).await?;
    tx.commit().await?;
    Ok(no_store(axum::Json(view(&done(ruled)?)).into_response()))
}

/// `POST …/counter-notice` with the elements of 512(g)(3): the track is back after ten business days.
#[utoipa::path(
    post,
    path = "/api/v1/admin/dmca/notices/{id}/counter-notice",
    tag = "admin",
    summary = "Take a counter-notice",
    security(("bearer" = [])),
    params(("id" = String, Path, description = "The id of the notice")),
    request_body = CounterView,
    responses((status = 200, description = "The clock of 512(g)(2)(C) runs", body = FiledView), (status = 400, description = "The body cannot be read", body = ProblemDocument), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 403, description = "Only admins with a second factor may do this", body = ProblemDocument), (status = 404, description = "There is no such notice", body = ProblemDocument), (status = 409, description = "It does not stand so that this could be done", body = ProblemDocument), (status = 422, description = "It cannot be done like that", body = ProblemDocument))
)]
async fn dispute(State(app): State<Arc<App>>, Caller(caller): Caller, Path(id): Path<String>, body: Raw) -> Answer {
    let (id, by) = ruling(&app, &caller, &id)?;
    let counter: Counter = sent::json_of(body)?;
    let missing = counter.missing();
    if !missing.is_empty() || !counter.fits() {
        let detail = match missing.is_empty() {
            true => format!("a field has more than {FIELD_CHARS_MAX} characters"),
            false => format!("{} is missing (17 USC 512(g)(3))", missing.join(", ")),
        };
        return Err(Problem::unprocessable("counter-notice", "The counter-notice cannot be taken", detail));
    }
    let mut tx = app.db.begin().await?;
    let ruled = rows::dispute(&mut tx, &id, &counter, by).await?;
    tx.commit().await?;
    Ok(no_store(axum::Json(view(&done(ruled)?)).into_response()))
}

/// `POST …/court-action` with `{"reason":"…"}`: the complainant went to court, so the track stays dark.
#[utoipa::path(
    post,
    path = "/api/v1/admin/dmca/notices/{id}/court-action",
    tag = "admin",
    summary = "Hear that a court was asked",
    security(("bearer" = [])),
    params(("id" = String, Path, description = "The id of the notice")),
    request_body = Option<Ruling>,
    responses((status = 200, description = "The track stays dark", body = FiledView), (status = 400, description = "The body cannot be read", body = ProblemDocument), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 403, description = "Only admins with a second factor may do this", body = ProblemDocument), (status = 404, description = "There is no such notice", body = ProblemDocument), (status = 409, description = "It does not stand so that this could be done", body = ProblemDocument), (status = 422, description = "It cannot be done like that", body = ProblemDocument))
)]
async fn uphold(State(app): State<Arc<App>>, Caller(caller): Caller, Path(id): Path<String>, body: Raw) -> Answer {
    let (id, by) = ruling(&app, &caller, &id)?;
    let ruling = Ruling::of(body)?;
    let mut tx = app.db.begin().await?;
    let ruled = rows::uphold(&mut tx, &id, ruling.reason()?, by).await?;
    tx.commit().await?;
    Ok(no_store(axum::Json(view(&done(ruled)?)).into_response()))
}

/// `POST …/restore`: when the clock says so; with a reason at once, because the complainant withdrew or a court decided.
#[utoipa::path(
    post,
    path = "/api/v1/admin/dmca/notices/{id}/restore",
    tag = "admin",
    summary = "Put its track back",
    security(("bearer" = [])),
    params(("id" = String, Path, description = "The id of the notice")),
    request_body = Option<Ruling>,
    responses((status = 200, description = "The track is back, unless another notice keeps it dark", body = FiledView), (status = 400, description = "The body cannot be read", body = ProblemDocument), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 403, description = "Only admins with a second factor may do this", body = ProblemDocument), (status = 404, description = "There is no such notice", body = ProblemDocument), (status = 409, description = "It does not stand so that this could be done", body = ProblemDocument), (status = 422, description = "It cannot be done like that", body = ProblemDocument))
)]
async fn restore(State(app): State<Arc<App>>, Caller(caller): Caller, Path(id): Path<String>, body: Raw) -> Answer {
    let (id, by) = ruling(&app, &caller, &id)?;
    let ruling = Ruling::of(body)?;
    let ruled = catalogue::put_back((&app.db, &app.store), &id, ruling.reason.as_deref(), by).await?;
    Ok(no_store(axum::Json(view(&done(ruled)?)).into_response()))
}

fn ruling<'a>(app: &App, caller: &'a Principal, id: &str) -> Checked<(NoticeId, By<'a>)> {
    admin(caller)?;
    let id = NoticeId::decode(id).ok_or_else(Problem::not_found)?;
    Ok((id, By { actor: &caller.subject, now_us: app.clock.unix_us() }))
}

fn done(ruled: Ruled) -> Checked<Filed> {
    let conflict = |detail: String| {
        Problem::new(StatusCode::CONFLICT, "standing", "The notice does not stand so that this could be done", detail)
    };
    match ruled {
        Ruled::Done(filed) => Ok(*filed),
        Ruled::Not(standing) => Err(conflict(format!("it is {}", standing.as_str()))),
        Ruled::TooEarly(from_us) => {
            let from = rfc3339(from_us);
            Err(conflict(format!(
                "not before {from} (17 USC 512(g)(2)(C)), unless the complainant withdrew: give a reason"
            )))
        }
        Ruled::NoTrack => {
            let detail = "say which: {\"track\":\"trk_…\"}";
            Err(Problem::unprocessable("track", "The notice does not say which track it means", detail))
        }
        Ruled::Gone => {
            let detail = "its owner deleted it; dismiss the notice";
            Err(Problem::new(StatusCode::GONE, "track-gone", "The track is gone", detail))
        }
        Ruled::Unknown => Err(Problem::not_found()),
    }
}

/// Refuses everybody but admins who have shown a second factor.
pub(super) fn admin(caller: &Principal) -> Checked<()> {
    if caller.is_admin() {
        return Ok(());
    }
    let detail = "log in as an admin, with the second factor";
    Err(Problem::new(StatusCode::FORBIDDEN, "admin", "Only admins may do this", detail))
}

fn view(filed: &Filed) -> Value {
    json!({
        "id": filed.id,
        "standing": filed.standing,
        "track": filed.track,
        "notice": filed.notice,
        "missing": filed.notice.missing(),
        "counter_notice": filed.counter,
        "received_at": rfc3339(filed.received_us),
        "taken_down_at": filed.taken_down_us.map(rfc3339),
        "counter_notice_at": filed.counter_us.map(rfc3339),
        "restore_from": filed.restore_from_us.map(rfc3339),
        "restore_by": filed.restore_by_us.map(rfc3339),
        "closed_at": filed.closed_us.map(rfc3339),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_an_address_or_an_id() {
        let check = |location: &str, id: Option<&str>| {
            assert_eq!(located(location).map(|id| id.to_string()).as_deref(), id, "{location}");
        };
        check("https://music.example/watch/trk_1?x=y", Some("trk_1"));
        check(" https://music.example/embed/track/trk_1#t=3 ", Some("trk_1"));
        check("/tracks/trk_1/master.m3u8", Some("trk_1"));
        check("trk_1", Some("trk_1"));
        check("the song about the sea", None);
        check("https://music.example/", None);
        check("https://music.example/watch/", None);
    }
}
