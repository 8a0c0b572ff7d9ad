//! What a file is by its first bytes. In: its beginning. Out: its MIME type and the kinds it may be. Names and
//! declared types are not asked: anybody can write anything there.

use super::Kind;

/// Bytes of the beginning that are looked at.
pub const HEAD_BYTES: usize = 4096;

/// A format that is accepted.
#[derive(Debug, PartialEq, Eq)]
pub struct Format {
    /// Its MIME type.
    pub mime: &'static str,
    /// What people call it.
    pub name: &'static str,
    /// What it may be sent as: a container may hold sound alone.
    pub kinds: &'static [Kind],
}

const AUDIO: &[Kind] = &[Kind::Audio];
const IMAGE: &[Kind] = &[Kind::Image];
const VIDEO: &[Kind] = &[Kind::Video];
const EITHER: &[Kind] = &[Kind::Audio, Kind::Video];

macro_rules! formats {
    ($($id:ident $mime:literal $name:literal $kinds:ident),* $(,)?) => {
        $(const $id: Format = Format { mime: $mime, name: $name, kinds: $kinds };)*
        /// Every format that is accepted.
        pub const ALL: &[Format] = &[$($id),*];
    };
}

formats![
    WAV "audio/wav" "a WAV file" AUDIO,
    AIFF "audio/aiff" "an AIFF file" AUDIO,
    FLAC "audio/flac" "a FLAC file" AUDIO,
    MP3 "audio/mpeg" "an MP3 file" AUDIO,
    AAC "audio/aac" "an AAC file" AUDIO,
    WAVPACK "audio/x-wavpack" "a WavPack file" AUDIO,
    M4A "audio/mp4" "an M4A file" AUDIO,
    OGG "audio/ogg" "an Ogg file" EITHER,
    MP4 "video/mp4" "an MP4 file" EITHER,
    QUICKTIME "video/quicktime" "a QuickTime file" EITHER,
    MATROSKA "video/x-matroska" "a Matroska file" EITHER,
    WEBM "video/webm" "a WebM file" EITHER,
    MPEG_TS "video/mp2t" "an MPEG transport stream" VIDEO,
    AVI "video/x-msvideo" "an AVI file" VIDEO,
    PNG "image/png" "a PNG picture" IMAGE,
    JPEG "image/jpeg" "a JPEG picture" IMAGE,
    GIF "image/gif" "a GIF picture" IMAGE,
    WEBP "image/webp" "a WebP picture" IMAGE,
    AVIF "image/avif" "an AVIF picture" IMAGE,
];

/// MIME types that may be sent as `kind`.
pub fn mimes(kind: Kind) -> impl Iterator<Item = &'static str> {
    ALL.iter().filter(move |format| format.kinds.contains(&kind)).map(|format| format.mime)
}

/// The format of a file that begins with `head`, its first `HEAD_BYTES` or all of it.
pub fn recognise(head: &[u8]) -> Option<&'static Format> {
    Some(match head {
        [0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a, ..] => &PNG,
        [0xff, 0xd8, 0xff, ..] => &JPEG,
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => &GIF,
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => &WEBP,
        [b'R', b'I', b'F', b'F' | b'X', _, _, _, _, b'W', b'A', b'V', b'E', ..] => &WAV,
        [b'R', b'F', b'6', b'4', _, _, _, _, b'W', b'A', b'V', b'E', ..] => &WAV,
        [b'R', b'I', b'F', b'F', _, _, _, _, b'A', b'V', b'I', b' ', ..] => &AVI,
        [b'F', b'O', b'R', b'M', _, _, _, _, b'A', b'I', b'F', b'F' | b'C', ..] => &AIFF,
        [b'f', b'L', b'a', b'C', ..] => &FLAC,
        [b'O', b'g', b'g', b'S', 0, ..] => &OGG,
        [b'w', b'v', b'p', b'k', ..] => &WAVPACK,
        [0x1a, 0x45, 0xdf, 0xa3, ..] => match head.windows(4).take(64).any(|word| word == b"webm") {
            true => &WEBM,
            false => &MATROSKA,
        },
        [_, _, _, _, b'f', b't', b'y', b'p', a, b, c, d, ..] => match [*a, *b, *c, *d] {
            [b'a', b'v', b'i', b'f' | b's'] => &AVIF,
            [b'M', b'4', b'A' | b'B', _] => &M4A,
            [b'q', b't', b' ', b' '] => &QUICKTIME,
            // HEIF pictures: no decoder of ours reads them.
            [b'h', b'e', b'i' | b'v', _] | [b'm', b'i', b'f', b'1'] | [b'm', b's', b'f', b'1'] => return None,
            _ => &MP4,
        },
        [_, _, _, _, b'm', b'o', b'o', b'v', ..] => &QUICKTIME,
        // FLAC and others with a tag of MP3's in front are found behind it.
        [b'I', b'D', b'3', ..] => behind_id3(head),
        [0x47, ..] if head.len() > 376 && head[188] == 0x47 && head[376] == 0x47 => &MPEG_TS,
        _ => frames(head)?,
    })
}

