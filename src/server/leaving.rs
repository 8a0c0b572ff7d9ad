//! Connections that are over for us, but not for the kernel: their peer has not taken all that was sent.
//!
//! A whole segment fits into a socket's send buffer. A peer that takes it a few bytes at a time would hold that
//! memory for hours after the connection's task has ended, out of sight of every limit. So such a socket keeps its
//! place among the connections, and is reset when a window passes in which it took too little.
//!
//! `Socket ─ drop ─▶ see_off ─ nothing waits ─▶ closed │ Leaver ─ look, once a second ─▶ closed or reset`

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use socket2::SockRef;

use super::Limits;
use super::core::Place;
use super::socket::undelivered;
use super::watch::{TICK, now_tick};
use crate::base::telemetry;

/// How much a peer must take, of what the kernel holds for it.
#[derive(Clone, Copy, Debug)]
struct Rule {
    window_ticks: u32,
    bytes_min: u64,
}

struct Leaver {
    socket: OwnedFd,
    /// What waited when the window began.
    waiting: u64,
    since: u32,
    /// It is still a connection, and counts as one.
    _place: Option<Place>,
}

thread_local! {
    static RULE: Cell<Option<Rule>> = const { Cell::new(None) };
    /// Bounded by the limits of connections, of which each holds a place.
    static LEAVING: RefCell<Vec<Leaver>> = const { RefCell::new(Vec::new()) };
}

/// Sets the rule for the sockets of this core.
pub(super) fn begin(limits: &Limits) {
    let window = limits.send_window.max(Duration::from_secs(1));
    let bytes_min = limits.send_bytes_per_s_min.saturating_mul(window.as_secs());
    let window_ticks = u32::try_from(window.as_millis() / TICK.as_millis()).unwrap_or(u32::MAX);
    RULE.set((bytes_min > 0).then_some(Rule { window_ticks, bytes_min }));
}

/// Takes over a socket that is about to be closed, if its peer has not taken everything.
pub(super) fn see_off(socket: BorrowedFd<'_>, place: &mut Option<Place>) {
    if RULE.get().is_none() {
        return;
    }
    let waiting = undelivered(socket);
    let resets = || matches!(SockRef::from(&socket).linger(), Ok(Some(time)) if time.is_zero());
    if waiting == 0 || resets() {
        return;
    }
    let Ok(socket) = socket.try_clone_to_owned() else { return }; // no descriptor left: closed as ever
    let _ = rustix::net::shutdown(&socket, rustix::net::Shutdown::Write);
    let leaver = Leaver { socket, waiting, since: now_tick(), _place: place.take() };
    let _ = LEAVING.try_with(|leaving| leaving.borrow_mut().push(leaver));
}

/// Looks at those who leave; called at every tick of the core, and does something once a second.
pub(super) fn look() {
    let now = now_tick();
    let Some(rule) = RULE.get().filter(|_| now.is_multiple_of(4)) else { return };
    LEAVING.with_borrow_mut(|leaving| leaving.retain_mut(|leaver| leaver.stays(now, rule)));
}

/// Leaves the rest to the kernel: the core ends.
pub(super) fn end() {
    LEAVING.take();
}

impl Leaver {
    fn stays(&mut self, now: u32, rule: Rule) -> bool {
        let waiting = undelivered(self.socket.as_fd());
        if waiting == 0 {
            return false; // delivered, or the peer has reset it
        }
        if now.wrapping_sub(self.since) < rule.window_ticks {
            return true;
        }
        if self.waiting.saturating_sub(waiting) < rule.bytes_min {
            let _ = SockRef::from(&self.socket).set_linger(Some(Duration::ZERO));
            metrics::counter!(telemetry::REFUSED, "reason" => "slow_reader").increment(1);
            return false;
        }
        (self.waiting, self.since) = (waiting, now);
        true
    }
}
