//! One tree of settings. In: defaults, a TOML file, the environment. Out: `Config`, or what is wrong.
//!
//! Later layers win: built-in defaults, then the file, then `SEGUE_SECTION__KEY=value`, then flags of
//! the command. Unknown keys are refused, wherever they come from: a typo must not mean "default".
//! The only place that reads environment variables.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::secret::Secret;
use crate::base::{Error, Result, redact, text};

mod auth;
mod edge;
mod explain;
mod files;
mod generated;
mod origin;
#[cfg(feature = "control")]
mod payments;
mod server;
mod store;
mod telemetry;
mod transcode;
mod uploads;
mod variables;
mod work;

pub use auth::{Auth, Mail, NewRole, Provider};
pub use edge::Edge;
pub use origin::{Cdn, CloudFrontKey, Keys, Origin, TokenForm};
#[cfg(feature = "control")]
pub use payments::{Payments, Plan};
pub use server::Server;
pub use store::{Checksums, Credentials, DiskCache, S3, Store};
pub use telemetry::{Log, Telemetry};
pub use transcode::{Sandbox, Sources, Transcode};
pub use uploads::{Limit, Uploads};
pub use work::{Api, ApiKey, Callbacks, Database, Worker};

use generated::{AUTH_KEY, generated_key};
use variables::{overlay, overlay_aws, overlay_otel, overlay_text, overlay_value};

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
        problems.extend(self.shared_secret_problems());
        problems.extend(self.uploads.problems(self.profile));
        #[cfg(feature = "control")]
        problems.extend(self.payment_problems());
        problems
    }

    /// Every secret that was set but those of payments, by its key.
    fn other_secrets(&self) -> Vec<(&'static str, &str)> {
        let keys = &self.origin.keys;
        let lists = [
            ("callbacks.secrets", &self.callbacks.secrets),
            ("auth.secrets", &self.auth.secrets),
            ("origin.keys.bunny", &keys.bunny),
            ("origin.keys.cloudflare", &keys.cloudflare),
            ("origin.secret_header", &self.origin.secret_header),
        ];
        let mut secrets: Vec<_> =
            lists.iter().flat_map(|(name, list)| list.iter().map(|secret| (*name, secret.trim()))).collect();
        secrets
            .extend(self.auth.providers.iter().map(|one| ("auth.providers client_secret", one.client_secret.as_str())));
        secrets.push(("store.s3.secret_key", &self.store.s3.secret_key));
        secrets.extend(self.cdn.secrets());
        secrets.retain(|(_, secret)| !secret.is_empty());
        secrets
    }

    /// In production no secret serves two purposes; one that a list has twice is the list's own affair.
    fn shared_secret_problems(&self) -> Vec<String> {
        let mut secrets = self.other_secrets();
        secrets.sort_unstable();
        secrets.dedup();
        if self.profile == Profile::Production { shared_secrets(&secrets, &[]) } else { Vec::new() }
    }

    /// What is wrong with the settings about money.
    #[cfg(feature = "control")]
    fn payment_problems(&self) -> Vec<String> {
        let others = self.other_secrets();
        let there = (self.database.url.is_some(), self.server.public_base_url.is_some());
        self.payments.problems(self.profile, there, &others)
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
        if self.profile == Profile::Production {
            notes.extend(self.waived().into_iter().map(str::to_owned));
        }
        notes
    }

    /// What production would refuse, had nobody said that it is meant.
    fn waived(&self) -> Vec<&'static str> {
        let mut waived = Vec::new();
        if self.uploads.unscanned && self.uploads.clamd.is_none() {
            waived.push(
                "uploads.unscanned is true in production: what somebody uploads is published without a scanner's look; set \
                 uploads.clamd",
            );
        }
        #[cfg(feature = "control")]
        if self.payments.enabled == Some(false) {
            waived.push(
                "payments.enabled is false in production: nothing can be bought, and what is paid for stays closed; set it to true, \
                 with its keys, unless nothing is sold here",
            );
        }
        waived
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
}

/// Longest validity of a signed URL, in seconds: ten years.
const TTL_S_MAX: u64 = 315_360_000;
/// Most threads that serve media.
const CORES_MAX: usize = 1024;

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

/// Which of `ours`, each with its key, are also another of them or one of `others`.
fn shared_secrets(ours: &[(&str, &str)], others: &[(&str, &str)]) -> Vec<String> {
    let twice = ours.iter().enumerate().filter_map(|(n, (name, secret))| {
        let (other, _) = ours[..n].iter().chain(others).find(|(_, known)| known == secret)?;
        Some(format!(
            "{name} is the same as {other}: whoever has the one has the other, and one leak is two; make another"
        ))
    });
    twice.collect()
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
        let mut meant = Config { profile: Profile::Production, ..Config::default() };
        assert_eq!(meant.waived(), [""; 0]);
        meant.uploads.unscanned = true;
        assert!(meant.notes().iter().any(|note| note.starts_with("uploads.unscanned is true in production")));
        assert_eq!(weak(Profile::Production, &[good, other], &["a key of its own"]), (vec![], vec![]));
        // One for two purposes, though each is strong.
        let (weak_ones, shared) = weak(Profile::Production, &[good, other], &[good]);
        assert_eq!((weak_ones.len(), shared.len()), (0, 1), "{shared:?}");
        assert!(shared[0].starts_with("origin.keys.cloudflare is the same as origin.keys.bunny"), "{shared:?}");
        assert_eq!(weak(Profile::Dev, &[good], &[good]).1, [""; 0]);
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
}
