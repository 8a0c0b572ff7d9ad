//! API keys: `sgk_`, 10 characters that name the key, 40 random ones, 6 that check them all. The prefix is for scanners of
//! leaked secrets, the name for the table, the check for typing errors, which are refused before they cost a look.
//!
//! Keys of the configuration may have the older form without a name. We keep only a hash: a key has 200 random bits, so a
//! fast hash is as good as a slow one.

use sha2::{Digest as _, Sha256};

use crate::base::hex;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// What every key begins with.
pub const PREFIX: &str = "sgk_";
const NAME: usize = 10;
const RANDOM: usize = 40;
const CHECK: usize = 6;

/// A new key.
#[derive(Debug)]
pub struct NewKey {
    /// The key itself, to be shown once.
    pub key: String,
    /// What names it in lists and in the table: `key_` and its 10 characters.
    pub id: String,
    /// What we keep: SHA-256 in hexadecimal.
    pub sha256: String,
}

/// What a text that looks like a key says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presented {
    /// What names it; `None` for the older form.
    pub id: Option<String>,
    /// Its SHA-256.
    pub sha256: [u8; 32],
}

/// Makes a key.
pub fn make() -> NewKey {
    let mut random = [0; NAME + RANDOM];
    getrandom::fill(&mut random).expect("the operating system gives random bytes");
    let text = characters(&random);
    let key = format!("{PREFIX}{text}{}", check_of(&text));
    NewKey { id: format!("key_{}", &text[..NAME]), sha256: hex::encode(&Sha256::digest(key.as_bytes())), key }
}

/// Reads a key; `None` for what cannot be one: another form, or a check that does not fit.
pub fn decode(key: &str) -> Option<Presented> {
    let text = key.strip_prefix(PREFIX).filter(|text| text.is_ascii())?;
    let body = text.len().checked_sub(CHECK).filter(|body| [RANDOM, NAME + RANDOM].contains(body))?;
    if check_of(&text[..body]) != text[body..] {
        return None;
    }
    let id = (body > RANDOM).then(|| format!("key_{}", &text[..NAME]));
    Some(Presented { id, sha256: Sha256::digest(key.as_bytes()).into() })
}

/// Whether a text is meant to be a key, and not another kind of token.
pub fn is_meant(text: &str) -> bool {
    text.starts_with(PREFIX)
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

    #[test]
    fn a_key_names_itself_and_a_mistyped_one_is_none() {
        let made = make();
        assert_eq!(made.key.len(), 60);
        let read = decode(&made.key).unwrap();
        assert_eq!((read.id.as_deref(), hex::encode(&read.sha256)), (Some(made.id.as_str()), made.sha256));
        let mut typo = made.key.clone().into_bytes();
        typo[20] = if typo[20] == b'a' { b'b' } else { b'a' };
        for wrong in
            ["", "sgk_", &made.key[..59], &made.key[1..], std::str::from_utf8(&typo).unwrap(), &made.id, "sgk_ä"]
        {
            assert_eq!(decode(wrong), None, "{wrong}");
        }
        assert_ne!(make().key, made.key);
    }

    #[test]
    fn keys_of_the_older_form_are_read() {
        let text = "0123456789abcdefghjkmnpqrstvwxyz01234567";
        let old = format!("{PREFIX}{text}{}", check_of(text));
        assert_eq!(decode(&old).unwrap().id, None);
    }
}
