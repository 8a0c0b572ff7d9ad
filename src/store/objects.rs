//! Objects by key, in a directory or in a bucket: one interface, one conformance suite (`tests/it/store.rs`).
//!
//! Keys are `/`-separated names of letters, digits, `-`, `_` and `.`; what begins with a dot is refused, so that no
//! key leads out of a directory. An object is whole or absent, whoever looks and whatever fails. Everything here blocks.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;

#[cfg(feature = "s3")]
use super::s3::Bucket;
use crate::base::error::Context as _;
use crate::base::{Error, Kind, Result, hex};

/// What an object is served with, should somebody read it straight from the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// `Content-Type`.
    pub content_type: &'static str,
    /// `Cache-Control`.
    pub cache_control: &'static str,
}

impl Meta {
    /// What a key says of its object: kind by its ending; what lies below `v/` never changes.
    pub fn of(key: &str) -> Meta {
        let content_type = match key.rsplit_once('.').map(|(_, ending)| ending) {
            Some("mp4") if key.rsplit('/').next().is_some_and(|name| name.starts_with("video")) => "video/mp4",
            Some("mp4" | "m4a") => "audio/mp4",
            Some("jpg") => "image/jpeg",
            Some("json") => "application/json",
            _ => "application/octet-stream",
        };
        let cache_control = match key.starts_with("v/") {
            true => "public, max-age=31536000, immutable",
            false => "no-cache",
        };
        Meta { content_type, cache_control }
    }
}

/// What is known of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Length in bytes.
    pub bytes: u64,
    /// Another one when the content is another.
    pub etag: String,
    /// When it was written, in seconds since 1970.
    pub modified_s: u64,
    /// `Content-Type`.
    pub content_type: String,
    /// `Cache-Control`.
    pub cache_control: String,
}

/// One object of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// When it was written, in seconds since 1970.
    pub modified_s: u64,
}

/// A part of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// By the bytes of their keys.
    pub objects: Vec<Listed>,
    /// The key after which the next page begins; `None` when this is the last.
    pub next: Option<String>,
}

/// Where objects are.
#[derive(Clone, Debug)]
pub enum Objects {
    /// Below a directory.
    Local(PathBuf),
    /// In a bucket.
    #[cfg(feature = "s3")]
    S3(Bucket),
}

impl Objects {
    /// Stores a file under `key`, replacing what was there. Durable when it returns.
    ///
    /// # Errors
    /// `Usage` for a key that is none; `Internal` or `Unavailable` when it cannot be stored: nothing is visible then.
    pub fn put_file(&self, key: &str, path: &Path) -> Result<()> {
        check(key)?;
        match self {
            Objects::Local(root) => {
                let what = || format!("cannot write {key}");
                let mut from = File::open(path).context(|| format!("cannot read {}", path.display()))?;
                write_whole(root, key, |to| std::io::copy(&mut from, to).map(drop)).context(what)
            }
            #[cfg(feature = "s3")]
            Objects::S3(bucket) => {
                let (key, path) = (key.to_owned(), path.to_owned());
                bucket.wait(move |bucket: Bucket| async move { bucket.put_file(&key, &path, &Meta::of(&key)).await })
            }
        }
    }

    /// Stores bytes under `key`, replacing what was there. Durable when it returns.
    ///
    /// # Errors
    /// As `put_file`.
    pub fn put(&self, key: &str, bytes: Bytes) -> Result<()> {
        check(key)?;
        match self {
            Objects::Local(root) => {
                write_whole(root, key, |to| to.write_all(&bytes)).context(|| format!("cannot write {key}"))
            }
            #[cfg(feature = "s3")]
            Objects::S3(bucket) => {
                let key = key.to_owned();
                bucket.wait(move |bucket: Bucket| async move { bucket.put(&key, bytes, &Meta::of(&key)).await })
            }
        }
    }

    /// Bytes `range` of an object, exactly.
    ///
    /// # Errors
    /// `NotFound` when there is no such object; else when it has no such bytes or cannot be read.
    pub fn get(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        check(key)?;
        match self {
            Objects::Local(root) => {
                let what = || format!("cannot read {key}");
                let file = File::open(root.join(key)).context(what)?;
                let mut bytes = vec![0; (range.end - range.start) as usize];
                file.read_exact_at(&mut bytes, range.start).context(what)?;
                Ok(bytes.into())
            }
            #[cfg(feature = "s3")]
            Objects::S3(bucket) => {
                let key = key.to_owned();
                bucket.wait(move |bucket: Bucket| async move { bucket.get(&key, range).await })
            }
        }
    }

