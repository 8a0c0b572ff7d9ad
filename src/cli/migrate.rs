//! `segue migrate-storage`: moves tracks between the directory and the bucket while servers run.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::{Settings, complain, say, signals, tell};
use crate::app;
use crate::base::clock::Clock;
use crate::base::error::Context as _;
use crate::base::{Error, Result};
use crate::catalogue::migrate::{Move, Options, Progress, Report, Watch};
use crate::catalogue::{self};
use crate::store::mixed::MixedStore;
use crate::store::{Backend, LocalStore, Store};

#[derive(Args, Debug)]
#[command(
    after_help = "Set store.second to the other store and restart the servers first: they then serve each track \
    from where it is. Run it again as often as you like; it goes on where it stopped."
)]
pub(super) struct MigrateStorageArgs {
    /// Where the tracks are.
    #[arg(long, value_enum)]
    from: Place,
    /// Where they shall be.
    #[arg(long, value_enum)]
    to: Place,
    /// Only say what would be moved.
    #[arg(long)]
    dry_run: bool,
    /// Move so many tracks at most.
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Rows read from the database at a time, 1 to 1000.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    batch_size: u32,
    /// Remove from the directory what was copied to the bucket and read back from it.
    #[arg(long)]
    delete_local: bool,
    /// Print the summary as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Place {
    /// The data directory.
    Local,
    /// The bucket of store.s3.
    S3,
}

impl From<Place> for Backend {
    fn from(place: Place) -> Backend {
        match place {
            Place::Local => Backend::Local,
            Place::S3 => Backend::S3,
        }
    }
}

pub(super) fn run(args: &MigrateStorageArgs) -> Result<ExitCode> {
    if args.from == args.to {
        return Err(Error::usage("--from and --to name the same store; give local and s3, in either order"));
    }
    if args.delete_local && args.from != Place::Local {
        return Err(Error::usage("--delete-local removes what was copied to the bucket; give it with --from local"));
    }
    let config = args.settings.load()?.checked()?;
    let problems = config.bucket_problems();
    if !problems.is_empty() {
        return Err(Error::usage(format!("the bucket cannot be used: {}", problems.join("; "))));
    }
    let dir = config.store_dir();
    if !dir.is_dir() {
        return Err(Error::usage(format!("there is no store at {}; name the data directory by --data", dir.display())));
    }
    let local = LocalStore::open(&dir)?;
    let remote = app::open_bucket(&config, local.clone(), false)?;
    let stop = signals::cancel()?;
    let options = Options {
        from: args.from.into(),
        to: args.to.into(),
        dry_run: args.dry_run,
        limit: args.limit,
        batch: args.batch_size,
        delete_local: args.delete_local,
    };
    let both = Store::Both(MixedStore::new(local.clone(), remote.clone(), config.store.kind));
    let bar = bar();
    let runtime = tokio::runtime::Runtime::new().context(|| "cannot start")?;
    let report = runtime.block_on(async {
        let db = app::database::open(&config).await?;
        // Rows first: of what was published without the database.
        let imported = catalogue::import(&db, &both, &Clock::Service).await?;
        if imported.unreadable > 0 {
            complain(format_args!("{} tracks have a record that cannot be read and are left out", imported.unreadable));
        }
        let moving = Move::new(db.clone(), (local, remote), options, Clock::Service, stop, watch(&bar));
        let report = moving.run().await;
        db.close().await;
        report
    });
    bar.finish_and_clear();
    let report = report?;
    summarise(args, &report)?;
    if report.interrupted {
        complain(format_args!("stopped after {} tracks; run the same command again, it goes on there", report.moved));
    }
    Ok(if report.failed == 0 && !report.interrupted { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn summarise(args: &MigrateStorageArgs, report: &Report) -> Result<()> {
    if args.json {
        return tell(json!(report));
    }
    let Report { from, to, moved, versions, bytes, pictures, deleted, skipped, failed, remaining, .. } = report;
    let would = if report.dry_run { "would be moved" } else { "moved" };
    let mut lines = vec![format!("{moved} tracks {would} from {from} to {to}: {versions} versions, {bytes} bytes")];
    if *pictures > 0 {
        lines.push(format!("{pictures} of them or of those there with their pictures"));
    }
    if *deleted > 0 {
        lines.push(format!("{deleted} removed from the directory"));
    }
    lines.push(format!("{skipped} skipped, {failed} failed, {remaining} still in {from}"));
    // A reason may hold names that somebody chose.
    lines.extend(report.left.iter().map(|left| {
        format!(
            "  {} {}: {}",
            left.track.replace(char::is_control, " "),
            left.reason,
            left.why.replace(char::is_control, " ")
        )
    }));
    say(lines.join("\n"));
    Ok(())
}

fn bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    }
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} tracks, {msg}, {eta} left");
    ProgressBar::new(0).with_style(style.expect("the template is a constant"))
}

fn watch(bar: &ProgressBar) -> Watch {
    let (bar, copied) = (bar.clone(), std::sync::atomic::AtomicU64::new(0));
    Arc::new(move |progress| match progress {
        Progress::Tracks(whole) => bar.set_length(whole),
        Progress::Track => bar.inc(1),
        Progress::Bytes(bytes) => {
            let copied = copied.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed) + bytes;
            bar.set_message(indicatif::HumanBytes(copied).to_string());
        }
    })
}
