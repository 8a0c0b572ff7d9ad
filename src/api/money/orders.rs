//! `/api/v1/orders`: buying and giving back; `/api/v1/licences`: what one has.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::described::{LicenceList, OrderList, OrderView, RefundView};
use super::{
    Answer, Asked, Keyed, Page, Sent, admin, declined, listed, money, no_provider, placed, read, reused, shown, time,
    unknown, writer,
};
use crate::api::caller::Caller;
use crate::api::openapi::ProblemDocument;
use crate::api::problem::Problem;
use crate::auth::principal::Principal;
use crate::base::clock::{parse_rfc3339, rfc3339};
use crate::base::id::is_sortable;
use crate::db::money::Claim;
use crate::db::orders::{Licence, Order, Refusal};
use crate::db::refunds::{By, Refund, Requested, Wanted};
use crate::ledger::order::{ITEMS_MAX, LicenceKind, OrderId, ProductId, Status};
use crate::ledger::refund;
use crate::payments::Payments;
use crate::payments::checkout::Ordered;

/// Characters of a reason for a refund, at most.
const REASON_CHARS_MAX: usize = 500;

#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = NewOrder)]
#[serde(deny_unknown_fields)]
pub(super) struct New {
    items: Vec<Item>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = OrderedItem)]
#[serde(deny_unknown_fields)]
pub(super) struct Item {
    #[schema(value_type = String)]
    product: ProductId,
    licence: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = RefundReason)]
#[serde(deny_unknown_fields)]
pub(super) struct Why {
    reason: Option<String>,
    amount_minor: Option<i64>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = RefundDeadline)]
#[serde(deny_unknown_fields)]
pub(super) struct Until {
    refund_until: String,
}

/// `POST /api/v1/orders` with `{"items":[{"product","licence"}]}`.
#[utoipa::path(
    post,
    path = "/api/v1/orders",
    tag = "money",
    summary = "Order, and get what a browser pays with",
    security(("bearer" = []), ("api_key" = [])),
    params(("Idempotency-Key" = String, Header, description = "A new one for every wish; the same again is the same")),
    request_body = New,
    responses((status = 201, description = "The order, with the client secret of its payment", body = OrderView), (status = 200, description = "It was there: the same key again", body = OrderView), (status = 400, description = "There is no key, or the body cannot be read", body = ProblemDocument), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 403, description = "This caller can buy nothing, or their key may only read", body = ProblemDocument), (status = 422, description = "It cannot be ordered, or the key was used for something else", body = ProblemDocument), (status = 502, description = "The provider refuses it: nothing was charged", body = ProblemDocument), (status = 503, description = "The provider does not answer, or there is none: ask again with the same key", body = ProblemDocument))
)]
pub(super) async fn create(
    State(payments): State<Arc<Payments>>,
    Caller(caller): Caller,
    headers: HeaderMap,
    body: Sent,
) -> Answer {
    let caller = writer(caller)?;
    let (new, value): (New, Value) = read(body)?;
    let keyed = Keyed::of(&caller, &headers, "orders", &value)?;
    if payments.hyperswitch.is_none() {
        return Err(no_provider());
    }
    let wanted = new.items.into_iter().map(|Item { product, licence }| {
        let unknown = || wrong("licence", format!("{licence:?} is no kind of licence"));
        Ok((product, LicenceKind::decode(&licence).ok_or_else(unknown)?))
    });
    let wanted = wanted.collect::<Result<Vec<_>, Problem>>()?;
    let (status, order) = match payments.order(&caller.subject, &wanted, keyed.request()).await? {
        Ordered::Ready(order) => (StatusCode::CREATED, order),
        Ordered::Again(order) => (StatusCode::OK, order),
        Ordered::Conflict(id) => return Err(reused(&id)),
        Ordered::Refused(why) => return Err(refused(&why)),
        Ordered::Unknown(order, why) => return Err(unknown(order.id.as_str(), &why)),
        Ordered::Declined(order, why) => return Err(declined(order.id.as_str(), &why)),
    };
    Ok(placed(status, format!("/api/v1/orders/{}", order.id), view(&payments, &order, &caller, &[])))
}

