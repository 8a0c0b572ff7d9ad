//! The workbench: a published version made by hand, a server over it, and a client that hides nothing.

use std::collections::HashMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use segue::base::clock::Clock;
use segue::base::hex;
use segue::base::id::VersionId;
use segue::base::secret::Secret;
use segue::base::shutdown::{self, Phase, Trigger};
use segue::cdn::Verifier;
use segue::cdn::bunny::{self, Key, Keys};
use segue::hls::version::{Extra, Family, Object, Role, Rung, Segment, Slice, Source, VersionIndex, digest128};
use segue::origin::{self, Origin};
use segue::server::handover::Handover;
use segue::server::tls::Certificate;
use segue::server::{self, IoMode};
use segue::store::local::LocalStore;
use sha2::{Digest as _, Sha256};

pub(crate) const TRACK: &str = "trk_0000000000000000test";
pub(crate) const KEY: &str = "SecurityKey";
/// The server's clock: Bunny's vectors expire soon after.
pub(crate) const NOW_S: u64 = 1_800_000_000;
/// The first segment of every rung: 200 KiB, as six seconds of 256 kbit/s.
pub(crate) const SEGMENT_BYTES: usize = 200 << 10;

/// Bytes that differ from place to place.
pub(crate) fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..bytes).map(next).collect()
}

/// A published version on disk, and what is in it.
pub(crate) struct Published {
    pub(crate) version: VersionId,
    pub(crate) index: VersionIndex,
    /// Whole files by name.
    pub(crate) files: HashMap<String, Vec<u8>>,
}

impl Published {
    /// Publishes two AAC rungs, a FLAC rung, a preview and two waveforms below `root`.
    pub(crate) fn below(root: &Path) -> Published {
        let mut files = HashMap::new();
        let mut rung = |family: Family, name: &str, file: &str, seed| {
            let slices = [700, SEGMENT_BYTES, 3_000, 1_500_000].map(|bytes| noise(seed + bytes as u64, bytes));
            let whole = slices.concat();
            let segments = slices[1..].iter().map(|slice| Segment {
                bytes: slice.len() as u64,
                ticks: 266_240,
                hash: digest128(slice),
            });
            let rung = Rung {
                family,
                name: name.into(),
                codecs: if family == Family::Aac { "mp4a.40.2".into() } else { "fLaC".into() },
                rate: 44_100,
                channels: 2,
                bits: 16,
                nominal_bps: 96_000,
                peak_bps: 100_000 + seed,
                average_bps: 97_000 + seed,
                priming: 1024,
                padding: 0,
                samples: 3 * 266_240,
                alignment: 1, // so that segments begin inside pages too
                init: Slice { bytes: 700, hash: digest128(&slices[0]) },
                segments: segments.collect(),
                object: object(file, &whole),
            };
            files.insert(file.to_owned(), whole);
            rung
        };
        let rungs = vec![
            rung(Family::Aac, "96", "aac-96.mp4", 1),
            rung(Family::Aac, "256", "aac-256.mp4", 2),
            rung(Family::Flac, "", "flac.mp4", 3),
        ];
        let extras = [
            (Role::Preview, "preview.m4a", noise(7, 50_000)),
            (Role::Peaks, "peaks.bin", noise(8, 9_000)),
            (Role::PeaksSmall, "peaks.json", format!("[{}]", ["0,1,2"; 300].join(",")).into_bytes()),
        ];
        let extras = extras.map(|(role, name, bytes)| {
            let object = object(name, &bytes);
            files.insert(name.to_owned(), bytes);
            Extra { role, object }
        });
        let source = Source {
            layout: None,
            sha256: "0".repeat(64),
            codec: "FLAC".into(),
            rate: 44_100,
            channels: 2,
            bits: 16,
            samples: 3 * 266_240,
        };
        let encoders = vec!["test".into()];
        let index = VersionIndex {
            format: 1,
            source,
            encoders,
            loudness: None,
            gating: None,
            rungs,
            video: None,
            skipped: vec![],
            preview: None,
            extras: extras.into(),
        };
        let (document, version) = index.seal();
        let directory = root.join("v").join(TRACK).join(version.to_string());
        fs::create_dir_all(&directory).unwrap();
        for (name, bytes) in &files {
            fs::write(directory.join(name), bytes).unwrap();
        }
        fs::write(directory.join("version.json"), document).unwrap();
        Published { version, index, files }
    }

    /// `/{space}/{track}/{version}/{rest}`.
    pub(crate) fn path(&self, space: &str, rest: &str) -> String {
        format!("/{space}/{TRACK}/{}/{rest}", self.version)
    }

    /// The bytes of segment `number` of the rung in `file`.
    pub(crate) fn segment(&self, file: &str, number: usize) -> &[u8] {
        let rung = self.index.rungs.iter().find(|rung| rung.object.name == file).unwrap();
        let start = rung.offsets().nth(number).unwrap() as usize;
        &self.files[file][start..start + rung.segments[number].bytes as usize]
    }
}

fn object(name: &str, bytes: &[u8]) -> Object {
    Object { name: name.into(), bytes: bytes.len() as u64, sha256: hex::encode(&Sha256::digest(bytes)) }
}

/// A server over one published version; stops when dropped.
pub(crate) struct Bench {
    pub(crate) published: Published,
    pub(crate) clock: Clock,
    pub(crate) trigger: Option<Trigger>,
    pub(crate) handle: Option<server::Handle>,
    pub(crate) address: SocketAddr,
    pub(crate) directory: tempfile::TempDir,
}

