//! Refunds: until when, and what each part of the money does.
//!
//! A request reserves: what the sellers still have with us covers their share, the rest they will owe. The provider's
//! success posts exactly that, its failure voids it. So nobody is paid meanwhile what the buyer may get back, and a
//! seller's balance never falls below zero.

use super::account::words;
use super::amount::Currency;
use super::chart::{self, Booking, Entry};
use super::order::{Share, by_seller, total};
use crate::base::Result;
use crate::base::id::sortable_id;

sortable_id!(
    /// The id of a refund, also at the provider: with its prefix exactly the 30 characters that one allows.
    RefundId, "ref_", "refund id", ""
);

/// Where a refund stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Requested: only the provider's word ends it.
    Pending,
    /// The buyer has the money.
    Succeeded,
    /// They have not.
    Failed,
}
words!(Status { Pending = "pending", Succeeded = "succeeded", Failed = "failed" });

impl Status {
    /// Whether a refund may go from here to there. A failed one may still succeed: a request that was given up because
    /// the provider did not know it may have been on its way.
    pub fn may_become(self, to: Status) -> bool {
        matches!(
            (self, to),
            (Status::Pending, Status::Succeeded | Status::Failed) | (Status::Failed, Status::Succeeded)
        )
    }
}

/// Until when an order may be refunded, inclusively: its own deadline, else so many days after it was paid.
pub fn until_us(deadline_us: Option<i64>, paid_us: i64, days: i64) -> i64 {
    deadline_us.unwrap_or_else(|| paid_us.saturating_add(days.saturating_mul(86_400_000_000)))
}

/// What a seller's share of a refund is taken from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Who.
    pub seller: String,
    /// From what we owe them, in minor units.
    pub payable_minor: i64,
    /// What they will owe us.
    pub receivable_minor: i64,
}

/// What is taken from each seller, when `available` says what we owe them and have not reserved.
pub fn take(shares: &[Share], available: impl Fn(&str) -> i64) -> Vec<Taken> {
    let one = |(seller, minor): (&str, i64)| {
        let payable_minor = minor.min(available(seller).max(0));
        Taken { seller: seller.to_owned(), payable_minor, receivable_minor: minor - payable_minor }
    };
    by_seller(shares).into_iter().map(one).collect()
}

/// The reservation of a refund: its resolution is the refund's end. `shares` is what goes back of each item.
///
/// # Errors
/// `Invalid` for shares without anything to give back.
pub fn reserve(id: &RefundId, shares: &[Share], taken: &[Taken], currency: Currency, now_us: i64) -> Result<Booking> {
    let entry = Entry::new(&format!("refund:{id}"), "refund", &format!("{id}:requested"), now_us, currency)?;
    entry
        .pending()
        .debit_shares(shares, taken, currency)
        .credit(chart::clearing(currency), total(shares).total())
        .balance()
}

/// A refund that succeeded after its reservation was voided; `loss_minor` of it is more than is left of the order.
///
/// # Errors
/// As `reserve`.
pub fn late(
    id: &RefundId,
    (shares, loss_minor): (&[Share], i64),
    taken: &[Taken],
    currency: Currency,
    now_us: i64,
) -> Result<Booking> {
    Entry::new(&format!("refund:{id}:late"), "refund", &succeeded_source(id), now_us, currency)?
        .debit_shares(shares, taken, currency)
        .debit(chart::losses(currency), loss_minor)
        .credit(chart::clearing(currency), total(shares).total() + loss_minor)
        .balance()
}

/// The reservation of a refund of what a subscription was paid by: our income and the tax bear it.
///
/// # Errors
/// As `reserve`.
pub fn reserve_invoice(
    id: &RefundId,
    (net_minor, tax_minor): (i64, i64),
    currency: Currency,
    now_us: i64,
) -> Result<Booking> {
    Entry::new(&format!("refund:{id}"), "refund", &format!("{id}:requested"), now_us, currency)?
        .pending()
        .debit(chart::subscriptions(currency), net_minor)
        .debit(chart::tax(currency), tax_minor)
        .credit(chart::clearing(currency), net_minor + tax_minor)
        .balance()
}

/// As `late`, of what a subscription was paid by.
///
/// # Errors
/// As `reserve`.
pub fn late_invoice(
    id: &RefundId,
    (net_minor, tax_minor): (i64, i64),
    loss_minor: i64,
    currency: Currency,
    now_us: i64,
) -> Result<Booking> {
    Entry::new(&format!("refund:{id}:late"), "refund", &succeeded_source(id), now_us, currency)?
        .debit(chart::subscriptions(currency), net_minor)
        .debit(chart::tax(currency), tax_minor)
        .debit(chart::losses(currency), loss_minor)
        .credit(chart::clearing(currency), net_minor + tax_minor + loss_minor)
        .balance()
}

/// The event of the provider: one journal for it, whichever way it came.
pub fn succeeded_source(id: &RefundId) -> String {
    format!("hs:{id}:succeeded")
}

