//! `segue publish`, `transcode`, `probe`, `pipelines`: from files to ladders, with a progress bar on a
//! terminal and nothing left behind when it fails.

use std::fs::File;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::{Settings, complain, say, signals, tell};
use crate::app::{self, advised};
use crate::base::clock::Clock;
use crate::base::error::Context as _;
use crate::base::id::{TrackId, VersionId};
use crate::base::{Error, Kind, Result, held, hex, text};
#[cfg(feature = "control")]
use crate::catalogue;
use crate::cdn::playback::Links;
use crate::config::Config;
use crate::hls::ladder::video::Choice;
use crate::hls::playlist::Scope;
use crate::hls::version::{Family, Skipped, VersionIndex, Video, VideoRung};
use crate::publish;
use crate::store::local::VERSION_DOCUMENT;
use crate::store::{Backend, LocalStore, Store};
use crate::tracks::{self, Track};
use crate::transcode::{self, FilmOutline, FilmReport, Input, Options, ProbeReport, Progress};

/// The largest encoding plan we read, in bytes.
const LADDER_BYTES_MAX: u64 = 1 << 20;

#[derive(Args, Debug)]
pub(super) struct PublishArgs {
    /// Audio or video files, or their http(s) URLs: WAV, AIFF, FLAC, ALAC, AAC, MP3, OGG Vorbis, Opus, mono to 5.1; MP4,
    /// MOV, MKV, WebM. Each is published or refused by itself; when one is not published, the exit code is 1.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// What people call the track, at most 512 characters [default: the file's name].
    #[arg(long)]
    title: Option<String>,
    /// Publish as a new version of this track instead of a new track.
    #[arg(long, value_name = "ID")]
    track: Option<TrackId>,
    /// Encoding plan: audio or video for the built-in ones, or a TOML file [default: by what the file holds].
    #[arg(long, value_name = "PLAN")]
    ladder: Option<PathBuf>,
    /// Where the preview begins in the track, in seconds [default: where its loudest 30 seconds do].
    #[arg(long, value_name = "SECONDS", value_parser = preview_start, allow_negative_numbers = true)]
    preview_start: Option<u64>,
    /// Print one JSON object a line for each published file.
    #[arg(long)]
    json: bool,
    /// Print one JSON object a line to standard error for each rung that is whole, and when the track can be played.
    #[arg(long)]
    events: bool,
    /// Let a new track of a minute or more be played as soon as its lowest rung is whole. A publish that is killed after that
    /// leaves the track with this rung alone; without --early it leaves nothing.
    #[arg(long)]
    early: bool,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Args, Debug)]
