//! A first look: demultiplexes everything and decodes nothing. In: the file. Out: which streams there are, how large,
//! when their packets are shown. What is absurd is refused before a decoder has seen a byte of it.

use std::sync::{Arc, Mutex};

use gst::glib;
use gst::prelude::*;

use super::fault;
use crate::base::{Error, Result};
use crate::transcode::child::Pipe;
use crate::transcode::gst::registry::make;
use crate::transcode::gst::source::{FileSource, Input};
use crate::transcode::protocol::Event;
use crate::transcode::video::plan::{PictureTrack, SoundTrack, Survey, Turn};
use crate::transcode::video::tone::Transfer;

/// Packets of a stream that are looked at: four hours at 250 a second.
const PACKETS_MAX: usize = 3_600_000;
/// Streams in a file.
const STREAMS_MAX: usize = 32;

/// One stream as its packets pass.
#[derive(Debug, Default)]
struct Stream {
    caps: Option<gst::Caps>,
    segment: Option<gst::FormattedSegment<gst::ClockTime>>,
    turn: Turn,
    codec: Option<String>,
    /// When each packet is shown, in running time.
    shown_ns: Vec<u64>,
    /// When the last that says how long it is ends.
    end_ns: u64,
    too_many: bool,
}

type Streams = Arc<Mutex<Vec<Arc<Mutex<Stream>>>>>;

/// Looks at all of `input`.
pub(super) fn run(input: Input, pipe: &Pipe) -> Result<Survey> {
    let pipeline = gst::Pipeline::new();
    let streams: Streams = Arc::default();
    let source = FileSource::new(input);
    let decodebin = make("decodebin")?;
    decodebin.set_property("expose-all-streams", true);
    let wired = pipeline.add_many([source.upcast_ref(), &decodebin]).and_then(|()| source.link(&decodebin));
    wired.map_err(|cause| Error::internal("the demultiplexer cannot be wired").because(cause))?;
    stop_at_decoders(&decodebin)?;
    let (weak, found) = (pipeline.downgrade(), Arc::clone(&streams));
    decodebin.connect_pad_added(move |_, pad| {
        let Some(pipeline) = weak.upgrade() else { return };
        let mut found = found.lock().expect("no panic while locked");
        if found.len() < STREAMS_MAX {
            let stream = Arc::new(Mutex::new(Stream::default()));
            watch(pad, Arc::clone(&stream));
            found.push(stream);
        }
        super::decode::swallow(&pipeline, pad);
    });
    if pipeline.set_state(gst::State::Playing).is_err() {
        fault(&pipeline)?;
        return Err(Error::internal("the demultiplexer does not start"));
    }
    let ended = wait(&pipeline, &streams, pipe);
    let _ = pipeline.set_state(gst::State::Null); // nothing left to do if it fails
    ended?;
    let streams = std::mem::take(&mut *streams.lock().expect("no panic while locked"));
    describe(&streams)
}

/// What would be decoded is shown as it is.
fn stop_at_decoders(decodebin: &gst::Element) -> Result<()> {
    /// `GstAutoplugSelectResult`, whose type the plugin registers.
    const TRY: i32 = 0;
    const EXPOSE: i32 = 1;
    decodebin.connect("autoplug-select", false, move |values| {
        let factory = values.get(3)?.get::<gst::ElementFactory>().ok()?;
        let choice = if factory.has_type(gst::ElementFactoryType::DECODER) { EXPOSE } else { TRY };
        let kind = glib::Type::from_name("GstAutoplugSelectResult")?;
        glib::EnumClass::with_type(kind)?.to_value(choice)
    });
    Ok(())
}

/// Waits for the end; a sign of life every second.
fn wait(pipeline: &gst::Pipeline, streams: &Streams, pipe: &Pipe) -> Result<()> {
    let bus = pipeline.bus().expect("a pipeline has a bus");
    loop {
        let message =
            bus.timed_pop_filtered(gst::ClockTime::from_seconds(1), &[gst::MessageType::Eos, gst::MessageType::Error]);
        match message.as_ref().map(|message| message.view()) {
            Some(gst::MessageView::Error(error)) => return Err(super::decode::explain(&error.error())),
            Some(_) => return Ok(()),
            None => {
                let streams = streams.lock().expect("no panic while locked");
                let packets =
                    |stream: &Arc<Mutex<Stream>>| stream.lock().expect("no panic while locked").shown_ns.len();
                let seen: usize = streams.iter().map(packets).sum();
                // No packet, no sign: a demultiplexer that searches for ever is ended by the parent.
                if seen > 0 {
                    pipe.send(&Event::Decoded { samples: seen as u64 }, &[]);
                }
            }
        }
    }
}

/// Notes what passes.
fn watch(pad: &gst::Pad, stream: Arc<Mutex<Stream>>) {
    let note = move |stream: &mut Stream, event: &gst::EventRef| match event.view() {
        gst::EventView::Caps(caps) => stream.caps = Some(caps.caps_owned()),
        gst::EventView::Segment(segment) => stream.segment = segment.segment().downcast_ref().cloned(),
        gst::EventView::Tag(tag) => {
            let tags = tag.tag();
            if let Some(turn) = tags.get::<gst::tags::ImageOrientation>() {
                stream.turn = turn_of(turn.get());
            }
            if let Some(codec) = tags.get::<gst::tags::VideoCodec>() {
                stream.codec = Some(codec.get().to_owned());
            }
        }
        _ => {}
    };
    // Events that came before the probe are kept by the pad.
    pad.sticky_events_foreach(|event| {
        note(&mut stream.lock().expect("no panic while locked"), event);
        std::ops::ControlFlow::Continue(gst::EventForeachAction::Keep)
    });
    pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM | gst::PadProbeType::BUFFER, move |_, probe| {
        let mut stream = stream.lock().expect("no panic while locked");
        match &probe.data {
            Some(gst::PadProbeData::Event(event)) => note(&mut stream, event),
            Some(gst::PadProbeData::Buffer(buffer)) => stream.take(buffer),
            _ => {}
        }
        gst::PadProbeReturn::Ok
    });
}

