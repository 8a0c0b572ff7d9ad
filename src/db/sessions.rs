//! Sessions: one login is a family of refresh tokens, each use replaces the token.
//!
//! A token that comes back after it was replaced means two parties hold it and we cannot know which one is the thief. So
//! we end the family and both must log in again. (RFC 9700 §4.14.2, ASVS 10.4.5)

use super::conn::{Row, Tx, args};
use super::users::{self, User, role, user_id};
use super::{Db, Dialect};
use crate::auth::email::Email;
use crate::auth::opaque::TokenHash;
use crate::auth::principal::Role;
use crate::auth::{SessionId, UserId};
use crate::base::{Error, Result};

/// A login that begins.
#[derive(Clone, Debug)]
pub struct NewSession<'a> {
    /// Whose it is.
    pub user: &'a UserId,
    /// `password`, or the name of a provider.
    pub via: &'a str,
    /// Whether a second factor was shown.
    pub second_factor: bool,
    /// The User-Agent, for people.
    pub client: Option<&'a str>,
    /// The network it begins in.
    pub place: &'a str,
    /// Its first refresh token.
    pub refresh: &'a TokenHash,
    /// When that ends unless it is used.
    pub refresh_expires_us: i64,
    /// When it ends whatever happens.
    pub expires_us: i64,
}

/// A session as its owner sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// How it began.
    pub via: String,
    /// Whether a second factor was shown.
    pub second_factor: bool,
    /// The User-Agent.
    pub client: Option<String>,
    /// The network.
    pub place: String,
    /// When it began.
    pub created_us: i64,
    /// When it was last refreshed.
    pub seen_us: i64,
    /// When it ends.
    pub expires_us: i64,
}

/// What every request with an access token is checked against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The person.
    pub user: UserId,
    /// What they are now.
    pub role: Role,
    /// Whether a second factor was shown in this session.
    pub second_factor: bool,
    /// When it began: that is when they proved who they are.
    pub created_us: i64,
}

/// What came of a refresh token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rotated {
    /// The new one counts.
    New {
        /// The session it belongs to.
        session: SessionId,
        /// Its owner.
        user: UserId,
        /// When the session ends whatever happens.
        expires_us: i64,
    },
    /// It was used before: the session has ended.
    Reused(SessionId),
    /// There is no such token, or its session has ended.
    Unknown,
}

/// A login that is at a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderLogin {
    /// Which provider.
    pub provider: String,
    /// Hash of what the browser was given.
    pub browser: String,
    /// PKCE's verifier, sealed.
    pub verifier: String,
    /// What the identity token has to name.
    pub nonce: String,
    /// Where the browser goes then.
    pub return_to: String,
}

/// Whom a provider's login led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recognised {
    /// Somebody who came by this provider before.
    Known(User),
    /// Somebody whose address it vouches for, and who is now known by it too.
    Linked(User),
    /// Somebody new.
    Made(User),
    /// Nobody: it names no address that it vouches for.
    Nobody,
}

/// Sessions in one list.
pub const LIST_MAX: i64 = 100;

/// Ends every session of somebody but `kept`.
pub(super) async fn end_all(
    tx: &mut Tx,
    user: &UserId,
    kept: Option<&SessionId>,
    by: &'static str,
    now_us: i64,
) -> Result<u64> {
    let kept = kept.map_or("", |kept| kept.as_str());
    tx.execute(
        "update session set ended_us = $3, ended_by = $4 where user_id = $1 and id <> $2 and ended_us is null",
        args![user.as_str(), kept, now_us, by],
    )
    .await
}

