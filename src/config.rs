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
use crate::base::{Error, Result, hex};

/// Every setting. `docs/CONFIG.md` explains each key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `dev` makes its own secrets; `production` refuses to.
    pub profile: Profile,
    /// Where the embedded default keeps everything: the store and generated secrets.
    pub data: PathBuf,
    /// Listeners, cores, connection limits.
    pub server: Server,
    /// What the media origin serves and to whom.
    pub origin: Origin,
    /// What the transcoder accepts.
    pub transcode: Transcode,
    /// The log.
    pub log: Log,
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
    /// Seconds a client may take to send a request head.
    pub header_timeout_s: u64,
    /// Seconds an idle connection is kept.
    pub idle_timeout_s: u64,
    /// Seconds a client may take none of the bytes waiting for it.
    pub write_stall_timeout_s: u64,
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
    /// Seconds a URL that we sign stays valid.
    pub token_ttl_s: u64,
    /// Threads that serve media, one core each. 0: as many as the machine has.
    pub cores: usize,
    /// Requests in flight at most. Full: 503.
    pub requests_in_flight_max: u64,
    /// Body bytes in flight at most. Full: 503.
    pub bytes_in_flight_max: u64,
    /// Files of published versions kept open at most; a version has one a rung.
    pub files_open_max: u64,
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
}

/// What the transcoder accepts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Transcode {
    /// Longest source in seconds.
    pub duration_s_max: u64,
    /// Largest source in bytes.
    pub input_bytes_max: u64,
}

/// The log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `tracing` filter: `info`, `segue=debug,warn`.
    pub filter: String,
    /// One JSON object a line instead of text.
    pub json: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            profile: Profile::Dev,
            data: "data".into(),
            server: Server::default(),
            origin: Origin::default(),
            transcode: Transcode::default(),
            log: Log::default(),
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
            header_timeout_s: 10,
            idle_timeout_s: 75,
            write_stall_timeout_s: 30,
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
            cores: 0,
            requests_in_flight_max: 16_384,
            bytes_in_flight_max: 8 << 30,
            files_open_max: 8_192,
            blocked_by: None,
            keys: Keys::default(),
        }
    }
}

impl Default for Transcode {
    fn default() -> Transcode {
        Transcode { duration_s_max: 10 * 3600, input_bytes_max: 8 << 30 }
    }
}

impl Default for Log {
    fn default() -> Log {
        Log { filter: "info".into(), json: false }
    }
}

impl Config {
    /// Reads the file, when one is named, and the environment over it.
    ///
    /// # Errors
    /// `Usage` naming the file and line, or the variable, that cannot be read.
    pub fn load(file: Option<&Path>) -> Result<Config> {
        Config::layered(file, std::env::vars())
    }

    fn layered(file: Option<&Path>, variables: impl Iterator<Item = (String, String)>) -> Result<Config> {
        let mut tree = match file {
            None => toml::Table::new(),
            Some(path) => read_file(path)?,
        };
        for (name, value) in variables {
            match name.strip_prefix("SEGUE_") {
                Some(path) => overlay(&mut tree, path, &value),
                None if name == "PORT" => overlay(&mut tree, "SERVER__LISTEN", &format!("0.0.0.0:{value}")),
                None => {}
            }
        }
        tree.try_into().map_err(|cause: toml::de::Error| {
            Error::usage(format!("the configuration cannot be read: {}", cause.message()))
        })
    }

