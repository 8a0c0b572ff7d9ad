//! `segue migrate-storage`: tracks change their store while they are listened to, whoever is killed meanwhile.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use segue::base::clock::Clock;
use segue::base::id::TrackId;
use segue::db::Place;
use segue::store::remote::RemoteStore;
use segue::store::{LocalStore, Store, artwork};
use serde_json::Value;

use super::made::Made;
use super::origin::bucket_env;
use super::proxy::Proxy;
use super::rgw::Rgw;
use crate::kills;
use crate::postgres::{Postgres, ready};
use crate::support::{Random, Server, said, segue};

/// A data directory with tracks, a bucket, and a proxy before it.
struct Move<'r> {
    rgw: &'r Rgw,
    proxy: Proxy,
    dir: tempfile::TempDir,
    made: Made,
    /// `None`: SQLite in the directory.
    database: Option<String>,
}

impl<'r> Move<'r> {
    fn set(rgw: &'r Rgw, tracks: &[&str], database: Option<String>) -> Move<'r> {
        drop(rgw.music());
        let proxy = Proxy::before(rgw.port());
        let moving = Move { proxy, rgw, dir: tempfile::tempdir().unwrap(), made: Made::short(), database };
        for track in tracks {
            moving.made.publish(&moving.local(), track);
        }
        moving
    }

    fn store_dir(&self) -> std::path::PathBuf {
        self.dir.path().join("store")
    }

    fn local(&self) -> Store {
        LocalStore::open(&self.store_dir()).unwrap().into()
    }

    fn remote(&self) -> Store {
        let staging = LocalStore::open(&self.dir.path().join("other-staging")).unwrap();
        Store::S3(RemoteStore::open(self.rgw.options("music"), staging, None).unwrap())
    }

    fn command(&self, args: &[&str]) -> Command {
        let endpoint = self.proxy.endpoint();
        let mut command = segue();
        // The settings of a server that still has everything in its directory.
        command.args(["migrate-storage", "--json", "--data"]).arg(self.dir.path()).args(args);
        command.envs(bucket_env(&endpoint).into_iter().filter(|(name, _)| *name != "SEGUE_STORE__KIND"));
        command.envs(self.database.iter().map(|url| ("DATABASE_URL", url)));
        command.stdin(Stdio::null());
        command
    }

    /// Gives a track pictures as its owner would, on a server that writes to `store`; returns the hash in their names.
    fn picture(&self, store: &Store, track: &str) -> String {
        let made: Vec<_> = artwork::SIZES.map(|size| (size, format!("{track} at {size}").into_bytes())).into();
        let (hash, id) = (artwork::hash(&made), track.parse().unwrap());
        artwork::put(store, id, &hash, &made).unwrap();
        let place = match &self.database {
            Some(url) => Place::Postgres(url.clone()),
            None => Place::Sqlite(self.dir.path().join("segue.db")),
        };
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let db = ready(place).await;
            db.set_artwork(id, Some(&hash), Clock::System.unix_us()).await.unwrap();
            db.close().await;
        });
        hash
    }

    fn run(&self, args: &[&str]) -> Value {
        let done = self.command(args).output().unwrap();
        assert!(done.status.success(), "{args:?}: {}", said(&done));
        serde_json::from_slice(&done.stdout).unwrap()
    }

    fn start(&self, args: &[&str]) -> Child {
        self.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn serve(&self, kind: &str, second: Option<&str>) -> Server {
        let endpoint = self.rgw.endpoint();
        let mut env = bucket_env(&endpoint).to_vec();
        env.extend([("SEGUE_STORE__KIND", kind), ("SEGUE_ORIGIN__REQUIRE_TOKEN", "false")]);
        env.extend(second.map(|second| ("SEGUE_STORE__SECOND", second)));
        env.extend(self.database.iter().map(|url| ("DATABASE_URL", url.as_str())));
        Server::start(self.dir.path(), &[], &env)
    }

    /// The alias leads to a playlist, and a file of the version is bit by bit what was made.
    #[track_caller]
    fn plays(&self, server: &Server, track: &str) {
        let alias = server.get(&format!("/tracks/{track}/master.m3u8"));
        assert_eq!(alias.status, 302, "{track}: {}", alias.text());
        assert_eq!(server.get(alias.header("location").unwrap()).status, 200, "{track}");
        for object in self.made.index.rungs.iter().map(|rung| &rung.object) {
            let file = server.get(&format!("/d/{track}/{}/{}", self.made.version, object.name));
            assert_eq!(file.status, 200, "{track} {}", object.name);
            assert!(file.body == self.made.bytes(&object.name), "{track} {}", object.name);
        }
    }

    /// All of a track is in a store and proves to be what was made.
    fn is_whole_in(&self, store: &Store, track: &str) -> bool {
        let track: TrackId = track.parse().unwrap();
        let Ok(staging) = store.stage() else { return false };
        let has = |object| store.copy_out((track, self.made.version), object, &staging).is_ok();
        store.read_record(track).is_ok()
            && store.read_version(track, self.made.version).is_ok()
            && self.made.index.objects().all(has)
            && self.made.is_in(staging.dir())
    }

    fn version_dir(&self, track: &str) -> std::path::PathBuf {
        self.store_dir().join("v").join(track).join(self.made.version.to_string())
    }
}

