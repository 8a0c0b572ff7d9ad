//! Downloads a source by HTTP into a spool, while it is read. In: a URL and what the operator allows. Out:
//! blocks in the spool, or why they will never come.
//!
//! One thread for each download, one connection at a time. It begins with `GET Range: bytes=0-0`, because
//! presigned URLs are bound to their method, and goes on where it was after every interruption. What
//! a reader far ahead waits for (an MP4's index at its end) comes before the rest. (RFC 9110 §14.)

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HOST, HeaderMap, HeaderName, LAST_MODIFIED,
    LOCATION, RANGE, RETRY_AFTER, USER_AGENT,
};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::guard::{Allowed, Url};
use super::options::too_large;
use super::source::{Gap, Spool, Temporary};
use crate::base::error::Context as _;
use crate::base::{Error, Kind, Result};

/// A source on another server.
#[derive(Clone)]
pub struct Remote {
    /// Where it is: `http://` or `https://`.
    pub url: String,
    /// The hexadecimal SHA-256 it must have, if that is known.
    pub sha256: Option<String>,
    /// Gives a new URL for the same object when the server says that this one is not valid any more
    /// (401, 403): for objects of ours, whose URLs we sign. It may block for seconds.
    pub resign: Option<Resign>,
}

/// Signs a URL anew.
pub type Resign = Arc<dyn Fn() -> Result<String> + Send + Sync>;

/// What sources may be downloaded, and how patiently.
#[derive(Clone, Debug)]
pub struct Fetching {
    /// From where.
    pub allowed: Allowed,
    /// Certificates, PEM, that are trusted beside the machine's: an object store's own.
    pub ca_file: Option<PathBuf>,
    /// Seconds to resolve a name, and to make a connection. 10: three lost packets.
    pub connect_s: u64,
    /// Seconds without a byte. 30: object stores restart parts within it.
    pub idle_s: u64,
    /// Failures in a row, with less than 1 MiB between them, after which it is given up. 6: with the pauses
    /// about ten seconds.
    pub failures_max: u32,
    /// Pause after the first failure in ms; it doubles with each, to at most 10 s.
    pub pause_ms: u64,
}

impl Default for Fetching {
    fn default() -> Fetching {
        Fetching {
            allowed: Allowed::default(),
            ca_file: None,
            connect_s: 10,
            idle_s: 30,
            failures_max: 6,
            pause_ms: 250,
        }
    }
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote").field("sha256", &self.sha256).finish_non_exhaustive() // the URL is a secret
    }
}

/// Redirects that are followed, all to the same host.
const REDIRECTS_MAX: u32 = 3;
/// Times that a reader far ahead may interrupt the download.
const JUMPS_MAX: u32 = 64;
/// The longest pause that a server may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);
/// A download that brought so much since the last failure works.
const PROGRESS_BYTES: u64 = 64 << 10;
/// Head of an answer, and what is read at once.
const BUFFER_BYTES: usize = 64 << 10;

