//! `/api/v1/uploads`: files from people, as a form, announced and sent by tus (`tus.rs`), or straight to the bucket.
//! Everything needs an API key, and a key sees its own uploads and no others. Thin: decode, call `intake`, encode.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, options};
use http_body_util::{BodyDataStream, BodyExt as _, Limited};
use multer::{Constraints, Field, Multipart, SizeLimit};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use utoipa::{OpenApi as _, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::caller::{self, Creator};
use super::described::{AnnouncesView, FormView, PartUrls, PartsView, SentParts, UploadList, UploadView, WantsParts};
use super::openapi::Refused;
use super::problem::Problem;
use super::sent::{self, BodyType, body};
use super::transcodes::{given_key, no_store, wrong_query};
use super::tus;
use super::tus_described::Described;
use crate::base::Error;
use crate::base::clock::rfc3339;
use crate::base::id::TrackId;
use crate::db::uploads::{Begun, Created, PAGE_MAX, Quota};
use crate::intake::{Begin, Chunks, Ended, Intake, Writing};
use crate::uploads::{Kind, NewUpload, PART_BYTES, Rules, State as Standing, Upload, UploadId};
use crate::uploads::{clean_name, magic, parts_of, view};

/// What the routes need.
#[derive(Debug)]
pub struct Uploads {
    /// Takes uploads in.
    pub intake: Arc<Intake>,
}

/// The largest JSON, in bytes: the list of 10,000 parts.
const JSON_BYTES_MAX: usize = 1 << 20;
/// URLs for parts in one answer.
const URLS_MAX: usize = 100;
/// The longest field of a form that is not the file, in bytes.
const FIELD_BYTES_MAX: u64 = 4 << 10;
/// What a form may have in memory while its next field is looked for: several frames of a connection.
const FORM_HEAD_BYTES_MAX: u64 = 2 << 20;

/// The routes.
pub fn routes(uploads: Arc<Uploads>) -> OpenApiRouter {
    described().layer(map_response(for_browsers)).with_state(uploads)
}

/// The routes and what they say of themselves, without what they need.
pub(super) fn described() -> OpenApiRouter<Arc<Uploads>> {
    OpenApiRouter::with_openapi(Described::openapi())
        .routes(routes!(limits))
        .routes(routes!(create, list))
        .routes(routes!(show, remove))
        .routes(routes!(sign_parts, list_parts))
        .routes(routes!(complete))
        .route("/api/v1/uploads", options(preflight))
        .route("/api/v1/uploads/{id}", options(preflight))
        .route("/api/v1/uploads/{id}/parts", options(preflight))
        .route("/api/v1/uploads/{id}/complete", options(preflight))
        .route("/api/v1/upload/limits", options(preflight))
        .route("/api/v1/uploads/tus", any(tus::collection))
        .route("/api/v1/uploads/tus/", any(tus::collection))
        .route("/api/v1/uploads/tus/{id}", any(tus::one))
}

/// What its routes read.
pub(super) const BODIES: &[BodyType] =
    &[body::<Announces>("NewUpload"), body::<Wants>("PartNumbers"), body::<Done>("SentParts")];

pub(super) type Answer = Result<Response, Problem>;
type Checked<T> = Result<T, Problem>;

/// Keys travel in headers that a page has to set itself, never by themselves as cookies do: any page may ask.
async fn for_browsers(mut response: Response) -> Response {
    let fields = [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            "Location, Tus-Version, Tus-Resumable, Tus-Max-Size, Tus-Extension, Tus-Checksum-Algorithm, Upload-Offset, \
             Upload-Length, Upload-Metadata, Upload-Expires, Retry-After, X-Request-Id",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    for (name, value) in fields {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// What a browser asks before it sends what a form could not.
pub(super) async fn preflight() -> Response {
    let fields: [(HeaderName, &str); 3] = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, POST, PATCH, DELETE, OPTIONS"),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "Authorization, X-Api-Key, Content-Type, Idempotency-Key, Tus-Resumable, Upload-Length, Upload-Offset, \
             Upload-Metadata, Upload-Checksum, Upload-Defer-Length, Upload-Concat, X-HTTP-Method-Override, \
             X-Requested-With, X-Request-Id",
        ),
        (header::ACCESS_CONTROL_MAX_AGE, "86400"),
    ];
    (StatusCode::NO_CONTENT, fields).into_response()
}

/// What may be sent: for everybody, so that a page can say so before somebody waits for nothing.
#[utoipa::path(
    get,
    path = "/api/v1/upload/limits",
    tag = "uploads",
    summary = "What may be sent",
    responses((status = 200, description = "The limits of each kind of file", body = Limits))
)]
async fn limits(State(uploads): State<Arc<Uploads>>) -> Response {
    let rules = &uploads.intake.options.rules;
    let kind =
        |kind: Kind| json!({ "bytes_max": rules.bytes_max(kind), "mime": magic::mimes(kind).collect::<Vec<_>>() });
    let body = json!({
        "audio": kind(Kind::Audio),
        "image": kind(Kind::Image),
        "video": kind(Kind::Video),
        "part_bytes": PART_BYTES,
        "expires_s": rules.expires.as_secs(),
        "owner_uploads_max": rules.owner_uploads_max,
        "owner_in_flight_bytes_max": rules.owner_in_flight_bytes_max,
        "owner_stored_bytes_max": rules.owner_stored_bytes_max,
    });
    no_store(axum::Json(body).into_response())
}

