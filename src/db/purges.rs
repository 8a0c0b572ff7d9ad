//! What a CDN shall forget: wished for by takedowns, tried by workers until it is done.

use serde_json::{Value, json};

use super::conn::{Tx, args};
use super::{Db, Dialect};
use crate::base::id::sortable;
use crate::base::{Error, Result};
use crate::cdn::purge::What;
use crate::jobs::backoff::Backoff;

/// Tries of one purge until nobody tries it again by himself: a week at an hour each.
pub const TRIES_MAX: i64 = 168;

/// One purge to ask for.
#[derive(Clone, Debug, PartialEq)]
pub struct Purge {
    /// Its id, the same on every try.
    pub id: String,
    /// What shall be forgotten.
    pub what: What,
    /// How often it was wished for when this try began.
    pub asked: i64,
    /// The number of this try, from 1.
    pub number: i64,
}

/// How a try went.
#[derive(Clone, Debug, PartialEq)]
pub enum Tried {
    /// It is forgotten.
    Done,
    /// It is not, and why; not before so many microseconds, when the API says so.
    Failed(String, Option<i64>),
}

/// Wishes that a CDN forgets something, in the caller's transaction: with the takedown, or not at all. Not before
/// `due_us`, so that origins are dark by then and the CDN cannot fetch it again. What waits already is wished once more.
///
/// # Errors
/// When the database refuses.
pub async fn wish(tx: &mut Tx, what: &What, due_us: i64, now_us: i64) -> Result<()> {
    let (kind, value) = what.parts();
    // A try may be on its way, whose end must not be taken for this wish's: `asked` tells.
    tx.execute(
        "insert into purge (id, kind, value, state, next_us, created_us) values ($1, $2, $3, 'pending', $4, $5)
         on conflict (kind, value) where state = 'pending'
         do update set asked = purge.asked + 1, tries = 0, next_us = excluded.next_us",
        args![&sortable("prg_", now_us), kind, value, due_us, now_us],
    )
    .await
    .map(drop)
}

impl Db {
    /// As `wish`, in a transaction of its own.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn wish_purge(&self, what: &What, due_us: i64, now_us: i64) -> Result<()> {
        let mut tx = self.begin().await?;
        wish(&mut tx, what, due_us, now_us).await?;
        tx.commit().await
    }

    /// Takes the purges whose time has come; nobody else gets them before `until_us`.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn take_purges(&self, limit: u32, now_us: i64, until_us: i64) -> Result<Vec<Purge>> {
        let mut tx = self.begin_read().await?;
        let due = "select id from purge where state = 'pending' and next_us <= $1 limit 1";
        if tx.first(due, args![now_us]).await?.is_none() {
            return Ok(Vec::new());
        }
        drop(tx);
        let mut tx = self.begin().await?;
        let sql = match tx.dialect() {
            Dialect::Sqlite => {
                "update purge set tries = tries + 1, next_us = $2
                 where id in (select id from purge where state = 'pending' and next_us <= $1
                   order by next_us, id limit $3)
                 returning id, kind, value, asked, tries"
            }
            Dialect::Postgres => {
                "update purge set tries = tries + 1, next_us = $2
                 where id in (select id from purge where state = 'pending' and next_us <= $1
                   order by next_us, id limit $3 for update skip locked)
                 returning id, kind, value, asked, tries"
            }
        };
        let mut taken = Vec::new();
        for row in tx.all(sql, args![now_us, until_us, i64::from(limit)]).await? {
            let value = row.text("value")?;
            let what = match row.text("kind")?.as_str() {
                "tag" => What::Tag(value),
                "url" => What::Url(value),
                kind => return Err(Error::internal(format!("a purge of the kind {kind}"))),
            };
            taken.push(Purge { id: row.text("id")?, what, asked: row.int("asked")?, number: row.int("tries")? });
        }
        tx.commit().await?;
        taken.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(taken)
    }

    /// Writes down how a try went, and when the next one is. What was wished for again meanwhile is tried again.
    ///
    /// # Errors
    /// When the database cannot be reached; the purge is then asked for again.
    pub async fn settle_purge(&self, purge: &Purge, tried: &Tried, backoff: Backoff, now_us: i64) -> Result<()> {
        let mut tx = self.begin().await?;
        match tried {
            Tried::Done => {
                tx.execute(
                    "update purge set state = 'done', done_us = $3, error = null
                     where id = $1 and asked = $2 and state = 'pending'",
                    args![&purge.id, purge.asked, now_us],
                )
                .await?;
            }
            Tried::Failed(why, after_us) => {
                let next_us = now_us + after_us.unwrap_or_else(|| backoff.delay_us(purge.number));
                let state = if purge.number >= TRIES_MAX { "dead" } else { "pending" };
                tx.execute(
                    "update purge set state = $4, next_us = $5, error = $6
                     where id = $1 and asked = $2 and tries = $3 and state = 'pending'",
                    args![&purge.id, purge.asked, purge.number, state, next_us, why],
                )
                .await?;
            }
        }
        tx.commit().await
    }

    /// How many purges wait.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn purges_waiting(&self) -> Result<i64> {
        let mut tx = self.begin_read().await?;
        let row = tx.first("select count(*) as n from purge where state = 'pending'", args![]).await?;
        row.map_or(Ok(0), |row| row.int("n"))
    }

    /// The latest purges, as JSON.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn purges(&self, limit: u32) -> Result<Vec<Value>> {
        let mut tx = self.begin_read().await?;
        let sql = "select id, kind, value, state, tries, error, created_us, done_us, next_us from purge
                   order by id desc limit $1";
        let rows = tx.all(sql, args![i64::from(limit)]).await?;
        let one = |row: &super::Row| {
            Ok(json!({
                "id": row.text("id")?, "kind": row.text("kind")?, "value": row.text("value")?,
                "state": row.text("state")?, "tries": row.int("tries")?, "error": row.text_or_null("error")?,
                "created_us": row.int("created_us")?, "done_us": row.int_or_null("done_us")?,
                "next_us": row.int("next_us")?,
            }))
        };
        rows.iter().map(one).collect()
    }

    /// Forgets purges that ended before `before_us`.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn forget_purges(&self, before_us: i64) -> Result<u64> {
        let mut tx = self.begin().await?;
        let sql = "delete from purge where state <> 'pending' and created_us < $1";
        let gone = tx.execute(sql, args![before_us]).await?;
        tx.commit().await?;
        Ok(gone)
    }
}
