//! The transcoder beside one ffmpeg process making the same rungs: wall time, CPU time, memory.
//!
//! ```text
//! cargo bench --bench transcode -- [--rounds N] [--input FILE] [--smoke] [--markdown FILE] [--json FILE]
//! cargo bench --bench transcode -- --memory 60,3600,36000
//! cargo bench --bench transcode -- --hdr 10
//! cargo bench --features fdk-aac --bench transcode -- --fdk
//! ```
//!
//! The two take turns on the same input; figures are medians, bars are ratios within the run (Q10). ffmpeg
//! gets one process, its native AAC encoder and HLS with fMP4 segments, one output per rung that segue
//! made, read from its `version.json`. segue's time includes what ffmpeg is spared: probing, loudness,
//! waveform, preview, hashing. Both write to memory where there is room, so no disk is measured.
//!
//! The first rung is measured by itself: from the start of `segue publish` until a new track can be played, as a share
//! of the whole (Q11). Quality is measured on what the last round left (`quality.rs`). `--memory` measures nothing but
//! the memory of the child on sources of so many seconds (Q12), `--hdr` nothing but tone mapping (`hdr.rs`).
#![allow(clippy::print_stdout, reason = "the table is the product")]

mod hdr;
#[path = "../origin/machine.rs"]
#[allow(dead_code, reason = "shared with the origin bench, which uses all of it")]
mod machine;
mod quality;

use std::fs;
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use segue::hls::version::{Family, Rung, VersionIndex};
use serde_json::json;

/// A result whose error is a line for people.
type Outcome<T> = Result<T, String>;

/// Q10: default encoder, default ladder, two cores.
const WALL_MAX: f64 = 0.55;
const CPU_MAX: f64 = 1.05;
/// Q10: the same with Fraunhofer's encoder (`--fdk`).
const FDK_WALL_MAX: f64 = 0.15;
const FDK_CPU_MAX: f64 = 0.25;
/// Q11: until the first rung and the preview can be played, as a share of the whole, and in seconds.
const PLAYABLE_MAX: f64 = 0.25;
const PLAYABLE_MAX_S: f64 = 3.0;
/// Q10: what may be lost against ffmpeg's rung before it counts as worse, in dB: the two differ by chance.
const QUALITY_SLACK_DB: f64 = 0.1;
/// Q12: the process that decodes and encodes.
const MEMORY_MAX_MIB: f64 = 120.0;

