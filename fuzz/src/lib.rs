//! What strangers can hand us, and what must hold whatever it is. Each target takes any bytes and panics when its
//! oracle is broken: a second, naive reading of the rule, or a way back to what was read.

mod control;
mod told;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use hyper::header::{
    HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE,
};
use m3u8_rs::Playlist;
use segue::base::secret::Secret;
use segue::cdn::explain::{Asked, explain};
use segue::cdn::{Presented, Verifier, bunny, cloudflare, cloudfront, rsa};
use segue::hls::cmaf::{Header, check_rung, decode_init, decode_segment};
use segue::hls::playlist::{self, Scope};
use segue::hls::version::{Role, VersionIndex};
use segue::origin::conditional::{Validators, Verdict, evaluate, range_counts};
use segue::origin::range::{Ranged, resolve_text};
use segue::origin::target::{ObjectName, Part, Target};

pub use control::{callbacks, keys, redacted, tus, wishes};
pub use told::{bodies, webhooks};

/// A target: its name, as `cargo fuzz list` has it, and what it does.
pub type Run = (&'static str, fn(&[u8]));

/// Every target.
pub const ALL: &[Run] = &[
    ("range", range),
    ("conditions", conditions),
    ("target", target),
    ("tokens", tokens),
    ("playlists", playlists),
    ("cmaf", cmaf),
    ("version", version),
    ("tus", tus),
    ("callbacks", callbacks),
    ("keys", keys),
    ("wishes", wishes),
    ("redacted", redacted),
    ("webhooks", webhooks),
    ("bodies", bodies),
];

/// A `Range` field, against the positions that it selects, one by one (RFC 9110 §14.1.2).
pub fn range(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for length in [0, 1, 2, 10, 300] {
        let expected = match (naive_range(text), length) {
            (None, _) | (_, 0) => Ranged::Whole,
            (Some(asked), _) => {
                let selected: Vec<u64> = (0..length).filter(|at| asked.selects(*at, length)).collect();
                match (selected.first(), selected.last()) {
                    (Some(first), Some(last)) => Ranged::Part(*first..*last + 1),
                    _ => Ranged::Unsatisfiable,
                }
            }
        };
        assert_eq!(resolve_text(text, length), expected, "{text:?} of {length}");
    }
    if let Ranged::Part(part) = resolve_text(text, u64::MAX) {
        assert!(part.start < part.end);
    }
}

/// Positions as decimal digits without leading zeros: as long as they like.
enum Positions<'t> {
    From(&'t str),
    Between(&'t str, &'t str),
    Last(&'t str),
}

impl Positions<'_> {
    fn selects(&self, at: u64, length: u64) -> bool {
        match self {
            Positions::From(first) => is_at_most(first, at),
            Positions::Between(first, last) => {
                is_at_most(first, at) && !is_at_most(last, at.wrapping_sub(1)) | (at == 0)
            }
            Positions::Last(count) => !is_at_most(count, length - at - 1),
        }
    }
}

/// Whether the number `digits` is at most `n`.
fn is_at_most(digits: &str, n: u64) -> bool {
    let digits = digits.trim_start_matches('0');
    let n = n.to_string();
    let digits = if digits.is_empty() { "0" } else { digits };
    digits.len() < n.len() || (digits.len() == n.len() && digits <= n.as_str())
}

fn naive_range(text: &str) -> Option<Positions<'_>> {
    let set = text.get(6..).filter(|_| text[..6].eq_ignore_ascii_case("bytes="))?;
    let elements: Vec<&str> = set
        .split(',')
        .map(|element| element.trim_matches(|c| c == ' ' || c == '\t'))
        .filter(|e| !e.is_empty())
        .collect();
    let [only] = elements[..] else { return None };
    let (first, last) = only.split_once('-')?;
    let is_number = |digits: &str| !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit());
    match (is_number(first), is_number(last)) {
        (false, true) if first.is_empty() => Some(Positions::Last(last)),
        (true, false) if last.is_empty() => Some(Positions::From(first)),
        (true, true) => {
            let (a, b) = (first.trim_start_matches('0'), last.trim_start_matches('0'));
            let ordered = a.len() < b.len() || (a.len() == b.len() && a <= b);
            ordered.then_some(Positions::Between(first, last))
        }
        _ => None,
    }
}

const ETAG: &[u8] = b"\"a,b\"";
const MODIFIED_S: u64 = 1_445_412_480;