/// ID3v2 stands before MP3, ADTS, FLAC, WavPack; its length is 28 bits in four bytes (ID3v2.4 §3.1).
fn behind_id3(head: &[u8]) -> &'static Format {
    let length = head.get(6..10).map_or(0, |size| size.iter().fold(0, |all, byte| all << 7 | usize::from(byte & 127)));
    match head.get(10 + length..) {
        Some([b'f', b'L', b'a', b'C', ..]) => &FLAC,
        Some([b'w', b'v', b'p', b'k', ..]) => &WAVPACK,
        Some([0xff, second, ..]) if second & 0xf6 == 0xf0 => &AAC,
        _ => &MP3,
    }
}

/// A stream of frames without a container, after zeros that some encoders begin with.
fn frames(head: &[u8]) -> Option<&'static Format> {
    let start = head.iter().position(|byte| *byte != 0)?;
    match &head[start..] {
        // ADTS: twelve bits of sync, layer 0 (ISO 13818-7 §6.2).
        [0xff, second, third, ..] if second & 0xf6 == 0xf0 && (third >> 2) & 15 < 13 => Some(&AAC),
        // MPEG audio: eleven bits of sync; version, layer, bit rate and sample rate that there are (ISO 11172-3 §2.4.2.3).
        [0xff, second, third, ..]
            if second & 0xe0 == 0xe0
                && second & 0x18 != 0x08
                && second & 0x06 != 0
                && third >> 4 != 15
                && (third >> 2) & 3 != 3 =>
        {
            Some(&MP3)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_by_their_bytes() {
        let check = |head: &[u8], mime: Option<&str>| {
            assert_eq!(recognise(head).map(|format| format.mime), mime, "{head:02x?}");
        };
        check(b"RIFF\x24\0\0\0WAVEfmt ", Some("audio/wav"));
        check(b"RIFF\x24\0\0\0WEBPVP8 ", Some("image/webp"));
        check(b"RIFF\x24\0\0\0AVI LIST", Some("video/x-msvideo"));
        check(b"FORM\0\0\0\0AIFFCOMM", Some("audio/aiff"));
        check(b"fLaC\0\0\0\x22", Some("audio/flac"));
        check(b"ID3\x04\0\0\0\0\0\x02xxfLaC", Some("audio/flac"));
        check(b"ID3\x04\0\0\0\0\0\0\xff\xfb\x90\0", Some("audio/mpeg"));
        check(b"\xff\xfb\x90\x64", Some("audio/mpeg"));
        check(b"\0\0\0\xff\xfb\x90\x64", Some("audio/mpeg"));
        check(b"\xff\xf1\x50\x80", Some("audio/aac"));
        check(b"OggS\0\x02", Some("audio/ogg"));
        check(b"\0\0\0\x20ftypM4A \0\0", Some("audio/mp4"));
        check(b"\0\0\0\x20ftypisom\0\0", Some("video/mp4"));
        check(b"\0\0\0\x20ftypheic\0\0", None);
        check(b"\0\0\0\x20ftypavif\0\0", Some("image/avif"));
        check(b"\x1a\x45\xdf\xa3\x93\x42\x82\x84webm", Some("video/webm"));
        check(b"\x89PNG\r\n\x1a\n", Some("image/png"));
        check(b"\xff\xd8\xff\xe0", Some("image/jpeg"));
        check(b"GIF89a", Some("image/gif"));
        for none in [&b""[..], b"\0\0\0\0", b"MZ\x90\0", b"\x7fELF", b"<html>", b"#EXTM3U\n", b"%PDF-1.7", b"\xff\xff"]
        {
            check(none, None);
        }
        assert!(mimes(Kind::Audio).any(|mime| mime == "audio/flac"));
        assert!(mimes(Kind::Image).all(|mime| mime.starts_with("image/")));
    }
}
