//! The servers that are compared, each started on the measured core with the same objects to serve.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use segue::base::id::{TrackId, VersionId};
use segue::base::secret::Secret;
use segue::cdn::bunny::{self, Key};

use crate::http::{self, Answer};
use crate::process::Process;
use crate::rows::{Ask, Protocol, SMALL_PATH, Space};
use crate::tls::{CIPHER, Tls};
use crate::tree::Tree;
use crate::{Outcome, curl};

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Who {
    /// This repository's release binary: tokens verified, metrics on.
    Segue,
    /// nginx as a good administrator sets it up for static files; it checks no token.
    Nginx,
    /// The C loop of floor.c, which parses nothing.
    Floor,
}

impl Who {
    /// The name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Who::Segue => "segue",
            Who::Nginx => "nginx",
            Who::Floor => "C floor",
        }
    }
}

/// A running server.
pub(crate) struct Peer {
    /// Which one.
    pub(crate) who: Who,
    /// Its process.
    pub(crate) process: Process,
    /// Its port on the loopback for HTTP/1.1.
    pub(crate) port: u16,
    /// Its port for HTTP/2 by prior knowledge, which may be the same.
    h2c_port: u16,
    /// Its port for TLS, where it speaks both protocols.
    tls_port: u16,
    /// What stands in front of a path in `/a/…` and in `/d/…`: a token, or nothing.
    tokens: [String; 2],
}

impl Peer {
    /// The path of a request, token included.
    pub(crate) fn path(&self, tree: &Tree, ask: &Ask) -> String {
        format!("{}{}", self.tokens[usize::from(ask.space == Space::Download)], ask.bare_path(tree))
    }

    /// The small answer of idle and disturbed listeners.
    pub(crate) fn small_path(&self, tree: &Tree) -> String {
        format!("{}{}{SMALL_PATH}", self.tokens[0], tree.directory(Space::Media))
    }

    /// Scheme, host and port for a protocol.
    pub(crate) fn base(&self, protocol: Protocol) -> String {
        match protocol {
            Protocol::Http1 => format!("http://127.0.0.1:{}", self.port),
            Protocol::H2c => format!("http://127.0.0.1:{}", self.h2c_port),
            Protocol::Tls | Protocol::H2Tls => format!("https://127.0.0.1:{}", self.tls_port),
        }
    }

    /// Whether it speaks a protocol at all, found out by asking.
    pub(crate) fn speaks(&self, protocol: Protocol, scratch: &Path, path: &str) -> bool {
        curl::get(scratch, protocol, &format!("{}{path}", self.base(protocol)), &[]).is_ok_and(|a| a.status == 200)
    }
}

/// A directory for one start of one server: configuration, logs.
fn room(dir: &Path, name: &str) -> Outcome<PathBuf> {
    let room = dir.join(name);
    fs::create_dir_all(&room).map_err(|e| format!("cannot make {}: {e}", room.display()))?;
    Ok(room)
}

const KEY: &str = "a-key-of-the-bench-that-signs-nothing-else";

/// What differs between the segues of a run.
pub(crate) struct Store<'a> {
    /// Its data directory.
    pub(crate) data: &'a Path,
    /// What it is asked for.
    pub(crate) track: TrackId,
    pub(crate) version: VersionId,
    /// Whether it asks for tokens.
    pub(crate) tokens: bool,
    /// Settings of the bucket that it serves, when it does.
    pub(crate) bucket: Option<String>,
}

/// segue as it would run in production on one core: the origin role, tokens required, metrics served.
pub(crate) fn segue(dir: &Path, program: &Path, core: usize, tree: &Tree, tls: &Tls) -> Outcome<Peer> {
    let store = Store { data: &tree.data, track: tree.track, version: tree.version, tokens: true, bucket: None };
    // A segue without TLS refuses the settings by their names, like any that it does not know.
    let (peer, admin_port, _) = match start_segue(dir, program, core, &store, Some(tls)) {
        Err(why) if why.contains("unknown field") => start_segue(dir, program, core, &store, None)?,
        started => started?,
    };
    // What we claim about it, checked: no answer without the token, and a metrics page.
    let bare = http::get(peer.port, &format!("{}{SMALL_PATH}", tree.directory(Space::Media)), &[])?.status;
    if bare != 403 && bare != 401 {
        return Err(format!("segue answers {bare} to a request without a token"));
    }
    if !metrics_page(admin_port)?.contains("# TYPE") {
        return Err("segue's admin listener has no metrics".into());
    }
    Ok(peer)
}

/// Starts segue over any store; also how long it took until it answered.
pub(crate) fn segue_over(dir: &Path, program: &Path, core: usize, store: &Store<'_>) -> Outcome<(Peer, Duration)> {
    start_segue(dir, program, core, store, None).map(|(peer, _, took)| (peer, took))
}

