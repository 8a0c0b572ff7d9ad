//! `pipelines/video.toml`: what is made from a source with a picture. In: TOML text. Out: `VideoLadder`, or an
//! error naming file, line and field.

use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::{Encoder, FORMAT, Ladder, Wrong, frames, wrong};
use crate::base::{Error, Result};
use crate::hls::version::{Family, IFRAMES};

/// What is made from one source. Invariant: checked by `decode`, so every value is in range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VideoLadder {
    /// The sound: AAC rungs only, and the segment lengths of everything.
    pub audio: Ladder,
    /// Closed groups of pictures in a segment.
    pub groups: u32,
    /// The GStreamer element that encodes the picture.
    pub encoder: PictureEncoder,
    /// How long the encoder searches: one of x264's names.
    pub preset: String,
    /// Pictures in a row that may refer to later ones.
    pub b_frames: u32,
    /// Pictures a second that are never exceeded.
    pub frame_rate_max: u32,
    /// The rungs. Invariant: at least one, by rising height.
    pub rungs: Vec<VideoRung>,
}

/// One picture size to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VideoRung {
    /// Path component below `video/`.
    pub name: String,
    /// The longer side of the box the picture fits into, in pixels.
    pub width: u32,
    /// The shorter side.
    pub height: u32,
    /// Constant rate factor.
    pub quality: u32,
    /// Most bits a second for a full box at 30 pictures a second.
    pub bitrate_bps: u32,
    /// The audio rung that is heard with it.
    pub audio: String,
}

/// The encoders a video ladder may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PictureEncoder {
    /// libx264 through gst-plugins-ugly.
    X264enc,
}

impl PictureEncoder {
    /// The name in the ladder file, which is also the GStreamer element's.
    pub fn as_str(self) -> &'static str {
        match self {
            PictureEncoder::X264enc => "x264enc",
        }
    }
}

/// What an input becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Sound only; a picture in it, such as a cover, is left out.
    Audio(Ladder),
    /// A picture, with its sound if it has one; an input without a picture is refused.
    Video(VideoLadder),
    /// The one or the other, by what the input holds.
    ByContent(Ladder, VideoLadder),
}

/// x264's names, from quick and large to slow and small (`x264 --fullhelp`). What is slower than `slow` gains a
/// hundredth.
const PRESETS: [&str; 7] = ["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow"];

impl Choice {
    /// The built-in ladders, by what the input holds.
    pub fn built_in() -> Choice {
        Choice::ByContent(Ladder::default_audio(), VideoLadder::default_video())
    }

    /// The built-in ladders by name: `audio`, `video`, or `auto` for what the input holds; `None` for other names.
    pub fn built_in_as(name: &str) -> Option<Choice> {
        match name {
            "audio" => Some(Choice::Audio(Ladder::default_audio())),
            "video" => Some(Choice::Video(VideoLadder::default_video())),
            "auto" => Some(Choice::built_in()),
            _ => None,
        }
    }

    /// Reads a ladder file of either kind: `kind = "video"` tells them apart.
    ///
    /// # Errors
    /// As `Ladder::decode`.
    pub fn decode(text: &str, file_name: &str) -> Result<Choice> {
        #[derive(Deserialize)]
        struct Kind {
            kind: Option<Spanned<String>>,
        }
        let kind = toml::from_str::<Kind>(text).ok().and_then(|file| file.kind);
        match kind.as_ref().map(|kind| kind.get_ref().as_str()) {
            Some("video") => VideoLadder::decode(text, file_name).map(Choice::Video),
            Some(other) => {
                let line = super::line_of(text, kind.as_ref().map_or(0, |kind| kind.span().start));
                let what = format!("{file_name}:{line}: kind: {other:?} is not \"video\"; leave it out for audio");
                Err(Error::usage(what))
            }
            None => Ladder::decode(text, file_name).map(Choice::Audio),
        }
    }

    /// The ladder of the sound when there is no picture.
    pub fn audio(&self) -> &Ladder {
        match self {
            Choice::Audio(ladder) | Choice::ByContent(ladder, _) => ladder,
            Choice::Video(video) => &video.audio,
        }
    }

    /// The ladder of the picture, if one may be made.
    pub fn video(&self) -> Option<&VideoLadder> {
        match self {
            Choice::Audio(_) => None,
            Choice::Video(video) | Choice::ByContent(_, video) => Some(video),
        }
    }

    /// How many rungs there are for a source that gets them all.
    pub fn rungs(&self) -> usize {
        match self {
            Choice::Video(video) => video.rungs.len() + video.audio.rungs.len(),
            _ => self.audio().rungs.len(),
        }
    }
}

impl VideoLadder {
    /// The ladder compiled into the binary: `pipelines/video.toml`.
    pub fn default_video() -> VideoLadder {
        VideoLadder::decode(include_str!("../../../pipelines/video.toml"), "pipelines/video.toml")
            .expect("the built-in ladder is checked by a test")
    }

