//! `/account/{register,verify,email,reset,forgot,export,keep}`: the small pages around an account, and those that links in
//! mails lead to.

use axum::Router;
use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;

use crate::admin::plain;

/// Our own script and style, requests and forms to ourselves, and no frame around us.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; \
                      form-action 'self'; frame-ancestors 'none'";

/// The routes.
pub fn routes() -> Router {
    Router::new().route("/account/{page}", get(page))
}

async fn page(Path(page): Path<String>) -> Response {
    match page.as_str() {
        "register" | "verify" | "email" | "reset" | "forgot" | "export" | "keep" => {
            embedded("text/html; charset=utf-8", include_str!("page.html"))
        }
        "account.js" => embedded("text/javascript; charset=utf-8", include_str!("account.js")),
        "account.css" => embedded("text/css; charset=utf-8", include_str!("account.css")),
        _ => plain(StatusCode::NOT_FOUND, "not found\n"),
    }
}

fn embedded(content_type: &'static str, text: &'static str) -> Response {
    let fields = [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (fields, text).into_response()
}
