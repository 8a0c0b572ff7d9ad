//! Real players in a real browser: what a listener gets from the running server, tokens and all.
//!
//! The browser side is `tests/browser/play.mjs`: it drives Chromium, checks, and prints one line of JSON with
//! everything that went wrong. Here we start it against a server. Recordings have the machine to themselves,
//! as far as browsers go: a starved audio clock would be heard in them.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::support::{Served, Server, published, published_server, published_server_with, run, said};
use crate::tracks::site::{JSON, Site, Who, wav};

#[test]
fn the_watch_page_plays_seeks_changes_rungs_and_ends() {
    let served = published_server();
    play("watch", &served.watch, &served, &[]);
}

/// The page waits while a track is prepared, names what went wrong, and plays when asked to try again.
#[test]
fn the_watch_page_waits_explains_and_recovers() {
    let served = published_server();
    play("trouble", &served.watch, &served, &[]);
}

#[test]
fn hls_js_plays_the_aac_ladder_from_another_origin() {
    let served = published_server();
    play("hls", &served.aac_master, &served, &[]);
}

#[test]
fn hls_js_plays_the_flac_playlist_from_another_origin() {
    let served = published_server();
    play("hls", &served.flac_master, &served, &[]);
}

#[test]
fn shaka_plays_the_aac_ladder() {
    let served = published_server();
    play("shaka", &served.aac_master, &served, &[]);
}

#[test]
fn shaka_plays_the_flac_playlist() {
    let served = published_server();
    play("shaka", &served.flac_master, &served, &[]);
}

#[test]
fn hls_js_hands_a_query_token_on_to_every_child() {
    let (served, master) = query_token_server();
    play("hls", &master, &served, &[]);
}

#[test]
fn shaka_hands_a_query_token_on_to_every_child() {
    let (served, master) = query_token_server();
    play("shaka", &master, &served, &[]);
}

/// Tokens in the query: the master is signed, and the playlists hand its parameters on by `EXT-X-DEFINE`.
fn query_token_server() -> (Served, String) {
    let published = published();
    let signed = published.report["master_url"].as_str().unwrap();
    let path = &signed[signed.find("/a/").unwrap()..];
    let done = run(["sign", path, "--dir", "--query", "--data", published.data.to_str().unwrap()]);
    assert!(done.status.success(), "{}", said(&done));
    let served = published_server_with(&[("SEGUE_ORIGIN__TOKEN_FORM", "query")]);
    let master = format!("http://{}{}", served.server.addr, String::from_utf8(done.stdout).unwrap().trim());
    (served, master)
}

/// The order of the tour is lowest, highest, second, …: AAC to FLAC and back in one session.
#[test]
fn shaka_changes_between_aac_and_flac_in_the_mixed_playlist() {
    let served = published_server();
    play("shaka", &served.all_master, &served, &[]);
}

#[test]
fn flac_is_heard_bit_exact_from_the_first_sample_to_the_last() {
    let served = published_server();
    play("record", &served.flac_master, &served, &["--lossless"]);
}

/// Every segment comes from another rung. One constant lag means that no change of rung drops, repeats or
/// inserts a sample, and that the encoder's priming is never heard.
#[test]
fn aac_is_heard_without_a_gap_while_the_rung_changes_at_every_segment() {
    let served = published_server();
    play("record", &served.aac_master, &served, &["--cycle"]);
}

/// A film of three sizes with two sounds, from another origin: every size is seen, at once and after seeking.
#[test]
fn hls_js_plays_a_film_and_changes_its_size() {
    let film = FilmServed::start();
    play_url("hls", &film.master, film.length, &["--film"]);
}

#[test]
fn shaka_plays_a_film_and_changes_its_size() {
    let film = FilmServed::start();
    play_url("shaka", &film.master, film.length, &["--film"]);
}

#[test]
fn the_page_of_a_film_shows_its_still_plays_and_ends() {
    let film = FilmServed::start();
    play_url("film", &film.page, film.length, &[]);
}

