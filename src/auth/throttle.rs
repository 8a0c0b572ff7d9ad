//! How often somebody may do something. Pure: what is left is in the database (`db/limits.rs`), shared by all nodes.
//!
//! Three shapes. A rate fills up again all the time and bears a burst. A quota is a number in a window that begins with
//! its first use. A brake grows: some tries are free, then each waits twice as long as the one before, up to a most, so
//! that guessing is hopeless and nobody is locked out for good (ASVS 6.3.1).

use std::net::IpAddr;

/// Microseconds of a second.
const SECOND: i64 = 1_000_000;
/// A quota of which a node takes several at once.
const QUOTA_LARGE: i64 = 1_000;

/// One rule, and whom it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Its name in answers: `user`, `login`.
    pub name: &'static str,
    /// Whom it is about: with the name, the key of the row.
    pub whom: String,
    /// Its shape.
    pub shape: Shape,
}

/// How a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `per_minute`, of which `burst` may come at once.
    Rate {
        /// How many a minute.
        per_minute: i64,
        /// How many at once.
        burst: i64,
    },
    /// `most` in `window_s` seconds.
    Quota {
        /// How many.
        most: i64,
        /// Seconds from the first use.
        window_s: i64,
    },
    /// `free` tries, then `first_s` seconds until the next, doubled up to `most_s`; forgotten after `forget_s` without one.
    Brake {
        /// Tries that do not wait.
        free: i64,
        /// The first wait, in seconds.
        first_s: i64,
        /// The longest wait, in seconds.
        most_s: i64,
        /// Seconds without a try after which all is forgotten.
        forget_s: i64,
    },
}

/// What came of taking from a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// How many were granted; none is a refusal.
    pub granted: i64,
    /// How many more would be.
    pub left: i64,
    /// Until there are more, in microseconds; after a refusal, until the next try makes sense.
    pub wait_us: i64,
}

impl Limit {
    /// Requests of one person: 1000 a minute, 100 at once.
    pub fn user(subject: &str) -> Limit {
        Limit { name: "user", whom: subject.to_owned(), shape: Shape::Rate { per_minute: 1_000, burst: 100 } }
    }

    /// Requests of a program of the operator: it is trusted, and still bounded.
    pub fn program(name: &str) -> Limit {
        let shape = Shape::Rate { per_minute: 60_000, burst: 6_000 };
        Limit { name: "program", whom: name.to_owned(), shape }
    }

    /// Requests of whoever does not say who they are, by where they come from: an address may be many people.
    pub fn anyone(from: &str) -> Limit {
        Limit { name: "anonymous", whom: from.to_owned(), shape: Shape::Rate { per_minute: 1_000, burst: 200 } }
    }

    /// What an API key reads in an hour.
    pub fn key_reads(id: &str) -> Limit {
        Limit { name: "key-read", whom: id.to_owned(), shape: Shape::Quota { most: 1_000, window_s: 3_600 } }
    }

    /// What an API key changes in an hour.
    pub fn key_writes(id: &str) -> Limit {
        Limit { name: "key-write", whom: id.to_owned(), shape: Shape::Quota { most: 200, window_s: 3_600 } }
    }

    /// Passwords tried for one account from one place.
    pub fn login_here(account: &str, from: &str) -> Limit {
        let shape = Shape::Brake { free: 5, first_s: 1, most_s: 900, forget_s: 3_600 };
        Limit { name: "login", whom: format!("{account} {from}"), shape }
    }

    /// Passwords tried for one account from everywhere: a short wait at most, because strangers can cause it.
    pub fn login_account(account: &str) -> Limit {
        let shape = Shape::Brake { free: 50, first_s: 1, most_s: 30, forget_s: 3_600 };
        Limit { name: "login-account", whom: account.to_owned(), shape }
    }

    /// Passwords tried from one place for any account: spraying.
    pub fn login_from(from: &str) -> Limit {
        let shape = Shape::Brake { free: 50, first_s: 1, most_s: 300, forget_s: 3_600 };
        Limit { name: "login-address", whom: from.to_owned(), shape }
    }

    /// Mails to one address that somebody else may have asked for: registrations and resets.
    pub fn mail_to(account: &str) -> Limit {
        let shape = Shape::Brake { free: 3, first_s: 60, most_s: 3_600, forget_s: 86_400 };
        Limit { name: "mail", whom: account.to_owned(), shape }
    }

