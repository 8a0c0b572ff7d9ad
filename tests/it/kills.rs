//! SIGKILL at any moment of a job, over and over: what is visible is whole all the time, and at the end every job is
//! done exactly once and nothing is left.
//!
//! A few rounds in `make test`; `make kills ROUNDS=200` for many, of everything that is killed in a test: jobs and schema
//! migrations here, uploads in `uploads::kills`, money in `money::kills`, publishes to a bucket in `store::faults`, moves between stores in
//! `store::migrate`. A round is one kill of a process that works, at a random moment or just after something appeared in
//! the store.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use segue::base::hex;
use segue::base::id::{TrackId, VersionId};
use segue::hls::package;
use segue::hls::version::VersionIndex;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::jobs::{Site, Worker, events};
use crate::support::{Random, Server};

/// Kills in all; half of them of a server that does everything, half of one of two workers.
pub(crate) fn rounds() -> usize {
    std::env::var("KILL_ROUNDS").map_or(8, |text| text.parse().expect("KILL_ROUNDS is a number"))
}

/// Moments that are other ones with another `KILL_SEED`.
pub(crate) fn random(salt: u64) -> Random {
    Random(seed().wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ salt)
}

fn seed() -> u64 {
    std::env::var("KILL_SEED").map_or(1, |text| text.parse().expect("KILL_SEED is a number"))
}

/// Jobs that nobody has tried more than once and that are not done, at least: others may wait long for their next attempt.
const FRESH_MIN: usize = 4;

/// A small generator (xorshift64*): the same moments for the same seed, as far as a machine allows.
struct Dice(u64);

impl Dice {
    fn new(salt: u64) -> Dice {
        Dice(seed().wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ salt | 1)
    }

    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % most
    }
}

#[test]
fn a_server_that_is_killed_at_any_moment_does_every_job_once() {
    let site = hasty(Site::embedded());
    let mut server: Option<Server> = None;
    survives(&site, rounds().div_ceil(2), Dice::new(11), &mut |_| {
        drop(server.take()); // SIGKILL
        server = Some(site.serve());
    });
}

#[test]
fn workers_that_are_killed_at_any_moment_do_every_job_once() {
    let site = hasty(Site::on_postgresql());
    let mut workers: Vec<Worker> = Vec::new();
    survives(&site, rounds().div_ceil(2), Dice::new(12), &mut |dice| {
        if workers.len() == 2 {
            drop(workers.swap_remove(dice.below(2) as usize)); // SIGKILL
        }
        while workers.len() < 2 {
            workers.push(site.worker());
        }
    });
}

/// A site whose jobs come back soon and never die.
fn hasty(site: Site) -> Site {
    site.with("SEGUE_WORKER__FAILURES_MAX", "100").with("SEGUE_WORKER__CORES", "4")
}

