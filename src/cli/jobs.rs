//! `segue jobs`, `segue migrate`, `segue key`: the queue from a terminal, beside the database itself, so that
//! it works while no server does.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{Settings, say};
use crate::api::keys;
use crate::app;
use crate::base::clock::{Clock, parse_rfc3339, rfc3339};
use crate::base::error::Context as _;
use crate::base::id::TrackId;
use crate::base::{Error, Result};
use crate::config::Config;
use crate::db::jobs::{Asked, Filter};
use crate::db::{Db, Place};
use crate::jobs::{Job, JobId, State, view};

#[derive(Debug, Subcommand)]
pub(super) enum JobsCommand {
    /// List jobs, the latest first.
    List {
        /// Only these: queued, leased, succeeded, dead or cancelled.
        #[arg(long, value_parser = state)]
        state: Option<State>,
        /// How many, 1 to 500.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
        limit: u32,
        /// Only those before this one: the last of the list before.
        #[arg(long, value_name = "ID")]
        before: Option<JobId>,
        /// Print one JSON object a line.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        settings: Settings,
    },
    /// Show a job, what happened to it, and its callbacks.
    Show {
        /// The job.
        id: JobId,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        settings: Settings,
    },
    /// Put a job that ended back into the queue, all of it or single rungs.
    Retry {
        /// The job.
        id: JobId,
        /// Only this rung, on top of what was published: aac/96, flac. May be given several times.
        #[arg(long = "rung", value_name = "RUNG")]
        rungs: Vec<String>,
        #[command(flatten)]
        settings: Settings,
    },
    /// Cancel a job: one that waits at once, one that runs at its worker's next heartbeat.
    Cancel {
        /// The job.
        id: JobId,
        #[command(flatten)]
        settings: Settings,
    },
    /// Put a file into the queue; a worker transcodes and publishes it.
    #[cfg(feature = "transcode")]
    Enqueue(EnqueueArgs),
    /// Send the callbacks again that were not delivered: of a job, or of all since a time.
    Redeliver {
        /// The job.
        #[arg(required_unless_present = "since")]
        id: Option<JobId>,
        /// Those that were delivered, too.
        #[arg(long, conflicts_with = "since")]
        all: bool,
        /// Instead of a job: everything since then that was not delivered, like 2026-11-20T08:00:00Z.
        #[arg(long, value_name = "TIME", value_parser = time, conflicts_with = "id")]
        since: Option<i64>,
        #[command(flatten)]
        settings: Settings,
    },
}

#[cfg(feature = "transcode")]
#[derive(Args, Debug)]
pub(super) struct EnqueueArgs {
    /// Audio file, where the workers see it too, an http or https URL, or s3:KEY, an object of the store's bucket.
    file: PathBuf,
    /// What people call the track [default: the file's name].
    #[arg(long)]
    title: Option<String>,
    /// Publish as a new version of this track instead of a new track.
    #[arg(long, value_name = "ID")]
    track: Option<TrackId>,
    /// Encoding plan [default: the built-in pipelines/audio.toml].
    #[arg(long, value_name = "FILE")]
    ladder: Option<PathBuf>,
    /// 0 to 9; 9 goes first.
    #[arg(long, default_value_t = crate::jobs::PRIORITY, value_parser = clap::value_parser!(u8).range(0..=9))]
    priority: u8,
    /// The same key with the same wish is the same job, however often it is enqueued.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// URL that is told how it goes (docs/OPERATIONS.md, "Callbacks").
    #[arg(long, value_name = "URL")]
    callback: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Args, Debug)]
pub(super) struct MigrateArgs {
    /// Only say how the database stands; exit 1 when something is missing.
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Make a key for the control API; prints it once, and what the configuration needs.
    Create {
        /// Whose it is; stands in jobs and logs.
        #[arg(long)]
        id: String,
    },
}

fn time(text: &str) -> std::result::Result<i64, String> {
    parse_rfc3339(text).ok_or_else(|| "give a time in UTC, like 2026-11-20T08:00:00Z".to_owned())
}

fn state(text: &str) -> std::result::Result<State, String> {
    State::decode(text).ok_or_else(|| "give queued, leased, succeeded, dead or cancelled".to_owned())
}

