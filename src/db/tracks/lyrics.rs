//! The words of a track.

use crate::base::Result;
use crate::base::id::TrackId;
use crate::db::Db;
use crate::db::conn::args;

/// The words of a track.
#[derive(Clone, Debug, PartialEq)]
pub struct Lyrics {
    /// Plain, or with a time before each line (LRC).
    pub text: String,
    /// Whether it has times.
    pub synced: bool,
    /// BCP 47.
    pub language: Option<String>,
    /// When they were written, in microseconds since 1970.
    pub updated_us: i64,
}

impl Db {
    /// The words of a track.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn lyrics(&self, id: TrackId) -> Result<Option<Lyrics>> {
        let mut tx = self.begin_read().await?;
        let sql = "select text, synced, language, updated_us from lyrics where track = $1";
        let Some(row) = tx.first(sql, args![id.as_str()]).await? else { return Ok(None) };
        Ok(Some(Lyrics {
            text: row.text("text")?,
            synced: row.int("synced")? != 0,
            language: row.text_or_null("language")?,
            updated_us: row.int("updated_us")?,
        }))
    }

    /// Writes the words of a track that exists, over those it had; `None`: it has none any more.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn set_lyrics(&self, id: TrackId, lyrics: Option<&Lyrics>) -> Result<()> {
        let mut tx = self.begin().await?;
        match lyrics {
            None => tx.execute("delete from lyrics where track = $1", args![id.as_str()]).await?,
            Some(lyrics) => {
                tx.execute(
                    "insert into lyrics (track, text, synced, language, updated_us) values ($1, $2, $3, $4, $5)
                     on conflict (track) do update set text = excluded.text, synced = excluded.synced,
                       language = excluded.language, updated_us = excluded.updated_us",
                    args![
                        id.as_str(),
                        &lyrics.text,
                        i64::from(lyrics.synced),
                        lyrics.language.as_deref(),
                        lyrics.updated_us
                    ],
                )
                .await?
            }
        };
        tx.commit().await
    }
}
