//! MP3: the Xing/Info header says how many frames there are, its LAME extension how many samples the
//! encoder put before and after. GStreamer 1.22 plays those; we leave them out, as ffmpeg does.
//! ADTS, AAC frames without a container, has no such header; only that its last frame is whole can be told.

use super::frames::{self, Kind};
use super::{Declared, Look, Sniffed, Stream, Trim, Walk, cut};
use crate::base::{Error, Result};

/// Samples a layer 3 decoder is behind its input.
const DECODER_DELAY: u64 = 529;
/// Tags in front of the audio: some programs write two.
const TAGS_MAX: usize = 8;

/// Where the audio begins: after any ID3v2 tags, whose pictures may have 20 MB.
pub(super) fn after_id3(look: &Look<'_>) -> Result<u64> {
    let mut at = 0;
    for _ in 0..=TAGS_MAX {
        let Some([b'I', b'D', b'3', _, _, flags, a, b, c, d]) = look.array::<10>(at)? else { return Ok(at) };
        let size = [a, b, c, d].iter().fold(0u64, |sum, byte| sum << 7 | u64::from(byte & 0x7f));
        at += 10 + size + if flags & 0x10 != 0 { 10 } else { 0 };
    }
    Err(Error::invalid(format!(
        "it begins with more than {TAGS_MAX} ID3 tags, one after the other; remove them, or export it again"
    )))
}

/// What stays the same in a stream: synchronisation, version, layer, sample rate.
const MPEG: Kind = Kind { header: 4, same: 0xfffe_0c00, length: |head| frame(head).map(|frame| frame.length) };
/// Synchronisation to channel configuration (ISO 13818-7 §6.2.1), without the private bit.
const ADTS: Kind = Kind { header: 7, same: 0xffff_fdc0, length: adts_length };

/// Samples per second by index (ISO 14496-3 table 1.18); of what SBR makes of them, half.
const ADTS_RATES: [u32; 13] =
    [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350];
/// Samples in a frame at that rate.
const ADTS_SAMPLES: u64 = 1024;

/// A frame header of any layer (ISO 11172-3 §2.4.2.3), as far as it matters here.
struct Frame {
    rate: u32,
    samples: u64,
    /// Bytes, header included.
    length: u64,
    /// Offset of the Xing header in the frame.
    side_info: usize,
}

/// Layers I and II have no Xing header; nothing lies so far behind.
const NO_SIDE_INFO: usize = usize::MAX;

/// What a header in the first frame says of the whole stream.
struct Summary {
    sniffed: Sniffed,
    /// Frames after the header's own.
    frames: u64,
    /// Bytes from the header's own frame to the end of the last one; 0 when it does not say.
    bytes: u64,
    /// Frames there must be, the header's own included where it is known not to count.
    frames_min: u64,
}

/// Whether AAC frames begin here.
pub(super) fn is_adts(head: &[u8]) -> bool {
    head.first_chunk().is_some_and(|[a, b]| *a == 0xff && b & 0xf6 == 0xf0) && adts_length(head).is_some()
}

pub(super) fn adts(look: &Look<'_>, at: u64) -> Result<Sniffed> {
    frames::refuse_cut(look, &ADTS, at)?;
    let walk = Walk { stream: Stream::Adts, first: at, frames_min: 1 };
    let rate = look.array::<7>(at)?.and_then(|head| ADTS_RATES.get(usize::from(head[2] >> 2 & 15)).copied());
    let lossy = rate.map(|rate| lossy(look, &ADTS, at, (ADTS_SAMPLES, rate))).transpose()?.unwrap_or_default();
    Ok(Sniffed { walk: Some(walk), ..lossy })
}