pub(super) fn run(command: &JobsCommand) -> Result<ExitCode> {
    match command {
        JobsCommand::List { state, limit, before, json, settings } => {
            let filter = Filter { state: *state, before: before.clone(), limit: *limit, ..Filter::default() };
            beside(settings, async |db| list(&db, &filter, *json).await)
        }
        JobsCommand::Show { id, json, settings } => beside(settings, async |db| show(&db, id, *json).await),
        JobsCommand::Retry { id, rungs, settings } => beside(settings, async |db| retry(&db, id, rungs).await),
        JobsCommand::Cancel { id, settings } => beside(settings, async |db| cancel(&db, id).await),
        #[cfg(feature = "transcode")]
        JobsCommand::Enqueue(args) => enqueue(args),
        JobsCommand::Redeliver { id, all, since, settings } => beside(settings, async |db| {
            if let Some(id) = id {
                known(&db, id).await?;
                let again = db.redeliver(id, *all, now_us()).await?;
                say(format!("{id}: {again} callbacks will be sent again"));
            }
            if let Some(since_us) = since {
                let again = db.redeliver_missed(None, *since_us, now_us()).await?;
                say(format!("{again} callbacks will be sent again"));
            }
            Ok(())
        }),
    }
}

async fn list(db: &Db, filter: &Filter, json: bool) -> Result<()> {
    let jobs = db.jobs(filter).await?;
    if json {
        jobs.iter().for_each(|job| say(view::job(job, now_us())));
        return Ok(());
    }
    if jobs.is_empty() {
        say("there are no such jobs");
    }
    jobs.iter().for_each(|job| say(line(job)));
    Ok(())
}

/// A job in one line.
fn line(job: &Job) -> String {
    let shown = view::job(job, now_us());
    let title = printable(shown["title"].as_str().unwrap_or_default());
    let more = match job.state {
        State::Leased => match job.progress() {
            Some(progress) => {
                let left = job.eta_s(now_us()).map(|eta_s| format!(", about {eta_s:.0} s left")).unwrap_or_default();
                format!("{:.0} %{left}", progress * 100.0)
            }
            None => "started".to_owned(),
        },
        State::Queued if job.run_at_us > now_us() => format!("not before {}", rfc3339(job.run_at_us)),
        _ => job.error.as_deref().map(printable).unwrap_or_default(),
    };
    format!("{} {:<9} {} p{} {title:?} {more}", job.id, job.state.as_str(), rfc3339(job.created_us), job.priority)
        .trim_end()
        .to_owned()
}

async fn show(db: &Db, id: &JobId, json: bool) -> Result<()> {
    let job = known(db, id).await?;
    let events = db.events(id, 0, crate::db::jobs::PAGE_MAX).await?;
    let callbacks = db.deliveries(id).await?;
    let mut shown = view::job(&job, now_us());
    if json {
        shown["events"] = events.iter().map(view::event).collect();
        shown["callbacks"] = callbacks.into();
        say(shown);
        return Ok(());
    }
    say(line(&job));
    for (name, value) in shown.as_object().expect("a job is an object") {
        match value {
            Value::Null => {}
            Value::String(text) => say(format!("  {name:<13} {}", printable(text))),
            other => say(format!("  {name:<13} {}", printable(&other.to_string()))),
        }
    }
    for event in &events {
        say(format!(
            "  {} {:>3} {:<11} {}",
            rfc3339(event.at_us),
            event.seq,
            event.event,
            printable(&event.body.to_string())
        ));
    }
    for callback in &callbacks {
        let tries = callback["tries"].as_array().map_or(0, Vec::len);
        let last = callback["tries"].as_array().and_then(|tries| tries.last()).map(|last| last["error"].clone());
        let last = last.filter(|error| !error.is_null()).map(|error| format!(": {error}")).unwrap_or_default();
        let url = printable(callback["url"].as_str().unwrap_or_default());
        let state = callback["state"].as_str().unwrap_or_default();
        say(format!("  callback {} {state} after {tries} tries, {url}{}", callback["seq"], printable(&last)));
    }
    Ok(())
}

