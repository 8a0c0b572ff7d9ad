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

/// Audio that no decoder here reads, or of which nobody could tell whether it is whole.
const NOT_READ: [(&[u8], &str); 6] = [
    (b"riff\x2e\x91\xcf\x11", "a Wave64 file"),
    (b"caff\0\x01", "a Core Audio (CAF) file"),
    (b".snd\0\0", "a Sun audio (AU) file"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a Windows Media file"),
    (b"\x0b\x77", "an AC-3 stream"),
    (b"TTA1", "a True Audio (TTA) file"),
];

/// What audio files begin with, how long their first header is, and what they are.
const HEADERS: [(&[u8], usize, &str); 7] = [
    (b"RIFF", 12, "WAV"),
    (b"RF64", 12, "RF64"),
    (b"FORM", 12, "AIFF"),
    (b"fLaC", 42, "FLAC"),
    (b"OggS", 27, "Ogg"),
    (b"wvpk", 32, "WavPack"),
    (b"ID3", 10, "MP3"),
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
pub(in crate::transcode) fn by_first_bytes(head: &[u8]) -> Result<()> {
    if head.is_empty() {
        return Err(Error::invalid("it is empty; upload the file again"));
    }
    if let Some((_, what)) = NOT_AUDIO.iter().find(|(mark, _)| head.starts_with(mark)) {
        return Err(Error::invalid(format!("it is {what}, not audio; upload the audio file")));
    }
    if let Some((_, what)) = NOT_READ.iter().find(|(mark, _)| head.starts_with(mark)) {
        return Err(Error::invalid(format!("it is {what}, which is not read; export it as WAV, RF64 or FLAC")));
    }
    let ends_in = HEADERS.iter().find(|(mark, bytes, _)| head.starts_with(mark) && head.len() < *bytes);
    if let Some((_, _, what)) = ends_in {
        return Err(Error::invalid(format!(
            "it is a truncated {what} file, which ends within its header; upload the whole file"
        )));
    }
    let Some(text) = as_text(head) else { return Ok(()) };
    let text = text.as_str().trim_start_matches('\u{feff}').trim_start().to_ascii_lowercase();
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

/// The bytes as text, when they are: UTF-8 or, with its mark, UTF-16, without control characters, apart
/// from a cut at the end.
fn as_text(head: &[u8]) -> Option<String> {
    let text = match head {
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes)?,
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes)?,
        _ => match std::str::from_utf8(head) {
            Ok(text) => text.to_owned(),
            Err(cut) if cut.error_len().is_none() => std::str::from_utf8(&head[..cut.valid_up_to()]).ok()?.to_owned(),
            Err(_) => return None,
        },
    };
    let control = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t' | '\u{c}');
    (!text.contains(control)).then_some(text)
}

/// MPEG audio of layer I begins like one of the marks, so most of it must be plain letters.
fn utf16(bytes: &[u8], read: fn([u8; 2]) -> u16) -> Option<String> {
    let words = bytes.as_chunks().0.iter().map(|pair| read(*pair));
    let text: String = char::decode_utf16(words).map(|c| c.unwrap_or('\u{0}')).collect();
    let plain = text.chars().filter(|c| c.is_ascii()).count();
    (plain * 2 > text.chars().count()).then_some(text)
}

fn is_list_of_links(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).peekable();
    lines.peek().is_some() && lines.all(|line| line.contains("://") && !line.contains(' '))
}
