//! Subscriptions: how they move, what an invoice books, and whom a feature lets in.

use super::account::words;
use super::amount::Amount;
use super::chart::{self, Booking, Entry};
use crate::base::Result;
use crate::base::id::sortable_id;

sortable_id!(
    /// The id of a subscription; its first payment has it too, with exactly the 30 characters that the provider allows.
    SubscriptionId, "sub_", "subscription id", ""
);

/// Where a subscription stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The first invoice is not paid.
    PendingPayment,
    /// Before the first payment, for a while.
    Trialing,
    /// In force.
    Active,
    /// It ended, or was never paid.
    Expired,
    /// Its subscriber ended it.
    Cancelled,
}
words!(Status {
    PendingPayment = "pending_payment",
    Trialing = "trialing",
    Active = "active",
    Expired = "expired",
    Cancelled = "cancelled",
});

impl Status {
    /// Whether a subscription may go from here to there. One that ended stays so, even when its invoice is paid late.
    pub fn may_become(self, to: Status) -> bool {
        use Status::{Active, Cancelled, Expired, PendingPayment, Trialing};
        matches!(
            (self, to),
            (PendingPayment, Active | Expired | Cancelled)
                | (Trialing, Expired | Cancelled)
                | (Active, Expired | Cancelled)
        )
    }
}

/// Where an invoice stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvoiceStatus {
    /// Not paid yet.
    Open,
    /// Paid.
    Paid,
    /// Its payment failed; it may still be paid.
    Failed,
}
words!(InvoiceStatus { Open = "open", Paid = "paid", Failed = "failed" });

impl InvoiceStatus {
    /// Whether an invoice may go from here to there.
    pub fn may_become(self, to: InvoiceStatus) -> bool {
        use InvoiceStatus::{Failed, Open, Paid};
        matches!((self, to), (Open, Paid | Failed) | (Failed, Paid))
    }
}

/// A subscription as far as its features are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Where it stands.
    pub status: Status,
    /// The plan costs nothing.
    pub free: bool,
    /// Until when the trial lasts, in microseconds since 1970; `None`: there is none.
    pub trial_until_us: Option<i64>,
    /// Until when it is in force; `None`: without end.
    pub ends_us: Option<i64>,
    /// There is a paid invoice with a payment of the provider.
    pub paid: bool,
}

/// Whom a feature lets in, and what to tell the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Come in.
    Open,
    /// Complete the payment first.
    CompletePayment,
    /// Upgrade the plan.
    Upgrade,
}

/// Whether subscriptions open a feature at `now_us`: active or trialing alone are not enough, somebody has to have paid.
pub fn gate(standings: &[Standing], now_us: i64) -> Gate {
    let effective = |s: &Standing| match s.status {
        Status::Trialing => s.trial_until_us.is_some_and(|until_us| now_us < until_us),
        Status::Active => (s.free || s.paid) && s.ends_us.is_none_or(|ends_us| now_us < ends_us),
        Status::PendingPayment | Status::Expired | Status::Cancelled => false,
    };
    if standings.iter().any(effective) {
        return Gate::Open;
    }
    match standings.iter().any(|s| s.status == Status::PendingPayment) {
        true => Gate::CompletePayment,
        false => Gate::Upgrade,
    }
}

/// Payments that are asked for to renew a subscription for one period.
pub const RENEWAL_TRIES: i64 = 3;
/// A day in microseconds.
const DAY_US: i64 = 86_400_000_000;

/// When a payment for the next period is asked for, after so many that were: three days before the period ends, or a
/// quarter of it where that is less; then again after each third of that time, so that whoever is told of a payment that
/// failed still has the rest. `None`: no more are.
pub fn renewal_at(ends_us: i64, period_days: i64, tries: i64) -> Option<i64> {
    let lead_us = (3 * DAY_US).min(period_days.saturating_mul(DAY_US) / 4);
    (0..RENEWAL_TRIES).contains(&tries).then(|| ends_us.saturating_sub(lead_us) + lead_us / RENEWAL_TRIES * tries)
}

