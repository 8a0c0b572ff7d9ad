//! What all transcoder tests share: synthetic sources, ffmpeg, and a run of the real program.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;

use segue::base::{Error, Result};
use segue::hls::cmaf::check_rung;
use segue::hls::ladder::Ladder;
use segue::hls::version::{Family, Rung, Segment, VersionIndex};
use segue::transcode::{Limits, Options, Progress, run};
use tempfile::TempDir;

/// A directory with inputs and an empty one for outputs.
pub(super) struct Bench {
    dir: TempDir,
}

/// A successful run.
pub(super) struct Made {
    pub(super) index: VersionIndex,
    pub(super) dir: PathBuf,
}

impl Bench {
    pub(super) fn new() -> Bench {
        Bench { dir: tempfile::tempdir().unwrap() }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file.
    pub(super) fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// A 16-bit WAV of something like music: tones, beats, noise; other in every channel.
    pub(super) fn music(&self, rate: u32, channels: u16, frames: u32) -> PathBuf {
        let mut out = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0".to_vec();
        let frame = u32::from(channels) * 2;
        out.extend(channels.to_le_bytes());
        out.extend(rate.to_le_bytes());
        out.extend((rate * frame).to_le_bytes());
        out.extend([frame as u8, 0, 16, 0]);
        out.extend(b"data");
        out.extend((frames * frame).to_le_bytes());
        let mut seed = 1u32;
        for n in 0..frames {
            let t = f64::from(n) / f64::from(rate);
            for channel in 0..channels {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let noise = f64::from(seed >> 8) / f64::from(1 << 24) - 0.5;
                let base = 220.0 * (1.0 + f64::from(channel) / 3.0) * (1.0 + 0.25 * (2.0 * t).floor() % 1.0);
                let tone =
                    (t * base * std::f64::consts::TAU).sin() + 0.5 * (t * base * 3.0 * std::f64::consts::TAU).sin();
                let beat = (-(t * 3.0 % 1.0) * 14.0).exp();
                let x = 0.25 * tone * (0.6 + 0.4 * (t * 1.7).sin()) + 0.3 * noise * beat;
                out.extend(((x * 32_000.0) as i16).to_le_bytes());
            }
        }
        self.file(&format!("music-{rate}-{channels}-{frames}.wav"), out)
    }

    /// Converts `input` with ffmpeg.
    pub(super) fn convert(&self, input: &Path, arguments: &str, name: &str) -> PathBuf {
        let out = self.path(name);
        let mut command = Command::new("ffmpeg");
        command.args(["-v", "error", "-nostdin", "-y", "-i"]).arg(input).args(arguments.split_whitespace()).arg(&out);
        let done = command.output().expect("ffmpeg is installed");
        assert!(done.status.success(), "{name}: {}", String::from_utf8_lossy(&done.stderr));
        out
    }

    /// Transcodes with the test ladder.
    pub(super) fn make(&self, input: &Path) -> Made {
        self.try_make(input, &ladder(), &options()).unwrap()
    }

    pub(super) fn try_make(&self, input: &Path, ladder: &Ladder, options: &Options) -> Result<Made> {
        self.try_watch(input, ladder, options, &AtomicBool::new(false), &mut |_| ())
    }

    pub(super) fn try_watch(
        &self,
        input: &Path,
        ladder: &Ladder,
        options: &Options,
        cancel: &AtomicBool,
        watch: &mut dyn FnMut(Progress),
    ) -> Result<Made> {
        let dir = tempfile::tempdir_in(self.dir.path()).unwrap().keep();
        let made = run(input, ladder, &dir, options, watch, cancel);
        if made.is_err() {
            assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0, "files are left behind");
        }
        made.map(|index| Made { index, dir })
    }

    /// The refusal of an input.
    pub(super) fn refused(&self, input: &Path, limits: Limits) -> Error {
        let options = Options { limits, ..options() };
        match self.try_make(input, &ladder(), &options) {
            Ok(made) => panic!("{} was accepted: {:?}", input.display(), made.index.source),
            Err(error) => error,
        }
    }
}

