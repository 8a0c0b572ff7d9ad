//! `/api/v1/users/me/exports` and `DELETE /api/v1/users/me`: everything that is here of the caller to take away, and the end
//! of it. Jobs do both (src/people/); here they are asked for, looked at, downloaded, taken back.
#![allow(unused_qualifications, reason = "utoipa's macro writes them")]

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::channel::{Channel, Sender};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::accounts::{Accounts, note};
use super::auth::again;
use super::caller::{Person, Place};
use super::cookies;
use super::openapi::{ProblemDocument, wrong_cursor};
use super::problem::Problem;
use super::sent::{BodyType, Raw, SentOrNot, body, bytes as read};
use super::transcodes::{no_store, wrong_query};
use crate::auth::opaque::OpaqueToken;
use crate::auth::throttle::Limit;
use crate::base::Result as Outcome;
use crate::base::clock::rfc3339;
use crate::db::leaving::{Archive, Export, ExportState, TakenBack};
use crate::jobs::person::ExportId;
use crate::origin::conditional::{self, Validators, Verdict};
use crate::origin::range::{self, Ranged};
use crate::people::{Opened, People};

/// What these routes need.
#[derive(Debug)]
pub struct Leaving {
    /// Who asks.
    pub accounts: Arc<Accounts>,
    /// Where archives are.
    pub people: People,
}

/// Bytes of an archive in one piece of an answer; two wait at most.
const PIECE_BYTES: u64 = 256 << 10;
const PIECES_WAITING_MAX: usize = 2;

/// The routes.
pub fn routes(leaving: Arc<Leaving>) -> OpenApiRouter {
    described().with_state(leaving)
}

/// The routes and what they say of themselves, without what they need.
pub(super) fn described() -> OpenApiRouter<Arc<Leaving>> {
    OpenApiRouter::new()
        .routes(routes!(ask, list))
        .routes(routes!(download))
        .routes(routes!(open))
        .routes(routes!(leave))
        .routes(routes!(standing, stay))
        .routes(routes!(stay_by_mail))
}

/// What its routes read.
pub(super) const BODIES: &[BodyType] = &[body::<Proof>("Proof"), body::<Leave>("Leave")];

type Answer = Result<Response, Problem>;

/// An archive of everything that is here of somebody.
#[derive(Serialize, ToSchema)]
#[schema(as = Export)]
struct ExportView {
    id: String,
    /// `queued`, `ready` or `failed`.
    state: &'static str,
    /// Its length; null until it is ready.
    bytes: Option<u64>,
    /// Of all of it; null until it is ready.
    sha256: Option<String>,
    created_at: String,
    /// Nobody gets it afterwards; null until it is ready.
    expires_at: Option<String>,
}

impl ExportView {
    fn of(export: &Export) -> ExportView {
        let (state, archive) = match &export.state {
            ExportState::Queued => ("queued", None),
            ExportState::Ready(archive) => ("ready", Some(archive)),
            ExportState::Failed => ("failed", None),
        };
        ExportView {
            id: export.id.to_string(),
            state,
            bytes: archive.map(|archive| archive.bytes),
            sha256: archive.map(|archive| archive.sha256.clone()),
            created_at: rfc3339(export.created_us),
            expires_at: export.expires_us.filter(|_| archive.is_some()).map(rfc3339),
        }
    }
}

/// The archives that there are.
#[derive(Serialize, ToSchema)]
#[schema(as = Exports)]
struct ExportList {
    /// The latest first.
    items: Vec<ExportView>,
    /// For `before`; null at the end.
    next: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Page {
    /// 1 to 200; 50 when nobody says.
    #[param(nullable = false)]
    limit: Option<u32>,
    /// What `next` of the page before says.
    #[param(nullable = false)]
    before: Option<String>,
}

/// What proves again who asks.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Proof {
    /// The password; whoever logs in by a provider alone has none, and needs a session of the last ten minutes.
    #[schema(format = Password)]
    password: Option<String>,
}

