//! Lists of tracks, a page at a time.

use super::{PAGE_MAX, TrackRow, columns, track};
use crate::base::Result;
use crate::base::id::TrackId;
use crate::db::Db;
use crate::db::conn::args;
use crate::tracks::State;

/// Behind which track a page begins: ids do not sort, times do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// When it was made, in microseconds since 1970.
    pub created_us: i64,
    /// Which of those made at that instant.
    pub id: TrackId,
}

impl Cursor {
    /// As text that is safe in a URL.
    pub fn encode(&self) -> String {
        format!("{}.{}", self.created_us, self.id)
    }

    /// Reads what `encode` wrote.
    pub fn decode(text: &str) -> Option<Cursor> {
        let (created_us, id) = text.split_once('.')?;
        Some(Cursor { created_us: created_us.parse().ok()?, id: TrackId::decode(id)? })
    }
}

impl Db {
    /// The tracks of an owner, the latest first, without those that are deleted. One statement.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn tracks_of(
        &self,
        owner: &str,
        state: Option<State>,
        after: Option<Cursor>,
        limit: u32,
    ) -> Result<Vec<TrackRow>> {
        let mut tx = self.begin_read().await?;
        let sql = concat!(
            "select ",
            columns!(),
            " from track where owner = $1 and state <> 'deleted' and ($2 = '' or state = $2) and (created_us, id) < ($3, $4)
             order by created_us desc, id desc limit $5"
        );
        let (created_us, id) = match &after {
            None => (i64::MAX, ""),
            Some(cursor) => (cursor.created_us, cursor.id.as_str()),
        };
        let limit = i64::from(limit.clamp(1, PAGE_MAX));
        let rows = tx.all(sql, args![owner, state.map_or("", State::as_str), created_us, id, limit]).await?;
        rows.iter().map(track).collect()
    }
}
