//! Names of things, parsed once at the door: inside there are no strings that might be ids.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Error, Result, chance, hex};

/// Crockford's base 32, lowercase: no letters that look like digits.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// The longest track id, in bytes: an inline array keeps lookups free of allocation.
pub const TRACK_ID_BYTES_MAX: usize = 31;

/// A catalogue item: 1…31 bytes of `[A-Za-z0-9_-]` (unreserved in RFC 3986 §2.3, so that signed
/// paths have one spelling), usually `trk_` and 20 characters.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrackId {
    /// Invariant: at most `TRACK_ID_BYTES_MAX`, at least 1.
    length: u8,
    /// Invariant: zero after `length`.
    bytes: [u8; TRACK_ID_BYTES_MAX],
}

impl TrackId {
    /// Reads an id; `None` when it is empty, too long or has a character outside the alphabet.
    pub fn decode(text: &str) -> Option<TrackId> {
        let allowed = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
        if text.is_empty() || text.len() > TRACK_ID_BYTES_MAX || !text.as_bytes().iter().all(allowed) {
            return None;
        }
        let mut bytes = [0; TRACK_ID_BYTES_MAX];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Some(TrackId { length: text.len() as u8, bytes })
    }

    /// A new random id: `trk_` and 100 random bits in Crockford's base 32, lowercase.
    pub fn random() -> TrackId {
        let mut random = [0u8; 20];
        getrandom::fill(&mut random).expect("the operating system gives random bytes");
        let text: String = random.iter().map(|b| ALPHABET[usize::from(b & 31)] as char).collect();
        TrackId::decode(&format!("trk_{text}")).expect("24 characters of the alphabet")
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.length)]).expect("decode admits ASCII only")
    }
}

/// One published package of a track: the first 160 bits of the SHA-256 of its `version.json`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VersionId([u8; 20]);

impl VersionId {
    /// Reads 40 lowercase hexadecimal digits.
    pub fn decode(text: &str) -> Option<VersionId> {
        hex::decode(text.as_bytes()).map(VersionId)
    }

    /// Names a version by the SHA-256 of its index document.
    pub fn from_digest(sha256: &[u8; 32]) -> VersionId {
        let mut id = [0; 20];
        id.copy_from_slice(&sha256[..20]);
        VersionId(id)
    }
}

impl fmt::Display for TrackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

macro_rules! text_forms {
    ($name:ident, $what:literal) => {
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
        impl FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<$name> {
                $name::decode(text).ok_or_else(|| Error::invalid(format!(concat!("{:?} is not a ", $what), text)))
            }
        }
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<$name, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
text_forms!(TrackId, "track id (1 to 31 characters of A-Z a-z 0-9 _ -)");
text_forms!(VersionId, "version id (40 lowercase hexadecimal digits)");

/// Characters of a sortable id behind its prefix: 10 of time in milliseconds, 16 random ones.
const SORTABLE_CHARS: usize = 26;

/// A new id with this prefix: 48 bits of time, 80 random ones, as a ULID has. Such ids sort by the time they were made,
/// so that lists and queues need no other order.
pub fn sortable(prefix: &str, now_us: i64) -> String {
    let mut bytes = [0; 16];
    bytes[6..].copy_from_slice(&chance::bytes::<10>());
    let bits = u128::from_be_bytes(bytes) | ((now_us / 1000) as u128 & 0xffff_ffff_ffff) << 80;
    let digits = (0..SORTABLE_CHARS).rev().map(|place| ALPHABET[(bits >> (place * 5)) as usize & 31] as char);
    prefix.chars().chain(digits).collect()
}

/// Whether `sortable` makes such ids with this prefix.
pub fn is_sortable(prefix: &str, text: &str) -> bool {
    let digits = text.strip_prefix(prefix);
    digits.is_some_and(|digits| digits.len() == SORTABLE_CHARS && digits.bytes().all(|b| ALPHABET.contains(&b)))
}

/// A type for ids of one kind of row: `sortable_id!(JobId, "job_", "job id", "; `segue jobs list` shows them")`.
#[cfg(feature = "control")]
macro_rules! sortable_id {
    ($(#[$about:meta])* $name:ident, $prefix:literal, $what:literal, $advice:literal) => {
        $(#[$about])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// A new one.
            pub fn new(now_us: i64) -> $name {
                $name($crate::base::id::sortable($prefix, now_us))
            }

            /// Reads an id; `None` for anything that we would not make.
            pub fn decode(text: &str) -> Option<$name> {
                $crate::base::id::is_sortable($prefix, text).then(|| $name(text.to_owned()))
            }

            /// The id as text: safe in paths and keys.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::base::Error;
            fn from_str(text: &str) -> $crate::base::Result<$name> {
                $name::decode(text).ok_or_else(|| {
                    let what = concat!(" is not a ", $what, " (", $prefix, " and 26 characters)", $advice);
                    $crate::base::Error::invalid(format!("{text:?}{what}"))
                })
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> std::result::Result<$name, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
#[cfg(feature = "control")]
pub(crate) use sortable_id;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn track_ids_have_one_spelling_that_needs_no_escaping() {
        for good in ["trk_01", "a", "A-b_9", &"x".repeat(31)] {
            assert_eq!(TrackId::decode(good).map(|id| id.to_string()).as_deref(), Some(good));
        }
        for bad in ["", "a b", "a%20", "..", "a/b", "é", &"x".repeat(32)] {
            assert_eq!(TrackId::decode(bad), None, "{bad:?}");
        }
        assert_ne!(TrackId::random(), TrackId::random());
    }

    #[test]
    fn version_ids_are_forty_lowercase_digits() {
        let text = "00112233445566778899aabbccddeeff00112233";
        assert_eq!(VersionId::decode(text).map(|id| id.to_string()).as_deref(), Some(text));
        assert_eq!(VersionId::decode(&text.to_uppercase()), None);
        assert_eq!(VersionId::decode(&text[1..]), None);
    }
}
