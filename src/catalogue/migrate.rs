//! Moves tracks from one store to the other, one by one, while servers serve them. In: rows that say one store. Out:
//! verified copies, and rows that say the other.
//!
//! ```text
//! row says `from` ─▶ every version copied, read back, hashed ─▶ one transaction: still that version? record, row
//!                    its pictures too                                   └─▶ removed from `from`, when it is asked
//! ```
//! Then the tracks that are there already: pictures that were set while a server still wrote to the other store follow
//! them.
//!
//! Killed anywhere, the row says a store that has everything, and doing it again proves what is there and sends the
//! rest. A version's name is the hash of its content: copying it twice, or two commands at once, makes the same copy.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use super::blocking;
use crate::base::clock::Clock;
use crate::base::id::{TrackId, VersionId};
use crate::base::{Error, Kind, Result};
use crate::db::Db;
use crate::db::tracks::{self as rows, TrackRow};
use crate::hls::version::VersionIndex;
use crate::origin::blocks;
use crate::store::remote::RemoteStore;
use crate::store::{Backend, LocalStore, Store, artwork, mixed};
use crate::tracks::{State, Track};

/// What to move, and how.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Where tracks are.
    pub from: Backend,
    /// Where they shall be.
    pub to: Backend,
    /// Only look.
    pub dry_run: bool,
    /// Tracks to move at most.
    pub limit: Option<u64>,
    /// Rows read at a time.
    pub batch: u32,
    /// Remove from the directory what the bucket has, verified.
    pub delete_local: bool,
}

/// What was done, and what not.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// From where.
    pub from: Backend,
    /// To where.
    pub to: Backend,
    /// Nothing was changed.
    pub dry_run: bool,
    /// Tracks looked at.
    pub examined: u64,
    /// Tracks moved; on a dry run, that would be.
    pub moved: u64,
    /// Versions they have.
    pub versions: u64,
    /// Bytes of those, sent now or found there.
    pub bytes: u64,
    /// Tracks whose pictures were copied or found there.
    pub pictures: u64,
    /// Tracks whose copy in the directory was removed.
    pub deleted: u64,
    /// Tracks that were left, and why: nothing that trying again would change.
    pub skipped: u64,
    /// Tracks that could not be moved now.
    pub failed: u64,
    /// The first `LEFT_MAX` of both.
    pub left: Vec<Left>,
    /// Tracks that are still in the store of `from`.
    pub remaining: u64,
    /// It was stopped; the same command goes on.
    pub interrupted: bool,
}

/// A track that was not moved.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Left {
    /// As the row has it.
    pub track: String,
    /// One word: `unreadable`, `no_version`, `no_key`, `deleted`, `no_record`, `missing`, `damaged`, `artwork`,
    /// `changed`, `failed`.
    pub reason: &'static str,
    /// The same for people.
    pub why: String,
}

/// Tracks that a report names; the others are counted.
const LEFT_MAX: usize = 1_000;
/// So many failures in a row are not the tracks' fault.
const FAILURES_MAX: u32 = 5;

/// What somebody who watches hears.
#[derive(Clone, Copy, Debug)]
pub enum Progress {
    /// So many tracks are to be looked at.
    Tracks(u64),
    /// One was.
    Track,
    /// So many bytes were copied.
    Bytes(u64),
}

/// Who hears it.
pub type Watch = Arc<dyn Fn(Progress) + Send + Sync>;

/// A move.
pub struct Move {
    db: Db,
    local: LocalStore,
    remote: RemoteStore,
    options: Options,
    clock: Clock,
    stop: Arc<AtomicBool>,
    watch: Watch,
    report: Report,
    failures: u32,
}

