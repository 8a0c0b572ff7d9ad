//! Puts the child's output into files and reads them back. In: init sections and segments, as they
//! come. Out: the rungs of a version index, every number measured on what is on the disk.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest as _, Sha256};

use super::analysis::SAMPLES_PER_POINT;
use super::plan::RungPlan;
use super::source::ReadAt;
use super::waveform;
use crate::base::error::Context as _;
use crate::base::{Error, Result, hex};
use crate::hls::cmaf::RungCheck;
use crate::hls::playlist::target_duration_s;
use crate::hls::version::{Extra, Object, Role, Rung, SLICE_ALIGNMENT, Segment, Slice, aligned_after, digest128};

/// The files of an attempt. Dropping it removes them, unless `keep` was called.
pub(super) struct Workspace {
    directory: PathBuf,
    written: Vec<PathBuf>,
    bytes: u64,
    bytes_max: u64,
}

impl Workspace {
    pub(super) fn new(directory: &Path, bytes_max: u64) -> Workspace {
        Workspace { directory: directory.to_owned(), written: Vec::new(), bytes: 0, bytes_max }
    }

    fn create(&mut self, name: &str) -> Result<File> {
        let path = self.directory.join(name);
        let mut options = File::options();
        let options = options.read(true).write(true).create(true).truncate(true);
        let file = options.open(&path).context(|| format!("cannot write {name}"))?;
        self.written.push(path);
        Ok(file)
    }

    /// Counts what is written; a decompression bomb ends here.
    fn admit(&mut self, bytes: usize) -> Result<()> {
        self.bytes += bytes as u64;
        match self.bytes > self.bytes_max {
            true => Err(Error::invalid(format!(
                "it makes more than {} MiB of output; split it into parts",
                self.bytes_max >> 20
            ))),
            false => Ok(()),
        }
    }

    /// The attempt succeeded: the files stay.
    pub(super) fn keep(mut self) {
        self.written.clear();
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        for path in &self.written {
            let _ = std::fs::remove_file(path); // nothing better can be done with a failure
        }
    }
}

/// A file of an init section and segments, being written.
pub(super) struct SlicedFile {
    name: String,
    file: File,
    init_bytes: usize,
    init_is_final: bool,
    segments: Vec<u64>,
    /// Where the last slice ends.
    end: u64,
}

/// Where everything lies in such a file, and its hashes.
pub(super) struct Slices {
    pub(super) object: Object,
    pub(super) init: Slice,
    pub(super) segments: Vec<Segment>,
}

impl SlicedFile {
    pub(super) fn create(workspace: &mut Workspace, name: String) -> Result<SlicedFile> {
        let file = workspace.create(&name)?;
        Ok(SlicedFile { name, file, init_bytes: 0, init_is_final: false, segments: Vec::new(), end: 0 })
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether the child has said all of it.
    pub(super) fn is_final(&self) -> bool {
        self.init_is_final
    }

    /// The init section: reserves its place the first time, fills it the second.
    pub(super) fn init(&mut self, workspace: &mut Workspace, bytes: &[u8]) -> Result<()> {
        let failed = || format!("cannot write {}", self.name);
        if self.init_bytes == 0 {
            workspace.admit(bytes.len())?;
            self.init_bytes = bytes.len();
            self.end = bytes.len() as u64;
            return self.file.write_all(bytes).context(failed);
        }
        if bytes.len() != self.init_bytes || self.init_is_final {
            return Err(Error::internal("the child changed the length of an init section"));
        }
        self.init_is_final = true;
        self.file.write_all_at(bytes, 0).context(failed)
    }

    /// The next segment.
    pub(super) fn segment(&mut self, workspace: &mut Workspace, bytes: &[u8]) -> Result<()> {
        if self.init_bytes == 0 || self.init_is_final {
            return Err(Error::internal("the child sent a segment outside of its rung"));
        }
        let start = aligned_after(self.end, SLICE_ALIGNMENT);
        let start = start.ok_or_else(|| Error::internal("the rung's file is too long"))?;
        let gap = free_box(start - self.end);
        workspace.admit(gap.len() + bytes.len())?;
        self.segments.push(bytes.len() as u64);
        self.end = start + bytes.len() as u64;
        let write = self.file.write_all(&gap).and_then(|()| self.file.write_all(bytes));
        write.context(|| format!("cannot write {}", self.name))
    }

    /// Reads the file back, has all of it checked, and measures it. `begin` gets the init section, `ticks` each segment
    /// and says how long it is.
    pub(super) fn read_back<C>(
        mut self,
        begin: impl FnOnce(&[u8]) -> Result<C>,
        ticks: impl Fn(&mut C, &[u8]) -> Result<u64>,
    ) -> Result<(C, Slices)> {
        self.file.flush().context(|| format!("cannot write {}", self.name))?;
        if !self.init_is_final {
            return Err(Error::internal(format!("the child did not finish {}", self.name)));
        }
        let mut reader = Hashing::new(&self.file)?;
        let init = reader.take(self.init_bytes as u64)?;
        let mut check = begin(&init)?;
        let mut segments = Vec::with_capacity(self.segments.len());
        for bytes in &self.segments {
            let start = aligned_after(reader.bytes, SLICE_ALIGNMENT).unwrap_or(u64::MAX);
            reader.take(start - reader.bytes)?;
            let segment = reader.take(*bytes)?;
            let ticks = ticks(&mut check, &segment)?;
            segments.push(Segment { bytes: *bytes, ticks, hash: digest128(&segment) });
        }
        let object = reader.end(self.name)?;
        Ok((check, Slices { object, init: Slice { bytes: init.len() as u64, hash: digest128(&init) }, segments }))
    }
}

/// One rung's file being written.
pub(super) struct RungFile {
    plan: RungPlan,
    file: SlicedFile,
}

impl RungFile {
    pub(super) fn create(workspace: &mut Workspace, plan: RungPlan) -> Result<RungFile> {
        let file = SlicedFile::create(workspace, plan.file_name())?;
        Ok(RungFile { plan, file })
    }

