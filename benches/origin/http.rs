//! As much of an HTTP client as the bench needs: one GET, read to its end, nothing assumed.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::Outcome;

/// Header lines: names and values.
pub(crate) type Headers = Vec<(String, String)>;

/// What came back for one request.
pub(crate) struct Answer {
    /// The status code.
    pub(crate) status: u16,
    /// Header lines as sent, the status line not among them.
    pub(crate) headers: Headers,
    /// The status line and headers with the empty line after them, as sent.
    pub(crate) head: Vec<u8>,
    /// The body.
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The value of a header, by its lowercase name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// The request bench clients send: what wrk sends, so that every client costs the server the same parsing.
pub(crate) fn request(port: u16, path: &str, headers: &[(String, String)]) -> String {
    let mut text = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text + "\r\n"
}

/// One GET on a connection of its own.
pub(crate) fn get(port: u16, path: &str, headers: &[(String, String)]) -> Outcome<Answer> {
    let mut stream = connect(port)?;
    exchange(&mut stream, &request(port, path, headers))
}

/// A connection to a local server, with time limits on everything.
pub(crate) fn connect(port: u16) -> Outcome<TcpStream> {
    let patience = Some(Duration::from_secs(10));
    let stream = TcpStream::connect(("127.0.0.1", port)).map_err(|e| format!("cannot connect to port {port}: {e}"))?;
    stream.set_read_timeout(patience).and_then(|()| stream.set_write_timeout(patience)).map_err(|e| e.to_string())?;
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    Ok(stream)
}

/// Sends `request` and reads one answer, leaving the connection open.
pub(crate) fn exchange(stream: &mut TcpStream, request: &str) -> Outcome<Answer> {
    stream.write_all(request.as_bytes()).map_err(|e| format!("cannot send a request: {e}"))?;
    let mut bytes = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    let mut more = |bytes: &mut Vec<u8>| match stream.read(&mut chunk) {
        Ok(0) => Err("the server closed in the middle of an answer".to_owned()),
        Ok(n) => {
            bytes.extend_from_slice(&chunk[..n]);
            Ok(())
        }
        Err(e) => Err(format!("cannot read an answer: {e}")),
    };
    let head_bytes = loop {
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        more(&mut bytes)?;
    };
    let head = bytes[..head_bytes].to_vec();
    let text = String::from_utf8_lossy(&head).into_owned();
    let mut lines = text.lines();
    let status = lines.next().and_then(|l| l.split(' ').nth(1)?.parse().ok()).ok_or("no status line in the answer")?;
    let headers: Vec<(String, String)> =
        lines.filter_map(|l| l.split_once(':')).map(|(n, v)| (n.to_owned(), v.trim().to_owned())).collect();
    let mut answer = Answer { status, headers, head, body: bytes.split_off(head_bytes) };
    // Length-delimited only: the servers here know their files' lengths, and chunked coding would be news.
    let length = match answer.header("content-length") {
        _ if status == 304 => 0,
        Some(value) => value.parse::<usize>().map_err(|_| format!("content-length is {value:?}"))?,
        None => return Err(format!("status {status} without content-length")),
    };
    while answer.body.len() < length {
        more(&mut answer.body)?;
    }
    Ok(answer)
}
