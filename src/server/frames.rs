//! Follows what an HTTP/2 peer sends by the nine-byte heads of its frames (RFC 9113 §4.1). In: decrypted
//! bytes as they arrive. Out, in the connection's `Watched`: since when a header block is unfinished, and
//! whether the peer has worn out our patience.
//!
//! hyper and h2 keep the protocol and bound their memory. What they do not bound is how long a peer may
//! take over a header block, and how often it may ask for work that is no media: resets (CVE-2023-44487),
//! pings, settings, empty frames. One allowance for all of them needs no list of attacks.

use super::watch::{Watched, now_tick};

/// Frames a peer may send at once beyond what its requests and the bytes it takes explain.
const PATIENCE_MAX: i64 = 1000;
/// What comes back in a quarter of a second: pings and settings now and then are good manners.
const PATIENCE_PER_TICK: i64 = 25;
/// A request brings window updates and priorities along.
const PATIENCE_PER_REQUEST: i64 = 4;
/// A stream that was asked for and thrown away has cost a lookup and a header block.
const RESET_COST: i64 = 20;
/// A header block in pieces; a whole one of 16 KiB needs none.
const CONTINUATION_COST: i64 = 8;
/// Body bytes the peer took that explain one frame: clients update two windows for every 4 KiB.
const TAKEN_PER_FRAME: i64 = 2048;
/// Body bytes the peer sent that pay for their own frame.
const SENT_PER_FRAME: i64 = 1024;

/// RFC 9113 §3.4.
const PREFACE_BYTES: usize = 24;
const HEAD_BYTES: usize = 9;

// RFC 9113 §6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// Where in the peer's bytes we are.
#[derive(Debug)]
pub(super) struct Frames {
    /// Bytes of the connection preface that have not come.
    preface: usize,
    /// The frame head that is coming, and how much of it has come.
    head: [u8; HEAD_BYTES],
    have: usize,
    /// Payload bytes of the current frame that have not come.
    left: usize,
    /// A header block has begun and END_HEADERS has not come.
    in_block: bool,
    /// Invariant: at most `PATIENCE_MAX`; below zero the connection is to end.
    patience: i64,
    refilled: u32,
}

impl Frames {
    /// At the first byte of the connection preface.
    pub(super) fn new() -> Frames {
        Frames {
            preface: PREFACE_BYTES,
            head: [0; HEAD_BYTES],
            have: 0,
            left: 0,
            in_block: false,
            patience: PATIENCE_MAX,
            refilled: now_tick(),
        }
    }

    /// The peer sent `bytes`. Costs a few instructions for each frame in them.
    pub(super) fn on_bytes(&mut self, mut bytes: &[u8], watched: &Watched) {
        let now = now_tick();
        let passed = now.wrapping_sub(std::mem::replace(&mut self.refilled, now));
        let taken = watched.streams.claim_taken() as i64;
        self.earn(i64::from(passed) * PATIENCE_PER_TICK + taken / TAKEN_PER_FRAME);
        let mut finished = false;
        while !bytes.is_empty() {
            let skipped = self.skip(bytes.len());
            if skipped > 0 {
                bytes = &bytes[skipped..];
                finished |= !self.is_unfinished();
                continue;
            }
            let n = bytes.len().min(HEAD_BYTES - self.have);
            self.head[self.have..self.have + n].copy_from_slice(&bytes[..n]);
            self.have += n;
            bytes = &bytes[n..];
            if self.have == HEAD_BYTES {
                self.have = 0;
                self.on_head();
                finished |= !self.is_unfinished();
            }
        }
        watched.streams.set_head(self.is_unfinished(), finished, now);
        if self.patience < 0 {
            watched.streams.wear_out();
        }
    }

    /// Skips the rest of the preface or of a payload; says how much of `length` it was.
    fn skip(&mut self, length: usize) -> usize {
        let rest = if self.preface > 0 { &mut self.preface } else { &mut self.left };
        let n = length.min(*rest);
        *rest -= n;
        n
    }

