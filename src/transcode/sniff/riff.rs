//! WAV, RF64 and AIFF: uncompressed, so that length in bytes is length in samples.

use super::{Declared, Look, Sniffed, cut, truncated};
use crate::base::{Error, Result};
use crate::transcode::plan::{Format, Linear};

/// Chunks before the samples; real files have a handful.
const CHUNKS_MAX: usize = 256;

#[derive(Default)]
struct Wave {
    tag: u16,
    channels: u32,
    rate: u32,
    frame: u64,
    bits: u32,
    /// Where its channels are, when it says more than that there is one, or left and right.
    placed: bool,
    /// Bits of each sample that count, where it says so.
    valid: Option<u32>,
}

pub(super) fn wav(look: &Look<'_>) -> Result<Sniffed> {
    let mut wave = None;
    let mut long_data = None;
    let mut at = 12;
    for _ in 0..CHUNKS_MAX {
        let Some(head) = look.array::<8>(at)? else { break };
        let size = u64::from(u32::from_le_bytes([head[4], head[5], head[6], head[7]]));
        match &head[..4] {
            b"fmt " => wave = Some(wave_format(&look.at(at + 8, 40)?)?),
            b"ds64" => long_data = look.array::<8>(at + 16)?.map(u64::from_le_bytes),
            b"data" => {
                let wave = wave
                    .ok_or_else(|| Error::invalid("damaged: its samples come before their format; export it again"))?;
                // RF64 keeps the length where it fits (EBU Tech 3306 §4).
                let long = long_data.filter(|long| size == 0xffff_ffff && (1..1 << 48).contains(long));
                return wave.describe(long, size, at + 8, look.bytes - (at + 8));
            }
            _ => (),
        }
        at = at.saturating_add(8 + size + size % 2);
    }
    Err(Error::invalid("truncated or damaged: it has no samples after its header; upload the file again"))
}

fn wave_format(fmt: &[u8]) -> Result<Wave> {
    if fmt.len() < 16 {
        return Err(Error::invalid("truncated: it ends within its header; upload the file again"));
    }
    let word = |at: usize| u16::from_le_bytes([fmt[at], fmt[at + 1]]);
    let double = |at: usize| u32::from_le_bytes([fmt[at], fmt[at + 1], fmt[at + 2], fmt[at + 3]]);
    let extensible = word(0) == 0xfffe && fmt.len() >= 26;
    // The first bytes of the sub-format's GUID.
    let tag = if extensible { word(24) } else { word(0) };
    Ok(Wave {
        tag,
        channels: word(2).into(),
        rate: double(4),
        frame: word(12).into(),
        bits: word(14).into(),
        placed: extensible && ![(1, 0), (1, 4), (2, 0), (2, 3)].contains(&(word(2), double(20))),
        valid: extensible.then(|| word(18).into()),
    })
}

impl Wave {
    /// `size` is what the 32-bit field says, `long` what the 64-bit field says; `there` bytes follow `at`.
    fn describe(&self, long: Option<u64>, size: u64, at: u64, there: u64) -> Result<Sniffed> {
        Format { rate: self.rate, channels: self.channels, bits: self.bits, float: false, mask: 0 }.check()?;
        let codec = match self.tag {
            1 => Some(format!("PCM {}-bit (WAV)", self.bits)),
            3 => Some(format!("PCM {}-bit float (WAV)", self.bits)),
            _ => None,
        };
        // Programs that write to a pipe cannot go back to fill in the length.
        let unknown =
            long.is_none() && (size == 0 || size >= 0xffff_0000 || (0x7fff_0000..=0x7fff_ffff).contains(&size));
        let size = long.unwrap_or(size);
        // Nothing behind the samples is for us, and one to seven bytes, be it the one that makes an odd chunk even, are
        // for wavparse a chunk that is cut: it then gives no samples at all.
        let end = (!unknown && size < there).then_some(at + size);
        let linear = codec.is_some() && self.frame > 0 && self.rate > 0 && self.channels > 0;
        if !linear {
            return Ok(Sniffed { codec, end, ..Sniffed::default() });
        }
        let some = self.frame > 0 && there.min(if unknown { there } else { size }) >= self.frame;
        let linear = self.layout().filter(|_| some).map(|layout| Linear {
            at,
            layout: layout.to_owned(),
            rate: self.rate,
            channels: self.channels,
        });
        if size > there && !unknown {
            return Err(match (size - there) / self.frame {
                0 => cut(size - there, at + size),
                _ => truncated(size / self.frame, there / self.frame, self.rate, "are in the file"),
            });
        }
        let samples = if size > there || size == 0 { there } else { size } / self.frame;
        let declared = (!unknown || size <= there).then_some(Declared { samples, rate: self.rate, tolerance: 0 });
        let declared = declared.filter(|d| d.samples > 0 && size > 0);
        Ok(Sniffed { codec, declared, end, linear, ..Sniffed::default() })
    }

