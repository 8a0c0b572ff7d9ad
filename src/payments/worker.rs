//! What runs beside requests: deliveries are processed, sellers are paid and paid back, everything that is open is swept,
//! and how it all stands is shown. Sweeps and payouts are done by one process at a time, which holds a lease in the
//! database; when it dies another takes over.

use std::time::{Duration, Instant};

use metrics::{counter, gauge};
use tokio::time::MissedTickBehavior;

use super::Payments;
use super::sweep::Swept;
use crate::base::shutdown::{Phase, Shutdown};
use crate::base::{Result, telemetry};

/// How often deliveries are looked for.
const WEBHOOKS_EVERY: Duration = Duration::from_secs(1);
/// How often transfers and reversals are looked for (control.md §4).
const PAYOUT_EVERY: Duration = Duration::from_secs(60);
/// How often gauges are sampled (control.md §8).
const SAMPLE_EVERY: Duration = Duration::from_secs(60);
/// How often everything in the ledger is computed again, and old deliveries are forgotten.
const AUDIT_EVERY: Duration = Duration::from_secs(3600);
/// Deliveries forgotten at once, and the pause between two times.
const FORGET: (i64, Duration) = (10_000, Duration::from_millis(200));

/// Does something again and again, until the process drains. `alone`: the name of a lease without which it is not done.
async fn every(
    payments: &Payments,
    (period, alone, who): (Duration, Option<&str>, &str),
    mut shutdown: Shutdown,
    mut work: impl AsyncFnMut() -> Result<()>,
) {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.reached(Phase::Draining) => return,
        }
        let done = async {
            if let Some(name) = alone {
                let now_us = payments.now_us();
                let until_us = now_us + 3 * period.as_micros() as i64;
                if !payments.db.hold(name, who, now_us, until_us).await? {
                    return Ok(());
                }
            }
            work().await
        };
        if let Err(error) = done.await {
            tracing::warn!(
                error = error.chain(),
                name = alone.unwrap_or("money"),
                "work on money failed; trying again"
            );
        }
    }
}

/// Processes deliveries.
pub async fn webhooks(payments: Payments, shutdown: Shutdown) {
    every(&payments, (WEBHOOKS_EVERY, None, ""), shutdown.clone(), async || {
        while payments.process_webhooks().await? > 0 && shutdown.phase() == Phase::Running {}
        Ok(())
    })
    .await;
}

/// Makes transfers.
pub async fn transfers(payments: Payments, who: String, shutdown: Shutdown) {
    every(&payments, (PAYOUT_EVERY, Some("transfers"), &who), shutdown, async || {
        payments.transfer_due().await.map(drop)
    })
    .await;
    let _ = payments.db.release(&who).await; // or its term ends
}

/// Has transfers come back.
pub async fn reversals(payments: Payments, who: String, shutdown: Shutdown) {
    every(&payments, (PAYOUT_EVERY, Some("reversals"), &who), shutdown, async || {
        payments.reverse_due().await.map(drop)
    })
    .await;
}

/// Sweeps.
pub async fn reconciler(payments: Payments, who: String, shutdown: Shutdown) {
    gauge!(telemetry::SWEEP_LAST).set(payments.clock.unix_s() as f64); // it has begun
    let period = payments.options.sweep_every;
    every(&payments, (period, Some("reconciler"), &who), shutdown, async || {
        let begun = Instant::now();
        let swept = payments.sweep().await?;
        show(&swept);
        gauge!(telemetry::SWEEP_SECONDS).set(begun.elapsed().as_secs_f64());
        gauge!(telemetry::SWEEP_LAST).set(payments.clock.unix_s() as f64);
        Ok(())
    })
    .await;
}

fn show(swept: &Swept) {
    let Swept { payments, refunds, orphans, subscriptions } = swept;
    for (phase, moved) in [
        ("payments", payments.moved),
        ("refunds", refunds.moved),
        ("orphans", orphans.moved),
        ("subscriptions", *subscriptions),
    ] {
        counter!(telemetry::SWEEP_ACTIONS, "phase" => phase).increment(moved);
    }
    counter!(telemetry::SWEEP_ORPHANS).increment(orphans.moved);
    tracing::info!(
        payments = payments.looked,
        refunds = refunds.looked,
        orphans = orphans.looked,
        unread = payments.unread + refunds.unread + orphans.unread,
        "swept what is open for too long"
    );
}

/// Computes the ledger again, and forgets old deliveries.
pub async fn auditor(payments: Payments, who: String, keep: Duration, shutdown: Shutdown) {
    every(&payments, (AUDIT_EVERY, Some("auditor"), &who), shutdown, async || {
        let report = payments.db.verify_ledger().await;
        let valid = report.as_ref().map_or(-1.0, |report| if report.wrong == 0 { 1.0 } else { 0.0 });
        gauge!(telemetry::CHAIN_VALID).set(valid);
        let report = report?;
        match report.wrong {
            // Once an hour the end of the chain is in the log, where nobody who changes the database changes it.
            0 => tracing::info!(journals = report.journals, head = report.head, "the ledger is what its postings say"),
            wrong => tracing::error!(wrong, first = report.differences.first(), "the ledger differs from its postings"),
        }
        let before_us = payments.now_us() - keep.as_micros() as i64;
        while payments.db.forget_webhooks(before_us, FORGET.0).await? > 0 {
            tokio::time::sleep(FORGET.1).await;
        }
        Ok(())
    })
    .await;
}

/// Shows how the money stands. What cannot be read is -1, not its last value.
pub async fn sampler(payments: Payments, shutdown: Shutdown) {
    for phase in ["payments", "refunds", "orphans", "subscriptions"] {
        counter!(telemetry::SWEEP_ACTIONS, "phase" => phase).increment(0);
    }
    for result in ["accepted", "unsigned", "malformed"] {
        counter!(telemetry::WEBHOOKS, "result" => result).increment(0);
    }
    counter!(telemetry::SWEEP_ORPHANS).increment(0);
    counter!(telemetry::DISPUTES).increment(0);
    // Whoever does not sweep or audit says nothing about it.
    for name in [telemetry::SWEEP_SECONDS, telemetry::SWEEP_LAST] {
        gauge!(name).increment(0.0);
    }
    gauge!(telemetry::CHAIN_VALID).set(1.0); // until somebody has looked
    let mut currencies: Vec<String> = vec!["XXX".into()];
    every(&payments, (SAMPLE_EVERY, None, ""), shutdown, async || {
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
        health.map(drop)
    })
    .await;
}