/// How one track ended.
enum Ended {
    Moved {
        versions: u64,
        bytes: u64,
        pictures: bool,
        deleted: bool,
    },
    /// It was where it shall be, and its pictures followed it.
    Followed,
    /// It was where it shall be, and nothing of it was left elsewhere.
    Nothing,
    Skipped(&'static str, String),
    Stopped,
}

impl Move {
    /// A move that has not begun. `stop` ends it between two objects.
    pub fn new(
        db: Db,
        (local, remote): (LocalStore, RemoteStore),
        options: Options,
        clock: Clock,
        stop: Arc<AtomicBool>,
        watch: Watch,
    ) -> Move {
        let report = Report {
            from: options.from,
            to: options.to,
            dry_run: options.dry_run,
            examined: 0,
            moved: 0,
            versions: 0,
            bytes: 0,
            pictures: 0,
            deleted: 0,
            skipped: 0,
            failed: 0,
            left: vec![],
            remaining: 0,
            interrupted: false,
        };
        Move { db, local, remote, options, clock, stop, watch, report, failures: 0 }
    }

    /// Moves, and says what came of it. What failed for a single track is in the report.
    ///
    /// # Errors
    /// When the database or a store cannot be used at all.
    pub async fn run(mut self) -> Result<Report> {
        let Options { from, to, dry_run, .. } = self.options;
        if !dry_run {
            // First: what is closed stays closed, whichever store a server starts with next.
            let (from, to) = (self.store(from), self.store(to));
            blocking(move || blocks::carry_over(&from, &to)).await?;
        }
        let whole = self.db.count_tracks_in(from).await? + self.db.count_tracks_in(to).await?;
        (self.watch)(Progress::Tracks(whole));
        self.each_row(from).await?;
        // Those that an earlier command moved: what was kept in the directory then, and pictures set since.
        if !self.report.interrupted {
            self.each_row(to).await?;
        }
        self.report.remaining = self.db.count_tracks_in(from).await?;
        Ok(self.report)
    }

    async fn each_row(&mut self, backend: Backend) -> Result<()> {
        let mut after: Option<String> = None;
        loop {
            let page = self.db.tracks_in(backend, after.as_deref(), self.options.batch).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            for (id, row) in page {
                if self.options.limit.is_some_and(|limit| self.report.moved + self.report.failed >= limit) {
                    return Ok(());
                }
                if self.stop.load(Ordering::Relaxed) {
                    self.report.interrupted = true;
                    return Ok(());
                }
                self.take(id, row).await?;
                (self.watch)(Progress::Track);
            }
        }
    }

    async fn take(&mut self, id: String, row: Result<TrackRow>) -> Result<()> {
        self.report.examined += 1;
        let ended = match row {
            Err(error) => Ok(Ended::Skipped("unreadable", error.chain())),
            Ok(row) => self.one(&row).await,
        };
        match ended {
            Ok(Ended::Moved { versions, bytes, pictures, deleted }) => {
                self.failures = 0;
                self.report.moved += 1;
                self.report.versions += versions;
                self.report.bytes += bytes;
                self.report.pictures += u64::from(pictures);
                self.report.deleted += u64::from(deleted);
            }
            Ok(Ended::Followed) => self.report.pictures += 1,
            Ok(Ended::Nothing) => {}
            Ok(Ended::Stopped) => self.report.interrupted = true,
            Ok(Ended::Skipped(reason, why)) => {
                self.report.skipped += 1;
                self.leave(id, reason, why);
            }
            Err(error) => {
                self.report.failed += 1;
                self.failures += 1;
                if self.failures >= FAILURES_MAX {
                    let (kind, why) = (error.kind(), error.chain());
                    return Err(Error::new(
                        kind,
                        format!(
                            "{FAILURES_MAX} tracks in a row could not be moved, the last one {id}: {why}; correct that and run the \
                         same command again, which goes on with track {}",
                            self.report.moved + 1
                        ),
                    ));
                }
                self.leave(id, "failed", error.chain());
            }
        }
        Ok(())
    }

    fn leave(&mut self, track: String, reason: &'static str, why: String) {
        if self.report.left.len() < LEFT_MAX {
            self.report.left.push(Left { track, reason, why });
        }
    }

