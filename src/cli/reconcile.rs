//! `segue reconcile`: one sweep over everything that is open, beside the servers.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::jobs::beside_with;
use super::{Settings, say};
use crate::app;
use crate::base::{Error, Result, telemetry};
use crate::payments::sweep::Compared;

/// Look at every payment and refund that is open for too long, compare the last three days both ways, and believe what the
/// provider has.
#[derive(Args, Debug)]
#[command(after_help = "Safe to run at any time: what was swept before is not changed again.")]
pub(super) struct ReconcileArgs {
    /// One sweep; servers sweep every payments.sweep_s by themselves.
    #[arg(long, required = true)]
    once: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Settings,
}

pub(super) fn run(args: &ReconcileArgs) -> Result<ExitCode> {
    beside_with(&args.settings, async |config, db| {
        // What a server would log of it, from warnings up: an orphan that failed is an error.
        let _telemetry =
            telemetry::start(&telemetry::Options { filter: "warn".into(), ..app::telemetry_options(config) })?;
        let payments = app::payments::payments(config, &db);
        if payments.hyperswitch.is_none() {
            return Err(Error::usage("there is no provider to ask; set payments.enabled to true, and its keys"));
        }
        let swept = payments.sweep().await?;
        // What is over here may have changed there: only a comparison finds it.
        let compared = payments.compare_last_days().await;
        if args.json {
            let mut said = json!(swept);
            if let (Some(fields), Ok(compared)) = (said.as_object_mut(), &compared) {
                fields.insert("compared".into(), json!(compared));
            }
            say(said);
        } else {
            for (what, phase) in [
                ("payments", swept.payments),
                ("refunds", swept.refunds),
                ("orphan refunds", swept.orphans),
                ("disputes", swept.disputes),
                ("payments to give back", swept.given_back),
            ] {
                say(format!("{what}: {} looked at, {} moved, {} not read", phase.looked, phase.moved, phase.unread));
            }
            say(format!("subscriptions: {} ended", swept.subscriptions));
            if let Ok(Compared { looked, moved, strange, missing }) = &compared {
                say(format!(
                    "compared both ways: {looked} looked at, {moved} moved, {strange} that are not ours, {missing} that are not there"
                ));
            }
        }
        let phases = [swept.payments, swept.refunds, swept.orphans, swept.disputes, swept.given_back];
        match phases.iter().map(|phase| phase.unread).sum::<u64>() {
            0 => compared.map(drop),
            unread => Err(Error::internal(format!(
                "{unread} rows could not be looked at: the provider did not answer; they wait for the next sweep"
            ))),
        }
    })
}
