//! Access tokens: minutes of trust, signed, so that a request names its session without a secret of ours in a table.
//!
//! JWT of one algorithm, HS256: who makes them is who checks them, so that a public key would have no reader. What a
//! person may do is not in them: the session's row says so on every request, so that an end takes effect at once.

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use super::ring::{Purpose, Ring};
use super::{SessionId, UserId};
use crate::base::{Error, Result};

/// RFC 9068's type: nothing else that we may sign one day is taken for an access token.
const TYP: &str = "at+jwt";
/// Who they are for: this API.
const AUDIENCE: &str = "segue-api";
/// Clocks of our nodes may differ by so much, in seconds.
const SKEW_S: u64 = 5;
/// The longest that one may be valid, in seconds.
pub const VALID_S_MAX: u64 = 900;
/// The longest text that is looked at, in bytes: ours have some 400.
const BYTES_MAX: usize = 2048;

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    iss: String,
    aud: String,
    /// The person.
    pub sub: UserId,
    /// The session: it ends, they end.
    pub sid: SessionId,
    /// Seconds since 1970: made, not before, not after.
    iat: u64,
    nbf: u64,
    /// When it ends, in seconds since 1970.
    pub exp: u64,
}

/// Why a token is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is not one of ours.
    Invalid,
    /// It was: get another with the refresh token.
    Expired,
}

/// Makes and checks them.
pub struct AccessTokens {
    /// Newest first: its name, what signs, what checks.
    keys: Vec<(String, EncodingKey, DecodingKey)>,
    issuer: String,
    valid_s: u64,
    validation: Validation,
}

impl AccessTokens {
    /// Of this installation, valid for so many seconds.
    pub fn new(ring: &Ring, issuer: &str, valid_s: u64) -> AccessTokens {
        let keys = ring.keys(Purpose::AccessToken);
        let keys =
            keys.map(|(id, key)| (id.to_owned(), EncodingKey::from_secret(&key), DecodingKey::from_secret(&key)));
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_audience(&[AUDIENCE]);
        validation.set_issuer(&[issuer]);
        validation.set_required_spec_claims(&["exp", "nbf", "aud", "iss", "sub"]);
        // Times are compared below, with our clock: the crate has its own and cannot be given one.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        AccessTokens { keys: keys.collect(), issuer: issuer.to_owned(), valid_s: valid_s.min(VALID_S_MAX), validation }
    }

    /// Seconds that a new one is valid.
    pub fn valid_s(&self) -> u64 {
        self.valid_s
    }

    /// A token for a session.
    ///
    /// # Errors
    /// `Internal` when it cannot be signed.
    pub fn make(&self, user: &UserId, session: &SessionId, now_s: u64) -> Result<String> {
        let (id, key, _) = self.keys.first().expect("a ring has a secret");
        let header = Header { typ: Some(TYP.into()), kid: Some(id.clone()), ..Header::new(Algorithm::HS256) };
        let claims = Claims {
            iss: self.issuer.clone(),
            aud: AUDIENCE.into(),
            sub: user.clone(),
            sid: session.clone(),
            iat: now_s,
            nbf: now_s,
            exp: now_s + self.valid_s,
        };
        let made = jsonwebtoken::encode(&header, &claims, key);
        made.map_err(|cause| Error::internal("an access token cannot be signed").because(cause))
    }

    /// What a token says, if it is one of ours and its time is now.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn check(&self, token: &str, now_s: u64) -> Result<Claims, Refused> {
        if token.len() > BYTES_MAX {
            return Err(Refused::Invalid);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| Refused::Invalid)?;
        // The name chooses among our own keys: nothing in a token says where a key could be had.
        let key = self.keys.iter().find(|(id, ..)| header.kid.as_deref() == Some(id));
        let (_, _, key) = key.ok_or(Refused::Invalid)?;
        let data = jsonwebtoken::decode::<Claims>(token, key, &self.validation).map_err(|_| Refused::Invalid)?;
        if data.header.typ.as_deref() != Some(TYP) {
            return Err(Refused::Invalid);
        }
        let claims = data.claims;
        match () {
            () if claims.nbf > now_s + SKEW_S || claims.exp > claims.nbf + VALID_S_MAX => Err(Refused::Invalid),
            () if claims.exp <= now_s => Err(Refused::Expired),
            () => Ok(claims),
        }
    }
}

