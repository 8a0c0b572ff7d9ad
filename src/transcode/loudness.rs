//! Loudness: ITU-R BS.1770-5 annex 1 and EBU Tech 3342. In: blocks of interleaved floats. Out: integrated loudness
//! and loudness range, those of libebur128 (a test compares them).
//!
//! Our own because the K-weighting is the dearest thing that a transcode does beside encoding: two channels go through
//! it side by side, and only energies of 100 ms are kept, not filtered samples.

use std::array::from_fn;

use crate::hls::loudness::{Gating, SILENCE_LUFS, energy, loudness};

/// Tenths of a second in a gating block, and in a block of short-term loudness.
const GATED: usize = 4;
const SHORT_TERM: usize = 30;
/// Short-term loudness is looked at once a second.
const SHORT_TERM_STEP: usize = 10;

/// Measures a source; its memory grows by 8 bytes per 100 ms.
pub(super) struct Meter {
    channels: usize,
    filter: Filter,
    /// What a channel's energy counts for.
    weights: Vec<f64>,
    /// The filter's memory of each channel, two by two.
    pairs: Vec<[[f64; 2]; 4]>,
    /// Frames in a tenth of a second, and how many of the current one are here.
    tenth: usize,
    filled: usize,
    /// Energy of the current tenth.
    energy: f64,
    /// Energies of the last tenths, a ring.
    tenths: [f64; SHORT_TERM],
    /// Tenths so far.
    count: usize,
    /// Mean energies of the gating blocks, and of the short-term blocks, that are above `SILENCE_LUFS`.
    blocks: Vec<f64>,
    short_term: Vec<f64>,
}

/// The K-weighting: a shelf and a high pass, as one filter of fourth order.
#[derive(Clone, Copy)]
struct Filter {
    /// Factors of the last five inputs, the newest first.
    b: [f64; 5],
    /// Likewise of the last four outputs.
    a: [f64; 4],
}

impl Meter {
    /// For interleaved samples at `rate` Hz; a weight for each channel.
    pub(super) fn new(rate: u32, weights: Vec<f64>) -> Meter {
        let channels = weights.len();
        Meter {
            channels,
            filter: Filter::new(f64::from(rate)),
            weights,
            pairs: vec![[[0.0; 2]; 4]; channels.div_ceil(2)],
            tenth: (rate as usize + 5) / 10,
            filled: 0,
            energy: 0.0,
            tenths: [0.0; SHORT_TERM],
            count: 0,
            blocks: Vec::new(),
            short_term: Vec::new(),
        }
    }

    /// Interleaved samples, whole frames, none of them NaN.
    pub(super) fn add(&mut self, mut samples: &[f32]) {
        while !samples.is_empty() {
            let room = (self.tenth - self.filled) * self.channels;
            let (part, rest) = samples.split_at(room.min(samples.len()));
            for first in (0..self.channels).step_by(2) {
                self.weigh(first, part);
            }
            self.filled += part.len() / self.channels;
            if self.filled == self.tenth {
                self.end_tenth();
            }
            samples = rest;
        }
    }

    /// Adds the energy of a channel and its neighbour.
    fn weigh(&mut self, first: usize, part: &[f32]) {
        let weight = |channel: usize| self.weights.get(channel).copied().unwrap_or(0.0); // the last may have no neighbour
        let weights = [weight(first), weight(first + 1)];
        if weights == [0.0; 2] {
            return;
        }
        let state = &mut self.pairs[first / 2];
        let energies = match (self.channels, self.channels - first) {
            (2, _) => self.filter.energy(state, part.as_chunks::<2>().0.iter().copied()),
            (_, 1) => self.filter.energy(state, part.chunks_exact(self.channels).map(|f| [f[first], 0.0])),
            _ => self.filter.energy(state, part.chunks_exact(self.channels).map(|f| [f[first], f[first + 1]])),
        };
        self.energy += energies[0] * weights[0] + energies[1] * weights[1];
    }

