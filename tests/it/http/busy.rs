//! Thousands of bad clients at once, and restarts under load. The server is the real command, so that its
//! memory is its own.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::bench::{Client, Published};
use crate::support::{Server, request};

/// Bad clients at once: quality.md's R4.
const CROWD: usize = 2_000;

/// A server over a published version, tokens off; `settings` go on top.
fn served(settings: &[(&str, &str)]) -> (tempfile::TempDir, Published, Server) {
    let directory = tempfile::tempdir().unwrap();
    let published = Published::below(&directory.path().join("store"));
    let server = start(directory.path(), settings);
    (directory, published, server)
}

fn start(data: &Path, settings: &[(&str, &str)]) -> Server {
    let mut env = vec![("SEGUE_ORIGIN__REQUIRE_TOKEN", "false")];
    env.extend_from_slice(settings);
    Server::start(data, &["--role", "origin"], &env)
}

/// As many connections as asked for, each with a window so small that little of an answer fits into the
/// kernel, and what `request` says sent on it.
fn crowd(server: &Server, request: &str) -> Vec<TcpStream> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    let connect = |_| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(&server.addr.into()).unwrap();
        let mut stream: TcpStream = socket.into();
        stream.write_all(request.as_bytes()).unwrap();
        stream
    };
    (0..CROWD).map(connect).collect()
}

/// Resident bytes.
fn resident(server: &Server) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Connections that the server says it has.
fn connections(server: &Server) -> usize {
    let page = request(server.admin, "GET", "/metrics", &[]).text();
    let line = page.lines().find_map(|line| line.strip_prefix("segue_origin_connections "));
    line.map_or(0, |value| value.trim().parse::<f64>().unwrap() as usize)
}

/// Waits until the server has `wanted`, however long that takes within half a minute.
fn until_connections(server: &Server, wanted: impl Fn(usize) -> bool) {
    let patience = Instant::now() + Duration::from_secs(30);
    while !wanted(connections(server)) {
        assert!(Instant::now() < patience, "{} connections are left", connections(server));
        sleep(Duration::from_millis(100));
    }
}

/// What has arrived on a connection that the other side has ended; panics while it is open.
fn last_words(stream: &mut TcpStream) -> Vec<u8> {
    stream.set_nonblocking(true).unwrap();
    let mut words = Vec::new();
    match stream.read_to_end(&mut words) {
        Ok(_) => {}
        Err(error) => assert_ne!(error.kind(), ErrorKind::WouldBlock, "still connected"),
    }
    words
}

/// What everybody else is served meanwhile, byte for byte.
fn listen_a_while(server: &Server, published: &Published) {
    let mut listener = Client::to(server.addr);
    for turn in 0..20 {
        let reply = listener.request("GET", &published.path("a", "aac/96/00000.mp4"), "");
        assert!(reply.expect(200).body == published.segment("aac-96.mp4", 0));
        if turn % 2 == 1 {
            listener = Client::to(server.addr); // a new one is let in as well
        }
    }
}

#[test]
fn two_thousand_who_never_read_harm_nobody_and_are_let_go() {
    let (_directory, published, server) = served(&[("SEGUE_SERVER__WRITE_STALL_TIMEOUT_S", "6")]);
    listen_a_while(&server, &published);
    let before = resident(&server);
    let path = published.path("a", "flac/00002.mp4");
    // Six megabytes each: the kernel's send buffer takes up to four without a reader.
    let mut greedy = crowd(&server, &format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").repeat(4));
    for stream in &greedy {
        assert_eq!(stream.peek(&mut [0]).unwrap(), 1, "every answer has begun");
    }
    listen_a_while(&server, &published);
    let growth = resident(&server).saturating_sub(before);
    // 64 KiB each is hyper's largest buffer; the bodies, 12 GB together, stay in the page cache.
    assert!(growth < CROWD as u64 * (64 << 10), "{growth} bytes for {CROWD} connections");
    until_connections(&server, |open| open == 0);
    for stream in &mut greedy {
        assert!(last_words(stream).len() < 4 * 1_500_000, "cut, as it never took its answers");
    }
    listen_a_while(&server, &published);
}

#[test]
fn two_thousand_heads_that_do_not_come_harm_nobody_and_are_let_go() {
    let (_directory, published, server) = served(&[("SEGUE_SERVER__HEADER_TIMEOUT_S", "8")]);
    listen_a_while(&server, &published);
    let before = resident(&server);
    let mut slow = crowd(&server, "GET /a/ HTTP/1.1\r\nHost: te");
    until_connections(&server, |open| open >= CROWD);
    listen_a_while(&server, &published);
    let growth = resident(&server).saturating_sub(before);
    assert!(growth < CROWD as u64 * (32 << 10), "{growth} bytes for {CROWD} connections");
    until_connections(&server, |open| open == 0);
    for stream in &mut slow {
        let words = last_words(stream);
        assert!(words.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&words));
    }
}

