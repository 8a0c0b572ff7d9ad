//! Those outside that we ask: one file, one door each.

pub mod hyperswitch;
pub mod mail;
pub mod oidc;
pub mod stripe;
pub mod wire;
