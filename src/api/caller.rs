//! Who asks, at the door of the API: one layer reads a request's credentials once, before any route; the routes ask for a
//! `Caller` and get a `Principal`, or the request was answered.
//!
//! The same layer then, and only then, takes from the limits of whoever was named, for every route below `/api/`: no route
//! can be there without it, and none can have its own order. Keys are counted where players ask, too.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq as _;

use super::accounts::Accounts;
use super::cookies;
use super::keys::Keys;
use super::limiter::{self, Limiter};
use super::problem::Problem;
use crate::auth::access_token::Refused;
use crate::auth::principal::{Principal, Role, Scopes, Via};
use crate::auth::throttle::{self, Limit, Taken};
use crate::auth::{SessionId, UserId, api_key};
use crate::base::{Result, hex};
use crate::origin::Origin;
use crate::server::Beside;

/// What credentials are checked against.
#[derive(Debug)]
pub struct Door {
    /// Keys of the configuration.
    pub keys: Keys,
    /// Accounts of people, where there are some.
    pub accounts: Option<Arc<Accounts>>,
    /// What everybody may ask how often; `None` without a database.
    pub limiter: Option<Arc<Limiter>>,
    /// Knows whom a trusted proxy asks for.
    pub origin: Arc<Origin>,
    /// Whether people reach us over TLS, so that browsers may be told to insist on it.
    pub secure: bool,
}

/// The network a request comes from, as throttles write it.
#[derive(Clone, Debug)]
pub struct Place(pub String);

/// The session a request belongs to, where a person asks by one.
#[derive(Clone, Debug)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// Its person.
    pub user: UserId,
    /// Whether a second factor was shown in it.
    pub second_factor: bool,
    /// When it began, in microseconds since 1970.
    pub created_us: i64,
}

/// What a request's credentials say.
#[derive(Clone, Debug)]
enum Found {
    /// There are none.
    Nobody,
    /// There are, and they open nothing: why.
    Wrong(Wrong),
    /// Whose they are, and by what.
    Named(Principal, By),
}

/// By what somebody was named.
#[derive(Clone, Debug)]
enum By {
    /// A key of the configuration.
    Program,
    /// A person's key, by its id.
    Key(String),
    /// A session.
    Session(Session),
}

/// Why credentials open nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    /// Nothing of ours.
    Unknown,
    /// An access token whose time is over: get another.
    Expired,
    /// A session that was ended.
    Ended,
    /// Cookies without the token that another site could not know.
    Csrf,
    /// Nobody has any: neither keys nor accounts.
    NoKeys,
}

/// The layer over every route.
pub async fn named(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    let (mut head, body) = request.into_parts();
    let (is_api, is_asset) = (head.uri.path().starts_with("/api/"), head.uri.path().starts_with("/assets/"));
    let place = door.place(&head);
    let found = match door.find(&head).await {
        Ok(found) => found,
        Err(error) if is_api => return secured(&door, Problem::from(error).into_response()),
        Err(error) => {
            tracing::warn!(error = error.chain(), "nobody could be named; going on as a stranger");
            Found::Nobody
        }
    };
    let taken = match is_api {
        true => door.admits(&head, &found, &place).await.map_err(|response| secured(&door, response)),
        false => door.plays(&head, &found).await.map_err(|response| closed(&door, response, is_asset)),
    };
    let taken = match taken {
        Ok(taken) => taken,
        Err(response) => return response,
    };
    head.extensions.insert(Place(place));
    match found {
        Found::Nobody if door.is_empty() => _ = head.extensions.insert(Wrong::NoKeys),
        Found::Nobody => {}
        Found::Wrong(wrong) => _ = head.extensions.insert(wrong),
        Found::Named(principal, by) => {
            head.extensions.insert(principal);
            if let By::Session(session) = by {
                head.extensions.insert(session);
            }
        }
    }
    let mut response = next.run(Request::from_parts(head, body)).await;
    // A route's own limit, where it refused, is what its answer speaks of.
    if let Some((limit, taken)) = taken
        && !response.headers().contains_key("ratelimit")
    {
        limiter::tell(response.headers_mut(), &limit, &taken);
    }
    if is_api { secured(&door, response) } else { closed(&door, response, is_asset) }
}

