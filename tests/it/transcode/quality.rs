//! How good what comes out is, by measurement: loudness against ffmpeg's meter, resampling, depth, downmix, the
//! ladder's honesty, and the same bytes on one core as on two.

use std::f64::consts::TAU;
use std::path::Path;
use std::process::Command;

use segue::hls::version::VersionIndex;

use super::bench::{Bench, decode, error, first_channel, ladder, options};
use crate::support::said;

#[test]
fn loudness_is_what_ffmpegs_meter_says() {
    let bench = Bench::new();
    let check = |input: &Path, range: bool| {
        let loudness = bench.make(input).index.loudness.unwrap();
        let done = Command::new("ffmpeg")
            .args(["-nostdin", "-hide_banner", "-i"])
            .arg(input)
            .args(["-af", "ebur128=peak=true+sample", "-f", "null", "-"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        let summary = &said[said.rfind("Summary:").unwrap()..];
        let number = |label: &str, from: &str| -> f64 {
            let at = &summary[summary.find(from).unwrap()..];
            let line = at.lines().find(|line| line.trim_start().starts_with(label)).unwrap();
            line.split_whitespace().find_map(|word| word.parse().ok()).unwrap()
        };
        let near = |ours: f64, theirs: f64, most: f64, what: &str| {
            // ffmpeg prints one decimal.
            assert!((ours - theirs).abs() <= most + 0.05, "{what} of {}: {ours}, ffmpeg {theirs}", input.display());
        };
        let integrated = number("I:", "Integrated loudness");
        near(loudness.integrated_lufs.unwrap(), integrated, 0.1, "loudness");
        if range {
            near(loudness.range_lu, number("LRA:", "Loudness range"), 0.1, "range");
        }
        near(loudness.true_peak_dbtp.unwrap(), number("Peak:", "True peak"), 0.2, "true peak");
        let gain = loudness.replay_gain.unwrap();
        near(gain.track_gain_db, -18.0 - integrated, 0.1, "gain");
        near(20.0 * gain.track_peak.log10(), number("Peak:", "Sample peak"), 0.0, "sample peak");
    };
    // Between two samples near half the rate meters differ by more than the tolerance: BS.1770 asks for fourfold
    // oversampling only.
    let music = bench.music(44_100, 2, 20 * 44_100);
    let music = bench.convert(&music, "-af lowpass=f=9000,lowpass=f=9000,lowpass=f=9000", "low.wav");
    check(&music, true);
    // Its range rests on windows of 3 s, of which a meter may take one a second or ten: too few here to compare.
    check(&bench.convert(&music, "-af volume='0.1+0.8*t/20':eval=frame -ar 48000 -c:a pcm_s24le", "rising.wav"), false);
    check(&bench.convert(&music, "-ac 1 -c:a flac", "mono.flac"), true);
    // The bass loudspeaker does not count, wherever among the channels it is.
    let bass = "-af pan=2.1|FL=0.1*c0|FR=0.1*c1|LFE=0.9*c0 -c:a pcm_s24le";
    check(&bench.convert(&music, bass, "bass.wav"), true);
}

/// A sine of this frequency and amplitude, as 32-bit float.
fn sine(bench: &Bench, rate: u32, hz: f64, amplitude: f64, seconds: u32) -> std::path::PathBuf {
    let samples = (0..rate * seconds).map(|n| amplitude * (TAU * hz * f64::from(n) / f64::from(rate)).sin());
    let raw = bench.file("sine.f32", samples.flat_map(|x| (x as f32).to_le_bytes()).collect::<Vec<u8>>());
    let out = bench.path(&format!("sine-{rate}-{hz}.wav"));
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-y", "-f", "f32le", "-ac", "1", "-ar", &rate.to_string(), "-i"]).arg(raw);
    let done = command.args(["-c:a", "pcm_f32le"]).arg(&out).output().unwrap();
    assert!(done.status.success(), "{}", said(&done));
    out
}

/// Amplitude of a frequency, and everything else as a level in dB below full scale (of a sine).
fn fit(samples: &[f32], rate: u32, hz: f64) -> (f64, f64) {
    let angle = |n: usize| TAU * hz * n as f64 / f64::from(rate);
    let (mut s, mut c) = (0.0, 0.0);
    for (n, x) in samples.iter().enumerate() {
        s += f64::from(*x) * angle(n).sin();
        c += f64::from(*x) * angle(n).cos();
    }
    let scale = 2.0 / samples.len() as f64;
    let (s, c) = (s * scale, c * scale);
    let rest =
        samples.iter().enumerate().map(|(n, x)| (f64::from(*x) - s * angle(n).sin() - c * angle(n).cos()).powi(2));
    let power = rest.sum::<f64>() * scale;
    (s.hypot(c), 10.0 * power.max(1e-30).log10())
}

/// 64 kHz has no segments of whole blocks, so FLAC is resampled to 48 kHz: what the resampler did, in 24 bits.
#[test]
fn resampling_keeps_the_band_and_lets_nothing_alias() {
    let bench = Bench::new();
    let flac = |hz: f64| {
        let made = bench.make(&sine(&bench, 64_000, hz, 0.9, 4));
        let samples = first_channel(&made.dir.join("flac.mp4"), 1, "");
        samples[8_000..8_000 + 144_000].to_vec() // whole periods of any whole frequency, without the ends
    };
    for hz in [100.0, 1_000.0, 10_000.0, 18_000.0] {
        let (amplitude, rest) = fit(&flac(hz), 48_000, hz);
        let ripple = 20.0 * (amplitude / 0.9).log10();
        assert!(ripple.abs() < 0.1 && rest < -110.0, "{hz} Hz: {ripple} dB, the rest at {rest} dB");
    }
    for hz in [27_000.0, 30_000.0] {
        let power: f64 = flac(hz).iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / 144_000.0 * 2.0;
        let alias = 10.0 * power.max(1e-30).log10();
        assert!(alias < -90.0, "{hz} Hz comes back at {alias} dB");
    }
}

/// The only depth that is reduced is float's and 32-bit's, to 24 bits: the error of rounding, -146 dB, and no bias.
#[test]
fn reducing_depth_leaves_no_more_than_the_noise_of_24_bits() {
    let bench = Bench::new();
    for amplitude in [0.9, 1e-5] {
        let input = sine(&bench, 48_000, 997.0, amplitude, 3);
        let made = bench.make(&input);
        let (source, ours) = (decode(&input, "f64le", ""), decode(&made.dir.join("flac.mp4"), "f64le", ""));
        let float = |b: &[u8]| f64::from_le_bytes(b.try_into().unwrap());
        let errors: Vec<f64> =
            source.chunks_exact(8).zip(ours.chunks_exact(8)).map(|(a, b)| float(b) - float(a)).collect();
        let mean = errors.iter().sum::<f64>() / errors.len() as f64;
        let noise = 10.0 * (errors.iter().map(|e| e * e).sum::<f64>() / errors.len() as f64 * 2.0).log10();
        let step = 1.0 / f64::from(1 << 23);
        assert!(noise < -140.0, "noise at {noise} dB");
        assert!(mean.abs() < step, "bias of {} steps", mean / step);
    }
}

/// ITU-R BS.775-3 table 2, scaled so that it cannot clip: left = L + 0.7071 C + 0.7071 Ls. FLAC keeps all six.
#[test]
fn surround_is_mixed_down_by_the_book_for_aac_and_kept_for_flac() {
    let bench = Bench::new();
    let music = bench.music(48_000, 1, 2 * 48_000);
    let source = first_channel(&music, 1, "");
    let names = ["FL", "FR", "FC", "LFE", "BL", "BR"];
    let mut gains = Vec::new();
    for loud in names {
        let pan: Vec<String> =
            names.iter().map(|name| format!("{name}={}*c0", if *name == loud { "1" } else { "0" })).collect();
        let input = bench.convert(&music, &format!("-af pan=5.1|{}", pan.join("|")), &format!("{loud}.wav"));
        let made = bench.make(&input);
        assert!(decode(&made.dir.join("flac.mp4"), "s16le", "") == decode(&input, "s16le", ""), "{loud} in FLAC");
        let bytes = decode(&made.dir.join("aac-256.mp4"), "f32le", "");
        let frames: Vec<[f32; 2]> = bytes
            .chunks_exact(8)
            .map(|b| [f32::from_le_bytes(b[..4].try_into().unwrap()), f32::from_le_bytes(b[4..].try_into().unwrap())])
            .skip(1024)
            .collect();
        let gain = |side: usize| {
            let product: f64 = source.iter().zip(&frames).map(|(a, b)| f64::from(*a) * f64::from(b[side])).sum();
            product / source.iter().map(|a| f64::from(*a).powi(2)).sum::<f64>()
        };
        gains.push([gain(0), gain(1)]);
    }
    let unit = gains[0][0];
    let half = std::f64::consts::FRAC_1_SQRT_2;
    let wanted = [[1.0, 0.0], [0.0, 1.0], [half, half], [0.0, 0.0], [half, 0.0], [0.0, half]];
    for ((name, found), wanted) in names.iter().zip(&gains).zip(wanted) {
        for side in 0..2 {
            let found = found[side] / unit;
            assert!((found - wanted[side]).abs() < 0.02, "{name} to {side}: {found}, not {} ({gains:?})", wanted[side]);
        }
    }
    let loudest: f64 = gains.iter().map(|gain| gain[0]).sum();
    assert!(loudest < 1.01, "all channels at full scale clip: {loudest}");
}

#[test]
fn a_ladder_does_not_promise_more_than_the_source_has() {
    let bench = Bench::new();
    let music = bench.music(44_100, 2, 4 * 44_100);
    let mp3 = bench.convert(&music, "-c:a libmp3lame -b:a 64k", "64.mp3");
    let index = bench.make(&mp3).index;
    let names: Vec<_> = index.rungs.iter().map(|rung| rung.path()).collect();
    assert_eq!(names, ["aac/64", "flac"]);
    assert_eq!(index.skipped.len(), 1);
    assert_eq!(index.skipped[0].path, "aac/256");
    assert!(index.skipped[0].why.ends_with("kbit/s, aac/64 is as good"), "{}", index.skipped[0].why);
    let report = segue::transcode::probe(&mp3, &options()).unwrap();
    assert_eq!(report.skipped(&ladder()), index.skipped);
    let outline: Vec<_> = report.outline(&ladder()).into_iter().map(|rung| rung.path).collect();
    assert_eq!(outline, names);
    // Whatever it is packed in, with a cover that is larger than the sound, too.
    let cover = bench.file("cover.bmp", {
        let pixels: Vec<u8> = (0..256 * 256 * 3u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let head = [&b"BM"[..], &(54 + pixels.len() as u32).to_le_bytes(), &[0; 4], &54u32.to_le_bytes()].concat();
        let info = [40u32, 256, 256, 1 | 24 << 16, 0, 0, 0, 0, 0, 0].map(u32::to_le_bytes).concat();
        [head, info, pixels].concat()
    });
    let covered =
        format!("-i {} -map 0 -map 1 -c:v png -disposition:v attached_pic -c:a aac -b:a 64k", cover.display());
    for (arguments, name) in [
        ("-c:a libvorbis -b:a 64k", "64.ogg"),
        ("-c:a aac -b:a 64k", "64.m4a"),
        ("-c:a aac -b:a 64k", "64.aac"),
        ("-c:a libmp3lame -b:a 64k -write_xing 0 -id3v2_version 0", "plain.mp3"),
        ("-c:a aac -b:a 64k -movflags frag_keyframe+empty_moov -frag_duration 500000", "fragmented.m4a"),
        ("-c:a libopus -b:a 56k -vbr off", "56.webm"),
        ("-c:a libopus -b:a 56k -vbr off -live 1", "live.webm"),
        ("-c:a libmp3lame -b:a 64k", "64.mka"),
        (&covered, "covered.m4a"),
    ] {
        let index = bench.make(&bench.convert(&music, arguments, name)).index;
        let paths: Vec<_> = index.skipped.iter().map(|skipped| skipped.path.as_str()).collect();
        assert_eq!(paths, ["aac/256"], "{name}");
        assert!(index.skipped.iter().all(|s| s.why.contains("is lossy")), "{name}: {:?}", index.skipped);
    }
    for (arguments, name) in [("-c:a flac", "flac.mka"), ("-c:a pcm_s16le", "pcm.mkv"), ("-c:a alac", "alac.m4a")] {
        let index = bench.make(&bench.convert(&music, arguments, name)).index;
        assert!(index.skipped.is_empty(), "{name}: {:?}", index.skipped);
    }
}

/// The sound of a film is as bad as it is, however many bits the picture has.
#[test]
fn the_sound_of_a_film_is_not_promised_better_than_it_is() {
    let bench = Bench::new();
    let picture = "-f lavfi -i testsrc=size=160x90:rate=25:duration=4 -map 0:a -map 1:v -c:v libx264 -crf 1 -shortest";
    let music = bench.music(44_100, 2, 4 * 44_100);
    let ladder = segue::hls::ladder::video::VideoLadder::default_video();
    for (arguments, name) in [
        ("-c:a aac -b:a 64k", "film.mp4"),
        ("-c:a aac -b:a 64k -movflags frag_keyframe+empty_moov", "fragmented.mp4"),
        ("-c:a libopus -b:a 64k", "film.mkv"),
    ] {
        let film = bench.convert(&music, &format!("{picture} {arguments}"), name);
        let dir = tempfile::tempdir().unwrap();
        let choice = segue::hls::ladder::video::Choice::Video(ladder.clone());
        let never = std::sync::atomic::AtomicBool::new(false);
        let index = segue::transcode::run_as(&film, &choice, dir.path(), &options(), &mut |_| (), &never).unwrap();
        let skipped: Vec<_> = index.skipped.iter().filter(|s| s.path.starts_with("aac")).collect();
        assert!(matches!(skipped[..], [s] if s.path == "aac/160" && s.why.contains("is lossy")), "{name}: {skipped:?}");
    }
}

#[test]
fn one_core_makes_the_same_bytes_as_two() {
    let bench = Bench::new();
    // Resampled; and long enough for slices, of a ladder that is no more than that.
    let all = (bench.music(96_000, 2, 3 * 96_000), None);
    let lowest = "format = 1\n[segment]\nframes_44100 = 260\nframes_48000 = 288\n\
        [[rung]]\nname = \"64\"\ncodec = \"aac\"\nencoder = \"avenc_aac\"\nbitrate_bps = 64_000\n";
    let lowest = bench.file("lowest.toml", lowest);
    let sliced = (bench.music(44_100, 1, 130 * 44_100), Some(lowest));
    for source in [all, sliced] {
        one_core_as_two(&bench, &source);
    }
}

fn one_core_as_two(bench: &Bench, (input, plan): &(std::path::PathBuf, Option<std::path::PathBuf>)) {
    let version = |cores: &str, name: &str| {
        let out = bench.path(name);
        let mut command = Command::new("taskset");
        command.args(["-c", cores, env!("CARGO_BIN_EXE_segue"), "transcode"]).arg(input).arg("--out").arg(&out);
        command.args(plan.iter().flat_map(|plan| ["--ladder".as_ref(), plan.as_os_str()]));
        let done = command.output().expect("taskset is installed");
        assert!(done.status.success(), "{}", said(&done));
        std::fs::read(out.join("version.json")).unwrap()
    };
    let (one, two) = (version("0", "one"), version("0,1", "two"));
    assert!(VersionIndex::decode(&one).unwrap().objects().count() > 4);
    std::fs::remove_dir_all(bench.path("one")).unwrap();
    std::fs::remove_dir_all(bench.path("two")).unwrap();
    assert!(one == two, "the index, which has the hash of every byte, differs");
}

/// Frames of a slice with the test ladder: ten segments of 44.
const SLICE: usize = 440;

/// The lowest rung is made in slices by two encoders. Where they meet, a frame may be as wrong as any other, not more: a
/// window that does not fit leaves half a frame of aliasing, as loud as the music.
#[test]
fn a_rung_in_slices_has_no_seam_that_could_be_heard() {
    let bench = Bench::new();
    for channels in [2, 1] {
        let input = bench.music(44_100, channels as u16, 45 * 44_100);
        let made = bench.make(&input);
        made.check(45 * 44_100);
        let source = first_channel(&input, channels, "");
        let ours = first_channel(&made.dir.join("aac-64.mp4"), channels, "");
        let ours = if error(&source, &ours) < error(&source, &ours[1024..]) { &ours[..] } else { &ours[1024..] };
        let errors: Vec<f64> = source.chunks(512).zip(ours.chunks(512)).map(|(a, b)| error(a, b)).collect();
        // Without the last, which ends in silence.
        let seams: Vec<usize> = (1..=4).map(|slice| slice * SLICE * 2).filter(|at| at + 80 < errors.len()).collect();
        assert_eq!(seams.len(), 4);
        let near = |at: usize| seams.iter().any(|seam| (seam - 4..seam + 70).contains(&at));
        let worst =
            |seam: bool| (0..errors.len() - 4).filter(|at| near(*at) == seam).map(|at| errors[at]).fold(0.0, f64::max);
        let (at_seams, elsewhere) = (worst(true), worst(false));
        assert!(at_seams <= elsewhere * 1.05, "{channels} channels: {at_seams} at seams, {elsewhere} elsewhere");
    }
}

/// The source may end anywhere: before a slice would give way, in the frames that two have, just behind them.
#[test]
fn a_source_may_end_anywhere_near_a_seam() {
    let bench = Bench::new();
    let slice = SLICE as u32 * 1024;
    for frames in
        [slice - 1, slice, slice + 1, slice + 31 * 1024, slice + 32 * 1024, slice + 32 * 1024 + 1, slice + 35_000]
    {
        let made = bench.make(&bench.music(44_100, 1, frames));
        made.check(u64::from(frames));
    }
}