#[derive(Parser)]
#[command(about = "The transcoder beside one ffmpeg process")]
struct Options {
    /// Rounds; figures are medians over them.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Length of the made-up input in seconds.
    #[arg(long, default_value_t = 240)]
    length: u32,
    /// Use this file instead of a made-up input.
    #[arg(long)]
    input: Option<PathBuf>,
    /// Only measure the memory of the child, on made-up sources of so many seconds: mono at 22,050 Hz, and stereo at
    /// 44,100 Hz up to two hours.
    #[arg(long, value_name = "SECONDS", value_delimiter = ',')]
    memory: Vec<u32>,
    /// Only measure what it costs to make SDR of HDR, on made-up films of so many seconds.
    #[arg(long, value_name = "SECONDS")]
    hdr: Option<u32>,
    /// The same ladder by Fraunhofer's encoder; needs a build with the feature `fdk-aac`.
    #[arg(long)]
    fdk: bool,
    /// Only show that everything works: five seconds of input, one round, no verdict.
    #[arg(long)]
    smoke: bool,
    /// Where to write; it is emptied again.
    #[arg(long)]
    scratch: Option<PathBuf>,
    /// Also write the table as Markdown.
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Also write everything as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Exit with 1 when a bar is missed.
    #[arg(long)]
    strict: bool,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(code) => code,
        Err(why) => {
            eprintln!("transcode bench: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Outcome<ExitCode> {
    let length = if options.smoke { 5 } else { options.length };
    let rounds = if options.smoke { 1 } else { options.rounds.max(1) };
    let ffmpeg_version = machine::version("ffmpeg", "-version");
    let ffmpeg_version = ffmpeg_version.split(" Copyright").next().unwrap_or("ffmpeg").replace(" version", "");
    let machine = format!("{}; {ffmpeg_version}", machine::description());
    let scratch = match &options.scratch {
        Some(dir) => tempfile::tempdir_in(dir),
        // A WAV of ten minutes and its ladder are some 150 MB.
        None => tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))),
    };
    let scratch = scratch.map_err(|e| format!("no scratch directory: {e}"))?;
    if !options.memory.is_empty() {
        return memory(options, &machine);
    }
    if let Some(seconds) = options.hdr {
        println!("{machine}; medians of {rounds}\n\n{}", hdr::measured(scratch.path(), seconds.max(1), rounds)?);
        return Ok(ExitCode::SUCCESS);
    }
    let input = match &options.input {
        Some(file) => file.clone(),
        None => music(scratch.path(), length)?,
    };

    let out = scratch.path().join("segue");
    let mut segue = Command::new(env!("CARGO_BIN_EXE_segue"));
    segue.arg("transcode").arg(&input).arg("--out").arg(&out);
    let ladder = options.fdk.then(|| scratch.path().join("fdk.toml"));
    if let Some(ladder) = &ladder {
        let text = include_str!("../../pipelines/audio.toml").replace("\"avenc_aac\"", "\"fdk\"");
        fs::write(ladder, text).map_err(|e| format!("cannot write {}: {e}", ladder.display()))?;
        segue.arg("--ladder").arg(ladder);
    }
    let peer_out = scratch.path().join("ffmpeg");
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    let mut rungs = Vec::new();
    for round in 0..rounds {
        let segue_turn = |segue: &mut Command| {
            empty(&out)?;
            measure("segue", segue)
        };
        // segue first in the first round, for its list of rungs; then they take turns at being first.
        if round % 2 == 0 {
            ours.push(segue_turn(&mut segue)?);
            rungs = made(&out)?;
        }
        theirs.push(ffmpeg(&input, &peer_out, &rungs)?);
        if round % 2 == 1 {
            ours.push(segue_turn(&mut segue)?);
        }
        if let (Some(ours), Some(theirs)) = (ours.last(), theirs.last()) {
            eprintln!(
                "round {}: segue {:.2} s, CPU {:.2} s · ffmpeg {:.2} s, CPU {:.2} s",
                round + 1,
                ours.wall_s,
                ours.cpu_s,
                theirs.wall_s,
                theirs.cpu_s
            );
        }
    }
    // A source of less than a minute has no first rung.
    let is_long = rungs.first().is_some_and(|rung| rung.samples >= 60 * u64::from(rung.rate));
    let turns = if is_long { rounds } else { 0 };
    let first =
        (0..turns).map(|_| first_rung(scratch.path(), &input, ladder.as_deref())).collect::<Outcome<Vec<_>>>()?;
    let lossy = rungs.iter().filter(|rung| rung.family == Family::Aac);
    let qualities = lossy.map(|rung| Compared::measure(&input, rung, [&out, &peer_out])).collect::<Outcome<_>>()?;
    let (ours_median, theirs_median) = (Used::median(&ours), Used::median(&theirs));
    let report = Report {
        ours: ours_median,
        theirs: theirs_median,
        first: First::median(&first),
        qualities,
        bars: if options.fdk { (FDK_WALL_MAX, FDK_CPU_MAX) } else { (WALL_MAX, CPU_MAX) },
        judged: !options.smoke,
    };

    let encoder = if options.fdk { ", AAC by fdk-aac" } else { "" };
    let work = format!(
        "{}: {}{encoder}",
        if options.input.is_some() { "given input" } else { "made-up music" },
        names(&rungs)
    );
    let title = format!("{machine}.\n{work}; {length} s, medians of {rounds}");
    let title = if options.input.is_some() { title.replace(&format!("{length} s, "), "") } else { title };
    println!("{title}\n\n{}", report.text());
    if cfg!(debug_assertions) {
        println!("warning: development build: the figures of segue mean nothing");
    }
    if let Some(file) = &options.markdown {
        let text = format!("{}.\n\n{}", title.replace('\n', " "), report.markdown());
        fs::write(file, text).map_err(|e| format!("cannot write {}: {e}", file.display()))?;
    }
    if let Some(file) = &options.json {
        let list = |of: &[Used]| of.iter().map(Used::json).collect::<Vec<_>>();
        let all = json!({
            "machine": machine, "work": work, "smoke": options.smoke,
            "segue": list(&ours), "ffmpeg": list(&theirs),
            "wall_ratio": report.ours.wall_s / report.theirs.wall_s,
            "cpu_ratio": report.ours.cpu_s / report.theirs.cpu_s,
            "first_rung": first.iter().map(|f| json!({ "playable_s": f.playable_s, "whole_s": f.whole_s })).collect::<Vec<_>>(),
            "quality": report.qualities.iter().map(Compared::json).collect::<Vec<_>>(),
        });
        fs::write(file, format!("{all:#}\n")).map_err(|e| format!("cannot write {}: {e}", file.display()))?;
    }
    Ok(if options.strict && report.missed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

// ── the work ──

/// Something an encoder has to work on: chords that swell, a beat with sharp attacks, a bed of noise; the
/// two channels differ. The same bytes on every run.
fn music(dir: &Path, length: u32) -> Outcome<PathBuf> {
    let chord = |a: f64, b: f64, c: f64| {
        format!(
            "0.16*sin(2*PI*{a}*t)*(0.6+0.4*sin(2*PI*0.31*t))+0.12*sin(2*PI*{b}*t)*(0.5+0.5*sin(2*PI*0.17*t))\
             +0.08*sin(2*PI*{c}*t+3*sin(2*PI*5*t))+0.3*exp(-24*mod(t,0.5))*(2*random(0)-1)"
        )
    };
    let graph = format!(
        "aevalsrc='{}|{}':s=44100:d={length}[tones];anoisesrc=c=pink:r=44100:a=0.06:seed=7:d={length}[noise];\
         [tones][noise]amix=inputs=2:normalize=0,tremolo=f=0.9:d=0.3",
        chord(220.0, 554.37, 1318.51),
        chord(110.0, 659.26, 1760.0)
    );
    let file = dir.join("in.wav");
    let mut ffmpeg = quiet_ffmpeg();
    ffmpeg.args(["-filter_complex", &graph, "-ac", "2", "-c:a", "pcm_s16le", "-bitexact"]).arg(&file);
    measure("ffmpeg (making the input)", &mut ffmpeg)?;
    Ok(file)
}

fn quiet_ffmpeg() -> Command {
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-hide_banner", "-loglevel", "error", "-nostdin", "-y"]);
    ffmpeg
}

/// One ffmpeg process, one HLS output per rung.
fn ffmpeg(input: &Path, out: &Path, rungs: &[Rung]) -> Outcome<Used> {
    empty(out)?;
    let mut command = quiet_ffmpeg();
    command.arg("-i").arg(input);
    for rung in rungs {
        let dir = out.join(rung.path());
        fs::create_dir_all(&dir).map_err(|e| format!("cannot make {}: {e}", dir.display()))?;
        command.args(["-map", "0:a"]);
        match rung.family {
            Family::Aac | Family::Video => command.args(["-c:a", "aac", "-b:a", &rung.nominal_bps.to_string()]),
            Family::Flac => command.args(["-c:a", "flac", "-strict", "-2"]), // FLAC in MP4 is "experimental" to 5.1
        };
        let seconds = rung.segments.first().map_or(6.0, |s| s.ticks as f64 / f64::from(rung.rate));
        command.args(["-f", "hls", "-hls_segment_type", "fmp4", "-hls_playlist_type", "vod"]);
        command.args(["-hls_time", &format!("{seconds:.3}"), "-hls_fmp4_init_filename", "init.mp4"]);
        command.arg("-hls_segment_filename").arg(dir.join("%05d.mp4")).arg(dir.join("index.m3u8"));
    }
    let used = measure("ffmpeg", &mut command)?;
    for rung in rungs {
        check_playlist(&out.join(rung.path()).join("index.m3u8"), rung)?;
    }
    Ok(used)
}

/// The rungs segue made, having checked that their playlists are whole.
fn made(out: &Path) -> Outcome<Vec<Rung>> {
    let file = out.join("version.json");
    let document = fs::read(&file).map_err(|e| format!("segue left no {}: {e}", file.display()))?;
    let index = VersionIndex::decode(&document).map_err(|e| e.chain())?;
    for rung in &index.rungs {
        check_playlist(&out.join(rung.path()).join("index.m3u8"), rung)?;
    }
    Ok(index.rungs)
}

/// A playlist must end and be as long as the rung, or less work was done than we measured.
fn check_playlist(file: &Path, rung: &Rung) -> Outcome<()> {
    let text = fs::read_to_string(file).map_err(|e| format!("cannot read {}: {e}", file.display()))?;
    let durations =
        text.lines().filter_map(|line| line.strip_prefix("#EXTINF:")?.split(',').next()?.parse::<f64>().ok());
    let (length, expected) = (durations.sum::<f64>(), rung.samples as f64 / f64::from(rung.rate));
    if !text.contains("#EXT-X-ENDLIST") || (length - expected).abs() > 0.2 {
        return Err(format!("{} ends after {length:.2} s instead of {expected:.2}", file.display()));
    }
    Ok(())
}

/// Until a new track could be played, and until it was whole.
#[derive(Clone, Copy)]
struct First {
    playable_s: f64,
    whole_s: f64,
}

impl First {
    fn median(of: &[First]) -> Option<First> {
        let middle = |field: fn(&First) -> f64| {
            let mut sorted: Vec<f64> = of.iter().map(field).collect();
            sorted.sort_by(f64::total_cmp);
            sorted.get(sorted.len() / 2).copied()
        };
        Some(First { playable_s: middle(|f| f.playable_s)?, whole_s: middle(|f| f.whole_s)? })
    }
}

/// Publishes, and notes when it says that the track can be played: its record is written then.
fn first_rung(scratch: &Path, input: &Path, ladder: Option<&Path>) -> Outcome<First> {
    let data = scratch.join("data");
    let mut segue = Command::new(env!("CARGO_BIN_EXE_segue"));
    segue.args(["publish", "--json", "--early", "--events", "--data"]).arg(&data).arg(input);
    if let Some(ladder) = ladder {
        segue.arg("--ladder").arg(ladder);
    }
    let start = Instant::now();
    let spawned = segue.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|e| format!("cannot start segue: {e}"))?;
    let (mut playable_s, mut words) = (None, String::new());
    for line in BufReader::new(child.stderr.take().expect("stderr is piped")).lines() {
        let line = line.map_err(|e| e.to_string())?;
        if line.contains("\"event\":\"playable\"") {
            playable_s = Some(start.elapsed().as_secs_f64());
        }
        words = line;
    }
    let status = child.wait().map_err(|e| e.to_string())?;
    let whole_s = start.elapsed().as_secs_f64();
    empty(&data)?;
    match playable_s {
        Some(playable_s) if status.success() => Ok(First { playable_s, whole_s }),
        _ => Err(format!("segue publish ended with {status} and was never playable: {words}")),
    }
}

