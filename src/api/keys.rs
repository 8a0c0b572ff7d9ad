//! Keys of the configuration: programs of the operator.

use subtle::ConstantTimeEq as _;

use crate::auth::api_key;
use crate::base::hex;

/// Makes a key; returns it and its SHA-256 in hexadecimal.
pub fn make() -> (String, String) {
    let made = api_key::make();
    (made.key, made.sha256)
}

/// Whoever may use the API by the configuration.
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

    /// Whose key has this hash.
    pub fn whose(&self, sha256: &[u8; 32]) -> Option<&str> {
        // All are compared, each in constant time.
        let mut found = None;
        for (id, known) in &self.0 {
            if bool::from(known.ct_eq(sha256)) {
                found = Some(id.as_str());
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_itself_opens() {
        let (key, sha256) = make();
        let keys = Keys::new([("other", "00"), ("ci", sha256.as_str())].into_iter());
        assert_eq!(keys.whose(&api_key::decode(&key).unwrap().sha256), Some("ci"));
        assert_eq!(keys.whose(&api_key::decode(&make().0).unwrap().sha256), None);
        assert!(Keys::new([("a", "not a hash")].into_iter()).is_empty());
    }
}
