//! Pictures of tracks: taken in, made anew in three sizes, handed out.
//!
//! What is sent is decoded and encoded again: nothing of the file itself is kept, no position, no serial number of a
//! camera, no second file behind the first. Decoding is bounded by pixels and memory, and two are decoded at once.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::App;
use super::super::caller::{Anyone, Caller};
use super::super::gate::{self, Shared};
use super::super::openapi::ProblemDocument;
use super::super::problem::Problem;
use super::super::transcodes::{no_store, wrong_query};
use super::described::TrackView;
use super::{Answer, own, shown};
use crate::api::sent::Raw;
use crate::base::{Error, Kind};
use crate::origin::conditional::{self, Validators, Verdict};
use crate::pictures::{self, Refusal};
use crate::store::artwork;
use crate::tracks::access::Want;

/// The largest picture that is read, in bytes (product S3).
pub(crate) const PICTURE_BYTES_MAX: usize = 10 << 20;

pub(super) fn described() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(set, remove)).layer(DefaultBodyLimit::max(PICTURE_BYTES_MAX))
}

/// `PUT /api/v1/tracks/{id}/artwork` with a JPEG, PNG or WebP as its body.
#[utoipa::path(
    put,
    path = "/api/v1/tracks/{id}/artwork",
    tag = "tracks",
    summary = "Set the picture",
    security(("bearer" = []), ("api_key" = [])),
    params(("id" = String, Path, description = "The id of the track")),
    request_body(content((Vec<u8> = "image/jpeg"), (Vec<u8> = "image/png"), (Vec<u8> = "image/webp"))),
    responses((status = 200, description = "With where its sizes are", body = TrackView), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 404, description = "There is no such track of theirs", body = ProblemDocument), (status = 413, description = "The picture is too large", body = ProblemDocument), (status = 422, description = "It is no picture that can be used", body = ProblemDocument))
)]
async fn set(State(app): State<Arc<App>>, Caller(caller): Caller, Path(id): Path<String>, body: Raw) -> Answer {
    let known = own(&app, &id, &caller).await?;
    let bytes = body.map_err(|cause| {
        Problem::new(
            cause.status(),
            "picture",
            "The picture cannot be read",
            format!("send up to {PICTURE_BYTES_MAX} bytes"),
        )
    })?;
    let permit = Arc::clone(&app.pictures).acquire_owned().await.expect("nobody closes it");
    let made = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        pictures::sizes(&bytes, &artwork::SIZES)
    });
    let made = made.await.map_err(|cause| Error::internal("a picture was not decoded").because(cause))?;
    let pictures = made.map_err(|Refusal(why)| Problem::unprocessable("picture", "The picture cannot be used", why))?;
    let hash = artwork::hash(&pictures);
    let (store, track, name) = (app.store.clone(), known.id, hash.clone());
    let kept = tokio::task::spawn_blocking(move || artwork::put(&store, track, &name, &pictures));
    kept.await.map_err(|cause| Error::internal("keeping a picture was stopped").because(cause))??;
    let before = known.row.as_ref().and_then(|row| row.artwork.clone()).filter(|before| *before != hash);
    app.db.set_artwork(known.id, Some(&hash), app.clock.unix_us()).await?;
    forget(&app, known.id, before).await;
    shown(&app, known.id, StatusCode::OK).await
}

/// `DELETE /api/v1/tracks/{id}/artwork`.
#[utoipa::path(
    delete,
    path = "/api/v1/tracks/{id}/artwork",
    tag = "tracks",
    summary = "Remove the picture",
    security(("bearer" = []), ("api_key" = [])),
    params(("id" = String, Path, description = "The id of the track")),
    responses((status = 204, description = "It is gone"), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 404, description = "There is no such track of theirs", body = ProblemDocument))
)]
async fn remove(State(app): State<Arc<App>>, Caller(caller): Caller, Path(id): Path<String>) -> Answer {
    let known = own(&app, &id, &caller).await?;
    app.db.set_artwork(known.id, None, app.clock.unix_us()).await?;
    forget(&app, known.id, known.row.as_ref().and_then(|row| row.artwork.clone())).await;
    Ok(no_store(StatusCode::NO_CONTENT.into_response()))
}

