//! TLS 1.2 and 1.3 by rustls. In: a socket and the server's certificate. Out: a wire of plaintext bytes.
//!
//! ```text
//! hyper ─ slices of the mapping ─▶ records of 16 KiB (one copy, encrypted in place) ─▶ one sendmsg for many
//! ```
//! rustls only; the sockets, deadlines and flushing are ours, because a flush for each HTTP/2 frame would
//! mean a system call and a record of a few bytes for each (docs/decisions/0014).

use std::future::poll_fn;
use std::io::{self, BufRead as _, IoSlice, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::rt::{Read, ReadBufCursor, Write};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, Error as TlsError, HandshakeKind, ServerConfig, ServerConnection};
use tokio::io::ReadBuf;

use super::Service;
use super::core::Core;
use super::frames::Frames;
use super::heads::Heads;
use super::plain::Next;
use super::reply;
use super::socket::{Socket, follow};
use super::watch::{Phase, Verdict, Watched};
use super::wire::Wire;
use crate::base::{Error, Result};

/// Plaintext bytes of a full record (RFC 8446 §5.1).
const RECORD_BYTES: usize = 16 << 10;
/// Encrypted bytes that may wait for the kernel: four full records. A listener who does not read holds that
/// much memory; more in one system call saves little.
const WAITING_BYTES_MAX: usize = 4 * RECORD_BYTES;
/// A rest of a write up to this length waits for the next one instead of becoming a record of its own.
const REST_BYTES_MAX: usize = 2 << 10;

/// The certificate that is served, and where it comes from. Shared by the cores and by whoever reloads it.
#[derive(Debug)]
pub struct Certificate {
    chain: PathBuf,
    key: PathBuf,
    provider: Arc<CryptoProvider>,
    current: RwLock<Arc<CertifiedKey>>,
    seen: Mutex<Seen>,
}

/// What tells whether the files have changed: when each was written and how long it is.
type Stamp = [Option<(SystemTime, u64)>; 2];

#[derive(Debug)]
struct Seen {
    /// As the files were when they were last read.
    read: Stamp,
    /// As they were at the last look.
    last: Stamp,
}

/// What a look at the files found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// Nothing new.
    Unchanged,
    /// Another certificate is served from now on. Connections that are open keep theirs.
    Changed,
}

impl Certificate {
    /// Reads a chain, leaf first, and its private key, both PEM.
    ///
    /// # Errors
    /// `Usage` naming the file that cannot be read or used.
    pub fn load(chain: &Path, key: &Path) -> Result<Arc<Certificate>> {
        let provider = Arc::new(provider());
        let now = stamp(chain, key);
        let seen = Mutex::new(Seen { read: now, last: now });
        let current = RwLock::new(Arc::new(read(chain, key, &provider)?));
        Ok(Arc::new(Certificate { chain: chain.into(), key: key.into(), provider, current, seen }))
    }

    /// Reads the files again, when they have changed and then stayed the same for two looks (chain and key
    /// are written one after the other), or when `at_once`. When they cannot be used the old certificate
    /// stays, and the same files are not tried again. Blocks.
    ///
    /// # Errors
    /// As `load`.
    pub fn reload(&self, at_once: bool) -> Result<Reload> {
        let now = stamp(&self.chain, &self.key);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let settled = std::mem::replace(&mut seen.last, now) == now;
        if !at_once && (seen.read == now || !settled) {
            return Ok(Reload::Unchanged);
        }
        seen.read = now;
        let fresh = read(&self.chain, &self.key, &self.provider)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh);
        Ok(Reload::Changed)
    }

    /// When the certificate that is served expires, in seconds since 1970; `None` when it does not say so
    /// in a way we can read.
    pub fn not_after_unix_s(&self) -> Option<u64> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        not_after_unix_s(current.cert.first()?)
    }

    /// The settings of every connection.
    pub(super) fn server_config(self: &Arc<Certificate>) -> Result<Arc<ServerConfig>> {
        let unusable = |cause: TlsError| Error::internal("TLS cannot be set up").because(cause);
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(unusable)?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.ignore_client_order = true;
        // Tickets only, so that a session costs us no memory. Their keys rotate every six hours and are
        // the same on every core and after a reload.
        config.ticketer = aws_lc_rs::Ticketer::new().map_err(unusable)?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Arc::new(config))
    }
}

