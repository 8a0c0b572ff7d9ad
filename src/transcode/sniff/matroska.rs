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
    if let Some(whole) = whole.filter(|whole| *whole > look.bytes) {
        return Err(cut(whole - look.bytes, whole));
    }
    let declared = duration(look)?;
    let Some(sound) = sound(look)?.filter(|sound| sound.lossy) else {
        return Ok(Sniffed { declared, ..Sniffed::default() });
    };
    let lossy_bps = match &declared {
        // All of it is sound.
        Some(declared) => super::bps(look.bytes, declared.samples, declared.rate),
        None => measured(look, &sound)?,
    };
    let estimate = lossy_bps.filter(|_| sound.alone).and_then(|bps| super::by_rate(look.bytes, bps, TICKS));
    Ok(Sniffed { declared, estimate, lossy_bps, ..Sniffed::default() })
}

/// The first track of sound.
struct Sound {
    number: u64,
    lossy: bool,
    /// Whether there is no other track.
    alone: bool,
    /// Nanoseconds that a timestamp counts in.
    scale: u64,
}

fn sound(look: &Look<'_>) -> Result<Option<Sound>> {
    // RFC 9559 §27 and the codec mappings: what is not among these loses nothing, or is not known to.
    const LOSSY: [&[u8]; 6] = [b"A_OPUS", b"A_VORBIS", b"A_AAC", b"A_MPEG/", b"A_AC3", b"A_EAC3"];
    let head = look.at(0, HEAD)?;
    let inside = |bytes, id| elements(bytes).find(|(found, _)| *found == id).map(|(_, body)| body);
    let segment = inside(&head[..], 0x1853_8067).unwrap_or_default();
    let tracks = inside(segment, 0x1654_ae6b).unwrap_or_default();
    let tracks: Vec<&[u8]> = elements(tracks).filter(|(id, _)| *id == 0xae).map(|(_, track)| track).collect();
    let first = tracks.iter().find(|track| inside(track, 0x83) == Some(&[2]));
    let info = inside(segment, 0x1549_a966).unwrap_or_default();
    Ok(first.map(|track| Sound {
        number: inside(track, 0xd7).map_or(1, number),
        lossy: inside(track, 0x86).is_some_and(|codec| LOSSY.iter().any(|lossy| codec.starts_with(lossy))),
        alone: tracks.len() == 1,
        scale: inside(info, 0x2a_d7b1).map_or(1_000_000, number),
    }))
}

/// Bytes at the start of a file whose blocks are weighed: a few seconds of a film, a minute of sound.
const WEIGHED: [usize; 2] = [8 << 20, 1 << 20];

/// Bit rate of a track by its blocks at the start of the file.
fn measured(look: &Look<'_>, sound: &Sound) -> Result<Option<u64>> {
    let bytes = look.at(0, WEIGHED[usize::from(sound.alone)])?;
    let (mut rest, mut cluster) = (&bytes[..], 0i64);
    let (mut weight, mut last_bytes, mut first, mut last) = (0u64, 0, None, 0i64);
    while let Some((id, header, length)) = element(rest) {
        let body = &rest[header..];
        let body = &body[..body.len().min(usize::try_from(length.unwrap_or(u64::MAX)).unwrap_or(usize::MAX))];
        match id {
            // Segment, cluster, group of a block: what is in them comes next, whether they say how long they are or not.
            0x1853_8067 | 0x1f43_b675 | 0xa0 => {
                rest = &rest[header..];
                continue;
            }
            0xe7 => cluster = number(body) as i64,
            // A block: its track, its time from the cluster's on, flags.
            0xa1 | 0xa3 => {
                let (track, width) = size(body).unwrap_or_default();
                let time = body.get(width as usize..width as usize + 2);
                if let (true, Some(time)) = (track == sound.number, time) {
                    last = cluster.saturating_add(i64::from(i16::from_be_bytes([time[0], time[1]])));
                    first.get_or_insert(last);
                    last_bytes = body.len() as u64;
                    weight += last_bytes;
                }
            }
            _ => {}
        }
        // Without a length: not ours to read.
        let Some(length) = length.and_then(|length| usize::try_from(length).ok()) else { break };
        rest = rest.get(header.saturating_add(length)..).unwrap_or_default();
    }
    let ticks = first.and_then(|first| u64::try_from(last.checked_sub(first)?).ok()).unwrap_or(0);
    let ns = u128::from(ticks) * u128::from(sound.scale);
    // How long the last one sounds is not known.
    let bits = u128::from(weight - last_bytes) * 8 * 1_000_000_000;
    let bps = (ns >= 500_000_000).then(|| bits / ns);
    Ok(bps.and_then(|bps| u64::try_from(bps).ok()).filter(|bps| *bps > 0))
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
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
        let scale = inside(info, 0x2a_d7b1).map_or(1_000_000, number);
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
        let (id, header, length) = element(bytes)?;
        let body = &bytes[header..];
        let length = usize::try_from(length.unwrap_or(u64::MAX)).unwrap_or(usize::MAX).min(body.len());
        bytes = &body[length..];
        Some((id, &body[..length]))
    })
}

/// The element that begins here: identifier, bytes before its body, and the body's length where it is known.
fn element(bytes: &[u8]) -> Option<(u64, usize, Option<u64>)> {
    let width = bytes.first()?.leading_zeros() as usize + 1;
    let id = number(bytes.get(..width).filter(|_| width <= 4)?);
    let rest = &bytes[width..];
    let unknown = rest.first()?.leading_zeros() as usize + 1;
    let (length, length_width) = match size(rest) {
        Some((length, width)) => (Some(length), width as usize),
        None => (None, unknown),
    };
    let header = width + length_width;
    (header <= bytes.len()).then_some((id, header, length))
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
