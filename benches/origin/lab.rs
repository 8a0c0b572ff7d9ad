//! What every measurement needs, and the measurements: each returns lines of the table.

use std::path::Path;
use std::time::Duration;

use crate::bucket::{self, Bucket, Far};
use crate::cold;
use crate::http::{self, Answer, Headers};
use crate::idle;
use crate::machine::Cores;
use crate::peers::{self, Peer, Store, Tuning, Who};
use crate::report::{Bar, Figures, Line, Loaded};
use crate::rows::{self, Ask, Kind, PACED_PATH, Protocol, Row, SMALL_PATH, Space};
use crate::tls::Tls;
use crate::tree::{self, Tree};
use crate::{Outcome, curl, h2load, paced, wrk};

/// The place and the means.
pub(crate) struct Lab<'a> {
    /// Scratch, on a disk.
    pub(crate) dir: &'a Path,
    /// The segue that is measured.
    pub(crate) program: &'a Path,
    pub(crate) cores: Cores,
    pub(crate) tree: &'a Tree,
    pub(crate) tls: &'a Tls,
    pub(crate) rounds: usize,
    pub(crate) seconds: u64,
}

/// What one client asks one server again and again, and how long the answers are.
struct Target<'a> {
    peer: &'a Peer,
    asks: Vec<(String, Headers)>,
    /// Heads included, on average.
    answer_bytes: f64,
    /// Of the first.
    body_bytes: u64,
}

