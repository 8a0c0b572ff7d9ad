//! Looks at an input before anything decodes it. In: the file's bytes. Out: what its container
//! promises and hides (length, encoder delay, depth), or why it is refused. Reads a few kilobytes, but all of
//! an MP3 whose header promises more bytes than there are.

mod flac;
mod frames;
mod matroska;
mod mp3;
mod mp4;
mod ogg;
mod refuse;
mod riff;
mod wavpack;

pub(super) use refuse::by_first_bytes as refuse_by_first_bytes;

use super::options::spoken;
use super::plan::{Linear, Patch, Trim};
use super::source::ReadAt;
use crate::base::error::Context as _;
use crate::base::{Error, Result, hex};
use crate::hls::package::rescale;

/// What the container says. Everything is optional: unknown formats go to the decoder as they are.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sniffed {
    /// Codec, where the container says it better than the decoder.
    pub(super) codec: Option<String>,
    /// Length after trimming.
    pub(super) declared: Option<Declared>,
    /// Length by the bit rate, where nothing promises one: good enough to say how far an attempt is.
    pub(super) estimate: Option<Declared>,
    /// What to leave out of the decoded samples.
    pub(super) trim: Option<Trim>,
    /// What the demuxer shall not see.
    pub(super) patches: Vec<Patch>,
    /// Where the file ends for the demuxer; unset: where it ends.
    pub(super) end: Option<u64>,
    /// Where samples lie that need no decoder.
    pub(super) linear: Option<Linear>,
    /// Bits per sample.
    pub(super) bits: Option<u32>,
    /// Where its channels are, by GStreamer's numbers.
    pub(super) mask: Option<u64>,
    /// Bit rate of a lossy stream; headers may count, and covers and tags where the container does not keep them apart.
    pub(super) lossy_bps: Option<u64>,
    /// What the frames give altogether, with what is trimmed.
    pub(super) whole: Option<Declared>,
    /// The source's own checksum of its samples.
    pub(super) checksum: Option<Checksum>,
    /// Frames to follow to the end when all of the source is there.
    pub(super) walk: Option<Walk>,
    /// It has a picture, and nothing else was looked at.
    pub(super) picture: bool,
}

/// MD5 of the samples, interleaved and little-endian (RFC 9639 §8.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Checksum {
    pub(super) md5: [u8; 16],
    /// 16 or 24.
    pub(super) bits: u32,
}

/// A stream of frames without a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Walk {
    stream: Stream,
    /// Offset of the first frame.
    first: u64,
    /// Frames there must be.
    frames_min: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    Mpeg,
    Adts,
}

/// The length a container promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Declared {
    /// Samples per channel, after trimming.
    pub(super) samples: u64,
    /// The rate they count in.
    pub(super) rate: u32,
    /// Samples that may be missing or too many without anything being lost: a codec frame.
    pub(super) tolerance: u64,
}

/// Looks at `source`.
///
/// # Errors
/// `Invalid` with the reason to refuse it.
pub(super) fn sniff(source: &dyn ReadAt, bytes: u64) -> Result<Sniffed> {
    recognise(&Look { source, bytes })
}

/// Looks for a picture first, and at the sound only when there is none.
///
/// # Errors
/// As `sniff`.
pub(super) fn sniff_any(source: &dyn ReadAt, bytes: u64) -> Result<Sniffed> {
    match picture(&Look { source, bytes })? {
        true => Ok(Sniffed { picture: true, ..Sniffed::default() }),
        false => recognise(&Look { source, bytes }),
    }
}

/// Looks for a picture.
///
/// # Errors
/// `Invalid` when there is none, or with the reason to refuse it.
pub(super) fn sniff_film(source: &dyn ReadAt, bytes: u64) -> Result<Sniffed> {
    match picture(&Look { source, bytes })? {
        true => Ok(Sniffed { picture: true, ..Sniffed::default() }),
        false => Err(Error::invalid(
            "it has no picture that is read here; give an MP4, MOV, MKV or WebM film, or leave --ladder out",
        )),
    }
}

