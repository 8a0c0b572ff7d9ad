//! Checks that a version is a whole package before it becomes visible. In: its index. Out: nothing,
//! or the first thing that a player would stumble over. Pure.

use super::playlist::target_duration_s;
use super::version::{Rung, VersionIndex, Video};
use crate::base::{Error, Result};

/// Checks what must hold between the rungs (RFC 8216bis §6.2.4; Apple authoring 8.2, 8.7, 8.22): same
/// number of segments, boundaries at the same instant to the tick, same length, same target duration.
///
/// # Errors
/// `Internal`, naming the rungs and the segment: the transcoder made something it must not.
pub fn check(index: &VersionIndex) -> Result<()> {
    if let Some(video) = &index.video {
        check_film(index, video)?;
    }
    let Some((first, others)) = index.rungs.split_first() else {
        return match &index.video {
            Some(_) => Ok(()), // a silent film
            None => Err(Error::internal("the package has no rungs")),
        };
    };
    for rung in &index.rungs {
        check_rung(index, rung)?;
    }
    for rung in others {
        check_aligned(first, rung)?;
    }
    Ok(())
}

/// What must hold between the sizes of a picture, and between them and the sound.
fn check_film(index: &VersionIndex, video: &Video) -> Result<()> {
    let wrong = |what: String| Err(Error::internal(format!("the picture: {what}")));
    let Some((first, others)) = video.rungs.split_first() else { return wrong("it has no rungs".into()) };
    let (rate, (n, d)) = (first.encoding.rate, video.frame_rate);
    let ticks = u128::from(video.frames) * u128::from(rate) * u128::from(d) / u128::from(n.max(1));
    for picture in index.pictures() {
        let rung = &picture.encoding;
        if rung.rate != rate || u128::from(rung.samples) != ticks || rung.segments.iter().any(|s| s.ticks == 0) {
            return wrong(format!("{} is not {} pictures long", rung.path(), video.frames));
        }
        if rung.peak_bps < rung.average_bps || rung.average_bps == 0 {
            return wrong(format!("the bandwidths of {} are not measured", rung.path()));
        }
        if let Some(name) = picture.audio.as_ref().filter(|name| !index.rungs.iter().any(|r| r.name == **name)) {
            return wrong(format!("{} is heard with aac/{name}, which there is not", rung.path()));
        }
    }
    for picture in others {
        check_aligned(&first.encoding, &picture.encoding)?;
    }
    // Every inner boundary of the picture lies within half a picture of the sound's.
    let Some(sound) = index.rungs.first() else { return Ok(()) };
    let (mut at_sound, mut at_picture) = (0u128, 0u128);
    let inner = sound.segments.len().min(first.encoding.segments.len()).saturating_sub(1);
    for (number, (left, right)) in sound.segments.iter().zip(&first.encoding.segments).take(inner).enumerate() {
        at_sound += u128::from(left.ticks);
        at_picture += u128::from(right.ticks);
        let apart = (at_sound * u128::from(rate)).abs_diff(at_picture * u128::from(sound.rate));
        // In units of a second divided by both rates: half a picture is d / 2n.
        if apart * 2 * u128::from(n) > u128::from(d) * u128::from(rate) * u128::from(sound.rate) {
            return wrong(format!("segment {number} ends more than half a picture from the sound's"));
        }
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
    use crate::hls::version::tests::{film, sample};

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
    fn a_films_sizes_and_sound_must_agree() {
        check(&film()).unwrap();
        let refuse = |change: fn(&mut Video), word: &str| {
            let mut index = film();
            change(index.video.as_mut().unwrap());
            let error = check(&index).unwrap_err().chain();
            assert!(error.contains(word), "{error}");
        };
        refuse(|video| video.frames += 1, "not 154 pictures long");
        refuse(|video| video.rungs[0].audio = Some("128".into()), "aac/128, which there is not");
        refuse(|video| video.rungs[1].encoding.average_bps = 0, "not measured");
        refuse(
            |video| {
                let segments = &mut video.rungs[1].encoding.segments;
                (segments[0].ticks, segments[1].ticks) = (150_000, 3_000);
            },
            "different instants",
        );
        // All sizes alike, but a picture away from the sound.
        refuse(
            |video| {
                for rung in &mut video.rungs {
                    let segments = &mut rung.encoding.segments;
                    (segments[0].ticks, segments[1].ticks) = (150_000, 3_000);
                }
            },
            "more than half a picture from the sound's",
        );
        let mut silent = film();
        silent.rungs.clear();
        silent.video.as_mut().unwrap().rungs.iter_mut().for_each(|rung| rung.audio = None);
        check(&silent).unwrap();
    }

    #[test]
    fn rescaling_never_loses_the_last_sample() {
        assert_eq!(rescale(96_001, 96_000, 48_000), 48_001);
        assert_eq!(rescale(44_100, 44_100, 44_100), 44_100);
        assert_eq!(rescale(u64::MAX, 48_000, 48_000), u64::MAX);
        assert_eq!(rescale(u64::MAX, 8_000, 48_000), u64::MAX);
    }
}
