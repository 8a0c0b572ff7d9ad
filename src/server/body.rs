//! Response bodies. In: bytes, a range of a mapped file, or a foreign stream. Out: frames for hyper.
//!
//! A mapped range leaves in frames that borrow the mapping, so that the socket can send them from the
//! page cache. A frame is handed out only when its pages are resident: a page fault or a blocking
//! `sendfile` would stop every connection of the core. Cold blocks are fetched beside the core first.

use std::error::Error as StdError;
use std::fmt;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Frame, SizeHint};

use super::gate::Permit;
use super::runtime::{self, Warming};
use super::watch;
use crate::store::mapped::{BLOCK_BYTES, Mapped};

/// What a failing body says; hyper then cuts the connection, which the client sees as a short body.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// The largest frame: enough to fill any socket buffer at once, small enough that the cores' other
/// connections wait at most ~0.1 ms for it.
const FRAME_BYTES_MAX: u64 = 1 << 20;
/// How much of a cold file is fetched at a time.
const WARM_BYTES: u64 = 4 * BLOCK_BYTES;

/// The body of every response of this server.
pub struct Body {
    kind: Kind,
    /// Comes back when the body is done or dropped.
    permit: Option<Permit>,
}

enum Kind {
    Empty,
    Bytes(Bytes),
    Mapped(FileRange),
    Boxed(UnsyncBoxBody<Bytes, BoxError>),
}

struct FileRange {
    file: Mapped,
    /// Invariant: `at <= end <= file.len()`.
    at: u64,
    end: u64,
    warming: Option<Warming>,
}

impl Body {
    /// No body at all.
    pub fn empty() -> Body {
        Body { kind: Kind::Empty, permit: None }
    }

    /// A small body in memory.
    pub fn bytes(bytes: impl Into<Bytes>) -> Body {
        let bytes = bytes.into();
        let kind = if bytes.is_empty() { Kind::Empty } else { Kind::Bytes(bytes) };
        Body { kind, permit: None }
    }

    /// Bytes `range` of a mapped file.
    ///
    /// # Panics
    /// When the range does not lie in the file.
    pub fn mapped(file: Mapped, range: Range<u64>) -> Body {
        assert!(range.start <= range.end && range.end <= file.len(), "the range lies in the file");
        let kind = match range.is_empty() {
            true => Kind::Empty,
            false => Kind::Mapped(FileRange { file, at: range.start, end: range.end, warming: None }),
        };
        Body { kind, permit: None }
    }

    /// A body from elsewhere, such as axum's.
    pub fn boxed<B>(body: B) -> Body
    where
        B: hyper::body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Body { kind: Kind::Boxed(body.map_err(Into::into).boxed_unsync()), permit: None }
    }

    /// The permit, for whoever will hold it longer than the body lives.
    pub(super) fn take_permit(&mut self) -> Option<Permit> {
        self.permit.take()
    }

    /// Keeps `permit` until the body is done.
    #[must_use]
    pub fn with_permit(mut self, permit: Permit) -> Body {
        self.permit = Some(permit);
        self
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let body = self.get_mut();
        match &mut body.kind {
            Kind::Empty => Poll::Ready(None),
            Kind::Bytes(bytes) => {
                let frame = Frame::data(std::mem::take(bytes));
                body.kind = Kind::Empty;
                Poll::Ready(Some(Ok(frame)))
            }
            Kind::Mapped(range) => range.poll_next(cx).map(|next| next.map(|frame| frame.map(Frame::data))),
            Kind::Boxed(inner) => Pin::new(inner).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Bytes(bytes) => bytes.is_empty(),
            Kind::Mapped(range) => range.at == range.end,
            Kind::Boxed(inner) => inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Bytes(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Mapped(range) => SizeHint::with_exact(range.end - range.at),
            Kind::Boxed(inner) => inner.size_hint(),
        }
    }
}

