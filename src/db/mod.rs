//! The database: the only place with SQL. In: a data directory or a PostgreSQL URL. Out: `Db`, whose
//! methods in the files beside are verbs (`lease`, `settle`) that return plain values.
//!
//! One set of SQL serves both dialects: `$1` parameters, text ids, whole microseconds since 1970, JSON as
//! text, no booleans. Where they differ, `Dialect` says so at the place. SQLite is for one machine and has
//! one writer; PostgreSQL may stand behind PgBouncer in transaction mode: no session state, no `LISTEN`, and no
//! prepared statement that outlives its query unless the settings say that nothing stands there.

pub mod api_keys;
mod conn;
pub mod deliveries;
pub mod disputes;
pub mod dmca;
pub mod email_change;
pub mod health;
mod invoices;
pub mod jobs;
pub mod leaving;
pub mod ledger;
pub mod limits;
pub mod metrics;
mod migrate;
pub mod money;
pub mod orders;
pub mod outbox;
pub mod people;
pub mod products;
pub mod purges;
pub mod refunds;
mod returns;
pub mod sessions;
pub mod singletons;
pub mod subscriptions;
pub mod tracks;
pub mod transfers;
pub mod uploads;
pub mod users;
pub mod webhooks;
pub mod workers;

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::time::{Duration, Instant};

use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};

use conn::{Row, args, failed, within};
pub use conn::{Tx, counted};
pub use migrate::Schema;

use crate::base::error::Context as _;
use crate::base::{Error, Kind, Result};

/// Where the database is, and what it may cost.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which one.
    pub place: Place,
    /// Connections open at most; on SQLite those that read, beside the one that writes.
    pub connections_max: u32,
    /// PostgreSQL's sessions are ours alone: nothing that pools transactions stands before it. Statements are then
    /// prepared once in each, and a single one needs no transaction.
    pub prepared_statements: bool,
}

/// Which database.
#[derive(Clone, Debug)]
pub enum Place {
    /// The embedded one, in this file.
    Sqlite(PathBuf),
    /// A PostgreSQL URL, password and all: never print it.
    Postgres(String),
}

/// An open database. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Db {
    /// The embedded one.
    Sqlite(Sqlite),
    /// A server that several processes share.
    Postgres(Postgres),
}

/// The embedded database: one connection that writes, so that nobody waits for a lock inside the process.
#[derive(Clone, Debug)]
pub struct Sqlite {
    writer: SqlitePool,
    readers: SqlitePool,
}

/// A server of PostgreSQL, or what pools its sessions.
#[derive(Clone, Debug)]
pub struct Postgres {
    pool: PgPool,
    /// See `Options`.
    prepared_statements: bool,
}

/// What differs between the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Writers stand in line.
    Sqlite,
    /// Rows are locked one by one.
    Postgres,
}

/// How long to wait for a connection. Longer than a busy moment, shorter than a client's patience.
const ACQUIRE_MAX: Duration = Duration::from_secs(5);
/// Prepared statements that a connection keeps: more than there are of ours.
const STATEMENTS_KEPT: usize = 512;
/// A connection to PostgreSQL that rested for less is taken to be alive.
const UNASKED_MAX: Duration = Duration::from_secs(1);
/// How long SQLite waits for another process that writes.
const BUSY_MAX: Duration = Duration::from_secs(5);

impl Db {
    /// Opens the database; the embedded one is made when it is missing. Applies no migration.
    ///
    /// # Errors
    /// `Usage` for a URL that cannot be read, `Unavailable` when no server answers, `Internal` when the file
    /// cannot be used.
    pub async fn open(options: &Options) -> Result<Db> {
        match &options.place {
            Place::Sqlite(file) => Sqlite::open(file, options.connections_max).await.map(Db::Sqlite),
            Place::Postgres(url) => Postgres::open(url, options).await.map(Db::Postgres),
        }
    }

