//! `/api/v1/auth/mfa`: a second factor, and the codes for the day when it is lost.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use tracing::Instrument as _;
use tracing::field::Empty;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, SessionView, own_site, start};
use crate::api::accounts::{Accounts, note};
use crate::api::caller::{Person, Place, Session};
use crate::api::cookies;
use crate::api::openapi::ProblemDocument;
use crate::api::problem::Problem;
use crate::api::sent::{BodyType, Sent, body};
use crate::api::transcodes::no_store;
use crate::auth::UserId;
use crate::auth::opaque::OpaqueToken;
use crate::auth::second_factor::{TotpSecret, recovery_codes, recovery_hash};
use crate::auth::throttle::Limit;
use crate::base::Result;
use crate::db::users::Factor;

/// Whoever has no password proves who they are by having logged in just now, in microseconds.
const JUST_NOW_US: i64 = 10 * 60_000_000;

pub(super) fn described() -> OpenApiRouter<Arc<Accounts>> {
    OpenApiRouter::new()
        .routes(routes!(enrol))
        .routes(routes!(confirm))
        .routes(routes!(verify))
        .routes(routes!(new_codes))
        .routes(routes!(remove))
}

/// What its routes read.
pub(in crate::api) const BODIES: &[BodyType] = &[
    body::<Again>("Again"),
    body::<Code>("Code"),
    body::<Verify>("Verify"),
    body::<NewCodes>("NewCodes"),
    body::<Remove>("Remove"),
];

/// What proves again who somebody is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Again {
    /// The password; whoever logs in by a provider alone has none, and needs a session of the last ten minutes.
    #[schema(format = Password)]
    password: Option<String>,
}

/// What an authenticator needs.
#[derive(Serialize, ToSchema)]
struct Enrolled {
    /// To be typed, in base 32.
    secret: String,
    /// To be shown as a picture.
    otpauth_url: String,
}

/// Begins a second factor. Nothing is asked for before a code has confirmed it.
#[utoipa::path(
    post, path = "/api/v1/auth/mfa/enrol", tag = "auth", summary = "Begin a second factor",
    security(("bearer" = [])), request_body = Again,
    responses(
        (status = 200, description = "For an authenticator", body = Enrolled),
        (status = 400, description = "The body cannot be read", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "Nobody is named", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "The password is wrong, or a key cannot do this", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "There is one already", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "Too many tries", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Try again later", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn enrol(
    State(accounts): State<Arc<Accounts>>,
    Person(session): Person,
    Sent(sent): Sent<Again>,
) -> Answer<axum::Json<Enrolled>> {
    again(&accounts, &session, sent.password).await?;
    let user = accounts.db.user(&session.user).await?.ok_or_else(Problem::not_found)?;
    let secret = TotpSecret::random();
    let sealed = accounts.ring.seal(&secret.encode(), &place_of(&session.user));
    if !accounts.db.begin_factor(&session.user, &sealed, accounts.now_us()).await? {
        let detail = "POST /api/v1/auth/mfa/remove removes it; when it is lost with its codes, an operator does";
        return Err(Problem::new(StatusCode::CONFLICT, "mfa-exists", "There is a second factor already", detail));
    }
    let (secret, otpauth_url) = secret.shown(user.email.as_deref().unwrap_or("account"))?;
    Ok(axum::Json(Enrolled { secret, otpauth_url }))
}

/// A code that an authenticator shows.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Code {
    #[schema(example = "287082")]
    code: String,
}

/// Codes for the day when the authenticator is lost.
#[derive(Serialize, ToSchema)]
struct RecoveryCodes {
    /// Shown once; each opens once.
    recovery_codes: Vec<String>,
}

