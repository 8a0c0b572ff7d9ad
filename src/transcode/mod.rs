//! From any audio file to a ladder: plan, supervise, child.
//!
//! `run` opens the input, looks at its first bytes (`sniff`), starts the same executable as a child
//! (`supervise`), and puts what the child sends into files (`assemble`). The child (`child`, `gst`)
//! decodes and encodes everything in one pass; it gets one descriptor, no path, no network.

mod analysis;
mod assemble;
mod child;
mod fetch;
mod gst;
mod guard;
mod loudness;
mod options;
mod plan;
mod preview;
mod protocol;
mod sandbox;
mod sniff;
mod source;
mod supervise;
mod syscalls;
mod true_peak;
mod video;
mod waveform;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

pub use child::child_main;
pub use fetch::{Fetching, Remote, Resign};
pub use guard::{Allowed, HostRule, Network};
pub use options::{Limits, Options};
pub use sandbox::{Fence, Report, Sandbox, State, Trial};
pub use video::{FilmOutline, FilmReport};

use crate::base::error::Context as _;
use crate::base::{Error, Kind, Result};
use crate::hls::ladder::Ladder;
use crate::hls::ladder::video::Choice;
use crate::hls::package::rescale;
use crate::hls::version::{FORMAT, Family, Loudness, Preview, Rung, Skipped, Source, VersionIndex};
use assemble::{Peaks, RungFile, Workspace};
use fetch::Download;
use guard::Url;
use plan::{Format, Pad, Plan, RungPlan};
use protocol::{Event, Outcome};
use sniff::Sniffed;
use source::{Patient, ReadAt, Source as Bytes};

/// How far an attempt is.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    /// The first samples are decoded.
    Probed {
        /// Sample rate in Hz.
        rate: u32,
        /// Channels.
        channels: u32,
        /// Bits per sample; 32 for float.
        bits: u32,
        /// Samples per channel that the container promises, or that its bit rate lets expect.
        total_samples: Option<u64>,
    },
    /// Rungs have this much, on average, each weighed by the work that it is. It rises.
    Encoded {
        /// Samples per channel, at the source's rate.
        done_samples: u64,
        /// As in `Probed`. What was expected only may be exceeded.
        total_samples: Option<u64>,
    },
    /// A rung, or the preview, is whole and its file will not change any more.
    Rung {
        /// `aac/96`, `flac`; `preview`.
        path: String,
        /// As in `CODECS`.
        codecs: String,
        /// How many segments it has.
        segments: usize,
        /// Peak segment bit rate in bit/s, measured.
        peak_bps: u64,
        /// Average segment bit rate in bit/s, measured.
        average_bps: u64,
    },
    /// The preview and the first rung are whole while others are not: a version of their own, whose objects are in the
    /// work directory and stay as they are. Only of sources that take long enough.
    Playable(Box<VersionIndex>),
}

/// A source of fewer seconds is whole before anybody could play its first rung.
const PLAYABLE_S_MIN: u64 = 60;

/// What an input is, measured by decoding all of it.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct ProbeReport {
    /// The source as it would stand in the version index.
    #[serde(flatten)]
    pub source: Source,
    /// Length in seconds.
    pub duration_s: f64,
    /// Bit rate in bit/s of a source whose codec is lossy, where its container says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lossy_bps: Option<u64>,
    /// EBU R128 numbers.
    pub loudness: Loudness,
    #[serde(skip)]
    format: Format,
}

/// What the ladder would make of an input.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Outline {
    /// Directory of the rung below the version: `aac/96`, `flac`.
    pub path: String,
    /// Sample rate in Hz.
    pub rate: u32,
    /// Channels.
    pub channels: u32,
    /// Bits per sample.
    pub bits: u32,
    /// Asked-for bit rate in bit/s; 0 for lossless.
    pub nominal_bps: u64,
}

