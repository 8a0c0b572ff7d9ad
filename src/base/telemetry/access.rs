//! The access log: one line for a request, when it is wanted. Off the way of a hit: the question costs
//! one load, and the line goes through the queue of `log`.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::rate::PerSecond;
use crate::base::redact;

/// The target of its lines, for filters.
pub(super) const TARGET: &str = "segue::access";
/// A longer path is cut.
const PATH_BYTES_MAX: usize = 1_024;

/// Which requests get a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Access {
    /// None.
    Off = 0,
    /// Answers of 400 and above, so many a second.
    #[default]
    Errors = 1,
    /// Every one.
    All = 2,
}

/// Off until the log is started.
static WANTED: AtomicU8 = AtomicU8::new(Access::Off as u8);
static ERRORS_PER_S_MAX: AtomicU32 = AtomicU32::new(0);
static ERRORS: PerSecond = PerSecond::new();
static SUPPRESSED: AtomicU64 = AtomicU64::new(0);

pub(super) fn start(wanted: Access, errors_per_s_max: u32) {
    ERRORS_PER_S_MAX.store(errors_per_s_max, Ordering::Relaxed);
    WANTED.store(wanted as u8, Ordering::Relaxed);
}

/// Lines about errors left out so far because there were too many in a second.
pub(super) fn suppressed() -> u64 {
    SUPPRESSED.load(Ordering::Relaxed)
}

/// Whether even an answer that went well gets a line.
pub fn wants_all() -> bool {
    WANTED.load(Ordering::Relaxed) == Access::All as u8
}

/// Whether an answer of this status gets a line. Takes it from the budget: ask once.
pub fn wants(status: u16) -> bool {
    match WANTED.load(Ordering::Relaxed) {
        2 => true,
        1 if status >= 400 => {
            let within = ERRORS.take(ERRORS_PER_S_MAX.load(Ordering::Relaxed));
            SUPPRESSED.fetch_add(u64::from(!within), Ordering::Relaxed);
            within
        }
        _ => false,
    }
}

/// What a line says.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'e> {
    /// `GET`.
    pub method: &'e str,
    /// Path and query as they came; redacted here.
    pub target: &'e str,
    /// The template, as in the metrics.
    pub route: &'e str,
    /// The answer's.
    pub status: u16,
    /// Of the body, as announced; the client may have left before.
    pub body_bytes: u64,
    /// Until the head of the answer was ready.
    pub took: Duration,
    /// The CDN's or ours.
    pub request_id: &'e str,
    /// Only its prefix is logged.
    pub client: IpAddr,
}

/// Writes the line. Ask `wants` before.
pub fn log(entry: &Entry<'_>) {
    let path = path(entry.target);
    let (method, client) = (entry.method, redact::address(entry.client));
    let took_us = entry.took.as_micros() as u64;
    tracing::info!(
        target: TARGET,
        route = entry.route,
        status = entry.status,
        body_bytes = entry.body_bytes,
        took_us,
        request_id = entry.request_id,
        client,
        "{method} {path}"
    );
}

/// A path and query that may be shown: redacted, and cut when it is long.
pub fn path(target: &str) -> Cow<'_, str> {
    let mut end = target.len().min(PATH_BYTES_MAX);
    while !target.is_char_boundary(end) {
        end -= 1;
    }
    redact::text(&target[..end])
}
