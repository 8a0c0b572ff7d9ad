//! `segue migrate-storage`: tracks change their store while they are listened to, whoever is killed meanwhile.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use segue::base::id::TrackId;
use segue::store::remote::RemoteStore;
use segue::store::{LocalStore, Store};
use serde_json::Value;

use super::made::Made;
use super::origin::bucket_env;
use super::proxy::Proxy;
use super::rgw::Rgw;
use crate::support::{Random, Server, said, segue};

/// A data directory with tracks, a bucket, and a proxy before it.
struct Move<'r> {
    rgw: &'r Rgw,
    proxy: Proxy,
    dir: tempfile::TempDir,
    made: Made,
}

impl<'r> Move<'r> {
    fn set(rgw: &'r Rgw, tracks: &[&str]) -> Move<'r> {
        drop(rgw.music());
        let proxy = Proxy::before(rgw.port());
        let moving = Move { proxy, rgw, dir: tempfile::tempdir().unwrap(), made: Made::short() };
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
        command.stdin(Stdio::null());
        command
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
fn tracks_move_between_the_stores_whoever_is_killed_meanwhile() {
    let rgw = Rgw::start();
    tracks_move_to_the_bucket_and_back_while_they_play(&rgw);
    a_move_that_is_killed_anywhere_loses_nothing_and_goes_on(&rgw);
}

fn tracks_move_to_the_bucket_and_back_while_they_play(rgw: &Rgw) {
    let moving = Move::set(rgw, &TRACKS);
    let server = moving.serve("local", Some("s3"));
    TRACKS.iter().for_each(|track| moving.plays(&server, track));

    let looked = moving.run(&["--from", "local", "--to", "s3", "--dry-run"]);
    let bytes: u64 = moving.made.index.objects().map(|object| object.bytes).sum();
    assert_eq!((&looked["moved"], &looked["bytes"], &looked["remaining"]), (&6.into(), &(6 * bytes).into(), &6.into()));
    assert_eq!(moving.remote().records().unwrap(), [], "a dry run changes nothing");

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
    assert_eq!((&first["moved"], &first["remaining"]), (&1.into(), &5.into()));
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

    // Removed only what the bucket proves to have; the server that runs goes on with the bucket's.
    let removed = moving.run(&["--from", "local", "--to", "s3", "--delete-local"]);
    assert_eq!((&removed["deleted"], &removed["skipped"]), (&3.into(), &3.into()));
    for track in ["trk_m0", "trk_m1", "trk_m2"] {
        assert!(!moving.version_dir(track).exists() && moving.local().read_record(track.parse().unwrap()).is_err());
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
    assert_eq!(server.get("/tracks/trk_m2/master.m3u8").status, 451, "closed there too");
    assert_eq!(server.get("/tracks/trk_m5/master.m3u8").status, 404, "it was never moved");
    drop(server);

    // And back: a server that knows no bucket.
    let back = moving.run(&["--from", "s3", "--to", "local"]);
    assert_eq!((&back["moved"], &back["remaining"]), (&3.into(), &0.into()));
    let server = Server::start(moving.dir.path(), &[], &[("SEGUE_ORIGIN__REQUIRE_TOKEN", "false")]);
    for track in ["trk_m0", "trk_m1"] {
        moving.plays(&server, track);
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

/// Kills the command after a request of every kind there is, again and again. Whenever it dies, each track is whole in
/// the store that its row names, and the next command goes on.
fn a_move_that_is_killed_anywhere_loses_nothing_and_goes_on(rgw: &Rgw) {
    let moving = Move::set(rgw, &TRACKS);
    let local = moving.local();
    let args = ["--from", "local", "--to", "s3", "--delete-local"];
    let rounds: u64 = std::env::var("KILL_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(10);
    let mut random = Random(7);
    let (mut killed, mut finished) = (0, 0);
    for round in 0..rounds {
        let from = moving.proxy.seen();
        let after = from + 1 + random.below(60);
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
        for track in TRACKS {
            let (here, there) = (moving.is_whole_in(&local, track), moving.is_whole_in(&remote, track));
            assert!(here || there, "round {round}: {track} is whole in neither store");
        }
    }
    assert!(killed > 3, "{killed} killed, {finished} finished");
    let last = moving.run(&args);
    assert_eq!((&last["remaining"], &last["failed"], &last["skipped"]), (&0.into(), &0.into(), &0.into()), "{last}");
    let remote = moving.remote();
    for track in TRACKS {
        assert!(moving.is_whole_in(&remote, track), "{track}");
        assert!(!moving.version_dir(track).exists(), "{track}");
    }
    let server = moving.serve("s3", None);
    TRACKS.iter().for_each(|track| moving.plays(&server, track));
}
