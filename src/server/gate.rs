//! Admission: how many answers, and how many of their bytes, may be on their way at once.
//!
//! A permit is taken before any work and moves into the response body, so it comes back when the last
//! byte has left or the connection has died, not when the head was written.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A body counts with its length, but never with more: a longer one only ever has one frame of at most
/// this size between the page cache and the socket.
const BODY_BYTES_MAX: u64 = 4 << 20;

/// The bounds. Full means an answer (503), never a queue.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Answers on their way at once. Default 16,384: one for each of half the connections we accept.
    pub requests_max: u64,
    /// Body bytes on their way at once. Default 8 GiB: 40,000 segments of 200 KiB.
    pub bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { requests_max: 16_384, bytes_max: 8 << 30 }
    }
}

/// The door; one for the whole process, shared by the cores.
#[derive(Clone, Debug)]
pub struct Gate(Arc<State>);

#[derive(Debug)]
struct State {
    limits: Limits,
    requests: AtomicU64,
    bytes: AtomicU64,
}

/// The right to answer one request; dropping it gives it back.
#[derive(Debug)]
pub struct Permit {
    gate: Gate,
    bytes: u64,
}

impl Gate {
    /// A gate with nothing inside.
    pub fn new(limits: Limits) -> Gate {
        Gate(Arc::new(State { limits, requests: AtomicU64::new(0), bytes: AtomicU64::new(0) }))
    }

    /// Lets one request in; `None` when the gate is full.
    pub fn admit(&self) -> Option<Permit> {
        let before = self.0.requests.fetch_add(1, Ordering::Relaxed);
        if before >= self.0.limits.requests_max {
            self.0.requests.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Permit { gate: self.clone(), bytes: 0 })
    }

    /// Whether three quarters of what may be on its way are: soon somebody is refused.
    pub fn is_pressed(&self) -> bool {
        let Limits { requests_max, bytes_max } = self.0.limits;
        self.requests() > requests_max / 4 * 3 || self.bytes() > bytes_max / 4 * 3
    }

    /// Answers on their way now.
    pub fn requests(&self) -> u64 {
        self.0.requests.load(Ordering::Relaxed)
    }

    /// Body bytes on their way now.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }
}

impl Permit {
    /// Adds a body to the permit, whose length is known by now; `false` when there is no room.
    #[must_use]
    pub fn load(&mut self, body_bytes: u64) -> bool {
        let more = body_bytes.min(BODY_BYTES_MAX);
        let before = self.gate.0.bytes.fetch_add(more, Ordering::Relaxed);
        // One body always fits, whatever the limit: a limit below a segment must not mean silence.
        let fits = before == 0 || before.saturating_add(more) <= self.gate.0.limits.bytes_max;
        if fits {
            self.bytes += more;
        } else {
            self.gate.0.bytes.fetch_sub(more, Ordering::Relaxed);
        }
        fits
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gate.0.requests.fetch_sub(1, Ordering::Relaxed);
        if self.bytes > 0 {
            self.gate.0.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_gate_refuses_and_a_dropped_permit_makes_room() {
        let gate = Gate::new(Limits { requests_max: 2, bytes_max: 100 });
        let mut first = gate.admit().unwrap();
        let mut second = gate.admit().unwrap();
        assert!(gate.admit().is_none());
        assert!(first.load(80));
        assert!(!second.load(30));
        assert!(second.load(20));
        assert_eq!((gate.requests(), gate.bytes()), (2, 100));
        drop(first);
        assert_eq!((gate.requests(), gate.bytes()), (1, 20));
        assert!(gate.admit().is_some());
    }

    #[test]
    fn one_body_fits_even_under_a_tiny_limit() {
        let gate = Gate::new(Limits { requests_max: 9, bytes_max: 1 });
        let mut only = gate.admit().unwrap();
        assert!(only.load(1 << 40));
        assert_eq!(gate.bytes(), BODY_BYTES_MAX);
        assert!(!gate.admit().unwrap().load(1));
    }
}
