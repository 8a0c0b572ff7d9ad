//! Everything that knows GStreamer. Runs only in the child.

mod decode;
mod encode;
mod libav;
mod registry;
mod rung;
mod source;
mod turnstile;
mod video;

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gst::prelude::*;

use super::analysis::Analysis;
use super::child::Pipe;
use super::options::spoken;
use super::plan::{Format, Plan, RungPlan, Trim};
use super::protocol::{Event, Outcome};
use crate::base::{Error, Kind, Result};
use crate::hls::package::rescale;
use crate::hls::version::Family;
use decode::{Decoder, Pull};
use encode::{Encoder, Part};
use turnstile::Turns;

/// Loads GStreamer and takes away what an upload does not need; with a `picture` a little less.
pub(super) fn init(picture: bool) -> Result<()> {
    gst::init().map_err(|cause| Error::internal("GStreamer does not start").because(cause))?;
    registry::restrict(picture);
    Ok(())
}

/// Decodes `file` to its end into every rung of the plan. The events before the last go out here.
///
/// Twice, side by side: once for the lowest rung, the preview and what is measured, which are whole first, and once
/// for the other rungs, which leave the first a core of its own. Decoding costs a hundredth of encoding, and no
/// queue could hold what the slower rungs have yet to take.
pub(super) fn run(plan: &Plan, file: File, pipe: &Pipe) -> Result<Outcome> {
    if let Some(task) = &plan.video {
        return video::run(task, plan, file, pipe);
    }
    let again = file.try_clone().map_err(|cause| Error::internal("the source cannot be read twice").because(cause))?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (turns, halt) = (Turns::new(cores - 1), AtomicBool::new(false));
    let pass = &Pass { plan, pipe, halt: &halt };
    std::thread::scope(|scope| {
        let mut rest = None;
        let mut again = Some(again);
        let first = pass.first(file, &mut |outputs| {
            let part = Part { plans: outputs, turns: Some(Arc::clone(&turns)) };
            if let (false, Some(file)) = (part.plans.is_empty(), again.take()) {
                rest = Some(scope.spawn(move || pass.rest(file, part)));
            }
        });
        halt.fetch_or(first.is_err(), Ordering::Relaxed);
        turns.add(1);
        let rest = rest.map_or(Ok(None), |rest| {
            rest.join().unwrap_or_else(|_| Err(Error::internal("the thread of the other rungs panicked")))
        });
        let rest = match (&first, rest) {
            // The first to fail made the other stop.
            (Err(error), Err(cause)) if error.kind() == Kind::Cancelled => return Err(cause),
            (Err(_), _) => None,
            (Ok(_), rest) => rest?,
        };
        let mut outcome = first?;
        if let Some((samples, encoders)) = rest {
            if samples != outcome.samples {
                let first = outcome.samples;
                return Err(Error::internal(format!("{first} samples were decoded first, {samples} again")));
            }
            outcome.encoders.extend(encoders);
            let mut seen = Vec::new();
            outcome.encoders.retain(|encoder| {
                !seen.contains(encoder) && {
                    seen.push(encoder.clone());
                    true
                }
            });
        }
        Ok(outcome)
    })
}

/// What both passes share.
struct Pass<'a> {
    plan: &'a Plan,
    pipe: &'a Pipe,
    /// Set when the other pass has failed.
    halt: &'a AtomicBool,
}

impl<'a> Pass<'a> {
    /// The first rung, the preview, all that is measured. `others` gets the other outputs when they are known.
    fn first(&self, file: File, others: &mut dyn FnMut(Vec<(usize, RungPlan)>)) -> Result<Outcome> {
        let (hop, codec) = self.decode(file, |decoder, sample| {
            let (_, info) = described(sample)?;
            let format = self.format(decoder, &info)?;
            self.pipe.send(&Event::Opened(format), &[]);
            let outputs = self.plan.ladder.as_ref().map(|ladder| format.outputs(ladder, self.plan.lossy_bps));
            let outputs: Vec<_> = outputs.unwrap_or_default().into_iter().enumerate().collect();
            let lowest = outputs.iter().position(|(_, plan)| plan.rung.family == Family::Aac);
            let (first, rest) = outputs
                .into_iter()
                .partition(|(index, plan)| plan.preview || lowest.is_none_or(|lowest| lowest == *index));
            let hop = Hop::open(
                self,
                sample,
                Part { plans: first, turns: None },
                Some(Analysis::new(format, self.plan.md5_bits)?),
            )?;
            others(rest);
            Ok(hop)
        })?;
        let outcome = hop.finish_first(codec)?;
        self.pipe.send(&Event::Measured(outcome.clone()), &[]);
        Ok(outcome)
    }

