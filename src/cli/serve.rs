//! `segue serve`: the server.

use std::net::SocketAddr;

use clap::{Args, ValueEnum};

use super::Settings;
use crate::app::{self, Roles};
use crate::base::Result;
use crate::config::Profile;

#[derive(Args, Debug)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    settings: Settings,
    /// Public listener [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Metrics and health listener; keep it private [default: 127.0.0.1:9090].
    #[arg(long, value_name = "ADDR")]
    admin_listen: Option<SocketAddr>,
    /// What this process does.
    #[arg(long, value_enum, default_value_t = Role::All)]
    role: Role,
    /// Fill an empty data directory with a demo track and print the page that plays it.
    #[cfg(feature = "transcode")]
    #[arg(long)]
    demo: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Role {
    /// Everything in one process.
    All,
    /// Media only.
    Origin,
    /// Pages, aliases and the control API, beside media; works on no job.
    #[cfg(feature = "control")]
    Api,
    /// Works on jobs; no public listener.
    #[cfg(feature = "control")]
    Worker,
}

pub(super) fn run(args: &ServeArgs) -> Result<()> {
    let mut config = args.settings.load()?;
    if let Some(listen) = args.listen {
        config.server.listen = listen;
    }
    if let Some(listen) = args.admin_listen {
        config.server.admin_listen = listen;
    }
    let config = config.checked()?;
    #[cfg(feature = "transcode")]
    let demo = args.demo;
    #[cfg(not(feature = "transcode"))]
    let demo = false;
    let roles = Roles { pages: !matches!(args.role, Role::Origin), demo, work: matches!(args.role, Role::All) };
    if demo && config.profile == Profile::Production {
        return Err(crate::base::Error::usage("--demo is for the dev profile; leave it away in production"));
    }
    #[cfg(feature = "control")]
    if matches!(args.role, Role::Worker) {
        if demo {
            return Err(crate::base::Error::usage(
                "--demo is a page, which --role worker does not serve; leave one away",
            ));
        }
        return app::work(&config);
    }
    app::serve(&config, roles)
}