/// Whether a container that may hold one holds a moving picture. A cover is none.
fn picture(look: &Look<'_>) -> Result<bool> {
    let head = look.at(0, 4096)?;
    refuse::by_first_bytes(&head)?;
    match head.get(..8) {
        Some([_, _, _, _, b'f', b't', b'y', b'p'] | [_, _, _, _, b'm', b'o', b'o', b'v']) => mp4::has_picture(look),
        Some([_, _, _, _, b'w', b'i', b'd', b'e'] | [_, _, _, _, b'm', b'd', b'a', b't']) => mp4::has_picture(look),
        Some([0x1a, 0x45, 0xdf, 0xa3, ..]) => matroska::has_picture(look),
        _ => Ok(false),
    }
}

/// Follows what `sniff` did not read: to the end of the source, so once all of it is there.
///
/// # Errors
/// `Invalid` with the place of a hole.
pub(super) fn walk(source: &impl ReadAt, bytes: u64, sniffed: &Sniffed) -> Result<()> {
    let look = Look { source, bytes };
    sniffed.walk.as_ref().map_or(Ok(()), |walk| mp3::walk(&look, walk))
}

fn recognise(look: &Look<'_>) -> Result<Sniffed> {
    let head = look.at(0, 4096)?;
    refuse::by_first_bytes(&head)?;
    let audio = mp3::after_id3(look)?;
    let start = look.at(audio, 12)?;
    match &start[..] {
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E'] => riff::wav(look),
        [b'R', b'F', b'6', b'4', _, _, _, _, b'W', b'A', b'V', b'E'] => riff::wav(look),
        [b'F', b'O', b'R', b'M', _, _, _, _, b'A', b'I', b'F', b'F' | b'C'] => riff::aiff(look),
        [b'f', b'L', b'a', b'C', ..] => flac::flac(look, audio),
        [b'O', b'g', b'g', b'S', ..] => ogg::ogg(look),
        [_, _, _, _, b'f', b't', b'y', b'p', ..] | [_, _, _, _, b'm', b'o', b'o', b'v', ..] => mp4::mp4(look),
        [0x1a, 0x45, 0xdf, 0xa3, ..] => matroska::matroska(look),
        [b'w', b'v', b'p', b'k', ..] => wavpack::wavpack(look, audio),
        head if mp3::is_adts(head) => mp3::adts(look, audio),
        _ => mp3::mp3(look, audio),
    }
}

impl Sniffed {
    /// The promised length at the decoded rate.
    fn samples_at(&self, rate: u32) -> Option<u64> {
        self.declared.map(|declared| rescale(declared.samples, declared.rate, rate))
    }

    /// The promised length at the decoded rate, or else what it most likely is.
    pub(super) fn likely_samples_at(&self, rate: u32) -> Option<u64> {
        let estimate = || self.estimate.map(|estimate| rescale(estimate.samples, estimate.rate, rate));
        self.samples_at(rate).or_else(estimate).filter(|samples| *samples > 0)
    }

    /// Refuses what promises to be too long before any of it is decoded. What lies about that is found by decoding.
    ///
    /// # Errors
    /// `Invalid`, with both lengths.
    pub(super) fn refuse_long(&self, duration_s_max: u64) -> Result<()> {
        let Some(Declared { samples, rate, tolerance }) = self.declared else { return Ok(()) };
        let least = u128::from(samples.saturating_sub(tolerance));
        if least <= u128::from(duration_s_max) * u128::from(rate) {
            return Ok(());
        }
        let (found_s, most) = (samples / u64::from(rate.max(1)), spoken(duration_s_max));
        let found = match spoken(found_s) {
            same if same == most => format!("{found_s} s"),
            other => other,
        };
        Err(Error::invalid(format!(
            "by its header it is {found} long, longer than {most}, the most that is accepted; split it"
        )))
    }

    /// Compares the MD5 of what was decoded, in hexadecimal digits, with the source's own.
    pub(super) fn check_md5(&self, found: Option<&str>) -> Result<()> {
        match (self.checksum, found) {
            (Some(checksum), Some(found)) if hex::encode(&checksum.md5) != found => Err(Error::invalid(
                "its audio does not match its own checksum: it is damaged or was cut; upload it again, or export it again",
            )),
            _ => Ok(()),
        }
    }