pub(super) struct TranscodeArgs {
    /// Audio or video file, or its http(s) URL.
    input: PathBuf,
    /// Directory to make; it must not exist, or be empty.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Encoding plan: audio or video for the built-in ones, or a TOML file [default: by what the file holds].
    #[arg(long, value_name = "PLAN")]
    ladder: Option<PathBuf>,
    /// Where the preview begins in the track, in seconds [default: where its loudest 30 seconds do].
    #[arg(long, value_name = "SECONDS", value_parser = preview_start, allow_negative_numbers = true)]
    preview_start: Option<u64>,
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(super) struct ProbeArgs {
    /// Audio or video file, or its http(s) URL.
    input: PathBuf,
    /// Encoding plan to say the outcome of: audio, video, or a TOML file [default: by what the file holds].
    #[arg(long, value_name = "PLAN")]
    ladder: Option<PathBuf>,
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
    if let Some(title) = &args.title {
        tracks::check_title(title).map_err(|wrong| Error::usage(format!("--title: {}", wrong.chain())))?;
    }
    let config = args.settings.load()?.checked()?;
    let choice = read_published(args.ladder.as_deref())?;
    let options = Options { preview_start_ms: args.preview_start, ..app::transcode_options(&config) };
    let mut batch = Batch { files: args.files.len(), published: 0 };
    // Before the store is opened: a wrong file name must not leave a data directory behind. And before the
    // first long transcode, so that whoever typed the names hears at once.
    let mut files = Vec::new();
    for file in &args.files {
        match transcode::check_input(file, &options) {
            Ok(()) => files.push(file),
            Err(error) => batch.failed(error, &config.store_dir(), &[])?,
        }
    }
    if files.is_empty() {
        return Ok(batch.exit_code());
    }
    // A key that cannot be read must not show after a long transcode. One that is not there yet is made then.
    if config.has_bunny_key() {
        app::links(&config).map_err(|error| advised(error, &config.data, "--data"))?;
    }
    let cancel = signals::cancel()?;
    let store_dir = config.store_dir();
    let mut made = MadeDirs::of(LocalStore::directories(&store_dir));
    let known = known_track(args, &config)?;
    while let Some((file, rest)) = files.split_first() {
        match publish_one(args, file, known.as_ref(), &config, &choice, &options, &cancel) {
            Ok((track, index)) => {
                made.keep();
                let reported = app::links(&config).and_then(|links| report(args, &links, file, &track, &index));
                reported.map_err(|error| batch.unreported(&error, file, &track, rest))?;
                batch.published += 1;
            }
            Err(error) => batch.failed(error, &store_dir, rest)?,
        }
        files = rest.to_vec();
    }
    Ok(batch.exit_code())
}

/// What became of the files so far.
struct Batch {
    files: usize,
    published: usize,
}

impl Batch {
    /// A file was not published. Says so, and lets the others have their turn, unless they would fail too
    /// or nobody wants them any more. `rest` are those that have not begun.
    fn failed(&self, error: Error, store_dir: &Path, rest: &[&PathBuf]) -> Result<()> {
        let in_vain = error.kind() == Kind::Cancelled || app::is_of_the_place(&error);
        let error = advised(error, store_dir, "--data");
        if self.files == 1 {
            return Err(error);
        }
        if in_vain {
            return Err(Error::new(error.kind(), format!("{}{}", error.chain(), self.left(rest))));
        }
        complain(format_args!("{}", error.chain()));
        Ok(())
    }

    /// A file was published, but nobody was told under which name.
    fn unreported(&self, error: &Error, file: &Path, track: &Track, rest: &[&PathBuf]) -> Error {
        let (file, id, version, why) = (file.display(), track.id, track.version, error.chain());
        let left = self.left(rest);
        Error::internal(format!(
            "{file} was published as track {id}, version {version}, but {why}; it plays at \
             /tracks/{id}/master.m3u8{left}"
        ))
    }

    fn left(&self, rest: &[&PathBuf]) -> String {
        match rest {
            [] => String::new(),
            [next] => format!("; not begun: {}", next.display()),
            [next, others @ ..] => format!("; not begun: {} and {} more", next.display(), others.len()),
        }
    }

