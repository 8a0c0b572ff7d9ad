//! What is left of each limit, shared by all nodes: one statement takes, so that no two takes see the same rest.

use super::conn::args;
use super::{Db, Tx};
use crate::auth::throttle::{Limit, Shape, Taken};
use crate::base::{Error, Result};

const SECOND: i64 = 1_000_000;
/// Rows that one look of the janitor removes.
const BATCH: i64 = 1_000;

impl Db {
    /// Takes up to `wanted` from a limit; fewer, or none, when there are not so many.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn take(&self, limit: &Limit, wanted: i64, now_us: i64) -> Result<Taken> {
        let mut tx = self.begin().await?;
        let taken = match limit.shape {
            Shape::Rate { per_minute, burst } => rate(&mut tx, limit, (per_minute, burst), wanted, now_us).await?,
            Shape::Quota { most, window_s } => quota(&mut tx, limit, (most, window_s * SECOND), wanted, now_us).await?,
            Shape::Brake { .. } => brake(&mut tx, limit, now_us).await?,
        };
        tx.commit().await?;
        Ok(taken)
    }

    /// Forgets what was taken: who proves who they are was not guessing.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn forgive(&self, limit: &Limit) -> Result<()> {
        let mut tx = self.begin().await?;
        tx.execute("delete from rate_limit where bucket = $1", args![&limit.bucket()]).await?;
        tx.commit().await
    }

    /// Removes rows that say nothing any more; says how many.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn sweep_limits(&self, now_us: i64) -> Result<u64> {
        let mut tx = self.begin().await?;
        let swept = tx
            .execute(
                "delete from rate_limit where bucket in (select bucket from rate_limit where expires_us < $1 limit $2)",
                args![now_us, BATCH],
            )
            .await?;
        tx.commit().await?;
        Ok(swept)
    }
}

/// The generic cell rate algorithm: `mark_us` is when all of the burst is there again. Each unit moves it by its share of
/// a minute; what would move it further ahead than the burst is not granted. A mark that is further ahead was made by a
/// clock that was wrong, and counts as one that is just so far ahead; so it is with the other shapes.
async fn rate(tx: &mut Tx, limit: &Limit, (per_minute, burst): (i64, i64), wanted: i64, now_us: i64) -> Result<Taken> {
    let unit_us = 60 * SECOND / per_minute.max(1);
    let span_us = unit_us * burst;
    let first = wanted.min(burst);
    let row = tx
        .first(
            "insert into rate_limit (bucket, mark_us, used, wait_us, granted, expires_us)
             values ($1, $2 + $3 * $4, 0, 0, $3, $2 + $5)
             on conflict (bucket) do update set
               granted = case
                 when rate_limit.mark_us <= $2 then $3
                 when ($2 + $5 - rate_limit.mark_us) / $4 >= $3 then $3
                 when rate_limit.mark_us >= $2 + $5 then 0
                 else ($2 + $5 - rate_limit.mark_us) / $4 end,
               mark_us = case
                 when rate_limit.mark_us <= $2 then $2 + $3 * $4
                 when ($2 + $5 - rate_limit.mark_us) / $4 >= $3 then rate_limit.mark_us + $3 * $4
                 when rate_limit.mark_us >= $2 + $5 then $2 + $5
                 else rate_limit.mark_us + ($2 + $5 - rate_limit.mark_us) / $4 * $4 end,
               expires_us = $2 + $5
             returning mark_us, granted",
            args![&limit.bucket(), now_us, first, unit_us, span_us],
        )
        .await?;
    let row = row.ok_or_else(|| Error::internal("a limit was not written"))?;
    let (mark_us, granted) = (row.int("mark_us")?, row.int("granted")?);
    let left = (now_us + span_us - mark_us).max(0) / unit_us;
    // What is missing to the next unit.
    let wait_us = (mark_us + unit_us - span_us - now_us).max(0);
    Ok(Taken { granted, left, wait_us: if left > 0 { unit_us } else { wait_us.max(1) } })
}

