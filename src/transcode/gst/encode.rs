//! PCM → every rung at once.
//!
//! ```text
//! appsrc ! convert ! resample ! F32 at the AAC rate ! tee ! { queue ! avenc_aac ! appsink } per rung
//! appsrc ! convert ! resample ! S16/S24 at the FLAC rate ! flacenc ! appsink
//! ```
//! All AAC rungs share one resampler. Two sources, because FLAC's channel layouts are fixed by count
//! and would otherwise be mixed (side → rear), while the stereo downmix needs the true ones. Channels that FLAC has no
//! layout for are put among silent ones before they go in (docs/decisions/0076).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use gst::prelude::*;

use super::feed::Feed;
use super::lane::Lane;
use super::registry::make;
use super::rung::{self, Finished};
use super::turnstile::Turns;
use crate::base::{Error, Kind, Result};
use crate::hls::package::rescale;
use crate::hls::version::Family;
use crate::transcode::child::Pipe;
use crate::transcode::plan::RungPlan;
use crate::transcode::preview::{Excerpt, Highlight};

/// Source samples a source element holds before the decoder has to wait, in seconds.
const AHEAD_S: u64 = 1;
/// Silence pushed through a resampler after the last sample so that its filter gives everything back;
/// longer than half its longest filter at any ratio.
const FLUSH_SAMPLES: usize = 4096;

/// All rungs, running. Dropping it stops the pipeline.
pub(super) struct Encoder {
    pipeline: gst::Pipeline,
    inlets: Vec<Inlet>,
    rungs: Vec<Arc<rung::Rung>>,
    /// Listens where the preview's encoder would be.
    highlight: Option<Heard>,
    /// What its encoders have to take turns for.
    turns: Option<Arc<Turns>>,
    /// Makes its lane let go.
    stop: Arc<AtomicBool>,
}

/// Some of the outputs.
#[derive(Default)]
pub(super) struct Part {
    /// Each with its number among all outputs.
    pub(super) plans: Vec<(usize, RungPlan)>,
    /// What its encoders have to take turns for; `None`: they run as they can.
    pub(super) turns: Option<Arc<Turns>>,
    /// Which slices of its only AAC rung it encodes; `None`: all of every rung.
    pub(super) lane: Option<Lane>,
}

/// The search for the preview; taken at the end.
type Heard = Arc<Mutex<Option<Highlight>>>;

/// One way into the pipeline.
struct Inlet {
    source: Feed,
    /// Frame size in bytes, for silence.
    frame_bytes: usize,
    /// Which channel of the source each one is; `None`: as they come.
    spread: Option<Vec<Option<usize>>>,
    rate_in: u32,
    rate_out: u32,
    /// Samples that may leave the resampler; unlimited until the length is known.
    most: Arc<AtomicU64>,
}

impl Encoder {
    /// Starts every rung of `part` for PCM of `caps`.
    pub(super) fn start(
        part: &Part,
        caps: &gst::Caps,
        info: &gst_audio::AudioInfo,
        preview_start_ms: Option<u64>,
        pipe: &Pipe,
    ) -> Result<Encoder> {
        let mut encoder = Encoder::empty(part.turns.clone());
        let wired = encoder.wire(part, caps, info, preview_start_ms, pipe);
        wired.map_err(|cause| Error::internal("the encoders cannot be wired").because(cause))?;
        match encoder.pipeline.set_state(gst::State::Playing) {
            Ok(_) => Ok(encoder),
            Err(_) => encoder.fault().and(Err(Error::internal("the encoders do not start"))),
        }
    }

    fn empty(turns: Option<Arc<Turns>>) -> Encoder {
        let (pipeline, stop) = (gst::Pipeline::new(), Arc::new(AtomicBool::new(false)));
        Encoder { pipeline, inlets: vec![], rungs: vec![], highlight: None, turns, stop }
    }

