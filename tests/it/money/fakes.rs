//! Hyperswitch and Stripe Connect as their documentation describes them, in memory: what they have, how they answer,
//! and every mood that they are known to have. One `World` is both; it answers on loopback over HTTP, or in the process
//! of a simulation.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use hyper::{HeaderMap, Request, StatusCode};
use segue::base::clock::{Clock, rfc3339};
use segue::base::secret::Secret;
use segue::base::{Error, Kind, crash, hex};
use segue::providers::hyperswitch::Hyperswitch;
use segue::providers::stripe::Stripe;
use segue::providers::wire::{Account, Answer, Sent, Transport};
use serde_json::{Value, json};
use sha2::{Sha256, Sha512};

use crate::support::Random;

pub(super) const HYPERSWITCH_KEY: &str = "snd_a-key-of-the-tests";
pub(super) const STRIPE_KEY: &str = "sk_test_a-key-of-the-tests";
pub(super) const HYPERSWITCH_SECRET: &str = "a-hash-key-of-the-profile-of-the-tests";
pub(super) const STRIPE_SECRET: &str = "whsec_of-the-tests";

/// How a provider takes one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    Fine,
    /// The request is lost: nothing is done.
    Deaf,
    /// It is done, and the answer is lost.
    Mute,
    /// It is lost for now and done later, when nobody expects it any more.
    Late,
    /// 500, nothing done. Stripe keeps the answer.
    Fails,
    /// 500, and done. Stripe keeps the answer.
    FailsAfter,
    /// It arrives twice, as from a proxy that repeats what it had no answer to; the second answer is ours.
    Twice,
    /// Somebody else is at work on it.
    Busy,
    /// Our key has expired.
    Locked,
    /// Stripe: made, with an empty id.
    Nameless,
}

