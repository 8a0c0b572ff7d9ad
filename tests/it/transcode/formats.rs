//! Every input format the product names, and what must survive it.

use std::path::Path;

use super::bench::{Bench, Made, decode, error, first_channel, ladder, options};

/// Samples of every source: odd, and four segments.
const FRAMES: u32 = 3 * 45_056 + 777;

/// A source of (rate, channels) converted by ffmpeg, transcoded, and compared with ffmpeg's decoding:
/// same number of samples; the same samples in `exact` format when that is not empty.
fn check(rate: u32, channels: u16, arguments: &str, name: &str, exact: &str) {
    let bench = Bench::new();
    let music = bench.music(rate, channels, FRAMES);
    let input = bench.convert(&music, arguments, name);
    let made = bench.make(&input);
    let source = &made.index.source;
    made.check(samples(&input, source.channels as usize));
    if !exact.is_empty() {
        let ours = decode(&made.dir.join("flac.mp4"), exact, "");
        assert!(ours == decode(&input, exact, ""), "{name}: FLAC is not the source, bit by bit");
    }
}

/// Samples per channel that ffmpeg decodes.
fn samples(input: &Path, channels: usize) -> u64 {
    (decode(input, "s32le", "").len() / 4 / channels) as u64
}

/// GStreamer's own WAV demuxer stops at 2 GiB.
#[test]
fn a_wav_of_more_than_two_gibibytes_is_read_to_its_end() {
    const FRAMES: u64 = 140_000_000; // of 16 bytes: 2.09 GiB, twelve minutes
    let mut head = b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0\x03\0\x02\0".to_vec();
    head.extend(192_000u32.to_le_bytes());
    head.extend((192_000u32 * 16).to_le_bytes());
    head.extend([16, 0, 64, 0]);
    head.extend(b"data");
    head.extend((FRAMES as u32 * 16).to_le_bytes());
    let bench = Bench::new();
    let long = bench.file("long.wav", &head);
    // The rest is a hole: silence that takes no room.
    std::fs::File::options().write(true).open(&long).unwrap().set_len(head.len() as u64 + FRAMES * 16).unwrap();
    let source = segue::transcode::probe(&long, &options()).unwrap().source;
    assert_eq!((source.samples, source.rate, source.channels), (FRAMES, 192_000, 2));
}

#[test]
fn wav_of_every_depth_is_kept_bit_by_bit() {
    check(44_100, 2, "-c:a pcm_u8", "u8.wav", "s16le");
    check(44_100, 2, "-c:a pcm_s16le", "16.wav", "s16le");
    check(48_000, 2, "-af volume=0.3 -c:a pcm_s24le", "24.wav", "s24le");
    check(48_000, 1, "-c:a pcm_s32le", "32.wav", "s24le"); // from 16 bits: the low byte is empty
    check(44_100, 2, "-c:a pcm_f32le", "float.wav", "s24le"); // from 16 bits: exact in 24
    check(44_100, 2, "-rf64 always", "rf64.wav", "s16le");
}

#[test]
fn aiff_flac_and_alac_are_kept_bit_by_bit() {
    check(44_100, 2, "-c:a pcm_s16be", "16.aiff", "s16le");
    check(44_100, 2, "-af volume=0.3 -c:a pcm_s24be", "24.aiff", "s24le");
    check(44_100, 2, "-sample_fmt s16", "16.flac", "s16le");
    check(96_000, 2, "-af volume=0.3 -sample_fmt s32", "24.flac", "s24le");
    check(44_100, 2, "-c:a alac", "16.m4a", "s16le");
    check(48_000, 2, "-af volume=0.3 -sample_fmt s32p -c:a alac", "24.m4a", "s24le");
}

