use proptest::prelude::*;

use super::*;

impl ReadAt for Vec<u8> {
    fn read_at(&self, at: u64, out: &mut [u8]) -> std::io::Result<usize> {
        let rest = usize::try_from(at).ok().and_then(|at| self.get(at..)).unwrap_or_default();
        let n = rest.len().min(out.len());
        out[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
}

fn look(bytes: &[u8]) -> Result<Sniffed> {
    let bytes = bytes.to_vec();
    recognise(&Look { source: &bytes, bytes: bytes.len() as u64 })
}

fn declared(samples: u64, rate: u32, tolerance: u64) -> Option<Declared> {
    Some(Declared { samples, rate, tolerance })
}

/// 16-bit stereo at 44.1 kHz with a header that promises `frames`, and `there` frames.
fn wav(frames: u32, there: usize) -> Vec<u8> {
    let mut out = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x02\0".to_vec();
    out.extend(44_100u32.to_le_bytes());
    out.extend(176_400u32.to_le_bytes());
    out.extend([4, 0, 16, 0]);
    out.extend(b"LIST\x03\0\0\0abc\0data");
    out.extend(frames.wrapping_mul(4).to_le_bytes());
    out.extend(vec![0; there * 4]);
    out
}

fn boxed(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32 + 8).to_be_bytes()[..], kind, body].concat()
}

/// An M4A with an edit from `start` of `edit_ms`, media of `duration` samples at 44.1 kHz.
fn m4a(start: u32, edit_ms: u32, duration: u32) -> Vec<u8> {
    let be = |words: &[u32]| words.iter().flat_map(|w| w.to_be_bytes()).collect::<Vec<u8>>();
    let entry = boxed(b"mp4a", &[0; 28]);
    let stbl = boxed(b"stbl", &boxed(b"stsd", &[be(&[0, 1]), entry].concat()));
    let dref = boxed(b"dref", &[be(&[0, 1]), boxed(b"url ", &be(&[1]))].concat());
    let minf = boxed(b"minf", &[boxed(b"dinf", &dref), stbl].concat());
    let mdhd = boxed(b"mdhd", &be(&[0, 0, 0, 44_100, duration, 0]));
    let hdlr = boxed(b"hdlr", b"\0\0\0\0\0\0\0\0soun\0\0\0\0");
    let elst = boxed(b"elst", &be(&[0, 1, edit_ms, start, 0x1_0000]));
    let mdia = boxed(b"mdia", &[mdhd, hdlr, minf].concat());
    let trak = boxed(b"trak", &[boxed(b"edts", &elst), mdia].concat());
    let mvhd = boxed(b"mvhd", &be(&[0, 0, 0, 1000, edit_ms, 0]));
    [boxed(b"ftyp", b"M4A \0\0\0\0"), boxed(b"moov", &[mvhd, trak].concat()), boxed(b"mdat", &[0; 9])].concat()
}

/// A LAME file's first frame: 100 frames, delay 576, padding 1000.
fn lame() -> Vec<u8> {
    let mut out = vec![0; 417];
    out[..4].copy_from_slice(&[0xff, 0xfb, 0x90, 0]);
    out[36..48].copy_from_slice(b"Info\0\0\0\x0f\0\0\0\x64");
    out[156..160].copy_from_slice(b"LAME");
    out[177..180].copy_from_slice(&[0x24, 0x03, 0xe8]);
    out
}

#[test]
fn containers_tell_their_length() {
    let check = |bytes: &[u8], expected| assert_eq!(look(bytes).unwrap().declared, expected);
    check(&wav(100, 100), declared(100, 44_100, 0));
    check(&wav(100, 150), declared(100, 44_100, 0));
    check(&wav(0x3fff_ffff, 100), None); // written to a pipe
    check(&wav(0, 100), None);
    check(&m4a(1024, 2000, 88_200 + 1024), declared(88_200, 44_100, 2048));
    check(&lame(), declared(100 * 1152 - 1576, 44_100, 2304));
    check(b"\x01\x02\x03\x04 who knows", None);
    let mut flac = b"fLaC\0\0\0\x22".to_vec();
    flac.extend([0x10, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0x0a, 0xc4, 0x42, 0xf0, 0, 0, 0, 77]);
    flac.extend([0; 16]);
    check(&flac, declared(77, 44_100, 0));
    check(&[b"ID3\x04\0\0\0\0\x01\x02".to_vec(), vec![9; 130], flac].concat(), declared(77, 44_100, 0));
}