    fn exit_code(&self) -> ExitCode {
        if self.published == self.files { ExitCode::SUCCESS } else { ExitCode::from(1) }
    }
}

/// The track that `--track` names.
fn known_track(args: &PublishArgs, config: &Config) -> Result<Option<Track>> {
    let Some(id) = args.track else { return Ok(None) };
    let store_dir = config.store_dir();
    let unknown = || {
        let data = config.data.display();
        Error::not_found(format!(
            "there is no track {id} in {data}; check the id and --data, or leave --track out for a new track"
        ))
    };
    if !config.store.uses(Backend::S3) && !store_dir.exists() {
        return Err(unknown());
    }
    let store = app::open_store(config, false).map_err(|error| advised(error, &store_dir, "--data"))?;
    match tracks::read(&store, id) {
        Err(error) if error.kind() == Kind::NotFound => Err(unknown()),
        read => read.map(Some),
    }
}

fn publish_one(
    args: &PublishArgs,
    file: &Path,
    known: Option<&Track>,
    config: &Config,
    choice: &Choice,
    options: &Options,
    cancel: &AtomicBool,
) -> Result<(Track, VersionIndex)> {
    // Opened for each file and not before the input was checked; making it is idempotent.
    let store = app::open_store(config, false)?;
    store.sweep()?;
    let id = known.map_or_else(TrackId::random, |track| track.id);
    let kept = known.map(|track| track.title.clone());
    let title = args.title.clone().or(kept).unwrap_or_else(|| title_of(file));
    publish::sweep_interim(&store, publish::INTERIM_KEPT)?;
    let staging = store.stage()?;
    let mut first = None;
    let made = run(file, choice, staging.dir(), options, cancel, &mut |progress| {
        match progress {
            // A track that shows a version already keeps it until the new one is whole.
            Progress::Playable(_) if known.is_some() || !args.early => return,
            Progress::Playable(index) => {
                match publish::first_to_store(&store, staging.dir(), id, &title, index) {
                    Ok(track) => first = track,
                    // The whole version is what was asked for; it will say what is wrong with the store.
                    Err(error) => tracing::warn!(track = %id, error = error.chain(), "the first rung is not published"),
                }
                if first.is_none() {
                    return;
                }
            }
            _ => {}
        }
        if args.events {
            tell_event(id, progress);
        }
    });
    let published = made.and_then(|index| {
        let track = publish::place_noted(&store, staging, id, &title, &index)?;
        show(config, &store, &track, &index)?;
        publish::shown(&store, &track)?;
        if args.events && first.is_none() {
            tell_event(id, &Progress::Playable(Box::new(index.clone())));
        }
        Ok((track, index))
    });
    if let (Err(_), Some(first)) = (&published, &first) {
        publish::withdraw(&store, first.id, first.version)?;
    }
    published
}

/// Makes the track show what was placed, in the database too. A database that cannot be had is no reason to throw a
/// transcode away: the next server that starts takes the track over (`catalogue::import`).
#[cfg(feature = "control")]
fn show(config: &Config, store: &Store, track: &Track, index: &VersionIndex) -> Result<()> {
    let bytes = Some(catalogue::bytes_of(index));
    let runtime = tokio::runtime::Runtime::new().context(|| "cannot start")?;
    runtime.block_on(async {
        match app::database::open(config).await {
            Ok(db) => {
                let shown = catalogue::show_now(&db, store, track, bytes, &Clock::Service).await;
                db.close().await;
                shown
            }
            Err(error) => {
                complain(format_args!(
                    "track {} is not in the database until a server starts: {}",
                    track.id,
                    error.chain()
                ));
                tracks::write(store, track)
            }
        }
    })
}

#[cfg(not(feature = "control"))]
fn show(_: &Config, store: &Store, track: &Track, _: &VersionIndex) -> Result<()> {
    tracks::write(store, track)
}

/// One line of JSON on standard error; the result has standard output to itself.
fn tell_event(track: TrackId, progress: &Progress) {
    let event = match progress {
        Progress::Rung { path, codecs, segments, peak_bps, average_bps } => json!({
            "event": "rung", "track_id": track, "path": path, "codecs": codecs, "bandwidth": peak_bps,
            "average_bandwidth": average_bps, "segments": segments,
        }),
        Progress::Playable(index) => json!({
            "event": "playable", "track_id": track, "version": index.seal().1, "rungs": index.rungs.len(),
        }),
        Progress::Probed { .. } | Progress::Encoded { .. } => return,
    };
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{event}"); // nobody listens, then
}

fn report(args: &PublishArgs, links: &Links, file: &Path, track: &Track, index: &VersionIndex) -> Result<()> {
    let now_s = Clock::System.unix_s();
    let master = |scope| links.master(track.id, track.version, scope, now_s);
    let film = index.video.is_some().then(|| master(Scope::Video)).transpose()?;
    let aac = index.has(Family::Aac).then(|| master(Scope::Aac)).transpose()?;
    let flac = index.rungs.iter().find(|rung| rung.family == Family::Flac);
    if !args.json {
        // A title is somebody's text: nothing of it may steer the terminal.
        let title = track.title.replace(char::is_control, " ");
        let mut lines = vec![
            format!("{} \"{title}\" {:.1} s", track.id, track.duration_s()),
            format!("  stable    /tracks/{}/master.m3u8   page /watch/{}", track.id, track.id),
        ];
        lines.extend(film.map(|url| format!("  video     {url}")));
        lines.extend(aac.map(|url| format!("  AAC       {url}")));
        if let Some(flac) = flac {
            let name = if index.is_lossless(flac) { "lossless" } else { "FLAC" };
            lines.push(format!("  {name:<9} {}", master(Scope::Flac)?));
            lines.push(format!("  all       {}", master(Scope::All)?));
            lines.extend(index.loss(flac).map(|why| format!("  FLAC is not lossless here: {why}")));
            let among =
                |layout: &String| format!("  FLAC has no layout {layout}: these lie among {} channels", flac.channels);
            lines.extend(index.source.layout.as_ref().map(among).map(|line| line + ", the others silent"));
        }
        let hdr = index.video.as_ref().and_then(|video| video.source.hdr.as_ref());
        lines.extend(hdr.map(|transfer| format!("  the picture was HDR ({transfer}) and is SDR here")));
        lines.extend(index.skipped.iter().map(not_made));
        return tell(lines.join("\n"));
    }
    let rungs: Vec<_> = index
        .rungs
        .iter()
        .map(|rung| {
            json!({
                "path": rung.path(), "codecs": rung.codecs, "rate": rung.rate, "channels": rung.channels,
                "bits": rung.bits, "nominal_bps": rung.nominal_bps, "bandwidth": rung.peak_bps,
                "average_bandwidth": rung.average_bps, "priming": rung.priming, "padding": rung.padding,
                "samples": rung.samples, "segments": rung.segments.len(), "lossless": index.is_lossless(rung),
                "loss": index.loss(rung),
                "resampled_from": (rung.rate != index.source.rate).then_some(index.source.rate),
            })
        })
        .collect();
    tell(json!({
        "file": file.to_string_lossy(),
        "track_id": track.id,
        "version": track.version,
        "title": track.title,
        "master_url": film.as_ref().or(aac.as_ref()),
        "audio_master_url": film.as_ref().and(aac.as_ref()),
        "lossless_master_url": flac.map(|_| master(Scope::Flac)).transpose()?,
        "all_master_url": master(Scope::All)?,
        "preview_url": index.has_preview().then(|| links.preview(track.id, track.version)),
        "preview_hls_url": index.preview.is_some().then(|| links.preview_hls(track.id, track.version)),
        "preview_start_s": index.preview.as_ref().map(|preview| preview.start as f64 / f64::from(index.source.rate)),
        "duration_s": track.duration_s(),
        "samples": track.samples,
        "rate": track.rate,
        "layout": index.source.layout,
        "lossless": flac.is_some_and(|flac| index.is_lossless(flac)),
        "loudness": index.loudness,
        "rungs": rungs,
        "video": index.video.as_ref().map(|video| of_video(video, links, track)),
        "skipped": index.skipped,
    }))
}

/// The picture of a published film.
fn of_video(video: &Video, links: &Links, track: &Track) -> serde_json::Value {
    let rungs: Vec<_> = video
        .rungs
        .iter()
        .map(|VideoRung { width, height, audio, encoding }| {
            json!({
                "path": encoding.path(), "codecs": encoding.codecs, "width": width, "height": height, "audio": audio,
                "bandwidth": encoding.peak_bps, "average_bandwidth": encoding.average_bps,
                "segments": encoding.segments.len(),
            })
        })
        .collect();
    json!({
        "source": video.source, "frame_rate": video.frame_rate, "frames": video.frames, "rungs": rungs,
        "poster_url": links.poster(track.id, track.version),
    })
}

pub(super) fn transcode(args: &TranscodeArgs) -> Result<ExitCode> {
    let config = Config::load(args.config.as_deref())?.checked()?;
    let choice = read_choice(args.ladder.as_deref())?;
    let options = Options { preview_start_ms: args.preview_start, ..app::transcode_options(&config) };
    refuse_used_directory(&args.out)?;
    transcode::check_input(&args.input, &options)?;
    let cancel = signals::cancel()?;
    let made = transcode_to(&args.input, &args.out, &choice, &options, &cancel);
    let (version, index) = made.map_err(|error| advised(error, &args.out, "--out"))?;
    let (out, seconds) = (args.out.display(), index.duration_s());
    let rungs = index.rungs.len() + index.video.as_ref().map_or(0, |video| video.rungs.len());
    let line = format!("{out} version {version} {seconds:.1} s, {rungs} rungs");
    match tell(line) {
        Err(error) if app::io_kind(&error) != Some(std::io::ErrorKind::BrokenPipe) => {
            Err(Error::internal(format!("{out} is whole, but {}; nothing has to be done again", error.chain())))?;
        }
        _ => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Everything is made beside the target and renamed at the end: the target is whole or absent.
fn transcode_to(
    input: &Path,
    out: &Path,
    choice: &Choice,
    options: &Options,
    cancel: &AtomicBool,
) -> Result<(VersionId, VersionIndex)> {
    let absolute = std::path::absolute(out).context(|| format!("cannot resolve {}", out.display()))?;
    let parent = absolute.parent().ok_or_else(|| Error::usage("--out cannot be the root directory; name another"))?;
    let mut made = MadeDirs::of([parent.to_owned()]);
    let making = || format!("cannot make {}", out.display());
    std::fs::create_dir_all(parent).context(making)?;
    sweep_partials(parent);
    let partial = Partial::beside(parent).context(making)?;
    let (objects, tree) = (partial.dir.join("objects"), partial.dir.join("tree"));
    for dir in [&objects, &tree] {
        std::fs::create_dir(dir).context(making)?;
    }
    let index = run(input, choice, &objects, options, cancel, &mut |_| ())?;
    let version = publish::to_tree(&objects, &index, &tree).context(making)?;
    put_tree(&tree, &absolute).context(making)?;
    made.keep();
    Ok((version, index))
}

pub(super) fn probe(args: &ProbeArgs) -> Result<ExitCode> {
    let config = Config::load(args.config.as_deref())?.checked()?;
    let choice = read_choice(args.ladder.as_deref())?;
    let options = app::transcode_options(&config);
    let film = transcode::probe_film(&args.input, &choice, &options)?;
    if let Some(film) = &film {
        return probe_film(args, film, &choice, &options);
    }
    let ladder = choice.audio();
    let report = transcode::probe(&args.input, &options)?;
    let rungs = report.outline(ladder);
    if args.json {
        let mut document = serde_json::to_value(&report).expect("plain data always serialises");
        document["rungs"] = json!(rungs);
        document["skipped"] = json!(report.skipped(ladder));
        say(document);
        return Ok(ExitCode::SUCCESS);
    }
    let source = &report.source;
    let name = Input::from(&args.input).name().replace(char::is_control, " ");
    say(format!(
        "{name}: {}, {} Hz, {} channels, {} bits, {:.3} s ({} samples)",
        source.codec, source.rate, source.channels, source.bits, report.duration_s, source.samples
    ));
    if let Some(lufs) = report.loudness.integrated_lufs {
        say(format!("  loudness {lufs:.2} LUFS, range {:.2} LU", report.loudness.range_lu));
    }
    for rung in rungs {
        let kbps = match rung.nominal_bps {
            0 => String::new(),
            bps => format!(", {} kbit/s", bps / 1000),
        };
        let depth = if rung.nominal_bps == 0 { format!(", {} bits", rung.bits) } else { String::new() };
        say(format!("  {:<8} {} Hz, {} channels{kbps}{depth}", rung.path, rung.rate, rung.channels));
    }
    for skipped in report.skipped(ladder) {
        say(not_made(&skipped));
    }
    Ok(ExitCode::SUCCESS)
}

/// What a film is and becomes, and what its sound is.
fn probe_film(args: &ProbeArgs, film: &FilmReport, choice: &Choice, options: &Options) -> Result<ExitCode> {
    let video = choice.video().ok_or_else(|| Error::internal("a film without a plan"))?;
    let sound = if film.sound { Some(transcode::probe(&args.input, options)?) } else { None };
    let rungs = sound.as_ref().map(|sound| sound.outline(&video.audio)).unwrap_or_default();
    if args.json {
        let skipped = sound.as_ref().map(|sound| sound.skipped(&video.audio)).unwrap_or_default();
        let mut document = json!({ "video": film, "audio": sound, "rungs": rungs, "skipped": skipped });
        document["duration_s"] = json!(film.duration_s);
        say(document);
        return Ok(ExitCode::SUCCESS);
    }
    let (source, name) = (&film.source, Input::from(&args.input).name().replace(char::is_control, " "));
    let rate = |(n, d): (u32, u32)| (f64::from(n) / f64::from(d) * 1000.0).round() / 1000.0;
    let mut facts = vec![format!("{}×{}", source.width, source.height)];
    facts.extend((source.turned > 0).then(|| format!("turned by {}°", source.turned)));
    let (x, y) = source.pixel_aspect;
    facts.extend((x != y).then(|| format!("pixels {x}:{y}")));
    facts.extend(source.interlaced.then(|| "interlaced".to_owned()));
    facts.push(format!("{} pictures", source.frames));
    facts.extend(source.variable_rate.then(|| "at a varying rate".to_owned()));
    say(format!("{name}: {}, {}, {:.3} s", source.codec, facts.join(", "), film.duration_s));
    match &sound {
        Some(ProbeReport { source, .. }) => {
            say(format!("  sound {}, {} Hz, {} channels", source.codec, source.rate, source.channels));
        }
        None => say("  no sound"),
    }
    for rung in &film.rungs {
        let FilmOutline { path, width, height, ceiling_bps, audio } = rung;
        let with = audio.as_ref().map(|audio| format!(", heard with aac/{audio}")).unwrap_or_default();
        let fps = rate(film.frame_rate);
        say(format!("  {path:<12} {width}×{height}, {fps} pictures/s, up to {} kbit/s{with}", ceiling_bps / 1000));
    }
    for rung in rungs {
        say(format!(
            "  {:<12} {} Hz, {} channels, {} kbit/s",
            rung.path,
            rung.rate,
            rung.channels,
            rung.nominal_bps / 1000
        ));
    }
    for skipped in &film.skipped {
        say(not_made(skipped));
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn pipelines(command: &PipelinesCommand) -> Result<ExitCode> {
    let PipelinesCommand::Check { files } = command;
    if files.is_empty() {
        for name in ["audio", "video"] {
            let rungs = read_choice(Some(Path::new(name)))?.rungs();
            say(format!("the built-in {name} plan is fine: {rungs} rungs"));
        }
    }
    let mut wrong = None;
    for file in files {
        match read_choice(Some(file)) {
            Ok(choice) => say(format!("{} is fine: {} rungs", file.display(), choice.rungs())),
            Err(error) => {
                if let Some(before) = wrong.replace(error) {
                    complain(format_args!("{}", before.chain()));
                }
            }
        }
    }
    wrong.map_or(Ok(ExitCode::SUCCESS), Err)
}

/// Runs one transcode with a progress bar on a terminal.
fn run(
    file: &Path,
    choice: &Choice,
    dir: &Path,
    options: &Options,
    cancel: &AtomicBool,
    watch: &mut dyn FnMut(&Progress),
) -> Result<VersionIndex> {
    let bar = progress_bar(file);
    let mut rate = 1;
    let index = transcode::run_as(
        file,
        choice,
        dir,
        options,
        &mut |progress| {
            watch(&progress);
            match progress {
                Progress::Probed { rate: source_rate, total_samples, .. } => {
                    rate = u64::from(source_rate.max(1));
                    bar.set_length(total_samples.unwrap_or(0) / rate);
                }
                Progress::Encoded { done_samples, .. } => bar.set_position(done_samples / rate),
                Progress::Rung { .. } | Progress::Playable(_) => {}
            }
        },
        cancel,
    );
    bar.finish_and_clear();
    index.map_err(|error| match error.kind() {
        Kind::Cancelled => {
            let name = Input::from(file).name();
            Error::new(
                Kind::Cancelled,
                format!("interrupted while transcoding {name}; nothing of it was kept, start again"),
            )
        }
        _ => error,
    })
}

fn progress_bar(file: &Path) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    }
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} s of music, {per_sec}, {eta} left")
        .expect("the template is a constant");
    let name = Input::from(file).file_name();
    ProgressBar::new(0).with_style(style).with_message(name)
}

/// `audio` and `video` are the built-in plans; a file of that name is `./audio`.
pub(super) fn read_choice(path: Option<&Path>) -> Result<Choice> {
    let Some(path) = path else { return Ok(Choice::built_in()) };
    if let Some(built_in) = path.to_str().and_then(Choice::built_in_as) {
        return Ok(built_in);
    }
    let name = path.display();
    let text = text::read(path, LADDER_BYTES_MAX).map_err(|cause| match cause.kind() {
        std::io::ErrorKind::InvalidInput => {
            Error::usage(format!("{name} is not an encoding plan: {cause}; give a TOML file like pipelines/audio.toml"))
        }
        _ => Error::usage(format!("cannot read the encoding plan {name}: {cause}; check the path and its permissions")),
    })?;
    Choice::decode(&text, &name.to_string()).map_err(|wrong| {
        Error::usage(format!("{}; correct it, pipelines/README.md explains the fields", wrong.chain()))
    })
}

/// A plan for tracks: what their stable name leads to has to be in it.
pub(super) fn read_published(path: Option<&Path>) -> Result<Choice> {
    let choice = read_choice(path)?;
    match path {
        Some(path) if choice.audio().rungs.iter().all(|rung| rung.family != Family::Aac) => Err(Error::usage(format!(
            "the encoding plan {} has no AAC rung, and a track's stable name leads to those; add one, or use `segue \
             transcode`",
            path.display()
        ))),
        _ => Ok(choice),
    }
}

fn not_made(skipped: &Skipped) -> String {
    format!("  {:<8} not made: {}", skipped.path, skipped.why)
}

/// Seconds as they are typed, in milliseconds.
fn preview_start(text: &str) -> Result<u64, String> {
    // A day: far beyond the longest source, far below where milliseconds stop being exact.
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=86_400.0).contains(&seconds) => Ok((seconds * 1000.0).round() as u64),
        _ => Err("give seconds from the track's beginning, like 42.5".into()),
    }
}

