//! `tests/data/signing_vectors.json`: what the CDNs publish and what was computed from their formulas. The
//! origin accepts each, and where we sign the same thing, we sign the same text.

use serde_json::Value;

use super::bunny::{Accept, Grant};
use super::cloudflare::Encoding;
use super::*;
use crate::base::secret::Secret;

/// Shortly before the Bunny vectors expire, shortly after the Cloudflare ones were signed.
const NOW_S: u64 = 1_598_024_587;
const OTHER: &str = "203.0.113.9";

fn vectors(section: &str) -> Value {
    let all: Value = serde_json::from_str(include_str!("../../tests/data/signing_vectors.json")).unwrap();
    all[section].clone()
}

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or_default()
}

/// The text, or nothing when it is empty.
fn given<'v>(value: &'v Value, name: &str) -> Option<&'v str> {
    Some(text(value, name)).filter(|text| !text.is_empty())
}

fn key(secret: &str) -> bunny::Key {
    bunny::Key::new(&Secret::new(secret.as_bytes())).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Splits a URL as a request does, and asks.
#[track_caller]
fn check(verifier: &Verifier, url: &str, peer: IpAddr, now_s: u64, expected: Result<(), Refused>) {
    let path_at = url.find("://").map_or(0, |at| at + 3 + url[at + 3..].find('/').unwrap());
    let (path, query) = url[path_at..].split_once('?').unwrap_or((&url[path_at..], ""));
    let (presented, path) = match bunny::split_path(path) {
        Some((component, path)) => (Presented::Path(component), path),
        None => (Presented::Query(query), path),
    };
    assert_eq!(verifier.verify(presented, path, peer, now_s), expected, "{url}");
}

#[test]
fn bunny_hs256() {
    let section = vectors("bunny_hs256");
    let key = key(text(&section, "key"));
    let verifier: Verifier = bunny::Keys::new(key.clone(), None).into();
    let expires_s = section["expires"].as_u64().unwrap();
    let cases = section["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 15);
    for case in cases {
        let grant = Grant {
            path: text(case, "path"),
            token_path: given(case, "pathAllowed"),
            expires_s,
            address: given(case, "userIp").map(ip),
            countries: given(case, "countriesAllowed"),
            countries_blocked: given(case, "countriesBlocked"),
            ignore_params: case["ignoreParams"].as_bool().unwrap(),
            limit_kbps: case["speedLimit"].as_u64().map(|limit| limit as u32).filter(|limit| *limit > 0),
        };
        let host = "https://token-tester.b-cdn.net";
        let signed = match case["isDirectory"].as_bool().unwrap() {
            true => format!("{host}{}{}", key.sign_prefix(&grant), grant.path),
            false => format!("{host}{}?{}", grant.path, key.sign_params(&grant)),
        };
        assert_eq!(signed, text(case, "signedUrl"), "{case}");
        let peer = grant.address.unwrap_or(ip(OTHER));
        check(&verifier, &signed, peer, expires_s, Ok(()));
        check(&verifier, &signed, peer, expires_s + 1, Err(Refused::Expired));
        if grant.address.is_some() {
            check(&verifier, &signed, ip(OTHER), expires_s, Err(Refused::WrongAddress));
        }
    }
    let directory = vectors("bunny_hs256_hls_directory");
    let url = text(&directory, "signedUrl");
    assert!(url.contains(&bunny::sign_directory(&key, "/a/trk_01/", expires_s)));
    check(&verifier, url, ip(OTHER), expires_s, Ok(()));
}

#[test]
fn bunny_before_2026_is_verified_when_it_is_configured() {
    let keys = bunny::Keys::new(key("new"), Some(key("SecurityKey")));
    let both: Verifier = keys.clone().accepting(Accept { sha256: true, md5: true }).into();
    let none: Verifier = keys.clone().into();
    let crossed = [Accept { sha256: false, md5: true }, Accept { sha256: true, md5: false }];
    let crossed: [Verifier; 2] = crossed.map(|accept| keys.clone().accepting(accept).into());
    for (section, only_other) in [("bunny_sha256_legacy", &crossed[0]), ("bunny_md5_basic", &crossed[1])] {
        for case in vectors(section)["cases"].as_array().unwrap() {
            let (path, token) = (text(case, "path"), text(case, "token"));
            let params = given(case, "params").map(|params| format!("&{params}")).unwrap_or_default();
            let url = format!("{path}?token={token}{params}&expires={NOW_S}");
            let peer = given(case, "ip").map_or(ip(OTHER), ip);
            check(&both, &url, peer, NOW_S, Ok(()));
            check(&both, &url, peer, NOW_S + 1, Err(Refused::Expired));
            check(
                &both,
                &url.replacen(path, "/other", 1),
                peer,
                NOW_S,
                match params.contains("token_path=/") {
                    true if params.contains("token_path=/abc") => Err(Refused::WrongPath),
                    true => Ok(()), // it opens everything below /
                    false => Err(Refused::Mismatch),
                },
            );
            if case["ip"].is_string() {
                check(&both, &url, ip("1.2.3.5"), NOW_S, Err(Refused::Mismatch));
            } else if section == "bunny_sha256_legacy" {
                let token_path = params.split_once("token_path=").map(|(_, path)| path);
                let countries = params.split_once("token_countries=").map(|_| "CA");
                let countries_blocked = params.split_once("token_countries_blocked=").map(|_| "CA");
                let grant =
                    Grant { path, token_path, expires_s: NOW_S, countries, countries_blocked, ..Grant::default() };
                assert!(
                    key("SecurityKey").sign_params_sha256(&grant).starts_with(&format!("token={token}&")),
                    "{case}"
                );
            }
            check(&none, &url, peer, NOW_S, Err(Refused::Scheme));
            check(only_other, &url, peer, NOW_S, Err(Refused::Scheme));
        }
    }
}

#[test]
fn cloudflare_is_timed_hmac_valid_v0() {
    for case in vectors("cloudflare_is_timed_hmac_valid_v0")["cases"].as_array().unwrap() {
        let secret = Secret::new(text(case, "key").as_bytes());
        let key = cloudflare::Key::new(&secret).unwrap();
        let keys = cloudflare::Keys::new(key.clone(), None, 60);
        let verifier = Verifier { cloudflare: Some(keys), ..Verifier::default() };
        let signed_s = text(case, "ts").parse().unwrap();
        let message = text(case, "message");
        for (form, encoding) in [("flagless", Encoding::Standard), ("flag_s", Encoding::UrlSafe)] {
            let url = text(case, form);
            assert_eq!(format!("{message}?{}", key.sign(message, signed_s, encoding)), url);
            check(&verifier, url, ip(OTHER), signed_s + 59, Ok(()));
            check(&verifier, url, ip(OTHER), signed_s + 60, Err(Refused::Expired));
        }
    }
}

fn cloudfront(id: &str, pem: &str, base: &str) -> Verifier {
    let key = rsa::Key::from_pem(pem).unwrap();
    let keys = cloudfront::Keys::new(cloudfront::KeyPair { id: id.into(), key }, None, base);
    Verifier { cloudfront: Some(keys), ..Verifier::default() }
}

/// aws-cli's own test (`tests/functional/cloudfront/test_sign.py`): SHA-1, canned, and custom with an address.
#[test]
fn cloudfront_as_aws_cli_signs() {
    const CUSTOM: &str = "Vw-WG18WJJXim7YSGWS-zW~XmFB9MjCDOvgC~2Gz-1wiMQzCrXzYYbSE7-aF6JGOOb5ewArpMqmu2g5mohnqgieZX1NY6IOteDo\
        XYgqaNj1DafHWQD6UJ3IKVfkxISU9OmFPoG7H~VSPWEzOxdjOqdIPvAU2pW2mJ5oWu2aL62s0VVtLGCAm-DahiSQisl0JbzpPyG1pofvPbT75qc71r9u\
        iqSAbPjUF5nmLCZazVnFjDkj3zIgMRYa5aV54VDa6-wEizzmjQ3-m6UMoYgcGHQXEjoFIWTfpZvbZBYkmK9lk3d16cgvaHafTJ-CPegn1bKxfgNEjSAo\
        PWS0OvBkRmg__";
    let section = vectors("cloudfront_published_awscli");
    let verifier = cloudfront("my_id", include_str!("../../tests/data/cloudfront_awscli.pem"), "http://example.com");
    let canned = text(&section, "canned_signature");
    let url = format!("http://example.com/hi?Expires=1451606400&Signature={canned}&Key-Pair-Id=my_id");
    check(&verifier, &url, ip(OTHER), 1_451_606_399, Ok(()));
    check(&verifier, &url, ip(OTHER), 1_451_606_400, Err(Refused::Expired));
    check(&verifier, &url.replace("/hi?", "/ho?"), ip(OTHER), 1_451_606_399, Err(Refused::Mismatch));
    check(&verifier, &format!("{url}&Hash-Algorithm=SHA256"), ip(OTHER), 1_451_606_399, Err(Refused::Mismatch));
    let policy = cloudfront::encode(text(&section, "custom_policy"));
    let url = format!("http://example.com/hi?Policy={policy}&Signature={CUSTOM}&Key-Pair-Id=my_id");
    check(&verifier, &url, ip("12.34.56.78"), 1_451_606_399, Ok(()));
    check(&verifier, &url, ip("12.34.56.79"), 1_451_606_399, Err(Refused::WrongAddress));
}

#[test]
fn cloudfront_with_both_hashes_and_a_wildcard() {
    const BASE: &str = "https://d111111abcdef8.cloudfront.net";
    const LAST_S: u64 = 1_767_290_399;
    let section = vectors("cloudfront_generated");
    let verifier = cloudfront("K1", include_str!("../../tests/data/cloudfront_generated.pem"), BASE);
    for (canned, custom, hash) in [
        ("sig_sha1", "custom_sig_sha1", ""),
        ("sig_sha256 (add &Hash-Algorithm=SHA256)", "custom_sig_sha256", "&Hash-Algorithm=SHA256"),
    ] {
        let (canned, custom, policy) = (text(&section, canned), text(&section, custom), text(&section, "Policy"));
        let url = format!("{BASE}/image.jpg?Expires={}&Signature={canned}&Key-Pair-Id=K1{hash}", LAST_S + 1);
        check(&verifier, &url, ip(OTHER), LAST_S, Ok(()));
        check(&verifier, &url, ip(OTHER), LAST_S + 1, Err(Refused::Expired));
        assert_eq!(cloudfront::encode(text(&section, "custom_policy")), policy);
        let params = format!("Policy={policy}&Signature={custom}&Key-Pair-Id=K1{hash}");
        check(&verifier, &format!("{BASE}/a/trk_01/aac/0.mp4?{params}"), ip(OTHER), LAST_S, Ok(()));
        check(&verifier, &format!("{BASE}/a/trk_01/0.mp4?own=1&{params}"), ip(OTHER), LAST_S, Ok(()));
        check(&verifier, &format!("{BASE}/a/trk_02/0.mp4?{params}"), ip(OTHER), LAST_S, Err(Refused::WrongPath));
        check(&verifier, &format!("{BASE}/a/trk_01/0.mp4?{params}"), ip(OTHER), LAST_S + 1, Err(Refused::Expired));
    }
}

#[test]
fn a_scheme_without_a_key_is_refused() {
    let verifier = Verifier::default();
    for url in ["/bcdn_token=HS256-x&expires=1/a", "/a?token=x&expires=1", "/a?Signature=x", "/a?verify=1"] {
        check(&verifier, url, ip(OTHER), 0, Err(Refused::Scheme));
    }
    check(&verifier, "/a?CMCD=bl", ip(OTHER), 0, Err(Refused::Missing));
    check(&verifier, "/a", ip(OTHER), 0, Err(Refused::Missing));
}
