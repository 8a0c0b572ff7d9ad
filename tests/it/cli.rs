//! The commands as a user types them: one line for every wrong input, the right exit code, nothing left behind.

use std::fs;
use std::path::Path;

use crate::support::{published, run, said, segue};

/// A wrong use: exit code, one line on standard error holding `words`, nothing on standard output.
fn refused(args: &[&str], code: i32, words: &[&str]) {
    let output = run(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {}", said(&output));
    assert_eq!(stderr.trim_end().lines().count(), 1, "{args:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{args:?}: {}", said(&output));
    for word in words {
        assert!(stderr.contains(word), "{args:?} does not say {word:?}: {stderr}");
    }
}

fn files_below(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for path in fs::read_dir(&next).into_iter().flatten().map(|entry| entry.unwrap().path()) {
            found.push(path.strip_prefix(dir).unwrap().display().to_string());
            if path.is_dir() {
                dirs.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn wrong_command_lines_are_one_line_and_exit_2() {
    refused(&["frobnicate"], 2, &["frobnicate", "--help"]);
    refused(&["publish"], 2, &["FILE", "--help"]);
    refused(&["transcode", "song.wav"], 2, &["--out", "--help"]);
    refused(&["serve", "--listen", "nowhere"], 2, &["nowhere", "--listen", "127.0.0.1:8080"]);
    refused(&["serve", "--role", "dj"], 2, &["dj", "--role"]);
    refused(&["serve", "--config", "/nonexistent/segue.toml"], 2, &["/nonexistent/segue.toml"]);
    refused(&["publish", "a.wav", "b.wav", "--title", "x"], 2, &["--title"]);
    refused(&["publish", "a.wav", "--track", "not/an/id"], 2, &["not/an/id"]);
    refused(&["sign", "no-path"], 2, &["no-path"]);
    // Not for people, but people find it.
    refused(&["child"], 2, &["segue transcode FILE --out DIR"]);
    refused(&["child", "{\"ladder\":"], 2, &["segue transcode FILE --out DIR"]);
}

#[test]
fn help_teaches_and_succeeds() {
    for args in
        [&["--help"][..], &["serve", "--help"], &["publish", "--help"], &["transcode", "--help"], &["--version"]]
    {
        let output = run(args);
        assert!(output.status.success(), "{}", said(&output));
        assert!(output.stderr.is_empty());
    }
    assert!(said(&run(["--help"])).contains("Examples:"));
}

#[test]
fn every_wrong_input_is_refused_with_what_to_do_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let noise: Vec<u8> = (0..50_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let inputs = [
        (write("empty.wav", b""), "empty"),
        (write("notes.txt", b"dear diary, this is a text and not a song\n".repeat(20).as_slice()), "text"),
        (write("list.m3u8", b"#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\nfile:///etc/passwd\n"), "playlist"),
        (write("noise.flac", &noise), "noise.flac"),
        (dir.path().join("missing.flac").to_str().unwrap().to_owned(), "missing.flac"),
        (dir.path().to_str().unwrap().to_owned(), "directory"),
    ];
    let before = files_below(dir.path());
    let out = dir.path().join("deep/er/hls");
    let data = dir.path().join("data");
    for (input, word) in &inputs {
        refused(&["transcode", input, "--out", out.to_str().unwrap()], 1, &[word, input]);
        refused(&["publish", input, "--data", data.to_str().unwrap()], 1, &[word, input]);
        refused(&["probe", input], 1, &[word, input]);
    }
    assert_eq!(files_below(dir.path()), before, "something is left behind");
}

#[test]
fn an_output_directory_that_is_used_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("precious"), b"x").unwrap();
    let out = dir.path().to_str().unwrap();
    refused(&["transcode", "song.wav", "--out", out], 2, &["not empty"]);
    let file = dir.path().join("precious").to_str().unwrap().to_owned();
    refused(&["transcode", "song.wav", "--out", &file], 2, &["precious", "name a new or an empty directory"]);
    let link = dir.path().join("link").to_str().unwrap().to_owned();
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    refused(&["transcode", "song.wav", "--out", &link], 2, &["link", "a link to nothing; remove it or name another"]);
    let wav = published().source_wav;
    let below = format!("{file}/deep/hls");
    refused(&["transcode", wav.to_str().unwrap(), "--out", &below], 2, &[&below, "name a new or an empty directory"]);
    let below = format!("{link}/hls");
    refused(&["transcode", wav.to_str().unwrap(), "--out", &below], 1, &[&below, "choose another place with --out"]);
    assert_eq!(files_below(dir.path()), ["link", "precious"]);
}

#[test]
fn a_track_that_is_not_there_and_a_title_that_is_none_are_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let wav = tone(dir.path(), "tone.wav", &[]);
    let data = dir.path().join("data");
    let data = data.to_str().unwrap();
    let publish = |more: &[&str], code, words: &[&str]| {
        refused(&[&["publish", &wav, "--data", data], more].concat(), code, words);
        assert_eq!(files_below(dir.path()), ["tone.wav"]);
    };
    publish(&["--track", "nope"], 1, &["no track nope", data, "--track"]);
    publish(&["--title", ""], 2, &["--title", "1 to 512 characters", "has 0"]);
    publish(&["--title", "  "], 2, &["--title", "1 to 512 characters"]);
    publish(&["--title", &"x".repeat(513)], 2, &["--title", "1 to 512 characters", "has 513"]);
    publish(&["--title", "two\nlines"], 2, &["--title", "no line breaks"]);
    publish(&["--title", "red \u{1b}[31m"], 2, &["--title", "control characters"]);
    // The same in a store that is there: it stays as it was.
    fs::create_dir_all(dir.path().join("data/store/tracks")).unwrap();
    refused(&["publish", &wav, "--data", data, "--track", "nope"], 1, &["no track nope"]);
    assert_eq!(files_below(dir.path()), ["data", "data/store", "data/store/tracks", "tone.wav"]);
}

#[test]
fn an_encoding_plan_that_is_none_is_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let pipe = dir.path().join("pipe").to_str().unwrap().to_owned();
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let missing = dir.path().join("missing.toml").to_str().unwrap().to_owned();
    for (plan, words) in [
        (missing, ["missing.toml", "check the path"]),
        (dir.path().to_str().unwrap().to_owned(), ["is not an encoding plan", "give a TOML file"]),
        (pipe, ["pipe is not an encoding plan", "give a TOML file"]),
        (file("noise.toml", b"\xff\xfe\0\x01"), ["it is not text", "give a TOML file"]),
        (file("notes.toml", b"dear diary\n"), ["notes.toml:1:", "pipelines/README.md"]),
        (file("empty.toml", b""), ["empty.toml:1:", "pipelines/README.md"]),
    ] {
        refused(&["pipelines", "check", &plan], 2, &words);
        refused(&["transcode", "song.wav", "--out", "hls", "--ladder", &plan], 2, &words);
        refused(&["publish", "song.wav", "--ladder", &plan], 2, &words);
    }
}

