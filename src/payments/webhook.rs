//! What providers tell us. A delivery is stored as it came and acknowledged; then it is processed from the table, by
//! reading again what it is about. So one that is forged, late, doubled or out of order costs a read and nothing else.

use std::time::Duration;

use metrics::counter;
use tracing::Instrument as _;
use tracing::field::Empty;

use super::Payments;
use crate::base::{Result, telemetry};
use crate::db::orders::Applied;
use crate::db::webhooks::{Delivery, Incoming, Outcome};
use crate::jobs::backoff::Backoff;
use crate::ledger::refund::RefundId;
use crate::providers::{hyperswitch, stripe};

/// Deliveries that one pass takes.
const PASS: u32 = 50;
/// How long a pass may keep them, in microseconds.
const KEEP_US: i64 = 5 * 60 * 1_000_000;
/// 10 s, doubled up to 10 min: eight tries are half an hour; then the sweeps have it.
const BACKOFF: Backoff = Backoff { first: Duration::from_secs(10), most: Duration::from_secs(600) };

/// What is kept of a delivery that is not from the provider, in bytes: enough to see what somebody tried.
const UNSIGNED_BYTES_MAX: usize = 4096;

/// Who is said to have sent a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// Payments and refunds.
    Hyperswitch,
    /// Transfers.
    Stripe,
}

impl Sender {
    /// As rows and spans have it.
    fn name(self) -> &'static str {
        match self {
            Sender::Hyperswitch => "hyperswitch",
            Sender::Stripe => "stripe",
        }
    }
}

/// A delivery as it came in.
#[derive(Clone, Copy, Debug)]
pub struct Envelope<'a> {
    /// By its address.
    pub sender: Sender,
    /// Its signature header.
    pub signature: Option<&'a str>,
    /// Its body, to the byte.
    pub body: &'a [u8],
    /// From where it came.
    pub source_ip: Option<&'a str>,
    /// Who sent it, in their words.
    pub user_agent: Option<&'a str>,
    /// Of the request that carried it.
    pub request_id: &'a str,
}

/// What came of a delivery at the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// It is from the provider, and will be processed.
    Accepted,
    /// It is not, or nobody can tell.
    Unsigned,
    /// It is from the provider, and about nothing that could be looked at.
    Malformed,
}

impl Payments {
    /// Takes a delivery: logs it, whoever sent it, and says whether it is to be acknowledged.
    ///
    /// # Errors
    /// When an unsigned one cannot be logged. A valid one that cannot is processed at once, and the sweeps find what it
    /// was about in any case.
    pub async fn receive(&self, envelope: Envelope<'_>) -> Result<Received> {
        // Of what it carries nothing: bodies have names and addresses of buyers.
        let span = tracing::info_span!("webhook", provider = envelope.sender.name(), result = Empty);
        self.take(envelope).instrument(span).await
    }

    async fn take(&self, envelope: Envelope<'_>) -> Result<Received> {
        let (options, now_us) = (&self.options, self.now_us());
        let provider = envelope.sender.name();
        let valid = match envelope.sender {
            Sender::Hyperswitch => {
                let by = |secret| hyperswitch::is_signed(envelope.body, envelope.signature, secret);
                options.hyperswitch_secret.as_ref().is_some_and(by)
            }
            Sender::Stripe => {
                let now_s = now_us / 1_000_000;
                stripe::is_signed(envelope.body, envelope.signature, &options.stripe_secrets, now_s)
            }
        };
        // Of a stranger's body nothing is read.
        let (event_id, event_type, whole) = match (valid, envelope.sender) {
            (false, _) => (None, None, false),
            (true, Sender::Hyperswitch) => {
                let event = hyperswitch::Event::read(envelope.body);
                let whole = event.as_ref().is_some_and(hyperswitch::Event::is_whole);
                let event = event.unwrap_or_default();
                (event.id, event.kind, whole)
            }
            (true, Sender::Stripe) => {
                let event = stripe::read_event(envelope.body);
                let whole = event.is_some();
                let (id, kind, _) = event.unwrap_or_default();
                (id, kind, whole)
            }
        };
        let kept = if valid { envelope.body } else { &envelope.body[..envelope.body.len().min(UNSIGNED_BYTES_MAX)] };
        let payload = String::from_utf8_lossy(kept).replace('\0', "\u{fffd}");
        let incoming = Incoming {
            provider,
            event_id: event_id.as_deref(),
            event_type: event_type.as_deref(),
            payload: &payload,
            signature_valid: valid,
            source_ip: envelope.source_ip,
            user_agent: envelope.user_agent,
            request_id: envelope.request_id,
        };
        match self.db.store_webhook(&incoming, now_us).await {
            Ok(_) => {}
            Err(error) if valid => {
                tracing::error!(
                    error = error.chain(),
                    provider,
                    "a webhook could not be logged; it is processed at once"
                );
                let (payments, provider, kind) = (self.clone(), provider.to_owned(), event_type);
                // Not joined: the sweeps notice when it dies.
                tokio::spawn(async move { payments.process(&provider, kind.as_deref(), &payload).await });
            }
            Err(error) => return Err(error),
        }
        let (received, result) = match (valid, whole) {
            (false, _) => (Received::Unsigned, "unsigned"),
            (true, false) => (Received::Malformed, "malformed"),
            (true, true) => (Received::Accepted, "accepted"),
        };
        counter!(telemetry::WEBHOOKS, "result" => result).increment(1);
        tracing::Span::current().record("result", result);
        Ok(received)
    }

