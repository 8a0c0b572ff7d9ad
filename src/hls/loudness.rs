//! Loudness of several tracks as one, as of an album that is played in a row. In: what each version keeps of its own
//! measurement. Out: the EBU R128 numbers of all of them together. Pure.
//!
//! The gates are relative to the whole (ITU-R BS.1770-5 annex 1, EBU Tech 3342 §2.1): a quiet track's blocks may count in it
//! and not beside a loud one. So the numbers of tracks cannot be averaged, and each version keeps how many blocks it has of
//! each tenth of a LU. What is computed from them is right to 0.05 LU.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::version::Loudness;

/// Blocks below this do not count: BS.1770's absolute gate, in LUFS.
pub const SILENCE_LUFS: f64 = -70.0;
/// What ReplayGain 2.0 brings tracks and albums to.
pub const REPLAY_GAIN_LUFS: f64 = -18.0;

/// The blocks of a track that its loudness was found from, by their own: tenths of a LUFS, rounded down, and how many.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gating {
    /// Of 400 ms, one every 100 ms.
    pub blocks: Vec<(i32, u32)>,
    /// Of 3 s, one a second.
    pub short_term: Vec<(i32, u32)>,
}

/// The numbers of several tracks as one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Together {
    /// Integrated loudness in LUFS, two decimals; null of silence.
    pub integrated_lufs: Option<f64>,
    /// Loudness range in LU, two decimals.
    pub range_lu: f64,
    /// The highest true peak of any track, in dBTP; null of silence.
    pub true_peak_dbtp: Option<f64>,
    /// What ReplayGain 2.0 calls the album's gain, in dB; null of silence.
    pub album_gain_db: Option<f64>,
    /// The largest sample of any track; 1 is full scale.
    pub album_peak: f64,
}

impl Gating {
    /// Of the mean energies of a track's blocks.
    pub fn of(blocks: &[f64], short_term: &[f64]) -> Gating {
        Gating { blocks: counted(blocks), short_term: counted(short_term) }
    }
}

/// All tracks as one; their order does not matter.
pub fn together<'a>(tracks: impl IntoIterator<Item = (&'a Loudness, &'a Gating)>) -> Together {
    let (mut blocks, mut short_term) = (BTreeMap::new(), BTreeMap::new());
    let (mut true_peak_dbtp, mut album_peak) = (None::<f64>, 0f64);
    for (loudness, gating) in tracks {
        for (all, own) in [(&mut blocks, &gating.blocks), (&mut short_term, &gating.short_term)] {
            own.iter().for_each(|(tenths, count)| *all.entry(*tenths).or_default() += u64::from(*count));
        }
        let highest = |one: f64| true_peak_dbtp.map_or(one, |most| most.max(one));
        true_peak_dbtp = loudness.true_peak_dbtp.map(highest).or(true_peak_dbtp);
        album_peak = loudness.replay_gain.as_ref().map_or(album_peak, |gain| gain.track_peak.max(album_peak));
    }
    let integrated = rounded(loudness(mean(above(&blocks, -10.0))));
    Together {
        integrated_lufs: integrated,
        range_lu: range(&short_term).and_then(rounded).unwrap_or(0.0),
        true_peak_dbtp,
        album_gain_db: integrated.and_then(|lufs| rounded(REPLAY_GAIN_LUFS - lufs)),
        album_peak,
    }
}

/// Loudness in LUFS of a mean energy (BS.1770-5 annex 1, equation 2).
pub fn loudness(energy: f64) -> f64 {
    10.0 * energy.log10() - 0.691
}

/// The mean energy that is so loud.
pub fn energy(lufs: f64) -> f64 {
    10f64.powf((lufs + 0.691) / 10.0)
}

/// Two decimals; infinite and undefined values are absent.
pub fn rounded(value: f64) -> Option<f64> {
    value.is_finite().then(|| (value * 100.0).round() / 100.0 + 0.0)
}

/// Blocks by tenths of a LUFS.
type Counts = BTreeMap<i32, u64>;

