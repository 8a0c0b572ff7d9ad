//! `segue purge`: what the CDN shall forget, and how that stands.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::{Settings, say};
use crate::app;
use crate::base::clock::{Clock, rfc3339};
use crate::base::error::Context as _;
use crate::base::id::TrackId;
use crate::base::{Error, Result};
use crate::cdn::purge::What;
use crate::config::Config;

#[derive(Args, Debug)]
pub(super) struct PurgeArgs {
    /// Everything of these tracks.
    #[arg(long = "track", value_name = "ID")]
    tracks: Vec<TrackId>,
    /// These URLs, as listeners ask for them.
    #[arg(long = "url", value_name = "URL")]
    urls: Vec<String>,
    /// List the latest hundred instead.
    #[arg(long, conflicts_with_all = ["tracks", "urls"])]
    list: bool,
    /// List as JSON, one object a line.
    #[arg(long, requires = "list")]
    json: bool,
    #[command(flatten)]
    settings: Settings,
}

pub(super) fn run(args: &PurgeArgs) -> Result<ExitCode> {
    let config = args.settings.load()?.checked()?;
    if args.list {
        list(args, &config)?;
        return Ok(ExitCode::SUCCESS);
    }
    let tags = args.tracks.iter().map(|track| What::Tag(track.to_string()));
    let wishes: Vec<What> = tags.chain(args.urls.iter().cloned().map(What::Url)).collect();
    if wishes.is_empty() {
        return Err(Error::usage("nothing to purge; give --track or --url, or --list"));
    }
    let is_url = |url: &&String| {
        let uri = url.parse::<hyper::Uri>().ok();
        uri.is_some_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some())
    };
    if let Some(url) = args.urls.iter().find(|url| !is_url(url)) {
        return Err(Error::usage(format!("{url:?} is not an http or https URL; give it as listeners ask for it")));
    }
    if config.cdn.provider.is_none() {
        return Err(Error::usage("cdn.provider is unset: there is nobody to ask; set it and the keys of its API"));
    }
    wish(&config, &wishes)?;
    say(format!("{} to purge; the next worker that runs asks for it", wishes.len()));
    Ok(ExitCode::SUCCESS)
}

/// Origins learn of a block within two seconds: a copy that is purged before may be fetched again.
const DARK_US: i64 = 3_000_000;

/// Puts what the CDN shall forget into the database.
pub(super) fn wish(config: &Config, wishes: &[What]) -> Result<()> {
    runtime()?.block_on(async {
        let db = app::database::open(config).await?;
        let now_us = Clock::Service.unix_us();
        for what in wishes {
            db.wish_purge(what, now_us + DARK_US, now_us).await?;
        }
        db.close().await;
        Ok(())
    })
}

fn list(args: &PurgeArgs, config: &Config) -> Result<()> {
    let purges = runtime()?.block_on(async {
        let db = app::database::open(config).await?;
        let purges = db.purges(100).await;
        db.close().await;
        purges
    })?;
    for purge in purges {
        if args.json {
            say(json!(purge));
            continue;
        }
        let text = |name: &str| purge[name].as_str().unwrap_or_default().replace(char::is_control, " ");
        let when = rfc3339(purge["created_us"].as_i64().unwrap_or(0));
        let (kind, value, state, error) = (text("kind"), text("value"), text("state"), text("error"));
        say(format!("{when} {state} {kind} {value} {} tries {error}", purge["tries"]).trim_end());
    }
    Ok(())
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Runtime::new().context(|| "cannot start")
}