/// Bit rate and likely length of a stream of frames, each of so many samples at a rate, by those at its ends.
fn lossy(look: &Look<'_>, kind: &Kind, first: u64, (samples, rate): (u64, u32)) -> Result<Sniffed> {
    let (bytes, frames) = frames::weigh(look, kind, first)?;
    let lossy_bps = super::bps(bytes, frames * samples, rate).filter(|bps| *bps > 0);
    let estimate = lossy_bps.and_then(|bps| super::by_rate(look.bytes - first, bps, rate));
    Ok(Sniffed { lossy_bps, estimate, ..Sniffed::default() })
}

/// Refuses a stream with holes.
pub(super) fn walk(look: &Look<'_>, walk: &Walk) -> Result<()> {
    let kind = match walk.stream {
        Stream::Mpeg => &MPEG,
        Stream::Adts => &ADTS,
    };
    frames::refuse_holes(look, kind, walk.first, walk.frames_min)
}

pub(super) fn mp3(look: &Look<'_>, at: u64) -> Result<Sniffed> {
    let bytes = look.at(at, 4096)?;
    let Some((from, frame)) = first_frame(&bytes) else { return Ok(Sniffed::default()) };
    let (first, bytes) = (at + from as u64, &bytes[from..]);
    match xing(&frame, bytes).or_else(|| vbri(&frame, bytes)) {
        Some(summary) => {
            refuse_short(look, &summary, first)?;
            let bytes = if summary.bytes > 0 { summary.bytes } else { look.bytes - first };
            let lossy_bps = super::bps(bytes, summary.frames * frame.samples, frame.rate);
            let walk = Some(Walk { stream: Stream::Mpeg, first, frames_min: summary.frames_min });
            Ok(Sniffed { lossy_bps, walk, ..summary.sniffed })
        }
        None => {
            frames::refuse_cut(look, &MPEG, first)?;
            let walk = Some(Walk { stream: Stream::Mpeg, first, frames_min: 1 });
            Ok(Sniffed { walk, ..lossy(look, &MPEG, first, (frame.samples, frame.rate))? })
        }
    }
}

/// The first frame that another one follows, as far as that can be seen.
fn first_frame(bytes: &[u8]) -> Option<(usize, Frame)> {
    (0..bytes.len().saturating_sub(4)).find_map(|at| {
        let found = frame(&bytes[at..])?;
        let next = bytes.get(at + found.length as usize..).unwrap_or_default();
        (next.len() < 4 || frame(next).is_some()).then_some((at, found))
    })
}

/// Refuses a file that ends before its header says. Some programs count tags as audio, and tags come and
/// go; so the frames are counted before a file is called short.
fn refuse_short(look: &Look<'_>, summary: &Summary, first: u64) -> Result<()> {
    let whole = first + summary.bytes;
    if whole <= look.bytes && summary.bytes > 0 {
        return Ok(());
    }
    if summary.bytes == 0 {
        return frames::refuse_cut(look, &MPEG, first);
    }
    let found = frames::follow(look, &MPEG, first, first)?;
    if found.lacking > 0 || found.frames <= summary.frames {
        return Err(cut(whole - look.bytes, whole));
    }
    Ok(())
}

/// Length of an ADTS frame (ISO 13818-7 §6.2.2).
fn adts_length(head: &[u8]) -> Option<u64> {
    let head: &[u8; 7] = head.first_chunk()?;
    let length = u64::from(head[3] & 3) << 11 | u64::from(head[4]) << 3 | u64::from(head[5] >> 5);
    (head[2] >> 2 & 15 < 13 && length > 7).then_some(length)
}

