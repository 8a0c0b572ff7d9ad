//! One rung: an encoder, and the segments cut from what it gives.

use std::sync::{Arc, Mutex};

use gst::prelude::*;

use super::libav::let_aac_choose_stereo;
use super::registry::make;
use super::turnstile::{Turns, Turnstile};
use crate::base::{Error, Result};
use crate::hls::cmaf::{Header, STREAMINFO_BYTES, Setup, encode_segment};
use crate::hls::ladder::Encoder;
use crate::hls::version::Family;
use crate::transcode::child::Pipe;
use crate::transcode::plan::RungPlan;
use crate::transcode::protocol::Event;

/// A rung being encoded.
pub(super) struct Rung(Mutex<Segmenter>);

/// What a rung became.
pub(super) struct Finished {
    /// Index in the plan.
    pub(super) index: usize,
    /// Samples presented.
    pub(super) samples: u64,
    /// Name and version of the encoder.
    pub(super) encoder: String,
}

/// The elements of a rung, to be linked in this order behind a tee, and the rung they fill.
pub(super) fn elements(
    index: usize,
    plan: &RungPlan,
    pipe: &Pipe,
    turns: Option<Arc<Turns>>,
) -> Result<(Vec<gst::Element>, Arc<Rung>)> {
    let rung = Arc::new(Rung(Mutex::new(Segmenter::new(index, plan, pipe))));
    let (of_sample, of_end) = (Arc::clone(&rung), Arc::clone(&rung));
    let sink = sink(move |sample| of_sample.lock().take(sample), move || of_end.lock().finish());
    let queue = make("queue")?;
    // Two seconds let the encoders drift apart a little; the bytes bound holds at any rate.
    queue.set_property("max-size-time", 2_000_000_000u64);
    queue.set_property("max-size-bytes", 4u32 << 20);
    queue.set_property("max-size-buffers", 0u32);
    let mut chain = vec![queue];
    chain.extend(turns.map(Turnstile::element));
    chain.extend(encoder(plan, sink)?);
    Ok((chain, rung))
}

/// Bit rate of a channel from which on its phase is worth keeping.
const PHASE_BPS: u32 = 64_000;
/// Bit rate of a channel up to which libavcodec's search finds better uses for bits than noise and intensities.
const SCARCE_BPS: u32 = 32_000;

/// Leaves out tools of AAC (ISO 14496-3 §4.6) that cost more than they give, by what they do to noise and to the
/// noise-to-mask ratio of music and of noise (docs/decisions/0039).
fn choose_tools(encoder: &gst::Element, plan: &RungPlan) {
    let bps = plan.rung.bitrate_bps / plan.channels;
    let scarce = bps <= SCARCE_BPS;
    // Temporal noise shaping: nothing changes without.
    encoder.set_property("aac-tns", false);
    // Perceptual noise substitution: noise to mask is 1 to 2 dB better without.
    if scarce || plan.preview {
        encoder.set_property("aac-pns", false);
    }
    // Intensity stereo gives up the phase between the channels. Where there are bits for it, noise is up to 2 dB lower
    // without, and the search for it is a tenth of the time.
    if scarce || plan.preview || bps >= PHASE_BPS {
        encoder.set_property("aac-is", false);
    }
    // A search of half the time whose noise is masked as well at this rate, for what is no rung.
    if plan.preview {
        encoder.set_property_from_str("aac-coder", "fast");
    }
}

/// The elements that encode PCM into frames for `sink`, to be linked in this order.
pub(super) fn encoder(plan: &RungPlan, sink: gst_app::AppSink) -> Result<Vec<gst::Element>> {
    let encoder = match plan.rung.encoder {
        Encoder::AvencAac => {
            let encoder = make(Encoder::AvencAac.as_str())?;
            let_aac_choose_stereo(&encoder);
            choose_tools(&encoder, plan);
            encoder.set_property("bitrate", plan.rung.bitrate_bps as i32);
            encoder
        }
        Encoder::Flacenc => {
            let encoder = make(Encoder::Flacenc.as_str())?;
            encoder.set_property("blocksize", plan.frame());
            encoder.set_property("seekpoints", 0i32);
            encoder
        }
        #[cfg(feature = "fdk-aac")]
        Encoder::Fdk => super::fdk::FdkEncoder::element(plan),
    };
    let mut chain = vec![encoder];
    if plan.rung.family == Family::Aac {
        let raw = gst::Caps::builder("audio/mpeg").field("mpegversion", 4i32).field("stream-format", "raw").build();
        let filter = make("capsfilter")?;
        filter.set_property("caps", raw);
        chain.push(filter);
    }
    chain.push(sink.upcast());
    Ok(chain)
}

