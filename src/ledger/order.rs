//! Orders: what is bought, how its price is split, and how an order may move.

use super::account::words;
use super::amount::{Currency, allocate};
use super::chart::{self, Booking, Entry};
use crate::base::id::sortable_id;
use crate::base::{Error, Result};

sortable_id!(
    /// The id of an order.
    OrderId, "ord_", "order id", ""
);
sortable_id!(
    /// The id of a product.
    ProductId, "prd_", "product id", ""
);

/// Items of one order at most: a journal has room for a posting to each seller's two accounts.
pub const ITEMS_MAX: usize = 20;
/// The highest price of one item, in minor units: an order of `ITEMS_MAX` of them is still an amount.
pub const PRICE_MINOR_MAX: i64 = 10_000_000_000;

/// Where an order stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Stored; nobody knows yet whether the provider has heard of its payment.
    Created,
    /// The provider knows the payment, and the buyer has to do something.
    PendingPayment,
    /// Paid: licences are granted.
    Paid,
    /// Paid, and a refund is on its way.
    RefundPending,
    /// The money went back; licences are revoked.
    Refunded,
    /// The payment did not succeed.
    Failed,
    /// Nobody paid in time.
    Expired,
}
words!(Status {
    Created = "created",
    PendingPayment = "pending_payment",
    Paid = "paid",
    RefundPending = "refund_pending",
    Refunded = "refunded",
    Failed = "failed",
    Expired = "expired",
});

impl Status {
    /// Whether an order may go from here to there. Failed and expired ones may still be paid: a provider tries a
    /// payment again under its id, and what was paid is owed a licence. A paid one may be refunded at once: by a
    /// refund that was taken for failed, or by a bank. A refunded one is paid again when a dispute that was lost is won.
    pub fn may_become(self, to: Status) -> bool {
        use Status::{Created, Expired, Failed, Paid, PendingPayment, RefundPending, Refunded};
        matches!(
            (self, to),
            (Created, PendingPayment | Paid | Failed | Expired)
                | (PendingPayment, Paid | Failed | Expired)
                | (Failed | Expired, Paid)
                | (Paid, RefundPending | Refunded)
                | (RefundPending, Paid | Refunded)
                | (Refunded, Paid)
        )
    }
}

/// What a buyer may do with a track.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LicenceKind {
    /// Hear and keep it.
    Personal,
    /// Use it in works that earn money.
    Commercial,
    /// Use it in everything, without limits of copies.
    Extended,
}
words!(LicenceKind { Personal = "personal", Commercial = "commercial", Extended = "extended" });

/// How prices are split, in hundredths of a percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Our share of the price without tax: 0 to 10,000.
    pub fee_bps: u64,
    /// Tax on the price without tax, which the price contains: 0 to 10,000.
    pub tax_bps: u64,
}

/// A price, split to the last unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Split {
    /// The seller's.
    pub seller_minor: i64,
    /// Ours.
    pub fee_minor: i64,
    /// The state's.
    pub tax_minor: i64,
}

impl Split {
    /// The split of a price: by largest remainder, so that the parts are the whole.
    pub fn of(price_minor: i64, terms: Terms) -> Split {
        let fee = terms.fee_bps.min(10_000);
        let parts = allocate(price_minor.max(0) as u64, &[10_000 - fee, fee, terms.tax_bps.min(10_000)]);
        Split { seller_minor: parts[0] as i64, fee_minor: parts[1] as i64, tax_minor: parts[2] as i64 }
    }

    /// All of it.
    pub fn total(self) -> i64 {
        self.seller_minor + self.fee_minor + self.tax_minor
    }
}

/// One bought thing, as far as money is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// Who sells it.
    pub seller: String,
    /// Its price.
    pub split: Split,
}

/// What each seller has of an order, in the order of their first item; those with nothing left out.
pub fn by_seller(shares: &[Share]) -> Vec<(&str, i64)> {
    let mut sums: Vec<(&str, i64)> = Vec::new();
    for share in shares {
        match sums.iter_mut().find(|(seller, _)| *seller == share.seller) {
            Some((_, sum)) => *sum += share.split.seller_minor,
            None => sums.push((&share.seller, share.split.seller_minor)),
        }
    }
    sums.retain(|(_, sum)| *sum > 0);
    sums
}

