//! The queue. In: wishes, leases, outcomes. Out: jobs, and whether the caller still had the right.
//!
//! A lease is a row in state `leased` with a number, `attempt`. Everything a worker writes names that
//! number, so a worker that was too slow changes nothing once another has the job. `now_us` is always the
//! caller's: expiry is tested without waiting.

use serde_json::{Value, json};

use super::conn::{Row, Tx, args};
use super::{Db, Dialect};
use crate::base::error::Context as _;
use crate::base::{Error, Result, hex};
use crate::jobs::backoff::Backoff;
use crate::jobs::{self, Cost, Event, Held, Job, JobId, Lease, NewJob, Outcome, Reason, State};

use sha2::{Digest as _, Sha256};

/// Every column of a `Job`, in the order of the table.
macro_rules! columns {
    () => {
        "id, kind, priority, state, input, rungs, client, attempt, failures, failures_max, run_at_us, worker, \
         lease_until_us, cancel_us, started_us, done_us, total_us, output, reason, error, created_us, finished_us, updated_us"
    };
}

/// Jobs in one page of a list.
pub const PAGE_MAX: u32 = 500;
/// Expired leases taken back in one transaction.
const EXPIRED_MAX: i64 = 100;
/// A job at the head of the queue that does not fit holds back those behind it after this long: it would
/// otherwise wait as long as smaller ones keep coming.
const HEAD_PATIENCE_US: i64 = 60_000_000;

/// What came of enqueueing.
#[derive(Clone, Debug, PartialEq)]
pub enum Enqueued {
    /// It is in the queue when the transaction commits.
    New(JobId),
    /// The same client enqueued the same wish under the same key before.
    Known(JobId),
    /// The same client used this key for another wish.
    Conflict(JobId),
}

/// What came of cancelling or trying again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Done.
    Done,
    /// The worker that has it was asked, and will stop at its next heartbeat.
    Told,
    /// It cannot be: this is how the job stands.
    Not(State),
    /// There is no such job.
    Unknown,
}

/// Which jobs to list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only these.
    pub state: Option<State>,
    /// Only those before this one: the last of the page before.
    pub before: Option<JobId>,
    /// Only those of this client.
    pub client: Option<String>,
    /// How many.
    pub limit: u32,
}

/// Puts a job into the queue, in the caller's transaction: with the row that it serves, or not at all.
///
/// # Errors
/// When the database refuses.
pub async fn enqueue(tx: &mut Tx, new: &NewJob, now_us: i64) -> Result<Enqueued> {
    let id = JobId::new(now_us);
    let inserted = tx
        .execute(
            "insert into job (id, kind, priority, state, input, client, idempotency_key, fingerprint, cpu_milli,
               memory_bytes, failures_max, run_at_us, created_us, updated_us)
             values ($1, $2, $3, 'queued', $4, $5, $6, $7, $8, $9, $10, $11, $11, $11)
             on conflict (client, idempotency_key) do nothing",
            args![
                id.as_str(),
                new.kind,
                i64::from(new.priority),
                &new.input,
                &new.client,
                new.idempotency_key.as_deref(),
                &fingerprint(new),
                i64::from(new.cost.cpu_milli),
                new.cost.memory_bytes as i64,
                i64::from(new.failures_max),
                now_us
            ],
        )
        .await?;
    if inserted > 0 {
        record(tx, &id, now_us, "queued", &json!({ "priority": new.priority })).await?;
        return Ok(Enqueued::New(id));
    }
    let known = known(tx, new).await?;
    known.ok_or_else(|| Error::internal("a job with this idempotency key vanished meanwhile"))
}

/// What became of a request of this client that had this key.
async fn known(tx: &mut Tx, new: &NewJob) -> Result<Option<Enqueued>> {
    let sql = "select id, fingerprint from job where client = $1 and idempotency_key = $2";
    let Some(row) = tx.first(sql, args![&new.client, new.idempotency_key.as_deref()]).await? else { return Ok(None) };
    let id = job_id(&row, "id")?;
    Ok(Some(if row.text("fingerprint")? == fingerprint(new) { Enqueued::Known(id) } else { Enqueued::Conflict(id) }))
}

/// Tells requests of one key apart.
fn fingerprint(new: &NewJob) -> String {
    hex::encode(&Sha256::digest(format!("{}\n{}", new.kind, new.input).as_bytes()))
}

