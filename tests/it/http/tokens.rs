//! What a token opens, and that a refusal says nothing.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use base64::Engine as _;
use segue::base::secret::Secret;
use segue::cdn::bunny::{self, Grant};
use segue::cdn::{Verifier, cloudflare, cloudfront, rsa};
use segue::origin::{Options, SecretHeader};

use super::bench::{Bench, KEY, NOW_S, Reply, Setup, TRACK, key};

fn guarded() -> Bench {
    Bench::with(Setup { origin: Default::default(), ..Setup::default() })
}

#[test]
fn a_directory_token_opens_its_directory_to_the_last_second() {
    let bench = guarded();
    let path = bench.a("aac/96/00000.mp4");
    let signed = bench.signed(&bench.a("aac/"), &path);
    let whole = bench.get(&signed, "");
    whole.expect(200);
    bench.get(&signed, "Range: bytes=0-9\r\n").expect(206);
    bench.request("HEAD", &signed, "").expect(200);
    bench.get(&bench.signed(&bench.a(""), &path), "").expect(200);
    bench.clock.advance(60);
    bench.get(&signed, "").expect(200);
    bench.clock.advance(1);
    bench.get(&signed, "").expect(403);
}

#[test]
fn what_a_token_does_not_cover_stays_shut() {
    let bench = guarded();
    let aac = bench.a("aac/");
    let segment = bench.a("aac/96/00000.mp4");
    let good = bench.signed(&aac, &segment);
    bench.get(&good, "").expect(200);
    let other_track = format!("/a/{TRACK}x/");
    let expired = bunny::sign_directory(&key(KEY), &aac, NOW_S - 1) + &segment;
    let forged = bunny::sign_directory(&key("guess"), &aac, NOW_S + 60) + &segment;
    for (what, path) in [
        ("no token", segment.clone()),
        ("lossless with the token of the lossy", bench.signed(&aac, &bench.a("flac/00000.mp4"))),
        ("everything with the token of the lossy", bench.signed(&aac, &bench.a("master.m3u8"))),
        ("a download with a listener's token", bench.signed(&aac, &bench.published.path("d", "aac-96.mp4"))),
        ("another track's token", bench.signed(&other_track, &segment)),
        ("expired", expired),
        ("signed by somebody else", forged),
        ("a later expiry", good.replace(&(NOW_S + 60).to_string(), &(NOW_S + 61).to_string())),
        ("a wider path", good.replace("aac%2F&", "&")),
        ("a repeated parameter", good.replace("&expires", "&expires=1&expires")),
        ("cut", good.replace("HS256-", "HS256-1-")),
        ("no signature", good.replace("bcdn_token=HS256-", "bcdn_token=")),
        ("a query that is no token", format!("{segment}?token=&expires=9999999999")),
    ] {
        let reply = bench.get(&path, "");
        assert_eq!(reply.status, 403, "{what}: {path}");
        assert_eq!(reply.body, b"forbidden\n", "{what}");
        assert_eq!(reply.header("cache-control"), Some("no-store"), "{what}");
        assert_eq!(reply.header("access-control-allow-origin"), Some("*"), "{what}");
    }
}

#[test]
fn a_query_token_opens_one_object() {
    let bench = guarded();
    let path = bench.published.path("d", "aac-96.mp4");
    let grant = Grant { path: &path, expires_s: NOW_S + 60, ..Grant::default() };
    let params = key(KEY).sign_params(&grant);
    bench.get(&format!("{path}?{params}"), "").expect(200);
    // A player adds CMCD to a URL that was signed without it; it selects nothing.
    bench.get(&format!("{path}?{params}&CMCD=bl%3D1"), "").expect(200);
    bench.get(&format!("{path}?CMCD=bl%3D1&{params}"), "").expect(200);
    bench.get(&format!("{path}?{params}&x=1"), "").expect(403);
    bench.get(&format!("{path}?{params}&x=1&CMCD=bl%3D1"), "").expect(403);
    bench.get(&format!("{path}?{params}&CMCD=bl%3D1&expires=9999999999"), "").expect(403);
    bench.get(&format!("{}?{params}", bench.published.path("d", "flac.mp4")), "").expect(403);
    let lax = key(KEY).sign_params(&Grant { ignore_params: true, ..grant });
    bench.get(&format!("{path}?{lax}&CMCD=bl%3D1"), "").expect(200);
    let bound = key(KEY).sign_params(&Grant { address: Some("127.0.0.1".parse().unwrap()), ..grant });
    bench.get(&format!("{path}?{bound}"), "").expect(200);
    let elsewhere = key(KEY).sign_params(&Grant { address: Some("192.0.2.1".parse().unwrap()), ..grant });
    bench.get(&format!("{path}?{elsewhere}"), "").expect(403);
    bench.get(&format!("{path}?{elsewhere}"), "X-Real-IP: 192.0.2.1\r\n").expect(403);
}

