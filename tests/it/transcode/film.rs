//! Films in every shape, made by ffmpeg and measured by ffmpeg: sizes, boundaries, order, time, colour, sound.
//!
//! The picture counts: the left half of each frame has a brightness that tells its number, and the right half tells up
//! from down. What comes out is compared with what ffmpeg makes of the source, turned, squared and at the same rate.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;

use segue::base::{Error, Kind, Result};
use segue::hls::cmaf::VideoCheck;
use segue::hls::ladder::video::{Choice, VideoLadder};
use segue::hls::version::{Family, Rung, VersionIndex, Video, VideoRung};
use segue::transcode::{Limits, Options, Progress, run_as};

use super::bench::{Bench, options};
use crate::support::Random;

/// Small and quick: segments of a second, two groups in each, three sizes.
fn ladder() -> VideoLadder {
    let mut text = "format = 1\nkind = \"video\"\n[segment]\nframes_44100 = 44\nframes_48000 = 48\ngroups = 2\n\
        [encoder]\nelement = \"x264enc\"\npreset = \"ultrafast\"\nb_frames = 0\nframe_rate_max = 60\n\
        [[audio]]\nname = \"48\"\nencoder = \"avenc_aac\"\nbitrate_bps = 48_000\n\
        [[audio]]\nname = \"96\"\nencoder = \"avenc_aac\"\nbitrate_bps = 96_000\n"
        .to_owned();
    for (name, width, height, audio) in [("90p", 160, 90, "48"), ("144p", 256, 144, "48"), ("180p", 320, 180, "96")] {
        text += &format!(
            "[[rung]]\nname = \"{name}\"\nwidth = {width}\nheight = {height}\nquality = 18\nbitrate_bps = 900_000\n\
             audio = \"{audio}\"\n"
        );
    }
    VideoLadder::decode(&text, "test.toml").unwrap()
}

fn choice() -> Choice {
    Choice::ByContent(segue::hls::ladder::Ladder::default_audio(), ladder())
}

/// A run's output.
struct Film {
    index: VersionIndex,
    dir: PathBuf,
}

impl Film {
    fn video(&self) -> &Video {
        self.index.video.as_ref().expect("it is a film")
    }

    fn path(&self, rung: &Rung) -> PathBuf {
        self.dir.join(&rung.object.name)
    }

    /// The init section and each segment.
    fn slices(&self, rung: &Rung) -> (Vec<u8>, Vec<Vec<u8>>) {
        let whole = std::fs::read(self.path(rung)).unwrap();
        let slice = |start: u64, bytes: u64| whole[start as usize..(start + bytes) as usize].to_vec();
        let segments = rung.segments.iter().zip(rung.offsets()).map(|(s, start)| slice(start, s.bytes)).collect();
        (slice(0, rung.init.bytes), segments)
    }

    fn sizes(&self) -> Vec<(String, u32, u32)> {
        self.video().rungs.iter().map(|r| (r.encoding.name.clone(), r.width, r.height)).collect()
    }
}

fn try_film(bench: &Bench, input: &Path, choice: &Choice, limits: Limits) -> Result<Film> {
    let dir = tempfile::tempdir_in(bench.path("")).unwrap().keep();
    let options = Options { limits, ..options() };
    let made = run_as(input, choice, &dir, &options, &mut |_| (), &AtomicBool::new(false));
    if made.is_err() {
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0, "files are left behind");
    }
    made.map(|index| Film { index, dir })
}

/// Makes a film of `input` and checks all that must hold of any.
fn film(bench: &Bench, input: &Path) -> Film {
    let film = try_film(bench, input, &choice(), Limits::default()).unwrap();
    segue::hls::package::check(&film.index).unwrap();
    let video = film.video();
    for VideoRung { encoding, .. } in &video.rungs {
        for (ours, first) in encoding.segments.iter().zip(&video.rungs[0].encoding.segments) {
            assert_eq!(ours.ticks, first.ticks, "{}", encoding.path());
        }
        check_boxes(&film, encoding);
        assert_eq!(decoded(&film.path(encoding), "", 8, 8).len() as u64, video.frames, "{}", encoding.path());
    }
    film
}