    /// The plan it follows.
    pub(super) fn plan(&self) -> &RungPlan {
        &self.plan
    }

    /// Whether the child has said all of it.
    pub(super) fn is_final(&self) -> bool {
        self.file.is_final()
    }

    /// Whole segments written so far, as presented samples.
    pub(super) fn samples(&self) -> u64 {
        self.file.segments.len() as u64 * self.plan.segment_samples
    }

    /// The init section: reserves its place the first time, fills it the second.
    pub(super) fn init(&mut self, workspace: &mut Workspace, bytes: &[u8]) -> Result<()> {
        self.file.init(workspace, bytes)
    }

    /// The next segment.
    pub(super) fn segment(&mut self, workspace: &mut Workspace, bytes: &[u8]) -> Result<()> {
        self.file.segment(workspace, bytes)
    }

    /// Reads the file back, checks all of it, and measures it.
    pub(super) fn finish(self) -> Result<Rung> {
        let name = self.plan.file_name();
        self.verify().context(|| format!("{name} does not add up"))
    }

    fn verify(self) -> Result<Rung> {
        let (check, slices) = self.file.read_back(RungCheck::begin, RungCheck::segment)?;
        let Slices { object, init, segments } = slices;
        let facts = check.init().clone();
        let frames = check.frames();
        let samples = check.finish()?;
        let plan = &self.plan;
        let promised = (plan.rate, plan.channels, plan.bits, plan.priming());
        if (facts.rate, u32::from(facts.channels), u32::from(facts.bits), facts.priming) != promised {
            return Err(Error::internal("the child made another format than planned"));
        }
        let uneven = segments.split_last().is_none_or(|(last, others)| {
            let tail = !others.is_empty() && last.ticks <= plan.tail_samples;
            let long = last.ticks > plan.segment_samples + plan.tail_samples;
            tail || long || others.iter().any(|s| s.ticks != plan.segment_samples)
        });
        if uneven {
            return Err(Error::internal("its segments are not cut where planned"));
        }
        // AAC decoders give whole frames, whatever the last duration says; FLAC's last block is short.
        let decoded = if plan.priming() > 0 { frames * u64::from(plan.frame()) } else { samples };
        let padding = decoded.saturating_sub(samples + u64::from(plan.priming()));
        let (peak_bps, average_bps) = bandwidths(&segments, plan.rate);
        Ok(Rung {
            family: plan.rung.family,
            name: plan.rung.name.clone(),
            codecs: facts.codecs,
            rate: plan.rate,
            channels: plan.channels,
            bits: plan.bits,
            nominal_bps: u64::from(plan.rung.bitrate_bps),
            peak_bps,
            average_bps,
            priming: plan.priming(),
            padding: u32::try_from(padding).map_err(|_| Error::internal("its padding is absurd"))?,
            samples,
            alignment: SLICE_ALIGNMENT,
            object,
            init,
            segments,
        })
    }
}

/// A `free` box of this length (ISO/IEC 14496-12 §8.1.2): what readers of the whole file skip. Empty for 0;
/// `aligned_after` leaves no room that is too small for one.
fn free_box(bytes: u64) -> Vec<u8> {
    let mut filler = vec![0; bytes as usize];
    if let Some(head) = filler.first_chunk_mut::<8>() {
        head[..4].copy_from_slice(&(bytes as u32).to_be_bytes());
        head[4..].copy_from_slice(b"free");
    }
    filler
}

/// Peak and average segment bit rate. The peak is the highest of any run of segments that lasts between
/// half and one and a half target durations (RFC 8216 §4.3.4.2, RFC 8216bis §4.4.6.2); of the whole when no run
/// does. A track shorter than the shortest run that counts is measured as if it lasted that long: its boxes
/// divided by its few samples would be a rate that nobody needs (docs/decisions/0023).
pub(super) fn bandwidths(segments: &[Segment], rate: u32) -> (u64, u64) {
    let bps = |bytes: u64, ticks: u64| {
        let bits = u128::from(bytes) * 8 * u128::from(rate);
        u64::try_from(bits.div_ceil(u128::from(ticks.max(1)))).unwrap_or(u64::MAX)
    };
    let rate_64 = u64::from(rate);
    let target_s = target_duration_s(segments, rate);
    let (least, most) = (target_s * rate_64 / 2, target_s * rate_64 * 3 / 2);
    let mut peak = 0;
    for from in 0..segments.len() {
        let (mut bytes, mut ticks) = (0, 0);
        for segment in &segments[from..] {
            bytes += segment.bytes;
            ticks += segment.ticks;
            if ticks > most {
                break;
            }
            if ticks >= least {
                peak = peak.max(bps(bytes, ticks));
            }
        }
    }
    let ticks: u64 = segments.iter().map(|s| s.ticks).sum();
    let average = bps(segments.iter().map(|s| s.bytes).sum(), ticks.max(least));
    (if peak == 0 { average } else { peak }, average)
}

/// Reads a file from its start in pieces and hashes all of it.
struct Hashing {
    reader: BufReader<File>,
    hash: Sha256,
    bytes: u64,
}

impl Hashing {
    fn new(file: &File) -> Result<Hashing> {
        use std::io::Seek as _;
        let mut file = file.try_clone().context(|| "cannot read back")?;
        file.rewind().context(|| "cannot read back")?;
        Ok(Hashing { reader: BufReader::with_capacity(1 << 16, file), hash: Sha256::new(), bytes: 0 })
    }

