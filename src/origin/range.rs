//! Which bytes of an object a request gets. In: the Range header and the length. Out: Whole, Part or
//! Unsatisfiable. RFC 9110 §14.

use std::ops::Range;

use hyper::header::HeaderValue;

/// The answer to a Range header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ranged {
    /// All of it, as 200: no range, or one we may ignore.
    Whole,
    /// These bytes, as 206. Invariant: not empty, within the object.
    Part(Range<u64>),
    /// None of what was asked exists: 416.
    Unsatisfiable,
}

/// Resolves a Range header against an object of `length` bytes.
///
/// Several ranges are answered with the whole (§14.2 lets a server ignore the field): no player asks
/// for them, and assembling parts on demand is how small requests become large answers (§17.15).
pub fn resolve(header: Option<&HeaderValue>, length: u64) -> Ranged {
    match header.and_then(|value| value.to_str().ok()) {
        None => Ranged::Whole,
        Some(text) => resolve_text(text, length),
    }
}

/// The same for a header's text.
pub fn resolve_text(text: &str, length: u64) -> Ranged {
    match read(text) {
        None => Ranged::Whole,
        // §14.2: a server may ignore Range when there is nothing to select from.
        Some(_) if length == 0 => Ranged::Whole,
        Some(Asked::From(first)) if first < length => Ranged::Part(first..length),
        Some(Asked::Between(first, last)) if first < length => Ranged::Part(first..last.min(length - 1) + 1),
        // A suffix longer than the object is the whole object (§14.1.2); `-0` is nothing.
        Some(Asked::Last(count)) if count > 0 => Ranged::Part(length.saturating_sub(count)..length),
        Some(_) => Ranged::Unsatisfiable,
    }
}

#[derive(Clone, Copy)]
enum Asked {
    From(u64),
    Between(u64, u64),
    Last(u64),
}

/// Reads `bytes=first-last`; `None` for other units, several ranges, or what the grammar does not know.
fn read(text: &str) -> Option<Asked> {
    let (unit, set) = text.split_once('=')?;
    // §14.1: range units are case-insensitive.
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    // A list may be padded with blanks and empty elements (§5.6.1); one element may remain.
    let mut elements = set.split(',').map(|element| element.trim_matches([' ', '\t'])).filter(|e| !e.is_empty());
    let only = elements.next()?;
    if elements.next().is_some() {
        return None;
    }
    let (first, last) = only.split_once('-')?;
    match (first, last) {
        ("", count) => Some(Asked::Last(within(decimal(count)?))),
        (first, "") => Some(Asked::From(within(decimal(first)?))),
        (first, last) => {
            let (first, last) = (decimal(first)?, decimal(last)?);
            (first <= last).then_some(Asked::Between(within(first), within(last)))
        }
    }
}

/// Digits of any length. Wider than a position can be, so that nonsense still compares as it should.
fn decimal(digits: &str) -> Option<u128> {
    let all = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    all.then(|| digits.parse().unwrap_or(u128::MAX))
}

