//! The routes of money. In: what people buy, sell and give back, and what providers tell. Out: JSON, with amounts in
//! minor units. Thin: decode, call one flow, encode.

mod described;
mod disputes;
mod orders;
mod products;
mod sellers;
mod subscriptions;
mod webhooks;

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Query};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::problem::Problem;
use super::sent::{self, BodyType, Raw as Sent, body};
use super::transcodes::{self, no_store};
use crate::auth::principal::Principal;
use crate::base::clock::rfc3339;
use crate::base::hex;
use crate::db::money::Request;
use crate::ledger::{Amount, chart};
use crate::payments::Payments;

/// The largest request, in bytes: the largest order has some thousands.
const BODY_BYTES_MAX: usize = 64 << 10;
/// Rows in one page of a list, at most.
const PAGE_MAX: u32 = 200;

/// The routes.
pub fn routes(payments: Arc<Payments>) -> OpenApiRouter {
    let told = Router::new()
        .route("/webhooks/hyperswitch", post(webhooks::hyperswitch))
        .route("/webhooks/stripe", post(webhooks::stripe))
        .layer(DefaultBodyLimit::disable()) // they bound it themselves
        .with_state(Arc::clone(&payments));
    described().layer(DefaultBodyLimit::max(BODY_BYTES_MAX)).with_state(payments).merge(told.into())
}

/// The routes and what they say of themselves, without what they need.
pub(super) fn described() -> OpenApiRouter<Arc<Payments>> {
    let told = OpenApiRouter::new()
        .routes(routes!(webhooks::hyperswitch))
        .routes(routes!(webhooks::stripe))
        .layer(DefaultBodyLimit::disable()); // they bound it themselves
    OpenApiRouter::new()
        .routes(routes!(orders::create, orders::list))
        .routes(routes!(orders::show))
        .routes(routes!(orders::refund))
        .routes(routes!(orders::licences))
        .routes(routes!(subscriptions::plans))
        .routes(routes!(subscriptions::create, subscriptions::list))
        .routes(routes!(subscriptions::access))
        .routes(routes!(subscriptions::show, subscriptions::cancel))
        .routes(routes!(subscriptions::complete))
        .routes(routes!(subscriptions::resume))
        .routes(routes!(sellers::set_account, sellers::account))
        .routes(routes!(sellers::balance))
        .routes(routes!(sellers::transfers))
        .routes(routes!(orders::set_deadline))
        .routes(routes!(sellers::ledger))
        .routes(routes!(disputes::list))
        .routes(routes!(sellers::provider_fee))
        .routes(routes!(sellers::hand_payout))
        .merge(told)
}

/// What can be bought: rows beside those of tracks, which cost what is said here.
pub(super) fn products() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(products::create, products::list))
        .routes(routes!(products::show, products::change))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
}

/// What its routes read.
pub(super) const BODIES: &[BodyType] = &[
    body::<orders::New>("NewOrder"),
    body::<orders::Why>("RefundReason"),
    body::<orders::Until>("RefundDeadline"),
    body::<products::New>("NewProduct"),
    body::<products::Changed>("ChangedProduct"),
    body::<sellers::Account>("SellerAccount"),
    body::<sellers::Fee>("ProviderFee"),
    body::<sellers::ByHand>("HandPayout"),
    body::<subscriptions::New>("NewSubscription"),
];

type Answer = Result<Response, Problem>;
type Asked = Result<Query<Page>, QueryRejection>;

#[derive(Debug, Default, Deserialize)]
struct Page {
    limit: Option<u32>,
    before: Option<String>,
    track: Option<String>,
    mine: Option<bool>,
    status: Option<String>,
}

impl Page {
    fn of(asked: Asked) -> Result<Page, Problem> {
        asked.map(|Query(page)| page).map_err(|cause| transcodes::wrong_query(&cause))
    }

    fn limit(&self) -> u32 {
        self.limit.unwrap_or(50).clamp(1, PAGE_MAX)
    }