impl ProbeReport {
    /// The rungs `run` would make of it.
    pub fn outline(&self, ladder: &Ladder) -> Vec<Outline> {
        let rungs = self.format.outputs(ladder, self.lossy_bps).into_iter().filter(|plan| !plan.preview);
        let outline = |plan: RungPlan| Outline {
            path: plan.rung.path(),
            rate: plan.rate,
            channels: plan.channels,
            bits: plan.bits,
            nominal_bps: plan.rung.bitrate_bps.into(),
        };
        rungs.map(outline).collect()
    }

    /// The rungs `run` would not make of it, and why.
    pub fn skipped(&self, ladder: &Ladder) -> Vec<Skipped> {
        self.format.skipped(ladder, self.lossy_bps)
    }
}

/// Where a source comes from.
#[derive(Clone, Debug)]
pub enum Input {
    /// A file of this machine.
    File(PathBuf),
    /// An object on another server; read while it arrives.
    Url(Remote),
}

/// A path that begins like a URL is one: `http://…`, and with any other scheme an error that says so.
impl From<&Path> for Input {
    fn from(path: &Path) -> Input {
        match path.to_str().filter(|text| has_scheme(text)) {
            Some(url) => Input::Url(Remote { url: url.to_owned(), sha256: None, resign: None }),
            None => Input::File(path.to_owned()),
        }
    }
}

impl From<&PathBuf> for Input {
    fn from(path: &PathBuf) -> Input {
        path.as_path().into()
    }
}

impl From<Remote> for Input {
    fn from(remote: Remote) -> Input {
        Input::Url(remote)
    }
}

impl Input {
    /// For messages: the path, or the URL without its query, which may hold a signature.
    pub fn name(&self) -> String {
        match self {
            Input::File(path) => path.display().to_string(),
            Input::Url(remote) => Url::decode(&remote.url).map_or_else(|_| unread(&remote.url), |url| url.shown()),
        }
    }

    /// The name of the file, without directories.
    pub fn file_name(&self) -> String {
        match self {
            Input::File(path) => path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            Input::Url(remote) => Url::decode(&remote.url).map(|url| url.file_name()).unwrap_or_default(),
        }
    }
}

fn has_scheme(text: &str) -> bool {
    let scheme = text.split_once("://").map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| {
        !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    })
}

/// A URL that cannot be read, without what may be a secret in it.
fn unread(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let path = rest.split(['?', '#']).next().unwrap_or_default();
    let path = path.rsplit_once('@').map_or(path, |(_, host)| host);
    format!("{scheme}://{}", path.chars().take(200).collect::<String>())
}

/// Transcodes `input` into `work_dir`: one file per rung, `peaks.bin`, `preview.m4a`. Blocks until it
/// is done, failed or cancelled. Leaves no file behind unless it succeeds.
///
/// # Errors
/// `Invalid` when the input is to be refused, in words for whoever uploaded it; `Cancelled`; `NotFound`;
/// `Internal` when the machine or the program is to blame. The message names the input.
pub fn run(
    input: impl Into<Input>,
    ladder: &Ladder,
    work_dir: &Path,
    options: &Options,
    on_progress: &mut dyn FnMut(Progress),
    cancel: &AtomicBool,
) -> Result<VersionIndex> {
    let _span = tracing::info_span!("transcode", rungs = ladder.rungs.len()).entered();
    let job = Job::open(&input.into(), options, work_dir, cancel)?;
    let mut workspace = Workspace::new(work_dir, options.limits.output_bytes_max);
    let index = job.transcode(ladder, &mut workspace, options, on_progress, cancel).map_err(|e| job.blame(e))?;
    workspace.keep();
    Ok(index)
}

/// Whether a file that begins so cannot be audio, in the uploader's words.
///
/// # Errors
/// `Invalid` with what it is instead.
pub fn refuse_by_first_bytes(head: &[u8]) -> Result<()> {
    sniff::refuse_by_first_bytes(head)
}