    fn end_tenth(&mut self) {
        self.tenths[self.count % SHORT_TERM] = self.energy / self.tenth as f64;
        self.count += 1;
        (self.filled, self.energy) = (0, 0.0);
        // What is left of a sound in the filter becomes a number that processors are slow with.
        for value in self.pairs.as_flattened_mut().as_flattened_mut() {
            if value.abs() < 1e-100 {
                *value = 0.0;
            }
        }
        let mean = |last: usize| {
            let energies = (1..=last).map(|back| self.tenths[(self.count - back) % SHORT_TERM]);
            energies.sum::<f64>() / last as f64
        };
        let audible = energy(SILENCE_LUFS);
        if self.count >= GATED {
            self.blocks.extend(Some(mean(GATED)).filter(|mean| *mean >= audible));
        }
        if self.count >= SHORT_TERM && (self.count - SHORT_TERM).is_multiple_of(SHORT_TERM_STEP) {
            self.short_term.extend(Some(mean(SHORT_TERM)).filter(|mean| *mean >= audible));
        }
    }

    /// Integrated loudness in LUFS; -∞ for silence.
    pub(super) fn integrated(&self) -> f64 {
        let gate = mean(self.blocks.iter().copied()) * energy_ratio(-10.0);
        loudness(mean(self.blocks.iter().copied().filter(|block| *block >= gate)))
    }

    /// Loudness range in LU (EBU Tech 3342 §2.1): between the 10th and the 95th percentile.
    pub(super) fn range(&self) -> f64 {
        let gate = mean(self.short_term.iter().copied()) * energy_ratio(-20.0);
        let mut loud: Vec<f64> = self.short_term.iter().copied().filter(|block| *block >= gate).collect();
        loud.sort_by(f64::total_cmp);
        let Some(last) = loud.len().checked_sub(1) else { return 0.0 };
        let percentile = |share: f64| loudness(loud[(last as f64 * share + 0.5) as usize]);
        percentile(0.95) - percentile(0.1)
    }

    /// The blocks that both were found from.
    pub(super) fn gating(&self) -> Gating {
        Gating::of(&self.blocks, &self.short_term)
    }
}

impl Filter {
    /// The filters of BS.1770 for 48 kHz, as the analogue ones that they come from (frequency, gain and Q; libebur128's
    /// fit), at any rate.
    fn new(rate: f64) -> Filter {
        let warped = |hertz: f64| (std::f64::consts::PI * hertz / rate).tan();
        // 1. A shelf: a head lifts what is above 1.7 kHz by 4 dB.
        let (k, q) = (warped(1_681.974_450_955_533), 0.707_175_236_955_419_6);
        let high = 10f64.powf(3.999_843_853_973_347 / 20.0);
        let band = high.powf(0.499_666_774_154_541_6);
        let a0 = 1.0 + k / q + k * k;
        let shelf_b =
            [(high + band * k / q + k * k) / a0, 2.0 * (k * k - high) / a0, (high - band * k / q + k * k) / a0];
        let shelf_a = [1.0, 2.0 * (k * k - 1.0) / a0, (1.0 - k / q + k * k) / a0];
        // 2. A high pass at 38 Hz.
        let (k, q) = (warped(38.135_470_876_024_44), 0.500_327_037_323_877_3);
        let a0 = 1.0 + k / q + k * k;
        let pass_a = [1.0, 2.0 * (k * k - 1.0) / a0, (1.0 - k / q + k * k) / a0];
        let [_, a @ ..] = product(shelf_a, pass_a);
        Filter { b: product(shelf_b, [1.0, -2.0, 1.0]), a }
    }

