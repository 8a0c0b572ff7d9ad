//! What will be made of a picture. In: what a first look found, and the ladder. Out: sizes, rate, groups and segments,
//! all of them settled, or why not. Pure.
//!
//! Three rules, with their reasons in docs/decisions/0041: one constant rate for every rung; a rung fits into its box
//! and is never larger than the source; a segment begins at the picture nearest to where the sound's does.

use serde::{Deserialize, Serialize};

use super::tone::Transfer;
use crate::base::{Error, Result};
use crate::hls::ladder::video::VideoLadder;
use crate::hls::version::{Skipped, VideoSource};
use crate::transcode::options::{Limits, spoken};

/// What a child does with a picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in super::super) enum Task {
    /// Look at every packet and decode none.
    Survey,
    /// Decode and encode.
    Film(Box<Film>),
}

/// What a look at every packet finds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(in super::super) struct Survey {
    /// The picture; `None` when there is none.
    pub(in super::super) picture: Option<PictureTrack>,
    /// The sound; `None` when there is none.
    pub(in super::super) sound: Option<SoundTrack>,
    /// How many pictures there are.
    pub(in super::super) pictures: u32,
}

/// The picture as its container and its codec's headers describe it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in super::super) struct PictureTrack {
    pub(in super::super) codec: String,
    /// Stored pixels.
    pub(in super::super) width: u32,
    pub(in super::super) height: u32,
    /// Width to height of a pixel.
    pub(in super::super) aspect: (u32, u32),
    pub(in super::super) turn: Turn,
    pub(in super::super) interlaced: bool,
    /// How bright its pixels are, when they are brighter than SDR's.
    pub(in super::super) hdr: Option<Transfer>,
    /// Pictures that are shown.
    pub(in super::super) frames: u64,
    /// When the first is shown.
    pub(in super::super) first_ns: u64,
    /// When the last is not shown any more.
    pub(in super::super) end_ns: u64,
    /// Time between neighbours: what 5, 50 and 95 of a hundred are at most.
    pub(in super::super) gaps_ns: [u64; 3],
}

/// The sound as its container describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct SoundTrack {
    pub(in super::super) rate: u32,
    pub(in super::super) first_ns: u64,
    pub(in super::super) end_ns: u64,
}

/// How a picture has to be turned to stand upright: mirrored left to right, then turned clockwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct Turn {
    pub(in super::super) mirrored: bool,
    /// Quarters of a full turn, 0 to 3.
    pub(in super::super) quarters: u8,
}

/// Everything about a picture's encoding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in super::super) struct Film {
    /// Stored pixels that the decoder must give.
    pub(in super::super) source: (u32, u32),
    /// Pictures that the decoder should give.
    pub(in super::super) source_frames: u64,
    /// When the source shows its first.
    pub(in super::super) first_ns: u64,
    pub(in super::super) turn: Turn,
    /// What has to be made SDR.
    pub(in super::super) hdr: Option<Transfer>,
    /// Pictures a second: numerator and denominator.
    pub(in super::super) rate: (u32, u32),
    /// How often the first picture is shown before its time, because the sound begins earlier.
    pub(in super::super) lead: u64,
    /// Pictures of every rung.
    pub(in super::super) frames: u64,
    pub(in super::super) cut: Cut,
    pub(in super::super) preset: String,
    pub(in super::super) b_frames: u32,
    /// By rising size.
    pub(in super::super) rungs: Vec<Size>,
    pub(in super::super) poster: (u32, u32),
}

/// One rung, settled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct Size {
    pub(in super::super) name: String,
    /// Square pixels, even numbers.
    pub(in super::super) width: u32,
    pub(in super::super) height: u32,
    pub(in super::super) quality: u32,
    pub(in super::super) bitrate_bps: u32,
    /// The audio rung that goes with it.
    pub(in super::super) audio: String,
}

