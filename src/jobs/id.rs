//! Ids that sort by the time they were made, so that lists and queues need no other order.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::base::{Error, Result};

/// Crockford's base 32, lowercase: no letters that look like digits.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// The id of a job: `job_`, 10 characters of time in milliseconds, 16 random ones.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(String);

/// A new id with this prefix: 48 bits of time, 80 random ones, as a ULID has.
pub fn sortable(prefix: &str, now_us: i64) -> String {
    let mut random = [0u8; 10];
    getrandom::fill(&mut random).expect("the operating system gives random bytes");
    let mut bytes = [0; 16];
    bytes[6..].copy_from_slice(&random);
    let bits = u128::from_be_bytes(bytes) | ((now_us / 1000) as u128 & 0xffff_ffff_ffff) << 80;
    let digits = (0..26).rev().map(|place| ALPHABET[(bits >> (place * 5)) as usize & 31] as char);
    prefix.chars().chain(digits).collect()
}

impl JobId {
    /// A new one.
    pub fn new(now_us: i64) -> JobId {
        JobId(sortable("job_", now_us))
    }

    /// Reads an id; `None` for anything that we would not make.
    pub fn decode(text: &str) -> Option<JobId> {
        let digits = text.strip_prefix("job_")?;
        let ours = digits.len() == 26 && digits.bytes().all(|b| ALPHABET.contains(&b));
        ours.then(|| JobId(text.to_owned()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for JobId {
    type Err = Error;
    fn from_str(text: &str) -> Result<JobId> {
        JobId::decode(text).ok_or_else(|| {
            Error::invalid(format!("{text:?} is not a job id (job_ and 26 characters); `segue jobs list` shows them"))
        })
    }
}

impl Serialize for JobId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_time_and_come_back() {
        let ids: Vec<_> = [1_000, 1_700_000_000_000_000, 1_700_000_000_001_000, i64::MAX].map(JobId::new).into();
        assert!(ids.is_sorted(), "{ids:?}");
        assert_ne!(JobId::new(5_000), JobId::new(5_000));
        for id in &ids {
            assert_eq!(JobId::decode(id.as_str()).as_ref(), Some(id));
        }
        for bad in ["", "job_", "job_01", "trk_01hq0000000000000000000000", "job_01HQ0000000000000000000000"] {
            assert_eq!(JobId::decode(bad), None, "{bad}");
        }
    }
}