    fn wire(
        &mut self,
        part: &Part,
        caps: &gst::Caps,
        info: &gst_audio::AudioInfo,
        preview_start_ms: Option<u64>,
        pipe: &Pipe,
    ) -> Result<()> {
        for family in [Family::Aac, Family::Flac] {
            let mut of_family = part.plans.iter().filter(|(_, plan)| plan.rung.family == family).peekable();
            let Some((_, first)) = of_family.peek() else { continue };
            let tee = self.inlet(first, caps, info)?;
            for (index, plan) in of_family {
                if plan.preview {
                    self.highlight = Some(listen(&tee, search(plan, preview_start_ms)));
                    // It may be alone, and a tee that leads nowhere is an error.
                    let nowhere = make("fakesink")?;
                    nowhere.set_property("sync", false);
                    nowhere.set_property("async", false);
                    self.chain(&tee, &[nowhere])?;
                    continue;
                }
                if let Some(lane) = &part.lane {
                    self.chain(&tee, &[lane.element(plan, &self.stop)])?;
                    continue;
                }
                let (elements, rung) = rung::elements(*index, plan, pipe, self.turns.clone())?;
                self.chain(&tee, &elements)?;
                self.rungs.push(rung);
            }
        }
        Ok(())
    }

    /// Source, conversion and a tee for the rungs of one family.
    fn inlet(&mut self, plan: &RungPlan, caps: &gst::Caps, info: &gst_audio::AudioInfo) -> Result<gst::Element> {
        let aac = plan.rung.family == Family::Aac;
        let spread = plan.spread.as_ref().filter(|_| !aac).map(|spread| for_flacenc(spread));
        let channels = spread.as_ref().map_or(info.channels(), |spread| spread.len() as u32);
        let caps = if aac { positioned(caps, info) } else { relabelled(caps, channels) };
        let frame_bytes = u64::from(info.bpf() / info.channels() * channels);
        let source = Feed::new(&caps, u64::from(info.rate()) * frame_bytes * AHEAD_S);
        let convert = make("audioconvert")?;
        // Dither is random and noise shaping has a memory: neither belongs into a lossless copy, and the
        // same input shall give the same bytes.
        convert.set_property_from_str("dithering", "none");
        convert.set_property_from_str("noise-shaping", "none");
        if let Some(matrix) = gst_audio::AudioInfo::from_caps(&caps).ok().filter(|_| aac).and_then(|i| downmix(&i)) {
            convert.set_property("mix-matrix", matrix);
        }
        let resample = make("audioresample")?;
        // The longest filter: everything else is -106 dB of distortion at 1 kHz, this is below 24 bits.
        resample.set_property("quality", 10i32);
        let format = match (aac, plan.bits) {
            (true, _) => "F32LE",
            (false, 16) => "S16LE",
            (false, _) => "S24_32LE",
        };
        let wanted = gst::Caps::builder("audio/x-raw")
            .field("format", format)
            .field("rate", plan.rate as i32)
            .field("channels", plan.channels as i32)
            .field("layout", "interleaved")
            .build();
        let filter = make("capsfilter")?;
        filter.set_property("caps", wanted);
        let tee = make("tee")?;
        let elements = [source.element().upcast_ref(), &convert, &resample, &filter, &tee];
        let linked = self.pipeline.add_many(elements).and_then(|()| gst::Element::link_many(elements));
        linked.map_err(|cause| Error::internal("a source cannot be linked").because(cause))?;

        let most = Arc::new(AtomicU64::new(u64::MAX));
        let width = if format == "S16LE" { 2 } else { 4 };
        cut_at(&filter, Arc::clone(&most), width * plan.channels as usize);
        let (rate_in, rate_out) = (info.rate(), plan.rate);
        self.inlets.push(Inlet { source, frame_bytes: info.bpf() as usize, spread, rate_in, rate_out, most });
        Ok(tee)
    }

    fn chain(&self, tee: &gst::Element, elements: &[gst::Element]) -> Result<()> {
        let linked = self.pipeline.add_many(elements).and_then(|()| {
            gst::Element::link_many(elements)?;
            tee.link(&elements[0])
        });
        linked.map_err(|cause| Error::internal("a rung cannot be linked").because(cause))
    }