fn counted(energies: &[f64]) -> Vec<(i32, u32)> {
    let mut counts = BTreeMap::<i32, u32>::new();
    for energy in energies {
        *counts.entry((loudness(*energy) * 10.0).floor() as i32).or_default() += 1;
    }
    counts.into_iter().collect()
}

/// The middle of a tenth, as energy.
fn middle(tenths: i32) -> f64 {
    energy((f64::from(tenths) + 0.5) / 10.0)
}

/// Energies and numbers of the blocks that are above a gate so many LU from the loudness of all.
fn above(counts: &Counts, gate_lu: f64) -> impl Iterator<Item = (f64, u64)> + Clone {
    let all = counts.iter().map(|(tenths, count)| (middle(*tenths), *count));
    let gate = mean(all.clone()) * 10f64.powf(gate_lu / 10.0);
    all.filter(move |(energy, _)| *energy >= gate)
}

fn mean(energies: impl Iterator<Item = (f64, u64)>) -> f64 {
    let (sum, count) =
        energies.fold((0.0, 0), |(sum, all), (energy, count)| (sum + energy * count as f64, all + count));
    if count == 0 { 0.0 } else { sum / count as f64 }
}

/// Between the 10th and the 95th percentile of what is above -20 LU.
fn range(counts: &Counts) -> Option<f64> {
    let loud = above(counts, -20.0);
    let last = loud.clone().map(|(_, count)| count).sum::<u64>().checked_sub(1)?;
    let percentile = |share: f64| {
        let wanted = (last as f64 * share + 0.5) as u64;
        let mut passed = 0;
        let found = loud.clone().find(|(_, count)| {
            passed += count;
            passed > wanted
        });
        found.map(|(energy, _)| loudness(energy))
    };
    Some(percentile(0.95)? - percentile(0.1)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hls::version::ReplayGain;

    fn track(lufs: &[f64], true_peak_dbtp: f64, track_peak: f64) -> (Loudness, Gating) {
        let energies: Vec<f64> = lufs.iter().map(|lufs| energy(*lufs)).collect();
        let replay_gain = Some(ReplayGain { track_gain_db: 0.0, track_peak });
        let loudness = Loudness { true_peak_dbtp: Some(true_peak_dbtp), replay_gain, ..Loudness::default() };
        (loudness, Gating::of(&energies, &energies))
    }

    fn of(tracks: &[(Loudness, Gating)]) -> Together {
        together(tracks.iter().map(|(loudness, gating)| (loudness, gating)))
    }

    #[test]
    fn gates_are_those_of_the_whole() {
        let loud = track(&[-14.05; 900], -1.0, 0.9);
        let quiet = track(&[-28.05; 100], -9.0, 0.3);
        let near = |found: Option<f64>, wanted: f64| assert!((found.unwrap() - wanted).abs() < 0.06, "{found:?}");
        near(of(std::slice::from_ref(&quiet)).integrated_lufs, -28.05);
        // Beside the loud one the quiet one is below the gate: an average would be -14.5.
        let both = of(&[quiet.clone(), loud.clone()]);
        near(both.integrated_lufs, -14.05);
        near(both.album_gain_db, REPLAY_GAIN_LUFS + 14.05);
        assert_eq!((both.true_peak_dbtp, both.album_peak), (Some(-1.0), 0.9));
        assert_eq!(both, of(&[loud.clone(), quiet]), "in any order");
        // Less quiet, it counts; the range is between the two: it makes more than a tenth of the blocks.
        let both = of(&[loud, track(&[-20.05; 200], -9.0, 0.3)]);
        near(both.integrated_lufs, loudness((900.0 * energy(-14.05) + 200.0 * energy(-20.05)) / 1100.0));
        near(Some(both.range_lu), 6.0);
    }

    #[test]
    fn silence_has_no_loudness() {
        let silent = (Loudness::default(), Gating::default());
        let nothing = of(&[silent.clone(), silent.clone()]);
        assert_eq!((nothing.integrated_lufs, nothing.album_gain_db, nothing.true_peak_dbtp), (None, None, None));
        assert_eq!(of(&[]).range_lu, 0.0);
        assert_eq!(of(&[silent, track(&[-20.0; 50], -3.0, 0.5)]).true_peak_dbtp, Some(-3.0));
    }
}
