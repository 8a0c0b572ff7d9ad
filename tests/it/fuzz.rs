//! The fuzz targets on any toolchain: the corpus, and some thousand mutations of it that are the same in every run. What
//! `cargo fuzz` finds with more time becomes a file of the corpus.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use segue::base::secret::Secret;
use segue::cdn::{bunny, cloudflare};
use segue::hls::cmaf::{Header, STREAMINFO_BYTES, Setup, encode_segment};
use segue::hls::version::{Loudness, VersionIndex};
use serde_json::Value;

use crate::http::bench::Published;
use crate::support::Random;

#[allow(unreachable_pub)] // it is a crate of its own for cargo-fuzz
#[path = "../../fuzz/src/lib.rs"]
mod targets;

/// Mutations of each input, and of all inputs of a target at most.
const ROUNDS: usize = 5_000;
const ROUNDS_OF_ALL: usize = 60_000;

#[test]
fn every_target_survives_its_corpus_and_mutations_of_it() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for &(name, run) in targets::ALL {
        let mut inputs = seeds(name);
        if let Ok(files) = fs::read_dir(corpora.join(name)) {
            let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
            paths.sort();
            for input in paths.iter().map(|path| fs::read(path).unwrap()) {
                if !inputs.contains(&input) {
                    inputs.push(input);
                }
            }
        }
        assert!(inputs.len() > 1, "{name} has something to begin with");
        inputs.iter().for_each(|input| run_or_tell(name, run, input));
        let mut random = Random(0x5e60_e000 + inputs.len() as u64);
        for input in &inputs {
            let mut mutant = input.clone();
            for round in 0..ROUNDS.min(ROUNDS_OF_ALL / inputs.len()) {
                if round % 8 == 0 {
                    mutant.clone_from(input); // not too far from what is valid
                }
                let other = &inputs[random.below(inputs.len())];
                random.mutate(&mut mutant, other);
                run_or_tell(name, run, &mutant);
            }
        }
    }
}

/// Without one that is read, a target would try nothing but what is refused at once.
#[test]
fn every_type_of_body_has_an_input_that_is_read_and_every_body_of_the_description_a_type() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut types = BTreeSet::new();
    for (name, reads) in segue::api::bodies() {
        let input = fs::read(root.join("fuzz/corpus/bodies").join(name)).unwrap_or_else(|_| panic!("no {name}"));
        let body =
            input.strip_prefix(format!("{name}\n").as_bytes()).unwrap_or_else(|| panic!("{name} begins otherwise"));
        assert!(reads(body), "{name} cannot be read: {}", String::from_utf8_lossy(body));
        assert!(types.insert(*name), "{name} is twice in the list");
    }
    let document: Value = serde_json::from_str(include_str!("../../docs/openapi.json")).unwrap();
    let operations =
        document["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap().values());
    let mut described = BTreeSet::new();
    for schema in operations.map(|operation| &operation["requestBody"]["content"]["application/json"]["schema"]) {
        // Itself, or itself or nothing; webhooks are any object.
        let named = schema["$ref"].as_str().or_else(|| schema["oneOf"][0]["$ref"].as_str());
        described.extend(named.map(|path| path.rsplit('/').next().unwrap()));
    }
    let undescribed: Vec<_> = types.difference(&described).collect();
    let untried: Vec<_> = described.difference(&types).collect();
    assert!(undescribed.is_empty() && untried.is_empty(), "{undescribed:?} {untried:?}: see `api::bodies`");
}

/// `cargo fuzz` knows the corpus alone, so what our own writers make stands there too. `FUZZ_SEEDS=write` writes it again.
#[test]
fn every_target_has_a_committed_corpus_with_what_our_own_writers_make() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, _) in targets::ALL {
        let dir = corpora.join(name);
        let made = seeds(name);
        if std::env::var("FUZZ_SEEDS").is_ok_and(|what| what == "write") {
            fs::create_dir_all(&dir).unwrap();
            for (number, seed) in made.iter().enumerate() {
                fs::write(dir.join(format!("made_{number:02}")), seed).unwrap();
            }
        }
        let files = fs::read_dir(&dir).unwrap_or_else(|cause| panic!("{name} has no corpus: {cause}")).count();
        assert!(files > 1 && files >= made.len(), "{name} has {files} files: FUZZ_SEEDS=write writes {}", made.len());
    }
}

