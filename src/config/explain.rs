//! Says what is wrong with settings: where, which key, what to do. In: a tree or the text of a file. Out:
//! one sentence for each wrong key.
//!
//! Each key is read alone into the typed tree: a merged tree cannot say which one is wrong. What a key may be
//! is asked of the same types, so that there is no second list.

use std::fmt;

use toml::de::DeTable;
use toml::{Table, Value};

use super::Config;
use crate::base::{Error, Result};

/// Sentences in one line at most; who has more wrong has another kind of file.
const WRONGS_MAX: usize = 5;

/// A key that cannot be used, and why. Shows as a sentence without a place.
#[derive(Debug)]
pub(super) struct Wrong {
    path: Vec<String>,
    /// serde's own sentence; ours is made only for those that are shown.
    message: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.path.join("."), why(&self.path, &self.message))
    }
}

/// Reads the text of a configuration file: the keys that can be used, and a sentence with its line for each that cannot.
///
/// # Errors
/// `Usage` naming the line of what is no TOML.
pub(super) fn decode(text: &str, name: &str) -> Result<(Table, Vec<String>)> {
    let line = |at: usize| 1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count();
    let (mut tree, places) = match (text.parse::<Table>(), DeTable::parse(text)) {
        (Ok(tree), Ok(places)) => (tree, places.into_inner()),
        (Err(cause), _) | (_, Err(cause)) => {
            let at = cause.span().map_or(1, |span| line(span.start));
            let what = cause.message().replace('\n', " ");
            return Err(Error::usage(format!("{name}:{at}: {what}; correct it, the format is TOML")));
        }
    };
    let wrongs = wrongs(&tree);
    wrongs.iter().for_each(|wrong| remove(&mut tree, &wrong.path));
    let at = |wrong: &Wrong| format!("{name}:{}: {wrong}", line(place(&places, &wrong.path)));
    let mut sentences: Vec<String> = wrongs.iter().take(WRONGS_MAX).map(at).collect();
    if let Some(more @ 1..) = wrongs.len().checked_sub(WRONGS_MAX) {
        sentences.push(format!("and {more} more keys"));
    }
    Ok((tree, sentences))
}

fn remove(table: &mut Table, path: &[String]) {
    match path {
        [] => {}
        [key] => _ = table.remove(key),
        [section, rest @ ..] => {
            if let Some(Value::Table(inner)) = table.get_mut(section) {
                remove(inner, rest);
            }
        }
    }
}

/// Where the last component of a key stands in the text, in bytes.
fn place(places: &DeTable<'_>, path: &[String]) -> usize {
    let Some((first, rest)) = path.split_first() else { return 0 };
    let Some((key, value)) = places.iter().find(|(key, _)| key.get_ref() == first) else { return 0 };
    match value.get_ref().as_table() {
        Some(inner) if !rest.is_empty() => place(inner, rest).max(key.span().start),
        _ => key.span().start,
    }
}

/// Everything in a tree that cannot be used.
pub(super) fn wrongs(tree: &Table) -> Vec<Wrong> {
    let mut wrongs = Vec::new();
    look(tree, &mut Vec::new(), &mut wrongs);
    wrongs
}

fn look(table: &Table, path: &mut Vec<String>, wrongs: &mut Vec<Wrong>) {
    for (key, value) in table {
        path.push(key.clone());
        match value {
            Value::Table(inner) if is_section(path) => look(inner, path, wrongs),
            _ => {
                if let Err(cause) = read_alone(path, value.clone()) {
                    wrongs.push(Wrong { path: path.clone(), message: cause.message().to_owned() });
                }
            }
        }
        path.pop();
    }
}

/// A tree with one key, as settings.
fn read_alone(path: &[String], value: Value) -> std::result::Result<Config, toml::de::Error> {
    let nest = |inner: Value, key: &String| Value::Table([(key.clone(), inner)].into_iter().collect());
    path.iter().rev().fold(value, nest).try_into()
}

