//! The settings of what is served to whom, and of the keys that sign it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::generated::{BUNNY_KEY, generated_key, generated_key_path};
use super::{Config, FILE_BYTES_MAX, Profile};
use crate::base::error::Context as _;
use crate::base::secret::Secret;
use crate::base::{Error, Result, text};
use crate::cdn::cloudfront::KeyPair;
use crate::cdn::{self, rsa};
use crate::origin::SecretHeader;

/// What the media origin serves and to whom.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Origin {
    /// Whether `/a` and `/d` need a token.
    pub require_token: bool,
    /// Seconds a URL that we sign stays valid. Cloudflare's tokens only carry when they were signed: this is
    /// how long they are.
    pub token_ttl_s: u64,
    /// Whose token the URLs we sign carry: `bunny`, `cloudfront` or `cloudflare`. What is verified depends on
    /// the keys alone.
    pub cdn: Cdn,
    /// Where the URLs we sign carry it: `path`, or `query` with playlists that hand it on by `EXT-X-DEFINE`.
    pub token_form: TokenForm,
    /// Headers, `Name: value`, of which a request for media has to carry one: only our CDN knows them. At most
    /// two, so that one can be replaced. Empty: everybody is let in.
    pub secret_header: Vec<String>,
    /// Threads that serve media, one core each. 0: as many as the machine has.
    pub cores: usize,
    /// Requests in flight at most. Full: 503.
    pub requests_in_flight_max: u64,
    /// Body bytes in flight at most. Full: 503.
    pub bytes_in_flight_max: u64,
    /// Files of published versions kept open at most; a version has one a rung.
    pub files_open_max: u64,
    /// Whether even a hit says how long it took; a cache in front keeps that with the answer.
    pub server_timing_on_hits: bool,
    /// Whom answers name as the one who blocks a track (451): a page of the service. Unset: the public
    /// base URL, else this server.
    pub blocked_by: Option<String>,
    /// Signing keys.
    pub keys: Keys,
}

impl Default for Origin {
    fn default() -> Origin {
        Origin {
            require_token: true,
            token_ttl_s: 6 * 3600,
            cdn: Cdn::Bunny,
            token_form: TokenForm::Path,
            secret_header: vec![],
            cores: 0,
            requests_in_flight_max: 16_384,
            bytes_in_flight_max: 8 << 30,
            files_open_max: 8_192,
            server_timing_on_hits: false,
            blocked_by: None,
            keys: Keys::default(),
        }
    }
}

/// Signing keys. The first signs, both verify, so that a key can be replaced without breaking URLs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Keys {
    /// Keys of the Bunny token scheme (HS256), newest first, at most two.
    pub bunny: Vec<String>,
    /// Older schemes that the Bunny keys verify too: `sha256`, `md5`.
    pub bunny_legacy: Vec<String>,
    /// Keys of Cloudflare's timed HMAC, newest first, at most two.
    pub cloudflare: Vec<String>,
    /// CloudFront key pairs, newest first, at most two.
    pub cloudfront: Vec<CloudFrontKey>,
}

/// A CloudFront key pair.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloudFrontKey {
    /// Its id, `Key-Pair-Id` in signed URLs.
    pub id: String,
    /// PEM file with the private key, or with the public one where nothing is signed.
    pub key_file: PathBuf,
}

impl CloudFrontKey {
    fn read(&self) -> Result<KeyPair> {
        let id = &self.id;
        if id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            return Err(Error::usage(format!("origin.keys.cloudfront has the id {id:?}: CloudFront has none like it")));
        }
        let file = self.key_file.display();
        let what = || format!("the key {id} of origin.keys.cloudfront cannot be used: {file}");
        let text = text::read(&self.key_file, FILE_BYTES_MAX).map_err(|cause| Error::usage(what()).because(cause))?;
        Ok(KeyPair { id: id.as_str().into(), key: rsa::Key::from_pem(&text).context(what)? })
    }
}

/// Whose token a URL carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cdn {
    /// Bunny, HS256.
    Bunny,
    /// CloudFront, RSA.
    CloudFront,
    /// Cloudflare, timed HMAC.
    Cloudflare,
}

/// Where a URL carries its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenForm {
    /// In front of the path: relative URIs inherit it.
    Path,
    /// In the query: playlists hand it on.
    Query,
}

