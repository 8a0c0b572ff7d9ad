//! `/api/v1/api-keys`: keys for the caller's own programs. Only a person in a session makes, sees and revokes them: a key
//! that leaks cannot make itself another.
#![allow(unused_qualifications, reason = "utoipa's macro writes them")]

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::accounts::{Accounts, name, note};
use super::caller::{Caller, Person, Place};
use super::openapi::{ProblemDocument, wrong_cursor};
use super::problem::Problem;
use super::sent::{BodyType, Sent, body};
use super::transcodes::{no_store, wrong_query};
use crate::auth::api_key;
use crate::auth::principal::Scopes;
use crate::base::clock::rfc3339;
use crate::db::api_keys::{KEYS_MAX, Key};

/// Microseconds of a day.
const DAY_US: i64 = 86_400_000_000;

/// The routes.
pub fn routes(accounts: Arc<Accounts>) -> OpenApiRouter {
    described().with_state(accounts)
}

/// The routes and what they say of themselves, without what they need.
pub(super) fn described() -> OpenApiRouter<Arc<Accounts>> {
    OpenApiRouter::new().routes(routes!(create, list)).routes(routes!(revoke))
}

/// What its routes read.
pub(super) const BODIES: &[BodyType] = &[body::<NewKey>("NewKey")];

type Answer<T = Response> = Result<T, Problem>;

/// What a key opens.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = Scope)]
enum Scope {
    /// `GET` and `HEAD`.
    Read,
    /// `POST`, `PUT`, `PATCH` and `DELETE`.
    Write,
    /// Whatever only admins may, while its owner is one with a second factor.
    Admin,
}

/// A key to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewKey {
    /// What its owner calls it.
    name: String,
    /// What it opens.
    scopes: Vec<Scope>,
    /// Days until it ends; absent: never.
    #[schema(minimum = 1, maximum = 3650)]
    expires_in_days: Option<i64>,
}

/// A key, without what opens.
#[derive(Serialize, ToSchema)]
#[schema(as = ApiKey)]
struct KeyView {
    /// The beginning of the key itself, behind `sgk_`.
    id: String,
    name: String,
    scopes: Vec<Scope>,
    created_at: String,
    expires_at: Option<String>,
    /// Within some minutes.
    used_at: Option<String>,
}

/// A key that was made.
#[derive(Serialize, ToSchema)]
#[schema(as = NewApiKey)]
struct MadeView {
    /// The key itself, shown once.
    #[schema(example = "sgk_…")]
    key: String,
    #[serde(flatten)]
    about: KeyView,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ApiKeys)]
struct KeyList {
    items: Vec<KeyView>,
    /// For `after`; null at the end.
    next: Option<String>,
}

impl KeyView {
    fn of(key: Key) -> KeyView {
        let Scopes { read, write, admin } = key.scopes;
        let all = [(read, Scope::Read), (write, Scope::Write), (admin, Scope::Admin)];
        KeyView {
            id: key.id,
            name: key.name,
            scopes: all.into_iter().filter_map(|(may, scope)| may.then_some(scope)).collect(),
            created_at: rfc3339(key.created_us),
            expires_at: key.expires_us.map(rfc3339),
            used_at: key.used_us.map(rfc3339),
        }
    }
}

