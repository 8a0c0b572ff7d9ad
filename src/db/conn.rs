//! One transaction, on either database: binds parameters, reads columns, names what went wrong.

use std::cell::Cell;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, Transaction};

use super::Dialect;
use crate::base::{Error, Kind, Result, crash};

tokio::task_local! {
    /// Statements of the work inside of `counted`.
    static STATEMENTS: Cell<u32>;
}

/// Does `work` and says how many statements it sent to the database, without those that begin and end transactions. What
/// it spawns is not counted.
pub async fn counted<T>(work: impl Future<Output = T>) -> (T, u32) {
    STATEMENTS
        .scope(Cell::new(0), async {
            let done = work.await;
            (done, STATEMENTS.with(Cell::get))
        })
        .await
}

fn count() {
    let _ = STATEMENTS.try_with(|sent| sent.set(sent.get() + 1)); // most work is not counted
}

/// The longest a statement may take. Ours take milliseconds; this is for a server that hangs.
const STATEMENT_MAX: Duration = Duration::from_secs(30);

/// A transaction. Dropping it undoes it.
#[derive(Debug)]
pub struct Tx(Inner);

#[derive(Debug)]
enum Inner {
    Sqlite(Transaction<'static, sqlx::Sqlite>),
    /// No transaction: each statement is one.
    SqliteOnce(PoolConnection<sqlx::Sqlite>),
    /// And whether its statements are prepared in the session.
    Postgres(Transaction<'static, sqlx::Postgres>, bool),
    /// As `SqliteOnce`; prepared.
    PostgresOnce(PoolConnection<sqlx::Postgres>),
}

/// One parameter; `None` is NULL.
#[derive(Clone, Debug)]
pub(super) enum Arg<'a> {
    Text(Option<&'a str>),
    Int(Option<i64>),
}

/// One row of an answer.
pub(super) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

/// `args![id, now_us, None::<i64>]`: the parameters of a statement, `$1` first.
macro_rules! args {
    ($($value:expr),* $(,)?) => { &[$($crate::db::conn::Arg::from($value)),*] };
}
pub(super) use args;

impl<'a> From<&'a str> for Arg<'a> {
    fn from(text: &'a str) -> Arg<'a> {
        Arg::Text(Some(text))
    }
}
impl<'a> From<&'a String> for Arg<'a> {
    fn from(text: &'a String) -> Arg<'a> {
        Arg::Text(Some(text))
    }
}
impl<'a> From<Option<&'a str>> for Arg<'a> {
    fn from(text: Option<&'a str>) -> Arg<'a> {
        Arg::Text(text)
    }
}
impl From<i64> for Arg<'_> {
    fn from(number: i64) -> Self {
        Arg::Int(Some(number))
    }
}
impl From<Option<i64>> for Arg<'_> {
    fn from(number: Option<i64>) -> Self {
        Arg::Int(number)
    }
}

macro_rules! bound {
    ($sql:expr, $args:expr, $persistent:expr) => {{
        let mut query = sqlx::query($sql).persistent($persistent);
        for arg in $args {
            query = match arg {
                Arg::Text(text) => query.bind(text.map(str::to_owned)),
                Arg::Int(number) => query.bind(*number),
            };
        }
        query
    }};
}

impl Tx {
    pub(super) fn sqlite(tx: Transaction<'static, sqlx::Sqlite>) -> Tx {
        Tx(Inner::Sqlite(tx))
    }

    pub(super) fn sqlite_once(connection: PoolConnection<sqlx::Sqlite>) -> Tx {
        Tx(Inner::SqliteOnce(connection))
    }

    pub(super) fn postgres(tx: Transaction<'static, sqlx::Postgres>, prepared: bool) -> Tx {
        Tx(Inner::Postgres(tx, prepared))
    }

    pub(super) fn postgres_once(connection: PoolConnection<sqlx::Postgres>) -> Tx {
        Tx(Inner::PostgresOnce(connection))
    }

    /// Makes what was done visible and durable.
    ///
    /// # Errors
    /// When it cannot be; whether it was done is then unknown, and everything we do may be done twice.
    pub async fn commit(self) -> Result<()> {
        let what = "cannot commit a transaction";
        crash::point().await;
        match self.0 {
            Inner::Sqlite(tx) => within(what, tx.commit()).await?,
            Inner::SqliteOnce(_) | Inner::PostgresOnce(_) => {}
            Inner::Postgres(tx, _) => within(what, tx.commit()).await?,
        }
        crash::point().await;
        Ok(())
    }

    pub(super) fn dialect(&self) -> Dialect {
        match self.0 {
            Inner::Sqlite(_) | Inner::SqliteOnce(_) => Dialect::Sqlite,
            Inner::Postgres(..) | Inner::PostgresOnce(_) => Dialect::Postgres,
        }
    }

