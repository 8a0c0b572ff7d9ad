//! Text files that a person names: settings, plans, keys. Bounded, and never waited for.

use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;

/// Reads a text file of at most `bytes_max` bytes. What is no regular file is refused before it is opened:
/// opening a named pipe waits for its other end, and a device may have none.
///
/// # Errors
/// What the operating system says, or in words that it is no regular file, too long, or no text.
pub fn read(path: &Path, bytes_max: u64) -> io::Result<String> {
    let refuse = |what: String| Err(io::Error::new(ErrorKind::InvalidInput, what));
    if !std::fs::metadata(path)?.is_file() {
        return refuse("it is not a regular file".into());
    }
    // Somebody may have put a pipe in its place since.
    let flags = OFlags::NONBLOCK.bits() as i32;
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return refuse(format!("it has more than {bytes_max} bytes"));
    }
    String::from_utf8(bytes).or_else(|_| refuse("it is not text in UTF-8".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_short_regular_text_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let check = |name: &str, bytes: &[u8], said: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            let found = read(&path, 4).unwrap_or_else(|cause| cause.to_string());
            assert!(found.contains(said), "{name}: {found}");
        };
        check("good", b"text", "text");
        check("long", b"text5", "more than 4 bytes");
        check("noise", b"\xff\xfe", "not text");
        for path in [dir.path(), Path::new("/dev/zero")] {
            assert!(read(path, 4).unwrap_err().to_string().contains("not a regular file"));
        }
        assert_eq!(read(&dir.path().join("none"), 4).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
