//! `segue ledger`: whether the books are right, beside the database itself.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::jobs::beside;
use super::{Settings, say};
use crate::base::clock::{Clock, parse_rfc3339, rfc3339};
use crate::base::{Error, Result};
use crate::db::Db;
use crate::db::ledger::{AsOf, Line};
use crate::ledger::{AccountCode, Currency};

#[derive(Debug, Subcommand)]
pub(super) enum LedgerCommand {
    /// Compute everything again from the postings: seals, balances, totals. Exit code 1 on any difference.
    Verify {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        settings: Settings,
    },
    /// Print what was posted to one account.
    #[command(after_help = "Example: segue ledger balance seller:usr_1:payable:USD --as-of 2026-12-31")]
    Balance {
        /// Its code, as `segue ledger trial-balance` lists it.
        account: AccountCode,
        #[command(flatten)]
        when: When,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        settings: Settings,
    },
    /// Close the books until a day: nothing that counts until then is posted any more. It cannot be undone.
    Close {
        /// The last moment that is closed: 2026-10-31, or a time in UTC. It has to be over.
        #[arg(long, value_name = "TIME", value_parser = time)]
        through: i64,
        /// Only say until when the books are closed, and whether they could be closed until then.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        settings: Settings,
    },
    /// List what was posted to each account, and whether it balances. Exit code 1 when it does not.
    TrialBalance {
        #[command(flatten)]
        when: When,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        settings: Settings,
    },
}

/// As of when something is asked for.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct When {
    /// Only what was so until then: 2026-11-21, or 2026-11-21T12:00:00Z [default: everything].
    #[arg(long, value_name = "TIME", value_parser = time)]
    as_of: Option<i64>,
    /// Which time of a journal has to be until then.
    #[arg(long, value_enum, default_value_t = Axis::Effective, requires = "as_of")]
    by: Axis,
}

impl When {
    fn as_of(self) -> AsOf {
        match (self.as_of, self.by) {
            (None, _) => AsOf::Now,
            (Some(at), Axis::Effective) => AsOf::Effective(at),
            (Some(at), Axis::Recorded) => AsOf::Recorded(at),
        }
    }
}

/// The two times of a journal.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Axis {
    /// When it counts: what was so.
    Effective,
    /// When it was recorded: what was known.
    Recorded,
}

/// A date means its end, so that `--as-of 2026-12-31` is the whole year.
fn time(text: &str) -> std::result::Result<i64, String> {
    let at = match text.len() {
        10 => parse_rfc3339(&format!("{text}T23:59:59.999999Z")),
        _ => parse_rfc3339(text),
    };
    at.ok_or_else(|| "give a date or a time in UTC, such as 2026-12-31 or 2026-12-31T12:00:00Z".into())
}

pub(super) fn run(command: &LedgerCommand) -> Result<ExitCode> {
    match command {
        LedgerCommand::Verify { json, settings } => beside(settings, async |db| verify(&db, *json).await),
        LedgerCommand::Balance { account, when, json, settings } => {
            beside(settings, async |db| balance(&db, account, when.as_of(), *json).await)
        }
        LedgerCommand::Close { through, dry_run, settings } => {
            beside(settings, async |db| close(&db, *through, *dry_run).await)
        }
        LedgerCommand::TrialBalance { when, json, settings } => {
            beside(settings, async |db| trial_balance(&db, when.as_of(), *json).await)
        }
    }
}

async fn balance(db: &Db, account: &AccountCode, as_of: AsOf, as_json: bool) -> Result<()> {
    let Some((debits, credits)) = db.balance_as_of(account, as_of).await? else {
        let hint = "segue ledger trial-balance lists those that something was posted to";
        return Err(Error::not_found(format!("there is no account {account}; {hint}")));
    };
    let code = account.as_str().rsplit(':').next().unwrap_or_default();
    if as_json {
        say(json!({ "account": account.as_str(), "debits": debits, "credits": credits, "balance": debits - credits }));
        return Ok(());
    }
    let written = |minor: i64| match Currency::decode(code) {
        Some(currency) => format!("{} {currency}", currency.written(minor)),
        None => minor.to_string(),
    };
    say(format!(
        "debits {}, credits {}, debits less credits {}",
        written(debits),
        written(credits),
        written(debits - credits)
    ));
    Ok(())
}

