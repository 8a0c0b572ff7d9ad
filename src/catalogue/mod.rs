//! Keeps the rows of tracks and the stores in agreement. In: what was published, and what a store has. Out: rows.
//!
//! ```text
//! publish ─▶ record in the store ─┐
//!                                 ├─ one transaction around both
//!            row in the database ─┘
//! start   ─▶ records that are newer than their row ─▶ rows          (`import`)
//! command ─▶ versions from one store to the other ─▶ rows           (`migrate`)
//! ```

#[cfg(feature = "s3")]
pub mod migrate;

use crate::base::clock::Clock;
use crate::base::id::{TrackId, VersionId};
use crate::base::{Error, Kind, Result};
use crate::db::{Db, Tx, tracks as rows};
use crate::hls::version::VersionIndex;
use crate::store::{Recorded, Store};
use crate::tracks::{self, Track};

/// Tracks that are looked at together.
const BATCH: usize = 200;

/// Makes a track show a version that is in the store: row and record, in the caller's transaction, which it has to
/// commit. The record is a file or an object: the row stays locked for the milliseconds that writing it takes, and if
/// the commit then fails, doing it again writes the same.
///
/// # Errors
/// When the database, the disk or the bucket refuses; the track shows what it showed before.
pub async fn show(tx: &mut Tx, store: &Store, track: &Track, bytes: Option<u64>, now_us: i64) -> Result<()> {
    let title = rows::shows(tx, track, store.primary(), bytes, now_us).await?;
    let (store, track) = (store.clone(), Track { title, ..track.clone() });
    blocking(move || tracks::write(&store, &track)).await
}

/// Calls a track something else: row and record, together as in `show`; false when there is no such track.
///
/// # Errors
/// As `show`.
pub async fn retitle(db: &Db, store: &Store, id: TrackId, title: &str, now_us: i64) -> Result<bool> {
    let mut tx = db.begin().await?;
    if !rows::retitle(&mut tx, id, title, now_us).await? {
        return Ok(false);
    }
    let (store, title) = (store.clone(), title.to_owned());
    let written = blocking(move || {
        let track = tracks::read(&store, id)?;
        tracks::write(&store, &Track { title, ..track })
    });
    match written.await {
        Err(error) if error.kind() == Kind::NotFound => {} // it shows nothing yet
        written => written?,
    }
    tx.commit().await?;
    Ok(true)
}

/// Makes a track show a version again that it showed before; `None` when that is not in the store any more.
///
/// # Errors
/// As `show`.
pub async fn restore(
    db: &Db,
    store: &Store,
    (id, version): (TrackId, VersionId),
    clock: &Clock,
) -> Result<Option<Track>> {
    let reader = store.clone();
    let read = blocking(move || VersionIndex::decode_as(version, &reader.read_version(id, version)?)).await;
    let index = match read {
        Err(error) if error.kind() == Kind::NotFound => return Ok(None),
        index => index?,
    };
    let Some(row) = db.track(id).await? else { return Ok(None) };
    let track = crate::publish::record_of(id, &row.title, version, &index);
    let mut tx = db.begin().await?;
    show(&mut tx, store, &track, Some(bytes_of(&index)), clock.unix_us()).await?;
    tx.commit().await?;
    Ok(Some(track))
}

/// As `show`, in a transaction of its own.
///
/// # Errors
/// As `show`.
pub async fn show_now(db: &Db, store: &Store, track: &Track, bytes: Option<u64>, clock: &Clock) -> Result<()> {
    let mut tx = db.begin().await?;
    show(&mut tx, store, track, bytes, clock.unix_us()).await?;
    tx.commit().await
}

/// Bytes of all objects of a version.
pub fn bytes_of(index: &VersionIndex) -> u64 {
    index.objects().map(|object| object.bytes).sum()
}

/// What an import did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Tracks that had no row, or an older one.
    pub written: u64,
    /// Records that could not be read.
    pub unreadable: u64,
}

/// Writes rows for tracks that were published without the database, or changed since: a record newer than its row.
/// Safe to repeat, and to run beside others. Memory grows by some bytes a track of the store.
///
/// # Errors
/// When the store cannot be listed, or the database refuses; what was written stays.
pub async fn import(db: &Db, store: &Store, clock: &Clock) -> Result<Imported> {
    let lister = store.clone();
    let records = blocking(move || lister.records()).await?;
    let mut done = Imported::default();
    for batch in records.chunks(BATCH) {
        let ids: Vec<TrackId> = batch.iter().map(|record| record.track).collect();
        let known = db.tracks_updated_us(&ids).await?;
        for (record, updated_us) in batch.iter().zip(known) {
            if updated_us.is_some_and(|updated_us| !is_newer(record, updated_us)) {
                continue;
            }
            match read(store, record.track).await {
                Ok((track, bytes)) => {
                    if is_shown(db, &track).await? {
                        continue; // the row was written a moment before the record
                    }
                    let backend = backend_of(store, &track).await?;
                    db.track_shows(&track, backend, bytes, clock.unix_us()).await?;
                    done.written += 1;
                }
                Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Invalid) => {
                    tracing::warn!(track = %record.track, error = error.chain(), "a track is not in the catalogue");
                    done.unreadable += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(done)
}

/// Whether a record was written after its row, as far as their clocks can say: whole seconds, and not one clock.
fn is_newer(record: &Recorded, updated_us: i64) -> bool {
    const SLACK_S: i64 = 5;
    record.modified_s as i64 + SLACK_S > updated_us / 1_000_000
}

async fn is_shown(db: &Db, track: &Track) -> Result<bool> {
    let row = db.track(track.id).await?;
    // What a job is at work on shows its first rung, and will be written when all of it is there.
    let is_made = |row: &rows::TrackRow| row.state.is_on_its_way();
    Ok(row.is_some_and(|row| is_made(&row) || (row.version == Some(track.version) && row.title == track.title)))
}

async fn read(store: &Store, id: TrackId) -> Result<(Track, Option<u64>)> {
    let store = store.clone();
    blocking(move || {
        let track = tracks::read(&store, id)?;
        // A record without its version is a row all the same: a migration then says what is missing.
        let index = match store.read_version(id, track.version) {
            Ok(document) => VersionIndex::decode_as(track.version, &document).ok(),
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Invalid) => None,
            Err(error) => return Err(error),
        };
        Ok((track, index.as_ref().map(bytes_of)))
    })
    .await
}

async fn backend_of(store: &Store, track: &Track) -> Result<crate::store::Backend> {
    let (store, track) = (store.clone(), track.clone());
    blocking(move || Ok(store.backend_of(track.id, track.version))).await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|cause| Error::internal(format!("a task panicked: {cause}")))?
}
