//! `version.json`: the only thing the origin reads to serve a version.
//!
//! It names every object of one published package, where each media segment lies in its rung's file
//! and how long it plays, in integer ticks. It holds the hash of every object, and the version id is
//! the hash of the document itself, so the id covers every byte served below `/a/{track}/{version}/`.
//! Nothing in it depends on when or where it was made: same input, ladder and encoders, same bytes.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::loudness::Gating;
use crate::base::id::VersionId;
use crate::base::{Error, Result, hex};

/// The format this build writes. A reader refuses formats it does not know.
pub const FORMAT: u32 = 1;
/// What we align segments to: a page. `sendfile` from the middle of a page costs a page more than fits into
/// one packet, which measured up to half of the whole request (docs/decisions/0005).
pub const SLICE_ALIGNMENT: u64 = 4096;
/// The largest alignment we read.
const ALIGNMENT_MAX: u64 = 1 << 16;
/// A `free` box without content: its length and its name.
const FREE_BOX_BYTES: u64 = 8;
/// The largest `version.json` we read: a 10 h track has ~6,000 segments a rung, ~60 bytes each.
pub const DOCUMENT_BYTES_MAX: u64 = 16 << 20;

/// A published package. Field order is the document's order: it is part of the hash.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VersionIndex {
    /// Format of this document: `FORMAT`.
    pub format: u32,
    /// What went in.
    pub source: Source,
    /// What encoded it, for determinism: name and version, e.g. `avenc_aac 1.22.0 libavcodec 59.37.100`.
    pub encoders: Vec<String>,
    /// EBU R128 numbers of the source, when measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loudness: Option<Loudness>,
    /// What they were found from, for the loudness of several tracks together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gating: Option<Gating>,
    /// The ladder, AAC rungs by rising bit rate, then FLAC. Empty only of a silent film.
    pub rungs: Vec<Rung>,
    /// The picture, when there is one. The AAC rungs are its sound then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub video: Option<Video>,
    /// Rungs of the ladder that were not made, because they could add nothing to this source.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<Skipped>,
    /// The preview, when the ladder has an AAC rung.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview: Option<Preview>,
    /// Objects beside the ladder: the waveform.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extras: Vec<Extra>,
}

/// The picture of a version: the same frames, cut at the same instants, in several sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Video {
    /// What went in.
    pub source: VideoSource,
    /// Pictures a second on every rung: numerator and denominator.
    pub frame_rate: (u32, u32),
    /// Pictures on every rung.
    pub frames: u64,
    /// By rising size. Never empty.
    pub rungs: Vec<VideoRung>,
    /// The first picture of every group, each a segment of its own; of the lowest rung.
    pub iframes: VideoRung,
}

/// The source's picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VideoSource {
    /// What it was, in words: `H.264`.
    pub codec: String,
    /// Stored width in pixels.
    pub width: u32,
    /// Stored height in pixels.
    pub height: u32,
    /// Width to height of a pixel.
    pub pixel_aspect: (u32, u32),
    /// Degrees that it was turned clockwise to stand upright.
    pub turned: u32,
    /// Whether it was mirrored before it was turned.
    pub mirrored: bool,
    /// Whether its pictures were of two fields, which were put together.
    pub interlaced: bool,
    /// `HLG` or `PQ` when it was HDR, which was made SDR.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hdr: Option<String>,
    /// Pictures that were decoded.
    pub frames: u64,
    /// Whether the time between its pictures varied, so that some are repeated or left out.
    pub variable_rate: bool,
}

/// One size of the picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VideoRung {
    /// Width in pixels, which are square.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Name of the AAC rung that is heard with it; absent of a silent film.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio: Option<String>,
    /// How it was encoded and cut. Its ticks are those of a timescale in which every picture is a whole number.
    pub encoding: Rung,
}

/// The name of the rung that holds the first picture of every group.
pub const IFRAMES: &str = "iframes";

/// The decoded source, after trimming what its container declares as padding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// SHA-256 of the input bytes, hexadecimal.
    pub sha256: String,
    /// What it was, in words: `FLAC`, `MPEG-1 Layer 3 (MP3)`.
    pub codec: String,
    /// Sample rate in Hz.
    pub rate: u32,
    /// Channels.
    pub channels: u32,
    /// Where they are, `FL+FR+LFE`, when FLAC has no layout of just these: they lie among silent ones there then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<String>,
    /// Bits per sample as decoded; 32 for float.
    pub bits: u32,
    /// Length in samples per channel, exactly.
    pub samples: u64,
}

