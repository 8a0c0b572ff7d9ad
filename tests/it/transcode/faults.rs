//! What is refused, in which words, and what ends a child.

use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use segue::base::Kind;
use segue::transcode::{Limits, Options, Progress};

use super::bench::{Bench, ladder, options};

fn check(bench: &Bench, input: &Path, said: &str) {
    check_with(bench, input, Limits::default(), said);
}

fn check_with(bench: &Bench, input: &Path, limits: Limits, said: &str) {
    let error = bench.refused(input, limits);
    let line = error.chain();
    assert_eq!(error.kind(), Kind::Invalid, "{line}");
    assert!(line.contains(said), "{line}");
    assert!(line.contains(&input.display().to_string()) && !line.contains('\n'), "{line}");
}

fn cut(bench: &Bench, input: &Path, name: &str, part: f64) -> std::path::PathBuf {
    let bytes = std::fs::read(input).unwrap();
    bench.file(name, &bytes[..(bytes.len() as f64 * part) as usize])
}

#[test]
fn what_is_not_audio_is_refused() {
    let bench = Bench::new();
    let missing = bench.refused(&bench.path("missing.wav"), Limits::default());
    assert_eq!(missing.kind(), Kind::NotFound);
    assert!(missing.chain().contains("missing.wav"));
    check(&bench, Path::new("/tmp"), "give the path of an audio file");
    check(&bench, &bench.file("empty.wav", b""), "it is empty");
    check(&bench, &bench.file("notes.mp3", b"dear diary\n"), "it is a text file");
    check(&bench, &bench.file("list.mp3", b"#EXTM3U\nhttp://127.0.0.1/x.ts\n"), "it is an m3u8 playlist");
    check(&bench, &bench.file("list.wav", b"<?xml version='1.0'?><MPD></MPD>"), "it is a DASH manifest");
    check(&bench, &bench.file("picture.wav", b"\x89PNG\r\n\x1a\n0000"), "it is a PNG picture");
    let noise: Vec<u8> = (1..200_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 19) as u8).collect();
    check(&bench, &bench.file("noise.bin", noise), "it is not audio");
    let zero = bench.music(44_100, 2, 0);
    check(&bench, &zero, "it has no audio samples");
}

#[test]
fn video_without_sound_is_refused() {
    let bench = Bench::new();
    let silent = bench.path("silent.mp4");
    let make = |out: &Path| {
        let arguments = ["-v", "error", "-y", "-f", "lavfi", "-i", "testsrc=s=64x64:d=1", "-c:v", "mpeg4"];
        assert!(std::process::Command::new("ffmpeg").args(arguments).arg(out).status().unwrap().success());
    };
    make(&silent);
    check(&bench, &silent, "it has no audio");
    let silent = bench.path("silent.mkv");
    make(&silent);
    check(&bench, &silent, "no audio");
}

#[test]
fn truncated_files_are_refused_with_both_lengths() {
    let bench = Bench::new();
    let wav = bench.music(44_100, 2, 441_000);
    check(&bench, &cut(&bench, &wav, "cut.wav", 0.5), "the header promises 10.0 s, only 5.0 s are in the file");
    let flac = bench.convert(&wav, "", "a.flac");
    check(&bench, &cut(&bench, &flac, "cut.flac", 0.5), "the header promises 10.0 s, only ");
    let mp3 = bench.convert(&wav, "-c:a libmp3lame -b:a 128k", "a.mp3");
    check(&bench, &cut(&bench, &mp3, "cut.mp3", 0.5), "bytes are missing; upload the whole file");
    let fast = bench.convert(&wav, "-c:a aac -movflags +faststart", "fast.m4a");
    check(&bench, &cut(&bench, &fast, "cutfast.m4a", 0.5), "truncated");
    let slow = bench.convert(&wav, "-c:a aac", "slow.m4a");
    check(&bench, &cut(&bench, &slow, "cutslow.m4a", 0.5), "bytes are missing; upload the whole file");
    let aiff = bench.convert(&wav, "", "a.aiff");
    check(&bench, &cut(&bench, &aiff, "cut.aiff", 0.5), "the header promises 10.0 s, only 5.0 s are in the file");
}

