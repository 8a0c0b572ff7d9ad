//! Hyperswitch, API v1: payments and refunds. Ids are ours and stored before; the provider does not repeat itself, so
//! an id that it has already is `Fault::Exists`, and the caller looks. What its words mean is decided here.

use std::sync::Arc;

use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use hyper::{Method, Request, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::Sha512;

use super::wire::{Account, Answer, Fault, Transport, agent, is_name, json};
use crate::base::hex;
use crate::base::secret::Secret;
use crate::db::disputes::Seen as DisputeSeen;
use crate::db::orders::{Seen as PaymentSeen, Standing as PaymentStanding};
use crate::db::refunds::{Seen as RefundSeen, Standing as RefundStanding};
use crate::ledger::Amount;
use crate::ledger::chart::check_subject;
use crate::ledger::dispute;

/// The API.
#[derive(Clone, Debug)]
pub struct Hyperswitch {
    account: Account,
    profile: Option<String>,
    transport: Arc<dyn Transport>,
}

/// A payment to ask for.
#[derive(Clone, Copy, Debug)]
pub struct NewPayment<'a> {
    /// Stored before.
    pub id: &'a str,
    /// How much.
    pub amount: Amount,
    /// Who pays: an opaque id.
    pub customer: &'a str,
    /// For the buyer's bank statement and receipts.
    pub description: &'a str,
    /// What it is for: our id.
    pub purpose: &'a str,
    /// Where the buyer goes afterwards.
    pub return_url: Option<&'a str>,
    /// What it is paid by, beyond this one payment.
    pub saved: Saved<'a>,
}

/// Whether a means of payment is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved<'a> {
    /// It is for this payment.
    Nothing,
    /// The buyer's browser gives it, and agrees that more is paid by it later.
    Keep,
    /// The one of this id, which the buyer had kept: paid at once, without them.
    By(&'a str),
}

/// A refund to ask for.
#[derive(Clone, Copy, Debug)]
pub struct NewRefund<'a> {
    /// Stored before.
    pub id: &'a str,
    /// Of which payment.
    pub payment: &'a str,
    /// How much.
    pub amount: Amount,
}

impl Hyperswitch {
    /// Of this account, and of the profile if the account has several.
    pub fn new(account: Account, profile: Option<String>, transport: Arc<dyn Transport>) -> Hyperswitch {
        Hyperswitch { account, profile, transport }
    }

    /// Asks for a payment; the buyer's browser confirms it, unless it is paid by what they saved.
    ///
    /// # Errors
    /// `Exists` when the provider has one of this id.
    pub async fn create_payment(&self, new: NewPayment<'_>) -> Result<PaymentSeen, Fault> {
        // Unknown fields are refused there: only what is documented.
        let mut body = json!({
            "payment_id": new.id,
            "amount": new.amount.minor(),
            "currency": new.amount.currency().code(),
            "confirm": false,
            "capture_method": "automatic",
            "customer_id": new.customer,
            "description": new.description,
            "metadata": { "purpose": new.purpose },
        });
        if let Some(url) = new.return_url {
            body["return_url"] = Value::from(url);
        }
        if let Some(profile) = &self.profile {
            body["profile_id"] = Value::from(profile.as_str());
        }
        match new.saved {
            Saved::Nothing => {}
            Saved::Keep => body["setup_future_usage"] = Value::from("off_session"),
            Saved::By(method) => {
                body["confirm"] = Value::from(true);
                body["off_session"] = Value::from(true);
                body["recurring_details"] = json!({ "type": "payment_method_id", "data": method });
            }
        }
        let answer = self.call(Method::POST, "/payments", Some(body)).await?;
        decode_payment(new.id, &answer)
    }

    /// What it has under a payment's id, asked of the bank where that may be news.
    ///
    /// # Errors
    /// `Missing` when it has nothing.
    pub async fn payment(&self, id: &str) -> Result<PaymentSeen, Fault> {
        decode_payment(id, &self.call(Method::GET, &format!("/payments/{id}?force_sync=true"), None).await?)
    }

    /// Ends a payment that nobody has made.
    ///
    /// # Errors
    /// `Refused` when it cannot be ended any more.
    pub async fn cancel_payment(&self, id: &str) -> Result<PaymentSeen, Fault> {
        let body = json!({ "cancellation_reason": "abandoned" });
        decode_payment(id, &self.call(Method::POST, &format!("/payments/{id}/cancel"), Some(body)).await?)
    }