impl Db {
    /// Enqueues in a transaction of its own.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn enqueue(&self, new: &NewJob, now_us: i64) -> Result<Enqueued> {
        let mut tx = self.begin().await?;
        let enqueued = enqueue(&mut tx, new, now_us).await?;
        tx.commit().await?;
        Ok(enqueued)
    }

    /// What became of the same request, or of another one with its key, if there was one. Whoever is about to lock rows
    /// that a job's worker locks after the job asks this first: an insert waits for who is changing the job of its key.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn known_job(&self, new: &NewJob) -> Result<Option<Enqueued>> {
        known(&mut self.begin_read().await?, new).await
    }

    /// Takes the job whose turn it is, if it fits into `room`, until `until_us`.
    ///
    /// # Errors
    /// When the database cannot be reached; nothing is leased then, or the lease ends by itself.
    pub async fn lease(
        &self,
        kind: &str,
        worker: &str,
        room: Cost,
        now_us: i64,
        until_us: i64,
    ) -> Result<Option<(Lease, Job, Cost)>> {
        let (cpu, memory) = (i64::from(room.cpu_milli), room.memory_bytes as i64);
        // Looked at first without writing: most of the time there is nothing, and SQLite has one writer.
        let mut tx = self.begin_read().await?;
        let head = tx
            .first(
                "select cpu_milli, memory_bytes, run_at_us from job
                 where state = 'queued' and kind = $1 and run_at_us <= $2
                 order by priority desc, run_at_us, id limit 1",
                args![kind, now_us],
            )
            .await?;
        drop(tx);
        let Some(head) = head else { return Ok(None) };
        let fits = head.int("cpu_milli")? <= cpu && head.int("memory_bytes")? <= memory;
        if !fits && now_us - head.int("run_at_us")? > HEAD_PATIENCE_US {
            return Ok(None);
        }
        let mut tx = self.begin().await?;
        // The same statement; only PostgreSQL has rows to lock and others to step around.
        let sql = match tx.dialect() {
            Dialect::Sqlite => concat!(
                "update job set state = 'leased', attempt = attempt + 1, worker = $1, lease_until_us = $2,
                   started_us = $3, updated_us = $3, done_us = 0
                 where id = (select id from job
                   where state = 'queued' and kind = $4 and run_at_us <= $3 and cpu_milli <= $5 and memory_bytes <= $6
                   order by priority desc, run_at_us, id limit 1)
                 returning cpu_milli, memory_bytes, ",
                columns!()
            ),
            Dialect::Postgres => concat!(
                "update job set state = 'leased', attempt = attempt + 1, worker = $1, lease_until_us = $2,
                   started_us = $3, updated_us = $3, done_us = 0
                 where id = (select id from job
                   where state = 'queued' and kind = $4 and run_at_us <= $3 and cpu_milli <= $5 and memory_bytes <= $6
                   order by priority desc, run_at_us, id limit 1 for update skip locked)
                 returning cpu_milli, memory_bytes, ",
                columns!()
            ),
        };
        let Some(row) = tx.first(sql, args![worker, until_us, now_us, kind, cpu, memory]).await? else {
            return Ok(None);
        };
        let cost = Cost { cpu_milli: row.int("cpu_milli")? as u32, memory_bytes: row.int("memory_bytes")? as u64 };
        let job = job(&row)?;
        let body = json!({ "attempt": job.attempt, "worker": worker, "waited_s": seconds(now_us - job.run_at_us) });
        record(&mut tx, &job.id, now_us, "started", &body).await?;
        tx.commit().await?;
        Ok(Some((Lease { job: job.id.clone(), attempt: job.attempt }, job, cost)))
    }

    /// Keeps a lease until `until_us` and says how far the attempt is.
    ///
    /// # Errors
    /// When the database cannot be reached; the lease is ours until it expires.
    pub async fn heartbeat(
        &self,
        lease: &Lease,
        (done_us, total_us): (i64, Option<i64>),
        now_us: i64,
        until_us: i64,
    ) -> Result<Held> {
        let mut tx = self.begin().await?;
        let row = tx
            .first(
                "update job set lease_until_us = $3, done_us = $4, total_us = coalesce($5, total_us), updated_us = $6
                 where id = $1 and attempt = $2 and state = 'leased'
                 returning cancel_us",
                args![lease.job.as_str(), lease.attempt, until_us, done_us, total_us, now_us],
            )
            .await?;
        tx.commit().await?;
        Ok(match row {
            None => Held::Lost,
            Some(row) if row.int_or_null("cancel_us")?.is_some() => Held::CancelAsked,
            Some(_) => Held::Yes,
        })
    }

    /// Ends an attempt in a transaction of its own; `None` when the lease is not ours any more.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn settle(
        &self,
        lease: &Lease,
        outcome: &Outcome,
        backoff: Backoff,
        now_us: i64,
    ) -> Result<Option<State>> {
        let mut tx = self.begin().await?;
        let settled = settle(&mut tx, lease, outcome, backoff, now_us).await?;
        tx.commit().await?;
        Ok(settled)
    }

    /// Takes back leases that nobody renewed: each counts as a failure, because a job that kills its worker
    /// would otherwise do so for ever. Says what became of each.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn expire(&self, backoff: Backoff, now_us: i64) -> Result<Vec<(JobId, State)>> {
        let mut tx = self.begin().await?;
        let sql = match tx.dialect() {
            Dialect::Sqlite => {
                "select id, attempt, worker from job where state = 'leased' and lease_until_us <= $1
                 order by lease_until_us limit $2"
            }
            Dialect::Postgres => {
                "select id, attempt, worker from job where state = 'leased' and lease_until_us <= $1
                 order by lease_until_us limit $2 for update skip locked"
            }
        };
        let mut expired = Vec::new();
        for row in tx.all(sql, args![now_us, EXPIRED_MAX]).await? {
            let lease = Lease { job: job_id(&row, "id")?, attempt: row.int("attempt")? };
            let worker = row.text_or_null("worker")?.unwrap_or_default();
            let told = format!("the worker {worker} was not heard of any more; it died, hangs, or lost the network");
            let lost = Outcome::Failed(Reason::Lost, told);
            if let Some(state) = settle(&mut tx, &lease, &lost, backoff, now_us).await? {
                expired.push((lease.job, state));
            }
        }
        tx.commit().await?;
        Ok(expired)
    }

    /// Stops a job: one that waits at once, one that runs at its worker's next heartbeat.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn cancel(&self, id: &JobId, now_us: i64) -> Result<Asked> {
        let mut tx = self.begin().await?;
        let queued = tx
            .execute(
                "update job set state = 'cancelled', finished_us = $2, updated_us = $2
                 where id = $1 and state = 'queued'",
                args![id.as_str(), now_us],
            )
            .await?;
        if queued > 0 {
            record(&mut tx, id, now_us, "cancelled", &json!({})).await?;
            tx.commit().await?;
            return Ok(Asked::Done);
        }
        let running = tx
            .execute(
                "update job set cancel_us = coalesce(cancel_us, $2) where id = $1 and state = 'leased'",
                args![id.as_str(), now_us],
            )
            .await?;
        let asked =
            if running > 0 { Asked::Told } else { state_of(&mut tx, id).await?.map_or(Asked::Unknown, Asked::Not) };
        tx.commit().await?;
        Ok(asked)
    }

    /// Puts a job that ended back into the queue, all of it or only these rungs.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn retry(&self, id: &JobId, rungs: Option<&[String]>, now_us: i64) -> Result<Asked> {
        let mut tx = self.begin().await?;
        let rungs_json = rungs.map(|rungs| json!(rungs).to_string());
        let requeued = tx
            .execute(
                "update job set state = 'queued', rungs = $2, failures = 0, run_at_us = $3, cancel_us = null,
                   finished_us = null, reason = null, error = null, done_us = 0, updated_us = $3
                 where id = $1 and state in ('succeeded', 'dead', 'cancelled')",
                args![id.as_str(), rungs_json.as_deref(), now_us],
            )
            .await?;
        let asked = match requeued {
            0 => state_of(&mut tx, id).await?.map_or(Asked::Unknown, Asked::Not),
            _ => {
                record(&mut tx, id, now_us, "retried", &json!({ "rungs": rungs })).await?;
                Asked::Done
            }
        };
        tx.commit().await?;
        Ok(asked)
    }

    /// One job.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn job(&self, id: &JobId) -> Result<Option<Job>> {
        let mut tx = self.begin_read().await?;
        let sql = concat!("select ", columns!(), " from job where id = $1");
        tx.first(sql, args![id.as_str()]).await?.map(|row| job(&row)).transpose()
    }

    /// The latest jobs first.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn jobs(&self, filter: &Filter) -> Result<Vec<Job>> {
        let mut tx = self.begin_read().await?;
        let sql = concat!(
            "select ",
            columns!(),
            " from job where ($1 = '' or state = $1) and ($2 = '' or id < $2) and ($4 = '' or client = $4)
             order by id desc limit $3"
        );
        let (state, before) =
            (filter.state.map_or("", State::as_str), filter.before.as_ref().map_or("", JobId::as_str));
        let limit = i64::from(filter.limit.clamp(1, PAGE_MAX));
        let client = filter.client.as_deref().unwrap_or_default();
        tx.all(sql, args![state, before, limit, client]).await?.iter().map(job).collect()
    }

    /// What happened to a job after event `after`, oldest first.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn events(&self, id: &JobId, after: i64, limit: u32) -> Result<Vec<Event>> {
        let mut tx = self.begin_read().await?;
        let sql = "select seq, at_us, event, body from job_event where job_id = $1 and seq > $2 order by seq limit $3";
        let rows = tx.all(sql, args![id.as_str(), after, i64::from(limit.clamp(1, PAGE_MAX))]).await?;
        rows.iter().map(event).collect()
    }

    /// Forgets jobs that ended before `before_us`, a batch at a time; says how many.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn forget(&self, before_us: i64) -> Result<u64> {
        let mut tx = self.begin().await?;
        // What they have besides goes with them (on delete cascade).
        let gone = tx
            .execute(
                "delete from job where id in (select id from job
                   where finished_us is not null and finished_us < $1 order by finished_us limit 500)",
                args![before_us],
            )
            .await?;
        tx.commit().await?;
        Ok(gone)
    }
}

