//! What a CDN's API is asked when a track goes dark, and what happens when it does not do as it should. The API is a
//! fake on loopback that answers as the documents of each provider say.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use segue::base::clock::Clock;
use segue::base::hex;
use segue::base::secret::Secret;
use segue::base::shutdown::{self, Phase};
use segue::cdn::purge::{Provider, What};
use segue::db::purges::Tried;
use segue::db::{Db, Place};
use segue::jobs::backoff::Backoff;
use segue::workers::purges::{self, Options};
use segue::workers::supervisor::Duty;
use sha2::{Digest as _, Sha256};

use crate::postgres::{Postgres, ready};
use crate::support::{Server, published, said, segue};

/// One request as it arrived.
#[derive(Clone, Debug)]
struct Asked {
    line: String,
    head: String,
    body: String,
}

impl Asked {
    fn header(&self, name: &str) -> &str {
        let found = self.head.lines().find_map(|line| {
            let (known, value) = line.split_once(':')?;
            known.eq_ignore_ascii_case(name).then(|| value.trim())
        });
        found.unwrap_or_default()
    }
}

/// What the fake does next.
#[derive(Clone, Debug)]
enum Does {
    Answers(&'static str, &'static str),
    Closes,
    Hangs,
}

struct Api {
    port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
    script: Arc<Mutex<VecDeque<Does>>>,
}

impl Api {
    /// Answers by the script, and then `last` for ever. Its threads end with the test process.
    fn start(script: Vec<Does>, last: Does) -> Api {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let api = Api { port, asked: Arc::default(), script: Arc::new(Mutex::new(script.into())) };
        let (asked, script) = (api.asked.clone(), api.script.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (asked, script, last) = (asked.clone(), script.clone(), last.clone());
                std::thread::spawn(move || {
                    serve(client, &asked, || script.lock().unwrap().pop_front().unwrap_or(last))
                });
            }
        });
        api
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(mut client: TcpStream, asked: &Mutex<Vec<Asked>>, next: impl FnOnce() -> Does) -> Option<()> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|end| end == b"\r\n\r\n") {
            break end + 4;
        }
        let n = client.read(&mut buffer).ok().filter(|n| *n > 0)?;
        bytes.extend_from_slice(&buffer[..n]);
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut one = Asked { line: head.lines().next()?.to_owned(), head, body: String::new() };
    let length: usize = one.header("content-length").parse().unwrap_or(0);
    while bytes.len() < end + length {
        let n = client.read(&mut buffer).ok().filter(|n| *n > 0)?;
        bytes.extend_from_slice(&buffer[..n]);
    }
    one.body = String::from_utf8(bytes[end..].to_vec()).unwrap();
    asked.lock().unwrap().push(one);
    match next() {
        Does::Answers(head, body) => {
            let length = body.len();
            write!(client, "HTTP/1.1 {head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}").ok()
        }
        Does::Closes => None,
        Does::Hangs => {
            std::thread::sleep(Duration::from_secs(30));
            None
        }
    }
}

fn secret(text: &str) -> Secret {
    Secret::new(text.as_bytes())
}

fn bunny() -> Provider {
    Provider::Bunny { pull_zone: 77, key: secret("bunny-key") }
}

const CLOUDFLARE_DONE: &str =
    r#"{"success":true,"errors":[],"messages":[],"result":{"id":"023e105f4ecef8ad9ca31a8372d0c353"}}"#;
const CLOUDFRONT_DONE: &str = "<?xml version=\"1.0\"?><Invalidation xmlns=\"http://cloudfront.amazonaws.com/doc/2020-05-31/\"><Id>I2J</Id><Status>InProgress</Status></Invalidation>";