/// EBU R128 / ITU-R BS.1770 measures of the whole source.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Loudness {
    /// Integrated loudness in LUFS, two decimals; absent for silence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub integrated_lufs: Option<f64>,
    /// Loudness range in LU, two decimals.
    pub range_lu: f64,
    /// Highest true peak of any channel in dBTP, two decimals; absent for silence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub true_peak_dbtp: Option<f64>,
    /// The same as players that know ReplayGain want it; absent for silence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay_gain: Option<ReplayGain>,
}

/// What ReplayGain 2.0 calls the track's gain and peak. Advice for players: nothing is baked in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplayGain {
    /// Gain to -18 LUFS in dB, two decimals.
    pub track_gain_db: f64,
    /// Largest sample of the source, 1 is full scale, six decimals.
    pub track_peak: f64,
}

/// A rung that was not made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Skipped {
    /// Where it would have been below the version: `aac/256`.
    pub path: String,
    /// The bit rate it would have had, in bit/s.
    pub nominal_bps: u64,
    /// Why not, in words.
    pub why: String,
}

/// The preview: an encode of its own, cut from the decoded source. Its object is `preview.m4a`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preview {
    /// Where it begins in the source, in samples of the source.
    pub start: u64,
    /// How it was encoded and cut.
    pub rung: Rung,
}

/// The codec family of a rung, which is also its directory and its entitlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// AAC-LC: everyone's.
    Aac,
    /// FLAC: for listeners entitled to lossless.
    Flac,
    /// H.264, without sound.
    Video,
}

impl Family {
    /// The directory below the version: `aac`, `flac`, `video`.
    pub fn as_str(self) -> &'static str {
        match self {
            Family::Aac => "aac",
            Family::Flac => "flac",
            Family::Video => "video",
        }
    }
}

/// One encoding of the whole track: one CMAF file, init section first, then the media segments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rung {
    /// Codec family.
    pub family: Family,
    /// Path component below the family's directory (`96`); empty when the family has one rung (`flac`).
    pub name: String,
    /// RFC 6381 codec string: `mp4a.40.2`, `fLaC`.
    pub codecs: String,
    /// Sample rate in Hz, of a picture the timescale; every tick below counts in it.
    pub rate: u32,
    /// Channels; 0 of a picture.
    pub channels: u32,
    /// Bits per sample of the encoding; 16 for AAC by convention of the sample entry; 0 of a picture.
    pub bits: u32,
    /// Asked-for bit rate in bit/s; 0 for lossless.
    pub nominal_bps: u64,
    /// Peak segment bit rate in bit/s, measured (RFC 8216bis §4.4.6.2, BANDWIDTH).
    pub peak_bps: u64,
    /// Average segment bit rate in bit/s, measured (AVERAGE-BANDWIDTH).
    pub average_bps: u64,
    /// Samples the decoder gives before the first sample of the source (encoder delay).
    pub priming: u32,
    /// Samples the decoder gives after the last sample of the source.
    pub padding: u32,
    /// Presentation length in samples: the source's length at this rate.
    pub samples: u64,
    /// What the start of every segment in the rung's file is a multiple of, in bytes: `SLICE_ALIGNMENT`.
    pub alignment: u64,
    /// The rung's file: init section and every segment, in order, with `free` boxes between them
    /// where alignment asks for it.
    pub object: Object,
    /// The init section: the first bytes of the file.
    pub init: Slice,
    /// The media segments; `offsets` says where each begins.
    pub segments: Vec<Segment>,
}

/// A stored object of the version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Object {
    /// File name in the version's directory: `aac-96.mp4`.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256, hexadecimal.
    pub sha256: String,
}

/// A slice of a rung's file with the hash that becomes its strong ETag.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slice {
    /// Length in bytes.
    pub bytes: u64,
    /// First 128 bits of the SHA-256 of the slice.
    #[serde(with = "digest128")]
    pub hash: [u8; 16],
}

/// A media segment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// Length in bytes; a `free` box before it does not count.
    pub bytes: u64,
    /// What it adds to the presentation, in ticks of the rung's rate: EXTINF × rate. The first
    /// segment also carries the priming samples, which are not presented and not counted here.
    pub ticks: u64,
    /// First 128 bits of the SHA-256 of the segment.
    #[serde(with = "digest128")]
    pub hash: [u8; 16],
}