/// A rung of ours and ffmpeg's, both against the source.
struct Compared {
    path: String,
    ours: quality::Quality,
    theirs: quality::Quality,
    /// Bytes of media for the same bit rate asked for.
    bytes: [u64; 2],
}

impl Compared {
    fn measure(input: &Path, rung: &Rung, [ours, theirs]: [&Path; 2]) -> Outcome<Compared> {
        let source = quality::decode(input, rung.rate)?;
        let window = quality::Window::new(f64::from(rung.rate));
        let of = |out: &Path| {
            let dir = out.join(rung.path());
            let coded = quality::decode(&dir.join("index.m3u8"), rung.rate)?;
            let files = fs::read_dir(&dir).map_err(|e| e.to_string())?;
            let bytes = files.filter_map(|file| Some(file.ok()?.metadata().ok()?.len())).sum();
            Ok::<_, String>((quality::compare(&source, &coded, &window), bytes))
        };
        let ((ours, our_bytes), (theirs, their_bytes)) = (of(ours)?, of(theirs)?);
        Ok(Compared { path: rung.path(), ours, theirs, bytes: [our_bytes, their_bytes] })
    }

    fn json(&self) -> serde_json::Value {
        let of = |q: &quality::Quality, bytes: u64| json!({ "snr_db": q.snr_db, "nmr_db": q.nmr_db, "bytes": bytes });
        json!({ "rung": self.path, "segue": of(&self.ours, self.bytes[0]), "ffmpeg": of(&self.theirs, self.bytes[1]) })
    }
}

