//! What will be made. In: the decoded format and the ladder. Out: rates, channels, depths and segment
//! lengths of every rung, or why not. Pure, and the same in the parent and in the child.

use serde::{Deserialize, Serialize};

use super::sandbox::{Sandbox, Trial};
use super::source::Arrivals;
use super::video::plan::Task;
use crate::base::{Error, Result};
use crate::hls::ladder::{self, AAC_FRAME, Encoder, FLAC_BLOCK, Ladder};
use crate::hls::version::{Family, Skipped};

/// What the parent asks of the child; its only argument.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Plan {
    /// What to make; `None` only measures.
    pub(super) ladder: Option<Ladder>,
    /// Length of the source in bytes.
    pub(super) input_bytes: u64,
    /// Set when the source is still arriving.
    pub(super) arrivals: Option<Arrivals>,
    /// Samples to leave out.
    pub(super) trim: Option<Trim>,
    /// Bytes of the source to read differently.
    pub(super) patches: Vec<Patch>,
    /// Where the samples lie that need no decoder; `None`: find out.
    pub(super) linear: Option<Linear>,
    /// Depth the container states, where decoders say more than there is.
    pub(super) bits: Option<u32>,
    /// Where its channels are, where decoders do not say.
    pub(super) mask: Option<u64>,
    /// Bit rate of a source whose codec is lossy, where that is known.
    pub(super) lossy_bps: Option<u64>,
    /// Bits per sample of the MD5 that is wanted: 16 or 24.
    pub(super) md5_bits: Option<u32>,
    /// Where the preview begins in the source, in milliseconds; `None`: at the loudest.
    pub(super) preview_start_ms: Option<u64>,
    /// Longest source accepted, in seconds.
    pub(super) duration_s_max: u64,
    /// Address space, in bytes.
    pub(super) memory_bytes_max: u64,
    /// Processor time, in seconds.
    pub(super) cpu_s_max: u64,
    /// What to do where the sandbox has a gap.
    pub(super) sandbox: Sandbox,
    /// What to do instead of decoding, in tests of the sandbox.
    pub(super) trial: Option<Trial>,
    /// What to do with the picture; `None`: it is about the sound.
    pub(super) video: Option<Task>,
    /// Silence around the sound of a film.
    pub(super) pad: Option<Pad>,
}

/// Silence that makes a sound begin and end with its picture, in samples at `rate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pad {
    /// Samples before the first.
    pub(super) before: u64,
    /// Length of the whole, when the sound ends earlier.
    pub(super) until: Option<u64>,
    /// The rate both count in.
    pub(super) rate: u32,
}

impl Plan {
    /// What somebody whose input cannot be decoded should do.
    pub(super) fn advice(&self) -> &'static str {
        match self.video {
            None => "export it again as WAV or FLAC",
            Some(_) => "export it again as MP4 (H.264 and AAC)",
        }
    }
}

/// Encoder delay and padding that the container declares, in samples at `rate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Trim {
    /// Samples to drop at the start.
    pub(super) start: u64,
    /// Samples to keep after them; `None`: all.
    pub(super) length: Option<u64>,
    /// The rate both count in.
    pub(super) rate: u32,
}

/// Samples as they are heard, interleaved, one after the other to the end of the input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Linear {
    /// Offset of the first.
    pub(super) at: u64,
    /// GStreamer's name of their layout: `s24le`.
    pub(super) layout: String,
    /// Samples per second.
    pub(super) rate: u32,
    /// 1 or 2.
    pub(super) channels: u32,
}

/// Four bytes that the decoder shall see instead of what is in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Patch {
    /// Offset in the file.
    pub(super) at: u64,
    /// What to see there.
    pub(super) bytes: [u8; 4],
}

/// The decoded source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Format {
    /// Samples per second.
    pub(super) rate: u32,
    /// Channels.
    pub(super) channels: u32,
    /// Bits per sample; 32 for float.
    pub(super) bits: u32,
    /// Whether the samples are floating point.
    pub(super) float: bool,
    /// Where its channels are, a bit for each place, GStreamer's numbers; 0 of one or two, or where nobody knows.
    pub(super) mask: u64,
}

