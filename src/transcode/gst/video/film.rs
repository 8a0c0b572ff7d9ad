//! Pictures → every rung at once.
//!
//! ```text
//! decoder ─▶ HDR made SDR ─▶ the grid: so many pictures, each at its exact time ─▶ appsrc ! turn ! tee
//!     tee ! { queue ! scale ! I420 at the rung's size ! x264enc ! appsink } per rung
//! ```

use gst::prelude::*;

use super::decode::{Decoder, Pull};
use super::rung::{self, Rung};
use super::still::{self, Candidates};
use crate::base::{Error, Result};
use crate::transcode::child::Pipe;
use crate::transcode::gst::registry::make;
use crate::transcode::gst::source::Input;
use crate::transcode::protocol::Event;
use crate::transcode::video::plan::{Film, Turn};
use crate::transcode::video::tone::ToneMap;

/// When the first picture is shown to the encoders. x264enc moves earlier ones to this hour, so that decode times need
/// no sign, and its base class (1.22) compares moved with unmoved times then and forgets where groups begin.
pub(super) const EPOCH_NS: u64 = 1000 * 3600 * 1_000_000_000;

/// Decodes and encodes all of `input`. Answers what encoded it.
pub(super) fn run(film: &Film, input: Input, pipe: &Pipe) -> Result<Vec<String>> {
    let decoder = Decoder::start(input, film.hdr.is_some())?;
    let mut grid = Grid::new(film, pipe);
    loop {
        match decoder.pull()? {
            Pull::Idle => grid.idle()?,
            Pull::End => break,
            Pull::Picture(sample, shown_ns) => grid.take(&sample, shown_ns)?,
        }
    }
    drop(decoder); // frees its memory while the encoders finish
    grid.finish()
}

/// Shows, at each of its places, the picture that is nearest before it in time, to within half a place: those of a
/// constant rate come out as they went in, others are repeated or left out. Its length is known before it begins, so
/// no timestamp can make it run away.
struct Grid<'a> {
    film: &'a Film,
    pipe: &'a Pipe,
    encoder: Option<Encoder>,
    held: Option<gst::Buffer>,
    /// Makes HDR SDR.
    tone: Option<ToneMap>,
    /// Of the decoder.
    caps: Option<gst::Caps>,
    decoded: u64,
    /// Places filled.
    next: u64,
    told: u64,
    /// Pictures where groups begin.
    groups: std::iter::Peekable<std::vec::IntoIter<(u64, bool)>>,
    candidates: Candidates,
}

