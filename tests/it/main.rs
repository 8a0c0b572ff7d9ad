//! Integration tests, one binary: what a user outside the process can see, over real sockets, with
//! real files, real players and real peers.

mod api_fuzz;
mod auth;
mod cli;
mod clients;
mod clocks;
mod databases;
mod fuzz;
mod http;
mod jobs;
mod kills;
mod ledger;
mod light;
mod money;
mod nodes;
mod openapi;
mod ops;
mod players;
mod postgres;
mod purges;
mod queue;
mod soak;
#[cfg(feature = "s3")]
mod store;
mod support;
mod tidy;
mod tracks;
mod transcode;
#[cfg(feature = "s3")]
mod uploads;
