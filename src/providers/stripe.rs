//! Stripe Connect, API v1: transfers to sellers and their reversals. Every request that changes something carries an
//! idempotency key that was stored before, and `metadata[op_id]`, by which a look finds what nobody heard of.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use hyper::{Method, Request, StatusCode, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::Value;
use sha2::Sha256;

use super::wire::{Account, Answer, Fault, Transport, agent, is_name, json};
use crate::base::hex;
use crate::base::secret::Secret;
use crate::ledger::Amount;

/// How old a signature may be, in seconds: Stripe's own tolerance.
const TOLERANCE_S: u64 = 300;
/// Pages of a hundred transfers that one look reads at most; an order has twenty sellers.
const PAGES_MAX: usize = 5;
/// What stands for itself in a form (WHATWG URL, application/x-www-form-urlencoded).
const FORM: &AsciiSet = &NON_ALPHANUMERIC.remove(b'*').remove(b'-').remove(b'.').remove(b'_');

/// The API.
#[derive(Clone, Debug)]
pub struct Stripe {
    account: Account,
    transport: Arc<dyn Transport>,
}

/// A transfer to ask for.
#[derive(Clone, Copy, Debug)]
pub struct NewTransfer<'a> {
    /// Our id of it: what a look looks for.
    pub operation: &'a str,
    /// Stored before.
    pub key: &'a str,
    /// How much.
    pub amount: Amount,
    /// A connected account.
    pub destination: &'a str,
    /// Our order.
    pub order: &'a str,
}

/// A transfer as Stripe has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Its id; may be empty, which is no success.
    pub id: String,
    /// In minor units.
    pub amount_minor: i64,
    /// In minor units.
    pub reversed_minor: i64,
    /// In capitals.
    pub currency: String,
    /// Our id of it, when it is one of ours.
    pub operation: Option<String>,
}

impl Stripe {
    /// Of this account.
    pub fn new(account: Account, transport: Arc<dyn Transport>) -> Stripe {
        Stripe { account, transport }
    }

    /// Asks for a transfer.
    ///
    /// # Errors
    /// As every request; `Refused` and `Insufficient` are answers that the same key would get again.
    pub async fn create_transfer(&self, new: NewTransfer<'_>) -> Result<Transfer, Fault> {
        let form = form(&[
            ("amount", &(new.amount.minor() * scale(new.amount.currency().code())).to_string()),
            ("currency", &new.amount.currency().code().to_lowercase()),
            ("destination", new.destination),
            ("transfer_group", &group(new.order)),
            ("metadata[op_id]", new.operation),
        ]);
        decode(&self.call(Method::POST, "/v1/transfers", Some(form), Some(new.key)).await?)
    }

    /// The transfer that was asked for as `operation`; `None`: there is none.
    ///
    /// # Errors
    /// As every request; also when there are too many to be sure.
    pub async fn find_transfer(&self, order: &str, operation: &str) -> Result<Option<Transfer>, Fault> {
        #[derive(Deserialize)]
        struct Page {
            data: Vec<Raw>,
            #[serde(default)]
            has_more: bool,
        }
        let base = format!("/v1/transfers?limit=100&transfer_group={}", encoded(&group(order)));
        let mut path = base.clone();
        for _ in 0..PAGES_MAX {
            let page: Page = json(&self.call(Method::GET, &path, None, None).await?)?;
            let last = page.data.last().map(|raw| raw.id.clone());
            let found = page.data.into_iter().map(Transfer::from).find(|t| t.operation.as_deref() == Some(operation));
            match (found, last) {
                (Some(found), _) => return Ok(Some(found)),
                (None, Some(last)) if page.has_more => path = format!("{base}&starting_after={}", encoded(&last)),
                (None, _) => return Ok(None),
            }
        }
        Err(Fault::Silence(format!("{order} has more than {PAGES_MAX} pages of transfers")))
    }

    /// A transfer as it stands.
    ///
    /// # Errors
    /// `Missing` when there is none.
    pub async fn transfer(&self, id: &str) -> Result<Transfer, Fault> {
        decode(&self.call(Method::GET, &format!("/v1/transfers/{}", encoded(id)), None, None).await?)
    }

    /// Has so much of a transfer come back. What it answers is not read: look at the transfer.
    ///
    /// # Errors
    /// As every request. Stripe has no code for "came back before": that is `Refused`, and a look tells.
    pub async fn reverse(&self, id: &str, amount: Amount, operation: &str, key: &str) -> Result<(), Fault> {
        let minor = amount.minor() * scale(amount.currency().code());
        let form = form(&[("amount", &minor.to_string()), ("metadata[op_id]", operation)]);
        let path = format!("/v1/transfers/{}/reversals", encoded(id));
        self.call(Method::POST, &path, Some(form), Some(key)).await.map(drop)
    }