/// What is missing is less than the decoders' tolerance, so only the containers can tell.
#[test]
fn a_file_that_lacks_less_than_a_frame_is_truncated_all_the_same() {
    let bench = Bench::new();
    let wav = bench.music(44_100, 2, 132_300);
    for (name, arguments) in [
        ("lame.mp3", "-c:a libmp3lame -b:a 128k"),
        ("vbr.mp3", "-c:a libmp3lame -q:a 4"),
        ("plain.mp3", "-c:a libmp3lame -b:a 128k -write_xing 0 -id3v2_version 0"),
        ("adts.aac", "-c:a aac"),
        ("fast.m4a", "-c:a aac -movflags +faststart"),
        ("fast-alac.m4a", "-c:a alac -movflags +faststart"),
        ("slow.m4a", "-c:a aac"),
        ("fragments.mp4", "-c:a aac -movflags +frag_keyframe+empty_moov+default_base_moof -frag_duration 500000"),
        ("a.wav", "-c:a pcm_s24le"),
        ("a.aiff", ""),
        ("a.flac", ""),
        ("a.ogg", "-c:a libvorbis"),
        ("a.opus", "-c:a libopus"),
        ("a.mp2", "-c:a mp2"),
        ("a.mka", "-c:a libvorbis"),
    ] {
        let whole = bench.convert(&wav, arguments, name);
        segue::transcode::probe(&whole, &options()).unwrap();
        let bytes = std::fs::read(&whole).unwrap();
        for missing in [1, 3, 100, 250] {
            let input = bench.file(&format!("{missing}-{name}"), &bytes[..bytes.len() - missing]);
            check(&bench, &input, "truncated");
        }
    }
}

#[test]
fn a_file_damaged_in_the_middle_is_not_published_with_a_hole() {
    let bench = Bench::new();
    let flac = bench.convert(&bench.music(44_100, 2, 441_000), "", "a.flac");
    let mut bytes = std::fs::read(&flac).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 40_000].fill(0x55);
    check(&bench, &bench.file("hole.flac", bytes), "truncated or damaged");
}

/// Each was published without what was damaged, as if nothing were missing.
#[test]
fn a_hole_is_found_in_every_format_that_can_tell() {
    let bench = Bench::new();
    let music = bench.music(44_100, 2, 441_000);
    let frag = "-c:a aac -movflags +frag_keyframe+empty_moov+default_base_moof -frag_duration 500000";
    for (name, arguments, said) in [
        ("a.flac", "", "damaged"),
        ("deep.flac", "-c:a flac -sample_fmt s32", "damaged"),
        ("flac.ogg", "-c:a flac", "damaged"),
        ("plain.mp3", "-c:a libmp3lame -b:a 128k -write_xing 0 -id3v2_version 0", "damaged: "),
        ("lame.mp3", "-c:a libmp3lame -q:a 4", "damaged: "),
        ("a.mp2", "-c:a mp2", "damaged: "),
        ("a.aac", "-c:a aac", "damaged: "),
        ("fragments.mp4", frag, "damaged"),
        ("a.mka", "-c:a libvorbis", "damaged"),
        ("a.webm", "-c:a libopus", "damaged"),
        ("a.m4a", "-c:a aac", "damaged"),
    ] {
        let whole = bench.convert(&music, arguments, name);
        segue::transcode::probe(&whole, &options()).unwrap();
        let mut bytes = std::fs::read(&whole).unwrap();
        let quarter = bytes.len() / 4;
        bytes[2 * quarter..3 * quarter].fill(0x55);
        check(&bench, &bench.file(&format!("hole-{name}"), bytes), said);
    }
}

/// One flipped bit where a frame begins costs a frame of 23 or 26 ms, less than a decoder's padding hides.
#[test]
fn a_single_lost_frame_is_missed() {
    let bench = Bench::new();
    let music = bench.music(44_100, 2, 441_000);
    let mp3 = bench.convert(&music, "-c:a libmp3lame -b:a 128k -id3v2_version 0", "a.mp3");
    let mut bytes = std::fs::read(&mp3).unwrap();
    let at = (bytes.len() / 2..).find(|at| bytes[*at..].starts_with(&[0xff, 0xfb])).unwrap();
    bytes[at] = 0x7f;
    check(&bench, &bench.file("flipped.mp3", bytes), "damaged: ");
    // In an M4A every frame's place is known; one of noise is not decoded.
    let m4a = bench.convert(&music, "-c:a aac", "a.m4a");
    segue::transcode::probe(&m4a, &options()).unwrap();
    let mut bytes = std::fs::read(&m4a).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 800].fill(0xff);
    check(&bench, &bench.file("noise.m4a", bytes), "truncated or damaged");
}

