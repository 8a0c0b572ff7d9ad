//! Bunny token authentication, "advanced" HS256: sign and verify; its two older schemes: verify.
//!
//! ```text
//! token   = "HS256-" ["1-" if an address is bound] base64url( HMAC-SHA256(key, message) )
//! message = path · expires · address bytes · "k=v&k=v" sorted, percent-decoded, without token and expires
//! path    = token_path when given (opens everything below it), else the path of the URL
//! query form:  /path?token=T&k=v…&expires=E
//! path form:   /bcdn_token=T&k=v…&expires=E/path      relative URIs below it inherit the token
//!
//! before 2026-04, off unless configured:
//! SHA-256      base64url( SHA256(key · path · expires · [address as text] · params) )     same URL forms
//! basic, MD5   base64url( MD5(key · path · expires · [address as text]) )                 query form only
//! ```
//! Parameters may come in any order; a repeated one is refused, as the signers do. Countries and speed
//! limit are part of the signature but only the CDN's edge can enforce them.

use std::fmt;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use md5::Md5;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::memory::{self, Form, Opens};
use super::{Live, Presented, Refused, Which, decimal, generation, is_below};
use crate::base::secret::Secret;
use crate::base::{Error, Result};

type Message = super::message::Message<1024>;

const ALGORITHM: &str = "HS256-";
const ADDRESS_FLAG: &str = "1-";
/// Characters of an HMAC-SHA-256 in base64url without padding.
const HS256_LETTERS: usize = 43;
const COMPONENT: &str = "/bcdn_token=";
/// RFC 3986 §2.3 unreserved characters stay, as in Bunny's own signers.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// One signing key, the states that begin with it computed once.
#[derive(Clone)]
pub struct Key {
    hs256: Hmac<Sha256>,
    sha256: Sha256,
    md5: Md5,
}

/// The keys that are live, and which schemes they verify.
#[derive(Clone, Debug)]
pub struct Keys {
    live: Live<Key>,
    accept: Accept,
    /// Tells the sets of keys apart in the memory of verified tokens.
    generation: u64,
}

/// Which of Bunny's older schemes verify beside HS256. Default none: their signatures are plain hashes over
/// a key and text without separators, which is weaker than an HMAC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accept {
    /// "Advanced" tokens without a prefix, before 2026-04.
    pub sha256: bool,
    /// "Basic" tokens.
    pub md5: bool,
}

