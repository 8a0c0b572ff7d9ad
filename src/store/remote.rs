//! A store that is a bucket. In: staged versions. Out: versions that are whole or absent, and files of them mapped
//! from a disk cache.
//!
//! ```text
//! publishing/{track}.{version}      somebody is at it, or was: put first, removed when the record is there
//! v/{track}/{version}/…             objects, then version.json: whoever has its id has every byte's hash
//! tracks/{track}.json               which version a track shows now, put last
//! interim/{track}.{version}         as in `local`
//! blocks.json, blocks.mark          as in `local`
//! ```
//! Keys below `v/` hold the hash of what is there, so writing one again writes the same bytes, and nobody needs a
//! lock. A publish that dies leaves objects that no document names: the same publish tried again completes them, and
//! `sweep` removes them when nobody does. It finds them by their note, without listing everything.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest as _, Sha256};

use super::cache::{self, DiskCache};
use super::local::{
    BLOCKS_BYTES_MAX, LocalStore, OWNER_BYTES_MAX, RECORD_BYTES_MAX, Staging, Stamp, VERSION_DOCUMENT, interim_name,
    interim_of,
};
use super::mapped::Mapped;
use super::objects::{Listed, Meta};
use super::s3::{self, Bucket};
use super::{Interim, Recorded};
use crate::base::error::Context as _;
use crate::base::id::{TrackId, VersionId};
use crate::base::{Error, Kind, Result, hex};
use crate::hls::version::{self, Rung, VersionIndex};

/// A bucket of published versions. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RemoteStore {
    bucket: Bucket,
    /// Where versions are staged before they are sent.
    local: LocalStore,
    /// `None` for a process that serves nothing.
    cache: Option<Arc<DiskCache>>,
}

/// Objects of a version that are sent at a time.
const PUTS_AT_ONCE: usize = 2;
/// Bytes of an object that are in memory while it is copied.
const COPY_BYTES: u64 = 8 << 20;
impl RemoteStore {
    /// Opens the store of a bucket, with `local` for staging. Asks the bucket nothing yet.
    ///
    /// # Errors
    /// As `Bucket::open` and `DiskCache::open`.
    pub fn open(options: s3::Options, local: LocalStore, cache: Option<cache::Options>) -> Result<RemoteStore> {
        let bucket = Bucket::open(options)?;
        let cache = cache.map(|options| DiskCache::open(options, bucket.clone())).transpose()?;
        Ok(RemoteStore { bucket, local, cache })
    }

    /// The bucket itself.
    pub fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    pub(super) fn uploads_dir(&self) -> std::path::PathBuf {
        self.local.uploads_dir()
    }

    pub(super) fn read_version(&self, track: TrackId, version: VersionId) -> Result<Vec<u8>> {
        let what = || format!("cannot read version {version} of track {track}");
        match &self.cache {
            Some(cache) => cache.document(track, version).map(Vec::from).context(what),
            None => self.read(version_key(track, version), version::DOCUMENT_BYTES_MAX).context(what),
        }
    }

    #[cfg(feature = "control")]
    pub(super) fn read_small(
        &self,
        (track, version): (TrackId, VersionId),
        name: &str,
        bytes_max: u64,
    ) -> Result<bytes::Bytes> {
        let what = || format!("cannot read {name} of track {track}");
        let key = object_key(track, version, name);
        let read = move |bucket: Bucket| async move { Ok(bucket.get_all(&key, bytes_max).await?.0) };
        self.bucket.wait(read).context(what)
    }

    pub(super) fn map(
        &self,
        key: (TrackId, VersionId),
        object: &version::Object,
        rung: Option<&Rung>,
    ) -> Result<Mapped> {
        let cache = self.cache.as_ref().ok_or_else(|| Error::internal("this process has no cache to serve from"))?;
        cache.map(key, object, rung)
    }