    /// The other rungs. Answers how many samples were decoded, and the encoders.
    fn rest(&self, file: File, part: Part) -> Result<Option<(u64, Vec<String>)>> {
        let mut part = Some(part);
        let done = self.decode(file, |_, sample| Hop::open(self, sample, part.take().unwrap_or_default(), None));
        let done = done.and_then(|(hop, _)| Ok((hop.samples, hop.finish_rungs()?)));
        self.halt.fetch_or(done.is_err(), Ordering::Relaxed);
        done.map(Some)
    }

    fn decode<'p>(
        &'p self,
        file: File,
        mut open: impl FnMut(&Decoder, &gst::Sample) -> Result<Hop<'p>>,
    ) -> Result<(Hop<'p>, Option<String>)> {
        let plan = self.plan;
        let input = source::Input {
            file,
            bytes: plan.input_bytes,
            patches: plan.patches.clone(),
            arrivals: plan.arrivals.map(|arrivals| (arrivals, self.pipe.clone())),
        };
        let decoder = Decoder::start(input)?;
        let mut hop = None;
        loop {
            if self.halt.load(Ordering::Relaxed) {
                return Err(Error::new(Kind::Cancelled, "the other half failed"));
            }
            match decoder.pull()? {
                Pull::Idle => (),
                Pull::End => break,
                Pull::Samples(sample) => {
                    let hop = match &mut hop {
                        Some(hop) => hop,
                        empty => empty.insert(open(&decoder, &sample)?),
                    };
                    hop.take(&sample)?;
                }
            }
        }
        let codec = decoder.codec();
        drop(decoder); // frees its memory while the encoders finish
        let mut hop: Hop<'p> =
            hop.ok_or_else(|| Error::invalid("it has no audio samples; upload a file with sound"))?;
        if hop.samples == hop.padded {
            return Err(Error::invalid("it has no audio samples; upload a file with sound"));
        }
        hop.fill()?;
        Ok((hop, codec))
    }

    fn format(&self, decoder: &Decoder, info: &gst_audio::AudioInfo) -> Result<Format> {
        let mut format = decoder.format(info);
        format.bits = self.plan.bits.map_or(format.bits, |bits| bits.min(format.bits));
        format.check()?;
        Ok(format)
    }
}

/// The same block without samples that are no sound: NaN and infinities become silence, what is louder than
/// +36 dBFS is cut off. libavcodec's AAC encoder drops frames that hold them, and all that follows is early.
fn sound(block: gst::Buffer) -> Result<gst::Buffer> {
    const LOUDEST: f32 = 64.0;
    let sane = {
        let map = block.map_readable().map_err(|_| Error::internal("a block of samples cannot be read"))?;
        let samples = || map.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        if samples().all(|x| x.abs() <= LOUDEST) {
            None
        } else {
            let sane = |x: f32| if x.is_finite() { x.clamp(-LOUDEST, LOUDEST) } else { 0.0 };
            Some(samples().flat_map(|x| sane(x).to_le_bytes()).collect::<Vec<u8>>())
        }
    };
    Ok(sane.map_or(block, gst::Buffer::from_mut_slice))
}

