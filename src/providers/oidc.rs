//! Providers of identities: OpenID Connect's code flow with PKCE (RFC 7636), as a confidential client.
//!
//! In: the settings of a provider. Out: where to send the browser, and whom it came back as. What a provider needs is read
//! below its issuer and kept for a while. Its identity token is checked by signature, issuer, audience, time and nonce;
//! nothing in a token says which key or algorithm to use beyond those that the provider publishes.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use hyper::{Request, Uri, header};
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use crate::auth::email::Email;
use crate::auth::opaque::OpaqueToken;
use crate::base::secret::Secret;
use crate::base::{Error, Kind, Result};
use crate::workers::http::{Client, Peer, unavailable};

/// The longest a request to a provider may take.
const CALL_MAX: Duration = Duration::from_secs(10);
/// The longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 256 << 10;
/// How long what a provider says of itself is believed.
const KEEP: Duration = Duration::from_secs(600);
/// Its keys are not read again sooner, whatever tokens name.
const KEYS_AGAIN: Duration = Duration::from_secs(30);
/// What we take: asymmetric alone, so that nobody makes one from what is public (RFC 8725 §3.1).
const ALGORITHMS: [Algorithm; 4] = [Algorithm::RS256, Algorithm::PS256, Algorithm::ES256, Algorithm::EdDSA];
/// What a form leaves as it is (RFC 3986 §2.3).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A provider of the configuration.
#[derive(Clone, Debug)]
pub struct Provider {
    /// Its name in paths.
    pub name: String,
    /// Its issuer, without a slash at the end unless it has one itself.
    pub issuer: String,
    /// What we are there.
    pub client_id: String,
    /// What proves it.
    pub client_secret: Secret,
    /// What we ask for.
    pub scopes: String,
}

/// A login that begins: where the browser goes, and what we remember of it.
#[derive(Clone)]
pub struct Begun {
    /// The provider's page.
    pub url: String,
    /// Names the login; comes back in the URL.
    pub state: OpaqueToken,
    /// PKCE's secret: only we can redeem the code.
    pub verifier: OpaqueToken,
    /// Comes back in the identity token.
    pub nonce: OpaqueToken,
}

/// Whom somebody came back as.
#[derive(Clone)]
pub struct Identity {
    /// The provider's own name for the person.
    pub subject: String,
    /// Their address, if the provider vouches for it.
    pub email: Option<Email>,
    /// What they call themselves.
    pub name: Option<String>,
    /// What the provider gave us, JSON: to be sealed.
    pub tokens: String,
}

/// Every provider of the configuration.
pub struct Providers {
    all: Vec<Provider>,
    client: Client,
    known: Mutex<HashMap<String, Arc<Known>>>,
}

/// What a provider says of itself, and its keys.
struct Known {
    at: Instant,
    about: About,
    keys: JwkSet,
}

/// OpenID Connect Discovery 1.0 §3: what we use of it.
#[derive(Clone, Debug, Deserialize)]
struct About {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Redeemed {
    id_token: String,
    access_token: Option<String>,
    refresh_token: Option<String>,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    nonce: Option<String>,
    azp: Option<String>,
    email: Option<String>,
    /// Some providers send text.
    email_verified: Option<serde_json::Value>,
    name: Option<String>,
}

impl Providers {
    /// These.
    pub fn new(all: Vec<Provider>) -> Providers {
        Providers { all, client: Client::new(), known: Mutex::default() }
    }

    /// The one of this name.
    pub fn get(&self, name: &str) -> Option<&Provider> {
        self.all.iter().find(|provider| provider.name == name)
    }