/// The whole of an order.
pub fn total(shares: &[Share]) -> Split {
    shares.iter().fold(Split::default(), |sum, share| Split {
        seller_minor: sum.seller_minor + share.split.seller_minor,
        fee_minor: sum.fee_minor + share.split.fee_minor,
        tax_minor: sum.tax_minor + share.split.tax_minor,
    })
}

/// `minor` of what is left of the items, taken from every part of every item in proportion, by largest remainder: never
/// more than is left of a part, and all of it when `minor` is all that is left. So the portions of an order that goes
/// back bit by bit are its whole, to the last unit. At most what is left.
pub fn portion(left: &[Share], minor: i64) -> Vec<Share> {
    let split = |share: &Share| [share.split.seller_minor, share.split.fee_minor, share.split.tax_minor];
    let weights: Vec<u64> = left.iter().flat_map(split).map(|part| part.max(0) as u64).collect();
    let whole: u64 = weights.iter().sum();
    let parts = allocate(whole.min(minor.max(0) as u64), &weights);
    let one = |(share, parts): (&Share, &[u64])| Share {
        seller: share.seller.clone(),
        split: Split { seller_minor: parts[0] as i64, fee_minor: parts[1] as i64, tax_minor: parts[2] as i64 },
    };
    left.iter().zip(parts.chunks_exact(3)).map(one).collect()
}

/// A payment that succeeded: the provider holds the money, and everybody has their share of it.
///
/// # Errors
/// `Invalid` for an order without anything to pay.
pub fn paid(payment: &str, shares: &[Share], currency: Currency, now_us: i64) -> Result<Booking> {
    if !(1..=ITEMS_MAX).contains(&shares.len()) {
        return Err(Error::invalid(format!("an order has 1 to {ITEMS_MAX} items, not {}", shares.len())));
    }
    let whole = total(shares);
    let entry =
        Entry::new(&format!("payment:{payment}"), "payment", &format!("hs:{payment}:succeeded"), now_us, currency)?;
    let mut entry = entry.debit(chart::clearing(currency), whole.total());
    for (seller, minor) in by_seller(shares) {
        entry = entry.credit(chart::payable(seller, currency), minor);
    }
    entry.credit(chart::fees(currency), whole.fee_minor).credit(chart::tax(currency), whole.tax_minor).balance()
}

#[cfg(test)]
mod tests {
    use super::super::chart::tests::{usd, written};
    use super::*;
    use proptest::prelude::*;

    fn share(seller: &str, price: i64, fee_bps: u64, tax_bps: u64) -> Share {
        Share { seller: seller.into(), split: Split::of(price, Terms { fee_bps, tax_bps }) }
    }

    #[test]
    fn a_purchase_gives_everybody_their_share() {
        let booking = paid("pay_1", &[share("a", 1000, 1000, 0)], usd(), 1).unwrap();
        assert_eq!(written(&booking), "psp:clearing 1000 | seller:a:payable 900, platform:fees 100");
        assert_eq!(booking.journal.header().source, "hs:pay_1:succeeded");
        // 19 % in 1190 are 190; of the rest 15 % are ours.
        let items = [share("a", 1190, 1500, 1900), share("b", 595, 1500, 1900), share("a", 119, 1500, 1900)];
        let booking = paid("pay_2", &items, usd(), 1).unwrap();
        assert_eq!(
            written(&booking),
            "psp:clearing 1904 | seller:a:payable 935, seller:b:payable 425, platform:fees 240, platform:tax 304"
        );
        let all_ours = paid("pay_3", &[share("a", 5, 10_000, 0)], usd(), 1).unwrap();
        assert_eq!(written(&all_ours), "psp:clearing 5 | platform:fees 5");
        assert!(paid("pay_4", &[], usd(), 1).is_err());
        assert!(paid("pay_5", &[share("a", 0, 1, 0)], usd(), 1).is_err(), "nothing to pay");
    }

    #[test]
    fn the_largest_order_is_a_journal() {
        let items: Vec<_> = (0..ITEMS_MAX).map(|n| share(&format!("s{n}"), PRICE_MINOR_MAX, 1, 1)).collect();
        assert_eq!(paid("pay_1", &items, usd(), 1).unwrap().accounts.len(), ITEMS_MAX + 3);
    }