    /// Gives a block of PCM to every rung; waits while they are behind.
    pub(super) fn push(&self, buffer: &gst::Buffer, halt: &AtomicBool) -> Result<()> {
        for inlet in &self.inlets {
            while inlet.source.is_full() {
                self.fault()?;
                halted(halt)?;
                inlet.source.wait();
            }
            self.give(inlet, buffer.clone())?;
        }
        Ok(())
    }

    /// Ends every rung after `samples` source samples and waits for the last segment. A rung in lanes ends elsewhere.
    pub(super) fn finish(&self, samples: u64, halt: &AtomicBool) -> Result<Vec<Finished>> {
        for inlet in &self.inlets {
            inlet.most.store(rescale(samples, inlet.rate_in, inlet.rate_out), Ordering::SeqCst);
            if inlet.rate_in != inlet.rate_out {
                let silence = gst::Buffer::from_mut_slice(vec![0u8; FLUSH_SAMPLES * inlet.frame_bytes]);
                self.give(inlet, super::stamp(silence, samples, FLUSH_SAMPLES as u64, inlet.rate_in))?;
            }
            let _ = inlet.source.element().end_of_stream(); // a failure is on the bus
        }
        while !self.ended()? {
            halted(halt)?;
        }
        self.rungs.iter().map(|rung| rung.finished()).collect()
    }

    /// The excerpt for the preview, after the end.
    pub(super) fn highlight(&self) -> Excerpt {
        let found = self.highlight.as_ref().and_then(|h| h.lock().expect("no panic while locked").take());
        found.map(Highlight::finish).unwrap_or_default()
    }

    fn give(&self, inlet: &Inlet, buffer: gst::Buffer) -> Result<()> {
        let buffer = match &inlet.spread {
            Some(from) => spread(&buffer, inlet.frame_bytes, from)?,
            None => buffer,
        };
        match inlet.source.element().push_buffer(buffer) {
            Ok(_) => Ok(()),
            Err(flow) => self.fault().and(Err(Error::internal(format!("an encoder takes no more ({flow})")))),
        }
    }

    /// Waits a little for the end of all rungs.
    fn ended(&self) -> Result<bool> {
        let bus = self.pipeline.bus().expect("a pipeline has a bus");
        match bus
            .timed_pop_filtered(gst::ClockTime::from_mseconds(50), &[gst::MessageType::Eos, gst::MessageType::Error])
        {
            None => Ok(false),
            Some(message) => judge(&message).map(|()| true),
        }
    }

    /// Raises the first error on the bus.
    fn fault(&self) -> Result<()> {
        let bus = self.pipeline.bus().expect("a pipeline has a bus");
        bus.pop_filtered(&[gst::MessageType::Error]).map_or(Ok(()), |message| judge(&message))
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(turns) = &self.turns {
            turns.add(self.rungs.len()); // those who wait for a turn must not hold the pipeline
        }
        let _ = self.pipeline.set_state(gst::State::Null); // nothing left to do if it fails
    }
}

/// Raises an error when the other pass has failed.
pub(super) fn halted(halt: &AtomicBool) -> Result<()> {
    match halt.load(Ordering::Relaxed) {
        true => Err(Error::new(Kind::Cancelled, "another pass failed")),
        false => Ok(()),
    }
}

pub(super) fn judge(message: &gst::Message) -> Result<()> {
    match message.view() {
        gst::MessageView::Error(error) => {
            let place = message.src().map(|s| s.name().to_string()).unwrap_or_default();
            Err(Error::internal(format!("encoder {place} failed ({})", error.error().message())))
        }
        _ => Ok(()),
    }
}

/// Lets `most` samples pass and drops what a resampler gives beyond.
fn cut_at(filter: &gst::Element, most: Arc<AtomicU64>, frame_bytes: usize) {
    let passed = AtomicU64::new(0);
    let pad = filter.static_pad("src").expect("capsfilter has a source pad");
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, probe| {
        let Some(gst::PadProbeData::Buffer(buffer)) = &mut probe.data else { return gst::PadProbeReturn::Ok };
        let frames = (buffer.size() / frame_bytes) as u64;
        let before = passed.fetch_add(frames, Ordering::Relaxed);
        let room = most.load(Ordering::SeqCst).saturating_sub(before);
        if room == 0 {
            return gst::PadProbeReturn::Drop;
        }
        if room < frames {
            let bytes = room as usize * frame_bytes;
            match buffer.copy_region(gst::BufferCopyFlags::all(), ..bytes) {
                Ok(cut) => *buffer = cut,
                Err(_) => return gst::PadProbeReturn::Drop,
            }
        }
        gst::PadProbeReturn::Ok
    });
}

