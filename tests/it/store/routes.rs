//! The stable names of a track's media: where they lead for a track in a bucket, what they send for one in a directory,
//! and what is left when nothing can be signed.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use segue::api::playback::Valid;
use segue::api::{App, Salt, routes};
use segue::base::clock::Clock;
use segue::base::hex;
use segue::base::secret::Secret;
use segue::base::shutdown;
use segue::cdn::Verifier;
use segue::cdn::playback::{Links, Signer};
use segue::cdn::{bunny, cloudfront, rsa};
use segue::db::Place;
use segue::origin::{Options, Origin};
use segue::store::cache;
use segue::store::remote::RemoteStore;
use segue::store::{LocalStore, Store};
use tokio::sync::Semaphore;
use tower::ServiceExt as _;

use super::made::Made;
use super::origin::bucket_env;
use super::rgw::Rgw;
use crate::postgres::ready;
use crate::support::{Reply, Server, request, said, segue};

/// Follows a redirect to a server on loopback.
fn follow(reply: &Reply, method: &str, headers: &[(&str, &str)]) -> Reply {
    assert_eq!(reply.status, 302, "{}", reply.head);
    let location = reply.header("location").unwrap();
    let (addr, path) = location.strip_prefix("http://").unwrap().split_once('/').unwrap();
    request(addr.parse().unwrap(), method, &format!("/{path}"), headers)
}

#[test]
fn a_track_in_a_bucket_is_streamed_and_downloaded_from_there() {
    let rgw = Rgw::start();
    drop(rgw.music());
    streamed_and_downloaded(&rgw);
    drop(rgw.music());
    a_playlist_that_cannot_be_signed_is_signed_by_the_bucket(&rgw);
}

fn streamed_and_downloaded(rgw: &Rgw) {
    let (dir, made) = (tempfile::tempdir().unwrap(), Made::short());
    let staging = LocalStore::open(&dir.path().join("staging")).unwrap();
    let store = Store::S3(RemoteStore::open(rgw.options("music"), staging, None).unwrap());
    made.publish(&store, "trk_x");
    let endpoint = rgw.endpoint();
    let env = bucket_env(&endpoint);
    let server = Server::start(&dir.path().join("a"), &[], &env);
    let best = |family: &str| {
        let rungs = made.index.rungs.iter().filter(|rung| rung.path().starts_with(family));
        made.bytes(&rungs.max_by_key(|rung| rung.average_bps).unwrap().object.name)
    };

    let stream = server.get("/tracks/trk_x/stream");
    assert!(stream.header("location").unwrap().contains("X-Amz-Expires=900&"), "{}", stream.head);
    assert_eq!(stream.header("cache-control"), Some("public, max-age=60"));
    assert!(follow(&stream, "GET", &[]).body == best("aac"));
    let part = follow(&stream, "GET", &[("Range", "bytes=100-199")]);
    assert_eq!(part.status, 206);
    assert!(part.body == best("aac")[100..200] && part.header("content-disposition").is_none());
    assert_eq!(part.header("content-type"), Some("audio/mp4"));
    // A signature is for one method: who asks with HEAD is led to a URL for HEAD.
    let head = request(server.addr, "HEAD", "/tracks/trk_x/stream", &[]);
    assert_eq!(follow(&head, "HEAD", &[]).status, 200);
    assert_eq!(follow(&stream, "HEAD", &[]).status, 403);

    let download = server.get("/tracks/trk_x/download?format=flac");
    assert!(download.header("location").unwrap().contains("X-Amz-Expires=1800&"), "{}", download.head);
    let kept = follow(&download, "GET", &[]);
    assert!(kept.body == best("flac"));
    let disposition = "attachment; filename=\"_a & l_.mp4\"; filename*=UTF-8''%C3%87a%20&%20l%C3%A0.mp4";
    assert_eq!(kept.header("content-disposition"), Some(disposition));

    let status = |path: &str| server.get(path).status;
    assert_eq!(status("/tracks/trk_x/stream?format=ogg"), 400);
    assert_eq!([status("/tracks/trk_y/stream"), status("/tracks/%20/stream")], [404, 404]);
    assert_eq!(request(server.addr, "OPTIONS", "/tracks/trk_x/stream", &[]).status, 204);
    let block = |how: &str| {
        let data = dir.path().join("b");
        let done = segue().args(["block", "trk_x", "--as", how, "--data"]).arg(data).envs(env).output().unwrap();
        assert!(done.status.success(), "{}", said(&done));
    };
    let becomes = |wanted: u16| {
        while server.get("/tracks/trk_x/stream").status != wanted {
            std::thread::sleep(Duration::from_millis(50)); // the runner's own limit ends a wait that is in vain
        }
        assert_eq!(status("/tracks/trk_x/download"), wanted);
    };
    block("blocked");
    becomes(451);
    block("private");
    becomes(404);
    drop(server);

    // Shorter, and under the name that listeners know the bucket by.
    let mut env = env.to_vec();
    env.extend([
        ("SEGUE_STORE__S3__STREAM_URL_S", "60"),
        ("SEGUE_STORE__S3__PUBLIC_ENDPOINT", "https://dl.example.com"),
    ]);
    let second = dir.path().join("c");
    let unblocked =
        segue().args(["unblock", "trk_x", "--data"]).arg(&second).envs(env.iter().copied()).output().unwrap();
    assert!(unblocked.status.success(), "{}", said(&unblocked));
    let server = Server::start(&second, &[], &env);
    let stream = server.get("/tracks/trk_x/stream");
    let location = stream.header("location").unwrap();
    assert!(location.starts_with("https://dl.example.com/music/v/trk_x/") && location.contains("X-Amz-Expires=60&"));
    assert_eq!(stream.header("cache-control"), Some("no-store"), "it would not outlive a cache");
}

