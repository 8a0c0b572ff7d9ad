//! `/api/v1/subscriptions` and `/api/v1/plans`.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse as _;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::described::{PlanList, SubscriptionList, SubscriptionView};
use super::{
    Answer, Asked, Keyed, Page, Sent, declined, listed, money, no_provider, placed, read, reused, shown, time, unknown,
    writer,
};
use crate::api::caller::Caller;
use crate::api::openapi::ProblemDocument;
use crate::api::problem::Problem;
use crate::api::transcodes::{self, no_store};
use crate::auth::principal::Principal;
use crate::base::clock::rfc3339;
use crate::db::orders::Payment;
use crate::db::subscriptions::{Invoice, Plan, Resumed, Subscription, Why};
use crate::ledger::subscription::{Gate, SubscriptionId};
use crate::payments::Payments;
use crate::payments::checkout::{Completed, Joined};

#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = NewSubscription)]
#[serde(deny_unknown_fields)]
pub(super) struct New {
    plan: String,
}

/// `GET /api/v1/plans`.
#[utoipa::path(
    get,
    path = "/api/v1/plans",
    tag = "money",
    summary = "What can be subscribed to",
    responses((status = 200, description = "Plans", body = PlanList))
)]
pub(super) async fn plans(State(payments): State<Arc<Payments>>) -> Answer {
    let one = |plan: &Plan| {
        json!({
            "id": plan.id, "price": plan.price.map(money), "period_days": plan.period_days, "trial_days": plan.trial_days,
            "renews": plan.renews && plan.price.is_some() && plan.period_days > 0,
        })
    };
    let items: Vec<Value> = payments.options.plans.iter().map(one).collect();
    Ok(shown(StatusCode::OK, json!({ "items": items, "next": null })))
}

/// `POST /api/v1/subscriptions` with `{"plan"}`.
#[utoipa::path(
    post,
    path = "/api/v1/subscriptions",
    tag = "money",
    summary = "Subscribe",
    security(("bearer" = []), ("api_key" = [])),
    params(("Idempotency-Key" = String, Header, description = "A new one for every wish; the same again is the same")),
    request_body = New,
    responses((status = 201, description = "The subscription; with a payment when it costs something", body = SubscriptionView), (status = 200, description = "The same, again, under the same key", body = SubscriptionView), (status = 400, description = "There is no key, or the body cannot be read", body = ProblemDocument), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 403, description = "This caller can buy nothing, or their key may only read", body = ProblemDocument), (status = 409, description = "They have one", body = ProblemDocument), (status = 422, description = "There is no such plan, or the key was used for something else", body = ProblemDocument), (status = 502, description = "The provider refuses it: nothing was charged", body = ProblemDocument), (status = 503, description = "Nobody can take money now", body = ProblemDocument))
)]
pub(super) async fn create(
    State(payments): State<Arc<Payments>>,
    Caller(caller): Caller,
    headers: HeaderMap,
    body: Sent,
) -> Answer {
    let caller = writer(caller)?;
    let (New { plan }, value) = read(body)?;
    let keyed = Keyed::of(&caller, &headers, "subscriptions", &value)?;
    let (subscription, payment, again) = match payments.subscribe(&caller.subject, &plan, keyed.request()).await? {
        Joined::InForce(subscription, again) => (subscription, None, again),
        Joined::Pay(subscription, payment, again) => (subscription, Some(payment), again),
        Joined::Conflict(id) => return Err(reused(&id)),
        Joined::Live(id) => {
            let detail = format!("{id} is yours; end it first, with ?now=true where it is paid for longer");
            return Err(Problem::new(StatusCode::CONFLICT, "subscribed", "You have a subscription", detail));
        }
        Joined::NoPlan => {
            let detail = format!("GET /api/v1/plans lists them; {plan:?} is none");
            return Err(Problem::unprocessable("plan", "There is no such plan", detail));
        }
        Joined::NoProvider => return Err(no_provider()),
        Joined::Unknown(subscription, why) => return Err(unknown(subscription.id.as_str(), &why)),
        Joined::Declined(subscription, why) => return Err(declined(subscription.id.as_str(), &why)),
    };
    let path = format!("/api/v1/subscriptions/{}", subscription.id);
    let status = if again { StatusCode::OK } else { StatusCode::CREATED };
    Ok(placed(status, path, view(&subscription, payment.as_ref(), &[])))
}