/// What `limits` answers.
#[derive(ToSchema)]
#[schema(as = UploadLimits)]
#[expect(dead_code, reason = "a description of JSON that is made elsewhere")]
struct Limits {
    audio: KindLimits,
    image: KindLimits,
    video: KindLimits,
    /// Bytes of each part but the last, of what is sent straight to the bucket.
    part_bytes: u64,
    /// Seconds that an upload waits for its next byte.
    expires_s: u64,
    /// Uploads of one owner on their way at once.
    owner_uploads_max: u64,
    /// Bytes of one owner on their way.
    owner_in_flight_bytes_max: u64,
    /// Bytes of one owner stored or on their way.
    owner_stored_bytes_max: u64,
}

/// The limits of one kind of file.
#[derive(ToSchema)]
#[schema(as = UploadKindLimits)]
#[expect(dead_code, reason = "a description of JSON that is made elsewhere")]
struct KindLimits {
    /// Bytes of one file at most.
    bytes_max: u64,
    /// What is taken.
    mime: Vec<String>,
}

/// Takes a form with the file, or JSON that announces one.
#[utoipa::path(
    post, path = "/api/v1/uploads", tag = "uploads", summary = "Send or announce a file",
    security(("bearer" = []), ("api_key" = [])),
    params(("Idempotency-Key" = Option<String>, Header, description = "The same key again is the same upload")),
    request_body(content((AnnouncesView = "application/json"), (FormView = "multipart/form-data"))),
    responses(
        (status = 200, description = "It was announced before, under the same key", body = UploadView),
        (status = 201, description = "It is announced, or here", body = UploadView),
        Refused
    )
)]
async fn create(State(uploads): State<Arc<Uploads>>, request: Request) -> Answer {
    let owner = caller::creator(request.extensions())?.subject;
    let key = optional_key(request.headers())?;
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let content_type = content_type.unwrap_or_default().to_owned();
    if let Ok(boundary) = multer::parse_boundary(&content_type) {
        return form(&uploads, owner, key, request, boundary).await;
    }
    if !content_type.to_ascii_lowercase().starts_with("application/json") {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "content-type",
            "The body is of a type that is not read here",
            "send multipart/form-data with the file, or application/json to announce one",
        ));
    }
    let asks: Announces = read(request.into_body()).await?;
    let new = asks.checked(&uploads.intake, owner, key)?;
    let (status, upload) = announce(&uploads, &new).await?;
    Ok(created(status, &upload))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Announces {
    kind: String,
    bytes: u64,
    sha256: Option<String>,
    name: Option<String>,
    track_id: Option<String>,
}

