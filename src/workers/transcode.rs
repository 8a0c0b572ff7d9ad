//! The transcoding pool: leases jobs that fit, runs each in a child process, keeps the lease while it runs,
//! and publishes what came of it if the lease is still ours.
//!
//! ```text
//! lease ─▶ thread: stage ▶ child ▶ place the version, which nothing refers to yet
//!   ▲         │       │   heartbeat every 2 s, or third of the term; stopped by cancel, drain, a lost lease, no progress
//!   │         │       └─▶ a rung is whole: fence, event
//!   │         │           the first rung and the preview are whole: place them as a version; fence, event, a first record
//!   │         ▼
//!   └──── one transaction: fence, events, settle, the track's record
//! ```
//!
//! Any step may run twice: a version is named by its content, so whoever places it second changes nothing. The first
//! record of a track replaces nothing, so it can come too late but never instead of a better one.

use std::collections::{HashMap, HashSet};
use std::net::ToSocketAddrs as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::MissedTickBehavior;
use tracing::Instrument as _;

use super::metrics::Attempts;
use super::supervisor::Duty;
use crate::base::clock::Clock;
use crate::base::error::Context as _;
use crate::base::id::TrackId;
use crate::base::shutdown::{Phase, Shutdown};
use crate::base::{Error, Kind, Result};
use crate::catalogue;
use crate::db::Db;
use crate::db::jobs::{guard, record, settle};
use crate::hls::ladder::video::Choice;
use crate::hls::playlist::PREVIEW_DIRECTORY;
use crate::hls::version::{Object, Rung, VersionIndex};
use crate::intake::{self, Intake};
use crate::jobs::backoff::Backoff;
use crate::jobs::transcode::{KIND, Wish};
use crate::jobs::{Budget, Cost, Held, Job, Lease, Outcome, Reason, State};
use crate::publish;
use crate::store::{SOURCE_SCHEME, Staging, Store};
use crate::tracks::{self, Track};
use crate::transcode::{self, Allowed, Input, Progress, Remote, Resign};
use crate::uploads::UploadId;

/// How the pool works.
#[derive(Clone, Debug)]
pub struct Options {
    /// What it may occupy.
    pub whole: Cost,
    /// How long a lease lasts without a heartbeat.
    pub term: Duration,
    /// How often an idle pool looks for work.
    pub poll: Duration,
    /// How long an attempt may stand still.
    pub stall: Duration,
    /// When a failed attempt is followed by the next.
    pub backoff: Backoff,
    /// How long a URL is valid by which a source is read from the bucket.
    pub source_valid: Duration,
    /// What a transcode may cost.
    pub transcode: transcode::Options,
}

/// A pool of attempts. `run` is its whole life.
#[derive(Debug)]
pub struct Pool {
    db: Db,
    store: Store,
    intake: Arc<Intake>,
    options: Options,
    clock: Clock,
    name: String,
    duty: Duty,
    attempts: Attempts,
}

/// Why an attempt is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Cancelled,
    Draining,
    Lost,
    Stalled,
}

/// How far transcodes stand behind everything else: with 10 they get a tenth of what a listener's thread gets
/// while both want the same core (sched(7)).
const NICE: i32 = 10;

/// The longest between two heartbeats: who watches a job sees it move, and one that was cancelled stops soon. One small
/// statement by primary key for each running job.
const BEAT_MAX: Duration = Duration::from_secs(2);

/// News of a thread that wait to be told: every rung of any ladder, and one that can be played.
const NEWS_MAX: usize = 64;

/// What a thread tells while it works. Not waited for: what does not fit is told at the end.
enum News {
    /// A rung is whole.
    Rung { path: String, event: Value },
    /// The first rung and the preview are, and nothing of the track is shown yet.
    Playable(Box<First>),
}

/// A version of what is whole, staged.
struct First {
    staging: Staging,
    track: TrackId,
    title: String,
    index: VersionIndex,
}

/// How an attempt's thread ended.
struct Watched {
    made: Result<Made>,
    stopped: Option<Stop>,
    /// Rungs whose events are written.
    told: HashSet<String>,
}

