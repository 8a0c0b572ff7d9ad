//! Takes what opens doors out of text before anybody reads it. In: a URL, or any line that may hold one.
//! Out: the same text with `REDACTED` in place of tokens, signatures, credentials and listeners' ids.
//!
//! Inside a URL nothing is trusted: of its parameters only a few known harmless ones keep their value,
//! however their names are spelled or escaped. Outside, values are hidden by the name before them, and
//! keys by their own prefix. What is hidden may be too much, so that it is never too little.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

/// What stands in place of a secret (the word of OpenTelemetry's semantic conventions for `url.query`).
const MASK: &str = "REDACTED";

/// `text` without its secrets. Borrows when there are none. Time is linear in the length for anything a
/// server writes; the longest lookahead is `NAME_BYTES_MAX` and `AUTHORITY_BYTES_MAX`.
pub fn text(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let mut clean = String::new();
    let (mut at, mut copied) = (0, 0);
    while at < bytes.len() {
        let Some(secret) = secret_at(bytes, at) else {
            at += 1;
            continue;
        };
        clean.push_str(&text[copied..secret.start]);
        clean.push_str(MASK);
        copied = secret.end;
        at = secret.end.max(at + 1);
    }
    if copied == 0 && clean.is_empty() {
        return Cow::Borrowed(text);
    }
    clean.push_str(&text[copied..]);
    Cow::Owned(clean)
}

/// Where a listener is, roughly: the /24 or /48 of an address (personal data: a log needs no more).
pub fn address(ip: IpAddr) -> String {
    match ip.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            format!("{}/24", Ipv4Addr::new(a, b, c, 0))
        }
        IpAddr::V6(v6) => {
            let [a, b, c, ..] = v6.segments();
            format!("{}/48", Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0))
        }
    }
}

/// The secret whose name, scheme or prefix begins at `at`.
fn secret_at(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let found = match bytes[at] {
        b':' => userinfo(bytes, at),
        _ => prefixed(bytes, at).or_else(|| parameter(bytes, at)),
    };
    found.filter(|range| !range.is_empty())
}

/// `user:password` of `scheme://user:password@host`.
fn userinfo(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    const AUTHORITY_BYTES_MAX: usize = 512;
    let rest = bytes[at..].strip_prefix(b"://")?;
    let rest = &rest[..rest.len().min(AUTHORITY_BYTES_MAX)];
    let end = rest.iter().position(|b| b"/?#".contains(b) || ends_text(*b)).unwrap_or(rest.len());
    let sign = rest[..end].iter().rposition(|b| *b == b'@')?;
    Some(at + 3..at + 3 + sign)
}

/// Keys that can be told by how they begin, wherever they stand.
fn prefixed(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let rest = &bytes[at..];
    let (skip, bytes_min) = match rest {
        [b's', b'g', b'k' | b's', b'_', ..] => (4, 1), // our API keys and share tokens
        [b'H', b'S', b'2', b'5', b'6', b'-', ..] => (6, 1), // Bunny's tokens
        [b'e', b'y', b'J', ..] if is_jwt(rest) => (0, 20), // JSON Web Tokens
        _ if starts_with_word(bytes, at, b"bearer ") => (7, 8), // RFC 6750 §2.1
        _ => return None,
    };
    let length = rest[skip..].iter().position(|b| !is_token_byte(*b)).unwrap_or(rest.len() - skip);
    (length >= bytes_min).then(|| at + skip..at + skip + length)
}

fn is_jwt(rest: &[u8]) -> bool {
    let length = rest.iter().position(|b| !is_token_byte(*b)).unwrap_or(rest.len());
    rest[..length].iter().filter(|b| **b == b'.').count() == 2
}

fn starts_with_word(bytes: &[u8], at: usize, word: &[u8]) -> bool {
    let begins = at == 0 || !bytes[at - 1].is_ascii_alphanumeric();
    begins && bytes[at..].get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~+/=%".contains(&byte)
}

/// The value of the parameter, field or header whose name begins at `at`.
fn parameter(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    match boundary(bytes, at)? {
        Boundary::Url => {
            let (name, value_at) = url_name(bytes, at)?;
            let length = bytes[value_at..].iter().position(|b| matches!(b, b'&' | b'#') || ends_text(*b));
            let end = length.map_or(bytes.len(), |length| value_at + length);
            (!is_harmless(&name, &bytes[value_at..end])).then_some(value_at..end)
        }
        Boundary::Text => field(bytes, at),
    }
}