impl Announces {
    fn checked(self, intake: &Intake, owner: String, idempotency_key: Option<String>) -> Checked<NewUpload> {
        let kind = kind(&self.kind)?;
        check_bytes(&intake.options.rules, kind, self.bytes)?;
        Ok(NewUpload {
            owner,
            kind,
            bytes: self.bytes,
            sha256: self.sha256.as_deref().map(sha256).transpose()?,
            name: self.name.as_deref().and_then(clean_name),
            track: self.track_id.as_deref().map(track).transpose()?,
            metadata: None,
            idempotency_key,
            place: intake.place(),
        })
    }
}

fn created(status: StatusCode, upload: &Upload) -> Response {
    let mut response = (status, axum::Json(view::upload(upload))).into_response();
    let location = format!("/api/v1/uploads/{}", upload.id);
    response.headers_mut().insert(header::LOCATION, HeaderValue::try_from(location).expect("ids are ASCII"));
    no_store(response)
}

/// Makes the row, or finds that of the same key; says why there can be none.
pub(super) async fn announce(uploads: &Uploads, new: &NewUpload) -> Checked<(StatusCode, Upload)> {
    answered(uploads, uploads.intake.create(new).await?)
}

fn answered(uploads: &Uploads, made: Created) -> Checked<(StatusCode, Upload)> {
    let rules = &uploads.intake.options.rules;
    match made {
        Created::New(upload) => Ok((StatusCode::CREATED, upload)),
        Created::Known(upload) => Ok((StatusCode::OK, upload)),
        Created::Conflict(id) => Err(Problem::unprocessable(
            "idempotency-key-reused",
            "This idempotency key belongs to another request",
            format!("it was used for {id}; use another key for another file"),
        )),
        Created::Full(quota) => {
            let (status, name, detail) = match quota {
                Quota::Uploads => (
                    StatusCode::TOO_MANY_REQUESTS,
                    "quota-uploads",
                    format!("{} uploads are on their way; finish or remove one", rules.owner_uploads_max),
                ),
                Quota::InFlight => (
                    StatusCode::TOO_MANY_REQUESTS,
                    "quota-in-flight",
                    format!(
                        "with it more than {} bytes would be on their way; finish or remove an upload",
                        rules.owner_in_flight_bytes_max
                    ),
                ),
                Quota::Stored => (
                    StatusCode::FORBIDDEN,
                    "quota-stored",
                    format!(
                        "with it more than {} bytes would be stored; remove an upload",
                        rules.owner_stored_bytes_max
                    ),
                ),
            };
            Err(Problem::new(status, name, "It would be more than one owner may have", detail))
        }
    }
}

/// A form: the fields first, then one file, streamed. It cannot be gone on with, so a form that breaks off leaves
/// nothing.
async fn form(
    uploads: &Uploads,
    owner: String,
    idempotency_key: Option<String>,
    request: Request,
    boundary: String,
) -> Answer {
    let rules = &uploads.intake.options.rules;
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let allowance = Arc::new(AtomicU64::new(FORM_HEAD_BYTES_MAX));
    let body = OneByOne { body: request.into_body(), gave: false, given: 0, allowance: Arc::clone(&allowance) };
    let limit = SizeLimit::new().whole_stream(rules.any_bytes_max().saturating_add(FORM_HEAD_BYTES_MAX));
    let constraints = Constraints::new().size_limit(limit);
    let mut form = Multipart::with_constraints(BodyDataStream::new(body), boundary, constraints);
    let (mut kind_said, mut sha_said, mut name_said, mut track_said) = (None, None, None, None);
    loop {
        let Some(field) = form.next_field().await.map_err(|cause| broken_form(&cause))? else {
            return Err(wrong_form("it has no file; send one in the field \"file\", after the others"));
        };
        let name = field.name().unwrap_or_default().to_owned();
        if field.file_name().is_none() && name != "file" {
            let text = text(field).await?;
            match name.as_str() {
                "kind" => kind_said = Some(kind(&text)?),
                "sha256" => sha_said = Some(sha256(&text)?),
                "name" => name_said = clean_name(&text),
                "track_id" => track_said = Some(track(&text)?),
                _ => {
                    return Err(wrong_form(&format!("there is no field {name:?}; kind, sha256, name, track_id, file")));
                }
            }
            continue;
        }
        let kind =
            kind_said.ok_or_else(|| wrong_form("its field kind is missing, or comes after the file; send it first"))?;
        let most = rules.bytes_max(kind);
        let new = NewUpload {
            owner,
            kind,
            // One more than may come: to reach it is to be too large.
            bytes: length.unwrap_or(u64::MAX).min(most + 1),
            sha256: sha_said,
            name: name_said.or_else(|| field.file_name().and_then(clean_name)),
            track: track_said,
            metadata: None,
            idempotency_key,
            place: uploads.intake.place(),
        };
        let announce = async || answered(uploads, uploads.intake.create_form(&new).await?);
        let (mut status, mut upload) = announce().await?;
        // Under way for all anybody knows, or left by a process that died.
        if status == StatusCode::OK && upload.state.is_open() && uploads.intake.give_up_form(&upload).await? {
            (status, upload) = announce().await?;
        }
        if status == StatusCode::OK {
            return match upload.state.is_open() {
                true => Err(in_use()),
                false => Ok(created(status, &upload)),
            };
        }
        let taken = file(uploads, &upload, field, &mut form, (most, &allowance)).await;
        if taken.is_err() {
            uploads.intake.remove(&upload.id).await?;
        }
        taken?;
        let upload = find(uploads, &upload.owner, upload.id.as_str()).await?;
        return Ok(created(StatusCode::CREATED, &upload));
    }
}