/// What an attempt and its thread share.
#[derive(Debug, Default)]
struct Live {
    stop: AtomicBool,
    /// Microseconds of media that every rung has.
    done_us: AtomicI64,
    /// Length of the media in microseconds; 0 while unknown.
    total_us: AtomicI64,
}

/// What a thread does.
struct Work {
    wish: Wish,
    input: Input,
    options: transcode::Options,
}

/// What a thread made: a version that is whole, and the record that would make the track show it.
struct Made {
    track: Track,
    index: VersionIndex,
}

impl Pool {
    /// A pool that is not running yet.
    pub fn new(
        (db, store, intake): (Db, Store, Arc<Intake>),
        options: Options,
        clock: Clock,
        (name, duty): (String, Duty),
    ) -> Pool {
        Pool { db, store, intake, options, clock, name, duty, attempts: Attempts::new() }
    }

    /// Works until the process drains, then hands back what it has.
    pub async fn run(self, mut shutdown: Shutdown) {
        let pool = Arc::new(self);
        let options = pool.options.transcode.clone();
        tokio::select! {
            _ = tokio::task::spawn_blocking(move || look_at_sandbox(&options)) => {}
            () = shutdown.reached(Phase::Draining) => {}
        }
        let mut budget = Budget::new(pool.options.whole);
        let mut running = JoinSet::new();
        let mut costs = HashMap::new();
        while shutdown.phase() == Phase::Running {
            while budget.has_room() && shutdown.phase() == Phase::Running {
                let Some((lease, job, cost)) = pool.lease(budget.room()).await else { break };
                budget.take(cost);
                let span = tracing::info_span!("job", id = job.id.as_str(), attempt = lease.attempt);
                let attempt = Arc::clone(&pool).attempt(lease, job, shutdown.clone()).instrument(span);
                costs.insert(running.spawn(attempt).id(), cost);
            }
            pool.duty.ran();
            tokio::select! {
                Some(ended) = running.join_next_with_id(), if !running.is_empty() => {
                    let id = match ended {
                        Ok((id, ())) => id,
                        Err(cause) => {
                            tracing::error!(%cause, "an attempt panicked; its lease will expire");
                            cause.id()
                        }
                    };
                    budget.give_back(costs.remove(&id).unwrap_or_default());
                }
                () = tokio::time::sleep(pool.options.poll) => {}
                () = shutdown.reached(Phase::Draining) => {}
            }
        }
        while running.join_next().await.is_some() {}
    }

    async fn lease(&self, room: Cost) -> Option<(Lease, Job, Cost)> {
        let now_us = self.clock.unix_us();
        match self.db.lease(KIND, &self.name, room, now_us, now_us + self.term_us()).await {
            Ok(leased) => leased,
            Err(error) => {
                self.duty.failed(&error);
                tracing::warn!(error = error.chain(), "cannot look for work; trying again");
                None
            }
        }
    }

    /// One attempt, from its lease to its end.
    async fn attempt(self: Arc<Self>, lease: Lease, job: Job, mut shutdown: Shutdown) {
        let begun = Instant::now();
        tracing::info!("attempt started");
        let live = Arc::new(Live::default());
        let Watched { made, stopped, told } = match self.read(&job).await {
            Err(error) => Watched { made: Err(error), stopped: None, told: HashSet::new() },
            Ok(work) => {
                let (news, hear) = mpsc::channel(NEWS_MAX);
                let done = self.start(work, job.rungs.clone(), &live, news);
                self.watch(&lease, (done, hear), &live, begun, &mut shutdown).await
            }
        };
        let outcome = match (made, stopped) {
            (_, Some(Stop::Lost)) => {
                tracing::warn!("the lease is lost; what was made is dropped");
                self.attempts.superseded();
                return;
            }
            (Ok(made), None | Some(Stop::Draining | Stop::Stalled)) => {
                let media_s = made.index.duration_s();
                match self.publish(&lease, &made, &told).await {
                    Ok(true) => {
                        self.attempts.succeeded(media_s, begun.elapsed());
                        tracing::info!(track = made.track.id.as_str(), version = %made.track.version, "published");
                        return;
                    }
                    Ok(false) => {
                        tracing::warn!("the lease is lost; the track shows what it showed before");
                        self.attempts.superseded();
                        return;
                    }
                    Err(error) => failure(error),
                }
            }
            (Ok(_), Some(Stop::Cancelled)) | (Err(_), Some(Stop::Cancelled)) => Outcome::Cancelled,
            (Err(_), Some(Stop::Draining)) => Outcome::HandedBack,
            (Err(_), Some(Stop::Stalled)) => {
                let most = self.options.stall.as_secs();
                Outcome::Failed(Reason::Stalled, format!("it stood still for {most} s and was stopped"))
            }
            (Err(error), None) => failure(error),
        };
        self.end(&lease, &outcome).await;
    }

