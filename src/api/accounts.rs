//! What the routes of accounts share.

use std::time::Duration;

use axum::http::{HeaderMap, StatusCode, header};
use metrics::counter;

use super::limiter::Limiter;
use super::problem::Problem;
use crate::auth::UserId;
use crate::auth::access_token::AccessTokens;
use crate::auth::password::{Password, Passwords, Verdict};
use crate::auth::principal::Role;
use crate::auth::ring::Ring;
use crate::auth::throttle::Limit;
use crate::base::clock::Clock;
use crate::base::{Error, Kind, telemetry};
use crate::db::Db;
use crate::providers::oidc::Providers;

/// What the routes of accounts need.
#[derive(Debug)]
pub struct Accounts {
    /// Where people are.
    pub db: Db,
    /// Hashes and compares, a few at a time.
    pub passwords: Passwords,
    /// Makes and checks access tokens.
    pub tokens: AccessTokens,
    /// Derives keys and seals.
    pub ring: Ring,
    /// Takes from limits.
    pub limiter: std::sync::Arc<Limiter>,
    /// Providers of identities.
    pub providers: Providers,
    /// Now.
    pub clock: Clock,
    /// The rest.
    pub options: Options,
}

/// Settings of accounts.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether strangers may register.
    pub registration: bool,
    /// What a new account is.
    pub new_role: Role,
    /// Without a refresh a session lasts so long.
    pub session_idle: Duration,
    /// With any number of them, so long.
    pub session_max: Duration,
    /// Beginnings of whole URLs where a login by a provider may end.
    pub return_to: Vec<String>,
    /// What links begin with.
    pub base_url: String,
    /// How long somebody who leaves may come back.
    pub recovery: Duration,
}

/// The longest name of a person or a key, in characters.
pub(super) const NAME_CHARS_MAX: usize = 100;

impl Accounts {
    /// Hashes a new password.
    pub(super) async fn hash(&self, password: String, about: Vec<String>) -> Result<String, Problem> {
        let password =
            Password::given(password).ok_or_else(|| unusable("it is too long; use at most 1024 bytes".into()))?;
        self.passwords.hash(password, about).await.map_err(|error| match error.kind() {
            Kind::Invalid => unusable(error.chain()),
            Kind::Busy => busy(&error),
            _ => error.into(),
        })
    }

    /// Compares a password; nobody's takes as long as somebody's.
    pub(super) async fn verify(&self, password: String, known: Option<&str>) -> Result<Verdict, Problem> {
        // What is longer than any of ours is nobody's: compared all the same, for the time.
        let (password, known) = match Password::given(password) {
            Some(password) => (password, known),
            None => (Password::given(String::new()).expect("nothing is short"), None),
        };
        self.passwords.verify(password, known).await.map_err(|error| match error.kind() {
            Kind::Busy => busy(&error),
            _ => error.into(),
        })
    }

    /// Asks somebody who is logged in for their password again.
    pub(super) async fn verify_again(&self, user: &UserId, password: String) -> Result<(), Problem> {
        let limit = Limit::again(user.as_str());
        self.limiter.pass(std::slice::from_ref(&limit)).await?;
        let known = self.db.password_of(user).await?;
        match self.verify(password, known.as_deref()).await? {
            Verdict::Wrong => Err(Problem::new(
                StatusCode::FORBIDDEN,
                "password-wrong",
                "This is not your password",
                "type the password that you log in with",
            )),
            Verdict::Right | Verdict::Outdated => Ok(self.limiter.forgive(&limit).await?),
        }
    }

    pub(super) fn now_us(&self) -> i64 {
        self.clock.unix_us()
    }
}

/// Counts a try to prove who somebody is, and writes it down (ASVS 16.3.1). `who` is never an address or a secret.
pub(super) fn note(outcome: &'static str, what: &'static str, who: &str, place: &str) {
    counter!(telemetry::LOGINS, "outcome" => outcome).increment(1);
    tracing::Span::current().record("outcome", outcome);
    tracing::info!(target: "segue::auth", outcome, what, who, place);
}

/// A name as people may have it: one line, not too long; empty is none.
pub(super) fn name(text: Option<String>) -> Result<Option<String>, Problem> {
    let Some(text) = text else { return Ok(None) };
    let text = text.trim();
    if text.chars().count() > NAME_CHARS_MAX || text.chars().any(char::is_control) {
        let detail = format!("use one line of at most {NAME_CHARS_MAX} characters");
        return Err(Problem::unprocessable("name", "The name cannot be used", detail));
    }
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

/// The User-Agent, cut to what people read.
pub(super) fn client(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(header::USER_AGENT)?.to_str().ok()?;
    Some(text.chars().filter(|c| !c.is_control()).take(200).collect())
}

fn unusable(detail: String) -> Problem {
    Problem::unprocessable("password", "The password cannot be used", detail)
}

fn busy(error: &Error) -> Problem {
    tracing::warn!(error = error.chain(), "a password was not checked");
    let detail = "too many people log in at once; try again";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "Try again later", detail).retry_after(2)
}
