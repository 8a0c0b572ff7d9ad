//! People: registration, what proves who they are, and the tokens of mails and half logins.
//!
//! Whoever registers has no row of `users` before a link in a mail was followed; several registrations may wait for one
//! address, and the one whose link is followed counts. Statements are the same whether an address is known or not.

use super::conn::{Row, Tx, args};
use super::{Db, sessions};
use crate::auth::UserId;
use crate::auth::email::Email;
use crate::auth::opaque::TokenHash;
use crate::auth::principal::Role;
use crate::base::{Error, Result};

/// A person's row, as others may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its id.
    pub id: UserId,
    /// Where mail goes; `None` when erased.
    pub email: Option<String>,
    /// What others see.
    pub name: Option<String>,
    /// What they are.
    pub role: Role,
    /// Whether a second factor is asked for.
    pub second_factor: bool,
    /// Whether there is a password.
    pub has_password: bool,
    /// Whether an operator closed the account.
    pub disabled: bool,
    /// When it began.
    pub created_us: i64,
}

/// What a login is compared with.
#[derive(Clone, Debug)]
pub struct Credential {
    /// Whose it is.
    pub id: UserId,
    /// The hash of their password.
    pub password: Option<String>,
    /// Whether it is an account, or somebody who has not followed the link yet.
    pub verified: bool,
    /// Whether a second factor is asked for.
    pub second_factor: bool,
    /// Whether an operator closed the account.
    pub disabled: bool,
}

/// Somebody who registers.
#[derive(Clone, Debug)]
pub struct Registration {
    /// The id they will have.
    pub id: UserId,
    /// Their address.
    pub email: Email,
    /// What others will see.
    pub name: Option<String>,
    /// The hash of their password.
    pub password: String,
}

/// A second factor, as it is kept.
#[derive(Clone, Debug)]
pub struct Factor {
    /// Its secret, sealed.
    pub sealed: String,
    /// Whether a code has confirmed it.
    pub confirmed: bool,
    /// The last step whose code was used.
    pub last_step: u64,
}

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Proves that a registration's address is its owner's.
    Verify,
    /// Sets another password.
    Reset,
    /// Waits for a second factor.
    SecondFactor,
}

impl Purpose {
    fn as_str(self) -> &'static str {
        match self {
            Purpose::Verify => "verify",
            Purpose::Reset => "reset",
            Purpose::SecondFactor => "second_factor",
        }
    }
}

/// What came of a link that proves an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verified {
    /// There is an account now.
    Made(User),
    /// Somebody else's registration for the address was faster.
    Taken,
    /// There is no such token, or its time is over.
    Unknown,
}

/// Every column of a `User`.
macro_rules! columns {
    () => {
        "id, email, name, role, password, totp_since_us, disabled_us, created_us"
    };
}

/// Tries of codes with one half login.
const TRIES_MAX: i64 = 5;
/// Rows that one look of the janitor removes of each kind.
const BATCH: i64 = 500;

