//! Signed URLs in the CDNs' own schemes: sign, verify, explain; and the URLs listeners get.
//!
//! ```text
//! Presented ─▶ Verifier ─▶ seen before on this core? ─ yes ─▶ time, path, address ─▶ () or Refused
//!                              └ no ─▶ read ─▶ HMAC or RSA ─▶ remember ─▶ () or Refused
//! ```
//! One path for every scheme that is configured. Signatures are compared in constant time, a refusal costs
//! nothing but CPU, and neither a hit nor a refusal allocates.

pub mod bunny;
pub mod cloudflare;
pub mod cloudfront;
pub mod explain;
mod memory;
mod message;
pub mod playback;
#[cfg(feature = "control")]
pub mod purge;
pub mod rsa;

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

/// The keys of one scheme that are live: we sign with the first and accept both while one replaces the other.
#[derive(Clone, Debug)]
pub struct Live<K> {
    /// Signs.
    pub current: K,
    /// Is on its way out: still verifies.
    pub previous: Option<K>,
}

impl<K> Live<K> {
    /// The current key, then the previous one.
    pub fn iter(&self) -> impl Iterator<Item = &K> {
        std::iter::once(&self.current).chain(&self.previous)
    }
}

/// Which of two live keys signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The one that signs now.
    Current,
    /// The one that is being replaced.
    Previous,
}

impl Which {
    /// By position in [`Live::iter`].
    pub(crate) fn nth(number: usize) -> Which {
        if number == 0 { Which::Current } else { Which::Previous }
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Which::Current => "the first (current) key",
            Which::Previous => "the second (previous) key",
        })
    }
}

/// A token as it came with a request.
#[derive(Clone, Copy, Debug)]
pub enum Presented<'u> {
    /// The first path component, `bcdn_token=…`.
    Path(&'u str),
    /// The whole query string.
    Query(&'u str),
    /// CloudFront's cookies, and the query string, which is part of what they sign.
    Cookies(cloudfront::Params<'u>, &'u str),
}

/// Why a token does not open a path. For logs and `segue sign --explain`; a client only hears 403.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Refused {
    /// There is no token.
    Missing,
    /// It cannot be read: unknown algorithm, bad escape, repeated or missing parameter, too long.
    Malformed,
    /// Its time is over.
    Expired,
    /// Its time has not come.
    NotYet,
    /// It is for another path.
    WrongPath,
    /// It is bound to an address, and does not verify for this one.
    WrongAddress,
    /// It was not signed with one of our keys, or altered.
    Mismatch,
    /// We have no key for its scheme, or do not accept the scheme.
    Scheme,
}

impl Refused {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Refused; 8] = [
        Refused::Missing,
        Refused::Malformed,
        Refused::Expired,
        Refused::NotYet,
        Refused::WrongPath,
        Refused::WrongAddress,
        Refused::Mismatch,
        Refused::Scheme,
    ];

    /// One word for a log or a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Refused::Missing => "token_missing",
            Refused::Malformed => "token_malformed",
            Refused::Expired => "token_expired",
            Refused::NotYet => "token_not_yet",
            Refused::WrongPath => "token_wrong_path",
            Refused::WrongAddress => "token_wrong_address",
            Refused::Mismatch => "token_mismatch",
            Refused::Scheme => "token_scheme",
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refused::Missing => "there is no token",
            Refused::Malformed => "the token cannot be read",
            Refused::Expired => "the token has expired",
            Refused::NotYet => "the token is not valid yet",
            Refused::WrongPath => "the token is for another path",
            Refused::WrongAddress => "the token is bound to another address, or altered",
            Refused::Mismatch => "the token was signed with another key, or altered",
            Refused::Scheme => "the token is of a scheme that is not configured here",
        })
    }
}

/// Everything a request's token is checked against.
#[derive(Clone, Debug, Default)]
pub struct Verifier {
    /// Bunny, HS256 and what is left of its older schemes.
    pub bunny: Option<bunny::Keys>,
    /// CloudFront signed URLs and cookies.
    pub cloudfront: Option<cloudfront::Keys>,
    /// Cloudflare's timed HMAC.
    pub cloudflare: Option<cloudflare::Keys>,
}

impl From<bunny::Keys> for Verifier {
    fn from(keys: bunny::Keys) -> Verifier {
        Verifier { bunny: Some(keys), ..Verifier::default() }
    }
}

