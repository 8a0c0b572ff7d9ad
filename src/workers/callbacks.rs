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
use hyper::{Request, Uri, header};
use metrics::{Counter, counter};
use sha2::Sha256;
use tokio::task::JoinSet;

use super::http::{Client, Peer};
use super::supervisor::Duty;
use crate::base::clock::Clock;
use crate::base::secret::Secret;
use crate::base::shutdown::{Phase, Shutdown};
use crate::base::telemetry;
use crate::base::{Error, Kind, Result, reach};
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
pub async fn run(db: Db, options: Options, clock: Clock, (duty, mut shutdown): (Duty, Shutdown)) {
    let sender = Arc::new(Sender::new(options));
    while shutdown.phase() == Phase::Running {
        let now_us = clock.unix_us();
        // Twice the time of a try: whoever dies in the middle leaves it to another.
        let until_us = now_us + 2 * TRY_MAX.as_micros() as i64;
        let due = match db.take_deliveries(AT_ONCE, now_us, until_us).await {
            Ok(due) => due,
            Err(error) => {
                duty.failed(&error);
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
        duty.ran();
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
    client: Client,
    delivered: Counter,
    failed: Counter,
}

impl Sender {
    fn new(options: Options) -> Sender {
        let by = |outcome: &'static str| {
            let counter = counter!(telemetry::CALLBACKS, "outcome" => outcome);
            counter.increment(0);
            counter
        };
        Sender { options, client: Client::new(), delivered: by("delivered"), failed: by("failed") }
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
        let peer = Peer::of(&uri)?;
        let addresses = self.addresses(&peer).await?;
        let request = Request::post(uri.path_and_query().map_or("/", |target| target.as_str()))
            .header(header::HOST, uri.authority().map_or("", |authority| authority.as_str()))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, concat!("segue/", env!("CARGO_PKG_VERSION")))
            .header("webhook-id", &delivery.id)
            .header("webhook-timestamp", timestamp_s)
            .header("webhook-signature", signatures(&self.options.secrets, &delivery.id, timestamp_s, &delivery.body))
            .body(Bytes::from(delivery.body.clone()))
            .map_err(|cause| unusable().because(cause))?;
        Ok(self.client.send(&peer, &addresses, request, 0).await?.status.as_u16())
    }

    async fn addresses(&self, peer: &Peer) -> Result<Vec<SocketAddr>> {
        let addresses = peer.addresses().await?;
        let found: Vec<IpAddr> = addresses.iter().map(SocketAddr::ip).collect();
        check_addresses(&peer.host, peer.port, &found, &self.options.private_hosts).map(|()| addresses)
    }
}

/// Whether a callback may go to a host (IPv6 without brackets) that is at these addresses.
///
/// # Errors
/// `Invalid`, saying which address is not public, and what would allow it.
pub fn check_addresses(host: &str, port: u16, found: &[IpAddr], private_hosts: &[String]) -> Result<()> {
    let bracketed = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let named = format!("{bracketed}:{port}");
    let known = |rule: &String| *rule == host || *rule == bracketed || *rule == named;
    let refused = found.iter().find_map(|address| Some((address, reach::plainly_public(*address).err()?)));
    match refused.filter(|_| !private_hosts.iter().any(known)) {
        Some((address, kind)) => Err(Error::invalid(format!(
            "{bracketed} has the address {address}, {kind}; add {named} to callbacks.private_hosts to allow it"
        ))),
        None => Ok(()),
    }
}

/// `v1,` and base64, for each secret: a receiver accepts any that it can verify.
pub fn signatures(secrets: &[Secret], id: &str, timestamp_s: i64, body: &str) -> String {
    let sign = |secret: &Secret| {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose()).expect("HMAC takes keys of any length");
        mac.update(format!("{id}.{timestamp_s}.{body}").as_bytes());
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    };
    secrets.iter().map(sign).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_refused_unless_their_host_is_named_as_the_refusal_says() {
        let check = |host: &str, rules: &[&str]| {
            let rules: Vec<String> = rules.iter().map(|rule| (*rule).to_owned()).collect();
            check_addresses(host, 8080, &[host.parse().unwrap()], &rules).map_err(|error| error.chain())
        };
        assert_eq!(check("1.1.1.1", &[]), Ok(()));
        let refused = check("169.254.169.254", &[]).unwrap_err();
        assert!(refused.contains("where clouds keep their metadata; add 169.254.169.254:8080 to"), "{refused}");
        assert_eq!(check("10.0.0.1", &["10.0.0.1"]), Ok(()));
        assert_eq!(check("10.0.0.1", &["10.0.0.1:8080"]), Ok(()));
        assert!(check("10.0.0.1", &["10.0.0.1:80"]).is_err());
        assert!(check("::1", &[]).unwrap_err().contains("add [::1]:8080 to callbacks.private_hosts"));
        assert_eq!(check("::1", &["[::1]:8080"]), Ok(()));
    }

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
}
