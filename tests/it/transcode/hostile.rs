//! Files that want to hurt: each is refused in words or survived, whatever it claims. The child opens
//! nothing, its memory and time stay bounded, and whoever asked goes on.
//!
//! `make hostile` runs the mutations longer: HOSTILE_INPUTS of them (default 70 here), from HOSTILE_SEED.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;

use segue::base::{Kind, Result};
use segue::transcode::{Limits, Options, ProbeReport, probe};

use super::bench::{Bench, options};
use crate::support::{self, Random};

/// Bounds so small that whatever runs away meets one of them soon.
fn limits() -> Limits {
    Limits {
        duration_s_max: 60,
        first_sample_s: 4,
        wall_s_min: 30,
        no_progress_s: 10,
        resident_bytes_max: RESIDENT_MAX,
        ..Limits::default()
    }
}

/// Half of what production allows: nothing small needs more.
const RESIDENT_MAX: u64 = 256 << 20;

/// What an input came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Decoded,
    Refused,
    /// By a bound: memory, time, length.
    Bounded,
    /// The decoder crashed, in its child.
    Crashed,
}

fn try_input(path: &Path) -> End {
    judge(path, probe(path, &Options { limits: limits(), ..options() }))
}

fn judge(path: &Path, result: Result<ProbeReport>) -> End {
    let error = match result {
        Ok(_) => return End::Decoded,
        Err(error) => error,
    };
    let (kind, line) = (error.kind(), error.chain());
    assert!(line.contains(&path.display().to_string()) && !line.contains('\n'), "{line}");
    assert!(!line.contains("SIGSYS"), "the child tried what is forbidden: {line}");
    let bounds =
        ["more memory than", "processor time", "gave up after", "no audio could be decoded within", "stood still"];
    match kind {
        _ if line.contains("the decoder crashed on it") => End::Crashed,
        Kind::Invalid if bounds.iter().any(|words| line.contains(words)) => End::Bounded,
        Kind::Invalid => End::Refused,
        // What GStreamer reports of a stream that it cannot go on with.
        Kind::Internal if line.contains("the decoder failed") => End::Refused,
        _ => panic!("{kind:?}: {line}"),
    }
}

/// Refused, in words that hold `said`.
fn refused(bench: &Bench, name: &str, bytes: impl AsRef<[u8]>, said: &str) {
    let path = bench.file(name, bytes);
    let error = probe(&path, &Options { limits: limits(), ..options() }).unwrap_err();
    let line = error.chain();
    assert!(error.kind() == Kind::Invalid && line.contains(said), "{name}: {line}");
}

/// Whatever it comes to, it is one of the four ends, and a good file decodes afterwards as before.
fn survived(bench: &Bench, inputs: Vec<(String, Vec<u8>)>) -> BTreeMap<End, usize> {
    let mut ends = BTreeMap::new();
    for (name, bytes) in inputs {
        let path = bench.file(&name, bytes);
        let end = try_input(&path);
        if end == End::Crashed {
            eprintln!("crashed: {name}");
        }
        *ends.entry(end).or_default() += 1;
        std::fs::remove_file(path).unwrap();
    }
    let good = bench.music(44_100, 2, 4_410);
    assert_eq!(try_input(&good), End::Decoded);
    eprintln!("{ends:?}, largest child {} MiB", largest_child_bytes() >> 20);
    // What a poll of the parent may miss of a child that grows fast.
    assert!(largest_child_bytes() < RESIDENT_MAX * 4, "a child had {} MiB", largest_child_bytes() >> 20);
    ends
}

/// The most memory that any child of this process had resident, in bytes.
#[allow(unsafe_code)]
fn largest_child_bytes() -> u64 {
    // SAFETY: a struct of numbers, for which zeros are a value; the next call fills it.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live struct of the type that the call fills.
    assert_eq!(unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) }, 0);
    usage.ru_maxrss as u64 * 1024
}

// ── what names something elsewhere ──

const EXTENSIONS: [&str; 8] = ["wav", "mp3", "flac", "m4a", "ogg", "opus", "aiff", "mka"];

