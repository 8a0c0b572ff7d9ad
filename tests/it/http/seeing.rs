//! What an operator sees of a server: metrics, logs, spans, health. And what nobody may see in them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use segue::base::telemetry::names;
use segue::cdn::bunny::{self, Grant};

use super::bench::{Bench, Client, KEY, Published, Reply, Setup, key};
use crate::support::{Server, until};

/// A whole server over a version made by hand, its log in a file.
struct Seen {
    server: Server,
    published: Published,
    directory: tempfile::TempDir,
}

impl Seen {
    fn start(env: &[(&str, &str)]) -> Seen {
        let directory = tempfile::tempdir().unwrap();
        let log = File::create(directory.path().join("log")).unwrap();
        Seen::start_logging_to(log.into(), directory, env)
    }

    fn start_logging_to(log: Stdio, directory: tempfile::TempDir, env: &[(&str, &str)]) -> Seen {
        let data = directory.path().join("data");
        let published = Published::below(&data.join("store"));
        let keys = format!("[{KEY:?}]");
        let env = [&[("SEGUE_ORIGIN__KEYS__BUNNY", keys.as_str())], env].concat();
        Seen { server: Server::start_logging_to(log, &data, &[], &env), published, directory }
    }

    fn get(&self, path: &str, lines: &str) -> Reply {
        Client::to(self.server.addr).request("GET", path, lines)
    }

    fn admin(&self, path: &str) -> Reply {
        Client::to(self.server.admin).request("GET", path, "")
    }

    /// `/metrics`, by name and labels.
    fn metrics(&self) -> BTreeMap<String, f64> {
        let text = String::from_utf8(self.admin("/metrics").expect(200).body.clone()).unwrap();
        let samples = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        samples.map(|line| line.rsplit_once(' ').map(|(name, n)| (name.into(), n.parse().unwrap())).unwrap()).collect()
    }

    fn segment(&self, number: usize) -> String {
        self.published.path("a", &format!("aac/96/{number:05}.mp4"))
    }

    fn signed(&self, path: &str) -> String {
        bunny::sign_directory(&key(KEY), &self.published.path("a", "aac/"), in_an_hour_s()) + path
    }

    /// Stops the server and returns everything it logged.
    fn log(mut self) -> String {
        self.server.signal("TERM");
        assert!(self.server.child.wait().unwrap().success());
        self.logged()
    }

    /// What has been written to the log so far.
    fn logged(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap()
    }
}

fn in_an_hour_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 3_600
}

const OPEN: (&str, &str) = ("SEGUE_ORIGIN__REQUIRE_TOKEN", "false");

#[test]
fn the_table_for_operators_lists_exactly_the_metrics_of_a_scrape() {
    let seen = Seen::start(&[OPEN]);
    seen.get(&seen.segment(0), "").expect(200);
    seen.get("/", "").expect(404);
    let scrape = String::from_utf8(seen.admin("/metrics").body).unwrap();
    let mut shown = BTreeSet::new();
    for line in scrape.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        assert!(scrape.contains(&format!("# HELP {name} ")), "{name} has a help line");
        assert!(shown.insert((name.to_owned(), kind.to_owned())), "{name} is one family");
    }
    let known = names::ALL.iter().map(|(kind, name, _)| ((*name).to_owned(), format!("{kind:?}").to_lowercase()));
    let known: BTreeSet<_> = known.collect();
    let operations = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/OPERATIONS.md");
    let operations = fs::read_to_string(operations).unwrap();
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `")?.split('|');
        let name = cells.next()?.trim().trim_end_matches('`');
        let kind = cells.next()?.trim();
        ["counter", "gauge", "histogram"].contains(&kind).then(|| (name.to_owned(), kind.to_owned()))
    };
    let documented: BTreeSet<_> = operations.lines().filter_map(row).collect();
    // There is no TLS here and no bucket.
    let elsewhere = |name: &str| ["segue_tls_", "segue_store_", "segue_cache_"].iter().any(|of| name.starts_with(of));
    let (others, expected): (BTreeSet<_>, _) = known.iter().cloned().partition(|(name, _)| elsewhere(name));
    let shown: BTreeSet<_> = shown.difference(&others).cloned().collect();
    assert_eq!(shown, expected, "a scrape, and telemetry::names::ALL");
    assert_eq!(documented, known, "docs/OPERATIONS.md, and telemetry::names::ALL");
    for (name, kind) in &known {
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name}: counters, and only they, end in _total");
    }
}

