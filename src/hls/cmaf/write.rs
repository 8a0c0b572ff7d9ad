//! Writes boxes. In: what a rung is, encoded frames with their lengths in samples. Out: bytes.

/// Length of a FLAC STREAMINFO block without its header (RFC 9639 §8.2).
pub const STREAMINFO_BYTES: usize = 34;

/// What a decoder needs before the first frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setup {
    /// AAC: the AudioSpecificConfig (ISO 14496-3 §1.6.2.1), at most 64 bytes.
    Aac(Vec<u8>),
    /// FLAC: the STREAMINFO block.
    Flac([u8; STREAMINFO_BYTES]),
}

/// What an init section says. Its encoded length depends only on `setup`'s length and on whether
/// there is priming, so it can be written first with zeros and again when the numbers are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Decoder set-up.
    pub setup: Setup,
    /// Samples per second: the timescale of the movie, the media and the edit.
    pub rate: u32,
    /// Channels.
    pub channels: u16,
    /// Bits per sample; 16 for AAC by convention.
    pub bits: u16,
    /// Samples decoded before the first one presented.
    pub priming: u32,
    /// Samples presented; 0 while unknown.
    pub samples: u64,
    /// Average bit rate of the frames in bit/s; 0 while unknown. AAC only.
    pub average_bps: u32,
    /// Highest bit rate of a segment's frames in bit/s; 0 while unknown. AAC only.
    pub peak_bps: u32,
}

impl Header {
    /// The init section: `ftyp` and `moov`.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1024);
        boxed(&mut out, b"ftyp", |v| {
            v.extend(b"cmf2\0\0\0\0iso6mp41cmf2cmfc");
            if matches!(self.setup, Setup::Aac(_)) {
                v.extend(b"caac"); // the AAC core media profile (23000-19 §10)
            }
        });
        boxed(&mut out, b"moov", |v| {
            self.mvhd(v);
            boxed(v, b"trak", |v| self.trak(v));
            boxed(v, b"mvex", |v| {
                // The presentation's length, which players show before they have read a fragment.
                full(v, b"mehd", 1, 0, |v| u64(v, self.samples));
                full(v, b"trex", 0, 0, |v| u32s(v, [1, 1, 0, 0, 0]));
            });
        });
        out
    }

    fn mvhd(&self, v: &mut Vec<u8>) {
        full(v, b"mvhd", 0, 0, |v| {
            // Times of creation stay 0: same input, same bytes. Duration 0: it is all in fragments.
            u32s(v, [0, 0, self.rate, 0, 0x1_0000]);
            u16(v, 0x100);
            v.extend([0; 10]);
            u32s(v, MATRIX);
            v.extend([0; 24]);
            u32(v, 2); // next track id
        });
    }

    fn trak(&self, v: &mut Vec<u8>) {
        full(v, b"tkhd", 0, 7, |v| {
            u32s(v, [0, 0, 1, 0, 0, 0, 0]);
            u16s(v, [0, 0, 0x100, 0]); // layer, group, volume 1.0
            u32s(v, MATRIX);
            u32s(v, [0, 0]);
        });
        if self.priming > 0 {
            boxed(v, b"edts", |v| full(v, b"elst", 1, 0, |v| self.edit(v)));
        }
        boxed(v, b"mdia", |v| {
            full(v, b"mdhd", 0, 0, |v| {
                u32s(v, [0, 0, self.rate, 0]);
                u16s(v, [0x55c4, 0]); // language: undetermined
            });
            full(v, b"hdlr", 0, 0, |v| v.extend(b"\0\0\0\0soun\0\0\0\0\0\0\0\0\0\0\0\0audio\0"));
            boxed(v, b"minf", |v| {
                full(v, b"smhd", 0, 0, |v| u32(v, 0));
                boxed(v, b"dinf", |v| {
                    full(v, b"dref", 0, 0, |v| {
                        u32(v, 1);
                        full(v, b"url ", 0, 1, |_| ());
                    });
                });
                boxed(v, b"stbl", |v| self.stbl(v));
            });
        });
    }

    /// One edit: skip the priming, present exactly `samples`. Chromium and ExoPlayer honour exactly
    /// one edit that covers everything; the movie's timescale is the rate, so it is exact.
    fn edit(&self, v: &mut Vec<u8>) {
        u32(v, 1);
        u64(v, self.samples);
        u64(v, u64::from(self.priming));
        u16s(v, [1, 0]);
    }

    fn stbl(&self, v: &mut Vec<u8>) {
        full(v, b"stsd", 0, 0, |v| {
            u32(v, 1);
            self.sample_entry(v);
        });
        full(v, b"stts", 0, 0, |v| u32(v, 0));
        full(v, b"stsc", 0, 0, |v| u32(v, 0));
        full(v, b"stsz", 0, 0, |v| u32s(v, [0, 0]));
        full(v, b"stco", 0, 0, |v| u32(v, 0));
        if matches!(self.setup, Setup::Aac(_)) {
            // A decoder that starts in the middle needs one frame before its first good one
            // (14496-12 §10.1, 'roll'); segments refer to this description.
            full(v, b"sgpd", 1, 0, |v| {
                v.extend(b"roll");
                u32s(v, [2, 1]); // length of a description, descriptions
                v.extend((-1i16).to_be_bytes());
            });
        }
    }

    fn sample_entry(&self, v: &mut Vec<u8>) {
        let kind = match self.setup {
            Setup::Aac(_) => b"mp4a",
            Setup::Flac(_) => b"fLaC",
        };
        boxed(v, kind, |v| {
            v.extend([0, 0, 0, 0, 0, 0, 0, 1]); // data reference 1
            v.extend([0; 8]);
            u16s(v, [self.channels, self.bits]);
            u32(v, 0);
            u32(v, rate_field(self.rate) << 16);
            match &self.setup {
                Setup::Aac(config) => full(v, b"esds", 0, 0, |v| self.esds(v, config)),
                Setup::Flac(info) => full(v, b"dfLa", 0, 0, |v| {
                    u32(v, 0x8000_0000 | STREAMINFO_BYTES as u32); // last block, type 0
                    v.extend(info);
                }),
            }
        });
    }

    /// ES descriptor (ISO 14496-1 §7.2.6.5), tags 3, 4, 5, 6; lengths fit one byte each.
    fn esds(&self, v: &mut Vec<u8>, config: &[u8]) {
        debug_assert!(config.len() <= 64);
        let length = config.len() as u8;
        v.extend([3, 3 + 2 + 13 + 2 + length + 3, 0, 0, 0]);
        v.extend([4, 13 + 2 + length, 0x40, 0x15]); // MPEG-4 audio, audio stream
        v.extend([0, 0x18, 0]); // decoder buffer: 6144 bits a channel (14496-3 §4.5.3.1), 8 channels
        u32s(v, [self.peak_bps, self.average_bps]);
        v.extend([5, length]);
        v.extend(config);
        v.extend([6, 1, 2]);
    }
}