#[derive(Clone, Debug)]
pub(super) struct Payment {
    pub(super) status: String,
    pub(super) amount: i64,
    pub(super) currency: String,
    pub(super) purpose: String,
    /// Its buyer agreed that more is paid by the same means.
    saved: bool,
    created_s: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Refund {
    pub(super) status: String,
    pub(super) payment: String,
    pub(super) amount: i64,
    created_s: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Dispute {
    pub(super) status: String,
    pub(super) payment: String,
    pub(super) amount: i64,
    created_s: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Transfer {
    pub(super) amount: i64,
    pub(super) reversed: i64,
    pub(super) currency: String,
    pub(super) destination: String,
    pub(super) group: String,
    pub(super) operation: String,
}

/// What Stripe keeps under an idempotency key.
#[derive(Clone, Debug)]
struct Saved {
    asked: String,
    status: u16,
    body: Value,
    at_s: u64,
}

#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) payments: BTreeMap<String, Payment>,
    pub(super) refunds: BTreeMap<String, Refund>,
    pub(super) disputes: BTreeMap<String, Dispute>,
    pub(super) transfers: BTreeMap<String, Transfer>,
    saved: BTreeMap<String, Saved>,
    /// What each connected account has.
    pub(super) accounts: BTreeMap<String, i64>,
    /// What the platform has at Stripe; it may be overdrawn by a mood of `poor`.
    pub(super) platform: i64,
    /// The platform's balance is not enough for anything.
    pub(super) poor: bool,
    /// Accounts that cannot be paid to.
    pub(super) closed: Vec<String>,
    /// Webhooks that were made and not delivered.
    pub(super) events: VecDeque<Value>,
    /// The moods of the next requests.
    pub(super) script: VecDeque<Mood>,
    /// Moods by chance afterwards: one in so many requests is not fine.
    pub(super) whims: Option<(Random, usize)>,
    /// What was asked: method and path.
    pub(super) asked: Vec<String>,
    late: Vec<(u64, String, String, Option<String>, String)>,
    /// What new refunds are at first: `pending`, `succeeded`, `review` …
    pub(super) refunds_are: String,
    /// What comes of payments that are made without their buyer: `succeeded`, `failed`, `processing` …
    pub(super) renewals_are: String,
    clock: Clock,
    next: u64,
}

const BAD: [Mood; 8] =
    [Mood::Deaf, Mood::Mute, Mood::Late, Mood::Fails, Mood::FailsAfter, Mood::Twice, Mood::Busy, Mood::Locked];

type Said = Option<(u16, Value)>;

fn refusal(status: u16, kind: &str, code: &str, message: &str) -> Said {
    Some((status, json!({ "error": { "type": kind, "code": code, "message": message } })))
}

impl World {
    pub(super) fn new(clock: Clock) -> World {
        World { clock, refunds_are: "pending".into(), renewals_are: "succeeded".into(), ..World::default() }
    }

    fn mood(&mut self) -> Mood {
        if let Some(mood) = self.script.pop_front() {
            return mood;
        }
        let Some((random, one_in)) = &mut self.whims else { return Mood::Fine };
        match random.below(*one_in) {
            0 => BAD[random.below(BAD.len())],
            _ => Mood::Fine,
        }
    }

    /// One request. `None`: no answer.
    fn handle(&mut self, method: &str, target: &str, headers: &HeaderMap, body: &str) -> Said {
        self.asked.push(format!("{method} {}", target.split('?').next().unwrap()));
        let stripe = target.starts_with("/v1/");
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let known = match stripe {
            true => header("authorization") == format!("Bearer {STRIPE_KEY}"),
            false => header("api-key") == HYPERSWITCH_KEY,
        };
        let key = (!header("idempotency-key").is_empty()).then(|| header("idempotency-key").to_owned());
        if stripe && method == "POST" {
            assert!(key.is_some(), "every POST to Stripe has a key");
        }
        let mood = self.mood();
        if !known || mood == Mood::Locked {
            return refusal(401, "invalid_request", "IR_01", "API key not provided or invalid");
        }
        let act = |world: &mut World| world.act(method, target, key.as_deref(), body, mood == Mood::Nameless);
        match mood {
            Mood::Deaf => None,
            Mood::Late if method == "POST" => {
                self.late.push((self.clock.unix_s(), method.into(), target.into(), key.clone(), body.into()));
                None
            }
            Mood::Late => None,
            Mood::Mute => {
                act(self);
                None
            }
            Mood::Twice => {
                act(self);
                act(self)
            }
            Mood::Busy if stripe => refusal(409, "idempotency_error", "idempotency_key_in_use", "in use"),
            Mood::Busy => refusal(422, "lock_timeout", "HE_00", "Resource is busy. Please try again later."),
            Mood::Fails | Mood::FailsAfter => {
                let error = json!({ "error": { "type": "api_error", "code": "", "message": "an error occurred" } });
                let kept = key.as_ref().filter(|_| stripe && method == "POST");
                if kept.is_some_and(|key| self.saved.contains_key(key)) {
                    return act(self); // the first answer under this key, whatever the mood is now
                }
                if mood == Mood::FailsAfter {
                    act(self);
                }
                if let Some(key) = kept {
                    let (asked, at_s) = (format!("{target} {body}"), self.clock.unix_s());
                    self.saved.insert(key.clone(), Saved { asked, status: 500, body: error.clone(), at_s });
                }
                Some((500, error))
            }
            Mood::Fine | Mood::Locked | Mood::Nameless => act(self),
        }
    }

    /// Requests that were late arrive now, unless they were on their way for longer than any network keeps them.
    pub(super) fn land(&mut self) {
        for (sent_s, method, target, key, body) in std::mem::take(&mut self.late) {
            if self.clock.unix_s() > sent_s + 3_600 {
                continue;
            }
            self.act(&method, &target, key.as_deref(), &body, false);
        }
    }

    pub(super) fn forget_late(&mut self) {
        self.late.clear();
    }

    fn act(&mut self, method: &str, target: &str, key: Option<&str>, body: &str, nameless: bool) -> Said {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let now_s = self.clock.unix_s();
        if parts[0] == "v1" {
            let Some(key) = key else { return self.stripe(method, &parts[1..], query, body, nameless) };
            if let Some(saved) = self.saved.get(key).filter(|saved| now_s < saved.at_s + 24 * 3600) {
                if saved.asked != format!("{target} {body}") {
                    return refusal(
                        400,
                        "idempotency_error",
                        "",
                        "Keys for idempotent requests can only be used with the same parameters",
                    );
                }
                return Some((saved.status, saved.body.clone()));
            }
            let said = self.stripe(method, &parts[1..], query, body, nameless);
            if let Some((status, body_of)) = &said {
                let asked = format!("{target} {body}");
                let saved = Saved { asked, status: *status, body: body_of.clone(), at_s: now_s };
                self.saved.insert(key.to_owned(), saved);
            }
            return said;
        }
        self.hyperswitch(method, &parts, query, body)
    }

    fn hyperswitch(&mut self, method: &str, parts: &[&str], query: &str, body: &str) -> Said {
        let missing = || refusal(404, "object_not_found", "HE_02", "does not exist in our records");
        let value: Value = serde_json::from_str(body).unwrap_or_default();
        let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        let only = |fields: &[&str]| {
            value.as_object().is_none_or(|object| object.keys().all(|known| fields.contains(&known.as_str())))
        };
        let now_s = self.clock.unix_s();
        match (method, parts) {
            ("POST", ["payments"]) => {
                let known = [
                    "payment_id",
                    "amount",
                    "currency",
                    "confirm",
                    "capture_method",
                    "customer_id",
                    "description",
                    "metadata",
                    "return_url",
                    "profile_id",
                    "setup_future_usage",
                    "off_session",
                    "recurring_details",
                ];
                let id = text("payment_id");
                if !only(&known) || id.len() != 30 || value["amount"].as_i64().is_none() {
                    return refusal(400, "invalid_request", "IR_06", "Json deserialize error");
                }
                if self.payments.contains_key(&id) {
                    let what = "The payment with the specified payment_id already exists in our records";
                    return refusal(400, "duplicate_request", "HE_01", what);
                }
                let payment = Payment {
                    status: "requires_payment_method".into(),
                    amount: value["amount"].as_i64().unwrap(),
                    currency: text("currency"),
                    purpose: value["metadata"]["purpose"].as_str().unwrap_or_default().into(),
                    saved: text("setup_future_usage") == "off_session",
                    created_s: now_s,
                };
                let method = value["recurring_details"]["data"].as_str();
                if let Some(method) = method {
                    assert_eq!((&value["confirm"], &value["off_session"]), (&json!(true), &json!(true)));
                    assert_eq!(value["recurring_details"]["type"], "payment_method_id");
                    let saved = method.strip_prefix("pm_").and_then(|by| self.payments.get(by));
                    if !saved.is_some_and(|by| by.saved && by.status == "succeeded") {
                        return refusal(400, "invalid_request", "IR_04", "Payment method is not found");
                    }
                }
                self.payments.insert(id.clone(), payment);
                if method.is_some() {
                    let status = self.renewals_are.clone();
                    self.pay(&id, &status);
                }
                self.show_payment(&id)
            }
            ("GET", ["payments", "list"]) => {
                let field =
                    |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}="))).unwrap_or("");
                let (from, to, after) = (field("created_gte"), field("created_lt"), field("starting_after"));
                let ids: Vec<String> = self
                    .payments
                    .iter()
                    .filter(|(_, payment)| {
                        let at = rfc3339(payment.created_s as i64 * 1_000_000);
                        at.as_str() >= from && at.as_str() < to
                    })
                    .map(|(id, _)| id.clone())
                    .rev()
                    .skip_while(|id| !after.is_empty() && id.as_str() >= after)
                    .take(100)
                    .collect();
                let data: Vec<Value> = ids.iter().filter_map(|id| Some(self.show_payment(id)?.1)).collect();
                Some((200, json!({ "size": data.len(), "data": data })))
            }
            ("GET", ["payments", id]) if self.payments.contains_key(*id) => self.show_payment(id),
            ("POST", ["payments", id, "cancel"]) if self.payments.contains_key(*id) => {
                let payment = self.payments.get_mut(*id).unwrap();
                if !["requires_payment_method", "requires_confirmation", "requires_capture"]
                    .contains(&payment.status.as_str())
                {
                    return refusal(400, "invalid_request", "IR_16", "You cannot cancel this payment");
                }
                payment.status = "cancelled".into();
                self.tell_payment(id, "payment_cancelled");
                self.show_payment(id)
            }
            ("POST", ["refunds"]) => {
                let id = text("refund_id");
                let known = ["refund_id", "payment_id", "amount", "reason", "refund_type"];
                let reasons = ["duplicate", "fraudulent", "requested_by_customer"];
                if !only(&known) || id.len() != 30 || !reasons.contains(&text("reason").as_str()) {
                    return refusal(400, "invalid_request", "IR_06", "Json deserialize error");
                }
                assert_eq!(text("refund_type"), "instant");
                if self.refunds.contains_key(&id) {
                    let what = "Duplicate refund request. Refund already attempted with the refund ID";
                    return refusal(400, "duplicate_request", "HE_01", what);
                }
                let (payment_id, amount) = (text("payment_id"), value["amount"].as_i64().unwrap_or_default());
                let Some(payment) = self.payments.get(&payment_id) else { return missing() };
                if payment.status != "succeeded" {
                    return refusal(
                        400,
                        "invalid_request",
                        "IR_14",
                        "This Payment could not be refunded because it has a status of requires_payment_method",
                    );
                }
                let taken: i64 = self
                    .refunds
                    .values()
                    .filter(|refund| refund.payment == payment_id && refund.status != "failed")
                    .map(|refund| refund.amount)
                    .sum();
                if taken + amount > payment.amount {
                    return refusal(400, "invalid_request", "IR_13", "The refund amount exceeds the amount captured");
                }
                let refund = Refund { status: self.refunds_are.clone(), payment: payment_id, amount, created_s: now_s };
                if refund.status == "succeeded" {
                    self.platform -= amount;
                }
                self.refunds.insert(id.clone(), refund);
                self.show_refund(&id)
            }
            ("POST", ["refunds", "list"]) => {
                let (from, to) = (text("start_time"), text("end_time"));
                let made = |refund: &&Refund| {
                    let at = rfc3339(refund.created_s as i64 * 1_000_000);
                    at >= from && at < to
                };
                let offset = value["offset"].as_u64().unwrap() as usize;
                let ids: Vec<String> =
                    self.refunds.iter().filter(|(_, refund)| made(refund)).map(|(id, _)| id.clone()).collect();
                let page = ids.iter().skip(offset).take(value["limit"].as_u64().unwrap() as usize);
                let data: Vec<Value> = page.filter_map(|id| Some(self.show_refund(id)?.1)).collect();
                Some((200, json!({ "count": data.len(), "total_count": ids.len(), "data": data })))
            }
            ("GET", ["disputes", "list"]) => {
                let field =
                    |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}="))).unwrap_or("");
                let (from, to) = (field("start_time"), field("end_time"));
                let made = |dispute: &&Dispute| {
                    let at = rfc3339(dispute.created_s as i64 * 1_000_000);
                    at.as_str() >= from && at.as_str() < to
                };
                let ids = self.disputes.iter().filter(|(_, dispute)| made(dispute)).map(|(id, _)| id);
                let page = ids.skip(field("offset").parse().unwrap()).take(field("limit").parse().unwrap());
                Some((200, page.filter_map(|id| Some(self.show_dispute(id)?.1)).collect()))
            }
            ("GET", ["disputes", id]) if self.disputes.contains_key(*id) => self.show_dispute(id),
            ("GET", ["refunds", id]) if self.refunds.contains_key(*id) => self.show_refund(id),
            ("GET", _) => missing(),
            _ => refusal(404, "invalid_request", "IR_02", "Unrecognized request URL"),
        }
    }