/// The decoder conceals it and the length stays right: only the checksum can tell.
#[test]
fn a_flac_whose_audio_is_not_what_was_encoded_is_refused() {
    let bench = Bench::new();
    let music = bench.music(44_100, 2, 441_000);
    for (name, arguments) in [("a.flac", ""), ("a24.flac", "-sample_fmt s32 -bits_per_raw_sample 24")] {
        let whole = bench.convert(&music, arguments, name);
        segue::transcode::probe(&whole, &options()).unwrap();
        let mut bytes = std::fs::read(&whole).unwrap();
        bytes[26..42].copy_from_slice(b"not this version");
        check(&bench, &bench.file(&format!("other-{name}"), bytes), "does not match its own checksum");
    }
    let six = bench.convert(&bench.music(48_000, 6, 96_000), "", "six.flac");
    segue::transcode::probe(&six, &options()).unwrap();
}

#[test]
fn joined_files_are_not_published_in_part() {
    let bench = Bench::new();
    let music = bench.music(44_100, 2, 132_300);
    let join = |name: &str, arguments: &str| {
        let one = std::fs::read(bench.convert(&music, arguments, &format!("one-{name}"))).unwrap();
        let other = std::fs::read(bench.convert(&music, arguments, &format!("two-{name}"))).unwrap();
        bench.file(name, [one, other].concat())
    };
    check(&bench, &join("twice.ogg", "-c:a libvorbis"), "several Ogg streams joined");
    check(&bench, &join("twice.mp3", "-c:a libmp3lame -id3v2_version 0"), "its header promises 3.0 s, but");
}

#[test]
fn limits_are_named_when_they_refuse() {
    let bench = Bench::new();
    let music = bench.music(44_100, 2, 441_000);
    let with = |change: fn(&mut Limits)| {
        let mut limits = Limits::default();
        change(&mut limits);
        limits
    };
    let short = || with(|l| l.duration_s_max = 5);
    check_with(&bench, &music, short(), "by its header it is 10 s long, longer than 5 s, the most that is accepted");
    // What promises no length is found when it is too long.
    let endless = bench.convert(&music, "-c:a aac", "endless.aac");
    check_with(&bench, &endless, short(), "it is longer than 5 s, the most that is accepted");
    // And a header that claims a day is believed before a minute of it is decoded.
    let mut claims = std::fs::read(bench.convert(&music, "-c:a flac", "claims.flac")).unwrap();
    claims[21] |= 15;
    claims[22..26].fill(0xff);
    let claims = bench.file("claims.flac", claims);
    let watched = std::cell::Cell::new(false);
    let never = AtomicBool::new(false);
    let refused = bench.try_watch(&claims, &ladder(), &options(), &never, &mut |_| watched.set(true));
    let refused = refused.err().expect("it is refused").chain();
    assert!(refused.contains("by its header it is 432.9 hours long, longer than 10.0 hours"), "{refused}");
    assert!(!watched.get(), "nothing of it was decoded");
    assert!(segue::transcode::check_input(&claims, &options()).is_err(), "nor is it put into the queue");
    check_with(&bench, &music, with(|l| l.input_bytes_max = 1000), "bytes; at most 1,000 are accepted");
    check_with(&bench, &music, with(|l| l.input_bytes_max = 1 << 20), "at most 1 MiB are accepted");
    check_with(&bench, &music, with(|l| l.output_bytes_max = 1 << 20), "more than 1 MiB of output");
    let hurry = with(|l| (l.wall_s_min, l.bytes_per_s_min) = (0, u64::MAX));
    check_with(&bench, &music, hurry, "gave up after 0 s");
    check_with(&bench, &bench.music(4_000, 1, 9_000), Limits::default(), "4000 Hz is not between 8000 and 384000 Hz");
    for channels in [7, 8, 12] {
        let said = format!("it has {channels} channels, at most 6 (5.1) are accepted; export it as stereo or 5.1");
        check(&bench, &bench.music(44_100, channels, 9_000), &said);
    }
    let seven = bench.convert(&bench.music(44_100, 8, 9_000), "-c:a flac", "seven.flac");
    check(&bench, &seven, "it has 8 channels");
}

#[test]
fn a_child_that_does_not_fit_into_its_memory_ends_alone() {
    let bench = Bench::new();
    // Or it hangs for want of a thread, until the watchdog ends it and sees why.
    let limits = Limits { memory_bytes_max: 200 << 20, first_sample_s: 10, no_progress_s: 10, ..Limits::default() };
    let error = bench.refused(&bench.music(44_100, 2, 441_000), limits);
    let line = error.chain();
    // An allocator that is refused mostly says so; some crash on it.
    let known = ["more memory than the 200 MiB it may use", "crashed on it, ended by SIG"];
    assert!(known.iter().any(|words| line.contains(words)), "{line}");
}

