//! Mails to be sent: wished for in the transaction they belong to, sent by workers until it is done.

use super::conn::{Tx, args};
use super::{Db, Dialect};
use crate::base::Result;
use crate::base::id::sortable;
use crate::jobs::backoff::Backoff;

/// Tries of one mail: about a day, as long as what most of them open is valid.
pub const TRIES_MAX: i64 = 32;
/// Rows that one look of the janitor removes.
const BATCH: i64 = 500;

/// One mail to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// Its id, the same on every try.
    pub id: String,
    /// Which words it has.
    pub kind: String,
    /// To whom.
    pub email: String,
    /// What it needs to say, JSON.
    pub about: String,
    /// The number of this try, from 1.
    pub number: i64,
    /// When it was wished for.
    pub created_us: i64,
}

/// How a try went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Posted {
    /// The server took it.
    Sent,
    /// There is nothing to say any more.
    Dropped,
    /// Not now: try again.
    Later(String),
    /// Never: the address is refused.
    Never(String),
}

/// Wishes for a mail, in the caller's transaction: with what it is about, or not at all.
///
/// # Errors
/// When the database refuses.
pub async fn put(tx: &mut Tx, kind: &str, email: &str, about: &str, now_us: i64) -> Result<()> {
    tx.execute(
        "insert into mail (id, kind, email, about, state, next_us, created_us) values ($1, $2, $3, $4, 'pending', $5, $5)",
        args![&sortable("mai_", now_us), kind, email, about, now_us],
    )
    .await
    .map(drop)
}

impl Db {
    /// As `put`, in a transaction of its own.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn put_mail(&self, kind: &str, email: &str, about: &str, now_us: i64) -> Result<()> {
        let mut tx = self.begin().await?;
        put(&mut tx, kind, email, about, now_us).await?;
        tx.commit().await
    }

    /// Takes the mails whose time has come; nobody else gets them before `until_us`.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn take_mails(&self, limit: u32, now_us: i64, until_us: i64) -> Result<Vec<Mail>> {
        let mut tx = self.begin_read().await?;
        let due = "select id from mail where state = 'pending' and next_us <= $1 limit 1";
        if tx.first(due, args![now_us]).await?.is_none() {
            return Ok(Vec::new());
        }
        drop(tx);
        let mut tx = self.begin().await?;
        let sql = match tx.dialect() {
            Dialect::Sqlite => {
                "update mail set tries = tries + 1, next_us = $2
                 where id in (select id from mail where state = 'pending' and next_us <= $1 order by next_us, id limit $3)
                 returning id, kind, email, about, tries, created_us"
            }
            Dialect::Postgres => {
                "update mail set tries = tries + 1, next_us = $2
                 where id in (select id from mail where state = 'pending' and next_us <= $1
                   order by next_us, id limit $3 for update skip locked)
                 returning id, kind, email, about, tries, created_us"
            }
        };
        let mut taken = Vec::new();
        for row in tx.all(sql, args![now_us, until_us, i64::from(limit)]).await? {
            taken.push(Mail {
                id: row.text("id")?,
                kind: row.text("kind")?,
                email: row.text("email")?,
                about: row.text("about")?,
                number: row.int("tries")?,
                created_us: row.int("created_us")?,
            });
        }
        tx.commit().await?;
        taken.sort_by(|a, b| (a.created_us, &a.id).cmp(&(b.created_us, &b.id)));
        Ok(taken)
    }

    /// Writes down how a try went, and when the next one is.
    ///
    /// # Errors
    /// When the database cannot be reached; the mail is then sent again.
    pub async fn settle_mail(&self, mail: &Mail, posted: &Posted, backoff: Backoff, now_us: i64) -> Result<()> {
        let (state, error) = match posted {
            Posted::Sent => ("sent", None),
            Posted::Dropped => ("dropped", None),
            Posted::Later(why) if mail.number < TRIES_MAX => ("pending", Some(why.as_str())),
            Posted::Later(why) | Posted::Never(why) => ("dead", Some(why.as_str())),
        };
        let ended = (state != "pending").then_some(now_us);
        let next_us = now_us + backoff.delay_us(mail.number);
        let mut tx = self.begin().await?;
        tx.execute(
            "update mail set state = $3, error = $4, done_us = $5, next_us = $6
             where id = $1 and tries = $2 and state = 'pending'",
            args![&mail.id, mail.number, state, error, ended, next_us],
        )
        .await?;
        tx.commit().await
    }

    /// How many mails wait.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn mails_waiting(&self) -> Result<i64> {
        let mut tx = self.begin_read().await?;
        let row = tx.first("select count(*) as n from mail where state = 'pending'", args![]).await?;
        row.map_or(Ok(0), |row| row.int("n"))
    }

    /// Forgets mails that ended before `before_us`; says how many.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn sweep_mails(&self, before_us: i64) -> Result<u64> {
        let mut tx = self.begin().await?;
        let sql = "delete from mail where id in (select id from mail where done_us < $1 limit $2)";
        let swept = tx.execute(sql, args![before_us, BATCH]).await?;
        tx.commit().await?;
        Ok(swept)
    }
}