/// Whether the lease is still ours; if so, nobody can take the job before the transaction ends.
///
/// # Errors
/// When the database refuses.
pub async fn guard(tx: &mut Tx, lease: &Lease) -> Result<bool> {
    let sql = "update job set attempt = attempt where id = $1 and attempt = $2 and state = 'leased'";
    Ok(tx.execute(sql, args![lease.job.as_str(), lease.attempt]).await? > 0)
}

/// Ends an attempt, in the caller's transaction: with what it published, or not at all. `None` when the
/// lease is not ours any more: the caller must then undo everything. Afterwards the row is locked until the
/// transaction ends, so nobody can lease the job meanwhile.
///
/// # Errors
/// When the database refuses.
pub async fn settle(
    tx: &mut Tx,
    lease: &Lease,
    outcome: &Outcome,
    backoff: Backoff,
    now_us: i64,
) -> Result<Option<State>> {
    let sql = match tx.dialect() {
        Dialect::Sqlite => {
            "select failures, failures_max, cancel_us from job where id = $1 and attempt = $2 and state = 'leased'"
        }
        Dialect::Postgres => {
            "select failures, failures_max, cancel_us from job where id = $1 and attempt = $2 and state = 'leased'
             for update"
        }
    };
    let Some(row) = tx.first(sql, args![lease.job.as_str(), lease.attempt]).await? else { return Ok(None) };
    let cancelled = row.int_or_null("cancel_us")?.is_some();
    let failures = row.int("failures")? + i64::from(matches!(outcome, Outcome::Failed(..) | Outcome::Refused(..)));
    let mut run_at_us = now_us;
    let state = match outcome {
        Outcome::Succeeded(_) => State::Succeeded,
        Outcome::Cancelled => State::Cancelled,
        // Nobody wants another attempt.
        Outcome::Failed(..) | Outcome::HandedBack if cancelled => State::Cancelled,
        Outcome::HandedBack => State::Queued,
        Outcome::Refused(..) => State::Dead,
        Outcome::Failed(..) if failures >= row.int("failures_max")? => State::Dead,
        Outcome::Failed(..) => {
            run_at_us += backoff.delay_us(failures);
            State::Queued
        }
    };
    debug_assert!(State::Leased.may_become(state));
    let (reason, error) = match outcome {
        Outcome::Failed(reason, error) | Outcome::Refused(reason, error) => {
            (Some(reason.as_str()), Some(error.as_str()))
        }
        _ => (None, None),
    };
    let output = match outcome {
        Outcome::Succeeded(output) => Some(output.as_str()),
        _ => None,
    };
    tx.execute(
        "update job set state = $3, worker = null, lease_until_us = null, cancel_us = null, failures = $4,
           run_at_us = $5, output = coalesce($6, output), reason = $7, error = $8, updated_us = $9, finished_us = $10,
           done_us = case when $3 = 'succeeded' then coalesce(total_us, done_us) else 0 end
         where id = $1 and attempt = $2 and state = 'leased'",
        args![
            lease.job.as_str(),
            lease.attempt,
            state.as_str(),
            failures,
            run_at_us,
            output,
            reason,
            error,
            now_us,
            state.is_final().then_some(now_us)
        ],
    )
    .await?;
    let (name, body) = match (outcome, state) {
        (_, State::Succeeded) => ("succeeded", json!({ "attempt": lease.attempt })),
        (_, State::Cancelled) => ("cancelled", json!({ "attempt": lease.attempt })),
        (Outcome::HandedBack, _) => ("handed_back", json!({ "attempt": lease.attempt })),
        (_, state) => {
            let mut body = json!({ "attempt": lease.attempt, "reason": reason, "error": error, "failures": failures });
            if state == State::Queued {
                body["again_in_s"] = json!(seconds(run_at_us - now_us));
            }
            (if state == State::Dead { "dead" } else { "failed" }, body)
        }
    };
    record(tx, &lease.job, now_us, name, &body).await?;
    Ok(Some(state))
}

