//! A job as people and programs see it: the API, its events and the command line say the same.

use serde_json::{Value, json};

use super::{Event, Job, State};
use crate::base::clock::rfc3339;
use crate::base::redact;

/// The job at `now_us` as JSON. Fields that are not known yet are null.
pub fn job(job: &Job, now_us: i64) -> Value {
    let input: Value = serde_json::from_str(&job.input).unwrap_or_default();
    let output: Value = job.output.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    json!({
        "id": job.id,
        "kind": job.kind,
        "state": job.state,
        "priority": job.priority,
        // A presigned URL is a credential.
        "source": input["source"].as_str().map(redact::text),
        "track": input["track"],
        "title": input["title"],
        "callback": input["callback"],
        "rungs": job.rungs,
        "progress": job.progress(),
        "eta_s": job.eta_s(now_us).map(|eta_s| eta_s.round()),
        "attempt": job.attempt,
        "failures": job.failures,
        "failures_max": job.failures_max,
        "worker": job.worker,
        "cancelling": job.cancelling,
        "reason": job.reason,
        "error": job.error,
        "output": output,
        "client": job.client,
        "created_at": rfc3339(job.created_us),
        "started_at": job.started_us.map(rfc3339),
        "run_at": (job.state == State::Queued).then(|| rfc3339(job.run_at_us)),
        "finished_at": job.finished_us.map(rfc3339),
    })
}

/// An event as JSON.
pub fn event(event: &Event) -> Value {
    json!({ "seq": event.seq, "at": rfc3339(event.at_us), "event": event.event, "data": event.body })
}