/// An object beside the ladder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extra {
    /// What it is for.
    pub role: Role,
    /// The object.
    pub object: Object,
}

/// What an extra object is for, which decides its URL space and media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// `/p/…/preview.m4a`, `audio/mp4`, public: in versions made before `VersionIndex::preview`.
    Preview,
    /// `/w/…/peaks.bin`, audiowaveform version 2, public.
    Peaks,
    /// `/w/…/peaks-2048.bin`, the same at so many samples per point.
    PeaksAt(u32),
    /// `/w/…/peaks.json`, small, public.
    PeaksSmall,
    /// `/p/…/poster.jpg`, a still of the picture, public.
    Poster,
}

/// What the names of lossy codecs have in them, lowercase: demuxers and decoders name codecs freely, and one
/// that is unknown is believed to be lossless.
const LOSSY: [&str; 12] =
    ["layer", "mp3", "mp2", "aac", "vorbis", "opus", "speex", "adpcm", "-law", "amr", "gsm", "musepack"];

impl Source {
    /// Whether its own codec had left something out before we saw it.
    fn is_lossy(&self) -> bool {
        let codec = self.codec.to_ascii_lowercase();
        LOSSY.iter().any(|name| codec.contains(name))
    }
}

impl VersionIndex {
    /// The document's bytes and the id they hash to.
    pub fn seal(&self) -> (Vec<u8>, VersionId) {
        let mut document = serde_json::to_vec(self).expect("plain data always serialises");
        document.push(b'\n');
        let id = VersionId::from_digest(&Sha256::digest(&document).into());
        (document, id)
    }

    /// Reads a document and checks what the origin relies on: known format, slices that add up to
    /// their files, names that are plain. Does not check the hash: see `decode_as`.
    ///
    /// # Errors
    /// `Invalid` with the field that is wrong.
    pub fn decode(document: &[u8]) -> Result<VersionIndex> {
        let index: VersionIndex = serde_json::from_slice(document)
            .map_err(|cause| Error::invalid("version.json cannot be read").because(cause))?;
        index.check()?;
        Ok(index)
    }

    /// Reads the document of version `id`, refusing one that hashes to anything else.
    ///
    /// # Errors
    /// `Invalid` when the hash differs or `decode` refuses it.
    pub fn decode_as(id: VersionId, document: &[u8]) -> Result<VersionIndex> {
        let found = VersionId::from_digest(&Sha256::digest(document).into());
        if found != id {
            return Err(Error::invalid(format!("version.json of {id} hashes to {found}: it was altered or damaged")));
        }
        VersionIndex::decode(document)
    }

