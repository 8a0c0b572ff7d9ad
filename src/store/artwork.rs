//! Pictures of tracks, beside the versions: some hundred KB, replaced when their owner likes. Blocks.
//!
//! In the directory: `{root}/artwork/{track}/{hash}-{size}.jpg`, written whole before it has its name. In the bucket: the
//! same key. Of a store of two halves new ones go to the first; both are asked.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::{LocalStore, Store};
use crate::base::error::Context as _;
use crate::base::id::TrackId;
use crate::base::{Error, Kind, Result, hex};

/// Lengths of the longer side in pixels: for a list, a page, a screen.
pub const SIZES: [u32; 3] = [160, 640, 1200];
/// The largest picture that we made, in bytes.
const BYTES_MAX: u64 = 4 << 20;

/// Pictures of a track, each with its size.
pub type Pictures = Vec<(u32, Vec<u8>)>;

/// The hash in the names of these pictures, in whatever order they are.
pub fn hash(pictures: &[(u32, Vec<u8>)]) -> String {
    let mut falling: Vec<_> = pictures.iter().collect();
    falling.sort_unstable_by_key(|(size, _)| std::cmp::Reverse(*size)); // as they are made
    let mut hash = Sha256::new();
    falling.iter().for_each(|(_, bytes)| hash.update(Sha256::digest(bytes)));
    hex::encode(&hash.finalize()[..10])
}

/// Which size a name asks for, when it is one of the pictures with this hash.
pub fn size_of(name: &str, hash: &str) -> Option<u32> {
    let size = name.strip_prefix(hash)?.strip_prefix('-')?.strip_suffix(".jpg")?;
    SIZES.into_iter().find(|known| known.to_string() == size)
}

/// Keeps pictures of a track, each with its size.
///
/// # Errors
/// When the disk or the bucket refuses.
pub fn put(store: &Store, track: TrackId, hash: &str, pictures: &[(u32, Vec<u8>)]) -> Result<()> {
    for (size, bytes) in pictures {
        match store {
            Store::Local(local) => write(local, track, &name(hash, *size), bytes)?,
            #[cfg(feature = "s3")]
            Store::S3(remote) => remote::put(remote, track, &name(hash, *size), bytes)?,
            #[cfg(feature = "s3")]
            Store::Both(both) => match both.primary() {
                super::Backend::Local => write(both.local(), track, &name(hash, *size), bytes)?,
                super::Backend::S3 => remote::put(both.remote(), track, &name(hash, *size), bytes)?,
            },
        }
    }
    Ok(())
}

/// A picture of a track.
///
/// # Errors
/// `NotFound` when there is none; else when the disk or the bucket cannot be asked.
pub fn read(store: &Store, track: TrackId, hash: &str, size: u32) -> Result<Bytes> {
    let name = name(hash, size);
    match store {
        Store::Local(local) => from_disk(local, track, &name),
        #[cfg(feature = "s3")]
        Store::S3(remote) => remote::get(remote, track, &name),
        #[cfg(feature = "s3")]
        Store::Both(both) => match from_disk(both.local(), track, &name) {
            Err(error) if error.kind() == Kind::NotFound => remote::get(both.remote(), track, &name),
            read => read,
        },
    }
}