/// Where segments and groups begin: the sound's grid, in pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct Cut {
    /// Samples in a segment of the sound.
    pub(in super::super) samples: u64,
    /// Their rate.
    pub(in super::super) rate: u32,
    /// Groups in a segment.
    pub(in super::super) groups: u32,
    /// Segments.
    pub(in super::super) segments: u64,
}

/// Silence around the sound, so that it begins and ends with the picture. In nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Silence {
    pub(in super::super) before_ns: u64,
    pub(in super::super) until_ns: Option<u64>,
}

/// The longest side of a source.
const SIDE_MAX: u32 = 8192;
/// Fewer pixels on a side are no picture, and no encoder takes them.
const SIDE_MIN: u32 = 16;
/// The least rate that is shown: half a picture is a tenth of a second then.
const RATE_MIN: f64 = 5.0;
/// Slow motion of telephones.
const FRAME_RATE_MAX: u64 = 250;
/// Sound and picture may begin so far apart without being moved: nobody hears or sees it (ITU-R BT.1359: 45 ms).
const SKEW_NS: u64 = 10_000_000;
/// They may end so far apart: a few AAC frames that an encoder has added.
const TAIL_NS: u64 = 100_000_000;
const SECOND_NS: u64 = 1_000_000_000;

impl PictureTrack {
    /// Refuses what nobody should decode.
    ///
    /// # Errors
    /// `Invalid`, saying which number is out of which range.
    pub(in super::super) fn check(&self, limits: &Limits) -> Result<()> {
        let (width, height) = (self.width, self.height);
        let refuse = |what: String| Err(Error::invalid(what));
        if width.min(height) < SIDE_MIN {
            return refuse(format!(
                "its picture is {width}×{height} pixels, at least {SIDE_MIN}×{SIDE_MIN} are needed; export it larger"
            ));
        }
        if u64::from(width) * u64::from(height) > limits.video_pixels_max || width.max(height) > SIDE_MAX {
            let most = limits.video_pixels_max;
            return refuse(format!(
                "its picture is {width}×{height} pixels; at most {most} in all and {SIDE_MAX} a side are accepted; \
                 export it as 1920×1080"
            ));
        }
        let (x, y) = self.aspect;
        if x == 0 || y == 0 || u64::from(x.max(y)) > 8 * u64::from(x.min(y)) {
            return refuse(format!("its pixels are {x}:{y} wide to high; export it with square pixels"));
        }
        let length_ns = self.end_ns.saturating_sub(self.first_ns);
        if self.frames == 0 || length_ns == 0 {
            return refuse("its picture has no frames; export it again as MP4".into());
        }
        let second = (self.frames as u128 * u128::from(SECOND_NS) / u128::from(length_ns)) as u64;
        if second > FRAME_RATE_MAX {
            return refuse(format!(
                "it has {second} pictures a second; at most {FRAME_RATE_MAX} are accepted; export it with 60 or fewer"
            ));
        }
        Ok(())
    }

    /// Whether the time between pictures varies by more than containers round it.
    pub(in super::super) fn varies(&self) -> bool {
        let [quick, usual, slow] = self.gaps_ns;
        slow - quick > (usual / 8).max(2_100_000)
    }

    /// The constant rate that it is shown at: its own, or, where that varies, what its quickest pictures need.
    pub(in super::super) fn rate(&self, most: u32) -> (u32, u32) {
        let [quick, usual, _] = self.gaps_ns;
        let length_ns = self.end_ns.saturating_sub(self.first_ns).max(1);
        let (hz, slack) = match self.varies() {
            true => (SECOND_NS as f64 / quick.max(1) as f64, 0.03),
            false if usual > 0 => (self.frames as f64 * SECOND_NS as f64 / length_ns as f64, 0.002),
            false => (RATE_MIN, 0.0),
        };
        let share = (hz / (f64::from(most) * 1.001)).ceil().max(1.0);
        // Each picture of a slow source is shown several times, so that segments are as long as the sound's.
        let times = (RATE_MIN / hz).ceil().clamp(1.0, 1e6);
        let hz = hz / share * times;
        settled(if hz > f64::from(most) { RATE_MIN } else { hz }, slack)
    }
}

