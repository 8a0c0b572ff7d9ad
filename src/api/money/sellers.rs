//! `/api/v1/sellers/me`: what sellers have and get; `/api/v1/admin/ledger`: the books.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::described::{AccountView, BalanceList, FeeView, LedgerView, PayoutView, SetAccountView, TransferList};
use super::{Answer, Asked, Keyed, Page, Sent, admin, listed, money, read, reused, shown, time, writer};
use crate::api::caller::Caller;
use crate::api::openapi::ProblemDocument;
use crate::api::problem::Problem;
use crate::base::Kind;
use crate::base::clock::rfc3339;
use crate::db::ledger::AsOf;
use crate::db::money::{HandBooked, HandPayout};
use crate::db::transfers::Transfer;
use crate::ledger::order::PRICE_MINOR_MAX;
use crate::ledger::transfer::TransferId;
use crate::ledger::{Amount, Currency, Posted, chart};
use crate::payments::Payments;

#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = SellerAccount)]
#[serde(deny_unknown_fields)]
pub(super) struct Account {
    destination: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ProviderFee)]
#[serde(deny_unknown_fields)]
pub(super) struct Fee {
    reference: String,
    amount_minor: i64,
    currency: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = HandPayout)]
#[serde(deny_unknown_fields)]
pub(super) struct ByHand {
    reference: String,
    seller: String,
    amount_minor: i64,
    currency: String,
    reason: String,
}

/// `GET /api/v1/sellers/me/balance`: what we owe them, what of it is reserved, and what they owe us.
#[utoipa::path(
    get,
    path = "/api/v1/sellers/me/balance",
    tag = "money",
    summary = "What a seller has with us, and owes us",
    security(("bearer" = []), ("api_key" = [])),
    responses((status = 200, description = "For each currency", body = BalanceList), (status = 401, description = "Nobody is named by this request", body = ProblemDocument))
)]
pub(super) async fn balance(State(payments): State<Arc<Payments>>, Caller(caller): Caller) -> Answer {
    let balances = payments.db.seller_balances(&caller.subject).await?;
    let one = |(currency, payable, reserved, receivable): &(Currency, i64, i64, i64)| {
        json!({
            "currency": currency.code(), "exponent": currency.exponent(), "payable_minor": payable,
            "reserved_minor": reserved, "available_minor": payable - reserved, "owed_minor": receivable,
        })
    };
    Ok(shown(StatusCode::OK, json!({ "balances": balances.iter().map(one).collect::<Vec<_>>() })))
}

/// `GET /api/v1/sellers/me/transfers`, the latest first.
#[utoipa::path(
    get,
    path = "/api/v1/sellers/me/transfers",
    tag = "money",
    summary = "What a seller was paid",
    security(("bearer" = []), ("api_key" = [])),
    params(("limit" = Option<u32>, Query, description = "At most 200"), ("before" = Option<String>, Query, description = "The id that the page begins behind")),
    responses((status = 200, description = "Transfers, the latest first", body = TransferList), (status = 400, description = "The query cannot be read", body = ProblemDocument), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 404, description = "`before` is no id", body = ProblemDocument))
)]
pub(super) async fn transfers(State(payments): State<Arc<Payments>>, Caller(caller): Caller, page: Asked) -> Answer {
    let page = Page::of(page)?;
    let before = page.before(TransferId::decode)?;
    let transfers = payments.db.transfers(&caller.subject, before.as_ref(), page.limit()).await?;
    let one = |transfer: &Transfer| {
        json!({
            "id": transfer.id.as_str(), "order": transfer.order.as_str(), "amount": money(transfer.amount),
            "status": transfer.status.as_str(), "reversed_minor": transfer.reversed_minor, "error": transfer.error,
            "provider_id": transfer.provider_id, "next_attempt": time(transfer.next_us),
            "created": rfc3339(transfer.created_us),
        })
    };
    Ok(listed(transfers.iter().map(one).collect(), page.limit()))
}

/// `GET /api/v1/sellers/me/account`.
#[utoipa::path(
    get,
    path = "/api/v1/sellers/me/account",
    tag = "money",
    summary = "Where a seller is paid",
    security(("bearer" = []), ("api_key" = [])),
    responses((status = 200, description = "A connected account of Stripe, or null", body = AccountView), (status = 401, description = "Nobody is named by this request", body = ProblemDocument))
)]
pub(super) async fn account(State(payments): State<Arc<Payments>>, Caller(caller): Caller) -> Answer {
    let destination = payments.db.seller_account(&caller.subject).await?;
    Ok(shown(StatusCode::OK, json!({ "destination": destination })))
}

