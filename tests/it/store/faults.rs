//! A bucket that misbehaves, and keys and clocks that are wrong: what is tried again, what is said, and that everything
//! goes on by itself when it is right again. What listeners get meanwhile is in `origin`.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use segue::base::clock::{Clock, rfc3339};
use segue::base::id::TrackId;
use segue::base::secret::Secret;
use segue::base::{Kind, Result};
use segue::store::credentials::Source;
use segue::store::objects::Meta;
use segue::store::remote::RemoteStore;
use segue::store::s3::{Bucket, Options};
use segue::store::{LocalStore, Store};

use super::made::Made;
use super::origin::{bucket_env, write_wav};
use super::proxy::{Mode, Proxy};
use super::rgw::{ACCESS_KEY, Rgw, SECRET_KEY};
use crate::kills;
use crate::support::{Server, request, said, segue};

fn put(bucket: &Bucket, key: &'static str) -> Result<()> {
    bucket.wait(move |bucket| async move { bucket.put(key, Bytes::from_static(b"x"), &Meta::of(key)).await })
}

fn get(bucket: &Bucket, key: &'static str) -> Result<Bytes> {
    bucket.wait(move |bucket| async move { bucket.get(key, 0..1).await })
}

/// One gateway for all of them: starting it is what takes longest.
#[test]
fn a_bucket_that_misbehaves_loses_nothing_and_is_used_again_when_it_is_well() {
    let mut rgw = Rgw::start();
    type Case = (&'static str, fn(&Rgw));
    let cases: [Case; 5] = [
        ("tried again", what_may_be_tried_again_is_and_everything_ends),
        ("keys", keys_are_replaced_without_a_restart_wherever_they_come_from),
        ("keys of a server", a_server_whose_keys_were_replaced_goes_on),
        ("full disk", a_full_disk_below_the_cache_costs_a_refusal_and_never_a_byte),
        ("storm", a_publish_goes_through_a_storm),
    ];
    for (name, case) in cases {
        eprintln!("case {name}"); // shown when it fails
        drop(rgw.music());
        case(&rgw);
    }
    eprintln!("case away at the start");
    drop(rgw.music());
    a_server_starts_while_the_bucket_is_away_and_serves_nothing_until_it_knows(&mut rgw);
}

fn what_may_be_tried_again_is_and_everything_ends(rgw: &Rgw) {
    let proxy = Proxy::before(rgw.port());
    let options = |rgw: &Rgw| Options {
        endpoint: Some(proxy.endpoint()),
        connect_timeout: Duration::from_secs(1),
        ..rgw.options("music")
    };
    let bucket = Bucket::open(options(rgw)).unwrap();
    put(&bucket, "v/a").unwrap();
    for mode in [Mode::Status(500), Mode::Status(503), Mode::Status(429), Mode::Refuse, Mode::Slow] {
        // Two in a row: the third attempt is the last.
        for what in [put, |bucket: &Bucket, key| get(bucket, key).map(drop)] {
            proxy.spoil_all(mode, 2);
            what(&bucket, "v/a").unwrap_or_else(|error| panic!("{mode:?}: {}", error.chain()));
        }
        if !matches!(mode, Mode::Status(503) | Mode::Refuse) {
            continue; // slow is not broken, and the other refusals end as these two do
        }
        proxy.spoil_all(mode, usize::MAX);
        let before = proxy.seen();
        for error in [put(&bucket, "v/a").unwrap_err(), get(&bucket, "v/a").unwrap_err()] {
            assert_eq!(error.kind(), Kind::Unavailable, "{mode:?}: {}", error.chain());
            assert!(error.chain().contains("v/a in bucket music at http://127.0.0.1"), "{}", error.chain());
        }
        let tries = proxy.seen() - before;
        assert!((2..=2 * 3 * 3).contains(&tries), "{mode:?}: bounded, and there were {tries}");
        proxy.spoil_all(Mode::Pass, 0);
    }
    // One that says nothing at all is given up.
    proxy.hang(true);
    let silent = Options { attempts: 1, read_timeout: Duration::from_secs(1), ..options(rgw) };
    let silent = Bucket::open(silent).unwrap();
    let error = get(&silent, "v/a").unwrap_err();
    assert!(error.kind() == Kind::Unavailable && error.chain().contains("timed out"), "{}", error.chain());
    proxy.hang(false);
    while get(&silent, "v/a").is_err() {} // its one try may have no second in a busy moment

    // A clock that is two hours slow: refused once, signed again by the bucket's; and so is what we sign for others.
    let slow = Clock::sim(Clock::System.unix_s() - 7_200);
    let skewed = Bucket::open(Options { clock: slow, ..rgw.options("music") }).unwrap();
    put(&skewed, "v/b").unwrap();
    assert_eq!(get(&skewed, "v/b").unwrap(), "x");
    let url = skewed.wait(|b| async move { b.presign_get("v/b", Duration::from_secs(60)).await }).unwrap();
    let path = url.strip_prefix(&rgw.endpoint()).unwrap().to_owned();
    assert_eq!(request(([127, 0, 0, 1], rgw.port()).into(), "GET", &path, &[]).status, 200, "{path}");

    // Connections are kept: many requests in a row need few.
    let counting = Counting::before(rgw.port());
    let kept = Bucket::open(Options { endpoint: Some(counting.endpoint()), ..rgw.options("music") }).unwrap();
    (0..30).for_each(|_| drop(get(&kept, "v/a").unwrap()));
    let connections = counting.connections.load(Ordering::Relaxed);
    assert!(connections <= 3, "{connections} connections for 30 requests");
}

/// Passes bytes on and counts connections.
struct Counting {
    addr: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Counting {
    fn before(port: u16) -> Counting {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let counting = Counting { addr: listener.local_addr().unwrap(), connections: Arc::default() };
        let connections = counting.connections.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                connections.fetch_add(1, Ordering::Relaxed);
                let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
                for (mut from, mut to) in [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)]
                {
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(std::net::Shutdown::Write);
                    });
                }
            }
        });
        counting
    }

    fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }
}