    /// Processes deliveries that wait. Returns how many there were.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn process_webhooks(&self) -> Result<usize> {
        let now_us = self.now_us();
        let taken = self.db.take_webhooks(PASS, now_us, now_us + KEEP_US).await?;
        for delivery in &taken {
            let (provider, kind) = (&delivery.provider, delivery.event_type.as_deref());
            let span = tracing::info_span!("process_webhook", delivery = delivery.id, provider, kind);
            let outcome = self.process(provider, kind, &delivery.payload).instrument(span).await;
            if let Outcome::Failed(why) = &outcome {
                tracing::warn!(delivery = delivery.id, why, "a webhook could not be processed yet");
            }
            self.settle(delivery, &outcome).await?;
        }
        Ok(taken.len())
    }

    async fn settle(&self, delivery: &Delivery, outcome: &Outcome) -> Result<()> {
        self.db.settle_webhook(delivery, outcome, BACKOFF, self.now_us()).await
    }

    /// Reads again what an event is about.
    pub async fn process(&self, provider: &str, kind: Option<&str>, payload: &str) -> Outcome {
        let done = match provider {
            "hyperswitch" => self.of_hyperswitch(kind.unwrap_or_default(), payload).await,
            _ => self.of_stripe(payload).await,
        };
        match done {
            Ok(true) => Outcome::Ok,
            Ok(false) => Outcome::Skipped,
            Err(error) => Outcome::Failed(error.chain()),
        }
    }

    async fn of_hyperswitch(&self, kind: &str, payload: &str) -> Result<bool> {
        let event = hyperswitch::Event::read(payload.as_bytes()).unwrap_or_default();
        // A dispute and a refund name their payment too.
        if let Some(id) = event.dispute.as_deref() {
            counter!(telemetry::DISPUTES).increment(1);
            let applied = self.look_at_dispute(id).await?;
            if applied == Applied::Unknown {
                tracing::warn!(dispute = id, kind, "a webhook is about a dispute of a payment that is not ours");
            }
            return Ok(applied != Applied::Unknown);
        }
        if let Some(id) = event.refund.as_deref() {
            let Some(id) = RefundId::decode(id) else { return Ok(false) };
            let applied = self.look_at_refund(&id).await?;
            if applied == Applied::Unknown {
                tracing::warn!(refund = id.as_str(), "a webhook is about a refund that is not ours");
            }
            return Ok(applied != Applied::Unknown);
        }
        let Some(id) = event.payment.as_deref() else { return Ok(false) };
        let applied = self.look_at_payment(id).await?;
        if applied == Applied::Unknown {
            tracing::warn!(payment = id, "a webhook is about a payment that is not ours");
        }
        Ok(applied != Applied::Unknown)
    }

    async fn of_stripe(&self, payload: &str) -> Result<bool> {
        let Some((_, _, Some(transfer))) = stripe::read_event(payload.as_bytes()) else { return Ok(false) };
        self.look_at_transfer(&transfer).await
    }
}
