//! Whether a request is addressed as HTTP allows. In: method, target and Host. Out: yes or no; no is 400.
//! RFC 9112 §3.2, RFC 9110 §4.2.4 and §7.2.

use hyper::header::HOST;
use hyper::{Method, Request};

/// Whether target and Host have the forms that well-meaning clients give them.
pub(super) fn is_sound<B>(request: &Request<B>) -> bool {
    let uri = request.uri();
    let path = uri.path();
    // `*` is for OPTIONS, and an authority alone is for CONNECT (RFC 9112 §3.2.3, §3.2.4).
    let has_form = path.starts_with('/') || (path == "*" && *request.method() == Method::OPTIONS);
    // A user in front of a host is how links mislead people (RFC 9110 §4.2.4).
    let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    has_form && !has_user && request.headers().get_all(HOST).iter().all(|host| is_host(host.as_bytes()))
}

/// `uri-host [ ":" port ]` of RFC 3986 §3.2.2. RFC 9112 §3.2: an invalid value MUST be answered 400.
fn is_host(value: &[u8]) -> bool {
    let (host, port) = match value {
        [b'[', rest @ ..] => match rest.iter().position(|b| *b == b']') {
            Some(end) => {
                let literal = |b: &u8| b.is_ascii_hexdigit() || matches!(b, b':' | b'.');
                if end == 0 || !rest[..end].iter().all(literal) {
                    return false;
                }
                (&b""[..], &rest[end + 1..])
            }
            None => return false,
        },
        _ => value.split_at(value.iter().position(|b| *b == b':').unwrap_or(value.len())),
    };
    // Registered names: unreserved, sub-delims and escapes.
    let named = |b: &u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(b);
    let numbered = port.is_empty() || (port[0] == b':' && port.len() <= 6 && port[1..].iter().all(u8::is_ascii_digit));
    host.iter().all(named) && numbered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_and_perhaps_a_port() {
        for good in ["", "x", "a.example:80", "192.0.2.1", "[2001:db8::1]", "[::1]:8443", "x:", "a_b", "caf%C3%A9"] {
            assert!(is_host(good.as_bytes()), "{good}");
        }
        for bad in
            ["a b", "x/y", "u@x", "x:y", "x:999999", "x:80:80", "[::1", "[]", "[x]", "[::1]x", "é", "x?y", "http://x"]
        {
            assert!(!is_host(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn a_target_fits_its_method() {
        let sound =
            |method: Method, target: &str| is_sound(&Request::builder().method(method).uri(target).body(()).unwrap());
        assert!(sound(Method::GET, "/a") && sound(Method::GET, "http://x/a") && sound(Method::OPTIONS, "*"));
        assert!(!sound(Method::GET, "*") && !sound(Method::GET, "x:80") && !sound(Method::GET, "http://u@x/a"));
    }
}
