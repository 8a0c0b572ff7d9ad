//! The settings of the database, the workers, the control API and its callbacks.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::base::{hex, redact};

/// The database.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Database {
    /// `postgres://user:password@host:5432/database`; `DATABASE_URL` sets it too. Unset: the embedded one,
    /// `segue.db` in the data directory, for one machine.
    pub url: Option<String>,
    /// Connections open at most, by each process.
    pub connections_max: u32,
    /// Statements are prepared once in each session of PostgreSQL: where nothing stands between, or what gives a client one
    /// session for all. PgBouncer in transaction mode needs `false`.
    pub prepared_statements: bool,
}

/// The pool that transcodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Worker {
    /// Cores that transcodes may occupy together. 0: all with `--role worker`, else half, so that listeners
    /// come first.
    pub cores: u32,
    /// Bytes of memory that transcodes may occupy together.
    pub memory_bytes: u64,
    /// Seconds after which a worker that was not heard of has lost its job.
    pub lease_s: u64,
    /// Seconds that a transcode may stand still.
    pub stall_s: u64,
    /// Milliseconds between two looks of an idle pool into the queue.
    pub poll_ms: u64,
    /// Failed attempts that make a job dead. Inputs that are refused are dead at once.
    pub failures_max: u32,
    /// Seconds until a job that failed is tried again; doubled after each failure, up to an hour.
    pub backoff_s: u64,
    /// Days that jobs which ended are remembered.
    pub keep_days: u64,
}

/// The control API.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Api {
    /// Who may use it. None: nobody, it answers 503.
    pub keys: Vec<ApiKey>,
    /// Directories whose files may be transcoded over the API. None: no file may.
    pub source_dirs: Vec<PathBuf>,
    /// Beginnings of keys of the store's bucket, such as `incoming/`, whose objects may be. None: no object may.
    pub source_keys: Vec<String>,
}

/// One key of the control API, made by `segue key create`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKey {
    /// Whose it is; stands in jobs and logs.
    pub id: String,
    /// SHA-256 of the key, hexadecimal: the key itself is nowhere.
    pub sha256: String,
}

/// Signed callbacks about jobs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Callbacks {
    /// Secrets that sign them, newest first, at most two: both sign, so that one can be replaced.
    pub secrets: Vec<String>,
    /// Hosts, as `host` or `host:port`, that they may go to although their address is private. Others must
    /// have public addresses.
    pub private_hosts: Vec<String>,
}

impl Default for Database {
    fn default() -> Database {
        Database { url: None, connections_max: 10, prepared_statements: false }
    }
}

impl Default for Worker {
    fn default() -> Worker {
        Worker {
            cores: 0,
            memory_bytes: 4 << 30,
            lease_s: 60,
            stall_s: 180,
            poll_ms: 1_000,
            failures_max: 5,
            backoff_s: 10,
            keep_days: 30,
        }
    }
}

impl Database {
    /// The URL for people: without what is secret in it.
    pub(super) fn mask(&mut self) {
        if let Some(url) = &mut self.url {
            *url = redact::text(url).into_owned();
        }
    }

    pub(super) fn problems(&self) -> Vec<String> {
        let known = |url: &str| url.starts_with("postgres://") || url.starts_with("postgresql://");
        let mut problems = Vec::new();
        if self.url.as_deref().is_some_and(|url| !known(url)) {
            problems.push(
                "database.url (DATABASE_URL) is not a postgres:// URL: nothing could be kept; unset it for the embedded \
                 database, or set postgres://user:password@host:5432/database"
                    .to_owned(),
            );
        }
        if self.connections_max == 0 || self.connections_max > 1_000 {
            problems.push("database.connections_max is not in 1 to 1000: nothing could be asked, or the server would refuse; set it to 10".to_owned());
        }
        problems
    }
}