/// Asks for an archive of everything that is here of the caller. A mail says when it can be had, for a week; three a day.
#[utoipa::path(
    post, path = "/api/v1/users/me/exports", tag = "users", summary = "Ask for an archive of everything",
    security(("bearer" = [])), request_body = Proof,
    responses(
        (status = 202, description = "A job makes it", body = ExportView),
        (status = 400, description = "The body cannot be read", body = ProblemDocument),
        (status = 401, description = "Nobody is named", body = ProblemDocument),
        (status = 403, description = "The password is wrong, or a key cannot do this", body = ProblemDocument),
        (status = 429, description = "Too many requests", body = ProblemDocument),
    )
)]
async fn ask(
    State(leaving): State<Arc<Leaving>>,
    Person(session): Person,
    Place(place): Place,
    SentOrNot(proof): SentOrNot<Proof>,
) -> Answer {
    let accounts = &leaving.accounts;
    again(accounts, &session, proof.unwrap_or_default().password).await?;
    let known = accounts.db.exports(&session.user, None, 20).await?;
    let export = match known.into_iter().find(|export| export.state == ExportState::Queued) {
        Some(export) => export,
        None => {
            accounts.limiter.pass(&[Limit::exports(session.user.as_str())]).await?;
            let (export, _) = accounts.db.want_export(&session.user, accounts.now_us()).await?;
            note("ok", "export-wanted", session.user.as_str(), &place);
            export
        }
    };
    Ok(no_store((StatusCode::ACCEPTED, axum::Json(ExportView::of(&export))).into_response()))
}

/// Says which archives there are.
#[utoipa::path(
    get, path = "/api/v1/users/me/exports", tag = "users", summary = "Archives of everything",
    security(("bearer" = [])), params(Page),
    responses(
        (status = 200, description = "The latest first", body = ExportList),
        (status = 400, description = "The query cannot be read", body = ProblemDocument),
        (status = 401, description = "Nobody is named", body = ProblemDocument),
        (status = 403, description = "A key cannot do this", body = ProblemDocument),
    )
)]
async fn list(
    State(leaving): State<Arc<Leaving>>,
    Person(session): Person,
    page: Result<Query<Page>, QueryRejection>,
) -> Answer {
    let Query(page) = page.map_err(|cause| wrong_query(&cause))?;
    let limit = page.limit.unwrap_or(50).clamp(1, 200);
    let before = page.before.as_deref().map(|id| ExportId::decode(id).ok_or_else(wrong_cursor)).transpose()?;
    let exports = leaving.accounts.db.exports(&session.user, before.as_ref(), limit).await?;
    let next = (exports.len() == limit as usize).then(|| exports.last().map(|export| export.id.to_string())).flatten();
    Ok(no_store(axum::Json(ExportList { items: exports.iter().map(ExportView::of).collect(), next }).into_response()))
}

