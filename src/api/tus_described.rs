//! What `/api/v1/uploads/tus` is, for the description alone: its routes take every method, because a header may say which
//! is meant (`tus.rs`).

#![expect(dead_code, reason = "descriptions of routes that are elsewhere")]

use utoipa::OpenApi;

use super::openapi::ProblemDocument;

/// All of it.
#[derive(OpenApi)]
#[openapi(paths(offered, offered_of_one, created, looked_at, added_to, given_up))]
pub(super) struct Described;

/// Says which tus is spoken.
#[utoipa::path(
    options, path = "/api/v1/uploads/tus", tag = "uploads", summary = "What is offered by tus",
    responses(
        (status = 204, description = "Versions, extensions, checksums, the largest file: in `Tus-…`")
    )
)]
fn offered() {}

/// The same, where a page on another site asks first.
#[utoipa::path(
    options, path = "/api/v1/uploads/tus/{id}", tag = "uploads", summary = "What is offered by tus, asked of an upload",
    params(
        ("id" = String, Path, description = "Its id")
    ),
    responses(
        (status = 204, description = "Versions, extensions, checksums, the largest file: in `Tus-…`")
    )
)]
fn offered_of_one() {}

/// Announces a file.
#[utoipa::path(
    post, path = "/api/v1/uploads/tus", tag = "uploads", summary = "Announce a file by tus, with its first bytes or without",
    security(("bearer" = []), ("api_key" = [])),
    params(
        ("Tus-Resumable" = String, Header, description = "1.0.0"),
        ("Upload-Length" = u64, Header, description = "Bytes of the whole file"),
        ("Upload-Metadata" = Option<String>, Header, description = "`filename`, `filetype`, `kind`, `sha256`, `track_id`, each in base64"),
        ("Upload-Checksum" = Option<String>, Header, description = "Of this body: `sha256` and the digest in base64"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same again is the same upload")
    ),
    request_body(content = Option<Vec<u8>>, content_type = "application/offset+octet-stream"),
    responses(
        (status = 201, description = "It is announced: `Location` is where it goes on, `Upload-Offset` how far it is"),
        (status = 400, description = "A field cannot be read", body = ProblemDocument),
        (status = 401, description = "Nobody is named by this request", body = ProblemDocument),
        (status = 403, description = "Only creators may do this", body = ProblemDocument),
        (status = 412, description = "Another version of tus is spoken here", body = ProblemDocument),
        (status = 413, description = "It is too large", body = ProblemDocument),
        (status = 415, description = "The body is of a type that is not read here", body = ProblemDocument),
        (status = 422, description = "It cannot be taken", body = ProblemDocument)
    )
)]
fn created() {}

/// Says how far it is.
#[utoipa::path(
    head, path = "/api/v1/uploads/tus/{id}", tag = "uploads", summary = "How far an upload is",
    security(("bearer" = []), ("api_key" = [])),
    params(
        ("id" = String, Path, description = "Its id"),
        ("Tus-Resumable" = String, Header, description = "1.0.0")
    ),
    responses(
        (status = 200, description = "`Upload-Offset`, `Upload-Length`, `Upload-Metadata`, `Upload-Expires`"),
        (status = 401, description = "Nobody is named by this request", body = ProblemDocument),
        (status = 403, description = "Only creators may do this", body = ProblemDocument),
        (status = 412, description = "Another version of tus is spoken here", body = ProblemDocument),
        (status = 404, description = "There is no such upload of theirs", body = ProblemDocument),
        (status = 410, description = "It is gone", body = ProblemDocument)
    )
)]
fn looked_at() {}

/// Takes the next bytes.
#[utoipa::path(
    patch, path = "/api/v1/uploads/tus/{id}", tag = "uploads", summary = "Send the next bytes",
    security(("bearer" = []), ("api_key" = [])),
    params(
        ("id" = String, Path, description = "Its id"),
        ("Tus-Resumable" = String, Header, description = "1.0.0"),
        ("Upload-Offset" = u64, Header, description = "Where they begin: where the server is"),
        ("Upload-Checksum" = Option<String>, Header, description = "Of this body: `sha256` and the digest in base64")
    ),
    request_body(content = Vec<u8>, content_type = "application/offset+octet-stream"),
    responses(
        (status = 204, description = "They are here: `Upload-Offset` says how far it is now"),
        (status = 400, description = "A field cannot be read", body = ProblemDocument),
        (status = 401, description = "Nobody is named by this request", body = ProblemDocument),
        (status = 403, description = "Only creators may do this", body = ProblemDocument),
        (status = 412, description = "Another version of tus is spoken here", body = ProblemDocument),
        (status = 404, description = "There is no such upload of theirs", body = ProblemDocument),
        (status = 409, description = "The server is elsewhere, or somebody else sends", body = ProblemDocument),
        (status = 410, description = "It is gone", body = ProblemDocument),
        (status = 413, description = "These are more bytes than were announced", body = ProblemDocument),
        (status = 415, description = "The body is of a type that is not read here", body = ProblemDocument),
        (status = 460, description = "The checksum is another one", body = ProblemDocument)
    )
)]
fn added_to() {}

/// Gives it up.
#[utoipa::path(
    delete, path = "/api/v1/uploads/tus/{id}", tag = "uploads", summary = "Give an upload up",
    security(("bearer" = []), ("api_key" = [])),
    params(
        ("id" = String, Path, description = "Its id"),
        ("Tus-Resumable" = String, Header, description = "1.0.0")
    ),
    responses(
        (status = 204, description = "It is gone"),
        (status = 401, description = "Nobody is named by this request", body = ProblemDocument),
        (status = 403, description = "Only creators may do this", body = ProblemDocument),
        (status = 412, description = "Another version of tus is spoken here", body = ProblemDocument),
        (status = 404, description = "There is no such upload of theirs", body = ProblemDocument),
        (status = 410, description = "It was gone", body = ProblemDocument)
    )
)]
fn given_up() {}