impl Db {
    /// Writes down that somebody registers, and the mail that proves it: both or neither.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn register(&self, new: &Registration, expires_us: i64, now_us: i64) -> Result<()> {
        let mut tx = self.begin().await?;
        tx.execute(
            "insert into registration (id, email, email_key, name, password, created_us, expires_us)
             values ($1, $2, $3, $4, $5, $6, $7)",
            args![
                new.id.as_str(),
                new.email.as_str(),
                new.email.key(),
                new.name.as_deref(),
                &new.password,
                now_us,
                expires_us
            ],
        )
        .await?;
        let about = serde_json::json!({ "registration": new.id }).to_string();
        super::outbox::put(&mut tx, "register", new.email.as_str(), &about, now_us).await?;
        tx.commit().await
    }

    /// What a login for this address is compared with.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn credential(&self, email: &Email) -> Result<Option<Credential>> {
        let mut tx = self.begin_read().await?;
        let row = tx
            .first(
                "select id, password, totp_since_us, disabled_us, 'user' as kind from users where email_key = $1
                 union all
                 select id, password, null, null, 'registration' from registration where email_key = $1
                 order by kind desc, id desc limit 1",
                args![email.key()],
            )
            .await?;
        row.map(|row| {
            Ok(Credential {
                id: user_id(&row.text("id")?)?,
                password: row.text_or_null("password")?,
                verified: row.text("kind")? == "user",
                second_factor: row.int_or_null("totp_since_us")?.is_some(),
                disabled: row.int_or_null("disabled_us")?.is_some(),
            })
        })
        .transpose()
    }

    /// One person.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn user(&self, id: &UserId) -> Result<Option<User>> {
        let mut tx = self.begin_read().await?;
        read(&mut tx, id).await
    }

    /// The person with this address.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn user_by_email(&self, email: &Email) -> Result<Option<User>> {
        let mut tx = self.begin_read().await?;
        let sql = concat!("select ", columns!(), " from users where email_key = $1");
        tx.first(sql, args![email.key()]).await?.map(|row| user(&row)).transpose()
    }

    /// The hash of somebody's password, to compare it again.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn password_of(&self, id: &UserId) -> Result<Option<String>> {
        let mut tx = self.begin_read().await?;
        let row = tx.first("select password from users where id = $1", args![id.as_str()]).await?;
        Ok(row.map(|row| row.text_or_null("password")).transpose()?.flatten())
    }

    /// Makes an account without a mail: for operators. False when the address has one.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn create_user(&self, new: &Registration, role: Role, now_us: i64) -> Result<bool> {
        let mut tx = self.begin().await?;
        let made = insert(&mut tx, new, Some(&new.password), role, now_us).await?;
        tx.commit().await?;
        Ok(made)
    }

    /// Changes what others see of somebody.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn rename(&self, id: &UserId, name: Option<&str>, now_us: i64) -> Result<()> {
        let mut tx = self.begin().await?;
        let sql = "update users set name = $2, updated_us = $3 where id = $1";
        tx.execute(sql, args![id.as_str(), name, now_us]).await?;
        tx.commit().await
    }

    /// Makes somebody what they shall be. False when there is no such person. Nobody's rights grow in a session that
    /// began without them: all end.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn grant(&self, id: &UserId, role: Role, now_us: i64) -> Result<bool> {
        let mut tx = self.begin().await?;
        let sql = "update users set role = $2, updated_us = $3 where id = $1";
        let changed = tx.execute(sql, args![id.as_str(), role.as_str(), now_us]).await?;
        sessions::end_all(&mut tx, id, None, "operator", now_us).await?;
        tx.commit().await?;
        Ok(changed > 0)
    }

    /// Closes an account, or opens it again. False when there is no such person. Every session ends at once, keys and links
    /// open nothing while it is closed; what is theirs stays (ASVS 7.4.2).
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn close_account(&self, id: &UserId, closed: bool, now_us: i64) -> Result<bool> {
        let mut tx = self.begin().await?;
        let sql = "update users set disabled_us = $2, updated_us = $3 where id = $1";
        let changed = tx.execute(sql, args![id.as_str(), closed.then_some(now_us), now_us]).await?;
        sessions::end_all(&mut tx, id, None, "operator", now_us).await?;
        tx.commit().await?;
        Ok(changed > 0)
    }

    /// A listener publishes from now on. What they may do grows by what anybody may ask for, so that sessions go on.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn become_creator(&self, id: &UserId, now_us: i64) -> Result<()> {
        let mut tx = self.begin().await?;
        let sql = "update users set role = 'creator', updated_us = $2 where id = $1 and role = 'listener'";
        tx.execute(sql, args![id.as_str(), now_us]).await?;
        tx.commit().await
    }

    /// Sets another password and ends every session but `kept`. Links that would set another one open nothing any more.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn set_password(
        &self,
        id: &UserId,
        password: &str,
        kept: Option<&crate::auth::SessionId>,
        now_us: i64,
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        write_password(&mut tx, id, password, now_us).await?;
        sessions::end_all(&mut tx, id, kept, "password", now_us).await?;
        tx.commit().await
    }

    /// Replaces a hash by one of the same password with other parameters: nothing ends.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn refresh_hash(&self, id: &UserId, old: &str, new: &str, now_us: i64) -> Result<()> {
        let mut tx = self.begin().await?;
        let sql = "update users set password = $3, updated_us = $4 where id = $1 and password = $2";
        tx.execute(sql, args![id.as_str(), old, new, now_us]).await?;
        tx.commit().await
    }

    /// Keeps the hash of a token for `subject`, a registration or a person.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn put_token(
        &self,
        hash: &TokenHash,
        purpose: Purpose,
        (subject, via): (&str, Option<&str>),
        expires_us: i64,
        now_us: i64,
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        tx.execute(
            "insert into one_time_token (hash, purpose, subject, via, created_us, expires_us) values ($1, $2, $3, $4, $5, $6)",
            args![hash.as_str(), purpose.as_str(), subject, via, now_us, expires_us],
        )
        .await?;
        tx.commit().await
    }

    /// Opens a registration by the token of its mail: once.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn verify_registration(&self, hash: &TokenHash, role: Role, now_us: i64) -> Result<Verified> {
        let mut tx = self.begin().await?;
        let Some((subject, _)) = use_token(&mut tx, hash, Purpose::Verify, now_us).await? else {
            return Ok(Verified::Unknown);
        };
        let row = tx
            .first(
                "delete from registration where id = $1 and expires_us > $2 returning id, email, name, password",
                args![&subject, now_us],
            )
            .await?;
        let Some(row) = row else {
            tx.commit().await?;
            return Ok(Verified::Unknown);
        };
        let email = Email::decode(&row.text("email")?)?;
        let registration = Registration {
            id: user_id(&row.text("id")?)?,
            email,
            name: row.text_or_null("name")?,
            password: row.text("password")?,
        };
        let made = insert(&mut tx, &registration, Some(&registration.password), role, now_us).await?;
        // The others for this address have lost: their links open nothing.
        tx.execute("delete from registration where email_key = $1", args![registration.email.key()]).await?;
        let user = read(&mut tx, &registration.id).await?;
        tx.commit().await?;
        match (made, user) {
            (true, Some(user)) => Ok(Verified::Made(user)),
            _ => Ok(Verified::Taken),
        }
    }

    /// Whose password a token may set, without using it up.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn reset_subject(&self, hash: &TokenHash, now_us: i64) -> Result<Option<User>> {
        let mut tx = self.begin_read().await?;
        let sql = "select subject from one_time_token where hash = $1 and purpose = 'reset' and expires_us > $2";
        let Some(row) = tx.first(sql, args![hash.as_str(), now_us]).await? else { return Ok(None) };
        read(&mut tx, &user_id(&row.text("subject")?)?).await
    }

    /// Sets another password by the token of a mail, once, and ends every session. Says whose it was.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn reset_password(&self, hash: &TokenHash, password: &str, now_us: i64) -> Result<Option<UserId>> {
        let mut tx = self.begin().await?;
        let Some((subject, _)) = use_token(&mut tx, hash, Purpose::Reset, now_us).await? else { return Ok(None) };
        let id = user_id(&subject)?;
        write_password(&mut tx, &id, password, now_us).await?;
        sessions::end_all(&mut tx, &id, None, "password", now_us).await?;
        tx.commit().await?;
        Ok(Some(id))
    }

    /// Counts a try of a code with a half login, and says whose it is and how it began; `None` when there is no such, its
    /// time is over, or its tries are.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn try_half_login(&self, hash: &TokenHash, now_us: i64) -> Result<Option<(UserId, String)>> {
        let mut tx = self.begin().await?;
        let row = tx
            .first(
                "update one_time_token set tries = tries + 1
                 where hash = $1 and purpose = 'second_factor' and expires_us > $2 and tries < $3
                 returning subject, via",
                args![hash.as_str(), now_us, TRIES_MAX],
            )
            .await?;
        tx.commit().await?;
        row.map(|row| Ok((user_id(&row.text("subject")?)?, row.text_or_null("via")?.unwrap_or_default()))).transpose()
    }

    /// Uses a half login up; false when somebody else did.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn end_half_login(&self, hash: &TokenHash, now_us: i64) -> Result<bool> {
        let mut tx = self.begin().await?;
        let used = use_token(&mut tx, hash, Purpose::SecondFactor, now_us).await?;
        tx.commit().await?;
        Ok(used.is_some())
    }

    /// Somebody's second factor.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn factor(&self, id: &UserId) -> Result<Option<Factor>> {
        let mut tx = self.begin_read().await?;
        let sql = "select totp_secret, totp_since_us, totp_last_step from users where id = $1";
        let Some(row) = tx.first(sql, args![id.as_str()]).await? else { return Ok(None) };
        let Some(sealed) = row.text_or_null("totp_secret")? else { return Ok(None) };
        let confirmed = row.int_or_null("totp_since_us")?.is_some();
        Ok(Some(Factor { sealed, confirmed, last_step: row.int("totp_last_step")? as u64 }))
    }

    /// Begins a second factor; false when there is one already.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn begin_factor(&self, id: &UserId, sealed: &str, now_us: i64) -> Result<bool> {
        let mut tx = self.begin().await?;
        let begun = tx
            .execute(
                "update users set totp_secret = $2, totp_last_step = 0, updated_us = $3
                 where id = $1 and totp_since_us is null",
                args![id.as_str(), sealed, now_us],
            )
            .await?;
        tx.commit().await?;
        Ok(begun > 0)
    }

    /// Asks for the second factor from now on: with the step whose code confirmed it, the hashes of its recovery codes, and
    /// the session that has shown it, which is the only one that goes on. False when it was confirmed or replaced meanwhile.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn confirm_factor(
        &self,
        id: &UserId,
        (sealed, step): (&str, u64),
        codes: &[String],
        session: &crate::auth::SessionId,
        now_us: i64,
    ) -> Result<bool> {
        let mut tx = self.begin().await?;
        let confirmed = tx
            .execute(
                "update users set totp_since_us = $3, totp_last_step = $4, updated_us = $3
                 where id = $1 and totp_secret = $2 and totp_since_us is null",
                args![id.as_str(), sealed, now_us, step as i64],
            )
            .await?;
        if confirmed == 0 {
            return Ok(false);
        }
        write_codes(&mut tx, id, codes).await?;
        sessions::end_all(&mut tx, id, Some(session), "factor", now_us).await?;
        tx.execute("update session set mfa_us = $2 where id = $1", args![session.as_str(), now_us]).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Uses the code of a step up; false when it, or a later one, was used (RFC 6238 §5.2).
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn use_step(&self, id: &UserId, step: u64, now_us: i64) -> Result<bool> {
        let mut tx = self.begin().await?;
        let sql = "update users set totp_last_step = $2, updated_us = $3 where id = $1 and totp_last_step < $2";
        let used = tx.execute(sql, args![id.as_str(), step as i64, now_us]).await?;
        tx.commit().await?;
        Ok(used > 0)
    }

    /// Uses a recovery code up; false when it is none of theirs, or was used.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn use_recovery_code(&self, id: &UserId, hash: &str) -> Result<bool> {
        let mut tx = self.begin().await?;
        let used =
            tx.execute("delete from recovery_code where hash = $1 and user_id = $2", args![hash, id.as_str()]).await?;
        tx.commit().await?;
        Ok(used > 0)
    }

    /// Replaces all recovery codes.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn replace_recovery_codes(&self, id: &UserId, codes: &[String]) -> Result<()> {
        let mut tx = self.begin().await?;
        write_codes(&mut tx, id, codes).await?;
        tx.commit().await
    }

    /// How many recovery codes are left.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn recovery_codes_left(&self, id: &UserId) -> Result<i64> {
        let mut tx = self.begin_read().await?;
        let row = tx.first("select count(*) as n from recovery_code where user_id = $1", args![id.as_str()]).await?;
        row.map_or(Ok(0), |row| row.int("n"))
    }

    /// Removes a second factor, for somebody who lost it and all codes, and ends their sessions. False when there is none.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn remove_factor(&self, id: &UserId, now_us: i64) -> Result<bool> {
        let mut tx = self.begin().await?;
        let removed = tx
            .execute(
                "update users set totp_secret = null, totp_since_us = null, totp_last_step = 0, updated_us = $2
                 where id = $1 and totp_secret is not null",
                args![id.as_str(), now_us],
            )
            .await?;
        write_codes(&mut tx, id, &[]).await?;
        sessions::end_all(&mut tx, id, None, "operator", now_us).await?;
        tx.commit().await?;
        Ok(removed > 0)
    }

    /// Removes a second factor for its owner, who has shown it: every other session ends, and this one opens nothing more that
    /// wants one. False when there is none.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn drop_factor(&self, id: &UserId, kept: &crate::auth::SessionId, now_us: i64) -> Result<bool> {
        let mut tx = self.begin().await?;
        let removed = tx
            .execute(
                "update users set totp_secret = null, totp_since_us = null, totp_last_step = 0, updated_us = $2
                 where id = $1 and totp_since_us is not null",
                args![id.as_str(), now_us],
            )
            .await?;
        if removed == 0 {
            return Ok(false);
        }
        write_codes(&mut tx, id, &[]).await?;
        let sql = "delete from one_time_token where subject = $1 and purpose = 'second_factor'";
        tx.execute(sql, args![id.as_str()]).await?;
        sessions::end_all(&mut tx, id, Some(kept), "factor", now_us).await?;
        tx.execute("update session set mfa_us = null where id = $1", args![kept.as_str()]).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Removes what nobody can use any more; says how many rows.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn sweep_accounts(&self, now_us: i64, ended_before_us: i64) -> Result<u64> {
        const OLD: [&str; 4] = [
            "delete from email_change where user_id in (select user_id from email_change where expires_us < $1 limit $2)",
            "delete from registration where id in (select id from registration where expires_us < $1 limit $2)",
            "delete from one_time_token where hash in (select hash from one_time_token where expires_us < $1 limit $2)",
            "delete from provider_login where state in (select state from provider_login where expires_us < $1 limit $2)",
        ];
        let mut tx = self.begin().await?;
        let mut swept = 0;
        for sql in OLD {
            swept += tx.execute(sql, args![now_us, BATCH]).await?;
        }
        // Sessions are remembered for a while, so that their owner can see how they ended.
        swept += tx
            .execute(
                "delete from session where id in
                   (select id from session where expires_us < $1 or ended_us < $1 order by expires_us limit $2)",
                args![ended_before_us, BATCH],
            )
            .await?;
        tx.commit().await?;
        Ok(swept)
    }
}

