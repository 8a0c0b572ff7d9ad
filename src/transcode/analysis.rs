//! Measures the source while it passes: loudness (EBU R128) and the waveform.

use md5::{Digest as _, Md5};

use super::loudness::Meter;
use super::plan::Format;
use super::true_peak::TruePeak;
use crate::base::{Error, Result, hex};
use crate::hls::loudness::{Gating, REPLAY_GAIN_LUFS, rounded};
use crate::hls::version::{Loudness, ReplayGain};

/// Samples behind one point of the waveform: 5.8 ms at 44.1 kHz, audiowaveform's usual finest zoom.
pub(super) const SAMPLES_PER_POINT: u32 = 256;

/// Measures a source block by block; its memory does not grow but for 8 bytes per 100 ms (loudness).
pub(super) struct Analysis {
    channels: usize,
    meter: Meter,
    peak: TruePeak,
    /// The block as float, reused.
    samples: Vec<f32>,
    wave: Waveform,
    /// MD5 of the samples, and how many bits of them count.
    md5: Option<(Md5, u32)>,
}

/// Minimum and maximum of all channels over every `SAMPLES_PER_POINT` samples.
struct Waveform {
    low: f32,
    high: f32,
    /// Frames in them.
    count: usize,
}

impl Analysis {
    /// `weights`: what each channel counts for in loudness. `md5_bits`: 16 or 24, when the MD5 of the samples is wanted.
    pub(super) fn new(format: Format, weights: Vec<f64>, md5_bits: Option<u32>) -> Analysis {
        let channels = format.channels as usize;
        let meter = Meter::new(format.rate, weights);
        let peak = TruePeak::new(format.rate, channels);
        let md5 = md5_bits.map(|bits| (Md5::new(), bits));
        Analysis { channels, meter, peak, samples: Vec::new(), wave: Waveform::new(), md5 }
    }

    /// A block of interleaved samples in one of the decoder's four formats. Answers the points of the
    /// waveform it completed.
    pub(super) fn add(&mut self, format: &str, bytes: &[u8]) -> Result<Vec<u8>> {
        self.digest(format, bytes);
        self.samples.clear();
        let samples = &mut self.samples;
        match format {
            "S16LE" => samples.extend(words(bytes).map(|b| f32::from(i16::from_le_bytes(b)) / 32_768.0)),
            "S24_32LE" => samples.extend(words(bytes).map(|b| (i32::from_le_bytes(b) << 8) as f32 / 2_147_483_648.0)),
            "S32LE" => samples.extend(words(bytes).map(|b| i32::from_le_bytes(b) as f32 / 2_147_483_648.0)),
            // A damaged float file may hold anything; NaN would poison every sum.
            "F32LE" => {
                let finite = |x: f32| if x.is_finite() { x } else { 0.0 };
                samples.extend(words(bytes).map(f32::from_le_bytes).map(finite));
            }
            other => return Err(Error::internal(format!("samples of format {other} cannot be measured"))),
        }
        self.meter.add(&self.samples);
        self.peak.add(&self.samples);
        let mut points = Vec::new();
        self.wave.add(&self.samples, self.channels, &mut points);
        Ok(points)
    }

    /// The samples of the last block, as they were measured.
    pub(super) fn samples(&self) -> &[f32] {
        &self.samples
    }

    /// Takes the bytes that FLAC's MD5 is of: without those that our layouts pad with (RFC 9639 §8.2).
    fn digest(&mut self, format: &str, bytes: &[u8]) {
        let Some((md5, bits)) = &mut self.md5 else { return };
        let packed = |low: usize| words::<4>(bytes).flat_map(move |b| [b[low], b[low + 1], b[low + 2]]).collect();
        let packed: Vec<u8> = match (format, *bits) {
            ("S16LE", 16) => return md5.update(bytes),
            ("S24_32LE", 24) => packed(0),
            ("S32LE", 24) => packed(1),
            // Decoded to another depth than the source says: there is nothing to compare.
            _ => return self.md5 = None,
        };
        md5.update(&packed);
    }

    /// MD5 of the samples in hexadecimal digits, if it was wanted.
    pub(super) fn md5(&self) -> Option<String> {
        self.md5.as_ref().map(|(md5, _)| hex::encode(&md5.clone().finalize()))
    }

    /// The numbers, what they were found from, and the last point of the waveform.
    pub(super) fn finish(mut self) -> (Loudness, Gating, Vec<u8>) {
        let mut points = Vec::new();
        self.wave.flush(&mut points);
        let (peak, sample_peak) = (f64::from(self.peak.peak()), f64::from(self.peak.sample_peak()));
        let integrated = self.meter.integrated();
        let replay_gain = rounded(REPLAY_GAIN_LUFS - integrated)
            .map(|track_gain_db| ReplayGain { track_gain_db, track_peak: (sample_peak * 1e6).round() / 1e6 });
        let loudness = Loudness {
            integrated_lufs: rounded(integrated),
            range_lu: rounded(self.meter.range()).unwrap_or(0.0),
            true_peak_dbtp: rounded(20.0 * peak.log10()),
            replay_gain,
        };
        (loudness, self.meter.gating(), points)
    }
}

impl Waveform {
    fn new() -> Waveform {
        Waveform { low: f32::INFINITY, high: f32::NEG_INFINITY, count: 0 }
    }

    /// Interleaved samples, none of them NaN.
    fn add(&mut self, mut samples: &[f32], channels: usize, points: &mut Vec<u8>) {
        while !samples.is_empty() {
            let room = (SAMPLES_PER_POINT as usize - self.count) * channels;
            let (part, rest) = samples.split_at(room.min(samples.len()));
            let (blocks, last) = part.as_chunks::<8>();
            let (mut low, mut high) = ([self.low; 8], [self.high; 8]);
            for block in blocks {
                // Not `f32::min`, whose rule for NaN keeps it from being one instruction for several samples.
                for (lane, x) in block.iter().enumerate() {
                    low[lane] = if *x < low[lane] { *x } else { low[lane] };
                    high[lane] = if *x > high[lane] { *x } else { high[lane] };
                }
            }
            self.low = low.iter().chain(last).fold(f32::INFINITY, |low, x| x.min(low));
            self.high = high.iter().chain(last).fold(f32::NEG_INFINITY, |high, x| x.max(high));
            self.count += part.len() / channels;
            if self.count == SAMPLES_PER_POINT as usize {
                self.flush(points);
            }
            samples = rest;
        }
    }

    fn flush(&mut self, points: &mut Vec<u8>) {
        if self.count > 0 {
            let byte = |x: f32| (x * 128.0).floor().clamp(-128.0, 127.0) as i8 as u8;
            points.extend([byte(self.low), byte(self.high)]);
            *self = Waveform::new();
        }
    }
}

fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    bytes.as_chunks().0.iter().copied()
}