/// What differs from a default server.
pub(crate) struct Setup {
    pub(crate) origin: origin::Options,
    pub(crate) limits: server::Limits,
    pub(crate) io: IoMode,
    pub(crate) cores: usize,
    pub(crate) handover: Option<Handover>,
    pub(crate) verifier: Verifier,
    pub(crate) certificate: Option<Arc<Certificate>>,
}

impl Default for Setup {
    fn default() -> Setup {
        let open = origin::Options { require_token: false, ..origin::Options::default() };
        Setup {
            origin: open,
            limits: server::Limits::default(),
            io: IoMode::Auto,
            cores: 1,
            handover: None,
            verifier: keys().into(),
            certificate: None,
        }
    }
}

impl Bench {
    /// A server that asks for no tokens, with defaults.
    pub(crate) fn open() -> Bench {
        Bench::with(Setup::default())
    }

    pub(crate) fn with(setup: Setup) -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let published = Published::below(directory.path());
        let clock = Clock::sim(NOW_S);
        let store = LocalStore::open(directory.path()).unwrap();
        let origin = Origin::new(setup.origin, store, setup.verifier, clock.clone()).unwrap();
        let (trigger, shutdown) = shutdown::channel();
        let any_port = "127.0.0.1:0".parse().unwrap();
        let options = server::Options {
            cores: setup.cores,
            io: setup.io,
            limits: setup.limits,
            tls: setup.certificate.map(|certificate| server::Tls { listen: any_port, certificate }),
            ..server::Options::new(any_port)
        };
        let handle = server::start(&options, origin, setup.handover, &shutdown).unwrap();
        let address = handle.local_addr();
        Bench { published, clock, trigger: Some(trigger), handle: Some(handle), address, directory }
    }

    pub(crate) fn connect(&self) -> Client {
        Client::to(self.address)
    }

    /// GET with extra header lines, on a connection of its own.
    pub(crate) fn get(&self, path: &str, lines: &str) -> Reply {
        self.connect().request("GET", path, lines)
    }

    pub(crate) fn request(&self, method: &str, path: &str, lines: &str) -> Reply {
        self.connect().request(method, path, lines)
    }

    /// A path with a token in front that opens everything below `directory`.
    pub(crate) fn signed(&self, directory: &str, path: &str) -> String {
        bunny::sign_directory(&key(KEY), directory, NOW_S + 60) + path
    }

    /// `/a/{track}/{version}/{rest}`.
    pub(crate) fn a(&self, rest: &str) -> String {
        self.published.path("a", rest)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(trigger) = &self.trigger {
            trigger.advance(Phase::Now);
        }
        if let Some(handle) = self.handle.take() {
            handle.join().unwrap();
        }
    }
}

pub(crate) fn key(text: &str) -> Key {
    Key::new(&Secret::new(text.as_bytes())).unwrap()
}

pub(crate) fn keys() -> Keys {
    Keys::new(key(KEY), None)
}

/// A raw connection.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// Names in lower case, in order.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(known, _)| known == name);
        let first = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "{name} comes once");
        first
    }

    #[track_caller]
    pub(crate) fn expect(&self, status: u16) -> &Reply {
        assert_eq!(
            self.status,
            status,
            "{:?} {}",
            self.headers,
            String::from_utf8_lossy(&self.body[..self.body.len().min(200)])
        );
        self
    }
}

impl From<TcpStream> for Client {
    fn from(stream: TcpStream) -> Client {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        Client { stream, buffer: vec![] }
    }
}

impl Client {
    pub(crate) fn to(address: SocketAddr) -> Client {
        TcpStream::connect(address).unwrap().into()
    }

    pub(crate) fn send(&mut self, text: &str) -> &mut Client {
        // A server may close on us; the reply, or its absence, tells.
        let _ = self.stream.write_all(text.as_bytes());
        self
    }

    pub(crate) fn request(&mut self, method: &str, path: &str, lines: &str) -> Reply {
        self.send(&format!("{method} {path} HTTP/1.1\r\nHost: test\r\n{lines}\r\n"));
        self.reply(method == "HEAD").expect("a reply")
    }

    /// The next reply, by its Content-Length; `None` when the connection ends first.
    pub(crate) fn reply(&mut self, head_only: bool) -> Option<Reply> {
        let end = loop {
            match self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                Some(at) => break at,
                None => self.more()?,
            }
        };
        let head = String::from_utf8(self.buffer[..end].to_vec()).unwrap();
        self.buffer.drain(..end + 4);
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let header = |line: &str| {
            let (name, value) = line.split_once(':').unwrap();
            (name.to_ascii_lowercase(), value.trim().to_owned())
        };
        let mut reply = Reply { status, headers: lines.map(header).collect(), body: vec![] };
        assert_eq!(reply.header("transfer-encoding"), None, "never chunked");
        let bodiless = head_only || matches!(status, 204 | 304);
        let length = if bodiless { 0 } else { reply.header("content-length").unwrap().parse().unwrap() };
        while self.buffer.len() < length {
            self.more()?;
        }
        reply.body = self.buffer.drain(..length).collect();
        Some(reply)
    }

    /// Everything until the connection ends.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        while self.more().is_some() {}
        std::mem::take(&mut self.buffer)
    }

    fn more(&mut self) -> Option<()> {
        let mut part = [0; 64 << 10];
        match self.stream.read(&mut part) {
            Ok(0) => None,
            Ok(n) => {
                self.buffer.extend_from_slice(&part[..n]);
                Some(())
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("the server is silent"),
            Err(_) => None,
        }
    }
}