    /// What a job asks for, and where its source is.
    async fn read(&self, job: &Job) -> Result<Work> {
        let wish = Wish::decode(&job.input)?;
        let Some(id) = wish.upload() else {
            let (store, source, options) = (self.store.clone(), wish.source.clone(), self.options.clone());
            let (input, options) = blocking(move || opened(&store, &source, &options)).await?;
            return Ok(Work { wish, input, options });
        };
        let mut options = self.options.transcode.clone();
        let gone = || Error::not_found(format!("there is no upload {id} any more; upload the file again"));
        let upload = self.db.upload(&UploadId::decode(id).ok_or_else(gone)?).await?.ok_or_else(gone)?;
        let input = match self.intake.ready_source(&upload)? {
            intake::Source::File(path) => Input::File(path),
            intake::Source::Url(sign) => {
                let signing = Arc::clone(&sign);
                let url = blocking(move || signing()).await?;
                // The operator named this host as the store: it may be anywhere, and no other host is asked.
                let authority = url.split("://").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or_default();
                options.fetching.allowed = Allowed {
                    hosts: vec![authority.parse()?],
                    any_host: false,
                    private: vec!["0.0.0.0/0".parse()?, "::/0".parse()?],
                };
                Input::Url(Remote { url, sha256: upload.sha256, resign: Some(sign) })
            }
        };
        Ok(Work { wish, input, options })
    }

    /// Starts the work on a thread of its own; it blocks for as long as a transcode takes.
    fn start(
        &self,
        work: Work,
        rungs: Option<Vec<String>>,
        live: &Arc<Live>,
        news: mpsc::Sender<News>,
    ) -> oneshot::Receiver<Result<Made>> {
        let (tell, told) = oneshot::channel();
        let (store, live) = (self.store.clone(), Arc::clone(live));
        let span = tracing::Span::current();
        let begin = move || {
            let _inside = span.entered();
            // The nice value is a thread's, and its children inherit it (sched(7)): listeners go before transcodes.
            let _ = rustix::process::setpriority_process(None, NICE);
            let _ = tell.send(make(&store, work, rungs.as_deref(), &live, &news)); // the attempt may be gone
        };
        // When no thread can be had, the closure and its sender are dropped, and the receiver says so.
        let _ = std::thread::Builder::new().name("job".into()).spawn(begin);
        told
    }