/// `POST /api/v1/subscriptions/{id}/complete`: the same client secret again.
#[utoipa::path(
    post,
    path = "/api/v1/subscriptions/{id}/complete",
    tag = "money",
    summary = "The client secret of an unpaid subscription again",
    security(("bearer" = []), ("api_key" = [])),
    params(("id" = String, Path)),
    responses((status = 200, description = "The subscription and its payment", body = SubscriptionView), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 403, description = "Their key may only read", body = ProblemDocument), (status = 404, description = "None of theirs", body = ProblemDocument), (status = 409, description = "It waits for no payment", body = ProblemDocument), (status = 503, description = "Nobody can take money now", body = ProblemDocument))
)]
pub(super) async fn complete(
    State(payments): State<Arc<Payments>>,
    Caller(caller): Caller,
    Path(id): Path<String>,
) -> Answer {
    let caller = writer(caller)?;
    let id = SubscriptionId::decode(&id).ok_or_else(Problem::not_found)?;
    match payments.complete(&caller.subject, &id).await? {
        Completed::Pay(subscription, payment) => Ok(shown(StatusCode::OK, view(&subscription, Some(&payment), &[]))),
        Completed::NoSubscription => Err(Problem::not_found()),
        Completed::Not(status) => {
            let detail = format!("it is {}", status.as_str());
            Err(Problem::new(StatusCode::CONFLICT, "subscription-not-pending", "It waits for no payment", detail))
        }
        Completed::NoProvider(why) => {
            tracing::warn!(subscription = id.as_str(), why, "a payment cannot be completed now");
            Err(no_provider())
        }
    }
}

/// `GET /api/v1/subscriptions`: the caller's, and whether they let them in now.
#[utoipa::path(
    get,
    path = "/api/v1/subscriptions",
    tag = "money",
    summary = "The caller's subscriptions",
    security(("bearer" = []), ("api_key" = [])),
    params(("limit" = Option<u32>, Query, description = "At most 200"), ("before" = Option<String>, Query, description = "The id that the page begins behind")),
    responses((status = 200, description = "Subscriptions, the latest first", body = SubscriptionList), (status = 400, description = "The query cannot be read", body = ProblemDocument), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 404, description = "`before` is no id", body = ProblemDocument))
)]
pub(super) async fn list(State(payments): State<Arc<Payments>>, Caller(caller): Caller, page: Asked) -> Answer {
    let page = Page::of(page)?;
    let before = page.before(SubscriptionId::decode)?;
    let subscriptions = payments.db.subscriptions(&caller.subject, before.as_ref(), page.limit()).await?;
    Ok(listed(subscriptions.iter().map(|subscription| view(subscription, None, &[])).collect(), page.limit()))
}

/// `GET /api/v1/subscriptions/{id}`, with its invoices.
#[utoipa::path(
    get,
    path = "/api/v1/subscriptions/{id}",
    tag = "money",
    summary = "One subscription, with its invoices",
    security(("bearer" = []), ("api_key" = [])),
    params(("id" = String, Path)),
    responses((status = 200, description = "The subscription and its invoices", body = SubscriptionView), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 404, description = "None of theirs", body = ProblemDocument))
)]
pub(super) async fn show(
    State(payments): State<Arc<Payments>>,
    Caller(caller): Caller,
    Path(id): Path<String>,
) -> Answer {
    let subscription = own(&payments, &caller, &id).await?;
    let invoices = payments.db.invoices(&subscription.id).await?;
    Ok(shown(StatusCode::OK, view(&subscription, None, &invoices)))
}

/// A subscription of the caller; anybody else's does not exist.
async fn own(payments: &Payments, caller: &Principal, id: &str) -> Result<Subscription, Problem> {
    let id = SubscriptionId::decode(id).ok_or_else(Problem::not_found)?;
    let subscription = payments.db.subscription(&id).await?.filter(|known| known.subject == caller.subject);
    subscription.ok_or_else(Problem::not_found)
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct When {
    #[serde(default)]
    now: bool,
}

/// `DELETE /api/v1/subscriptions/{id}`: ends it, with what was paid for; with `?now=true` at once.
#[utoipa::path(
    delete,
    path = "/api/v1/subscriptions/{id}",
    tag = "money",
    summary = "End a subscription: no more is paid, and it lasts as long as it is paid for",
    security(("bearer" = []), ("api_key" = [])),
    params(("id" = String, Path), ("now" = Option<bool>, Query, description = "true: it ends at once, whatever is paid for")),
    responses((status = 200, description = "The subscription", body = SubscriptionView), (status = 400, description = "The query cannot be read", body = ProblemDocument), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 403, description = "Their key may only read", body = ProblemDocument), (status = 404, description = "None of theirs", body = ProblemDocument))
)]
pub(super) async fn cancel(
    State(payments): State<Arc<Payments>>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    when: Result<Query<When>, QueryRejection>,
) -> Answer {
    let caller = writer(caller)?;
    let Query(When { now }) = when.map_err(|cause| transcodes::wrong_query(&cause))?;
    let id = own(&payments, &caller, &id).await?.id;
    payments.db.cancel_subscription(&id, now, payments.clock.unix_us()).await?;
    let subscription = payments.db.subscription(&id).await?.ok_or_else(Problem::not_found)?;
    Ok(shown(StatusCode::OK, view(&subscription, None, &[])))
}

