//! Settings in files: `SEGUE_SECTION__KEY_FILE=path` is `SEGUE_SECTION__KEY` with what the file holds, as the images of
//! databases have it. For secrets, which a container's runtime mounts: an environment is seen by every child and dump.
//!
//! A file holds the bare text of a text, a text a line of a list, and TOML for everything else.

use std::path::Path;

use toml::Value;

use super::{FILE_BYTES_MAX, explain};
use crate::base::text;

const SUFFIX: &str = "_FILE";

/// A variable as it counts.
pub(super) struct Variable {
    /// What the operator set, for messages.
    pub(super) said: String,
    /// What is meant by it.
    pub(super) name: String,
    /// Its text.
    pub(super) value: String,
    /// The value, where the text is not to be read as TOML.
    pub(super) exact: Option<Value>,
}

/// Reads the files that variables name, and says which cannot be used.
pub(super) fn resolved(variables: &[(String, String)]) -> (Vec<Variable>, Vec<String>) {
    let mut wrongs = Vec::new();
    let mut found = Vec::new();
    for (said, value) in variables {
        let Some((name, path)) = meant(said) else {
            found.push(Variable { said: said.clone(), name: said.clone(), value: value.clone(), exact: None });
            continue;
        };
        if variables.iter().any(|(other, _)| *other == name) {
            wrongs
                .push(format!("the variables {name} and {said} are both set: nobody can say which counts; unset one"));
            continue;
        }
        match text::read(Path::new(value), FILE_BYTES_MAX) {
            Err(cause) => wrongs.push(format!(
                "the variable {said} is wrong: {value} cannot be read: {cause}; name a file that this user may read"
            )),
            Ok(text) => {
                let value = text.trim_end_matches(['\n', '\r']).to_owned();
                let exact = typed(&path, &value);
                found.push(Variable { said: said.clone(), name, value, exact });
            }
        }
    }
    (found, wrongs)
}

/// The variable that a `…_FILE` stands for, and its key; `None` for keys that are themselves named so.
fn meant(said: &str) -> Option<(String, Vec<String>)> {
    let name = said.strip_suffix(SUFFIX)?;
    if name == "DATABASE_URL" {
        return Some((name.to_owned(), vec!["database".into(), "url".into()]));
    }
    let key = |name: &str| -> Option<Vec<String>> {
        Some(name.strip_prefix("SEGUE_")?.to_ascii_lowercase().split("__").map(str::to_owned).collect())
    };
    let path = key(name)?;
    (!explain::is_known(&key(said)?) && explain::is_known(&path)).then(|| (name.to_owned(), path))
}

/// The text as the key wants it; `None` when it has to be read as TOML.
fn typed(path: &[String], text: &str) -> Option<Value> {
    let whole = Value::String(text.to_owned());
    if explain::takes(path, &whole) {
        return Some(whole);
    }
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let list = Value::Array(lines.map(|line| Value::String(line.to_owned())).collect());
    (!text.trim_start().starts_with('[') && explain::takes(path, &list)).then_some(list)
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    fn load(pairs: &[(&str, &str)]) -> Result<Config, String> {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::layered(None, pairs).map_err(|error| error.chain())
    }

    #[test]
    fn what_a_file_holds_counts_as_if_the_variable_held_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = |text: &str| {
            let path = dir.path().join(format!("{}", text.len()));
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let config = load(&[
            ("SEGUE_ORIGIN__KEYS__BUNNY_FILE", &file("new key with = and \"\n old\n")),
            ("SEGUE_ORIGIN__KEYS__CLOUDFLARE_FILE", &file("[\"a\", \"b\"]")),
            ("SEGUE_STORE__S3__SECRET_KEY_FILE", &file("12345\r\n")),
            ("SEGUE_SERVER__DRAIN_S_FILE", &file("7\n")),
            ("DATABASE_URL_FILE", &file("postgres://u:p@db/segue")),
        ])
        .unwrap();
        assert_eq!(config.origin.keys.bunny, ["new key with = and \"", "old"]);
        assert_eq!(config.origin.keys.cloudflare, ["a", "b"]);
        assert_eq!(config.store.s3.secret_key, "12345", "digits are a text where a text is wanted");
        assert_eq!(config.server.drain_s, 7);
        assert_eq!(config.database.url.as_deref(), Some("postgres://u:p@db/segue"));
    }

    #[test]
    fn keys_that_are_named_so_keep_their_meaning() {
        let config = load(&[("SEGUE_STORE__S3__CREDENTIALS_FILE", "/nowhere/credentials")]).unwrap();
        assert_eq!(config.store.s3.credentials_file.as_deref(), Some(Path::new("/nowhere/credentials")));
        assert!(load(&[("SEGUE_SOURCES__CA_FILE", "/nowhere/ca.pem")]).unwrap().sources.ca_file.is_some());
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named_with_its_variable_and_what_it_holds_is_not_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hush");
        let check = |name: &str, said: &[&str]| {
            let line = load(&[(name, path.to_str().unwrap())]).unwrap_err();
            assert!(said.iter().all(|words| line.contains(words)) && !line.contains("hush-hush"), "{line}");
        };
        check(
            "SEGUE_ORIGIN__KEYS__BUNNY_FILE",
            &["the variable SEGUE_ORIGIN__KEYS__BUNNY_FILE is wrong", "cannot be read"],
        );
        std::fs::write(&path, "hush-hush").unwrap();
        check("SEGUE_API__KEYS_FILE", &["the variable SEGUE_API__KEYS_FILE is wrong", "api.keys"]);
        check("SEGUE_ORIGIN__KEYS__BUNY_FILE", &["SEGUE_ORIGIN__KEYS__BUNY_FILE", "is no setting"]);
        let both = [("SEGUE_DATA", "x"), ("SEGUE_DATA_FILE", path.to_str().unwrap())];
        assert!(load(&both).unwrap_err().contains("SEGUE_DATA and SEGUE_DATA_FILE are both set"));
    }
}
