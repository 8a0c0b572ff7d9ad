//! Work that one process does for all: whoever holds the name does it, until the term ends or it is given back.

use super::{Db, args};
use crate::base::Result;

impl Db {
    /// Takes or keeps the singleton `name` until `until_us`; false while somebody else holds it.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn hold(&self, name: &str, holder: &str, now_us: i64, until_us: i64) -> Result<bool> {
        let mut tx = self.begin().await?;
        let held = tx
            .execute(
                "insert into singleton (name, holder, until_us) values ($1, $2, $3)
                 on conflict (name) do update set holder = excluded.holder, until_us = excluded.until_us
                 where singleton.holder = excluded.holder or singleton.until_us <= $4",
                args![name, holder, until_us, now_us],
            )
            .await?;
        tx.commit().await?;
        Ok(held > 0)
    }

    /// What is held: what, by whom, until when in microseconds since 1970.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn holders(&self) -> Result<Vec<(String, String, i64)>> {
        let mut tx = self.begin_one().await?;
        let sql = "select name, holder, until_us from singleton order by name limit 100";
        let rows = tx.all(sql, args![]).await?;
        rows.iter().map(|row| Ok((row.text("name")?, row.text("holder")?, row.int("until_us")?))).collect()
    }

    /// Gives back every singleton that `holder` has.
    ///
    /// # Errors
    /// When the database cannot be reached; the terms end by themselves.
    pub async fn release(&self, holder: &str) -> Result<()> {
        let mut tx = self.begin().await?;
        tx.execute("delete from singleton where holder = $1", args![holder]).await?;
        tx.commit().await
    }
}
