//! The demo track.
