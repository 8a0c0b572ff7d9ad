//! Writes archives in the ZIP format, from the first byte to the last but for one jump back per entry. In: entries, piece
//! by piece. Out: a file that every system opens. PKWARE's APPNOTE 6.3.10; names are UTF-8 (§4.4.4 bit 11).
//!
//! Lengths stand before an entry's bytes, not behind them: some readers take no descriptors (§4.3.9). What is larger than
//! 4 GiB uses ZIP64 (§4.3.14), and nothing else does: some readers do not take that either.

use std::io::{Seek, SeekFrom, Write};

use flate2::write::DeflateEncoder;
use flate2::{Compression, Crc};

use crate::base::error::Context as _;
use crate::base::{Error, Result};

/// How an entry is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// As it is: music does not become smaller.
    Stored,
    /// By DEFLATE.
    Deflated,
}

/// An archive that is being written.
pub struct Zip<W: Write + Seek> {
    out: Option<Sink<W>>,
    /// Entries that are whole, and the one that is open.
    entries: Vec<Entry>,
    is_open: bool,
    when: (u16, u16),
}

/// Where bytes of the open entry go.
enum Sink<W: Write> {
    Plain(W),
    Deflating(DeflateEncoder<Counted<W>>),
}

/// Counts what a compressor makes.
struct Counted<W> {
    out: W,
    bytes: u64,
}

struct Entry {
    name: String,
    packing: Packing,
    /// Whether its lengths may need 64 bits.
    large: bool,
    at: u64,
    crc: Crc,
    bytes: u64,
    packed: u64,
}

const LOCAL: u32 = 0x0403_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const END: u32 = 0x0605_4b50;
const END_64: u32 = 0x0606_4b50;
const LOCATOR_64: u32 = 0x0706_4b50;
/// Versions needed to extract: DEFLATE, ZIP64 (§4.4.3.2).
const VERSION: u16 = 20;
const VERSION_64: u16 = 45;
/// Made on Unix, so that the mode of files counts (§4.4.2).
const MADE_BY: u16 = 3 << 8 | VERSION_64;
/// Names are UTF-8.
const UTF_8: u16 = 1 << 11;
/// What stands in 32 bits when the value is in the ZIP64 field.
const ELSEWHERE: u32 = u32::MAX;
/// A regular file that its owner writes and everybody reads.
const MODE: u32 = 0o100_644 << 16;

impl<W: Write + Seek> Zip<W> {
    /// An archive whose entries are dated `unix_us`.
    pub fn new(out: W, unix_us: i64) -> Zip<W> {
        Zip { out: Some(Sink::Plain(out)), entries: vec![], is_open: false, when: dos_time(unix_us) }
    }

    /// Begins an entry of at most `bytes_max`. `name`: a path with `/`, without `..`.
    ///
    /// # Errors
    /// When what is below cannot be written.
    pub fn begin(&mut self, name: &str, packing: Packing, bytes_max: u64) -> Result<()> {
        debug_assert!(!self.is_open, "one entry at a time");
        let mut out = self.plain()?;
        let at = out.stream_position().context(where_)?;
        // What DEFLATE cannot make smaller it makes a little larger.
        let large = bytes_max >= u64::from(ELSEWHERE) - (64 << 20);
        let entry = Entry { name: name.to_owned(), packing, large, at, crc: Crc::new(), bytes: 0, packed: 0 };
        out.write_all(&entry.local(self.when)).context(where_)?;
        self.out = Some(match packing {
            Packing::Stored => Sink::Plain(out),
            Packing::Deflated => {
                Sink::Deflating(DeflateEncoder::new(Counted { out, bytes: 0 }, Compression::default()))
            }
        });
        self.entries.push(entry);
        self.is_open = true;
        Ok(())
    }