/// Conditional fields, one `name: value` a line: no 304 and no 412 without a reason, and a second reading of lists of
/// tags (RFC 9110 §13).
pub fn conditions(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(8) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..colon]).ok();
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok();
        let known = [IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE, IF_RANGE];
        if let (Some(name), Some(value)) = (name.filter(|name| known.contains(name)), value) {
            headers.append(name, value);
        }
    }
    let object = Validators { etag: ETAG, modified_s: Some(MODIFIED_S) };
    let tagged = |name: &HeaderName, weak: bool| headers.contains_key(name).then(|| names(&headers, name, weak));
    let dated = |name: &HeaderName| headers.contains_key(name);
    let (if_match, if_none_match) = (tagged(&IF_MATCH, false), tagged(&IF_NONE_MATCH, true));
    let verdict = evaluate(&headers, object);
    match (if_match, if_none_match) {
        (Some(false), _) => assert_eq!(verdict, Verdict::PreconditionFailed, "{headers:?}"),
        (Some(true), Some(true)) => assert_eq!(verdict, Verdict::NotModified, "{headers:?}"),
        (Some(true), Some(false)) => assert_eq!(verdict, Verdict::Send, "{headers:?}"),
        (None, Some(_)) if !dated(&IF_UNMODIFIED_SINCE) => {
            assert_eq!(verdict == Verdict::NotModified, if_none_match == Some(true), "{headers:?}");
        }
        (None, None) if !dated(&IF_MODIFIED_SINCE) => assert_ne!(verdict, Verdict::NotModified, "{headers:?}"),
        _ => {}
    }
    if if_match != Some(false) && !dated(&IF_UNMODIFIED_SINCE) {
        assert_ne!(verdict, Verdict::PreconditionFailed, "{headers:?}");
    }
    // A weak or another validator never lets a part be sent.
    let ranges = headers.get_all(IF_RANGE).iter().collect::<Vec<_>>();
    if range_counts(&headers, object, MODIFIED_S + 60) {
        let dates = |value: &HeaderValue| value.as_bytes().windows(4).any(|part| part == b"2015" || part == b"-15 ");
        assert!(ranges.is_empty() || (ranges.len() == 1 && (ranges[0].as_bytes() == ETAG || dates(ranges[0]))));
    }
}

/// Whether a field names our tag, read character by character.
fn names(headers: &HeaderMap, name: &HeaderName, weak: bool) -> bool {
    let lines: Vec<&[u8]> = headers.get_all(name).iter().map(|value| value.as_bytes()).collect();
    if lines.len() == 1 && lines[0].trim_ascii() == b"*" {
        return true;
    }
    let mut found = false;
    for line in lines {
        // What may come: an element or a comma, the rest of a tag, only a comma.
        #[derive(PartialEq)]
        enum State {
            Element,
            Tag(Vec<u8>),
            Comma,
        }
        let mut state = State::Element;
        let mut rest = line;
        while let Some((&byte, after)) = rest.split_first() {
            rest = after;
            state = match (state, byte) {
                (State::Element, b' ' | b'\t' | b',') => State::Element,
                (State::Element, b'"') => State::Tag(vec![b'"']),
                (State::Element, b'W') if after.starts_with(b"/\"") => {
                    rest = &after[2..];
                    State::Tag(b"W/\"".to_vec())
                }
                (State::Tag(mut tag), byte) => {
                    tag.push(byte);
                    if byte == b'"' {
                        found |= tag == ETAG || (weak && tag.strip_prefix(b"W/") == Some(ETAG));
                        State::Comma
                    } else {
                        State::Tag(tag)
                    }
                }
                (State::Comma, b' ' | b'\t') => State::Comma,
                (State::Comma, b',') => State::Element,
                _ => return false,
            };
        }
        if matches!(state, State::Tag(_)) {
            return false;
        }
    }
    found
}

