//! Uploads: rows, their parts, and what each owner occupies. In: what was sent and made durable. Out: uploads, and
//! whether the caller still had the right.
//!
//! `advance` is the only statement that writes `upload.state`, and moves the owner's usage with it. A writer has a
//! number; a commit names it and the offset it began at, so a writer that was too slow changes nothing. An
//! `update … returning` is how a row is read to be changed: it locks the row in both dialects.

use sha2::{Digest as _, Sha256};

use super::conn::{Row, Tx, args};
use super::{Db, Dialect};
use crate::base::id::TrackId;
use crate::base::{Error, Result, hex};
use crate::uploads::{Kind, NewUpload, Part, Place, Reason, Rules, State, Upload, UploadId};

/// Every column of an `Upload`.
macro_rules! columns {
    () => {
        "id, owner, kind, state, bytes, offset_bytes, sha256, name, track, metadata, place, store_upload, tail_writer, \
         writer, mime, reason, error, expires_us, created_us, finished_us"
    };
}

/// Uploads in one page of a list.
pub const PAGE_MAX: u32 = 200;
/// Rows that one look of the janitor takes.
const BATCH: i64 = 100;

/// What came of announcing an upload.
#[derive(Clone, Debug, PartialEq)]
pub enum Created {
    /// It is there, and its room is reserved.
    New(Upload),
    /// The same owner announced the same under the same key before.
    Known(Upload),
    /// The same owner used this key for another one.
    Conflict(UploadId),
    /// It would be more than its owner may have: which of the rules says so.
    Full(Quota),
}

/// What an owner has too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quota {
    /// Uploads at once.
    Uploads,
    /// Bytes on their way.
    InFlight,
    /// Bytes stored and on their way.
    Stored,
}

/// What came of asking for the right to write.
#[derive(Clone, Debug, PartialEq)]
pub enum Begun {
    /// It is the caller's until it is released, lost or ends.
    Writing(Upload),
    /// Somebody else writes.
    Taken,
    /// It cannot be written: this is how it stands.
    Not(Upload),
    /// There is no such upload.
    Unknown,
}

/// What a writer made durable.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// Where it began.
    pub from: u64,
    /// Where it ended.
    pub to: u64,
    /// Parts that are new.
    pub parts: Vec<Part>,
    /// Who wrote the object with the bytes behind the last whole part.
    pub tail: Option<i64>,
    /// The length, now that it is known: of a form.
    pub length: Option<u64>,
}

/// What an owner occupies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Uploads on their way.
    pub uploads: i64,
    /// Their bytes, as announced.
    pub in_flight_bytes: i64,
    /// Bytes of what is ready.
    pub stored_bytes: i64,
}

/// What a look at an upload found.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It is what it was said to be.
    Ready {
        /// What it is.
        mime: String,
        /// Its SHA-256, hexadecimal.
        sha256: String,
    },
    /// It is not.
    Refused(Reason, String),
}

/// What else changes when an upload moves.
#[derive(Default)]
struct With<'a> {
    mime: Option<&'a str>,
    sha256: Option<&'a str>,
    reason: Option<&'a str>,
    error: Option<&'a str>,
}

/// Moves an upload, in the caller's transaction, and its owner's usage with it. False when it does not stand as
/// `from` any more: somebody else was faster.
async fn advance(tx: &mut Tx, id: &UploadId, (from, to): (State, State), with: With<'_>, now_us: i64) -> Result<bool> {
    if !from.may_become(to) {
        return Err(Error::internal(format!("upload {id} cannot become {} from {}", to.as_str(), from.as_str())));
    }
    let ends = !to.is_in_flight();
    let moved = tx
        .first(
            "update upload set state = $3, mime = coalesce($4, mime), sha256 = coalesce($5, sha256), reason = $6, error = $7,
               finished_us = case when $8 = 1 then $9 else finished_us end,
               expires_us = case when $3 in ('created', 'uploading') then expires_us end,
               verify_us = case when $3 = 'verifying' then $9 end,
               writer_until_us = case when $3 in ('created', 'uploading') then writer_until_us end,
               idempotency_key = case when $3 in ('aborted', 'expired') then null else idempotency_key end,
               updated_us = $9
             where id = $1 and state = $2
             returning owner, bytes",
            args![
                id.as_str(),
                from.as_str(),
                to.as_str(),
                with.mime,
                with.sha256,
                with.reason,
                with.error,
                i64::from(ends),
                now_us
            ],
        )
        .await?;
    let Some(row) = moved else { return Ok(false) };
    let (owner, bytes) = (row.text("owner")?, row.int("bytes")?);
    let left = i64::from(from.is_in_flight() && !to.is_in_flight());
    let stored = i64::from(to == State::Ready) - i64::from(from == State::Ready);
    if (left, stored) != (0, 0) {
        tx.execute(
            "update upload_usage set uploads = uploads - $2, in_flight_bytes = in_flight_bytes - $3,
               stored_bytes = stored_bytes + $4
             where owner = $1",
            args![&owner, left, left * bytes, stored * bytes],
        )
        .await?;
    }
    // Tracks that wait for it go on, or say why they do not.
    super::tracks::upload_moved(tx, id, to, with.error, now_us).await?;
    Ok(true)
}

