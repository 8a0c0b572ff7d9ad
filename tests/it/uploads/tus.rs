//! tus 1.0.0, rule by rule, and a server that is killed at random offsets.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use super::{Api, MIB, STREAM, Site, TUS, V1, answer, begin, sha256, wav};
use crate::support::Random;

#[test]
fn every_rule_of_tus_holds() {
    let site = Site::local();
    let api = site.serve();
    rules(&api, &site);
}

/// Asked of files here and of a bucket in `bucket.rs`.
pub(super) fn rules(api: &Api, site: &Site) {
    // OPTIONS needs no key and no version.
    let offered = super::send(api.addr, "OPTIONS", TUS, &[], b"");
    assert_eq!(offered.status, 204);
    assert_eq!(offered.header("tus-version"), Some("1.0.0"));
    assert_eq!(offered.header("tus-extension"), Some("creation,creation-with-upload,expiration,checksum,termination"));
    assert_eq!(offered.header("tus-checksum-algorithm"), Some("sha1,sha256"));
    assert_eq!(offered.header("tus-max-size"), Some("524288000"));
    assert_eq!(offered.header("access-control-allow-origin"), Some("*"));
    assert!(offered.header("access-control-allow-methods").unwrap().contains("PATCH"));
    assert!(offered.header("access-control-allow-headers").unwrap().contains("Upload-Offset"));

    // Creation.
    let post = |headers: &[(&str, &str)]| api.send("POST", TUS, headers, b"");
    let no_version = post(&[("Upload-Length", "5")]);
    assert_eq!((no_version.status, no_version.header("tus-version")), (412, Some("1.0.0")));
    assert_eq!(post(&[("Tus-Resumable", "0.2.2"), ("Upload-Length", "5")]).status, 412);
    for wrong in [
        &[V1][..],
        &[V1, ("Upload-Length", "-1")],
        &[V1, ("Upload-Length", "5x")],
        &[V1, ("Upload-Length", "99999999999999999999")],
        &[V1, ("Upload-Defer-Length", "1")],
        &[V1, ("Upload-Length", "5"), ("Upload-Concat", "partial")],
        &[V1, ("Upload-Length", "5"), ("Upload-Metadata", "a YQ==,a YQ==")],
        &[V1, ("Upload-Length", "5"), ("Upload-Checksum", "md5 YQ==")],
    ] {
        assert_eq!(post(wrong).status, 400, "{wrong:?}");
    }
    assert_eq!(super::send(api.addr, "POST", TUS, &[V1, ("Upload-Length", "5")], b"").status, 401);
    let metadata = "filename c29uZy53YXY=,kind YXVkaW8=,empty";
    let file = wav(50_000, 7);
    let id = api.announce(file.len(), &[("Upload-Metadata", metadata)]);
    let at = format!("{TUS}/{id}");

    // HEAD.
    let head = api.head(&id);
    assert_eq!(
        (head.status, head.header("upload-offset"), head.header("upload-length")),
        (200, Some("0"), Some("50000"))
    );
    assert_eq!((head.header("cache-control"), head.header("tus-resumable")), (Some("no-store"), Some("1.0.0")));
    assert_eq!(head.header("upload-metadata"), Some(metadata));
    let expires = httpdate(head.header("upload-expires").unwrap());
    assert!(expires > 86_000, "a day from now: {expires}");
    let unknown = api.send("HEAD", &format!("{TUS}/upl_00000000000000000000000000"), &[V1], b"");
    assert_eq!((unknown.status, unknown.header("upload-offset")), (404, None));
    let other = format!("Bearer {}", site.other_key);
    for method in ["HEAD", "PATCH", "DELETE"] {
        let headers = [V1, STREAM, ("Upload-Offset", "0"), ("Authorization", other.as_str())];
        assert_eq!(super::send(api.addr, method, &at, &headers, b"").status, 404, "{method}: it is another's");
    }

    // PATCH.
    let raw = |headers: &[(&str, &str)], body: &[u8]| api.send("PATCH", &at, headers, body);
    assert_eq!(raw(&[V1, ("Upload-Offset", "0")], b"abc").status, 415);
    assert_eq!(raw(&[V1, ("Content-Type", "text/plain"), ("Upload-Offset", "0")], b"abc").status, 415);
    assert_eq!(raw(&[V1, STREAM], b"abc").status, 400);
    assert_eq!(raw(&[STREAM, ("Upload-Offset", "0")], b"abc").status, 412);
    let wrong = api.patch(&id, 7, b"abc", &[]);
    assert_eq!((wrong.status, wrong.header("upload-offset")), (409, Some("0")));
    assert_eq!(api.patch(&id, 0, &[0; 50_001], &[]).status, 413);
    assert_eq!(api.offset(&id), 0, "nothing of all that counts");
    let first = api.patch(&id, 0, &file[..10_000], &[]);
    assert_eq!((first.status, first.header("upload-offset")), (204, Some("10000")), "{}", first.text());
    assert!(httpdate(first.header("upload-expires").unwrap()) > 86_000);
    assert_eq!(first.header("access-control-allow-origin"), Some("*"));
    assert!(first.header("access-control-expose-headers").unwrap().contains("Upload-Offset"));

    // Checksums: all of a body counts, or none of it.
    for wrong in ["sha1 AAAAAAAAAAAAAAAAAAAAAAAAAAA=", "sha256 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="] {
        let refused = api.patch(&id, 10_000, &file[10_000..20_000], &[("Upload-Checksum", wrong)]);
        assert_eq!((refused.status, refused.header("upload-offset")), (460, Some("10000")), "{}", refused.text());
    }
    for unusable in ["md5 YQ==", "sha1", "sha1 YQ=="] {
        assert_eq!(api.patch(&id, 10_000, &file[10_000..], &[("Upload-Checksum", unusable)]).status, 400, "{unusable}");
    }
    assert_eq!(api.offset(&id), 10_000);
    for (from, to, name) in [(10_000, 20_000, "sha1"), (20_000, 30_000, "sha256")] {
        let algorithm = match name {
            "sha1" => &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY,
            _ => &aws_lc_rs::digest::SHA256,
        };
        let sum = base64(aws_lc_rs::digest::digest(algorithm, &file[from..to]).as_ref());
        let taken = api.patch(&id, from, &file[from..to], &[("Upload-Checksum", &format!("{name} {sum}"))]);
        assert_eq!(taken.status, 204, "{name}: {}", taken.text());
    }

    // A method for those who cannot send it.
    let overridden = [V1, STREAM, ("Upload-Offset", "30000"), ("X-HTTP-Method-Override", "PATCH")];
    assert_eq!(api.send("POST", &at, &overridden, &file[30_000..40_000]).status, 204);
    api.finish(&id, &file, 5_000);
    assert_eq!(api.until(&id, "ready")["sha256"], sha256(&file));
    assert_eq!((api.head(&id).status, api.offset(&id)), (200, 50_000), "it can still be asked for");
    assert_eq!(api.patch(&id, 50_000, b"", &[]).status, 204);
    assert_eq!(api.patch(&id, 50_000, b"x", &[]).status, 413);

    // Creation with the first bytes, with all of them, and of nothing.
    let length = file.len().to_string();
    let with = |body: &[u8], more: &[(&str, &str)]| {
        let headers = [&[V1, STREAM, ("Upload-Length", length.as_str())], more].concat();
        api.send("POST", TUS, &headers, body)
    };
    let some = with(&file[..20_000], &[]);
    assert_eq!((some.status, some.header("upload-offset")), (201, Some("20000")), "{}", some.text());
    let id = some.header("location").unwrap().rsplit('/').next().unwrap().to_owned();
    api.finish(&id, &file, MIB);
    api.until(&id, "ready");
    let all = with(&file, &[]);
    assert_eq!((all.status, all.header("upload-offset")), (201, Some("50000")));
    let wrong_type = [V1, ("Content-Type", "text/plain"), ("Upload-Length", length.as_str())];
    assert_eq!(api.send("POST", TUS, &wrong_type, &file).status, 415);
    let mismatch = with(&file, &[("Upload-Checksum", "sha1 AAAAAAAAAAAAAAAAAAAAAAAAAAA=")]);
    assert_eq!((mismatch.status, mismatch.header("upload-offset")), (460, Some("0")));
    let empty = api.announce(0, &[]);
    assert!(api.until(&empty, "refused")["error"].as_str().unwrap().starts_with("it is empty;"));
    assert_eq!(api.head(&empty).status, 410);

    // One key, one upload.
    let keyed = [V1, ("Upload-Length", "9"), ("Idempotency-Key", "\"k\"")];
    let (one, two) = (post(&keyed), post(&keyed));
    assert_eq!((one.status, two.status, one.header("location")), (201, 201, two.header("location")));
    assert_eq!(post(&[V1, ("Upload-Length", "8"), ("Idempotency-Key", "\"k\"")]).status, 422);

    // Termination.
    let id = api.announce(9, &[]);
    let at = format!("{TUS}/{id}");
    api.patch(&id, 0, b"abc", &[]);
    assert_eq!(api.send("DELETE", &at, &[V1], b"").status, 204);
    assert_eq!(api.head(&id).status, 410);
    assert_eq!(api.patch(&id, 3, b"abc", &[]).status, 410);
    assert_eq!(api.send("DELETE", &at, &[V1], b"").status, 410);
    assert_eq!(api.send("GET", &at, &[V1], b"").status, 405);

    // Two at once: the second waits its turn, and the first is not disturbed.
    let id = api.announce(file.len(), &[]);
    let bearer = api.bearer.clone();
    let (mut slow, at) = loop {
        let at = api.offset(&id);
        let offset = at.to_string();
        let headers = [V1, STREAM, ("Upload-Offset", offset.as_str()), ("Authorization", bearer.as_str())];
        let mut slow = begin(api.addr, "PATCH", &format!("{TUS}/{id}"), &headers, file.len() - at);
        slow.write_all(&file[at..at + 1_000]).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        let sum = [("Upload-Checksum", "sha1 AAAAAAAAAAAAAAAAAAAAAAAAAAA=")];
        let second = api.patch(&id, at, &file[at..at + 10], &sum);
        if second.status == 423 {
            break (slow, at);
        }
        // It came before the slow one was heard, or what one of before had sent counts since then.
        assert!([409, 460].contains(&second.status), "{}", second.text());
        drop(slow);
        std::thread::sleep(Duration::from_millis(1_500));
    };
    slow.write_all(&file[at + 1_000..]).unwrap();
    assert_eq!(answer(slow).status, 204);
    assert_eq!(api.until(&id, "ready")["sha256"], sha256(&file));
}

