//! What owners change about their tracks, and the one door to a track's state.

use serde_json::json;

use super::{Dialect, by_ids, events};
use crate::base::id::TrackId;
use crate::base::{Error, Result};
use crate::db::Db;
use crate::db::conn::{Tx, args};
use crate::db::money::locked;
use crate::tracks::access::Offer;
use crate::tracks::{State, Visibility};

/// What shall be different; `None`: as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// Whether strangers may know of it.
    pub visibility: Option<Visibility>,
    /// Whether it is published as soon as it is ready.
    pub publish_when_ready: Option<bool>,
    /// Whether strangers hear thirty seconds.
    pub preview_enabled: Option<bool>,
    /// Where the preview begins, in milliseconds; `Some(None)`: at the loudest.
    pub preview_start_ms: Option<Option<i64>>,
    /// What it costs; `Some(None)`: nothing.
    pub offer: Option<Option<Offer>>,
}

/// Moves a track from one state to another, in the caller's transaction; false when it was not in that state. Beside
/// `shows`, which asks the same table, the only statement that does.
///
/// # Errors
/// `Internal` for a move that is not legal; else when the database refuses.
pub async fn advance(
    tx: &mut Tx,
    id: &str,
    (from, to): (State, State),
    error: Option<&str>,
    now_us: i64,
) -> Result<bool> {
    if !from.may_become(to) {
        return Err(Error::internal(format!("track {id} may not become {} from {}", to.as_str(), from.as_str())));
    }
    let blocked_from = (to == State::Blocked).then(|| from.as_str());
    let moved = tx
        .execute(
            "update track set state = $3, error = $4, blocked_from = $5, deleted_us = $6, updated_us = $7
             where id = $1 and state = $2",
            args![
                id,
                from.as_str(),
                to.as_str(),
                error,
                blocked_from,
                (to == State::Deleted).then_some(now_us),
                now_us
            ],
        )
        .await?;
    if moved > 0 {
        events::moved(tx, id, (from, to), error, now_us).await?;
    }
    Ok(moved > 0)
}

macro_rules! heard {
    () => {
        "select id, cast(case when version is not null and (price_minor is null or preview_enabled = 1)
           then 1 else 0 end as bigint) as heard
         from track where (owner = $2 or $2 is null) and state <> 'deleted' and id"
    };
}

/// Changes those of these tracks that this owner has, `None`: anybody's, in one statement; says which. In the caller's
/// transaction, which tells the origins who may see them (`catalogue::change`).
///
/// # Errors
/// When the database refuses.
pub async fn change(
    tx: &mut Tx,
    ids: &[TrackId],
    owner: Option<&str>,
    changes: &Changes,
    now_us: i64,
) -> Result<Vec<String>> {
    let sql = by_ids!(
        tx.dialect(),
        "update track set visibility = coalesce($3, visibility),
           publish_when_ready = coalesce($4, publish_when_ready), preview_enabled = coalesce($5, preview_enabled),
           preview_start_ms = case when $6 = 1 then $7 else preview_start_ms end,
           price_minor = case when $8 = 1 then $9 else price_minor end,
           currency = case when $8 = 1 then $10 else currency end, updated_us = $11
         where (owner = $2 or $2 is null) and state <> 'deleted' and id",
        " returning id"
    );
    let flag = |flag: Option<bool>| flag.map(i64::from);
    let offer = changes.offer.as_ref().and_then(Option::as_ref);
    let rows = tx
        .all(
            sql,
            args![
                &json!(ids).to_string(),
                owner,
                changes.visibility.map(Visibility::as_str),
                flag(changes.publish_when_ready),
                flag(changes.preview_enabled),
                i64::from(changes.preview_start_ms.is_some()),
                changes.preview_start_ms.flatten(),
                i64::from(changes.offer.is_some()),
                offer.map(|offer| offer.price_minor),
                offer.map(|offer| offer.currency.as_str()),
                now_us
            ],
        )
        .await?;
    let changed = rows.iter().map(|row| row.text("id")).collect::<Result<Vec<_>>>()?;
    if let Some(enabled) = changes.preview_enabled {
        // A preview is one wish, whether it was said of the track or of what is sold.
        let sql = by_ids!(
            tx.dialect(),
            "update product set preview_enabled = $2, updated_us = $3 where preview_enabled <> $2 and track",
            ""
        );
        tx.execute(sql, args![&json!(changed).to_string(), i64::from(enabled), now_us]).await?;
    }
    Ok(changed)
}

/// Something on sale for one of these tracks: what it is for, and which product.
///
/// # Errors
/// When the database refuses.
pub async fn on_sale(tx: &mut Tx, ids: &[String]) -> Result<Option<(String, String)>> {
    let sql = by_ids!(
        tx.dialect(),
        "select track, id from product where active = 1 and track",
        " order by track, id limit 1"
    );
    let row = tx.first(sql, args![&json!(ids).to_string()]).await?;
    row.map(|row| Ok((row.text("track")?, row.text("id")?))).transpose()
}