#[test]
fn every_target_has_a_shim_for_cargo_fuzz_and_every_shim_a_target() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    let shims = fs::read_dir(fuzz.join("fuzz_targets")).unwrap().count();
    assert_eq!(shims, targets::ALL.len());
    for (name, _) in targets::ALL {
        let shim = fs::read_to_string(fuzz.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(shim.contains(&format!("segue_fuzz::{name}(data)")), "{name}");
        assert!(manifest.contains(&format!("name = \"{name}\"\n")), "{name}");
    }
}

fn run_or_tell(name: &str, run: fn(&[u8]), input: &[u8]) {
    let ended = std::panic::catch_unwind(|| run(input));
    assert!(ended.is_ok(), "{name} fails on {:?}", String::from_utf8_lossy(input));
}

/// Inputs that only our own writers can make: binary, or signed.
fn seeds(name: &str) -> Vec<Vec<u8>> {
    match name {
        "cmaf" => sections(),
        "tokens" => signed(),
        "version" | "playlists" => documents(),
        "wishes" => wishes(),
        _ => vec![],
    }
}

fn sections() -> Vec<Vec<u8>> {
    let header = |setup, priming| Header {
        setup,
        rate: 44_100,
        channels: 2,
        bits: 16,
        priming,
        samples: 2_048,
        average_bps: 96_000,
        peak_bps: 100_000,
    };
    let aac = header(Setup::Aac(vec![0x12, 0x10]), 1_024).encode();
    let mut info = [0; STREAMINFO_BYTES];
    info[..4].copy_from_slice(&[0x10, 0, 0x10, 0]);
    info[10..14].copy_from_slice(&[0x0a, 0xc4, 0x42, 0xf0]);
    let flac = header(Setup::Flac(info), 0).encode();
    let segment = encode_segment(1, 0, false, &[([1u8; 9], 1_024), ([2; 9], 1_024), ([3; 9], 1_024)]);
    vec![[&aac[..], &segment].concat(), aac, flac, segment]
}

/// What the queue holds for a song, and for what may be a film.
fn wishes() -> Vec<Vec<u8>> {
    use segue::hls::ladder::Ladder;
    use segue::hls::ladder::video::Choice;
    use segue::jobs::transcode::Wish;
    let of = |choice: Choice, source: &str, callback: Option<&str>| {
        let (ladder, video) = Wish::plans(choice);
        let track = segue::base::id::TrackId::decode("trk_x").unwrap();
        let (source, callback) = (source.to_owned(), callback.map(str::to_owned));
        Wish { source, track, title: "Song".into(), ladder, video, callback, preview_start_ms: None }
            .encode()
            .into_bytes()
    };
    vec![
        of(
            Choice::Audio(Ladder::default_audio()),
            "https://example.com/song.flac?x=1",
            Some("https://example.com/told"),
        ),
        of(Choice::built_in(), "/films/clip.mp4", None),
    ]
}

fn signed() -> Vec<Vec<u8>> {
    let secret = Secret::new(targets::KEY.as_bytes());
    let (bunny, cloudflare) = (bunny::Key::new(&secret).unwrap(), cloudflare::Key::new(&secret).unwrap());
    let (directory, path) = ("/a/t/v/aac/", "/a/t/v/aac/96/00000.mp4");
    let expires_s = targets::NOW_S + 60;
    let grant = bunny::Grant { path: directory, token_path: Some(directory), expires_s, ..bunny::Grant::default() };
    let bound = bunny::Grant { address: Some("192.0.2.1".parse().unwrap()), ..grant };
    let one = bunny::Grant { path, expires_s, ignore_params: true, ..bunny::Grant::default() };
    let by_time = cloudflare.sign(directory, targets::NOW_S, cloudflare::Encoding::UrlSafe);
    let texts = [
        format!("{}{path}\n\n", bunny.sign_prefix(&grant)),
        format!("{}{path}\n\n", bunny.sign_prefix(&bound)),
        format!("{path}\n{}\n", bunny.sign_params(&grant)),
        format!("{path}\n{}&CMCD=bl%3D1\n", bunny.sign_params(&one)),
        format!("{path}\n{}\n", bunny.sign_params_sha256(&grant)),
        format!("{path}\n{by_time}\n"),
    ];
    texts.map(String::into_bytes).into()
}