/// A limit on the size of files stands for a full disk: both fail in the middle of a write.
#[test]
fn a_disk_that_takes_no_more_is_named_and_left_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let wav = dir.path().join("noise.wav").to_str().unwrap().to_owned();
    let noise = ["-nostdin", "-v", "error", "-f", "lavfi", "-i", "anoisesrc=d=60:r=44100:a=0.5", &wav];
    assert!(std::process::Command::new("ffmpeg").args(noise).status().unwrap().success());
    let segue = env!("CARGO_BIN_EXE_segue");
    for (command, place) in [("transcode", "--out"), ("publish", "--data")] {
        let out = dir.path().join("deep/out").to_str().unwrap().to_owned();
        // Blocks of 512 or 1024 bytes, as the shell likes.
        let script = "ulimit -f 1000; exec \"$@\"";
        let limited = ["-c", script, "sh", segue, command, &wav, place, &out];
        let done = std::process::Command::new("sh").args(limited).output().unwrap();
        assert_eq!(done.status.code(), Some(1), "{}", said(&done));
        assert_eq!(said(&done).lines().count(), 1, "{}", said(&done));
        for word in ["noise.wav", "cannot write", "mp4", "ulimit -f"] {
            assert!(said(&done).contains(word), "{}", said(&done));
        }
        assert!(!said(&done).contains(".partial"), "{}", said(&done));
        assert_eq!(files_below(dir.path()), ["noise.wav"]);
    }
}

/// What the transcoder's libraries say when they do not load helps nobody.
#[test]
fn a_limit_on_memory_that_nothing_could_start_in_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (wav, out) = (dir.path().join("a.wav"), dir.path().join("out"));
    segue::demo::write_wav(&wav).unwrap();
    let script = "ulimit -v 900000; exec \"$@\""; // KiB
    let done = std::process::Command::new("sh")
        .args(["-c", script, "sh", env!("CARGO_BIN_EXE_segue"), "transcode"])
        .arg(&wav)
        .arg("--out")
        .arg(&out)
        .output()
        .unwrap();
    assert_eq!((done.status.code(), said(&done).lines().count()), (Some(1), 1), "{}", said(&done));
    for word in ["a.wav", "needs 1024 MiB of address space", "may have 878 MiB", "ulimit -v"] {
        assert!(said(&done).contains(word), "{}", said(&done));
    }
    assert_eq!(files_below(dir.path()), ["a.wav"]);
}

/// Ctrl-C in a terminal reaches the command and everything it started at once.
#[test]
fn an_interrupted_transcode_says_so_and_leaves_nothing() {
    use std::os::unix::process::CommandExt as _;
    let dir = tempfile::tempdir().unwrap();
    let wav = dir.path().join("long.wav").to_str().unwrap().to_owned();
    let long = ["-nostdin", "-v", "error", "-f", "lavfi", "-i", "sine=d=900:r=44100", "-ac", "2", &wav];
    assert!(std::process::Command::new("ffmpeg").args(long).status().unwrap().success());
    for (name, place) in [("transcode", "--out"), ("publish", "--data")] {
        let out = dir.path().join("deep/out").to_str().unwrap().to_owned();
        let mut command = segue();
        command.args([name, &wav, place, &out]).process_group(0);
        let running =
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
        while !files_below(dir.path()).iter().any(|path| path.ends_with("aac-64.mp4")) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let group = rustix::process::Pid::from_raw(running.id() as i32).unwrap();
        rustix::process::kill_process_group(group, rustix::process::Signal::INT).unwrap();
        let done = running.wait_with_output().unwrap();
        assert_eq!(done.status.code(), Some(1), "{}", said(&done));
        assert_eq!(said(&done).lines().count(), 1, "{}", said(&done));
        assert!(said(&done).contains("interrupted") && said(&done).contains("long.wav"), "{}", said(&done));
        assert_eq!(files_below(dir.path()), ["long.wav"]);
    }
}

#[test]
fn a_key_that_cannot_be_read_shows_before_the_work() {
    let dir = tempfile::tempdir().unwrap();
    let wav = tone(dir.path(), "tone.wav", &[]);
    let data = dir.path().join("data");
    fs::create_dir_all(data.join("secrets/bunny.key")).unwrap(); // a directory is no key
    refused(&["publish", &wav, "--data", data.to_str().unwrap()], 1, &["cannot read the signing key", "bunny.key"]);
    assert_eq!(files_below(dir.path()), ["data", "data/secrets", "data/secrets/bunny.key", "tone.wav"]);
}

