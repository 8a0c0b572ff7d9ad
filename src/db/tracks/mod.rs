//! The rows of tracks: what they are called, how they stand, where their bytes are.
//!
//! What is served is decided by the record in the store, which the origin and the pages read without SQL. The row is
//! written with it, in one transaction, and says what the record does not: whose it is, its state, its store.

mod access;
mod change;
mod events;
mod lists;
mod lyrics;
mod making;
mod plays;
mod shares;
mod versions;

pub use access::{Seen, grant_licence, has_licence, revoke_licence};
pub use change::{Changes, advance, change, heard, on_sale, visibility};
pub(super) use events::follow;
pub use lists::Cursor;
pub use lyrics::Lyrics;
pub(super) use making::upload_moved;
pub use making::{Made, NewTrack, Sourced, claim, create, is_made_by, make_version};
pub use plays::{Day, Stats};
pub use shares::{NewShare, Share};
pub use versions::Version;

use super::conn::{Row, Tx, args};
use super::{Db, Dialect};
use crate::base::id::{TrackId, VersionId};
use crate::base::{Error, Result};
use crate::store::Backend;
use crate::tracks::access::Offer;
use crate::tracks::{self, State, Track, Visibility};

macro_rules! columns {
    () => {
        "id, title, owner, state, visibility, storage_backend, storage_key, version, samples, rate, flac, lossless, \
         bytes, error, created_us, updated_us, published_us, moved_us, publish_when_ready, upload, pending, job, \
         blocked_from, preview_enabled, preview_start_ms, price_minor, currency, artwork"
    };
}
use columns;

/// Rows in one page of a list.
pub const PAGE_MAX: u32 = 1_000;

/// A row.
#[derive(Clone, Debug, PartialEq)]
pub struct TrackRow {
    /// The track.
    pub id: TrackId,
    /// What people call it.
    pub title: String,
    /// Whose it is; `None`: made from the command line.
    pub owner: Option<String>,
    /// How it stands.
    pub state: State,
    /// Whether strangers may hear it.
    pub visibility: Visibility,
    /// Which store has it.
    pub backend: Backend,
    /// What the keys of its current version begin with. `None` with a version: the row is broken.
    pub storage_key: Option<String>,
    /// Which version it shows.
    pub version: Option<VersionId>,
    /// Length of the source in samples.
    pub samples: Option<u64>,
    /// Sample rate of the source in Hz.
    pub rate: Option<u32>,
    /// Whether it has a FLAC rung.
    pub flac: bool,
    /// Whether that decodes to the source.
    pub lossless: bool,
    /// Bytes of all objects of the current version.
    pub bytes: Option<u64>,
    /// Why it failed.
    pub error: Option<String>,
    /// When the row was made, in microseconds since 1970.
    pub created_us: i64,
    /// When it was last changed.
    pub updated_us: i64,
    /// When it first had a version.
    pub published_us: Option<i64>,
    /// When it last changed its store.
    pub moved_us: Option<i64>,
    /// Whether it is published as soon as it is ready.
    pub publish_when_ready: bool,
    /// The upload that its next version is made from, or its last was.
    pub upload: Option<String>,
    /// Whether it waits for that upload.
    pub waits_for_upload: bool,
    /// The latest job that makes a version of it.
    pub job: Option<String>,
    /// What it returns to when its block is lifted.
    pub blocked_from: Option<State>,
    /// Whether strangers hear thirty seconds of what they would have to pay for.
    pub preview_enabled: bool,
    /// Where its preview begins, in milliseconds; `None`: at the loudest.
    pub preview_start_ms: Option<i64>,
    /// What it costs.
    pub offer: Option<Offer>,
    /// Hash in the names of its pictures.
    pub artwork: Option<String>,
}

impl TrackRow {
    /// Length in seconds, once there is a version.
    pub fn duration_s(&self) -> Option<f64> {
        Some(self.samples? as f64 / f64::from(self.rate?.max(1)))
    }
}

