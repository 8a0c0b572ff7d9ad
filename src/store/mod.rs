//! Where published bytes live: a directory, or a bucket with a disk cache in front. Everything but a mapped byte
//! goes through `Store`, which is the same for both.

#[cfg(feature = "s3")]
pub mod cache;
pub mod local;
pub mod mapped;
pub mod objects;
#[cfg(feature = "s3")]
pub mod remote;
#[cfg(feature = "s3")]
pub mod s3;

use std::path::Path;
use std::time::Duration;

use crate::base::Result;
use crate::base::error::Context as _;
use crate::base::id::{TrackId, VersionId};
use crate::hls::version::{self, Rung, VersionIndex};
use local::Stamp;
use mapped::Mapped;

pub use local::{LocalStore, Staging};

/// Published versions and the records of tracks. Cheap to clone. Everything here blocks.
#[derive(Clone, Debug)]
pub enum Store {
    /// In a directory.
    Local(LocalStore),
    /// In a bucket.
    #[cfg(feature = "s3")]
    S3(remote::RemoteStore),
}

/// A version that another one is about to replace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interim {
    /// The track.
    pub track: TrackId,
    /// The version, whether it is there or not.
    pub version: VersionId,
    /// How long ago it was noted.
    pub age: Duration,
    /// Who replaces it: a job's id, or empty for a command somebody typed.
    pub owner: String,
}

impl Store {
    /// The directory, when it is one.
    pub fn local(&self) -> Option<&LocalStore> {
        match self {
            Store::Local(store) => Some(store),
            #[cfg(feature = "s3")]
            Store::S3(_) => None,
        }
    }
}

impl From<LocalStore> for Store {
    fn from(store: LocalStore) -> Store {
        Store::Local(store)
    }
}

/// The same question to whichever store it is.
macro_rules! ask {
    ($store:expr, $inner:ident => $answer:expr) => {
        match $store {
            Store::Local($inner) => $answer,
            #[cfg(feature = "s3")]
            Store::S3($inner) => $answer,
        }
    };
}

impl Store {
    /// The bytes of `version.json`.
    ///
    /// # Errors
    /// `NotFound` when there is no such version, `Unavailable` when the bucket cannot be asked.
    pub fn read_version(&self, track: TrackId, version: VersionId) -> Result<Vec<u8>> {
        ask!(self, store => store.read_version(track, version))
    }

    /// An object of a version whose document was just read, mapped; `rung` when it is one. Of a bucket's, nothing
    /// is fetched yet.
    ///
    /// # Errors
    /// `NotFound` when there is no such object, `Invalid` when it has another length, `Busy` when no more can be mapped.
    pub fn map(
        &self,
        (track, version): (TrackId, VersionId),
        object: &version::Object,
        rung: Option<&Rung>,
    ) -> Result<Mapped> {
        match self {
            Store::Local(store) => {
                let _ = rung; // a file that is whole needs no proofs
                Mapped::open(store.open_object(track, version, &object.name)?, object.bytes)
            }
            #[cfg(feature = "s3")]
            Store::S3(store) => store.map((track, version), object, rung),
        }
    }

    /// When a version was published, in seconds since 1970, as far as it is known. Its document was just read.
    pub fn published_s(&self, track: TrackId, version: VersionId) -> Option<u64> {
        ask!(self, store => store.published_s(track, version))
    }

    /// Whether there is such a version.
    ///
    /// # Errors
    /// When the disk or the bucket cannot tell.
    pub fn has_version(&self, track: TrackId, version: VersionId) -> Result<bool> {
        ask!(self, store => store.has_version(track, version))
    }

    /// Whether a version of a bucket is known to this machine's disk, so that it can be opened without asking. Does
    /// not block.
    pub fn is_here(&self, track: TrackId, version: VersionId) -> bool {
        match self {
            Store::Local(_) => {
                let _ = (track, version); // the disk is the store: it is asked like a bucket
                false
            }
            #[cfg(feature = "s3")]
            Store::S3(store) => store.is_here(track, version),
        }
    }

    /// Up to `max` published versions of a track, in no order; none when there is no such track.
    ///
    /// # Errors
    /// When the directory or the bucket cannot be listed.
    pub fn versions(&self, track: TrackId, max: usize) -> Result<Vec<VersionId>> {
        match self {
            Store::Local(store) => Ok(store.versions(track)?.take(max).collect()),
            #[cfg(feature = "s3")]
            Store::S3(store) => store.versions(track, max),
        }
    }

    /// Whether anything is known of a track: a record, or a version.
    ///
    /// # Errors
    /// When the disk or the bucket cannot tell.
    pub fn has_track(&self, track: TrackId) -> Result<bool> {
        ask!(self, store => store.has_track(track))
    }

    /// A private directory on this machine to fill with the objects of one version.
    ///
    /// # Errors
    /// `Internal` when it cannot be made.
    pub fn stage(&self) -> Result<Staging> {
        ask!(self, store => store.stage())
    }

    /// A staging directory with the objects of `index` that lie in `dir`, another staging directory of this store.
    /// Nothing is copied: the same bytes have two names, so nobody may write them any more.
    ///
    /// # Errors
    /// `Internal` when an object is missing or the disk refuses.
    pub fn stage_links(&self, dir: &Path, index: &VersionIndex) -> Result<Staging> {
        ask!(self, store => store.stage_links(dir, index))
    }

