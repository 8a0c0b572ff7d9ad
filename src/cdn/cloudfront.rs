//! CloudFront signed URLs and signed cookies: sign and verify, canned and custom policies.
//!
//! ```text
//! canned   ?[own parameters&]Expires=N&Signature=S&Key-Pair-Id=K[&Hash-Algorithm=SHA256]
//!          signs {"Statement":[{"Resource":"URL","Condition":{"DateLessThan":{"AWS:EpochTime":N}}}]}
//! custom   ?[own parameters&]Policy=P&Signature=S&Key-Pair-Id=K[&Hash-Algorithm=SHA256]
//!          signs the policy itself: one Resource, in which * and ? stand for anything, and conditions
//! cookies  CloudFront-Policy or CloudFront-Expires, CloudFront-Signature, CloudFront-Key-Pair-Id
//! S        RSA PKCS #1 v1.5 over SHA-1, or SHA-256 when Hash-Algorithm says so; S and P in base64 with
//!          + as -, / as ~ and the padding as _
//! ```
//! A policy names the whole URL, so the origin must know the host that listeners ask: the public base URL.
//! RSA costs some twenty microseconds; what verified is remembered per core, what did not is not.

use std::net::IpAddr;

use base64::Engine as _;
use base64::alphabet::{Alphabet, Symbol};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use super::memory::{self, Form, Opens};
use super::rsa::{self, Hash};
use super::{Live, Refused, Which, decimal, generation};

type Message = super::message::Message<2048>;

/// A key as CloudFront knows it.
#[derive(Clone, Debug)]
pub struct KeyPair {
    /// `Key-Pair-Id`.
    pub id: Box<str>,
    /// The public key, and the private one where we sign.
    pub key: rsa::Key,
}

/// The keys that are live, and where listeners find us.
#[derive(Clone, Debug)]
pub struct Keys {
    live: Live<KeyPair>,
    /// `https://media.example.com`, in front of every path.
    base: Box<str>,
    generation: u64,
}

/// What a signature shall allow.
#[derive(Clone, Copy, Debug)]
pub struct Grant<'g> {
    /// The path of the URL, or the directory to open: then it ends with `*`.
    pub path: &'g str,
    /// First second in which it does not open any more, since 1970.
    pub expires_s: u64,
    /// Binds to one address.
    pub address: Option<IpAddr>,
}

/// The parameters of a signed URL or of the cookies, read but not believed. Empty: not there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Params<'u> {
    expires: &'u str,
    policy: &'u str,
    pub(super) signature: &'u str,
    pub(super) key_pair_id: &'u str,
    hash: &'u str,
}

/// What a policy allows, its signature verified.
#[derive(Debug)]
pub struct Policy {
    /// The URL, with `*` and `?` when `wildcards`.
    pub(super) resource: Box<str>,
    wildcards: bool,
    /// First second in which it does not open any more.
    pub(super) before_s: u64,
    /// It opens after this second.
    pub(super) after_s: Option<u64>,
    pub(super) network: Option<Network>,
    pub(super) which: Which,
}

/// Addresses that begin alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u32,
}

impl KeyPair {
    /// The parameters to put behind `base + grant.path`, or behind any URL that its wildcard covers. Canned
    /// when the path is exact and nobody is bound. `None` for a public key.
    pub fn sign_params(&self, base: &str, grant: &Grant<'_>) -> Option<String> {
        Some(
            self.signed(base, grant)?
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect::<Vec<_>>()
                .join("&"),
        )
    }

    /// The same as cookies: name and value of each.
    pub fn sign_cookies(&self, base: &str, grant: &Grant<'_>) -> Option<Vec<(String, String)>> {
        let signed = self.signed(base, grant)?;
        Some(signed.into_iter().map(|(name, value)| (format!("CloudFront-{name}"), value)).collect())
    }

