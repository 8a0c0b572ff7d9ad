//! Passwords: what may be one, and the slow hash that is all we keep.
//!
//! argon2id with the parameters of OWASP's Password Storage Cheat Sheet. Each hash takes some ten milliseconds of a core
//! and 19 MiB, so a gate bounds how many run at once and how many wait: logins cannot take the machine from listeners.
//! Who has no password is checked against a decoy, so that nobody learns from the time which accounts there are.

use std::fmt;
use std::sync::Arc;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::Semaphore;

use crate::base::{Error, Kind, Result};

/// Memory of one hash in KiB, its passes, its lanes: m=19 MiB, t=2, p=1.
const COST: (u32, u32, u32) = (19_456, 2, 1);
/// Bytes of salt and of hash.
const SALT_BYTES: usize = 16;
const HASH_BYTES: usize = 32;

/// Characters of a password at least (ASVS 6.2.1).
pub const CHARS_MIN: usize = 8;
/// Bytes of a password at most: more only costs time.
pub const BYTES_MAX: usize = 1024;
/// Guesses that a password has to withstand at least: beyond every list of the most common ones (ASVS 6.2.4), and what a
/// login throttle lets nobody try.
const GUESSES_MIN: u64 = 1_000_000;

/// A password as it was typed: never shortened, folded or shown.
#[derive(Clone)]
pub struct Password(String);

impl Password {
    /// Any text, to be compared with a hash. What cannot be one of ours is `None`, before it costs a hash.
    pub fn given(text: String) -> Option<Password> {
        (text.len() <= BYTES_MAX).then_some(Password(text))
    }

    fn judged(&self, about: &[&str]) -> Result<()> {
        let chars = self.0.chars().count();
        if chars < CHARS_MIN {
            return Err(Error::invalid(format!("it has {chars} characters; use at least {CHARS_MIN}, better 15")));
        }
        let guesses = zxcvbn::zxcvbn(&self.0, about).guesses();
        if guesses < GUESSES_MIN {
            return Err(Error::invalid(
                "it is among the first that somebody would try; use several words that belong together only for you",
            ));
        }
        Ok(())
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// What a comparison found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the password.
    Right,
    /// It is, and its hash has other parameters than new ones: hash it again.
    Outdated,
    /// It is not, or there is none.
    Wrong,
}

/// Hashes and compares, a few at a time.
#[derive(Debug)]
pub struct Passwords {
    running: Arc<Semaphore>,
    /// Those that run and those that wait for them.
    places: Arc<Semaphore>,
    decoy: Arc<str>,
}

impl Passwords {
    /// `at_once` hashes run, `waiting_max` more wait; whoever comes then is told to come back.
    pub fn new(at_once: usize, waiting_max: usize) -> Passwords {
        let (memory_kib, passes, lanes) = COST;
        // Salt and hash are zeros: as hard to hit as any other hash, and it costs nothing to make.
        let (salt, nobodys) = ("A".repeat(22), "A".repeat(43));
        let decoy = format!("$argon2id$v=19$m={memory_kib},t={passes},p={lanes}${salt}${nobodys}");
        Passwords {
            running: Arc::new(Semaphore::new(at_once)),
            places: Arc::new(Semaphore::new(at_once + waiting_max)),
            decoy: decoy.into(),
        }
    }

    /// The hash of a new password, in PHC's form.
    ///
    /// # Errors
    /// `Invalid` saying why it cannot be a password; `about` is what others know of its owner. `Busy` when too many wait.
    pub async fn hash(&self, password: Password, about: Vec<String>) -> Result<String> {
        self.in_turn(move || {
            let about: Vec<&str> = about.iter().map(String::as_str).collect();
            password.judged(&about)?;
            Ok(hash(password.0.as_bytes()))
        })
        .await?
    }

    /// Whether this is the password of `known`. Nobody's takes as long as somebody's.
    ///
    /// # Errors
    /// `Busy` when too many wait; `Internal` for a hash that we did not make.
    pub async fn verify(&self, password: Password, known: Option<&str>) -> Result<Verdict> {
        let is_known = known.is_some();
        let known: Arc<str> = known.map_or_else(|| Arc::clone(&self.decoy), Arc::from);
        let verdict = self.in_turn(move || verify(&password, &known)).await??;
        Ok(if is_known { verdict } else { Verdict::Wrong })
    }

    /// The permits leave with the work: a client that goes away does not make room before the work has ended.
    async fn in_turn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| Error::new(Kind::Busy, "too many passwords are being checked"))?;
        let turn = Arc::clone(&self.running).acquire_owned().await.expect("the gate is never closed");
        let done = tokio::task::spawn_blocking(move || {
            let _held = (place, turn);
            work()
        });
        done.await.map_err(|cause| Error::internal("checking a password was stopped").because(cause))
    }
}