/// All pictures of a track with this hash; `None` when there is none of them.
///
/// # Errors
/// `Invalid` when one is missing or they are not what the hash says; else as `read`.
pub fn all(store: &Store, track: TrackId, hash: &str) -> Result<Option<Pictures>> {
    let mut pictures = Vec::with_capacity(SIZES.len());
    for size in SIZES {
        match read(store, track, hash, size) {
            Ok(bytes) => pictures.push((size, bytes.into())),
            Err(error) if error.kind() == Kind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    match () {
        () if pictures.is_empty() => Ok(None),
        () if pictures.len() == SIZES.len() && self::hash(&pictures) == hash => Ok(Some(pictures)),
        () => Err(Error::invalid(format!(
            "pictures {hash} of track {track} are damaged in the {} store",
            store.primary()
        ))),
    }
}

/// Copies the pictures of a track from one store to another and proves the copy; what is there and right is not sent
/// again. Returns their bytes; `None` when `from` has none of them.
///
/// # Errors
/// `Invalid` when they are damaged in `from`, `Unavailable` when a store does not do as it should.
pub fn copy((from, to): (&Store, &Store), track: TrackId, hash: &str) -> Result<Option<u64>> {
    let Some(pictures) = all(from, track, hash)? else { return Ok(None) };
    let is_there = || match all(to, track, hash) {
        Ok(there) => Ok(there.as_ref() == Some(&pictures)),
        Err(error) if error.kind() == Kind::Invalid => Ok(false),
        Err(error) => Err(error),
    };
    if !is_there()? {
        put(to, track, hash, &pictures)?;
        if !is_there()? {
            let what = format!("the copy of pictures {hash} of track {track} is not what was sent; try again");
            return Err(Error::new(Kind::Unavailable, what));
        }
    }
    Ok(Some(pictures.iter().map(|(_, bytes)| bytes.len() as u64).sum()))
}

/// Removes the pictures of a track with this hash; none is fine.
///
/// # Errors
/// When the disk or the bucket refuses.
pub fn remove(store: &Store, track: TrackId, hash: &str) -> Result<()> {
    for size in SIZES {
        let name = name(hash, size);
        if let Some(local) = store.local() {
            match fs::remove_file(directory(local, track).join(&name)) {
                Err(cause) if cause.kind() != ErrorKind::NotFound => {
                    return Err(cause).context(|| format!("cannot remove a picture of track {track}"));
                }
                _ => {}
            }
        }
        #[cfg(feature = "s3")]
        if let Some(bucket) = store.remote() {
            remote::remove(bucket, track, &name)?;
        }
    }
    Ok(())
}

fn name(hash: &str, size: u32) -> String {
    format!("{hash}-{size}.jpg")
}

fn directory(local: &LocalStore, track: TrackId) -> PathBuf {
    local.artwork_dir().join(track.as_str())
}

fn write(local: &LocalStore, track: TrackId, name: &str, bytes: &[u8]) -> Result<()> {
    let what = || format!("cannot keep a picture of track {track}");
    let directory = directory(local, track);
    fs::create_dir_all(&directory).context(what)?;
    let staging = local.stage()?;
    let temporary = staging.dir().join("picture");
    let mut file = fs::File::create_new(&temporary).context(what)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).context(what)?;
    fs::rename(&temporary, directory.join(name)).context(what)
}

fn from_disk(local: &LocalStore, track: TrackId, name: &str) -> Result<Bytes> {
    let what = || format!("cannot read a picture of track {track}");
    let path = directory(local, track).join(name);
    let length = fs::metadata(&path).context(what)?.len();
    if length > BYTES_MAX {
        return Err(Error::invalid(format!("a picture of track {track} is larger than any we make")));
    }
    fs::read(&path).context(what).map(Bytes::from)
}

#[cfg(feature = "s3")]
mod remote {
    use super::*;
    use crate::store::objects::Meta;
    use crate::store::remote::RemoteStore;
    use crate::store::s3::Bucket;

    fn key(track: TrackId, name: &str) -> String {
        format!("artwork/{track}/{name}")
    }

    pub(super) fn put(store: &RemoteStore, track: TrackId, name: &str, bytes: &[u8]) -> Result<()> {
        let (key, bytes) = (key(track, name), Bytes::copy_from_slice(bytes));
        store.bucket().wait(move |bucket: Bucket| async move { bucket.put(&key, bytes, &Meta::of(&key)).await })
    }

    pub(super) fn get(store: &RemoteStore, track: TrackId, name: &str) -> Result<Bytes> {
        let key = key(track, name);
        store.bucket().wait(move |bucket: Bucket| async move { Ok(bucket.get_all(&key, BYTES_MAX).await?.0) })
    }

    pub(super) fn remove(store: &RemoteStore, track: TrackId, name: &str) -> Result<()> {
        let key = key(track, name);
        let gone = store.bucket().wait(move |bucket: Bucket| async move { bucket.delete(&key).await });
        match gone {
            Err(error) if error.kind() == Kind::NotFound => Ok(()),
            gone => gone,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_kept_read_and_removed_by_their_hash() {
        let dir = tempfile::tempdir().unwrap();
        let store: Store = LocalStore::open(dir.path()).unwrap().into();
        let track = TrackId::decode("trk_1").unwrap();
        let made: Vec<_> = SIZES.map(|size| (size, vec![size as u8; 10])).into();
        let hash = hash(&made);
        put(&store, track, &hash, &made).unwrap();
        assert_eq!(read(&store, track, &hash, 640).unwrap()[..], [640u32 as u8; 10]);
        let name = |size| format!("{hash}-{size}.jpg");
        assert_eq!(size_of(&name(1200), &hash), Some(1200));
        for wrong in
            [name(1201), format!("{hash}-0640.jpg"), "x".into(), format!("{hash}-640.png"), "../../blocks.json".into()]
        {
            assert_eq!(size_of(&wrong, &hash).filter(|_| wrong != name(640)), None, "{wrong}");
        }
        assert_eq!(size_of(&name(640), "00"), None);
        remove(&store, track, &hash).unwrap();
        remove(&store, track, &hash).unwrap();
        assert_eq!(read(&store, track, &hash, 640).unwrap_err().kind(), Kind::NotFound);
    }
}