/// One rung, settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RungPlan {
    /// The ladder's rung.
    pub(super) rung: ladder::Rung,
    /// Samples per second.
    pub(super) rate: u32,
    /// Channels.
    pub(super) channels: u32,
    /// Which channel of the source each of them is, `None` for silence; `None` for all: as they come, or mixed.
    pub(super) spread: Option<Vec<Option<usize>>>,
    /// Bits per sample.
    pub(super) bits: u32,
    /// Presented samples in every segment but the last.
    pub(super) segment_samples: u64,
    /// A last segment of at most so many samples is part of the one before it. A multiple of what it is on
    /// the rung with the lowest rate, like `segment_samples`, so that all rungs decide alike.
    pub(super) tail_samples: u64,
    /// Whether it is the preview and not a rung.
    pub(super) preview: bool,
}

/// Channels of 5.1, the most that is accepted.
const CHANNELS_MAX: u32 = 6;
/// Places by GStreamer's numbers of channel positions: front left, right, centre, LFE, rear left, right, centre, side
/// left, right.
const PLACES: [(u32, &str); 9] =
    [(0, "FL"), (1, "FR"), (2, "FC"), (3, "LFE"), (4, "BL"), (5, "BR"), (8, "BC"), (10, "SL"), (11, "SR")];
/// What FLAC's channels are, for three to eight of them (RFC 9639 §9.1.3).
const FLAC_LAYOUTS: [&[u32]; 6] = [
    &[0, 1, 2],
    &[0, 1, 4, 5],
    &[0, 1, 2, 4, 5],
    &[0, 1, 2, 3, 4, 5],
    &[0, 1, 2, 3, 8, 10, 11],
    &[0, 1, 2, 3, 4, 5, 10, 11],
];
const REAR: u64 = 1 << 4 | 1 << 5;
const SIDE: u64 = 1 << 10 | 1 << 11;
/// Length of a preview in seconds: "30 seconds" is what the page says, and no decoder gives more.
const PREVIEW_S: u32 = 30;
/// Bits that AAC can use for a sample, tenths: 320 kbit/s for 48 kHz stereo is all that anybody hears, and half as
/// much for half the samples.
const USEFUL_BITS_TENTHS: u64 = 33;
/// A rung is as good as its source from nine tenths of the source's bit rate on: MP3 headers and tags count too.
const AS_GOOD_TENTHS: u64 = 9;
/// Bit rate of the preview: plain enough for a taste, clean enough to want more.
const PREVIEW_BPS: u32 = 128_000;

impl RungPlan {
    /// The name of its file.
    pub(super) fn file_name(&self) -> String {
        if self.preview { "preview.m4a".to_owned() } else { self.rung.object_name() }
    }

    /// Samples in an encoded frame.
    pub(super) fn frame(&self) -> u32 {
        if self.rung.family == Family::Flac { FLAC_BLOCK } else { AAC_FRAME }
    }

    /// Samples the decoder gives before the first of the source.
    pub(super) fn priming(&self) -> u32 {
        Encoder::priming(self.rung.encoder)
    }

    /// The most samples a preview has. With the priming they are whole frames of at most 30 s, so that players which
    /// know no edit list do not play more either.
    pub(super) fn preview_samples_max(&self) -> u32 {
        PREVIEW_S * self.rate / AAC_FRAME * AAC_FRAME - self.priming()
    }
}

impl Format {
    /// Refuses what no rung can carry.
    ///
    /// # Errors
    /// `Invalid`, saying which number is out of which range.
    pub(super) fn check(&self) -> Result<()> {
        // A damaged header can claim anything; an absurd rate would make time-bounded queues unbounded.
        if !(8_000..=384_000).contains(&self.rate) {
            return Err(Error::invalid(format!(
                "its sample rate of {} Hz is not between 8000 and 384000 Hz; export it at 44100 or 48000 Hz",
                self.rate
            )));
        }
        match self.channels {
            1..=CHANNELS_MAX => Ok(()),
            0 => Err(Error::invalid("its header says that it has no channels; export it again")),
            n => Err(Error::invalid(format!(
                "it has {n} channels, at most {CHANNELS_MAX} (5.1) are accepted; export it as stereo or 5.1"
            ))),
        }
    }

    /// The rate all AAC rungs run at: the base of the source's family.
    pub(super) fn aac_rate(&self) -> u32 {
        if self.rate.is_multiple_of(11_025) { 44_100 } else { 48_000 }
    }

