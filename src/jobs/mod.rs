//! Durable work as values: what a job is, how it may move, when it is tried again. Pure; `db/jobs.rs`
//! keeps it, `workers/` does it.
//!
//! ```text
//!            ┌──────── failed, later again ───────┐
//!            ▼                                    │
//! enqueue ▶ queued ─ lease ▶ leased ─ settle ▶ succeeded
//!            │  ▲              │  ├──────────▶ dead        failed too often, or refused for good
//!            │  └─ handed back ┘  └──────────▶ cancelled
//!            └────────────────────────────────▶ cancelled
//! succeeded, dead, cancelled ─ retry, by a person ▶ queued
//! ```

pub mod backoff;
mod budget;
mod id;
pub mod person;
pub mod transcode;
pub mod view;

use serde::{Deserialize, Serialize};

pub use budget::{Budget, Cost};
pub use id::JobId;

use crate::base::{Error, Result};

/// How a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Waits for a worker, and for its time.
    Queued,
    /// A worker has the lease.
    Leased,
    /// Done.
    Succeeded,
    /// Failed for good: needs a person.
    Dead,
    /// Somebody did not want it any more.
    Cancelled,
}

impl State {
    /// All of them.
    pub const ALL: [State; 5] = [State::Queued, State::Leased, State::Succeeded, State::Dead, State::Cancelled];

    /// Its name in the database, the API and the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Queued => "queued",
            State::Leased => "leased",
            State::Succeeded => "succeeded",
            State::Dead => "dead",
            State::Cancelled => "cancelled",
        }
    }

    /// The state of this name.
    pub fn decode(text: &str) -> Option<State> {
        State::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Whether nothing happens any more unless a person wants it.
    pub fn is_final(self) -> bool {
        matches!(self, State::Succeeded | State::Dead | State::Cancelled)
    }

    /// The legal moves.
    pub fn may_become(self, next: State) -> bool {
        use State::{Cancelled, Dead, Leased, Queued, Succeeded};
        match self {
            Queued => matches!(next, Leased | Cancelled),
            Leased => matches!(next, Queued | Succeeded | Dead | Cancelled),
            Succeeded | Dead | Cancelled => next == Queued,
        }
    }
}

/// What somebody wants to be done.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// What kind of work: `transcode::KIND`.
    pub kind: &'static str,
    /// 0 … 9; 9 goes first.
    pub priority: u8,
    /// What to do, as JSON: the same bytes for the same wish, they are compared.
    pub input: String,
    /// Who enqueues; idempotency keys are theirs.
    pub client: String,
    /// The same key by the same client is the same job.
    pub idempotency_key: Option<String>,
    /// What it occupies while it runs.
    pub cost: Cost,
    /// Failed attempts that make it dead.
    pub failures_max: u32,
}

/// The usual priority; people who wait for a result are above it, bulk work below.
pub const PRIORITY: u8 = 5;
/// The highest priority.
pub const PRIORITY_MAX: u8 = 9;
/// The longest idempotency key, in bytes.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

/// Checks what somebody wants to call their request.
///
/// # Errors
/// `Usage` when it is empty, too long or not visible ASCII.
pub fn check_idempotency_key(key: &str) -> Result<()> {
    let fits = (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&key.len());
    if fits && key.bytes().all(|b| b.is_ascii_graphic() || b == b' ') {
        return Ok(());
    }
    Err(Error::usage(format!(
        "an idempotency key has 1 to {IDEMPOTENCY_KEY_BYTES_MAX} visible ASCII characters; use a UUID"
    )))
}