/// An archive, with ranges; of a bucket by a URL that it signs.
#[utoipa::path(
    get, path = "/api/v1/users/me/exports/{id}/archive", tag = "users", summary = "Download an archive",
    security(("bearer" = [])),
    params(("id" = String, Path, description = "The id of the archive")),
    responses(
        (status = 200, description = "A ZIP", body = Vec<u8>, content_type = "application/zip"),
        (status = 206, description = "The part of it that was asked for", body = Vec<u8>, content_type = "application/zip"),
        (status = 302, description = "It is in a bucket; this URL opens it for a quarter of an hour"),
        (status = 304, description = "The client has it"),
        (status = 401, description = "Nobody is named", body = ProblemDocument),
        (status = 403, description = "A key cannot do this", body = ProblemDocument),
        (status = 404, description = "There is no such archive of theirs, or not yet, or not any more", body = ProblemDocument),
        (status = 416, description = "It has no such part", body = ProblemDocument),
    )
)]
async fn download(
    State(leaving): State<Arc<Leaving>>,
    Person(session): Person,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Answer {
    let id = ExportId::decode(&id).ok_or_else(Problem::not_found)?;
    let export = leaving.accounts.db.export(&id).await?.filter(|export| export.user == session.user);
    let opened = leaving.people.open_export(&export.ok_or_else(Problem::not_found)?).await?;
    let (archive, opened) = opened.ok_or_else(Problem::not_found)?;
    sent(&archive, opened, &headers, StatusCode::FOUND)
}

/// What a form sends.
#[derive(ToSchema)]
#[expect(dead_code, reason = "a description of a form that is read by hand")]
struct ExportForm {
    /// What stands behind the # of the link.
    token: String,
}

/// An archive by the token in the mail that told of it, from the form of the page that the link leads to: what opens it is in
/// no URL.
#[utoipa::path(
    post, path = "/api/v1/users/exports/open", tag = "users", summary = "Download an archive by its mail",
    security(()),
    request_body(content = ExportForm, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "A ZIP", body = Vec<u8>, content_type = "application/zip"),
        (status = 303, description = "It is in a bucket; this URL opens it for a quarter of an hour"),
        (status = 400, description = "The token opens nothing, or does not any more", body = ProblemDocument),
        (status = 413, description = "The body is too large", body = ProblemDocument),
        (status = 429, description = "Too many requests", body = ProblemDocument),
    )
)]
async fn open(State(leaving): State<Arc<Leaving>>, Place(place): Place, body: Raw) -> Answer {
    let unknown = || {
        let detail = "its time is over, or it was removed; ask for another archive";
        Problem::new(StatusCode::BAD_REQUEST, "token-invalid", "The token opens nothing", detail)
    };
    let body = read(body)?;
    let token =
        std::str::from_utf8(&body).ok().and_then(|text| OpaqueToken::decode(text.strip_prefix("token=")?.trim()));
    let hash = token.ok_or_else(unknown)?.hash();
    let export = leaving.accounts.db.export_by_token(&hash, leaving.accounts.now_us()).await?.ok_or_else(unknown)?;
    let (archive, opened) = leaving.people.open_export(&export).await?.ok_or_else(unknown)?;
    note("ok", "export-opened", export.user.as_str(), &place);
    sent(&archive, opened, &HeaderMap::new(), StatusCode::SEE_OTHER)
}

/// The answer that has an archive, or leads to it.
fn sent(archive: &Archive, opened: Opened, asked: &HeaderMap, elsewhere: StatusCode) -> Answer {
    let file = match opened {
        Opened::Url(url) => {
            let url = HeaderValue::try_from(url).expect("a signed URL is ASCII");
            return Ok(no_store((elsewhere, [(header::LOCATION, url)]).into_response()));
        }
        Opened::File(file) => file,
    };
    let etag = format!("\"{}\"", archive.sha256);
    let validators = Validators { etag: etag.as_bytes(), modified_s: None };
    let ascii = |text: String| HeaderValue::try_from(text).expect("made of ASCII");
    let fields = [
        (header::ETAG, ascii(etag.clone())),
        (header::ACCEPT_RANGES, HeaderValue::from_static("bytes")),
        (header::CONTENT_TYPE, HeaderValue::from_static("application/zip")),
        (header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment; filename=\"segue-export.zip\"")),
    ];
    let range = match conditional::evaluate(asked, validators) {
        Verdict::NotModified => return Ok(no_store((StatusCode::NOT_MODIFIED, fields).into_response())),
        Verdict::PreconditionFailed => {
            let detail = "it is another archive; ask without a condition";
            return Err(Problem::new(
                StatusCode::PRECONDITION_FAILED,
                "condition",
                "The condition does not hold",
                detail,
            ));
        }
        Verdict::Send if conditional::range_counts(asked, validators, 0) => {
            range::resolve(asked.get(header::RANGE), archive.bytes)
        }
        Verdict::Send => Ranged::Whole,
    };
    let (status, range) = match range {
        Ranged::Whole => (StatusCode::OK, 0..archive.bytes),
        Ranged::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Ranged::Unsatisfiable => {
            let detail = format!("it has {} bytes", archive.bytes);
            let problem =
                Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, "range", "There is no such part of it", detail);
            let mut response = problem.into_response();
            response.headers_mut().insert(header::CONTENT_RANGE, ascii(format!("bytes */{}", archive.bytes)));
            return Ok(response);
        }
    };
    let mut response = (status, fields, streamed(file, range.clone())).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
    if status == StatusCode::PARTIAL_CONTENT {
        let text = format!("bytes {}-{}/{}", range.start, range.end - 1, archive.bytes);
        headers.insert(header::CONTENT_RANGE, ascii(text));
    }
    Ok(no_store(response))
}

