//! Forms, limits, what is told by first bytes, and who sees what.

use serde_json::{Value, json};

use super::{MIB, Site, form_body, sha256, wav};
use crate::support::{run, said};

#[test]
fn a_form_becomes_an_upload_and_the_upload_a_track() {
    let site = Site::local();
    let api = site.serve();
    let file = wav(3 * MIB + 123, 1);
    let sum = sha256(&file);
    let fields = [("kind", "audio"), ("sha256", sum.as_str()), ("track_id", "trk_form")];
    let key = ("Idempotency-Key", "\"form-1\"");
    let (status, upload) = api.form(&fields, Some(("../../Lied.wav", &file)), &[key]);
    assert_eq!((status, upload["bytes"].as_u64()), (201, Some(file.len() as u64)), "{upload:#}");
    let id = upload["id"].as_str().unwrap();
    let ready = api.until(id, "ready");
    assert_eq!((&ready["mime"], &ready["sha256"]), (&json!("audio/wav"), &json!(sum)), "not what the form said it was");
    assert_eq!((&ready["name"], &ready["track"]), (&json!("Lied.wav"), &json!("trk_form")));
    assert_eq!(std::fs::read(site.data().join("store/uploads").join(id)).unwrap(), file);

    // The same again under the same key is the same upload; another file is refused.
    let (status, again) = api.form(&fields, Some(("../../Lied.wav", &file)), &[key]);
    assert_eq!((status, &again["id"]), (200, &upload["id"]));
    let (status, problem) = api.form(&[("kind", "image")], Some(("Lied.wav", &file)), &[key]);
    assert_eq!((status, &problem["type"]), (422, &json!("/problems/idempotency-key-reused")));

    let job = api.transcode(id);
    assert_eq!(job["title"], "Lied");
    assert!(job["output"]["duration_s"].as_f64().unwrap() > 10.0, "{job:#}");

    // Nobody else sees it, and nobody else can have it transcoded.
    let other = format!("Bearer {}", site.other_key);
    for (method, path) in [("GET", ""), ("DELETE", ""), ("POST", "/parts"), ("POST", "/complete")] {
        let path = format!("/api/v1/uploads/{id}{path}");
        let reply = super::send(api.addr, method, &path, &[("Authorization", &other)], b"{}");
        assert_eq!(reply.status, 404, "{method} {path}: {}", reply.text());
        assert_eq!(super::send(api.addr, method, &path, &[], b"{}").status, 401);
    }
    let body = json!({ "source": { "upload": id } }).to_string();
    let headers = [("Authorization", other.as_str()), ("Idempotency-Key", "\"x\"")];
    let reply = super::send(api.addr, "POST", "/api/v1/transcodes", &headers, body.as_bytes());
    assert_eq!(reply.status, 422, "{}", reply.text());

    // Removed, it is gone, and so is its file; a new job cannot have it.
    let path = format!("/api/v1/uploads/{id}");
    assert_eq!(api.send("DELETE", &path, &[], b"").status, 204);
    assert_eq!(api.send("DELETE", &path, &[], b"").status, 410);
    assert_eq!((api.show(id)["state"].as_str(), site.files()), (Some("deleted"), 0));
    let reply = api.send("POST", "/api/v1/transcodes", &[("Idempotency-Key", "\"later\"")], body.as_bytes());
    assert_eq!(reply.status, 409, "{}", reply.text());
}

