//! What all requests to those who move money have in common. In: what was stored before. Out: what they have under an id,
//! or which kind of not knowing it is. Nothing here decides; nothing here is tried twice.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use hyper::{HeaderMap, Request, StatusCode, Uri, header};

use crate::base::secret::Secret;
use crate::base::{Error, Result, redact};
use crate::workers::http::{Client, Peer, unavailable};

/// The longest a request may take, from the name to the last byte of the answer.
pub const CALL_MAX: Duration = Duration::from_secs(20);
/// The longest answer that is read, in bytes: a page of a hundred objects.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Of the answer.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// A request that is on its way.
pub type Sent<'a> = Pin<Box<dyn Future<Output = Result<Answer>> + Send + 'a>>;

/// How requests reach a provider. An error means silence: the request may have been taken all the same.
pub trait Transport: fmt::Debug + Send + Sync {
    /// Sends a request whose URI is absolute.
    fn send(&self, request: Request<Bytes>) -> Sent<'_>;
}

/// Over the network, within `CALL_MAX`.
pub struct Network(Client);

impl Network {
    /// With the machine's trusted roots.
    pub fn new() -> Network {
        Network(Client::new())
    }

    async fn exchange(&self, request: Request<Bytes>) -> Result<Answer> {
        let peer = Peer::of(request.uri())?;
        let addresses = peer.addresses().await?;
        let answer = self.0.send(&peer, &addresses, targeted(request)?, ANSWER_BYTES_MAX).await?;
        Ok(Answer { status: answer.status, headers: answer.headers, body: answer.body })
    }
}

impl Default for Network {
    fn default() -> Network {
        Network::new()
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Network")
    }
}

impl Transport for Network {
    fn send(&self, request: Request<Bytes>) -> Sent<'_> {
        Box::pin(async move {
            let late = |_| unavailable(&format!("no answer within {} s", CALL_MAX.as_secs()));
            tokio::time::timeout(CALL_MAX, self.exchange(request)).await.map_err(late)?
        })
    }
}

/// HTTP/1.1 names the host in a header and the path as the target.
fn targeted(mut request: Request<Bytes>) -> Result<Request<Bytes>> {
    let unusable = || Error::invalid("the URL of a provider cannot be used");
    let uri = request.uri().clone();
    let host = header::HeaderValue::try_from(uri.authority().ok_or_else(unusable)?.as_str()).map_err(|_| unusable())?;
    request.headers_mut().insert(header::HOST, host);
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    *request.uri_mut() = target.parse::<Uri>().map_err(|_| unusable())?;
    Ok(request)
}

/// Why a request did not bring what it was to bring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No answer, or none that says anything: it may have been done.
    Silence(String),
    /// The provider answered that it failed (5xx): it may have been done.
    Failed(String),
    /// Ask again later, in the same words: too many requests, or another one is at work on the same.
    Busy(String),
    /// The provider does not let us in: our key is wrong or has expired. Nothing was done.
    Locked(String),
    /// It has no such thing.
    Missing,
    /// It has something under this id already.
    Exists,
    /// There is not enough money where it has to come from.
    Insufficient(String),
    /// It will not, whoever asks however often.
    Refused(String),
}

impl Fault {
    /// For people and logs: one line, without secrets.
    pub fn words(&self) -> String {
        let text = match self {
            Fault::Silence(why) => format!("no answer: {why}"),
            Fault::Failed(why) => format!("it failed there: {why}"),
            Fault::Busy(why) => format!("it is busy: {why}"),
            Fault::Locked(why) => format!("it does not accept our key: {why}"),
            Fault::Missing => "it has no such thing".to_owned(),
            Fault::Exists => "it has one already".to_owned(),
            Fault::Insufficient(why) => format!("there is not enough money: {why}"),
            Fault::Refused(why) => format!("it refuses: {why}"),
        };
        let text: String = redact::text(&text.replace(char::is_control, " ")).chars().take(300).collect();
        text
    }

    /// Whether it may have been done all the same.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Fault::Silence(_) | Fault::Failed(_) | Fault::Busy(_))
    }
}

/// Where a provider's API is, and our key.
#[derive(Clone, Debug)]
pub struct Account {
    /// `https://api.example.com`, without a slash at its end.
    pub url: String,
    /// Never printed.
    pub key: Secret,
}

impl Account {
    /// The key as a header. It comes from the configuration, which checked it.
    pub(super) fn key(&self, prefix: &str) -> header::HeaderValue {
        let text = format!("{prefix}{}", String::from_utf8_lossy(self.key.expose()));
        let mut value = header::HeaderValue::from_str(&text).unwrap_or_else(|_| header::HeaderValue::from_static(""));
        value.set_sensitive(true);
        value
    }
}

pub(super) fn agent() -> header::HeaderValue {
    header::HeaderValue::from_static(concat!("segue/", env!("CARGO_PKG_VERSION")))
}

/// What may be an id of theirs: short, and nothing that a database or a terminal minds.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= 128 && !text.contains(char::is_control)
}

/// Reads a body that is said to be JSON.
pub(super) fn json<T: serde::de::DeserializeOwned>(answer: &Answer) -> Result<T, Fault> {
    serde_json::from_slice(&answer.body)
        .map_err(|cause| Fault::Silence(format!("its answer ({}) cannot be read: {cause}", answer.status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_provider_says_is_one_line_without_secrets() {
        let fault = Fault::Refused(format!("a\nb {}", "x".repeat(500)));
        assert!(fault.words().len() <= 300 && !fault.words().contains('\n'));
        assert!(fault.words().starts_with("it refuses: a b x"));
        assert!(Fault::Silence(String::new()).is_unknown() && !Fault::Locked(String::new()).is_unknown());
    }

    #[test]
    fn a_request_names_its_host_in_a_header() {
        let request = Request::get("http://pay.test:81/v1/transfers?limit=1").body(Bytes::new()).unwrap();
        let request = targeted(request).unwrap();
        assert_eq!(
            (request.uri().to_string().as_str(), &request.headers()["host"]),
            ("/v1/transfers?limit=1", &"pay.test:81".parse().unwrap())
        );
    }
}