enum Boundary {
    /// Behind `?`, `&`, `/` or `;`, or one of them escaped.
    Url,
    /// At the start, or behind anything that is in no name.
    Text,
}

fn boundary(bytes: &[u8], at: usize) -> Option<Boundary> {
    let Some(before) = at.checked_sub(1).map(|before| bytes[before]) else { return Some(Boundary::Text) };
    if b"?&/;".contains(&before) || at.checked_sub(3).is_some_and(|from| is_escaped(&bytes[from..at], b"?&/;")) {
        return Some(Boundary::Url);
    }
    (!is_name_byte(before)).then_some(Boundary::Text)
}

/// Whether `escape` is `%XX` for one of `which`.
fn is_escaped(escape: &[u8], which: &[u8]) -> bool {
    unescape(escape).is_some_and(|byte| which.contains(&byte))
}

fn unescape(escape: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = *escape else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    Some((digit(high)? * 16 + digit(low)?) as u8)
}

const NAME_BYTES_MAX: usize = 192;

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-.%".contains(&byte)
}

/// The name of a URL parameter, unescaped and in lower case, and where its value begins.
fn url_name(bytes: &[u8], at: usize) -> Option<(Vec<u8>, usize)> {
    let mut name = vec![];
    let mut next = at;
    while name.len() < NAME_BYTES_MAX {
        let rest = &bytes[next..];
        match *rest.first()? {
            b'=' => return (!name.is_empty()).then_some((name, next + 1)),
            b'%' if is_escaped(rest, b"=") => return (!name.is_empty()).then_some((name, next + 3)),
            byte if b"?&/;".contains(&byte) || ends_text(byte) => return None,
            // Any other byte, and an escape of any byte: every name may be one of something secret.
            byte => {
                let unescaped = unescape(rest);
                name.push(unescaped.unwrap_or(byte).to_ascii_lowercase());
                next += if unescaped.is_some() { 3 } else { 1 };
            }
        }
    }
    Some((name, next)) // too long to be told from a value
}

/// Parameters that say something useful and open nothing.
fn is_harmless(name: &[u8], value: &[u8]) -> bool {
    let value_is = |allowed: fn(&u8) -> bool| value.len() <= 512 && value.iter().all(allowed);
    match name {
        b"expires" | b"x-amz-expires" | b"x-amz-date" | b"limit" | b"preview" => {
            // Behind a path token the path follows: it is looked at for itself.
            let end = value.iter().position(|b| *b == b'/').unwrap_or(value.len());
            value[..end].iter().all(|b| b.is_ascii_digit() || matches!(b, b'T' | b'Z')) && end <= 20
        }
        b"token_path" => value_is(|b| b.is_ascii_alphanumeric() || b"%/_.-".contains(b)),
        b"x-amz-algorithm" | b"x-amz-signedheaders" => value_is(|b| b.is_ascii_alphanumeric() || b"-;%".contains(b)),
        b"token_ignore_params" => value.starts_with(b"true"),
        _ => false,
    }
}

/// The value of `name=value`, `name: value`, `"name": "value"` in running text, when the name is one of
/// something secret.
fn field(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let rest = &bytes[at..];
    let name_bytes =
        rest.iter().take(NAME_BYTES_MAX).position(|b| !is_name_byte(*b) || *b == b'%').unwrap_or(rest.len());
    let name = rest.get(..name_bytes)?.to_ascii_lowercase();
    let secret = Secret::named(&name)?;
    let mut next = at + name_bytes;
    skip(bytes, &mut next, b"\\\"'");
    skip(bytes, &mut next, b" ");
    match bytes.get(next)? {
        b'=' => next += 1,
        b'%' if is_escaped(&bytes[next..], b"=") => next += 3,
        b':' if secret != Secret::Parameter && bytes.get(next + 1) != Some(&b':') => next += 1,
        _ => return None,
    }
    skip(bytes, &mut next, b" ");
    let escapes_at = next;
    skip(bytes, &mut next, b"\\");
    let rest = &bytes[next..];
    if let Some(quote @ (b'"' | b'\'')) = rest.first() {
        let length = quoted(&rest[1..], *quote, next - escapes_at);
        return Some(next + 1..next + 1 + length);
    }
    let end = match secret {
        Secret::Header => rest.iter().position(|b| b"\r\n".contains(b)),
        _ => rest.iter().position(|b| *b == b'&' || ends_text(*b)),
    };
    Some(next..end.map_or(bytes.len(), |length| next + length))
}

