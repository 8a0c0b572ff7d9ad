//! `segue user`: the first account of an installation, what somebody may do, and what only an operator can mend.

use std::io::Read as _;
use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Subcommand, ValueEnum};

use super::jobs::beside;
use super::{Settings, say, tell};
use crate::auth::UserId;
use crate::auth::email::Email;
use crate::auth::password::{BYTES_MAX, Password, Passwords};
use crate::auth::principal::Role;
use crate::base::clock::Clock;
use crate::base::error::Context as _;
use crate::base::{Error, Result};
use crate::db::Db;
use crate::db::users::{Registration, User};

#[derive(Debug, Subcommand)]
#[command(after_help = "The first admin of an installation:\n  \
    segue user create maria@example.org --role admin     prints a password, once\n\n\
    An admin has to add a second factor before anything of an admin's opens.")]
pub(super) enum UserCommand {
    /// Make an account without a mail; prints a password once, unless one is given.
    Create {
        /// Their address.
        #[arg(value_parser = email)]
        email: Email,
        /// What they may do.
        #[arg(long, value_enum, default_value_t = What::Listener)]
        role: What,
        /// What others see.
        #[arg(long)]
        name: Option<String>,
        /// Read the password from standard input instead of making one.
        #[arg(long)]
        password_stdin: bool,
        #[command(flatten)]
        settings: Settings,
    },
    /// Change what somebody may do; their sessions end.
    Grant {
        /// Their address.
        #[arg(value_parser = email)]
        email: Email,
        /// What they may do.
        #[arg(value_enum)]
        role: What,
        #[command(flatten)]
        settings: Settings,
    },
    /// Close an account: sessions end, and neither password, key nor provider opens it. What is theirs stays.
    Close {
        /// Their address.
        #[arg(value_parser = email)]
        email: Email,
        #[command(flatten)]
        settings: Settings,
    },
    /// Open an account again that was closed.
    Open {
        /// Their address.
        #[arg(value_parser = email)]
        email: Email,
        #[command(flatten)]
        settings: Settings,
    },
    /// Remove the second factor of somebody who lost it and all codes; their sessions end.
    ResetMfa {
        /// Their address. Make sure that it is really they who ask.
        #[arg(value_parser = email)]
        email: Email,
        #[command(flatten)]
        settings: Settings,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum What {
    /// Hears and buys.
    Listener,
    /// Publishes and is paid, too.
    Creator,
    /// Decides for others, too, once a second factor was shown.
    Admin,
}

impl What {
    fn role(self) -> Role {
        match self {
            What::Listener => Role::Listener,
            What::Creator => Role::Creator,
            What::Admin => Role::Admin,
        }
    }
}

fn email(text: &str) -> std::result::Result<Email, String> {
    Email::decode(text).map_err(|wrong| wrong.chain())
}

pub(super) fn run(command: &UserCommand) -> Result<ExitCode> {
    match command {
        UserCommand::Create { email, role, name, password_stdin, settings } => {
            let given = if *password_stdin { Some(typed()?) } else { None };
            beside(settings, async |db| create(&db, email, role.role(), name.clone(), given.clone()).await)
        }
        UserCommand::Grant { email, role, settings } => beside(settings, async |db| {
            let user = find(&db, email).await?;
            db.grant(&user.id, role.role(), now_us()).await?;
            say(format!("{}: {}, to log in again", user.id, role.role().as_str()));
            Ok(())
        }),
        UserCommand::Close { email, settings } => beside(settings, async |db| close(&db, email, true).await),
        UserCommand::Open { email, settings } => beside(settings, async |db| close(&db, email, false).await),
        UserCommand::ResetMfa { email, settings } => beside(settings, async |db| {
            let user = find(&db, email).await?;
            match db.remove_factor(&user.id, now_us()).await? {
                true => say(format!("{}: no second factor any more, to log in again", user.id)),
                false => say(format!("{}: had no second factor", user.id)),
            }
            Ok(())
        }),
    }
}

async fn close(db: &Db, email: &Email, closed: bool) -> Result<()> {
    let user = find(db, email).await?;
    db.close_account(&user.id, closed, now_us()).await?;
    match closed {
        true => say(format!("{}: closed; `segue user open` opens it again", user.id)),
        false => say(format!("{}: open, to log in again", user.id)),
    }
    Ok(())
}

async fn create(db: &Db, email: &Email, role: Role, name: Option<String>, given: Option<String>) -> Result<()> {
    let password = given.clone().unwrap_or_else(random);
    let typed = Password::given(password.clone());
    let typed = typed.ok_or_else(|| Error::usage(format!("the password is longer than {BYTES_MAX} bytes")))?;
    let hashed = Passwords::new(1, 0).hash(typed, vec![email.key().to_owned()]).await;
    let hash = hashed.map_err(|wrong| Error::usage("the password cannot be used").because(wrong))?;
    let new = Registration { id: UserId::new(now_us()), email: email.clone(), name, password: hash };
    if !db.create_user(&new, role, now_us()).await? {
        return Err(Error::usage("the address has an account already; see `segue user grant`"));
    }
    say(format!("{}: {}", new.id, role.as_str()));
    match given {
        Some(_) => Ok(()),
        None => tell(format!("password, shown once: {password}")),
    }
}

async fn find(db: &Db, email: &Email) -> Result<User> {
    let user = db.user_by_email(email).await?;
    user.ok_or_else(|| Error::not_found("no account has this address; see `segue user create`"))
}

/// 128 random bits, as people can copy them.
fn random() -> String {
    let mut random = [0; 16];
    getrandom::fill(&mut random).expect("the operating system gives random bytes");
    URL_SAFE_NO_PAD.encode(random)
}

/// The first line of standard input.
fn typed() -> Result<String> {
    let mut text = String::new();
    let read = std::io::stdin().take(BYTES_MAX as u64 + 2).read_to_string(&mut text);
    read.context(|| "cannot read the password from standard input")?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(Error::usage("there is no password on standard input; type one, or leave --password-stdin away"));
    }
    Ok(line.to_owned())
}

fn now_us() -> i64 {
    Clock::Service.unix_us()
}
