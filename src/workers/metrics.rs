//! What the pool and the queue show to Prometheus.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use metrics::{Counter, Gauge, counter, gauge};

use crate::base::clock::Clock;
use crate::base::shutdown::Shutdown;
use crate::base::telemetry::{self, Histogram, histogram};
use crate::db::Db;
use crate::jobs::{Outcome, PRIORITY_MAX, Reason};
use crate::workers::supervisor::{Duty, Turns};

/// How often the queue is sampled.
pub const SAMPLE_EVERY: Duration = Duration::from_secs(5);

/// Counters of attempts. All are shown from the start: a rate needs a zero to begin at.
#[derive(Debug)]
pub struct Attempts {
    succeeded: Counter,
    failed: Counter,
    refused: Counter,
    cancelled: Counter,
    handed_back: Counter,
    superseded: Counter,
    reasons: [(Reason, Counter); Reason::ALL.len()],
    factor: &'static Histogram,
    playable: &'static Histogram,
}

impl Attempts {
    /// Makes the handles.
    pub fn new() -> Attempts {
        let by = |outcome: &'static str| {
            let counter = counter!(telemetry::JOB_ATTEMPTS, "outcome" => outcome);
            counter.increment(0);
            counter
        };
        let _ = by("lost"); // the janitor's
        Attempts {
            succeeded: by("succeeded"),
            failed: by("failed"),
            refused: by("refused"),
            cancelled: by("cancelled"),
            handed_back: by("handed_back"),
            superseded: by("superseded"),
            reasons: Reason::ALL.map(|reason| {
                let counter = counter!(telemetry::JOB_FAILURES, "reason" => reason.as_str());
                counter.increment(0);
                (reason, counter)
            }),
            factor: histogram(telemetry::TRANSCODE_FACTOR, &[], &histogram::FACTOR),
            playable: histogram(telemetry::TRANSCODE_PLAYABLE, &[], &histogram::PLAYER_SECONDS),
        }
    }

    /// Counts an attempt that published media of this length.
    pub fn succeeded(&self, media_s: f64, took: Duration) {
        self.succeeded.increment(1);
        self.factor.record((media_s / took.as_secs_f64().max(0.001) * 1000.0) as u64);
    }

    /// A new track could be played this long after its attempt began, while the rest was still made.
    pub fn playable(&self, after: Duration) {
        self.playable.record(after.as_millis() as u64);
    }

    /// Counts an attempt whose lease went to somebody else, who counted it as lost.
    pub fn superseded(&self) {
        self.superseded.increment(1);
    }

    /// Counts an attempt that was settled.
    pub fn ended(&self, outcome: &Outcome) {
        match outcome {
            Outcome::Succeeded(_) => self.succeeded.increment(1),
            Outcome::Failed(reason, _) => {
                self.failed.increment(1);
                self.failed_for(*reason);
            }
            Outcome::Refused(reason, _) => {
                self.refused.increment(1);
                self.failed_for(*reason);
            }
            Outcome::Cancelled => self.cancelled.increment(1),
            Outcome::HandedBack => self.handed_back.increment(1),
        }
    }

    fn failed_for(&self, reason: Reason) {
        for (_, counter) in self.reasons.iter().filter(|(known, _)| *known == reason) {
            counter.increment(1);
        }
    }
}

impl Default for Attempts {
    fn default() -> Attempts {
        Attempts::new()
    }
}

/// Samples the queue until the process drains, and says whether the database answers. A queue that cannot
/// be read shows -1, not its last value.
pub async fn run(db: Db, clock: Clock, reachable: Arc<AtomicBool>, (duty, shutdown): (Duty, Shutdown)) {
    let by = |name: &'static str| -> Vec<Gauge> {
        (0..=PRIORITY_MAX).map(|priority| gauge!(name, "priority" => priority.to_string())).collect()
    };
    let (queued, ages) = (by(telemetry::JOBS_QUEUED), by(telemetry::JOBS_OLDEST));
    let (running, dead) = (gauge!(telemetry::JOBS_RUNNING), gauge!(telemetry::JOBS_DEAD));
    let waiting = gauge!(telemetry::CALLBACKS_WAITING);
    let verifying = gauge!(telemetry::UPLOADS_VERIFYING);
    let purges = gauge!(telemetry::PURGES_WAITING);
    let mails = gauge!(telemetry::MAILS_WAITING);
    for outcome in ["ok", "refused", "throttled"] {
        counter!(telemetry::LOGINS, "outcome" => outcome).increment(0);
    }
    for outcome in ["done", "failed", "refused"] {
        counter!(telemetry::PURGES, "outcome" => outcome).increment(0);
    }
    for outcome in ["delivered", "failed"] {
        counter!(telemetry::CALLBACKS, "outcome" => outcome).increment(0); // shown although nobody wants callbacks
    }
    let mut turns = Turns::new(duty.clone(), shutdown);
    while turns.next().await {
        let now_us = clock.unix_us();
        let standing = db.standing(now_us).await;
        reachable.store(standing.is_ok(), Ordering::Relaxed);
        duty.ended(&standing);
        mails.set(db.mails_waiting().await.map_or(-1.0, |waiting| waiting as f64));
        purges.set(db.purges_waiting().await.map_or(-1.0, |waiting| waiting as f64));
        let known = if standing.is_ok() { 0.0 } else { -1.0 };
        queued.iter().chain(&ages).for_each(|gauge| gauge.set(known));
        let (total_running, total_dead, total_waiting) = match &standing {
            Ok(standing) => (standing.running as f64, standing.dead as f64, standing.deliveries as f64),
            Err(_) => (-1.0, -1.0, -1.0),
        };
        for (priority, jobs, since_us) in standing.iter().flat_map(|standing| &standing.queued) {
            let place = usize::from(*priority);
            queued[place].set(*jobs as f64);
            ages[place].set((now_us - since_us).max(0) as f64 / 1e6);
        }
        running.set(total_running);
        dead.set(total_dead);
        waiting.set(total_waiting);
        verifying.set(db.uploads_verifying().await.map_or(-1.0, |uploads| uploads as f64));
    }
}