/// The file of a form, to its end, and nothing behind it.
async fn file(
    uploads: &Uploads,
    upload: &Upload,
    field: Field<'static>,
    form: &mut Multipart<'static>,
    (most, allowance): (u64, &AtomicU64),
) -> Checked<()> {
    let mut writing = begin(uploads, upload).await?;
    allowance.store(u64::MAX, Ordering::Relaxed);
    let mut chunks = FormFile { field: Some(field), form, allowance, taken: 0 };
    let ended = writing.take(&mut chunks, None, Some(most)).await;
    let offset = writing.offset();
    writing.end().await;
    match ended {
        Ended::Whole => Ok(()),
        Ended::TooLarge => Err(too_large(upload.kind, most)),
        ended => Err(stopped(&ended, offset)),
    }
}

/// The bytes of a form's file. They end only where the form does: what ends early is not whole.
struct FormFile<'a> {
    field: Option<Field<'static>>,
    form: &'a mut Multipart<'static>,
    allowance: &'a AtomicU64,
    /// Bytes of the file.
    taken: u64,
}

impl Chunks for FormFile<'_> {
    async fn next(&mut self) -> Option<Result<Bytes, String>> {
        while let Some(field) = &mut self.field {
            match field.chunk().await {
                Ok(Some(chunk)) if chunk.is_empty() => {}
                Ok(Some(chunk)) => {
                    self.taken += chunk.len() as u64;
                    return Some(Ok(chunk));
                }
                Ok(None) => {
                    self.field = None;
                    self.allowance.store(self.taken + 2 * FORM_HEAD_BYTES_MAX, Ordering::Relaxed);
                    return match self.form.next_field().await {
                        Ok(None) => None,
                        Ok(Some(_)) => Some(Err("something comes after the file; send the file last".into())),
                        Err(cause) => Some(Err(cause.to_string())),
                    };
                }
                Err(cause) => return Some(Err(cause.to_string())),
            }
        }
        None
    }
}

/// A body that gives one frame at a time: multer reads until nothing is there, which a fast sender never lets happen.
struct OneByOne {
    body: Body,
    gave: bool,
    given: u64,
    /// Bytes that may have been given before another frame is.
    allowance: Arc<AtomicU64>,
}

impl hyper::body::Body for OneByOne {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, axum::Error>>> {
        use std::task::Poll;
        if std::mem::take(&mut self.gave) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.given > self.allowance.load(Ordering::Relaxed) {
            return Poll::Ready(Some(Err(axum::Error::new("the fields of the form are too long"))));
        }
        let polled = std::pin::Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.gave = true;
            self.given += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        polled
    }
}