/// A service that gives a role's keys: what was asked, and the next answer.
struct Service {
    addr: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    document: Arc<Mutex<String>>,
}

impl Service {
    fn start() -> Service {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let service = Service { addr: listener.local_addr().unwrap(), asked: Arc::default(), document: Arc::default() };
        let (asked, document) = (service.asked.clone(), service.document.clone());
        std::thread::spawn(move || {
            for mut client in listener.incoming().flatten() {
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && client.read(&mut byte).is_ok_and(|n| n == 1) {
                    head.push(byte[0]);
                }
                let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
                let line = head.lines().next().unwrap_or_default().to_owned();
                let session = head.contains("x-aws-ec2-metadata-token: a-session");
                let (status, body) = match line.split(' ').take(2).collect::<Vec<_>>()[..] {
                    ["put", "/latest/api/token"] if head.contains("token-ttl-seconds: 300") => {
                        (200, "a-session".into())
                    }
                    ["get", "/latest/meta-data/iam/security-credentials/"] if session => (200, "a-role\n".into()),
                    ["get", "/latest/meta-data/iam/security-credentials/a-role"] if session => {
                        (200, document.lock().unwrap().clone())
                    }
                    ["get", "/v2/keys"] if head.contains("authorization: a-token") => {
                        (200, document.lock().unwrap().clone())
                    }
                    _ => (401, String::new()),
                };
                asked.lock().unwrap().push(line);
                let status = if document.lock().unwrap().is_empty() { 500 } else { status };
                let _ = write!(
                    client,
                    "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
            }
        });
        service
    }

    /// What it gives from now on: keys that end in so many seconds. An empty secret: nothing but 500.
    fn gives(&self, secret: &str, seconds: i64) {
        let end = rfc3339(
            (SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64 + seconds) * 1_000_000,
        );
        let keys = format!(
            r#"{{"Code":"Success","AccessKeyId":"{ACCESS_KEY}","SecretAccessKey":"{secret}","Expiration":"{end}"}}"#
        );
        *self.document.lock().unwrap() = if secret.is_empty() { String::new() } else { keys };
    }

    fn asked(&self) -> usize {
        std::mem::take(&mut *self.asked.lock().unwrap()).len()
    }
}

fn keys_are_replaced_without_a_restart_wherever_they_come_from(rgw: &Rgw) {
    let dir = tempfile::tempdir().unwrap();
    let open = |keys| {
        // What the options say themselves must not be used.
        let wrong = Secret::new(&b"never used"[..]);
        Bucket::open(Options { keys, secret_key: wrong, access_key: "NOBODY".into(), ..rgw.options("music") }).unwrap()
    };

    let file = dir.path().join("credentials");
    let write = |secret: &str| {
        let beside = dir.path().join("new");
        fs::write(&beside, format!("[music]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {secret}\n"))
            .unwrap();
        fs::rename(beside, &file).unwrap();
    };
    let bucket = open(Source::File(file.clone(), "music".into()));
    let missing = put(&bucket, "v/a").unwrap_err().chain();
    assert!(missing.contains("store.s3.credentials_file"), "{missing}");
    write("hush-old");
    let refused = put(&bucket, "v/a").unwrap_err().chain();
    assert!(refused.contains("403") && !refused.contains("hush"), "{refused}");
    write(SECRET_KEY);
    put(&bucket, "v/a").unwrap();
    fs::remove_file(&file).unwrap();
    get(&bucket, "v/a").unwrap(); // it is about to be put in its place
    fs::write(&file, "[music]\naws_access_key_id = half").unwrap();
    get(&bucket, "v/a").unwrap();
    write("hush-new");
    assert!(get(&bucket, "v/a").unwrap_err().chain().contains("403"), "the keys were replaced in the bucket first");
    write(SECRET_KEY);
    get(&bucket, "v/a").unwrap();

    let machine = Service::start();
    let bucket = open(Source::Instance(format!("http://{}", machine.addr)));
    let away = put(&bucket, "v/a").unwrap_err().chain();
    assert!(away.contains("cannot get keys from the machine's role") && away.contains("500"), "{away}");
    std::thread::sleep(Duration::from_millis(1_100)); // it is not asked again at once
    machine.gives(SECRET_KEY, 3_600);
    machine.asked();
    (0..5).for_each(|_| put(&bucket, "v/a").unwrap());
    assert_eq!(machine.asked(), 3, "a session, a role, its keys; and then they are known");

    // Keys about to end are replaced, and used to their end while nobody answers.
    let container = Service::start();
    let token_file = dir.path().join("token");
    fs::write(&token_file, "wrong\n").unwrap();
    let bucket = open(Source::Container {
        url: format!("http://{}/v2/keys", container.addr),
        token: None,
        token_file: Some(token_file.clone()),
    });
    container.gives(SECRET_KEY, 280); // less than five minutes: about to end
    assert!(put(&bucket, "v/a").unwrap_err().chain().contains("401"));
    fs::write(&token_file, "a-token\n").unwrap();
    std::thread::sleep(Duration::from_millis(1_100));
    put(&bucket, "v/a").unwrap();
    container.gives("", 0);
    std::thread::sleep(Duration::from_millis(1_100));
    container.asked();
    put(&bucket, "v/a").unwrap();
    assert!(container.asked() > 0, "it was asked, and what it gave before still is good");
}

fn keys_below(bucket: &Bucket, prefix: &'static str) -> Vec<String> {
    let mut keys = Vec::new();
    let mut after = None;
    loop {
        let page =
            bucket.wait(move |bucket| async move { bucket.list(prefix, after.as_deref(), 1_000).await }).unwrap();
        keys.extend(page.objects.into_iter().map(|object| object.key));
        after = page.next;
        if after.is_none() {
            return keys;
        }
    }
}

/// The bucket's keys are replaced, the file is a moment late: what is here plays, the rest waits, nothing is restarted.
fn a_server_whose_keys_were_replaced_goes_on(rgw: &Rgw) {
    let (dir, made) = (tempfile::tempdir().unwrap(), Made::short());
    let staging = LocalStore::open(&dir.path().join("staging")).unwrap();
    let store = Store::S3(RemoteStore::open(rgw.options("music"), staging, None).unwrap());
    made.publish(&store, "trk_x");
    let file = dir.path().join("credentials");
    let write = |secret: &str| {
        let beside = dir.path().join("new");
        let keys = format!("[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {secret}\n");
        fs::write(&beside, keys).unwrap();
        fs::rename(beside, &file).unwrap();
    };
    write(SECRET_KEY);
    let endpoint = rgw.endpoint();
    let keys = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
    let mut env: Vec<_> = bucket_env(&endpoint).into_iter().filter(|(name, _)| !keys.contains(name)).collect();
    env.extend([
        ("SEGUE_STORE__S3__CREDENTIALS", "file"),
        ("SEGUE_STORE__S3__CREDENTIALS_FILE", file.to_str().unwrap()),
        ("SEGUE_ORIGIN__REQUIRE_TOKEN", "false"),
    ]);
    let server = Server::start(&dir.path().join("a"), &[], &env);
    let [first, second] = [0, 1].map(|n| {
        let object = &made.index.rungs[n].object;
        (format!("/d/trk_x/{}/{}", made.version, object.name), made.bytes(&object.name))
    });
    let plays = |(path, bytes): &(String, Vec<u8>)| {
        let reply = server.get(path);
        match reply.status {
            200 => assert!(reply.body == *bytes, "{path}"),
            status => assert_eq!((status, reply.header("retry-after")), (503, Some("1")), "{path}"),
        }
        reply.status == 200
    };
    assert!(plays(&first));
    write("hush-replaced");
    assert!(!plays(&second), "403");
    assert!(plays(&first), "what is here plays on");
    write(SECRET_KEY);
    while !plays(&second) {
        std::thread::sleep(Duration::from_millis(100)); // the runner's own limit ends a wait that is in vain
    }
}

/// Killed between any two requests, and in the middle of them.
#[test]
fn a_publish_that_is_killed_shows_nothing_and_is_swept() {
    let rgw = Rgw::start();
    let bucket = rgw.music();
    let proxy = Proxy::before(rgw.port());
    let dir = tempfile::tempdir().unwrap();
    let wav = dir.path().join("short.wav");
    write_wav(&wav, 2);
    let endpoint = proxy.endpoint();
    let start = || {
        let mut command = segue();
        command.args(["publish", "--json", "--data"]).arg(dir.path().join("publisher")).arg(&wav);
        command.envs(bucket_env(&endpoint)).stdout(std::process::Stdio::piped()).spawn().unwrap()
    };
    let rounds = kills::rounds();
    let mut random = kills::random(11);
    let (mut killed, mut published) = (0, Vec::new());
    for _ in 0..rounds {
        let after = proxy.seen() + 1 + random.below(26);
        let mut child = start();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success());
                let mut report = String::new();
                child.stdout.take().unwrap().read_to_string(&mut report).unwrap();
                let report: serde_json::Value = serde_json::from_str(&report).unwrap();
                published.push(report["track_id"].as_str().unwrap().to_owned());
                break;
            }
            if proxy.seen() >= after {
                child.kill().unwrap();
                child.wait().unwrap();
                killed += 1;
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        whole_or_invisible(&bucket);
    }
    eprintln!("{killed} of {rounds} killed");
    assert!(killed >= rounds / 3, "{killed} of {rounds}");
    // One that was not killed, whatever the rounds came to.
    assert!(start().wait().unwrap().success());