/// More than fits is more than any object has.
fn within(position: u128) -> u64 {
    u64::try_from(position).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Ranged::*;
    use super::*;

    fn check(header: &str, length: u64, expected: Ranged) {
        let value = HeaderValue::from_str(header).unwrap();
        assert_eq!(resolve(Some(&value), length), expected, "{header} of {length}");
    }

    #[test]
    fn one_range_is_cut_to_what_exists() {
        // §14.1.2: "If the last-pos value is absent, or if the value is greater than or equal to the
        // current length … the byte range is interpreted as the remainder."
        check("bytes=0-0", 300, Part(0..1));
        check("bytes=0-", 300, Part(0..300));
        check("bytes=299-", 300, Part(299..300));
        check("bytes=100-199", 300, Part(100..200));
        check("bytes=100-300", 300, Part(100..300));
        check("bytes=0-18446744073709551615", 300, Part(0..300));
        check("bytes=0-99999999999999999999999", 300, Part(0..300));
        check("BYTES=1-2", 300, Part(1..3));
        check("bytes= 1-2 ,", 300, Part(1..3));
        // "If the selected representation is shorter than the specified suffix-length, the entire
        // representation is used."
        check("bytes=-1", 300, Part(299..300));
        check("bytes=-300", 300, Part(0..300));
        check("bytes=-500", 300, Part(0..300));
    }

    #[test]
    fn what_does_not_exist_is_unsatisfiable() {
        // §14.1.2: "An int-range is satisfiable if it contains a first-pos less than the current length
        // … a suffix-range is satisfiable if the suffix-length is not zero."
        check("bytes=300-", 300, Unsatisfiable);
        check("bytes=300-400", 300, Unsatisfiable);
        check("bytes=99999999999999999999999-", 300, Unsatisfiable);
        check("bytes=-0", 300, Unsatisfiable);
    }

    #[test]
    fn what_is_not_one_range_of_bytes_is_ignored() {
        // §14.2: "A server … MAY ignore the Range header field"; an unknown unit or malformed MUST be.
        for header in ["items=0-1", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=2-1", "bytes=1-2,4-5"] {
            check(header, 300, Whole);
        }
        for header in ["bytes=1--2", "bytes=+1-2", "bytes=1-2x", "bytes=0x1-2", "bytes 1-2", "bytes =1-2"] {
            check(header, 300, Whole);
        }
        check("bytes=10000000000000000000000-20000000000000000000", 1, Whole);
        check("bytes=0-", 0, Whole);
        assert_eq!(resolve(None, 300), Whole);
    }

    /// The same paragraphs of the RFC once more, naively: mark each byte of a small object.
    fn naive(header: &str, length: u64) -> Ranged {
        let Some(spec) = header.strip_prefix("bytes=") else { return Whole };
        // §5.6.1: empty elements of a list do not count.
        let elements: Vec<&str> = spec.split(',').filter(|element| !element.is_empty()).collect();
        let ([only], 1..) = (&elements[..], length) else { return Whole };
        let parts: Vec<&str> = only.split('-').collect();
        let [a, b] = parts[..] else { return Whole };
        let number = |s: &str| s.chars().all(|c| c.is_ascii_digit()).then(|| s.parse::<u128>().ok()).flatten();
        let wanted: Vec<u64> = match (a.is_empty(), b.is_empty()) {
            (true, true) => return Whole,
            (true, false) => match number(b) {
                Some(n) => (0..length).filter(|i| u128::from(length - i) <= n).collect(),
                None => return Whole,
            },
            (false, true) => match number(a) {
                Some(n) => (0..length).filter(|i| u128::from(*i) >= n).collect(),
                None => return Whole,
            },
            (false, false) => match (number(a), number(b)) {
                (Some(n), Some(m)) if n <= m => (0..length).filter(|i| (n..=m).contains(&u128::from(*i))).collect(),
                _ => return Whole,
            },
        };
        match (wanted.first(), wanted.last()) {
            (Some(first), Some(last)) => Part(*first..last + 1),
            _ => Unsatisfiable,
        }
    }

    proptest! {
        // A failure becomes a case of the table above, not a file of seeds.
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn agrees_with_a_naive_reading_of_the_rfc(
            header in "(bytes|items)=[0-9]{0,3}-?-?[0-9]{0,3}(,[0-9]-[0-9])?|bytes=[0-9]{0,25}-[0-9]{0,25}",
            length in 0u64..150,
        ) {
            let value = HeaderValue::from_str(&header).unwrap();
            prop_assert_eq!(resolve(Some(&value), length), naive(&header, length));
        }

        #[test]
        fn never_panics_and_never_leaves_the_object(header in "[ -~]{0,40}", length: u64) {
            let value = HeaderValue::from_str(&header).unwrap();
            if let Part(range) = resolve(Some(&value), length) {
                prop_assert!(range.start < range.end && range.end <= length);
            }
        }
    }
}