#[test]
fn flac_of_a_resampled_source_is_not_called_lossless() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let report = |rate: &str, more: &[&str]| -> serde_json::Value {
        let name = format!("{rate}{}-{}.wav", more.concat(), fs::read_dir(dir.path()).unwrap().count());
        let wav = tone(dir.path(), &name, &[&["-ar", rate], more].concat());
        let output = run(["publish", "--json", &wav, "--data", data.to_str().unwrap()]);
        assert!(output.status.success(), "{}", said(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let check = |report: serde_json::Value, lossless: bool, from: serde_json::Value| {
        let rungs = report["rungs"].as_array().unwrap();
        let flac = rungs.last().unwrap();
        assert_eq!(
            (&flac["codecs"], &flac["lossless"], &flac["resampled_from"]),
            (&"fLaC".into(), &lossless.into(), &from)
        );
        assert_eq!(rungs[0]["lossless"], false);
        // As long as the source: the samples of a rung are its length at the rung's rate, rounded up.
        let (samples, rate) = (report["samples"].as_u64().unwrap(), report["rate"].as_u64().unwrap());
        assert_eq!(flac["samples"], (samples * flac["rate"].as_u64().unwrap()).div_ceil(rate));
    };
    check(report("44100", &[]), true, serde_json::Value::Null);
    check(report("22050", &[]), false, 22_050.into());
    check(report("64000", &[]), false, 64_000.into());
    check(report("48000", &["-c:a", "pcm_f32le"]), false, serde_json::Value::Null);
    check(report("48000", &["-c:a", "pcm_s24le"]), true, serde_json::Value::Null);
    check(report("44100", &["-c:a", "pcm_s32le"]), false, serde_json::Value::Null);
    let loss = |more: &[&str]| {
        let report = report("48000", more);
        let loss = report["rungs"].as_array().unwrap().last().unwrap()["loss"].clone();
        assert_eq!(report["lossless"], loss.is_null());
        loss
    };
    assert_eq!(loss(&["-c:a", "pcm_s32le"]), "32-bit samples became 24-bit ones");
    assert_eq!(loss(&["-c:a", "pcm_s24le"]), serde_json::Value::Null);
    let mp3 = tone(dir.path(), "song.mp3", &[]);
    let output = run(["publish", "--json", &mp3, "--data", data.to_str().unwrap()]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let flac = report["rungs"].as_array().unwrap().last().unwrap();
    assert!(report["lossless"] == false && flac["loss"].as_str().unwrap().contains("lossy already, MPEG"), "{flac}");
    // In words, and in the record that pages are made from.
    let wav = tone(dir.path(), "thirty-two.wav", &["-c:a", "pcm_s32le"]);
    let text = said(&run(["publish", &wav, "--data", data.to_str().unwrap()]));
    assert!(text.contains("\n  FLAC      /") && text.contains("FLAC is not lossless here: 32-bit samples"), "{text}");
    let record = data.join("store/tracks").join(text.split(' ').next().unwrap()).with_extension("json");
    let record: serde_json::Value = serde_json::from_slice(&fs::read(record).unwrap()).unwrap();
    assert_eq!((&record["flac"], &record["lossless"]), (&true.into(), &false.into()));
}

#[test]
fn a_configuration_that_is_no_file_is_refused_and_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (pipe, large, noise, good) = (path("pipe"), path("large.toml"), path("noise.toml"), path("good.toml"));
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    fs::write(&large, vec![b'#'; (1 << 20) + 1]).unwrap();
    fs::write(&noise, b"\xff\xfe\0").unwrap();
    fs::write(&good, vec![b'#'; 1 << 20]).unwrap();
    let not_a_file = ["not a regular file", "give a TOML file"];
    for (file, words) in [
        (pipe.as_str(), not_a_file),
        ("/dev/zero", not_a_file),
        (dir.path().to_str().unwrap(), not_a_file),
        (&large, ["more than 1048576 bytes", "at most 1024 KiB"]),
        (&noise, ["noise.toml: it is not text", "give a TOML file"]),
    ] {
        for command in [&["config", "check"][..], &["serve"], &["publish", "x.wav"], &["sign", "/a/b"], &["blocks"]] {
            refused(&[command, &["--config", file]].concat(), 2, &[words[0], words[1], file]);
        }
    }
    assert!(run(["config", "check", "--config", &good]).status.success());
    // A key file is one too.
    fs::write(&good, format!("[origin.keys]\ncloudfront = [{{ id = \"K1\", key_file = {pipe:?} }}]\n")).unwrap();
    refused(&["serve", "--config", &good], 2, &["origin.keys.cloudfront", &pipe, "not a regular file"]);
    let tls = format!("[server]\ntls_listen = \"127.0.0.1:0\"\ntls_cert = {good:?}\ntls_key = {pipe:?}\n");
    fs::write(&good, tls).unwrap();
    let data = path("data");
    let loopback = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let serve = [&["serve", "--config", &good, "--data", &data][..], &loopback].concat();
    refused(&serve, 2, &["server.tls_key", &pipe, "not a regular file"]);
    assert!(!Path::new(&data).exists());
}

#[test]
fn a_wrong_key_is_named_with_its_place_and_what_it_should_be() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("segue.toml");
    let file = file.to_str().unwrap();
    let check = |text: &str, words: &[&str]| {
        fs::write(file, text).unwrap();
        refused(&["config", "show", "--config", file], 2, words);
    };
    check("[server]\nlissen = 1\n", &["segue.toml:2: server.lissen", "did you mean server.listen?", "docs/CONFIG.md"]);
    check("[server]\nidle_timeout_s = \"x\"\n", &["segue.toml:2: server.idle_timeout_s", "a whole number"]);
    check("[server]\nlisten = \n", &["segue.toml:2: ", "the format is TOML"]);
}

#[test]
fn a_variable_that_is_not_text_is_refused_when_it_is_ours_and_ignored_when_it_is_not() {
    use std::os::unix::ffi::OsStrExt as _;
    let noise = std::ffi::OsStr::from_bytes(b"\xff");
    let output = segue().args(["config", "check"]).env("ELSEWHERE", noise).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let output = segue().args(["config", "check"]).env("SEGUE_DATA", noise).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("the variable SEGUE_DATA is not text"), "{}", said(&output));
    let output = segue().args(["config", "check"]).env("SEGUE_DATA", "").output().unwrap();
    assert!(output.status.code() == Some(2) && said(&output).contains("data is empty"), "{}", said(&output));
}