#[test]
fn mono_and_surround_keep_their_channels_in_flac() {
    check(44_100, 1, "-c:a pcm_s16le", "mono.wav", "s16le");
    check(48_000, 6, "-c:a pcm_s16le", "surround.wav", "s16le");
    check(48_000, 6, "-channel_layout 5.1(side) -c:a flac", "side.flac", "s16le");
    // Named, for ffmpeg takes three channels without places for 2.1.
    check(44_100, 3, "-af pan=3.0|FL=c0|FR=c1|FC=c2 -c:a flac", "three.flac", "s16le");
    // A plain WAV has no place to say which channels these are.
    for channels in [3, 4, 5] {
        check(44_100, channels, "-c:a pcm_s16le -fflags +bitexact", "unplaced.aiff", "s16le");
        let bench = Bench::new();
        let music = bench.music(44_100, channels, FRAMES);
        let made = bench.make(&music);
        made.check(u64::from(FRAMES));
        assert!(decode(&made.dir.join("flac.mp4"), "s16le", "") == decode(&music, "s16le", ""), "{channels} channels");
    }
}

/// FLAC says by their number where its channels are. What has another place than these numbers say comes out of the right
/// loudspeaker all the same, sample by sample: silent channels make up the number.
#[test]
fn channels_come_out_of_the_loudspeakers_they_were_meant_for() {
    let bench = Bench::new();
    let music = bench.music(48_000, 6, 30_000);
    let of = |input: &Path, channels: usize| -> Vec<Vec<i16>> {
        let words: Vec<i16> =
            decode(input, "s16le", "").as_chunks().0.iter().map(|word| i16::from_le_bytes(*word)).collect();
        (0..channels).map(|channel| words.iter().skip(channel).step_by(channels).copied().collect()).collect()
    };
    // The layout's name, its places, the arguments of a file that says them, and the layout of FLAC it fits into.
    let six = "FL FR FC LFE BL BR";
    let seven = "FL FR FC LFE BC SL SR";
    let cases = [
        ("2.1", "FL FR LFE", six),
        ("3.1", "FL FR FC LFE", six),
        ("4.0", "FL FR FC BC", seven),
        ("3.0(back)", "FL FR BC", seven),
        ("4.1", "FL FR FC LFE BC", seven),
        ("quad(side)", "FL FR SL SR", "FL FR SL SR"),
    ];
    for (layout, places, target) in cases {
        let places: Vec<&str> = places.split(' ').collect();
        let pan: Vec<String> = places.iter().enumerate().map(|(at, place)| format!("{place}=c{at}")).collect();
        let pan = format!("-af pan={layout}|{} -c:a", pan.join("|"));
        // A WAV says it by its mask, a FLAC by a comment.
        for (codec, name) in [("pcm_s16le", "placed.wav"), ("flac", "placed.flac")] {
            let input = bench.convert(&music, &format!("{pan} {codec}"), name);
            let made = bench.make(&input);
            made.check(30_000);
            let flac = made.index.rungs.iter().find(|rung| rung.name.is_empty()).unwrap();
            let target: Vec<&str> = target.split(' ').collect();
            assert_eq!(flac.channels as usize, target.len(), "{layout}");
            assert!(made.index.is_lossless(flac), "{layout}");
            let spread = target.len() > places.len();
            assert_eq!(made.index.source.layout, spread.then(|| places.join("+")), "{layout}");
            let (source, ours) = (of(&input, places.len()), of(&made.dir.join("flac.mp4"), target.len()));
            for (place, ours) in target.iter().zip(ours) {
                match places.iter().position(|other| other == place) {
                    Some(at) => assert!(ours == source[at], "{layout}: another sound in {place}"),
                    None => assert!(ours.iter().all(|sample| *sample == 0), "{layout}: a sound in {place}"),
                }
            }
            // The bass is in no stereo mix; everything else is.
            let report = segue::transcode::probe(&input, &options()).unwrap();
            let outline = report.outline(&ladder());
            assert_eq!(outline.last().unwrap().channels, flac.channels, "{layout}");
        }
    }
}

#[test]
fn bytes_behind_the_samples_of_a_wav_change_nothing() {
    let bench = Bench::new();
    let whole = bench.music(44_100, 2, 30_001);
    let bytes = std::fs::read(&whole).unwrap();
    let expected = decode(&whole, "s16le", "");
    // wavparse takes one to seven bytes for a chunk that is cut, and gives up; also behind chunks that are whole.
    for tail in [&[0u8; 1][..], &[0; 4], &[7; 7], &[0; 100], b"LIST\x04\0\0\0abcdxyz"] {
        let padded = bench.file("padded.wav", [&bytes, tail].concat());
        let made = bench.make(&padded);
        assert!(decode(&made.dir.join("flac.mp4"), "s16le", "") == expected, "{} bytes more", tail.len());
    }
}

