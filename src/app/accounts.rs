//! What the routes of accounts need, from settings.

use std::sync::Arc;
use std::time::Duration;

use crate::api::accounts::{Accounts, Options};
use crate::api::limiter::Limiter;
use crate::auth::access_token::AccessTokens;
use crate::auth::password::Passwords;
use crate::auth::principal::Role;
use crate::auth::ring::Ring;
use crate::base::Result;
use crate::base::clock::Clock;
use crate::base::secret::Secret;
use crate::config::{Config, NewRole};
use crate::db::Db;
use crate::intake::Intake;
use crate::people::People;
use crate::providers::mail;
use crate::providers::oidc::{Provider, Providers};
use crate::store::Store;

/// Passwords that may wait to be checked; more are told to come back.
const PASSWORDS_WAITING_MAX: usize = 64;

/// Accounts, unless the settings say that there are none. `base_url` is what links begin with.
///
/// # Errors
/// When the generated secret cannot be kept.
pub(super) fn open(
    config: &Config,
    db: &Db,
    limiter: &Arc<Limiter>,
    base_url: String,
) -> Result<Option<Arc<Accounts>>> {
    let settings = &config.auth;
    if !settings.accounts {
        return Ok(None);
    }
    let ring = Ring::new(config.auth_secrets()?)?;
    let provider = |provider: &crate::config::Provider| Provider {
        name: provider.name.clone(),
        issuer: provider.issuer.clone(),
        client_id: provider.client_id.clone(),
        client_secret: Secret::new(provider.client_secret.as_bytes()),
        scopes: provider.scopes.clone(),
    };
    // Every node has to say the same, and an address of one node is none of another's.
    let issuer = config.server.public_base_url.as_deref().unwrap_or("segue");
    Ok(Some(Arc::new(Accounts {
        db: db.clone(),
        passwords: Passwords::new(settings.passwords_at_once, PASSWORDS_WAITING_MAX),
        tokens: AccessTokens::new(&ring, issuer, settings.access_token_s),
        ring,
        limiter: Arc::clone(limiter),
        providers: Providers::new(settings.providers.iter().map(provider).collect()),
        clock: Clock::Service,
        options: Options {
            registration: settings.registration,
            new_role: match settings.new_role {
                NewRole::Listener => Role::Listener,
                NewRole::Creator => Role::Creator,
            },
            session_idle: Duration::from_secs(settings.session_idle_s),
            session_max: Duration::from_secs(settings.session_max_s),
            return_to: settings.return_to.clone(),
            base_url,
            recovery: Duration::from_secs(settings.recovery_s),
        },
    })))
}

/// What makes archives of accounts, and forgets them.
pub(super) fn people(config: &Config, (db, store, intake): (&Db, &Store, &Arc<Intake>)) -> People {
    let parts = (db.clone(), store.clone(), Arc::clone(intake));
    People::new(parts, config.cdn.provider.is_some(), Clock::Service)
}

/// Who sends mail, if there are accounts.
///
/// # Errors
/// `Usage` for settings of mail that cannot be used.
pub(super) fn mail(config: &Config, base_url: &str) -> Result<Option<mail::Sender>> {
    if !config.auth.accounts {
        return Ok(None);
    }
    let settings = &config.mail;
    let options = mail::Options {
        smtp: settings.smtp.clone(),
        from: settings.from.clone(),
        base_url: base_url.to_owned(),
        poll: Duration::from_millis(settings.poll_ms),
    };
    mail::Sender::new(options).map(Some)
}
