//! Time as a parameter, so that expiry can be tested without waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Where "now" comes from.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The machine's wall clock.
    #[default]
    System,
    /// The machine's, put right by the one that all nodes share, where they differ: for what several nodes compare.
    Service,
    /// A clock that stands still until somebody moves it; in seconds since 1970.
    Sim(Arc<AtomicU64>),
}

/// How far the service's clock is ahead of this machine's, in microseconds.
static AHEAD_US: AtomicI64 = AtomicI64::new(0);

/// Says how far the service's clock is ahead of this machine's, in microseconds; returns what was said before.
pub fn put_right(ahead_us: i64) -> i64 {
    AHEAD_US.swap(ahead_us, Ordering::Relaxed)
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
            Clock::Service => (self.unix_us() / 1_000_000).max(0) as u64,
            Clock::Sim(now) => now.load(Ordering::Relaxed),
        }
    }

    /// Microseconds since 1970-01-01 UTC, as the database keeps them.
    pub fn unix_us(&self) -> i64 {
        match self {
            Clock::System => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64),
            Clock::Service => Clock::System.unix_us() + AHEAD_US.load(Ordering::Relaxed),
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

/// The time that RFC 3339 text in UTC names (`2026-11-21T12:00:00Z`, up to six digits of fractions), in microseconds
/// since 1970; `None` for anything else.
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    let text = text.strip_suffix('Z')?;
    let (date, time) = text.split_once('T')?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let number = |text: &str, width: usize| -> Option<i64> {
        (text.len() == width && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
    };
    let mut dates = date.splitn(3, '-');
    let (year, month, day) = (number(dates.next()?, 4)?, number(dates.next()?, 2)?, number(dates.next()?, 2)?);
    let mut times = time.splitn(3, ':');
    let (h, min, s) = (number(times.next()?, 2)?, number(times.next()?, 2)?, number(times.next()?, 2)?);
    if h > 23 || min > 59 || s > 59 || !(1..=6).contains(&fraction.len()) {
        return None;
    }
    let us = number(&format!("{fraction:0<6}"), 6)?;
    // Counted from March, as in `civil`; a day that the calendar does not have is not what comes back.
    let (from_march, in_year) = ((month + 9) % 12, if month <= 2 { year - 1 } else { year });
    let (era, of_era) = (in_year.div_euclid(400), in_year.rem_euclid(400));
    let days =
        era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + (153 * from_march + 2) / 5 + day - 1 - 719_468;
    (civil(days) == (year, month, day)).then(|| (((days * 24 + h) * 60 + min) * 60 + s) * 1_000_000 + us)
}

/// The date of a day since 1970-01-01 in the Gregorian calendar. Eras of 400 years have 146,097 days each;
/// years begin in March, so that a leap day is a year's last.
pub fn civil(days: i64) -> (i64, i64, i64) {
    let from_era = days + 719_468;
    let (era, day) = (from_era.div_euclid(146_097), from_era.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
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
        for unix_s in [0, 951_782_399, 951_782_400, 1_700_000_000, 4_107_542_400, -86_400] {
            assert_eq!(parse_rfc3339(&rfc3339(unix_s * 1_000_000)), Some(unix_s * 1_000_000));
        }
        assert_eq!(parse_rfc3339("2026-12-31T23:59:59.999999Z").map(|us| us % 1_000_000), Some(999_999));
        assert_eq!(parse_rfc3339("1970-01-01T00:00:00Z"), Some(0));
        for wrong in [
            "",
            "1970-01-01",
            "1970-01-01T00:00:00",
            "1970-13-01T00:00:00Z",
            "1970-02-29T00:00:00Z",
            "1970-00-10T00:00:00Z",
            "1970-01-01T24:00:00Z",
            "1970-01-01T00:60:00Z",
            "1970-01-01T00:00:60Z",
            "70-01-01T00:00:00Z",
            "1970-01-01T00:00:00.Z",
            "1970-01-01T00:00:00.1234567Z",
            "1970-01-01T00:00:00+00:00",
            "1970-1-01T00:00:00Z",
            "1970-01-01T0a:00:00Z",
            "1970-01-+1T00:00:00Z",
        ] {
            assert_eq!(parse_rfc3339(wrong), None, "{wrong}");
        }
    }
}
