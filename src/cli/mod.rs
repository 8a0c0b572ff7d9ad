//! The commands. In: the command line. Out: an exit code: 0 done, 1 the work failed, 2 usage or
//! configuration. Every failure is one line on standard error: what, for which input, what to do.

mod blocks;
mod config_cmd;
#[cfg(feature = "transcode")]
mod encode;
mod health;
#[cfg(feature = "control")]
mod jobs;
#[cfg(feature = "control")]
mod ledger;
#[cfg(all(feature = "control", feature = "s3"))]
mod migrate;
#[cfg(feature = "control")]
mod purge;
#[cfg(feature = "control")]
mod reconcile;
mod serve;
mod sign;
#[cfg(any(feature = "transcode", all(feature = "control", feature = "s3")))]
mod signals;
#[cfg(feature = "control")]
mod users;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::base::error::Context as _;
use crate::base::{Kind, Result};
use crate::config::Config;

/// A media streaming server for music: HLS origin, transcoder and control pages in one binary.
#[derive(Debug, Parser)]
#[command(name = "segue", version, max_term_width = 100, propagate_version = true)]
#[command(after_help = "Examples:\n  \
    segue serve --demo                     a server with a demo track, nothing to configure\n  \
    segue publish song.flac --title Song   add a track to ./data; prints its signed URLs\n  \
    segue transcode song.flac --out hls/   a static HLS tree for any web server\n\n\
    Exit codes: 0 done, 1 the work failed, 2 usage or configuration.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server: public listener, admin listener with /metrics, drain on SIGTERM.
    Serve(serve::ServeArgs),
    /// Ask the server on this machine whether it lives, or is ready to serve: for probes of containers.
    Health(health::HealthArgs),
    /// Transcode files and publish them into the store, without a server.
    #[cfg(feature = "transcode")]
    Publish(encode::PublishArgs),
    /// Transcode one file into a static HLS tree that any web server can serve.
    #[cfg(feature = "transcode")]
    Transcode(encode::TranscodeArgs),
    /// Say what a file is, or why it cannot be transcoded.
    #[cfg(feature = "transcode")]
    Probe(encode::ProbeArgs),
    /// Sign a media URL, or explain why a signed one is or is not valid.
    Sign(sign::SignArgs),
    /// Take a track off every origin of a store: 451 for a legal demand, or 404.
    Block(blocks::BlockArgs),
    /// Serve a blocked track again.
    Unblock(blocks::UnblockArgs),
    /// List the tracks that are not served.
    Blocks(blocks::BlocksArgs),
    /// Look after the transcoding queue: list, show, retry, cancel, enqueue.
    #[cfg(feature = "control")]
    #[command(subcommand)]
    Jobs(jobs::JobsCommand),
    /// Bring the database up to date; servers do so themselves when they start.
    #[cfg(feature = "control")]
    Migrate(jobs::MigrateArgs),
    /// Move tracks from the data directory to the bucket, or back, while servers serve them.
    #[cfg(all(feature = "control", feature = "s3"))]
    MigrateStorage(migrate::MigrateStorageArgs),
    /// Have the CDN forget tracks or URLs, or list what it was asked to.
    #[cfg(feature = "control")]
    Purge(purge::PurgeArgs),
    /// Check the books: verify, trial-balance.
    #[cfg(feature = "control")]
    #[command(subcommand)]
    Ledger(ledger::LedgerCommand),
    /// Look at every payment and refund that is open for too long, and believe what the provider has.
    #[cfg(feature = "control")]
    Reconcile(reconcile::ReconcileArgs),
    /// Make keys for the control API.
    #[cfg(feature = "control")]
    #[command(subcommand)]
    Key(jobs::KeyCommand),
    /// Make accounts, say what people may do, remove a lost second factor.
    #[cfg(feature = "control")]
    #[command(subcommand)]
    User(users::UserCommand),
    /// Print the description of the control API (OpenAPI 3.1), which servers have at /api/v1/openapi.json.
    #[cfg(feature = "control")]
    Openapi,
    /// Check or show the configuration.
    #[command(subcommand)]
    Config(config_cmd::ConfigCommand),
    /// Check encoding plans.
    #[cfg(feature = "transcode")]
    #[command(subcommand)]
    Pipelines(encode::PipelinesCommand),
    /// One transcoding attempt; started by the other commands, fed by descriptors.
    #[cfg(feature = "transcode")]
    #[command(hide = true, disable_help_flag = true)]
    Child {
        /// The plan, as JSON.
        #[arg(allow_hyphen_values = true, trailing_var_arg = true)]
        plan: Vec<String>,
    },
}