/// Runs the worker until nothing waits any more, and returns what the API was asked.
fn purge(provider: Provider, wishes: &[What], script: Vec<Does>, done: Does) -> Vec<Asked> {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::start(script, done);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let db = ready(Place::Sqlite(dir.path().join("segue.db"))).await;
        for what in wishes {
            db.wish_purge(what, 0, 0).await.unwrap();
            db.wish_purge(what, 0, 0).await.unwrap(); // a second wish is the same purge
        }
        let options = Options {
            provider,
            url: api.url(),
            poll: Duration::from_millis(5),
            backoff: Backoff { first: Duration::from_millis(20), most: Duration::from_millis(50) },
            try_max: Duration::from_secs(3),
        };
        let (trigger, shutdown) = shutdown::channel();
        let duty = Duty::new("purges", options.poll, Clock::System);
        let worker = tokio::spawn(purges::run(db.clone(), options, Clock::System, (duty, shutdown)));
        while db.purges_waiting().await.unwrap() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        trigger.advance(Phase::Draining);
        worker.await.unwrap();
        let states: Vec<_> = db.purges(10).await.unwrap().iter().map(|purge| purge["state"].clone()).collect();
        assert_eq!(states, vec!["done"; wishes.len()]);
        db.close().await;
    });
    api.asked()
}

