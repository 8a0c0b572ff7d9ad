//! What runs beside requests: deliveries are processed, sellers are paid and paid back, everything that is open is swept,
//! and how it all stands is shown. Sweeps and payouts are done by one process at a time, which holds a lease in the
//! database; when it dies another takes over.

use std::time::{Duration, Instant};

use metrics::{counter, gauge};
use tokio::time::{Interval, MissedTickBehavior};

use super::Payments;
use super::sweep::Swept;
use crate::base::shutdown::{Phase, Shutdown};
use crate::base::{Result, telemetry};

/// How often deliveries are looked for.
const WEBHOOKS_EVERY: Duration = Duration::from_secs(1);
/// How often transfers, reversals and renewals are looked for (control.md §4).
const PAYOUT_EVERY: Duration = Duration::from_secs(60);
/// How often gauges are sampled (control.md §8).
const SAMPLE_EVERY: Duration = Duration::from_secs(60);
/// How often everything in the ledger is computed again, and old deliveries are forgotten.
const AUDIT_EVERY: Duration = Duration::from_secs(3600);
/// A day in microseconds.
const DAY_US: i64 = 86_400_000_000;
/// Deliveries forgotten at once, and the pause between two times.
const FORGET: (i64, Duration) = (10_000, Duration::from_millis(200));

/// Turns to do something, one after the other, until the process drains.
struct Turns {
    ticks: Interval,
    /// The name of a lease without which there is no turn, and for how long it is kept, in microseconds.
    alone: Option<(&'static str, i64)>,
    who: String,
    shutdown: Shutdown,
}

impl Turns {
    fn new(period: Duration, alone: Option<&'static str>, who: String, shutdown: Shutdown) -> Turns {
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Turns { ticks, alone: alone.map(|name| (name, 3 * period.as_micros() as i64)), who, shutdown }
    }

