//! From a file that somebody sent to a track that plays: the rows that are written on the way.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::change::advance;
use super::events;
use crate::base::id::TrackId;
use crate::base::{Error, Result};
use crate::db::conn::{Tx, args};
use crate::db::jobs::{self, Enqueued};
use crate::jobs::transcode::KIND;
use crate::jobs::{Cost, JobId, NewJob};
use crate::store::Backend;
use crate::tracks::access::{Offer, is_owner};
use crate::tracks::{State, Visibility};
use crate::uploads::{self, Upload, UploadId};

/// Tracks that can wait for one upload.
const WAITING_MAX: i64 = 100;

/// A track to make.
#[derive(Clone, Debug)]
pub struct NewTrack<'a> {
    /// Its id.
    pub id: TrackId,
    /// What its owner calls it.
    pub title: &'a str,
    /// Whose it is.
    pub owner: &'a str,
    /// Whether strangers may know of it.
    pub visibility: Visibility,
    /// Whether it is published as soon as it is ready.
    pub publish_when_ready: bool,
    /// Which store its first version will be in.
    pub backend: Backend,
    /// Whether strangers hear thirty seconds of what they would have to pay for.
    pub preview_enabled: bool,
    /// Where its preview begins, in milliseconds.
    pub preview_start_ms: Option<i64>,
    /// What it costs.
    pub offer: Option<&'a Offer>,
    /// sha256 of the request, when it has a key by which it can be repeated.
    pub made_from: Option<&'a str>,
}

/// What came of making a track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// It is there when the transaction commits.
    New,
    /// The same request made it before.
    Known,
    /// Another request did.
    Conflict,
}

/// Writes the row of a new track, in the caller's transaction.
///
/// # Errors
/// When the database refuses.
pub async fn create(tx: &mut Tx, new: &NewTrack<'_>, now_us: i64) -> Result<Made> {
    let id = new.id.as_str();
    let inserted = tx
        .execute(
            "insert into track (id, title, owner, state, visibility, publish_when_ready, storage_backend, preview_enabled,
               preview_start_ms, price_minor, currency, made_from, created_us, updated_us)
             values ($1, $2, $3, 'draft', $4, $5, $6, $7, $8, $9, $10, $11, $12, $12) on conflict (id) do nothing",
            args![
                id,
                new.title,
                new.owner,
                new.visibility.as_str(),
                i64::from(new.publish_when_ready),
                new.backend.as_str(),
                i64::from(new.preview_enabled),
                new.preview_start_ms,
                new.offer.map(|offer| offer.price_minor),
                new.offer.map(|offer| offer.currency.as_str()),
                new.made_from,
                now_us
            ],
        )
        .await?;
    if inserted > 0 {
        events::note(tx, id, "state", &json!({ "to": State::Draft }), now_us).await?;
        return Ok(Made::New);
    }
    let row = tx.first("select owner, made_from from track where id = $1", args![id]).await?;
    let row = row.ok_or_else(|| Error::internal(format!("the row of track {id} vanished meanwhile")))?;
    let same = is_owner(row.text_or_null("owner")?.as_deref(), Some(new.owner))
        && new.made_from.is_some()
        && row.text_or_null("made_from")?.as_deref() == new.made_from;
    Ok(if same { Made::Known } else { Made::Conflict })
}

/// How a source stands to its track.
#[derive(Clone, Debug, PartialEq)]
pub enum Sourced {
    /// A job is in the queue.
    Enqueued(JobId),
    /// It will be when the upload is ready.
    Waits,
    /// The upload ended and is no source.
    Unusable(uploads::State),
}

/// Makes a version of a track out of an upload that the caller holds: at once, or when all of it is here and was looked
/// at. In the caller's transaction; the track's row exists.
///
/// # Errors
/// When the database refuses.
pub async fn make_version(tx: &mut Tx, track: TrackId, upload: &Upload, job: &NewJob, now_us: i64) -> Result<Sourced> {
    let id = track.as_str();
    match upload.state {
        uploads::State::Ready => {
            let sql = "update track set upload = $2 where id = $1";
            tx.execute(sql, args![id, upload.id.as_str()]).await?;
            Ok(Sourced::Enqueued(begin(tx, id, job, now_us).await?))
        }
        state if state.is_in_flight() => {
            let sql = "update track set upload = $2, pending = $3, updated_us = $4 where id = $1";
            tx.execute(sql, args![id, upload.id.as_str(), &Pending::encode(job), now_us]).await?;
            events::note(tx, id, "waiting", &json!({ "upload": upload.id }), now_us).await?;
            Ok(Sourced::Waits)
        }
        state => Ok(Sourced::Unusable(state)),
    }
}

