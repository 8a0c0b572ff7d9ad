//! Input bytes → interleaved PCM at the source's own rate, depth and channels.
//!
//! `FileSource ! decodebin ! audioconvert ! caps ! identity ! appsink`, with `rawaudioparse` for `decodebin` where the
//! samples lie in the input as they are, and nothing of it (`plain`) where they need no conversion either. The reader pulls,
//! so a slow encoder slows the decoder; nothing here grows with the length of the input.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use gst::prelude::*;

use super::plain::Plain;
use super::registry::make;
use super::source::{FileSource, Input};
use crate::base::{Error, Result};
use crate::transcode::plan::{Format, Linear};

/// Where samples come from.
pub(super) enum Decoder {
    /// The input has them.
    Plain(Box<Plain>),
    /// GStreamer makes them.
    Pipeline(Decoding),
}

/// A running decoder. Dropping it stops the pipeline.
pub(super) struct Decoding {
    pipeline: gst::Pipeline,
    sink: gst_app::AppSink,
    found: Arc<Mutex<Found>>,
}

/// What appeared while decoding.
#[derive(Default)]
struct Found {
    /// The format as the decoder gave it, before our conversion to one of four layouts.
    decoded: Option<gst_audio::AudioInfo>,
    /// The `audio-codec` tag.
    codec: Option<String>,
}

/// What the next pull brought.
pub(super) enum Pull {
    /// Samples.
    Samples(gst::Sample),
    /// Nothing yet.
    Idle,
    /// There is no more.
    End,
}

impl Decoder {
    /// Starts to decode `input`; `linear`: what it is, when it needs no decoder; `mask`: where its channels are, when
    /// its decoder does not know.
    pub(super) fn start(input: Input, linear: Option<&Linear>, mask: Option<u64>) -> Result<Decoder> {
        match linear.filter(|linear| Plain::reads(linear)) {
            Some(linear) => Plain::start(input, linear).map(|plain| Decoder::Plain(Box::new(plain))),
            None => Decoding::start(input, linear, mask).map(Decoder::Pipeline),
        }
    }

    /// Waits a little for samples; `stop` ends that.
    pub(super) fn pull(&mut self, stop: &AtomicBool) -> Result<Pull> {
        match self {
            Decoder::Plain(plain) => plain.pull(stop),
            Decoder::Pipeline(decoding) => decoding.pull(),
        }
    }

    /// The format of a sample, with the depth the decoder had before our conversion.
    pub(super) fn format(&self, info: &gst_audio::AudioInfo) -> Format {
        let decoded = match self {
            Decoder::Plain(plain) => Some(plain.original().clone()),
            Decoder::Pipeline(decoding) => decoding.found.lock().expect("no panic while locked").decoded.clone(),
        };
        let original = decoded.as_ref().unwrap_or(info).format_info();
        let float = original.is_float();
        let bits = if float { 32 } else { original.depth() };
        let places = info.positions().filter(|places| places.len() > 2).unwrap_or_default();
        let mask = places.iter().map(|place| place.to_mask()).fold(0, |mask, place| mask | place);
        Format { rate: info.rate(), channels: info.channels(), bits, float, mask }
    }

    /// What the demuxer or decoder calls the codec.
    pub(super) fn codec(&self) -> Option<String> {
        match self {
            Decoder::Plain(_) => None,
            Decoder::Pipeline(decoding) => decoding.found.lock().expect("no panic while locked").codec.clone(),
        }
    }
}

