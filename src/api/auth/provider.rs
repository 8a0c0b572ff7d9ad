//! `/api/v1/auth/oauth/{provider}`: logging in by a provider of identities.
//!
//! State, verifier and nonce are kept here, bound to the browser by a cookie: whoever comes back is who left, and a link
//! that somebody else began logs nobody in. A provider's word for an address is enough to be its owner here, which is why
//! only the operator names providers; a second factor is asked for all the same.
#![allow(unused_qualifications, reason = "utoipa's macro writes them")]

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use subtle::ConstantTimeEq as _;
use tracing::Instrument as _;
use tracing::field::Empty;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, closed, proceed};
use crate::api::accounts::{Accounts, NAME_CHARS_MAX, note};
use crate::api::caller::Place;
use crate::api::cookies::{self, Site};
use crate::api::openapi::ProblemDocument;
use crate::api::problem::Problem;
use crate::api::transcodes::{no_store, wrong_query};
use crate::auth::opaque::OpaqueToken;
use crate::auth::throttle::Limit;
use crate::base::{Error, Kind};
use crate::db::sessions::{ProviderLogin, Recognised};
use crate::providers::oidc::Provider;

/// How long somebody may take at the provider, in microseconds.
const AWAY_US: i64 = 10 * 60_000_000;
/// The longest address to return to, in bytes.
const RETURN_BYTES_MAX: usize = 1024;
/// Where a login ends when nobody says: a page that asks for the second factor, too.
const STUDIO: &str = "/studio";