/// How a token is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// The scheme to use.
    Hs256,
    /// "Advanced" before 2026-04.
    Sha256,
    /// "Basic".
    Md5,
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Algorithm::Hs256 => "bunny HS256",
            Algorithm::Sha256 => "bunny SHA-256 (legacy)",
            Algorithm::Md5 => "bunny MD5 (legacy)",
        })
    }
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
        Ok(Key {
            hs256: Hmac::new_from_slice(secret.expose()).expect("HMAC takes keys of any length"),
            sha256: Sha256::new_with_prefix(secret.expose()),
            md5: Md5::new_with_prefix(secret.expose()),
        })
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
        message.extend_from_slice(joined(&params).as_bytes());
        let flag = if grant.address.is_some() { ADDRESS_FLAG } else { "" };
        written(&format!("{ALGORITHM}{flag}{}", URL_SAFE_NO_PAD.encode(self.mac(&message))), &params, grant.expires_s)
    }

    /// As `sign_params` in the scheme before 2026-04, for zones that still ask for it. An address is left
    /// out: Bunny's own signers disagreed about its place.
    pub fn sign_params_sha256(&self, grant: &Grant<'_>) -> String {
        let params = grant.params();
        let message = format!("{}{}{}", grant.token_path.unwrap_or(grant.path), grant.expires_s, joined(&params));
        let hash = self.sha256.clone().chain_update(message).finalize();
        written(&URL_SAFE_NO_PAD.encode(hash), &params, grant.expires_s)
    }

    fn mac(&self, message: &[u8]) -> [u8; 32] {
        let mut mac = self.hs256.clone();
        mac.update(message);
        mac.finalize().into_bytes().into()
    }

    fn signed(&self, message: &[u8], claimed: &Claimed) -> bool {
        match claimed {
            Claimed::Hs256 { mac, .. } => self.mac(message).ct_eq(mac).into(),
            Claimed::Sha256(hash) => self.sha256.clone().chain_update(message).finalize()[..].ct_eq(hash).into(),
            Claimed::Md5(hash) => self.md5.clone().chain_update(message).finalize()[..].ct_eq(hash).into(),
        }
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

/// The signed parameters as they are signed.
fn joined(params: &[(&str, String)]) -> String {
    let pairs: Vec<String> = params.iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join("&")
}

/// The parameters as they are written into a URL.
fn written(token: &str, params: &[(&str, String)], expires_s: u64) -> String {
    let mut text = format!("token={token}");
    for (name, value) in params {
        text += &format!("&{name}={}", utf8_percent_encode(value, ESCAPED));
    }
    text + &format!("&expires={expires_s}")
}

impl Keys {
    /// The live keys: the one we sign with, and one that is on its way out. They verify HS256 alone.
    pub fn new(current: Key, previous: Option<Key>) -> Keys {
        Keys { live: Live { current, previous }, accept: Accept::default(), generation: generation() }
    }

    /// The same keys, verifying older schemes too.
    #[must_use]
    pub fn accepting(self, accept: Accept) -> Keys {
        Keys { accept, generation: generation(), ..self }
    }

    /// The key to sign with.
    pub fn current(&self) -> &Key {
        &self.live.current
    }

    /// Whether `presented` opens `path` for `peer` at `now_s`. Allocates nothing for a token that was
    /// seen before, or that is refused.
    ///
    /// # Errors
    /// Why it does not.
    pub fn verify(&self, presented: Presented<'_>, path: &str, peer: IpAddr, now_s: u64) -> Result<(), Refused> {
        let (text, form) = match presented {
            Presented::Path(component) => (component, Form::Path),
            Presented::Query(query) => (query, Form::Query),
            Presented::Cookies(..) => return Err(Refused::Missing),
        };
        let (set, parts) = ((self.generation, form), [text.as_bytes()]);
        if let Some(Some(answer)) = memory::recall(set, &parts, |opens| opens.directory(path, peer, now_s)) {
            return answer;
        }
        let token = Token::read(presented)?;
        if token.expires_s < now_s {
            return Err(Refused::Expired);
        }
        if !self.accepts(token.algorithm()) {
            return Err(Refused::Scheme);
        }
        self.signer(&token, path, peer)?;
        // Only what opens more than one object comes again, and with others' parameters it comes differently.
        if let Some(below) = token.below()
            && token.params.all_ours()
        {
            let peer = token.may_be_bound().then_some(peer);
            memory::remember(set, &parts, Opens::Directory { below, last_s: token.expires_s, peer });
        }
        Ok(())
    }

    /// Whether tokens of that algorithm verify at all.
    pub(super) fn accepts(&self, algorithm: Algorithm) -> bool {
        match algorithm {
            Algorithm::Hs256 => true,
            Algorithm::Sha256 => self.accept.sha256,
            Algorithm::Md5 => self.accept.md5,
        }
    }

    /// Which key signed `token`, whatever its time and ours. Checks that it is for `path` and `peer`.
    pub(super) fn signer(&self, token: &Token<'_>, path: &str, peer: IpAddr) -> Result<Which, Refused> {
        let params = &token.params;
        let mut message = Message::default();
        match params.token_path {
            Some(escaped) => message.push_decoded(escaped)?,
            None => message.push(path.as_bytes())?,
        }
        if params.token_path.is_some() && !is_below(path.as_bytes(), message.bytes()) {
            return Err(Refused::WrongPath);
        }
        match &token.claimed {
            Claimed::Hs256 { bound, .. } => self.hs256_signer(message, token, *bound, peer),
            Claimed::Sha256(_) | Claimed::Md5(_) => self.plain_signer(&message, token, peer),
        }
    }

    fn hs256_signer(
        &self,
        mut message: Message,
        token: &Token<'_>,
        bound: bool,
        peer: IpAddr,
    ) -> Result<Which, Refused> {
        message.push(token.params.expires.as_bytes())?;
        let address_at = message.length;
        match (bound, peer.to_canonical()) {
            (false, _) => {}
            (true, IpAddr::V4(v4)) => message.push(&v4.octets())?,
            (true, IpAddr::V6(v6)) => message.push(&low_half_zeroed(v6.octets()))?,
        }
        token.params.push_signed(&mut message)?;

        let mut which = self.which(message.bytes(), &token.claimed);
        if bound && peer.to_canonical().is_ipv4() && which.is_none() {
            message.buffer[address_at + 3] = 0; // signed for the whole /24
            which = self.which(message.bytes(), &token.claimed);
        }
        which.ok_or(if bound { Refused::WrongAddress } else { Refused::Mismatch })
    }

    /// The older schemes do not say whether an address is bound, and Bunny's signers put it after the time
    /// (JavaScript, the documentation) or before it (C#): any of the three is right.
    fn plain_signer(&self, path: &Message, token: &Token<'_>, peer: IpAddr) -> Result<Which, Refused> {
        use std::fmt::Write as _;
        let mut address = Message::default();
        write!(Text(&mut address), "{}", peer.to_canonical()).map_err(|_| Refused::Malformed)?;
        let expires = token.params.expires.as_bytes();
        for (before, after) in [(&b""[..], &b""[..]), (b"", address.bytes()), (address.bytes(), b"")] {
            let mut message = Message::default();
            for piece in [path.bytes(), before, expires, after] {
                message.push(piece)?;
            }
            if token.algorithm() == Algorithm::Sha256 {
                token.params.push_signed(&mut message)?;
            }
            if let Some(which) = self.which(message.bytes(), &token.claimed) {
                return Ok(which);
            }
        }
        Err(Refused::Mismatch)
    }

    fn which(&self, message: &[u8], claimed: &Claimed) -> Option<Which> {
        self.live.iter().position(|key| key.signed(message, claimed)).map(Which::nth)
    }
}

/// Writes text into a message without allocating.
struct Text<'m>(&'m mut Message);

