//! `/api/v1/uploads/tus`: tus 1.0.0, with creation, creation-with-upload, expiration, checksum and termination.
//! `Upload-Defer-Length` and `Upload-Concat` are refused: room is reserved when an upload is announced, so its length
//! has to be known. (<https://tus.io/protocols/resumable-upload>)

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;

use super::caller;
use super::problem::Problem;
use super::transcodes::{no_store, wrong_method};
use super::uploads::{
    Answer, Uploads, announce, begin, check_bytes, effective_method, find, gone, kind, optional_key, preflight, sha256,
    stopped, track,
};
use crate::intake::{Chunks, Ended};
use crate::uploads::tus::{CHECKSUMS, Checksum, EXTENSIONS, Metadata, VERSION};
use crate::uploads::{Kind, NewUpload, Upload, clean_name};

const TUS_RESUMABLE: HeaderName = HeaderName::from_static("tus-resumable");
const TUS_VERSION: HeaderName = HeaderName::from_static("tus-version");
const TUS_EXTENSION: HeaderName = HeaderName::from_static("tus-extension");
const TUS_MAX_SIZE: HeaderName = HeaderName::from_static("tus-max-size");
const TUS_CHECKSUM_ALGORITHM: HeaderName = HeaderName::from_static("tus-checksum-algorithm");
const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");
const UPLOAD_LENGTH: HeaderName = HeaderName::from_static("upload-length");
const UPLOAD_METADATA: HeaderName = HeaderName::from_static("upload-metadata");
const UPLOAD_EXPIRES: HeaderName = HeaderName::from_static("upload-expires");
/// What a body with bytes of an upload says that it is.
const OFFSET_STREAM: &str = "application/offset+octet-stream";
/// What is read of a body that was refused, so that its sender hears why instead of a reset connection.
const DRAINED_BYTES_MAX: usize = 1 << 20;

/// `/api/v1/uploads/tus`: what is offered, and new uploads.
pub(super) async fn collection(State(uploads): State<Arc<Uploads>>, request: Request) -> Response {
    match effective_method(&request) {
        Method::OPTIONS => discovery(&uploads).await,
        Method::POST => {
            spoken(request, async |owner, headers, body| create(&uploads, owner, headers, body).await).await
        }
        _ => told(wrong_method().await.into_response()),
    }
}

/// `/api/v1/uploads/tus/{id}`: one upload.
pub(super) async fn one(State(uploads): State<Arc<Uploads>>, Path(id): Path<String>, request: Request) -> Response {
    match effective_method(&request) {
        Method::OPTIONS => discovery(&uploads).await,
        Method::HEAD => spoken(request, async |owner, _, _| look(&uploads, &id, owner).await).await,
        Method::PATCH => {
            spoken(request, async |owner, headers, body| add(&uploads, &id, owner, headers, body).await).await
        }
        Method::DELETE => spoken(request, async |owner, _, _| terminate(&uploads, &id, owner).await).await,
        _ => told(wrong_method().await.into_response()),
    }
}

async fn discovery(uploads: &Uploads) -> Response {
    let mut response = preflight().await;
    let most = uploads.intake.options.rules.any_bytes_max();
    let headers = response.headers_mut();
    headers.insert(TUS_VERSION, HeaderValue::from_static(VERSION));
    headers.insert(TUS_EXTENSION, HeaderValue::from_static(EXTENSIONS));
    headers.insert(TUS_CHECKSUM_ALGORITHM, HeaderValue::from_static(CHECKSUMS));
    headers.insert(TUS_MAX_SIZE, HeaderValue::from(most));
    told(response)
}

/// Answers whoever may ask, in the one version that is spoken; a request in another one is not looked at.
async fn spoken(request: Request, answer: impl AsyncFnOnce(&str, &HeaderMap, &mut Body) -> Answer) -> Response {
    let (head, mut body) = request.into_parts();
    let mut response = match text(&head.headers, "tus-resumable") {
        Some(VERSION) => {
            let answered = match caller::creator(&head.extensions) {
                Ok(caller) => answer(&caller.subject, &head.headers, &mut body).await,
                Err(problem) => Err(problem),
            };
            answered.unwrap_or_else(Problem::into_response)
        }
        _ => {
            let detail = format!("send Tus-Resumable: {VERSION}");
            let title = "Another version of tus is spoken here";
            let mut response =
                Problem::new(StatusCode::PRECONDITION_FAILED, "tus-version", title, detail).into_response();
            response.headers_mut().insert(TUS_VERSION, HeaderValue::from_static(VERSION));
            response
        }
    };
    if response.status().is_client_error() || response.status().is_server_error() {
        drain(&mut body).await;
    }
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    told(response)
}

fn told(mut response: Response) -> Response {
    response.headers_mut().insert(TUS_RESUMABLE, HeaderValue::from_static(VERSION));
    response
}