    /// Begins a transaction that may write. Dropping it undoes it.
    ///
    /// # Errors
    /// `Unavailable` when no connection can be had, `Busy` when another process holds the file too long.
    pub async fn begin(&self) -> Result<Tx> {
        let what = "cannot begin a transaction";
        match self {
            // IMMEDIATE: a transaction that reads first and then writes would fail when somebody wrote in between
            // (https://www.sqlite.org/lang_transaction.html).
            Db::Sqlite(sqlite) => within(what, sqlite.writer.begin_with("begin immediate")).await.map(Tx::sqlite),
            Db::Postgres(postgres) => {
                let begun = within(what, postgres.pool.begin()).await?;
                Ok(Tx::postgres(begun, postgres.prepared_statements))
            }
        }
    }

    /// Begins a transaction that only reads: it waits for no writer.
    ///
    /// # Errors
    /// As `begin`.
    pub async fn begin_read(&self) -> Result<Tx> {
        match self {
            Db::Sqlite(sqlite) => within("cannot begin to read", sqlite.readers.begin()).await.map(Tx::sqlite),
            Db::Postgres(_) => self.begin().await,
        }
    }

    /// What time it is there, in microseconds since 1970; `None` where it has no clock but this machine's.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn clock_us(&self) -> Result<Option<i64>> {
        if self.dialect() == Dialect::Sqlite {
            return Ok(None);
        }
        let mut tx = self.begin_read().await?;
        let row = tx.first("select cast(extract(epoch from clock_timestamp()) * 1000000 as bigint) as now_us", args![]);
        row.await?.map(|row| row.int("now_us")).transpose()
    }

    /// For reading by one statement: as `begin_read`, without what begins and ends a transaction where a session is ours
    /// alone. Statements beyond the first would see what was written between them.
    ///
    /// # Errors
    /// As `begin`.
    async fn begin_one(&self) -> Result<Tx> {
        let what = "cannot begin to read";
        match self {
            Db::Sqlite(sqlite) => within(what, sqlite.readers.acquire()).await.map(Tx::sqlite_once),
            Db::Postgres(Postgres { pool, prepared_statements: true }) => {
                within(what, pool.acquire()).await.map(Tx::postgres_once)
            }
            // PgBouncer may give every statement outside of a transaction another session, sqlx's own two halves of it too.
            Db::Postgres(_) => self.begin().await,
        }
    }

    /// Which dialect it speaks.
    pub fn dialect(&self) -> Dialect {
        match self {
            Db::Sqlite(_) => Dialect::Sqlite,
            Db::Postgres(_) => Dialect::Postgres,
        }
    }

    /// Asks for nothing, to see whether anybody answers.
    ///
    /// # Errors
    /// As `begin`.
    pub async fn ping(&self) -> Result<()> {
        let mut tx = self.begin_one().await?;
        tx.all("select 1", args![]).await.map(drop)
    }

    /// Writes SQLite's log back into its file and empties it, so that it tells nothing of what was deleted. What a reader
    /// holds back stays until the log is written over.
    async fn empty_log(&self) {
        let Db::Sqlite(sqlite) = self else { return };
        let emptied = sqlx::query("pragma wal_checkpoint(truncate)").fetch_all(&sqlite.writer);
        if let Err(error) = within("cannot empty the log", emptied).await {
            tracing::warn!(error = error.chain(), "the database's log is emptied later");
        }
    }

    /// Closes every connection after what runs on it; SQLite's log is written back into its file.
    pub async fn close(&self) {
        match self {
            Db::Sqlite(sqlite) => {
                sqlite.readers.close().await;
                sqlite.writer.close().await;
            }
            Db::Postgres(postgres) => postgres.pool.close().await,
        }
    }
}

