//! A throw-away Garage: another implementation of the protocol, and one that knows no conditions. Built by
//! `make garage`; its test is run by `.ci/check` where it is at hand.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use segue::base::secret::Secret;
use segue::store::s3::{Bucket, Options};

use super::rgw::free_port;

const ACCESS_KEY: &str = "GK31c2f218a2e44f485b94239e";
const SECRET_KEY: &str = "b892c0665f0ada8a4755dae98baa3b133590e11dae3bcc1f9d769d67f16c3835";

pub(super) struct Garage {
    dir: tempfile::TempDir,
    port: u16,
    server: Option<Child>,
}

/// Where `make garage` puts it, or what stands on the path.
fn program() -> PathBuf {
    let built = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../tools/bin/garage");
    if built.exists() { built } else { "garage".into() }
}

impl Garage {
    pub(super) fn start() -> Garage {
        let dir = tempfile::tempdir().unwrap();
        let (s3, rpc, admin) = (free_port(), free_port(), free_port());
        let conf = format!(
            "metadata_dir = \"{dir}/meta\"\ndata_dir = \"{dir}/data\"\ndb_engine = \"sqlite\"\nmetadata_fsync = false\n\
             data_fsync = false\nreplication_factor = 1\ncompression_level = \"none\"\nrpc_bind_addr = \"127.0.0.1:{rpc}\"\n\
             rpc_public_addr = \"127.0.0.1:{rpc}\"\nrpc_secret = \"{secret:064}\"\n[s3_api]\ns3_region = \"us-east-1\"\n\
             api_bind_addr = \"127.0.0.1:{s3}\"\n[admin]\napi_bind_addr = \"127.0.0.1:{admin}\"\nadmin_token = \"test\"\n",
            dir = dir.path().display(),
            secret = 1,
        );
        fs::write(dir.path().join("garage.toml"), conf).unwrap();
        let mut garage = Garage { dir, port: s3, server: None };
        // util-linux: it dies when the thread that started it does, however that comes.
        let mut server = Command::new("setpriv");
        server.args(["--pdeathsig", "KILL"]).arg(program()).arg("-c").arg(garage.conf()).arg("server");
        let log = fs::File::create(garage.dir.path().join("log")).unwrap();
        server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        garage.server = Some(server.spawn().expect("garage is installed: make garage"));
        let until = Instant::now() + Duration::from_secs(60);
        while garage.run(&["status"]).is_none() {
            assert!(Instant::now() < until, "{}", fs::read_to_string(garage.dir.path().join("log")).unwrap());
            std::thread::sleep(Duration::from_millis(100));
        }
        let node = garage.run(&["node", "id", "-q"]).expect("a node has an id");
        let node = node.split('@').next().unwrap().trim().to_owned();
        for args in [
            &["layout", "assign", "-z", "z1", "-c", "10G", &node][..],
            &["layout", "apply", "--version", "1"],
            &["key", "import", "--yes", "-n", "test", ACCESS_KEY, SECRET_KEY],
            &["key", "allow", "--create-bucket", "test"],
        ] {
            assert!(garage.run(args).is_some(), "{args:?}");
        }
        garage
    }

    fn conf(&self) -> PathBuf {
        self.dir.path().join("garage.toml")
    }

    fn run(&self, args: &[&str]) -> Option<String> {
        let done =
            Command::new("timeout").arg("20").arg(program()).arg("-c").arg(self.conf()).args(args).output().unwrap();
        done.status.success().then(|| String::from_utf8_lossy(&done.stdout).into_owned())
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(super) fn options(&self, bucket: &str) -> Options {
        Options {
            endpoint: Some(self.endpoint()),
            path_style: true,
            ..Options::new(bucket, ACCESS_KEY, Secret::new(SECRET_KEY.as_bytes()))
        }
    }

    pub(super) fn bucket(&self, name: &str) -> Bucket {
        let bucket = Bucket::open(self.options(name)).unwrap();
        bucket.wait(|bucket| async move { bucket.create().await }).unwrap();
        bucket
    }
}

impl Drop for Garage {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}