/// In a frame of another site, by mouse and by keys.
#[test]
fn the_player_in_a_frame_plays_the_preview_by_mouse_and_by_keys() {
    let site = Site::new();
    let api = site.serve();
    let id = api.track(&serde_json::json!({}), "published");
    play_url("embed", &format!("http://{}/embed/track/{id}", api.addr), (1, 1), &[]);
}

#[test]
fn the_studio_takes_a_file_from_the_disk_to_a_published_track() {
    let site = Site::new();
    let api = site.serve();
    let file = site.directory.path().join("First light.wav");
    std::fs::write(&file, wav(12, 440.0)).unwrap();
    let url = format!("http://{}/studio", api.addr);
    play_url("studio", &url, (1, 1), &["--key", site.key(1), "--file", file.to_str().unwrap()]);
}

/// The same by somebody who logs in: cookies that no script reads, another access token when one is over, an archive.
#[test]
fn the_studio_is_entered_by_password_and_keeps_the_session_from_scripts() {
    let site = Site::new();
    let api = site.serve();
    let file = site.directory.path().join("First light.wav");
    std::fs::write(&file, wav(12, 440.0)).unwrap();
    let (email, password) = crate::auth::creator(&site.data());
    let url = format!("http://{}/studio", api.addr);
    let password = format!("--password={password}"); // it may begin with a dash
    let who = ["--email", email.as_str(), &password, "--file", file.to_str().unwrap()];
    play_url("studio", &url, (1, 1), &who);
}

/// Product A1, T6, T7: registers, follows the link, publishes, leaves, comes back.
#[test]
fn an_account_begins_and_ends_and_comes_back_on_its_pages() {
    let site = crate::auth::Site::embedded();
    let api = site.serve();
    let who = ["--email", "maria@example.org", "--password", crate::auth::PASSWORD, "--visit"];
    let visit = |page: &str, visit: &str| {
        let url = format!("http://{}/account/{page}", api.addr);
        play_url("account", &url, (1, 1), &[&who[..], &[visit]].concat());
    };
    visit("register", "register");
    visit(&format!("verify#{}", api.link("maria@example.org", 0)), "verify");
    visit(&format!("keep#{}", api.link("maria@example.org", 1)), "keep");
}