/// The search for the excerpt that becomes this preview.
pub(super) fn search(plan: &RungPlan, start_ms: Option<u64>) -> Highlight {
    let start = start_ms.map(|ms| rescale(ms, 1000, plan.rate));
    Highlight::new(plan.rate, plan.channels, plan.preview_samples_max() as usize, start)
}

/// Lets the search for the preview hear what the AAC encoders get.
fn listen(tee: &gst::Element, highlight: Highlight) -> Heard {
    let heard = Arc::new(Mutex::new(Some(highlight)));
    let highlight = Arc::clone(&heard);
    let pad = tee.static_pad("sink").expect("tee has a sink pad");
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, probe| {
        if let Some(gst::PadProbeData::Buffer(buffer)) = &probe.data
            && let Ok(map) = buffer.map_readable()
        {
            let samples: Vec<f32> = map.as_chunks().0.iter().map(|word| f32::from_le_bytes(*word)).collect();
            highlight.lock().expect("no panic while locked").iter_mut().for_each(|highlight| highlight.add(&samples));
        }
        gst::PadProbeReturn::Ok
    });
    heard
}

/// Encodes the preview: an output of its own, so that no byte of the rungs can be reached from it.
pub(super) fn excerpt(index: usize, plan: &RungPlan, samples: &[i16], pipe: &Pipe) -> Result<()> {
    let caps = gst::Caps::builder("audio/x-raw")
        .field("format", "S16LE")
        .field("rate", plan.rate as i32)
        .field("channels", plan.channels as i32)
        .field("layout", "interleaved");
    let caps = if plan.channels == 2 { caps.field("channel-mask", gst::Bitmask(3)) } else { caps };
    let caps = caps.build();
    let info =
        gst_audio::AudioInfo::from_caps(&caps).map_err(|e| Error::internal("the preview has no format").because(e))?;
    let mut encoder = Encoder::empty(None);
    let tee = encoder.inlet(plan, &caps, &info)?;
    let (elements, rung) = rung::elements(index, plan, pipe, None)?;
    encoder.chain(&tee, &elements)?;
    encoder.rungs.push(rung);
    if encoder.pipeline.set_state(gst::State::Playing).is_err() {
        return encoder.fault().and(Err(Error::internal("the preview's encoder does not start")));
    }
    let frames = (samples.len() / plan.channels as usize) as u64;
    let (mut done, never) = (0, AtomicBool::new(false));
    for part in samples.chunks(4096 * plan.channels as usize) {
        let count = (part.len() / plan.channels as usize) as u64;
        let bytes: Vec<u8> = part.iter().flat_map(|sample| sample.to_le_bytes()).collect();
        encoder.push(&super::stamp(gst::Buffer::from_mut_slice(bytes), done, count, plan.rate), &never)?;
        done += count;
    }
    encoder.finish(frames, &never).map(|_| ())
}

/// Stereo from three to six channels, by ITU-R BS.775-3 table 2: without the LFE, 3 dB less of centre and surrounds, and
/// scaled so that it cannot clip. GStreamer's own choice has the LFE at full level and surrounds 6 dB down.
fn downmix(info: &gst_audio::AudioInfo) -> Option<gst::Array> {
    use gst_audio::AudioChannelPosition as At;
    let half = std::f32::consts::FRAC_1_SQRT_2;
    let weights = |at: &At| match at {
        At::FrontLeft => Some([1.0, 0.0]),
        At::FrontRight => Some([0.0, 1.0]),
        At::FrontCenter => Some([half, half]),
        At::SideLeft | At::RearLeft => Some([half, 0.0]),
        At::SideRight | At::RearRight => Some([0.0, half]),
        At::RearCenter => Some([0.5, 0.5]),
        At::Lfe1 => Some([0.0, 0.0]),
        _ => None,
    };
    let positions = info.positions().filter(|positions| positions.len() > 2)?;
    let weights: Vec<[f32; 2]> = positions.iter().map(weights).collect::<Option<_>>()?;
    let sum = |side: usize| weights.iter().map(|weight| weight[side]).sum::<f32>();
    let scale = 1.0 / sum(0).max(sum(1)).max(1.0);
    let row = |side: usize| gst::Array::new(weights.iter().map(|weight| weight[side] * scale));
    Some(gst::Array::new([row(0), row(1)]))
}

