//! Tidies for everybody: leases that nobody renews, uploads that nobody goes on with, what ended long ago, what
//! attempts that were killed left in the store, tracks that were published without the database. One process at a time
//! holds the lease of the same name; when it dies another takes over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::counter;
use tokio::time::MissedTickBehavior;

use crate::base::Result;
use crate::base::clock::Clock;
use crate::base::shutdown::{Phase, Shutdown};
use crate::base::telemetry;
use crate::catalogue;
use crate::db::Db;
use crate::intake::Intake;
use crate::jobs::Reason;
use crate::jobs::backoff::Backoff;
use crate::store::Store;

/// The singleton's name.
const NAME: &str = "janitor";
/// How often old jobs and old attempts are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);

/// How to tidy.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How often. The singleton is kept for three times as long.
    pub every: Duration,
    /// When a job that lost its worker is tried again.
    pub backoff: Backoff,
    /// How long a job that ended is remembered.
    pub keep: Duration,
}

/// Tidies until the process drains.
pub async fn run(
    (db, store, intake): (Db, Store, Arc<Intake>),
    options: Options,
    clock: Clock,
    name: String,
    mut shutdown: Shutdown,
) {
    let mut ticks = tokio::time::interval(options.every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut swept: Option<Instant> = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.reached(Phase::Draining) => break,
        }
        match tidy((&db, &store, &intake), options, &clock, &name, &mut swept).await {
            Ok(()) => {}
            Err(error) => tracing::warn!(error = error.chain(), "cannot tidy the queue; trying again"),
        }
    }
    let _ = db.release(&name).await; // or its term ends
}

async fn tidy(
    (db, store, intake): (&Db, &Store, &Intake),
    options: Options,
    clock: &Clock,
    name: &str,
    swept: &mut Option<Instant>,
) -> Result<()> {
    let now_us = clock.unix_us();
    if !db.hold(NAME, name, now_us, now_us + 3 * options.every.as_micros() as i64).await? {
        return Ok(());
    }
    for (job, state) in db.expire(options.backoff, now_us).await? {
        counter!(telemetry::JOB_FAILURES, "reason" => Reason::Lost.as_str()).increment(1);
        tracing::warn!(job = job.as_str(), state = state.as_str(), "its worker was not heard of any more");
    }
    let expired = intake.tidy().await?;
    if expired > 0 {
        tracing::info!(uploads = expired, "ended uploads that nobody went on with");
    }
    if swept.is_none_or(|at| at.elapsed() >= SWEEP_EVERY) {
        *swept = Some(Instant::now());
        let (store, store_of_import) = (store.clone(), store.clone());
        match tokio::task::spawn_blocking(move || store.sweep()).await {
            Ok(Ok(0)) => {}
            Ok(Ok(attempts)) => tracing::info!(attempts, "removed what interrupted attempts left in staging"),
            Ok(Err(error)) => tracing::warn!(error = error.chain(), "cannot sweep the store"),
            Err(cause) => tracing::error!(%cause, "sweeping the store panicked"),
        }
        match intake.sweep_orphans().await {
            Ok(0) => {}
            Ok(parts) => tracing::info!(parts, "took back uploads in parts that nothing knows"),
            Err(error) => tracing::warn!(error = error.chain(), "cannot look for uploads in parts"),
        }
        // Beside, because a large store takes minutes; it is not joined: it can be broken off anywhere, and says itself
        // how it went.
        tokio::spawn(import(db.clone(), store_of_import, clock.clone()));
        let before_us = now_us - options.keep.as_micros() as i64;
        let mut gone = 0;
        loop {
            match db.forget(before_us).await? + db.forget_uploads(before_us).await? {
                0 => break,
                more => gone += more,
            }
            tokio::time::sleep(Duration::from_millis(100)).await; // others write too
        }
        gone += db.forget_purges(before_us).await?;
        if gone > 0 {
            tracing::info!(rows = gone, "forgot jobs, uploads and purges that ended long ago");
        }
    }
    Ok(())
}

async fn import(db: Db, store: Store, clock: Clock) {
    match catalogue::import(&db, &store, &clock).await {
        Ok(done) if done.written > 0 => tracing::info!(tracks = done.written, "took tracks into the catalogue"),
        Ok(_) => {}
        Err(error) => {
            tracing::warn!(error = error.chain(), "cannot take tracks into the catalogue; trying again later");
        }
    }
}