/// Every fragment, read back; and every segment alone behind its init section, decoded without a word.
fn check_boxes(film: &Film, rung: &Rung) {
    let (init, segments) = film.slices(rung);
    let (n, d) = film.video().frame_rate;
    let frame = u64::from(rung.rate) * u64::from(d) / u64::from(n);
    let mut check = VideoCheck::begin(&init, frame as u32, false).unwrap();
    for (segment, said) in segments.iter().zip(&rung.segments) {
        assert_eq!(check.segment(segment).unwrap(), said.ticks);
    }
    check.finish().unwrap();
    let alone = film.dir.join("alone.mp4");
    for (number, (segment, said)) in segments.iter().zip(&rung.segments).enumerate() {
        std::fs::write(&alone, [&init[..], segment].concat()).unwrap();
        let frames = decoded(&alone, "", 8, 8).len() as u64;
        assert_eq!(frames * frame, said.ticks, "segment {number} of {}", rung.path());
    }
    std::fs::remove_file(alone).unwrap();
}

/// Small grey pictures of a file, as many as come out. One word of warning fails.
fn decoded(input: &Path, filter: &str, width: usize, height: usize) -> Vec<Vec<u8>> {
    decoded_at("warning", input, filter, width, height)
}

fn decoded_at(level: &str, input: &Path, filter: &str, width: usize, height: usize) -> Vec<Vec<u8>> {
    let filter =
        format!("{filter}{}scale={width}:{height}:flags=area,format=gray", if filter.is_empty() { "" } else { "," });
    let output = Command::new("ffmpeg")
        .args(["-nostdin", "-v", level, "-i"])
        .arg(input)
        .args(["-map", "0:v:0", "-vf", &filter, "-fps_mode", "passthrough", "-f", "rawvideo", "-"])
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && words.is_empty(), "{}: {words}", input.display());
    output.stdout.chunks_exact(width * height).map(<[u8]>::to_vec).collect()
}

/// Makes a clip: pictures that count, and what else `more` says. `size` is `160x90`.
fn clip(bench: &Bench, size: &str, rate: &str, seconds: u32, more: &str, name: &str) -> PathBuf {
    let picture = format!(
        "nullsrc=s={size}:r={rate}:d={seconds},geq=lum='if(lt(X,W/2),32+mod(N*37,192),if(lt(Y,H/2),210,50))':\
         cb='if(lt(X,W/2),100,150)':cr=128,format=yuv420p"
    );
    let out = bench.path(name);
    let done = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-y", "-f", "lavfi", "-i", &picture])
        .args(more.split_whitespace())
        .arg(&out)
        .output()
        .unwrap();
    assert!(done.status.success(), "{name}: {}", String::from_utf8_lossy(&done.stderr));
    out
}

const X264: &str = "-c:v libx264 -preset ultrafast -crf 12 -g 30";

/// A sound of `seconds`, as another input of ffmpeg.
fn tone(rate: u32, seconds: u32) -> String {
    format!("-f lavfi -i sine=frequency=440:sample_rate={rate}:duration={seconds}")
}

/// Compares each picture of the largest rung with ffmpeg's of the source.
fn assert_shows(film: &Film, source: &Path, filter: &str) {
    let top = film.video().rungs.last().unwrap();
    let ours = decoded(&film.path(&top.encoding), "", 16, 16);
    let theirs = decoded(source, filter, 16, 16);
    assert!(ours.len().abs_diff(theirs.len()) <= 1, "{} pictures, ffmpeg has {}", ours.len(), theirs.len());
    for (number, (a, b)) in ours.iter().zip(&theirs).enumerate() {
        let off = a.iter().zip(b).map(|(a, b)| u32::from(a.abs_diff(*b))).sum::<u32>() / a.len() as u32;
        assert!(off < 8, "picture {number} of {} is {off} off", source.display());
    }
}

