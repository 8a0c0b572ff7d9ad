//! The watch over a core's connections: one look at all of them four times a second, instead of a timer
//! for each request. The hot path only stores a tick; deadlines are judged here.
//!
//! `connection → Phase, since when → Verdict`. A verdict wakes the connection's task, which acts on it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::OnceLock;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use super::streams::Streams;

/// Four looks a second: deadlines are kept to a quarter of a second.
pub(super) const TICK: Duration = Duration::from_millis(250);

thread_local! {
    static NOW: Cell<u32> = const { Cell::new(1) };
}

/// Ticks since the process began to serve, as of this core's last look; stands still on threads without
/// a watch. Cores agree to within a tick or two. Wraps after 34 years.
pub(super) fn now_tick() -> u32 {
    NOW.get()
}

/// Lets `ticks` pass on this thread.
#[cfg(test)]
pub(super) fn advance(ticks: u32) {
    NOW.set(NOW.get() + ticks);
}

fn ticks_since_start() -> u32 {
    static START: OnceLock<Instant> = OnceLock::new();
    (START.get_or_init(Instant::now).elapsed().as_millis() / TICK.as_millis()) as u32 + 1
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// New: has not sent a byte yet.
    New,
    /// Agreeing on keys (TLS).
    Handshake,
    /// Between requests, with hyper still in memory.
    Idle,
    /// Between requests, without hyper.
    Parked,
    /// Has begun to send a request head.
    Head,
    /// A request is being answered.
    Busy,
    /// The last body byte was handed to hyper, but not yet to the kernel.
    Flushing,
    /// We have said goodbye and wait for the peer to do so.
    Lingering,
}

/// What the watch wants a connection to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Go,
    /// Give up what is only needed to answer, until the next request comes.
    Park,
    /// Finish what has started, then close.
    Drain,
    /// Close; time is up.
    Close,
}

/// How long each phase may last, in ticks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadlines {
    pub(super) head: u32,
    pub(super) idle: u32,
    pub(super) park: u32,
    pub(super) stall: u32,
    pub(super) linger: u32,
}

/// A connection as the watch sees it; shared by its task and its socket.
#[derive(Debug)]
pub(super) struct Watched {
    phase: Cell<Phase>,
    /// When the phase began, or when the write side last moved.
    since: Cell<u32>,
    /// Whether the kernel refused the last write.
    blocked: Cell<bool>,
    /// Whether hyper may be taken down when it is idle.
    may_rest: Cell<bool>,
    /// Whether nothing but the socket would be lost if the connection's task ended while it is parked.
    is_bare: Cell<bool>,
    /// Bytes written since `since`.
    moved: Cell<usize>,
    verdict: Cell<Verdict>,
    waker: RefCell<Option<Waker>>,
    /// The peer's first bytes are HTTP/2's.
    preface: Cell<bool>,
    /// Whether the request that began last asks for a head alone.
    asks_head: Cell<bool>,
    /// Request heads that hyper has whole and that were not answered.
    heads: Cell<u32>,
    /// The number of the first of them that is crooked, from 1; 0 when none is.
    crooked: Cell<u32>,
    /// What HTTP/2 adds.
    pub(super) streams: Streams,
}

/// A peer that takes less than this in the stall time is not reading: sixteen bytes a minute are not.
pub(super) const MOVED_MIN: usize = 16 << 10;

