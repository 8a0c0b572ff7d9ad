//! The API's description of itself: `/api/v1/openapi.json`, and `/api/docs` for people.
//!
//! A handler says what it takes and answers in `#[utoipa::path(…)]`, and `routes!(handler)` registers the route and
//! the description in one step, so that neither is there without the other. A module of routes has
//! `described()`, which needs no state and is what `segue openapi` prints, and `routes(state)`, which the server merges
//! (`app/pages.rs`). Both lists are compared by `tests/it/openapi.rs`.

use std::collections::BTreeMap;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder};
use utoipa::{IntoResponses, Modify, OpenApi, PartialSchema as _, ToSchema, openapi};
use utoipa_axum::router::OpenApiRouter;

use super::operations;
use super::problem::Problem;
use crate::admin::plain;
use crate::base::hex;

/// What stands above all routes.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Segue",
        version = "1",
        description = "The control API. Errors are `application/problem+json` (RFC 9457); every answer below `/api/` says in \
                       `RateLimit` what is left. Uploads can also be sent by tus 1.0 at `/api/v1/uploads/tus`: \
                       https://tus.io/protocols/resumable-upload.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    modifiers(&Schemes),
    components(schemas(ProblemDocument)),
    tags(
        (name = "auth", description = "Logging in and out, second factors, sessions"),
        (name = "users", description = "The caller's own account and API keys"),
        (name = "uploads", description = "Files that people send"),
        (name = "transcodes", description = "Work for the transcoder"),
        (name = "tracks", description = "What owners make of their tracks, and what others may know of them"),
        (name = "shares", description = "Tokens that open one track to whoever has them"),
        (name = "dmca", description = "Notices of infringement, 17 USC 512"),
        (name = "admin", description = "What only admins with a second factor may do"),
        (name = "money", description = "Buying, selling, giving back, subscribing"),
        (name = "media", description = "The stable names of a track's media, for players; what they lead to is in docs/CDN.md"),
        (name = "pages", description = "What people and other sites open"),
    )
)]
struct Head;

/// The ways to say who asks.
struct Schemes;

impl Modify for Schemes {
    fn modify(&self, document: &mut openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("An access token (15 minutes at most), or an API key: `sgk_…`"))
            .build();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
        let key = ApiKey::Header(ApiKeyValue::with_description("X-Api-Key", "The same API key in a header of its own"));
        components.add_security_scheme("api_key", SecurityScheme::ApiKey(key));
    }
}

/// What an error is (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemDocument {
    /// What kind of error: stable, for programs.
    #[serde(rename = "type")]
    #[schema(example = "/problems/not-found")]
    kind: String,
    /// The kind in words.
    title: String,
    /// The HTTP status.
    status: u16,
    /// What failed and what to do, for people.
    detail: String,
}

/// What any route may answer that is an error: a problem, whatever its status.
pub struct Refused;

impl IntoResponses for Refused {
    fn responses() -> BTreeMap<String, RefOr<openapi::Response>> {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
        let of = |about: &str| {
            let response = ResponseBuilder::new().description(about);
            RefOr::T(response.content("application/problem+json", content.clone()).build())
        };
        [("4XX", of("It cannot be done: the problem says why")), ("5XX", of("Not now: the problem says why"))]
            .into_iter()
            .map(|(status, response)| (status.to_owned(), response))
            .collect()
    }
}

/// The whole document, without a server.
pub fn document() -> openapi::OpenApi {
    let parts = [
        super::auth::described().into_openapi(),
        super::users::described().into_openapi(),
        super::leaving::described().into_openapi(),
        super::api_keys::described().into_openapi(),
        super::transcodes::described().into_openapi(),
        super::uploads::described().into_openapi(),
        super::money::described().into_openapi(),
        super::described_catalogue().into_openapi(),
        super::described_media().into_openapi(),
    ];
    let mut document = Head::openapi();
    for part in parts {
        document.merge(part);
    }
    finished(document)
}

/// A list was asked to go on behind something that is not in it.
pub(super) fn wrong_cursor() -> Problem {
    let detail = "give what `next` of the list before says";
    Problem::new(StatusCode::BAD_REQUEST, "query-invalid", "The query cannot be read", detail)
}

