//! `segue sign`: a signed URL for a media path, with the keys the server uses.

use std::net::IpAddr;

use clap::{Args, ValueEnum};

use super::{Settings, say};
use crate::base::Result;

#[derive(Args, Debug)]
pub(super) struct SignArgs {
    /// The URL or path to sign, or with --explain the signed URL to judge.
    url: String,
    /// The scheme of the CDN that will check it.
    #[arg(long, value_enum, default_value_t = Cdn::Bunny)]
    cdn: Cdn,
    /// Seconds the URL stays valid [default: origin.token_ttl_s].
    #[arg(long, value_name = "SECONDS")]
    expires: Option<u64>,
    /// Sign the directory, so that everything below it opens with the same token.
    #[arg(long)]
    dir: bool,
    /// Bind the URL to one client address.
    #[arg(long, value_name = "ADDR")]
    ip: Option<IpAddr>,
    /// Say why a signed URL is or is not valid, instead of signing.
    #[arg(long)]
    explain: bool,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Cdn {
    /// Bunny token authentication, HS256.
    Bunny,
}
