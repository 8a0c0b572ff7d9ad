//! The studio and the admin's desk: two pages, which hold nothing but scripts and ask the API with the key of whoever
//! reads them; and what of the API only admins need: everybody's jobs, and who works.

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::caller::Caller;
use super::described::{JobList, JobView};
use super::dmca::admin;
use super::openapi::ProblemDocument;
use super::problem::Problem;
use super::tracks::Answer;
use super::tracks::described::WorkerList;
use super::transcodes::{no_store, wrong_query};
use crate::base::clock::rfc3339;
use crate::db::jobs::{Asked, Filter, PAGE_MAX};
use crate::db::workers::Reported;
use crate::jobs::{self, JobId, view};
use crate::web;

/// The pages.
pub(super) fn pages(app: Arc<App>) -> Router {
    Router::new().route("/studio", get(studio)).route("/admin", get(desk)).with_state(app)
}

/// The routes and what they say of themselves, without what they need.
pub(super) fn described() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(retry)).routes(routes!(workers))
}

async fn studio(State(app): State<Arc<App>>) -> Response {
    super::web_page(&app, StatusCode::OK, web::studio_page())
}

async fn desk(State(app): State<Arc<App>>) -> Response {
    super::web_page(&app, StatusCode::OK, web::admin_page())
}

#[derive(Debug, Deserialize)]
struct Page {
    state: Option<String>,
    before: Option<String>,
    limit: Option<u32>,
}

/// `GET /api/v1/admin/jobs?state=&before=&limit=`: everybody's, the latest first.
#[utoipa::path(
    get,
    path = "/api/v1/admin/jobs",
    tag = "admin",
    summary = "Jobs of everybody",
    security(("bearer" = [])),
    params(("state" = Option<String>, Query, description = "`queued`, `leased`, `succeeded`, `dead` or `cancelled`"), ("before" = Option<String>, Query, description = "What `next` of the page before says"), ("limit" = Option<u32>, Query, description = "1 to 200; 50 when nobody says")),
    responses((status = 200, description = "The latest first", body = JobList), (status = 400, description = "The query cannot be read", body = ProblemDocument), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 403, description = "Only admins with a second factor may do this", body = ProblemDocument))
)]
async fn list(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    page: Result<Query<Page>, QueryRejection>,
) -> Answer {
    admin(&caller)?;
    let Query(page) = page.map_err(|cause| wrong_query(&cause))?;
    let wrong = |detail| Problem::new(StatusCode::BAD_REQUEST, "query-invalid", "The query cannot be read", detail);
    let state =
        page.state.as_deref().map(|text| jobs::State::decode(text).ok_or_else(|| wrong("there is no such state")));
    let before =
        page.before.as_deref().map(|text| JobId::decode(text).ok_or_else(|| wrong("before is the id of a job")));
    let limit = page.limit.unwrap_or(50).clamp(1, PAGE_MAX);
    let filter = Filter { state: state.transpose()?, before: before.transpose()?, limit, client: None };
    let found = app.db.jobs(&filter).await?;
    let next = (found.len() == limit as usize).then(|| found.last().map(|job| job.id.clone())).flatten();
    let now_us = app.clock.unix_us();
    let items: Vec<Value> = found.iter().map(|job| view::job(job, now_us)).collect();
    Ok(no_store(axum::Json(json!({ "items": items, "next": next })).into_response()))
}

/// `POST /api/v1/admin/jobs/{id}/retry`: once more, all of it.
#[utoipa::path(
    post,
    path = "/api/v1/admin/jobs/{id}/retry",
    tag = "admin",
    summary = "Try a job once more",
    security(("bearer" = [])),
    params(("id" = String, Path, description = "The id of the job")),
    responses((status = 202, description = "It is in the queue", body = JobView), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 403, description = "Only admins with a second factor may do this", body = ProblemDocument), (status = 404, description = "There is no such job", body = ProblemDocument), (status = 409, description = "It does not stand so that this could be done", body = ProblemDocument))
)]
async fn retry(State(app): State<Arc<App>>, Caller(caller): Caller, Path(id): Path<String>) -> Answer {
    admin(&caller)?;
    let id = JobId::decode(&id).ok_or_else(Problem::not_found)?;
    match app.db.retry(&id, None, app.clock.unix_us()).await? {
        Asked::Done | Asked::Told => {
            let job = app.db.job(&id).await?.ok_or_else(Problem::not_found)?;
            let body = axum::Json(view::job(&job, app.clock.unix_us()));
            Ok(no_store((StatusCode::ACCEPTED, body).into_response()))
        }
        Asked::Not(state) => {
            let detail = format!("{id} is {}", state.as_str());
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

/// After so long without a word a process has died, or does not reach the database: it says something every ten seconds.
const SILENT_US: i64 = 60_000_000;

/// `GET /api/v1/admin/workers`: who works, how that goes, and who has which lease.
#[utoipa::path(
    get,
    path = "/api/v1/admin/workers",
    tag = "admin",
    summary = "Who works, how often, and how that went",
    security(("bearer" = [])),
    responses((status = 200, description = "Every worker of every process, and leases, until when without another word", body = WorkerList), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 403, description = "Only admins with a second factor may do this", body = ProblemDocument))
)]
async fn workers(State(app): State<Arc<App>>, Caller(caller): Caller) -> Answer {
    admin(&caller)?;
    let now_us = app.clock.unix_us();
    let items: Vec<Value> = app.db.workers().await?.iter().map(|worker| said(worker, now_us)).collect();
    let line =
        |name: &str, does: String, until_us: i64| json!({ "name": name, "does": does, "until": rfc3339(until_us) });
    let mut leases = Vec::new();
    for (does, name, until_us) in app.db.holders().await? {
        leases.push(line(&name, does, until_us));
    }
    let leased = Filter { state: Some(jobs::State::Leased), limit: PAGE_MAX, ..Filter::default() };
    for job in app.db.jobs(&leased).await? {
        let name = job.worker.as_deref().unwrap_or_default();
        leases.push(line(name, format!("job {}", job.id), job.lease_until_us.unwrap_or(0)));
    }
    Ok(no_store(axum::Json(json!({ "items": items, "leases": leases })).into_response()))
}

/// What a worker said of itself.
fn said(worker: &Reported, now_us: i64) -> Value {
    let Reported { node, begun_us, seen_us, holds_until_us, report } = worker;
    let (failed_us, error) = report.failed.as_ref().map(|(at_us, why)| (*at_us, why)).unzip();
    json!({
        "worker": report.name,
        "node": node,
        "every_s": report.every_us as f64 / 1e6,
        "since": rfc3339(*begun_us),
        "seen_at": rfc3339(*seen_us),
        "silent": now_us - seen_us > SILENT_US,
        "holds_until": holds_until_us.map(rfc3339),
        "last_run_at": report.ran_us.map(rfc3339),
        "failures": report.failures,
        "last_error": error,
        "last_error_at": failed_us.map(rfc3339),
    })
}