    pub(super) fn published_s(&self, track: TrackId, version: VersionId) -> Option<u64> {
        let modified = self.cache.as_ref()?.document_modified(track, version)?;
        modified.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
    }

    pub(super) fn has_version(&self, track: TrackId, version: VersionId) -> Result<bool> {
        // With a cache it is about to be read: looking costs as much as having.
        let found = match &self.cache {
            Some(cache) => cache.document(track, version).map(drop),
            None => self.stat(version_key(track, version)).map(drop),
        };
        match found {
            Err(error) if error.kind() == Kind::NotFound => Ok(false),
            found => found.map(|()| true),
        }
    }

    pub(super) fn is_here(&self, track: TrackId, version: VersionId) -> bool {
        self.cache.as_ref().is_some_and(|cache| cache.has(track, version))
    }

    pub(super) fn versions(&self, track: TrackId, max: usize) -> Result<Vec<VersionId>> {
        let prefix = format!("v/{track}/");
        let mut versions = Vec::new();
        self.each(&prefix, &mut |name| {
            if let Some((version, VERSION_DOCUMENT)) = name.split_once('/') {
                versions.extend(VersionId::decode(version));
            }
            versions.len() < max
        })?;
        Ok(versions)
    }

    pub(super) fn has_track(&self, track: TrackId) -> Result<bool> {
        match self.stat(record_key(track)) {
            Err(error) if error.kind() == Kind::NotFound => Ok(!self.versions(track, 1)?.is_empty()),
            found => found.map(|_| true),
        }
    }

    pub(super) fn stage(&self) -> Result<Staging> {
        self.local.stage()
    }

    pub(super) fn copy_out(
        &self,
        (track, version): (TrackId, VersionId),
        object: &version::Object,
        staging: &Staging,
    ) -> Result<()> {
        let what = || format!("cannot keep {}", object.name);
        let mut file = File::create_new(staging.dir().join(&object.name)).context(what)?;
        let right = self.read_through((track, version), object, |bytes| file.write_all(bytes).context(what))?;
        match right {
            true => Ok(()),
            false => {
                let key = object_key(track, version, &object.name);
                Err(Error::new(Kind::Unavailable, format!("{key} is not what version.json says")))
            }
        }
    }

    pub(super) fn publish(&self, staging: Staging, track: TrackId, index: &VersionIndex) -> Result<VersionId> {
        let (document, version) = index.seal();
        let what = || format!("cannot publish version {version} of track {track}");
        for object in index.objects() {
            staging.check(object)?;
        }
        if self.stat(version_key(track, version)).is_ok() {
            return Ok(version); // the id is the hash of the content: it is there already
        }
        self.begin(track, version).context(what)?;
        let files: Vec<_> = index
            .objects()
            .map(|object| (object_key(track, version, &object.name), staging.dir().join(&object.name)))
            .collect();
        let sent = self.bucket.wait(move |bucket: Bucket| async move {
            let mut sending = tokio::task::JoinSet::new();
            let mut files = files.into_iter();
            loop {
                if sending.len() < PUTS_AT_ONCE
                    && let Some((key, path)) = files.next()
                {
                    let bucket = bucket.clone();
                    sending.spawn(async move { bucket.put_file(&key, &path, &Meta::of(&key)).await });
                    continue;
                }
                let Some(sent) = sending.join_next().await else { return Ok(()) };
                sent.unwrap_or_else(|died| Err(Error::internal("an upload died").because(died)))?;
            }
        });
        sent.context(what)?;
        self.finish(track, version, document).context(what)?;
        drop(staging);
        Ok(version)
    }

    /// Notes that objects of a version are about to be sent, so that a sweep finds them if nothing comes of it.
    pub(super) fn begin(&self, track: TrackId, version: VersionId) -> Result<()> {
        self.write(note_key(track, version), b"1\n".to_vec())
    }

    /// Makes a version whose objects were sent visible.
    pub(super) fn finish(&self, track: TrackId, version: VersionId, document: Vec<u8>) -> Result<()> {
        self.write(version_key(track, version), document)
    }