    fn signed(&self, base: &str, grant: &Grant<'_>) -> Option<Vec<(&'static str, String)>> {
        let canned = grant.address.is_none() && !grant.path.contains('*');
        let bound = grant.address.map(|ip| {
            let ip = ip.to_canonical();
            format!(",\"IpAddress\":{{\"AWS:SourceIp\":\"{ip}/{}\"}}", bits_of(ip))
        });
        let policy = format!(
            "{BEFORE_URL}{base}{}{BEFORE_TIME}{}}}{}{AFTER}",
            grant.path,
            grant.expires_s,
            bound.unwrap_or_default()
        );
        let signature = ENGINE.encode(self.key.sign(policy.as_bytes())?);
        let first = match canned {
            true => ("Expires", grant.expires_s.to_string()),
            false => ("Policy", encode(&policy)),
        };
        Some(vec![
            first,
            ("Signature", signature),
            ("Key-Pair-Id", self.id.to_string()),
            ("Hash-Algorithm", "SHA256".to_owned()),
        ])
    }
}

// The canned policy in three pieces; a custom one of ours has its conditions between the last two.
const BEFORE_URL: &str = "{\"Statement\":[{\"Resource\":\"";
const BEFORE_TIME: &str = "\",\"Condition\":{\"DateLessThan\":{\"AWS:EpochTime\":";
const AFTER: &str = "}}]}";

impl Keys {
    /// The live keys, for URLs below `base` (without a trailing slash).
    pub fn new(current: KeyPair, previous: Option<KeyPair>, base: &str) -> Keys {
        let base = base.trim_end_matches('/').into();
        Keys { live: Live { current, previous }, base, generation: generation() }
    }

    /// The key to sign with.
    pub fn current(&self) -> &KeyPair {
        &self.live.current
    }

    /// Where listeners find us.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Whether `params` open `path` with `query` for `peer` at `now_s`. Allocates nothing for a signature
    /// that was seen before, or that is refused.
    ///
    /// # Errors
    /// Why they do not.
    pub fn verify(
        &self,
        params: &Params<'_>,
        query: &str,
        path: &str,
        peer: IpAddr,
        now_s: u64,
    ) -> Result<(), Refused> {
        let url = self.url(path, query)?;
        // A canned policy is for one URL, so the URL is part of what was signed.
        let signed = if params.policy.is_empty() { url.bytes() } else { params.policy.as_bytes() };
        let [signature, id, hash, expires] =
            [params.signature, params.key_pair_id, params.hash, params.expires].map(str::as_bytes);
        let (set, parts) = ((self.generation, Form::Params), [signature, signed, id, hash, expires]);
        let known = memory::recall(set, &parts, |opens| match opens {
            Opens::Policy(policy) => Some(policy.allows(url.bytes(), peer, now_s)),
            Opens::Directory { .. } => None,
        });
        if let Some(Some(answer)) = known {
            return answer;
        }
        let policy = self.policy(params, url.bytes())?;
        policy.allows(url.bytes(), peer, now_s)?;
        memory::remember(set, &parts, Opens::Policy(policy));
        Ok(())
    }

    /// The URL that a policy has to name: ours, with the query but without what CloudFront added to it.
    pub(super) fn url(&self, path: &str, query: &str) -> Result<Message, Refused> {
        let mut url = Message::default();
        url.push(self.base.as_bytes())?;
        url.push(path.as_bytes())?;
        let own = query.split('&').filter(|pair| !pair.is_empty() && Field::of(pair).is_none());
        for (number, pair) in own.enumerate() {
            url.push(if number == 0 { b"?" } else { b"&" })?;
            url.push(pair.as_bytes())?;
        }
        Ok(url)
    }

