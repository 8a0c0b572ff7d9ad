//! A throw-away Ceph object gateway: a monitor, an object store in memory, and the gateway, on free loopback ports.
//! One for a test process; its programs die with the thread that started them.

use std::fs;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use segue::base::secret::Secret;
use segue::store::s3::{Bucket, Options};

pub(crate) const ACCESS_KEY: &str = "AKIATESTTESTTESTTEST";
pub(crate) const SECRET_KEY: &str = "hush-hush-not-a-real-key";

pub(crate) struct Rgw {
    dir: tempfile::TempDir,
    port: u16,
    gateway: Option<Child>,
    others: Vec<Child>,
}

impl Rgw {
    pub(crate) fn start() -> Rgw {
        let dir = tempfile::tempdir().unwrap();
        let (monitor_port, port) = (free_port(), free_port());
        for sub in ["mon", "osd", "run"] {
            fs::create_dir(dir.path().join(sub)).unwrap();
        }
        fs::write(dir.path().join("ceph.conf"), conf(dir.path(), monitor_port, port)).unwrap();
        let mut rgw = Rgw { port, gateway: None, others: vec![], dir };
        let map = rgw.path("monmap");
        let monitor = format!("[v1:127.0.0.1:{monitor_port}]");
        rgw.run("monmaptool", &["--create", "--fsid", FSID, "--addv", "a", &monitor, &map], false);
        rgw.run("ceph-mon", &["-i", "a", "--mkfs", "--monmap", &map], true);
        let child = rgw.spawn("ceph-mon", &["-f", "-i", "a"]);
        rgw.others.push(child);
        rgw.run("ceph", &["osd", "new", OSD], true);
        rgw.run("ceph", &["osd", "crush", "add", "osd.0", "1.0", "root=default"], true);
        rgw.run("ceph-osd", &["-i", "0", "--mkfs", "--osd-uuid", OSD], true);
        let child = rgw.spawn("ceph-osd", &["-f", "-i", "0"]);
        rgw.others.push(child);
        let user = ["-n", "client.rgw", "user", "create", "--uid=test", "--display-name=test"];
        let keys = [format!("--access-key={ACCESS_KEY}"), format!("--secret-key={SECRET_KEY}")];
        let args: Vec<&str> = user.into_iter().chain(keys.iter().map(String::as_str)).collect();
        rgw.run("radosgw-admin", &args, true);
        rgw.resume();
        rgw
    }

    /// Stops the gateway: connections are refused.
    pub(crate) fn stop(&mut self) {
        let mut gateway = self.gateway.take().expect("it runs");
        gateway.kill().unwrap();
        gateway.wait().unwrap();
    }

    /// Starts the gateway, which has all that was stored.
    pub(crate) fn resume(&mut self) {
        self.gateway = Some(self.spawn("radosgw", &["-f", "-n", "client.rgw"]));
        let until = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(Instant::now() < until, "radosgw listens: {}", self.log("client.rgw"));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn options(&self, bucket: &str) -> Options {
        Options {
            endpoint: Some(self.endpoint()),
            path_style: true,
            ..Options::new(bucket, ACCESS_KEY, Secret::new(SECRET_KEY.as_bytes()))
        }
    }

    /// The bucket `music`, emptied: for the next of several cases that share a gateway, which takes seconds to start.
    pub(super) fn music(&self) -> Bucket {
        let bucket = self.bucket("music");
        let emptied = bucket.wait(|bucket| async move {
            loop {
                let page = bucket.list("", None, 1_000).await?;
                for object in &page.objects {
                    bucket.delete(&object.key).await?;
                }
                if page.next.is_none() {
                    return bucket.sweep(Duration::ZERO).await;
                }
            }
        });
        emptied.unwrap();
        bucket
    }

    /// A bucket of its own, empty.
    pub(crate) fn bucket(&self, name: &str) -> Bucket {
        let bucket = Bucket::open(self.options(name)).unwrap();
        bucket.wait(|bucket| async move { bucket.create().await }).unwrap();
        bucket
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(format!("{name}.log"))).unwrap_or_default()
    }

    fn run(&self, program: &str, args: &[&str], configured: bool) {
        let conf = ["-c".to_owned(), self.path("ceph.conf")];
        for patience in (0..5).rev() {
            let mut command = Command::new("timeout");
            command.args(["60", program]).args(conf.iter().filter(|_| configured)).args(args);
            let done = command.stdin(Stdio::null()).output().unwrap();
            let said = String::from_utf8_lossy(&done.stderr);
            if done.status.success() {
                return;
            }
            // A monitor that has just begun refuses what it will allow in a second.
            let early = patience > 0 && said.contains("problem getting command descriptions from mon");
            assert!(early, "{program} {args:?}: {said} {}", self.log("mon.a"));
            std::thread::sleep(Duration::from_secs(1));
        }
    }

    fn spawn(&self, program: &str, args: &[&str]) -> Child {
        // util-linux: the program dies when the thread that started it does, however that comes.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", program, "-c", &self.path("ceph.conf")]).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }
}

impl Drop for Rgw {
    fn drop(&mut self) {
        for child in self.gateway.iter_mut().chain(&mut self.others) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A free port below those that the system gives to connections and to whoever asks for any: between this look and the
/// bind, and while the gateway is stopped, nobody gets it by chance.
pub(super) fn free_port() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let given: u16 = range.split_whitespace().next().and_then(|low| low.parse().ok()).unwrap_or(32_768);
    loop {
        let random = RandomState::new().build_hasher().finish();
        let port = match given {
            12_000.. => 10_000 + (random % (u64::from(given) - 10_000)) as u16,
            _ => 0, // they are given from so far below that any is as good
        };
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return listener.local_addr().unwrap().port();
        }
    }
}

const FSID: &str = "11111111-2222-3333-4444-555555555555";
const OSD: &str = "11111111-2222-3333-4444-00000000000a";

fn conf(dir: &Path, monitor_port: u16, port: u16) -> String {
    let dir = dir.display();
    format!(
        "[global]
fsid = {FSID}
mon host = v1:127.0.0.1:{monitor_port}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind msgr2 = false
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon max pg per osd = 1000
run dir = {dir}/run
admin socket = {dir}/run/$name.asok
pid file = {dir}/$name.pid
log file = {dir}/$name.log
[mon.a]
mon data = {dir}/mon
[osd.0]
osd data = {dir}/osd
osd objectstore = memstore
memstore device bytes = 1073741824
osd memory target = 939524096
osd class update on start = false
osd crush update on start = false
osd class load list = *
osd class default list = *
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw data = {dir}/run
rgw enable ops log = false
rgw enable usage log = false
"
    )
}
