//! CMAF video: writes init sections and media segments of H.264, and reads them back to check them.
//!
//! Every picture lasts equally long, a whole number of ticks. Decode times begin at 0 and have no holes; the order of
//! presentation is written as signed offsets (`trun` version 1), so that a segment is presented exactly when it is
//! decoded and no edit list is needed (ISO/IEC 23000-19 §7.5.17, `cmf2`). ISO/IEC 14496-12 (boxes), 14496-15 (`avcC`).

use super::avc::AvcConfig;
use super::read::{Boxes, broken, find, find_some, full as read_full, timescale, u16_at, u32_at, u64_at};
use super::write::{MATRIX, boxed, full, u16, u16s, u32, u32s, u64};
use crate::base::Result;

/// What an init section says. Its encoded length depends only on the record's, so it can be written first with zeros
/// and again when the numbers are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VideoHeader {
    /// The `AVCDecoderConfigurationRecord`.
    pub record: Vec<u8>,
    /// Ticks per second, of the movie and the media.
    pub timescale: u32,
    /// Width in pixels, which are square.
    pub width: u16,
    /// Height in pixels.
    pub height: u16,
    /// Ticks presented; 0 while unknown.
    pub ticks: u64,
}

/// One encoded picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picture<B> {
    /// Its access unit.
    pub bytes: B,
    /// When it is shown minus when it is decoded, in ticks.
    pub shown_after: i32,
    /// Whether decoding can begin here.
    pub sync: bool,
}

/// Flags of a sample that depends on no other, and of one that does (ISO/IEC 14496-12 §8.8.3.1).
const SYNC: u32 = 0x0200_0000;
const DEPENDENT: u32 = 0x0101_0000;
/// `trun`: offset of the data, and for every sample its size, flags and composition offset; version 1.
const TRUN: u32 = 0x0100_0e01;

impl VideoHeader {
    /// The init section: `ftyp` and `moov`.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1024);
        boxed(&mut out, b"ftyp", |v| v.extend(b"cmf2\0\0\0\0iso6mp41cmf2cmfc"));
        boxed(&mut out, b"moov", |v| {
            full(v, b"mvhd", 0, 0, |v| {
                // Times of creation stay 0: same input, same bytes. Duration 0: it is all in fragments.
                u32s(v, [0, 0, self.timescale, 0, 0x1_0000]);
                u16(v, 0x100);
                v.extend([0; 10]);
                u32s(v, MATRIX);
                v.extend([0; 24]);
                u32(v, 2); // next track id
            });
            boxed(v, b"trak", |v| self.trak(v));
            boxed(v, b"mvex", |v| {
                full(v, b"mehd", 1, 0, |v| u64(v, self.ticks));
                full(v, b"trex", 0, 0, |v| u32s(v, [1, 1, 0, 0, 0]));
            });
        });
        out
    }

    fn trak(&self, v: &mut Vec<u8>) {
        full(v, b"tkhd", 0, 7, |v| {
            u32s(v, [0, 0, 1, 0, 0, 0, 0]);
            u16s(v, [0, 0, 0, 0]); // layer, group, volume 0
            u32s(v, MATRIX);
            u32s(v, [u32::from(self.width) << 16, u32::from(self.height) << 16]);
        });
        boxed(v, b"mdia", |v| {
            full(v, b"mdhd", 0, 0, |v| {
                u32s(v, [0, 0, self.timescale, 0]);
                u16s(v, [0x55c4, 0]); // language: undetermined
            });
            full(v, b"hdlr", 0, 0, |v| v.extend(b"\0\0\0\0vide\0\0\0\0\0\0\0\0\0\0\0\0video\0"));
            boxed(v, b"minf", |v| {
                full(v, b"vmhd", 0, 1, |v| u16s(v, [0, 0, 0, 0]));
                boxed(v, b"dinf", |v| {
                    full(v, b"dref", 0, 0, |v| {
                        u32(v, 1);
                        full(v, b"url ", 0, 1, |_| ());
                    });
                });
                boxed(v, b"stbl", |v| {
                    full(v, b"stsd", 0, 0, |v| {
                        u32(v, 1);
                        self.sample_entry(v);
                    });
                    full(v, b"stts", 0, 0, |v| u32(v, 0));
                    full(v, b"stsc", 0, 0, |v| u32(v, 0));
                    full(v, b"stsz", 0, 0, |v| u32s(v, [0, 0]));
                    full(v, b"stco", 0, 0, |v| u32(v, 0));
                });
            });
        });
    }

    fn sample_entry(&self, v: &mut Vec<u8>) {
        boxed(v, b"avc1", |v| {
            v.extend([0, 0, 0, 0, 0, 0, 0, 1]); // data reference 1
            v.extend([0; 16]);
            u16s(v, [self.width, self.height]);
            u32s(v, [0x48_0000, 0x48_0000, 0]); // 72 dpi
            u16(v, 1); // a picture a sample
            v.extend([0; 32]); // no name of a compressor
            u16s(v, [0x18, 0xffff]);
            boxed(v, b"avcC", |v| v.extend(&self.record));
            boxed(v, b"pasp", |v| u32s(v, [1, 1]));
        });
    }
}