#[test]
fn a_track_in_a_directory_is_sent_with_ranges_and_its_digest() {
    let (dir, made) = (tempfile::tempdir().unwrap(), Made::short());
    let store: Store = LocalStore::open(&dir.path().join("store")).unwrap().into();
    made.publish(&store, "trk_x");
    let server = Server::start(dir.path(), &[], &[]);
    let rung =
        made.index.rungs.iter().filter(|rung| rung.path().starts_with("aac")).max_by_key(|rung| rung.average_bps);
    let object = &rung.unwrap().object;
    let whole = made.bytes(&object.name);

    let all = server.get("/tracks/trk_x/stream");
    assert!(all.status == 200 && all.body == whole, "{}", all.head);
    assert_eq!(all.header("content-length"), Some(&*whole.len().to_string()));
    let sha256 = hex::decode::<32>(object.sha256.as_bytes()).unwrap();
    let digest = format!("sha-256=:{}:", base64::engine::general_purpose::STANDARD.encode(sha256));
    assert_eq!(all.header("repr-digest"), Some(&*digest));
    assert_eq!(all.header("cache-control"), Some("public, max-age=60"));
    let ask = |method: &str, headers: &[(&str, &str)]| request(server.addr, method, "/tracks/trk_x/download", headers);
    let part = ask("GET", &[("Range", "bytes=-100")]);
    assert!(part.status == 206 && part.body == whole[whole.len() - 100..], "{}", part.head);
    assert_eq!(part.header("repr-digest"), Some(&*digest), "of all of it, whatever was asked for");
    assert!(part.header("content-disposition").unwrap().starts_with("attachment; filename=\"_a & l_.m4a\""));
    assert_eq!(ask("GET", &[("Range", &format!("bytes={}-", whole.len()))]).status, 416);
    let etag = all.header("etag").unwrap().to_owned();
    assert_eq!(ask("GET", &[("If-None-Match", &etag)]).status, 304);
    let head = ask("HEAD", &[]);
    assert_eq!((head.status, head.header("content-length")), (200, Some(&*whole.len().to_string())));
    assert!(head.body.is_empty());
    // Two thousand ranges put together are the file, over one connection after another.
    let mut joined = Vec::new();
    for start in (0..whole.len()).step_by(whole.len() / 20) {
        let end = (start + whole.len() / 20).min(whole.len()) - 1;
        joined.extend(ask("GET", &[("Range", &format!("bytes={start}-{end}"))]).body);
    }
    assert!(joined == whole);
}

