//! The catalogue record of a track: which version it shows now. It is a small document in the store, replaced
//! atomically, so that pages and origins need no database; its reader and writer are here. The database's row
//! (`db/tracks.rs`) is written with it and says more: whose the track is, how it stands, which store has it.

#[cfg(feature = "control")]
pub mod access;
#[cfg(feature = "control")]
pub mod dmca;
#[cfg(feature = "control")]
pub mod listener;
mod moves;
#[cfg(feature = "control")]
pub mod share;

use serde::{Deserialize, Serialize};

pub use moves::{after_job, when_shown};

use crate::base::id::{TrackId, VersionId};
use crate::base::{Error, Result};
use crate::store::Store;

/// The longest title in characters: more than any song's, less than a page.
pub const TITLE_CHARS_MAX: usize = 512;

/// What the control plane knows of a track.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Track {
    /// The track's id; stable over versions.
    pub id: TrackId,
    /// What people call it.
    pub title: String,
    /// The version that the stable alias points to.
    pub version: VersionId,
    /// Length of the source in samples.
    pub samples: u64,
    /// Sample rate of the source in Hz.
    pub rate: u32,
    /// Whether the version has a FLAC rung.
    #[serde(default)]
    pub flac: bool,
    /// Whether that rung decodes to the source bit by bit.
    pub lossless: bool,
    /// Whether there is a picture.
    #[serde(default)]
    pub video: bool,
}

impl Track {
    /// Length in seconds, for people.
    pub fn duration_s(&self) -> f64 {
        self.samples as f64 / f64::from(self.rate.max(1))
    }
}

/// How a track stands; `moves.rs` has the legal moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// There is a name and nothing to hear.
    Draft,
    /// Its source is here.
    Uploaded,
    /// It is being transcoded.
    Processing,
    /// It can be played, and waits for its owner.
    Ready,
    /// It is listed.
    Published,
    /// It can be played by who knows its address.
    Unlisted,
    /// It could not be made; `error` says why.
    Failed,
    /// A legal demand has closed it.
    Blocked,
    /// It is gone.
    Deleted,
}

/// Whether strangers may hear a track.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Visibility {
    /// They may.
    Public,
    /// For them it does not exist.
    Private,
}

/// A word for each, as the database has it, and back.
macro_rules! words {
    ($name:ident: $($variant:ident = $word:literal),*) => {
        impl $name {
            /// As the database has it.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word),* }
            }
        }
        impl std::str::FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<$name> {
                match text {
                    $($word => Ok($name::$variant),)*
                    _ => Err(Error::invalid(format!("{text:?} is no {} of a track", stringify!($name)))),
                }
            }
        }
    };
}
words!(State: Draft = "draft", Uploaded = "uploaded", Processing = "processing", Ready = "ready",
    Published = "published", Unlisted = "unlisted", Failed = "failed", Blocked = "blocked", Deleted = "deleted");
words!(Visibility: Public = "public", Private = "private");

/// Checks what somebody wants a track to be called.
///
/// # Errors
/// `Usage` when it is empty, too long or has characters that are not text.
pub fn check_title(title: &str) -> Result<()> {
    let count = title.chars().count();
    if title.trim().is_empty() || count > TITLE_CHARS_MAX {
        return Err(Error::usage(format!(
            "a title has 1 to {TITLE_CHARS_MAX} characters, this one has {count}; choose another"
        )));
    }
    if title.contains(char::is_control) {
        return Err(Error::usage("a title has no line breaks and no control characters; leave them out"));
    }
    Ok(())
}

/// Reads a track. Blocks.
///
/// # Errors
/// `NotFound` when there is no such track; `Invalid` when its record cannot be read.
pub fn read(store: &Store, id: TrackId) -> Result<Track> {
    let record = store.read_record(id)?;
    serde_json::from_slice(&record)
        .map_err(|cause| Error::invalid(format!("the record of track {id} cannot be read")).because(cause))
}

/// Writes a track, replacing what was there. Atomic and durable. Blocks.
///
/// # Errors
/// `Internal` when the disk refuses; the old record stays.
pub fn write(store: &Store, track: &Track) -> Result<()> {
    store.put_record(track.id, &encode(track))
}

/// Writes a track that has no record; says whether it did. Atomic and durable. Blocks.
///
/// # Errors
/// `Internal` when the disk refuses.
pub fn write_first(store: &Store, track: &Track) -> Result<bool> {
    store.put_first_record(track.id, &encode(track))
}

/// Removes the record of a track if it shows this version; says whether it did. Blocks.
///
/// # Errors
/// `Internal` when the disk refuses.
pub fn remove_if_shows(store: &Store, id: TrackId, version: VersionId) -> Result<bool> {
    let shows = |record: &[u8]| serde_json::from_slice(record).is_ok_and(|track: Track| track.version == version);
    store.remove_record_if(id, &shows)
}

fn encode(track: &Track) -> Vec<u8> {
    let mut record = serde_json::to_vec_pretty(track).expect("plain data always serialises");
    record.push(b'\n');
    record
}