/// One media segment. `decode_time` is the ticks of all pictures before, each of which lasts `ticks`; `sequence` counts
/// from 1.
pub fn encode_video_segment<B: AsRef<[u8]>>(
    sequence: u32,
    decode_time: u64,
    ticks: u32,
    pictures: &[Picture<B>],
) -> Vec<u8> {
    let payload: usize = pictures.iter().map(|picture| picture.bytes.as_ref().len()).sum();
    let mut out = Vec::with_capacity(payload + 12 * pictures.len() + 256);
    boxed(&mut out, b"styp", |v| v.extend(b"cmfs\0\0\0\0cmfscmffmsdh"));
    let moof = out.len();
    let mut data_offset = 0;
    boxed(&mut out, b"moof", |v| {
        full(v, b"mfhd", 0, 0, |v| u32(v, sequence));
        boxed(v, b"traf", |v| {
            // default-base-is-moof, default duration and flags
            full(v, b"tfhd", 0, 0x02_0028, |v| u32s(v, [1, ticks, DEPENDENT]));
            full(v, b"tfdt", 1, 0, |v| u64(v, decode_time));
            full(v, b"trun", (TRUN >> 24) as u8, TRUN & 0xff_ffff, |v| {
                u32(v, pictures.len() as u32);
                data_offset = v.len();
                u32(v, 0);
                for picture in pictures {
                    let flags = if picture.sync { SYNC } else { DEPENDENT };
                    u32s(v, [picture.bytes.as_ref().len() as u32, flags, picture.shown_after as u32]);
                }
            });
        });
    });
    let to_data = (out.len() - moof + 8) as u32;
    out[data_offset..data_offset + 4].copy_from_slice(&to_data.to_be_bytes());
    boxed(&mut out, b"mdat", |v| pictures.iter().for_each(|picture| v.extend_from_slice(picture.bytes.as_ref())));
    out
}

/// What an init section was found to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VideoFacts {
    /// What the decoder is told.
    pub config: AvcConfig,
    /// Ticks per second.
    pub timescale: u32,
    /// Length of the presentation (`mehd`), in ticks.
    pub ticks: u64,
}

/// Reads an init section.
///
/// # Errors
/// `Invalid`, naming what is not as we write it.
pub fn decode_video_init(bytes: &[u8]) -> Result<VideoFacts> {
    let mut top = Boxes(bytes);
    top.expect(b"ftyp")?;
    let moov = top.expect(b"moov")?;
    top.expect_end()?;
    let trak = find(moov, b"trak")?;
    let mdia = find(trak, b"mdia")?;
    let scale = timescale(find(mdia, b"mdhd")?)?;
    if timescale(find(moov, b"mvhd")?)? != scale || scale == 0 {
        return Err(broken("mvhd and mdhd have different timescales"));
    }
    if find_some(trak, b"edts")?.is_some() {
        return Err(broken("a picture of ours has no edit list"));
    }
    let stsd = read_full(find(find(find(mdia, b"minf")?, b"stbl")?, b"stsd")?)?.1;
    let entry = match (u32_at(stsd, 0)?, Boxes(&stsd[4..]).next()?) {
        (1, Some((kind, entry))) if &kind == b"avc1" => entry,
        _ => return Err(broken("stsd has not exactly one avc1")),
    };
    let inner = entry.get(78..).unwrap_or_default();
    let config = AvcConfig::decode(find(inner, b"avcC")?)?;
    let said = (u32::from(u16_at(entry, 24)?), u32::from(u16_at(entry, 26)?));
    let pasp = find(inner, b"pasp")?;
    let tkhd = read_full(find(trak, b"tkhd")?)?.1;
    let shown = (u32_at(tkhd, 72)? >> 16, u32_at(tkhd, 76)? >> 16);
    if said != (config.width, config.height) || shown != said {
        let AvcConfig { width, height, .. } = config;
        return Err(broken(format!("the pictures are {width}×{height}, the boxes say {said:?} and {shown:?}")));
    }
    if config.pixel_aspect != (1, 1) || (u32_at(pasp, 0)?, u32_at(pasp, 4)?) != (1, 1) {
        return Err(broken("its pixels are not square"));
    }
    let ticks = u64_at(read_full(find(find(moov, b"mvex")?, b"mehd")?)?.1, 0)?;
    Ok(VideoFacts { config, timescale: scale, ticks })
}