fn refused(why: &Refusal) -> Problem {
    match why {
        Refusal::Product(id) => wrong("product", format!("{id} cannot be bought")),
        Refusal::Licence(id, kind) => wrong("licence", format!("{id} has no {} licence", kind.as_str())),
        Refusal::Currencies => wrong("currency", "the products have different currencies; order them apart".into()),
        Refusal::Items => wrong("items", format!("an order has 1 to {ITEMS_MAX} items")),
        Refusal::Own(id) => wrong("product", format!("{id} is your own")),
    }
}

fn wrong(name: &'static str, detail: String) -> Problem {
    Problem::unprocessable(name, "This cannot be ordered", detail)
}

/// `GET /api/v1/orders`: the caller's, the latest first.
#[utoipa::path(
    get,
    path = "/api/v1/orders",
    tag = "money",
    summary = "The caller's orders",
    security(("bearer" = []), ("api_key" = [])),
    params(("limit" = Option<u32>, Query, description = "At most 200"), ("before" = Option<String>, Query, description = "The id that the page begins behind")),
    responses((status = 200, description = "Orders, the latest first", body = OrderList), (status = 400, description = "The query cannot be read", body = ProblemDocument), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 404, description = "`before` is no id", body = ProblemDocument))
)]
pub(super) async fn list(State(payments): State<Arc<Payments>>, Caller(caller): Caller, page: Asked) -> Answer {
    let page = Page::of(page)?;
    let before = page.before(OrderId::decode)?;
    let orders = payments.db.orders(&caller.subject, before.as_ref(), page.limit()).await?;
    Ok(listed(orders.iter().map(|order| view(&payments, order, &caller, &[])).collect(), page.limit()))
}

/// `GET /api/v1/orders/{id}`: for its buyer, its sellers, and admins.
#[utoipa::path(
    get,
    path = "/api/v1/orders/{id}",
    tag = "money",
    summary = "One order, for its buyer, its sellers and admins",
    security(("bearer" = []), ("api_key" = [])),
    params(("id" = String, Path)),
    responses((status = 200, description = "The order and its refunds", body = OrderView), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 404, description = "There is none of theirs", body = ProblemDocument))
)]
pub(super) async fn show(
    State(payments): State<Arc<Payments>>,
    Caller(caller): Caller,
    Path(id): Path<String>,
) -> Answer {
    let order = find(&payments, &caller, &id).await?;
    let refunds = payments.db.refunds(&order.id).await?;
    Ok(shown(StatusCode::OK, view(&payments, &order, &caller, &refunds)))
}

async fn find(payments: &Payments, caller: &Principal, id: &str) -> Result<Order, Problem> {
    let id = OrderId::decode(id).ok_or_else(Problem::not_found)?;
    let theirs = |order: &Order| {
        caller.is_admin()
            || order.buyer == caller.subject
            || order.items.iter().any(|item| item.seller == caller.subject)
    };
    payments.db.order(&id).await?.filter(theirs).ok_or_else(Problem::not_found)
}

