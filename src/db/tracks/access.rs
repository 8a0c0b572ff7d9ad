//! What the access decision needs to know, in one query; and licences, which the ledger writes.

use super::{TrackRow, columns, track};
use crate::base::Result;
use crate::base::id::TrackId;
use crate::db::conn::{Tx, args};
use crate::db::{Db, Dialect};

macro_rules! seen {
    () => {
        concat!(
            "select ",
            columns!(),
            ", cast(case when exists (select 1 from entitlement
                 where entitlement.subject = $2 and entitlement.track = track.id and entitlement.revoked_us is null)
               then 1 else 0 end as bigint) as licensed,
             cast(case when exists (select 1 from share
                 where share.sha256 = $3 and share.track = track.id and share.revoked_us is null
                   and share.expires_us > $4)
               then 1 else 0 end as bigint) as shared
             from track where track.id = $1"
        )
    };
}

/// A track, and what an asker has of it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The row.
    pub row: TrackRow,
    /// Whether they bought it.
    pub licence: bool,
    /// Whether they showed a token of it that is in force.
    pub share: bool,
}

impl Db {
    /// The row of a track with what this subject, and whoever has the share token of this hash, may claim. One
    /// statement, by primary keys.
    ///
    /// # Errors
    /// When the database cannot be reached, or the row cannot be read.
    pub async fn track_seen(
        &self,
        id: TrackId,
        subject: Option<&str>,
        share_sha256: Option<&str>,
        now_us: i64,
    ) -> Result<Option<Seen>> {
        let mut tx = self.begin_read().await?;
        let Some(row) = tx.first(seen!(), args![id.as_str(), subject, share_sha256, now_us]).await? else {
            return Ok(None);
        };
        Ok(Some(Seen { row: track(&row)?, licence: row.int("licensed")? != 0, share: row.int("shared")? != 0 }))
    }

    /// How the database would find what `track_seen` asks for, in its own words: for tests of the indexes.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn explain_track_seen(&self) -> Result<Vec<String>> {
        let mut tx = self.begin_read().await?;
        let (sql, column) = match tx.dialect() {
            Dialect::Sqlite => (concat!("explain query plan ", seen!()), "detail"),
            Dialect::Postgres => {
                // Of a small table it would rather read everything.
                tx.execute("set local enable_seqscan = off", args![]).await?;
                (concat!("explain ", seen!()), "QUERY PLAN")
            }
        };
        let rows = tx.all(sql, args!["trk_1", "usr_1", "00", 1_i64]).await?;
        rows.iter().map(|row| row.text(column)).collect()
    }
}

/// Whether somebody has a licence for a track, in the caller's transaction.
///
/// # Errors
/// When the database refuses.
pub async fn has_licence(tx: &mut Tx, subject: &str, track: TrackId) -> Result<bool> {
    let sql = "select 1 as one from entitlement where subject = $1 and track = $2 and revoked_us is null";
    Ok(tx.first(sql, args![subject, track.as_str()]).await?.is_some())
}

/// Gives somebody a licence, in the caller's transaction: that of the posting which pays for it, or not at all. One that
/// was revoked is given anew.
///
/// # Errors
/// When the database refuses.
pub async fn grant_licence(tx: &mut Tx, subject: &str, track: TrackId, now_us: i64) -> Result<()> {
    tx.execute(
        "insert into entitlement (subject, track, granted_us) values ($1, $2, $3)
         on conflict (subject, track) do update set granted_us = excluded.granted_us, revoked_us = null
         where entitlement.revoked_us is not null",
        args![subject, track.as_str(), now_us],
    )
    .await
    .map(drop)
}

/// Takes a licence back, in the caller's transaction; false when there was none in force.
///
/// # Errors
/// When the database refuses.
pub async fn revoke_licence(tx: &mut Tx, subject: &str, track: TrackId, now_us: i64) -> Result<bool> {
    let sql = "update entitlement set revoked_us = $3 where subject = $1 and track = $2 and revoked_us is null";
    Ok(tx.execute(sql, args![subject, track.as_str(), now_us]).await? > 0)
}
