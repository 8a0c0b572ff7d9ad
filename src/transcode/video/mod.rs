//! A film: look at it, settle what to make, make the picture, make the sound, put both into one index.
//!
//! Three children, one after the other, each for one thing: the survey decodes nothing and refuses what is absurd, the
//! film has the picture's plugins, the sound is the audio ladder as every song has it.

pub(super) mod plan;
pub(super) mod tone;

use std::sync::atomic::{AtomicBool, Ordering};

use super::assemble::{ExtraFile, SlicedFile, Slices, Workspace, bandwidths};
use super::options::too_large;
use super::plan::{Pad, Plan};
use super::protocol::Event;
use super::sniff::{self, Sniffed};
use super::source::Patient;
use super::{Job, Options, Progress, supervise};
use crate::base::error::Context as _;
use crate::base::{Error, Result};
use crate::hls::cmaf::VideoCheck;
use crate::hls::ladder::video::VideoLadder;
use crate::hls::version::{
    FORMAT, Family, IFRAMES, Role, Rung, SLICE_ALIGNMENT, Skipped, Source, VersionIndex, Video, VideoRung, VideoSource,
};
use plan::{Film, Silence, Size, Survey, Task};

/// What is known of a film before it is decoded.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct FilmReport {
    /// The source's picture.
    pub source: VideoSource,
    /// Length in seconds.
    pub duration_s: f64,
    /// Whether it has sound.
    pub sound: bool,
    /// Pictures a second of every rung: numerator and denominator.
    pub frame_rate: (u32, u32),
    /// Pictures of every rung.
    pub frames: u64,
    /// The sizes that would be made.
    pub rungs: Vec<FilmOutline>,
    /// The sizes that would not, and why.
    pub skipped: Vec<Skipped>,
}

/// One size that would be made.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct FilmOutline {
    /// Directory of the rung below the version: `video/720p`.
    pub path: String,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// The ceiling in bit/s.
    pub ceiling_bps: u64,
    /// The audio rung that would be heard with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audio: Option<String>,
}

/// Looks at a film without decoding it.
///
/// # Errors
/// As `run`.
pub(super) fn look(job: &Job, ladder: &VideoLadder, options: &Options) -> Result<FilmReport> {
    let (survey, film, _) = survey(job, ladder, options, &AtomicBool::new(false))?;
    let picture = survey.picture.as_ref().ok_or_else(|| Error::internal("a film without a picture was settled"))?;
    let outline = |size: &Size| FilmOutline {
        path: format!("video/{}", size.name),
        width: size.width,
        height: size.height,
        ceiling_bps: size.bitrate_bps.into(),
        audio: survey.sound.map(|_| size.audio.clone()),
    };
    Ok(FilmReport {
        source: picture.source(),
        duration_s: film.time_ns(film.frames) as f64 / 1e9,
        sound: survey.sound.is_some(),
        frame_rate: film.rate,
        frames: film.frames,
        rungs: film.rungs.iter().map(outline).collect(),
        skipped: plan::skipped(&film, ladder),
    })
}

