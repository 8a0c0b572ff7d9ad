//! Cloudflare's timed HMAC, the WAF function `is_timed_hmac_valid_v0`: sign and verify.
//!
//! ```text
//! URL     /path[?others]?verify=TIME-MAC      the token is the last parameter ("&verify=" after others)
//! TIME    ten digits: when it was signed, seconds since 1970; it opens while now < TIME + ttl
//! MAC     base64( HMAC-SHA256(key, message · TIME) ), URL-encoded; with the rule's flag "s" URL-safe, unpadded
//! message path[?others], or a directory of it[?others]
//! ```
//! The rule at the edge names how many characters of the path are signed. A token does not say it, so we
//! try what can be: the path itself, the directory of its family and the directory of its version. Which
//! one a key signed cannot be mistaken: a directory ends with `/`, an object does not.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use super::memory::{self, Form, Opens};
use super::{Live, Refused, Which, decimal, generation};
use crate::base::secret::Secret;
use crate::base::{Error, Result};

type Message = super::message::Message<1024>;

/// Name of the parameter. With the separator it is the rule's `lengthOfSeparator`: 8.
const PARAM: &str = "verify=";
/// The memory asks who came; these tokens are bound to nobody.
const ANYBODY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// One signing key, its HMAC state computed once.
#[derive(Clone)]
pub struct Key(Hmac<Sha256>);

/// The keys that are live, and how long their tokens are.
#[derive(Clone, Debug)]
pub struct Keys {
    live: Live<Key>,
    /// Seconds from signing to expiry; the rule at the edge has the same number.
    ttl_s: u64,
    generation: u64,
}

/// How the MAC is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Base64 with padding, percent-encoded: the rule has no flag.
    Standard,
    /// Base64url without padding: the rule's flag is `"s"`. Survives every player's idea of `+`.
    UrlSafe,
}

impl Key {
    /// Prepares a key.
    ///
    /// # Errors
    /// `Usage` for an empty key: everyone could sign with it.
    pub fn new(secret: &Secret) -> Result<Key> {
        if secret.is_empty() {
            return Err(Error::usage("the Cloudflare signing key is empty: anyone could sign URLs with it"));
        }
        Ok(Key(Hmac::new_from_slice(secret.expose()).expect("HMAC takes keys of any length")))
    }

    /// `verify=TIME-MAC` for a path or a directory that ends with `/`, signed at `signed_s`.
    pub fn sign(&self, message: &str, signed_s: u64, encoding: Encoding) -> String {
        let time = format!("{signed_s:010}");
        let mac = self.mac(message.as_bytes(), time.as_bytes());
        match encoding {
            Encoding::UrlSafe => format!("{PARAM}{time}-{}", URL_SAFE_NO_PAD.encode(mac)),
            Encoding::Standard => {
                let text = STANDARD.encode(mac);
                format!("{PARAM}{time}-{}", utf8_percent_encode(&text, NON_ALPHANUMERIC))
            }
        }
    }

