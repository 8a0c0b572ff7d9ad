//! A store that is a directory. In: a staged version. Out: a version that is either whole or absent.
//!
//! ```text
//! {root}/staging/{attempt}.lock   held (flock) by the process that fills {attempt}/; names the track once there is one
//! {root}/staging/{attempt}/…      objects being made, invisible
//! {root}/v/{track}/{version}/…    objects and version.json, whole from the moment the name exists
//! {root}/interim/{track}.{version}  versions that another one is about to replace, see `publish::place_first`
//! {root}/tracks/{track}.json      which version a track shows now
//! {root}/blocks.json              which tracks are not served, see `origin::blocks`
//! {root}/artwork/{track}/…       its pictures, see `store::artwork`
//! {root}/uploads/{upload}         what people send, see `intake`; nothing here reads it
//! {root}/blocks.lock              held (flock) by the process that changes blocks.json; not empty once there is one
//! ```
//!
//! A version appears by one `rename` of a directory whose files, and whose `version.json` last, were
//! fsynced before; the directories are fsynced after. A crash before the rename leaves a staging
//! directory whose lock nobody holds, which `sweep` removes; a crash after it leaves a whole version.
//! Files below `v/` are never written again: the origin maps them, and a shrinking map is SIGBUS.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use sha2::{Digest as _, Sha256};

use super::{Interim, Recorded};
use crate::base::error::Context as _;
use crate::base::held::same_file;
use crate::base::id::{TRACK_ID_BYTES_MAX, TrackId, VersionId};
use crate::base::{Error, Kind, Result, hex};
use crate::hls::version::{DOCUMENT_BYTES_MAX, Object, VersionIndex};

/// The largest track record we read, in bytes.
pub(super) const RECORD_BYTES_MAX: u64 = 1 << 20;
/// The largest document of blocks we read, in bytes: half a million entries.
pub(super) const BLOCKS_BYTES_MAX: u64 = 64 << 20;
/// The longest name of who replaces an interim version, in bytes: a job's id has 30.
pub(super) const OWNER_BYTES_MAX: u64 = 256;
/// The document that makes a directory a version.
pub const VERSION_DOCUMENT: &str = "version.json";

/// A directory of published versions. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LocalStore {
    root: Arc<Path>,
}

/// What tells one state of a file from another without reading it: device, inode, length, and times of
/// modification and change in nanoseconds.
pub type Stamp = (u64, u64, u64, i128, i128);

/// A private directory to fill with the objects of one version. Dropping it removes it.
#[derive(Debug)]
pub struct Staging {
    dir: PathBuf,
    lock_path: PathBuf,
    /// Held until the directory is renamed or removed, so that `sweep` leaves it alone.
    lock: File,
    /// The directory of the track it is published to, which may be new and empty.
    track_dir: Option<PathBuf>,
}

impl LocalStore {
    /// Opens the store below `root`, making its directories when they are missing.
    ///
    /// # Errors
    /// `Internal` when a directory cannot be made or written.
    pub fn open(root: &Path) -> Result<LocalStore> {
        for path in LocalStore::directories(root) {
            fs::create_dir_all(&path).context(|| format!("cannot make the store directory {}", path.display()))?;
        }
        let root = fs::canonicalize(root).context(|| format!("cannot open the store {}", root.display()))?;
        Ok(LocalStore { root: root.into() })
    }

    /// The directories that `open` makes below `root`.
    pub fn directories(root: &Path) -> [PathBuf; 3] {
        ["staging", "v", "tracks"].map(|name| root.join(name))
    }

    /// Where `intake` keeps what people upload, whether or not it exists.
    pub fn uploads_dir(&self) -> PathBuf {
        self.root.join("uploads")
    }

    /// Where `artwork` keeps pictures, whether or not it exists.
    #[cfg(feature = "control")]
    pub(super) fn artwork_dir(&self) -> PathBuf {
        self.root.join("artwork")
    }

    /// The directory of a version, whether or not it exists.
    pub fn version_dir(&self, track: TrackId, version: VersionId) -> PathBuf {
        self.track_dir(track).join(version.to_string())
    }