/// The nearest rate that has a name, if one is near; else to a thousandth.
fn settled(hz: f64, slack: f64) -> (u32, u32) {
    const NAMED: [(u32, u32); 12] = [
        (10, 1),
        (12, 1),
        (15, 1),
        (20, 1),
        (24_000, 1001),
        (24, 1),
        (25, 1),
        (30_000, 1001),
        (30, 1),
        (50, 1),
        (60_000, 1001),
        (60, 1),
    ];
    let off = |(n, d): &(u32, u32)| (f64::from(*n) / f64::from(*d) / hz - 1.0).abs();
    let nearest = NAMED.into_iter().min_by(|a, b| off(a).total_cmp(&off(b))).filter(|rate| off(rate) <= slack);
    nearest.unwrap_or_else(|| {
        let thousandths = (hz * 1000.0).round() as u32;
        let (mut a, mut b) = (thousandths, 1000);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        (thousandths / a, 1000 / a)
    })
}

impl Turn {
    fn swaps(self) -> bool {
        self.quarters % 2 == 1
    }
}

impl Cut {
    /// The first picture of group `group`.
    pub(in super::super) fn begins(&self, group: u64, rate: (u32, u32)) -> u64 {
        let (n, d) = (u128::from(rate.0), u128::from(rate.1));
        let over = u128::from(self.rate) * d * u128::from(self.groups);
        // Rounded to the nearest picture.
        ((2 * u128::from(group) * u128::from(self.samples) * n + over) / (2 * over)) as u64
    }

    /// Every place where a group begins, in pictures, and whether a segment does.
    pub(in super::super) fn places(&self, rate: (u32, u32), frames: u64) -> Vec<(u64, bool)> {
        let mut places: Vec<(u64, bool)> = Vec::new();
        for group in 0u64.. {
            let at = self.begins(group, rate);
            if at >= frames {
                break;
            }
            let (segment, within) = (group / u64::from(self.groups), group % u64::from(self.groups));
            let begins = within == 0 && segment < self.segments;
            // Groups shorter than a picture fall together.
            match places.last_mut().filter(|last| last.0 == at) {
                Some(last) => last.1 |= begins,
                None => places.push((at, begins)),
            }
        }
        places
    }
}

impl Film {
    /// Ticks in a second and in a picture.
    pub(in super::super) fn clock(&self) -> (u32, u32) {
        let (n, d) = self.rate;
        let times = match n {
            10_000.. => 1,
            1_000.. => 10,
            _ => 1_000,
        };
        (n * times, d * times)
    }

    /// When picture `number` is shown, in nanoseconds.
    pub(in super::super) fn time_ns(&self, number: u64) -> u64 {
        let (n, d) = self.rate;
        (u128::from(number) * u128::from(d) * u128::from(SECOND_NS) / u128::from(n)) as u64
    }
}

