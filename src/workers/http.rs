//! Requests to others: callbacks and the APIs of CDNs. One connection a request; TLS by the machine's roots.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper::{HeaderMap, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::base::{Error, Kind, Result};

/// Sends requests. Cheap to keep.
pub(crate) struct Client {
    tls: TlsConnector,
}

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// Nothing when nobody wanted it.
    pub(crate) body: Bytes,
}

/// Whom a URL names.
pub(crate) struct Peer {
    pub(crate) host: String,
    pub(crate) port: u16,
    tls: bool,
}

impl Peer {
    /// # Errors
    /// `Invalid` for a URL without a host.
    pub(crate) fn of(uri: &Uri) -> Result<Peer> {
        let authority = uri.authority().ok_or_else(|| Error::invalid("the URL cannot be used"))?;
        let tls = uri.scheme_str() == Some("https");
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Peer { host, port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }), tls })
    }

    /// Its addresses, for whoever wants to look at them first.
    ///
    /// # Errors
    /// `Unavailable` when the name is not known.
    pub(crate) async fn addresses(&self) -> Result<Vec<SocketAddr>> {
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await;
        Ok(found.map_err(|cause| unavailable("its host is not known").because(cause))?.collect())
    }
}

impl Client {
    pub(crate) fn new() -> Client {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider knows TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Client { tls: TlsConnector::from(Arc::new(config)) }
    }

    /// Sends a request, whose target is a path, to one of `addresses`, and reads at most `body_bytes_max` of the
    /// answer: a longer one is a failure, and none is read when that is 0. The caller bounds the time.
    ///
    /// # Errors
    /// `Unavailable` when it cannot be had.
    pub(crate) async fn send(
        &self,
        peer: &Peer,
        addresses: &[SocketAddr],
        request: Request<Bytes>,
        body_bytes_max: usize,
    ) -> Result<Answer> {
        let stream =
            TcpStream::connect(addresses).await.map_err(|cause| unavailable("cannot connect").because(cause))?;
        if !peer.tls {
            return exchange(stream, request, body_bytes_max).await;
        }
        let name = ServerName::try_from(peer.host.clone());
        let name = name.map_err(|cause| Error::invalid("the URL cannot be used").because(cause))?;
        let stream = self.tls.connect(name, stream).await.map_err(|cause| unavailable("no TLS").because(cause))?;
        exchange(stream, request, body_bytes_max).await
    }
}

async fn exchange<S>(stream: S, request: Request<Bytes>, body_bytes_max: usize) -> Result<Answer>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let failed = |cause: hyper::Error| unavailable("it broke off").because(cause);
    let (mut to, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    // Ends with the exchange: dropping `to` and the answer closes the connection.
    let connection = tokio::spawn(connection);
    let answered = async {
        let (head, body) = to.send_request(request.map(Full::new)).await.map_err(failed)?.into_parts();
        let body = match body_bytes_max {
            0 => Bytes::new(),
            most => {
                let read = Limited::new(body, most).collect().await;
                read.map_err(|cause| unavailable("its answer cannot be read").because(cause))?.to_bytes()
            }
        };
        Ok(Answer { status: head.status, headers: head.headers, body })
    };
    let answered = answered.await;
    connection.abort();
    answered
}

pub(crate) fn unavailable(what: &str) -> Error {
    Error::new(Kind::Unavailable, what)
}
