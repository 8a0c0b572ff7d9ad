//! Limits as requests meet them. In: a limit. Out: whether there is one more, and what is left.
//!
//! What is left is in the database, for all nodes. A node takes some of a rate, or of a large quota, at once and spends them without asking
//! again, so that most requests cost no statement; together the nodes never grant more than the limit says. A refusal is
//! remembered for a moment: who keeps knocking does not keep the database busy.

use std::collections::HashMap;
use std::sync::Mutex;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use metrics::counter;

use super::problem::Problem;
use crate::auth::throttle::{Limit, Taken, seconds};
use crate::base::clock::Clock;
use crate::base::{Result, telemetry};
use crate::db::Db;

/// Buckets remembered at most; beyond, all are forgotten, which costs a statement each and grants nothing.
const PURSES_MAX: usize = 20_000;
/// How long what was taken at once of a rate may be spent, in microseconds; of a quota until its window ends.
const SPEND_US: i64 = 60_000_000;
/// How long a refusal is remembered at most, in microseconds.
const REFUSED_US: i64 = 1_000_000;

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// Takes from limits.
#[derive(Debug)]
pub struct Limiter {
    db: Db,
    clock: Clock,
    purses: Mutex<HashMap<String, Purse>>,
}

/// What this node has of a bucket.
#[derive(Clone, Copy, Debug)]
struct Purse {
    /// Granted and not spent.
    have: i64,
    /// The database had none.
    refused: bool,
    /// What the database had left then.
    left: i64,
    /// When it has more.
    more_us: i64,
    /// Until when this may be spent, or believed.
    until_us: i64,
}

impl Limiter {
    /// Over this database.
    pub fn new(db: Db, clock: Clock) -> Limiter {
        for name in ["user", "anonymous", "program", "key-read", "key-write", "login"] {
            counter!(telemetry::RATE_LIMITED, "limit" => name).increment(0); // a rate needs a zero to begin at
        }
        Limiter { db, clock, purses: Mutex::default() }
    }

    /// Takes one.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn take(&self, limit: &Limit) -> Result<Taken> {
        let (bucket, now_us) = (limit.bucket(), self.clock.unix_us());
        if let Some(taken) = self.spend(&bucket, now_us) {
            return Ok(taken);
        }
        let taken = self.db.take(limit, limit.at_once(), now_us).await?;
        let lasts_us = if limit.keeps() { taken.wait_us } else { SPEND_US };
        self.put(bucket, taken, lasts_us, now_us);
        let spare = (taken.granted - 1).max(0);
        Ok(Taken { granted: taken.granted.min(1), left: taken.left + spare, ..taken })
    }

    /// Takes one of each, all or the answer that refuses: the first that has none.
    ///
    /// # Errors
    /// A problem that says how long to wait, or that the database cannot be reached.
    pub async fn pass(&self, limits: &[Limit]) -> Result<(), Problem> {
        for limit in limits {
            let taken = self.take(limit).await?;
            if taken.granted == 0 {
                return Err(refused(limit, &taken));
            }
        }
        Ok(())
    }

    /// Forgets what was taken.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn forgive(&self, limit: &Limit) -> Result<()> {
        self.purses().remove(&limit.bucket());
        self.db.forgive(limit).await
    }

    fn spend(&self, bucket: &str, now_us: i64) -> Option<Taken> {
        let mut purses = self.purses();
        let purse = purses.get_mut(bucket).filter(|purse| purse.until_us > now_us)?;
        if purse.have > 0 {
            purse.have -= 1;
            let wait_us = (purse.more_us - now_us).max(0);
            return Some(Taken { granted: 1, left: purse.left + purse.have, wait_us });
        }
        // Spent: ask again. Refused: it still is.
        purse.refused.then(|| Taken { granted: 0, left: 0, wait_us: (purse.more_us - now_us).max(1) })
    }

    fn put(&self, bucket: String, taken: Taken, lasts_us: i64, now_us: i64) {
        let refused = taken.granted == 0;
        let lasts_us = if refused { taken.wait_us.min(REFUSED_US) } else { lasts_us };
        let mut purses = self.purses();
        // Another request took some meanwhile: what both brought is there.
        let there = purses.get(&bucket).filter(|known| known.until_us > now_us).map_or(0, |known| known.have);
        let have = there + (taken.granted - 1).max(0);
        if have == 0 && !refused {
            purses.remove(&bucket);
            return;
        }
        if purses.len() >= PURSES_MAX && !purses.contains_key(&bucket) {
            purses.retain(|_, purse| purse.until_us > now_us);
            if purses.len() >= PURSES_MAX {
                purses.clear();
            }
        }
        let purse =
            Purse { have, refused, left: taken.left, more_us: now_us + taken.wait_us, until_us: now_us + lasts_us };
        purses.insert(bucket, purse);
    }

    fn purses(&self) -> std::sync::MutexGuard<'_, HashMap<String, Purse>> {
        self.purses.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Says what is left of a limit (draft-ietf-httpapi-ratelimit-headers-11).
pub fn tell(headers: &mut HeaderMap, limit: &Limit, taken: &Taken) {
    let value = |text: String| HeaderValue::try_from(text).expect("names and numbers are ASCII");
    headers.append(POLICY, value(limit.policy()));
    headers.append(LIMIT, value(limit.state(taken)));
}

/// 429: what there is too much of, and when to come back.
pub fn refused(limit: &Limit, taken: &Taken) -> Problem {
    counter!(telemetry::RATE_LIMITED, "limit" => limit.name).increment(1);
    let wait_s = seconds(taken.wait_us).max(1);
    let detail = format!("the limit \"{}\" is used up; come back in {wait_s} s", limit.name);
    let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate-limit", "Too many requests", detail);
    problem.retry_after(wait_s).violating(limit, taken)
}
