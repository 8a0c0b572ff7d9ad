//! Sends callbacks. In: deliveries whose time has come. Out: signed POST requests, and a log of every try.
//!
//! Signed as Standard Webhooks 1.0 has it: HMAC-SHA256 over `id.timestamp.body`, the raw bytes of the body,
//! with every secret, in `webhook-signature`. The id is the same on every try and the timestamp is the
//! try's: a receiver drops ids it knows and timestamps that are minutes old, so nothing can be replayed.
//!
//! Somebody else chose the URL. So redirects are not followed, every address of its host must be public,
//! unless the operator named the host, and the connection goes to exactly the addresses that were checked.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper::{Request, Uri, header};
use hyper_util::rt::TokioIo;
use metrics::{Counter, counter};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::base::clock::Clock;
use crate::base::secret::Secret;
use crate::base::shutdown::{Phase, Shutdown};
use crate::base::telemetry;
use crate::base::{Error, Kind, Result};
use crate::db::Db;
use crate::db::deliveries::{Delivery, Try};
use crate::jobs::backoff::Backoff;

/// How callbacks are sent.
#[derive(Clone, Debug)]
pub struct Options {
    /// What signs them, newest first.
    pub secrets: Vec<Secret>,
    /// `host` or `host:port` whose address may be private.
    pub private_hosts: Vec<String>,
    /// How often an idle sender looks for work.
    pub poll: Duration,
}

/// Requests that are on their way at once.
const AT_ONCE: u32 = 8;
/// The longest a try may take, from the name to the status.
const TRY_MAX: Duration = Duration::from_secs(10);
/// 15 s, doubled up to 6 h: twelve tries are about a day.
const BACKOFF: Backoff = Backoff { first: Duration::from_secs(15), most: Duration::from_secs(6 * 3600) };

/// Reads a secret: `whsec_` and base64 as other implementations of Standard Webhooks have them, or any text.
pub fn secret(text: &str) -> Secret {
    let decoded = text.strip_prefix("whsec_").and_then(|text| STANDARD.decode(text).ok());
    Secret::new(decoded.unwrap_or_else(|| text.as_bytes().to_vec()))
}

/// Sends until the process drains.
pub async fn run(db: Db, options: Options, clock: Clock, mut shutdown: Shutdown) {
    let sender = Arc::new(Sender::new(options));
    while shutdown.phase() == Phase::Running {
        let now_us = clock.unix_us();
        // Twice the time of a try: whoever dies in the middle leaves it to another.
        let until_us = now_us + 2 * TRY_MAX.as_micros() as i64;
        let due = match db.take_deliveries(AT_ONCE, now_us, until_us).await {
            Ok(due) => due,
            Err(error) => {
                tracing::warn!(error = error.chain(), "cannot look for callbacks");
                Vec::new()
            }
        };
        let idle = due.is_empty();
        let mut tries = JoinSet::new();
        for delivery in due {
            let (sender, db, clock) = (Arc::clone(&sender), db.clone(), clock.clone());
            tries.spawn(async move {
                let how = sender.send(&delivery, &clock).await;
                if let Err(error) = db.log_try(&delivery, &how, BACKOFF, clock.unix_us()).await {
                    tracing::warn!(error = error.chain(), "cannot log a callback; it will be sent again");
                }
            });
        }
        while tries.join_next().await.is_some() {}
        if idle {
            tokio::select! {
                () = tokio::time::sleep(sender.options.poll) => {}
                () = shutdown.reached(Phase::Draining) => {}
            }
        }
    }
}

struct Sender {
    options: Options,
    tls: TlsConnector,
    delivered: Counter,
    failed: Counter,
}

