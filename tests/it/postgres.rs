//! A PostgreSQL server for one test: Debian's binaries, a cluster of its own in a temporary directory, a
//! Unix socket, no port. It dies with the test, however the test ends.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use segue::db::{Db, Options, Place};

pub(crate) struct Postgres {
    server: Child,
    directory: tempfile::TempDir,
    settings: Vec<&'static str>,
}

/// As who the server runs: it refuses to run as root.
fn as_nobody_special(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "QUIT"]); // an immediate shutdown: nobody needs the data
    if rustix::process::getuid().is_root() {
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]);
    }
    command.arg("--").arg(program).env("HOME", "/tmp").env("LC_ALL", "C").stdin(Stdio::null());
    command
}

fn binaries() -> PathBuf {
    let versions =
        std::fs::read_dir("/usr/lib/postgresql").expect("the package postgresql is installed (.ci/setup test)");
    let mut found: Vec<_> = versions.map(|entry| entry.unwrap().path().join("bin")).collect();
    found.sort();
    found.pop().expect("a version of PostgreSQL")
}

impl Postgres {
    pub(crate) fn start() -> Postgres {
        // Commits are written, though not to the disk: what was committed is there after `stop`.
        let quick = ["fsync=off", "full_page_writes=off", "shared_buffers=32MB", "autovacuum=off"];
        Postgres::start_with(&quick)
    }

    /// With these settings, and else as it comes.
    pub(crate) fn start_with(settings: &[&'static str]) -> Postgres {
        let directory = tempfile::Builder::new().prefix("segue-pg-").tempdir().unwrap();
        if rustix::process::getuid().is_root() {
            let owned = Command::new("chown").arg("postgres").arg(directory.path()).status().unwrap();
            assert!(owned.success());
        }
        let data = directory.path().join("data");
        let made = as_nobody_special(&binaries().join("initdb"))
            .args(["-U", "test", "-A", "trust", "-N", "--no-locale", "-E", "UTF8", "-D"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        Postgres { server: serve(directory.path(), settings), directory, settings: settings.to_vec() }
    }

    /// Stops it, as a crash would.
    pub(crate) fn stop(&mut self) {
        let _ = Command::new("kill").args(["-QUIT", &self.server.id().to_string()]).status();
        let _ = self.server.wait();
    }

    /// Starts it again where it was.
    pub(crate) fn start_again(&mut self) {
        self.server = serve(self.directory.path(), &self.settings);
    }

    /// The URL of a database of this server.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://test@localhost/{database}?host={}", self.directory.path().display())
    }

    /// A database of its own, migrated, and the URL by which a role uses it that cannot change the past: as
    /// docs/OPERATIONS.md says to make it.
    pub(crate) async fn for_a_server(&self, name: &str) -> String {
        let url = self.database(name);
        ready(Place::Postgres(url.clone())).await.close().await;
        let told = include_str!("../../docs/OPERATIONS.md");
        let grants = told.split("```sql\n").find(|block| block.starts_with("grant usage on schema")).unwrap();
        let grants = grants.split("```").next().unwrap();
        let role = "do $$ begin
            if not exists (select 1 from pg_roles where rolname = 'segue_server') then create role segue_server login; end if;
          end $$;";
        let done = Command::new("psql").args(["-Xq", "-v", "ON_ERROR_STOP=1", "-c", role, "-c", grants, &url]).status();
        assert!(done.unwrap().success());
        url.replace("test@", "segue_server@")
    }

    /// A database of its own, empty.
    pub(crate) fn database(&self, name: &str) -> String {
        let give_up = Instant::now() + Duration::from_secs(60);
        loop {
            let made = Command::new(binaries().join("createdb"))
                .args(["-U", "test", "-h"])
                .arg(self.directory.path())
                .arg(name)
                .output()
                .unwrap();
            if made.status.success() {
                return self.url(name);
            }
            let log = || std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            let said = String::from_utf8_lossy(&made.stderr);
            assert!(said.contains("connect") || said.contains("starting up"), "createdb {name}: {said}");
            assert!(Instant::now() < give_up, "PostgreSQL does not start: {said} {}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}

fn serve(directory: &Path, settings: &[&str]) -> Child {
    as_nobody_special(&binaries().join("postgres"))
        .arg("-D")
        .arg(directory.join("data"))
        .arg("-k")
        .arg(directory)
        .args(["-c", "listen_addresses="])
        .args(settings.iter().flat_map(|setting| ["-c", setting]))
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(directory.join("log")).unwrap())
        .spawn()
        .unwrap()
}

/// PgBouncer in transaction mode before a server: fewer sessions than clients, so that every transaction gets
/// another one.
pub(crate) struct PgBouncer {
    bouncer: Child,
    directory: tempfile::TempDir,
}

/// What their directories, and so their URLs, begin with.
const BOUNCERS: &str = "segue-pgb-";

impl PgBouncer {
    pub(crate) fn before(server: &Postgres) -> PgBouncer {
        let directory = tempfile::Builder::new().prefix(BOUNCERS).tempdir().unwrap();
        let path = directory.path().display();
        let config = format!(
            "[databases]\n* = host={} user=test\n[pgbouncer]\nlisten_addr =\nlisten_port = 6432\nunix_socket_dir = {path}\n\
             auth_type = any\npool_mode = transaction\ndefault_pool_size = 3\nlogfile = {path}/log\n",
            server.directory.path().display()
        );
        let file = directory.path().join("pgbouncer.ini");
        std::fs::write(&file, config).unwrap();
        if rustix::process::getuid().is_root() {
            let owned = Command::new("chown").args(["-R", "postgres"]).arg(directory.path()).status().unwrap();
            assert!(owned.success());
        }
        let program = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"].into_iter().find(|path| Path::new(path).exists());
        let bouncer =
            as_nobody_special(Path::new(program.expect("the package pgbouncer is installed (.ci/setup test)")))
                .arg("-q")
                .arg(&file)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
        let bouncer = PgBouncer { bouncer, directory };
        let give_up = Instant::now() + Duration::from_secs(30);
        while !bouncer.directory.path().join(".s.PGSQL.6432").exists() {
            assert!(
                Instant::now() < give_up,
                "PgBouncer does not start: {:?}",
                std::fs::read_to_string(bouncer.directory.path().join("log"))
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        bouncer
    }

    /// The URL of a database of the server behind it.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://test@localhost:6432/{database}?host={}", self.directory.path().display())
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.bouncer.kill();
        let _ = self.bouncer.wait();
    }
}

/// The options of a database.
pub(crate) fn at(place: Place) -> Options {
    let prepared_statements = matches!(&place, Place::Postgres(url) if !url.contains(BOUNCERS));
    Options { place, connections_max: 10, prepared_statements }
}

/// An open, migrated database.
pub(crate) async fn ready(place: Place) -> Db {
    let db = Db::open(&at(place)).await.unwrap();
    db.migrate().await.unwrap();
    db
}