/// A job as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// What kind of work.
    pub kind: String,
    /// 0 … 9; 9 goes first.
    pub priority: u8,
    /// How it stands.
    pub state: State,
    /// What to do, as JSON.
    pub input: String,
    /// Only these rungs, on top of what is there; `None`: all.
    pub rungs: Option<Vec<String>>,
    /// Who enqueued it.
    pub client: String,
    /// Attempts begun; the number of the latest one.
    pub attempt: i64,
    /// Attempts that failed.
    pub failures: i64,
    /// Failed attempts that make it dead.
    pub failures_max: i64,
    /// Not before, in microseconds since 1970.
    pub run_at_us: i64,
    /// Who has the lease.
    pub worker: Option<String>,
    /// When the lease ends, in microseconds since 1970.
    pub lease_until_us: Option<i64>,
    /// When the latest attempt began, in microseconds since 1970.
    pub started_us: Option<i64>,
    /// Media done by the running attempt, in microseconds.
    pub done_us: i64,
    /// Length of the media in microseconds, once it is known.
    pub total_us: Option<i64>,
    /// What came of it, as JSON.
    pub output: Option<String>,
    /// Of the latest failure.
    pub reason: Option<String>,
    /// The same for people.
    pub error: Option<String>,
    /// When it was enqueued, in microseconds since 1970.
    pub created_us: i64,
    /// When it reached its last state, in microseconds since 1970.
    pub finished_us: Option<i64>,
    /// Whether the running attempt was asked to stop.
    pub cancelling: bool,
    /// When `done_us` was said, in microseconds since 1970.
    pub updated_us: i64,
}

impl Job {
    /// Share of the media that is done, 0 to 1, once the length is known. 1 only when it is published.
    pub fn progress(&self) -> Option<f64> {
        match (self.state, self.total_us) {
            (State::Succeeded, _) => Some(1.0),
            (State::Leased, Some(total)) if total > 0 => {
                Some((self.done_us as f64 / total as f64).clamp(0.0, PROGRESS_MAX))
            }
            _ => None,
        }
    }

    /// Seconds that the running attempt will still take if it goes on as fast as it had until it last said how far it
    /// is; from then on they are counted down, to one.
    pub fn eta_s(&self, now_us: i64) -> Option<f64> {
        let (progress, started) = (self.progress()?, self.started_us?);
        let (took, since) = ((self.updated_us - started) as f64 / 1e6, (now_us - self.updated_us) as f64 / 1e6);
        // Before one part in thirty is done the start-up is most of what there is to go by.
        let known = self.state == State::Leased && progress >= 0.03;
        known.then(|| (took / progress - took - since.max(0.0)).max(1.0))
    }
}

/// The exclusive right to work on a job for a while.
#[derive(Clone, Debug, PartialEq)]
pub struct Lease {
    /// The job.
    pub job: JobId,
    /// The number of this attempt: whoever has a lower one has lost the lease.
    pub attempt: i64,
}

/// What a heartbeat says back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Go on.
    Yes,
    /// It is ours, and somebody wants it to stop.
    CancelAsked,
    /// Somebody else has it, or nobody: stop, and change nothing.
    Lost,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Done; what came of it, as JSON.
    Succeeded(String),
    /// Failed, and trying again may help.
    Failed(Reason, String),
    /// Failed, and will always fail.
    Refused(Reason, String),
    /// Stopped because somebody asked for it.
    Cancelled,
    /// Stopped because the worker stops; it does not count as a failure.
    HandedBack,
}

/// Why an attempt failed: a label of a metric, so the list is fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The input is not what it should be.
    Input,
    /// There is no such source.
    Missing,
    /// The source, or something else that it needs, did not answer.
    Unavailable,
    /// The decoder crashed on it, in its child.
    Crashed,
    /// It needed more memory than it may have.
    Memory,
    /// It took longer, or more processor time, than it may.
    Time,
    /// It made the decoder do what its sandbox forbids.
    Forbidden,
    /// The child was ended from outside.
    Killed,
    /// It did not move any more.
    Stalled,
    /// The worker died, or could not be heard.
    Lost,
    /// Our own fault or the machine's.
    Internal,
}

impl Reason {
    /// All of them.
    pub const ALL: [Reason; 11] = [
        Reason::Input,
        Reason::Missing,
        Reason::Unavailable,
        Reason::Crashed,
        Reason::Memory,
        Reason::Time,
        Reason::Forbidden,
        Reason::Killed,
        Reason::Stalled,
        Reason::Lost,
        Reason::Internal,
    ];

