//! Addresses of mail, parsed once at the door.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::base::hex;
use crate::base::{Error, Result};

/// The longest address, in bytes (RFC 5321 §4.5.3.1.3, less the angle brackets).
const BYTES_MAX: usize = 254;
/// The longest part in front of the @, in bytes.
const LOCAL_BYTES_MAX: usize = 64;

/// An address that mail can be sent to: `name@host`, without comments, quotes or controls.
#[derive(Clone, PartialEq, Eq)]
pub struct Email {
    written: String,
    key: String,
}

impl Email {
    /// Reads an address.
    ///
    /// # Errors
    /// `Invalid` saying what is wrong with it.
    pub fn decode(text: &str) -> Result<Email> {
        let text = text.trim();
        let wrong = |why: &str| Error::invalid(format!("{why}; give an address like name@example.org"));
        let (local, host) = text.rsplit_once('@').ok_or_else(|| wrong("it has no @"))?;
        if text.len() > BYTES_MAX || local.len() > LOCAL_BYTES_MAX {
            return Err(wrong("it is too long"));
        }
        let in_local = |c: char| c.is_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c);
        let dotted = |part: &str| part.starts_with('.') || part.ends_with('.') || part.contains("..");
        if local.is_empty() || dotted(local) || !local.chars().all(in_local) {
            return Err(wrong("what stands before its @ cannot be sent to"));
        }
        let label = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.chars().all(|c| c.is_alphanumeric() || c == '-')
        };
        if !host.contains('.') || !host.split('.').all(label) {
            return Err(wrong("what stands behind its @ is no host"));
        }
        // Whole: hosts do not tell cases apart, and no provider of weight gives two people one name in two cases.
        Ok(Email { written: text.to_owned(), key: text.to_lowercase() })
    }

    /// As its owner writes it.
    pub fn as_str(&self) -> &str {
        &self.written
    }

    /// What it is compared by: one account an address.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// A name for throttles that does not say whose it is.
    pub fn digest(&self) -> String {
        hex::encode(&Sha256::digest(self.key.as_bytes())[..16])
    }
}

impl fmt::Debug for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Email(…)") // logs are no place for addresses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_that_mail_can_be_sent_to() {
        for good in
            ["a@b.example", "Maria.Curie+music@Example.ORG", "müller@bücher.example", "o'brien@x.co", " a@b.de "]
        {
            let email = Email::decode(good).unwrap();
            assert_eq!(email.as_str(), good.trim());
            assert_eq!(email.key(), good.trim().to_lowercase());
        }
        let long = format!("{}@example.org", "a".repeat(65));
        for bad in [
            "",
            "a",
            "@b.example",
            "a@",
            "a@b",
            "a@b..example",
            "a@-b.example",
            ".a@b.example",
            "a..b@c.example",
            "a b@c.example",
            "\"a b\"@c.example",
            "a@b.example\r\nBcc: x@y.example",
            "a@b.example, c@d.example",
            "<a@b.example>",
            "a@b.example\0",
            &long,
        ] {
            assert!(Email::decode(bad).is_err(), "{bad:?}");
        }
        assert_eq!(Email::decode("A@B.example").unwrap().digest(), Email::decode("a@b.EXAMPLE").unwrap().digest());
    }
}