impl Watched {
    pub(super) fn new() -> Watched {
        Watched {
            phase: Cell::new(Phase::New),
            since: Cell::new(now_tick()),
            blocked: Cell::new(false),
            may_rest: Cell::new(true),
            is_bare: Cell::new(false),
            moved: Cell::new(0),
            verdict: Cell::new(Verdict::Go),
            waker: RefCell::new(None),
            preface: Cell::new(false),
            asks_head: Cell::new(false),
            heads: Cell::new(0),
            crooked: Cell::new(0),
            streams: Streams::default(),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// The tick of the last change of phase.
    pub(super) fn since(&self) -> u32 {
        self.since.get()
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.since.set(now_tick());
        self.moved.set(0);
        self.blocked.set(false);
    }

    /// hyper has the last byte of a body. The stall clock runs on: the kernel does not have it yet.
    pub(super) fn enter_flushing(&self) {
        self.phase.set(Phase::Flushing);
    }

    /// The peer sent bytes.
    pub(super) fn on_read(&self) {
        if self.streams.is_multiplexed() {
            return; // its frames are followed instead
        }
        if matches!(self.phase.get(), Phase::New | Phase::Idle | Phase::Parked) {
            self.enter(Phase::Head);
        }
    }

    /// The kernel took `bytes`.
    pub(super) fn on_written(&self, bytes: usize) {
        if self.blocked.replace(false) || self.moved.get() > 0 {
            if self.streams.is_multiplexed() {
                return; // only bytes of bodies count
            }
            let moved = self.moved.get() + bytes;
            self.moved.set(moved);
            if moved >= MOVED_MIN {
                self.since.set(now_tick());
                self.moved.set(0);
            }
        }
    }

    /// The kernel took nothing: its buffer is full, the peer is not reading.
    pub(super) fn on_blocked(&self) {
        if !self.blocked.replace(true) && self.moved.get() == 0 && !self.streams.is_multiplexed() {
            self.since.set(now_tick());
        }
    }

    /// Everything hyper had is in the kernel.
    pub(super) fn on_flushed(&self) {
        if self.phase.get() == Phase::Flushing {
            self.enter(Phase::Idle);
        }
    }

    /// The peer's first bytes are HTTP/2's; the connection's task sees it when hyper next waits.
    pub(super) fn see_preface(&self) {
        self.preface.set(true);
    }

    pub(super) fn saw_preface(&self) -> bool {
        self.preface.get()
    }

    /// hyper has got one more whole head.
    pub(super) fn see_head(&self, crooked: bool) {
        self.heads.set(self.heads.get() + 1);
        if crooked && self.crooked.get() == 0 {
            self.crooked.set(self.heads.get());
        }
    }

    /// Whether the head that hyper reads next is whole and crooked.
    pub(super) fn is_next_crooked(&self) -> bool {
        self.crooked.get() == 1
    }

    /// hyper has read a head; whether it is crooked.
    pub(super) fn answer_head(&self) -> bool {
        let crooked = self.is_next_crooked();
        self.heads.set(self.heads.get().saturating_sub(1));
        self.crooked.set(self.crooked.get().saturating_sub(1));
        crooked
    }

    /// One more answer has begun on a connection of many.
    pub(super) fn begin_stream(&self) {
        if self.streams.begin() {
            self.enter(Phase::Busy);
        }
    }

    /// One of many answers has ended, sent or given up.
    pub(super) fn end_stream(&self) {
        let is_last = self.streams.end();
        if is_last && self.phase.get() == Phase::Busy {
            self.enter(Phase::Idle);
        } else if self.streams.may_pause() {
            self.restart();
        }
    }

    /// h2 holds another piece of a body.
    pub(super) fn hold_piece(&self) {
        if self.streams.hold() {
            self.restart();
        }
    }

    /// `bytes` of a piece have left.
    pub(super) fn on_piece_moved(&self, bytes: usize) {
        if self.streams.on_taken(bytes) {
            self.restart();
        }
    }

    fn restart(&self) {
        self.since.set(now_tick());
        self.streams.restart();
    }

    /// A request begins: whether it asks for a head alone, as far as its first bytes tell.
    pub(super) fn see_method(&self, asks_head: bool) {
        self.asks_head.set(asks_head);
    }

    pub(super) fn asks_head(&self) -> bool {
        self.asks_head.get()
    }

    /// Takes the verdict, once; the next one wakes this task.
    pub(super) fn verdict(&self, cx: &mut Context<'_>) -> Verdict {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        self.verdict.replace(Verdict::Go)
    }

    /// Whether nothing of a request or of the connection's end is left with hyper when it is idle: only then
    /// may hyper be taken down, or what is left of a body would be taken for a request.
    pub(super) fn set_may_rest(&self, may: bool) {
        self.may_rest.set(may);
    }

    /// Says that while it is parked the connection is nothing but its socket.
    pub(super) fn set_bare(&self) {
        self.is_bare.set(true);
    }

    /// Whether hyper has nothing left to do and may be taken down.
    pub(super) fn is_at_rest(&self) -> bool {
        self.phase.get() == Phase::Idle && self.may_rest.get()
    }

    /// Takes back that a verdict was heard.
    pub(super) fn pronounce_again(&self, verdict: Verdict) {
        self.verdict.set(verdict);
    }

    fn judge(&self, now: u32, limits: &Deadlines) -> Verdict {
        let age = now.wrapping_sub(self.since.get());
        if self.streams.is_multiplexed() {
            return self.streams.judge(self.phase.get(), age, now, limits);
        }
        match self.phase.get() {
            Phase::New | Phase::Handshake | Phase::Head if age > limits.head => Verdict::Close,
            Phase::Idle | Phase::Parked if age > limits.idle => Verdict::Close,
            Phase::Idle if age >= limits.park && self.may_rest.get() => Verdict::Park,
            Phase::Parked if age >= limits.park && self.is_bare.get() => Verdict::Park,
            Phase::Busy | Phase::Flushing if self.blocked.get() && age > limits.stall => Verdict::Close,
            Phase::Lingering if age > limits.linger => Verdict::Close,
            _ => Verdict::Go,
        }
    }

    fn pronounce(&self, verdict: Verdict) {
        self.verdict.set(verdict);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// All connections of a core.
#[derive(Debug)]
pub(super) struct Watch {
    limits: Deadlines,
    all: RefCell<Vec<Rc<Watched>>>,
    draining: Cell<bool>,
}

impl Watch {
    /// To be made on the thread that will look.
    pub(super) fn new(limits: Deadlines) -> Watch {
        NOW.set(ticks_since_start());
        Watch { limits, all: RefCell::default(), draining: Cell::new(false) }
    }

    /// Takes a new connection under watch until `forget`.
    pub(super) fn register(&self) -> Rc<Watched> {
        let watched = Rc::new(Watched::new());
        if self.draining.get() {
            watched.verdict.set(Verdict::Drain);
        }
        self.all.borrow_mut().push(watched.clone());
        watched
    }

    /// Looks at every connection. A connection nobody else holds has ended: it is forgotten here.
    /// `pressed`: others are refused for want of room, so whoever does not read is not waited for.
    pub(super) fn look(&self, pressed: bool) {
        /// Two seconds: a listener at 64 kbit/s takes in it what is asked of one.
        const PRESSED_STALL: u32 = 8;
        let now = ticks_since_start();
        NOW.set(now);
        let stall = if pressed { self.limits.stall.min(PRESSED_STALL) } else { self.limits.stall };
        let limits = Deadlines { stall, ..self.limits };
        self.all.borrow_mut().retain(|watched| {
            let alive = Rc::strong_count(watched) > 1;
            if alive {
                match watched.judge(now, &limits) {
                    Verdict::Go => {}
                    verdict => watched.pronounce(verdict),
                }
            }
            alive
        });
    }

    /// Connections that have not ended.
    pub(super) fn open(&self) -> usize {
        self.all.borrow().iter().filter(|watched| Rc::strong_count(watched) > 1).count()
    }

    /// Tells every connection, present and future, to finish and close.
    pub(super) fn drain(&self) {
        self.draining.set(true);
        self.all.borrow().iter().for_each(|watched| watched.pronounce(Verdict::Drain));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Deadlines = Deadlines { head: 10, idle: 20, park: 4, stall: 8, linger: 2 };

    fn check(phase: Phase, blocked: bool, ticks: u32, expected: Verdict) {
        let watched = Watched::new();
        watched.enter(phase);
        if blocked {
            watched.on_blocked();
        }
        assert_eq!(watched.judge(now_tick() + ticks, &LIMITS), expected, "{phase:?} {blocked} {ticks}");
    }

    #[test]
    fn each_phase_has_its_own_deadline() {
        check(Phase::New, false, 10, Verdict::Go);
        check(Phase::New, false, 11, Verdict::Close);
        check(Phase::Head, false, 11, Verdict::Close);
        check(Phase::Idle, false, 3, Verdict::Go);
        check(Phase::Idle, false, 4, Verdict::Park);
        check(Phase::Idle, false, 21, Verdict::Close);
        check(Phase::Parked, false, 20, Verdict::Go);
        check(Phase::Parked, false, 21, Verdict::Close);
        check(Phase::Busy, false, 1000, Verdict::Go);
        check(Phase::Busy, true, 8, Verdict::Go);
        check(Phase::Busy, true, 9, Verdict::Close);
        check(Phase::Flushing, true, 9, Verdict::Close);
        check(Phase::Lingering, false, 3, Verdict::Close);
    }

    #[test]
    fn a_trickle_does_not_count_as_reading_and_a_gulp_does() {
        let watched = Watched::new();
        watched.enter(Phase::Busy);
        watched.on_blocked();
        NOW.set(now_tick() + 6);
        watched.on_written(100);
        watched.on_blocked();
        assert_eq!(watched.judge(now_tick() + 3, &LIMITS), Verdict::Close);
        watched.on_written(MOVED_MIN);
        watched.on_blocked();
        assert_eq!(watched.judge(now_tick() + 3, &LIMITS), Verdict::Go);
    }

    #[test]
    fn a_connection_goes_idle_only_when_its_last_byte_is_in_the_kernel() {
        let watched = Watched::new();
        watched.on_read();
        assert_eq!(watched.phase(), Phase::Head);
        watched.enter(Phase::Busy);
        watched.on_flushed();
        assert_eq!(watched.phase(), Phase::Busy);
        watched.enter(Phase::Flushing);
        watched.on_flushed();
        assert_eq!(watched.phase(), Phase::Idle);
    }
}