    /// Keeps the lease until the work ends, tells what is whole meanwhile, and stops it when it should.
    async fn watch(
        self: &Arc<Self>,
        lease: &Lease,
        (mut done, mut hear): (oneshot::Receiver<Result<Made>>, mpsc::Receiver<News>),
        live: &Live,
        begun: Instant,
        shutdown: &mut Shutdown,
    ) -> Watched {
        let mut beat = tokio::time::interval((self.options.term / 3).min(BEAT_MAX));
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        beat.tick().await; // the first one is at once, and the lease is fresh
        let (mut renewed, mut moved, mut done_us) = (Instant::now(), Instant::now(), 0);
        let mut stopped = None;
        let (mut told, mut first) = (HashSet::new(), None::<JoinHandle<()>>);
        loop {
            tokio::select! {
                made = &mut done => {
                    let died = |_| Err(Error::internal("the attempt's thread could not run or panicked"));
                    let made = made.unwrap_or_else(died);
                    match first {
                        // The whole version comes after it, or instead of it.
                        Some(first) if made.is_ok() => {
                            let _ = first.await; // what went wrong is in the log
                        }
                        Some(first) => first.abort(),
                        None => {}
                    }
                    return Watched { made, stopped, told };
                }
                Some(news) = hear.recv() => {
                    match news {
                        _ if stopped.is_some() => {}
                        News::Rung { path, event } => {
                            if self.tell(lease, &event).await {
                                told.insert(path);
                            }
                        }
                        News::Playable(version) => {
                            let show = Arc::clone(self).show(lease.clone(), *version, begun);
                            first = Some(tokio::spawn(show.in_current_span()));
                        }
                    }
                    continue;
                }
                _ = beat.tick() => {}
                () = shutdown.reached(Phase::Draining), if stopped.is_none() => {
                    stopped = Some(Stop::Draining);
                    live.stop.store(true, Ordering::Relaxed);
                    continue;
                }
            }
            let now_done_us = live.done_us.load(Ordering::Relaxed);
            if now_done_us > done_us {
                (done_us, moved) = (now_done_us, Instant::now());
            }
            let why = match self.beat(lease, live).await {
                Ok(Held::Yes) => {
                    renewed = Instant::now();
                    (moved.elapsed() > self.options.stall).then_some(Stop::Stalled)
                }
                Ok(Held::CancelAsked) => Some(Stop::Cancelled),
                Ok(Held::Lost) => Some(Stop::Lost),
                Err(error) => {
                    tracing::warn!(error = error.chain(), "cannot renew the lease");
                    (renewed.elapsed() > self.options.term).then_some(Stop::Lost)
                }
            };
            // A lost lease outranks everything: nothing may be written any more.
            if why == Some(Stop::Lost) || stopped.is_none() {
                stopped = why.or(stopped);
            }
            live.stop.store(stopped.is_some(), Ordering::Relaxed);
        }
    }

    async fn beat(&self, lease: &Lease, live: &Live) -> Result<Held> {
        let now_us = self.clock.unix_us();
        let total_us = Some(live.total_us.load(Ordering::Relaxed)).filter(|total| *total > 0);
        let progress = (live.done_us.load(Ordering::Relaxed), total_us);
        self.db.heartbeat(lease, progress, now_us, now_us + self.term_us()).await
    }

    /// Writes down that a rung is whole; false when it could not be.
    async fn tell(&self, lease: &Lease, event: &Value) -> bool {
        let now_us = self.clock.unix_us();
        let tell = async {
            let mut tx = self.db.begin().await?;
            if !guard(&mut tx, lease).await? {
                return Ok(false);
            }
            record(&mut tx, &lease.job, now_us, "rung", event).await?;
            tx.commit().await.map(|()| true)
        };
        tell.await.unwrap_or_else(|error: Error| {
            tracing::warn!(error = error.chain(), "a rung is whole, which is told at the end");
            false
        })
    }

    /// Shows what is whole of a new track, if the lease is still ours.
    async fn show(self: Arc<Self>, lease: Lease, first: First, begun: Instant) {
        match self.show_first(&lease, first).await {
            Ok(Some(track)) => {
                self.attempts.playable(begun.elapsed());
                tracing::info!(track = track.id.as_str(), version = %track.version, "playable");
            }
            Ok(None) => tracing::debug!("the first rung is not shown: the track shows more, or the lease is lost"),
            // The whole version is what was asked for; it will say what is wrong with the store.
            Err(error) => tracing::warn!(error = error.chain(), "the first rung is not published"),
        }
    }

    async fn show_first(&self, lease: &Lease, first: First) -> Result<Option<Track>> {
        let (store, job) = (self.store.clone(), lease.job.to_string());
        let rungs: Vec<String> = first.index.rungs.iter().map(Rung::path).collect();
        let preview = first.index.has_preview();
        let placed = blocking(move || {
            let First { staging, track, title, index } = first;
            publish::place_first(&store, staging, track, &title, &index, &job)
        });
        let track = placed.await?;
        let now_us = self.clock.unix_us();
        let mut tx = self.db.begin().await?;
        if !guard(&mut tx, lease).await? {
            return Ok(None);
        }
        let event = json!({
            "track": track.id, "version": track.version, "duration_s": track.duration_s(), "rungs": rungs,
            "preview": preview,
        });
        record(&mut tx, &lease.job, now_us, "playable", &event).await?;
        // As in `commit`: the row stays locked while the record is written. A record without its event is possible.
        let store = self.store.clone();
        let (track, shown) = blocking(move || publish::show_first(&store, &track).map(|shown| (track, shown))).await?;
        if !shown {
            return Ok(None);
        }
        tx.commit().await?;
        Ok(Some(track))
    }