/// Caps whose channels have places, guessed from their number when the source does not say.
fn positioned(caps: &gst::Caps, info: &gst_audio::AudioInfo) -> gst::Caps {
    let known = caps.structure(0).and_then(|s| s.get::<gst::Bitmask>("channel-mask").ok()).is_some_and(|m| m.0 != 0);
    if known || info.channels() < 3 {
        return caps.clone();
    }
    with_mask(caps, mask_by_count(info.channels()))
}

/// Caps with so many channels and the one layout `flacenc` takes for that number. The samples stay
/// as they are, in their order.
fn relabelled(caps: &gst::Caps, channels: u32) -> gst::Caps {
    match mask_by_count(channels) {
        0 => caps.clone(),
        mask => {
            let mut caps = with_mask(caps, mask);
            caps.make_mut().set("channels", channels as i32);
            caps
        }
    }
}

/// Channels in FLAC's order as `flacenc` wants them, so that it writes them in FLAC's: with seven and eight it follows
/// Vorbis, whose order is another.
fn for_flacenc(spread: &[Option<usize>]) -> Vec<Option<usize>> {
    /// What `flacenc` 1.22 writes first, second, …: by the number of the channel that it is given.
    const WRITES: [&[usize]; 2] = [&[0, 1, 4, 5, 2, 3, 6], &[0, 1, 4, 5, 2, 3, 6, 7]];
    let Some(writes) = spread.len().checked_sub(7).and_then(|at| WRITES.get(at)) else { return spread.to_vec() };
    let mut given = vec![None; spread.len()];
    for (channel, from) in writes.iter().zip(spread) {
        given[*channel] = *from;
    }
    given
}

/// The same samples, each channel where `from` says, and zeros, which are silence in all of the decoder's layouts.
fn spread(buffer: &gst::Buffer, frame_bytes: usize, from: &[Option<usize>]) -> Result<gst::Buffer> {
    let map = buffer.map_readable().map_err(|_| Error::internal("a block of samples cannot be read"))?;
    let channels = from.iter().flatten().count();
    let width = frame_bytes / channels.max(1);
    let mut out = Vec::with_capacity(map.len() / channels.max(1) * from.len());
    for frame in map.chunks_exact(frame_bytes) {
        for from in from {
            match from {
                Some(channel) => out.extend_from_slice(&frame[channel * width..(channel + 1) * width]),
                None => out.resize(out.len() + width, 0),
            }
        }
    }
    drop(map);
    let mut spread = gst::Buffer::from_mut_slice(out);
    if let Some(spread) = spread.get_mut() {
        spread.set_pts(buffer.pts());
        spread.set_duration(buffer.duration());
    }
    Ok(spread)
}

/// FLAC's channels by their number (RFC 9639 §9.1.3); 0, which means no places, below three and above eight.
pub(super) fn mask_by_count(channels: u32) -> u64 {
    const MASKS: [u64; 6] = [0x7, 0x33, 0x37, 0x3f, 0x13f, 0xc3f];
    channels.checked_sub(3).and_then(|at| MASKS.get(at as usize)).copied().unwrap_or(0)
}

fn with_mask(caps: &gst::Caps, mask: u64) -> gst::Caps {
    let mut caps = caps.clone();
    if let Some(structure) = caps.make_mut().structure_mut(0) {
        structure.set("channel-mask", gst::Bitmask(mask));
    }
    caps
}