impl fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.push(text.as_bytes()).map_err(|_| fmt::Error)
    }
}

fn low_half_zeroed(mut address: [u8; 16]) -> [u8; 16] {
    address[8..].fill(0);
    address
}

/// A token, read but not believed.
pub(super) struct Token<'u> {
    pub(super) params: Params<'u>,
    pub(super) claimed: Claimed,
    pub(super) expires_s: u64,
}

/// The signature a token claims.
pub(super) enum Claimed {
    Hs256 { bound: bool, mac: [u8; 32] },
    Sha256([u8; 32]),
    Md5([u8; 16]),
}

impl<'u> Token<'u> {
    pub(super) fn read(presented: Presented<'u>) -> Result<Token<'u>, Refused> {
        let params = Params::read(presented)?;
        let expires_s = decimal(params.expires).ok_or(Refused::Malformed)?;
        let claimed = Claimed::read(params.token)?;
        // Basic tokens open one object, stand in a query, and sign nothing else.
        let basic = matches!(claimed, Claimed::Md5(_));
        if basic && (params.token_path.is_some() || matches!(presented, Presented::Path(_))) {
            return Err(Refused::Malformed);
        }
        Ok(Token { params, claimed, expires_s })
    }

    pub(super) fn algorithm(&self) -> Algorithm {
        match self.claimed {
            Claimed::Hs256 { .. } => Algorithm::Hs256,
            Claimed::Sha256(_) => Algorithm::Sha256,
            Claimed::Md5(_) => Algorithm::Md5,
        }
    }

    /// The directory it opens, decoded; `None` when it opens one path.
    pub(super) fn below(&self) -> Option<Box<[u8]>> {
        let mut below = Message::default();
        below.push_decoded(self.params.token_path?).ok()?;
        Some(below.bytes().into())
    }

    /// Whether the address of the client may be part of the signature.
    fn may_be_bound(&self) -> bool {
        !matches!(self.claimed, Claimed::Hs256 { bound: false, .. })
    }
}

impl Claimed {
    fn read(text: &str) -> Result<Claimed, Refused> {
        let Some(rest) = text.strip_prefix(ALGORITHM) else {
            return match text.len() {
                43 => base64url(text).map(Claimed::Sha256),
                22 => base64url(text).map(Claimed::Md5),
                _ => Err(Refused::Malformed),
            };
        };
        // By its length: one signature in 4,096 begins with the flag's own characters.
        match rest.strip_prefix(ADDRESS_FLAG) {
            Some(encoded) if rest.len() > HS256_LETTERS => Ok(Claimed::Hs256 { bound: true, mac: base64url(encoded)? }),
            _ => Ok(Claimed::Hs256 { bound: false, mac: base64url(rest)? }),
        }
    }
}

/// Exactly `N` bytes; the engine refuses stray bits in the last character.
fn base64url<const N: usize>(text: &str) -> Result<[u8; N], Refused> {
    let mut bytes = [0; N];
    let fits = text.len() == (N * 8).div_ceil(6);
    match fits && URL_SAFE_NO_PAD.decode_slice_unchecked(text, &mut bytes) == Ok(N) {
        true => Ok(bytes),
        false => Err(Refused::Malformed),
    }
}

/// The parameters of a token, split but not decoded.
pub(super) struct Params<'u> {
    token: &'u str,
    expires: &'u str,
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
            Presented::Cookies(..) => return Err(Refused::Missing),
        };
        let mut params = Params {
            token: "",
            expires: "",
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

    /// Whether there is nothing beside what a signer of this scheme writes.
    fn all_ours(&self) -> bool {
        self.others[..self.count].iter().all(|(name, _)| name.starts_with("token_") || *name == "limit")
    }

    /// The value of one of the other parameters, not decoded.
    pub(super) fn other(&self, name: &str) -> Option<&'u str> {
        self.others[..self.count].iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
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

#[cfg(test)]
#[path = "bunny_tests.rs"]
mod tests;
