//! Whether a request is addressed as HTTP allows. In: method, target and Host. Out: yes or no; no is 400.
//! RFC 9112 §3.2, RFC 9110 §4.2.4 and §7.2.

use hyper::header::{HOST, HeaderValue};
use hyper::http::uri::Scheme;
use hyper::{Method, Request, Version};

/// Whether target and Host have the forms that well-meaning clients give them.
pub(super) fn is_sound<B>(request: &Request<B>) -> bool {
    let uri = request.uri();
    let path = uri.path();
    // `*` is for OPTIONS, and an authority alone is for CONNECT (RFC 9112 §3.2.3, §3.2.4).
    let has_form = path.starts_with('/') || (path == "*" && *request.method() == Method::OPTIONS);
    // What is not HTTP's is somebody else's to fetch: we are no proxy.
    let is_ours = uri.scheme().is_none_or(|scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS);
    // Nor is a user in front of a host one: that is how links mislead people (RFC 9110 §4.2.4).
    let has_host = uri.authority().is_none_or(|authority| is_host(authority.as_str().as_bytes()));
    has_form && is_ours && has_host && request.headers().get_all(HOST).iter().all(|host| is_host(host.as_bytes()))
}

/// Makes the host of an absolute-form target the only one that is seen. RFC 9112 §3.2.2: "the origin server MUST
/// ignore the received Host header field (if any) and instead use the host information of the request-target".
pub(super) fn settle_host<B>(mut request: Request<B>) -> Request<B> {
    let authority = request.uri().authority().filter(|_| request.version() < Version::HTTP_2);
    let host = authority.and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    if let Some(host) = host {
        request.headers_mut().insert(HOST, host);
    }
    request
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
        assert!(sound(Method::GET, "HTTPS://x:443/a") && sound(Method::GET, "http://[::1]/a"));
        assert!(
            !sound(Method::GET, "ftp://x/a") && !sound(Method::GET, "ws://x/a") && !sound(Method::GET, "http://[x]/")
        );
    }

    #[test]
    fn the_host_of_the_target_is_the_one_that_counts() {
        let seen = |target: &str| {
            let request = Request::builder().uri(target).header(HOST, "said").body(()).unwrap();
            settle_host(request).headers()[HOST].clone()
        };
        assert_eq!(seen("/a"), "said");
        assert_eq!(seen("http://named:8080/a"), "named:8080");
    }
}