/// As `run`, for what `choice` says: sound, a film, or the one or the other by what the input holds.
///
/// # Errors
/// As `run`.
pub fn run_as(
    input: impl Into<Input>,
    choice: &Choice,
    work_dir: &Path,
    options: &Options,
    on_progress: &mut dyn FnMut(Progress),
    cancel: &AtomicBool,
) -> Result<VersionIndex> {
    let input = input.into();
    let ladder = match choice {
        Choice::Audio(ladder) => return run(input, ladder, work_dir, options, on_progress, cancel),
        Choice::Video(ladder) | Choice::ByContent(_, ladder) => ladder,
    };
    let span = tracing::info_span!("transcode", sizes = ladder.rungs.len()).entered();
    let look = if matches!(choice, Choice::Video(_)) { sniff::sniff_film } else { sniff::sniff_any };
    let job = Job::open_with(&input, options, work_dir, cancel, look)?;
    let mut workspace = Workspace::new(work_dir, options.limits.output_bytes_max);
    let name = job.name.clone();
    let index = if job.sniffed.picture {
        video::run(job, ladder, &mut workspace, options, on_progress, cancel)
    } else {
        drop(span);
        job.transcode(choice.audio(), &mut workspace, options, on_progress, cancel)
    };
    let index = index.map_err(|error| blame(&name, error))?;
    workspace.keep();
    Ok(index)
}

/// What a film is, without decoding it; `None` when the input has no picture.
///
/// # Errors
/// As `run`.
pub fn probe_film(input: impl Into<Input>, choice: &Choice, options: &Options) -> Result<Option<FilmReport>> {
    let Some(ladder) = choice.video() else { return Ok(None) };
    let look = if matches!(choice, Choice::Video(_)) { sniff::sniff_film } else { sniff::sniff_any };
    let never = AtomicBool::new(false);
    let job = Job::open_with(&input.into(), options, &std::env::temp_dir(), &never, look)?;
    if !job.sniffed.picture {
        return Ok(None);
    }
    video::look(&job, ladder, options).map(Some).map_err(|error| job.blame(error))
}

/// Looks at `input` without decoding it: whether it can be opened, its size, its first bytes; of a URL,
/// whether it may be asked at all.
///
/// # Errors
/// As `run`, for everything that shows before decoding.
pub fn check_input(input: impl Into<Input>, options: &Options) -> Result<()> {
    let input = input.into();
    match &input {
        Input::File(path) => Job::open_file(path, options, sniff::sniff_any).map(drop),
        Input::Url(remote) => {
            let checked = Url::decode(&remote.url).and_then(|url| options.fetching.allowed.check_host(&url));
            checked.context(|| format!("cannot transcode {}", input.name()))
        }
    }
}

/// Decodes all of `input` and says what it is.
///
/// # Errors
/// As `run`.
pub fn probe(input: impl Into<Input>, options: &Options) -> Result<ProbeReport> {
    let never = AtomicBool::new(false);
    let job = Job::open(&input.into(), options, &std::env::temp_dir(), &never)?;
    job.probe(options).map_err(|e| job.blame(e))
}

/// Starts a child that decodes nothing and says which fences stand around it.
///
/// # Errors
/// `Internal` when it does not start, or when `options.sandbox` asks for more fences than there are.
pub fn look_at_sandbox(options: &Options) -> Result<Report> {
    supervise::look(&trial_plan(Trial::Look, options), options)
}

/// Starts a child that misbehaves in this way once its sandbox is closed, and answers what became of it:
/// the same words that an input would get. For tests.
pub fn misbehave(trial: Trial, options: &Options) -> Error {
    let nothing = match File::open("/dev/null") {
        Ok(file) => Bytes::File(file),
        Err(cause) => return Error::internal("cannot open /dev/null").because(cause),
    };
    let never = AtomicBool::new(false);
    match supervise::attempt(&trial_plan(trial, options), &nothing, options, &never, &mut |_, _| Ok(())) {
        Ok(_) => Error::internal("it has decoded nothing"),
        Err(error) => error,
    }
}

