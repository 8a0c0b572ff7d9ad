//! Bytes, then documents, then the record: how an encoded package becomes a track that people can play.
//!
//! In: objects in a directory and their index. Out: a visible version (`to_store`), or a tree of plain
//! files that any web server can serve (`to_tree`). Every step but the last is invisible.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::Duration;

use crate::base::error::Context as _;
use crate::base::id::{TrackId, VersionId};
use crate::base::{Error, Kind, Result};
use crate::hls::package;
use crate::hls::playlist::{self, PREVIEW_DIRECTORY, Scope};
use crate::hls::version::{Family, Rung, VersionIndex};
use crate::store::local::VERSION_DOCUMENT;
use crate::store::{Interim, Staging, Store};
use crate::tracks::{self, Track};

/// Publishes the objects in `staging` as the current version of track `id`.
///
/// # Errors
/// `Internal` when the package is not whole or the disk refuses; the track shows what it showed before.
pub fn to_store(store: &Store, staging: Staging, id: TrackId, title: &str, index: &VersionIndex) -> Result<Track> {
    let track = place(store, staging, id, title, index)?;
    tracks::write(store, &track)?;
    Ok(track)
}

/// All of `to_store` but its last step: the version is whole, and the track does not show it yet. Returns the
/// record that would make it.
///
/// # Errors
/// As `to_store`.
pub fn place(store: &Store, staging: Staging, id: TrackId, title: &str, index: &VersionIndex) -> Result<Track> {
    let _span = tracing::info_span!("publish", track = %id, rungs = index.rungs.len()).entered();
    package::check(index)?;
    let version = store.publish(staging, id, index)?;
    Ok(record_of(id, title, version, index))
}

/// The record of a track that shows this version.
pub fn record_of(id: TrackId, title: &str, version: VersionId, index: &VersionIndex) -> Track {
    Track {
        id,
        title: title.to_owned(),
        version,
        samples: index.source.samples,
        rate: index.source.rate,
        flac: index.has(Family::Flac),
        lossless: index.rungs.iter().any(|rung| index.is_lossless(rung)),
        video: index.video.is_some(),
    }
}

/// How long a version stays that was only the first rung: whoever began with it goes on with it.
pub const INTERIM_KEPT: Duration = Duration::from_secs(15 * 60);

/// Publishes what is whole of a new track, while the rest is still made: a smaller version, as immutable as any,
/// that `to_store` replaces later. `objects` is where the rest goes on being written. `None` when the track shows
/// something already.
///
/// # Errors
/// As `to_store`.
pub fn first_to_store(
    store: &Store,
    objects: &Path,
    id: TrackId,
    title: &str,
    index: &VersionIndex,
) -> Result<Option<Track>> {
    let staging = store.stage_links(objects, index)?;
    let track = place_first(store, staging, id, title, index, "")?;
    Ok(show_first(store, &track)?.then_some(track))
}

/// All of `first_to_store` but its last step. `owner` is who replaces it: a job's id, or nothing.
///
/// # Errors
/// As `to_store`.
pub fn place_first(
    store: &Store,
    staging: Staging,
    id: TrackId,
    title: &str,
    index: &VersionIndex,
    owner: &str,
) -> Result<Track> {
    package::check(index)?;
    // First the note: a version that nobody would remove must not come to be.
    store.note_interim(id, index.seal().1, owner)?;
    place(store, staging, id, title, index)
}

/// The last step of `first_to_store`: false when the track shows something already, which is more.
///
/// # Errors
/// As `to_store`.
pub fn show_first(store: &Store, track: &Track) -> Result<bool> {
    tracks::write_first(store, track)
}

/// Takes back an interim version, when what was to replace it could not be made. What replaced it nevertheless stays.
///
/// # Errors
/// `Internal` when the disk refuses.
pub fn withdraw(store: &Store, id: TrackId, version: VersionId) -> Result<()> {
    match tracks::read(store, id) {
        Ok(track) if track.version != version => return Ok(()), // replaced: swept when nobody listens any more
        Ok(_) if !tracks::remove_if_shows(store, id, version)? => return Ok(()),
        Ok(_) => {}
        Err(error) if error.kind() == Kind::NotFound => {}
        Err(error) => return Err(error),
    }
    store.remove_version(id, version)
}