/// Settles everything. `audio_rate` is what the sound's rungs run at; nothing for a silent film.
///
/// # Errors
/// `Invalid` when there is no picture, or one that is refused.
pub(in super::super) fn settle(survey: &Survey, ladder: &VideoLadder, limits: &Limits) -> Result<(Film, Silence)> {
    let Some(picture) = &survey.picture else {
        return Err(Error::invalid("it has no picture; leave --ladder out, or choose --ladder audio"));
    };
    if survey.pictures > 1 {
        let count = survey.pictures;
        return Err(Error::invalid(format!("it has {count} video streams; export it with one")));
    }
    picture.check(limits)?;
    if picture.frames == 1 && survey.sound.is_none() {
        return Err(Error::invalid("it is a still picture without sound; upload a film"));
    }
    let rate = picture.rate(ladder.frame_rate_max);
    let frames_in = |ns: u64| u128::from(ns) * u128::from(rate.0) / u128::from(rate.1);
    let rounded = |ns: u64| ((frames_in(ns) + u128::from(SECOND_NS / 2)) / u128::from(SECOND_NS)) as u64;
    let time =
        |frames: u64| (u128::from(frames) * u128::from(rate.1) * u128::from(SECOND_NS) / u128::from(rate.0)) as u64;

    // Who begins first waits for nobody: the sound gets silence, the picture stands still.
    let (mut lead, mut silence) = (0, Silence::default());
    if let Some(sound) = &survey.sound {
        match picture.first_ns.checked_sub(sound.first_ns) {
            Some(late) if late > SKEW_NS => {
                lead = frames_in(late).div_ceil(u128::from(SECOND_NS)) as u64;
                silence.before_ns = time(lead) - late;
            }
            None if sound.first_ns - picture.first_ns > SKEW_NS => {
                silence.before_ns = sound.first_ns - picture.first_ns;
            }
            _ => {}
        }
    }
    let mut frames = (lead + rounded(picture.end_ns - picture.first_ns)).max(1);
    if let Some(sound) = &survey.sound {
        let heard_ns = silence.before_ns + sound.end_ns.saturating_sub(sound.first_ns);
        if heard_ns > time(frames) + TAIL_NS {
            frames = frames_in(heard_ns).div_ceil(u128::from(SECOND_NS)) as u64;
        }
        if heard_ns + TAIL_NS < time(frames) {
            silence.until_ns = Some(time(frames));
        }
    }
    let length_s = time(frames) / SECOND_NS;
    if length_s > limits.video_duration_s_max {
        let most = spoken(limits.video_duration_s_max);
        return Err(Error::invalid(format!("it is longer than {most}, the most that is accepted of a film; split it")));
    }

    let audio_rate = match &survey.sound {
        Some(sound) if sound.rate.is_multiple_of(11_025) => 44_100,
        _ => 48_000,
    };
    let samples = u64::from(ladder.audio.segment_samples(audio_rate));
    let all = (u128::from(time(frames)) * u128::from(audio_rate) / u128::from(SECOND_NS)) as u64;
    // As the sound's: a tail of less than a quarter of a second is part of the segment before.
    let segments = all.saturating_sub(u64::from(audio_rate / 4)).div_ceil(samples).max(1);
    let cut = Cut { samples, rate: audio_rate, groups: ladder.groups, segments };

    let (rungs, poster) = sizes(picture, ladder, rate);
    let film = Film {
        source: (picture.width, picture.height),
        source_frames: picture.frames,
        first_ns: picture.first_ns,
        turn: picture.turn,
        hdr: picture.hdr,
        rate,
        lead,
        frames,
        cut,
        preset: ladder.preset.clone(),
        b_frames: ladder.b_frames,
        rungs,
        poster,
    };
    Ok((film, silence))
}

/// Upright size with square pixels. Wide ones become as many square ones, so that PAL's 720 × 576 of 16:9 fill 854 × 480:
/// rows are lost and columns won, and no more is promised than is stored. Of narrow ones columns are lost: rows that are
/// not there would have to be made up.
fn upright(picture: &PictureTrack) -> (f64, f64) {
    let (x, y) = (f64::from(picture.aspect.0), f64::from(picture.aspect.1));
    let (width, height) = (f64::from(picture.width), f64::from(picture.height));
    let root = (x / y).sqrt();
    let (width, height) = if x > y { (width * root, height / root) } else { (width * x / y, height) };
    if picture.turn.swaps() { (height, width) } else { (width, height) }
}

/// The largest size of that shape within a box and within the picture: even numbers, at least 16.
fn fitted(picture: &PictureTrack, long: u32, short: u32) -> (u32, u32) {
    let (width, height) = upright(picture);
    let scale = (f64::from(long) / width.max(height)).min(f64::from(short) / width.min(height)).min(1.0);
    let even = |side: f64| ((side * scale / 2.0).round() as u32 * 2).max(16);
    (even(width), even(height))
}

