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
    let length = bytes.len() as u64;
    let sniffed = recognise(&Look { source: &bytes, bytes: length })?;
    walk(&bytes, length, &sniffed).map(|()| sniffed)
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

/// A frame of 128 kbit/s at 44.1 kHz: 417 bytes.
fn frame() -> Vec<u8> {
    [&[0xff, 0xfb, 0x90, 0][..], &[0x55; 413]].concat()
}

/// A LAME file: 100 frames, delay 576, padding 1000, and the frame that says so.
fn lame() -> Vec<u8> {
    let mut out = vec![0; 417];
    out[..4].copy_from_slice(&[0xff, 0xfb, 0x90, 0]);
    out[36..48].copy_from_slice(b"Info\0\0\0\x0f\0\0\0\x64");
    out[48..52].copy_from_slice(&(101 * 417u32).to_be_bytes());
    out[156..160].copy_from_slice(b"LAME");
    out[177..180].copy_from_slice(&[0x24, 0x03, 0xe8]);
    out.extend(frame().repeat(100));
    out
}

/// ADTS frames of 100 bytes, AAC-LC stereo at 44.1 kHz.
fn adts(count: usize) -> Vec<u8> {
    [&[0xff, 0xf1, 0x50, 0x80, 0x0c, 0x9f, 0xfc][..], &[0x21; 93]].concat().repeat(count)
}