    /// Makes what was made the track's version, if the lease is still ours; false when it is not.
    async fn publish(&self, lease: &Lease, made: &Made, told: &HashSet<String>) -> Result<bool> {
        // The media is made and safe; a database that is away for a moment must not cost it.
        let give_up = Instant::now() + self.options.term;
        loop {
            match self.commit(lease, &made.track, &made.index, told).await {
                Ok(ours) => return Ok(ours),
                Err(error) if Instant::now() > give_up || !is_transient(&error) => return Err(error),
                Err(error) => tracing::warn!(error = error.chain(), "cannot settle the attempt; trying again"),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// The fence, what happened, the end, and the track's record, in one transaction. The record is a file:
    /// the row stays locked for the two fsyncs that writing it takes, some milliseconds, and if the commit then
    /// fails the attempt is repeated and writes the same record.
    async fn commit(&self, lease: &Lease, track: &Track, index: &VersionIndex, told: &HashSet<String>) -> Result<bool> {
        let now_us = self.clock.unix_us();
        let mut tx = self.db.begin().await?;
        if !guard(&mut tx, lease).await? {
            return Ok(false);
        }
        let all = index.rungs.iter().chain(index.pictures().map(|picture| &picture.encoding));
        for rung in all.filter(|rung| !told.contains(&rung.path())) {
            let event = rung_event(&rung.path(), &rung.codecs, (rung.peak_bps, rung.average_bps), rung.segments.len());
            record(&mut tx, &lease.job, now_us, "rung", &event).await?;
        }
        let output = json!({
            "track": track.id, "version": track.version, "duration_s": track.duration_s(), "samples": track.samples,
            "rate": track.rate, "lossless": track.lossless, "loudness": index.loudness, "skipped": index.skipped,
        });
        record(&mut tx, &lease.job, now_us, "published", &output).await?;
        let outcome = Outcome::Succeeded(output.to_string());
        let settled = settle(&mut tx, lease, &outcome, self.options.backoff, now_us).await?;
        if settled != Some(State::Succeeded) {
            return Ok(false);
        }
        catalogue::show(&mut tx, &self.store, track, Some(catalogue::bytes_of(index)), now_us).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Settles an attempt that made nothing. When the database stays away the lease ends by itself.
    async fn end(&self, lease: &Lease, outcome: &Outcome) {
        self.attempts.ended(outcome);
        match outcome {
            Outcome::Refused(_, why) => tracing::info!(why, "refused"),
            Outcome::Failed(_, why) => tracing::warn!(why, "attempt failed"),
            Outcome::Cancelled => tracing::info!("cancelled"),
            _ => tracing::info!("handed back"),
        }
        for _ in 0..3 {
            match self.db.settle(lease, outcome, self.options.backoff, self.clock.unix_us()).await {
                Ok(Some(state)) if state.is_final() => return self.withdraw(lease).await,
                Ok(_) => return,
                Err(error) => tracing::warn!(error = error.chain(), "cannot settle the attempt"),
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Takes back what was shown early of a job that will not be finished. The janitor does what fails here.
    async fn withdraw(&self, lease: &Lease) {
        let (store, job) = (self.store.clone(), lease.job.to_string());
        match blocking(move || publish::withdraw_of(&store, &job)).await {
            Ok(0) => {}
            Ok(_) => tracing::info!("took back the first rung"),
            Err(error) => tracing::warn!(error = error.chain(), "cannot take back the first rung; trying again later"),
        }
    }

    fn term_us(&self) -> i64 {
        self.options.term.as_micros() as i64
    }
}

/// Says once, before the first job, what stands around a transcode. Blocks.
fn look_at_sandbox(options: &transcode::Options) {
    match transcode::look_at_sandbox(options) {
        // An attempt warns of what is missing.
        Ok(report) => tracing::info!(
            fences = report.lines().len() - report.missing().len(),
            missing = report.missing().join("; "),
            "looked at the transcoder's sandbox"
        ),
        Err(error) => tracing::error!(error = error.chain(), "the transcoder does not start: no job can be done here"),
    }
}

/// Transcodes, and places the version. Blocks.
fn make(store: &Store, work: Work, rungs: Option<&[String]>, live: &Live, news: &mpsc::Sender<News>) -> Result<Made> {
    let Work { wish, input, mut options } = work;
    options.preview_start_ms = wish.preview_start_ms;
    let choice = match rungs {
        None => wish.choice(),
        some => Choice::Audio(wish.ladder_of(some)?),
    };
    // A track that shows a version already keeps it until the new one is whole.
    let is_new = rungs.is_none() && store.read_record(wish.track).is_err_and(|error| error.kind() == Kind::NotFound);
    let staging = store.stage()?;
    let mut rate = 1;
    let tell = |one| {
        let _ = news.try_send(one); // nobody listens, or there is no room: it is told at the end
    };
    let media_us = |samples: u64, rate: u32| (samples as i128 * 1_000_000 / i128::from(rate.max(1))) as i64;
    let mut on_progress = |progress| match progress {
        Progress::Probed { rate: source, total_samples, .. } => {
            rate = source;
            live.total_us.store(media_us(total_samples.unwrap_or(0), rate), Ordering::Relaxed);
        }
        Progress::Encoded { done_samples, .. } => live.done_us.store(media_us(done_samples, rate), Ordering::Relaxed),
        Progress::Rung { path, codecs, segments, peak_bps, average_bps } => {
            if path != PREVIEW_DIRECTORY.trim_end_matches('/') {
                let event = rung_event(&path, &codecs, (peak_bps, average_bps), segments);
                tell(News::Rung { path, event });
            }
        }
        Progress::Playable(index) if is_new => match store.stage_links(staging.dir(), &index) {
            Ok(staging) => {
                let (track, title, index) = (wish.track, wish.title.clone(), *index);
                tell(News::Playable(Box::new(First { staging, track, title, index })));
            }
            Err(error) => tracing::warn!(error = error.chain(), "the first rung is not published"),
        },
        Progress::Playable(_) => {}
    };
    let index = transcode::run_as(input, &choice, staging.dir(), &options, &mut on_progress, &live.stop)?;
    let index = if rungs.is_some() { completed(store, &wish, &staging, index)? } else { index };
    if live.stop.load(Ordering::Relaxed) {
        return Err(Error::new(Kind::Cancelled, "stopped before it was placed"));
    }
    let track = publish::place(store, staging, wish.track, &wish.title, &index)?;
    Ok(Made { track, index })
}

/// Where a source is read, and what that may reach: of an object of our own bucket a URL that it signs now, not when the
/// job was enqueued, and again when that one expires; and its host, which the operator chose.
fn opened(store: &Store, source: &str, options: &Options) -> Result<(Input, transcode::Options)> {
    let mut transcode = options.transcode.clone();
    let Some(key) = source.strip_prefix(SOURCE_SCHEME) else {
        return Ok((Path::new(source).into(), transcode));
    };
    let valid = options.source_valid;
    let url = store.source_url(key, valid)?;
    let unusable = || Error::internal("the bucket's endpoint cannot be read");
    let uri: hyper::Uri = url.parse().map_err(|_| unusable())?;
    let host = uri.host().ok_or_else(unusable)?;
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    let allowed = &mut transcode.fetching.allowed;
    allowed.hosts.push(format!("{host}:{port}").parse()?);
    let addresses = (host.trim_matches(['[', ']']), port).to_socket_addrs().map_err(|cause| {
        Error::new(Kind::Unavailable, format!("the bucket's host {host} is not known")).because(cause)
    })?;
    for address in addresses {
        allowed.private.push(address.ip().to_string().parse()?);
    }
    let (store, key) = (store.clone(), key.to_owned());
    let resign: Resign = Arc::new(move || store.source_url(&key, valid));
    Ok((Input::Url(Remote { url, sha256: None, resign: Some(resign) }), transcode))
}

/// What is told of a rung that is whole.
fn rung_event(path: &str, codecs: &str, (peak_bps, average_bps): (u64, u64), segments: usize) -> Value {
    json!({
        "path": path, "codecs": codecs, "bandwidth": peak_bps, "average_bandwidth": average_bps, "segments": segments,
    })
}

/// Adds to some rungs made again the others of the version that the track shows now, so that the result is
/// whole. Links, no copies: files below `v/` are never written again.
fn completed(store: &Store, wish: &Wish, staging: &Staging, made: VersionIndex) -> Result<VersionIndex> {
    let track = wish.track;
    let current = tracks::read(store, track).context(|| "there is no version that a single rung could be added to")?;
    let document = store.read_version(track, current.version)?;
    let mut whole = VersionIndex::decode_as(current.version, &document)?;
    if whole.video.is_some() {
        return Err(Error::invalid(format!(
            "track {track} is a film, whose rungs belong together; retry the whole job"
        )));
    }
    if whole.source != made.source {
        return Err(Error::invalid(format!(
            "the source is not the one that version {} of track {track} was made from; retry the whole job",
            current.version
        )));
    }
    let keep = |object: &Object| store.copy_out((track, current.version), object, staging);
    let same = |a: &Rung, b: &Rung| (a.family, &a.name) == (b.family, &b.name);
    for rung in &mut whole.rungs {
        match made.rungs.iter().find(|new| same(new, rung)) {
            Some(new) => *rung = new.clone(),
            None => keep(&rung.object)?,
        }
    }
    if let Some(new) = made.rungs.iter().find(|new| !whole.rungs.iter().any(|rung| same(new, rung))) {
        return Err(Error::invalid(format!("the version has no rung {}; retry the whole job", new.path())));
    }
    match (made.preview, &whole.preview) {
        (Some(new), _) => whole.preview = Some(new),
        (None, Some(kept)) => keep(&kept.rung.object)?,
        (None, None) => {}
    }
    for extra in &mut whole.extras {
        match made.extras.iter().find(|new| new.object.name == extra.object.name) {
            Some(new) => *extra = new.clone(),
            None => keep(&extra.object)?,
        }
    }
    for encoder in made.encoders {
        if !whole.encoders.contains(&encoder) {
            whole.encoders.push(encoder);
        }
    }
    Ok(whole)
}

/// What an error of an attempt means for its job. Whether another attempt may help is said by its kind, why by its tag.
fn failure(error: Error) -> Outcome {
    let why = error.chain();
    let or = |reason| error.tag().and_then(Reason::decode).unwrap_or(reason);
    match error.kind() {
        Kind::Invalid | Kind::Usage => Outcome::Refused(or(Reason::Input), why),
        Kind::NotFound => Outcome::Refused(or(Reason::Missing), why),
        Kind::Busy | Kind::Unavailable => Outcome::Failed(or(Reason::Unavailable), why),
        Kind::Cancelled | Kind::Internal => Outcome::Failed(or(Reason::Internal), why),
    }
}

fn is_transient(error: &Error) -> bool {
    matches!(error.kind(), Kind::Busy | Kind::Unavailable)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|cause| Error::internal("a task panicked").because(cause))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_fail_has_a_reason_and_only_what_may_pass_is_tried_again() {
        let check = |error: Error, again: bool, reason: Reason| {
            let outcome = failure(Error::new(error.kind(), "cannot transcode song.wav").because(error));
            let found = match &outcome {
                Outcome::Failed(reason, _) => (true, *reason),
                Outcome::Refused(reason, _) => (false, *reason),
                other => panic!("{other:?}"),
            };
            assert_eq!(found, (again, reason), "{outcome:?}");
        };
        check(Error::invalid("it is a text"), false, Reason::Input);
        check(Error::not_found("there is no such file"), false, Reason::Missing);
        check(Error::new(Kind::Unavailable, "nothing came for 30 s"), true, Reason::Unavailable);
        check(Error::internal("the disk is full"), true, Reason::Internal);
        check(Error::invalid("it needs more memory").tagged("memory"), false, Reason::Memory);
        check(Error::internal("the decoder crashed on it").tagged("crashed"), true, Reason::Crashed);
        check(Error::internal("it was killed").tagged("killed"), true, Reason::Killed);
        for reason in Reason::ALL {
            assert_eq!(Reason::decode(reason.as_str()), Some(reason));
        }
    }
}