    /// Which channel of the source each of FLAC's is, where FLAC has no layout of just these: what is over is silent.
    /// `None` where channels are as they come: most sources, those whose places nobody knows, and those FLAC has none for.
    pub(super) fn spread(&self) -> Option<Vec<Option<usize>>> {
        if self.channels < 3 || self.mask.count_ones() != self.channels {
            return None;
        }
        let places: Vec<u32> = (0..64).filter(|place| self.mask & 1 << place != 0).collect();
        // Who has one pair beside or behind the listener means the same by both.
        let (rear, side) = (self.mask & REAR, self.mask & SIDE);
        let other = |place: &u32| match place {
            4 | 5 if rear == REAR && side == 0 => place + 6,
            10 | 11 if side == SIDE && rear == 0 => place - 6,
            _ => *place,
        };
        let fitting = |places: Vec<u32>| {
            let layout = FLAC_LAYOUTS.iter().find(|layout| places.iter().all(|place| layout.contains(place)))?;
            let from = |place: &u32| places.iter().position(|other| other == place);
            Some(layout.iter().map(from).collect::<Vec<_>>())
        };
        let moved = places.iter().map(other).collect();
        let found = [places, moved].into_iter().filter_map(fitting).min_by_key(Vec::len)?;
        let plain =
            found.len() == self.channels as usize && found.iter().enumerate().all(|(at, from)| *from == Some(at));
        (!plain).then_some(found)
    }

    /// Its places in words, `FL+FR+LFE`, where FLAC has no layout of just these.
    pub(super) fn layout(&self) -> Option<String> {
        self.spread()?;
        let names = PLACES.iter().filter(|(place, _)| self.mask & 1 << place != 0).map(|(_, name)| *name);
        Some(names.collect::<Vec<_>>().join("+"))
    }

    fn flac_rate(&self) -> u32 {
        match self.rate {
            44_100 | 48_000 | 88_200 | 96_000 | 176_400 | 192_000 => self.rate,
            // Others have no whole number of blocks in a segment.
            _ => self.aac_rate(),
        }
    }

    /// Everything that is encoded: the rungs of the ladder, then the preview, which needs an AAC rung to
    /// be cut from. `lossy_bps` is the source's bit rate when its codec is lossy.
    pub(super) fn outputs(&self, ladder: &Ladder, lossy_bps: Option<u64>) -> Vec<RungPlan> {
        let mut outputs = self.rungs(ladder, lossy_bps);
        if let Some(aac) = outputs.iter().find(|plan| plan.rung.family == Family::Aac).cloned() {
            let rung = ladder::Rung { name: "preview".into(), bitrate_bps: PREVIEW_BPS, ..aac.rung.clone() };
            outputs.push(RungPlan { rung, preview: true, ..aac });
        }
        outputs
    }

    /// Every rung of the ladder for this source.
    fn rungs(&self, ladder: &Ladder, lossy_bps: Option<u64>) -> Vec<RungPlan> {
        let aac_rate = self.aac_rate();
        let segment = u64::from(ladder.segment_samples(aac_rate));
        // A quarter of a second: added to six seconds it still rounds to a target duration of six.
        let tail = u64::from(aac_rate / 4);
        let settle = |rung: &ladder::Rung| match rung.family {
            Family::Aac | Family::Video => RungPlan {
                rung: rung.clone(),
                rate: aac_rate,
                channels: self.channels.min(2),
                spread: None,
                bits: 16,
                segment_samples: segment,
                tail_samples: tail,
                preview: false,
            },
            Family::Flac => RungPlan {
                rung: rung.clone(),
                rate: self.flac_rate(),
                channels: self.spread().map_or(self.channels, |spread| spread.len() as u32),
                spread: self.spread(),
                bits: if self.float || self.bits > 16 { 24 } else { 16 },
                segment_samples: segment * u64::from(self.flac_rate() / aac_rate),
                tail_samples: tail * u64::from(self.flac_rate() / aac_rate),
                preview: false,
            },
        };
        let useful = |rung: &&ladder::Rung| self.why_not(ladder, rung, lossy_bps).is_none();
        ladder.rungs.iter().filter(useful).map(settle).collect()
    }

