//! ffmpeg and GStreamer as clients of the running server, over HTTP with tokens: no warning, every sample.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{Served, published, published_server, said};

/// Interleaved 16-bit samples of the source: the WAV's data chunk, which our demo writes right after 44 bytes.
fn source_pcm(served: &Served) -> Vec<u8> {
    let wav = fs::read(&served.source_wav).unwrap();
    assert_eq!(&wav[36..40], b"data");
    assert_eq!(wav.len() as u64 - 44, served.samples * 4);
    wav[44..].to_vec()
}

/// Decodes a playlist with ffmpeg to stereo 16-bit samples; one word of warning fails.
fn by_ffmpeg(url: &str) -> Vec<u8> {
    let args = ["-nostdin", "-v", "warning", "-i", url, "-map", "0:a:0", "-f", "s16le", "-c:a", "pcm_s16le", "-"];
    let output = Command::new("ffmpeg").args(args).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{url}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Decodes a playlist with GStreamer's adaptive demuxer to stereo 16-bit samples.
fn by_gstreamer(url: &str, dir: &Path) -> Vec<u8> {
    let raw = dir.join("gst.raw");
    let output = Command::new("timeout")
        .args(["60", "gst-launch-1.0", "-q", "uridecodebin3", &format!("uri={url}"), "!", "audioconvert", "!"])
        .args(["audio/x-raw,format=S16LE,channels=2", "!", "filesink", &format!("location={}", raw.display())])
        .output()
        .unwrap();
    assert!(output.status.success(), "{url}: {}", said(&output));
    fs::read(raw).unwrap()
}

fn media_playlist(master: &str, rung: &str) -> String {
    master.replacen("/aac/master.m3u8", &format!("/aac/{rung}/index.m3u8"), 1)
}

#[test]
fn ffmpeg_decodes_every_playlist_without_a_warning() {
    let served = published_server();
    for master in [&served.aac_master, &served.flac_master, &served.all_master] {
        assert!(!by_ffmpeg(master).is_empty());
    }
}

#[test]
fn flac_arrives_bit_exact_in_ffmpeg_and_gstreamer() {
    let served = published_server();
    let source = source_pcm(&served);
    let dir = tempfile::tempdir().unwrap();
    assert!(by_ffmpeg(&served.flac_master) == source, "ffmpeg decodes other samples than the source");
    assert!(by_gstreamer(&served.flac_master, dir.path()) == source, "GStreamer decodes other samples than the source");
}

#[test]
fn aac_arrives_as_the_source_with_the_declared_priming_and_padding_and_nothing_else() {
    let served = published_server();
    let source = source_pcm(&served);
    for rung in published().report["rungs"].as_array().unwrap() {
        let number = |key: &str| rung[key].as_u64().unwrap();
        let Some(name) = rung["path"].as_str().unwrap().strip_prefix("aac/") else { continue };
        let decoded = by_ffmpeg(&media_playlist(&served.aac_master, name));
        assert_eq!(decoded.len() as u64 / 4, number("priming") + number("samples") + number("padding"), "rung {name}");
        assert_eq!(number("samples"), served.samples);
        check_alignment(name, &source, &decoded[number("priming") as usize * 4..]);
    }
}

/// After the priming, every second of the decode is nearest to the source at lag 0, and is that second:
/// a lost, doubled or shifted frame anywhere would show.
fn check_alignment(rung: &str, source: &[u8], decoded: &[u8]) {
    let left = |bytes: &[u8]| -> Vec<f64> {
        bytes.chunks_exact(4).map(|frame| f64::from(i16::from_le_bytes([frame[0], frame[1]]))).collect()
    };
    let (source, decoded) = (left(source), left(decoded));
    let window = 44_100;
    for start in (0..source.len() - window - 64).step_by(window) {
        let reference = &source[start..start + window];
        let energy: f64 = reference.iter().map(|x| x * x).sum::<f64>() + 1.0;
        let error = |lag: i64| -> f64 {
            let from = start as i64 + lag;
            if from < 0 {
                return f64::INFINITY;
            }
            let other = &decoded[from as usize..from as usize + window];
            reference.iter().zip(other).map(|(a, b)| (a - b) * (a - b)).sum::<f64>() / energy
        };
        let here = error(0);
        for lag in [-32, -2, -1, 1, 2, 32] {
            assert!(here < error(lag), "rung {rung}, second {}: lag {lag} fits better than 0", start / window);
        }
        // A quiet second has little to compare; elsewhere coding noise stays far below the music.
        assert!(here < 0.35 || energy / (window as f64) < 1e4, "rung {rung}, second {}: error {here}", start / window);
    }
}

#[test]
fn gstreamer_plays_the_aac_ladder_with_every_sample() {
    let served = published_server();
    let dir = tempfile::tempdir().unwrap();
    let decoded = by_gstreamer(&served.aac_master, dir.path());
    let rung = &published().report["rungs"][0];
    let whole = ["priming", "samples", "padding"].iter().map(|key| rung[*key].as_u64().unwrap()).sum::<u64>();
    let frames = decoded.len() as u64 / 4;
    // hlsdemux2 plays the priming; whether a version of it trims the edits or not, no source sample is lost.
    assert!((served.samples..=whole).contains(&frames), "{frames} of {} … {whole}", served.samples);
}
