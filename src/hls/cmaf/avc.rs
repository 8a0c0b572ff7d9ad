//! What H.264 says about itself. In: an `AVCDecoderConfigurationRecord` (ISO/IEC 14496-15 §5.3.3.1) and access units
//! of length-prefixed NAL units. Out: the codec string, the picture's size, which pictures stand alone. Every length
//! is checked before it is used.

use super::read::broken;
use crate::base::Result;

/// What the decoder is told before the first picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AvcConfig {
    /// RFC 6381 codec string: `avc1.` and profile, constraints and level of the sequence parameter set.
    pub codecs: String,
    /// Width in pixels after cropping.
    pub width: u32,
    /// Height in pixels after cropping.
    pub height: u32,
    /// Width to height of a pixel; square when it says nothing.
    pub pixel_aspect: (u32, u32),
    /// Bytes of a NAL unit's length: 1, 2 or 4.
    length_bytes: usize,
}

impl AvcConfig {
    /// Reads a record that has exactly one sequence parameter set.
    ///
    /// # Errors
    /// `Invalid`: what makes no sense.
    pub fn decode(record: &[u8]) -> Result<AvcConfig> {
        let [1, profile, constraints, level, lengths, sets, more @ ..] = record else {
            return Err(broken("avcC is too short"));
        };
        let length = more.first_chunk::<2>().map(|bytes| usize::from(u16::from_be_bytes(*bytes)));
        let set = length.and_then(|length| more.get(2..2 + length));
        let Some(set) = set.filter(|set| sets & 31 == 1 && set.len() > 4) else {
            return Err(broken("avcC has not one sequence parameter set"));
        };
        if set[0] & 31 != 7 || set[1..4] != [*profile, *constraints, *level] {
            return Err(broken("avcC and its sequence parameter set differ"));
        }
        let codecs = format!("avc1.{profile:02x}{constraints:02x}{level:02x}");
        let length_bytes = match lengths & 3 {
            2 => return Err(broken("avcC has lengths of three bytes")),
            n => usize::from(n) + 1,
        };
        let (width, height, pixel_aspect) =
            size_of(&unescaped(&set[1..])).ok_or_else(|| broken("the sequence parameter set cannot be read"))?;
        Ok(AvcConfig { codecs, width, height, pixel_aspect, length_bytes })
    }

    /// Whether an access unit is an instantaneous decoder refresh: all of its slices are, or none is.
    ///
    /// # Errors
    /// `Invalid` when its NAL units do not fill it, or it mixes both.
    pub fn is_idr(&self, mut unit: &[u8]) -> Result<bool> {
        let (mut idr, mut other) = (false, false);
        while !unit.is_empty() {
            let wrong = || broken("the NAL units of a picture do not fill it");
            let (head, rest) = unit.split_at_checked(self.length_bytes).ok_or_else(wrong)?;
            let length = head.iter().fold(0usize, |sum, byte| sum << 8 | usize::from(*byte));
            let (nal, rest) = rest.split_at_checked(length).filter(|(nal, _)| !nal.is_empty()).ok_or_else(wrong)?;
            match nal[0] & 31 {
                1..=4 => other = true,
                5 => idr = true,
                _ => {}
            }
            unit = rest;
        }
        match (idr, other) {
            (idr, other) if idr != other => Ok(idr),
            _ => Err(broken("a picture has no slices, or slices of two kinds")),
        }
    }
}

/// A record of high profile with the sampling and depths that belong behind its parameter sets, and that GStreamer leaves
/// out: 4:2:0, 8 bits.
pub fn completed(mut record: Vec<u8>) -> Vec<u8> {
    let sets = |mut at: usize, count: u8| {
        for _ in 0..count {
            let length = record.get(at..at + 2).and_then(|bytes| bytes.first_chunk::<2>())?;
            at += 2 + usize::from(u16::from_be_bytes(*length));
        }
        Some(at)
    };
    let end = (|| {
        let pictures = sets(6, record.get(5)? & 31)?;
        sets(pictures + 1, *record.get(pictures)?)
    })();
    if record.get(1) == Some(&100) && end == Some(record.len()) {
        record.extend([0xfd, 0xf8, 0xf8, 0]);
    }
    record
}

/// Bytes without the 3 that keeps start codes out of them (ITU-T H.264 §7.3.1).
fn unescaped(bytes: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::with_capacity(bytes.len());
    let mut zeros = 0;
    for byte in bytes {
        if zeros >= 2 && *byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if *byte == 0 { zeros + 1 } else { 0 };
        out.push(*byte);
    }
    out
}