impl Db {
    /// Announces an upload and reserves its room, both or neither.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn create_upload(&self, new: &NewUpload, rules: &Rules, now_us: i64) -> Result<Created> {
        let fingerprint = fingerprint(new);
        let mut tx = self.begin().await?;
        // Locks the owner's row: creations of one owner stand in line, so none sees a key or a sum too late.
        let usage = tx
            .first(
                "insert into upload_usage (owner) values ($1) on conflict (owner) do update set uploads = upload_usage.uploads
                 returning uploads, in_flight_bytes, stored_bytes",
                args![&new.owner],
            )
            .await?;
        let usage = usage.map(|row| usage_of(&row)).transpose()?.unwrap_or_default();
        if let Some(key) = &new.idempotency_key {
            let sql =
                concat!("select fingerprint, ", columns!(), " from upload where owner = $1 and idempotency_key = $2");
            if let Some(row) = tx.first(sql, args![&new.owner, key]).await? {
                let known = upload(&row)?;
                if row.text("fingerprint")? != fingerprint {
                    return Ok(Created::Conflict(known.id));
                }
                if !matches!(known.state, State::Aborted | State::Expired) {
                    return Ok(Created::Known(known));
                }
                // Nothing came of it: whoever tries again wants another.
                let sql = "update upload set idempotency_key = null where id = $1";
                tx.execute(sql, args![known.id.as_str()]).await?;
            }
        }
        if let Some(quota) = exceeded(usage, new.bytes, rules) {
            return Ok(Created::Full(quota));
        }
        tx.execute(
            "update upload_usage set uploads = uploads + 1, in_flight_bytes = in_flight_bytes + $2 where owner = $1",
            args![&new.owner, signed(new.bytes)],
        )
        .await?;
        let id = UploadId::new(now_us);
        let sql = concat!(
            "insert into upload (id, owner, kind, state, bytes, sha256, name, track, metadata, idempotency_key, fingerprint,
               place, expires_us, created_us, updated_us)
             values ($1, $2, $3, 'created', $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $13)
             returning ",
            columns!()
        );
        let track = new.track.map(|track| track.to_string());
        let row = tx
            .first(
                sql,
                args![
                    id.as_str(),
                    &new.owner,
                    new.kind.as_str(),
                    signed(new.bytes),
                    new.sha256.as_deref(),
                    new.name.as_deref(),
                    track.as_deref(),
                    new.metadata.as_deref(),
                    new.idempotency_key.as_deref(),
                    &fingerprint,
                    new.place.as_str(),
                    now_us + rules.expires.as_micros() as i64,
                    now_us
                ],
            )
            .await?;
        let made = upload(&row.ok_or_else(|| Error::internal("an upload was not written"))?)?;
        tx.commit().await?;
        Ok(Created::New(made))
    }

    /// One upload.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn upload(&self, id: &UploadId) -> Result<Option<Upload>> {
        let mut tx = self.begin_read().await?;
        read(&mut tx, id).await
    }

    /// The uploads of an owner, the latest first, before `before`.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn uploads(&self, owner: &str, before: Option<&UploadId>, limit: u32) -> Result<Vec<Upload>> {
        let mut tx = self.begin_read().await?;
        let sql = concat!(
            "select ",
            columns!(),
            " from upload where owner = $1 and ($2 = '' or id < $2) order by id desc limit $3"
        );
        let before = before.map_or("", UploadId::as_str);
        tx.all(sql, args![owner, before, i64::from(limit.clamp(1, PAGE_MAX))]).await?.iter().map(upload).collect()
    }

    /// The parts of an upload that are durable, by number.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn upload_parts(&self, id: &UploadId) -> Result<Vec<Part>> {
        let mut tx = self.begin_read().await?;
        let sql = "select number, bytes, etag from upload_part where upload_id = $1 order by number limit 10000";
        let rows = tx.all(sql, args![id.as_str()]).await?;
        rows.iter()
            .map(|row| {
                let number = i32::try_from(row.int("number")?).unwrap_or(i32::MAX);
                Ok(Part { number, bytes: unsigned(row.int("bytes")?), etag: row.text("etag")? })
            })
            .collect()
    }

    /// What an owner occupies.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn upload_usage(&self, owner: &str) -> Result<Usage> {
        let mut tx = self.begin_read().await?;
        let sql = "select uploads, in_flight_bytes, stored_bytes from upload_usage where owner = $1";
        Ok(tx.first(sql, args![owner]).await?.map(|row| usage_of(&row)).transpose()?.unwrap_or_default())
    }

    /// Takes the right to write until `until_us`. `takes_over`: whoever had it is known to be gone.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn begin_write(&self, id: &UploadId, takes_over: bool, now_us: i64, until_us: i64) -> Result<Begun> {
        let mut tx = self.begin().await?;
        let sql = concat!(
            "update upload set writer = writer + 1, writer_until_us = $3, updated_us = $2
             where id = $1 and state in ('created', 'uploading') and expires_us > $2
               and (writer_until_us is null or writer_until_us <= $2 or $4 = 1)
             returning ",
            columns!()
        );
        if let Some(row) = tx.first(sql, args![id.as_str(), now_us, until_us, i64::from(takes_over)]).await? {
            let begun = upload(&row)?;
            tx.commit().await?;
            return Ok(Begun::Writing(begun));
        }
        Ok(match read(&mut tx, id).await? {
            None => Begun::Unknown,
            Some(upload) if upload.state.is_open() && upload.expires_us.is_some_and(|end| end > now_us) => Begun::Taken,
            Some(upload) => Begun::Not(upload),
        })
    }

    /// Keeps the right to write until `until_us`; false when it is lost.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn renew_write(&self, id: &UploadId, writer: i64, until_us: i64) -> Result<bool> {
        let mut tx = self.begin().await?;
        let sql = "update upload set writer_until_us = $3
                   where id = $1 and writer = $2 and state in ('created', 'uploading')";
        let held = tx.execute(sql, args![id.as_str(), writer, until_us]).await?;
        tx.commit().await?;
        Ok(held > 0)
    }

    /// Gives the right to write back.
    ///
    /// # Errors
    /// When the database cannot be reached; the right ends by itself.
    pub async fn end_write(&self, id: &UploadId, writer: i64) -> Result<()> {
        let mut tx = self.begin().await?;
        let sql = "update upload set writer_until_us = null where id = $1 and writer = $2";
        tx.execute(sql, args![id.as_str(), writer]).await?;
        tx.commit().await
    }

    /// Writes down what is durable. All of it: the upload is verified next. `None` when the right was lost.
    ///
    /// # Errors
    /// When the database refuses; the bytes are then sent again.
    pub async fn commit_write(
        &self,
        id: &UploadId,
        writer: i64,
        written: &Written,
        rules: &Rules,
        now_us: i64,
    ) -> Result<Option<State>> {
        let mut tx = self.begin().await?;
        let length = written.length.map(signed);
        let sql = "update upload set offset_bytes = $4, tail_writer = $5, expires_us = $6, updated_us = $7
                   where id = $1 and writer = $2 and offset_bytes = $3 and state in ('created', 'uploading')
                     and $4 <= bytes
                   returning owner, state, bytes";
        let row = tx
            .first(
                sql,
                args![
                    id.as_str(),
                    writer,
                    signed(written.from),
                    signed(written.to),
                    written.tail,
                    now_us + rules.expires.as_micros() as i64,
                    now_us
                ],
            )
            .await?;
        let Some(row) = row else { return Ok(None) };
        let (owner, from, announced) = (row.text("owner")?, state(&row)?, row.int("bytes")?);
        if let Some(length) = length {
            // The reservation shrinks to what came.
            tx.execute("update upload set bytes = $2 where id = $1", args![id.as_str(), length]).await?;
            tx.execute(
                "update upload_usage set in_flight_bytes = in_flight_bytes - $2 where owner = $1",
                args![&owner, announced - length],
            )
            .await?;
        }
        keep_parts(&mut tx, id, &written.parts).await?;
        let to = match () {
            () if written.to == unsigned(length.unwrap_or(announced)) => State::Verifying,
            () if written.to > 0 => State::Uploading,
            () => State::Created,
        };
        if to != from && !advance(&mut tx, id, (from, to), With::default(), now_us).await? {
            return Ok(None);
        }
        tx.commit().await?;
        Ok(Some(to))
    }

    /// Remembers S3's id of the upload in parts; the one that counts, which may be somebody else's.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn keep_store_upload(&self, id: &UploadId, store_upload: &str) -> Result<Option<String>> {
        let mut tx = self.begin().await?;
        let sql = "update upload set store_upload = coalesce(store_upload, $2)
                   where id = $1 and state in ('created', 'uploading') returning store_upload";
        let kept = tx.first(sql, args![id.as_str(), store_upload]).await?;
        let kept = kept.map(|row| row.text("store_upload")).transpose()?;
        tx.commit().await?;
        Ok(kept)
    }

    /// All parts are in the bucket: the upload is verified next.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn finish_parts(&self, id: &UploadId, parts: &[Part], now_us: i64) -> Result<Begun> {
        let mut tx = self.begin().await?;
        let sql = concat!(
            "update upload set writer = writer + 1, offset_bytes = bytes, tail_writer = null, updated_us = $2
             where id = $1 and state in ('created', 'uploading') and expires_us > $2
               and (writer_until_us is null or writer_until_us <= $2)
             returning ",
            columns!()
        );
        let Some(row) = tx.first(sql, args![id.as_str(), now_us]).await? else {
            return Ok(match read(&mut tx, id).await? {
                None => Begun::Unknown,
                Some(upload) if upload.state.is_open() => Begun::Taken,
                Some(upload) => Begun::Not(upload),
            });
        };
        let known = upload(&row)?;
        tx.execute("delete from upload_part where upload_id = $1", args![id.as_str()]).await?;
        keep_parts(&mut tx, id, parts).await?;
        advance(&mut tx, id, (known.state, State::Verifying), With::default(), now_us).await?;
        tx.commit().await?;
        Ok(Begun::Writing(Upload { state: State::Verifying, ..known }))
    }

    /// What its owner does not want any more. `None`: there was nothing to remove.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn remove_upload(&self, id: &UploadId, now_us: i64) -> Result<Option<Upload>> {
        let mut tx = self.begin().await?;
        // Whoever writes has lost the right.
        let sql = concat!("update upload set writer = writer + 1 where id = $1 returning ", columns!());
        let Some(row) = tx.first(sql, args![id.as_str()]).await? else { return Ok(None) };
        let known = upload(&row)?;
        let to = if known.state == State::Ready { State::Deleted } else { State::Aborted };
        if !known.state.may_become(to) {
            return Ok(None);
        }
        advance(&mut tx, id, (known.state, to), With::default(), now_us).await?;
        tx.commit().await?;
        Ok(Some(Upload { state: to, ..known }))
    }

    /// Ends uploads that nobody goes on with, a batch at a time.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn expire_uploads(&self, now_us: i64) -> Result<Vec<Upload>> {
        let due = "select id from upload where state in ('created', 'uploading') and expires_us <= $1
                   order by expires_us limit $2";
        let mut reading = self.begin_read().await?;
        let due = reading.all(due, args![now_us, BATCH]).await?;
        drop(reading);
        let mut expired = Vec::new();
        for row in due {
            let id = row.text("id")?;
            let mut tx = self.begin().await?;
            let sql = concat!(
                "update upload set writer = writer + 1
                 where id = $1 and state in ('created', 'uploading') and expires_us <= $2
                   and (writer_until_us is null or writer_until_us <= $2)
                 returning ",
                columns!()
            );
            let Some(row) = tx.first(sql, args![&id, now_us]).await? else { continue };
            let known = upload(&row)?;
            let why = With { error: Some("nobody went on with it in time; send it again"), ..With::default() };
            advance(&mut tx, &known.id, (known.state, State::Expired), why, now_us).await?;
            tx.commit().await?;
            expired.push(Upload { state: State::Expired, ..known });
        }
        Ok(expired)
    }

    /// Takes an upload to look at; nobody else does before `until_us`. The number is that of the attempt.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn take_verifying(&self, now_us: i64, until_us: i64) -> Result<Option<(Upload, i64)>> {
        let mut tx = self.begin_read().await?;
        let due = "select id from upload where state = 'verifying' and verify_us <= $1 limit 1";
        if tx.first(due, args![now_us]).await?.is_none() {
            return Ok(None);
        }
        drop(tx);
        let mut tx = self.begin().await?;
        let sql = match tx.dialect() {
            Dialect::Sqlite => concat!(
                "update upload set verify_us = $2, attempts = attempts + 1
                 where id = (select id from upload where state = 'verifying' and verify_us <= $1
                   order by verify_us, id limit 1)
                 returning attempts, ",
                columns!()
            ),
            Dialect::Postgres => concat!(
                "update upload set verify_us = $2, attempts = attempts + 1
                 where id = (select id from upload where state = 'verifying' and verify_us <= $1
                   order by verify_us, id limit 1 for update skip locked)
                 returning attempts, ",
                columns!()
            ),
        };
        let Some(row) = tx.first(sql, args![now_us, until_us]).await? else { return Ok(None) };
        let taken = (upload(&row)?, row.int("attempts")?);
        tx.commit().await?;
        Ok(Some(taken))
    }

    /// Keeps an upload that is being looked at until `until_us`.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn keep_verifying(&self, id: &UploadId, until_us: i64) -> Result<()> {
        let mut tx = self.begin().await?;
        let sql = "update upload set verify_us = $2 where id = $1 and state = 'verifying'";
        tx.execute(sql, args![id.as_str(), until_us]).await?;
        tx.commit().await
    }

    /// Puts off the next look at an upload, and says why.
    ///
    /// # Errors
    /// When the database cannot be reached; it is looked at again all the same.
    pub async fn verify_later(&self, id: &UploadId, why: &str, at_us: i64) -> Result<()> {
        let mut tx = self.begin().await?;
        let sql = "update upload set verify_us = $2, error = $3 where id = $1 and state = 'verifying'";
        tx.execute(sql, args![id.as_str(), at_us, why]).await?;
        tx.commit().await
    }

    /// Says what a look at an upload found; false when it had ended meanwhile.
    ///
    /// # Errors
    /// When the database refuses; it is looked at again.
    pub async fn settle_upload(&self, id: &UploadId, verdict: &Verdict, now_us: i64) -> Result<bool> {
        let mut tx = self.begin().await?;
        let (to, with) = match verdict {
            Verdict::Ready { mime, sha256 } => {
                (State::Ready, With { mime: Some(mime), sha256: Some(sha256), ..With::default() })
            }
            Verdict::Refused(reason, why) => {
                (State::Refused, With { reason: Some(reason.as_str()), error: Some(why), ..With::default() })
            }
        };
        let moved = advance(&mut tx, id, (State::Verifying, to), with, now_us).await?;
        tx.commit().await?;
        Ok(moved)
    }

    /// Uploads that ended and of which there may still be bytes.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn unswept_uploads(&self) -> Result<Vec<Upload>> {
        let mut tx = self.begin_read().await?;
        let sql = concat!(
            "select ",
            columns!(),
            " from upload where state in ('refused', 'expired', 'aborted', 'deleted') and swept_us is null
             order by finished_us limit $1"
        );
        tx.all(sql, args![BATCH]).await?.iter().map(upload).collect()
    }

    /// Nothing is left of the bytes of an upload that ended.
    ///
    /// # Errors
    /// When the database cannot be reached; they are looked for again.
    pub async fn swept_upload(&self, id: &UploadId, now_us: i64) -> Result<()> {
        let mut tx = self.begin().await?;
        tx.execute("update upload set swept_us = $2 where id = $1", args![id.as_str(), now_us]).await?;
        tx.execute("delete from upload_part where upload_id = $1", args![id.as_str()]).await?;
        tx.commit().await
    }

    /// Forgets uploads that ended before `before_us`, a batch at a time; says how many.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn forget_uploads(&self, before_us: i64) -> Result<u64> {
        let mut tx = self.begin().await?;
        let gone = tx
            .execute(
                "delete from upload where id in (select id from upload
                   where state in ('refused', 'expired', 'aborted', 'deleted') and finished_us < $1
                     and swept_us is not null
                   order by finished_us limit 500)",
                args![before_us],
            )
            .await?;
        tx.commit().await?;
        Ok(gone)
    }

    /// How many uploads wait to be looked at.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn uploads_verifying(&self) -> Result<i64> {
        let mut tx = self.begin_read().await?;
        let row = tx.first("select count(*) as many from upload where state = 'verifying'", args![]).await?;
        row.map_or(Ok(0), |row| row.int("many"))
    }
}

