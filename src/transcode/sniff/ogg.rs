//! Ogg: the last page's granule position is the length (RFC 3533 §6; RFC 7845 §4 for Opus). The decoder
//! gets its end from a time in nanoseconds and may be off by a sample; this is exact. A recording that was cut out of
//! another keeps that one's positions (§4.3): it begins where its first page says.

use super::{Declared, Look, Sniffed, Trim, flac};
use crate::base::{Error, Result};

/// Where the last page is looked for: a page has at most 65,307 bytes.
const TAIL: u64 = 1 << 17;
/// Where the first page of audio is looked for: cover art in the comments may push it out, then the
/// length stays unknown.
const HEAD: usize = 1 << 20;

/// A page header.
struct Page {
    /// Where it begins in the bytes that were looked at.
    at: usize,
    begins: bool,
    ends: bool,
    granule: i64,
    serial: u32,
    /// Length with header.
    bytes: usize,
    body: usize,
    /// Whether all of it is there.
    whole: bool,
}

pub(super) fn ogg(look: &Look<'_>) -> Result<Sniffed> {
    let head = look.at(0, HEAD)?;
    let Some(first) = page(&head) else { return Ok(Sniffed::default()) };
    let packet = &head[first.body.min(head.len())..];
    let start = look.bytes.saturating_sub(TAIL);
    let tail: Vec<Page> = pages(&look.at(start, TAIL as usize)?).collect();
    let pages: Vec<Page> = pages(&head).collect();
    refuse_chains(&pages, &tail)?;
    refuse_truncated(&tail, first.serial)?;
    let flac = packet.starts_with(b"\x7fFLAC").then(|| packet.get(17..51)).flatten();
    let Some((rate, delay)) = clock(packet) else { return Ok(Sniffed::default()) };
    let last = tail.iter().rev().find(|p| p.serial == first.serial && p.granule >= 0);
    let Some(last) = last.filter(|p| p.ends) else { return Ok(Sniffed::default()) };
    let Some(samples) = u64::try_from(last.granule).ok().and_then(|g| g.checked_sub(delay)).filter(|n| *n > 0) else {
        return Ok(Sniffed::default());
    };
    let Some(opening) = pages.iter().find(|p| p.serial == first.serial && p.granule > 0) else {
        return Ok(Sniffed::default());
    };
    if packet.starts_with(b"OpusHead") {
        // Only a stream of one page may have fewer samples than its packets: they are cut off at its end.
        let Some(opens) = head.get(opening.at..).and_then(opus_samples) else { return Ok(Sniffed::default()) };
        let before = (opening.granule as u64).saturating_sub(opens);
        return Ok(match samples.checked_sub(before).filter(|samples| *samples > 0) {
            None => Sniffed::default(),
            Some(samples) => Sniffed {
                declared: Some(Declared { samples, rate, tolerance: 8192 }),
                // The decoder leaves out what precedes position 0, which is far away here.
                trim: Some(Trim { start: if before > 0 { delay } else { 0 }, length: Some(samples), rate }),
                lossy_bps: super::bps(look.bytes, samples, rate),
                ..Sniffed::default()
            },
        });
    }
    // A stream cut out of a longer one starts late; its last position is no length.
    if opening.granule as u64 > 10 * u64::from(rate) {
        return Ok(Sniffed::default());
    }
    if let Some(info) = flac {
        let declared = Some(Declared { samples, rate, tolerance: 0 });
        return Ok(Sniffed { declared, checksum: flac::checksum(info), ..Sniffed::default() });
    }
    Ok(Sniffed {
        declared: Some(Declared { samples, rate, tolerance: 8192 }), // the longest Vorbis block
        trim: Some(Trim { start: 0, length: Some(samples), rate }),
        lossy_bps: super::bps(look.bytes, samples, rate), // Vorbis or Opus
        ..Sniffed::default()
    })
}