fn trial_plan(trial: Trial, options: &Options) -> Plan {
    let limits = &options.limits;
    Plan {
        ladder: None,
        input_bytes: 0,
        arrivals: None,
        trim: None,
        patches: Vec::new(),
        linear: None,
        bits: None,
        mask: None,
        lossy_bps: None,
        md5_bits: None,
        preview_start_ms: None,
        duration_s_max: limits.duration_s_max,
        memory_bytes_max: limits.memory_bytes_max,
        cpu_s_max: limits.cpu_s(0),
        sandbox: options.sandbox,
        trial: Some(trial),
        video: None,
        pad: None,
    }
}

/// One input, open and recognised.
struct Job {
    name: String,
    bytes: Bytes,
    length: u64,
    sniffed: Sniffed,
    /// What its SHA-256 must be.
    sha256: Option<String>,
    /// Silence around its sound.
    pad: Option<Pad>,
}

/// How an input is looked at.
type Look = fn(&dyn ReadAt, u64) -> Result<Sniffed>;

impl Job {
    /// Opens an input for its sound; what has to be downloaded waits on the file system of `directory`.
    fn open(input: &Input, options: &Options, directory: &Path, cancel: &AtomicBool) -> Result<Job> {
        Job::open_with(input, options, directory, cancel, sniff::sniff)
    }

    fn open_with(input: &Input, options: &Options, directory: &Path, cancel: &AtomicBool, look: Look) -> Result<Job> {
        let remote = match input {
            Input::File(path) => return Job::open_file(path, options, look),
            Input::Url(remote) => remote,
        };
        let name = input.name();
        let blame = |error: Error| Error::new(error.kind(), format!("cannot transcode {name}")).because(error);
        let most = options.limits.input_bytes_max;
        let download = Download::start(remote, &options.fetching, most, directory, cancel).map_err(blame)?;
        let length = download.spool().bytes();
        let bytes = Bytes::Arriving(download);
        let sniffed = look(&Patient { source: &bytes, unwanted: cancel, asks: true }, length);
        let sniffed = match (sniffed, bytes.failure()) {
            (Ok(sniffed), _) => sniffed,
            (Err(_), Some(error)) => return Err(blame(error)),
            (Err(_), None) if cancel.load(Ordering::Relaxed) => {
                return Err(Error::new(Kind::Cancelled, format!("transcoding {name} was cancelled")));
            }
            (Err(error), None) => return Err(blame(error)),
        };
        sniffed.refuse_long(options.limits.duration_s_max).map_err(blame)?;
        let sha256 = remote.sha256.as_ref().map(|hash| hash.to_ascii_lowercase());
        Ok(Job { name, bytes, length, sniffed, sha256, pad: None })
    }

    fn open_file(input: &Path, options: &Options, look: Look) -> Result<Job> {
        let name = input.display().to_string();
        let refuse = |what: &str| Err(Error::invalid(format!("cannot transcode {name}: {what}")));
        // Looked at before it is opened: opening a named pipe would wait for its other end.
        let about = std::fs::metadata(input).map_err(|cause| unopened(&name, cause))?;
        if about.is_dir() {
            return refuse("it is a directory; give the path of an audio file");
        }
        if !about.is_file() {
            return refuse("it is not a plain file; give the path of an audio file");
        }
        let file = File::open(input).map_err(|cause| unopened(&name, cause))?;
        let about = file.metadata().map_err(|cause| unopened(&name, cause))?;
        let most = options.limits.input_bytes_max;
        if about.len() > most {
            return refuse(&options::too_large(about.len(), most).to_string());
        }
        let looked = look(&file, about.len())
            .and_then(|sniffed| sniffed.refuse_long(options.limits.duration_s_max).map(|()| sniffed));
        let sniffed = match looked {
            Ok(sniffed) => sniffed,
            Err(error) => return Err(Error::new(error.kind(), format!("cannot transcode {name}")).because(error)),
        };
        Ok(Job { name, bytes: Bytes::File(file), length: about.len(), sniffed, sha256: None, pad: None })
    }

