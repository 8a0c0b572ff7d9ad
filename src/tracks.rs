//! The catalogue record of a track: which version it shows now. Until the database arrives the record
//! is a small document in the store, replaced atomically; its reader and writer are here.

use serde::{Deserialize, Serialize};

use crate::base::id::{TrackId, VersionId};
use crate::base::{Error, Result};
use crate::store::LocalStore;

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
    pub lossless: bool,
}

impl Track {
    /// Length in seconds, for people.
    pub fn duration_s(&self) -> f64 {
        self.samples as f64 / f64::from(self.rate.max(1))
    }
}

/// Reads a track. Blocks.
///
/// # Errors
/// `NotFound` when there is no such track; `Invalid` when its record cannot be read.
pub fn read(store: &LocalStore, id: TrackId) -> Result<Track> {
    let record = store.read_record(id)?;
    serde_json::from_slice(&record)
        .map_err(|cause| Error::invalid(format!("the record of track {id} cannot be read")).because(cause))
}

/// Writes a track, replacing what was there. Atomic and durable. Blocks.
///
/// # Errors
/// `Internal` when the disk refuses; the old record stays.
pub fn write(store: &LocalStore, track: &Track) -> Result<()> {
    let mut record = serde_json::to_vec_pretty(track).expect("plain data always serialises");
    record.push(b'\n');
    store.put_record(track.id, &record)
}
