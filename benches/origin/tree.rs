//! What is served: one published version whose segments have exactly the sizes of the rows, in segue's
//! store and, cut into files by the same names, in a directory for nginx.

use std::fs;
use std::path::{Path, PathBuf};

use segue::base::id::{TrackId, VersionId};
use segue::hls::package;
use segue::hls::playlist::{media, segment_name};
use segue::hls::version::{
    FORMAT, Family, Object, Rung, SLICE_ALIGNMENT, Segment, Slice, Source, VersionIndex, digest128,
};
use segue::store::local::LocalStore;
use sha2::{Digest as _, Sha256};

use crate::Outcome;
use crate::rows::Space;

/// Segment sizes in KiB, each the rung of the same name.
pub(crate) const SIZES_KIB: [u64; 5] = [1, 16, 64, 192, 512];
/// A four-minute track of four-second segments; its media playlist is close to 2 KiB.
pub(crate) const SEGMENTS: usize = 60;
/// The rung whose file is read cold, in KiB a segment: 240 MiB, and 15 MiB for a smoke run.
const COLD_KIB: [u64; 2] = [4096, 256];
/// 172 AAC frames, the packager's segment at 44.1 kHz.
const SEGMENT_TICKS: u64 = 172 * 1024;
const RATE: u32 = 44_100;

/// The files and their names.
pub(crate) struct Tree {
    /// segue's `--data`.
    pub(crate) data: PathBuf,
    /// nginx's `root`.
    pub(crate) files: PathBuf,
    /// The track in both.
    pub(crate) track: TrackId,
    /// Its only version.
    pub(crate) version: VersionId,
    /// The rung that is read cold: name and length. Both servers serve the same file of the disk.
    pub(crate) cold: (String, u64),
}

impl Tree {
    /// Makes everything below `dir`.
    pub(crate) fn build(dir: &Path, smoke: bool) -> Outcome<Tree> {
        let (data, files) = (dir.join("data"), dir.join("files"));
        let store = LocalStore::open(&data.join("store")).map_err(|e| e.chain())?;
        let staging = store.stage().map_err(|e| e.chain())?;
        let cold_kib = COLD_KIB[usize::from(smoke)];
        let mut rungs = Vec::new();
        let mut contents = Vec::new();
        for kib in SIZES_KIB.into_iter().chain([cold_kib]) {
            // An init section of a page keeps every segment at a page boundary, as the transcoder does.
            let bytes = noise(SLICE_ALIGNMENT as usize + SEGMENTS * (kib as usize) * 1024, kib);
            let rung = rung(kib, &bytes);
            fs::write(staging.dir().join(&rung.object.name), &bytes)
                .map_err(|e| format!("cannot write a rung: {e}"))?;
            rungs.push(rung);
            contents.push(bytes);
        }
        let samples = SEGMENTS as u64 * SEGMENT_TICKS;
        let source = Source {
            sha256: "0".repeat(64),
            codec: "noise".into(),
            rate: RATE,
            channels: 2,
            layout: None,
            bits: 16,
            samples,
        };
        let index = VersionIndex {
            format: FORMAT,
            source,
            encoders: vec!["noise".into()],
            loudness: None,
            gating: None,
            rungs,
            video: None,
            skipped: Vec::new(),
            preview: None,
            extras: Vec::new(),
        };
        package::check(&index).map_err(|e| e.chain())?;
        let track = TrackId::decode("trk_bench").ok_or("trk_bench is no track id")?;
        let version = store.publish(staging, track, &index).map_err(|e| e.chain())?;

        let cold = index.rungs.last().ok_or("no rungs")?.object.clone();
        let tree = Tree { data, files, track, version, cold: (cold.name, cold.bytes) };
        let below = |space| tree.files.join(&tree.directory(space)[1..]);
        let write = || -> std::io::Result<()> {
            fs::create_dir_all(below(Space::Download))?;
            for (rung, bytes) in index.rungs.iter().zip(&contents) {
                let stored = store.version_dir(track, version).join(&rung.object.name);
                fs::hard_link(stored, below(Space::Download).join(&rung.object.name))?;
                if rung.object.name != tree.cold.0 {
                    write_files(&below(Space::Media).join(rung.path()), rung, bytes)?;
                }
            }
            Ok(())
        };
        write().map_err(|e| format!("cannot write below {}: {e}", tree.files.display()))?;
        Ok(tree)
    }

    /// The version's directory in URLs: `/a/{track}/{version}/`.
    pub(crate) fn directory(&self, space: Space) -> String {
        format!("/{}/{}/{}/", space.name(), self.track, self.version)
    }