/// A rung being checked, segment by segment, so that only one segment is in memory.
#[derive(Debug)]
pub struct VideoCheck {
    facts: VideoFacts,
    /// Ticks of a picture.
    frame: u32,
    /// Whether every segment is one picture.
    iframes: bool,
    segments: u32,
    frames: u64,
    decode_time: u64,
    /// Where decoding can begin, in pictures.
    syncs: Vec<u64>,
}

impl VideoCheck {
    /// Starts with the init section. `frame` is the ticks of a picture; of `iframes` it is what they are multiples of.
    ///
    /// # Errors
    /// `Invalid`: it cannot be read.
    pub fn begin(init: &[u8], frame: u32, iframes: bool) -> Result<VideoCheck> {
        let facts = decode_video_init(init)?;
        Ok(VideoCheck { facts, frame, iframes, segments: 0, frames: 0, decode_time: 0, syncs: Vec::new() })
    }

    /// What the init section says.
    pub fn init(&self) -> &VideoFacts {
        &self.facts
    }

    /// The next segment: starts where the one before ended, begins with a picture that stands alone, and shows one
    /// picture after the other without a hole. Answers its ticks.
    ///
    /// # Errors
    /// `Invalid`: what it does not.
    pub fn segment(&mut self, bytes: &[u8]) -> Result<u64> {
        let at = self.segments;
        let mut top = Boxes(bytes);
        top.expect(b"styp")?;
        let before_moof = top.0.len();
        let moof = top.expect(b"moof")?;
        let moof_bytes = before_moof - top.0.len();
        let mdat = top.expect(b"mdat")?;
        top.expect_end()?;
        let sequence = u32_at(read_full(find(moof, b"mfhd")?)?.1, 0)?;
        let traf = find(moof, b"traf")?;
        let (tfhd_flags, tfhd) = read_full(find(traf, b"tfhd")?)?;
        let (tfdt_flags, tfdt) = read_full(find(traf, b"tfdt")?)?;
        let (trun_flags, trun) = read_full(find(traf, b"trun")?)?;
        if (tfhd_flags & 0xff_ffff, tfdt_flags >> 24, trun_flags) != (0x02_0028, 1, TRUN) {
            return Err(broken(format!("segment {at} has other flags than we write")));
        }
        let (ticks, decode_time) = (u32_at(tfhd, 4)?, u64_at(tfdt, 0)?);
        if sequence != at + 1 || decode_time != self.decode_time {
            let wanted = self.decode_time;
            return Err(broken(format!("segment {at} is number {sequence} at {decode_time}, not at {wanted}")));
        }
        let count = u32_at(trun, 0)?;
        let table = trun.get(8..).unwrap_or_default();
        if u32_at(trun, 4)? as usize != moof_bytes + 8 || count == 0 || table.len() as u64 != u64::from(count) * 12 {
            return Err(broken(format!("the table of segment {at} does not fit")));
        }
        let whole = if self.iframes { count == 1 && ticks.is_multiple_of(self.frame) } else { ticks == self.frame };
        if !whole || ticks == 0 {
            return Err(broken(format!("pictures of segment {at} last {ticks} ticks, not {}", self.frame)));
        }
        let mut shown = vec![false; count as usize];
        let mut data = mdat;
        for (number, entry) in table.chunks_exact(12).enumerate() {
            let (size, flags, after) = (u32_at(entry, 0)?, u32_at(entry, 4)?, u32_at(entry, 8)? as i32);
            let (picture, rest) = data
                .split_at_checked(size as usize)
                .ok_or_else(|| broken(format!("the pictures of segment {at} are longer than its mdat")))?;
            data = rest;
            let sync = self.facts.config.is_idr(picture)?;
            if sync != (flags == SYNC) || (number == 0 && !sync) {
                return Err(broken(format!("picture {number} of segment {at} is marked wrongly")));
            }
            if sync {
                self.syncs.push(self.frames + number as u64);
            }
            // Every place is taken once: nothing refers to a time outside of its segment.
            let place = number as i64 * i64::from(ticks) + i64::from(after);
            let place = usize::try_from(place).ok().filter(|place| place.is_multiple_of(ticks as usize));
            match place.and_then(|place| shown.get_mut(place / ticks as usize)) {
                Some(taken) if !*taken => *taken = true,
                _ => return Err(broken(format!("picture {number} of segment {at} is shown out of order"))),
            }
        }
        if !data.is_empty() {
            return Err(broken(format!("segment {at} has bytes that are no picture")));
        }
        let lasts = u64::from(ticks) * u64::from(count);
        self.segments += 1;
        self.decode_time += lasts;
        self.frames += u64::from(count);
        Ok(lasts)
    }

