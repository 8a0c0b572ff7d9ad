//! First rung first: what can be played while the rest is made, what replaces it, and what a killed or cancelled
//! publish leaves.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use segue::base::id::TrackId;
use segue::hls::version::VersionIndex;
use segue::publish::{first_to_store, sweep_interim, to_store, to_tree};
use segue::store::{LocalStore, Store};
use segue::tracks;
use segue::transcode::{Progress, run};

use super::bench::{Bench, options};
use crate::support::segue;

const FRAMES: u32 = 62 * 44_100;

fn ladder() -> segue::hls::ladder::Ladder {
    segue::hls::ladder::Ladder::default_audio()
}

#[test]
fn the_first_rung_and_the_preview_play_before_the_others_are_whole_and_are_replaced_at_once() {
    let bench = Bench::new();
    let music = bench.music(44_100, 2, FRAMES);
    let store = Store::from(LocalStore::open(&bench.path("store")).unwrap());
    let local = store.local().unwrap().clone();
    let id = TrackId::random();
    let staging = store.stage().unwrap();
    let objects = staging.dir().to_owned();
    let (mut whole, mut first) = (Vec::new(), None);
    let mut watch = |progress| match progress {
        Progress::Rung { path, peak_bps, average_bps, .. } => {
            assert!(peak_bps >= average_bps && average_bps > 0);
            whole.push(path);
        }
        Progress::Playable(index) => {
            whole.sort(); // whichever of them was ready first
            assert_eq!(whole, ["aac/64", "preview"]);
            let track = first_to_store(&store, &objects, id, "First", &index).unwrap().expect("a directory takes it");
            assert_eq!(tracks::read(&store, id).unwrap().version, track.version);
            plays(&bench, &local.version_dir(id, track.version), &index);
            first = Some(track);
        }
        _ => {}
    };
    let index = run(&music, &ladder(), &objects, &options(), &mut watch, &AtomicBool::new(false)).unwrap();
    assert_eq!(whole.len(), 6);
    let first = first.expect("it was playable before the end");
    let interim = VersionIndex::decode_as(first.version, &store.read_version(id, first.version).unwrap()).unwrap();
    assert_eq!(interim.rungs, index.rungs[..1]);
    assert_eq!(
        (&interim.preview, &interim.loudness, &interim.extras),
        (&index.preview, &index.loudness, &index.extras)
    );
    assert!(interim.preview.is_some() && interim.extras.len() == 4);

    assert_eq!(sweep_interim(&store, Duration::ZERO).unwrap(), 0, "it is what the track shows");
    let track = to_store(&store, staging, id, "First", &index).unwrap();
    assert_ne!(track.version, first.version);
    assert_eq!(tracks::read(&store, id).unwrap().version, track.version);
    assert_eq!(sweep_interim(&store, Duration::from_secs(600)).unwrap(), 0, "somebody may be listening");
    assert!(local.has_version(id, first.version).unwrap());
    assert_eq!(sweep_interim(&store, Duration::ZERO).unwrap(), 1);
    assert!(!local.has_version(id, first.version).unwrap());
    assert!(local.interims().unwrap().is_empty());
    plays(&bench, &local.version_dir(id, track.version), &index);
}

/// Every variant and the preview of a version in the store, by ffmpeg.
fn plays(bench: &Bench, version: &Path, index: &VersionIndex) {
    let tree = tempfile::tempdir_in(bench.path("")).unwrap();
    to_tree(version, index, tree.path()).unwrap();
    for playlist in ["aac/master.m3u8", "preview.m3u8"] {
        let mut command = Command::new("ffmpeg");
        command.args(["-v", "warning", "-nostdin", "-i"]).arg(tree.path().join(playlist));
        let done = command.args(["-map", "0", "-f", "null", "-"]).output().unwrap();
        let words = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success() && words.is_empty(), "{playlist}: {words}");
    }
}

/// A publish of a minute of music that has said that it can be played.
fn playable(bench: &Bench, data: &Path) -> (Child, TrackId, String) {
    let music = bench.music(44_100, 2, 3 * FRAMES);
    let mut command = segue();
    command.args(["publish", "--json", "--early", "--events", "--data"]).arg(data).arg(music);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        let event: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
        if event["event"] == "playable" {
            let id = TrackId::decode(event["track_id"].as_str().unwrap()).unwrap();
            return (child, id, event["version"].as_str().unwrap().to_owned());
        }
    }
    panic!("it ended without having been playable: {:?}", child.wait());
}

#[test]
fn a_killed_publish_leaves_a_track_that_plays() {
    let bench = Bench::new();
    let data = bench.path("data");
    let (mut child, id, version) = playable(&bench, &data);
    let store = Store::from(LocalStore::open(&data.join("store")).unwrap());
    let local = store.local().unwrap();
    let track = tracks::read(&store, id).expect("the first rung is shown");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(track.version.to_string(), version);
    let index = VersionIndex::decode_as(track.version, &store.read_version(id, track.version).unwrap()).unwrap();
    assert_eq!(index.rungs.len(), 1);
    store.sweep().unwrap();
    assert_eq!(sweep_interim(&store, Duration::ZERO).unwrap(), 0, "it is all there is");
    plays(&bench, &local.version_dir(id, track.version), &index);
}

#[test]
fn a_cancelled_publish_takes_its_first_rung_back() {
    let bench = Bench::new();
    let data = bench.path("data");
    let (mut child, id, _) = playable(&bench, &data);
    let store = Store::from(LocalStore::open(&data.join("store")).unwrap());
    let local = store.local().unwrap();
    tracks::read(&store, id).expect("the first rung is shown");
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(tracks::read(&store, id).is_err(), "the track is still there");
    assert_eq!(local.versions(id).unwrap().count(), 0);
    assert!(local.interims().unwrap().is_empty());
}

/// What is whole of it, when it is killed as soon as its lowest rung is, is nothing that anybody sees.
#[test]
fn a_publish_that_is_not_early_shows_nothing_before_its_end() {
    let bench = Bench::new();
    let data = bench.path("data");
    let music = bench.music(44_100, 2, 3 * FRAMES);
    let start = || {
        let mut command = segue();
        command.args(["publish", "--json", "--events", "--data"]).arg(&data).arg(&music);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let mut child = start();
    let first = BufReader::new(child.stderr.take().unwrap()).lines().next().unwrap().unwrap();
    assert!(first.contains("\"rung\""), "{first}");
    child.kill().unwrap();
    child.wait().unwrap();
    let store = LocalStore::open(&data.join("store")).unwrap();
    assert!(store.interims().unwrap().is_empty());
    assert_eq!(std::fs::read_dir(data.join("store/tracks")).map_or(0, Iterator::count), 0, "nobody sees it");
    // The next one says when it can be played, once.
    let output = start().wait_with_output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && told.lines().last().unwrap().contains("\"playable\""), "{told}");
    assert_eq!(told.matches("playable").count(), 1, "{told}");
}