/// The upload in the caller's transaction, which nobody moves before that ends.
///
/// # Errors
/// When the database refuses.
pub async fn hold(tx: &mut Tx, id: &UploadId, now_us: i64) -> Result<Option<Upload>> {
    let sql = concat!("update upload set updated_us = $2 where id = $1 returning ", columns!());
    tx.first(sql, args![id.as_str(), now_us]).await?.map(|row| upload(&row)).transpose()
}

async fn read(tx: &mut Tx, id: &UploadId) -> Result<Option<Upload>> {
    let sql = concat!("select ", columns!(), " from upload where id = $1");
    tx.first(sql, args![id.as_str()]).await?.map(|row| upload(&row)).transpose()
}

async fn keep_parts(tx: &mut Tx, id: &UploadId, parts: &[Part]) -> Result<()> {
    for part in parts {
        tx.execute(
            "insert into upload_part (upload_id, number, bytes, etag) values ($1, $2, $3, $4)
             on conflict (upload_id, number) do update set bytes = excluded.bytes, etag = excluded.etag",
            args![id.as_str(), i64::from(part.number), signed(part.bytes), &part.etag],
        )
        .await?;
    }
    Ok(())
}

fn exceeded(usage: Usage, bytes: u64, rules: &Rules) -> Option<Quota> {
    let in_flight = unsigned(usage.in_flight_bytes).saturating_add(bytes);
    if unsigned(usage.uploads) >= rules.owner_uploads_max {
        return Some(Quota::Uploads);
    }
    if in_flight > rules.owner_in_flight_bytes_max {
        return Some(Quota::InFlight);
    }
    (in_flight.saturating_add(unsigned(usage.stored_bytes)) > rules.owner_stored_bytes_max).then_some(Quota::Stored)
}

