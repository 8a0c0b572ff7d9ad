//! Another address for somebody who has an account: wished for, proved by a link in a mail to it, then written.

use serde_json::json;

use super::conn::args;
use super::users::user_id;
use super::{Db, outbox};
use crate::auth::UserId;
use crate::auth::email::Email;
use crate::auth::opaque::TokenHash;
use crate::base::Result;

/// What came of a link that proves another address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moved {
    /// Mail goes there now.
    Done(UserId),
    /// Somebody else has the address.
    Taken,
    /// There is no such token, or its time is over.
    Unknown,
}

impl Db {
    /// Writes down which address somebody wants, with the mails to it and to the one they have: all or nothing.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn want_email(
        &self,
        user: &UserId,
        (wanted, current): (&Email, Option<&str>),
        expires_us: i64,
        now_us: i64,
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        tx.execute(
            "insert into email_change (user_id, email, email_key, hash, created_us, expires_us)
             values ($1, $2, $3, null, $4, $5)
             on conflict (user_id) do update set email = excluded.email, email_key = excluded.email_key, hash = null,
               created_us = excluded.created_us, expires_us = excluded.expires_us",
            args![user.as_str(), wanted.as_str(), wanted.key(), now_us, expires_us],
        )
        .await?;
        let about = json!({ "user": user }).to_string();
        outbox::put(&mut tx, "email-confirm", wanted.as_str(), &about, now_us).await?;
        if let Some(current) = current {
            outbox::put(&mut tx, "email-wanted", current, "{}", now_us).await?;
        }
        tx.commit().await
    }

    /// Keeps the hash of the token in the mail that proves an address; false when that is not wanted any more.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn arm_email_change(&self, user: &str, wanted: &Email, hash: &TokenHash, now_us: i64) -> Result<bool> {
        let mut tx = self.begin().await?;
        let sql = "update email_change set hash = $3 where user_id = $1 and email_key = $2 and expires_us > $4";
        let armed = tx.execute(sql, args![user, wanted.key(), hash.as_str(), now_us]).await?;
        tx.commit().await?;
        Ok(armed > 0)
    }

    /// Moves somebody to the address that a token proves, once. Links in mails to the one before open nothing any more,
    /// and that one hears of it.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn change_email(&self, hash: &TokenHash, now_us: i64) -> Result<Moved> {
        let mut tx = self.begin().await?;
        let sql = "delete from email_change where hash = $1 and expires_us > $2 returning user_id, email, email_key";
        let Some(row) = tx.first(sql, args![hash.as_str(), now_us]).await? else { return Ok(Moved::Unknown) };
        let (id, email, key) = (row.text("user_id")?, row.text("email")?, row.text("email_key")?);
        let before = tx.first("select email from users where id = $1", args![&id]).await?;
        let before = before.map(|row| row.text_or_null("email")).transpose()?.flatten();
        let changed = tx
            .execute(
                "update users set email = $2, email_key = $3, updated_us = $4
                 where id = $1 and not exists (select 1 from users as other where other.email_key = $3 and other.id <> $1)",
                args![&id, &email, &key, now_us],
            )
            .await?;
        if changed == 0 {
            tx.commit().await?; // the wish is over
            return Ok(Moved::Taken);
        }
        let sql = "delete from one_time_token where subject = $1 and purpose = 'reset'";
        tx.execute(sql, args![&id]).await?;
        // Whoever waits for this address with a link of their own has lost.
        tx.execute("delete from registration where email_key = $1", args![&key]).await?;
        if let Some(before) = before {
            outbox::put(&mut tx, "email-changed", &before, "{}", now_us).await?;
        }
        tx.commit().await?;
        Ok(Moved::Done(user_id(&id)?))
    }
}
