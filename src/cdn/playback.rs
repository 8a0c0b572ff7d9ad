//! The URLs a listener gets. In: a version and what the listener may hear. Out: a URL whose token
//! opens exactly that directory, on the CDN's or our own host, or a path when no host is configured.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::base::id::{TrackId, VersionId};
use crate::base::{Error, Result};
use crate::hls::playlist::Scope;

use super::bunny::{self, Grant, Key};
use super::{cloudflare, cloudfront};

/// Who will check the token, and where it stands.
#[derive(Clone, Debug)]
pub enum Signer {
    /// Bunny, in front of the path: every child request inherits it.
    BunnyPath(Key),
    /// Bunny, in the query: playlists hand it on by `EXT-X-DEFINE`.
    BunnyQuery(Key),
    /// CloudFront, in the query. Invariant: the key is private.
    CloudFront(cloudfront::KeyPair),
    /// Cloudflare, in the query.
    Cloudflare(cloudflare::Key),
}

impl From<Key> for Signer {
    fn from(key: Key) -> Signer {
        Signer::BunnyPath(key)
    }
}

impl Signer {
    /// The query parameters that carry its token, for playlists that hand them on; none for a path token.
    pub fn params(&self) -> &'static [&'static str] {
        match self {
            Signer::BunnyPath(_) => &[],
            Signer::BunnyQuery(_) => &["token", "token_path", "expires"],
            Signer::CloudFront(_) => &["Policy", "Signature", "Key-Pair-Id", "Hash-Algorithm"],
            Signer::Cloudflare(_) => &["verify"],
        }
    }
}

/// Makes playback URLs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Links {
    base: String,
    /// `None` when the origin asks for no token. Shared by clones: a new key is every user's.
    signer: Arc<ArcSwapOption<Signer>>,
    ttl_s: u64,
}

impl Links {
    /// URLs below `base` (without a trailing slash; `None`: path only), signed for `ttl_s` seconds;
    /// without a signer they carry no token.
    pub fn new(base: Option<&str>, signer: Option<impl Into<Signer>>, ttl_s: u64) -> Links {
        let base = base.unwrap_or_default().trim_end_matches('/').to_owned();
        Links { base, signer: Arc::new(ArcSwapOption::from_pointee(signer.map(Into::into))), ttl_s }
    }

    /// Seconds a token lives; `None` when there is none.
    pub fn ttl_s(&self) -> Option<u64> {
        self.signer.load().is_some().then_some(self.ttl_s)
    }

    /// Signs with another key from now on, here and in every clone.
    pub fn replace_signer(&self, signer: Option<Signer>) {
        self.signer.store(signer.map(Arc::new));
    }

    /// The scheme and host that media come from; `None` when they come from the host of the page.
    pub fn host(&self) -> Option<&str> {
        let authority_at = self.base.find("://")? + 3;
        let end = self.base[authority_at..].find('/').map_or(self.base.len(), |slash| authority_at + slash);
        Some(&self.base[..end])
    }

    /// The multivariant playlist of a scope, with a token for the scope's directory.
    ///
    /// # Errors
    /// `Internal` when the key cannot sign: never a URL without a token where one is asked for.
    pub fn master(&self, track: TrackId, version: VersionId, scope: Scope, now_s: u64) -> Result<String> {
        let version_dir = format!("/a/{track}/{version}/");
        self.signed(&version_dir, &format!("{version_dir}{}", scope.directory()), scope.path(), now_s)
    }

    /// A file of a directory, with a token for it or for a directory below it.
    fn signed(&self, parent: &str, directory: &str, file: &str, now_s: u64) -> Result<String> {
        let expires_s = now_s + self.ttl_s;
        let (before, behind) = match self.signer.load().as_deref() {
            None => (String::new(), String::new()),
            Some(Signer::BunnyPath(key)) => (bunny::sign_directory(key, directory, expires_s), String::new()),
            Some(Signer::BunnyQuery(key)) => {
                let grant = Grant { path: directory, token_path: Some(directory), expires_s, ..Grant::default() };
                (String::new(), format!("?{}", key.sign_params(&grant)))
            }
            Some(Signer::CloudFront(pair)) => {
                let path = format!("{directory}*");
                let grant = cloudfront::Grant { path: &path, expires_s: expires_s + 1, address: None };
                let params = pair.sign_params(&self.base, &grant);
                let params = params.ok_or_else(|| Error::internal(format!("the key {} cannot sign", pair.id)))?;
                (String::new(), format!("?{params}"))
            }
            Some(Signer::Cloudflare(key)) => {
                (String::new(), format!("?{}", key.sign(directory, now_s, cloudflare::Encoding::UrlSafe)))
            }
        };
        Ok(format!("{}{before}{parent}{file}{behind}", self.base))
    }