/// Where the frames of an encoder come out.
pub(super) fn sink(
    mut take: impl FnMut(&gst::Sample) -> Result<()> + Send + 'static,
    mut finish: impl FnMut() -> Result<()> + Send + 'static,
) -> gst_app::AppSink {
    // async = false: sinks of other rungs must not wait for this one's first frame
    let sink = gst_app::AppSink::builder().sync(false).async_(false).enable_last_sample(false).max_buffers(16).build();
    let callbacks = gst_app::AppSinkCallbacks::builder()
        .new_sample(move |sink| {
            let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
            report(sink, take(&sample)).map(|()| gst::FlowSuccess::Ok)
        })
        .eos(move |sink| {
            let _ = report(sink, finish());
        });
    sink.set_callbacks(callbacks.build());
    sink
}

impl Rung {
    /// What it became, after the end of the stream.
    pub(super) fn finished(&self) -> Result<Finished> {
        self.lock().finished()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Segmenter> {
        self.0.lock().expect("no panic while locked")
    }
}

/// Puts our own failure on the bus, where the encoder's failures are too.
pub(super) fn report(sink: &gst_app::AppSink, result: Result<()>) -> Result<(), gst::FlowError> {
    result.map_err(|error| {
        gst::element_error!(sink, gst::StreamError::Failed, ["{}", error.chain()]);
        gst::FlowError::Error
    })
}

/// Name and version of an encoder.
fn version_of(encoder: Encoder) -> String {
    #[cfg(feature = "fdk-aac")]
    if encoder == Encoder::Fdk {
        return super::fdk::VERSION.to_owned();
    }
    let encoder = encoder.as_str();
    let plugin = gst::ElementFactory::find(encoder).and_then(|factory| factory.plugin());
    format!("{encoder} {}", plugin.map(|plugin| plugin.version().to_string()).unwrap_or_default())
}

/// What an encoder gave for some samples. A copy: encoders hand out much larger buffers than the frame needs.
pub(super) struct Frame {
    pub(super) bytes: Vec<u8>,
    /// Samples.
    length: u32,
}

/// Collects frames until a segment is full.
pub(super) struct Segmenter {
    index: usize,
    plan: RungPlan,
    pipe: Pipe,
    /// Name and version, for `VersionIndex::encoders`.
    encoder: String,
    /// Set by the first frame.
    header: Option<Header>,
    frames: Vec<(Vec<u8>, u32)>,
    /// Sum of the lengths of `frames`.
    pending: u64,
    /// Sum of the lengths of all frames in segments already sent.
    sent: u64,
    segments: u32,
    payload_bytes: u64,
    /// Shortest and longest frame, for STREAMINFO.
    frame_bytes: (u32, u32),
    peak_bps: u64,
}

impl Segmenter {
    pub(super) fn new(index: usize, plan: &RungPlan, pipe: &Pipe) -> Segmenter {
        Segmenter {
            index,
            encoder: version_of(plan.rung.encoder),
            plan: plan.clone(),
            pipe: pipe.clone(),
            header: None,
            frames: Vec::new(),
            pending: 0,
            sent: 0,
            segments: 0,
            payload_bytes: 0,
            frame_bytes: (u32::MAX, 0),
            peak_bps: 0,
        }
    }

    pub(super) fn plan(&self) -> &RungPlan {
        &self.plan
    }

    /// One encoded frame, as the encoder gave it.
    fn take(&mut self, sample: &gst::Sample) -> Result<()> {
        let Some(frame) = self.frame(sample)? else { return Ok(()) };
        self.begin(sample, &frame)?;
        self.push(frame)
    }

