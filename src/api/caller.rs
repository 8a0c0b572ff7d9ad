//! Who asks, at the door of the API: one layer reads a request's credentials once, before any route; the routes ask
//! for a `Caller` and get a `Principal`, or the request was answered.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;

use super::keys::Keys;
use super::problem::Problem;
use crate::auth::principal::Principal;

/// What credentials are checked against.
#[derive(Debug)]
pub struct Door {
    /// Keys of the configuration.
    pub keys: Keys,
}

/// The layer over every route: names the caller, and refuses nobody.
pub async fn named(State(door): State<Arc<Door>>, mut request: Request, next: Next) -> Response {
    if let Some(name) = door.keys.whose(request.headers()) {
        let principal = Principal::program(name);
        request.extensions_mut().insert(principal);
    }
    next.run(request).await
}

/// Who asks; without credentials the answer is 401.
#[derive(Debug)]
pub struct Caller(pub Principal);

/// Who asks, if they say so.
#[derive(Debug)]
pub struct Anyone(pub Option<Principal>);

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Caller, Problem> {
        parts.extensions.get::<Principal>().cloned().map(Caller).ok_or_else(unauthorized)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Anyone {
    type Rejection = Infallible;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Anyone, Infallible> {
        Ok(Anyone(parts.extensions.get::<Principal>().cloned()))
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
