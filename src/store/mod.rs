//! Where published bytes live: a directory, a bucket with a disk cache in front, or both while tracks move from one
//! to the other. Everything but a mapped byte goes through `Store`, which is the same for all.

#[cfg(feature = "control")]
pub mod artwork;
#[cfg(feature = "s3")]
pub mod cache;
#[cfg(feature = "s3")]
pub mod credentials;
pub mod local;
pub mod mapped;
#[cfg(feature = "s3")]
pub mod mixed;
pub mod objects;
#[cfg(feature = "s3")]
pub mod remote;
#[cfg(feature = "s3")]
pub mod s3;

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::id::{TrackId, VersionId};
use crate::base::{Error, Result};
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
    /// In either.
    #[cfg(feature = "s3")]
    Both(mixed::MixedStore),
}

/// What the name of a source begins with that lies in the store's own bucket.
pub const SOURCE_SCHEME: &str = "s3:";

/// Which kind of store holds a track.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// A directory of this machine.
    Local,
    /// A bucket.
    S3,
}

impl Backend {
    /// `local` or `s3`.
    pub fn as_str(self) -> &'static str {
        match self {
            Backend::Local => "local",
            Backend::S3 => "s3",
        }
    }
}

impl std::fmt::Display for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Backend {
    type Err = Error;

    fn from_str(text: &str) -> Result<Backend> {
        match text {
            "local" => Ok(Backend::Local),
            "s3" => Ok(Backend::S3),
            _ => Err(Error::invalid(format!("{text:?} is no store; there are local and s3"))),
        }
    }
}

/// The record of a track that a listing has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The track.
    pub track: TrackId,
    /// When its record was last written, in seconds since 1970, by the clock of whoever keeps it.
    pub modified_s: u64,
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
    /// The directory, when there is one.
    pub fn local(&self) -> Option<&LocalStore> {
        match self {
            Store::Local(store) => Some(store),
            #[cfg(feature = "s3")]
            Store::S3(_) => None,
            #[cfg(feature = "s3")]
            Store::Both(store) => Some(store.local()),
        }
    }

    /// The bucket, when there is one.
    #[cfg(feature = "s3")]
    pub fn remote(&self) -> Option<&remote::RemoteStore> {
        match self {
            Store::Local(_) => None,
            Store::S3(store) => Some(store),
            Store::Both(store) => Some(store.remote()),
        }
    }

    /// A URL by which a transcoder reads an object of the bucket.
    ///
    /// # Errors
    /// `Invalid` when there is no bucket, or the key is none; else as `Bucket::presign_get`.
    pub fn source_url(&self, key: &str, valid: Duration) -> Result<String> {
        objects::check(key).map_err(|error| Error::invalid(error.chain()))?;
        #[cfg(feature = "s3")]
        if let Some(remote) = self.remote() {
            let key = key.to_owned();
            let sign = move |bucket: s3::Bucket| async move { bucket.presign_inside(&key, valid).await };
            return remote.bucket().wait(sign);
        }
        let _ = valid;
        Err(Error::invalid(format!("{SOURCE_SCHEME}{key} lies in a bucket, and this store has none; set store.s3")))
    }

    /// Where what is published now goes.
    pub fn primary(&self) -> Backend {
        match self {
            Store::Local(_) => Backend::Local,
            #[cfg(feature = "s3")]
            Store::S3(_) => Backend::S3,
            #[cfg(feature = "s3")]
            Store::Both(store) => store.primary(),
        }
    }

    /// The directory and the bucket as stores of their own, those that there are.
    pub fn halves(&self) -> Vec<Store> {
        let local = self.local().cloned().map(Store::Local);
        #[cfg(feature = "s3")]
        let remote = self.remote().cloned().map(Store::S3);
        #[cfg(not(feature = "s3"))]
        let remote = None;
        local.into_iter().chain(remote).collect()
    }

    /// Which store has a version that was just read.
    pub fn backend_of(&self, track: TrackId, version: VersionId) -> Backend {
        match self {
            Store::Local(_) => {
                let _ = (track, version); // there is no other
                Backend::Local
            }
            #[cfg(feature = "s3")]
            Store::S3(_) => Backend::S3,
            #[cfg(feature = "s3")]
            Store::Both(store) => store.backend_of(track, version),
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
            #[cfg(feature = "s3")]
            Store::Both($inner) => $answer,
        }
    };
}