const TRACKS: [&str; 6] = ["trk_m0", "trk_m1", "trk_m2", "trk_m3", "trk_m4", "trk_m5"];

fn left(report: &Value) -> Vec<(String, String)> {
    let left = report["left"].as_array().unwrap().iter();
    left.map(|left| (left["track"].as_str().unwrap().into(), left["reason"].as_str().unwrap().into())).collect()
}

#[test]
fn tracks_move_to_the_bucket_and_back_while_they_play() {
    let rgw = Rgw::start();
    let moving = Move::set(&rgw, &TRACKS, None);
    let server = moving.serve("local", Some("s3"));
    TRACKS.iter().for_each(|track| moving.plays(&server, track));

    let looked = moving.run(&["--from", "local", "--to", "s3", "--dry-run"]);
    let bytes: u64 = moving.made.index.objects().map(|object| object.bytes).sum();
    assert_eq!((&looked["moved"], &looked["bytes"], &looked["remaining"]), (&6.into(), &(6 * bytes).into(), &6.into()));
    assert_eq!(moving.remote().records().unwrap(), [], "a dry run changes nothing");

    // What a track looks like moves with it.
    let shown = |server: &Server, track: &str, hash: &str| {
        let picture = server.get(&format!("/tracks/{track}/artwork/{hash}-640.jpg"));
        assert_eq!((picture.status, picture.text()), (200, format!("{track} at 640")), "{}", picture.head);
    };
    let pictures = moving.picture(&moving.local(), "trk_m0");
    shown(&server, "trk_m0", &pictures);

    // Three that cannot be moved: each is said with its reason, and stays where it is.
    fs::remove_dir_all(moving.version_dir("trk_m3")).unwrap();
    let damaged = moving.version_dir("trk_m4").join(&moving.made.index.rungs[0].object.name);
    let mut wrong = fs::read(&damaged).unwrap();
    wrong[1000] ^= 1;
    fs::write(&damaged, wrong).unwrap();
    sql(moving.dir.path(), "update track set storage_key = null where id = 'trk_m5'");
    // What is closed stays closed in the other store.
    let closed = segue().args(["block", "trk_m2", "--reason", "x", "--data"]).arg(moving.dir.path()).output().unwrap();
    assert!(closed.status.success(), "{}", said(&closed));

    let first = moving.run(&["--from", "local", "--to", "s3", "--limit", "1", "--batch-size", "1"]);
    assert_eq!((&first["moved"], &first["remaining"], &first["pictures"]), (&1.into(), &5.into(), &1.into()));
    let rest = moving.run(&["--from", "local", "--to", "s3", "--batch-size", "2"]);
    assert_eq!((&rest["moved"], &rest["skipped"], &rest["failed"]), (&2.into(), &3.into(), &0.into()));
    let reasons = [("trk_m3", "missing"), ("trk_m4", "damaged"), ("trk_m5", "no_key")];
    assert_eq!(left(&rest), reasons.map(|(track, reason)| (track.to_owned(), reason.to_owned())));
    let again = moving.run(&["--from", "local", "--to", "s3"]);
    assert_eq!((&again["moved"], &again["bytes"], &again["remaining"]), (&0.into(), &0.into(), &3.into()));
    for track in ["trk_m0", "trk_m1", "trk_m2"] {
        assert!(moving.is_whole_in(&moving.remote(), track), "{track}");
        assert!(moving.version_dir(track).exists(), "{track}: nothing was removed without being asked");
    }
    assert_eq!(moving.remote().records().unwrap().len(), 3);
    // Set on a server that still writes to the directory, after the track was moved: the next command brings them.
    let later = moving.picture(&moving.local(), "trk_m1");
    let brought = moving.run(&["--from", "local", "--to", "s3"]);
    assert_eq!((&brought["moved"], &brought["pictures"]), (&0.into(), &2.into()), "{brought}");

    // Removed only what the bucket proves to have; the server that runs goes on with the bucket's.
    let removed = moving.run(&["--from", "local", "--to", "s3", "--delete-local"]);
    assert_eq!((&removed["deleted"], &removed["skipped"]), (&3.into(), &3.into()));
    for track in ["trk_m0", "trk_m1", "trk_m2"] {
        assert!(!moving.version_dir(track).exists() && moving.local().read_record(track.parse().unwrap()).is_err());
    }
    for (track, hash) in [("trk_m0", &pictures), ("trk_m1", &later)] {
        assert_eq!(artwork::all(&moving.local(), track.parse().unwrap(), hash).unwrap(), None, "{track}");
        shown(&server, track, hash);
    }
    assert!(moving.version_dir("trk_m4").exists() && moving.version_dir("trk_m5").exists());
    for track in ["trk_m0", "trk_m1", "trk_m5"] {
        moving.plays(&server, track);
    }
    drop(server);
    let server = moving.serve("s3", Some("local"));
    for track in ["trk_m0", "trk_m1", "trk_m5"] {
        moving.plays(&server, track);
    }
    drop(server);
    let server = moving.serve("s3", None);
    moving.plays(&server, "trk_m0");
    shown(&server, "trk_m0", &pictures);
    shown(&server, "trk_m1", &later);
    assert_eq!(server.get("/tracks/trk_m2/master.m3u8").status, 451, "closed there too");
    assert_eq!(server.get("/tracks/trk_m5/master.m3u8").status, 404, "it was never moved");
    drop(server);

    // And back: a server that knows no bucket. Pictures that nobody has, or that are damaged, keep their track where it is.
    let remote = moving.remote();
    let id: TrackId = "trk_m1".parse().unwrap();
    artwork::put(&remote, id, &later, &[(640, b"damaged".to_vec())]).unwrap();
    let kept = moving.run(&["--from", "s3", "--to", "local"]);
    assert_eq!(left(&kept), [("trk_m1".to_owned(), "artwork".to_owned())], "{kept}");
    assert_eq!((&kept["moved"], &kept["remaining"]), (&2.into(), &1.into()));
    artwork::remove(&remote, id, &later).unwrap();
    let kept = moving.run(&["--from", "s3", "--to", "local"]);
    assert!(kept["left"][0]["why"].as_str().unwrap().contains("neither store has the pictures"), "{kept}");
    assert_eq!(moving.picture(&remote, "trk_m1"), later);
    let back = moving.run(&["--from", "s3", "--to", "local"]);
    assert_eq!((&back["moved"], &back["remaining"]), (&1.into(), &0.into()));
    let server = Server::start(moving.dir.path(), &[], &[("SEGUE_ORIGIN__REQUIRE_TOKEN", "false")]);
    for (track, hash) in [("trk_m0", &pictures), ("trk_m1", &later)] {
        moving.plays(&server, track);
        shown(&server, track, hash);
    }
    for wrong in [&["--from", "s3", "--to", "s3"][..], &["--from", "s3", "--to", "local", "--delete-local"]] {
        assert_eq!(moving.command(wrong).output().unwrap().status.code(), Some(2), "{wrong:?}");
    }
}