impl std::fmt::Debug for AccessTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessTokens").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::secret::Secret;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
    use serde_json::{Value, json};

    const NOW_S: u64 = 1_700_000_000;

    fn ring(secrets: &[&str]) -> Ring {
        Ring::new(secrets.iter().map(|text| Secret::new(text.as_bytes()))).unwrap()
    }

    fn tokens() -> AccessTokens {
        AccessTokens::new(&ring(&["a secret of some length"]), "https://a.example", 600)
    }

    fn parts(token: &str) -> (Value, Value) {
        let read = |part: &str| serde_json::from_slice(&BASE64.decode(part).unwrap()).unwrap();
        let mut parts = token.split('.');
        (read(parts.next().unwrap()), read(parts.next().unwrap()))
    }

    #[test]
    fn a_token_is_valid_for_its_minutes_and_says_what_it_is() {
        let (tokens, user, session) = (tokens(), UserId::new(1), SessionId::new(1));
        let token = tokens.make(&user, &session, NOW_S).unwrap();
        let (head, body) = parts(&token);
        assert_eq!((&head["alg"], &head["typ"]), (&json!("HS256"), &json!("at+jwt")));
        assert_eq!((&body["aud"], &body["iss"]), (&json!("segue-api"), &json!("https://a.example")));
        let claims = tokens.check(&token, NOW_S + 599).unwrap();
        assert_eq!((claims.sub, claims.sid, claims.exp), (user, session, NOW_S + 600));
        assert_eq!(tokens.check(&token, NOW_S + 600), Err(Refused::Expired));
        assert!(tokens.check(&token, NOW_S - 5).is_ok(), "another node's clock");
        assert_eq!(tokens.check(&token, NOW_S - 6), Err(Refused::Invalid), "not before");
    }

    #[test]
    fn keys_are_replaced_without_ending_what_they_signed() {
        let make = |secrets: &[&str]| AccessTokens::new(&ring(secrets), "i", 600);
        let token = make(&["old old old"]).make(&UserId::new(1), &SessionId::new(1), NOW_S).unwrap();
        assert!(make(&["new new new", "old old old"]).check(&token, NOW_S).is_ok());
        assert_eq!(make(&["new new new"]).check(&token, NOW_S), Err(Refused::Invalid));
    }

    #[test]
    fn nothing_but_our_own_access_tokens_is_taken() {
        let tokens = tokens();
        let good = tokens.make(&UserId::new(1), &SessionId::new(1), NOW_S).unwrap();
        let (head, body) = parts(&good);
        let signed = |head: &Value, body: &Value| {
            let text = format!("{}.{}", BASE64.encode(head.to_string()), BASE64.encode(body.to_string()));
            let key = &tokens.keys[0].1;
            let signature = jsonwebtoken::crypto::sign(text.as_bytes(), key, Algorithm::HS256).unwrap();
            format!("{text}.{signature}")
        };
        let with = |of: &Value, key: &str, value: Value| {
            let mut changed = of.clone();
            changed[key] = value;
            changed
        };
        assert!(tokens.check(&signed(&head, &body), NOW_S).is_ok(), "the test signs as we do");
        let mut refused = vec![
            ("typ", signed(&with(&head, "typ", json!("JWT")), &body)),
            ("no typ", signed(&with(&head, "typ", Value::Null), &body)),
            ("kid", signed(&with(&head, "kid", json!("other")), &body)),
            ("alg none", signed(&with(&head, "alg", json!("none")), &body)),
            ("alg HS512", signed(&with(&head, "alg", json!("HS512")), &body)),
            ("aud", signed(&head, &with(&body, "aud", json!("others")))),
            ("iss", signed(&head, &with(&body, "iss", json!("https://b.example")))),
            ("sub", signed(&head, &with(&body, "sub", json!("admin")))),
            ("for years", signed(&head, &with(&body, "exp", json!(NOW_S + 10_000_000)))),
            ("no signature", good.rsplit_once('.').unwrap().0.to_owned() + "."),
            ("empty", String::new()),
            ("long", "a".repeat(5000)),
        ];
        for missing in ["exp", "nbf", "aud", "iss", "sub", "sid"] {
            let mut less = body.clone();
            less.as_object_mut().unwrap().remove(missing);
            refused.push((missing, signed(&head, &less)));
        }
        let cut = good.split_at(good.len() - 2).0;
        refused.push(("cut", cut.to_owned()));
        let unsigned =
            format!("{}.{}.", BASE64.encode(r#"{"alg":"none","typ":"at+jwt"}"#), BASE64.encode(body.to_string()));
        refused.push(("unsigned", unsigned));
        for (what, token) in refused {
            assert_eq!(tokens.check(&token, NOW_S), Err(Refused::Invalid), "{what}");
        }
    }
}
