//! The settings of accounts, and of the mail that they need.

use serde::{Deserialize, Serialize};

use super::{Profile, is_plain_http_url};

/// Accounts of people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Auth {
    /// Whether there are any. Off: the API knows the keys of `api.keys` alone.
    pub accounts: bool,
    /// Secrets that sign sessions and seal second factors, newest first, at most two. Unset in dev: one is made in `data`.
    pub secrets: Vec<String>,
    /// Whether strangers may register.
    pub registration: bool,
    /// What a new account is: `listener` or `creator`.
    pub new_role: NewRole,
    /// Seconds that an access token is valid, 900 at most.
    pub access_token_s: u64,
    /// Seconds without a refresh after which a session ends.
    pub session_idle_s: u64,
    /// Seconds after which a session ends however much it is used.
    pub session_max_s: u64,
    /// Seconds that somebody who deletes their account may come back in; then they are forgotten.
    pub recovery_s: u64,
    /// Passwords that are checked at once; each takes a core and 19 MiB for some ten milliseconds.
    pub passwords_at_once: usize,
    /// Where a login by a provider may end: paths of this server, and whole URLs that begin with one of these.
    pub return_to: Vec<String>,
    /// Providers of identities (OpenID Connect).
    pub providers: Vec<Provider>,
}

/// One provider of identities.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// Its name in paths: `GET /api/v1/auth/oauth/{name}`.
    pub name: String,
    /// Its issuer: `https://accounts.example.com`. What else is needed is read below it.
    pub issuer: String,
    /// What we are there.
    pub client_id: String,
    /// What proves it.
    pub client_secret: String,
    /// What we ask for; `openid email profile` when unset.
    #[serde(default = "scopes")]
    pub scopes: String,
}

fn scopes() -> String {
    "openid email profile".into()
}

/// What a new account is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NewRole {
    /// Hears and buys.
    #[default]
    Listener,
    /// Publishes, too.
    Creator,
}

/// Mail to people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mail {
    /// `smtps://user:password@host:465`, or `smtp://host:587` with STARTTLS (`smtp+plain://` without). Unset: no mail is
    /// sent, and in dev the log has what it would say.
    pub smtp: Option<String>,
    /// From whom: `Segue <no-reply@example.com>`.
    pub from: String,
    /// Milliseconds between two looks for mail to send.
    pub poll_ms: u64,
}

impl Default for Auth {
    fn default() -> Auth {
        Auth {
            accounts: true,
            secrets: vec![],
            registration: true,
            new_role: NewRole::Listener,
            access_token_s: 600,
            session_idle_s: 14 * 86_400,
            session_max_s: 90 * 86_400,
            recovery_s: 30 * 86_400,
            passwords_at_once: 2,
            return_to: vec![],
            providers: vec![],
        }
    }
}

impl Default for Mail {
    fn default() -> Mail {
        Mail { smtp: None, from: "Segue <no-reply@localhost>".into(), poll_ms: 1_000 }
    }
}

impl Auth {
    pub(super) fn mask(&mut self) {
        let secrets = self.providers.iter_mut().map(|provider| &mut provider.client_secret);
        for secret in self.secrets.iter_mut().chain(secrets) {
            *secret = "(hidden)".into();
        }
    }

    pub(super) fn problems(&self, profile: Profile, mail: &Mail, base: Option<&str>) -> Vec<String> {
        let mut problems = Vec::new();
        let mut need = |holds: bool, problem: String| {
            if !holds {
                problems.push(problem);
            }
        };
        let ranges = [
            ("access_token_s", self.access_token_s, 30, 900, "sessions could not go on, or ended ones would"),
            ("session_idle_s", self.session_idle_s, 300, 365 * 86_400, "people would log in all the time, or never"),
            ("session_max_s", self.session_max_s, 300, 365 * 86_400, "people would log in all the time, or never"),
            ("recovery_s", self.recovery_s, 0, 365 * 86_400, "nobody would ever be forgotten"),
            ("passwords_at_once", self.passwords_at_once as u64, 1, 64, "nobody could log in, or memory would run out"),
        ];
        for (name, value, least, most, so) in ranges {
            need(
                (least..=most).contains(&value),
                format!("auth.{name} is {value}: {so}; set it to {least} up to {most}"),
            );
        }
        need(
            self.secrets.iter().all(|secret| secret.trim().len() >= 32),
            "auth.secrets has one of fewer than 32 characters: sessions could be forged; use 32 random ones".into(),
        );
        need(
            self.secrets.len() <= 2,
            "auth.secrets has more than two: one signs, one is on its way out; remove the others".into(),
        );
        for provider in &self.providers {
            let Provider { name, issuer, .. } = provider;
            let named = !name.is_empty() && name.len() <= 32;
            need(
                named
                    && name != "password"
                    && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
                format!("auth.providers has the name {name:?}: no path could name it; use a-z, 0-9 and -"),
            );
            let safe = issuer.starts_with("https://") || (profile == Profile::Dev && issuer.starts_with("http://"));
            need(
                safe && is_plain_http_url(issuer),
                format!(
                    "auth.providers {name:?} has no https:// issuer: anybody on the way could log in as anybody; correct it"
                ),
            );
            need(
                !provider.client_id.is_empty() && !provider.client_secret.is_empty(),
                format!(
                    "auth.providers {name:?} lacks client_id or client_secret: the provider would refuse us; set both"
                ),
            );
            need(
                provider.scopes.split(' ').any(|scope| scope == "openid"),
                format!("auth.providers {name:?} does not ask for the scope openid: it would name nobody; add it"),
            );
            need(
                self.providers.iter().filter(|other| other.name == *name).count() == 1,
                format!("auth.providers has {name:?} twice: nobody could tell them apart; rename one"),
            );
        }
        for allowed in &self.return_to {
            need(
                is_plain_http_url(allowed) && allowed.ends_with('/'),
                format!(
                    "auth.return_to has {allowed:?}: logins could end on other sites; give a whole URL that ends with /"
                ),
            );
        }
        if profile == Profile::Production && self.accounts {
            need(
                !self.secrets.is_empty(),
                "auth.secrets is unset in production: no session could outlive a restart or be known to another node; set \
                 32 random characters, or auth.accounts = false"
                    .into(),
            );
            need(
                mail.smtp.is_some(),
                "mail.smtp is unset in production: nobody could register or set another password; set it, or \
                 auth.accounts = false"
                    .into(),
            );
            need(
                base.is_some(),
                "server.public_base_url is unset in production: links in mails would lead nowhere; set it, or \
                 auth.accounts = false"
                    .into(),
            );
        }
        problems
    }
}