    fn check(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::invalid(format!("version.json: {what}")));
        if self.format != FORMAT {
            return wrong(format!("format {} is not {FORMAT}; a newer segue wrote it", self.format));
        }
        if self.rungs.is_empty() && self.video.as_ref().is_none_or(|video| video.rungs.is_empty()) {
            return wrong("it has no rungs".into());
        }
        if let Some(video) = &self.video {
            let (n, d) = video.frame_rate;
            if n == 0 || d == 0 {
                return wrong("the picture has no frame rate".into());
            }
        }
        if self.source.rate == 0 {
            return wrong("the source has no rate".into());
        }
        for rung in self.encodings() {
            let at = rung.path();
            if rung.rate == 0 || rung.segments.is_empty() {
                return wrong(format!("rung {at} has no rate or no segments"));
            }
            if !rung.name.bytes().all(|b| b.is_ascii_alphanumeric()) {
                return wrong(format!("rung name {:?} is not plain", rung.name));
            }
            // It stands between quotes in a playlist.
            if !rung.codecs.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.') {
                return wrong(format!("the codec {:?} of rung {at} is not plain", rung.codecs));
            }
            if !rung.alignment.is_power_of_two() || rung.alignment > ALIGNMENT_MAX {
                return wrong(format!("the alignment {} of rung {at} is not a power of two", rung.alignment));
            }
            let slices = rung.segments.iter().try_fold(rung.init.bytes, |end, segment| {
                aligned_after(end, rung.alignment)?.checked_add(segment.bytes)
            });
            if slices != Some(rung.object.bytes) {
                return wrong(format!("the slices of rung {at} do not add up to {} bytes", rung.object.bytes));
            }
            let ticks = rung.segments.iter().try_fold(0u64, |sum, s| sum.checked_add(s.ticks));
            if ticks != Some(rung.samples) {
                return wrong(format!("the segments of rung {at} do not add up to {} samples", rung.samples));
            }
        }
        for object in self.objects() {
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.');
            if object.name.starts_with('.') || object.name.is_empty() || !object.name.bytes().all(plain) {
                return wrong(format!("object name {:?} is not plain", object.name));
            }
            if hex::decode::<32>(object.sha256.as_bytes()).is_none() {
                return wrong(format!("the hash of {} is not one", object.name));
            }
        }
        Ok(())
    }

    /// Every object of the version, `version.json` aside.
    pub fn objects(&self) -> impl Iterator<Item = &Object> {
        self.encodings().map(|rung| &rung.object).chain(self.extras.iter().map(|extra| &extra.object))
    }

    /// The rungs of sound and picture, and the preview.
    fn encodings(&self) -> impl Iterator<Item = &Rung> {
        let preview = self.preview.iter().map(|preview| &preview.rung);
        self.rungs.iter().chain(preview).chain(self.pictures().map(|rung| &rung.encoding))
    }

    /// The rungs of the picture, and the one for winding through it.
    pub fn pictures(&self) -> impl Iterator<Item = &VideoRung> {
        self.video.iter().flat_map(|video| video.rungs.iter().chain([&video.iframes]))
    }

    /// Whether there is a preview.
    pub fn has_preview(&self) -> bool {
        self.preview.is_some() || self.extras.iter().any(|extra| extra.role == Role::Preview)
    }

    /// Length of the source in seconds, for people; media times stay in ticks.
    pub fn duration_s(&self) -> f64 {
        self.source.samples as f64 / f64::from(self.source.rate)
    }

    /// Whether a rung may be called lossless: it decodes to the source bit by bit, and the source had lost nothing.
    pub fn is_lossless(&self, rung: &Rung) -> bool {
        self.loss(rung).is_none()
    }

    /// What was lost on the way to a rung, in words; `None` when nothing was. A source at a rate that segments
    /// cannot be cut at is resampled, and FLAC has 24 bits at most here: its encoder knows no more.
    pub fn loss(&self, rung: &Rung) -> Option<String> {
        let Source { rate, channels, bits, .. } = self.source;
        if rung.family != Family::Flac {
            return Some("the codec is lossy".into());
        }
        if self.source.is_lossy() {
            return Some(format!("the source is lossy already, {}", self.source.codec));
        }
        if rung.rate != rate {
            return Some(format!("resampled from {rate} Hz to {} Hz", rung.rate));
        }
        if rung.channels < channels {
            return Some(format!("mixed from {channels} channels to {}", rung.channels));
        }
        (rung.bits < bits).then(|| format!("{bits}-bit samples became {}-bit ones", rung.bits))
    }

    /// Whether the version has rungs of this family.
    pub fn has(&self, family: Family) -> bool {
        self.rungs.iter().any(|rung| rung.family == family)
    }
}

impl Rung {
    /// Directory of the rung below the version: `aac/96`, `flac`, `video/720p`.
    pub fn path(&self) -> String {
        match self.name.as_str() {
            "" => self.family.as_str().to_owned(),
            name => format!("{}/{name}", self.family.as_str()),
        }
    }

    /// Where each segment begins in the rung's file. The sums were checked when the index was read.
    pub fn offsets(&self) -> impl Iterator<Item = u64> {
        self.segments.iter().scan(self.init.bytes, |end, segment| {
            let start = aligned_after(*end, self.alignment)?;
            *end = start.checked_add(segment.bytes)?;
            Some(start)
        })
    }
}

/// Where the next slice begins when the last one ended at `end`: the next multiple of `alignment` that
/// leaves no gap or one that a `free` box fits into. `None` past the largest number.
pub fn aligned_after(end: u64, alignment: u64) -> Option<u64> {
    let next = end.checked_next_multiple_of(alignment)?;
    match next - end {
        1..FREE_BOX_BYTES => next.checked_add(alignment.max(FREE_BOX_BYTES).next_multiple_of(alignment)),
        _ => Some(next),
    }
}

/// The first 128 bits of a SHA-256: what slices are named and validated by.
pub fn digest128(bytes: &[u8]) -> [u8; 16] {
    let full = Sha256::digest(bytes);
    let mut hash = [0; 16];
    hash.copy_from_slice(&full[..16]);
    hash
}