impl Db {
    /// Begins a session.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn start_session(&self, new: &NewSession<'_>, now_us: i64) -> Result<SessionId> {
        let id = SessionId::new(now_us);
        let mut tx = self.begin().await?;
        tx.execute(
            "insert into session (id, user_id, via, mfa_us, client, place, created_us, seen_us, expires_us)
             values ($1, $2, $3, $4, $5, $6, $7, $7, $8)",
            args![
                id.as_str(),
                new.user.as_str(),
                new.via,
                new.second_factor.then_some(now_us),
                new.client,
                new.place,
                now_us,
                new.expires_us
            ],
        )
        .await?;
        put_refresh(&mut tx, new.refresh, &id, new.refresh_expires_us, now_us).await?;
        tx.commit().await?;
        Ok(id)
    }

    /// Replaces a refresh token. A used one ends the session.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn rotate(
        &self,
        (old, new): (&TokenHash, &TokenHash),
        refresh_valid_us: i64,
        now_us: i64,
    ) -> Result<Rotated> {
        let mut tx = self.begin().await?;
        let used = tx
            .first(
                "update refresh_token set used_us = $2
                 where hash = $1 and used_us is null and expires_us > $2 and exists
                   (select 1 from session join users on users.id = session.user_id where session.id = refresh_token.session_id
                     and session.ended_us is null and session.expires_us > $2 and users.disabled_us is null)
                 returning session_id",
                args![old.as_str(), now_us],
            )
            .await?;
        let Some(row) = used else {
            let reused = reused(&mut tx, old, now_us).await?;
            tx.commit().await?;
            return Ok(reused.map_or(Rotated::Unknown, Rotated::Reused));
        };
        let session = session_id(&row.text("session_id")?)?;
        let row = tx
            .first(
                "update session set seen_us = $2 where id = $1 returning user_id, expires_us",
                args![session.as_str(), now_us],
            )
            .await?;
        let row = row.ok_or_else(|| Error::internal("a refresh token without a session"))?;
        let (user, expires_us) = (user_id(&row.text("user_id")?)?, row.int("expires_us")?);
        put_refresh(&mut tx, new, &session, expires_us.min(now_us + refresh_valid_us), now_us).await?;
        tx.commit().await?;
        Ok(Rotated::New { session, user, expires_us })
    }

    /// The session that a refresh token belongs to, whether or not it was used: for its CSRF token.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn session_of(&self, refresh: &TokenHash) -> Result<Option<SessionId>> {
        let mut tx = self.begin_read().await?;
        let row = tx.first("select session_id from refresh_token where hash = $1", args![refresh.as_str()]).await?;
        row.map(|row| session_id(&row.text("session_id")?)).transpose()
    }

    /// How a session stands; `None` when it has ended or its owner's account is closed. One look by the primary keys.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn session_standing(&self, session: &SessionId, now_us: i64) -> Result<Option<Standing>> {
        let mut tx = self.begin_read().await?;
        let row = tx
            .first(
                "select session.user_id, session.created_us, users.role, session.mfa_us
                 from session join users on users.id = session.user_id
                 where session.id = $1 and session.ended_us is null and session.expires_us > $2
                   and users.disabled_us is null",
                args![session.as_str(), now_us],
            )
            .await?;
        row.map(|row| {
            Ok(Standing {
                user: user_id(&row.text("user_id")?)?,
                role: role(&row.text("role")?)?,
                second_factor: row.int_or_null("mfa_us")?.is_some(),
                created_us: row.int("created_us")?,
            })
        })
        .transpose()
    }

    /// Whether somebody has a session that began in this network: then they are no stranger there.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn is_at_home(&self, user: &UserId, place: &str, now_us: i64) -> Result<bool> {
        let mut tx = self.begin_read().await?;
        let row = tx
            .first(
                "select 1 as one from session
                 where user_id = $1 and place = $2 and ended_us is null and expires_us > $3 limit 1",
                args![user.as_str(), place, now_us],
            )
            .await?;
        Ok(row.is_some())
    }

    /// Somebody's sessions that go on, the latest first.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn sessions(
        &self,
        user: &UserId,
        before: Option<&SessionId>,
        limit: i64,
        now_us: i64,
    ) -> Result<Vec<Session>> {
        let mut tx = self.begin_read().await?;
        let rows = tx
            .all(
                "select id, via, mfa_us, client, place, created_us, seen_us, expires_us from session
                 where user_id = $1 and ended_us is null and expires_us > $2 and ($3 = '' or id < $3)
                 order by id desc limit $4",
                args![user.as_str(), now_us, before.map_or("", |id| id.as_str()), limit],
            )
            .await?;
        rows.iter().map(session).collect()
    }

    /// Ends a session of this person; false when there is no such.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn end_session(&self, user: &UserId, session: &SessionId, by: &'static str, now_us: i64) -> Result<bool> {
        let mut tx = self.begin().await?;
        let ended = tx
            .execute(
                "update session set ended_us = $3, ended_by = $4 where id = $1 and user_id = $2 and ended_us is null",
                args![session.as_str(), user.as_str(), now_us, by],
            )
            .await?;
        tx.commit().await?;
        Ok(ended > 0)
    }

    /// Ends every session of somebody but `kept`; says how many.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn end_sessions(&self, user: &UserId, kept: Option<&SessionId>, now_us: i64) -> Result<u64> {
        let mut tx = self.begin().await?;
        let ended = end_all(&mut tx, user, kept, "owner", now_us).await?;
        tx.commit().await?;
        Ok(ended)
    }

    /// Remembers a login that goes to a provider.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn put_provider_login(&self, state: &TokenHash, login: &ProviderLogin, expires_us: i64) -> Result<()> {
        let mut tx = self.begin().await?;
        tx.execute(
            "insert into provider_login (state, provider, browser, verifier, nonce, return_to, expires_us)
             values ($1, $2, $3, $4, $5, $6, $7)",
            args![
                state.as_str(),
                &login.provider,
                &login.browser,
                &login.verifier,
                &login.nonce,
                &login.return_to,
                expires_us
            ],
        )
        .await?;
        tx.commit().await
    }

    /// Takes a login that comes back from a provider: once.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn take_provider_login(&self, state: &TokenHash, now_us: i64) -> Result<Option<ProviderLogin>> {
        let mut tx = self.begin().await?;
        let row = tx
            .first(
                "delete from provider_login where state = $1 and expires_us > $2
                 returning provider, browser, verifier, nonce, return_to",
                args![state.as_str(), now_us],
            )
            .await?;
        tx.commit().await?;
        row.map(|row| {
            Ok(ProviderLogin {
                provider: row.text("provider")?,
                browser: row.text("browser")?,
                verifier: row.text("verifier")?,
                nonce: row.text("nonce")?,
                return_to: row.text("return_to")?,
            })
        })
        .transpose()
    }

    /// Finds or makes the person that a provider names. `email` only where the provider vouches for it.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn recognise(
        &self,
        (provider, subject): (&str, &str),
        email: Option<&Email>,
        name: Option<&str>,
        new_role: Role,
        now_us: i64,
    ) -> Result<Recognised> {
        let mut tx = self.begin().await?;
        let known = tx
            .first(
                "update identity set seen_us = $3 where provider = $1 and subject = $2 returning user_id",
                args![provider, subject, now_us],
            )
            .await?;
        if let Some(row) = known {
            let user = users::read(&mut tx, &user_id(&row.text("user_id")?)?).await?;
            tx.commit().await?;
            return Ok(user.map_or(Recognised::Nobody, Recognised::Known));
        }
        let Some(email) = email else { return Ok(Recognised::Nobody) };
        let registration = users::Registration {
            id: UserId::new(now_us),
            email: email.clone(),
            name: name.map(str::to_owned),
            password: String::new(),
        };
        let made = users::insert(&mut tx, &registration, None, new_role, now_us).await?;
        // Registrations that wait for the address were somebody else's, or not needed any more.
        tx.execute("delete from registration where email_key = $1", args![email.key()]).await?;
        // Locked, so that the person is still there when the identity is.
        let sql = "update users set updated_us = $2 where email_key = $1 returning id";
        let row = tx.first(sql, args![email.key(), now_us]).await?;
        let id = user_id(&row.ok_or_else(|| Error::internal("a person was not written"))?.text("id")?)?;
        let linked = tx
            .execute(
                "insert into identity (provider, subject, user_id, created_us, seen_us) values ($1, $2, $3, $4, $4)
                 on conflict (provider, subject) do nothing",
                args![provider, subject, id.as_str(), now_us],
            )
            .await?;
        if linked == 0 {
            return Err(Error::new(crate::base::Kind::Busy, "the same person came twice at once"));
        }
        if !made {
            let about = serde_json::json!({ "provider": provider }).to_string();
            super::outbox::put(&mut tx, "linked", email.as_str(), &about, now_us).await?;
        }
        let user = users::read(&mut tx, &id).await?.ok_or_else(|| Error::internal("a person was not written"))?;
        tx.commit().await?;
        Ok(if made { Recognised::Made(user) } else { Recognised::Linked(user) })
    }

    /// Keeps what a provider gave us for somebody, sealed.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn keep_provider_tokens(&self, (provider, subject): (&str, &str), sealed: &str) -> Result<()> {
        let mut tx = self.begin().await?;
        let sql = "update identity set tokens = $3 where provider = $1 and subject = $2";
        tx.execute(sql, args![provider, subject, sealed]).await?;
        tx.commit().await
    }

    /// The providers that somebody came by.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn identities(&self, user: &UserId) -> Result<Vec<String>> {
        let mut tx = self.begin_read().await?;
        let sql = "select provider from identity where user_id = $1 order by provider limit 100";
        tx.all(sql, args![user.as_str()]).await?.iter().map(|row| row.text("provider")).collect()
    }
}