/// `POST /api/v1/subscriptions/{id}/resume`: one that was ended, and is paid for still, goes on by itself again.
#[utoipa::path(
    post,
    path = "/api/v1/subscriptions/{id}/resume",
    tag = "money",
    summary = "Take back that a subscription ends: as long as it is paid for, it can go on by itself",
    security(("bearer" = []), ("api_key" = [])),
    params(("id" = String, Path)),
    responses((status = 200, description = "The subscription, which renews", body = SubscriptionView), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 403, description = "Their key may only read", body = ProblemDocument), (status = 404, description = "None of theirs", body = ProblemDocument), (status = 409, description = "It has ended, or cannot renew", body = ProblemDocument))
)]
pub(super) async fn resume(
    State(payments): State<Arc<Payments>>,
    Caller(caller): Caller,
    Path(id): Path<String>,
) -> Answer {
    let caller = writer(caller)?;
    let subscription = own(&payments, &caller, &id).await?;
    let why = match payments.resume(&subscription.id).await? {
        Resumed::Renews(subscription) => return Ok(shown(StatusCode::OK, view(&subscription, None, &[]))),
        Resumed::Not(why) => why,
    };
    let detail = match why {
        Why::Over => format!("it is {} and not paid for any longer; subscribe again", subscription.status.as_str()),
        Why::NotSold => format!("the plan {} is not renewed any more; subscribe to another one", subscription.plan),
        Why::NothingToPayBy => "there is nothing to pay it by; subscribe again when it has ended".into(),
        Why::Leaves => "your account is to be erased; take that back first".into(),
    };
    Err(Problem::new(StatusCode::CONFLICT, "subscription-not-resumable", "It cannot go on by itself", detail))
}

/// `GET /api/v1/subscriptions/access`: 204 where a subscription lets the caller in, else 403 with what to do about it.
#[utoipa::path(
    get,
    path = "/api/v1/subscriptions/access",
    tag = "money",
    summary = "Whether a subscription lets the caller in",
    security(("bearer" = []), ("api_key" = [])),
    responses((status = 204, description = "It does"), (status = 403, description = "payment-incomplete: complete the payment; upgrade-needed: subscribe", body = ProblemDocument), (status = 401, description = "Nobody is named by this request", body = ProblemDocument))
)]
pub(super) async fn access(State(payments): State<Arc<Payments>>, Caller(caller): Caller) -> Answer {
    let forbidden = |name, title, detail: &str| Err(Problem::new(StatusCode::FORBIDDEN, name, title, detail));
    match payments.db.gate(&caller.subject, payments.clock.unix_us()).await? {
        Gate::Open => Ok(no_store(StatusCode::NO_CONTENT.into_response())),
        Gate::CompletePayment => forbidden(
            "payment-incomplete",
            "Complete the payment of your subscription",
            "POST /api/v1/subscriptions/{id}/complete gives the client secret again",
        ),
        Gate::Upgrade => forbidden("upgrade-needed", "This needs a subscription", "GET /api/v1/plans lists them"),
    }
}

fn view(subscription: &Subscription, payment: Option<&Payment>, invoices: &[Invoice]) -> Value {
    let invoice = |invoice: &Invoice| {
        json!({
            "id": invoice.id, "status": invoice.status.as_str(), "amount": money(invoice.amount),
            "tax_minor": invoice.tax_minor, "created": rfc3339(invoice.created_us), "paid": time(invoice.paid_us),
            "from": time(invoice.from_us), "until": time(invoice.until_us), "returned": time(invoice.returned_us),
        })
    };
    json!({
        "id": subscription.id.as_str(), "plan": subscription.plan, "status": subscription.status.as_str(),
        "price": subscription.price.map(money), "trial_until": time(subscription.trial_until_us),
        "ends": time(subscription.ends_us), "renews": subscription.renews,
        "next_payment": time(subscription.renew_next_us), "created": rfc3339(subscription.created_us),
        "payment": payment.map(|payment| json!({ "id": payment.id, "client_secret": payment.client_secret })),
        "invoices": invoices.iter().map(invoice).collect::<Vec<_>>(),
    })
}
