//! Bounds of an attempt. Every default has its reason here.

use std::path::PathBuf;
use std::time::Duration;

use super::fetch::Fetching;
use super::sandbox::Sandbox;
use crate::base::Error;

/// How an attempt is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The executable whose hidden command `child` is `child_main`.
    pub exe: PathBuf,
    /// The child's whole environment; empty is enough for an installed GStreamer. `GST_REGISTRY`,
    /// `GST_PLUGIN_SYSTEM_PATH_1_0` or `HOME` go here.
    pub env: Vec<(String, String)>,
    /// Where the preview begins in the source, in milliseconds; `None`: at the loudest 30 seconds.
    pub preview_start_ms: Option<u64>,
    /// What an input may cost.
    pub limits: Limits,
    /// What to do where this kernel or container lacks a part of the sandbox.
    pub sandbox: Sandbox,
    /// What may be downloaded.
    pub fetching: Fetching,
}

/// What an input may cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Length of the input in bytes. 8 GiB: ten hours of CD audio as RF64 have 6.
    pub input_bytes_max: u64,
    /// Length of the audio in seconds. Ten hours: the longest mixes and audio books.
    pub duration_s_max: u64,
    /// Least time an attempt may take, in seconds: a minute for a busy machine to start.
    pub wall_s_min: u64,
    /// Input bytes that must be handled per second on top of that. 20 kB/s: a 64 kbit/s stream (the
    /// densest in audio per byte worth having) at two and a half times real time on one slow core.
    pub bytes_per_s_min: u64,
    /// Seconds until the first decoded sample. 10: plugins load in 0.1 s, 0.5 s without a registry cache;
    /// the rest is for a busy machine. Some damaged files give neither samples nor an error, 2 in 100.
    pub first_sample_s: u64,
    /// Seconds without any event. 60: the slowest ladder makes a segment in about a second.
    pub no_progress_s: u64,
    /// Processor time of the child in seconds. Unset: four times the wall time, for it works on several cores.
    pub cpu_s_max: Option<u64>,
    /// Address space of the child in bytes. 2 GiB: below 1 GiB libav does not load; what is really used
    /// stays below 120 MiB.
    pub memory_bytes_max: u64,
    /// Resident memory of the child in bytes. 512 MiB: four times what the largest format takes.
    pub resident_bytes_max: u64,
    /// Length of an input with a picture, in bytes. 500 MiB: an hour of a course at a megabit a second.
    pub video_bytes_max: u64,
    /// Length of a film in seconds. Four hours.
    pub video_duration_s_max: u64,
    /// Pixels of a picture. 4096 × 2304: a decoder holds up to forty.
    pub video_pixels_max: u64,
    /// Bytes written in all. 16 GiB: ten hours of 96 kHz/24 bit FLAC and the AAC rungs.
    pub output_bytes_max: u64,
}

impl Default for Options {
    fn default() -> Options {
        // `/proc/self/exe` stays right when the program's file was replaced while it runs.
        Options {
            exe: PathBuf::from("/proc/self/exe"),
            env: Vec::new(),
            preview_start_ms: None,
            limits: Limits::default(),
            sandbox: Sandbox::BestEffort,
            fetching: Fetching::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            input_bytes_max: 8 << 30,
            duration_s_max: 36_000,
            wall_s_min: 60,
            bytes_per_s_min: 20_000,
            first_sample_s: 10,
            no_progress_s: 60,
            cpu_s_max: None,
            memory_bytes_max: 2 << 30,
            resident_bytes_max: 512 << 20,
            video_bytes_max: 500 << 20,
            video_duration_s_max: 4 * 3600,
            video_pixels_max: 4096 * 2304,
            output_bytes_max: 16 << 30,
        }
    }
}

/// Why a source of `bytes` is refused where `most` are accepted.
pub(super) fn too_large(bytes: u64, most: u64) -> Error {
    const MIB: u64 = 1 << 20;
    Error::invalid(match most < MIB || bytes - most < MIB / 10 {
        true => format!("it has {} bytes; at most {} are accepted; split it", grouped(bytes), grouped(most)),
        false => {
            let mib = bytes as f64 / MIB as f64;
            format!("it has {mib:.1} MiB; at most {} MiB are accepted; split it", most / MIB)
        }
    })
}

/// `12,000`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap_or_default()).collect();
    groups.join(",")
}

/// A length of time in the unit people say it in: `5 s`, `10 hours`.
pub(super) fn spoken(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{:.1} minutes", seconds as f64 / 60.0),
        _ => format!("{:.1} hours", seconds as f64 / 3600.0),
    }
}

impl Limits {
    /// Processor time that an attempt at an input of this length may take, in seconds.
    pub(super) fn cpu_s(&self, input_bytes: u64) -> u64 {
        self.cpu_s_max.unwrap_or_else(|| self.wall(input_bytes).as_secs().saturating_mul(4)).max(1)
    }

    /// The longest an attempt at an input of this length may take.
    pub fn wall(&self, input_bytes: u64) -> Duration {
        Duration::from_secs(self.wall_s_min + input_bytes / self.bytes_per_s_min.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_said_in_units_that_show_the_difference() {
        let said = |bytes, most| too_large(bytes, most).to_string();
        assert_eq!(said(12_000, 1_000), "it has 12,000 bytes; at most 1,000 are accepted; split it");
        assert_eq!(said(1_764_044, 1 << 20), "it has 1.7 MiB; at most 1 MiB are accepted; split it");
        assert_eq!(said((1 << 20) + 1, 1 << 20), "it has 1,048,577 bytes; at most 1,048,576 are accepted; split it");
        assert_eq!((spoken(5), spoken(300), spoken(36_000)), ("5 s".into(), "5.0 minutes".into(), "10.0 hours".into()));
    }
}
