//! The ground everything stands on: ids, errors, time, secrets, shutdown, telemetry. No I/O policy.

pub mod chance;
pub mod clock;
#[cfg(feature = "control")]
pub mod crash;
pub mod error;
pub mod held;
pub mod hex;
pub mod id;
pub mod memory;
pub mod reach;
pub mod redact;
pub mod secret;
pub mod shutdown;
pub mod telemetry;
pub mod text;

pub use error::{Error, Kind, Result};
