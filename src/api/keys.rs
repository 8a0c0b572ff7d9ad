//! Keys of the control API: `sgk_`, 40 random characters, 6 that check them. We keep only a hash: a key has
//! 200 random bits, so a fast hash is as good as a slow one.

use axum::http::{HeaderMap, header};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::base::hex;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const PREFIX: &str = "sgk_";
const RANDOM: usize = 40;
const CHECK: usize = 6;

/// Makes a key; returns it and its SHA-256 in hexadecimal.
pub fn make() -> (String, String) {
    let mut random = [0; RANDOM];
    getrandom::fill(&mut random).expect("the operating system gives random bytes");
    let text = characters(&random);
    let key = format!("{PREFIX}{text}{}", check_of(&text));
    let sha256 = hex::encode(&Sha256::digest(key.as_bytes()));
    (key, sha256)
}

/// Whoever may use the API.
#[derive(Debug)]
pub struct Keys(Vec<(String, [u8; 32])>);

impl Keys {
    /// From ids and SHA-256 hashes; hashes that cannot be read match nothing (`Config::problems` names them).
    pub fn new<'a>(keys: impl Iterator<Item = (&'a str, &'a str)>) -> Keys {
        Keys(keys.filter_map(|(id, sha256)| Some((id.to_owned(), hex::decode(sha256.as_bytes())?))).collect())
    }

    /// Whether nobody may.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whose request it is: `Authorization: Bearer sgk_…` or `X-Api-Key: sgk_…`.
    pub fn whose(&self, headers: &HeaderMap) -> Option<&str> {
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
            let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
        });
        let key = bearer.or_else(|| headers.get("x-api-key")?.to_str().ok())?;
        // A mistyped key is refused before it costs a hash.
        let text = key.strip_prefix(PREFIX)?;
        if text.len() != RANDOM + CHECK || !text.is_ascii() || check_of(&text[..RANDOM]) != text[RANDOM..] {
            return None;
        }
        let digest: [u8; 32] = Sha256::digest(key.as_bytes()).into();
        // All are compared, each in constant time.
        let mut found = None;
        for (id, known) in &self.0 {
            if bool::from(known.ct_eq(&digest)) {
                found = Some(id.as_str());
            }
        }
        found
    }
}

fn check_of(text: &str) -> String {
    characters(&Sha256::digest(text.as_bytes())[..CHECK])
}

fn characters(bytes: &[u8]) -> String {
    bytes.iter().map(|b| ALPHABET[usize::from(b & 31)] as char).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn only_the_key_itself_opens() {
        let (key, sha256) = make();
        let keys = Keys::new([("other", "00"), ("ci", sha256.as_str())].into_iter());
        let check = |name: &'static str, value: &str, whose: Option<&str>| {
            let headers = HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_str(value).unwrap())]);
            assert_eq!(keys.whose(&headers), whose, "{name}: {value}");
        };
        check("authorization", &format!("Bearer {key}"), Some("ci"));
        check("authorization", &format!("bearer {key}"), Some("ci"));
        check("x-api-key", &key, Some("ci"));
        check("authorization", &key, None);
        check("authorization", &format!("Basic {key}"), None);
        check("x-api-key", &key[..key.len() - 1], None);
        check("x-api-key", &sha256, None);
        check("x-api-key", &make().0, None);
        check("x-api-key", "", None);
        assert_eq!(keys.whose(&HeaderMap::new()), None);
        assert!(Keys::new([("a", "not a hash")].into_iter()).is_empty());
    }
}
