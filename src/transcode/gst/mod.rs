//! Everything that knows GStreamer. Runs only in the child.

mod decode;
mod encode;
#[cfg(feature = "fdk-aac")]
mod fdk;
mod feed;
mod join;
mod lane;
mod libav;
mod plain;
mod registry;
mod rung;
mod source;
mod turnstile;
mod video;

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use gst::prelude::*;

use super::analysis::Analysis;
use super::child::Pipe;
use super::loudness::{SURROUND, weights_by_count};
use super::options::spoken;
use super::plan::{Format, Plan, RungPlan, Trim};
use super::preview::Highlight;
use super::protocol::{Event, Outcome};
use crate::base::{Error, Kind, Result};
use crate::hls::ladder::Encoder as Codec;
use crate::hls::package::rescale;
use crate::hls::version::Family;
use decode::{Decoder, Pull};
use encode::{Encoder, Part};
use join::Joiner;
use lane::{LANES, Lane};
use rung::{Finished, Segmenter};
use turnstile::Turns;

/// Loads GStreamer and takes away what an upload does not need; with a `picture` a little less.
pub(super) fn init(picture: bool) -> Result<()> {
    gst::init().map_err(|cause| Error::internal("GStreamer does not start").because(cause))?;
    registry::restrict(picture);
    Ok(())
}

/// Decodes `file` to its end into every rung of the plan. The events before the last go out here.
///
/// In passes side by side, each of which decodes all of it: one for what is measured and the preview; two for the
/// lowest rung, which take turns in making slices of it (when that must be resampled, the first pass makes all of it); and
/// one for the other rungs, which wait for a core until those are done. Decoding costs a hundredth of encoding, and no queue could hold what the slower passes have yet to
/// take.
pub(super) fn run(plan: &Plan, file: File, pipe: &Pipe) -> Result<Outcome> {
    if let Some(task) = &plan.video {
        return video::run(task, plan, file, pipe);
    }
    let again = || {
        let file = file.try_clone();
        file.map_err(|cause| Error::internal("the source cannot be read twice").because(cause))
    };
    let (rest, lanes) = (again()?, [again()?, again()?]);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (turns, halt) = (Turns::new(cores.saturating_sub(LANES)), AtomicBool::new(false));
    let (at_work, measured) = (AtomicUsize::new(LANES + 1), AtomicBool::new(false));
    let pass = &Pass { plan, pipe, halt: &halt, turns: &turns, first: &at_work, measured: &measured };
    std::thread::scope(|scope| {
        let (mut others, mut files) = (Vec::new(), Some((lanes, rest)));
        let first = pass.first(file, &mut |parts, rungs| {
            let Some((lanes, rest)) = files.take() else { return };
            let lanes = lanes.into_iter().zip(parts);
            others.extend(lanes.map(|(file, part)| scope.spawn(move || pass.lane(file, part))));
            if !rungs.plans.is_empty() {
                others.push(scope.spawn(move || pass.rest(rest, rungs)));
            }
        });
        halt.fetch_or(first.is_err(), Ordering::Relaxed);
        let died = |_| Err(Error::internal("a thread of the other rungs panicked"));
        let others = others.into_iter().map(|other| other.join().unwrap_or_else(died));
        let (others, failed): (Vec<_>, Vec<_>) = others.partition(Result::is_ok);
        let mut failed: Vec<Error> = failed.into_iter().filter_map(Result::err).collect();
        let first = first.map_err(|error| failed.insert(0, error));
        // The first to fail made the others stop.
        failed.sort_by_key(|error| error.kind() == Kind::Cancelled);
        if let Some(error) = failed.into_iter().next() {
            return Err(error);
        }
        let mut outcome = first.expect("its error would have been returned");
        for (samples, encoders) in others.into_iter().flatten() {
            if samples != outcome.samples {
                let first = outcome.samples;
                return Err(Error::internal(format!("{first} samples were decoded first, {samples} again")));
            }
            for encoder in encoders {
                if !outcome.encoders.contains(&encoder) {
                    outcome.encoders.push(encoder);
                }
            }
        }
        Ok(outcome)
    })
}