    let left = keys_below(&bucket, "publishing/").len();
    let store = |abandoned| {
        let staging = LocalStore::open(&dir.path().join("publisher/store")).unwrap();
        Store::S3(RemoteStore::open(Options { abandoned, ..rgw.options("music") }, staging, None).unwrap())
    };
    store(Duration::from_secs(3_600)).sweep().unwrap();
    assert_eq!(keys_below(&bucket, "publishing/").len(), left, "somebody may still be at it");
    store(Duration::ZERO).sweep().unwrap();
    assert_eq!(keys_below(&bucket, "publishing/"), [""; 0]);
    whole_or_invisible(&bucket);
    let shown = keys_below(&bucket, "tracks/").len();
    let tracks: std::collections::BTreeSet<String> =
        keys_below(&bucket, "v/").iter().map(|key| key.split('/').nth(1).unwrap().to_owned()).collect();
    assert_eq!(tracks.len(), shown, "nothing is left of what was not shown: {tracks:?}");
    assert!(published.iter().all(|track| tracks.contains(track)));
    let unfinished = bucket.wait(|bucket| async move { bucket.unfinished(Duration::ZERO).await }).unwrap();
    assert!(unfinished.is_empty(), "{unfinished:?}");
    assert_eq!(fs::read_dir(dir.path().join("publisher/store/staging")).unwrap().count(), 0);