/// One media segment. `frames` are (bytes, length in samples), `decode_time` the sum of the lengths
/// before them, `sequence` counts from 1. `roll` marks AAC, whose decoder needs the frame before.
pub fn encode_segment<F: AsRef<[u8]>>(sequence: u32, decode_time: u64, roll: bool, frames: &[(F, u32)]) -> Vec<u8> {
    let payload: usize = frames.iter().map(|f| f.0.as_ref().len()).sum();
    let mut out = Vec::with_capacity(payload + 8 * frames.len() + 256);
    boxed(&mut out, b"styp", |v| v.extend(b"cmfs\0\0\0\0cmfscmffmsdh"));
    let length = frames.first().map_or(0, |f| f.1);
    let uniform = frames.iter().all(|f| f.1 == length);
    let moof = out.len();
    let mut data_offset = 0;
    boxed(&mut out, b"moof", |v| {
        full(v, b"mfhd", 0, 0, |v| u32(v, sequence));
        boxed(v, b"traf", |v| {
            // default-base-is-moof, default duration and flags (depends on no other sample)
            full(v, b"tfhd", 0, 0x02_0028, |v| u32s(v, [1, length, 0x0200_0000]));
            full(v, b"tfdt", 1, 0, |v| u64(v, decode_time));
            full(v, b"trun", 0, if uniform { 0x201 } else { 0x301 }, |v| {
                u32(v, frames.len() as u32);
                data_offset = v.len();
                u32(v, 0);
                for (bytes, duration) in frames {
                    if !uniform {
                        u32(v, *duration);
                    }
                    u32(v, bytes.as_ref().len() as u32);
                }
            });
            if roll {
                full(v, b"sbgp", 0, 0, |v| {
                    v.extend(b"roll");
                    u32s(v, [1, frames.len() as u32, 1]);
                });
            }
        });
    });
    let to_data = (out.len() - moof + 8) as u32;
    out[data_offset..data_offset + 4].copy_from_slice(&to_data.to_be_bytes());
    boxed(&mut out, b"mdat", |v| frames.iter().for_each(|f| v.extend_from_slice(f.0.as_ref())));
    out
}

/// The sample entry's 16-bit rate: "the greatest expressible regular division" (FLAC in ISOBMFF 0.0.4 §3.3.1).
pub(super) fn rate_field(rate: u32) -> u32 {
    let mut field = rate;
    while field > 0xffff {
        field /= 2;
    }
    field
}

pub(super) const MATRIX: [u32; 9] = [0x1_0000, 0, 0, 0, 0x1_0000, 0, 0, 0, 0x4000_0000];

pub(super) fn boxed(out: &mut Vec<u8>, kind: &[u8; 4], body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([0; 4]);
    out.extend(kind);
    body(out);
    let length = u32::try_from(out.len() - start).expect("a segment is far below 4 GiB");
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

pub(super) fn full(out: &mut Vec<u8>, kind: &[u8; 4], version: u8, flags: u32, body: impl FnOnce(&mut Vec<u8>)) {
    boxed(out, kind, |v| {
        u32(v, u32::from(version) << 24 | flags);
        body(v);
    });
}

pub(super) fn u16(out: &mut Vec<u8>, x: u16) {
    out.extend(x.to_be_bytes());
}

pub(super) fn u32(out: &mut Vec<u8>, x: u32) {
    out.extend(x.to_be_bytes());
}

pub(super) fn u16s<const N: usize>(out: &mut Vec<u8>, values: [u16; N]) {
    values.into_iter().for_each(|x| u16(out, x));
}

pub(super) fn u32s<const N: usize>(out: &mut Vec<u8>, values: [u32; N]) {
    values.into_iter().for_each(|x| u32(out, x));
}

pub(super) fn u64(out: &mut Vec<u8>, x: u64) {
    out.extend(x.to_be_bytes());
}