    /// Begins a login that will come back to `redirect_uri`.
    ///
    /// # Errors
    /// `Unavailable` when the provider does not say where its pages are.
    pub async fn begin(&self, provider: &Provider, redirect_uri: &str) -> Result<Begun> {
        let known = self.known(provider).await?;
        let (state, verifier, nonce) = (OpaqueToken::random(), OpaqueToken::random(), OpaqueToken::random());
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.expose().as_bytes()));
        let query = form(&[
            ("response_type", "code"),
            ("client_id", &provider.client_id),
            ("redirect_uri", redirect_uri),
            ("scope", &provider.scopes),
            ("state", state.expose()),
            ("nonce", nonce.expose()),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ]);
        let page = &known.about.authorization_endpoint;
        let joint = if page.contains('?') { '&' } else { '?' };
        Ok(Begun { url: format!("{page}{joint}{query}"), state, verifier, nonce })
    }

    /// Redeems a code: whom it names. `iss` is what came back beside it, where the provider says so (RFC 9207).
    ///
    /// # Errors
    /// `Invalid` when what came back is not what we asked for; `Unavailable` when the provider does not answer.
    pub async fn finish(
        &self,
        provider: &Provider,
        (code, iss): (&str, Option<&str>),
        (verifier, nonce): (&str, &str),
        redirect_uri: &str,
    ) -> Result<Identity> {
        let known = self.known(provider).await?;
        if iss.is_some_and(|iss| iss != known.about.issuer) {
            return Err(Error::invalid(format!("the answer is not from {}", provider.name)));
        }
        let redeemed = self.redeem(provider, &known.about, code, verifier, redirect_uri).await?;
        let claims = self.verified(provider, known, &redeemed.id_token).await?;
        if claims.nonce.as_deref() != Some(nonce) {
            return Err(Error::invalid("the identity token is of another login"));
        }
        if claims.azp.as_deref().is_some_and(|azp| azp != provider.client_id) {
            return Err(Error::invalid("the identity token is for another program"));
        }
        let vouched = match &claims.email_verified {
            Some(serde_json::Value::Bool(vouched)) => *vouched,
            Some(serde_json::Value::String(text)) => text == "true",
            _ => false,
        };
        let tokens =
            serde_json::json!({ "access_token": redeemed.access_token, "refresh_token": redeemed.refresh_token });
        Ok(Identity {
            email: claims.email.filter(|_| vouched).and_then(|email| Email::decode(&email).ok()),
            subject: claims.sub,
            name: claims.name,
            tokens: tokens.to_string(),
        })
    }

    async fn redeem(
        &self,
        provider: &Provider,
        about: &About,
        code: &str,
        verifier: &str,
        redirect_uri: &str,
    ) -> Result<Redeemed> {
        let secret = String::from_utf8_lossy(provider.client_secret.expose()).into_owned();
        let mut fields = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", redirect_uri),
            ("code_verifier", verifier),
        ];
        let methods = about.token_endpoint_auth_methods_supported.as_deref();
        let basic = methods.is_none_or(|methods| methods.iter().any(|method| method == "client_secret_basic"));
        let mut request =
            Request::post(&about.token_endpoint).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        if basic {
            // RFC 6749 §2.3.1: both are escaped as in a form first.
            let pair = format!("{}:{}", escaped(&provider.client_id), escaped(&secret));
            request = request.header(header::AUTHORIZATION, format!("Basic {}", STANDARD.encode(pair)));
        } else {
            fields.extend([("client_id", provider.client_id.as_str()), ("client_secret", &secret)]);
        }
        let request = request.body(Bytes::from(form(&fields)));
        self.json(request.map_err(|cause| Error::internal("a code cannot be redeemed").because(cause))?).await
    }

    /// What an identity token says, if it is the provider's and for us.
    async fn verified(&self, provider: &Provider, known: Arc<Known>, token: &str) -> Result<Claims> {
        let wrong = |cause: jsonwebtoken::errors::Error| {
            Error::invalid("the identity token is not the provider's for us").because(cause.to_string())
        };
        let head = jsonwebtoken::decode_header(token).map_err(wrong)?;
        if !ALGORITHMS.contains(&head.alg) {
            return Err(Error::invalid(format!(
                "the identity token is signed by {:?}, which we do not take",
                head.alg
            )));
        }
        let known = match find(&known.keys, head.kid.as_deref()) {
            Some(_) => known,
            // The provider has other keys now.
            None if known.at.elapsed() >= KEYS_AGAIN => self.read(provider).await?,
            None => known,
        };
        let key = find(&known.keys, head.kid.as_deref());
        let key =
            key.ok_or_else(|| Error::invalid("the identity token names a key that the provider does not have"))?;
        let key = DecodingKey::from_jwk(key).map_err(wrong)?;
        let mut validation = Validation::new(head.alg);
        validation.set_audience(&[&provider.client_id]);
        validation.set_issuer(&[&known.about.issuer]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.validate_nbf = true;
        Ok(jsonwebtoken::decode::<Claims>(token, &key, &validation).map_err(wrong)?.claims)
    }

    async fn known(&self, provider: &Provider) -> Result<Arc<Known>> {
        let known = self.remembered().get(&provider.name).filter(|known| known.at.elapsed() < KEEP).cloned();
        match known {
            Some(known) => Ok(known),
            None => self.read(provider).await,
        }
    }

    async fn read(&self, provider: &Provider) -> Result<Arc<Known>> {
        let issuer = provider.issuer.trim_end_matches('/');
        let about: About = self.get_json(&format!("{issuer}/.well-known/openid-configuration")).await?;
        // Discovery §4.3: exactly the issuer that was asked.
        if about.issuer != provider.issuer {
            return Err(unavailable(&format!("{} says that its issuer is another one", provider.name)));
        }
        // What an https:// issuer names is not asked in the clear.
        let secure = provider.issuer.starts_with("https://");
        let all = [&about.authorization_endpoint, &about.token_endpoint, &about.jwks_uri];
        let usable = |url: &str| url.starts_with("https://") || (!secure && url.starts_with("http://"));
        if !all.iter().all(|url| usable(url) && url.parse::<Uri>().is_ok()) {
            return Err(unavailable(&format!("{} names an address that is not https://", provider.name)));
        }
        let keys: JwkSet = self.get_json(&about.jwks_uri).await?;
        let known = Arc::new(Known { at: Instant::now(), about, keys });
        self.remembered().insert(provider.name.clone(), Arc::clone(&known));
        Ok(known)
    }

    async fn get_json<T: DeserializeOwned>(&self, url: &str) -> Result<T> {
        let request = Request::get(url).body(Bytes::new());
        self.json(request.map_err(|cause| unavailable("the provider's address cannot be used").because(cause))?).await
    }

    /// Sends a request with a whole URL; the answer has to be JSON with the status 200. Redirects are not followed.
    async fn json<T: DeserializeOwned>(&self, mut request: Request<Bytes>) -> Result<T> {
        let peer = Peer::of(request.uri())?;
        let host = request.uri().authority().map_or_else(String::new, ToString::to_string);
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str()).parse::<Uri>();
        *request.uri_mut() =
            target.map_err(|cause| unavailable("the provider's address cannot be used").because(cause))?;
        let text = |text: String| header::HeaderValue::try_from(text).expect("hosts and names are ASCII");
        request.headers_mut().insert(header::HOST, text(host));
        request.headers_mut().insert(header::ACCEPT, text("application/json".into()));
        request.headers_mut().insert(header::USER_AGENT, text(concat!("segue/", env!("CARGO_PKG_VERSION")).into()));
        let exchange = async {
            let addresses = peer.addresses().await?;
            self.client.send(&peer, &addresses, request, ANSWER_BYTES_MAX).await
        };
        let late = |_| unavailable(&format!("the provider did not answer within {} s", CALL_MAX.as_secs()));
        let answer = tokio::time::timeout(CALL_MAX, exchange).await.map_err(late)??;
        match answer.status.as_u16() {
            200 => serde_json::from_slice(&answer.body)
                .map_err(|cause| unavailable("the provider's answer cannot be read").because(cause)),
            // A code that was used, or is none.
            status @ 400..500 => Err(Error::invalid(format!("the provider refuses: {status}"))),
            status => Err(Error::new(Kind::Unavailable, format!("the provider answers {status}"))),
        }
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Known>>> {
        self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl fmt::Debug for Providers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Providers").field("all", &self.all).finish_non_exhaustive()
    }
}

/// The key of this name; the only one when a token names none.
fn find<'k>(keys: &'k JwkSet, kid: Option<&str>) -> Option<&'k Jwk> {
    match kid {
        Some(kid) => keys.find(kid),
        None => keys.keys.first().filter(|_| keys.keys.len() == 1),
    }
}

fn escaped(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}

fn form(fields: &[(&str, &str)]) -> String {
    let pairs: Vec<String> =
        fields.iter().map(|(name, value)| format!("{}={}", escaped(name), escaped(value))).collect();
    pairs.join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_a_form_are_escaped() {
        let text = form(&[("scope", "openid email"), ("redirect_uri", "https://a.example/x?y=1&z"), ("é", "~-._")]);
        assert_eq!(text, "scope=openid%20email&redirect_uri=https%3A%2F%2Fa.example%2Fx%3Fy%3D1%26z&%C3%A9=~-._");
    }
}