fn sizes(picture: &PictureTrack, ladder: &VideoLadder, rate: (u32, u32)) -> (Vec<Size>, (u32, u32)) {
    let quick = u64::from(rate.0) > 31 * u64::from(rate.1);
    let mut rungs: Vec<Size> = Vec::new();
    for rung in &ladder.rungs {
        let (width, height) = fitted(picture, rung.width, rung.height);
        if rungs.last().is_some_and(|last| !adds(last, (width, height))) {
            continue;
        }
        // A smaller picture than the box needs fewer bits, one of twice the rate not twice as many.
        let share = (u64::from(width) * u64::from(height) * 1000 / (u64::from(rung.width) * u64::from(rung.height)))
            .clamp(100, 1000);
        let bitrate_bps = u64::from(rung.bitrate_bps) * share / 1000 * if quick { 15 } else { 10 } / 10;
        rungs.push(Size {
            name: match rungs.is_empty() && smaller(picture, rung.width, rung.height) {
                // Called what it is, not what it would have been.
                true => format!("{}p", width.min(height)),
                false => rung.name.clone(),
            },
            width,
            height,
            quality: rung.quality,
            bitrate_bps: bitrate_bps as u32,
            audio: rung.audio.clone(),
        });
    }
    (rungs, fitted(picture, 1280, 720))
}

/// Whether the picture is smaller than the box on both sides.
fn smaller(picture: &PictureTrack, long: u32, short: u32) -> bool {
    let (width, height) = upright(picture);
    width.max(height) < f64::from(long) - 1.0 && width.min(height) < f64::from(short) - 1.0
}

/// Whether a size has at least a tenth more pixels than the one below.
fn adds(last: &Size, (width, height): (u32, u32)) -> bool {
    u64::from(width) * u64::from(height) * 10 > u64::from(last.width) * u64::from(last.height) * 11
}

/// The rungs that are not made, and why.
pub(in super::super) fn skipped(film: &Film, ladder: &VideoLadder) -> Vec<Skipped> {
    let Some(top) = film.rungs.last() else { return vec![] };
    let made = |name: &str| film.rungs.iter().any(|rung| rung.name == name);
    let why = format!("the source has no more pixels than video/{}, {}×{}", top.name, top.width, top.height);
    let absent = ladder.rungs.iter().skip(1).filter(|rung| !made(&rung.name));
    absent
        .map(|rung| Skipped {
            path: format!("video/{}", rung.name),
            nominal_bps: rung.bitrate_bps.into(),
            why: why.clone(),
        })
        .collect()
}

impl Film {
    /// Bytes that the child may hold: the decoder's and the queues' pictures at the source's size, and x264's at each
    /// rung's (its look-ahead, its references and their half-pixel planes, one set a thread).
    pub(in super::super) fn memory_bytes(&self) -> u64 {
        let picture = |width: u32, height: u32| u64::from(width) * u64::from(height) * 3 / 2;
        let rungs: u64 = self.rungs.iter().map(|rung| picture(rung.width, rung.height)).sum();
        // Pixels of 10 bits are stored in 16.
        let source = picture(self.source.0, self.source.1) * if self.hdr.is_some() { 2 } else { 1 };
        (384 << 20) + 64 * source + 110 * rungs
    }

    /// Seconds that an attempt may take: twenty for each of the film, on a slow and busy core, and as many for the
    /// brightness of HDR.
    pub(in super::super) fn wall_s(&self) -> u64 {
        120 + if self.hdr.is_some() { 40 } else { 20 } * (self.time_ns(self.frames) / SECOND_NS)
    }
}

