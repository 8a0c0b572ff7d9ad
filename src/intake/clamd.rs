//! Asks clamd whether bytes are known to be harmful: its INSTREAM command, over a Unix socket or TCP.
//! (clamd(8), "COMMANDS": `zINSTREAM\0`, then chunks, each with its length in four bytes in network order, then a
//! length of zero; the answer is `stream: OK`, `stream: {signature} FOUND`, or an error.)
//!
//! What clamd cannot look at is not clean: more than its `StreamMaxLength` is an error, and with `AlertExceedsMax` so
//! is more than `MaxFileSize` or `MaxScanSize`, which it would otherwise pass over in silence.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::base::{Error, Kind, Result};

/// Where clamd listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clamd {
    /// Where.
    pub address: Address,
    /// How long it may say or take nothing.
    pub patience: Duration,
}

/// A Unix socket or a TCP address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `/run/clamav/clamd.ctl`.
    Unix(PathBuf),
    /// `host:3310`.
    Tcp(String),
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Address> {
        if text.starts_with('/') {
            return Ok(Address::Unix(text.into()));
        }
        match text.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok() => {
                Ok(Address::Tcp(text.to_owned()))
            }
            _ => Err(Error::usage(format!("{text:?} is not where clamd could be; give /path/of/socket or host:port"))),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "{}", path.display()),
            Address::Tcp(address) => f.write_str(address),
        }
    }
}

/// What clamd said of bytes that it looked at.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing it knows.
    Nothing,
    /// This.
    Signature(String),
}

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// One look, under way.
pub(super) struct Scan {
    wire: Box<dyn Wire>,
    clamd: Clamd,
    sent: u64,
    /// clamd hung up while it was sent to: its answer says why.
    hung_up: bool,
}

/// Bytes of a chunk. Far below any `StreamMaxLength`.
const CHUNK_BYTES: usize = 256 << 10;
/// The longest answer that is read, in bytes: a signature has some tens.
const ANSWER_BYTES_MAX: u64 = 4096;
/// The longest a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);

impl Clamd {
    /// Connects, and says that bytes will follow.
    pub(super) async fn begin(&self) -> Result<Scan> {
        let connect = async {
            Ok::<Box<dyn Wire>, std::io::Error>(match &self.address {
                Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
                Address::Tcp(address) => Box::new(TcpStream::connect(address).await?),
            })
        };
        let late = |_| Error::new(Kind::Unavailable, format!("clamd at {} does not answer", self.address));
        let wire = timeout(CONNECT_MAX, connect).await.map_err(late)?;
        let wire = wire.map_err(|cause| {
            Error::new(Kind::Unavailable, format!("clamd at {} cannot be reached", self.address)).because(cause)
        })?;
        let mut scan = Scan { wire, clamd: self.clone(), sent: 0, hung_up: false };
        scan.write(b"zINSTREAM\0").await?;
        Ok(scan)
    }
}

impl Scan {
    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        for chunk in bytes.chunks(CHUNK_BYTES) {
            self.write(&(chunk.len() as u32).to_be_bytes()).await?;
            self.write(chunk).await?;
            self.sent += chunk.len() as u64;
            if self.hung_up {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.hung_up {
            return Ok(());
        }
        match timeout(self.clamd.patience, self.wire.write_all(bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => {
                self.hung_up = true;
                Ok(())
            }
            Err(_) => Err(self.slow()),
        }
    }

    /// Says that this was all, and waits for the answer.
    pub(super) async fn finish(mut self) -> Result<Found> {
        self.write(&[0; 4]).await?;
        let mut answer = Vec::new();
        let mut wire = (&mut self.wire).take(ANSWER_BYTES_MAX);
        let read = timeout(self.clamd.patience, wire.read_to_end(&mut answer)).await;
        let read = read.map_err(|_| self.slow())?;
        if let Err(cause) = read
            && answer.is_empty()
        {
            let what = format!("clamd at {} broke off after {} bytes", self.clamd.address, self.sent);
            return Err(Error::new(Kind::Unavailable, what).because(cause));
        }
        self.understand(&String::from_utf8_lossy(&answer))
    }

    fn understand(&self, answer: &str) -> Result<Found> {
        let answer = answer.trim_end_matches(['\0', '\n']).trim();
        let (at, sent) = (&self.clamd.address, self.sent);
        let body = answer.strip_prefix("stream: ").unwrap_or(answer);
        if body == "OK" {
            return Ok(Found::Nothing);
        }
        match body.strip_suffix(" FOUND") {
            Some(name) if name.starts_with("Heuristics.Limits.Exceeded") => Err(self.too_small(name)),
            Some(name) => Ok(Found::Signature(name.chars().filter(|c| !c.is_control()).take(200).collect())),
            None if body.contains("size limit exceeded") => Err(self.too_small("StreamMaxLength")),
            None => Err(Error::new(
                Kind::Unavailable,
                format!("clamd at {at} answered {:?} after {sent} bytes", body.chars().take(200).collect::<String>()),
            )),
        }
    }

    /// The operator's to mend; the upload waits.
    fn too_small(&self, which: &str) -> Error {
        Error::new(
            Kind::Unavailable,
            format!(
                "clamd at {} looks at less than this file ({which}): raise StreamMaxLength, MaxFileSize and MaxScanSize \
                 in clamd.conf to the largest of the upload limits",
                self.clamd.address
            ),
        )
    }

    fn slow(&self) -> Error {
        let patience_s = self.clamd.patience.as_secs();
        let what =
            format!("clamd at {} moved nothing for {patience_s} s after {} bytes", self.clamd.address, self.sent);
        Error::new(Kind::Unavailable, what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_sockets_or_hosts() {
        let check = |text: &str, address: Option<Address>| assert_eq!(text.parse().ok(), address, "{text}");
        check("/run/clamav/clamd.ctl", Some(Address::Unix("/run/clamav/clamd.ctl".into())));
        check("127.0.0.1:3310", Some(Address::Tcp("127.0.0.1:3310".into())));
        for bad in ["", "clamd", "host:", ":3310", "host:99999", "tcp://host:3310"] {
            check(bad, None);
        }
    }

    #[tokio::test]
    async fn answers_are_understood_and_strange_ones_are_not_clean() {
        let (wire, _other) = tokio::io::duplex(16);
        let clamd = Clamd { address: Address::Tcp("c:1".into()), patience: Duration::from_secs(1) };
        let scan = Scan { wire: Box::new(wire), clamd, sent: 7, hung_up: false };
        assert_eq!(scan.understand("stream: OK\0").unwrap(), Found::Nothing);
        assert_eq!(scan.understand("stream: Eicar-Test FOUND\0").unwrap(), Found::Signature("Eicar-Test".into()));
        for strange in [
            "",
            "INSTREAM size limit exceeded. ERROR\0",
            "stream: Heuristics.Limits.Exceeded.MaxFileSize FOUND",
            "COMMAND UNAVAILABLE",
        ] {
            assert_eq!(scan.understand(strange).unwrap_err().kind(), Kind::Unavailable, "{strange}");
        }
    }
}
