//! Bunny token authentication, "advanced" HS256: sign, verify, and say why not.
//!
//! ```text
//! token   = "HS256-" ["1-" if an address is bound] base64url( HMAC-SHA256(key, message) )
//! message = path · expires · address bytes · "k=v&k=v" sorted, percent-decoded, without token and expires
//! path    = token_path when given (opens everything below it), else the path of the URL
//! query form:  /path?token=T&k=v…&expires=E
//! path form:   /bcdn_token=T&k=v…&expires=E/path      relative URIs below it inherit the token
//! ```
//! Parameters may come in any order; a repeated one is refused, as the signers do. Countries and speed
//! limit are part of the signature but only the CDN's edge can enforce them.

use std::cell::RefCell;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use crate::base::secret::Secret;
use crate::base::{Error, Result};

const ALGORITHM: &str = "HS256-";
const ADDRESS_FLAG: &str = "1-";
const COMPONENT: &str = "/bcdn_token=";
/// RFC 3986 §2.3 unreserved characters stay, as in Bunny's own signers.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// One signing key, its HMAC state computed once.
#[derive(Clone)]
pub struct Key(Hmac<Sha256>);

/// The keys that are live: we sign with the first and accept both while one replaces the other.
#[derive(Clone, Debug)]
pub struct Keys {
    current: Key,
    previous: Option<Key>,
    /// Tells the sets of keys apart in the memory of verified tokens.
    generation: u64,
}

/// What a token shall allow.
#[derive(Clone, Copy, Debug, Default)]
pub struct Grant<'g> {
    /// Path of the URL to sign.
    pub path: &'g str,
    /// Opens everything below this path instead of `path` alone; end it with `/`.
    pub token_path: Option<&'g str>,
    /// Last second of validity, since 1970.
    pub expires_s: u64,
    /// Binds to an IPv4 address (to its /24 when the last byte is 0) or an IPv6 /64.
    pub address: Option<IpAddr>,
    /// Comma-separated country codes that may; enforced by the edge.
    pub countries: Option<&'g str>,
    /// Comma-separated country codes that may not; enforced by the edge.
    pub countries_blocked: Option<&'g str>,
    /// Whether query parameters beside ours are left out of the signature.
    pub ignore_params: bool,
    /// Speed limit in kB/s; enforced by the edge.
    pub limit_kbps: Option<u32>,
}

/// A token as it came with a request.
#[derive(Clone, Copy, Debug)]
pub enum Presented<'u> {
    /// The first path component, `bcdn_token=…`.
    Path(&'u str),
    /// The whole query string.
    Query(&'u str),
}

/// Why a token does not open a path. For logs and `segue sign --explain`; a client only hears 403.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is no token.
    Missing,
    /// It cannot be read: unknown algorithm, bad escape, repeated or missing parameter, too long.
    Malformed,
    /// Its time is over.
    Expired,
    /// It is for another path.
    WrongPath,
    /// It is bound to an address, and does not verify for this one.
    WrongAddress,
    /// It was not signed with one of our keys, or altered.
    Mismatch,
}

impl Refused {
    /// One word for a log or a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Refused::Missing => "token_missing",
            Refused::Malformed => "token_malformed",
            Refused::Expired => "token_expired",
            Refused::WrongPath => "token_wrong_path",
            Refused::WrongAddress => "token_wrong_address",
            Refused::Mismatch => "token_mismatch",
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refused::Missing => "there is no token",
            Refused::Malformed => "the token cannot be read",
            Refused::Expired => "the token has expired",
            Refused::WrongPath => "the token is for another path",
            Refused::WrongAddress => "the token is bound to another address, or altered",
            Refused::Mismatch => "the token was signed with another key, or altered",
        })
    }
}

/// Splits a path token off: `/bcdn_token=…/a/x` is `bcdn_token=…` and `/a/x`.
pub fn split_path(path: &str) -> Option<(&str, &str)> {
    let inner = path.strip_prefix(COMPONENT)?;
    let end = COMPONENT.len() + inner.find('/')?;
    Some((&path[1..end], &path[end..]))
}

/// The prefix that opens everything below `token_path` until `expires_s`: put it before the path.
///
/// # Panics
/// When `token_path` does not begin and end with `/`: it would open its neighbours as well.
pub fn sign_directory(key: &Key, token_path: &str, expires_s: u64) -> String {
    assert!(token_path.starts_with('/') && token_path.ends_with('/'), "{token_path:?} is not a directory");
    key.sign_prefix(&Grant { path: token_path, token_path: Some(token_path), expires_s, ..Grant::default() })
}