#[test]
fn each_api_is_asked_as_its_documents_say() {
    let (tag, url) = (What::Tag("trk_1".into()), What::Url("https://m.example.com/a/trk_1/x?y=1&z=é".into()));

    let asked = purge(bunny(), std::slice::from_ref(&tag), vec![], Does::Answers("204 No Content", ""));
    assert_eq!(asked.len(), 1, "two wishes for one thing are one request: {asked:?}");
    assert_eq!(asked[0].line, "POST /pullzone/77/purgeCache HTTP/1.1");
    assert_eq!((asked[0].header("accesskey"), asked[0].header("content-type")), ("bunny-key", "application/json"));
    assert_eq!(asked[0].body, r#"{"CacheTag":"trk_1"}"#);
    let asked = purge(bunny(), std::slice::from_ref(&url), vec![], Does::Answers("200 OK", ""));
    let encoded = "https%3A%2F%2Fm%2Eexample%2Ecom%2Fa%2Ftrk%5F1%2Fx%3Fy%3D1%26z%3D%C3%A9";
    assert_eq!(asked[0].line, format!("POST /purge?url={encoded}&async=false HTTP/1.1"));

    let cloudflare = || Provider::Cloudflare { zone: "z1".into(), token: secret("cf-token") };
    let asked = purge(cloudflare(), &[tag.clone(), url], vec![], Does::Answers("200 OK", CLOUDFLARE_DONE));
    assert!(asked.iter().all(|asked| asked.line == "POST /zones/z1/purge_cache HTTP/1.1"), "{asked:?}");
    assert!(asked.iter().all(|asked| asked.header("authorization") == "Bearer cf-token"));
    let mut bodies: Vec<&str> = asked.iter().map(|asked| asked.body.as_str()).collect();
    bodies.sort_unstable();
    assert_eq!(bodies, [r#"{"files":["https://m.example.com/a/trk_1/x?y=1&z=é"]}"#, r#"{"tags":["trk_1"]}"#]);

    let cloudfront =
        || Provider::CloudFront { distribution: "E1ABC".into(), access_key: "AKIAX".into(), secret_key: secret("sk") };
    let asked = purge(cloudfront(), &[tag], vec![], Does::Answers("201 Created", CLOUDFRONT_DONE));
    assert_eq!(asked[0].line, "POST /2020-05-31/distribution/E1ABC/invalidation HTTP/1.1");
    let body = &asked[0].body;
    for path in ["/a/trk_1/*", "/p/trk_1/*", "/w/trk_1/*", "/d/trk_1/*", "/tracks/trk_1/*"] {
        assert!(body.contains(&format!("<Path>{path}</Path>")), "{body}");
    }
    let paths = body.matches("<Path>").count();
    assert!(
        body.contains(&format!("<Quantity>{paths}</Quantity>")) && body.contains("<CallerReference>prg_"),
        "{body}"
    );
    assert_eq!(signature(&asked[0], "sk"), asked[0].header("authorization").rsplit("Signature=").next().unwrap());
    let url = What::Url("https://m.example.com/p/trk_1/a%20b?x=1&y=2".into());
    let asked = purge(cloudfront(), &[url], vec![], Does::Answers("201 Created", CLOUDFRONT_DONE));
    assert!(asked[0].body.contains("<Path>/p/trk_1/a%20b?x=1&amp;y=2</Path>"), "{}", asked[0].body);
}

/// Signature Version 4 again, from what arrived and nothing else
/// (https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html).
fn signature(asked: &Asked, key: &str) -> String {
    let authorization = asked.header("authorization");
    let part = |name: &str| authorization.split([' ', ',']).find_map(|part| part.strip_prefix(name)).unwrap();
    let (scope, names) = (part("Credential=").split_once('/').unwrap().1, part("SignedHeaders="));
    assert!(names.split(';').any(|name| name == "host") && scope.ends_with("/us-east-1/cloudfront/aws4_request"));
    let headers: String = names.split(';').map(|name| format!("{name}:{}\n", asked.header(name))).collect();
    let hash = |text: &str| hex::encode(&Sha256::digest(text.as_bytes()));
    let path = asked.line.split(' ').nth(1).unwrap();
    let canonical = format!("POST\n{path}\n\n{headers}\n{names}\n{}", hash(&asked.body));
    let text = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{}", asked.header("x-amz-date"), hash(&canonical));
    let mac = |key: &[u8], text: &str| {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
        mac.update(text.as_bytes());
        mac.finalize().into_bytes().to_vec()
    };
    let signing = scope.split('/').fold(format!("AWS4{key}").into_bytes(), |key, part| mac(&key, part));
    hex::encode(&mac(&signing, &text))
}

#[test]
fn whatever_an_api_does_a_purge_is_asked_for_until_it_is_done() {
    let script = vec![
        Does::Closes,
        Does::Hangs,
        Does::Answers("401 Unauthorized", r#"{"Message":"wrong key"}"#),
        Does::Answers("429 Too Many Requests\r\nRetry-After: 1", ""),
        Does::Answers("500 Internal Server Error", "<html>"),
        Does::Answers("503 Service Unavailable\r\nRetry-After: nonsense", ""),
        Does::Answers("404 Not Found", ""),
    ];
    let tries = script.len() + 1;
    let asked = purge(bunny(), &[What::Tag("trk_1".into())], script, Does::Answers("204 No Content", ""));
    assert_eq!(asked.len(), tries);

    // One reference on every try: CloudFront then makes one invalidation of them.
    let busy = "<ErrorResponse><Error><Code>TooManyInvalidationsInProgress</Code></Error></ErrorResponse>";
    let script = vec![Does::Answers("400 Bad Request", busy), Does::Answers("503 Slow Down", "")];
    let provider = Provider::CloudFront { distribution: "E1".into(), access_key: "A".into(), secret_key: secret("s") };
    let asked = purge(provider, &[What::Tag("t".into())], script, Does::Answers("201 Created", CLOUDFRONT_DONE));
    let references: Vec<&str> = asked.iter().map(|asked| asked.body.split("CallerReference").nth(1).unwrap()).collect();
    assert_eq!(references, [references[0]; 3]);
}

/// A takedown by the command, and the worker of a server that runs.
#[test]
fn a_track_that_goes_dark_is_purged_by_its_tag() {
    let dir = tempfile::tempdir().unwrap();
    copy(&published().data, dir.path());
    let api = Api::start(vec![Does::Answers("500 Oops", "")], Does::Answers("204 No Content", ""));
    let url = api.url();
    let env = [
        ("SEGUE_CDN__PROVIDER", "bunny"),
        ("SEGUE_CDN__BUNNY_PULL_ZONE", "77"),
        ("SEGUE_CDN__BUNNY_API_KEY", "hush-bunny"),
        ("SEGUE_CDN__BASE_URL", "https://music.b-cdn.net"),
        ("SEGUE_CDN__API_URL", &*url),
        ("SEGUE_WORKER__POLL_MS", "50"),
        ("SEGUE_WORKER__BACKOFF_S", "1"),
    ];
    let server = Server::start(dir.path(), &[], &env);
    let track = published().report["track_id"].as_str().unwrap().to_owned();
    // Playback is on the CDN's host.
    let alias = server.get(&format!("/tracks/{track}/master.m3u8"));
    assert!(alias.header("location").unwrap().starts_with("https://music.b-cdn.net/bcdn_token=HS256-"), "{alias:?}");

    let command = |args: &[&str]| {
        let done = segue().args(args).arg("--data").arg(dir.path()).envs(env).output().unwrap();
        assert!(done.status.success(), "{}", said(&done));
        said(&done)
    };
    assert!(command(&["block", &track, "--reason", "a test"]).contains("purged"));
    while !command(&["purge", "--list"]).contains(" done tag ") {
        std::thread::sleep(Duration::from_millis(100)); // the runner's own limit ends a wait that is in vain
    }
    let asked = api.asked();
    assert_eq!(asked.len(), 2, "the first was answered with 500: {asked:?}");
    assert!(asked.iter().all(|asked| asked.body == format!("{{\"CacheTag\":\"{track}\"}}")));
    // A CDN that asks again meanwhile does not get it: it was dark before it was purged.
    assert_eq!(server.get(&format!("/tracks/{track}/stream")).status, 451);
    let metrics = crate::support::request(server.admin, "GET", "/metrics", &[]).text();
    for line in ["segue_cdn_purges_total{outcome=\"done\"} 1", "segue_cdn_purges_total{outcome=\"failed\"} 1"] {
        assert!(metrics.contains(line), "{line}");
    }
    assert!(!command(&["config", "show"]).contains("hush-bunny"));
    let wrong = segue().args(["config", "check"]).env("SEGUE_CDN__PROVIDER", "cloudflare").output().unwrap();
    assert!(!wrong.status.success() && said(&wrong).contains("cdn.cloudflare_api_token"), "{}", said(&wrong));
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

#[test]
fn a_wish_during_a_try_is_not_done_by_that_try() {
    let directory = tempfile::tempdir().unwrap();
    let server = Postgres::start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for place in [Place::Sqlite(directory.path().join("segue.db")), Place::Postgres(server.database("purges"))] {
        runtime.block_on(async {
            let db = ready(place).await;
            wishes(&db).await;
            db.close().await;
        });
    }
}

async fn wishes(db: &Db) {
    let what = What::Tag("trk_1".into());
    let backoff = Backoff { first: Duration::from_micros(100), most: Duration::from_micros(100) };
    db.wish_purge(&what, 50, 10).await.unwrap();
    assert_eq!(db.take_purges(4, 49, 60).await.unwrap(), [], "not before origins are dark");
    let taken = db.take_purges(4, 50, 60).await.unwrap();
    assert_eq!(taken.len(), 1);
    assert_eq!(db.take_purges(4, 59, 70).await.unwrap(), [], "somebody is at it");
    db.wish_purge(&what, 55, 52).await.unwrap();
    db.settle_purge(&taken[0], &Tried::Done, backoff, 58).await.unwrap();
    assert_eq!(db.purges_waiting().await.unwrap(), 1, "the second wish came after the request");
    let again = db.take_purges(4, 58, 70).await.unwrap();
    assert_eq!((again.len(), &again[0].id), (1, &taken[0].id));
    db.settle_purge(&again[0], &Tried::Failed("x".into(), Some(1_000)), backoff, 60).await.unwrap();
    assert_eq!(db.take_purges(4, 1_059, 2_000).await.unwrap(), [], "the API said when");
    let third = db.take_purges(4, 1_060, 2_000).await.unwrap();
    db.settle_purge(&third[0], &Tried::Done, backoff, 1_100).await.unwrap();
    assert_eq!(db.purges_waiting().await.unwrap(), 0);
    // What was done is another purge when it is wished for again.
    db.wish_purge(&what, 0, 1_200).await.unwrap();
    assert_eq!(db.purges(10).await.unwrap().len(), 2);
}