/// The peer, its admin port, and the time from the start to the first answer.
fn start_segue(
    dir: &Path,
    program: &Path,
    core: usize,
    store: &Store<'_>,
    tls: Option<&Tls>,
) -> Outcome<(Peer, u16, Duration)> {
    let Store { data, track, version, tokens, ref bucket } = *store;
    let (port, admin_port, tls_port) = (free_port()?, free_port()?, free_port()?);
    let room = room(dir, &format!("segue-{port}"))?;
    let file = room.join("segue.toml");
    let listen_tls = tls.map_or_else(String::new, |tls| {
        format!("tls_listen = \"127.0.0.1:{tls_port}\"\ntls_cert = {:?}\ntls_key = {:?}\n", tls.certificate, tls.key)
    });
    let configuration = format!(
        "[server]\nidle_timeout_s = 600\n{listen_tls}[origin]\ncores = 1\nrequire_token = {tokens}\n\
         [origin.keys]\nbunny = [\"{KEY}\"]\n{}",
        bucket.as_deref().unwrap_or_default()
    );
    fs::write(&file, configuration).map_err(|e| format!("cannot write {}: {e}", file.display()))?;
    let log = room.join("output.log");
    let mut program = Command::new(program);
    program.arg("serve").arg("--config").arg(&file).arg("--data").arg(data);
    program.args(["--role", "origin", "--listen", &format!("127.0.0.1:{port}")]);
    program.args(["--admin-listen", &format!("127.0.0.1:{admin_port}")]);

    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|e| e.to_string())?;
    let key = Key::new(&Secret::new(KEY.as_bytes())).map_err(|e| e.chain())?;
    let token = |space: Space| match tokens {
        false => String::new(),
        true => {
            let directory = format!("/{}/{track}/{version}/", space.name());
            bunny::sign_directory(&key, &directory, now.as_secs() + 24 * 3600)
        }
    };
    let tokens = [token(Space::Media), token(Space::Download)];
    let master = format!("{}/a/{track}/{version}/master.m3u8", tokens[0]);
    let started = Instant::now();
    let process = Process::start("segue", core, &log, false, &mut program)?;
    let peer = Peer { who: Who::Segue, process, port, h2c_port: port, tls_port, tokens };
    let peer = ready(peer, &master, &log)?;
    Ok((peer, admin_port, started.elapsed()))
}

/// The metrics page. It may be chunked, which `http::get` does not read, so: everything until it closes.
fn metrics_page(port: u16) -> Outcome<String> {
    let mut stream = http::connect(port)?;
    let mut page = String::new();
    let request = format!("GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_string(&mut page)).map_err(|e| e.to_string())?;
    Ok(page)
}

/// What differs between the nginxes of a run.
pub(crate) struct Tuning {
    /// Size of its table of connections.
    pub(crate) connections: u64,
    /// `aio threads`: reads, and `sendfile` with them, leave the event loop. For files that may be cold;
    /// for hot ones it only costs.
    pub(crate) aio: bool,
}

/// nginx as a good administrator sets it up: one worker, sendfile, tcp_nopush, open_file_cache, no log, TLS
/// 1.3 with a session cache, HTTP/2 with large frames; on every path of `paths` the given headers, so that
/// its answers are as long as ours.
pub(crate) fn nginx(
    dir: &Path,
    core: usize,
    tree: &Tree,
    paths: &[(String, Vec<(String, String)>)],
    tls: &Tls,
    tuning: &Tuning,
) -> Outcome<Peer> {
    let room = room(dir, "nginx")?;
    let (port, h2c_port, tls_port) = (free_port()?, free_port()?, free_port()?);
    let mut locations = String::new();
    for (path, headers) in paths {
        locations.push_str(&format!("    location = {path} {{\n      gzip_static on;\n"));
        for (name, value) in headers {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"");
            locations.push_str(&format!("      add_header {name} \"{value}\";\n"));
        }
        locations.push_str("    }\n");
    }
    // Workers of a root master become www-data, which may not enter a private directory.
    let user = if rustix::process::geteuid().is_root() { "user root root;\n" } else { "" };
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("  {kind}_temp_path {}/{kind};\n", room.display()))
        .collect();
    let aio = if tuning.aio { "  aio threads;\n" } else { "" };
    let configuration = format!(
        "{user}daemon off;\nworker_processes 1;\nworker_rlimit_nofile 65536;\npid {room}/pid;\n\
         error_log {room}/error.log warn;\nevents {{ worker_connections {connections}; }}\nhttp {{\n{temporary}\
         \x20 access_log off;\n  sendfile on;\n  tcp_nopush on;\n  tcp_nodelay on;\n  server_tokens off;\n{aio}\
         \x20 open_file_cache max=10000 inactive=10m;\n  open_file_cache_valid 10m;\n\
         \x20 keepalive_timeout 10m;\n  keepalive_requests 1000000000;\n\
         \x20 types {{ audio/mp4 mp4; application/vnd.apple.mpegurl m3u8; }}\n\
         \x20 ssl_certificate {certificate};\n  ssl_certificate_key {key};\n  ssl_protocols TLSv1.3;\n\
         \x20 ssl_conf_command Ciphersuites {CIPHER};\n  ssl_session_cache shared:tls:10m;\n\
         \x20 ssl_session_tickets off;\n  ssl_buffer_size 16k;\n\
         \x20 http2_chunk_size 16k;\n  http2_max_concurrent_streams 128;\n\
         \x20 server {{\n    listen 127.0.0.1:{port} backlog=4096;\n    listen 127.0.0.1:{h2c_port} http2;\n\
         \x20   listen 127.0.0.1:{tls_port} ssl http2;\n    root {files};\n{locations}  }}\n}}\n",
        connections = tuning.connections,
        room = room.display(),
        files = tree.files.display(),
        certificate = tls.certificate.display(),
        key = tls.key.display(),
    );
    let file = room.join("nginx.conf");
    fs::write(&file, configuration).map_err(|e| format!("cannot write {}: {e}", file.display()))?;
    let log = room.join("output.log");
    let mut program = Command::new("nginx");
    program.arg("-e").arg(room.join("error.log")).arg("-p").arg(&room).arg("-c").arg(&file);
    let process = Process::start("nginx", core, &log, true, &mut program)?;
    let probe = paths.first().map(|(path, _)| path.clone()).ok_or("nginx has nothing to serve")?;
    let tokens = [String::new(), String::new()];
    ready(Peer { who: Who::Nginx, process, port, h2c_port, tls_port, tokens }, &probe, &log)
}

