//! Errors of the API: `application/problem+json` (RFC 9457). Every type is stable and documented by its
//! title; `detail` is for people.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::base::{Error, Kind};

/// One answer that is an error.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    /// Last part of the type: `idempotency-key-missing`.
    name: &'static str,
    title: &'static str,
    detail: String,
}

impl Problem {
    /// A problem of this type.
    pub fn new(status: StatusCode, name: &'static str, title: &'static str, detail: impl Into<String>) -> Problem {
        Problem { status, name, title, detail: detail.into() }
    }

    /// A request whose content cannot be done.
    pub fn unprocessable(name: &'static str, title: &'static str, detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, name, title, detail)
    }

    /// No such thing, or not yours: the same words for both.
    pub fn not_found() -> Problem {
        Problem::new(StatusCode::NOT_FOUND, "not-found", "There is no such thing", "check the id and the API key")
    }
}

impl From<Error> for Problem {
    /// What went wrong below. The chain is for our log: a stranger learns only whether trying again may help.
    fn from(error: Error) -> Problem {
        match error.kind() {
            Kind::NotFound => Problem::not_found(),
            Kind::Busy | Kind::Unavailable => {
                tracing::warn!(error = error.chain(), "a control request could not be answered");
                let detail = "the database does not answer; try again";
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Try again later", detail)
            }
            _ => {
                tracing::error!(error = error.chain(), "a control request failed");
                let detail = "it is in our log";
                Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Something failed on our side", detail)
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = json!({
            "type": format!("/problems/{}", self.name),
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json")),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        ];
        let mut response = (self.status, headers, body.to_string()).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}
