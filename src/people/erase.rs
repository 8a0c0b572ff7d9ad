//! Forgetting somebody: at once their tracks go dark; when the days to come back are over, files go first and rows last, so
//! that whatever breaks off in between is found again.

use super::{People, blocking};
use crate::auth::UserId;
use crate::base::id::TrackId;
use crate::base::{Kind, Result};
use crate::cdn::purge::What;
use crate::db::leaving::Erasure;
use crate::db::people::Leaving;
use crate::jobs::Lease;
use crate::jobs::person::ErasureId;
use crate::origin::blocks::{self, Entry, State};
use crate::store::artwork;

/// What a job does after this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing: they are forgotten, and the job is settled.
    Erased,
    /// Nothing: they stay.
    Stays,
    /// It sleeps until then, in microseconds since 1970.
    Sleeps(i64),
    /// Nothing: the lease is not ours any more.
    Lost,
}

/// By what the hidden tracks of somebody who leaves are told from others.
const LEAVES: &str = "its owner leaves";
/// How long after a block every origin is dark, in microseconds: only then is a CDN asked to forget.
const DARK_US: i64 = 2_000_000;
/// While money is on its way: looked at again after a day, and no longer than 90 days.
const MONEY_EVERY_US: i64 = 86_400_000_000;
const MONEY_WAITS_US: i64 = 90 * MONEY_EVERY_US;
/// While work of theirs ends, in microseconds.
const WORK_ENDS_US: i64 = 5_000_000;
/// The most versions of a track that are removed at once.
const VERSIONS_MAX: usize = 1_000;

impl People {
    /// Does what it is time for.
    ///
    /// # Errors
    /// When the database, the disk or the bucket refuses; all of it can be done again.
    pub async fn leave(&self, lease: &Lease, id: &ErasureId) -> Result<Next> {
        let Some(erasure) = self.db.erasure(id).await? else { return Ok(Next::Stays) };
        if erasure.taken_back {
            self.show(&erasure.user).await?;
            self.db.end_erasure(id).await?;
            return Ok(Next::Stays);
        }
        self.hide(&erasure).await?;
        let now_us = self.now_us();
        if erasure.due_us > now_us {
            return Ok(Next::Sleeps(erasure.due_us));
        }
        if erasure.due_us + MONEY_WAITS_US > now_us && self.db.has_money_on_its_way(&erasure.user).await? {
            return Ok(Next::Sleeps(now_us + MONEY_EVERY_US));
        }
        if !self.stop_work(&erasure.user).await? {
            return Ok(Next::Sleeps(now_us + WORK_ENDS_US));
        }
        self.erase_files(&erasure).await?;
        self.db.erase_payloads(&erasure.user).await?;
        match self.db.erase(lease, id, self.now_us()).await? {
            true => Ok(Next::Erased),
            false => Ok(Next::Lost),
        }
    }

    /// Takes tracks off every origin, so that it can be undone.
    async fn hide(&self, erasure: &Erasure) -> Result<()> {
        if erasure.keep_tracks {
            self.show(&erasure.user).await?; // they may have wanted less to stay when they asked before
        }
        for page in 0.. {
            let tracks = self.db.tracks_to_hide(&erasure.user, erasure.keep_tracks, page).await?;
            if tracks.is_empty() {
                break;
            }
            let (store, since_s) = (self.store.clone(), u64::try_from(self.now_us() / 1_000_000).unwrap_or(0));
            let hidden = blocking(move || {
                let known = blocks::read(&store)?.tracks;
                let open: Vec<TrackId> = tracks.into_iter().filter(|track| !known.contains_key(track)).collect();
                for track in &open {
                    let entry = Entry { state: State::Private, reason: Some(LEAVES.into()), since_s };
                    blocks::block(&store, *track, entry)?;
                }
                Ok(open)
            });
            for track in hidden.await? {
                self.forget(track).await?;
            }
        }
        Ok(())
    }

    /// Serves again what was hidden for this, and nothing that was closed for another reason.
    async fn show(&self, user: &UserId) -> Result<()> {
        for page in 0.. {
            let tracks = self.db.tracks_to_hide(user, false, page).await?;
            if tracks.is_empty() {
                break;
            }
            let store = self.store.clone();
            blocking(move || {
                let known = blocks::read(&store)?.tracks;
                let ours = |entry: &Entry| entry.state == State::Private && entry.reason.as_deref() == Some(LEAVES);
                for track in tracks.into_iter().filter(|track| known.get(track).is_some_and(ours)) {
                    match blocks::unblock(&store, track) {
                        Err(error) if error.kind() == Kind::NotFound => {}
                        lifted => drop(lifted?),
                    }
                }
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    async fn forget(&self, track: TrackId) -> Result<()> {
        if !self.purges {
            return Ok(());
        }
        let now_us = self.now_us();
        self.db.wish_purge(&What::Tag(track.to_string()), now_us + DARK_US, now_us).await
    }

    /// Whether nothing of theirs runs any more; what waits is cancelled, what runs is asked to stop.
    async fn stop_work(&self, user: &UserId) -> Result<bool> {
        let work = self.db.work_of(user).await?;
        for job in &work {
            self.db.cancel(job, self.now_us()).await?;
        }
        Ok(work.is_empty())
    }

    async fn erase_files(&self, erasure: &Erasure) -> Result<()> {
        let user = &erasure.user;
        loop {
            let tracks = self.db.tracks_to_erase(user, erasure.keep_tracks).await?;
            if tracks.is_empty() {
                break;
            }
            for track in tracks {
                self.erase_track(track).await?;
            }
        }
        let mut after = None;
        loop {
            let uploads = self.db.uploads_unswept(user, after.as_ref()).await?;
            let Some(last) = uploads.last() else { break };
            after = Some(last.clone());
            for id in uploads {
                self.intake.erase(&id).await?;
            }
        }
        loop {
            let exports = self.db.exports(user, None, 20).await?;
            if exports.is_empty() {
                return Ok(());
            }
            for export in exports {
                self.remove_export(&export).await?;
            }
        }
    }

    /// The origins first, then the bytes, then the rows: a tombstone stays, which has an id and nothing else.
    async fn erase_track(&self, track: Leaving) -> Result<()> {
        let (store, id, since_s) =
            (self.store.clone(), track.id, u64::try_from(self.now_us() / 1_000_000).unwrap_or(0));
        blocking(move || {
            blocks::block(&store, id, Entry { state: State::Deleted, reason: None, since_s })?;
            store.remove_record_if(id, &|_| true)?;
            loop {
                let versions = store.versions(id, VERSIONS_MAX)?;
                if versions.is_empty() {
                    break;
                }
                for version in versions {
                    store.remove_version(id, version)?;
                }
            }
            store.remove_rest(id)?;
            track.artwork.map_or(Ok(()), |hash| artwork::remove(&store, id, &hash))
        })
        .await?;
        self.forget(id).await?;
        self.db.erase_track(id).await
    }
}
