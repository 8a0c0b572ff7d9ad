//! The queue's side of a serving process: the pool, who looks at uploads, the janitor, the sampler, the callbacks.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::base::Result;
use crate::base::clock::Clock;
use crate::base::shutdown::Shutdown;
use crate::config::Config;
use crate::db::Db;
use crate::intake::Intake;
use crate::jobs::backoff::Backoff;
use crate::store::Store;
use crate::workers::{self, callbacks, janitor, purges};

/// What runs beside requests.
pub(super) struct Working(Vec<(&'static str, JoinHandle<()>)>);

/// Starts everything that works on the queue, and says where it is seen whether the database answers.
/// `alone`: no listeners share this machine's cores with it. `base_url`: what links in mails begin with.
///
/// # Errors
/// `Usage` for settings of mail that cannot be used.
pub(super) fn start(
    config: &Config,
    (db, store, intake): (&Db, &Store, &Arc<Intake>),
    (alone, base_url): (bool, &str),
    shutdown: &Shutdown,
    runtime: &Handle,
) -> Result<(Working, Arc<AtomicBool>)> {
    let name = workers::name();
    let settings = &config.worker;
    let backoff = Backoff { first: Duration::from_secs(settings.backoff_s), ..Backoff::default() };
    let mut tasks = Vec::new();
    #[cfg(feature = "transcode")]
    {
        let pool = workers::transcode::Pool::new(
            (db.clone(), store.clone(), Arc::clone(intake)),
            pool_options(config, alone, backoff),
            Clock::Service,
            name.clone(),
        );
        tasks.push(("pool", runtime.spawn(pool.run(shutdown.clone()))));
    }
    #[cfg(not(feature = "transcode"))]
    let _ = alone;
    let tidy = janitor::Options {
        every: Duration::from_secs(settings.lease_s) / 3,
        backoff,
        keep: Duration::from_secs(settings.keep_days * 86_400),
    };
    let janitor = janitor::run(
        (db.clone(), store.clone(), Arc::clone(intake)),
        tidy,
        Clock::Service,
        name.clone(),
        shutdown.clone(),
    );
    tasks.push(("janitor", runtime.spawn(janitor)));
    let looking = workers::uploads::run(Arc::clone(intake), Duration::from_millis(settings.poll_ms), shutdown.clone());
    tasks.push(("uploads", runtime.spawn(looking)));
    if config.auth.accounts {
        let options = workers::people::Options {
            term: Duration::from_secs(settings.lease_s),
            poll: Duration::from_millis(settings.poll_ms),
            backoff,
        };
        let people = super::accounts::people(config, (db, store, intake));
        let working = workers::people::run(people, options, Clock::System, name.clone(), shutdown.clone());
        tasks.push(("accounts", runtime.spawn(working)));
    }
    if !config.callbacks.secrets.is_empty() {
        let options = callbacks::Options {
            secrets: config.callbacks.secrets.iter().map(|text| callbacks::secret(text)).collect(),
            private_hosts: config.callbacks.private_hosts.clone(),
            poll: Duration::from_millis(settings.poll_ms),
        };
        let sender = callbacks::run(db.clone(), options, Clock::Service, shutdown.clone());
        tasks.push(("callbacks", runtime.spawn(sender)));
    }
    if let Some(sender) = super::accounts::mail(config, base_url)? {
        let sending = crate::providers::mail::run(sender, db.clone(), Clock::Service, shutdown.clone());
        tasks.push(("mail", runtime.spawn(sending)));
    }
    if let Some((provider, url)) = super::purger(config) {
        let options = purges::Options {
            provider,
            url,
            poll: Duration::from_millis(settings.poll_ms),
            backoff,
            try_max: Duration::from_secs(10),
        };
        let asker = purges::run(db.clone(), options, Clock::Service, shutdown.clone());
        tasks.push(("purges", runtime.spawn(asker)));
    }
    tasks.extend(super::payments::start(config, db, &name, shutdown, runtime));
    let reachable = Arc::new(AtomicBool::new(true)); // it was opened a moment ago
    let sampler = workers::metrics::run(db.clone(), Clock::Service, Arc::clone(&reachable), shutdown.clone());
    tasks.push(("sampler", runtime.spawn(sampler)));
    tracing::info!(worker = name, "working on the queue");
    Ok((Working(tasks), reachable))
}

impl Working {
    /// Waits for the end of all of it; what hands back leases must have done so before the process ends.
    pub(super) async fn ended(self, most: Duration) {
        let all = async {
            for (name, task) in self.0 {
                if let Err(cause) = task.await {
                    tracing::error!(%cause, name, "a task of the queue ended badly");
                }
            }
        };
        if tokio::time::timeout(most, all).await.is_err() {
            tracing::warn!("attempts did not stop in time; their leases will expire");
        }
    }
}

#[cfg(feature = "transcode")]
fn pool_options(config: &Config, alone: bool, backoff: Backoff) -> workers::transcode::Options {
    let settings = &config.worker;
    let machine = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
    let cores = match settings.cores {
        0 if alone => machine,
        0 => machine.div_ceil(2),
        cores => cores,
    };
    workers::transcode::Options {
        whole: crate::jobs::Cost { cpu_milli: cores.saturating_mul(1000), memory_bytes: settings.memory_bytes },
        term: Duration::from_secs(settings.lease_s),
        poll: Duration::from_millis(settings.poll_ms),
        stall: Duration::from_secs(settings.stall_s),
        backoff,
        source_valid: Duration::from_secs(config.store.s3.source_url_s),
        transcode: super::transcode_options(config),
    }
}
