//! One tree of settings. In: defaults, a TOML file, the environment. Out: `Config`, or what is wrong.
//!
//! Later layers win: built-in defaults, then the file, then `SEGUE_SECTION__KEY=value`, then flags of
//! the command. Unknown keys are refused, wherever they come from: a typo must not mean "default".
//! The only place that reads environment variables.

use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::error::Context as _;
use crate::base::secret::Secret;
use crate::base::telemetry::Access;
use crate::base::{Error, Result, held, hex, redact, text};
use crate::cdn::cloudfront::KeyPair;
use crate::cdn::{self, rsa};
use crate::origin::SecretHeader;
use crate::store::Backend;

mod auth;
mod edge;
mod explain;
mod files;
#[cfg(feature = "control")]
mod payments;
mod uploads;
mod work;

pub use auth::{Auth, Mail, NewRole, Provider};
pub use edge::Edge;
#[cfg(feature = "control")]
pub use payments::{Payments, Plan};
pub use uploads::{Limit, Uploads};
pub use work::{Api, ApiKey, Callbacks, Database, Worker};

/// The largest configuration or key file we read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Every setting. `docs/CONFIG.md` explains each key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `dev` makes its own secrets; `production` refuses to.
    pub profile: Profile,
    /// Where the embedded default keeps everything: the store and generated secrets.
    pub data: PathBuf,
    /// Where published versions are.
    pub store: Store,
    /// What an origin keeps of a bucket on its own disk.
    pub cache: DiskCache,
    /// Listeners, cores, connection limits.
    pub server: Server,
    /// What the media origin serves and to whom.
    pub origin: Origin,
    /// The CDN in front.
    pub cdn: Edge,
    /// What the transcoder accepts.
    pub transcode: Transcode,
    /// Where sources given by URL may be read from.
    pub sources: Sources,
    /// The database.
    pub database: Database,
    /// The pool that transcodes.
    pub worker: Worker,
    /// The control API.
    pub api: Api,
    /// Accounts of people.
    pub auth: Auth,
    /// Mail to them.
    pub mail: Mail,
    /// Signed callbacks about jobs.
    pub callbacks: Callbacks,
    /// Files that people send.
    pub uploads: Uploads,
    /// Money.
    #[cfg(feature = "control")]
    pub payments: Payments,
    /// The log.
    pub log: Log,
    /// Traces.
    pub telemetry: Telemetry,
}

/// How careful the defaults are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Everything works with no configuration; secrets are generated into the data directory.
    Dev,
    /// No generated secrets.
    Production,
}

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

/// Listeners, cores, connection limits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Public listener.
    pub listen: SocketAddr,
    /// A second public listener, for TLS. Unset: none.
    pub tls_listen: Option<SocketAddr>,
    /// Certificate chain of the TLS listener, leaf first, PEM. Read again when it changes and on SIGHUP.
    pub tls_cert: Option<PathBuf>,
    /// Private key of the TLS listener, PEM.
    pub tls_key: Option<PathBuf>,
    /// Metrics and health listener; keep it private.
    pub admin_listen: SocketAddr,
    /// `https://media.example.com`, put in front of the URLs we print and redirect to. Unset: path only.
    pub public_base_url: Option<String>,
    /// How the origin reads files: `auto`, `uring` or `plain`.
    pub io: String,
    /// Open connections at most, over all cores. Full: 503.
    pub connections_max: usize,
    /// Open connections from one address at most. 0: no limit, for an origin behind a CDN.
    pub connections_per_ip_max: usize,
    /// Unfinished HTTP/2 answers of one address (IPv6: one /64) over all its connections; one beyond it is 503.
    /// Loopback is free. 0: no limit.
    pub streams_per_ip_max: usize,
    /// Seconds a client may take to send a request head.
    pub header_timeout_s: u64,
    /// Seconds an idle connection is kept.
    pub idle_timeout_s: u64,
    /// Seconds a client may take none of the bytes waiting for it.
    pub write_stall_timeout_s: u64,
    /// Bytes a second that a client must take of what the kernel still holds for it when its connection has
    /// ended. 0: as slowly as it likes.
    pub send_bytes_per_s_min: u64,
    /// Seconds over which that is measured.
    pub send_window_s: u64,
    /// Seconds a client may take to send 16 KiB of a request body, or its end.
    pub body_timeout_s: u64,
    /// Seconds that started answers may take after SIGTERM.
    pub drain_s: u64,
}

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

/// What the transcoder accepts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Transcode {
    /// Longest source in seconds.
    pub duration_s_max: u64,
    /// Largest source in bytes.
    pub input_bytes_max: u64,
    /// Largest source with a picture, in bytes.
    pub video_bytes_max: u64,
    /// Longest film in seconds.
    pub video_duration_s_max: u64,
    /// Most pixels of a source's picture, width times height.
    pub video_pixels_max: u64,
    /// What to do where this machine lacks a part of the sandbox: `best-effort` or `require`. Unset: `require`
    /// in production, else `best-effort`.
    pub sandbox: Option<Sandbox>,
}

