//! The queue from outside: the command line, workers that are killed, drained and told to stop, and the API.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::postgres::Postgres;
use crate::support::{Reply, Server, run, said, segue};

/// A data directory, and a database: the embedded one or a PostgreSQL server's.
pub(crate) struct Site {
    directory: tempfile::TempDir,
    server: Option<Postgres>,
    env: Vec<(String, String)>,
}

impl Site {
    pub(crate) fn embedded() -> Site {
        let env = [("SEGUE_WORKER__POLL_MS", "50"), ("SEGUE_WORKER__LEASE_S", "3"), ("SEGUE_WORKER__BACKOFF_S", "1")];
        let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Site { directory: tempfile::tempdir().unwrap(), server: None, env }
    }

    pub(crate) fn on_postgresql() -> Site {
        let mut site = Site::embedded();
        let server = Postgres::start();
        site.env.push(("DATABASE_URL".into(), server.database("site")));
        site.server = Some(server);
        site
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Site {
        self.env.push((name.into(), value.into()));
        self
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// A stereo WAV of noise in three tones, long enough to be interrupted.
    fn wav(&self, name: &str, seconds: u32) -> PathBuf {
        self.wav_of(name, seconds, 44_100, 2)
    }

    pub(crate) fn wav_of(&self, name: &str, seconds: u32, rate: u32, channels: u16) -> PathBuf {
        let path = self.directory.path().join(name);
        let frame = 2 * u32::from(channels);
        let bytes = seconds * rate * frame;
        let mut wav = Vec::with_capacity(bytes as usize + 44);
        wav.extend(b"RIFF");
        wav.extend((bytes + 36).to_le_bytes());
        wav.extend(b"WAVEfmt ");
        let format = [1, 0, channels as u8, 0];
        for field in
            [16u32.to_le_bytes(), format, rate.to_le_bytes(), (rate * frame).to_le_bytes(), [frame as u8, 0, 16, 0]]
        {
            wav.extend(field);
        }
        wav.extend(b"data");
        wav.extend(bytes.to_le_bytes());
        let mut noise = 1u32;
        for n in 0..seconds * rate {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let tone = ((f64::from(n) * 0.03).sin() * 8000.0) as i16 + (noise >> 20) as i16;
            for channel in 0..channels as i16 {
                wav.extend((tone / (channel + 1)).to_le_bytes());
            }
        }
        fs::write(&path, wav).unwrap();
        path
    }

    fn command<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = segue();
        command.args(args).arg("--data").arg(self.data()).envs(self.env.iter().map(|(n, v)| (n, v)));
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command that has to work and returns what it printed.
    pub(crate) fn ok<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same for commands that know no data directory.
    fn ok_without_data<const N: usize>(&self, args: [&str; N]) -> String {
        let output = run(args);
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn enqueue(&self, file: &Path, more: &[&str]) -> Value {
        let mut args = vec!["jobs", "enqueue", file.to_str().unwrap(), "--json"];
        args.extend(more);
        serde_json::from_str(&self.ok(args)).unwrap()
    }

    pub(crate) fn show(&self, id: &str) -> Value {
        serde_json::from_str(&self.ok(["jobs", "show", id, "--json"])).unwrap()
    }

    /// The same, dead or not.
    fn until_any(&self, id: &str, done: impl Fn(&Value) -> bool) -> Value {
        loop {
            let job = self.show(id);
            if done(&job) {
                return job;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the job is as wanted; the test runner's own limit ends a wait that is in vain.
    pub(crate) fn until(&self, id: &str, done: impl Fn(&Value) -> bool) -> Value {
        loop {
            let job = self.show(id);
            if done(&job) {
                return job;
            }
            assert_ne!(job["state"], "dead", "{job:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn worker(&self) -> Worker {
        self.worker_with(&[])
    }

    pub(crate) fn worker_with(&self, env: &[(&str, &str)]) -> Worker {
        let mut child = self
            .command(["serve", "--role", "worker", "--admin-listen", "127.0.0.1:0"])
            .envs(env.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let admin = loop {
            let line = lines.next().expect("the worker says where it listens before it ends").unwrap();
            if let Some(text) = line.strip_prefix("admin on http://") {
                break text.split_whitespace().next().unwrap().parse().unwrap();
            }
        };
        std::thread::spawn(move || lines.for_each(drop));
        Worker { child, admin }
    }

    pub(crate) fn serve(&self) -> Server {
        let env: Vec<_> = self.env.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        Server::start(&self.data(), &[], &env)
    }

    /// Versions that are there and that no other one was to replace.
    fn versions(&self, track: &str) -> usize {
        let interims = self.interims();
        let names = fs::read_dir(self.data().join("store/v").join(track)).into_iter().flatten();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|version| !interims.contains(&format!("{track}.{version}"))).count()
    }

    pub(crate) fn record(&self, track: &str) -> PathBuf {
        self.data().join(format!("store/tracks/{track}.json"))
    }

    /// Versions that another is to replace, as they are noted.
    pub(crate) fn interims(&self) -> Vec<String> {
        let notes = fs::read_dir(self.data().join("store/interim"));
        notes.into_iter().flatten().map(|note| note.unwrap().file_name().into_string().unwrap()).collect()
    }

    pub(crate) fn staged(&self) -> usize {
        fs::read_dir(self.data().join("store/staging")).map_or(0, Iterator::count)
    }
}

pub(crate) struct Worker {
    child: Child,
    admin: SocketAddr,
}

impl Worker {
    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    fn metrics(&self) -> String {
        crate::support::request(self.admin, "GET", "/metrics", &[]).text()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn events(job: &Value) -> Vec<&str> {
    job["events"].as_array().unwrap().iter().map(|event| event["event"].as_str().unwrap()).collect()
}

#[test]
fn a_file_that_is_enqueued_becomes_a_track() {
    let site = Site::embedded();
    let wav = site.wav("First light.wav", 6);
    let queued = site.enqueue(&wav, &["--idempotency-key", "k1", "--priority", "9"]);
    let (id, track) = (queued["id"].as_str().unwrap(), queued["track"].as_str().unwrap());
    assert_eq!(
        site.enqueue(&wav, &["--idempotency-key", "k1", "--priority", "9"])["id"],
        id,
        "the same key is the same job"
    );
    let other =
        site.command(["jobs", "enqueue", wav.to_str().unwrap(), "--idempotency-key", "k1", "--title", "x"]).output();
    let other = other.unwrap();
    assert!(other.status.code() == Some(2) && said(&other).contains(id), "{}", said(&other));
    let listed = site.ok(["jobs", "list"]);
    assert!(listed.contains(id) && listed.contains("queued") && listed.contains("First light"), "{listed}");

    let server = site.serve();
    let job = site.until(id, |job| job["state"] == "succeeded");
    assert_eq!(events(&job), ["queued", "started", "rung", "rung", "rung", "rung", "rung", "published", "succeeded"]);
    assert_eq!((&job["attempt"], &job["progress"], &job["output"]["track"]), (&json!(1), &json!(1.0), &json!(track)));
    let redirect = server.get(&format!("/tracks/{track}/master.m3u8"));
    assert_eq!(redirect.status, 302, "{}", redirect.head);
    assert_eq!(server.get(redirect.header("location").unwrap()).status, 200);

    // One rung again: the same bytes, so the same version, and nothing else is touched.
    site.ok(["jobs", "retry", id, "--rung", "aac/96"]);
    let again = site.until(id, |job| job["state"] == "succeeded");
    assert_eq!(again["output"]["version"], job["output"]["version"], "{again:#}");
    assert_eq!((&again["rungs"], &again["attempt"]), (&json!(["aac/96"]), &json!(2)));
    assert_eq!(site.versions(track), 1);
    let metrics = crate::support::request(server.admin, "GET", "/metrics", &[]).text();
    assert!(metrics.contains("segue_job_attempts_total{outcome=\"succeeded\"} 2"), "{metrics}");
    assert!(metrics.contains("segue_transcode_realtime_factor_count 2"));
}

/// A worker decides by what the file holds; the ladder of a film is one that belongs together.
#[test]
fn a_film_that_is_enqueued_becomes_a_film() {
    let site = Site::embedded();
    let clip = site.directory.path().join("clip.mp4");
    let made = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-f", "lavfi", "-i", "testsrc2=size=160x90:rate=25:duration=2"])
        .args([
            "-f",
            "lavfi",
            "-i",
            "sine=duration=2",
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
    let server = site.serve();
    let job = site.enqueue(&clip, &[]);
    let id = job["id"].as_str().unwrap();
    let done = site.until(id, |job| job["state"] == "succeeded");
    let told = done["events"].to_string();
    assert!(told.contains("video/90p") && told.contains("aac/96"), "{done:#}");
    let track = done["output"]["track"].as_str().unwrap();
    let alias = server.get(&format!("/tracks/{track}/master.m3u8"));
    let location = alias.header("location").unwrap();
    assert!(location.ends_with("/video/master.m3u8"), "{location}");
    let master = server.get(location);
    assert_eq!((master.status, master.header("content-type")), (200, Some("application/vnd.apple.mpegurl")));
    let init = server.get(&location.replace("video/master.m3u8", "video/90p/init.mp4"));
    assert_eq!((init.status, init.header("content-type")), (200, Some("video/mp4")));
    let version = done["output"]["version"].as_str().unwrap();
    let poster = server.get(&format!("/p/{track}/{version}/poster.jpg"));
    assert_eq!((poster.status, poster.header("content-type")), (200, Some("image/jpeg")));
    assert!(server.get(&format!("/watch/{track}")).text().contains("<video"));
    // Its rungs belong together: one of them alone is not made again, and the track stays as it is.
    site.ok(["jobs", "retry", id, "--rung", "aac/96"]);
    let again = site.until_any(id, |job| job["state"] == "dead");
    assert!(again["error"].to_string().contains("retry the whole job"), "{again:#}");
    assert_eq!(
        server.get(&format!("/tracks/{track}/master.m3u8")).header("location").map(str::len),
        Some(location.len())
    );
}

#[test]
fn errors_of_the_queue_say_what_to_do() {
    let site = Site::embedded();
    let check = |args: &[&str], code: i32, words: &[&str]| {
        let output = site.command(args).output().unwrap();
        let text = said(&output);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        assert!(words.iter().all(|word| text.contains(word)) && text.lines().count() == 1, "{args:?}: {text}");
    };
    let unknown = "job_01hq0000000000000000000000";
    check(&["jobs", "list"], 1, &["there is no database", "--data"]);
    assert!(!site.data().exists(), "looking makes nothing");
    check(&["jobs", "enqueue", "nothing.wav"], 1, &["no such file"]);
    assert!(!site.data().exists());
    site.ok(["migrate"]);
    let scripts = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/db/schema")).unwrap().count();
    check(&["migrate", "--check"], 0, &[&format!("{scripts} of {scripts}")]);
    check(&["jobs", "show", unknown], 1, &["there is no job", "segue jobs list"]);
    check(&["jobs", "show", "nonsense"], 2, &["job_ and 26 characters"]);
    check(&["jobs", "list", "--state", "odd"], 2, &["succeeded"]);
    let wav = site.wav("a.wav", 1);
    let wav = wav.to_str().unwrap();
    check(&["jobs", "enqueue", wav, "--callback", "https://example.com/x"], 2, &["callbacks.secrets"]);
    check(&["jobs", "enqueue", wav, "--priority", "10"], 2, &["--priority"]);
    check(&["jobs", "enqueue", wav, "--title", ""], 2, &["--title"]);
    let id = site.enqueue(Path::new(wav), &[])["id"].as_str().unwrap().to_owned();
    check(&["jobs", "retry", &id], 1, &["queued", "cancel it first"]);
    check(&["jobs", "cancel", &id], 0, &["is cancelled"]);
    check(&["jobs", "cancel", &id], 1, &["already ended"]);
    check(&["jobs", "retry", &id, "--rung", "aac/97"], 2, &["aac/97", "flac"]);
    check(&["jobs", "retry", &id], 0, &["in the queue again"]);
    let wrong = run(["jobs", "list", "--data", site.data().to_str().unwrap()]);
    assert!(wrong.status.success());
    let mysql = segue().args(["config", "check"]).env("DATABASE_URL", "mysql://me:hush@db/x").output().unwrap();
    assert!(mysql.status.code() == Some(2) && said(&mysql).contains("database.url") && !said(&mysql).contains("hush"));
    let shown = segue().args(["config", "show"]).env("DATABASE_URL", "postgres://me:hush@db/x").output().unwrap();
    assert!(
        shown.status.success() && said(&shown).contains("db/x") && !said(&shown).contains("hush"),
        "{}",
        said(&shown)
    );
}

/// SIGKILL at different moments of a transcode: another worker takes over when the lease has ended, and the
/// track gets exactly one version, whole.
#[test]
fn a_worker_that_is_killed_loses_nothing() {
    let site = Site::on_postgresql();
    let wav = site.wav("long.wav", 20);
    for (round, wait_ms) in [0, 200, 600].into_iter().enumerate() {
        let queued = site.enqueue(&wav, &["--title", &format!("round {round}")]);
        let (id, track) = (queued["id"].as_str().unwrap(), queued["track"].as_str().unwrap());
        let mut victim = site.worker();
        site.until(id, |job| job["state"] == "leased");
        std::thread::sleep(Duration::from_millis(wait_ms));
        victim.child.kill().unwrap();
        victim.child.wait().unwrap();
        let job = site.show(id);
        let published = job["state"] == "succeeded";
        assert!(
            published || site.versions(track) == 0 || !site.data().join(format!("store/tracks/{track}.json")).exists()
        );

        let heir = site.worker();
        let job = site.until(id, |job| job["state"] == "succeeded");
        assert_eq!(site.versions(track), 1, "round {round}");
        assert_eq!(events(&job).iter().filter(|event| **event == "published").count(), 1, "{job:#}");
        if !published {
            assert_eq!((&job["attempt"], &job["failures"]), (&json!(2), &json!(1)), "{job:#}");
            assert!(events(&job).contains(&"failed") && job["error"].is_null());
            assert!(heir.metrics().contains("segue_job_attempts_total{outcome=\"lost\"} 1"), "round {round}");
        }
        heir.signal("TERM");
    }
    let worker = site.worker();
    while site.staged() > 0 {
        std::thread::sleep(Duration::from_millis(50)); // the sweep at its start
    }
    drop(worker);
}

#[test]
fn a_worker_that_stops_hands_back_and_one_that_is_told_to_stop_cancels() {
    let site = Site::on_postgresql();
    let wav = site.wav("long.wav", 120);
    let id = site.enqueue(&wav, &[])["id"].as_str().unwrap().to_owned();
    let mut worker = site.worker();
    site.until(&id, |job| {
        job["progress"].as_f64().is_some_and(|progress| progress > 0.0) || job["state"] == "succeeded"
    });
    worker.signal("TERM");
    assert!(worker.child.wait().unwrap().success());
    let job = site.show(&id);
    assert_eq!((&job["state"], &job["failures"]), (&json!("queued"), &json!(0)), "{job:#}");
    assert!(events(&job).contains(&"handed_back"));
    assert_eq!(site.staged(), 0, "nothing is left of the attempt");

    let worker = site.worker();
    site.until(&id, |job| job["state"] == "leased" && job["attempt"] == 2);
    let told = site.ok(["jobs", "cancel", &id]);
    assert!(told.contains("heartbeat"), "{told}");
    let job = site.until(&id, |job| job["state"] == "cancelled");
    assert!(job["output"].is_null() && job["finished_at"].is_string());
    assert!(worker.metrics().contains("segue_job_attempts_total{outcome=\"cancelled\"} 1"));
    let ready = crate::support::request(worker.admin, "GET", "/readyz", &[]);
    assert_eq!(ready.status, 200, "{}", ready.text());
}

#[test]
fn what_is_not_audio_is_refused_once_and_in_words() {
    let site = Site::embedded();
    let wav = site.wav("soon gone.wav", 1);
    let gone = site.enqueue(&wav, &[])["id"].as_str().unwrap().to_owned();
    fs::remove_file(&wav).unwrap();
    let worker = site.worker();
    let job = loop {
        let job = site.show(&gone);
        if job["state"] == "dead" {
            break job;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(
        (&job["reason"], &job["failures"], &job["attempt"]),
        (&json!("missing"), &json!(1), &json!(1)),
        "{job:#}"
    );
    assert!(job["error"].as_str().unwrap().contains("no such file"), "{job:#}");
    while !worker.metrics().contains("segue_jobs_dead 1") {
        std::thread::sleep(Duration::from_millis(100)); // sampled every few seconds
    }
    assert!(worker.metrics().contains("segue_job_failures_total{reason=\"missing\"} 1"));
}

/// A worker that was asleep for longer than its lease wakes up, finds that another did its work, and changes
/// nothing.
#[test]
fn a_worker_that_slept_too_long_changes_nothing() {
    let site = Site::on_postgresql();
    let wav = site.wav("long.wav", 40);
    let id = site.enqueue(&wav, &[])["id"].as_str().unwrap().to_owned();
    let zombie = site.worker();
    site.until(&id, |job| job["state"] == "leased");
    zombie.signal("STOP");
    let _heir = site.worker();
    site.until(&id, |job| job["attempt"] == 2);
    zombie.signal("CONT"); // most likely while the heir works
    while !zombie.metrics().contains("segue_job_attempts_total{outcome=\"superseded\"} 1") {
        std::thread::sleep(Duration::from_millis(50));
    }
    let job = site.until(&id, |job| job["state"] == "succeeded");
    assert_eq!((&job["attempt"], &job["failures"]), (&json!(2), &json!(1)), "{job:#}");
    assert_eq!(events(&job).iter().filter(|event| **event == "published").count(), 1, "{job:#}");
    assert_eq!(site.versions(job["track"].as_str().unwrap()), 1);
    drop(zombie);
    assert_eq!(site.show(&id)["events"], job["events"], "nothing happened after the end");
}

/// The database goes away in mid-transcode and comes back: the attempt goes on, and nothing is done twice.
#[test]
fn a_database_that_is_away_for_a_moment_costs_no_attempt() {
    let mut site = Site::on_postgresql().with("SEGUE_WORKER__LEASE_S", "60");
    let wav = site.wav("long.wav", 60);
    let id = site.enqueue(&wav, &[])["id"].as_str().unwrap().to_owned();
    let worker = site.worker();
    site.until(&id, |job| job["state"] == "leased");
    site.server.as_mut().unwrap().stop();
    let readiness = || crate::support::request(worker.admin, "GET", "/readyz", &[]);
    while readiness().status == 200 {
        std::thread::sleep(Duration::from_millis(100)); // looked at every few seconds
    }
    assert!(readiness().text().contains("database_unreachable"), "{}", readiness().text());
    let away = site.command(["jobs", "list"]).output().unwrap();
    assert!(away.status.code() == Some(1) && said(&away).contains("cannot reach PostgreSQL"), "{}", said(&away));
    site.server.as_mut().unwrap().start_again();
    let job = loop {
        // The command line gives up after some seconds; the server may still be starting.
        let shown = site.command(["jobs", "show", &id, "--json"]).output().unwrap();
        match serde_json::from_slice::<Value>(&shown.stdout) {
            Ok(job) if job["state"] == "succeeded" => break job,
            _ => std::thread::sleep(Duration::from_millis(100)),
        }
    };
    assert_eq!((&job["attempt"], &job["failures"]), (&json!(1), &json!(0)), "{job:#}");
    assert_eq!(site.versions(job["track"].as_str().unwrap()), 1);
    while readiness().status != 200 {
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A child that is stopped moves no more: the pool notices, kills it and tries again.
#[test]
fn an_attempt_that_stands_still_is_stopped_and_repeated() {
    // Longer than a child that goes second to everything else stands still on a busy machine.
    let site = Site::embedded().with("SEGUE_WORKER__STALL_S", "10");
    let wav = site.wav("long.wav", 60);
    let id = site.enqueue(&wav, &[])["id"].as_str().unwrap().to_owned();
    let worker = site.worker();
    site.until(&id, |job| job["state"] == "leased"); // before that a child looks at the sandbox
    let child = loop {
        if let Some(child) = child_of(worker.child.id()) {
            break child;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap();
    let nice = stat.rsplit(')').next().unwrap().split_whitespace().nth(16); // field 19 (proc(5))
    assert_eq!(nice, Some("10"), "listeners go before transcodes: {stat}");
    let stopped = Command::new("kill").args(["-STOP", &child.to_string()]).status().unwrap();
    assert!(stopped.success());
    let job = site.until(&id, |job| job["state"] == "succeeded");
    let failure = job["events"].as_array().unwrap().iter().find(|event| event["event"] == "failed").expect("a failure");
    assert_eq!(failure["data"]["reason"], "stalled", "{job:#}");
    assert_eq!((&job["attempt"], site.versions(job["track"].as_str().unwrap())), (&json!(2), 1));
    assert!(!Path::new(&format!("/proc/{child}")).exists(), "the child is gone");
}

/// While FLAC and the other rungs are still made a new track plays with its lowest rung, and everybody who watches
/// hears of it; the whole version then takes its place.
#[test]
fn a_new_track_plays_before_its_job_is_done() {
    let site = Site::embedded();
    let wav = site.wav("long.wav", 150);
    let queued = site.enqueue(&wav, &[]);
    let (id, track) = (queued["id"].as_str().unwrap(), queued["track"].as_str().unwrap());
    let server = site.serve();
    let variants = || {
        let redirect = server.get(&format!("/tracks/{track}/master.m3u8"));
        assert_eq!(redirect.status, 302, "{}", redirect.head);
        let master = server.get(redirect.header("location").unwrap());
        assert_eq!(master.status, 200, "{}", master.head);
        master.text().matches("#EXT-X-STREAM-INF").count()
    };
    let job = site.until(id, |job| events(job).contains(&"playable"));
    assert_eq!(events(&job)[..4], ["queued", "started", "rung", "playable"]);
    assert_eq!(job["events"][2]["data"]["path"], "aac/64");
    let told = &job["events"][3]["data"];
    assert_eq!((&told["rungs"], &told["preview"]), (&json!(["aac/64"]), &json!(true)));
    if job["state"] == "leased" {
        assert!(job["progress"].as_f64().is_some_and(|done| done < 1.0), "{job:#}");
    }
    let playable = variants();
    assert!(playable == 1 || site.show(id)["state"] == "succeeded", "{playable} variants of a job that is not done");

    let job = site.until(id, |job| job["state"] == "succeeded");
    let expected = ["queued", "started", "rung", "playable", "rung", "rung", "rung", "rung", "published", "succeeded"];
    assert_eq!(events(&job), expected);
    let paths: std::collections::BTreeSet<_> =
        job["events"].as_array().unwrap().iter().filter_map(|event| event["data"]["path"].as_str()).collect();
    assert_eq!(Vec::from_iter(paths), ["aac/160", "aac/256", "aac/64", "aac/96", "flac"], "each rung once");
    assert_ne!(job["output"]["version"], told["version"]);
    assert_eq!(variants(), 4);
    assert_eq!(site.interims().len(), 1, "kept for those who began with it");
    let metrics = crate::support::request(server.admin, "GET", "/metrics", &[]).text();
    assert!(metrics.contains("segue_transcode_playable_seconds_count 1"), "{metrics}");

    // Made again, it goes on showing the whole version until the next one is there.
    site.ok(["jobs", "retry", id]);
    let again = site.until(id, |job| job["state"] == "succeeded" && job["attempt"] == 2);
    assert_eq!(again["output"]["version"], job["output"]["version"]);
    assert_eq!(events(&again).iter().filter(|event| **event == "playable").count(), 1);
}

#[test]
fn a_job_that_is_cancelled_or_dies_takes_its_first_rung_back() {
    let site = Site::embedded().with("SEGUE_WORKER__FAILURES_MAX", "1");
    let wav = site.wav("long.wav", 150);
    let gone = |track: &str| {
        site.versions(track) == 0 && !site.record(track).exists() && site.interims().is_empty() && site.staged() == 0
    };
    // Told to stop.
    let queued = site.enqueue(&wav, &[]);
    let (id, track) = (queued["id"].as_str().unwrap(), queued["track"].as_str().unwrap());
    let mut worker = site.worker();
    site.until(id, |job| events(job).contains(&"playable"));
    assert!(site.record(track).exists());
    site.ok(["jobs", "cancel", id]);
    site.until(id, |job| job["state"] == "cancelled");
    while !gone(track) {
        std::thread::sleep(Duration::from_millis(50));
    }

    // Its worker dies, and nobody tries it again: the janitor of another worker sees to it.
    let queued = site.enqueue(&wav, &[]);
    let (id, track) = (queued["id"].as_str().unwrap(), queued["track"].as_str().unwrap());
    site.until(id, |job| events(job).contains(&"playable"));
    worker.child.kill().unwrap();
    worker.child.wait().unwrap();
    assert!(site.record(track).exists(), "it plays while somebody might finish it");
    let _heir = site.worker();
    while site.show(id)["state"] != "dead" {
        std::thread::sleep(Duration::from_millis(50));
    }
    while !gone(track) {
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Killed between the first rung and the rest: what is shown stays, and the next attempt replaces it.
#[test]
fn a_worker_that_is_killed_after_the_first_rung_leaves_it_to_the_next_attempt() {
    let site = Site::on_postgresql();
    let wav = site.wav("long.wav", 150);
    let queued = site.enqueue(&wav, &[]);
    let (id, track) = (queued["id"].as_str().unwrap(), queued["track"].as_str().unwrap());
    let mut victim = site.worker();
    site.until(id, |job| events(job).contains(&"playable"));
    victim.child.kill().unwrap();
    victim.child.wait().unwrap();
    let shown = || serde_json::from_slice::<Value>(&fs::read(site.record(track)).unwrap()).unwrap()["version"].clone();
    let first = shown();
    let _heir = site.worker();
    let job = site.until(id, |job| job["state"] == "succeeded");
    assert_eq!((&job["attempt"], &job["failures"]), (&json!(2), &json!(1)), "{job:#}");
    for once in ["playable", "published"] {
        assert_eq!(events(&job).iter().filter(|event| **event == once).count(), 1, "{once}: {job:#}");
    }
    assert_eq!(shown(), job["output"]["version"]);
    assert_ne!(shown(), first);
    // Players that have the first one's playlists go on with it for a while.
    assert_eq!((site.versions(track), site.interims().len()), (1, 1));
}

/// The transcoding child of a process.
fn child_of(parent: u32) -> Option<u32> {
    let parent = format!("PPid:\t{parent}");
    fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).find(
        |pid: &u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.lines().any(|line| line == parent)
        },
    )
}

/// A request with a body, on a connection of its own.
fn send(addr: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut head =
        format!("{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n{body}").as_bytes()).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a whole head") + 4;
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Reply { status, head, body: bytes[end..].to_vec() }
}

fn json_of(reply: &Reply) -> Value {
    serde_json::from_slice(&reply.body).unwrap_or_else(|cause| panic!("{cause}: {} {}", reply.head, reply.text()))
}

/// What a stream of events says, whole: it ends with the job.
fn names_in(stream: &str) -> Vec<String> {
    stream.lines().filter_map(|line| line.strip_prefix("event: ")).map(str::to_owned).collect()
}

#[test]
fn the_api_takes_a_job_and_tells_how_it_goes() {
    let site = Site::embedded();
    let made = site.ok_without_data(["key", "create", "--id", "ci"]);
    let mut lines = made.lines();
    let key = lines.next().unwrap().to_owned();
    let other = site.ok_without_data(["key", "create", "--id", "other"]);
    let hash =
        |text: &str| text.lines().find_map(|line| line.strip_prefix("sha256 = ")).unwrap().trim_matches('"').to_owned();
    let keys = format!("[{{id=\"ci\",sha256=\"{}\"}},{{id=\"other\",sha256=\"{}\"}}]", hash(&made), hash(&other));
    let wav = site.wav("song.wav", 6);
    let secret = site.directory.path().join("secret.txt");
    fs::write(&secret, "not for anybody").unwrap();
    let inbox = site.directory.path().join("inbox");
    fs::create_dir(&inbox).unwrap();
    fs::rename(&wav, inbox.join("song.wav")).unwrap();
    std::os::unix::fs::symlink(&secret, inbox.join("link.wav")).unwrap();

    let site = site.with("SEGUE_AUTH__ACCOUNTS", "false");
    let closed = site.serve();
    let refused = send(closed.addr, "POST", "/api/v1/transcodes", &[], "{}");
    assert_eq!((refused.status, json_of(&refused)["type"].as_str()), (503, Some("/problems/no-api-keys")));
    drop(closed);
    let site = site.with("SEGUE_AUTH__ACCOUNTS", "true");

    let site =
        site.with("SEGUE_API__KEYS", &keys).with("SEGUE_API__SOURCE_DIRS", &format!("[{:?}]", inbox.to_str().unwrap()));
    let server = site.serve();
    let bearer = format!("Bearer {key}");
    let post = |auth: &str, idempotency: &str, body: &str| {
        let headers = [("Authorization", auth), ("Idempotency-Key", idempotency), ("Content-Type", "application/json")];
        send(server.addr, "POST", "/api/v1/transcodes", &headers, body)
    };
    let problem = |reply: &Reply, status: u16, name: &str| {
        assert_eq!(
            (reply.status, json_of(reply)["type"].as_str()),
            (status, Some(&*format!("/problems/{name}"))),
            "{}",
            reply.text()
        );
        assert_eq!(reply.header("content-type"), Some("application/problem+json"));
        assert_eq!(reply.header("cache-control"), Some("no-store"));
    };
    let wish = r#"{"source":"song.wav","title":"By API","priority":9}"#;
    problem(&post("Bearer sgk_wrong", "1", wish), 401, "credentials-unknown");
    problem(
        &send(server.addr, "POST", "/api/v1/transcodes", &[("Authorization", &bearer)], wish),
        400,
        "idempotency-key-missing",
    );
    problem(&post(&bearer, "1", "{"), 400, "body-invalid");
    problem(&post(&bearer, "1", r#"{"source":"song.wav","titel":"x"}"#), 400, "body-invalid");
    problem(&post(&bearer, "1", &format!("{{\"source\":\"{}\"}}", "x".repeat(70_000))), 413, "body-invalid");
    let auth = [("Authorization", bearer.as_str())];
    problem(&send(server.addr, "GET", "/api/v1/transcodes?limit=many", &auth, ""), 400, "query-invalid");
    problem(&send(server.addr, "PUT", "/api/v1/transcodes", &auth, ""), 405, "method");
    problem(&send(server.addr, "GET", "/api/v1/nothing", &auth, ""), 404, "not-found");
    for outside in ["../secret.txt", "link.wav", "/etc/hostname", "absent.wav", ".", ""] {
        problem(&post(&bearer, "1", &json!({ "source": outside }).to_string()), 422, "source");
    }
    problem(&post(&bearer, "1", r#"{"source":"song.wav","callback":"https://example.com/"}"#), 422, "callback");
    problem(&post(&bearer, "1", r#"{"source":"song.wav","priority":10}"#), 422, "priority");

    let created = post(&bearer, "\"1\"", wish);
    let job = json_of(&created);
    assert_eq!((created.status, &job["title"], &job["client"]), (202, &json!("By API"), &json!("ci")), "{job:#}");
    let path = format!("/api/v1/transcodes/{}", job["id"].as_str().unwrap());
    assert_eq!(created.header("location"), Some(&*path));
    let repeated = post(&bearer, "1", wish);
    assert_eq!((repeated.status, &json_of(&repeated)["id"]), (200, &job["id"]));
    problem(&post(&bearer, "1", r#"{"source":"song.wav","title":"Another"}"#), 422, "idempotency-key-reused");

    let get = |path: &str, more: (&str, &str)| send(server.addr, "GET", path, &[("Authorization", &bearer), more], "");
    let none = ("X-None", "");
    let stream = get(&format!("{path}/events"), none);
    assert_eq!((stream.status, stream.header("content-type")), (200, Some("text/event-stream")), "{}", stream.head);
    let all: Vec<_> = names_in(&stream.text()).into_iter().filter(|name| name != "progress").collect();
    assert_eq!(all, ["queued", "started", "rung", "rung", "rung", "rung", "rung", "published", "succeeded"]);
    let resumed = get(&format!("{path}/events"), ("Last-Event-ID", "7"));
    assert_eq!(names_in(&resumed.text()), ["published", "succeeded"]);
    assert_eq!(get(&format!("{path}/events"), ("Last-Event-ID", "9")).status, 204, "do not come back");
    let done = json_of(&get(&path, none));
    assert_eq!((&done["state"], &done["output"]["track"]), (&json!("succeeded"), &job["track"]));
    let (loudness, samples) = (&done["output"]["loudness"], &done["output"]["samples"]);
    assert!(loudness["integrated_lufs"].is_f64() && *samples == json!(6 * 44_100), "{done:#}");
    assert_eq!(json_of(&get("/api/v1/transcodes?limit=5", none))["items"].as_array().unwrap().len(), 1);

    let stranger = format!("Bearer {}", other.lines().next().unwrap());
    let asks = |method: &str, path: &str| send(server.addr, method, path, &[("Authorization", &stranger)], "");
    problem(&asks("GET", &path), 404, "not-found");
    problem(&asks("GET", &format!("{path}/events")), 404, "not-found");
    problem(&asks("DELETE", &path), 404, "not-found");
    assert!(json_of(&asks("GET", "/api/v1/transcodes"))["items"].as_array().unwrap().is_empty());
    let cancelled = send(server.addr, "DELETE", &path, &[("Authorization", &bearer)], "");
    problem(&cancelled, 409, "state");
    let retried =
        send(server.addr, "POST", &format!("{path}/retry"), &[("Authorization", &bearer)], r#"{"rungs":["flac"]}"#);
    assert_eq!((retried.status, &json_of(&retried)["rungs"]), (202, &json!(["flac"])), "{}", retried.text());
}

/// One database, one store, three processes: the API takes a job and works on none, the worker has no public
/// listener, the origin needs no database.
#[test]
fn the_roles_run_apart() {
    let site = Site::on_postgresql();
    let made = site.ok_without_data(["key", "create", "--id", "ci"]);
    let sha256 = made.lines().find_map(|line| line.strip_prefix("sha256 = ")).unwrap().to_owned();
    let wav = site.wav("song.wav", 3);
    let site = site
        .with("SEGUE_API__KEYS", &format!("[{{id=\"ci\",sha256={sha256}}}]"))
        .with("SEGUE_API__SOURCE_DIRS", &format!("[{:?}]", site_dir(&wav)))
        .with("SEGUE_ORIGIN__REQUIRE_TOKEN", "false");
    let env: Vec<_> = site.env.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let api = Server::start(&site.data(), &["--role", "api"], &env);
    let no_database: Vec<_> = env.iter().copied().filter(|(name, _)| *name != "DATABASE_URL").collect();
    let origin = Server::start(&site.data(), &["--role", "origin"], &no_database);
    assert!(!site.data().join("segue.db").exists(), "an origin keeps no database");

    let bearer = format!("Bearer {}", made.lines().next().unwrap());
    let headers = [("Authorization", bearer.as_str()), ("Idempotency-Key", "1")];
    let job = json_of(&send(api.addr, "POST", "/api/v1/transcodes", &headers, r#"{"source":"song.wav"}"#));
    let id = job["id"].as_str().unwrap();

    // Events arrive when they happen, not when the answer is whole.
    let mut stream = TcpStream::connect(api.addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    write!(stream, "GET /api/v1/transcodes/{id}/events HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer}\r\n\r\n")
        .unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    lines.find(|line| line == "event: queued").expect("the first event");
    assert_eq!(site.show(id)["state"], "queued", "the API works on nothing");
    let _worker = site.worker();
    lines.find(|line| line == "event: succeeded").expect("the last event");

    let done = site.show(id);
    let (track, version) = (done["output"]["track"].as_str().unwrap(), done["output"]["version"].as_str().unwrap());
    assert_eq!(origin.get(&format!("/a/{track}/{version}/aac/master.m3u8")).status, 200);
    assert_eq!(origin.get(&format!("/tracks/{track}/master.m3u8")).status, 404, "aliases are the API's");
    assert_eq!(api.get(&format!("/tracks/{track}/master.m3u8")).status, 302);
    let demo = site.command(["serve", "--role", "worker", "--demo"]).output().unwrap();
    assert!(demo.status.code() == Some(2) && said(&demo).contains("--role worker"), "{}", said(&demo));
}

fn site_dir(file: &Path) -> &str {
    file.parent().unwrap().to_str().unwrap()
}

/// Takes one callback and answers with this status.
fn take_callback(receiver: &std::net::TcpListener, status: u16) -> (String, Vec<u8>) {
    let (mut stream, _) = receiver.accept().unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut bytes = Vec::new();
    let mut block = [0; 4096];
    loop {
        let read = stream.read(&mut block).unwrap();
        bytes.extend(&block[..read]);
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8(bytes[..end + 4].to_vec()).unwrap();
        let length: usize = field(&head, "content-length").parse().unwrap();
        if bytes.len() >= end + 4 + length {
            write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n").unwrap();
            return (head, bytes[end + 4..].to_vec());
        }
    }
}

fn field<'a>(head: &'a str, name: &str) -> &'a str {
    let found =
        head.lines().find_map(|line| line.split_once(": ").filter(|(known, _)| known.eq_ignore_ascii_case(name)));
    found.unwrap_or_else(|| panic!("{name}: {head}")).1
}

/// As a receiver checks it, with nothing of ours (Standard Webhooks 1.0).
fn verified(secret: &str, head: &str, body: &[u8]) -> bool {
    use base64::Engine as _;
    use hmac::{KeyInit as _, Mac as _};
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(format!("{}.{}.", field(head, "webhook-id"), field(head, "webhook-timestamp")).as_bytes());
    mac.update(body);
    let wanted = base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes());
    field(head, "webhook-signature").split(' ').any(|one| one == format!("v1,{wanted}"))
}

#[test]
fn callbacks_are_signed_repeated_and_sent_nowhere_private_by_chance() {
    let receiver = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = receiver.local_addr().unwrap();
    let (old, new) = ("an old secret of ours", "a new secret of ours");
    let site = Site::embedded().with("SEGUE_CALLBACKS__SECRETS", &format!("[{new:?}, {old:?}]"));
    let wav = site.wav("a.wav", 1);
    let url = format!("http://{addr}/hook?x=1");
    let literal = site.command(["jobs", "enqueue", wav.to_str().unwrap(), "--callback", &url]).output().unwrap();
    let error = said(&literal);
    assert!(
        error.contains("a loopback address") && error.contains(&format!("add {addr} to callbacks.priv")),
        "{error}"
    );
    // A name is only known to lead there when it is asked for.
    let named = format!("http://localhost:{}/hook", addr.port());
    let private = site.enqueue(&wav, &["--callback", &named])["id"].as_str().unwrap().to_owned();
    let worker = site.worker();
    let refused = site.until(&private, |job| job["callbacks"][0]["tries"][0].is_object());
    let error = refused["callbacks"][0]["tries"][0]["error"].as_str().unwrap();
    assert!(error.contains("a loopback address") && error.contains("callbacks.private_hosts"), "{error}");
    drop(worker);

    let site = site.with("SEGUE_CALLBACKS__PRIVATE_HOSTS", &format!("[\"{addr}\"]"));
    let id = site.enqueue(&wav, &["--callback", &url])["id"].as_str().unwrap().to_owned();
    let worker = site.worker();
    let mut seen = Vec::new();
    let mut refused = None;
    while !seen.contains(&"transcode.succeeded".to_owned()) {
        let (head, body) = take_callback(&receiver, if refused.is_none() { 500 } else { 204 });
        assert!(head.starts_with("POST /hook?x=1 HTTP/1.1\r\n"), "{head}");
        assert!(verified(new, &head, &body) && verified(old, &head, &body), "{head}");
        assert!(!verified("another secret", &head, &body));
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["id"], field(&head, "webhook-id"));
        if body["job"] == json!(id) {
            seen.push(body["type"].as_str().unwrap().to_owned());
            refused.get_or_insert(body["id"].as_str().unwrap().to_owned());
        }
    }
    let refused = refused.unwrap();
    let of = |job: &Value, field: &str| {
        let all = job["callbacks"].as_array().unwrap().clone();
        all.iter().find(|one| one["id"] == json!(refused)).map_or(Value::Null, |one| one[field].clone())
    };
    if seen.contains(&"transcode.started".to_owned()) {
        let logged = |job: &Value| of(job, "tries").as_array().is_none_or(|tries| !tries.is_empty());
        let job = site.until(&id, |job| logged(job) && job["state"] == "succeeded");
        assert_ne!(of(&job, "state"), "delivered", "{job:#}");
    }
    site.ok(["jobs", "redeliver", &id]);
    let again = loop {
        let (head, body) = take_callback(&receiver, 204);
        let body: Value = serde_json::from_slice(&body).unwrap();
        if body["id"] == json!(refused) {
            break field(&head, "webhook-id").to_owned();
        }
    };
    assert_eq!(again, refused, "the same id, so that the receiver knows it");
    site.until(&id, |job| of(job, "state") == "delivered");
    drop(worker);
}

/// The receiver's certificate is checked, for its own name, against the machine's authorities.
#[test]
fn callbacks_go_over_tls() {
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let receiver = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = receiver.local_addr().unwrap().port();
    let secret = "a new secret of ours";
    let site = Site::embedded()
        .with("SEGUE_CALLBACKS__SECRETS", &format!("[{secret:?}]"))
        .with("SEGUE_CALLBACKS__PRIVATE_HOSTS", "[\"localhost\", \"127.0.0.1\"]");
    let authorities = site.directory.path().join("authorities.pem");
    fs::write(&authorities, made.cert.pem()).unwrap();
    let site = site.with("SSL_CERT_FILE", authorities.to_str().unwrap());
    let wav = site.wav("a.wav", 1);
    let misnamed =
        site.enqueue(&wav, &["--callback", &format!("https://127.0.0.1:{port}/")])["id"].as_str().unwrap().to_owned();
    site.enqueue(&wav, &["--callback", &format!("https://localhost:{port}/hook")]);
    let _worker = site.worker();

    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (head, body) = runtime.block_on(async {
        receiver.set_nonblocking(true).unwrap();
        let receiver = tokio::net::TcpListener::from_std(receiver).unwrap();
        loop {
            let (stream, _) = receiver.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue }; // not for its name
            let mut bytes = Vec::new();
            let end = loop {
                let read = stream.read_buf(&mut bytes).await.unwrap();
                assert!(read > 0, "a whole request");
                if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                    let head = String::from_utf8(bytes[..end + 4].to_vec()).unwrap();
                    if bytes.len() >= end + 4 + field(&head, "content-length").parse::<usize>().unwrap() {
                        break end + 4;
                    }
                }
            };
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            return (String::from_utf8(bytes[..end].to_vec()).unwrap(), bytes[end..].to_vec());
        }
    });
    assert!(head.starts_with("POST /hook HTTP/1.1\r\n") && verified(secret, &head, &body), "{head}");
    let job = site.until(&misnamed, |job| job["callbacks"][0]["tries"][0].is_object());
    let error = job["callbacks"][0]["tries"][0]["error"].as_str().unwrap();
    assert!(error.contains("no TLS") && error.contains("127.0.0.1"), "{error}");
}
