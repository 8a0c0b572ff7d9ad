//! Reads back what `write` wrote. In: untrusted bytes. Out: facts, or why they are not CMAF audio as
//! we write it. Every length is checked before it is used; nothing is allocated from a length.

use super::write::{STREAMINFO_BYTES, Setup, rate_field};
use crate::base::{Error, Result};

/// What an init section says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitFacts {
    /// RFC 6381 codec string of the sample entry.
    pub codecs: String,
    /// Decoder set-up.
    pub setup: Setup,
    /// Samples per second, also the timescale.
    pub rate: u32,
    /// Channels.
    pub channels: u16,
    /// Bits per sample of the sample entry.
    pub bits: u16,
    /// Media time of the single edit; 0 without one.
    pub priming: u32,
    /// Length the edit presents; `None` without an edit.
    pub edit_samples: Option<u64>,
    /// Length of the presentation (`mehd`), in samples.
    pub samples: u64,
}

/// What a media segment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentFacts {
    /// `mfhd` sequence number.
    pub sequence: u32,
    /// `tfdt`: sum of the durations of all samples before.
    pub decode_time: u64,
    /// Encoded frames.
    pub frames: u32,
    /// Sum of their durations.
    pub duration: u64,
    /// Sum of their sizes, which is the whole of `mdat`.
    pub data_bytes: u64,
}

/// Reads an init section.
///
/// # Errors
/// `Invalid`, naming the box.
pub fn decode_init(bytes: &[u8]) -> Result<InitFacts> {
    let mut top = Boxes(bytes);
    top.expect(b"ftyp")?;
    let moov = top.expect(b"moov")?;
    top.expect_end()?;

    let trak = find(moov, b"trak")?;
    let mdia = find(trak, b"mdia")?;
    let stbl = find(find(mdia, b"minf")?, b"stbl")?;
    let rate = timescale(find(mdia, b"mdhd")?)?;
    if timescale(find(moov, b"mvhd")?)? != rate {
        return Err(broken("mvhd and mdhd have different timescales"));
    }
    let (setup, channels, bits) = sample_entry(find(stbl, b"stsd")?, rate)?;
    let mehd = full(find(find(moov, b"mvex")?, b"mehd")?)?;
    let (priming, edit_samples) = match find_some(trak, b"edts")? {
        None => (0, None),
        Some(edts) => edit(full(find(edts, b"elst")?)?.1)?,
    };
    let codecs = match &setup {
        Setup::Aac(config) => format!("mp4a.40.{}", audio_object_type(config)?),
        Setup::Flac(_) => "fLaC".to_owned(),
    };
    let samples = u64_at(mehd.1, 0)?;
    Ok(InitFacts { codecs, setup, rate, channels, bits, priming, edit_samples, samples })
}

/// Reads a media segment.
///
/// # Errors
/// `Invalid`, naming the box.
pub fn decode_segment(bytes: &[u8]) -> Result<SegmentFacts> {
    let mut top = Boxes(bytes);
    top.expect(b"styp")?;
    let before_moof = top.0.len();
    let moof = top.expect(b"moof")?;
    let moof_bytes = before_moof - top.0.len();
    let mdat = top.expect(b"mdat")?;
    top.expect_end()?;

    let sequence = u32_at(full(find(moof, b"mfhd")?)?.1, 0)?;
    let traf = find(moof, b"traf")?;
    let (tfhd_flags, tfhd) = full(find(traf, b"tfhd")?)?;
    if tfhd_flags & 0x00ff_ffff != 0x02_0028 {
        return Err(broken("tfhd has other flags than we write"));
    }
    let default_duration = u32_at(tfhd, 4)?;
    let (tfdt_flags, tfdt) = full(find(traf, b"tfdt")?)?;
    if tfdt_flags >> 24 != 1 {
        return Err(broken("tfdt is not of version 1"));
    }
    let decode_time = u64_at(tfdt, 0)?;
    let (trun_flags, trun) = full(find(traf, b"trun")?)?;
    let per_frame = match trun_flags {
        0x201 => 4,
        0x301 => 8,
        _ => return Err(broken("trun has other flags than we write")),
    };
    let frames = u32_at(trun, 0)?;
    if u32_at(trun, 4)? as usize != moof_bytes + 8 {
        return Err(broken("trun does not point at the start of mdat"));
    }
    let table = trun.get(8..).unwrap_or_default();
    if frames == 0 || table.len() as u64 != u64::from(frames) * per_frame {
        return Err(broken("trun has another number of frames than it says"));
    }
    let mut duration = 0;
    let mut data_bytes = 0;
    for frame in table.chunks_exact(per_frame as usize) {
        duration += u64::from(if per_frame == 8 { u32_at(frame, 0)? } else { default_duration });
        data_bytes += u64::from(u32_at(frame, per_frame as usize - 4)?);
    }
    if data_bytes != mdat.len() as u64 {
        return Err(broken(format!("trun sums up to {data_bytes} bytes, mdat has {}", mdat.len())));
    }
    Ok(SegmentFacts { sequence, decode_time, frames, duration, data_bytes })
}

