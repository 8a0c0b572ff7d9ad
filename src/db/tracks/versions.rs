//! The versions that a track has shown, and may show again.

use super::Track;
use crate::base::id::{TrackId, VersionId};
use crate::base::{Error, Result};
use crate::db::Db;
use crate::db::conn::{Tx, args};

/// A version that a track has shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Version {
    /// Its id.
    pub id: VersionId,
    /// Bytes of all its objects.
    pub bytes: Option<i64>,
    /// Length of its source in samples.
    pub samples: i64,
    /// Sample rate of its source in Hz.
    pub rate: i64,
    /// Whether it has a FLAC rung.
    pub flac: bool,
    /// Whether that decodes to the source.
    pub lossless: bool,
    /// Whether it has a picture.
    pub video: bool,
    /// When it was first shown, in microseconds since 1970.
    pub made_us: i64,
}

/// Remembers that a track shows a version.
pub(super) async fn keep(tx: &mut Tx, track: &Track, bytes: Option<u64>, now_us: i64) -> Result<()> {
    tx.execute(
        "insert into track_version (track, version, bytes, samples, rate, flac, lossless, video, made_us)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9) on conflict (track, version) do nothing",
        args![
            track.id.as_str(),
            &track.version.to_string(),
            bytes.map(|bytes| bytes as i64),
            track.samples as i64,
            i64::from(track.rate),
            i64::from(track.flac || track.lossless),
            i64::from(track.lossless),
            i64::from(track.video),
            now_us
        ],
    )
    .await
    .map(drop)
}

impl Db {
    /// Whether a track has shown this version.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn has_shown(&self, track: TrackId, version: VersionId) -> Result<bool> {
        let mut tx = self.begin_read().await?;
        let sql = "select 1 as here from track_version where track = $1 and version = $2";
        Ok(tx.first(sql, args![track.as_str(), &version.to_string()]).await?.is_some())
    }

    /// The versions that a track has shown, the latest first, behind one of them.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn track_versions(&self, track: TrackId, before: Option<VersionId>, limit: u32) -> Result<Vec<Version>> {
        let mut tx = self.begin_read().await?;
        let before = before.map_or_else(String::new, |version| version.to_string());
        let sql = "select version, bytes, samples, rate, flac, lossless, video, made_us from track_version
                   where track = $1 and ($2 = '' or exists (
                     select 1 from track_version last where last.track = $1 and last.version = $2
                     and (track_version.made_us < last.made_us
                       or track_version.made_us = last.made_us and track_version.version > last.version)))
                   order by made_us desc, version limit $3";
        let rows = tx.all(sql, args![track.as_str(), &before, i64::from(limit)]).await?;
        let one = |row: &crate::db::conn::Row| {
            Ok(Version {
                id: VersionId::decode(&row.text("version")?)
                    .ok_or_else(|| Error::internal(format!("track {track} has a version without an id")))?,
                bytes: row.int_or_null("bytes")?,
                samples: row.int("samples")?,
                rate: row.int("rate")?,
                flac: row.int("flac")? != 0,
                lossless: row.int("lossless")? != 0,
                video: row.int("video")? != 0,
                made_us: row.int("made_us")?,
            })
        };
        rows.iter().map(one).collect()
    }
}
