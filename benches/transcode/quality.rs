//! How far a rung is from its source: signal-to-noise ratio, and a noise-to-mask ratio after the manner of PEAQ's
//! (ITU-R BS.1387-2 §4.5, much simplified). Both compare two encoders on the same music; neither is a listening test.
//!
//! In: two streams of stereo floats, aligned. Out: decibels.

use std::f64::consts::PI;
use std::path::Path;
use std::process::Command;

use super::Outcome;

/// What a rung lost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quality {
    /// Signal-to-noise ratio in dB, the median over frames of 46 ms: higher is better.
    pub(super) snr_db: f64,
    /// Noise-to-mask ratio in dB, the mean over frames: lower is better, below 0 most noise is masked.
    pub(super) nmr_db: f64,
}

/// Samples in a frame of the analysis, and how far apart frames begin.
const FRAME: usize = 2048;
const HOP: usize = 1024;
/// Bands of about half a Bark.
const BANDS: usize = 48;
/// Level of what nobody hears, per band, in dB below full scale.
const SILENCE_DB: f64 = -100.0;

/// Decodes to interleaved stereo floats at this rate.
pub(super) fn decode(file: &Path, rate: u32) -> Outcome<Vec<f32>> {
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-nostdin", "-i"]).arg(file).args(["-map", "0:a:0", "-ac", "2", "-ar"]);
    ffmpeg.args([&rate.to_string(), "-f", "f32le", "-"]);
    let done = ffmpeg.output().map_err(|e| format!("cannot start ffmpeg: {e}"))?;
    if !done.status.success() {
        return Err(format!("cannot decode {}: {}", file.display(), String::from_utf8_lossy(&done.stderr).trim()));
    }
    Ok(done.stdout.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

/// Compares `coded` with `source`. ffmpeg does not cut an encoder's priming off, whoever wrote it: one frame of AAC, or two.
pub(super) fn compare(source: &[f32], coded: &[f32], window: &Window) -> Quality {
    let late = |by: usize| coded.get(by * 2..).unwrap_or_default();
    let error = |coded: &[f32]| -> f64 {
        source.iter().zip(coded).take(10 * 44_100).map(|(a, b)| f64::from(a - b).powi(2)).sum()
    };
    let primed = [0, 1024, 2048].map(late).into_iter().min_by(|a, b| error(a).total_cmp(&error(b)));
    let coded = primed.unwrap_or(coded);
    let frames = source.len().min(coded.len()) / 2;
    let (mut snrs, mut nmr, mut counted) = (Vec::new(), 0.0, 0u32);
    for start in (0..frames.saturating_sub(FRAME)).step_by(HOP) {
        for channel in 0..2 {
            let at = |samples: &[f32], n: usize| f64::from(samples[(start + n) * 2 + channel]);
            let signal = window.bands(|n| at(source, n));
            let noise = window.bands(|n| at(coded, n) - at(source, n));
            let (s, n) = (signal.iter().sum::<f64>(), noise.iter().sum::<f64>());
            if s < 1e-9 {
                continue; // silence has no ratio
            }
            snrs.push(10.0 * (s / n.max(1e-15)).log10());
            let mask = window.mask(&signal);
            let ratio = noise.iter().zip(&mask).map(|(n, m)| n / m).sum::<f64>() / BANDS as f64;
            nmr += 10.0 * ratio.max(1e-6).log10();
            counted += 1;
        }
    }
    snrs.sort_by(f64::total_cmp);
    Quality { snr_db: snrs.get(snrs.len() / 2).copied().unwrap_or(0.0), nmr_db: nmr / f64::from(counted.max(1)) }
}

/// The tables of the analysis at one sample rate.
pub(super) struct Window {
    hann: Vec<f64>,
    /// The band of each line of the spectrum.
    band: Vec<usize>,
    /// Share of one band's power that masks in another, `[from][to]`.
    spread: Vec<[f64; BANDS]>,
}

impl Window {
    pub(super) fn new(rate: f64) -> Window {
        // Zwicker's critical bands, Traunmüller's formula.
        let bark = |hz: f64| 26.81 * hz / (1960.0 + hz) - 0.53;
        let top = bark(rate / 2.0);
        let place = |line: usize| (bark(line as f64 * rate / FRAME as f64).max(0.0) / top * BANDS as f64) as usize;
        let width = top / BANDS as f64;
        // Masks fall by 27 dB a Bark towards low frequencies and by 10 towards high ones; 12 dB below the masker.
        let share = |from: usize, to: usize| {
            let apart = (to as f64 - from as f64) * width;
            let db = if apart < 0.0 { 27.0 * apart } else { -10.0 * apart };
            10f64.powf((db - 12.0) / 10.0)
        };
        Window {
            hann: (0..FRAME).map(|n| 0.5 - 0.5 * (2.0 * PI * n as f64 / FRAME as f64).cos()).collect(),
            band: (0..FRAME / 2).map(|line| place(line).min(BANDS - 1)).collect(),
            spread: (0..BANDS).map(|from| std::array::from_fn(|to| share(from, to))).collect(),
        }
    }

    /// Power in each band of one frame.
    fn bands(&self, sample: impl Fn(usize) -> f64) -> [f64; BANDS] {
        let mut re: Vec<f64> = self.hann.iter().enumerate().map(|(n, w)| w * sample(n)).collect();
        let mut im = vec![0.0; FRAME];
        fft(&mut re, &mut im);
        let mut bands = [0.0; BANDS];
        for (line, band) in self.band.iter().enumerate() {
            // Hann has 3/8 of the power; two sides; FRAME² by the transform.
            bands[*band] += (re[line].powi(2) + im[line].powi(2)) * 2.0 / (0.375 * (FRAME * FRAME) as f64);
        }
        bands
    }

    fn mask(&self, signal: &[f64; BANDS]) -> [f64; BANDS] {
        let mut mask = [10f64.powf(SILENCE_DB / 10.0); BANDS];
        for (power, spread) in signal.iter().zip(&self.spread) {
            for (mask, share) in mask.iter_mut().zip(spread) {
                *mask += power * share;
            }
        }
        mask
    }
}

/// In place, radix 2, decimation in time. The length is a power of two.
fn fft(re: &mut [f64], im: &mut [f64]) {
    let n = re.len();
    let bits = n.trailing_zeros();
    for i in 0..n {
        let j = i.reverse_bits() >> (usize::BITS - bits);
        if j > i {
            re.swap(i, j);
            im.swap(i, j);
        }
    }
    let mut size = 2;
    while size <= n {
        let turn = -2.0 * PI / size as f64;
        for k in 0..size / 2 {
            let (s, c) = (turn * k as f64).sin_cos();
            for start in (0..n).step_by(size) {
                let (a, b) = (start + k, start + k + size / 2);
                let (x, y) = (re[b] * c - im[b] * s, re[b] * s + im[b] * c);
                (re[b], im[b]) = (re[a] - x, im[a] - y);
                (re[a], im[a]) = (re[a] + x, im[a] + y);
            }
        }
        size *= 2;
    }
}