    /// Asks for a refund. What it answers is not its end.
    ///
    /// # Errors
    /// `Exists` when the provider has one of this id.
    pub async fn create_refund(&self, new: NewRefund<'_>) -> Result<RefundSeen, Fault> {
        let body = json!({
            "refund_id": new.id,
            "payment_id": new.payment,
            "amount": new.amount.minor(),
            // Stripe behind it knows three reasons.
            "reason": "requested_by_customer",
            // Left out it would be scheduled, whatever the documentation says.
            "refund_type": "instant",
        });
        decode_refund(new.id, &self.call(Method::POST, "/refunds", Some(body)).await?)
    }

    /// What it has under a refund's id.
    ///
    /// # Errors
    /// `Missing` when it has nothing.
    pub async fn refund(&self, id: &str) -> Result<RefundSeen, Fault> {
        decode_refund(id, &self.call(Method::GET, &format!("/refunds/{id}?force_sync=true"), None).await?)
    }

    /// Payments made in `[from_us, to_us)`, the latest first, after the one of this id: ids, at most a hundred.
    ///
    /// # Errors
    /// As every request.
    pub async fn payments(&self, from_us: i64, to_us: i64, after: Option<&str>) -> Result<Vec<PaymentSeenAs>, Fault> {
        #[derive(Deserialize)]
        struct Page {
            data: Vec<Payment>,
        }
        let time = crate::base::clock::rfc3339;
        let mut path = format!("/payments/list?limit=100&created_gte={}&created_lt={}", time(from_us), time(to_us));
        if let Some(after) = after {
            path.push_str("&starting_after=");
            path.push_str(after);
        }
        let answer = self.call(Method::GET, &path, None).await?;
        let page: Page = json(&answer)?;
        Ok(page.data.into_iter().map(|payment| (payment.payment_id.clone(), seen(payment))).collect())
    }

    /// Refunds made in `[from_us, to_us)` behind the first `offset`: at most a hundred, and how many there are.
    ///
    /// # Errors
    /// As every request.
    pub async fn refunds(&self, from_us: i64, to_us: i64, offset: usize) -> Result<(Vec<RefundSeenAs>, usize), Fault> {
        #[derive(Deserialize)]
        struct Page {
            data: Vec<Refund>,
            #[serde(default)]
            total_count: usize,
        }
        let time = crate::base::clock::rfc3339;
        let body = json!({ "limit": 100, "offset": offset, "start_time": time(from_us), "end_time": time(to_us) });
        let page: Page = json(&self.call(Method::POST, "/refunds/list", Some(body)).await?)?;
        let seen = page.data.into_iter().map(|refund| (refund.refund_id.clone(), seen_refund(refund)));
        Ok((seen.collect(), page.total_count))
    }

    /// What it has under a dispute's id.
    ///
    /// # Errors
    /// `Missing` when it has nothing.
    pub async fn dispute(&self, id: &str) -> Result<DisputeSeen, Fault> {
        let answer = self.call(Method::GET, &format!("/disputes/{id}"), None).await?;
        let dispute: Dispute = json(&answer)?;
        if dispute.dispute_id != id {
            return Err(Fault::Silence(format!("asked for {id}, it answered about {}", dispute.dispute_id)));
        }
        seen_dispute(dispute)
    }

    /// Disputes made in `[from_us, to_us)` behind the first `offset`: at most a hundred.
    ///
    /// # Errors
    /// As every request.
    pub async fn disputes(&self, from_us: i64, to_us: i64, offset: usize) -> Result<Vec<DisputeSeen>, Fault> {
        let time = crate::base::clock::rfc3339;
        let path =
            format!("/disputes/list?limit=100&offset={offset}&start_time={}&end_time={}", time(from_us), time(to_us));
        let page: Vec<Dispute> = json(&self.call(Method::GET, &path, None).await?)?;
        page.into_iter().map(seen_dispute).collect()
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<Answer, Fault> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.account.url))
            .header("api-key", self.account.key(""))
            .header(header::USER_AGENT, agent())
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/json")
            .body(body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string())))
            .map_err(|cause| Fault::Refused(format!("the request cannot be made: {cause}")))?;
        let answer = self.transport.send(request).await.map_err(|error| Fault::Silence(error.chain()))?;
        match answer.status.is_success() {
            true => Ok(answer),
            false => Err(fault(&answer)),
        }
    }
}