    #[test]
    fn an_order_moves_only_along_its_lines() {
        let legal: Vec<String> = Status::ALL
            .iter()
            .flat_map(|from| Status::ALL.iter().map(move |to| (from, to)))
            .filter(|(from, to)| from.may_become(**to))
            .map(|(from, to)| format!("{} {}", from.as_str(), to.as_str()))
            .collect();
        assert_eq!(
            legal,
            [
                "created pending_payment",
                "created paid",
                "created failed",
                "created expired",
                "pending_payment paid",
                "pending_payment failed",
                "pending_payment expired",
                "paid refund_pending",
                "paid refunded",
                "refund_pending paid",
                "refund_pending refunded",
                "refunded paid",
                "failed paid",
                "expired paid",
            ]
        );
    }

    #[test]
    fn a_portion_is_taken_from_every_part() {
        let items = [share("a", 1190, 1500, 1900), share("b", 119, 1500, 1900)];
        let minor = |shares: &[Share]| {
            shares.iter().map(|s| [s.split.seller_minor, s.split.fee_minor, s.split.tax_minor]).collect::<Vec<_>>()
        };
        assert_eq!(minor(&items), [[850, 150, 190], [85, 15, 19]]);
        assert_eq!(minor(&portion(&items, 654)), [[425, 75, 95], [42, 8, 9]], "half of it, off by less than one");
        assert_eq!(minor(&portion(&items, 1)), [[1, 0, 0], [0, 0, 0]]);
        assert_eq!(portion(&items, 1309), items, "all of it");
        assert_eq!(portion(&items, 5000), items, "never more");
        assert_eq!(minor(&portion(&items, 0)), [[0; 3]; 2]);
        assert_eq!(portion(&[], 5), []);
    }

    proptest! {
        #[test]
        fn what_goes_back_bit_by_bit_is_the_whole(
            prices in prop::collection::vec((0usize..4, 1i64..100_000), 1..=ITEMS_MAX),
            bits in prop::collection::vec(1i64..50_000, 0..12),
            fee_bps in 0u64..=10_000, tax_bps in 0u64..=10_000,
        ) {
            let whole: Vec<_> =
                prices.iter().map(|(seller, price)| share(&format!("s{seller}"), *price, fee_bps, tax_bps)).collect();
            let (mut left, mut back) = (whole.clone(), 0);
            let all = total(&whole).total();
            for minor in bits.into_iter().chain([i64::MAX]) {
                let minor = minor.min(all - back);
                let taken = portion(&left, minor);
                prop_assert_eq!(total(&taken).total(), minor);
                for (share, taken) in left.iter_mut().zip(&taken) {
                    share.split.seller_minor -= taken.split.seller_minor;
                    share.split.fee_minor -= taken.split.fee_minor;
                    share.split.tax_minor -= taken.split.tax_minor;
                    let split = share.split;
                    prop_assert!(split.seller_minor >= 0 && split.fee_minor >= 0 && split.tax_minor >= 0, "{split:?}");
                }
                back += minor;
            }
            prop_assert_eq!(total(&left).total(), 0);
        }

        #[test]
        fn splits_are_whole_and_off_by_less_than_one(
            price in 1i64..=PRICE_MINOR_MAX, fee_bps in 0u64..=10_000, tax_bps in 0u64..=10_000,
        ) {
            let split = Split::of(price, Terms { fee_bps, tax_bps });
            prop_assert_eq!(split.total(), price);
            let of = |weight: u64| price as f64 * weight as f64 / (10_000 + tax_bps) as f64;
            for (part, weight) in
                [(split.seller_minor, 10_000 - fee_bps), (split.fee_minor, fee_bps), (split.tax_minor, tax_bps)]
            {
                prop_assert!(part >= 0 && (part as f64 - of(weight)).abs() < 1.001, "{} of {}", part, of(weight));
            }
        }

        #[test]
        fn a_purchase_balances_and_pays_exactly_the_sellers(
            prices in prop::collection::vec((0usize..5, 1i64..1_000_000), 1..=ITEMS_MAX),
            fee_bps in 0u64..=10_000, tax_bps in 0u64..=10_000,
        ) {
            let shares: Vec<_> =
                prices.iter().map(|(seller, price)| share(&format!("s{seller}"), *price, fee_bps, tax_bps)).collect();
            let booking = paid("pay_1", &shares, usd(), 1).unwrap();
            let whole: i64 = prices.iter().map(|(_, price)| price).sum();
            prop_assert_eq!(booking.journal.postings()[0].amount.minor(), whole);
            let sellers: i64 = by_seller(&shares).iter().map(|(_, minor)| minor).sum();
            prop_assert_eq!(sellers, total(&shares).seller_minor);
        }
    }
}