/// Whether there is such a key, whatever its value.
pub(super) fn is_known(path: &[String]) -> bool {
    // Hardly any key takes a date; serde then says that it wants something else, or that there is no such key.
    let date = Value::Datetime("1970-01-01".parse().expect("a date"));
    let unknown = |message: &str| path.iter().any(|part| is_unknown(message, part));
    !is_section(path) && read_alone(path, date).err().is_none_or(|cause| !unknown(cause.message()))
}

/// Whether a key takes such a value.
pub(super) fn takes(path: &[String], value: &Value) -> bool {
    read_alone(path, value.clone()).is_ok()
}

/// A key that no section has.
const PROBE: &str = "?";

fn is_section(path: &[String]) -> bool {
    let inner = [path, &[PROBE.to_owned()]].concat();
    read_alone(&inner, true.into()).is_err_and(|cause| is_unknown(cause.message(), PROBE))
}

/// serde's sentence for a field that a struct has not, which lists those that it has.
fn is_unknown(message: &str, key: &str) -> bool {
    message.strip_prefix("unknown field `").is_some_and(|rest| rest.starts_with(&format!("{key}`")))
}

/// The words in backticks after the first.
fn listed(message: &str) -> impl Iterator<Item = &str> {
    message.split('`').skip(3).step_by(2)
}

/// Every section and every key that there is, as `section.key`.
fn known_keys(path: &mut Vec<String>, keys: &mut Vec<String>) {
    path.push(PROBE.to_owned());
    let asked = read_alone(path, true.into());
    path.pop();
    let message = asked.err().map(|cause| cause.message().to_owned()).unwrap_or_default();
    if !is_unknown(&message, PROBE) {
        return keys.push(path.join("."));
    }
    if !path.is_empty() {
        keys.push(path.join("."));
    }
    for key in listed(&message) {
        path.push(key.to_owned());
        known_keys(path, keys);
        path.pop();
    }
}

/// Why a key cannot be used, and what to do.
fn why(path: &[String], message: &str) -> String {
    const ALL: &str = "docs/CONFIG.md lists all keys";
    let last = path.last().map(String::as_str).unwrap_or_default();
    if is_unknown(message, last) {
        return match nearest(&path.join(".")) {
            Some(near) => format!("is no setting, did you mean {near}? {ALL}"),
            None => format!("is no setting; {ALL}"),
        };
    }
    // Whoever forgot the brackets around a key shall not find it in a log.
    let secret = path.iter().any(|part| {
        part == "keys"
            || part.contains("secret")
            || part.ends_with("_key")
            || (part.ends_with("_token") && part != "require_token")
            || part == "smtp"
    });
    let wanted = match message.rsplit_once(", expected ") {
        Some((_, wanted)) if secret => format!("must be {}", in_words(wanted)),
        None if secret && !message.starts_with("missing field") => "cannot be read".to_owned(),
        Some((found, wanted)) => format!("must be {}, not {}", in_words(wanted), found_value(found)),
        None if message.contains("socket address") => "must be an address and a port: \"127.0.0.1:8080\"".to_owned(),
        None => format!("cannot be read: {message}"),
    };
    format!("{}; correct it, {ALL}", wanted.replace('\n', " "))
}

fn in_words(wanted: &str) -> &str {
    match wanted {
        "u16" | "u32" | "u64" | "usize" => "a whole number from 0",
        "f64" => "a number",
        "a sequence" => "a list: [\"…\"]",
        "path string" => "a path in quotes",
        "a string" => "a text in quotes",
        "a boolean" => "true or false",
        _ if wanted.starts_with("struct ") => "a section of keys",
        _ => wanted.strip_prefix("one of ").unwrap_or(wanted),
    }
}

/// The value in serde's sentence: `invalid type: string "x"` is `string "x"`.
fn found_value(found: &str) -> &str {
    let kinds = ["invalid type: ", "invalid value: ", "unknown variant "];
    kinds.iter().find_map(|kind| found.strip_prefix(kind)).unwrap_or(found)
}