/// What opens nothing when a browser shows it.
const CLOSED: HeaderValue = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");

/// What every answer beside the API carries: pages have said what they need, files and redirects show nothing (ASVS 3.4.6).
fn closed(door: &Door, mut response: Response, is_asset: bool) -> Response {
    let (status, is_file) = (response.status(), is_asset || response.extensions().get::<Beside>().is_some());
    if !(status.is_redirection() || status.is_success() && is_file) {
        response.headers_mut().entry(header::CONTENT_SECURITY_POLICY).or_insert(CLOSED);
    }
    strict(door, response)
}

/// What every answer of the API carries, unless its route has said otherwise (ASVS 3.4).
fn secured(door: &Door, mut response: Response) -> Response {
    const FIELDS: [(HeaderName, &str); 3] = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    let headers = response.headers_mut();
    for (name, value) in FIELDS {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(CLOSED);
    strict(door, response)
}

/// Browsers that were here by TLS once come by nothing else for a year (ASVS 3.4.1).
fn strict(door: &Door, mut response: Response) -> Response {
    if door.secure {
        let year = HeaderValue::from_static("max-age=31536000");
        response.headers_mut().entry(header::STRICT_TRANSPORT_SECURITY).or_insert(year);
    }
    response
}

impl Door {
    /// Whether nobody could be named at all.
    fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.accounts.is_none()
    }

    fn place(&self, head: &Parts) -> String {
        let peer = head.extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| *peer);
        let peer = peer.unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0));
        throttle::prefix(self.origin.client(&head.headers, peer))
    }

    /// Who asks. One kind of credentials counts: what somebody puts into a request, else what their browser does.
    async fn find(&self, head: &Parts) -> Result<Found> {
        let headers = &head.headers;
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
            let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
        });
        let key = || headers.get("x-api-key").map(|value| value.to_str().unwrap_or_default().trim());
        match (bearer, &self.accounts) {
            (Some(token), _) if api_key::is_meant(token) => self.by_key(token).await,
            (Some(token), Some(accounts)) => by_token(accounts, token, Via::Bearer).await,
            (Some(_), None) => Ok(Found::Wrong(Wrong::Unknown)),
            (None, accounts) => match (key(), accounts) {
                (Some(key), _) => self.by_key(key).await,
                (None, Some(accounts)) => by_cookie(accounts, head).await,
                (None, None) => Ok(Found::Nobody),
            },
        }
    }

    async fn by_key(&self, key: &str) -> Result<Found> {
        // A mistyped key is refused before it costs a look.
        let Some(presented) = api_key::decode(key) else { return Ok(Found::Wrong(Wrong::Unknown)) };
        if let Some(name) = self.keys.whose(&presented.sha256) {
            return Ok(Found::Named(Principal::program(name), By::Program));
        }
        let (Some(accounts), Some(id)) = (&self.accounts, presented.id) else {
            return Ok(Found::Wrong(if self.is_empty() { Wrong::NoKeys } else { Wrong::Unknown }));
        };
        let now_us = accounts.clock.unix_us();
        let Some(held) = accounts.db.held_key(&id, now_us).await? else { return Ok(Found::Wrong(Wrong::Unknown)) };
        if !bool::from(hex::encode(&presented.sha256).as_bytes().ct_eq(held.sha256.as_bytes())) {
            return Ok(Found::Wrong(Wrong::Unknown));
        }
        if held.used_us.is_none_or(|used_us| used_us + KEY_NOTED_US < now_us) {
            accounts.db.note_key(&id, now_us).await?;
        }
        // What its person may do now, and of that what the key opens.
        let admin = held.scopes.admin && held.role == Role::Admin && held.second_factor;
        let principal = Principal {
            subject: held.user.to_string(),
            user: Some(held.user),
            role: held.role,
            scopes: Scopes { admin, ..held.scopes },
            via: Via::ApiKey,
        };
        Ok(Found::Named(principal, By::Key(id)))
    }

    /// Whether whoever was found may ask this now; with the limit that was taken from, also by what is refused.
    async fn admits(&self, head: &Parts, found: &Found, place: &str) -> Result<Option<(Limit, Taken)>, Response> {
        let writes = !is_safe(head);
        let limit = match found {
            Found::Named(program, By::Program) => Limit::program(&program.subject),
            // The key, and not its person: each has its own.
            Found::Named(_, By::Key(id)) if writes => Limit::key_writes(id),
            Found::Named(_, By::Key(id)) => Limit::key_reads(id),
            Found::Named(person, By::Session(_)) => Limit::user(&person.subject),
            Found::Nobody | Found::Wrong(_) => Limit::anyone(place),
        };
        let taken = self.take(limit).await.map_err(Problem::into_response)?;
        if let Found::Named(principal, _) = found {
            let Scopes { read, write, .. } = principal.scopes;
            if !(if writes { write } else { read }) {
                let mut response = forbidden(if writes { "write" } else { "read" }).into_response();
                if let Some((limit, taken)) = &taken {
                    limiter::tell(response.headers_mut(), limit, taken);
                }
                return Err(response);
            }
        }
        Ok(taken)
    }

    /// The same where players ask: what a key hears, it reads. Nobody else is counted there.
    async fn plays(&self, head: &Parts, found: &Found) -> Result<Option<(Limit, Taken)>, Response> {
        let path = head.uri.path();
        let Found::Named(_, By::Key(id)) = found else { return Ok(None) };
        if !["/tracks/", "/watch/", "/embed/"].iter().any(|route| path.starts_with(route)) {
            return Ok(None);
        }
        self.take(Limit::key_reads(id)).await.map_err(Problem::into_response)
    }

    async fn take(&self, limit: Limit) -> Result<Option<(Limit, Taken)>, Problem> {
        let Some(limiter) = &self.limiter else { return Ok(None) };
        let taken = limiter.take(&limit).await?;
        match taken.granted {
            0 => Err(limiter::refused(&limit, &taken)),
            _ => Ok(Some((limit, taken))),
        }
    }
}