impl Sqlite {
    async fn open(file: &Path, readers_max: u32) -> Result<Sqlite> {
        let what = || format!("cannot open the database {}", file.display());
        if let Some(dir) = file.parent() {
            std::fs::create_dir_all(dir).context(what)?;
        }
        // Made by us, for its owner only: SQLite gives its companions (-wal, -shm) the same mode.
        let made = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(file);
        drop(made.context(what)?);
        let options = SqliteConnectOptions::new()
            .filename(file)
            .journal_mode(SqliteJournalMode::Wal)
            // FULL: a commit that was answered survives a power cut (https://www.sqlite.org/pragma.html).
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_MAX)
            // More statements than we have: preparing one that stores a journal compiles all of its triggers.
            .statement_cache_capacity(STATEMENTS_KEPT)
            .pragma("trusted_schema", "off")
            // Without it INSERT OR REPLACE deletes rows behind the triggers' backs (https://www.sqlite.org/lang_conflict.html).
            .pragma("recursive_triggers", "on")
            // What is deleted is overwritten: erasing somebody leaves nothing in free pages either.
            .pragma("secure_delete", "on");
        // Several processes that open a new file at once all want to change it to WAL, and SQLite refuses all but
        // one without waiting (https://www.sqlite.org/wal.html §8).
        let give_up = Instant::now() + BUSY_MAX;
        let writer = loop {
            let opened = SqlitePoolOptions::new()
                .max_connections(1)
                .acquire_timeout(ACQUIRE_MAX)
                .idle_timeout(None)
                .max_lifetime(None)
                .test_before_acquire(false) // a file does not hang up
                .connect_with(options.clone())
                .await
                .map_err(|cause| failed(&what(), cause));
            match opened {
                Err(error) if error.kind() == Kind::Busy && Instant::now() < give_up => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                opened => break opened?,
            }
        };
        let readers = SqlitePoolOptions::new()
            .max_connections(readers_max.max(1))
            .acquire_timeout(ACQUIRE_MAX)
            .test_before_acquire(false)
            .connect_lazy_with(options.pragma("query_only", "on"));
        let sqlite = Sqlite { writer, readers };
        sqlite.assert_pragmas(file).await?;
        Ok(sqlite)
    }

    /// A pragma that cannot be had is no error for SQLite: it answers with what it has. Some file systems
    /// have no shared memory for WAL, and some builds no foreign keys.
    async fn assert_pragmas(&self, file: &Path) -> Result<()> {
        const WANTED: [(&str, &str, &str); 7] = [
            ("pragma journal_mode", "journal_mode", "wal"),
            ("pragma synchronous", "synchronous", "2"),
            ("pragma foreign_keys", "foreign_keys", "1"),
            ("pragma busy_timeout", "busy_timeout", "5000"),
            ("pragma trusted_schema", "trusted_schema", "0"),
            ("pragma recursive_triggers", "recursive_triggers", "1"),
            ("pragma secure_delete", "secure_delete", "1"),
        ];
        let begun = within("cannot read the database's settings", self.writer.begin()).await?;
        let mut tx = Tx::sqlite(begun);
        for (ask, name, wanted) in WANTED {
            let row = tx.first(ask, args![]).await?;
            let have = row.map(|row| row.text_or_int(0)).transpose()?.unwrap_or_default();
            if have != wanted {
                return Err(Error::internal(format!(
                    "the database {} has {name} = {have} and needs {wanted}: keep the data directory on a local file \
                     system, or set DATABASE_URL to a PostgreSQL server",
                    file.display()
                )));
            }
        }
        Ok(())
    }
}

impl Postgres {
    async fn open(url: &str, how: &Options) -> Result<Postgres> {
        let options = PgConnectOptions::from_str(url).map_err(|cause| {
            Error::usage("DATABASE_URL cannot be read; set it to postgres://user:password@host:5432/database")
                .because(cause.to_string())
        })?;
        // PgBouncer in transaction mode gives every transaction another session: no statement may be kept in one, and
        // it refuses start-up parameters that it does not know (https://www.pgbouncer.org/config.html).
        let kept = if how.prepared_statements { STATEMENTS_KEPT } else { 0 };
        let options = options.statement_cache_capacity(kept).extra_float_digits(None).application_name("segue");
        let (host, port) = (options.get_host().to_owned(), options.get_port());
        let pool = PgPoolOptions::new()
            .max_connections(how.connections_max.max(1))
            .acquire_timeout(ACQUIRE_MAX)
            .max_lifetime(Duration::from_secs(30 * 60)) // a server behind a balancer may be gone
            // Whoever answered a moment ago is not asked again whether it is there.
            .test_before_acquire(false)
            .before_acquire(|session, used| {
                Box::pin(async move { Ok(used.idle_for < UNASKED_MAX || session.ping().await.is_ok()) })
            })
            .connect_with(options)
            .await
            .map_err(|cause| failed(&format!("cannot reach PostgreSQL at {host}:{port} (DATABASE_URL)"), cause))?;
        Ok(Postgres { pool, prepared_statements: how.prepared_statements })
    }
}
