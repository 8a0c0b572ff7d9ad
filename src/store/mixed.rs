//! A directory and a bucket together, while tracks move from one to the other: each is served from where it is.
//!
//! A version's id is the hash of its content, so it does not matter which of two copies is read: the directory's
//! first, which costs a look at a name. A track's record can change; new ones go to the first store of the
//! settings, which removes the other's, and are looked for there first.

use std::path::Path;
use std::time::Duration;

use super::local::{LocalStore, Staging};
use super::mapped::Mapped;
use super::remote::RemoteStore;
use super::{Backend, Interim, Recorded};
use crate::base::error::Context as _;
use crate::base::id::{TrackId, VersionId};
use crate::base::{Error, Kind, Result};
use crate::hls::version::{self, Rung, VersionIndex};

/// Both stores of a process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct MixedStore {
    local: LocalStore,
    remote: RemoteStore,
    primary: Backend,
}

impl MixedStore {
    /// Both, of which `primary` takes what is new.
    pub fn new(local: LocalStore, remote: RemoteStore, primary: Backend) -> MixedStore {
        MixedStore { local, remote, primary }
    }

    pub(super) fn local(&self) -> &LocalStore {
        &self.local
    }

    pub(super) fn remote(&self) -> &RemoteStore {
        &self.remote
    }

    pub(super) fn primary(&self) -> Backend {
        self.primary
    }

    pub(super) fn uploads_dir(&self) -> std::path::PathBuf {
        self.local.uploads_dir()
    }

    pub(super) fn backend_of(&self, track: TrackId, version: VersionId) -> Backend {
        match self.local.has_version(track, version) {
            Ok(true) => Backend::Local,
            _ => Backend::S3,
        }
    }

    pub(super) fn read_version(&self, track: TrackId, version: VersionId) -> Result<Vec<u8>> {
        or_else(self.local.read_version(track, version), || self.remote.read_version(track, version))
    }

    pub(super) fn map(
        &self,
        (track, version): (TrackId, VersionId),
        object: &version::Object,
        rung: Option<&Rung>,
    ) -> Result<Mapped> {
        match self.local.open_object(track, version, &object.name) {
            Err(error) if error.kind() == Kind::NotFound => {}
            file => return Mapped::open(file?, object.bytes),
        }
        // Its document may have been read from the directory, and the directory's copy be removed since.
        if !self.remote.is_here(track, version) {
            self.remote.read_version(track, version)?;
        }
        self.remote.map((track, version), object, rung)
    }

    pub(super) fn published_s(&self, track: TrackId, version: VersionId) -> Option<u64> {
        self.local.published_s(track, version).or_else(|| self.remote.published_s(track, version))
    }

    pub(super) fn has_version(&self, track: TrackId, version: VersionId) -> Result<bool> {
        Ok(self.local.has_version(track, version)? || self.remote.has_version(track, version)?)
    }

    pub(super) fn versions(&self, track: TrackId, max: usize) -> Result<Vec<VersionId>> {
        let mut versions = self.remote.versions(track, max)?;
        for version in self.local.versions(track)? {
            if versions.len() < max && !versions.contains(&version) {
                versions.push(version);
            }
        }
        Ok(versions)
    }

    pub(super) fn has_track(&self, track: TrackId) -> Result<bool> {
        Ok(self.local.has_track(track)? || self.remote.has_track(track)?)
    }

    pub(super) fn stage(&self) -> Result<Staging> {
        self.local.stage()
    }

    pub(super) fn copy_out(
        &self,
        key: (TrackId, VersionId),
        object: &version::Object,
        staging: &Staging,
    ) -> Result<()> {
        or_else(self.local.link_out(key, object, staging), || self.remote.copy_out(key, object, staging))
    }

    pub(super) fn publish(&self, staging: Staging, track: TrackId, index: &VersionIndex) -> Result<VersionId> {
        match self.primary {
            Backend::Local => self.local.publish(staging, track, index),
            Backend::S3 => self.remote.publish(staging, track, index),
        }
    }

    /// Writes where new things go, and takes the other record away: it would say something older.
    pub(super) fn put_record(&self, track: TrackId, record: &[u8]) -> Result<()> {
        let removed = match self.primary {
            Backend::Local => {
                self.local.put_record(track, record)?;
                self.remote.remove_record(track)
            }
            Backend::S3 => {
                self.remote.put_record(track, record)?;
                self.local.remove_record(track)
            }
        };
        match removed {
            Err(error) if error.kind() != Kind::NotFound => {
                tracing::warn!(%track, error = error.chain(), "an older record of a track stays in the other store");
            }
            _ => {}
        }
        Ok(())
    }

    /// As `put_first_record` of the store that takes what is new, when the other has none either.
    pub(super) fn put_first_record(&self, track: TrackId, record: &[u8]) -> Result<bool> {
        match self.read_record(track) {
            Err(error) if error.kind() == Kind::NotFound => {}
            read => return read.map(|_| false),
        }
        match self.primary {
            Backend::Local => self.local.put_first_record(track, record),
            Backend::S3 => self.remote.put_first_record(track, record),
        }
    }

    pub(super) fn remove_record_if(&self, track: TrackId, is_it: &dyn Fn(&[u8]) -> bool) -> Result<bool> {
        match self.primary {
            Backend::Local => self.local.remove_record_if(track, is_it),
            Backend::S3 => self.remote.remove_record_if(track, is_it),
        }
    }