impl ResolvesServerCert for Certificate {
    /// Whatever name the client asks for: there is one certificate, and the client judges its names.
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// aws-lc, with AES-128-GCM first: the cheapest cipher where the processor has AES instructions.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| {
        !matches!(
            suite.suite(),
            CipherSuite::TLS13_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        )
    });
    provider
}

fn stamp(chain: &Path, key: &Path) -> Stamp {
    [chain, key].map(|path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    })
}

fn read(chain: &Path, key: &Path, provider: &CryptoProvider) -> Result<CertifiedKey> {
    let no_chain = || format!("server.tls_cert {} holds no PEM certificate that can be read", chain.display());
    let no_key = || format!("server.tls_key {} holds no PEM private key that can be read", key.display());
    let usage = |what: String, cause: &dyn std::fmt::Display| Error::usage(what).because(cause.to_string());
    let certificates: Vec<CertificateDer<'static>> =
        CertificateDer::pem_file_iter(chain).and_then(Iterator::collect).map_err(|cause| usage(no_chain(), &cause))?;
    if certificates.is_empty() {
        return Err(Error::usage(no_chain()));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|cause| usage(no_key(), &cause))?;
    CertifiedKey::from_der(certificates, private, provider).map_err(|cause| {
        let files = format!("server.tls_cert {} and server.tls_key {}", chain.display(), key.display());
        usage(format!("{files} do not belong together or cannot be used"), &cause)
    })
}

/// Why a handshake did not end in a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// It took longer than a request head may.
    Timeout,
    /// The peer left, or we are stopping.
    Closed,
    /// These were no TLS records.
    NotTls,
    /// No version, cipher or protocol in common.
    Incompatible,
    /// The peer refused us: usually our certificate.
    Refused,
    /// Anything else the peer did wrong.
    Broken,
}

/// Agrees on keys with the peer. Time is bounded by the watch, memory by rustls (64 KiB of handshake).
pub(super) async fn accept(socket: Socket, config: Arc<ServerConfig>) -> Result<(Tls, HandshakeKind), Failed> {
    let mut session = ServerConnection::new(config).map_err(|_| Failed::Broken)?;
    session.set_buffer_limit(Some(2 * WAITING_BYTES_MAX));
    socket.watched().enter(Phase::Handshake);
    let (rest, rewound, frames, heads, refusal) = (Vec::new(), Bytes::new(), None, None, None);
    let mut tls = Tls { socket, session, rest, waiting: 0, rewound, frames, heads, refusal, cut: false };
    poll_fn(|cx| match tls.socket.watched().verdict(cx) {
        Verdict::Close => Poll::Ready(Err(Failed::Timeout)),
        Verdict::Drain => Poll::Ready(Err(Failed::Closed)),
        Verdict::Go | Verdict::Park => tls.poll_handshake(cx),
    })
    .await?;
    tls.socket.watched().enter(Phase::New);
    let kind = tls.session.handshake_kind().unwrap_or(HandshakeKind::Full);
    Ok((tls, kind))
}

/// A connection over TLS.
pub(super) struct Tls {
    socket: Socket,
    session: ServerConnection,
    /// The rest of a write that does not fill a record; it leaves with the next write or with a flush.
    /// Invariant: at most `REST_BYTES_MAX` long.
    rest: Vec<u8>,
    /// Plaintext bytes in `session` that the kernel does not have.
    waiting: usize,
    /// Bytes that a former hyper connection had read too far; they come first.
    rewound: Bytes,
    /// Follows what an HTTP/2 peer sends.
    frames: Option<Box<Frames>>,
    /// Follows the heads that hyper reads; none while nothing of a request is under way.
    heads: Option<Box<Heads>>,
    /// How hyper refused a head; it believes that this was sent.
    refusal: Option<StatusCode>,
    /// The last write was taken in part, or not at all.
    cut: bool,
}

