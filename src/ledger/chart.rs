//! The chart of accounts: which accounts there are, and the journals that flows make between them.
//!
//! ```text
//! asset      psp:clearing:USD               what the provider holds for us
//! asset      seller:{id}:receivable:USD     what a seller owes us after a refund; credits never exceed debits
//! liability  seller:{id}:payable:USD        what we owe a seller; debits never exceed credits, reservations included
//! liability  platform:tax:USD               tax that we collected for others
//! liability  disputes:held:USD              what banks may take: kept from sellers, fees and tax while a dispute is open
//! income     platform:fees:USD              our share of sales
//! income     platform:subscriptions:USD     what subscribers paid, without tax
//! expense    platform:provider_fees:USD     what the provider keeps for its work
//! expense    platform:losses:USD            what banks took beyond what was left of a sale
//! ```

use super::account::{Account, AccountCode, AccountKind, Guard, Side};
use super::amount::{Amount, Currency};
use super::journal::{Draft, Journal};
use crate::base::Result;

/// What the provider holds for us.
pub fn clearing(currency: Currency) -> Account {
    account("psp:clearing", AccountKind::Asset, Guard::None, currency)
}

/// What we owe a seller.
pub fn payable(seller: &str, currency: Currency) -> Account {
    account(&format!("seller:{seller}:payable"), AccountKind::Liability, Guard::CreditsCover, currency)
}

/// What a seller owes us: shares of refunded sales that they have been paid already.
pub fn receivable(seller: &str, currency: Currency) -> Account {
    account(&format!("seller:{seller}:receivable"), AccountKind::Asset, Guard::DebitsCover, currency)
}

/// Our share of sales.
pub fn fees(currency: Currency) -> Account {
    account("platform:fees", AccountKind::Income, Guard::None, currency)
}

/// Tax that we collected for others.
pub fn tax(currency: Currency) -> Account {
    account("platform:tax", AccountKind::Liability, Guard::None, currency)
}

/// What subscribers paid, without tax.
pub fn subscriptions(currency: Currency) -> Account {
    account("platform:subscriptions", AccountKind::Income, Guard::None, currency)
}

/// What banks may take: kept from everybody who has a share of a disputed sale.
pub fn disputes_held(currency: Currency) -> Account {
    account("disputes:held", AccountKind::Liability, Guard::CreditsCover, currency)
}

/// What went to buyers beyond what was left of their sales.
pub fn losses(currency: Currency) -> Account {
    account("platform:losses", AccountKind::Expense, Guard::None, currency)
}

/// What the provider keeps for its work.
pub fn provider_fees(currency: Currency) -> Account {
    account("platform:provider_fees", AccountKind::Expense, Guard::None, currency)
}

/// The account that has this code; `None`: no flow makes one.
pub fn of(code: &AccountCode, currency: Currency) -> Option<Account> {
    let name = code.as_str().strip_suffix(currency.code())?.strip_suffix(':')?;
    let own = [clearing, fees, tax, subscriptions, disputes_held, losses, provider_fees];
    let known = own.iter().map(|make| make(currency)).find(|account| account.code == *code);
    known.or_else(|| {
        let (seller, what) = name.strip_prefix("seller:")?.rsplit_once(':')?;
        match what {
            "payable" => Some(payable(seller, currency)),
            "receivable" => Some(receivable(seller, currency)),
            _ => None,
        }
    })
}

fn account(name: &str, kind: AccountKind, guard: Guard, currency: Currency) -> Account {
    let code = format!("{name}:{currency}").parse().expect("subjects are checked where they come in: check_subject");
    Account { code, kind, currency, guard }
}

/// Whether somebody can have accounts: their name stands in codes and journal ids.
pub fn check_subject(subject: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    (1..=64).contains(&subject.len()) && subject.bytes().all(allowed)
}

/// A journal and the accounts that it posts to, which may have to be opened first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Booking {
    /// The journal.
    pub journal: Journal,
    /// Its accounts, in the order of its postings.
    pub accounts: Vec<Account>,
}

/// A booking that nobody has balanced yet. Nothing is no posting; what goes to one account twice is one posting.
#[derive(Debug)]
pub(super) struct Entry {
    draft: Draft,
    currency: Currency,
    lines: Vec<(Account, Side, i64)>,
}

impl Entry {
    pub(super) fn new(id: &str, kind: &str, source: &str, effective_us: i64, currency: Currency) -> Result<Entry> {
        Ok(Entry { draft: Draft::new(id.parse()?, kind, source, effective_us), currency, lines: Vec::new() })
    }

    pub(super) fn pending(mut self) -> Entry {
        self.draft = self.draft.pending();
        self
    }

    pub(super) fn debit(self, account: Account, minor: i64) -> Entry {
        self.line(account, Side::Debit, minor)
    }

    pub(super) fn credit(self, account: Account, minor: i64) -> Entry {
        self.line(account, Side::Credit, minor)
    }