#[test]
fn help_is_offered_for_the_command_that_was_meant() {
    refused(&["publish"], 2, &["try 'segue publish --help'"]);
    refused(&["config", "check", "--frob"], 2, &["--frob", "try 'segue config check --help'"]);
    refused(&["serve", "--listen", "two\nlines"], 2, &["try 'segue serve --help'"]);
    refused(&["frobnicate"], 2, &["try 'segue --help'"]);
    refused(&["serve", "--demo", "--role", "origin"], 2, &["--demo", "--role origin"]);
}

/// Some files are good, some are not: every good one is published, and nobody has to guess which.
#[test]
fn each_file_is_published_or_refused_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (tone(dir.path(), "one.wav", &[]), tone(dir.path(), "two.wav", &["-ac", "2"]));
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (notes, missing, damaged) = (path("notes.txt"), path("missing.wav"), path("damaged.flac"));
    fs::write(&notes, "dear diary").unwrap();
    // Whole by its header; only decoding shows the hole.
    let made = ["-nostdin", "-v", "error", "-i", &one, &damaged];
    assert!(std::process::Command::new("ffmpeg").args(made).status().unwrap().success());
    let mut bytes = fs::read(&damaged).unwrap();
    let middle = bytes.len() / 2;
    bytes.truncate(middle);
    fs::write(&damaged, &bytes).unwrap();
    let before = files_below(dir.path());
    let data = path("data");
    let bad = run(["publish", &notes, &missing, "--data", &data]);
    assert_eq!(bad.status.code(), Some(1), "{}", said(&bad));
    assert_eq!(said(&bad).lines().count(), 2, "{}", said(&bad));
    assert_eq!(files_below(dir.path()), before, "nothing was published, nothing was made");

    let output = run(["publish", &one, &notes, &damaged, &missing, &two, "--json", "--data", &data]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let lines = String::from_utf8(output.stdout).unwrap();
    let published: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(published.iter().map(|line| line["file"].as_str().unwrap()).collect::<Vec<_>>(), [&one, &two]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr.lines().count(), 3, "{stderr}");
    for (file, why) in [(&notes, "a text file"), (&missing, "no such file"), (&damaged, "truncated")] {
        assert!(stderr.lines().any(|line| line.contains(file) && line.contains(why)), "{file}: {stderr}");
    }
    for line in &published {
        for key in ["track_id", "version", "master_url", "lossless_master_url", "all_master_url", "preview_url"] {
            assert!(line[key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {line}");
        }
        assert!(line["duration_s"].as_f64().unwrap() > 0.0 && line["rungs"].as_array().unwrap().len() == 5);
        let track = line["track_id"].as_str().unwrap();
        assert!(dir.path().join("data/store/tracks").join(track).with_extension("json").exists());
    }
    assert_eq!(fs::read_dir(dir.path().join("data/store/tracks")).unwrap().count(), 2);
}

#[test]
fn a_result_that_cannot_be_written_names_the_track_that_was_published() {
    let dir = tempfile::tempdir().unwrap();
    let wav = tone(dir.path(), "tone.wav", &[]);
    let data = dir.path().join("data");
    for form in [&[][..], &["--json"]] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = segue();
        command.args(["publish", &wav, &wav, "--data", data.to_str().unwrap()]).args(form).stdout(full);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert_eq!(said(&output).lines().count(), 1, "{}", said(&output));
        let tracks: Vec<_> = files_below(&data.join("store/tracks"));
        let named = tracks.iter().any(|name| said(&output).contains(name.trim_end_matches(".json")));
        assert!(named && said(&output).contains("not begun: "), "{tracks:?}: {}", said(&output));
    }
    let out = dir.path().join("hls");
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = segue().args(["transcode", &wav, "--out", out.to_str().unwrap()]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("hls is whole, but") && out.join("version.json").exists(), "{}", said(&output));
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    assert_eq!(segue().arg("--help").stdout(full).output().unwrap().status.code(), Some(1));
    // Nowhere to complain: the exit code still says it.
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let wrong = segue().args(["config", "check"]).env("SEGUE_SERVER__IO", "magic").stderr(full).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
}

/// A killed process cannot clean up; the next one does, and never touches what a living one still makes.
#[test]
fn what_a_killed_transcode_left_is_swept_and_a_living_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (long, short) = (path("long.wav"), tone(dir.path(), "short.wav", &[]));
    let sine = ["-nostdin", "-v", "error", "-f", "lavfi", "-i", "sine=d=900:r=44100", "-ac", "2", &long];
    assert!(std::process::Command::new("ffmpeg").args(sine).status().unwrap().success());
    let partials = || -> Vec<String> {
        let names = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".partial")).collect()
    };
    // Waits until it has a directory of its own.
    let start = |out: &str, known: &[String]| {
        let mut command = segue();
        command.args(["transcode", &long, "--out", &path(out)]).stderr(std::process::Stdio::null());
        let running = command.spawn().unwrap();
        while partials().iter().all(|name| known.contains(name)) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        running
    };
    let mut killed = start("killed", &[]);
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert_eq!(partials().len(), 1);
    fs::create_dir(path(".segue-7.partial")).unwrap(); // as an earlier version named them
    let mut living = start("living", &partials());
    let of_the_living = partials();
    assert_eq!(of_the_living.len(), 1, "{of_the_living:?}");
    let done = run(["transcode", &short, "--out", &path("done")]);
    assert!(done.status.success(), "{}", said(&done));
    assert_eq!(partials(), of_the_living);
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(living.id() as i32).unwrap(),
        rustix::process::Signal::INT,
    )
    .unwrap();
    assert_eq!(living.wait().unwrap().code(), Some(1));
    assert_eq!(partials(), [""; 0]);
}

