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