/// A path: what is read can be written down again in exactly one way.
pub fn target(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Some(target) = Target::decode(text) else { return };
    let rung = |directory: &str, name: &str, part: Part| {
        let name = if name.is_empty() { String::new() } else { format!("/{name}") };
        let file = match part {
            Part::Playlist => "index.m3u8".to_owned(),
            Part::Init => "init.mp4".to_owned(),
            Part::Segment(number) => format!("{number:05}.mp4"),
        };
        format!("{directory}{name}/{file}")
    };
    let (space, rest) = match target.object {
        ObjectName::Multivariant(scope) => ("a", scope.path().to_owned()),
        ObjectName::OfRung(of, part) => ("a", rung(of.family.as_str(), of.name, part)),
        ObjectName::File(name) => ("d", name.to_owned()),
        ObjectName::OfPreview(Part::Playlist) => ("p", "preview.m3u8".to_owned()),
        ObjectName::OfPreview(part) => ("p", rung("preview", "", part)),
        ObjectName::Extra(Role::Preview) => ("p", "preview.m4a".to_owned()),
        ObjectName::Extra(Role::Peaks) => ("w", "peaks.bin".to_owned()),
        ObjectName::Extra(Role::PeaksAt(zoom)) => ("w", format!("peaks-{zoom}.bin")),
        ObjectName::Extra(Role::PeaksSmall) => ("w", "peaks.json".to_owned()),
        ObjectName::Extra(Role::Poster) => ("p", "poster.jpg".to_owned()),
    };
    assert_eq!(target.path, format!("/{space}/{}/{}/{rest}", target.track, target.version));
    let token = target.token.map(|token| format!("/{token}")).unwrap_or_default();
    assert_eq!(text, format!("{token}{}", target.path));
    assert!(
        !target.path.contains('%') && target.path.split('/').all(|component| component != "." && component != "..")
    );
}

/// The key and the time that the corpus was signed with.
pub const KEY: &str = "SecurityKey";
pub const NOW_S: u64 = 1_800_000_000;

fn verifier(key: &str) -> Verifier {
    let secret = Secret::new(key.as_bytes());
    let all = bunny::Accept { sha256: true, md5: true };
    // The corpus was signed with the other half of it, which nobody has any more.
    let pem = include_str!("../../tests/data/cloudfront_fuzz.pem");
    let pair = cloudfront::KeyPair { id: key.into(), key: rsa::Key::from_pem(pem).unwrap() };
    Verifier {
        bunny: Some(bunny::Keys::new(bunny::Key::new(&secret).unwrap(), None).accepting(all)),
        cloudfront: Some(cloudfront::Keys::new(pair, None, "https://media.example.com")),
        cloudflare: Some(cloudflare::Keys::new(cloudflare::Key::new(&secret).unwrap(), None, 60)),
    }
}

