//! What verified on this core. A listener sends the same directory token with every segment: remembering
//! it saves the HMAC or the RSA, not the checks of time, path and address.
//!
//! Only what was signed with one of our keys gets in, so nobody without a key can fill it or push others
//! out. A remembered text is compared from end to end in constant time: how long a refusal takes says
//! nothing about how much of a token was guessed.

use std::cell::RefCell;
use std::net::IpAddr;

use super::cloudfront::Policy;
use super::{Refused, is_below};

/// Tokens remembered on a core at most, directly mapped. 4,096 listeners; a token takes about 300 bytes,
/// with a CloudFront policy 1 KiB.
const TOKENS_MAX: usize = 1 << 12;
/// A longer text is verified afresh every time.
const TEXT_BYTES_MAX: usize = 2_048;
/// Below this there is no signature to tell texts apart by.
const TEXT_BYTES_MIN: usize = 40;

/// Whose texts: a set of keys and the place where the text stood.
pub(super) type Set = (u64, Form);

/// Where a text stood in the request. The same text elsewhere means something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Path,
    Query,
    Params,
}

/// What a remembered text opens.
pub(super) enum Opens {
    /// Everything below a directory.
    Directory {
        below: Box<[u8]>,
        /// Last second of validity.
        last_s: u64,
        /// Only for exactly this client.
        peer: Option<IpAddr>,
    },
    /// What a CloudFront policy says.
    Policy(Policy),
}

impl Opens {
    /// Whether a remembered directory opens `path`; `None` when its signature must be looked at again.
    pub(super) fn directory(&self, path: &str, peer: IpAddr, now_s: u64) -> Option<Result<(), Refused>> {
        let Opens::Directory { below, last_s, peer: bound } = self else { return None };
        if *last_s < now_s {
            return Some(Err(Refused::Expired));
        }
        if !is_below(path.as_bytes(), below) {
            return Some(Err(Refused::WrongPath));
        }
        match bound {
            Some(bound) if *bound != peer => None, // it may be bound to the whole neighbourhood
            _ => Some(Ok(())),
        }
    }
}

struct Entry {
    set: Set,
    /// The parts, a newline between two: no part has one.
    text: Box<[u8]>,
    opens: Opens,
}

thread_local! {
    static TABLE: RefCell<Vec<Option<Box<Entry>>>> = const { RefCell::new(Vec::new()) };
}

/// Asks `then` about what is remembered of a text in `parts`; `None` when nothing is. The first part holds
/// the signature.
pub(super) fn recall<R>(set: Set, parts: &[&[u8]], then: impl FnOnce(&Opens) -> R) -> Option<R> {
    let slot = slot(parts[0])?;
    TABLE.with_borrow(|table| {
        let entry = table.get(slot)?.as_ref()?;
        (entry.set == set && is_text(&entry.text, parts)).then(|| then(&entry.opens))
    })
}

/// Remembers that a text verified.
pub(super) fn remember(set: Set, parts: &[&[u8]], opens: Opens) {
    let Some(slot) = slot(parts[0]) else { return };
    let text = parts.join(&b'\n').into_boxed_slice();
    if text.len() > TEXT_BYTES_MAX {
        return;
    }
    TABLE.with_borrow_mut(|table| {
        if table.is_empty() {
            table.resize_with(TOKENS_MAX, || None);
        }
        table[slot] = Some(Box::new(Entry { set, text, opens }));
    });
}

/// By bytes 24 to 40: in every form that our signers write these are characters of the signature, as good
/// as random. For others' spellings they may be less so, which costs hits and nothing else.
fn slot(text: &[u8]) -> Option<usize> {
    let sample: &[u8; 16] = text.get(24..TEXT_BYTES_MIN)?.try_into().ok()?;
    let mixed = u128::from_le_bytes(*sample).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    Some((mixed >> 116) as usize % TOKENS_MAX)
}

/// Whether `text` is the parts with newlines between. Its length is no secret, its bytes are.
fn is_text(text: &[u8], parts: &[&[u8]]) -> bool {
    let length = parts.iter().map(|part| part.len() + 1).sum::<usize>() - 1;
    if text.len() != length {
        return false;
    }
    let (mut at, mut different) = (0, 0);
    for part in parts {
        different |= difference(&text[at..at + part.len()], part);
        at += part.len();
        different |= text.get(at).map_or(0, |b| u64::from(b ^ b'\n'));
        at += 1;
    }
    std::hint::black_box(different) == 0
}

/// 0 for equal bytes of equal length, without an early way out, in words rather than bytes.
fn difference(a: &[u8], b: &[u8]) -> u64 {
    let (a_words, a_rest) = a.as_chunks::<8>();
    let (b_words, b_rest) = b.as_chunks::<8>();
    let words = a_words.iter().zip(b_words).fold(0, |d, (x, y)| d | (u64::from_ne_bytes(*x) ^ u64::from_ne_bytes(*y)));
    let rest = a_rest.iter().zip(b_rest).fold(0, |d, (x, y)| d | (x ^ y));
    words | u64::from(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SET: Set = (u64::MAX, Form::Params);

    fn opens(below: &str) -> Opens {
        Opens::Directory { below: below.as_bytes().into(), last_s: 9, peer: None }
    }

    #[test]
    fn only_the_very_same_parts_are_recalled() {
        let parts: [&[u8]; 2] = [&[b'x'; 50], b"abc"];
        remember(SET, &parts, opens("/a/"));
        assert_eq!(recall(SET, &parts, |_| ()), Some(()));
        assert_eq!(recall((SET.0, Form::Path), &parts, |_| ()), None);
        assert_eq!(recall((SET.0 - 1, Form::Params), &parts, |_| ()), None);
        let joined = parts.join(&b'x');
        assert_eq!(recall(SET, &[&joined], |_| ()), None, "a part is not two parts");
        for at in 0..parts[0].len() {
            let mut altered = parts[0].to_vec();
            altered[at] ^= 1;
            assert_eq!(recall(SET, &[&altered, parts[1]], |_| ()), None, "byte {at}");
            assert_eq!(recall(SET, &[&parts[0][..at], parts[1]], |_| ()), None, "cut at {at}");
        }
        for other in ["abd", "ab", "abcd", ""] {
            assert_eq!(recall(SET, &[parts[0], other.as_bytes()], |_| ()), None, "{other}");
        }
    }

    #[test]
    fn what_is_too_long_or_too_short_is_not_kept() {
        for bytes in [10, TEXT_BYTES_MAX + 1] {
            let text = vec![b'y'; bytes];
            remember(SET, &[&text], opens("/a/"));
            assert_eq!(recall(SET, &[&text], |_| ()), None);
        }
    }

    #[test]
    fn a_remembered_directory_still_looks_at_time_path_and_address() {
        let (here, there) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let bound = Opens::Directory { below: (*b"/a/").into(), last_s: 9, peer: Some(here) };
        assert_eq!(bound.directory("/a/x", here, 9), Some(Ok(())));
        assert_eq!(bound.directory("/a/x", here, 10), Some(Err(Refused::Expired)));
        assert_eq!(bound.directory("/b/x", here, 9), Some(Err(Refused::WrongPath)));
        assert_eq!(bound.directory("/a/x", there, 9), None);
    }
}