/// Streams one after another in a file ("chained") are players' business; a decoder here would stop
/// after the first and lose the rest. All streams that belong together announce themselves at the start.
fn refuse_chains(head: &[Page], tail: &[Page]) -> Result<()> {
    let (announced, others) = head.split_at(head.iter().take_while(|p| p.begins).count());
    let stranger = tail.last().is_some_and(|last| announced.iter().all(|p| p.serial != last.serial));
    // A file joined with itself repeats the serial number, but it begins again.
    let again = others.iter().any(|p| p.begins) || tail.iter().skip_while(|p| p.begins).any(|p| p.begins);
    if stranger || again {
        return Err(Error::invalid("it is several Ogg streams joined into one file; export it as one stream"));
    }
    Ok(())
}

/// The last page of a stream says that it is the last (RFC 3533 §4), and the last page of a file is whole.
fn refuse_truncated(tail: &[Page], serial: u32) -> Result<()> {
    let ended = tail.iter().rev().find(|p| p.serial == serial).is_some_and(|last| last.ends);
    match ended && tail.iter().all(|p| p.whole) {
        true => Ok(()),
        false => Err(Error::invalid("truncated: the end of its Ogg stream is missing; upload the whole file")),
    }
}

/// Granules per second, and granules before the first sample presented.
fn clock(packet: &[u8]) -> Option<(u32, u64)> {
    if packet.starts_with(b"\x01vorbis") {
        let rate = u32::from_le_bytes(packet.get(12..16)?.try_into().ok()?);
        return (rate > 0).then_some((rate, 0));
    }
    if packet.starts_with(b"OpusHead") {
        let skip = u16::from_le_bytes(packet.get(10..12)?.try_into().ok()?);
        return Some((48_000, u64::from(skip)));
    }
    // STREAMINFO follows a head of 13 bytes and a block header (RFC 9639 §10.1).
    if packet.starts_with(b"\x7fFLAC") {
        return Some((flac::rate(packet.get(17..51)?)?, 0));
    }
    None
}

/// Samples at 48 kHz of the packets that end in the page that begins here (RFC 6716 §3.1 and 3.2).
fn opus_samples(bytes: &[u8]) -> Option<u64> {
    const SILK: [u64; 4] = [480, 960, 1920, 2880];
    const HYBRID: [u64; 2] = [480, 960];
    const CELT: [u64; 4] = [120, 240, 480, 960];
    let lacing = bytes.get(27..27 + usize::from(*bytes.get(26)?))?;
    let (mut at, mut packet, mut samples) = (27 + lacing.len(), None, 0);
    for length in lacing {
        let begins = *packet.get_or_insert(at);
        at += usize::from(*length);
        if *length == 255 {
            continue; // it goes on
        }
        packet = None;
        let Some(toc) = bytes.get(begins).filter(|_| at > begins) else { continue };
        let config = usize::from(toc >> 3);
        let frame = match config {
            0..12 => SILK[config & 3],
            12..16 => HYBRID[config & 1],
            _ => CELT[config & 3],
        };
        let frames = match toc & 3 {
            0 => 1,
            1 | 2 => 2,
            _ => u64::from(bytes.get(begins + 1)? & 63),
        };
        samples += frame * frames;
    }
    Some(samples)
}

/// The page that begins here.
fn page(bytes: &[u8]) -> Option<Page> {
    let head: &[u8; 27] = bytes.get(..27)?.try_into().ok()?;
    if !head.starts_with(b"OggS\0") {
        return None;
    }
    let body = 27 + usize::from(head[26]);
    let lacing: usize = bytes.get(27..body)?.iter().map(|b| usize::from(*b)).sum();
    let length = body + lacing;
    Some(Page {
        at: 0,
        begins: head[5] & 2 != 0,
        ends: head[5] & 4 != 0,
        granule: i64::from_le_bytes(head[6..14].try_into().ok()?),
        serial: u32::from_le_bytes(head[14..18].try_into().ok()?),
        bytes: length,
        body,
        whole: length <= bytes.len(),
    })
}

/// Every page that begins in `bytes`.
fn pages(all: &[u8]) -> impl Iterator<Item = Page> + '_ {
    let mut from = 0;
    std::iter::from_fn(move || {
        loop {
            let at = from + all[from..].windows(4).position(|w| w == b"OggS")?;
            let found = page(&all[at..]);
            from = at + found.as_ref().map_or(4, |p| p.bytes.min(all.len() - at));
            if let Some(found) = found {
                return Some(Page { at, ..found });
            }
        }
    })
}
