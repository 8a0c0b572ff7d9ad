//! The encoding plan as data: reads `pipelines/*.toml`. In: TOML text. Out: `Ladder`, or an error
//! naming file, line and field.

pub mod video;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::version::Family;
use crate::base::{Error, Result};

/// Samples in an AAC-LC frame (ISO 14496-3 §4.5.1.1).
pub const AAC_FRAME: u32 = 1024;
/// Samples in a FLAC block. Fixed: segment boundaries rest on it.
pub const FLAC_BLOCK: u32 = 4096;
/// The format of ladder files this build reads.
pub const FORMAT: u32 = 1;

/// What is made from one source. Invariant: checked by `decode`, so every value is in range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ladder {
    /// AAC frames in a segment when AAC runs at 44.1 kHz. Invariant: a multiple of 4.
    pub segment_frames_44100: u32,
    /// AAC frames in a segment when AAC runs at 48 kHz. Invariant: a multiple of 4.
    pub segment_frames_48000: u32,
    /// The rungs. Invariant: at least one; AAC by strictly rising bit rate, then at most one FLAC.
    pub rungs: Vec<Rung>,
}

/// One encoding to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rung {
    /// Codec family.
    pub family: Family,
    /// Path component below the family's directory; empty for FLAC.
    pub name: String,
    /// What encodes it.
    pub encoder: Encoder,
    /// Asked-for bit rate in bit/s; 0 for FLAC.
    pub bitrate_bps: u32,
}

/// The encoders a ladder may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoder {
    /// libavcodec's AAC-LC encoder through gst-libav.
    AvencAac,
    /// libFLAC.
    Flacenc,
    /// Fraunhofer's AAC-LC encoder.
    #[cfg(feature = "fdk-aac")]
    Fdk,
}

impl Encoder {
    const ALL: &[Encoder] = &[
        Encoder::AvencAac,
        Encoder::Flacenc,
        #[cfg(feature = "fdk-aac")]
        Encoder::Fdk,
    ];

    /// The name in the ladder file; of GStreamer's own encoders also the element's.
    pub fn as_str(self) -> &'static str {
        match self {
            Encoder::AvencAac => "avenc_aac",
            Encoder::Flacenc => "flacenc",
            #[cfg(feature = "fdk-aac")]
            Encoder::Fdk => "fdk",
        }
    }

    /// The codec family it writes.
    pub fn family(self) -> Family {
        match self {
            Encoder::AvencAac => Family::Aac,
            Encoder::Flacenc => Family::Flac,
            #[cfg(feature = "fdk-aac")]
            Encoder::Fdk => Family::Aac,
        }
    }

    /// Samples its decoder gives before the first sample of the source.
    pub fn priming(self) -> u32 {
        match self {
            Encoder::AvencAac => AAC_FRAME,
            Encoder::Flacenc => 0,
            #[cfg(feature = "fdk-aac")]
            Encoder::Fdk => 2 * AAC_FRAME,
        }
    }
}

impl Rung {
    /// The rung's directory below the version: `aac/64`, `flac`.
    pub fn path(&self) -> String {
        match self.name.as_str() {
            "" => self.family.as_str().to_owned(),
            name => format!("{}/{name}", self.family.as_str()),
        }
    }

    /// The rung's file in the version's directory: `aac-64.mp4`, `flac.mp4`.
    pub fn object_name(&self) -> String {
        match self.name.as_str() {
            "" => format!("{}.mp4", self.family.as_str()),
            name => format!("{}-{name}.mp4", self.family.as_str()),
        }
    }
}

impl Ladder {
    /// The ladder compiled into the binary: `pipelines/audio.toml`.
    pub fn default_audio() -> Ladder {
        Ladder::decode(include_str!("../../pipelines/audio.toml"), "pipelines/audio.toml")
            .expect("the built-in ladder is checked by a test")
    }

    /// Reads a ladder. `file_name` is only used in errors.
    ///
    /// # Errors
    /// `Usage`: `ladder.toml:12: rung.bitrate_bps: 900000 is not in 8000..=512000`.
    pub fn decode(text: &str, file_name: &str) -> Result<Ladder> {
        read(text, file_name, File::check)
    }

    /// Samples in a segment at an AAC rate of 44100 or 48000 Hz.
    pub fn segment_samples(&self, aac_rate: u32) -> u32 {
        let frames = if aac_rate == 44_100 { self.segment_frames_44100 } else { self.segment_frames_48000 };
        frames * AAC_FRAME
    }
}

/// Reads a file and checks it, and says where it is wrong.
fn read<F: DeserializeOwned, L>(text: &str, file_name: &str, check: impl FnOnce(F) -> Result<L, Wrong>) -> Result<L> {
    let file: F = toml::from_str(text).map_err(|cause| {
        let line = cause.span().map_or(1, |span| line_of(text, span.start));
        Error::usage(format!("{file_name}:{line}: {}", cause.message().replace('\n', " ")))
    })?;
    check(file).map_err(|wrong| {
        Error::usage(format!("{file_name}:{}: {}: {}", line_of(text, wrong.at), wrong.field, wrong.what))
    })
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|b| *b == b'\n').count()
}