/// A key that verifies and cannot sign: what is left of a pair when the wrong file was put in its place.
fn a_playlist_that_cannot_be_signed_is_signed_by_the_bucket(rgw: &Rgw) {
    let (dir, made) = (tempfile::tempdir().unwrap(), Made::short());
    let local = LocalStore::open(&dir.path().join("store")).unwrap();
    let cache = cache::Options::new(&dir.path().join("cache"), 1 << 30);
    let remote = Store::S3(RemoteStore::open(rgw.options("music"), local.clone(), Some(cache)).unwrap());
    made.publish(&remote, "trk_x");
    made.publish(&local.clone().into(), "trk_local");
    let public = include_str!("../../data/cloudfront_generated.pem");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    // Empty: both were published without it, so everybody may hear them.
    let db = runtime.block_on(ready(Place::Sqlite(dir.path().join("segue.db"))));
    let ask = |store: &Store, track: &str| {
        let pair = cloudfront::KeyPair { id: "K1".into(), key: rsa::Key::from_pem(public).unwrap() };
        let key = bunny::Key::new(&Secret::new(&b"k"[..])).unwrap();
        let verifier = Verifier::from(bunny::Keys::new(key, None));
        let origin = Origin::new(Options::default(), store.clone(), verifier, Clock::System).unwrap();
        let app = App {
            store: store.clone(),
            links: Links::new(Some("https://d1.cloudfront.net"), Some(Signer::CloudFront(pair)), 60),
            blocks: origin.blocks(),
            origin,
            valid: Valid::default(),
            db: db.clone(),
            base: None,
            purges: false,
            failures_max: 1,
            pictures: Arc::new(Semaphore::new(1)),
            streams: Arc::new(Semaphore::new(1)),
            shutdown: shutdown::channel().1,
            salt: Salt::default(),
            clock: Clock::System,
            media_clock: Clock::System,
            demo: None,
        };
        let request = axum::http::Request::get(format!("/tracks/{track}/master.m3u8"));
        let asked = routes(Arc::new(app)).oneshot(request.body(axum::body::Body::empty()).unwrap());
        runtime.block_on(async {
            let (head, body) = asked.await.unwrap().into_parts();
            (head, axum::body::to_bytes(body, 1 << 20).await.unwrap())
        })
    };
    let (head, body) = ask(&remote, "trk_x");
    assert_eq!((head.status.as_u16(), &head.headers["cache-control"]), (200, &"no-store".parse().unwrap()));
    assert_eq!(head.headers["content-type"], "application/vnd.apple.mpegurl");
    let text = String::from_utf8(body.to_vec()).unwrap();

    // Played as a player does: the init section, then every segment, each by its range.
    let rung =
        made.index.rungs.iter().filter(|rung| rung.path().starts_with("aac")).max_by_key(|rung| rung.average_bps);
    let rung = rung.unwrap();
    let file = made.bytes(&rung.object.name);
    let fetch = |url: &str, range: &str| {
        let (length, start) = range.split_once('@').unwrap();
        let (length, start): (usize, usize) = (length.parse().unwrap(), start.parse().unwrap());
        let (addr, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
        let wanted = format!("bytes={start}-{}", start + length - 1);
        let got = request(addr.parse().unwrap(), "GET", &format!("/{path}"), &[("Range", &wanted)]);
        assert_eq!(got.status, 206, "{}", got.head);
        assert!(got.body == file[start..start + length]);
        got.body.len() as u64
    };
    let map = text.lines().find_map(|line| line.strip_prefix("#EXT-X-MAP:URI=\"")).unwrap();
    let (url, range) = map.split_once("\",BYTERANGE=\"").unwrap();
    assert_eq!(fetch(url, range.trim_end_matches('"')), rung.init.bytes);
    let ranges: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("#EXT-X-BYTERANGE:")).collect();
    let urls: Vec<&str> = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    assert_eq!((ranges.len(), urls.len()), (rung.segments.len(), rung.segments.len()), "{text}");
    for ((range, url), segment) in ranges.iter().zip(urls).zip(&rung.segments) {
        assert_eq!(fetch(url, range), segment.bytes);
    }

    // In a directory nothing else can sign: better nothing than a door without a lock.
    let (head, _) = ask(&local.into(), "trk_local");
    assert_eq!((head.status.as_u16(), &head.headers["retry-after"]), (503, &"1".parse().unwrap()));
}