    fn take(&mut self, bytes: u64) -> Result<Vec<u8>> {
        let mut piece = Vec::new();
        let read = (&mut self.reader).take(bytes).read_to_end(&mut piece).context(|| "cannot read back")?;
        if read as u64 != bytes {
            return Err(Error::internal("the file is shorter than what was written"));
        }
        self.hash.update(&piece);
        self.bytes += bytes;
        Ok(piece)
    }

    fn end(mut self, name: String) -> Result<Object> {
        let mut more = [0];
        match self.reader.read(&mut more).context(|| "cannot read back")? {
            0 => Ok(Object { name, bytes: self.bytes, sha256: hex::encode(&self.hash.finalize()) }),
            _ => Err(Error::internal("the file is longer than what was written")),
        }
    }
}

/// The SHA-256 of a whole source, hexadecimal, read in blocks. Ends early with
/// an error when nobody wants it any more.
pub(super) fn hash_of(source: &impl ReadAt, unwanted: &AtomicBool) -> std::io::Result<String> {
    let mut hash = Sha256::new();
    let mut block = vec![0; 1 << 18];
    let mut at = 0;
    loop {
        if unwanted.load(Ordering::Relaxed) {
            return Err(std::io::ErrorKind::Interrupted.into());
        }
        match source.read_at(at, &mut block)? {
            0 => return Ok(hex::encode(&hash.finalize())),
            n => {
                hash.update(&block[..n]);
                at += n as u64;
            }
        }
    }
}

/// An object beside the ladder, written as it comes.
pub(super) struct ExtraFile {
    role: Role,
    name: String,
    file: File,
    bytes: u64,
}

/// The waveform being written.
pub(super) struct Peaks {
    file: ExtraFile,
    rate: u32,
    points: u32,
}

impl Peaks {
    pub(super) fn create(workspace: &mut Workspace, rate: u32) -> Result<Peaks> {
        let mut file = ExtraFile::create(workspace, Role::Peaks, "peaks.bin".into())?;
        file.write(workspace, &waveform::header(rate, 0, SAMPLES_PER_POINT))?;
        Ok(Peaks { file, rate, points: 0 })
    }

