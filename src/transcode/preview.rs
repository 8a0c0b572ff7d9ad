//! Cuts the preview while the source passes: from a chosen start, or the loudest 30 seconds. In: samples at the
//! AAC rate. Out: the excerpt, faded, never more than half of the track. Holds at most two windows, whatever the length of the source.

use std::collections::VecDeque;
use std::sync::Arc;

/// Length of the window that is searched for.
const WINDOW_S: usize = 30;
/// Blocks in a second: the excerpt begins on one.
const BLOCKS_PER_S: usize = 2;
const BLOCKS_MAX: usize = WINDOW_S * BLOCKS_PER_S;
/// A window must be this much louder than the best before: the earliest of equals is taken.
const LOUDER: f64 = 1.01;
const FADE_IN_S: f64 = 0.05;
const FADE_OUT_S: f64 = 1.0;

/// Half a second. 16 bits: an excerpt for lossy encoding needs no more, and two windows of floats
/// would be 23 MB.
struct Block {
    samples: Vec<i16>,
    energy: f64,
}

/// What was cut out.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Excerpt {
    /// Frames of the source before it.
    pub(super) start: u64,
    /// Interleaved.
    pub(super) samples: Vec<i16>,
}

/// The search.
pub(super) struct Highlight {
    channels: usize,
    rate: usize,
    /// The most frames an excerpt may have.
    frames_max: usize,
    /// Where it was chosen to begin, in frames.
    chosen: Option<u64>,
    /// Frames heard.
    heard: u64,
    /// The block being filled; with a chosen start, the excerpt.
    open: Vec<i16>,
    /// The last blocks, at most `BLOCKS_MAX`.
    recent: VecDeque<Arc<Block>>,
    /// Sum of their energies.
    energy: f64,
    /// Blocks before `recent`.
    passed: usize,
    best: Vec<Arc<Block>>,
    best_energy: f64,
    best_at: usize,
}

impl Highlight {
    /// `frames_max`: the most that an excerpt may have. `chosen`: where it begins, in frames; else the loudest.
    pub(super) fn new(rate: u32, channels: u32, frames_max: usize, chosen: Option<u64>) -> Highlight {
        Highlight {
            channels: channels as usize,
            rate: rate as usize,
            frames_max,
            chosen,
            heard: 0,
            open: Vec::new(),
            recent: VecDeque::new(),
            energy: 0.0,
            passed: 0,
            best: Vec::new(),
            best_energy: -1.0,
            best_at: 0,
        }
    }

    /// Interleaved samples.
    pub(super) fn add(&mut self, mut samples: &[f32]) {
        if let Some(from) = self.chosen {
            return self.take_chosen(from, samples);
        }
        let full = self.rate / BLOCKS_PER_S * self.channels;
        self.heard += (samples.len() / self.channels) as u64;
        while !samples.is_empty() {
            let (here, later) = samples.split_at((full - self.open.len()).min(samples.len()));
            self.open.extend(here.iter().map(|sample| narrow(*sample)));
            samples = later;
            if self.open.len() == full {
                let next = Vec::with_capacity(full);
                let samples = std::mem::replace(&mut self.open, next);
                self.close(samples);
            }
        }
    }

    fn take_chosen(&mut self, from: u64, samples: &[f32]) {
        let most = self.frames_max * self.channels;
        for frame in samples.chunks_exact(self.channels) {
            if self.heard >= from && self.open.len() < most {
                self.open.extend(frame.iter().map(|sample| narrow(*sample)));
            }
            self.heard += 1;
        }
    }

    fn close(&mut self, samples: Vec<i16>) {
        let energy = samples.iter().map(|s| u64::from(s.unsigned_abs()).pow(2)).sum::<u64>() as f64;
        self.energy += energy;
        self.recent.push_back(Arc::new(Block { samples, energy }));
        if self.recent.len() > BLOCKS_MAX {
            self.passed += 1;
            self.energy -= self.recent.pop_front().map_or(0.0, |block| block.energy);
        }
        if self.recent.len() == BLOCKS_MAX && self.energy > self.best_energy * LOUDER {
            self.best = self.recent.iter().cloned().collect();
            (self.best_energy, self.best_at) = (self.energy, self.passed);
        }
    }

    /// Frames of half the track, at least one: whoever has not paid never gets the whole.
    fn half(&self) -> usize {
        (self.heard / 2).max(1) as usize
    }

