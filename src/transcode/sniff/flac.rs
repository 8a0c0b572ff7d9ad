//! FLAC: STREAMINFO says everything (RFC 9639 §8.2).

use super::{Declared, Look, Sniffed};
use crate::base::{Error, Result};

pub(super) fn flac(look: &Look<'_>, at: u64) -> Result<Sniffed> {
    let Some(info) = look.array::<42>(at)? else {
        return Err(Error::invalid("truncated: it ends within its header; upload the file again"));
    };
    Ok(Sniffed { codec: Some("FLAC".into()), declared: stream_info(&info[8..]), ..Sniffed::default() })
}

/// Length from a STREAMINFO block; 0 samples means that the encoder did not know.
fn stream_info(info: &[u8]) -> Option<Declared> {
    let word = u64::from_be_bytes(info[10..18].try_into().ok()?);
    let (rate, samples) = ((word >> 44) as u32, word & 0xf_ffff_ffff);
    (rate > 0 && samples > 0).then_some(Declared { samples, rate, tolerance: 0 })
}