/// A `version.json` with three rungs, and others that add up but are not what we would write.
fn documents() -> Vec<Vec<u8>> {
    let directory = tempfile::tempdir().unwrap();
    let index = Published::below(directory.path()).index;
    let with = |change: &dyn Fn(&mut VersionIndex)| {
        let mut index = index.clone();
        index.rungs.truncate(1);
        change(&mut index);
        index.seal().0
    };
    let lasting = |ticks: u64, rate: u32| {
        with(&|index| {
            let rung = &mut index.rungs[0];
            (rung.rate, rung.samples) = (rate, ticks);
            rung.segments.iter_mut().for_each(|segment| segment.ticks = 0);
            rung.segments[0].ticks = ticks;
        })
    };
    let loudness = Loudness { integrated_lufs: Some(-14.2), range_lu: 1e300, true_peak_dbtp: None, replay_gain: None };
    vec![
        index.seal().0,
        lasting(u64::MAX, 1),
        lasting(u64::MAX, u32::MAX),
        lasting(1, u32::MAX),
        with(&|index| index.rungs[0].codecs = "mp4a.40.2\",URI=\"x".into()),
        with(&|index| index.rungs[0].codecs = "mp4a\nhttp://elsewhere/x".into()),
        with(&|index| index.rungs[0].peak_bps = u64::MAX),
        with(&|index| index.source.rate = 0),
        with(&|index| index.loudness = Some(loudness.clone())),
        with(&|index| index.rungs.push(index.rungs[0].clone())),
    ]
}

impl Random {
    /// Changes a little, or puts in what is rarely meant well.
    pub(crate) fn mutate(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        const WORDS: [&[u8]; 24] = [
            b"0",
            b"-",
            b",",
            b"=",
            b"\"",
            b"\n",
            b"%",
            b"%2e",
            b"..",
            b"/",
            b"W/",
            b"*",
            b"#",
            b"&",
            b"\\",
            b"\0",
            b"\xff",
            b"18446744073709551615",
            b"18446744073709551616",
            b"999999999999999999999999",
            b"4294967295",
            b"-1",
            b"1e9",
            b"&CMCD=x",
        ];
        let at = self.below(bytes.len() + 1);
        let end = (at + 1 + self.below(9)).min(bytes.len());
        match self.below(8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
            1 if at < bytes.len() => bytes[at] = self.next() as u8,
            2 if at < end => drop(bytes.drain(at..end)),
            3 if at < end => {
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            4 => {
                let from = self.below(other.len() + 1);
                let to = (from + self.below(40)).min(other.len());
                bytes.splice(at..end.max(at), other[from..to].iter().copied());
            }
            5 => bytes.truncate(at),
            // A number that stands there becomes another.
            6 => {
                let first = bytes[at.min(bytes.len())..].iter().position(u8::is_ascii_digit).map(|n| at + n);
                if let Some(first) = first {
                    let length = bytes[first..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                    let word = [&b"0"[..], b"1", b"65536", b"18446744073709551615", b"4294967295"][self.below(5)];
                    bytes.splice(first..first + length, word.iter().copied());
                }
            }
            _ => {
                let word = WORDS[self.below(WORDS.len())];
                bytes.splice(at..at, word.iter().copied());
            }
        }
        bytes.truncate(64 << 10);
    }
}