    async fn one(&self, row: &TrackRow) -> Result<Ended> {
        let skip = |reason, why: String| Ok(Ended::Skipped(reason, why));
        let is_there = row.backend == self.options.to;
        if is_there && !self.options.delete_local {
            return self.follow(row).await; // its versions were proved when it was moved
        }
        let Some(version) = row.version else {
            return skip("no_version", format!("it is {} and has no version yet", row.state.as_str()));
        };
        if row.state == State::Deleted {
            return skip("deleted", "it was deleted".into());
        }
        if row.storage_key.is_none() {
            return skip("no_key", format!("its row says {} and has no storage_key", row.backend));
        }
        let id = row.id;
        let versions = self.versions(id, version).await?;
        if is_there && versions.is_empty() {
            return self.follow(row).await;
        }
        if !is_there && !versions.contains(&version) {
            return skip("missing", format!("version {version} is not in the {} store", self.options.from));
        }
        // Of a track that is there already only the copies that are left here are proved.
        let source = self.store(self.options.from);
        let record = match is_there {
            true => None,
            false => match blocking(move || source.read_record(id)).await {
                Ok(record) => Some(record),
                Err(error) if error.kind() == Kind::NotFound => {
                    return skip("no_record", format!("the {} store has no record of it", self.options.from));
                }
                Err(error) => return Err(error),
            },
        };
        if let Some(record) = &record {
            match serde_json::from_slice::<Track>(record) {
                Ok(track) if track.version == version => {}
                Ok(_) => {
                    return skip("changed", "it shows another version since a moment; run the command again".into());
                }
                Err(cause) => return skip("damaged", format!("its record cannot be read: {cause}")),
            }
        }
        let mut bytes = 0;
        for version in &versions {
            match self.copy(id, *version).await {
                Ok(copied) => bytes += copied,
                Err(error) if error.kind() == Kind::Cancelled => return Ok(Ended::Stopped),
                Err(error) if error.kind() == Kind::Invalid => return skip("damaged", error.chain()),
                Err(error) if error.kind() == Kind::NotFound => return skip("missing", error.chain()),
                Err(error) => return Err(error),
            }
        }
        let versions = versions.len() as u64;
        if self.options.dry_run {
            return Ok(Ended::Moved { versions, bytes, pictures: row.artwork.is_some(), deleted: false });
        }
        let pictures = match self.pictures(row).await {
            Ok(Some(copied)) => {
                bytes += copied;
                true
            }
            Ok(None) => false,
            Err(error) if matches!(error.kind(), Kind::Invalid | Kind::NotFound) => {
                return skip("artwork", format!("{}; set them again or remove them", error.chain()));
            }
            Err(error) => return Err(error),
        };
        if !self.commit(row, version, record).await? {
            return skip(
                "changed",
                "it was published anew or got other pictures meanwhile; run the command again".into(),
            );
        }
        let deleted = self.options.delete_local && self.delete(row, version).await?;
        Ok(Ended::Moved { versions, bytes, pictures, deleted })
    }

    /// Copies the pictures of a track and proves the copy: their bytes, or `None` when it has none.
    ///
    /// # Errors
    /// `NotFound` when no store has them, `Invalid` when they are damaged.
    async fn pictures(&self, row: &TrackRow) -> Result<Option<u64>> {
        let Some(hash) = row.artwork.clone() else { return Ok(None) };
        let (id, from, to) = (row.id, self.store(self.options.from), self.store(self.options.to));
        let copied = blocking(move || {
            if let Some(bytes) = artwork::copy((&from, &to), id, &hash)? {
                return Ok(bytes);
            }
            // An earlier command has brought them, and was killed.
            let there = artwork::all(&to, id, &hash)?;
            let missing = || Error::not_found(format!("neither store has the pictures {hash}"));
            Ok(there.ok_or_else(missing)?.iter().map(|(_, bytes)| bytes.len() as u64).sum())
        });
        copied.await.map(Some)
    }

    /// The pictures of a track that is where it shall be, when they are not.
    async fn follow(&self, row: &TrackRow) -> Result<Ended> {
        let Some(hash) = row.artwork.clone().filter(|_| row.state != State::Deleted) else { return Ok(Ended::Nothing) };
        let (id, from, to) = (row.id, self.store(self.options.from), self.store(self.options.to));
        let (dry_run, delete) = (self.options.dry_run, self.options.delete_local);
        let followed = blocking(move || {
            if dry_run {
                return Ok(false);
            }
            let copied = artwork::copy((&from, &to), id, &hash)?.is_some();
            if copied && delete {
                artwork::remove(&from, id, &hash)?;
            }
            Ok(copied)
        });
        match followed.await {
            Ok(true) => Ok(Ended::Followed),
            Ok(false) => Ok(Ended::Nothing),
            Err(error) if error.kind() == Kind::Invalid => {
                Ok(Ended::Skipped("artwork", format!("{}; set them again or remove them", error.chain())))
            }
            Err(error) => Err(error),
        }
    }