/// A key's last use is written down at most so often, in microseconds.
const KEY_NOTED_US: i64 = 300_000_000;

async fn by_token(accounts: &Accounts, token: &str, via: Via) -> Result<Found> {
    let claims = match accounts.tokens.check(token, accounts.clock.unix_s()) {
        Ok(claims) => claims,
        Err(Refused::Expired) => return Ok(Found::Wrong(Wrong::Expired)),
        Err(Refused::Invalid) => return Ok(Found::Wrong(Wrong::Unknown)),
    };
    // Asked every time: what was ended has ended, on every node (ASVS 7.4.1).
    let standing = accounts.db.session_standing(&claims.sid, accounts.clock.unix_us()).await?;
    let Some(standing) = standing.filter(|standing| standing.user == claims.sub) else {
        return Ok(Found::Wrong(Wrong::Ended));
    };
    let scopes = Scopes { read: true, write: true, admin: standing.role == Role::Admin && standing.second_factor };
    let principal = Principal {
        subject: standing.user.to_string(),
        user: Some(standing.user.clone()),
        role: standing.role,
        scopes,
        via,
    };
    let session = Session {
        id: claims.sid,
        user: standing.user,
        second_factor: standing.second_factor,
        created_us: standing.created_us,
    };
    Ok(Found::Named(principal, By::Session(session)))
}

/// By cookies, which a browser sends whoever made it ask: a change also needs the token that only our pages can read.
async fn by_cookie(accounts: &Accounts, head: &Parts) -> Result<Found> {
    let Some(token) = cookies::get(&head.headers, cookies::ACCESS) else { return Ok(Found::Nobody) };
    let found = by_token(accounts, token, Via::Cookie).await?;
    match &found {
        Found::Named(_, By::Session(session)) if !is_safe(head) && !has_csrf(accounts, &head.headers, &session.id) => {
            Ok(Found::Wrong(Wrong::Csrf))
        }
        _ => Ok(found),
    }
}

/// Whether a request carries the token of this session, and does not say that another site made it.
pub(super) fn has_csrf(accounts: &Accounts, headers: &HeaderMap, session: &SessionId) -> bool {
    let token = headers.get("x-csrf-token").and_then(|value| value.to_str().ok());
    is_own_site(headers) && token.is_some_and(|token| accounts.ring.is_csrf(session.as_str(), token))
}

/// Whether a browser does not say that another site made the request (Fetch Metadata).
pub(super) fn is_own_site(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(|value| value.to_str().unwrap_or("?"));
    site.is_none_or(|site| matches!(site, "same-origin" | "none"))
}