#[test]
fn previews_and_waveforms_and_preflights_take_no_token() {
    let bench = guarded();
    bench.get(&bench.published.path("p", "preview.m4a"), "").expect(200);
    bench.get(&bench.published.path("w", "peaks.bin"), "").expect(200);
    bench.get(&bench.published.path("w", "peaks.json"), "").expect(200);
    bench.request("OPTIONS", &bench.a("aac/96/00000.mp4"), "").expect(204);
}

#[test]
fn an_open_origin_strips_any_token() {
    let bench = Bench::open();
    let path = bench.a("aac/96/00000.mp4");
    bench.get(&path, "").expect(200);
    bench.get(&format!("/bcdn_token=anything&expires=1{path}"), "").expect(200);
}

const BASE: &str = "https://media.example.com";

fn cloudfront_pair() -> cloudfront::KeyPair {
    let pair = aws_lc_rs::signature::RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
    let der = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).unwrap();
    let body = base64::engine::general_purpose::STANDARD.encode(der.as_ref());
    let key = rsa::Key::from_pem(&format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----")).unwrap();
    cloudfront::KeyPair { id: "K1".into(), key }
}

fn cloudflare_key() -> cloudflare::Key {
    cloudflare::Key::new(&Secret::new(KEY.as_bytes())).unwrap()
}

/// A server that takes the tokens of all three CDNs.
fn with_every_scheme(pair: &cloudfront::KeyPair, origin: Options) -> Bench {
    let accept = bunny::Accept { sha256: true, md5: false };
    let verifier = Verifier {
        bunny: Some(bunny::Keys::new(key(KEY), None).accepting(accept)),
        cloudfront: Some(cloudfront::Keys::new(pair.clone(), None, BASE)),
        cloudflare: Some(cloudflare::Keys::new(cloudflare_key(), None, 60)),
    };
    Bench::with(Setup { origin, verifier, ..Setup::default() })
}

/// Every way to ask for `path` with a token of `directory`: the request target, and header lines.
fn every_way(pair: &cloudfront::KeyPair, directory: &str, path: &str) -> Vec<(&'static str, String, String)> {
    let grant = Grant { path: directory, token_path: Some(directory), expires_s: NOW_S + 59, ..Grant::default() };
    let wildcard = format!("{directory}*");
    let policy = cloudfront::Grant { path: &wildcard, expires_s: NOW_S + 60, address: None };
    let cookies = pair.sign_cookies(BASE, &policy).unwrap();
    let cookies: Vec<_> = cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let none = String::new;
    vec![
        ("bunny, path", format!("{}{path}", key(KEY).sign_prefix(&grant)), none()),
        ("bunny, query", format!("{path}?{}", key(KEY).sign_params(&grant)), none()),
        ("bunny, SHA-256", format!("{path}?{}", key(KEY).sign_params_sha256(&grant)), none()),
        ("cloudfront, query", format!("{path}?{}", pair.sign_params(BASE, &policy).unwrap()), none()),
        ("cloudfront, cookies", path.to_owned(), format!("Cookie: a=b; {}\r\n", cookies.join("; "))),
        (
            "cloudflare",
            format!("{path}?{}", cloudflare_key().sign(directory, NOW_S, cloudflare::Encoding::UrlSafe)),
            none(),
        ),
    ]
}

fn without_date(reply: &Reply) -> Vec<(String, String)> {
    let varies = |name: &str| matches!(name, "date" | "server-timing");
    reply.headers.iter().filter(|(name, _)| !varies(name)).cloned().collect()
}

/// A cache must hold one copy, whoever asks and however: same bytes, same headers, nothing set on a client.
#[test]
fn an_object_is_the_same_under_every_token() {
    let pair = cloudfront_pair();
    let bench = with_every_scheme(&pair, Options::default());
    for object in ["aac/master.m3u8", "aac/96/index.m3u8", "aac/96/init.mp4", "aac/96/00000.mp4"] {
        let path = bench.a(object);
        let mut first: Option<Reply> = None;
        for (way, target, lines) in every_way(&pair, &bench.a("aac/"), &path) {
            let reply = bench.get(&target, &lines);
            assert_eq!(reply.status, 200, "{way}: {target}");
            let vary = object.ends_with(".m3u8").then_some("Accept-Encoding");
            assert_eq!((reply.header("set-cookie"), reply.header("vary")), (None, vary), "{way}");
            let first = first.get_or_insert_with(|| bench.get(&target, &lines));
            assert_eq!(reply.body, first.body, "{way}: {object}");
            assert_eq!(without_date(&reply), without_date(first), "{way}: {object}");
        }
    }
}

