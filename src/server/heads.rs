//! What hyper forgives or forgets of a request head. In: the bytes it is given. Out: whether the next head is
//! crooked, for whoever answers it; and what becomes of a head that hyper could not read.
//!
//! hyper takes a `Content-Length` that comes twice with the same number for one, and `http::Uri` drops a
//! fragment: neither can be seen in the request any more, and both are how two readers are made to disagree.
//! So the bytes are followed on their way: one look at each line of a head, none at bodies.

use bytes::Bytes;

use super::watch::Watched;

/// Where the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Between messages, where empty lines are passed over (RFC 9112 §2.2).
    Start,
    RequestLine,
    /// At the first byte of a field line, or of the empty line that ends the head.
    FieldLine,
    /// In a name that may be one of `NAMES`: which one, and how many of its bytes have come.
    Name(u8, u8),
    /// Behind `Content-Length:`.
    Length,
    /// In a line, or the rest of one, that does not matter.
    Skip,
    /// In a body, so many bytes before its end.
    Body(u64),
    /// Behind `Transfer-Encoding`: whoever answers refuses and closes, so nothing that follows matters.
    Blind,
}

/// The fields that say how long a body is.
const NAMES: [&[u8]; 2] = [b"content-length:", b"transfer-encoding:"];
/// hyper counts no further.
const LENGTH_MAX: u64 = u64::MAX - 2;

/// Follows the requests of one HTTP/1.1 connection.
#[derive(Debug)]
pub(super) struct Heads {
    at: At,
    /// Of the head that has begun: whether its target has a fragment.
    fragment: bool,
    /// How many lengths it has had …
    lengths: u8,
    /// … and the last one; `None` when nobody can count so far.
    length: Option<u64>,
    chunked: bool,
}

impl Heads {
    pub(super) fn new() -> Heads {
        Heads { at: At::Start, fragment: false, lengths: 0, length: Some(0), chunked: false }
    }

    /// Whether nothing of a request is under way.
    pub(super) fn is_between(&self) -> bool {
        self.at == At::Start
    }

    /// The next bytes that hyper gets. Tells `watched` about every head that ends among them.
    pub(super) fn follow(&mut self, mut bytes: &[u8], watched: &Watched) {
        while let Some(&byte) = bytes.first() {
            match self.at {
                At::Start if matches!(byte, b'\r' | b'\n') => bytes = &bytes[1..],
                At::Start => {
                    watched.see_method(bytes.starts_with(b"HEAD "));
                    self.at = At::RequestLine;
                }
                At::RequestLine | At::Skip => {
                    let (line, rest, ended) = to_line_end(bytes);
                    self.fragment |= self.at == At::RequestLine && line.contains(&b'#');
                    bytes = rest;
                    if ended {
                        self.at = At::FieldLine;
                    }
                }
                At::FieldLine => {
                    match byte {
                        b'\n' => self.end_head(watched),
                        b'\r' => {}
                        b'c' | b'C' => self.at = At::Name(0, 1),
                        b't' | b'T' => self.at = At::Name(1, 1),
                        _ => self.at = At::Skip,
                    }
                    bytes = &bytes[1..];
                }
                At::Name(which, known) => {
                    let name = NAMES[usize::from(which)];
                    if byte.to_ascii_lowercase() != name[usize::from(known)] {
                        self.at = At::Skip;
                        continue;
                    }
                    bytes = &bytes[1..];
                    self.at = match (usize::from(known) + 1 == name.len(), which) {
                        (false, _) => At::Name(which, known + 1),
                        (true, 0) => {
                            self.lengths = self.lengths.saturating_add(1);
                            self.length = Some(0);
                            At::Length
                        }
                        (true, _) => {
                            self.chunked = true;
                            At::Skip
                        }
                    };
                }
                At::Length => {
                    match byte {
                        b'0'..=b'9' => {
                            let longer = |length: u64| length.checked_mul(10)?.checked_add(u64::from(byte - b'0'));
                            self.length = self.length.and_then(longer);
                        }
                        b'\n' => self.at = At::FieldLine,
                        _ => {} // blanks; hyper refuses anything else
                    }
                    bytes = &bytes[1..];
                }
                At::Body(left) => {
                    let passed = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
                    bytes = &bytes[passed..];
                    self.at = match left - passed as u64 {
                        0 => At::Start,
                        left => At::Body(left),
                    };
                }
                At::Blind => return,
            }
        }
    }

    fn end_head(&mut self, watched: &Watched) {
        let countable = self.length.filter(|length| *length <= LENGTH_MAX);
        watched.see_head(self.fragment || self.lengths > 1 || countable.is_none());
        let at = match (self.chunked, countable) {
            (true, _) | (_, None) => At::Blind,
            (false, Some(0)) => At::Start,
            (false, Some(length)) => At::Body(length),
        };
        *self = Heads { at, ..Heads::new() };
    }
}

/// What comes before the end of the line, what comes after it, and whether it is there.
fn to_line_end(bytes: &[u8]) -> (&[u8], &[u8], bool) {
    match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&bytes[..end], &bytes[end + 1..], true),
        None => (bytes, &[], false),
    }
}

