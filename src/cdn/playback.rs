//! The URLs a listener gets. In: a version and what the listener may hear. Out: a URL whose token
//! opens exactly that directory, on the CDN's or our own host, or a path when no host is configured.

use crate::base::id::{TrackId, VersionId};
use crate::hls::playlist::Scope;

use super::bunny::{self, Key};

/// Makes playback URLs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Links {
    base: String,
    /// The key that signs; `None` when the origin asks for no token.
    key: Option<Key>,
    ttl_s: u64,
}

impl Links {
    /// URLs below `base` (without a trailing slash; `None`: path only), signed with `key` for `ttl_s`
    /// seconds; without a key they carry no token.
    pub fn new(base: Option<&str>, key: Option<Key>, ttl_s: u64) -> Links {
        Links { base: base.unwrap_or_default().trim_end_matches('/').to_owned(), key, ttl_s }
    }

    /// The scheme and host that media come from; `None` when they come from the host of the page.
    pub fn host(&self) -> Option<&str> {
        let authority_at = self.base.find("://")? + 3;
        let end = self.base[authority_at..].find('/').map_or(self.base.len(), |slash| authority_at + slash);
        Some(&self.base[..end])
    }

    /// The multivariant playlist of a scope, with a token for the scope's directory.
    pub fn master(&self, track: TrackId, version: VersionId, scope: Scope, now_s: u64) -> String {
        let version_dir = format!("/a/{track}/{version}/");
        let directory = format!("{version_dir}{}", scope.directory());
        let token = self.token(&directory, now_s);
        format!("{}{token}{version_dir}{}", self.base, scope.path())
    }

    /// The 30-second preview: public, no token.
    pub fn preview(&self, track: TrackId, version: VersionId) -> String {
        format!("{}/p/{track}/{version}/preview.m4a", self.base)
    }

    fn token(&self, directory: &str, now_s: u64) -> String {
        match &self.key {
            None => String::new(),
            Some(key) => bunny::sign_directory(key, directory, now_s + self.ttl_s),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::secret::Secret;

    fn ids() -> (TrackId, VersionId) {
        (TrackId::decode("trk_1").unwrap(), VersionId::decode(&"0a".repeat(20)).unwrap())
    }

    #[test]
    fn a_listeners_url_is_scoped_to_the_directory_of_what_may_be_heard() {
        let (track, version) = ids();
        let key = Key::new(&Secret::new(b"k".as_slice())).unwrap();
        let links = Links::new(Some("https://media.example.com/"), Some(key), 60);
        let check = |scope, directory: &str, playlist: &str| {
            let url = links.master(track, version, scope, 1_000);
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
        let links = Links::new(None, None, 60);
        assert_eq!(links.master(track, version, Scope::All, 0), format!("/a/trk_1/{version}/master.m3u8"));
        assert_eq!(links.host(), None);
    }
}