/// Writes that a track shows a version that `backend` has, in the caller's transaction, and answers what it is called. A
/// row that is there keeps its owner, its visibility, and a state that is no step on the way here; what its owner calls
/// it counts for more than what the version was made with.
///
/// # Errors
/// When the database refuses.
pub async fn shows(tx: &mut Tx, track: &Track, backend: Backend, bytes: Option<u64>, now_us: i64) -> Result<String> {
    let id = track.id.as_str();
    // The row is there afterwards, and locked until the transaction ends.
    let row = tx
        .first(
            "insert into track (id, title, state, visibility, storage_backend, created_us, updated_us)
             values ($1, $2, 'draft', 'public', $3, $4, $4)
             on conflict (id) do update set updated_us = excluded.updated_us
             returning title, owner, state, blocked_from, publish_when_ready",
            args![id, &track.title, backend.as_str(), now_us],
        )
        .await?;
    let row = row.ok_or_else(|| Error::internal(format!("the row of track {id} vanished meanwhile")))?;
    let title = match row.text_or_null("owner")? {
        Some(_) => row.text("title")?,
        None => track.title.clone(),
    };
    let publish = row.int("publish_when_ready")? != 0;
    let state: State = row.text("state")?.parse()?;
    let next = tracks::when_shown(state, publish);
    // Of a blocked track it is what it returns to that moves on.
    let returns_to =
        row.text_or_null("blocked_from")?.map(|from| Ok::<_, Error>(tracks::when_shown(from.parse()?, publish)));
    let returns_to = returns_to.transpose()?.map(State::as_str);
    tx.execute(
        "update track set title = $2, state = $3, blocked_from = $4, storage_backend = $5, storage_key = $6, version = $7,
           samples = $8, rate = $9, flac = $10, lossless = $11, bytes = $12, error = null, updated_us = $13,
           published_us = coalesce(published_us, $13)
         where id = $1",
        args![
            id,
            &title,
            next.as_str(),
            returns_to,
            backend.as_str(),
            &storage_key(track.id, track.version),
            &track.version.to_string(),
            track.samples as i64,
            i64::from(track.rate),
            i64::from(track.flac || track.lossless),
            i64::from(track.lossless),
            bytes.map(|bytes| bytes as i64),
            now_us
        ],
    )
    .await?;
    versions::keep(tx, track, bytes, now_us).await?;
    if next != state {
        events::moved(tx, id, (state, next), None, now_us).await?;
    }
    Ok(title)
}

/// What the keys of a version begin with, in every store.
pub fn storage_key(track: TrackId, version: VersionId) -> String {
    format!("v/{track}/{version}/")
}

/// Says what a track is called, in the caller's transaction; false when there is none.
///
/// # Errors
/// When the database refuses.
pub async fn retitle(tx: &mut Tx, id: TrackId, title: &str, now_us: i64) -> Result<bool> {
    let sql = "update track set title = $2, updated_us = $3 where id = $1 and state <> 'deleted'";
    Ok(tx.execute(sql, args![id.as_str(), title, now_us]).await? > 0)
}

impl Db {
    /// The row of a track.
    ///
    /// # Errors
    /// When the database cannot be reached, or the row cannot be read.
    pub async fn track(&self, id: TrackId) -> Result<Option<TrackRow>> {
        let mut tx = self.begin_read().await?;
        let sql = concat!("select ", columns!(), " from track where id = $1");
        tx.first(sql, args![id.as_str()]).await?.map(|row| track(&row)).transpose()
    }

    /// Rows of tracks that `backend` has, by id, after `after`. A row that cannot be read is an error in its place.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn tracks_in(
        &self,
        backend: Backend,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<(String, Result<TrackRow>)>> {
        let mut tx = self.begin_read().await?;
        // Bytes and not words: both dialects and our own cursor agree then.
        let sql = match self.dialect() {
            Dialect::Sqlite => concat!(
                "select ",
                columns!(),
                " from track where storage_backend = $1 and id > $2 order by id limit $3"
            ),
            Dialect::Postgres => concat!(
                "select ",
                columns!(),
                " from track where storage_backend = $1 and id collate \"C\" > $2 order by id collate \"C\" limit $3"
            ),
        };
        let limit = i64::from(limit.min(PAGE_MAX));
        let rows = tx.all(sql, args![backend.as_str(), after.unwrap_or_default(), limit]).await?;
        rows.iter().map(|row| Ok((row.text("id")?, track(row)))).collect()
    }

