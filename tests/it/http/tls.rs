//! TLS: both protocols over both versions, resumption, a new certificate under way, and peers that do it wrong.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use segue::server::Limits;
use segue::server::tls::{Certificate, Reload};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{
    CipherSuite, ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion, crypto::CryptoProvider,
};

use super::bench::{Bench, Client, Reply, SEGMENT_BYTES, Setup};
use super::h2::{ask, block_on, cases, comparable};
use super::limits::impatient;
use crate::support::until;

/// A certificate and its key in files.
struct Pair {
    directory: tempfile::TempDir,
}

impl Pair {
    fn new() -> Pair {
        let pair = Pair { directory: tempfile::tempdir().unwrap() };
        pair.renew("media.example");
        pair
    }

    fn chain(&self) -> PathBuf {
        self.directory.path().join("chain.pem")
    }

    fn key(&self) -> PathBuf {
        self.directory.path().join("key.pem")
    }

    /// Writes a new pair over the old one.
    fn renew(&self, name: &str) -> CertificateDer<'static> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2049, 12, 31);
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(self.chain(), certificate.pem()).unwrap();
        std::fs::write(self.key(), key.serialize_pem()).unwrap();
        certificate.der().clone()
    }

    fn load(&self) -> Arc<Certificate> {
        Certificate::load(&self.chain(), &self.key()).unwrap()
    }

    fn root(&self) -> CertificateDer<'static> {
        use tokio_rustls::rustls::pki_types::pem::PemObject as _;
        CertificateDer::from_pem_file(self.chain()).unwrap()
    }
}

struct Served {
    bench: Bench,
    pair: Pair,
    certificate: Arc<Certificate>,
}

fn serve(setup: Setup) -> Served {
    let pair = Pair::new();
    let certificate = pair.load();
    let bench = Bench::with(Setup { certificate: Some(certificate.clone()), ..setup });
    Served { bench, pair, certificate }
}

