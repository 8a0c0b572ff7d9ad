//! What runs beside requests: deliveries are processed, sellers are paid and paid back, everything that is open is swept,
//! and how it all stands is shown. Sweeps and payouts are done by one process at a time, which holds a lease in the
//! database; when it dies another takes over.

use std::pin::Pin;
use std::time::{Duration, Instant};

use metrics::{counter, gauge};

use super::Payments;
use super::sweep::Swept;
use crate::base::shutdown::{Phase, Shutdown};
use crate::base::{Result, telemetry};
use crate::db::health::Health;
use crate::workers::supervisor::{Duty, Turns};

/// How often deliveries are looked for.
const WEBHOOKS_EVERY: Duration = Duration::from_secs(1);
/// How often transfers, reversals and renewals are looked for (control.md §4).
const PAYOUT_EVERY: Duration = Duration::from_secs(60);
/// How often gauges are sampled (control.md §8).
const SAMPLE_EVERY: Duration = Duration::from_secs(60);
/// How often the ledger is computed again as long as that is quick.
const AUDIT_EVERY: Duration = Duration::from_secs(60);
/// How much longer than a look the rest after it is.
const AUDIT_RESTS: u32 = 30;
/// … and how long at most.
const AUDIT_REST_MAX: Duration = Duration::from_secs(3600);
/// A day in microseconds.
const DAY_US: i64 = 86_400_000_000;
/// Deliveries forgotten at once, and the pause between two times.
const FORGET: (i64, Duration) = (10_000, Duration::from_millis(200));

/// What every worker here stands on.
#[derive(Clone, Debug)]
pub struct At {
    /// The flows.
    pub payments: Payments,
    /// What this process is called.
    pub who: String,
    /// How long deliveries are kept.
    pub keep: Duration,
    /// When to stop.
    pub shutdown: Shutdown,
}

/// A worker that has not begun.
pub type Work = fn(At, Duty) -> Pin<Box<dyn Future<Output = ()> + Send>>;

