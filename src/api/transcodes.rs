//! `/api/v1/transcodes`: other programs put work into the queue and watch it.
//!
//! Everything needs an API key, and a key sees the jobs it enqueued and no others. Thin: decode, call the
//! queue, encode.

use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http_body_util::channel::{Channel, Sender};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::caller::Creator;
use super::described::{CallbackList, JobList, JobView, Redelivered, RetryView};
use super::openapi::Refused;
use super::problem::Problem;
use super::sent::{self, BodyType, Raw, body};
use crate::auth::UserId;
use crate::auth::principal::Principal;
use crate::base::clock::{Clock, parse_rfc3339};
use crate::base::id::TrackId;
use crate::base::shutdown::{Phase, Shutdown};
use crate::base::{Error, Result};
use crate::db::Db;
use crate::db::jobs::{Asked, Enqueued, Filter, PAGE_MAX};
use crate::hls::ladder::video::Choice;
use crate::jobs::transcode::{UPLOAD, Wish, track_for};
use crate::jobs::{self, Job, JobId, NewJob, view};
use crate::store::{Backend, SOURCE_SCHEME, objects};
use crate::uploads::{self, UploadId};
use crate::workers::callbacks::check_addresses;
use crate::{db, tracks};

/// What the routes need.
#[derive(Debug)]
pub struct Queue {
    /// Where jobs are.
    pub db: Db,
    /// Directories whose files may be named.
    pub source_dirs: Vec<PathBuf>,
    /// Beginnings of keys of the store's bucket that may be named.
    pub source_keys: Vec<String>,
    /// Which URLs may be named.
    #[cfg(feature = "transcode")]
    pub transcode: crate::transcode::Options,
    /// Secrets that sign callbacks: without one there are no callbacks.
    pub callback_secrets: Vec<String>,
    /// Hosts of callbacks whose addresses may be private.
    pub callback_private_hosts: Vec<String>,
    /// Which store new tracks will be in.
    pub backend: Backend,
    /// Failed attempts that make a job dead.
    pub failures_max: u32,
    /// Times of jobs.
    pub clock: Clock,
    /// Streams of events end when the process drains.
    pub shutdown: Shutdown,
    /// Streams that may be open.
    pub streams: Arc<Semaphore>,
}

/// Streams of events open at most: each asks the database twice a second.
pub const STREAMS_MAX: usize = 64;
/// The largest request, in bytes: a wish has some hundreds.
const BODY_BYTES_MAX: usize = 64 << 10;
/// How often a stream looks for news.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Silence after which a stream says that it still lives: balancers close what is silent for 30 s.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// The longest a stream lasts; its reader comes back and goes on where it was.
const STREAM_MAX: Duration = Duration::from_secs(600);

/// The routes.
pub fn routes(queue: Arc<Queue>) -> OpenApiRouter {
    described().layer(DefaultBodyLimit::max(BODY_BYTES_MAX)).with_state(queue)
}

/// The routes and what they say of themselves, without what they need.
pub(super) fn described() -> OpenApiRouter<Arc<Queue>> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(show, cancel))
        .routes(routes!(retry))
        .routes(routes!(events))
        .routes(routes!(callbacks))
        .routes(routes!(redeliver))
        .routes(routes!(redeliver_missed))
        .route("/api/{*rest}", any(no_such_route))
}

/// What its routes read.
pub(super) const BODIES: &[BodyType] = &[body::<Asks>("Wish"), body::<Retry>("RetryWish")];

type Answer = std::result::Result<Response, Problem>;

pub(super) fn wrong_query(cause: &QueryRejection) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "query-invalid", "The query cannot be read", cause.body_text())
}

async fn no_such_route() -> Problem {
    Problem::not_found()
}

/// For every route that has no fallback of its own.
pub(super) async fn wrong_method() -> Problem {
    let title = "There is no such method here";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method", title, "see /api/docs for those that there are")
}

/// What to transcode.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = Source)]
#[serde(untagged, expecting = "source is a text, or an object that has upload")]
enum Sourced {
    /// An http or https URL; `s3:` and the key of an object in the store's bucket that begins like one of
    /// `api.source_keys`; or a file below one of `api.source_dirs`: absolute, or relative to the first.
    Named(String),
    /// An upload of the caller that is ready.
    Uploaded(Uploaded),
}

