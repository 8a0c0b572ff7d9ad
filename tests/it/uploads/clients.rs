//! The clients that people use, through a server that is killed and started again under them.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Api, MIB, Site, TUS, sha256, wav};
use crate::support::Random;

/// One address for whichever server lives.
struct Front {
    addr: SocketAddr,
    behind: Arc<Mutex<SocketAddr>>,
}

impl Front {
    fn before(api: &Api) -> Front {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let behind = Arc::new(Mutex::new(api.addr));
        let target = Arc::clone(&behind);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let target = *target.lock().unwrap();
                let Ok(server) = TcpStream::connect(target) else { continue };
                for (mut from, mut to) in [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)]
                {
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Write);
                    });
                }
            }
        });
        Front { addr, behind }
    }
}

#[test]
fn tus_js_client_uploads_through_a_server_that_is_killed() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tus/upload.mjs");
    through_kills(Path::new("node"), script, 51);
}

#[test]
fn tuspy_uploads_through_a_server_that_is_killed() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tus/upload.py");
    through_kills(Path::new("python3"), script, 52);
}

fn through_kills(program: &Path, script: &str, seed: u64) {
    let site = Site::local();
    let mut api = site.serve();
    let front = Front::before(&api);
    let file = wav(20 * MIB + 11, seed);
    let path = site.directory.path().join("song.wav");
    std::fs::write(&path, &file).unwrap();
    let mut client = Running(
        Command::new(program)
            .arg(script)
            .args([&format!("http://{}{TUS}", front.addr), path.to_str().unwrap(), &site.key, &(3 * MIB).to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut random = Random(seed);
    let mut at = 0;
    for _ in 0..3 {
        // Until it is some bytes further.
        loop {
            let page = api.json("GET", "/api/v1/uploads", &serde_json::Value::Null).1;
            let now = page["items"][0]["offset"].as_u64().unwrap_or(0);
            if now > at || client.0.try_wait().unwrap().is_some() {
                break at = now;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(random.below(15) as u64));
        api.server.child.kill().unwrap();
        api.server.child.wait().unwrap();
        api = site.serve();
        *front.behind.lock().unwrap() = api.addr;
    }
    let said = client.0.stdout.take().unwrap();
    let url = std::io::read_to_string(said).unwrap();
    assert!(client.0.wait().unwrap().success(), "{url}");
    let id = url.trim().rsplit('/').next().unwrap();
    let ready = api.until(id, "ready");
    assert_eq!((ready["sha256"].as_str(), ready["name"].as_str()), (Some(&*sha256(&file)), Some("song.wav")));
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