/// A payment's id and what it means.
pub type PaymentSeenAs = (String, PaymentSeen);
/// A refund's id and what it means.
pub type RefundSeenAs = (String, RefundSeen);

/// Whether a webhook is from the provider: HMAC-SHA512 over exactly the bytes of the body, in lower-case hexadecimal,
/// with the hash key's text as the key.
pub fn is_signed(body: &[u8], signature: Option<&str>, secret: &Secret) -> bool {
    let Some(signature) = signature.and_then(|text| hex::decode::<64>(text.as_bytes())) else { return false };
    let mut mac = Hmac::<Sha512>::new_from_slice(secret.expose()).expect("HMAC takes keys of any length");
    mac.update(body);
    mac.verify_slice(&signature).is_ok()
}

/// What a webhook is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Its id: the same on every delivery.
    pub id: Option<String>,
    /// `payment_succeeded`, …
    pub kind: Option<String>,
    /// The payment that it is about.
    pub payment: Option<String>,
    /// The refund that it is about.
    pub refund: Option<String>,
    /// The dispute that it is about.
    pub dispute: Option<String>,
}

impl Event {
    /// Whether it names what its kind says that it is about. Kinds that we do not know need not.
    pub fn is_whole(&self) -> bool {
        match self.kind.as_deref() {
            Some(kind) if kind.starts_with("refund_") => self.refund.is_some(),
            Some(kind) if kind.starts_with("payment_") => self.payment.is_some(),
            Some(kind) if kind.starts_with("dispute_") => self.dispute.is_some(),
            _ => true,
        }
    }

    /// Reads what is there; the rest of an event is never believed.
    pub fn read(body: &[u8]) -> Option<Event> {
        let value: Value = serde_json::from_slice(body).ok().filter(Value::is_object)?;
        let text = |value: &Value| value.as_str().filter(|text| is_name(text)).map(str::to_owned);
        let object = &value["content"]["object"];
        Some(Event {
            id: text(&value["event_id"]),
            kind: text(&value["event_type"]),
            payment: text(&object["payment_id"]),
            refund: text(&object["refund_id"]),
            dispute: text(&object["dispute_id"]),
        })
    }
}

#[derive(Deserialize)]
struct Payment {
    payment_id: String,
    status: String,
    amount: i64,
    currency: String,
    amount_received: Option<i64>,
    client_secret: Option<String>,
    payment_method_id: Option<String>,
    setup_future_usage: Option<String>,
}

fn decode_payment(id: &str, answer: &Answer) -> Result<PaymentSeen, Fault> {
    let payment: Payment = json(answer)?;
    if payment.payment_id != id {
        return Err(Fault::Silence(format!("asked for {id}, it answered about {}", payment.payment_id)));
    }
    Ok(seen(payment))
}

fn seen(payment: Payment) -> PaymentSeen {
    let standing = match payment.status.as_str() {
        // Less than the whole is not the price.
        "succeeded" if payment.amount_received.is_some_and(|received| received < payment.amount) => {
            PaymentStanding::Conflicted
        }
        "succeeded" => PaymentStanding::Paid,
        "failed" | "cancelled" | "cancelled_post_capture" => PaymentStanding::Dead,
        "expired" => PaymentStanding::Expired,
        "conflicted" | "partially_captured" | "partially_captured_and_capturable" => PaymentStanding::Conflicted,
        // What a later version adds is not an end that we know.
        _ => PaymentStanding::Open,
    };
    PaymentSeen {
        standing,
        state: payment.status,
        amount_minor: payment.amount,
        currency: payment.currency,
        client_secret: payment.client_secret.filter(|secret| !secret.is_empty()),
        // One that is kept for payments in the buyer's presence is of no use without them.
        method: payment
            .payment_method_id
            .filter(|id| is_name(id) && payment.setup_future_usage.as_deref() == Some("off_session")),
    }
}

/// Whether nobody has begun to pay: such a payment can be ended.
pub fn is_untouched(state: &str) -> bool {
    matches!(state, "requires_payment_method" | "requires_confirmation")
}

#[derive(Deserialize)]
struct Refund {
    refund_id: String,
    payment_id: String,
    amount: i64,
    currency: String,
    status: String,
    error_message: Option<String>,
}

fn decode_refund(id: &str, answer: &Answer) -> Result<RefundSeen, Fault> {
    let refund: Refund = json(answer)?;
    if refund.refund_id != id {
        return Err(Fault::Silence(format!("asked for {id}, it answered about {}", refund.refund_id)));
    }
    Ok(seen_refund(refund))
}

