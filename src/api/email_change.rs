//! `/api/v1/users/me/email`: another address for the caller's account.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::accounts::{Accounts, note};
use super::auth::again;
use super::caller::{Person, Place};
use super::openapi::ProblemDocument;
use super::problem::Problem;
use super::sent::Sent;
use crate::auth::email::Email;
use crate::auth::opaque::OpaqueToken;
use crate::auth::throttle::Limit;
use crate::db::email_change::Moved;
use crate::providers::mail::VERIFY_US;

/// The routes and what they say of themselves, without what they need.
pub(super) fn described() -> OpenApiRouter<Arc<Accounts>> {
    OpenApiRouter::new().routes(routes!(ask)).routes(routes!(confirm))
}

/// Another address, and what proves again who asks.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WantedEmail {
    email: String,
    /// The password; whoever logs in by a provider alone has none, and needs a session of the last ten minutes.
    #[schema(format = Password)]
    password: Option<String>,
}

/// The same words whether the address has an account or not.
#[derive(Serialize, ToSchema)]
struct EmailAsked {
    message: &'static str,
}

/// Asks for another address. Nothing changes before the link in a mail to it was followed, within a day.
#[utoipa::path(
    post, path = "/api/v1/users/me/email", tag = "users", summary = "Ask for another address",
    security(("bearer" = [])), request_body = WantedEmail,
    responses(
        (status = 202, description = "Mails are on their way, to both addresses", body = EmailAsked),
        (status = 400, description = "The body cannot be read", body = ProblemDocument),
        (status = 401, description = "Nobody is named", body = ProblemDocument),
        (status = 403, description = "The password is wrong, or a key cannot do this", body = ProblemDocument),
        (status = 422, description = "The address is none", body = ProblemDocument),
        (status = 429, description = "Too many requests", body = ProblemDocument),
    )
)]
async fn ask(
    State(accounts): State<Arc<Accounts>>,
    Person(session): Person,
    Place(place): Place,
    Sent(sent): Sent<WantedEmail>,
) -> Result<(StatusCode, axum::Json<EmailAsked>), Problem> {
    let wanted = Email::decode(&sent.email)
        .map_err(|error| Problem::unprocessable("email", "The address cannot be used", error.chain()))?;
    again(&accounts, &session, sent.password).await?;
    accounts.limiter.pass(&[Limit::mail_from(&place), Limit::mail_to(&wanted.digest())]).await?;
    let user = accounts.db.user(&session.user).await?.ok_or_else(Problem::not_found)?;
    let now_us = accounts.now_us();
    let addresses = (&wanted, user.email.as_deref());
    accounts.db.want_email(&session.user, addresses, now_us + VERIFY_US, now_us).await?;
    note("ok", "email-wanted", session.user.as_str(), &place);
    let message = "we have sent a link to the new address; the old one stays until it is followed";
    Ok((StatusCode::ACCEPTED, axum::Json(EmailAsked { message })))
}

/// Moves an account to the address that the token of a mail proves. Sessions go on.
#[utoipa::path(
    post, path = "/api/v1/users/me/email/confirm", tag = "users", summary = "Follow the link to another address",
    security(()),
    params(("X-Verify-Token" = Option<String>, Header, description = "What stands behind the # of the link")),
    responses(
        (status = 204, description = "Log in with it from now on"),
        (status = 400, description = "The token opens nothing, or does not any more", body = ProblemDocument),
        (status = 409, description = "The address has an account already", body = ProblemDocument),
        (status = 429, description = "Too many requests", body = ProblemDocument),
    )
)]
async fn confirm(
    State(accounts): State<Arc<Accounts>>,
    Place(place): Place,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let unknown = || {
        let detail = "it was used, or its time is over; ask for the address again";
        Problem::new(StatusCode::BAD_REQUEST, "token-invalid", "The token opens nothing", detail)
    };
    let token = headers.get("x-verify-token").and_then(|value| OpaqueToken::decode(value.to_str().ok()?.trim()));
    match accounts.db.change_email(&token.ok_or_else(unknown)?.hash(), accounts.now_us()).await? {
        Moved::Done(user) => {
            note("ok", "email-changed", user.as_str(), &place);
            Ok(StatusCode::NO_CONTENT)
        }
        Moved::Taken => {
            let detail = "use another one, or log in with it";
            Err(Problem::new(StatusCode::CONFLICT, "email-taken", "The address has an account already", detail))
        }
        Moved::Unknown => Err(unknown()),
    }
}