    /// The end: the segments must add up to what the init section promises. Answers where decoding can begin, in
    /// pictures.
    ///
    /// # Errors
    /// `Invalid`: they do not.
    pub fn finish(self) -> Result<Vec<u64>> {
        match self.decode_time == self.facts.ticks && self.segments > 0 {
            true => Ok(self.syncs),
            false => Err(broken(format!("segments of {} ticks, mehd says {}", self.decode_time, self.facts.ticks))),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::avc::tests::RECORD;
    use super::*;

    fn header() -> VideoHeader {
        VideoHeader { record: RECORD.to_vec(), timescale: 25_000, width: 640, height: 360, ticks: 5_000 }
    }

    fn picture(kind: u8, shown_after: i32) -> Picture<Vec<u8>> {
        Picture { bytes: vec![0, 0, 0, 3, kind, 1, 2], shown_after, sync: kind == 5 }
    }

    /// I P B B, then a group of one.
    fn segments() -> [Vec<u8>; 2] {
        let first = [picture(5, 0), picture(1, 2_000), picture(1, -1_000), picture(1, -1_000)];
        [encode_video_segment(1, 0, 1_000, &first), encode_video_segment(2, 4_000, 1_000, &[picture(5, 0)])]
    }

    #[test]
    fn what_is_written_reads_back() {
        let facts = decode_video_init(&header().encode()).unwrap();
        assert_eq!((facts.config.codecs.as_str(), facts.timescale, facts.ticks), ("avc1.64001e", 25_000, 5_000));
        assert_eq!((facts.config.width, facts.config.height), (640, 360));
        let mut check = VideoCheck::begin(&header().encode(), 1_000, false).unwrap();
        let [first, second] = segments();
        assert_eq!((check.segment(&first).unwrap(), check.segment(&second).unwrap()), (4_000, 1_000));
        assert_eq!(check.finish().unwrap(), [0, 4]);
    }

    #[test]
    fn an_init_section_keeps_its_length_when_the_number_becomes_known() {
        assert_eq!(VideoHeader { ticks: 0, ..header() }.encode().len(), header().encode().len());
    }

    #[test]
    fn segments_that_do_not_stand_alone_or_show_holes_are_refused() {
        let check = |pictures: &[Picture<Vec<u8>>], word: &str| {
            let mut check = VideoCheck::begin(&header().encode(), 1_000, false).unwrap();
            let error = check.segment(&encode_video_segment(1, 0, 1_000, pictures)).unwrap_err().chain();
            assert!(error.contains(word), "{error}");
        };
        check(&[picture(1, 0)], "marked wrongly");
        check(&[Picture { sync: false, ..picture(5, 0) }], "marked wrongly");
        check(&[picture(5, 0), picture(1, 1_000)], "out of order");
        check(&[picture(5, 0), picture(1, -1_000)], "out of order");
        check(&[picture(5, 500)], "out of order");
        check(&[picture(5, -1_000)], "out of order");
        check(&[], "does not fit");
        let mut early = VideoCheck::begin(&header().encode(), 1_000, false).unwrap();
        assert!(early.segment(&segments()[1]).unwrap_err().chain().contains("number 2"));
        let mut other = VideoCheck::begin(&header().encode(), 2_000, false).unwrap();
        assert!(other.segment(&segments()[0]).unwrap_err().chain().contains("last 1000 ticks"));
        let mut short = VideoCheck::begin(&header().encode(), 1_000, false).unwrap();
        short.segment(&segments()[0]).unwrap();
        assert!(short.finish().unwrap_err().chain().contains("mehd says"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// The reader meets only bytes of the child, which may be taken over.
        #[test]
        fn damaged_bytes_are_errors_and_never_a_panic(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            cut in any::<prop::sample::Index>(),
            init in any::<bool>(),
        ) {
            let mut bytes = if init { header().encode() } else { segments()[0].clone() };
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            for bytes in [&bytes[..], &bytes[..cut.index(bytes.len())]] {
                let _ = decode_video_init(bytes);
                let _ = VideoCheck::begin(&header().encode(), 1_000, false).unwrap().segment(bytes);
            }
        }
    }
}
