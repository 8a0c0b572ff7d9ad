//! The one answer to "who asks?", whatever way somebody showed it: a session, an API key, a key of the configuration.
//! One place makes it, from a request's credentials (`api/caller.rs`); everything behind that only reads it.

use super::UserId;

/// What a person is here; each may do what the ones before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Hears and buys.
    Listener,
    /// Publishes and is paid, too.
    Creator,
    /// Decides for others, too.
    Admin,
}

impl Role {
    /// The role as text: in rows, in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Listener => "listener",
            Role::Creator => "creator",
            Role::Admin => "admin",
        }
    }

    /// Reads that text.
    pub fn decode(text: &str) -> Option<Role> {
        [Role::Listener, Role::Creator, Role::Admin].into_iter().find(|role| role.as_str() == text)
    }
}

/// What a credential opens, beside what its person may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scopes {
    /// `GET` and `HEAD`.
    pub read: bool,
    /// `POST`, `PUT`, `PATCH` and `DELETE`.
    pub write: bool,
    /// Whatever only admins may. A person's is not set before a second factor was shown in this session.
    pub admin: bool,
}

/// How somebody showed who they are. Only what a browser sends by itself needs protection against other sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// An access token in `Authorization`.
    Bearer,
    /// An access token in a cookie: CSRF was checked where this was made.
    Cookie,
    /// An API key.
    ApiKey,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The owner of what they make: the id of their user, or the name of a key of the configuration.
    pub subject: String,
    /// The person; `None` for a key of the configuration (another program of the operator).
    pub user: Option<UserId>,
    /// What they are.
    pub role: Role,
    /// What the credential opens.
    pub scopes: Scopes,
    /// How it was shown.
    pub via: Via,
}

impl Principal {
    /// A program of the operator, by the name of its key in `api.keys`.
    pub fn program(name: &str) -> Principal {
        Principal {
            subject: name.to_owned(),
            user: None,
            role: Role::Creator,
            scopes: Scopes { read: true, write: true, admin: false },
            via: Via::ApiKey,
        }
    }

    /// Whether they may do what only admins may.
    pub fn is_admin(&self) -> bool {
        self.role == Role::Admin && self.scopes.admin
    }
}