/// Documents that make a careless decoder fetch `url` or open it.
fn documents(url: &str) -> Vec<(&'static str, String)> {
    vec![
        ("hls", format!("#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\n{url}\n#EXT-X-ENDLIST\n")),
        ("master", format!("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{url}\n")),
        ("pls", format!("[playlist]\nFile1={url}\nNumberOfEntries=1\nVersion=2\n")),
        (
            "mpd",
            format!(
                "<?xml version=\"1.0\"?><MPD xmlns=\"urn:mpeg:dash:schema:mpd:2011\" type=\"static\" \
                 mediaPresentationDuration=\"PT6S\"><Period><AdaptationSet mimeType=\"audio/mp4\"><Representation \
                 id=\"1\" bandwidth=\"1\"><BaseURL>{url}</BaseURL></Representation></AdaptationSet></Period></MPD>"
            ),
        ),
        (
            "mss",
            format!(
                "<SmoothStreamingMedia MajorVersion=\"2\" Duration=\"1\"><StreamIndex Url=\"{url}\"/></SmoothStreamingMedia>"
            ),
        ),
        ("smil", format!("<smil><body><audio src=\"{url}\"/></body></smil>")),
        ("asx", format!("<asx version=\"3.0\"><entry><ref href=\"{url}\"/></entry></asx>")),
        ("xspf", format!("<playlist><trackList><track><location>{url}</location></track></trackList></playlist>")),
        (
            "sdp",
            format!(
                "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\na=control:{url}\nm=audio 5004 RTP/AVP 0\n"
            ),
        ),
        ("uris", format!("# list\n{url}\n")),
        ("ffconcat", format!("ffconcat version 1.0\nfile '{url}'\n")),
        ("html", format!("<!DOCTYPE html><html><audio src=\"{url}\"></audio></html>")),
        ("svg", format!("<svg xmlns=\"http://www.w3.org/2000/svg\"><image href=\"{url}\"/></svg>")),
        ("xxe", format!("<?xml version=\"1.0\"?><!DOCTYPE x [<!ENTITY e SYSTEM \"{url}\">]><x>&e;</x>")),
        ("rtsp", format!("RTSPtext\nrtsp://{}\n", url.trim_start_matches("http://"))),
    ]
}

#[test]
fn documents_posing_as_media_are_refused_under_every_name() {
    let bench = Bench::new();
    for (name, text) in documents("http://127.0.0.1:9/x.ts") {
        for extension in EXTENSIONS {
            refused(&bench, &format!("{name}.{extension}"), &text, "not audio");
        }
    }
}

/// The same past our own look at the text, and inside of containers: nothing is fetched, nothing opened.
#[test]
fn nothing_that_is_named_in_a_file_is_fetched_or_opened() {
    let bench = Bench::new();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    server.set_nonblocking(true).unwrap();
    let url = format!("http://{}/x.wav", server.local_addr().unwrap());
    let secret = bench.music(44_100, 2, 44_100);
    let mut inputs = Vec::new();
    for target in [url, format!("file://{}", secret.display())] {
        for (name, text) in documents(&target) {
            inputs.push((format!("{name}.mp3"), [text.as_bytes(), b"\x01\0\xff"].concat()));
        }
        refused(&bench, "dref.mov", mp4_elsewhere(&target), "its sound is in another file; export it as one file");
        inputs.push(("rdrf.mov".into(), reference_movie(&target)));
    }
    let ends = survived(&bench, inputs);
    assert_eq!(ends.get(&End::Decoded), None, "{ends:?}");
    assert!(server.accept().is_err(), "a child connected");
}

// ── claims ──

#[test]
fn files_that_claim_absurd_things_are_refused_or_survived() {
    let bench = Bench::new();
    let ends = survived(&bench, claims(&bench));
    assert_eq!(ends.get(&End::Crashed), None, "{ends:?}");
}