    /// Sends one object of a version.
    pub(super) fn send(&self, (track, version): (TrackId, VersionId), name: &str, path: &Path) -> Result<()> {
        let (key, path) = (object_key(track, version, name), path.to_owned());
        self.bucket.wait(move |bucket: Bucket| async move { bucket.put_file(&key, &path, &Meta::of(&key)).await })
    }

    /// Whether an object is there and is byte by byte what an index says. Reads all of it.
    ///
    /// # Errors
    /// `Unavailable` when the bucket cannot be asked.
    pub(super) fn proves(&self, (track, version): (TrackId, VersionId), object: &version::Object) -> Result<bool> {
        match self.stat(object_key(track, version, &object.name)) {
            Ok(stat) if stat.bytes == object.bytes => {}
            Ok(_) => return Ok(false),
            Err(error) if error.kind() == Kind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        }
        self.read_through((track, version), object, |_| Ok(()))
    }

    /// Reads an object in order, piece by piece; whether it was what the index says.
    fn read_through(
        &self,
        (track, version): (TrackId, VersionId),
        object: &version::Object,
        mut take: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<bool> {
        let key = object_key(track, version, &object.name);
        let mut hash = Sha256::new();
        let mut at = 0;
        while at < object.bytes {
            let (key, range) = (key.clone(), at..object.bytes.min(at + COPY_BYTES));
            at = range.end;
            let bytes = self.bucket.wait(move |bucket: Bucket| async move { bucket.get(&key, range).await })?;
            hash.update(&bytes);
            take(&bytes)?;
        }
        Ok(hex::encode(&hash.finalize()) == object.sha256)
    }

    /// A URL by which anybody can read an object of a version for a while, with GET or with HEAD, and the
    /// `Content-Disposition` and `Content-Type` it is answered with.
    ///
    /// # Errors
    /// `Usage` for a validity that S3 does not sign, `Unavailable` when there are no keys to sign with.
    pub fn presign(
        &self,
        (track, version): (TrackId, VersionId),
        name: &str,
        valid: Duration,
        shown: s3::Shown,
    ) -> Result<String> {
        let key = object_key(track, version, name);
        self.bucket.wait(move |bucket: Bucket| async move { bucket.presign_shown(&key, valid, &shown).await })
    }

    pub(super) fn put_record(&self, track: TrackId, record: &[u8]) -> Result<()> {
        self.write(record_key(track), record.to_vec()).context(|| format!("cannot write the record of {track}"))?;
        // What was begun for this track has come to its end.
        let mut notes = Vec::new();
        let listed = self.each_below(&format!("publishing/{track}."), |object| notes.push(object.key));
        if let Err(error) = listed.and_then(|()| notes.into_iter().try_for_each(|note| self.remove(note))) {
            tracing::warn!(%track, error = error.chain(), "the note of a publish stays until it is swept");
        }
        Ok(())
    }

    pub(super) fn put_first_record(&self, track: TrackId, record: &[u8]) -> Result<bool> {
        match self.stat(record_key(track)) {
            Err(error) if error.kind() == Kind::NotFound => {}
            found => return found.map(|_| false),
        }
        let (key, record) = (record_key(track), record.to_vec());
        let put =
            move |bucket: Bucket| async move { bucket.put_over(&key, record.into(), &Meta::of(&key), None).await };
        match self.bucket.wait(put) {
            Err(error) if error.kind() == Kind::Busy => Ok(false),
            written => written.map(|()| true).context(|| format!("cannot write the record of {track}")),
        }
    }

    pub(super) fn remove_record_if(&self, track: TrackId, is_it: &dyn Fn(&[u8]) -> bool) -> Result<bool> {
        match self.read_record(track) {
            Err(error) if error.kind() == Kind::NotFound => Ok(false),
            Err(error) => Err(error),
            Ok(record) if !is_it(&record) => Ok(false),
            Ok(_) => self.remove(record_key(track)).map(|()| true),
        }
    }

    pub(super) fn record_age(&self, track: TrackId) -> Option<Duration> {
        self.stat(record_key(track)).ok().map(|stat| age_of(stat.modified_s))
    }

    pub(super) fn note_interim(&self, track: TrackId, version: VersionId, owner: &str) -> Result<()> {
        let noted = self.write(interim_key(track, version), owner.as_bytes().to_vec());
        noted.context(|| format!("cannot note the interim version of track {track}"))
    }

    pub(super) fn interims(&self) -> Result<Vec<Interim>> {
        let mut noted = Vec::new();
        self.each(INTERIM, &mut |name| {
            noted.extend(interim_of(name));
            true
        })?;
        let mut interims = Vec::new();
        for (track, version) in noted {
            let key = interim_key(track, version);
            let read = move |bucket: Bucket| async move { bucket.get_all(&key, OWNER_BYTES_MAX).await };
            match self.bucket.wait(read) {
                Ok((owner, stat)) => {
                    let owner = String::from_utf8_lossy(&owner).into_owned();
                    interims.push(Interim { track, version, age: age_of(stat.modified_s), owner });
                }
                Err(error) if error.kind() == Kind::NotFound => {} // removed meanwhile
                Err(error) => return Err(error),
            }
        }
        Ok(interims)
    }

    pub(super) fn remove_version(&self, track: TrackId, version: VersionId) -> Result<()> {
        let prefix = format!("v/{track}/{version}/");
        // First the document: without it the version is not there.
        self.remove(version_key(track, version))?;
        let mut names = Vec::new();
        self.each(&prefix, &mut |name| {
            names.push(name.to_owned());
            true
        })?;
        for name in names {
            self.remove(format!("{prefix}{name}"))?;
        }
        self.forget_interim(track, version)
    }

    pub(super) fn forget_interim(&self, track: TrackId, version: VersionId) -> Result<()> {
        self.remove(interim_key(track, version))
    }

    /// Removes all objects of a track's versions, of such too that have no document any more.
    pub(super) fn remove_rest(&self, track: TrackId) -> Result<()> {
        let mut keys = Vec::new();
        self.each_below(&format!("v/{track}/"), |object| keys.push(object.key))?;
        keys.into_iter().try_for_each(|key| self.remove(key))
    }

    pub(super) fn stage_links(&self, dir: &Path, index: &VersionIndex) -> Result<Staging> {
        self.local.stage_links(dir, index)
    }

    pub(super) fn read_record(&self, track: TrackId) -> Result<Vec<u8>> {
        self.read(record_key(track), RECORD_BYTES_MAX).context(|| format!("cannot read track {track}"))
    }

    pub(super) fn read_blocks(&self) -> Result<Option<Vec<u8>>> {
        Ok(self.blocks()?.map(|(document, _)| document))
    }

    fn blocks(&self) -> Result<Option<(Vec<u8>, String)>> {
        let read = |bucket: Bucket| async move { bucket.get_all(BLOCKS, BLOCKS_BYTES_MAX).await };
        match self.bucket.wait(read) {
            Ok((document, stat)) => Ok(Some((document.into(), stat.etag))),
            Err(error) if error.kind() == Kind::NotFound => match self.stat(BLOCKS_MARK.into()) {
                Ok(_) => {
                    let place = self.bucket.place();
                    Err(Error::invalid(format!(
                        "{BLOCKS} has vanished from {place}; restore it, or remove {BLOCKS_MARK} beside it to serve what it blocked"
                    )))
                }
                Err(error) if error.kind() == Kind::NotFound => Ok(None),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    pub(super) fn stamp_blocks(&self) -> Result<Option<Stamp>> {
        match self.stat(BLOCKS.into()) {
            Ok(stat) => {
                let digest = Sha256::digest(&stat.etag);
                let [a, b] = [0, 8].map(|at| u64::from_be_bytes(digest[at..at + 8].try_into().expect("eight bytes")));
                let modified_ns = i128::from(stat.modified_s) * 1_000_000_000;
                Ok(Some((a, b, stat.bytes, modified_ns, modified_ns)))
            }
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// One editor at a time on this machine by a lock, and among machines by the condition that the document is
    /// still the one that was read, where the bucket knows conditions.
    pub(super) fn edit_blocks(&self, edit: impl FnOnce(Option<Vec<u8>>) -> Result<Vec<u8>>) -> Result<()> {
        let _lock = self.local.lock_blocks()?;
        let read = self.blocks()?;
        let (old, etag) = read.map_or((None, None), |(document, etag)| (Some(document), Some(etag)));
        let is_first = old.is_none();
        let document = edit(old)?;
        if is_first {
            self.write(BLOCKS_MARK.into(), b"1\n".to_vec())?; // from now on a missing document is a lost one
        }
        let put = move |bucket: Bucket| async move {
            bucket.put_over(BLOCKS, document.into(), &Meta::of(BLOCKS), etag.as_deref()).await
        };
        let written = self.bucket.wait(put);
        if is_first && written.is_err() {
            let _ = self.bucket.wait(move |bucket: Bucket| async move { bucket.delete(BLOCKS_MARK).await });
        }
        written.context(|| "cannot write which tracks are blocked; try again")
    }

    pub(super) fn records(&self) -> Result<Vec<Recorded>> {
        let mut records = Vec::new();
        self.each_below("tracks/", |object| {
            let track = object.key.strip_prefix("tracks/").and_then(|name| name.strip_suffix(".json"));
            let track = track.and_then(TrackId::decode);
            records.extend(track.map(|track| Recorded { track, modified_s: object.modified_s }));
        })?;
        Ok(records)
    }

    /// Shows every object below a prefix to `see`.
    fn each_below(&self, prefix: &str, mut see: impl FnMut(Listed)) -> Result<()> {
        self.each_listed(prefix, &mut |object| {
            see(object);
            true
        })
    }

    /// Shows `take` the rest of every key that begins with `prefix`, until it has enough.
    fn each(&self, prefix: &str, take: &mut dyn FnMut(&str) -> bool) -> Result<()> {
        self.each_listed(prefix, &mut |object| object.key.strip_prefix(prefix).is_none_or(&mut *take))
    }

    fn each_listed(&self, prefix: &str, take: &mut dyn FnMut(Listed) -> bool) -> Result<()> {
        let mut after = None;
        loop {
            let asked = prefix.to_owned();
            let page = self
                .bucket
                .wait(move |bucket: Bucket| async move { bucket.list(&asked, after.as_deref(), 1_000).await })?;
            after = page.next;
            if !page.objects.into_iter().all(&mut *take) || after.is_none() {
                return Ok(());
            }
        }
    }

    /// Removes what killed processes left: staged files of this machine, parts of uploads that were never
    /// finished, and objects of versions whose publish was begun long ago and did not end.
    pub(super) fn sweep(&self) -> Result<usize> {
        let mut swept = self.local.sweep()?;
        let age = self.bucket.abandoned();
        // Not every key may list unfinished uploads; lifecycle rules can remove them too.
        match self.bucket.wait(move |bucket: Bucket| async move { bucket.sweep(age).await }) {
            Ok(parts) => swept += parts,
            Err(error) => tracing::warn!(error = error.chain(), "unfinished uploads are not swept"),
        }
        let mut notes = Vec::new();
        self.each_below("publishing/", |object| notes.push(object.key))?;
        for note in notes {
            let named = note.strip_prefix("publishing/").and_then(|name| name.rsplit_once('.'));
            let named = named.and_then(|(track, version)| Some((TrackId::decode(track)?, VersionId::decode(version)?)));
            let Some((track, version)) = named else { continue };
            swept += usize::from(self.sweep_publish(&note, (track, version), age)?);
        }
        Ok(swept)
    }

    /// Removes what a publish left that was begun at least `age` ago; whether there was anything to remove.
    fn sweep_publish(&self, note: &str, (track, version): (TrackId, VersionId), age: Duration) -> Result<bool> {
        let is_old = || match self.stat(note.to_owned()) {
            Ok(stat) => {
                let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
                Ok(now_s.saturating_sub(stat.modified_s) >= age.as_secs())
            }
            Err(error) if error.kind() == Kind::NotFound => Ok(false), // it ended meanwhile
            Err(error) => Err(error),
        };
        if !is_old()? {
            return Ok(false);
        }
        // Whole and shown once is whole; whole and never shown is nobody's.
        let is_whole = self.exists(version_key(track, version))?;
        if !is_whole || !self.exists(record_key(track))? {
            let mut keys = Vec::new();
            self.each_below(&format!("v/{track}/{version}/"), |object| keys.push(object.key))?;
            // Somebody may have begun the same version again since the listing.
            if !is_old()? {
                return Ok(false);
            }
            tracing::info!(%track, %version, objects = keys.len(), "removing what a killed publish left");
            // The document first: nobody shall find half a version.
            keys.sort_by_key(|key| !key.ends_with(VERSION_DOCUMENT));
            for key in keys {
                self.remove(key)?;
            }
        }
        self.remove(note.to_owned())?;
        Ok(true)
    }

    fn exists(&self, key: String) -> Result<bool> {
        match self.stat(key) {
            Err(error) if error.kind() == Kind::NotFound => Ok(false),
            found => found.map(|_| true),
        }
    }

    pub(super) fn remove_record(&self, track: TrackId) -> Result<()> {
        self.remove(record_key(track))
    }

    /// The disk cache, in a process that serves.
    pub(super) fn cache(&self) -> Option<&DiskCache> {
        self.cache.as_deref()
    }

    pub(super) fn evictions(&self) -> u64 {
        self.cache.as_ref().map_or(0, |cache| cache.generation())
    }

    fn read(&self, key: String, bytes_max: u64) -> Result<Vec<u8>> {
        let read = move |bucket: Bucket| async move { bucket.get_all(&key, bytes_max).await };
        self.bucket.wait(read).map(|(bytes, _)| bytes.into())
    }

    fn write(&self, key: String, bytes: Vec<u8>) -> Result<()> {
        self.bucket.wait(move |bucket: Bucket| async move { bucket.put(&key, bytes.into(), &Meta::of(&key)).await })
    }

    fn remove(&self, key: String) -> Result<()> {
        self.bucket.wait(move |bucket: Bucket| async move { bucket.delete(&key).await })
    }

    fn stat(&self, key: String) -> Result<super::objects::Stat> {
        self.bucket.wait(move |bucket: Bucket| async move { bucket.stat(&key).await })
    }
}

const INTERIM: &str = "interim/";
const BLOCKS: &str = "blocks.json";
/// There once there was a document of blocked tracks.
const BLOCKS_MARK: &str = "blocks.mark";

fn version_key(track: TrackId, version: VersionId) -> String {
    format!("v/{track}/{version}/{VERSION_DOCUMENT}")
}

fn object_key(track: TrackId, version: VersionId, name: &str) -> String {
    format!("v/{track}/{version}/{name}")
}

fn note_key(track: TrackId, version: VersionId) -> String {
    format!("publishing/{track}.{version}")
}

fn record_key(track: TrackId) -> String {
    format!("tracks/{track}.json")
}

fn interim_key(track: TrackId, version: VersionId) -> String {
    format!("{INTERIM}{}", interim_name(track, version))
}

/// How long ago that is, as far as two clocks can say.
fn age_of(modified_s: u64) -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH + Duration::from_secs(modified_s)).unwrap_or_default()
}