    fn line(mut self, account: Account, side: Side, minor: i64) -> Entry {
        let known = self.lines.iter_mut().find(|line| line.0 == account && line.1 == side);
        match known {
            Some(line) => line.2 += minor,
            None if minor == 0 => {}
            None => self.lines.push((account, side, minor)),
        }
        self
    }

    pub(super) fn balance(self) -> Result<Booking> {
        let mut draft = self.draft;
        for (account, side, minor) in &self.lines {
            let amount = Amount::new(*minor, self.currency)?;
            draft = match side {
                Side::Debit => draft.debit(&account.code, amount),
                Side::Credit => draft.credit(&account.code, amount),
            };
        }
        Ok(Booking { journal: draft.balance()?, accounts: self.lines.into_iter().map(|line| line.0).collect() })
    }
}

/// What the provider kept for its work, as its statement `reference` says: at least one minor unit.
///
/// # Errors
/// `Invalid` for a reference that is no name.
pub fn provider_fee(reference: &str, amount: Amount, now_us: i64) -> Result<Booking> {
    let currency = amount.currency();
    Entry::new(&format!("provider_fee:{reference}"), "provider_fee", reference, now_us, currency)?
        .debit(provider_fees(currency), amount.minor())
        .credit(clearing(currency), amount.minor())
        .balance()
}

/// What somebody paid a seller by hand at the provider, as `reference` says there.
///
/// # Errors
/// `Invalid` for a reference that is no name.
pub fn hand_payout(reference: &str, seller: &str, amount: Amount, now_us: i64) -> Result<Booking> {
    let currency = amount.currency();
    Entry::new(&format!("hand_payout:{reference}"), "hand_payout", &format!("st:{reference}:hand"), now_us, currency)?
        .debit(payable(seller, currency), amount.minor())
        .credit(clearing(currency), amount.minor())
        .balance()
}

/// What a seller owes us, taken from what we owe them. `cause` names the event and is new each time; `minor` is at
/// least 1.
///
/// # Errors
/// `Invalid` for a cause that is no name.
pub fn offset(cause: &str, seller: &str, minor: i64, currency: Currency, now_us: i64) -> Result<Booking> {
    let name = format!("{cause}:{seller}");
    Entry::new(&format!("offset:{name}"), "offset", &name, now_us, currency)?
        .debit(payable(seller, currency), minor)
        .credit(receivable(seller, currency), minor)
        .balance()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::ledger) fn usd() -> Currency {
        Currency::decode("USD").unwrap()
    }

    /// `psp:clearing:USD 1000 | seller:a:payable:USD 900, …`: debits, then credits.
    pub(in crate::ledger) fn written(booking: &Booking) -> String {
        let side = |wanted: Side| {
            let lines = booking.journal.postings().iter().filter(|posting| posting.side == wanted);
            let lines: Vec<_> = lines.map(|p| format!("{} {}", p.account, p.amount.minor())).collect();
            lines.join(", ").replace(":USD", "")
        };
        format!("{} | {}", side(Side::Debit), side(Side::Credit))
    }

    #[test]
    fn bookings_leave_out_nothing_and_add_up_what_comes_twice() {
        let entry = || Entry::new("j", "k", "s", 1, usd()).unwrap();
        let booking = entry()
            .debit(clearing(usd()), 5)
            .credit(fees(usd()), 2)
            .credit(tax(usd()), 0)
            .credit(fees(usd()), 3)
            .balance()
            .unwrap();
        assert_eq!(written(&booking), "psp:clearing 5 | platform:fees 5");
        assert_eq!(booking.accounts, [clearing(usd()), fees(usd())]);
        assert!(entry().debit(clearing(usd()), 5).credit(fees(usd()), 4).balance().is_err());
    }

    #[test]
    fn fees_of_the_provider_and_offsets_are_two_lines() {
        let fee = provider_fee("st_1", Amount::new(33, usd()).unwrap(), 1).unwrap();
        assert_eq!(written(&fee), "platform:provider_fees 33 | psp:clearing 33");
        let paid = hand_payout("tr_1", "a", Amount::new(33, usd()).unwrap(), 1).unwrap();
        assert_eq!(written(&paid), "seller:a:payable 33 | psp:clearing 33");
        let offset = offset("pay_1", "a", 7, usd(), 1).unwrap();
        assert_eq!(written(&offset), "seller:a:payable 7 | seller:a:receivable 7");
        assert_eq!(offset.journal.id().as_str(), "offset:pay_1:a");
    }

    #[test]
    fn names_of_sellers_fit_into_codes() {
        for good in ["usr_01hq0000000000000000000000", "ci", "a.b-c", &"x".repeat(64)] {
            assert!(check_subject(good), "{good}");
            let _ = payable(good, usd());
        }
        for bad in ["", "a:b", "a b", "é", &"x".repeat(65)] {
            assert!(!check_subject(bad), "{bad}");
        }
    }
}