impl<'a> Grid<'a> {
    fn new(film: &'a Film, pipe: &'a Pipe) -> Grid<'a> {
        let groups = film.cut.places(film.rate, film.frames).into_iter().peekable();
        let candidates = Candidates::default();
        let (encoder, tone) = (None, film.hdr.map(ToneMap::new));
        Grid { film, pipe, encoder, held: None, tone, caps: None, decoded: 0, next: 0, told: 0, groups, candidates }
    }

    fn idle(&self) -> Result<()> {
        self.encoder.as_ref().map_or(Ok(()), Encoder::fault)
    }

    fn take(&mut self, sample: &gst::Sample, shown_ns: u64) -> Result<()> {
        let missing = || Error::internal("the decoder gave a sample without a picture");
        let caps = sample.caps_owned().ok_or_else(missing)?;
        let buffer = sample.buffer_owned().ok_or_else(missing)?;
        match &self.caps {
            None => self.begin(caps)?,
            Some(known) if same_size(known, &caps) => {}
            Some(_) => return Err(Error::invalid("its picture changes its size in the middle; export it as one file")),
        }
        self.decoded += 1;
        let film = self.film;
        let buffer = match &self.tone {
            Some(tone) => made_sdr(tone, &buffer, film.source)?,
            None => buffer,
        };
        let shown_ns = shown_ns.saturating_sub(film.first_ns) + film.time_ns(film.lead);
        let half_ns = film.time_ns(1) / 2;
        let first = self.held.is_none();
        if first {
            self.held = Some(buffer.clone());
        }
        while self.next < film.frames && film.time_ns(self.next) + half_ns < shown_ns {
            self.show()?;
        }
        self.held = Some(buffer);
        Ok(())
    }

    fn begin(&mut self, caps: gst::Caps) -> Result<()> {
        let side = |name| caps.structure(0).and_then(|s| s.get::<i32>(name).ok()).unwrap_or(0) as u32;
        let (found, promised) = ((side("width"), side("height")), self.film.source);
        if found != promised {
            return Err(Error::invalid(format!(
                "its picture is {}×{} pixels, its header says {}×{}; export it again as MP4",
                found.0, found.1, promised.0, promised.1
            )));
        }
        let shown = if self.tone.is_some() { sdr(&caps) } else { caps.clone() };
        self.encoder = Some(Encoder::start(self.film, &shown, self.pipe)?);
        self.caps = Some(caps);
        Ok(())
    }

    /// What the pictures are that are shown.
    fn shown_caps(&self) -> Option<gst::Caps> {
        self.caps.as_ref().map(|caps| if self.tone.is_some() { sdr(caps) } else { caps.clone() })
    }

    /// Fills the next place with the picture that is held.
    fn show(&mut self) -> Result<()> {
        let (Some(encoder), Some(held)) = (&self.encoder, &self.held) else { return Ok(()) };
        let film = self.film;
        let (start, end) = (EPOCH_NS + film.time_ns(self.next), EPOCH_NS + film.time_ns(self.next + 1));
        if self.groups.next_if(|group| group.0 == self.next).is_some() {
            encoder.begin_group(start);
            self.candidates.offer(held, self.caps.as_ref(), start - EPOCH_NS);
        }
        let mut picture = held.copy();
        {
            let picture = picture.make_mut();
            picture.set_pts(gst::ClockTime::from_nseconds(start));
            picture.set_dts(gst::ClockTime::NONE);
            picture.set_duration(gst::ClockTime::from_nseconds(end - start));
        }
        encoder.push(picture)?;
        self.next += 1;
        // A sign of life every second or so.
        if self.next - self.told >= u64::from(film.rate.0.div_ceil(film.rate.1)) {
            self.told = self.next;
            self.pipe.send(&Event::Decoded { samples: self.next }, &[]);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<String>> {
        if self.held.is_none() {
            return Err(Error::invalid("no picture could be decoded; export it again as MP4 (H.264 and AAC)"));
        }
        // A decoder may leave out what leads into a recording that was cut from another.
        let tolerance = (self.film.source_frames / 50).max(3);
        if self.decoded + tolerance < self.film.source_frames {
            let (promised, found) = (self.film.source_frames, self.decoded);
            return Err(Error::invalid(format!(
                "truncated or damaged: it has {promised} pictures, only {found} could be decoded; upload the file again"
            )));
        }
        while self.next < self.film.frames {
            self.show()?;
        }
        let caps = self.shown_caps();
        let Grid { film, pipe, encoder, candidates, held, .. } = self;
        drop(held);
        let encoder = encoder.ok_or_else(|| Error::internal("nothing was encoded"))?;
        let encoders = encoder.finish(film.frames)?;
        drop(encoder);
        if let (Some(picture), Some(caps)) = (candidates.best(), caps) {
            pipe.send(&Event::Poster, &still::encode(film, picture, &caps)?);
        }
        Ok(encoders)
    }
}

/// A picture of 10 bits and HDR as one of 8 and SDR.
fn made_sdr(tone: &ToneMap, picture: &gst::Buffer, size: (u32, u32)) -> Result<gst::Buffer> {
    let map = picture.map_readable().map_err(|_| Error::internal("a picture cannot be read"))?;
    // Bands, not threads for good: a picture takes longer than its threads take to start.
    let bands = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    let made = tone.picture(&map, size, bands);
    made.map(gst::Buffer::from_mut_slice).ok_or_else(|| Error::internal("a picture is shorter than its size"))
}

/// Caps of what `made_sdr` makes of pictures of these.
fn sdr(caps: &gst::Caps) -> gst::Caps {
    let mut caps = caps.clone();
    if let Some(structure) = caps.make_mut().structure_mut(0) {
        structure.set("format", "I420");
        structure.set("colorimetry", "bt709");
        structure.remove_fields(["mastering-display-info", "content-light-level"]);
    }
    caps
}

fn same_size(a: &gst::Caps, b: &gst::Caps) -> bool {
    let shape = |caps: &gst::Caps| {
        let caps = caps.structure(0)?;
        Some((
            caps.get::<i32>("width").ok()?,
            caps.get::<i32>("height").ok()?,
            caps.get::<&str>("format").ok()?.to_owned(),
        ))
    };
    shape(a) == shape(b)
}

/// All rungs, running. Dropping it stops the pipeline.
struct Encoder {
    pipeline: gst::Pipeline,
    source: gst_app::AppSrc,
    rungs: Vec<std::sync::Arc<Rung>>,
}

impl Encoder {
    fn start(film: &Film, caps: &gst::Caps, pipe: &Pipe) -> Result<Encoder> {
        let mut caps = caps.clone();
        if let Some(structure) = caps.make_mut().structure_mut(0) {
            let (n, d) = film.rate;
            structure.set("framerate", gst::Fraction::new(n as i32, d as i32));
            structure.set("interlace-mode", "progressive");
            structure.remove_field("field-order");
        }
        // 2 pictures: the queues behind hold more.
        let source = gst_app::AppSrc::builder().caps(&caps).format(gst::Format::Time).build();
        source.set_max_bytes(0);
        source.set_max_buffers(2);
        source.set_property("block", true);
        let pipeline = gst::Pipeline::new();
        let tee = make("tee")?;
        let mut head = vec![source.clone().upcast()];
        head.extend(turning(film.turn)?);
        head.push(tee.clone());
        let linked = pipeline.add_many(&head).and_then(|()| gst::Element::link_many(&head));
        linked.map_err(|cause| Error::internal("the pictures' source cannot be linked").because(cause))?;
        let mut rungs = Vec::new();
        for index in 0..film.rungs.len() {
            let (elements, rung) = rung::elements(index, film, pipe)?;
            let linked = pipeline.add_many(&elements).and_then(|()| {
                gst::Element::link_many(&elements)?;
                tee.link(&elements[0])
            });
            linked.map_err(|cause| Error::internal("a rung cannot be linked").because(cause))?;
            rungs.push(rung);
        }
        let encoder = Encoder { pipeline, source, rungs };
        match encoder.pipeline.set_state(gst::State::Playing) {
            Ok(_) => Ok(encoder),
            Err(_) => encoder.fault().and(Err(Error::internal("the encoders do not start"))),
        }
    }

    /// The next picture begins a group, on every rung (`gst_video_event_new_downstream_force_key_unit`).
    fn begin_group(&self, at_ns: u64) {
        let at = gst::ClockTime::from_nseconds(at_ns);
        let structure = gst::Structure::builder("GstForceKeyUnit")
            .field("timestamp", at)
            .field("stream-time", at)
            .field("running-time", at)
            .field("all-headers", false)
            .field("count", 0u32)
            .build();
        let _ = self.source.send_event(gst::event::CustomDownstream::new(structure)); // the rungs check what came of it
    }

    /// Gives a picture to every rung; waits while they are behind.
    fn push(&self, picture: gst::Buffer) -> Result<()> {
        match self.source.push_buffer(picture) {
            Ok(_) => Ok(()),
            Err(flow) => self.fault().and(Err(Error::internal(format!("an encoder takes no more ({flow})")))),
        }
    }

    fn finish(&self, frames: u64) -> Result<Vec<String>> {
        let _ = self.source.end_of_stream(); // a failure is on the bus
        let bus = self.pipeline.bus().expect("a pipeline has a bus");
        loop {
            let wanted = [gst::MessageType::Eos, gst::MessageType::Error];
            match bus.timed_pop_filtered(gst::ClockTime::from_mseconds(50), &wanted) {
                None => {}
                Some(message) => {
                    judge(&message)?;
                    break;
                }
            }
        }
        self.rungs.iter().map(|rung| rung.finished(frames)).collect()
    }

    fn fault(&self) -> Result<()> {
        let bus = self.pipeline.bus().expect("a pipeline has a bus");
        bus.pop_filtered(&[gst::MessageType::Error]).map_or(Ok(()), |message| judge(&message))
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null); // nothing left to do if it fails
    }
}

fn judge(message: &gst::Message) -> Result<()> {
    match message.view() {
        gst::MessageView::Error(error) => {
            let place = message.src().map(|source| source.name().to_string()).unwrap_or_default();
            Err(Error::internal(format!("encoder {place} failed ({})", error.error().message())))
        }
        _ => Ok(()),
    }
}

/// Elements that put the picture upright; none when it is.
pub(super) fn turning(turn: Turn) -> Result<Vec<gst::Element>> {
    let mut elements = Vec::new();
    let mut flip = |method: &str| -> Result<()> {
        let element = make("videoflip")?;
        element.set_property_from_str("video-direction", method);
        elements.push(element);
        Ok(())
    };
    if turn.mirrored {
        flip("horiz")?;
    }
    match turn.quarters {
        1 => flip("90r")?,
        2 => flip("180")?,
        3 => flip("90l")?,
        _ => {}
    }
    Ok(elements)
}