/// What all passes share.
struct Pass<'a> {
    plan: &'a Plan,
    pipe: &'a Pipe,
    /// Set when another pass has failed.
    halt: &'a AtomicBool,
    /// What the rest waits for. A lane of the first rung adds one when it is done, if the pass that measures is: a core is
    /// free. Before that the core is that pass's, because a new track waits for it, too.
    turns: &'a Arc<Turns>,
    /// Lanes at work, and the pass that measures and cuts the preview. With the last of them a new track plays, and what is
    /// left has all cores.
    first: &'a AtomicUsize,
    /// The pass that measures and cuts the preview is over.
    measured: &'a AtomicBool,
}

/// How many samples were decoded, and what encoded them.
type Done = (u64, Vec<String>);

impl<'a> Pass<'a> {
    /// All that is measured, and the preview. `others` gets what the other passes have to do, when that is known: the
    /// lanes of the first rung, then the other rungs.
    fn first(&self, file: File, others: &mut dyn FnMut(Vec<Part>, Part)) -> Result<Outcome> {
        let mut joiner = None;
        let (mut hop, codec) = self.decode(file, |decoder, sample| {
            let (_, info) = described(sample)?;
            let format = self.format(decoder, &info)?;
            self.pipe.send(&Event::Opened(format), &[]);
            let outputs = self.plan.ladder.as_ref().map(|ladder| format.outputs(ladder, self.plan.lossy_bps));
            let outputs: Vec<_> = outputs.unwrap_or_default().into_iter().enumerate().collect();
            let (mut here, mut rungs): (Vec<_>, Vec<_>) = outputs.into_iter().partition(|(_, plan)| plan.preview);
            let lowest = rungs.iter().position(|(_, plan)| plan.rung.family == Family::Aac);
            let lowest = lowest.map(|lowest| rungs.remove(lowest));
            let mut lanes = Vec::new();
            match lowest {
                // The resampler costs too much to be run once for each lane, and what is no search needs none.
                Some((index, plan)) if plan.rate != format.rate || plan.rung.encoder != Codec::AvencAac => {
                    here.push((index, plan));
                }
                Some((index, plan)) => {
                    let joined = Joiner::new(Segmenter::new(index, &plan, self.pipe));
                    for number in 0..LANES {
                        let lane = Some(Lane { number, joiner: joined.clone() });
                        lanes.push(Part { plans: vec![(index, plan.clone())], turns: None, lane });
                    }
                    joiner = Some((joined, plan));
                }
                None => {}
            }
            // What this pass is the only one for has one core, not as many as there would be lanes.
            self.turns.add(if lanes.is_empty() { LANES - 1 } else { 0 });
            let analysis = Some(Analysis::new(format, weights(&info), self.plan.md5_bits));
            let hop = Hop::open(self, sample, Part { plans: here, turns: None, lane: None }, analysis)?;
            others(lanes, Part { plans: rungs, turns: Some(Arc::clone(self.turns)), lane: None });
            Ok(hop)
        })?;
        let mut outcome = hop.finish_first(codec)?;
        self.measured.store(true, Ordering::Relaxed);
        // Without lanes it made the first rung, too. With them it may be what a new track waits for.
        if joiner.is_none() || self.first_ended() {
            self.turns.open();
        }
        if let Some((joiner, plan)) = joiner {
            let rung = loop {
                encode::halted(self.halt)?;
                if let Some(rung) = joiner.finished()? {
                    break rung;
                }
            };
            outcome.encoders.insert(0, hop.checked(&plan, rung)?);
        }
        outcome.encoders.dedup();
        self.pipe.send(&Event::Measured(outcome.clone()), &[]);
        Ok(outcome)
    }

    /// One of those that a new track waits for has ended; whether it was the last.
    fn first_ended(&self) -> bool {
        self.first.fetch_sub(1, Ordering::Relaxed) == 1
    }

    /// Some slices of the first rung.
    fn lane(&self, file: File, part: Part) -> Result<Done> {
        let done = self.encode(file, part);
        match self.first_ended() {
            true => self.turns.open(),
            false if self.measured.load(Ordering::Relaxed) => self.turns.add(1),
            false => {}
        }
        done
    }

    /// The other rungs.
    fn rest(&self, file: File, part: Part) -> Result<Done> {
        self.encode(file, part)
    }