/// `withdraw` for all that `owner` was to replace. Answers how many there were.
///
/// # Errors
/// As `withdraw`.
pub fn withdraw_of(store: &Store, owner: &str) -> Result<usize> {
    let interims: Vec<_> = store.interims()?.into_iter().filter(|interim| interim.owner == owner).collect();
    interims.iter().try_for_each(|interim| withdraw(store, interim.track, interim.version))?;
    Ok(interims.len())
}

/// Whose interim version is whole, and about to be shown: nobody's after that. A version that is placed by hand has it
/// for as long as no track shows it.
const PLACED: &str = "placed";

/// `place` for a publisher whom nobody goes on for: a version that it places and does not live to show is removed by
/// `sweep_interim`. `shown` ends that.
///
/// # Errors
/// As `to_store`.
pub fn place_noted(store: &Store, staging: Staging, id: TrackId, title: &str, index: &VersionIndex) -> Result<Track> {
    let version = index.seal().1;
    // One that was there before may be what a track showed once.
    if !store.has_version(id, version)? {
        store.note_interim(id, version, PLACED)?;
    }
    place(store, staging, id, title, index)
}

/// The track shows what `place_noted` placed.
///
/// # Errors
/// `Internal` when the disk refuses; the next `sweep_interim` does it then.
pub fn shown(store: &Store, track: &Track) -> Result<()> {
    store.forget_interim(track.id, track.version)
}

/// Removes interim versions that were replaced at least `kept` ago, and answers how many. One that is still shown stays:
/// its publisher is at work, or was killed and left a track that plays. Neither does anything stay that was placed as
/// long ago and never shown.
///
/// # Errors
/// `Internal` when the store cannot be read; single versions that resist are skipped.
pub fn sweep_interim(store: &Store, kept: Duration) -> Result<usize> {
    let mut removed = 0;
    for Interim { track: id, version, age, owner } in store.interims()? {
        let replaced = match tracks::read(store, id) {
            Ok(track) if owner == PLACED && track.version == version => {
                let _ = store.forget_interim(id, version); // the next time, then
                false
            }
            Ok(_) if owner == PLACED => age >= kept,
            Ok(track) => track.version != version && store.record_age(id).is_some_and(|age| age >= kept),
            // Noted and never shown, or withdrawn half-way; a publisher between its two steps is not this slow.
            Err(error) if error.kind() == Kind::NotFound => age >= kept,
            Err(_) => false,
        };
        if replaced && store.remove_version(id, version).is_ok() {
            removed += 1;
        }
    }
    Ok(removed)
}

/// The interim versions that tracks still show.
///
/// # Errors
/// `Internal` when the store cannot be read.
pub fn shown_interims(store: &Store) -> Result<Vec<Interim>> {
    let mut interims = store.interims()?;
    interims.retain(|interim| tracks::read(store, interim.track).is_ok_and(|track| track.version == interim.version));
    Ok(interims)
}

