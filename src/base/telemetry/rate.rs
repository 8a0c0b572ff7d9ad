//! So many a second and no more, for what strangers can cause: log lines, sampled spans.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// A budget that begins anew every second; shared by all threads, never waits.
#[derive(Debug)]
pub struct PerSecond {
    /// Upper half: the second, since the process began to count. Lower half: how many it has had.
    state: AtomicU64,
}

impl PerSecond {
    /// Nothing used yet.
    pub const fn new() -> PerSecond {
        PerSecond { state: AtomicU64::new(0) }
    }

    /// Takes one of `max`, if this second has one left.
    pub fn take(&self, max: u32) -> bool {
        static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
        self.take_at(BEGAN.elapsed().as_secs() as u32, max)
    }

    fn take_at(&self, second: u32, max: u32) -> bool {
        let next = |state: u64| {
            let used = if (state >> 32) as u32 == second { state as u32 } else { 0 };
            (used < max).then_some(u64::from(second) << 32 | u64::from(used + 1))
        };
        self.state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }
}

impl Default for PerSecond {
    fn default() -> PerSecond {
        PerSecond::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_its_budget_and_the_next_one_again() {
        let budget = PerSecond::new();
        assert_eq!((0..5).filter(|_| budget.take_at(7, 3)).count(), 3);
        assert_eq!((0..5).filter(|_| budget.take_at(8, 3)).count(), 3);
        assert!(!budget.take_at(9, 0));
    }
}
