//! Accounts: where money stands, and what they may never owe.

use std::fmt;
use std::str::FromStr;

use super::amount::{Amount, Currency};
use super::journal::Phase;
use crate::base::{Error, Result};

/// The name of an account, such as `seller:usr_1:payable:USD`: 1 to 120 of `A-Z a-z 0-9 _ : . -`. Holds opaque
/// ids only, never a person's name: it is kept for ever.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountCode(String);

impl AccountCode {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AccountCode {
    type Err = Error;
    fn from_str(text: &str) -> Result<AccountCode> {
        super::journal::check_name("account code", text)?;
        Ok(AccountCode(text.to_owned()))
    }
}

impl fmt::Display for AccountCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! words {
    ($name:ident { $($variant:ident = $word:literal),* $(,)? }) => {
        impl $name {
            /// All of them.
            pub const ALL: &'static [$name] = &[$($name::$variant),*];

            /// Its name in the database.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word),* }
            }

            /// The one of this name.
            pub fn decode(text: &str) -> Option<$name> {
                $name::ALL.iter().copied().find(|known| known.as_str() == text)
            }
        }
    };
}
pub(super) use words;

/// What an account is on a balance sheet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountKind {
    /// What we have.
    Asset,
    /// What we owe.
    Liability,
    /// What belongs to the owners.
    Equity,
    /// What we earned.
    Income,
    /// What we spent.
    Expense,
}
words!(AccountKind {
    Asset = "asset",
    Liability = "liability",
    Equity = "equity",
    Income = "income",
    Expense = "expense",
});

/// What an account's balance may never do, reservations included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// Anything goes.
    None,
    /// Debits, also pending ones, never exceed posted credits: what we owe a seller cannot become negative.
    CreditsCover,
    /// Credits, also pending ones, never exceed posted debits.
    DebitsCover,
}
words!(Guard { None = "none", CreditsCover = "credits_ge_debits", DebitsCover = "debits_ge_credits" });

/// An account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its name.
    pub code: AccountCode,
    /// What it is.
    pub kind: AccountKind,
    /// The only currency it holds.
    pub currency: Currency,
    /// What it may never do.
    pub guard: Guard,
}

/// The two columns of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Left.
    Debit,
    /// Right.
    Credit,
}

impl Side {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Side {
        match self {
            Side::Debit => Side::Credit,
            Side::Credit => Side::Debit,
        }
    }
}

/// The sums of an account, in minor units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// Posted.
    pub debits: i64,
    /// Posted.
    pub credits: i64,
    /// Reserved, and neither posted nor voided.
    pub debits_pending: i64,
    /// Likewise.
    pub credits_pending: i64,
}

impl Balance {
    /// After one posting of a journal in `phase`; `None` when a sum does not fit.
    pub fn after(self, phase: Phase, side: Side, amount: Amount) -> Option<Balance> {
        let (posted, pending) = match phase {
            Phase::Posted => (amount.minor(), 0),
            Phase::Pending => (0, amount.minor()),
            Phase::Post => (amount.minor(), -amount.minor()),
            Phase::Void => (0, -amount.minor()),
        };
        let mut after = self;
        let (sum, sum_pending) = match side {
            Side::Debit => (&mut after.debits, &mut after.debits_pending),
            Side::Credit => (&mut after.credits, &mut after.credits_pending),
        };
        *sum = sum.checked_add(posted)?;
        *sum_pending = sum_pending.checked_add(pending)?;
        // The database compares sums of the two columns.
        after.debits.checked_add(after.debits_pending)?;
        after.credits.checked_add(after.credits_pending)?;
        Some(after)
    }

    /// Whether a guard allows it.
    pub fn is_allowed_by(&self, guard: Guard) -> bool {
        match guard {
            Guard::None => true,
            Guard::CreditsCover => self.debits + self.debits_pending <= self.credits,
            Guard::DebitsCover => self.credits + self.credits_pending <= self.debits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservations_count_against_the_guard_and_not_in_the_balance() {
        let usd = Currency::decode("USD").unwrap();
        let of = |minor| Amount::new(minor, usd).unwrap();
        let owed = Balance::default().after(Phase::Posted, Side::Credit, of(100)).unwrap();
        let reserved = owed.after(Phase::Pending, Side::Debit, of(60)).unwrap();
        assert_eq!((reserved.debits, reserved.debits_pending), (0, 60));
        assert!(reserved.is_allowed_by(Guard::CreditsCover));
        assert!(!reserved.after(Phase::Posted, Side::Debit, of(41)).unwrap().is_allowed_by(Guard::CreditsCover));
        let posted = reserved.after(Phase::Post, Side::Debit, of(60)).unwrap();
        assert_eq!((posted.debits, posted.debits_pending), (60, 0));
        assert_eq!(reserved.after(Phase::Void, Side::Debit, of(60)), Some(owed));
        // What is reserved for an account does not cover what it gives.
        let expected = Balance::default().after(Phase::Pending, Side::Credit, of(5)).unwrap();
        assert!(!expected.after(Phase::Posted, Side::Debit, of(5)).unwrap().is_allowed_by(Guard::CreditsCover));
    }

    #[test]
    fn sums_that_do_not_fit_are_seen() {
        let most = Amount::new(super::super::MINOR_MAX, Currency::decode("USD").unwrap()).unwrap();
        let full = Balance { debits: i64::MAX - 5, ..Balance::default() };
        assert_eq!(full.after(Phase::Posted, Side::Debit, most), None);
        assert_eq!(full.after(Phase::Pending, Side::Debit, most), None, "the sum of both columns");
    }
}
