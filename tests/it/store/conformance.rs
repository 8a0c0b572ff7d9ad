//! What every store promises, asked of a directory and of a bucket.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use segue::base::Kind;
use segue::base::secret::Secret;
use segue::store::objects::{Meta, Objects};
use segue::store::s3::{Bucket, Options};

use segue::store::remote::RemoteStore;
use segue::store::{LocalStore, Store};

use super::garage::Garage;
use super::rgw::Rgw;
use crate::support::{Reply, request};

#[test]
fn a_directory_keeps_the_promises() {
    let dir = tempfile::tempdir().unwrap();
    let objects = Objects::Local(dir.path().join("objects"));
    fs::create_dir(dir.path().join("objects")).unwrap();
    keeps_the_promises(&objects, dir.path());
    let refused = objects.presign_get("v/a", Duration::from_secs(60)).unwrap_err();
    assert_eq!(refused.kind(), Kind::Unavailable, "a directory has no URLs");
    let left: Vec<_> = fs::read_dir(dir.path().join("objects/v")).unwrap().flatten().collect();
    assert!(left.iter().all(|entry| !entry.file_name().to_string_lossy().contains("tmp")), "{left:?}");
}

#[test]
fn ceph_keeps_the_promises() {
    let rgw = Rgw::start();
    let bucket = rgw.bucket("promises");
    let dir = tempfile::tempdir().unwrap();
    keeps_the_promises(&Objects::S3(bucket.clone()), dir.path());

    what_is_sent_in_parts_leaves_nothing(&bucket, rgw.options("promises"), dir.path());

    // Over the version that was read, and over no other.
    let over = |etag: Option<String>| {
        let put = move |b: Bucket| async move {
            b.put_over("blocks.json", Bytes::from_static(b"x"), &Meta::of("blocks.json"), etag.as_deref()).await
        };
        bucket.wait(put).map_err(|error| error.kind())
    };
    assert_eq!([over(None), over(None), over(Some("\"0\"".into()))], [Ok(()), Err(Kind::Busy), Err(Kind::Busy)]);
    let etag = bucket.wait(|b| async move { b.stat("blocks.json").await }).unwrap().etag;
    assert_eq!(over(Some(etag)), Ok(()));

    let server = (rgw.port(), &*rgw.endpoint());
    signed_urls_open_what_they_name_and_nothing_else(server, &bucket);
    wrong_keys_are_a_sentence_without_the_key(&|bucket| rgw.options(bucket));
}

/// Another implementation: checksums of its own in both directions, and no conditions.
#[test]
#[ignore = "needs Garage: `make garage` builds it, `.ci/check` then runs this"]
fn garage_keeps_the_promises() {
    let garage = Garage::start();
    let bucket = garage.bucket("promises");
    let dir = tempfile::tempdir().unwrap();
    keeps_the_promises(&Objects::S3(bucket.clone()), dir.path());
    what_is_sent_in_parts_leaves_nothing(&bucket, garage.options("promises"), dir.path());
    let server = (garage.port(), &*garage.endpoint());
    signed_urls_open_what_they_name_and_nothing_else(server, &bucket);
    wrong_keys_are_a_sentence_without_the_key(&|bucket| garage.options(bucket));
    // A CRC32 with every request, as AWS's own SDK would have it.
    let checked = Options { checksums: true, prefix: "checked/".into(), ..garage.options("promises") };
    keeps_the_promises(&Objects::S3(Bucket::open(checked).unwrap()), dir.path());
    tracks_are_published_and_read(&garage);
}

/// A version goes into the bucket and comes out of it.
fn tracks_are_published_and_read(garage: &Garage) {
    let (dir, made) = (tempfile::tempdir().unwrap(), super::made::Made::short());
    let local = LocalStore::open(dir.path()).unwrap();
    let store = Store::S3(RemoteStore::open(garage.options("promises"), local, None).unwrap());
    let track = made.publish(&store, "trk_x");
    assert_eq!(store.versions(track, 10).unwrap(), [made.version]);
    let out = store.stage().unwrap();
    made.index.objects().for_each(|object| store.copy_out((track, made.version), object, &out).unwrap());
    assert!(made.is_in(out.dir()));
    assert_eq!(store.records().unwrap().len(), 1);
    assert_eq!(store.sweep().unwrap(), 0);
}

