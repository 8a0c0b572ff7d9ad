//! What it costs to make SDR of HDR (`docs/decisions/0077`), beside ffmpeg's `zscale` and `tonemap`.
//!
//! The same pictures once as SDR and once as HDR (HLG, 10 bits), 1080p: what segue needs more for the second, less what a
//! decoder needs more for it, is its tone mapping. ffmpeg's is what decoding with its filters needs more than decoding.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Outcome, Used, empty, measure, quiet_ffmpeg};

/// Pictures a second of the made-up film.
const RATE: u32 = 25;
const SIZE: &str = "1920x1080";
/// ffmpeg's usual chain: to light, the peak pressed by the same kind of curve, to BT.709.
const FILTERS: &str = "zscale=t=linear:npl=203,format=gbrpf32le,zscale=p=bt709,tonemap=mobius:param=0.5:peak=4.9,\
                       zscale=t=bt709:m=bt709:r=tv,format=yuv420p";

/// Measures films of so many seconds, and answers a table.
pub(super) fn measured(scratch: &Path, seconds: u32, rounds: usize) -> Outcome<String> {
    let (sdr, hdr) = (film(scratch, seconds, false)?, film(scratch, seconds, true)?);
    let mut used: [Vec<Used>; 5] = Default::default();
    for _ in 0..rounds {
        let [ours_sdr, ours_hdr, decode_sdr, decode_hdr, mapped] = &mut used;
        ours_sdr.push(segue(scratch, &sdr)?);
        ours_hdr.push(segue(scratch, &hdr)?);
        decode_sdr.push(decoded(&sdr, None)?);
        decode_hdr.push(decoded(&hdr, None)?);
        mapped.push(decoded(&hdr, Some(FILTERS))?);
    }
    let [ours_sdr, ours_hdr, decode_sdr, decode_hdr, mapped] = used.map(|of| Used::median(&of));
    let pictures = f64::from(seconds * RATE);
    let ms = |cpu_s: f64| cpu_s * 1000.0 / pictures;
    let more = ours_hdr.cpu_s - ours_sdr.cpu_s;
    let (ours, theirs) = (ms(more - (decode_hdr.cpu_s - decode_sdr.cpu_s)), ms(mapped.cpu_s - decode_hdr.cpu_s));
    Ok(format!(
        "| {seconds} s of {SIZE}, {RATE} pictures a second | wall s | CPU s |\n|---|---|---|\n\
         | segue, SDR | {:.2} | {:.2} |\n| segue, HDR | {:.2} | {:.2} |\n\
         | tone mapping: {ours:.1} ms of CPU a picture | ffmpeg's filters: {theirs:.1} ms | ratio {:.2} |\n",
        ours_sdr.wall_s,
        ours_sdr.cpu_s,
        ours_hdr.wall_s,
        ours_hdr.cpu_s,
        ours / theirs,
    ))
}

/// A film of moving patterns with grain, the same on every run.
fn film(scratch: &Path, seconds: u32, hdr: bool) -> Outcome<PathBuf> {
    let file = scratch.join(if hdr { "hdr.mp4" } else { "sdr.mp4" });
    let format = if hdr { "yuv420p10le" } else { "yuv420p" };
    let picture = format!("testsrc2=s={SIZE}:r={RATE}:d={seconds},noise=alls=6:all_seed=7,format={format}");
    let mut ffmpeg = quiet_ffmpeg();
    ffmpeg.args(["-f", "lavfi", "-i", &picture, "-c:v", "libx264", "-preset", "ultrafast", "-crf", "20"]);
    ffmpeg.args(["-pix_fmt", format]);
    if hdr {
        ffmpeg.args(["-color_primaries", "bt2020", "-colorspace", "bt2020nc", "-color_trc", "arib-std-b67"]);
        ffmpeg.args(["-color_range", "tv"]);
    }
    measure("ffmpeg (making a film)", ffmpeg.arg(&file))?;
    Ok(file)
}

fn segue(scratch: &Path, film: &Path) -> Outcome<Used> {
    let out = scratch.join("film");
    empty(&out)?;
    let used =
        measure("segue", Command::new(env!("CARGO_BIN_EXE_segue")).arg("transcode").arg(film).arg("--out").arg(&out));
    empty(&out)?;
    used
}

fn decoded(film: &Path, filters: Option<&str>) -> Outcome<Used> {
    let mut ffmpeg = quiet_ffmpeg();
    ffmpeg.arg("-i").arg(film);
    if let Some(filters) = filters {
        ffmpeg.args(["-vf", filters]);
    }
    measure("ffmpeg", ffmpeg.args(["-f", "null", "-"]))
}
