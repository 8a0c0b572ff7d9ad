//! The ring of secrets that everything else is derived from: newest first, the first signs and seals, all open.
//!
//! One secret of the configuration would be used for several purposes; a key derived for each (HMAC-SHA256 over its
//! name, as HKDF-Expand does with uniform input, RFC 5869 §3.3) keeps them apart.

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::base::hex;
use crate::base::secret::Secret;
use crate::base::{Error, Result};

/// Bytes of AES-GCM's nonce and of its tag.
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;

/// What a key is for: no two purposes share one.
#[derive(Clone, Copy, Debug)]
pub enum Purpose {
    /// Signs access tokens.
    AccessToken,
    /// Protects cookies against other sites.
    Csrf,
    /// Seals what has to be read again: second factors and the tokens of providers.
    Seal,
}

impl Purpose {
    fn name(self) -> &'static str {
        match self {
            Purpose::AccessToken => "segue access token",
            Purpose::Csrf => "segue csrf",
            Purpose::Seal => "segue seal",
        }
    }
}

/// The secrets of the installation, newest first.
#[derive(Clone, Debug)]
pub struct Ring(Vec<Master>);

#[derive(Clone, Debug)]
struct Master {
    secret: Secret,
    /// Names it in what it made; says nothing about it.
    id: String,
}

impl Ring {
    /// From the secrets of the configuration, newest first.
    ///
    /// # Errors
    /// `Usage` when there is none, or one is empty.
    pub fn new(secrets: impl IntoIterator<Item = Secret>) -> Result<Ring> {
        let masters: Vec<Master> = secrets
            .into_iter()
            .map(|secret| {
                let id = hex::encode(&mac(secret.expose(), b"segue key id")[..4]);
                Master { secret, id }
            })
            .collect();
        if masters.is_empty() || masters.iter().any(|master| master.secret.is_empty()) {
            return Err(Error::usage("auth.secrets is empty: nobody could log in; set a random text of 32 characters"));
        }
        Ok(Ring(masters))
    }

    /// The keys for a purpose with their names, newest first.
    pub fn keys(&self, purpose: Purpose) -> impl Iterator<Item = (&str, [u8; 32])> {
        self.0.iter().map(move |master| (master.id.as_str(), mac(master.secret.expose(), purpose.name().as_bytes())))
    }

    /// The newest key for a purpose.
    pub fn newest(&self, purpose: Purpose) -> [u8; 32] {
        self.keys(purpose).next().expect("a ring has a secret").1
    }

    /// Seals text for a place (`totp usr_…`): it opens there and nowhere else. AES-256-GCM with a random nonce.
    pub fn seal(&self, text: &str, place: &str) -> String {
        let (id, key) = self.keys(Purpose::Seal).next().expect("a ring has a secret");
        let key = RandomizedNonceKey::new(&AES_256_GCM, &key).expect("32 bytes are a key of AES-256");
        let mut bytes = text.as_bytes().to_vec();
        let nonce =
            key.seal_in_place_append_tag(Aad::from(place.as_bytes()), &mut bytes).expect("it is short enough to seal");
        let sealed = [nonce.as_ref().as_slice(), &bytes].concat();
        format!("v1.{id}.{}", BASE64.encode(sealed))
    }

    /// Opens what was sealed for this place.
    ///
    /// # Errors
    /// `Internal` for anything else; what it says is not repeated.
    pub fn open(&self, sealed: &str, place: &str) -> Result<String> {
        let wrong = |why: &str| Error::internal(format!("what was sealed for {place} cannot be opened: {why}"));
        let mut parts = sealed.split('.');
        let (Some("v1"), Some(id), Some(text), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(wrong("it has another form"));
        };
        let known = self.keys(Purpose::Seal).find(|(known, _)| *known == id);
        let (_, key) = known.ok_or_else(|| wrong("its key is not in auth.secrets any more"))?;
        let mut bytes = BASE64.decode(text).map_err(|_| wrong("it is not base64"))?;
        if bytes.len() < NONCE_BYTES + TAG_BYTES {
            return Err(wrong("it is too short"));
        }
        let nonce = Nonce::try_assume_unique_for_key(&bytes[..NONCE_BYTES]).map_err(|_| wrong("it has no nonce"))?;
        let key = RandomizedNonceKey::new(&AES_256_GCM, &key).expect("32 bytes are a key of AES-256");
        let opened = key
            .open_in_place(nonce, Aad::from(place.as_bytes()), &mut bytes[NONCE_BYTES..])
            .map_err(|_| wrong("it was changed, or is for another place"))?;
        String::from_utf8(opened.to_vec()).map_err(|_| wrong("it is no text"))
    }

    /// The token that a page sends with its cookies: of this session, made by us.
    pub fn csrf(&self, session: &str) -> String {
        BASE64.encode(mac(&self.newest(Purpose::Csrf), session.as_bytes()))
    }

    /// Whether a token is that of this session, in constant time.
    pub fn is_csrf(&self, session: &str, token: &str) -> bool {
        let Ok(token) = BASE64.decode(token) else { return false };
        self.keys(Purpose::Csrf).any(|(_, key)| {
            let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("HMAC takes keys of any length");
            mac.update(session.as_bytes());
            mac.verify_slice(&token).is_ok()
        })
    }
}

fn mac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(secrets: &[&str]) -> Ring {
        Ring::new(secrets.iter().map(|text| Secret::new(text.as_bytes()))).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_at_its_place_with_its_key_and_whole() {
        let old = ring(&["an old secret"]);
        let both = ring(&["a new secret", "an old secret"]);
        let sealed = old.seal("JBSWY3DP", "totp usr_1");
        assert_eq!(both.open(&sealed, "totp usr_1").unwrap(), "JBSWY3DP");
        assert_ne!(sealed, old.seal("JBSWY3DP", "totp usr_1"), "each has its nonce");
        assert!(both.open(&sealed, "totp usr_2").is_err(), "another place");
        assert!(ring(&["a new secret"]).open(&sealed, "totp usr_1").is_err(), "another key");
        let mut changed = sealed.clone();
        let last = if changed.pop() == Some('A') { 'B' } else { 'A' };
        changed.push(last);
        for wrong in [changed.as_str(), "", "v1", "v1.00000000.", "v2.x.y", &sealed[..sealed.len() - 8], "v1.a.b.c"] {
            let said = both.open(wrong, "totp usr_1").unwrap_err().chain();
            assert!(!said.contains("JBSW"), "{said}");
        }
    }

    #[test]
    fn keys_differ_by_purpose_and_secret_and_the_newest_is_first() {
        let ring = ring(&["a new secret", "an old secret"]);
        let mut all: Vec<[u8; 32]> = [Purpose::AccessToken, Purpose::Csrf, Purpose::Seal]
            .into_iter()
            .flat_map(|purpose| ring.keys(purpose).map(|(_, key)| key).collect::<Vec<_>>())
            .collect();
        assert_eq!(ring.newest(Purpose::AccessToken), all[0]);
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 6);
        assert!(Ring::new([]).is_err() && Ring::new([Secret::new(*b"")]).is_err());
    }

    #[test]
    fn a_csrf_token_is_that_of_one_session() {
        let (old, both) = (ring(&["an old secret"]), ring(&["a new secret", "an old secret"]));
        assert!(both.is_csrf("ses_1", &both.csrf("ses_1")) && both.is_csrf("ses_1", &old.csrf("ses_1")));
        assert!(
            !both.is_csrf("ses_2", &both.csrf("ses_1")) && !both.is_csrf("ses_1", "") && !both.is_csrf("ses_1", "%")
        );
    }
}
