//! The settings of where published versions are, and of what an origin keeps of them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Config, Profile, is_plain_http_url};
use crate::store::Backend;

/// Where published versions are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// Where new ones go: `local`, below `data`, or `s3`.
    pub kind: Backend,
    /// The other kind, where tracks may be that were not moved yet. Unset: all are in one.
    pub second: Option<Backend>,
    /// The bucket.
    pub s3: S3,
}

impl Default for Store {
    fn default() -> Store {
        Store { kind: Backend::Local, second: None, s3: S3::default() }
    }
}

impl Store {
    /// Whether tracks may be there.
    pub fn uses(&self, backend: Backend) -> bool {
        self.kind == backend || self.second == Some(backend)
    }
}

/// A bucket of AWS or of a server that speaks its protocol.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct S3 {
    /// Its name.
    pub bucket: String,
    /// Its region. `AWS_REGION` below the file.
    pub region: String,
    /// `https://s3.example.com`; unset: AWS. `AWS_ENDPOINT_URL_S3` below the file.
    pub endpoint: Option<String>,
    /// `endpoint/bucket/key` instead of `bucket.endpoint/key`.
    pub path_style: bool,
    /// Put in front of every key, for a bucket that holds other things too.
    pub prefix: String,
    /// Key id. `AWS_ACCESS_KEY_ID` below the file.
    pub access_key: String,
    /// Key. `AWS_SECRET_ACCESS_KEY` below the file.
    pub secret_key: String,
    /// Of temporary keys. `AWS_SESSION_TOKEN` below the file.
    pub session_token: Option<String>,
    /// Where the keys come from: `keys`, those above; `file`; or `role`, the machine's or the container's.
    pub credentials: Credentials,
    /// A file as AWS's tools write it, read again when it is replaced. `AWS_SHARED_CREDENTIALS_FILE` below the file.
    pub credentials_file: Option<PathBuf>,
    /// The section of that file. `AWS_PROFILE` below the file.
    pub credentials_profile: String,
    /// Where a container's role is read. `AWS_CONTAINER_CREDENTIALS_FULL_URI` and `…_RELATIVE_URI` below the file.
    /// Unset: the machine's own role.
    pub role_url: Option<String>,
    /// What is shown there. `AWS_CONTAINER_AUTHORIZATION_TOKEN` below the file.
    pub role_token: Option<String>,
    /// A file with that. `AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE` below the file.
    pub role_token_file: Option<PathBuf>,
    /// The machine's metadata service. `AWS_EC2_METADATA_SERVICE_ENDPOINT` below the file.
    pub metadata_url: String,
    /// The endpoint in URLs that listeners and senders of parts get. Unset: `endpoint`.
    pub public_endpoint: Option<String>,
    /// Seconds that a URL of a stream from the bucket is valid.
    pub stream_url_s: u64,
    /// Seconds that a URL of a download from the bucket is valid.
    pub download_url_s: u64,
    /// Seconds that a URL by which a worker reads a source from the bucket is valid.
    pub source_url_s: u64,
    /// Seconds after which an upload or a publish that did not end is taken for abandoned and removed.
    pub abandoned_s: u64,
    /// `required`, or `supported`: a CRC32 with every upload, which many third-party servers refuse.
    pub checksums: Checksums,
    /// Seconds a connection to it may take.
    pub connect_timeout_s: u64,
    /// Seconds it may say nothing.
    pub read_timeout_s: u64,
    /// How often a request is tried.
    pub attempts: u32,
}

impl Default for S3 {
    fn default() -> S3 {
        S3 {
            bucket: String::new(),
            region: "us-east-1".into(),
            endpoint: None,
            path_style: false,
            prefix: String::new(),
            access_key: String::new(),
            secret_key: String::new(),
            session_token: None,
            credentials: Credentials::Keys,
            credentials_file: None,
            credentials_profile: "default".into(),
            role_url: None,
            role_token: None,
            role_token_file: None,
            metadata_url: "http://169.254.169.254".into(),
            public_endpoint: None,
            stream_url_s: 15 * 60,
            download_url_s: 30 * 60,
            source_url_s: 3_600,
            abandoned_s: 86_400,
            checksums: Checksums::Required,
            connect_timeout_s: 3,
            read_timeout_s: 10,
            attempts: 3,
        }
    }
}

/// Where the keys of a bucket come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Credentials {
    /// The settings.
    #[default]
    Keys,
    /// A file that may be replaced.
    File,
    /// The machine's or the container's role.
    Role,
}