#[test]
fn hours_of_silence_in_kilobytes_are_bounded() {
    let bench = Bench::new();
    let second = bench.music(8_000, 1, 800);
    // An hour: hundreds of times what the file would hold as samples.
    let bomb = bench.convert(&second, "-af volume=0,apad=whole_dur=3600 -c:a flac -compression_level 12", "bomb.flac");
    let bytes = std::fs::read(&bomb).unwrap();
    assert!(bytes.len() < 1 << 20, "{} bytes are no bomb", bytes.len());
    refused(&bench, "long.flac", &bytes, "longer than 60 s, the most that is accepted");
    // Nor does it help to hide the length.
    let mut hidden = bytes;
    hidden[21] &= 0xf0;
    hidden[22..26].fill(0);
    refused(&bench, "hidden.flac", &hidden, "longer than 60 s, the most that is accepted");
    let opus = bench.convert(&second, "-af volume=0,apad=whole_dur=3600 -c:a libopus -b:a 6k", "bomb.opus");
    refused(&bench, "long.opus", std::fs::read(opus).unwrap(), "longer than 60 s, the most that is accepted");
}

/// Files of every kind with a lie in them.
fn claims(bench: &Bench) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<(String, Vec<u8>)> = Vec::new();
    let mut add = |name: &str, bytes: Vec<u8>| all.push((name.to_owned(), bytes));
    let noise = |n: usize| (0..n as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect::<Vec<_>>();

    // WAV and its relatives: rates, channels, depths, lengths.
    for (rate, channels, bits) in [
        (0, 2, 16),
        (u32::MAX, 2, 16),
        (44_100, 0, 16),
        (44_100, u16::MAX, 16),
        (44_100, 2, 0),
        (44_100, 2, u16::MAX),
        (1, 1, 1),
        (2_000_000_000, 255, 64),
        (44_100, 6, 24),
    ] {
        for length in [4_000, u32::MAX] {
            add(&format!("{rate}-{channels}-{bits}-{length}.wav"), wav(rate, channels, bits, length, &noise(4_000)));
        }
    }
    let mut chunks = wav(44_100, 2, 16, 4_000, &[]);
    chunks.truncate(36);
    for _ in 0..50_000 {
        chunks.extend(b"LIST\0\0\0\0");
    }
    add("chunks.wav", chunks);
    add("ds64.wav", [b"RF64\xff\xff\xff\xffWAVEds64\x1c\0\0\0".as_slice(), &[0xff; 28], &noise(400)].concat());
    for (frames, channels, rate) in [
        (u32::MAX, 2u16, [0x40, 0x0e, 0xac, 0x44]),
        (1, u16::MAX, [0x40, 0x0e, 0xac, 0x44]),
        (9, 2, [0x7f, 0xff, 0xff, 0xff]),
        (9, 2, [0xff; 4]),
        (9, 2, [0; 4]),
    ] {
        let mut comm = channels.to_be_bytes().to_vec();
        comm.extend(frames.to_be_bytes());
        comm.extend([0, 16]);
        comm.extend(rate);
        comm.extend([0; 6]);
        let body =
            [b"AIFFCOMM\0\0\0\x12".as_slice(), &comm, b"SSND\xff\xff\xff\xff\0\0\0\0\0\0\0\0", &noise(4_000)].concat();
        add("claim.aiff", [b"FORM".as_slice(), &(body.len() as u32).to_be_bytes(), &body].concat());
    }

    // FLAC: metadata that is longer than the file, counts without end, streams of impossible shape.
    let streaminfo = |rate: u32, channels: u8, bits: u8, samples: u64| {
        let packed =
            (u64::from(rate & 0xf_ffff) << 44) | (u64::from(channels & 7) << 41) | (u64::from(bits & 31) << 36);
        let head = [16, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0].as_slice();
        [b"fLaC\0\0\0\x22".as_slice(), head, &(packed | samples & 0xf_ffff_ffff).to_be_bytes(), &[0; 16]].concat()
    };
    for kind in [1u8, 2, 3, 4, 5, 6, 126] {
        let block = [kind | 0x80, 0xff, 0xff, 0xff];
        add(&format!("block-{kind}.flac"), [streaminfo(44_100, 1, 15, 1 << 35), block.to_vec(), noise(3_000)].concat());
    }
    let comments = [b"\x84\0\0\x20\x04\0\0\0abcd\xff\xff\xff\xff".as_slice(), &noise(3_000)].concat();
    add("comments.flac", [streaminfo(44_100, 1, 15, 0), comments].concat());
    add(
        "picture.flac",
        [streaminfo(44_100, 1, 15, 0), b"\x86\0\0\x28\0\0\0\x03\xff\xff\xff\xff".to_vec(), noise(3_000)].concat(),
    );
    add("zero-rate.flac", [streaminfo(0, 7, 31, u64::MAX), b"\x81\0\0\0".to_vec(), noise(3_000)].concat());
    let many: Vec<u8> = std::iter::repeat_n(*b"\x01\0\0\0", 100_000).flatten().collect();
    add("many-blocks.flac", [streaminfo(44_100, 1, 15, 0), many, noise(100)].concat());

    // ID3 and APE tags: longer than the file, in long rows, and packed a thousandfold.
    let id3 = |claimed: [u8; 4], body: &[u8]| [b"ID3\x03\0\0".as_slice(), &claimed, body].concat();
    add("id3-long.mp3", id3([0x7f; 4], &noise(3_000)));
    add("id3-row.mp3", std::iter::repeat_n(id3([0; 4], &[]), 20_000).flatten().collect());
    let mut packer = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    packer.write_all(&vec![0; 64 << 20]).unwrap();
    let packed = packer.finish().unwrap();
    let mut frame = b"TIT2".to_vec();
    frame.extend((packed.len() as u32 + 4).to_be_bytes());
    frame.extend([0, 0x80, 0xff, 0xff, 0xff, 0xff]); // compressed, four gigabytes when unpacked
    frame.extend(&packed);
    let size = frame.len() as u32;
    let mp3 = std::fs::read(small(bench, "mp3")).unwrap();
    let claimed = [21, 14, 7, 0].map(|shift| (size >> shift & 0x7f) as u8);
    add("id3-bomb.mp3", [id3(claimed, &frame), mp3.clone()].concat());
    for items in [0, u32::MAX] {
        let footer = [b"APETAGEX\xd0\x07\0\0\xff\xff\xff\x7f".as_slice(), &items.to_le_bytes(), &[0; 12]].concat();
        add(&format!("ape-{items}.mp3"), [mp3.clone(), footer].concat());
    }

    // MP4: sizes that lie, tables of billions, boxes in boxes, boxes that are themselves.
    let ftyp = boxed(b"ftyp", b"M4A \0\0\0\0M4A mp42isom\0\0\0\0");
    add("moov-long.m4a", [ftyp.as_slice(), b"\x7f\xff\xff\xffmoov", &noise(500)].concat());
    add("zero.m4a", [ftyp.as_slice(), &b"\0\0\0\0moov".repeat(1_000)].concat());
    add("one.m4a", [ftyp.as_slice(), b"\0\0\0\x01moov\xff\xff\xff\xff\xff\xff\xff\xff", &noise(500)].concat());
    add("tiny.m4a", [ftyp.as_slice(), &b"\0\0\0\x04moov".repeat(2_000)].concat());
    for depth in [1_000, 20_000] {
        let mut deep = Vec::new();
        for _ in 0..depth {
            deep = [&((deep.len() + 8) as u32).to_be_bytes(), b"moov".as_slice(), &deep].concat();
            if deep.len() > 60_000 {
                break;
            }
        }
        add(&format!("deep-{depth}.m4a"), [ftyp.clone(), deep].concat());
        let trak: Vec<u8> = b"\0\0\xff\xfftrak".repeat(depth);
        add(&format!("overlapping-{depth}.m4a"), [ftyp.clone(), boxed(b"moov", &trak)].concat());
    }
    let m4a = std::fs::read(small(bench, "m4a")).unwrap();
    for table in [b"stts", b"stsc", b"stsz", b"stco", b"elst", b"stsd", b"dref", b"mvhd", b"mdhd", b"tkhd"] {
        let Some(at) = m4a.windows(4).position(|four| four == table) else { continue };
        for value in [0x7fff_ffff, u32::MAX] {
            for offset in [8, 12] {
                let mut lie = m4a.clone();
                lie[at + offset..at + offset + 4].copy_from_slice(&u32::to_be_bytes(value));
                add(&format!("{}-{offset}-{value}.m4a", String::from_utf8_lossy(table)), lie);
            }
        }
    }

    // Ogg: pages without end, times without end, channels without end.
    let page = |kind: u8, granule: u64, lacing: &[u8], body: &[u8]| {
        let head = [b"OggS\0".as_slice(), &[kind], &granule.to_le_bytes(), b"abcd\0\0\0\0\0\0\0\0"].concat();
        [head, vec![lacing.len() as u8], lacing.to_vec(), body.to_vec()].concat()
    };
    add("unfinished.ogg", std::iter::repeat_n(page(0, u64::MAX, &[255; 255], &[7; 65_025]), 20).flatten().collect());
    let opus = |channels: u8| [b"OpusHead\x01".as_slice(), &[channels], b"\xff\xff\xff\xff\xff\xff\0\0\0"].concat();
    for channels in [0, 255] {
        let head = opus(channels);
        let tags = [b"OpusTags\x04\0\0\0abcd\xff\xff\xff\xff".as_slice(), &noise(100)].concat();
        let pages = [page(2, 0, &[head.len() as u8], &head), page(0, 0, &[tags.len() as u8], &tags)];
        let end = page(4, i64::MAX as u64, &[200], &noise(200));
        add(&format!("head-{channels}.opus"), [pages.concat(), end].concat());
    }
    let ogg = std::fs::read(small(bench, "ogg")).unwrap();
    let at = ogg.windows(7).position(|seven| seven == b"\x03vorbis").unwrap();
    for offset in [7, 11, 15, 19, 40] {
        let mut lie = ogg.clone();
        lie[at + offset..at + offset + 4].fill(0xff);
        add(&format!("comments-{offset}.ogg"), lie);
    }

    // Matroska: lengths, and elements in elements.
    let ebml = b"\x1a\x45\xdf\xa3\x8b\x42\x82\x88matroska";
    add(
        "void.mka",
        [
            ebml.as_slice(),
            b"\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff\xec\x01\xff\xff\xff\xff\xff\xff\xfe",
            &noise(200),
        ]
        .concat(),
    );
    add("nested.mka", [ebml.as_slice(), &b"\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff".repeat(5_000)].concat());
    add("doctype.mka", [b"\x1a\x45\xdf\xa3\x01\0\0\0\x7f\xff\xff\xff".as_slice(), &noise(2_000)].concat());

    // Whatever a magic number promises, followed by noise.
    for magic in [
        b"RIFF\xff\xff\xff\xffWAVE".as_slice(),
        b"FORM\xff\xff\xff\xffAIFC",
        b"fLaC",
        b"OggS\0\x02",
        b"\xff\xfb\x90\x64",
        b"\xff\xf1\x50\x80",
        b"wvpk",
        b"\x1a\x45\xdf\xa3",
        b"\0\0\0\x20ftypM4A ",
        b"MAC \x96\x0f",
        b"#!AMR\n",
        b"FLV\x01",
        b"\x47\x40\0\x10",
        b"\0\0\x01\xba",
        b"MThd",
        b"FWS\x06",
        b"caff\0\x01",
        b".snd",
        b"\x30\x26\xb2\x75",
        b"IMPM",
        b"\x80\0\0\x20DIRAC",
        b"YUV4MPEG2 ",
        b"BBCD",
        b".RMF",
        b"NSVf",
        b"DSD ",
        b"\xff\xd8\xff",
        b"\x0b\x77",
    ] {
        add(&format!("magic-{:02x}{:02x}.bin", magic[0], magic[1]), [magic, &noise(20_000)].concat());
    }
    all
}

