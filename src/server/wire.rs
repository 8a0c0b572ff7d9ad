//! What a connection is read from and written to: a plaintext `Socket`, or `Tls` over one. Connections are
//! generic over it, so the plaintext path never learns that there is another.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::StatusCode;
use hyper::rt::{Read, ReadBufCursor, Write};

use super::Service;
use super::core::Core;
use super::plain::Next;
use super::watch::Watched;

/// See the module.
pub(super) trait Wire: Read + Write + Unpin + 'static {
    /// Whether the kernel sees the bytes as they are.
    const PLAINTEXT: bool = false;

    /// Waits for a request with nothing in memory but the wire.
    async fn rest<S: Service>(&mut self, watched: &Watched, peer: SocketAddr, core: &Core<S>) -> Next;

    /// Puts bytes that a former hyper connection had read too far back in front.
    fn rewind(&mut self, bytes: Bytes);

    /// By which status hyper has just refused a head that it could not read: nothing of it was sent, and the
    /// wire was not shut down.
    fn take_refusal(&mut self) -> Option<StatusCode>;

    /// Makes the coming close a reset: a peer that does not read shall not leave its bytes to the
    /// kernel, which would try to deliver them for minutes.
    fn reset_on_close(&self);

    /// Writes what fits without waiting; for a last word before closing. Says nothing when the last write
    /// was cut: it would end up inside of another message.
    fn last_word(&mut self, bytes: &[u8]);

    /// From now on the bytes are HTTP/2's: reads are followed by their frames, and a flush may be put off
    /// until `poll_settle`, because h2 flushes after each frame.
    fn multiplex(&mut self);

    /// Lets go of what a flush was put off for.
    fn poll_settle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// A wire that is held by hyper and by the connection's task.
pub(super) struct Shared<W>(pub(super) Rc<RefCell<W>>);

impl<W: Wire> Read for Shared<W> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_read(cx, into)
    }
}

impl<W: Wire> Write for Shared<W> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_shutdown(cx)
    }
}