    /// The frame in a sample; `None` when there is none in it.
    pub(super) fn frame(&self, sample: &gst::Sample) -> Result<Option<Frame>> {
        let buffer = sample.buffer().ok_or_else(|| Error::internal("an encoder gave a sample without bytes"))?;
        if buffer.flags().contains(gst::BufferFlags::HEADER) {
            return Ok(None); // FLAC's stream header: we write our own
        }
        // Full frames, but for the last, which the encoder's base class clips to the input's end.
        let frame = u64::from(self.plan.frame());
        let length =
            buffer.duration().and_then(|d| d.nseconds().mul_div_round(u64::from(self.plan.rate), 1_000_000_000));
        let length = length.map_or(frame, |n| n.min(frame)) as u32;
        let bytes = buffer.map_readable().map_err(|_| Error::internal("a frame cannot be read"))?.to_vec();
        Ok(Some(Frame { bytes, length }))
    }

    /// The next frame.
    pub(super) fn push(&mut self, Frame { bytes, length }: Frame) -> Result<()> {
        let size = bytes.len() as u32;
        self.frame_bytes = (self.frame_bytes.0.min(size), self.frame_bytes.1.max(size));
        self.pending += u64::from(length);
        self.frames.push((bytes, length));
        // A tail is no segment of its own: players and ffmpeg stumble over one of a few samples.
        if self.pending > self.wanted() + self.plan.tail_samples {
            self.cut(self.wanted())?;
        }
        Ok(())
    }

    /// Samples in the segment being collected, without a tail; the first also carries the priming.
    fn wanted(&self) -> u64 {
        self.plan.segment_samples + if self.segments == 0 { u64::from(self.plan.priming()) } else { 0 }
    }

    /// At the first frame: what the decoder needs is known, and the init section's length with it.
    pub(super) fn begin(&mut self, sample: &gst::Sample, first: &Frame) -> Result<()> {
        if self.header.is_some() {
            return Ok(());
        }
        let caps = sample.caps().and_then(|caps| caps.structure(0));
        let caps = caps.ok_or_else(|| Error::internal("an encoder gave a sample without caps"))?;
        let setup = match self.plan.rung.family {
            Family::Aac | Family::Video => {
                if let Some(version) = text_at(&first.bytes, b"Lavc") {
                    self.encoder += &format!(" {version}");
                }
                let config =
                    caps.get::<gst::Buffer>("codec_data").ok().and_then(|b| b.into_mapped_buffer_readable().ok());
                config.filter(|c| (2..=64).contains(&c.len())).map(|c| Setup::Aac(c.to_vec()))
            }
            Family::Flac => {
                let headers = caps.get::<gst::ArrayRef>("streamheader").ok();
                let headers: Vec<gst::Buffer> =
                    headers.iter().flat_map(|h| h.iter()).filter_map(|v| v.get::<gst::Buffer>().ok()).collect();
                let bytes: Vec<_> = headers.into_iter().filter_map(|b| b.into_mapped_buffer_readable().ok()).collect();
                if let Some(version) = bytes.iter().find_map(|b| text_at(b, b"libFLAC ")) {
                    self.encoder += &format!(" {version}");
                }
                bytes.first().and_then(|b| stream_info(b)).map(Setup::Flac)
            }
        };
        let setup = setup.ok_or_else(|| Error::internal("an encoder does not say how to decode it"))?;
        let header = Header {
            setup,
            rate: self.plan.rate,
            channels: self.plan.channels as u16,
            bits: self.plan.bits as u16,
            priming: self.plan.priming(),
            samples: 0,
            average_bps: 0,
            peak_bps: 0,
        };
        self.pipe.send(&Event::Init { rung: self.index }, &header.encode());
        self.header = Some(header);
        Ok(())
    }

