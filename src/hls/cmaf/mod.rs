//! CMAF: writes init sections and media segments, and reads them back to check them. Sound here, the picture in `video`.
//!
//! One rung is one elementary stream: `ftyp moov`, then `styp moof mdat` for every segment. All times
//! are integers in samples of the rung's rate, so nothing is ever rounded. ISO/IEC 14496-12 (boxes),
//! 14496-14 (`esds`), 23000-19 (CMAF), and "Encapsulation of FLAC in ISO Base Media File Format" 0.0.4.

mod avc;
mod check;
mod read;
mod video;
mod write;

pub use avc::{AvcConfig, completed};
pub use check::{RungCheck, check_rung};
pub use read::{InitFacts, SegmentFacts, decode_init, decode_segment};
pub use video::{Picture, VideoCheck, VideoFacts, VideoHeader, decode_video_init, encode_video_segment};
pub use write::{Header, STREAMINFO_BYTES, Setup, encode_segment};

#[cfg(test)]
mod tests;