impl Tls {
    /// Whether the peer chose HTTP/2 (ALPN, RFC 7301).
    pub(super) fn chose_http2(&self) -> bool {
        self.session.alpn_protocol() == Some(b"h2")
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        loop {
            ready!(self.poll_out(cx)).map_err(|_| Failed::Closed)?;
            if !self.session.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            match ready!(self.poll_in(cx)) {
                Ok(0) => return Poll::Ready(Err(Failed::Closed)),
                Ok(_) => {}
                Err(error) => {
                    let _ = self.poll_out(cx); // the alert that says why
                    return Poll::Ready(Err(reason(&error)));
                }
            }
        }
    }

    /// Reads and decrypts; 0 is the end. An error of rustls comes as `InvalidData`.
    fn poll_in(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match self.session.read_tls(&mut Now { socket: &mut self.socket, cx }) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
            Err(error) => return Poll::Ready(Err(error)),
            Ok(0) => return Poll::Ready(Ok(0)),
            Ok(_) => {}
        }
        let decrypted = self.session.process_new_packets();
        Poll::Ready(decrypted.map(|_| 1).map_err(|cause| io::Error::new(io::ErrorKind::InvalidData, cause)))
    }

    /// Writes what is encrypted to the kernel, up to 64 records a call.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut Now { socket: &mut self.socket, cx }) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
                Ok(n) => self.waiting = self.waiting.saturating_sub(n),
            }
        }
        self.waiting = 0;
        Poll::Ready(Ok(()))
    }

    /// Encrypts the rest and of `slices` what there is room for; says how much of them was taken. Only full
    /// records, and the last one too unless it is so short that it can wait for company.
    fn encrypt(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        let total = self.rest.len() + offered;
        let room = WAITING_BYTES_MAX.saturating_sub(self.waiting);
        let short = total % RECORD_BYTES;
        let now = match total <= room {
            true if short > REST_BYTES_MAX => total,
            true => total - short,
            false => room - room % RECORD_BYTES,
        };
        let mut taken = 0;
        if now > 0 {
            taken = now - self.rest.len(); // a full record is longer than any rest
            let mut parts = Parts::new(&self.rest);
            parts.add(slices, taken);
            if self.session.writer().write_vectored(parts.slices())? != now {
                return Err(io::Error::other("rustls took less than it has room for"));
            }
            self.waiting += now;
            self.rest.clear();
        }
        if self.rest.len() + offered - taken <= REST_BYTES_MAX {
            copy_from(slices, taken, &mut self.rest);
            taken = offered;
        }
        Ok(taken)
    }

    fn encrypt_rest(&mut self) -> io::Result<()> {
        if !self.rest.is_empty() {
            self.waiting += self.rest.len();
            self.session.writer().write_all(&self.rest)?;
            self.rest.clear();
        }
        Ok(())
    }

    /// Resolves when there is something to read, be it the end.
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let nothing_read = || io::ErrorKind::WouldBlock;
        let waits = self.session.reader().fill_buf().is_err_and(|error| error.kind() == nothing_read());
        if waits && self.rewound.is_empty() { self.socket.is_readable(cx) } else { Poll::Ready(Ok(())) }
    }

    fn poll_flush_all(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.encrypt_rest()?;
        self.poll_out(cx)
    }
}

/// The slices of one write: hyper and h2 offer few, and never more than this many matter.
const PARTS_MAX: usize = 18;

struct Parts<'a> {
    slices: [IoSlice<'a>; PARTS_MAX],
    used: usize,
}

impl<'a> Parts<'a> {
    fn new(first: &'a [u8]) -> Parts<'a> {
        let mut parts = Parts { slices: [IoSlice::new(&[]); PARTS_MAX], used: 0 };
        parts.push(first);
        parts
    }

    fn push(&mut self, slice: &'a [u8]) {
        if !slice.is_empty() {
            self.slices[self.used] = IoSlice::new(slice);
            self.used += 1;
        }
    }

    /// Adds the first `bytes` of `slices`.
    fn add(&mut self, slices: &'a [IoSlice<'_>], mut bytes: usize) {
        for slice in slices {
            let n = slice.len().min(bytes);
            self.push(&slice[..n]);
            bytes -= n;
        }
    }

    fn slices(&self) -> &[IoSlice<'a>] {
        &self.slices[..self.used]
    }
}

