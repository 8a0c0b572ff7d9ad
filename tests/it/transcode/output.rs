//! What comes out, measured: alignment with the source, clean rung switches, the same bytes twice.

use segue::hls::ladder::Ladder;
use segue::hls::version::{Family, digest128};

use super::bench::{Bench, Made, decode, error, first_channel, ladder, options};

const FRAMES: u32 = 5 * 45_056 + 333;

/// The shift within ±64 samples at which `ours` differs least from `source`, around sample `at`.
fn lag(source: &[f32], ours: &[f32], at: usize) -> i64 {
    let wanted = &source[at..at + 8192];
    let miss = |lag: i64| error(wanted, &ours[(at as i64 + lag) as usize..][..8192]);
    (-64..=64).min_by(|a, b| miss(*a).total_cmp(&miss(*b))).unwrap()
}

#[test]
fn aac_rungs_lie_on_the_source_to_the_sample_without_drift() {
    lies_on_the_source(&ladder());
}

/// The same by Fraunhofer's encoder: `make test-fdk`.
#[cfg(feature = "fdk-aac")]
#[test]
fn rungs_by_fdk_lie_on_the_source_to_the_sample_and_are_the_same_twice() {
    let ladder = super::bench::ladder_by("fdk");
    lies_on_the_source(&ladder);
    let bench = Bench::new();
    let music = bench.music(44_100, 2, FRAMES);
    let [first, second] = [0, 1].map(|_| bench.try_make(&music, &ladder, &options()).unwrap());
    assert_eq!(first.index.encoders[0], "fdk-aac-sys 0.5.0");
    for rung in &first.index.rungs {
        assert_eq!(first.bytes(rung), second.bytes(rung), "{}", rung.object.name);
    }
    // A few samples, and whole frames.
    for length in [1, 1023, 1024, 45_056] {
        bench.try_make(&bench.music(44_100, 1, length), &ladder, &options()).unwrap().check(u64::from(length));
    }
}

fn lies_on_the_source(ladder: &Ladder) {
    let check = |rate: u32, channels: u16| {
        let bench = Bench::new();
        let music = bench.music(rate, channels, FRAMES);
        let made = bench.try_make(&music, ladder, &options()).unwrap();
        made.check(u64::from(FRAMES));
        for name in ["64", "256"] {
            let rung = made.rung(name);
            let count = rung.channels as usize;
            let source = first_channel(&music, count, &format!("-ar {} -ac {count}", rung.rate));
            let ours = first_channel(&made.dir.join(&rung.object.name), count, "");
            let ours = &ours[rung.priming as usize..];
            let last = rung.samples as usize - 8192 - 64;
            // At 64 kbit/s the coding noise itself can move the best fit of a low tone by a sample.
            let most = if name == "64" { 1 } else { 0 };
            for at in (8192..last).step_by(16_384) {
                let lag = lag(&source, ours, at);
                assert!(lag.abs() <= most, "{name} of {rate} Hz lags {lag} at sample {at}");
            }
            let silence = vec![0.0; source.len()];
            let noise = error(&source, ours) / error(&source, &silence);
            assert!(noise < if name == "64" { 0.35 } else { 0.12 }, "{name} of {rate} Hz: error {noise}");
        }
    };
    check(44_100, 2);
    check(48_000, 1);
    check(96_000, 2);
}