/// The memory of the child by the length of its source.
fn memory(options: &Options, machine: &str) -> Outcome<ExitCode> {
    // Hours of audio do not fit into memory.
    let scratch = match &options.scratch {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")),
    };
    let scratch = scratch.map_err(|e| format!("no scratch directory: {e}"))?;
    println!("{machine}.\n\n| source | wall s | largest process MiB | bar |\n|---|---|---|---|");
    let mut missed = false;
    for length in &options.memory {
        for (rate, channels) in [(22_050, 1), (44_100, 2)] {
            if channels == 2 && *length > 7200 {
                continue; // the same queues as below, and an hour of encoding
            }
            let input = scratch.path().join("in.wav");
            noise(&input, *length, rate, channels).map_err(|e| format!("cannot write the input: {e}"))?;
            let out = scratch.path().join("out");
            let mut segue = Command::new(env!("CARGO_BIN_EXE_segue"));
            let used = measure("segue", segue.arg("transcode").arg(&input).arg("--out").arg(&out))?;
            empty(&out)?;
            let pass = used.peak_mib <= MEMORY_MAX_MIB;
            missed |= !pass;
            let word = if pass { "pass" } else { "MISS" };
            let sound = if channels == 1 { "mono" } else { "stereo" };
            println!(
                "| {length} s of {rate} Hz {sound} | {:.1} | {:.0} | {word} (≤ {MEMORY_MAX_MIB:.0}) |",
                used.wall_s, used.peak_mib
            );
        }
    }
    Ok(if options.strict && missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A WAV of a tone in noise, written as it is made.
fn noise(file: &Path, seconds: u32, rate: u32, channels: u16) -> std::io::Result<()> {
    let frame = u32::from(channels) * 2;
    let bytes = seconds.checked_mul(rate * frame).ok_or(std::io::ErrorKind::InvalidInput)?;
    let mut out = BufWriter::with_capacity(1 << 20, fs::File::create(file)?);
    out.write_all(b"RIFF")?;
    out.write_all(&(bytes.saturating_add(36)).to_le_bytes())?;
    out.write_all(b"WAVEfmt \x10\0\0\0\x01\0")?;
    out.write_all(&channels.to_le_bytes())?;
    out.write_all(&rate.to_le_bytes())?;
    out.write_all(&(rate * frame).to_le_bytes())?;
    out.write_all(&(frame as u16).to_le_bytes())?;
    out.write_all(b"\x10\0data")?;
    out.write_all(&bytes.to_le_bytes())?;
    let mut seed = 1u32;
    for n in 0..u64::from(seconds) * u64::from(rate) {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let tone = ((n as f64 * 0.05).sin() * 6000.0) as i16 + (seed >> 21) as i16;
        for channel in 0..channels as i16 {
            out.write_all(&(tone >> channel).to_le_bytes())?;
        }
    }
    out.into_inner()?.sync_all()
}

/// `64, 96, 160, 256 kbit/s AAC, FLAC`, for the report.
fn names(rungs: &[Rung]) -> String {
    let aac: Vec<String> =
        rungs.iter().filter(|r| r.family == Family::Aac).map(|r| (r.nominal_bps / 1000).to_string()).collect();
    let flac = if rungs.iter().any(|r| r.family == Family::Flac) { " and FLAC" } else { "" };
    format!("AAC at {} kbit/s{flac}", aac.join(", "))
}

fn empty(dir: &Path) -> Outcome<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(format!("cannot empty {}: {e}", dir.display())),
        _ => Ok(()),
    }
}