/// Appends what comes after the first `skip` bytes of `slices`.
fn copy_from(slices: &[IoSlice<'_>], mut skip: usize, into: &mut Vec<u8>) {
    for slice in slices {
        let n = slice.len().min(skip);
        into.extend_from_slice(&slice[n..]);
        skip -= n;
    }
}

/// The socket for rustls, which wants to read and write without waiting.
struct Now<'a, 'b> {
    socket: &'a mut Socket,
    cx: &'a mut Context<'b>,
}

fn now<T>(polled: Poll<io::Result<T>>) -> io::Result<T> {
    match polled {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

impl io::Read for Now<'_, '_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(into);
        now(self.socket.poll_receive(self.cx, &mut buffer))?;
        Ok(buffer.filled().len())
    }
}

impl io::Write for Now<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        now(self.socket.poll_send(self.cx, slices))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Tls {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, mut into: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let tls = self.get_mut();
        if !tls.rewound.is_empty() {
            let n = tls.rewound.len().min(into.remaining());
            into.put_slice(&tls.rewound.split_to(n)); // hyper has had them before: they were followed then
            return Poll::Ready(Ok(()));
        }
        loop {
            let mut reader = tls.session.reader();
            match reader.fill_buf() {
                Ok(plain) => {
                    let n = plain.len().min(into.remaining());
                    into.put_slice(&plain[..n]);
                    match &mut tls.frames {
                        Some(frames) => frames.on_bytes(&plain[..n], tls.socket.watched()),
                        None => follow(&mut tls.heads, &plain[..n], tls.socket.watched()),
                    }
                    reader.consume(n);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Gone without a goodbye: many clients are like that, and a request knows its own length.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Poll::Ready(Ok(())),
                Err(error) => return Poll::Ready(Err(error)),
            }
            let read = tls.poll_in(cx);
            if read.is_ready() && tls.session.wants_write() {
                let _ = tls.poll_out(cx)?; // an alert or new keys; the next flush tries again
            }
            ready!(read)?;
        }
    }
}

impl Write for Tls {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    /// Encrypts what there is room for. The kernel gets it when four records wait, or at a flush.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let tls = self.get_mut();
        let slices = &slices[..slices.len().min(PARTS_MAX - 1)];
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        if offered == 0 {
            return Poll::Ready(Ok(0));
        }
        // As in `Socket`.
        if tls.frames.is_none()
            && !matches!(tls.socket.watched().phase(), Phase::Busy | Phase::Flushing)
            && let Some(status) = reply::unreadable(&slices[0])
        {
            tls.refusal = Some(status);
            return Poll::Ready(Ok(offered));
        }
        tls.cut = true;
        loop {
            if tls.waiting >= WAITING_BYTES_MAX {
                ready!(tls.poll_out(cx))?;
            }
            let n = tls.encrypt(slices)?;
            if n > 0 {
                tls.cut = n < offered;
                tls.socket.tally().add_encrypted(n);
                return Poll::Ready(Ok(n));
            }
            tls.waiting = WAITING_BYTES_MAX; // no room for a whole record: make some
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let tls = self.get_mut();
        if tls.frames.is_some() {
            return Poll::Ready(Ok(())); // h2 flushes after each frame; see `poll_settle`
        }
        ready!(tls.poll_flush_all(cx))?;
        Pin::new(&mut tls.socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let tls = self.get_mut();
        if tls.refusal.is_some() {
            return Poll::Ready(Ok(()));
        }
        tls.encrypt_rest()?;
        tls.session.send_close_notify(); // once, however often it is asked for
        ready!(tls.poll_out(cx))?;
        Pin::new(&mut tls.socket).poll_shutdown(cx)
    }
}

impl Wire for Tls {
    async fn rest<S: Service>(&mut self, watched: &Watched, _: SocketAddr, _: &Core<S>) -> Next {
        if watched.phase() == Phase::Idle {
            watched.enter(Phase::Parked);
        }
        poll_fn(|cx| match watched.verdict(cx) {
            Verdict::Close | Verdict::Drain => Poll::Ready(Next::Over),
            Verdict::Go | Verdict::Park => self.poll_readable(cx).map(|ready| match ready {
                Ok(()) => Next::Hyper,
                Err(_) => Next::Over,
            }),
        })
        .await
    }

    fn rewind(&mut self, bytes: Bytes) {
        self.rewound = bytes;
        self.socket.watched().on_read();
    }

    fn take_refusal(&mut self) -> Option<StatusCode> {
        self.refusal.take()
    }

    fn reset_on_close(&self) {
        self.socket.reset_on_close();
    }

    fn last_word(&mut self, bytes: &[u8]) {
        struct Try<'a>(&'a Socket);
        impl io::Write for Try<'_> {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.try_send(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        if !self.cut && self.encrypt_rest().is_ok() && self.session.writer().write_all(bytes).is_ok() {
            self.session.send_close_notify();
            while self.session.wants_write() && self.session.write_tls(&mut Try(&self.socket)).is_ok_and(|n| n > 0) {}
        }
    }

    fn multiplex(&mut self) {
        self.frames = Some(Box::new(Frames::new()));
    }

    fn poll_settle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush_all(cx)
    }
}