    /// Waits for the next turn of this process; false: there is none any more.
    async fn next(&mut self, payments: &Payments) -> bool {
        loop {
            tokio::select! {
                _ = self.ticks.tick() => {}
                () = self.shutdown.reached(Phase::Draining) => return false,
            }
            let Some((name, keep_us)) = self.alone else { return true };
            let now_us = payments.now_us();
            match payments.db.hold(name, &self.who, now_us, now_us + keep_us).await {
                Ok(true) => return true,
                Ok(false) => {}
                Err(error) => tracing::warn!(error = error.chain(), name, "cannot take turns; trying again"),
            }
        }
    }
}

/// Says what did not work; the next turn tries again.
fn tried(name: &'static str, done: Result<()>) {
    if let Err(error) = done {
        tracing::warn!(error = error.chain(), name, "work on money failed; trying again");
    }
}

/// Processes deliveries.
pub async fn webhooks(payments: Payments, shutdown: Shutdown) {
    let mut turns = Turns::new(WEBHOOKS_EVERY, None, String::new(), shutdown.clone());
    while turns.next(&payments).await {
        loop {
            match payments.process_webhooks().await {
                Ok(taken) if taken > 0 && shutdown.phase() == Phase::Running => {}
                done => break tried("webhooks", done.map(drop)),
            }
        }
    }
}

/// Makes transfers.
pub async fn transfers(payments: Payments, who: String, shutdown: Shutdown) {
    let mut turns = Turns::new(PAYOUT_EVERY, Some("transfers"), who.clone(), shutdown);
    while turns.next(&payments).await {
        tried("transfers", payments.transfer_due().await.map(drop));
    }
    let _ = payments.db.release(&who).await; // or its term ends
}

/// Renews subscriptions.
pub async fn renewals(payments: Payments, who: String, shutdown: Shutdown) {
    let mut turns = Turns::new(PAYOUT_EVERY, Some("renewals"), who, shutdown);
    while turns.next(&payments).await {
        tried("renewals", payments.renew_due().await.map(drop));
    }
}

/// Has transfers come back.
pub async fn reversals(payments: Payments, who: String, shutdown: Shutdown) {
    let mut turns = Turns::new(PAYOUT_EVERY, Some("reversals"), who, shutdown);
    while turns.next(&payments).await {
        tried("reversals", payments.reverse_due().await.map(drop));
    }
}

/// Sweeps.
pub async fn reconciler(payments: Payments, who: String, shutdown: Shutdown) {
    gauge!(telemetry::SWEEP_LAST).set(payments.clock.unix_s() as f64); // it has begun
    let mut turns = Turns::new(payments.options.sweep_every, Some("reconciler"), who, shutdown);
    while turns.next(&payments).await {
        let begun = Instant::now();
        let swept = payments.sweep().await;
        if let Ok(swept) = &swept {
            show(swept);
            gauge!(telemetry::SWEEP_SECONDS).set(begun.elapsed().as_secs_f64());
            gauge!(telemetry::SWEEP_LAST).set(payments.clock.unix_s() as f64);
        }
        tried("reconciler", swept.map(drop));
        tried("comparison", compare(&payments).await);
    }
}

/// Once a day, whoever sweeps compares the last days both ways: a provider repeats a webhook for one.
async fn compare(payments: &Payments) -> Result<()> {
    let now_us = payments.now_us();
    // A lease that nobody keeps: whoever has it next has it a day later.
    let nobody = format!("comparison-{now_us}");
    if !payments.db.hold("comparison", &nobody, now_us, now_us + DAY_US).await? {
        return Ok(());
    }
    let done = payments.compare(now_us - 3 * DAY_US, now_us).await;
    if done.is_err() {
        payments.db.release(&nobody).await?; // the next sweep tries again
    }
    let compared = done?;
    counter!(telemetry::SWEEP_ACTIONS, "phase" => "comparison").increment(compared.moved);
    tracing::info!(
        looked = compared.looked,
        moved = compared.moved,
        strange = compared.strange,
        missing = compared.missing,
        "compared with the provider, both ways"
    );
    Ok(())
}

fn show(swept: &Swept) {
    let Swept { payments, refunds, orphans, disputes, subscriptions } = swept;
    for (phase, moved) in [
        ("payments", payments.moved),
        ("refunds", refunds.moved),
        ("orphans", orphans.moved),
        ("disputes", disputes.moved),
        ("subscriptions", *subscriptions),
    ] {
        counter!(telemetry::SWEEP_ACTIONS, "phase" => phase).increment(moved);
    }
    counter!(telemetry::SWEEP_ORPHANS).increment(orphans.moved);
    tracing::info!(
        payments = payments.looked,
        refunds = refunds.looked,
        orphans = orphans.looked,
        disputes = disputes.looked,
        unread = payments.unread + refunds.unread + orphans.unread + disputes.unread,
        "swept what is open for too long"
    );
}

/// Computes the ledger again, and forgets old deliveries.
pub async fn auditor(payments: Payments, who: String, keep: Duration, shutdown: Shutdown) {
    let mut turns = Turns::new(AUDIT_EVERY, Some("auditor"), who, shutdown);
    while turns.next(&payments).await {
        tried("auditor", audit(&payments).await);
        tried("auditor", forget(&payments, keep).await);
    }
}

async fn audit(payments: &Payments) -> Result<()> {
    let off = payments.db.clearing_difference().await;
    for (currency, minor) in off.as_ref().into_iter().flatten() {
        gauge!(telemetry::CLEARING_DIFFERENCE, "currency" => currency.clone()).set(*minor as f64);
        if *minor != 0 {
            tracing::error!(currency, minor, "the ledger and its payments, refunds and transfers differ");
        }
    }
    if off.is_err() {
        gauge!(telemetry::CLEARING_DIFFERENCE, "currency" => "XXX").set(-1.0);
    }
    off?;
    let report = payments.db.verify_ledger().await;
    let valid = report.as_ref().map_or(-1.0, |report| if report.wrong == 0 { 1.0 } else { 0.0 });
    gauge!(telemetry::CHAIN_VALID).set(valid);
    let report = report?;
    match report.wrong {
        // Once an hour the end of the chain is in the log, where nobody who changes the database changes it.
        0 => tracing::info!(journals = report.journals, head = report.head, "the ledger is what its postings say"),
        wrong => tracing::error!(wrong, first = report.differences.first(), "the ledger differs from its postings"),
    }
    Ok(())
}

async fn forget(payments: &Payments, keep: Duration) -> Result<()> {
    let before_us = payments.now_us() - keep.as_micros() as i64;
    while payments.db.forget_webhooks(before_us, FORGET.0).await? > 0 {
        tokio::time::sleep(FORGET.1).await;
    }
    Ok(())
}

/// Shows every metric before anybody has looked: a rate needs a zero to begin at.
pub fn show_all() {
    for phase in ["payments", "refunds", "orphans", "disputes", "subscriptions", "comparison"] {
        counter!(telemetry::SWEEP_ACTIONS, "phase" => phase).increment(0);
    }
    for result in ["accepted", "unsigned", "malformed"] {
        counter!(telemetry::WEBHOOKS, "result" => result).increment(0);
    }
    counter!(telemetry::SWEEP_ORPHANS).increment(0);
    counter!(telemetry::DISPUTES).increment(0);
    for name in [
        telemetry::ORPHAN_REFUNDS,
        telemetry::STUCK_ORDERS,
        telemetry::STUCK_REFUNDS,
        telemetry::FAILED_TRANSFERS,
        telemetry::PENDING_REVERSALS,
        telemetry::MONEY_ALARMS,
        telemetry::UNSEALED,
        telemetry::SWEEP_SECONDS,
        telemetry::SWEEP_LAST,
    ] {
        gauge!(name).set(0.0);
    }
    gauge!(telemetry::TRIAL_BALANCE, "currency" => "XXX").set(0.0);
    gauge!(telemetry::CLEARING_DIFFERENCE, "currency" => "XXX").set(0.0);
    gauge!(telemetry::CHAIN_VALID).set(-1.0); // nobody has looked
}

/// Shows how the money stands. What cannot be read is -1, not its last value.
pub async fn sampler(payments: Payments, shutdown: Shutdown) {
    let mut currencies: Vec<String> = vec!["XXX".into()];
    let mut turns = Turns::new(SAMPLE_EVERY, None, String::new(), shutdown);
    while turns.next(&payments).await {
        if payments.hyperswitch.is_none() {
            // There is nothing to sweep: it is never too long ago.
            gauge!(telemetry::SWEEP_LAST).set(payments.clock.unix_s() as f64);
        }
        let health = payments.health().await;
        if let Ok(health) = &health {
            let new = health.trial_balance_minor_units.keys().filter(|code| !currencies.contains(code));
            let new: Vec<String> = new.cloned().collect();
            currencies.extend(new);
        }
        let of = |value: fn(&crate::db::health::Health) -> i64| health.as_ref().map_or(-1.0, |h| value(h) as f64);
        gauge!(telemetry::ORPHAN_REFUNDS).set(of(|h| h.orphan_refund_rows));
        gauge!(telemetry::STUCK_ORDERS).set(of(|h| h.stuck_orders_pending));
        gauge!(telemetry::STUCK_REFUNDS).set(of(|h| h.stuck_refunds_pending));
        gauge!(telemetry::FAILED_TRANSFERS).set(of(|h| h.failed_transfers_at_max_retry));
        gauge!(telemetry::PENDING_REVERSALS).set(of(|h| h.reversal_pending_transfers));
        gauge!(telemetry::MONEY_ALARMS).set(of(|h| h.alarms));
        gauge!(telemetry::UNSEALED).set(of(|h| h.unsealed_journals));
        for currency in &currencies {
            let off = health.as_ref().map_or(-1, |h| h.trial_balance_minor_units.get(currency).copied().unwrap_or(0));
            gauge!(telemetry::TRIAL_BALANCE, "currency" => currency.clone()).set(off as f64);
        }
        tried("money-sampler", health.map(drop));
    }
}
