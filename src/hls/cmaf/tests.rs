use proptest::prelude::*;

use super::*;

fn aac() -> Header {
    Header {
        setup: Setup::Aac(vec![0x12, 0x10, 0x56, 0xe5, 0]),
        rate: 44_100,
        channels: 2,
        bits: 16,
        priming: 1024,
        samples: 2 * 1024 + 77,
        average_bps: 64_000,
        peak_bps: 70_000,
    }
}

fn flac(rate: u32) -> Header {
    let setup = Setup::Flac([7; STREAMINFO_BYTES]);
    Header { setup, rate, channels: 6, bits: 24, priming: 0, samples: 4096 + 5, ..aac() }
}

/// Two segments: priming and one frame, one frame and a short one.
fn aac_segments() -> [Vec<u8>; 2] {
    let first = [(vec![1; 10], 1024), (vec![2; 20], 1024)];
    let second = [(vec![3; 30], 1024), (vec![4; 5], 77)];
    [encode_segment(1, 0, true, &first), encode_segment(2, 2048, true, &second)]
}

#[test]
fn what_is_written_reads_back() {
    let init = decode_init(&aac().encode()).unwrap();
    assert_eq!((init.codecs.as_str(), init.rate, init.channels, init.priming), ("mp4a.40.2", 44_100, 2, 1024));
    assert_eq!((init.samples, init.edit_samples), (2125, Some(2125)));
    assert_eq!(init.setup, aac().setup);

    let init = decode_init(&flac(96_000).encode()).unwrap();
    assert_eq!((init.codecs.as_str(), init.rate, init.bits, init.priming), ("fLaC", 96_000, 24, 0));
    assert_eq!((init.samples, init.edit_samples), (4101, None));

    let segment = decode_segment(&aac_segments()[1]).unwrap();
    let expected = SegmentFacts { sequence: 2, decode_time: 2048, frames: 2, duration: 1101, data_bytes: 35 };
    assert_eq!(segment, expected);
}

#[test]
fn rates_above_65535_hz_are_halved_in_the_sample_entry() {
    let check = |rate, field| assert_eq!(write::rate_field(rate), field, "{rate}");
    check(48_000, 48_000);
    check(88_200, 44_100);
    check(176_400, 44_100);
    check(192_000, 48_000);
}

#[test]
fn an_init_section_keeps_its_length_when_the_numbers_become_known() {
    for header in [aac(), flac(44_100)] {
        let early = Header { samples: 0, average_bps: 0, peak_bps: 0, ..header.clone() };
        assert_eq!(early.encode().len(), header.encode().len());
    }
}

#[test]
fn a_rung_adds_up_or_is_refused() {
    let init = aac().encode();
    let [first, second] = aac_segments();
    assert_eq!(check_rung(&init, [&first, &second]).unwrap(), [1024, 1101]);

    let check = |init: &[u8], segments: &[&[u8]], said: &str| {
        let error = check_rung(init, segments).unwrap_err().chain();
        assert!(error.contains(said), "{error}");
    };
    check(&init, &[&first], "1 segments present 1024 samples, mehd says 2125");
    check(&init, &[&second], "segment 0 has sequence number 2");
    check(&init, &[&first, &encode_segment(2, 2047, true, &[([0u8; 4], 1101)])], "starts at sample 2047");
    check(&init, &[&encode_segment(1, 0, true, &[([0u8; 4], 1024)])], "presents nothing");
    check(&init, &[], "0 segments");
    check(&init[..init.len() - 1], &[], "does not fit");
    check(&init, &[&first[..first.len() - 1]], "does not fit");
    check(&init, &[&[&first[..], &[0]].concat()], "after the last box");
    let mut short = first.clone();
    let at = short.len() - 38; // mdat's length
    short[at..at + 4].copy_from_slice(&37u32.to_be_bytes());
    check(&init, &[&short[..short.len() - 1]], "trun sums up to 30 bytes, mdat has 29");
}

proptest! {
    /// Whatever bytes are changed, cut or added, reading answers: no panic, no allocation by length.
    #[test]
    fn damaged_bytes_are_answered(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        which in 0..4usize,
    ) {
        let mut bytes = match which {
            0 => aac().encode(),
            1 => flac(48_000).encode(),
            _ => aac_segments()[which - 2].clone(),
        };
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let _ = decode_init(&bytes);
        let _ = decode_segment(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        let _ = decode_init(&bytes);
        let _ = decode_segment(&bytes);
    }

    /// Any frames written come back in number, length and size.
    #[test]
    fn any_segment_reads_back(frames in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..9), 1..5000u32), 1..40), time in 0..u64::MAX / 2, roll in any::<bool>()) {
        let facts = decode_segment(&encode_segment(9, time, roll, &frames)).unwrap();
        prop_assert_eq!(facts.frames as usize, frames.len());
        prop_assert_eq!(facts.duration, frames.iter().map(|f| u64::from(f.1)).sum::<u64>());
        prop_assert_eq!(facts.data_bytes, frames.iter().map(|f| f.0.len() as u64).sum::<u64>());
        prop_assert_eq!(facts.decode_time, time);
    }
}