/// Large files: whole or not there, and no part of one stays.
fn what_is_sent_in_parts_leaves_nothing(bucket: &Bucket, options: Options, dir: &Path) {
    // With a prefix the same again, beside what is there and without seeing it.
    let options = Options { prefix: "music/".into(), ..options };
    let within = Bucket::open(options).unwrap();
    bucket
        .wait(|bucket| async move { bucket.put("v/other", Bytes::from_static(b"x"), &Meta::of("v/other")).await })
        .unwrap();
    keeps_the_promises(&Objects::S3(within), dir);

    // A large file that gets shorter while it is sent leaves nothing: no object and no parts.
    let path = dir.join("shrinks");
    let file = File::create(&path).unwrap();
    file.set_len(256 << 20).unwrap();
    let sent = bucket.wait(move |bucket| async move {
        let sender = bucket.clone();
        let sent = tokio::spawn(async move { sender.put_file("v/shrinks", &path, &Meta::of("v/shrinks")).await });
        while bucket.unfinished(Duration::ZERO).await?.is_empty() && !sent.is_finished() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        file.set_len(0).unwrap();
        Ok(sent.await.unwrap())
    });
    let error = sent.unwrap().unwrap_err().chain();
    assert!(error.contains("v/shrinks got shorter"), "{error}");
    let unfinished = bucket.wait(|bucket| async move { bucket.unfinished(Duration::ZERO).await }).unwrap();
    assert!(unfinished.is_empty(), "no part stays behind: {unfinished:?}");
    let looked = bucket.wait(|bucket| async move { bucket.stat("v/shrinks").await });
    assert_eq!(looked.unwrap_err().kind(), Kind::NotFound);

    // What a killed process leaves is swept when it is old enough, and not before.
    let begun =
        bucket.wait(|bucket| async move { bucket.begin_parts("v/killed", &Meta::of("v/killed")).await }).unwrap();
    assert!(!begun.is_empty());
    let sweep = |age| bucket.wait(move |bucket| async move { bucket.sweep(age).await }).unwrap();
    assert_eq!([sweep(Duration::from_secs(3600)), sweep(Duration::ZERO), sweep(Duration::ZERO)], [0, 1, 0]);

    // However many there are, and not those of others.
    let begin = |key: &'static str| {
        bucket.wait(move |bucket| async move { bucket.begin_parts(key, &Meta::of(key)).await }).unwrap()
    };
    let mut begun: Vec<(&str, String)> = Vec::new();
    for key in ["uploads/a", "v/a", "v/b", "v/b", "v/b", "v/c"] {
        begun.push((key, begin(key)));
    }
    let by = |page| {
        bucket.wait(move |bucket| async move { bucket.unfinished_by("v/", Duration::ZERO, page).await }).unwrap()
    };
    for page in [1, 2, 3, 1_000] {
        let mut found = by(page);
        found.sort();
        let mut wanted: Vec<_> = begun[1..].iter().map(|(key, id)| ((*key).to_owned(), id.clone())).collect();
        wanted.sort();
        assert_eq!(found, wanted, "{page} at a time");
    }
    assert_eq!([sweep(Duration::ZERO), by(2).len()], [5, 0]);
    let (key, upload) = begun.swap_remove(0);
    bucket.wait(move |bucket| async move { bucket.abort_parts(key, &upload).await }).unwrap();
}

