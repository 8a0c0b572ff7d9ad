//! Makes archives and forgets people: one job at a time, its lease kept meanwhile. A job that is broken off anywhere is
//! done again from its beginning.

use std::time::{Duration, Instant};

use crate::base::clock::Clock;
use crate::base::shutdown::{Phase, Shutdown};
use crate::base::{Error, Kind, Result};
use crate::db::Db;
use crate::jobs::backoff::Backoff;
use crate::jobs::person::{self, ERASE, EXPORT};
use crate::jobs::{Cost, Held, Job, Lease, Outcome, Reason};
use crate::people::{Next, People};
use crate::workers::supervisor::Duty;

/// How it works.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long a lease lasts without a heartbeat.
    pub term: Duration,
    /// How often it looks for work.
    pub poll: Duration,
    /// When a failed attempt is followed by the next.
    pub backoff: Backoff,
}

/// How often archives are looked for whose time is over.
const TIDY_EVERY: Duration = Duration::from_secs(60);

/// What came of an attempt.
enum Done {
    /// Its job is settled.
    Settled,
    /// Nothing is left to be done.
    Over,
    /// It is to go on later.
    Sleeps(person::ErasureId, i64),
}

/// Works until the process drains; what is under way then is handed back.
pub async fn run(people: People, options: Options, clock: Clock, name: String, (duty, mut shutdown): (Duty, Shutdown)) {
    let worker = Worker { people, options, clock, name, duty };
    let mut tidied = None::<Instant>;
    while shutdown.phase() == Phase::Running {
        if tidied.is_none_or(|at| at.elapsed() >= TIDY_EVERY) {
            tidied = Some(Instant::now());
            if let Err(error) = worker.people.tidy_exports().await {
                worker.duty.failed(&error);
                tracing::warn!(error = error.chain(), "cannot remove archives whose time is over; trying again");
            }
        }
        match worker.lease().await {
            Ok(Some((lease, job))) => worker.attempt(&lease, &job, &mut shutdown).await,
            Ok(None) => rest(options.poll, &mut shutdown).await,
            Err(error) => {
                worker.duty.failed(&error);
                tracing::warn!(error = error.chain(), "cannot look for accounts to work on");
                rest(options.poll, &mut shutdown).await;
            }
        }
        worker.duty.ran();
    }
}

async fn rest(poll: Duration, shutdown: &mut Shutdown) {
    tokio::select! {
        () = tokio::time::sleep(poll) => {}
        () = shutdown.reached(Phase::Draining) => {}
    }
}

struct Worker {
    people: People,
    options: Options,
    clock: Clock,
    name: String,
    duty: Duty,
}

impl Worker {
    fn db(&self) -> &Db {
        &self.people.db
    }

    async fn lease(&self) -> Result<Option<(Lease, Job)>> {
        let room = Cost { cpu_milli: u32::MAX, memory_bytes: i64::MAX as u64 };
        for kind in [ERASE, EXPORT] {
            let now_us = self.clock.unix_us();
            let leased = self.db().lease(kind, &self.name, room, now_us, now_us + self.term_us()).await?;
            if let Some((lease, job, _)) = leased {
                return Ok(Some((lease, job)));
            }
        }
        Ok(None)
    }

    async fn attempt(&self, lease: &Lease, job: &Job, shutdown: &mut Shutdown) {
        let outcome = tokio::select! {
            done = self.work(lease, job) => match done {
                Ok(Done::Settled) => None,
                Ok(Done::Over) => Some(Outcome::Cancelled),
                Ok(Done::Sleeps(id, at_us)) => {
                    match self.db().put_off_erasure(lease, &id, at_us, self.clock.unix_us()).await {
                        Ok(_) => None,
                        Err(error) => Some(failure(&error)),
                    }
                }
                Err(error) => {
                    self.duty.failed(&error);
                    tracing::warn!(job = job.id.as_str(), error = error.chain(), "an account's job failed");
                    Some(failure(&error))
                }
            },
            held = self.keep(lease) => match held {
                Held::CancelAsked => Some(Outcome::Cancelled),
                Held::Lost | Held::Yes => None,
            },
            () = shutdown.reached(Phase::Draining) => Some(Outcome::HandedBack),
        };
        let Some(outcome) = outcome else { return };
        if let Err(error) = self.db().settle(lease, &outcome, self.options.backoff, self.clock.unix_us()).await {
            tracing::warn!(error = error.chain(), "cannot say how an account's job ended; its lease will expire");
        }
    }

    async fn work(&self, lease: &Lease, job: &Job) -> Result<Done> {
        if job.kind == EXPORT {
            let id = person::named(&job.input)?;
            return match self.people.export(lease, &id).await {
                Ok(_) => Ok(Done::Settled),
                Err(error) if error.kind() == Kind::NotFound => Ok(Done::Over),
                Err(error) => Err(error),
            };
        }
        let id = person::named(&job.input)?;
        match self.people.leave(lease, &id).await? {
            Next::Erased => {
                tracing::info!(erasure = id.as_str(), "somebody who left is forgotten");
                Ok(Done::Settled)
            }
            Next::Lost => Ok(Done::Settled),
            Next::Stays => Ok(Done::Over),
            Next::Sleeps(at_us) => Ok(Done::Sleeps(id, at_us)),
        }
    }

    /// Keeps the lease; ends when it is to be given up.
    async fn keep(&self, lease: &Lease) -> Held {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(self.options.term / 3).await;
            let now_us = self.clock.unix_us();
            match self.db().heartbeat(lease, (0, None), now_us, now_us + self.term_us()).await {
                Ok(Held::Yes) => {
                    renewed = Instant::now();
                    self.duty.ran(); // an archive takes as long as it takes
                }
                Ok(held) => return held,
                Err(error) => {
                    tracing::warn!(error = error.chain(), "cannot renew the lease of an account's job");
                    if renewed.elapsed() > self.options.term {
                        return Held::Lost;
                    }
                }
            }
        }
    }

    fn term_us(&self) -> i64 {
        self.options.term.as_micros() as i64
    }
}

fn failure(error: &Error) -> Outcome {
    Outcome::Failed(Reason::Internal, error.chain())
}