pub(super) fn title_of(file: &Path) -> String {
    let name = Input::from(file).file_name();
    let stem = Path::new(&name).file_stem().unwrap_or_default().to_string_lossy();
    // File names may hold line breaks; titles stand in lists and pages.
    let title: String = stem.replace(char::is_control, " ").trim().chars().take(tracks::TITLE_CHARS_MAX).collect();
    if title.is_empty() { "untitled".to_owned() } else { title }
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
    let may_write = || rustix::fs::access(out, rustix::fs::Access::WRITE_OK).is_ok();
    match std::fs::read_dir(out).map(|mut entries| entries.next().is_none()) {
        Ok(true) if may_write() => Ok(()),
        Ok(true) => Err(Error::usage(format!(
            "this user may not write to {}; name another directory with --out",
            out.display()
        ))),
        Ok(false) => Err(Error::usage(format!("{} is not empty; name a new directory", out.display()))),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound && !out.is_symlink() => Ok(()),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
            Err(Error::usage(format!("{} is a link to nothing; remove it or name another directory", out.display())))
        }
        Err(cause) => {
            let out = out.display();
            Err(Error::usage(format!("cannot use {out} for the output: {cause}; name a new or an empty directory")))
        }
    }
}

/// A hidden directory beside the target, removed when dropped. A killed process leaves it behind unheld.
struct Partial {
    dir: PathBuf,
    _held: File,
}