/// So many in a window that begins with its first use.
async fn quota(tx: &mut Tx, limit: &Limit, (most, window_us): (i64, i64), wanted: i64, now_us: i64) -> Result<Taken> {
    let first = wanted.min(most);
    let row = tx
        .first(
            "insert into rate_limit (bucket, mark_us, used, wait_us, granted, expires_us)
             values ($1, $2, $3, 0, $3, $2 + $5)
             on conflict (bucket) do update set
               granted = case
                 when rate_limit.mark_us + $5 <= $2 then $3
                 when $4 - rate_limit.used >= $3 then $3
                 when rate_limit.used >= $4 then 0
                 else $4 - rate_limit.used end,
               used = case
                 when rate_limit.mark_us + $5 <= $2 then $3
                 when $4 - rate_limit.used >= $3 then rate_limit.used + $3
                 when rate_limit.used >= $4 then rate_limit.used
                 else $4 end,
               mark_us = case
                 when rate_limit.mark_us + $5 <= $2 or rate_limit.mark_us > $2 then $2
                 else rate_limit.mark_us end,
               expires_us = case
                 when rate_limit.mark_us + $5 <= $2 or rate_limit.mark_us > $2 then $2 + $5
                 else rate_limit.expires_us end
             returning mark_us, used, granted",
            args![&limit.bucket(), now_us, first, most, window_us],
        )
        .await?;
    let row = row.ok_or_else(|| Error::internal("a limit was not written"))?;
    let (mark_us, used) = (row.int("mark_us")?, row.int("used")?);
    Ok(Taken {
        granted: row.int("granted")?,
        left: (most - used).max(0),
        wait_us: (mark_us + window_us - now_us).max(1),
    })
}

/// Some are free, then each waits twice as long as the one before. A try that comes too early changes nothing: whoever
/// only repeats it does not make its owner wait longer.
async fn brake(tx: &mut Tx, limit: &Limit, now_us: i64) -> Result<Taken> {
    let Shape::Brake { free, first_s, most_s, forget_s } = limit.shape else {
        return Err(Error::internal("a limit that is no brake"));
    };
    let row = tx
        .first(
            "insert into rate_limit (bucket, mark_us, used, wait_us, granted, expires_us)
             values ($1, $2, 1, 0, 1, $2 + $6)
             on conflict (bucket) do update set
               granted = case when rate_limit.mark_us <= $2 or rate_limit.expires_us <= $2 then 1 else 0 end,
               used = case
                 when rate_limit.expires_us <= $2 then 1
                 when rate_limit.mark_us <= $2 then rate_limit.used + 1
                 else rate_limit.used end,
               wait_us = case
                 when rate_limit.expires_us <= $2 then 0
                 when rate_limit.mark_us > $2 or rate_limit.used + 1 < $3 then rate_limit.wait_us
                 when rate_limit.wait_us = 0 then $4
                 when rate_limit.wait_us * 2 > $5 then $5
                 else rate_limit.wait_us * 2 end,
               mark_us = case
                 when rate_limit.expires_us <= $2 then $2
                 when rate_limit.mark_us > $2 + rate_limit.wait_us then $2 + rate_limit.wait_us
                 when rate_limit.mark_us > $2 then rate_limit.mark_us
                 when rate_limit.used + 1 < $3 then $2
                 when rate_limit.wait_us = 0 then $2 + $4
                 when rate_limit.wait_us * 2 > $5 then $2 + $5
                 else $2 + rate_limit.wait_us * 2 end,
               expires_us = case
                 when rate_limit.mark_us > $2 and rate_limit.expires_us > $2 and rate_limit.expires_us <= $2 + $6
                   then rate_limit.expires_us
                 else $2 + $6 end
             returning mark_us, used, granted",
            args![&limit.bucket(), now_us, free, first_s * SECOND, most_s * SECOND, forget_s * SECOND],
        )
        .await?;
    let row = row.ok_or_else(|| Error::internal("a limit was not written"))?;
    let (mark_us, used) = (row.int("mark_us")?, row.int("used")?);
    Ok(Taken { granted: row.int("granted")?, left: (free - used).max(0), wait_us: (mark_us - now_us).max(0) })
}