#[test]
fn requests_are_counted_and_timed_by_route_and_labels_stay_bounded() {
    let seen = Seen::start(&[OPEN, ("SEGUE_LOG__ACCESS", "off")]);
    seen.get(&seen.segment(0), "").expect(200);
    seen.get(&seen.segment(1), "Range: bytes=0-9\r\n").expect(206);
    seen.get("/watch/nobody", "").expect(404);
    let before = seen.metrics();
    let route = r#"route="/a/{track}/{version}/{rung}/{segment}.mp4""#;
    assert_eq!(before[&format!("segue_origin_requests_total{{{route},status=\"206\"}}")], 1.0);
    assert_eq!(before[&format!("segue_origin_request_seconds_count{{{route},class=\"2xx\"}}")], 2.0);
    assert_eq!(before[&format!("segue_origin_body_bytes_total{{{route}}}")], (200 << 10) as f64 + 10.0);
    assert_eq!(before["segue_origin_fill_seconds_count{outcome=\"ok\"}"], 1.0);
    assert_eq!(before["segue_control_request_seconds_count{route=\"/watch/{id}\",class=\"4xx\"}"], 1.0);
    assert!(before["process_resident_memory_bytes"] > 1e6 && before["process_open_fds"] > 3.0);

    let mut held = vec![];
    for n in 0..300 {
        let mut client = Client::to(seen.server.addr);
        client.request("GET", &format!("/a/trk_{n}/x/y"), "").expect(404);
        client.request("GET", &format!("/watch/{n}"), "").expect(404);
        held.push(client);
    }
    let after = seen.metrics();
    let names = |metrics: &BTreeMap<String, f64>| metrics.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&after), names(&before), "no series is named after a track, a peer or a connection");
    assert_eq!(after["segue_origin_requests_total{route=\"unknown\",status=\"404\"}"], 300.0);
}

