//! Tidies for everybody: leases that nobody renews, uploads that nobody goes on with, what ended long ago, what
//! attempts that were killed left in the store, tracks that were published without the database. One process at a time
//! holds the lease of the same name; when it dies another takes over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::counter;

use crate::base::clock::Clock;
use crate::base::shutdown::Shutdown;
use crate::base::telemetry;
use crate::base::{Error, Result};
use crate::catalogue;
use crate::db::Db;
use crate::intake::Intake;
use crate::jobs::backoff::Backoff;
use crate::jobs::{JobId, Reason, State};
use crate::publish;
use crate::store::Store;
use crate::workers::supervisor::{Duty, Turns};

/// How often old jobs and old attempts are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);
/// How long the bytes of a deleted track stay: whoever listens goes on to the end.
const DELETED_KEPT: Duration = Duration::from_secs(24 * 3600);
/// How often first rungs are looked for that were replaced, or that nobody will replace any more.
const INTERIM_EVERY: Duration = Duration::from_secs(300);
/// How often what accounts leave behind is looked for.
const ACCOUNTS_EVERY: Duration = Duration::from_secs(60);

/// How long a process is shown that was not heard of any more, in microseconds: a day.
const DAY_US: i64 = 86_400_000_000;

/// How to tidy.
#[derive(Clone, Copy, Debug)]
pub struct Options {
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
    node: String,
    (duty, shutdown): (Duty, Shutdown),
) {
    let mut turns = Turns::alone(duty.clone(), shutdown, (db.clone(), node));
    let mut swept = Swept::default();
    while turns.next().await {
        let done = tidy((&db, &store, &intake), options, &clock, &duty, &mut swept).await;
        duty.ended(&done);
        if let Err(error) = done {
            tracing::warn!(error = error.chain(), "cannot tidy the queue; trying again");
        }
    }
}

/// When what was last looked for.
#[derive(Default)]
struct Swept {
    attempts: Option<Instant>,
    accounts: Option<Instant>,
    interims: Option<Instant>,
}

/// Whether it is time again.
fn due(last: &mut Option<Instant>, every: Duration) -> bool {
    let due = last.is_none_or(|at| at.elapsed() >= every);
    if due {
        *last = Some(Instant::now());
    }
    due
}

/// Removes first rungs that whole versions have replaced, and those of jobs that will not be finished: their workers
/// died, or somebody cancelled them while they waited for another attempt.
async fn interims(db: &Db, store: &Store) -> Result<()> {
    let looked = store.clone();
    let shown = blocking(move || {
        publish::sweep_interim(&looked, publish::INTERIM_KEPT)?;
        publish::shown_interims(&looked)
    });
    for interim in shown.await?.into_iter().filter(|interim| !interim.owner.is_empty()) {
        let job = match JobId::decode(&interim.owner) {
            Some(id) => db.job(&id).await?,
            None => None,
        };
        // One that nobody knows may be another database's.
        if job.is_none_or(|job| !job.state.is_final() || job.state == State::Succeeded) {
            continue;
        }
        let (track, store) = (interim.track, store.clone());
        blocking(move || publish::withdraw(&store, interim.track, interim.version)).await?;
        tracing::info!(track = track.as_str(), job = interim.owner, "took back the first rung of a job that ended");
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|cause| Error::internal("a task panicked").because(cause))?
}

async fn tidy(
    (db, store, intake): (&Db, &Store, &Intake),
    options: Options,
    clock: &Clock,
    duty: &Duty,
    swept: &mut Swept,
) -> Result<()> {
    let now_us = clock.unix_us();
    // What one part cannot do is said, and the other parts are done all the same.
    let cannot = |error: &Error, what: &'static str| {
        duty.failed(error);
        tracing::warn!(error = error.chain(), "{what}");
    };
    for (job, state) in db.expire(options.backoff, now_us).await? {
        counter!(telemetry::JOB_ATTEMPTS, "outcome" => "lost").increment(1);
        counter!(telemetry::JOB_FAILURES, "reason" => Reason::Lost.as_str()).increment(1);
        tracing::warn!(job = job.as_str(), state = state.as_str(), "its worker was not heard of any more");
        if state.is_final() {
            swept.interims = None; // it may have shown a first rung
        }
    }
    match catalogue::restore_due((db, store), now_us).await {
        Ok(0) => {}
        Ok(tracks) => tracing::info!(tracks, "put back tracks whose notices were disputed, and no court was asked"),
        Err(error) => cannot(&error, "cannot look for notices whose clock has run"),
    }
    let expired = intake.tidy().await?;
    if expired > 0 {
        tracing::info!(uploads = expired, "ended uploads that nobody went on with");
    }
    if due(&mut swept.interims, INTERIM_EVERY)
        && let Err(error) = interims(db, store).await
    {
        cannot(&error, "cannot look for first rungs that are not wanted any more");
    }
    if due(&mut swept.accounts, ACCOUNTS_EVERY) {
        let ended_before_us = now_us - options.keep.as_micros() as i64;
        // Each look takes some rows; what is left is there at the next.
        let gone = db.sweep_limits(now_us).await? + db.sweep_accounts(now_us, ended_before_us).await?;
        let gone = gone + db.sweep_mails(ended_before_us).await?;
        if gone > 0 {
            tracing::debug!(rows = gone, "forgot limits, tokens, sessions and mails that say nothing any more");
        }
    }
    if due(&mut swept.attempts, SWEEP_EVERY) {
        match catalogue::remove_deleted(db, store, now_us - DELETED_KEPT.as_micros() as i64).await {
            Ok(0) => {}
            Ok(tracks) => tracing::info!(tracks, "removed the bytes of deleted tracks"),
            Err(error) => cannot(&error, "cannot remove the bytes of deleted tracks"),
        }
        let (store, store_of_import) = (store.clone(), store.clone());
        match tokio::task::spawn_blocking(move || store.sweep()).await {
            Ok(Ok(0)) => {}
            Ok(Ok(attempts)) => tracing::info!(attempts, "removed what interrupted attempts left in staging"),
            Ok(Err(error)) => cannot(&error, "cannot sweep the store"),
            Err(cause) => tracing::error!(%cause, "sweeping the store panicked"),
        }
        match intake.sweep_orphans().await {
            Ok(0) => {}
            Ok(parts) => tracing::info!(parts, "took back uploads in parts that nothing knows"),
            Err(error) => cannot(&error, "cannot look for uploads in parts"),
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
        gone += db.forget_purges(before_us).await? + db.forget_listeners(now_us).await?;
        gone += db.sweep_workers(now_us - DAY_US).await?;
        if gone > 0 {
            tracing::info!(rows = gone, "forgot jobs, uploads, purges, listeners and workers of long ago");
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
