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
use crate::db::dmca::{self, By, Ruled};
use crate::db::money::{Claim, Request};
use crate::db::products::{self, NewProduct, Product};
use crate::db::tracks::{self as rows, Changes};
use crate::db::{Db, Tx};
use crate::hls::version::VersionIndex;
use crate::origin::blocks::{self, Entry, Guard};
use crate::store::{Recorded, Store};
use crate::tracks::dmca::{NoticeId, Standing};
use crate::tracks::{self, State, Track, Visibility};

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

/// What was changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Which tracks.
    pub ids: Vec<String>,
    /// Those of them whose preview strangers could hear, and cannot any more.
    pub unheard: Vec<TrackId>,
}

/// Why a track cannot be changed like that: it is on sale, and costs what that says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnSale {
    /// The track.
    pub track: String,
    /// The product.
    pub product: String,
}

/// Changes those of these tracks that this owner has, `None`: anybody's. What becomes private is guarded at the origins,
/// what becomes public is not, and so is a preview that is taken back: rows and the origins' document together as in
/// `show`. Refuses to change the price of what is on sale.
///
/// # Errors
/// As `show`.
pub async fn change(
    (db, store): (&Db, &Store),
    ids: &[TrackId],
    owner: Option<&str>,
    changes: &Changes,
    now_us: i64,
) -> Result<std::result::Result<Changed, OnSale>> {
    let mut tx = db.begin().await?;
    let heard = rows::heard(&mut tx, ids, owner).await?;
    let changed = rows::change(&mut tx, ids, owner, changes, now_us).await?;
    if changes.offer.is_some()
        && let Some((track, product)) = rows::on_sale(&mut tx, &changed).await?
    {
        return Ok(Err(OnSale { track, product }));
    }
    if let Some(visibility) = changes.visibility {
        let (store, tracks) = (store.clone(), changed.iter().filter_map(|id| TrackId::decode(id)).collect::<Vec<_>>());
        let private = visibility == Visibility::Private;
        blocking(move || blocks::guard(&store, Guard::All, &tracks, private)).await?;
    }
    let unheard = guard_previews((&mut tx, store), ids, owner, heard).await?;
    tx.commit().await?;
    Ok(Ok(Changed { ids: changed, unheard }))
}

/// Guards the previews that were heard before and are not now, at the origins, and no longer those that are heard now; says
/// which were closed. A preview that nobody was ever let hear is not listed: what is listed grows by what was taken back.
async fn guard_previews(
    (tx, store): (&mut Tx, &Store),
    ids: &[TrackId],
    owner: Option<&str>,
    before: Vec<TrackId>,
) -> Result<Vec<TrackId>> {
    let after = rows::heard(tx, ids, owner).await?;
    let less = |these: &[TrackId], those: &[TrackId]| {
        these.iter().filter(|id| !those.contains(id)).copied().collect::<Vec<_>>()
    };
    let (closed, opened) = (less(&before, &after), less(&after, &before));
    let (store, unheard) = (store.clone(), closed.clone());
    blocking(move || {
        blocks::guard(&store, Guard::Preview, &closed, true)?;
        blocks::guard(&store, Guard::Preview, &opened, false)
    })
    .await?;
    Ok(unheard)
}

/// Offers something for sale, once for a key; says whether its track had a preview that strangers heard until now.
///
/// # Errors
/// As `show`.
pub async fn offer(
    (db, store): (&Db, &Store),
    new: &NewProduct,
    request: Request<'_>,
    now_us: i64,
) -> Result<(Claim<Product>, Vec<TrackId>)> {
    let track: Vec<TrackId> = new.track.as_deref().and_then(TrackId::decode).into_iter().collect();
    let mut tx = db.begin().await?;
    let heard = rows::heard(&mut tx, &track, None).await?;
    let claim = products::create(&mut tx, new, request, now_us).await?;
    let unheard = guard_previews((&mut tx, store), &track, None, heard).await?;
    tx.commit().await?;
    Ok((claim, unheard))
}

/// Changes what this seller offers; `None`: there is no such product of theirs. Says the same of its track.
///
/// # Errors
/// As `show`.
pub async fn change_offer(
    (db, store): (&Db, &Store),
    product: &Product,
    change: &products::Change,
    now_us: i64,
) -> Result<(Option<Product>, Vec<TrackId>)> {
    let track: Vec<TrackId> = product.track.as_deref().and_then(TrackId::decode).into_iter().collect();
    let mut tx = db.begin().await?;
    let heard = rows::heard(&mut tx, &track, None).await?;
    let changed = products::change(&mut tx, &product.id, &product.seller, change, now_us).await?;
    let unheard = guard_previews((&mut tx, store), &track, None, heard).await?;
    tx.commit().await?;
    Ok((changed, unheard))
}

