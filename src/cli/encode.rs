//! `segue publish`, `transcode`, `probe`, `pipelines`: from files to ladders, with a progress bar on a
//! terminal and nothing left behind when it fails.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::{Settings, say};
use crate::app;
use crate::base::clock::Clock;
use crate::base::error::Context as _;
use crate::base::id::TrackId;
use crate::base::{Error, Kind, Result};
use crate::config::Config;
use crate::hls::ladder::Ladder;
use crate::hls::playlist::Scope;
use crate::hls::version::{Role, VersionIndex};
use crate::publish;
use crate::store::LocalStore;
use crate::store::local::VERSION_DOCUMENT;
use crate::tracks::{self, Track};
use crate::transcode::{self, Options, Progress};

#[derive(Args, Debug)]
pub(super) struct PublishArgs {
    /// Audio files: WAV, AIFF, FLAC, ALAC, AAC, MP3, OGG Vorbis, Opus, mono to 5.1.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// What people call the track [default: the file's name].
    #[arg(long)]
    title: Option<String>,
    /// Publish as a new version of this track instead of a new track.
    #[arg(long, value_name = "ID")]
    track: Option<TrackId>,
    /// Encoding plan [default: the built-in pipelines/audio.toml].
    #[arg(long, value_name = "FILE")]
    ladder: Option<PathBuf>,
    /// Print one JSON object a file.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Args, Debug)]
pub(super) struct TranscodeArgs {
    /// Audio file.
    input: PathBuf,
    /// Directory to make; it must not exist, or be empty.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Encoding plan [default: the built-in pipelines/audio.toml].
    #[arg(long, value_name = "FILE")]
    ladder: Option<PathBuf>,
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(super) struct ProbeArgs {
    /// Audio file.
    input: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(super) enum PipelinesCommand {
    /// Check encoding plans, naming file, line and field of what is wrong.
    Check {
        /// Plans to check [default: the built-in one].
        files: Vec<PathBuf>,
    },
}

pub(super) fn publish(args: &PublishArgs) -> Result<ExitCode> {
    if args.files.len() > 1 && (args.title.is_some() || args.track.is_some()) {
        return Err(Error::usage("--title and --track name one track: give one FILE with them"));
    }
    let config = args.settings.load()?.checked()?;
    let ladder = read_ladder(args.ladder.as_deref())?;
    let options = app::transcode_options(&config);
    // Before the store is opened: a wrong file name must not leave a data directory behind.
    for file in &args.files {
        transcode::check_input(file, &options)?;
    }
    let cancel = cancel_on_signal()?;
    let mut failed = false;
    for file in &args.files {
        match publish_one(args, file, &config, &ladder, &options, &cancel) {
            Ok((track, index)) => report(args, &config, &track, &index)?,
            Err(error) if args.files.len() > 1 && error.kind() == Kind::Invalid => {
                eprintln!("segue: {}", error.chain());
                failed = true;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(if failed { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

fn publish_one(
    args: &PublishArgs,
    file: &Path,
    config: &Config,
    ladder: &Ladder,
    options: &Options,
    cancel: &AtomicBool,
) -> Result<(Track, VersionIndex)> {
    // Opened for each file and not before the input was checked; making it is idempotent.
    let store = LocalStore::open(&config.store_dir())?;
    store.sweep()?;
    let known = args.track.map(|id| tracks::read(&store, id)).transpose()?;
    let id = known.as_ref().map_or_else(TrackId::random, |track| track.id);
    let kept = known.map(|track| track.title);
    let title = args.title.clone().or(kept).unwrap_or_else(|| title_of(file));
    let staging = store.stage()?;
    let index = run(file, ladder, staging.dir(), options, cancel)?;
    let track = publish::to_store(&store, staging, id, &title, &index)?;
    Ok((track, index))
}

fn report(args: &PublishArgs, config: &Config, track: &Track, index: &VersionIndex) -> Result<()> {
    let links = app::links(config)?;
    let now_s = Clock::System.unix_s();
    let master = |scope| links.master(track.id, track.version, scope, now_s);
    if !args.json {
        // A title is somebody's text: nothing of it may steer the terminal.
        let title = track.title.replace(char::is_control, " ");
        say(format!("{} \"{title}\" {:.1} s", track.id, track.duration_s()));
        say(format!("  stable    /tracks/{}/master.m3u8   page /watch/{}", track.id, track.id));
        say(format!("  AAC       {}", master(Scope::Aac)));
        if track.lossless {
            say(format!("  lossless  {}", master(Scope::Flac)));
            say(format!("  all       {}", master(Scope::All)));
        }
        return Ok(());
    }
    let rungs: Vec<_> = index
        .rungs
        .iter()
        .map(|rung| {
            json!({
                "path": rung.path(), "codecs": rung.codecs, "rate": rung.rate, "channels": rung.channels,
                "bits": rung.bits, "nominal_bps": rung.nominal_bps, "bandwidth": rung.peak_bps,
                "average_bandwidth": rung.average_bps, "priming": rung.priming, "padding": rung.padding,
                "samples": rung.samples, "segments": rung.segments.len(),
            })
        })
        .collect();
    let has_preview = index.extras.iter().any(|extra| extra.role == Role::Preview);
    say(json!({
        "track_id": track.id,
        "version": track.version,
        "title": track.title,
        "master_url": master(Scope::Aac),
        "lossless_master_url": track.lossless.then(|| master(Scope::Flac)),
        "all_master_url": master(Scope::All),
        "preview_url": has_preview.then(|| links.preview(track.id, track.version)),
        "duration_s": track.duration_s(),
        "samples": track.samples,
        "rate": track.rate,
        "loudness": index.loudness,
        "rungs": rungs,
    }));
    Ok(())
}

pub(super) fn transcode(args: &TranscodeArgs) -> Result<ExitCode> {
    let config = Config::load(args.config.as_deref())?.checked()?;
    let ladder = read_ladder(args.ladder.as_deref())?;
    let options = app::transcode_options(&config);
    let out = &args.out;
    refuse_used_directory(out)?;
    transcode::check_input(&args.input, &options)?;
    let cancel = cancel_on_signal()?;

    // Everything is made beside the target and renamed at the end: the target is whole or absent.
    let absolute = std::path::absolute(out).context(|| format!("cannot resolve {}", out.display()))?;
    let parent = absolute.parent().ok_or_else(|| Error::usage("--out cannot be the root directory"))?;
    let mut made = MadeDirs::create_all(parent)?;
    let partial = tempfile_in(parent, &absolute)?;
    let objects = made_dir(partial.0.join("objects"))?;
    let index = run(&args.input, &ladder, &objects, &options, &cancel)?;
    let tree = made_dir(partial.0.join("tree"))?;
    let version = publish::to_tree(&objects, &index, &tree)?;
    put_tree(&tree, &absolute).context(|| format!("cannot put the finished tree at {}", out.display()))?;
    made.keep();
    say(format!("{} version {version} {:.1} s, {} rungs", out.display(), index.duration_s(), index.rungs.len()));
    Ok(ExitCode::SUCCESS)
}

pub(super) fn probe(args: &ProbeArgs) -> Result<ExitCode> {
    let config = Config::load(args.config.as_deref())?.checked()?;
    let report = transcode::probe(&args.input, &app::transcode_options(&config))?;
    if args.json {
        say(serde_json::to_string(&report).expect("plain data always serialises"));
    } else {
        let source = &report.source;
        say(format!(
            "{}: {}, {} Hz, {} channels, {} bits, {:.3} s ({} samples)",
            args.input.display(),
            source.codec,
            source.rate,
            source.channels,
            source.bits,
            report.duration_s,
            source.samples
        ));
        if let Some(lufs) = report.loudness.integrated_lufs {
            say(format!("  loudness {lufs:.2} LUFS, range {:.2} LU", report.loudness.range_lu));
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn pipelines(command: &PipelinesCommand) -> Result<ExitCode> {
    let PipelinesCommand::Check { files } = command;
    if files.is_empty() {
        let ladder = read_ladder(None)?;
        say(format!("the built-in plan is fine: {} rungs", ladder.rungs.len()));
    }
    for file in files {
        let ladder = read_ladder(Some(file))?;
        say(format!("{} is fine: {} rungs", file.display(), ladder.rungs.len()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs one transcode with a progress bar on a terminal.
fn run(file: &Path, ladder: &Ladder, dir: &Path, options: &Options, cancel: &AtomicBool) -> Result<VersionIndex> {
    let bar = progress_bar(file);
    let mut rate = 1;
    let index = transcode::run(
        file,
        ladder,
        dir,
        options,
        &mut |progress| match progress {
            Progress::Probed { rate: source_rate, total_samples, .. } => {
                rate = u64::from(source_rate.max(1));
                bar.set_length(total_samples.unwrap_or(0) / rate);
            }
            Progress::Encoded { done_samples, .. } => bar.set_position(done_samples / rate),
        },
        cancel,
    );
    bar.finish_and_clear();
    index
}

fn progress_bar(file: &Path) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    }
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} s of music, {per_sec}, {eta} left")
        .expect("the template is a constant");
    let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy().into_owned();
    ProgressBar::new(0).with_style(style).with_message(name)
}

fn read_ladder(path: Option<&Path>) -> Result<Ladder> {
    let Some(path) = path else { return Ok(Ladder::default_audio()) };
    let text = std::fs::read_to_string(path)
        .map_err(|cause| Error::usage(format!("cannot read the encoding plan {}", path.display())).because(cause))?;
    Ladder::decode(&text, &path.display().to_string())
}

fn title_of(file: &Path) -> String {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    // File names may hold line breaks; titles stand in lists and pages.
    stem.replace(char::is_control, " ").trim().to_owned()
}

/// Sets the flag on Ctrl-C or SIGTERM, so that a transcode stops its child and removes its files.
/// The thread lives as long as the process; a second signal ends the process at once.
fn cancel_on_signal() -> Result<Arc<AtomicBool>> {
    let cancel = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&cancel);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context(|| "cannot start the signal listener")?;
    let listen = move || {
        runtime.block_on(async {
            for _ in 0..2 {
                if app::hangup_or_stop_signal().await.is_err() || flag.swap(true, Ordering::Relaxed) {
                    break;
                }
            }
            std::process::exit(130);
        });
    };
    std::thread::Builder::new().name("signals".into()).spawn(listen).context(|| "cannot start the signal listener")?;
    Ok(cancel)
}

/// Puts the finished tree in its place. A directory that is there already is filled, not replaced: it may
/// be somebody's current directory, and has an owner and a mode. `version.json` goes last.
fn put_tree(tree: &Path, target: &Path) -> std::io::Result<()> {
    if !target.is_dir() {
        return std::fs::rename(tree, target);
    }
    let is_last = |path: &PathBuf| path.ends_with(VERSION_DOCUMENT);
    let mut entries = std::fs::read_dir(tree)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_by_key(is_last);
    for entry in entries {
        std::fs::rename(&entry, target.join(entry.file_name().unwrap_or_default()))?;
    }
    Ok(())
}

fn refuse_used_directory(out: &Path) -> Result<()> {
    match std::fs::read_dir(out).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::usage(format!("{} is not empty; name a new directory", out.display()))),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(cause) => Err(Error::usage(format!("cannot use {} for the output", out.display())).because(cause)),
    }
}

/// A hidden directory beside the target, removed when dropped.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn tempfile_in(parent: &Path, target: &Path) -> Result<Partial> {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    made_dir(parent.join(format!(".{name}.partial-{}", std::process::id()))).map(Partial)
}

fn made_dir(path: PathBuf) -> Result<PathBuf> {
    std::fs::create_dir(&path).context(|| format!("cannot make {}", path.display()))?;
    Ok(path)
}

/// The missing ancestors of the target that we made, removed again unless the work succeeds.
struct MadeDirs(Vec<PathBuf>);

impl MadeDirs {
    fn create_all(dir: &Path) -> Result<MadeDirs> {
        let missing: Vec<_> = dir.ancestors().take_while(|dir| !dir.exists()).map(Path::to_owned).collect();
        let made = MadeDirs(missing);
        std::fs::create_dir_all(dir).context(|| format!("cannot make {}", dir.display()))?;
        Ok(made)
    }

    fn keep(&mut self) {
        self.0.clear();
    }
}

impl Drop for MadeDirs {
    fn drop(&mut self) {
        // Innermost first; a directory that somebody else filled meanwhile stays.
        for dir in &self.0 {
            let _ = std::fs::remove_dir(dir);
        }
    }
}