#[test]
fn limits_are_the_same_wherever_they_are_said() {
    let limits = [
        ("SEGUE_UPLOADS__AUDIO_BYTES_MAX", "200000"),
        ("SEGUE_UPLOADS__IMAGE_BYTES_MAX", "1000"),
        ("SEGUE_UPLOADS__VIDEO_BYTES_MAX", "\"as much as you like\""),
    ];
    let site = limits.into_iter().fold(Site::local(), |site, (name, value)| site.with(name, value));
    let api = site.serve();
    let told = super::send(api.addr, "GET", "/api/v1/upload/limits", &[], b"");
    let told: Value = serde_json::from_slice(&told.body).unwrap();
    let most = |kind: &str| told[kind]["bytes_max"].as_u64().unwrap();
    assert_eq!([most("audio"), most("image"), most("video")], [200_000, 1_000, 500 << 20]);
    let mimes: Vec<_> = told["audio"]["mime"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(mimes.contains(&"audio/flac") && !mimes.contains(&"image/png"), "{mimes:?}");

    for (kind, most, over) in [("audio", 200_000, 413), ("image", 1_000, 413), ("video", 500 << 20, 413)] {
        let announce = |bytes: u64| api.json("POST", "/api/v1/uploads", &json!({ "kind": kind, "bytes": bytes }));
        let (status, upload) = announce(most);
        assert_eq!(status, 201, "{upload:#}");
        let path = format!("/api/v1/uploads/{}", upload["id"].as_str().unwrap());
        assert_eq!(api.send("DELETE", &path, &[], b"").status, 204);
        let (status, problem) = announce(most + 1);
        assert_eq!((status, &problem["type"]), (over, &json!("/problems/too-large")));
        assert!(problem["detail"].as_str().unwrap().contains(&most.to_string()), "{problem}");
        // By tus the same.
        let metadata = format!(
            "kind {}",
            ["YXVkaW8=", "aW1hZ2U=", "dmlkZW8="][usize::from(kind > "audio") + usize::from(kind > "image")]
        );
        let length = (most + 1).to_string();
        let headers = [super::V1, ("Upload-Length", length.as_str()), ("Upload-Metadata", metadata.as_str())];
        assert_eq!(api.send("POST", super::TUS, &headers, b"").status, 413, "{kind}");
    }
    // A form is as large as it is: exactly the limit fits, a byte more does not and leaves nothing.
    assert_eq!(api.form(&[("kind", "audio")], Some(("a.wav", &wav(200_000, 1))), &[]).0, 201);
    for length in [200_001, 200_002, 5 * MIB] {
        let (status, problem) = api.form(&[("kind", "audio")], Some(("a.wav", &wav(length, 1))), &[]);
        assert_eq!((status, &problem["type"]), (413, &json!("/problems/too-large")), "{length}");
    }
    assert_eq!(site.files(), 1);

    // What is not used is said, at start and by `config check`.
    let mut check = crate::support::segue();
    check.args(["config", "check"]).env("SEGUE_UPLOADS__VIDEO_BYTES_MAX", "0");
    let check = check.output().unwrap();
    let words = said(&check);
    assert!(words.contains("uploads.video_bytes_max is 0") && words.contains("524288000"), "{words}");
    assert!(said(&run(["config", "show"])).contains("audio_bytes_max = 104857600"));
}

#[test]
fn files_are_what_their_bytes_say() {
    let site = Site::local();
    let api = site.serve();
    let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\0\0\0\0".to_vec();
    let sound = wav(9_000, 3);
    let check = |kind: &str, name: &str, bytes: &[u8], outcome: Result<&str, &str>| {
        let (status, upload) = api.form(&[("kind", kind)], Some((name, bytes)), &[]);
        assert_eq!(status, 201, "{upload:#}");
        let id = upload["id"].as_str().unwrap();
        match outcome {
            Ok(mime) => assert_eq!(api.until(id, "ready")["mime"], mime),
            Err(words) => {
                let refused = api.until(id, "refused");
                assert_eq!(refused["reason"], "kind");
                assert!(refused["error"].as_str().unwrap().contains(words), "{refused:#}");
            }
        }
    };
    check("image", "sound.wav", &png, Ok("image/png"));
    check("audio", "picture.png", &sound, Ok("audio/wav"));
    check("audio", "song.wav", &png, Err("it is a PNG picture, not audio"));
    check("image", "cover.png", &sound, Err("it is a WAV file, not an image"));
    check("video", "clip.mp4", &sound, Err("it is a WAV file, not a video"));
    check("audio", "song.mp3", b"#EXTM3U\nhttp://127.0.0.1/\n", Err("m3u8 playlist"));
    check("image", "x.gif", b"<script>alert(1)</script>", Err("no known format"));
    check("audio", "song.flac", b"", Err("it is empty"));
    site.until_files(2); // what is refused is not kept

    // Damaged on its way: the sender's own sum tells.
    let (_, upload) = api.form(&[("kind", "audio"), ("sha256", &sha256(b"another"))], Some(("song.wav", &sound)), &[]);
    let refused = api.until(upload["id"].as_str().unwrap(), "refused");
    assert_eq!(refused["reason"], "sha256", "{refused:#}");
}

#[test]
fn forms_that_cannot_be_read_leave_nothing() {
    let site = Site::local();
    let api = site.serve();
    let file: (&str, &[u8]) = ("a.wav", &wav(9_000, 1));
    let check = |fields: &[(&str, &str)], file, status: u16| {
        let (got, problem) = api.form(fields, file, &[]);
        assert_eq!(got, status, "{fields:?}: {problem}");
        assert!(problem["detail"].as_str().unwrap().len() > 10, "{problem}");
    };
    check(&[], Some(file), 400);
    check(&[("kind", "audio")], None, 400);
    check(&[("kind", "music")], Some(file), 422);
    check(&[("kind", "audio"), ("sha256", "abc")], Some(file), 422);
    check(&[("kind", "audio"), ("track_id", "a b")], Some(file), 422);
    check(&[("kind", "audio"), ("colour", "red")], Some(file), 400);
    check(&[("kind", &"x".repeat(5_000))], Some(file), 400);
    // Fields without end are not collected.
    let many: Vec<_> = (0..1_000).map(|_| ("kind", "audio")).collect();
    let (content_type, mut body) = form_body(&many, None);
    body = body.repeat(100);
    let reply = api.send("POST", "/api/v1/uploads", &[("Content-Type", &content_type)], &body);
    assert_eq!(reply.status, 400, "{}", reply.text());
    // Cut in the middle of its file, or followed by something.
    let (content_type, whole) = form_body(&[("kind", "audio")], Some(file));
    for body in [&whole[..whole.len() - 2_000], &whole[..whole.len() - 17]] {
        let reply = api.send("POST", "/api/v1/uploads", &[("Content-Type", &content_type)], body);
        assert_eq!(reply.status, 408, "{}", reply.text());
    }
    let reply = api.send("POST", "/api/v1/uploads", &[("Content-Type", "text/plain")], b"x");
    assert_eq!(reply.status, 415);
    assert_eq!(site.files(), 0);
    // Nothing of all that is still reserved.
    let page = api.json("GET", "/api/v1/uploads?limit=100", &Value::Null).1;
    assert!(page["items"].as_array().unwrap().iter().all(|upload| upload["state"] == "aborted"), "{page:#}");
}

#[test]
fn a_job_whose_upload_was_removed_says_so_at_once() {
    removed_before_its_job(&Site::local());
}

/// Asked of files here and of a bucket in `bucket.rs`.
pub(super) fn removed_before_its_job(site: &Site) {
    let api = site.serve();
    let (status, upload) = api.form(&[("kind", "audio")], Some(("a.wav", &wav(100_000, 3))), &[]);
    assert_eq!(status, 201, "{upload:#}");
    let id = upload["id"].as_str().unwrap();
    api.until(id, "ready");
    drop(api);
    // Nobody does the job yet.
    let api = site.serve_as(&["--role", "api"], &[]);
    let body = json!({ "source": { "upload": id } }).to_string();
    let queued = api.send("POST", "/api/v1/transcodes", &[("Idempotency-Key", "\"removed\"")], body.as_bytes());
    assert_eq!(queued.status, 202, "{}", queued.text());
    let job: Value = serde_json::from_slice(&queued.body).unwrap();
    assert_eq!(api.send("DELETE", &format!("/api/v1/uploads/{id}"), &[], b"").status, 204);
    drop(api);
    let api = site.serve();
    let path = format!("/api/v1/transcodes/{}", job["id"].as_str().unwrap());
    let ended = loop {
        let job: Value = serde_json::from_slice(&api.send("GET", &path, &[], b"").body).unwrap();
        if !job["finished_at"].is_null() {
            break job;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    };
    assert_eq!((&ended["state"], &ended["reason"]), (&json!("dead"), &json!("missing")), "{ended:#}");
    assert_eq!(ended["attempt"], 1, "trying again would not bring it back: {ended:#}");
    assert!(ended["error"].as_str().unwrap().contains(&format!("{id} is deleted")), "{ended:#}");
}

/// A form cannot be gone on with: the same one again is taken afresh, and what the first left is gone.
#[test]
fn a_form_that_died_with_its_server_is_sent_again_under_its_key() {
    let site = Site::local();
    let mut api = site.serve();
    let file = wav(20 * MIB, 9);
    let (content_type, body) = form_body(&[("kind", "audio"), ("sha256", &sha256(&file))], Some(("a.wav", &file)));
    let bearer = api.bearer.clone();
    let headers =
        [("Content-Type", content_type.as_str()), ("Idempotency-Key", "\"died\""), ("Authorization", &bearer)];
    let mut dying = super::begin(api.addr, "POST", "/api/v1/uploads", &headers, body.len());
    std::io::Write::write_all(&mut dying, &body[..12 * MIB]).unwrap();
    let listed = |api: &super::Api| api.json("GET", "/api/v1/uploads", &Value::Null).1["items"].clone();
    // Some of it is written down.
    while listed(&api)[0]["offset"].as_u64().unwrap_or(0) < 8 << 20 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let again = |api: &super::Api| api.send("POST", "/api/v1/uploads", &headers[..2], &body);
    assert_eq!(again(&api).status, 409, "the first one is still at it");
    api.server.child.kill().unwrap();
    api.server.child.wait().unwrap();
    api = site.serve();
    let taken = again(&api);
    assert_eq!(taken.status, 201, "{}", taken.text());
    let upload: Value = serde_json::from_slice(&taken.body).unwrap();
    assert_eq!(api.until(upload["id"].as_str().unwrap(), "ready")["sha256"], sha256(&file));
    let all = listed(&api);
    let states: Vec<_> = all.as_array().unwrap().iter().map(|upload| upload["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["ready", "aborted"], "{all:#}");
    assert_eq!(site.files(), 1);
    // And one whose sender left while its server lived.
    let headers =
        [("Content-Type", content_type.as_str()), ("Idempotency-Key", "\"left\""), ("Authorization", &bearer)];
    let mut leaving = super::begin(api.addr, "POST", "/api/v1/uploads", &headers, body.len());
    std::io::Write::write_all(&mut leaving, &body[..MIB]).unwrap();
    while listed(&api).as_array().unwrap().len() < 3 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    drop(leaving);
    while listed(&api)[0]["state"] != "aborted" {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let taken = api.send("POST", "/api/v1/uploads", &headers[..2], &body);
    assert_eq!(taken.status, 201, "{}", taken.text());
}

#[test]
fn lists_come_in_pages_and_quotas_hold() {
    let site = Site::local()
        .with("SEGUE_UPLOADS__OWNER_UPLOADS_MAX", "5")
        .with("SEGUE_UPLOADS__OWNER_STORED_BYTES_MAX", "100000");
    let api = site.serve();
    let announce = |bytes: usize| api.json("POST", "/api/v1/uploads", &json!({ "kind": "audio", "bytes": bytes }));
    let ids: Vec<String> = (0..5)
        .map(|_| {
            let (status, upload) = announce(1_000);
            assert_eq!(status, 201);
            upload["id"].as_str().unwrap().to_owned()
        })
        .collect();
    let (status, problem) = announce(1_000);
    assert_eq!((status, &problem["type"]), (429, &json!("/problems/quota-uploads")));
    let page = api.json("GET", "/api/v1/uploads?limit=3", &Value::Null).1;
    let next = page["next"].as_str().unwrap();
    let rest = api.json("GET", &format!("/api/v1/uploads?limit=3&before={next}"), &Value::Null).1;
    let seen: Vec<_> = [&page, &rest]
        .iter()
        .flat_map(|page| page["items"].as_array().unwrap().clone())
        .map(|upload| upload["id"].as_str().unwrap().to_owned())
        .collect();
    let mut latest_first = ids.clone();
    latest_first.sort();
    latest_first.reverse();
    assert_eq!((seen, rest["next"].is_null()), (latest_first, true));

    for id in &ids {
        assert_eq!(api.send("DELETE", &format!("/api/v1/uploads/{id}"), &[], b"").status, 204);
    }
    let (status, upload) = announce(60_000);
    assert_eq!(status, 201, "{upload}");
    let (status, problem) = announce(60_000);
    assert_eq!((status, &problem["type"]), (403, &json!("/problems/quota-stored")));
    // Ready, it still counts; removed, it does not.
    let id = upload["id"].as_str().unwrap();
    api.finish(id, &wav(60_000, 1), 60_000);
    api.until(id, "ready");
    assert_eq!(announce(60_000).0, 403);
    assert_eq!(api.send("DELETE", &format!("/api/v1/uploads/{id}"), &[], b"").status, 204);
    assert_eq!(announce(60_000).0, 201);
}