/// Where settings come from; the same flags on every command that reads them.
#[derive(Args, Clone, Debug)]
struct Settings {
    /// Configuration file (TOML); every key is in docs/CONFIG.md.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Data directory: the store and generated secrets [default: ./data].
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl Settings {
    fn load(&self) -> Result<Config> {
        let mut config = Config::load(self.config.as_deref())?;
        if let Some(data) = &self.data {
            config.data.clone_from(data);
        }
        Ok(config)
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refused_usage(&error, &command_of(std::env::args_os())),
    };
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            complain(format_args!("{}", error.chain()));
            ExitCode::from(if error.kind() == Kind::Usage { 2 } else { 1 })
        }
    }
}

/// Help and version go to standard output and succeed; a wrong command line is one line and exit 2.
fn refused_usage(error: &clap::Error, command: &str) -> ExitCode {
    use std::io::Write as _;
    if !error.use_stderr() {
        return match error.print().and_then(|()| std::io::stdout().flush()) {
            Err(cause) if cause.kind() != std::io::ErrorKind::BrokenPipe => {
                complain(format_args!("cannot write to standard output: {cause}"));
                ExitCode::from(1)
            }
            _ => ExitCode::SUCCESS,
        };
    }
    let text = error.render().to_string();
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.first().is_some_and(|line| line.starts_with("error:")) {
        let what = lines.iter().take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
        let what = what.copied().collect::<Vec<_>>().join(" ");
        // What was typed is somebody's text.
        let what = what.trim_start_matches("error: ").replace(char::is_control, " ");
        complain(format_args!("{what}; try '{command} --help'"));
    } else {
        let _ = error.print();
    }
    ExitCode::from(2)
}

/// The command that was meant: `segue config check`.
fn command_of(args: impl Iterator<Item = std::ffi::OsString>) -> String {
    let mut command = <Cli as clap::CommandFactory>::command();
    let mut words = vec!["segue".to_owned()];
    for arg in args.skip(1) {
        let Some(inner) = command.find_subcommand(&arg).cloned() else { break };
        words.push(inner.get_name().to_owned());
        command = inner;
    }
    words.join(" ")
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Serve(args) => serve::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Health(args) => health::run(&args).map(|()| ExitCode::SUCCESS),
        #[cfg(feature = "transcode")]
        Command::Publish(args) => encode::publish(&args),
        #[cfg(feature = "transcode")]
        Command::Transcode(args) => encode::transcode(&args),
        #[cfg(feature = "transcode")]
        Command::Probe(args) => encode::probe(&args),
        Command::Sign(args) => sign::run(&args),
        Command::Block(args) => blocks::block(&args),
        Command::Unblock(args) => blocks::unblock(&args),
        Command::Blocks(args) => blocks::list(&args),
        #[cfg(feature = "control")]
        Command::Jobs(command) => jobs::run(&command),
        #[cfg(feature = "control")]
        Command::Migrate(args) => jobs::migrate(&args),
        #[cfg(all(feature = "control", feature = "s3"))]
        Command::MigrateStorage(args) => migrate::run(&args),
        #[cfg(feature = "control")]
        Command::Purge(args) => purge::run(&args),
        #[cfg(feature = "control")]
        Command::Ledger(command) => ledger::run(&command),
        #[cfg(feature = "control")]
        Command::Reconcile(args) => reconcile::run(&args),
        #[cfg(feature = "control")]
        Command::Key(command) => jobs::key(&command),
        #[cfg(feature = "control")]
        Command::User(command) => users::run(&command),
        #[cfg(feature = "control")]
        Command::Openapi => {
            use crate::api::openapi;
            say(openapi::text(&openapi::document()).trim_end());
            Ok(ExitCode::SUCCESS)
        }
        Command::Config(command) => config_cmd::run(&command),
        #[cfg(feature = "transcode")]
        Command::Pipelines(command) => encode::pipelines(&command),
        #[cfg(feature = "transcode")]
        Command::Child { .. } => Ok(crate::transcode::child_main()),
    }
}

/// Prints a line to standard error. When that cannot be written the exit code has to do.
fn complain(what: std::fmt::Arguments<'_>) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "segue: {what}");
}

/// Prints a line to standard output. A closed pipe is the reader's choice; a result that cannot be
/// written for another reason is a failure, because a script would take it for success.
fn say(line: impl std::fmt::Display) {
    match tell(line) {
        Err(error) if crate::app::io_kind(&error) != Some(std::io::ErrorKind::BrokenPipe) => {
            complain(format_args!("{}", error.chain()));
            std::process::exit(1);
        }
        _ => {}
    }
}

/// As `say`, for results that must not get lost.
fn tell(line: impl std::fmt::Display) -> Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout();
    let told = out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush());
    told.context(|| "cannot write the result to standard output")
}
