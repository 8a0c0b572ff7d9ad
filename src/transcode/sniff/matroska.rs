//! Matroska and WebM: the segment says how long it is, unless it was written to a pipe (RFC 9559 §5.1, RFC 8794).

use super::{Look, Sniffed, cut};
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
    match whole.filter(|whole| *whole > look.bytes) {
        Some(whole) => Err(cut(whole - look.bytes, whole)),
        None => Ok(Sniffed::default()),
    }
}

/// A length and how many bytes it takes; `None` when it is unknown, which is all ones (RFC 8794 §6.2).
fn size(bytes: &[u8]) -> Option<(u64, u64)> {
    let width = bytes.first()?.leading_zeros() as usize + 1;
    let value = bytes.get(..width)?.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    let mask = (1 << (7 * width)) - 1;
    (value & mask != mask).then_some((value & mask, width as u64))
}