/// Everything that there is to do with these flows: its name, how often, and what does it.
pub fn all(payments: &Payments) -> Vec<(&'static str, Duration, Work)> {
    let always: [(&'static str, Duration, Work); 2] = [
        ("money-sampler", SAMPLE_EVERY, |at, duty| Box::pin(sampler(at, duty))),
        ("auditor", AUDIT_EVERY, |at, duty| Box::pin(auditor(at, duty))),
    ];
    let mut all = Vec::from(always);
    if payments.hyperswitch.is_some() {
        all.push(("webhooks", WEBHOOKS_EVERY, |at, duty| Box::pin(webhooks(at, duty))));
        all.push(("reconciler", payments.options.sweep_every, |at, duty| Box::pin(reconciler(at, duty))));
        all.push(("renewals", PAYOUT_EVERY, |at, duty| Box::pin(renewals(at, duty))));
    }
    if payments.stripe.is_some() {
        all.push(("transfers", PAYOUT_EVERY, |at, duty| Box::pin(transfers(at, duty))));
        all.push(("reversals", PAYOUT_EVERY, |at, duty| Box::pin(reversals(at, duty))));
    }
    all
}

impl At {
    /// Turns of each process.
    fn turns(&self, duty: &Duty) -> Turns {
        Turns::new(duty.clone(), self.shutdown.clone())
    }

    /// Turns of one process at a time.
    fn alone(&self, duty: &Duty) -> Turns {
        Turns::alone(duty.clone(), self.shutdown.clone(), (self.payments.db.clone(), self.who.clone()))
    }
}

/// Says what did not work; the next turn tries again.
fn tried(duty: &Duty, name: &'static str, done: Result<()>) {
    duty.ended(&done);
    if let Err(error) = done {
        tracing::warn!(error = error.chain(), name, "work on money failed; trying again");
    }
}

/// Processes deliveries.
async fn webhooks(at: At, duty: Duty) {
    let mut turns = at.turns(&duty);
    while turns.next().await {
        loop {
            match at.payments.process_webhooks().await {
                Ok(taken) if taken > 0 && at.shutdown.phase() == Phase::Running => {}
                done => break tried(&duty, "webhooks", done.map(drop)),
            }
        }
    }
}

/// Makes transfers.
async fn transfers(at: At, duty: Duty) {
    let mut turns = at.alone(&duty);
    while turns.next().await {
        tried(&duty, "transfers", at.payments.transfer_due().await.map(drop));
    }
}

/// Renews subscriptions.
async fn renewals(at: At, duty: Duty) {
    let mut turns = at.alone(&duty);
    while turns.next().await {
        tried(&duty, "renewals", at.payments.renew_due().await.map(drop));
    }
}

/// Has transfers come back.
async fn reversals(at: At, duty: Duty) {
    let mut turns = at.alone(&duty);
    while turns.next().await {
        tried(&duty, "reversals", at.payments.reverse_due().await.map(drop));
    }
}

/// Sweeps.
async fn reconciler(at: At, duty: Duty) {
    let payments = &at.payments;
    gauge!(telemetry::SWEEP_LAST).set(payments.clock.unix_s() as f64); // it has begun
    let mut turns = at.alone(&duty);
    while turns.next().await {
        let begun = Instant::now();
        let swept = payments.sweep().await;
        if let Ok(swept) = &swept {
            show(swept);
            gauge!(telemetry::SWEEP_SECONDS).set(begun.elapsed().as_secs_f64());
            gauge!(telemetry::SWEEP_LAST).set(payments.clock.unix_s() as f64);
        }
        tried(&duty, "reconciler", swept.map(drop));
        tried(&duty, "comparison", compare(payments).await);
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
    let done = payments.compare_last_days().await;
    if done.is_err() {
        payments.db.release(&nobody).await?; // the next sweep tries again
    }
    let compared = done?;
    counter!(telemetry::SWEEP_ACTIONS, "phase" => "comparison").increment(compared.moved);
    gauge!(telemetry::DISCREPANCIES, "kind" => "strange").set(compared.strange as f64);
    gauge!(telemetry::DISCREPANCIES, "kind" => "missing").set(compared.missing as f64);
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
    let Swept { payments, refunds, orphans, disputes, given_back, subscriptions } = swept;
    for (phase, moved) in [
        ("payments", payments.moved),
        ("refunds", refunds.moved),
        ("orphans", orphans.moved),
        ("disputes", disputes.moved),
        ("given_back", given_back.moved),
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
        unread = payments.unread + refunds.unread + orphans.unread + disputes.unread + given_back.unread,
        "swept what is open for too long"
    );
}

/// Computes the ledger again, and forgets old deliveries. Both looks take time with the number of journals: they rest thirty
/// times as long as they took, and so cost three hundredths of a core at most; an hour at most.
async fn auditor(at: At, duty: Duty) {
    let mut turns = at.alone(&duty);
    let (mut next, mut told) = (Instant::now(), None);
    while turns.next().await {
        let begun = Instant::now();
        if begun >= next {
            tried(&duty, "auditor", clear(&at.payments).await);
            tried(&duty, "auditor", audit(&at.payments, &mut told).await);
            next = Instant::now() + (begun.elapsed() * AUDIT_RESTS).min(AUDIT_REST_MAX);
        }
        tried(&duty, "auditor", forget(&at.payments, at.keep).await);
    }
}

async fn clear(payments: &Payments) -> Result<()> {
    let off = payments.db.clearing_difference().await;
    // Of no currency: whether anybody could look.
    gauge!(telemetry::CLEARING_DIFFERENCE, "currency" => "XXX").set(if off.is_ok() { 0.0 } else { -1.0 });
    for (currency, minor) in off? {
        gauge!(telemetry::CLEARING_DIFFERENCE, "currency" => currency.clone()).set(minor as f64);
        if minor != 0 {
            tracing::error!(currency, minor, "the ledger and its payments, refunds and transfers differ");
        }
    }
    Ok(())
}

async fn audit(payments: &Payments, told: &mut Option<Instant>) -> Result<()> {
    let report = payments.db.verify_ledger().await;
    let valid = report.as_ref().map_or(-1.0, |report| if report.wrong == 0 { 1.0 } else { 0.0 });
    gauge!(telemetry::CHAIN_VALID).set(valid);
    let report = report?;
    gauge!(telemetry::VERIFIED_LAST).set(payments.clock.unix_s() as f64);
    match report.wrong {
        // Once an hour the end of the chain is in the log, where nobody who changes the database changes it.
        0 if told.is_some_and(|at| at.elapsed() < AUDIT_REST_MAX) => {}
        0 => {
            *told = Some(Instant::now());
            tracing::info!(journals = report.journals, head = report.head, "the ledger is what its postings say");
        }
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
    for phase in ["payments", "refunds", "orphans", "disputes", "given_back", "subscriptions", "comparison"] {
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
        telemetry::OPEN_INVOICES,
        telemetry::STUCK_INVOICES,
        telemetry::VERIFIED_LAST,
        telemetry::WEBHOOKS_WAITING,
        telemetry::WEBHOOKS_AGE,
        telemetry::FAILED_TRANSFERS,
        telemetry::PENDING_REVERSALS,
        telemetry::MONEY_ALARMS,
        telemetry::UNSEALED,
        telemetry::SWEEP_SECONDS,
        telemetry::SWEEP_LAST,
    ] {
        gauge!(name).set(0.0);
    }
    for kind in ["strange", "missing"] {
        gauge!(telemetry::DISCREPANCIES, "kind" => kind).set(0.0);
    }
    gauge!(telemetry::TRIAL_BALANCE, "currency" => "XXX").set(0.0);
    gauge!(telemetry::CLEARING_DIFFERENCE, "currency" => "XXX").set(0.0);
    gauge!(telemetry::CHAIN_VALID).set(-1.0); // nobody has looked
}

/// Shows how the money stands. What cannot be read is -1, not its last value.
async fn sampler(at: At, duty: Duty) {
    let payments = &at.payments;
    let mut currencies: Vec<String> = vec!["XXX".into()];
    let mut turns = at.turns(&duty);
    while turns.next().await {
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
        let of = |value: fn(&Health) -> i64| health.as_ref().map_or(-1.0, |h| value(h) as f64);
        gauge!(telemetry::ORPHAN_REFUNDS).set(of(|h| h.orphan_refund_rows));
        gauge!(telemetry::STUCK_ORDERS).set(of(|h| h.stuck_orders_pending));
        gauge!(telemetry::STUCK_REFUNDS).set(of(|h| h.stuck_refunds_pending));
        gauge!(telemetry::OPEN_INVOICES).set(of(|h| h.open_invoices));
        gauge!(telemetry::STUCK_INVOICES).set(of(|h| h.stuck_invoices_open));
        gauge!(telemetry::FAILED_TRANSFERS).set(of(|h| h.failed_transfers_at_max_retry));
        gauge!(telemetry::PENDING_REVERSALS).set(of(|h| h.reversal_pending_transfers));
        gauge!(telemetry::MONEY_ALARMS).set(of(|h| h.alarms));
        gauge!(telemetry::WEBHOOKS_WAITING).set(of(|h| h.webhooks_waiting));
        let now_us = payments.now_us();
        let age_s = |h: &Health| h.webhooks_since_us.map_or(0.0, |us| (now_us - us).max(0) as f64 / 1e6);
        gauge!(telemetry::WEBHOOKS_AGE).set(health.as_ref().map_or(-1.0, age_s));
        gauge!(telemetry::UNSEALED).set(of(|h| h.unsealed_journals));
        for currency in &currencies {
            let off = health.as_ref().map_or(-1, |h| h.trial_balance_minor_units.get(currency).copied().unwrap_or(0));
            gauge!(telemetry::TRIAL_BALANCE, "currency" => currency.clone()).set(off as f64);
        }
        tried(&duty, "money-sampler", health.map(drop));
    }
}
