//! One rung of the picture: scaling, an encoder, and the segments cut from what it gives.

use std::sync::{Arc, Mutex};

use gst::prelude::*;

use super::film::EPOCH_NS;
use crate::base::{Error, Result};
use crate::hls::cmaf::{Picture, VideoHeader, completed, encode_video_segment};
use crate::transcode::child::Pipe;
use crate::transcode::gst::registry::make;
use crate::transcode::protocol::Event;
use crate::transcode::video::plan::Film;

/// Threads of an encoder. One: with more, x264 looks how far the others are before it decides what the ceiling leaves for a
/// row, and the same input gives other bytes on another day. The sizes are encoded side by side.
const THREADS: u32 = 1;

/// A rung being encoded.
pub(super) struct Rung(Mutex<Segmenter>);

/// The elements of a rung, to be linked in this order behind a tee, and the rung they fill.
pub(super) fn elements(index: usize, film: &Film, pipe: &Pipe) -> Result<(Vec<gst::Element>, Arc<Rung>)> {
    let size = &film.rungs[index];
    let queue = make("queue")?;
    // 4 pictures let the encoders drift apart a little; of 4K they are 50 MB, shared by all rungs.
    queue.set_property("max-size-buffers", 4u32);
    queue.set_property("max-size-bytes", 0u32);
    queue.set_property("max-size-time", 0u64);
    let scale = make("videoscale")?;
    scale.set_property_from_str("method", "lanczos"); // a filter as wide as the step is large: no aliasing
    scale.set_property("add-borders", false); // the size was chosen for the shape
    let wanted = gst::Caps::builder("video/x-raw")
        .field("format", "I420")
        .field("width", size.width as i32)
        .field("height", size.height as i32)
        .field("pixel-aspect-ratio", gst::Fraction::new(1, 1))
        .build();
    let filter = make("capsfilter")?;
    filter.set_property("caps", wanted);
    let encoder = make("x264enc")?;
    encoder.set_property_from_str("pass", "qual");
    encoder.set_property("quantizer", size.quality);
    // A ceiling over two seconds: what keeps BANDWIDTH in bounds.
    encoder.set_property("bitrate", size.bitrate_bps / 1000);
    encoder.set_property("vbv-buf-capacity", 2_000u32);
    encoder.set_property_from_str("speed-preset", &film.preset);
    encoder.set_property("threads", THREADS);
    encoder.set_property("bframes", film.b_frames);
    encoder.set_property("aud", false);
    // Groups begin where we say and nowhere else, and nothing refers across their border.
    encoder.set_property("key-int-max", i32::MAX as u32 / 2);
    encoder.set_property("option-string", "scenecut=0:open-gop=0:keyint=infinite:cpu-independent=1");
    let stream = gst::Caps::builder("video/x-h264")
        .field("stream-format", "avc")
        .field("alignment", "au")
        .field("profile", "high")
        .build();
    let h264 = make("capsfilter")?;
    h264.set_property("caps", stream);
    let rung = Arc::new(Rung(Mutex::new(Segmenter::new(index, film, pipe.clone(), version_of(&encoder)))));
    // async = false: sinks of other rungs must not wait for this one's first picture
    let sink = gst_app::AppSink::builder().sync(false).async_(false).enable_last_sample(false).max_buffers(8).build();
    let (of_sample, of_end) = (Arc::clone(&rung), Arc::clone(&rung));
    let callbacks = gst_app::AppSinkCallbacks::builder()
        .new_sample(move |sink| {
            let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
            report(sink, of_sample.lock().take(&sample)).map(|()| gst::FlowSuccess::Ok)
        })
        .eos(move |sink| {
            let _ = report(sink, of_end.lock().finish());
        });
    sink.set_callbacks(callbacks.build());
    Ok((vec![queue, scale, filter, encoder, h264, sink.upcast()], rung))
}

