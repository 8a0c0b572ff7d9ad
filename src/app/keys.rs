//! The keys that tokens are signed with: read at start, and again when the settings or their files change. In: settings,
//! read anew. Out: what the origin verifies with and playback URLs are signed with, replaced at once for new requests.
//!
//! Only these keys: everything else in the settings counts at the next start.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use super::{signer, verifier};
use crate::base::error::Context as _;
use crate::base::{Result, telemetry};
use crate::cdn::playback::Links;
use crate::config::Config;
use crate::origin::Origin;

/// How often the settings are read again: a file or two, less than a millisecond.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Reads the settings as the process did when it started: flags, environment, files.
pub type Reload = Box<dyn Fn() -> Result<Config> + Send + Sync>;

/// Whoever uses the keys.
pub(super) struct Users {
    pub(super) origin: Arc<Origin>,
    /// `None` where nothing is signed.
    pub(super) links: Option<Links>,
}

/// What a look found.
enum Look {
    Same,
    Other(Box<Config>, [u8; 32]),
}

/// Shows both outcomes from the start: a rate needs a zero to begin at.
pub(super) fn show_counters() {
    for outcome in ["changed", "failed"] {
        metrics::counter!(telemetry::KEY_RELOADS, "outcome" => outcome).increment(0);
    }
}

/// Takes new keys as soon as there are some, on SIGHUP at once. Never ends; settings that cannot be used leave the old keys
/// in place. Not joined: it ends with the runtime.
pub(super) async fn keep_fresh(config: Config, reload: Reload, users: Users) {
    let mut hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => hangup,
        Err(cause) => return tracing::error!(%cause, "cannot listen for SIGHUP: signing keys are not reloaded"),
    };
    let mut known = match fingerprint(&config) {
        Ok(known) => known,
        Err(error) => return tracing::error!(error = error.chain(), "signing keys are not reloaded"),
    };
    let reload = Arc::new(reload);
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut complaint = None;
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            _ = hangup.recv() => {}
        }
        let reload = Arc::clone(&reload);
        let looked = tokio::task::spawn_blocking(move || look(&reload, known)).await;
        let Ok(looked) = looked else { continue }; // stopping
        match looked.and_then(|look| take(look, &users)) {
            Ok(None) => complaint = None,
            Ok(Some(fingerprint)) => {
                (known, complaint) = (fingerprint, None);
                metrics::counter!(telemetry::KEY_RELOADS, "outcome" => "changed").increment(1);
                tracing::info!("signing keys were read again; new requests use them");
            }
            // Said and counted once, not every few seconds.
            Err(error) => {
                let words = Some(error.chain());
                if words != complaint {
                    metrics::counter!(telemetry::KEY_RELOADS, "outcome" => "failed").increment(1);
                    tracing::error!(
                        error = words,
                        "the settings cannot be used, the old signing keys stay; correct them"
                    );
                    complaint = words;
                }
            }
        }
    }
}

fn look(reload: &Reload, known: [u8; 32]) -> Result<Look> {
    let config = reload()?.checked()?;
    let found = fingerprint(&config)?;
    Ok(if found == known { Look::Same } else { Look::Other(Box::new(config), found) })
}

fn take(look: Look, users: &Users) -> Result<Option<[u8; 32]>> {
    let Look::Other(config, found) = look else { return Ok(None) };
    let verifier = verifier(&config)?;
    if let Some(links) = &users.links {
        let signer = if config.origin.require_token { Some(signer(&config)?) } else { None };
        links.replace_signer(signer);
    }
    users.origin.replace_verifier(verifier);
    Ok(Some(found))
}

/// Tells two sets of keys apart, those in files included.
fn fingerprint(config: &Config) -> Result<[u8; 32]> {
    let keys = &config.origin.keys;
    let mut hash = Sha256::new();
    let mut part = |name: &str, bytes: &[u8]| {
        hash.update(name);
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    config.bunny_keys()?.iter().for_each(|key| part("bunny", key.expose()));
    keys.bunny_legacy.iter().for_each(|scheme| part("legacy", scheme.as_bytes()));
    keys.cloudflare.iter().for_each(|key| part("cloudflare", key.as_bytes()));
    for pair in &keys.cloudfront {
        part("id", pair.id.as_bytes());
        let pem = std::fs::read(&pair.key_file);
        part("pem", &pem.context(|| format!("cannot read {}", pair.key_file.display()))?);
    }
    Ok(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_keys_are_told_apart_by_what_and_where_they_hold_it() {
        let with = |bunny: &[&str], cloudflare: &[&str]| {
            let mut config = Config::default();
            config.origin.keys.bunny = bunny.iter().map(|key| (*key).to_owned()).collect();
            config.origin.keys.cloudflare = cloudflare.iter().map(|key| (*key).to_owned()).collect();
            fingerprint(&config).unwrap()
        };
        let one = with(&["a", "b"], &[]);
        assert_eq!(one, with(&["a", "b"], &[]));
        for other in [with(&["b", "a"], &[]), with(&["ab"], &[]), with(&["a"], &["b"]), with(&["a"], &[])] {
            assert_ne!(one, other);
        }
    }
}