/// Children that misbehave, played by a shell.
#[test]
fn whatever_a_child_does_is_an_error_and_not_a_hang() {
    let bench = Bench::new();
    let music = bench.music(44_100, 2, 4_410);
    let play = |name: &str, script: &str, said: &str, tag: Option<&str>| {
        use std::os::unix::fs::PermissionsExt as _;
        let exe = bench.file(name, format!("#!/bin/sh\n{script}\n"));
        std::fs::set_permissions(&exe, std::fs::Permissions::from_mode(0o755)).unwrap();
        let limits = Limits { first_sample_s: 1, ..Limits::default() };
        let options = Options { exe, limits, ..options() };
        let error = bench.try_make(&music, &ladder(), &options).err().unwrap();
        assert!(error.chain().contains(said), "{error:?}");
        assert_eq!(error.tag(), tag, "{name}");
    };
    let starved = "echo 'GLib-ERROR **: failed to allocate 9999 bytes' >&2; kill -ABRT $$";
    play("oom", starved, "needs more memory than", Some("memory"));
    play(
        "crash",
        "echo 'free(): invalid pointer' >&2; kill -SEGV $$",
        "crashed on it, ended by SIGSEGV (free(): invalid pointer)",
        Some("crashed"),
    );
    play("call", "kill -SYS $$", "do what its sandbox forbids", Some("forbidden"));
    play("cpu", "kill -XCPU $$", "more processor time than an input of its size may use", Some("time"));
    play("killed", "kill -KILL $$", "ended by SIGKILL from outside", Some("killed"));
    play("told", "kill -TERM $$", "ended by SIGTERM", Some("killed"));
    play("exit", "exit 7", "ended without a result", None);
    play("garbage", "head -c 100000 /dev/urandom", "ended without a result", None);
    play("nothing", "printf '\\002\\000\\000\\000\\000\\000\\000\\000{}'", "ended without a result", None);
    play("hang", "exec sleep 60", "no audio could be decoded within 1 s", Some("time"));
    play(
        "liar",
        "printf '\\031\\000\\000\\000\\000\\000\\000\\000{\"event\":\"init\",\"rung\":9}'",
        "not asked for",
        None,
    );
}

#[test]
fn a_cancelled_run_ends_soon_and_leaves_nothing() {
    let bench = Bench::new();
    let music = bench.music(44_100, 2, 60 * 44_100);
    let cancel = AtomicBool::new(false);
    let mut watch = |_| cancel.store(true, Ordering::Relaxed);
    let error = bench.try_watch(&music, &ladder(), &options(), &cancel, &mut watch).err().unwrap();
    assert_eq!(error.kind(), Kind::Cancelled);
    assert!(error.chain().contains("cancelled"));
}

#[test]
fn a_killed_child_is_an_error_with_the_signal_named() {
    let bench = Bench::new();
    let music = bench.music(44_100, 2, 60 * 44_100);
    let options = Options { env: vec![("SEGUE_TEST".into(), "to-be-killed".into())], ..options() };
    let mut watch = |progress| {
        if matches!(progress, Progress::Probed { .. }) {
            kill_child_marked(b"SEGUE_TEST=to-be-killed");
        }
    };
    let error = bench.try_watch(&music, &ladder(), &options, &AtomicBool::new(false), &mut watch).err().unwrap();
    assert_eq!(error.kind(), Kind::Internal);
    assert!(error.chain().contains("SIGKILL"), "{error:?}");
}

fn kill_child_marked(mark: &[u8]) {
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let environment = std::fs::read(process.path().join("environ")).unwrap_or_default();
        if environment.windows(mark.len()).any(|w| w == mark) {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
    }
}

/// An uploaded playlist must not make us fetch what it names, however it is dressed up.
#[test]
fn no_input_makes_the_child_connect_or_open_files() {
    let bench = Bench::new();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    server.set_nonblocking(true).unwrap();
    let url = format!("http://{}/x", server.local_addr().unwrap());
    let secret = bench.music(44_100, 2, 44_100);
    // a control character gets them past our own look at the text
    for text in [
        format!("#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\n{url}.ts\n#EXT-X-ENDLIST\n\x01"),
        format!("#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\nfile://{}\n#EXT-X-ENDLIST\n\x01", secret.display()),
        format!("<?xml version=\"1.0\"?><MPD><BaseURL>{url}</BaseURL></MPD>\x01"),
        format!("[playlist]\nFile1={url}\n\x01"),
        format!("RTSPtext\nrtsp://{url}\n\x01"),
        format!("{url}\n\x01"),
    ] {
        let error = bench.refused(&bench.file("list.mp3", text), Limits::default());
        assert_eq!(error.kind(), Kind::Invalid, "{error:?}");
    }
    assert!(server.accept().is_err(), "the child connected");
}