#[test]
fn an_odd_chunk_of_samples_with_its_even_end_is_whole() {
    // RIFF pads chunks to an even length; here the pad is the file's last byte.
    let bench = Bench::new();
    let odd = bench.convert(&bench.music(44_100, 1, 30_001), "-c:a pcm_s24le", "odd.wav");
    assert_eq!(std::fs::metadata(&odd).unwrap().len() % 2, 0, "it ends with a pad byte");
    let made = bench.make(&odd);
    made.check(30_001);
    assert!(decode(&made.dir.join("flac.mp4"), "s32le", "") == decode(&odd, "s32le", ""));
}

#[test]
fn samples_that_are_no_sound_shift_nothing() {
    let bench = Bench::new();
    let float = bench.convert(&bench.music(44_100, 1, 44_100), "-c:a pcm_f32le -fflags +bitexact", "float.wav");
    let mut bytes = std::fs::read(&float).unwrap();
    let samples = bytes.len() - 44_100 * 4;
    for (at, bad) in [(9_000, f32::NAN), (20_000, 1e30), (30_000, f32::NEG_INFINITY)] {
        bytes[samples + at * 4..][..4].copy_from_slice(&bad.to_le_bytes());
    }
    let made = bench.make(&bench.file("bad.wav", bytes));
    made.check(44_100);
    // What follows the bad samples is where it was: as in the rung of the same music without them.
    let good = bench.make(&float);
    let aac = |dir: &Path| -> Vec<f64> {
        let bytes = decode(&dir.join("aac-256.mp4"), "f32le", "");
        bytes.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect()
    };
    let (bad, good) = (aac(&made.dir), aac(&good.dir));
    let (bad, good) = (&bad[36_000..44_000], &good[36_000..44_000]);
    let error: f64 = bad.iter().zip(good).map(|(a, b)| (a - b).powi(2)).sum();
    let power: f64 = good.iter().map(|b| b.powi(2)).sum();
    assert!(error < power / 100.0, "{error} of {power}");
}

#[test]
fn rates_from_8_to_192_khz_give_aligned_rungs() {
    for rate in [8_000, 11_025, 22_050, 32_000] {
        check(rate, 1, "-c:a pcm_s16le", "low.wav", "");
    }
    for rate in [88_200, 96_000, 176_400, 192_000] {
        check(rate, 2, "-c:a pcm_s16le", "high.wav", "s16le");
    }
}

#[test]
fn mp3_is_gapless_by_its_lame_header() {
    check(44_100, 2, "-c:a libmp3lame -b:a 128k", "cbr.mp3", "");
    check(44_100, 2, "-c:a libmp3lame -q:a 4", "vbr.mp3", "");
    check(48_000, 1, "-c:a libmp3lame -b:a 96k", "mono.mp3", "");
    check(22_050, 2, "-c:a libmp3lame -b:a 64k", "low.mp3", "");
}