#[test]
fn an_mp4_becomes_every_size_with_its_sound_cut_at_the_same_instants() {
    let bench = Bench::new();
    let source = clip(&bench, "320x180", "25", 4, &format!("{} {X264} -c:a aac -ac 2", tone(44_100, 4)), "a.mp4");
    let film = film(&bench, &source);
    assert_shows(&film, &source, "");
    let video = film.video();
    assert_eq!((video.frame_rate, video.frames), ((25, 1), 100));
    let sizes = [("90p".into(), 160, 90), ("144p".into(), 256, 144), ("180p".into(), 320, 180)];
    assert_eq!(film.sizes(), sizes);
    assert_eq!(film.index.rungs.iter().map(Rung::path).collect::<Vec<_>>(), ["aac/48", "aac/96"]);
    let sounds: Vec<_> = video.rungs.iter().map(|rung| rung.audio.as_deref().unwrap()).collect();
    assert_eq!(sounds, ["48", "48", "96"]);
    // 44 frames of 1024 samples are 25.54 pictures.
    assert_eq!(begins(&video.rungs[0].encoding, 1000), [0, 26, 51, 77]);
    assert_eq!(film.index.rungs[0].segments.len(), 4);
    assert_eq!(begins(&video.iframes.encoding, 1000), [0, 13, 26, 38, 51, 64, 77, 89]);
    // What the playlist says is what ffprobe finds.
    for rung in &video.rungs {
        let probed = Command::new("ffprobe")
            .args([
                "-v",
                "error",
                "-select_streams",
                "v",
                "-show_entries",
                "stream=profile,level,width,height,avg_frame_rate",
            ])
            .args(["-of", "default=nw=1:nk=1"])
            .arg(film.path(&rung.encoding))
            .output()
            .unwrap();
        let probed = String::from_utf8(probed.stdout).unwrap();
        let lines: Vec<&str> = probed.lines().collect();
        let profile = if lines[0] == "High" { "64" } else { "42" };
        let level: u32 = lines[3].parse().unwrap();
        assert_eq!(lines[1..3], [rung.width.to_string(), rung.height.to_string()]);
        assert!(rung.encoding.codecs.starts_with(&format!("avc1.{profile}")), "{} {probed}", rung.encoding.codecs);
        assert!(rung.encoding.codecs.ends_with(&format!("{level:02x}")), "{} {probed}", rung.encoding.codecs);
        assert_eq!(lines[4], "25/1");
    }
}

/// Who knows only packets must find them in order, without a hole, and key pictures where groups begin.
#[test]
fn packets_follow_each_other_and_key_pictures_stand_at_the_groups() {
    let bench = Bench::new();
    let source = clip(&bench, "160x90", "30000/1001", 3, X264, "a.mp4");
    let mut ladder = ladder();
    for b_frames in [0, 2] {
        ladder.b_frames = b_frames;
        let film = try_film(&bench, &source, &Choice::Video(ladder.clone()), Limits::default()).unwrap();
        check_packets(&film, b_frames > 0);
    }
}

fn check_packets(film: &Film, reordered: bool) {
    let rung = &film.video().rungs[0].encoding;
    let probed = Command::new("ffprobe")
        .args(["-v", "error", "-show_entries", "packet=pts,dts,flags", "-of", "csv=p=0"])
        .arg(film.path(rung))
        .output()
        .unwrap();
    let probed = String::from_utf8(probed.stdout).unwrap();
    let packets: Vec<(i64, i64, bool)> = probed
        .lines()
        .map(|line| {
            let mut fields = line.split(',');
            let mut number = || fields.next().unwrap().parse().unwrap();
            (number(), number(), line.contains('K'))
        })
        .collect();
    assert_eq!(packets.len() as u64, film.video().frames);
    assert!(packets.windows(2).all(|pair| pair[1].1 - pair[0].1 == 1001), "decode times");
    let late = packets[0].0; // ffmpeg shows films with such pictures late, which is why there are none by default
    assert_eq!((late > 0, packets.iter().any(|packet| packet.0 - late != packet.1)), (reordered, reordered));
    let mut shown: Vec<i64> = packets.iter().map(|packet| packet.0).collect();
    shown.sort_unstable();
    assert!(shown.windows(2).all(|pair| pair[1] - pair[0] == 1001), "times of showing");
    let keys: Vec<i64> = packets.iter().filter(|packet| packet.2).map(|packet| (packet.0 - late) / 1001).collect();
    assert_eq!(keys, begins(&film.video().iframes.encoding, 1001));
}

/// Where each segment begins, in pictures of so many ticks.
fn begins(rung: &Rung, frame: u64) -> Vec<i64> {
    let mut at = 0;
    let mut begins = Vec::new();
    for segment in &rung.segments {
        begins.push((at / frame) as i64);
        at += segment.ticks;
    }
    begins
}

#[test]
fn a_film_that_lies_on_its_side_is_put_upright() {
    let bench = Bench::new();
    let lying = clip(&bench, "320x180", "25", 2, &format!("{} {X264} -c:a aac", tone(48_000, 2)), "lying.mp4");
    for (degrees, sizes) in [
        (90, [(90, 160), (144, 256), (180, 320)]),
        (180, [(160, 90), (256, 144), (320, 180)]),
        (270, [(90, 160), (144, 256), (180, 320)]),
    ] {
        let turned = bench.convert(&lying, &format!("-c copy -metadata:s:v rotate={degrees}"), "turned.mov");
        let film = film(&bench, &turned);
        let found: Vec<_> = film.video().rungs.iter().map(|rung| (rung.width, rung.height)).collect();
        assert_eq!(found, sizes, "{degrees}");
        assert_shows(&film, &turned, ""); // ffmpeg turns by itself
        // ffmpeg warns of every JPEG: its names for full range are out of fashion.
        let poster = decoded_at("error", &film.dir.join("poster.jpg"), "", 16, 16);
        let first = decoded(&turned, "", 16, 16);
        let off =
            |a: &[u8], b: &[u8]| a.iter().zip(b).skip(8).map(|(a, b)| u32::from(a.abs_diff(*b))).sum::<u32>() / 256;
        assert!(
            first.iter().any(|picture| off(&poster[0], picture) < 16),
            "the poster at {degrees} is no picture of it"
        );
    }
}

