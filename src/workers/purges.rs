//! Asks a CDN to forget. In: purges whose time has come. Out: requests to its API, tried again until they are done.
//!
//! A takedown is a promise, so nothing is given up soon: what an API refuses is asked for again too, an hour apart at
//! last, because the usual cause is a key that somebody is about to correct.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::{Request, Uri, header};
use metrics::{Counter, counter};
use tokio::task::JoinSet;

use super::http::{Client, Peer};
use super::supervisor::Duty;
use crate::base::clock::Clock;
use crate::base::shutdown::{Phase, Shutdown};
use crate::base::telemetry;
use crate::base::{Error, Kind, Result};
use crate::cdn::purge::{ANSWER_BYTES_MAX, Answer, Provider};
use crate::db::Db;
use crate::db::purges::{Purge, Tried};
use crate::jobs::backoff::Backoff;

/// Whom to ask, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whose API.
    pub provider: Provider,
    /// Where it is.
    pub url: String,
    /// How often an idle worker looks for purges.
    pub poll: Duration,
    /// When one that failed is asked for again.
    pub backoff: Backoff,
    /// The longest a try may take.
    pub try_max: Duration,
}

/// Requests that are on their way at once: Bunny takes five a second.
const AT_ONCE: u32 = 4;

/// Asks until the process drains.
pub async fn run(db: Db, options: Options, clock: Clock, (duty, mut shutdown): (Duty, Shutdown)) {
    let asker = Arc::new(Asker::new(options));
    while shutdown.phase() == Phase::Running {
        let now_us = clock.unix_us();
        // Twice the time of a try: whoever dies in the middle leaves it to another.
        let until_us = now_us + 2 * asker.options.try_max.as_micros() as i64;
        let due = match db.take_purges(AT_ONCE, now_us, until_us).await {
            Ok(due) => due,
            Err(error) => {
                duty.failed(&error);
                tracing::warn!(error = error.chain(), "cannot look for purges");
                Vec::new()
            }
        };
        let idle = due.is_empty();
        let mut tries = JoinSet::new();
        for purge in due {
            let (asker, db, clock, duty) = (Arc::clone(&asker), db.clone(), clock.clone(), duty.clone());
            tries.spawn(async move {
                let tried = asker.ask(&purge, &clock).await;
                if let Tried::Failed(why, _) = &tried {
                    duty.failed(&Error::new(Kind::Unavailable, why.clone()));
                }
                if let Err(error) = db.settle_purge(&purge, &tried, asker.options.backoff, clock.unix_us()).await {
                    tracing::warn!(error = error.chain(), "cannot note a purge; it will be asked for again");
                }
            });
        }
        while tries.join_next().await.is_some() {}
        duty.ran();
        if idle {
            tokio::select! {
                () = tokio::time::sleep(asker.options.poll) => {}
                () = shutdown.reached(Phase::Draining) => {}
            }
        }
    }
}

struct Asker {
    options: Options,
    client: Client,
    done: Counter,
    failed: Counter,
    refused: Counter,
}

impl Asker {
    fn new(options: Options) -> Asker {
        let by = |outcome: &'static str| counter!(telemetry::PURGES, "outcome" => outcome);
        Asker { options, client: Client::new(), done: by("done"), failed: by("failed"), refused: by("refused") }
    }

    async fn ask(&self, purge: &Purge, clock: &Clock) -> Tried {
        let most = self.options.try_max;
        let late = || Error::new(Kind::Unavailable, format!("no answer within {} s", most.as_secs()));
        let answered = tokio::time::timeout(most, self.send(purge, clock)).await.unwrap_or_else(|_| Err(late()));
        let (kind, value) = purge.what.parts();
        match answered {
            Ok(Answer::Done) => {
                self.done.increment(1);
                tracing::info!(kind, value, tries = purge.number, "the CDN has forgotten it");
                Tried::Done
            }
            Ok(Answer::Later(wait, why)) => {
                self.failed.increment(1);
                tracing::warn!(kind, value, why, "the CDN's API does not purge now; asking again");
                Tried::Failed(why, wait.map(|wait| wait.as_micros() as i64))
            }
            Ok(Answer::Refused(why)) => {
                self.refused.increment(1);
                tracing::error!(kind, value, why, "the CDN's API refuses to purge; check the keys below cdn");
                Tried::Failed(why, None)
            }
            Err(error) => {
                self.failed.increment(1);
                tracing::warn!(kind, value, error = error.chain(), "the CDN's API cannot be asked; trying again");
                Tried::Failed(error.chain(), None)
            }
        }
    }

    async fn send(&self, purge: &Purge, clock: &Clock) -> Result<Answer> {
        let now = UNIX_EPOCH + Duration::from_secs(clock.unix_s());
        let request = self.options.provider.request(&self.options.url, &purge.id, &purge.what, now)?;
        let peer = Peer::of(request.uri())?;
        let answer = self.client.send(&peer, &peer.addresses().await?, targeted(request)?, ANSWER_BYTES_MAX).await?;
        let after = answer.headers.get(header::RETRY_AFTER).and_then(|after| after.to_str().ok());
        Ok(self.options.provider.judge(answer.status.as_u16(), after, &answer.body, SystemTime::now()))
    }
}

/// HTTP/1.1 names the host in a header and the path as the target.
fn targeted<B>(mut request: Request<B>) -> Result<Request<B>> {
    let uri = request.uri().clone();
    let unusable = || Error::invalid("the URL of the CDN's API cannot be used");
    let authority = uri.authority().ok_or_else(unusable)?;
    let host = header::HeaderValue::try_from(authority.as_str()).map_err(|_| unusable())?;
    request.headers_mut().insert(header::HOST, host);
    let agent = header::HeaderValue::from_static(concat!("segue/", env!("CARGO_PKG_VERSION")));
    request.headers_mut().insert(header::USER_AGENT, agent);
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    *request.uri_mut() = target.parse::<Uri>().map_err(|_| unusable())?;
    Ok(request)
}
