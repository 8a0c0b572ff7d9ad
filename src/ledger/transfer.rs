//! Transfers: what sellers are paid, and what comes back when a sale is refunded.
//!
//! ```text
//! pending ──▶ completed ──▶ reversal_pending ──▶ reversed
//!    │           ▲                   │
//!    ▼           │                   ▼
//!  failed ───────┴────────▶ permanently_failed
//! ```

use super::account::words;
use super::amount::Currency;
use super::chart::{self, Booking, Entry};
use crate::base::Result;
use crate::base::id::sortable_id;

sortable_id!(
    /// The id of a transfer.
    TransferId, "trf_", "transfer id", ""
);

/// Tries of a transfer, and then of its reversal.
pub const TRIES_MAX: i64 = 5;

/// Where a transfer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Not made yet.
    Pending,
    /// The seller has it.
    Completed,
    /// Not made; tried again.
    Failed,
    /// Made, and has to come back.
    ReversalPending,
    /// Came back.
    Reversed,
    /// Nobody tries any more.
    PermanentlyFailed,
}
words!(Status {
    Pending = "pending",
    Completed = "completed",
    Failed = "failed",
    ReversalPending = "reversal_pending",
    Reversed = "reversed",
    PermanentlyFailed = "permanently_failed",
});

impl Status {
    /// Whether a transfer may go from here to there. To stay is no change, and always allowed: tries are counted so.
    pub fn may_become(self, to: Status) -> bool {
        use Status::{Completed, Failed, Pending, PermanentlyFailed, ReversalPending, Reversed};
        self == to
            || matches!(
                (self, to),
                (Pending, Completed | Failed)
                    | (Failed, Completed | PermanentlyFailed)
                    | (Completed, ReversalPending)
                    | (ReversalPending, Reversed | PermanentlyFailed)
            )
    }
}

/// The reservation of a transfer's try: its resolution is the try's end.
///
/// # Errors
/// `Invalid` for an amount of nothing.
pub fn reserve(
    (id, attempt): (&TransferId, i64),
    seller: &str,
    minor: i64,
    currency: Currency,
    now_us: i64,
) -> Result<Booking> {
    Entry::new(&reservation(id, attempt), "transfer", &format!("{id}:{attempt}:submitted"), now_us, currency)?
        .pending()
        .debit(chart::payable(seller, currency), minor)
        .credit(chart::clearing(currency), minor)
        .balance()
}

/// The journal that reserves for a try.
pub fn reservation(id: &TransferId, attempt: i64) -> String {
    format!("transfer:{id}:{attempt}")
}

/// The event at the provider: a transfer is made once.
pub fn completed_source(id: &TransferId) -> String {
    format!("st:{id}:created")
}

/// What came back of a transfer: `minor` more, `reversed_minor` with it. First it pays what the seller owes
/// (`owed_minor`), the rest they have again.
///
/// # Errors
/// `Invalid` for an amount of nothing.
pub fn reversed(
    id: &TransferId,
    seller: &str,
    (minor, reversed_minor): (i64, i64),
    owed_minor: i64,
    currency: Currency,
    now_us: i64,
) -> Result<Booking> {
    let pays = minor.min(owed_minor.max(0));
    let (name, source) = (format!("reversal:{id}:{reversed_minor}"), format!("st:{id}:reversed:{reversed_minor}"));
    Entry::new(&name, "reversal", &source, now_us, currency)?
        .debit(chart::clearing(currency), minor)
        .credit(chart::receivable(seller, currency), pays)
        .credit(chart::payable(seller, currency), minor - pays)
        .balance()
}

#[cfg(test)]
mod tests {
    use super::super::Phase;
    use super::super::chart::tests::{usd, written};
    use super::*;

    #[test]
    fn all_thirty_six_moves() {
        use Status::{
            Completed as C, Failed as F, Pending as P, PermanentlyFailed as X, ReversalPending as V, Reversed as R,
        };
        // Rows: from; columns: to. control.md §4, pair by pair.
        const TABLE: [(Status, [(Status, bool); 6]); 6] = [
            (P, [(P, true), (C, true), (F, true), (V, false), (R, false), (X, false)]),
            (C, [(P, false), (C, true), (F, false), (V, true), (R, false), (X, false)]),
            (F, [(P, false), (C, true), (F, true), (V, false), (R, false), (X, true)]),
            (V, [(P, false), (C, false), (F, false), (V, true), (R, true), (X, true)]),
            (R, [(P, false), (C, false), (F, false), (V, false), (R, true), (X, false)]),
            (X, [(P, false), (C, false), (F, false), (V, false), (R, false), (X, true)]),
        ];
        let pairs: Vec<_> =
            TABLE.iter().flat_map(|(from, row)| row.iter().map(move |to| (*from, to.0, to.1))).collect();
        assert_eq!(pairs.len(), 36);
        for (from, to, legal) in pairs {
            assert_eq!(from.may_become(to), legal, "{from:?} to {to:?}");
        }
        assert_eq!(Status::decode("refunded"), None, "what is unknown is refused");
    }

    #[test]
    fn a_transfer_reserves_and_a_reversal_pays_debts_first() {
        let id = TransferId::new(1);
        let reserved = reserve((&id, 2), "a", 900, usd(), 1).unwrap();
        assert_eq!(written(&reserved), "seller:a:payable 900 | psp:clearing 900");
        assert_eq!(reserved.journal.header().phase, Phase::Pending);
        let back = |minor, owed| written(&reversed(&id, "a", (minor, 900), owed, usd(), 1).unwrap());
        assert_eq!(back(900, 900), "psp:clearing 900 | seller:a:receivable 900");
        assert_eq!(back(900, 200), "psp:clearing 900 | seller:a:receivable 200, seller:a:payable 700");
        assert_eq!(back(300, 0), "psp:clearing 300 | seller:a:payable 300");
    }
}