impl Verifier {
    /// Whether `presented` opens `path` for `peer` at `now_s`. Allocates nothing for a token that was
    /// seen before on this core, or that is refused.
    ///
    /// # Errors
    /// Why it does not.
    pub fn verify(&self, presented: Presented<'_>, path: &str, peer: IpAddr, now_s: u64) -> Result<(), Refused> {
        match presented {
            Presented::Path(_) => self.with_bunny(|keys| keys.verify(presented, path, peer, now_s)),
            Presented::Query(query) => self.verify_query(&without_cmcd(query), path, peer, now_s),
            Presented::Cookies(params, query) => {
                self.with_cloudfront(|keys| keys.verify(&params, &without_cmcd(query), path, peer, now_s))
            }
        }
    }

    fn verify_query(&self, query: &str, path: &str, peer: IpAddr, now_s: u64) -> Result<(), Refused> {
        match Carried::by(query) {
            Some(Carried::Bunny) => self.with_bunny(|keys| keys.verify(Presented::Query(query), path, peer, now_s)),
            Some(Carried::CloudFront) => self
                .with_cloudfront(|keys| keys.verify(&cloudfront::Params::of_query(query)?, query, path, peer, now_s)),
            Some(Carried::Cloudflare) => match &self.cloudflare {
                Some(keys) => keys.verify(query, path, now_s),
                None => Err(Refused::Scheme),
            },
            None => Err(Refused::Missing),
        }
    }

    /// Whether cookies may carry a token: only then is it worth reading them.
    pub fn reads_cookies(&self) -> bool {
        self.cloudfront.is_some()
    }

    fn with_bunny(&self, verify: impl FnOnce(&bunny::Keys) -> Result<(), Refused>) -> Result<(), Refused> {
        self.bunny.as_ref().map_or(Err(Refused::Scheme), verify)
    }

    fn with_cloudfront(&self, verify: impl FnOnce(&cloudfront::Keys) -> Result<(), Refused>) -> Result<(), Refused> {
        self.cloudfront.as_ref().map_or(Err(Refused::Scheme), verify)
    }
}

/// Whoever has one signed URL can search for the key. NIST SP 800-131A allows HMAC keys from 112 bits on; this is the
/// next round number.
pub const KEY_BYTES_MIN: usize = 16;

/// What makes the keys of a scheme weak, each with its consequence; empty keys are another matter. `name` is
/// their setting.
pub fn weaknesses(name: &str, keys: &[String]) -> Vec<String> {
    let mut found = vec![];
    if keys.iter().any(|key| !key.is_empty() && key.len() < KEY_BYTES_MIN) {
        found.push(format!(
            "{name} holds a key shorter than {KEY_BYTES_MIN} bytes: who has one signed URL can search for it; use a \
             longer, random one"
        ));
    }
    if keys.iter().enumerate().any(|(n, key)| keys[..n].contains(key)) {
        found.push(format!(
            "{name} holds the same key twice: replacing it would refuse every URL at once; remove one of them"
        ));
    }
    found
}

/// Whose token a query string carries, told by the names of its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carried {
    /// `token=`.
    Bunny,
    /// `Signature=`.
    CloudFront,
    /// `verify=`.
    Cloudflare,
}

impl Carried {
    /// The first that is there; `None` for a query without a token.
    pub fn by(query: &str) -> Option<Carried> {
        query.split('&').find_map(|pair| match pair.split_once('=')?.0 {
            "token" => Some(Carried::Bunny),
            "Signature" => Some(Carried::CloudFront),
            "verify" => Some(Carried::Cloudflare),
            _ => None,
        })
    }
}

/// A query without `CMCD=…` (CTA-5004), which players add to URLs that were signed without it and which selects
/// nothing. Allocates only when it is not the last pair, where players put it.
pub fn without_cmcd(query: &str) -> Cow<'_, str> {
    let is_cmcd = |pair: &&str| pair.starts_with("CMCD=");
    if !query.contains("CMCD=") {
        return query.into();
    }
    let (before, last) = query.rsplit_once('&').unwrap_or(("", query));
    match is_cmcd(&last) && !before.split('&').any(|pair| is_cmcd(&pair)) {
        true => before.into(),
        false => query.split('&').filter(|pair| !is_cmcd(pair)).collect::<Vec<_>>().join("&").into(),
    }
}

/// A number no other set of keys of this process has: it tells them apart in the memory of verified tokens.
fn generation() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Plain decimal digits, as the signers write them: no sign, no leading zero.
fn decimal(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    if plain { text.parse().ok() } else { None }
}

/// Whether `path` is `prefix` or below it. Some CDNs take any prefix; we want it to end at a component, so
/// that `/a/x` does not open `/a/xy`.
fn is_below(path: &[u8], prefix: &[u8]) -> bool {
    let Some(rest) = path.strip_prefix(prefix) else { return false };
    prefix.starts_with(b"/") && (prefix.ends_with(b"/") || rest.is_empty() || rest[0] == b'/')
}

#[cfg(test)]
#[path = "vectors_tests.rs"]
mod tests;