/// Makes a key, shown once.
#[utoipa::path(
    post, path = "/api/v1/api-keys", tag = "users", summary = "Make an API key",
    security(("bearer" = [])), request_body = NewKey,
    responses(
        (status = 201, description = "The key: it is shown once", body = MadeView),
        (status = 400, description = "The body cannot be read", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "Nobody is named", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "A key cannot do this, or the caller may not have that scope", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "There are too many", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "Name, scopes or days cannot be used", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "Too many requests", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn create(
    State(accounts): State<Arc<Accounts>>,
    Caller(caller): Caller,
    Person(session): Person,
    Place(place): Place,
    Sent(sent): Sent<NewKey>,
) -> Answer {
    let wrong = |detail: &str| Problem::unprocessable("api-key", "There can be no such key", detail);
    let name = name(Some(sent.name))?.ok_or_else(|| wrong("give it a name, so that you know it again"))?;
    let has = |scope| sent.scopes.contains(&scope);
    let scopes = Scopes { read: has(Scope::Read), write: has(Scope::Write), admin: has(Scope::Admin) };
    if !(scopes.read || scopes.write) {
        return Err(wrong("give it at least one of the scopes read and write; admin is beside them"));
    }
    if scopes.admin && !caller.is_admin() {
        let detail = "only admins who have shown a second factor in this session may give it";
        return Err(Problem::new(StatusCode::FORBIDDEN, "admin-needed", "You may not give the scope admin", detail));
    }
    if sent.expires_in_days.is_some_and(|days| !(1..=3650).contains(&days)) {
        return Err(wrong("expires_in_days is 1 to 3650"));
    }
    let now_us = accounts.now_us();
    let made = api_key::make();
    let expires_us = sent.expires_in_days.map(|days| now_us + days * DAY_US);
    let key = Key { id: made.id, name, scopes, created_us: now_us, expires_us, used_us: None };
    if !accounts.db.create_key(&session.user, &key, &made.sha256, now_us).await? {
        let detail = format!("you have {KEYS_MAX}; revoke one");
        return Err(Problem::new(StatusCode::CONFLICT, "too-many-keys", "There are too many keys", detail));
    }
    note("ok", "api-key-made", session.user.as_str(), &place);
    let location = HeaderValue::try_from(format!("/api/v1/api-keys/{}", key.id)).expect("ids are ASCII");
    let view = MadeView { key: made.key, about: KeyView::of(key) };
    Ok(no_store((StatusCode::CREATED, [(header::LOCATION, location)], axum::Json(view)).into_response()))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Page {
    /// How many at most, 1 to 50.
    #[param(nullable = false, minimum = 1, maximum = 50)]
    limit: Option<i64>,
    /// Those behind this one: `next` of the list before.
    #[param(nullable = false)]
    after: Option<String>,
}

/// Lists the caller's keys.
#[utoipa::path(
    get, path = "/api/v1/api-keys", tag = "users", summary = "List API keys",
    security(("bearer" = [])), params(Page),
    responses(
        (status = 200, description = "Without what opens", body = KeyList),
        (status = 400, description = "The query cannot be read", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "Nobody is named", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "A key cannot do this", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "Too many requests", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn list(
    State(accounts): State<Arc<Accounts>>,
    Person(session): Person,
    page: Result<Query<Page>, QueryRejection>,
) -> Answer<axum::Json<KeyList>> {
    let Query(page) = page.map_err(|cause| wrong_query(&cause))?;
    let limit = page.limit.unwrap_or(KEYS_MAX).clamp(1, KEYS_MAX);
    if page.after.as_deref().is_some_and(|after| !after.starts_with("key_") || after.contains('\0')) {
        return Err(wrong_cursor());
    }
    let found = accounts.db.keys(&session.user, page.after.as_deref(), limit).await?;
    let next = (found.len() as i64 == limit).then(|| found.last().map(|key| key.id.clone())).flatten();
    Ok(axum::Json(KeyList { items: found.into_iter().map(KeyView::of).collect(), next }))
}

/// Revokes a key: it opens nothing from now on, on all nodes.
#[utoipa::path(
    delete, path = "/api/v1/api-keys/{id}", tag = "users", summary = "Revoke an API key",
    security(("bearer" = [])), params(("id" = String, Path, description = "Its id")),
    responses(
        (status = 204, description = "It opens nothing any more"),
        (status = 401, description = "Nobody is named", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "A key cannot do this", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "The caller has no such key", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "Too many requests", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn revoke(
    State(accounts): State<Arc<Accounts>>,
    Person(session): Person,
    Place(place): Place,
    Path(id): Path<String>,
) -> Answer<StatusCode> {
    // PostgreSQL takes no NUL in text.
    if id.contains('\0') || !accounts.db.revoke_key(&session.user, &id, accounts.now_us()).await? {
        return Err(Problem::not_found());
    }
    note("ok", "api-key-revoked", session.user.as_str(), &place);
    Ok(StatusCode::NO_CONTENT)
}