    /// The rungs that are not made, and why.
    pub(super) fn skipped(&self, ladder: &Ladder, lossy_bps: Option<u64>) -> Vec<Skipped> {
        let skipped = |rung: &ladder::Rung| {
            let why = self.why_not(ladder, rung, lossy_bps)?;
            Some(Skipped { path: rung.path(), nominal_bps: rung.bitrate_bps.into(), why })
        };
        ladder.rungs.iter().filter_map(skipped).collect()
    }

    /// Why a rung could add nothing: a lower one has as many bits as the source has, or as its samples can use.
    fn why_not(&self, ladder: &Ladder, rung: &ladder::Rung, lossy_bps: Option<u64>) -> Option<String> {
        let lower = || {
            let lower = ladder.rungs.iter().take_while(|other| other.name != rung.name);
            lower.filter(|other| other.family == Family::Aac && rung.family == Family::Aac)
        };
        let as_good = |source: &u64| lower().find(|r| u64::from(r.bitrate_bps) * 10 >= source * AS_GOOD_TENTHS);
        if let Some((source, other)) = lossy_bps.and_then(|source| Some((source, as_good(&source)?))) {
            let kbps = source.div_ceil(1000);
            return Some(format!("the source is lossy and has {kbps} kbit/s, {} is as good", other.path()));
        }
        let channels = self.channels.min(2);
        let useful_bps = u64::from(self.rate) * u64::from(channels) * USEFUL_BITS_TENTHS / 10;
        let other = lower().find(|other| u64::from(other.bitrate_bps) >= useful_bps)?;
        let sound = if channels == 1 { "mono" } else { "stereo" };
        Some(format!("{} has all the bits that {} Hz {sound} can use", other.path(), self.rate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_source_gets_rates_channels_and_depths() {
        let check = |(rate, channels, bits, float), aac: (u32, u32), flac: (u32, u32, u32), segment: u64| {
            let rungs = Format { rate, channels, bits, float, mask: 0 }.outputs(&Ladder::default_audio(), None);
            let (a, f) = (&rungs[0], &rungs[rungs.len() - 2]);
            let preview = &rungs[rungs.len() - 1];
            let all = preview.preview_samples_max() + preview.priming();
            assert!(preview.preview && all <= 30 * a.rate && all > 30 * a.rate - 1024 && all.is_multiple_of(1024));
            assert_eq!((a.rate, a.channels), aac, "{rate}");
            assert_eq!((f.rate, f.channels, f.bits), flac, "{rate}");
            assert_eq!(f.segment_samples, segment, "{rate}");
            assert_eq!(a.segment_samples * u64::from(f.rate), f.segment_samples * u64::from(a.rate), "{rate}");
            assert_eq!(f.segment_samples % 4096, 0, "{rate}");
            assert_eq!(f.tail_samples, u64::from(f.rate / 4), "{rate}");
            assert_eq!(a.tail_samples, u64::from(a.rate / 4), "{rate}");
        };
        check((44_100, 2, 16, false), (44_100, 2), (44_100, 2, 16), 266_240);
        check((48_000, 1, 24, false), (48_000, 1), (48_000, 1, 24), 294_912);
        check((96_000, 6, 32, true), (48_000, 2), (96_000, 6, 24), 589_824);
        check((176_400, 2, 24, false), (44_100, 2), (176_400, 2, 24), 1_064_960);
        check((192_000, 2, 32, false), (48_000, 2), (192_000, 2, 24), 1_179_648);
        check((8_000, 1, 8, false), (48_000, 1), (48_000, 1, 16), 294_912);
        check((22_050, 3, 16, false), (44_100, 2), (44_100, 3, 16), 266_240);
        check((64_000, 2, 16, false), (48_000, 2), (48_000, 2, 16), 294_912);
    }

    #[test]
    fn rungs_that_add_nothing_are_skipped_and_say_so() {
        let check = |(rate, channels), lossy_bps, made: &[&str], why: &str| {
            let format = Format { rate, channels, bits: 16, float: false, mask: 0 };
            let ladder = Ladder::default_audio();
            let plans = format.outputs(&ladder, lossy_bps);
            let names: Vec<_> = plans.iter().filter(|p| !p.preview).map(|p| p.rung.path()).collect();
            assert_eq!(names, made, "{rate} Hz, {channels} channels, {lossy_bps:?}");
            let skipped = format.skipped(&ladder, lossy_bps);
            assert_eq!(skipped.len() + made.len(), 5);
            assert!(skipped.last().is_none_or(|s| s.path == "aac/256" && s.nominal_bps == 256_000));
            assert!(skipped.iter().all(|s| s.why.contains(why)), "{skipped:?}");
        };
        let all = ["aac/64", "aac/96", "aac/160", "aac/256", "flac"];
        let to_160 = ["aac/64", "aac/96", "aac/160", "flac"];
        check((44_100, 2), None, &all, "");
        check((192_000, 6), None, &all, "");
        check((32_000, 2), None, &all, "");
        check((22_050, 2), None, &to_160, "aac/160 has all the bits that 22050 Hz stereo can use");
        check((48_000, 1), None, &to_160, "aac/160 has all the bits that 48000 Hz mono can use");
        check((8_000, 1), None, &["aac/64", "flac"], "aac/64 has all the bits that 8000 Hz mono can use");
        check((44_100, 2), Some(320_000), &all, "");
        check((44_100, 2), Some(128_500), &to_160, "the source is lossy and has 129 kbit/s, aac/160 is as good");
        check((44_100, 2), Some(64_100), &["aac/64", "flac"], "has 65 kbit/s");
        check((44_100, 2), Some(8_000), &["aac/64", "flac"], "has 8 kbit/s");
    }

    #[test]
    fn channels_that_flac_has_no_layout_for_lie_among_silent_ones() {
        let check = |mask: u64, spread: Option<&[isize]>, layout: Option<&str>| {
            let format = Format { rate: 48_000, channels: mask.count_ones(), bits: 16, float: false, mask };
            let wanted = spread.map(|s| s.iter().map(|at| usize::try_from(*at).ok()).collect::<Vec<_>>());
            assert_eq!(format.spread(), wanted, "{mask:#x}");
            assert_eq!(format.layout().as_deref(), layout, "{mask:#x}");
            let flac =
                format.outputs(&Ladder::default_audio(), None).into_iter().find(|plan| plan.rung.name.is_empty());
            let channels = spread.map_or(mask.count_ones(), |spread| spread.len() as u32);
            assert_eq!(flac.unwrap().channels, channels, "{mask:#x}");
        };
        for plain in [0x3, 0x7, 0x33, 0xc03, 0x37, 0xc07, 0x3f, 0xc0f] {
            check(plain, None, None);
        }
        check(0xb, Some(&[0, 1, -1, 2, -1, -1]), Some("FL+FR+LFE"));
        check(0xf, Some(&[0, 1, 2, 3, -1, -1]), Some("FL+FR+FC+LFE"));
        check(0x3b, Some(&[0, 1, -1, 2, 3, 4]), Some("FL+FR+LFE+BL+BR"));
        check(0xc0b, Some(&[0, 1, -1, 2, 3, 4]), Some("FL+FR+LFE+SL+SR"));
        check(0x107, Some(&[0, 1, 2, -1, 3, -1, -1]), Some("FL+FR+FC+BC"));
        check(0x103, Some(&[0, 1, -1, -1, 2, -1, -1]), Some("FL+FR+BC"));
        check(0x137, Some(&[0, 1, 2, -1, 5, 3, 4]), Some("FL+FR+FC+BL+BR+BC"));
        check(0xc33, Some(&[0, 1, -1, -1, 2, 3, 4, 5]), Some("FL+FR+BL+BR+SL+SR"));
        // Beside the centre: FLAC has no place for these.
        check(0xc7, None, None);
        let unknown = Format { rate: 48_000, channels: 4, bits: 16, float: false, mask: 0 };
        assert_eq!(unknown.spread(), None);
    }

    #[test]
    fn absurd_formats_are_refused_with_the_range() {
        let format = Format { rate: 2_000_000_000, channels: 2, bits: 16, float: false, mask: 0 };
        assert!(format.check().unwrap_err().chain().contains("not between 8000 and 384000 Hz; export it"));
        let format = Format { rate: 44_100, channels: 7, ..format };
        assert!(format.check().unwrap_err().chain().contains("7 channels, at most 6 (5.1) are accepted; export it"));
        assert!(Format { channels: 0, ..format }.check().is_err());
        assert!(Format { channels: 6, ..format }.check().is_ok());
    }
}