impl Mail {
    pub(super) fn mask(&mut self) {
        if let Some(url) = &mut self.smtp
            && let Some((scheme, rest)) = url.split_once("://")
            && let Some((_, host)) = rest.rsplit_once('@')
        {
            *url = format!("{scheme}://(hidden)@{host}");
        }
    }

    pub(super) fn problems(&self, profile: Profile) -> Vec<String> {
        let mut problems = Vec::new();
        let schemes = ["smtps://", "smtp://", "smtp+plain://"];
        if self.smtp.as_deref().is_some_and(|url| !schemes.iter().any(|scheme| url.starts_with(scheme))) {
            problems.push(
                "mail.smtp is no smtps://, smtp:// or smtp+plain:// URL: no mail could be sent; write it like \
                 smtps://user:password@mail.example.com:465"
                    .to_owned(),
            );
        }
        if profile == Profile::Production && self.smtp.as_deref().is_some_and(|url| url.starts_with("smtp+plain://")) {
            problems.push(
                "mail.smtp is smtp+plain:// in production: links that open accounts would travel for all to read; use \
                 smtps:// or smtp://"
                    .to_owned(),
            );
        }
        if !self.from.contains('@') {
            problems.push(
                "mail.from is no address: servers would refuse our mail; write it like Segue <a@b.example>".to_owned(),
            );
        }
        if !(10..=600_000).contains(&self.poll_ms) {
            problems.push(format!(
                "mail.poll_ms is {}: the database would only be asked for mail, or mail would wait; set it to 10 up to 600000",
                self.poll_ms
            ));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrong_setting_is_named_with_its_consequence() {
        let base = Some("https://a.example");
        let check = |auth: Auth, mail: Mail, profile: Profile, word: &str| {
            let found = [auth.problems(profile, &mail, base), mail.problems(profile)].concat();
            assert!(found.len() == 1 && found[0].contains(word) && found[0].contains(": "), "{word}: {found:?}");
        };
        let (dev, production) = (Profile::Dev, Profile::Production);
        let auth = || Auth { secrets: vec!["x".repeat(32)], ..Auth::default() };
        let mail = || Mail { smtp: Some("smtps://mail.example".into()), ..Mail::default() };
        let provider = |name: &str, issuer: &str| Provider {
            name: name.into(),
            issuer: issuer.into(),
            client_id: "id".into(),
            client_secret: "secret".into(),
            scopes: scopes(),
        };
        let with = |provider: Provider| Auth { providers: vec![provider], ..auth() };
        assert!([auth().problems(production, &mail(), base), mail().problems(production)].concat().is_empty());
        assert!(Auth::default().problems(dev, &Mail::default(), None).is_empty());
        check(Auth { access_token_s: 901, ..auth() }, mail(), dev, "auth.access_token_s");
        check(Auth { session_idle_s: 0, ..auth() }, mail(), dev, "auth.session_idle_s");
        check(Auth { passwords_at_once: 0, ..auth() }, mail(), dev, "auth.passwords_at_once");
        check(Auth { secrets: vec!["short".into()], ..auth() }, mail(), dev, "auth.secrets");
        check(Auth { secrets: vec![], ..auth() }, mail(), production, "auth.secrets is unset");
        check(auth(), Mail { smtp: None, ..mail() }, production, "mail.smtp is unset");
        check(auth(), Mail { smtp: Some("smtp+plain://x".into()), ..mail() }, production, "mail.smtp is smtp+plain");
        check(auth(), Mail { smtp: Some("mail.example".into()), ..mail() }, dev, "mail.smtp is no");
        check(auth(), Mail { from: "Segue".into(), ..mail() }, dev, "mail.from");
        check(with(provider("Bad Name", "https://p.example")), mail(), dev, "the name");
        check(with(provider("p", "http://p.example")), mail(), production, "issuer");
        check(Auth { return_to: vec!["//evil".into()], ..auth() }, mail(), dev, "auth.return_to");
        let off = Auth { accounts: false, ..Auth::default() };
        assert!(off.problems(production, &Mail::default(), None).is_empty());
    }

    #[test]
    fn what_is_secret_is_not_shown() {
        let mut mail = Mail { smtp: Some("smtps://me:hush@mail.example:465".into()), ..Mail::default() };
        mail.mask();
        assert_eq!(mail.smtp.as_deref(), Some("smtps://(hidden)@mail.example:465"));
        let mut auth = Auth { secrets: vec!["hush".into()], ..Auth::default() };
        auth.mask();
        assert!(!format!("{auth:?}").contains("hush"));
    }
}