async fn drain(body: &mut Body) {
    let mut left = DRAINED_BYTES_MAX;
    while let Some(Ok(frame)) = body.frame().await {
        left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        if left == 0 {
            return;
        }
    }
}

/// `POST`: announces an upload, with its first bytes or without.
async fn create(uploads: &Uploads, owner: &str, headers: &HeaderMap, body: &mut Body) -> Answer {
    for (name, what) in [("upload-defer-length", "its length"), ("upload-concat", "all of it in one upload")] {
        if headers.contains_key(name) {
            return Err(bad(&format!("{name} is not offered; send {what}")));
        }
    }
    let length = number(headers, "upload-length")?.ok_or_else(|| bad("Upload-Length is missing"))?;
    let metadata = Metadata::decode(text(headers, "upload-metadata").unwrap_or_default()).map_err(|why| bad(&why))?;
    let kind = kind_of(&metadata)?;
    check_bytes(&uploads.intake.options.rules, kind, length)?;
    let brings = !body.is_end_stream() && text(headers, "content-length") != Some("0");
    if brings {
        check_content_type(headers)?;
    }
    let checksum = checksum(headers)?;
    let encoded = metadata.encode();
    let new = NewUpload {
        owner: owner.to_owned(),
        kind,
        bytes: length,
        sha256: metadata.text("sha256").map(sha256).transpose()?,
        name: metadata.text("filename").or_else(|| metadata.text("name")).and_then(clean_name),
        track: metadata.text("track_id").map(track).transpose()?,
        metadata: (!encoded.is_empty()).then_some(encoded),
        idempotency_key: optional_key(headers)?,
        place: uploads.intake.place(),
    };
    let (status, upload) = announce(uploads, &new).await?;
    let is_new = status == StatusCode::CREATED;
    // An empty file is whole at once.
    if !is_new || !(brings || length == 0) {
        return Ok(made(uploads, StatusCode::CREATED, &upload, upload.offset));
    }
    // What is announced stays announced, whatever becomes of its first bytes: the sender goes on by PATCH.
    let mut writing = match begin(uploads, &upload).await {
        Ok(writing) => writing,
        Err(_) => return Ok(made(uploads, StatusCode::CREATED, &upload, 0)),
    };
    let ended = writing.take(&mut BodyChunks(body), checksum, None).await;
    let (offset, state) = (writing.offset(), writing.state());
    writing.end().await;
    let upload = Upload { state, offset, ..upload };
    match ended {
        Ended::Mismatch | Ended::TooLarge => {
            let mut response = stopped(&ended, offset).into_response();
            let made = made(uploads, response.status(), &upload, offset);
            response.headers_mut().extend(made.headers().clone());
            Ok(response)
        }
        ended => {
            if !matches!(ended, Ended::Whole) {
                tracing::debug!(upload = upload.id.as_str(), ?ended, "the first bytes of an upload did not all come");
            }
            Ok(made(uploads, StatusCode::CREATED, &upload, offset))
        }
    }
}

fn made(uploads: &Uploads, status: StatusCode, upload: &Upload, offset: u64) -> Response {
    let mut response = status.into_response();
    let location = format!("/api/v1/uploads/tus/{}", upload.id);
    response.headers_mut().insert(header::LOCATION, HeaderValue::try_from(location).expect("ids are ASCII"));
    response.headers_mut().insert(UPLOAD_OFFSET, HeaderValue::from(offset));
    if upload.state.is_open() {
        expires(uploads, response.headers_mut());
    }
    response
}

/// Each accepted byte puts the end off, so it is counted from now.
fn expires(uploads: &Uploads, headers: &mut HeaderMap) {
    let end_us = uploads.intake.now_us() + uploads.intake.options.rules.expires.as_micros() as i64;
    expires_at(end_us, headers);
}

fn expires_at(end_us: i64, headers: &mut HeaderMap) {
    let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_micros(end_us.max(0) as u64));
    headers.insert(UPLOAD_EXPIRES, HeaderValue::try_from(date).expect("dates are ASCII"));
}

/// `HEAD`: how far it is.
async fn look(uploads: &Uploads, id: &str, owner: &str) -> Answer {
    let upload = find(uploads, owner, id).await?;
    let now_us = uploads.intake.now_us();
    let expired = upload.state.is_open() && upload.expires_us.is_none_or(|end| end <= now_us);
    if upload.state.is_gone() || expired {
        return Err(gone(&upload));
    }
    let mut response = StatusCode::OK.into_response();
    let headers = response.headers_mut();
    headers.insert(UPLOAD_OFFSET, HeaderValue::from(upload.offset));
    headers.insert(UPLOAD_LENGTH, HeaderValue::from(upload.bytes));
    if let Some(metadata) = &upload.metadata {
        headers.insert(UPLOAD_METADATA, HeaderValue::try_from(metadata).expect("it is visible ASCII"));
    }
    if let Some(end_us) = upload.expires_us.filter(|_| upload.state.is_open()) {
        expires_at(end_us, headers);
    }
    Ok(no_store(response))
}

