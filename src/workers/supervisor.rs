//! Owns everything that works beside requests in this process: starts each worker, starts it again when it dies, waits for
//! all of them at the end, and shows how each of them stands: as metrics of this process, and as rows for whoever looks at
//! all processes.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge, counter, gauge};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::base::clock::Clock;
use crate::base::shutdown::{Phase, Shutdown};
use crate::base::{Error, Result, chance, redact, telemetry};
use crate::db::Db;
use crate::db::workers::Report;
use crate::jobs::backoff::Backoff;

/// How often rows are written.
const REPORT_EVERY: Duration = Duration::from_secs(10);
/// How often a lease is kept, whatever it is for: when its process dies another one takes over within three of these, also
/// where turns are hours apart.
const KEEP_EVERY: Duration = Duration::from_secs(5 * 60);
/// Between the end of a worker that died and its next beginning.
const AGAIN: Backoff = Backoff { first: Duration::from_secs(1), most: Duration::from_secs(60) };
/// Bytes of an error that are shown.
const ERROR_MAX: usize = 500;

/// What a worker says of itself. Cheap to clone; it is shared with the supervisor.
#[derive(Clone)]
pub struct Duty(Arc<Post>);

struct Post {
    name: &'static str,
    every: Duration,
    clock: Clock,
    said: Mutex<Said>,
    last: Gauge,
    failures: Counter,
}

#[derive(Clone, Default)]
struct Said {
    ran_us: Option<i64>,
    failures: i64,
    failed: Option<(i64, String)>,
}

impl Duty {
    /// A place for a worker that has a turn every so often.
    pub fn new(name: &'static str, every: Duration, clock: Clock) -> Duty {
        gauge!(telemetry::WORKER_EVERY, "worker" => name).set(every.as_secs_f64());
        let failures = counter!(telemetry::WORKER_FAILURES, "worker" => name);
        failures.increment(0);
        let last = gauge!(telemetry::WORKER_LAST, "worker" => name);
        last.set(clock.unix_s() as f64); // nobody is late at the beginning
        Duty(Arc::new(Post { name, every, clock, said: Mutex::default(), last, failures }))
    }

    /// A turn is over, whether or not there was anything to do.
    pub fn ran(&self) {
        let now_us = self.0.clock.unix_us();
        self.said().ran_us = Some(now_us);
        self.0.last.set(now_us as f64 / 1e6);
    }

    /// A turn is over, and this is why it did not do what it should; the next tries again.
    pub fn failed(&self, error: &Error) {
        self.failed_with(error.chain());
    }

    /// A turn is over, either way.
    pub fn ended<T>(&self, how: &Result<T>) {
        match how {
            Ok(_) => self.ran(),
            Err(error) => self.failed(error),
        }
    }

    fn failed_with(&self, why: String) {
        self.ran();
        let mut why = redact::text(&why).into_owned();
        why.truncate(why.floor_char_boundary(ERROR_MAX));
        self.0.failures.increment(1);
        let mut said = self.said();
        said.failures += 1;
        said.failed = Some((said.ran_us.unwrap_or(0), why));
    }

    fn said(&self) -> std::sync::MutexGuard<'_, Said> {
        self.0.said.lock().unwrap_or_else(PoisonError::into_inner) // every state of it is a whole one
    }

    fn report(&self) -> Report {
        let Said { ran_us, failures, failed } = self.said().clone();
        Report { name: self.0.name.into(), every_us: self.0.every.as_micros() as i64, ran_us, failures, failed }
    }
}

impl fmt::Debug for Duty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Duty").field("name", &self.0.name).finish_non_exhaustive()
    }
}

/// The workers of this process.
#[derive(Debug)]
pub struct Supervisor {
    db: Db,
    node: String,
    begun_us: i64,
    clock: Clock,
    shutdown: Shutdown,
    runtime: Handle,
    workers: HashMap<&'static str, (Duty, JoinHandle<()>)>,
}

