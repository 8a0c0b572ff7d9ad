//! Follows a rung from its init section to its last segment and says whether it adds up.

use super::read::{InitFacts, broken, decode_init, decode_segment};
use crate::base::Result;

/// A rung being checked, segment by segment, so that only one segment is in memory.
#[derive(Debug)]
pub struct RungCheck {
    init: InitFacts,
    segments: u32,
    frames: u64,
    decode_time: u64,
}

impl RungCheck {
    /// Starts with the init section.
    ///
    /// # Errors
    /// `Invalid`: it cannot be read.
    pub fn begin(init: &[u8]) -> Result<RungCheck> {
        Ok(RungCheck { init: decode_init(init)?, segments: 0, frames: 0, decode_time: 0 })
    }

    /// What the init section says.
    pub fn init(&self) -> &InitFacts {
        &self.init
    }

    /// Encoded frames so far.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// The next segment. Answers what it adds to the presentation, in samples.
    ///
    /// # Errors
    /// `Invalid`: it cannot be read, or does not start where the one before ended.
    pub fn segment(&mut self, bytes: &[u8]) -> Result<u64> {
        let at = self.segments;
        let facts = decode_segment(bytes)?;
        if facts.sequence != at + 1 {
            return Err(broken(format!("segment {at} has sequence number {}", facts.sequence)));
        }
        if facts.decode_time != self.decode_time {
            let (found, wanted) = (facts.decode_time, self.decode_time);
            return Err(broken(format!("segment {at} starts at sample {found}, the one before ends at {wanted}")));
        }
        let unpresented = if at == 0 { u64::from(self.init.priming) } else { 0 };
        let ticks = facts.duration.checked_sub(unpresented).filter(|ticks| *ticks > 0);
        let ticks = ticks.ok_or_else(|| broken(format!("segment {at} presents nothing")))?;
        self.segments += 1;
        self.decode_time += facts.duration;
        self.frames += u64::from(facts.frames);
        Ok(ticks)
    }

    /// The end: the segments must add up to what the init section promises. Answers the presentation's
    /// length in samples.
    ///
    /// # Errors
    /// `Invalid`: they do not.
    pub fn finish(self) -> Result<u64> {
        let presented = self.decode_time.saturating_sub(u64::from(self.init.priming));
        let promised = self.init.edit_samples.unwrap_or(self.init.samples);
        if self.segments == 0 || presented != self.init.samples || presented != promised {
            let InitFacts { samples, .. } = self.init;
            return Err(broken(format!(
                "{} segments present {presented} samples, mehd says {samples}, elst {promised}",
                self.segments
            )));
        }
        Ok(presented)
    }
}

/// Checks a whole rung at once. Answers the length of each segment in samples.
///
/// # Errors
/// `Invalid`: what does not add up.
pub fn check_rung<S: AsRef<[u8]>>(init: &[u8], segments: impl IntoIterator<Item = S>) -> Result<Vec<u64>> {
    let mut check = RungCheck::begin(init)?;
    let ticks = segments.into_iter().map(|segment| check.segment(segment.as_ref())).collect::<Result<_>>()?;
    check.finish()?;
    Ok(ticks)
}