/// Asks for the second factor from now on. This session counts as one that has shown it; all others end.
#[utoipa::path(
    post, path = "/api/v1/auth/mfa/confirm", tag = "auth", summary = "Confirm the second factor",
    security(("bearer" = [])), request_body = Code,
    responses(
        (status = 200, description = "It is asked for from now on", body = RecoveryCodes),
        (status = 400, description = "The body cannot be read", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "Nobody is named", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "The code is wrong, or a key cannot do this", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "There is none to confirm", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "Too many tries", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn confirm(
    State(accounts): State<Arc<Accounts>>,
    Person(session): Person,
    Place(place): Place,
    Sent(sent): Sent<Code>,
) -> Answer<axum::Json<RecoveryCodes>> {
    let none = || {
        let detail = "POST /api/v1/auth/mfa/enrol begins one";
        Problem::new(StatusCode::CONFLICT, "mfa-not-begun", "There is no second factor to confirm", detail)
    };
    let factor = accounts.db.factor(&session.user).await?.filter(|factor| !factor.confirmed).ok_or_else(none)?;
    accounts.limiter.pass(&[Limit::second_factor(session.user.as_str())]).await?;
    let step = step(&accounts, &session.user, &factor, &sent.code)?.ok_or_else(code_wrong)?;
    let codes = recovery_codes();
    let (of, hashes) = ((factor.sealed.as_str(), step), hashes(&codes));
    if !accounts.db.confirm_factor(&session.user, of, &hashes, &session.id, accounts.now_us()).await? {
        return Err(none());
    }
    tell(&accounts, &session.user, "factor").await?;
    note("ok", "mfa-confirmed", session.user.as_str(), &place);
    Ok(axum::Json(RecoveryCodes { recovery_codes: codes }))
}

/// What completes a login.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Verify {
    /// From the first half; browsers have it as a cookie.
    ticket: Option<String>,
    /// What the authenticator shows.
    code: Option<String>,
    /// Instead of a code, once.
    recovery_code: Option<String>,
    /// For browsers: tokens come as cookies that no script can read.
    #[serde(default)]
    cookies: bool,
}

/// Completes a login by the second factor.
#[utoipa::path(
    post, path = "/api/v1/auth/mfa/verify", tag = "auth", summary = "Show the second factor",
    security(()), request_body = Verify,
    responses(
        (status = 200, description = "A session", body = SessionView),
        (status = 400, description = "The body cannot be read", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "The login is over: begin again", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "The code is wrong, or was used before", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "Too many tries", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn verify(
    State(accounts): State<Arc<Accounts>>,
    Place(place): Place,
    headers: HeaderMap,
    Sent(sent): Sent<Verify>,
) -> Answer<Response> {
    let span = tracing::info_span!("login", via = "second-factor", outcome = Empty);
    complete(&accounts, &place, &headers, sent).instrument(span).await
}

async fn complete(accounts: &Accounts, place: &str, headers: &HeaderMap, sent: Verify) -> Answer<Response> {
    let by_cookie = sent.ticket.is_none();
    if by_cookie || sent.cookies {
        own_site(headers)?;
    }
    let ticket = sent.ticket.as_deref().or_else(|| cookies::get(headers, cookies::TICKET));
    let ticket = ticket.and_then(OpaqueToken::decode).ok_or_else(ticket_invalid)?;
    let (user, via) =
        accounts.db.try_half_login(&ticket.hash(), accounts.now_us()).await?.ok_or_else(ticket_invalid)?;
    let limit = Limit::second_factor(user.as_str());
    accounts.limiter.pass(std::slice::from_ref(&limit)).await?;
    let shown = match (&sent.code, &sent.recovery_code) {
        (Some(code), None) => by_code(accounts, &user, code).await?,
        (None, Some(code)) => by_recovery(accounts, &user, code).await?,
        _ => {
            let detail = "send code or recovery_code, and not both";
            return Err(Problem::unreadable(StatusCode::BAD_REQUEST, detail));
        }
    };
    if !shown {
        note("refused", "second-factor", user.as_str(), place);
        return Err(code_wrong());
    }
    // Whoever was faster has the session.
    if !accounts.db.end_half_login(&ticket.hash(), accounts.now_us()).await? {
        return Err(ticket_invalid());
    }
    accounts.limiter.forgive(&limit).await?;
    let mut response = start(accounts, &user, &via, true, (place, headers), by_cookie || sent.cookies).await?;
    if by_cookie {
        cookies::clear(response.headers_mut(), &[cookies::TICKET]);
    }
    Ok(response)
}

async fn by_code(accounts: &Accounts, user: &UserId, code: &str) -> Result<bool, Problem> {
    let Some(factor) = accounts.db.factor(user).await?.filter(|factor| factor.confirmed) else { return Ok(false) };
    match step(accounts, user, &factor, code)? {
        // One statement: of two that show the same code, one is late.
        Some(step) => Ok(accounts.db.use_step(user, step, accounts.now_us()).await?),
        None => Ok(false),
    }
}

async fn by_recovery(accounts: &Accounts, user: &UserId, code: &str) -> Result<bool, Problem> {
    let Some(hash) = recovery_hash(code) else { return Ok(false) };
    let used = accounts.db.use_recovery_code(user, &hash).await?;
    if used {
        tell(accounts, user, "recovery").await?;
    }
    Ok(used)
}

/// What makes new codes.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewCodes {
    #[schema(format = Password)]
    password: Option<String>,
    /// What the authenticator shows.
    code: String,
}

/// Makes new recovery codes; the old ones open nothing any more.
#[utoipa::path(
    post, path = "/api/v1/auth/mfa/recovery-codes", tag = "auth", summary = "Make new recovery codes",
    security(("bearer" = [])), request_body = NewCodes,
    responses(
        (status = 200, description = "They are shown once", body = RecoveryCodes),
        (status = 400, description = "The body cannot be read", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "Nobody is named", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "Password or code is wrong, or a key cannot do this", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "Too many tries", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Try again later", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn new_codes(
    State(accounts): State<Arc<Accounts>>,
    Person(session): Person,
    Sent(sent): Sent<NewCodes>,
) -> Answer<Response> {
    again(&accounts, &session, sent.password).await?;
    let limit = Limit::second_factor(session.user.as_str());
    accounts.limiter.pass(std::slice::from_ref(&limit)).await?;
    if !by_code(&accounts, &session.user, &sent.code).await? {
        return Err(code_wrong());
    }
    accounts.limiter.forgive(&limit).await?;
    let codes = recovery_codes();
    accounts.db.replace_recovery_codes(&session.user, &hashes(&codes)).await?;
    Ok(no_store(axum::Json(RecoveryCodes { recovery_codes: codes }).into_response()))
}

/// What removes a second factor.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Remove {
    #[schema(format = Password)]
    password: Option<String>,
    /// What the authenticator shows.
    code: Option<String>,
    /// Instead of a code, once.
    recovery_code: Option<String>,
}

/// Removes the second factor. Every other session ends; what only admins may opens nothing any more.
#[utoipa::path(
    post, path = "/api/v1/auth/mfa/remove", tag = "auth", summary = "Remove the second factor",
    security(("bearer" = [])), request_body = Remove,
    responses(
        (status = 204, description = "Logging in asks for the password alone"),
        (status = 400, description = "The body cannot be read", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "Nobody is named", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "The password or the code is wrong, or a key cannot do this", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "There is none", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "Too many tries", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn remove(
    State(accounts): State<Arc<Accounts>>,
    Person(session): Person,
    Place(place): Place,
    Sent(sent): Sent<Remove>,
) -> Answer<StatusCode> {
    let none = || {
        let detail = "POST /api/v1/auth/mfa/enrol begins one";
        Problem::new(StatusCode::CONFLICT, "mfa-none", "There is no second factor", detail)
    };
    again(&accounts, &session, sent.password).await?;
    accounts.db.factor(&session.user).await?.filter(|factor| factor.confirmed).ok_or_else(none)?;
    let limit = Limit::second_factor(session.user.as_str());
    accounts.limiter.pass(std::slice::from_ref(&limit)).await?;
    let shown = match (&sent.code, &sent.recovery_code) {
        (Some(code), None) => by_code(&accounts, &session.user, code).await?,
        (None, Some(code)) => by_recovery(&accounts, &session.user, code).await?,
        _ => {
            let detail = "send code or recovery_code, and not both";
            return Err(Problem::unreadable(StatusCode::BAD_REQUEST, detail));
        }
    };
    if !shown {
        note("refused", "mfa-remove", session.user.as_str(), &place);
        return Err(code_wrong());
    }
    accounts.limiter.forgive(&limit).await?;
    if !accounts.db.drop_factor(&session.user, &session.id, accounts.now_us()).await? {
        return Err(none());
    }
    tell(&accounts, &session.user, "factor-removed").await?;
    note("ok", "mfa-removed", session.user.as_str(), &place);
    Ok(StatusCode::NO_CONTENT)
}

/// Has somebody prove again who they are, before what opens their account changes (ASVS 7.5.1).
pub(in crate::api) async fn again(
    accounts: &Accounts,
    session: &Session,
    password: Option<String>,
) -> Result<(), Problem> {
    let has_password = accounts.db.password_of(&session.user).await?.is_some();
    match password {
        Some(password) => accounts.verify_again(&session.user, password).await,
        None if !has_password && session.created_us + JUST_NOW_US > accounts.now_us() => Ok(()),
        None => {
            let detail =
                if has_password { "send your password" } else { "log in again, and come back within ten minutes" };
            Err(Problem::new(StatusCode::FORBIDDEN, "again", "Prove again who you are", detail))
        }
    }
}

fn step(accounts: &Accounts, user: &UserId, factor: &Factor, code: &str) -> Result<Option<u64>, Problem> {
    let secret = TotpSecret::decode(&accounts.ring.open(&factor.sealed, &place_of(user))?)?;
    Ok(secret.verify(code, accounts.clock.unix_s(), factor.last_step))
}

/// Where a secret is sealed: it opens for nobody else.
fn place_of(user: &UserId) -> String {
    format!("totp {user}")
}

fn hashes(codes: &[String]) -> Vec<String> {
    codes.iter().filter_map(|code| recovery_hash(code)).collect()
}

async fn tell(accounts: &Accounts, user: &UserId, kind: &str) -> Result<()> {
    let email = accounts.db.user(user).await?.and_then(|user| user.email);
    match email {
        Some(email) => accounts.db.put_mail(kind, &email, "{}", accounts.now_us()).await,
        None => Ok(()),
    }
}

fn code_wrong() -> Problem {
    let detail = "wait for the next one; each is taken once";
    Problem::new(StatusCode::FORBIDDEN, "code-wrong", "The code is wrong", detail)
}

fn ticket_invalid() -> Problem {
    let detail = "begin again with address and password";
    Problem::new(StatusCode::UNAUTHORIZED, "ticket-invalid", "The login is over", detail)
}