    /// The excerpt, faded where it was cut: from the chosen start, or the first half of a short source, or the loudest window.
    pub(super) fn finish(mut self) -> Excerpt {
        if let Some(start) = self.chosen {
            let mut samples = std::mem::take(&mut self.open);
            samples.truncate(self.half() * self.channels);
            let frames = (samples.len() / self.channels) as u64;
            if start > 0 {
                self.fade(&mut samples, FADE_IN_S, false);
            }
            if start + frames < self.heard {
                self.fade(&mut samples, FADE_OUT_S, true);
            }
            return Excerpt { start, samples };
        }
        let whole = self.best.is_empty();
        if whole {
            let rest = std::mem::take(&mut self.open);
            self.best = self.recent.iter().cloned().collect();
            self.best.push(Arc::new(Block { samples: rest, energy: 0.0 }));
        }
        let mut out: Vec<i16> = self.best.iter().flat_map(|block| block.samples.iter().copied()).collect();
        let at_end = self.passed == self.best_at && self.open.is_empty();
        let most = self.frames_max.min(self.half()) * self.channels;
        let too_long = out.len() > most;
        out.truncate(most);
        if self.best_at > 0 {
            self.fade(&mut out, FADE_IN_S, false);
        }
        if too_long || !whole && !at_end {
            self.fade(&mut out, FADE_OUT_S, true);
        }
        let start = self.best_at * (self.rate / BLOCKS_PER_S);
        Excerpt { start: start as u64, samples: out }
    }

    /// A raised cosine over the first or last seconds.
    fn fade(&self, samples: &mut [i16], seconds: f64, out: bool) {
        let frames = samples.len() / self.channels;
        let length = ((seconds * self.rate as f64) as usize).min(frames);
        for n in 0..length {
            let gain = 0.5 - 0.5 * (n as f64 / length as f64 * std::f64::consts::PI).cos();
            let frame = if out { frames - 1 - n } else { n };
            for sample in &mut samples[frame * self.channels..(frame + 1) * self.channels] {
                *sample = (f64::from(*sample) * gain).round() as i16;
            }
        }
    }
}

fn narrow(sample: f32) -> i16 {
    let scaled = sample * 32_767.0;
    // Rounds half away from zero, as `round` does, which is a call for each sample on older processors.
    (scaled + 0.5f32.copysign(scaled)) as i16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 100 Hz "sample rate" keeps the arithmetic visible: a block is 50 samples, a window 3000.
    fn excerpt(levels: &[(usize, f32)]) -> Vec<i16> {
        cut(levels, 3000, None).samples
    }

    fn cut(levels: &[(usize, f32)], frames_max: usize, chosen: Option<u64>) -> Excerpt {
        let mut highlight = Highlight::new(100, 1, frames_max, chosen);
        for (seconds, level) in levels {
            highlight.add(&vec![*level; seconds * 100]);
        }
        highlight.finish()
    }

    #[test]
    fn a_chosen_start_is_kept_to_the_sample() {
        let found = cut(&[(10, 0.5), (60, 0.1)], 2900, Some(901));
        assert_eq!((found.start, found.samples.len()), (901, 2900));
        assert_eq!((found.samples[0], found.samples[2899]), (0, 0), "faded on both sides");
        assert_eq!((found.samples[98], found.samples[99]), (16_384, 3_277));
        let found = cut(&[(10, 0.5)], 2900, Some(600));
        assert_eq!((found.samples.len(), found.samples[399]), (400, 16_384), "not cut");
        assert_eq!(cut(&[(10, 0.5)], 2900, Some(0)).samples.len(), 500, "half of the track");
        assert_eq!(cut(&[(10, 0.5)], 2900, Some(1000)).samples.len(), 0, "beyond the end");
    }

    #[test]
    fn no_excerpt_is_longer_than_it_may_be() {
        assert_eq!(cut(&[(40, 0.1), (30, 0.5), (60, 0.2)], 2990, None).samples.len(), 2990);
    }

    #[test]
    fn the_loudest_thirty_seconds_are_taken_and_faded() {
        let found = excerpt(&[(40, 0.1), (30, 0.5), (60, 0.2)]);
        assert_eq!(found.len(), 3000);
        assert_eq!(found[0], 0);
        assert!(found[5..2900].iter().all(|s| *s == 16_384), "it is the loud part");
        assert_eq!(found[2999], 0);
    }

    #[test]
    fn no_preview_is_more_than_half_of_its_track() {
        let check = |seconds, frames: usize| {
            let found = excerpt(&[(seconds, 0.5)]);
            assert_eq!((found.len(), found[0], found[frames - 1]), (frames, 16_384, 0), "{seconds} s");
        };
        check(7, 350);
        check(30, 1500);
        check(40, 2000);
        check(60, 3000);
        let mut one = Highlight::new(100, 1, 3000, None);
        one.add(&[0.5]);
        assert_eq!(one.finish().samples.len(), 1);
    }

    #[test]
    fn of_equals_the_first_is_taken() {
        let found = excerpt(&[(300, 0.5)]);
        assert_eq!(found[0], 16_384, "it begins with the source, so nothing is faded in");
        assert_eq!(found[2999], 0);
    }

    #[test]
    fn memory_does_not_grow_with_the_source() {
        let mut highlight = Highlight::new(100, 1, 3000, None);
        for n in 0..600u32 {
            highlight.add(&[n as f32 / 600.0; 100]);
            assert!(highlight.recent.len() <= BLOCKS_MAX && highlight.best.len() <= BLOCKS_MAX);
        }
    }
}