// ── what it took ──

/// What one run of a program used, everything it started included.
#[derive(Clone, Copy)]
struct Used {
    wall_s: f64,
    cpu_s: f64,
    /// The most resident memory that one of its processes was seen with.
    peak_mib: f64,
    /// The highest sum over its processes; what they share is counted for each.
    peak_all_mib: f64,
}

impl Used {
    fn median(of: &[Used]) -> Used {
        let middle = |field: fn(&Used) -> f64| {
            let mut sorted: Vec<f64> = of.iter().map(field).collect();
            sorted.sort_by(f64::total_cmp);
            let at = sorted.len() / 2;
            if sorted.len() % 2 == 1 { sorted[at] } else { f64::midpoint(sorted[at - 1], sorted[at]) }
        };
        Used {
            wall_s: middle(|u| u.wall_s),
            cpu_s: middle(|u| u.cpu_s),
            peak_mib: middle(|u| u.peak_mib),
            peak_all_mib: middle(|u| u.peak_all_mib),
        }
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "wall_s": self.wall_s, "cpu_s": self.cpu_s, "peak_mib": self.peak_mib, "peak_all_mib": self.peak_all_mib,
        })
    }
}

/// Runs a program to its end. Fails, with its last words, when it does.
fn measure(name: &str, command: &mut Command) -> Outcome<Used> {
    let words = tempfile::NamedTempFile::new().map_err(|e| e.to_string())?;
    let log = words.reopen().and_then(|log| Ok((log.try_clone()?, log))).map_err(|e| e.to_string())?;
    let before = children_cpu_s()?;
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(log.0)
        .stderr(log.1)
        .spawn()
        .map_err(|e| format!("cannot start {name}: {e}; .ci/setup bench installs what is missing"))?;
    let (status, peak) = watch(&mut child)?;
    let wall_s = start.elapsed().as_secs_f64();
    if !status.success() {
        let text = fs::read_to_string(words.path()).unwrap_or_default();
        return Err(format!("{name} failed ({status}): {}", text.trim()));
    }
    let mib = |kib: u64| kib as f64 / 1024.0;
    Ok(Used {
        wall_s,
        cpu_s: children_cpu_s()? - before,
        peak_mib: mib(peak.largest_kib),
        peak_all_mib: mib(peak.sum_kib),
    })
}

