//! A real clamd with signatures of our own: found, clean, away, too small.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{MIB, Site, wav};

struct Clamd {
    child: Child,
}

/// EICAR's harmless test signature, in hexadecimal so that no scanner finds this file.
const EICAR: &str = "58354f2150254041505b345c505a58353428505e2937434329377d2445494341522d5354414e444152442d414e54495649\
                     5255532d544553542d46494c452124482b482a";

impl Clamd {
    fn start(dir: &Path, socket: &Path, more: &str) -> Clamd {
        std::fs::create_dir_all(dir.join("db")).unwrap();
        std::fs::write(dir.join("db/test.ndb"), format!("Eicar-Test-Signature:0:*:{EICAR}\n")).unwrap();
        let (at, db, log) = (socket.display(), dir.join("db"), dir.join("log"));
        let conf = format!(
            "LocalSocket {at}\nDatabaseDirectory {}\nForeground yes\nLogFile {}\n{more}\n",
            db.display(),
            log.display()
        );
        std::fs::write(dir.join("clamd.conf"), conf).unwrap();
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "clamd", "-c"])
            .arg(dir.join("clamd.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let clamd = Clamd { child };
        let give_up = Instant::now() + Duration::from_secs(60);
        while std::os::unix::net::UnixStream::connect(socket).is_err() {
            let log = || std::fs::read_to_string(dir.join("log")).unwrap_or_default();
            assert!(Instant::now() < give_up, "clamd (package clamav-daemon, .ci/setup test) listens: {}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
        clamd
    }
}

impl Drop for Clamd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_scanner_finds_clears_and_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let socket: PathBuf = dir.path().join("clamd.sock");
    let site = Site::local().with("SEGUE_UPLOADS__CLAMD", socket.to_str().unwrap());
    let api = site.serve();
    let clean = wav(3 * MIB, 1);
    let eicar: Vec<u8> =
        (0..EICAR.len() / 2).map(|n| u8::from_str_radix(&EICAR[2 * n..2 * n + 2], 16).unwrap()).collect();
    let mut infected = wav(3 * MIB, 2);
    infected[2 * MIB..2 * MIB + eicar.len()].copy_from_slice(&eicar);
    let send = |file: &[u8]| {
        let (status, upload) = api.form(&[("kind", "audio")], Some(("a.wav", file)), &[]);
        assert_eq!(status, 201, "{upload:#}");
        upload["id"].as_str().unwrap().to_owned()
    };

    // Away: it waits, says why, and is not read by anything.
    let waiting = send(&clean);
    let why = |id: &str, words: &str| {
        while !api.show(id)["error"].as_str().is_some_and(|error| error.contains(words)) {
            assert_eq!(api.show(id)["state"], "verifying");
            std::thread::sleep(Duration::from_millis(30));
        }
    };
    why(&waiting, "cannot be reached");
    let body = serde_json::json!({ "source": { "upload": waiting } }).to_string();
    let reply = api.send("POST", "/api/v1/transcodes", &[("Idempotency-Key", "\"w\"")], body.as_bytes());
    assert_eq!(reply.status, 409, "{}", reply.text());

    // There again: it is looked at without anybody's doing.
    let clamd = Clamd::start(dir.path(), &socket, "");
    api.until(&waiting, "ready");
    let id = send(&infected);
    let refused = api.until(&id, "refused");
    assert_eq!(refused["reason"], "virus");
    assert!(refused["error"].as_str().unwrap().contains("Eicar-Test-Signature"), "{refused:#}");
    let id = send(&clean);
    api.until(&id, "ready");
    site.until_files(2); // what was found is not kept
    drop(clamd);

    // One that looks at less than was sent has not looked.
    let _small = Clamd::start(dir.path(), &socket, "StreamMaxLength 1M");
    let id = send(&infected);
    why(&id, "StreamMaxLength");
    drop(_small);
    let _skips = Clamd::start(dir.path(), &socket, "MaxFileSize 1M\nAlertExceedsMax yes");
    why(&id, "Heuristics.Limits.Exceeded");
    drop(_skips);
    let _whole = Clamd::start(dir.path(), &socket, "");
    assert_eq!(api.until(&id, "refused")["reason"], "virus");
}
