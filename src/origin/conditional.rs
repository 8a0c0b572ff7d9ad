//! Whether a request's conditions let it have the object. In: the headers and the object's validators.
//! Out: Send, NotModified or PreconditionFailed. RFC 9110 §13, evaluated in the order of §13.2.2.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::header::{
    HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE,
};

/// What identifies the representation.
#[derive(Clone, Copy, Debug)]
pub struct Validators<'o> {
    /// The strong entity tag, with its quotes.
    pub etag: &'o [u8],
    /// Last modification, whole seconds since 1970; `None` when the object has no such date, so that
    /// conditions on it are ignored.
    pub modified_s: Option<u64>,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Answer as if there were no condition.
    Send,
    /// 304: the client has it.
    NotModified,
    /// 412: the client wants another one.
    PreconditionFailed,
}

/// Evaluates the preconditions of a GET or HEAD.
pub fn evaluate(headers: &HeaderMap, object: Validators<'_>) -> Verdict {
    // 1 and 2: If-Match, else If-Unmodified-Since.
    if headers.contains_key(IF_MATCH) {
        // §13.1.1: the strong comparison; a list is one that never matches when it cannot be read.
        if !matches(headers, &IF_MATCH, |tag| tag == object.etag) {
            return Verdict::PreconditionFailed;
        }
    } else if dates(headers, &IF_UNMODIFIED_SINCE, object).is_some_and(|(modified_s, since_s)| modified_s > since_s) {
        return Verdict::PreconditionFailed;
    }
    // 3 and 4: If-None-Match, else If-Modified-Since (§13.1.3: ignored when the other is present).
    if headers.contains_key(IF_NONE_MATCH) {
        // §13.1.2: the weak comparison, so that a cache's weakened tag still matches.
        if matches(headers, &IF_NONE_MATCH, |tag| strong(tag) == object.etag) {
            return Verdict::NotModified;
        }
    } else if dates(headers, &IF_MODIFIED_SINCE, object).is_some_and(|(modified_s, since_s)| modified_s <= since_s) {
        return Verdict::NotModified;
    }
    Verdict::Send
}

/// 5: whether a Range header counts, given If-Range (§13.1.5). `now_s` decides whether a date is strong.
pub fn range_counts(headers: &HeaderMap, object: Validators<'_>, now_s: u64) -> bool {
    if !headers.contains_key(IF_RANGE) {
        return true;
    }
    let Some(field) = only(headers, &IF_RANGE) else { return false };
    let value = field.as_bytes();
    if value.starts_with(b"\"") || value.starts_with(b"W/") {
        return value == object.etag; // ours is strong: a weak one cannot be equal
    }
    // §13.1.5: an exact match, and §8.8.2.2: of a date that no later change could share.
    object.modified_s.is_some_and(|modified_s| date(field) == Some(modified_s) && modified_s < now_s)
}

/// Whether the client names an entity tag at all.
pub(super) fn names_any(headers: &HeaderMap) -> bool {
    [IF_NONE_MATCH, IF_MATCH, IF_RANGE].iter().any(|name| headers.contains_key(name))
}

/// Whether the client names this entity tag, weakened or not.
pub(super) fn names(headers: &HeaderMap, etag: &[u8]) -> bool {
    [IF_NONE_MATCH, IF_MATCH, IF_RANGE].iter().any(|name| lists(headers, name, |tag| strong(tag) == etag))
}

/// Whether a list of entity tags is `*`, alone, or names one that is `wanted`.
fn matches(headers: &HeaderMap, name: &HeaderName, wanted: impl Fn(&[u8]) -> bool) -> bool {
    only(headers, name).is_some_and(|field| field.as_bytes().trim_ascii() == b"*") || lists(headers, name, wanted)
}

/// Whether a list of entity tags names one that is `wanted`. What cannot be read to its end is no list and names
/// nothing (§13.1.2: `"*" / #entity-tag`), so that a guess never becomes a 304.
fn lists(headers: &HeaderMap, name: &HeaderName, wanted: impl Fn(&[u8]) -> bool) -> bool {
    let mut named = false;
    for field in headers.get_all(name) {
        let mut rest = field.as_bytes();
        loop {
            // §5.6.1.2: empty elements are passed over.
            let start = rest.iter().position(|b| !matches!(b, b',' | b' ' | b'\t'));
            let Some(start) = start else { break };
            let Some((tag, after)) = first_tag(&rest[start..]) else { return false };
            named |= wanted(tag);
            rest = after.trim_ascii_start();
            if !rest.is_empty() && rest[0] != b',' {
                return false;
            }
        }
    }
    named
}