#[test]
fn mp3_with_20_mb_of_cover_art_is_audio_all_the_same() {
    let bench = Bench::new();
    let mp3 = bench.convert(&bench.music(44_100, 2, FRAMES), "-c:a libmp3lame -b:a 128k -id3v2_version 0", "plain.mp3");
    let art: Vec<u8> = (0..20_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut tag = b"APIC".to_vec();
    let body = [&b"\0image/jpeg\0\x03\0\xff\xd8\xff"[..], &art].concat();
    tag.extend((body.len() as u32).to_be_bytes());
    tag.extend([0, 0]);
    tag.extend(body);
    let size = tag.len() as u32;
    let mut file = b"ID3\x03\0\0".to_vec();
    file.extend([21, 14, 7, 0].map(|shift| (size >> shift & 0x7f) as u8));
    file.extend(tag);
    file.extend(std::fs::read(&mp3).unwrap());
    let made = bench.make(&bench.file("art.mp3", file));
    made.check(samples(&mp3, 2));
    assert!(!std::fs::read(made.dir.join("flac.mp4")).unwrap().windows(10).any(|w| w == b"image/jpeg"));
}

#[test]
fn aac_in_mp4_is_cut_by_its_edit_list_to_the_sample() {
    let bench = Bench::new();
    let music = bench.music(44_100, 2, FRAMES);
    for (arguments, name) in [("-c:a aac", "end.m4a"), ("-c:a aac -movflags +faststart", "fast.m4a")] {
        bench.make(&bench.convert(&music, arguments, name)).check(u64::from(FRAMES));
    }
}

/// What LAME put before the sound is in the edit list; of what it put behind it ffmpeg's muxer counts a frame as sound, which its
/// own decoder plays, too.
#[test]
fn mp3_in_mp4_begins_where_its_edit_list_says_and_loses_nothing() {
    let bench = Bench::new();
    let music = bench.music(44_100, 2, FRAMES);
    let source = first_channel(&music, 2, "");
    let loud = error(&source, &vec![0.0; source.len()]);
    for (arguments, name) in
        [("-c:a libmp3lame -b:a 192k", "cbr.mp4"), ("-c:a libmp3lame -q:a 2 -movflags +faststart", "vbr.mp4")]
    {
        let made = bench.make(&bench.convert(&music, arguments, name));
        assert_eq!(made.index.source.codec, "MP3", "{name}");
        let samples = made.index.source.samples;
        made.check(samples);
        assert!((u64::from(FRAMES)..u64::from(FRAMES) + 2 * 1152).contains(&samples), "{name}: {samples}");
        // In its place, or else it would be nothing like it.
        let ours = first_channel(&made.dir.join("flac.mp4"), 2, "");
        let wrong = error(&ours, &source);
        assert!(wrong < loud / 5.0, "{name}: {wrong} of {loud}");
    }
}

#[test]
fn vorbis_and_opus_have_the_length_of_their_last_page() {
    check(44_100, 2, "-c:a libvorbis -q:a 3", "v.ogg", "");
    check(48_000, 1, "-c:a libvorbis -q:a 3", "mono.ogg", "");
    check(48_000, 2, "-c:a libopus -b:a 64k", "o.opus", "");
}

#[test]
fn what_was_found_is_told() {
    let bench = Bench::new();
    let input = bench.convert(&bench.music(44_100, 2, FRAMES), "-c:a libmp3lame", "a.mp3");
    let report = segue::transcode::probe(&input, &options()).unwrap();
    assert_eq!(report.source.codec, "MPEG-1 Layer 3 (MP3)");
    assert_eq!((report.source.rate, report.source.channels, report.source.samples), (44_100, 2, samples(&input, 2)));
    let outline: Vec<(String, u32)> = report.outline(&ladder()).into_iter().map(|o| (o.path, o.rate)).collect();
    assert_eq!(outline, [("aac/64".into(), 44_100), ("aac/256".into(), 44_100), ("flac".into(), 44_100)]);
    let made = bench.try_make(&input, &ladder(), &options()).unwrap();
    assert_eq!(made.index.source, report.source);
    assert_eq!(made.index.loudness.as_ref(), Some(&report.loudness));
    assert!(report.loudness.integrated_lufs.is_some_and(|lufs| (-30.0..-5.0).contains(&lufs)));
    assert!(made.index.encoders[0].starts_with("avenc_aac 1.") && made.index.encoders[0].contains("Lavc"));
    assert!(made.index.encoders[1].starts_with("flacenc 1.") && made.index.encoders[1].contains("libFLAC"));
}

/// 44.1 kHz made 48 kHz by the encoder: the length is no whole number of milliseconds, in which the edit counts.
#[test]
fn opus_in_mp4_has_all_its_samples() {
    let bench = Bench::new();
    let music = bench.music(48_000, 2, 240_012);
    let mp4 = bench.convert(&music, "-c:a libopus", "a.mp4");
    let probed = segue::transcode::probe(&mp4, &options()).unwrap();
    assert_eq!(probed.source.samples, 240_012);
    // The same packets in another box, and a length that both can say: what decoders need before the first sample is
    // left out of both.
    let mp4 = bench.convert(&bench.music(48_000, 2, 240_000), "-c:a libopus", "b.mp4");
    let ogg = bench.convert(&mp4, "-c:a copy", "b.opus");
    let flac = |input: &Path| {
        let made = bench.try_make(input, &ladder(), &options()).unwrap();
        made.index.rungs.last().unwrap().object.sha256.clone()
    };
    assert_eq!(flac(&mp4), flac(&ogg));
}

/// Pages of an Ogg stream without the first `drop` of sound, as a recorder that joined late has it: the others keep their
/// positions, which the second number is the first of.
fn joined_late(ogg: &[u8], drop: usize) -> (Vec<u8>, u64) {
    let (mut rest, mut out, mut begins) = (ogg, Vec::new(), 0);
    for number in 0.. {
        let Some(lacing) = rest.get(27..).map(|after| &after[..usize::from(rest[26])]) else { break };
        let length = 27 + lacing.len() + lacing.iter().map(|bytes| usize::from(*bytes)).sum::<usize>();
        let (page, after) = rest.split_at(length);
        rest = after;
        if (2..2 + drop).contains(&number) {
            begins = u64::from_le_bytes(page[6..14].try_into().unwrap());
            continue;
        }
        let mut page = page.to_vec();
        let sequence = if number < 2 { number } else { number - drop } as u32;
        page[18..22].copy_from_slice(&sequence.to_le_bytes());
        page[22..26].fill(0);
        // RFC 3533 §6: this polynomial, nothing reflected.
        let crc = page.iter().fold(0u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte) << 24, |crc, _| crc << 1 ^ if crc >> 31 == 1 { 0x04c1_1db7 } else { 0 })
        });
        page[22..26].copy_from_slice(&crc.to_le_bytes());
        out.extend(page);
    }
    (out, begins)
}