impl Decoding {
    /// Starts to decode `input`; `linear`: what it is, when it needs no decoder; `mask`: where its channels are, when
    /// its decoder does not know.
    fn start(input: Input, linear: Option<&Linear>, mask: Option<u64>) -> Result<Decoding> {
        let pipeline = gst::Pipeline::new();
        let found = Arc::new(Mutex::new(Found::default()));
        let source = FileSource::new(input);
        let decode = match linear {
            Some(linear) => parser(linear)?,
            None => decodebin()?,
        };
        let convert = make("audioconvert")?;
        // wider integers and doubles have a place in these four without loss
        let layouts = gst::Caps::builder("audio/x-raw")
            .field("format", gst::List::new(["S16LE", "S24_32LE", "S32LE", "F32LE"]))
            .field("layout", "interleaved")
            .build();
        let caps = make("capsfilter")?;
        caps.set_property("caps", layouts);
        // One open-ended segment: appsink drops buffers beyond `segment.stop`, where decoders that
        // know about priming and clipping put their last frames.
        let identity = make("identity")?;
        identity.set_property("single-segment", true);
        identity.set_property("silent", true);
        // 16 blocks of at most a few thousand samples
        let sink = gst_app::AppSink::builder().sync(false).enable_last_sample(false).max_buffers(16).build();

        let chain = [&convert, &caps, &identity, sink.upcast_ref()];
        let wired = (|| {
            pipeline.add_many([source.upcast_ref(), &decode])?;
            pipeline.add_many(chain)?;
            gst::Element::link_many(chain)?;
            if linear.is_some() {
                decode.link(&convert)?;
            }
            source.link(&decode)
        })();
        wired.map_err(|cause| Error::internal("the decoder cannot be wired").because(cause))?;

        let entry = convert.static_pad("sink").expect("audioconvert has a sink pad");
        watch(&entry, Arc::clone(&found), mask);
        if let Some(bin) = decode.downcast_ref::<gst::Bin>() {
            bin.connect_element_added(|_, element| {
                hold_back(element);
                keep_phase(element);
            });
            let weak = pipeline.downgrade();
            bin.connect_pad_added(move |_, pad| {
                let Some(pipeline) = weak.upgrade() else { return };
                if pad.link(&entry).is_err() {
                    swallow(&pipeline, pad); // a second elementary stream
                }
            });
        }
        let decoding = Decoding { pipeline, sink, found };
        if decoding.pipeline.set_state(gst::State::Playing).is_err() {
            decoding.fault()?;
            return Err(Error::internal("the decoder does not start"));
        }
        Ok(decoding)
    }

    /// Waits up to 20 ms for samples.
    fn pull(&self) -> Result<Pull> {
        if let Some(sample) = self.sink.try_pull_sample(gst::ClockTime::from_mseconds(20)) {
            return Ok(Pull::Samples(sample));
        }
        self.fault()?;
        Ok(if self.sink.is_eos() { Pull::End } else { Pull::Idle })
    }

    /// Raises the first error on the bus.
    fn fault(&self) -> Result<()> {
        let Some(bus) = self.pipeline.bus() else { return Ok(()) };
        while let Some(message) = bus.pop() {
            if let gst::MessageView::Error(error) = message.view() {
                return Err(explain(&error.error()));
            }
        }
        Ok(())
    }
}

impl Drop for Decoding {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null); // nothing left to do if it fails
    }
}

/// Finds out what the input is, and decodes it.
fn decodebin() -> Result<gst::Element> {
    let decodebin = make("decodebin")?;
    decodebin.set_property("caps", gst::Caps::new_empty_simple("audio/x-raw"));
    decodebin.set_property("expose-all-streams", false);
    Ok(decodebin)
}

/// Calls bytes samples.
fn parser(linear: &Linear) -> Result<gst::Element> {
    let parser = make("rawaudioparse")?;
    parser.set_property_from_str("pcm-format", &linear.layout);
    parser.set_property("sample-rate", linear.rate as i32);
    parser.set_property("num-channels", linear.channels as i32);
    Ok(parser)
}