/// A value in the file that is out of range, and where it stands.
struct Wrong {
    at: usize,
    field: &'static str,
    what: String,
}

fn wrong<T>(at: &Spanned<T>, field: &'static str, what: impl Into<String>) -> Wrong {
    Wrong { at: at.span().start, field, what: what.into() }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: Spanned<u32>,
    segment: SegmentTable,
    rung: Spanned<Vec<Spanned<RungTable>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SegmentTable {
    frames_44100: Spanned<u32>,
    frames_48000: Spanned<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RungTable {
    name: Option<Spanned<String>>,
    codec: Spanned<String>,
    encoder: Spanned<String>,
    bitrate_bps: Option<Spanned<u32>>,
    blocksize: Option<Spanned<u32>>,
}

impl File {
    fn check(self) -> Result<Ladder, Wrong> {
        if *self.format.get_ref() != FORMAT {
            return Err(wrong(&self.format, "format", format!("{} is not {FORMAT}", self.format.get_ref())));
        }
        let segment_frames_44100 = frames(&self.segment.frames_44100, "segment.frames_44100")?;
        let segment_frames_48000 = frames(&self.segment.frames_48000, "segment.frames_48000")?;
        let mut rungs: Vec<Rung> = Vec::new();
        for table in self.rung.get_ref() {
            let rung = table.get_ref().check(table)?;
            follows(&rungs, &rung, table)?;
            rungs.push(rung);
        }
        match rungs.is_empty() {
            true => Err(wrong(&self.rung, "rung", "there is none; a ladder needs at least one")),
            false => Ok(Ladder { segment_frames_44100, segment_frames_48000, rungs }),
        }
    }
}

/// 1 s … 10 s: shorter wastes requests, longer outlives players' patience on a rung switch.
fn frames(value: &Spanned<u32>, field: &'static str) -> Result<u32, Wrong> {
    match *value.get_ref() {
        n if !(44..=440).contains(&n) => Err(wrong(value, field, format!("{n} is not in 44..=440"))),
        n if n % 4 != 0 => Err(wrong(value, field, format!("{n} is not a multiple of 4 (one FLAC block)"))),
        n => Ok(n),
    }
}

impl RungTable {
    fn check(&self, table: &Spanned<RungTable>) -> Result<Rung, Wrong> {
        let family = match self.codec.get_ref().as_str() {
            "aac" => Family::Aac,
            "flac" => Family::Flac,
            other => {
                return Err(wrong(&self.codec, "rung.codec", format!("{other:?} is neither \"aac\" nor \"flac\"")));
            }
        };
        let encoder = self.encoder_of(family)?;
        let (name, bitrate_bps) = match family {
            Family::Aac | Family::Video => (self.aac_name(table)?, self.aac_bitrate(table)?),
            Family::Flac => {
                self.check_flac()?;
                (String::new(), 0)
            }
        };
        Ok(Rung { family, name, encoder, bitrate_bps })
    }

    fn encoder_of(&self, family: Family) -> Result<Encoder, Wrong> {
        let known = |e: &Encoder| e.family() == family;
        let asked = self.encoder.get_ref().as_str();
        Encoder::ALL.iter().copied().filter(known).find(|e| e.as_str() == asked).ok_or_else(|| {
            let names: Vec<&str> = Encoder::ALL.iter().filter(|e| known(e)).map(|e| e.as_str()).collect();
            let mut what = format!("{asked:?} is not known for {}; known: {}", family.as_str(), names.join(", "));
            if asked == "fdk" && family == Family::Aac {
                what.push_str("; this program was built without the feature fdk-aac (docs/decisions/0091)");
            }
            wrong(&self.encoder, "rung.encoder", what)
        })
    }

    fn aac_name(&self, table: &Spanned<RungTable>) -> Result<String, Wrong> {
        if let Some(blocksize) = &self.blocksize {
            return Err(wrong(blocksize, "rung.blocksize", "is for flac only"));
        }
        let name = self.name.as_ref().ok_or_else(|| wrong(table, "rung.name", "is missing"))?;
        let text = name.get_ref();
        // It becomes a path component and part of an object name.
        if text.is_empty() || text.len() > 16 || !text.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(wrong(name, "rung.name", format!("{text:?} is not 1 to 16 letters and digits")));
        }
        Ok(text.clone())
    }

    fn aac_bitrate(&self, table: &Spanned<RungTable>) -> Result<u32, Wrong> {
        let field = "rung.bitrate_bps";
        let bitrate = self.bitrate_bps.as_ref().ok_or_else(|| wrong(table, field, "is missing"))?;
        match *bitrate.get_ref() {
            bps @ 8_000..=512_000 => Ok(bps),
            bps => Err(wrong(bitrate, field, format!("{bps} is not in 8000..=512000"))),
        }
    }

    fn check_flac(&self) -> Result<(), Wrong> {
        if let Some(name) = &self.name {
            return Err(wrong(name, "rung.name", "is for aac only: there is one flac rung"));
        }
        if let Some(bitrate) = &self.bitrate_bps {
            return Err(wrong(bitrate, "rung.bitrate_bps", "is for aac only: flac is lossless"));
        }
        match &self.blocksize {
            Some(n) if *n.get_ref() != FLAC_BLOCK => {
                Err(wrong(n, "rung.blocksize", format!("{} is not {FLAC_BLOCK}", n.get_ref())))
            }
            _ => Ok(()),
        }
    }
}

/// The rules between neighbours.
fn follows(before: &[Rung], rung: &Rung, table: &Spanned<RungTable>) -> Result<(), Wrong> {
    let RungTable { name, bitrate_bps, codec, .. } = table.get_ref();
    let Some(last) = before.last() else { return Ok(()) };
    if last.family == Family::Flac {
        return Err(wrong(codec, "rung.codec", "nothing may follow the flac rung"));
    }
    if let Some(name) = name.as_ref().filter(|_| before.iter().any(|r| r.name == rung.name)) {
        return Err(wrong(name, "rung.name", format!("{:?} is taken", rung.name)));
    }
    match bitrate_bps {
        Some(bitrate) if rung.bitrate_bps <= last.bitrate_bps => {
            let what = format!("{} does not rise above {}", rung.bitrate_bps, last.bitrate_bps);
            Err(wrong(bitrate, "rung.bitrate_bps", what))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(not(feature = "fdk-aac"))]
    #[test]
    fn an_encoder_that_this_build_lacks_says_how_to_get_it() {
        let text = include_str!("../../pipelines/audio.toml").replacen("\"avenc_aac\"", "\"fdk\"", 1);
        let said = Ladder::decode(&text, "mine.toml").unwrap_err().to_string();
        assert!(said.starts_with("mine.toml:14: rung.encoder: ") && said.contains("feature fdk-aac"), "{said}");
    }

    #[test]
    fn the_built_in_ladder_is_four_aac_rungs_and_flac() {
        let ladder = Ladder::default_audio();
        let names: Vec<String> = ladder.rungs.iter().map(Rung::object_name).collect();
        assert_eq!(names, ["aac-64.mp4", "aac-96.mp4", "aac-160.mp4", "aac-256.mp4", "flac.mp4"]);
        assert_eq!((ladder.segment_samples(44_100), ladder.segment_samples(48_000)), (65 * 4096, 72 * 4096));
    }

    #[test]
    fn a_wrong_ladder_is_refused_with_file_line_and_field() {
        let check = |from: &str, to: &str, said: &str| {
            let text = include_str!("../../pipelines/audio.toml");
            assert!(text.contains(from), "{from}");
            let error = Ladder::decode(&text.replacen(from, to, 1), "l.toml").unwrap_err();
            assert_eq!(error.kind(), crate::base::Kind::Usage);
            assert!(error.chain().starts_with("l.toml:") && error.chain().contains(said), "{error:?}");
        };
        check("format = 1", "format = 2", "l.toml:3: format: 2 is not 1");
        check("frames_44100 = 260", "frames_44100 = 262", "l.toml:8: segment.frames_44100: 262 is not a multiple of 4");
        check("frames_48000 = 288", "frames_48000 = 4", "l.toml:9: segment.frames_48000: 4 is not in 44..=440");
        check("bitrate_bps = 64_000", "bitrate_bps = 900_000", "rung.bitrate_bps: 900000 is not in 8000..=512000");
        check("bitrate_bps = 64_000", "bitrate_bps = 96_000", "l.toml:21: rung.bitrate_bps: 96000 does not rise");
        check("bitrate_bps = 64_000", "bitrate = 64_000", "unknown field `bitrate`");
        check("bitrate_bps = 64_000", "", "l.toml:11: rung.bitrate_bps: is missing");
        check("name = \"96\"", "name = \"64\"", "rung.name: \"64\" is taken");
        check("name = \"96\"", "name = \"../x\"", "rung.name: \"../x\" is not 1 to 16");
        check("\"avenc_aac\" #", "\"voaacenc\" #", "\"voaacenc\" is not known for aac; known: avenc_aac");
        check("\"flacenc\"", "\"avenc_aac\"", "\"avenc_aac\" is not known for flac; known: flacenc");
        check("codec = \"aac\"  ", "codec = \"mp3\"  ", "\"mp3\" is neither");
        check("blocksize = 4096", "blocksize = 1152", "rung.blocksize: 1152 is not 4096");
        check("format = 1", "format = ", "l.toml:3:");
    }

    #[test]
    fn a_ladder_needs_a_rung_and_nothing_follows_flac() {
        let head = "format = 1\n[segment]\nframes_44100 = 260\nframes_48000 = 288\n";
        let flac = "[[rung]]\ncodec = \"flac\"\nencoder = \"flacenc\"\n";
        let error = Ladder::decode(&format!("rung = []\n{head}"), "l").unwrap_err().chain();
        assert!(error.contains("at least one"), "{error}");
        let error = Ladder::decode(&format!("{head}{flac}{flac}"), "l").unwrap_err().chain();
        assert!(error.contains("l:9: rung.codec: nothing may follow"), "{error}");
        assert_eq!(Ladder::decode(&format!("{head}{flac}"), "l").unwrap().rungs.len(), 1);
    }
}
