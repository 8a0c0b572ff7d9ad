//! The settings of what people may send.

use std::fmt;

use serde::de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Profile;

const MIB: u64 = 1 << 20;
const AUDIO: u64 = 100 * MIB;
const IMAGE: u64 = 10 * MIB;
const VIDEO: u64 = 500 * MIB;
/// The largest limit: 10,000 parts of 8 MiB. S3 has no more in one object.
const LIMIT_MAX: u64 = 10_000 * 8 * MIB;

/// What people may send.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Uploads {
    /// Bytes of one audio file. A value that is no such number is not used: the default counts, and it is said.
    pub audio_bytes_max: Limit<AUDIO>,
    /// The same of one image.
    pub image_bytes_max: Limit<IMAGE>,
    /// The same of one video.
    pub video_bytes_max: Limit<VIDEO>,
    /// Seconds that an upload waits for its next byte.
    pub expires_s: u64,
    /// Uploads of one owner on their way at once.
    pub owner_uploads_max: u64,
    /// Bytes of one owner on their way, counted when they are announced.
    pub owner_in_flight_bytes_max: u64,
    /// Bytes of one owner stored or on their way.
    pub owner_stored_bytes_max: u64,
    /// Bodies that are taken at once by a process; each may have 16 MiB in memory. Full: 503.
    pub bodies_max: usize,
    /// Seconds after which a process that was not heard of has lost an upload that it writes or looks at.
    pub lock_s: u64,
    /// Seconds that URLs for parts sent straight to the bucket are valid.
    pub presign_s: u64,
    /// Where clamd listens: a path, or `host:port`. Unset: nobody looks for viruses.
    pub clamd: Option<String>,
    /// Seconds that clamd may say or take nothing.
    pub clamd_timeout_s: u64,
    /// In production: that nobody looks for viruses is meant so.
    pub unscanned: bool,
}

impl Default for Uploads {
    fn default() -> Uploads {
        Uploads {
            audio_bytes_max: Limit::default(),
            image_bytes_max: Limit::default(),
            video_bytes_max: Limit::default(),
            expires_s: 86_400,
            owner_uploads_max: 20,
            owner_in_flight_bytes_max: 4 << 30,
            owner_stored_bytes_max: 100 << 30,
            bodies_max: 16,
            lock_s: 10,
            presign_s: 3_600,
            clamd: None,
            clamd_timeout_s: 60,
            unscanned: false,
        }
    }
}

impl Uploads {
    pub(super) fn problems(&self, profile: Profile) -> Vec<String> {
        let ranges = [
            (
                "expires_s",
                self.expires_s,
                1,
                30 * 86_400,
                "nobody could send, or what was given up would stay for ever",
            ),
            ("owner_uploads_max", self.owner_uploads_max, 1, 1_000_000, "nobody could send"),
            ("owner_in_flight_bytes_max", self.owner_in_flight_bytes_max, 1, i64::MAX as u64 / 4, "nobody could send"),
            ("owner_stored_bytes_max", self.owner_stored_bytes_max, 1, i64::MAX as u64 / 4, "nobody could send"),
            ("bodies_max", self.bodies_max as u64, 1, 4_096, "nobody could send, or memory would run out"),
            ("lock_s", self.lock_s, 1, 600, "writers would lose their uploads, or nobody could go on after a crash"),
            (
                "presign_s",
                self.presign_s,
                1,
                7 * 86_400,
                "the bucket would refuse every part; S3 signs for a week at most",
            ),
            ("clamd_timeout_s", self.clamd_timeout_s, 1, 3_600, "no scan could end, or one that hangs never would"),
        ];
        let wrong = ranges.into_iter().filter(|(_, value, least, most, _)| !(*least..=*most).contains(value));
        let mut problems: Vec<String> = wrong
            .map(|(name, value, least, most, so)| {
                format!("uploads.{name} is {value}: {so}; set it to {least} up to {most}")
            })
            .collect();
        if let Some(clamd) = &self.clamd
            && !is_address(clamd)
        {
            problems.push(format!(
                "uploads.clamd is {clamd:?}: no upload could become ready; set it to /path/of/socket or host:port"
            ));
        }
        if profile == Profile::Production && self.clamd.is_none() && !self.unscanned {
            problems.push(
                "uploads.clamd is unset in production: nobody would look for viruses in what strangers send; set it to \
                 clamd's socket, or accept that with uploads.unscanned = true"
                    .to_owned(),
            );
        }
        problems
    }

