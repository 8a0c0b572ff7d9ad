//! Work on all that is here of one person: an archive of it, or its end.
//!
//! The jobs name a row that says who it is, and not the person: they are remembered when the person is not.

use serde::{Deserialize, Serialize};

use super::{Cost, NewJob, PRIORITY};
use crate::base::id::sortable_id;
use crate::base::{Error, Result};

/// What a job is called that makes an archive.
pub const EXPORT: &str = "export";
/// What a job is called that erases somebody.
pub const ERASE: &str = "erase";
/// Who enqueues them. No program can have this name, so that nobody lists them as theirs.
pub const CLIENT: &str = "segue: accounts";
/// Failed attempts until a person has to look: about a day and a half.
const FAILURES_MAX: u32 = 40;

sortable_id!(
    /// The name of an archive.
    ExportId, "exp_", "export id", "; GET /api/v1/users/me/exports lists them"
);
sortable_id!(
    /// The name of somebody's wish to be forgotten.
    ErasureId, "era_", "erasure id", ""
);

#[derive(Deserialize, Serialize)]
struct Input<Id> {
    id: Id,
}

/// The job that makes this archive.
pub fn export(id: &ExportId) -> NewJob {
    job(EXPORT, serde_json::to_string(&Input { id }))
}

/// The job that hides somebody's tracks, and erases them when the time has come.
pub fn erase(id: &ErasureId) -> NewJob {
    job(ERASE, serde_json::to_string(&Input { id }))
}

fn job(kind: &'static str, input: serde_json::Result<String>) -> NewJob {
    NewJob {
        kind,
        priority: PRIORITY,
        input: input.expect("plain data always serialises"),
        client: CLIENT.into(),
        idempotency_key: None,
        cost: Cost { cpu_milli: 100, memory_bytes: 32 << 20 },
        failures_max: FAILURES_MAX,
    }
}

/// What a job names.
///
/// # Errors
/// `Internal` when we did not write it.
pub fn named<Id: for<'de> Deserialize<'de>>(input: &str) -> Result<Id> {
    let read: serde_json::Result<Input<Id>> = serde_json::from_str(input);
    read.map(|input| input.id).map_err(|cause| Error::internal("a job's input cannot be read").because(cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_names_its_row_and_nobody() {
        let (export_id, erasure_id) = (ExportId::new(1), ErasureId::new(1));
        assert_eq!(named::<ExportId>(&export(&export_id).input).unwrap(), export_id);
        assert_eq!(named::<ErasureId>(&erase(&erasure_id).input).unwrap(), erasure_id);
        assert!(named::<ExportId>(&erase(&erasure_id).input).is_err(), "one is not the other");
        assert!(!CLIENT.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)), "no key is called so");
    }
}
