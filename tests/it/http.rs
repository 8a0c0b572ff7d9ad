//! The origin over real sockets: what goes in and what comes out, byte for byte.

pub(crate) mod bench;
mod busy;
mod cold;
mod compression;
mod conditions;
mod gate;
mod h2;
mod heads;
mod limits;
mod plain;
pub(crate) mod seeing;
mod semantics;
mod tls;
mod tokens;