#[test]
fn pixels_that_are_not_square_become_square() {
    let bench = Bench::new();
    let source = clip(&bench, "180x144", "25", 2, &format!("-vf setsar=16/9 {X264}"), "wide.mp4");
    let film = film(&bench, &source);
    // 180 × 16/9 : 144 is 20:9; 240 × 108 are as many pixels as are stored.
    assert_eq!(film.sizes(), [("90p".into(), 160, 72), ("144p".into(), 240, 108)]);
    assert_eq!(film.video().source.pixel_aspect, (16, 9));
    assert_shows(&film, &source, "scale=240:108,setsar=1");
}

/// What telephones record: paper white and a grey card of HDR come out as bright as SDR has them, and labelled so.
#[test]
fn hdr_becomes_sdr_that_says_so() {
    let bench = Bench::new();
    // Signals of 10 bits (BT.2408 table 1): paper, a grey card.
    for (codec, transfer, name, paper, card) in [
        ("libx264 -preset ultrafast", "arib-std-b67", "HLG", 721, 397),
        ("libx265 -preset ultrafast -x265-params log-level=error", "smpte2084", "PQ", 572, 397),
    ] {
        let source = bench.path(&format!("{name}.mp4"));
        let picture = format!(
            "nullsrc=s=320x180:r=25:d=2,format=yuv420p10le,geq=lum='if(lt(X,W/2),{paper},{card})':cb=512:cr=512"
        );
        let done = Command::new("ffmpeg")
            .args(["-nostdin", "-v", "error", "-y", "-f", "lavfi", "-i", &picture, "-c:v"])
            .args(codec.split(' '))
            .args(["-pix_fmt", "yuv420p10le", "-crf", "8", "-color_primaries", "bt2020", "-colorspace", "bt2020nc"])
            .args(["-color_trc", transfer, "-color_range", "tv", "-tag:v", if name == "PQ" { "hvc1" } else { "avc1" }])
            .arg(&source)
            .output()
            .unwrap();
        assert!(done.status.success(), "{name}: {}", String::from_utf8_lossy(&done.stderr));
        let film = film(&bench, &source);
        assert_eq!(film.video().source.hdr.as_deref(), Some(name));
        for rung in film.video().rungs.iter() {
            let path = film.path(&rung.encoding);
            let probed = Command::new("ffprobe")
                .args(["-v", "error", "-show_entries", "stream=pix_fmt,color_space,color_transfer,color_primaries"])
                .args(["-of", "default=nw=1:nk=1"])
                .arg(&path)
                .output()
                .unwrap();
            assert_eq!(String::from_utf8_lossy(&probed.stdout), "yuv420p\nbt709\nbt709\nbt709\n", "{name}");
            let raw = bench.convert(&path, "-frames:v 1 -f rawvideo", "frame.yuv");
            let luma = &std::fs::read(raw).unwrap()[..(rung.width * rung.height) as usize];
            let at = |share: f64| {
                let column = (f64::from(rung.width) * share) as usize;
                i32::from(luma[(rung.height / 2 * rung.width) as usize + column])
            };
            let (white, grey) = (at(0.25), at(0.75));
            assert!((white - 212).abs() <= 5 && (grey - 109).abs() <= 5, "{name}: {white} and {grey}");
        }
        let poster = std::fs::read(film.dir.join("poster.jpg")).unwrap();
        assert!(poster.starts_with(b"\xff\xd8\xff") && poster.len() > 500);
    }
    let plain = clip(&bench, "160x90", "25", 1, X264, "plain.mp4");
    assert_eq!(film(&bench, &plain).video().source.hdr, None);
}

