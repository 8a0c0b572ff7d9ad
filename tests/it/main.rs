//! Integration tests, one binary.

mod http;