    /// What was signed, once one of our keys says so.
    pub(super) fn policy(&self, params: &Params<'_>, url: &[u8]) -> Result<Policy, Refused> {
        let hash = match params.hash {
            "" | "SHA1" => Hash::Sha1,
            "SHA256" => Hash::Sha256,
            _ => return Err(Refused::Malformed),
        };
        let nth = self.live.iter().position(|pair| *pair.id == *params.key_pair_id);
        let which = Which::nth(nth.ok_or(Refused::Mismatch)?);
        let pair = match which {
            Which::Current => &self.live.current,
            Which::Previous => self.live.previous.as_ref().ok_or(Refused::Mismatch)?,
        };
        let mut signature = [0; SIGNATURE_BYTES_MAX];
        let signature = decode(params.signature, &mut signature)?;
        match (params.policy, params.expires) {
            ("", expires) => {
                let before_s = decimal(expires).ok_or(Refused::Malformed)?;
                let resource = plain(url)?;
                let mut canned = Message::default();
                for piece in [BEFORE_URL, resource, BEFORE_TIME, expires, "}", AFTER] {
                    canned.push(piece.as_bytes())?;
                }
                if !pair.key.verify(hash, canned.bytes(), signature) {
                    return Err(Refused::Mismatch);
                }
                Ok(Policy {
                    resource: resource.into(),
                    wildcards: false,
                    before_s,
                    after_s: None,
                    network: None,
                    which,
                })
            }
            (policy, "") => {
                let mut json = [0; POLICY_BYTES_MAX];
                let json = decode(policy, &mut json)?;
                if !pair.key.verify(hash, json, signature) {
                    return Err(Refused::Mismatch);
                }
                Policy::read(json, which)
            }
            _ => Err(Refused::Malformed), // Policy and Expires together
        }
    }
}

/// An 8,192-bit key's, and what the decoder's estimate is above it.
const SIGNATURE_BYTES_MAX: usize = 1026;
/// A URL and three conditions take 300.
const POLICY_BYTES_MAX: usize = 1536;

/// What goes between quotes in JSON as it is. In a URL nothing else is allowed either (RFC 3986 §2).
fn plain(url: &[u8]) -> Result<&str, Refused> {
    let plain = url.iter().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\'));
    std::str::from_utf8(url).ok().filter(|_| plain).ok_or(Refused::Malformed)
}