    fn mac(&self, message: &[u8], time: &[u8]) -> [u8; 32] {
        let mut mac = self.0.clone();
        mac.update(message);
        mac.update(time);
        mac.finalize().into_bytes().into()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Keys {
    /// The live keys, whose tokens open for `ttl_s` seconds after they were signed.
    pub fn new(current: Key, previous: Option<Key>, ttl_s: u64) -> Keys {
        Keys { live: Live { current, previous }, ttl_s, generation: generation() }
    }

    /// The key to sign with.
    pub fn current(&self) -> &Key {
        &self.live.current
    }

    /// Seconds from signing to expiry.
    pub fn ttl_s(&self) -> u64 {
        self.ttl_s
    }

    /// Whether the token at the end of `query` opens `path` at `now_s`. Allocates nothing for a token that
    /// was seen before, or that is refused.
    ///
    /// # Errors
    /// Why it does not.
    pub fn verify(&self, query: &str, path: &str, now_s: u64) -> Result<(), Refused> {
        let (set, parts) = ((self.generation, Form::Query), [query.as_bytes()]);
        if let Some(Some(answer)) = memory::recall(set, &parts, |opens| opens.directory(path, ANYBODY, now_s)) {
            return answer;
        }
        let token = Token::read(query)?;
        let last_s = token.last_s(self.ttl_s);
        if last_s < now_s {
            return Err(Refused::Expired);
        }
        let (_, opens) = self.signer(&token, path)?;
        if opens.ends_with('/') && token.others.is_empty() {
            memory::remember(set, &parts, Opens::Directory { below: opens.as_bytes().into(), last_s, peer: None });
        }
        Ok(())
    }

    /// Which key signed `token`, whatever its time, and what of `path` it signed.
    pub(super) fn signer<'p>(&self, token: &Token<'_>, path: &'p str) -> Result<(Which, &'p str), Refused> {
        for signed in std::iter::once(path).chain(directories(path)) {
            let mut message = Message::default();
            message.push(signed.as_bytes())?;
            if !token.others.is_empty() {
                message.push(b"?")?;
                message.push(token.others.as_bytes())?;
            }
            let by = |key: &Key| bool::from(key.mac(message.bytes(), token.time.as_bytes()).ct_eq(&token.mac));
            if let Some(nth) = self.live.iter().position(by) {
                return Ok((Which::nth(nth), signed));
            }
        }
        Err(Refused::Mismatch)
    }
}

/// The directories of a media path that a token may open: `/a/{track}/{version}/{family}/`, and its version's.
fn directories(path: &str) -> impl Iterator<Item = &str> {
    let up_to = |slash: usize| path.match_indices('/').nth(slash).map(|(at, _)| &path[..=at]);
    [up_to(4), up_to(3)].into_iter().flatten()
}

/// A token, read but not believed.
pub(super) struct Token<'u> {
    /// The parameters before it; signed.
    others: &'u str,
    time: &'u str,
    pub(super) signed_s: u64,
    mac: [u8; 32],
}