#[test]
fn a_killed_server_goes_on_where_it_truthfully_was() {
    let site = Site::local();
    killed_and_resumed(&site, 25 * MIB + 77, 8, 11);
}

/// What a sender that left had sent counts, and another node goes on.
#[test]
fn a_sender_that_leaves_goes_on_later() {
    let site = Site::local();
    let api = site.serve();
    let file = wav(3 * MIB, 5);
    let id = api.announce(file.len(), &[]);
    let headers = [V1, STREAM, ("Upload-Offset", "0"), ("Authorization", api.bearer.as_str())];
    let mut leaving = begin(api.addr, "PATCH", &format!("{TUS}/{id}"), &headers, file.len());
    leaving.write_all(&file[..2 * MIB + 5]).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    drop(leaving);
    while api.offset(&id) < 2 * MIB {
        std::thread::sleep(Duration::from_millis(20));
    }
    let second = site.serve();
    second.finish(&id, &file, MIB);
    assert_eq!(api.until(&id, "ready")["sha256"], sha256(&file));
}

#[test]
fn a_sender_that_stalls_is_told_and_keeps_what_it_sent() {
    let site = Site::local().with("SEGUE_SERVER__BODY_TIMEOUT_S", "5").with("SEGUE_UPLOADS__BODIES_MAX", "1");
    let api = site.serve();
    let file = wav(100_000, 6);
    let (id, other) = (api.announce(file.len(), &[]), api.announce(file.len(), &[]));
    let expect = ("Expect", "100-continue");
    let headers = [V1, STREAM, ("Upload-Offset", "0"), ("Authorization", api.bearer.as_str()), expect];
    let mut stalling = begin(api.addr, "PATCH", &format!("{TUS}/{id}"), &headers, file.len());
    // Who is asked for a body has a place for it.
    let mut asked = [0; 25];
    stalling.read_exact(&mut asked).unwrap();
    assert_eq!(asked, *b"HTTP/1.1 100 Continue\r\n\r\n");
    stalling.write_all(&file[..30_000]).unwrap();
    // Meanwhile there is no room for another body; nothing of that upload is lost.
    let busy = api.patch(&other, 0, &file[..10], &[]);
    assert_eq!((busy.status, busy.header("retry-after")), (503, Some("5")), "{}", busy.text());
    let told = answer(stalling);
    assert_eq!(told.status, 408, "{}", told.text());
    let kept: usize = told.header("upload-offset").unwrap().parse().unwrap();
    assert!(kept > 0 && kept <= 30_000, "{kept}");
    assert_eq!(api.offset(&id), kept);
    for id in [&id, &other] {
        api.finish(id, &file, MIB);
        assert_eq!(api.until(id, "ready")["sha256"], sha256(&file));
    }
    // Files of this machine have no URLs.
    let id = api.announce(9, &[]);
    let (status, problem) =
        api.json("POST", &format!("/api/v1/uploads/{id}/parts"), &serde_json::json!({ "parts": [1] }));
    assert!(status == 422 && problem["detail"].as_str().unwrap().contains("does not go to a bucket"), "{problem}");
}

