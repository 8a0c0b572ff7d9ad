//! What the watch knows about an HTTP/2 connection, where many answers are on their way at once.
//!
//! h2 hands body bytes to the kernel only as the peer's windows allow. So "is not reading" cannot be seen
//! at the socket: it is judged by the pieces of bodies that h2 holds, and by whether they get shorter.

use std::cell::Cell;

use super::watch::{Deadlines, MOVED_MIN, Phase, Verdict};

/// Answers that a peer may leave lying while it takes others on the same connection.
const PAUSED_MAX: u32 = 4;

/// Counters of one connection; all zero, and unused, under HTTP/1.1.
#[derive(Debug, Default)]
pub(super) struct Streams {
    multiplexed: Cell<bool>,
    /// Answers that are not finished.
    open: Cell<u32>,
    /// Pieces of bodies that were handed to h2 and have not left.
    held: Cell<u32>,
    /// Body bytes that have left since `Watched::since`.
    moved: Cell<usize>,
    /// Body bytes that have left since the last `claim_taken`.
    taken: Cell<usize>,
    /// Tick at which an unfinished header block began; 0: there is none.
    head_since: Cell<u32>,
    worn_out: Cell<bool>,
}

impl Streams {
    /// From now on these counters judge the connection.
    pub(super) fn multiplex(&self) {
        self.multiplexed.set(true);
    }

    pub(super) fn is_multiplexed(&self) -> bool {
        self.multiplexed.get()
    }

    /// An answer has begun; whether it is the only one.
    pub(super) fn begin(&self) -> bool {
        self.open.replace(self.open.get() + 1) == 0
    }

    /// An answer has ended; whether it was the last one.
    pub(super) fn end(&self) -> bool {
        self.open.set(self.open.get() - 1);
        self.open.get() == 0
    }

    /// Whether a peer that takes whole answers reads, whatever it leaves lying: a page whose player pauses goes on asking
    /// for other things. Of more than a few nobody can say that they will ever be read.
    pub(super) fn may_pause(&self) -> bool {
        self.held.get() <= PAUSED_MAX
    }

    /// A piece was handed to h2; whether it is the only one.
    pub(super) fn hold(&self) -> bool {
        self.held.replace(self.held.get() + 1) == 0
    }

    pub(super) fn let_go(&self) {
        self.held.set(self.held.get() - 1);
    }

    /// `bytes` of the pieces have left; whether that makes the peer one that reads. Of each answer that waits for
    /// it as much is due as of a single one: whoever feeds one stream must not keep ninety-nine others.
    pub(super) fn on_taken(&self, bytes: usize) -> bool {
        self.taken.set(self.taken.get() + bytes);
        self.moved.set(self.moved.get() + bytes);
        self.moved.get() >= MOVED_MIN * self.held.get().max(1) as usize
    }

    /// The clock of the peer's reading starts anew.
    pub(super) fn restart(&self) {
        self.moved.set(0);
    }

    pub(super) fn claim_taken(&self) -> usize {
        self.taken.take()
    }

    /// The peer sent bytes: whether a header block is unfinished, and whether another one was finished
    /// meanwhile.
    pub(super) fn set_head(&self, unfinished: bool, finished: bool, now: u32) {
        match (unfinished, self.head_since.get()) {
            (false, _) => self.head_since.set(0),
            (true, since) if since == 0 || finished => self.head_since.set(now),
            (true, _) => {}
        }
    }

    #[cfg(test)]
    pub(super) fn is_head_open(&self) -> bool {
        self.head_since.get() != 0
    }

    pub(super) fn wear_out(&self) {
        self.worn_out.set(true);
    }

    pub(super) fn is_worn_out(&self) -> bool {
        self.worn_out.get()
    }

    /// `age` is the time in ticks since the connection became idle, or since its body bytes last moved.
    pub(super) fn judge(&self, phase: Phase, age: u32, now: u32, limits: &Deadlines) -> Verdict {
        let head_since = self.head_since.get();
        let late = (head_since != 0 && now.wrapping_sub(head_since) > limits.head)
            || (self.held.get() > 0 && age > limits.stall)
            || (self.open.get() == 0 && age > limits.idle)
            || (phase == Phase::Lingering && age > limits.linger);
        if late { Verdict::Close } else { Verdict::Go }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Deadlines = Deadlines { head: 10, idle: 20, park: 4, stall: 8, linger: 2 };

    #[test]
    fn a_connection_of_many_streams_is_judged_by_what_does_not_move() {
        let streams = Streams::default();
        let check = |age, now, expected| assert_eq!(streams.judge(Phase::Busy, age, now, &LIMITS), expected);
        check(20, 100, Verdict::Go);
        check(21, 100, Verdict::Close); // idle
        assert!(streams.begin());
        assert!(!streams.begin());
        check(1000, 2000, Verdict::Go); // we are the ones who take their time
        assert!(streams.hold());
        check(9, 100, Verdict::Close); // the peer is
        streams.let_go();
        streams.set_head(true, false, 100);
        check(0, 110, Verdict::Go);
        streams.set_head(true, false, 109);
        check(0, 111, Verdict::Close); // the same block all the time
        streams.set_head(true, true, 109);
        check(0, 111, Verdict::Go); // another block
        streams.set_head(false, true, 111);
        check(0, 1000, Verdict::Go);
        assert!(!streams.end() && streams.end());
        assert_eq!(streams.judge(Phase::Lingering, 3, 100, &LIMITS), Verdict::Close);
        assert!(!streams.on_taken(MOVED_MIN - 1));
        assert!(streams.on_taken(1));
        assert_eq!(streams.claim_taken(), MOVED_MIN);
        streams.restart();
        streams.hold();
        streams.hold();
        assert!(!streams.on_taken(2 * MOVED_MIN - 1), "two wait, and one is fed");
        assert!(streams.on_taken(1));
        streams.claim_taken();
        assert_eq!(streams.claim_taken(), 0);
    }
}