/// `POST /api/v1/orders/{id}/refund` with `{}` or `{"amount_minor","reason"}`: a part of it, or all that is left.
#[utoipa::path(
    post,
    path = "/api/v1/orders/{id}/refund",
    tag = "money",
    summary = "Ask for the money back, all that is left of it or a part",
    security(("bearer" = []), ("api_key" = [])),
    params(("id" = String, Path), ("Idempotency-Key" = String, Header, description = "A new one for every wish; the same again is the same")),
    request_body = Option<Why>,
    responses((status = 202, description = "The refund, pending", body = RefundView), (status = 200, description = "It was there: the same key again", body = RefundView), (status = 400, description = "There is no key, or the body cannot be read", body = ProblemDocument), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 403, description = "Their key may only read", body = ProblemDocument), (status = 404, description = "There is no such order of theirs", body = ProblemDocument), (status = 409, description = "Asked before, disputed, not paid, or too late", body = ProblemDocument), (status = 422, description = "More than is left, a reason too long, or the key was used for something else", body = ProblemDocument), (status = 503, description = "There is no provider, or the database is away", body = ProblemDocument))
)]
pub(super) async fn refund(
    State(payments): State<Arc<Payments>>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Sent,
) -> Answer {
    let caller = writer(caller)?;
    let (Why { reason, amount_minor }, value) = read(body)?;
    let id = OrderId::decode(&id).ok_or_else(Problem::not_found)?;
    let keyed = Keyed::of(&caller, &headers, &format!("orders/{id}/refund"), &value)?;
    if reason.as_ref().is_some_and(|text| text.chars().count() > REASON_CHARS_MAX || text.contains('\0')) {
        let detail = format!("give at most {REASON_CHARS_MAX} characters");
        return Err(Problem::unprocessable("reason", "The reason cannot be kept", detail));
    }
    if payments.hyperswitch.is_none() {
        return Err(no_provider());
    }
    let by = By { subject: &caller.subject, admin: caller.is_admin() };
    let wanted = Wanted { minor: amount_minor, reason: reason.as_deref() };
    let conflict = |name, title, detail: String| Problem::new(StatusCode::CONFLICT, name, title, detail);
    let (status, refund) = match payments.refund(&id, by, wanted, keyed.request()).await? {
        Requested::Claimed(Claim::New(refund)) => (StatusCode::ACCEPTED, refund),
        Requested::Claimed(Claim::Known(refund)) => (StatusCode::OK, refund),
        Requested::Claimed(Claim::Conflict(id)) => return Err(reused(&id)),
        Requested::NoOrder => return Err(Problem::not_found()),
        Requested::Already => {
            let detail = format!("GET /api/v1/orders/{id} shows how it stands");
            return Err(conflict("refund-already-requested", "A refund was requested before", detail));
        }
        Requested::Not(status) => {
            let detail = format!("the order is {}", status.as_str());
            return Err(conflict("order-not-paid", "Only what is paid can be refunded", detail));
        }
        Requested::Closed(until_us) => {
            let detail = format!("it could be refunded until {}", rfc3339(until_us));
            return Err(conflict("refund-window-closed", "It is too late for a refund", detail));
        }
        Requested::Left(minor) => {
            let detail = format!("give 1 to {minor} minor units: that is what is left of the order");
            return Err(Problem::unprocessable("amount_minor", "So much cannot be refunded", detail));
        }
        Requested::Disputed => {
            let detail = "the buyer's bank decides about its dispute; what it leaves can be refunded then".into();
            return Err(conflict("order-disputed", "A dispute about this order is open", detail));
        }
    };
    Ok(placed(status, format!("/api/v1/orders/{id}"), refund_view(&id, &refund)))
}

/// `PATCH /api/v1/admin/orders/{id}` with `{"refund_until":"2026-12-31T00:00:00Z"}`.
#[utoipa::path(
    patch,
    path = "/api/v1/admin/orders/{id}",
    tag = "money",
    summary = "Give an order its own deadline of refunds",
    security(("bearer" = [])),
    params(("id" = String, Path)),
    request_body = Until,
    responses((status = 200, description = "The order", body = OrderView), (status = 400, description = "The body cannot be read", body = ProblemDocument), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 403, description = "Only admins", body = ProblemDocument), (status = 404, description = "There is no such order", body = ProblemDocument), (status = 422, description = "That is no time", body = ProblemDocument))
)]
pub(super) async fn set_deadline(
    State(payments): State<Arc<Payments>>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    body: Sent,
) -> Answer {
    let caller = admin(caller)?;
    let (Until { refund_until }, _) = read(body)?;
    let id = OrderId::decode(&id).ok_or_else(Problem::not_found)?;
    let until_us = parse_rfc3339(&refund_until).ok_or_else(|| {
        Problem::unprocessable("refund_until", "That is no time", "give one in UTC, such as 2026-12-31T00:00:00Z")
    })?;
    let order = payments.db.set_refund_deadline(&id, until_us, payments.clock.unix_us()).await?;
    let order = order.ok_or_else(Problem::not_found)?;
    Ok(shown(StatusCode::OK, view(&payments, &order, &caller, &[])))
}