impl<'u> Params<'u> {
    /// Reads the query of a signed URL.
    ///
    /// # Errors
    /// `Malformed` for a repeated parameter, `Missing` without a signature.
    pub fn of_query(query: &'u str) -> Result<Params<'u>, Refused> {
        let mut params = Params::default();
        for pair in query.split('&') {
            let Some((field, value)) = Field::of(pair) else { continue };
            let place = params.place(field);
            if !place.is_empty() || value.is_empty() {
                return Err(Refused::Malformed);
            }
            *place = value;
        }
        if params.signature.is_empty() { Err(Refused::Missing) } else { Ok(params) }
    }

    /// Reads `Cookie` headers; `None` without a signature. Of two cookies with one name the first counts: a
    /// browser sends the one with the longer path first (RFC 6265 §5.4).
    pub fn of_cookies(headers: impl Iterator<Item = &'u str>) -> Option<Params<'u>> {
        let mut params = Params::default();
        for cookie in headers.flat_map(|header| header.split(';')) {
            let Some(pair) = cookie.trim_ascii().strip_prefix("CloudFront-") else { continue };
            if let Some((field, value)) = Field::of(pair) {
                let place = params.place(field);
                if place.is_empty() {
                    *place = value;
                }
            }
        }
        (!params.signature.is_empty()).then_some(params)
    }

    fn place(&mut self, field: Field) -> &mut &'u str {
        match field {
            Field::Expires => &mut self.expires,
            Field::Policy => &mut self.policy,
            Field::Signature => &mut self.signature,
            Field::KeyPairId => &mut self.key_pair_id,
            Field::Hash => &mut self.hash,
        }
    }
}

/// CloudFront's own parameters.
#[derive(Clone, Copy)]
enum Field {
    Expires,
    Policy,
    Signature,
    KeyPairId,
    Hash,
}

impl Field {
    /// Splits `name=value`; `None` for others' parameters.
    fn of(pair: &str) -> Option<(Field, &str)> {
        let (name, value) = pair.split_once('=')?;
        let field = match name {
            "Expires" => Field::Expires,
            "Policy" => Field::Policy,
            "Signature" => Field::Signature,
            "Key-Pair-Id" => Field::KeyPairId,
            "Hash-Algorithm" => Field::Hash,
            _ => return None,
        };
        Some((field, value))
    }
}

/// A policy document. Anything we do not know is a condition we would not enforce, so it is refused.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(rename = "Statement")]
    statement: [Statement; 1],
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Statement {
    /// CloudFront takes a policy without one for everything; we refuse it.
    #[serde(rename = "Resource")]
    resource: Box<str>,
    #[serde(rename = "Condition")]
    condition: Condition,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    #[serde(rename = "DateLessThan")]
    before: Epoch,
    #[serde(rename = "DateGreaterThan")]
    after: Option<Epoch>,
    #[serde(rename = "IpAddress")]
    address: Option<SourceIp>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Epoch {
    #[serde(rename = "AWS:EpochTime")]
    s: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceIp {
    #[serde(rename = "AWS:SourceIp")]
    network: Box<str>,
}

impl Policy {
    fn read(json: &[u8], which: Which) -> Result<Policy, Refused> {
        let document: Document = serde_json::from_slice(json).map_err(|_| Refused::Malformed)?;
        let [Statement { resource, condition }] = document.statement;
        let network = match condition.address {
            None => None,
            Some(SourceIp { network }) => Some(Network::read(&network).ok_or(Refused::Malformed)?),
        };
        let after_s = condition.after.map(|after| after.s);
        Ok(Policy { resource, wildcards: true, before_s: condition.before.s, after_s, network, which })
    }

    fn allows(&self, url: &[u8], peer: IpAddr, now_s: u64) -> Result<(), Refused> {
        if now_s >= self.before_s {
            return Err(Refused::Expired);
        }
        if self.after_s.is_some_and(|after_s| now_s <= after_s) {
            return Err(Refused::NotYet);
        }
        let opens = match self.wildcards {
            true => matches(self.resource.as_bytes(), url),
            false => self.resource.as_bytes() == url,
        };
        if !opens {
            return Err(Refused::WrongPath);
        }
        match self.network {
            Some(network) if !network.contains(peer) => Err(Refused::WrongAddress),
            _ => Ok(()),
        }
    }
}

/// `*` stands for any characters, also none; `?` for exactly one. Steps at most pattern × text, which are
/// both bounded, and only a signed pattern gets here.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((star_p, star_t)) = star else { return false };
                star = Some((star_p, star_t + 1));
                p = star_p + 1;
                t = star_t + 1;
            }
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

impl Network {
    /// `1.2.3.4/24`, or one address.
    fn read(text: &str) -> Option<Network> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().ok()?;
        let bits = match bits {
            Some("0") => 0,
            Some(bits) => u32::try_from(decimal(bits)?).ok()?,
            None => bits_of(address),
        };
        (bits <= bits_of(address)).then_some(Network { address, bits })
    }

    fn contains(self, peer: IpAddr) -> bool {
        let same = |a: u128, b: u128, width: u32| (a ^ b).checked_shr(width - self.bits).unwrap_or(0) == 0;
        match (self.address, peer.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(peer)) => same(own.to_bits().into(), peer.to_bits().into(), 32),
            (IpAddr::V6(own), IpAddr::V6(peer)) => same(own.to_bits(), peer.to_bits(), 128),
            _ => false,
        }
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

fn bits_of(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Base64 as CloudFront writes it in URLs.
const ENGINE: GeneralPurpose = GeneralPurpose::new(&ALPHABET, CONFIG);
const CONFIG: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::RequireCanonical);
const ALPHABET: Alphabet = {
    let characters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-~";
    let padding = Symbol::new(b'_').expect("printable");
    match Alphabet::new_with_padding(characters, padding) {
        Ok(alphabet) => alphabet,
        Err(_) => panic!("64 different characters"),
    }
};

/// Writes a policy as it stands in a URL.
pub(super) fn encode(policy: &str) -> String {
    ENGINE.encode(policy)
}

fn decode<'b>(text: &str, buffer: &'b mut [u8]) -> Result<&'b [u8], Refused> {
    let bytes = ENGINE.decode_slice(text, buffer).map_err(|_| Refused::Malformed)?;
    Ok(&buffer[..bytes])
}

#[cfg(test)]
#[path = "cloudfront_tests.rs"]
pub(super) mod tests;