/// Makes every rung of a film.
///
/// # Errors
/// `Invalid` when the input is to be refused, in words for whoever uploaded it; `Cancelled`; `Internal`.
pub(super) fn run(
    mut job: Job,
    ladder: &VideoLadder,
    workspace: &mut Workspace,
    options: &Options,
    on_progress: &mut dyn FnMut(Progress),
    cancel: &AtomicBool,
) -> Result<VersionIndex> {
    let (survey, film, silence) = survey(&job, ladder, options, cancel)?;
    let picture = survey.picture.as_ref().ok_or_else(|| Error::internal("a film without a picture was settled"))?;
    let (second, frame) = film.clock();
    let total = film.frames * u64::from(frame);
    on_progress(Progress::Probed { rate: second, channels: 0, bits: 0, total_samples: Some(total) });
    // Whoever watches for progress sees some of it while the sound is made.
    let tenth = if survey.sound.is_some() { total / 10 } else { 0 };
    // The sound first: it takes a tenth of the time, and what is refused for it is refused soon.
    let mut index = match survey.sound {
        Some(sound) => {
            job.sniffed = sniffed_sound(&job, cancel)?;
            job.pad = Some(pad(silence, sound.rate));
            let length_s = (sound.end_ns.saturating_sub(sound.first_ns) / 1_000_000_000).max(1);
            let mut samples_max = u64::MAX;
            let mut first_tenth = |progress| match progress {
                Progress::Probed { rate, .. } => samples_max = (length_s * u64::from(rate)).max(1),
                Progress::Encoded { done_samples, .. } => {
                    let share = u128::from(tenth) * u128::from(done_samples.min(samples_max)) / u128::from(samples_max);
                    on_progress(Progress::Encoded { done_samples: share as u64, total_samples: Some(total) });
                }
                Progress::Rung { .. } => on_progress(progress),
                Progress::Playable(_) => {} // not without its picture
            };
            job.transcode(&ladder.audio, workspace, options, &mut first_tenth, cancel)?
        }
        None => silent(&job, &film, picture.codec.clone(), cancel)?,
    };
    let mut the_rest = |progress| match progress {
        Progress::Encoded { done_samples, .. } => {
            let share = u128::from(total - tenth) * u128::from(done_samples) / u128::from(total.max(1));
            on_progress(Progress::Encoded { done_samples: tenth + share as u64, total_samples: Some(total) });
        }
        other => on_progress(other),
    };
    let shot = shoot(&job, &film, workspace, options, &mut the_rest, cancel)?;
    let heard = |size: &Size| {
        // The wanted one, or the best below it: a rung that adds nothing to the source is not made.
        let order = ladder.audio.rungs.iter().map(|rung| rung.name.as_str());
        let up_to: Vec<&str> = order
            .scan(false, |past, name| {
                (!*past).then(|| {
                    *past = name == size.audio;
                    name
                })
            })
            .collect();
        let made = |name: &&&str| index.rungs.iter().any(|rung| rung.name == **name);
        up_to.iter().rev().find(made).map(|name| (*name).to_owned())
    };
    let mut rungs = Vec::new();
    for (size, encoding) in film.rungs.iter().zip(shot.rungs) {
        rungs.push(VideoRung { width: size.width, height: size.height, audio: heard(size), encoding });
    }
    let Some(lowest) = film.rungs.first() else { return Err(Error::internal("a film without a rung was settled")) };
    let iframes = VideoRung { width: lowest.width, height: lowest.height, audio: None, encoding: shot.iframes };
    index.video = Some(Video { source: picture.source(), frame_rate: film.rate, frames: film.frames, rungs, iframes });
    index.encoders.extend(shot.encoders);
    index.encoders.dedup();
    index.skipped.extend(plan::skipped(&film, ladder));
    index.extras.extend(shot.poster.map(ExtraFile::finish).transpose()?);
    Ok(index)
}

/// Looks at every packet, and settles what to make.
fn survey(job: &Job, ladder: &VideoLadder, options: &Options, cancel: &AtomicBool) -> Result<(Survey, Film, Silence)> {
    let most = options.limits.video_bytes_max;
    if job.length > most {
        return Err(too_large(job.length, most));
    }
    let plan = Plan { video: Some(Task::Survey), ..job.plan(None, options) };
    let mut found = None;
    supervise::attempt(&plan, &job.bytes, options, cancel, &mut |event, _| {
        if let Event::Surveyed(survey) = event {
            found = Some(survey);
        }
        Ok(())
    })?;
    let survey = found.ok_or_else(|| Error::internal("the child did not say what it saw"))?;
    let (film, silence) = plan::settle(&survey, ladder, &options.limits)?;
    Ok((survey, film, silence))
}

/// Every file of the picture.
struct Shot {
    rungs: Vec<Rung>,
    iframes: Rung,
    poster: Option<ExtraFile>,
    encoders: Vec<String>,
}

/// Decodes and encodes the picture.
fn shoot(
    job: &Job,
    film: &Film,
    workspace: &mut Workspace,
    options: &Options,
    on_progress: &mut dyn FnMut(Progress),
    cancel: &AtomicBool,
) -> Result<Shot> {
    let mut options = options.clone();
    let limits = &mut options.limits;
    // By what is to be encoded, not by the bytes of the source.
    (limits.wall_s_min, limits.bytes_per_s_min) = (film.wall_s(), u64::MAX);
    limits.resident_bytes_max = film.memory_bytes();
    // Room for the stacks and arenas of its threads, which are reserved and hardly touched.
    limits.memory_bytes_max = film.memory_bytes() + (2 << 30);
    let plan = Plan { video: Some(Task::Film(Box::new(film.clone()))), ..job.plan(None, &options) };

    let mut files = Vec::new();
    for name in names(film) {
        files.push(SlicedFile::create(workspace, format!("video-{name}.mp4"))?);
    }
    let mut poster = None;
    let (_, frame) = film.clock();
    let outcome = supervise::attempt(&plan, &job.bytes, &options, cancel, &mut |event, payload| {
        let unknown = || Error::internal("the child speaks of a rung it was not asked for");
        match event {
            Event::Init { rung } => files.get_mut(rung).ok_or_else(unknown)?.init(workspace, &payload),
            Event::Segment { rung } => files.get_mut(rung).ok_or_else(unknown)?.segment(workspace, &payload),
            Event::Poster => {
                if poster.is_some() || !payload.starts_with(b"\xff\xd8\xff") {
                    return Err(Error::internal("the child sent a poster that is none"));
                }
                let mut file = ExtraFile::create(workspace, Role::Poster, "poster.jpg".into())?;
                file.write(workspace, &payload)?;
                poster = Some(file);
                Ok(())
            }
            Event::Decoded { samples } => {
                let total = film.frames * u64::from(frame);
                let done_samples = (samples * u64::from(frame)).min(total);
                on_progress(Progress::Encoded { done_samples, total_samples: Some(total) });
                Ok(())
            }
            _ => Err(Error::internal("the child speaks of something else than the picture")),
        }
    })?;
    let mut rungs = Vec::new();
    for (file, name) in files.into_iter().zip(names(film)) {
        let file_name = file.name().to_owned();
        let rung = measured(file, name, film).context(|| format!("{file_name} does not add up"))?;
        on_progress(Progress::Rung {
            path: rung.path(),
            codecs: rung.codecs.clone(),
            segments: rung.segments.len(),
            peak_bps: rung.peak_bps,
            average_bps: rung.average_bps,
        });
        rungs.push(rung);
    }
    let iframes = rungs.pop().ok_or_else(|| Error::internal("there are no I-frames"))?;
    Ok(Shot { rungs, iframes, poster, encoders: outcome.encoders })
}