    /// Adds bytes to the entry.
    ///
    /// # Errors
    /// As `begin`.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let entry = self.entries.last_mut().expect("an entry was begun");
        entry.crc.update(bytes);
        entry.bytes += bytes.len() as u64;
        match self.out.as_mut().expect("it was not given back after an error") {
            Sink::Plain(out) => out.write_all(bytes),
            Sink::Deflating(out) => out.write_all(bytes),
        }
        .context(where_)
    }

    /// Ends the entry: what is known only now is written before its bytes.
    ///
    /// # Errors
    /// As `begin`.
    pub fn end(&mut self) -> Result<()> {
        let entry_bytes = self.entries.last().expect("an entry was begun").bytes;
        let (mut out, packed) = match self.out.take().expect("it was not given back after an error") {
            Sink::Plain(out) => (out, entry_bytes),
            Sink::Deflating(out) => {
                let Counted { out, bytes } = out.finish().context(where_)?;
                (out, bytes)
            }
        };
        let entry = self.entries.last_mut().expect("an entry was begun");
        entry.packed = packed;
        if !entry.large && entry.bytes.max(packed) >= u64::from(ELSEWHERE) {
            return Err(Error::internal(format!("{} became larger than it was said to be", entry.name)));
        }
        let after = out.stream_position().context(where_)?;
        out.seek(SeekFrom::Start(entry.at)).context(where_)?;
        out.write_all(&entry.local(self.when)).context(where_)?;
        out.seek(SeekFrom::Start(after)).context(where_)?;
        self.out = Some(Sink::Plain(out));
        self.is_open = false;
        Ok(())
    }

    /// Writes the list of the entries, and gives back what is below.
    ///
    /// # Errors
    /// As `begin`.
    pub fn finish(mut self) -> Result<W> {
        let mut out = self.plain()?;
        let at = out.stream_position().context(where_)?;
        let list: Vec<u8> = self.entries.iter().flat_map(|entry| entry.central(self.when)).collect();
        out.write_all(&list).context(where_)?;
        out.write_all(&end(self.entries.len() as u64, at, list.len() as u64)).context(where_)?;
        out.flush().context(where_)?;
        Ok(out)
    }

    fn plain(&mut self) -> Result<W> {
        match self.out.take() {
            Some(Sink::Plain(out)) => Ok(out),
            _ => Err(Error::internal("an archive goes on while an entry of it is open")),
        }
    }
}

impl Entry {
    /// §4.3.7. Of the same length whenever it is written.
    fn local(&self, (time, date): (u16, u16)) -> Vec<u8> {
        let mut head = Vec::with_capacity(50 + self.name.len());
        put32(&mut head, LOCAL);
        put16(&mut head, if self.large { VERSION_64 } else { VERSION });
        let lengths = (or_elsewhere(self.packed), or_elsewhere(self.bytes));
        self.common(&mut head, (time, date), if self.large { (ELSEWHERE, ELSEWHERE) } else { lengths });
        put16(&mut head, self.name.len() as u16);
        put16(&mut head, if self.large { 20 } else { 0 });
        head.extend_from_slice(self.name.as_bytes());
        if self.large {
            // §4.5.3: in a local header both lengths.
            put16(&mut head, 1);
            put16(&mut head, 16);
            head.extend_from_slice(&self.bytes.to_le_bytes());
            head.extend_from_slice(&self.packed.to_le_bytes());
        }
        head
    }

    /// §4.3.12.
    fn central(&self, when: (u16, u16)) -> Vec<u8> {
        let mut head = Vec::with_capacity(74 + self.name.len());
        let large: Vec<u64> =
            [self.bytes, self.packed, self.at].into_iter().filter(|value| *value >= u64::from(ELSEWHERE)).collect();
        put32(&mut head, CENTRAL);
        put16(&mut head, MADE_BY);
        put16(&mut head, if self.large || !large.is_empty() { VERSION_64 } else { VERSION });
        self.common(&mut head, when, (or_elsewhere(self.packed), or_elsewhere(self.bytes)));
        put16(&mut head, self.name.len() as u16);
        put16(&mut head, if large.is_empty() { 0 } else { 4 + 8 * large.len() as u16 });
        put16(&mut head, 0); // no comment
        put16(&mut head, 0); // on the first disk
        put16(&mut head, 0); // not known to be text
        put32(&mut head, MODE);
        put32(&mut head, or_elsewhere(self.at));
        head.extend_from_slice(self.name.as_bytes());
        if !large.is_empty() {
            put16(&mut head, 1);
            put16(&mut head, 8 * large.len() as u16);
            large.iter().for_each(|value| head.extend_from_slice(&value.to_le_bytes()));
        }
        head
    }

    fn common(&self, head: &mut Vec<u8>, (time, date): (u16, u16), (packed, bytes): (u32, u32)) {
        put16(head, UTF_8);
        put16(
            head,
            match self.packing {
                Packing::Stored => 0,
                Packing::Deflated => 8,
            },
        );
        put16(head, time);
        put16(head, date);
        put32(head, self.crc.sum());
        put32(head, packed);
        put32(head, bytes);
    }
}

/// §4.3.14 to §4.3.16.
fn end(entries: u64, at: u64, bytes: u64) -> Vec<u8> {
    let mut end = Vec::with_capacity(98);
    let few = entries < u64::from(u16::MAX);
    if !(few && at < u64::from(ELSEWHERE) && bytes < u64::from(ELSEWHERE)) {
        put32(&mut end, END_64);
        end.extend_from_slice(&44_u64.to_le_bytes());
        put16(&mut end, MADE_BY);
        put16(&mut end, VERSION_64);
        put32(&mut end, 0);
        put32(&mut end, 0);
        [entries, entries, bytes, at].iter().for_each(|value| end.extend_from_slice(&value.to_le_bytes()));
        put32(&mut end, LOCATOR_64);
        put32(&mut end, 0);
        end.extend_from_slice(&(at + bytes).to_le_bytes());
        put32(&mut end, 1);
    }
    put32(&mut end, END);
    put32(&mut end, 0);
    let short = if few { entries as u16 } else { u16::MAX };
    put16(&mut end, short);
    put16(&mut end, short);
    put32(&mut end, or_elsewhere(bytes));
    put32(&mut end, or_elsewhere(at));
    put16(&mut end, 0);
    end
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

fn or_elsewhere(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(ELSEWHERE)
}

fn put16(to: &mut Vec<u8>, value: u16) {
    to.extend_from_slice(&value.to_le_bytes());
}

fn put32(to: &mut Vec<u8>, value: u32) {
    to.extend_from_slice(&value.to_le_bytes());
}

fn where_() -> &'static str {
    "cannot write the archive"
}