fn edit(elst: &[u8]) -> Result<(u32, Option<u64>)> {
    if u32_at(elst, 0)? != 1 || elst.len() != 24 || u32_at(elst, 20)? != 0x1_0000 {
        return Err(broken("elst is not one edit at normal rate"));
    }
    let priming = u32::try_from(u64_at(elst, 12)?).map_err(|_| broken("elst has an absurd media time"))?;
    Ok((priming, Some(u64_at(elst, 4)?)))
}

fn sample_entry(stsd: &[u8], rate: u32) -> Result<(Setup, u16, u16)> {
    let stsd = full(stsd)?.1;
    if u32_at(stsd, 0)? != 1 {
        return Err(broken("stsd has not exactly one entry"));
    }
    let (kind, entry) = Boxes(&stsd[4..]).next()?.ok_or_else(|| broken("stsd is empty"))?;
    let channels = u16_at(entry, 16)?;
    let bits = u16_at(entry, 18)?;
    if u32_at(entry, 24)? != rate_field(rate) << 16 {
        return Err(broken("the sample entry's rate is not the timescale"));
    }
    let inner = entry.get(28..).unwrap_or_default();
    let setup = match &kind {
        b"mp4a" => Setup::Aac(audio_config(full(find(inner, b"esds")?)?.1)?.to_vec()),
        b"fLaC" => {
            let block = full(find(inner, b"dfLa")?)?.1;
            let info = block.get(4..).and_then(|b| b.try_into().ok());
            Setup::Flac(info.ok_or_else(|| broken(format!("dfLa is not {STREAMINFO_BYTES} bytes of STREAMINFO")))?)
        }
        _ => return Err(broken("the sample entry is neither mp4a nor fLaC")),
    };
    Ok((setup, channels, bits))
}

/// The AudioSpecificConfig inside `esds`, whose descriptors we always write at the same places.
fn audio_config(esds: &[u8]) -> Result<&[u8]> {
    let length = usize::from(*esds.get(21).ok_or_else(|| broken("esds is too short"))?);
    let tags = [(0, 3), (5, 4), (20, 5)].iter().all(|(at, tag)| esds[*at] == *tag);
    match esds.get(22..22 + length) {
        Some(config) if tags => Ok(config),
        _ => Err(broken("esds has other descriptors than we write")),
    }
}

/// ISO 14496-3 §1.6.2.1: five bits, 31 escapes to 32 + six bits.
fn audio_object_type(config: &[u8]) -> Result<u8> {
    let [first, second, ..] = config else { return Err(broken("the AudioSpecificConfig is too short")) };
    Ok(match first >> 3 {
        31 => 32 + ((first & 7) << 3 | second >> 5),
        kind => kind,
    })
}

pub(super) fn timescale(header: &[u8]) -> Result<u32> {
    match full(header)? {
        (flags, body) if flags >> 24 == 0 => u32_at(body, 8),
        _ => Err(broken("a header is not of version 0")),
    }
}

/// Walks the boxes that lie side by side in a slice.
pub(super) struct Boxes<'a>(pub(super) &'a [u8]);

impl<'a> Boxes<'a> {
    pub(super) fn next(&mut self) -> Result<Option<([u8; 4], &'a [u8])>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let length = u32_at(self.0, 0)? as usize; // 0 and 1 (to the end, 64 bit) are not ours
        let kind = self.0.get(4..8).and_then(|k| k.try_into().ok());
        let body = if length < 8 { None } else { self.0.get(8..length) };
        let (Some(kind), Some(body)) = (kind, body) else { return Err(broken("a box does not fit its parent")) };
        self.0 = &self.0[length..];
        Ok(Some((kind, body)))
    }

    pub(super) fn expect(&mut self, kind: &[u8; 4]) -> Result<&'a [u8]> {
        match self.next()? {
            Some((found, body)) if found == *kind => Ok(body),
            _ => Err(broken(format!("{} is not where it belongs", kind.escape_ascii()))),
        }
    }

    pub(super) fn expect_end(&self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(broken("there are bytes after the last box")) }
    }
}

/// The only child box of that kind.
pub(super) fn find<'a>(parent: &'a [u8], kind: &[u8; 4]) -> Result<&'a [u8]> {
    find_some(parent, kind)?.ok_or_else(|| broken(format!("there is no {}", kind.escape_ascii())))
}

pub(super) fn find_some<'a>(parent: &'a [u8], kind: &[u8; 4]) -> Result<Option<&'a [u8]>> {
    let mut boxes = Boxes(parent);
    let mut found = None;
    while let Some((next, body)) = boxes.next()? {
        if next == *kind && found.replace(body).is_some() {
            return Err(broken(format!("there are two {}", kind.escape_ascii())));
        }
    }
    Ok(found)
}

/// Version and flags, and what follows them.
pub(super) fn full(body: &[u8]) -> Result<(u32, &[u8])> {
    Ok((u32_at(body, 0)?, &body[4..]))
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Result<u16> {
    array_at(bytes, at).map(u16::from_be_bytes)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    array_at(bytes, at).map(u32::from_be_bytes)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Result<u64> {
    array_at(bytes, at).map(u64::from_be_bytes)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    bytes.get(at..at + N).and_then(|b| b.try_into().ok()).ok_or_else(|| broken("a box is too short"))
}

pub(super) fn broken(what: impl AsRef<str>) -> Error {
    Error::invalid(format!("not a CMAF rung of ours: {}", what.as_ref()))
}
