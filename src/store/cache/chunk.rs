//! Where a file of the cache is cut, and how a piece of it is proved to be the bytes that `version.json` names. Pure.

use sha2::{Digest as _, Sha256};

use crate::base::hex;
use crate::hls::version::{self, Rung};

/// What a chunk has at least, the last one aside: large enough that the bucket's answer time does not matter, small
/// enough that the first listener of a segment hardly waits for the rest. A minute and a half of AAC at 96 kbit/s.
const CHUNK_BYTES: u64 = 1 << 20;

/// A stretch of a file that is fetched and checked at once.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) proofs: Vec<(u64, Proof)>,
}

/// How the next so many bytes of a chunk are checked.
#[derive(Debug)]
pub(super) enum Proof {
    /// The first 128 bits of their SHA-256.
    Slice([u8; 16]),
    /// All of it, in hexadecimal.
    Whole(String),
    /// The space between slices: a `free` box without content (ISO/IEC 14496-12 §8.1.2).
    Free,
}

/// Where to cut an object: a rung where its slices end; anything else is one piece.
pub(super) fn chunks(object: &version::Object, rung: Option<&Rung>) -> Box<[Chunk]> {
    let Some(rung) = rung else {
        let proofs = vec![(object.bytes, Proof::Whole(object.sha256.clone()))];
        return Box::new([Chunk { start: 0, end: object.bytes, proofs }]);
    };
    let mut chunks = Vec::new();
    let mut chunk =
        Chunk { start: 0, end: rung.init.bytes, proofs: vec![(rung.init.bytes, Proof::Slice(rung.init.hash))] };
    for (segment, start) in rung.segments.iter().zip(rung.offsets()) {
        if chunk.end - chunk.start >= CHUNK_BYTES {
            let at = chunk.end;
            chunks.push(std::mem::replace(&mut chunk, Chunk { start: at, end: at, proofs: vec![] }));
        }
        if start > chunk.end {
            chunk.proofs.push((start - chunk.end, Proof::Free));
        }
        chunk.proofs.push((segment.bytes, Proof::Slice(segment.hash)));
        chunk.end = start + segment.bytes; // cannot overflow: `VersionIndex::decode` added them up
    }
    chunks.push(chunk);
    chunks.into()
}

impl Chunk {
    /// Whether these are its bytes.
    pub(super) fn is(&self, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        self.proofs.iter().all(|(length, proof)| {
            let Some((piece, after)) = rest.split_at_checked(*length as usize) else { return false };
            rest = after;
            proof.is_of(piece)
        }) && rest.is_empty()
    }

    /// What is to be checked from `at` on, which is where one of its proofs begins.
    pub(super) fn proofs_from(&self, at: u64) -> &[(u64, Proof)] {
        let mut begins = self.start;
        let mut before = |(length, _): &(u64, Proof)| {
            let is_before = begins < at;
            begins += length;
            is_before
        };
        &self.proofs[self.proofs.iter().take_while(|proof| before(proof)).count()..]
    }
}

impl Proof {
    pub(super) fn is_of(&self, bytes: &[u8]) -> bool {
        match self {
            Proof::Slice(hash) => version::digest128(bytes) == *hash,
            Proof::Whole(sha256) => hex::encode(&Sha256::digest(bytes)) == *sha256,
            Proof::Free => is_free_box(bytes),
        }
    }
}

fn is_free_box(bytes: &[u8]) -> bool {
    let Some((head, content)) = bytes.split_first_chunk::<8>() else { return false };
    let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
    u64::from(length) == bytes.len() as u64 && head[4..] == *b"free" && content.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hls::version::tests::sample;

    #[test]
    fn chunks_are_the_whole_file_and_end_where_segments_do() {
        let mut rung = sample().rungs.remove(0);
        rung.alignment = 4096;
        let segment = rung.segments[0].clone();
        rung.segments = (0..40).map(|n| version::Segment { bytes: 100_000 + n, ..segment.clone() }).collect();
        let end = rung.offsets().last().unwrap() + rung.segments[39].bytes;
        let object = version::Object { bytes: end, ..rung.object.clone() };
        let chunks = chunks(&object, Some(&rung));
        assert!(chunks.len() == 4 && chunks[0].start == 0 && chunks[3].end == end, "{chunks:?}");
        for chunk in &chunks {
            let proved: u64 = chunk.proofs.iter().map(|(length, _)| length).sum();
            assert_eq!(proved, chunk.end - chunk.start);
        }
        assert!(
            chunks.windows(2).all(|pair| pair[0].end == pair[1].start && pair[0].end - pair[0].start >= CHUNK_BYTES)
        );
    }

    #[test]
    fn a_chunk_is_right_only_byte_by_byte() {
        let free = [&[0, 0, 0, 12][..], b"free", &[0; 4]].concat();
        let bytes = [b"init".to_vec(), free, b"segment".to_vec()].concat();
        let slice = |piece: &[u8]| (piece.len() as u64, Proof::Slice(version::digest128(piece)));
        let proofs = vec![slice(b"init"), (12, Proof::Free), slice(b"segment")];
        let chunk = Chunk { start: 0, end: bytes.len() as u64, proofs };
        assert!(chunk.is(&bytes));
        for at in 0..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[at] ^= 1;
            assert!(!chunk.is(&wrong), "byte {at}");
        }
        assert!(!chunk.is(&bytes[..bytes.len() - 1]) && !chunk.is(&[&bytes[..], b"x"].concat()));
        let whole = Chunk { start: 0, end: 3, proofs: vec![(3, Proof::Whole(hex::encode(&Sha256::digest(b"abc"))))] };
        assert!(whole.is(b"abc") && !whole.is(b"abd"));
    }
}