impl PictureTrack {
    /// As it stands in the version index.
    pub(in super::super) fn source(&self) -> VideoSource {
        VideoSource {
            codec: self.codec.clone(),
            width: self.width,
            height: self.height,
            pixel_aspect: self.aspect,
            turned: u32::from(self.turn.quarters) * 90,
            mirrored: self.turn.mirrored,
            interlaced: self.interlaced,
            hdr: self.hdr.map(|transfer| transfer.name().to_owned()),
            frames: self.frames,
            variable_rate: self.varies(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: u32, height: u32) -> PictureTrack {
        PictureTrack {
            codec: "H.264".into(),
            width,
            height,
            aspect: (1, 1),
            turn: Turn::default(),
            interlaced: false,
            hdr: None,
            frames: 250,
            first_ns: 0,
            end_ns: 10_000_000_000,
            gaps_ns: [40_000_000; 3],
        }
    }

    fn survey(picture: PictureTrack, sound: Option<SoundTrack>) -> Survey {
        Survey { picture: Some(picture), sound, pictures: 1 }
    }

    fn film(picture: PictureTrack, sound: Option<SoundTrack>) -> (Film, Silence) {
        settle(&survey(picture, sound), &VideoLadder::default_video(), &Limits::default()).unwrap()
    }

    #[test]
    fn rungs_fit_into_their_boxes_and_never_exceed_the_source() {
        let check = |picture: PictureTrack, wanted: &[(&str, u32, u32)]| {
            let shown = (picture.width, picture.height);
            let found = film(picture, None).0.rungs;
            let found: Vec<(&str, u32, u32)> = found.iter().map(|r| (r.name.as_str(), r.width, r.height)).collect();
            assert_eq!(found, wanted, "{shown:?}");
        };
        let all = [("360p", 640, 360), ("480p", 854, 480), ("720p", 1280, 720), ("1080p", 1920, 1080)];
        check(picture(1920, 1080), &all);
        check(picture(3840, 2160), &all);
        check(picture(1280, 720), &all[..3]);
        check(picture(640, 360), &all[..1]);
        check(picture(320, 180), &[("180p", 320, 180)]);
        check(picture(1920, 800), &[("360p", 640, 266), ("480p", 854, 356), ("720p", 1280, 534), ("1080p", 1920, 800)]);
        check(picture(720, 1280), &[("360p", 360, 640), ("480p", 480, 854), ("720p", 720, 1280)]);
        check(picture(480, 480), &[("360p", 360, 360), ("480p", 480, 480)]);
        check(picture(101, 51), &[("52p", 102, 52)]);
        let turned = PictureTrack { turn: Turn { mirrored: false, quarters: 1 }, ..picture(1280, 720) };
        check(turned, &[("360p", 360, 640), ("480p", 480, 854), ("720p", 720, 1280)]);
        // PAL widescreen: 720 × 576 stored pixels, 64:45 wide each, is 16:9.
        let pal = PictureTrack { aspect: (64, 45), ..picture(720, 576) };
        check(pal, &[("360p", 640, 360), ("480p", 854, 480)]);
        let hdv = PictureTrack { aspect: (4, 3), ..picture(1440, 1080) };
        check(hdv, &[("360p", 640, 360), ("480p", 854, 480), ("720p", 1280, 720), ("1080p", 1662, 936)]);
        let turned_pal =
            PictureTrack { aspect: (64, 45), turn: Turn { mirrored: false, quarters: 3 }, ..picture(720, 576) };
        check(turned_pal, &[("360p", 360, 640), ("480p", 480, 854)]);
        // NTSC: pixels higher than wide.
        let ntsc = PictureTrack { aspect: (8, 9), ..picture(720, 480) };
        check(ntsc, &[("360p", 480, 360), ("480p", 640, 480)]);
    }

    #[test]
    fn what_is_left_out_is_said() {
        let ladder = VideoLadder::default_video();
        let left = skipped(&film(picture(1280, 720), None).0, &ladder);
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].path, "video/1080p");
        assert!(left[0].why.contains("no more pixels than video/720p, 1280×720"), "{left:?}");
        assert_eq!(skipped(&film(picture(320, 180), None).0, &ladder).len(), 3);
        assert!(skipped(&film(picture(1920, 1080), None).0, &ladder).is_empty());
    }

