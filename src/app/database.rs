//! The database of a process: which one, opened and brought up to date.

use crate::base::Result;
use crate::config::Config;
use crate::db::{Db, Options, Place};

/// Which database these settings mean.
pub fn options(config: &Config) -> Options {
    let place = match &config.database.url {
        Some(url) => Place::Postgres(url.clone()),
        None => Place::Sqlite(config.data.join("segue.db")),
    };
    Options { place, connections_max: config.database.connections_max }
}

/// Opens it and applies what is missing.
///
/// # Errors
/// As `Db::open` and `Db::migrate`.
pub async fn open(config: &Config) -> Result<Db> {
    let db = Db::open(&options(config)).await?;
    let applied = db.migrate().await?;
    if applied > 0 {
        tracing::info!(applied, "migrated the database");
    }
    Ok(db)
}
