//! The same in a bucket of Ceph's gateway, with the rows in PostgreSQL: parts, tails, parts straight to the bucket.

use std::time::Duration;

use segue::store::objects::Meta;
use segue::store::s3::Bucket;
use segue::uploads::UploadId;
use serde_json::{Value, json};

use super::{MIB, Site, TUS, V1, form, send, send_as, sha256, tus, wav};
use crate::store::rgw::Rgw;

/// One gateway for all that a bucket has to show: it takes seconds to start.
#[test]
fn a_bucket_takes_uploads_as_its_own_parts() {
    let rgw = Rgw::start();
    let site = Site::local().on_postgresql().in_bucket(&rgw, "uploads");
    let bucket = Bucket::open(rgw.options("uploads")).unwrap();
    let api = site.serve();
    tus::rules(&api, &site);

    // A form, and a track from it.
    let file = wav(20 * MIB + 3, 21);
    let (status, upload) = api.form(&[("kind", "audio"), ("sha256", &sha256(&file))], Some(("a.wav", &file)), &[]);
    assert_eq!(status, 201, "{upload:#}");
    let id = upload["id"].as_str().unwrap().to_owned();
    api.until(&id, "ready");
    assert_eq!(keys(&bucket, &id), [format!("uploads/{id}/source")]);
    let key = format!("uploads/{id}/source");
    let stored = bucket.wait(move |bucket| async move { bucket.get_all(&key, 1 << 30).await }).unwrap().0;
    assert!(stored == file, "the object is the file");
    let job = api.transcode(&id);
    assert!(job["output"]["duration_s"].as_f64().unwrap() > 100.0, "{job:#}");
    assert_eq!(api.send("DELETE", &format!("/api/v1/uploads/{id}"), &[], b"").status, 204);
    assert!(keys(&bucket, &id).is_empty());

    // What is behind the last part is in the bucket too: another node goes on, and no tail stays.
    let id = api.announce(file.len(), &[]);
    assert_eq!(api.patch(&id, 0, &file[..MIB], &[]).status, 204);
    assert_eq!(keys(&bucket, &id).len(), 1, "a tail");
    let other = site.serve_beside();
    assert_eq!(other.patch(&id, MIB, &file[MIB..9 * MIB], &[]).status, 204);
    assert_eq!(keys(&bucket, &id).len(), 1, "another tail, and one part");
    assert_eq!(unfinished(&bucket), 1);
    api.finish(&id, &file, 3 * MIB + 7);
    assert_eq!(api.until(&id, "ready")["sha256"], sha256(&file));
    assert_eq!((keys(&bucket, &id).len(), unfinished(&bucket)), (1, 0));
    drop(other);

    // A checksum that does not match discards what had become parts already.
    let id = api.announce(file.len(), &[]);
    let wrong = [("Upload-Checksum", "sha1 AAAAAAAAAAAAAAAAAAAAAAAAAAA=")];
    assert_eq!(api.patch(&id, 0, &wav(17 * MIB, 99), &wrong).status, 460);
    assert_eq!(api.offset(&id), 0);
    api.finish(&id, &file, 30 * MIB);
    assert_eq!(api.until(&id, "ready")["sha256"], sha256(&file));

    direct(&api, &rgw, &bucket);
    drop(api);
    by_another_name(&site, &rgw);
    orphans(&site, &bucket);
    form::removed_before_its_job(&site);
    tus::killed_and_resumed(&site, 30 * MIB + 1, 6, 12);
    expired(site, &bucket);
}

