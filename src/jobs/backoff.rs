//! When a failed attempt is followed by the next. In: how often it failed. Out: a delay.

use std::time::Duration;

use crate::base::chance;

/// How delays grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failure.
    pub first: Duration,
    /// However often it failed.
    pub most: Duration,
}

impl Default for Backoff {
    /// 10 s … 1 h: what a restart mends is over in seconds, what a person mends takes an hour.
    fn default() -> Backoff {
        Backoff { first: Duration::from_secs(10), most: Duration::from_secs(3600) }
    }
}

impl Backoff {
    /// The delay after the `failures`th failure: doubled each time, then between half and all of it by
    /// `random`, so that jobs that failed together do not come back together.
    pub fn delay(&self, failures: i64, random: u64) -> Duration {
        let doublings = u32::try_from(failures.max(1) - 1).unwrap_or(u32::MAX).min(30);
        let whole = self.first.saturating_mul(1 << doublings).min(self.most);
        whole / 2 + whole.mul_f64((random >> 11) as f64 / (1u64 << 53) as f64 / 2.0)
    }

    /// As `delay`, in microseconds, by chance.
    pub fn delay_us(&self, failures: i64) -> i64 {
        self.delay(failures, u64::from_ne_bytes(chance::bytes())).as_micros() as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_stay_within_half_and_all_and_stop_growing() {
        let backoff = Backoff::default();
        let check = |failures, s: u64| {
            let whole = Duration::from_secs(s);
            assert_eq!(backoff.delay(failures, 0), whole / 2, "{failures}");
            let most = backoff.delay(failures, u64::MAX);
            assert!(most <= whole && most > whole - Duration::from_millis(1), "{failures}: {most:?}");
        };
        check(1, 10);
        check(2, 20);
        check(5, 160);
        check(9, 2560);
        check(10, 3600);
        check(i64::MAX, 3600);
        check(0, 10);
    }
}