/// Resident memory of a process and its descendants, at one moment or at its highest.
#[derive(Clone, Copy, Default)]
struct Resident {
    largest_kib: u64,
    sum_kib: u64,
}

/// How often the memory is looked at: each look is a file for each thread, on cores that what is measured wants for itself.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Waits for the end, and looks at the memory meanwhile.
fn watch(child: &mut Child) -> Outcome<(std::process::ExitStatus, Resident)> {
    let (ended, pid) = (AtomicBool::new(false), child.id());
    std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut peak = Resident::default();
            while !ended.load(Ordering::Relaxed) {
                let mut now = Resident::default();
                add_resident(pid, &mut now);
                peak.largest_kib = peak.largest_kib.max(now.largest_kib);
                peak.sum_kib = peak.sum_kib.max(now.sum_kib);
                std::thread::park_timeout(LOOK_EVERY);
            }
            peak
        });
        let status = child.wait();
        ended.store(true, Ordering::Relaxed);
        looking.thread().unpark();
        let peak = looking.join().map_err(|_| "nobody looked at the memory".to_owned())?;
        Ok((status.map_err(|e| e.to_string())?, peak))
    })
}

/// Adds a process and its descendants: of the largest its peak so far, which the kernel keeps, of all what they have now.
fn add_resident(pid: u32, to: &mut Resident) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| -> u64 {
        let text = status.lines().find_map(|line| line.strip_prefix(name)?.trim_end_matches("kB").trim().parse().ok());
        text.unwrap_or(0)
    };
    to.largest_kib = to.largest_kib.max(field("VmHWM:"));
    to.sum_kib += field("VmRSS:");
    for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            add_resident(child, to);
        }
    }
}

/// CPU time of all ended children of ours and theirs, to the clock tick (usually 10 ms).
fn children_cpu_s() -> Outcome<f64> {
    let stat = fs::read_to_string("/proc/self/stat").map_err(|e| e.to_string())?;
    // Fields 16 and 17, cutime and cstime, counted after the parenthesis that ends the command's name.
    let fields: Vec<f64> =
        stat.rsplit(')').next().unwrap_or("").split_whitespace().map(|f| f.parse().unwrap_or(0.0)).collect();
    let ticks = fields.get(13).zip(fields.get(14)).map(|(user, system)| user + system);
    Ok(ticks.ok_or("/proc/self/stat is short")? / rustix::param::clock_ticks_per_second() as f64)
}

// ── the report ──