#[test]
fn webm_with_vp9_and_opus_is_a_film() {
    let bench = Bench::new();
    let codec = "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -crf 10 -b:v 0 -c:a libopus";
    let source = clip(&bench, "160x90", "24", 3, &format!("{} {codec}", tone(48_000, 3)), "a.webm");
    let film = film(&bench, &source);
    assert_eq!((film.video().source.codec.as_str(), film.video().frame_rate), ("VP9", (24, 1)));
    assert_eq!(film.index.source.codec, "Opus");
    assert_shows(&film, &source, "");
}

/// Pictures of 1/30 and of several 30ths of a second: each is shown as long as it was, at a constant rate.
#[test]
fn a_varying_rate_becomes_a_constant_one_that_shows_everything_on_time() {
    let bench = Bench::new();
    let drop = "-vf select='not(mod(n,7))+not(mod(n,5))+lt(mod(n,40),12)' -fps_mode vfr";
    let source = clip(&bench, "160x90", "30", 4, &format!("{drop} {X264}"), "vfr.mkv");
    let film = film(&bench, &source);
    let video = film.video();
    assert!(video.source.variable_rate && video.source.frames < 80, "{:?}", video.source);
    assert_eq!(video.frame_rate, (30, 1));
    assert_shows(&film, &source, "fps=30:round=near");
}

#[test]
fn fields_become_whole_pictures() {
    let bench = Bench::new();
    let source =
        clip(&bench, "160x96", "50", 2, &format!("-vf interlace=lowpass=0 {X264} -flags +ilme+ildct"), "i.mp4");
    let film = film(&bench, &source);
    assert!(film.video().source.interlaced);
    assert_eq!((film.video().frame_rate, film.video().frames), ((25, 1), 50));
    // Of two fields one is kept: combs, two brightnesses in alternate rows, are gone.
    let top = film.video().rungs.last().unwrap();
    for picture in decoded(&film.path(&top.encoding), "crop=40:80:8:8", 4, 80).iter().skip(2) {
        let rows: Vec<i32> = picture.chunks(4).map(|row| i32::from(row[1])).collect();
        let combs = rows.windows(3).filter(|r| (r[1] - r[0]).abs() > 24 && (r[1] - r[2]).abs() > 24).count();
        assert!(combs < 4, "{combs} combed rows: {rows:?}");
    }
}

/// Whoever watches sees time go by from beginning to end, whatever is being made, and never a song before its film.
#[test]
fn progress_rises_from_the_sound_to_the_end_of_the_picture() {
    let bench = Bench::new();
    let source = clip(&bench, "160x90", "25", 4, &format!("{} {X264} -c:a aac", tone(44_100, 4)), "a.mp4");
    let dir = tempfile::tempdir_in(bench.path("")).unwrap();
    let (mut told, mut whole) = (Vec::new(), Vec::new());
    let mut watch = |progress| match progress {
        Progress::Encoded { done_samples, total_samples } => told.push((done_samples, total_samples.unwrap())),
        Progress::Rung { path, .. } => whole.push(path),
        Progress::Playable(_) => panic!("a film is not playable before it is whole"),
        Progress::Probed { rate, total_samples, .. } => assert_eq!((rate, total_samples), (25_000, Some(100_000))),
    };
    run_as(source.as_path(), &choice(), dir.path(), &options(), &mut watch, &AtomicBool::new(false)).unwrap();
    assert!(told.windows(2).all(|pair| pair[0].0 <= pair[1].0) && told.iter().all(|(_, total)| *total == 100_000));
    assert!(told.iter().any(|(done, _)| (1..=10_000).contains(done)), "the sound: {told:?}");
    assert_eq!(told.last().unwrap().0, 100_000);
    assert_eq!(whole.last().unwrap(), "video/iframes");
    assert!(whole[..3].iter().all(|path| path.starts_with("aac/") || path == "preview"), "{whole:?}");
}

#[test]
fn a_silent_film_has_a_picture_and_nothing_else() {
    let bench = Bench::new();
    let source = clip(&bench, "160x90", "25", 3, X264, "silent.mp4");
    let film = film(&bench, &source);
    assert!(film.index.rungs.is_empty() && film.index.preview.is_none() && film.index.loudness.is_none());
    assert_eq!(film.index.duration_s(), 3.0);
    assert_eq!(film.video().rungs[0].audio, None);
    let tree = tempfile::tempdir_in(bench.path("")).unwrap();
    segue::publish::to_tree(&film.dir, &film.index, tree.path()).unwrap();
    assert!(!tree.path().join("aac").exists());
    let text = std::fs::read_to_string(tree.path().join("video/master.m3u8")).unwrap();
    assert!(!text.contains("AUDIO") && !text.contains("mp4a"), "{text}");
    assert_eq!(decoded(&tree.path().join("video/90p/index.m3u8"), "", 8, 8).len(), 75);
}

