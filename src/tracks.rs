//! The catalogue records.
