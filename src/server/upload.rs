//! The body of a request on its way to the control plane, read from the client's socket as it is polled.
//! A client that sends too slowly loses it: whoever reads the body gets an error instead of waiting.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::body::BoxError;
use super::watch::MOVED_MIN;

/// See the module. To be polled on a tokio runtime with timers.
pub struct Upload {
    body: Incoming,
    /// How long we wait for every `MOVED_MIN` bytes; time the reader takes for itself does not count.
    patience: Duration,
    left: Duration,
    received: usize,
    /// While waiting: since when, and the end of our patience.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

/// Why somebody's body is given up: they send, but too slowly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooSlow {
    /// What was waited for every so many bytes.
    patience: Duration,
}

impl TooSlow {
    /// Whether this is why a body could not be read, whatever is wrapped around it.
    pub fn is_why(error: &(dyn std::error::Error + 'static)) -> bool {
        let mut next = Some(error);
        while let Some(cause) = next {
            if cause.is::<TooSlow>() {
                return true;
            }
            next = cause.source();
        }
        false
    }
}

impl fmt::Display for TooSlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (least, most) = (MOVED_MIN >> 10, self.patience.as_secs());
        write!(f, "the client sent fewer than {least} KiB of its request body in {most} s")
    }
}

impl std::error::Error for TooSlow {}

impl Upload {
    pub(super) fn new(body: Incoming, patience: Duration) -> Upload {
        Upload { body, patience, left: patience, received: 0, waiting: None }
    }
}

impl hyper::body::Body for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let upload = &mut *self;
        match Pin::new(&mut upload.body).poll_frame(cx) {
            Poll::Pending => {
                let (_, end) = upload.waiting.get_or_insert_with(|| {
                    let now = Instant::now();
                    (now, Box::pin(sleep_until(now + upload.left)))
                });
                ready!(end.as_mut().poll(cx));
                Poll::Ready(Some(Err(TooSlow { patience: upload.patience }.into())))
            }
            Poll::Ready(Some(Ok(frame))) => {
                let waited = upload.waiting.take().map_or(Duration::ZERO, |(since, _)| since.elapsed());
                upload.left = upload.left.saturating_sub(waited);
                upload.received += frame.data_ref().map_or(0, Bytes::len);
                if upload.received >= MOVED_MIN {
                    (upload.received, upload.left) = (0, upload.patience);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(cause))) => Poll::Ready(Some(Err(cause.into()))),
            Poll::Ready(None) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload").field("bytes", &self.body.size_hint().exact()).finish_non_exhaustive()
    }
}