impl<'u> Token<'u> {
    pub(super) fn read(query: &'u str) -> Result<Token<'u>, Refused> {
        let (others, last) = query.rsplit_once('&').unwrap_or(("", query));
        // Anything behind the token is not signed by anybody.
        let token = last.strip_prefix(PARAM).ok_or(Refused::Malformed)?;
        let (time, encoded) = token.split_at_checked(10).ok_or(Refused::Malformed)?;
        let signed_s = decimal(time).ok_or(Refused::Malformed)?;
        let mac = read_mac(encoded.strip_prefix('-').ok_or(Refused::Malformed)?)?;
        Ok(Token { others, time, signed_s, mac })
    }

    /// Last second of validity.
    pub(super) fn last_s(&self, ttl_s: u64) -> u64 {
        self.signed_s.saturating_add(ttl_s).saturating_sub(1)
    }
}

/// 43 characters URL-safe, or 44 standard ones after percent-decoding: exactly 32 bytes, one spelling each.
fn read_mac(text: &str) -> Result<[u8; 32], Refused> {
    let mut decoded = super::message::Message::<64>::default();
    decoded.push_decoded(text)?;
    let engine = match (text.len(), decoded.length) {
        (43, 43) => URL_SAFE_NO_PAD,
        (_, 44) => STANDARD,
        _ => return Err(Refused::Malformed),
    };
    let mut room = [0; 33]; // the engine's estimate for 44 characters
    match engine.decode_slice(decoded.bytes(), &mut room) {
        Ok(32) => Ok(room[..32].try_into().expect("32 bytes")),
        _ => Err(Refused::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_598_024_600;
    const SIGNED: u64 = 1_598_024_587;
    const DIRECTORY: &str = "/a/trk_01/v/aac/";
    const OBJECT: &str = "/a/trk_01/v/aac/96/00000.mp4";

    fn key(text: &str) -> Key {
        Key::new(&Secret::new(text.as_bytes())).unwrap()
    }

    fn keys() -> Keys {
        Keys::new(key("mysecrettoken"), None, 60)
    }

    fn signed(message: &str) -> String {
        key("mysecrettoken").sign(message, SIGNED, Encoding::UrlSafe)
    }

    #[test]
    fn a_directory_opens_what_is_below_it_and_nothing_else() {
        let (keys, token) = (keys(), signed(DIRECTORY));
        for _ in 0..2 {
            // Twice: the second time from memory.
            assert_eq!(keys.verify(&token, OBJECT, NOW), Ok(()));
            assert_eq!(keys.verify(&token, "/a/trk_01/v/aac/master.m3u8", NOW), Ok(()));
            for other in
                ["/a/trk_01/v/flac/00000.mp4", "/a/trk_01/v/master.m3u8", "/a/trk_02/v/aac/x", "/a/trk_01/v/aac"]
            {
                assert!(keys.verify(&token, other, NOW).is_err(), "{other}");
            }
        }
        let version = signed("/a/trk_01/v/");
        assert_eq!(keys.verify(&version, OBJECT, NOW), Ok(()));
        assert_eq!(keys.verify(&version, "/a/trk_01/v/flac/00000.mp4", NOW), Ok(()));
        assert_eq!(keys.verify(&signed("/a/trk_01/"), OBJECT, NOW), Err(Refused::Mismatch), "a version at most");
        assert_eq!(keys.verify(&signed(OBJECT), OBJECT, NOW), Ok(()));
        assert_eq!(keys.verify(&signed(OBJECT), "/a/trk_01/v/aac/96/00001.mp4", NOW), Err(Refused::Mismatch));
    }

    #[test]
    fn it_opens_while_now_is_before_signing_plus_ttl() {
        for object in [DIRECTORY, OBJECT] {
            let (keys, token) = (keys(), signed(object));
            assert_eq!(keys.verify(&token, OBJECT, SIGNED + 59), Ok(()));
            assert_eq!(keys.verify(&token, OBJECT, SIGNED + 60), Err(Refused::Expired));
        }
    }

    #[test]
    fn the_token_is_the_last_parameter_and_the_others_are_signed() {
        let token = key("mysecrettoken").sign(&format!("{OBJECT}?b=1"), SIGNED, Encoding::Standard);
        assert_eq!(keys().verify(&format!("b=1&{token}"), OBJECT, NOW), Ok(()));
        assert_eq!(keys().verify(&format!("b=2&{token}"), OBJECT, NOW), Err(Refused::Mismatch));
        assert_eq!(keys().verify(&token, OBJECT, NOW), Err(Refused::Mismatch));
        assert_eq!(keys().verify(&format!("b=1&{token}&c=1"), OBJECT, NOW), Err(Refused::Malformed));
    }

    #[test]
    fn two_keys_are_live_while_one_replaces_the_other() {
        let token = signed(DIRECTORY);
        let rotated = Keys::new(key("new"), Some(key("mysecrettoken")), 60);
        assert_eq!(rotated.verify(&token, OBJECT, NOW), Ok(()));
        assert_eq!(Keys::new(key("new"), None, 60).verify(&token, OBJECT, NOW), Err(Refused::Mismatch));
        assert!(Key::new(&Secret::new(*b"")).is_err());
    }

    #[test]
    fn every_cut_and_every_altered_byte_is_refused() {
        for encoding in [Encoding::Standard, Encoding::UrlSafe] {
            let token = key("mysecrettoken").sign(DIRECTORY, SIGNED, encoding);
            let keys = keys();
            assert_eq!(keys.verify(&token, OBJECT, NOW), Ok(()));
            for at in 0..token.len() {
                // Without its padding it is the other spelling of the same MAC.
                let unpadded = token.strip_suffix("%3D") == Some(&token[..at]);
                assert!(keys.verify(&token[..at], OBJECT, NOW).is_err() || unpadded, "cut at {at}");
                for with in (b' '..=b'~').filter(|with| *with != token.as_bytes()[at]) {
                    let mut altered = token.clone().into_bytes();
                    altered[at] = with;
                    let altered = String::from_utf8(altered).unwrap();
                    let answer = keys.verify(&altered, OBJECT, NOW);
                    let spelling =
                        altered.eq_ignore_ascii_case(&token) && token[..at].rfind('%') >= Some(at.saturating_sub(2));
                    assert!(answer.is_err() || spelling, "{altered}");
                }
            }
        }
    }

    proptest! {
        // A failure becomes a case of the table above, not a file of seeds.
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_text_is_read_without_panic(text in "\\PC{0,200}", tail in "[0-9]{10}-[ -~]{0,60}", path in "\\PC{0,50}") {
            prop_assert!(keys().verify(&text, &path, NOW).is_err());
            let timed = format!("verify={tail}");
            prop_assert!(keys().verify(&timed, &path, NOW).is_err());
        }
    }
}
