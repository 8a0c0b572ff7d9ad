//! Encodes every other slice of an AAC rung, so that one rung has two cores (`join`). In: PCM at the rung's rate, all
//! of it, in order, or what of it lies in this lane's slices. Out: frames of these, to the joiner.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use gst::prelude::*;

use super::feed::Feed;
use super::join::{End, Joiner};
use super::{rung, stamp};
use crate::base::{Error, Kind, Result};
use crate::transcode::plan::RungPlan;

/// Lanes of a rung. Not as many as there are cores: the bytes must not depend on the machine.
pub(super) const LANES: usize = 2;
/// PCM that a slice's encoder may have before it, in seconds.
const AHEAD_S: u64 = 1;

/// Which of a rung's slices, and where their frames go.
#[derive(Clone)]
pub(super) struct Lane {
    /// 0 … `LANES` - 1.
    pub(super) number: usize,
    pub(super) joiner: Joiner,
}

/// A lane at work.
struct Worker {
    lane: Lane,
    plan: RungPlan,
    frame_bytes: usize,
    /// The slice that comes next, or is being encoded.
    slice: usize,
    encoder: Option<Encoder>,
    /// Set when the pipeline around it is being stopped.
    stop: Arc<AtomicBool>,
}

impl Lane {
    /// Whether some of these samples lie in the lane's slice `slice`, or in one behind it, which `slice` becomes.
    pub(super) fn wants(&self, slice: &mut usize, (from, to): (u64, u64)) -> bool {
        while self.joiner.samples(*slice).1 <= from {
            *slice += LANES;
        }
        self.joiner.samples(*slice).0 < to
    }

    /// The element that takes the PCM. `stop` makes it let go.
    pub(super) fn element(&self, plan: &RungPlan, stop: &Arc<AtomicBool>) -> gst::Element {
        let worker = Worker {
            lane: self.clone(),
            plan: plan.clone(),
            frame_bytes: 4 * plan.channels as usize,
            slice: self.number,
            encoder: None,
            stop: Arc::clone(stop),
        };
        let of_sample = Arc::new(Mutex::new(worker));
        let of_end = Arc::clone(&of_sample);
        let sink =
            gst_app::AppSink::builder().sync(false).async_(false).enable_last_sample(false).max_buffers(4).build();
        let callbacks = gst_app::AppSinkCallbacks::builder()
            .new_sample(move |sink| {
                let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
                let taken = of_sample.lock().expect("no panic while locked").take(&sample);
                rung::report(sink, taken).map(|()| gst::FlowSuccess::Ok)
            })
            .eos(move |sink| {
                let _ = rung::report(sink, of_end.lock().expect("no panic while locked").end(End::OfSource));
            });
        sink.set_callbacks(callbacks.build());
        sink.upcast()
    }
}

impl Worker {
    fn take(&mut self, sample: &gst::Sample) -> Result<()> {
        let buffer = sample.buffer().ok_or_else(|| Error::internal("a resampler gave a sample without bytes"))?;
        let frames = (buffer.size() / self.frame_bytes) as u64;
        // By its time: blocks between this lane's slices are left out.
        let begins = buffer.pts().and_then(|at| at.nseconds().mul_div_round(u64::from(self.plan.rate), 1_000_000_000));
        let begins = begins.ok_or_else(|| Error::internal("a resampler gave samples without their time"))?;
        let mut at = 0;
        while at < frames {
            let (from, to) = self.lane.joiner.samples(self.slice);
            let position = begins + at;
            if position < from {
                at += (from - position).min(frames - at); // another lane's
                continue;
            }
            let count = (to - position).min(frames - at);
            let bytes = at as usize * self.frame_bytes..(at + count) as usize * self.frame_bytes;
            let part = buffer.copy_region(gst::BufferCopyFlags::MEMORY, bytes);
            let part = part.map_err(|_| Error::internal("a block of samples cannot be cut"))?;
            let part = stamp(part, position - from, count, self.plan.rate);
            self.encoder(sample)?.push(part)?;
            at += count;
            if position + count == to {
                self.end(End::OfSlice)?;
                self.slice += LANES;
            }
        }
        Ok(())
    }

