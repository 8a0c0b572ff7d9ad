//! What players say about how it goes (CTA-5004, "CMCD", version 1). In: the query argument `CMCD=…` or
//! the four `CMCD-*` headers. Out: numbers for Prometheus, by streaming format and type of object.
//!
//! It never changes an answer. Session and content ids (`sid`, `cid`) are people's: they are skipped, not
//! kept. Keys we do not know, custom ones included, are skipped too.

use std::borrow::Cow;
use std::sync::OnceLock;

use hyper::Request;
use hyper::header::HeaderName;
use metrics::{Counter, counter};
use percent_encoding::percent_decode;

use crate::base::telemetry::{self, Histogram, histogram};
use telemetry::histogram::{BITS_PER_SECOND, PLAYER_SECONDS};

/// More is not read. A full set of the standard's keys is about 300 bytes.
const BYTES_MAX: usize = 2 << 10;
/// Larger numbers are mistakes: a terabit per second, eleven days.
const NUMBER_MAX: u64 = 1_000_000_000;

/// CTA-5004 §3.1: where the keys of each lifetime travel.
const HEADERS: [HeaderName; 4] = [
    HeaderName::from_static("cmcd-object"),
    HeaderName::from_static("cmcd-request"),
    HeaderName::from_static("cmcd-session"),
    HeaderName::from_static("cmcd-status"),
];

/// The `sf` labels; the last is for requests that do not say.
const FORMATS: [&str; 5] = ["dash", "hls", "smooth", "other", "unknown"];
/// The `ot` labels; the last is for requests that do not say.
const OBJECTS: [&str; 10] =
    ["manifest", "audio", "video", "muxed", "init", "caption", "timed_text", "key", "other", "unknown"];

/// One request's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cmcd {
    /// Places in `FORMATS` and `OBJECTS`.
    format: usize,
    object: usize,
    bitrate_kbps: Option<u64>,
    measured_kbps: Option<u64>,
    requested_kbps: Option<u64>,
    buffer_ms: Option<u64>,
    deadline_ms: Option<u64>,
    starved: bool,
    startup: bool,
    /// Whether something was not as the standard says, and was skipped.
    flawed: bool,
}

/// Handles, made when a combination first comes: there are at most fifty.
pub(super) struct Counters {
    kinds: [[OnceLock<OfKind>; OBJECTS.len()]; FORMATS.len()],
    invalid: Counter,
}

struct OfKind {
    requests: Counter,
    starved: Counter,
    startup: Counter,
    bitrate: &'static Histogram,
    measured: &'static Histogram,
    requested: &'static Histogram,
    buffer: &'static Histogram,
    deadline: &'static Histogram,
}

/// The value of the query argument, still escaped.
pub(super) fn argument(query: &str) -> Option<&str> {
    query.split('&').find_map(|pair| pair.strip_prefix("CMCD="))
}

impl Counters {
    pub(super) fn new() -> Counters {
        let counters = Counters { kinds: Default::default(), invalid: counter!(telemetry::CMCD_INVALID) };
        counters.of(1, 1); // audio in HLS: what we serve, so that its families are there before it is played
        counters
    }

    /// Counts what an answered request carried, in its query or its headers.
    pub(super) fn count<B>(&self, request: &Request<B>) {
        let mut cmcd = Cmcd::default();
        if let Some(escaped) = request.uri().query().and_then(argument) {
            let list: Cow<'_, [u8]> = percent_decode(&escaped.as_bytes()[..escaped.len().min(BYTES_MAX + 1)]).into();
            cmcd.read(&list);
        }
        for value in HEADERS.iter().flat_map(|name| request.headers().get_all(name)).take(HEADERS.len()) {
            cmcd.read(value.as_bytes());
        }
        self.add(&cmcd);
    }

    fn add(&self, cmcd: &Cmcd) {
        self.invalid.increment(u64::from(cmcd.flawed));
        let kind = self.of(cmcd.format, cmcd.object);
        kind.requests.increment(1);
        kind.starved.increment(u64::from(cmcd.starved));
        kind.startup.increment(u64::from(cmcd.startup));
        for (histogram, value) in [
            (kind.bitrate, cmcd.bitrate_kbps),
            (kind.measured, cmcd.measured_kbps),
            (kind.requested, cmcd.requested_kbps),
            (kind.buffer, cmcd.buffer_ms),
            (kind.deadline, cmcd.deadline_ms),
        ] {
            if let Some(value) = value {
                histogram.record(value);
            }
        }
    }

    fn of(&self, format: usize, object: usize) -> &OfKind {
        self.kinds[format][object].get_or_init(|| {
            let (sf, ot) = (FORMATS[format], OBJECTS[object]);
            let counted = |name: &'static str| counter!(name, "sf" => sf, "ot" => ot);
            let sized = |name, scale| histogram(name, &[("sf", sf), ("ot", ot)], scale);
            OfKind {
                requests: counted(telemetry::CMCD_REQUESTS),
                starved: counted(telemetry::CMCD_STARVED),
                startup: counted(telemetry::CMCD_STARTUP),
                bitrate: sized(telemetry::CMCD_BITRATE, &BITS_PER_SECOND),
                measured: sized(telemetry::CMCD_MEASURED, &BITS_PER_SECOND),
                requested: sized(telemetry::CMCD_REQUESTED, &BITS_PER_SECOND),
                buffer: sized(telemetry::CMCD_BUFFER, &PLAYER_SECONDS),
                deadline: sized(telemetry::CMCD_DEADLINE, &PLAYER_SECONDS),
            }
        })
    }
}