/// Segments of two rungs in turn behind one init section, as a player that adapts gets them.
#[test]
fn switching_rungs_at_any_boundary_is_no_worse_than_the_worse_rung() {
    let bench = Bench::new();
    let music = bench.music(44_100, 2, FRAMES);
    let made = bench.make(&music);
    let source = first_channel(&music, 2, "");
    let (low, high) = (made.slices(made.rung("64")), made.slices(made.rung("256")));
    let alone = |name: &str| first_channel(&made.dir.join(format!("aac-{name}.mp4")), 2, "");
    let (low_alone, high_alone) = (alone("64"), alone("256"));
    for first_is_low in [true, false] {
        let mut mixed = low.0.clone();
        for (n, (a, b)) in low.1.iter().zip(&high.1).enumerate() {
            mixed.extend(if (n % 2 == 0) == first_is_low { a } else { b });
        }
        let mixed = first_channel(&bench.file("mixed.mp4", mixed), 2, "");
        assert_eq!(mixed.len(), low_alone.len());
        let mut boundary = 0;
        for segment in &made.rung("64").segments[..low.1.len() - 2] {
            boundary += segment.ticks as usize;
            let around = |ours: &[f32]| {
                error(&source[boundary - 512..boundary + 1536], &ours[boundary + 1024 - 512..boundary + 1024 + 1536])
            };
            let worse = around(&low_alone).max(around(&high_alone));
            assert!(around(&mixed) <= 1.1 * worse, "at {boundary}: {} > 1.1 × {worse}", around(&mixed));
        }
    }
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let bench = Bench::new();
    let input = bench.convert(&bench.music(96_000, 2, FRAMES), "-c:a pcm_f32le", "float.wav");
    let (one, two) = (bench.make(&input), bench.make(&input));
    assert_eq!(one.index.seal(), two.index.seal());
    let files = |made: &Made| {
        let mut files: Vec<_> = std::fs::read_dir(&made.dir).unwrap().map(|f| f.unwrap().path()).collect();
        files.sort();
        files.iter().map(|f| std::fs::read(f).unwrap()).collect::<Vec<_>>()
    };
    assert!(files(&one) == files(&two));
}

#[test]
fn the_index_describes_the_files() {
    let bench = Bench::new();
    let made = bench.make(&bench.music(44_100, 2, FRAMES));
    for rung in &made.index.rungs {
        let (init, segments) = made.slices(rung);
        assert_eq!(digest128(&init), rung.init.hash);
        assert!(segments.iter().zip(&rung.segments).all(|(bytes, s)| digest128(bytes) == s.hash));
    }
    let mut names: Vec<String> = made.index.objects().map(|o| o.name.clone()).collect();
    let mut there: Vec<String> =
        std::fs::read_dir(&made.dir).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    there.sort();
    assert_eq!(names, there);
    for object in made.index.objects() {
        assert_eq!(std::fs::metadata(made.dir.join(&object.name)).unwrap().len(), object.bytes);
    }
}

#[test]
fn the_built_in_ladder_cuts_every_rung_at_the_same_sample() {
    let bench = Bench::new();
    let samples = 2 * 266_240 + 1;
    let music = bench.music(44_100, 2, samples);
    let made = bench.try_make(&music, &Ladder::default_audio(), &options()).unwrap();
    made.check(u64::from(samples));
    let ticks: Vec<u64> = made.index.rungs[0].segments.iter().map(|s| s.ticks).collect();
    assert_eq!(ticks, [266_240, 266_241]);
    assert!(decode(&made.dir.join("flac.mp4"), "s16le", "") == decode(&music, "s16le", ""));
}

/// Lengths around every boundary: no segment of a few samples, the same segments on every rung, and ffmpeg,
/// which warns of what it stumbles over, is silent.
#[test]
fn a_tail_of_less_than_a_quarter_of_a_second_is_part_of_the_last_segment() {
    let bench = Bench::new();
    for (rate, segment, tail) in [(44_100, 45_056, 11_025), (48_000, 49_152, 12_000), (96_000, 98_304, 24_000)] {
        let check = |samples: u32, segments: &[u32]| {
            let made = bench.make(&bench.music(rate, 2, samples));
            made.check(u64::from(samples));
            segue::hls::package::check(&made.index).unwrap();
            let flac = made.index.rungs.iter().find(|rung| rung.family == Family::Flac).unwrap();
            let ticks: Vec<u64> = flac.segments.iter().map(|s| s.ticks).collect();
            assert_eq!(ticks, segments.iter().map(|n| u64::from(*n)).collect::<Vec<_>>(), "{samples} at {rate} Hz");
            plays_without_a_warning(&bench, &made);
        };
        check(segment + 1, &[segment + 1]);
        check(segment + tail, &[segment + tail]);
        check(segment + tail + 1, &[segment, tail + 1]);
        if rate == 44_100 {
            check(1, &[1]);
            check(tail, &[tail]);
            check(segment - 1, &[segment - 1]);
            check(segment, &[segment]);
            check(2 * segment - 1, &[segment, segment - 1]);
            check(2 * segment, &[segment, segment]);
            check(2 * segment + 43, &[segment, segment + 43]);
        }
    }
}

