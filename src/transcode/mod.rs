//! From any audio file to a ladder: plan, supervise, child.
//!
//! `run` opens the input, looks at its first bytes (`sniff`), starts the same executable as a child
//! (`supervise`), and puts what the child sends into files (`assemble`). The child (`child`, `gst`)
//! decodes and encodes everything in one pass; it gets one descriptor, no path, no network.

mod analysis;
mod assemble;
mod child;
mod gst;
mod options;
mod plan;
mod preview;
mod protocol;
mod sandbox;
mod sniff;
mod supervise;
mod waveform;

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

pub use child::child_main;
pub use options::{Limits, Options};

use crate::base::error::Context as _;
use crate::base::{Error, Kind, Result};
use crate::hls::ladder::Ladder;
use crate::hls::package::rescale;
use crate::hls::version::{FORMAT, Loudness, Preview, Rung, Skipped, Source, VersionIndex};
use assemble::{Peaks, RungFile, Workspace};
use plan::{Format, Plan};
use protocol::{Event, Outcome};
use sniff::Sniffed;

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
        /// Samples per channel that the container promises.
        total_samples: Option<u64>,
    },
    /// Every rung has this much.
    Encoded {
        /// Samples per channel, at the source's rate.
        done_samples: u64,
        /// Samples per channel that the container promises.
        total_samples: Option<u64>,
    },
    /// A rung, or the preview, is whole and its file will not change any more.
    Rung {
        /// `aac/96`, `flac`; `preview`.
        path: String,
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
        let rungs = self.format().outputs(ladder, self.lossy_bps).into_iter().filter(|plan| !plan.preview);
        let outline = |plan: plan::RungPlan| Outline {
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
        self.format().skipped(ladder, self.lossy_bps)
    }

    fn format(&self) -> Format {
        let Source { rate, channels, bits, .. } = self.source;
        Format { rate, channels, bits, float: bits == 32 }
    }
}

/// Transcodes `input` into `work_dir`: one file per rung, `peaks.bin`, `preview.m4a`. Blocks until it
/// is done, failed or cancelled. Leaves no file behind unless it succeeds.
///
/// # Errors
/// `Invalid` when the input is to be refused, in words for whoever uploaded it; `Cancelled`; `NotFound`;
/// `Internal` when the machine or the program is to blame. The message names the input.
pub fn run(
    input: &Path,
    ladder: &Ladder,
    work_dir: &Path,
    options: &Options,
    on_progress: &mut dyn FnMut(Progress),
    cancel: &AtomicBool,
) -> Result<VersionIndex> {
    let _span = tracing::info_span!("transcode", rungs = ladder.rungs.len()).entered();
    let job = Job::open(input, options)?;
    let mut workspace = Workspace::new(work_dir, options.limits.output_bytes_max);
    let index = job.transcode(ladder, &mut workspace, options, on_progress, cancel).map_err(|e| job.blame(e))?;
    workspace.keep();
    Ok(index)
}

/// Looks at `input` without decoding it: whether it can be opened, its size, its first bytes.
///
/// # Errors
/// As `run`, for everything that shows before decoding.
pub fn check_input(input: &Path, options: &Options) -> Result<()> {
    Job::open(input, options).map(drop)
}

/// Decodes all of `input` and says what it is.
///
/// # Errors
/// As `run`.
pub fn probe(input: &Path, options: &Options) -> Result<ProbeReport> {
    let job = Job::open(input, options)?;
    job.probe(options).map_err(|e| job.blame(e))
}

/// One input, open and recognised.
struct Job {
    name: String,
    file: File,
    bytes: u64,
    sniffed: Sniffed,
}