async fn text(mut field: Field<'static>) -> Checked<String> {
    let mut bytes = Vec::new();
    while let Some(chunk) = field.chunk().await.map_err(|cause| broken_form(&cause))? {
        if bytes.len() as u64 + chunk.len() as u64 > FIELD_BYTES_MAX {
            return Err(wrong_form(&format!("a field that is not the file is longer than {FIELD_BYTES_MAX} bytes")));
        }
        bytes.extend_from_slice(&chunk);
    }
    String::from_utf8(bytes).map_err(|_| wrong_form("a field is not text in UTF-8"))
}

fn wrong_form(detail: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "form-invalid", "The form cannot be read", detail)
}

fn broken_form(cause: &multer::Error) -> Problem {
    wrong_form(&format!("{cause}; send multipart/form-data with the file as its last field"))
}

/// Lists the caller's uploads, the latest first.
#[utoipa::path(
    get, path = "/api/v1/uploads", tag = "uploads", summary = "List uploads",
    security(("bearer" = []), ("api_key" = [])),
    params(
        ("limit" = inline(Option<u32>), Query, description = "1 to 200", nullable = false, minimum = 1, maximum = 200),
        ("before" = inline(Option<String>), Query, description = "`next` of the list before", nullable = false)
    ),
    responses((status = 200, description = "The caller's uploads", body = UploadList), Refused)
)]
async fn list(
    State(uploads): State<Arc<Uploads>>,
    Creator(caller): Creator,
    page: Result<Query<Page>, QueryRejection>,
) -> Answer {
    let owner = caller.subject.as_str();
    let Query(page) = page.map_err(|cause| wrong_query(&cause))?;
    let before = page.before.as_deref().map(|id| UploadId::decode(id).ok_or_else(Problem::not_found)).transpose()?;
    let limit = page.limit.unwrap_or(50).clamp(1, PAGE_MAX);
    let found = uploads.intake.db.uploads(owner, before.as_ref(), limit).await?;
    let next = (found.len() == limit as usize).then(|| found.last().map(|upload| upload.id.clone())).flatten();
    let items: Vec<_> = found.iter().map(view::upload).collect();
    Ok(no_store(axum::Json(json!({ "items": items, "next": next })).into_response()))
}

#[derive(Debug, Deserialize)]
struct Page {
    limit: Option<u32>,
    before: Option<String>,
}

/// Shows one upload.
#[utoipa::path(
    get, path = "/api/v1/uploads/{id}", tag = "uploads", summary = "Show an upload",
    security(("bearer" = []), ("api_key" = [])), params(("id" = String, Path, description = "Its id")),
    responses((status = 200, description = "As it stands", body = UploadView), Refused)
)]
async fn show(State(uploads): State<Arc<Uploads>>, Creator(caller): Creator, Path(id): Path<String>) -> Answer {
    let upload = find(&uploads, &caller.subject, &id).await?;
    Ok(no_store(axum::Json(view::upload(&upload)).into_response()))
}

/// Gives an upload up, or removes what is ready.
#[utoipa::path(
    delete, path = "/api/v1/uploads/{id}", tag = "uploads", summary = "Remove an upload",
    security(("bearer" = []), ("api_key" = [])), params(("id" = String, Path, description = "Its id")),
    responses((status = 204, description = "It is gone"), Refused)
)]
async fn remove(State(uploads): State<Arc<Uploads>>, Creator(caller): Creator, Path(id): Path<String>) -> Answer {
    let upload = find(&uploads, &caller.subject, &id).await?;
    match uploads.intake.remove(&upload.id).await? {
        true => Ok(no_store(StatusCode::NO_CONTENT.into_response())),
        false => Err(gone(&upload)),
    }
}

