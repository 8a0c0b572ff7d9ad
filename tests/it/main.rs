//! Integration tests, one binary.

mod transcode;