    /// The same, asked for from one place.
    pub fn mail_from(from: &str) -> Limit {
        let shape = Shape::Brake { free: 20, first_s: 10, most_s: 600, forget_s: 3_600 };
        Limit { name: "mail-address", whom: from.to_owned(), shape }
    }

    /// Codes of a second factor tried for one person: five in five minutes (facts §4.5).
    pub fn second_factor(user: &str) -> Limit {
        Limit { name: "second-factor", whom: user.to_owned(), shape: Shape::Quota { most: 5, window_s: 300 } }
    }

    /// Passwords asked again of somebody who is logged in.
    pub fn again(user: &str) -> Limit {
        let shape = Shape::Brake { free: 5, first_s: 1, most_s: 300, forget_s: 3_600 };
        Limit { name: "password", whom: user.to_owned(), shape }
    }

    /// Archives that one person asks for: three a day.
    pub fn exports(user: &str) -> Limit {
        Limit { name: "export", whom: user.to_owned(), shape: Shape::Quota { most: 3, window_s: 86_400 } }
    }

    /// Logins by a provider begun from one place: each keeps a row for some minutes.
    pub fn providers_from(from: &str) -> Limit {
        Limit { name: "provider", whom: from.to_owned(), shape: Shape::Rate { per_minute: 30, burst: 30 } }
    }

    /// The key of its row.
    pub fn bucket(&self) -> String {
        format!("{} {}", self.name, self.whom)
    }

    /// `"user";q=1000;w=60` (draft-ietf-httpapi-ratelimit-headers-11).
    pub fn policy(&self) -> String {
        let (most, window_s) = match self.shape {
            Shape::Rate { per_minute, .. } => (per_minute, 60),
            Shape::Quota { most, window_s } => (most, window_s),
            Shape::Brake { free, forget_s, .. } => (free, forget_s),
        };
        format!("\"{}\";q={most};w={window_s}", self.name)
    }

    /// `"user";r=99;t=1`: what is left, and seconds until there is more.
    pub fn state(&self, taken: &Taken) -> String {
        format!("\"{}\";r={};t={}", self.name, taken.left.max(0), seconds(taken.wait_us))
    }

    /// How many a node may take at once, to spend without asking again: a tenth of a burst, a fiftieth of a large quota. The
    /// others are asked for one by one, so that they are exact on all nodes together.
    pub fn at_once(&self) -> i64 {
        match self.shape {
            Shape::Rate { burst, .. } => (burst / 10).max(1),
            Shape::Quota { most, .. } if most >= QUOTA_LARGE => most / 50,
            Shape::Quota { .. } | Shape::Brake { .. } => 1,
        }
    }

    /// Whether what was taken at once counts until the window ends: a rate fills up again, a quota does not.
    pub fn keeps(&self) -> bool {
        matches!(self.shape, Shape::Quota { .. })
    }
}

/// Whole seconds, rounded up: whoever comes back then does not come too early.
pub fn seconds(us: i64) -> i64 {
    us.max(0).saturating_add(SECOND - 1) / SECOND
}

/// Where somebody comes from, for limits: an IPv4 address, or an IPv6 network of 64 bits, which one customer has.
pub fn prefix(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_place_whatever_its_last_half() {
        let place = |text: &str| prefix(text.parse().unwrap());
        assert_eq!(place("192.0.2.7"), "192.0.2.7");
        assert_eq!(place("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(place("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
        assert_eq!(place("2001:db8:1:2::1"), place("2001:db8:1:2:ffff::"));
    }

    #[test]
    fn fields_are_those_of_the_draft() {
        let limit = Limit::user("usr_1");
        assert_eq!(limit.policy(), "\"user\";q=1000;w=60");
        assert_eq!(limit.state(&Taken { granted: 1, left: 99, wait_us: 60_001 }), "\"user\";r=99;t=1");
        assert_eq!(limit.bucket(), "user usr_1");
        assert_eq!(Limit::key_writes("key_1").policy(), "\"key-write\";q=200;w=3600");
        let at_once =
            [Limit::key_reads("key_1"), Limit::key_writes("key_1"), Limit::exports("usr_1"), Limit::user("usr_1")];
        assert_eq!(at_once.map(|limit| limit.at_once()), [20, 1, 1, 10]);
        assert_eq!((seconds(0), seconds(1), seconds(2_000_000), seconds(-5)), (0, 1, 2, 0));
    }
}