/// RFC 7845 §4.3: what comes before the first sample to be heard is as long as the header says, wherever the positions begin.
#[test]
fn an_opus_stream_cut_out_of_another_begins_with_its_own_first_sample() {
    let bench = Bench::new();
    let whole = bench.convert(&bench.music(48_000, 2, 20 * 48_000), "-c:a libopus -b:a 128k", "whole.opus");
    let bytes = std::fs::read(&whole).unwrap();
    let samples = |made: &Made| first_channel(&made.dir.join("flac.mp4"), 2, "");
    let all = samples(&bench.make(&whole));
    assert_eq!(all.len(), 20 * 48_000);
    for drop in [1, 3, 13] {
        let (cut, begins) = joined_late(&bytes, drop);
        assert!(begins > 0);
        let made = bench.make(&bench.file(&format!("late-{drop}.opus"), cut));
        made.check(20 * 48_000 - begins);
        // A decoder that joins late needs 80 ms until it hears the same.
        let (ours, theirs) = (&samples(&made)[9_600..], &all[begins as usize + 9_600..]);
        let wrong = error(ours, theirs);
        let loud = error(theirs, &vec![0.0; theirs.len()]);
        assert!(wrong < loud / 100.0, "{drop} pages dropped: {wrong} of {loud}");
    }
}

/// `opusdec` would give up the phase between the channels, which decoders for mono do.
#[test]
fn opus_is_what_the_reference_decoder_makes_of_it() {
    let bench = Bench::new();
    // Two noises: the encoder describes the right one by the left one, inverted where that is nearer.
    let noises = "-filter_complex anoisesrc=d=5:a=0.3:r=48000[a];anoisesrc=d=5:a=0.3:seed=5:r=48000[b];\
                  [a][b]join=inputs=2:channel_layout=stereo[both] -map [both] -c:a libopus -b:a 96k";
    let opus = bench.convert(&bench.music(48_000, 2, 48_000), noises, "a.opus");
    let reference = bench.convert(&opus, "-c:a pcm_f32le -f f32le", "reference.raw");
    let made = bench.try_make(&opus, &ladder(), &options()).unwrap();
    let flac = made.dir.join(&made.index.rungs.last().unwrap().object.name);
    let ours = bench.convert(&flac, "-c:a pcm_f32le -f f32le", "ours.raw");
    let samples = |path: &Path| -> Vec<f32> {
        let bytes = std::fs::read(path).unwrap();
        bytes.as_chunks().0.iter().map(|word| f32::from_le_bytes(*word)).collect()
    };
    let (reference, ours) = (samples(&reference), samples(&ours));
    let most = reference.iter().zip(&ours).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(reference.len() == ours.len() && most < 0.01, "{} and {} samples, {most}", reference.len(), ours.len());
}