/// The floor for one answer: its head and body, byte for byte those of the `answer` another server gave.
pub(crate) fn floor(dir: &Path, core: usize, answer: &Answer) -> Outcome<Peer> {
    let room = room(dir, "floor")?;
    let binary = room.join("floor");
    if !binary.exists() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/origin/floor.c");
        let output = Command::new("cc")
            .args(["-O2", "-o"])
            .arg(&binary)
            .arg(&source)
            .output()
            .map_err(|e| format!("cannot start cc: {e}"))?;
        if !output.status.success() {
            return Err(format!("cannot compile floor.c: {}", String::from_utf8_lossy(&output.stderr)));
        }
    }
    let (head, body) = (room.join("head"), room.join("body"));
    fs::write(&head, &answer.head).and_then(|()| fs::write(&body, &answer.body)).map_err(|e| e.to_string())?;
    let port = free_port()?;
    let log = room.join("output.log");
    let mut program = Command::new(&binary);
    program.arg(port.to_string()).arg(&head).arg(&body);
    let process = Process::start("the floor", core, &log, false, &mut program)?;
    let tokens = [String::new(), String::new()];
    let peer = Peer { who: Who::Floor, process, port, h2c_port: port, tls_port: port, tokens };
    until_ready(peer, &log, |port| http::get(port, "/", &[]).map(|_| ()))
}

fn ready(peer: Peer, path: &str, log: &Path) -> Outcome<Peer> {
    until_ready(peer, log, |port| match http::get(port, path, &[])?.status {
        200 => Ok(()),
        status => Err(format!("status {status}")),
    })
}

/// Waits until a started server answers, at most ten seconds; tells its last words if it does not.
fn until_ready(mut peer: Peer, log: &Path, ask: impl Fn(u16) -> Outcome<()>) -> Outcome<Peer> {
    let patience = Instant::now() + Duration::from_secs(10);
    loop {
        let Err(why) = ask(peer.port) else { return Ok(peer) };
        if peer.process.has_ended() || Instant::now() > patience {
            let words = fs::read_to_string(log).unwrap_or_default();
            let last: Vec<&str> = words.lines().rev().take(5).collect();
            let last: Vec<&str> = last.into_iter().rev().collect();
            return Err(format!("{} does not serve: {why}\n{}", peer.who.name(), last.join("\n")));
        }
        sleep(Duration::from_millis(2));
    }
}

/// A port nobody listens on right now, below the range that outgoing connections take theirs from:
/// knocking there before the server listens could otherwise connect a socket to itself.
fn free_port() -> Outcome<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let seed = (std::process::id() % 4000) as u16 * 3;
    (0..12_000)
        .map(|_| 20_000 + seed.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .ok_or_else(|| "no free port".into())
}

/// Checks that the programs we need are there.
pub(crate) fn check_tools(tools: &[&str]) -> Outcome<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = |tool: &str| {
        // Debian keeps nginx in sbin, which is not on everyone's PATH.
        std::env::split_paths(&path)
            .any(|dir| fs::metadata(dir.join(tool)).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0))
    };
    let missing: Vec<&str> = tools.iter().copied().filter(|tool| !found(tool)).collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(format!("missing: {}; .ci/setup bench installs them", missing.join(", ")))
    }
}
