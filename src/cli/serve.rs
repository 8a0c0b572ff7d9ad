//! `segue serve`: the server.

use std::net::SocketAddr;

use clap::{Args, ValueEnum};

use super::Settings;
use crate::app::{self, Roles};
use crate::base::Result;
use crate::config::{Config, Profile};

#[derive(Args, Clone, Debug)]
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

impl ServeArgs {
    /// The settings with these flags over them.
    fn load(&self) -> Result<Config> {
        let mut config = self.settings.load()?;
        if let Some(listen) = self.listen {
            config.server.listen = listen;
        }
        if let Some(listen) = self.admin_listen {
            config.server.admin_listen = listen;
        }
        Ok(config)
    }
}

/// Names are not looked up: which of a name's addresses should be listened on?
pub(super) fn address(text: &str) -> std::result::Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "give an IP address and a port, 127.0.0.1:8080 or [::1]:8080")
}

pub(super) fn run(args: &ServeArgs) -> Result<()> {
    let config = args.load()?.checked()?;
    #[cfg(feature = "transcode")]
    let demo = args.demo;
    #[cfg(not(feature = "transcode"))]
    let demo = false;
    let (pages, work) = match args.role {
        Role::All => (true, true),
        Role::Origin => (false, false),
        #[cfg(feature = "control")]
        Role::Api => (true, false),
        #[cfg(feature = "control")]
        Role::Worker => (false, true),
    };
    if demo && config.profile == Profile::Production {
        return Err(crate::base::Error::usage("--demo is for the dev profile; leave it away in production"));
    }
    if demo && !pages {
        let role = if work { "worker" } else { "origin" };
        return Err(crate::base::Error::usage(format!(
            "--demo is a page, which --role {role} does not serve; leave one away"
        )));
    }
    #[cfg(feature = "control")]
    if matches!(args.role, Role::Worker) {
        return app::work(&config);
    }
    let again = args.clone();
    app::serve(&config, Roles { pages, demo, work }, Box::new(move || again.load()))
}