    /// The next points, pairs of bytes.
    pub(super) fn add(&mut self, workspace: &mut Workspace, points: &[u8]) -> Result<()> {
        self.points = self.points.saturating_add((points.len() / 2) as u32);
        self.file.write(workspace, points)
    }

    /// Every file of it.
    pub(super) fn finish(self, workspace: &mut Workspace) -> Result<Vec<Extra>> {
        let head = waveform::header(self.rate, self.points, SAMPLES_PER_POINT);
        self.file.patch(0, &head)?;
        let mut points = vec![0; self.points as usize * 2];
        self.file.file.read_exact_at(&mut points, head.len() as u64).context(|| "cannot read back peaks.bin")?;
        let mut extras = vec![self.file.finish()?];
        for zoom in waveform::ZOOMS {
            let mut file = ExtraFile::create(workspace, Role::PeaksAt(zoom), waveform::zoom_name(zoom))?;
            file.write(workspace, &waveform::zoomed(self.rate, &points, zoom))?;
            extras.push(file.finish()?);
        }
        let mut small = ExtraFile::create(workspace, Role::PeaksSmall, "peaks.json".into())?;
        small.write(workspace, &waveform::small(self.rate, &points))?;
        extras.push(small.finish()?);
        Ok(extras)
    }
}

impl ExtraFile {
    pub(super) fn create(workspace: &mut Workspace, role: Role, name: String) -> Result<ExtraFile> {
        Ok(ExtraFile { role, file: workspace.create(&name)?, name, bytes: 0 })
    }

    /// Appends.
    pub(super) fn write(&mut self, workspace: &mut Workspace, bytes: &[u8]) -> Result<()> {
        workspace.admit(bytes.len())?;
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes).context(|| format!("cannot write {}", self.name))
    }

    /// Overwrites bytes that are there already.
    fn patch(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, at).context(|| format!("cannot write {}", self.name))
    }

    pub(super) fn finish(self) -> Result<Extra> {
        let sha256 =
            hash_of(&self.file, &AtomicBool::new(false)).context(|| format!("cannot read back {}", self.name))?;
        Ok(Extra { role: self.role, object: Object { name: self.name, bytes: self.bytes, sha256 } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bandwidths_are_measured_over_runs_of_about_a_target_duration() {
        let check = |segments: &[(u64, u64)], expected: (u64, u64)| {
            let segments: Vec<Segment> =
                segments.iter().map(|(bytes, ticks)| Segment { bytes: *bytes, ticks: *ticks, hash: [0; 16] }).collect();
            assert_eq!(bandwidths(&segments, 1000), expected, "{segments:?}");
        };
        check(&[(6000, 6000), (9000, 6000), (3000, 6000)], (12_000, 8_000));
        // The last second is dense, but alone it is shorter than half a target duration.
        check(&[(6000, 6000), (6000, 6000), (3000, 1000)], (10_286, 9_231));
        check(&[(100, 500)], (1_600, 1_600));
        // Shorter than half a target duration of one second: measured as half a second.
        check(&[(100, 300)], (1_600, 1_600));
        check(&[(1_000, 1)], (16_000, 16_000));
        check(&[(1_000, 0)], (16_000, 16_000));
    }

    #[test]
    fn a_dropped_workspace_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let mut workspace = Workspace::new(directory.path(), 10);
        let mut extra = ExtraFile::create(&mut workspace, Role::Peaks, "peaks.bin".into()).unwrap();
        extra.write(&mut workspace, &[0; 10]).unwrap();
        assert!(extra.write(&mut workspace, &[0; 1]).unwrap_err().chain().contains("output"));
        drop(workspace);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
