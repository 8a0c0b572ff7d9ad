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
