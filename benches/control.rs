//! What a look at a track costs: by its owner, logged in, and by its stable name.
//!
//! ```text
//! cargo bench --bench control -- [--seconds S] [--rate R] [--smoke] [--markdown FILE]
//! ```
//! A server, a published song, and people who are logged in. Each of eight connections asks when its turn has come, whether
//! or not the answer before took long: a time counts from when the request was due, so that a stall is seen by all who
//! would have waited. Many people, because each may ask a thousand times a minute. CPU is the server's, kernel and all.
//! Statements are those that the server says it sent to its database.
#![allow(clippy::print_stdout, reason = "the table is the product")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use serde_json::{Value, json};

#[allow(dead_code, unreachable_pub)] // the tests use more of it
#[path = "../tests/it/postgres.rs"]
mod postgres;

#[derive(Parser)]
#[command(about = "What a look at a track costs")]
struct Options {
    /// Seconds that each route is measured.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Requests a second, over all connections.
    #[arg(long, default_value_t = 400)]
    rate: u64,
    /// Only show that it works: few requests, no verdict.
    #[arg(long)]
    smoke: bool,
    /// Also write the table as Markdown.
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Taken and ignored: the other benches write one.
    #[arg(long, hide = true)]
    json: Option<PathBuf>,
    /// What cargo says to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Connections that ask.
const CONNECTIONS: u64 = 8;
/// Requests that each person may make a second for as long as they like, with some to spare.
const PERSON_RATE: u64 = 12;
/// Ticks of /proc/{pid}/stat in a second (Linux says 100 to everybody).
const TICKS: f64 = 100.0;

fn main() -> ExitCode {
    let mut options = Options::parse();
    if options.smoke {
        (options.seconds, options.rate) = (1, 24);
    }
    let server = postgres::Postgres::start_with(&["fsync=on"]);
    let mut table =
        String::from("| database | route | who | p50 | p99 | CPU | statements |\n|---|---|---|---|---|---|---|\n");
    let mut fine = true;
    for (name, url) in [("SQLite", None), ("PostgreSQL", Some(server.database("control")))] {
        println!("{name} …");
        for row in measure(url.as_deref(), &options) {
            fine &= row.statements <= STATEMENTS_MAX;
            let Row { route, who, p50, p99, cpu_us, statements } = row;
            let ms = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1e3);
            let (p50, p99) = (ms(p50), ms(p99));
            let _ =
                writeln!(table, "| {name} | `{route}` | {who} | {p50} | {p99} | {cpu_us:.0} µs | {statements:.2} |");
        }
    }
    println!("{table}");
    if let Some(file) = &options.markdown {
        std::fs::write(file, &table).expect("the table can be written");
    }
    if !fine {
        println!("more than two statements for a look, and what a limit takes now and then");
    }
    if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Two for the look; a tenth for the limit of a person, which a node takes ten of at once.
const STATEMENTS_MAX: f64 = 2.2;

struct Row {
    route: &'static str,
    who: &'static str,
    p50: Duration,
    p99: Duration,
    cpu_us: f64,
    statements: f64,
}

fn measure(database: Option<&str>, options: &Options) -> Vec<Row> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = directory.path().join("data");
    let segue = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_segue"));
        command.args(args).arg("--data").arg(&data).env("SEGUE_LOG__FILTER", "error");
        command.envs(database.map(|url| ("DATABASE_URL", url))).stdin(Stdio::null());
        command
    };
    let song = directory.path().join("song.wav");
    segue::demo::write_wav(&song).expect("a song can be written");
    let published = ran(segue(&["publish", "--json", song.to_str().expect("a path of ASCII")]));
    let published: Value = serde_json::from_str(&published).expect("publish prints JSON");
    let track = published["track_id"].as_str().expect("the track's id").to_owned();
    let persons = options.rate.div_ceil(PERSON_RATE);
    let people: Vec<(String, String)> = (0..persons)
        .map(|number| {
            let email = format!("p{number}@example.org");
            let made = ran(segue(&["user", "create", &email]));
            let password = made.lines().find_map(|line| line.strip_prefix("password, shown once: "));
            (email, password.expect("a password is printed").to_owned())
        })
        .collect();
    let server = Server::start(segue(&["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]));
    let bearers: Vec<String> = people.iter().map(|(email, password)| login(server.addr, email, password)).collect();
    // The server takes what was published without it into its database.
    let look = format!("/api/v1/tracks/{track}");
    while ask(&mut connect(server.addr), &look, Some(&bearers[0])).0 != 200 {
        std::thread::sleep(Duration::from_millis(50));
    }
    let alias = format!("/tracks/{track}/master.m3u8");
    [
        ("/api/v1/tracks/{id}", "a person", &look, true, 200),
        ("/tracks/{id}/master.m3u8", "a person", &alias, true, 302),
        ("/tracks/{id}/master.m3u8", "anybody", &alias, false, 302),
    ]
    .map(|(route, who, path, named, wanted)| {
        let before = (server.cpu_s(), server.statements(route));
        let mut took = asked(&server, path, named.then_some(&bearers[..]), wanted, options);
        let requests = took.len() as f64;
        let (cpu_s, statements) = (server.cpu_s() - before.0, server.statements(route) - before.1);
        took.sort_unstable();
        let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
        Row {
            route,
            who,
            p50: at(0.5),
            p99: at(0.99),
            cpu_us: cpu_s * 1e6 / requests,
            statements: statements / requests,
        }
    })
    .into()
}

/// Asks at the rate that is wanted, and says how long each took from when it was due.
fn asked(server: &Server, path: &str, bearers: Option<&[String]>, wanted: u16, options: &Options) -> Vec<Duration> {
    let begun = Instant::now() + Duration::from_millis(20);
    let between = Duration::from_secs_f64(1.0 / options.rate as f64);
    let all = options.rate * options.seconds;
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..CONNECTIONS)
            .map(|connection| {
                scope.spawn(move || {
                    let mut stream = connect(server.addr);
                    let mut took = Vec::new();
                    for number in (connection..all).step_by(CONNECTIONS as usize) {
                        let due = begun + between * number as u32;
                        std::thread::sleep(due.saturating_duration_since(Instant::now()));
                        let bearer = bearers.map(|all| all[number as usize % all.len()].as_str());
                        let (status, body) = ask(&mut stream, path, bearer);
                        took.push(due.elapsed());
                        assert_eq!(status, wanted, "{path}: {body}");
                    }
                    took
                })
            })
            .collect();
        asking.into_iter().flat_map(|asking| asking.join().expect("whoever asks ends well")).collect()
    })
}

fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).expect("the server listens");
    stream.set_nodelay(true).expect("a socket can be set");
    stream
}

/// One request on a connection that stays; its answer has a Content-Length.
fn ask(stream: &mut TcpStream, path: &str, bearer: Option<&str>) -> (u16, String) {
    let bearer = bearer.map(|bearer| format!("Authorization: Bearer {bearer}\r\n")).unwrap_or_default();
    let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\n{bearer}\r\n");
    stream.write_all(head.as_bytes()).expect("the server reads");
    answer(stream)
}

fn answer(stream: &mut TcpStream) -> (u16, String) {
    let (mut bytes, mut piece) = (Vec::new(), [0; 8 << 10]);
    loop {
        let read = stream.read(&mut piece).expect("the server answers");
        assert!(read > 0, "the server hung up");
        bytes.extend_from_slice(&piece[..read]);
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<usize>().ok());
        let length = field("content-length:").unwrap_or(0);
        if bytes.len() >= end + 4 + length {
            let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
            return (status, String::from_utf8_lossy(&bytes[end + 4..]).into_owned());
        }
    }
}

fn login(addr: SocketAddr, email: &str, password: &str) -> String {
    let body = json!({ "email": email, "password": password }).to_string();
    let mut stream = connect(addr);
    let head = format!(
        "POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("the server reads");
    let (status, body) = answer(&mut stream);
    assert_eq!(status, 200, "{body}");
    let session: Value = serde_json::from_str(&body).expect("a login answers JSON");
    session["access_token"].as_str().expect("a session has a token").to_owned()
}

fn ran(mut command: Command) -> String {
    let output = command.output().expect("the command starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it prints text")
}

struct Server {
    child: Child,
    addr: SocketAddr,
    admin: SocketAddr,
}

impl Server {
    fn start(mut command: Command) -> Server {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the server starts");
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let mut found = BTreeMap::new();
        while found.len() < 2 {
            let line = lines.next().expect("the server says where it listens").expect("in text");
            for (what, prefix) in [("addr", "listening on http://"), ("admin", "admin on http://")] {
                let rest = line.strip_prefix(prefix).and_then(|rest| rest.split_whitespace().next());
                if let Some(addr) = rest.and_then(|addr| addr.parse().ok()) {
                    found.insert(what, addr);
                }
            }
        }
        std::thread::spawn(move || lines.for_each(drop)); // it never waits for us
        Server { child, addr: found["addr"], admin: found["admin"] }
    }

    /// CPU that the server took so far, in seconds.
    fn cpu_s(&self) -> f64 {
        let stat = std::fs::read_to_string(Path::new("/proc").join(self.child.id().to_string()).join("stat"));
        let stat = stat.expect("the server runs");
        // Behind its name, which is in brackets: user time is field 14, kernel time 15 (proc_pid_stat(5)).
        let fields: Vec<&str> = stat.rsplit(')').next().expect("it has a name").split_whitespace().collect();
        (11..13).map(|at| fields[at].parse::<f64>().expect("a number")).sum::<f64>() / TICKS
    }

    /// Statements that a route sent to the database so far.
    fn statements(&self, route: &str) -> f64 {
        let mut stream = connect(self.admin);
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("it reads");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("it answers");
        let name = format!("segue_control_statements_total{{route=\"{route}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&name)?.trim().parse().ok()).unwrap_or(0.0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