mod digest128 {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use crate::base::hex;

    pub(super) fn serialize<S: Serializer>(hash: &[u8; 16], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&hex::encode(hash))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<[u8; 16], D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        hex::decode(text.as_bytes()).ok_or_else(|| D::Error::custom(format!("{text:?} is not 32 hexadecimal digits")))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A small version with one AAC rung of two segments and one FLAC rung, for tests anywhere.
    pub(crate) fn sample() -> VersionIndex {
        let rung = |family, name: &str, codecs: &str, scale: u64| Rung {
            family,
            name: name.into(),
            codecs: codecs.into(),
            rate: 44_100,
            channels: 2,
            bits: 16,
            nominal_bps: 96_000,
            peak_bps: 100_000 * scale,
            average_bps: 97_000 * scale,
            priming: 1024,
            padding: 0,
            samples: 266_240 + 4_410,
            alignment: 1,
            object: Object {
                name: format!("{}-{name}.mp4", family.as_str()),
                bytes: 700 + 1000 * scale + 30,
                sha256: "0".repeat(64),
            },
            init: Slice { bytes: 700, hash: [1; 16] },
            segments: vec![
                Segment { bytes: 1000 * scale, ticks: 266_240, hash: [2; 16] },
                Segment { bytes: 30, ticks: 4_410, hash: [3; 16] },
            ],
        };
        VersionIndex {
            format: FORMAT,
            source: Source {
                sha256: "0".repeat(64),
                codec: "FLAC".into(),
                rate: 44_100,
                channels: 2,
                layout: None,
                bits: 16,
                samples: 270_650,
            },
            encoders: vec!["test".into()],
            loudness: None,
            gating: None,
            rungs: vec![
                rung(Family::Aac, "64", "mp4a.40.2", 1),
                rung(Family::Aac, "96", "mp4a.40.2", 2),
                rung(Family::Flac, "", "fLaC", 9),
            ],
            video: None,
            skipped: vec![],
            preview: None,
            extras: vec![],
        }
    }

    /// The same with a picture in two sizes instead of FLAC: 25 a second, 152 and 3 of them.
    pub(crate) fn film() -> VersionIndex {
        let mut index = sample();
        index.rungs.pop();
        let rung = |name: &str, width, height, audio: Option<&str>, segments: &[u64]| VideoRung {
            width,
            height,
            audio: audio.map(Into::into),
            encoding: Rung {
                family: Family::Video,
                name: name.into(),
                codecs: "avc1.64001e".into(),
                rate: 25_000,
                channels: 0,
                bits: 0,
                nominal_bps: 800_000,
                peak_bps: 500_000,
                average_bps: 400_000,
                priming: 0,
                padding: 0,
                samples: 153_000,
                alignment: 1,
                object: Object {
                    name: format!("video-{name}.mp4"),
                    bytes: 700 + 1000 * segments.len() as u64,
                    sha256: "0".repeat(64),
                },
                init: Slice { bytes: 700, hash: [4; 16] },
                segments: segments
                    .iter()
                    .map(|frames| Segment { bytes: 1000, ticks: frames * 1000, hash: [5; 16] })
                    .collect(),
            },
        };
        index.video = Some(Video {
            source: VideoSource {
                codec: "H.264".into(),
                width: 854,
                height: 480,
                pixel_aspect: (1, 1),
                turned: 0,
                mirrored: false,
                interlaced: false,
                hdr: None,
                frames: 153,
                variable_rate: false,
            },
            frame_rate: (25, 1),
            frames: 153,
            rungs: vec![rung("360p", 640, 360, Some("64"), &[151, 2]), rung("480p", 854, 480, Some("96"), &[151, 2])],
            iframes: rung(IFRAMES, 640, 360, None, &[50, 51, 50, 2]),
        });
        index
    }

    #[test]
    fn a_film_reads_back_and_a_silent_one_needs_no_sound() {
        let mut index = film();
        let (document, id) = index.seal();
        assert_eq!(VersionIndex::decode_as(id, &document).unwrap(), index);
        assert_eq!(index.objects().count(), 2 + 3);
        index.rungs.clear();
        assert!(VersionIndex::decode(&index.seal().0).is_ok());
        let refuse = |change: fn(&mut Video), word: &str| {
            let mut index = film();
            change(index.video.as_mut().unwrap());
            let error = VersionIndex::decode(&index.seal().0).unwrap_err().chain();
            assert!(error.contains(word), "{error}");
        };
        refuse(|video| video.frame_rate = (25, 0), "no frame rate");
        refuse(|video| video.rungs[1].encoding.segments[0].bytes += 1, "add up");
        refuse(|video| video.iframes.encoding.name = "../x".into(), "not plain");
        index.video.as_mut().unwrap().rungs.clear();
        assert!(VersionIndex::decode(&index.seal().0).unwrap_err().chain().contains("no rungs"));
    }

