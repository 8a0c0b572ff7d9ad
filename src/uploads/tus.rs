//! The header fields of tus 1.0.0 (<https://tus.io/protocols/resumable-upload>), read strictly. Pure.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The version that is spoken.
pub const VERSION: &str = "1.0.0";
/// What is offered beyond the core.
pub const EXTENSIONS: &str = "creation,creation-with-upload,expiration,checksum,termination";
/// Names of the checksums.
pub const CHECKSUMS: &str = "sha1,sha256";
/// The longest `Upload-Metadata`, in bytes.
pub const METADATA_BYTES_MAX: usize = 4096;
/// The most pairs in it.
const METADATA_PAIRS_MAX: usize = 32;

/// `Upload-Metadata`: keys with values, both checked.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Metadata(Vec<(String, Vec<u8>)>);

impl Metadata {
    /// Reads `key base64, key2`; keys are ASCII, not empty, without space or comma, and there once.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(text: &str) -> Result<Metadata, String> {
        if text.len() > METADATA_BYTES_MAX {
            return Err(format!("Upload-Metadata is longer than {METADATA_BYTES_MAX} bytes"));
        }
        let mut pairs: Vec<(String, Vec<u8>)> = Vec::new();
        for pair in text.split(',').map(str::trim).filter(|_| !text.trim().is_empty()) {
            let (key, value) = pair.split_once(' ').unwrap_or((pair, ""));
            if key.is_empty() || !key.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(format!("Upload-Metadata has the key {key:?}: keys are visible ASCII without comma"));
            }
            if pairs.iter().any(|(known, _)| known == key) {
                return Err(format!("Upload-Metadata has the key {key} twice"));
            }
            let value = STANDARD.decode(value.trim());
            let value = value.map_err(|_| format!("Upload-Metadata has a value of {key} that is not base64"))?;
            pairs.push((key.to_owned(), value));
            if pairs.len() > METADATA_PAIRS_MAX {
                return Err(format!("Upload-Metadata has more than {METADATA_PAIRS_MAX} keys"));
            }
        }
        Ok(Metadata(pairs))
    }

    /// The value of a key as text; `None` when there is none, it is empty or not UTF-8.
    pub fn text(&self, key: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(known, _)| known == key)?;
        std::str::from_utf8(value).ok().filter(|text| !text.is_empty())
    }

    /// The same in one spelling.
    pub fn encode(&self) -> String {
        let pairs = self.0.iter().map(|(key, value)| match value.is_empty() {
            true => key.clone(),
            false => format!("{key} {}", STANDARD.encode(value)),
        });
        pairs.collect::<Vec<_>>().join(",")
    }
}

/// `Upload-Checksum`: what the bytes of one request must be.
pub struct Checksum {
    so_far: digest::Context,
    wanted: Vec<u8>,
}

impl std::fmt::Debug for Checksum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checksum").finish_non_exhaustive()
    }
}

impl Checksum {
    /// Reads `sha1 base64`.
    ///
    /// # Errors
    /// What is wrong with it: an algorithm that is not offered, or no digest of its length.
    pub fn decode(text: &str) -> Result<Checksum, String> {
        let (name, value) = text.trim().split_once(' ').unwrap_or((text, ""));
        let algorithm = match name {
            "sha1" => &digest::SHA1_FOR_LEGACY_USE_ONLY, // against damage, not against forgers
            "sha256" => &digest::SHA256,
            _ => return Err(format!("there is no checksum {name:?}; use one of {CHECKSUMS}")),
        };
        let wanted = STANDARD.decode(value.trim()).map_err(|_| format!("the {name} is not base64"))?;
        if wanted.len() != algorithm.output_len() {
            return Err(format!("the {name} has {} bytes and not {}", wanted.len(), algorithm.output_len()));
        }
        Ok(Checksum { so_far: digest::Context::new(algorithm), wanted })
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.so_far.update(bytes);
    }

    /// Whether it was all of them.
    pub fn matches(self) -> bool {
        self.so_far.finish().as_ref() == self.wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_read_strictly_and_written_in_one_spelling() {
        let read = Metadata::decode("filename d29ybGRfZG9taW5hdGlvbl9wbGFuLnBkZg==,is_confidential").unwrap();
        assert_eq!(read.text("filename"), Some("world_domination_plan.pdf"));
        assert_eq!(read.text("is_confidential"), None);
        assert_eq!(read.encode(), "filename d29ybGRfZG9taW5hdGlvbl9wbGFuLnBkZg==,is_confidential");
        assert_eq!(Metadata::decode("").unwrap(), Metadata::default());
        for bad in ["a YQ==,a YQ==", "a ***", "é YQ==", ",", "a YQ==,", &"k,".repeat(40), &"x".repeat(5000)] {
            assert!(Metadata::decode(bad).is_err(), "{bad}");
        }
        let many: Vec<_> = (0..33).map(|n| format!("k{n}")).collect();
        assert!(Metadata::decode(&many.join(",")).is_err());
    }

    #[test]
    fn checksums_match_their_bytes_and_no_others() {
        // RFC 3174 §7.3: "abc".
        let sha1 = || Checksum::decode("sha1 qZk+NkcGgWq6PiVxeFDCbJzQ2J0=").unwrap();
        let mut right = sha1();
        right.update(b"a");
        right.update(b"bc");
        assert!(right.matches());
        let mut wrong = sha1();
        wrong.update(b"abd");
        assert!(!wrong.matches());
        for bad in ["md5 qZk+NkcGgWq6PiVxeFDCbJzQ2J0=", "sha1", "sha1 YQ==", "sha256 qZk+NkcGgWq6PiVxeFDCbJzQ2J0="] {
            assert!(Checksum::decode(bad).is_err(), "{bad}");
        }
    }
}