    async fn call(&self, method: Method, path: &str, form: Option<String>, key: Option<&str>) -> Result<Answer, Fault> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.account.url))
            .header(header::AUTHORIZATION, self.account.key("Bearer "))
            .header(header::USER_AGENT, agent())
            .header(header::ACCEPT, "application/json");
        if form.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key); // bare: Stripe knows no quotes
        }
        let request = request
            .body(form.map_or_else(Bytes::new, Bytes::from))
            .map_err(|cause| Fault::Refused(format!("the request cannot be made: {cause}")))?;
        let answer = self.transport.send(request).await.map_err(|error| Fault::Silence(error.chain()))?;
        match answer.status.is_success() {
            true => Ok(answer),
            false => Err(fault(&answer)),
        }
    }
}

/// How many of Stripe's units one minor unit of ISO 4217 is: it writes these with two decimals that are always 00
/// (<https://docs.stripe.com/currencies#special-cases>).
fn scale(currency: &str) -> i64 {
    if matches!(currency, "ISK" | "UGX") { 100 } else { 1 }
}

fn group(order: &str) -> String {
    format!("order_{order}")
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    id: String,
    amount: i64,
    #[serde(default)]
    amount_reversed: i64,
    currency: String,
    #[serde(default)]
    metadata: Value,
}

impl From<Raw> for Transfer {
    fn from(raw: Raw) -> Transfer {
        let currency = raw.currency.to_uppercase();
        let scale = scale(&currency);
        // What is no whole number of ours is not what we asked for: it stays as it is, and is seen to differ.
        let ours = |theirs: i64| if theirs % scale == 0 { theirs / scale } else { theirs };
        Transfer {
            id: raw.id,
            amount_minor: ours(raw.amount),
            reversed_minor: ours(raw.amount_reversed),
            currency,
            operation: raw.metadata["op_id"].as_str().map(str::to_owned),
        }
    }
}

fn decode(answer: &Answer) -> Result<Transfer, Fault> {
    json::<Raw>(answer).map(Transfer::from)
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, FORM).to_string()
}

fn form(fields: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in fields {
        let _ = write!(text, "{}{}={}", if text.is_empty() { "" } else { "&" }, encoded(name), encoded(value));
    }
    text
}

fn fault(answer: &Answer) -> Fault {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let error = &body["error"];
    let text = |name: &str| error[name].as_str().unwrap_or_default();
    let (kind, code) = (text("type"), text("code"));
    let why = format!("{} {kind} {code} {}", answer.status.as_u16(), text("message"));
    match answer.status {
        _ if matches!(code, "idempotency_key_in_use" | "lock_timeout") => Fault::Busy(why),
        // The key was used for something else: a saved answer that is not ours. Look, then take another key.
        _ if kind == "idempotency_error" => Fault::Failed(why),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::CONFLICT => Fault::Busy(why),
        status if status.is_server_error() => Fault::Failed(why),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Fault::Locked(why),
        StatusCode::NOT_FOUND if code == "resource_missing" => Fault::Missing,
        _ if matches!(code, "balance_insufficient" | "insufficient_funds") => Fault::Insufficient(why),
        status if status.is_client_error() && !kind.is_empty() => Fault::Refused(why),
        _ => Fault::Silence(why),
    }
}

/// Whether a webhook is from Stripe: HMAC-SHA256 over the time, a point and exactly the bytes of the body, by any of the
/// secrets (two live side by side while one is replaced), and not older than five minutes.
pub fn is_signed(body: &[u8], signature: Option<&str>, secrets: &[Secret], now_s: i64) -> bool {
    let Some(signature) = signature else { return false };
    let fields: Vec<(&str, &str)> = signature.split(',').filter_map(|field| field.trim().split_once('=')).collect();
    let Some((_, time)) = fields.iter().find(|(name, _)| *name == "t") else { return false };
    let Ok(at_s) = time.parse::<i64>() else { return false };
    if now_s.abs_diff(at_s) > TOLERANCE_S {
        return false;
    }
    let ours = |secret: &&Secret| {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose()).expect("HMAC takes keys of any length");
        mac.update(time.as_bytes());
        mac.update(b".");
        mac.update(body);
        fields
            .iter()
            .filter(|(name, _)| *name == "v1")
            .filter_map(|(_, hash)| hex::decode::<32>(hash.as_bytes()))
            .any(|hash| mac.clone().verify_slice(&hash).is_ok())
    };
    secrets.iter().any(|secret| ours(&secret))
}

