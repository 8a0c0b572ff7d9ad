//! Looks at the bytes.

use std::fs::File;

use super::plan::{Patch, Trim};
use crate::base::Result;

/// What the first bytes say.
pub(super) struct Sniffed {
    /// Codec.
    pub(super) codec: Option<String>,
    /// Trim.
    pub(super) trim: Option<Trim>,
    /// Patches.
    pub(super) patches: Vec<Patch>,
    /// Bits.
    pub(super) bits: Option<u32>,
}

/// Sniffs.
pub(super) fn sniff(_file: &File, _bytes: u64) -> Result<Sniffed> {
    Ok(Sniffed { codec: None, trim: None, patches: vec![], bits: None })
}

impl Sniffed {
    pub(super) fn check_length(&self, _samples: u64, _rate: u32) -> Result<()> {
        Ok(())
    }
    pub(super) fn samples_at(&self, _rate: u32) -> Option<u64> {
        None
    }
}
