//! Signed URLs in the CDN's own schemes: sign, verify, explain.

pub mod bunny;