/// Writes down what happened to a job, whose row the caller has written in the same transaction: that
/// keeps the numbers of two writers apart.
///
/// # Errors
/// When the database refuses.
pub async fn record(tx: &mut Tx, id: &JobId, now_us: i64, event: &str, body: &Value) -> Result<()> {
    tx.execute(
        "insert into job_event (job_id, seq, at_us, event, body)
         select $1, coalesce(max(seq), 0) + 1, $2, $3, $4 from job_event where job_id = $1",
        args![id.as_str(), now_us, event, &body.to_string()],
    )
    .await?;
    super::tracks::follow(tx, id, event, body, now_us).await?;
    super::deliveries::note(tx, id, now_us).await
}

/// Lets a job that was just enqueued make only these rungs, in the same transaction.
///
/// # Errors
/// When the database refuses.
pub async fn only_rungs(tx: &mut Tx, id: &JobId, rungs: &[String]) -> Result<()> {
    let sql = "update job set rungs = $2 where id = $1 and state = 'queued'";
    tx.execute(sql, args![id.as_str(), &json!(rungs).to_string()]).await.map(drop)
}

async fn state_of(tx: &mut Tx, id: &JobId) -> Result<Option<State>> {
    tx.first("select state from job where id = $1", args![id.as_str()]).await?.map(|row| state(&row)).transpose()
}

