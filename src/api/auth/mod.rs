//! `/api/v1/auth`: registering, logging in and out, sessions, other passwords. Second factors are in `factor.rs`,
//! providers of identities in `provider.rs`.
//!
//! Nobody learns here who has an account: not by words, nor by the status, nor by the time (ASVS 6.3.8). Whatever is
//! different for a known address is done by the sender of mail, minutes or seconds later.
#![allow(unused_qualifications, reason = "utoipa's macro writes them")]

mod factor;
mod provider;

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tracing::Instrument as _;
use tracing::field::Empty;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) use self::factor::{BODIES as FACTOR_BODIES, again};
use super::accounts::{Accounts, client, name, note};
use super::caller::{self, Person, Place};
use super::cookies::{self, Site};
use super::openapi::ProblemDocument;
use super::problem::Problem;
use super::sent::{BodyType, Sent, SentOrNot, body};
use super::transcodes::no_store;
use super::users::UserView;
use crate::auth::email::Email;
use crate::auth::opaque::OpaqueToken;
use crate::auth::password::Verdict;
use crate::auth::throttle::Limit;
use crate::auth::{SessionId, UserId};
use crate::base::Error;
use crate::base::clock::rfc3339;
use crate::db::sessions::{LIST_MAX, NewSession, Rotated};
use crate::db::users::{Credential, Purpose, Registration, User, Verified};
use crate::providers::mail::VERIFY_US;

/// How long a half login waits for its second factor, in microseconds.
const TICKET_US: i64 = 5 * 60_000_000;

/// The routes.
pub fn routes(accounts: Arc<Accounts>) -> OpenApiRouter {
    described().with_state(accounts)
}

/// The routes and what they say of themselves, without what they need.
pub(super) fn described() -> OpenApiRouter<Arc<Accounts>> {
    OpenApiRouter::new()
        .routes(routes!(register))
        .routes(routes!(verify_email))
        .routes(routes!(login))
        .routes(routes!(refresh))
        .routes(routes!(logout))
        .routes(routes!(sessions, end_others))
        .routes(routes!(end_one))
        .routes(routes!(ask_reset))
        .routes(routes!(reset))
        .merge(factor::described())
        .merge(provider::described())
}

/// What its routes read.
pub(super) const BODIES: &[BodyType] = &[
    body::<Register>("Register"),
    body::<Login>("Login"),
    body::<Option<Refresh>>("Refresh"),
    body::<AskReset>("AskReset"),
    body::<Reset>("Reset"),
];

type Answer<T = Response> = Result<T, Problem>;

/// Somebody who registers.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Register {
    /// Where the link is sent.
    #[schema(example = "maria@example.org")]
    email: String,
    /// At least 8 characters, better 15; anything but what many would try.
    #[schema(format = Password, example = "violet anchors hum at noon")]
    password: String,
    /// What others see.
    name: Option<String>,
}

/// What happens next.
#[derive(Serialize, ToSchema)]
struct Registered {
    /// Always: follow the link in the mail.
    verification_required: bool,
    /// The same for people.
    message: &'static str,
}

