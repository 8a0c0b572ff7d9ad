//! Fraunhofer's AAC encoder as an element: samples in, raw AAC-LC frames out. A constant bit rate, sixteen bits, one or two
//! channels.
//!
//! No `GstAudioEncoder`: what is given has to be exactly the samples that came and the priming, and here that is counted.

use std::sync::{Mutex, OnceLock};

use fdk_aac::enc;
use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;

use crate::hls::ladder::AAC_FRAME;
use crate::transcode::plan::RungPlan;

/// Whose code it is, for `VersionIndex::encoders`: the package in `Cargo.lock` that brings it.
pub(super) const VERSION: &str = "fdk-aac-sys 0.5.0";

/// Bytes of the longest frame: 6144 bits a channel (ISO 14496-3 §4.5.3.1).
const FRAME_BYTES_MAX: usize = 2 * 6144 / 8;

glib::wrapper! {
    /// Takes interleaved 32-bit floats.
    pub(super) struct FdkEncoder(ObjectSubclass<imp::FdkEncoder>) @extends gst::Element, gst::Object;
}

impl FdkEncoder {
    pub(super) fn element(plan: &RungPlan) -> gst::Element {
        let element: FdkEncoder = glib::Object::new();
        element.imp().plan.set(plan.clone()).expect("the element is new");
        element.upcast()
    }
}

/// An encoder and what it was given.
struct Encoding {
    encoder: enc::Encoder,
    channels: usize,
    rate: u32,
    priming: u64,
    /// Samples of the source.
    fed: u64,
    /// Frames that came out.
    frames: u64,
    pcm: Vec<i16>,
    bytes: [u8; FRAME_BYTES_MAX],
}

impl Encoding {
    /// An encoder for a rung, and what its decoder has to know (AudioSpecificConfig).
    fn start(plan: &RungPlan) -> Result<(Encoding, Vec<u8>), String> {
        let channels = match plan.channels {
            1 => enc::ChannelMode::Mono,
            2 => enc::ChannelMode::Stereo,
            more => return Err(format!("the encoder takes one or two channels, not {more}")),
        };
        let params = enc::EncoderParams {
            bit_rate: enc::BitRate::Cbr(plan.rung.bitrate_bps),
            sample_rate: plan.rate,
            transport: enc::Transport::Raw,
            channels,
            audio_object_type: enc::AudioObjectType::Mpeg4LowComplexity,
        };
        let refused = |cause: enc::EncoderError| format!("the encoder refuses its settings: {cause}");
        let encoder = enc::Encoder::new(params).map_err(refused)?;
        let info = encoder.info().map_err(refused)?;
        let config = info.confBuf.get(..info.confSize as usize).unwrap_or_default().to_vec();
        let (frame, delay, priming) = (info.frameLength, info.nDelay, plan.priming());
        if (frame, delay) != (AAC_FRAME, priming) {
            return Err(format!("the encoder has frames of {frame} samples and {delay} of priming"));
        }
        let encoding = Encoding {
            encoder,
            channels: plan.channels as usize,
            rate: plan.rate,
            priming: u64::from(priming),
            fed: 0,
            frames: 0,
            pcm: Vec::new(),
            bytes: [0; FRAME_BYTES_MAX],
        };
        Ok((encoding, config))
    }

    /// The frames of some bytes of samples.
    fn add(&mut self, samples: &[u8]) -> Result<Vec<gst::Buffer>, String> {
        let words = samples.as_chunks().0;
        let mut pcm = std::mem::take(&mut self.pcm);
        pcm.clear();
        // Sixteen bits come back as they were; the cast saturates.
        pcm.extend(words.iter().map(|word| (f32::from_le_bytes(*word) * 32_768.0).round_ties_even() as i16));
        self.fed += (pcm.len() / self.channels) as u64;
        let frames = self.encode(&pcm);
        self.pcm = pcm;
        frames
    }