fn wav(rate: u32, channels: u16, bits: u16, length: u32, samples: &[u8]) -> Vec<u8> {
    let frame = u32::from(channels) * u32::from(bits) / 8;
    let mut out = b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0\x01\0".to_vec();
    out.extend(channels.to_le_bytes());
    out.extend(rate.to_le_bytes());
    out.extend(rate.wrapping_mul(frame).to_le_bytes());
    out.extend((frame as u16).to_le_bytes());
    out.extend(bits.to_le_bytes());
    out.extend(b"data");
    out.extend(length.to_le_bytes());
    out.extend(samples);
    out
}

/// A box of ISO/IEC 14496-12 §4.2.
fn boxed(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32 + 8).to_be_bytes(), kind.as_slice(), body].concat()
}

/// A movie whose samples are in another file: `dref` with a `url ` that is not this one.
fn mp4_elsewhere(url: &str) -> Vec<u8> {
    let full = |kind, body: &[u8]| boxed(kind, &[&[0; 4], body].concat());
    let dref = full(b"dref", &[b"\0\0\0\x01".as_slice(), &full(b"url ", &[url.as_bytes(), b"\0"].concat())].concat());
    let sowt =
        boxed(b"sowt", &[&[0, 0, 0, 0, 0, 0, 0, 1], [0; 8].as_slice(), b"\0\x02\0\x10\0\0\0\0\xac\x44\0\0"].concat());
    let stbl = [
        full(b"stsd", &[b"\0\0\0\x01".as_slice(), &sowt].concat()),
        full(b"stts", b"\0\0\0\x01\0\0\x10\0\0\0\0\x01"),
        full(b"stsc", b"\0\0\0\x01\0\0\0\x01\0\0\x10\0\0\0\0\x01"),
        full(b"stsz", b"\0\0\0\x04\0\0\x10\0"),
        full(b"stco", b"\0\0\0\x01\0\0\0\x2c"),
    ]
    .concat();
    let minf = [full(b"smhd", &[0; 4]), boxed(b"dinf", &dref), boxed(b"stbl", &stbl)].concat();
    let mdia = [
        full(b"mdhd", b"\0\0\0\0\0\0\0\0\0\0\xac\x44\0\0\x10\0\0\0\0\0"),
        full(b"hdlr", b"\0\0\0\0soun\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        boxed(b"minf", &minf),
    ]
    .concat();
    let mut tkhd = vec![0; 80];
    tkhd[11] = 1;
    let trak = [boxed(b"tkhd", &[&[0, 0, 0, 7], tkhd.as_slice()].concat()), boxed(b"mdia", &mdia)].concat();
    let mut mvhd = vec![0; 96];
    mvhd[10..12].copy_from_slice(&[0xac, 0x44]);
    mvhd[14] = 0x10;
    let moov = [full(b"mvhd", &mvhd), boxed(b"trak", &trak)].concat();
    // Bytes where the samples would be, if they were here: our own look finds nothing missing.
    [boxed(b"ftyp", b"qt  \0\0\0\0qt  "), boxed(b"moov", &moov), boxed(b"mdat", &[7; 20_000])].concat()
}

/// A QuickTime reference movie: nothing but the name of another.
fn reference_movie(url: &str) -> Vec<u8> {
    let mut rdrf = b"\0\0\0\0url ".to_vec();
    rdrf.extend((url.len() as u32 + 1).to_be_bytes());
    rdrf.extend(url.as_bytes());
    rdrf.push(0);
    let rmra = boxed(b"rmra", &boxed(b"rmda", &boxed(b"rdrf", &rdrf)));
    [boxed(b"ftyp", b"qt  \0\0\0\0qt  "), boxed(b"moov", &rmra)].concat()
}

// ── mutations ──

/// A third of a second of music in a format.
fn small(bench: &Bench, name: &str) -> std::path::PathBuf {
    let music = bench.music(44_100, 2, 13_230);
    let arguments = FORMATS.iter().find(|(known, _)| *known == name).unwrap().1;
    let (_, extension) = name.rsplit_once('-').unwrap_or(("", name));
    bench.convert(&music, arguments, &format!("{name}.{extension}"))
}

/// What is mutated, and how ffmpeg makes it.
const FORMATS: [(&str, &str); 14] = [
    ("wav", "-c:a pcm_s16le"),
    ("float-wav", "-c:a pcm_f32le"),
    ("aiff", ""),
    ("flac", ""),
    ("m4a", "-c:a aac"),
    ("alac-m4a", "-c:a alac"),
    ("fragments-mp4", "-c:a aac -movflags +frag_keyframe+empty_moov -frag_duration 100000"),
    ("mp3", "-c:a libmp3lame -b:a 128k"),
    ("aac", "-c:a aac"),
    ("ogg", "-c:a libvorbis"),
    ("opus", "-c:a libopus"),
    ("mka", "-c:a libvorbis"),
    ("webm", "-c:a libopus"),
    ("wv", "-c:a wavpack"),
];

fn mutate(bytes: &[u8], dice: &mut Random) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for _ in 0..=dice.below(6) {
        // Headers are where the lies are: half of all damage is in the first half kilobyte.
        let at = if dice.below(2) == 0 { dice.below(out.len().min(512)) } else { dice.below(out.len()) };
        let room = out.len() - at;
        match dice.below(8) {
            0 => out[at] ^= 1 << dice.below(8),
            1 => out[at] = dice.next() as u8,
            2 => out[at] = [0, 1, 0x7f, 0x80, 0xfe, 0xff][dice.below(6)],
            3 | 4 => {
                let word = [0, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX, dice.next() as u32, 16, 1 << 24][dice.below(8)];
                let word = if dice.below(2) == 0 { word.to_be_bytes() } else { word.to_le_bytes() };
                out[at..at + room.min(4)].copy_from_slice(&word[..room.min(4)]);
            }
            5 => {
                let length = dice.below(room.min(64)).max(1);
                out.drain(at..at + length.min(room));
            }
            6 => {
                let piece = out[at..at + room.min(dice.below(256))].to_vec();
                let to = dice.below(out.len());
                out.splice(to..to, piece);
            }
            _ => {
                let length = dice.below(room.min(128));
                for byte in &mut out[at..at + length] {
                    *byte = dice.next() as u8;
                }
            }
        }
        if out.len() < 8 {
            break;
        }
    }
    out
}

