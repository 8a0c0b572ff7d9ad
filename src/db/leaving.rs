//! Who wants an archive of what is here of them, and who wants to be forgotten: the rows that the jobs of both name.

use serde_json::{Value, json};

use super::conn::{Row, Tx, args};
use super::jobs::{self, Enqueued};
use super::users::user_id;
use super::{Db, outbox, sessions};
use crate::auth::UserId;
use crate::auth::opaque::TokenHash;
use crate::base::{Error, Result};
use crate::jobs::backoff::Backoff;
use crate::jobs::person::{self, ErasureId, ExportId};
use crate::jobs::{JobId, Lease, NewJob, Outcome};
use crate::uploads::Place;

/// An archive, as its owner sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// Its id.
    pub id: ExportId,
    /// Whose it is.
    pub user: UserId,
    /// How it stands.
    pub state: ExportState,
    /// When it was asked for, in microseconds since 1970.
    pub created_us: i64,
    /// Until when it can be had.
    pub expires_us: Option<i64>,
}

/// How an archive stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExportState {
    /// A job is to make it, or does.
    Queued,
    /// It can be had.
    Ready(Archive),
    /// It could not be made.
    Failed,
}

/// An archive that is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// Where it lies.
    pub place: Place,
    /// Its length.
    pub bytes: u64,
    /// Of all of it, hexadecimal.
    pub sha256: String,
}

/// Somebody's wish to be forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Erasure {
    /// Its id.
    pub id: ErasureId,
    /// Who leaves.
    pub user: UserId,
    /// Whether the tracks that everybody hears stay, as nobody's.
    pub keep_tracks: bool,
    /// When it was asked for, in microseconds since 1970.
    pub asked_us: i64,
    /// When they are forgotten.
    pub due_us: i64,
    /// Whether they came back.
    pub taken_back: bool,
}

macro_rules! export_columns {
    () => {
        "id, user_id, place, bytes, sha256, created_us, expires_us,
         case when state = 'queued' and not exists
           (select 1 from job where job.id = account_export.job and job.state in ('queued', 'leased'))
           then 'failed' else state end as state"
    };
}
macro_rules! erasure_columns {
    () => {
        "id, user_id, keep_tracks, asked_us, due_us, taken_back_us"
    };
}

/// Archives that one look removes.
const BATCH: i64 = 20;