async fn put_refresh(tx: &mut Tx, hash: &TokenHash, session: &SessionId, expires_us: i64, now_us: i64) -> Result<()> {
    tx.execute(
        "insert into refresh_token (hash, session_id, created_us, expires_us) values ($1, $2, $3, $4)",
        args![hash.as_str(), session.as_str(), now_us, expires_us],
    )
    .await
    .map(drop)
}

/// Ends the session of a token that was used before; `None` when it was not.
async fn reused(tx: &mut Tx, hash: &TokenHash, now_us: i64) -> Result<Option<SessionId>> {
    // On PostgreSQL a rotation that runs beside us may just be writing `used_us`: the lock waits for it.
    let sql = match tx.dialect() {
        Dialect::Sqlite => "select session_id, used_us from refresh_token where hash = $1",
        Dialect::Postgres => "select session_id, used_us from refresh_token where hash = $1 for update",
    };
    let Some(row) = tx.first(sql, args![hash.as_str()]).await? else { return Ok(None) };
    if row.int_or_null("used_us")?.is_none() {
        return Ok(None);
    }
    let session = session_id(&row.text("session_id")?)?;
    let ended = tx
        .execute(
            "update session set ended_us = $2, ended_by = 'reuse' where id = $1 and ended_us is null",
            args![session.as_str(), now_us],
        )
        .await?;
    // One that has ended is old news, and nobody's alarm.
    Ok((ended > 0).then_some(session))
}

fn session(row: &Row) -> Result<Session> {
    Ok(Session {
        id: session_id(&row.text("id")?)?,
        via: row.text("via")?,
        second_factor: row.int_or_null("mfa_us")?.is_some(),
        client: row.text_or_null("client")?,
        place: row.text("place")?,
        created_us: row.int("created_us")?,
        seen_us: row.int("seen_us")?,
        expires_us: row.int("expires_us")?,
    })
}

fn session_id(text: &str) -> Result<SessionId> {
    SessionId::decode(text).ok_or_else(|| Error::internal("the id of a session cannot be read"))
}