/// Lets a parser push only when decodebin has taken its pad.
///
/// decodebin 1.22 starts an element before it looks at the pads that it always has. A parser that is quick
/// (`aiffparse`, a quarter of the time) pushes into nothing meanwhile, gives up with "not-linked", and decodebin
/// swallows that error because it is busy with that element: nothing ever comes. So its first buffer waits
/// until the pad that decodebin has put around it is blocked or linked.
fn hold_back(element: &gst::Element) {
    let name = element.factory().map(|factory| factory.name());
    if !matches!(name.as_deref(), Some("aiffparse" | "wavparse")) {
        return;
    }
    let Some(pad) = element.static_pad("src") else { return };
    pad.add_probe(gst::PadProbeType::BUFFER, |pad, _| {
        // A second is for ever; then the watchdog sees to it.
        for _ in 0..1000 {
            let around =
                pad.peer().and_then(|proxy| proxy.parent()).and_then(|around| around.downcast::<gst::Pad>().ok());
            if around.is_none_or(|around| around.is_blocked() || around.is_linked()) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        gst::PadProbeReturn::Remove
    });
}

/// Lets Opus keep the phase between its channels: `opusdec` gives it up by default, for those who mix down to mono (RFC 8251
/// §10), and the right channel is another one then.
fn keep_phase(element: &gst::Element) {
    if element.find_property("phase-inversion").is_some() {
        element.set_property("phase-inversion", true);
    }
}

/// Notes format and codec name as they pass, and gives channels a place where the source says none.
fn watch(pad: &gst::Pad, found: Arc<Mutex<Found>>, mask: Option<u64>) {
    pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, probe| {
        if let Some(gst::PadProbeData::Event(event)) = &mut probe.data {
            if let gst::EventView::Caps(caps) = event.view()
                && let Some(placed) = placed(caps.caps(), mask)
            {
                *event = gst::event::Caps::new(&placed);
            }
            let mut found = found.lock().expect("no panic while locked");
            match event.view() {
                gst::EventView::Caps(caps) => found.decoded = gst_audio::AudioInfo::from_caps(caps.caps()).ok(),
                gst::EventView::Tag(tag) => {
                    if let Some(codec) = tag.tag().get::<gst::tags::AudioCodec>() {
                        found.codec = Some(codec.get().to_owned());
                    }
                }
                _ => (),
            }
        }
        gst::PadProbeReturn::Ok
    });
}

/// Caps with the channel mask that they need and lack: a WAV of three or five channels has no field for it
/// (`WAVEFORMATEX`), and converters refuse to guess. FLAC's and AIFF's order by count, RFC 9639 §9.1.3, unless the
/// container says another one.
fn placed(caps: &gst::CapsRef, mask: Option<u64>) -> Option<gst::Caps> {
    let structure = caps.structure(0)?;
    let channels = structure.get::<i32>("channels").ok().filter(|n| *n > 2)? as u32;
    let known = mask.filter(|mask| mask.count_ones() == channels);
    if known.is_none() && structure.has_field("channel-mask") {
        return None;
    }
    let mut caps = caps.to_owned();
    let mask = known.unwrap_or_else(|| super::encode::mask_by_count(channels));
    caps.make_mut().set("channel-mask", gst::Bitmask(mask));
    Some(caps)
}

/// Lets a stream that nobody wants run dry.
fn swallow(pipeline: &gst::Pipeline, pad: &gst::Pad) {
    let Ok(sink) = gst::ElementFactory::make("fakesink").property("sync", false).property("async", false).build()
    else {
        return;
    };
    if pipeline.add(&sink).is_ok() && sink.sync_state_with_parent().is_ok() {
        let _ = pad.link(&sink.static_pad("sink").expect("fakesink has a sink pad"));
    }
}

/// GStreamer's error in words somebody who uploaded the file can act on. Its own words name elements and
/// flows; only faults of ours keep them.
fn explain(error: &gst::glib::Error) -> Error {
    use gst::{CoreError, StreamError};
    if let Some(kind) = error.kind::<StreamError>() {
        return Error::invalid(match kind {
            StreamError::TypeNotFound => {
                "it is not audio: no known format begins like this; give a WAV, AIFF, FLAC, M4A, MP3, Ogg or Opus file"
            }
            // What typefind says of text, and a parser that searched to the end of the file
            StreamError::WrongType => {
                "no audio was found in it; give a WAV, AIFF, FLAC, M4A, MP3, Ogg or Opus file, whole and undamaged"
            }
            StreamError::CodecNotFound => NO_CODEC,
            StreamError::Decrypt | StreamError::DecryptNokey => {
                "it is encrypted; upload the file without copy protection"
            }
            StreamError::Demux | StreamError::Decode => "it is damaged or truncated; upload the file again",
            _ => "it is damaged, truncated or of a kind that is not read; export it again as WAV or FLAC",
        });
    }
    match error.kind::<CoreError>() {
        Some(CoreError::MissingPlugin) => Error::invalid(NO_CODEC),
        _ => Error::internal(format!("the decoder failed ({})", error.message().trim_end_matches('.'))),
    }
}

const NO_CODEC: &str = "it has no audio in a supported codec; export it as WAV, FLAC, M4A, MP3, Ogg or Opus";
