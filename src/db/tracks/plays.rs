//! Plays, counted by day.

use crate::base::id::TrackId;
use crate::base::{Result, hex};
use crate::db::Db;
use crate::db::conn::args;
use crate::tracks::listener;

/// How long a listener is remembered, in microseconds: two days, longer than any playback lasts.
const REMEMBERED_US: i64 = 2 * 86_400_000_000;

/// How a track is heard.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// Plays since it was first heard.
    pub plays: i64,
    /// By day, the latest first; days without a play are not here.
    pub days: Vec<Day>,
}

/// One day of a track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Day {
    /// Since 1970, UTC.
    pub day: i64,
    /// Plays that began on it.
    pub plays: i64,
    /// Listeners, each counted once.
    pub listeners: i64,
}

impl Db {
    /// The salt of the names of listeners of a day; made by whoever asks first.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn play_salt(&self, day: i64) -> Result<String> {
        let mut random = [0u8; 32];
        getrandom::fill(&mut random).expect("the operating system gives random bytes");
        let mut tx = self.begin().await?;
        let sql = "insert into play_salt (day, salt) values ($1, $2)
                   on conflict (day) do update set salt = play_salt.salt returning salt";
        let row = tx.first(sql, args![day, &hex::encode(&random)]).await?;
        let salt = row.map(|row| row.text("salt")).transpose()?.unwrap_or_default();
        tx.commit().await?;
        Ok(salt)
    }

    /// Counts a play, unless this listener's last one of this track was not over yet; says whether it did. Looks before
    /// it writes: most requests are ranges of a play that is counted.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn count_play(&self, track: TrackId, name: &str, playback_us: i64, now_us: i64) -> Result<bool> {
        let id = track.as_str();
        let mut tx = self.begin_read().await?;
        let sql = "select last_us, day from play_listener where track = $1 and listener = $2";
        let known = tx.first(sql, args![id, name]).await?;
        drop(tx);
        if let Some(row) = &known
            && now_us < row.int("last_us")? + playback_us
        {
            return Ok(false);
        }
        let day = listener::day(now_us);
        let mut tx = self.begin().await?;
        // Of many at once one changes the row: the others find it changed.
        let counted = tx
            .execute(
                "insert into play_listener (track, listener, last_us, day) values ($1, $2, $3, $4)
                 on conflict (track, listener) do update set last_us = excluded.last_us, day = excluded.day
                 where play_listener.last_us <= $5",
                args![id, name, now_us, day, now_us - playback_us],
            )
            .await?;
        if counted == 0 {
            return Ok(false);
        }
        let heard_today = known.map(|row| row.int("day")).transpose()? == Some(day);
        tx.execute(
            "insert into play_day (track, day, plays, listeners) values ($1, $2, 1, $3)
             on conflict (track, day) do update set plays = play_day.plays + 1,
               listeners = play_day.listeners + excluded.listeners",
            args![id, day, i64::from(!heard_today)],
        )
        .await?;
        tx.commit().await?;
        Ok(true)
    }

    /// How a track was heard since a day.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn track_stats(&self, track: TrackId, since_day: i64) -> Result<Stats> {
        let mut tx = self.begin_read().await?;
        let sql = "select cast(coalesce(sum(plays), 0) as bigint) as plays from play_day where track = $1";
        let plays = tx.first(sql, args![track.as_str()]).await?.map_or(Ok(0), |row| row.int("plays"))?;
        let sql =
            "select day, plays, listeners from play_day where track = $1 and day >= $2 order by day desc limit 400";
        let rows = tx.all(sql, args![track.as_str(), since_day]).await?;
        let one = |row: &crate::db::conn::Row| {
            Ok(Day { day: row.int("day")?, plays: row.int("plays")?, listeners: row.int("listeners")? })
        };
        Ok(Stats { plays, days: rows.iter().map(one).collect::<Result<_>>()? })
    }

    /// Forgets listeners of days that are over, and what their names were made with; says how many.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn forget_listeners(&self, now_us: i64) -> Result<u64> {
        let before_us = now_us - REMEMBERED_US;
        let mut tx = self.begin().await?;
        let gone = tx.execute("delete from play_listener where last_us < $1", args![before_us]).await?;
        tx.execute("delete from play_salt where day < $1", args![listener::day(before_us)]).await?;
        tx.commit().await?;
        Ok(gone)
    }
}
