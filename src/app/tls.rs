//! The certificate of the TLS listener: read at start, and again when it changes. In: two files. Out: what
//! the listener shows, and a gauge that says until when.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use super::refuse_taken;
use crate::base::clock::Clock;
use crate::base::{Error, Result, telemetry};
use crate::config::Server;
use crate::server::tls::{Certificate, Reload};

/// How often the files are looked at: two `stat` calls.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// From when on an old certificate is complained about; ACME clients renew thirty days before.
const EXPIRES_SOON_S: u64 = 14 * 24 * 3600;

/// The certificate, when there is to be a TLS listener.
///
/// # Errors
/// `Usage` when the files cannot be used; `Internal` when the port is taken.
pub(super) fn load(settings: &Server) -> Result<Option<Arc<Certificate>>> {
    let (Some(listen), Some(chain), Some(key)) = (settings.tls_listen, &settings.tls_cert, &settings.tls_key) else {
        return Ok(None); // the configuration was checked: all three or none
    };
    refuse_taken(listen, "server.tls_listen")?;
    let certificate = read(chain, key)?;
    show(&certificate);
    Ok(Some(certificate))
}

/// Whether the files of the TLS listener, if there is one, can be used.
///
/// # Errors
/// `Usage`, as at start.
pub fn look_at_certificate(settings: &Server) -> Result<()> {
    match (settings.tls_listen, &settings.tls_cert, &settings.tls_key) {
        (Some(_), Some(chain), Some(key)) => read(chain, key).map(drop),
        _ => Ok(()),
    }
}

fn read(chain: &Path, key: &Path) -> Result<Arc<Certificate>> {
    for (name, path) in [("server.tls_cert", chain), ("server.tls_key", key)] {
        // Opening a named pipe would wait for its other end.
        if std::fs::metadata(path).is_ok_and(|about| !about.is_file()) {
            let path = path.display();
            return Err(Error::usage(format!("{name} cannot be used: {path} is not a regular file; give a PEM file")));
        }
    }
    Certificate::load(chain, key)
}

/// Serves a new certificate as soon as there is one, on SIGHUP at once. Never ends; a certificate that cannot
/// be used leaves the old one in place.
pub(super) async fn keep_fresh(certificate: Arc<Certificate>) {
    let mut hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => hangup,
        Err(cause) => return tracing::error!(%cause, "cannot listen for SIGHUP: the certificate is not reloaded"),
    };
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let asked = tokio::select! {
            _ = looks.tick() => false,
            _ = hangup.recv() => true,
        };
        let reloading = certificate.clone();
        // Two small files, but a disk may be slow.
        let reloaded = tokio::task::spawn_blocking(move || reloading.reload(asked)).await;
        let Ok(reloaded) = reloaded else { continue }; // stopping
        match reloaded {
            Ok(Reload::Unchanged) => {}
            Ok(Reload::Changed) => {
                metrics::counter!(telemetry::TLS_RELOADS, "outcome" => "changed").increment(1);
                tracing::info!("the certificate was read again; new connections get it");
                show(&certificate);
            }
            Err(error) => {
                metrics::counter!(telemetry::TLS_RELOADS, "outcome" => "failed").increment(1);
                tracing::error!(
                    error = error.chain(),
                    "the new certificate cannot be used, the old one is served on; put a chain and its key in place"
                );
            }
        }
    }
}

/// Says until when the certificate is good, loudly when that is soon or past.
fn show(certificate: &Certificate) {
    let Some(not_after_s) = certificate.not_after_unix_s() else { return };
    metrics::gauge!(telemetry::TLS_NOT_AFTER).set(not_after_s as f64);
    let now_s = Clock::System.unix_s();
    if not_after_s < now_s {
        tracing::error!(not_after_s, "the certificate has expired: clients refuse it; renew it");
    } else if not_after_s - now_s < EXPIRES_SOON_S {
        tracing::warn!(
            not_after_s,
            days_left = (not_after_s - now_s) / 86_400,
            "the certificate expires soon; renew it"
        );
    }
}
