//! What comes of posting a journal.

use super::account::AccountCode;
use super::journal::JournalId;

/// Where a journal stands in the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its number: 1, 2, … without gaps.
    pub seq: i64,
    /// When it was recorded, in microseconds since 1970; never before the journal in front of it.
    pub recorded_us: i64,
}

/// What came of posting a journal. In order of precedence: when several apply, the first of this list is told, so that
/// a caller who repeats a request hears the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Posted {
    /// The same journal was posted before; nothing was done.
    Exists(Place),
    /// Another journal has this id.
    IdTaken,
    /// Another journal of this kind was made for the same source.
    SourceTaken(JournalId),
    /// There is no such account.
    UnknownAccount(AccountCode),
    /// The account holds another currency.
    WrongCurrency(AccountCode),
    /// It would count in a period that is closed; it may begin after this time in microseconds since 1970.
    PeriodClosed(i64),
    /// What it is to take back was never posted.
    NotReversible,
    /// What it is to take back was taken back.
    AlreadyReversed,
    /// It is no mirror of what it is to take back.
    ReversalDiffers,
    /// What it is to post or void is no reservation.
    NotPending,
    /// What it is to post or void was posted or voided.
    AlreadyResolved,
    /// It is not what was reserved.
    ResolutionDiffers,
    /// A sum of this account would not fit.
    Overflow(AccountCode),
    /// This account's guard forbids it.
    Overdraft(AccountCode),
    /// Recorded when the transaction commits.
    Created(Place),
}

impl Posted {
    /// Where the journal stands, now or from before; `None` when it was refused.
    pub fn place(&self) -> Option<Place> {
        match self {
            Posted::Created(place) | Posted::Exists(place) => Some(*place),
            _ => None,
        }
    }
}