    /// The energy of two channels after the filter. What it remembers is in `state`, the latest first.
    fn energy(&self, state: &mut [[f64; 2]; 4], frames: impl Iterator<Item = [f32; 2]>) -> [f64; 2] {
        let Filter { a, b } = *self;
        let [mut v1, mut v2, mut v3, mut v4] = *state;
        let mut energy = [0.0; 2];
        for frame in frames {
            // Everything but the last product is known before the frame ahead of it is done.
            let early: [f64; 2] = from_fn(|c| f64::from(frame[c]) - (a[1] * v2[c] + a[2] * v3[c] + a[3] * v4[c]));
            let v0: [f64; 2] = from_fn(|c| early[c] - a[0] * v1[c]);
            let y: [f64; 2] = from_fn(|c| b[0] * v0[c] + b[1] * v1[c] + b[2] * v2[c] + b[3] * v3[c] + b[4] * v4[c]);
            energy = from_fn(|c| energy[c] + y[c] * y[c]);
            (v4, v3, v2, v1) = (v3, v2, v1, v0);
        }
        *state = [v1, v2, v3, v4];
        energy
    }
}

/// What a channel beside or behind the listener counts for (BS.1770-5 table 3): 1.5 dB more. Those in front count once, an LFE
/// not at all.
pub(super) const SURROUND: f64 = 1.41;

/// The weights of channels that do not say where they are, by libebur128's order: the fourth of six is an LFE, what is
/// beyond them does not count.
pub(super) fn weights_by_count(channels: usize) -> Vec<f64> {
    match channels {
        4 => vec![1.0, 1.0, SURROUND, SURROUND],
        5 => vec![1.0, 1.0, 1.0, SURROUND, SURROUND],
        _ => {
            let known = [1.0, 1.0, 1.0, 0.0, SURROUND, SURROUND].into_iter();
            known.chain(std::iter::repeat(0.0)).take(channels).collect()
        }
    }
}

/// Coefficients of two filters one behind the other.
fn product(one: [f64; 3], other: [f64; 3]) -> [f64; 5] {
    let mut product = [0.0; 5];
    for (i, x) in one.iter().enumerate() {
        for (j, y) in other.iter().enumerate() {
            product[i + j] += x * y;
        }
    }
    product
}

fn mean(energies: impl Iterator<Item = f64>) -> f64 {
    let (count, sum) = energies.fold((0u64, 0.0), |(count, sum), energy| (count + 1, sum + energy));
    if count == 0 { 0.0 } else { sum / count as f64 }
}

fn energy_ratio(db: f64) -> f64 {
    10f64.powf(db / 10.0)
}

#[cfg(test)]
mod tests {
    use ebur128::{EbuR128, Mode};

    use super::*;
    use crate::hls::loudness::{Together, together};
    use crate::hls::version::Loudness;