/// Writes the static tree of a version into `tree`, an empty directory: playlists, one file per
/// segment, extras, and `version.json` last. `objects` holds the objects of `index`.
///
/// # Errors
/// `Internal` when the package is not whole or the disk refuses.
pub fn to_tree(objects: &Path, index: &VersionIndex, tree: &Path) -> Result<VersionId> {
    package::check(index)?;
    // Hundreds of files: beside each other, because nothing else is left to be done by then.
    std::thread::scope(|scope| {
        let rungs = index.rungs.iter().chain(index.pictures().map(|picture| &picture.encoding));
        let cut: Vec<_> = rungs.map(|rung| scope.spawn(move || write_rung(objects, rung, tree))).collect();
        cut.into_iter().try_for_each(|rung| rung.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    if let Some(preview) = &index.preview {
        let Rung { object, .. } = &preview.rung;
        let dir = PREVIEW_DIRECTORY.trim_end_matches('/');
        fs::create_dir(tree.join(dir)).context(|| format!("cannot make the directory {dir}"))?;
        cut_rung(&objects.join(&object.name), &preview.rung, tree, dir)?;
        write(tree, "preview.m3u8", &playlist::preview(&preview.rung))?;
        fs::copy(objects.join(&object.name), tree.join(&object.name))
            .context(|| format!("cannot write {}", object.name))?;
    }
    for extra in &index.extras {
        let name = &extra.object.name;
        fs::copy(objects.join(name), tree.join(name)).context(|| format!("cannot write {name}"))?;
    }
    for scope in Scope::ALL {
        if let Some(bytes) = playlist::multivariant(index, scope, &[]) {
            write(tree, scope.path(), &bytes)?;
        }
    }
    let (document, version) = index.seal();
    write(tree, VERSION_DOCUMENT, &document)?;
    Ok(version)
}

/// The directory of a rung.
fn write_rung(objects: &Path, rung: &Rung, tree: &Path) -> Result<()> {
    let dir = rung.path();
    fs::create_dir_all(tree.join(&dir)).context(|| format!("cannot make the directory {dir}"))?;
    cut_rung(&objects.join(&rung.object.name), rung, tree, &dir)?;
    write(tree, &format!("{dir}/index.m3u8"), &playlist::media(rung, &[]))
}

/// Cuts a rung's file into its init section and its segments.
fn cut_rung(object: &Path, rung: &Rung, tree: &Path, dir: &str) -> Result<()> {
    let read = || format!("cannot read back {}", rung.object.name);
    let mut file = File::open(object).context(read)?;
    cut(&mut file, rung.init.bytes, tree, &format!("{dir}/init.mp4"))?;
    for (number, (segment, start)) in rung.segments.iter().zip(rung.offsets()).enumerate() {
        file.seek(SeekFrom::Start(start)).context(read)?;
        cut(&mut file, segment.bytes, tree, &format!("{dir}/{}", playlist::segment_name(number)))?;
    }
    Ok(())
}

/// Errors name the file below the tree: where the tree lies until it is whole is nobody's business.
fn cut(file: &mut File, bytes: u64, tree: &Path, name: &str) -> Result<()> {
    let what = || format!("cannot write {name}");
    let mut out = File::create_new(tree.join(name)).context(what)?;
    let copied = std::io::copy(&mut file.take(bytes), &mut out).context(what)?;
    if copied != bytes {
        return Err(Error::internal(format!("{name} would have {copied} bytes, its index says {bytes}")));
    }
    Ok(())
}

fn write(tree: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let write = || File::create_new(tree.join(name))?.write_all(bytes);
    write().context(|| format!("cannot write {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hls::version::tests::sample;

    #[test]
    fn a_tree_holds_every_slice_as_a_file_and_the_index_last() {
        let objects = tempfile::tempdir().unwrap();
        let tree = tempfile::tempdir().unwrap();
        let index = sample();
        for object in index.objects() {
            let bytes: Vec<u8> = (0..object.bytes).map(|n| n as u8).collect();
            fs::write(objects.path().join(&object.name), bytes).unwrap();
        }
        to_tree(objects.path(), &index, tree.path()).unwrap();
        let length = |path: &str| fs::metadata(tree.path().join(path)).unwrap().len();
        assert_eq!(length("aac/64/init.mp4"), 700);
        assert_eq!(length("aac/96/00000.mp4"), 2000);
        assert_eq!(length("flac/00001.mp4"), 30);
        assert_eq!(fs::read(tree.path().join("aac/64/00000.mp4")).unwrap()[0], (700 % 256) as u8);
        for playlist in ["master.m3u8", "aac/master.m3u8", "flac/master.m3u8", "aac/64/index.m3u8", "flac/index.m3u8"] {
            assert!(length(playlist) > 60, "{playlist}");
        }
        assert_eq!(fs::read(tree.path().join("version.json")).unwrap(), index.seal().0);
    }
}