    #[test]
    fn rates_are_what_the_source_has_or_its_quickest_pictures_need() {
        let check = |frames: u64, length_s: f64, gaps_ms: [f64; 3], rate: (u32, u32), varies: bool| {
            let picture = PictureTrack {
                frames,
                end_ns: (length_s * 1e9) as u64,
                gaps_ns: gaps_ms.map(|ms| (ms * 1e6) as u64),
                ..picture(640, 360)
            };
            assert_eq!((picture.rate(60), picture.varies()), (rate, varies), "{frames} in {length_s} s");
        };
        check(250, 10.0, [40.0; 3], (25, 1), false);
        check(2400, 100.1, [41.7, 41.7, 41.8], (24_000, 1001), false);
        check(300, 10.01, [33.0, 33.0, 34.0], (30_000, 1001), false);
        check(300, 10.0, [33.0, 33.0, 34.0], (30, 1), false);
        check(600, 10.0, [16.0, 17.0, 17.0], (60, 1), false);
        check(1200, 10.0, [8.3, 8.3, 8.4], (60, 1), false);
        check(2400, 10.0, [4.1, 4.2, 4.2], (60, 1), false);
        check(75, 10.0, [133.0, 133.0, 134.0], (15, 2), false);
        check(2, 10.0, [5000.0; 3], (5, 1), false);
        check(20, 10.0, [500.0; 3], (6, 1), false);
        // A screen recording: bursts at 30, long pauses.
        check(90, 10.0, [33.3, 33.3, 700.0], (30, 1), true);
        check(260, 10.0, [33.0, 34.0, 67.0], (30, 1), true);
        check(1, 10.0, [0.0; 3], (5, 1), false);
    }

    #[test]
    fn segments_begin_at_the_picture_nearest_to_the_sounds() {
        let check = |rate: (u32, u32), audio: u32, samples: u64| {
            let cut = Cut { samples, rate: audio, groups: 3, segments: 400 };
            let frames = u64::from(rate.0) * 2400 / u64::from(rate.1);
            let places = cut.places(rate, frames);
            let begins = places.iter().filter(|place| place.1).map(|place| place.0);
            for (number, at) in begins.enumerate() {
                let sound_s = number as f64 * samples as f64 / f64::from(audio);
                let picture_s = at as f64 * f64::from(rate.1) / f64::from(rate.0);
                let half_s = 0.5 * f64::from(rate.1) / f64::from(rate.0);
                assert!((sound_s - picture_s).abs() <= half_s + 1e-9, "segment {number} at {rate:?}");
            }
            assert!(places.windows(2).all(|pair| pair[0].0 < pair[1].0));
            assert!(places[0] == (0, true) && places.len() > 1000);
        };
        check((25, 1), 48_000, 294_912);
        check((30_000, 1001), 44_100, 266_240);
        check((60, 1), 44_100, 266_240);
        check((24_000, 1001), 48_000, 294_912);
        let slow = Cut { samples: 294_912, rate: 48_000, groups: 12, segments: 2 };
        assert_eq!(slow.places((1, 1), 13).iter().filter(|place| place.1).count(), 2, "groups of less than a picture");
    }

    #[test]
    fn a_short_tail_is_part_of_the_last_segment_as_in_the_sound() {
        let check = |length_s: f64, segments: u64| {
            let end_ns = (length_s * 1e9) as u64;
            let picture = PictureTrack { frames: (length_s * 25.0) as u64, end_ns, ..picture(640, 360) };
            let (film, _) = film(picture, None);
            let begins = film.cut.places(film.rate, film.frames).iter().filter(|place| place.1).count() as u64;
            assert_eq!((film.cut.segments, begins), (segments, segments), "{length_s} s");
        };
        check(1.0, 1);
        check(6.144, 1);
        check(6.36, 1);
        check(6.44, 2);
        check(12.28, 2);
        check(12.6, 3);
    }