/// When uploads carry a checksum of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Checksums {
    /// Where the protocol asks for one.
    #[default]
    Required,
    /// Always.
    Supported,
}

/// What an origin keeps of a bucket on its own disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiskCache {
    /// A directory for this process alone. Unset: `cache` below `data`.
    pub dir: Option<PathBuf>,
    /// Bytes it may take.
    pub bytes_max: u64,
}

impl Default for DiskCache {
    fn default() -> DiskCache {
        DiskCache { dir: None, bytes_max: 16 << 30 }
    }
}

impl Config {
    /// What is wrong with the settings about the store.
    pub(super) fn store_problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.store.second == Some(self.store.kind) {
            problems.push(
                "store.second is the same as store.kind: there would be one store; set the other, or leave it out"
                    .into(),
            );
        }
        if self.store.uses(Backend::S3) {
            problems.extend(self.bucket_problems());
        }
        problems
    }

    /// What is wrong with the settings about the bucket, whether or not it is used.
    pub fn bucket_problems(&self) -> Vec<String> {
        let s3 = &self.store.s3;
        let mut problems = Vec::new();
        let mut need = |holds: bool, problem: &str| {
            if !holds {
                problems.push(problem.to_owned());
            }
        };
        need(
            cfg!(feature = "s3"),
            "store.kind is s3, but this build has no S3: nothing could be served; set it to local, or build with the \
             feature s3",
        );
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
        need(
            (3..=63).contains(&s3.bucket.len()) && s3.bucket.bytes().all(plain),
            "store.s3.bucket is no name of a bucket, but store.kind is s3: nothing could be served; set it (3 to 63 of a-z, \
             0-9, - and .)",
        );
        need(
            s3.credentials != Credentials::Keys || (!s3.access_key.is_empty() && !s3.secret_key.is_empty()),
            "store.s3.access_key or store.s3.secret_key is unset, but store.kind is s3: the bucket would refuse us; set \
             both, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or store.s3.credentials to file or role",
        );
        need(
            s3.credentials != Credentials::File || s3.credentials_file.is_some(),
            "store.s3.credentials is file, but store.s3.credentials_file is unset: there would be no keys; set it",
        );
        need(
            s3.role_url
                .iter()
                .chain([&s3.metadata_url])
                .all(|url| url.starts_with("http://") && is_plain_http_url(url)),
            "store.s3.role_url or store.s3.metadata_url is not a plain http:// URL: the services that give a role's keys are \
             on this machine; set it to theirs",
        );
        need(
            s3.public_endpoint.as_deref().is_none_or(is_plain_http_url),
            "store.s3.public_endpoint is not a plain http:// or https:// URL: listeners could not follow it",
        );
        need(
            [s3.stream_url_s, s3.download_url_s, s3.source_url_s].iter().all(|valid_s| (1..=604_800).contains(valid_s)),
            "store.s3.stream_url_s, download_url_s or source_url_s is not between a second and a week (604800): S3 signs \
             for nothing else",
        );
        need(
            (3_600..=31_536_000).contains(&s3.abandoned_s) || self.profile == Profile::Dev,
            "store.s3.abandoned_s is below an hour or over a year: uploads that are still on their way would be removed, or \
             none ever",
        );
        need(
            !s3.region.is_empty(),
            "store.s3.region is empty: nothing could be signed; set it, us-east-1 if there are none",
        );
        need(
            s3.endpoint.as_deref().is_none_or(is_plain_http_url),
            "store.s3.endpoint is not a plain http:// or https:// URL: the bucket could not be reached",
        );
        let in_prefix = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/');
        need(
            s3.prefix.is_empty() || (s3.prefix.ends_with('/') && s3.prefix.bytes().all(in_prefix)),
            "store.s3.prefix does not end with / or has unusual characters: keys would run into others; write it like music/",
        );
        need(
            (1..=60).contains(&s3.connect_timeout_s)
                && (1..=60).contains(&s3.read_timeout_s)
                && (1..=10).contains(&s3.attempts),
            "store.s3.connect_timeout_s, read_timeout_s (1 to 60) or attempts (1 to 10) is out of range: a listener would \
             wait for ever, or not at all",
        );
        need(
            self.cache.bytes_max >= 64 << 20,
            "cache.bytes_max is below 64 MiB: what one listener fetches would push out what the next one needs",
        );
        problems
    }
}