/// Lists what the bucket has, to go on after an interruption.
#[utoipa::path(
    get, path = "/api/v1/uploads/{id}/parts", tag = "uploads", summary = "List parts",
    security(("bearer" = []), ("api_key" = [])), params(("id" = String, Path, description = "Its id")),
    responses((status = 200, description = "The parts that are there", body = PartsView), Refused)
)]
async fn list_parts(State(uploads): State<Arc<Uploads>>, Creator(caller): Creator, Path(id): Path<String>) -> Answer {
    let upload = open(&uploads, &caller.subject, &id).await?;
    let parts = have(&uploads, &upload).await?;
    let body = json!({ "parts": parts, "part_bytes": PART_BYTES, "parts_of_it": parts_of(upload.bytes) });
    Ok(no_store(axum::Json(body).into_response()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wants {
    parts: Vec<u32>,
}

/// Makes URLs to PUT parts straight to the bucket, each for its exact length.
#[utoipa::path(
    post, path = "/api/v1/uploads/{id}/parts", tag = "uploads", summary = "URLs for parts",
    security(("bearer" = []), ("api_key" = [])), params(("id" = String, Path, description = "Its id")),
    request_body = WantsParts,
    responses((status = 200, description = "Where to PUT them", body = PartUrls), Refused)
)]
async fn sign_parts(State(uploads): State<Arc<Uploads>>, Path(id): Path<String>, request: Request) -> Answer {
    let upload = open(&uploads, &caller::creator(request.extensions())?.subject, &id).await?;
    let Wants { parts } = read(request.into_body()).await?;
    if parts.is_empty() || parts.len() > URLS_MAX {
        return Err(wrong_parts(&format!("{} parts were asked for; ask for 1 to {URLS_MAX} at a time", parts.len())));
    }
    let signed = sign(&uploads, &upload, &parts).await?;
    let until_us = uploads.intake.now_us() + uploads.intake.options.presign.as_micros() as i64;
    let parts: Vec<_> =
        signed.iter().map(|(number, bytes, url)| json!({ "number": number, "bytes": bytes, "url": url })).collect();
    Ok(no_store(axum::Json(json!({ "parts": parts, "expires_at": rfc3339(until_us) })).into_response()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Done {
    parts: Vec<Said>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    number: u32,
    etag: String,
}

/// Says that all parts are in the bucket.
#[utoipa::path(
    post, path = "/api/v1/uploads/{id}/complete", tag = "uploads", summary = "All parts are sent",
    security(("bearer" = []), ("api_key" = [])), params(("id" = String, Path, description = "Its id")),
    request_body = SentParts,
    responses(
        (status = 200, description = "It was complete before", body = UploadView),
        (status = 202, description = "It is looked at now", body = UploadView),
        Refused
    )
)]
async fn complete(State(uploads): State<Arc<Uploads>>, Path(id): Path<String>, request: Request) -> Answer {
    let owner = caller::creator(request.extensions())?.subject;
    let upload = find(&uploads, &owner, &id).await?;
    if matches!(upload.state, Standing::Verifying | Standing::Ready) {
        return Ok(created(StatusCode::OK, &upload)); // an answer that was lost is given again
    }
    let upload = open(&uploads, &owner, &id).await?;
    let Done { parts } = read(request.into_body()).await?;
    let said: Vec<_> = parts.into_iter().map(|said| (said.number, said.etag)).collect();
    match finish(&uploads, &upload, &said).await? {
        Begun::Writing(upload) => Ok(created(StatusCode::ACCEPTED, &upload)),
        Begun::Taken => Err(locked()),
        Begun::Not(upload) if matches!(upload.state, Standing::Verifying | Standing::Ready) => {
            Ok(created(StatusCode::OK, &upload))
        }
        Begun::Not(upload) => Err(gone(&upload)),
        Begun::Unknown => Err(Problem::not_found()),
    }
}

#[cfg(feature = "s3")]
async fn sign(uploads: &Uploads, upload: &Upload, parts: &[u32]) -> Checked<Vec<(u32, u64, String)>> {
    uploads.intake.presign(upload, parts).await.map_err(parts_problem)
}

#[cfg(feature = "s3")]
async fn have(uploads: &Uploads, upload: &Upload) -> Checked<Vec<serde_json::Value>> {
    let parts = uploads.intake.parts(upload).await.map_err(parts_problem)?;
    Ok(parts.iter().map(|part| json!({ "number": part.number, "bytes": part.bytes, "etag": part.etag })).collect())
}

#[cfg(feature = "s3")]
async fn finish(uploads: &Uploads, upload: &Upload, said: &[(u32, String)]) -> Checked<Begun> {
    uploads.intake.finish_parts(upload, said).await.map_err(parts_problem)
}

#[cfg(feature = "s3")]
fn parts_problem(error: Error) -> Problem {
    match error.kind() {
        crate::base::Kind::Usage => wrong_parts(&error.chain()),
        crate::base::Kind::NotFound => in_use(),
        _ => store_problem(&error),
    }
}

#[cfg(not(feature = "s3"))]
async fn sign(_: &Uploads, _: &Upload, _: &[u32]) -> Checked<Vec<(u32, u64, String)>> {
    Err(wrong_parts("this server has no bucket"))
}

#[cfg(not(feature = "s3"))]
async fn have(_: &Uploads, _: &Upload) -> Checked<Vec<serde_json::Value>> {
    Err(wrong_parts("this server has no bucket"))
}

#[cfg(not(feature = "s3"))]
async fn finish(_: &Uploads, _: &Upload, _: &[(u32, String)]) -> Checked<Begun> {
    Err(wrong_parts("this server has no bucket"))
}

fn wrong_parts(detail: &str) -> Problem {
    Problem::unprocessable("parts", "The parts are not those of this upload", detail)
}

/// An upload of this owner; anybody else's does not exist.
pub(super) async fn find(uploads: &Uploads, owner: &str, id: &str) -> Checked<Upload> {
    let id = UploadId::decode(id).ok_or_else(Problem::not_found)?;
    let upload = uploads.intake.db.upload(&id).await?;
    upload.filter(|upload| upload.owner == owner).ok_or_else(Problem::not_found)
}

/// The same, if bytes may still be added.
async fn open(uploads: &Uploads, owner: &str, id: &str) -> Checked<Upload> {
    let upload = find(uploads, owner, id).await?;
    match upload.state.is_open() {
        true => Ok(upload),
        false => Err(gone(&upload)),
    }
}

/// The right to write, or why not now.
pub(super) async fn begin(uploads: &Uploads, upload: &Upload) -> Checked<Writing> {
    match uploads.intake.begin(upload).await {
        Ok(Begin::Writing(writing)) => Ok(*writing),
        Ok(Begin::Taken) => Err(locked()),
        Ok(Begin::Busy) => Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "busy",
            "Too many uploads at once",
            format!("{} bodies are being taken; try again", uploads.intake.options.bodies_max),
        )),
        Ok(Begin::Not(upload)) => Err(gone(&upload)),
        Ok(Begin::Unknown) => Err(Problem::not_found()),
        Err(error) => Err(store_problem(&error)),
    }
}

