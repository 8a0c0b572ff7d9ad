//! The flows of money between our rows and the providers. In: what somebody asks for, what a webhook or a clock says is
//! worth a look. Out: rows moved by `db`, each with its journal.
//!
//! ```text
//! request ─▶ stored, id and all ─▶ provider ─▶ what it answers is a hint
//! webhook ─▶ stored ─▶ 200                      │
//!    └────────▶ processed ─▶ the object is read again ─▶ applied: status + journal + licences, one transaction
//! sweep ─────────────────────▲
//! ```
//! Whatever is lost on the way, the next look finds it: nothing is concluded from silence.

pub mod checkout;
pub mod disputing;
pub mod payout;
pub mod refunding;
pub mod renewing;
pub mod sweep;
pub mod webhook;
pub mod worker;

use std::time::Duration;

use crate::base::clock::Clock;
use crate::base::secret::Secret;
use crate::base::{Error, Kind, Result};
use crate::db::Db;
use crate::db::health::{Health, Since};
use crate::db::subscriptions::{OPEN_MAX_US, Plan};
use crate::jobs::backoff::Backoff;
use crate::ledger::order::Terms;
use crate::providers::hyperswitch::Hyperswitch;
use crate::providers::stripe::Stripe;

/// What the flows need.
#[derive(Clone, Debug)]
pub struct Payments {
    /// Where everything is.
    pub db: Db,
    /// Who takes money from buyers; `None`: nothing can be bought.
    pub hyperswitch: Option<Hyperswitch>,
    /// Who brings money to sellers; `None`: nobody is paid.
    pub stripe: Option<Stripe>,
    /// How.
    pub options: Options,
    /// When.
    pub clock: Clock,
}

/// How the flows go.
#[derive(Clone, Debug)]
pub struct Options {
    /// How prices are split.
    pub terms: Terms,
    /// Days after the payment in which an order may be refunded.
    pub refund_days: i64,
    /// How long a seller's share is kept after the payment.
    pub transfer_delay: Duration,
    /// Where a buyer goes after paying.
    pub return_url: Option<String>,
    /// What can be subscribed to.
    pub plans: Vec<Plan>,
    /// What Hyperswitch signs its webhooks with.
    pub hyperswitch_secret: Option<Secret>,
    /// What Stripe signs its webhooks with: at most two.
    pub stripe_secrets: Vec<Secret>,
    /// Pauses between tries of a transfer or a reversal.
    pub backoff: Backoff,
    /// How often everything that is open is looked at.
    pub sweep_every: Duration,
}

/// 1 min × 2ⁿ, at most 1 h (control.md §4).
pub const BACKOFF: Backoff = Backoff { first: Duration::from_secs(60), most: Duration::from_secs(3600) };

impl Payments {
    fn now_us(&self) -> i64 {
        self.clock.unix_us()
    }

    fn hyperswitch(&self) -> Result<&Hyperswitch> {
        self.hyperswitch.as_ref().ok_or_else(|| Error::new(Kind::Unavailable, "payments are not configured"))
    }

    fn stripe(&self) -> Result<&Stripe> {
        self.stripe.as_ref().ok_or_else(|| Error::new(Kind::Unavailable, "transfers are not configured"))
    }

    /// How the money stands.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn health(&self) -> Result<Health> {
        // A sweep has had its chance.
        let swept_us = self.now_us() - self.options.sweep_every.as_micros() as i64;
        let since = Since {
            payments_us: swept_us - checkout::OPEN_US,
            refunds_us: swept_us - refunding::OPEN_US,
            orphans_us: self.now_us() - refunding::ORPHAN_US,
            invoices_us: swept_us - OPEN_MAX_US,
        };
        self.db.money_health(since).await
    }

    fn delay_us(&self) -> i64 {
        i64::try_from(self.options.transfer_delay.as_micros()).unwrap_or(i64::MAX)
    }
}