/// The length of what is quoted, when the opening quote had `escapes` backslashes before it: text quoted
/// within quoted text has more.
fn quoted(rest: &[u8], quote: u8, escapes: usize) -> usize {
    let mut backslashes = 0;
    for (at, byte) in rest.iter().enumerate() {
        match *byte {
            b'\\' => backslashes += 1,
            byte if byte == quote && backslashes <= escapes => return at - backslashes,
            _ => backslashes = 0,
        }
    }
    rest.len()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Secret {
    /// Its value may hold blanks, and lasts to the end of the line.
    Header,
    /// Its value is one word.
    Word,
    /// A word in English too: only `name=` counts.
    Parameter,
}

impl Secret {
    fn named(name: &[u8]) -> Option<Secret> {
        const HEADERS: [&[u8]; 2] = [b"authorization", b"cookie"];
        const WORDS: [&[u8]; 10] = [
            b"token",
            b"secret",
            b"password",
            b"passwd",
            b"signature",
            b"credential",
            b"api_key",
            b"api-key",
            b"apikey",
            b"key-pair-id",
        ];
        const PARAMETERS: [&[u8]; 8] = [b"policy", b"verify", b"sig", b"sid", b"cid", b"cmcd", b"hdnts", b"access_key"];
        let ends_with = |words: &[&[u8]]| words.iter().any(|word| name.ends_with(word));
        match name {
            _ if ends_with(&HEADERS) || name.starts_with(b"cmcd-") => Some(Secret::Header),
            _ if ends_with(&WORDS) => Some(Secret::Word),
            _ => PARAMETERS.contains(&name).then_some(Secret::Parameter),
        }
    }
}

fn skip(bytes: &[u8], at: &mut usize, which: &[u8]) {
    while bytes.get(*at).is_some_and(|byte| which.contains(byte)) {
        *at += 1;
    }
}

/// Whether a URL, or a word, cannot go on with this byte.
fn ends_text(byte: u8) -> bool {
    byte <= b' ' || byte == 0x7f || b"\"'<>\\`".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(dirty: &str, clean: &str) {
        assert_eq!(text(dirty), clean, "{dirty}");
        assert_eq!(text(clean), clean, "what is clean stays as it is");
    }

    #[test]
    fn every_scheme_loses_its_secret_and_keeps_the_rest() {
        check(
            "/bcdn_token=HS256-abc_-1&expires=1800000060&token_path=%2Fa%2Ftrk%2F/a/trk/1/aac/96/00000.mp4",
            "/bcdn_token=REDACTED&expires=1800000060&token_path=%2Fa%2Ftrk%2F/a/trk/1/aac/96/00000.mp4",
        );
        check("/d/t/v/f.mp4?token=HS256-1-xyz&expires=9", "/d/t/v/f.mp4?token=REDACTED&expires=9");
        check(
            "GET https://cdn.example/a?Policy=eyJTd~_&Signature=ab~-&Key-Pair-Id=K2 403",
            "GET https://cdn.example/a?Policy=REDACTED&Signature=REDACTED&Key-Pair-Id=REDACTED 403",
        );
        check("/a/x?verify=1800000000-Zm9v%3D", "/a/x?verify=REDACTED");
        check(
            "https://b.example/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIA/2026/s3&X-Amz-Date=20260101T000000Z\
             &X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Security-Token=Fwo/&X-Amz-Signature=0f",
            "https://b.example/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=REDACTED&X-Amz-Date=20260101T000000Z\
             &X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Security-Token=REDACTED&X-Amz-Signature=REDACTED",
        );
        check("postgres://segue:hunter2@db:5432/segue", "postgres://REDACTED@db:5432/segue");
        check("key sgk_live_0123 is unknown", "key sgk_REDACTED is unknown");
        check("Authorization: Bearer abc.def\r\nHost: x", "Authorization: REDACTED\r\nHost: x");
        check(r#"{"authorization": "Basic Zm9v", "host": "x"}"#, r#"{"authorization": "REDACTED", "host": "x"}"#);
        check(r#"CMCD-Session: sid="6e2f",cid="x""#, "CMCD-Session: REDACTED");
        check(r#"{"cmcd-session": "sid=\"6e2f\"", "a": 1}"#, r#"{"cmcd-session": "REDACTED", "a": 1}"#);
    }

    #[test]
    fn what_is_no_secret_is_left_alone() {
        for plain in [
            "",
            "/a/trk_0000000000000000test/0123/aac/96/00000.mp4",
            "segue=debug,warn",
            "the token has expired",
            "reason=\"token_missing\" status=403 bytes=10",
            "route=\"/a/{track}/{version}/{rung}/{segment}.mp4\"",
            "http://127.0.0.1:4318/v1/traces",
            "core::token::path",
            "ä/ö?ü",
        ] {
            assert!(matches!(text(plain), Cow::Borrowed(same) if same == plain), "{plain}");
        }
    }

    #[test]
    fn an_address_is_known_to_its_prefix() {
        assert_eq!(address("203.0.113.77".parse().unwrap()), "203.0.113.0/24");
        assert_eq!(address("::ffff:203.0.113.77".parse().unwrap()), "203.0.113.0/24");
        assert_eq!(address("2001:db8:1:2:3::4".parse().unwrap()), "2001:db8:1::/48");
    }

    /// Each letter as it is, in the other case, or escaped.
    fn spelled(name: &'static str) -> impl Strategy<Value = String> {
        prop::collection::vec(0..6u8, name.len()).prop_map(move |ways| {
            let spell = |(letter, way): (char, u8)| match way {
                0 => format!("%{:02x}", u32::from(letter)),
                1 => letter.to_ascii_uppercase().to_string(),
                _ => letter.to_string(),
            };
            name.chars().zip(ways).map(spell).collect()
        })
    }

    fn url_parameter() -> impl Strategy<Value = String> {
        prop::sample::select(
            &[
                "token",
                "bcdn_token",
                "verify",
                "Signature",
                "Policy",
                "Key-Pair-Id",
                "X-Amz-Signature",
                "X-Amz-Credential",
                "X-Amz-Security-Token",
                "CMCD",
                "password",
                "anything",
            ][..],
        )
        .prop_flat_map(spelled)
    }

    proptest! {
        #[test]
        fn no_secret_gets_through_however_the_url_is_spelled(
            name in url_parameter(),
            secret in "[A-Za-z0-9]{16,40}",
            lead in "[-/+%2F=.~]{0,3}",
            before in "[a-z/&?=0-9]{0,12}",
            after in "(&[a-z]{1,4}=[a-z0-9]{0,4}|/[a-z/]{0,8}| [a-z]{0,8}){0,3}",
            sign in prop::sample::select(&["=", "%3D", "%3d"][..]),
            place in prop::sample::select(&["/", "/p?", "/p?x=1&", "/p%3F", "%2Fp%3fx%3D1%26", "/p;"][..]),
        ) {
            let url = format!("/{before}{place}{name}{sign}{lead}{secret}{after}");
            for line in [
                url.clone(),
                format!("cannot open {url:?}: refused"),
                format!("uri=https://host{url} status=403"),
                serde_json::to_string(&serde_json::json!({"path": format!("{url:?}")})).unwrap(),
            ] {
                let clean = text(&line);
                prop_assert!(!clean.contains(&secret), "{line} -> {clean}");
                prop_assert_eq!(text(&clean), clean.as_ref());
            }
        }

        #[test]
        fn no_header_or_field_gets_through(
            name in prop::sample::select(&["authorization", "Cookie", "set-cookie", "x-api-key", "X-Verify-Token",
                "password", "refresh_token", "client_secret", "cmcd-session"][..]),
            secret in "[A-Za-z0-9]{16,40}",
            scheme in prop::sample::select(&["", "Bearer-", "x="][..]),
        ) {
            let value = format!("{scheme}{secret}");
            let headers = std::collections::BTreeMap::from([(name, value.as_str())]);
            let debug = format!("headers: {headers:?}");
            for line in [
                format!("{name}: {value}"),
                format!("{name}={value} next=1"),
                serde_json::to_string(&debug).unwrap(),
                debug,
            ] {
                let clean = text(&line);
                prop_assert!(!clean.contains(&secret), "{line} -> {clean}");
            }
        }

        #[test]
        fn any_text_is_survived(line in "\\PC{0,200}") {
            let once = text(&line).into_owned();
            prop_assert_eq!(text(&once).into_owned(), once.clone());
        }
    }
}
