//! Targets of the control plane: fields of tus, signed callbacks, keys of the API, wishes in the queue, and what may be
//! written down at all.

use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use segue::api::keys::Keys;
use segue::auth::api_key;
use segue::base::redact;
use segue::base::secret::Secret;
use segue::jobs::transcode::Wish;
use segue::uploads::tus::{Checksum, METADATA_BYTES_MAX, Metadata};
use segue::workers::callbacks::{secret, signatures};

/// `Upload-Metadata` and `Upload-Checksum`, a line each, and bytes: read by a second reading of the protocol, and written
/// down again the same.
pub fn tus(data: &[u8]) {
    let mut lines = data.splitn(3, |byte| *byte == b'\n');
    let (metadata, checksum, bytes) =
        (lines.next().unwrap_or_default(), lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    if let Ok(text) = std::str::from_utf8(metadata)
        && let Ok(read) = Metadata::decode(text)
    {
        assert!(text.len() <= METADATA_BYTES_MAX);
        let again = Metadata::decode(&read.encode()).unwrap_or_else(|why| panic!("{text:?}: {why}"));
        assert_eq!(again, read, "{text:?}");
        for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once(' ').unwrap_or((pair, ""));
            let naive = STANDARD.decode(value.trim()).ok().and_then(|value| String::from_utf8(value).ok());
            assert_eq!(read.text(key), naive.as_deref().filter(|value| !value.is_empty()), "{key} of {text:?}");
        }
    }
    if let Ok(text) = std::str::from_utf8(checksum)
        && let Ok(mut wanted) = Checksum::decode(text)
    {
        let (name, value) = text.trim().split_once(' ').expect("a name and a value");
        let algorithm = if name == "sha1" { &digest::SHA1_FOR_LEGACY_USE_ONLY } else { &digest::SHA256 };
        let whole = digest::digest(algorithm, bytes);
        let (first, second) = bytes.split_at(bytes.len() / 2);
        wanted.update(first);
        wanted.update(second);
        assert_eq!(wanted.matches(), STANDARD.decode(value.trim()).unwrap() == whole.as_ref(), "{text:?}");
    }
}

/// A secret, an id, a body, a line each: the signature of a callback verifies by another implementation as the receiver's
/// libraries do it, and not for anything else.
pub fn callbacks(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.splitn(3, '\n');
    let (words, id, body) =
        (lines.next().unwrap_or_default(), lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let time_s = 1_800_000_000;
    let key = secret(words);
    let header = signatures(&[secret("another secret altogether"), key.clone()], id, time_s, body);
    let verifies = |secret: &Secret, id: &str, time_s: i64, body: &str| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose());
        header
            .split(' ')
            .filter_map(|one| STANDARD.decode(one.strip_prefix("v1,")?).ok())
            .any(|tag| hmac::verify(&key, format!("{id}.{time_s}.{body}").as_bytes(), &tag).is_ok())
    };
    assert!(verifies(&key, id, time_s, body), "{text:?}");
    assert!(!verifies(&key, id, time_s + 1, body), "{text:?} at another time");
    assert!(!verifies(&key, id, time_s, &format!("{body}x")), "{text:?} with another body");
    assert!(!verifies(&secret("forged"), id, time_s, body) || words == "forged", "{text:?} by a stranger");
}

/// Whatever is shown as a key of the API: read in one way only, and nobody's but the one that was made.
pub fn keys(data: &[u8]) {
    thread_local! {
        static MADE: (String, Keys) = {
            let (key, sha256) = segue::api::keys::make();
            let keys = Keys::new([("made", sha256.as_str()), ("broken", "no hash")].into_iter());
            (key, keys)
        };
    }
    let whose = |keys: &Keys, text: &str| {
        api_key::decode(text).and_then(|presented| keys.whose(&presented.sha256).map(str::to_owned))
    };
    MADE.with(|(key, keys)| {
        for line in data.split(|byte| *byte == b'\n').take(8) {
            let Ok(text) = std::str::from_utf8(line) else { continue };
            assert_eq!(whose(keys, text), None, "nobody can guess {text:?}");
            if let Some(read) = api_key::decode(text) {
                assert!(
                    api_key::is_meant(text) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
                );
                assert_eq!(read.sha256, digest::digest(&digest::SHA256, line).as_ref());
            }
        }
        // Ours opens; changed in any place, cut or longer it does not.
        assert_eq!(whose(keys, key).as_deref(), Some("made"));
        let at = data.iter().map(|byte| usize::from(*byte)).sum::<usize>() % key.len();
        let mut forged = key.clone().into_bytes();
        forged[at] = if forged[at] == b'a' { b'b' } else { b'a' };
        let forged = String::from_utf8(forged).expect("ASCII");
        for wrong in [forged.as_str(), &key[..at], &format!("{key}a"), &format!("{key} ")] {
            assert_eq!(whose(keys, wrong), None, "changed at {at}: {wrong:?}");
        }
    });
}

/// What the queue holds: what can be read can be written down again, and its rungs are those of its ladder.
pub fn wishes(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(wish) = Wish::decode(text) else { return };
    assert_eq!(Wish::decode(&wish.encode()).unwrap(), wish);
    assert!(wish.cost().cpu_milli > 0 && wish.cost().memory_bytes > 0);
    let _ = wish.choice();
    for rung in ["aac/96", "flac", "..", ""] {
        if let Ok(ladder) = wish.ladder_of(Some(&[rung.to_owned()])) {
            assert!(ladder.rungs.iter().all(|one| wish.ladder.rungs.contains(one)), "{rung}");
        }
    }
}

/// Whatever stands around it, a token in a URL, a bearer token and a key never get through.
pub fn redacted(data: &[u8]) {
    const SECRET: &str = "Zm9vYmFyc2VjcmV0MTIz";
    let text = String::from_utf8_lossy(data);
    if text.contains(SECRET) {
        return;
    }
    let (before, after) = text.split_once('\n').unwrap_or((&text, ""));
    for line in [
        format!("{before} https://media.example/a/x?token={SECRET}&expires=1 {after}"),
        format!("{before} /bcdn_token=HS256-{SECRET}&expires=1/a/x {after}"),
        format!("{before} Authorization: Bearer {SECRET} {after}"),
        format!("{before} postgres://user:{SECRET}@db/x {after}"),
        format!("{before} sgk_{SECRET} {after}"),
    ] {
        let clean = redact::text(&line);
        assert!(!clean.contains(SECRET), "{line:?} became {clean:?}");
        assert_eq!(redact::text(&clean), clean, "twice is once");
    }
}