    /// Says which input an error is about, and what to do.
    fn blame(&self, error: Error) -> Error {
        blame(&self.name, error)
    }

    fn plan(&self, ladder: Option<&Ladder>, options: &Options) -> Plan {
        let limits = &options.limits;
        Plan {
            ladder: ladder.cloned(),
            input_bytes: self.sniffed.end.unwrap_or(self.length),
            arrivals: self.bytes.arrivals(),
            trim: self.sniffed.trim,
            patches: self.sniffed.patches.clone(),
            linear: self.sniffed.linear.clone(),
            bits: self.sniffed.bits,
            mask: self.sniffed.mask,
            lossy_bps: self.sniffed.lossy_bps,
            md5_bits: self.sniffed.checksum.map(|checksum| checksum.bits),
            preview_start_ms: options.preview_start_ms,
            duration_s_max: limits.duration_s_max,
            memory_bytes_max: limits.memory_bytes_max,
            cpu_s_max: limits.cpu_s(self.length),
            sandbox: options.sandbox,
            trial: None,
            video: None,
            pad: self.pad,
        }
    }

    fn probe(&self, options: &Options) -> Result<ProbeReport> {
        let plan = self.plan(None, options);
        let mut format = None;
        let never = AtomicBool::new(false);
        let outcome = supervise::attempt(&plan, &self.bytes, options, &never, &mut |event, _| {
            if let Event::Opened(opened) = event {
                opened.check()?;
                format = Some(opened);
            }
            Ok(())
        })?;
        let format = format.ok_or_else(|| Error::internal("the child did not say what it decoded"))?;
        let sha256 = self.hashed(self.hash(&never))?;
        let source = self.source(&format, &outcome, sha256)?;
        let duration_s = source.samples as f64 / f64::from(source.rate);
        let (lossy_bps, loudness) = (self.sniffed.lossy_bps, outcome.loudness);
        Ok(ProbeReport { source, duration_s, lossy_bps, loudness, format })
    }

