//! What is not audio, told by its first bytes and in the uploader's words.

use crate::base::{Error, Result};

/// Beginnings of files people take for audio, or upload by mistake.
const NOT_AUDIO: [(&[u8], &str); 16] = [
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"BM", "a BMP picture"),
    (b"II*\0", "a TIFF picture"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"Rar!", "a RAR archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"MThd", "a MIDI file, notes and not sound"),
    (b"SQLite format 3\0", "a database"),
];

/// Documents that name media elsewhere. A decoder that follows them fetches whatever they say.
const PLAYLISTS: [(&str, &str); 10] = [
    ("#extm3u", "an m3u8 playlist"),
    ("[playlist]", "a pls playlist"),
    ("ffconcat version", "an ffconcat playlist"),
    ("v=0", "an SDP session description"),
    ("<mpd", "a DASH manifest"),
    ("<smoothstreamingmedia", "a Smooth Streaming manifest"),
    ("<smil", "a SMIL presentation"),
    ("<asx", "an ASX playlist"),
    ("<playlist", "an XSPF playlist"),
    ("rtsptext", "an RTSP reference"),
];

/// Refuses what can be told from the first bytes.
pub(super) fn by_first_bytes(head: &[u8]) -> Result<()> {
    if head.is_empty() {
        return Err(Error::invalid("it is empty; upload the file again"));
    }
    if let Some((_, what)) = NOT_AUDIO.iter().find(|(mark, _)| head.starts_with(mark)) {
        return Err(Error::invalid(format!("it is {what}, not audio; upload the audio file")));
    }
    let Some(text) = as_text(head) else { return Ok(()) };
    let text = text.trim_start_matches('\u{feff}').trim_start().to_ascii_lowercase();
    // XML declares itself first, and comments may follow; its root element is in the first lines.
    let xml = text.starts_with('<');
    let named = PLAYLISTS.iter().find(|(mark, _)| text.starts_with(mark) || (xml && text.contains(mark)));
    Err(Error::invalid(match named {
        Some((_, what)) => format!("it is {what}, not audio; upload the audio itself, references are not followed"),
        None if is_list_of_links(&text) => {
            "it is a list of links, not audio; upload the audio itself, references are not followed".into()
        }
        None => "it is a text file, not audio; upload the audio file".into(),
    }))
}

/// The bytes as text, when they are: UTF-8 without control characters, apart from a cut at the end.
fn as_text(head: &[u8]) -> Option<&str> {
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(cut) if cut.error_len().is_none() => std::str::from_utf8(&head[..cut.valid_up_to()]).ok()?,
        Err(_) => return None,
    };
    let control = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t' | '\u{c}');
    (!text.contains(control)).then_some(text)
}

fn is_list_of_links(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).peekable();
    lines.peek().is_some() && lines.all(|line| line.contains("://") && !line.contains(' '))
}
