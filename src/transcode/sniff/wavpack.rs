//! WavPack: blocks that say their own length; the first says the length of all (WavPack 4 & 5 file format).

use super::frames::{self, Kind};
use super::{Declared, Look, Sniffed};
use crate::base::{Error, Result};

const BLOCK: Kind = Kind { header: 8, same: u32::MAX, length: block_length };
/// Rates by the index in the flags; the one after the last means "another one".
const RATES: [u32; 15] = [
    6_000, 8_000, 9_600, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 64_000, 88_200, 96_000,
    192_000,
];

pub(super) fn wavpack(look: &Look<'_>, at: u64) -> Result<Sniffed> {
    // Blocks may have a megabyte, so they are followed from the first.
    let lacking = frames::follow(look, &BLOCK, at, at)?.lacking;
    if lacking > 0 {
        return Err(Error::invalid(format!("truncated: its last block lacks {lacking} bytes; upload the whole file")));
    }
    let Some(head) = look.array::<32>(at)? else { return Ok(Sniffed::default()) };
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let (samples, rate) = (word(12), RATES.get(word(24) as usize >> 23 & 15));
    let declared = rate.filter(|_| samples != u32::MAX && samples > 0).map(|rate| Declared {
        samples: samples.into(),
        rate: *rate,
        tolerance: 0,
    });
    Ok(Sniffed { declared, ..Sniffed::default() })
}

fn block_length(head: &[u8]) -> Option<u64> {
    let length = u32::from_le_bytes(head.get(4..8)?.try_into().ok()?);
    Some(8 + u64::from(length)).filter(|length| (32..1 << 25).contains(length))
}