/// `GET /api/v1/licences`: the caller's, revoked ones too.
#[utoipa::path(
    get,
    path = "/api/v1/licences",
    tag = "money",
    summary = "What the caller may do with what they bought",
    security(("bearer" = []), ("api_key" = [])),
    params(("limit" = Option<u32>, Query, description = "At most 200"), ("before" = Option<String>, Query, description = "The id that the page begins behind")),
    responses((status = 200, description = "Licences, revoked ones too", body = LicenceList), (status = 400, description = "The query cannot be read", body = ProblemDocument), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 404, description = "`before` is no id", body = ProblemDocument))
)]
pub(super) async fn licences(State(payments): State<Arc<Payments>>, Caller(caller): Caller, page: Asked) -> Answer {
    let page = Page::of(page)?;
    let before = page.before(|id| is_sortable("lic_", id).then(|| id.to_owned()))?;
    let licences = payments.db.licences(&caller.subject, before.as_deref(), page.limit()).await?;
    let one = |licence: &Licence| {
        json!({
            "id": licence.id, "order": licence.order.as_str(), "product": licence.product.as_str(),
            "track": licence.track, "kind": licence.kind.as_str(), "granted": rfc3339(licence.granted_us),
            "revoked": time(licence.revoked_us),
        })
    };
    Ok(listed(licences.iter().map(one).collect(), page.limit()))
}

/// An order as `viewer` may see it: a seller sees what they sold and not who bought it.
fn view(payments: &Payments, order: &Order, viewer: &Principal, refunds: &[Refund]) -> Value {
    let buys = order.buyer == viewer.subject;
    let all = buys || viewer.is_admin();
    let currency = order.total.currency();
    let items: Vec<Value> = order
        .items
        .iter()
        .filter(|item| all || item.seller == viewer.subject)
        .map(|item| {
            json!({
                "product": item.product.as_str(), "title": item.title, "track": item.track, "licence": item.kind.as_str(),
                "seller": item.seller, "price_minor": item.split.total(), "tax_minor": item.split.tax_minor,
                "fee_minor": (!buys).then_some(item.split.fee_minor),
                "seller_minor": (!buys).then_some(item.split.seller_minor),
            })
        })
        .collect();
    let open = matches!(order.status, Status::Created | Status::PendingPayment);
    let until_us =
        order.paid_us.map(|paid_us| refund::until_us(order.refund_until_us, paid_us, payments.options.refund_days));
    json!({
        "id": order.id.as_str(), "status": order.status.as_str(), "buyer": all.then_some(&order.buyer),
        "total": if all { money(order.total) } else { Value::Null }, "currency": currency.code(), "items": items,
        "returned_minor": all.then_some(order.returned_minor),
        "payment": {
            "id": order.payment.id,
            "client_secret": (buys && open).then_some(order.payment.client_secret.as_ref()).flatten(),
        },
        "refunds": refunds.iter().map(|refund| refund_view(&order.id, refund)).collect::<Vec<_>>(),
        "created": rfc3339(order.created_us), "paid": time(order.paid_us), "refunded": time(order.refunded_us),
        "refund_until": time(until_us),
    })
}

fn refund_view(order: &OrderId, refund: &Refund) -> Value {
    json!({
        "id": refund.id.as_str(), "order": order.as_str(), "status": refund.status.as_str(),
        "amount": money(refund.amount), "created": rfc3339(refund.created_us), "settled": time(refund.settled_us),
    })
}