    /// Reads a ladder. `file_name` is only used in errors.
    ///
    /// # Errors
    /// `Usage`: `clip.toml:12: rung.bitrate_bps: 90000000 is not in 50000..=20000000`.
    pub fn decode(text: &str, file_name: &str) -> Result<VideoLadder> {
        super::read(text, file_name, File::check)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: Spanned<u32>,
    #[serde(rename = "kind")]
    _kind: String,
    segment: SegmentTable,
    encoder: EncoderTable,
    audio: Vec<Spanned<AudioTable>>,
    rung: Spanned<Vec<Spanned<RungTable>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SegmentTable {
    frames_44100: Spanned<u32>,
    frames_48000: Spanned<u32>,
    groups: Spanned<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EncoderTable {
    element: Spanned<String>,
    preset: Spanned<String>,
    b_frames: Spanned<u32>,
    frame_rate_max: Spanned<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AudioTable {
    name: Spanned<String>,
    encoder: Spanned<String>,
    bitrate_bps: Spanned<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RungTable {
    name: Spanned<String>,
    width: Spanned<u32>,
    height: Spanned<u32>,
    quality: Spanned<u32>,
    bitrate_bps: Spanned<u32>,
    audio: Spanned<String>,
}

impl File {
    fn check(self) -> Result<VideoLadder, Wrong> {
        if *self.format.get_ref() != FORMAT {
            return Err(wrong(&self.format, "format", format!("{} is not {FORMAT}", self.format.get_ref())));
        }
        let element = self.encoder.element.get_ref();
        if element != PictureEncoder::X264enc.as_str() {
            let what = format!("{element:?} is not known for the picture; known: x264enc");
            return Err(wrong(&self.encoder.element, "encoder.element", what));
        }
        let preset = self.encoder.preset.get_ref();
        if !PRESETS.contains(&preset.as_str()) {
            let what = format!("{preset:?} is not one of {}", PRESETS.join(", "));
            return Err(wrong(&self.encoder.preset, "encoder.preset", what));
        }
        let mut audio = Ladder {
            segment_frames_44100: frames(&self.segment.frames_44100, "segment.frames_44100")?,
            segment_frames_48000: frames(&self.segment.frames_48000, "segment.frames_48000")?,
            rungs: Vec::new(),
        };
        for table in &self.audio {
            let rung = table.get_ref().check(&audio)?;
            audio.rungs.push(rung);
        }
        let mut rungs: Vec<VideoRung> = Vec::new();
        for table in self.rung.get_ref() {
            let rung = table.get_ref().check(&audio, &rungs)?;
            rungs.push(rung);
        }
        if rungs.is_empty() {
            return Err(wrong(&self.rung, "rung", "there is none; a ladder needs at least one"));
        }
        Ok(VideoLadder {
            audio,
            groups: within(&self.segment.groups, "segment.groups", 1, 12)?,
            encoder: PictureEncoder::X264enc,
            preset: preset.clone(),
            b_frames: within(&self.encoder.b_frames, "encoder.b_frames", 0, 3)?,
            frame_rate_max: within(&self.encoder.frame_rate_max, "encoder.frame_rate_max", 10, 120)?,
            rungs,
        })
    }
}

impl AudioTable {
    fn check(&self, before: &Ladder) -> Result<super::Rung, Wrong> {
        if self.encoder.get_ref() != Encoder::AvencAac.as_str() {
            let what = format!("{:?} is not known for aac; known: avenc_aac", self.encoder.get_ref());
            return Err(wrong(&self.encoder, "audio.encoder", what));
        }
        let name = plain(&self.name, "audio.name")?;
        if before.rungs.iter().any(|rung| rung.name == name) {
            return Err(wrong(&self.name, "audio.name", format!("{name:?} is taken")));
        }
        let bitrate_bps = within(&self.bitrate_bps, "audio.bitrate_bps", 8_000, 512_000)?;
        match before.rungs.last() {
            Some(last) if last.bitrate_bps >= bitrate_bps => {
                let what = format!("{bitrate_bps} does not rise above {}", last.bitrate_bps);
                Err(wrong(&self.bitrate_bps, "audio.bitrate_bps", what))
            }
            _ => Ok(super::Rung { family: Family::Aac, name, encoder: Encoder::AvencAac, bitrate_bps }),
        }
    }
}

impl RungTable {
    fn check(&self, audio: &Ladder, before: &[VideoRung]) -> Result<VideoRung, Wrong> {
        let name = plain(&self.name, "rung.name")?;
        if name == IFRAMES || before.iter().any(|rung| rung.name == name) {
            return Err(wrong(&self.name, "rung.name", format!("{name:?} is taken")));
        }
        let width = within(&self.width, "rung.width", 64, 1920)?;
        let height = within(&self.height, "rung.height", 64, 1080)?;
        if height > width {
            let what = format!("{height} is more than the width; boxes lie, sources that stand get them turned");
            return Err(wrong(&self.height, "rung.height", what));
        }
        if let Some(last) = before.last().filter(|last| last.height >= height) {
            return Err(wrong(&self.height, "rung.height", format!("{height} does not rise above {}", last.height)));
        }
        let wanted = self.audio.get_ref();
        if !audio.rungs.iter().any(|rung| rung.name == *wanted) {
            let names: Vec<&str> = audio.rungs.iter().map(|rung| rung.name.as_str()).collect();
            let what = format!("there is no audio rung {wanted:?}; choose from {}", names.join(", "));
            return Err(wrong(&self.audio, "rung.audio", what));
        }
        Ok(VideoRung {
            name,
            width,
            height,
            quality: within(&self.quality, "rung.quality", 10, 40)?,
            bitrate_bps: within(&self.bitrate_bps, "rung.bitrate_bps", 50_000, 20_000_000)?,
            audio: wanted.clone(),
        })
    }
}

/// It becomes a path component and part of an object name.
fn plain(name: &Spanned<String>, field: &'static str) -> Result<String, Wrong> {
    let text = name.get_ref();
    if text.is_empty() || text.len() > 16 || !text.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err(wrong(name, field, format!("{text:?} is not 1 to 16 letters and digits")));
    }
    Ok(text.clone())
}

fn within(value: &Spanned<u32>, field: &'static str, least: u32, most: u32) -> Result<u32, Wrong> {
    match *value.get_ref() {
        n if (least..=most).contains(&n) => Ok(n),
        n => Err(wrong(value, field, format!("{n} is not in {least}..={most}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_ladder_has_four_sizes_and_two_sounds() {
        let ladder = VideoLadder::default_video();
        let names: Vec<&str> = ladder.rungs.iter().map(|rung| rung.name.as_str()).collect();
        assert_eq!(names, ["360p", "480p", "720p", "1080p"]);
        assert_eq!(ladder.audio.rungs.iter().map(super::super::Rung::path).collect::<Vec<_>>(), ["aac/96", "aac/160"]);
        let audio = Ladder::default_audio();
        assert_eq!(ladder.audio.segment_samples(48_000), audio.segment_samples(48_000));
        assert_eq!(ladder.audio.segment_samples(44_100), audio.segment_samples(44_100));
    }

    #[test]
    fn a_wrong_ladder_is_refused_with_file_line_and_field() {
        let text = include_str!("../../../pipelines/video.toml");
        let check = |from: &str, to: &str, said: &str| {
            assert!(text.contains(from), "{from}");
            let error = Choice::decode(&text.replacen(from, to, 1), "v.toml").unwrap_err();
            assert_eq!(error.kind(), crate::base::Kind::Usage);
            assert!(error.chain().starts_with("v.toml:") && error.chain().contains(said), "{error:?}");
        };
        check("format = 1", "format = 3", "v.toml:3: format: 3 is not 1");
        check("kind = \"video\"", "kind = \"film\"", "v.toml:4: kind: \"film\" is not \"video\"");
        check("groups = 3", "groups = 0", "v.toml:10: segment.groups: 0 is not in 1..=12");
        check("\"x264enc\"", "\"nvh264enc\"", "encoder.element: \"nvh264enc\" is not known for the picture");
        check("\"veryfast\"", "\"placebo\"", "encoder.preset: \"placebo\" is not one of ultrafast");
        check("b_frames = 0", "b_frames = 16", "encoder.b_frames: 16 is not in 0..=3");
        check("frame_rate_max = 60", "frame_rate_max = 600", "encoder.frame_rate_max: 600 is not in 10..=120");
        check("width = 640", "width = 6400", "rung.width: 6400 is not in 64..=1920");
        check("height = 480", "height = 360", "rung.height: 360 does not rise above 360");
        check("height = 360", "height = 700", "rung.height: 700 is more than the width");
        check("quality = 24", "quality = 4", "rung.quality: 4 is not in 10..=40");
        check("audio = \"96\"", "audio = \"95\"", "rung.audio: there is no audio rung \"95\"; choose from 96, 160");
        check("name = \"480p\"", "name = \"360p\"", "rung.name: \"360p\" is taken");
        check("name = \"480p\"", "name = \"iframes\"", "rung.name: \"iframes\" is taken");
        check("name = \"480p\"", "name = \"../x\"", "rung.name: \"../x\" is not 1 to 16");
        check("bitrate_bps = 160_000", "bitrate_bps = 96_000", "audio.bitrate_bps: 96000 does not rise");
        check("bitrate_bps = 800_000", "bitrate = 800_000", "unknown field `bitrate`");
        check("bitrate_bps = 800_000", "bitrate_bps = 90_000_000", "rung.bitrate_bps: 90000000 is not in");
        check("preset =", "preset", "v.toml:14:");
    }

    #[test]
    fn a_file_without_a_kind_is_an_audio_ladder() {
        let audio = include_str!("../../../pipelines/audio.toml");
        assert_eq!(Choice::decode(audio, "a.toml").unwrap(), Choice::Audio(Ladder::default_audio()));
    }
}