    /// What is known of an object.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub fn stat(&self, key: &str) -> Result<Stat> {
        check(key)?;
        match self {
            Objects::Local(root) => {
                let found = fs::metadata(root.join(key)).context(|| format!("cannot look at {key}"))?;
                if !found.is_file() {
                    return Err(Error::not_found(format!("{key} is no object")));
                }
                let meta = Meta::of(key);
                Ok(Stat {
                    bytes: found.len(),
                    etag: format!("\"{:x}-{:x}-{:x}\"", found.ino(), found.len(), found.mtime_nsec()),
                    modified_s: u64::try_from(found.mtime()).unwrap_or(0),
                    content_type: meta.content_type.to_owned(),
                    cache_control: meta.cache_control.to_owned(),
                })
            }
            #[cfg(feature = "s3")]
            Objects::S3(bucket) => {
                let key = key.to_owned();
                bucket.wait(move |bucket: Bucket| async move { bucket.stat(&key).await })
            }
        }
    }

    /// Up to `max` objects, at most 1,000, whose keys begin with `prefix`, in the order of their bytes, after `after`.
    ///
    /// # Errors
    /// When the directory or the bucket cannot be read.
    pub fn list(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<Page> {
        let max = max.clamp(1, 1_000);
        match self {
            Objects::Local(root) => {
                let mut objects = Vec::new();
                walk(root, String::new(), prefix, &mut objects).context(|| format!("cannot list {prefix}"))?;
                objects.retain(|object| after.is_none_or(|after| *object.key > *after));
                objects.sort_by(|a, b| a.key.cmp(&b.key));
                let more = objects.len() > max;
                objects.truncate(max);
                let next = objects.last().filter(|_| more).map(|last| last.key.clone());
                Ok(Page { objects, next })
            }
            #[cfg(feature = "s3")]
            Objects::S3(bucket) => {
                let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
                bucket.wait(move |bucket: Bucket| async move { bucket.list(&prefix, after.as_deref(), max).await })
            }
        }
    }

    /// Removes an object; one that is not there is removed already.
    ///
    /// # Errors
    /// When the directory or the bucket refuses.
    pub fn delete(&self, key: &str) -> Result<()> {
        check(key)?;
        match self {
            Objects::Local(root) => match fs::remove_file(root.join(key)) {
                Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(()),
                removed => removed.context(|| format!("cannot remove {key}")),
            },
            #[cfg(feature = "s3")]
            Objects::S3(bucket) => {
                let key = key.to_owned();
                bucket.wait(move |bucket: Bucket| async move { bucket.delete(&key).await })
            }
        }
    }

    /// A URL by which anybody can read the object for a while.
    ///
    /// # Errors
    /// `Unavailable` for a directory, which has no URLs; `Usage` for a validity that S3 does not sign.
    pub fn presign_get(&self, key: &str, valid: Duration) -> Result<String> {
        check(key)?;
        match self {
            Objects::Local(_) if valid.is_zero() => Err(Error::usage("a URL that is valid for no time")),
            Objects::Local(_) => {
                Err(Error::new(Kind::Unavailable, format!("{key} lies in a directory: it has no URL")))
            }
            #[cfg(feature = "s3")]
            Objects::S3(bucket) => {
                let key = key.to_owned();
                bucket.wait(move |bucket: Bucket| async move { bucket.presign_get(&key, valid).await })
            }
        }
    }
}

/// Whether this is a key as the module has them.
///
/// # Errors
/// `Usage`, naming it.
pub fn check(key: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let sound = |name: &str| !name.is_empty() && !name.starts_with('.') && name.bytes().all(plain);
    match key.len() <= 512 && key.split('/').all(sound) {
        true => Ok(()),
        false => Err(Error::usage(format!("{key:?} is no key of an object"))),
    }
}

/// Writes beside and renames, so that a reader sees the old object or the new one.
fn write_whole(root: &Path, key: &str, write: impl FnOnce(&mut File) -> std::io::Result<()>) -> std::io::Result<()> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).expect("the operating system gives random bytes");
    let target = root.join(key);
    let parent = target.parent().expect("a key has a name");
    fs::create_dir_all(parent)?;
    let temporary = parent.join(format!(".{}.tmp", hex::encode(&random)));
    let write = || {
        let mut file = File::create_new(&temporary)?;
        write(&mut file)?;
        file.sync_all()?;
        fs::rename(&temporary, &target)?;
        File::open(parent)?.sync_all()
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&temporary); // it may not be there
    })
}

fn walk(dir: &Path, key: String, prefix: &str, found: &mut Vec<Listed>) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = if key.is_empty() { name.clone() } else { format!("{key}/{name}") };
        let leads_there = path.starts_with(prefix) || prefix.starts_with(&path);
        if name.starts_with('.') || !leads_there {
            continue;
        }
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => walk(&entry.path(), path, prefix, found)?,
            Ok(metadata) if path.starts_with(prefix) => found.push(Listed {
                key: path,
                bytes: metadata.len(),
                modified_s: u64::try_from(metadata.mtime()).unwrap_or(0),
            }),
            _ => {} // removed meanwhile
        }
    }
    Ok(())
}
