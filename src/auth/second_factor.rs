//! Second factors: codes by time (RFC 6238) and codes for the day when the phone is lost.
//!
//! A code is accepted for its own 30 seconds and the next 30, never before its time, and once: `verify` only looks at
//! steps behind the last one that was used, which the database remembers in one conditional statement.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use totp_rs::{Algorithm, Builder, Totp};

use crate::base::hex;
use crate::base::{Error, Result};

/// Seconds of a step.
const STEP_S: u64 = 30;
/// Bytes of a secret (RFC 4226 §4, R6: 160 bits).
const SECRET_BYTES: usize = 20;
/// Who the code is for, as an authenticator shows it.
const ISSUER: &str = "Segue";
/// Recovery codes in a set.
pub const RECOVERY_CODES: usize = 10;
/// Random characters of a recovery code: 125 bits.
const RECOVERY_CHARS: usize = 25;
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// The secret that an authenticator shares with us.
pub struct TotpSecret([u8; SECRET_BYTES]);

impl TotpSecret {
    /// A new one.
    pub fn random() -> TotpSecret {
        let mut bytes = [0; SECRET_BYTES];
        getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
        TotpSecret(bytes)
    }

    /// The text that is sealed into the row.
    pub fn encode(&self) -> String {
        BASE64.encode(self.0)
    }

    /// Reads that text.
    ///
    /// # Errors
    /// `Internal` for another text.
    pub fn decode(text: &str) -> Result<TotpSecret> {
        let bytes = BASE64.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(TotpSecret).ok_or_else(|| Error::internal("the secret of a second factor cannot be read"))
    }

    /// What a person types into an authenticator, in base 32, and what it reads from a picture.
    ///
    /// # Errors
    /// `Internal` when the address cannot be shown there.
    pub fn shown(&self, email: &str) -> Result<(String, String)> {
        // A colon would end the label (Key Uri Format).
        let totp = self.totp(&email.replace(':', " "))?;
        let url = totp.to_url().map_err(|cause| Error::internal(format!("no otpauth URL: {cause}")))?;
        Ok((totp.secret().to_base32(), url))
    }

    /// The step whose code this is, of those that are due and lie behind `last_step`.
    pub fn verify(&self, code: &str, now_s: u64, last_step: u64) -> Option<u64> {
        let code = code.trim();
        let totp = self.totp("").ok()?;
        let now = now_s / STEP_S;
        // Both are compared, whatever the first says.
        let mut found = None;
        for step in [now, now.saturating_sub(1)] {
            let due = totp.generate(step * STEP_S).to_string();
            if bool::from(due.as_bytes().ct_eq(code.as_bytes())) && step > last_step {
                found = Some(step);
            }
        }
        found
    }

    fn totp(&self, account: &str) -> Result<Totp> {
        Builder::new()
            .with_algorithm(Algorithm::SHA1) // what every authenticator knows; some ignore other choices
            .with_digits(6)
            .with_skew(0)
            .with_step_duration(STEP_S)
            .with_secret(self.0.to_vec())
            .with_account_name(account)
            .with_issuer(Some(ISSUER))
            .build()
            .map_err(|cause| Error::internal(format!("a second factor cannot be computed: {cause}")))
    }
}

impl std::fmt::Debug for TotpSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TotpSecret(…)")
    }
}

/// New codes for the day when the phone is lost: `01234-56789-…`.
pub fn recovery_codes() -> Vec<String> {
    (0..RECOVERY_CODES)
        .map(|_| {
            let mut random = [0; RECOVERY_CHARS];
            getrandom::fill(&mut random).expect("the operating system gives random bytes");
            let text: Vec<char> = random.iter().map(|b| ALPHABET[usize::from(b & 31)] as char).collect();
            text.chunks(5).map(|part| part.iter().collect::<String>()).collect::<Vec<_>>().join("-")
        })
        .collect()
}

/// What we keep of a recovery code, however it was typed; `None` for what cannot be one.
pub fn recovery_hash(code: &str) -> Option<String> {
    let typed = code.chars().filter(|c| !c.is_whitespace() && *c != '-');
    // Crockford: letters that look like digits are meant as those.
    let meant: String = typed
        .map(|c| match c.to_ascii_lowercase() {
            'o' => '0',
            'i' | 'l' => '1',
            c => c,
        })
        .collect();
    let known = meant.len() == RECOVERY_CHARS && meant.bytes().all(|b| ALPHABET.contains(&b));
    known.then(|| hex::encode(&Sha256::digest(meant.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The secret of RFC 6238's examples, whose codes have eight digits: ours are the last six.
    fn rfc() -> TotpSecret {
        TotpSecret(*b"12345678901234567890")
    }

    #[test]
    fn codes_are_those_of_the_rfc_in_their_time_and_once() {
        let check = |at: u64, code: &str, last: u64, step: Option<u64>| {
            assert_eq!(rfc().verify(code, at, last), step, "{code} at {at} after {last}");
        };
        check(59, "287082", 0, Some(1));
        check(1_111_111_109, "081804", 0, Some(37_037_036));
        check(2_000_000_000, "279037", 0, Some(66_666_666));
        check(1_111_111_109, " 081804 ", 0, Some(37_037_036)); // as people paste it
        // Late by a step, early by a step, replayed.
        check(1_111_111_109 + 30, "081804", 0, Some(37_037_036));
        check(1_111_111_109 + 60, "081804", 0, None);
        check(1_111_111_109 - 30, "081804", 0, None);
        check(1_111_111_109, "081804", 37_037_036, None);
        check(1_111_111_109 + 30, "081804", 37_037_036, None);
        for wrong in ["", "081805", "81804", "0818040", "०८१८०४", "abcdef"] {
            check(1_111_111_109, wrong, 0, None);
        }
    }

    #[test]
    fn a_secret_comes_back_and_is_shown_as_authenticators_read_it() {
        let read = TotpSecret::decode(&rfc().encode()).unwrap();
        assert_eq!(read.0, rfc().0);
        let (base32, url) = read.shown("a:b@example.org").unwrap();
        assert_eq!(base32, "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ");
        assert!(url.starts_with("otpauth://totp/") && url.contains(&base32) && url.contains("issuer=Segue"), "{url}");
        assert!(TotpSecret::decode("AAAA").is_err());
        assert_ne!(TotpSecret::random().0, TotpSecret::random().0);
    }

    #[test]
    fn recovery_codes_are_read_as_people_type_them() {
        let codes = recovery_codes();
        assert_eq!(codes.len(), 10);
        let hash = recovery_hash(&codes[0]).unwrap();
        assert_eq!(recovery_hash(&codes[0].to_uppercase().replace('-', " ")), Some(hash.clone()));
        assert_eq!(recovery_hash(&codes[0].replace('0', "O").replace('1', "l")), Some(hash.clone()));
        assert_ne!(recovery_hash(&codes[1]), Some(hash));
        for wrong in ["", "123456", &codes[0][1..], "uuuuu-uuuuu-uuuuu-uuuuu-uuuuu"] {
            assert_eq!(recovery_hash(wrong), None, "{wrong}");
        }
    }
}