    /// The cold rung as nginx serves it, which is segue's own file.
    pub(crate) fn cold_file(&self) -> PathBuf {
        self.files.join(&self.directory(Space::Download)[1..]).join(&self.cold.0)
    }
}

/// The file of the rung with segments of `kib` KiB.
pub(crate) fn object_name(kib: u64) -> String {
    format!("aac-{kib}.mp4")
}

/// Publishes a version of one rung with segments of `kib` KiB in a store of its own below `dir`, then makes it `versions` tracks
/// by links; returns the data directory and the last track.
pub(crate) fn many(dir: &Path, versions: usize, kib: u64) -> Outcome<(PathBuf, TrackId, VersionId)> {
    /// File systems allow a file some 65,000 names.
    const LINKS_MAX: usize = 30_000;
    let data = dir.join(format!("data-{versions}-{kib}"));
    let store = LocalStore::open(&data.join("store")).map_err(|e| e.chain())?;
    let samples = SEGMENTS as u64 * SEGMENT_TICKS;
    let source = Source {
        sha256: "0".repeat(64),
        codec: "noise".into(),
        rate: RATE,
        channels: 2,
        layout: None,
        bits: 16,
        samples,
    };
    let bytes = noise(SLICE_ALIGNMENT as usize + SEGMENTS * kib as usize * 1024, 1);
    let index = VersionIndex {
        format: FORMAT,
        source,
        encoders: vec!["noise".into()],
        loudness: None,
        gating: None,
        rungs: vec![rung(kib, &bytes)],
        video: None,
        skipped: Vec::new(),
        preview: None,
        extras: Vec::new(),
    };
    let mut original: Option<(TrackId, VersionId)> = None;
    for number in 0..versions {
        let track = TrackId::decode(&format!("trk_bench{number:06}")).ok_or("no track id")?;
        match original {
            Some((first, version)) if number % LINKS_MAX != 0 => {
                let (from, to) = (store.version_dir(first, version), store.version_dir(track, version));
                fs::create_dir_all(&to)
                    .and_then(|()| fs::hard_link(from.join("version.json"), to.join("version.json")))
                    .and_then(|()| fs::hard_link(from.join(object_name(kib)), to.join(object_name(kib))))
                    .map_err(|e| format!("cannot make {}: {e}", to.display()))?;
            }
            _ => {
                let staging = store.stage().map_err(|e| e.chain())?;
                fs::write(staging.dir().join(object_name(kib)), &bytes).map_err(|e| e.to_string())?;
                original = Some((track, store.publish(staging, track, &index).map_err(|e| e.chain())?));
            }
        }
    }
    let (_, version) = original.ok_or("a store of nothing")?;
    let last = TrackId::decode(&format!("trk_bench{:06}", versions - 1)).ok_or("no track id")?;
    Ok((data, last, version))
}

/// A rung of `SEGMENTS` segments of `kib` KiB behind an init section of whatever is left of `bytes`.
fn rung(kib: u64, bytes: &[u8]) -> Rung {
    let segment_bytes = kib * 1024;
    let (init, media) = bytes.split_at(bytes.len() - SEGMENTS * segment_bytes as usize);
    let bps = segment_bytes * 8 * u64::from(RATE) / SEGMENT_TICKS;
    Rung {
        family: Family::Aac,
        name: kib.to_string(),
        codecs: "mp4a.40.2".into(),
        rate: RATE,
        channels: 2,
        bits: 16,
        nominal_bps: bps,
        peak_bps: bps,
        average_bps: bps,
        priming: 1024,
        padding: 0,
        samples: SEGMENTS as u64 * SEGMENT_TICKS,
        alignment: if kib.is_multiple_of(4) { SLICE_ALIGNMENT } else { 1 },
        object: Object {
            name: object_name(kib),
            bytes: bytes.len() as u64,
            sha256: Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect(),
        },
        init: Slice { bytes: init.len() as u64, hash: digest128(init) },
        segments: media
            .chunks(segment_bytes as usize)
            .map(|s| Segment { bytes: segment_bytes, ticks: SEGMENT_TICKS, hash: digest128(s) })
            .collect(),
    }
}

fn write_files(dir: &Path, rung: &Rung, bytes: &[u8]) -> std::io::Result<()> {
    fs::create_dir_all(dir)?;
    fs::write(dir.join("index.m3u8"), media(rung, &[]))?;
    let (init, media) = bytes.split_at(rung.init.bytes as usize);
    fs::write(dir.join("init.mp4"), init)?;
    for (number, segment) in media.chunks(rung.segments[0].bytes as usize).enumerate() {
        fs::write(dir.join(segment_name(number)), segment)?;
    }
    Ok(())
}

/// Bytes that do not compress, the same on every run (xorshift64).
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
