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
    #[arg(long, value_name = "ADDR", value_parser = address)]
    listen: Option<SocketAddr>,
    /// Metrics and health listener; keep it private [default: 127.0.0.1:9090].
    #[arg(long, value_name = "ADDR", value_parser = address)]
    admin_listen: Option<SocketAddr>,
    /// What this process does.
    #[arg(long, value_enum, default_value_t = Role::All)]
    role: Role,
    /// Make a demo track, unless there is one, and print the page that plays it.
    #[cfg(feature = "transcode")]
    #[arg(long)]
    demo: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Role {
    /// Media, pages and aliases.
    All,
    /// Media only.
    Origin,
}

/// Names are not looked up: which of a name's addresses should be listened on?
fn address(text: &str) -> std::result::Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "give an IP address and a port, 127.0.0.1:8080 or [::1]:8080")
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
    let roles = Roles { pages: matches!(args.role, Role::All), demo };
    if demo && config.profile == Profile::Production {
        return Err(crate::base::Error::usage("--demo is for the dev profile; leave it away in production"));
    }
    if demo && !roles.pages {
        return Err(crate::base::Error::usage("--demo is a page, which --role origin does not serve; leave one away"));
    }
    app::serve(&config, roles)
}
