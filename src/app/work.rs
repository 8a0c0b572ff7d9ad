//! The queue's side of a serving process: the pool, who looks at uploads, the janitor, the sampler, the callbacks.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::base::Result;
use crate::base::clock::Clock;
use crate::base::shutdown::Shutdown;
use crate::config::Config;
use crate::db::Db;
use crate::intake::Intake;
use crate::jobs::backoff::Backoff;
use crate::providers::mail;
use crate::store::Store;
use crate::workers::supervisor::{Duty, Supervisor, Working};
use crate::workers::{self, callbacks, janitor, metrics, purges};

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
    let settings = &config.worker;
    let (poll, term) = (Duration::from_millis(settings.poll_ms), Duration::from_secs(settings.lease_s));
    let backoff = Backoff { first: Duration::from_secs(settings.backoff_s), ..Backoff::default() };
    let ground = Ground {
        db: db.clone(),
        store: store.clone(),
        intake: Arc::clone(intake),
        node: workers::name(),
        shutdown: shutdown.clone(),
    };
    let (node, watched) = (ground.node.clone(), shutdown.clone());
    let mut all = Supervisor::new(db.clone(), node.clone(), Clock::Service, watched, runtime.clone());
    #[cfg(feature = "transcode")]
    {
        let options = pool_options(config, alone, backoff);
        ground.start(&mut all, "pool", poll, move |at, duty| {
            let pool = workers::transcode::Pool::new(at.parts(), options.clone(), Clock::Service, (at.node, duty));
            pool.run(at.shutdown)
        });
    }
    #[cfg(not(feature = "transcode"))]
    let _ = alone;
    let keep = Duration::from_secs(settings.keep_days * 86_400);
    let tidy = janitor::Options { backoff, keep };
    ground.start(&mut all, "janitor", term / 3, move |at, duty| {
        janitor::run(at.parts(), tidy, Clock::Service, at.node, (duty, at.shutdown))
    });
    ground
        .start(&mut all, "uploads", poll, move |at, duty| workers::uploads::run(at.intake, poll, (duty, at.shutdown)));
    if config.auth.accounts {
        let options = workers::people::Options { term, poll, backoff };
        let config = config.clone();
        ground.start(&mut all, "accounts", poll, move |at, duty| {
            let people = super::accounts::people(&config, (&at.db, &at.store, &at.intake));
            workers::people::run(people, options, Clock::Service, at.node, (duty, at.shutdown))
        });
    }
    if !config.callbacks.secrets.is_empty() {
        let options = callbacks::Options {
            secrets: config.callbacks.secrets.iter().map(|text| callbacks::secret(text)).collect(),
            private_hosts: config.callbacks.private_hosts.clone(),
            poll,
        };
        ground.start(&mut all, "callbacks", poll, move |at, duty| {
            callbacks::run(at.db, options.clone(), Clock::Service, (duty, at.shutdown))
        });
    }
    if let Some(sender) = super::accounts::mail(config, base_url)? {
        let sender = Arc::new(sender);
        ground.start(&mut all, "mail", Duration::from_millis(config.mail.poll_ms), move |at, duty| {
            mail::run(Arc::clone(&sender), at.db, Clock::Service, (duty, at.shutdown))
        });
    }
    if let Some((provider, url)) = super::purger(config) {
        let options = purges::Options { provider, url, poll, backoff, try_max: Duration::from_secs(10) };
        ground.start(&mut all, "purges", poll, move |at, duty| {
            purges::run(at.db, options.clone(), Clock::Service, (duty, at.shutdown))
        });
    }
    super::payments::start(config, db, &node, shutdown, &mut all);
    let reachable = Arc::new(AtomicBool::new(true)); // it was opened a moment ago
    let seen = Arc::clone(&reachable);
    ground.start(&mut all, "sampler", metrics::SAMPLE_EVERY, move |at, duty| {
        metrics::run(at.db, Clock::Service, Arc::clone(&seen), (duty, at.shutdown))
    });
    tracing::info!(worker = node, "working on the queue");
    Ok((all.watched(), reachable))
}

/// What workers stand on: each is made anew from it when it has died.
#[derive(Clone)]
struct Ground {
    db: Db,
    store: Store,
    intake: Arc<Intake>,
    /// What this process is called.
    node: String,
    shutdown: Shutdown,
}

impl Ground {
    fn parts(&self) -> (Db, Store, Arc<Intake>) {
        (self.db.clone(), self.store.clone(), Arc::clone(&self.intake))
    }

    fn start<F: Future<Output = ()> + Send + 'static>(
        &self,
        all: &mut Supervisor,
        name: &'static str,
        every: Duration,
        work: impl Fn(Ground, Duty) -> F + Send + 'static,
    ) {
        let ground = self.clone();
        all.start(name, every, move |duty| work(ground.clone(), duty));
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