/// A client that trusts `root` and speaks these versions and protocols.
fn client(
    root: CertificateDer<'static>,
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[&str],
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(root).unwrap();
    let provider: CryptoProvider = aws_lc_rs::default_provider();
    let mut config = ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

impl Served {
    async fn connect(&self, config: &Arc<ClientConfig>) -> std::io::Result<TlsStream<tokio::net::TcpStream>> {
        self.connect_as(config, "media.example").await
    }

    async fn connect_as(
        &self,
        config: &Arc<ClientConfig>,
        name: &'static str,
    ) -> std::io::Result<TlsStream<tokio::net::TcpStream>> {
        let address = self.bench.handle.as_ref().unwrap().tls_addr().unwrap();
        let stream = tokio::net::TcpStream::connect(address).await?;
        TlsConnector::from(config.clone()).connect(ServerName::try_from(name).unwrap(), stream).await
    }

    fn raw(&self) -> Client {
        Client::to(self.bench.handle.as_ref().unwrap().tls_addr().unwrap())
    }

    fn encrypted(&self) -> u64 {
        self.bench.handle.as_ref().unwrap().socket_bytes().encrypted
    }
}

/// One request over HTTP/1.1 on `stream`, read to the end.
async fn ask_http1(stream: &mut TlsStream<tokio::net::TcpStream>, method: &str, path: &str, lines: &str) -> Reply {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let request = format!("{method} {path} HTTP/1.1\r\nHost: test\r\n{lines}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = vec![];
    let end = loop {
        match bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            Some(at) => break at,
            None => assert!(stream.read_buf(&mut bytes).await.unwrap() > 0, "the connection ended"),
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut body = bytes.split_off(end + 4);
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let header = |line: &str| {
        let (name, value) = line.split_once(": ").unwrap();
        (name.to_ascii_lowercase(), value.to_owned())
    };
    let mut reply = Reply { status, headers: lines.map(header).collect(), body: vec![] };
    let bodiless = method == "HEAD" || matches!(status, 204 | 304);
    let length = if bodiless { 0 } else { reply.header("content-length").unwrap().parse().unwrap() };
    while body.len() < length {
        assert!(stream.read_buf(&mut body).await.unwrap() > 0, "the connection ended");
    }
    assert_eq!(body.len(), length);
    reply.body = body;
    reply
}

#[test]
fn both_protocols_answer_over_tls_as_they_do_without() {
    let served = serve(Setup::default());
    let cases = cases(&served.bench);
    for version in [&TLS12, &TLS13] {
        let with_h2 = client(served.pair.root(), &[version], &["h2", "http/1.1"]);
        let without = client(served.pair.root(), &[version], &[]);
        for (method, path, lines) in &cases {
            let plain = served.bench.request(method, path, lines);
            let (new, old) = block_on(async {
                let stream = served.connect(&with_h2).await.unwrap();
                assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
                let new = ask(stream, method, path, lines).await.unwrap();
                let mut stream = served.connect(&without).await.unwrap();
                let session = stream.get_ref().1;
                assert_eq!(session.protocol_version(), Some(version.version));
                let cipher = session.negotiated_cipher_suite().unwrap().suite();
                assert!(format!("{cipher:?}").contains("AES_128_GCM"), "{cipher:?}");
                (new, ask_http1(&mut stream, method, path, lines).await)
            });
            for reply in [&new, &old] {
                assert_eq!(reply.status, plain.status, "{method} {path:.80} {lines}");
                assert_eq!(comparable(reply), comparable(&plain), "{method} {path:.80} {lines}");
                assert!(reply.body == plain.body, "{method} {path:.80} {lines}");
            }
        }
    }
    assert!(served.encrypted() > 4 * 1_500_000, "what leaves encrypted is counted");
}

#[test]
fn crooked_heads_are_refused_over_tls_as_without() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let served = serve(Setup::default());
    let config = client(served.pair.root(), &[&TLS13], &[]);
    let path = served.bench.a("aac/96/00001.mp4");
    let good = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    let crooked = |line: &str, lines: &str| format!("{line}\r\nHost: x\r\n{lines}\r\n");
    for (what, status) in [
        (crooked(&format!("GET {path} HTTP/1.2"), "Connection: close\r\n"), "200 OK"),
        (crooked(&format!("GET {path} HTTP/2.0"), ""), "505 HTTP Version Not Supported"),
        (crooked(&format!("GET {path}#x HTTP/1.1"), ""), "400 Bad Request"),
        (crooked(&format!("GET {path} HTTP/1.1"), "Content-Length: 5\r\nContent-Length: 5\r\n"), "400 Bad Request"),
        (crooked(&format!("GET {path} HTTP/1.1"), "Content-Length: 18446744073709551615\r\n"), "400 Bad Request"),
        (crooked("GET  / HTTP/1.1", ""), "400 Bad Request"),
    ] {
        for before in ["", &good] {
            let answer = block_on(async {
                let mut stream = served.connect(&config).await.unwrap();
                stream.write_all(format!("{before}{what}").as_bytes()).await.unwrap();
                let mut answer = vec![];
                let _ = stream.read_to_end(&mut answer).await; // reset once everything has been said, perhaps
                String::from_utf8_lossy(&answer).into_owned()
            });
            let last = &answer[answer.rfind("HTTP/1.1 ").expect("an answer")..];
            assert!(last.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{what}: {last:.300}");
            let lower = last.to_ascii_lowercase();
            assert!(lower.contains("x-content-type-options: nosniff") && lower.contains("connection: close"), "{what}");
        }
    }
}

#[test]
fn a_client_that_only_knows_chacha_gets_it() {
    let served = serve(Setup::default());
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|suite| suite.suite() == CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
    let mut roots = RootCertStore::empty();
    roots.add(served.pair.root()).unwrap();
    let config = ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let path = served.bench.a("aac/96/00000.mp4");
    let reply = block_on(async {
        let mut stream = served.connect(&Arc::new(config)).await.unwrap();
        ask_http1(&mut stream, "GET", &path, "").await
    });
    assert_eq!(reply.expect(200).body.len(), SEGMENT_BYTES);
}

#[test]
fn a_session_is_resumed_on_any_core_and_after_a_reload() {
    for version in [&TLS12, &TLS13] {
        let served = serve(Setup { cores: 2, ..Setup::default() });
        let config = client(served.pair.root(), &[version], &[]);
        let path = served.bench.a("aac/96/00001.mp4");
        let connect = || {
            block_on(async {
                let mut stream = served.connect(&config).await.unwrap();
                ask_http1(&mut stream, "GET", &path, "").await.expect(200);
                stream.get_ref().1.handshake_kind().unwrap()
            })
        };
        assert_eq!(connect(), HandshakeKind::Full);
        for _ in 0..8 {
            assert_eq!(connect(), HandshakeKind::Resumed, "{version:?}"); // some of them on the other core
        }
        served.pair.renew("media.example");
        assert_eq!(served.certificate.reload(true).unwrap(), Reload::Changed);
        assert_eq!(connect(), HandshakeKind::Resumed, "{version:?} after a reload");
    }
}

#[test]
fn a_new_certificate_is_shown_to_new_connections_and_open_ones_go_on() {
    let served = serve(Setup::default());
    let path = served.bench.a("aac/96/00001.mp4");
    let shown = |stream: &TlsStream<_>| stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    let old = served.pair.root();
    let old_client = client(old.clone(), &[&TLS13], &[]);
    block_on(async {
        let mut open = served.connect(&old_client).await.unwrap();
        assert_eq!(shown(&open), old);
        assert_eq!(served.certificate.reload(false).unwrap(), Reload::Unchanged);
        let new = served.pair.renew("other.example");
        // Written a moment ago: perhaps not whole yet.
        assert_eq!(served.certificate.reload(false).unwrap(), Reload::Unchanged);
        assert_eq!(served.certificate.reload(false).unwrap(), Reload::Changed);
        assert_eq!(served.certificate.reload(false).unwrap(), Reload::Unchanged);
        ask_http1(&mut open, "GET", &path, "").await.expect(200);
        let fresh = client(new.clone(), &[&TLS13], &[]);
        let stream = served.connect_as(&fresh, "other.example").await.unwrap();
        assert_eq!(shown(&stream), new);
        // Another name: the same certificate, and it is the client who refuses it.
        assert!(served.connect_as(&fresh, "media.example").await.is_err());

        // Broken in three ways: the last good one is shown on.
        let key = std::fs::read(served.pair.key()).unwrap();
        let stranger = Pair::new();
        for (file, content, words) in [
            (served.pair.chain(), b"nonsense".to_vec(), "server.tls_cert"),
            (served.pair.key(), b"nonsense".to_vec(), "server.tls_key"),
            (served.pair.key(), std::fs::read(stranger.key()).unwrap(), "do not belong together"),
        ] {
            let before = std::fs::read(&file).unwrap();
            std::fs::write(&file, content).unwrap();
            let error = served.certificate.reload(true).unwrap_err().chain();
            assert!(error.contains(words) && error.contains(file.to_str().unwrap()), "{error}");
            assert_eq!(served.certificate.reload(false).unwrap(), Reload::Unchanged, "said once");
            assert_eq!(shown(&served.connect_as(&fresh, "other.example").await.unwrap()), new);
            std::fs::write(&file, before).unwrap();
        }
        assert_eq!(std::fs::read(served.pair.key()).unwrap(), key);
        ask_http1(&mut open, "GET", &path, "").await.expect(200);
    });
}

#[test]
fn a_certificate_says_until_when_it_is_good() {
    let pair = Pair::new();
    // 2049-12-31 00:00:00 UTC, as UTCTime; a day later it would be GeneralizedTime.
    assert_eq!(pair.load().not_after_unix_s(), Some(2_524_521_600));
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["x.example".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2100, 3, 1);
    std::fs::write(pair.chain(), params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(pair.key(), key.serialize_pem()).unwrap();
    assert_eq!(pair.load().not_after_unix_s(), Some(4_107_542_400));
}

#[test]
fn files_that_are_no_certificate_are_named() {
    let pair = Pair::new();
    let refused = |chain: &Path, key: &Path| Certificate::load(chain, key).unwrap_err().chain();
    let missing = pair.directory.path().join("missing.pem");
    assert!(refused(&missing, &pair.key()).contains("missing.pem"));
    assert!(refused(&pair.chain(), &missing).contains("missing.pem"));
    assert!(refused(&pair.key(), &pair.key()).contains("server.tls_cert"));
    assert!(refused(&pair.chain(), &pair.chain()).contains("server.tls_key"));
}

#[test]
fn what_is_no_handshake_is_ended_and_nobody_else_notices() {
    let limits = Limits { idle_timeout: Duration::from_secs(60), ..impatient() };
    let served = serve(Setup { limits, ..Setup::default() });
    let mut plain = served.raw();
    plain.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    let answer = plain.rest();
    assert!(answer.is_empty() || answer[0] == 21, "at most an alert: {answer:?}");
    let mut silent = served.raw();
    assert!(silent.rest().is_empty(), "no handshake, and no patience");
    let mut halting = served.raw();
    halting.stream.write_all(&[22, 3, 1, 2, 0, 1, 0]).unwrap(); // the head of a ClientHello
    halting.rest();
    let wrong = client(served.pair.root(), &[&TLS13], &["spdy/3"]);
    let right = client(served.pair.root(), &[&TLS13], &["http/1.1"]);
    block_on(async {
        assert!(served.connect(&wrong).await.is_err(), "no protocol in common (RFC 7301 §3.2)");
        let mut stream = served.connect(&right).await.unwrap();
        let path = served.bench.a("aac/96/00001.mp4");
        ask_http1(&mut stream, "GET", &path, "").await.expect(200);
        // Rests without hyper, then is served again.
        tokio::time::sleep(Duration::from_millis(500)).await;
        ask_http1(&mut stream, "GET", &path, "").await.expect(200);
    });
}

#[test]
fn handshakes_at_once_are_bounded() {
    let limits = Limits { handshakes_max: 2, ..Limits::default() };
    let served = serve(Setup { limits, ..Setup::default() });
    let config = client(served.pair.root(), &[&TLS13], &[]);
    let begun = [served.raw(), served.raw()];
    until(|| block_on(served.connect(&config)).is_err()); // two have begun and do not end
    drop(begun);
    until(|| block_on(served.connect(&config)).is_ok());
}

#[test]
fn a_peer_that_stops_reading_encrypted_bytes_is_let_go() {
    let served = serve(Setup { limits: impatient(), ..Setup::default() });
    let config = client(served.pair.root(), &[&TLS13], &[]);
    let path = served.bench.a("flac/00002.mp4");
    block_on(async {
        use tokio::io::AsyncWriteExt as _;
        let mut stream = served.connect(&config).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        stream.write_all(request.repeat(30).as_bytes()).await.unwrap();
        while stream.write_all(b"x").await.is_ok() && stream.flush().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    served.bench.get(&served.bench.a("aac/96/00000.mp4"), "").expect(200);
}

#[test]
fn the_command_serves_tls_and_reloads_on_a_signal() {
    use crate::support::{Server, published};
    let pair = Pair::new();
    let published = published();
    let (chain, key) = (pair.chain(), pair.key());
    let settings = [
        ("SEGUE_SERVER__TLS_LISTEN", "127.0.0.1:0"),
        ("SEGUE_SERVER__TLS_CERT", chain.to_str().unwrap()),
        ("SEGUE_SERVER__TLS_KEY", key.to_str().unwrap()),
    ];
    let server = Server::start(&published.data, &[], &settings);
    let address = server.tls.expect("it says where it listens for TLS");
    let get = |protocol: &str| {
        std::process::Command::new("curl")
            .args(["--silent", "--show-error", "--max-time", "10", "--include", protocol, "--cacert"])
            .arg(pair.chain())
            .args(["--resolve", &format!("media.example:{}:127.0.0.1", address.port())])
            .arg(format!("https://media.example:{}/livez", address.port()))
            .output()
            .unwrap()
    };
    for (protocol, status) in [("--http2", "HTTP/2 200"), ("--http1.1", "HTTP/1.1 200 OK")] {
        let said = get(protocol);
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(text.starts_with(status) && text.ends_with("alive\n"), "{text} {said:?}");
    }
    pair.renew("media.example");
    assert!(!get("--http2").status.success(), "the old certificate is not the one in the file any more");
    server.signal("HUP");
    let reloaded = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        get("--http2").status.success()
    });
    assert!(reloaded, "the new one is shown after the signal");
    let metrics = crate::support::request(server.admin, "GET", "/metrics", &[]).text();
    for line in [
        "segue_tls_handshakes_total{outcome=\"full\"}",
        "segue_tls_reloads_total{outcome=\"changed\"} 1",
        "segue_tls_certificate_not_after_seconds 2524521600",
        "segue_origin_connections_opened_total{protocol=\"h2\"}",
        "segue_origin_connections_opened_total{protocol=\"http1\"}",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}