/// Guards a track that its owner is about to show to somebody, when nobody else may know of it.
///
/// # Errors
/// As `show`.
pub async fn guard_if_private(db: &Db, store: &Store, id: TrackId) -> Result<()> {
    let mut tx = db.begin().await?;
    if rows::visibility(&mut tx, id).await? == Some(Visibility::Private) {
        let store = store.clone();
        blocking(move || blocks::guard(&store, Guard::All, &[id], true)).await?;
    }
    tx.commit().await
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

/// Takes the track of a notice down: rows, log, the wish that the CDN forgets it, and the origins, which are dark within
/// two seconds, whichever of them are. As in `show` the row stays locked while the origins' document is written; if the
/// commit then fails it is dark all the same, and doing it again writes the same.
///
/// # Errors
/// When the database, the disk or the bucket refuses.
pub async fn take_down(
    (db, store): (&Db, &Store),
    id: &NoticeId,
    track: Option<TrackId>,
    purge_due_us: Option<i64>,
    by: By<'_>,
) -> Result<Ruled> {
    let mut tx = db.begin().await?;
    let ruled = dmca::take_down(&mut tx, id, track, purge_due_us, by).await?;
    if let Ruled::Done(filed) = &ruled
        && let Some(track) = filed.track
    {
        let since_s = u64::try_from(by.now_us / 1_000_000).unwrap_or(0);
        let entry = Entry { state: blocks::State::Blocked, reason: Some(filed.notice.reason()), since_s };
        let store = store.clone();
        blocking(move || blocks::block(&store, track, entry)).await?;
        tx.commit().await?;
    }
    Ok(ruled)
}

/// Puts the track of a notice back. The origins are told after the rows: what fails in between leaves it dark, and doing
/// it again tells them.
///
/// # Errors
/// As `take_down`.
pub async fn put_back(
    (db, store): (&Db, &Store),
    id: &NoticeId,
    ends_early: Option<&str>,
    by: By<'_>,
) -> Result<Ruled> {
    let mut tx = db.begin().await?;
    let (ruled, serve) = dmca::restore(&mut tx, id, ends_early, by).await?;
    if let Ruled::Done(filed) = &ruled {
        tx.commit().await?;
        if let Some(track) = filed.track.filter(|_| serve) {
            unblock(store, track).await?;
        }
        return Ok(ruled);
    }
    drop(tx);
    // Told before, but the origins were not.
    if ruled == Ruled::Not(Standing::Restored)
        && let Some(filed) = db.notice(id).await?
        && let Some(track) = filed.track
        && db.track(track).await?.is_some_and(|row| !matches!(row.state, State::Blocked | State::Deleted))
    {
        let (reader, reason) = (store.clone(), Some(filed.notice.reason()));
        let left =
            blocking(move || Ok(blocks::read(&reader)?.tracks.get(&track).is_some_and(|entry| entry.reason == reason)));
        if left.await? {
            unblock(store, track).await?;
            return Ok(Ruled::Done(Box::new(filed)));
        }
    }
    Ok(ruled)
}

/// Puts back the track of every notice whose clock has run and of which no court was asked (512(g)(2)(C)), a hundred at
/// most; says how many. What fails is looked for again, and so is what was written down and not told to the origins.
///
/// # Errors
/// When the database cannot be reached.
pub async fn restore_due((db, store): (&Db, &Store), now_us: i64) -> Result<usize> {
    let mut back = 0;
    let by = By { actor: "janitor", now_us };
    let due = db.notices_due(now_us).await?;
    let told = db.notices_restored_since(now_us - TOLD_AGAIN_US).await?;
    for filed in due.iter().chain(&told) {
        match put_back((db, store), &filed.id, None, by).await {
            Ok(Ruled::Done(_)) => back += 1,
            Ok(_) => {} // somebody ruled meanwhile, or the origins know
            Err(error) => {
                tracing::warn!(
                    notice = filed.id.as_str(),
                    error = error.chain(),
                    "a track was not put back; trying again"
                );
            }
        }
    }
    Ok(back)
}

/// For so long after a track was put back the origins are told again, if they were not.
const TOLD_AGAIN_US: i64 = 3_600_000_000;

async fn unblock(store: &Store, track: TrackId) -> Result<()> {
    let store = store.clone();
    match blocking(move || blocks::unblock(&store, track)).await {
        Err(error) if error.kind() == Kind::NotFound => Ok(()),
        lifted => lifted.map(drop),
    }
}

/// Removes every byte of tracks that were deleted before a time, a hundred at most; says of how many. What is taken off
/// the origins at once stays on the disk until nobody can be listening any more.
///
/// # Errors
/// When the database, the disk or the bucket refuses; what is left is looked for again.
pub async fn remove_deleted(db: &Db, store: &Store, before_us: i64) -> Result<usize> {
    const VERSIONS_MAX: usize = 1_000;
    let tracks = db.tracks_to_remove(before_us).await?;
    for (id, pictures) in &tracks {
        let (store, id, pictures) = (store.clone(), *id, pictures.clone());
        blocking(move || {
            store.remove_record_if(id, &|_| true)?;
            for version in store.versions(id, VERSIONS_MAX)? {
                store.remove_version(id, version)?;
            }
            store.remove_rest(id)?;
            pictures.map_or(Ok(()), |hash| crate::store::artwork::remove(&store, id, &hash))
        })
        .await?;
        db.track_removed(id).await?;
    }
    Ok(tracks.len())
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
