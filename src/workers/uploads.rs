//! Looks at uploads all of whose bytes are here: two at a time, each until it is ready or refused. What cannot be
//! looked at, because the store or the scanner is away, waits and is tried again for as long as that takes.

use std::sync::Arc;
use std::time::Duration;

use metrics::counter;
use tokio::task::JoinSet;

use crate::base::shutdown::{Phase, Shutdown};
use crate::base::telemetry;
use crate::db::uploads::Verdict;
use crate::intake::Intake;
use crate::jobs::backoff::Backoff;
use crate::uploads::Upload;
use crate::workers::supervisor::Duty;

/// Uploads that are looked at at once: each is read from its first byte to its last.
const AT_ONCE: usize = 2;
/// Between two looks at one that could not be finished: 2 s, doubled up to a minute.
const BACKOFF: Backoff = Backoff { first: Duration::from_secs(2), most: Duration::from_secs(60) };

/// Looks until the process drains. A look that is cut off is another's after `options.lock`.
pub async fn run(intake: Arc<Intake>, poll: Duration, (duty, mut shutdown): (Duty, Shutdown)) {
    let put_off = counter!(telemetry::UPLOADS_PUT_OFF);
    put_off.increment(0);
    let mut looking = JoinSet::new();
    while shutdown.phase() == Phase::Running {
        while looking.len() < AT_ONCE {
            let now_us = intake.now_us();
            match intake.db.take_verifying(now_us, now_us + intake.options.lock.as_micros() as i64).await {
                Ok(Some((upload, attempt))) => {
                    looking.spawn(look(Arc::clone(&intake), upload, attempt, put_off.clone()));
                }
                Ok(None) => break,
                Err(error) => {
                    duty.failed(&error);
                    tracing::warn!(error = error.chain(), "cannot look for uploads");
                    break;
                }
            }
        }
        duty.ran();
        tokio::select! {
            Some(ended) = looking.join_next(), if !looking.is_empty() => {
                if let Err(cause) = ended {
                    tracing::error!(%cause, "looking at an upload panicked; it is looked at again");
                }
            }
            () = tokio::time::sleep(poll) => {}
            () = shutdown.reached(Phase::Draining) => {}
        }
    }
    looking.shutdown().await; // they begin anew elsewhere
}

async fn look(intake: Arc<Intake>, upload: Upload, attempt: i64, put_off: metrics::Counter) {
    let id = upload.id.as_str();
    let found = {
        let verifying = intake.verify(&upload);
        tokio::pin!(verifying);
        loop {
            tokio::select! {
                found = &mut verifying => break found,
                () = tokio::time::sleep(intake.options.lock / 3) => renew(&intake, &upload).await,
            }
        }
    };
    let settled = match &found {
        Ok(verdict) => intake.settle(&upload, verdict).await,
        Err(error) => {
            put_off.increment(1);
            tracing::warn!(upload = id, attempt, error = error.chain(), "cannot look at an upload; trying again");
            let at_us = intake.now_us() + BACKOFF.delay_us(attempt);
            intake.put_off(&upload, error, at_us).await.map(|()| false)
        }
    };
    match (settled, found) {
        (Err(error), _) => tracing::warn!(upload = id, error = error.chain(), "what was found is found again"),
        (Ok(true), Ok(Verdict::Ready { mime, .. })) => tracing::info!(upload = id, mime, "an upload is ready"),
        (Ok(true), Ok(Verdict::Refused(reason, why))) => {
            tracing::info!(upload = id, reason = reason.as_str(), why, "an upload is refused");
        }
        _ => {}
    }
}

async fn renew(intake: &Intake, upload: &Upload) {
    let until_us = intake.now_us() + intake.options.lock.as_micros() as i64;
    if let Err(error) = intake.db.keep_verifying(&upload.id, until_us).await {
        tracing::warn!(upload = upload.id.as_str(), error = error.chain(), "another may look at it too");
    }
}