/// Honest files with all that programs put around the audio, none of which is damage.
#[test]
fn what_lies_around_the_audio_is_no_damage() {
    let bench = Bench::new();
    let music = bench.music(44_100, 2, 132_300);
    let tagged = "-metadata title=x -id3v2_version 3 -write_id3v1 1";
    for (name, arguments) in [
        ("v1.mp3", format!("-c:a libmp3lame -b:a 192k {tagged}")),
        ("vbr.mp3", format!("-c:a libmp3lame -q:a 2 {tagged}")),
        ("abr.mp3", format!("-c:a libmp3lame -abr 1 -b:a 160k {tagged}")),
        ("plain.mp3", format!("-c:a libmp3lame -b:a 64k -ar 22050 -ac 1 -write_xing 0 {tagged}")),
        ("no-reservoir.mp3", "-c:a libmp3lame -reservoir 0".into()),
        ("a.mp2", "-c:a mp2".into()),
        ("a.aac", "-c:a aac -write_id3v2 1 -metadata title=x".into()),
        ("mono.m4a", "-c:a aac -ac 1 -ar 32000".into()),
        ("a.mkv", "-c:a flac".into()),
        ("pcm.mka", "-c:a pcm_s16le".into()),
        ("a.webm", "-c:a libvorbis".into()),
        ("flac.ogg", "-c:a flac".into()),
        ("flac.mp4", "-c:a flac -strict -2".into()),
        ("keyed.mp4", "-c:a aac -movflags frag_keyframe -frag_duration 700000".into()),
        ("dash.mp4", "-c:a aac -movflags +dash+empty_moov+frag_keyframe -frag_duration 700000".into()),
        ("16.flac", "-compression_level 12 -metadata title=x".into()),
    ] {
        let file = bench.convert(&music, &arguments, name);
        segue::transcode::probe(&file, &options()).unwrap_or_else(|error| panic!("{}", error.chain()));
        // With an APE tag at the end, where such a tag is usual.
        if name.ends_with("mp3") || name.ends_with("mp2") {
            let ape =
                [&b"APETAGEX\xd0\x07\0\0\x2c\x01\0\0\0\0\0\0\0\0\0\xa0\0\0\0\0\0\0\0\0"[..], &[b'x'; 268]].concat();
            let end = b"APETAGEX\xd0\x07\0\0\x2c\x01\0\0\0\0\0\0\0\0\0\x80\0\0\0\0\0\0\0\0";
            let bytes = [&std::fs::read(&file).unwrap()[..], &ape, end].concat();
            let file = bench.file(&format!("ape-{name}"), bytes);
            segue::transcode::probe(&file, &options()).unwrap_or_else(|error| panic!("{}", error.chain()));
        }
    }
    let piped = bench.path("piped.flac");
    let mut command = std::process::Command::new("ffmpeg");
    command.args(["-v", "error", "-nostdin", "-i"]).arg(&music).args(["-f", "flac", "pipe:1"]);
    std::fs::write(&piped, command.output().unwrap().stdout).unwrap();
    assert_eq!(segue::transcode::probe(&piped, &options()).unwrap().source.samples, 132_300);
    let mut bytes = std::fs::read(&piped).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 40_000].fill(0x55);
    let hole = bench.file("piped-hole.flac", bytes);
    let refusal = segue::transcode::probe(&hole, &options()).unwrap_err().chain();
    assert!(refusal.contains("truncated or damaged"), "{refusal}");
}