/// What players know: the addresses of the nodes, kept up to date by whoever restarts them.
type Nodes = Arc<Mutex<Vec<SocketAddr>>>;

/// A player's connection. It retries what has not begun, as any HTTP client may (RFC 9110 §9.2.2), and
/// nothing else.
struct Player {
    nodes: Nodes,
    turn: usize,
    stream: Option<TcpStream>,
}

impl Player {
    /// The body of `path`, from whichever node has it.
    ///
    /// # Panics
    /// When an answer that has begun is not finished, or no node answers.
    fn fetch(&mut self, path: &str) -> Vec<u8> {
        for _ in 0..20 {
            match self.attempt(path) {
                Some(body) => return body,
                None => {
                    self.stream = None;
                    self.turn += 1;
                    sleep(Duration::from_millis(10));
                }
            }
        }
        panic!("no node answers for {path}");
    }

    /// `None` when the node is not there, or closed before it began to answer.
    fn attempt(&mut self, path: &str) -> Option<Vec<u8>> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let nodes = self.nodes.lock().unwrap().clone();
                TcpStream::connect(nodes[self.turn % nodes.len()]).ok()?
            }
        };
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes()).ok()?;
        let mut answer = Vec::new();
        let mut part = vec![0; 64 << 10];
        let mut more = |answer: &mut Vec<u8>| match stream.read(&mut part) {
            Ok(0) | Err(_) if answer.is_empty() => None,
            Ok(n @ 1..) => {
                answer.extend_from_slice(&part[..n]);
                Some(())
            }
            end => panic!("{path}: an answer that had begun was cut after {} bytes: {end:?}", answer.len()),
        };
        let head = loop {
            more(&mut answer)?;
            if let Some(at) = answer.windows(4).position(|w| w == b"\r\n\r\n") {
                break String::from_utf8_lossy(&answer[..at + 4]).to_ascii_lowercase();
            }
        };
        assert!(head.starts_with("http/1.1 200 "), "{path}: {head}");
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok()).unwrap();
        while answer.len() < head.len() + length {
            more(&mut answer)?;
        }
        if !head.contains("connection: close") {
            self.stream = Some(stream);
        }
        Some(answer.split_off(head.len()))
    }
}

#[test]
fn a_rolling_restart_of_three_nodes_fails_no_playback() {
    let directory = tempfile::tempdir().unwrap();
    let published = Arc::new(Published::below(&directory.path().join("store")));
    let mut servers: Vec<Server> = (0..3).map(|_| start(directory.path(), &[])).collect();
    let nodes: Nodes = Arc::new(Mutex::new(servers.iter().map(|server| server.addr).collect()));
    let (stop, played) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let play = |number: usize| {
        let mut player = Player { nodes: nodes.clone(), turn: number, stream: None };
        let (published, stop, played) = (published.clone(), stop.clone(), played.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let playlist = player.fetch(&published.path("a", "flac/index.m3u8"));
                assert!(playlist.starts_with(b"#EXTM3U"));
                for segment in 0..3 {
                    let body = player.fetch(&published.path("a", &format!("flac/{segment:05}.mp4")));
                    assert!(body == published.segment("flac.mp4", segment));
                    sleep(Duration::from_millis(5)); // so that a restart finds it between two requests, too
                }
                played.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let players: Vec<_> = (0..6).map(play).collect();
    let play_on = |players: &[std::thread::JoinHandle<()>]| {
        let (from, patience) = (played.load(Ordering::Relaxed), Instant::now() + Duration::from_secs(20));
        while played.load(Ordering::Relaxed) < from + 12 && !players.iter().any(|player| player.is_finished()) {
            assert!(Instant::now() < patience, "nobody plays");
            sleep(Duration::from_millis(20));
        }
    };
    for (number, server) in servers.iter_mut().enumerate() {
        play_on(&players);
        server.signal("TERM");
        let ended = server.child.wait().unwrap();
        assert!(ended.success(), "{ended}");
        play_on(&players); // on two nodes
        *server = start(directory.path(), &[]);
        nodes.lock().unwrap()[number] = server.addr;
    }
    play_on(&players);
    stop.store(true, Ordering::Relaxed);
    for player in players {
        player.join().expect("every playback went through");
    }
}