/// `PATCH`: the next bytes.
async fn add(uploads: &Uploads, id: &str, owner: &str, headers: &HeaderMap, body: &mut Body) -> Answer {
    check_content_type(headers)?;
    let at = number(headers, "upload-offset")?.ok_or_else(|| bad("Upload-Offset is missing"))?;
    let checksum = checksum(headers)?;
    let upload = find(uploads, owner, id).await?;
    if upload.state.is_gone() {
        return Err(gone(&upload));
    }
    if at != upload.offset {
        return Ok(elsewhere(at, upload.offset));
    }
    let length = number(headers, "content-length")?;
    if length.is_some_and(|length| length > upload.bytes - at) {
        return Ok(with_offset(stopped(&Ended::TooLarge, at), at));
    }
    if !upload.state.is_open() {
        return match length {
            Some(0) => Ok(added(uploads, &upload, at)),
            _ => Err(gone(&upload)),
        };
    }
    let mut writing = begin(uploads, &upload).await?;
    if at != writing.offset() {
        let offset = writing.offset();
        writing.end().await;
        return Ok(elsewhere(at, offset));
    }
    let ended = writing.take(&mut BodyChunks(body), checksum, None).await;
    let (offset, state) = (writing.offset(), writing.state());
    writing.end().await;
    match ended {
        Ended::Whole => Ok(added(uploads, &Upload { state, ..upload }, offset)),
        ended => Ok(with_offset(stopped(&ended, offset), offset)),
    }
}

fn added(uploads: &Uploads, upload: &Upload, offset: u64) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    response.headers_mut().insert(UPLOAD_OFFSET, HeaderValue::from(offset));
    if upload.state.is_open() {
        expires(uploads, response.headers_mut());
    }
    response
}

fn elsewhere(at: u64, offset: u64) -> Response {
    let detail = format!("the next byte is {offset} and not {at}; ask for the offset and go on from there");
    with_offset(Problem::new(StatusCode::CONFLICT, "offset", "The offset is another one", detail), offset)
}

fn with_offset(problem: Problem, offset: u64) -> Response {
    let mut response = problem.into_response();
    response.headers_mut().insert(UPLOAD_OFFSET, HeaderValue::from(offset));
    response
}

/// `DELETE`: gives it up.
async fn terminate(uploads: &Uploads, id: &str, owner: &str) -> Answer {
    let upload = find(uploads, owner, id).await?;
    match uploads.intake.remove(&upload.id).await? {
        true => Ok(StatusCode::NO_CONTENT.into_response()),
        false => Err(gone(&upload)),
    }
}

/// What a file is said to be: by `kind`, else by the beginning of its MIME type, else it is sound.
fn kind_of(metadata: &Metadata) -> Result<Kind, Problem> {
    if let Some(said) = metadata.text("kind") {
        return kind(said);
    }
    let mime = metadata.text("filetype").or_else(|| metadata.text("type")).unwrap_or_default();
    Ok(mime.split('/').next().and_then(Kind::decode).unwrap_or(Kind::Audio))
}

fn check_content_type(headers: &HeaderMap) -> Result<(), Problem> {
    match text(headers, "content-type") {
        Some(OFFSET_STREAM) => Ok(()),
        _ => Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "content-type",
            "The body is of a type that is not read here",
            format!("send Content-Type: {OFFSET_STREAM}"),
        )),
    }
}

fn checksum(headers: &HeaderMap) -> Result<Option<Checksum>, Problem> {
    let said = headers.get("upload-checksum").map(|value| value.to_str().unwrap_or_default());
    said.map(|said| Checksum::decode(said).map_err(|why| bad(&why))).transpose()
}

/// A field with a number, without sign or space.
fn number(headers: &HeaderMap, name: &str) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let digits = value.to_str().ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    let number = digits.and_then(|text| text.parse::<u64>().ok()).filter(|number| i64::try_from(*number).is_ok());
    number.map(Some).ok_or_else(|| bad(&format!("{name} is not a number of bytes")))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

fn bad(detail: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "tus-invalid", "The request cannot be read", detail)
}

/// The bytes of a body as they arrive.
struct BodyChunks<'a>(&'a mut Body);

impl Chunks for BodyChunks<'_> {
    async fn next(&mut self) -> Option<Result<Bytes, String>> {
        loop {
            match self.0.frame().await? {
                Err(cause) => return Some(Err(cause.to_string())),
                Ok(frame) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => return Some(Ok(data)),
                    _ => {}
                },
            }
        }
    }
}