#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = UploadedSource)]
#[serde(deny_unknown_fields)]
struct Uploaded {
    upload: String,
}

/// What somebody asks for.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = Wish)]
#[serde(deny_unknown_fields)]
struct Asks {
    source: Sourced,
    title: Option<String>,
    /// The caller's own; a new one when it is absent.
    #[schema(value_type = Option<String>)]
    track: Option<TrackId>,
    /// `audio` or `video`, the built-in plans; by what the source holds when it is absent.
    ladder: Option<String>,
    /// 9 goes first.
    #[schema(minimum = 0, maximum = 9)]
    priority: Option<u8>,
    callback: Option<String>,
}

/// Puts work into the queue. The same idempotency key again is the same job.
#[utoipa::path(
    post, path = "/api/v1/transcodes", tag = "transcodes", summary = "Transcode",
    security(("bearer" = []), ("api_key" = [])),
    params(("Idempotency-Key" = String, Header, description = "A UUID, for example")),
    request_body = Asks,
    responses(
        (status = 200, description = "It was enqueued before, under the same key", body = JobView),
        (status = 202, description = "It is in the queue", body = JobView),
        Refused
    )
)]
async fn create(State(queue): State<Arc<Queue>>, Creator(caller): Creator, headers: HeaderMap, body: Raw) -> Answer {
    let client = caller.subject.clone();
    let key = idempotency_key(&headers)?;
    let asks: Asks = sent::json_of(body)?;
    let wish = wish(&queue, &caller, &key, asks).await?;
    let priority = wish.1;
    let new = wish.0.job(&client, priority, Some(key), queue.failures_max);
    let enqueued = enqueue(&queue, &caller, &wish.0, &new).await?;
    let (status, id) = match enqueued {
        Enqueued::New(id) => (StatusCode::ACCEPTED, id),
        Enqueued::Known(id) => (StatusCode::OK, id),
        Enqueued::Conflict(id) => {
            return Err(Problem::unprocessable(
                "idempotency-key-reused",
                "This idempotency key belongs to another request",
                format!("it was used for {id}; use another key for another wish"),
            ));
        }
    };
    let job = find(&queue, &client, id.as_str()).await?;
    let mut response = (status, axum::Json(view::job(&job, queue.clock.unix_us()))).into_response();
    let location = format!("/api/v1/transcodes/{id}");
    response.headers_mut().insert(header::LOCATION, HeaderValue::try_from(location).expect("ids are ASCII"));
    Ok(no_store(response))
}

/// Enqueues in one transaction with the look at the upload, which nobody removes in between, and at the track, which is
/// the caller's from now on if it was nobody's.
async fn enqueue(
    queue: &Queue,
    caller: &Principal,
    wish: &Wish,
    new: &NewJob,
) -> std::result::Result<Enqueued, Problem> {
    let client = caller.subject.as_str();
    if let Some(known) = queue.db.known_job(new).await? {
        return Ok(known);
    }
    let mut tx = queue.db.begin().await?;
    let now_us = queue.clock.unix_us();
    let upload = match wish.upload() {
        Some(upload) => {
            let id = UploadId::decode(upload).ok_or_else(unknown_upload)?;
            let upload = db::uploads::hold(&mut tx, &id, now_us).await?;
            Some(upload.filter(|upload| upload.owner == client).ok_or_else(unknown_upload)?)
        }
        None => None,
    };
    // A program of the operator may make a version of what the operator published; another owner's track is not there.
    let whose = (client, caller.user.is_none());
    if !db::tracks::claim(&mut tx, (wish.track, &wish.title), whose, queue.backend, now_us).await? {
        return Err(Problem::not_found());
    }
    let enqueued = db::jobs::enqueue(&mut tx, new, now_us).await?;
    if let Enqueued::New(job) = &enqueued {
        // The same request again is the same job, whatever became of the upload.
        if let Some(upload) = upload.filter(|upload| upload.state != uploads::State::Ready) {
            let detail =
                format!("{} is {}, and only what is ready can be transcoded", upload.id, upload.state.as_str());
            return Err(Problem::new(StatusCode::CONFLICT, "upload-state", "The upload is not ready", detail));
        }
        db::tracks::is_made_by(&mut tx, wish.track, job, now_us).await?;
    }
    tx.commit().await?;
    Ok(enqueued)
}