/// Where sources given by URL may be read from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sources {
    /// Hosts: `name`, `*.name`, either with `:port` or `:*`. Empty: any in dev, none in production.
    pub allow_hosts: Vec<String>,
    /// Networks that are reached although they are private: `10.0.0.0/8`, `127.0.0.1`.
    pub allow_private: Vec<String>,
    /// Certificates, PEM, trusted beside the machine's own.
    pub ca_file: Option<PathBuf>,
    /// Seconds without a byte after which a download is tried again.
    pub idle_timeout_s: u64,
}

/// What to do where this machine lacks a part of the transcoder's sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sandbox {
    /// Transcode all the same and warn.
    BestEffort,
    /// Transcode nothing.
    Require,
}

/// The log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `tracing` filter: `info`, `segue=debug,warn`.
    pub filter: String,
    /// One JSON object a line instead of text.
    pub json: bool,
    /// Which requests get a line: `off`, `errors` (400 and above) or `all`.
    pub access: Access,
    /// Lines about errors a second at most; the rest are counted.
    pub errors_per_s_max: u32,
}

/// Traces.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// Where spans go: an OTLP/HTTP collector's URL for traces. Unset: nowhere.
    pub otlp_traces_endpoint: Option<String>,
    /// `service.name` of the spans.
    pub service_name: String,
    /// Share of hits that have a span, 0 to 1; misses always have one.
    pub hit_ratio: f64,
    /// Hits a second at most that have a span because their `traceparent` is sampled.
    pub sampled_hits_per_s_max: u32,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            profile: Profile::Dev,
            data: "data".into(),
            store: Store::default(),
            cache: DiskCache::default(),
            server: Server::default(),
            origin: Origin::default(),
            cdn: Edge::default(),
            transcode: Transcode::default(),
            sources: Sources::default(),
            database: Database::default(),
            worker: Worker::default(),
            api: Api::default(),
            auth: Auth::default(),
            mail: Mail::default(),
            callbacks: Callbacks::default(),
            uploads: Uploads::default(),
            #[cfg(feature = "control")]
            payments: Payments::default(),
            log: Log::default(),
            telemetry: Telemetry::default(),
        }
    }
}

impl Default for Server {
    fn default() -> Server {
        Server {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            tls_listen: None,
            tls_cert: None,
            tls_key: None,
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 9090)),
            public_base_url: None,
            io: "auto".into(),
            connections_max: 32_768,
            connections_per_ip_max: 1_024,
            streams_per_ip_max: 4_096,
            header_timeout_s: 10,
            idle_timeout_s: 75,
            write_stall_timeout_s: 30,
            send_bytes_per_s_min: 1_024,
            send_window_s: 60,
            body_timeout_s: 30,
            drain_s: 10,
        }
    }
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

impl Default for Transcode {
    fn default() -> Transcode {
        Transcode {
            duration_s_max: 10 * 3600,
            input_bytes_max: 8 << 30,
            video_bytes_max: 500 << 20,
            video_duration_s_max: 4 * 3600,
            video_pixels_max: 4096 * 2304,
            sandbox: None,
        }
    }
}

impl Default for Sources {
    fn default() -> Sources {
        Sources { allow_hosts: vec![], allow_private: vec![], ca_file: None, idle_timeout_s: 30 }
    }
}

impl Default for Log {
    fn default() -> Log {
        Log { filter: "info".into(), json: false, access: Access::Errors, errors_per_s_max: 20 }
    }
}

impl Default for Telemetry {
    fn default() -> Telemetry {
        Telemetry {
            otlp_traces_endpoint: None,
            service_name: "segue".into(),
            hit_ratio: 0.0,
            sampled_hits_per_s_max: 100,
        }
    }
}

impl Config {
    /// Reads the file, when one is named, and the environment over it.
    ///
    /// # Errors
    /// `Usage` naming the file and line, or the variable, that cannot be read.
    pub fn load(file: Option<&Path>) -> Result<Config> {
        // Other people's variables may hold any bytes; ours would not be what they look like.
        let ours = |name: &str| {
            name.starts_with("SEGUE_") || name.starts_with("OTEL_") || ["PORT", "DATABASE_URL"].contains(&name)
        };
        let mut variables = Vec::new();
        for (name, value) in std::env::vars_os() {
            match (name.into_string(), value.into_string()) {
                (Ok(name), Ok(value)) => variables.push((name, value)),
                (Ok(name), Err(_)) if ours(&name) => {
                    return Err(Error::usage(format!("the variable {name} is not text in UTF-8; set it again")));
                }
                _ => {}
            }
        }
        Config::layered(file, variables.into_iter())
    }