fn said(bytes: &[u8]) -> String {
    look(bytes).map_or_else(|error| error.chain(), |_| String::new())
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

/// Samples that lie there as they are need no demuxer; what is unusual about a WAV is wavparse's.
#[test]
fn plain_samples_are_found_where_they_lie() {
    let linear = |bytes: &[u8]| look(bytes).unwrap().linear.map(|l| (l.at, l.layout, l.rate, l.channels));
    let plain = wav(100, 100);
    assert_eq!(linear(&plain), Some((56, "s16le".into(), 44_100, 2)));
    let with = |patches: &[(usize, u8)]| {
        let mut bytes = plain.clone();
        patches.iter().for_each(|(at, byte)| bytes[*at] = *byte);
        linear(&bytes).map(|found| found.1)
    };
    assert_eq!(with(&[(32, 6), (34, 24)]).as_deref(), Some("s24le"));
    assert_eq!(with(&[(20, 3), (32, 8), (34, 32)]).as_deref(), Some("f32le"));
    assert_eq!(with(&[(20, 6), (32, 2), (34, 8)]), None, "A-law");
    assert_eq!(with(&[(22, 3), (32, 6)]), None, "three channels need places");
    assert_eq!(with(&[(32, 8)]), None, "16 bits in 32");
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
    check(b"RIFF", "a truncated WAV file");
    check(b"RIFF\x24\0\0\0", "a truncated WAV file");
    check(b"FORM", "a truncated AIFF file");
    check(b"fLaC", "a truncated FLAC file");
    check(b"OggS", "a truncated Ogg file");
    check(b"OggS\0\x02\0\0", "a truncated Ogg file");
    check(b"wvpk", "a truncated WavPack file");
    check(b"ID3", "a truncated MP3 file");
    check(b"RIFF raff, a word game", "a text file");
    check(b"#EXTM3U\n#EXTINF:6,\nhttp://example.org/0.ts\n", "an m3u8 playlist");
    check(b"\xef\xbb\xbf #EXTM3U\r\n", "an m3u8 playlist");
    let wide = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    check(&wide("\u{feff}hallo hallo"), "a text file");
    check(&wide("\u{feff}#EXTM3U\n"), "an m3u8 playlist");
    check(b"\x0b\x77\x12\x34", "an AC-3 stream, which is not read; export it as");
    check(b"[playlist]\nFile1=http://example.org\n", "a pls playlist");
    check(b"<?xml version=\"1.0\"?><MPD xmlns=\"x\">", "a DASH manifest");
    check(b"<?xml version=\"1.0\"?>\n<playlist version=\"1\">", "an XSPF playlist");
    check(b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\n", "an SDP");
    check(b"ffconcat version 1.0\nfile /etc/passwd\n", "an ffconcat playlist");
    check(b"file:///etc/passwd\nhttp://example.org/\n", "a list of links");
    check(b"\x89PNG\r\n\x1a\n", "a PNG picture");
    check(b"%PDF-1.7", "a PDF document");
    check(b"PK\x03\x04", "a ZIP archive");
    check(&wav(1000, 500), "promises 1000 samples, only 500 are in the file");
    check(b"riff\x2e\x91\xcf\x11\xa5\xd6", "a Wave64 file, which is not read; export it as WAV");
    check(&wav(1000, 10)[..50], "no samples after its header");
    check(&boxed(b"ftyp", b"M4A \0\0\0\0"), "the index at its end is missing");
    let mut video = m4a(0, 0, 9);
    let at = video.windows(4).position(|w| w == b"soun").unwrap();
    video[at..at + 4].copy_from_slice(b"vide");
    check(&video, "it has no audio");
}

#[test]
fn too_many_tags_are_named_as_such() {
    let tag = [&b"ID3\x04\0\0\0\0\x01\x02"[..], &[9; 130]].concat();
    assert_eq!(said(&[tag.repeat(8), frame().repeat(9)].concat()), "");
    assert!(said(&[tag.repeat(9), frame().repeat(9)].concat()).contains("more than 8 ID3 tags, one after the other"));
}

#[test]
fn the_bit_rate_of_what_is_lossy_is_found_in_its_frames() {
    let found = |bytes: &[u8]| look(bytes).unwrap().lossy_bps.map(|bps| (bps + 500) / 1000);
    assert_eq!(found(&frame().repeat(300)), Some(128));
    // 100 bytes for each 1024 samples at 44.1 kHz.
    assert_eq!(found(&adts(900)), Some(34));
    assert_eq!(found(&[b"ID3\x04\0\0\0\0\x01\x02".to_vec(), vec![9; 130], adts(900)].concat()), Some(34));
    let samples = look(&adts(900)).unwrap().likely_samples_at(44_100).unwrap();
    assert!(samples.abs_diff(900 * 1024) < 100, "{samples}");
    // A quiet first frame is no measure for the others.
    let quiet = [&[0xff, 0xfb, 0x10, 0][..], &[0x55; 100]].concat(); // 32 kbit/s
    assert_eq!(found(&[quiet, frame().repeat(600)].concat()), Some(128));
    assert_eq!(found(&wav(100, 100)), None);
}

#[test]
fn what_promises_to_be_too_long_is_refused_with_both_lengths() {
    let check = |samples, tolerance, most_s, words: &str| {
        let sniffed = Sniffed { declared: declared(samples, 44_100, tolerance), ..Sniffed::default() };
        let answer = sniffed.refuse_long(most_s).map_or_else(|e| e.chain(), |()| String::new());
        assert!(answer.contains(words) && words.is_empty() == answer.is_empty(), "{answer}");
    };
    check(44_100, 0, 1, "");
    check(44_101, 0, 1, "by its header it is 1 s long");
    check(44_101, 2048, 1, "");
    check(
        44_100 * 36_001,
        0,
        36_000,
        "it is 36001 s long, longer than 10.0 hours, the most that is accepted; split it",
    );
    check(44_100 * 72_000, 0, 36_000, "it is 20.0 hours long, longer than 10.0 hours");
    check(u64::MAX, 0, 36_000, "longer than 10.0 hours");
    Sniffed::default().refuse_long(0).unwrap();
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
    check(0, 44_099, 0, "promises 44100 samples, only 44099 could be decoded");
    check(0, 22_050, 0, "promises 1.0 s, only 0.5 s could be decoded");
    check(0, 44_101, 0, "but 1.0 s");
    check(1152, 43_000, 0, "");
    check(1152, 42_000, 0, "truncated");
    check(1152, 44_100, 1100, "");
    check(1152, 44_100, 88_200, "but 3.0 s could be decoded");
}

#[test]
fn a_byte_less_than_the_container_promises_is_a_truncated_upload() {
    let check = |whole: &[u8], cut: usize, words: &str| {
        assert_eq!(said(whole), "");
        let found = said(&whole[..whole.len() - cut]);
        assert!(found.contains(words) && found.contains("upload the whole file"), "{cut} bytes less: {found:?}");
    };
    let file = lame();
    check(&file, 1, "truncated: 1 of 42117 bytes are missing");
    check(&file, 416, "416 of 42117 bytes");
    check(&file, 417, "417 of 42117 bytes"); // a whole frame
    check(&file, 20_000, "20000 of 42117 bytes");
    check(&m4a(1024, 2000, 90_000), 1, "truncated: 1 of ");
    let (head, media) = (m4a(0, 0, 0), [boxed(b"moof", &[0; 20]), boxed(b"mdat", &[7; 50])].concat());
    let fragments = [head, media.repeat(3000)].concat();
    check(&fragments, 1, "truncated: 1 of ");
    check(&fragments, 50, "truncated: 50 of ");
    check(&fragments, 58, "the media of its last fragment are missing");
    check(&fragments, 60, "truncated: 2 of ");
    let unfinished = m4a(1024, 2000, 90_000);
    check(&unfinished, 17, "before its samples");
    let mut rf64 = b"RF64\xff\xff\xff\xffWAVEds64\x1c\0\0\0".to_vec();
    rf64.extend([0; 8]);
    rf64.extend(0xffff_fff0u64.to_le_bytes()); // would mean "unknown" in 32 bits
    rf64.extend([0; 12]);
    rf64.extend(&wav(0xffff_ffff / 4, 10)[12..]);
    let at = rf64.windows(4).position(|w| w == b"data").unwrap();
    rf64[at + 4..at + 8].fill(0xff);
    assert!(said(&rf64).contains("truncated"), "{}", said(&rf64));
}

#[test]
fn frames_without_a_header_are_cut_when_the_last_one_is() {
    // Layer II, 192 kbit/s at 48 kHz: 576 bytes.
    let layer_2 = [&[0xff, 0xfd, 0xa4, 0][..], &[0x55; 572]].concat().repeat(200);
    for (stream, frame) in [(frame().repeat(300), 417), (adts(900), 100), (frame().repeat(2), 417), (layer_2, 576)] {
        assert_eq!(said(&stream), "");
        for cut in [1, 50, frame - 20, frame - 2] {
            let found = said(&stream[..stream.len() - cut]);
            assert!(found.contains(&format!("lacks at least {cut} bytes")) || cut == frame - 2, "{cut}: {found:?}");
            assert!(found.contains("truncated"), "{cut}: {found:?}");
        }
        // Nothing says that a frame is missing altogether.
        assert_eq!(said(&stream[..stream.len() - frame]), "");
        // What people and programs put behind the audio.
        let id3 = [&b"TAG"[..], &[b' '; 125]].concat();
        let ape = [&b"APETAGEX\xd0\x07\0\0"[..], &[b'x'; 300], b"APETAGEX\xd0\x07\0\0", &[0; 20]].concat();
        let lyrics = [&b"LYRICSBEGIN"[..], &[b'l'; 40], b"000051LYRICS200"].concat();
        let others = [vec![0; 5000], vec![0; 1], b"junk".to_vec(), b"\r\n".to_vec(), vec![0xff; 30]];
        for tail in [id3.clone(), ape.clone(), lyrics, [ape, id3].concat()].into_iter().chain(others) {
            assert_eq!(said(&[&stream[..], &tail].concat()), "", "{} bytes of tail", tail.len());
        }
    }
    let tagged = [&b"ID3\x04\0\0\0\0\x01\x02"[..], &[9; 130], &frame().repeat(9)].concat();
    assert_eq!(said(&tagged), "");
    assert!(said(&tagged[..tagged.len() - 9]).contains("lacks at least 9 bytes"));
}

/// A decoder skips what is no frame and says nothing; so a file with a hole was published without what was in it.
#[test]
fn bytes_between_frames_that_are_neither_audio_nor_tags_are_damage() {
    let ape = [&b"APETAGEX\xd0\x07\0\0\x2c\x01\0\0"[..], &[0; 16], &[b'x'; 300]].concat();
    let tags = [[b"TAG".to_vec(), vec![b' '; 125]].concat(), b"ID3\x04\0\0\0\0\0\x05hello".to_vec(), ape];
    for (stream, length) in [(frame().repeat(300), 417), (adts(900), 100), (lame(), 417)] {
        let place = 50 * length;
        for tag in &tags {
            let tagged = [&stream[..place], tag, &stream[place..]].concat();
            assert_eq!(said(&tagged), "", "a tag of {} bytes between two frames", tag.len());
        }
        let mut holed = stream.clone();
        holed[place..place + 3 * length].fill(0x55);
        let found = said(&holed);
        assert!(found.contains(&format!("{} bytes at byte {place}", 3 * length)), "{found}");
        // One bit of one header.
        let mut flipped = stream.clone();
        flipped[place] ^= 0x80;
        assert!(said(&flipped).contains(&format!("{length} bytes at byte {place}")), "{}", said(&flipped));
        assert!(said(&[&stream[..place], &[0; 40], &stream[place..]].concat()).contains("damaged: 40 bytes"));
        // A tail that a downloader had only reserved.
        assert!(said(&[&stream[..], &[0; 10_000]].concat()).contains("damaged: 10000 bytes at byte"));
        assert!(said(&[&stream[..], &[0; 10_000], &tags[0]].concat()).contains("damaged: 10000 bytes at byte"));
    }
    // A whole frame less than LAME counted, and as many bytes in a tag.
    let file = [&lame()[..99 * 417], b"TAG", &[b' '; 911]].concat();
    assert!(said(&file).contains("promises 101 frames, only 99 are there"), "{}", said(&file));
}

/// A duration of 10 s in milliseconds, for tracks of these kinds.
fn mkv(kinds: &[u8]) -> Vec<u8> {
    let element = |id: &[u8], body: &[u8]| [id, &[0x40 | (body.len() >> 8) as u8, body.len() as u8], body].concat();
    let duration = element(b"\x44\x89", &10_000f64.to_be_bytes());
    let info = element(b"\x15\x49\xa9\x66", &[element(b"\x2a\xd7\xb1", &[0x0f, 0x42, 0x40]), duration].concat());
    let tracks: Vec<u8> = kinds.iter().flat_map(|kind| element(b"\xae", &element(b"\x83", &[*kind]))).collect();
    let segment = [info, element(b"\x16\x54\xae\x6b", &tracks), vec![0xec, 0x80]].concat();
    [element(b"\x1a\x45\xdf\xa3", b"ab"), element(b"\x18\x53\x80\x67", &segment)].concat()
}

#[test]
fn the_duration_of_a_matroska_file_counts_when_all_of_it_is_audio() {
    assert_eq!(look(&mkv(&[2])).unwrap().declared, declared(480_000, 48_000, 12_000));
    assert_eq!(look(&mkv(&[1, 2])).unwrap().declared, None, "the picture may be longer");
    let hole = look(&mkv(&[2])).unwrap().check_length(220_500, 0, 44_100).unwrap_err();
    assert!(hole.chain().contains("promises 10.0 s, only 5.0 s"), "{hole}");
    look(&mkv(&[2])).unwrap().check_length(440_000, 0, 44_100).unwrap();
}

/// STREAMINFO of 44.1 kHz, 16 bits, stereo, blocks of 4096, without a number of samples; then `frames`.
fn piped_flac(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut flac = b"fLaC\x80\0\0\x22\x10\0\x10\0\0\0\0\0\0\0\x0a\xc4\x42\xf0\0\0\0\0".to_vec();
    flac.extend([0; 16]);
    flac.extend(frames.concat());
    flac
}

/// The first frames of a piped FLAC of silence as `flac` 1.4 writes them, but for the checksums: those are made here.
fn flac_frame(number: u8) -> Vec<u8> {
    let crc = |bytes: &[u8], width: u32, poly: u32| {
        let (top, mask) = (1 << (width - 1), (1 << width) - 1);
        bytes.iter().fold(0u32, |crc, byte| {
            (0..8).rev().fold(crc, |crc, bit| {
                let one = (crc & top != 0) != (byte >> bit & 1 != 0);
                (crc << 1 ^ if one { poly } else { 0 }) & mask
            })
        })
    };
    let mut frame = vec![0xff, 0xf8, 0xc9, 0x18, number];
    frame.push(crc(&frame, 8, 0x07) as u8);
    frame.extend([0, 0, 0, 0, 0, 0]);
    frame.extend((crc(&frame, 16, 0x8005) as u16).to_be_bytes());
    frame
}

#[test]
fn a_flac_from_a_pipe_is_as_long_as_its_last_frame_says() {
    let frames: Vec<_> = (0..9).map(flac_frame).collect();
    let file = piped_flac(&frames);
    assert_eq!(look(&file).unwrap().declared, declared(9 * 4096, 44_100, 0));
    let tagged = [&file[..], b"TAG", &[0; 125]].concat();
    assert_eq!(look(&tagged).unwrap().declared, declared(9 * 4096, 44_100, 0));
    assert!(said(&file[..file.len() - 1]).contains("its last frame is missing or damaged"));
}

#[test]
fn the_checksum_of_a_flac_is_compared() {
    let mut file = piped_flac(&[flac_frame(0)]);
    file[26..42].fill(7);
    let sniffed = look(&file).unwrap();
    assert_eq!(sniffed.checksum, Some(Checksum { md5: [7; 16], bits: 16 }));
    sniffed.check_md5(Some(&"07".repeat(16))).unwrap();
    sniffed.check_md5(None).unwrap();
    let refusal = sniffed.check_md5(Some(&"08".repeat(16))).unwrap_err().chain();
    assert!(refusal.contains("does not match its own checksum"), "{refusal}");
}

#[test]
fn matroska_and_wavpack_say_how_long_they_are() {
    let mkv = [&b"\x1a\x45\xdf\xa3\x82ab\x18\x53\x80\x67\x01\0\0\0\0\0\x01\0"[..], &[7; 256]].concat();
    assert_eq!(said(&mkv), "");
    assert!(said(&mkv[..mkv.len() - 3]).contains("3 of 275 bytes are missing"), "{}", said(&mkv[..mkv.len() - 3]));
    let mut live = mkv.clone();
    live[12..19].fill(0xff);
    assert_eq!(said(&live[..100]), "");
    let mut block = b"wvpk\xc0\x01\0\0\x10\x04\0\0".to_vec(); // 448 bytes follow
    block.extend(100u32.to_le_bytes());
    block.extend([0; 8]);
    block.extend((9u32 << 23).to_le_bytes());
    block.resize(456, 3);
    let file = block.repeat(5);
    assert_eq!(look(&file).unwrap().declared, declared(100, 44_100, 0));
    assert!(said(&file[..file.len() - 9]).contains("lacks 9 bytes"));
}

/// A program that counted the tag, or whose tag was taken away, promises bytes that never were audio.
#[test]
fn an_mp3_with_all_its_frames_is_whole_whatever_its_byte_count_says() {
    let mut file = lame();
    file[48..52].copy_from_slice(&(101 * 417 + 128u32).to_be_bytes());
    assert_eq!(said(&file), "");
    assert!(said(&file[..file.len() - 417]).contains("truncated: 545 of "));
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
