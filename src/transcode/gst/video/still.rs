//! The poster: one picture of the film as JPEG. Not the first, which is often black: of the first pictures of groups in
//! the first half minute the one with the most contrast.

use gst::prelude::*;

use super::film::turning;
use crate::base::{Error, Result};
use crate::transcode::gst::registry::make;
use crate::transcode::video::plan::Film;

/// How far into the film it is looked for.
const SEARCH_NS: u64 = 30_000_000_000;
/// JPEG quality of 100.
const QUALITY: i32 = 82;
/// Every so manieth pixel counts.
const STEP: usize = 61;

/// The best picture so far.
#[derive(Default)]
pub(super) struct Candidates {
    best: Option<(u64, gst::Buffer)>,
}

impl Candidates {
    /// Looks at a picture that is shown at `at_ns`.
    pub(super) fn offer(&mut self, picture: &gst::Buffer, caps: Option<&gst::Caps>, at_ns: u64) {
        if at_ns > SEARCH_NS && self.best.is_some() {
            return;
        }
        let side = |name| caps.and_then(|caps| caps.structure(0)?.get::<i32>(name).ok()).unwrap_or(0).max(0) as usize;
        let Ok(map) = picture.map_readable() else { return };
        // I420 begins with the brightness; what pads its rows, if anything, is a small and constant part.
        let brightness = map.get(..side("width") * side("height")).unwrap_or(&map);
        let contrast = contrast(brightness);
        if self.best.as_ref().is_none_or(|(most, _)| contrast > *most) {
            self.best = Some((contrast, picture.clone()));
        }
    }

    /// The best of all.
    pub(super) fn best(self) -> Option<gst::Buffer> {
        self.best.map(|(_, picture)| picture)
    }
}

/// Variance of the brightness, in integers: the same on every machine.
fn contrast(brightness: &[u8]) -> u64 {
    let samples = || brightness.iter().step_by(STEP).map(|byte| u64::from(*byte));
    let count = samples().count().max(1) as u64;
    let (sum, squares) = samples().fold((0, 0), |(sum, squares), x| (sum + x, squares + x * x));
    squares / count - (sum / count).pow(2).min(squares / count)
}

/// Encodes one picture of the decoder as an upright JPEG of the planned size.
pub(super) fn encode(film: &Film, picture: gst::Buffer, caps: &gst::Caps) -> Result<Vec<u8>> {
    let source = gst_app::AppSrc::builder().caps(caps).format(gst::Format::Time).build();
    let sink = gst_app::AppSink::builder().sync(false).enable_last_sample(false).max_buffers(1).build();
    let (scale, convert, filter, jpeg) =
        (make("videoscale")?, make("videoconvert")?, make("capsfilter")?, make("jpegenc")?);
    scale.set_property_from_str("method", "lanczos");
    scale.set_property("add-borders", false);
    let wanted = gst::Caps::builder("video/x-raw")
        .field("format", "I420")
        .field("width", film.poster.0 as i32)
        .field("height", film.poster.1 as i32)
        .field("pixel-aspect-ratio", gst::Fraction::new(1, 1))
        // JFIF: full range, and the matrix of BT.601
        .field("colorimetry", "1:4:0:0")
        .build();
    filter.set_property("caps", wanted);
    jpeg.set_property("quality", QUALITY);
    let pipeline = gst::Pipeline::new();
    let mut chain: Vec<gst::Element> = vec![source.clone().upcast()];
    chain.extend(turning(film.turn)?);
    chain.extend([scale, convert, filter, jpeg, sink.clone().upcast()]);
    let linked = pipeline.add_many(&chain).and_then(|()| gst::Element::link_many(&chain));
    linked.map_err(|cause| Error::internal("the poster cannot be wired").because(cause))?;
    let mut picture = picture.copy();
    picture.make_mut().set_pts(gst::ClockTime::ZERO);
    let started = pipeline.set_state(gst::State::Playing).is_ok();
    let pushed = started && source.push_buffer(picture).is_ok() && source.end_of_stream().is_ok();
    let sample = if pushed { sink.try_pull_sample(gst::ClockTime::from_seconds(20)) } else { None };
    let failed = super::fault(&pipeline);
    let _ = pipeline.set_state(gst::State::Null); // nothing left to do if it fails
    let bytes = sample.as_ref().and_then(|sample| Some(sample.buffer()?.map_readable().ok()?.to_vec()));
    match bytes {
        Some(bytes) => Ok(bytes),
        None => failed.and(Err(Error::internal("the poster could not be encoded"))),
    }
}

#[cfg(test)]
mod tests {
    use super::contrast;

    #[test]
    fn a_black_picture_has_no_contrast_and_a_varied_one_has() {
        assert_eq!((contrast(&[]), contrast(&[16; 1000])), (0, 0));
        let varied: Vec<u8> = (0..61_000u32).map(|at| (at / 61 % 256) as u8).collect();
        assert!(contrast(&varied) > 4_000);
    }
}