/// Why a body was not taken to its end, in words for its sender.
pub(super) fn stopped(ended: &Ended, offset: u64) -> Problem {
    let go_on = format!("{offset} bytes are kept; go on from there");
    match ended {
        Ended::Whole => Problem::from(Error::internal("a whole body was called broken")),
        Ended::Broken(why) => Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "body-broken",
            "The body did not come to its end",
            format!("{why}; {go_on}"),
        ),
        Ended::TooLarge => Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-large",
            "There is more than was announced",
            format!("the body goes beyond Upload-Length; {go_on}"),
        ),
        Ended::Mismatch => Problem::new(
            StatusCode::from_u16(460).expect("it is below 1000"),
            "checksum-mismatch",
            "The body is not what its checksum says",
            format!("none of it is kept; {go_on}"),
        ),
        Ended::Lost => Problem::new(
            StatusCode::CONFLICT,
            "writer-lost",
            "Another request writes to this upload, or it has ended",
            "ask for its offset and go on from there",
        ),
        Ended::Full(error) => {
            tracing::error!(error = error.chain(), "there is no room for an upload");
            let detail = format!("the disk that takes uploads is full; {go_on} when there is room again");
            Problem::new(StatusCode::INSUFFICIENT_STORAGE, "no-room", "There is no room on this server", detail)
        }
        Ended::Failed(error) => {
            tracing::warn!(error = error.chain(), "an upload was interrupted by the store");
            let detail = format!("the store did not take the bytes; {go_on}");
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "store-unavailable", "Try again later", detail)
        }
    }
}