    #[test]
    fn a_sealed_document_reads_back_and_its_id_covers_every_byte() {
        let index = sample();
        let (mut document, id) = index.seal();
        assert_eq!(VersionIndex::decode_as(id, &document).unwrap(), index);
        let at = document.iter().position(|b| *b == b'9').unwrap();
        document[at] = b'8';
        assert!(VersionIndex::decode_as(id, &document).unwrap_err().chain().contains("altered"));
    }

    #[test]
    fn only_flac_of_the_same_rate_and_depth_is_lossless() {
        let check = |change: fn(&mut Source), lossless: bool| {
            let mut index = sample();
            change(&mut index.source);
            let found: Vec<bool> = index.rungs.iter().map(|rung| index.is_lossless(rung)).collect();
            assert_eq!(found, [false, false, lossless]);
        };
        check(|_| (), true);
        check(|source| source.bits = 8, true);
        check(|source| source.bits = 32, false);
        check(|source| source.rate = 22_050, false);
        for codec in ["PCM 16-bit (WAV)", "Free Lossless Audio Codec (FLAC)", "ALAC", "Wavpack", "PCM 24-bit (AIFF)"] {
            let source = Source { codec: codec.into(), ..sample().source };
            assert!(!source.is_lossy(), "{codec}");
        }
        for codec in
            ["MPEG-1 Layer 3 (MP3)", "AAC", "MPEG-4 AAC audio", "Vorbis", "Opus", "Mu-law audio", "ADPCM audio"]
        {
            let source = Source { codec: codec.into(), ..sample().source };
            assert!(source.is_lossy(), "{codec}");
        }
        let mut index = sample();
        index.source.bits = 32;
        assert_eq!(index.loss(&index.rungs[2]).as_deref(), Some("32-bit samples became 16-bit ones"));
        assert_eq!(index.loss(&index.rungs[0]).as_deref(), Some("the codec is lossy"));
    }

    #[test]
    fn slices_begin_at_multiples_with_room_for_a_free_box_or_none() {
        let check = |end, alignment, expected| assert_eq!(aligned_after(end, alignment), expected, "{end} {alignment}");
        check(700, 1, Some(700));
        check(4096, 4096, Some(4096));
        check(700, 4096, Some(4096));
        check(4088, 4096, Some(4096));
        check(4089, 4096, Some(8192));
        check(4095, 4096, Some(8192));
        check(7, 4, Some(16));
        check(u64::MAX, 4096, None);
        let mut rung = sample().rungs.remove(0);
        rung.alignment = 4096;
        assert_eq!(rung.offsets().collect::<Vec<_>>(), [4096, 8192]);
    }

    #[test]
    fn documents_that_do_not_add_up_are_refused() {
        let check = |change: fn(&mut VersionIndex), word: &str| {
            let mut index = sample();
            change(&mut index);
            let error = VersionIndex::decode(&index.seal().0).unwrap_err().chain();
            assert!(error.contains(word), "{error}");
        };
        check(|v| v.format = 2, "format 2");
        check(|v| v.rungs.clear(), "no rungs");
        check(|v| v.rungs[0].segments[0].bytes += 1, "add up");
        check(|v| v.rungs[0].segments[0].bytes = u64::MAX, "add up");
        check(|v| v.rungs[0].alignment = 0, "power of two");
        check(|v| v.rungs[0].alignment = 1 << 40, "power of two");
        check(|v| v.rungs[0].alignment = 4096, "add up");
        check(|v| v.rungs[0].segments[0].ticks += 1, "samples");
        check(|v| v.rungs[0].object.name = "../x".into(), "not plain");
        check(|v| v.rungs[0].name = "..".into(), "not plain");
        check(
            |v| {
                let mut rung = v.rungs[0].clone();
                rung.segments.pop();
                v.preview = Some(Preview { start: 0, rung });
            },
            "add up",
        );
        check(|v| v.rungs[0].object.sha256 = "zz".into(), "not one");
    }
}