    fn encode(&self, file: File, part: Part) -> Result<Done> {
        let mut part = Some(part);
        let done = self.decode(file, |_, sample| Hop::open(self, sample, part.take().unwrap_or_default(), None));
        let done = done.and_then(|(mut hop, _)| Ok((hop.samples, hop.finish_rungs()?)));
        self.halt.fetch_or(done.is_err(), Ordering::Relaxed);
        done
    }

    fn decode<'p>(
        &'p self,
        file: File,
        mut open: impl FnMut(&Decoder, &gst::Sample) -> Result<Hop<'p>>,
    ) -> Result<(Hop<'p>, Option<String>)> {
        let plan = self.plan;
        let input = source::Input {
            file,
            first: plan.linear.as_ref().map_or(0, |linear| linear.at),
            bytes: plan.input_bytes,
            patches: plan.patches.clone(),
            arrivals: plan.arrivals.map(|arrivals| (arrivals, self.pipe.clone())),
        };
        let mut decoder = Decoder::start(input, plan.linear.as_ref(), plan.mask)?;
        let mut hop = None;
        loop {
            if self.halt.load(Ordering::Relaxed) {
                return Err(Error::new(Kind::Cancelled, "another pass failed"));
            }
            match decoder.pull(self.halt)? {
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

/// Samples that go to the encoders at once, per channel: decoders give a few thousand or fewer, and each block costs
/// every thread on its way a sleep and a waking.
const BLOCK: usize = 16_384;

/// Between decoder and encoders: counts, trims, measures, and gives every sample its time anew.
struct Hop<'a> {
    plan: &'a Plan,
    pipe: &'a Pipe,
    info: gst_audio::AudioInfo,
    halt: &'a AtomicBool,
    encoder: Option<Encoder>,
    /// Which slices are encoded here, and the one that comes next.
    lane: Option<(Lane, usize)>,
    /// The search for the preview, where nothing has to be resampled or mixed for it.
    highlight: Option<Highlight>,
    outputs: Vec<(usize, RungPlan)>,
    /// In one of the passes.
    analysis: Option<Analysis>,
    /// Samples to drop before the first.
    skip: u64,
    /// Samples to keep.
    keep: Option<u64>,
    /// What waits to become a block.
    block: Vec<u8>,
    /// Samples kept so far, silence and those in `block` included.
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
        let Pass { plan, pipe, halt, .. } = *pass;
        let (caps, info) = described(sample)?;
        let as_it_is = |plan: &RungPlan| plan.preview && (plan.rate, plan.channels) == (info.rate(), info.channels());
        let highlight = match &part.plans[..] {
            [(_, preview)] if analysis.is_some() && as_it_is(preview) => {
                Some(encode::search(preview, plan.preview_start_ms))
            }
            _ => None,
        };
        let encoder = match part.plans.is_empty() || highlight.is_some() {
            true => None,
            false => Some(Encoder::start(&part, &caps, &info, plan.preview_start_ms, pipe)?),
        };
        let in_source = |samples: u64, trim: &Trim| rescale(samples, trim.rate, info.rate());
        let mut hop = Hop {
            plan,
            pipe,
            halt,
            encoder,
            lane: part.lane.map(|lane| (lane.clone(), lane.number)),
            highlight,
            outputs: part.plans,
            analysis,
            skip: plan.trim.map_or(0, |trim| in_source(trim.start, &trim)),
            keep: plan.trim.and_then(|trim| Some(in_source(trim.length?, &trim))),
            block: Vec::new(),
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
            if let Some(highlight) = &mut self.highlight {
                highlight.add(analysis.samples());
            }
            if !points.is_empty() {
                self.pipe.send(&Event::Peaks, &points);
            }
        }
        if self.encoder.is_some() {
            let map = region.map_readable().map_err(|_| Error::internal("a block of samples cannot be read"))?;
            self.block.extend_from_slice(&map);
        }
        self.samples += count;
        if self.block.len() >= BLOCK * self.info.bpf() as usize {
            self.push()?;
        }
        self.tell();
        Ok(())
    }

    /// Gives the encoders what has come together.
    fn push(&mut self) -> Result<()> {
        let frame = self.info.bpf() as usize;
        let Some(encoder) = self.encoder.as_ref().filter(|_| !self.block.is_empty()) else { return Ok(()) };
        let block = std::mem::replace(&mut self.block, Vec::with_capacity((BLOCK + BLOCK / 2) * frame));
        let count = (block.len() / frame) as u64;
        let from = self.samples - count;
        // The first always: a pipeline that never gets anything does not know what it would have got.
        if let Some((lane, slice)) = &mut self.lane
            && !lane.wants(slice, (from, self.samples))
            && from > 0
        {
            return Ok(());
        }
        let block = stamp(gst::Buffer::from_mut_slice(block), from, count, self.info.rate());
        encoder.push(&block, self.halt)
    }

    /// A sign of life every ten seconds of audio: a FLAC of silence gives no segments for long.
    fn tell(&mut self) {
        if self.samples - self.told >= 10 * u64::from(self.info.rate()) {
            self.told = self.samples;
            self.pipe.send(&Event::Decoded { samples: self.samples }, &[]);
        }
    }

    /// Ends the rungs and answers what encoded them.
    fn finish_rungs(&mut self) -> Result<Vec<String>> {
        self.push()?;
        let mut encoders = Vec::new();
        let Some(encoder) = &self.encoder else { return Ok(encoders) };
        for rung in encoder.finish(self.samples, self.halt)? {
            let plan = self.outputs.iter().find(|(index, _)| *index == rung.index).map(|(_, plan)| plan);
            let plan = plan.ok_or_else(|| Error::internal("a rung ended that was not begun"))?;
            encoders.push(self.checked(plan, rung)?);
        }
        Ok(encoders)
    }

    /// What encoded a rung, if it is as long as the source.
    fn checked(&self, plan: &RungPlan, rung: Finished) -> Result<String> {
        let wanted = rescale(self.samples, self.info.rate(), plan.rate);
        if rung.samples != wanted {
            let (name, found) = (plan.file_name(), rung.samples);
            return Err(Error::internal(format!("{name} has {found} samples, the source {wanted}")));
        }
        Ok(rung.encoder)
    }

    fn finish_first(&mut self, codec: Option<String>) -> Result<Outcome> {
        let analysis = self.analysis.take().ok_or_else(|| Error::internal("nothing was measured"))?;
        let md5 = analysis.md5();
        let (loudness, gating, points) = analysis.finish();
        self.pipe.send(&Event::Peaks, &points);
        let mut preview_start = 0;
        let encoders = self.finish_rungs()?;
        if let Some((index, plan)) = self.outputs.iter().find(|(_, plan)| plan.preview) {
            let excerpt = match (self.highlight.take(), &self.encoder) {
                (Some(highlight), _) => highlight.finish(),
                (None, Some(encoder)) => encoder.highlight(),
                (None, None) => return Err(Error::internal("nobody has looked for the preview")),
            };
            if excerpt.samples.is_empty() {
                return Err(self.begins_too_late());
            }
            preview_start = rescale(excerpt.start, plan.rate, self.info.rate());
            encode::excerpt(*index, plan, &excerpt.samples, self.pipe)?;
        }
        let Hop { samples, padded, surplus, .. } = *self;
        Ok(Outcome { samples, padded, surplus, md5, codec, loudness, gating, preview_start, encoders })
    }

    fn begins_too_late(&self) -> Error {
        let start_s = self.plan.preview_start_ms.unwrap_or(0) as f64 / 1000.0;
        let end_s = self.samples as f64 / f64::from(self.info.rate());
        Error::invalid(format!(
            "its preview is to begin at {start_s:.1} s, but it ends at {end_s:.1} s; choose an earlier start"
        ))
    }
}

/// What each channel counts for in loudness, by where it is.
fn weights(info: &gst_audio::AudioInfo) -> Vec<f64> {
    use gst_audio::AudioChannelPosition as Place;
    let weight = |place: &Place| match place {
        Place::Lfe1 | Place::Lfe2 => Some(0.0),
        Place::RearLeft | Place::RearRight | Place::RearCenter | Place::SideLeft | Place::SideRight => Some(SURROUND),
        Place::None | Place::Invalid => None,
        _ => Some(1.0),
    };
    let placed = info.positions().and_then(|places| places.iter().map(weight).collect::<Option<Vec<f64>>>());
    placed.unwrap_or_else(|| weights_by_count(info.channels() as usize))
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
