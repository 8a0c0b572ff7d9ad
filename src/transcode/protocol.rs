//! What the child says to its parent: frames on a pipe. `u32` length of the JSON, `u32` length of the
//! payload (both little endian), the JSON event, the payload. The reader trusts neither length.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use super::plan::Format;
use super::sandbox::Report;
use super::video::plan::Survey;
use crate::hls::loudness::Gating;
use crate::hls::version::Loudness;

/// An event is a few hundred bytes; the longest carries an error text.
const JSON_BYTES_MAX: u32 = 64 << 10;
/// The largest segment: ten seconds of 8 × 32 bit at 192 kHz that did not compress, and its boxes.
const PAYLOAD_BYTES_MAX: u32 = 64 << 20;

/// One thing that happened in the child.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Event {
    /// The sandbox is closed, with these fences; before the first byte of the source is read.
    Sandboxed(Report),
    /// A reader waits for a part of the source that is not here.
    Want {
        /// Offset of the byte.
        at: u64,
    },
    /// The first samples are decoded: this is what the source is. Always before the ones below.
    Opened(Format),
    /// So many samples were decoded; of a film, pictures.
    Decoded {
        /// Samples per channel since the start, after trimming.
        samples: u64,
    },
    /// Payload: the init section of a rung; of a film, its sizes and then the I-frames. Comes twice, first with zeros, at the end with numbers,
    /// of the same length.
    Init {
        /// Index in the plan's outputs: the ladder's rungs, then the preview.
        rung: usize,
    },
    /// Payload: the next media segment of a rung.
    Segment {
        /// Index in the plan's outputs: the ladder's rungs, then the preview.
        rung: usize,
    },
    /// Payload: the next points of the waveform, pairs of minimum and maximum.
    Peaks,
    /// What a look at every packet has found; before `Done`.
    Surveyed(Survey),
    /// Payload: a still of the picture, JPEG.
    Poster,
    /// The source is decoded and measured to its end, and the first rung and the preview are whole. Once, before
    /// `Done`, which says the same and the other encoders.
    Measured(Outcome),
    /// Everything is encoded; the last event.
    Done(Outcome),
    /// It cannot be done; the last event.
    Failed {
        /// Whose fault.
        fault: Fault,
        /// What, in words for a person; no input name.
        message: String,
    },
}

/// What the child learned.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Outcome {
    /// Samples per channel at the source's rate.
    pub(super) samples: u64,
    /// How many of them are silence around a film's sound.
    pub(super) padded: u64,
    /// Samples decoded beyond what the plan keeps.
    pub(super) surplus: u64,
    /// MD5 of the samples in hexadecimal digits, when the plan wants it.
    pub(super) md5: Option<String>,
    /// What it is called by whoever decoded it.
    pub(super) codec: Option<String>,
    /// Loudness of the source.
    pub(super) loudness: Loudness,
    /// What it was found from.
    pub(super) gating: Gating,
    /// Where the preview begins, in samples at the source's rate.
    pub(super) preview_start: u64,
    /// Name and version of each encoder.
    pub(super) encoders: Vec<String>,
}

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Fault {
    /// The input's: refuse it.
    Input,
    /// It needs more memory than it may have.
    Memory,
    /// Ours or the machine's.
    Internal,
}

/// Writes one event.
pub(super) fn write_event(pipe: &mut impl Write, event: &Event, payload: &[u8]) -> io::Result<()> {
    let json = serde_json::to_vec(event)?;
    let mut head = Vec::with_capacity(8 + json.len());
    head.extend((json.len() as u32).to_le_bytes());
    head.extend((payload.len() as u32).to_le_bytes());
    head.extend(json);
    pipe.write_all(&head)?;
    pipe.write_all(payload)
}

/// Reads one event; `None` at the end of the pipe.
pub(super) fn read_event(pipe: &mut impl Read) -> io::Result<Option<(Event, Vec<u8>)>> {
    let mut head = [0; 8];
    match pipe.read(&mut head)? {
        0 => return Ok(None),
        n => pipe.read_exact(&mut head[n..])?,
    }
    let [a, b, c, d, e, f, g, h] = head;
    let (json, payload) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
    if json > JSON_BYTES_MAX || payload > PAYLOAD_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("an event of {json} + {payload} bytes")));
    }
    let event = serde_json::from_slice(&take(pipe, json)?)?;
    Ok(Some((event, take(pipe, payload)?)))
}

fn take(pipe: &mut impl Read, bytes: u32) -> io::Result<Vec<u8>> {
    let mut out = vec![0; bytes as usize];
    pipe.read_exact(&mut out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_back_in_order_and_the_end_is_an_end() {
        let mut pipe = Vec::new();
        write_event(&mut pipe, &Event::Segment { rung: 3 }, &[1, 2, 3]).unwrap();
        write_event(&mut pipe, &Event::Decoded { samples: 9 }, &[]).unwrap();
        let mut pipe = &pipe[..];
        assert_eq!(read_event(&mut pipe).unwrap(), Some((Event::Segment { rung: 3 }, vec![1, 2, 3])));
        assert_eq!(read_event(&mut pipe).unwrap(), Some((Event::Decoded { samples: 9 }, vec![])));
        assert_eq!(read_event(&mut pipe).unwrap(), None);
    }

    #[test]
    fn absurd_lengths_cut_frames_and_nonsense_are_errors() {
        let check = |bytes: &[u8]| assert!(read_event(&mut &bytes[..]).is_err(), "{bytes:?}");
        check(&[0xff; 8]);
        check(&[2, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, b'{', b'}']);
        check(&[2, 0, 0, 0, 0, 0, 0, 0, b'{', b'}']);
        check(&[9, 0, 0]);
        check(&[9, 0, 0, 0, 0, 0, 0, 0, b'{']);
    }
}