    fn layered(file: Option<&Path>, variables: impl Iterator<Item = (String, String)>) -> Result<Config> {
        let (mut tree, mut wrongs) = match file {
            None => Default::default(),
            Some(path) => read_file(path)?,
        };
        let variables: Vec<(String, String)> = variables.collect();
        overlay_otel(&mut tree, &variables);
        overlay_aws(&mut tree, &variables);
        let (variables, unreadable) = files::resolved(&variables);
        wrongs.extend(unreadable);
        for files::Variable { said, name, value, exact } in variables {
            let set = |tree: &mut toml::Table| match (name.strip_prefix("SEGUE_"), &exact) {
                (Some(path), Some(exact)) => overlay_value(tree, path, exact.clone()),
                (Some(path), None) => overlay(tree, path, &value),
                _ if name == "PORT" => overlay(tree, "SERVER__LISTEN", &format!("0.0.0.0:{value}")),
                _ if name == "DATABASE_URL" && !value.is_empty() => overlay_text(tree, "DATABASE__URL", &value),
                _ => {}
            };
            let mut alone = toml::Table::new();
            set(&mut alone);
            match explain::wrongs(&alone).first() {
                Some(wrong) => wrongs.push(format!("the variable {said} is wrong: {wrong}")),
                None => set(&mut tree),
            }
        }
        let config: Config = tree.try_into().map_err(|cause: toml::de::Error| {
            Error::usage(format!(
                "the configuration cannot be read: {}; docs/CONFIG.md lists all keys",
                cause.message()
            ))
        })?;
        if wrongs.is_empty() {
            return Ok(config);
        }
        // Who mends these shall not meet the next ones one run later.
        wrongs.extend(config.problems());
        Err(Error::usage(wrongs.join("; ")))
    }