pub(super) fn options() -> Options {
    Options { exe: env!("CARGO_BIN_EXE_segue").into(), ..Options::default() }
}

/// Two AAC rungs far apart and FLAC, in segments of about a second, so that short inputs have many.
pub(super) fn ladder() -> Ladder {
    ladder_by("avenc_aac")
}

/// The same by an encoder.
pub(super) fn ladder_by(encoder: &str) -> Ladder {
    let text = format!(
        "format = 1\n[segment]\nframes_44100 = 44\nframes_48000 = 48\n\
         [[rung]]\nname = \"64\"\ncodec = \"aac\"\nencoder = \"{encoder}\"\nbitrate_bps = 64_000\n\
         [[rung]]\nname = \"256\"\ncodec = \"aac\"\nencoder = \"{encoder}\"\nbitrate_bps = 256_000\n\
         [[rung]]\ncodec = \"flac\"\nencoder = \"flacenc\"\n"
    );
    Ladder::decode(&text, "test.toml").unwrap()
}

impl Made {
    pub(super) fn rung(&self, name: &str) -> &Rung {
        self.index.rungs.iter().find(|r| r.name == name).unwrap()
    }

    pub(super) fn bytes(&self, rung: &Rung) -> Vec<u8> {
        std::fs::read(self.dir.join(&rung.object.name)).unwrap()
    }

    /// The rung's init section and its segments.
    pub(super) fn slices(&self, rung: &Rung) -> (Vec<u8>, Vec<Vec<u8>>) {
        let bytes = self.bytes(rung);
        let cut = |(segment, start): (&Segment, u64)| bytes[start as usize..][..segment.bytes as usize].to_vec();
        let segments = rung.segments.iter().zip(rung.offsets()).map(cut).collect();
        (bytes[..rung.init.bytes as usize].to_vec(), segments)
    }

    /// What holds for every output: lengths, boundaries, sample tables, and what a decoder gives.
    pub(super) fn check(&self, samples: u64) {
        let source = &self.index.source;
        assert_eq!(source.samples, samples);
        VersionIndex::decode(&self.index.seal().0).unwrap();
        let reference = &self.index.rungs[0];
        for rung in &self.index.rungs {
            let name = &rung.object.name;
            let wanted = (samples * u64::from(rung.rate)).div_ceil(u64::from(source.rate));
            assert_eq!(rung.samples, wanted, "{name}");
            assert_eq!(rung.segments.len(), reference.segments.len(), "{name}");
            let (init, segments) = self.slices(rung);
            let ticks = check_rung(&init, &segments).unwrap();
            assert_eq!(ticks, rung.segments.iter().map(|s| s.ticks).collect::<Vec<_>>(), "{name}");
            for (mine, theirs) in rung.segments.iter().zip(&reference.segments).rev().skip(1) {
                assert_eq!(mine.ticks * u64::from(reference.rate), theirs.ticks * u64::from(rung.rate), "{name}");
            }
            if rung.family == Family::Aac {
                // ffmpeg plays priming and padding of fragmented files: all that a decoder gives.
                let decoded = decode(&self.dir.join(name), "f32le", "").len() / 4 / rung.channels as usize;
                assert_eq!(decoded as u64, u64::from(rung.priming) + wanted + u64::from(rung.padding), "{name}");
            }
            assert!(rung.peak_bps >= rung.average_bps && rung.average_bps > 0, "{name}");
        }
    }
}

/// Decodes with ffmpeg to raw samples.
pub(super) fn decode(input: &Path, format: &str, arguments: &str) -> Vec<u8> {
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-nostdin", "-i"]).arg(input).args(arguments.split_whitespace());
    let done = command.args(["-f", format, "-"]).output().expect("ffmpeg is installed");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    done.stdout
}

/// The first channel as float.
pub(super) fn first_channel(input: &Path, channels: usize, arguments: &str) -> Vec<f32> {
    let bytes = decode(input, "f32le", arguments);
    let samples = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
    samples.step_by(channels).collect()
}

/// Root mean square of the difference.
pub(super) fn error(a: &[f32], b: &[f32]) -> f64 {
    let sum: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    (sum / a.len().min(b.len()) as f64).sqrt()
}
