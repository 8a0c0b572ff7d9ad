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

    /// Moves a simulated clock forward; the system clock does not listen.
    pub fn advance(&self, seconds: u64) {
        if let Clock::Sim(now) = self {
            now.fetch_add(seconds, Ordering::Relaxed);
        }
    }
}