async fn close(db: &Db, through_us: i64, dry_run: bool) -> Result<()> {
    let now_us = Clock::Service.unix_us();
    if through_us >= now_us {
        let through = rfc3339(through_us);
        return Err(Error::usage(format!(
            "{through} is not over: what counts today has to be posted; close what has passed"
        )));
    }
    let closed_us = db.ledger_closed().await?;
    let since = closed_us.map_or("the beginning".to_owned(), rfc3339);
    if closed_us.is_some_and(|closed_us| through_us <= closed_us) {
        return Err(Error::usage(format!("the books are closed until {since} already: give a later time")));
    }
    // Books that are wrong are mended first: what is closed stays as it is.
    verify(db, false).await?;
    if dry_run {
        say(format!("the books are closed until {since}; they could be closed until {}", rfc3339(through_us)));
        return Ok(());
    }
    db.close_ledger(through_us, now_us).await?;
    say(format!("the books are closed until {}", rfc3339(through_us)));
    Ok(())
}

async fn verify(db: &Db, as_json: bool) -> Result<()> {
    let report = db.verify_ledger().await?;
    if as_json {
        say(json!({
            "journals": report.journals, "postings": report.postings, "accounts": report.accounts,
            "head": report.head, "trial": report.trial, "wrong": report.wrong, "differences": report.differences,
        }));
    } else {
        let (journals, postings, accounts) = (report.journals, report.postings, report.accounts);
        say(format!("{journals} journals, {postings} postings, {accounts} accounts; head {}", report.head));
        report.differences.iter().for_each(|difference| say(format!("  {difference}")));
    }
    match report.wrong {
        0 => Ok(()),
        wrong => Err(Error::internal(format!(
            "the ledger differs from its postings in {wrong} places; stop posting, keep this database, and compare it \
             with a backup (docs/OPERATIONS.md, \"The ledger\")"
        ))),
    }
}

async fn trial_balance(db: &Db, as_of: AsOf, as_json: bool) -> Result<()> {
    let lines = db.trial_balance(as_of).await?;
    let mut totals: BTreeMap<Currency, (i64, i64)> = BTreeMap::new();
    for line in &lines {
        let total = totals.entry(line.account.currency).or_default();
        total.0 += line.debits;
        total.1 += line.credits;
    }
    if as_json {
        let accounts: Vec<_> = lines.iter().map(view).collect();
        let totals: BTreeMap<_, _> = totals
            .iter()
            .map(|(currency, (debits, credits))| {
                (currency.to_string(), json!({ "debits": debits, "credits": credits }))
            })
            .collect();
        say(json!({ "accounts": accounts, "totals": totals }));
    } else {
        let width = lines.iter().map(|line| line.account.code.as_str().len()).max().unwrap_or(0).max(12);
        say(format!("{:width$}  {:>20}  {:>20}", "account", "debits", "credits"));
        for Line { account, debits, credits } in &lines {
            let (debits, credits) = (account.currency.written(*debits), account.currency.written(*credits));
            say(format!("{:width$}  {debits:>20}  {credits:>20}  {}", account.code.as_str(), account.currency));
        }
        for (currency, (debits, credits)) in &totals {
            let (debits, credits) = (currency.written(*debits), currency.written(*credits));
            say(format!("{:width$}  {debits:>20}  {credits:>20}  {currency}", "total"));
        }
    }
    match totals.iter().find(|(_, (debits, credits))| debits != credits) {
        None => Ok(()),
        Some((currency, (debits, credits))) => Err(Error::internal(format!(
            "the ledger does not balance: {} minor units of {currency} more {} than {}; run 'segue ledger verify'",
            debits.abs_diff(*credits),
            if debits > credits { "debits" } else { "credits" },
            if debits > credits { "credits" } else { "debits" },
        ))),
    }
}

fn view(line: &Line) -> serde_json::Value {
    let account = &line.account;
    json!({
        "account": account.code.as_str(), "kind": account.kind.as_str(), "currency": account.currency.code(),
        "debits": line.debits, "credits": line.credits,
    })
}