impl Lab<'_> {
    pub(crate) fn start_segue(&self) -> Outcome<Peer> {
        peers::segue(self.dir, self.program, self.cores.server, self.tree, self.tls)
    }

    /// Starts nginx with the headers of segue's own answers, or without segue with plausible ones.
    pub(crate) fn start_nginx(&self, segue: Option<&Peer>, rows: &[Row], tuning: &Tuning) -> Outcome<Peer> {
        // What nginx makes by itself; everything else is added by configuration.
        const OWN: [&str; 10] = [
            "date",
            "server",
            "content-type",
            "content-length",
            "content-encoding",
            "last-modified",
            "etag",
            "accept-ranges",
            "connection",
            "keep-alive",
        ];
        let small = Ask { space: Space::Media, path: SMALL_PATH.into(), kind: Kind::Whole };
        let cold = Ask { space: Space::Download, path: self.tree.cold.0.clone(), kind: Kind::Part(0..1) };
        let mut paths: Vec<(String, Headers)> = Vec::new();
        for ask in [&small, &cold].into_iter().chain(rows.iter().flat_map(|row| &row.asks)) {
            let path = ask.bare_path(self.tree);
            if paths.iter().any(|(known, _)| *known == path) {
                continue;
            }
            let headers = match segue {
                // A whole rung is not fetched for its head.
                Some(segue) => http::get(segue.port, &segue.path(self.tree, ask), &[one_byte()])?.headers,
                None => PLAUSIBLE.map(|(name, value)| (name.into(), value.into())).into(),
            };
            let is_own = |name: &str| OWN.contains(&name) || name == "content-range" || name == "server-timing";
            let added = headers.into_iter().filter(|(name, _)| !is_own(&name.to_ascii_lowercase()));
            paths.push((path, added.collect()));
            if ask.path.ends_with(".m3u8") {
                self.compress(ask)?;
            }
        }
        peers::nginx(self.dir, self.cores.server, self.tree, &paths, self.tls, tuning)
    }

    /// Puts the `.gz` that nginx's gzip_static looks for beside a file.
    fn compress(&self, ask: &Ask) -> Outcome<()> {
        let file = self.tree.files.join(&ask.bare_path(self.tree)[1..]);
        let status = std::process::Command::new("gzip").args(["-9", "-k", "-n", "-f"]).arg(&file).status();
        if status.is_ok_and(|s| s.success()) { Ok(()) } else { Err(format!("cannot compress {}", file.display())) }
    }

    /// Measures one kind of answer at every server in turn; `None` when segue does not give it.
    pub(crate) fn compare(&self, row: &Row, standing: &[&Peer], with_floor: bool) -> Outcome<Option<(Loaded, Line)>> {
        let mut targets = Vec::new();
        let mut model: Option<Answer> = None;
        for peer in standing {
            let Some((target, answer)) = self.target(row, peer)? else { return Ok(None) };
            targets.push(target);
            // segue comes first: the floor sends what segue sends.
            model.get_or_insert(answer);
        }
        // The floor has one answer and one protocol.
        let model = model.filter(|_| with_floor && row.protocol == Protocol::Http1 && row.asks.len() == 1);
        let floor = match &model {
            Some(answer) => Some(peers::floor(self.dir, self.cores.server, answer)?),
            None => None,
        };
        if let (Some(peer), Some(answer)) = (&floor, &model) {
            let asks = targets.first().map_or_else(|| vec![("/".to_owned(), vec![])], |target| target.asks.clone());
            let answer_bytes = (answer.head.len() + answer.body.len()) as f64;
            targets.push(Target { peer, asks, answer_bytes, body_bytes: answer.body.len() as u64 });
        }

        let mut loaded = Loaded::new(&row.name);
        for round in 0..self.rounds {
            // Every server goes first equally often: a burst of noise does not always hit the same one.
            for turn in 0..targets.len() {
                let target = &targets[(round + turn) % targets.len()];
                loaded.add(target.peer.who, self.measure(row.protocol, target)?);
            }
        }
        let nginx = Bar::Times(row.nginx_max, Who::Nginx);
        let line =
            loaded.cpu([nginx].into_iter().chain(row.floor_max.map(|max| Bar::Times(max, Who::Floor))).collect());
        Ok(Some((loaded, line)))
    }

    /// Checks a server's answers against the files and describes how to ask for them; also the first answer.
    fn target<'p>(&self, row: &Row, peer: &'p Peer) -> Outcome<Option<(Target<'p>, Answer)>> {
        let mut target = Target { peer, asks: Vec::new(), answer_bytes: 0.0, body_bytes: 0 };
        let mut first = None;
        for ask in &row.asks {
            let named = |e: String| format!("{}, {}: {e}", peer.who.name(), row.name);
            let Some((headers, answer)) = self.check(row.protocol, ask, peer).map_err(named)? else { return Ok(None) };
            target.asks.push((peer.path(self.tree, ask), headers));
            target.answer_bytes += (answer.head.len() + answer.body.len()) as f64 / row.asks.len() as f64;
            if first.is_none() {
                target.body_bytes = answer.body.len() as u64;
                first = Some(answer);
            }
        }
        Ok(first.map(|answer| (target, answer)))
    }

    /// One answer, compared with the file, and the header lines that ask for it; `None` when segue cannot
    /// give such an answer.
    fn check(&self, protocol: Protocol, ask: &Ask, peer: &Peer) -> Outcome<Option<(Headers, Answer)>> {
        let path = peer.path(self.tree, ask);
        let get = |headers: &[(String, String)]| match protocol {
            Protocol::Http1 => http::get(peer.port, &path, headers),
            _ => curl::get(self.dir, protocol, &format!("{}{path}", peer.base(protocol)), headers),
        };
        if protocol != Protocol::Http1 && peer.who == Who::Segue && !peer.speaks(protocol, self.dir, &path) {
            return Ok(None);
        }
        let file = self.tree.files.join(&ask.bare_path(self.tree)[1..]);
        let mut expected = std::fs::read(&file).map_err(|e| format!("cannot read {}: {e}", file.display()))?;
        let mut headers = Vec::new();
        let mut status = 200;
        match &ask.kind {
            Kind::Whole => {}
            Kind::Gzip => headers.push(("Accept-Encoding".to_owned(), "gzip".to_owned())),
            Kind::NotModified => {
                let whole = get(&[])?;
                let tag = whole.header("etag").ok_or("there is no ETag")?;
                headers.push(("If-None-Match".to_owned(), tag.to_owned()));
                (status, expected) = (304, Vec::new());
            }
            Kind::Part(part) => {
                headers.push(("Range".to_owned(), format!("bytes={}-{}", part.start, part.end - 1)));
                (status, expected) = (206, expected[part.start as usize..part.end as usize].to_vec());
            }
        }
        let answer = get(&headers)?;
        if answer.status != status {
            return Err(format!("status {} instead of {status}", answer.status));
        }
        if ask.kind == Kind::Gzip {
            return match answer.header("content-encoding") {
                Some("gzip") => Ok(Some((headers, answer))),
                _ if peer.who == Who::Segue => Ok(None),
                _ => Err("it is not compressed".into()),
            };
        }
        if answer.body != expected {
            return Err(format!("{} bytes that are not the file's", answer.body.len()));
        }
        Ok(Some((headers, answer)))
    }

    /// One server, one run of the load.
    fn measure(&self, protocol: Protocol, target: &Target<'_>) -> Outcome<Figures> {
        let peer = target.peer;
        let tls = protocol.is_encrypted().then_some(self.tls);
        let base = peer.base(protocol);
        let before = peer.process.cpu()?;
        let (requests, duration_s, p50_us, p99_us) = if protocol.is_h2() {
            let url = format!("{base}{}", target.asks[0].0);
            let seen = h2load::run(self.dir, self.cores.client, self.seconds, &url, target.body_bytes, tls)?;
            (seen.requests, seen.duration_s, seen.p50_us, seen.p99_us)
        } else {
            let load = wrk::Load { base, port: peer.port, asks: &target.asks, answer_bytes: target.answer_bytes };
            let seen = wrk::run(self.dir, self.cores.client, self.seconds, &load, tls)?;
            (seen.requests, seen.duration_us as f64 / 1e6, seen.p50_us as f64, seen.p99_us as f64)
        };
        let spent = peer.process.cpu()?.since(before);
        let requests = requests as f64;
        Ok(Figures { requests_per_s: requests / duration_s, p50_us, p99_us, cpu_us: spent as f64 / 1e3 / requests })
    }

    /// Q3: latency when requests come at `rate`, whether or not earlier ones are answered.
    pub(crate) fn paced(&self, peers: &[&Peer], rate: f64) -> Outcome<[Line; 2]> {
        let what = format!("192 KiB, {rate:.0} a second");
        let mut p50 = Line::new(&what, "p50 µs", vec![]);
        let mut p99 = Line::new(&what, "p99 µs", vec![Bar::Times(1.0, Who::Nginx)]);
        let ask = Ask { space: Space::Media, path: PACED_PATH.into(), kind: Kind::Whole };
        for round in 0..self.rounds {
            for turn in 0..peers.len() {
                let peer = peers[(round + turn) % peers.len()];
                let (port, path) = (peer.port, peer.path(self.tree, &ask));
                let answer = http::get(port, &path, &[])?;
                let answer_bytes = (answer.head.len() + answer.body.len()) as u64;
                let seconds = self.seconds as f64;
                let schedule = paced::Schedule { port, path, answer_bytes, rate, seconds, connections: 64 };
                let seen = paced::run(self.cores.client, &schedule)?;
                p50.add(peer.who, seen.p50_us);
                p99.add(peer.who, seen.p99_us);
            }
        }
        Ok([p50, p99])
    }

    /// Pieces of a file that is not in memory, alone and beside listeners of a hot segment.
    ///
    /// # Errors
    /// Also when files here cannot be made cold.
    pub(crate) fn cold(&self, peers: &[&Peer]) -> Outcome<[Line; 4]> {
        let what = "192 KiB piece, cold";
        let mut cpu = Line::new(what, "CPU µs/answer", vec![Bar::Times(1.0, Who::Nginx)]);
        let mut wall = Line::new(what, "wall µs/answer", vec![]);
        let mut p99 = Line::new("hot beside cold", "hot p99 µs", vec![Bar::Times(1.0, Who::Nginx)]);
        let mut harm = Line::new("hot beside cold", "hot p99, × without cold", vec![Bar::AtMost(2.0)]);
        let file = self.tree.cold_file();
        let ask = Ask { space: Space::Download, path: self.tree.cold.0.clone(), kind: Kind::Part(0..1) };
        for round in 0..self.rounds {
            for turn in 0..peers.len() {
                let peer = peers[(round + turn) % peers.len()];
                let plan = |cold_bytes, hot_rate| cold::Plan {
                    port: peer.port,
                    cold_path: peer.path(self.tree, &ask),
                    cold_bytes,
                    hot_path: peer.small_path(self.tree),
                    hot_rate,
                    seconds: self.seconds as f64,
                };
                // Each opens its files, and what that costs is not measured.
                http::get(peer.port, &peer.path(self.tree, &ask), &[one_byte()])?;
                http::get(peer.port, &peer.small_path(self.tree), &[])?;
                cold::forget(&file)?;
                let hot = cold::run(self.cores.client, &plan(0, HOT_RATE))?;
                let before = peer.process.cpu()?;
                let alone = cold::run(self.cores.client, &plan(self.tree.cold.1, 0.0))?;
                let spent = peer.process.cpu()?.since(before);
                cpu.add(peer.who, spent as f64 / 1e3 / alone.pieces as f64);
                wall.add(peer.who, alone.seconds * 1e6 / alone.pieces as f64);
                cold::forget(&file)?;
                // segue believes for a second that what it has seen in memory is still there.
                std::thread::sleep(Duration::from_millis(1_300));
                let beside = cold::run(self.cores.client, &plan(self.tree.cold.1, HOT_RATE))?;
                p99.add(peer.who, beside.hot_p99_us);
                harm.add(peer.who, beside.hot_p99_us / hot.hot_p99_us);
            }
        }
        Ok([cpu, wall, p99, harm])
    }

    /// Q6: all at once for one object that is in the bucket and not here.
    pub(crate) fn storm(&self, far: Far, listeners: usize) -> Outcome<[Line; 6]> {
        /// 60 segments of it and a page are 2 MiB.
        const KIB: u64 = 34;
        let what = format!("{listeners} for a cold 2 MiB, {} MiB/s", far.mib_per_s);
        let mut last = Line::new(&what, "last byte, × one alone", vec![Bar::AtMost(1.5)]);
        let mut alone_ms = Line::new(&what, "ms, one alone", vec![]);
        let mut warm_ms = Line::new(&what, "ms, all of them, warm", vec![]);
        let mut hot_us = Line::new(&what, "hot p99 µs beside them", vec![]);
        let mut reads = Line::new(&what, "reads of one range", vec![Bar::AtMost(1.0)]);
        let mut harm = Line::new(&what, "hot p99, × without them", vec![Bar::AtMost(2.0)]);
        // Two that nobody has for each round, and one that is hot.
        let count = 2 * self.rounds + 1;
        let dir = self.dir.join(format!("storm-{}", far.mib_per_s));
        std::fs::create_dir(&dir).map_err(|e| format!("cannot make {}: {e}", dir.display()))?;
        let (data, hot, version) = tree::many(&dir, count, KIB)?;
        let bucket = Bucket::serve(&data.join("store"), far)?;
        let nothing = dir.join("nothing");
        let settings = bucket::settings(bucket.port, &nothing.join("cache"));
        let store = Store { data: &nothing, track: hot, version, tokens: false, bucket: Some(settings) };
        let (peer, _) = peers::segue_over(self.dir, self.program, self.cores.server, &store)?;
        let whole = |number: usize| format!("/d/trk_bench{number:06}/{version}/{}", tree::object_name(KIB));
        let hot_path = format!("/a/{hot}/{version}/aac/{KIB}/00000.mp4");
        let ask = |path: String, listeners, hot_rate| {
            let seconds = self.seconds as f64;
            let plan = bucket::Plan { port: peer.port, path, listeners, hot_path: hot_path.clone(), hot_rate, seconds };
            bucket::run(self.cores.client, &plan)
        };
        http::get(peer.port, &hot_path, &[])?;
        for round in 0..self.rounds {
            let calm = ask(String::new(), 0, HOT_RATE)?;
            let alone = ask(whole(2 * round), 1, 0.0)?;
            bucket.reads();
            let storm = ask(whole(2 * round + 1), listeners, HOT_RATE)?;
            let (most, ranges) = bucket.reads();
            if ranges == 0 {
                return Err("the storm asked the bucket for nothing".into());
            }
            let warm = ask(whole(2 * round + 1), listeners, 0.0)?;
            last.add(Who::Segue, storm.seconds / alone.seconds);
            alone_ms.add(Who::Segue, alone.seconds * 1e3);
            warm_ms.add(Who::Segue, warm.seconds * 1e3);
            hot_us.add(Who::Segue, storm.hot_p99_us);
            reads.add(Who::Segue, most as f64);
            harm.add(Who::Segue, storm.hot_p99_us / calm.hot_p99_us);
        }
        Ok([last, alone_ms, warm_ms, reads, harm, hot_us])
    }

    /// Q7: what an answer costs when its file is in the disk cache of a bucket, and when it is in the store.
    pub(crate) fn warm_cache(&self) -> Outcome<Vec<Line>> {
        let tree = self.tree;
        let near = Far { delay: Duration::ZERO, mib_per_s: 1 << 20 };
        let bucket = Bucket::serve(&tree.data.join("store"), near)?;
        let nothing = self.dir.join("warm");
        let settings = bucket::settings(bucket.port, &nothing.join("cache"));
        let local = Store { data: &tree.data, track: tree.track, version: tree.version, tokens: true, bucket: None };
        let remote = Store { data: &nothing, bucket: Some(settings), ..local };
        let (remote, _) = peers::segue_over(self.dir, self.program, self.cores.server, &remote)?;
        let local = Store { data: &tree.data, track: tree.track, version: tree.version, tokens: true, bucket: None };
        let (local, _) = peers::segue_over(self.dir, self.program, self.cores.server, &local)?;
        let mut lines = Vec::new();
        for row in rows::rows().into_iter().filter(|row| row.protocol == Protocol::Http1 && row.is_segment()) {
            let mut line = Line::new(&format!("{}, warm cache", row.name), "CPU, × local", vec![Bar::AtMost(1.05)]);
            let mut targets = Vec::new();
            for peer in [&remote, &local] {
                targets.extend(self.target(&row, peer)?.map(|(target, _)| target));
            }
            if targets.len() < 2 {
                continue;
            }
            // Everything is fetched and checked before anything is measured.
            for target in &targets {
                self.measure(row.protocol, target)?;
            }
            for round in 0..self.rounds {
                let mut cpu_us = [0.0; 2];
                for turn in 0..2 {
                    let at = (round + turn) % 2;
                    cpu_us[at] = self.measure(row.protocol, &targets[at])?.cpu_us;
                }
                line.add(Who::Segue, cpu_us[0] / cpu_us[1]);
            }
            lines.push(line);
        }
        Ok(lines)
    }

    /// Q5: memory of a freshly started server with `connections` listeners at rest.
    pub(crate) fn idle(&self, who: &[Who], connections: u64) -> Outcome<Line> {
        let what = format!("{connections} idle connections");
        let mut line = Line::new(&what, "bytes each", vec![Bar::Times(1.0, Who::Nginx)]);
        // A listener rests about six seconds between two segments.
        let rest = Duration::from_secs(if self.rounds > 1 { 6 } else { 1 });
        for who in who {
            let named = |e| format!("{}: {e}", who.name());
            let nginx = |connections| self.start_nginx(None, &[], &Tuning { connections, aio: false });
            let (before_bytes, peer) = match who {
                Who::Floor => continue,
                Who::Segue => {
                    let peer = self.start_segue()?;
                    (idle::at_rest(&peer.process, peer.port, &peer.small_path(self.tree)).map_err(named)?, peer)
                }
                // nginx makes its table of connections at the start, as large as it is told. That is memory of
                // connections too, so "before" is an nginx with next to none. It closes idle connections when
                // less than a sixteenth of the table is free, hence the eighth.
                Who::Nginx => {
                    let small = nginx(64)?;
                    let before =
                        idle::at_rest(&small.process, small.port, &small.small_path(self.tree)).map_err(named)?;
                    drop(small);
                    (before, nginx(connections + connections / 8 + 64)?)
                }
            };
            let after_bytes = idle::with(&peer.process, peer.port, &peer.small_path(self.tree), connections, rest);
            let growth = after_bytes.map_err(named)?.saturating_sub(before_bytes);
            line.add(*who, growth as f64 / connections as f64);
        }
        Ok(line)
    }

    /// Q8: what the token costs, seen from outside: CPU per answer of 1 KiB with it and without.
    pub(crate) fn token(&self) -> Outcome<Line> {
        let mut line = Line::new("token, 1 KiB segment", "CPU µs more than without", vec![Bar::AtMost(1.5)]);
        let tree = self.tree;
        let store = |tokens| Store { data: &tree.data, track: tree.track, version: tree.version, tokens, bucket: None };
        let (guarded, _) = peers::segue_over(self.dir, self.program, self.cores.server, &store(true))?;
        let (open, _) = peers::segue_over(self.dir, self.program, self.cores.server, &store(false))?;
        let row = Row::smallest();
        let mut targets = Vec::new();
        for peer in [&guarded, &open] {
            targets.extend(self.target(&row, peer)?.map(|(target, _)| target));
        }
        for round in 0..self.rounds {
            let mut cpu_us = [0.0; 2];
            for turn in 0..targets.len() {
                let at = (round + turn) % targets.len();
                cpu_us[at] = self.measure(row.protocol, &targets[at])?.cpu_us;
            }
            line.add(Who::Segue, cpu_us[0] - cpu_us[1]);
        }
        Ok(line)
    }

    /// Q9: start and memory with `versions` in the store, and with one.
    pub(crate) fn start(&self, versions: usize) -> Outcome<[Line; 2]> {
        let what = format!("start, {versions} versions");
        let mut time = Line::new(&what, "ms to the first answer", vec![Bar::AtMost(1_000.0)]);
        let mut memory = Line::new(&what, "memory, × with one", vec![Bar::AtMost(1.1)]);
        // In memory where there is room: a disk's journal makes 100,000 directories a matter of minutes.
        let memory_dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir_in(self.dir));
        let scratch = memory_dir.map_err(|e| format!("no scratch directory: {e}"))?;
        let stores = [tree::many(scratch.path(), 1, 1)?, tree::many(scratch.path(), versions, 1)?];
        for _ in 0..self.rounds {
            let mut resident = Vec::new();
            for (number, (data, track, version)) in stores.iter().enumerate() {
                let store = Store { data, track: *track, version: *version, tokens: true, bucket: None };
                let (peer, took) = peers::segue_over(self.dir, self.program, self.cores.server, &store)?;
                resident.push(peer.process.resident_bytes()? as f64);
                if number == 1 {
                    time.add(Who::Segue, took.as_secs_f64() * 1e3);
                }
            }
            memory.add(Who::Segue, resident[1] / resident[0]);
        }
        Ok([time, memory])
    }
}

/// Requests per second of those who are in memory while others are fetched: a tenth of what a core can do.
const HOT_RATE: f64 = 2_000.0;

fn one_byte() -> (String, String) {
    ("Range".to_owned(), "bytes=0-0".to_owned())
}

/// Headers of a media answer when there is no segue to ask.
const PLAUSIBLE: [(&str, &str); 6] = [
    ("Cache-Control", "public, max-age=31536000, immutable"),
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Expose-Headers", "Content-Length, Content-Range, ETag, Server-Timing"),
    ("Timing-Allow-Origin", "*"),
    ("Cross-Origin-Resource-Policy", "cross-origin"),
    ("X-Content-Type-Options", "nosniff"),
];
