//! Tokens by which owners let others hear a track.

use crate::base::id::TrackId;
use crate::base::{Error, Result};
use crate::db::Db;
use crate::db::conn::{Row, args};
use crate::tracks::share::{SHARES_MAX, ShareId};

/// A share to make.
#[derive(Clone, Debug)]
pub struct NewShare<'a> {
    /// Of which track.
    pub track: TrackId,
    /// Of its token.
    pub sha256: &'a str,
    /// What its owner calls it.
    pub label: Option<&'a str>,
    /// When it ends, in microseconds since 1970.
    pub expires_us: i64,
}

/// A share; its token is kept nowhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Share {
    /// Its id.
    pub id: ShareId,
    /// Of which track.
    pub track: TrackId,
    /// What its owner calls it.
    pub label: Option<String>,
    /// When it was made, in microseconds since 1970.
    pub created_us: i64,
    /// When it ends.
    pub expires_us: i64,
    /// When it was taken back.
    pub revoked_us: Option<i64>,
}

impl Db {
    /// Makes a share; `None` when the track has as many in force as it may.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn create_share(&self, new: &NewShare<'_>, now_us: i64) -> Result<Option<ShareId>> {
        let id = ShareId::new(now_us);
        let mut tx = self.begin().await?;
        let made = tx
            .execute(
                "insert into share (id, track, sha256, label, created_us, expires_us)
                 select $1, $2, $3, $4, $5, $6
                 where (select count(*) from share where track = $2 and revoked_us is null and expires_us > $5) < $7",
                args![id.as_str(), new.track.as_str(), new.sha256, new.label, now_us, new.expires_us, SHARES_MAX],
            )
            .await?;
        tx.commit().await?;
        Ok((made > 0).then_some(id))
    }

    /// The shares of a track that are in force, the latest first, behind one of them.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn shares(
        &self,
        track: TrackId,
        before: Option<&ShareId>,
        limit: u32,
        now_us: i64,
    ) -> Result<Vec<Share>> {
        let mut tx = self.begin_read().await?;
        let sql = "select id, track, label, created_us, expires_us, revoked_us from share
                   where track = $1 and revoked_us is null and expires_us > $2 and ($3 = '' or id < $3)
                   order by id desc limit $4";
        let before = before.map_or("", ShareId::as_str);
        tx.all(sql, args![track.as_str(), now_us, before, i64::from(limit)]).await?.iter().map(share).collect()
    }

    /// The share in force whose token has this hash.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn share_of(&self, sha256: &str, now_us: i64) -> Result<Option<Share>> {
        let mut tx = self.begin_read().await?;
        let sql = "select id, track, label, created_us, expires_us, revoked_us from share
                   where sha256 = $1 and revoked_us is null and expires_us > $2";
        tx.first(sql, args![sha256, now_us]).await?.map(|row| share(&row)).transpose()
    }

    /// Takes a share of this track back; false when there is none in force.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn revoke_share(&self, track: TrackId, id: &ShareId, now_us: i64) -> Result<bool> {
        let mut tx = self.begin().await?;
        let sql = "update share set revoked_us = $3 where id = $1 and track = $2 and revoked_us is null";
        let revoked = tx.execute(sql, args![id.as_str(), track.as_str(), now_us]).await?;
        tx.commit().await?;
        Ok(revoked > 0)
    }
}

fn share(row: &Row) -> Result<Share> {
    let track = row.text("track")?;
    Ok(Share {
        id: row.text("id")?.parse()?,
        track: TrackId::decode(&track).ok_or_else(|| Error::internal("a share of a track without an id"))?,
        label: row.text_or_null("label")?,
        created_us: row.int("created_us")?,
        expires_us: row.int("expires_us")?,
        revoked_us: row.int_or_null("revoked_us")?,
    })
}
