//! Between the origin and the bucket: counts what is asked, and spoils answers on demand.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What happens to requests for media, and after `spoil_all` to every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Pass,
    /// Half of the body, then a proper end of the connection.
    Truncate,
    /// Half of the body, then a reset.
    Reset,
    /// The whole body with one byte changed.
    Flip,
    /// Another range than the one that was asked for.
    Shift,
    /// A refusal with this status.
    Status(u16),
    /// A reset before anything is answered.
    Refuse,
    /// Half of the body, and the rest when `release` is called.
    Hold,
    /// The whole body, in pieces with pauses between: a second and a half in all.
    Slow,
}

pub(super) struct Proxy {
    addr: SocketAddr,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    mode: Mode,
    /// How many answers are still to be spoilt.
    times: usize,
    /// Whether every request is spoilt, and not only those for media.
    all: bool,
    asked: Vec<String>,
    /// How often a `version.json` was asked for.
    documents: usize,
    /// Requests so far.
    seen: usize,
    /// Whether nothing is answered at all.
    hangs: bool,
    /// Whether the second halves that are held back may go.
    released: bool,
}

impl Proxy {
    /// In front of a server on a loopback port. Its threads end with the test process.
    pub(super) fn before(port: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Mutex::new(Shared {
            mode: Mode::Pass,
            times: 0,
            all: false,
            asked: vec![],
            documents: 0,
            seen: 0,
            hangs: false,
            released: false,
        }));
        let seen = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let seen = seen.clone();
                std::thread::spawn(move || pass(client, port, &seen));
            }
        });
        Proxy { addr, shared }
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Spoils the next so many answers with media.
    pub(super) fn spoil(&self, mode: Mode, times: usize) {
        let mut shared = self.shared.lock().unwrap();
        (shared.mode, shared.times, shared.all) = (mode, times, false);
    }

    /// Spoils the next so many answers, whatever they are.
    pub(super) fn spoil_all(&self, mode: Mode, times: usize) {
        let mut shared = self.shared.lock().unwrap();
        (shared.mode, shared.times, shared.all) = (mode, times, true);
    }

    /// How often a `version.json` was read.
    pub(super) fn documents(&self) -> usize {
        self.shared.lock().unwrap().documents
    }

    /// How many requests there were.
    pub(super) fn seen(&self) -> usize {
        self.shared.lock().unwrap().seen
    }

    /// Answers nothing any more, or answers again; who waited meanwhile is cut off.
    pub(super) fn hang(&self, hangs: bool) {
        self.shared.lock().unwrap().hangs = hangs;
    }

    /// Lets the second halves go that `Mode::Hold` keeps, now and later.
    pub(super) fn release(&self) {
        self.shared.lock().unwrap().released = true;
    }

    /// The ranges of media that were asked for since the last call, `object range`, sorted.
    pub(super) fn asked(&self) -> Vec<String> {
        let mut asked = std::mem::take(&mut self.shared.lock().unwrap().asked);
        asked.sort();
        asked
    }
}

/// One request; the connection ends with its answer. `None` when either side has left.
fn pass(mut client: TcpStream, port: u16, shared: &Mutex<Shared>) -> Option<()> {
    let mut head = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    let end = loop {
        let n = client.read(&mut buffer).ok().filter(|n| *n > 0)?;
        head.extend_from_slice(&buffer[..n]);
        if let Some(end) = head.windows(4).position(|end| end == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let begun = head.split_off(end);
    let hangs = || shared.lock().unwrap().hangs;
    if hangs() {
        while hangs() {
            std::thread::sleep(Duration::from_millis(20));
        }
        return None;
    }
    let text = String::from_utf8(head).ok()?;
    let field = |name: &str| {
        text.lines().find_map(|line| {
            let (known, value) = line.split_once(':')?;
            known.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    let path = text.split(' ').nth(1)?.split('?').next()?.to_owned();
    let is_media = path.ends_with(".mp4") || path.ends_with(".m4a");
    let mode = {
        let mut shared = shared.lock().unwrap();
        shared.seen += 1;
        if is_media && text.starts_with("GET") {
            shared.asked.push(format!("{} {}", path.rsplit('/').next()?, field("range").unwrap_or_default()));
        }
        shared.documents += usize::from(text.starts_with("GET") && path.ends_with("/version.json"));
        let spoils = (is_media || shared.all) && shared.times > 0;
        shared.times -= usize::from(spoils);
        if spoils { shared.mode } else { Mode::Pass }
    };
    let reset = |client: &TcpStream| rustix::net::sockopt::set_socket_linger(client, Some(Duration::ZERO)).ok();
    if mode == Mode::Refuse {
        return reset(&client);
    }
    if field("expect").is_some() {
        client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
    }
    let length: usize = field("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut left = length.checked_sub(begun.len())?;
    if let Mode::Status(status) = mode {
        // Read to its end first: a reset would hide the answer.
        while left > 0 {
            left -= client.read(&mut buffer).ok().filter(|n| *n > 0)?.min(left);
        }
        let answer = format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        return client.write_all(answer.as_bytes()).ok();
    }
    let mut server = TcpStream::connect(("127.0.0.1", port)).ok()?;
    let is_ours = |line: &str| {
        let name = line.split(':').next().unwrap_or_default();
        ["connection", "expect"].iter().any(|ours| name.eq_ignore_ascii_case(ours))
    };
    let kept = text.lines().filter(|line| !is_ours(line) && !line.is_empty());
    let mut request: String = kept.map(|line| format!("{line}\r\n")).collect();
    request.push_str("Connection: close\r\n\r\n");
    server.write_all(request.as_bytes()).ok()?;
    server.write_all(&begun).ok()?;
    while left > 0 {
        let n = client.read(&mut buffer).ok().filter(|n| *n > 0)?;
        server.write_all(&buffer[..n]).ok()?;
        left = left.checked_sub(n)?;
    }
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).ok()?;
    let body = answer.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    let middle = body + (answer.len() - body) / 2;
    match mode {
        Mode::Flip => answer[middle] ^= 1,
        Mode::Shift => {
            let shifted =
                String::from_utf8_lossy(&answer[..body]).replace("ontent-Range: bytes ", "ontent-Range: bytes 1");
            answer.splice(..body, shifted.into_bytes());
        }
        Mode::Truncate => answer.truncate(middle),
        Mode::Reset => {
            client.write_all(&answer[..middle]).ok()?;
            return reset(&client);
        }
        Mode::Hold => {
            client.write_all(&answer[..middle]).ok()?;
            while !shared.lock().unwrap().released {
                std::thread::sleep(Duration::from_millis(10));
            }
            client.write_all(&answer[middle..]).ok()?;
            return client.shutdown(Shutdown::Write).ok();
        }
        Mode::Slow => {
            for piece in answer.chunks(answer.len().div_ceil(15)) {
                client.write_all(piece).ok()?;
                std::thread::sleep(Duration::from_millis(100));
            }
            return client.shutdown(Shutdown::Write).ok();
        }
        _ => {}
    }
    client.write_all(&answer).ok()?;
    client.shutdown(Shutdown::Write).ok()
}
