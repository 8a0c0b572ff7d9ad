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
    ("0004_uploads", include_str!("schema/0004_uploads.sql")),
    ("0005_purges", include_str!("schema/0005_purges.sql")),
    ("0006_ledger", include_str!("schema/0006_ledger.sql")),
    ("0007_users", include_str!("schema/0007_users.sql")),
    ("0008_tracks", include_str!("schema/0008_tracks.sql")),
    ("0009_money", include_str!("schema/0009_money.sql")),
    ("0011_returns", include_str!("schema/0011_returns.sql")),
    ("0012_email_change", include_str!("schema/0012_email_change.sql")),
    ("0013_leaving", include_str!("schema/0013_leaving.sql")),
    ("0014_renewals", include_str!("schema/0014_renewals.sql")),
    ("0015_invoice_refunds", include_str!("schema/0015_invoice_refunds.sql")),
    ("0016_workers", include_str!("schema/0016_workers.sql")),
    ("0017_walls", include_str!("schema/0017_walls.sql")),
    ("0018_ledger_sets", include_str!("schema/0018_ledger_sets.sql")),
    ("0019_on_sale", include_str!("schema/0019_on_sale.sql")),
    ("0020_ledger_paths", include_str!("schema/0020_ledger_paths.sql")),
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
            for part in parts(script, self.dialect()) {
                tx.script(part).await?;
            }
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

/// What of a script is for this dialect. Lines `--@ sqlite`, `--@ postgres`, `--@ both` begin parts that are; what comes
/// before the first is for both.
fn parts(script: &'static str, dialect: Dialect) -> Vec<&'static str> {
    let ours = match dialect {
        Dialect::Sqlite => "sqlite",
        Dialect::Postgres => "postgres",
    };
    let mut parts = script.split("\n--@ ");
    let head = parts.next();
    let named = parts.filter_map(|part| part.split_once('\n'));
    head.into_iter().chain(named.filter(|(name, _)| *name == ours || *name == "both").map(|(_, part)| part)).collect()
}

fn digest(script: &str) -> String {
    hex::encode(&Sha256::digest(script.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_has_parts_for_one_dialect_and_for_both() {
        let script = "a\n--@ sqlite\nb\n--@ postgres\nc\nd\n--@ both\ne\n";
        assert_eq!(parts(script, Dialect::Sqlite), ["a", "b", "e\n"]);
        assert_eq!(parts(script, Dialect::Postgres), ["a", "c\nd", "e\n"]);
        assert_eq!(parts("only this\n", Dialect::Sqlite), ["only this\n"]);
    }

    #[test]
    fn scripts_are_numbered_by_name_and_cut_into_known_parts() {
        let mut before = "";
        for (name, script) in SCRIPTS {
            assert!(*name > before, "{name} comes after {before}");
            before = name;
            let cuts = script.lines().filter_map(|line| line.strip_prefix("--@ "));
            assert!(cuts.clone().all(|cut| ["sqlite", "postgres", "both"].contains(&cut)), "{name}");
        }
    }
}