    fn show_payment(&self, id: &str) -> Said {
        let payment = self.payments.get(id)?;
        let received = if payment.status == "succeeded" { payment.amount } else { 0 };
        let body = json!({
            "payment_id": id, "merchant_id": "merchant_1", "status": payment.status, "amount": payment.amount,
            "net_amount": payment.amount, "currency": payment.currency, "amount_received": received,
            "client_secret": format!("{id}_secret_x"), "metadata": { "purpose": payment.purpose },
            "created": rfc3339(payment.created_s as i64 * 1_000_000),
            "setup_future_usage": payment.saved.then_some("off_session"),
            "payment_method_id": (payment.status == "succeeded").then(|| format!("pm_{id}")),
        });
        Some((200, body))
    }

    fn show_refund(&self, id: &str) -> Said {
        let refund = self.refunds.get(id)?;
        let currency = &self.payments[&refund.payment].currency;
        let body = json!({
            "refund_id": id, "payment_id": refund.payment, "amount": refund.amount, "currency": currency,
            "status": refund.status, "error_message": (refund.status == "failed").then_some("the bank said no"),
            "created_at": rfc3339(refund.created_s as i64 * 1_000_000),
        });
        Some((200, body))
    }

    fn stripe(&mut self, method: &str, parts: &[&str], query: &str, body: &str, nameless: bool) -> Said {
        let fields: BTreeMap<String, String> = (if method == "GET" { query } else { body })
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (decoded(name), decoded(value)))
            .collect();
        let field = |name: &str| fields.get(name).cloned().unwrap_or_default();
        let missing = || refusal(404, "invalid_request_error", "resource_missing", "No such transfer");
        match (method, parts) {
            ("POST", ["transfers"]) => {
                let amount: i64 = field("amount").parse().unwrap();
                let destination = field("destination");
                if self.closed.contains(&destination) {
                    return refusal(
                        400,
                        "invalid_request_error",
                        "transfers_not_allowed",
                        "Cannot create transfers to this account",
                    );
                }
                if self.poor || self.platform < amount {
                    return refusal(
                        400,
                        "invalid_request_error",
                        "balance_insufficient",
                        "You have insufficient funds in your Stripe account",
                    );
                }
                assert!(!field("metadata[op_id]").is_empty() && !field("transfer_group").is_empty());
                self.platform -= amount;
                *self.accounts.entry(destination.clone()).or_default() += amount;
                self.next += 1;
                let id = format!("tr_{:08}", self.next);
                let transfer = Transfer {
                    amount,
                    reversed: 0,
                    currency: field("currency"),
                    destination,
                    group: field("transfer_group"),
                    operation: field("metadata[op_id]"),
                };
                self.transfers.insert(id.clone(), transfer);
                let mut said = self.show_transfer(&id)?;
                if nameless {
                    said.1["id"] = Value::from("");
                }
                Some(said)
            }
            ("GET", ["transfers"]) => {
                let group = field("transfer_group");
                let ids: Vec<String> =
                    self.transfers.iter().filter(|(_, t)| t.group == group).map(|(id, _)| id.clone()).rev().collect();
                let data: Vec<Value> = ids.iter().filter_map(|id| Some(self.show_transfer(id)?.1)).collect();
                Some((200, json!({ "object": "list", "data": data, "has_more": false })))
            }
            ("GET", ["transfers", id]) if self.transfers.contains_key(*id) => self.show_transfer(id),
            ("POST", ["transfers", id, "reversals"]) if self.transfers.contains_key(*id) => {
                let amount: i64 = field("amount").parse().unwrap();
                self.reverse(id, amount)
            }
            _ => missing(),
        }
    }

    /// Some of a transfer comes back: by our request, or by somebody's hand.
    pub(super) fn reverse(&mut self, id: &str, amount: i64) -> Said {
        let transfer = self.transfers.get_mut(id)?;
        if amount > transfer.amount - transfer.reversed {
            return refusal(
                400,
                "invalid_request_error",
                "",
                "Reversal amount is greater than unreversed amount on transfer",
            );
        }
        let has = self.accounts.entry(transfer.destination.clone()).or_default();
        if *has < amount {
            return refusal(
                400,
                "invalid_request_error",
                "balance_insufficient",
                "Insufficient funds in the connected account",
            );
        }
        *has -= amount;
        transfer.reversed += amount;
        self.platform += amount;
        self.next += 1;
        let body = json!({ "id": format!("trr_{:08}", self.next), "object": "transfer_reversal", "amount": amount, "transfer": id });
        let event = json!({ "id": format!("evt_s{:08}", self.next), "type": "transfer.reversed",
            "data": { "object": { "object": "transfer", "id": id } } });
        self.events.push_back(event);
        Some((200, body))
    }

    fn show_transfer(&self, id: &str) -> Said {
        let transfer = self.transfers.get(id)?;
        let body = json!({
            "id": id, "object": "transfer", "amount": transfer.amount, "amount_reversed": transfer.reversed,
            "reversed": transfer.amount == transfer.reversed, "currency": transfer.currency,
            "destination": transfer.destination, "transfer_group": transfer.group,
            "metadata": { "op_id": transfer.operation },
        });
        Some((200, body))
    }

    /// The buyer does something with a payment, or the bank.
    pub(super) fn pay(&mut self, id: &str, status: &str) {
        let Some(payment) = self.payments.get_mut(id) else { return };
        let final_already = ["succeeded", "cancelled", "conflicted"].contains(&payment.status.as_str());
        if final_already {
            return;
        }
        payment.status = status.into();
        if status == "succeeded" {
            self.platform += payment.amount;
        }
        let event = match status {
            "succeeded" => "payment_succeeded",
            "failed" => "payment_failed",
            "expired" => "payment_expired",
            _ => "payment_processing",
        };
        self.tell_payment(id, event);
    }

    /// Whoever runs the provider looks at payments that are not what was asked for: their money was not taken.
    pub(super) fn correct(&mut self) {
        let conflicted = self.payments.values_mut().filter(|payment| payment.status == "conflicted");
        conflicted.for_each(|payment| payment.status = "processing".into());
    }

    /// The bank decides about a refund.
    pub(super) fn settle_refund(&mut self, id: &str, status: &str) {
        let Some(refund) = self.refunds.get_mut(id) else { return };
        if ["succeeded", "failed"].contains(&refund.status.as_str()) {
            return;
        }
        refund.status = status.into();
        if status == "succeeded" {
            self.platform -= refund.amount;
        }
        if status == "review" || status == "pending" {
            return; // there is no event for these
        }
        let object = self.show_refund(id).unwrap().1;
        self.tell(&format!("refund_{status}"), "refund_details", &object);
    }

    fn show_dispute(&self, id: &str) -> Said {
        let dispute = self.disputes.get(id)?;
        let body = json!({
            "dispute_id": id, "payment_id": dispute.payment, "attempt_id": format!("{}_1", dispute.payment),
            "amount": dispute.amount.to_string(), "currency": self.payments[&dispute.payment].currency,
            "dispute_stage": "dispute", "dispute_status": dispute.status, "connector": "stripe",
            "connector_status": "needs_response", "connector_dispute_id": format!("du_{id}"),
            "created_at": rfc3339(dispute.created_s as i64 * 1_000_000), "is_already_refunded": false,
        });
        Some((200, body))
    }

    /// A buyer goes to their bank.
    pub(super) fn dispute(&mut self, payment: &str, amount: i64) -> String {
        self.next += 1;
        let id = format!("dp_{:08}", self.next);
        let (status, payment) = ("dispute_opened".to_owned(), payment.to_owned());
        let dispute = Dispute { status, payment, amount, created_s: self.clock.unix_s() };
        self.disputes.insert(id.clone(), dispute);
        self.decide(&id, "opened");
        id
    }

    /// The bank says something about a dispute: `won` is ours.
    pub(super) fn decide(&mut self, id: &str, status: &str) {
        let Some(dispute) = self.disputes.get_mut(id) else { return };
        let gone = |status: &str| ["lost", "expired", "accepted"].contains(&status);
        let before = dispute.status.trim_start_matches("dispute_").to_owned();
        match (gone(&before), gone(status)) {
            (false, true) => self.platform -= dispute.amount,
            (true, false) => self.platform += dispute.amount,
            _ => {}
        }
        dispute.status = format!("dispute_{status}");
        let object = self.show_dispute(id).unwrap().1;
        self.tell(&format!("dispute_{status}"), "dispute_details", &object);
    }

    fn tell_payment(&mut self, id: &str, event: &str) {
        let object = self.show_payment(id).unwrap().1;
        self.tell(event, "payment_details", &object);
    }

    fn tell(&mut self, event: &str, kind: &str, object: &Value) {
        self.next += 1;
        let event = json!({
            "merchant_id": "merchant_1", "event_id": format!("evt_h{:08}", self.next), "event_type": event,
            "content": { "type": kind, "object": object }, "timestamp": rfc3339(self.clock.unix_us()),
        });
        self.events.push_back(event);
    }
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

