//! What a token opens, and that a refusal says nothing.

use segue::cdn::bunny::{self, Grant};

use super::bench::{Bench, KEY, NOW_S, Setup, TRACK, key};

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
    bench.get(&format!("{path}?{params}&CMCD=bl%3D1"), "").expect(403);
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