impl Db {
    /// Asks for an archive; one that is on its way already is the answer. `false`: it was.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn want_export(&self, user: &UserId, now_us: i64) -> Result<(Export, bool)> {
        let mut tx = self.begin().await?;
        // One whose job needs a person, or is forgotten, does not stand in the way of another.
        tx.execute(
            "update account_export set state = 'failed', expires_us = $2
             where user_id = $1 and state = 'queued' and not exists
               (select 1 from job where job.id = account_export.job and job.state in ('queued', 'leased'))",
            args![user.as_str(), now_us],
        )
        .await?;
        let id = ExportId::new(now_us);
        let job = enqueued(&mut tx, &person::export(&id), now_us).await?;
        let made = tx
            .execute(
                "insert into account_export (id, user_id, state, job, created_us) values ($1, $2, 'queued', $3, $4)
                 on conflict (user_id) where state = 'queued' do nothing",
                args![id.as_str(), user.as_str(), job.as_str(), now_us],
            )
            .await?;
        if made > 0 {
            tx.commit().await?;
            let export =
                Export { id, user: user.clone(), state: ExportState::Queued, created_us: now_us, expires_us: None };
            return Ok((export, true));
        }
        drop(tx); // with the job that nobody needs
        let mut tx = self.begin_read().await?;
        let sql =
            concat!("select ", export_columns!(), " from account_export where user_id = $1 order by id desc limit 1");
        let known = tx.first(sql, args![user.as_str()]).await?;
        known.map(|row| Ok((export(&row)?, false))).transpose()?.ok_or_else(|| Error::internal("an export vanished"))
    }

    /// Somebody's archives, the latest first, behind one of them.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn exports(&self, user: &UserId, before: Option<&ExportId>, limit: u32) -> Result<Vec<Export>> {
        let mut tx = self.begin_read().await?;
        let sql = concat!(
            "select ",
            export_columns!(),
            " from account_export where user_id = $1 and ($2 = '' or id < $2) order by id desc limit $3"
        );
        let before = before.map_or("", ExportId::as_str);
        tx.all(sql, args![user.as_str(), before, i64::from(limit)]).await?.iter().map(export).collect()
    }

    /// One archive.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn export(&self, id: &ExportId) -> Result<Option<Export>> {
        let mut tx = self.begin_read().await?;
        let sql = concat!("select ", export_columns!(), " from account_export where id = $1");
        tx.first(sql, args![id.as_str()]).await?.map(|row| export(&row)).transpose()
    }

    /// The archive that the token of a mail opens, as often as it is used, until it is removed.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn export_by_token(&self, hash: &TokenHash, now_us: i64) -> Result<Option<Export>> {
        let mut tx = self.begin_read().await?;
        let sql = concat!("select ", export_columns!(), " from account_export where hash = $1 and expires_us > $2");
        tx.first(sql, args![hash.as_str(), now_us]).await?.map(|row| export(&row)).transpose()
    }

    /// Keeps the hash of the token in the mail that tells of an archive; false when it is gone.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn arm_export(&self, id: &str, hash: &TokenHash, now_us: i64) -> Result<bool> {
        let mut tx = self.begin().await?;
        let sql = "update account_export set hash = $2 where id = $1 and state = 'ready' and expires_us > $3";
        let armed = tx.execute(sql, args![id, hash.as_str(), now_us]).await?;
        tx.commit().await?;
        Ok(armed > 0)
    }

    /// An archive is whole: its row, its job and the mail that tells of it, all or nothing. False when the lease is not ours
    /// any more, or its owner is gone.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn settle_export(
        &self,
        lease: &Lease,
        id: &ExportId,
        archive: &Archive,
        (expires_us, now_us): (i64, i64),
    ) -> Result<bool> {
        let mut tx = self.begin().await?;
        let outcome = Outcome::Succeeded(json!({ "bytes": archive.bytes }).to_string());
        if jobs::settle(&mut tx, lease, &outcome, Backoff::default(), now_us).await?.is_none() {
            return Ok(false);
        }
        let place = archive.place.as_str();
        let row = tx
            .first(
                "update account_export set state = 'ready', place = $2, bytes = $3, sha256 = $4, expires_us = $5
                 where id = $1 and state = 'queued'
                 returning (select email from users where users.id = account_export.user_id) as email",
                args![id.as_str(), place, archive.bytes as i64, &archive.sha256, expires_us],
            )
            .await?;
        let Some(row) = row else { return Ok(false) };
        if let Some(email) = row.text_or_null("email")? {
            let about = json!({ "export": id, "expires_us": expires_us }).to_string();
            outbox::put(&mut tx, "export-ready", &email, &about, now_us).await?;
        }
        tx.commit().await?;
        Ok(true)
    }

    /// Archives whose time is over, or that could not be made.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn exports_over(&self, now_us: i64) -> Result<Vec<Export>> {
        let mut tx = self.begin_read().await?;
        let sql = concat!(
            "select ",
            export_columns!(),
            " from account_export where expires_us <= $1 order by expires_us limit $2"
        );
        tx.all(sql, args![now_us, BATCH]).await?.iter().map(export).collect()
    }

    /// Nothing is left of an archive.
    ///
    /// # Errors
    /// When the database refuses; it is looked for again.
    pub async fn forget_export(&self, id: &ExportId) -> Result<()> {
        let mut tx = self.begin().await?;
        tx.execute("delete from account_export where id = $1", args![id.as_str()]).await?;
        tx.commit().await
    }

    /// Writes down that somebody leaves, with the job and the mail, and ends their sessions. Asked again, only what is to be
    /// kept changes.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn want_erasure(&self, user: &UserId, keep_tracks: bool, due_us: i64, now_us: i64) -> Result<Erasure> {
        let mut tx = self.begin().await?;
        let id = ErasureId::new(now_us);
        let job = enqueued(&mut tx, &person::erase(&id), now_us).await?;
        let row = tx
            .first(
                concat!(
                    "insert into account_erasure (id, user_id, keep_tracks, job, asked_us, due_us)
                     values ($1, $2, $3, $4, $5, $6)
                     on conflict (user_id) do update set id = excluded.id, keep_tracks = excluded.keep_tracks,
                       job = excluded.job, hash = null, taken_back_us = null,
                       asked_us = case when account_erasure.taken_back_us is null then account_erasure.asked_us else $5 end,
                       due_us = case when account_erasure.taken_back_us is null then account_erasure.due_us else $6 end
                     returning ",
                    erasure_columns!()
                ),
                args![id.as_str(), user.as_str(), i64::from(keep_tracks), job.as_str(), now_us, due_us],
            )
            .await?;
        let erasure = erasure(&row.ok_or_else(|| Error::internal("an erasure was not written"))?)?;
        sessions::end_all(&mut tx, user, None, "owner", now_us).await?;
        // Who leaves is not charged once more.
        let sql = "update subscription set renews = 0, renew_next_us = null, updated_us = $2
                   where subject = $1 and renews = 1";
        tx.execute(sql, args![user.as_str(), now_us]).await?;
        tell(&mut tx, user, "erasure-wanted", &json!({ "erasure": id, "due_us": erasure.due_us }), now_us).await?;
        tx.commit().await?;
        Ok(erasure)
    }

    /// When somebody is to be forgotten; `None`: they stay.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn erasure_of(&self, user: &UserId) -> Result<Option<Erasure>> {
        let mut tx = self.begin_read().await?;
        let sql = concat!(
            "select ",
            erasure_columns!(),
            " from account_erasure where user_id = $1 and taken_back_us is null"
        );
        tx.first(sql, args![user.as_str()]).await?.map(|row| erasure(&row)).transpose()
    }

    /// What a job is about; `None`: it is over, or another job has taken over.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn erasure(&self, id: &ErasureId) -> Result<Option<Erasure>> {
        let mut tx = self.begin_read().await?;
        let sql = concat!("select ", erasure_columns!(), " from account_erasure where id = $1");
        tx.first(sql, args![id.as_str()]).await?.map(|row| erasure(&row)).transpose()
    }

    /// Keeps the hash of the token in the mail that takes an erasure back; false when it is over.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn arm_erasure(&self, id: &str, hash: &TokenHash) -> Result<bool> {
        let mut tx = self.begin().await?;
        let sql = "update account_erasure set hash = $2 where id = $1 and taken_back_us is null";
        let armed = tx.execute(sql, args![id, hash.as_str()]).await?;
        tx.commit().await?;
        Ok(armed > 0)
    }

    /// Somebody stays after all, by their own word or by the token of the mail; says who. `None`: there was nothing to take
    /// back.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn take_erasure_back(&self, by: TakenBack<'_>, now_us: i64) -> Result<Option<UserId>> {
        let mut tx = self.begin().await?;
        let (sql, by) = match by {
            TakenBack::Owner(user) => (
                "update account_erasure set taken_back_us = $2, hash = null where user_id = $1 and taken_back_us is null
                 returning user_id, job",
                user.as_str(),
            ),
            TakenBack::Token(hash) => (
                "update account_erasure set taken_back_us = $2, hash = null where hash = $1 and taken_back_us is null
                 returning user_id, job",
                hash.as_str(),
            ),
        };
        let row = tx.first(sql, args![by, now_us]).await?;
        let Some(row) = row else { return Ok(None) };
        let (user, job) = (user_id(&row.text("user_id")?)?, row.text("job")?);
        // Written in any case: whoever is at it and wants to sleep until the day waits for us, and sees this.
        tx.execute(
            "update job set updated_us = $2, run_at_us = case when state = 'queued' then $2 else run_at_us end where id = $1",
            args![&job, now_us],
        )
        .await?;
        tell(&mut tx, &user, "erasure-taken-back", &json!({}), now_us).await?;
        tx.commit().await?;
        Ok(Some(user))
    }

    /// Lets a job sleep until `at_us`; one whose person came back meanwhile goes on at once. False when the lease is not ours
    /// any more.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn put_off_erasure(&self, lease: &Lease, id: &ErasureId, at_us: i64, now_us: i64) -> Result<bool> {
        let mut tx = self.begin().await?;
        if jobs::settle(&mut tx, lease, &Outcome::HandedBack, Backoff::default(), now_us).await?.is_none() {
            return Ok(false);
        }
        tx.execute(
            "update job set run_at_us = case when exists
               (select 1 from account_erasure where id = $2 and taken_back_us is not null) then cast($4 as bigint) else cast($3 as bigint) end
             where id = $1 and state = 'queued'",
            args![lease.job.as_str(), id.as_str(), at_us, now_us],
        )
        .await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Somebody's tracks are shown again: the wish to be forgotten is over, unless they wish it once more.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn end_erasure(&self, id: &ErasureId) -> Result<()> {
        let mut tx = self.begin().await?;
        let sql = "delete from account_erasure where id = $1 and taken_back_us is not null";
        tx.execute(sql, args![id.as_str()]).await?;
        tx.commit().await
    }
}

