//! An origin with nothing on its disk, in front of a bucket: what it serves, what it asks for, and what it says when
//! the bucket is slow, lies, or is gone.

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use segue::base::id::{TrackId, VersionId};
use segue::hls::playlist::segment_name;
use segue::hls::version::{Rung, VersionIndex};
use segue::store::remote::RemoteStore;
use segue::store::{LocalStore, Store};

use super::proxy::{Mode, Proxy};
use super::rgw::{ACCESS_KEY, Rgw, SECRET_KEY};
use crate::support::{Reply, Server, published, said, segue, send};

/// The demo track in a bucket, and a proxy between the bucket and whoever serves it.
struct Stage {
    rgw: Rgw,
    proxy: Proxy,
    dir: tempfile::TempDir,
    /// The version as it was made, on this disk.
    made: PathBuf,
    index: VersionIndex,
    /// `/a/{track}/{version}`.
    base: String,
}

impl Stage {
    fn set() -> Stage {
        let rgw = Rgw::start();
        drop(rgw.bucket("music"));
        let dir = tempfile::tempdir().unwrap();
        let published = published();
        let id = |key: &str| published.report[key].as_str().unwrap().to_owned();
        let (track, version) = (id("track_id"), id("version"));
        let made = published.data.join("store/v").join(&track).join(&version);
        let index = VersionIndex::decode(&fs::read(made.join("version.json")).unwrap()).unwrap();
        let staging = LocalStore::open(&dir.path().join("staging")).unwrap();
        let store = Store::S3(RemoteStore::open(rgw.options("music"), staging, None).unwrap());
        let (track, version): (TrackId, VersionId) = (track.parse().unwrap(), version.parse().unwrap());
        publish(&store, track, &made, &index);
        publish(&store, track, &made, &index); // again changes nothing
        assert_eq!(store.versions(track, 10).unwrap(), [version]);
        let out = store.stage().unwrap();
        let object = &index.rungs[0].object;
        store.copy_out((track, version), object, &out).unwrap();
        assert!(fs::read(out.dir().join(&object.name)).unwrap() == fs::read(made.join(&object.name)).unwrap());
        let proxy = Proxy::before(rgw.port());
        Stage { rgw, proxy, made, index, base: format!("/a/{track}/{version}"), dir }
    }

    fn serve(&self, data: &str, more: &[(&str, &str)]) -> Server {
        let endpoint = self.proxy.endpoint();
        let mut env = bucket_env(&endpoint).to_vec();
        env.extend([("SEGUE_ORIGIN__REQUIRE_TOKEN", "false"), ("SEGUE_STORE__S3__ATTEMPTS", "2")]);
        env.extend(more);
        Server::start(&self.dir.path().join(data), &["--role", "origin"], &env)
    }

    /// Every file below the version's URL and what it has to be.
    fn expected(&self) -> HashMap<String, Vec<u8>> {
        let mut expected = HashMap::new();
        for rung in &self.index.rungs {
            let file = fs::read(self.made.join(&rung.object.name)).unwrap();
            let at = format!("{}/{}", self.base, rung.path());
            expected.insert(format!("{at}/init.mp4"), file[..rung.init.bytes as usize].to_vec());
            for (number, (segment, start)) in rung.segments.iter().zip(rung.offsets()).enumerate() {
                let bytes = file[start as usize..(start + segment.bytes) as usize].to_vec();
                expected.insert(format!("{at}/{}", segment_name(number)), bytes);
            }
            expected.insert(format!("{}/{}", self.base.replace("/a/", "/d/"), rung.object.name), file);
        }
        assert!(expected.len() > 50);
        expected
    }
}

pub(super) fn bucket_env(endpoint: &str) -> [(&str, &str); 6] {
    [
        ("SEGUE_STORE__KIND", "s3"),
        ("SEGUE_STORE__S3__BUCKET", "music"),
        ("SEGUE_STORE__S3__ENDPOINT", endpoint),
        ("SEGUE_STORE__S3__PATH_STYLE", "true"),
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
    ]
}

fn publish(store: &Store, track: TrackId, made: &Path, index: &VersionIndex) {
    let staging = store.stage().unwrap();
    for object in index.objects() {
        fs::copy(made.join(&object.name), staging.dir().join(&object.name)).unwrap();
    }
    store.publish(staging, track, index).unwrap();
}

/// The whole answer is what was made, or it is a refusal that says when to come back. Never anything else.
#[track_caller]
fn right_or_refused(path: &str, reply: &Reply, expected: &[u8]) -> bool {
    match reply.status {
        200 => {
            let length: usize = reply.header("content-length").unwrap().parse().unwrap();
            assert_eq!(length, expected.len(), "{path}");
            assert!(reply.body == expected, "{path} is not what was made");
            true
        }
        503 => {
            assert_eq!(reply.header("retry-after"), Some("1"), "{path}");
            false
        }
        status => panic!("{path}: {status}"),
    }
}