    /// Noise over a hum whose level follows `level` (of the second).
    fn sound(rate: u32, channels: usize, seconds: f64, level: impl Fn(f64) -> f32) -> Vec<f32> {
        let mut seed = 1u32;
        let mut noise = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as f32 / 8_388_608.0 - 1.0
        };
        let frames = (seconds * f64::from(rate)) as usize;
        let frame = |n: usize| {
            let second = n as f64 / f64::from(rate);
            let hum = (second * 220.0 * std::f64::consts::TAU).sin() as f32;
            (0..channels).map(move |c| (second, hum * (0.3 + 0.1 * c as f32)))
        };
        (0..frames).flat_map(frame).map(|(second, hum)| (hum + 0.4 * noise()) * level(second)).collect()
    }

    fn ours(rate: u32, channels: usize, block: usize, samples: &[f32]) -> (f64, f64) {
        let mut meter = Meter::new(rate, weights_by_count(channels));
        samples.chunks(block * channels).for_each(|block| meter.add(block));
        (meter.integrated(), meter.range())
    }

    /// The same from tenths of a LU, in two halves that are measured apart.
    fn as_one(rate: u32, channels: usize, samples: &[f32]) -> Together {
        let half = samples.len() / channels / 2 * channels;
        let gating = |samples: &[f32]| {
            let mut meter = Meter::new(rate, weights_by_count(channels));
            meter.add(samples);
            meter.gating()
        };
        let unknown = Loudness::default();
        let whole = gating(samples);
        let (begin, end) = (gating(&samples[..half]), gating(&samples[half..]));
        let apart = together([(&unknown, &begin), (&unknown, &end)]);
        let together = together([(&unknown, &whole)]);
        // Blocks over the seam are in neither.
        let close = |a: Option<f64>, b: Option<f64>| a.zip(b).is_none_or(|(a, b)| (a - b).abs() < 0.5);
        assert!(close(apart.integrated_lufs, together.integrated_lufs), "{apart:?}, {together:?}");
        together
    }

    #[test]
    fn it_measures_what_libebur128_measures() {
        let check = |rate: u32, channels: usize, seconds: f64, block: usize, level: &dyn Fn(f64) -> f32| {
            let samples = sound(rate, channels, seconds, level);
            let mut theirs = EbuR128::new(channels as u32, rate, Mode::I | Mode::LRA).unwrap();
            theirs.add_frames_f32(&samples).unwrap();
            let wanted = (theirs.loudness_global().unwrap(), theirs.loudness_range().unwrap());
            let found = ours(rate, channels, block, &samples);
            let same = |a: f64, b: f64| a == b || (a - b).abs() < 1e-6;
            let what = format!("{rate} Hz, {channels} channels, {seconds} s: {found:?}, not {wanted:?}");
            assert!(same(found.0, wanted.0) && same(found.1, wanted.1), "{what}");
            let as_one = as_one(rate, channels, &samples);
            // A range is between two middles of a tenth.
            let near = |a: Option<f64>, b: f64, most: f64| a.map_or(b == f64::NEG_INFINITY, |a| (a - b).abs() < most);
            assert!(near(as_one.integrated_lufs, wanted.0, 0.06), "{as_one:?}; {what}");
            assert!(near(Some(as_one.range_lu), wanted.1, 0.12), "{as_one:?}; {what}");
        };
        let swells = |second: f64| (0.02 + 0.3 * (second / 3.0).sin().abs()) as f32;
        for block in [1, 777, 16_384, 1_000_000] {
            check(44_100, 2, 20.0, block, &swells);
        }
        for (rate, channels) in [(8_000, 1), (11_025, 3), (48_000, 4), (44_100, 5), (48_000, 6), (16_000, 8)] {
            check(rate, channels, 12.3, 4096, &swells);
        }
        check(192_000, 2, 5.0, 4096, &swells);
        // Loud, then so quiet that the relative gates leave it out, then below the absolute one, then silence.
        let fades = |second: f64| if second < 15.0 { 0.5 } else { 0.5 * 10f32.powf((15.0 - second as f32) / 5.0) };
        check(48_000, 2, 40.0, 4096, &fades);
        check(48_000, 2, 20.0, 4096, &|second| if second < 9.95 { 0.5 } else { 0.0 });
        check(48_000, 1, 0.3, 4096, &|_| 0.5); // shorter than a block
        check(48_000, 1, 2.0, 4096, &|_| 0.5); // shorter than a short-term block
        check(48_000, 2, 5.0, 4096, &|_| 0.0);
    }

    /// EBU Tech 3341 test 1: a sine of 1 kHz at -23 dBFS on both channels has -23 LUFS.
    #[test]
    fn a_sine_at_minus_23_dbfs_has_minus_23_lufs() {
        for rate in [44_100, 48_000, 96_000] {
            let step = std::f64::consts::TAU * 1_000.0 / f64::from(rate);
            let sine = (0..20 * rate).map(|n| (f64::from(n) * step).sin() * 10f64.powf(-23.0 / 20.0));
            let samples: Vec<f32> = sine.flat_map(|x| [x as f32; 2]).collect();
            let (integrated, range) = ours(rate, 2, 4096, &samples);
            assert!((integrated + 23.0).abs() < 0.1 && range < 0.1, "{rate} Hz: {integrated} LUFS, {range} LU");
        }
    }
}
