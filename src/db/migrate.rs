//! The schema: numbered scripts in `schema/`, each applied once, all in one transaction, one process at a
//! time. What was applied is never edited: a change is another number.

use sha2::{Digest as _, Sha256};

use super::{Db, Dialect, Row, Tx, args};
use crate::base::{Error, Result, hex};

/// Every script, in order; its number is its place, counted from 1.
const SCRIPTS: &[(&str, &str)] = &[
    ("0001_jobs", include_str!("schema/0001_jobs.sql")),
    ("0002_callbacks", include_str!("schema/0002_callbacks.sql")),
    ("0003_tracks", include_str!("schema/0003_tracks.sql")),
    ("0005_purges", include_str!("schema/0005_purges.sql")),
];

/// Key of the advisory lock: "segue" in ASCII.
const LOCK: i64 = 0x73_65_67_75_65;

/// How a database stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schema {
    /// Scripts that are applied.
    pub have: usize,
    /// Scripts that this program knows.
    pub known: usize,
}

impl Db {
    /// Applies what is missing; says how many scripts that were. Safe to call from many processes at once.
    ///
    /// # Errors
    /// `Usage` when the database is newer than this program; `Internal` when what was applied is not what this
    /// program would apply.
    pub async fn migrate(&self) -> Result<usize> {
        // A start on a database that is ready takes no lock and writes nothing.
        if self.schema().await.is_ok_and(|schema| schema.have == schema.known) {
            return Ok(0);
        }
        let mut tx = self.begin().await?; // on SQLite this is the lock
        if self.dialect() == Dialect::Postgres {
            // Held by the transaction, not by the session, which behind PgBouncer is not ours.
            tx.all("select 1 as one from pg_advisory_xact_lock($1)", args![LOCK]).await?;
        }
        tx.script(
            "create table if not exists schema_script (
               number bigint primary key,     -- 1, 2, …
               name text not null,
               sha256 text not null,          -- of the script as it was applied
               applied_us bigint not null
             )",
        )
        .await?;
        let have = applied(&mut tx).await?;
        for (index, (name, script)) in SCRIPTS.iter().enumerate().skip(have) {
            tx.script(script).await?;
            tx.execute(
                "insert into schema_script (number, name, sha256, applied_us) values ($1, $2, $3, $4)",
                args![index as i64 + 1, *name, &digest(script), crate::base::clock::Clock::System.unix_us()],
            )
            .await?;
        }
        tx.commit().await?;
        Ok(SCRIPTS.len() - have)
    }

    /// How the database stands, without changing it.
    ///
    /// # Errors
    /// As `migrate`; also when no script was ever applied.
    pub async fn schema(&self) -> Result<Schema> {
        let mut tx = self.begin_read().await?;
        Ok(Schema { have: applied(&mut tx).await?, known: SCRIPTS.len() })
    }
}

/// How many scripts are applied, each checked to be ours.
async fn applied(tx: &mut Tx) -> Result<usize> {
    let rows: Vec<Row> = tx.all("select name, sha256 from schema_script order by number limit 10000", args![]).await?;
    for (index, row) in rows.iter().enumerate() {
        let (name, sha256) = (row.text("name")?, row.text("sha256")?);
        let Some((known, script)) = SCRIPTS.get(index) else {
            return Err(Error::usage(format!(
                "the database was migrated by a newer segue (it has {name}); run that version, or restore a backup"
            )));
        };
        if *known != name || digest(script) != sha256 {
            return Err(Error::internal(format!(
                "the database's {name} is not the one of this program ({known}); restore a backup made by a release"
            )));
        }
    }
    Ok(rows.len())
}

fn digest(script: &str) -> String {
    hex::encode(&Sha256::digest(script.as_bytes()))
}
