//! What a published track is, as data: ladder, version index, playlists, CMAF. Pure: no I/O, no async.

pub mod cmaf;
pub mod ladder;
pub mod loudness;
pub mod package;
pub mod playlist;
pub mod version;
