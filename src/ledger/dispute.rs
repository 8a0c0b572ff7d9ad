//! Disputes: what a buyer's bank took, or wants to take, back.
//!
//! ```text
//!   (nothing) ──▶ open ──▶ lost        open:  kept from everybody who has a share of the sale
//!                  │ ▲       │         lost:  what was kept is the bank's
//!                  ▼ │       │         won:   what was kept, or taken, is everybody's again
//!                  won ◀─────┘
//! ```

use super::account::words;
use super::amount::Currency;
use super::chart::{self, Booking, Entry};
use super::order::{Share, by_seller, total};
use super::refund::Taken;
use crate::base::Result;

/// Where a dispute stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The bank has not decided.
    Open,
    /// The money is ours.
    Won,
    /// The buyer has it.
    Lost,
}
words!(Status { Open = "open", Won = "won", Lost = "lost" });

impl Status {
    /// Whether a dispute may go from here to there in one turn.
    pub fn may_become(self, to: Status) -> bool {
        use Status::{Lost, Open, Won};
        matches!((self, to), (Open, Won | Lost) | (Won, Open) | (Lost, Won))
    }

    /// The turns from here to what the provider says, where that is news. A lost one that is argued about again stays
    /// lost until it is won: the bank has the money meanwhile.
    pub fn turns(self, to: Status) -> &'static [Status] {
        use Status::{Lost, Open, Won};
        match (self, to) {
            (Open, Won) | (Lost, Won) => &[Won],
            (Open, Lost) => &[Lost],
            (Won, Open) => &[Open],
            (Won, Lost) => &[Open, Lost],
            (Open, Open) | (Won, Won) | (Lost, Open | Lost) => &[],
        }
    }
}

/// What a dispute is about, and who bears it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Borne {
    /// By those who have a share of an order.
    pub shares: Vec<Share>,
    /// By our income from a subscription.
    pub subscription_minor: i64,
    /// By the tax in its invoice.
    pub tax_minor: i64,
    /// By us, because nothing else is left.
    pub loss_minor: i64,
}

impl Borne {
    /// All of it.
    pub fn total(&self) -> i64 {
        total(&self.shares).total() + self.subscription_minor + self.tax_minor + self.loss_minor
    }
}

/// One turn of a dispute, with its number from 1.
#[derive(Clone, Copy, Debug)]
pub struct Turn<'a> {
    /// The provider's id.
    pub id: &'a str,
    /// Which one.
    pub number: i64,
    /// When.
    pub now_us: i64,
}

impl Turn<'_> {
    fn entry(&self, to: Status, currency: Currency) -> Result<Entry> {
        let name = format!("dispute:{}:{}", self.id, self.number);
        let source = format!("hs:{}:{}:{}", self.id, self.number, to.as_str());
        Entry::new(&name, "dispute", &source, self.now_us, currency)
    }
}

/// Opened: kept from everybody.
///
/// # Errors
/// `Invalid` for a dispute about nothing.
pub fn opened(turn: Turn<'_>, borne: &Borne, taken: &[Taken], currency: Currency) -> Result<Booking> {
    turn.entry(Status::Open, currency)?
        .debit_shares(&borne.shares, taken, currency)
        .debit(chart::subscriptions(currency), borne.subscription_minor)
        .debit(chart::tax(currency), borne.tax_minor)
        .debit(chart::losses(currency), borne.loss_minor)
        .credit(chart::disputes_held(currency), borne.total())
        .balance()
}

/// Lost: what was kept is the bank's.
///
/// # Errors
/// As `opened`.
pub fn lost(turn: Turn<'_>, minor: i64, currency: Currency) -> Result<Booking> {
    turn.entry(Status::Lost, currency)?
        .debit(chart::disputes_held(currency), minor)
        .credit(chart::clearing(currency), minor)
        .balance()
}

/// Won, from `from`: everybody has theirs again; sellers who owe us something pay that first (`owed`).
///
/// # Errors
/// As `opened`.
pub fn won(
    turn: Turn<'_>,
    from: Status,
    borne: &Borne,
    owed: impl Fn(&str) -> i64,
    currency: Currency,
) -> Result<Booking> {
    let kept = match from {
        Status::Lost => chart::clearing(currency),
        Status::Open | Status::Won => chart::disputes_held(currency),
    };
    let mut entry = turn.entry(Status::Won, currency)?.debit(kept, borne.total());
    for (seller, minor) in by_seller(&borne.shares) {
        let pays = minor.min(owed(seller).max(0));
        entry = entry.credit(chart::receivable(seller, currency), pays);
        entry = entry.credit(chart::payable(seller, currency), minor - pays);
    }
    let whole = total(&borne.shares);
    entry
        .credit(chart::fees(currency), whole.fee_minor)
        .credit(chart::tax(currency), whole.tax_minor + borne.tax_minor)
        .credit(chart::subscriptions(currency), borne.subscription_minor)
        .credit(chart::losses(currency), borne.loss_minor)
        .balance()
}