/// Registers somebody. The answer is the same whether the address has an account or not: the mail says which.
#[utoipa::path(
    post, path = "/api/v1/auth/register", tag = "auth", summary = "Register",
    request_body = Register,
    responses(
        (status = 202, description = "A mail is on its way", body = Registered),
        (status = 400, description = "The body cannot be read", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "Strangers may not register here", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "The address, password or name cannot be used", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "Too many requests", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Try again later", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn register(
    State(accounts): State<Arc<Accounts>>,
    Place(place): Place,
    Sent(sent): Sent<Register>,
) -> Answer<(StatusCode, axum::Json<Registered>)> {
    if !accounts.options.registration {
        let detail = "the operator makes accounts here; ask for one";
        return Err(Problem::new(StatusCode::FORBIDDEN, "registration-closed", "Nobody can register here", detail));
    }
    let email = email(&sent.email)?;
    let name = name(sent.name)?;
    let limits = [Limit::mail_from(&place), Limit::mail_to(&email.digest())];
    accounts.limiter.pass(&limits).await?;
    let about = [email.key().to_owned()].into_iter().chain(name.clone());
    let about = about.chain(email.key().split('@').map(str::to_owned)).collect();
    let password = accounts.hash(sent.password, about).await?;
    let now_us = accounts.now_us();
    let new = Registration { id: UserId::new(now_us), email, name, password };
    accounts.db.register(&new, now_us + VERIFY_US, now_us).await?;
    note("ok", "register", new.id.as_str(), &place);
    let message = "we have sent you a mail; follow the link in it within a day";
    Ok((StatusCode::ACCEPTED, axum::Json(Registered { verification_required: true, message })))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct VerifyQuery {
    /// The token, where a header cannot be sent. Deprecated: addresses end up in logs.
    #[param(nullable = false)]
    token: Option<String>,
}

/// Who somebody is now.
#[derive(Serialize, ToSchema)]
struct VerifiedView {
    user: UserView,
}

/// Proves that an address is its owner's, by the token of the mail: there is an account now.
#[utoipa::path(
    post, path = "/api/v1/auth/verify-email", tag = "auth", summary = "Follow the link of a mail",
    params(("X-Verify-Token" = Option<String>, Header, description = "What stands behind the # of the link"), VerifyQuery),
    responses(
        (status = 200, description = "There is an account", body = VerifiedView),
        (status = 400, description = "The token opens nothing, or does not any more", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "The address has an account already", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "Too many requests", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn verify_email(
    State(accounts): State<Arc<Accounts>>,
    Place(place): Place,
    headers: HeaderMap,
    query: Result<Query<VerifyQuery>, axum::extract::rejection::QueryRejection>,
) -> Answer {
    let header = headers.get("x-verify-token").and_then(|value| value.to_str().ok());
    let by_query = query.ok().and_then(|Query(query)| query.token).filter(|_| header.is_none());
    let token = header.or(by_query.as_deref()).and_then(|text| OpaqueToken::decode(text.trim()));
    let token = token.ok_or_else(token_invalid)?;
    let verified = accounts.db.verify_registration(&token.hash(), accounts.options.new_role, accounts.now_us()).await?;
    let mut response = match verified {
        Verified::Made(user) => {
            note("ok", "verify-email", user.id.as_str(), &place);
            axum::Json(VerifiedView { user: UserView::of(&user) }).into_response()
        }
        Verified::Taken => {
            let detail = "log in, or ask for another password";
            return Err(Problem::new(
                StatusCode::CONFLICT,
                "email-taken",
                "The address has an account already",
                detail,
            ));
        }
        Verified::Unknown => return Err(token_invalid()),
    };
    if by_query.is_some() {
        tracing::warn!("a verification token came in a query, where logs keep it; send X-Verify-Token");
        // RFC 9745: since 2026-11-22.
        response.headers_mut().insert("deprecation", HeaderValue::from_static("@1795305600"));
    }
    Ok(no_store(response))
}

/// Somebody who logs in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Login {
    email: String,
    #[schema(format = Password)]
    password: String,
    /// For browsers: tokens come as cookies that no script can read.
    #[serde(default)]
    cookies: bool,
}

/// A session, or what is missing to one.
#[allow(clippy::large_enum_variant)] // one a request
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum LoggedIn {
    /// A session.
    Session(SessionView),
    /// The second factor is missing.
    SecondFactor(TicketView),
}

/// A session that has begun or goes on.
#[derive(Serialize, ToSchema)]
#[schema(as = SessionTokens)]
pub(super) struct SessionView {
    /// Its id.
    session: String,
    /// Always `Bearer`.
    token_type: &'static str,
    /// For `Authorization`; absent for browsers with cookies.
    #[serde(skip_serializing_if = "Option::is_none")]
    access_token: Option<String>,
    /// Seconds that it is valid.
    expires_in: u64,
    /// Gets the next one, once; absent for browsers with cookies.
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
    /// With cookies: what a page sends in `X-CSRF-Token`; the cookie `__Host-segue_csrf` has it too.
    #[serde(skip_serializing_if = "Option::is_none")]
    csrf_token: Option<String>,
    /// When the session ends however much it is used.
    expires_at: String,
    user: UserView,
}

/// A login that waits for a second factor.
#[derive(Serialize, ToSchema)]
#[schema(as = SecondFactorNeeded)]
struct TicketView {
    /// Always.
    mfa_required: bool,
    /// For `POST /api/v1/auth/mfa/verify`; absent for browsers with cookies.
    #[serde(skip_serializing_if = "Option::is_none")]
    ticket: Option<String>,
    /// Seconds that it waits.
    expires_in: i64,
}

/// Logs in with address and password.
#[utoipa::path(
    post, path = "/api/v1/auth/login", tag = "auth", summary = "Log in",
    security(()), request_body = Login,
    responses(
        (status = 200, description = "A session, or the second factor is missing", body = LoggedIn),
        (status = 400, description = "The body cannot be read", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "Address and password do not belong together", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "They do, and the address is not proven yet or the account is closed", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "The address is none", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "Too many tries", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Try again later", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn login(
    State(accounts): State<Arc<Accounts>>,
    Place(place): Place,
    headers: HeaderMap,
    Sent(sent): Sent<Login>,
) -> Answer {
    let span = tracing::info_span!("login", via = "password", outcome = Empty);
    by_password(&accounts, &place, &headers, sent).instrument(span).await
}

async fn by_password(accounts: &Accounts, place: &str, headers: &HeaderMap, sent: Login) -> Answer {
    let email = email(&sent.email)?;
    if sent.cookies {
        own_site(headers)?;
    }
    let (account, now_us) = (email.digest(), accounts.now_us());
    // The same looks for everybody, known or not.
    let credential = accounts.db.credential(&email).await?;
    let nobody = UserId::new(0);
    let id = credential.as_ref().map_or(&nobody, |credential| &credential.id);
    let at_home = accounts.db.is_at_home(id, place, now_us).await?;
    let here = Limit::login_here(&account, place);
    let mut limits = vec![Limit::login_from(place), here.clone()];
    if !at_home {
        // Strangers can slow each other down, and nobody where they have a session already.
        limits.push(Limit::login_account(&account));
    }
    if let Err(refused) = accounts.limiter.pass(&limits).await {
        note("throttled", "login", &account, place);
        return Err(refused);
    }
    let known = credential.as_ref().and_then(|credential| credential.password.as_deref());
    let verdict = accounts.verify(sent.password.clone(), known).await?;
    let credential = match (verdict, credential) {
        (Verdict::Right | Verdict::Outdated, Some(credential)) => credential,
        _ => {
            note("refused", "login", &account, place);
            return Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "credentials",
                "Address and password do not belong together",
                "check both; whoever has just registered follows the link in the mail first",
            ));
        }
    };
    accounts.limiter.forgive(&here).await?;
    allowed(&credential)?;
    if verdict == Verdict::Outdated {
        rehash(accounts, &credential, sent.password).await;
    }
    proceed(accounts, (&credential.id, credential.second_factor), "password", (place, headers), sent.cookies).await
}

/// Whoever has the right password may know why it does not suffice.
fn allowed(credential: &Credential) -> Result<(), Problem> {
    if !credential.verified {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "email-unverified",
            "The address is not proven yet",
            "follow the link in the mail; register again for another one",
        ));
    }
    match credential.disabled {
        true => Err(closed()),
        false => Ok(()),
    }
}