    /// How many tracks `backend` has.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn count_tracks_in(&self, backend: Backend) -> Result<u64> {
        let mut tx = self.begin_read().await?;
        let row =
            tx.first("select count(*) as n from track where storage_backend = $1", args![backend.as_str()]).await?;
        row.map_or(Ok(0), |row| Ok(u64::try_from(row.int("n")?).unwrap_or(0)))
    }

    /// When each of these rows was last changed; `None` for tracks that have none.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn tracks_updated_us(&self, ids: &[TrackId]) -> Result<Vec<Option<i64>>> {
        let mut tx = self.begin_read().await?;
        let mut found = Vec::with_capacity(ids.len());
        for id in ids {
            let row = tx.first("select updated_us from track where id = $1", args![id.as_str()]).await?;
            found.push(row.map(|row| row.int("updated_us")).transpose()?);
        }
        Ok(found)
    }

    /// Writes what `shows` does, each in a transaction of its own.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn track_shows(&self, track: &Track, backend: Backend, bytes: Option<u64>, now_us: i64) -> Result<()> {
        let mut tx = self.begin().await?;
        shows(&mut tx, track, backend, bytes, now_us).await?;
        tx.commit().await
    }
}

/// Rows by a list of ids in JSON: the two dialects read it differently.
macro_rules! by_ids {
    ($dialect:expr, $before:expr, $after:expr) => {
        match $dialect {
            Dialect::Sqlite => concat!($before, " in (select value from json_each($1))", $after),
            Dialect::Postgres => concat!($before, " in (select jsonb_array_elements_text(cast($1 as jsonb)))", $after),
        }
    };
}
use by_ids;

/// Says that another store has the version and the pictures that a track shows, in the caller's transaction; false when
/// the track shows others by now, or is not where it was: then nothing was changed. Until the transaction ends nobody
/// makes it show others.
///
/// # Errors
/// When the database refuses.
pub async fn moves(
    tx: &mut Tx,
    (id, version, artwork): (TrackId, VersionId, Option<&str>),
    (from, to): (Backend, Backend),
    now_us: i64,
) -> Result<bool> {
    let moved = tx
        .execute(
            "update track set storage_backend = $1, storage_key = $2, updated_us = $3,
               moved_us = case when storage_backend = $1 then moved_us else $3 end
             where id = $4 and storage_backend = $5 and version = $6 and coalesce(artwork, '') = $7",
            args![
                to.as_str(),
                &storage_key(id, version),
                now_us,
                id.as_str(),
                from.as_str(),
                &version.to_string(),
                artwork.unwrap_or_default()
            ],
        )
        .await?;
    Ok(moved > 0)
}

fn track(row: &Row) -> Result<TrackRow> {
    let id = row.text("id")?;
    let wrong = |what: &str| Error::invalid(format!("the row of track {id:?} has {what}"));
    let number = |name: &str| Ok::<_, Error>(row.int_or_null(name)?.map(|number| u64::try_from(number).unwrap_or(0)));
    let version = row.text_or_null("version")?;
    Ok(TrackRow {
        id: TrackId::decode(&id).ok_or_else(|| wrong("an id that is none"))?,
        title: row.text("title")?,
        owner: row.text_or_null("owner")?,
        state: row.text("state")?.parse()?,
        visibility: row.text("visibility")?.parse()?,
        backend: row.text("storage_backend")?.parse()?,
        storage_key: row.text_or_null("storage_key")?,
        version: version
            .map(|text| VersionId::decode(&text).ok_or_else(|| wrong("a version that is none")))
            .transpose()?,
        samples: number("samples")?,
        rate: number("rate")?.map(|rate| u32::try_from(rate).unwrap_or(0)),
        flac: row.int("flac")? != 0,
        lossless: row.int("lossless")? != 0,
        bytes: number("bytes")?,
        error: row.text_or_null("error")?,
        created_us: row.int("created_us")?,
        updated_us: row.int("updated_us")?,
        published_us: row.int_or_null("published_us")?,
        moved_us: row.int_or_null("moved_us")?,
        publish_when_ready: row.int("publish_when_ready")? != 0,
        upload: row.text_or_null("upload")?,
        waits_for_upload: row.text_or_null("pending")?.is_some(),
        job: row.text_or_null("job")?,
        blocked_from: row.text_or_null("blocked_from")?.map(|state| state.parse()).transpose()?,
        preview_enabled: row.int("preview_enabled")? != 0,
        preview_start_ms: row.int_or_null("preview_start_ms")?,
        offer: match (row.int_or_null("price_minor")?, row.text_or_null("currency")?) {
            (Some(price_minor), Some(currency)) => Some(Offer { price_minor, currency }),
            _ => None,
        },
        artwork: row.text_or_null("artwork")?,
    })
}
