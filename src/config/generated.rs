//! Secrets that the dev profile makes for itself, in the data directory, readable by its owner only.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::FILE_BYTES_MAX;
use crate::base::error::Context as _;
use crate::base::secret::Secret;
use crate::base::{Error, Result, held, hex, text};

/// Names of generated secrets; `.key` stands behind each.
pub(super) const BUNNY_KEY: &str = "bunny";
/// The secret of accounts.
pub(super) const AUTH_KEY: &str = "auth";

pub(super) fn generated_key_path(data: &Path, name: &str) -> PathBuf {
    data.join("secrets").join(format!("{name}.key"))
}

/// Reads the generated key, making it when it is missing. Two processes that start together agree:
/// the file is written beside and linked into place, and the loser of the race reads the winner's.
pub(super) fn generated_key(data: &Path, name: &str) -> Result<Secret> {
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
    use super::super::{Config, Keys, Origin};
    use super::*;

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