#[test]
fn a_film_smaller_than_the_lowest_rung_has_one_of_its_own_size() {
    let bench = Bench::new();
    let film = film(&bench, &clip(&bench, "96x54", "15", 2, X264, "small.mp4"));
    assert_eq!(film.sizes(), [("54p".into(), 96, 54)]);
    let skipped: Vec<&str> = film.index.skipped.iter().map(|rung| rung.path.as_str()).collect();
    assert_eq!(skipped, ["video/144p", "video/180p"]);
}

/// A flash and a beep at the same instant of the container: in what we make they are within a picture of each other,
/// whichever stream begins later.
#[test]
fn sound_and_picture_stay_together_when_one_begins_later() {
    let bench = Bench::new();
    let beep = "aevalsrc=exprs='if(between(t,1,1.2),sin(2*PI*1000*t),0)':s=48000:d=3";
    let flash = "color=black:s=160x90:r=25:d=3,geq=lum='if(between(T,1,1.2),235,16)':cb=128:cr=128,format=yuv420p";
    for (picture_late, sound_late) in [(0.0, 0.0), (0.0, 0.73), (0.73, 0.0)] {
        let source = bench.path("sync.mkv");
        let done = Command::new("ffmpeg")
            .args([
                "-nostdin",
                "-v",
                "error",
                "-y",
                "-itsoffset",
                &picture_late.to_string(),
                "-f",
                "lavfi",
                "-i",
                flash,
            ])
            .args(["-itsoffset", &sound_late.to_string(), "-f", "lavfi", "-i", beep])
            .args(X264.split_whitespace())
            .args(["-c:a", "pcm_s16le"])
            .arg(&source)
            .status()
            .unwrap();
        assert!(done.success());
        let film = film(&bench, &source);
        let video = film.video();
        let bright = decoded(&film.path(&video.rungs[0].encoding), "", 8, 8);
        let bright = bright.iter().position(|picture| picture[30] > 128).unwrap();
        let rate = f64::from(video.frame_rate.0) / f64::from(video.frame_rate.1);
        let rung = film.index.rungs.last().unwrap();
        let sound = super::bench::decode(&film.path(rung), "s16le", "-ac 1");
        let loud =
            sound.chunks_exact(2).map(|b| i16::from_le_bytes([b[0], b[1]])).position(|x| x.abs() > 6000).unwrap();
        let (flash_s, beep_s) = (bright as f64 / rate, (loud as f64 - f64::from(rung.priming)) / f64::from(rung.rate));
        let meant = sound_late - picture_late;
        assert!(((beep_s - flash_s) - meant).abs() < 0.03, "{picture_late}, {sound_late}: {flash_s} and {beep_s}");
        // Both are as long as the longer.
        let (heard_s, seen_s) = (rung.samples as f64 / f64::from(rung.rate), video.frames as f64 / rate);
        assert!((heard_s - seen_s).abs() <= 0.11, "{heard_s} s of sound, {seen_s} s of picture");
    }
}

#[test]
fn a_cover_does_not_make_a_song_a_film() {
    let bench = Bench::new();
    let cover = clip(&bench, "160x160", "1", 1, "-frames:v 1", "cover.png");
    let music = bench.music(44_100, 2, 60_000);
    let add = |arguments: &str, name: &str| {
        let out = bench.path(name);
        let done = Command::new("ffmpeg")
            .args(["-nostdin", "-v", "error", "-y", "-i"])
            .arg(&music)
            .arg("-i")
            .arg(&cover)
            .args(arguments.split_whitespace())
            .arg(&out)
            .status()
            .unwrap();
        assert!(done.success(), "{name}");
        out
    };
    let attached = "-map 0 -map 1 -disposition:v attached_pic";
    for source in [
        add(&format!("{attached} -c:a aac -c:v mjpeg -pix_fmt yuvj420p"), "a.m4a"),
        add(&format!("{attached} -c:a libmp3lame -c:v copy"), "a.mp3"),
        add(&format!("{attached} -c:a flac -c:v copy"), "a.flac"),
    ] {
        let made = try_film(&bench, &source, &choice(), Limits::default()).unwrap();
        assert!(made.index.video.is_none() && made.index.has(Family::Flac), "{}", source.display());
        let error = try_film(&bench, &source, &Choice::Video(ladder()), Limits::default()).err().unwrap();
        assert!(error.chain().contains("it has no picture that is read here; give an MP4"), "{error:?}");
    }
    // And a film can be taken for its sound alone.
    let clip = clip(&bench, "160x90", "25", 2, &format!("{} {X264} -c:a aac", tone(44_100, 2)), "a.mp4");
    let audio = Choice::Audio(segue::hls::ladder::Ladder::default_audio());
    let made = try_film(&bench, &clip, &audio, Limits::default()).unwrap();
    // Its sound has 69 kbit/s: a second AAC rung would promise more than there is.
    assert!(made.index.video.is_none() && made.index.has(Family::Aac) && made.index.has(Family::Flac));
}