/// What follows for tracks from what became of their upload, in the transaction that writes it down.
///
/// # Errors
/// When the database refuses.
pub(in crate::db) async fn upload_moved(
    tx: &mut Tx,
    upload: &UploadId,
    to: uploads::State,
    why: Option<&str>,
    now_us: i64,
) -> Result<()> {
    if to.is_in_flight() {
        return Ok(());
    }
    let sql = "select id, pending from track where upload = $1 and pending is not null limit $2";
    for row in tx.all(sql, args![upload.as_str(), WAITING_MAX]).await? {
        let (id, pending) = (row.text("id")?, row.text("pending")?);
        if to == uploads::State::Ready {
            begin(tx, &id, &Pending::decode(&pending)?, now_us).await?;
            continue;
        }
        let sql = "update track set pending = null, updated_us = $2 where id = $1 returning state";
        let Some(row) = tx.first(sql, args![&id, now_us]).await? else { continue };
        let state: State = row.text("state")?.parse()?;
        let why = why.unwrap_or("its upload was removed before it was whole; upload the file again");
        events::note(tx, &id, "upload", &json!({ "state": to, "error": why }), now_us).await?;
        if state == State::Draft {
            advance(tx, &id, (state, State::Failed), Some(why), now_us).await?;
        }
    }
    Ok(())
}

/// Enqueues the job of a track, and says so in its row.
async fn begin(tx: &mut Tx, id: &str, job: &NewJob, now_us: i64) -> Result<JobId> {
    let (Enqueued::New(made) | Enqueued::Known(made) | Enqueued::Conflict(made)) =
        jobs::enqueue(tx, job, now_us).await?;
    let sql = "update track set job = $2, pending = null, updated_us = $3 where id = $1 returning state";
    let row = tx.first(sql, args![id, made.as_str(), now_us]).await?;
    let row = row.ok_or_else(|| Error::internal(format!("the row of track {id} vanished meanwhile")))?;
    events::note(tx, id, "queued", &json!({ "job": made }), now_us).await?;
    let state: State = row.text("state")?.parse()?;
    if matches!(state, State::Draft | State::Failed) {
        advance(tx, id, (state, State::Uploaded), None, now_us).await?;
    }
    Ok(made)
}

/// Makes sure that a track that another program wants to make a version of is this owner's, in the caller's transaction,
/// and gives it to them when there is none; false when it is somebody else's. `any`: a track that has no owner will do.
///
/// # Errors
/// When the database refuses.
pub async fn claim(
    tx: &mut Tx,
    (track, title): (TrackId, &str),
    (owner, any): (&str, bool),
    backend: Backend,
    now_us: i64,
) -> Result<bool> {
    let row = tx
        .first(
            "insert into track (id, title, owner, state, visibility, storage_backend, created_us, updated_us)
             values ($1, $2, $3, 'draft', 'public', $4, $5, $5)
             on conflict (id) do update set updated_us = track.updated_us
             returning owner, state",
            args![track.as_str(), title, owner, backend.as_str(), now_us],
        )
        .await?;
    let row = row.ok_or_else(|| Error::internal(format!("the row of track {track} vanished meanwhile")))?;
    if row.text("state")? == State::Deleted.as_str() {
        return Ok(false);
    }
    Ok(match row.text_or_null("owner")? {
        Some(known) => known == owner,
        None => any,
    })
}

/// Says which job makes a version of a track, in the transaction that enqueues it.
///
/// # Errors
/// When the database refuses.
pub async fn is_made_by(tx: &mut Tx, track: TrackId, job: &JobId, now_us: i64) -> Result<()> {
    let sql = "update track set job = $2, updated_us = $3 where id = $1 returning state";
    let Some(row) = tx.first(sql, args![track.as_str(), job.as_str(), now_us]).await? else { return Ok(()) };
    let state: State = row.text("state")?.parse()?;
    if matches!(state, State::Draft | State::Failed) {
        advance(tx, track.as_str(), (state, State::Uploaded), None, now_us).await?;
    }
    Ok(())
}

/// A job that waits in its track's row.
#[derive(Deserialize, Serialize)]
struct Pending {
    input: String,
    client: String,
    priority: u8,
    cpu_milli: u32,
    memory_bytes: u64,
    failures_max: u32,
}

impl Pending {
    fn encode(job: &NewJob) -> String {
        let pending = Pending {
            input: job.input.clone(),
            client: job.client.clone(),
            priority: job.priority,
            cpu_milli: job.cost.cpu_milli,
            memory_bytes: job.cost.memory_bytes,
            failures_max: job.failures_max,
        };
        serde_json::to_string(&pending).expect("plain data always serialises")
    }

    fn decode(text: &str) -> Result<NewJob> {
        let read: Pending = serde_json::from_str(text)
            .map_err(|cause| Error::internal("a job that waits for its upload cannot be read").because(cause))?;
        Ok(NewJob {
            kind: KIND,
            priority: read.priority,
            input: read.input,
            client: read.client,
            idempotency_key: None,
            cost: Cost { cpu_milli: read.cpu_milli, memory_bytes: read.memory_bytes },
            failures_max: read.failures_max,
        })
    }
}
