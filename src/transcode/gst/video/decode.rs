//! Input bytes → pictures: 4:2:0, whole, of 8 bits, or of 10 for what has to be made SDR yet. The reader pulls, so a slow encoder slows the decoder.

use gst::prelude::*;

use crate::base::{Error, Result};
use crate::transcode::gst::registry::make;
use crate::transcode::gst::source::{FileSource, Input};

/// A running decoder. Dropping it stops the pipeline.
pub(super) struct Decoder {
    pipeline: gst::Pipeline,
    sink: gst_app::AppSink,
}

/// What the next pull brought.
pub(super) enum Pull {
    /// A picture, and when it is shown in running time.
    Picture(gst::Sample, u64),
    /// Nothing yet.
    Idle,
    /// There is no more.
    End,
}

/// Threads of a decoder: each holds pictures of its own.
const THREADS_MAX: i32 = 4;

impl Decoder {
    /// Starts to decode `input`; `deep`: 10 bits.
    pub(super) fn start(input: Input, deep: bool) -> Result<Decoder> {
        let pipeline = gst::Pipeline::new();
        let source = FileSource::new(input);
        let decodebin = make("decodebin")?;
        // The sound is somebody else's: it is not decoded here. (`caps` of decodebin 1.22 with raw video finds no decoder.)
        decodebin.connect("autoplug-continue", false, |values| {
            let caps = values.get(2)?.get::<gst::Caps>().ok()?;
            let sound = caps.structure(0).is_some_and(|caps| caps.name().starts_with("audio/"));
            Some((!sound).to_value())
        });
        if let Some(bin) = decodebin.downcast_ref::<gst::Bin>() {
            bin.connect_deep_element_added(|_, _, element| bound_threads(element));
        }
        let convert = make("videoconvert")?;
        let caps = make("capsfilter")?;
        let format = if deep { "I420_10LE" } else { "I420" };
        caps.set_property("caps", gst::Caps::builder("video/x-raw").field("format", format).build());
        let mut chain = vec![convert.clone(), caps];
        // Nobody makes HDR of fields.
        if !deep {
            // Lets whole pictures pass, and puts fields together: the decoder says which they are.
            let deinterlace = make("deinterlace")?;
            deinterlace.set_property_from_str("method", "yadif");
            deinterlace.set_property_from_str("fields", "top"); // a picture for two fields
            chain.push(deinterlace);
        }
        // 3 pictures: of 4K they are 40 MB.
        let sink = gst_app::AppSink::builder().sync(false).enable_last_sample(false).max_buffers(3).build();
        chain.push(sink.clone().upcast());
        let wired = (|| {
            pipeline.add_many([source.upcast_ref(), &decodebin])?;
            pipeline.add_many(&chain)?;
            gst::Element::link_many(&chain)?;
            source.link(&decodebin)
        })();
        wired.map_err(|cause| Error::internal("the decoder cannot be wired").because(cause))?;
        let entry = convert.static_pad("sink").expect("videoconvert has a sink pad");
        let weak = pipeline.downgrade();
        decodebin.connect_pad_added(move |_, pad| {
            let Some(pipeline) = weak.upgrade() else { return };
            let raw =
                pad.current_caps().is_some_and(|caps| caps.structure(0).is_some_and(|s| s.name() == "video/x-raw"));
            if !raw || pad.link(&entry).is_err() {
                swallow(&pipeline, pad); // the sound, or a second picture
            }
        });
        let decoder = Decoder { pipeline, sink };
        if decoder.pipeline.set_state(gst::State::Playing).is_err() {
            super::fault(&decoder.pipeline)?;
            return Err(Error::internal("the decoder does not start"));
        }
        Ok(decoder)
    }

    /// Waits up to 20 ms for a picture.
    pub(super) fn pull(&self) -> Result<Pull> {
        let Some(sample) = self.sink.try_pull_sample(gst::ClockTime::from_mseconds(20)) else {
            super::fault(&self.pipeline)?;
            return Ok(if self.sink.is_eos() { Pull::End } else { Pull::Idle });
        };
        let shown = sample
            .buffer()
            .and_then(|buffer| buffer.pts())
            .and_then(|pts| sample.segment()?.downcast_ref::<gst::ClockTime>()?.to_running_time(pts));
        match shown {
            Some(shown) => Ok(Pull::Picture(sample, shown.nseconds())),
            None => Ok(Pull::Idle), // outside of what is shown
        }
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null); // nothing left to do if it fails
    }
}

fn bound_threads(element: &gst::Element) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as i32;
    for name in ["max-threads", "threads"] {
        if element.find_property(name).is_some_and(|property| property.value_type() == i32::static_type()) {
            element.set_property(name, cores.min(THREADS_MAX));
        }
    }
}

/// Lets a stream that nobody wants run dry.
pub(super) fn swallow(pipeline: &gst::Pipeline, pad: &gst::Pad) {
    let Ok(sink) = gst::ElementFactory::make("fakesink").property("sync", false).property("async", false).build()
    else {
        return;
    };
    if pipeline.add(&sink).is_ok() && sink.sync_state_with_parent().is_ok() {
        let _ = pad.link(&sink.static_pad("sink").expect("fakesink has a sink pad"));
    }
}

/// GStreamer's error in words somebody who uploaded the file can act on.
pub(super) fn explain(error: &gst::glib::Error) -> Error {
    use gst::{CoreError, StreamError};
    if let Some(kind) = error.kind::<StreamError>() {
        return Error::invalid(match kind {
            StreamError::TypeNotFound | StreamError::WrongType => {
                "it is not a film: no known format begins like this; give an MP4, MOV, MKV or WebM file"
            }
            StreamError::CodecNotFound => NO_CODEC,
            StreamError::Decrypt | StreamError::DecryptNokey => {
                "it is encrypted; upload the file without copy protection"
            }
            StreamError::Demux | StreamError::Decode => "it is damaged or truncated; upload the file again",
            _ => "it is damaged, truncated or of a kind that is not read; export it again as MP4 (H.264 and AAC)",
        });
    }
    match error.kind::<CoreError>() {
        Some(CoreError::MissingPlugin) => Error::invalid(NO_CODEC),
        _ => Error::internal(format!("the decoder failed ({})", error.message().trim_end_matches('.'))),
    }
}

const NO_CODEC: &str = "its picture is in no supported codec; export it as MP4 (H.264 and AAC)";