/// Who takes an erasure back.
#[derive(Clone, Copy, Debug)]
pub enum TakenBack<'a> {
    /// The person, logged in.
    Owner(&'a UserId),
    /// Whoever has the mail.
    Token(&'a TokenHash),
}

async fn enqueued(tx: &mut Tx, job: &NewJob, now_us: i64) -> Result<JobId> {
    let (Enqueued::New(id) | Enqueued::Known(id) | Enqueued::Conflict(id)) = jobs::enqueue(tx, job, now_us).await?;
    Ok(id)
}

/// Puts a mail to somebody into the outbox, if they have an address.
async fn tell(tx: &mut Tx, user: &UserId, kind: &str, about: &Value, now_us: i64) -> Result<()> {
    let row = tx.first("select email from users where id = $1", args![user.as_str()]).await?;
    match row.map(|row| row.text_or_null("email")).transpose()?.flatten() {
        Some(email) => outbox::put(tx, kind, &email, &about.to_string(), now_us).await,
        None => Ok(()),
    }
}

fn export(row: &Row) -> Result<Export> {
    let state = match row.text("state")?.as_str() {
        "queued" => ExportState::Queued,
        "ready" => ExportState::Ready(Archive {
            place: if row.text("place")? == "s3" { Place::S3 } else { Place::Local },
            bytes: u64::try_from(row.int("bytes")?).unwrap_or(0),
            sha256: row.text("sha256")?,
        }),
        _ => ExportState::Failed,
    };
    Ok(Export {
        id: row.text("id")?.parse()?,
        user: user_id(&row.text("user_id")?)?,
        state,
        created_us: row.int("created_us")?,
        expires_us: row.int_or_null("expires_us")?,
    })
}

fn erasure(row: &Row) -> Result<Erasure> {
    Ok(Erasure {
        id: row.text("id")?.parse()?,
        user: user_id(&row.text("user_id")?)?,
        keep_tracks: row.int("keep_tracks")? != 0,
        asked_us: row.int("asked_us")?,
        due_us: row.int("due_us")?,
        taken_back: row.int_or_null("taken_back_us")?.is_some(),
    })
}