impl Job {
    fn open(input: &Path, options: &Options) -> Result<Job> {
        let name = input.display().to_string();
        let refuse = |what: &str| Err(Error::invalid(format!("cannot transcode {name}: {what}")));
        let scheme = name.split_once("://").map(|(scheme, _)| scheme);
        if scheme.is_some_and(|scheme| scheme.bytes().all(|b| b.is_ascii_alphanumeric())) {
            return refuse("URLs are not read yet; download the file and give its path");
        }
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
            return refuse(&format!(
                "it has {} MiB; at most {} MiB are accepted; split it",
                about.len() >> 20,
                most >> 20
            ));
        }
        let sniffed = match sniff::sniff(&file, about.len()) {
            Ok(sniffed) => sniffed,
            Err(error) => return Err(Error::new(error.kind(), format!("cannot transcode {name}")).because(error)),
        };
        Ok(Job { name, file, bytes: about.len(), sniffed })
    }

    /// Says which input an error is about, and what to do.
    fn blame(&self, error: Error) -> Error {
        match error.kind() {
            Kind::Cancelled => Error::new(Kind::Cancelled, format!("transcoding {} was cancelled", self.name)),
            kind => Error::new(kind, format!("cannot transcode {}", self.name)).because(error),
        }
    }

    fn plan(&self, ladder: Option<&Ladder>, options: &Options) -> Plan {
        let limits = &options.limits;
        Plan {
            ladder: ladder.cloned(),
            input_bytes: self.sniffed.end.unwrap_or(self.bytes),
            trim: self.sniffed.trim,
            patches: self.sniffed.patches.clone(),
            bits: self.sniffed.bits,
            lossy_bps: self.sniffed.lossy_bps,
            preview_start_ms: options.preview_start_ms,
            duration_s_max: limits.duration_s_max,
            memory_bytes_max: limits.memory_bytes_max,
            cpu_s_max: limits.wall(self.bytes).as_secs() * 4,
        }
    }

    fn probe(&self, options: &Options) -> Result<ProbeReport> {
        let plan = self.plan(None, options);
        let mut format = None;
        let never = AtomicBool::new(false);
        let outcome = supervise::attempt(&plan, &self.file, options, &never, &mut |event, _| {
            if let Event::Opened(opened) = event {
                opened.check()?;
                format = Some(opened);
            }
            Ok(())
        })?;
        let format = format.ok_or_else(|| Error::internal("the child did not say what it decoded"))?;
        let sha256 = assemble::hash_of(&self.file, &never).context(|| "cannot read it")?;
        let source = self.source(&format, &outcome, sha256)?;
        let duration_s = source.samples as f64 / f64::from(source.rate);
        Ok(ProbeReport { source, duration_s, lossy_bps: self.sniffed.lossy_bps, loudness: outcome.loudness })
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
            let mut hash = Some(scope.spawn(|| assemble::hash_of(&self.file, &failed)));
            let outcome = supervise::attempt(&plan, &self.file, options, cancel, &mut |event, payload| match event {
                Event::Measured(outcome) => {
                    let hash = hash.take().ok_or_else(|| Error::internal("the child measured the source twice"))?;
                    let hash = hash.join().map_err(|_| Error::internal("the hashing thread panicked"))?;
                    making.measured(outcome, hash.context(|| "cannot read it")?, self, ladder, workspace, on_progress)
                }
                event => making.take(event, &payload, self, ladder, workspace, on_progress),
            });
            failed.store(outcome.is_err(), Ordering::Relaxed);
            outcome
        })?;
        making.finish(outcome)
    }

    /// The decoded source, if it is all there.
    fn source(&self, format: &Format, outcome: &Outcome, sha256: String) -> Result<Source> {
        self.sniffed.check_length(outcome.samples, outcome.surplus, format.rate)?;
        Ok(Source {
            sha256,
            codec: self.sniffed.codec.clone().or_else(|| outcome.codec.clone()).unwrap_or_else(|| "unknown".into()),
            rate: format.rate,
            channels: format.channels,
            bits: format.bits,
            samples: outcome.samples,
        })
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
    /// The version without its rungs, once the source is measured.
    measured: Option<VersionIndex>,
    total_samples: Option<u64>,
    told: u64,
}

/// One file.
enum Output {
    /// Being written.
    Open(RungFile),
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
                self.total_samples = job.sniffed.samples_at(format.rate);
                let Format { rate, channels, bits, .. } = format;
                on_progress(Progress::Probed { rate, channels, bits, total_samples: self.total_samples });
                Ok(())
            }
            Event::Init { rung } => {
                self.open(rung)?.init(workspace, payload)?;
                self.close(rung, on_progress)
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
            Event::Decoded { .. } => Ok(()),
            Event::Measured(_) | Event::Done(_) | Event::Failed { .. } => Err(Error::internal("the child ended twice")),
        }
    }

    fn open(&mut self, rung: usize) -> Result<&mut RungFile> {
        match self.outputs.get_mut(rung) {
            Some(Output::Open(file)) => Ok(file),
            Some(Output::Whole { .. }) => Err(Error::internal("the child goes on with a rung that it finished")),
            None => Err(Error::internal("the child speaks of a rung it was not asked for")),
        }
    }

    /// Reads a rung back as soon as it is whole.
    fn close(&mut self, at: usize, on_progress: &mut dyn FnMut(Progress)) -> Result<()> {
        let Output::Open(file) = &self.outputs[at] else { return Ok(()) };
        if !file.is_final() {
            return Ok(());
        }
        let Output::Open(file) = self.outputs.remove(at) else { return Ok(()) };
        let preview = file.plan().preview;
        let rung = Box::new(file.finish()?);
        let path = if preview { "preview".to_owned() } else { rung.path() };
        on_progress(Progress::Rung { path, peak_bps: rung.peak_bps, average_bps: rung.average_bps });
        self.outputs.insert(at, Output::Whole { rung, preview });
        Ok(())
    }

    /// The source is decoded to its end: everything about it is known, and what is whole can be played.
    fn measured(
        &mut self,
        outcome: Outcome,
        sha256: String,
        job: &Job,
        ladder: &Ladder,
        workspace: &mut Workspace,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        let Some(format) = self.format else { return Err(Error::internal("the child did not say what it decoded")) };
        let source = job.source(&format, &outcome, sha256)?;
        let long = source.samples >= PLAYABLE_S_MIN * u64::from(source.rate);
        let extras = self.peaks.take().map(|peaks| peaks.finish(workspace)).transpose()?.unwrap_or_default();
        let skipped = format.skipped(ladder, job.sniffed.lossy_bps);
        let mut index = VersionIndex {
            format: FORMAT,
            source,
            encoders: outcome.encoders,
            loudness: Some(outcome.loudness),
            rungs: vec![],
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
                Output::Open(_) => {}
            }
        }
        Ok(())
    }

    /// Everything is whole.
    fn finish(mut self, outcome: Outcome) -> Result<VersionIndex> {
        let open = |output: &Output| match output {
            Output::Open(file) => Some(file.plan().file_name()),
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
        let in_source = |output: &Output| match output {
            Output::Open(file) if !file.plan().preview => Some(rescale(file.samples(), file.plan().rate, format.rate)),
            _ => None,
        };
        let Some(done_samples) = self.outputs.iter().filter_map(in_source).min() else { return };
        let done_samples = done_samples.min(self.total_samples.unwrap_or(u64::MAX));
        if done_samples > self.told {
            self.told = done_samples;
            on_progress(Progress::Encoded { done_samples, total_samples: self.total_samples });
        }
    }
}