/// Kills and starts again by `replace` so many times, while jobs are enqueued; then all of them are done.
fn survives(site: &Site, rounds: usize, mut dice: Dice, replace: &mut dyn FnMut(&mut Dice)) {
    // Three rungs of a minute, which have a first rung to show; and all five of a moment.
    let sources = [site.wav_of("long.wav", 61, 22_050, 1), site.wav_of("short.wav", 2, 44_100, 2)];
    let mut jobs: BTreeMap<String, (usize, String)> = BTreeMap::new();
    let mut open = BTreeSet::new();
    site.ok(["migrate"]);
    replace(&mut dice);
    for round in 0..rounds {
        open.retain(|id: &String| {
            let job = site.show(id);
            job["state"] != "succeeded" && job["failures"].as_i64() < Some(2)
        });
        while open.len() < FRESH_MIN {
            let which = dice.below(2) as usize;
            let queued = site.enqueue(&sources[which], &[]);
            let (id, track) = (queued["id"].as_str().unwrap(), queued["track"].as_str().unwrap());
            jobs.insert(id.to_owned(), (which, track.to_owned()));
            open.insert(id.to_owned());
        }
        moment(&site.data().join("store"), &mut dice);
        replace(&mut dice);
        let shown = whole(&site.data().join("store"));
        eprintln!("round {round}: {} jobs, {} of them fresh, {shown} tracks shown", jobs.len(), open.len());
    }

    let mut versions: [BTreeSet<String>; 2] = Default::default();
    for (id, (which, track)) in &jobs {
        let job = site.until(id, |job| job["state"] == "succeeded");
        let seqs: Vec<i64> =
            job["events"].as_array().unwrap().iter().map(|event| event["seq"].as_i64().unwrap()).collect();
        assert!(seqs.iter().copied().eq(1..=seqs.len() as i64), "{job:#}");
        for once in ["published", "succeeded"] {
            assert_eq!(events(&job).iter().filter(|event| **event == once).count(), 1, "{once}: {job:#}");
        }
        assert!(events(&job).iter().filter(|event| **event == "playable").count() <= 1, "{job:#}");
        let record: Value = serde_json::from_slice(&fs::read(site.record(track)).unwrap()).unwrap();
        assert_eq!(record["version"], job["output"]["version"], "the track shows what the job published");
        versions[*which].insert(record["version"].as_str().unwrap().to_owned());
    }
    assert!(versions.iter().all(|same| same.len() <= 1), "the same source is the same version: {versions:?}");
    assert_eq!(whole(&site.data().join("store")), jobs.len());
    // Nothing but what tracks show, and first rungs that are noted and will be swept.
    let noted = site.interims();
    for (_, track) in jobs.values() {
        let shown: Value = serde_json::from_slice(&fs::read(site.record(track)).unwrap()).unwrap();
        for version in names(&site.data().join("store/v").join(track)) {
            let known = shown["version"] == *version || noted.contains(&format!("{track}.{version}"));
            assert!(known, "{track}/{version} belongs to nobody");
        }
    }
    // The sweep at the start of a process, when nobody works any more.
    replace(&mut dice);
    while site.staged() > 0 {
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits for a moment that is good for a kill: any, or just behind a step of a publish.
fn moment(store: &Path, dice: &mut Dice) {
    let watched = match dice.below(5) {
        0 | 1 => return std::thread::sleep(Duration::from_millis(dice.below(4000))),
        2 => "v",
        3 => "tracks",
        _ => "interim",
    };
    let look = || {
        let dir = store.join(watched);
        let below = |name: &String| if watched == "v" { names(&dir.join(name)).len() } else { 1 };
        names(&dir).iter().map(below).sum::<usize>()
    };
    let (before, give_up) = (look(), Instant::now() + Duration::from_secs(5));
    while look() == before && Instant::now() < give_up {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_micros(dice.below(5_000)));
}

/// Checks that whatever tracks show is whole, byte by byte, and answers how many there are.
fn whole(store: &Path) -> usize {
    let records = names(&store.join("tracks"));
    for name in &records {
        // Replaced by a rename, so it is always there and whole.
        let record: Value = serde_json::from_slice(&fs::read(store.join("tracks").join(name)).unwrap()).unwrap();
        let track = TrackId::decode(record["id"].as_str().unwrap()).unwrap();
        let version = VersionId::decode(record["version"].as_str().unwrap()).unwrap();
        let dir = store.join("v").join(track.as_str()).join(version.to_string());
        let index = VersionIndex::decode_as(version, &fs::read(dir.join("version.json")).unwrap()).unwrap();
        package::check(&index).unwrap();
        for object in index.objects() {
            let bytes = fs::read(dir.join(&object.name)).unwrap();
            assert_eq!(hex::encode(&Sha256::digest(&bytes)), object.sha256, "{track} {}", object.name);
        }
    }
    records.len()
}

fn names(dir: &Path) -> Vec<String> {
    let entries: Vec<PathBuf> = fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    entries.iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
}

/// The database is brought up to date by whoever comes next, wherever the one before it died.
#[test]
fn a_migration_that_is_killed_at_any_moment_is_finished_by_the_next() {
    let server = crate::postgres::Postgres::start();
    let mut dice = Dice::new(13);
    let mut killed = 0;
    for round in 0..rounds() * 2 {
        let dir = tempfile::tempdir().unwrap();
        let url = server.database(&format!("round{round}"));
        let command = |args: &[&str]| {
            let mut command = crate::support::segue();
            command.args(args).arg("--data").arg(dir.path());
            if round % 2 == 0 {
                command.env("DATABASE_URL", &url);
            }
            command
        };
        for _ in 0..3 {
            let mut victim = command(&["migrate"]).stdout(std::process::Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_micros(dice.below(60_000)));
            killed += usize::from(victim.try_wait().unwrap().is_none());
            victim.kill().unwrap();
            victim.wait().unwrap();
        }
        for args in [&["migrate"][..], &["migrate", "--check"], &["ledger", "verify"], &["jobs", "list"]] {
            let done = command(args).output().unwrap();
            assert!(done.status.success(), "round {round}, {args:?}: {}", crate::support::said(&done));
        }
    }
    assert!(killed >= rounds(), "{killed} died in the middle");
}