#[test]
fn an_origin_with_nothing_serves_all_of_a_version_bit_by_bit_and_asks_once_for_each_range() {
    let stage = Stage::set();
    let server = stage.serve("a", &[]);
    let expected = stage.expected();

    // A hundred at once for one segment in the middle of the largest rung.
    let flac = stage.index.rungs.last().unwrap();
    assert!(flac.object.bytes > 3 << 20, "several chunks");
    let path = format!("{}/{}/{}", stage.base, flac.path(), segment_name(flac.segments.len() / 2));
    let right = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| {
                right.fetch_add(
                    usize::from(right_or_refused(&path, &server.get(&path), &expected[&path])),
                    Ordering::Relaxed,
                );
            });
        }
    });
    assert_eq!(right.into_inner(), 100);
    let media: Vec<String> = stage.proxy.asked().into_iter().filter(|asked| asked.starts_with("flac")).collect();
    assert_eq!(media.len(), 1, "one range, however many wait for it: {media:?}");
    assert_eq!(stage.proxy.documents(), 1, "and one index");

    for (path, bytes) in &expected {
        assert!(right_or_refused(path, &server.get(path), bytes), "{path}");
    }
    let asked = stage.proxy.asked();
    let mut distinct = asked.clone();
    distinct.dedup();
    assert_eq!(asked, distinct, "no range was asked for twice");

    // Now everything is here: with the bucket gone too, and after a restart.
    drop(stage.proxy.asked());
    for (path, bytes) in &expected {
        assert!(right_or_refused(path, &server.get(path), bytes), "{path}");
    }
    drop(server);
    let server = stage.serve("a", &[]);
    for (path, bytes) in &expected {
        assert!(right_or_refused(path, &server.get(path), bytes), "{path}");
    }
    assert_eq!(stage.proxy.asked(), [""; 0], "a restart asks for nothing again");
    assert_eq!(server.get(&stage.base.replace("/a/trk_", "/a/trk_no")).status, 404);

    // What rots on the disk is fetched again, and not served.
    drop(server);
    let cached = stage.dir.path().join("a/cache").join(stage.base.strip_prefix("/a/").unwrap()).join(&flac.object.name);
    let mut rotten = fs::read(&cached).unwrap();
    let middle = rotten.len() / 2;
    rotten[middle] ^= 1;
    fs::write(&cached, rotten).unwrap();
    let server = stage.serve("a", &[]);
    for (path, bytes) in &expected {
        assert!(right_or_refused(path, &server.get(path), bytes), "{path}");
    }
    assert_eq!(stage.proxy.asked().len(), 1, "only the chunk that was damaged");
    drop(server);

    // Two processes do not share a cache.
    let held = stage.serve("a", &[]);
    let endpoint = stage.proxy.endpoint();
    let second = segue()
        .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data"])
        .arg(stage.dir.path().join("a"))
        .envs(bucket_env(&endpoint))
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(2), "{}", said(&second));
    assert!(said(&second).contains("give this one its own cache.dir"), "{}", said(&second));
    drop(held);
}

/// First and last byte of a range of `Proxy::asked`.
fn range_of(asked: &str) -> (u64, u64) {
    let (first, last) = asked.split_once("bytes=").unwrap().1.split_once('-').unwrap();
    (first.parse().unwrap(), last.parse().unwrap())
}