fn unknown_upload() -> Problem {
    Problem::unprocessable("source", "The source cannot be used", "there is no such upload of this API key")
}

/// Lists the caller's jobs, the latest first.
#[utoipa::path(
    get, path = "/api/v1/transcodes", tag = "transcodes", summary = "List jobs",
    security(("bearer" = []), ("api_key" = [])),
    params(
        ("limit" = inline(Option<u32>), Query, description = "How many", nullable = false, minimum = 1, maximum = 500),
        ("before" = inline(Option<String>), Query, description = "`next` of the list before", nullable = false)
    ),
    responses((status = 200, description = "The caller's jobs", body = JobList), Refused)
)]
async fn list(
    State(queue): State<Arc<Queue>>,
    Creator(caller): Creator,
    page: std::result::Result<Query<Page>, QueryRejection>,
) -> Answer {
    let client = caller.subject;
    let Query(page) = page.map_err(|cause| wrong_query(&cause))?;
    let before = page.before.as_deref().map(|id| JobId::decode(id).ok_or_else(Problem::not_found)).transpose()?;
    let limit = page.limit.unwrap_or(50).clamp(1, PAGE_MAX);
    let filter = Filter { before, limit, client: Some(client), ..Filter::default() };
    let jobs = queue.db.jobs(&filter).await?;
    let next = (jobs.len() == limit as usize).then(|| jobs.last().map(|job| job.id.clone())).flatten();
    let now_us = queue.clock.unix_us();
    let items: Vec<_> = jobs.iter().map(|job| view::job(job, now_us)).collect();
    Ok(no_store(axum::Json(json!({ "items": items, "next": next })).into_response()))
}

#[derive(Debug, Deserialize)]
struct Page {
    limit: Option<u32>,
    before: Option<String>,
}

/// Shows one job.
#[utoipa::path(
    get, path = "/api/v1/transcodes/{id}", tag = "transcodes", summary = "Show a job",
    security(("bearer" = []), ("api_key" = [])), params(("id" = String, Path, description = "Its id")),
    responses((status = 200, description = "As it stands", body = JobView), Refused)
)]
async fn show(State(queue): State<Arc<Queue>>, Creator(caller): Creator, Path(id): Path<String>) -> Answer {
    let job = find(&queue, &caller.subject, &id).await?;
    Ok(no_store(axum::Json(view::job(&job, queue.clock.unix_us())).into_response()))
}

/// Cancels a job.
#[utoipa::path(
    delete, path = "/api/v1/transcodes/{id}", tag = "transcodes", summary = "Cancel a job",
    security(("bearer" = []), ("api_key" = [])), params(("id" = String, Path, description = "Its id")),
    responses((status = 202, description = "It is cancelled, or will be", body = JobView), Refused)
)]
async fn cancel(State(queue): State<Arc<Queue>>, Creator(caller): Creator, Path(id): Path<String>) -> Answer {
    let job = find(&queue, &caller.subject, &id).await?;
    asked(&queue, &job, queue.db.cancel(&job.id, queue.clock.unix_us()).await?).await
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Retry {
    rungs: Option<Vec<String>>,
}

/// Puts a job that ended back into the queue, all of it or single rungs.
#[utoipa::path(
    post, path = "/api/v1/transcodes/{id}/retry", tag = "transcodes", summary = "Do a job again",
    security(("bearer" = []), ("api_key" = [])), params(("id" = String, Path, description = "Its id")),
    request_body(content = Option<RetryView>, description = "Nothing: all of it"),
    responses((status = 202, description = "It is in the queue again", body = JobView), Refused)
)]
async fn retry(State(queue): State<Arc<Queue>>, Creator(caller): Creator, Path(id): Path<String>, body: Raw) -> Answer {
    let job = find(&queue, &caller.subject, &id).await?;
    let nothing = body.as_ref().is_ok_and(Bytes::is_empty);
    let Retry { rungs } = if nothing { Retry::default() } else { sent::json_of(body)? };
    Wish::decode(&job.input)?
        .ladder_of(rungs.as_deref())
        .map_err(|error| Problem::unprocessable("rung-unknown", "There is no such rung", error.chain()))?;
    asked(&queue, &job, queue.db.retry(&job.id, rungs.as_deref(), queue.clock.unix_us()).await?).await
}