#[test]
fn a_server_that_cannot_listen_says_where_and_leaves_no_data_directory() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let data = dir.path().join("data").to_str().unwrap().to_owned();
    let any = "127.0.0.1:0";
    let (key, chain) = (dir.path().join("key.pem"), dir.path().join("chain.pem"));
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    fs::write(&chain, made.cert.pem()).unwrap();
    let config = dir.path().join("segue.toml").to_str().unwrap().to_owned();
    let tls = format!("[server]\ntls_listen = {taken:?}\ntls_cert = {chain:?}\ntls_key = {key:?}\n");
    fs::write(&config, tls).unwrap();
    let before = files_below(dir.path());
    let check = |listen: &str, admin: &str, more: &[&str], words: &[&str]| {
        let args = ["serve", "--data", &data, "--listen", listen, "--admin-listen", admin];
        refused(&[&args[..], more].concat(), 1, words);
        assert_eq!(files_below(dir.path()), before);
    };
    check(&taken, any, &[], &[&taken, "stop what uses it", "with --listen (server.listen)"]);
    check(any, &taken, &[], &[&taken, "with --admin-listen (server.admin_listen)"]);
    check(any, any, &["--config", &config], &[&taken, "with server.tls_listen"]);
    check("192.0.2.7:0", any, &[], &["192.0.2.7", "no such address", "--listen"]);
    let args = ["serve", "--data", &data, "--listen", &taken, "--admin-listen", &taken];
    refused(&args, 2, &["server.listen", "server.admin_listen", "one port"]);
    assert_eq!(files_below(dir.path()), before);
}

/// A few samples in boxes of some hundred bytes: divided by their own duration that would be megabits.
#[test]
fn a_very_short_track_has_a_bandwidth_that_a_player_can_believe() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    for samples in ["1", "441", "2205"] {
        let wav = tone(dir.path(), &format!("{samples}.wav"), &["-af", &format!("atrim=end_sample={samples}")]);
        let output = run(["publish", "--json", &wav, "--data", data.to_str().unwrap()]);
        assert!(output.status.success(), "{}", said(&output));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["samples"].to_string(), samples);
        for rung in report["rungs"].as_array().unwrap() {
            let (peak, average) = (rung["bandwidth"].as_u64().unwrap(), rung["average_bandwidth"].as_u64().unwrap());
            // What it takes to get all of it within half a second, the shortest run that HLS measures.
            let version = data.join("store/v").join(report["track_id"].as_str().unwrap());
            let version = version.join(report["version"].as_str().unwrap());
            let name = rung["path"].as_str().unwrap().replace('/', "-");
            let bytes = fs::metadata(version.join(format!("{name}.mp4"))).unwrap().len();
            assert!(peak == average && peak < bytes * 16, "{rung} of {bytes} bytes");
            assert!(peak < 256_000 && peak > 1_000, "{rung}");
        }
    }
}