#[test]
fn what_has_come_of_a_chunk_is_served_while_the_rest_of_it_is_on_its_way() {
    let stage = Stage::set();
    let server = stage.serve("a", &[]);
    let expected = stage.expected();
    // Rungs whose first chunks have many segments.
    let [held, cut] = ["160", "256"]
        .map(|name| stage.index.rungs.iter().find(|rung| rung.name == name).expect("a rung of the default ladder"));
    let path = |rung: &Rung, number: usize| format!("{}/{}/{}", stage.base, rung.path(), segment_name(number));
    let is_right = |rung: &Rung, number: usize| {
        let path = path(rung, number);
        right_or_refused(&path, &server.get(&path), &expected[&path])
    };
    let ends = |rung: &Rung| -> Vec<u64> {
        rung.offsets().zip(&rung.segments).map(|(start, segment)| start + segment.bytes).collect()
    };

    // Half of the chunk has come, with the first segment in it; the last one has not.
    stage.proxy.spoil(Mode::Hold, 1);
    assert!(is_right(held, 0));
    let asked = stage.proxy.asked();
    let ranges: Vec<(u64, u64)> = asked.iter().map(|asked| range_of(asked)).collect();
    let [(0, last)] = ranges[..] else { panic!("{asked:?}") };
    let in_chunk = ends(held).iter().filter(|end| **end <= last + 1).count();
    assert!(in_chunk >= 4, "{in_chunk} segments until {last}");
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| is_right(held, in_chunk - 1));
        stage.proxy.release();
        assert!(waits.join().unwrap());
    });
    assert_eq!(stage.proxy.asked(), [""; 0], "it was the same fetch");

    // A fetch that breaks off goes on behind the last segment that came, and not at the beginning.
    stage.proxy.spoil(Mode::Truncate, 1);
    assert!(is_right(cut, 3));
    let mut ranges: Vec<(u64, u64)> = stage.proxy.asked().iter().map(|asked| range_of(asked)).collect();
    ranges.sort_unstable();
    let [(0, end), (resumed, end_too)] = ranges[..] else { panic!("{ranges:?}") };
    let begins = cut.offsets().any(|start| start == resumed) || ends(cut).contains(&resumed);
    assert!(end == end_too && resumed > 0 && begins, "{ranges:?}");
}

#[test]
fn whatever_the_bucket_does_no_wrong_byte_is_served_and_no_restart_is_needed() {
    let mut stage = Stage::set();
    let server = stage.serve("a", &[]);
    let expected = stage.expected();
    let aac = &stage.index.rungs[0];
    let warm = format!("{}/{}/{}", stage.base, aac.path(), segment_name(0));
    assert!(right_or_refused(&warm, &server.get(&warm), &expected[&warm]));

    // Each spoils a file of its own, once and for good: once is not noticed, for good is a refusal.
    let flac = stage.index.rungs.last().unwrap();
    let mut segments = (0..flac.segments.len()).map(|n| format!("{}/{}/{}", stage.base, flac.path(), segment_name(n)));
    let modes = [Mode::Truncate, Mode::Reset, Mode::Flip, Mode::Shift, Mode::Status(500), Mode::Status(503)];
    let path = segments.next_back().unwrap();
    for mode in modes {
        stage.proxy.spoil(mode, usize::MAX);
        assert!(!right_or_refused(&path, &server.get(&path), &expected[&path]), "{mode:?} for good");
        assert!(right_or_refused(&warm, &server.get(&warm), &expected[&warm]), "what is here plays on: {mode:?}");
    }
    stage.proxy.spoil(Mode::Status(403), usize::MAX);
    assert!(!right_or_refused(&path, &server.get(&path), &expected[&path]), "keys that were replaced");
    for (mode, rung) in modes.into_iter().zip(&stage.index.rungs[1..]) {
        stage.proxy.spoil(mode, 1);
        let path = format!("{}/{}/{}", stage.base, rung.path(), segment_name(1));
        assert!(right_or_refused(&path, &server.get(&path), &expected[&path]), "{mode:?} once");
    }

    // A file of several chunks that breaks in the middle ends before its length: the client knows.
    stage.proxy.spoil(Mode::Pass, 0);
    let whole = format!("{}/{}", stage.base.replace("/a/", "/d/"), flac.object.name);
    let first = format!("{}/{}/{}", stage.base, flac.path(), segment_name(0));
    assert!(right_or_refused(&first, &server.get(&first), &expected[&first]));
    stage.proxy.spoil(Mode::Flip, usize::MAX);
    let cut = server.get(&whole);
    let length: usize = cut.header("content-length").unwrap().parse().unwrap();
    assert!(cut.status == 200 && cut.body.len() < length, "it is cut, and says what it should have been");
    assert!(expected[&whole].starts_with(&cut.body), "and what came is right");

    // Gone altogether, and back.
    stage.proxy.spoil(Mode::Pass, 0);
    stage.rgw.stop();
    assert!(right_or_refused(&warm, &server.get(&warm), &expected[&warm]));
    assert!(!right_or_refused(&path, &server.get(&path), &expected[&path]));
    assert_eq!(server.get(&warm.replace("/a/trk_", "/a/trk_x")).status, 503, "nobody can tell whether that exists");
    stage.rgw.resume();
    for (path, bytes) in &expected {
        assert!(right_or_refused(path, &server.get(path), bytes), "{path}");
    }

    // It hangs while many ask for what only it could know: what is on the disk is opened all the same.
    drop(server);
    let server = stage.serve("a", &[("SEGUE_SERVER__IO", "plain"), ("SEGUE_ORIGIN__CORES", "1")]);
    stage.proxy.hang(true);
    let asked = (0..100).map(|n| {
        let mut stream = TcpStream::connect(server.addr).unwrap();
        let path = warm.replace("/a/trk_", &format!("/a/trk_hangs{n}"));
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        stream
    });
    let asked: Vec<TcpStream> = asked.collect();
    for path in [&warm, &path, &first] {
        assert!(right_or_refused(path, &server.get(path), &expected[path]), "{path}");
    }
    stage.proxy.hang(false);
    drop(asked);
}