    /// Reads the bytes of `version.json`. Blocks.
    ///
    /// # Errors
    /// `NotFound` when there is no such version.
    pub fn read_version(&self, track: TrackId, version: VersionId) -> Result<Vec<u8>> {
        let path = self.version_dir(track, version).join(VERSION_DOCUMENT);
        read_bounded(&path, DOCUMENT_BYTES_MAX).context(|| format!("cannot read version {version} of track {track}"))
    }

    /// Opens an object of a version for reading. Blocks.
    ///
    /// # Errors
    /// `NotFound` when there is no such object.
    pub fn open_object(&self, track: TrackId, version: VersionId, name: &str) -> Result<File> {
        let path = self.version_dir(track, version).join(name);
        File::open(path).context(|| format!("cannot open {name} of version {version} of track {track}"))
    }

    /// Whether there is such a version. Blocks; looks at one name and opens nothing.
    ///
    /// # Errors
    /// `Internal` when the disk cannot tell.
    pub fn has_version(&self, track: TrackId, version: VersionId) -> Result<bool> {
        let path = self.version_dir(track, version).join(VERSION_DOCUMENT);
        path.try_exists().context(|| format!("cannot look for version {version} of track {track}"))
    }

    /// The published versions of a track, in no order; none when there is no such track. Blocks; reads
    /// names only.
    ///
    /// # Errors
    /// `Internal` when the directory cannot be read.
    pub fn versions(&self, track: TrackId) -> Result<impl Iterator<Item = VersionId>> {
        let entries = match fs::read_dir(self.track_dir(track)) {
            Err(cause) if cause.kind() == ErrorKind::NotFound => None,
            entries => Some(entries.context(|| format!("cannot list the versions of track {track}"))?),
        };
        let names = entries.into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.filter_map(|name| VersionId::decode(&name)))
    }

    /// Whether anything is known of a track: a record, or a version. Blocks.
    ///
    /// # Errors
    /// `Internal` when the disk cannot tell.
    pub fn has_track(&self, track: TrackId) -> Result<bool> {
        let exists = || Ok(self.record_path(track).try_exists()? || self.track_dir(track).try_exists()?);
        exists()
            .map_err(|cause: std::io::Error| Error::internal(format!("cannot look for track {track}")).because(cause))
    }

    /// When a version was published, in seconds since 1970. Blocks.
    pub fn published_s(&self, track: TrackId, version: VersionId) -> Option<u64> {
        let document = fs::metadata(self.version_dir(track, version).join(VERSION_DOCUMENT)).ok()?;
        Some(document.modified().ok()?.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
    }

    /// A staging directory with the objects of `index` that lie in `dir`, on the same file system. Nothing is copied:
    /// the same bytes have two names, so nobody may write them any more.
    ///
    /// # Errors
    /// `Internal` when an object is missing or the disk refuses.
    pub fn stage_links(&self, dir: &Path, index: &VersionIndex) -> Result<Staging> {
        let staging = self.stage()?;
        for object in index.objects() {
            let name = &object.name;
            fs::hard_link(dir.join(name), staging.dir.join(name)).context(|| format!("cannot link {name}"))?;
        }
        Ok(staging)
    }

    /// Notes that `owner` will replace a version, before it is published: `interims` lists it from now on. Durable.
    ///
    /// # Errors
    /// `Internal` when the disk refuses.
    pub fn note_interim(&self, track: TrackId, version: VersionId, owner: &str) -> Result<()> {
        let dir = self.root.join("interim");
        let note = || {
            fs::create_dir_all(&dir)?;
            let mut note = File::create(self.interim_path(track, version))?;
            note.write_all(owner.as_bytes())?;
            note.sync_all()
        };
        note().context(|| format!("cannot note the interim version of track {track}"))?;
        sync_dir(&dir)
    }

    /// The versions that were to be replaced and are not removed yet, whether they are there or not. Blocks.
    ///
    /// # Errors
    /// `Internal` when the directory cannot be read.
    pub fn interims(&self) -> Result<Vec<Interim>> {
        let entries = match fs::read_dir(self.root.join("interim")) {
            Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(vec![]),
            entries => entries.context(|| "cannot list the interim versions")?,
        };
        let decode = |entry: fs::DirEntry| {
            let (track, version) = interim_of(entry.file_name().to_str()?)?;
            let age = entry.metadata().ok()?.modified().ok()?.elapsed().unwrap_or_default();
            let owner = read_bounded(&entry.path(), OWNER_BYTES_MAX).ok()?;
            Some(Interim { track, version, age, owner: String::from_utf8(owner).ok()? })
        };
        Ok(entries.filter_map(|entry| decode(entry.ok()?)).collect())
    }

    /// Removes a version, and the note that it was to be replaced. It is gone at once for whoever asks anew; open
    /// files stay readable. Blocks.
    ///
    /// # Errors
    /// `Internal` when the disk refuses; then it is there as a whole, or not at all.
    pub fn remove_version(&self, track: TrackId, version: VersionId) -> Result<()> {
        let staging = self.stage()?;
        match fs::rename(self.version_dir(track, version), staging.dir.join("removed")) {
            Err(cause) if cause.kind() == ErrorKind::NotFound => {}
            renamed => renamed.context(|| format!("cannot remove version {version} of track {track}"))?,
        }
        drop(staging);
        let _ = fs::remove_dir(self.track_dir(track)); // one that holds versions stays
        self.forget_interim(track, version)
    }

    /// Removes the note alone: the version stays.
    ///
    /// # Errors
    /// `Internal` when the disk refuses.
    pub fn forget_interim(&self, track: TrackId, version: VersionId) -> Result<()> {
        match fs::remove_file(self.interim_path(track, version)) {
            Err(cause) if cause.kind() != ErrorKind::NotFound => {
                Err(cause).context(|| format!("cannot remove the note of version {version}"))
            }
            _ => Ok(()),
        }
    }

    /// Removes the record of a track. Blocks.
    ///
    /// # Errors
    /// `NotFound` when there is none, `Internal` when the disk refuses.
    pub fn remove_record(&self, track: TrackId) -> Result<()> {
        fs::remove_file(self.record_path(track)).context(|| format!("cannot remove the record of {track}"))?;
        sync_dir(&self.root.join("tracks"))
    }

    /// Removes the record of a track that shall not have been, if it is this one; says whether it did. Blocks.
    ///
    /// # Errors
    /// `Internal` when the disk refuses.
    pub fn remove_record_if(&self, track: TrackId, is_it: &dyn Fn(&[u8]) -> bool) -> Result<bool> {
        let path = self.record_path(track);
        let what = || format!("cannot remove the record of {track}");
        match read_bounded(&path, RECORD_BYTES_MAX) {
            Err(error) if error.kind() == Kind::NotFound => return Ok(false),
            Err(error) => return Err(error),
            Ok(record) if !is_it(&record) => return Ok(false),
            Ok(_) => {}
        }
        let staging = self.stage()?;
        let taken = staging.dir.join("record");
        match fs::rename(&path, &taken) {
            Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(false),
            renamed => renamed.context(what)?,
        }
        // Who replaced it in between gets its record back, unless there is a newer one still.
        let ours = is_it(&fs::read(&taken).context(what)?);
        if !ours {
            match fs::hard_link(&taken, &path) {
                Err(cause) if cause.kind() == ErrorKind::AlreadyExists => {}
                linked => linked.context(what)?,
            }
        }
        sync_dir(&self.root.join("tracks"))?;
        Ok(ours)
    }

    /// How long the record of a track is as it is; `None` when there is none. Blocks.
    pub fn record_age(&self, track: TrackId) -> Option<Duration> {
        Some(fs::metadata(self.record_path(track)).ok()?.modified().ok()?.elapsed().unwrap_or_default())
    }

    fn interim_path(&self, track: TrackId, version: VersionId) -> PathBuf {
        self.root.join("interim").join(interim_name(track, version))
    }

    /// Makes a private staging directory on the store's own file system, so that publishing is a rename.
    ///
    /// # Errors
    /// `Internal` when the directory or its lock cannot be made.
    pub fn stage(&self) -> Result<Staging> {
        let mut random = [0; 12];
        getrandom::fill(&mut random).expect("the operating system gives random bytes");
        let attempt = hex::encode(&random);
        let lock_path = self.root.join("staging").join(format!("{attempt}.lock"));
        let dir = self.root.join("staging").join(attempt);
        loop {
            let lock = File::create(&lock_path).context(|| format!("cannot make {}", lock_path.display()))?;
            lock.lock().context(|| format!("cannot lock {}", lock_path.display()))?;
            // A sweeper may have taken the lock between the two calls above and removed the file.
            if same_file(&lock, &lock_path) {
                fs::create_dir(&dir).context(|| format!("cannot make {}", dir.display()))?;
                return Ok(Staging { dir, lock_path, lock, track_dir: None });
            }
        }
    }

    /// Makes the staged objects visible as a version of `track` and returns its id. Publishing the
    /// same content again is a success that changes nothing. Blocks on fsync.
    ///
    /// # Errors
    /// `Internal` when an object is missing or has another length than the index says, or the disk
    /// refuses; nothing is visible then.
    pub fn publish(&self, mut staging: Staging, track: TrackId, index: &VersionIndex) -> Result<VersionId> {
        for object in index.objects() {
            sync_object(&staging.dir.join(&object.name), object.bytes)?;
        }
        let (document, version) = index.seal();
        write_synced(&staging.dir.join(VERSION_DOCUMENT), &document)?;
        sync_dir(&staging.dir)?;

        let parent = self.track_dir(track);
        // First the note, then the directory: whoever removes this attempt removes that too if it is empty.
        let noted = staging.lock.write_all(track.as_str().as_bytes());
        noted.context(|| format!("cannot write {}", staging.lock_path.display()))?;
        staging.track_dir = Some(parent.clone());
        let target = parent.join(version.to_string());
        let moved = loop {
            fs::create_dir_all(&parent).context(|| format!("cannot make {}", parent.display()))?;
            sync_dir(&self.root.join("v"))?;
            match fs::rename(&staging.dir, &target) {
                // Another attempt for this track ended in between, and the directory was still empty.
                Err(cause) if cause.kind() == ErrorKind::NotFound && staging.dir.exists() && !parent.exists() => {}
                moved => break moved,
            }
        };
        match moved {
            Ok(()) => {}
            // The id is the hash of the content: what is there already is what we would put there.
            Err(cause) if matches!(cause.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) => {}
            Err(cause) => {
                return Err(
                    Error::internal(format!("cannot publish version {version} of track {track}")).because(cause)
                );
            }
        }
        sync_dir(&parent)?;
        Ok(version)
    }

    /// Replaces the record of a track. Atomic: a reader sees the old or the new one, whole.
    ///
    /// # Errors
    /// `Internal` when the disk refuses; the old record stays.
    pub fn put_record(&self, track: TrackId, record: &[u8]) -> Result<()> {
        let staging = self.stage()?;
        let temporary = staging.dir.join("record");
        write_synced(&temporary, record)?;
        fs::rename(&temporary, self.record_path(track)).context(|| format!("cannot write the record of {track}"))?;
        sync_dir(&self.root.join("tracks"))
    }

    /// Writes the record of a track that has none; says whether it did. Atomic and durable.
    ///
    /// # Errors
    /// `Internal` when the disk refuses.
    pub fn put_first_record(&self, track: TrackId, record: &[u8]) -> Result<bool> {
        let staging = self.stage()?;
        let temporary = staging.dir.join("record");
        write_synced(&temporary, record)?;
        // A link replaces nothing, unlike a rename (link(2)).
        match fs::hard_link(&temporary, self.record_path(track)) {
            Err(cause) if cause.kind() == ErrorKind::AlreadyExists => return Ok(false),
            linked => linked.context(|| format!("cannot write the record of {track}"))?,
        }
        sync_dir(&self.root.join("tracks")).map(|()| true)
    }

    /// Reads the record of a track. Blocks.
    ///
    /// # Errors
    /// `NotFound` when there is no such track.
    pub fn read_record(&self, track: TrackId) -> Result<Vec<u8>> {
        read_bounded(&self.record_path(track), RECORD_BYTES_MAX).context(|| format!("cannot read track {track}"))
    }

    /// The document of blocked tracks; `None` when nothing was ever blocked. Blocks.
    ///
    /// # Errors
    /// When it cannot be read, is larger than any we write, or has vanished: that is not the same as empty.
    pub fn read_blocks(&self) -> Result<Option<Vec<u8>>> {
        let path = self.blocks_path();
        let had_one = || fs::metadata(self.blocks_lock_path()).is_ok_and(|lock| lock.len() > 0);
        match read_bounded(&path, BLOCKS_BYTES_MAX) {
            Err(error) if error.kind() == Kind::NotFound && had_one() => {
                let path = path.display();
                Err(Error::invalid(format!(
                    "{path} has vanished; restore it, or remove blocks.lock beside it to serve what it blocked"
                )))
            }
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            document => document.map(Some),
        }
    }

    /// Tells whether the document of blocked tracks is still the same; `None` when there is none. Blocks.
    ///
    /// # Errors
    /// When the disk cannot tell.
    pub fn stamp_blocks(&self) -> Result<Option<Stamp>> {
        let path = self.blocks_path();
        let of = |m: fs::Metadata| {
            let nanoseconds = |s: i64, ns: i64| i128::from(s) * 1_000_000_000 + i128::from(ns);
            let times = (nanoseconds(m.mtime(), m.mtime_nsec()), nanoseconds(m.ctime(), m.ctime_nsec()));
            (m.dev(), m.ino(), m.len(), times.0, times.1)
        };
        match fs::metadata(&path) {
            Ok(metadata) => Ok(Some(of(metadata))),
            Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(cause).context(|| format!("cannot look at {}", path.display())),
        }
    }

    /// Replaces the document of blocked tracks by what `edit` makes of it. One editor at a time, whatever
    /// the process; a reader sees the old or the new document, whole. Blocks on the lock and on fsync.
    ///
    /// # Errors
    /// What `edit` says, or `Internal` when the disk refuses; the old document stays.
    pub fn edit_blocks(&self, edit: impl FnOnce(Option<Vec<u8>>) -> Result<Vec<u8>>) -> Result<()> {
        let lock_path = self.blocks_lock_path();
        let mut lock = self.lock_blocks()?;
        let document = edit(self.read_blocks()?)?;
        let staging = self.stage()?;
        let temporary = staging.dir.join("blocks");
        write_synced(&temporary, &document)?;
        let path = self.blocks_path();
        fs::rename(&temporary, &path).context(|| format!("cannot write {}", path.display()))?;
        sync_dir(&self.root)?;
        // From now on a missing document is a lost one.
        let mut mark =
            || if lock.metadata()?.len() == 0 { lock.write_all(b"1\n").and_then(|()| lock.sync_all()) } else { Ok(()) };
        mark().context(|| format!("cannot write {}", lock_path.display()))
    }

    /// Waits until nobody else on this machine edits which tracks are blocked, for as long as the file is open.
    ///
    /// # Errors
    /// `Internal` when the disk refuses.
    pub(super) fn lock_blocks(&self) -> Result<File> {
        let lock_path = self.blocks_lock_path();
        let opened = OpenOptions::new().append(true).create(true).open(&lock_path);
        let lock = opened.context(|| format!("cannot open {}", lock_path.display()))?;
        lock.lock().context(|| format!("cannot lock {}", lock_path.display()))?;
        Ok(lock)
    }

    /// Every track that has a record, in no order. Blocks; reads names and times only.
    ///
    /// # Errors
    /// `Internal` when the directory cannot be read.
    pub fn records(&self) -> Result<impl Iterator<Item = Recorded> + use<>> {
        let dir = self.root.join("tracks");
        let entries = fs::read_dir(&dir).context(|| format!("cannot list {}", dir.display()))?;
        Ok(entries.filter_map(|entry| {
            let entry = entry.ok()?;
            let track = TrackId::decode(entry.file_name().to_str()?.strip_suffix(".json")?)?;
            let modified = entry.metadata().ok()?.modified().ok()?;
            Some(Recorded { track, modified_s: modified.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()) })
        }))
    }

    /// Whether an object is there and is byte by byte what an index says. Blocks: reads all of it.
    ///
    /// # Errors
    /// `Internal` when the disk refuses.
    pub fn proves(&self, (track, version): (TrackId, VersionId), object: &Object) -> Result<bool> {
        let mut file = match self.open_object(track, version, &object.name) {
            Err(error) if error.kind() == Kind::NotFound => return Ok(false),
            file => file?,
        };
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 256 << 10];
        let mut bytes = 0;
        loop {
            match file.read(&mut buffer).context(|| format!("cannot read {}", object.name))? {
                0 => return Ok(bytes == object.bytes && hex::encode(&hash.finalize()) == object.sha256),
                n => {
                    hash.update(&buffer[..n]);
                    bytes += n as u64;
                }
            }
        }
    }

    /// Gives an object of a version a second name among what is staged: files below `v/` are never written again.
    ///
    /// # Errors
    /// `NotFound` when there is no such object, `Internal` when the disk refuses.
    pub fn link_out(&self, (track, version): (TrackId, VersionId), object: &Object, staging: &Staging) -> Result<()> {
        let from = self.version_dir(track, version).join(&object.name);
        fs::hard_link(from, staging.dir.join(&object.name)).context(|| format!("cannot keep {}", object.name))
    }

    /// Removes what crashed attempts left in staging and returns how many there were. Attempts of
    /// living processes, ours or others', keep their lock and are left alone.
    ///
    /// # Errors
    /// `Internal` when staging cannot be listed; single attempts that resist are skipped.
    pub fn sweep(&self) -> Result<usize> {
        let staging = self.root.join("staging");
        let entries = fs::read_dir(&staging).context(|| format!("cannot list {}", staging.display()))?;
        let mut removed = 0;
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            let lock_path = path.with_extension("lock");
            let dir = path.with_extension("");
            // Made in the order lock, directory; removed in the order directory, lock: a directory
            // without a lock file belongs to nobody. The lock is held while the attempt is removed.
            let lock = File::open(&lock_path);
            let abandoned = match &lock {
                Err(cause) => cause.kind() == ErrorKind::NotFound && dir.exists(),
                Ok(lock) => lock.try_lock().is_ok() && same_file(lock, &lock_path),
            };
            let track_dir = lock.as_ref().ok().and_then(noted).map(|track| self.track_dir(track));
            if abandoned && remove_attempt(&dir, track_dir.as_deref(), &lock_path) {
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn track_dir(&self, track: TrackId) -> PathBuf {
        self.root.join("v").join(track.as_str())
    }

    fn blocks_path(&self) -> PathBuf {
        self.root.join("blocks.json")
    }

    fn blocks_lock_path(&self) -> PathBuf {
        self.root.join("blocks.lock")
    }

    fn record_path(&self, track: TrackId) -> PathBuf {
        self.root.join("tracks").join(format!("{track}.json"))
    }
}

/// The name of the note that a version will be replaced.
pub(super) fn interim_name(track: TrackId, version: VersionId) -> String {
    format!("{track}.{version}")
}

/// What such a name says.
pub(super) fn interim_of(name: &str) -> Option<(TrackId, VersionId)> {
    let (track, version) = name.rsplit_once('.')?;
    Some((TrackId::decode(track)?, VersionId::decode(version)?))
}

impl Staging {
    /// Where to put the objects.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Checks that an object is there and has the length that its index says.
    #[cfg(feature = "s3")]
    pub(super) fn check(&self, object: &Object) -> Result<()> {
        check_length(&self.dir.join(&object.name), object.bytes).map(drop)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // After a publish the directory is gone and only the lock file is left.
        remove_attempt(&self.dir, self.track_dir.as_deref(), &self.lock_path);
    }
}

/// Removes an attempt, directory first, and the track's directory if it is empty; true when the attempt is gone.
fn remove_attempt(dir: &Path, track_dir: Option<&Path>, lock_path: &Path) -> bool {
    let gone = |result: std::io::Result<()>| result.is_ok() || result.is_err_and(|e| e.kind() == ErrorKind::NotFound);
    if !gone(fs::remove_dir_all(dir)) {
        return false;
    }
    if let Some(track_dir) = track_dir {
        let _ = fs::remove_dir(track_dir); // one that holds versions stays
    }
    gone(fs::remove_file(lock_path))
}

/// The track that an attempt was about to be published to.
fn noted(lock: &File) -> Option<TrackId> {
    let mut note = String::new();
    lock.take(TRACK_ID_BYTES_MAX as u64 + 1).read_to_string(&mut note).ok()?;
    TrackId::decode(&note)
}

/// Checks the length of a finished object and brings its bytes to the disk.
fn sync_object(path: &Path, bytes: u64) -> Result<()> {
    let what = || format!("cannot publish the object {}", path.display());
    check_length(path, bytes)?.sync_all().context(what)
}

fn check_length(path: &Path, bytes: u64) -> Result<File> {
    let what = || format!("cannot publish the object {}", path.display());
    let file = File::open(path).context(what)?;
    let found = file.metadata().context(what)?.len();
    if found != bytes {
        return Err(Error::internal(format!("{} has {found} bytes, its index says {bytes}", path.display())));
    }
    Ok(file)
}

/// Writes a new file and brings it to the disk; the caller makes the name durable by `sync_dir`.
fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().context(|| format!("cannot write {}", path.display()))
}

