//! The name of a request, by which a listener's complaint, the CDN's log and ours find each other.
//!
//! A CDN's own id is taken as it is. We make one only for what is logged or refused; and only refusals,
//! which nobody stores, carry it back: an answer that a cache keeps must not name one listener's request.

use std::borrow::Cow;
use std::cell::Cell;

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};

/// `X-Request-Id`, on refusals.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longer ids are not ids. CloudFront's have 56 characters.
const BYTES_MAX: usize = 128;

/// Bunny, Cloudflare, CloudFront, and everybody's proxies: the nearest to us first.
const HEADERS: [HeaderName; 4] = [
    HeaderName::from_static("cdn-requestid"),
    HeaderName::from_static("cf-ray"),
    HeaderName::from_static("x-amz-cf-id"),
    X_REQUEST_ID,
];

/// The id that came with a request; anything that could break a line or a header is no id.
pub fn given(headers: &HeaderMap) -> Option<&str> {
    HEADERS.iter().filter_map(|name| headers.get(name)?.to_str().ok()).find(|id| is_id(id))
}

/// The id that came with a request, or a new one.
pub fn given_or_made(headers: &HeaderMap) -> Cow<'_, str> {
    given(headers).map_or_else(|| Cow::Owned(made()), Cow::Borrowed)
}

/// An id as a header.
pub fn value(id: &str) -> HeaderValue {
    HeaderValue::from_str(id).expect("an id is made of visible ASCII")
}

fn is_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= BYTES_MAX && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:+/=".contains(&b))
}

/// Sixteen hexadecimal digits: a random start in each thread, then a walk that meets no value twice.
pub fn made() -> String {
    thread_local! {
        static NEXT: Cell<u64> = Cell::new(random());
    }
    // An odd step visits all 2^64 values; this one spreads neighbours apart.
    let id = NEXT.with(|next| next.replace(next.get().wrapping_add(0x9e37_79b9_7f4a_7c15)));
    format!("{id:016x}")
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    u64::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn the_nearest_cdn_names_the_request() {
        let both = headers(&[("x-request-id", "mine"), ("cdn-requestid", "0af7651916cd43dd8448eb211c80319c")]);
        assert_eq!(given(&both), Some("0af7651916cd43dd8448eb211c80319c"));
        assert_eq!(given(&headers(&[("cf-ray", "8f1b2c3d4e5f6071-FRA")])), Some("8f1b2c3d4e5f6071-FRA"));
        assert_eq!(given(&headers(&[("x-amz-cf-id", "aB_-x==")])), Some("aB_-x=="));
        assert_eq!(given(&HeaderMap::new()), None);
    }

    #[test]
    fn what_is_no_id_is_passed_over() {
        let long = "x".repeat(BYTES_MAX + 1);
        for bad in ["", "a b", "a\tb", "a;b", "\"a\"", "<a>", &long] {
            assert_eq!(given(&headers(&[("cdn-requestid", bad), ("x-request-id", "good")])), Some("good"), "{bad:?}");
        }
    }

    #[test]
    fn made_ids_differ_between_requests_and_threads() {
        let mut ids: Vec<String> = (0..1_000).map(|_| made()).collect();
        ids.extend(std::thread::spawn(|| (0..1_000).map(|_| made()).collect::<Vec<_>>()).join().unwrap());
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 2_000);
        assert!(ids.iter().all(|id| is_id(id) && id.len() == 16));
    }
}
