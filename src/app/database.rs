//! The database of a process: which one, opened and brought up to date.

use std::time::{Duration, Instant};

use crate::base::Result;
use crate::base::clock::{self, Clock};
use crate::config::Config;
use crate::db::{Db, Options, Place};

/// Which database these settings mean.
pub fn options(config: &Config) -> Options {
    let place = match &config.database.url {
        Some(url) => Place::Postgres(url.clone()),
        None => Place::Sqlite(config.data.join("segue.db")),
    };
    let (connections_max, prepared_statements) = (config.database.connections_max, config.database.prepared_statements);
    Options { place, connections_max, prepared_statements }
}

/// Opens it and applies what is missing.
///
/// # Errors
/// As `Db::open`, `Db::migrate` and `Db::assert_walls`.
pub async fn open(config: &Config) -> Result<Db> {
    let db = Db::open(&options(config)).await?;
    let applied = db.migrate().await?;
    if applied > 0 {
        tracing::info!(applied, "migrated the database");
    }
    db.assert_walls().await?;
    compare_clocks(&db).await?;
    let compared = db.clone();
    // Not joined: it ends with the runtime.
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(COMPARED_EVERY).await;
            let _ = compare_clocks(&compared).await; // whoever needs the database says that it is away
        }
    });
    Ok(db)
}

/// How often this machine's clock is compared with the database's.
const COMPARED_EVERY: Duration = Duration::from_secs(60);
/// Less is what NTP leaves, or the way there and back.
const APART_US_MIN: i64 = 1_000_000;

/// Goes by the database's clock where it and this machine's differ by a second or more: a node that is ahead would take
/// everybody's leases for expired, one that is behind would hold its own for too long.
async fn compare_clocks(db: &Db) -> Result<()> {
    let (begun, before_us) = (Instant::now(), Clock::System.unix_us());
    let Some(theirs_us) = db.clock_us().await? else { return Ok(()) };
    let took_us = begun.elapsed().as_micros() as i64;
    if took_us > APART_US_MIN {
        return Ok(()); // nobody knows at which moment of it they looked
    }
    let apart_us = theirs_us - (before_us + took_us / 2);
    let ahead_us = if apart_us.abs() < APART_US_MIN { 0 } else { apart_us };
    let was_us = clock::put_right(ahead_us);
    if was_us.abs_diff(ahead_us) >= APART_US_MIN as u64 {
        let apart_s = apart_us / 1_000_000;
        tracing::warn!(
            apart_s,
            "this machine's clock differs from the database's, and leases, sessions and limits go by the database's; correct \
             it (timedatectl, chronyc tracking)"
        );
    }
    Ok(())
}