    /// The 30-second preview: public, no token.
    pub fn preview(&self, track: TrackId, version: VersionId) -> String {
        format!("{}/p/{track}/{version}/preview.m4a", self.base)
    }

    /// The still of a film: public, no token.
    pub fn poster(&self, track: TrackId, version: VersionId) -> String {
        format!("{}/p/{track}/{version}/poster.jpg", self.base)
    }

    /// The same for players of HLS.
    pub fn preview_hls(&self, track: TrackId, version: VersionId) -> String {
        format!("{}/p/{track}/{version}/preview.m3u8", self.base)
    }

    /// A file of the public directory when its track keeps it from strangers: with a token for that directory.
    ///
    /// # Errors
    /// As `master`.
    pub fn guarded(&self, track: TrackId, version: VersionId, file: &str, now_s: u64) -> Result<String> {
        let directory = format!("/p/{track}/{version}/");
        self.signed(&directory, &directory, file, now_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::secret::Secret;
    use crate::cdn::{Carried, Presented, Verifier};

    fn ids() -> (TrackId, VersionId) {
        (TrackId::decode("trk_1").unwrap(), VersionId::decode(&"0a".repeat(20)).unwrap())
    }

    #[test]
    fn a_listeners_url_is_scoped_to_the_directory_of_what_may_be_heard() {
        let (track, version) = ids();
        let key = Key::new(&Secret::new(b"k".as_slice())).unwrap();
        let links = Links::new(Some("https://media.example.com/"), Some(key), 60);
        let check = |scope, directory: &str, playlist: &str| {
            let url = links.master(track, version, scope, 1_000).unwrap();
            assert!(url.starts_with("https://media.example.com/bcdn_token=HS256-"), "{url}");
            assert!(
                url.contains(&format!("&token_path=%2Fa%2Ftrk_1%2F{version}%2F{directory}&expires=1060/")),
                "{url}"
            );
            assert!(url.ends_with(&format!("/a/trk_1/{version}/{playlist}")), "{url}");
        };
        check(Scope::Aac, "aac%2F", "aac/master.m3u8");
        check(Scope::Flac, "flac%2F", "flac/master.m3u8");
        check(Scope::All, "", "master.m3u8");
        assert_eq!(links.host(), Some("https://media.example.com"));
        assert_eq!(links.preview(track, version), format!("https://media.example.com/p/trk_1/{version}/preview.m4a"));
    }

    #[test]
    fn without_a_host_or_a_key_a_url_is_the_bare_path() {
        let (track, version) = ids();
        let links = Links::new(None, None::<Key>, 60);
        assert_eq!(links.master(track, version, Scope::All, 0).unwrap(), format!("/a/trk_1/{version}/master.m3u8"));
        assert_eq!(links.host(), None);
    }

    /// The very parameters that the playlists hand on, and a token that opens the children.
    #[test]
    fn a_token_in_the_query_opens_the_directory_in_every_scheme() {
        let base = "https://media.example.com";
        let (track, version) = ids();
        let secret = Secret::new(b"k".as_slice());
        let bunny = Key::new(&secret).unwrap();
        let cloudflare = cloudflare::Key::new(&secret).unwrap();
        let pair = cloudfront::tests::pair();
        let verifier = Verifier {
            bunny: Some(bunny::Keys::new(bunny.clone(), None)),
            cloudfront: Some(cloudfront::Keys::new(pair.clone(), None, base)),
            cloudflare: Some(cloudflare::Keys::new(cloudflare.clone(), None, 60)),
        };
        for signer in [Signer::BunnyQuery(bunny), Signer::CloudFront(pair), Signer::Cloudflare(cloudflare)] {
            let names = signer.params();
            let url =
                Links::new(Some(base), Some(signer), 60).master(track, version, Scope::Aac, 1_600_000_000).unwrap();
            let (path, query) = url.strip_prefix(base).unwrap().split_once('?').unwrap();
            let found: Vec<_> = query.split('&').map(|pair| pair.split_once('=').unwrap().0).collect();
            assert_eq!(found, names, "{url}");
            assert!(Carried::by(query).is_some());
            let opens = |path: &str, now_s| {
                verifier.verify(Presented::Query(query), path, "192.0.2.1".parse().unwrap(), now_s).is_ok()
            };
            assert!(opens(path, 1_600_000_000), "{url}");
            assert!(opens(&path.replace("master.m3u8", "96/00000.mp4"), 1_600_000_059));
            assert!(!opens(&path.replace("aac/master.m3u8", "flac/00000.mp4"), 1_600_000_000));
            assert!(!opens(path, 1_600_000_061));
        }
    }
}
