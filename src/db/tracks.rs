//! The rows of tracks: what they are called, how they stand, where their bytes are.
//!
//! What is served is decided by the record in the store, which the origin and the pages read without SQL. The row is
//! written with it, in one transaction, and says what the record does not: whose it is, its state, its store.

use super::conn::{Row, Tx, args};
use super::{Db, Dialect};
use crate::base::id::{TrackId, VersionId};
use crate::base::{Error, Result};
use crate::store::Backend;
use crate::tracks::{State, Track, Visibility};

macro_rules! columns {
    () => {
        "id, title, owner, state, visibility, storage_backend, storage_key, version, samples, rate, flac, lossless, \
         bytes, error, created_us, updated_us, published_us, moved_us"
    };
}

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
}

/// Writes that a track shows a version that `backend` has, in the caller's transaction. A row that is there keeps its
/// owner, its visibility, and a state that is no step on the way here.
///
/// # Errors
/// When the database refuses.
pub async fn shows(tx: &mut Tx, track: &Track, backend: Backend, bytes: Option<u64>, now_us: i64) -> Result<()> {
    tx.execute(
        "insert into track (id, title, state, visibility, storage_backend, storage_key, version, samples, rate, flac,
           lossless, bytes, created_us, updated_us, published_us)
         values ($1, $2, 'published', 'public', $3, $4, $5, $6, $7, $8, $9, $10, $11, $11, $11)
         on conflict (id) do update set title = excluded.title, storage_backend = excluded.storage_backend,
           storage_key = excluded.storage_key, version = excluded.version, samples = excluded.samples,
           rate = excluded.rate, flac = excluded.flac, lossless = excluded.lossless, bytes = excluded.bytes,
           error = null, updated_us = excluded.updated_us,
           published_us = coalesce(track.published_us, excluded.published_us),
           state = case when track.state in ('unlisted', 'blocked', 'deleted') then track.state else 'published' end",
        args![
            track.id.as_str(),
            &track.title,
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
    .await
    .map(drop)
}

/// What the keys of a version begin with, in every store.
pub fn storage_key(track: TrackId, version: VersionId) -> String {
    format!("v/{track}/{version}/")
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

/// Says that another store has the version that a track shows, in the caller's transaction; false when the track
/// shows another by now, or is not where it was: then nothing was changed. Until the transaction ends nobody makes it
/// show another.
///
/// # Errors
/// When the database refuses.
pub async fn moves(
    tx: &mut Tx,
    (id, version): (TrackId, VersionId),
    (from, to): (Backend, Backend),
    now_us: i64,
) -> Result<bool> {
    let moved = tx
        .execute(
            "update track set storage_backend = $1, storage_key = $2, updated_us = $3,
               moved_us = case when storage_backend = $1 then moved_us else $3 end
             where id = $4 and storage_backend = $5 and version = $6",
            args![to.as_str(), &storage_key(id, version), now_us, id.as_str(), from.as_str(), &version.to_string()],
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
    })
}