    // Killed while a deleted track is removed: its document has gone and its objects have not. All of it goes.
    let made = Made::short();
    let (store, track) = (store(Duration::ZERO), made.publish(&store(Duration::ZERO), "trk_deleted"));
    let document = format!("v/{track}/{}/version.json", made.version);
    bucket.wait(move |bucket| async move { bucket.delete(&document).await }).unwrap();
    assert_eq!(store.versions(track, 10).unwrap(), [], "no version is left to name");
    assert!(!keys_below(&bucket, "v/trk_deleted/").is_empty());
    store.remove_rest(track).unwrap();
    assert_eq!(keys_below(&bucket, "v/trk_deleted/"), [""; 0]);
    assert_eq!(keys_below(&bucket, "tracks/").len(), shown + 1, "nothing of another track was touched");
    whole_or_invisible_but(&bucket, "trk_deleted");
}

/// Every track that has a record has all of the version that it names.
#[track_caller]
fn whole_or_invisible(bucket: &Bucket) {
    whole_or_invisible_but(bucket, "");
}

#[track_caller]
fn whole_or_invisible_but(bucket: &Bucket, but: &str) {
    let all = keys_below(bucket, "v/");
    for record in keys_below(bucket, "tracks/").into_iter().filter(|key| *key != format!("tracks/{but}.json")) {
        let (bytes, _) = bucket.wait(move |bucket| async move { bucket.get_all(&record, 1 << 20).await }).unwrap();
        let track: segue::tracks::Track = serde_json::from_slice(&bytes).unwrap();
        let base = format!("v/{}/{}", track.id, track.version);
        let document = format!("{base}/version.json");
        let (document, _) = bucket.wait(move |b| async move { b.get_all(&document, 16 << 20).await }).unwrap();
        let index = segue::hls::version::VersionIndex::decode_as(track.version, &document).unwrap();
        for object in index.objects() {
            assert!(all.contains(&format!("{base}/{}", object.name)), "{base} lacks {}", object.name);
        }
    }
}