    #[test]
    fn sound_and_picture_begin_and_end_together() {
        let ms = |ms: u64| ms * 1_000_000;
        let check = |first: u64, sound: (u64, u64), lead: u64, frames: u64, silence: (u64, Option<u64>)| {
            let picture = PictureTrack { first_ns: ms(first), end_ns: ms(first) + ms(10_000), ..picture(640, 360) };
            let sound = SoundTrack { rate: 48_000, first_ns: ms(sound.0), end_ns: ms(sound.1) };
            let (film, found) = film(picture, Some(sound));
            let wanted = Silence { before_ns: ms(silence.0), until_ns: silence.1.map(ms) };
            assert_eq!((film.lead, film.frames, found), (lead, frames, wanted), "{first} {sound:?}");
        };
        check(0, (0, 10_000), 0, 250, (0, None));
        check(0, (0, 10_021), 0, 250, (0, None));
        check(0, (5, 10_000), 0, 250, (0, None));
        check(5_000, (5_005, 15_000), 0, 250, (0, None));
        // The sound begins a second later, or earlier.
        check(0, (1_000, 10_000), 0, 250, (1_000, None));
        check(1_000, (0, 11_000), 25, 275, (0, None));
        // By less than a picture: the picture moves to the grid, and silence makes up for it.
        check(21, (0, 10_000), 1, 251, (19, None));
        // It ends later, or earlier.
        check(0, (0, 12_000), 0, 300, (0, None));
        check(0, (0, 4_000), 0, 250, (0, Some(10_000)));
    }

    #[test]
    fn absurd_pictures_are_refused_with_the_range() {
        let check = |picture: PictureTrack, words: &str| {
            let limits = Limits::default();
            let error = settle(&survey(picture, None), &VideoLadder::default_video(), &limits).unwrap_err().chain();
            assert!(error.contains(words), "{error}");
        };
        check(picture(16_384, 16_384), "16384×16384 pixels; at most 9437184 in all and 8192 a side are accepted");
        check(picture(9_000, 20), "8192 a side");
        check(picture(8, 300), "at least 16×16 are needed");
        check(PictureTrack { frames: 90_000, ..picture(640, 360) }, "9000 pictures a second; at most 250");
        check(PictureTrack { aspect: (1000, 1), ..picture(640, 360) }, "1000:1 wide to high");
        check(PictureTrack { frames: 0, ..picture(640, 360) }, "no frames");
        check(PictureTrack { end_ns: 0, ..picture(640, 360) }, "no frames");
        check(PictureTrack { frames: 1, end_ns: 40_000_000, gaps_ns: [0; 3], ..picture(640, 360) }, "a still picture");
        let long = PictureTrack { end_ns: 90_000_000_000_000, frames: 2_250_000, ..picture(640, 360) };
        check(long, "longer than 4.0 hours");
        let none = settle(&Survey::default(), &VideoLadder::default_video(), &Limits::default()).unwrap_err();
        assert!(none.chain().contains("no picture"));
        let two = Survey { pictures: 2, ..survey(picture(640, 360), None) };
        let two = settle(&two, &VideoLadder::default_video(), &Limits::default()).unwrap_err();
        assert!(two.chain().contains("2 video streams"));
    }

    #[test]
    fn every_picture_is_a_whole_number_of_ticks() {
        for rate in [(25, 1), (30_000, 1001), (60, 1), (15, 2), (2997, 125), (1, 1), (24_000, 1001)] {
            let film = Film { rate, ..film(picture(640, 360), None).0 };
            let (second, frame) = film.clock();
            assert_eq!(u64::from(second) * u64::from(rate.1), u64::from(frame) * u64::from(rate.0));
            assert!(second >= 1000, "{rate:?}");
        }
    }
}