impl Supervisor {
    /// One that has no workers yet; `node` is what the process is called.
    pub fn new(db: Db, node: String, clock: Clock, shutdown: Shutdown, runtime: Handle) -> Supervisor {
        Supervisor { db, node, begun_us: clock.unix_us(), clock, shutdown, runtime, workers: HashMap::new() }
    }

    /// Starts a worker that has a turn every so often: `work` makes it, again when it has died.
    ///
    /// # Panics
    /// When there is one of this name.
    pub fn start<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        name: &'static str,
        every: Duration,
        work: impl Fn(Duty) -> F + Send + 'static,
    ) {
        let duty = Duty::new(name, every, self.clock.clone());
        let worker = self.runtime.spawn(kept_alive(duty.clone(), work, AGAIN, self.shutdown.clone()));
        assert!(self.workers.insert(name, (duty, worker)).is_none(), "two workers are called {name}");
    }

    /// From now on what they say is written down, until all of them have ended.
    pub fn watched(self) -> Working {
        let Supervisor { db, node, begun_us, clock, runtime, workers, .. } = self;
        let (duties, tasks): (Vec<Duty>, Vec<_>) =
            workers.into_iter().map(|(name, (duty, task))| (duty, (name, task))).unzip();
        let (writing, name) = (db.clone(), node.clone());
        let reporter = runtime.spawn(async move {
            loop {
                let reports: Vec<Report> = duties.iter().map(Duty::report).collect();
                if let Err(error) = writing.report_workers(&name, begun_us, &reports, clock.unix_us()).await {
                    tracing::debug!(error = error.chain(), "cannot write down who works; trying again");
                }
                tokio::time::sleep(jittered(REPORT_EVERY)).await;
            }
        });
        Working { db, node, reporter, tasks }
    }
}

/// Workers that are watched.
#[derive(Debug)]
pub struct Working {
    db: Db,
    node: String,
    reporter: JoinHandle<()>,
    tasks: Vec<(&'static str, JoinHandle<()>)>,
}

impl Working {
    /// Waits for the end of all of them, which the drain of the process asks for: what hands back leases must have done so
    /// before the process ends. Then nothing says any more that they work, and another process may do what they did for all.
    pub async fn ended(self, most: Duration) {
        let Working { db, node, reporter, tasks } = self;
        let all = async {
            for (name, task) in tasks {
                if let Err(cause) = task.await {
                    tracing::error!(%cause, name, "a worker's supervisor ended badly");
                }
            }
        };
        if tokio::time::timeout(most, all).await.is_err() {
            tracing::warn!("workers did not stop in time; their leases will expire");
        }
        reporter.abort();
        let _ = reporter.await; // so that it does not write again
        let retired = tokio::time::timeout(Duration::from_secs(1), db.retire(&node)).await;
        if !matches!(retired, Ok(Ok(()))) {
            tracing::debug!("cannot say that nobody works here any more; terms end by themselves");
        }
    }
}

/// Does the work, again when it panics or ends while the process runs.
async fn kept_alive<F: Future<Output = ()> + Send + 'static>(
    duty: Duty,
    work: impl Fn(Duty) -> F,
    again: Backoff,
    mut shutdown: Shutdown,
) {
    for deaths in 1.. {
        let mut task = Aborting(tokio::spawn(work(duty.clone())));
        let why = match (&mut task.0).await {
            Ok(()) if shutdown.phase() != Phase::Running => return,
            Ok(()) => "it ended although nobody asked it to".to_owned(),
            Err(cause) => format!("it died: {cause}"),
        };
        tracing::error!(worker = duty.0.name, why, deaths, "a worker is gone; it is started again");
        duty.failed_with(why);
        tokio::select! {
            () = tokio::time::sleep(Duration::from_micros(again.delay_us(deaths) as u64)) => {}
            () = shutdown.reached(Phase::Draining) => return,
        }
    }
}