/// Kills the server in the middle of bodies, at random moments, until the upload is whole.
pub(super) fn killed_and_resumed(site: &Site, bytes: usize, rounds: usize, seed: u64) {
    let mut random = Random(seed);
    let file = wav(bytes, seed);
    let mut api = site.serve();
    let id = api.announce(file.len(), &[("Upload-Metadata", &format!("sha256 {}", base64(sha256(&file).as_bytes())))]);
    let mut at = 0;
    for round in 0..rounds {
        if at >= file.len() {
            break;
        }
        let offset = at.to_string();
        let headers = [V1, STREAM, ("Upload-Offset", offset.as_str()), ("Authorization", api.bearer.as_str())];
        let mut body = begin(api.addr, "PATCH", &format!("{TUS}/{id}"), &headers, file.len() - at);
        let sent = (file.len() - at).min(1 + random.below(2 * file.len() / rounds));
        let _ = body.write_all(&file[at..at + sent]);
        std::thread::sleep(Duration::from_millis(random.below(120) as u64));
        api.server.child.kill().unwrap();
        api.server.child.wait().unwrap();
        drop(body);
        api = site.serve();
        let now = api.offset(&id);
        assert!(at <= now && now <= at + sent, "round {round}: {now} is not between {at} and {}", at + sent);
        at = now;
        // A client that is told 423 waits: whoever wrote may still live, for all anybody knows.
        loop {
            let probe = api.patch(&id, at, &file[at..(at + 1_000).min(file.len())], &[]);
            match probe.status {
                204 => break at = probe.header("upload-offset").unwrap().parse().unwrap(),
                423 => std::thread::sleep(Duration::from_millis(100)),
                status => panic!("{status} {}", probe.text()),
            }
        }
    }
    api.finish(&id, &file, 7 * MIB);
    let ready = api.until(&id, "ready");
    assert_eq!((ready["sha256"].as_str(), ready["bytes"].as_u64()), (Some(&*sha256(&file)), Some(file.len() as u64)));
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Seconds from now until an HTTP date.
fn httpdate(text: &str) -> u64 {
    let date = httpdate::parse_http_date(text).unwrap();
    date.duration_since(std::time::SystemTime::now()).unwrap().as_secs()
}
