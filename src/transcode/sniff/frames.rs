//! Streams of frames without a container (MP3, ADTS). In: the first frame. Out: how many frames follow each
//! other, and whether the last one is whole. A frame's own header says how long it is, so a file that ends
//! within one was cut.

use super::Look;
use crate::base::{Error, Result};

/// How the frames of one kind of stream begin.
pub(super) struct Kind {
    /// Bytes of a header that say how long the frame is.
    pub(super) header: usize,
    /// Bits of the first four bytes that stay the same in all frames of a stream.
    pub(super) same: u32,
    /// Length of the frame that begins here, header included.
    pub(super) length: fn(&[u8]) -> Option<u64>,
}

/// What was found between a place and the end of the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Followed {
    /// Whole frames.
    pub(super) frames: u64,
    /// Bytes that the last frame lacks, at least; 0 when the file ends with a whole frame or with no frame.
    pub(super) lacking: u64,
}

/// Where the end of a stream is followed from, in bytes before the end of the file. A frame has at most
/// 8191 (ADTS), and three in a row are needed to fall into step.
const TAIL: u64 = 1 << 16;
/// Bytes read at a time.
const BLOCK: usize = 1 << 16;

/// Refuses a file whose last frame is cut. `first` is the place of the first frame. Accepted with junk or
/// zeros behind the last frame, and whatever ends in a tag: tags are written last, so the upload was whole.
pub(super) fn refuse_cut(look: &Look<'_>, kind: &Kind, first: u64) -> Result<()> {
    let from = first.max(look.bytes.saturating_sub(TAIL));
    let Followed { lacking, .. } = follow(look, kind, first, from)?;
    if lacking == 0 || ends_in_tag(look)? {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "truncated: its last frame lacks at least {lacking} bytes; upload the whole file, or export it again"
    )))
}

/// Follows the frames from `from` to the end of the file, as the frame at `first` begins. Falls into step by
/// itself: at two frames in a row.
pub(super) fn follow(look: &Look<'_>, kind: &Kind, first: u64, from: u64) -> Result<Followed> {
    let pattern = word(&look.at(first, 4)?);
    let mut window = Window { look, start: 0, bytes: Vec::new() };
    let (mut at, mut in_step, mut frames) = (from, false, 0);
    while at < look.bytes {
        let head = window.at(at, kind.header)?;
        let left = head.len();
        if left < kind.header {
            // The beginning of one more frame, or junk.
            let lacking = if in_step && kind.begins(head, pattern) { kind.header - left } else { 0 };
            return Ok(Followed { frames, lacking: lacking as u64 });
        }
        let next = kind.length_of(head, pattern).map(|length| at + length);
        match next {
            Some(next) if next > look.bytes && in_step => {
                return Ok(Followed { frames, lacking: next - look.bytes });
            }
            Some(next) if in_step || next == look.bytes || kind.continues(window.at(next, kind.header)?, pattern) => {
                (at, in_step, frames) = (next, true, frames + 1);
            }
            _ => (at, in_step) = (at + 1, false),
        }
    }
    Ok(Followed { frames, lacking: 0 })
}

/// Bytes at the start of a stream whose frames are weighed, beside those at its end.
const HEAD: u64 = 1 << 18;

/// Bytes and number of the frames at the start and the end of a stream: what the others are like.
pub(super) fn weigh(look: &Look<'_>, kind: &Kind, first: u64) -> Result<(u64, u64)> {
    let pattern = word(&look.at(first, 4)?);
    let mut window = Window { look, start: 0, bytes: Vec::new() };
    let tail = first.max(look.bytes.saturating_sub(TAIL));
    let (mut bytes, mut frames) = (0, 0);
    for (from, until) in [(first, tail.min(first + HEAD)), (tail, look.bytes)] {
        let mut at = if from < until { resume(&mut window, kind, pattern, from)?.unwrap_or(until) } else { until };
        while at < until {
            let Some(length) = kind.length_of(window.at(at, kind.header)?, pattern) else { break };
            (bytes, frames, at) = (bytes + length, frames + 1, at + length);
        }
    }
    Ok((bytes, frames))
}

/// Junk and zeros accepted behind the last frame, in bytes: what programs pad with. Half a second at 128 kbit/s.
pub(super) const JUNK_BYTES_MAX: u64 = 8 << 10;

/// Follows every frame and refuses a hole: bytes between two frames that are neither a frame nor a tag, more than
/// `JUNK_BYTES_MAX` of them at the end, or fewer frames than `frames_min`.
pub(super) fn refuse_holes(look: &Look<'_>, kind: &Kind, first: u64, frames_min: u64) -> Result<()> {
    let pattern = word(&look.at(first, 4)?);
    let mut window = Window { look, start: 0, bytes: Vec::new() };
    let (mut at, mut frames) = (first, 0);
    while at < look.bytes {
        match kind.length_of(window.at(at, kind.header)?, pattern) {
            // A last frame that is cut has been judged by `refuse_cut`.
            Some(length) if at + length > look.bytes => break,
            Some(length) => {
                (at, frames) = (at + length, frames + 1);
                continue;
            }
            None => (),
        }
        let behind = after_tags(look, at)?;
        let next = resume(&mut window, kind, pattern, behind)?;
        let hole = next.unwrap_or(before_tags(look)?).saturating_sub(behind);
        match next {
            Some(_) if hole > 0 => return Err(damaged(behind, hole, "in the middle of it")),
            None if hole > JUNK_BYTES_MAX => return Err(damaged(behind, hole, "behind its last frame")),
            Some(next) => at = next,
            None => break,
        }
    }
    match frames < frames_min {
        true => Err(Error::invalid(format!(
            "truncated or damaged: its header promises {frames_min} frames, only {frames} are there; upload the file again"
        ))),
        false => Ok(()),
    }
}