/// The known key that looks most like this one, if any does.
fn nearest(path: &str) -> Option<String> {
    let mut keys = Vec::new();
    known_keys(&mut Vec::new(), &mut keys);
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    // A key in the wrong section is as near as one with a letter wrong.
    let likeness = |key: &String| {
        let whole = strsim::jaro_winkler(path, key);
        let end = strsim::jaro_winkler(&last(path), &last(key));
        // Two keys of one section are not alike because of its name.
        let like = if path.contains('.') { end } else { whole.max(end) };
        like + whole / 100.0
    };
    // A section is no help to whoever named a key in it.
    keys.retain(|key| !path.starts_with(&format!("{key}.")));
    let best = keys.into_iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(&best) > 0.85).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, said: &[&str]) -> String {
        let line = decode(text, "segue.toml").map_or_else(|error| error.chain(), |(_, wrongs)| wrongs.join("; "));
        for words in said {
            assert!(line.contains(words), "{text:?} does not say {words:?}: {line}");
        }
        assert!(!line.contains('\n'), "{line}");
        line
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_nearest_that_there_is() {
        check(
            "[origin]\nrequire_token = true\nrequire_tokn = 1\n",
            &["segue.toml:3: origin.require_tokn is no setting, did you mean origin.require_token?"],
        );
        check("listen = \"127.0.0.1:1\"\n", &["segue.toml:1: listen is no setting, did you mean server.listen?"]);
        check("[origin]\nlisten = 1\n", &["segue.toml:2: origin.listen", "did you mean server.listen?"]);
        check("[sever]\nlisten = 1\n", &["segue.toml:1: sever is no setting, did you mean"]);
        check("xyzzy = 1\n", &["segue.toml:1: xyzzy is no setting; docs/CONFIG.md lists all keys"]);
        check("[origin.keys]\nbuny = []\n", &["segue.toml:2: origin.keys.buny", "did you mean origin.keys.bunny?"]);
        check("origin.require_tokn = 1\n", &["segue.toml:1: origin.require_tokn is no setting"]);
    }

    #[test]
    fn a_wrong_value_is_named_with_what_it_must_be() {
        check("[server]\n\nidle_timeout_s = \"x\"\n", &["segue.toml:3: server.idle_timeout_s must be a whole number"]);
        check("[server]\nidle_timeout_s = -1\n", &["server.idle_timeout_s must be a whole number from 0, not integer"]);
        check("[server]\nlisten = \"nowhere\"\n", &["segue.toml:2: server.listen must be an address and a port"]);
        check(
            "[origin]\ncdn = \"akamai\"\n",
            &["origin.cdn must be `bunny`, `cloudfront`, `cloudflare`, not `akamai`"],
        );
        check("server = 1\n", &["segue.toml:1: server must be a section of keys"]);
        check("profile = true\n[server]\nio = 1\n", &["segue.toml:1: profile", "; segue.toml:3: server.io"]);
        check("[server\n", &["segue.toml:1: ", "the format is TOML"]);
        check("a = 1\nb = 1\nc = 1\nd = 1\ne = 1\nf = 1\ng = 1\n", &["and 2 more keys"]);
    }

    #[test]
    fn a_secret_in_the_wrong_form_is_not_repeated() {
        for text in [
            "[origin.keys]\nbunny = \"hush\"\n",
            "[origin]\nsecret_header = \"hush\"\n",
            "[origin.keys]\ncloudfront = [{ id = \"hush\" }]\n",
        ] {
            assert!(!check(text, &["origin."]).contains("hush"));
        }
        check("[origin.keys]\nbunny = \"hush\"\n", &["segue.toml:2: origin.keys.bunny must be a list"]);
    }

    #[test]
    fn every_key_is_known() {
        let mut keys = Vec::new();
        known_keys(&mut Vec::new(), &mut keys);
        for key in ["data", "server.tls_listen", "origin.keys.cloudfront", "telemetry.hit_ratio"] {
            assert!(keys.iter().any(|known| known == key), "{key} of {keys:?}");
        }
    }
}