    fn encode(&mut self, mut pcm: &[i16]) -> Result<Vec<gst::Buffer>, String> {
        let mut frames = Vec::new();
        while !pcm.is_empty() {
            let given = self.encoder.encode(pcm, &mut self.bytes).map_err(|cause| cause.to_string())?;
            if given.input_consumed == 0 && given.output_size == 0 {
                return Err("the encoder takes nothing".into());
            }
            pcm = pcm.get(given.input_consumed..).unwrap_or_default();
            if given.output_size > 0 {
                let frame = self.bytes.get(..given.output_size).ok_or("the encoder says more than there is")?;
                self.frames += 1;
                let mut frame = gst::Buffer::from_mut_slice(frame.to_vec());
                self.last(&mut frame, u64::from(AAC_FRAME));
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    /// Lets a frame last so many samples.
    fn last(&self, frame: &mut gst::Buffer, samples: u64) {
        let ns = samples.mul_div_round(1_000_000_000, u64::from(self.rate)).expect("a frame is short");
        frame.get_mut().expect("nobody else has it").set_duration(gst::ClockTime::from_nseconds(ns));
    }

    /// The frames that are still inside. The last is as long as what is left of the source.
    fn finish(&mut self) -> Result<Vec<gst::Buffer>, String> {
        let (frame, whole) = (u64::from(AAC_FRAME), self.fed + self.priming);
        let wanted = whole.div_ceil(frame);
        let silence = vec![0; (wanted * frame - self.fed) as usize * self.channels];
        let mut frames = self.encode(&silence)?;
        if self.frames != wanted {
            return Err(format!("{} frames came out, not {wanted}", self.frames));
        }
        if let Some(last) = frames.last_mut() {
            self.last(last, whole - (wanted - 1) * frame);
        }
        Ok(frames)
    }
}

mod imp {
    use super::*;

    pub(in super::super) struct FdkEncoder {
        sink: gst::Pad,
        source: gst::Pad,
        pub(super) plan: OnceLock<RungPlan>,
        encoding: Mutex<Option<Encoding>>,
    }

    #[glib::object_subclass]
    impl ObjectSubclass for FdkEncoder {
        const NAME: &'static str = "SegueFdkEncoder";
        type Type = super::FdkEncoder;
        type ParentType = gst::Element;

        fn with_class(class: &Self::Class) -> Self {
            let template = |name| class.pad_template(name).expect("the class has two templates");
            let sink = gst::Pad::builder_from_template(&template("sink"))
                .chain_function(|_, parent, buffer| {
                    Self::catch_panic_pad_function(parent, || Err(gst::FlowError::Error), |this| this.take(&buffer))
                })
                .event_function(|pad, parent, event| {
                    Self::catch_panic_pad_function(parent, || false, |this| this.event(pad, event))
                });
            let source = gst::Pad::builder_from_template(&template("src")).build();
            FdkEncoder { sink: sink.build(), source, plan: OnceLock::new(), encoding: Mutex::new(None) }
        }
    }

    impl ObjectImpl for FdkEncoder {
        fn constructed(&self) {
            self.parent_constructed();
            let element = self.obj();
            element.add_pad(&self.sink).expect("the element is new");
            element.add_pad(&self.source).expect("the element is new");
        }
    }

    impl GstObjectImpl for FdkEncoder {}

    impl ElementImpl for FdkEncoder {
        fn pad_templates() -> &'static [gst::PadTemplate] {
            static TEMPLATES: OnceLock<Vec<gst::PadTemplate>> = OnceLock::new();
            TEMPLATES.get_or_init(|| {
                let samples = gst::Caps::builder("audio/x-raw").field("format", "F32LE").field("layout", "interleaved");
                let template = |name, direction, caps: &gst::Caps| {
                    gst::PadTemplate::new(name, direction, gst::PadPresence::Always, caps)
                        .expect("the template is sound")
                };
                vec![
                    template("sink", gst::PadDirection::Sink, &samples.build()),
                    template("src", gst::PadDirection::Src, &frames().build()),
                ]
            })
        }
    }

    /// What comes out.
    fn frames() -> gst::caps::Builder<gst::caps::NoFeature> {
        gst::Caps::builder("audio/mpeg").field("mpegversion", 4i32).field("stream-format", "raw").field("framed", true)
    }

    impl FdkEncoder {
        fn event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
            match event.view() {
                gst::EventView::Caps(_) => match self.begin() {
                    Ok(caps) => self.source.push_event(gst::event::Caps::new(&caps)),
                    Err(why) => {
                        let _ = self.fail(&why);
                        false
                    }
                },
                gst::EventView::Eos(_) => {
                    let _ = self.encoding(Encoding::finish); // a failure is on the bus
                    self.source.push_event(event)
                }
                _ => gst::Pad::event_default(pad, Some(&*self.obj()), event),
            }
        }

        fn begin(&self) -> Result<gst::Caps, String> {
            let plan = self.plan.get().ok_or("the encoder has no plan")?;
            let (encoding, config) = Encoding::start(plan)?;
            *self.encoding.lock().expect("no panic while locked") = Some(encoding);
            let caps = frames().field("rate", plan.rate as i32).field("channels", plan.channels as i32);
            Ok(caps.field("codec_data", gst::Buffer::from_slice(config)).build())
        }

        fn take(&self, buffer: &gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
            self.encoding(|encoding| {
                let samples = buffer.map_readable().map_err(|_| "a block of samples cannot be read")?;
                encoding.add(&samples)
            })
        }

        /// Hands on the frames that `work` gives.
        fn encoding(
            &self,
            work: impl FnOnce(&mut Encoding) -> Result<Vec<gst::Buffer>, String>,
        ) -> Result<gst::FlowSuccess, gst::FlowError> {
            let frames = match &mut *self.encoding.lock().expect("no panic while locked") {
                Some(encoding) => work(encoding),
                None => Err("samples came before their format".into()),
            };
            for frame in frames.map_err(|why| self.fail(&why))? {
                self.source.push(frame)?;
            }
            Ok(gst::FlowSuccess::Ok)
        }

        /// Says so on the bus.
        fn fail(&self, why: &str) -> gst::FlowError {
            gst::element_error!(self.obj(), gst::StreamError::Encode, ["{}", why]);
            gst::FlowError::Error
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_version_is_the_one_that_is_compiled() {
        let (name, version) = super::VERSION.split_once(' ').unwrap();
        let locked = format!("name = \"{name}\"\nversion = \"{version}\"\n");
        assert!(include_str!("../../../Cargo.lock").contains(&locked));
    }
}
