//! Matroska and WebM: the segment says how long it is, in bytes and in time, unless it was written to a pipe
//! (RFC 9559 §5.1, RFC 8794).

use super::{Declared, Look, Sniffed, cut};
use crate::base::Result;

const SEGMENT: &[u8] = b"\x18\x53\x80\x67";

/// Refuses a file that ends within its segment.
pub(super) fn matroska(look: &Look<'_>) -> Result<Sniffed> {
    let whole = (|| {
        let head = look.at(4, 8).ok()?;
        let (header, width) = size(&head)?;
        let at = 4 + width + header;
        let segment = look.at(at, 12).ok()?;
        let (length, width) = size(segment.strip_prefix(SEGMENT)?)?;
        at.checked_add(4 + width)?.checked_add(length)
    })();
    let length = duration(look)?;
    match whole.filter(|whole| *whole > look.bytes) {
        Some(whole) => Err(cut(whole - look.bytes, whole)),
        None => Ok(Sniffed { declared: length, ..Sniffed::default() }),
    }
}

/// Whether one of its tracks is a moving picture. A film that was cut off is refused here.
pub(super) fn has_picture(look: &Look<'_>) -> Result<bool> {
    let head = look.at(0, HEAD)?;
    let inside = |bytes, id| elements(bytes).find(|(found, _)| *found == id).map(|(_, body)| body);
    let tracks = inside(&head[..], 0x1853_8067).and_then(|segment| inside(segment, 0x1654_ae6b));
    let mut tracks = elements(tracks.unwrap_or_default()).filter(|(id, _)| *id == 0xae);
    if !tracks.any(|(_, track)| inside(track, 0x83) == Some(&[1])) {
        return Ok(false);
    }
    matroska(look).map(|_| true)
}

/// What a duration counts in here, per second. A duration is a float of mostly milliseconds.
const TICKS: u32 = 48_000;
/// Where the duration and the tracks are looked for: both stand before the audio.
const HEAD: usize = 1 << 16;

/// The duration, when all tracks are audio: it is the longest track's. A quarter of a second may be missing or too
/// much: a Vorbis or FLAC block, which some programs count and some do not, is a tenth.
fn duration(look: &Look<'_>) -> Result<Option<Declared>> {
    let head = look.at(0, HEAD)?;
    let inside = |bytes, id| elements(bytes).find(|(found, _)| *found == id).map(|(_, body)| body);
    let found = (|| {
        let segment = inside(&head[..], 0x1853_8067)?;
        let tracks = inside(segment, 0x1654_ae6b)?;
        let mut kinds = elements(tracks).filter(|(id, _)| *id == 0xae).map(|(_, track)| inside(track, 0x83));
        if !kinds.all(|kind| kind == Some(&[2])) {
            return None;
        }
        let info = inside(segment, 0x1549_a966)?;
        let scale = inside(info, 0x2a_d7b1).map_or(1_000_000, |b| b.iter().fold(0u64, |n, b| n << 8 | u64::from(*b)));
        let duration = match inside(info, 0x4489)? {
            bytes if bytes.len() == 4 => f64::from(f32::from_be_bytes(bytes.try_into().ok()?)),
            bytes => f64::from_be_bytes(bytes.try_into().ok()?),
        };
        let ticks = duration * scale as f64 * f64::from(TICKS) / 1e9;
        (1.0..1e12).contains(&ticks).then_some(ticks as u64)
    })();
    Ok(found.map(|samples| Declared { samples, rate: TICKS, tolerance: u64::from(TICKS / 4) }))
}

/// Elements side by side, as far as they are in `bytes`: identifier and body, the last of which may be cut.
fn elements(mut bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    std::iter::from_fn(move || {
        let width = bytes.first()?.leading_zeros() as usize + 1;
        let id = bytes.get(..width).filter(|_| width <= 4)?.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let rest = &bytes[width..];
        let unknown = rest.first()?.leading_zeros() as usize + 1;
        let (length, width) = size(rest).unwrap_or((u64::MAX, unknown as u64));
        let body = rest.get(width as usize..)?;
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(body.len());
        bytes = &body[length..];
        Some((id, &body[..length]))
    })
}

/// A length and how many bytes it takes; `None` when it is unknown, which is all ones (RFC 8794 §6.2).
fn size(bytes: &[u8]) -> Option<(u64, u64)> {
    let width = bytes.first()?.leading_zeros() as usize + 1;
    if width > 8 {
        return None;
    }
    let value = bytes.get(..width)?.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    let mask = (1 << (7 * width)) - 1;
    (value & mask != mask).then_some((value & mask, width as u64))
}
