//! The preview: cut where it shall be, never longer than 30 s for any decoder, and nothing of the upload in it but
//! its sound. Its HLS form is the same bytes.

use std::path::Path;

use segue::hls::cmaf::check_rung;
use segue::transcode::Options;

use super::bench::{Bench, Made, error, first_channel, ladder, options};
use crate::support::{run, said};

const RATE: usize = 44_100;

/// The loudest half minute, cut on the server, faded, in a file of its own.
#[test]
fn the_preview_is_the_loudest_thirty_seconds() {
    let bench = Bench::new();
    let music = bench.music(RATE as u32, 1, 70 * RATE as u32);
    let loud_at_12 = "-af volume='if(between(t,12,42),1,0.1)':eval=frame";
    let made = bench.make(&bench.convert(&music, loud_at_12, "loud.wav"));
    assert_eq!(made.index.preview.as_ref().unwrap().start, 12 * RATE as u64);
    lies_at(&made, &music, 12 * RATE);
}

#[test]
fn the_preview_begins_where_it_was_chosen_to_begin() {
    let bench = Bench::new();
    let music = bench.music(RATE as u32, 1, 70 * RATE as u32);
    let chosen = |ms| Options { preview_start_ms: Some(ms), ..options() };
    let made = bench.try_make(&music, &ladder(), &chosen(7_250)).unwrap();
    assert_eq!(made.index.preview.as_ref().unwrap().start, 319_725);
    lies_at(&made, &music, 319_725);
    // Near the end there is less, and nothing that was not there.
    let made = bench.try_make(&music, &ladder(), &chosen(65_000)).unwrap();
    assert_eq!(made.index.preview.as_ref().unwrap().rung.samples, 5 * RATE as u64);
    let refused = bench.try_make(&music, &ladder(), &chosen(70_000)).map(|_| ()).unwrap_err().chain();
    assert!(refused.contains("to begin at 70.0 s, but it ends at 70.0 s; choose an earlier start"), "{refused}");
}

/// Whether the preview holds what the source has from sample `at` on, for at most 30 s whatever the decoder skips.
fn lies_at(made: &Made, source: &Path, at: usize) {
    let decoded = first_channel(&made.dir.join("preview.m4a"), 1, "");
    assert!(decoded.len() <= 30 * RATE && decoded.len() > 30 * RATE - 1024, "{}", decoded.len());
    let preview = &decoded[1024..];
    let source = first_channel(source, 1, "");
    for offset in [RATE, 10 * RATE, 28 * RATE] {
        let wanted = &source[at + offset..][..8192];
        let noise = error(wanted, &preview[offset..]) / error(wanted, &vec![0.0; 8192]);
        assert!(noise < 0.2, "sample {offset}: {noise}");
    }
    let level = |part: &[f32]| error(part, &vec![0.0; part.len()]);
    assert!(level(&preview[..200]) < 0.05 && level(&preview[preview.len() - 2000..]) < 0.05);
}

/// Who has not paid must not get the whole of a short track.
#[test]
fn the_preview_of_a_short_track_is_half_of_it() {
    let bench = Bench::new();
    let made = bench.make(&bench.music(RATE as u32, 2, 12 * RATE as u32));
    assert_eq!(made.index.preview.as_ref().unwrap().rung.samples, 6 * RATE as u64);
    let decoded = first_channel(&made.dir.join("preview.m4a"), 2, "");
    assert!(decoded.len() < 7 * RATE && decoded.len() >= 6 * RATE, "{}", decoded.len());
}

#[test]
fn nothing_of_the_upload_is_in_the_preview_but_its_sound() {
    let bench = Bench::new();
    let music = bench.music(RATE as u32, 2, 35 * RATE as u32);
    let words = "-metadata title=SECRETTITLE -metadata artist=SECRETARTIST -metadata comment=SECRETCOMMENT";
    let made = bench.make(&bench.convert(&music, &format!("{words} -c:a alac"), "tagged.m4a"));
    let preview = std::fs::read(made.dir.join("preview.m4a")).unwrap();
    for word in ["SECRET", "udta", "meta", "ilst", "ID3"] {
        assert!(!preview.windows(word.len()).any(|w| w == word.as_bytes()), "{word} is in it");
    }
    // Its own encode: no frame of a rung is in it, whatever the offset.
    let (_, segments) = made.slices(made.rung("64"));
    for segment in segments {
        let middle = &segment[segment.len() / 2..][..64];
        assert!(!preview.windows(64).any(|w| w == middle));
    }
}

#[test]
fn its_hls_form_is_the_same_bytes_and_plays_without_a_warning() {
    let bench = Bench::new();
    let music = bench.music(RATE as u32, 2, 61 * RATE as u32);
    let made = bench.make(&music);
    let rung = &made.index.preview.as_ref().unwrap().rung;
    let (init, segments) = made.slices(rung);
    assert_eq!(check_rung(&init, &segments).unwrap(), rung.segments.iter().map(|s| s.ticks).collect::<Vec<_>>());
    let tree = bench.path("tree");
    let done = run(["transcode".as_ref(), music.as_os_str(), "--out".as_ref(), tree.as_os_str()]);
    assert!(done.status.success(), "{}", said(&done));
    let text = std::fs::read_to_string(tree.join("preview.m3u8")).unwrap();
    let playlist = m3u8_rs::parse_media_playlist(text.as_bytes()).unwrap().1;
    let length: f32 = playlist.segments.iter().map(|s| s.duration).sum();
    assert!(length <= 30.0 && length > 29.9, "{length}");
    let mut command = std::process::Command::new("ffmpeg");
    command.args(["-v", "warning", "-nostdin", "-i"]).arg(tree.join("preview.m3u8"));
    let done = command.args(["-f", "null", "-"]).output().unwrap();
    assert!(done.status.success() && done.stderr.is_empty(), "{}", said(&done));
    let whole = first_channel(&tree.join("preview.m4a"), 2, "");
    assert!(whole == first_channel(&tree.join("preview.m3u8"), 2, ""));
}