/// Whether an unreadable head has not come to the end of its request line.
pub(super) fn is_one_line(head: &[u8]) -> bool {
    let start = head.iter().position(|byte| !matches!(byte, b'\r' | b'\n'));
    start.is_some_and(|start| !head[start..].contains(&b'\n'))
}

/// What the request line of an unreadable head asks to speak.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Spoken {
    /// A later minor version of HTTP/1: the same bytes as HTTP/1.1. RFC 9110 §2.5: "a minor version number higher
    /// than what it implements SHOULD process the message as if it was in the highest minor version".
    Later(Bytes),
    /// Another major version (RFC 9110 §15.6.6).
    Other,
    /// Nothing that is a version.
    Nothing,
}

/// Reads the version in the first line of `head`, which hyper refused because of it.
pub(super) fn spoken(head: &[u8]) -> Spoken {
    let start = head.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(head.len());
    let line = to_line_end(&head[start..]).0;
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let parts: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let [method, target, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]] = &parts[..] else {
        return Spoken::Nothing;
    };
    if method.is_empty() || target.is_empty() {
        return Spoken::Nothing;
    }
    match (major, minor) {
        (b'1', b'2'..=b'9') => {
            let mut head = head.to_vec();
            head[start + line.len() - 1] = b'1';
            Spoken::Later(head.into())
        }
        (b'0' | b'2'..=b'9', b'0'..=b'9') => Spoken::Other,
        _ => Spoken::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether each head of `text` is crooked, whole and cut into pieces of every length.
    fn check(text: &str, expected: &[bool]) {
        for piece in 1..=text.len() {
            let watched = Watched::new();
            let mut heads = Heads::new();
            text.as_bytes().chunks(piece).for_each(|piece| heads.follow(piece, &watched));
            let found: Vec<bool> = expected.iter().map(|_| watched.answer_head()).collect();
            assert_eq!(found, expected, "{text:?} in pieces of {piece}");
            assert!(!watched.answer_head(), "no more heads than {expected:?} in {text:?}");
        }
    }

    #[test]
    fn lengths_that_come_twice_and_fragments_are_seen_in_their_head_and_no_other() {
        let get = "GET /a HTTP/1.1\r\nHost: x\r\n\r\n";
        check(get, &[false]);
        check("GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n", &[true]);
        check("GET /a HTTP/1.1\nReferer: /x#y\n\n", &[false]);
        let post = |lines: &str, body: &str| format!("POST /a HTTP/1.1\r\n{lines}\r\n{body}");
        check(&post("Content-Length: 3\r\n", "abc"), &[false]);
        check(&post("Content-Length: 3\r\ncontent-length:3\r\n", "abc"), &[true]);
        check(&post("X: Content-Length: 3\r\nContent-Lengthy: 3\r\nContent-Length: 0\r\n", ""), &[false]);
        check(&post("Content-Length: 18446744073709551614\r\n", ""), &[true]);
        check(&post("Content-Length: 99999999999999999999\r\n", ""), &[true]);
        // A body is no head, whatever it looks like; what comes behind it is.
        let body = "GET /#x HTTP/1.1\r\n\r\n";
        check(&format!("{}{get}", post(&format!("Content-Length: {}\r\n", body.len()), body)), &[false, false]);
        check(&format!("{get}\r\n\r\n{get}{}{get}", get.replace("/a", "/#")), &[false, false, true, false]);
        // Behind chunks nothing is followed: the connection ends with their refusal.
        check(&format!("{}{body}", post("Transfer-Encoding: chunked\r\n", "0\r\n\r\n")), &[false]);
    }

    #[test]
    fn a_request_line_without_end_is_told_from_fields_without_end() {
        for (head, expected) in [
            ("GET /aaa", true),
            ("\r\n\r\nGET /aaa", true),
            ("GET / HTTP/1.1\r\nA: aaa", false),
            ("", false),
            ("\r\n", false),
        ] {
            assert_eq!(is_one_line(head.as_bytes()), expected, "{head:?}");
        }
    }

    #[test]
    fn a_later_minor_version_is_the_one_we_speak_and_another_major_one_is_not() {
        let later = |line: &str, ours: &str| assert_eq!(spoken(line.as_bytes()), Spoken::Later(ours.to_owned().into()));
        later("GET / HTTP/1.2\r\nHost: x\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        later("\r\nGET / HTTP/1.9", "\r\nGET / HTTP/1.1");
        for other in ["GET / HTTP/2.0\r\n", "GET / HTTP/3.0\r\n", "GET / HTTP/0.9\n", "GET / HTTP/9.9"] {
            assert_eq!(spoken(other.as_bytes()), Spoken::Other, "{other}");
        }
        for nothing in
            ["", "GET /", "GET / HTTP/1", "GET / HTTP/1.10", "GET / http/1.2", "GET  HTTP/1.2", "GET / x HTTP/1.2"]
        {
            assert_eq!(spoken(nothing.as_bytes()), Spoken::Nothing, "{nothing}");
        }
    }
}