fn damaged(at: u64, bytes: u64, place: &str) -> Error {
    Error::invalid(format!(
        "damaged: {bytes} bytes at byte {at}, {place}, are neither audio nor a tag; upload the file again, or export it again"
    ))
}

/// The first frame from `from` on that another one or the end of the file follows.
fn resume(window: &mut Window<'_, '_>, kind: &Kind, pattern: u32, from: u64) -> Result<Option<u64>> {
    let bytes = window.look.bytes;
    for at in from..bytes {
        let head = window.at(at, kind.header)?;
        if head.len() < kind.header {
            break;
        }
        let Some(next) = kind.length_of(head, pattern).map(|length| at + length) else { continue };
        let follows = next < bytes && kind.length_of(window.at(next, kind.header)?, pattern).is_some();
        if next == bytes || follows {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// Behind the tags that begin at `at`: ID3v2, APEv2 with a header, Lyrics3, ID3v1 and its extension.
fn after_tags(look: &Look<'_>, mut at: u64) -> Result<u64> {
    // As many as anybody writes, each kind twice.
    for _ in 0..10 {
        let head = look.at(at, 32)?;
        let le = |from: usize| head.get(from..from + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
        at += match &head[..] {
            [b'T', b'A', b'G', b'+', ..] => 227,
            [b'T', b'A', b'G', ..] => 128,
            [b'I', b'D', b'3', _, _, flags, a, b, c, d, ..] => {
                let size = [a, b, c, d].iter().fold(0u64, |sum, byte| sum << 7 | u64::from(*byte & 0x7f));
                10 + size + if flags & 0x10 != 0 { 10 } else { 0 }
            }
            head if head.starts_with(b"APETAGEX") && head.len() == 32 => 32 + u64::from(le(12)),
            head if head.starts_with(b"LYRICSBEGIN") => {
                // Its length stands at its end; lyrics have at most 99,999 bytes.
                let body = look.at(at, 1 << 17)?;
                match body.windows(9).position(|end| matches!(end, b"LYRICS200" | b"LYRICSEND")) {
                    Some(end) => end as u64 + 9,
                    None => return Ok(at),
                }
            }
            _ => return Ok(at),
        };
    }
    Ok(at)
}

/// Where the tags at the end of the file begin.
pub(super) fn before_tags(look: &Look<'_>) -> Result<u64> {
    let mut end = look.bytes;
    for _ in 0..4 {
        let tail = look.at(end.saturating_sub(128), 128.min(end) as usize)?;
        let footer = &tail[tail.len().saturating_sub(32)..];
        if tail.starts_with(b"TAG") {
            end = end.saturating_sub(128);
        } else if let (true, Some(size)) = (footer.starts_with(b"APETAGEX"), footer.get(12..16)) {
            let size = u64::from(u32::from_le_bytes([size[0], size[1], size[2], size[3]]));
            let header = if footer[23] & 0x80 != 0 { 32 } else { 0 };
            end = end.saturating_sub(size + header);
        } else if let Some(size) = tail.strip_suffix(b"LYRICS200").and_then(|t| t.last_chunk::<6>()) {
            let size = std::str::from_utf8(size).ok().and_then(|s| s.parse::<u64>().ok()).unwrap_or(0);
            end = end.saturating_sub(size + 15);
        } else {
            break;
        }
    }
    Ok(end)
}

/// Whether the file ends in a tag: ID3v1, APEv2, Lyrics3.
fn ends_in_tag(look: &Look<'_>) -> Result<bool> {
    let tail = look.at(look.bytes.saturating_sub(128), 128)?;
    let before = |bytes: usize| &tail[tail.len().saturating_sub(bytes)..];
    Ok(before(128).starts_with(b"TAG") || before(32).starts_with(b"APETAGEX") || before(9) == b"LYRICS200")
}

impl Kind {
    /// Length of the frame that begins here, if it belongs to the stream.
    fn length_of(&self, head: &[u8], pattern: u32) -> Option<u64> {
        (self.length)(head).filter(|length| self.begins(head, pattern) && *length >= self.header as u64)
    }

    /// Whether a frame of the stream begins here; an end of the file does not speak against it.
    fn begins(&self, head: &[u8], pattern: u32) -> bool {
        let same = pattern.to_be_bytes().into_iter().zip(self.same.to_be_bytes());
        head.iter().zip(same).all(|(byte, (first, same))| byte & same == first & same)
    }

    /// Whether one more frame, whole or cut, follows.
    fn continues(&self, head: &[u8], pattern: u32) -> bool {
        head.len() >= 2 && self.begins(head, pattern)
    }
}

fn word(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |word| u32::from_be_bytes(*word))
}

/// Reads in blocks what is looked at a few bytes at a time.
struct Window<'a, 'b> {
    look: &'a Look<'b>,
    start: u64,
    bytes: Vec<u8>,
}

impl Window<'_, '_> {
    /// Up to `count` bytes at `at`; fewer at the end of the file.
    fn at(&mut self, at: u64, count: usize) -> Result<&[u8]> {
        let inside = at >= self.start && at + count as u64 <= self.start + self.bytes.len() as u64;
        if !inside {
            (self.start, self.bytes) = (at, self.look.at(at, BLOCK)?);
        }
        let from = (at - self.start) as usize;
        Ok(&self.bytes[from..self.bytes.len().min(from + count)])
    }
}