#[test]
fn every_scheme_ends_at_its_directory_and_its_time() {
    let pair = cloudfront_pair();
    let bench = with_every_scheme(&pair, Options::default());
    let (aac, flac) = (bench.a("aac/96/00000.mp4"), bench.a("flac/00000.mp4"));
    for (way, target, lines) in every_way(&pair, &bench.a("aac/"), &aac) {
        let separator = if target.contains('?') { '&' } else { '?' };
        let measured = format!("{target}{separator}CMCD=br%3D160%2Cot%3Da");
        assert_eq!(bench.get(&measured, &lines).status, 200, "{way} with what a player adds");
    }
    for (way, target, lines) in every_way(&pair, &bench.a("aac/"), &flac) {
        assert_eq!(bench.get(&target, &lines).status, 403, "{way} for another directory");
    }
    let ways = every_way(&pair, &bench.a("aac/"), &aac);
    for (way, target, lines) in &ways {
        assert_eq!(bench.get(target, lines).status, 200, "{way}");
    }
    bench.clock.advance(59);
    for (way, target, lines) in &ways {
        assert_eq!(bench.get(target, lines).status, 200, "{way} in its last second");
    }
    bench.clock.advance(1);
    for (way, target, lines) in &ways {
        let reply = bench.get(target, lines);
        assert_eq!((reply.status, reply.body.as_slice()), (403, &b"forbidden\n"[..]), "{way} a second later");
    }
}

#[test]
fn playlists_hand_query_tokens_on_and_the_children_open() {
    const NAMES: &[&str] = &["token", "token_path", "expires"];
    let bench = with_every_scheme(&cloudfront_pair(), Options { handed_on: NAMES, ..Options::default() });
    let directory = bench.a("aac/");
    let grant = Grant { path: &directory, token_path: Some(&directory), expires_s: NOW_S + 60, ..Grant::default() };
    let params = key(KEY).sign_params(&grant);
    // As a player does: it decodes the parameters of the playlist it loaded and puts them where they are named.
    let decoded = params.replace("%2F", "/");
    let values: Vec<(&str, &str)> = decoded.split('&').map(|pair| pair.split_once('=').unwrap()).collect();
    let load = |path: &str| {
        let text = String::from_utf8(bench.get(path, "").expect(200).body.clone()).unwrap();
        for name in NAMES {
            assert!(text.contains(&format!("#EXT-X-DEFINE:QUERYPARAM=\"{name}\"\n")), "{text}");
        }
        assert!(!text.contains("HS256-"), "a playlist holds no values: {text}");
        values.iter().fold(text, |text, (name, value)| text.replace(&format!("{{${name}}}"), value))
    };
    let master = load(&format!("{directory}master.m3u8?{params}"));
    let media = master.lines().find(|line| line.contains("index.m3u8")).unwrap();
    assert!(media.starts_with("96/index.m3u8?token=HS256-"), "{media}");
    let media = load(&format!("{directory}{media}"));
    let mut children: Vec<&str> = media.lines().filter(|line| !line.starts_with('#')).collect();
    children.push(media.split_once("#EXT-X-MAP:URI=\"").unwrap().1.split_once('"').unwrap().0);
    assert_eq!(children.len(), 4);
    for child in children {
        bench.get(&format!("{directory}96/{child}"), "").expect(200);
    }
}

#[test]
fn media_behind_a_cdn_asks_for_the_cdns_secret_first() {
    let secret_headers =
        ["X-Origin-Secret: new", "X-Origin-Secret: old"].map(|text| SecretHeader::decode(text).unwrap());
    let origin = Options { secret_headers: secret_headers.into(), ..Options::default() };
    let bench = with_every_scheme(&cloudfront_pair(), origin);
    let signed = bench.signed(&bench.a("aac/"), &bench.a("aac/96/00000.mp4"));
    let preview = bench.published.path("p", "preview.m4a");
    for path in [signed.as_str(), &preview, "/a/nonsense"] {
        for lines in ["", "X-Origin-Secret: guess\r\n", "X-Origin-Secret: ne\r\n", "X-Other: new\r\n"] {
            let reply = bench.get(path, lines);
            assert_eq!((reply.status, reply.header("cache-control")), (403, Some("no-store")), "{path} {lines}");
        }
    }
    for value in ["new", "old"] {
        let lines = format!("X-Origin-Secret: {value}\r\n");
        bench.get(&signed, &lines).expect(200);
        bench.get(&preview, &lines).expect(200);
        bench.get("/a/nonsense", &lines).expect(404);
        bench.get(&bench.a("aac/96/00000.mp4"), &lines).expect(403);
    }
}
