//! The way from the origin's cores to the control plane's runtime, and back.
//!
//! Requests that are not media arrive on the same listener. They leave the core through a bounded
//! channel, are answered elsewhere, and the core only writes the answer. A full channel is an answer
//! (503), so a slow control plane never holds memory of the data plane.

use std::net::SocketAddr;

use hyper::{Request, Response, StatusCode};
use tokio::sync::{mpsc, oneshot};

use super::body::Body;
use super::reply;
pub use super::upload::{TooSlow, Upload};

/// The side the cores hold; cheap to clone.
#[derive(Clone, Debug)]
pub struct Handover(mpsc::Sender<Message>);

/// The side the control plane holds. Dropping it makes the cores answer 503.
#[derive(Debug)]
pub struct Receiver(mpsc::Receiver<Message>);

/// One request, waiting for its answer.
#[derive(Debug)]
pub struct Message {
    /// The request as hyper decoded it. Its body is read from the client's socket as it is polled.
    pub request: Request<Upload>,
    /// Who sent it.
    pub peer: SocketAddr,
    /// Where the answer goes; `reply.is_closed()` when the client has left.
    pub reply: oneshot::Sender<Response<Body>>,
}

/// A new pair. `capacity` bounds the requests that wait for the control plane to pick them up.
pub fn channel(capacity: usize) -> (Handover, Receiver) {
    let (tx, rx) = mpsc::channel(capacity);
    (Handover(tx), Receiver(rx))
}

impl Receiver {
    /// The next request; `None` when every core has ended. Cancel safe.
    pub async fn next(&mut self) -> Option<Message> {
        self.0.recv().await
    }
}

impl Handover {
    /// Hands a request over and waits for the answer.
    pub(super) async fn call(&self, request: Request<Upload>, peer: SocketAddr) -> Response<Body> {
        let (reply, answer) = oneshot::channel();
        match self.0.try_send(Message { request, peer, reply }) {
            Ok(()) => answer
                .await
                .unwrap_or_else(|_| reply::refusal(StatusCode::INTERNAL_SERVER_ERROR, "the request was given up\n")),
            Err(_) => reply::busy("busy, try again\n"),
        }
    }
}