impl Key {
    /// Prepares a key.
    ///
    /// # Errors
    /// `Usage` for an empty key: everyone could sign with it.
    pub fn new(secret: &Secret) -> Result<Key> {
        if secret.is_empty() {
            return Err(Error::usage("the CDN signing key is empty: anyone could sign URLs with it"));
        }
        Ok(Key(Hmac::new_from_slice(secret.expose()).expect("HMAC takes keys of any length")))
    }

    /// The path form's prefix, `/bcdn_token=…&expires=…`.
    pub fn sign_prefix(&self, grant: &Grant<'_>) -> String {
        format!("/bcdn_{}", self.sign_params(grant))
    }

    /// The query form, `token=…&expires=…`.
    pub fn sign_params(&self, grant: &Grant<'_>) -> String {
        let params = grant.params();
        let mut message = grant.token_path.unwrap_or(grant.path).as_bytes().to_vec();
        message.extend_from_slice(grant.expires_s.to_string().as_bytes());
        match grant.address.map(|ip| ip.to_canonical()) {
            Some(IpAddr::V4(v4)) => message.extend_from_slice(&v4.octets()),
            Some(IpAddr::V6(v6)) => message.extend_from_slice(&low_half_zeroed(v6.octets())),
            None => {}
        }
        let sorted: Vec<String> = params.iter().map(|(name, value)| format!("{name}={value}")).collect();
        message.extend_from_slice(sorted.join("&").as_bytes());

        let flag = if grant.address.is_some() { ADDRESS_FLAG } else { "" };
        let mut text = format!("token={ALGORITHM}{flag}{}", URL_SAFE_NO_PAD.encode(self.mac(&message)));
        for (name, value) in &params {
            text += &format!("&{name}={}", utf8_percent_encode(value, ESCAPED));
        }
        text + &format!("&expires={}", grant.expires_s)
    }

    fn mac(&self, message: &[u8]) -> [u8; 32] {
        let mut mac = self.0.clone();
        mac.update(message);
        mac.finalize().into_bytes().into()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Grant<'_> {
    /// The parameters beside token and expires, sorted by name.
    fn params(&self) -> Vec<(&'static str, String)> {
        let mut params = vec![];
        let mut push = |name, value: Option<String>| params.extend(value.map(|value| (name, value)));
        if !self.ignore_params {
            push("limit", self.limit_kbps.map(|limit| limit.to_string()));
            push("token_countries", self.countries.map(str::to_owned));
            push("token_countries_blocked", self.countries_blocked.map(str::to_owned));
        }
        push("token_ignore_params", self.ignore_params.then(|| "true".to_owned()));
        push("token_path", self.token_path.map(str::to_owned));
        params
    }
}

impl Keys {
    /// The live keys: the one we sign with, and one that is on its way out.
    pub fn new(current: Key, previous: Option<Key>) -> Keys {
        static GENERATION: AtomicU64 = AtomicU64::new(1);
        Keys { current, previous, generation: GENERATION.fetch_add(1, Ordering::Relaxed) }
    }

    /// The key to sign with.
    pub fn current(&self) -> &Key {
        &self.current
    }

    /// Whether `presented` opens `path` for `peer` at `now_s`. Allocates nothing for a token that was
    /// seen before, or that is refused.
    ///
    /// # Errors
    /// Why it does not.
    pub fn verify(&self, presented: Presented<'_>, path: &str, peer: IpAddr, now_s: u64) -> Result<(), Refused> {
        let params = Params::read(presented)?;
        if params.expires_s < now_s {
            return Err(Refused::Expired);
        }
        let seen = Seen::remembered(self.generation, presented, path);
        if seen { Ok(()) } else { self.verify_signature(&params, presented, path, peer) }
    }

