//! RSA keys from PEM, and PKCS #1 v1.5 signatures with them (RFC 8017 §8.2). AWS-LC does the arithmetic.
//!
//! SHA-1 is verified, because CloudFront's signers used nothing else until 2026, and never signed.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{
    self, KeyPair as _, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256,
    RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::base::{Error, Result};

/// With what a message was digested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// What CloudFront assumes when nothing is said.
    Sha1,
    /// What we sign with.
    Sha256,
}

/// A public key of 2,048 to 8,192 bits, ready to verify, and its private half when we have it.
#[derive(Clone)]
pub struct Key(Arc<Halves>);

struct Halves {
    sha1: ParsedPublicKey,
    sha256: ParsedPublicKey,
    private: Option<RsaKeyPair>,
}

impl Key {
    /// Reads the first key of a PEM text: `PUBLIC KEY`, `RSA PUBLIC KEY`, `PRIVATE KEY` or `RSA PRIVATE KEY`.
    ///
    /// # Errors
    /// `Usage` saying what there is instead.
    pub fn from_pem(text: &str) -> Result<Key> {
        let (label, der) = pem(text)?;
        let rejected = |cause| Error::usage("it is not an RSA key of 2048 to 8192 bits").because(cause);
        let private = match label {
            "PRIVATE KEY" => Some(RsaKeyPair::from_pkcs8(&der).map_err(rejected)?),
            "RSA PRIVATE KEY" => Some(RsaKeyPair::from_der(&der).map_err(rejected)?),
            "PUBLIC KEY" | "RSA PUBLIC KEY" => None,
            other => return Err(Error::usage(format!("it holds a {other:?}, not an RSA key in PEM"))),
        };
        let public = private.as_ref().map_or(der.as_slice(), |pair| pair.public_key().as_ref());
        let parsed = |algorithm| ParsedPublicKey::new(algorithm, public).map_err(rejected);
        let key = Halves {
            sha1: parsed(&RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY)?,
            sha256: parsed(&RSA_PKCS1_2048_8192_SHA256)?,
            private,
        };
        Ok(Key(Arc::new(key)))
    }

    /// Whether it can sign.
    pub fn signs(&self) -> bool {
        self.0.private.is_some()
    }

    /// Whether `signature` is this key's for `message`.
    pub fn verify(&self, hash: Hash, message: &[u8], signature: &[u8]) -> bool {
        let key = match hash {
            Hash::Sha1 => &self.0.sha1,
            Hash::Sha256 => &self.0.sha256,
        };
        key.verify_sig(message, signature).is_ok()
    }

    /// Signs `message`, digested with SHA-256; `None` for a public key.
    pub fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let pair = self.0.private.as_ref()?;
        let mut signature = vec![0; pair.public_modulus_len()];
        let random = aws_lc_rs::rand::SystemRandom::new();
        pair.sign(&signature::RSA_PKCS1_SHA256, &random, message, &mut signature)
            .expect("a key that was accepted signs into a buffer of its own length");
        Some(signature)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.signs() { "Key(private …)" } else { "Key(public)" })
    }
}

/// Label and content of the first block (RFC 7468 §3).
fn pem(text: &str) -> Result<(&str, Vec<u8>)> {
    let block = || {
        let (label, rest) = text.split_once("-----BEGIN ")?.1.split_once("-----")?;
        let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
        Some((label, body))
    };
    let (label, body) = block().ok_or_else(|| Error::usage("it is not PEM: there is no -----BEGIN …----- block"))?;
    let base64: String = body.split_ascii_whitespace().collect();
    let der = STANDARD.decode(base64).map_err(|cause| Error::usage("its base64 is damaged").because(cause))?;
    Ok((label, der))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str, says: &str) {
        let error = Key::from_pem(text).unwrap_err().chain();
        assert!(error.contains(says), "{error}");
    }

    #[test]
    fn what_is_no_rsa_key_is_refused_in_words() {
        wrong("", "not PEM");
        wrong("ssh-rsa AAAA", "not PEM");
        wrong("-----BEGIN PUBLIC KEY-----\n!!\n-----END PUBLIC KEY-----", "damaged");
        wrong("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "2048");
        wrong("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "CERTIFICATE");
    }
}
