//! `/api/v1/webhooks/{hyperswitch,stripe}`: what providers tell. Bounded, logged, acknowledged; processed elsewhere.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::json;

use super::described::ReceivedView;
use super::{Answer, shown};
use crate::api::openapi::ProblemDocument;
use crate::api::problem::Problem;
use crate::base::telemetry::request_id;
use crate::payments::Payments;
use crate::payments::webhook::{Envelope, Received, Sender};

/// The largest delivery, in bytes: nothing of a longer one is stored.
const BODY_BYTES_MAX: usize = 256 << 10;

/// `POST /api/v1/webhooks/hyperswitch`.
#[utoipa::path(
    post,
    path = "/api/v1/webhooks/hyperswitch",
    tag = "money",
    summary = "What Hyperswitch tells",
    security(()),
    params(("X-Webhook-Signature-512" = String, Header, description = "HMAC-SHA512 of the body, hexadecimal")),
    request_body = Object,
    responses((status = 200, description = "It is logged, and processed later", body = ReceivedView), (status = 400, description = "It is about nothing", body = ProblemDocument), (status = 401, description = "It is not from Hyperswitch", body = ProblemDocument), (status = 413, description = "More than 256 KiB", body = ProblemDocument))
)]
pub(super) async fn hyperswitch(State(payments): State<Arc<Payments>>, request: Request<Body>) -> Answer {
    take(&payments, Sender::Hyperswitch, "x-webhook-signature-512", request).await
}

/// `POST /api/v1/webhooks/stripe`.
#[utoipa::path(
    post,
    path = "/api/v1/webhooks/stripe",
    tag = "money",
    summary = "What Stripe tells",
    security(()),
    params(("Stripe-Signature" = String, Header, description = "t=…,v1=…")),
    request_body = Object,
    responses((status = 200, description = "It is logged, and processed later", body = ReceivedView), (status = 400, description = "It is about nothing", body = ProblemDocument), (status = 401, description = "It is not from Stripe", body = ProblemDocument), (status = 413, description = "More than 256 KiB", body = ProblemDocument))
)]
pub(super) async fn stripe(State(payments): State<Arc<Payments>>, request: Request<Body>) -> Answer {
    take(&payments, Sender::Stripe, "stripe-signature", request).await
}

async fn take(payments: &Payments, sender: Sender, signed_by: &str, request: Request<Body>) -> Answer {
    let (head, body) = request.into_parts();
    let body =
        Limited::new(body, BODY_BYTES_MAX).collect().await.map_err(|cause| match cause.is::<LengthLimitError>() {
            true => {
                let detail = format!("a delivery has at most {BODY_BYTES_MAX} bytes");
                Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "The delivery is too large", detail)
            }
            false => Problem::unreadable(StatusCode::BAD_REQUEST, "it broke off"),
        })?;
    let text = |headers: &HeaderMap, name: &str| headers.get(name)?.to_str().ok().map(|text| clipped(text).to_owned());
    let peer = head.extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip().to_string());
    let agent = text(&head.headers, header::USER_AGENT.as_str());
    let signature = head.headers.get(signed_by).and_then(|value| value.to_str().ok());
    let id = request_id::given_or_made(&head.headers);
    let envelope = Envelope {
        sender,
        signature,
        body: &body.to_bytes(),
        source_ip: peer.as_deref(),
        user_agent: agent.as_deref(),
        request_id: &id,
    };
    match payments.receive(envelope).await? {
        Received::Accepted => Ok(shown(StatusCode::OK, json!({ "received": true }))),
        Received::Unsigned => Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "signature-invalid",
            "The signature is not the provider's",
            "sign exactly the bytes of the body with the secret of this endpoint",
        )),
        Received::Malformed => Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "event-invalid",
            "The event is about nothing",
            "it is no JSON, or has no id of what it is about",
        )),
    }
}

/// What strangers call themselves, as far as it is kept.
fn clipped(text: &str) -> &str {
    text.get(..text.len().min(256)).unwrap_or_default()
}