#[test]
fn damaged_files_of_every_format_are_refused_or_survived() {
    let number = |name: &str, default| std::env::var(name).ok().map_or(default, |text| text.parse().unwrap());
    let (count, seed) = (number("HOSTILE_INPUTS", 70), number("HOSTILE_SEED", 1));
    let bench = Bench::new();
    let whole: Vec<_> = FORMATS.iter().map(|(name, _)| (name, std::fs::read(small(&bench, name)).unwrap())).collect();
    for (_, bytes) in &whole {
        let path = bench.file("whole", bytes);
        assert_eq!(try_input(&path), End::Decoded);
    }
    let mut dice = Random(seed);
    let damaged = |n: u64| {
        let (name, bytes) = &whole[n as usize % whole.len()];
        (format!("{seed}-{n}.{name}"), mutate(bytes, &mut dice))
    };
    let inputs: Vec<_> = (0..count).map(damaged).collect();
    let ends = survived(&bench, inputs);
    assert_eq!(ends.values().sum::<usize>() as u64, count);
    // Most of what is damaged is told, and some damage does not matter.
    assert!(ends.contains_key(&End::Refused) && ends.contains_key(&End::Decoded), "{ends:?}");
}

/// An independent look: what the kernel was asked for once the sandbox was closed.
#[test]
fn strace_sees_no_file_and_no_socket_opened_after_the_seal() {
    let bench = Bench::new();
    let list = format!("#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\nfile://{}\n\x01", small(&bench, "wav").display());
    let mut inputs = vec![bench.file("list.mp3", list)];
    inputs.extend(["wav", "flac", "mp3", "m4a", "ogg", "opus", "mka", "aiff"].map(|name| small(&bench, name)));
    for input in inputs {
        let log = bench.path("strace.log");
        let mut command = std::process::Command::new("strace");
        command.args([
            "-f",
            "--seccomp-bpf",
            "-e",
            "trace=seccomp,open,openat,creat,socket,connect,execve,clone,fork,vfork",
        ]);
        command.arg("-o").arg(&log).arg(support::segue().get_program()).arg("probe").arg(&input);
        let output = command.output().expect("strace is installed");
        let text = std::fs::read_to_string(&log).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let sealed = lines.iter().rposition(|line| line.contains("seccomp(SECCOMP_SET_MODE_FILTER"));
        let sealed = sealed.unwrap_or_else(|| panic!("no child was sealed: {}", support::said(&output)));
        // Those that were there before are the parent's, but for the child itself.
        let thread = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
        let child = thread(lines[sealed]);
        let parents: Vec<String> = lines[..sealed].iter().map(|line| thread(line)).filter(|id| *id != child).collect();
        let after: Vec<_> = lines[sealed + 1..].iter().filter(|line| !parents.contains(&thread(line))).collect();
        for line in &after {
            let opened = ["open", "creat", "socket(", "connect(", "execve("].iter().any(|call| line.contains(call));
            let went_through = line.rsplit_once(" = ").is_some_and(|(_, answer)| !answer.starts_with('-'));
            assert!(!(opened && went_through), "{}: {line}", input.display());
        }
    }
}
