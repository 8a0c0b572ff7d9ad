//! What happened to a track, for those who watch it: its own moves, and the events of the job that makes a version.

use serde_json::{Value, json};

use super::change::advance;
use crate::base::Result;
use crate::base::id::TrackId;
use crate::db::Db;
use crate::db::conn::{Tx, args};
use crate::jobs::{Event, JobId};
use crate::tracks::{State, after_job};

/// Events in one answer.
const PAGE_MAX: u32 = 500;

impl Db {
    /// What happened to a track after event `after`, oldest first.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn track_events(&self, id: TrackId, after: i64, limit: u32) -> Result<Vec<Event>> {
        let mut tx = self.begin_read().await?;
        let sql = "select seq, at_us, event, body from track_event where track = $1 and seq > $2 order by seq limit $3";
        let rows = tx.all(sql, args![id.as_str(), after, i64::from(limit.clamp(1, PAGE_MAX))]).await?;
        rows.iter().map(crate::db::jobs::event).collect()
    }
}

/// Writes down what happened to a track whose row the caller has written or locked in the same transaction: that keeps
/// the numbers of two writers apart.
pub(super) async fn note(tx: &mut Tx, id: &str, event: &str, body: &Value, now_us: i64) -> Result<()> {
    tx.execute(
        "insert into track_event (track, seq, at_us, event, body)
         select $1, coalesce(max(seq), 0) + 1, $2, $3, $4 from track_event where track = $1",
        args![id, now_us, event, &body.to_string()],
    )
    .await
    .map(drop)
}

/// Writes down a move.
pub(super) async fn moved(
    tx: &mut Tx,
    id: &str,
    (from, to): (State, State),
    error: Option<&str>,
    now_us: i64,
) -> Result<()> {
    note(tx, id, "state", &json!({ "from": from, "to": to, "error": error }), now_us).await
}

/// What is wrong with a source, without where it lies on our disk.
fn for_owners(error: &str) -> &str {
    let what = error.strip_prefix("cannot transcode ").and_then(|rest| rest.split_once(": "));
    what.map_or(error, |(_, why)| why)
}

/// Lets the track of a job follow what happened to the job, in the transaction that writes it down.
///
/// # Errors
/// When the database refuses.
pub(in crate::db) async fn follow(tx: &mut Tx, job: &JobId, event: &str, body: &Value, now_us: i64) -> Result<()> {
    // Not a change: the row is locked until the transaction ends.
    let sql = "update track set updated_us = updated_us where job = $1 and state <> 'deleted'
               returning id, state, blocked_from, publish_when_ready";
    let Some(row) = tx.first(sql, args![job.as_str()]).await? else { return Ok(()) };
    let id = row.text("id")?;
    note(tx, &id, event, body, now_us).await?;
    let state: State = row.text("state")?.parse()?;
    if let Some(from) = row.text_or_null("blocked_from")? {
        // Of a blocked track it is what it returns to that moves on.
        if let Some(next) = after_job(event, from.parse()?) {
            let sql = "update track set blocked_from = $2 where id = $1";
            tx.execute(sql, args![&id, next.as_str()]).await?;
        }
        return Ok(());
    }
    let Some(next) = after_job(event, state) else { return Ok(()) };
    let why = match event {
        "cancelled" => Some("its transcode was cancelled"),
        _ => body["error"].as_str().map(for_owners),
    };
    advance(tx, &id, (state, next), why.filter(|_| next == State::Failed), now_us).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_told_what_is_wrong_and_not_where_it_lies() {
        let error = "cannot transcode /srv/data/uploads/upl_1: truncated or damaged: upload the file again";
        assert_eq!(for_owners(error), "truncated or damaged: upload the file again");
        assert_eq!(for_owners("it stood still for 60 s"), "it stood still for 60 s");
    }
}