async fn asked(queue: &Queue, job: &Job, asked: Asked) -> Answer {
    match asked {
        Asked::Done | Asked::Told => {
            let job = queue.db.job(&job.id).await?.ok_or_else(Problem::not_found)?;
            let body = axum::Json(view::job(&job, queue.clock.unix_us()));
            Ok(no_store((StatusCode::ACCEPTED, body).into_response()))
        }
        Asked::Not(state) => {
            let detail = format!("{} is {}", job.id, state.as_str());
            Err(Problem::new(
                StatusCode::CONFLICT,
                "state",
                "The job does not stand so that this could be done",
                detail,
            ))
        }
        Asked::Unknown => Err(Problem::not_found()),
    }
}

/// Lists the callbacks of a job: what was sent, and what came of it.
#[utoipa::path(
    get, path = "/api/v1/transcodes/{id}/callbacks", tag = "transcodes", summary = "List callbacks",
    security(("bearer" = []), ("api_key" = [])),
    params(
        ("id" = String, Path, description = "Its id"),
        ("limit" = inline(Option<u32>), Query, description = "1 to 200; 50 when nobody says", nullable = false),
        ("after" = inline(Option<i64>), Query, description = "What `next` of the page before says", nullable = false)
    ),
    responses((status = 200, description = "What was sent, the oldest first", body = CallbackList), Refused)
)]
async fn callbacks(
    State(queue): State<Arc<Queue>>,
    Creator(caller): Creator,
    Path(id): Path<String>,
    page: std::result::Result<Query<Sends>, QueryRejection>,
) -> Answer {
    let job = find(&queue, &caller.subject, &id).await?;
    let Query(Sends { limit, after }) = page.map_err(|cause| wrong_query(&cause))?;
    let limit = limit.unwrap_or(50).clamp(1, 200);
    let items = queue.db.deliveries_after(&job.id, after.unwrap_or(0), limit).await?;
    let next = (items.len() == limit as usize).then(|| items.last().map(|item| item["seq"].clone())).flatten();
    Ok(no_store(axum::Json(json!({ "items": items, "next": next })).into_response()))
}

#[derive(Debug, Deserialize)]
struct Sends {
    limit: Option<u32>,
    after: Option<i64>,
}

/// Sends the callbacks again that were not delivered.
#[utoipa::path(
    post, path = "/api/v1/transcodes/{id}/callbacks/redeliver", tag = "transcodes", summary = "Send callbacks again",
    security(("bearer" = []), ("api_key" = [])), params(("id" = String, Path, description = "Its id")),
    responses((status = 202, description = "How many will be sent", body = Redelivered), Refused)
)]
async fn redeliver(State(queue): State<Arc<Queue>>, Creator(caller): Creator, Path(id): Path<String>) -> Answer {
    let job = find(&queue, &caller.subject, &id).await?;
    let again = queue.db.redeliver(&job.id, false, queue.clock.unix_us()).await?;
    Ok(no_store((StatusCode::ACCEPTED, axum::Json(json!({ "redelivered": again }))).into_response()))
}

/// Sends again whatever was not delivered of the caller's jobs since a time: for a receiver that was away.
#[utoipa::path(
    post, path = "/api/v1/transcodes/callbacks/redeliver", tag = "transcodes", summary = "Send missed callbacks again",
    security(("bearer" = []), ("api_key" = [])),
    params(("since" = String, Query, description = "From when on, RFC 3339 in UTC: `2026-11-20T08:00:00Z`")),
    responses((status = 202, description = "How many will be sent", body = Redelivered), Refused)
)]
async fn redeliver_missed(
    State(queue): State<Arc<Queue>>,
    Creator(caller): Creator,
    from: std::result::Result<Query<Missed>, QueryRejection>,
) -> Answer {
    let Query(Missed { since }) = from.map_err(|cause| wrong_query(&cause))?;
    let since_us = parse_rfc3339(&since).ok_or_else(|| {
        let detail = "since is a time in UTC, like 2026-11-20T08:00:00Z";
        Problem::new(StatusCode::BAD_REQUEST, "query-invalid", "The query cannot be read", detail)
    })?;
    let again = queue.db.redeliver_missed(Some(&caller.subject), since_us, queue.clock.unix_us()).await?;
    Ok(no_store((StatusCode::ACCEPTED, axum::Json(json!({ "redelivered": again }))).into_response()))
}