    /// Everything that is wrong with these settings together, each with its consequence and key.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut need = |holds: bool, problem: &str| {
            if !holds {
                problems.push(problem.to_owned());
            }
        };
        need(
            matches!(self.server.io.as_str(), "auto" | "uring" | "plain"),
            "server.io is not one of auto, uring, plain; set one of them",
        );
        need(
            !self.data.as_os_str().is_empty(),
            "data is empty: the store would lie in whatever directory this runs in; name a directory",
        );
        need(self.server.connections_max > 0, "server.connections_max is 0: nobody could connect; set it above 0");
        let Server { tls_listen, tls_cert, tls_key, .. } = &self.server;
        need(
            tls_listen.is_none() || (tls_cert.is_some() && tls_key.is_some()),
            "server.tls_listen is set without server.tls_cert and server.tls_key: nobody could connect; \
             set both to PEM files",
        );
        need(
            tls_listen.is_some() || (tls_cert.is_none() && tls_key.is_none()),
            "server.tls_cert or server.tls_key is set without server.tls_listen: nothing would be encrypted; \
             set server.tls_listen",
        );
        need(
            self.origin.requests_in_flight_max > 0 && self.origin.bytes_in_flight_max > 0,
            "origin.requests_in_flight_max or origin.bytes_in_flight_max is 0: every request would be refused",
        );
        need(
            self.origin.files_open_max > 15,
            "origin.files_open_max is below 16: a few versions would push each other out",
        );
        need(self.origin.token_ttl_s > 0, "origin.token_ttl_s is 0: every signed URL would be expired at once");
        need(
            self.origin.token_ttl_s <= TTL_S_MAX,
            "origin.token_ttl_s is over ten years: a URL would never expire; set it below 315360000",
        );
        need(
            self.origin.cores <= CORES_MAX,
            "origin.cores is over 1024: threads beyond the machine's processors only wait; set it to 0 for one each",
        );
        need(
            self.transcode.duration_s_max > 0 && self.transcode.input_bytes_max > 0,
            "transcode.duration_s_max or transcode.input_bytes_max is 0: every file would be refused",
        );
        let Transcode { video_bytes_max, video_duration_s_max, video_pixels_max, .. } = self.transcode;
        need(
            video_bytes_max > 0 && video_duration_s_max > 0 && video_pixels_max > 0,
            "transcode.video_bytes_max, video_duration_s_max or video_pixels_max is 0: every film would be refused",
        );
        need(
            tracing_subscriber::EnvFilter::try_new(&self.log.filter).is_ok(),
            "log.filter cannot be read: nobody would know what is logged; write it like info or segue=debug,warn",
        );
        let collector = self.telemetry.otlp_traces_endpoint.as_deref();
        need(
            collector.is_none_or(|url| url.strip_prefix("http://").is_some_and(|rest| rest.contains('/'))),
            "telemetry.otlp_traces_endpoint is not http://host:port/v1/traces: no span could leave; set a collector \
             beside this server, which may use TLS from there",
        );
        need(
            (0.0..=1.0).contains(&self.telemetry.hit_ratio),
            "telemetry.hit_ratio is not between 0 and 1: it is the share of hits that have a span",
        );
        let base = self.server.public_base_url.as_deref();
        need(
            base.is_none_or(is_plain_http_url),
            "server.public_base_url is not a plain http:// or https:// URL: players could not follow it",
        );
        need(
            self.origin.blocked_by.as_deref().is_none_or(is_plain_http_url),
            "origin.blocked_by is not a plain http:// or https:// URL: nobody could follow it",
        );
        need(self.sources.idle_timeout_s > 0, "sources.idle_timeout_s is 0: no download could work; set it above 0");
        problems.extend(self.store_problems());
        problems.extend(self.server.wait_problems());
        problems.extend(self.server.listener_problems());
        #[cfg(feature = "transcode")]
        problems.extend(self.source_problems());
        problems.extend(self.token_problems());
        problems.extend(self.cdn.problems());
        problems.extend(self.database.problems());
        problems.extend(self.worker.problems());
        problems.extend(self.api.problems());
        problems.extend(self.auth.problems(self.profile, &self.mail, self.server.public_base_url.as_deref()));
        problems.extend(self.mail.problems(self.profile));
        problems.extend(self.callbacks.problems());
        problems.extend(self.uploads.problems(self.profile));
        #[cfg(feature = "control")]
        problems.extend(self.payment_problems());
        problems
    }

    /// What is wrong with the settings about money.
    #[cfg(feature = "control")]
    fn payment_problems(&self) -> Vec<String> {
        let others: Vec<_> = self.callbacks.secrets.iter().map(|s| ("callbacks.secrets", s.as_str())).collect();
        let there = (self.database.url.is_some(), self.server.public_base_url.is_some());
        self.payments.problems(self.profile, there, &others)
    }

    /// What is wrong with the settings about sources.
    #[cfg(feature = "transcode")]
    fn source_problems(&self) -> Vec<String> {
        use crate::transcode::{HostRule, Network};
        let hosts = self.sources.allow_hosts.iter().filter_map(|text| text.parse::<HostRule>().err());
        let networks = self.sources.allow_private.iter().filter_map(|text| text.parse::<Network>().err());
        let hosts = hosts.map(|wrong| format!("sources.allow_hosts: {}", wrong.chain()));
        hosts.chain(networks.map(|wrong| format!("sources.allow_private: {}", wrong.chain()))).collect()
    }

    /// What is wrong with the settings about the store.
    fn store_problems(&self) -> Vec<String> {
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

    /// What is wrong with the settings about tokens.
    fn token_problems(&self) -> Vec<String> {
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

    /// What is allowed, and better known: said at start and by `segue config check`.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.origin.require_token && self.origin.secret_header.is_empty() {
            notes.push(
                "origin.require_token is off and origin.secret_header is empty: whoever learns a URL plays it for ever; \
                 turn one of them on unless everything in the store is public"
                    .to_owned(),
            );
        }
        notes.extend(self.uploads.notes());
        notes
    }

    /// Refuses settings that have problems, listing all of them.
    ///
    /// # Errors
    /// `Usage` with every problem.
    pub fn checked(self) -> Result<Config> {
        match self.problems() {
            problems if problems.is_empty() => Ok(self),
            problems => Err(Error::usage(format!("the configuration has problems: {}", problems.join("; ")))),
        }
    }

    /// The tree as TOML with every secret masked, for `segue config show`.
    pub fn masked(&self) -> String {
        let mut shown = self.clone();
        let keys = &mut shown.origin.keys;
        for key in keys.bunny.iter_mut().chain(&mut keys.cloudflare).chain(&mut shown.origin.secret_header) {
            *key = "(hidden)".into();
        }
        let s3 = &mut shown.store.s3;
        let optional = s3.session_token.iter_mut().chain(&mut s3.role_token);
        for secret in [&mut s3.access_key, &mut s3.secret_key].into_iter().chain(optional) {
            if !secret.is_empty() {
                *secret = "(hidden)".into();
            }
        }
        let collector = shown.telemetry.otlp_traces_endpoint.as_mut();
        if let Some(url) = collector {
            *url = redact::text(url).into_owned(); // it may hold a password
        }
        shown.cdn.mask();
        shown.auth.mask();
        shown.mail.mask();
        shown.database.mask();
        shown.callbacks.mask();
        #[cfg(feature = "control")]
        shown.payments.mask();
        toml::to_string_pretty(&shown).expect("plain data always serialises")
    }

    /// What stands in front of playback URLs: the CDN's address, else our own.
    pub fn media_base_url(&self) -> Option<&str> {
        self.cdn.base_url.as_deref().or(self.server.public_base_url.as_deref())
    }

    /// Directory of the local store.
    pub fn store_dir(&self) -> PathBuf {
        self.data.join("store")
    }

    /// Directory of the disk cache.
    pub fn cache_dir(&self) -> PathBuf {
        self.cache.dir.clone().unwrap_or_else(|| self.data.join("cache"))
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

    /// The secrets of accounts, newest first. The dev profile makes one on first use, as it does for signing.
    ///
    /// # Errors
    /// `Internal` when the generated one cannot be kept.
    pub fn auth_secrets(&self) -> Result<Vec<Secret>> {
        match self.auth.secrets.is_empty() && self.profile == Profile::Dev {
            true => Ok(vec![generated_key(&self.data, AUTH_KEY)?]),
            false => Ok(self.auth.secrets.iter().map(|secret| Secret::new(secret.trim().as_bytes())).collect()),
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

/// Longest validity of a signed URL, in seconds: ten years.
const TTL_S_MAX: u64 = 315_360_000;
/// Most threads that serve media.
const CORES_MAX: usize = 1024;
/// The longest wait that is still one, in seconds: a day.
const WAIT_S_MAX: u64 = 86_400;

impl Server {
    /// Which waits would end before they begin, or never.
    fn wait_problems(&self) -> Vec<String> {
        let waits = [
            ("header_timeout_s", self.header_timeout_s, 1),
            ("idle_timeout_s", self.idle_timeout_s, 1),
            ("write_stall_timeout_s", self.write_stall_timeout_s, 1),
            ("send_window_s", self.send_window_s, 1),
            ("body_timeout_s", self.body_timeout_s, 1),
            ("drain_s", self.drain_s, 0),
        ];
        let wrong = waits.into_iter().filter(|(_, wait_s, least)| !(*least..=WAIT_S_MAX).contains(wait_s));
        let problem = |(name, wait_s, least): (&str, u64, u64)| match wait_s {
            0 => format!("server.{name} is 0: every connection would be closed at once; set it to {least} or more"),
            _ => format!("server.{name} is over a day: what hangs would stay for ever; set it to {WAIT_S_MAX} or less"),
        };
        wrong.map(problem).collect()
    }

    /// Which listeners would take each other's address. Port 0 is another one each time.
    fn listener_problems(&self) -> Vec<String> {
        let listeners = [
            ("server.listen", Some(self.listen)),
            ("server.admin_listen", Some(self.admin_listen)),
            ("server.tls_listen", self.tls_listen),
        ];
        let clash = |a: SocketAddr, b: SocketAddr| {
            let any = a.ip().is_unspecified() || b.ip().is_unspecified();
            a.port() == b.port() && a.port() != 0 && (any || a.ip() == b.ip())
        };
        let mut problems = Vec::new();
        for (n, (name, addr)) in listeners.iter().enumerate() {
            for (other, taken) in &listeners[..n] {
                if let (Some(addr), Some(taken)) = (addr, taken)
                    && clash(*addr, *taken)
                {
                    problems.push(format!(
                        "{other} ({taken}) and {name} ({addr}) are one port: only one could listen there; give one another"
                    ));
                }
            }
        }
        problems
    }
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

/// A URL we can put in front of a path, into a header and into a content security policy.
fn is_plain_http_url(url: &str) -> bool {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    rest.is_some_and(|rest| {
        !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_~:/[]".contains(&b))
    })
}

fn read_file(path: &Path) -> Result<(toml::Table, Vec<String>)> {
    let name = path.display();
    let unreadable = |cause| {
        Error::usage(format!(
            "cannot read the configuration {name}: {cause}; give a TOML file of at most {} KiB that this user may read",
            FILE_BYTES_MAX >> 10
        ))
    };
    explain::decode(&text::read(path, FILE_BYTES_MAX).map_err(unreadable)?, &name.to_string())
}

/// The standard variables of OpenTelemetry that have a key here; the exporter reads the others itself
/// (`OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_TRACES_SAMPLER`, `OTEL_BSP_*`, `OTEL_RESOURCE_ATTRIBUTES`).
fn overlay_otel(tree: &mut toml::Table, variables: &[(String, String)]) {
    let get = |name: &str| variables.iter().find(|(known, value)| known == name && !value.is_empty()).map(|(_, v)| v);
    let mut set = |path: &str, value: &str| overlay_text(tree, path, value);
    if get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return;
    }
    // OTLP exporter specification, "Endpoint URLs for OTLP/HTTP": a signal's own URL is used as it is.
    if let Some(url) = get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") {
        set("TELEMETRY__OTLP_TRACES_ENDPOINT", url);
    } else if let Some(url) = get("OTEL_EXPORTER_OTLP_ENDPOINT") {
        set("TELEMETRY__OTLP_TRACES_ENDPOINT", &format!("{}/v1/traces", url.trim_end_matches('/')));
    }
    if let Some(name) = get("OTEL_SERVICE_NAME") {
        set("TELEMETRY__SERVICE_NAME", name);
    }
}

/// The standard variables of AWS, for what the file does not say.
fn overlay_aws(tree: &mut toml::Table, variables: &[(String, String)]) {
    const KNOWN: [(&str, &str); 13] = [
        ("AWS_ACCESS_KEY_ID", "access_key"),
        ("AWS_SECRET_ACCESS_KEY", "secret_key"),
        ("AWS_SESSION_TOKEN", "session_token"),
        ("AWS_REGION", "region"),
        ("AWS_DEFAULT_REGION", "region"),
        ("AWS_ENDPOINT_URL_S3", "endpoint"),
        ("AWS_ENDPOINT_URL", "endpoint"),
        ("AWS_SHARED_CREDENTIALS_FILE", "credentials_file"),
        ("AWS_PROFILE", "credentials_profile"),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "role_url"),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "role_token"),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "role_token_file"),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "metadata_url"),
    ];
    for (name, key) in KNOWN {
        let value = variables.iter().find(|(known, value)| known == name && !value.is_empty());
        let is_set = tree.get("store").and_then(|store| store.get("s3")).is_some_and(|s3| s3.get(key).is_some());
        if let Some((_, value)) = value
            && !is_set
        {
            overlay_text(tree, &format!("STORE__S3__{key}"), value);
        }
    }
    // ECS says a path; the host is always the same (Amazon ECS developer guide, "Task IAM role").
    let relative =
        variables.iter().find(|(known, value)| known == "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI" && !value.is_empty());
    let is_set = tree.get("store").and_then(|store| store.get("s3")).is_some_and(|s3| s3.get("role_url").is_some());
    if let (Some((_, path)), false) = (relative, is_set) {
        overlay_text(tree, "STORE__S3__ROLE_URL", &format!("http://169.254.170.2{path}"));
    }
}