    pub(super) fn notes(&self) -> Vec<String> {
        let limits = [
            ("audio", &self.audio_bytes_max.wrong, AUDIO),
            ("image", &self.image_bytes_max.wrong, IMAGE),
            ("video", &self.video_bytes_max.wrong, VIDEO),
        ];
        let wrong = limits.into_iter().filter_map(|(kind, wrong, default)| Some((kind, wrong.as_ref()?, default)));
        wrong
            .map(|(kind, wrong, default)| {
                format!(
                    "uploads.{kind}_bytes_max is {wrong}, which is no number of bytes from 1 to {LIMIT_MAX}: the default of \
                     {default} counts; correct it"
                )
            })
            .collect()
    }
}

/// As `intake` reads it.
fn is_address(text: &str) -> bool {
    let tcp = |(host, port): (&str, &str)| !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok();
    text.starts_with('/') || text.rsplit_once(':').is_some_and(tcp)
}

/// A limit that is never absent: what cannot be read is the default, and remembered to be said.
#[derive(Clone, Debug, PartialEq)]
pub struct Limit<const DEFAULT: u64> {
    bytes: u64,
    wrong: Option<String>,
}

impl<const DEFAULT: u64> Limit<DEFAULT> {
    /// The limit in bytes, at least 1.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn of(bytes: u64) -> Self {
        match (1..=LIMIT_MAX).contains(&bytes) {
            true => Limit { bytes, wrong: None },
            false => Self::wrong(bytes.to_string()),
        }
    }

    fn wrong(given: String) -> Self {
        Limit { bytes: DEFAULT, wrong: Some(given) }
    }
}

impl<const DEFAULT: u64> Default for Limit<DEFAULT> {
    fn default() -> Self {
        Limit { bytes: DEFAULT, wrong: None }
    }
}

impl<const DEFAULT: u64> Serialize for Limit<DEFAULT> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u64(self.bytes)
    }
}

impl<'de, const DEFAULT: u64> Deserialize<'de> for Limit<DEFAULT> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(Anything)
    }
}

/// Reads whatever is there.
struct Anything<const DEFAULT: u64>;

impl<'de, const DEFAULT: u64> Visitor<'de> for Anything<DEFAULT> {
    type Value = Limit<DEFAULT>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of bytes")
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Limit::of(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Self::Value, E> {
        Ok(u64::try_from(value).map_or_else(|_| Limit::wrong(value.to_string()), Limit::of))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Limit::wrong(value.to_string()))
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Limit::wrong(value.to_string()))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Self::Value, E> {
        let shown: String = value.chars().filter(|c| !c.is_control()).take(40).collect();
        Ok(Limit::wrong(format!("{shown:?}")))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Limit::wrong("a list".into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<String, IgnoredAny>()?.is_some() {}
        Err(A::Error::custom("invalid type: map, expected a number of bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Uploads {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_limit_that_cannot_be_used_is_the_default_and_never_none() {
        assert_eq!(read("").audio_bytes_max.bytes(), 104_857_600);
        assert_eq!(read("image_bytes_max = 7").image_bytes_max.bytes(), 7);
        assert!(read("image_bytes_max = 7").notes().is_empty());
        for wrong in ["0", "-1", "\"lots\"", "1.5", "true", "[]", "9223372036854775807", "\"100\""] {
            let uploads = read(&format!("audio_bytes_max = {wrong}"));
            assert_eq!(uploads.audio_bytes_max.bytes(), 104_857_600, "{wrong}");
            let notes = uploads.notes();
            assert!(notes.len() == 1 && notes[0].contains("uploads.audio_bytes_max is "), "{notes:?}");
            assert!(uploads.problems(Profile::Dev).is_empty());
        }
    }

    #[test]
    fn production_needs_a_scanner_or_a_word_that_there_is_none() {
        let said = |uploads: &Uploads| uploads.problems(Profile::Production);
        assert!(said(&Uploads::default())[0].contains("uploads.unscanned = true"));
        assert!(said(&read("unscanned = true")).is_empty());
        assert!(said(&read("clamd = \"/run/clamav/clamd.ctl\"")).is_empty());
        assert!(said(&read("clamd = \"clamd\""))[0].contains("uploads.clamd"));
        assert!(read("").problems(Profile::Dev).is_empty());
    }
}