fn closed() -> Problem {
    let detail = "the operator closed it; ask them";
    Problem::new(StatusCode::FORBIDDEN, "account-closed", "The account is closed", detail)
}

/// The same password with the parameters of today. That it failed is no reason to keep anybody out.
async fn rehash(accounts: &Accounts, credential: &Credential, password: String) {
    let Some(old) = &credential.password else { return };
    if let Ok(new) = accounts.hash(password, vec![]).await
        && let Err(error) = accounts.db.refresh_hash(&credential.id, old, &new, accounts.now_us()).await
    {
        tracing::warn!(error = error.chain(), "an old hash could not be replaced");
    }
}

/// Starts a session, or asks for the second factor first.
async fn proceed(
    accounts: &Accounts,
    (user, second_factor): (&UserId, bool),
    via: &str,
    (place, headers): (&str, &HeaderMap),
    by_cookies: bool,
) -> Answer {
    if !second_factor {
        return start(accounts, user, via, false, (place, headers), by_cookies).await;
    }
    let (ticket, now_us) = (OpaqueToken::random(), accounts.now_us());
    let of = (user.as_str(), Some(via));
    accounts.db.put_token(&ticket.hash(), Purpose::SecondFactor, of, now_us + TICKET_US, now_us).await?;
    note("ok", "first-factor", user.as_str(), place);
    let expires_in = TICKET_US / 1_000_000;
    let told = (!by_cookies).then(|| ticket.expose().to_owned());
    let view = LoggedIn::SecondFactor(TicketView { mfa_required: true, ticket: told, expires_in });
    let mut response = axum::Json(view).into_response();
    if by_cookies {
        let cookie = (cookies::TICKET, ticket.expose());
        cookies::set(response.headers_mut(), cookie, Site::Strict, expires_in as u64);
    }
    Ok(no_store(response))
}