impl Store {
    /// Where files lie that people upload to this machine's disk.
    pub fn uploads_dir(&self) -> std::path::PathBuf {
        ask!(self, store => store.uploads_dir())
    }

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
            #[cfg(feature = "s3")]
            Store::Both(store) => store.map((track, version), object, rung),
        }
    }

    /// All bytes of a small object of a version, up to `bytes_max`. Blocks.
    ///
    /// # Errors
    /// `NotFound` when there is none, `Invalid` when it is larger; `Unavailable` when the bucket cannot be asked.
    #[cfg(feature = "control")]
    pub fn read_small(
        &self,
        (track, version): (TrackId, VersionId),
        name: &str,
        bytes_max: u64,
    ) -> Result<bytes::Bytes> {
        match self {
            Store::Local(store) => read_file(store, (track, version), name, bytes_max),
            #[cfg(feature = "s3")]
            Store::S3(store) => store.read_small((track, version), name, bytes_max),
            #[cfg(feature = "s3")]
            Store::Both(store) => match store.backend_of(track, version) {
                Backend::Local => read_file(store.local(), (track, version), name, bytes_max),
                Backend::S3 => store.remote().read_small((track, version), name, bytes_max),
            },
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
            #[cfg(feature = "s3")]
            Store::Both(store) => store.remote().is_here(track, version),
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
            #[cfg(feature = "s3")]
            Store::Both(store) => store.versions(track, max),
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
            Store::Local(store) => store.link_out((track, version), object, staging),
            #[cfg(feature = "s3")]
            Store::S3(store) => store.copy_out((track, version), object, staging),
            #[cfg(feature = "s3")]
            Store::Both(store) => store.copy_out((track, version), object, staging),
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

    /// Removes the note alone: the version stays.
    ///
    /// # Errors
    /// When the disk or the bucket refuses.
    pub fn forget_interim(&self, track: TrackId, version: VersionId) -> Result<()> {
        ask!(self, store => store.forget_interim(track, version))
    }

    /// Removes a version, and the note that it was to be replaced. Who asks anew does not find it; who reads it, and
    /// a disk cache that has it, keep it.
    ///
    /// # Errors
    /// When the disk or the bucket refuses; then it is there as a whole, or not at all.
    pub fn remove_version(&self, track: TrackId, version: VersionId) -> Result<()> {
        ask!(self, store => store.remove_version(track, version))
    }

    /// Removes what is left of a track whose versions were removed: in a bucket objects of which a killed process
    /// removed only the document.
    ///
    /// # Errors
    /// When the bucket refuses.
    pub fn remove_rest(&self, track: TrackId) -> Result<()> {
        #[cfg(feature = "s3")]
        if let Some(remote) = self.remote() {
            return remote.remove_rest(track);
        }
        let _ = track; // a directory is removed under another name
        Ok(())
    }

    /// Reads the record of a track.
    ///
    /// # Errors
    /// `NotFound` when there is no such track.
    pub fn read_record(&self, track: TrackId) -> Result<Vec<u8>> {
        ask!(self, store => store.read_record(track))
    }

    /// The document of blocked tracks; `None` when nothing was ever blocked. Each of two halves has its own.
    ///
    /// # Errors
    /// When it cannot be read, is larger than any we write, or has vanished: that is not the same as empty.
    pub fn read_blocks(&self) -> Result<Option<Vec<u8>>> {
        match self {
            Store::Local(store) => store.read_blocks(),
            #[cfg(feature = "s3")]
            Store::S3(store) => store.read_blocks(),
            #[cfg(feature = "s3")]
            Store::Both(_) => Err(one_half()),
        }
    }

    /// Tells whether the document of blocked tracks is still the same; `None` when there is none.
    ///
    /// # Errors
    /// When the disk or the bucket cannot tell.
    pub fn stamp_blocks(&self) -> Result<Option<Stamp>> {
        match self {
            Store::Local(store) => store.stamp_blocks(),
            #[cfg(feature = "s3")]
            Store::S3(store) => store.stamp_blocks(),
            #[cfg(feature = "s3")]
            Store::Both(_) => Err(one_half()),
        }
    }

    /// Replaces the document of blocked tracks by what `edit` makes of it.
    ///
    /// # Errors
    /// What `edit` says, or when the disk or the bucket refuses; the old document stays.
    pub fn edit_blocks(&self, edit: impl FnOnce(Option<Vec<u8>>) -> Result<Vec<u8>>) -> Result<()> {
        match self {
            Store::Local(store) => store.edit_blocks(edit),
            #[cfg(feature = "s3")]
            Store::S3(store) => store.edit_blocks(edit),
            #[cfg(feature = "s3")]
            Store::Both(_) => Err(one_half()),
        }
    }

    /// Every track that has a record, in no order; of two that a track has, the later one.
    ///
    /// # Errors
    /// When the directory or the bucket cannot be listed.
    pub fn records(&self) -> Result<Vec<Recorded>> {
        match self {
            Store::Local(store) => Ok(store.records()?.collect()),
            #[cfg(feature = "s3")]
            Store::S3(store) => store.records(),
            #[cfg(feature = "s3")]
            Store::Both(store) => store.records(),
        }
    }

    /// Removes what crashed attempts left in staging and returns how many there were.
    ///
    /// # Errors
    /// `Internal` when staging cannot be listed.
    pub fn sweep(&self) -> Result<usize> {
        ask!(self, store => store.sweep())
    }

    /// Removes from the disk what it keeps of such tracks beside the bucket.
    pub fn evict_tracks(&self, deleted: impl Fn(TrackId) -> bool) {
        #[cfg(feature = "s3")]
        if let Some(cache) = self.remote().and_then(|remote| remote.cache()) {
            cache.evict_tracks(deleted);
        }
        #[cfg(not(feature = "s3"))]
        let _ = deleted;
    }

    /// How many versions were evicted from the disk so far; 0 for ever where the disk is the store.
    pub fn evictions(&self) -> u64 {
        match self {
            Store::Local(_) => 0,
            #[cfg(feature = "s3")]
            Store::S3(store) => store.evictions(),
            #[cfg(feature = "s3")]
            Store::Both(store) => store.remote().evictions(),
        }
    }
}

#[cfg(feature = "control")]
fn read_file(
    store: &LocalStore,
    (track, version): (TrackId, VersionId),
    name: &str,
    bytes_max: u64,
) -> Result<bytes::Bytes> {
    use std::io::Read as _;

    use crate::base::error::Context as _;
    let mut bytes = Vec::new();
    let file = store.open_object(track, version, name)?;
    file.take(bytes_max + 1).read_to_end(&mut bytes).context(|| format!("cannot read {name} of track {track}"))?;
    if bytes.len() as u64 > bytes_max {
        return Err(Error::invalid(format!("{name} of track {track} is larger than {bytes_max} bytes")));
    }
    Ok(bytes.into())
}

/// Blocks are read and changed half by half (`origin::blocks`), so that neither can be forgotten.
#[cfg(feature = "s3")]
fn one_half() -> Error {
    Error::internal("blocked tracks are asked of one half of a store at a time")
}
