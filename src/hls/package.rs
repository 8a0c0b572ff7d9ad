//! Checks that a version is a whole package before it becomes visible. In: its index. Out: nothing,
//! or the first thing that a player would stumble over. Pure.

use super::playlist::target_duration_s;
use super::version::{Rung, VersionIndex};
use crate::base::{Error, Result};

/// Checks what must hold between the rungs (RFC 8216bis §6.2.4; Apple authoring 8.2, 8.7, 8.22): same
/// number of segments, boundaries at the same instant to the tick, same length, same target duration.
///
/// # Errors
/// `Internal`, naming the rungs and the segment: the transcoder made something it must not.
pub fn check(index: &VersionIndex) -> Result<()> {
    let Some((first, others)) = index.rungs.split_first() else {
        return Err(Error::internal("the package has no rungs"));
    };
    for rung in &index.rungs {
        check_rung(index, rung)?;
    }
    for rung in others {
        check_aligned(first, rung)?;
    }
    Ok(())
}

fn check_rung(index: &VersionIndex, rung: &Rung) -> Result<()> {
    let wrong = |what: String| Err(Error::internal(format!("rung {}: {what}", rung.path())));
    let expected = rescale(index.source.samples, index.source.rate, rung.rate);
    if rung.samples != expected {
        return wrong(format!("it presents {} samples, the source has {expected} at its rate", rung.samples));
    }
    if let Some(number) = rung.segments.iter().position(|segment| segment.ticks == 0 || segment.bytes == 0) {
        return wrong(format!("segment {number} is empty"));
    }
    if rung.peak_bps < rung.average_bps || rung.average_bps == 0 {
        return wrong(format!("bandwidths {} and {} are not measured", rung.peak_bps, rung.average_bps));
    }
    Ok(())
}

fn check_aligned(a: &Rung, b: &Rung) -> Result<()> {
    let wrong = |what: String| Err(Error::internal(format!("rungs {} and {}: {what}", a.path(), b.path())));
    if a.segments.len() != b.segments.len() {
        return wrong(format!("{} and {} segments", a.segments.len(), b.segments.len()));
    }
    if target_duration_s(&a.segments, a.rate) != target_duration_s(&b.segments, b.rate) {
        return wrong("their target durations differ".into());
    }
    // Every inner boundary at the same instant: ticks_a / rate_a = ticks_b / rate_b, in integers.
    let (mut at_a, mut at_b) = (0u128, 0u128);
    let inner = a.segments.len().saturating_sub(1);
    for (number, (left, right)) in a.segments.iter().zip(&b.segments).take(inner).enumerate() {
        at_a += u128::from(left.ticks);
        at_b += u128::from(right.ticks);
        if at_a * u128::from(b.rate) != at_b * u128::from(a.rate) {
            return wrong(format!("segment {number} ends at different instants"));
        }
    }
    Ok(())
}

/// Length of `samples` at `from` Hz when resampled to `to` Hz: what "as long as the source" means on a rung of
/// another rate. Rounded up, so that no sample of the source is lost, and a last segment exists on every rung
/// or on none.
pub fn rescale(samples: u64, from: u32, to: u32) -> u64 {
    let scaled = (u128::from(samples) * u128::from(to)).div_ceil(u128::from(from.max(1)));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hls::version::tests::sample;

    #[test]
    fn a_whole_package_passes_and_each_flaw_is_named() {
        check(&sample()).unwrap();
        let refuse = |change: fn(&mut VersionIndex), word: &str| {
            let mut index = sample();
            change(&mut index);
            let error = check(&index).unwrap_err().chain();
            assert!(error.contains(word), "{error}");
        };
        refuse(|v| v.source.samples -= 1, "presents");
        refuse(|v| v.rungs[1].segments[0].ticks -= 1024, "different instants");
        refuse(|v| v.rungs[1].segments.truncate(1), "segments");
        refuse(|v| v.rungs[2].segments[1].bytes = 0, "empty");
        refuse(|v| v.rungs[0].peak_bps = 1, "measured");
        refuse(|v| v.rungs.clear(), "no rungs");
    }

    #[test]
    fn rescaling_never_loses_the_last_sample() {
        assert_eq!(rescale(96_001, 96_000, 48_000), 48_001);
        assert_eq!(rescale(44_100, 44_100, 44_100), 44_100);
        assert_eq!(rescale(u64::MAX, 48_000, 48_000), u64::MAX);
        assert_eq!(rescale(u64::MAX, 8_000, 48_000), u64::MAX);
    }
}