/// The rungs by size, then the I-frames.
fn names(film: &Film) -> impl Iterator<Item = &str> {
    film.rungs.iter().map(|size| size.name.as_str()).chain([IFRAMES])
}

/// Reads a rung back: every box, every picture, every boundary must be where it was planned.
fn measured(file: SlicedFile, name: &str, film: &Film) -> Result<Rung> {
    let iframes = name == IFRAMES;
    let (second, frame) = film.clock();
    let size = film.rungs.iter().find(|size| iframes || size.name == name);
    let size = size.ok_or_else(|| Error::internal("a file of no rung"))?;
    let begin = |init: &[u8]| VideoCheck::begin(init, frame, iframes);
    let (check, slices) = file.read_back(begin, VideoCheck::segment)?;
    let Slices { object, init, segments } = slices;
    let facts = check.init().clone();
    let syncs = check.finish()?;
    if (facts.config.width, facts.config.height, facts.timescale) != (size.width, size.height, second) {
        return Err(Error::internal("the child made another size or rate than planned"));
    }
    let places = film.cut.places(film.rate, film.frames);
    let begins: Vec<u64> = places.iter().filter(|place| iframes || place.1).map(|place| place.0).collect();
    let (mut at, mut found) = (0, Vec::new());
    for segment in &segments {
        found.push(at);
        at += segment.ticks / u64::from(frame);
    }
    if at != film.frames || begins != found {
        return Err(Error::internal(format!(
            "its segments begin at {found:?} and end at {at}, planned was {begins:?}"
        )));
    }
    let groups: Vec<u64> = places.iter().map(|place| place.0).collect();
    if !iframes && groups != syncs {
        return Err(Error::internal(format!("its groups begin at {syncs:?}, planned was {groups:?}")));
    }
    let (peak_bps, average_bps) = bandwidths(&segments, second);
    Ok(Rung {
        family: Family::Video,
        name: name.to_owned(),
        codecs: facts.config.codecs,
        rate: second,
        channels: 0,
        bits: 0,
        nominal_bps: if iframes { 0 } else { size.bitrate_bps.into() },
        peak_bps,
        average_bps,
        priming: 0,
        padding: 0,
        samples: facts.ticks,
        alignment: SLICE_ALIGNMENT,
        object,
        init,
        segments,
    })
}

/// What the sound's own look finds, as of any song.
fn sniffed_sound(job: &Job, cancel: &AtomicBool) -> Result<Sniffed> {
    sniff::sniff(&Patient { source: &job.bytes, unwanted: cancel, asks: true }, job.length)
}

fn pad(silence: Silence, rate: u32) -> Pad {
    let samples = |ns: u64| (u128::from(ns) * u128::from(rate) / 1_000_000_000) as u64;
    Pad { before: samples(silence.before_ns), until: silence.until_ns.map(samples), rate }
}

/// The index of a film without sound: its clock is the picture's.
fn silent(job: &Job, film: &Film, codec: String, cancel: &AtomicBool) -> Result<VersionIndex> {
    let (second, frame) = film.clock();
    let sha256 = job.hashed(job.hash(cancel))?;
    if cancel.load(Ordering::Relaxed) {
        return Err(Error::new(crate::base::Kind::Cancelled, "cancelled"));
    }
    let samples = film.frames * u64::from(frame);
    Ok(VersionIndex {
        format: FORMAT,
        source: Source { sha256, codec, rate: second, channels: 0, layout: None, bits: 0, samples },
        encoders: vec![],
        loudness: None,
        gating: None,
        rungs: vec![],
        video: None,
        skipped: vec![],
        preview: None,
        extras: vec![],
    })
}
