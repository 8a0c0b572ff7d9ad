//! Who listens, for counting and nothing else. In: who somebody is, or where they come from. Out: a name that means
//! nothing outside of its day.
//!
//! A play is counted once per listener and playback. Clients ask in ranges, come back, try again, open the same track
//! in two players: what tells one playback from the next is that the first could have ended. So a listener's next
//! request within the length of the track is the same playback, whatever it looks like.

use sha2::{Digest as _, Sha256};

use crate::base::hex;

/// The shortest playback, in seconds: asking for a jingle again and again is not hearing it so often.
pub const PLAYBACK_S_MIN: i64 = 30;
/// The longest, in seconds: a film.
pub const PLAYBACK_S_MAX: i64 = 4 * 3600;

/// The day of a time: since 1970, UTC.
pub fn day(unix_us: i64) -> i64 {
    unix_us.div_euclid(86_400_000_000)
}

/// How long a playback of a track of this length lasts, in microseconds.
pub fn playback_us(duration_s: f64) -> i64 {
    (duration_s.ceil() as i64).clamp(PLAYBACK_S_MIN, PLAYBACK_S_MAX) * 1_000_000
}

/// A listener's name for a day. `salt` is that day's, and is forgotten soon after it: nobody can then tell whose name
/// it was, not even by trying every address there is.
pub fn name(salt: &str, subject: Option<&str>, address: &str, agent: &str) -> String {
    // Fields of any length cannot be taken for one another: each is hashed first.
    let field = |text: &str| Sha256::digest(text.as_bytes());
    let mut hash = Sha256::new();
    hash.update(field(salt));
    match subject {
        Some(subject) => {
            hash.update([1]);
            hash.update(field(subject));
        }
        None => {
            hash.update([0]);
            hash.update(field(address));
            hash.update(field(agent));
        }
    }
    hex::encode(&hash.finalize()[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_the_same_all_day_and_nobody_the_next() {
        let one = name("monday", None, "192.0.2.1", "Safari");
        assert_eq!(one, name("monday", None, "192.0.2.1", "Safari"));
        assert_ne!(one, name("tuesday", None, "192.0.2.1", "Safari"));
        assert_ne!(one, name("monday", None, "192.0.2.1S", "afari"));
        assert_ne!(one, name("monday", Some("192.0.2.1"), "", "Safari"));
        let named = |address| name("monday", Some("usr_1"), address, "x");
        assert_eq!(named("192.0.2.1"), named("198.51.100.9"), "who logs in is the same everywhere");
        assert_eq!(one.len(), 32);
    }

    #[test]
    fn a_playback_lasts_as_long_as_its_track_within_reason() {
        assert_eq!(playback_us(0.4), 30_000_000);
        assert_eq!(playback_us(180.2), 181_000_000);
        assert_eq!(playback_us(1e9), PLAYBACK_S_MAX * 1_000_000);
        assert_eq!(day(0), 0);
        assert_eq!(day(86_400_000_000 - 1), 0);
        assert_eq!(day(86_400_000_000), 1);
    }
}