/// What a webhook is about: (event id, type, transfer).
pub fn read_event(body: &[u8]) -> Option<(Option<String>, Option<String>, Option<String>)> {
    let value: Value = serde_json::from_slice(body).ok().filter(Value::is_object)?;
    let text = |value: &Value| value.as_str().filter(|text| is_name(text)).map(str::to_owned);
    let object = &value["data"]["object"];
    let transfer = match object["object"].as_str() {
        Some("transfer") => text(&object["id"]),
        Some("transfer_reversal") => text(&object["transfer"]),
        _ => None,
    };
    Some((text(&value["id"]), text(&value["type"]), transfer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::HeaderMap;
    use serde_json::json;

    #[test]
    fn every_refusal_is_told_from_every_silence() {
        let check = |status: u16, kind: &str, code: &str, expected: fn(&Fault) -> bool| {
            let body = json!({ "error": { "type": kind, "code": code, "message": "m" } });
            let body = Bytes::from(body.to_string());
            let answer = Answer { status: StatusCode::from_u16(status).unwrap(), headers: HeaderMap::new(), body };
            let fault = fault(&answer);
            assert!(expected(&fault), "{status} {kind} {code}: {fault:?}");
        };
        check(404, "invalid_request_error", "resource_missing", |f| *f == Fault::Missing);
        check(409, "idempotency_error", "idempotency_key_in_use", |f| matches!(f, Fault::Busy(_)));
        check(400, "idempotency_error", "", |f| matches!(f, Fault::Failed(_)));
        check(409, "idempotency_error", "", |f| matches!(f, Fault::Failed(_)));
        check(429, "invalid_request_error", "lock_timeout", |f| matches!(f, Fault::Busy(_)));
        check(429, "", "", |f| matches!(f, Fault::Busy(_)));
        check(400, "invalid_request_error", "balance_insufficient", |f| matches!(f, Fault::Insufficient(_)));
        check(400, "invalid_request_error", "transfers_not_allowed", |f| matches!(f, Fault::Refused(_)));
        check(400, "invalid_request_error", "", |f| matches!(f, Fault::Refused(_)));
        check(401, "invalid_request_error", "api_key_expired", |f| matches!(f, Fault::Locked(_)));
        check(500, "api_error", "", |f| matches!(f, Fault::Failed(_)));
        check(404, "", "", |f| matches!(f, Fault::Silence(_)));
        check(302, "", "", |f| matches!(f, Fault::Silence(_)));
    }

    #[test]
    fn only_stripes_own_bytes_of_these_minutes_are_signed() {
        let (old, new) = (Secret::new(*b"whsec_old"), Secret::new(*b"whsec_new"));
        let sign = |secret: &Secret, t: i64, body: &str| {
            let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose()).unwrap();
            mac.update(format!("{t}.{body}").as_bytes());
            hex::encode(&mac.finalize().into_bytes())
        };
        let header = format!("t=1000,v1={},v1={},v0=00", sign(&old, 1000, "{}"), "11".repeat(32));
        let check = |body: &str, header: Option<&str>, secrets: &[Secret], now_s| {
            is_signed(body.as_bytes(), header, secrets, now_s)
        };
        assert!(check("{}", Some(&header), &[new.clone(), old.clone()], 1000));
        assert!(check("{}", Some(&header), std::slice::from_ref(&old), 1300));
        assert!(!check("{}", Some(&header), std::slice::from_ref(&old), 1301), "too old");
        assert!(!check("{ }", Some(&header), std::slice::from_ref(&old), 1000));
        assert!(!check("{}", Some(&header), std::slice::from_ref(&new), 1000));
        assert!(!check("{}", Some(&header.replace("v1=", "v0=")), std::slice::from_ref(&old), 1000));
        let longest_ago = format!("t={},v1=00", i64::MIN);
        for none in [None, Some(""), Some("t=x,v1=00"), Some("v1=00"), Some(&longest_ago)] {
            assert!(!check("{}", none, std::slice::from_ref(&old), 1000), "{none:?}");
        }
        assert!(!check("{}", Some(&header), &[], 1000));
    }

    #[test]
    fn forms_and_events_are_as_documented() {
        assert_eq!(form(&[("metadata[op_id]", "trf_1"), ("d", "a b&c")]), "metadata%5Bop_id%5D=trf_1&d=a%20b%26c");
        let event = read_event(
            br#"{"id":"evt_1","type":"transfer.reversed","data":{"object":{"object":"transfer","id":"tr_1"}}}"#,
        );
        assert_eq!(event, Some((Some("evt_1".into()), Some("transfer.reversed".into()), Some("tr_1".into()))));
        assert_eq!(read_event(b"x"), None);
    }

    #[test]
    fn what_stripe_writes_with_decimals_that_we_do_not_have_is_scaled_both_ways() {
        assert_eq!(["USD", "JPY", "KWD", "ISK", "UGX"].map(scale), [1, 1, 1, 100, 100]);
        let ours = |amount, amount_reversed, currency: &str| {
            let (id, currency, metadata) = ("tr_1".into(), currency.into(), Value::Null);
            let found = Transfer::from(Raw { id, amount, amount_reversed, currency, metadata });
            (found.amount_minor, found.reversed_minor)
        };
        assert_eq!(ours(90_000, 10_000, "isk"), (900, 100));
        assert_eq!(ours(90_000, 10_000, "jpy"), (90_000, 10_000));
        assert_eq!(ours(90_001, 0, "isk"), (90_001, 0), "no whole krónur: seen to differ");
    }
}
