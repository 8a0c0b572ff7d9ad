//! The origin over real sockets: what goes in and what comes out, byte for byte.

mod bench;
mod compression;
mod conditions;
mod gate;
mod h2;
mod limits;
mod semantics;
mod tls;
mod tokens;
