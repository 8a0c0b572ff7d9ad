//! Long answers in turn, so that short ones need not wait for them.
//!
//! Sending 512 KiB costs a core about 0.05 ms; five hundred listeners who are all ready for as much would keep everybody
//! else waiting for 25. So what is left of a long answer leaves only while the round has bytes left, and those who come
//! later wait in line for the next. Between two rounds the core looks at its sockets: whoever came meanwhile with a
//! short answer goes first. The same for hundreds who wait for the same bytes of a bucket, and for their requests: what
//! wakes all of them at once lets them go on one after another. Nothing changes for a core with little to do: a round
//! that nobody exhausts never ends.
//!
//! ```text
//! round: ready sockets, then long answers up to ROUND_BYTES ─ exhausted ▶ line ─ next round ▶ front of the line
//! ```

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

/// What is left of an answer is long when it is more than this: most segments are not.
pub(super) const LONG_BYTES: usize = 256 << 10;
/// Bytes of long answers in a round: 0.1 ms.
const ROUND_BYTES: usize = 1 << 20;

thread_local! {
    static LINE: RefCell<Line> = const { RefCell::new(Line::new()) };
}

/// A core's line.
#[derive(Debug)]
struct Line {
    /// What may still leave in this round.
    left: usize,
    /// Who waits, in order; `None`: who has left since.
    waiting: VecDeque<Option<Waker>>,
    /// The number of the first who waits: lower ones have had their turn.
    first: u64,
    /// Who begins the next round.
    giver: Option<Waker>,
    /// Whether somebody does: elsewhere than on a core there is no line, and nobody waits.
    is_given: bool,
}

impl Line {
    const fn new() -> Line {
        Line { left: ROUND_BYTES, waiting: VecDeque::new(), first: 0, giver: None, is_given: false }
    }

    fn place(&mut self, number: u64) -> Option<&mut Option<Waker>> {
        self.waiting.get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    fn begin_round(&mut self) {
        self.left = ROUND_BYTES;
        let mut promised = 0;
        while promised < ROUND_BYTES {
            let Some(next) = self.waiting.pop_front() else { break };
            self.first += 1;
            if let Some(waker) = next {
                promised += LONG_BYTES;
                waker.wake();
            }
        }
    }
}

/// A connection's place in the line of its core. Dropping it leaves the line.
#[derive(Debug, Default)]
pub(super) struct Turn(Option<u64>);

impl Turn {
    /// Whether more of a long answer may leave.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        LINE.with_borrow_mut(|line| {
            let Some(number) = self.0 else {
                if !line.is_given || (line.left > 0 && line.waiting.is_empty()) {
                    return Poll::Ready(());
                }
                if let Some(giver) = line.giver.take() {
                    giver.wake();
                }
                self.0 = Some(line.first + line.waiting.len() as u64);
                line.waiting.push_back(Some(cx.waker().clone()));
                return Poll::Pending;
            };
            match line.place(number) {
                Some(place) => {
                    *place = Some(cx.waker().clone());
                    Poll::Pending
                }
                None => {
                    self.0 = None;
                    Poll::Ready(())
                }
            }
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(number) = self.0 else { return };
        // Not while a thread ends and its line is gone.
        let _ = LINE.try_with(|line| {
            if let Some(place) = line.borrow_mut().place(number) {
                *place = None;
            }
        });
    }
}

/// So many bytes of a long answer have left.
pub(super) fn spend(bytes: usize) {
    LINE.with_borrow_mut(|line| line.left = line.left.saturating_sub(bytes));
}

/// Waits until work that takes as long as sending so many bytes may begin.
pub(super) async fn take(bytes: usize) {
    let mut turn = Turn::default();
    poll_fn(|cx| turn.poll(cx)).await;
    spend(bytes);
}

/// Begins a round whenever somebody waits for one. One such task runs on each core.
pub(super) async fn give() {
    LINE.with_borrow_mut(|line| line.is_given = true);
    loop {
        poll_fn(|cx| {
            LINE.with_borrow_mut(|line| {
                if !line.waiting.is_empty() {
                    return Poll::Ready(());
                }
                line.giver = Some(cx.waker().clone());
                Poll::Pending
            })
        })
        .await;
        // The scheduler looks at the sockets before it comes back to a task that yields.
        tokio::task::yield_now().await;
        LINE.with_borrow_mut(Line::begin_round);
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    /// Sends `bytes` in pieces of `LONG_BYTES`, and notes when it is done.
    async fn sends(name: usize, bytes: usize, done: Rc<RefCell<Vec<usize>>>) {
        let mut turn = Turn::default();
        let mut left = bytes;
        while left > LONG_BYTES {
            poll_fn(|cx| turn.poll(cx)).await;
            spend(LONG_BYTES);
            left -= LONG_BYTES;
        }
        done.borrow_mut().push(name);
    }

    fn on_a_core(task: impl Future<Output = ()>) {
        super::super::runtime::CoreRuntime::new(false).unwrap().run(async {
            tokio::task::spawn_local(give());
            tokio::task::yield_now().await;
            task.await;
        });
    }

    #[test]
    fn long_answers_share_and_nobody_is_forgotten() {
        on_a_core(async {
            let done = Rc::new(RefCell::new(vec![]));
            let mut tasks: Vec<_> =
                (0..100).map(|n| tokio::task::spawn_local(sends(n, (n + 1) * LONG_BYTES, done.clone()))).collect();
            // Those who leave while they wait hold up nobody.
            tokio::task::yield_now().await;
            tasks.split_off(50).iter().for_each(tokio::task::JoinHandle::abort);
            for task in tasks {
                task.await.unwrap();
            }
            // The shorter an answer the sooner it is through, but for who is before whom in a round.
            let done = done.borrow();
            let ahead = |(at, n): (usize, &usize)| at.abs_diff(*n) <= ROUND_BYTES / LONG_BYTES;
            assert!(done.len() == 50 && done.iter().enumerate().all(ahead), "{done:?}");
        });
    }

    #[test]
    fn what_comes_meanwhile_goes_before_those_who_wait() {
        on_a_core(async {
            let done = Rc::new(RefCell::new(vec![]));
            for n in 0..50 {
                tokio::task::spawn_local(sends(n, 100 * LONG_BYTES, done.clone()));
            }
            let (mine, its) = std::os::unix::net::UnixStream::pair().unwrap();
            mine.set_nonblocking(true).unwrap();
            let mut mine = tokio::net::UnixStream::from_std(mine).unwrap();
            let short = tokio::task::spawn_local(async move {
                for _ in 0..20 {
                    tokio::io::AsyncReadExt::read_u8(&mut mine).await.unwrap();
                }
            });
            for _ in 0..20 {
                std::io::Write::write_all(&mut &its, &[1]).unwrap();
                tokio::task::yield_now().await;
            }
            short.await.unwrap();
            assert!(done.borrow().is_empty(), "twenty short answers left before one of the long ones was through");
        });
    }

    #[test]
    fn a_core_with_little_to_do_never_waits() {
        on_a_core(async {
            let mut turn = Turn::default();
            let first = poll_fn(|cx| Poll::Ready(turn.poll(cx).is_ready())).await;
            assert!(first);
            spend(ROUND_BYTES);
            poll_fn(|cx| turn.poll(cx)).await; // the next round is one look at the sockets away
        });
    }
}