    /// What GStreamer calls such samples, if they are as plain as nearly all are: then no demuxer is needed, whose
    /// lengths have 31 bits. The others are wavparse's.
    fn layout(&self) -> Option<&'static str> {
        let plain = !self.placed && self.valid.is_none_or(|bits| bits == self.bits) && (1..=2).contains(&self.channels);
        if !plain || self.frame != u64::from(self.channels) * u64::from(self.bits) / 8 {
            return None;
        }
        match (self.tag, self.bits) {
            (1, 8) => Some("u8"),
            (1, 16) => Some("s16le"),
            (1, 24) => Some("s24le"),
            (1, 32) => Some("s32le"),
            (3, 32) => Some("f32le"),
            (3, 64) => Some("f64le"),
            _ => None,
        }
    }
}

pub(super) fn aiff(look: &Look<'_>) -> Result<Sniffed> {
    let mut common = None;
    let mut at = 12;
    for _ in 0..CHUNKS_MAX {
        let Some(head) = look.array::<8>(at)? else { break };
        let size = u64::from(u32::from_be_bytes([head[4], head[5], head[6], head[7]]));
        match &head[..4] {
            b"COMM" => common = look.array::<18>(at + 8)?,
            b"SSND" => {
                let there = look.bytes - (at + 8);
                return match common {
                    Some(common) => describe_aiff(read_common(&common), size, at + 8, there),
                    None => Ok(Sniffed::default()),
                };
            }
            _ => (),
        }
        at = at.saturating_add(8 + size + size % 2);
    }
    Err(Error::invalid("truncated or damaged: it has no samples after its header; upload the file again"))
}

/// `size` bytes are promised at `at`, `there` are there.
fn describe_aiff((samples, format): (u64, Format), size: u64, at: u64, there: u64) -> Result<Sniffed> {
    if format.rate == 0 || samples == 0 {
        return Ok(Sniffed::default());
    }
    format.check()?;
    if size > there {
        let part = (u128::from(samples) * u128::from(there) / u128::from(size)) as u64;
        return Err(match samples - part {
            0 | 1 => cut(size - there, at + size),
            _ => truncated(samples, part, format.rate, "are in the file"),
        });
    }
    Ok(Sniffed {
        codec: Some(format!("PCM {}-bit (AIFF)", format.bits)),
        declared: Some(Declared { samples, rate: format.rate, tolerance: 0 }),
        ..Sniffed::default()
    })
}

/// Sample frames and format; the rate is an 80-bit extended float.
fn read_common(comm: &[u8; 18]) -> (u64, Format) {
    let samples = u32::from_be_bytes([comm[2], comm[3], comm[4], comm[5]]);
    let half = |at: usize| u32::from(u16::from_be_bytes([comm[at], comm[at + 1]]));
    let exponent = (half(8) & 0x7fff) as i32 - 16_383;
    let mantissa = u64::from_be_bytes([comm[10], comm[11], comm[12], comm[13], comm[14], comm[15], comm[16], comm[17]]);
    let rate = if (0..32).contains(&exponent) { mantissa >> (63 - exponent) } else { 0 };
    (samples.into(), Format { rate: rate as u32, channels: half(0), bits: half(6), float: false, mask: 0 })
}