fn store_problem(error: &Error) -> Problem {
    stopped_before(error)
}

fn stopped_before(error: &Error) -> Problem {
    tracing::warn!(error = error.chain(), "the store does not answer for an upload");
    let detail = "the store does not answer; nothing is lost, go on later";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "store-unavailable", "Try again later", detail)
}

/// 423: somebody else writes.
pub(super) fn locked() -> Problem {
    Problem::new(
        StatusCode::LOCKED,
        "locked",
        "Another request writes to this upload",
        "wait until it has ended, ask for the offset, and go on from there",
    )
}

fn in_use() -> Problem {
    Problem::new(
        StatusCode::CONFLICT,
        "in-progress",
        "Another request is at this upload",
        "wait until it has ended, then ask for the upload",
    )
}

/// 410 for what has ended, 409 for what is whole.
pub(super) fn gone(upload: &Upload) -> Problem {
    let (id, state) = (&upload.id, upload.state.as_str());
    let why = upload.error.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
    match upload.state {
        Standing::Verifying | Standing::Ready => Problem::new(
            StatusCode::CONFLICT,
            "whole",
            "All of this upload is here",
            format!("{id} is {state}; nothing can be added"),
        ),
        Standing::Created | Standing::Uploading => {
            Problem::new(StatusCode::GONE, "gone", "This upload has ended", format!("{id} has expired; send it again"))
        }
        _ => Problem::new(StatusCode::GONE, "gone", "This upload has ended", format!("{id} is {state}{why}")),
    }
}

/// What is too large, and what would not be.
pub(super) fn too_large(kind: Kind, most: u64) -> Problem {
    Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "too-large",
        "The file is too large",
        format!("{} may have {most} bytes; GET /api/v1/upload/limits lists the limits", kind.as_str()),
    )
}

pub(super) fn check_bytes(rules: &Rules, kind: Kind, bytes: u64) -> Checked<()> {
    match rules.bytes_max(kind) {
        most if bytes > most => Err(too_large(kind, most)),
        _ => Ok(()),
    }
}

pub(super) fn kind(text: &str) -> Checked<Kind> {
    Kind::decode(text).ok_or_else(|| {
        Problem::unprocessable("kind", "There is no such kind", "give audio, image or video as the kind of the file")
    })
}

pub(super) fn sha256(text: &str) -> Checked<String> {
    let text = text.trim().to_ascii_lowercase();
    match text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        true => Ok(text),
        false => Err(Problem::unprocessable("sha256", "The SHA-256 cannot be read", "give 64 hexadecimal digits")),
    }
}

pub(super) fn track(text: &str) -> Checked<TrackId> {
    TrackId::decode(text).ok_or_else(|| {
        Problem::unprocessable("track", "The track id cannot be read", "give 1 to 31 characters of A-Z a-z 0-9 _ -")
    })
}

/// The key of the request, if it has one: tus clients have none.
pub(super) fn optional_key(headers: &HeaderMap) -> Checked<Option<String>> {
    headers.get("idempotency-key").map(given_key).transpose()
}

/// A JSON body.
async fn read<T: DeserializeOwned>(body: Body) -> Checked<T> {
    let bytes = Limited::new(body, JSON_BYTES_MAX).collect().await;
    let bytes = bytes.map_err(|cause| Problem::unreadable(StatusCode::BAD_REQUEST, cause.to_string()))?;
    sent::json(&bytes.to_bytes())
}

/// The method that is meant (tus: `X-HTTP-Method-Override`).
pub(super) fn effective_method(request: &Request) -> Method {
    let said = request.headers().get("x-http-method-override").and_then(|value| value.to_str().ok());
    said.and_then(|said| said.trim().to_ascii_uppercase().parse().ok()).unwrap_or_else(|| request.method().clone())
}