impl Default for Cmcd {
    fn default() -> Cmcd {
        Cmcd {
            format: FORMATS.len() - 1,
            object: OBJECTS.len() - 1,
            bitrate_kbps: None,
            measured_kbps: None,
            requested_kbps: None,
            buffer_ms: None,
            deadline_ms: None,
            starved: false,
            startup: false,
            flawed: false,
        }
    }
}

impl Cmcd {
    /// Adds a list of `key`, `key=value` and `key="text"`, separated by commas (CTA-5004 §3.2).
    fn read(&mut self, list: &[u8]) {
        if list.len() > BYTES_MAX {
            self.flawed = true;
            return;
        }
        let mut rest = list;
        while !rest.is_empty() {
            let Some((item, next)) = split_item(rest) else {
                self.flawed = true; // a text without an end: nothing behind it can be trusted
                return;
            };
            self.flawed |= self.take(item.trim_ascii()).is_none();
            rest = next;
        }
    }

    /// Keeps one item; `None` when its value has the wrong type.
    fn take(&mut self, item: &[u8]) -> Option<()> {
        let (key, value) = match item.iter().position(|byte| *byte == b'=') {
            Some(at) => (&item[..at], Some(&item[at + 1..])),
            None => (item, None),
        };
        match key {
            b"br" => self.bitrate_kbps = Some(number(value)?),
            b"mtp" => self.measured_kbps = Some(number(value)?),
            b"rtp" => self.requested_kbps = Some(number(value)?),
            b"bl" => self.buffer_ms = Some(number(value)?),
            b"dl" => self.deadline_ms = Some(number(value)?),
            b"bs" => self.starved = flag(value)?,
            b"su" => self.startup = flag(value)?,
            b"sf" => {
                self.format = match value? {
                    b"d" => 0,
                    b"h" => 1,
                    b"s" => 2,
                    b"o" => 3,
                    _ => return None,
                }
            }
            b"ot" => {
                let tokens: [&[u8]; 9] = [b"m", b"a", b"v", b"av", b"i", b"c", b"tt", b"k", b"o"];
                self.object = tokens.iter().position(|token| Some(*token) == value)?;
            }
            b"" => return None,
            _ => {} // d, tb, nor, nrr, pr, st, v, sid, cid, and whatever players add
        }
        Some(())
    }
}

/// The first item and what follows its comma; a comma within quotes separates nothing.
fn split_item(list: &[u8]) -> Option<(&[u8], &[u8])> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in list.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => return Some((&list[..at], &list[at + 1..])),
            _ => {}
        }
    }
    (!quoted).then_some((list, &[]))
}

fn number(value: Option<&[u8]>) -> Option<u64> {
    let value = value?;
    let digits = !value.is_empty() && value.len() <= 10 && value.iter().all(u8::is_ascii_digit);
    let number = value.iter().filter(|_| digits).fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    (digits && number <= NUMBER_MAX).then_some(number)
}

/// A key alone means true (RFC 8941 §3.2).
fn flag(value: Option<&[u8]>) -> Option<bool> {
    match value {
        None | Some(b"true") => Some(true),
        Some(b"false") => Some(false),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(list: &str) -> Cmcd {
        let mut cmcd = Cmcd::default();
        cmcd.read(list.as_bytes());
        cmcd
    }

    #[test]
    fn the_known_keys_are_read_with_their_types() {
        let cmcd = read(
            r#"bl=21300,bs,br=160,cid="a,b=\"c",dl=18500,mtp=48100,ot=a,rtp=640,sf=h,sid="6e2f",su,v=1,com.x-y=3"#,
        );
        let expected = Cmcd {
            format: 1,
            object: 1,
            bitrate_kbps: Some(160),
            measured_kbps: Some(48_100),
            requested_kbps: Some(640),
            buffer_ms: Some(21_300),
            deadline_ms: Some(18_500),
            starved: true,
            startup: true,
            flawed: false,
        };
        assert_eq!(cmcd, expected);
        assert_eq!(read(""), Cmcd::default());
    }

    #[test]
    fn what_has_the_wrong_type_is_skipped_and_said_to_be_flawed() {
        for list in [
            "bl=-1",
            "bl=1.5",
            "bl",
            "bl=",
            "bl=99999999999",
            "bl=1000000001",
            "bs=1",
            "ot=x",
            "ot",
            "sf=\"h\"",
            ",",
            "=1",
            "cid=\"open",
        ] {
            assert_eq!(read(list), Cmcd { flawed: true, ..Cmcd::default() }, "{list}");
        }
        let mixed = read("bl=x,br=64");
        assert!(mixed.flawed && mixed.bitrate_kbps == Some(64));
        assert!(read(&format!("br=64,x=\"{}\"", "y".repeat(BYTES_MAX))).flawed);
        assert_eq!(read("bs=false,su=true"), Cmcd { startup: true, ..Cmcd::default() });
    }

    #[test]
    fn the_argument_is_found_beside_others() {
        assert_eq!(argument("token=a&CMCD=bl%3D1%2Cbs&expires=2"), Some("bl%3D1%2Cbs"));
        assert_eq!(argument("cmcd=bl%3D1"), None);
        assert_eq!(argument("XCMCD=1"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(list in prop::collection::vec(any::<u8>(), 0..300)) {
            Cmcd::default().read(&list);
        }
    }
}
