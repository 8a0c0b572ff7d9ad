//! FLAC: STREAMINFO says everything (RFC 9639 §8.2): the number of samples and their MD5. An encoder that wrote to a
//! pipe could not go back to say so; then the last frame says where it ends.

use super::frames::before_tags;
use super::{Checksum, Declared, Look, Sniffed};
use crate::base::{Error, Result};

/// Where the last frame is looked for, in bytes before the end. Six channels of 24 bits in the blocks that anybody
/// writes have 82,944.
const TAIL: u64 = 1 << 19;

pub(super) fn flac(look: &Look<'_>, at: u64) -> Result<Sniffed> {
    let Some(info) = look.array::<42>(at)? else {
        return Err(Error::invalid("truncated: it ends within its header; upload the file again"));
    };
    let (info, codec) = (&info[8..], Some("FLAC".to_owned()));
    let (mut declared, checksum) = (stream_info(info), checksum(info));
    if let (None, Some(rate)) = (declared, rate(info)) {
        let samples = by_last_frame(look, at + 42, info)?;
        declared = Some(Declared { samples, rate, tolerance: 0 });
    }
    let mask = places(look, at + 4)?;
    Ok(Sniffed { codec, declared, checksum, mask, ..Sniffed::default() })
}

/// Metadata blocks looked at.
const BLOCKS_MAX: usize = 128;
/// Bytes of comments looked at: encoders write what is theirs first.
const COMMENT_BYTES: usize = 1 << 16;

/// Where the channels are, when a comment says it (RFC 9639 §8.6.2); in GStreamer's numbers.
fn places(look: &Look<'_>, mut at: u64) -> Result<Option<u64>> {
    const COMMENTS: u8 = 4;
    for _ in 0..BLOCKS_MAX {
        let Some([kind, a, b, c]) = look.array::<4>(at)? else { break };
        let length = u64::from(u32::from_be_bytes([0, a, b, c]));
        if kind & 0x7f == COMMENTS {
            let bytes = look.at(at + 4, COMMENT_BYTES.min(length as usize))?;
            return Ok(mask_of(&bytes));
        }
        if kind & 0x80 != 0 {
            break;
        }
        at += 4 + length;
    }
    Ok(None)
}

fn mask_of(comments: &[u8]) -> Option<u64> {
    const NAME: &[u8] = b"WAVEFORMATEXTENSIBLE_CHANNEL_MASK=0x";
    let at = comments.windows(NAME.len()).position(|text| text.eq_ignore_ascii_case(NAME))?;
    let digits = comments[at + NAME.len()..].iter().take(8).take_while(|byte| byte.is_ascii_hexdigit());
    let wave = digits.fold(0u64, |mask, digit| mask << 4 | u64::from((*digit as char).to_digit(16).unwrap_or(0)));
    // WAVE knows eighteen places. The first nine are GStreamer's; then come the two sides, which have its tenth and
    // eleventh. Ceilings are nobody's.
    let (same, sides) = (wave & 0x1ff, wave >> 9 & 3);
    (wave != 0 && wave >> 11 == 0).then_some(same | sides << 10)
}

/// Length from a STREAMINFO block; 0 samples means that the encoder did not know.
fn stream_info(info: &[u8]) -> Option<Declared> {
    let samples = word(info)? & 0xf_ffff_ffff;
    Some(Declared { samples, rate: rate(info)?, tolerance: 0 }).filter(|_| samples > 0)
}

/// The MD5 of a STREAMINFO block; zeros mean that the encoder did not know. Other depths than these are rare,
/// and stored in ways of their own.
pub(super) fn checksum(info: &[u8]) -> Option<Checksum> {
    let bits = (word(info)? >> 36 & 31) as u32 + 1;
    let md5: [u8; 16] = info.get(18..34)?.try_into().ok()?;
    (md5 != [0; 16] && matches!(bits, 16 | 24)).then_some(Checksum { md5, bits })
}

/// Samples per second of a STREAMINFO block.
pub(super) fn rate(info: &[u8]) -> Option<u32> {
    Some((word(info)? >> 44) as u32).filter(|rate| *rate > 0)
}

fn word(info: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(info.get(10..18)?.try_into().ok()?))
}

/// Samples up to the end of the last frame, which its own number says. Its checksum ends the file, but for tags.
fn by_last_frame(look: &Look<'_>, from: u64, info: &[u8]) -> Result<u64> {
    let end = before_tags(look)?;
    let start = from.max(end.saturating_sub(TAIL));
    let tail = look.at(start, end.saturating_sub(start) as usize)?;
    let block = u64::from(u16::from_be_bytes([info[2], info[3]]));
    let last = (0..tail.len().saturating_sub(9)).rev().find_map(|at| {
        let frame = &tail[at..];
        let behind = behind(frame, block)?;
        (crc_16(frame) == 0).then_some(behind)
    });
    last.ok_or_else(|| {
        Error::invalid("truncated: its last frame is missing or damaged; upload the whole file, or export it again")
    })
}

/// Samples of the stream up to the end of the frame that begins here; `block` is how many every other frame of a
/// stream of equal blocks has (RFC 9639 §9.1).
fn behind(frame: &[u8], block: u64) -> Option<u64> {
    let variable = match frame {
        [0xff, 0xf8, ..] => false,
        [0xff, 0xf9, ..] => true,
        _ => return None,
    };
    // The number is coded as UTF-8 codes characters, in up to seven bytes.
    let first = *frame.get(4)?;
    let width = match first.leading_ones() as usize {
        0 => 1,
        n @ 2..=7 => n,
        _ => return None,
    };
    let high = if width == 1 { u64::from(first) } else { u64::from(first) & ((1 << (7 - width)) - 1) };
    let number = frame.get(5..4 + width)?.iter().fold(high, |sum, byte| sum << 6 | u64::from(byte & 0x3f));
    let at = 4 + width;
    let extra = |bytes: usize| Some(frame.get(at..at + bytes)?.iter().fold(0, |sum, b| sum << 8 | u64::from(*b)));
    let (samples, size_bytes) = match frame[2] >> 4 {
        0 => return None,
        1 => (192, 0),
        n @ 2..=5 => (576 << (n - 2), 0),
        6 => (extra(1)? + 1, 1),
        7 => (extra(2)? + 1, 2),
        n => (256 << (n - 8), 0),
    };
    let rate_bytes = match frame[2] & 15 {
        12 => 1,
        13 | 14 => 2,
        15 => return None,
        _ => 0,
    };
    // With the checksum itself it is 0.
    let head = frame.get(..at + size_bytes + rate_bytes + 1)?;
    let crc_8 = head.iter().fold(0u8, |crc, byte| {
        (0..8).fold(crc ^ byte, |crc, _| if crc & 0x80 != 0 { crc << 1 ^ 0x07 } else { crc << 1 })
    });
    let before = if variable { number } else { number.checked_mul(block)? };
    (crc_8 == 0).then(|| before + samples)
}

fn crc_16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0u16, |crc, byte| {
        let crc = crc ^ u16::from(*byte) << 8;
        (0..8).fold(crc, |crc, _| if crc & 0x8000 != 0 { crc << 1 ^ 0x8005 } else { crc << 1 })
    })
}