#[test]
fn the_cache_keeps_its_budget_while_people_listen_and_lets_go_of_what_it_evicts() {
    let stage = Stage::set();
    let all: u64 = stage.index.objects().map(|object| object.bytes).sum();
    let budget = 64u64 << 20;
    let staging = LocalStore::open(&stage.dir.path().join("more")).unwrap();
    let store = Store::S3(RemoteStore::open(stage.rgw.options("music"), staging, None).unwrap());
    let tracks = 3 * budget / 2 / all + 1;
    for number in 0..tracks {
        publish(&store, format!("trk_copy{number}").parse().unwrap(), &stage.made, &stage.index);
    }
    let server = stage.serve("a", &[("SEGUE_CACHE__BYTES_MAX", "67108864")]);
    let expected = stage.expected();
    let version = stage.base.rsplit('/').next().unwrap();
    let whole = |number: u64, name: &str| format!("/d/trk_copy{number}/{version}/{name}");
    let files: Vec<(&String, &Vec<u8>)> = expected.iter().filter(|(path, _)| path.starts_with("/d/")).collect();
    let cache = stage.dir.path().join("a/cache");
    for number in 0..tracks {
        for (path, bytes) in &files {
            let path = whole(number, path.rsplit('/').next().unwrap());
            assert!(right_or_refused(&path, &server.get(&path), bytes), "{path}");
        }
        let taken = bytes_below(&cache);
        assert!(taken <= budget + all, "{taken} bytes of {budget} after {number}"); // one version may be on its way
    }
    // The first ones were evicted: they are fetched again, and right again.
    for (path, bytes) in &files {
        let path = whole(0, path.rsplit('/').next().unwrap());
        assert!(right_or_refused(&path, &server.get(&path), bytes), "{path}");
    }
    // Files that have lost their names are closed when nobody reads them.
    let descriptors = format!("/proc/{}/fd", server.child.id());
    let deleted = || {
        let open = fs::read_dir(&descriptors).unwrap().flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
        open.filter(|path| path.to_string_lossy().contains("/cache/")).filter(|path| !path.exists()).count()
    };
    while deleted() > 0 {
        std::thread::sleep(std::time::Duration::from_millis(50)); // the runner's own limit ends a wait that is in vain
    }
}

fn bytes_below(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0, // evicted meanwhile
    });
    bytes.sum()
}