/// A path, a query and a cookie, a line each: what opens was signed with our key for this path and this time, and
/// `explain` says the same as the origin.
pub fn tokens(data: &[u8]) {
    thread_local! {
        static OURS: Verifier = verifier(KEY);
        static THEIRS: Verifier = verifier("AnotherKey");
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.split('\n');
    let (whole, query, cookies) =
        (lines.next().unwrap_or_default(), lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let peer = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    let (component, path) = match bunny::split_path(whole) {
        Some((component, path)) => (Some(component), path),
        None => (None, whole),
    };
    let presented = match (component, cloudfront::Params::of_cookies(std::iter::once(cookies))) {
        (Some(component), _) => Presented::Path(component),
        (None, Some(params)) if segue::cdn::Carried::by(query).is_none() => Presented::Cookies(params, query),
        _ => Presented::Query(query),
    };
    let asks = |verifier: &Verifier, path: &str, now_s| verifier.verify(presented, path, peer, now_s);
    OURS.with(|ours| {
        let answer = asks(ours, path, NOW_S);
        assert_eq!(asks(ours, path, NOW_S), answer, "twice the same, from memory too: {text:?}");
        let asked = Asked { path: whole, query, cookies, peer, now_s: NOW_S };
        let verdicts = explain(ours, &asked);
        let applies = verdicts.iter().find(|verdict| verdict.answer.is_some());
        assert_eq!(answer.is_ok(), applies.is_some_and(|verdict| verdict.is_valid()), "{text:?}: {verdicts:?}");
        verdicts.iter().for_each(|verdict| drop(verdict.to_string()));
        if answer.is_ok() {
            assert!(THEIRS.with(|theirs| asks(theirs, path, NOW_S)).is_err(), "{text:?} under another key");
            assert!(asks(ours, path, u64::MAX / 2).is_err(), "{text:?} never expires");
            assert!(asks(ours, "/elsewhere/x", NOW_S).is_err(), "{text:?} opens everything");
        }
    });
}

/// A `version.json`: what is taken can be written and read again, and its numbers add up.
pub fn version(data: &[u8]) {
    let Ok(index) = VersionIndex::decode(data) else { return };
    let (document, id) = index.seal();
    assert_eq!(VersionIndex::decode_as(id, &document).unwrap(), index);
    let _ = index.duration_s();
    for rung in &index.rungs {
        let starts: Vec<u64> = rung.offsets().collect();
        assert_eq!(starts.len(), rung.segments.len());
        let last = rung.segments.last().unwrap();
        assert_eq!(starts.last().unwrap() + last.bytes, rung.object.bytes);
        assert!(starts.iter().all(|start| start % rung.alignment == 0));
        assert!(!rung.path().contains(".."));
        let _ = index.is_lossless(rung);
    }
    assert!(index.objects().all(|object| !object.name.contains('/')));
}

/// The playlists of whatever version is taken, read back by m3u8-rs: the same children, nothing slipped in.
pub fn playlists(data: &[u8]) {
    let Ok(index) = VersionIndex::decode(data) else { return };
    for handed_on in [&[][..], &["token", "expires"]] {
        for scope in Scope::ALL {
            let Some(bytes) = playlist::multivariant(&index, scope, handed_on) else { continue };
            let Ok(Playlist::MasterPlaylist(master)) = m3u8_rs::parse_playlist_res(&bytes) else {
                panic!("not a multivariant playlist: {}", String::from_utf8_lossy(&bytes))
            };
            let uris: BTreeSet<String> = master.variants.iter().map(|variant| variant.uri.clone()).collect();
            let within = |family: &str| match scope {
                Scope::All => true,
                _ => scope.directory() == format!("{family}/"),
            };
            let rungs = index.rungs.iter().filter(|rung| within(rung.family.as_str()));
            for rung in rungs.clone() {
                let uri = format!("{}/index.m3u8", rung.path()).split_off(scope.directory().len());
                assert!(uris.iter().any(|known| known.split('?').next() == Some(&uri)), "{uri} in {uris:?}");
            }
            assert_eq!(master.variants.len(), rungs.count());
            let found = master.variants.iter().map(|variant| (variant.bandwidth, variant.codecs.clone()));
            let wanted = index
                .rungs
                .iter()
                .filter(|rung| within(rung.family.as_str()))
                .map(|r| (r.peak_bps, Some(r.codecs.clone())));
            assert!(found.eq(wanted), "{}", String::from_utf8_lossy(&bytes));
        }
        for rung in &index.rungs {
            let bytes = playlist::media(rung, handed_on);
            let Ok(Playlist::MediaPlaylist(media)) = m3u8_rs::parse_playlist_res(&bytes) else {
                panic!("not a media playlist: {}", String::from_utf8_lossy(&bytes))
            };
            assert_eq!(media.segments.len(), rung.segments.len());
            assert!(media.end_list);
            for (number, segment) in media.segments.iter().enumerate() {
                assert_eq!(segment.uri.split('?').next(), Some(playlist::segment_name(number).as_str()));
                // RFC 8216bis §4.4.3.1: rounded to the nearest integer, no EXTINF is longer.
                let rounded = f64::from(segment.duration).round();
                assert!(rounded <= media.target_duration as f64 * 1.000_001, "{rounded} of {}", media.target_duration);
            }
        }
    }
}

/// Sections of CMAF: none is believed, and what an init section says can be written and read again.
pub fn cmaf(data: &[u8]) {
    if let Ok(facts) = decode_init(data) {
        let header = Header {
            setup: facts.setup.clone(),
            rate: facts.rate,
            channels: facts.channels,
            bits: facts.bits,
            priming: facts.priming,
            samples: facts.samples,
            average_bps: 0,
            peak_bps: 0,
        };
        let again = decode_init(&header.encode()).expect("what was read can be written");
        assert_eq!((again.setup, again.rate, again.samples), (facts.setup, facts.rate, facts.samples));
        assert_eq!((again.channels, again.codecs), (facts.channels, facts.codecs));
    }
    if let Ok(facts) = decode_segment(data) {
        assert!(facts.frames > 0 && facts.data_bytes < data.len() as u64);
    }
    // An init section and segments, one after the other.
    let mut pieces = data.split_inclusive(|byte| *byte == 0xff);
    let init = pieces.next().unwrap_or_default();
    let _ = check_rung(init, pieces.take(4));
    for at in (0..data.len()).step_by(97).take(8) {
        let (init, segment) = data.split_at(at);
        if let Ok(ticks) = check_rung(init, [segment]) {
            assert!(ticks.iter().all(|ticks| *ticks > 0));
        }
    }
}