#[test]
fn probe_says_what_the_ladder_would_make() {
    let dir = tempfile::tempdir().unwrap();
    let wav = tone(dir.path(), "tone.wav", &["-ar", "96000", "-c:a", "pcm_s24le"]);
    let text = said(&run(["probe", &wav]));
    assert!(text.contains("aac/64") && text.contains("64 kbit/s") && text.contains("flac     96000 Hz"), "{text}");
    let report: serde_json::Value = serde_json::from_slice(&run(["probe", "--json", &wav]).stdout).unwrap();
    let paths: Vec<_> = report["rungs"].as_array().unwrap().iter().map(|rung| rung["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["aac/64", "aac/96", "aac/160", "aac/256", "flac"]);
    assert_eq!(report["rungs"][4]["bits"], 24);
}

#[test]
fn probe_says_what_a_film_would_become_and_the_ladder_can_be_chosen() {
    let dir = tempfile::tempdir().unwrap();
    let clip = dir.path().join("clip.mp4");
    let made = std::process::Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-f", "lavfi", "-i", "testsrc2=size=1280x720:rate=25:duration=1"])
        .args([
            "-f",
            "lavfi",
            "-i",
            "sine=duration=1",
            "-c:v",
            "libx264",
            "-preset",
            "ultrafast",
            "-pix_fmt",
            "yuv420p",
        ])
        .args(["-c:a", "aac"])
        .arg(&clip)
        .status()
        .unwrap();
    assert!(made.success());
    let clip = clip.to_str().unwrap();
    let text = said(&run(["probe", clip]));
    assert!(text.contains("H.264, 1280×720, 25 pictures, 1.000 s") && text.contains("sound AAC, 44100 Hz"), "{text}");
    assert!(text.contains("video/720p") && text.contains("25 pictures/s, up to 3000 kbit/s, heard with"), "{text}");
    assert!(text.contains("video/1080p not made: the source has no more pixels than video/720p, 1280×720"), "{text}");
    let report: serde_json::Value = serde_json::from_slice(&run(["probe", "--json", clip]).stdout).unwrap();
    let sizes: Vec<_> = report["video"]["rungs"].as_array().unwrap().iter().map(|rung| &rung["height"]).collect();
    assert_eq!(sizes, [360, 480, 720]);
    assert_eq!(
        (&report["video"]["frame_rate"], &report["duration_s"]),
        (&serde_json::json!([25, 1]), &serde_json::json!(1.0))
    );
    // As a song.
    let report: serde_json::Value =
        serde_json::from_slice(&run(["probe", "--json", "--ladder", "audio", clip]).stdout).unwrap();
    assert!(report["video"].is_null() && report["codec"] == "AAC", "{report:#}");
    let wav = published().source_wav;
    refused(&["probe", wav.to_str().unwrap(), "--ladder", "video"], 1, &["it has no picture", "leave --ladder out"]);
    refused(&["probe", clip, "--ladder", "film"], 2, &["film", "cannot read the encoding plan"]);
    let plan = concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines/video.toml");
    let text = said(&run(["pipelines", "check", plan]));
    assert!(text.contains("video.toml is fine: 6 rungs"), "{text}");
}

#[test]
fn a_wrong_encoding_plan_is_refused_with_file_line_and_field() {
    let dir = tempfile::tempdir().unwrap();
    let plan = dir.path().join("plan.toml");
    let wav = published().source_wav;
    let good = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines/audio.toml")).unwrap();
    fs::write(&plan, good.replacen("bitrate_bps", "bitrate_bsp", 1)).unwrap();
    let plan = plan.to_str().unwrap();
    refused(&["pipelines", "check", plan], 2, &["plan.toml:", "bitrate_bsp"]);
    refused(&["publish", wav.to_str().unwrap(), "--ladder", plan], 2, &["plan.toml:", "bitrate_bsp"]);
    assert!(run(["pipelines", "check"]).status.success());
    // Each of several is told.
    let both = run(["pipelines", "check", plan, "/nonexistent.toml"]);
    let told = String::from_utf8_lossy(&both.stderr);
    assert!(both.status.code() == Some(2) && told.lines().count() == 2, "{told}");
    // A track's stable name leads to AAC.
    let lossless =
        good.split_once("[[rung]]").unwrap().0.to_owned() + "[[rung]]\ncodec = \"flac\"\nencoder = \"flacenc\"\n";
    fs::write(plan, lossless).unwrap();
    assert!(run(["pipelines", "check", plan]).status.success());
    refused(&["publish", "a.wav", "--ladder", plan], 2, &["plan.toml", "no AAC rung"]);
    refused(&["publish", "a.wav", "--preview-start", "-1"], 2, &["--preview-start", "-1"]);
}

#[test]
fn settings_are_checked_all_at_once_and_secrets_are_masked() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("segue.toml");
    fs::write(&file, "profile = \"production\"\n[server]\nio = \"magic\"\n[origin]\ntoken_ttl_s = 0\n").unwrap();
    let output = run(["config", "check", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    for word in ["server.io", "origin.token_ttl_s", "origin.keys.bunny"] {
        assert!(said(&output).contains(word), "{}", said(&output));
    }
    fs::write(&file, "[origin.keys]\nbunny = [\"hush-hush\"]\n").unwrap();
    let shown = run(["config", "show", "--config", file.to_str().unwrap()]);
    assert!(shown.status.success());
    assert!(!said(&shown).contains("hush-hush") && said(&shown).contains("(hidden)"));
}

#[test]
fn every_setting_is_in_the_documentation() {
    let docs = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/CONFIG.md")).unwrap();
    let tree: toml::Table = said(&run(["config", "show"])).parse().unwrap();
    let mut missing = Vec::new();
    let mut tables = vec![(String::new(), tree)];
    while let Some((prefix, table)) = tables.pop() {
        for (key, value) in table {
            match value {
                toml::Value::Table(inner) => tables.push((format!("{prefix}{key}."), inner)),
                _ if docs.contains(&format!("| `{prefix}{key}` |")) => {}
                _ => missing.push(format!("{prefix}{key}")),
            }
        }
    }
    assert!(missing.is_empty(), "docs/CONFIG.md does not explain {missing:?}");
}

#[test]
fn a_signed_url_is_explained() {
    let data = published().data;
    let data = data.to_str().unwrap();
    let sign = |args: &[&str]| {
        let output = run([&["sign", "--data", data], args].concat());
        (output.status.code().unwrap(), said(&output).trim_end().to_owned())
    };
    let (code, url) = sign(&["/a/trk_1/v/aac/master.m3u8", "--dir"]);
    assert_eq!(code, 0, "{url}");
    assert!(url.starts_with("/bcdn_token=HS256-") && url.ends_with("/a/trk_1/v/aac/master.m3u8"), "{url}");
    assert_eq!(sign(&["--explain", &url]).0, 0);
    let sibling = url.replace("/aac/master", "/flac/master");
    let (code, why) = sign(&["--explain", &sibling]);
    assert!(code == 1 && why.contains("another path"), "{why}");
    let (code, why) = sign(&["--explain", &url.replace("HS256-", "HS256-A")]);
    assert!(code == 1 && why.contains("cannot be read"), "{why}");
    let (_, query_form) = sign(&["https://cdn.example.com/a/x.mp4", "--expires", "60", "--ip", "192.0.2.7"]);
    assert_eq!(sign(&["--explain", &query_form, "--ip", "192.0.2.7"]).0, 0);
    assert_eq!(sign(&["--explain", &query_form, "--ip", "192.0.2.8"]).0, 1);
}

#[test]
fn a_second_server_on_the_same_address_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = crate::support::Server::start(dir.path(), &[], &[]);
    let taken = server.addr.to_string();
    let data = dir.path().to_str().unwrap();
    refused(&["serve", "--data", data, "--listen", &taken, "--admin-listen", "127.0.0.1:0"], 1, &[&taken, "--listen"]);
    let admin = server.admin.to_string();
    let args = ["serve", "--data", data, "--listen", "127.0.0.1:0", "--admin-listen", &admin];
    refused(&args, 1, &[&admin, "--admin-listen"]);
}

#[test]
fn signing_without_the_servers_key_is_refused_and_makes_none() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("elsewhere");
    refused(&["sign", "/a/x/y", "--data", data.to_str().unwrap()], 2, &["no signing key", "elsewhere"]);
    assert!(!data.exists());
}

#[test]
fn an_empty_directory_that_is_there_is_filled_and_not_replaced() {
    use std::os::unix::fs::MetadataExt as _;
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let before = fs::metadata(&out).unwrap().ino();
    let wav = tone(dir.path(), "tone.wav", &[]);
    // `--out .` in the directory itself: it must still be the same directory afterwards.
    let done = segue().current_dir(&out).args(["transcode", &wav, "--out", "."]).output().unwrap();
    assert!(done.status.success(), "{}", said(&done));
    assert_eq!(fs::metadata(&out).unwrap().ino(), before);
    assert!(out.join("version.json").exists() && out.join("aac/64/00000.mp4").exists());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left beside it");
}

#[test]
fn a_result_that_cannot_be_written_is_a_failure() {
    let data = published().data;
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let args = ["sign", "/a/x/y", "--data", data.to_str().unwrap()];
    let done = segue().args(args).stdout(full).output().unwrap();
    assert_eq!(done.status.code(), Some(1), "{}", said(&done));
    assert!(said(&done).contains("standard output"));
}

/// Five seconds of stereo tone in whatever format the name's ending asks ffmpeg for.
fn tone(dir: &Path, name: &str, more: &[&str]) -> String {
    let path = dir.join(name).to_str().unwrap().to_owned();
    let sine = "sine=frequency=330:sample_rate=44100:duration=5";
    let mut command = std::process::Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-f", "lavfi", "-i", sine, "-ac", "2"]).args(more).arg(&path);
    assert!(command.status().unwrap().success());
    path
}

#[test]
fn a_cut_or_joined_ogg_and_a_file_with_two_sounds_are_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let out = out.to_str().unwrap();
    for (name, codec) in [("a.ogg", "libvorbis"), ("b.opus", "libopus"), ("c.oga", "flac")] {
        let whole = tone(dir.path(), name, &["-c:a", codec]);
        let bytes = fs::read(&whole).unwrap();
        assert!(run(["probe", &whole]).status.success(), "{name} itself is fine");
        for kept in [bytes.len() * 6 / 10, bytes.len() - 1] {
            fs::write(&whole, &bytes[..kept]).unwrap();
            refused(&["transcode", &whole, "--out", out], 1, &["truncated", name, "upload the whole file"]);
        }
        fs::write(&whole, [bytes.as_slice(), &bytes].concat()).unwrap();
        refused(&["transcode", &whole, "--out", out], 1, &["joined", name]);
    }
    let one = tone(dir.path(), "one.m4a", &["-c:a", "aac"]);
    let two = dir.path().join("two.m4a").to_str().unwrap().to_owned();
    let join = ["-nostdin", "-v", "error", "-i", &one, "-i", &one, "-map", "0", "-map", "1", "-c", "copy", &two];
    assert!(std::process::Command::new("ffmpeg").args(join).status().unwrap().success());
    refused(&["transcode", &two, "--out", out], 1, &["2 audio streams", "two.m4a"]);
    refused(
        &["transcode", "http://127.0.0.1:1/a.wav", "--out", out],
        1,
        &["port 1", "add \"127.0.0.1:1\" to sources.allow_hosts"],
    );
}