#[test]
fn encoder_delay_is_found_and_edits_are_hidden_from_the_demuxer() {
    let trim = |bytes: &[u8]| look(bytes).unwrap().trim.map(|t| (t.start, t.length));
    assert_eq!(trim(&lame()), Some((576 + 529, Some(100 * 1152 - 1576))));
    // The edit says 2.000 s; the media ends 20 samples later, within a millisecond tick: the media is right.
    assert_eq!(trim(&m4a(1024, 2000, 88_220 + 1024)), Some((1024, Some(88_220))));
    // An edit that ends a second earlier was meant.
    assert_eq!(trim(&m4a(1024, 1000, 88_220 + 1024)), Some((1024, Some(44_100))));
    let file = m4a(1024, 2000, 90_000);
    let patch = look(&file).unwrap().patches[0];
    assert_eq!(&file[patch.at as usize..][..4], b"edts");
}

#[test]
fn what_is_not_audio_is_refused_in_words() {
    let check = |bytes: &[u8], said: &str| {
        let error = look(bytes).unwrap_err();
        assert_eq!(error.kind(), crate::base::Kind::Invalid);
        assert!(error.chain().contains(said), "{error}");
    };
    check(b"", "it is empty");
    check(b"dear diary", "a text file");
    check(b"#EXTM3U\n#EXTINF:6,\nhttp://example.org/0.ts\n", "an m3u8 playlist");
    check(b"\xef\xbb\xbf #EXTM3U\r\n", "an m3u8 playlist");
    check(b"[playlist]\nFile1=http://example.org\n", "a pls playlist");
    check(b"<?xml version=\"1.0\"?><MPD xmlns=\"x\">", "a DASH manifest");
    check(b"<?xml version=\"1.0\"?>\n<playlist version=\"1\">", "an XSPF playlist");
    check(b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\n", "an SDP");
    check(b"ffconcat version 1.0\nfile /etc/passwd\n", "an ffconcat playlist");
    check(b"file:///etc/passwd\nhttp://example.org/\n", "a list of links");
    check(b"\x89PNG\r\n\x1a\n", "a PNG picture");
    check(b"%PDF-1.7", "a PDF document");
    check(b"PK\x03\x04", "a ZIP archive");
    check(&wav(1000, 500), "promises 0.0227 s, only 0.0113 s");
    check(&wav(1000, 10)[..50], "no samples after its header");
    check(&boxed(b"ftyp", b"M4A \0\0\0\0"), "the index at its end is missing");
    let mut video = m4a(0, 0, 9);
    let at = video.windows(4).position(|w| w == b"soun").unwrap();
    video[at..at + 4].copy_from_slice(b"vide");
    check(&video, "it has no audio");
}

#[test]
fn lengths_are_compared_with_the_promise() {
    let check = |tolerance, decoded: u64, surplus: u64, said: &str| {
        let trim = Some(Trim { start: 0, length: Some(44_100), rate: 44_100 });
        let sniffed = Sniffed { declared: declared(44_100, 44_100, tolerance), trim, ..Sniffed::default() };
        let answer = sniffed.check_length(decoded, surplus, 44_100).map_or_else(|e| e.chain(), |()| String::new());
        assert!(answer.contains(said) && said.is_empty() == answer.is_empty(), "{answer}");
    };
    check(0, 44_100, 0, "");
    check(0, 44_099, 0, "promises 1.0000 s, only 1.0000 s");
    check(0, 22_050, 0, "promises 1.0 s, only 0.5 s could be decoded");
    check(0, 44_101, 0, "but 1.0 s");
    check(1152, 43_000, 0, "");
    check(1152, 42_000, 0, "truncated");
    check(1152, 44_100, 1100, "");
    check(1152, 44_100, 88_200, "but 3.0 s could be decoded");
}

proptest! {
    /// Damaged headers are answered, whatever they claim: no panic, no endless walk.
    #[test]
    fn damaged_headers_are_answered(
        which in 0..4usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = [wav(100, 100), m4a(1024, 2000, 90_000), lame(), b"OggS\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x1e\x01vorbis".to_vec()][which].clone();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let _ = look(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        let _ = look(&bytes);
    }
}