impl FileRange {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BoxError>>> {
        loop {
            if let Some(warming) = &mut self.warming {
                if let Err(cause) = ready!(warming.poll(cx)) {
                    return Poll::Ready(Some(Err(cause.into())));
                }
                self.warming = None;
                // Sent even if the kernel took the pages back meanwhile: waiting again may never end.
                return Poll::Ready(Some(Ok(self.take(block_end(self.at)))));
            }
            if self.at == self.end {
                return Poll::Ready(None);
            }
            let resident = self.resident_until(watch::now_tick());
            if resident > self.at {
                return Poll::Ready(Some(Ok(self.take(resident))));
            }
            let cold = self.at..self.end.min(block_end(self.at) - BLOCK_BYTES + WARM_BYTES);
            self.warming = Some(runtime::warm(self.file.clone(), cold));
        }
    }

    /// The end of the resident bytes from `at` on, within one frame.
    fn resident_until(&self, now_tick: u32) -> u64 {
        let limit = self.end.min(self.at + FRAME_BYTES_MAX);
        let mut until = self.at;
        while until < limit && self.file.is_resident(until, now_tick) {
            until = limit.min(block_end(until));
        }
        until
    }

    fn take(&mut self, until: u64) -> Bytes {
        let from = self.at;
        self.at = until.min(self.end);
        self.file.slice(from..self.at)
    }
}

fn block_end(offset: u64) -> u64 {
    (offset / BLOCK_BYTES + 1) * BLOCK_BYTES
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hint = hyper::body::Body::size_hint(self);
        f.debug_struct("Body").field("bytes", &hint.exact()).finish_non_exhaustive()
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Body {
        Body::bytes(text)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    async fn frames(mut body: Body) -> Vec<Bytes> {
        let mut frames = vec![];
        while let Some(frame) = body.frame().await {
            frames.push(frame.unwrap().into_data().unwrap());
        }
        assert!(hyper::body::Body::is_end_stream(&body));
        frames
    }

    #[tokio::test]
    async fn a_range_of_a_file_leaves_in_bounded_frames_that_borrow_it() {
        let content: Vec<u8> = (0..2_500_000u32).map(|i| (i / 7) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        let mapped = Mapped::open(file, 2_500_000).unwrap();
        let body = Body::mapped(mapped, 100..2_400_000);
        assert_eq!(hyper::body::Body::size_hint(&body).exact(), Some(2_399_900));
        let frames = frames(body).await;
        assert!(frames.iter().all(|f| f.len() as u64 <= FRAME_BYTES_MAX));
        assert!(frames.iter().all(|f| crate::store::mapped::locate(f.as_ptr()).is_some()));
        assert_eq!(frames.concat(), content[100..2_400_000]);
    }

    /// A file of noise that the kernel was asked to forget, and what is in it.
    fn cold_file() -> (Mapped, Vec<u8>) {
        let content: Vec<u8> = (0..3_000_000u32).map(|i| (i / 11) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        (Mapped::open(file, 3_000_000).unwrap(), content)
    }

    #[test]
    fn a_cold_file_is_fetched_beside_the_core_and_then_sent_from_memory() {
        let modes = if runtime::probe().is_ok() { &[false, true][..] } else { &[false] };
        for on_uring in modes {
            let (mapped, content) = cold_file();
            let cold = !mapped.is_resident(300_000, 1); // a file system in memory forgets nothing
            runtime::CoreRuntime::new(*on_uring).unwrap().run(async move {
                let mut body = Body::mapped(mapped, 300_000..2_900_000);
                let waits = std::future::poll_fn(|cx| {
                    Poll::Ready(hyper::body::Body::poll_frame(Pin::new(&mut body), cx).is_pending())
                });
                if cold {
                    assert!(waits.await, "a cold frame is waited for, not faulted in");
                    assert_eq!(frames(body).await.concat(), content[300_000..2_900_000]);
                }
            });
        }
    }

    #[tokio::test]
    async fn small_and_empty_bodies_say_their_length() {
        assert_eq!(frames(Body::bytes("abc")).await, ["abc"]);
        assert!(frames(Body::bytes("")).await.is_empty());
        assert!(frames(Body::empty()).await.is_empty());
        assert_eq!(frames(Body::boxed(Body::bytes("abc"))).await, ["abc"]);
    }
}
