//! Bunny token authentication, "advanced" HS256: sign and verify.