#[test]
fn the_command_publishes_to_a_bucket_and_blocks_there() {
    let rgw = Rgw::start();
    drop(rgw.bucket("music"));
    let dir = tempfile::tempdir().unwrap();
    let wav = dir.path().join("short.wav");
    write_wav(&wav, 5);
    let endpoint = rgw.endpoint();
    let env = bucket_env(&endpoint);
    let command = |args: &[&str]| {
        let data = dir.path().join("publisher");
        let done = segue().args(args).arg("--data").arg(data).envs(env).output().unwrap();
        assert!(done.status.success(), "{}", said(&done));
        String::from_utf8(done.stdout).unwrap()
    };
    let report: serde_json::Value =
        serde_json::from_str(&command(&["publish", "--json", wav.to_str().unwrap()])).unwrap();
    let (track, version) = (report["track_id"].as_str().unwrap(), report["version"].as_str().unwrap());
    assert!(!dir.path().join("publisher/store/v").join(track).exists(), "nothing stays on this machine");

    let (key, sha256) = segue::api::keys::make();
    let keys = format!("[{{ id = \"ci\", sha256 = \"{sha256}\" }}]");
    let more = [
        ("SEGUE_ORIGIN__REQUIRE_TOKEN", "false"),
        ("SEGUE_API__KEYS", keys.as_str()),
        ("SEGUE_API__SOURCE_KEYS", "[\"incoming/\"]"),
    ];
    let env: Vec<_> = env.into_iter().chain(more).collect();
    let mut server = Server::start(&dir.path().join("other-machine"), &[], &env);
    let alias = server.get(&format!("/tracks/{track}/master.m3u8"));
    assert_eq!(alias.header("location"), Some(&*format!("/a/{track}/{version}/aac/master.m3u8")));
    let segment = format!("/a/{track}/{version}/aac/96/00000.mp4");
    assert_eq!(server.get(&segment).status, 200);
    assert_eq!(server.get(&format!("/w/{track}/{version}/peaks.json")).status, 200);
    assert_eq!(server.get(&format!("/p/{track}/{version}/preview.m4a")).status, 200);

    // A source in the bucket: the worker reads it by a URL that it signs itself.
    let bucket = rgw.bucket("music");
    let sent = wav.clone();
    let meta = segue::store::objects::Meta::of("incoming/short.wav");
    bucket.wait(move |bucket| async move { bucket.put_file("incoming/short.wav", &sent, &meta).await }).unwrap();
    let enqueue = |source: &str| {
        let data = dir.path().join("other-machine");
        segue()
            .args(["jobs", "enqueue", "--track", "trk_sent", source, "--data"])
            .arg(data)
            .envs(env.clone())
            .output()
            .unwrap()
    };
    let done = enqueue("s3:incoming/short.wav");
    assert!(done.status.success(), "{}", said(&done));
    while server.get("/tracks/trk_sent/master.m3u8").status != 302 {
        std::thread::sleep(std::time::Duration::from_millis(100)); // the runner's own limit ends a wait that is in vain
    }
    assert_eq!(enqueue("s3:../secret").status.code(), Some(2));
    // The same over the API, of keys that are open.
    let bearer = format!("Bearer {key}");
    let ask = |source: &str| {
        let headers = [("Authorization", &*bearer), ("Idempotency-Key", "1"), ("Content-Type", "application/json")];
        let wish = serde_json::json!({ "source": source, "track": "trk_asked" }).to_string();
        send(server.addr, "POST", "/api/v1/transcodes", &headers, wish.as_bytes())
    };
    let closed = ask(&format!("s3:v/{track}/{version}/flac.mp4"));
    assert!(closed.status == 422 && closed.text().contains("api.source_keys"), "{}", closed.text());
    let asked = ask("s3:incoming/short.wav");
    assert_eq!(asked.status, 202, "{}", asked.text());
    while server.get("/tracks/trk_asked/master.m3u8").status != 302 {
        std::thread::sleep(std::time::Duration::from_millis(100)); // the runner's own limit ends a wait that is in vain
    }

    command(&["block", track, "--reason", "a test"]);
    let becomes = |wanted: u16| {
        while server.get(&segment).status != wanted {
            std::thread::sleep(std::time::Duration::from_millis(50)); // the runner's own limit ends a wait that is in vain
        }
    };
    becomes(451); // the other machine hears of it
    command(&["unblock", track]);
    becomes(200);

    // A bucket that does not answer is not an empty one; and no message has a key in it.
    let unreachable = ("SEGUE_STORE__S3__ENDPOINT", "http://127.0.0.1:9");
    for args in [&["block", track][..], &["blocks"], &["publish", wav.to_str().unwrap()]] {
        let data = dir.path().join("publisher");
        let done = segue().args(args).arg("--data").arg(data).envs(env.iter().copied().chain([unreachable])).output();
        let done = done.unwrap();
        assert_eq!(done.status.code(), Some(1), "{args:?}: {}", said(&done));
        assert!(said(&done).contains("bucket music at http://127.0.0.1:9"), "{args:?}: {}", said(&done));
        assert!(!said(&done).contains(SECRET_KEY) && !said(&done).contains(ACCESS_KEY), "{}", said(&done));
    }
    let shown = segue().args(["config", "show"]).envs(env).output().unwrap();
    assert!(shown.status.success() && said(&shown).contains("(hidden)"));
    assert!(!said(&shown).contains(SECRET_KEY) && !said(&shown).contains(ACCESS_KEY), "{}", said(&shown));

    // Told to stop, it does, with nothing left over.
    server.signal("TERM");
    assert!(server.child.wait().unwrap().success());
}

/// Seconds of a rising tone, 16 bits, mono.
pub(super) fn write_wav(path: &Path, seconds: u32) {
    let samples = (0..44_100 * seconds).map(|n| ((f64::from(n) * f64::from(n) / 4e6).sin() * 9_000.0) as i16);
    let data: Vec<u8> = samples.flat_map(i16::to_le_bytes).collect();
    let mut wav = b"RIFF".to_vec();
    wav.extend((36 + data.len() as u32).to_le_bytes());
    wav.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    wav.extend(44_100u32.to_le_bytes());
    wav.extend(88_200u32.to_le_bytes());
    wav.extend(b"\x02\0\x10\0data");
    wav.extend((data.len() as u32).to_le_bytes());
    wav.extend(data);
    fs::write(path, wav).unwrap();
}