    fn transcode(
        &self,
        ladder: &Ladder,
        workspace: &mut Workspace,
        options: &Options,
        on_progress: &mut dyn FnMut(Progress),
        cancel: &AtomicBool,
    ) -> Result<VersionIndex> {
        let plan = self.plan(Some(ladder), options);
        let mut making = Making::default();
        let failed = AtomicBool::new(false);
        let outcome = std::thread::scope(|scope| {
            // The source's hash costs nothing while the child waits for its plugins.
            let mut hash = Some(scope.spawn(|| self.hash(&failed)));
            let mut known = |making: &mut Making, workspace: &mut Workspace, on_progress: &mut dyn FnMut(Progress)| {
                // A last part that the decoder has no use for may still be to come.
                let Some(done) = hash.take_if(|hash| hash.is_finished() && making.decoded.is_some()) else {
                    return Ok(hash.is_none());
                };
                let found = done.join().map_err(|_| Error::internal("the hashing thread panicked"))?;
                making.measured(self.hashed(found)?, self, ladder, workspace, on_progress).map(|()| true)
            };
            let outcome = supervise::attempt(&plan, &self.bytes, options, cancel, &mut |event, payload| {
                making.take(event, &payload, self, ladder, workspace, on_progress)?;
                known(&mut making, workspace, on_progress).map(|_| ())
            });
            failed.store(outcome.is_err(), Ordering::Relaxed);
            let outcome = outcome?;
            while making.decoded.is_some() && !known(&mut making, workspace, on_progress)? {
                if cancel.load(Ordering::Relaxed) {
                    failed.store(true, Ordering::Relaxed);
                }
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            Ok(outcome)
        })?;
        making.finish(outcome, on_progress)
    }

    /// Reads all of the source: its hash, and why it is not whole.
    fn hash(&self, unwanted: &AtomicBool) -> std::io::Result<(String, Result<()>)> {
        let source = Patient { source: &self.bytes, unwanted, asks: false };
        let hash = assemble::hash_of(&source, unwanted)?;
        Ok((hash, sniff::walk(&source, self.length, &self.sniffed)))
    }

    /// The hash, if the source is whole and the one that was meant.
    fn hashed(&self, hash: std::io::Result<(String, Result<()>)>) -> Result<String> {
        let (found, whole) = match (hash, self.bytes.failure()) {
            (Ok(found), _) => found,
            (Err(_), Some(error)) => return Err(error),
            (Err(cause), None) if cause.kind() == std::io::ErrorKind::Interrupted => {
                return Err(Error::new(Kind::Cancelled, "cancelled"));
            }
            (Err(cause), None) => return Err(Error::internal("cannot read it").because(cause)),
        };
        match &self.sha256 {
            Some(meant) if *meant != found => {
                Err(Error::invalid(format!("its SHA-256 is {found}, but {meant} was promised; upload the file again")))
            }
            _ => whole.map(|()| found),
        }
    }

    /// The decoded source, if it is all there.
    fn source(&self, format: &Format, outcome: &Outcome, sha256: String) -> Result<Source> {
        let own = outcome.samples.saturating_sub(outcome.padded);
        self.sniffed.check_length(own, outcome.surplus, format.rate)?;
        self.sniffed.check_md5(outcome.md5.as_deref())?;
        Ok(Source {
            sha256,
            codec: self.sniffed.codec.clone().or_else(|| outcome.codec.clone()).unwrap_or_else(|| "unknown".into()),
            rate: format.rate,
            channels: format.channels,
            layout: format.layout(),
            bits: format.bits,
            samples: outcome.samples,
        })
    }
}

fn blame(name: &str, error: Error) -> Error {
    match error.kind() {
        Kind::Cancelled => Error::new(Kind::Cancelled, format!("transcoding {name} was cancelled")),
        kind => Error::new(kind, format!("cannot transcode {name}")).because(error),
    }
}

/// Why an input cannot be opened, and what to do.
fn unopened(name: &str, cause: std::io::Error) -> Error {
    use std::io::ErrorKind;
    match cause.kind() {
        ErrorKind::NotFound => Error::not_found(format!("cannot open {name}: there is no such file; check the path")),
        ErrorKind::PermissionDenied => {
            Error::invalid(format!("cannot open {name}: this user may not read it; change its permissions"))
        }
        _ => Error::invalid(format!("cannot open {name}: {cause}; check the path")),
    }
}

/// The outputs while the child sends them.
#[derive(Default)]
struct Making {
    format: Option<Format>,
    /// The ladder's rungs, then the preview.
    outputs: Vec<Output>,
    peaks: Option<Peaks>,
    /// What the child found, until the source's hash is known too.
    decoded: Option<Outcome>,
    /// The version, once the source is measured.
    measured: Option<VersionIndex>,
    total_samples: Option<u64>,
    told: u64,
}

/// One file.
enum Output {
    /// Being written.
    Open(RungFile),
    /// Being read back by a thread of its own: what the child says meanwhile is not kept waiting.
    Closing { read: JoinHandle<Result<Rung>>, plan: RungPlan, samples: u64 },
    /// Read back, checked and measured.
    Whole { rung: Box<Rung>, preview: bool },
}

impl Making {
    fn take(
        &mut self,
        event: Event,
        payload: &[u8],
        job: &Job,
        ladder: &Ladder,
        workspace: &mut Workspace,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        self.settle(false, on_progress)?;
        match event {
            Event::Opened(format) => {
                if self.format.replace(format).is_some() {
                    return Err(Error::internal("the child opened the source twice"));
                }
                format.check()?;
                for plan in format.outputs(ladder, job.sniffed.lossy_bps) {
                    self.outputs.push(Output::Open(RungFile::create(workspace, plan)?));
                }
                self.peaks = Some(Peaks::create(workspace, format.rate)?);
                self.total_samples = job.sniffed.likely_samples_at(format.rate);
                let Format { rate, channels, bits, .. } = format;
                on_progress(Progress::Probed { rate, channels, bits, total_samples: self.total_samples });
                Ok(())
            }
            Event::Init { rung } => {
                self.open(rung)?.init(workspace, payload)?;
                self.close(rung)
            }
            Event::Segment { rung } => {
                self.open(rung)?.segment(workspace, payload)?;
                self.tell(on_progress);
                Ok(())
            }
            Event::Peaks => match &mut self.peaks {
                Some(peaks) => peaks.add(workspace, payload),
                None => Err(Error::internal("the child sent a waveform where none is expected")),
            },
            Event::Measured(outcome) => match self.decoded.replace(outcome) {
                None => Ok(()),
                Some(_) => Err(Error::internal("the child measured the source twice")),
            },
            Event::Decoded { .. } | Event::Sandboxed(_) | Event::Want { .. } => Ok(()),
            Event::Surveyed(_) | Event::Poster => Err(Error::internal("the child speaks of a picture")),
            Event::Done(_) | Event::Failed { .. } => Err(Error::internal("the child ended twice")),
        }
    }