#[derive(Debug, Deserialize)]
struct Missed {
    since: String,
}

/// Streams what happens to a job as server-sent events. Each has the number of the job's event as its
/// id, so that a reader who lost the connection goes on behind it (`Last-Event-ID`). Progress has no id: it
/// is only worth knowing while it is true.
#[utoipa::path(
    get, path = "/api/v1/transcodes/{id}/events", tag = "transcodes", summary = "Watch a job",
    security(("bearer" = []), ("api_key" = [])),
    params(
        ("id" = String, Path, description = "Its id"),
        ("after" = inline(Option<i64>), Query, description = "Only events behind this one", nullable = false),
        ("Last-Event-ID" = Option<i64>, Header, description = "The same, as browsers send it")
    ),
    responses(
        (status = 200, description = "Events, until the job has ended", body = String, content_type = "text/event-stream"),
        (status = 204, description = "It has ended, and there is no more to tell"),
        Refused
    )
)]
async fn events(
    State(queue): State<Arc<Queue>>,
    Creator(caller): Creator,
    headers: HeaderMap,
    Path(id): Path<String>,
    from: std::result::Result<Query<Since>, QueryRejection>,
) -> Answer {
    let job = find(&queue, &caller.subject, &id).await?;
    let Query(from) = from.map_err(|cause| wrong_query(&cause))?;
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let after: i64 = last.or(from.after).unwrap_or(0);
    // 204 tells a browser not to come back (HTML, "Server-sent events", §9.2.3).
    if job.state.is_final() && queue.db.events(&job.id, after, 1).await?.is_empty() {
        return Ok(no_store(StatusCode::NO_CONTENT.into_response()));
    }
    let permit = Arc::clone(&queue.streams).try_acquire_owned().map_err(|_| {
        let detail = format!("{STREAMS_MAX} streams are open; poll the job instead, or try again");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "Too many streams", detail)
    })?;
    let (sender, body) = Channel::<Bytes, std::io::Error>::new(8);
    // Not joined: it ends when the reader leaves, the job ends, the process drains, or after `STREAM_MAX`.
    tokio::spawn(async move {
        if let Err(error) = stream(&queue, &job.id, after, sender, permit).await {
            tracing::warn!(error = error.chain(), "a stream of events ended early");
        }
    });
    let response = ([(header::CONTENT_TYPE, "text/event-stream"), (header::VARY, "Last-Event-ID")], Body::new(body));
    Ok(no_store(response.into_response()))
}

#[derive(Debug, Deserialize)]
struct Since {
    after: Option<i64>,
}

async fn stream(
    queue: &Queue,
    id: &JobId,
    mut after: i64,
    mut to: Sender<Bytes, std::io::Error>,
    _permit: OwnedSemaphorePermit,
) -> Result<()> {
    let mut shutdown = queue.shutdown.clone();
    let until = Instant::now() + STREAM_MAX;
    let mut said = Instant::now();
    let mut told = None;
    let mut text = "retry: 1000\n\n".to_owned();
    loop {
        // The job is read before its events: what ends it is then among them.
        let Some(job) = queue.db.job(id).await? else { return Ok(()) };
        let events = queue.db.events(id, after, PAGE_MAX).await?;
        let more = events.len() == PAGE_MAX as usize;
        for event in events {
            after = event.seq;
            text.push_str(&format!("id: {}\nevent: {}\ndata: {}\n\n", event.seq, event.event, view::event(&event)));
        }
        let progress = job.progress().map(|progress| (progress * 1000.0) as u32);
        if progress != told && job.state == jobs::State::Leased {
            told = progress;
            let eta_s = job.eta_s(queue.clock.unix_us()).map(f64::round);
            let data = json!({ "progress": job.progress(), "eta_s": eta_s });
            text.push_str(&format!("event: progress\ndata: {data}\n\n"));
        }
        if text.is_empty() && said.elapsed() >= KEEP_ALIVE {
            text.push_str(": still here\n\n");
        }
        if !text.is_empty() {
            said = Instant::now();
            if to.send_data(Bytes::from(std::mem::take(&mut text))).await.is_err() {
                return Ok(()); // the reader left
            }
        }
        if (job.state.is_final() && !more) || Instant::now() >= until {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY), if !more => {}
            () = std::future::ready(()), if more => {}
            () = shutdown.reached(Phase::Draining) => return Ok(()),
        }
    }
}

