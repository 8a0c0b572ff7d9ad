//! Money as values: amounts, accounts, journals that balance or do not exist, and what posting one would do.
//! Pure; `db/ledger.rs` keeps it.
//!
//! ```text
//! Draft ─ debit, credit ─▶ Draft ─ balance ─▶ Journal ─┐
//!                                                      ├─ View::post ─▶ Posted, and the seal of the chain
//! accounts, known journals, head, closed period ─▶ View┘
//! ```
//! Nothing is ever changed or taken back: a correction is another journal. A journal that reserves (`Pending`) is
//! resolved at most once, by one that posts or voids it; until then its amounts count against the guards and not in the
//! balances. The model follows TigerBeetle's two-phase transfers with many legs (docs/decisions/0050).

mod account;
mod amount;
pub mod chart;
pub mod dispute;
mod journal;
pub mod order;
mod posted;
pub mod refund;
pub mod subscription;
pub mod transfer;
mod view;

pub use account::{Account, AccountCode, AccountKind, Balance, Guard, Side};
pub use amount::{Amount, Currency, MINOR_MAX, allocate};
pub use journal::{Draft, GENESIS, Hash, Header, Journal, JournalId, POSTINGS_MAX, Phase, Posting, seal};
pub use posted::{Place, Posted};
pub use view::{Head, Known, Ours, Sealed, View};
