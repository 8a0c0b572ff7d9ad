//! MP3: the Xing/Info header says how many frames there are, its LAME extension how many samples the
//! encoder put before and after. GStreamer 1.22 plays those; we leave them out, as ffmpeg does.

use super::{Declared, Look, Sniffed, Trim};
use crate::base::Result;

/// Samples a layer 3 decoder is behind its input.
const DECODER_DELAY: u64 = 529;
/// Tags in front of the audio: some programs write two.
const TAGS_MAX: usize = 8;

/// Where the audio begins: after any ID3v2 tags, whose pictures may have 20 MB.
pub(super) fn after_id3(look: &Look<'_>) -> Result<u64> {
    let mut at = 0;
    for _ in 0..TAGS_MAX {
        let Some([b'I', b'D', b'3', _, _, flags, a, b, c, d]) = look.array::<10>(at)? else { break };
        let size = [a, b, c, d].iter().fold(0u64, |sum, byte| sum << 7 | u64::from(byte & 0x7f));
        at += 10 + size + if flags & 0x10 != 0 { 10 } else { 0 };
    }
    Ok(at)
}

/// A frame header (ISO 11172-3 §2.4.2.3), as far as it matters here.
struct Frame {
    rate: u32,
    samples: u64,
    /// Offset of the Xing header in the frame.
    side_info: usize,
}

pub(super) fn mp3(look: &Look<'_>, at: u64) -> Result<Sniffed> {
    let bytes = look.at(at, 4096)?;
    let first = (0..bytes.len().saturating_sub(4)).find_map(|i| frame(&bytes[i..]).map(|f| (f, &bytes[i..])));
    let Some((frame, bytes)) = first else { return Ok(Sniffed::default()) };
    Ok(xing(&frame, bytes).or_else(|| vbri(&frame, bytes)).unwrap_or_default())
}

fn frame(bytes: &[u8]) -> Option<Frame> {
    let [0xff, b, c, d] = *bytes.first_chunk::<4>()? else { return None };
    if b & 0xe0 != 0xe0 || c >> 4 == 15 || c >> 4 == 0 {
        return None;
    }
    let (version, layer) = (b >> 3 & 3, b >> 1 & 3);
    if layer != 1 || version == 1 {
        return None; // only layer 3 carries these headers
    }
    let base = [44_100, 48_000, 32_000].get(usize::from(c >> 2 & 3))?;
    let mono = d >> 6 == 3;
    let (rate, samples, side_info) = match (version, mono) {
        (3, false) => (*base, 1152, 36),
        (3, true) => (*base, 1152, 21),
        (v, false) => (base / if v == 2 { 2 } else { 4 }, 576, 21),
        (v, true) => (base / if v == 2 { 2 } else { 4 }, 576, 13),
    };
    Some(Frame { rate, samples, side_info })
}

fn xing(frame: &Frame, bytes: &[u8]) -> Option<Sniffed> {
    let tag = bytes.get(frame.side_info..)?;
    if !tag.starts_with(b"Xing") && !tag.starts_with(b"Info") {
        return None;
    }
    let flags = u32::from_be_bytes(tag.get(4..8)?.try_into().ok()?);
    let frames = match flags & 1 {
        0 => return None,
        _ => u64::from(u32::from_be_bytes(tag.get(8..12)?.try_into().ok()?)),
    };
    let present = |bit: u32, bytes: usize| if flags & bit != 0 { bytes } else { 0 };
    let lame = tag.get(8 + present(1, 4) + present(2, 4) + present(4, 100) + present(8, 4)..)?;
    let total = frames * frame.samples;
    // The three encoders whose fields ffmpeg believes, too.
    let known = [b"LAME", b"Lavf", b"Lavc"].iter().any(|name| lame.starts_with(*name));
    let gaps =
        lame.get(21..24).filter(|_| known).map(|g| u64::from(g[0]) << 16 | u64::from(g[1]) << 8 | u64::from(g[2]));
    let Some((delay, padding)) = gaps.map(|g| (g >> 12, g & 0xfff)) else {
        return Some(declare(total, frame, None));
    };
    let samples = total.checked_sub(delay + padding).filter(|n| *n > 0)?;
    let trim = Trim { start: delay + DECODER_DELAY, length: Some(samples), rate: frame.rate };
    Some(declare(samples, frame, Some(trim)))
}

/// Fraunhofer's header, always 32 bytes behind the frame header.
fn vbri(frame: &Frame, bytes: &[u8]) -> Option<Sniffed> {
    let tag = bytes.get(36..)?;
    if !tag.starts_with(b"VBRI") {
        return None;
    }
    let frames = u32::from_be_bytes(tag.get(14..18)?.try_into().ok()?);
    Some(declare(u64::from(frames) * frame.samples, frame, None))
}

fn declare(samples: u64, frame: &Frame, trim: Option<Trim>) -> Sniffed {
    // Two frames: encoders disagree whether the header's own frame counts, and a decoder may swallow
    // the first one, whose data lies in a frame that is not there.
    let declared = (samples > 0).then_some(Declared { samples, rate: frame.rate, tolerance: 2 * frame.samples });
    Sniffed { declared, trim, ..Sniffed::default() }
}
