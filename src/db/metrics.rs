//! How the queue stands, for gauges.

use super::{Db, args};
use crate::base::Result;
use crate::jobs::State;

/// How the queue stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standing {
    /// Jobs whose time has come, by priority: how many, and since when the oldest waits, in microseconds since 1970.
    pub queued: Vec<(u8, i64, i64)>,
    /// Jobs that run, anywhere.
    pub running: i64,
    /// Jobs that need a person.
    pub dead: i64,
    /// Callbacks that wait.
    pub deliveries: i64,
}

impl Db {
    /// How the queue stands at `now_us`.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn standing(&self, now_us: i64) -> Result<Standing> {
        let mut tx = self.begin_read().await?;
        let mut standing = Standing::default();
        let queued = tx
            .all(
                "select priority, count(*) as jobs, min(run_at_us) as since_us from job
                 where state = 'queued' and run_at_us <= $1 group by priority order by priority limit 10",
                args![now_us],
            )
            .await?;
        for row in queued {
            standing.queued.push((row.int("priority")? as u8, row.int("jobs")?, row.int("since_us")?));
        }
        let count = "select count(*) as jobs from job where state = $1";
        let mut of = async |state: State| -> Result<i64> {
            tx.first(count, args![state.as_str()]).await?.map_or(Ok(0), |row| row.int("jobs"))
        };
        standing.running = of(State::Leased).await?;
        standing.dead = of(State::Dead).await?;
        let waiting = tx.first("select count(*) as waiting from delivery where state = 'pending'", args![]).await?;
        standing.deliveries = waiting.map_or(Ok(0), |row| row.int("waiting"))?;
        Ok(standing)
    }
}