/// Adds what holds for every operation: its name, that the door may refuse it (limits, credentials), and that a database may
/// be away.
fn finished(mut document: openapi::OpenApi) -> openapi::OpenApi {
    let refused = Refused::responses();
    for (path, item) in &mut document.paths.paths {
        let is_api = path.starts_with("/api/") || path.starts_with("/webhooks/");
        let all = [
            ("GET", &mut item.get),
            ("POST", &mut item.post),
            ("PUT", &mut item.put),
            ("PATCH", &mut item.patch),
            ("DELETE", &mut item.delete),
            ("HEAD", &mut item.head),
            ("OPTIONS", &mut item.options),
        ];
        for (method, operation) in all {
            let Some(operation) = operation else { continue };
            operation.operation_id = operations::name(method, path).map(str::to_owned);
            // Every refusal is a problem, also where a route only says which.
            for (status, response) in &mut operation.responses.responses {
                if let (RefOr::T(response), true) = (response, is_api && status.starts_with(['4', '5'])) {
                    let content = std::mem::take(&mut response.content);
                    let named = content.into_iter().map(|(_, content)| ("application/problem+json".into(), content));
                    response.content = named.collect();
                }
            }
            for (status, response) in &refused {
                let response = if is_api { response.clone() } else { in_words(status) };
                operation.responses.responses.entry(status.clone()).or_insert(response);
            }
        }
    }
    document
}

/// What routes outside of the API may answer that is an error: for players a line, for people a page, a problem where an
/// offer is in it.
fn in_words(status: &str) -> RefOr<openapi::Response> {
    let about = if status == "4XX" { "It cannot be had" } else { "Not now" };
    let words = || ContentBuilder::new().schema(Some(String::schema())).build();
    let problem = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    let response = ResponseBuilder::new().description(about);
    let response = response.content("text/plain", words()).content("text/html", words());
    RefOr::T(response.content("application/problem+json", problem).build())
}

/// The document as it is served and printed.
pub fn text(document: &openapi::OpenApi) -> String {
    let mut text = serde_json::to_string_pretty(document).expect("a description is plain data");
    text.push('\n');
    text
}

/// Turns described routes into plain ones, beside their own description.
pub fn serve(routes: OpenApiRouter) -> Router {
    let (routes, described) = routes.split_for_parts();
    let mut document = Head::openapi();
    document.merge(described);
    let bytes = Bytes::from(text(&finished(document)));
    let etag = format!("\"{}\"", hex::encode(&Sha256::digest(&bytes)[..8]));
    let etag = HeaderValue::try_from(etag).expect("hexadecimal is ASCII");
    let own = Router::new()
        .route("/api/v1/openapi.json", get(json))
        .route("/api/docs", get(page))
        .route("/api/docs/{file}", get(file))
        .with_state(Document { bytes, etag });
    routes.merge(own).method_not_allowed_fallback(super::transcodes::wrong_method)
}

#[derive(Clone)]
struct Document {
    bytes: Bytes,
    etag: HeaderValue,
}

async fn json(State(document): State<Document>, asked: HeaderMap) -> Response {
    let fields = [
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::ETAG, document.etag.clone()),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
    ];
    if asked.get(header::IF_NONE_MATCH) == Some(&document.etag) {
        return (StatusCode::NOT_MODIFIED, fields).into_response();
    }
    let content_type = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    (fields, content_type, document.bytes).into_response()
}

/// Nothing but what this server has itself.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

async fn page() -> Response {
    embedded("text/html; charset=utf-8", include_str!("docs/index.html"))
}

async fn file(axum::extract::Path(file): axum::extract::Path<String>) -> Response {
    match file.as_str() {
        "docs.js" => embedded("text/javascript; charset=utf-8", include_str!("docs/docs.js")),
        "docs.css" => embedded("text/css; charset=utf-8", include_str!("docs/docs.css")),
        _ => plain(StatusCode::NOT_FOUND, "not found\n"),
    }
}

fn embedded(content_type: &'static str, text: &'static str) -> Response {
    let fields = [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (fields, text).into_response()
}