fn seen_refund(refund: Refund) -> RefundSeen {
    let standing = match refund.status.as_str() {
        "succeeded" => RefundStanding::Succeeded,
        "failed" => RefundStanding::Failed,
        _ => RefundStanding::Open, // pending, review, and what a later version adds
    };
    RefundSeen {
        standing,
        state: refund.status,
        amount_minor: refund.amount,
        currency: refund.currency,
        payment: refund.payment_id,
        error: refund.error_message,
    }
}

#[derive(Deserialize)]
struct Dispute {
    dispute_id: String,
    payment_id: String,
    /// Minor units, as a string (`StringMinorUnit`).
    amount: String,
    currency: String,
    dispute_status: String,
}

fn seen_dispute(dispute: Dispute) -> Result<DisputeSeen, Fault> {
    let unreadable = |what: &str| Fault::Silence(format!("the dispute {:?} has {what}", dispute.dispute_id));
    // It names journals.
    if !check_subject(&dispute.dispute_id) {
        return Err(unreadable("an id that is no name"));
    }
    let amount_minor = dispute.amount.parse().map_err(|_| unreadable("an amount that is no number"))?;
    let standing = match dispute.dispute_status.as_str() {
        "dispute_won" | "dispute_cancelled" => dispute::Status::Won,
        // Nobody answered in time, or somebody agreed.
        "dispute_lost" | "dispute_expired" | "dispute_accepted" => dispute::Status::Lost,
        _ => dispute::Status::Open, // opened, challenged, and what a later version adds: the money is kept
    };
    Ok(DisputeSeen {
        id: dispute.dispute_id,
        payment: dispute.payment_id,
        standing,
        state: dispute.dispute_status,
        amount_minor,
        currency: dispute.currency,
    })
}