    pub(super) fn record_age(&self, track: TrackId) -> Option<Duration> {
        match self.primary {
            Backend::Local => self.local.record_age(track).or_else(|| self.remote.record_age(track)),
            Backend::S3 => self.remote.record_age(track).or_else(|| self.local.record_age(track)),
        }
    }

    pub(super) fn note_interim(&self, track: TrackId, version: VersionId, owner: &str) -> Result<()> {
        match self.primary {
            Backend::Local => self.local.note_interim(track, version, owner),
            Backend::S3 => self.remote.note_interim(track, version, owner),
        }
    }

    pub(super) fn interims(&self) -> Result<Vec<Interim>> {
        let mut interims = self.local.interims()?;
        interims.extend(self.remote.interims()?);
        Ok(interims)
    }

    pub(super) fn forget_interim(&self, track: TrackId, version: VersionId) -> Result<()> {
        self.local.forget_interim(track, version)?;
        self.remote.forget_interim(track, version)
    }

    pub(super) fn remove_version(&self, track: TrackId, version: VersionId) -> Result<()> {
        self.local.remove_version(track, version)?;
        self.remote.remove_version(track, version)
    }

    pub(super) fn stage_links(&self, dir: &Path, index: &VersionIndex) -> Result<Staging> {
        self.local.stage_links(dir, index)
    }

    /// A bucket that is away does not take those tracks with it whose record is in the directory.
    pub(super) fn read_record(&self, track: TrackId) -> Result<Vec<u8>> {
        match self.primary {
            Backend::Local => or_else(self.local.read_record(track), || self.remote.read_record(track)),
            Backend::S3 => match self.remote.read_record(track) {
                Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Unavailable) => self
                    .local
                    .read_record(track)
                    .map_err(|local| if local.kind() == Kind::NotFound { error } else { local }),
                read => read,
            },
        }
    }

    pub(super) fn records(&self) -> Result<Vec<Recorded>> {
        let mut records = self.remote.records()?;
        records.extend(self.local.records()?);
        // The later one of two comes first, and stays.
        records.sort_by_key(|record| (record.track, std::cmp::Reverse(record.modified_s)));
        records.dedup_by_key(|record| record.track);
        Ok(records)
    }

    pub(super) fn sweep(&self) -> Result<usize> {
        self.remote.sweep() // its staging is the directory's
    }
}

fn or_else<T>(first: Result<T>, second: impl FnOnce() -> Result<T>) -> Result<T> {
    match first {
        Err(error) if error.kind() == Kind::NotFound => second(),
        first => first,
    }
}

/// Copies a version from one store to the other and proves the copy: everything is read back and hashed. What is
/// there already and right is not sent again, so a copy that was interrupted goes on where it stopped.
///
/// `on_bytes` hears how many bytes of the version were done; an error of it stops the copy.
///
/// # Errors
/// `NotFound` when the source has no such version, `Invalid` when it is damaged there, `Unavailable` when a store
/// does not do as it should; nothing is visible in the other store then.
pub fn copy_version(
    (local, remote): (&LocalStore, &RemoteStore),
    to: Backend,
    (track, version): (TrackId, VersionId),
    on_bytes: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<u64> {
    match to {
        Backend::S3 => send(local, remote, (track, version), on_bytes),
        Backend::Local => bring(local, remote, (track, version), on_bytes),
    }
}

fn send(
    local: &LocalStore,
    remote: &RemoteStore,
    (track, version): (TrackId, VersionId),
    on_bytes: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<u64> {
    let document = local.read_version(track, version)?;
    let index = VersionIndex::decode_as(version, &document)?;
    remote.begin(track, version)?;
    let mut bytes = 0;
    for object in index.objects() {
        if !local.proves((track, version), object)? {
            let name = &object.name;
            return Err(Error::invalid(format!("{name} of version {version} is damaged in the directory")));
        }
        if !remote.proves((track, version), object)? {
            remote.send((track, version), &object.name, &local.version_dir(track, version).join(&object.name))?;
            if !remote.proves((track, version), object)? {
                return Err(differs(&object.name, version));
            }
        }
        bytes += object.bytes;
        on_bytes(object.bytes)?;
    }
    remote.finish(track, version, document.clone())?;
    match remote.read_version(track, version)? == document {
        true => Ok(bytes),
        false => Err(differs("version.json", version)),
    }
}

fn bring(
    local: &LocalStore,
    remote: &RemoteStore,
    (track, version): (TrackId, VersionId),
    on_bytes: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<u64> {
    let document = remote.read_version(track, version)?;
    let index = VersionIndex::decode_as(version, &document)?;
    let proves = |object: &version::Object| local.proves((track, version), object);
    if local.has_version(track, version)? {
        if index.objects().map(proves).collect::<Result<Vec<_>>>()?.into_iter().all(|right| right) {
            let bytes = index.objects().map(|object| object.bytes).sum();
            on_bytes(bytes)?;
            return Ok(bytes);
        }
        local.remove_version(track, version)?;
    }
    let staging = local.stage()?;
    let mut bytes = 0;
    for object in index.objects() {
        remote.copy_out((track, version), object, &staging).context(|| format!("cannot bring {}", object.name))?;
        bytes += object.bytes;
        on_bytes(object.bytes)?;
    }
    local.publish(staging, track, &index)?;
    for object in index.objects() {
        if !proves(object)? {
            local.remove_version(track, version)?;
            return Err(differs(&object.name, version));
        }
    }
    Ok(bytes)
}

fn differs(name: &str, version: VersionId) -> Error {
    Error::new(Kind::Unavailable, format!("the copy of {name} of version {version} is not what was sent; try again"))
}
