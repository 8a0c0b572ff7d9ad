//! `segue block`, `unblock`, `blocks`: which tracks the origins of a store do not serve.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::{Settings, say};
use crate::app;
use crate::base::clock::Clock;
use crate::base::id::TrackId;
use crate::base::{Error, Kind, Result};
use crate::config::Config;
use crate::origin::blocks::{self, Entry, State};
use crate::store::{Backend, Store};

#[derive(Args, Debug)]
pub(super) struct BlockArgs {
    /// The track.
    track: TrackId,
    /// Who demands it and under which law; everybody who asks for the track reads it.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// What people get instead of the track.
    #[arg(long = "as", value_enum, default_value_t = As::Blocked, value_name = "STATE")]
    state: As,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum As {
    /// A legal demand: 451 for everybody, the owner too.
    Blocked,
    /// Withdrawn: 404, as if it did not exist.
    Private,
    /// Erased: 404 for good; cannot be unblocked.
    Deleted,
}

#[derive(Args, Debug)]
pub(super) struct UnblockArgs {
    /// The track.
    track: TrackId,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Args, Debug)]
pub(super) struct BlocksArgs {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Settings,
}

pub(super) fn block(args: &BlockArgs) -> Result<ExitCode> {
    let (config, store) = open(&args.settings)?;
    let track = args.track;
    if !store.has_track(track)? {
        return Err(Error::not_found(format!("there is no track {track} in this store; check the id and --data")));
    }
    let state = match args.state {
        As::Blocked => State::Blocked,
        As::Private => State::Private,
        As::Deleted => State::Deleted,
    };
    let entry = Entry { state, reason: args.reason.clone(), since_s: Clock::System.unix_s() };
    blocks::block(&store, track, entry)?;
    say(format!("{track} is {}: running origins answer {} within a second", word(state), status(state)));
    #[cfg(feature = "control")]
    if config.cdn.provider.is_some() {
        super::purge::wish(&config, &[crate::cdn::purge::What::Tag(track.to_string())]).map_err(|error| {
            let why = error.chain();
            Error::new(
                error.kind(),
                format!(
                    "{track} is {}, but its copies in the CDN stay: {why}; run the same command again",
                    word(state)
                ),
            )
        })?;
        say("its copies in the CDN are purged by the next worker that runs");
    }
    #[cfg(not(feature = "control"))]
    let _ = config;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn unblock(args: &UnblockArgs) -> Result<ExitCode> {
    let was = blocks::unblock(&open(&args.settings)?.1, args.track).map_err(|error| match error.kind() {
        Kind::NotFound => Error::new(Kind::NotFound, format!("{}; 'segue blocks' lists those that are", error.chain())),
        _ => error,
    })?;
    say(format!("{} was {} and is served again within a second", args.track, word(was.state)));
    Ok(ExitCode::SUCCESS)
}

pub(super) fn list(args: &BlocksArgs) -> Result<ExitCode> {
    let snapshot = blocks::read(&open(&args.settings)?.1)?;
    if args.json {
        let kept = |tracks: &std::collections::BTreeSet<TrackId>, state: &str| {
            tracks.iter().map(|track| (track.to_string(), json!({ "state": state }))).collect::<Vec<_>>()
        };
        let guarded = kept(&snapshot.unheard, "unheard").into_iter().chain(kept(&snapshot.guarded, "guarded"));
        let blocked = snapshot.tracks.iter().map(|(track, entry)| (track.to_string(), json!(entry)));
        say(json!(guarded.chain(blocked).collect::<serde_json::Map<_, _>>()));
        return Ok(ExitCode::SUCCESS);
    }
    for (track, entry) in &snapshot.tracks {
        let since = std::time::UNIX_EPOCH + std::time::Duration::from_secs(entry.since_s);
        let since = httpdate::fmt_http_date(since);
        let reason = entry.reason.as_deref().unwrap_or_default();
        say(format!("{track} {} since {since} {reason}", word(entry.state)).trim_end());
    }
    for track in &snapshot.guarded {
        say(format!("{track} guarded"));
    }
    for track in &snapshot.unheard {
        say(format!("{track} unheard"));
    }
    Ok(ExitCode::SUCCESS)
}

/// The store of these settings, which must exist: a wrong `--data` shall not make an empty one.
fn open(settings: &Settings) -> Result<(Config, Store)> {
    let config = settings.load()?.checked()?;
    let dir = config.store_dir();
    if !config.store.uses(Backend::S3) && !dir.is_dir() {
        return Err(Error::usage(format!("there is no store at {}; name the data directory by --data", dir.display())));
    }
    let store = app::open_store(&config, false)?;
    Ok((config, store))
}

fn word(state: State) -> &'static str {
    match state {
        State::Blocked => "blocked",
        State::Private => "private",
        State::Deleted => "deleted",
    }
}

fn status(state: State) -> u16 {
    match state {
        State::Blocked => 451,
        State::Private | State::Deleted => 404,
    }
}