fn fault(answer: &Answer) -> Fault {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let error = &body["error"];
    let (code, kind) = (error["code"].as_str().unwrap_or_default(), error["type"].as_str().unwrap_or_default());
    let message = error["message"].as_str().unwrap_or_default();
    let why = format!("{} {code} {message}", answer.status.as_u16());
    match answer.status {
        // Documented under 422 and 500.
        _ if code == "HE_00" && kind == "lock_timeout" => Fault::Busy(why),
        StatusCode::TOO_MANY_REQUESTS => Fault::Busy(why),
        status if status.is_server_error() => Fault::Failed(why),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Fault::Locked(why),
        StatusCode::NOT_FOUND if code.starts_with("HE_0") => Fault::Missing,
        // A proxy's 404 says nothing about what is behind it.
        StatusCode::NOT_FOUND => Fault::Silence(why),
        StatusCode::BAD_REQUEST if code == "HE_01" => Fault::Exists,
        status if status.is_client_error() && !code.is_empty() => Fault::Refused(why),
        _ => Fault::Silence(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::HeaderMap;

    fn answer(status: u16, body: &Value) -> Answer {
        let body = Bytes::from(body.to_string());
        Answer { status: StatusCode::from_u16(status).unwrap(), headers: HeaderMap::new(), body }
    }

    #[test]
    fn every_status_of_a_payment_means_something_and_unknown_ones_are_no_end() {
        let standing = |status: &str, received: Option<i64>| {
            let body = json!({ "payment_id": "pay_1", "status": status, "amount": 100, "currency": "USD",
                "amount_received": received, "client_secret": "" });
            decode_payment("pay_1", &answer(200, &body)).unwrap().standing
        };
        assert_eq!(standing("succeeded", Some(100)), PaymentStanding::Paid);
        assert_eq!(standing("succeeded", None), PaymentStanding::Paid);
        assert_eq!(standing("succeeded", Some(99)), PaymentStanding::Conflicted);
        for dead in ["failed", "cancelled", "cancelled_post_capture"] {
            assert_eq!(standing(dead, None), PaymentStanding::Dead, "{dead}");
        }
        assert_eq!(standing("expired", None), PaymentStanding::Expired);
        for conflicted in ["conflicted", "partially_captured", "partially_captured_and_capturable"] {
            assert_eq!(standing(conflicted, None), PaymentStanding::Conflicted, "{conflicted}");
        }
        for open in [
            "processing",
            "requires_customer_action",
            "requires_merchant_action",
            "requires_payment_method",
            "requires_confirmation",
            "requires_capture",
            "partially_authorized_and_requires_capture",
            "invented_in_2030",
        ] {
            assert_eq!(standing(open, None), PaymentStanding::Open, "{open}");
        }
        let other = json!({ "payment_id": "pay_2", "status": "succeeded", "amount": 1, "currency": "USD" });
        assert!(matches!(decode_payment("pay_1", &answer(200, &other)), Err(Fault::Silence(_))));
    }

    #[test]
    fn every_status_of_a_dispute_means_something_and_unknown_ones_keep_the_money() {
        use dispute::Status::{Lost, Open, Won};
        let seen = |status: &str, amount: &str| {
            let (id, payment) = ("dp_1".into(), "pay_1".into());
            let (amount, currency, dispute_status) = (amount.into(), "USD".into(), status.into());
            seen_dispute(Dispute { dispute_id: id, payment_id: payment, amount, currency, dispute_status })
        };
        for (status, standing) in [
            ("dispute_opened", Open),
            ("dispute_challenged", Open),
            ("invented_in_2030", Open),
            ("dispute_won", Won),
            ("dispute_cancelled", Won),
            ("dispute_lost", Lost),
            ("dispute_expired", Lost),
            ("dispute_accepted", Lost),
        ] {
            let seen = seen(status, "1000").unwrap();
            assert_eq!((seen.standing, seen.amount_minor), (standing, 1000), "{status}");
        }
        assert!(matches!(seen("dispute_won", "10.00"), Err(Fault::Silence(_))));
    }

    #[test]
    fn every_refusal_is_told_from_every_silence() {
        let check = |status, code: &str, kind: &str, expected: fn(&Fault) -> bool| {
            let body = json!({ "error": { "type": kind, "code": code, "message": "m" } });
            let fault = fault(&answer(status, &body));
            assert!(expected(&fault), "{status} {code}: {fault:?}");
        };
        check(400, "HE_01", "duplicate_request", |f| *f == Fault::Exists);
        check(404, "HE_02", "object_not_found", |f| *f == Fault::Missing);
        check(404, "", "", |f| matches!(f, Fault::Silence(_)));
        check(401, "IR_01", "invalid_request", |f| matches!(f, Fault::Locked(_)));
        check(400, "IR_13", "invalid_request", |f| matches!(f, Fault::Refused(_)));
        check(422, "HE_00", "lock_timeout", |f| matches!(f, Fault::Busy(_)));
        check(500, "HE_00", "lock_timeout", |f| matches!(f, Fault::Busy(_)));
        check(500, "HE_00", "server_not_available", |f| matches!(f, Fault::Failed(_)));
        check(502, "", "", |f| matches!(f, Fault::Failed(_)));
        check(429, "", "", |f| matches!(f, Fault::Busy(_)));
        check(400, "", "", |f| matches!(f, Fault::Silence(_)));
        check(301, "", "", |f| matches!(f, Fault::Silence(_)));
    }

    #[test]
    fn only_the_providers_own_bytes_are_signed() {
        let secret = Secret::new(*b"a-hash-key-of-the-profile");
        let body = br#"{"event_id":"evt_1"}"#;
        let mut mac = Hmac::<Sha512>::new_from_slice(secret.expose()).unwrap();
        mac.update(body);
        let signature = hex::encode(&mac.finalize().into_bytes());
        assert_eq!(signature.len(), 128);
        assert!(is_signed(body, Some(&signature), &secret));
        assert!(!is_signed(br#"{"event_id": "evt_1"}"#, Some(&signature), &secret), "the same JSON, other bytes");
        assert!(!is_signed(body, None, &secret) && !is_signed(body, Some(""), &secret));
        assert!(!is_signed(body, Some(&signature[..127]), &secret));
        assert!(!is_signed(body, Some(&signature), &Secret::new(*b"another")));
    }

    #[test]
    fn of_an_event_only_ids_are_read() {
        let event = Event::read(
            br#"{"event_id":"evt_1","event_type":"refund_succeeded","content":{"type":"refund_details",
                "object":{"refund_id":"ref_1","payment_id":"pay_1","status":"succeeded"}}}"#,
        )
        .unwrap();
        assert_eq!(
            (event.id.as_deref(), event.refund.as_deref(), event.payment.as_deref()),
            (Some("evt_1"), Some("ref_1"), Some("pay_1"))
        );
        assert_eq!(Event::read(b"{}"), Some(Event::default()));
        assert_eq!(Event::read(b"not json"), None);
        assert_eq!(Event::read(br#"{"event_id":7}"#).unwrap().id, None);
    }
}