fn reason(error: &io::Error) -> Failed {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<TlsError>());
    match cause {
        Some(TlsError::InvalidMessage(_)) => Failed::NotTls,
        Some(TlsError::PeerIncompatible(_) | TlsError::NoApplicationProtocol) => Failed::Incompatible,
        Some(TlsError::AlertReceived(_)) => Failed::Refused,
        Some(_) => Failed::Broken,
        None => Failed::Closed,
    }
}

/// `notAfter` of a certificate, in seconds since 1970 (RFC 5280 §4.1.2.5); `None` when it is not where it
/// belongs.
fn not_after_unix_s(certificate: &[u8]) -> Option<u64> {
    const SEQUENCE: u8 = 0x30;
    const VERSION: u8 = 0xa0;
    let (certificate, _) = element(certificate, SEQUENCE)?;
    let (mut fields, _) = element(certificate, SEQUENCE)?;
    if let Some((_, rest)) = element(fields, VERSION) {
        fields = rest;
    }
    for tag in [0x02, SEQUENCE, SEQUENCE] {
        (_, fields) = element(fields, tag)?; // serial number, algorithm, issuer
    }
    let (validity, _) = element(fields, SEQUENCE)?;
    let (tag, length) = (*validity.first()?, usize::from(*validity.get(1)?));
    element(validity, tag)?;
    time_unix_s(validity.get(2 + length..)?)
}

/// The content of the DER element at the front, which must have `tag`, and what comes after it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, first], rest) = der.split_first_chunk()?;
    let (length, rest) = match first {
        short @ ..=0x7f => (usize::from(short), rest),
        0x80 => return None, // no length: not DER
        0x81 => (usize::from(*rest.first()?), &rest[1..]),
        0x82 => (usize::from(u16::from_be_bytes(*rest.first_chunk()?)), &rest[2..]),
        _ => return None, // no certificate is that long
    };
    (found == tag).then(|| rest.split_at_checked(length)).flatten()
}

/// `YYMMDDHHMMSSZ` (up to 2049) or `YYYYMMDDHHMMSSZ`.
fn time_unix_s(der: &[u8]) -> Option<u64> {
    const UTC_TIME: u8 = 0x17;
    const GENERALIZED_TIME: u8 = 0x18;
    let text = match element(der, UTC_TIME) {
        Some((text, _)) => std::str::from_utf8(text).ok().map(|text| {
            let century = if text < "50" { "20" } else { "19" };
            format!("{century}{text}")
        }),
        None => std::str::from_utf8(element(der, GENERALIZED_TIME)?.0).ok().map(str::to_owned),
    }?;
    let digits = text.strip_suffix('Z').filter(|digits| digits.len() == 14)?;
    let number = |range: std::ops::Range<usize>| digits.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(4..6)?, number(6..8)?);
    // Days since 1970, counted in years that begin in March, so that the leap day is a year's last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    let seconds = days * 86_400 + number(8..10)? * 3_600 + number(10..12)? * 60 + number(12..14)?;
    u64::try_from(seconds).ok()
}