/// A tag without the mark of weakness.
fn strong(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

/// The field, if it stands alone. §13.1.3 and §13.1.4: a date that has company is ignored; no more is
/// Range or If-Range a list of fields.
pub(super) fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h HeaderValue> {
    let mut fields = headers.get_all(name).iter();
    fields.next().filter(|_| fields.next().is_none())
}

/// The `"…"` or `W/"…"` at the front of a list. A comma inside the quotes belongs to the tag (§8.8.3).
fn first_tag(list: &[u8]) -> Option<(&[u8], &[u8])> {
    let quote = if list.starts_with(b"W/") { 2 } else { 0 };
    if list.get(quote) != Some(&b'"') {
        return None;
    }
    let end = quote + 2 + list[quote + 1..].iter().position(|b| *b == b'"')?;
    Some(list.split_at(end))
}

/// When the object was modified, and the date of a condition, when both can be told.
fn dates(headers: &HeaderMap, name: &HeaderName, object: Validators<'_>) -> Option<(u64, u64)> {
    object.modified_s.zip(only(headers, name).and_then(date))
}

/// An HTTP date in whole seconds; `None` when it cannot be read (then it is ignored).
fn date(field: &HeaderValue) -> Option<u64> {
    let time: SystemTime = httpdate::parse_http_date(field.to_str().ok()?).ok()?;
    time.duration_since(UNIX_EPOCH).as_ref().map(Duration::as_secs).ok()
}

#[cfg(test)]
mod tests {
    use super::Verdict::*;
    use super::*;

    const MODIFIED_S: u64 = 1_445_412_480;
    const MODIFIED: &str = "Wed, 21 Oct 2015 07:28:00 GMT";
    const BEFORE: &str = "Wed, 21 Oct 2015 07:27:59 GMT";
    const AFTER: &str = "Wed, 21 Oct 2015 07:28:01 GMT";
    const OBJECT: Validators<'_> = Validators { etag: b"\"a,b\"", modified_s: Some(MODIFIED_S) };

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let line = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        let mut headers = HeaderMap::new();
        lines.iter().map(line).for_each(|(name, value)| _ = headers.append(name, value));
        headers
    }

    fn check(lines: &[(&'static str, &str)], expected: Verdict) {
        assert_eq!(evaluate(&headers(lines), OBJECT), expected, "{lines:?}");
    }

    #[test]
    fn each_condition_alone() {
        check(&[], Send);
        // §13.1.1: "the origin server MUST NOT perform the requested method if the condition is false".
        check(&[("if-match", "\"a,b\"")], Send);
        check(&[("if-match", "*")], Send);
        check(&[("if-match", "\"x\", \"a,b\"")], Send);
        check(&[("if-match", "\"x\"")], PreconditionFailed);
        check(&[("if-match", "W/\"a,b\"")], PreconditionFailed);
        check(&[("if-match", "garbage")], PreconditionFailed);
        // §13.1.2
        check(&[("if-none-match", "\"a,b\"")], NotModified);
        check(&[("if-none-match", "W/\"a,b\"")], NotModified);
        check(&[("if-none-match", "*")], NotModified);
        check(&[("if-none-match", "\"x\" ,, W/\"y\",\"a,b\"")], NotModified);
        check(&[("if-none-match", "\"a\", \"b\"")], Send);
        check(&[("if-none-match", "a,b")], Send);
        // "If-None-Match = "*" / #entity-tag": anything else names nothing, so that it is neither a false 304 nor,
        // for If-Match, a false 200.
        for no_list in [
            "\"a,b\" \"x\"",
            "\"x\" \"a,b\"",
            "\"x\"\"a,b\"",
            "\"a,b\"x",
            "\"a,b\", x",
            "x, \"a,b\"",
            "\"a,b\", \"x",
            "\"a,b\";q=1",
            "*, \"a,b\"",
            "\"a,b\", *",
            "w/\"a,b\"",
            "W/ \"a,b\"",
        ] {
            check(&[("if-none-match", no_list)], Send);
            check(&[("if-match", no_list)], PreconditionFailed);
        }
        check(&[("if-none-match", "\"a,b\""), ("if-none-match", "x")], Send);
        check(&[("if-none-match", "*"), ("if-none-match", "\"x\"")], Send);
        // §13.1.3
        check(&[("if-modified-since", MODIFIED)], NotModified);
        check(&[("if-modified-since", AFTER)], NotModified);
        check(&[("if-modified-since", BEFORE)], Send);
        check(&[("if-modified-since", "yesterday")], Send);
        // §13.1.4
        check(&[("if-unmodified-since", MODIFIED)], Send);
        check(&[("if-unmodified-since", BEFORE)], PreconditionFailed);
        check(&[("if-unmodified-since", "yesterday")], Send);
        // §13.1.3: "A recipient MUST ignore the If-Modified-Since header field if … the field value has
        // more than one member"; §13.1.4 says so too.
        check(&[("if-modified-since", MODIFIED), ("if-modified-since", MODIFIED)], Send);
        check(&[("if-unmodified-since", BEFORE), ("if-unmodified-since", BEFORE)], Send);
    }

    #[test]
    fn a_date_may_be_written_in_three_ways() {
        // §5.6.7: "a recipient of a timestamp value … MUST accept all three HTTP-date formats".
        for date in [MODIFIED, "Wednesday, 21-Oct-15 07:28:00 GMT", "Wed Oct 21 07:28:00 2015"] {
            check(&[("if-modified-since", date)], NotModified);
        }
    }

    #[test]
    fn tags_outrank_dates_and_matching_comes_before_freshness() {
        // §13.2.2, steps 1 to 4.
        check(&[("if-match", "\"a,b\""), ("if-unmodified-since", BEFORE)], Send);
        check(&[("if-match", "\"x\""), ("if-none-match", "\"a,b\"")], PreconditionFailed);
        check(&[("if-match", "\"a,b\""), ("if-none-match", "\"a,b\"")], NotModified);
        check(&[("if-none-match", "\"x\""), ("if-modified-since", AFTER)], Send);
        check(&[("if-unmodified-since", BEFORE), ("if-none-match", "\"a,b\"")], PreconditionFailed);
    }

    #[test]
    fn if_range_takes_only_strong_validators() {
        let counts = |value: &str, now_s| range_counts(&headers(&[("if-range", value)]), OBJECT, now_s);
        let later = MODIFIED_S + 60;
        assert!(range_counts(&HeaderMap::new(), OBJECT, later));
        assert!(counts("\"a,b\"", later));
        assert!(!counts("W/\"a,b\"", later));
        assert!(!counts("\"x\"", later));
        assert!(counts(MODIFIED, later));
        assert!(!counts(MODIFIED, MODIFIED_S), "within the same second the file could still change");
        assert!(!counts(AFTER, later), "a date must match exactly");
        assert!(!counts(BEFORE, later));
        assert!(!counts("garbage", later));
    }
}
