//! Nodes whose clocks are wrong by an hour, made so by libfaketime. What several nodes compare goes by the database's clock.

use std::fs;

use serde_json::json;

use crate::jobs::Site;
use crate::tracks::site::{self, Who};

/// What makes a process live so much earlier or later.
fn living(at: &str) -> [(&'static str, String); 3] {
    let library = fs::read_dir("/usr/lib").unwrap().find_map(|entry| {
        let path = entry.unwrap().path().join("faketime/libfaketimeMT.so.1");
        path.exists().then(|| path.display().to_string())
    });
    let library = library.expect("libfaketime; .ci/setup test installs it");
    [("LD_PRELOAD", library), ("FAKETIME", at.to_owned()), ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into())]
}

#[test]
fn a_node_whose_clock_is_wrong_neither_takes_others_work_nor_keeps_its_own() {
    let site = Site::on_postgresql();
    let (long, short) = (site.wav_of("long.wav", 30, 44_100, 2), site.wav_of("short.wav", 6, 44_100, 2));
    let worker = |at: &str| {
        let env = living(at);
        site.worker_with(&env.each_ref().map(|(name, value)| (*name, value.as_str())))
    };
    let id = site.enqueue(&long, &[])["id"].as_str().unwrap().to_owned();
    let right = site.worker();
    site.until(&id, |job| job["state"] == "leased");
    // For one of them every lease ended an hour ago.
    let (ahead, behind) = (worker("+1h"), worker("-1h"));
    let job = site.until(&id, |job| job["state"] == "succeeded");
    assert_eq!((&job["attempt"], &job["failures"]), (&json!(1), &json!(0)), "nobody took it: {job:#}");
    drop((right, behind));
    // What dies with a clock that is ahead is not kept for an hour: the runner's limit ends a wait for it.
    let id = site.enqueue(&short, &[])["id"].as_str().unwrap().to_owned();
    site.until(&id, |job| job["state"] == "leased");
    drop(ahead);
    let _heir = worker("-1h");
    let job = site.until(&id, |job| job["state"] == "succeeded");
    assert_eq!((&job["attempt"], &job["failures"]), (&json!(2), &json!(1)), "{job:#}");
}

/// What it writes, others compare: a job that may begin in an hour, a share that ends an hour later than its owner said.
#[test]
fn what_is_asked_of_a_node_whose_clock_is_wrong_goes_by_the_databases_clock() {
    let mut site = site::Site::on_postgresql();
    for (name, value) in living("+1h") {
        site = site.with(name, &value);
    }
    let api = site.serve();
    // The runner's limit ends a wait for a job whose time has not come.
    let track = api.track(&json!({ "visibility": "private" }), "published");
    let shown = api.shown(Who::One, &format!("/api/v1/tracks/{track}"));
    let now_us = segue::base::clock::Clock::System.unix_us();
    let created_us = segue::base::clock::parse_rfc3339(shown["created_at"].as_str().unwrap()).unwrap();
    assert!((now_us - created_us).abs() < 1_800_000_000, "{shown:#}");
    // What it signs, its own origin lets in: both go by the machine's clock.
    let alias = api.get(Who::One, &format!("/tracks/{track}/master.m3u8"));
    let signed = alias.header("location").expect("a signed playlist");
    let path = signed.split_once("://").map_or(signed, |(_, rest)| &rest[rest.find('/').unwrap()..]);
    assert_eq!(api.get(Who::Nobody, path).status, 200, "{path}");
}