/// Those of these tracks, if this owner has them (`None`: anybody), that have a preview which strangers may hear unless the
/// track is private: they cost nothing, or their owner wants it. Nobody changes them until the transaction ends.
///
/// # Errors
/// When the database refuses.
pub async fn heard(tx: &mut Tx, ids: &[TrackId], owner: Option<&str>) -> Result<Vec<TrackId>> {
    let lock = match tx.dialect() {
        Dialect::Sqlite => by_ids!(Dialect::Sqlite, heard!(), ""),
        Dialect::Postgres => by_ids!(Dialect::Postgres, heard!(), " order by id for update"),
    };
    let rows = tx.all(lock, args![&json!(ids).to_string(), owner]).await?;
    let mut heard = Vec::with_capacity(rows.len());
    for row in rows {
        if row.int("heard")? != 0 {
            heard.extend(TrackId::decode(&row.text("id")?));
        }
    }
    Ok(heard)
}

/// Who may know of a track, `None` when there is none; nobody changes it until the transaction ends.
///
/// # Errors
/// When the database refuses.
pub async fn visibility(tx: &mut Tx, id: TrackId) -> Result<Option<Visibility>> {
    let row = tx.first(locked!(tx, "select visibility from track where id = $1"), args![id.as_str()]).await?;
    row.map(|row| row.text("visibility")?.parse()).transpose()
}

impl Db {
    /// Deletes those of these tracks that this owner has, `None`: anybody's, and takes them off sale; says which. Three
    /// statements, however many.
    /// Their bytes are removed later; the origins have to be told by the caller, before this.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn delete_tracks(&self, ids: &[TrackId], owner: Option<&str>, now_us: i64) -> Result<Vec<String>> {
        let mut tx = self.begin().await?;
        // Legal from every state but itself.
        let sql = by_ids!(
            tx.dialect(),
            "update track set state = 'deleted', deleted_us = $3, blocked_from = null, pending = null, updated_us = $3
             where (owner = $2 or $2 is null) and state <> 'deleted' and id",
            " returning id"
        );
        let rows = tx.all(sql, args![&json!(ids).to_string(), owner, now_us]).await?;
        let deleted: Vec<String> = rows.iter().map(|row| row.text("id")).collect::<Result<_>>()?;
        let sql = by_ids!(
            tx.dialect(),
            "insert into track_event (track, seq, at_us, event, body)
             select track.id, coalesce((select max(seq) from track_event where track_event.track = track.id), 0) + 1,
               $2, 'state', $3
             from track where track.id",
            ""
        );
        let of = json!(deleted).to_string();
        tx.execute(sql, args![&of, now_us, &json!({ "to": State::Deleted }).to_string()]).await?;
        let sql =
            by_ids!(tx.dialect(), "update product set active = 0, updated_us = $2 where active = 1 and track", "");
        tx.execute(sql, args![&of, now_us]).await?;
        tx.commit().await?;
        Ok(deleted)
    }

    /// Which of these tracks this owner has and has not deleted.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn owned_tracks(&self, ids: &[TrackId], owner: Option<&str>) -> Result<Vec<String>> {
        let mut tx = self.begin_read().await?;
        let sql = by_ids!(
            tx.dialect(),
            "select id from track where (owner = $2 or $2 is null) and state <> 'deleted' and id",
            ""
        );
        let rows = tx.all(sql, args![&json!(ids).to_string(), owner]).await?;
        rows.iter().map(|row| row.text("id")).collect()
    }

    /// Moves a track if it stands so that it may; answers how it stood, `None`: there is none.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn move_track(&self, id: TrackId, to: State, now_us: i64) -> Result<Option<State>> {
        let mut tx = self.begin().await?;
        let sql = "update track set updated_us = updated_us where id = $1 returning state";
        let Some(row) = tx.first(sql, args![id.as_str()]).await? else { return Ok(None) };
        let from: State = row.text("state")?.parse()?;
        if from.may_become(to) {
            advance(&mut tx, id.as_str(), (from, to), None, now_us).await?;
            tx.commit().await?;
        }
        Ok(Some(from))
    }

    /// Tracks that were deleted before a time and of which there may still be bytes, with the hash of their pictures.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn tracks_to_remove(&self, before_us: i64) -> Result<Vec<(TrackId, Option<String>)>> {
        let mut tx = self.begin_read().await?;
        let sql = "select id, artwork from track
                   where state = 'deleted' and deleted_us < $1 and (storage_key is not null or artwork is not null)
                   order by id limit 100";
        let rows = tx.all(sql, args![before_us]).await?;
        let known = rows.iter().map(|row| Ok((TrackId::decode(&row.text("id")?), row.text_or_null("artwork")?)));
        let known: Vec<_> = known.collect::<Result<_>>()?;
        Ok(known.into_iter().filter_map(|(id, artwork)| Some((id?, artwork))).collect())
    }

    /// Nothing is left of the bytes of a deleted track, and nobody can restore a version of it.
    ///
    /// # Errors
    /// When the database refuses; they are looked for again.
    pub async fn track_removed(&self, id: TrackId) -> Result<()> {
        let mut tx = self.begin().await?;
        let sql = "update track set storage_key = null, version = null, bytes = null, artwork = null
                   where id = $1 and state = 'deleted'";
        tx.execute(sql, args![id.as_str()]).await?;
        for sql in ["delete from track_version where track = $1", "delete from lyrics where track = $1"] {
            tx.execute(sql, args![id.as_str()]).await?;
        }
        tx.commit().await
    }

    /// Says which pictures a track has.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn set_artwork(&self, id: TrackId, artwork: Option<&str>, now_us: i64) -> Result<()> {
        let mut tx = self.begin().await?;
        let sql = "update track set artwork = $2, updated_us = $3 where id = $1";
        tx.execute(sql, args![id.as_str(), artwork, now_us]).await?;
        tx.commit().await
    }
}
