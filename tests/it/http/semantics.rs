//! Objects and their headers, methods, ranges, and how bytes leave.

use segue::server::IoMode;
use sha2::{Digest as _, Sha256};

use super::bench::{Bench, SEGMENT_BYTES, Setup, TRACK};

/// Every object of the version with its bytes and type.
fn objects(bench: &Bench) -> Vec<(String, Vec<u8>, &'static str)> {
    let p = &bench.published;
    let a = |rest: &str| p.path("a", rest);
    let mut all = vec![];
    for (rung, file) in [("aac/96", "aac-96.mp4"), ("aac/256", "aac-256.mp4"), ("flac", "flac.mp4")] {
        all.push((a(&format!("{rung}/init.mp4")), p.files[file][..700].to_vec(), "audio/mp4"));
        for number in 0..3 {
            let path = a(&format!("{rung}/{number:05}.mp4"));
            all.push((path, p.segment(file, number).to_vec(), "audio/mp4"));
        }
        all.push((p.path("d", file), p.files[file].clone(), "audio/mp4"));
    }
    all.push((p.path("p", "preview.m4a"), p.files["preview.m4a"].clone(), "audio/mp4"));
    all.push((p.path("w", "peaks.bin"), p.files["peaks.bin"].clone(), "application/octet-stream"));
    all.push((p.path("w", "peaks.json"), p.files["peaks.json"].clone(), "application/json"));
    all
}

fn every_object_comes_whole_and_exact(io: IoMode) {
    let bench = Bench::with(Setup { io, ..Setup::default() });
    let mut client = bench.connect();
    for (path, bytes, media) in objects(&bench) {
        let reply = client.request("GET", &path, "");
        reply.expect(200);
        assert!(reply.body == bytes, "{path}");
        assert_eq!(reply.header("content-type"), Some(media), "{path}");
    }
}

#[test]
fn every_object_comes_whole_and_exact_on_threads() {
    every_object_comes_whole_and_exact(IoMode::Plain);
}

#[test]
fn every_object_comes_whole_and_exact_on_whatever_the_machine_offers() {
    every_object_comes_whole_and_exact(IoMode::Auto);
}