/// Whoever stops to wait for it ends it.
struct Aborting(JoinHandle<()>);

impl Drop for Aborting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Turns of work that comes back, with a pause between two that differs by up to a tenth either way, so that processes that
/// began together do not go on together.
#[derive(Debug)]
pub struct Turns {
    duty: Duty,
    shutdown: Shutdown,
    begun: bool,
    alone: Option<Alone>,
}

/// What one process at a time does: the one that has the lease of the worker's name.
#[derive(Debug)]
struct Alone {
    db: Db,
    node: String,
    /// When this process has its next turn, if it still has the lease; `None`: as soon as it has it.
    next: Option<Instant>,
}

impl Turns {
    /// The first is at once.
    pub fn new(duty: Duty, shutdown: Shutdown) -> Turns {
        Turns { duty, shutdown, begun: false, alone: None }
    }

    /// Those of one process at a time, which is called `node`: the first when it has the lease. `Working::ended` gives it back.
    pub fn alone(duty: Duty, shutdown: Shutdown, (db, node): (Db, String)) -> Turns {
        Turns { alone: Some(Alone { db, node, next: None }), ..Turns::new(duty, shutdown) }
    }

    /// Waits for the next one; false: there is none, because the process drains.
    pub async fn next(&mut self) -> bool {
        while self.pause().await {
            let Some(alone) = &mut self.alone else { return true };
            match alone.may(&self.duty).await {
                Ok(true) => return true,
                Ok(false) => {}
                Err(error) => {
                    self.duty.failed(&error);
                    tracing::warn!(error = error.chain(), name = self.duty.0.name, "cannot take turns; trying again");
                }
            }
        }
        false
    }

    async fn pause(&mut self) -> bool {
        if std::mem::replace(&mut self.begun, true) {
            let every = self.duty.0.every;
            let pause = if self.alone.is_some() { every.min(KEEP_EVERY) } else { every };
            tokio::select! {
                () = tokio::time::sleep(jittered(pause)) => {}
                () = self.shutdown.reached(Phase::Draining) => {}
            }
        }
        self.shutdown.phase() == Phase::Running
    }
}

impl Alone {
    /// Takes or keeps the lease; whether there is a turn now.
    async fn may(&mut self, duty: &Duty) -> Result<bool> {
        let Post { name, every, clock, .. } = &*duty.0;
        let (now_us, keep_us) = (clock.unix_us(), every.min(&KEEP_EVERY).as_micros() as i64);
        if !self.db.hold(name, &self.node, now_us, now_us + 3 * keep_us).await? {
            self.next = None;
            return Ok(false);
        }
        let now = Instant::now();
        let due = self.next.is_none_or(|next| next <= now); // else the lease was kept, no more
        if due {
            self.next = Some(now + every.mul_f64(0.9)); // pauses differ by a tenth
        }
        Ok(due)
    }
}