/// An invoice that was paid, with this much tax in its amount.
///
/// # Errors
/// `Invalid` for more tax than amount.
pub fn invoice_paid(payment: &str, amount: Amount, tax_minor: i64, now_us: i64) -> Result<Booking> {
    let currency = amount.currency();
    Entry::new(&format!("invoice:{payment}"), "invoice", &format!("hs:{payment}:succeeded"), now_us, currency)?
        .debit(chart::clearing(currency), amount.minor())
        .credit(chart::subscriptions(currency), amount.minor() - tax_minor)
        .credit(chart::tax(currency), tax_minor)
        .balance()
}

#[cfg(test)]
mod tests {
    use super::super::chart::tests::{usd, written};
    use super::*;

    #[test]
    fn an_invoice_is_income_and_tax() {
        let booking = |minor, tax_minor| {
            written(&invoice_paid("sub_1", Amount::new(minor, usd()).unwrap(), tax_minor, 1).unwrap())
        };
        assert_eq!(booking(1190, 190), "psp:clearing 1190 | platform:subscriptions 1000, platform:tax 190");
        assert_eq!(booking(5, 0), "psp:clearing 5 | platform:subscriptions 5");
    }

    #[test]
    fn a_renewal_is_tried_three_times_before_the_end() {
        let days = |period, tries| renewal_at(100 * DAY_US, period, tries).map(|at| at as f64 / DAY_US as f64);
        assert_eq!([0, 1, 2, 3].map(|tries| days(30, tries)), [Some(97.0), Some(98.0), Some(99.0), None]);
        assert_eq!([0, 1, 2].map(|tries| days(6, tries)), [Some(98.5), Some(99.0), Some(99.5)]);
        assert_eq!(days(30, -1), None);
    }

    #[test]
    fn only_what_is_paid_opens_a_feature() {
        use Status::{Active, Cancelled, Expired, PendingPayment, Trialing};
        let standing = |status| Standing { status, free: false, trial_until_us: None, ends_us: None, paid: false };
        let check = |standings: &[Standing], expected| assert_eq!(gate(standings, 100), expected, "{standings:?}");
        check(&[], Gate::Upgrade);
        check(&[standing(Active)], Gate::Upgrade);
        check(&[Standing { paid: true, ..standing(Active) }], Gate::Open);
        check(&[Standing { free: true, ..standing(Active) }], Gate::Open);
        check(&[Standing { paid: true, ends_us: Some(100), ..standing(Active) }], Gate::Upgrade);
        check(&[Standing { paid: true, ends_us: Some(101), ..standing(Active) }], Gate::Open);
        check(&[Standing { trial_until_us: Some(101), ..standing(Trialing) }], Gate::Open);
        check(&[Standing { trial_until_us: Some(100), ..standing(Trialing) }], Gate::Upgrade);
        check(&[standing(Trialing)], Gate::Upgrade);
        check(&[Standing { paid: true, free: true, ..standing(PendingPayment) }], Gate::CompletePayment);
        check(&[standing(Expired), standing(PendingPayment)], Gate::CompletePayment);
        check(&[Standing { paid: true, ..standing(Cancelled) }, standing(Expired)], Gate::Upgrade);
        check(&[standing(PendingPayment), Standing { free: true, ..standing(Active) }], Gate::Open);
    }

    #[test]
    fn only_pending_payments_become_active() {
        for from in Status::ALL {
            assert_eq!(from.may_become(Status::Active), *from == Status::PendingPayment, "{from:?}");
            assert!(!from.may_become(Status::PendingPayment) && !from.may_become(Status::Trialing));
        }
        for (from, to) in [("paid", "failed"), ("paid", "open"), ("failed", "open"), ("paid", "paid")] {
            let of = |text| InvoiceStatus::decode(text).unwrap();
            assert!(!of(from).may_become(of(to)), "{from} {to}");
        }
    }
}