#[test]
fn films_that_nobody_should_decode_are_refused_in_words() {
    let bench = Bench::new();
    let refused = |input: &Path, limits: Limits, words: &str| {
        let error: Error = try_film(&bench, input, &choice(), limits).err().expect("it is refused");
        let line = error.chain();
        assert_eq!(error.kind(), Kind::Invalid, "{line}");
        assert!(line.contains(words) && line.contains(&input.display().to_string()) && !line.contains('\n'), "{line}");
    };
    let whole =
        clip(&bench, "160x90", "25", 3, &format!("{} {X264} -c:a aac -movflags +faststart", tone(44_100, 3)), "a.mp4");
    let bytes = std::fs::read(&whole).unwrap();
    let cut = bench.file("cut.mp4", &bytes[..bytes.len() * 2 / 3]);
    refused(&cut, Limits::default(), "truncated");
    let matroska = bench.convert(&whole, "-c copy", "a.mkv");
    let bytes = std::fs::read(matroska).unwrap();
    refused(&bench.file("cut.mkv", &bytes[..bytes.len() / 2]), Limits::default(), "truncated");
    refused(&whole, Limits { video_duration_s_max: 2, ..Limits::default() }, "longer than 2 s");
    refused(&whole, Limits { video_bytes_max: 1000, ..Limits::default() }, "at most 1,000 are accepted");
    refused(&whole, Limits { video_pixels_max: 100, ..Limits::default() }, "160×90 pixels; at most 100 in all");
    // Refused by what the headers say, before a decoder has seen it: encoding this took ffmpeg a second.
    let huge =
        clip(&bench, "64x64", "25", 1, "-vf scale=8192:4608 -frames:v 2 -c:v libx264 -preset ultrafast", "huge.mp4");
    refused(&huge, Limits::default(), "8192×4608 pixels; at most 9437184 in all and 8192 a side are accepted");
    let two = bench.convert(&whole, "-map 0:v -map 0:v -map 0:a -c copy", "two.mp4");
    refused(&two, Limits::default(), "it has 2 video streams; export it with one");
    let quick = clip(&bench, "64x64", "500", 1, X264, "quick.mp4");
    refused(&quick, Limits::default(), "500 pictures a second; at most 250 are accepted");
    let noise: Vec<u8> = (0..200_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut damaged = std::fs::read(&whole).unwrap();
    let at = damaged.windows(4).position(|w| w == b"mdat").unwrap() + 64;
    let end = damaged.len();
    damaged[at..].copy_from_slice(&noise[..end - at]);
    refused(&bench.file("noise.mp4", damaged), Limits::default(), "");
}

/// A film with a few bytes changed anywhere: refused or survived, in words, and nothing is left behind. As `make hostile`
/// does for sound, more of them with HOSTILE_FILMS from HOSTILE_SEED.
#[test]
fn damaged_films_are_refused_or_survived() {
    let bench = Bench::new();
    let sound = tone(44_100, 1);
    let sources = [
        clip(&bench, "96x64", "15", 1, &format!("{sound} {X264} -c:a aac"), "a.mp4"),
        clip(
            &bench,
            "96x64",
            "15",
            1,
            &format!("{sound} -c:v libvpx-vp9 -deadline realtime -cpu-used 8 -c:a libopus"),
            "a.webm",
        ),
    ];
    let number = |name: &str, usual: u64| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(usual);
    let (inputs, mut random) = (number("HOSTILE_FILMS", 16), Random(number("HOSTILE_SEED", 7)));
    let limits = Limits { first_sample_s: 4, wall_s_min: 30, no_progress_s: 10, ..Limits::default() };
    let mut survived = 0;
    for input in 0..inputs {
        let source = &sources[input as usize % 2];
        let mut bytes = std::fs::read(source).unwrap();
        // Half of them in the headers, where lengths and sizes are.
        let reach = if random.below(2) == 0 { bytes.len() } else { 1500 };
        for _ in 0..=random.below(4) {
            let at = random.below(reach);
            let from = if source.ends_with("a.mp4") && reach < bytes.len() { bytes.len() - reach } else { 0 };
            bytes[from + at] = random.next() as u8;
        }
        let damaged = bench.file(&format!("damaged.{}", source.extension().unwrap().to_str().unwrap()), bytes);
        match try_film(&bench, &damaged, &choice(), limits.clone()) {
            Ok(_) => survived += 1,
            Err(error) => {
                let line = error.chain();
                assert!(!line.contains("SIGSYS") && !line.contains('\n'), "input {input}: {line}");
                assert!(error.kind() == Kind::Invalid || line.contains("crashed on it"), "input {input}: {line}");
            }
        }
    }
    eprintln!("{survived} of {inputs} films decoded all the same");
    assert!(survived > 0 && survived < inputs, "{survived} of {inputs}: the damage is too small or too large to tell");
}

/// As a user runs it: the version is named by its content, so one name means the same bytes.
#[test]
fn one_core_and_all_of_them_give_the_same_bytes() {
    let bench = Bench::new();
    // Restless, so that the ceiling is reached: that is where x264 with threads gives other bytes each time.
    let noise = "-vf noise=alls=40:allf=t";
    let source = clip(&bench, "320x180", "25", 3, &format!("{} {noise} {X264} -c:a aac", tone(44_100, 3)), "a.mp4");
    let version = |program: &str, first: &[&str], out: &str| {
        let output = Command::new(program)
            .args(first)
            .arg("transcode")
            .arg(&source)
            .arg("--out")
            .arg(bench.path(out))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8(output.stdout).unwrap();
        said.split("version ").nth(1).unwrap().split(' ').next().unwrap().to_owned()
    };
    let segue = env!("CARGO_BIN_EXE_segue");
    let one = version("taskset", &["-c", "0", segue], "one");
    assert_eq!(one, version(segue, &[], "all"));
    assert_eq!(one, version(segue, &[], "again"));
    let master = std::fs::read_to_string(bench.path("one/video/master.m3u8")).unwrap();
    let playlist = m3u8_rs::parse_master_playlist(master.as_bytes()).unwrap().1;
    check_master(&playlist, &bench.path("one/video"));
    let words = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "warning", "-i"])
        .arg(bench.path("one/video/master.m3u8"))
        .args(["-map", "0", "-f", "null", "-"])
        .output()
        .unwrap();
    assert!(words.status.success() && words.stderr.is_empty(), "{}", String::from_utf8_lossy(&words.stderr));
}