#[test]
fn what_is_refused_at_the_door_is_counted() {
    let seen = Seen::start(&[OPEN, ("SEGUE_SERVER__HEADER_TIMEOUT_S", "1")]);
    let path = seen.segment(0);
    let twice = "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned();
    let crooked = "GET / HTTP/1.1\r\nHost : a\r\n\r\n".to_owned();
    let long = format!("GET {path}?{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(9_000));
    let large = format!("GET {path} HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(20_000));
    let slow = "GET / HT".to_owned();
    for (request, status) in [(&twice, 400), (&crooked, 400), (&long, 414), (&large, 431), (&slow, 408)] {
        Client::to(seen.server.addr).send(request).reply(false).expect("an answer").expect(status);
    }
    let counted = |status: u16| format!("segue_origin_requests_total{{route=\"door\",status=\"{status}\"}}");
    until(|| seen.metrics()[&counted(408)] == 1.0);
    let metrics = seen.metrics();
    assert_eq!((metrics[&counted(400)], metrics[&counted(414)], metrics[&counted(431)]), (2.0, 1.0, 1.0));
}

#[test]
fn every_line_about_a_request_has_its_id() {
    let seen = Seen::start(&[OPEN, ("SEGUE_LOG__ACCESS", "all")]);
    let path = seen.segment(0);
    for (path, lines) in [
        (path.as_str(), ""),
        (&path, "CDN-RequestId: given-to-us\r\n"),
        (&path, "If-Match: \"x\"\r\n"),
        ("/a/nonsense", ""),
        ("/tracks/none/master.m3u8", ""),
    ] {
        seen.get(path, lines);
    }
    let log = seen.log();
    let about: Vec<&str> = log.lines().filter(|line| line.contains("segue::access")).collect();
    assert_eq!(about.len(), 5, "{log}");
    assert!(about.iter().all(|line| line.contains("request_id=") && !line.contains("request_id=\"\"")), "{log}");
    assert!(about.iter().any(|line| line.contains("given-to-us")), "{log}");
}

#[test]
fn what_peers_make_libraries_say_is_bounded_and_ours_is_still_said() {
    let seen = Seen::start(&[OPEN]);
    let began = std::time::Instant::now();
    // RFC 9113 §6.7: the answer to a PING that nobody sent; h2 warns about each.
    let answer = [&[0, 0, 8, 6, 1, 0, 0, 0, 0][..], &[7; 8]].concat();
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    for _ in 0..20 {
        let mut client = Client::to(seen.server.addr);
        let bytes = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &settings[..], &answer.repeat(40)].concat();
        let _ = client.stream.write_all(&bytes);
        client.stream.shutdown(std::net::Shutdown::Write).unwrap();
        client.rest();
        seen.get("/a/nonsense", "").expect(404);
    }
    let dropped = seen.metrics()["segue_log_dropped_total"];
    let seconds = began.elapsed().as_secs() as usize + 2;
    let log = seen.log();
    let theirs = log.lines().filter(|line| line.contains("h2::")).count();
    assert!((1..=10 * seconds).contains(&theirs), "{theirs} of 800 lines in {seconds} s:\n{log:.2000}");
    assert!(dropped > 0.0 || theirs < 20, "what is left out is counted");
    assert_eq!(log.lines().filter(|line| line.contains("/a/nonsense")).count(), 20, "{log:.2000}");
}

#[test]
fn cmcd_is_counted_and_changes_nothing() {
    let seen = Seen::start(&[OPEN]);
    let path = seen.segment(0);
    seen.get(&path, "").expect(200);
    let plain = seen.get(&path, "");
    let query = "CMCD=bl%3D21300%2Cbr%3D160%2Cbs%2Ccid%3D%22a%2Cb%22%2Cdl%3D500%2Cmtp%3D48100%2Cot%3Da%2Csf%3Dh\
                 %2Csid%3D%22l1stener%22%2Csu%2Cx-y%3D1";
    let lines = "CMCD-Object: br=160,ot=a\r\nCMCD-Request: bl=800,mtp=900\r\nCMCD-Session: sf=h,sid=\"l1stener\"\r\n\
                 CMCD-Status: rtp=2000\r\n";
    let broken = format!("CMCD-Request: bl=nonsense,x=\"{}\r\n", "y".repeat(3_000));
    for (path, lines) in [(format!("{path}?{query}"), ""), (path.clone(), lines), (path.clone(), &broken)] {
        let reply = seen.get(&path, lines);
        let but_date = |reply: &Reply| {
            let headers = reply.headers.iter().filter(|(name, _)| name != "date");
            headers.cloned().collect::<Vec<_>>()
        };
        assert_eq!((reply.status, but_date(&reply)), (200, but_date(&plain)));
        assert!(reply.body == plain.body);
    }
    seen.get(&format!("{path}x?{query}"), "").expect(404);
    let metrics = seen.metrics();
    let of = |name: &str| metrics[&format!("segue_cmcd_{name}{{sf=\"hls\",ot=\"audio\"}}")];
    let total = |name: &str| metrics[&format!("segue_cmcd_{name}_total{{sf=\"hls\",ot=\"audio\"}}")];
    assert_eq!((total("requests"), total("starvations"), total("startups")), (2.0, 1.0, 1.0), "refusals do not count");
    assert_eq!((of("buffer_length_seconds_count"), of("buffer_length_seconds_sum")), (2.0, 22.1));
    assert_eq!(of("measured_throughput_bits_per_second_sum"), 49_000_000.0);
    assert_eq!(of("encoded_bitrate_bits_per_second_sum"), 320_000.0);
    assert_eq!((of("deadline_seconds_sum"), of("requested_throughput_bits_per_second_sum")), (0.5, 2_000_000.0));
    let bucket = "segue_cmcd_buffer_length_seconds_bucket{sf=\"hls\",ot=\"audio\",le=\"1\"}";
    assert_eq!(metrics[bucket], 1.0);
    assert_eq!(metrics["segue_cmcd_invalid_total"], 1.0);
    assert!(metrics.keys().all(|name| !name.contains("l1stener")));
    assert!(!seen.log().contains("l1stener"));
}

#[test]
fn a_refusal_names_its_request_and_an_answer_for_caches_does_not() {
    let bench = Bench::open();
    let path = bench.a("aac/96/00000.mp4");
    let id = "CDN-RequestId: 0af7651916cd43dd8448eb211c80319c\r\nX-Request-Id: proxy\r\n";
    for _ in 0..2 {
        let reply = bench.get(&path, id);
        assert_eq!(reply.expect(200).header("x-request-id"), None);
    }
    assert_eq!(bench.get(&path, id).header("server-timing"), None, "a hit says nothing of its time");
    let refused = bench.get(&bench.a("nothing"), id);
    assert_eq!(refused.expect(404).header("x-request-id"), Some("0af7651916cd43dd8448eb211c80319c"));
    assert_eq!(refused.header("cache-control"), Some("no-store"));
    assert!(refused.header("access-control-expose-headers").unwrap().contains("X-Request-Id"));
    let made = |lines: &str| bench.get(&bench.a("nothing"), lines).header("x-request-id").unwrap().to_owned();
    let (first, second) = (made(""), made("X-Request-Id: <script>\r\n"));
    assert!(first != second && [first, second].iter().all(|id| id.len() == 16), "made when none can be taken");
}

#[test]
fn a_miss_says_where_its_time_went_and_a_hit_when_it_is_asked_to() {
    let origin = segue::origin::Options { require_token: false, time_hits: true, ..Default::default() };
    let bench = Bench::with(Setup { origin, ..Setup::default() });
    let path = bench.a("aac/96/00000.mp4");
    let miss = bench.get(&path, "");
    let timing = miss.expect(200).header("server-timing").unwrap();
    assert!(timing.starts_with("cache;desc=miss, queue;dur=") && timing.contains(", fill;dur="), "{timing}");
    let hit = bench.get(&path, "");
    assert!(hit.header("server-timing").unwrap().starts_with("cache;desc=hit, total;dur="));
    assert_eq!(hit.header("timing-allow-origin"), Some("*"));
}

#[test]
fn the_access_log_is_one_line_a_request_without_the_listener() {
    let seen =
        Seen::start(&[("SEGUE_LOG__ACCESS", "all"), ("SEGUE_LOG__JSON", "true"), ("SEGUE_LOG__FILTER", "error")]);
    let path = seen.signed(&seen.segment(1));
    let unsigned = seen.segment(1);
    seen.get(&path, "CDN-RequestId: abc123\r\n").expect(200);
    seen.get(&unsigned, "").expect(403);
    seen.get("/watch/x?token=abc", "").expect(404);
    let log = seen.log();
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let field = |line: usize, name: &str| lines[line]["fields"][name].clone();
    assert_eq!(lines.len(), 3, "{log}");
    assert_eq!(field(0, "route"), "/a/{track}/{version}/{rung}/{segment}.mp4");
    assert_eq!((field(0, "status"), field(0, "body_bytes")), (200.into(), 3_000.into()));
    assert_eq!((field(0, "request_id"), field(0, "client")), ("abc123".into(), "127.0.0.0/24".into()));
    let message = field(0, "message").as_str().unwrap().to_owned();
    assert!(message.starts_with("GET /bcdn_token=REDACTED&") && message.ends_with(&unsigned), "{message}");
    assert_eq!((field(1, "status"), field(2, "status")), (403.into(), 404.into()));
    assert_eq!(field(2, "message"), "GET /watch/x?token=REDACTED");
    assert!(field(1, "request_id").as_str().unwrap().len() == 16 && field(0, "took_us").is_u64());
}

#[test]
fn a_storm_of_errors_leaves_a_few_lines_and_a_count() {
    let seen = Seen::start(&[OPEN, ("SEGUE_LOG__ERRORS_PER_S_MAX", "1")]);
    let mut client = Client::to(seen.server.addr);
    for _ in 0..100 {
        client.request("GET", "/a/x/y/z", "").expect(404);
    }
    client.request("GET", &seen.segment(0), "").expect(200);
    let counted = || {
        let lines = seen.logged().lines().filter(|line| line.contains("GET /a/")).count();
        lines as f64 + seen.metrics()["segue_log_access_suppressed_total"]
    };
    // Counted behind the answers, four times a second where there is a core to do it on.
    until(|| counted() >= 100.0);
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(counted(), 100.0, "and none for the answer that went well");
}

#[test]
fn nobody_waits_for_a_stuck_standard_error() {
    let (reader, writer) = std::io::pipe().unwrap(); // never read: full after 64 KiB, the queue after 4,096 lines
    let directory = tempfile::tempdir().unwrap();
    let seen = Seen::start_logging_to(writer.into(), directory, &[OPEN, ("SEGUE_LOG__ACCESS", "all")]);
    let mut client = Client::to(seen.server.addr);
    let path = format!("/a/{}", "x".repeat(900));
    for _ in 0..6_000 {
        client.request("GET", &path, "").expect(404);
    }
    until(|| seen.metrics()["segue_log_dropped_total"] > 0.0);
    seen.get(&seen.segment(0), "").expect(200);
    seen.server.signal("TERM");
    let Seen { mut server, .. } = seen;
    assert!(server.child.wait().unwrap().success(), "nor does the end of the process");
    drop(reader);
}

#[test]
fn readiness_says_why_not() {
    let seen = Seen::start(&[OPEN]);
    assert_eq!(seen.admin("/livez").expect(200).body, b"alive\n");
    let ready = seen.admin("/readyz");
    assert_eq!(ready.expect(200).body, br#"{"ready":true,"reasons":[]}"#);
    assert_eq!(seen.get("/readyz", "").expect(200).header("cache-control"), Some("no-store"));
    let store = seen.directory.path().join("data/store");
    fs::rename(&store, store.with_extension("gone")).unwrap();
    until(|| seen.admin("/readyz").status == 503);
    assert_eq!(seen.admin("/readyz").body, br#"{"ready":false,"reasons":["store_unreadable"]}"#);
    seen.admin("/livez").expect(200);
    fs::rename(store.with_extension("gone"), &store).unwrap();
    until(|| seen.admin("/readyz").status == 200);
}

/// A collector: an OTLP/HTTP receiver that keeps what it is sent.
#[cfg(feature = "otel")]
pub(crate) mod spans {
    use super::*;

    pub(crate) struct Collector {
        address: SocketAddr,
        bodies: Arc<Mutex<Vec<Vec<u8>>>>,
    }

    impl Collector {
        pub(crate) fn start() -> Collector {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let bodies = Arc::new(Mutex::new(vec![]));
            let kept = Arc::clone(&bodies);
            std::thread::spawn(move || {
                for mut stream in listener.incoming().map(Result::unwrap) {
                    let mut bytes = vec![];
                    let (mut part, mut body_at) = ([0; 16 << 10], None);
                    let length = |head: &[u8]| {
                        let head = String::from_utf8_lossy(head).to_lowercase();
                        assert!(head.starts_with("post /v1/traces http/1.1\r\n") && head.contains("x-protobuf"));
                        head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok())
                    };
                    while body_at.is_none_or(|at: (usize, usize)| bytes.len() < at.0 + at.1) {
                        let n = stream.read(&mut part).unwrap();
                        assert!(n > 0, "a whole request");
                        bytes.extend_from_slice(&part[..n]);
                        if body_at.is_none() {
                            let end = bytes.windows(4).position(|w| w == b"\r\n\r\n");
                            body_at = end.map(|end| (end + 4, length(&bytes[..end]).expect("a length")));
                        }
                    }
                    kept.lock().unwrap().push(bytes.split_off(body_at.unwrap().0));
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                }
            });
            Collector { address, bodies }
        }

        pub(crate) fn url(&self) -> String {
            format!("http://{}", self.address)
        }

        /// Whether any span carries this text, anywhere.
        pub(crate) fn carries(&self, text: &str) -> bool {
            let bodies = self.bodies.lock().unwrap();
            bodies.iter().any(|body| body.windows(text.len()).any(|part| part == text.as_bytes()))
        }

        pub(crate) fn spans(&self) -> Vec<Span> {
            let bodies = self.bodies.lock().unwrap();
            let spans = |body: &Vec<u8>| {
                let scopes = fields(body, 1).flat_map(|resource| fields(resource, 2));
                scopes.flat_map(|scope| fields(scope, 2)).map(Span::read).collect::<Vec<_>>()
            };
            bodies.iter().flat_map(spans).collect()
        }
    }

    /// What we look at of `opentelemetry.proto.trace.v1.Span`.
    #[derive(Debug)]
    pub(crate) struct Span {
        trace: String,
        pub(crate) id: String,
        pub(crate) parent: String,
        pub(crate) name: String,
        kind: u64,
        pub(crate) attributes: BTreeMap<String, String>,
    }

    impl Span {
        fn read(bytes: &[u8]) -> Span {
            let one = |number| fields(bytes, number).next().unwrap_or_default();
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let attribute = |pair: &[u8]| {
                let key = text(fields(pair, 1).next().unwrap());
                let value = fields(pair, 2).next().unwrap_or_default();
                let number = || number(value, 3).map(|n| n.to_string()).unwrap_or_default();
                (key, fields(value, 1).next().map_or_else(number, text))
            };
            Span {
                trace: segue::base::hex::encode(one(1)),
                id: segue::base::hex::encode(one(2)),
                parent: segue::base::hex::encode(one(4)),
                name: text(one(5)),
                kind: number(bytes, 6).unwrap_or(0),
                attributes: fields(bytes, 9).map(attribute).collect(),
            }
        }
    }

    /// The length-delimited fields of a protobuf message with this number.
    fn fields(message: &[u8], wanted: u64) -> impl Iterator<Item = &[u8]> {
        walk(message).into_iter().filter_map(move |(field, value, _)| (field == wanted).then_some(value?))
    }

    /// The varint field with this number.
    fn number(message: &[u8], wanted: u64) -> Option<u64> {
        walk(message).into_iter().find_map(|(field, value, n)| (field == wanted && value.is_none()).then_some(n))
    }

    fn walk(mut message: &[u8]) -> Vec<(u64, Option<&[u8]>, u64)> {
        let varint = |bytes: &mut &[u8]| {
            let mut value = 0;
            for shift in (0..).step_by(7) {
                let byte = bytes[0];
                *bytes = &bytes[1..];
                value |= u64::from(byte & 0x7f) << shift;
                if byte < 0x80 {
                    break;
                }
            }
            value
        };
        let mut found = vec![];
        while !message.is_empty() {
            let tag = varint(&mut message);
            let (value, n) = match tag & 7 {
                0 => (None, varint(&mut message)),
                1 => (Some(message.split_off(..8).unwrap()), 0),
                2 => {
                    let length = varint(&mut message) as usize;
                    (Some(message.split_off(..length).unwrap()), 0)
                }
                5 => (Some(message.split_off(..4).unwrap()), 0),
                other => panic!("wire type {other}"),
            };
            found.push((tag >> 3, value, n));
        }
        found
    }

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const CALLER: &str = "b7ad6b7169203331";

    fn traceparent(trace: &str, flags: &str) -> String {
        format!("traceparent: 00-{trace}-{CALLER}-{flags}\r\ntracestate: cdn=1\r\n")
    }

    #[test]
    fn misses_fills_and_control_requests_have_spans_and_hits_when_their_caller_samples_them() {
        let collector = Collector::start();
        let seen = Seen::start(&[OPEN, ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url())]);
        let path = seen.segment(0);
        seen.get(&path, &traceparent(TRACE, "01")).expect(200);
        seen.get(&path, "").expect(200);
        let (sampled, unsampled) = ("11111111111111111111111111111111", "22222222222222222222222222222222");
        seen.get(&path, &(traceparent(sampled, "01") + "CDN-RequestId: abc\r\n")).expect(200);
        seen.get(&path, &traceparent(unsampled, "00")).expect(200);
        seen.get("/watch/x", "").expect(404);
        let _ = seen.log(); // what waits is sent when the server stops
        let spans = collector.spans();
        let named = |name: &str| spans.iter().filter(|span| span.name == name).collect::<Vec<_>>();
        let segment = named("GET /a/{track}/{version}/{rung}/{segment}.mp4");
        let [miss, hit] = segment[..] else { panic!("one miss and one sampled hit: {spans:#?}") };
        assert_eq!((&*miss.trace, &*miss.parent, miss.kind), (TRACE, CALLER, 2));
        assert_eq!((&*hit.trace, &*hit.parent), (sampled, CALLER));
        assert_eq!((&*hit.attributes["request_id"], &*hit.attributes["url.path"]), ("abc", &*path));
        assert_eq!(miss.attributes["http.response.status_code"], "200");
        let [fill] = named("fill")[..] else { panic!("one fill: {spans:#?}") };
        assert_eq!((&fill.trace, &fill.parent), (&miss.trace, &miss.id));
        let [page] = named("GET /watch/{id}")[..] else { panic!("one page: {spans:#?}") };
        assert_eq!((&*page.attributes["http.response.status_code"], &*page.parent), ("404", ""));
    }

    #[test]
    fn a_share_of_hits_has_spans_when_it_is_configured() {
        let collector = Collector::start();
        let endpoint = collector.url();
        let env = [OPEN, ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint), ("SEGUE_TELEMETRY__HIT_RATIO", "0.25")];
        let seen = Seen::start(&[&env[..], &[("SEGUE_ORIGIN__CORES", "1")]].concat());
        (0..41).for_each(|_| drop(seen.get(&seen.segment(0), "")));
        let _ = seen.log();
        let requests = collector.spans().iter().filter(|span| span.name != "fill").count();
        assert!((10..=12).contains(&requests), "every fourth of 41, and the miss: {requests}");
    }

    #[test]
    fn a_collector_that_is_absent_or_hangs_harms_nobody() {
        let hangs = TcpListener::bind("127.0.0.1:0").unwrap(); // accepts in the kernel, never answers
        let absent = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap(); // closed again
        for address in [hangs.local_addr().unwrap(), absent] {
            let endpoint = format!("http://{address}");
            let seen = Seen::start(&[OPEN, ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)]);
            for _ in 0..10 {
                let mut client = Client::to(seen.server.addr);
                for n in 0..100 {
                    client.request("GET", &seen.segment(0), &traceparent(&format!("{:032x}", n + 1), "01")).expect(200);
                }
            }
            let log = seen.log(); // ends: the flush is bounded
            assert!(!log.contains("panicked"), "{log}");
        }
    }

    #[test]
    fn no_secret_reaches_the_log_or_a_span() {
        let collector = Collector::start();
        let endpoint = collector.url();
        let seen = Seen::start(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
            ("SEGUE_LOG__FILTER", "trace"),
            ("SEGUE_LOG__ACCESS", "all"),
            ("SEGUE_TELEMETRY__HIT_RATIO", "1.0"),
        ]);
        let secret = "Zm9vYmFyc2VjcmV0MTIz";
        let path = seen.signed(&seen.segment(0));
        let token = path.split_once("HS256-").unwrap().1.split_once('&').unwrap().0.to_owned();
        let file = seen.published.path("d", "aac-96.mp4");
        let query = key(KEY).sign_params(&Grant { path: &file, expires_s: in_an_hour_s(), ..Grant::default() });
        let query_token = query.split_once("HS256-").unwrap().1.split_once('&').unwrap().0.to_owned();
        let headers = format!(
            "Authorization: Bearer {secret}\r\nCookie: session={secret}\r\nX-Api-Key: sgk_{secret}\r\n\
             CMCD-Session: sid=\"{secret}\",cid=\"{secret}\"\r\n"
        );
        seen.get(&path, &headers).expect(200); // a miss
        seen.get(&path, &headers).expect(200); // a hit
        seen.get(&format!("{file}?{query}"), &headers).expect(200);
        let plain = seen.segment(0);
        let names = [
            "token",
            "verify",
            "Signature",
            "Policy",
            "Key-Pair-Id",
            "X-Amz-Signature",
            "X-Amz-Credential",
            "X-Amz-Security-Token",
            "tok%65n",
            "CMCD",
            "anything",
        ];
        for name in names {
            for path in [&*plain, "/tracks/x/master.m3u8", "/watch/x", "/nowhere", "/readyz"] {
                let status = seen.get(&format!("{path}?expires=1&{name}={secret}&x=1"), &headers).status;
                assert!([200, 403, 404].contains(&status), "{status} {path}");
            }
        }
        for path in [
            format!("/bcdn_token=HS256-{secret}&expires=9999999999{plain}"),
            format!("/bcdn_token={secret}/a/x"),
            format!("/bcdn%5Ftoken={secret}{plain}"),
            format!("/%62cdn_token%3D{secret}&expires=1{plain}"),
        ] {
            assert!(seen.get(&path, "").status >= 400);
        }
        for head in [
            format!("GET /?token={secret} HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
            format!("GET {plain}?token={secret}{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(9_000)),
            format!("GET {plain}?token={secret} HTTP/9.1\r\nHost: x\r\n\r\n"),
            format!("POST {plain}?token={secret} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"),
            format!("GET http://user:{secret}@host{plain} HTTP/1.1\r\nHost: x\r\n\r\n"),
        ] {
            assert!(Client::to(seen.server.addr).send(&head).reply(false).unwrap().status >= 400);
        }
        let log = seen.log();
        assert!(log.contains("REDACTED") && log.matches("GET ").count() > 50, "there was something to hide");
        assert!(log.contains("DEBUG") && log.contains("refused"), "it was a talkative log");
        assert!(collector.spans().len() > 50, "there were spans to look at");
        let bodies = collector.bodies.lock().unwrap();
        for secret in [secret, &token, &query_token] {
            assert!(!log.contains(secret), "{}", log.lines().find(|line| line.contains(secret)).unwrap());
            for body in bodies.iter() {
                assert!(!body.windows(secret.len()).any(|w| w == secret.as_bytes()), "{secret} in a span");
            }
        }
    }
}
