//! The servers that are compared, each started on the measured core with the same objects to serve.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::http::{self, Answer};
use crate::process::Process;
use crate::tree::Tree;

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
    /// Its port on the loopback.
    pub(crate) port: u16,
    /// What stands in front of a path in the version's directory, token included.
    pub(crate) prefix: String,
}

/// A directory for one start of one server: configuration, logs.
fn room(dir: &Path, name: &str) -> Outcome<PathBuf> {
    let room = dir.join(name);
    fs::create_dir_all(&room).map_err(|e| format!("cannot make {}: {e}", room.display()))?;
    Ok(room)
}

/// nginx: one worker, sendfile, tcp_nopush, open_file_cache, no log; on every path of `paths` the given
/// headers, so that its answers are as long as ours.
pub(crate) fn nginx(dir: &Path, core: usize, tree: &Tree, paths: &[(String, Vec<(String, String)>)]) -> Outcome<Peer> {
    let room = room(dir, "nginx")?;
    let port = free_port()?;
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
    let configuration = format!(
        "{user}daemon off;\nworker_processes 1;\nworker_rlimit_nofile 65536;\npid {room}/pid;\n\
         error_log {room}/error.log warn;\nevents {{ worker_connections 16384; }}\nhttp {{\n{temporary}\
         \x20 access_log off;\n  sendfile on;\n  tcp_nopush on;\n  tcp_nodelay on;\n  server_tokens off;\n\
         \x20 open_file_cache max=10000 inactive=10m;\n  open_file_cache_valid 10m;\n\
         \x20 keepalive_timeout 10m;\n  keepalive_requests 1000000000;\n\
         \x20 types {{ audio/mp4 mp4; application/vnd.apple.mpegurl m3u8; }}\n\
         \x20 server {{\n    listen 127.0.0.1:{port} backlog=4096;\n    root {files};\n{locations}  }}\n}}\n",
        room = room.display(),
        files = tree.files.display(),
    );
    let file = room.join("nginx.conf");
    fs::write(&file, configuration).map_err(|e| format!("cannot write {}: {e}", file.display()))?;
    let log = room.join("output.log");
    let mut program = Command::new("nginx");
    program.arg("-e").arg(room.join("error.log")).arg("-p").arg(&room).arg("-c").arg(&file);
    let process = Process::start("nginx", core, &log, true, &mut program)?;
    let probe = paths.first().map(|(path, _)| path.clone()).ok_or("nginx has nothing to serve")?;
    ready(Peer { who: Who::Nginx, process, port, prefix: tree.prefix.clone() }, &probe, &log)
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
    let peer = Peer { who: Who::Floor, process, port, prefix: "/".into() };
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
        sleep(Duration::from_millis(20));
    }
}

/// A port nobody listens on right now.
fn free_port() -> Outcome<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| format!("no free port: {e}"))?;
    listener.local_addr().map(|a| a.port()).map_err(|e| e.to_string())
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
    if missing.is_empty() { Ok(()) } else { Err(format!("missing: {}; .ci/setup bench installs them", missing.join(", "))) }
}