const PARTIAL_PREFIX: &str = ".segue-";
const PARTIAL_SUFFIX: &str = ".partial";

impl Partial {
    fn beside(parent: &Path) -> std::io::Result<Partial> {
        // Not the process id: in a container that is the same each time.
        let mut random = [0; 8];
        getrandom::fill(&mut random).expect("the operating system gives random bytes");
        let dir = parent.join(format!("{PARTIAL_PREFIX}{}{PARTIAL_SUFFIX}", hex::encode(&random)));
        let held = held::hold(&dir, |dir| std::fs::create_dir(dir))?;
        Ok(Partial { dir, _held: held })
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Removes what killed transcodes left in a directory; what living ones hold stays.
fn sweep_partials(parent: &Path) {
    for path in std::fs::read_dir(parent).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with(PARTIAL_PREFIX)
            && name.ends_with(PARTIAL_SUFFIX)
            && let Some(_held) = held::take_left_over(&path)
        {
            let _ = std::fs::remove_dir_all(&path); // the next transcode tries again
        }
    }
}

/// Directories that were missing before we began, innermost first; removed again unless the work succeeds.
struct MadeDirs(Vec<PathBuf>);

impl MadeDirs {
    /// Looks which of these, and of what they are in, do not exist yet.
    fn of(dirs: impl IntoIterator<Item = PathBuf>) -> MadeDirs {
        let mut missing: Vec<PathBuf> = dirs
            .into_iter()
            .flat_map(|dir| dir.ancestors().take_while(|dir| !dir.exists()).map(Path::to_owned).collect::<Vec<_>>())
            .collect();
        missing.sort_by_key(|dir| std::cmp::Reverse(dir.components().count()));
        MadeDirs(missing)
    }

    fn keep(&mut self) {
        self.0.clear();
    }
}

impl Drop for MadeDirs {
    fn drop(&mut self) {
        // A directory that somebody else filled meanwhile stays.
        for dir in &self.0 {
            let _ = std::fs::remove_dir(dir);
        }
    }
}