/// A running download. Dropping it ends it.
pub(super) struct Download {
    spool: Arc<Spool>,
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Stop {
    asked: AtomicBool,
    notify: Notify,
}

impl Download {
    /// Asks for the source and comes back when its length is known. The spool is on the file system of
    /// `directory`.
    ///
    /// # Errors
    /// `Invalid` for what is not allowed or will not work, `NotFound`, `Unavailable` for what may work later,
    /// `Cancelled`.
    pub(super) fn start(
        remote: &Remote,
        options: &Fetching,
        bytes_max: u64,
        directory: &Path,
        unwanted: &AtomicBool,
    ) -> Result<Download> {
        let url = Url::decode(&remote.url)?;
        options.allowed.check_host(&url)?;
        let stop = Arc::new(Stop::default());
        let (tell, told) = channel();
        let fetch = Fetch {
            url,
            addresses: Vec::new(),
            resign: remote.resign.clone(),
            options: options.clone(),
            bytes_max,
            directory: directory.to_owned(),
            seen: None,
            ranged: true,
            pending: None,
            jumps: JUMPS_MAX,
            failures: 0,
            resigned: 0,
            tls: OnceLock::new(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context(|| "cannot start the download")?;
        let stopped = Arc::clone(&stop);
        let run = move || {
            runtime.block_on(async {
                tokio::select! {
                    () = fetch.run(&tell) => {}
                    () = stopped.notify.notified() => {}
                }
            });
            // A name that is being resolved is not waited for.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("fetch".into()).spawn(run);
        let thread = thread.context(|| "cannot start the download")?;
        loop {
            match told.recv_timeout(Duration::from_millis(50)) {
                Ok(Ok(spool)) => return Ok(Download { spool, stop, thread: Some(thread) }),
                Ok(Err(error)) => return Err(error),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::internal("the download ended without a word"));
                }
                Err(RecvTimeoutError::Timeout) if unwanted.load(Ordering::Relaxed) => {
                    stop.ask();
                    return Err(Error::new(Kind::Cancelled, "cancelled"));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    pub(super) fn spool(&self) -> &Spool {
        &self.spool
    }
}

impl Stop {
    fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
        self.notify.notify_one();
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        self.stop.ask();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The downloading side.
struct Fetch {
    url: Url,
    /// Where `url.host` is: resolved and checked once, and used for every connection.
    addresses: Vec<SocketAddr>,
    resign: Option<Resign>,
    options: Fetching,
    bytes_max: u64,
    directory: PathBuf,
    /// What the first answer said; every other must say the same.
    seen: Option<Seen>,
    /// Whether the server gives parts.
    ranged: bool,
    /// An answer whose body is still to be read: of a server that gives no parts.
    pending: Option<Answer>,
    jumps: u32,
    failures: u32,
    resigned: u32,
    tls: OnceLock<TlsConnector>,
}

/// What tells one representation from the next.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    bytes: u64,
    /// `ETag`, else `Last-Modified`.
    validator: Option<String>,
}

/// A head that makes sense, and its body.
struct Answer {
    content: Content,
    validator: Option<String>,
    body: Incoming,
    _connection: Connection,
}

enum Content {
    /// 206.
    Part { start: u64, bytes: u64 },
    /// 200, and its length if it is told.
    Whole { bytes: Option<u64> },
}

/// The task that drives a connection; it ends with this.
struct Connection(tokio::task::JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why a request did not bring what it should.
enum Trouble {
    /// Another try may work, after so long.
    Again(String, Option<Duration>),
    /// The server does not accept the URL (any more).
    Expired(StatusCode),
    /// Somebody waits for other bytes.
    Elsewhere,
    Final(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        Trouble::Final(error)
    }
}

type Tried<T> = std::result::Result<T, Trouble>;

fn again(why: impl std::fmt::Display) -> Trouble {
    Trouble::Again(why.to_string(), None)
}

impl Fetch {
    async fn run(mut self, tell: &Sender<Result<Arc<Spool>>>) {
        let spool = match self.begin().await {
            Ok(spool) => Arc::new(spool),
            Err(error) => {
                let _ = tell.send(Err(error)); // nobody listens when it was cancelled
                return;
            }
        };
        if tell.send(Ok(Arc::clone(&spool))).is_err() {
            return;
        }
        if let Err(error) = self.fill(&spool).await {
            spool.fail(&error);
        }
    }

    /// Learns the length, and whether parts are given.
    async fn begin(&mut self) -> Result<Spool> {
        loop {
            let tried = self.first().await;
            match tried {
                Ok(spool) => return Ok(spool),
                Err(trouble) => self.recover(trouble).await?,
            }
        }
    }

    async fn first(&mut self) -> Tried<Spool> {
        let answer = self.ask(Some(Gap { start: 0, end: 1 })).await?;
        let validator = answer.validator.clone();
        let bytes = match answer.content {
            Content::Part { bytes, .. } => bytes,
            Content::Whole { bytes: Some(bytes) } => {
                self.ranged = false;
                self.pending = Some(answer);
                bytes
            }
            Content::Whole { bytes: None } => return self.unmeasured(answer).await,
        };
        self.check_bytes(bytes)?;
        self.seen = Some(Seen { bytes, validator });
        Ok(Spool::new(&self.directory, bytes)?)
    }

    fn check_bytes(&self, bytes: u64) -> Result<()> {
        if bytes == 0 {
            return Err(Error::invalid("it is empty; upload the file again"));
        }
        match bytes > self.bytes_max {
            true => Err(too_large(bytes, self.bytes_max)),
            false => Ok(()),
        }
    }

    /// A body whose length only its end tells is read to its end first.
    async fn unmeasured(&self, mut answer: Answer) -> Tried<Spool> {
        let temporary = Temporary::new(&self.directory)?;
        let mut bytes = 0;
        while let Some(data) = self.data(&mut answer.body).await? {
            temporary.write(bytes, &data).context(|| "cannot write the source to the disk")?;
            bytes += data.len() as u64;
            if bytes > self.bytes_max {
                self.check_bytes(bytes)?;
            }
        }
        self.check_bytes(bytes)?;
        Ok(Spool::filled(temporary, bytes)?)
    }

    /// Downloads until nothing is missing.
    async fn fill(&mut self, spool: &Spool) -> Result<()> {
        while let Some(gap) = spool.next_gap() {
            if let Err(trouble) = self.part(gap, spool).await {
                self.recover(trouble).await?;
            }
        }
        Ok(())
    }

    /// Downloads a gap, or until it is interrupted.
    async fn part(&mut self, gap: Gap, spool: &Spool) -> Tried<()> {
        let mut answer = match self.pending.take() {
            Some(answer) => answer,
            None => self.ask(self.ranged.then_some(gap)).await?,
        };
        let (begun, bytes) = match answer.content {
            Content::Part { start, bytes } => (start, Some(bytes)),
            Content::Whole { bytes } => {
                self.ranged = false; // or no longer
                (0, bytes)
            }
        };
        let now = Seen { bytes: bytes.unwrap_or(spool.bytes()), validator: answer.validator.clone() };
        if self.seen.as_ref().is_some_and(|seen| !seen.is(&now)) {
            return Err(changed().into());
        }
        if begun != if self.ranged { gap.start } else { 0 } {
            return Err(
                Error::invalid("the server answers with other bytes than it was asked for; check the URL").into()
            );
        }
        // What was here before a server that gives no parts began anew must come again as it was.
        let known = if self.ranged { begun } else { spool.contiguous() };
        let end = if self.ranged { gap.end } else { spool.bytes() };
        let mut at = begun;
        while at < end {
            let data = tokio::select! {
                biased;
                data = self.data(&mut answer.body) => data?,
                () = spool.wake.notified(), if self.ranged && self.jumps > 0 => {
                    if spool.is_wanted_elsewhere(at) {
                        self.jumps -= 1;
                        return Err(Trouble::Elsewhere);
                    }
                    continue;
                }
            };
            let Some(mut data) = data else {
                return Err(again(format_args!("the connection ended after {at} of {} bytes", spool.bytes())));
            };
            data.truncate(usize::try_from(end - at).unwrap_or(usize::MAX));
            let old = data.len().min(usize::try_from(known.saturating_sub(at)).unwrap_or(usize::MAX));
            let what = || "cannot write the source to the disk";
            if old > 0 && !spool.has(at, &data[..old]).context(what)? {
                return Err(changed().into());
            }
            spool.put(at, &data).context(what)?;
            at += data.len() as u64;
            if at - begun >= PROGRESS_BYTES && at > known {
                (self.failures, self.resigned) = (0, 0);
            }
        }
        Ok(())
    }

    /// The next bytes of a body; none at its end.
    async fn data(&self, body: &mut Incoming) -> Tried<Option<Bytes>> {
        loop {
            match timeout(Duration::from_secs(self.options.idle_s), body.frame()).await {
                Err(_) => return Err(again(format_args!("nothing came for {} s", self.options.idle_s))),
                Ok(None) => return Ok(None),
                Ok(Some(Err(cause))) => return Err(again(format_args!("the connection broke: {}", in_full(&cause)))),
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// Waits, or signs anew; `Err` when that was tried often enough.
    async fn recover(&mut self, trouble: Trouble) -> Result<()> {
        let (why, after) = match trouble {
            Trouble::Elsewhere => return Ok(()),
            Trouble::Final(error) => return Err(error),
            Trouble::Expired(status) => return self.sign_anew(status).await,
            Trouble::Again(why, after) => (why, after),
        };
        self.failures += 1;
        if self.failures > self.options.failures_max {
            let tries = self.failures;
            return Err(Error::new(
                Kind::Unavailable,
                format!("the server does not give it ({why}; {tries} tries in a row); try again later"),
            ));
        }
        let pause = Duration::from_millis(self.options.pause_ms << (self.failures - 1).min(16)).min(PAUSE_MAX);
        // Up to a quarter more, so that workers that failed together do not come back together.
        let jitter = pause.mul_f64(f64::from(std::process::id() % 64 + self.failures) / 256.0);
        tracing::debug!(why, failures = self.failures, "a download was interrupted");
        tokio::time::sleep((pause + jitter).max(after.unwrap_or_default())).await;
        Ok(())
    }

    async fn sign_anew(&mut self, status: StatusCode) -> Result<()> {
        let refused = || {
            let status = status.as_u16();
            Error::invalid(format!(
                "the server refuses the URL ({status}): it has expired or was not signed for reading; give a new one"
            ))
        };
        let Some(resign) = self.resign.clone() else { return Err(refused()) };
        self.resigned += 1;
        if self.resigned > 2 {
            return Err(refused());
        }
        let text = tokio::task::spawn_blocking(move || resign()).await.map_err(|_| refused())??;
        let url = Url::decode(&text)?;
        self.options.allowed.check_host(&url)?;
        if (&url.host, url.port) != (&self.url.host, self.url.port) {
            self.addresses.clear();
        }
        self.url = url;
        Ok(())
    }

    /// Sends one request, follows redirects, and reads the head of the answer.
    async fn ask(&mut self, range: Option<Gap>) -> Tried<Answer> {
        for _ in 0..=REDIRECTS_MAX {
            let (response, connection) = self.send(range).await?;
            let status = response.status();
            let headers = response.headers();
            match status.as_u16() {
                200 | 206 => return read_head(response, connection),
                301 | 302 | 303 | 307 | 308 => {
                    let Some(location) = text(headers, LOCATION) else {
                        return Err(Error::invalid("the server redirects to nowhere; check the URL").into());
                    };
                    let next = self.url.redirected(location)?;
                    self.options.allowed.check_host(&next)?;
                    if next.port != self.url.port {
                        self.addresses.clear();
                    }
                    self.url = next;
                }
                416 => {
                    // RFC 9110 §15.5.17: `bytes */0` is an empty object.
                    let what = match range {
                        Some(Gap { start: 0, .. }) => Error::invalid("it is empty; upload the file again"),
                        _ => changed(),
                    };
                    return Err(what.into());
                }
                401 | 403 => return Err(Trouble::Expired(status)),
                404 | 410 => {
                    let status = status.as_u16();
                    return Err(Error::not_found(format!("there is no such object ({status}); check the URL")).into());
                }
                408 | 425 | 429 | 500..=599 => {
                    let after = text(headers, RETRY_AFTER).and_then(|seconds| seconds.parse().ok());
                    let after = after.map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
                    return Err(Trouble::Again(format!("it answers {}", status.as_u16()), after));
                }
                other => return Err(Error::invalid(format!("the server answers {other}; check the URL")).into()),
            }
        }
        Err(Error::invalid(format!("it redirects more than {REDIRECTS_MAX} times; give the URL it ends at")).into())
    }

    async fn send(&mut self, range: Option<Gap>) -> Tried<(Response<Incoming>, Connection)> {
        let mut request = Request::get(self.url.target.as_str())
            .header(HOST, self.url.authority())
            .header(USER_AGENT, concat!("segue/", env!("CARGO_PKG_VERSION")))
            // The bytes themselves: a range of a coded body would be a range of the code.
            .header(ACCEPT_ENCODING, "identity");
        if let Some(Gap { start, end }) = range {
            request = request.header(RANGE, format!("bytes={start}-{}", end - 1));
        }
        let request = request
            .body(Empty::<Bytes>::new())
            .map_err(|_| Error::invalid("the URL cannot be asked for; percent-encode it"))?;
        let stream = self.connect().await?;
        let answered = async {
            match self.url.tls {
                false => converse(stream, request).await,
                true => {
                    let connector = self.connector()?;
                    let name = rustls::pki_types::ServerName::try_from(self.url.host.clone())
                        .map_err(|_| Error::invalid("the host of the URL is no name for TLS; check the URL"))?;
                    let stream = connector.connect(name, stream).await.map_err(untrusted)?;
                    converse(stream, request).await
                }
            }
        };
        let limit = Duration::from_secs(self.options.idle_s);
        timeout(limit, answered).await.map_err(|_| again(format_args!("no answer came for {} s", limit.as_secs())))?
    }

    /// Connects to the first address that answers, of those that were found and checked once.
    async fn connect(&mut self) -> Tried<TcpStream> {
        let limit = Duration::from_secs(self.options.connect_s);
        if self.addresses.is_empty() {
            let host = self.url.host.as_str();
            let found = timeout(limit, tokio::net::lookup_host((host, self.url.port))).await;
            let found = found.map_err(|_| again(format_args!("{host} was not found within {} s", limit.as_secs())))?;
            let found = found.map_err(|cause| again(format_args!("{host} is not found: {cause}")))?;
            self.addresses = self.options.allowed.check_addresses(host, found.collect())?;
        }
        let mut last = again("it has no address");
        for address in &self.addresses {
            match timeout(limit, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(cause)) => last = again(format_args!("cannot connect: {cause}")),
                Err(_) => last = again(format_args!("cannot connect within {} s", limit.as_secs())),
            }
        }
        Err(last)
    }

    fn connector(&self) -> Result<TlsConnector> {
        if let Some(connector) = self.tls.get() {
            return Ok(connector.clone());
        }
        let connector = connector(self.options.ca_file.as_deref())?;
        Ok(self.tls.get_or_init(|| connector).clone())
    }
}

/// The longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(10);

impl Seen {
    /// Whether it is the same representation, as far as both say.
    fn is(&self, other: &Seen) -> bool {
        let differ = matches!((&self.validator, &other.validator), (Some(one), Some(other)) if one != other);
        self.bytes == other.bytes && !differ
    }
}

async fn converse<S>(stream: S, request: Request<Empty<Bytes>>) -> Tried<(Response<Incoming>, Connection)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broke = |cause: hyper::Error| again(format_args!("the connection broke: {}", in_full(&cause)));
    let mut builder = hyper::client::conn::http1::Builder::new();
    builder.max_buf_size(BUFFER_BYTES);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(broke)?;
    let connection = Connection(tokio::spawn(async {
        let _ = connection.await; // what breaks it shows in the answer
    }));
    let response = sender.send_request(request).await.map_err(broke)?;
    Ok((response, connection))
}

fn read_head(response: Response<Incoming>, connection: Connection) -> Tried<Answer> {
    let headers = response.headers();
    if let Some(coding) = text(headers, CONTENT_ENCODING).filter(|coding| !coding.eq_ignore_ascii_case("identity")) {
        return Err(Error::invalid(format!("the server sends it coded as {coding}; store it as it is")).into());
    }
    let content = match response.status() {
        StatusCode::PARTIAL_CONTENT => {
            let range = text(headers, CONTENT_RANGE).and_then(content_range);
            let Some((start, bytes)) = range else {
                return Err(Error::invalid("the server gives a part without saying of what; check the URL").into());
            };
            Content::Part { start, bytes }
        }
        _ => Content::Whole { bytes: text(headers, CONTENT_LENGTH).and_then(|length| length.parse().ok()) },
    };
    let validator = text(headers, ETAG).or_else(|| text(headers, LAST_MODIFIED)).map(str::to_owned);
    Ok(Answer { content, validator, body: response.into_body(), _connection: connection })
}

/// `bytes 0-0/1234`: where it starts and the length of the whole. (RFC 9110 §14.4)
fn content_range(value: &str) -> Option<(u64, u64)> {
    let (range, bytes) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (start, end) = range.split_once('-')?;
    let (start, end, bytes): (u64, u64, u64) = (start.parse().ok()?, end.parse().ok()?, bytes.parse().ok()?);
    (start <= end && end < bytes).then_some((start, bytes))
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

fn changed() -> Error {
    Error::new(Kind::Unavailable, "it changed on its server while it was read; start again")
}

/// hyper keeps what happened in the sources.
fn in_full(cause: &dyn std::error::Error) -> String {
    let mut line = cause.to_string();
    let mut next = cause.source();
    while let Some(cause) = next {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        next = cause.source();
    }
    line
}

/// A certificate that is not accepted today is not accepted in a second.
fn untrusted(cause: std::io::Error) -> Trouble {
    match cause.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(why)) => Trouble::Final(Error::invalid(format!(
            "the server's certificate is not accepted ({why}); correct it, or name its issuer with sources.ca_file"
        ))),
        _ => again(format_args!("TLS failed: {cause}")),
    }
}

fn connector(ca_file: Option<&Path>) -> Result<TlsConnector> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;

    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca_file {
        let what = || Error::usage(format!("sources.ca_file {} cannot be used; name a PEM file", path.display()));
        for certificate in CertificateDer::pem_file_iter(path).map_err(|cause| what().because(cause))? {
            let certificate = certificate.map_err(|cause| what().because(cause))?;
            roots.add(certificate).map_err(|cause| what().because(cause))?;
        }
    }
    if roots.is_empty() {
        return Err(Error::internal(
            "this machine trusts no certificate; install ca-certificates, or name one with sources.ca_file",
        ));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read_strictly() {
        let check = |value: &str, expected| assert_eq!(content_range(value), expected, "{value}");
        check("bytes 0-0/1234", Some((0, 1234)));
        check("bytes 5-9/10", Some((5, 10)));
        for nonsense in ["bytes 0-0/*", "bytes */0", "bytes 9-5/10", "bytes 0-10/10", "items 0-0/1", "0-0/1", ""] {
            check(nonsense, None);
        }
    }

    #[test]
    fn another_length_or_another_tag_is_another_representation() {
        let seen = |bytes, validator: Option<&str>| Seen { bytes, validator: validator.map(str::to_owned) };
        let check = |one: Seen, other: Seen, same| assert_eq!(one.is(&other), same, "{one:?} {other:?}");
        check(seen(1, Some("a")), seen(1, Some("a")), true);
        check(seen(1, Some("a")), seen(1, None), true);
        check(seen(1, Some("a")), seen(1, Some("b")), false);
        check(seen(1, None), seen(2, None), false);
    }
}
