//! The triggers that keep the ledger's tables, and the log of what admins did, from whoever writes past this program:
//! whether all of them are there and in force.

use crate::base::{Error, Result};
use crate::db::conn::{Tx, args};
use crate::db::{Db, Dialect};

/// What `schema/` makes on SQLite.
pub const SQLITE: [&str; 28] = [
    "audit_is_new",
    "audit_stays_1",
    "audit_stays_2",
    "ledger_account_opens",
    "ledger_account_stays_1",
    "ledger_account_stays_2",
    "ledger_balance_is_new",
    "ledger_balance_stays",
    "ledger_currency_is_new",
    "ledger_currency_stays_1",
    "ledger_currency_stays_2",
    "ledger_head_is_new",
    "ledger_head_stays",
    "ledger_journal_fits",
    "ledger_journal_stays_1",
    "ledger_journal_stays_2",
    "ledger_period_fits",
    "ledger_period_is_over",
    "ledger_period_stays_1",
    "ledger_period_stays_2",
    "ledger_posting_fits",
    "ledger_posting_stays_1",
    "ledger_posting_stays_2",
    "ledger_seal_counts",
    "ledger_seal_fits",
    "ledger_seal_is_later",
    "ledger_seal_stays_1",
    "ledger_seal_stays_2",
];

/// … and on PostgreSQL.
pub const POSTGRES: [&str; 23] = [
    "audit_stays_1",
    "audit_stays_2",
    "ledger_account_is_not_emptied",
    "ledger_account_opens",
    "ledger_account_stays",
    "ledger_balance_is_not_emptied",
    "ledger_balance_stays",
    "ledger_currency_is_not_emptied",
    "ledger_currency_stays",
    "ledger_head_is_not_emptied",
    "ledger_head_stays",
    "ledger_journal_fits",
    "ledger_journal_is_not_emptied",
    "ledger_journal_stays",
    "ledger_period_fits",
    "ledger_period_is_not_emptied",
    "ledger_period_stays",
    "ledger_posting_fits",
    "ledger_posting_is_not_emptied",
    "ledger_posting_stays",
    "ledger_seal_fits",
    "ledger_seal_is_not_emptied",
    "ledger_seal_stays",
];

/// Those that are gone, or were switched off. Whether each still does what it did is not asked.
pub(super) async fn missing(tx: &mut Tx) -> Result<Vec<&'static str>> {
    let (sql, known) = match tx.dialect() {
        Dialect::Sqlite => ("select name from sqlite_schema where type = 'trigger' limit 1000", &SQLITE[..]),
        // `session_replication_role` leaves those that are 'A' (always) alone, and ours are 'O' (origin): a superuser's
        // session gets past them without a trace here, and what it changes is found by its sums.
        Dialect::Postgres => (
            "select cast(t.tgname as text) as name from pg_trigger t
             where not t.tgisinternal and t.tgenabled in ('O', 'A') and pg_table_is_visible(t.tgrelid) limit 1000",
            &POSTGRES[..],
        ),
    };
    let rows = tx.all(sql, args![]).await?;
    let there = rows.iter().map(|row| row.text("name")).collect::<Result<Vec<_>>>()?;
    Ok(known.iter().filter(|name| !there.iter().any(|one| one == *name)).copied().collect())
}

impl Db {
    /// Refuses a database whose tables are not kept: what is written into it could be changed by anybody, and nobody
    /// would count it.
    ///
    /// # Errors
    /// `Internal`, with the names of the triggers that are gone or off; when the database cannot be read.
    pub async fn assert_walls(&self) -> Result<()> {
        let gone = missing(&mut self.begin_one().await?).await?;
        match gone.is_empty() {
            true => Ok(()),
            false => Err(Error::internal(format!(
                "the database has lost triggers that keep its books, or they are switched off: {}; journals could be changed \
                 and would not be counted. Find out who did that, run 'segue ledger verify', and put them back from a \
                 backup's schema (docs/OPERATIONS.md, \"The ledger\")",
                gone.join(", ")
            ))),
        }
    }
}