/// Of what was our loss, for `cause`, something is left of the order after all, because of `freed`: those who have a
/// share of it bear it.
///
/// # Errors
/// As `opened`.
pub fn absorbed(
    (cause, freed): (&str, &str),
    shares: &[Share],
    taken: &[Taken],
    currency: Currency,
    now_us: i64,
) -> Result<Booking> {
    let name = format!("{cause}:{freed}");
    Entry::new(&format!("absorbed:{name}"), "absorbed", &name, now_us, currency)?
        .debit_shares(shares, taken, currency)
        .credit(chart::losses(currency), total(shares).total())
        .balance()
}

/// As `absorbed`, of what a subscription was paid by: our income and the tax bear it.
///
/// # Errors
/// As `opened`.
pub fn absorbed_invoice(
    (cause, freed): (&str, &str),
    (net_minor, tax_minor): (i64, i64),
    currency: Currency,
    now_us: i64,
) -> Result<Booking> {
    let name = format!("{cause}:{freed}");
    Entry::new(&format!("absorbed:{name}"), "absorbed", &name, now_us, currency)?
        .debit(chart::subscriptions(currency), net_minor)
        .debit(chart::tax(currency), tax_minor)
        .credit(chart::losses(currency), net_minor + tax_minor)
        .balance()
}

#[cfg(test)]
mod tests {
    use super::super::chart::tests::{usd, written};
    use super::super::order::{Split, Terms};
    use super::super::refund::take;
    use super::*;

    #[test]
    fn what_is_kept_is_the_banks_or_everybodys_again() {
        let share = Share { seller: "a".into(), split: Split::of(1190, Terms { fee_bps: 1500, tax_bps: 1900 }) };
        let borne = Borne { shares: vec![share], loss_minor: 10, ..Borne::default() };
        let turn = |number| Turn { id: "dp_1", number, now_us: 1 };
        let taken = take(&borne.shares, |_| 300);
        let open = opened(turn(1), &borne, &taken, usd()).unwrap();
        assert_eq!(
            written(&open),
            "seller:a:payable 300, seller:a:receivable 550, platform:fees 150, platform:tax 190, platform:losses 10 \
             | disputes:held 1200"
        );
        assert_eq!(open.journal.header().source, "hs:dp_1:1:open");
        assert_eq!(written(&lost(turn(2), 1200, usd()).unwrap()), "disputes:held 1200 | psp:clearing 1200");
        let back = |from, owed| written(&won(turn(2), from, &borne, |_| owed, usd()).unwrap());
        assert_eq!(
            back(Status::Open, 550),
            "disputes:held 1200 | seller:a:receivable 550, seller:a:payable 300, platform:fees 150, platform:tax 190, \
             platform:losses 10"
        );
        assert!(back(Status::Lost, 0).starts_with("psp:clearing 1200 | seller:a:payable 850,"));
        let invoice = Borne { subscription_minor: 1000, tax_minor: 190, ..Borne::default() };
        assert_eq!(
            written(&opened(turn(1), &invoice, &[], usd()).unwrap()),
            "platform:subscriptions 1000, platform:tax 190 | disputes:held 1190"
        );
        let late = absorbed(("ref_1", "dp_1:2"), &borne.shares, &taken, usd(), 1).unwrap();
        assert!(written(&late).ends_with("| platform:losses 1190"));
        let late = absorbed_invoice(("dp_1", "ref_1"), (300, 57), usd(), 1).unwrap();
        assert_eq!(written(&late), "platform:subscriptions 300, platform:tax 57 | platform:losses 357");
    }

    #[test]
    fn every_turn_is_legal_and_ends_where_the_provider_says() {
        use Status::{Lost, Open, Won};
        for from in Status::ALL {
            for to in Status::ALL {
                let legal = [(Open, Won), (Open, Lost), (Won, Open), (Lost, Won)].contains(&(*from, *to));
                assert_eq!(from.may_become(*to), legal, "{from:?} {to:?}");
                let mut at = *from;
                for turn in from.turns(*to) {
                    assert!(at.may_become(*turn), "{at:?} {turn:?}");
                    at = *turn;
                }
                let expected = if (*from, *to) == (Lost, Open) { Lost } else { *to };
                assert_eq!(at, expected, "{from:?} {to:?}");
            }
        }
    }
}