impl Stream {
    fn take(&mut self, buffer: &gst::BufferRef) {
        let Some(pts) = buffer.pts().or(buffer.dts()) else { return };
        let end = pts + buffer.duration().unwrap_or(gst::ClockTime::ZERO);
        let running = match &self.segment {
            // What an edit list leaves out is not counted.
            Some(segment) => match segment.clip(pts, end) {
                Some((Some(start), end)) => segment
                    .to_running_time(start)
                    .map(|start| (start, end.and_then(|end| segment.to_running_time(end)))),
                _ => None,
            },
            None => Some((pts, Some(end))),
        };
        let Some((start, end)) = running else { return };
        if self.shown_ns.len() == PACKETS_MAX {
            self.too_many = true;
            return;
        }
        self.shown_ns.push(start.nseconds());
        self.end_ns = self.end_ns.max(end.unwrap_or(start).nseconds()).max(start.nseconds());
    }
}

fn describe(streams: &[Arc<Mutex<Stream>>]) -> Result<Survey> {
    let mut survey = Survey::default();
    for stream in streams {
        let mut stream = stream.lock().expect("no panic while locked");
        let Some(caps) = stream.caps.clone() else { continue };
        let Some(structure) = caps.structure(0) else { continue };
        if stream.too_many {
            return Err(Error::invalid("it has more packets than hours of film have; export it again as MP4"));
        }
        stream.shown_ns.sort_unstable();
        let (Some(first_ns), Some(last_ns)) = (stream.shown_ns.first().copied(), stream.shown_ns.last().copied())
        else {
            continue;
        };
        let media = structure.name().split('/').next().unwrap_or_default();
        match media {
            "audio" => {
                let rate = structure.get::<i32>("rate").unwrap_or(48_000).max(1) as u32;
                // A second stream of sound is refused where the sound is made.
                survey.sound.get_or_insert(SoundTrack { rate, first_ns, end_ns: stream.end_ns });
            }
            "video" | "image" => {
                let track = picture(structure, &stream, first_ns, last_ns)?;
                // A still beside a film is its cover.
                if track.frames == 1 && streams.len() > 1 && survey.picture.is_some() {
                    continue;
                }
                survey.pictures += 1;
                survey.picture.get_or_insert(track);
            }
            _ => {}
        }
    }
    Ok(survey)
}

fn picture(caps: &gst::StructureRef, stream: &Stream, first_ns: u64, last_ns: u64) -> Result<PictureTrack> {
    let side = |name| caps.get::<i32>(name).ok().and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    let aspect = caps.get::<gst::Fraction>("pixel-aspect-ratio").ok();
    let aspect = aspect.map_or((1, 1), |aspect| (aspect.numer().max(0) as u32, aspect.denom().max(0) as u32));
    let says = |name, value| caps.get::<&str>(name).is_ok_and(|found| found != value);
    let interlaced = says("interlace-mode", "progressive") || says("coded-picture-structure", "frame");
    let mut gaps: Vec<u64> = stream.shown_ns.windows(2).map(|pair| pair[1] - pair[0]).collect();
    gaps.sort_unstable();
    let share = |hundredths: usize| gaps.get(gaps.len() * hundredths / 100).copied().unwrap_or(0);
    let gaps_ns = [share(5), share(50), share(95)];
    Ok(PictureTrack {
        codec: codec(caps, stream.codec.as_deref()),
        width: side("width"),
        height: side("height"),
        aspect,
        turn: stream.turn,
        interlaced,
        hdr: caps.get::<&str>("colorimetry").ok().and_then(Transfer::of),
        frames: stream.shown_ns.len() as u64,
        first_ns,
        end_ns: stream.end_ns.max(last_ns + gaps_ns[1]),
        gaps_ns,
    })
}

/// What people call a codec.
fn codec(caps: &gst::StructureRef, tagged: Option<&str>) -> String {
    match caps.name().as_str() {
        "video/x-h264" => "H.264".into(),
        "video/x-h265" => "H.265".into(),
        "video/x-vp8" => "VP8".into(),
        "video/x-vp9" => "VP9".into(),
        "video/x-av1" => "AV1".into(),
        "video/x-prores" => "ProRes".into(),
        "image/jpeg" => "Motion JPEG".into(),
        other => tagged.unwrap_or(other.trim_start_matches("video/x-")).chars().take(64).collect(),
    }
}

/// `rotate-90`, `flip-rotate-180`: clockwise, the flip first and left to right.
fn turn_of(text: &str) -> Turn {
    let (mirrored, angle) = match text.strip_prefix("flip-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let quarters = match angle {
        "rotate-90" => 1,
        "rotate-180" => 2,
        "rotate-270" => 3,
        _ => 0,
    };
    Turn { mirrored, quarters }
}