/// `objects` is empty below `v/`; `dir` is for files.
fn keeps_the_promises(objects: &Objects, dir: &Path) {
    let get = |key: &str, range| objects.get(key, range);
    assert_eq!(objects.stat("v/none").unwrap_err().kind(), Kind::NotFound);
    assert_eq!(get("v/none", 0..1).unwrap_err().kind(), Kind::NotFound);
    objects.delete("v/none").unwrap();

    // Small, from memory; replaced whole.
    objects.put("v/t/a/aac-96.mp4", Bytes::from_static(b"first")).unwrap();
    let first = objects.stat("v/t/a/aac-96.mp4").unwrap();
    objects.put("v/t/a/aac-96.mp4", Bytes::from_static(b"second one")).unwrap();
    let stat = objects.stat("v/t/a/aac-96.mp4").unwrap();
    assert_eq!((stat.bytes, &*stat.content_type), (10, "audio/mp4"));
    assert_eq!(stat.cache_control, "public, max-age=31536000, immutable");
    assert!(stat.etag != first.etag && stat.modified_s > 1_700_000_000, "{stat:?}");
    assert_eq!(get("v/t/a/aac-96.mp4", 0..10).unwrap(), "second one");
    assert_eq!(get("v/t/a/aac-96.mp4", 7..10).unwrap(), "one");
    assert!(get("v/t/a/aac-96.mp4", 5..11).is_err(), "a range that is not all there is no success");
    assert!(get("v/t/a/aac-96.mp4", 10..11).is_err());

    // Large, from a file: in parts where there are parts.
    let bytes: Vec<u8> = (0..18u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let path = dir.join("large");
    File::create(&path).unwrap().write_all(&bytes).unwrap();
    objects.put_file("v/t/a/flac.mp4", &path).unwrap();
    assert_eq!(objects.stat("v/t/a/flac.mp4").unwrap().bytes, bytes.len() as u64);
    for (start, end) in [(0, 1), (8_388_607, 8_388_609), (0, bytes.len()), (bytes.len() - 1, bytes.len())] {
        assert!(get("v/t/a/flac.mp4", start as u64..end as u64).unwrap() == bytes[start..end], "{start}..{end}");
    }
    let missing = objects.put_file("v/t/a/never", &dir.join("there is no such file")).unwrap_err();
    assert!(missing.chain().contains("there is no such file"), "{missing}");
    assert_eq!(objects.stat("v/t/a/never").unwrap_err().kind(), Kind::NotFound);

    // Listings: by the bytes of the keys, in pages, without what only begins alike.
    for name in ["b", "B", "a-b", "a.b", "a_b", "z/z", "z-z"] {
        objects.put(&format!("v/list/{name}"), Bytes::from(name.to_owned())).unwrap();
    }
    objects.put("v/lister", Bytes::from_static(b"x")).unwrap();
    let mut keys = Vec::new();
    let mut after: Option<String> = None;
    for pages in 1.. {
        let page = objects.list("v/list/", after.as_deref(), 3).unwrap();
        keys.extend(page.objects.into_iter().map(|object| (object.key, object.bytes)));
        after = page.next;
        if after.is_none() {
            assert_eq!(pages, 3);
            break;
        }
    }
    let expected =
        ["B", "a-b", "a.b", "a_b", "b", "z-z", "z/z"].map(|name| (format!("v/list/{name}"), name.len() as u64));
    assert_eq!(keys, expected);
    assert!(objects.list("v/nothing/", None, 10).unwrap().objects.is_empty());

    objects.delete("v/list/b").unwrap();
    assert_eq!(objects.stat("v/list/b").unwrap_err().kind(), Kind::NotFound);
    for key in ["", "/v", "v/", "v//a", "../v", "v/../a", ".v", "v/.a", "v a", "v?a", "v/é"] {
        assert_eq!(objects.put(key, Bytes::new()).unwrap_err().kind(), Kind::Usage, "{key:?}");
    }
}

fn signed_urls_open_what_they_name_and_nothing_else((port, endpoint): (u16, &str), bucket: &Bucket) {
    let addr = ([127, 0, 0, 1], port).into();
    let path = |url: &str| url.strip_prefix(endpoint).expect("a URL of this server").to_owned();
    let minute = Duration::from_secs(60);
    let get = path(&bucket.wait(move |b| async move { b.presign_get("v/other", minute).await }).unwrap());
    assert_eq!(request(addr, "GET", &get, &[]).body, b"x");
    assert_eq!(request(addr, "GET", &get, &[("Range", "bytes=0-0")]).status, 206);
    assert_eq!(request(addr, "GET", &get.replace("v/other", "v/lister"), &[]).status, 403);
    assert_eq!(request(addr, "GET", get.split('?').next().unwrap(), &[]).status, 403);

    let put = move |b: Bucket| async move { b.presign_put("v/put", "audio/flac", 3, minute).await };
    let put = path(&bucket.wait(put).unwrap());
    assert_eq!(send(addr, &put, "audio/wav", b"abc").status, 403, "another content type");
    assert_eq!(send(addr, &put, "audio/flac", b"abcd").status, 403, "another length");
    assert_eq!(send(addr, &put, "audio/flac", b"abc").status, 200);
    let stat = bucket.wait(|b| async move { b.stat("v/put").await }).unwrap();
    assert_eq!((stat.bytes, &*stat.content_type), (3, "audio/flac"));

    let begin = |b: Bucket| async move {
        let upload = b.begin_parts("v/parts", &Meta::of("v/parts")).await?;
        let part = b.presign_part("v/parts", &upload, 1, Duration::from_secs(60)).await?;
        Ok((upload, part))
    };
    let (upload, part) = bucket.wait(begin).unwrap();
    let sent = send(addr, &path(&part), "", b"the only part");
    let etag = sent.header("etag").expect("a part has a tag").to_owned();
    bucket.wait(move |b| async move { b.finish_parts("v/parts", &upload, &[(1, etag)]).await }).unwrap();
    assert_eq!(bucket.wait(|b| async move { b.get("v/parts", 0..13).await }).unwrap(), "the only part");
    for valid in [Duration::ZERO, Duration::from_secs(8 * 86_400)] {
        let refused = bucket.wait(move |b| async move { b.presign_get("v/other", valid).await });
        assert_eq!(refused.unwrap_err().kind(), Kind::Usage);
    }
}

/// A PUT as a browser makes it.
fn send(addr: std::net::SocketAddr, path: &str, content_type: &str, body: &[u8]) -> Reply {
    use std::io::Read as _;
    let mut stream = std::net::TcpStream::connect(addr).unwrap();
    let (length, kind) = (body.len(), if content_type.is_empty() { "X-Nothing" } else { "Content-Type" });
    write!(stream, "PUT {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n{kind}: {content_type}\r\nContent-Length: {length}\r\n\r\n").unwrap();
    stream.write_all(body).unwrap();
    let mut head = String::new();
    stream.read_to_string(&mut head).unwrap();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    Reply { status, head, body: vec![] }
}

fn wrong_keys_are_a_sentence_without_the_key(options: &dyn Fn(&str) -> Options) {
    let put = |options| {
        let bucket = Bucket::open(options).unwrap();
        let put = bucket.wait(|b| async move { b.put("v/x", Bytes::from_static(b"x"), &Meta::of("v/x")).await });
        let error = put.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable);
        error.chain()
    };
    let wrong = Options { secret_key: Secret::new(&b"hush-wrong"[..]), ..options("promises") };
    assert!(!format!("{wrong:?}").contains("hush"));
    let said = put(wrong);
    assert!(said.contains("403") && said.contains("check store.s3.access_key") && !said.contains("hush"), "{said}");
    let said = put(options("there-is-no-such-bucket"));
    assert!(said.contains("404") && said.contains("check store.s3.bucket"), "{said}");
    let said = put(Options { endpoint: Some("http://127.0.0.1:9".into()), attempts: 1, ..options("promises") });
    assert!(said.contains("bucket promises at http://127.0.0.1:9") && said.contains("refused"), "{said}");
}