    /// Runs one statement and says how many rows it changed.
    pub(super) async fn execute(&mut self, sql: &'static str, args: &[Arg<'_>]) -> Result<u64> {
        count();
        macro_rules! run {
            ($connection:expr, $prepared:expr) => {
                within(sql, bound!(sql, args, $prepared).execute($connection)).await?.rows_affected()
            };
        }
        Ok(match &mut self.0 {
            Inner::Sqlite(tx) => run!(&mut **tx, true),
            Inner::SqliteOnce(connection) => run!(&mut **connection, true),
            Inner::Postgres(tx, prepared) => run!(&mut **tx, *prepared),
            Inner::PostgresOnce(connection) => run!(&mut **connection, true),
        })
    }

    /// Runs one statement and returns every row of its answer: bound it by `limit`.
    pub(super) async fn all(&mut self, sql: &'static str, args: &[Arg<'_>]) -> Result<Vec<Row>> {
        count();
        macro_rules! run {
            ($connection:expr, $prepared:expr, $row:expr) => {{
                let rows = within(sql, bound!(sql, args, $prepared).fetch_all($connection)).await?;
                rows.into_iter().map($row).collect()
            }};
        }
        Ok(match &mut self.0 {
            Inner::Sqlite(tx) => run!(&mut **tx, true, Row::Sqlite),
            Inner::SqliteOnce(connection) => run!(&mut **connection, true, Row::Sqlite),
            Inner::Postgres(tx, prepared) => run!(&mut **tx, *prepared, Row::Postgres),
            Inner::PostgresOnce(connection) => run!(&mut **connection, true, Row::Postgres),
        })
    }

    /// Runs one statement and returns the first row of its answer.
    pub(super) async fn first(&mut self, sql: &'static str, args: &[Arg<'_>]) -> Result<Option<Row>> {
        Ok(self.all(sql, args).await?.into_iter().next())
    }

    /// Runs several statements without parameters: a migration.
    pub(super) async fn script(&mut self, sql: &'static str) -> Result<()> {
        macro_rules! run {
            ($connection:expr) => {
                within(sql, sqlx::raw_sql(sql).execute($connection)).await.map(drop)
            };
        }
        match &mut self.0 {
            Inner::Sqlite(tx) => run!(&mut **tx),
            Inner::SqliteOnce(connection) => run!(&mut **connection),
            Inner::Postgres(tx, _) => run!(&mut **tx),
            Inner::PostgresOnce(connection) => run!(&mut **connection),
        }
    }
}

macro_rules! column {
    ($row:expr, $at:expr, $type:ty) => {{
        let value: std::result::Result<$type, sqlx::Error> = match $row {
            Row::Sqlite(row) => row.try_get($at),
            Row::Postgres(row) => row.try_get($at),
        };
        value.map_err(|cause| failed("cannot read a column", cause))
    }};
}

impl Row {
    pub(super) fn text(&self, at: &str) -> Result<String> {
        column!(self, at, String)
    }

    pub(super) fn text_or_null(&self, at: &str) -> Result<Option<String>> {
        column!(self, at, Option<String>)
    }

    pub(super) fn int(&self, at: &str) -> Result<i64> {
        column!(self, at, i64)
    }

    pub(super) fn int_or_null(&self, at: &str) -> Result<Option<i64>> {
        column!(self, at, Option<i64>)
    }

    /// A column whose type is the engine's choice: pragmas answer with either.
    pub(super) fn text_or_int(&self, at: usize) -> Result<String> {
        column!(self, at, String).or_else(|_| column!(self, at, i64).map(|number| number.to_string()))
    }
}

/// Waits for the database, but not for ever. A statement that is given up loses its connection.
pub(super) async fn within<T>(what: &str, work: impl Future<Output = sqlx::Result<T>>) -> Result<T> {
    match tokio::time::timeout(STATEMENT_MAX, work).await {
        Ok(done) => done.map_err(|cause| failed(what, cause)),
        Err(_) => {
            let (what, most) = (first_line(what), STATEMENT_MAX.as_secs());
            Err(Error::new(Kind::Unavailable, format!("the database did not answer within {most} s ({what})")))
        }
    }
}

/// Names the kind of a failure: what trying again may mend, and what not.
pub(super) fn failed(what: &str, cause: sqlx::Error) -> Error {
    let what = first_line(what);
    let kind = match &cause {
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Io(_) | sqlx::Error::Tls(_) => {
            Kind::Unavailable
        }
        sqlx::Error::Database(answer) => match answer.code().as_deref() {
            // PostgreSQL: serialization, deadlock, lock not available. SQLite: BUSY, LOCKED, BUSY_SNAPSHOT.
            Some("40001" | "40P01" | "55P03" | "5" | "6" | "517") => Kind::Busy,
            // PostgreSQL: shutting down, starting up, too many connections (Appendix A, "Error Codes").
            Some("57P01" | "57P02" | "57P03" | "53300") => Kind::Unavailable,
            // PostgreSQL: a statement that the session does not know, or knows already.
            Some("26000" | "42P05") => {
                let what = "a session of PostgreSQL lost its prepared statements, as behind a pooler of transactions; set \
                            database.prepared_statements = false";
                return Error::new(Kind::Internal, what).because(cause);
            }
            Some(code) if is_disk(code) => {
                let what =
                    format!("the database cannot use its disk: {what}; see that it is not full, and that it is whole");
                return Error::new(Kind::Unavailable, what).because(cause);
            }
            _ => Kind::Internal,
        },
        _ => Kind::Internal,
    };
    Error::new(kind, format!("the database refused: {what}")).because(cause)
}

/// SQLite's IOERR and FULL with whatever is in their upper bytes (<https://www.sqlite.org/rescode.html>); PostgreSQL's
/// disk_full.
fn is_disk(code: &str) -> bool {
    code == "53100" || code.parse::<u32>().is_ok_and(|code| code < 1 << 16 && matches!(code & 0xff, 10 | 13))
}

fn first_line(what: &str) -> &str {
    what.trim_start().lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_other_refusals() {
        for (code, expected) in
            [("13", true), ("10", true), ("4874", true), ("53100", true), ("5", false), ("42601", false)]
        {
            assert_eq!(is_disk(code), expected, "{code}");
        }
    }
}