impl Sender {
    fn new(options: Options) -> Sender {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider knows TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let by = |outcome: &'static str| {
            let counter = counter!(telemetry::CALLBACKS, "outcome" => outcome);
            counter.increment(0);
            counter
        };
        Sender { options, tls: TlsConnector::from(Arc::new(config)), delivered: by("delivered"), failed: by("failed") }
    }

    async fn send(&self, delivery: &Delivery, clock: &Clock) -> Try {
        let (at_us, begun) = (clock.unix_us(), Instant::now());
        let late = || Error::new(Kind::Unavailable, format!("no answer within {} s", TRY_MAX.as_secs()));
        let answered = tokio::time::timeout(TRY_MAX, self.post(delivery, at_us / 1_000_000)).await;
        let (status, error) = match answered.unwrap_or_else(|_| Err(late())) {
            Ok(status @ 200..300) => (Some(status), None),
            Ok(status) => (Some(status), Some(format!("it answered {status}"))),
            Err(error) => (None, Some(error.chain())),
        };
        if error.is_none() { &self.delivered } else { &self.failed }.increment(1);
        Try { at_us, took_us: begun.elapsed().as_micros() as i64, status, error }
    }

    /// Posts the body and returns the status. What the receiver says besides is not read.
    async fn post(&self, delivery: &Delivery, timestamp_s: i64) -> Result<u16> {
        let unusable = || Error::invalid("the URL cannot be used");
        let uri: Uri = delivery.url.parse().map_err(|_| unusable())?;
        let tls = uri.scheme_str() == Some("https");
        let authority = uri.authority().ok_or_else(unusable)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let stream = self.connect(&host, port).await?;
        let request = Request::post(uri.path_and_query().map_or("/", |target| target.as_str()))
            .header(header::HOST, authority.as_str())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, concat!("segue/", env!("CARGO_PKG_VERSION")))
            .header("webhook-id", &delivery.id)
            .header("webhook-timestamp", timestamp_s)
            .header("webhook-signature", signatures(&self.options.secrets, &delivery.id, timestamp_s, &delivery.body))
            .body(Full::new(Bytes::from(delivery.body.clone())))
            .map_err(|cause| unusable().because(cause))?;
        if !tls {
            return exchange(stream, request).await;
        }
        let name = ServerName::try_from(host).map_err(|cause| unusable().because(cause))?;
        let stream = self.tls.connect(name, stream).await;
        exchange(stream.map_err(|cause| unavailable("no TLS").because(cause))?, request).await
    }

    async fn connect(&self, host: &str, port: u16) -> Result<TcpStream> {
        let found = tokio::net::lookup_host((host, port)).await;
        let addrs: Vec<SocketAddr> =
            found.map_err(|cause| unavailable("its host is not known").because(cause))?.collect();
        let named = format!("{host}:{port}");
        let may_be_private = self.options.private_hosts.iter().any(|known| *known == host || *known == named);
        if !may_be_private && let Some(addr) = addrs.iter().find(|addr| !is_public(addr.ip())) {
            return Err(Error::invalid(format!(
                "{host} has the address {}, which is not public; add {named} to callbacks.private_hosts to allow it",
                addr.ip()
            )));
        }
        let connected = TcpStream::connect(&addrs[..]).await;
        connected.map_err(|cause| unavailable("cannot connect").because(cause))
    }
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<u16>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let failed = |cause: hyper::Error| unavailable("it broke off").because(cause);
    let (mut to, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    // Ends with the exchange: dropping `to` and the answer closes the connection.
    let connection = tokio::spawn(connection);
    let answer = to.send_request(request).await.map_err(failed);
    connection.abort();
    Ok(answer?.status().as_u16())
}

fn unavailable(what: &str) -> Error {
    Error::new(Kind::Unavailable, what)
}

/// `v1,` and base64, for each secret: a receiver accepts any that it can verify.
fn signatures(secrets: &[Secret], id: &str, timestamp_s: i64, body: &str) -> String {
    let sign = |secret: &Secret| {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose()).expect("HMAC takes keys of any length");
        mac.update(format!("{id}.{timestamp_s}.{body}").as_bytes());
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    };
    secrets.iter().map(sign).collect::<Vec<_>>().join(" ")
}

/// Whether the whole internet reaches an address (IANA's registries of special-purpose addresses).
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            !(a == 0
                || a >= 224 // multicast, reserved, broadcast
                || ip.is_loopback()
                || ip.is_private()
                || ip.is_link_local()
                || ip.is_documentation()
                || (a == 100 && b & 0xc0 == 64) // shared address space
                || (a == 192 && b == 0 && c == 0) // protocol assignments
                || (a == 198 && b & 0xfe == 18)) // benchmarking
        }
        IpAddr::V6(ip) => {
            if let Some(mapped) = ip.to_ipv4_mapped() {
                return is_public(IpAddr::V4(mapped));
            }
            let [a, b, ..] = ip.segments();
            // Only global unicast is ours to use, and of it not what stands for something else: documentation,
            // Teredo and the like (2001::/23), 6to4.
            a & 0xe000 == 0x2000 && !(a == 0x2001 && (b < 0x200 || b == 0xdb8)) && a != 0x2002 && a != 0x3fff
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_of_standard_webhooks() {
        // The example of the specification's own libraries.
        let key = secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let body = r#"{"test": 2432232314}"#;
        let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
        let one = signatures(std::slice::from_ref(&key), id, 1_614_265_330, body);
        assert_eq!(one, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        let both = signatures(&[key, secret("plain text of a secret")], id, 1_614_265_330, body);
        assert!(both.starts_with(&format!("{one} v1,")) && both.len() == 2 * one.len() + 1, "{both}");
    }

    #[test]
    fn only_addresses_that_everybody_reaches_are_public() {
        let check = |text: &str, public: bool| assert_eq!(is_public(text.parse().unwrap()), public, "{text}");
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "192.0.0.1",
            "203.0.113.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "fd00::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "2001:db8::1",
            "2002:7f00:1::",
            "64:ff9b::7f00:1",
            "ff02::1",
            "2001::1",
        ] {
            check(private, false);
        }
        for public in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1", "2a00:1450::1"] {
            check(public, true);
        }
    }
}