async fn retry(db: &Db, id: &JobId, rungs: &[String]) -> Result<()> {
    let job = known(db, id).await?;
    if !rungs.is_empty() {
        let wish = crate::jobs::transcode::Wish::decode(&job.input)?;
        wish.ladder_of(Some(rungs)).map_err(|error| Error::usage(format!("--rung: {}", error.chain())))?;
    }
    match db.retry(id, (!rungs.is_empty()).then_some(rungs), now_us()).await? {
        Asked::Done | Asked::Told => say(format!("{id} is in the queue again")),
        Asked::Not(state) => {
            let state = state.as_str();
            return Err(Error::invalid(format!("{id} is {state} and has not ended; wait, or cancel it first")));
        }
        Asked::Unknown => return Err(unknown(id)),
    }
    Ok(())
}

async fn cancel(db: &Db, id: &JobId) -> Result<()> {
    match db.cancel(id, now_us()).await? {
        Asked::Done => say(format!("{id} is cancelled")),
        Asked::Told => say(format!("{id} is running; its worker stops it at the next heartbeat")),
        Asked::Not(state) => return Err(Error::invalid(format!("{id} has already ended, it is {}", state.as_str()))),
        Asked::Unknown => return Err(unknown(id)),
    }
    Ok(())
}

#[cfg(feature = "transcode")]
fn enqueue(args: &EnqueueArgs) -> Result<ExitCode> {
    use crate::db::jobs::Enqueued;
    use crate::jobs::check_idempotency_key;
    use crate::jobs::transcode::Wish;
    use crate::{tracks, transcode};

    let title = args.title.clone().unwrap_or_else(|| super::encode::title_of(&args.file));
    tracks::check_title(&title).map_err(|wrong| Error::usage(format!("--title: {}", wrong.chain())))?;
    if let Some(key) = &args.idempotency_key {
        check_idempotency_key(key).map_err(|wrong| Error::usage(format!("--idempotency-key: {}", wrong.chain())))?;
    }
    let config = args.settings.load()?.checked()?;
    if let Some(url) = &args.callback {
        crate::api::transcodes::check_callback(url, &config.callbacks.secrets, &config.callbacks.private_hosts)
            .map_err(|wrong| Error::usage(format!("--callback: {}", wrong.chain())))?;
    }
    let (ladder, video) = Wish::plans(super::encode::read_published(args.ladder.as_deref())?);
    let source = match args.file.to_str().filter(|name| name.starts_with(crate::store::SOURCE_SCHEME)) {
        // It is read when its turn comes; that it can be named is all that is checked now.
        Some(name) => {
            let store = app::open_store(&config, false)?;
            let key = name.trim_start_matches(crate::store::SOURCE_SCHEME);
            let valid = std::time::Duration::from_secs(config.store.s3.source_url_s);
            store.source_url(key, valid).map_err(|error| Error::usage(format!("{name}: {}", error.chain())))?;
            name.to_owned()
        }
        None => {
            transcode::check_input(&args.file, &app::transcode_options(&config))?;
            source_of(&args.file)?
        }
    };
    let wish = Wish {
        source,
        track: args.track.unwrap_or_else(|| track_of(args.idempotency_key.as_deref())),
        title,
        ladder,
        video,
        preview_start_ms: None,
        callback: args.callback.clone(),
    };
    let new = wish.job("cli", args.priority, args.idempotency_key.clone(), config.worker.failures_max);
    let enqueued = with_runtime(async {
        let db = app::database::open(&config).await?;
        let enqueued = db.enqueue(&new, now_us()).await?;
        db.close().await;
        Ok(enqueued)
    })?;
    let (id, known) = match enqueued {
        Enqueued::New(id) => (id, false),
        Enqueued::Known(id) => (id, true),
        Enqueued::Conflict(id) => {
            return Err(Error::usage(format!(
                "--idempotency-key: it is the key of {id}, which is another wish; choose another key"
            )));
        }
    };
    match args.json {
        true => say(json!({ "id": id, "track": wish.track, "known": known })),
        false if known => say(format!("{id} is in the queue already, for track {}", wish.track)),
        false => say(format!("{id} is in the queue, for track {}", wish.track)),
    }
    Ok(ExitCode::SUCCESS)
}