/// `PUT /api/v1/sellers/me/account` with `{"destination":"acct_…"}`: where they are paid from now on.
#[utoipa::path(
    put,
    path = "/api/v1/sellers/me/account",
    tag = "money",
    summary = "Say where to be paid",
    security(("bearer" = []), ("api_key" = [])),
    request_body = Account,
    responses((status = 200, description = "It is used from now on", body = SetAccountView), (status = 400, description = "The body cannot be read", body = ProblemDocument), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 403, description = "This caller can sell nothing, or their key may only read", body = ProblemDocument), (status = 422, description = "Nobody can be paid there", body = ProblemDocument))
)]
pub(super) async fn set_account(State(payments): State<Arc<Payments>>, Caller(caller): Caller, body: Sent) -> Answer {
    let caller = writer(caller)?;
    let (Account { destination }, _) = read(body)?;
    let plain = |rest: &str| (1..=64).contains(&rest.len()) && rest.bytes().all(|b| b.is_ascii_alphanumeric());
    if !destination.strip_prefix("acct_").is_some_and(plain) {
        let detail = "give the id of a connected account of Stripe, acct_…";
        return Err(Problem::unprocessable("destination", "Nobody can be paid there", detail));
    }
    payments.db.set_seller_account(&caller.subject, &destination, payments.clock.unix_us()).await?;
    Ok(shown(StatusCode::OK, json!({ "destination": destination })))
}

/// `GET /api/v1/admin/ledger`: the trial balance, and what is open for too long.
#[utoipa::path(
    get,
    path = "/api/v1/admin/ledger",
    tag = "money",
    summary = "The trial balance, and what is open for too long",
    security(("bearer" = [])),
    responses((status = 200, description = "Accounts, totals, health", body = LedgerView), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 403, description = "Only admins", body = ProblemDocument))
)]
pub(super) async fn ledger(State(payments): State<Arc<Payments>>, Caller(caller): Caller) -> Answer {
    admin(caller)?;
    let lines = payments.db.trial_balance(AsOf::Now).await?;
    let health = payments.health().await?;
    let accounts: Vec<Value> = lines
        .iter()
        .map(|line| {
            json!({
                "account": line.account.code.as_str(), "kind": line.account.kind.as_str(),
                "currency": line.account.currency.code(), "debits": line.debits, "credits": line.credits,
            })
        })
        .collect();
    let mut totals = serde_json::Map::new();
    for line in &lines {
        let total = totals.entry(line.account.currency.code()).or_insert_with(|| json!({ "debits": 0, "credits": 0 }));
        for (name, minor) in [("debits", line.debits), ("credits", line.credits)] {
            total[name] = Value::from(total[name].as_i64().unwrap_or(0) + minor);
        }
    }
    Ok(shown(StatusCode::OK, json!({ "accounts": accounts, "totals": totals, "health": health })))
}