/// Makes the names in a directory durable (fsync(2): a file's fsync does not cover its name).
fn sync_dir(path: &Path) -> Result<()> {
    File::open(path).and_then(|dir| dir.sync_all()).context(|| format!("cannot sync {}", path.display()))
}

fn read_bounded(path: &Path, bytes_max: u64) -> Result<Vec<u8>> {
    let what = || format!("cannot read {}", path.display());
    let length = fs::metadata(path).context(what)?.len();
    if length > bytes_max {
        return Err(Error::new(Kind::Invalid, format!("{} has {length} bytes, at most {bytes_max}", path.display())));
    }
    fs::read(path).context(what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hls::version::tests::sample;

    fn filled(store: &LocalStore, index: &VersionIndex) -> Staging {
        let staging = store.stage().unwrap();
        for object in index.objects() {
            fs::write(staging.dir().join(&object.name), vec![7; object.bytes as usize]).unwrap();
        }
        staging
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn store() -> (tempfile::TempDir, LocalStore, TrackId) {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::open(dir.path()).unwrap();
        (dir, store, TrackId::decode("trk_1").unwrap())
    }

    #[test]
    fn a_published_version_is_whole_and_staging_is_empty_again() {
        let (root, store, track) = store();
        let index = sample();
        let version = store.publish(filled(&store, &index), track, &index).unwrap();
        assert_eq!(VersionIndex::decode_as(version, &store.read_version(track, version).unwrap()).unwrap(), index);
        assert_eq!(
            names(&store.version_dir(track, version)),
            ["aac-64.mp4", "aac-96.mp4", "flac-.mp4", "version.json"]
        );
        assert_eq!(store.open_object(track, version, "aac-64.mp4").unwrap().metadata().unwrap().len(), 1730);
        assert!(names(&root.path().join("staging")).is_empty());
    }

    #[test]
    fn publishing_the_same_content_again_changes_nothing() {
        let (root, store, track) = store();
        let index = sample();
        let first = store.publish(filled(&store, &index), track, &index).unwrap();
        let second = store.publish(filled(&store, &index), track, &index).unwrap();
        assert_eq!(first, second);
        assert!(names(&root.path().join("staging")).is_empty());
    }

    #[test]
    fn an_object_of_the_wrong_length_or_a_missing_one_publishes_nothing() {
        let (root, store, track) = store();
        let index = sample();
        let short = filled(&store, &index);
        fs::write(short.dir().join("aac-64.mp4"), b"short").unwrap();
        assert!(store.publish(short, track, &index).unwrap_err().chain().contains("index says 1730"));
        let missing = filled(&store, &index);
        fs::remove_file(missing.dir().join("aac-96.mp4")).unwrap();
        assert!(store.publish(missing, track, &index).unwrap_err().chain().contains("aac-96.mp4"));
        assert!(names(&root.path().join("v")).is_empty());
        assert!(names(&root.path().join("staging")).is_empty());
    }

    #[test]
    fn a_crashed_attempt_is_swept_and_a_living_one_is_not() {
        let (root, store, _) = store();
        let living = filled(&store, &sample());
        // What a killed process leaves: a directory and a lock file that nobody locks.
        let staging = root.path().join("staging");
        fs::create_dir(staging.join("dead")).unwrap();
        fs::write(staging.join("dead/aac-64.mp4"), b"half").unwrap();
        fs::write(staging.join("dead.lock"), b"").unwrap();
        fs::create_dir(staging.join("lockless")).unwrap();
        fs::write(staging.join("dirless.lock"), b"").unwrap();
        store.sweep().unwrap();
        assert_eq!(names(&staging).len(), 2, "{:?}", names(&staging));
        assert!(living.dir().join("aac-64.mp4").exists());
        assert_eq!(store.sweep().unwrap(), 0);
    }

    /// What a kill leaves between making the track's directory and the rename into it.
    #[test]
    fn the_empty_directory_of_a_track_goes_with_the_attempt_that_made_it() {
        let (root, store, track) = store();
        let leave = |attempt: &str, track: &str| {
            fs::create_dir(root.path().join("staging").join(attempt)).unwrap();
            fs::write(root.path().join("staging").join(format!("{attempt}.lock")), track).unwrap();
        };
        let index = sample();
        store.publish(filled(&store, &index), track, &index).unwrap();
        fs::create_dir(root.path().join("v/trk_new")).unwrap();
        fs::create_dir(root.path().join("v/trk_other")).unwrap(); // another process is at it
        leave("a", "trk_new");
        leave("b", track.as_str());
        leave("c", "../tracks");
        assert_eq!(store.sweep().unwrap(), 3);
        assert_eq!(names(&root.path().join("v")), [track.as_str(), "trk_other"]);
        assert!(root.path().join("tracks").exists() && store.versions(track).unwrap().next().is_some());
    }

    #[test]
    fn records_are_replaced_whole_and_listed() {
        let (_root, store, track) = store();
        assert_eq!(store.read_record(track).unwrap_err().kind(), Kind::NotFound);
        store.put_record(track, b"one").unwrap();
        store.put_record(track, b"two").unwrap();
        assert_eq!(store.read_record(track).unwrap(), b"two");
        let listed: Vec<Recorded> = store.records().unwrap().collect();
        assert!(listed.len() == 1 && listed[0].track == track && listed[0].modified_s > 1_700_000_000, "{listed:?}");
    }

    #[test]
    fn a_first_record_replaces_nothing_and_only_the_meant_one_is_removed() {
        let (root, store, track) = store();
        assert!(!store.remove_record_if(track, &|_| true).unwrap(), "there is none");
        assert!(store.put_first_record(track, b"first").unwrap());
        assert!(!store.put_first_record(track, b"second").unwrap());
        assert_eq!(store.read_record(track).unwrap(), b"first");
        assert!(!store.remove_record_if(track, &|record| record == b"second").unwrap());
        assert_eq!(store.read_record(track).unwrap(), b"first");
        // Replaced between being read and being taken: it goes back.
        let replace = std::cell::Cell::new(true);
        let removed = store.remove_record_if(track, &|record| {
            if replace.replace(false) {
                store.put_record(track, b"whole").unwrap();
            }
            record == b"first"
        });
        assert!(!removed.unwrap());
        assert_eq!(store.read_record(track).unwrap(), b"whole");
        assert!(store.remove_record_if(track, &|record| record == b"whole").unwrap());
        assert_eq!(store.read_record(track).unwrap_err().kind(), Kind::NotFound);
        assert!(names(&root.path().join("staging")).is_empty());
    }

    #[test]
    fn an_interim_version_is_noted_with_its_owner_and_removed_with_its_note() {
        let (root, store, track) = store();
        let index = sample();
        let version = index.seal().1;
        store.note_interim(track, version, "job_1").unwrap();
        store.publish(filled(&store, &index), track, &index).unwrap();
        let noted = store.interims().unwrap();
        assert_eq!(noted.len(), 1);
        assert_eq!((noted[0].track, noted[0].version, &*noted[0].owner), (track, version, "job_1"));
        store.remove_version(track, version).unwrap();
        assert!(store.interims().unwrap().is_empty() && !store.has_version(track, version).unwrap());
        assert!(names(&root.path().join("v")).is_empty() && names(&root.path().join("staging")).is_empty());
    }
}
