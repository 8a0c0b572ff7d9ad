//! Files that are not in memory, seen from outside. What a disk that hangs does to others is tested beside
//! the code (`server/body.rs`): no disk hangs on demand.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Advice, fadvise};
use segue::store::mapped::{BLOCK_BYTES, Mapped};

use super::bench::{Client, Published, TRACK};
use crate::support::{Server, request};

/// Makes the kernel forget a file; `false` where files live in memory and cannot be forgotten.
fn forget(path: &Path) -> bool {
    let file = File::open(path).unwrap();
    let bytes = file.metadata().unwrap().len();
    file.sync_all().unwrap(); // only clean pages are forgotten
    for _ in 0..100 {
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        // A fresh mapping asks the kernel and remembers nothing.
        let mapped = Mapped::open(file.try_clone().unwrap(), bytes).unwrap();
        if (0..bytes).step_by(BLOCK_BYTES as usize).all(|at| !mapped.is_resident(at, 1)) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    const TMPFS: u64 = 0x0102_1994;
    assert_eq!(rustix::fs::fstatfs(&file).unwrap().f_type as u64, TMPFS, "a file on a disk can be forgotten");
    false
}

/// A metric without labels, 0 until it was first counted.
fn metric(admin: SocketAddr, name: &str) -> u64 {
    let page = request(admin, "GET", "/metrics", &[]).text();
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned));
    line.map_or(0, |value| value.trim().parse::<f64>().unwrap() as u64)
}

/// A store on a disk, a server over it with two cores, and the FLAC rung's file.
fn served() -> (tempfile::TempDir, Published, Server, std::path::PathBuf) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = directory.path().join("store");
    std::fs::create_dir(&store).unwrap();
    let published = Published::below(&store);
    let file = store.join("v").join(TRACK).join(published.version.to_string()).join("flac.mp4");
    let env = [("SEGUE_ORIGIN__REQUIRE_TOKEN", "false"), ("SEGUE_ORIGIN__CORES", "2")];
    let server = Server::start(directory.path(), &["--role", "origin"], &env);
    (directory, published, server, file)
}

#[test]
fn a_block_that_a_hundred_listeners_miss_is_read_once() {
    let (_directory, published, server, file) = served();
    assert_eq!(server.get(&published.path("a", "flac/index.m3u8")).status, 200, "the version is open");
    if !forget(&file) {
        return;
    }
    let path = published.path("d", "flac.mp4");
    let mut clients: Vec<Client> = (0..100).map(|_| Client::to(server.addr)).collect();
    for client in &mut clients {
        client.send(&format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
    }
    for client in &mut clients {
        let reply = client.reply(false).expect("a whole answer");
        assert!(reply.expect(200).body == published.files["flac.mp4"]);
    }
    let read = metric(server.admin, "segue_origin_cold_bytes_total");
    // The kernel reads ahead too, and what it brings we need not ask for.
    assert!(read > 0, "the file was cold");
    assert!(read <= published.files["flac.mp4"].len() as u64, "{read} bytes were read");
}

#[test]
fn a_body_whose_pages_the_kernel_takes_away_arrives_whole() {
    let (_directory, published, server, file) = served();
    // A small window, so that most of the body is still in the file while we dawdle.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket.connect(&server.addr.into()).unwrap();
    let mut stream: std::net::TcpStream = socket.into();
    let path = published.path("d", "flac.mp4");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let mut part = vec![0; 100 << 10];
    let file = File::open(file).unwrap();
    let mut forget_at = 1;
    loop {
        match stream.read(&mut part).unwrap() {
            0 => break,
            n => answer.extend_from_slice(&part[..n]),
        }
        if answer.len() >= forget_at {
            fadvise(&file, 0, None, Advice::DontNeed).unwrap();
            forget_at += 100 << 10;
        }
    }
    let head = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    assert!(answer[head..] == published.files["flac.mp4"]);
}