    fn verify_signature(
        &self,
        params: &Params<'_>,
        presented: Presented<'_>,
        path: &str,
        peer: IpAddr,
    ) -> Result<(), Refused> {
        let (bound, claimed) = read_token(params.token)?;
        let mut message = Message::default();
        match params.token_path {
            Some(escaped) => message.push_decoded(escaped)?,
            None => message.push(path.as_bytes())?,
        }
        let path_bytes = message.length;
        if params.token_path.is_some() && !is_below(path.as_bytes(), message.bytes()) {
            return Err(Refused::WrongPath);
        }
        message.push(params.expires.as_bytes())?;
        let address_at = message.length;
        match (bound, peer.to_canonical()) {
            (false, _) => {}
            (true, IpAddr::V4(v4)) => message.push(&v4.octets())?,
            (true, IpAddr::V6(v6)) => message.push(&low_half_zeroed(v6.octets()))?,
        }
        params.push_signed(&mut message)?;

        let mut valid = self.any_key_signed(message.bytes(), &claimed);
        if bound && peer.to_canonical().is_ipv4() && !valid {
            message.buffer[address_at + 3] = 0; // signed for the whole /24
            valid = self.any_key_signed(message.bytes(), &claimed);
        }
        match (valid, bound) {
            (false, true) => Err(Refused::WrongAddress),
            (false, false) => Err(Refused::Mismatch),
            (true, false) if params.token_path.is_some() => {
                Seen::remember(self.generation, presented, &message.buffer[..path_bytes]);
                Ok(())
            }
            (true, _) => Ok(()),
        }
    }

    fn any_key_signed(&self, message: &[u8], claimed: &[u8; 32]) -> bool {
        let signed_by = |key: &Key| bool::from(key.mac(message).ct_eq(claimed));
        signed_by(&self.current) || self.previous.as_ref().is_some_and(signed_by)
    }
}

/// Bunny takes any prefix. We want it to end at a component, so that `/a/x` does not open `/a/xy`.
fn is_below(path: &[u8], prefix: &[u8]) -> bool {
    let Some(rest) = path.strip_prefix(prefix) else { return false };
    prefix.starts_with(b"/") && (prefix.ends_with(b"/") || rest.is_empty() || rest[0] == b'/')
}

fn low_half_zeroed(mut address: [u8; 16]) -> [u8; 16] {
    address[8..].fill(0);
    address
}

/// The token's text: whether it is bound to an address, and the signature it claims.
fn read_token(text: &str) -> Result<(bool, [u8; 32]), Refused> {
    let rest = text.strip_prefix(ALGORITHM).ok_or(Refused::Malformed)?;
    let (bound, encoded) = match rest.strip_prefix(ADDRESS_FLAG) {
        Some(encoded) => (true, encoded),
        None => (false, rest),
    };
    let mut claimed = [0; 32];
    // 43 characters say exactly 32 bytes; the engine refuses stray bits in the last one.
    match encoded.len() == 43 && URL_SAFE_NO_PAD.decode_slice_unchecked(encoded, &mut claimed) == Ok(32) {
        true => Ok((bound, claimed)),
        false => Err(Refused::Malformed),
    }
}

/// The parameters of a token, split but not decoded.
struct Params<'u> {
    token: &'u str,
    expires: &'u str,
    expires_s: u64,
    token_path: Option<&'u str>,
    /// Everything but token and expires. Invariant: sorted by name, no name twice.
    others: [(&'u str, &'u str); PARAMS_MAX],
    count: usize,
    ignore: bool,
}

/// Ours are five; a player adds a few.
const PARAMS_MAX: usize = 12;

impl<'u> Params<'u> {
    fn read(presented: Presented<'u>) -> Result<Params<'u>, Refused> {
        let (text, token_name) = match presented {
            Presented::Path(component) => (component, "bcdn_token"),
            Presented::Query(query) => (query, "token"),
        };
        let mut params = Params {
            token: "",
            expires: "",
            expires_s: 0,
            token_path: None,
            others: [("", ""); PARAMS_MAX],
            count: 0,
            ignore: false,
        };
        for pair in text.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let once = |slot: &mut &'u str| {
                let first = slot.is_empty() && !value.is_empty();
                *slot = value;
                if first { Ok(()) } else { Err(Refused::Malformed) }
            };
            match name {
                _ if name == token_name => once(&mut params.token)?,
                "expires" => once(&mut params.expires)?,
                _ => params.insert(name, value)?,
            }
        }
        if params.token.is_empty() {
            return Err(Refused::Missing);
        }
        params.expires_s = decimal(params.expires).ok_or(Refused::Malformed)?;
        Ok(params)
    }

    fn insert(&mut self, name: &'u str, value: &'u str) -> Result<(), Refused> {
        let at = self.others[..self.count].partition_point(|(known, _)| *known < name);
        let repeated = at < self.count && self.others[at].0 == name;
        // An escaped name could be a second spelling of one of ours.
        if repeated || name.contains('%') || self.count == PARAMS_MAX {
            return Err(Refused::Malformed);
        }
        match name {
            "token_path" => self.token_path = Some(value),
            "token_ignore_params" => self.ignore = value == "true",
            _ => {}
        }
        self.others[at..=self.count].rotate_right(1);
        self.others[at] = (name, value);
        self.count += 1;
        Ok(())
    }

    fn push_signed(&self, message: &mut Message) -> Result<(), Refused> {
        let mut separator: &[u8] = b"";
        for (name, value) in &self.others[..self.count] {
            if self.ignore && !matches!(*name, "token_ignore_params" | "token_path") {
                continue;
            }
            message.push(separator)?;
            message.push(name.as_bytes())?;
            message.push(b"=")?;
            message.push_decoded(value)?;
            separator = b"&";
        }
        Ok(())
    }
}