/// One statement beside the program, as an accident would.
fn sql(data: &Path, statement: &'static str) {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(data.join("segue.db"));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let done = runtime.block_on(async {
        let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
        sqlx::query(statement).execute(&pool).await
    });
    assert_eq!(done.unwrap().rows_affected(), 1, "{statement}");
}

#[test]
fn a_move_that_is_killed_anywhere_loses_nothing_and_goes_on() {
    let rgw = Rgw::start();
    let server = Postgres::start();
    let rounds = kills::rounds().div_ceil(2);
    killed(&Move::set(&rgw, &TRACKS, None), rounds, kills::random(7));
    killed(&Move::set(&rgw, &TRACKS, Some(server.database("moving"))), rounds, kills::random(8));
}

/// Kills the command after a request of every kind there is, again and again. Whenever it dies, each track is whole in
/// the store that its row names, and the next command goes on.
fn killed(moving: &Move, rounds: usize, mut random: Random) {
    let local = moving.local();
    let args = ["--from", "local", "--to", "s3", "--delete-local"];
    moving.run(&["--from", "local", "--to", "s3", "--dry-run"]); // every track has a row now
    let hashes = TRACKS.map(|track| moving.picture(&local, track));
    let is_whole_in = |store: &Store, (track, hash): (&str, &String)| {
        moving.is_whole_in(store, track)
            && artwork::all(store, track.parse().unwrap(), hash).is_ok_and(|pictures| pictures.is_some())
    };
    let (mut killed, mut finished) = (0, 0);
    for round in 0..rounds {
        let from = moving.proxy.seen();
        let after = from + 1 + random.below(75);
        let mut child = moving.start(&args);
        let ended = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if moving.proxy.seen() >= after {
                break None;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        match ended {
            // There was less to do than the round wanted to see: all of it again.
            Some(status) => {
                assert!(status.success(), "round {round}");
                finished += 1;
                let back = moving.run(&["--from", "s3", "--to", "local"]);
                assert_eq!(back["remaining"], 0, "round {round}");
            }
            // In turn without mercy and by Ctrl-C.
            None if round % 3 == 2 => {
                let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
                assert!(sent.success());
                let done = child.wait_with_output().unwrap();
                let report: Value = serde_json::from_slice(&done.stdout).unwrap_or_default();
                let whole = report["interrupted"] == false && done.status.success();
                let asked = report["interrupted"] == true && done.status.code() == Some(1);
                assert!(whole || asked, "round {round}: {}", said(&done));
                killed += 1;
            }
            None => {
                child.kill().unwrap();
                child.wait().unwrap();
                killed += 1;
            }
        }
        let remote = moving.remote();
        for track in TRACKS.into_iter().zip(&hashes) {
            let (here, there) = (is_whole_in(&local, track), is_whole_in(&remote, track));
            assert!(here || there, "round {round}: {} is whole in neither store", track.0);
        }
    }
    eprintln!("{killed} killed, {finished} finished");
    assert!(killed >= rounds / 3, "{killed} killed, {finished} finished");
    let last = moving.run(&args);
    assert_eq!((&last["remaining"], &last["failed"], &last["skipped"]), (&0.into(), &0.into(), &0.into()), "{last}");
    let remote = moving.remote();
    for (track, hash) in TRACKS.into_iter().zip(&hashes) {
        assert!(is_whole_in(&remote, (track, hash)), "{track}");
        assert!(!moving.version_dir(track).exists(), "{track}");
        assert_eq!(artwork::all(&local, track.parse().unwrap(), hash).unwrap(), None, "{track}");
    }
    let server = moving.serve("s3", None);
    TRACKS.iter().for_each(|track| moving.plays(&server, track));
}
