//! `/api/v1/users/me`: the caller's own account.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::accounts::{Accounts, name, note};
use super::caller::{Caller, Person, Place};
use super::email_change::WantedEmail;
use super::openapi::ProblemDocument;
use super::problem::Problem;
use super::sent::{BodyType, Sent, body};
use crate::base::clock::rfc3339;
use crate::db::users::User;

/// The routes.
pub fn routes(accounts: Arc<Accounts>) -> OpenApiRouter {
    described().with_state(accounts)
}

/// The routes and what they say of themselves, without what they need.
pub(super) fn described() -> OpenApiRouter<Arc<Accounts>> {
    OpenApiRouter::new()
        .routes(routes!(me, change))
        .routes(routes!(change_password))
        .merge(super::email_change::described())
}

/// What its routes read.
pub(super) const BODIES: &[BodyType] =
    &[body::<Change>("Change"), body::<ChangePassword>("ChangePassword"), body::<WantedEmail>("WantedEmail")];

type Answer<T> = Result<T, Problem>;

/// A person, as they see themselves.
#[derive(Serialize, ToSchema)]
#[schema(as = User)]
pub(super) struct UserView {
    id: String,
    email: Option<String>,
    name: Option<String>,
    /// `listener`, `creator` or `admin`.
    role: &'static str,
    /// Whether a second factor is asked for.
    second_factor: bool,
    /// Whether there is a password, or only providers.
    has_password: bool,
    created_at: String,
}

impl UserView {
    pub(super) fn of(user: &User) -> UserView {
        UserView {
            id: user.id.to_string(),
            email: user.email.clone(),
            name: user.name.clone(),
            role: user.role.as_str(),
            second_factor: user.second_factor,
            has_password: user.has_password,
            created_at: rfc3339(user.created_us),
        }
    }
}

/// Says who the caller is.
#[utoipa::path(
    get, path = "/api/v1/users/me", tag = "users", summary = "Who am I",
    security(("bearer" = []), ("api_key" = [])),
    responses(
        (status = 200, description = "The caller", body = UserView),
        (status = 401, description = "Nobody is named", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "The key does not open this", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "The caller is a program of the operator", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "Too many requests", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn me(State(accounts): State<Arc<Accounts>>, Caller(caller): Caller) -> Answer<axum::Json<UserView>> {
    let id = caller.user.ok_or_else(Problem::not_found)?;
    let user = accounts.db.user(&id).await?.ok_or_else(Problem::not_found)?;
    Ok(axum::Json(UserView::of(&user)))
}

/// What may be changed.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Change {
    /// What others see; empty removes it, absent leaves it.
    name: Option<String>,
    /// Only `creator`: publishes from now on.
    role: Option<NewRole>,
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum NewRole {
    Creator,
}

/// Changes what others see of the caller, or makes a listener a creator.
#[utoipa::path(
    patch, path = "/api/v1/users/me", tag = "users", summary = "Change the account",
    security(("bearer" = [])), request_body = Change,
    responses(
        (status = 200, description = "As it is now", body = UserView),
        (status = 400, description = "The body cannot be read", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "Nobody is named", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "A key cannot do this", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "The name cannot be used", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "Too many requests", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn change(
    State(accounts): State<Arc<Accounts>>,
    Person(session): Person,
    Sent(sent): Sent<Change>,
) -> Answer<axum::Json<UserView>> {
    let now_us = accounts.now_us();
    if let Some(text) = sent.name {
        accounts.db.rename(&session.user, name(Some(text))?.as_deref(), now_us).await?;
    }
    if let Some(NewRole::Creator) = sent.role {
        accounts.db.become_creator(&session.user, now_us).await?;
    }
    let user = accounts.db.user(&session.user).await?.ok_or_else(Problem::not_found)?;
    Ok(axum::Json(UserView::of(&user)))
}

/// Another password, and the one that it replaces.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ChangePassword {
    #[schema(format = Password)]
    current_password: String,
    #[schema(format = Password)]
    password: String,
}

/// Sets another password. Every other session ends; this one goes on.
#[utoipa::path(
    post, path = "/api/v1/users/me/password", tag = "users", summary = "Set another password",
    security(("bearer" = [])), request_body = ChangePassword,
    responses(
        (status = 204, description = "Log in with it elsewhere"),
        (status = 400, description = "The body cannot be read", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "Nobody is named", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "The current password is wrong, or a key cannot do this", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "The password cannot be used", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "Too many tries", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Try again later", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn change_password(
    State(accounts): State<Arc<Accounts>>,
    Person(session): Person,
    Place(place): Place,
    Sent(sent): Sent<ChangePassword>,
) -> Answer<StatusCode> {
    accounts.verify_again(&session.user, sent.current_password).await?;
    let email = accounts.db.user(&session.user).await?.and_then(|user| user.email).unwrap_or_default();
    let password = accounts.hash(sent.password, vec![email.clone()]).await?;
    let now_us = accounts.now_us();
    accounts.db.set_password(&session.user, &password, Some(&session.id), now_us).await?;
    accounts.db.put_mail("password", &email, "{}", now_us).await?;
    note("ok", "password-changed", session.user.as_str(), &place);
    Ok(StatusCode::NO_CONTENT)
}