/// Width, height and pixel aspect of a sequence parameter set (ITU-T H.264 §7.3.2.1.1 and E.1.1).
fn size_of(set: &[u8]) -> Option<(u32, u32, (u32, u32))> {
    let mut bits = Bits { bytes: set, at: 24 };
    bits.golomb()?; // its number
    let mut chroma = 1;
    if matches!(set.first()?, 100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128) {
        chroma = bits.golomb()?;
        if chroma == 3 {
            bits.take(1)?;
        }
        bits.golomb()?; // bit depths
        bits.golomb()?;
        bits.take(1)?;
        if bits.take(1)? == 1 {
            return None; // scaling lists: no encoder of ours writes them
        }
    }
    bits.golomb()?;
    match bits.golomb()? {
        0 => drop(bits.golomb()?),
        1 => return None, // a cycle of picture orders: the same
        _ => {}
    }
    bits.golomb()?; // reference pictures
    bits.take(1)?;
    let width = (bits.golomb()? + 1).checked_mul(16)?;
    let units = bits.golomb()? + 1;
    let frames_only = bits.take(1)?;
    let height = units.checked_mul(16)?.checked_mul(2 - frames_only)?;
    if frames_only == 0 {
        bits.take(1)?;
    }
    bits.take(1)?;
    let (mut left_right, mut top_bottom) = (0, 0);
    if bits.take(1)? == 1 {
        let (x, y) = match chroma {
            0 | 3 => (1, 1),
            1 => (2, 2),
            _ => (2, 1),
        };
        left_right = (bits.golomb()?.checked_add(bits.golomb()?)?).checked_mul(x)?;
        top_bottom = (bits.golomb()?.checked_add(bits.golomb()?)?).checked_mul(y * (2 - frames_only))?;
    }
    let mut aspect = (1, 1);
    if bits.take(1)? == 1 && bits.take(1)? == 1 {
        aspect = match bits.take(8)? {
            255 => (bits.take(16)?, bits.take(16)?),
            // Table E-1 has 16 others; square is the only one that is written here.
            1 => (1, 1),
            other => (other, 0),
        };
    }
    Some((width.checked_sub(left_right)?, height.checked_sub(top_bottom)?, aspect))
}

struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn take(&mut self, count: usize) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            let byte = self.bytes.get(self.at / 8)?;
            value = value << 1 | u32::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Some(value)
    }

    /// An unsigned Exp-Golomb code below 2^20 (§9.1): nothing in a parameter set is larger.
    fn golomb(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while self.take(1)? == 0 {
            zeros += 1;
            if zeros > 20 {
                return None;
            }
        }
        Some((1 << zeros) - 1 + self.take(zeros)?)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What x264enc gives for 640×360 at level 3, high profile, square pixels.
    pub(in super::super) const RECORD: &[u8] = &[
        1, 0x64, 0, 0x1e, 0xff, 0xe1, 0, 0x1e, 0x67, 0x64, 0, 0x1e, 0xac, 0xd9, 0x40, 0xa0, 0x2f, 0xf9, 0x70, 0x16,
        0xa0, 0xc0, 0xc0, 0xd4, 0xa0, 0, 0, 3, 0, 0x20, 0, 0, 6, 0x51, 0xe2, 0xc5, 0xb2, 0xc0, 1, 0, 4, 0x68, 0xef,
        0x8b, 0xcb,
    ];

    #[test]
    fn a_record_says_size_codec_and_shape() {
        let config = AvcConfig::decode(RECORD).unwrap();
        assert_eq!((config.codecs.as_str(), config.width, config.height), ("avc1.64001e", 640, 360));
        assert_eq!((config.pixel_aspect, config.length_bytes), ((1, 1), 4));
    }

    #[test]
    fn a_high_profile_record_gets_the_format_that_it_lacks() {
        let whole = completed(RECORD.to_vec());
        assert_eq!(whole[RECORD.len()..], [0xfd, 0xf8, 0xf8, 0]);
        assert_eq!(completed(whole.clone()), whole);
        assert_eq!(AvcConfig::decode(&whole).unwrap(), AvcConfig::decode(RECORD).unwrap());
        let mut main = RECORD.to_vec();
        main[1] = 77;
        assert_eq!(completed(main.clone()), main);
        assert_eq!(completed(vec![1, 100]), [1, 100]);
    }

    #[test]
    fn lengths_and_kinds_of_nal_units_are_checked() {
        let config = AvcConfig { codecs: String::new(), width: 2, height: 2, pixel_aspect: (1, 1), length_bytes: 4 };
        let unit = |kinds: &[u8]| kinds.iter().flat_map(|kind| [0, 0, 0, 2, *kind, 9]).collect::<Vec<u8>>();
        assert!(config.is_idr(&unit(&[6, 5, 5])).unwrap());
        assert!(!config.is_idr(&unit(&[1])).unwrap());
        assert!(config.is_idr(&unit(&[5, 1])).is_err());
        assert!(config.is_idr(&unit(&[6])).is_err());
        assert!(config.is_idr(&unit(&[1])[..5]).is_err());
        assert!(config.is_idr(&[0, 0, 0, 0]).is_err());
    }

    #[test]
    fn damaged_records_are_errors_and_never_a_panic() {
        for cut in 0..RECORD.len() {
            let _ = AvcConfig::decode(&RECORD[..cut]);
            for bit in 0..8 {
                let mut damaged = RECORD.to_vec();
                damaged[cut] ^= 1 << bit;
                let _ = AvcConfig::decode(&damaged);
            }
        }
        assert!(AvcConfig::decode(&[]).is_err());
    }
}