    /// Puts an object of a published version beside what is staged, to be published again with it.
    ///
    /// # Errors
    /// When it cannot be read or is not what its index says.
    pub fn copy_out(
        &self,
        (track, version): (TrackId, VersionId),
        object: &version::Object,
        staging: &Staging,
    ) -> Result<()> {
        match self {
            // A link, no copy: files below `v/` are never written again.
            Store::Local(store) => {
                let from = store.version_dir(track, version).join(&object.name);
                std::fs::hard_link(from, staging.dir().join(&object.name))
                    .context(|| format!("cannot keep {}", object.name))
            }
            #[cfg(feature = "s3")]
            Store::S3(store) => store.copy_out((track, version), object, staging),
        }
    }

    /// Makes the staged objects visible as a version of `track` and returns its id; atomic.
    ///
    /// # Errors
    /// `Internal` when an object is missing or has another length than the index says, `Unavailable` when the
    /// bucket refuses; nothing is visible then.
    pub fn publish(&self, staging: Staging, track: TrackId, index: &VersionIndex) -> Result<VersionId> {
        ask!(self, store => store.publish(staging, track, index))
    }

    /// Replaces the record of a track. Atomic and durable.
    ///
    /// # Errors
    /// When the disk or the bucket refuses; the old record stays.
    pub fn put_record(&self, track: TrackId, record: &[u8]) -> Result<()> {
        ask!(self, store => store.put_record(track, record))
    }

    /// Writes the record of a track that has none; says whether it did. A bucket that knows no conditions replaces one
    /// that comes at the same moment.
    ///
    /// # Errors
    /// When the disk or the bucket refuses.
    pub fn put_first_record(&self, track: TrackId, record: &[u8]) -> Result<bool> {
        ask!(self, store => store.put_first_record(track, record))
    }

    /// Removes the record of a track that shall not have been, if it is this one; says whether it did. In a bucket one
    /// that replaces it at the same moment goes with it.
    ///
    /// # Errors
    /// When the disk or the bucket refuses.
    pub fn remove_record_if(&self, track: TrackId, is_it: &dyn Fn(&[u8]) -> bool) -> Result<bool> {
        ask!(self, store => store.remove_record_if(track, is_it))
    }

    /// How long the record of a track is as it is; `None` when there is none.
    pub fn record_age(&self, track: TrackId) -> Option<Duration> {
        ask!(self, store => store.record_age(track))
    }

    /// Notes that `owner` will replace a version, before it is published: `interims` lists it from now on. Durable.
    ///
    /// # Errors
    /// When the disk or the bucket refuses.
    pub fn note_interim(&self, track: TrackId, version: VersionId, owner: &str) -> Result<()> {
        ask!(self, store => store.note_interim(track, version, owner))
    }

    /// The versions that were to be replaced and are not removed yet.
    ///
    /// # Errors
    /// When the directory or the bucket cannot be read.
    pub fn interims(&self) -> Result<Vec<Interim>> {
        ask!(self, store => store.interims())
    }

    /// Removes a version, and the note that it was to be replaced. Who asks anew does not find it; who reads it, and
    /// a disk cache that has it, keep it.
    ///
    /// # Errors
    /// When the disk or the bucket refuses; then it is there as a whole, or not at all.
    pub fn remove_version(&self, track: TrackId, version: VersionId) -> Result<()> {
        ask!(self, store => store.remove_version(track, version))
    }

    /// Reads the record of a track.
    ///
    /// # Errors
    /// `NotFound` when there is no such track.
    pub fn read_record(&self, track: TrackId) -> Result<Vec<u8>> {
        ask!(self, store => store.read_record(track))
    }

    /// The document of blocked tracks; `None` when nothing was ever blocked.
    ///
    /// # Errors
    /// When it cannot be read, is larger than any we write, or has vanished: that is not the same as empty.
    pub fn read_blocks(&self) -> Result<Option<Vec<u8>>> {
        ask!(self, store => store.read_blocks())
    }

    /// Tells whether the document of blocked tracks is still the same; `None` when there is none.
    ///
    /// # Errors
    /// When the disk or the bucket cannot tell.
    pub fn stamp_blocks(&self) -> Result<Option<Stamp>> {
        ask!(self, store => store.stamp_blocks())
    }

    /// Replaces the document of blocked tracks by what `edit` makes of it.
    ///
    /// # Errors
    /// What `edit` says, or when the disk or the bucket refuses; the old document stays.
    pub fn edit_blocks(&self, edit: impl FnOnce(Option<Vec<u8>>) -> Result<Vec<u8>>) -> Result<()> {
        ask!(self, store => store.edit_blocks(edit))
    }

    /// Every track that has a record, in no order.
    ///
    /// # Errors
    /// When the directory or the bucket cannot be listed.
    pub fn tracks(&self) -> Result<Vec<TrackId>> {
        match self {
            Store::Local(store) => Ok(store.tracks()?.collect()),
            #[cfg(feature = "s3")]
            Store::S3(store) => store.tracks(),
        }
    }

    /// Removes what crashed attempts left in staging and returns how many there were.
    ///
    /// # Errors
    /// `Internal` when staging cannot be listed.
    pub fn sweep(&self) -> Result<usize> {
        ask!(self, store => store.sweep())
    }

    /// How many versions were evicted from the disk so far; 0 for ever where the disk is the store.
    pub fn evictions(&self) -> u64 {
        match self {
            Store::Local(_) => 0,
            #[cfg(feature = "s3")]
            Store::S3(store) => store.evictions(),
        }
    }
}