/// Removes the pictures that were replaced. What fails is some hundred KB that nothing names.
async fn forget(app: &App, track: crate::base::id::TrackId, hash: Option<String>) {
    let Some(hash) = hash else { return };
    let store = app.store.clone();
    let gone = tokio::task::spawn_blocking(move || artwork::remove(&store, track, &hash)).await;
    if let Ok(Err(error)) = gone {
        tracing::warn!(track = track.as_str(), error = error.chain(), "pictures that were replaced stay");
    }
}

/// `GET /tracks/{id}/artwork/{hash}-{size}.jpg`: to whoever may know of the track.
#[utoipa::path(
    get, path = "/tracks/{id}/artwork/{name}", tag = "media", summary = "The picture of a track",
    security((), ("bearer" = []), ("api_key" = [])),
    params(("id" = String, Path, description = "The id of the track"), ("name" = String, Path, description = "As its track says: a hash, a size, `.jpg`"), ("share" = Option<String>, Query, description = "The token of a share: `sgs_…`")),
    responses(
        (status = 200, description = "A JPEG", content_type = "image/jpeg", body = Vec<u8>),
        (status = 304, description = "The client has it"),
        (status = 404, description = "There is none that they may know of", content_type = "text/plain", body = String),
        (status = 451, description = "A legal demand has closed it", content_type = "text/plain", body = String),
    )
)]
pub(in crate::api) async fn picture(
    State(app): State<Arc<App>>,
    Anyone(caller): Anyone,
    Path((id, name)): Path<(String, String)>,
    shared: Result<Query<Shared>, QueryRejection>,
    (method, asked): (Method, HeaderMap),
) -> Answer {
    let Query(Shared { share }) = shared.map_err(|cause| wrong_query(&cause))?;
    let known = match gate::look(&app, &id, caller.as_ref(), share.as_deref()).await {
        Ok(known) => known,
        Err(refused) => return Ok(refused.answer(&app)),
    };
    let ground = match known.may(Want::See) {
        Ok(ground) => ground,
        Err(refused) => return Ok(refused.answer(&app)),
    };
    let not_found = || super::super::plain(StatusCode::NOT_FOUND, "not found\n");
    let current = known.row.as_ref().and_then(|row| row.artwork.as_deref());
    let Some(size) = current.and_then(|hash| artwork::size_of(&name, hash)) else { return Ok(not_found()) };
    let etag = format!("\"{}\"", name.trim_end_matches(".jpg"));
    let caching = gate::caching(ground, HeaderValue::from_static("public, max-age=86400"));
    let headers = [
        (header::CACHE_CONTROL, caching),
        (header::ETAG, HeaderValue::try_from(etag.as_str()).expect("hexadecimal digits")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
        (header::HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("cross-origin")),
        (header::HeaderName::from_static("cdn-tag"), super::super::tag(known.id)),
    ];
    let validators = Validators { etag: etag.as_bytes(), modified_s: None };
    match conditional::evaluate(&asked, validators) {
        Verdict::PreconditionFailed => {
            return Ok(super::super::plain(StatusCode::PRECONDITION_FAILED, "precondition failed\n"));
        }
        Verdict::NotModified => return Ok((StatusCode::NOT_MODIFIED, headers).into_response()),
        Verdict::Send => {}
    }
    let (store, track, hash) = (app.store.clone(), known.id, current.unwrap_or_default().to_owned());
    let read = tokio::task::spawn_blocking(move || artwork::read(&store, track, &hash, size));
    let bytes = match read.await.map_err(|cause| Error::internal("reading a picture was stopped").because(cause))? {
        Err(error) if error.kind() == Kind::NotFound => return Ok(not_found()),
        read => read?,
    };
    let length = HeaderValue::from(bytes.len());
    let body = if method == Method::HEAD { Body::empty() } else { Body::from(bytes) };
    let mut response: Response = (headers, body).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("image/jpeg"));
    response.headers_mut().insert(header::CONTENT_LENGTH, length);
    Ok(response)
}