/// What a player relies on: every URI is there, bandwidths are those of the segments, groups are defined.
fn check_master(playlist: &m3u8_rs::MasterPlaylist, dir: &Path) {
    let (iframes, sizes): (Vec<_>, Vec<_>) = playlist.variants.iter().partition(|variant| variant.is_i_frame);
    assert_eq!((iframes.len(), sizes.len()), (1, 1), "one size of 180 lines");
    let peak = |uri: &str| {
        let dir = dir.join(uri);
        let text = std::fs::read(&dir).unwrap();
        let media = m3u8_rs::parse_media_playlist(&text).unwrap().1;
        assert!(media.end_list && media.independent_segments);
        let rate = |s: &m3u8_rs::MediaSegment| {
            let bytes = std::fs::metadata(dir.parent().unwrap().join(&s.uri)).unwrap().len();
            (bytes * 8) as f64 / f64::from(s.duration)
        };
        assert!(media.segments.iter().all(|s| s.duration.round() as u64 <= media.target_duration));
        (media.segments.iter().map(rate).fold(0.0, f64::max), media)
    };
    for variant in sizes {
        let group = variant.audio.as_ref().unwrap();
        let sound = playlist.alternatives.iter().find(|media| media.group_id == *group).unwrap();
        let (seen, heard) = (peak(&variant.uri), peak(sound.uri.as_ref().unwrap()));
        let most = variant.bandwidth as f64;
        assert!(seen.0 + heard.0 <= most * 1.01, "{} + {} > {most}", seen.0, heard.0);
        assert_eq!(seen.1.target_duration, heard.1.target_duration);
        assert_eq!(variant.codecs.as_deref().unwrap().split(',').count(), 2);
        assert_eq!(variant.frame_rate, Some(25.0));
        assert_eq!(variant.resolution.map(|r| (r.width, r.height)), Some((320, 180)));
    }
    let (_, media) = peak(&iframes[0].uri);
    assert!(media.i_frames_only && iframes[0].resolution.is_some() && iframes[0].audio.is_none());
}
