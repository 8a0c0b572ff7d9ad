//! The highest level between samples: ITU-R BS.1770-5 annex 2, fourfold oversampling (twofold from 96 kHz, none from
//! 192 kHz), with the filter that libebur128 has. In: blocks of interleaved floats. Out: the peak of all channels.
//!
//! Most of the signal is not looked at closely: no interpolated value can exceed the loudest sample around it times
//! the sum of the filter's coefficients, so where that is below the highest peak so far nothing is computed.

/// Coefficients in all, and samples that the skipping goes by.
const TAPS: usize = 48;
const BLOCK: usize = 32;

/// Measures a source; memory does not grow.
pub(super) struct TruePeak {
    channels: usize,
    /// One filter for each place between two samples, latest sample first.
    phases: Vec<Vec<f32>>,
    /// The most that any of them can make of samples that are at most 1.
    gain: f32,
    /// Samples of each channel that the next block needs, oldest first.
    past: Vec<Vec<f32>>,
    sample_peak: f32,
    peak: f32,
}

impl TruePeak {
    pub(super) fn new(rate: u32, channels: usize) -> TruePeak {
        let factor = match rate {
            0..96_000 => 4,
            96_000..192_000 => 2,
            _ => 1,
        };
        // A sinc in a Hann window. The phase at the samples themselves is 1 at one of them and 0 at the others.
        let coefficient = |j: usize| {
            let m = j as f64 - TAPS as f64 / 2.0;
            let angle = m * std::f64::consts::PI / factor as f64;
            let window = 0.5 * (1.0 - (std::f64::consts::TAU * j as f64 / TAPS as f64).cos());
            (if m == 0.0 { window } else { window * angle.sin() / angle }) as f32
        };
        let phase = |phase: usize| (phase..TAPS).step_by(factor).map(coefficient).collect::<Vec<f32>>();
        let phases: Vec<Vec<f32>> = (1..factor).map(phase).collect();
        let sum = |phase: &Vec<f32>| phase.iter().map(|c| c.abs()).sum::<f32>();
        let gain = phases.iter().map(sum).fold(1.0, f32::max) * 1.0001; // and what rounding adds
        let past = vec![vec![0.0; if factor == 1 { 0 } else { TAPS / factor - 1 }]; channels];
        TruePeak { channels, phases, gain, past, sample_peak: 0.0, peak: 0.0 }
    }

    /// Interleaved samples, none of them NaN.
    pub(super) fn add(&mut self, samples: &[f32]) {
        for channel in 0..self.channels {
            let mut line = std::mem::take(&mut self.past[channel]);
            let history = line.len();
            line.extend(samples.iter().skip(channel).step_by(self.channels));
            self.sample_peak = loudest(&line[history..], self.sample_peak);
            self.peak = self.peak.max(self.sample_peak);
            if history > 0 {
                self.between(&line, history);
                line.drain(..line.len() - history);
            }
            line.truncate(history);
            self.past[channel] = line;
        }
    }

    /// The largest sample so far; 1 is full scale.
    pub(super) fn sample_peak(&self) -> f32 {
        self.sample_peak
    }

    /// The highest so far; 1 is full scale.
    pub(super) fn peak(&self) -> f32 {
        self.peak
    }

    fn between(&mut self, line: &[f32], history: usize) {
        for start in (0..line.len() - history).step_by(BLOCK) {
            let end = line.len().min(start + BLOCK + history);
            let around = &line[start..end];
            if loudest(around, 0.0) * self.gain <= self.peak {
                continue;
            }
            for phase in &self.phases {
                let mut sums = [0.0f32; BLOCK];
                let sums = &mut sums[..around.len() - history];
                for (tap, coefficient) in phase.iter().enumerate() {
                    // Sample n of the block is at `history + n`; tap t looks t samples back.
                    for (sum, x) in sums.iter_mut().zip(&around[history - tap..]) {
                        *sum += coefficient * x;
                    }
                }
                self.peak = loudest(sums, self.peak);
            }
        }
    }
}

/// The largest absolute value, at least `least`. Eight lines of thought, so that it becomes one instruction for several
/// samples: compilers do not reorder the comparisons of one.
fn loudest(samples: &[f32], least: f32) -> f32 {
    let (blocks, rest) = samples.as_chunks::<8>();
    let mut most = [least; 8];
    for block in blocks {
        for (most, x) in most.iter_mut().zip(block) {
            *most = if x.abs() > *most { x.abs() } else { *most };
        }
    }
    most.iter().chain(rest).map(|x| x.abs()).fold(least, |most, x| if x > most { x } else { most })
}

#[cfg(test)]
mod tests {
    use ebur128::{EbuR128, Mode};

    use super::*;

    /// Noise whose level rises and falls, from a fixed seed.
    fn noise(count: usize, level: impl Fn(usize) -> f32) -> Vec<f32> {
        let mut seed = 1u32;
        let mut next = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as f32 / 8_388_608.0 - 1.0
        };
        (0..count).map(|n| next() * level(n)).collect()
    }

    #[test]
    fn it_finds_the_peak_that_libebur128_finds() {
        let check = |rate: u32, channels: u32, blocks: usize, level: &dyn Fn(usize) -> f32| {
            let samples = noise(40_000 * channels as usize, level);
            let mut theirs = EbuR128::new(channels, rate, Mode::TRUE_PEAK).unwrap();
            theirs.add_frames_f32(&samples).unwrap();
            let wanted = (0..channels).map(|c| theirs.true_peak(c).unwrap()).fold(0.0, f64::max);
            let mut ours = TruePeak::new(rate, channels as usize);
            samples.chunks(blocks * channels as usize).for_each(|block| ours.add(block));
            let found = f64::from(ours.peak());
            assert!((found / wanted - 1.0).abs() < 1e-5, "{rate} Hz, {channels} channels: {found}, not {wanted}");
        };
        for blocks in [1, 7, 4096, 100_000] {
            check(44_100, 2, blocks, &|_| 0.5);
        }
        check(48_000, 1, 1024, &|n| (n % 5_000) as f32 / 5_000.0);
        check(8_000, 6, 1000, &|n| if n == 77_777 { 0.9 } else { 0.3 });
        check(96_000, 2, 4096, &|n| 1.0 / (1.0 + n as f32));
        check(192_000, 2, 4096, &|_| 1.5);
        check(44_100, 3, 4096, &|_| 0.0001);
    }

    /// A sine at a quarter of the rate, sampled beside its crests: 3 dB more than any sample shows.
    #[test]
    fn it_sees_what_is_between_samples() {
        let mut meter = TruePeak::new(48_000, 1);
        let sine: Vec<f32> = (0..4800).map(|n| ((n as f32 + 0.5) * std::f32::consts::FRAC_PI_2).sin()).collect();
        meter.add(&sine);
        assert!((0.99..1.12).contains(&meter.peak()), "{}", meter.peak()); // more where it begins so suddenly
        assert!(sine.iter().all(|x| x.abs() < 0.708));
    }
}