    /// Everything that is wrong with these settings together, each with its consequence and key.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut need = |holds: bool, problem: &str| {
            if !holds {
                problems.push(problem.to_owned());
            }
        };
        let keys = &self.origin.keys.bunny;
        need(
            keys.iter().all(|key| !key.is_empty()),
            "origin.keys.bunny holds an empty key: anyone could sign URLs; remove it or set a real key",
        );
        need(
            keys.len() <= 2,
            "origin.keys.bunny holds more than two keys: one signs, one is on its way out; remove the others",
        );
        need(
            self.profile == Profile::Dev || !self.origin.require_token || !keys.is_empty(),
            "origin.keys.bunny is unset in production: no URL could be verified; set at least one key",
        );
        need(
            matches!(self.server.io.as_str(), "auto" | "uring" | "plain"),
            "server.io is not one of auto, uring, plain; set one of them",
        );
        need(self.server.connections_max > 0, "server.connections_max is 0: nobody could connect; set it above 0");
        let Server { listen, tls_listen, tls_cert, tls_key, .. } = &self.server;
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
            tls_listen.is_none_or(|tls| tls != *listen || tls.port() == 0),
            "server.tls_listen is server.listen: one port cannot be both; choose another port for one of them",
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
        let base = self.server.public_base_url.as_deref();
        need(
            base.is_none_or(is_plain_http_url),
            "server.public_base_url is not a plain http:// or https:// URL: players could not follow it",
        );
        need(
            self.origin.blocked_by.as_deref().is_none_or(is_plain_http_url),
            "origin.blocked_by is not a plain http:// or https:// URL: nobody could follow it",
        );
        problems
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
        for key in &mut shown.origin.keys.bunny {
            *key = "(hidden)".into();
        }
        toml::to_string_pretty(&shown).expect("plain data always serialises")
    }

    /// Directory of the local store.
    pub fn store_dir(&self) -> PathBuf {
        self.data.join("store")
    }

    /// Whether there is a key already, configured or generated by an earlier start.
    pub fn has_bunny_key(&self) -> bool {
        !self.origin.keys.bunny.is_empty() || generated_key_path(&self.data).exists()
    }

    /// The Bunny signing keys, newest first. The dev profile makes one on first use and keeps it in
    /// the data directory, readable by its owner only.
    ///
    /// # Errors
    /// `Usage` when production has none; `Internal` when the generated one cannot be kept.
    pub fn bunny_keys(&self) -> Result<Vec<Secret>> {
        if !self.origin.keys.bunny.is_empty() {
            return Ok(self.origin.keys.bunny.iter().map(|key| Secret::new(key.as_bytes())).collect());
        }
        match self.profile {
            Profile::Production => Err(Error::usage("origin.keys.bunny is unset in production; set at least one key")),
            Profile::Dev => Ok(vec![generated_key(&self.data)?]),
        }
    }
}

/// A URL we can put in front of a path, into a header and into a content security policy.
fn is_plain_http_url(url: &str) -> bool {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    rest.is_some_and(|rest| {
        !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_~:/[]".contains(&b))
    })
}

fn read_file(path: &Path) -> Result<toml::Table> {
    let text = std::fs::read_to_string(path)
        .map_err(|cause| Error::usage(format!("cannot read the configuration {}", path.display())).because(cause))?;
    // Once into the typed tree, only for its errors: they name line and column, a merged tree cannot.
    let at = |cause: toml::de::Error| {
        let line = 1 + cause.span().map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count());
        Error::usage(format!("{}:{line}: {}", path.display(), cause.message().replace('\n', " ")))
    };
    toml::from_str::<Config>(&text).map_err(at)?;
    text.parse().map_err(at)
}

/// Sets `SECTION__KEY` in the tree. The value is read as TOML when it is TOML, else as a string.
fn overlay(tree: &mut toml::Table, path: &str, value: &str) {
    let value = format!("v = {value}")
        .parse::<toml::Table>()
        .ok()
        .and_then(|mut table| table.remove("v"))
        .unwrap_or_else(|| toml::Value::String(value.to_owned()));
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

fn generated_key_path(data: &Path) -> PathBuf {
    data.join("secrets").join("bunny.key")
}

/// Reads the generated key, making it when it is missing. Two processes that start together agree:
/// the file is written beside and linked into place, and the loser of the race reads the winner's.
fn generated_key(data: &Path) -> Result<Secret> {
    let path = generated_key_path(data);
    let dir = path.parent().expect("the key is in a directory");
    let what = || format!("cannot keep the generated signing key {}", path.display());
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).context(what)?;
    if !path.exists() {
        let mut random = [0; 32];
        getrandom::fill(&mut random).expect("the operating system gives random bytes");
        let temporary = dir.join(format!("bunny.{}.tmp", std::process::id()));
        let write = || {
            let mut file =
                std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(hex::encode(&random).as_bytes())?;
            file.sync_all()
        };
        write().context(what)?;
        let linked = std::fs::hard_link(&temporary, &path);
        std::fs::remove_file(&temporary).context(what)?;
        if let Err(cause) = linked
            && cause.kind() != std::io::ErrorKind::AlreadyExists
        {
            return Err(Error::internal(what()).because(cause));
        }
    }
    let key = std::fs::read_to_string(&path).context(what)?;
    match key.trim() {
        "" => Err(Error::usage(format!("the signing key {} is empty; delete it to make a new one", path.display()))),
        key => Ok(Secret::new(key.as_bytes())),
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
        let shown =
            Config { origin: Origin { keys: Keys { bunny: vec!["k1".into()] }, ..Origin::default() }, ..config };
        assert!(!shown.masked().contains("k1"));
    }
}