/// A part of a file, as fast as its reader takes it. Not joined: it ends when the reader leaves.
fn streamed(file: Arc<File>, range: Range<u64>) -> Body {
    let (sender, body) = Channel::new(PIECES_WAITING_MAX);
    tokio::spawn(send_all(sender, file, range));
    Body::new(body)
}

async fn send_all(mut to: Sender<Bytes, std::io::Error>, file: Arc<File>, range: Range<u64>) {
    let mut at = range.start;
    while at < range.end {
        let (file, from, bytes) = (Arc::clone(&file), at, PIECE_BYTES.min(range.end - at));
        let read = tokio::task::spawn_blocking(move || {
            let mut piece = vec![0; bytes as usize];
            file.read_exact_at(&mut piece, from).map(|()| Bytes::from(piece))
        });
        match read.await {
            Ok(Ok(piece)) => {
                at += bytes;
                if to.send_data(piece).await.is_err() {
                    return;
                }
            }
            Ok(Err(cause)) => {
                tracing::error!(%cause, "an archive cannot be read");
                return to.abort(cause);
            }
            Err(cause) => return to.abort(std::io::Error::other(cause)),
        }
    }
}

/// What shall go.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Leave {
    /// The password; whoever logs in by a provider alone has none, and needs a session of the last ten minutes.
    #[schema(format = Password)]
    password: Option<String>,
    /// Whether the tracks that everybody hears stay, as nobody's. Default: no.
    #[serde(default)]
    keep_tracks: bool,
}

/// When somebody is forgotten.
#[derive(Serialize, ToSchema)]
#[schema(as = Erasure)]
struct ErasureView {
    /// Until then they may come back; null: they stay.
    erase_at: Option<String>,
    keep_tracks: bool,
}

/// Closes the caller's account: sessions and keys end, tracks are not served any more. Until `erase_at` logging in and
/// `DELETE /api/v1/users/me/erasure` brings all of it back; then it is removed for good.
#[utoipa::path(
    delete, path = "/api/v1/users/me", tag = "users", summary = "Delete the account",
    security(("bearer" = [])), request_body = Leave,
    responses(
        (status = 202, description = "It is closed, and will be removed", body = ErasureView),
        (status = 400, description = "The body cannot be read", body = ProblemDocument),
        (status = 401, description = "Nobody is named", body = ProblemDocument),
        (status = 403, description = "The password is wrong, or a key cannot do this", body = ProblemDocument),
        (status = 429, description = "Too many requests", body = ProblemDocument),
    )
)]
async fn leave(
    State(leaving): State<Arc<Leaving>>,
    Person(session): Person,
    Place(place): Place,
    SentOrNot(leave): SentOrNot<Leave>,
) -> Answer {
    let (accounts, leave) = (&leaving.accounts, leave.unwrap_or_default());
    again(accounts, &session, leave.password).await?;
    let now_us = accounts.now_us();
    let due_us = now_us + accounts.options.recovery.as_micros() as i64;
    let erasure = accounts.db.want_erasure(&session.user, leave.keep_tracks, due_us, now_us).await?;
    note("ok", "erasure-wanted", session.user.as_str(), &place);
    let view = ErasureView { erase_at: Some(rfc3339(erasure.due_us)), keep_tracks: erasure.keep_tracks };
    let mut response = (StatusCode::ACCEPTED, axum::Json(view)).into_response();
    cookies::clear(response.headers_mut(), &[cookies::ACCESS, cookies::REFRESH, cookies::CSRF, cookies::TICKET]);
    Ok(no_store(response))
}

