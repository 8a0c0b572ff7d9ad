//! `segue sign`: a signed URL for a media path, with the keys the server uses, or why one is refused.

use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::{Settings, say};
use crate::app;
use crate::base::clock::Clock;
use crate::base::{Error, Result};
use crate::cdn::bunny::{self, Grant, Presented};

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
    /// Open the whole directory of the URL, so that playlists and segments below it share the token.
    #[arg(long)]
    dir: bool,
    /// Bind the URL to one client address; with --explain, the address that asks.
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

pub(super) fn run(args: &SignArgs) -> Result<ExitCode> {
    let (base, path, query) = split(&args.url)?;
    let config = args.settings.load()?.checked()?;
    if !config.has_bunny_key() {
        let data = config.data.display();
        return Err(Error::usage(format!("there is no signing key in {data}; name the server's --data or --config")));
    }
    let Cdn::Bunny = args.cdn;
    let keys = app::keys(&config)?;
    let now_s = Clock::System.unix_s();
    if args.explain {
        return Ok(explain(args, &keys, path, query, now_s));
    }
    if query.is_some() || bunny::split_path(path).is_some() {
        return Err(Error::usage(format!("{} carries parameters or a token already; give the plain URL", args.url)));
    }
    let directory = &path[..=path.rfind('/').expect("a path begins with /")];
    let grant = Grant {
        path,
        token_path: args.dir.then_some(directory),
        expires_s: now_s.saturating_add(args.expires.unwrap_or(config.origin.token_ttl_s)),
        address: args.ip,
        ..Grant::default()
    };
    match args.dir {
        true => say(format!("{base}{}{path}", keys.current().sign_prefix(&grant))),
        false => say(format!("{base}{path}?{}", keys.current().sign_params(&grant))),
    }
    Ok(ExitCode::SUCCESS)
}

fn explain(args: &SignArgs, keys: &bunny::Keys, path: &str, query: Option<&str>, now_s: u64) -> ExitCode {
    let (presented, path) = match (bunny::split_path(path), query) {
        (Some((token, below)), _) => (Presented::Path(token), below),
        (None, Some(query)) => (Presented::Query(query), path),
        (None, None) => (Presented::Query(""), path),
    };
    let peer = args.ip.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    match keys.verify(presented, path, peer, now_s) {
        Ok(()) => {
            say(format!("valid: it opens {path} for {peer}"));
            ExitCode::SUCCESS
        }
        Err(refused) => {
            say(format!("not valid: {refused} (path {path}, address {peer}, now {now_s})"));
            ExitCode::from(1)
        }
    }
}

/// Splits a URL into `scheme://host`, path and query; a bare path has an empty base.
fn split(url: &str) -> Result<(&str, &str, Option<&str>)> {
    let path_at = match url.find("://") {
        Some(scheme) => url[scheme + 3..].find('/').map(|slash| scheme + 3 + slash),
        None => url.starts_with('/').then_some(0),
    };
    let at = path_at.ok_or_else(|| Error::usage(format!("{url:?} has no path; give /a/… or https://host/a/…")))?;
    let (path, query) = match url[at..].split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (&url[at..], None),
    };
    Ok((&url[..at], path, query))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_paths_split_alike() {
        let check = |url: &str, parts: (&str, &str, Option<&str>)| assert_eq!(split(url).unwrap(), parts);
        check("/a/b", ("", "/a/b", None));
        check("https://h/a?x=1", ("https://h", "/a", Some("x=1")));
        check("http://h:1/bcdn_token=t&expires=1/a", ("http://h:1", "/bcdn_token=t&expires=1/a", None));
        assert!(split("a/b").is_err() && split("https://h").is_err());
    }
}