fn a_server_starts_while_the_bucket_is_away_and_serves_nothing_until_it_knows(rgw: &mut Rgw) {
    let dir = tempfile::tempdir().unwrap();
    let made = Made::short();
    let staging = LocalStore::open(&dir.path().join("staging")).unwrap();
    let store = Store::S3(RemoteStore::open(rgw.options("music"), staging, None).unwrap());
    let track: TrackId = made.publish(&store, "trk_x");
    made.publish(&store, "trk_closed");
    let entry = segue::origin::blocks::Entry { state: segue::origin::blocks::State::Blocked, reason: None, since_s: 1 };
    segue::origin::blocks::block(&store, "trk_closed".parse().unwrap(), entry).unwrap();
    let endpoint = rgw.endpoint();
    let mut env = bucket_env(&endpoint).to_vec();
    env.extend([("SEGUE_ORIGIN__REQUIRE_TOKEN", "false"), ("SEGUE_STORE__S3__ATTEMPTS", "1")]);
    let serve = || Server::start(&dir.path().join("a"), &[], &env);
    let media = |track: &str| format!("/a/{track}/{}/aac/master.m3u8", made.version);
    let whole = made.index.rungs.iter().map(|rung| format!("/d/{track}/{}/{}", made.version, rung.object.name));
    let readyz = |server: &Server| {
        let reply = request(server.admin, "GET", "/readyz", &[]);
        (reply.status, reply.text())
    };

    // First with the bucket, so that everything is on the disk.
    let server = serve();
    whole.clone().for_each(|path| assert_eq!(server.get(&path).status, 200, "{path}"));
    drop(server);
    rgw.stop();
    let server = serve();
    let (status, text) = readyz(&server);
    assert!(status == 503 && text.contains("blocks_unknown"), "{status} {text}");
    let alias = |track: &str| format!("/tracks/{track}/master.m3u8");
    for path in [media("trk_x"), media("trk_closed"), media("trk_none"), alias("trk_x"), alias("trk_closed")] {
        let reply = server.get(&path);
        assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")), "{path}: it may be closed");
    }
    rgw.resume();
    while readyz(&server).0 != 200 {
        std::thread::sleep(Duration::from_millis(50)); // the runner's own limit ends a wait that is in vain
    }
    assert_eq!([server.get(&media("trk_x")).status, server.get(&media("trk_closed")).status], [200, 451]);
    assert_eq!(server.get(&alias("trk_closed")).status, 451);
    // Away again: what is here plays on, and the balancer is told no more than that.
    rgw.stop();
    whole.for_each(|path| assert_eq!(server.get(&path).status, 200, "{path}"));
    assert_eq!(server.get(&media("trk_closed")).status, 451, "closed is closed");
    while !readyz(&server).1.contains("\"degraded\":[\"store_unreachable\"]") {
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(readyz(&server).0, 200);
}

/// The cache on a disk of three mebibytes that something else has filled.
fn a_full_disk_below_the_cache_costs_a_refusal_and_never_a_byte(rgw: &Rgw) {
    let dir = tempfile::tempdir().unwrap();
    let made = Made::short();
    let staging = LocalStore::open(&dir.path().join("staging")).unwrap();
    let store = Store::S3(RemoteStore::open(rgw.options("music"), staging, None).unwrap());
    made.publish(&store, "trk_x");
    made.publish(&store, "trk_y");
    let cache = dir.path().join("cache");
    fs::create_dir(&cache).unwrap();
    let may = std::process::Command::new("unshare").args(["-rm", "true"]).status();
    if !may.is_ok_and(|status| status.success()) {
        eprintln!("not tried: this machine lets nobody mount a small disk (unshare -rm)");
        return;
    }
    // A mount namespace of its own: the disk is gone with the server.
    let script = "mount -t tmpfs -o size=3m none \"$1\" && dd if=/dev/zero of=\"$1/filler\" bs=4k count=758 status=none; \
                  shift; exec \"$@\"";
    let mut command = std::process::Command::new("unshare");
    command.args(["-rm", "sh", "-c", script, "sh"]).arg(&cache).arg(env!("CARGO_BIN_EXE_segue"));
    command.args(["serve", "--role", "origin", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data"]);
    command.arg(dir.path().join("a")).envs(bucket_env(&rgw.endpoint()));
    command.env("SEGUE_ORIGIN__REQUIRE_TOKEN", "false").env("SEGUE_CACHE__DIR", &cache);
    let server = Server::started(command);
    let rung = made.index.rungs.iter().max_by_key(|rung| rung.object.bytes).unwrap();
    let path = format!("/d/trk_x/{}/{}", made.version, rung.object.name);
    assert!(rung.object.bytes > 64 << 10, "{}: more than is free", rung.object.bytes);
    let refused = server.get(&path);
    let whole = made.bytes(&rung.object.name);
    match refused.status {
        503 => assert_eq!(refused.header("retry-after"), Some("1")),
        status => {
            assert!(status == 200 && refused.body.len() < whole.len() && whole.starts_with(&refused.body), "{status}");
        }
    }
    // Space again, and no restart. Seen from inside: the mount is the server's alone.
    let filler = format!("/proc/{}/root{}", server.child.id(), cache.join("filler").display());
    fs::remove_file(&filler).unwrap();
    let served = server.get(&path);
    assert!(served.status == 200 && served.body == whole, "{}", served.head);

    // Full to the last byte, and another track is asked for: what was kept makes room, though the budget is far away.
    let mut file = fs::File::create(&filler).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    let other = path.replace("/trk_x/", "/trk_y/");
    loop {
        let reply = server.get(&other);
        match reply.status {
            200 if reply.body == whole => break,
            // The space of what was evicted is free when nobody holds it open any more.
            200 => assert!(whole.starts_with(&reply.body)),
            status => assert_eq!((status, reply.header("retry-after")), (503, Some("1"))),
        }
        std::thread::sleep(Duration::from_millis(100)); // the runner's own limit ends a wait that is in vain
    }
}

/// Storms while somebody publishes: it takes longer, and what is there is whole.
fn a_publish_goes_through_a_storm(rgw: &Rgw) {
    let bucket = rgw.bucket("music");
    let proxy = Proxy::before(rgw.port());
    let dir = tempfile::tempdir().unwrap();
    let wav = dir.path().join("short.wav");
    write_wav(&wav, 2);
    let endpoint = proxy.endpoint();
    for mode in [Mode::Status(500), Mode::Status(503), Mode::Refuse] {
        proxy.spoil_all(mode, 2);
        let done = segue()
            .args(["publish", "--json", "--data"])
            .arg(dir.path().join("publisher"))
            .arg(&wav)
            .envs(bucket_env(&endpoint))
            .output()
            .unwrap();
        assert!(done.status.success(), "{mode:?}: {}", said(&done));
        whole_or_invisible(&bucket);
    }
    assert_eq!(keys_below(&bucket, "tracks/").len(), 3);
    // For good: a line that names the bucket, nothing shown, and the next try works.
    proxy.spoil_all(Mode::Status(503), usize::MAX);
    let publish = || {
        segue()
            .args(["publish", "--data"])
            .arg(dir.path().join("publisher"))
            .arg(&wav)
            .envs(bucket_env(&endpoint))
            .output()
    };
    let refused = publish().unwrap();
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains("503") && said(&refused).contains("bucket music at"), "{}", said(&refused));
    proxy.spoil_all(Mode::Pass, 0);
    assert_eq!(keys_below(&bucket, "tracks/").len(), 3);
    assert!(publish().unwrap().status.success());
}