    /// The current slice's encoder, begun when it is time.
    fn encoder(&mut self, sample: &gst::Sample) -> Result<&mut Encoder> {
        if self.encoder.is_none() {
            while !self.lane.joiner.may_begin(self.slice) {
                stopped(&self.stop)?;
            }
            let caps = sample.caps_owned().ok_or_else(|| Error::internal("samples without caps"))?;
            self.encoder = Some(Encoder::start(&self.lane, self.slice, &self.plan, &caps, &self.stop)?);
        }
        Ok(self.encoder.as_mut().expect("it was just begun"))
    }

    fn end(&mut self, end: End) -> Result<()> {
        let Some(encoder) = self.encoder.take() else { return Ok(()) };
        encoder.finish()?;
        self.lane.joiner.ended(self.slice, end)
    }
}

/// The encoder of one slice. Dropping it stops it.
struct Encoder {
    pipeline: gst::Pipeline,
    source: Feed,
    stop: Arc<AtomicBool>,
}

impl Encoder {
    fn start(lane: &Lane, slice: usize, plan: &RungPlan, caps: &gst::Caps, stop: &Arc<AtomicBool>) -> Result<Encoder> {
        let frame_bytes = 4 * u64::from(plan.channels);
        let source = Feed::new(caps, u64::from(plan.rate) * frame_bytes * AHEAD_S);
        let joiner = lane.joiner.clone();
        let chain = rung::encoder(plan, rung::sink(move |sample| joiner.take(slice, sample), || Ok(())))?;
        let pipeline = gst::Pipeline::new();
        let wired = pipeline.add(source.element()).and_then(|()| pipeline.add_many(&chain)).and_then(|()| {
            gst::Element::link_many(&chain)?;
            source.element().link(&chain[0])
        });
        wired.map_err(|cause| Error::internal("a slice's encoder cannot be wired").because(cause))?;
        let encoder = Encoder { pipeline, source, stop: Arc::clone(stop) };
        match encoder.pipeline.set_state(gst::State::Playing) {
            Ok(_) => Ok(encoder),
            Err(_) => encoder.fault(0).and(Err(Error::internal("a slice's encoder does not start"))),
        }
    }

    /// Waits while it is behind.
    fn push(&self, buffer: gst::Buffer) -> Result<()> {
        while self.source.is_full() {
            self.fault(0)?;
            stopped(&self.stop)?;
            self.source.wait();
        }
        match self.source.element().push_buffer(buffer) {
            Ok(_) => Ok(()),
            Err(flow) => self.fault(0).and(Err(Error::internal(format!("an encoder takes no more ({flow})")))),
        }
    }

    /// Waits for the last frame.
    fn finish(self) -> Result<()> {
        let _ = self.source.element().end_of_stream(); // a failure is on the bus
        while !self.fault(20)? {
            stopped(&self.stop)?;
        }
        Ok(())
    }

    /// Raises an error from the bus, for which it waits so long; true when all is done.
    fn fault(&self, wait_ms: u64) -> Result<bool> {
        let bus = self.pipeline.bus().expect("a pipeline has a bus");
        let wanted = [gst::MessageType::Eos, gst::MessageType::Error];
        match bus.timed_pop_filtered(gst::ClockTime::from_mseconds(wait_ms), &wanted) {
            None => Ok(false),
            Some(message) => super::encode::judge(&message).map(|()| true),
        }
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null); // nothing left to do if it fails
    }
}

fn stopped(stop: &AtomicBool) -> Result<()> {
    match stop.load(Ordering::Relaxed) {
        true => Err(Error::new(Kind::Cancelled, "stopped")),
        false => Ok(()),
    }
}