    fn open(&mut self, rung: usize) -> Result<&mut RungFile> {
        match self.outputs.get_mut(rung) {
            Some(Output::Open(file)) => Ok(file),
            Some(Output::Closing { .. } | Output::Whole { .. }) => {
                Err(Error::internal("the child goes on with a rung that it finished"))
            }
            None => Err(Error::internal("the child speaks of a rung it was not asked for")),
        }
    }

    /// Has a rung read back as soon as it is whole.
    fn close(&mut self, at: usize) -> Result<()> {
        let Output::Open(file) = &self.outputs[at] else { return Ok(()) };
        if !file.is_final() {
            return Ok(());
        }
        let (plan, samples) = (file.plan().clone(), file.samples());
        let Output::Open(file) = self.outputs.remove(at) else { return Ok(()) };
        let read = std::thread::Builder::new().name("read-back".into()).spawn(move || file.finish());
        let read = read.context(|| "cannot start a thread that reads a rung back")?;
        self.outputs.insert(at, Output::Closing { read, plan, samples });
        Ok(())
    }

    /// Takes what was read back, and tells of it; with `wait` all that is being read.
    fn settle(&mut self, wait: bool, on_progress: &mut dyn FnMut(Progress)) -> Result<()> {
        for at in 0..self.outputs.len() {
            if !matches!(&self.outputs[at], Output::Closing { read, .. } if wait || read.is_finished()) {
                continue;
            }
            let Output::Closing { read, plan, .. } = self.outputs.remove(at) else { continue };
            let rung = read.join().map_err(|_| Error::internal("the thread that read a rung back panicked"))?;
            let (rung, preview) = (Box::new(rung?), plan.preview);
            let path = if preview { "preview".to_owned() } else { rung.path() };
            on_progress(Progress::Rung {
                path,
                codecs: rung.codecs.clone(),
                segments: rung.segments.len(),
                peak_bps: rung.peak_bps,
                average_bps: rung.average_bps,
            });
            self.outputs.insert(at, Output::Whole { rung, preview });
        }
        Ok(())
    }

