//! `segue config`: the settings as the server would see them.

use std::process::ExitCode;

use clap::Subcommand;

use super::{Settings, complain, say};
use crate::base::Result;

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Check everything and list every problem with its consequence.
    Check {
        #[command(flatten)]
        settings: Settings,
    },
    /// Show the whole tree, secrets masked.
    Show {
        #[command(flatten)]
        settings: Settings,
    },
}

pub(super) fn run(command: &ConfigCommand) -> Result<ExitCode> {
    match command {
        ConfigCommand::Check { settings } => {
            let config = settings.load()?;
            let mut problems = config.problems();
            problems.extend(crate::app::look_at_certificate(&config.server).err().map(|error| error.chain()));
            #[cfg(feature = "transcode")]
            let problems = {
                let mut problems = problems;
                match crate::transcode::look_at_sandbox(&crate::app::transcode_options(&config)) {
                    Ok(report) => report.lines().iter().for_each(|line| say(format!("sandbox: {line}"))),
                    Err(error) => problems.push(error.chain()),
                }
                problems
            };
            config.notes().iter().for_each(|note| say(format!("note: {note}")));
            for problem in &problems {
                complain(format_args!("{problem}"));
            }
            if problems.is_empty() {
                say("the configuration is fine");
                return Ok(ExitCode::SUCCESS);
            }
            Ok(ExitCode::from(2))
        }
        ConfigCommand::Show { settings } => {
            say(settings.load()?.masked().trim_end());
            Ok(ExitCode::SUCCESS)
        }
    }
}