/// Product T5, T7: the queue of notices behind a second factor, jobs that are tried again, who works.
#[test]
fn the_desk_of_an_admin_rules_on_notices_and_tries_jobs_again() {
    let site = Site::new();
    let inbox = site.directory.path().join("inbox");
    std::fs::create_dir(&inbox).unwrap();
    std::fs::write(inbox.join("no-song.wav"), "these are words").unwrap();
    let site = site.with("SEGUE_API__SOURCE_DIRS", &format!("[{:?}]", inbox.to_str().unwrap()));
    let api = site.serve();
    let track = api.track(&json!({}), "published");
    let wish = json!({ "source": inbox.join("no-song.wav") }).to_string();
    let key = [JSON, ("Idempotency-Key", "1")];
    let enqueued = api.send(Who::One, "POST", "/api/v1/transcodes", &key, wish.as_bytes());
    assert_eq!(enqueued.status, 202, "{}", enqueued.text());
    let job: serde_json::Value = serde_json::from_slice(&enqueued.body).unwrap();
    let job = job["id"].as_str().unwrap();
    while api.shown(Who::One, &format!("/api/v1/transcodes/{job}"))["state"] != "dead" {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let notice = json!({
        "signature": "Ada Lovelace", "work": "Notes on the Engine", "location": format!("http://{}/watch/{track}", api.addr),
        "name": "Ada Lovelace", "address": "12 St James's Square, London", "phone": "+44 20 0000 0000",
        "email": "ada@example.com", "good_faith_statement": true, "sworn_statement": true,
    });
    assert_eq!(api.json(Who::Nobody, "POST", "/api/v1/dmca/notice", &notice).0, 201);
    let (_, password, authenticator) = crate::auth::admin(api.addr, &site.data());
    let url = format!("http://{}/admin", api.addr);
    let password = format!("--password={password}"); // it may begin with a dash
    let who = ["--email", "admin@example.org", &password, "--secret", authenticator.secret()];
    play_url("admin", &url, (1, 1), &[&who[..], &["--track", &track, "--job", job]].concat());
}

/// A published film behind a server with tokens.
struct FilmServed {
    master: String,
    page: String,
    /// Samples, and their rate.
    length: (u64, u32),
    _server: Server,
    _data: tempfile::TempDir,
}

impl FilmServed {
    fn start() -> FilmServed {
        let dir = tempfile::tempdir().unwrap();
        let clip = dir.path().join("clip.mp4");
        let made = Command::new("ffmpeg")
            .args(["-nostdin", "-v", "error", "-f", "lavfi", "-i", "testsrc2=size=480x270:rate=25:duration=16"])
            .args(["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=44100:duration=16"])
            .args(["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "aac", "-ac", "2"])
            .arg(&clip)
            .status()
            .unwrap();
        assert!(made.success());
        let ladder = dir.path().join("ladder.toml");
        std::fs::write(&ladder, ladder_of_three()).unwrap();
        let done = run(["publish", "--json", "--ladder", ladder.to_str().unwrap(), "--data"]
            .into_iter()
            .map(std::ffi::OsString::from)
            .chain([dir.path().join("data").into(), clip.into()]));
        assert!(done.status.success(), "{}", said(&done));
        let report: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
        let server = Server::start(&dir.path().join("data"), &[], &[]);
        let base = format!("http://{}", server.addr);
        FilmServed {
            master: format!("{base}{}", report["master_url"].as_str().unwrap()),
            page: format!("{base}/watch/{}", report["track_id"].as_str().unwrap()),
            length: (report["samples"].as_u64().unwrap(), report["rate"].as_u64().unwrap() as u32),
            _server: server,
            _data: dir,
        }
    }
}

/// The built-in film ladder with small sizes and segments of two seconds, so that a short clip has many.
fn ladder_of_three() -> String {
    let text = include_str!("../../pipelines/video.toml");
    let head = text.split("[[rung]]").next().unwrap();
    let head =
        head.replace("frames_44100 = 260", "frames_44100 = 88").replace("frames_48000 = 288", "frames_48000 = 96");
    let rung = |name: &str, width: u32, height: u32, audio: &str| {
        format!(
            "[[rung]]\nname = \"{name}\"\nwidth = {width}\nheight = {height}\nquality = 24\n\
             bitrate_bps = {}\naudio = \"{audio}\"\n",
            width * 1000
        )
    };
    [head.to_owned(), rung("90p", 160, 90, "96"), rung("180p", 320, 180, "96"), rung("270p", 480, 270, "160")].concat()
}

/// Runs one scenario to its end; fails with the line it printed, which names everything that went wrong.
fn play(scenario: &str, url: &str, served: &Served, more: &[&str]) {
    let wav = served.source_wav.to_str().unwrap();
    play_url(scenario, url, (served.samples, served.rate), &[&["--wav", wav], more].concat());
}

fn play_url(scenario: &str, url: &str, (samples, rate): (u64, u32), more: &[&str]) {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser");
    assert!(scripts.join("node_modules").exists(), "the players are not installed: run `make browser-modules`");
    // A file, not a mutex: nextest gives every test a process of its own.
    let turn = File::create(Path::new(env!("CARGO_TARGET_TMPDIR")).join("browser.lock")).unwrap();
    if scenario == "record" { turn.lock() } else { turn.lock_shared() }.unwrap();
    let done = Command::new("node")
        .current_dir(&scripts)
        .args(["play.mjs", "--scenario", scenario, "--url", url])
        .args(["--samples", &samples.to_string(), "--rate", &rate.to_string()])
        .args(more)
        .stdin(Stdio::null())
        .output() // play.mjs ends itself after 90 s
        .expect("node starts");
    drop(turn);
    let line = String::from_utf8_lossy(&done.stdout);
    let report: serde_json::Value = serde_json::from_str(line.trim()).unwrap_or_default();
    let fine = done.status.success() && report["ok"] == true;
    assert!(fine, "{scenario} {url}: {line}{}", String::from_utf8_lossy(&done.stderr));
}
