//! How a track stands, once or as it happens.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use http_body_util::channel::{Channel, Sender};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::super::App;
use super::super::caller::Caller;
use super::super::openapi::ProblemDocument;
use super::super::problem::Problem;
use super::super::transcodes::{STREAMS_MAX, no_store, wrong_query};
use super::described::{EventView, StatusView};
use super::{Answer, find_own, view as tracks_view};
use crate::base::Result as Outcome;
use crate::base::id::TrackId;
use crate::base::shutdown::Phase;
use crate::db::tracks::TrackRow;
use crate::jobs::{self, Event, Job, JobId, view};
use crate::tracks::State as Standing;

/// How often a stream looks for news.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Silence after which a stream says that it still lives: balancers close what is silent for 30 s.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// The longest a stream lasts; its reader comes back and goes on where it was.
const STREAM_MAX: Duration = Duration::from_secs(600);
/// Events read at a time.
const PAGE: u32 = 500;

/// `GET /api/v1/tracks/{id}/status`: with its job, and the rungs that are whole.
#[utoipa::path(
    get,
    path = "/api/v1/tracks/{id}/status",
    tag = "tracks",
    summary = "How a track stands, with its job",
    security(("bearer" = []), ("api_key" = [])),
    params(("id" = String, Path, description = "The id of the track")),
    responses((status = 200, description = "As it stands", body = StatusView), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 404, description = "There is no such track of theirs", body = ProblemDocument))
)]
pub(super) async fn status(State(app): State<Arc<App>>, Caller(caller): Caller, Path(id): Path<String>) -> Answer {
    let known = find_own(&app, &id, &caller).await?;
    let row = known.row.ok_or_else(Problem::not_found)?;
    let job = job_of(&app, &row).await?;
    let events = app.db.track_events(row.id, 0, PAGE).await?;
    let body = json!({
        "state": row.state,
        "error": row.error,
        "waits_for_upload": row.waits_for_upload,
        "job": job.as_ref().map(|job| view::job(job, app.clock.unix_us())),
        "rungs": rungs(&events),
        "playable": events.iter().any(|event| event.event == "playable") || row.version.is_some(),
        "track": tracks_view::own(&row),
    });
    Ok(no_store(axum::Json(body).into_response()))
}

/// The rungs of the latest attempt, each once.
fn rungs(events: &[Event]) -> Vec<&Value> {
    let begun = events.iter().rposition(|event| event.event == "started").unwrap_or(0);
    events[begun..].iter().filter(|event| event.event == "rung").map(|event| &event.body).collect()
}

async fn job_of(app: &App, row: &TrackRow) -> Outcome<Option<Job>> {
    match row.job.as_deref().and_then(JobId::decode) {
        Some(id) => app.db.job(&id).await,
        None => Ok(None),
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Since {
    after: Option<i64>,
}

/// `GET /api/v1/tracks/{id}/events`: server-sent events, from the upload to the last rung. Each has its number as its id,
/// so that a reader who lost the connection goes on behind it (`Last-Event-ID`). Progress has no id: it is only worth
/// knowing while it is true.
#[utoipa::path(
    get,
    path = "/api/v1/tracks/{id}/events",
    tag = "tracks",
    summary = "What happens to a track, as it happens",
    security(("bearer" = []), ("api_key" = [])),
    params(("id" = String, Path, description = "The id of the track"), ("after" = Option<i64>, Query, description = "The number of the last event that is known"), ("Last-Event-ID" = Option<String>, Header, description = "The same, as browsers say it")),
    responses((status = 200, description = "Server-sent events: `id`, `event`, `data` as JSON", body = EventView, content_type = "text/event-stream"), (status = 204, description = "Nothing more will happen"), (status = 400, description = "The query cannot be read", body = ProblemDocument), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 404, description = "There is no such track of theirs", body = ProblemDocument), (status = 503, description = "Too many streams", body = ProblemDocument))
)]
pub(super) async fn events(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    headers: HeaderMap,
    Path(id): Path<String>,
    from: Result<Query<Since>, QueryRejection>,
) -> Answer {
    let known = find_own(&app, &id, &caller).await?;
    let Query(from) = from.map_err(|cause| wrong_query(&cause))?;
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let after: i64 = last.or(from.after).unwrap_or(0);
    let row = known.row.ok_or_else(Problem::not_found)?;
    let job = job_of(&app, &row).await?;
    // 204 tells a browser not to come back (HTML, "Server-sent events", §9.2.3).
    if !is_under_way(&row, job.as_ref()) && app.db.track_events(row.id, after, 1).await?.is_empty() {
        return Ok(no_store(StatusCode::NO_CONTENT.into_response()));
    }
    let permit = Arc::clone(&app.streams).try_acquire_owned().map_err(|_| {
        let detail = format!("{STREAMS_MAX} streams are open; ask for the status instead, or try again");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "Too many streams", detail)
    })?;
    let (sender, body) = Channel::<Bytes, std::io::Error>::new(8);
    // Not joined: it ends when the reader leaves, nothing more happens, the process drains, or after `STREAM_MAX`.
    tokio::spawn(async move {
        if let Err(error) = stream(&app, row.id, after, sender, permit).await {
            tracing::warn!(error = error.chain(), "a stream of events ended early");
        }
    });
    let response = ([(header::CONTENT_TYPE, "text/event-stream"), (header::VARY, "Last-Event-ID")], Body::new(body));
    Ok(no_store(response.into_response()))
}

/// Whether anything will happen without its owner.
fn is_under_way(row: &TrackRow, job: Option<&Job>) -> bool {
    if row.state == Standing::Deleted {
        return false;
    }
    row.waits_for_upload || job.is_some_and(|job| !job.state.is_final())
}

async fn stream(
    app: &App,
    id: TrackId,
    mut after: i64,
    mut to: Sender<Bytes, std::io::Error>,
    _permit: OwnedSemaphorePermit,
) -> Outcome<()> {
    let mut shutdown = app.shutdown.clone();
    let until = Instant::now() + STREAM_MAX;
    let (mut said, mut told) = (Instant::now(), None);
    let mut text = "retry: 1000\n\n".to_owned();
    loop {
        // How it stands is read before its events: what ends it is then among them.
        let Some(row) = app.db.track(id).await? else { return Ok(()) };
        let job = job_of(app, &row).await?;
        let events = app.db.track_events(id, after, PAGE).await?;
        let more = events.len() == PAGE as usize;
        for event in events {
            after = event.seq;
            text.push_str(&format!("id: {}\nevent: {}\ndata: {}\n\n", event.seq, event.event, view::event(&event)));
        }
        if let Some(job) = job.as_ref().filter(|job| job.state == jobs::State::Leased) {
            let progress = job.progress().map(|progress| (progress * 1000.0) as u32);
            if progress != told {
                told = progress;
                let eta_s = job.eta_s(app.clock.unix_us()).map(f64::round);
                let data = json!({ "progress": job.progress(), "eta_s": eta_s });
                text.push_str(&format!("event: progress\ndata: {data}\n\n"));
            }
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
        if (!is_under_way(&row, job.as_ref()) && !more) || Instant::now() >= until {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY), if !more => {}
            () = std::future::ready(()), if more => {}
            () = shutdown.reached(Phase::Draining) => return Ok(()),
        }
    }
}
