//! The origin over real sockets: what goes in and what comes out, byte for byte.

mod bench;
mod conditions;
mod limits;
mod plain;
mod semantics;
mod tokens;