/// So long, a tenth less or more.
fn jittered(period: Duration) -> Duration {
    let [random] = chance::bytes();
    period.mul_f64(0.9 + 0.2 * f64::from(random) / 255.0)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::base::shutdown;
    use crate::db::{Options, Place};

    #[tokio::test]
    async fn a_worker_that_dies_is_started_again_and_says_so() {
        let (trigger, shutdown) = shutdown::channel();
        let duty = Duty::new("test", Duration::from_millis(1), Clock::sim(1_000));
        let again = Backoff { first: Duration::from_millis(2), most: Duration::from_millis(4) };
        let turns_had = Arc::new(AtomicU32::new(0));
        let had = Arc::clone(&turns_had);
        let lives = Arc::new(AtomicU32::new(0));
        let (begun, draining) = (Arc::clone(&lives), shutdown.clone());
        let work = move |duty: Duty| {
            let (life, draining, had) = (begun.fetch_add(1, Ordering::Relaxed), draining.clone(), Arc::clone(&had));
            async move {
                match life {
                    0 => panic!("of fright"),
                    1 => {} // it just ends
                    _ => {
                        let mut turns = Turns::new(duty.clone(), draining);
                        while turns.next().await {
                            duty.ran();
                            had.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            }
        };
        let kept = tokio::spawn(kept_alive(duty.clone(), work, again, shutdown));
        while turns_had.load(Ordering::Relaxed) < 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        trigger.advance(Phase::Draining);
        kept.await.unwrap();
        let report = duty.report();
        assert_eq!((report.failures, report.ran_us, report.every_us), (2, Some(1_000_000_000), 1_000));
        assert_eq!(report.failed, Some((1_000_000_000, "it ended although nobody asked it to".into())));
        assert_eq!(lives.load(Ordering::Relaxed), 3, "it is not started again while the process drains");
    }

    async fn database(directory: &std::path::Path) -> Db {
        let place = Place::Sqlite(directory.join("segue.db"));
        let db = Db::open(&Options { place, connections_max: 2, prepared_statements: false }).await.unwrap();
        db.migrate().await.unwrap();
        db
    }

    #[tokio::test]
    async fn a_lease_is_kept_between_turns_and_whoever_takes_it_over_has_a_turn_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let db = database(directory.path()).await;
        let clock = Clock::sim(1_000);
        let duty = Duty::new("auditor", Duration::from_secs(3600), clock.clone());
        let alone = |node: &str| Alone { db: db.clone(), node: node.into(), next: None };
        let (mut first, mut second) = (alone("first"), alone("second"));
        assert!(first.may(&duty).await.unwrap() && !second.may(&duty).await.unwrap());
        clock.advance(600);
        assert!(!first.may(&duty).await.unwrap(), "it has had its turn of this hour");
        clock.advance(600);
        assert!(!second.may(&duty).await.unwrap(), "but it has kept its lease");
        clock.advance(301);
        assert!(second.may(&duty).await.unwrap() && !first.may(&duty).await.unwrap());
        assert_eq!(first.next, None, "it begins anew when it has the lease again");
    }

    #[tokio::test]
    async fn what_workers_say_is_written_down_while_they_work() {
        let directory = tempfile::tempdir().unwrap();
        let db = database(directory.path()).await;
        let (trigger, shutdown) = shutdown::channel();
        let clock = Clock::sim(1_000);
        let mut supervisor = Supervisor::new(db.clone(), "here-1".into(), clock, shutdown.clone(), Handle::current());
        let has_failed = Arc::new(tokio::sync::Notify::new());
        let telling = Arc::clone(&has_failed);
        supervisor.start("failing", Duration::from_secs(3600), move |duty| {
            let (mut shutdown, telling) = (shutdown.clone(), Arc::clone(&telling));
            async move {
                duty.failed(&Error::internal("x".repeat(ERROR_MAX * 2)));
                telling.notify_one();
                shutdown.reached(Phase::Draining).await;
            }
        });
        has_failed.notified().await;
        assert!(db.hold("failing", "here-1", 0, 5_000).await.unwrap());
        let working = supervisor.watched();
        let told = loop {
            match db.workers().await.unwrap() {
                told if told.is_empty() => tokio::time::sleep(Duration::from_millis(5)).await,
                told => break told,
            }
        };
        let [one] = &told[..] else { panic!("{told:?}") };
        assert_eq!((one.node.as_str(), one.begun_us, one.holds_until_us), ("here-1", 1_000_000_000, Some(5_000)));
        assert_eq!(one.report.failed.as_ref().map(|(_, why)| why.len()), Some(ERROR_MAX));
        trigger.advance(Phase::Draining);
        working.ended(Duration::from_secs(60)).await;
        assert_eq!((db.workers().await.unwrap(), db.holders().await.unwrap()), (vec![], vec![]), "it has left");
    }
}