/// Starts a session: a new one for each login (ASVS 7.2.4).
async fn start(
    accounts: &Accounts,
    user: &UserId,
    via: &str,
    second_factor: bool,
    (place, headers): (&str, &HeaderMap),
    by_cookies: bool,
) -> Answer {
    let now_us = accounts.now_us();
    let user = accounts.db.user(user).await?.filter(|user| !user.disabled).ok_or_else(closed)?;
    let refresh = OpaqueToken::random();
    let client = client(headers);
    let expires_us = now_us + micros(accounts.options.session_max);
    let new = NewSession {
        user: &user.id,
        via,
        second_factor,
        client: client.as_deref(),
        place,
        refresh: &refresh.hash(),
        refresh_expires_us: expires_us.min(now_us + micros(accounts.options.session_idle)),
        expires_us,
    };
    let session = accounts.db.start_session(&new, now_us).await?;
    note("ok", "login", user.id.as_str(), place);
    go_on(accounts, &user, (&session, expires_us), &refresh, by_cookies)
}

/// The tokens of a session, in the answer or as cookies.
fn go_on(
    accounts: &Accounts,
    user: &User,
    (session, expires_us): (&SessionId, i64),
    refresh: &OpaqueToken,
    by_cookies: bool,
) -> Answer {
    let access = accounts.tokens.make(&user.id, session, accounts.clock.unix_s())?;
    let csrf = accounts.ring.csrf(session.as_str());
    let valid_s = accounts.tokens.valid_s();
    let mut view = SessionView {
        session: session.to_string(),
        token_type: "Bearer",
        access_token: None,
        expires_in: valid_s,
        refresh_token: None,
        csrf_token: None,
        expires_at: rfc3339(expires_us),
        user: UserView::of(user),
    };
    if !by_cookies {
        view.access_token = Some(access);
        view.refresh_token = Some(refresh.expose().to_owned());
        return Ok(no_store(axum::Json(LoggedIn::Session(view)).into_response()));
    }
    view.csrf_token = Some(csrf.clone());
    let mut response = axum::Json(LoggedIn::Session(view)).into_response();
    put_cookies(accounts, response.headers_mut(), &access, refresh, &csrf);
    Ok(no_store(response))
}

fn put_cookies(accounts: &Accounts, headers: &mut HeaderMap, access: &str, refresh: &OpaqueToken, csrf: &str) {
    let idle_s = accounts.options.session_idle.as_secs();
    cookies::set(headers, (cookies::ACCESS, access), Site::Strict, accounts.tokens.valid_s());
    cookies::set(headers, (cookies::REFRESH, refresh.expose()), Site::Strict, idle_s);
    cookies::set(headers, (cookies::CSRF, csrf), Site::Strict, idle_s);
    cookies::clear(headers, &[cookies::TICKET]);
}

/// What gets the next tokens.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Refresh {
    refresh_token: String,
}

