//! Time as a parameter, so that expiry can be tested without waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Where "now" comes from.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The machine's wall clock.
    #[default]
    System,
    /// A clock that stands still until somebody moves it; in seconds since 1970.
    Sim(Arc<AtomicU64>),
}

impl Clock {
    /// A clock that stands at `unix_s`.
    pub fn sim(unix_s: u64) -> Clock {
        Clock::Sim(Arc::new(AtomicU64::new(unix_s)))
    }

    /// Whole seconds since 1970-01-01 UTC; 0 when the machine's clock stands before it.
    pub fn unix_s(&self) -> u64 {
        match self {
            Clock::System => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            Clock::Sim(now) => now.load(Ordering::Relaxed),
        }
    }

    /// Microseconds since 1970-01-01 UTC, as the database keeps them.
    pub fn unix_us(&self) -> i64 {
        match self {
            Clock::System => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64),
            Clock::Sim(now) => now.load(Ordering::Relaxed) as i64 * 1_000_000,
        }
    }

    /// Moves a simulated clock forward; the system clock does not listen.
    pub fn advance(&self, seconds: u64) {
        if let Clock::Sim(now) = self {
            now.fetch_add(seconds, Ordering::Relaxed);
        }
    }
}

/// A time in microseconds since 1970 as RFC 3339, UTC, to the millisecond.
pub fn rfc3339(unix_us: i64) -> String {
    let (days, us) = (unix_us.div_euclid(86_400_000_000), unix_us.rem_euclid(86_400_000_000));
    let (year, month, day) = civil(days);
    let (s, ms) = (us / 1_000_000, us / 1_000 % 1_000);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{ms:03}Z", s / 3600, s / 60 % 60, s % 60)
}

/// The date of a day since 1970-01-01 in the Gregorian calendar. Eras of 400 years have 146,097 days each;
/// years begin in March, so that a leap day is a year's last.
fn civil(days: i64) -> (i64, i64, i64) {
    let from_era = days + 719_468;
    let (era, day) = (from_era.div_euclid(146_097), from_era.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

/// Seconds since 1970 of a time that is written as RFC 3339 in UTC, fractions cut off; `None` for another text.
pub fn unix_s_of(text: &str) -> Option<u64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let numbers = |text: &str, by: char| -> Option<[i64; 3]> {
        let mut parts = text.split(by).map(|part| part.parse::<u16>().ok().map(i64::from));
        let three = [parts.next()??, parts.next()??, parts.next()??];
        parts.next().is_none().then_some(three)
    };
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(time.split('.').next()?, ':')?;
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // The inverse of `civil`: days before the year that begins in March, before the month, before the day.
    let (year_march, month_march) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year_march + year_march / 4 - year_march / 100 + year_march / 400;
    let days = days + (153 * month_march + 2) / 5 + day - 1 - 719_468;
    // A day that its month has not is no time.
    if civil(days) != (year, month, day) {
        return None;
    }
    u64::try_from(days * 86_400 + hour * 3_600 + minute * 60 + second).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339() {
        let check = |unix_s: i64, text: &str| assert_eq!(rfc3339(unix_s * 1_000_000), text);
        check(0, "1970-01-01T00:00:00.000Z");
        check(951_782_399, "2000-02-28T23:59:59.000Z");
        check(951_782_400, "2000-02-29T00:00:00.000Z");
        check(1_700_000_000, "2023-11-14T22:13:20.000Z");
        check(4_107_542_400, "2100-03-01T00:00:00.000Z");
        check(-1, "1969-12-31T23:59:59.000Z");
        assert_eq!(rfc3339(1_234), "1970-01-01T00:00:00.001Z");
    }

    #[test]
    fn times_are_read_as_they_are_written() {
        for unix_s in [0, 951_782_399, 951_782_400, 1_700_000_000, 4_107_542_400] {
            assert_eq!(unix_s_of(&rfc3339(unix_s * 1_000_000)), Some(unix_s as u64));
        }
        assert_eq!(unix_s_of("2026-11-21T22:00:00Z"), Some(1_795_298_400));
        for wrong in ["", "2026-11-21", "2026-02-30T00:00:00Z", "2026-11-21T22:00:00+01:00", "2026-13-01T00:00:00Z"] {
            assert_eq!(unix_s_of(wrong), None, "{wrong}");
        }
    }
}