fn argon2id() -> Argon2<'static> {
    let (memory_kib, passes, lanes) = COST;
    let params = Params::new(memory_kib, passes, lanes, Some(HASH_BYTES)).expect("constants that argon2 takes");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

fn hash(password: &[u8]) -> String {
    let mut salt = [0; SALT_BYTES];
    getrandom::fill(&mut salt).expect("the operating system gives random bytes");
    let hash: PasswordHash =
        argon2id().hash_password_with_salt(password, &salt).expect("salt and length are what argon2 takes");
    hash.to_string()
}

fn verify(password: &Password, known: &str) -> Result<Verdict> {
    use argon2::password_hash::Error as Cause;
    let wrong = |cause: String| Error::internal("the hash of a password cannot be read").because(cause);
    let known = PasswordHash::new(known).map_err(|cause| wrong(cause.to_string()))?;
    match argon2id().verify_password(password.0.as_bytes(), &known) {
        Ok(()) => {}
        Err(Cause::PasswordInvalid) => return Ok(Verdict::Wrong),
        Err(cause) => return Err(wrong(cause.to_string())),
    }
    let params = Params::try_from(&known).map_err(|cause| wrong(cause.to_string()))?;
    let current = (params.m_cost(), params.t_cost(), params.p_cost()) == COST;
    Ok(if current { Verdict::Right } else { Verdict::Outdated })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
    }

    fn typed(text: &str) -> Password {
        Password::given(text.to_owned()).unwrap()
    }

    #[test]
    fn the_password_itself_is_right_and_nothing_else() {
        block_on(async {
            let passwords = Passwords::new(1, 8);
            let hash = passwords.hash(typed("correct horse battery"), vec![]).await.unwrap();
            assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
            let check = async |text: &str, known: Option<&str>, verdict: Verdict| {
                assert_eq!(passwords.verify(typed(text), known).await.unwrap(), verdict, "{text}");
            };
            check("correct horse battery", Some(&hash), Verdict::Right).await;
            check("Correct horse battery", Some(&hash), Verdict::Wrong).await;
            check("correct horse battery ", Some(&hash), Verdict::Wrong).await;
            check("", Some(&hash), Verdict::Wrong).await;
            check("correct horse battery", None, Verdict::Wrong).await;
            assert!(passwords.verify(typed("x"), Some("plain")).await.is_err());
            assert_ne!(
                hash,
                passwords.hash(typed("correct horse battery"), vec![]).await.unwrap(),
                "each has its salt"
            );
            // An older, cheaper hash is right once and then replaced.
            let cheap = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(8, 1, 1, None).unwrap());
            let old: PasswordHash = cheap.hash_password_with_salt(b"old", &[7; 16]).unwrap();
            check("old", Some(&old.to_string()), Verdict::Outdated).await;
        });
    }

    #[test]
    fn what_many_would_try_is_no_password() {
        let refused = |text: &str, about: &[&str]| typed(text).judged(about).is_err();
        for common in
            ["short", "password", "password1", "qwertyuiop", "iloveyou2", "aaaaaaaaaaaa", "abcdefgh", "12345678"]
        {
            assert!(refused(common, &[]), "{common}");
        }
        assert!(refused("maria.curie", &["maria.curie@example.org", "Maria.Curie"]), "what others know of them");
        for good in [
            "correct horse battery",
            "tschüß grüne Wiese 🎵",
            "xkq7-plum-vane",
            &"long sentences are fine too, however long ".repeat(8),
        ] {
            assert!(typed(good).judged(&[]).is_ok(), "{good}");
        }
        assert!(Password::given("x".repeat(BYTES_MAX + 1)).is_none());
    }

    #[test]
    fn more_than_may_wait_are_told_so_and_a_client_that_leaves_makes_no_room() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let passwords = Passwords::new(1, 0);
            let left = passwords.verify(typed("whatever it is"), None);
            // Polled once, so that the work has begun, and dropped: the client went away.
            let mut left = Box::pin(left);
            assert!(futures_poll(&mut left).is_none());
            drop(left);
            let refused = passwords.verify(typed("another"), None).await;
            match refused {
                Err(error) => assert_eq!(error.kind(), Kind::Busy),
                // The work had ended already, on a fast machine.
                Ok(verdict) => assert_eq!(verdict, Verdict::Wrong),
            }
            while passwords.running.available_permits() == 0 {
                tokio::task::yield_now().await;
            }
            assert_eq!(passwords.verify(typed("another"), None).await.unwrap(), Verdict::Wrong);
        });
    }

    fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::Pin::new(future).poll(&mut cx) {
            std::task::Poll::Ready(done) => Some(done),
            std::task::Poll::Pending => None,
        }
    }
}