/// Uses a token up and says for whom it was, and how it began.
async fn use_token(
    tx: &mut Tx,
    hash: &TokenHash,
    purpose: Purpose,
    now_us: i64,
) -> Result<Option<(String, Option<String>)>> {
    let row = tx
        .first(
            "delete from one_time_token where hash = $1 and purpose = $2 and expires_us > $3 returning subject, via",
            args![hash.as_str(), purpose.as_str(), now_us],
        )
        .await?;
    row.map(|row| Ok((row.text("subject")?, row.text_or_null("via")?))).transpose()
}

/// Makes an account; false when the address has one.
pub(super) async fn insert(
    tx: &mut Tx,
    new: &Registration,
    password: Option<&str>,
    role: Role,
    now_us: i64,
) -> Result<bool> {
    let made = tx
        .execute(
            "insert into users (id, email, email_key, name, password, role, created_us, updated_us)
             values ($1, $2, $3, $4, $5, $6, $7, $7) on conflict (email_key) do nothing",
            args![
                new.id.as_str(),
                new.email.as_str(),
                new.email.key(),
                new.name.as_deref(),
                password,
                role.as_str(),
                now_us
            ],
        )
        .await?;
    Ok(made > 0)
}

async fn write_password(tx: &mut Tx, id: &UserId, password: &str, now_us: i64) -> Result<()> {
    let sql = "update users set password = $2, updated_us = $3 where id = $1";
    tx.execute(sql, args![id.as_str(), password, now_us]).await?;
    // Links of earlier mails, and half logins that knew the old password.
    tx.execute("delete from one_time_token where subject = $1", args![id.as_str()]).await?;
    Ok(())
}