pub(super) fn described() -> OpenApiRouter<Arc<Accounts>> {
    OpenApiRouter::new().routes(routes!(leave)).routes(routes!(come_back))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Leave {
    /// Where the browser goes in the end: a path of this server, or a whole URL that the operator allows. `/studio` when
    /// nobody says.
    #[param(nullable = false)]
    return_to: Option<String>,
}

/// Sends a browser to a provider.
#[utoipa::path(
    get, path = "/api/v1/auth/oauth/{provider}", tag = "auth", summary = "Log in by a provider",
    params(("provider" = String, Path, description = "Its name"), Leave),
    responses(
        (status = 302, description = "To the provider"),
        (status = 400, description = "The login cannot end there", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "There is no such provider", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "Too many requests", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "The provider does not answer", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn leave(
    State(accounts): State<Arc<Accounts>>,
    Place(place): Place,
    Path(name): Path<String>,
    query: Result<Query<Leave>, QueryRejection>,
) -> Answer {
    let provider = accounts.providers.get(&name).ok_or_else(Problem::not_found)?;
    let Query(query) = query.map_err(|cause| wrong_query(&cause))?;
    let return_to = query.return_to.unwrap_or_else(|| STUDIO.into());
    if !may_return_to(&return_to, &accounts.options.return_to) {
        let detail = "give a path of this server, or a URL below one of auth.return_to";
        return Err(Problem::new(StatusCode::BAD_REQUEST, "return-to", "The login cannot end there", detail));
    }
    accounts.limiter.pass(&[Limit::providers_from(&place)]).await?;
    let begun = accounts.providers.begin(provider, &redirect_uri(&accounts, provider)).await.map_err(unreachable)?;
    let browser = OpaqueToken::random();
    let state = begun.state.hash();
    let login = ProviderLogin {
        provider: provider.name.clone(),
        browser: browser.hash().as_str().to_owned(),
        verifier: accounts.ring.seal(begun.verifier.expose(), &verifier_of(state.as_str())),
        nonce: begun.nonce.expose().to_owned(),
        return_to,
    };
    accounts.db.put_provider_login(&state, &login, accounts.now_us() + AWAY_US).await?;
    let mut response = to(&begun.url)?;
    // Lax: the provider sends the browser back from its own site.
    let cookie = (cookies::BROWSER, browser.expose());
    cookies::set(response.headers_mut(), cookie, Site::Lax, (AWAY_US / 1_000_000) as u64);
    Ok(response)
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ComeBack {
    /// Names the login.
    #[param(nullable = false)]
    state: Option<String>,
    /// What is redeemed.
    #[param(nullable = false)]
    code: Option<String>,
    /// Who answers (RFC 9207).
    #[param(nullable = false)]
    iss: Option<String>,
    /// Why nobody came.
    #[param(nullable = false)]
    error: Option<String>,
}

/// Where a provider sends the browser back. Ends with cookies of a session, or of a half login: then the address has
/// `mfa_required=1`.
#[utoipa::path(
    get, path = "/api/v1/auth/oauth/{provider}/callback", tag = "auth", summary = "Come back from a provider",
    params(("provider" = String, Path, description = "Its name"), ComeBack),
    responses(
        (status = 302, description = "Logged in, or half"),
        (status = 400, description = "The login is unknown, over, or another browser's", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "The account is closed, nobody can register, or the provider refuses", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "There is no such provider", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "Too many requests", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "The provider does not answer", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn come_back(
    State(accounts): State<Arc<Accounts>>,
    Place(place): Place,
    headers: HeaderMap,
    Path(name): Path<String>,
    query: Result<Query<ComeBack>, QueryRejection>,
) -> Answer {
    let provider = accounts.providers.get(&name).ok_or_else(Problem::not_found)?;
    let Query(query) = query.map_err(|cause| wrong_query(&cause))?;
    let span = tracing::info_span!("login", via = provider.name, outcome = Empty);
    recognise(&accounts, provider, &place, &headers, query).instrument(span).await
}

async fn recognise(
    accounts: &Accounts,
    provider: &Provider,
    place: &str,
    headers: &HeaderMap,
    query: ComeBack,
) -> Answer {
    let state = query.state.as_deref().and_then(OpaqueToken::decode).ok_or_else(unknown_login)?.hash();
    let login = accounts.db.take_provider_login(&state, accounts.now_us()).await?.ok_or_else(unknown_login)?;
    let browser = cookies::get(headers, cookies::BROWSER).and_then(OpaqueToken::decode).ok_or_else(unknown_login)?;
    let same = browser.hash().as_str().as_bytes().ct_eq(login.browser.as_bytes());
    if login.provider != provider.name || !bool::from(same) {
        return Err(unknown_login());
    }
    let Some(code) = &query.code else {
        note("refused", "provider", &provider.name, place);
        let why = query.error.as_deref().unwrap_or("no code");
        let why: String = why.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(40).collect();
        let detail = format!("the provider says {why}; try again");
        return Err(Problem::new(StatusCode::FORBIDDEN, "provider-refused", "The provider names nobody", detail));
    };
    let verifier = accounts.ring.open(&login.verifier, &verifier_of(state.as_str()))?;
    let uri = redirect_uri(accounts, provider);
    let finished =
        accounts.providers.finish(provider, (code, query.iss.as_deref()), (&verifier, &login.nonce), &uri).await;
    let identity = finished.map_err(|error| match error.kind() {
        Kind::Invalid => {
            tracing::warn!(provider = provider.name, error = error.chain(), "a login by a provider was refused");
            unknown_login()
        }
        _ => unreachable(error),
    })?;
    let new_role = accounts.options.new_role;
    let key = (provider.name.as_str(), identity.subject.as_str());
    let email = identity.email.as_ref();
    let known_email = match email {
        Some(email) if !accounts.options.registration => accounts.db.user_by_email(email).await?.map(|_| email),
        email => email,
    };
    let name =
        identity.name.map(|name| name.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect::<String>());
    let user = match accounts.db.recognise(key, known_email, name.as_deref(), new_role, accounts.now_us()).await? {
        Recognised::Known(user) | Recognised::Linked(user) | Recognised::Made(user) => user,
        Recognised::Nobody => {
            note("refused", "provider", &provider.name, place);
            let detail = "the provider vouches for no address of yours, or nobody can register here";
            return Err(Problem::new(StatusCode::FORBIDDEN, "provider-refused", "The provider names nobody", detail));
        }
    };
    if user.disabled {
        return Err(closed());
    }
    let sealed = accounts.ring.seal(&identity.tokens, &format!("identity {} {}", provider.name, identity.subject));
    accounts.db.keep_provider_tokens(key, &sealed).await?;
    let logged_in = proceed(accounts, (&user.id, user.second_factor), &provider.name, (place, headers), true).await?;
    let end = if user.second_factor { half(&login.return_to) } else { login.return_to };
    let mut response = to(&end)?;
    for cookie in logged_in.headers().get_all(header::SET_COOKIE) {
        response.headers_mut().append(header::SET_COOKIE, cookie.clone());
    }
    cookies::clear(response.headers_mut(), &[cookies::BROWSER]);
    Ok(response)
}

/// The same address, which says that the second factor is missing.
fn half(return_to: &str) -> String {
    let (address, fragment) = return_to.split_at(return_to.find('#').unwrap_or(return_to.len()));
    let and = if address.contains('?') { '&' } else { '?' };
    format!("{address}{and}mfa_required=1{fragment}")
}

/// A path of this server, or a whole URL below one that is allowed: nothing that a browser reads as another host, or as
/// another path than it says.
fn may_return_to(text: &str, allowed: &[String]) -> bool {
    let plain = text.len() <= RETURN_BYTES_MAX && text.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
    let own = text.starts_with('/') && !text.starts_with("//");
    // What ends with a slash ends a host: https://app.example/ is not the beginning of https://app.example.evil.
    let listed = allowed.iter().any(|allowed| allowed.ends_with('/') && text.starts_with(allowed.as_str()));
    plain && (own || listed) && !climbs(text)
}

/// Whether its path has segments that lead up or nowhere, or what some reader takes for a slash, however it is written.
fn climbs(text: &str) -> bool {
    let path = text.split(['?', '#']).next().unwrap_or_default();
    let decoded = percent_decode_str(path).collect::<Vec<u8>>();
    decoded.iter().any(|b| b.is_ascii_control() || *b == b'\\')
        || decoded.split(|b| *b == b'/').any(|segment| matches!(segment, b"." | b".."))
}

fn redirect_uri(accounts: &Accounts, provider: &Provider) -> String {
    format!("{}/api/v1/auth/oauth/{}/callback", accounts.options.base_url, provider.name)
}

/// Where a verifier is sealed: it opens for no other login.
fn verifier_of(state: &str) -> String {
    format!("verifier {state}")
}

fn to(url: &str) -> Result<Response, Problem> {
    let location = HeaderValue::try_from(url)
        .map_err(|cause| Error::internal("a provider's address cannot be sent").because(cause))?;
    Ok(no_store((StatusCode::FOUND, [(header::LOCATION, location)]).into_response()))
}

fn unknown_login() -> Problem {
    let detail = "begin again, in this browser, and come back within ten minutes";
    Problem::new(StatusCode::BAD_REQUEST, "login-unknown", "This login is unknown or over", detail)
}

fn unreachable(error: Error) -> Problem {
    tracing::warn!(error = error.chain(), "a provider of identities does not answer");
    let detail = "the provider does not answer; try again, or log in another way";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "provider-unavailable", "Try again later", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_ends_here_or_where_the_operator_allows() {
        let allowed = ["https://app.example/".to_owned()];
        for good in [
            "/",
            "/studio?x=1#y",
            "https://app.example/",
            "https://app.example/a?b",
            "/a?b=../c",
            "/...",
            "/.well-known/x",
        ] {
            assert!(may_return_to(good, &allowed), "{good}");
        }
        for bad in [
            "",
            "//evil.example",
            "/\\evil.example",
            "\\/evil.example",
            "https://app.example.evil/",
            "https://app.example@evil/",
            "javascript:alert(1)",
            "http://app.example/",
            "/a b",
            "/a\r\nSet-Cookie: x",
            "evil.example",
            "/studio/../admin",
            "/..",
            "/a/./b",
            &"/a".repeat(600),
        ] {
            assert!(!may_return_to(bad, &allowed), "{bad:?}");
        }
        // Below a path, too: nobody climbs out of it, however they write it.
        let allowed = ["https://app.example/in/".to_owned()];
        assert!(may_return_to("https://app.example/in/x?to=..", &allowed));
        for out in
            ["../x", "../../x", "a/../../x", "%2e%2e/x", "%2E./x", ".%2e%2fx", "..%2Fx", "..%5cx", "%00/x", "a/.."]
        {
            assert!(!may_return_to(&format!("https://app.example/in/{out}"), &allowed), "{out}");
        }
        assert!(!may_return_to("https://app.example/", &[]));
        assert_eq!(half("/studio"), "/studio?mfa_required=1");
        assert_eq!(half("/studio?x=1#y"), "/studio?x=1&mfa_required=1#y");
    }
}