/// Says when the caller is forgotten.
#[utoipa::path(
    get, path = "/api/v1/users/me/erasure", tag = "users", summary = "When the account is removed",
    security(("bearer" = [])),
    responses(
        (status = 200, description = "When; null while they stay", body = ErasureView),
        (status = 401, description = "Nobody is named", body = ProblemDocument),
        (status = 403, description = "A key cannot do this", body = ProblemDocument),
    )
)]
async fn standing(State(leaving): State<Arc<Leaving>>, Person(session): Person) -> Answer {
    let erasure = leaving.accounts.db.erasure_of(&session.user).await?;
    let view = ErasureView {
        erase_at: erasure.as_ref().map(|erasure| rfc3339(erasure.due_us)),
        keep_tracks: erasure.is_some_and(|erasure| erasure.keep_tracks),
    };
    Ok(no_store(axum::Json(view).into_response()))
}

/// The caller stays after all: keys open again, and tracks are served again within seconds.
#[utoipa::path(
    delete, path = "/api/v1/users/me/erasure", tag = "users", summary = "Keep the account",
    security(("bearer" = [])),
    responses(
        (status = 204, description = "It stays"),
        (status = 401, description = "Nobody is named", body = ProblemDocument),
        (status = 403, description = "A key cannot do this", body = ProblemDocument),
        (status = 404, description = "It was to stay anyway", body = ProblemDocument),
    )
)]
async fn stay(State(leaving): State<Arc<Leaving>>, Person(session): Person, Place(place): Place) -> Answer {
    let stays = taken_back(&leaving, TakenBack::Owner(&session.user), &place).await?;
    if stays { Ok(no_store(StatusCode::NO_CONTENT.into_response())) } else { Err(Problem::not_found()) }
}

/// The same, by the link in the mail that told of it.
#[utoipa::path(
    post, path = "/api/v1/users/erasure/cancel", tag = "users", summary = "Keep the account by its mail",
    security(()),
    params(("X-Keep-Token" = Option<String>, Header, description = "What stands behind the # of the link")),
    responses(
        (status = 204, description = "It stays; log in as before"),
        (status = 400, description = "The token opens nothing, or does not any more", body = ProblemDocument),
        (status = 429, description = "Too many requests", body = ProblemDocument),
    )
)]
async fn stay_by_mail(State(leaving): State<Arc<Leaving>>, Place(place): Place, headers: HeaderMap) -> Answer {
    let unknown = || {
        let detail = "the account stays already, or is removed";
        Problem::new(StatusCode::BAD_REQUEST, "token-invalid", "The token opens nothing", detail)
    };
    let token = headers.get("x-keep-token").and_then(|value| OpaqueToken::decode(value.to_str().ok()?.trim()));
    let hash = token.ok_or_else(unknown)?.hash();
    let stays = taken_back(&leaving, TakenBack::Token(&hash), &place).await?;
    if stays { Ok(no_store(StatusCode::NO_CONTENT.into_response())) } else { Err(unknown()) }
}

async fn taken_back(leaving: &Leaving, by: TakenBack<'_>, place: &str) -> Outcome<bool> {
    let accounts = &leaving.accounts;
    let user = accounts.db.take_erasure_back(by, accounts.now_us()).await?;
    if let Some(user) = &user {
        note("ok", "erasure-taken-back", user.as_str(), place);
    }
    Ok(user.is_some())
}