#[test]
fn a_source_of_a_few_samples_is_a_track() {
    let bench = Bench::new();
    for (rate, samples) in [(8_000, 1), (22_050, 2), (44_100, 2), (44_100, 43), (44_100, 44), (192_000, 1)] {
        let made = bench.make(&bench.music(rate, 1, samples));
        made.check(u64::from(samples));
        plays_without_a_warning(&bench, &made);
    }
}

/// Puts a run's output into a tree of files and plays every playlist of it.
fn plays_without_a_warning(bench: &Bench, made: &Made) {
    let tree = tempfile::tempdir_in(bench.path("")).unwrap();
    segue::publish::to_tree(&made.dir, &made.index, tree.path()).unwrap();
    let mut command = std::process::Command::new("ffmpeg");
    // Every variant of it, AAC and FLAC.
    command.args(["-v", "warning", "-nostdin", "-i"]).arg(tree.path().join("master.m3u8"));
    let done = command.args(["-map", "0", "-f", "null", "-"]).output().unwrap();
    let words = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && words.is_empty(), "{} samples: {words}", made.index.source.samples);
    for rung in &made.index.rungs {
        let text = std::fs::read_to_string(tree.path().join(rung.path()).join("index.m3u8")).unwrap();
        let playlist = m3u8_rs::parse_media_playlist(text.as_bytes()).unwrap().1;
        assert!(playlist.segments.iter().all(|s| s.duration.round() as u64 <= playlist.target_duration), "{text}");
    }
}

#[test]
fn the_waveform_is_audiowaveform_version_2() {
    let bench = Bench::new();
    let made = bench.make(&bench.music(44_100, 2, FRAMES));
    let bytes = std::fs::read(made.dir.join("peaks.bin")).unwrap();
    let word = |n: usize| u32::from_le_bytes(bytes[n * 4..n * 4 + 4].try_into().unwrap());
    let points = FRAMES.div_ceil(256);
    assert_eq!([word(0), word(1), word(2), word(3), word(4), word(5)], [2, 1, 44_100, 256, points, 1]);
    assert_eq!(bytes.len(), 24 + points as usize * 2);
    let high = bytes[24..].iter().skip(1).step_by(2).map(|b| *b as i8).max().unwrap();
    let source = decode(&bench.music(44_100, 2, FRAMES), "s16le", "");
    let loudest = source.chunks_exact(2).map(|b| i16::from_le_bytes([b[0], b[1]])).max().unwrap();
    assert_eq!(i16::from(high), loudest >> 8);
    let points = |bytes: &[u8]| bytes[24..].chunks(2).map(|p| [p[0] as i8, p[1] as i8]).collect::<Vec<_>>();
    let fine = points(&bytes);
    for zoom in [2048, 16_384] {
        let bytes = std::fs::read(made.dir.join(format!("peaks-{zoom}.bin"))).unwrap();
        let word = |n: usize| u32::from_le_bytes(bytes[n * 4..n * 4 + 4].try_into().unwrap());
        let count = FRAMES.div_ceil(zoom);
        assert_eq!([word(0), word(1), word(2), word(3), word(4), word(5)], [2, 1, 44_100, zoom, count, 1]);
        let wanted: Vec<_> = fine
            .chunks(zoom as usize / 256)
            .map(|group| [group.iter().map(|p| p[0]).min().unwrap(), group.iter().map(|p| p[1]).max().unwrap()])
            .collect();
        assert_eq!(points(&bytes), wanted);
    }
    let small: serde_json::Value =
        serde_json::from_slice(&std::fs::read(made.dir.join("peaks.json")).unwrap()).unwrap();
    assert!(small["length"].as_u64().unwrap() <= 1000);
}
