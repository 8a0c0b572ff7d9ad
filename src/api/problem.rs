//! Errors of the API: `application/problem+json` (RFC 9457). Every type is stable and documented by its
//! title; `detail` is for people.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::limiter;
use crate::auth::throttle::{Limit, Taken};
use crate::base::{Error, Kind};

/// One answer that is an error.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    /// Last part of the type: `idempotency-key-missing`.
    name: &'static str,
    title: &'static str,
    detail: String,
    /// `Retry-After`, in seconds.
    retry_after_s: Option<i64>,
    /// The limit that is used up.
    violated: Option<Box<(Limit, Taken)>>,
}

impl Problem {
    /// A problem of this type.
    pub fn new(status: StatusCode, name: &'static str, title: &'static str, detail: impl Into<String>) -> Problem {
        Problem { status, name, title, detail: detail.into(), retry_after_s: None, violated: None }
    }

    /// With when to come back.
    #[must_use]
    pub fn retry_after(self, seconds: i64) -> Problem {
        Problem { retry_after_s: Some(seconds), ..self }
    }

    /// With the limit that is used up.
    #[must_use]
    pub fn violating(self, limit: &Limit, taken: &Taken) -> Problem {
        Problem { violated: Some(Box::new((limit.clone(), *taken))), ..self }
    }

    /// A request whose content cannot be done.
    pub fn unprocessable(name: &'static str, title: &'static str, detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, name, title, detail)
    }

    /// A body that cannot be read.
    pub fn unreadable(status: StatusCode, why: impl Into<String>) -> Problem {
        Problem::new(status, "body-invalid", "The body cannot be read", why)
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
        let mut body = json!({
            "type": format!("/problems/{}", self.name),
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        if let Some(violated) = &self.violated {
            body["violated-policies"] = json!([violated.0.name]);
        }
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json")),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        ];
        let mut response = (self.status, headers, body.to_string()).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(violated) = &self.violated {
            limiter::tell(response.headers_mut(), &violated.0, &violated.1);
        }
        let busy_s = (self.status == StatusCode::SERVICE_UNAVAILABLE).then_some(5);
        if let Some(seconds) = self.retry_after_s.or(busy_s) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