    /// The id that the page is to begin behind; one that is none of ours is no page.
    fn before<T>(&self, decode: impl Fn(&str) -> Option<T>) -> Result<Option<T>, Problem> {
        self.before.as_deref().map(|id| decode(id).ok_or_else(Problem::not_found)).transpose()
    }
}

/// A page of a list, and where the next one begins.
fn listed(items: Vec<Value>, limit: u32) -> Response {
    let next = (items.len() == limit as usize).then(|| items.last().map(|item| item["id"].clone())).flatten();
    shown(StatusCode::OK, json!({ "items": items, "next": next }))
}

fn shown(status: StatusCode, body: Value) -> Response {
    no_store((status, axum::Json(body)).into_response())
}

/// As `shown`, and where it is.
fn placed(status: StatusCode, path: String, body: Value) -> Response {
    let mut response = shown(status, body);
    response.headers_mut().insert(header::LOCATION, path.parse().expect("ids are ASCII"));
    response
}

/// A caller who may change something, and who can have accounts in the ledger.
fn writer(caller: Principal) -> Result<Principal, Problem> {
    if !caller.scopes.write {
        return Err(forbidden("scope", "This key may only read", "use one with the scope write"));
    }
    match chart::check_subject(&caller.subject) {
        true => Ok(caller),
        false => Err(forbidden("subject", "This caller cannot buy or sell", "their name does not fit into the ledger")),
    }
}

fn admin(caller: Principal) -> Result<Principal, Problem> {
    match caller.is_admin() {
        true => Ok(caller),
        false => Err(forbidden("admin", "Only admins may do that", "log in as one, with a second factor")),
    }
}

fn forbidden(name: &'static str, title: &'static str, detail: &str) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, name, title, detail)
}

/// Reads a JSON body; nothing is `{}`.
fn read<T: DeserializeOwned>(body: Sent) -> Result<(T, Value), Problem> {
    let body = sent::bytes(body)?;
    let body = if body.is_empty() { Bytes::from_static(b"{}") } else { body };
    let value = sent::json(&body)?;
    Ok((sent::json(&body)?, value))
}

/// What was asked for under a key, so that the same key means the same.
struct Keyed {
    subject: String,
    key: String,
    fingerprint: String,
}

impl Keyed {
    /// Of a request to `what` by `caller`.
    ///
    /// # Errors
    /// 400 without a key.
    fn of(caller: &Principal, headers: &HeaderMap, what: &str, body: &Value) -> Result<Keyed, Problem> {
        let key = transcodes::idempotency_key(headers)?;
        // The fields of an object are sorted: neither their order nor blanks are another wish.
        let fingerprint = hex::encode(&Sha256::digest(format!("{what}\n{body}")));
        Ok(Keyed { subject: caller.subject.clone(), key, fingerprint })
    }

    fn request(&self) -> Request<'_> {
        Request { subject: &self.subject, key: &self.key, fingerprint: &self.fingerprint }
    }
}

fn reused(id: &str) -> Problem {
    Problem::unprocessable(
        "idempotency-key-reused",
        "This idempotency key belongs to another request",
        format!("it was used for {id}; use another key for another wish"),
    )
}

fn no_provider() -> Problem {
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "no-provider",
        "Nobody can take money here",
        "the operator has not enabled payments",
    )
}

/// The provider did not say whether it has it.
fn unknown(what: &str, why: &str) -> Problem {
    tracing::warn!(what, why, "a caller has to ask again: the provider did not say");
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "provider-silent",
        "The payment provider does not answer",
        format!("{what} is stored and nothing was charged; send the same request with the same key again"),
    )
}

fn declined(what: &str, why: &str) -> Problem {
    tracing::error!(what, why, "the payment provider refuses what we ask for");
    Problem::new(
        StatusCode::BAD_GATEWAY,
        "provider-refused",
        "The payment provider refuses this",
        format!("{what} has failed and nothing was charged; the reason is in our log"),
    )
}

fn money(amount: Amount) -> Value {
    json!({ "minor": amount.minor(), "currency": amount.currency().code(), "exponent": amount.currency().exponent() })
}

fn time(us: Option<i64>) -> Value {
    us.map_or(Value::Null, |us| Value::from(rfc3339(us)))
}