/// The signature of a webhook of Hyperswitch.
pub(super) fn signed_512(body: &str, secret: &str) -> String {
    let mut mac = Hmac::<Sha512>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(body.as_bytes());
    hex::encode(&mac.finalize().into_bytes())
}

/// The signature of a webhook of Stripe.
pub(super) fn signed_256(body: &str, secret: &str, now_s: u64) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(format!("{now_s}.{body}").as_bytes());
    format!("t={now_s},v1={}", hex::encode(&mac.finalize().into_bytes()))
}

/// The world, shared by whoever asks it.
#[derive(Clone, Debug)]
pub(super) struct Shared(pub(super) Arc<Mutex<World>>);

impl Shared {
    pub(super) fn new(clock: Clock) -> Shared {
        Shared(Arc::new(Mutex::new(World::new(clock))))
    }

    pub(super) fn with<T>(&self, work: impl FnOnce(&mut World) -> T) -> T {
        work(&mut self.0.lock().unwrap())
    }

    /// Clients that ask it without a network; a simulation may end before and after a request is taken.
    pub(super) fn clients(&self) -> (Hyperswitch, Stripe) {
        self.clients_at("http://providers.test", Arc::new(self.clone()))
    }

    pub(super) fn clients_at(&self, url: &str, transport: Arc<dyn Transport>) -> (Hyperswitch, Stripe) {
        let account = |key: &str| Account { url: url.into(), key: Secret::new(key.as_bytes()) };
        (
            Hyperswitch::new(account(HYPERSWITCH_KEY), None, transport.clone()),
            Stripe::new(account(STRIPE_KEY), transport),
        )
    }

