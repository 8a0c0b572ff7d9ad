//! Share tokens: who has one hears a track that is not for everybody. `sgs_`, 52 characters of which all are random,
//! 260 bits. We keep a hash: a fast one is as good as a slow one for what nobody can guess.

use sha2::{Digest as _, Sha256};

use crate::base::hex;
use crate::base::id::sortable_id;

sortable_id!(
    /// The id of a share, by which its owner revokes it: it opens nothing.
    ShareId, "shr_", "share id", ""
);

/// How tokens begin; `base/redact.rs` knows it.
const PREFIX: &str = "sgs_";
/// Characters behind it.
const RANDOM: usize = 52;
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// The longest that a share lasts, in seconds: a year.
pub const VALID_S_MAX: i64 = 366 * 86_400;
/// How long it lasts when nobody says: a month.
pub const VALID_S: i64 = 30 * 86_400;
/// Shares of one track that are in force at once.
pub const SHARES_MAX: i64 = 100;
/// The longest label, in characters.
pub const LABEL_CHARS_MAX: usize = 100;

/// A new token, and what we keep of it.
pub fn mint() -> (String, String) {
    let mut random = [0u8; RANDOM];
    getrandom::fill(&mut random).expect("the operating system gives random bytes");
    let text: String = random.iter().map(|b| ALPHABET[usize::from(b & 31)] as char).collect();
    let token = format!("{PREFIX}{text}");
    let kept = digest(&token).expect("it was made so");
    (token, kept)
}

/// What we keep of a token; `None` for what was never one, which costs no question to the database.
pub fn digest(token: &str) -> Option<String> {
    let text = token.strip_prefix(PREFIX)?;
    let fits = text.len() == RANDOM && text.bytes().all(|b| ALPHABET.contains(&b));
    fits.then(|| hex::encode(&Sha256::digest(token.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_by_its_hash_only_and_nothing_else_is_one() {
        let (token, kept) = mint();
        assert_eq!(digest(&token).as_deref(), Some(kept.as_str()));
        assert!(!kept.contains(&token[4..20]));
        assert_ne!(mint().0, token);
        for bad in ["", "sgs_", &token[..token.len() - 1], &token.to_uppercase(), &format!("{token}0"), &kept] {
            assert_eq!(digest(bad), None, "{bad}");
        }
        assert_eq!(crate::base::redact::text(&format!("shared {token} today")), "shared sgs_REDACTED today");
    }
}