/// Goes on with a session: another access token, and another refresh token. Each refresh token opens once; one that comes
/// back ends the session, because two must have it.
#[utoipa::path(
    post, path = "/api/v1/auth/refresh", tag = "auth", summary = "Go on with a session",
    security(()), request_body(content = Option<Refresh>, description = "Nothing, for browsers: the cookies and X-CSRF-Token do"),
    params(("X-CSRF-Token" = Option<String>, Header, description = "With cookies")),
    responses(
        (status = 200, description = "The next tokens", body = SessionView),
        (status = 400, description = "The body cannot be read", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "The refresh token opens nothing, or was used before", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "Another site could have sent this", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "Too many requests", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn refresh(
    State(accounts): State<Arc<Accounts>>,
    Place(place): Place,
    headers: HeaderMap,
    SentOrNot(sent): SentOrNot<Option<Refresh>>,
) -> Answer {
    let (old, by_cookies) = match &sent.flatten() {
        Some(sent) => (OpaqueToken::decode(&sent.refresh_token), false),
        None => (cookies::get(&headers, cookies::REFRESH).and_then(OpaqueToken::decode), true),
    };
    let old = old.ok_or_else(refresh_invalid)?;
    if by_cookies {
        own_cookies(&accounts, &headers, &old).await?;
    }
    let (new, now_us) = (OpaqueToken::random(), accounts.now_us());
    let valid_us = micros(accounts.options.session_idle);
    match accounts.db.rotate((&old.hash(), &new.hash()), valid_us, now_us).await? {
        Rotated::New { session, user, expires_us } => {
            let user = accounts.db.user(&user).await?.ok_or_else(refresh_invalid)?;
            go_on(&accounts, &user, (&session, expires_us), &new, by_cookies)
        }
        Rotated::Reused(session) => {
            note("refused", "refresh-reused", session.as_str(), &place);
            tracing::warn!(
                session = session.as_str(),
                "a refresh token came back after its use; its session has ended"
            );
            Err(refresh_invalid())
        }
        Rotated::Unknown => Err(refresh_invalid()),
    }
}

/// Whether the cookies' own page asks, and not another site.
async fn own_cookies(accounts: &Accounts, headers: &HeaderMap, refresh: &OpaqueToken) -> Result<SessionId, Problem> {
    let session = accounts.db.session_of(&refresh.hash()).await?.ok_or_else(refresh_invalid)?;
    match caller::has_csrf(accounts, headers, &session) {
        true => Ok(session),
        false => Err(csrf()),
    }
}

fn csrf() -> Problem {
    let detail = "send X-CSRF-Token with what the cookie __Host-segue_csrf has";
    Problem::new(StatusCode::FORBIDDEN, "csrf", "Another site could have sent this", detail)
}

/// A login that sets cookies begins on our own pages: no other site logs somebody in as somebody else.
fn own_site(headers: &HeaderMap) -> Result<(), Problem> {
    match caller::is_own_site(headers) {
        true => Ok(()),
        false => {
            let detail = "log in on this site, or without cookies";
            Err(Problem::new(StatusCode::FORBIDDEN, "csrf", "Another site could have sent this", detail))
        }
    }
}

/// Ends this session, on all nodes at once.
#[utoipa::path(
    post, path = "/api/v1/auth/logout", tag = "auth", summary = "Log out",
    security(("bearer" = [])),
    responses(
        (status = 204, description = "The session has ended"),
        (status = 401, description = "Nobody is named", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "A key cannot do this, or another site could have sent it", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "Too many requests", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn logout(
    State(accounts): State<Arc<Accounts>>,
    Place(place): Place,
    headers: HeaderMap,
    person: Result<Person, Problem>,
) -> Answer {
    let now_us = accounts.now_us();
    match (person, cookies::get(&headers, cookies::REFRESH).and_then(OpaqueToken::decode)) {
        (Ok(Person(session)), _) => {
            accounts.db.end_session(&session.user, &session.id, "logout", now_us).await?;
            note("ok", "logout", session.user.as_str(), &place);
        }
        // A browser whose access token has just expired.
        (Err(_), Some(refresh)) => {
            let session = own_cookies(&accounts, &headers, &refresh).await?;
            if let Rotated::New { user, .. } =
                accounts.db.rotate((&refresh.hash(), &OpaqueToken::random().hash()), 0, now_us).await?
            {
                accounts.db.end_session(&user, &session, "logout", now_us).await?;
                note("ok", "logout", user.as_str(), &place);
            }
        }
        (Err(problem), None) => return Err(problem),
    }
    let mut response = StatusCode::NO_CONTENT.into_response();
    cookies::clear(response.headers_mut(), &[cookies::ACCESS, cookies::REFRESH, cookies::CSRF, cookies::TICKET]);
    Ok(no_store(response))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Page {
    /// How many at most, 1 to 100.
    #[param(nullable = false, minimum = 1, maximum = 100)]
    limit: Option<i64>,
    /// Those before this one: `next` of the list before.
    #[param(nullable = false)]
    before: Option<String>,
}

/// Where somebody is logged in.
#[derive(Serialize, ToSchema)]
#[schema(as = Sessions)]
struct SessionList {
    items: Vec<SessionItem>,
    /// For `before`; null at the end.
    next: Option<String>,
}

/// One of them.
#[derive(Serialize, ToSchema)]
#[schema(as = Session)]
struct SessionItem {
    id: String,
    /// Whether it is this one.
    current: bool,
    /// `password`, or the provider's name.
    via: String,
    /// Whether a second factor was shown.
    second_factor: bool,
    /// The program it began with.
    client: Option<String>,
    /// The network it began in.
    place: String,
    created_at: String,
    /// When it was last refreshed.
    seen_at: String,
    expires_at: String,
}

/// Lists where the caller is logged in, the latest first.
#[utoipa::path(
    get, path = "/api/v1/auth/sessions", tag = "auth", summary = "List sessions",
    security(("bearer" = [])), params(Page),
    responses(
        (status = 200, description = "The caller's sessions", body = SessionList),
        (status = 400, description = "The query cannot be read", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "Nobody is named", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "A key cannot do this", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "Too many requests", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn sessions(
    State(accounts): State<Arc<Accounts>>,
    Person(here): Person,
    page: Result<Query<Page>, axum::extract::rejection::QueryRejection>,
) -> Answer<axum::Json<SessionList>> {
    let Query(page) = page.map_err(|cause| super::transcodes::wrong_query(&cause))?;
    let limit = page.limit.unwrap_or(LIST_MAX).clamp(1, LIST_MAX);
    let before = page.before.as_deref().map(|id| SessionId::decode(id).ok_or_else(super::openapi::wrong_cursor));
    let before = before.transpose()?;
    let found = accounts.db.sessions(&here.user, before.as_ref(), limit, accounts.now_us()).await?;
    let next = (found.len() as i64 == limit).then(|| found.last().map(|session| session.id.to_string())).flatten();
    let item = |session: crate::db::sessions::Session| SessionItem {
        current: session.id == here.id,
        id: session.id.to_string(),
        via: session.via,
        second_factor: session.second_factor,
        client: session.client,
        place: session.place,
        created_at: rfc3339(session.created_us),
        seen_at: rfc3339(session.seen_us),
        expires_at: rfc3339(session.expires_us),
    };
    Ok(axum::Json(SessionList { items: found.into_iter().map(item).collect(), next }))
}

/// Logs the caller out everywhere but here.
#[utoipa::path(
    delete, path = "/api/v1/auth/sessions", tag = "auth", summary = "End all other sessions",
    security(("bearer" = [])),
    responses(
        (status = 204, description = "Only this session goes on"),
        (status = 401, description = "Nobody is named", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "A key cannot do this", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "Too many requests", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn end_others(State(accounts): State<Arc<Accounts>>, Person(here): Person) -> Answer<StatusCode> {
    accounts.db.end_sessions(&here.user, Some(&here.id), accounts.now_us()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ends one of the caller's sessions.
#[utoipa::path(
    delete, path = "/api/v1/auth/sessions/{id}", tag = "auth", summary = "End a session",
    security(("bearer" = [])), params(("id" = String, Path, description = "Its id")),
    responses(
        (status = 204, description = "It has ended"),
        (status = 401, description = "Nobody is named", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "A key cannot do this", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "The caller has no such session", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "Too many requests", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn end_one(
    State(accounts): State<Arc<Accounts>>,
    Person(here): Person,
    Path(id): Path<String>,
) -> Answer<StatusCode> {
    let id = SessionId::decode(&id).ok_or_else(Problem::not_found)?;
    match accounts.db.end_session(&here.user, &id, "owner", accounts.now_us()).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Problem::not_found()),
    }
}

/// Whose password is forgotten.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AskReset {
    email: String,
}

/// What happens next.
#[derive(Serialize, ToSchema)]
struct Asked {
    message: &'static str,
}

/// Asks for a mail that sets another password. The answer is the same whether the address has an account or not.
#[utoipa::path(
    post, path = "/api/v1/auth/password/reset-request", tag = "auth", summary = "Forgot the password",
    request_body = AskReset,
    responses(
        (status = 200, description = "If there is such an account, a mail is on its way", body = Asked),
        (status = 400, description = "The body cannot be read", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "The address is none", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "Too many requests", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn ask_reset(
    State(accounts): State<Arc<Accounts>>,
    Place(place): Place,
    Sent(sent): Sent<AskReset>,
) -> Answer<axum::Json<Asked>> {
    let email = email(&sent.email)?;
    let limits = [Limit::mail_from(&place), Limit::mail_to(&email.digest())];
    accounts.limiter.pass(&limits).await?;
    // Whether there is an account is looked up by whoever sends the mail.
    accounts.db.put_mail("reset", email.as_str(), "{}", accounts.now_us()).await?;
    note("ok", "reset-request", &email.digest(), &place);
    Ok(axum::Json(Asked { message: "if this address has an account, we have sent it a mail" }))
}

/// Another password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Reset {
    /// What stands behind the # of the link.
    token: String,
    #[schema(format = Password)]
    password: String,
}

/// Sets another password by the token of a mail. Every session ends, nobody is logged in, and the second factor is asked
/// for as before.
#[utoipa::path(
    post, path = "/api/v1/auth/password/reset", tag = "auth", summary = "Set another password",
    request_body = Reset,
    responses(
        (status = 204, description = "Log in with it"),
        (status = 400, description = "The body cannot be read, or the token opens nothing", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "The password cannot be used", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "Too many requests", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Try again later", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn reset(
    State(accounts): State<Arc<Accounts>>,
    Place(place): Place,
    Sent(sent): Sent<Reset>,
) -> Answer<StatusCode> {
    let token = OpaqueToken::decode(sent.token.trim()).ok_or_else(token_invalid)?;
    let now_us = accounts.now_us();
    let user = accounts.db.reset_subject(&token.hash(), now_us).await?.ok_or_else(token_invalid)?;
    let email = user.email.clone().unwrap_or_default();
    // A password that cannot be used leaves the token for another one.
    let password = accounts.hash(sent.password, vec![email.clone()]).await?;
    let whose = accounts.db.reset_password(&token.hash(), &password, now_us).await?.ok_or_else(token_invalid)?;
    accounts.db.put_mail("password", &email, "{}", now_us).await?;
    note("ok", "reset", whose.as_str(), &place);
    Ok(StatusCode::NO_CONTENT)
}

fn email(text: &str) -> Result<Email, Problem> {
    Email::decode(text)
        .map_err(|wrong: Error| Problem::unprocessable("email", "The address cannot be used", wrong.chain()))
}

fn token_invalid() -> Problem {
    let detail = "it was used, or its time is over; ask for another mail";
    Problem::new(StatusCode::BAD_REQUEST, "token-invalid", "The token opens nothing", detail)
}

fn refresh_invalid() -> Problem {
    let title = "The refresh token opens nothing";
    Problem::new(StatusCode::UNAUTHORIZED, "refresh-invalid", title, "log in again")
}

fn micros(duration: std::time::Duration) -> i64 {
    duration.as_micros() as i64
}