/// A job of this client; anybody else's does not exist.
async fn find(queue: &Queue, client: &str, id: &str) -> std::result::Result<Job, Problem> {
    let id = JobId::decode(id).ok_or_else(Problem::not_found)?;
    let job = queue.db.job(&id).await?;
    job.filter(|job| job.client == client).ok_or_else(Problem::not_found)
}

/// The key of the request: a structured-field string, `"8e03978e"`, or the same without quotes
/// (draft-ietf-httpapi-idempotency-key-header).
pub(super) fn idempotency_key(headers: &HeaderMap) -> std::result::Result<String, Problem> {
    let Some(value) = headers.get("idempotency-key") else {
        return Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "idempotency-key-missing",
            "An idempotency key is needed",
            "send Idempotency-Key: \"…\", a UUID for example; the same key again is the same request",
        ));
    };
    given_key(value)
}

/// The same, of a request that has one.
pub(super) fn given_key(value: &HeaderValue) -> std::result::Result<String, Problem> {
    let text = value.to_str().unwrap_or_default().trim();
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    jobs::check_idempotency_key(text).map_err(|wrong| {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "idempotency-key-invalid",
            "The idempotency key cannot be used",
            wrong.chain(),
        )
    })?;
    Ok(text.to_owned())
}

async fn wish(queue: &Queue, caller: &Principal, key: &str, asks: Asks) -> std::result::Result<(Wish, u8), Problem> {
    let client = caller.subject.as_str();
    let wrong = |name, title| move |wrong: Error| Problem::unprocessable(name, title, wrong.chain());
    let priority = asks.priority.unwrap_or(jobs::PRIORITY);
    if priority > jobs::PRIORITY_MAX {
        return Err(Problem::unprocessable("priority", "There is no such priority", "give 0 to 9; 9 goes first"));
    }
    let choice = Choice::built_in_as(asks.ladder.as_deref().unwrap_or("auto"));
    let unknown =
        || Problem::unprocessable("ladder", "There is no such ladder", "give audio or video, or leave it away");
    let (ladder, video) = Wish::plans(choice.ok_or_else(unknown)?);
    if let Some(url) = &asks.callback {
        check_callback(url, &queue.callback_secrets, &queue.callback_private_hosts)
            .map_err(wrong("callback", "The callback cannot be used"))?;
    }
    let (source, name) = match asks.source {
        Sourced::Named(source) => {
            // Files of this machine are the operator's: their programs name them, and nobody who has registered.
            if caller.user.is_some() && !source.contains("://") {
                let detail = "send the file, and name the upload; or give its https:// URL";
                return Err(Problem::unprocessable("source", "The source cannot be used", detail));
            }
            let source = self::source(queue, source).await?.map_err(wrong("source", "The source cannot be used"))?;
            (source.clone(), source)
        }
        Sourced::Uploaded(Uploaded { upload }) => {
            let id = UploadId::decode(&upload).ok_or_else(unknown_upload)?;
            let upload = queue.db.upload(&id).await?;
            let upload = upload.filter(|upload| upload.owner == client).ok_or_else(unknown_upload)?;
            (format!("{UPLOAD}{id}"), upload.name.unwrap_or_else(|| id.to_string()))
        }
    };
    let title = asks.title.unwrap_or_else(|| {
        let path = name.split(['?', '#']).next().unwrap_or_default();
        let stem = FsPath::new(path).file_stem().unwrap_or_default().to_string_lossy();
        stem.replace(char::is_control, " ").chars().take(tracks::TITLE_CHARS_MAX).collect()
    });
    tracks::check_title(&title).map_err(wrong("title", "The title cannot be used"))?;
    if let (Some(user), Some(track)) = (&caller.user, asks.track) {
        own_track(queue, user, track).await?;
    }
    let track = asks.track.unwrap_or_else(|| track_for(client, key));
    Ok((Wish { source, track, title, ladder, video, preview_start_ms: None, callback: asks.callback }, priority))
}

