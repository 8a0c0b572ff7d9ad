//! Samples that lie in the input as they are (`plan::Linear`): read, not decoded. In: bytes of an open file. Out: samples
//! in one of the decoder's four layouts. No thread and no pipeline: a pass over a WAV costs what reading it costs.

use std::sync::atomic::AtomicBool;

use super::decode::Pull;
use super::source::{Input, Waited};
use crate::base::{Error, Result};
use crate::transcode::plan::Linear;

/// Such an input, and how far it is read.
pub(super) struct Plain {
    input: Input,
    /// As it lies there.
    original: gst_audio::AudioInfo,
    caps: gst::Caps,
    /// Bytes of a frame there.
    frame: usize,
    /// Offset of the next frame.
    at: u64,
}

impl Plain {
    /// Whether such samples are read here. The few others are converted by GStreamer.
    pub(super) fn reads(linear: &Linear) -> bool {
        formats(linear).is_some()
    }

    pub(super) fn start(input: Input, linear: &Linear) -> Result<Plain> {
        let unknown = || Error::internal(format!("samples of layout {} are not read", linear.layout));
        let (original, given) = formats(linear).ok_or_else(unknown)?;
        let described = |format| {
            let info = gst_audio::AudioInfo::builder(format, linear.rate, linear.channels).build();
            info.map_err(|cause| Error::internal("samples cannot be described").because(cause))
        };
        let (original, given) = (described(original)?, described(given)?);
        let caps = given.to_caps().map_err(|cause| Error::internal("samples cannot be described").because(cause))?;
        let (frame, at) = (original.bpf() as usize, input.first);
        Ok(Plain { input, original, caps, frame, at })
    }

    pub(super) fn original(&self) -> &gst_audio::AudioInfo {
        &self.original
    }

    /// The next block; waits until it is there, or until `stop`.
    pub(super) fn pull(&mut self, stop: &AtomicBool) -> Result<Pull> {
        let left = self.input.bytes.saturating_sub(self.at) / self.frame as u64;
        let frames = left.min(super::BLOCK as u64) as usize;
        if frames == 0 {
            return Ok(Pull::End);
        }
        let failed = |cause: std::io::Error| Error::internal("the source cannot be read").because(cause);
        let mut bytes = vec![0; frames * self.frame];
        if let Waited::Stopped = self.input.wait(self.at, bytes.len() as u64, stop).map_err(failed)? {
            return Ok(Pull::Idle);
        }
        let read = self.input.read(self.at, &mut bytes).map_err(failed)?;
        // A file that became shorter ends here; what was promised is compared afterwards.
        bytes.truncate(read / self.frame * self.frame);
        if bytes.is_empty() {
            return Ok(Pull::End);
        }
        self.at += bytes.len() as u64;
        if self.original.format() == gst_audio::AudioFormat::S24le {
            bytes = widened(&bytes);
        }
        let buffer = gst::Buffer::from_mut_slice(bytes);
        Ok(Pull::Samples(gst::Sample::builder().buffer(&buffer).caps(&self.caps).build()))
    }
}

/// What lies there, and what is made of it.
fn formats(linear: &Linear) -> Option<(gst_audio::AudioFormat, gst_audio::AudioFormat)> {
    use gst_audio::AudioFormat as Is;
    Some(match linear.layout.as_str() {
        "s16le" => (Is::S16le, Is::S16le),
        "s24le" => (Is::S24le, Is::S2432le),
        "s32le" => (Is::S32le, Is::S32le),
        "f32le" => (Is::F32le, Is::F32le),
        _ => return None,
    })
}

/// 24 bits in three bytes as 24 bits in four.
fn widened(bytes: &[u8]) -> Vec<u8> {
    let words = bytes.as_chunks::<3>().0.iter();
    words.flat_map(|[low, middle, high]| (i32::from_le_bytes([0, *low, *middle, *high]) >> 8).to_le_bytes()).collect()
}
