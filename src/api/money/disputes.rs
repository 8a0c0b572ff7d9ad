//! `/api/v1/admin/disputes`: what banks took from buyers' payments, or want to take.

use std::sync::Arc;

use axum::extract::State;
use serde_json::{Value, json};

use super::described::DisputeList;
use super::{Answer, Asked, Page, admin, listed, money, time};
use crate::api::caller::Caller;
use crate::api::openapi::ProblemDocument;
use crate::api::problem::Problem;
use crate::base::clock::rfc3339;
use crate::db::disputes::Listed;
use crate::ledger::dispute::Status;
use crate::payments::Payments;

/// `GET /api/v1/admin/disputes`, the latest first: whoever answers banks begins here.
#[utoipa::path(
    get,
    path = "/api/v1/admin/disputes",
    tag = "money",
    summary = "What banks took, or want to take",
    security(("bearer" = [])),
    params(("status" = Option<String>, Query, description = "open, won or lost; without it, all"), ("limit" = Option<u32>, Query, description = "At most 200"), ("before" = Option<String>, Query, description = "The id that the page begins behind")),
    responses((status = 200, description = "Disputes, the latest first", body = DisputeList), (status = 400, description = "The query cannot be read", body = ProblemDocument), (status = 401, description = "Nobody is named by this request", body = ProblemDocument), (status = 403, description = "Only admins", body = ProblemDocument), (status = 404, description = "`before` is no id", body = ProblemDocument), (status = 422, description = "There is no such status", body = ProblemDocument))
)]
pub(super) async fn list(State(payments): State<Arc<Payments>>, Caller(caller): Caller, page: Asked) -> Answer {
    admin(caller)?;
    let page = Page::of(page)?;
    let status = page.status.as_deref().map(|text| Status::decode(text).ok_or_else(no_status)).transpose()?;
    if page.before.as_ref().is_some_and(|id| id.contains('\0')) {
        return Err(Problem::not_found()); // PostgreSQL has no such text
    }
    let disputes = payments.db.disputes(status, page.before.as_deref(), page.limit()).await?;
    Ok(listed(disputes.iter().map(view).collect(), page.limit()))
}

fn no_status() -> Problem {
    Problem::unprocessable("status", "There is no such status", "a dispute is open, won or lost")
}

fn view(Listed { dispute, order, subscription }: &Listed) -> Value {
    json!({
        "id": dispute.id, "status": dispute.status.as_str(), "provider_state": dispute.provider_state,
        "amount": money(dispute.amount), "loss_minor": dispute.loss_minor, "payment": dispute.payment,
        "order": order, "subscription": subscription, "alarm": dispute.alarm,
        "created": rfc3339(dispute.created_us), "settled": time(dispute.settled_us),
    })
}
