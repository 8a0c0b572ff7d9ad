//! Signed URLs in the CDN's own schemes: sign, verify, explain; and the URLs listeners get.

pub mod bunny;
pub mod playback;