/// Parts straight to the bucket, beside tus, on the same upload.
fn direct(api: &super::Api, rgw: &Rgw, bucket: &Bucket) {
    let file = wav(2 * 8 * MIB + 5_000, 31);
    let announce = json!({ "kind": "audio", "bytes": file.len(), "sha256": sha256(&file), "name": "direct.wav" });
    let (status, upload) = api.json("POST", "/api/v1/uploads", &announce);
    assert_eq!((status, upload["part_bytes"].as_u64()), (201, Some(8 << 20)), "{upload:#}");
    let id = upload["id"].as_str().unwrap().to_owned();
    let at = format!("/api/v1/uploads/{id}");
    let sign = |parts: Value| api.json("POST", &format!("{at}/parts"), &json!({ "parts": parts }));
    for wrong in [json!([]), json!([0]), json!([4]), json!([1, 100_000]), Value::from((1..=101).collect::<Vec<_>>())] {
        assert_eq!(sign(wrong.clone()).0, 422, "{wrong}");
    }
    let (status, signed) = sign(json!([1, 2, 3]));
    assert_eq!(status, 200, "{signed:#}");
    let pieces: Vec<&[u8]> = file.chunks(8 * MIB).collect();
    let gateway = ([127, 0, 0, 1], rgw.port()).into();
    let put = |number: usize, bytes: &[u8]| {
        let url = signed["parts"][number - 1]["url"].as_str().unwrap();
        let path = url.strip_prefix(&rgw.endpoint()).expect("the bucket's own address");
        send(gateway, "PUT", path, &[], bytes)
    };
    assert_eq!(put(1, &pieces[0][..100]).status, 403, "a part of another length is not what was signed");
    assert_eq!(put(1, pieces[0]).status, 200);
    let third = put(3, pieces[2]);
    assert_eq!(third.status, 200, "{}", third.text());
    let have = || api.json("GET", &format!("{at}/parts"), &Value::Null).1["parts"].as_array().unwrap().clone();
    assert_eq!(have().iter().map(|part| part["number"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 3]);

    let complete = |parts: &Value| api.json("POST", &format!("{at}/complete"), &json!({ "parts": parts }));
    let (status, problem) = complete(&json!([{ "number": 1, "etag": have()[0]["etag"] }]));
    assert!(status == 422 && problem["detail"].as_str().unwrap().contains("part 2 of 3"), "{problem}");
    assert_eq!(put(2, pieces[1]).status, 200);
    let parts = || {
        Value::from(
            have().iter().map(|part| json!({ "number": part["number"], "etag": part["etag"] })).collect::<Vec<_>>(),
        )
    };
    let mut forged = parts();
    forged[1]["etag"] = json!("\"d41d8cd98f00b204e9800998ecf8427e\"");
    let (status, problem) = complete(&forged);
    assert!(status == 422 && problem["detail"].as_str().unwrap().contains("ETag of part 2"), "{problem}");
    let mut few = parts();
    few.as_array_mut().unwrap().pop();
    assert_eq!(complete(&few).0, 422);
    assert_eq!(api.show(&id)["state"], "created", "nothing of all that ended it");
    let all = parts();
    let (status, upload) = complete(&all);
    assert_eq!((status, &upload["state"]), (202, &json!("verifying")), "{upload:#}");
    assert_eq!(api.until(&id, "ready")["sha256"], sha256(&file));
    assert_eq!(complete(&all).0, 200, "an answer that was lost is given again");
    assert_eq!((put(2, pieces[1]).status, unfinished(bucket)), (404, 0), "nothing can be put under it any more");

    // Begun by tus, ended straight: the parts are the same.
    let id = api.announce(file.len(), &[]);
    assert_eq!(api.patch(&id, 0, &file[..9 * MIB], &[]).status, 204);
    let at = format!("/api/v1/uploads/{id}");
    let (_, signed) = api.json("POST", &format!("{at}/parts"), &json!({ "parts": [2, 3] }));
    for (n, piece) in [(0, pieces[1]), (1, pieces[2])] {
        let url = signed["parts"][n]["url"].as_str().unwrap();
        assert_eq!(send(gateway, "PUT", url.strip_prefix(&rgw.endpoint()).unwrap(), &[], piece).status, 200);
    }
    let have = api.json("GET", &format!("{at}/parts"), &Value::Null).1["parts"].as_array().unwrap().clone();
    let parts: Vec<_> = have.iter().map(|part| json!({ "number": part["number"], "etag": part["etag"] })).collect();
    let (status, upload) = api.json("POST", &format!("{at}/complete"), &json!({ "parts": parts }));
    assert_eq!(status, 202, "{upload:#}");
    assert_eq!(api.until(&id, "ready")["sha256"], sha256(&file));
    assert_eq!(keys(bucket, &id).len(), 1, "the tail of tus is gone");

    // Another file than was announced is not let in, whatever its parts are.
    let (_, upload) =
        api.json("POST", "/api/v1/uploads", &json!({ "kind": "audio", "bytes": 9_000, "sha256": sha256(b"x") }));
    let id = upload["id"].as_str().unwrap().to_owned();
    let at = format!("/api/v1/uploads/{id}");
    let (_, signed) = api.json("POST", &format!("{at}/parts"), &json!({ "parts": [1] }));
    let url = signed["parts"][0]["url"].as_str().unwrap();
    let answer = send(gateway, "PUT", url.strip_prefix(&rgw.endpoint()).unwrap(), &[], &wav(9_000, 5));
    let parts = json!([{ "number": 1, "etag": answer.header("etag").unwrap() }]);
    assert_eq!(api.json("POST", &format!("{at}/complete"), &json!({ "parts": parts })).0, 202);
    assert_eq!(api.until(&id, "refused")["reason"], "sha256");
    while !keys(bucket, &id).is_empty() {
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Senders know the bucket by a name that this network does not: they get it, and the worker does not use it.
fn by_another_name(site: &Site, rgw: &Rgw) {
    let host = format!("bucket.invalid:{}", rgw.port());
    let endpoint = format!("http://{host}");
    let api =
        site.serve_with(&[("SEGUE_STORE__S3__PUBLIC_ENDPOINT", &endpoint), ("SEGUE_STORE__S3__SOURCE_URL_S", "600")]);
    let file = wav(100_000, 33);
    let (_, upload) = api.json("POST", "/api/v1/uploads", &json!({ "kind": "audio", "bytes": file.len() }));
    let id = upload["id"].as_str().unwrap().to_owned();
    let at = format!("/api/v1/uploads/{id}");
    let (_, signed) = api.json("POST", &format!("{at}/parts"), &json!({ "parts": [1] }));
    let url = signed["parts"][0]["url"].as_str().unwrap();
    let path = url.strip_prefix(&endpoint).unwrap_or_else(|| panic!("{url} is not below {endpoint}"));
    let gateway = ([127, 0, 0, 1], rgw.port()).into();
    let sent = send_as(&host, gateway, "PUT", path, &[], &file);
    assert_eq!(sent.status, 200, "{}", sent.text());
    let parts = json!([{ "number": 1, "etag": sent.header("etag").unwrap() }]);
    assert_eq!(api.json("POST", &format!("{at}/complete"), &json!({ "parts": parts })).0, 202);
    api.until(&id, "ready");
    api.transcode(&id);
}

/// Uploads in parts that no row knows, of a process that was killed between the bucket and the database, are taken back;
/// those on their way are not.
fn orphans(site: &Site, bucket: &Bucket) {
    let api = site.serve();
    let file = wav(10 * MIB, 35);
    let id = api.announce(file.len(), &[]);
    assert_eq!(api.patch(&id, 0, &file[..9 * MIB], &[]).status, 204);
    drop(api);
    let begin = |key: String| {
        let meta = Meta { content_type: "audio/wav", cache_control: "no-store" };
        bucket.wait(move |bucket| async move { bucket.begin_parts(&key, &meta).await }).unwrap()
    };
    begin(format!("uploads/{}/source", UploadId::new(1_700_000_000_000_000)));
    begin(format!("uploads/{id}/source")); // beside the one that the row names
    begin("somebody-else/s".into());
    assert_eq!(unfinished(bucket), 4);
    let api = site.serve_with(&[("SEGUE_STORE__S3__ABANDONED_S", "1")]);
    // The first sweep may come before they are a second old; the next process sweeps at its start again.
    let mut api = Some(api);
    while unfinished(bucket) != 2 {
        std::thread::sleep(Duration::from_millis(500));
        if unfinished(bucket) != 2 {
            drop(api.take());
            api = Some(site.serve_with(&[("SEGUE_STORE__S3__ABANDONED_S", "1")]));
        }
    }
    let api = api.unwrap();
    api.finish(&id, &file, 3 * MIB);
    assert_eq!(api.until(&id, "ready")["sha256"], sha256(&file));
    let rest = bucket.wait(|bucket| async move { bucket.unfinished(Duration::ZERO).await }).unwrap();
    assert_eq!(rest.len(), 1);
    let (key, upload) = rest.into_iter().next().unwrap();
    assert_eq!(key, "somebody-else/s", "it is not ours");
    bucket.wait(move |bucket| async move { bucket.abort_parts(&key, &upload).await }).unwrap();
    assert_eq!(api.send("DELETE", &format!("/api/v1/uploads/{id}"), &[], b"").status, 204);
}

/// What nobody goes on with leaves no part, no tail, no object.
fn expired(site: Site, bucket: &Bucket) {
    let site = site.with("SEGUE_UPLOADS__EXPIRES_S", "5"); // time enough for a slow machine to begin
    let api = site.serve();
    let file = wav(9 * MIB, 41);
    let id = api.announce(file.len(), &[]);
    assert_eq!(api.patch(&id, 0, &file[..8 * MIB + 5], &[]).status, 204);
    let (_, announced) = api.json("POST", "/api/v1/uploads", &json!({ "kind": "audio", "bytes": 9_000 }));
    let direct = announced["id"].as_str().unwrap().to_owned();
    assert_eq!(api.json("POST", &format!("/api/v1/uploads/{direct}/parts"), &json!({ "parts": [1] })).0, 200);
    for id in [&id, &direct] {
        assert!(api.until(id, "expired")["error"].as_str().unwrap().contains("nobody went on"));
    }
    while unfinished(bucket) > 0 || !keys(bucket, &id).is_empty() {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(api.send("HEAD", &format!("{TUS}/{id}"), &[V1], b"").status, 410);
    assert_eq!(site.files(), 0, "nothing was ever on this machine's disk");
}

pub(super) fn unfinished(bucket: &Bucket) -> usize {
    bucket.wait(|bucket| async move { bucket.unfinished(Duration::ZERO).await }).unwrap().len()
}

fn keys(bucket: &Bucket, id: &str) -> Vec<String> {
    let prefix = format!("uploads/{id}/");
    let page = bucket.wait(move |bucket| async move { bucket.list(&prefix, None, 100).await }).unwrap();
    page.objects.into_iter().map(|object| object.key).collect()
}