impl Config {
    /// What is wrong with the settings about tokens.
    pub(super) fn token_problems(&self) -> Vec<String> {
        let origin = &self.origin;
        let keys = &origin.keys;
        let mut problems = Vec::new();
        let mut need = |holds: bool, problem: String| {
            if !holds {
                problems.push(problem);
            }
        };
        for (name, secrets) in [("origin.keys.bunny", &keys.bunny), ("origin.keys.cloudflare", &keys.cloudflare)] {
            need(
                secrets.iter().all(|key| !key.trim().is_empty()),
                format!("{name} holds an empty key: anyone could sign URLs; remove it or set a real key"),
            );
            need(
                secrets.len() <= 2,
                format!("{name} holds more than two keys: one signs, one is on its way out; remove the others"),
            );
        }
        for weakness in self.key_weaknesses() {
            need(self.profile != Profile::Production, weakness);
        }
        need(
            keys.bunny_legacy.iter().all(|scheme| matches!(scheme.as_str(), "sha256" | "md5")),
            "origin.keys.bunny_legacy knows sha256 and md5: nothing else could be verified; remove the others".into(),
        );
        need(
            keys.cloudfront.len() <= 2,
            "origin.keys.cloudfront holds more than two keys: one signs, one is on its way out; remove the others"
                .into(),
        );
        need(
            keys.cloudfront.is_empty() || self.media_base_url().is_some(),
            "server.public_base_url and cdn.base_url are unset, but CloudFront signs whole URLs: nothing could be verified; set it to \
             the URL that listeners ask"
                .into(),
        );
        let read: Vec<Result<KeyPair>> = keys.cloudfront.iter().map(CloudFrontKey::read).collect();
        for error in read.iter().filter_map(|read| read.as_ref().err()) {
            need(false, error.chain());
        }
        for secret in &origin.secret_header {
            if let Err(error) = SecretHeader::decode(secret) {
                need(false, format!("origin.secret_header cannot be used: {}", error.chain()));
            }
        }
        need(
            origin.secret_header.len() <= 2,
            "origin.secret_header holds more than two: one is sent, one is on its way out; remove the others".into(),
        );
        if !origin.require_token {
            return problems;
        }
        let signs = match origin.cdn {
            Cdn::Bunny => self.profile == Profile::Dev || !keys.bunny.is_empty(),
            Cdn::CloudFront => !keys.cloudfront.is_empty(),
            Cdn::Cloudflare => !keys.cloudflare.is_empty(),
        };
        let name = match origin.cdn {
            Cdn::Bunny => "bunny",
            Cdn::CloudFront => "cloudfront",
            Cdn::Cloudflare => "cloudflare",
        };
        let where_ = if self.profile == Profile::Production { " in production" } else { "" };
        need(
            signs,
            format!(
                "origin.keys.{name} is unset{where_}, but origin.cdn is {name}: no URL could be signed or verified; set \
                 at least one key"
            ),
        );
        need(
            origin.cdn != Cdn::CloudFront || !matches!(read.first(), Some(Ok(pair)) if !pair.key.signs()),
            "origin.keys.cloudfront begins with a public key, but origin.cdn is cloudfront: no URL could be signed; \
             name the file of the private key"
                .into(),
        );
        need(
            origin.cdn == Cdn::Bunny || origin.token_form == TokenForm::Query,
            format!(
                "origin.token_form is path, but only Bunny has tokens in the path: the children of a playlist would be \
                 refused by {name}; set it to query"
            ),
        );
        problems
    }

    /// What makes signing keys weak: refused in production, warned about at start elsewhere.
    pub fn key_weaknesses(&self) -> Vec<String> {
        let keys = &self.origin.keys;
        let mut found = cdn::weaknesses("origin.keys.bunny", &keys.bunny);
        found.extend(cdn::weaknesses("origin.keys.cloudflare", &keys.cloudflare));
        let value = |header: &String| header.split_once(':').map_or(0, |(_, value)| value.trim().len());
        if self.origin.secret_header.iter().any(|header| (1..cdn::KEY_BYTES_MIN).contains(&value(header))) {
            let least = cdn::KEY_BYTES_MIN;
            found.push(format!(
                "origin.secret_header has a value shorter than {least} bytes: it can be guessed; use a longer, random one"
            ));
        }
        found
    }

    /// Whether there is a key already, configured or generated by an earlier start.
    pub fn has_bunny_key(&self) -> bool {
        !self.origin.keys.bunny.is_empty() || generated_key_path(&self.data, BUNNY_KEY).exists()
    }

    /// The Bunny signing keys, newest first; none when the origin has no use for one. The dev profile makes
    /// one on first use and keeps it in the data directory, readable by its owner only.
    ///
    /// # Errors
    /// `Internal` when the generated one cannot be kept.
    pub fn bunny_keys(&self) -> Result<Vec<Secret>> {
        let generates = self.profile == Profile::Dev && self.origin.cdn == Cdn::Bunny;
        match self.origin.keys.bunny.is_empty() && generates {
            true => Ok(vec![generated_key(&self.data, BUNNY_KEY)?]),
            false => Ok(self.origin.keys.bunny.iter().map(|key| Secret::new(key.as_bytes())).collect()),
        }
    }

    /// The CloudFront key pairs, newest first.
    ///
    /// # Errors
    /// `Usage` naming the key file that cannot be used and why.
    pub fn cloudfront_keys(&self) -> Result<Vec<KeyPair>> {
        self.origin.keys.cloudfront.iter().map(CloudFrontKey::read).collect()
    }
}