async fn write_codes(tx: &mut Tx, id: &UserId, codes: &[String]) -> Result<()> {
    tx.execute("delete from recovery_code where user_id = $1", args![id.as_str()]).await?;
    for hash in codes {
        let sql = "insert into recovery_code (hash, user_id) values ($1, $2)";
        tx.execute(sql, args![hash, id.as_str()]).await?;
    }
    Ok(())
}

pub(super) async fn read(tx: &mut Tx, id: &UserId) -> Result<Option<User>> {
    let sql = concat!("select ", columns!(), " from users where id = $1");
    tx.first(sql, args![id.as_str()]).await?.map(|row| user(&row)).transpose()
}

fn user(row: &Row) -> Result<User> {
    Ok(User {
        id: user_id(&row.text("id")?)?,
        email: row.text_or_null("email")?,
        name: row.text_or_null("name")?,
        role: role(&row.text("role")?)?,
        second_factor: row.int_or_null("totp_since_us")?.is_some(),
        has_password: row.text_or_null("password")?.is_some(),
        disabled: row.int_or_null("disabled_us")?.is_some(),
        created_us: row.int("created_us")?,
    })
}

pub(super) fn user_id(text: &str) -> Result<UserId> {
    UserId::decode(text).ok_or_else(|| Error::internal("the id of a user cannot be read"))
}

pub(super) fn role(text: &str) -> Result<Role> {
    Role::decode(text).ok_or_else(|| Error::internal(format!("{text} is no role")))
}