/// The source as any worker finds it: a URL, or the whole path of a file.
#[cfg(feature = "transcode")]
fn source_of(file: &std::path::Path) -> Result<String> {
    if let Some(url) = file.to_str().filter(|text| text.contains("://")) {
        return Ok(url.to_owned());
    }
    let path = std::fs::canonicalize(file).context(|| format!("cannot resolve {}", file.display()))?;
    path.into_os_string()
        .into_string()
        .map_err(|_| Error::usage(format!("{} is not a name in UTF-8, which jobs need; rename it", file.display())))
}

/// A new track; with an idempotency key the same one each time, because the track is part of the wish.
#[cfg(feature = "transcode")]
fn track_of(key: Option<&str>) -> TrackId {
    key.map_or_else(TrackId::random, |key| crate::jobs::transcode::track_for("cli", key))
}

pub(super) fn migrate(args: &MigrateArgs) -> Result<ExitCode> {
    let config = args.settings.load()?.checked()?;
    if args.check {
        absent(&config)?;
    }
    with_runtime(async {
        let db = Db::open(&app::database::options(&config)).await?;
        if args.check {
            let schema = db.schema().await.context(|| "the database was never migrated; run `segue migrate`")?;
            say(format!("{} of {} migrations are applied", schema.have, schema.known));
            return Ok(if schema.have == schema.known { ExitCode::SUCCESS } else { ExitCode::from(1) });
        }
        match db.migrate().await? {
            0 => say("the database is up to date"),
            applied => say(format!("applied {applied} migrations; the database is up to date")),
        }
        db.close().await;
        Ok(ExitCode::SUCCESS)
    })
}

pub(super) fn key(command: &KeyCommand) -> Result<ExitCode> {
    let KeyCommand::Create { id } = command;
    let named =
        !id.is_empty() && id.len() <= 64 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
    if !named {
        return Err(Error::usage("--id: an id has 1 to 64 letters, digits, _ - ."));
    }
    let (key, sha256) = keys::make();
    say(key);
    say(format!("# shown once. Add to the configuration:\n[[api.keys]]\nid = \"{id}\"\nsha256 = \"{sha256}\""));
    Ok(ExitCode::SUCCESS)
}

/// Runs `work` on a database that is there and ready, and that a command like this must not change.
pub(super) fn beside<F>(settings: &Settings, work: F) -> Result<ExitCode>
where
    F: AsyncFnOnce(Db) -> Result<()>,
{
    beside_with(settings, async |_, db| work(db).await)
}

/// As `beside`, with the settings.
pub(super) fn beside_with<F>(settings: &Settings, work: F) -> Result<ExitCode>
where
    F: AsyncFnOnce(&Config, Db) -> Result<()>,
{
    let config = settings.load()?.checked()?;
    absent(&config)?;
    with_runtime(async {
        let db = Db::open(&app::database::options(&config)).await?;
        let schema = db.schema().await.context(|| "the database cannot be used; if it is new, run `segue migrate`")?;
        if schema.have != schema.known {
            return Err(Error::usage("the database is older than this program; run `segue migrate`"));
        }
        work(&config, db.clone()).await?;
        db.close().await;
        Ok(ExitCode::SUCCESS)
    })
}

/// Refuses to make a database just to look into it.
fn absent(config: &Config) -> Result<()> {
    match app::database::options(config).place {
        Place::Sqlite(file) if !file.exists() => {
            Err(Error::not_found(format!("there is no database {}; check --data, or set DATABASE_URL", file.display())))
        }
        _ => Ok(()),
    }
}

fn with_runtime<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context(|| "cannot start a runtime")?.block_on(work)
}

async fn known(db: &Db, id: &JobId) -> Result<Job> {
    db.job(id).await?.ok_or_else(|| unknown(id))
}

fn unknown(id: &JobId) -> Error {
    Error::not_found(format!("there is no job {id}; `segue jobs list` shows them, check --data and DATABASE_URL"))
}

fn now_us() -> i64 {
    Clock::Service.unix_us()
}

/// Titles and errors hold other people's text: nothing of it may steer the terminal.
fn printable(text: &str) -> String {
    text.replace(char::is_control, " ")
}