/// Time and date of MS-DOS (§4.4.6), in UTC; the format knows no years before 1980.
fn dos_time(unix_us: i64) -> (u16, u16) {
    let seconds = unix_us.div_euclid(1_000_000);
    let (year, month, day) = crate::base::clock::civil(seconds.div_euclid(86_400));
    let of_day = seconds.rem_euclid(86_400);
    let time = (of_day / 3600) << 11 | (of_day / 60 % 60) << 5 | (of_day % 60 / 2);
    let date = (year - 1980).clamp(0, 127) << 9 | month << 5 | day;
    (time as u16, date as u16)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn archive(entries: &[(&str, Packing, &[u8])]) -> Vec<u8> {
        let mut zip = Zip::new(Cursor::new(Vec::new()), 1_790_000_000_000_000);
        for (name, packing, bytes) in entries {
            // One that could have been large.
            let bytes_max = if bytes.len() > 40_000 { u64::MAX } else { bytes.len() as u64 };
            zip.begin(name, *packing, bytes_max).unwrap();
            bytes.chunks(7).for_each(|piece| zip.write(piece).unwrap());
            zip.end().unwrap();
        }
        zip.finish().unwrap().into_inner()
    }

    /// Whether Python's reader, which is none of ours, finds exactly this in it.
    #[test]
    fn another_program_reads_what_was_written() {
        let text = "Ça va — ".repeat(1_000);
        let noise: Vec<u8> = (0..50_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let made = archive(&[
            ("account.json", Packing::Deflated, text.as_bytes()),
            ("originals/Ça & là.wav", Packing::Stored, &noise),
            ("empty.json", Packing::Deflated, b""),
            ("empty.bin", Packing::Stored, b""),
        ]);
        assert!(made.len() < noise.len() + 2_000, "text is packed: {}", made.len());
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &made).unwrap();
        let script = "import sys, zipfile, hashlib\nz = zipfile.ZipFile(sys.argv[1])\nassert z.testzip() is None\n\
                      for i in z.infolist(): print(i.filename, i.file_size, hashlib.sha256(z.read(i)).hexdigest(), i.date_time[0])";
        let output = std::process::Command::new("python3").args(["-c", script]).arg(file.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let sha256 = |bytes: &[u8]| {
            use sha2::Digest as _;
            crate::base::hex::encode(&sha2::Sha256::digest(bytes))
        };
        let mut wanted = String::new();
        for (name, bytes) in [
            ("account.json", text.as_bytes()),
            ("originals/Ça & là.wav", &noise),
            ("empty.json", b""),
            ("empty.bin", b""),
        ] {
            wanted += &format!("{name} {} {} 2026\n", bytes.len(), sha256(bytes));
        }
        assert_eq!(String::from_utf8(output.stdout).unwrap(), wanted);
    }

    /// What is beyond 4 GiB is in fields of 64 bits; the others say so.
    #[test]
    fn large_numbers_are_elsewhere() {
        let large = 5 << 30;
        let entry = Entry {
            name: "a".into(),
            packing: Packing::Stored,
            large: true,
            at: large,
            crc: Crc::new(),
            bytes: large + 1,
            packed: large + 1,
        };
        let head = entry.central((0, 0));
        assert_eq!(head.len(), 46 + 1 + 4 + 24);
        assert_eq!(head[20..28], [0xff; 8]);
        assert_eq!(head[42..46], [0xff; 4]);
        assert_eq!(head[51..59], (large + 1).to_le_bytes());
        assert_eq!(head[67..75], large.to_le_bytes());
        assert_eq!(end(3, 100, 50).len(), 22);
        let end_64 = end(70_000, large, 50);
        assert_eq!(end_64.len(), 56 + 20 + 22);
        assert_eq!(end_64[24..32], 70_000_u64.to_le_bytes());
        assert_eq!(end_64[48..56], large.to_le_bytes());
        assert_eq!(end_64[64..72], (large + 50).to_le_bytes(), "where the record of 64 bits is");
        assert_eq!(end_64[76 + 8..76 + 12], [0xff; 4]);
    }
}
