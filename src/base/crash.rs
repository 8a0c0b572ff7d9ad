//! Places where a simulation ends a flow as a crash would: around transactions, and wherever a test puts one. Outside of
//! a simulation they are nothing.

use std::cell::Cell;
use std::future::{pending, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

tokio::task_local! {
    /// Places that may still be passed.
    static LEFT: Rc<Cell<u32>>;
}

/// A place: nobody comes past it any more when as many were passed as `within` allows.
pub async fn point() {
    let over = LEFT.try_with(|left| {
        left.set(left.get().saturating_sub(1));
        left.get() == 0
    });
    if over.unwrap_or(false) {
        pending::<()>().await;
    }
}

/// Does `work` up to its `places`th place, from 1, and drops it there; `None`: it did not come to its end.
pub async fn within<T>(places: u32, work: impl Future<Output = T>) -> Option<T> {
    let left = Rc::new(Cell::new(places));
    LEFT.scope(Rc::clone(&left), async move {
        let mut work = pin!(work);
        poll_fn(|context| match work.as_mut().poll(context) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if left.get() == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_ends_at_the_place_that_was_asked_for() {
        let passed = Cell::new(0);
        let work = async || {
            for _ in 0..3 {
                point().await;
                passed.set(passed.get() + 1);
            }
        };
        assert_eq!(within(3, work()).await, None);
        assert_eq!(passed.get(), 2);
        assert_eq!(within(4, work()).await, Some(()));
        work().await;
        assert_eq!(passed.get(), 8);
    }
}
