//! Tokens that mean nothing by themselves: 256 random bits, of which only a hash is kept.
//!
//! Refresh tokens, links in mails, half-done logins. A fast hash is enough: nobody can try 2²⁵⁶ (ASVS 6.5.2).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use sha2::{Digest as _, Sha256};

use crate::base::hex;

const RANDOM_BYTES: usize = 32;
/// Characters of the text.
const CHARS: usize = 43;

/// A token as its holder has it. Never kept, never logged.
#[derive(Clone, PartialEq, Eq)]
pub struct OpaqueToken(String);

/// What we keep of one: SHA-256 in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenHash(String);

impl OpaqueToken {
    /// A new one.
    pub fn random() -> OpaqueToken {
        let mut random = [0; RANDOM_BYTES];
        getrandom::fill(&mut random).expect("the operating system gives random bytes");
        OpaqueToken(BASE64.encode(random))
    }

    /// Reads one; `None` for anything that we would not make.
    pub fn decode(text: &str) -> Option<OpaqueToken> {
        let like_ours = text.len() == CHARS && BASE64.decode(text).is_ok();
        like_ours.then(|| OpaqueToken(text.to_owned()))
    }

    /// The text, for whoever shall have it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What we keep.
    pub fn hash(&self) -> TokenHash {
        TokenHash(hex::encode(&Sha256::digest(self.0.as_bytes())))
    }
}

impl TokenHash {
    /// The hash as text, for the database.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for OpaqueToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpaqueToken(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_and_shows_nothing() {
        let token = OpaqueToken::random();
        assert_eq!(OpaqueToken::decode(token.expose()), Some(token.clone()));
        assert_ne!(token, OpaqueToken::random());
        assert_eq!(token.hash().as_str().len(), 64);
        assert_eq!(format!("{token:?}"), "OpaqueToken(…)");
        for wrong in ["", "short", &"a".repeat(44), &"ä".repeat(21), &format!("{}=", &token.expose()[1..])] {
            assert_eq!(OpaqueToken::decode(wrong), None, "{wrong}");
        }
    }
}