    fn on_head(&mut self) {
        let [l0, l1, l2, kind, flags, ..] = self.head;
        self.left = usize::from(l0) << 16 | usize::from(l1) << 8 | usize::from(l2);
        match kind {
            DATA => self.earn(self.left as i64 / SENT_PER_FRAME - 1),
            HEADERS => self.earn(PATIENCE_PER_REQUEST),
            RST_STREAM => self.earn(-RESET_COST),
            CONTINUATION => self.earn(-CONTINUATION_COST),
            _ => self.earn(-1),
        }
        if matches!(kind, HEADERS | CONTINUATION) {
            self.in_block = flags & END_HEADERS == 0;
        }
    }

    fn earn(&mut self, amount: i64) {
        self.patience = (self.patience + amount).min(PATIENCE_MAX);
    }

    /// Whether something has begun that must end soon. A DATA frame may take its time: a body has a
    /// deadline of its own.
    fn is_unfinished(&self) -> bool {
        self.preface > 0 || self.have > 0 || self.in_block || (self.left > 0 && self.head[3] != DATA)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let mut bytes = vec![0, (payload >> 8) as u8, payload as u8, kind, flags, 0, 0, 0, 1];
        bytes.resize(HEAD_BYTES + payload, 7);
        bytes
    }

    /// Feeds the frames after a preface, in pieces of `step` bytes; says whether the head is unfinished
    /// and whether patience is worn out.
    fn check(frames: &[Vec<u8>], step: usize) -> (bool, bool) {
        let watched = Watched::new();
        let mut seen = Frames::new();
        let bytes = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frames.concat()].concat();
        for piece in bytes.chunks(step) {
            seen.on_bytes(piece, &watched);
        }
        (watched.streams.is_head_open(), watched.streams.is_worn_out())
    }

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let ordinary = [frame(4, 0, 18), frame(8, 0, 4), frame(HEADERS, 5, 300), frame(4, 1, 0), frame(6, 0, 8)];
        for step in [1, 7, 9, 10, 1000] {
            assert_eq!(check(&ordinary, step), (false, false), "{step}");
            let cut = [&ordinary[..], &[frame(HEADERS, 5, 300)[..200].to_vec()]].concat();
            assert_eq!(check(&cut, step), (true, false), "{step}");
            let open = [&ordinary[..], &[frame(HEADERS, 1, 10), frame(CONTINUATION, 0, 10)]].concat();
            assert_eq!(check(&open, step), (true, false), "{step}");
            let closed = [&open[..], &[frame(CONTINUATION, END_HEADERS, 10)]].concat();
            assert_eq!(check(&closed, step), (false, false), "{step}");
            let body = [&ordinary[..], &[frame(DATA, 0, 500)[..30].to_vec()]].concat();
            assert_eq!(check(&body, step), (false, false), "a body may take its time");
        }
    }

    #[test]
    fn floods_wear_out_our_patience_and_work_does_not() {
        let many = |frames: &[Vec<u8>], times: usize| check(&vec![frames.concat(); times], 4096).1;
        assert!(!many(&[frame(HEADERS, 5, 50), frame(8, 0, 4), frame(8, 0, 4)], 20_000), "requests");
        assert!(!many(&[frame(DATA, 0, 16_000)], 2_000), "an upload");
        assert!(!many(&[frame(HEADERS, 5, 50), frame(RST_STREAM, 0, 4)], 40), "a listener who seeks");
        assert!(many(&[frame(HEADERS, 5, 50), frame(RST_STREAM, 0, 4)], 100), "rapid reset");
        for kind in [2, 4, 6, 8, 200] {
            assert!(many(&[frame(kind, 0, 8)], 1_100), "{kind}");
        }
        assert!(many(&[frame(DATA, 0, 0)], 1_100), "empty frames");
        assert!(many(&[frame(HEADERS, 1, 0), vec![frame(CONTINUATION, 0, 0); 200].concat()], 1), "continuation");
    }
}
