//! Whether a request may have what it asks for. In: the target, its token, who asks and when. Out: yes,
//! or why not. Signature and time only: no I/O, nothing to look up.

use std::net::{IpAddr, SocketAddr};

use hyper::Request;
use hyper::header::{COOKIE, HeaderMap, HeaderName, HeaderValue};
use subtle::{Choice, ConstantTimeEq as _};

use super::target::Target;
use crate::base::{Error, Result};
use crate::cdn::{Carried, Presented, Refused, Verifier, cloudfront};

/// Checks the token of a request for something that takes one.
pub(super) fn authorize<B>(
    verifier: &Verifier,
    target: &Target<'_>,
    request: &Request<B>,
    peer: IpAddr,
    now_s: u64,
) -> Result<(), Refused> {
    let query = request.uri().query().unwrap_or_default();
    let presented = match target.token {
        Some(component) => Presented::Path(component),
        None => match by_cookie(verifier, request.headers(), query) {
            Some(params) => Presented::Cookies(params, query),
            None => Presented::Query(query),
        },
    };
    verifier.verify(presented, target.path, peer, now_s)
}

/// Cookies count when they may carry a token at all and the query carries none.
fn by_cookie<'r>(verifier: &Verifier, headers: &'r HeaderMap, query: &str) -> Option<cloudfront::Params<'r>> {
    if !verifier.reads_cookies() || Carried::by(query).is_some() {
        return None;
    }
    cloudfront::Params::of_cookies(headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok()))
}

/// Who asks: the connection's peer, or whom a trusted proxy says it asks for.
pub(super) fn client<B>(request: &Request<B>, peer: SocketAddr, trust_proxy: bool) -> IpAddr {
    client_by(request.headers(), peer, trust_proxy)
}

/// The same, by the headers alone.
pub(super) fn client_by(headers: &HeaderMap, peer: SocketAddr, trust_proxy: bool) -> IpAddr {
    const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
    if !trust_proxy {
        return peer.ip();
    }
    let mut said = headers.get_all(X_REAL_IP).iter();
    match (said.next(), said.next()) {
        // Two are one that the proxy let through and one of its own, and nobody can tell which.
        (Some(said), None) => said.to_str().ok().and_then(|said| said.trim().parse().ok()).unwrap_or(peer.ip()),
        _ => peer.ip(),
    }
}

/// A header that only our CDN knows: it adds it to every request it makes to us.
#[derive(Clone)]
pub struct SecretHeader {
    pub(super) name: HeaderName,
    value: HeaderValue,
}

impl SecretHeader {
    /// Reads `Name: value`.
    ///
    /// # Errors
    /// `Usage` for a name that is none and a value that is empty or cannot be sent; the value is not repeated.
    pub fn decode(text: &str) -> Result<SecretHeader> {
        let (name, value) = text.split_once(':').ok_or_else(|| Error::usage("it is not `Name: value`"))?;
        let name = HeaderName::try_from(name.trim())
            .map_err(|_| Error::usage(format!("{:?} is not a header name", name.trim())))?;
        let mut value = HeaderValue::from_str(value.trim())
            .map_err(|_| Error::usage(format!("the value of {name} cannot be sent in a header")))?;
        if value.is_empty() {
            return Err(Error::usage(format!("the value of {name} is empty: anybody could send it")));
        }
        value.set_sensitive(true);
        Ok(SecretHeader { name, value })
    }
}

impl std::fmt::Debug for SecretHeader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: …", self.name)
    }
}

/// Whether a request carries one of `secrets`, once, compared in constant time; true when there are none.
pub(super) fn has_secret(secrets: &[SecretHeader], headers: &HeaderMap) -> bool {
    if secrets.is_empty() {
        return true;
    }
    let known = secrets.iter().fold(Choice::from(0), |known, secret| {
        let mut sent = headers.get_all(&secret.name).iter();
        let sent = match (sent.next(), sent.next()) {
            (Some(sent), None) => sent.as_bytes(),
            _ => b"",
        };
        known | sent.ct_eq(secret.value.as_bytes())
    });
    known.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_of_two_secrets_lets_in_and_nothing_else() {
        let secrets = ["X-Origin-Secret: new", "X-Origin-Secret:old "].map(|text| SecretHeader::decode(text).unwrap());
        let check = |lines: &[(&'static str, &'static str)], lets_in| {
            let lines =
                lines.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
            let mut headers = HeaderMap::new();
            lines.for_each(|(name, value)| _ = headers.append(name, value));
            assert_eq!(has_secret(&secrets, &headers), lets_in);
        };
        check(&[("x-origin-secret", "new")], true);
        check(&[("x-origin-secret", "old")], true);
        check(&[("x-origin-secret", "ne")], false);
        check(&[("x-origin-secret", "newer")], false);
        check(&[("x-origin-secret", "")], false);
        check(&[("x-origin-secret", "new"), ("x-origin-secret", "wrong")], false);
        check(&[("x-secret", "new")], false);
        check(&[], false);
        assert!(has_secret(&[], &HeaderMap::new()));
        assert!(!format!("{secrets:?}").contains("new"));
    }

    #[test]
    fn a_secret_that_is_none_is_refused_without_being_repeated() {
        for (text, says) in [
            ("hush", "Name: value"),
            ("X-Secret:", "empty"),
            ("X-Secret:  ", "empty"),
            ("X Secret: a", "not a header name"),
            (": a", "not a header name"),
            ("X-Secret: hu\nsh", "cannot be sent"),
        ] {
            let error = SecretHeader::decode(text).unwrap_err().chain();
            assert!(error.contains(says) && !error.contains("sh\""), "{error}");
        }
    }
}
