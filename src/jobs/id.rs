//! The ids of jobs.

use crate::base::id::sortable_id;

sortable_id!(
    /// The id of a job: `job_`, 10 characters of time in milliseconds, 16 random ones.
    JobId, "job_", "job id", "; `segue jobs list` shows them"
);