/// Sets `SECTION__KEY` in the tree. The value is read as TOML when it is TOML, else as a string.
fn overlay(tree: &mut toml::Table, path: &str, value: &str) {
    let value = format!("v = {value}")
        .parse::<toml::Table>()
        .ok()
        .and_then(|mut table| table.remove("v"))
        .unwrap_or_else(|| toml::Value::String(value.to_owned()));
    overlay_value(tree, path, value);
}

fn overlay_text(tree: &mut toml::Table, path: &str, value: &str) {
    overlay_value(tree, path, toml::Value::String(value.to_owned()));
}

fn overlay_value(tree: &mut toml::Table, path: &str, value: toml::Value) {
    let lower = path.to_ascii_lowercase();
    let mut parts: Vec<_> = lower.split("__").collect();
    let last = parts.pop().expect("split gives at least one part");
    let mut table = tree;
    for part in parts {
        let next = table.entry(part).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        if !next.is_table() {
            *next = toml::Value::Table(toml::Table::new());
        }
        table = next.as_table_mut().expect("made a table above");
    }
    table.insert(last.to_owned(), value);
}

/// Names of generated secrets; `.key` stands behind each.
const BUNNY_KEY: &str = "bunny";
const AUTH_KEY: &str = "auth";

fn generated_key_path(data: &Path, name: &str) -> PathBuf {
    data.join("secrets").join(format!("{name}.key"))
}

