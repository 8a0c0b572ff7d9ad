//! Where published bytes live. `Local` is a directory; S3 joins it behind the same door later.

pub mod local;
pub mod mapped;

pub use local::{LocalStore, Staging};