/// Whether a request changes nothing, by its own method and by the one that it says it means (tus).
fn is_safe(head: &Parts) -> bool {
    let safe = |method: &Method| [Method::GET, Method::HEAD, Method::OPTIONS].contains(method);
    let meant = head.headers.get("x-http-method-override");
    let meant = meant.map(|value| value.to_str().ok().and_then(|text| text.trim().to_ascii_uppercase().parse().ok()));
    safe(&head.method) && meant.is_none_or(|meant| meant.is_some_and(|meant| safe(&meant)))
}

/// Who asks; without credentials the answer is 401.
#[derive(Debug)]
pub struct Caller(pub Principal);

/// Who asks, if they say so.
#[derive(Debug)]
pub struct Anyone(pub Option<Principal>);

/// Who asks, and may publish.
#[derive(Debug)]
pub struct Creator(pub Principal);

/// A person in a session of their own: nothing that belongs to an account alone is done by a key.
#[derive(Debug)]
pub struct Person(pub Session);

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Caller, Problem> {
        caller(&parts.extensions).map(Caller)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Anyone {
    type Rejection = Infallible;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Anyone, Infallible> {
        Ok(Anyone(parts.extensions.get::<Principal>().cloned()))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Creator {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Creator, Problem> {
        creator(&parts.extensions).map(Creator)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Person {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Person, Problem> {
        caller(&parts.extensions)?;
        let session = parts.extensions.get::<Session>().cloned();
        session.map(Person).ok_or_else(|| {
            Problem::new(
                StatusCode::FORBIDDEN,
                "session-needed",
                "A key cannot do this",
                "log in: this is for people alone, not for their programs",
            )
        })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Place {
    type Rejection = Infallible;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Place, Infallible> {
        Ok(parts.extensions.get::<Place>().cloned().unwrap_or_else(|| Place("unknown".into())))
    }
}

/// Who asks, by what the layer found.
pub(super) fn caller(extensions: &Extensions) -> Result<Principal, Problem> {
    match extensions.get::<Principal>() {
        Some(principal) => Ok(principal.clone()),
        None => Err(extensions.get::<Wrong>().map_or_else(unauthorized, |wrong| wrong.problem())),
    }
}

/// The same, of somebody who may publish.
pub(super) fn creator(extensions: &Extensions) -> Result<Principal, Problem> {
    let principal = caller(extensions)?;
    match principal.role >= Role::Creator {
        true => Ok(principal),
        false => Err(Problem::new(
            StatusCode::FORBIDDEN,
            "creator-needed",
            "Only creators may do this",
            "become one: PATCH /api/v1/users/me with {\"role\":\"creator\"}",
        )),
    }
}

impl Wrong {
    fn problem(self) -> Problem {
        let unauthorized = |name, title, detail: &str| Problem::new(StatusCode::UNAUTHORIZED, name, title, detail);
        match self {
            Wrong::Unknown => unauthorized(
                "credentials-unknown",
                "These credentials open nothing",
                "check the API key, or log in again; a key may have been revoked",
            ),
            Wrong::Expired => unauthorized(
                "token-expired",
                "The access token has expired",
                "POST /api/v1/auth/refresh gives another one",
            ),
            Wrong::Ended => unauthorized("session-ended", "The session has ended", "log in again"),
            Wrong::Csrf => Problem::new(
                StatusCode::FORBIDDEN,
                "csrf",
                "Another site could have sent this",
                "send X-CSRF-Token with what the cookie __Host-segue_csrf has",
            ),
            Wrong::NoKeys => Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "no-api-keys",
                "Nobody may use this API yet",
                "the operator has to add a key to api.keys: `segue key create` makes one",
            ),
        }
    }
}

pub(super) fn unauthorized() -> Problem {
    Problem::new(
        StatusCode::UNAUTHORIZED,
        "unauthorized",
        "Nobody is named by this request",
        "log in, or send Authorization: Bearer sgk_… with an API key",
    )
}

fn forbidden(scope: &str) -> Problem {
    let detail = format!("the API key lacks the scope {scope}; make one that has it");
    Problem::new(StatusCode::FORBIDDEN, "insufficient-scope", "The API key does not open this", detail)
}