fn frame(bytes: &[u8]) -> Option<Frame> {
    let [0xff, b, c, d] = *bytes.first_chunk::<4>()? else { return None };
    if b & 0xe0 != 0xe0 || c >> 4 == 15 || c >> 4 == 0 {
        return None;
    }
    // Version 3 is MPEG-1; layer 1 is layer III, 3 is layer I.
    let (version, layer) = (b >> 3 & 3, b >> 1 & 3);
    if layer == 0 || version == 1 {
        return None;
    }
    let base = [44_100, 48_000, 32_000].get(usize::from(c >> 2 & 3))?;
    let rate = base / [4, 1, 2, 1][usize::from(version)];
    let mono = d >> 6 == 3;
    let (samples, side_info) = match (layer, version, mono) {
        (1, 3, false) => (1152, 36),
        (1, 3, true) | (1, _, false) => (if version == 3 { 1152 } else { 576 }, 21),
        (1, _, true) => (576, 13),
        (2, ..) => (1152, NO_SIDE_INFO),
        _ => (384, NO_SIDE_INFO),
    };
    const KBPS: [[u64; 14]; 5] = [
        [32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320],
        [32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384],
        [32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448],
        [8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
        [32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256],
    ];
    let table = match (version, layer) {
        (3, layer) => usize::from(layer) - 1,
        (_, 3) => 4,
        _ => 3,
    };
    let bps = KBPS[table][usize::from(c >> 4) - 1] * 1000;
    let padding = u64::from(c >> 1 & 1);
    let length = match layer {
        3 => (12 * bps / u64::from(rate) + padding) * 4,
        _ => samples / 8 * bps / u64::from(rate) + padding,
    };
    Some(Frame { rate, samples, length, side_info })
}

fn xing(frame: &Frame, bytes: &[u8]) -> Option<Summary> {
    let tag = bytes.get(frame.side_info..)?;
    if !tag.starts_with(b"Xing") && !tag.starts_with(b"Info") {
        return None;
    }
    let flags = u32::from_be_bytes(tag.get(4..8)?.try_into().ok()?);
    let frames = match flags & 1 {
        0 => return None,
        _ => word(tag, 8)?,
    };
    let present = |bit: u32, bytes: usize| if flags & bit != 0 { bytes } else { 0 };
    let bytes = if flags & 2 != 0 { word(tag, 12)? } else { 0 };
    let summary = |sniffed, frames_min| Some(Summary { sniffed, frames, bytes, frames_min });
    let lame = tag.get(8 + present(1, 4) + present(2, 4) + present(4, 100) + present(8, 4)..)?;
    let total = frames * frame.samples;
    // The three encoders whose fields ffmpeg believes, too.
    let known = [b"LAME", b"Lavf", b"Lavc"].iter().any(|name| lame.starts_with(*name));
    let gaps =
        lame.get(21..24).filter(|_| known).map(|g| u64::from(g[0]) << 16 | u64::from(g[1]) << 8 | u64::from(g[2]));
    let Some((delay, padding)) = gaps.map(|g| (g >> 12, g & 0xfff)) else {
        return summary(declare(total, frame, None), frames);
    };
    let samples = total.checked_sub(delay + padding).filter(|n| *n > 0)?;
    let trim = Trim { start: delay + DECODER_DELAY, length: Some(samples), rate: frame.rate };
    let whole = Some(Declared { samples: total, rate: frame.rate, tolerance: 0 });
    summary(Sniffed { whole, ..declare(samples, frame, Some(trim)) }, frames + 1)
}

/// Fraunhofer's header, always 32 bytes behind the frame header.
fn vbri(frame: &Frame, bytes: &[u8]) -> Option<Summary> {
    let tag = bytes.get(36..)?;
    if !tag.starts_with(b"VBRI") {
        return None;
    }
    let (bytes, frames) = (word(tag, 10)?, word(tag, 14)?);
    Some(Summary { sniffed: declare(frames * frame.samples, frame, None), frames, bytes, frames_min: frames })
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 4)?.try_into().ok().map(|word| u64::from(u32::from_be_bytes(word)))
}

fn declare(samples: u64, frame: &Frame, trim: Option<Trim>) -> Sniffed {
    // Two frames: encoders disagree whether the header's own frame counts, and a decoder may swallow
    // the first one, whose data lies in a frame that is not there.
    let declared = (samples > 0).then_some(Declared { samples, rate: frame.rate, tolerance: 2 * frame.samples });
    Sniffed { declared, trim, ..Sniffed::default() }
}