/// A configuration with keys for every CDN, in a directory of its own.
fn every_key(dir: &Path) -> String {
    use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
    use base64::Engine as _;
    let pair = aws_lc_rs::signature::RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
    let der = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).unwrap();
    let body = base64::engine::general_purpose::STANDARD.encode(der.as_ref());
    let pem = dir.join("cloudfront.pem");
    fs::write(&pem, format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n")).unwrap();
    let file = dir.join("segue.toml");
    let text = format!(
        "[server]\npublic_base_url = \"https://media.example.com\"\n[origin]\nsecret_header = [\"X-S: hush-hush\"]\n\
         [origin.keys]\nbunny = [\"new\", \"old\"]\nbunny_legacy = [\"sha256\"]\ncloudflare = [\"flare\"]\n\
         cloudfront = [{{ id = \"K1\", key_file = {pem:?} }}]\n"
    );
    fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn what_is_signed_for_any_cdn_is_explained_as_valid_and_what_is_altered_is_not() {
    const URL: &str = "https://media.example.com/a/trk_1/v/aac/master.m3u8";
    let dir = tempfile::tempdir().unwrap();
    let config = every_key(dir.path());
    let sign = |args: &[&str]| {
        let output = run([&["sign", "--config", &config], args].concat());
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap().trim_end().to_owned())
    };
    for (options, scheme) in [
        (&["--cdn", "bunny"][..], "bunny HS256: valid"),
        (&["--cdn", "bunny", "--dir"], "bunny HS256: valid"),
        (&["--cdn", "bunny", "--dir", "--query"], "bunny HS256: valid"),
        (&["--cdn", "bunny", "--countries", "CA,US", "--limit", "500", "--ip", "192.0.2.7"], "token_countries=CA%2CUS"),
        (&["--cdn", "bunny", "--ignore-params"], "token_ignore_params=true"),
        (&["--cdn", "bunny-sha256", "--dir"], "bunny SHA-256 (legacy): valid"),
        (&["--cdn", "cloudfront"], "opens    https://media.example.com/a/trk_1/v/aac/master.m3u8"),
        (&["--cdn", "cloudfront", "--dir"], "opens    https://media.example.com/a/trk_1/v/aac/*"),
        (&["--cdn", "cloudfront", "--ip", "192.0.2.7"], "bound to 192.0.2.7/32"),
        (&["--cdn", "cloudflare"], "cloudflare: valid"),
        (&["--cdn", "cloudflare", "--dir", "--expires", "60"], "opens    /a/trk_1/v/aac/\n"),
    ] {
        let (code, url) = sign(&[&[URL], options].concat());
        assert_eq!(code, 0, "{options:?}");
        let (code, why) = sign(&["--explain", &url, "--ip", "192.0.2.7"]);
        assert!(code == 0 && why.starts_with("valid: it opens /a/trk_1/v/aac/master.m3u8"), "{why}");
        assert!(why.contains(scheme) && why.contains("the first (current) key"), "{options:?}: {why}");
        let (code, why) = sign(&["--explain", &url.replace("trk_1/v", "trk_2/v"), "--ip", "192.0.2.7"]);
        assert!(code == 1 && why.starts_with("not valid") && !why.contains(": valid"), "{options:?}: {why}");
        if options.contains(&"--ip") {
            let (code, why) = sign(&["--explain", &url, "--ip", "192.0.2.8"]);
            assert!(code == 1 && why.contains("another address"), "{options:?}: {why}");
        }
    }
    let (_, cookies) = sign(&[URL, "--cdn", "cloudfront", "--dir", "--cookies"]);
    let attributes = "; Path=/a/trk_1/v/aac/; Secure; HttpOnly";
    let pairs =
        cookies.lines().map(|line| line.strip_prefix("Set-Cookie: ").unwrap().strip_suffix(attributes).unwrap());
    let header = pairs.collect::<Vec<_>>().join("; ");
    let (code, why) = sign(&["--explain", URL, "--cookie", &header]);
    assert!(code == 0 && why.contains("cloudfront (cookies): valid"), "{why}");
    let (code, why) = sign(&["--explain", URL]);
    assert!(code == 1 && why.starts_with("not valid: there is no token"), "{why}");
}