/// Reads the generated key, making it when it is missing. Two processes that start together agree:
/// the file is written beside and linked into place, and the loser of the race reads the winner's.
fn generated_key(data: &Path, name: &str) -> Result<Secret> {
    let path = generated_key_path(data, name);
    let dir = path.parent().expect("the key is in a directory");
    let what = || format!("cannot keep the generated signing key {}", path.display());
    let data_is_new = !data.exists();
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).context(what)?;
    sweep_keys(dir, name);
    // One that is there but out of reach must not be made anew.
    if matches!(path.try_exists(), Ok(false))
        && let Err(cause) = make_key(dir, name, &path)
    {
        // Only what is empty goes, and of the data directory only what was made here.
        if std::fs::remove_dir(dir).is_ok() && data_is_new {
            let _ = std::fs::remove_dir(data);
        }
        return Err(cause).context(what);
    }
    let key =
        text::read(&path, FILE_BYTES_MAX).context(|| format!("cannot read the signing key {}", path.display()))?;
    match key.trim() {
        "" => Err(Error::usage(format!("the signing key {} is empty; delete it to make a new one", path.display()))),
        key => Ok(Secret::new(key.as_bytes())),
    }
}

/// Puts a new random key at `path`, unless one is there.
fn make_key(dir: &Path, name: &str, path: &Path) -> std::io::Result<()> {
    let mut random = [0; 40];
    getrandom::fill(&mut random).expect("the operating system gives random bytes");
    let (key, unique) = random.split_at(32);
    let temporary = dir.join(format!("{name}.{}{KEY_SUFFIX}", hex::encode(unique)));
    let _held = held::hold(&temporary, |path| {
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map(drop)
    })?;
    let write = || {
        let mut file = std::fs::OpenOptions::new().write(true).open(&temporary)?;
        file.write_all(hex::encode(key).as_bytes())?;
        file.sync_all()?;
        match std::fs::hard_link(&temporary, path) {
            Err(cause) if cause.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        }
    };
    let written = write();
    let removed = std::fs::remove_file(&temporary);
    written.and(removed)
}

/// Names of keys that are being written end so.
const KEY_SUFFIX: &str = ".tmp";