impl Rung {
    /// Name and version of the encoder, after the end of the stream, when every picture came out.
    pub(super) fn finished(&self, frames: u64) -> Result<String> {
        let rung = self.lock();
        match rung.done == frames {
            true => Ok(rung.encoder.clone()),
            false => Err(Error::internal(format!("{} has {} pictures, not {frames}", rung.name, rung.done))),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Segmenter> {
        self.0.lock().expect("no panic while locked")
    }
}

/// Puts our own failure on the bus, where the encoder's failures are too.
fn report(sink: &gst_app::AppSink, result: Result<()>) -> Result<(), gst::FlowError> {
    result.map_err(|error| {
        gst::element_error!(sink, gst::StreamError::Failed, ["{}", error.chain()]);
        gst::FlowError::Error
    })
}

fn version_of(encoder: &gst::Element) -> String {
    let factory = encoder.factory();
    let plugin = factory.as_ref().and_then(|f| f.plugin()).map(|p| p.version().to_string()).unwrap_or_default();
    format!("{} {plugin}", factory.map(|f| f.name().to_string()).unwrap_or_default())
}

/// A picture as the encoder gave it, and its place in the order of showing.
struct Coded {
    bytes: gst::MappedBuffer<gst::buffer::Readable>,
    place: u64,
    key: bool,
}

/// Collects groups until a segment is full.
struct Segmenter {
    index: usize,
    /// The rung of I-frames, which the lowest fills too.
    iframes_index: usize,
    name: String,
    pipe: Pipe,
    encoder: String,
    size: (u16, u16),
    rate: (u32, u32),
    /// Ticks in a second and in a picture.
    clock: (u32, u32),
    /// Where groups have to begin, and whether a segment does, in order.
    places: std::iter::Peekable<std::vec::IntoIter<(u64, bool)>>,
    frames: u64,
    header: Option<VideoHeader>,
    /// The group that is being collected, in the order of decoding.
    group: Vec<Coded>,
    /// Whole groups of the segment that is being collected.
    pictures: Vec<(gst::MappedBuffer<gst::buffer::Readable>, i32, bool)>,
    /// Pictures in segments already sent.
    done: u64,
    segments: u32,
    /// The first picture of the group before: it lasts until the next group begins.
    iframe: Option<(Vec<u8>, u64)>,
    iframes: u32,
}

impl Segmenter {
    fn new(index: usize, film: &Film, pipe: Pipe, encoder: String) -> Segmenter {
        let size = &film.rungs[index];
        Segmenter {
            index,
            iframes_index: film.rungs.len(),
            name: size.name.clone(),
            pipe,
            encoder,
            size: (size.width as u16, size.height as u16),
            rate: film.rate,
            clock: film.clock(),
            places: film.cut.places(film.rate, film.frames).into_iter().peekable(),
            frames: film.frames,
            header: None,
            group: Vec::new(),
            pictures: Vec::new(),
            done: 0,
            segments: 0,
            iframe: None,
            iframes: 0,
        }
    }

    /// One encoded picture.
    fn take(&mut self, sample: &gst::Sample) -> Result<()> {
        let lacks = |what: &str| Error::internal(format!("the encoder gave a picture without {what}"));
        let buffer = sample.buffer_owned().ok_or_else(|| lacks("bytes"))?;
        let shown =
            buffer.pts().and_then(|pts| sample.segment()?.downcast_ref::<gst::ClockTime>()?.to_running_time(pts));
        let shown_ns = shown.and_then(|shown| shown.nseconds().checked_sub(EPOCH_NS)).ok_or_else(|| lacks("a time"))?;
        // Times were cut to whole nanoseconds; half a picture is far more.
        let (n, d) = (u128::from(self.rate.0), u128::from(self.rate.1) * 1_000_000_000);
        let place = ((2 * u128::from(shown_ns) * n + d) / (2 * d)) as u64;
        let key = !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT);
        let bytes = buffer.into_mapped_buffer_readable().map_err(|_| lacks("bytes that can be read"))?;
        if self.header.is_none() {
            self.begin(sample)?;
        }
        if key {
            self.end_group(place)?;
            match self.places.next() {
                Some((wanted, segment)) if wanted == place => {
                    if segment && !self.pictures.is_empty() {
                        self.cut()?;
                    }
                }
                _ => return Err(Error::internal(format!("{} has a group at picture {place}", self.name))),
            }
        }
        self.group.push(Coded { bytes, place, key });
        Ok(())
    }

    fn begin(&mut self, sample: &gst::Sample) -> Result<()> {
        let caps = sample.caps().and_then(|caps| caps.structure(0));
        let record = caps.and_then(|caps| caps.get::<gst::Buffer>("codec_data").ok());
        let record = record.and_then(|buffer| buffer.into_mapped_buffer_readable().ok());
        // 4 KiB: two parameter sets have a hundred bytes.
        let record = record.filter(|record| record.len() < 4096);
        let record = record.ok_or_else(|| Error::internal("the encoder does not say how to decode it"))?;
        let record = completed(record.to_vec());
        let (width, height) = self.size;
        let header = VideoHeader { record, timescale: self.clock.0, width, height, ticks: 0 };
        self.pipe.send(&Event::Init { rung: self.index }, &header.encode());
        if self.index == 0 {
            self.pipe.send(&Event::Init { rung: self.iframes_index }, &header.encode());
        }
        self.header = Some(header);
        Ok(())
    }

    /// Ends the group before picture `end`: within it, decoding and showing take equally long.
    fn end_group(&mut self, end: u64) -> Result<()> {
        let Some(first) = self.group.first() else { return Ok(()) };
        let start = first.place;
        let open = || Error::internal("a group of pictures does not stand alone");
        if end - start.min(end) != self.group.len() as u64 {
            return Err(open());
        }
        if self.index == 0 {
            self.end_iframe(start)?;
        }
        for (decoded, coded) in self.group.drain(..).enumerate() {
            let after = coded.place as i64 - start as i64 - decoded as i64;
            let shown_after = i32::try_from(after * i64::from(self.clock.1)).map_err(|_| open())?;
            if self.index == 0 && coded.key {
                // A copy: a few kilobytes every two seconds.
                self.iframe = Some((coded.bytes.to_vec(), start));
            }
            self.pictures.push((coded.bytes, shown_after, coded.key));
        }
        Ok(())
    }

    /// Sends the I-frame that is shown until picture `end`.
    fn end_iframe(&mut self, end: u64) -> Result<()> {
        let Some((bytes, start)) = self.iframe.take() else { return Ok(()) };
        let frame = u64::from(self.clock.1);
        let ticks = u32::try_from((end - start) * frame).map_err(|_| Error::internal("a group is too long"))?;
        self.iframes += 1;
        let picture = Picture { bytes, shown_after: 0, sync: true };
        let segment = encode_video_segment(self.iframes, start * frame, ticks, &[picture]);
        self.pipe.send(&Event::Segment { rung: self.iframes_index }, &segment);
        Ok(())
    }

    /// Sends the collected groups as a segment.
    fn cut(&mut self) -> Result<()> {
        let pictures: Vec<_> = self
            .pictures
            .iter()
            .map(|(bytes, shown_after, sync)| Picture {
                bytes: bytes.as_slice(),
                shown_after: *shown_after,
                sync: *sync,
            })
            .collect();
        let decode_time = self.done * u64::from(self.clock.1);
        let segment = encode_video_segment(self.segments + 1, decode_time, self.clock.1, &pictures);
        self.done += pictures.len() as u64;
        self.segments += 1;
        self.pictures.clear();
        self.pipe.send(&Event::Segment { rung: self.index }, &segment);
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.end_group(self.frames)?;
        if self.index == 0 {
            self.end_iframe(self.frames)?;
        }
        if !self.pictures.is_empty() {
            self.cut()?;
        }
        let Some(header) = &mut self.header else { return Ok(()) };
        header.ticks = self.done * u64::from(self.clock.1);
        self.pipe.send(&Event::Init { rung: self.index }, &header.encode());
        if self.index == 0 {
            self.pipe.send(&Event::Init { rung: self.iframes_index }, &header.encode());
        }
        Ok(())
    }
}
