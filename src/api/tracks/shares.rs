//! Shares: an owner gives a token, and whoever has it hears the track until it ends or is taken back.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::super::App;
use super::super::caller::Caller;
use super::super::openapi::ProblemDocument;
use super::super::problem::Problem;
use super::super::transcodes::no_store;
use super::described::{MadeShare, Resolved, ShareList};
use super::{Answer, Part, find_own, own, part};
use crate::api::sent::{self, Raw};
use crate::base::clock::rfc3339;
use crate::catalogue;
use crate::db::tracks::{NewShare, Share};
use crate::tracks::share::{self, LABEL_CHARS_MAX, SHARES_MAX, ShareId, VALID_S, VALID_S_MAX};

/// What a share is to be.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = WantedShare)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Asks {
    /// What its owner calls it.
    label: Option<String>,
    #[schema(minimum = 60)]
    expires_in_s: Option<i64>,
}

/// `POST /api/v1/tracks/{id}/share`: the token is in this answer and nowhere else.
#[utoipa::path(
    post,
    path = "/api/v1/tracks/{id}/share",
    tag = "shares",
    summary = "Share a track with whoever has a token",
    security(("bearer" = []), ("api_key" = [])),
    params(("id" = String, Path, description = "The id of the track")),
    request_body = Option<Asks>,
    responses((status = 201, description = "The token is in this answer and nowhere else", body = MadeShare), (status = 400, description = "The body cannot be read", body = ProblemDocument), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 404, description = "There is no such track of theirs", body = ProblemDocument), (status = 409, description = "It has as many as it may", body = ProblemDocument), (status = 422, description = "It cannot be done like that", body = ProblemDocument))
)]
pub(super) async fn create(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    body: Raw,
) -> Answer {
    let known = own(&app, &id, &caller).await?;
    let nothing = body.as_ref().is_ok_and(axum::body::Bytes::is_empty);
    let Asks { label, expires_in_s } = if nothing { Asks::default() } else { sent::json_of(body)? };
    let valid_s = expires_in_s.unwrap_or(VALID_S);
    if !(60..=VALID_S_MAX).contains(&valid_s) {
        let detail = format!("expires_in_s is 60 to {VALID_S_MAX}");
        return Err(Problem::unprocessable("expiry", "A share cannot last so long", detail));
    }
    if label.as_ref().is_some_and(|label| label.chars().count() > LABEL_CHARS_MAX || label.contains(char::is_control)) {
        let detail = format!("a label has up to {LABEL_CHARS_MAX} characters and no line breaks");
        return Err(Problem::unprocessable("label", "The label cannot be used", detail));
    }
    // From now on somebody knows the addresses of a private track, and will when the share is over.
    catalogue::guard_if_private(&app.db, &app.store, known.id).await?;
    let (token, sha256) = share::mint();
    let now_us = app.clock.unix_us();
    let expires_us = now_us + valid_s * 1_000_000;
    let new = NewShare { track: known.id, sha256: &sha256, label: label.as_deref(), expires_us };
    let id = app.db.create_share(&new, now_us).await?.ok_or_else(|| {
        let detail = format!("{SHARES_MAX} are in force; take one back");
        Problem::new(StatusCode::CONFLICT, "shares-full", "The track has as many shares as it may", detail)
    })?;
    let body = json!({
        "id": id,
        "track": known.id,
        "token": token,
        "url": format!("{}/watch/{}?share={token}", app.base.as_deref().unwrap_or_default(), known.id),
        "label": label,
        "expires_at": rfc3339(expires_us),
    });
    Ok(no_store((StatusCode::CREATED, axum::Json(body)).into_response()))
}

/// `GET /api/v1/tracks/{id}/share?limit=&before=`: those in force, without their tokens, the latest first.
#[utoipa::path(
    get,
    path = "/api/v1/tracks/{id}/share",
    tag = "shares",
    summary = "Shares in force",
    security(("bearer" = []), ("api_key" = [])),
    params(("id" = String, Path, description = "The id of the track"), ("limit" = Option<u32>, Query, description = "1 to 200; 50 when nobody says"), ("before" = Option<String>, Query, description = "What `next` of the page before says")),
    responses((status = 200, description = "Without their tokens, the latest first", body = ShareList), (status = 400, description = "The query cannot be read", body = ProblemDocument), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 404, description = "There is no such track of theirs", body = ProblemDocument))
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    page: Result<Query<Part>, QueryRejection>,
) -> Answer {
    let known = find_own(&app, &id, &caller).await?;
    let (limit, before) = Part::of(page, ShareId::decode)?;
    let found = app.db.shares(known.id, before.as_ref(), limit, app.clock.unix_us()).await?;
    Ok(part(found.iter().map(view).collect(), limit))
}

/// `DELETE /api/v1/tracks/{id}/share/{share}`.
#[utoipa::path(
    delete,
    path = "/api/v1/tracks/{id}/share/{share}",
    tag = "shares",
    summary = "Take a share back",
    security(("bearer" = []), ("api_key" = [])),
    params(("id" = String, Path, description = "The id of the track"), ("share" = String, Path)),
    responses((status = 204, description = "Its token opens nothing any more"), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 404, description = "There is no such share", body = ProblemDocument))
)]
pub(super) async fn revoke(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Path((id, share)): Path<(String, String)>,
) -> Answer {
    let known = own(&app, &id, &caller).await?;
    let share = ShareId::decode(&share).ok_or_else(Problem::not_found)?;
    match app.db.revoke_share(known.id, &share, app.clock.unix_us()).await? {
        true => Ok(no_store(StatusCode::NO_CONTENT.into_response())),
        false => Err(Problem::not_found()),
    }
}

/// A token of a share.
#[derive(Deserialize, ToSchema)]
#[schema(as = ShareToken)]
#[serde(deny_unknown_fields)]
pub(super) struct Has {
    /// `sgs_…`.
    token: String,
}

/// `POST /api/v1/shares/resolve` with `{"token":"sgs_…"}`: what it is a token of. In a body, because addresses are logged.
#[utoipa::path(
    post,
    path = "/api/v1/shares/resolve",
    tag = "shares",
    summary = "What a token is a share of",
    security(()),
    request_body = Has,
    responses((status = 200, description = "What it opens", body = Resolved), (status = 400, description = "The body cannot be read", body = ProblemDocument), (status = 404, description = "It opens nothing", body = ProblemDocument))
)]
pub(super) async fn resolve(State(app): State<Arc<App>>, body: Raw) -> Answer {
    let Has { token } = sent::json_of(body)?;
    let sha256 = share::digest(&token).ok_or_else(Problem::not_found)?;
    let found = app.db.share_of(&sha256, app.clock.unix_us()).await?.ok_or_else(Problem::not_found)?;
    let watch = format!("/watch/{}?share={token}", found.track);
    let body = json!({ "track": found.track, "expires_at": rfc3339(found.expires_us), "watch": watch });
    Ok(no_store(axum::Json(body).into_response()))
}

fn view(share: &Share) -> Value {
    json!({
        "id": share.id,
        "label": share.label,
        "created_at": rfc3339(share.created_us),
        "expires_at": rfc3339(share.expires_us),
    })
}