/// Between decoder and encoders: counts, trims, measures, and gives every sample its time anew.
struct Hop<'a> {
    plan: &'a Plan,
    pipe: &'a Pipe,
    info: gst_audio::AudioInfo,
    halt: &'a AtomicBool,
    encoder: Option<Encoder>,
    outputs: Vec<(usize, RungPlan)>,
    /// In one of the passes.
    analysis: Option<Analysis>,
    /// Samples to drop before the first.
    skip: u64,
    /// Samples to keep.
    keep: Option<u64>,
    /// Samples kept so far, silence included.
    samples: u64,
    /// Samples of silence around a film's sound.
    padded: u64,
    /// Samples dropped after them.
    surplus: u64,
    /// `samples` at the last progress event.
    told: u64,
}

impl<'a> Hop<'a> {
    fn open(pass: &'a Pass<'a>, sample: &gst::Sample, part: Part, analysis: Option<Analysis>) -> Result<Hop<'a>> {
        let Pass { plan, pipe, halt } = *pass;
        let (caps, info) = described(sample)?;
        let encoder = match part.plans.is_empty() {
            true => None,
            false => Some(Encoder::start(&part, &caps, &info, plan.preview_start_ms, pipe)?),
        };
        let in_source = |samples: u64, trim: &Trim| rescale(samples, trim.rate, info.rate());
        let mut hop = Hop {
            plan,
            pipe,
            halt,
            encoder,
            outputs: part.plans,
            analysis,
            skip: plan.trim.map_or(0, |trim| in_source(trim.start, &trim)),
            keep: plan.trim.and_then(|trim| Some(in_source(trim.length?, &trim))),
            info,
            samples: 0,
            padded: 0,
            surplus: 0,
            told: 0,
        };
        if let Some(pad) = &plan.pad {
            hop.be_silent(rescale(pad.before, pad.rate, hop.info.rate()))?;
        }
        Ok(hop)
    }

    /// Adds silence until the sound is as long as its picture.
    fn fill(&mut self) -> Result<()> {
        let Some((pad, until)) = self.plan.pad.and_then(|pad| Some((pad, pad.until?))) else { return Ok(()) };
        let wanted = rescale(until, pad.rate, self.info.rate());
        self.be_silent(wanted.saturating_sub(self.samples))
    }

    fn be_silent(&mut self, mut samples: u64) -> Result<()> {
        const BLOCK: u64 = 4096;
        while samples > 0 {
            let count = samples.min(BLOCK);
            // Zeros are silence in all of the decoder's four layouts.
            let zeros = vec![0u8; count as usize * self.info.bpf() as usize];
            self.hand_on(gst::Buffer::from_mut_slice(zeros), count)?;
            self.padded += count;
            samples -= count;
        }
        Ok(())
    }

    fn take(&mut self, sample: &gst::Sample) -> Result<()> {
        let (_, info) = described(sample)?;
        let shape = |info: &gst_audio::AudioInfo| (info.format(), info.rate(), info.channels());
        if shape(&info) != shape(&self.info) {
            return Err(Error::invalid("its format changes in the middle; export it as one file"));
        }
        let buffer = sample.buffer().ok_or_else(|| Error::internal("the decoder gave a sample without bytes"))?;
        let frame = self.info.bpf() as usize;
        let frames = (buffer.size() / frame) as u64;
        let from = self.skip.min(frames);
        self.skip -= from;
        let room = self.keep.map_or(u64::MAX, |keep| keep.saturating_sub(self.samples - self.padded));
        let to = frames.min(from.saturating_add(room));
        self.surplus += frames - to;
        if from == to {
            return Ok(());
        }
        let region = buffer
            .copy_region(gst::BufferCopyFlags::MEMORY, from as usize * frame..to as usize * frame)
            .map_err(|_| Error::internal("a block of samples cannot be cut"))?;
        let region = match self.info.format() {
            gst_audio::AudioFormat::F32le => sound(region)?,
            _ => region,
        };
        self.hand_on(region, to - from)
    }

    /// Hands on `count` samples.
    fn hand_on(&mut self, region: gst::Buffer, count: u64) -> Result<()> {
        if self.samples + count > self.plan.duration_s_max * u64::from(self.info.rate()) {
            let most = spoken(self.plan.duration_s_max);
            return Err(Error::invalid(format!("it is longer than {most}, the most that is accepted; split it")));
        }
        if let Some(analysis) = &mut self.analysis {
            let map = region.map_readable().map_err(|_| Error::internal("a block of samples cannot be read"))?;
            let points = analysis.add(self.info.format_info().name(), &map)?;
            if !points.is_empty() {
                self.pipe.send(&Event::Peaks, &points);
            }
        }
        let stamped = stamp(region, self.samples, count, self.info.rate());
        if let Some(encoder) = &self.encoder {
            encoder.push(&stamped, self.halt)?;
        }
        self.samples += count;
        self.tell();
        Ok(())
    }

    /// A sign of life every ten seconds of audio: a FLAC of silence gives no segments for long.
    fn tell(&mut self) {
        if self.samples - self.told >= 10 * u64::from(self.info.rate()) {
            self.told = self.samples;
            self.pipe.send(&Event::Decoded { samples: self.samples }, &[]);
        }
    }

    /// Ends the rungs and answers what encoded them.
    fn finish_rungs(&self) -> Result<Vec<String>> {
        let mut encoders = Vec::new();
        let Some(encoder) = &self.encoder else { return Ok(encoders) };
        for rung in encoder.finish(self.samples, self.halt)? {
            let plan = self.outputs.iter().find(|(index, _)| *index == rung.index).map(|(_, plan)| plan);
            let plan = plan.ok_or_else(|| Error::internal("a rung ended that was not begun"))?;
            let wanted = rescale(self.samples, self.info.rate(), plan.rate);
            if rung.samples != wanted {
                let (name, found) = (plan.file_name(), rung.samples);
                return Err(Error::internal(format!("{name} has {found} samples, the source {wanted}")));
            }
            encoders.push(rung.encoder);
        }
        Ok(encoders)
    }

    fn finish_first(mut self, codec: Option<String>) -> Result<Outcome> {
        let analysis = self.analysis.take().ok_or_else(|| Error::internal("nothing was measured"))?;
        let md5 = analysis.md5();
        let (loudness, points) = analysis.finish()?;
        self.pipe.send(&Event::Peaks, &points);
        let mut preview_start = 0;
        let encoders = self.finish_rungs()?;
        if let (Some(encoder), Some((index, plan))) = (&self.encoder, self.outputs.iter().find(|(_, p)| p.preview)) {
            let excerpt = encoder.highlight();
            if excerpt.samples.is_empty() {
                return Err(self.begins_too_late());
            }
            preview_start = rescale(excerpt.start, plan.rate, self.info.rate());
            encode::excerpt(*index, plan, &excerpt.samples, self.pipe)?;
        }
        let Hop { samples, padded, surplus, .. } = self;
        Ok(Outcome { samples, padded, surplus, md5, codec, loudness, preview_start, encoders })
    }

    fn begins_too_late(&self) -> Error {
        let start_s = self.plan.preview_start_ms.unwrap_or(0) as f64 / 1000.0;
        let end_s = self.samples as f64 / f64::from(self.info.rate());
        Error::invalid(format!(
            "its preview is to begin at {start_s:.1} s, but it ends at {end_s:.1} s; choose an earlier start"
        ))
    }
}

fn described(sample: &gst::Sample) -> Result<(gst::Caps, gst_audio::AudioInfo)> {
    let caps = sample.caps_owned();
    let info = caps.as_ref().and_then(|caps| gst_audio::AudioInfo::from_caps(caps).ok());
    caps.zip(info).ok_or_else(|| Error::internal("the decoder does not say what its samples are"))
}

/// Gives `frames` samples that begin at sample `start` their exact time.
fn stamp(mut buffer: gst::Buffer, start: u64, frames: u64, rate: u32) -> gst::Buffer {
    let time = |samples: u64| {
        let ns = samples.mul_div_round(1_000_000_000, u64::from(rate)).expect("bounded by the longest duration");
        gst::ClockTime::from_nseconds(ns)
    };
    {
        let buffer = buffer.make_mut();
        buffer.set_pts(time(start));
        buffer.set_duration(time(start + frames) - time(start));
    }
    buffer
}