impl Entry {
    /// Takes from everybody what they have of `shares`: from sellers as `taken` says.
    pub(super) fn debit_shares(mut self, shares: &[Share], taken: &[Taken], currency: Currency) -> Entry {
        for Taken { seller, payable_minor, receivable_minor } in taken {
            self = self.debit(chart::payable(seller, currency), *payable_minor);
            self = self.debit(chart::receivable(seller, currency), *receivable_minor);
        }
        let whole = total(shares);
        self.debit(chart::fees(currency), whole.fee_minor).debit(chart::tax(currency), whole.tax_minor)
    }
}

#[cfg(test)]
mod tests {
    use super::super::chart::tests::{usd, written};
    use super::super::order::{Split, Terms};
    use super::super::{Journal, Phase};
    use super::*;
    use proptest::prelude::*;

    fn share(seller: &str, price: i64) -> Share {
        Share { seller: seller.into(), split: Split::of(price, Terms { fee_bps: 1000, tax_bps: 0 }) }
    }

    #[test]
    fn what_a_seller_no_longer_has_they_owe() {
        let shares = [share("a", 1000), share("b", 500)];
        let reserved = |a: i64, b: i64| {
            let taken = take(&shares, |seller| if seller == "a" { a } else { b });
            written(&reserve(&RefundId::new(1), &shares, &taken, usd(), 1).unwrap())
        };
        assert_eq!(
            reserved(5000, 450),
            "seller:a:payable 900, seller:b:payable 450, platform:fees 150 | psp:clearing 1500"
        );
        assert_eq!(
            reserved(100, 0),
            "seller:a:payable 100, seller:a:receivable 800, seller:b:receivable 450, platform:fees 150 | psp:clearing 1500"
        );
        assert_eq!(reserved(-7, 449).split(',').next().unwrap(), "seller:a:receivable 900", "never below zero");
    }

    #[test]
    fn a_refund_has_one_success() {
        let (id, shares) = (RefundId::new(1), [share("a", 1000)]);
        let taken = take(&shares, |_| 0);
        let reserved = reserve(&id, &shares, &taken, usd(), 1).unwrap().journal;
        assert_eq!(reserved.header().phase, Phase::Pending);
        let posted: Journal = reserved.post(format!("refund:{id}:post").parse().unwrap(), &succeeded_source(&id), 2);
        let late = late(&id, (&shares, 0), &taken, usd(), 2).unwrap().journal;
        let source = |journal: &Journal| (journal.header().kind.clone(), journal.header().source.clone());
        assert_eq!(source(&posted), source(&late), "the ledger takes one of them");
        assert_eq!(posted.postings(), late.postings());
    }

    #[test]
    fn what_a_subscription_was_paid_by_goes_back_out_of_income_and_tax() {
        let id = RefundId::new(1);
        let reserved = reserve_invoice(&id, (1000, 190), usd(), 1).unwrap();
        assert_eq!(written(&reserved), "platform:subscriptions 1000, platform:tax 190 | psp:clearing 1190");
        assert_eq!(reserved.journal.header().phase, Phase::Pending);
        let late = late_invoice(&id, (700, 133), 357, usd(), 2).unwrap();
        assert_eq!(
            written(&late),
            "platform:subscriptions 700, platform:tax 133, platform:losses 357 | psp:clearing 1190"
        );
        assert_eq!(late.journal.header().source, succeeded_source(&id));
    }

    #[test]
    fn the_window_is_the_orders_own_or_fourteen_days() {
        const DAY: i64 = 86_400_000_000;
        assert_eq!(until_us(None, 5, 14), 5 + 14 * DAY);
        assert_eq!(until_us(Some(77), 5, 14), 77);
        assert_eq!(until_us(None, i64::MAX - 1, i64::MAX), i64::MAX);
    }

    #[test]
    fn a_refund_ends_once_unless_it_was_given_up() {
        use Status::{Failed, Pending, Succeeded};
        for from in Status::ALL {
            for to in Status::ALL {
                let legal = [(Pending, Succeeded), (Pending, Failed), (Failed, Succeeded)].contains(&(*from, *to));
                assert_eq!(from.may_become(*to), legal, "{from:?} {to:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_refund_gives_back_what_was_paid_and_takes_no_more_than_there_is(
            items in prop::collection::vec((0usize..4, 1i64..100_000), 1..=20),
            available in prop::collection::vec(-5i64..200_000, 4),
        ) {
            let shares: Vec<_> = items.iter().map(|(seller, price)| share(&format!("{seller}"), *price)).collect();
            let taken = take(&shares, |seller| available[seller.parse::<usize>().unwrap()]);
            let booking = reserve(&RefundId::new(1), &shares, &taken, usd(), 1).unwrap();
            let paid: i64 = items.iter().map(|(_, price)| price).sum();
            let clearing = booking.journal.postings().iter().find(|posting| posting.side == crate::ledger::Side::Credit);
            prop_assert_eq!(clearing.unwrap().amount.minor(), paid);
            for Taken { seller, payable_minor, receivable_minor } in &taken {
                let has = available[seller.parse::<usize>().unwrap()].max(0);
                prop_assert!(*payable_minor <= has);
                prop_assert!(*receivable_minor == 0 || *payable_minor == has, "owes only what is not covered");
            }
        }
    }
}