    /// The source is decoded to its end: everything about it is known, and what is whole can be played.
    fn measured(
        &mut self,
        sha256: String,
        job: &Job,
        ladder: &Ladder,
        workspace: &mut Workspace,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        self.settle(true, on_progress)?;
        let Some(format) = self.format else { return Err(Error::internal("the child did not say what it decoded")) };
        let outcome = self.decoded.take().ok_or_else(|| Error::internal("nothing was decoded to its end"))?;
        let source = job.source(&format, &outcome, sha256)?;
        let long = source.samples >= PLAYABLE_S_MIN * u64::from(source.rate);
        let extras = self.peaks.take().map(|peaks| peaks.finish(workspace)).transpose()?.unwrap_or_default();
        let skipped = format.skipped(ladder, job.sniffed.lossy_bps);
        let mut index = VersionIndex {
            format: FORMAT,
            source,
            encoders: outcome.encoders,
            loudness: Some(outcome.loudness),
            gating: Some(outcome.gating),
            rungs: vec![],
            video: None,
            skipped,
            preview: None,
            extras,
        };
        self.fill(&mut index, outcome.preview_start)?;
        let whole = self.outputs.iter().all(|output| matches!(output, Output::Whole { .. }));
        if long && !whole && !index.rungs.is_empty() {
            on_progress(Progress::Playable(Box::new(index.clone())));
        }
        self.measured = Some(index);
        Ok(())
    }

    /// Puts every rung that is whole into an index.
    fn fill(&self, index: &mut VersionIndex, preview_start: u64) -> Result<()> {
        index.rungs.clear();
        for output in &self.outputs {
            match output {
                Output::Whole { rung, preview: true } => {
                    index.preview = Some(Preview { start: preview_start, rung: Rung::clone(rung) });
                }
                Output::Whole { rung, preview: false } => {
                    if rung.samples != rescale(index.source.samples, index.source.rate, rung.rate) {
                        return Err(Error::internal(format!("{} is not as long as the source", rung.object.name)));
                    }
                    index.rungs.push(Rung::clone(rung));
                }
                Output::Open(_) | Output::Closing { .. } => {}
            }
        }
        Ok(())
    }

    /// Everything is whole.
    fn finish(mut self, outcome: Outcome, on_progress: &mut dyn FnMut(Progress)) -> Result<VersionIndex> {
        self.settle(true, on_progress)?;
        let open = |output: &Output| match output {
            Output::Open(file) => Some(file.plan().file_name()),
            Output::Closing { plan, .. } => Some(plan.file_name()),
            Output::Whole { .. } => None,
        };
        if let Some(name) = self.outputs.iter().find_map(open) {
            return Err(Error::internal(format!("the child did not finish {name}")));
        }
        let index = self.measured.take().filter(|index| index.source.samples == outcome.samples);
        let mut index = index.ok_or_else(|| Error::internal("the child did not measure what it decoded"))?;
        self.fill(&mut index, outcome.preview_start)?;
        index.encoders = outcome.encoders;
        Ok(index)
    }

    fn tell(&mut self, on_progress: &mut dyn FnMut(Progress)) {
        let Some(format) = self.format else { return };
        // Not the slowest: the first rung is whole before the others begin.
        let in_source = |output: &Output| match output {
            Output::Open(file) if !file.plan().preview => {
                Some((file.plan().rung.family, rescale(file.samples(), file.plan().rate, format.rate)))
            }
            Output::Whole { rung, preview: false } => {
                Some((rung.family, rescale(rung.samples, rung.rate, format.rate)))
            }
            Output::Closing { plan, samples, .. } if !plan.preview => {
                Some((plan.rung.family, rescale(*samples, plan.rate, format.rate)))
            }
            _ => None,
        };
        // AAC is searched for, FLAC is a tenth of that; with the first rung the source is measured, too.
        let weight = |at: usize, family| match family {
            Family::Flac => 1,
            _ if at == 0 => 13,
            _ => 10,
        };
        let done = self.outputs.iter().filter_map(in_source).enumerate();
        let (done, all) = done.fold((0, 0), |(done, all), (at, (family, samples))| {
            let weight = weight(at, family);
            (done + u128::from(samples) * weight, all + weight)
        });
        let done_samples = u64::try_from(done / all.max(1)).unwrap_or(u64::MAX);
        if done_samples > self.told {
            self.told = done_samples;
            on_progress(Progress::Encoded { done_samples, total_samples: self.total_samples });
        }
    }
}