    /// The versions that the source has. First rungs that a whole version has replaced are nobody's any more.
    async fn versions(&self, id: TrackId, current: VersionId) -> Result<Vec<VersionId>> {
        let (source, local) = (self.store(self.options.from), self.local.clone());
        blocking(move || {
            let mut versions = source.versions(id, VERSIONS_MAX)?;
            if source.primary() == Backend::Local {
                let interims = local.interims()?;
                let replaced = |version: &VersionId| {
                    *version != current
                        && interims.iter().any(|interim| (interim.track, interim.version) == (id, *version))
                };
                versions.retain(|version| !replaced(version));
            }
            Ok(versions)
        })
        .await
    }

    /// Copies a version and proves the copy; on a dry run only looks at it.
    async fn copy(&self, id: TrackId, version: VersionId) -> Result<u64> {
        if self.options.dry_run {
            let source = self.store(self.options.from);
            return blocking(move || {
                let index = VersionIndex::decode_as(version, &source.read_version(id, version)?)?;
                Ok(super::bytes_of(&index))
            })
            .await;
        }
        let (local, remote, to) = (self.local.clone(), self.remote.clone(), self.options.to);
        let (stop, watch) = (self.stop.clone(), self.watch.clone());
        blocking(move || {
            let mut on_bytes = |bytes| {
                watch(Progress::Bytes(bytes));
                match stop.load(Ordering::Relaxed) {
                    true => Err(Error::new(Kind::Cancelled, "stopped")),
                    false => Ok(()),
                }
            };
            mixed::copy_version((&local, &remote), to, (id, version), &mut on_bytes)
        })
        .await
    }

    /// The track is where it shall be, unless it shows another version by now. The row is locked while the record is
    /// written, as it is by whoever publishes (`catalogue::show`): neither writes over what the other wrote later.
    async fn commit(&self, row: &TrackRow, version: VersionId, record: Option<Vec<u8>>) -> Result<bool> {
        let mut tx = self.db.begin().await?;
        let (id, to) = (row.id, self.options.to);
        let what = (id, version, row.artwork.as_deref());
        if !rows::moves(&mut tx, what, (row.backend, to), self.clock.unix_us()).await? {
            return Ok(false);
        }
        if let Some(record) = record {
            let target = self.store(to);
            blocking(move || target.put_record(id, &record)).await?;
        }
        tx.commit().await?;
        Ok(true)
    }

    /// Removes from the directory what the bucket has: first the record, then the versions and pictures. False when the
    /// track shows another version by now.
    async fn delete(&self, row: &TrackRow, version: VersionId) -> Result<bool> {
        let id = row.id;
        let versions = self.versions(id, version).await?;
        let mut tx = self.db.begin().await?;
        let to = self.options.to;
        if !rows::moves(&mut tx, (id, version, row.artwork.as_deref()), (to, to), self.clock.unix_us()).await? {
            return Ok(false);
        }
        let local = self.local.clone();
        blocking(move || match local.remove_record(id) {
            Err(error) if error.kind() != Kind::NotFound => Err(error),
            _ => Ok(()),
        })
        .await?;
        tx.commit().await?;
        let (local, pictures) = (self.local.clone(), row.artwork.clone());
        blocking(move || {
            versions.into_iter().try_for_each(|version| local.remove_version(id, version))?;
            pictures.map_or(Ok(()), |hash| artwork::remove(&Store::Local(local), id, &hash))
        })
        .await?;
        Ok(true)
    }

    fn store(&self, backend: Backend) -> Store {
        match backend {
            Backend::Local => Store::Local(self.local.clone()),
            Backend::S3 => Store::S3(self.remote.clone()),
        }
    }
}

/// The most versions of a track that are looked at: one for each time it was published.
const VERSIONS_MAX: usize = 10_000;