/// Removes keys whose writer was killed; they were never used.
fn sweep_keys(dir: &Path, key: &str) {
    for path in std::fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with(key) && name.ends_with(KEY_SUFFIX) && held::take_left_over(&path).is_some() {
            let _ = std::fs::remove_file(&path); // the next start tries again
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Result<Config> {
        Config::layered(None, pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())))
    }

    #[test]
    fn variables_reach_their_key_with_its_type() {
        let config = env(&[
            ("SEGUE_ORIGIN__REQUIRE_TOKEN", "false"),
            ("SEGUE_ORIGIN__KEYS__BUNNY", "[\"a\", \"b\"]"),
            ("SEGUE_DATA", "/srv/segue"),
            ("PORT", "9000"),
            ("HOME", "/root"),
        ])
        .unwrap();
        assert!(!config.origin.require_token);
        assert_eq!(config.origin.keys.bunny, ["a", "b"]);
        assert_eq!(config.data, Path::new("/srv/segue"));
        assert_eq!(config.server.listen.to_string(), "0.0.0.0:9000");
    }

    #[test]
    fn the_standard_variables_of_opentelemetry_reach_their_keys() {
        let endpoint = |pairs: &[(&str, &str)]| env(pairs).unwrap().telemetry.otlp_traces_endpoint;
        let (base, own) = (("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/"), "http://t:1/x");
        let own_variable = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", own);
        assert_eq!(endpoint(&[base]).as_deref(), Some("http://c:4318/v1/traces"));
        assert_eq!(endpoint(&[base, own_variable]).as_deref(), Some(own));
        assert_eq!(endpoint(&[base, ("SEGUE_TELEMETRY__OTLP_TRACES_ENDPOINT", own)]).as_deref(), Some(own));
        assert_eq!(endpoint(&[base, ("OTEL_SDK_DISABLED", "true")]), None);
        assert_eq!(env(&[("OTEL_SERVICE_NAME", "7")]).unwrap().telemetry.service_name, "7");
        let tls = env(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "https://u:pw@c")]).unwrap();
        assert!(tls.problems()[0].contains("otlp_traces_endpoint") && !tls.masked().contains("pw"));
    }

    #[test]
    fn unknown_keys_are_refused_wherever_they_come_from() {
        assert!(env(&[("SEGUE_ORIGIN__REQUIRE_TOKENS", "false")]).unwrap_err().chain().contains("require_tokens"));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("segue.toml");
        std::fs::write(&file, "[origin]\nrequire_token = true\nrequire_tokn = 1\n").unwrap();
        let error = Config::layered(Some(&file), std::iter::empty()).unwrap_err().chain();
        assert!(error.contains("segue.toml:3") && error.contains("require_tokn"), "{error}");
    }

    #[test]
    fn all_problems_are_listed_at_once() {
        let mut config = Config { profile: Profile::Production, ..Config::default() };
        config.server.connections_max = 0;
        config.server.public_base_url = Some("media.example.com".into());
        config.server.tls_key = Some("key.pem".into());
        let error = config.checked().unwrap_err().chain();
        for word in ["origin.keys.bunny is unset", "connections_max", "public_base_url", "set server.tls_listen"] {
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn limits_that_would_refuse_everything_or_nothing_are_problems() {
        for (name, value) in [
            ("SEGUE_SERVER__HEADER_TIMEOUT_S", "0"),
            ("SEGUE_SERVER__IDLE_TIMEOUT_S", "86401"),
            ("SEGUE_SERVER__DRAIN_S", "99999999999999"),
            ("SEGUE_ORIGIN__CORES", "100000"),
            ("SEGUE_ORIGIN__TOKEN_TTL_S", "999999999999"),
            ("SEGUE_TRANSCODE__DURATION_S_MAX", "0"),
            ("SEGUE_LOG__FILTER", "=="),
        ] {
            let problems = env(&[(name, value)]).unwrap().problems();
            let key = name.trim_start_matches("SEGUE_").to_lowercase().replace("__", ".");
            assert!(problems.len() == 1 && problems[0].contains(&key), "{name}={value}: {problems:?}");
        }
        assert!(env(&[("SEGUE_SERVER__DRAIN_S", "0")]).unwrap().problems().is_empty());
    }

    #[test]
    fn listeners_with_the_same_address_are_a_problem() {
        let check = |listen: &str, admin: &str, clash: bool| {
            let mut config = Config::default();
            (config.server.listen, config.server.admin_listen) = (listen.parse().unwrap(), admin.parse().unwrap());
            assert_eq!(config.problems().iter().any(|problem| problem.contains("only one")), clash, "{listen} {admin}");
        };
        check("127.0.0.1:1", "127.0.0.1:1", true);
        check("0.0.0.0:1", "127.0.0.1:1", true);
        check("127.0.0.1:1", "127.0.0.2:1", false);
        check("127.0.0.1:0", "127.0.0.1:0", false);
        check("127.0.0.1:1", "127.0.0.1:2", false);
    }

    #[test]
    fn a_variable_that_cannot_be_used_is_named() {
        let check = |name: &str, value: &str, said: &str| {
            let line = env(&[(name, value)]).unwrap_err().chain();
            assert!(line.contains(&format!("the variable {name} is wrong: {said}")), "{line}");
        };
        check("PORT", "abc", "server.listen must be an address and a port");
        check("SEGUE_SERVER__IDLE_TIMEOUT_S", "abc", "server.idle_timeout_s must be a whole number from 0");
        check("SEGUE_ORIGIN__REQUIRE_TOKENS", "false", "origin.require_tokens is no setting, did you mean");
        check("SEGUE_ORIGIN__REQUIRE_TOKEN", "maybe", "origin.require_token must be true or false");
        assert!(!env(&[("SEGUE_ORIGIN__KEYS__BUNNY", "hush")]).unwrap_err().chain().contains("hush"));
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("segue.toml");
        std::fs::write(&file, "[origin]\nfoo = 1\ntoken_ttl_s = 0\n[server]\nio = \"zap\"\ncores = 1\n").unwrap();
        let variables = [("SEGUE_FOO", "1"), ("SEGUE_ORIGIN__CORES", "x"), ("SEGUE_ORIGIN__REQUIRE_TOKENS", "false")];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let line = Config::layered(Some(&file), variables.into_iter()).unwrap_err().chain();
        for said in [
            "segue.toml:2: origin.foo is no setting; docs",
            "segue.toml:6: server.cores is no setting, did you mean worker.cores?",
            "the variable SEGUE_FOO is wrong",
            "the variable SEGUE_ORIGIN__CORES is wrong",
            "the variable SEGUE_ORIGIN__REQUIRE_TOKENS is wrong",
            "origin.token_ttl_s is 0",
            "server.io is not one of",
        ] {
            assert!(line.contains(said), "{said}: {line}");
        }
    }

    #[test]
    fn a_key_that_a_killed_start_left_half_written_is_removed_and_one_being_written_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { data: dir.path().to_owned(), ..Config::default() };
        let secrets = dir.path().join("secrets");
        std::fs::create_dir(&secrets).unwrap();
        let (dead, living, other) = ("bunny.1.tmp", "bunny.2.tmp", "mine.tmp");
        std::fs::write(secrets.join(dead), "half").unwrap();
        std::fs::write(secrets.join(other), "").unwrap();
        let held = held::hold(&secrets.join(living), |path| std::fs::write(path, "")).unwrap();
        config.bunny_keys().unwrap();
        let mut names: Vec<_> = std::fs::read_dir(&secrets).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [living, "bunny.key", other]);
        drop(held);
        config.bunny_keys().unwrap();
        assert!(!secrets.join(living).exists());
    }

    #[test]
    fn weak_keys_are_refused_in_production_and_said_elsewhere() {
        let weak = |profile, bunny: &[&str], cloudflare: &[&str]| {
            let mut config = Config { profile, ..Config::default() };
            config.uploads.unscanned = true;
            config.auth.accounts = false;
            #[cfg(feature = "control")]
            {
                config.payments.enabled = Some(false);
            }
            config.origin.keys.bunny = bunny.iter().map(|key| (*key).to_owned()).collect();
            config.origin.keys.cloudflare = cloudflare.iter().map(|key| (*key).to_owned()).collect();
            (config.key_weaknesses(), config.problems())
        };
        let (good, other) = ("0123456789abcdef", "fedcba9876543210");
        assert_eq!(weak(Profile::Production, &[good, other], &[good]), (vec![], vec![]));
        for (bunny, cloudflare, says) in [
            (&["0123456789abcde"][..], &[][..], "origin.keys.bunny holds a key shorter than 16 bytes"),
            (&[good, "k"], &[], "origin.keys.bunny holds a key shorter"),
            (&[good, good], &[], "origin.keys.bunny holds the same key twice"),
            (&[good], &["k"], "origin.keys.cloudflare holds a key shorter"),
            (&[good], &[other, other], "origin.keys.cloudflare holds the same key twice"),
        ] {
            let (warned, refused) = weak(Profile::Production, bunny, cloudflare);
            assert!(warned.len() == 1 && warned[0].contains(says), "{warned:?}");
            assert_eq!(refused, warned);
            assert_eq!(weak(Profile::Dev, bunny, cloudflare), (warned, vec![]));
        }
    }

    #[test]
    fn the_generated_key_is_kept_private_and_the_same_next_time() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let config = Config { data: dir.path().join("data"), ..Config::default() };
        let first = config.bunny_keys().unwrap();
        assert_eq!(first, config.bunny_keys().unwrap());
        assert_eq!(first[0].expose().len(), 64);
        let mode = std::fs::metadata(dir.path().join("data/secrets/bunny.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(format!("{first:?}").contains("Secret(…)"));
        let shown = Config {
            origin: Origin { keys: Keys { bunny: vec!["k1".into()], ..Keys::default() }, ..Origin::default() },
            ..config
        };
        assert!(!shown.masked().contains("k1"));
    }
}