    /// Its name in the database and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Input => "input",
            Reason::Missing => "missing",
            Reason::Unavailable => "unavailable",
            Reason::Crashed => "crashed",
            Reason::Memory => "memory",
            Reason::Time => "time",
            Reason::Forbidden => "forbidden",
            Reason::Killed => "killed",
            Reason::Stalled => "stalled",
            Reason::Lost => "lost",
            Reason::Internal => "internal",
        }
    }

    /// The reason of this name.
    pub fn decode(text: &str) -> Option<Reason> {
        Reason::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}

/// One thing that happened to a job.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// 1, 2, … within its job.
    pub seq: i64,
    /// When, in microseconds since 1970.
    pub at_us: i64,
    /// `queued`, `started`, `rung`, `playable`, `published`, `succeeded`, `failed`, `dead`, `cancelled`, `handed_back`, `retried`.
    pub event: String,
    /// More about it.
    pub body: serde_json::Value,
}

/// What a running attempt has done at most: publishing is still to come.
const PROGRESS_MAX: f64 = 0.99;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_that_is_left_is_counted_down_and_never_absurd() {
        let second = |s: f64| (s * 1e6) as i64;
        let job = |done_s: f64, said_s: f64| Job {
            id: JobId::new(0),
            kind: transcode::KIND.into(),
            priority: PRIORITY,
            state: State::Leased,
            input: String::new(),
            rungs: None,
            client: String::new(),
            attempt: 1,
            failures: 0,
            failures_max: 5,
            run_at_us: 0,
            worker: None,
            lease_until_us: None,
            started_us: Some(second(100.0)),
            done_us: second(done_s),
            total_us: Some(second(200.0)),
            output: None,
            reason: None,
            error: None,
            created_us: 0,
            finished_us: None,
            cancelling: false,
            updated_us: second(said_s),
        };
        let check = |done_s: f64, said_s: f64, now_s: f64, eta_s: Option<f64>| {
            let found = job(done_s, said_s).eta_s(second(now_s));
            let same = found.zip(eta_s).map_or(found == eta_s, |(a, b)| (a - b).abs() < 1e-6);
            assert!(same, "{done_s} s done at {said_s}, at {now_s}: {found:?}, not {eta_s:?}");
        };
        check(0.0, 100.0, 101.0, None);
        check(5.0, 101.0, 101.0, None); // too early to tell
        check(50.0, 110.0, 110.0, Some(30.0));
        check(50.0, 110.0, 114.0, Some(26.0)); // nothing new: it does not climb
        check(50.0, 110.0, 200.0, Some(1.0)); // late, and still not done
        check(50.0, 110.0, 109.0, Some(30.0)); // the clock of another machine
        check(300.0, 110.0, 110.0, Some(1.0)); // more than was thought
        assert_eq!(job(300.0, 110.0).progress(), Some(0.99));
        assert_eq!(Job { state: State::Succeeded, ..job(300.0, 110.0) }.progress(), Some(1.0));
        assert_eq!(Job { state: State::Queued, ..job(50.0, 110.0) }.eta_s(second(111.0)), None);
    }

    #[test]
    fn the_legal_moves_are_these_and_no_others() {
        let legal: Vec<_> = State::ALL
            .into_iter()
            .flat_map(|from| State::ALL.into_iter().filter(move |to| from.may_become(*to)).map(move |to| (from, to)))
            .map(|(from, to)| format!("{}>{}", from.as_str(), to.as_str()))
            .collect();
        assert_eq!(
            legal,
            [
                "queued>leased",
                "queued>cancelled",
                "leased>queued",
                "leased>succeeded",
                "leased>dead",
                "leased>cancelled",
                "succeeded>queued",
                "dead>queued",
                "cancelled>queued",
            ]
        );
        for state in State::ALL {
            assert_eq!(State::decode(state.as_str()), Some(state));
            assert_eq!(state.is_final(), state != State::Queued && state != State::Leased);
        }
    }

    #[test]
    fn keys_are_visible_and_short() {
        assert!(check_idempotency_key("8a1f 00").is_ok());
        for bad in ["", "a\nb", "é", &"x".repeat(256)] {
            assert!(check_idempotency_key(bad).is_err(), "{bad:?}");
        }
    }
}