struct Report {
    ours: Used,
    theirs: Used,
    first: Option<First>,
    qualities: Vec<Compared>,
    /// Wall and CPU time at most, of ffmpeg's.
    bars: (f64, f64),
    judged: bool,
}

impl Report {
    const COLUMNS: [&str; 5] = ["measure", "segue", "ffmpeg", "ratio", "bar"];

    fn missed(&self) -> bool {
        self.judged && self.rows().iter().any(|row| row[4].starts_with("MISS"))
    }

    fn rows(&self) -> Vec<[String; 5]> {
        let word = |holds: bool, bar: String| match (self.judged, holds) {
            (false, _) => "not judged".into(),
            (true, true) => format!("pass ({bar})"),
            (true, false) => format!("MISS ({bar})"),
        };
        let row = |name: &str, unit: &str, ours: f64, theirs: f64, max: f64| {
            let ratio = ours / theirs;
            let bar = word(ratio <= max, format!("≤ {max:.2} × ffmpeg"));
            [name.into(), format!("{ours:.2} {unit}"), format!("{theirs:.2} {unit}"), format!("{ratio:.2}"), bar]
        };
        let memory = |name: &str, ours: f64, theirs: f64, bar: String| {
            [name.into(), format!("{ours:.0} MiB"), format!("{theirs:.0} MiB"), format!("{:.2}", ours / theirs), bar]
        };
        let (ours, theirs) = (self.ours, self.theirs);
        let mut rows = vec![
            row("wall time (Q10)", "s", ours.wall_s, theirs.wall_s, self.bars.0),
            row("CPU time (Q10)", "s", ours.cpu_s, theirs.cpu_s, self.bars.1),
            memory(
                "largest process (Q12)",
                ours.peak_mib,
                theirs.peak_mib,
                word(ours.peak_mib <= MEMORY_MAX_MIB, format!("≤ {MEMORY_MAX_MIB:.0} MiB")),
            ),
            memory("all processes", ours.peak_all_mib, theirs.peak_all_mib, String::new()),
        ];
        if let Some(First { playable_s, whole_s }) = self.first {
            let share = playable_s / whole_s;
            let holds = share <= PLAYABLE_MAX && playable_s <= PLAYABLE_MAX_S;
            let bar = word(holds, format!("≤ {PLAYABLE_MAX:.2} × the whole, ≤ {PLAYABLE_MAX_S:.0} s"));
            let whole = format!("whole {whole_s:.2} s");
            rows.push([
                "first rung plays (Q11)".into(),
                format!("{playable_s:.2} s"),
                whole,
                format!("{share:.2}"),
                bar,
            ]);
        }
        for Compared { path, ours, theirs, bytes } in &self.qualities {
            let size = bytes[0] as f64 / bytes[1] as f64;
            let lower = |what: &str, ours: f64, theirs: f64, worse: f64| {
                let bar = word(worse <= QUALITY_SLACK_DB, "no worse than ffmpeg".into());
                let more = format!("{bar}, {size:.3} × its bytes");
                let cells = [format!("{ours:.2} dB"), format!("{theirs:.2} dB"), format!("{:+.2}", ours - theirs)];
                let [ours, theirs, apart] = cells;
                [format!("{path} {what}"), ours, theirs, apart, more]
            };
            rows.push(lower("noise to mask", ours.nmr_db, theirs.nmr_db, ours.nmr_db - theirs.nmr_db));
            rows.push(lower("signal to noise", ours.snr_db, theirs.snr_db, theirs.snr_db - ours.snr_db));
        }
        rows
    }

    fn text(&self) -> String {
        let line = |c: [&str; 5]| format!("{:<24} {:>10} {:>13} {:>7}  {}\n", c[0], c[1], c[2], c[3], c[4]);
        let rows = self.rows();
        let rows = rows.iter().map(|row| line(row.each_ref().map(String::as_str)));
        line(Self::COLUMNS) + &rows.collect::<String>()
    }

    fn markdown(&self) -> String {
        let rows = self.rows();
        let rows = rows.iter().map(|row| format!("| {} |\n", row.join(" | ")));
        format!("| {} |\n|{}\n{}", Self::COLUMNS.join(" | "), "---|".repeat(5), rows.collect::<String>())
    }
}