/// `POST /api/v1/admin/ledger/provider-fees` with `{"reference","amount_minor","currency"}`: what the provider's
/// statement says that it kept.
#[utoipa::path(
    post,
    path = "/api/v1/admin/ledger/provider-fees",
    tag = "money",
    summary = "Book what the provider kept, by its statement",
    security(("bearer" = [])),
    params(("Idempotency-Key" = String, Header, description = "A new one for every wish; the same again is the same")),
    request_body = Fee,
    responses((status = 201, description = "It is booked", body = FeeView), (status = 200, description = "It was booked: the same reference again", body = FeeView), (status = 400, description = "There is no key, or the body cannot be read", body = ProblemDocument), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 403, description = "Only admins", body = ProblemDocument), (status = 422, description = "It cannot be booked", body = ProblemDocument))
)]
pub(super) async fn provider_fee(
    State(payments): State<Arc<Payments>>,
    Caller(caller): Caller,
    headers: HeaderMap,
    body: Sent,
) -> Answer {
    let caller = writer(admin(caller)?)?;
    let (fee, value): (Fee, Value) = read(body)?;
    let keyed = Keyed::of(&caller, &headers, "provider-fees", &value)?;
    let wrong = |detail: String| Problem::unprocessable("fee", "This cannot be booked", detail);
    let currency = Currency::decode(&fee.currency).ok_or_else(|| wrong("there is no such currency".into()))?;
    let amount = Amount::new(fee.amount_minor, currency).map_err(|error| wrong(error.chain()))?;
    if fee.reference.len() > 80 {
        return Err(wrong("a reference has at most 80 characters".into()));
    }
    if amount.minor() > PRICE_MINOR_MAX {
        return Err(wrong(format!("a fee has at most {PRICE_MINOR_MAX} minor units")));
    }
    let now_us = payments.clock.unix_us();
    let posted = payments.db.book_provider_fee(&fee.reference, amount, keyed.request(), now_us).await;
    let posted = posted.map_err(|error| match error.kind() {
        Kind::Invalid => wrong(error.chain()),
        _ => Problem::from(error),
    })?;
    match posted.map_err(|other| reused(&other))? {
        Posted::Created(place) => {
            Ok(shown(StatusCode::CREATED, json!({ "reference": fee.reference, "seq": place.seq })))
        }
        Posted::Exists(place) => Ok(shown(StatusCode::OK, json!({ "reference": fee.reference, "seq": place.seq }))),
        Posted::IdTaken | Posted::SourceTaken(_) => Err(reused(&fee.reference)),
        other => Err(wrong(format!("{other:?}"))),
    }
}

/// `POST /api/v1/admin/ledger/hand-payouts` with `{"reference","seller","amount_minor","currency","reason"}`: what
/// somebody paid a seller by hand at the provider. Kept with the admin's name and reason.
#[utoipa::path(
    post,
    path = "/api/v1/admin/ledger/hand-payouts",
    tag = "money",
    summary = "Book what a seller was paid by hand",
    security(("bearer" = [])),
    params(("Idempotency-Key" = String, Header, description = "A new one for every wish; the same again is the same")),
    request_body = ByHand,
    responses((status = 201, description = "It is booked", body = PayoutView), (status = 200, description = "It was booked: the same reference again", body = PayoutView), (status = 400, description = "There is no key, or the body cannot be read", body = ProblemDocument), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 403, description = "Only admins", body = ProblemDocument), (status = 422, description = "It cannot be booked, or we do not owe them so much", body = ProblemDocument))
)]
pub(super) async fn hand_payout(
    State(payments): State<Arc<Payments>>,
    Caller(caller): Caller,
    headers: HeaderMap,
    body: Sent,
) -> Answer {
    let caller = writer(admin(caller)?)?;
    let (ByHand { reference, seller, amount_minor, currency, reason }, value) = read(body)?;
    let keyed = Keyed::of(&caller, &headers, "hand-payouts", &value)?;
    let wrong = |detail: String| Problem::unprocessable("payout", "This cannot be booked", detail);
    let currency = Currency::decode(&currency).ok_or_else(|| wrong("there is no such currency".into()))?;
    let amount = Amount::new(amount_minor, currency).map_err(|error| wrong(error.chain()))?;
    if !chart::check_subject(&reference) || !chart::check_subject(&seller) {
        return Err(wrong("reference and seller are 1 to 64 letters, digits, '_', '.' or '-'".into()));
    }
    if !(10..=500).contains(&reason.trim().chars().count()) || reason.contains('\0') {
        return Err(wrong("say in 10 to 500 characters why it was paid by hand".into()));
    }
    let payout =
        HandPayout { reference: &reference, seller: &seller, amount, reason: reason.trim(), by: &caller.subject };
    let status = match payments.db.book_hand_payout(payout, keyed.request(), payments.clock.unix_us()).await? {
        HandBooked::New => {
            tracing::warn!(reference, seller, %amount, by = caller.subject, "a payout by hand was booked");
            StatusCode::CREATED
        }
        HandBooked::Known => StatusCode::OK,
        HandBooked::Taken => return Err(reused(&reference)),
        HandBooked::KeyUsed(other) => return Err(reused(&other)),
        HandBooked::Owes(minor) => {
            let detail = format!("{minor} minor units of {currency} are owed to {seller} and not reserved");
            return Err(Problem::unprocessable("not-owed", "We do not owe them so much", detail));
        }
    };
    Ok(shown(status, json!({ "reference": reference, "seller": seller, "amount": money(amount) })))
}