/// A person publishes into their own tracks; anybody else's do not exist. Programs of the operator may name any.
async fn own_track(queue: &Queue, user: &UserId, track: TrackId) -> std::result::Result<(), Problem> {
    let owner = queue.db.track(track).await?.and_then(|track| track.owner);
    match owner.as_deref() == Some(user.as_str()) {
        true => Ok(()),
        false => Err(Problem::unprocessable("track", "The track cannot be used", "there is no such track of yours")),
    }
}

/// What a worker will read, if it may.
async fn source(queue: &Queue, source: String) -> Result<Result<String>> {
    #[cfg(feature = "transcode")]
    if source.contains("://") {
        return Ok(crate::transcode::check_input(FsPath::new(&source), &queue.transcode).map(|()| source));
    }
    if let Some(key) = source.strip_prefix(SOURCE_SCHEME) {
        return Ok(check_key(&queue.source_keys, key).map(|()| source));
    }
    let dirs = queue.source_dirs.clone();
    let resolved = tokio::task::spawn_blocking(move || resolve(&dirs, &source)).await;
    resolved.map_err(|cause| Error::internal("a task panicked").because(cause))
}

/// Whether an object of the store's bucket may be named.
fn check_key(open: &[String], key: &str) -> Result<()> {
    if open.is_empty() {
        return Err(Error::invalid("no key of the bucket is open for sources; the operator sets api.source_keys"));
    }
    // Keys that lead elsewhere, `incoming/../v/…`, are none.
    let inside = open.iter().any(|beginning| key.starts_with(beginning)) && objects::check(key).is_ok();
    inside.then_some(()).ok_or_else(|| {
        Error::invalid(format!("{SOURCE_SCHEME}{key} does not begin like one of api.source_keys, or is no key"))
    })
}

/// The file that a source names, links followed, if it lies below one of `dirs`. Blocks.
fn resolve(dirs: &[PathBuf], source: &str) -> Result<String> {
    let Some(first) = dirs.first() else {
        return Err(Error::invalid("no directory is open for sources; the operator sets api.source_dirs"));
    };
    // The same words whether a file outside exists or not.
    let unknown = || Error::invalid(format!("{source} is not a file below a directory of api.source_dirs"));
    let path = std::fs::canonicalize(first.join(source)).map_err(|_| unknown())?;
    let inside = dirs.iter().filter_map(|dir| std::fs::canonicalize(dir).ok()).any(|dir| path.starts_with(dir));
    if !inside || !path.is_file() {
        return Err(unknown());
    }
    path.into_os_string().into_string().map_err(|_| unknown())
}

/// Whether somebody could be told at this URL. Where a name leads is looked at when it is told; an address shows now.
///
/// # Errors
/// `Usage` or `Invalid`, saying what is wrong with it.
pub fn check_callback(url: &str, secrets: &[String], private_hosts: &[String]) -> Result<()> {
    if secrets.is_empty() {
        return Err(Error::usage("callbacks.secrets is unset: nobody could tell our callbacks from forged ones"));
    }
    let parsed: axum::http::Uri = url.parse().map_err(|_| Error::usage("it is not a URL; give https://host/path"))?;
    let scheme = parsed.scheme_str().unwrap_or_default();
    let authority = parsed.authority().map(|authority| authority.as_str()).unwrap_or_default();
    if !matches!(scheme, "http" | "https") || authority.is_empty() || authority.contains('@') || url.len() > 2048 {
        return Err(Error::usage("it is not an http or https URL without a user; give https://host/path"));
    }
    let host = parsed.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = parsed.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    match host.parse() {
        Ok(address) => check_addresses(host, port, &[address], private_hosts),
        Err(_) => Ok(()),
    }
}

pub(super) fn no_store(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_that_are_open_are_sources() {
        let open = ["incoming/".to_owned(), "old/masters-".to_owned()];
        let check = |key: &str, fine: bool| assert_eq!(check_key(&open, key).is_ok(), fine, "{key}");
        check("incoming/song.wav", true);
        check("incoming/2026/song.wav", true);
        check("old/masters-7.flac", true);
        check("incomings/song.wav", false);
        check("v/trk_1/x/flac.mp4", false);
        check("incoming/../v/trk_1/x/flac.mp4", false);
        check("incoming/", false);
        check("incoming/.hidden", false);
        let closed = check_key(&[], "incoming/song.wav").unwrap_err().chain();
        assert!(closed.contains("the operator sets api.source_keys"), "{closed}");
    }
}