#[test]
fn what_cannot_be_signed_is_refused_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let config = every_key(dir.path());
    let sign = |args: &[&str], word: &str| refused(&[&["sign", "--config", &config], args].concat(), 2, &[word]);
    sign(&[""], "no path");
    sign(&["/a/../b"], "..");
    sign(&["/a/b\nc"], "characters");
    sign(&["/a/b\u{7}"], "characters");
    sign(&["/a/\u{e9}"], "characters");
    sign(&["gopher://h/a"], "http:// or https://");
    sign(&["/a/b?token=x"], "plain URL");
    sign(&["/bcdn_token=x&expires=1/a/b"], "plain URL");
    sign(&["/a/b", "--cdn", "cloudflare", "--ip", "192.0.2.1"], "--ip");
    sign(&["/a/b", "--cdn", "cloudflare", "--expires", "999999"], "origin.token_ttl_s");
    sign(&["/a/b", "--cdn", "cloudfront", "--countries", "CA"], "--countries");
    sign(&["/a/b", "--cookies"], "--cookies");
    sign(&["/a/b", "--cdn", "bunny-sha256", "--ip", "192.0.2.1"], "HS256");
    sign(&["/a/b", "--cdn", "akamai"], "akamai");
    sign(&["/a/b", "--expires", "0"], "--expires");
    sign(&["/a/b", "--expires", "-5"], "-5");
    sign(&["/a/b", "--limit", "0"], "--limit");
    sign(&["/a/b", "--countries", ""], "two capital letters");
    sign(&["/a/b", "--countries", "ca"], "CA,US");
    sign(&["/a/b", "--countries-blocked", "CA US"], "CA,US");
    let elsewhere = dir.path().join("elsewhere");
    let elsewhere = elsewhere.to_str().unwrap();
    refused(&["sign", "/a/b", "--cdn", "cloudfront", "--data", elsewhere], 2, &["origin.keys.cloudfront"]);
    refused(&["sign", "/a/b", "--cdn", "cloudflare", "--data", elsewhere], 2, &["origin.keys.cloudflare"]);
    let help = said(&run(["sign", "--help"]));
    for word in ["Examples:", "--explain", "--cookies", "cloudfront", "docs/SIGNING.md"] {
        assert!(help.contains(word), "{help}");
    }
}

/// Never unsigned by accident: each of these is named, with what it would mean, and the server does not start.
#[test]
fn settings_about_tokens_that_cannot_be_meant_are_all_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("segue.toml");
    let wrong = "[origin]\ncdn = \"cloudflare\"\nsecret_header = [\"X-Secret:\"]\n[origin.keys]\nbunny = [\"\"]\n\
        bunny_legacy = [\"sha1\"]\ncloudfront = [{ id = \"K1\", key_file = \"/nonexistent/key.pem\" }, { id = \"\", key_file = \"x\" }]\n";
    fs::write(&file, wrong).unwrap();
    let config = file.to_str().unwrap();
    let output = run(["config", "check", "--config", config]);
    assert_eq!(output.status.code(), Some(2));
    for words in [
        "origin.keys.bunny holds an empty key",
        "origin.keys.bunny_legacy knows sha256 and md5",
        "server.public_base_url and cdn.base_url are unset",
        "/nonexistent/key.pem",
        "origin.keys.cloudfront has the id \"\"",
        "origin.secret_header cannot be used: the value of x-secret is empty",
        "origin.keys.cloudflare is unset",
        "origin.token_form is path",
    ] {
        assert!(said(&output).contains(words), "{words}: {}", said(&output));
    }
    let data = dir.path().join("data");
    let data = data.to_str().unwrap();
    refused(&["serve", "--config", config, "--data", data], 2, &["origin.keys.bunny holds an empty key"]);
    let config = every_key(dir.path());
    let shown = said(&run(["config", "show", "--config", &config]));
    for secret in ["hush-hush", "\"new\"", "\"old\"", "\"flare\""] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[test]
fn the_health_of_a_server_is_asked_without_other_programs() {
    let dir = tempfile::tempdir().unwrap();
    let server = crate::support::Server::start(dir.path(), &["--role", "origin"], &[]);
    let admin = server.admin.to_string();
    let alive = run(["health", "--admin-listen", &admin]);
    assert!(alive.status.success() && said(&alive) == "alive\n", "{}", said(&alive));
    // A container's health check has the image's settings and no flags.
    let ready = segue().args(["health", "--ready"]).env("SEGUE_SERVER__ADMIN_LISTEN", &admin).output().unwrap();
    assert!(ready.status.success() && said(&ready).contains("\"ready\":true"), "{}", said(&ready));
    drop(server);
    refused(&["health", "--admin-listen", &admin], 1, &[&admin, "no server answers"]);
    refused(&["health", "--admin-listen", "localhost"], 2, &["--admin-listen"]);
}