    /// Sends the frames of the next `samples` as a segment; a boundary between frames lies there.
    fn cut(&mut self, samples: u64) -> Result<()> {
        let roll = self.plan.rung.family == Family::Aac;
        let mut sum = 0;
        let ends = |frame: &(_, u32)| {
            sum += u64::from(frame.1);
            sum == samples
        };
        let count = self.frames.iter().position(ends).map(|last| last + 1);
        let count = count.ok_or_else(|| Error::internal("frames do not end where a segment does"))?;
        let frames: Vec<_> = self.frames.drain(..count).collect();
        let bytes: u64 = frames.iter().map(|f| f.0.len() as u64).sum();
        self.payload_bytes += bytes;
        self.peak_bps = self.peak_bps.max(bits_per_second(bytes, samples, self.plan.rate));
        let segment = encode_segment(self.segments + 1, self.sent, roll, &frames);
        self.sent += samples;
        self.pending -= samples;
        self.segments += 1;
        self.pipe.send(&Event::Segment { rung: self.index }, &segment);
        Ok(())
    }

    /// What it became, after the end.
    pub(super) fn finished(&self) -> Result<Finished> {
        match &self.header {
            Some(header) => Ok(Finished { index: self.index, samples: header.samples, encoder: self.encoder.clone() }),
            None => Err(Error::internal(format!("rung {} has no frames", self.plan.file_name()))),
        }
    }

    pub(super) fn finish(&mut self) -> Result<()> {
        if !self.frames.is_empty() {
            self.cut(self.pending)?;
        }
        let Some(header) = &mut self.header else { return Ok(()) };
        header.samples = self.sent.saturating_sub(u64::from(header.priming));
        let saturated = |bps: u64| u32::try_from(bps).unwrap_or(u32::MAX);
        header.average_bps = saturated(bits_per_second(self.payload_bytes, self.sent, self.plan.rate));
        header.peak_bps = saturated(self.peak_bps);
        if let Setup::Flac(info) = &mut header.setup {
            fill_stream_info(info, self.frame_bytes, header.samples);
        }
        self.pipe.send(&Event::Init { rung: self.index }, &header.encode());
        Ok(())
    }
}

fn bits_per_second(bytes: u64, samples: u64, rate: u32) -> u64 {
    (bytes * 8).mul_div_ceil(u64::from(rate), samples.max(1)).unwrap_or(u64::MAX)
}

/// The printable text that begins with `mark`.
fn text_at(bytes: &[u8], mark: &[u8]) -> Option<String> {
    let at = bytes.windows(mark.len()).position(|w| w == mark)?;
    let text = bytes[at..].iter().take(48).take_while(|b| b.is_ascii_graphic() || **b == b' ');
    Some(text.map(|b| *b as char).collect())
}

/// STREAMINFO from the first stream header: `0x7F FLAC`, version, count, `fLaC`, block header, block.
fn stream_info(header: &[u8]) -> Option<[u8; STREAMINFO_BYTES]> {
    let at = header.windows(4).position(|w| w == b"fLaC")? + 8;
    header.get(at..at + STREAMINFO_BYTES)?.try_into().ok()
}

/// Writes what was unknown at the start (RFC 9639 §8.2): frame sizes and the 36-bit sample count. The
/// MD5 stays 0, which means "not computed".
fn fill_stream_info(info: &mut [u8; STREAMINFO_BYTES], (least, most): (u32, u32), samples: u64) {
    let block = u16::try_from(crate::hls::ladder::FLAC_BLOCK).expect("4096").to_be_bytes();
    info[0..2].copy_from_slice(&block); // the last block may be shorter and does not count
    info[2..4].copy_from_slice(&block);
    info[4..7].copy_from_slice(&least.min(0xff_ffff).to_be_bytes()[1..]);
    info[7..10].copy_from_slice(&most.min(0xff_ffff).to_be_bytes()[1..]);
    let samples = if samples < 1 << 36 { samples } else { 0 };
    info[13] = info[13] & 0xf0 | (samples >> 32) as u8;
    info[14..18].copy_from_slice(&(samples as u32).to_be_bytes());
    info[18..34].fill(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_info_gets_block_frame_and_total_sizes() {
        let mut info = [0xffu8; STREAMINFO_BYTES];
        fill_stream_info(&mut info, (14, 70_000), 0x1_0203_0405);
        assert_eq!(info[..10], [0x10, 0, 0x10, 0, 0, 0, 14, 1, 0x11, 0x70]);
        assert_eq!(info[13..18], [0xf1, 2, 3, 4, 5]);
        assert_eq!(info[18..], [0; 16]);
    }
}
