//! The versions that a track has shown, and may show again.

use super::Track;
use crate::base::id::{TrackId, VersionId};
use crate::base::{Error, Result};
use crate::db::Db;
use crate::db::conn::{Tx, args};

/// Versions in one list.
const VERSIONS_MAX: i64 = 200;

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
    /// The versions that a track has shown, the latest first.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn track_versions(&self, track: TrackId) -> Result<Vec<Version>> {
        let mut tx = self.begin_read().await?;
        let sql = "select version, bytes, samples, rate, flac, lossless, video, made_us from track_version
                   where track = $1 order by made_us desc, version limit $2";
        let rows = tx.all(sql, args![track.as_str(), VERSIONS_MAX]).await?;
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