impl Worker {
    pub(super) fn problems(&self) -> Vec<String> {
        let ranges = [
            ("lease_s", self.lease_s, 3, 3_600, "jobs would be taken from workers that live, or never from dead ones"),
            ("stall_s", self.stall_s, 1, 86_400, "slow transcodes would be stopped, or ones that hang would not"),
            ("poll_ms", self.poll_ms, 10, 600_000, "the database would only be asked for work, or work would wait"),
            ("failures_max", u64::from(self.failures_max), 1, 100, "no job would run, or a broken one for days"),
            ("backoff_s", self.backoff_s, 1, 3_600, "what is broken would be tried without a pause, or hardly ever"),
            ("keep_days", self.keep_days, 1, 36_500, "a result could vanish before anybody asks for it"),
        ];
        let wrong = ranges.into_iter().filter(|(_, value, least, most, _)| !(*least..=*most).contains(value));
        wrong
            .map(|(name, value, least, most, so)| {
                format!("worker.{name} is {value}: {so}; set it to {least} up to {most}")
            })
            .collect()
    }
}

impl Api {
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for key in &self.keys {
            let named = !key.id.is_empty() && key.id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
            if !named || key.id.len() > 64 {
                problems.push(format!(
                    "api.keys has the id {:?}: nobody could tell whose jobs are whose; use letters, digits, _ - .",
                    key.id
                ));
            }
            if hex::decode::<32>(key.sha256.as_bytes()).is_none() {
                problems.push(format!(
                    "api.keys {:?} has no SHA-256 in hexadecimal: nobody could use the key; `segue key create` prints one",
                    key.id
                ));
            }
        }
        for (n, key) in self.keys.iter().enumerate() {
            if self.keys[..n].iter().any(|other| other.sha256 == key.sha256) {
                problems
                    .push(format!("api.keys {:?} is listed twice: its owner would be in doubt; remove one", key.id));
            }
        }
        for dir in self.source_dirs.iter().filter(|dir| !dir.is_absolute()) {
            problems.push(format!(
                "api.source_dirs has {}: what it means depends on where the server was started; give an absolute path",
                dir.display()
            ));
        }
        if self.source_keys.iter().any(String::is_empty) {
            problems.push(
                "api.source_keys has an empty one: every object of the bucket begins like that; name a directory, incoming/"
                    .to_owned(),
            );
        }
        problems
    }
}

impl Callbacks {
    pub(super) fn mask(&mut self) {
        for secret in &mut self.secrets {
            *secret = "(hidden)".into();
        }
    }

    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.secrets.iter().any(|secret| secret.trim().len() < 16) {
            problems.push(
                "callbacks.secrets has one of fewer than 16 characters: it could be guessed; use 32 random ones"
                    .to_owned(),
            );
        }
        if self.secrets.len() > 2 {
            problems.push(
                "callbacks.secrets has more than two: one signs, one is on its way out; remove the others".to_owned(),
            );
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrong_setting_is_named_with_its_consequence() {
        let check = |problems: Vec<String>, word: &str| {
            assert!(problems.len() == 1 && problems[0].contains(word) && problems[0].contains(": "), "{problems:?}");
        };
        check(Database { url: Some("mysql://x".into()), ..Database::default() }.problems(), "database.url");
        check(Database { connections_max: 0, ..Database::default() }.problems(), "database.connections_max");
        check(Worker { lease_s: 0, ..Worker::default() }.problems(), "worker.lease_s");
        check(Worker { failures_max: 0, ..Worker::default() }.problems(), "worker.failures_max");
        let key = |id: &str, sha256: &str| ApiKey { id: id.into(), sha256: sha256.into() };
        let api = |keys: Vec<ApiKey>| Api { keys, ..Api::default() };
        check(api(vec![key("ci", "x")]).problems(), "SHA-256");
        check(api(vec![key("", &"0".repeat(64))]).problems(), "the id");
        check(api(vec![key("a", &"0".repeat(64)), key("b", &"0".repeat(64))]).problems(), "twice");
        check(Api { source_dirs: vec!["in".into()], ..Api::default() }.problems(), "api.source_dirs");
        check(Api { source_keys: vec![String::new()], ..Api::default() }.problems(), "api.source_keys");
        check(Callbacks { secrets: vec!["short".into()], ..Callbacks::default() }.problems(), "callbacks.secrets");
        for fine in [Database::default().problems(), Worker::default().problems(), Api::default().problems()] {
            assert!(fine.is_empty(), "{fine:?}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        let url = Some("postgres://me:hush-hush@db/segue".into());
        let mut database = Database { url, ..Database::default() };
        database.mask();
        assert!(!database.url.unwrap().contains("hush"));
    }
}