/// Plain decimal digits, as the signers write them: no sign, no leading zero.
fn decimal(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    if plain { text.parse().ok() } else { None }
}

/// What is signed, put together on the stack: HMAC runs over it once or twice.
struct Message {
    buffer: [u8; 1024],
    length: usize,
}

impl Default for Message {
    fn default() -> Message {
        Message { buffer: [0; 1024], length: 0 }
    }
}

impl Message {
    fn bytes(&self) -> &[u8] {
        &self.buffer[..self.length]
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        let room = self.buffer.get_mut(self.length..self.length + bytes.len()).ok_or(Refused::Malformed)?;
        room.copy_from_slice(bytes);
        self.length += bytes.len();
        Ok(())
    }

    fn push_decoded(&mut self, escaped: &str) -> Result<(), Refused> {
        let mut pieces = escaped.split('%');
        self.push(pieces.next().unwrap_or_default().as_bytes())?;
        for piece in pieces {
            let digits = piece.get(..2).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
            let byte = u8::from_str_radix(digits.ok_or(Refused::Malformed)?, 16).map_err(|_| Refused::Malformed)?;
            self.push(&[byte])?;
            self.push(&piece.as_bytes()[2..])?;
        }
        Ok(())
    }
}

/// A token that verified on this thread. A listener sends the same directory token with every segment;
/// remembering it saves the HMAC, not the checks of time and path.
struct Seen {
    generation: u64,
    component: Box<str>,
    below: Box<[u8]>,
}

/// Directly mapped, by characters of the signature: bounded, and nobody can fill it without a key.
const SEEN_MAX: usize = 256;

thread_local! {
    static SEEN: RefCell<[Option<Seen>; SEEN_MAX]> = const { RefCell::new([const { None }; SEEN_MAX]) };
}

impl Seen {
    fn slot(component: &str) -> usize {
        // Behind `bcdn_token=HS256-`: base64 of a hash, as good as random.
        let at = |n: usize| usize::from(component.as_bytes().get(n).copied().unwrap_or(0));
        (at(20) ^ (at(24) << 3) ^ (at(28) << 5)) % SEEN_MAX
    }

    fn remembered(generation: u64, presented: Presented<'_>, path: &str) -> bool {
        let Presented::Path(component) = presented else { return false };
        SEEN.with_borrow(|seen| {
            seen[Seen::slot(component)].as_ref().is_some_and(|known| {
                known.generation == generation
                    && same(known.component.as_bytes(), component.as_bytes())
                    && is_below(path.as_bytes(), &known.below)
            })
        })
    }

    fn remember(generation: u64, presented: Presented<'_>, below: &[u8]) {
        let Presented::Path(component) = presented else { return };
        let seen = Seen { generation, component: component.into(), below: below.into() };
        SEEN.with_borrow_mut(|all| all[Seen::slot(component)] = Some(seen));
    }
}

/// Equality without an early way out, in words rather than bytes: it runs for every request.
fn same(a: &[u8], b: &[u8]) -> bool {
    let (a_words, a_rest) = a.as_chunks::<8>();
    let (b_words, b_rest) = b.as_chunks::<8>();
    let words = a_words.iter().zip(b_words).fold(0, |d, (x, y)| d | (u64::from_ne_bytes(*x) ^ u64::from_ne_bytes(*y)));
    let rest = a_rest.iter().zip(b_rest).fold(0, |d, (x, y)| d | (x ^ y));
    a.len() == b.len() && std::hint::black_box(words | u64::from(rest)) == 0
}

#[cfg(test)]
#[path = "bunny_tests.rs"]
mod tests;