fn job(row: &Row) -> Result<Job> {
    let rungs = row.text_or_null("rungs")?.map(|text| serde_json::from_str(&text));
    let rungs = rungs.transpose().map_err(|cause| Error::internal("a job's rungs cannot be read").because(cause))?;
    Ok(Job {
        id: job_id(row, "id")?,
        kind: row.text("kind")?,
        priority: u8::try_from(row.int("priority")?).unwrap_or(jobs::PRIORITY),
        state: state(row)?,
        input: row.text("input")?,
        rungs,
        client: row.text("client")?,
        attempt: row.int("attempt")?,
        failures: row.int("failures")?,
        failures_max: row.int("failures_max")?,
        run_at_us: row.int("run_at_us")?,
        worker: row.text_or_null("worker")?,
        lease_until_us: row.int_or_null("lease_until_us")?,
        started_us: row.int_or_null("started_us")?,
        done_us: row.int("done_us")?,
        total_us: row.int_or_null("total_us")?,
        output: row.text_or_null("output")?,
        reason: row.text_or_null("reason")?,
        error: row.text_or_null("error")?,
        created_us: row.int("created_us")?,
        finished_us: row.int_or_null("finished_us")?,
        cancelling: row.int_or_null("cancel_us")?.is_some(),
        updated_us: row.int("updated_us")?,
    })
}

pub(super) fn event(row: &Row) -> Result<Event> {
    let body = row.text("body")?;
    let body = serde_json::from_str(&body).unwrap_or_default();
    Ok(Event { seq: row.int("seq")?, at_us: row.int("at_us")?, event: row.text("event")?, body })
}

fn state(row: &Row) -> Result<State> {
    let text = row.text("state")?;
    State::decode(&text).ok_or_else(|| Error::internal(format!("a job has the unknown state {text}")))
}

pub(super) fn job_id(row: &Row, column: &str) -> Result<JobId> {
    row.text(column)?.parse::<JobId>().context(|| "the database holds an id that we did not make")
}

fn seconds(us: i64) -> f64 {
    us.max(0) as f64 / 1e6
}