    /// Answers on loopback, until the test process ends.
    pub(super) fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let world = self.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let world = world.clone();
                std::thread::spawn(move || serve(client, &world));
            }
        });
        url
    }
}

impl Transport for Shared {
    fn send(&self, request: Request<Bytes>) -> Sent<'_> {
        Box::pin(async move {
            crash::point().await;
            let (head, body) = request.into_parts();
            let target = head.uri.path_and_query().unwrap().as_str();
            let body = std::str::from_utf8(&body).unwrap();
            let said = self.with(|world| world.handle(head.method.as_str(), target, &head.headers, body));
            crash::point().await;
            let (status, body) = said.ok_or_else(|| Error::new(Kind::Unavailable, "no answer within 20 s"))?;
            let status = StatusCode::from_u16(status).unwrap();
            Ok(Answer { status, headers: HeaderMap::new(), body: Bytes::from(body.to_string()) })
        })
    }
}

fn serve(mut client: TcpStream, world: &Shared) {
    let mut read = Vec::new();
    let mut chunk = [0; 4096];
    let (head, mut body) = loop {
        match client.read(&mut chunk) {
            Ok(0) | Err(_) => return,
            Ok(bytes) => read.extend_from_slice(&chunk[..bytes]),
        }
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            break (String::from_utf8(read[..end].to_vec()).unwrap(), read[end + 4..].to_vec());
        }
    };
    let mut lines = head.lines();
    let mut words = lines.next().unwrap().split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let mut headers = HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        headers.insert(hyper::header::HeaderName::try_from(name).unwrap(), value.parse().unwrap());
    }
    let length: usize = headers.get("content-length").map_or(0, |value| value.to_str().unwrap().parse().unwrap());
    while body.len() < length {
        match client.read(&mut chunk) {
            Ok(0) | Err(_) => return,
            Ok(bytes) => body.extend_from_slice(&chunk[..bytes]),
        }
    }
    let said = world.with(|world| world.handle(method, target, &headers, std::str::from_utf8(&body).unwrap()));
    let Some((status, body)) = said else { return }; // the connection just ends
    let body = body.to_string();
    let head =
        format!("HTTP/1.1 {status} Said\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
    let _ = client.write_all(format!("{head}{body}").as_bytes());
}