    /// Compares what was decoded with what was promised. `surplus` was decoded beyond the trim.
    pub(super) fn check_length(&self, samples: u64, surplus: u64, rate: u32) -> Result<()> {
        if let Some(whole) = self.whole {
            let promised = rescale(whole.samples, whole.rate, rate);
            let skipped = self.trim.map_or(0, |trim| rescale(trim.start, trim.rate, rate));
            let found = skipped + samples + surplus;
            if found + rescale(whole.tolerance, whole.rate, rate) < promised {
                return Err(truncated(promised, found, rate, "could be decoded"));
            }
        }
        let (Some(declared), Some(promised)) = (self.declared, self.samples_at(rate)) else { return Ok(()) };
        let tolerance = match declared.tolerance {
            0 => 0,
            some => rescale(some, declared.rate, rate) + 1,
        };
        if samples + tolerance < promised {
            return Err(truncated(promised, samples, rate, "could be decoded"));
        }
        // A second of surplus is no padding: two files were joined, or the header is another file's.
        if samples > promised + tolerance
            || (declared.tolerance > 0 && self.trim_is_exact() && surplus > u64::from(rate))
        {
            let (promised, found) = (seconds(promised, rate), seconds(samples + surplus, rate));
            return Err(Error::invalid(format!(
                "its header promises {promised:.1} s, but {found:.1} s could be decoded; export the file again"
            )));
        }
        Ok(())
    }

    fn trim_is_exact(&self) -> bool {
        self.patches.is_empty() && self.trim.is_some_and(|trim| trim.length.is_some())
    }
}

/// The refusal for a file that ends too early.
fn truncated(promised: u64, found: u64, rate: u32, how: &str) -> Error {
    // A tenth of a second must not be rounded away: "promises 3.0 s, only 3.0 s" helps nobody.
    let lengths = match promised - found < u64::from(rate / 10) {
        true => format!("the header promises {promised} samples, only {found} {how}"),
        false => {
            let (promised, found) = (seconds(promised, rate), seconds(found, rate));
            format!("the header promises {promised:.1} s, only {found:.1} s {how}")
        }
    };
    Error::invalid(format!("truncated or damaged: {lengths}; upload the file again"))
}

/// The refusal for a file whose container says how many bytes it must have.
fn cut(missing: u64, whole: u64) -> Error {
    Error::invalid(format!("truncated: {missing} of {whole} bytes are missing; upload the whole file"))
}

fn seconds(samples: u64, rate: u32) -> f64 {
    samples as f64 / f64::from(rate.max(1))
}

/// Bits per second of so many bytes for so many samples.
fn bps(bytes: u64, samples: u64, rate: u32) -> Option<u64> {
    let bits = u128::from(bytes) * 8 * u128::from(rate);
    u64::try_from(bits.checked_div(samples.into())?).ok()
}

/// How many samples at `rate` so many bytes have at `bps`.
fn by_rate(bytes: u64, bps: u64, rate: u32) -> Option<Declared> {
    let samples = (u128::from(bytes) * 8 * u128::from(rate)).checked_div(bps.into())?;
    Some(Declared { samples: u64::try_from(samples).ok()?, rate, tolerance: 0 })
}

/// Random access to the input.
struct Look<'a> {
    source: &'a dyn ReadAt,
    bytes: u64,
}

impl Look<'_> {
    /// Up to `most` bytes from `at`; fewer at the end of the file.
    fn at(&self, at: u64, most: usize) -> Result<Vec<u8>> {
        let there = usize::try_from(self.bytes.saturating_sub(at)).unwrap_or(usize::MAX);
        let mut out = vec![0; most.min(there)];
        let mut done = 0;
        while done < out.len() {
            match self.source.read_at(at + done as u64, &mut out[done..]).context(|| "cannot read it")? {
                0 => break,
                n => done += n,
            }
        }
        out.truncate(done);
        Ok(out)
    }

    /// Exactly `N` bytes, or `None` when the file ends before.
    fn array<const N: usize>(&self, at: u64) -> Result<Option<[u8; N]>> {
        Ok(self.at(at, N)?.try_into().ok())
    }
}

#[cfg(test)]
mod tests;