fn fingerprint(new: &NewUpload) -> String {
    let track = new.track.map(|track| track.to_string());
    let said = (new.kind.as_str(), new.bytes, &new.sha256, &new.name, track, &new.metadata);
    hex::encode(&Sha256::digest(format!("{said:?}").as_bytes()))
}

fn usage_of(row: &Row) -> Result<Usage> {
    Ok(Usage {
        uploads: row.int("uploads")?,
        in_flight_bytes: row.int("in_flight_bytes")?,
        stored_bytes: row.int("stored_bytes")?,
    })
}

fn upload(row: &Row) -> Result<Upload> {
    let strange = |what: &str| Error::internal(format!("an upload has a {what} that we did not make"));
    let kind = Kind::decode(&row.text("kind")?).ok_or_else(|| strange("kind"))?;
    let track = row.text_or_null("track")?;
    Ok(Upload {
        id: UploadId::decode(&row.text("id")?).ok_or_else(|| strange("id"))?,
        owner: row.text("owner")?,
        kind,
        state: state(row)?,
        bytes: unsigned(row.int("bytes")?),
        offset: unsigned(row.int("offset_bytes")?),
        sha256: row.text_or_null("sha256")?,
        name: row.text_or_null("name")?,
        track: track.map(|track| TrackId::decode(&track).ok_or_else(|| strange("track"))).transpose()?,
        metadata: row.text_or_null("metadata")?,
        place: if row.text("place")? == "s3" { Place::S3 } else { Place::Local },
        store_upload: row.text_or_null("store_upload")?,
        tail: row.int_or_null("tail_writer")?,
        writer: row.int("writer")?,
        mime: row.text_or_null("mime")?,
        reason: row.text_or_null("reason")?,
        error: row.text_or_null("error")?,
        expires_us: row.int_or_null("expires_us")?,
        created_us: row.int("created_us")?,
        finished_us: row.int_or_null("finished_us")?,
    })
}

fn state(row: &Row) -> Result<State> {
    let text = row.text("state")?;
    State::decode(&text).ok_or_else(|| Error::internal(format!("an upload has the unknown state {text}")))
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn unsigned(bytes: i64) -> u64 {
    u64::try_from(bytes).unwrap_or(0)
}
