//! What a signature opens and what it does not; `vectors_tests.rs` has what others signed.

use std::sync::OnceLock;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::RsaKeyPair;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;

use super::*;

const BASE: &str = "https://media.example.com";
const NOW: u64 = 1_800_000_000;
const PEER: &str = "192.0.2.7";
const OBJECT: &str = "/a/t/v/aac/96/00000.mp4";

/// A private key of this process.
pub(crate) fn pair() -> KeyPair {
    static KEY: OnceLock<rsa::Key> = OnceLock::new();
    let key = KEY.get_or_init(|| rsa::Key::from_pem(&pem()).unwrap());
    KeyPair { id: "K2".into(), key: key.clone() }
}

fn pem() -> String {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let der = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).unwrap();
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der.as_ref()))
}

fn keys() -> Keys {
    Keys::new(pair(), None, BASE)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn verify(keys: &Keys, query: &str, path: &str, peer: &str, now_s: u64) -> Result<(), Refused> {
    keys.verify(&Params::of_query(query)?, query, path, ip(peer), now_s)
}

fn sign(path: &str, address: Option<&str>) -> String {
    let grant = Grant { path, expires_s: NOW + 60, address: address.map(ip) };
    pair().sign_params(BASE, &grant).unwrap()
}

/// Signs any policy, as a signer we do not know would.
fn sign_policy(policy: &str) -> String {
    let signature = ENGINE.encode(pair().key.sign(policy.as_bytes()).unwrap());
    format!("Policy={}&Signature={signature}&Key-Pair-Id=K2&Hash-Algorithm=SHA256", encode(policy))
}

#[test]
fn a_canned_policy_opens_one_url_and_a_custom_one_a_directory() {
    let keys = keys();
    let (canned, custom) = (sign(OBJECT, None), sign("/a/t/v/aac/*", None));
    assert!(canned.starts_with("Expires=") && custom.starts_with("Policy="));
    for _ in 0..2 {
        // Twice: the second time from memory.
        assert_eq!(verify(&keys, &canned, OBJECT, PEER, NOW + 59), Ok(()));
        assert_eq!(verify(&keys, &canned, OBJECT, PEER, NOW + 60), Err(Refused::Expired));
        assert_eq!(verify(&keys, &canned, "/a/t/v/aac/96/00001.mp4", PEER, NOW), Err(Refused::Mismatch));
        assert_eq!(verify(&keys, &custom, OBJECT, PEER, NOW + 59), Ok(()));
        assert_eq!(verify(&keys, &custom, "/a/t/v/aac/master.m3u8", PEER, NOW), Ok(()));
        assert_eq!(verify(&keys, &custom, "/a/t/v/flac/00000.mp4", PEER, NOW), Err(Refused::WrongPath));
        assert_eq!(verify(&keys, &custom, OBJECT, PEER, NOW + 60), Err(Refused::Expired));
    }
    let elsewhere = Keys::new(pair(), None, "https://other.example.com");
    assert_eq!(verify(&elsewhere, &custom, OBJECT, PEER, NOW), Err(Refused::WrongPath), "the host is signed too");
}

#[test]
fn the_urls_own_parameters_are_signed_by_a_canned_policy() {
    let own = format!("{OBJECT}?b=1&c=2");
    let signed = sign(&own, None);
    let keys = keys();
    assert_eq!(verify(&keys, &format!("b=1&c=2&{signed}"), OBJECT, PEER, NOW), Ok(()));
    assert_eq!(verify(&keys, &format!("b=1&{signed}&c=2"), OBJECT, PEER, NOW), Ok(()));
    assert_eq!(verify(&keys, &format!("b=1&c=3&{signed}"), OBJECT, PEER, NOW), Err(Refused::Mismatch));
    assert_eq!(verify(&keys, &signed, OBJECT, PEER, NOW), Err(Refused::Mismatch));
    assert_eq!(verify(&keys, &format!("b=\"&{signed}"), OBJECT, PEER, NOW), Err(Refused::Malformed));
}

#[test]
fn an_address_binds() {
    let signed = sign("/a/t/v/aac/*", Some(PEER));
    let keys = keys();
    for _ in 0..2 {
        assert_eq!(verify(&keys, &signed, OBJECT, PEER, NOW), Ok(()));
        assert_eq!(verify(&keys, &signed, OBJECT, "::ffff:192.0.2.7", NOW), Ok(()));
        assert_eq!(verify(&keys, &signed, OBJECT, "192.0.2.8", NOW), Err(Refused::WrongAddress));
        assert_eq!(verify(&keys, &signed, OBJECT, "2001:db8::1", NOW), Err(Refused::WrongAddress));
    }
}

#[test]
fn cookies_carry_the_same() {
    let grant = Grant { path: "/a/t/v/aac/*", expires_s: NOW + 60, address: None };
    let cookies = pair().sign_cookies(BASE, &grant).unwrap();
    let header: Vec<String> = cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let header = format!("session=1; {}; CloudFront-Policy=second", header.join("; "));
    let params = Params::of_cookies([header.as_str()].into_iter()).unwrap();
    assert_eq!(keys().verify(&params, "", OBJECT, ip(PEER), NOW), Ok(()));
    assert_eq!(keys().verify(&params, "CMCD=x", OBJECT, ip(PEER), NOW), Ok(()));
    assert_eq!(keys().verify(&params, "", "/a/t/v/flac/0.mp4", ip(PEER), NOW), Err(Refused::WrongPath));
    // HTTP/2 sends one header for each cookie (RFC 9113 §8.2.3).
    let split = Params::of_cookies(header.split("; ")).unwrap();
    assert_eq!(keys().verify(&split, "", OBJECT, ip(PEER), NOW), Ok(()));
    assert!(Params::of_cookies(["cloudfront-signature=x; a=CloudFront-Signature=y", ""].into_iter()).is_none());
}

#[test]
fn conditions_come_in_any_order_and_unknown_ones_are_refused() {
    let conditions = r#""IpAddress":{"AWS:SourceIp":"192.0.2.0/24"},"DateGreaterThan":{"AWS:EpochTime":1799999999},"DateLessThan":{"AWS:EpochTime":1800000060}"#;
    let policy = |statement: &str| format!("{{\"Statement\":[{statement}]}}");
    let statement = format!("{{\"Condition\":{{{conditions}}},\"Resource\":\"http*://media.example.com/a/?/v/*\"}}");
    let signed = sign_policy(&policy(&statement));
    let keys = keys();
    assert_eq!(verify(&keys, &signed, OBJECT, PEER, NOW), Ok(()));
    assert_eq!(verify(&keys, &signed, OBJECT, PEER, NOW - 1), Err(Refused::NotYet));
    assert_eq!(verify(&keys, &signed, OBJECT, "192.0.3.1", NOW), Err(Refused::WrongAddress));
    assert_eq!(verify(&keys, &signed, "/a/tt/v/x", PEER, NOW), Err(Refused::WrongPath));
    for wrong in [
        policy(&format!("{{\"Condition\":{{{conditions}}}}}")),
        policy(&statement.replace("AWS:EpochTime", "Epoch")),
        policy(&statement.replace("DateGreaterThan", "Referer")),
        policy(&statement.replace("/24", "/33")),
        policy(&statement.replace("192.0.2.0/24", "everybody")),
        policy(&statement.replace("1800000060", "-1")),
        policy(&format!("{statement},{statement}")),
        policy(""),
        "[]".into(),
        "\u{1}".into(),
    ] {
        assert_eq!(verify(&keys, &sign_policy(&wrong), OBJECT, PEER, NOW), Err(Refused::Malformed), "{wrong}");
    }
}

#[test]
fn two_keys_are_live_and_are_told_apart_by_their_id() {
    let other = KeyPair { id: "K1".into(), key: rsa::Key::from_pem(&pem()).unwrap() };
    let signed = sign("/a/t/v/aac/*", None);
    let rotated = Keys::new(other.clone(), Some(pair()), BASE);
    assert_eq!(verify(&rotated, &signed, OBJECT, PEER, NOW), Ok(()));
    assert_eq!(verify(&rotated, &signed.replace("K2", "K1"), OBJECT, PEER, NOW), Err(Refused::Mismatch));
    let retired = Keys::new(other, None, BASE);
    assert_eq!(verify(&retired, &signed, OBJECT, PEER, NOW), Err(Refused::Mismatch));
}

#[test]
fn what_cannot_be_read_is_refused() {
    let (canned, custom) = (sign(OBJECT, None), sign("/a/t/v/aac/*", None));
    let keys = keys();
    for (query, expected) in [
        (format!("{canned}&Expires=1"), Refused::Malformed),
        (format!("{custom}&Expires=1"), Refused::Malformed),
        (custom.replace("SHA256", "MD5"), Refused::Malformed),
        (custom.replace("SHA256", "SHA1"), Refused::Mismatch),
        (canned.replace("Expires=", "Expires=0"), Refused::Malformed),
        (canned.replace("Signature=", "Signature=!"), Refused::Malformed),
        ("Expires=1&Key-Pair-Id=K2".into(), Refused::Missing),
        (format!("Signature={}&Key-Pair-Id=K2&Expires=1", "A".repeat(4_000)), Refused::Malformed),
        (format!("Signature=AAAA&Key-Pair-Id=K2&Policy={}", "A".repeat(4_000)), Refused::Malformed),
        (format!("{canned}&x={}", "y".repeat(3_000)), Refused::Malformed),
    ] {
        assert_eq!(verify(&keys, &query, OBJECT, PEER, NOW), Err(expected), "{query}");
    }
}

#[test]
fn every_cut_and_every_altered_byte_is_refused() {
    let keys = keys();
    for signed in [sign(OBJECT, None), sign("/a/t/v/aac/*", Some(PEER))] {
        assert_eq!(verify(&keys, &signed, OBJECT, PEER, NOW), Ok(()));
        for at in 0..signed.len() {
            let cut = &signed[..at];
            assert!(verify(&keys, cut, OBJECT, PEER, NOW).is_err(), "{cut}");
            for flip in [1, 2, 32] {
                let mut altered = signed.clone().into_bytes();
                altered[at] ^= flip;
                let altered = String::from_utf8(altered).unwrap();
                assert!(verify(&keys, &altered, OBJECT, PEER, NOW).is_err(), "{altered}");
            }
        }
    }
}

#[test]
fn wildcards_stand_for_anything() {
    let check = |pattern: &str, text: &str, expected| {
        assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
    };
    check("/a/*", "/a/b/c", true);
    check("/a/*", "/a/", true);
    check("/a/*", "/b/", false);
    check("/a/*/c", "/a/b/c/d/c", true);
    check("/a/*/c", "/a/b/c/d", false);
    check("/?/b", "/a/b", true);
    check("/?/b", "//b", false);
    check("", "", true);
    check("", "a", false);
    check("***", "", true);
    check(&"*a".repeat(50), &"b".repeat(500), false);
}

#[test]
fn networks_begin_alike() {
    let check = |network: &str, peer: &str, expected| {
        assert_eq!(Network::read(network).map(|network| network.contains(ip(peer))), expected, "{network} {peer}");
    };
    check("10.0.0.0/8", "10.255.0.1", Some(true));
    check("10.0.0.0/8", "11.0.0.1", Some(false));
    check("0.0.0.0/0", "11.0.0.1", Some(true));
    check("1.2.3.4", "1.2.3.4", Some(true));
    check("1.2.3.4/32", "1.2.3.5", Some(false));
    check("2001:db8::/32", "2001:db8:1::1", Some(true));
    check("::/0", "2001:db8:1::1", Some(true));
    check("::/0", "1.2.3.4", Some(false));
    for wrong in ["1.2.3.4/33", "1.2.3.4/", "1.2.3.4/-1", "1.2.3.4/08", "1.2.3/8", "", "/"] {
        check(wrong, "1.2.3.4", None);
    }
}

proptest! {
    // A failure becomes a case of the table above, not a file of seeds.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_read_without_panic(text in "\\PC{0,200}", value in "[A-Za-z0-9~_-]{0,80}", path in "\\PC{0,50}") {
        for query in [text.clone(), format!("Signature={value}&Key-Pair-Id=K2&Policy={value}"),
            format!("Signature={value}&Key-Pair-Id=K2&Expires={text}")] {
            prop_assert!(verify(&keys(), &query, &path, PEER, NOW).is_err());
        }
        let _ = Params::of_cookies([text.as_str()].into_iter());
    }

    /// The fast one against the definition.
    #[test]
    fn wildcards_agree_with_their_definition(pattern in "[ab*?]{0,8}", text in "[ab?]{0,8}") {
        fn slow(pattern: &[u8], text: &[u8]) -> bool {
            match (pattern, text) {
                ([], []) => true,
                ([b'*', rest @ ..], _) => (0..=text.len()).any(|skip| slow(rest, &text[skip..])),
                ([c, rest @ ..], [t, text @ ..]) => (*c == b'?' || c == t) && slow(rest, text),
                _ => false,
            }
        }
        prop_assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), slow(pattern.as_bytes(), text.as_bytes()));
    }
}
