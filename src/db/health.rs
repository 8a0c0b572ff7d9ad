//! How the money stands, for gauges and people: what is open for too long, and whether the books balance.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Db;
use super::conn::args;
use crate::base::Result;
use crate::ledger::transfer::TRIES_MAX;

/// How the money stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Health {
    /// Refunds of which nobody knows whether the provider has them.
    pub orphan_refund_rows: i64,
    /// Orders that wait for their payment although a sweep has looked.
    pub stuck_orders_pending: i64,
    /// Refunds that wait although a sweep has looked.
    pub stuck_refunds_pending: i64,
    /// Invoices whose payment nobody knows the end of.
    pub open_invoices: i64,
    /// … and those that have been so for longer than a subscription waits for one.
    pub stuck_invoices_open: i64,
    /// Transfers that were tried as often as they are, or that nobody tries any more.
    pub failed_transfers_at_max_retry: i64,
    /// Transfers that have to come back.
    pub reversal_pending_transfers: i64,
    /// Payments and refunds at the provider that are not what we asked for.
    pub alarms: i64,
    /// Deliveries of providers that were taken and not processed yet.
    pub webhooks_waiting: i64,
    /// When the oldest of them came, in microseconds since 1970.
    pub webhooks_since_us: Option<i64>,
    /// Journals that are in no chain.
    pub unsealed_journals: i64,
    /// Posted debits less credits of each currency, from the postings themselves: 0 in books that balance.
    pub trial_balance_minor_units: BTreeMap<String, i64>,
}

/// Since when something is open for too long, in microseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub struct Since {
    /// Payments.
    pub payments_us: i64,
    /// Refunds that the provider has.
    pub refunds_us: i64,
    /// Refunds of which nobody knows.
    pub orphans_us: i64,
    /// Invoices.
    pub invoices_us: i64,
}

impl Db {
    /// What the ledger says that the provider holds for us, less what payments, refunds, transfers, disputes and bookings
    /// by hand say: by currency, in minor units; all of them 0 while each has its journal. Reads every row of them.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn clearing_difference(&self) -> Result<BTreeMap<String, i64>> {
        let mut tx = self.begin_read().await?;
        let rows = tx
            .all(
                "select currency, cast(sum(minor) as bigint) as off from (
                   select a.currency, b.debits - b.credits as minor from ledger_account a
                     join ledger_balance b on b.account_id = a.id
                     where a.code in ('psp:clearing:' || a.currency, 'platform:provider_fees:' || a.currency)
                   union all select currency, -total_minor from sale_order where paid_us is not null
                   union all select currency, -amount_minor from invoice where status = 'paid'
                   union all select p.currency, r.amount_minor from refund r join payment p on p.id = r.payment_id
                     where r.status = 'succeeded'
                   union all select currency, amount_minor - reversed_minor from transfer
                     where provider_transfer_id is not null
                   union all select currency, amount_minor from dispute where status = 'lost'
                   union all select currency, amount_minor from hand_payout) moved
                 group by currency order by currency limit 200",
                args![],
            )
            .await?;
        rows.iter().map(|row| Ok((row.text("currency")?, row.int("off")?))).collect()
    }

    /// How the money stands.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn money_health(&self, since: Since) -> Result<Health> {
        let mut tx = self.begin_read().await?;
        let row = tx
            .first(
                "select
                   (select count(*) from refund where status = 'pending' and known_us is null and created_us < $3) as orphans,
                   (select count(*) from sale_order where status in ('created', 'pending_payment') and created_us < $1) as orders,
                   (select count(*) from refund where status = 'pending' and known_us is not null and created_us < $2) as refunds,
                   (select count(*) from invoice where status = 'open') as invoices,
                   (select count(*) from invoice where status = 'open' and created_us < $5) as old_invoices,
                   (select count(*) from transfer t where status = 'permanently_failed'
                      and due_back_minor < amount_minor and exists (
                      select 1 from sale_order o where o.id = t.order_id and o.status <> 'refunded')) as lost,
                   (select count(*) from transfer where status in ('pending', 'failed') and tries >= $4) as tired,
                   (select count(*) from transfer where status = 'completed' and due_back_minor > reversed_minor
                      and next_attempt_at_us is null) as given_up,
                   (select count(*) from transfer where status = 'reversal_pending' or (status = 'completed'
                      and due_back_minor > reversed_minor and next_attempt_at_us is not null)) as reversals,
                   (select count(*) from payment where alarm is not null)
                     + (select count(*) from dispute where alarm is not null) as payments,
                   (select count(*) from webhook_delivery where next_us is not null) as deliveries,
                   (select min(received_us) from webhook_delivery where next_us is not null) as delivered_us,
                   (select count(*) from refund where alarm is not null) as alarmed",
                args![since.payments_us, since.refunds_us, since.orphans_us, TRIES_MAX, since.invoices_us],
            )
            .await?;
        let mut health = Health::default();
        if let Some(row) = row {
            health.orphan_refund_rows = row.int("orphans")?;
            health.stuck_orders_pending = row.int("orders")?;
            health.stuck_refunds_pending = row.int("refunds")?;
            health.open_invoices = row.int("invoices")?;
            health.stuck_invoices_open = row.int("old_invoices")?;
            health.failed_transfers_at_max_retry = row.int("lost")? + row.int("tired")? + row.int("given_up")?;
            health.reversal_pending_transfers = row.int("reversals")?;
            health.webhooks_waiting = row.int("deliveries")?;
            health.webhooks_since_us = row.int_or_null("delivered_us")?;
            health.alarms = row.int("payments")? + row.int("alarmed")?;
        }
        // Only the newest can be without: whoever looks at all is `segue ledger verify`.
        let sql = "select count(*) as n from ledger_journal j
                   where j.recorded_us >= (select recorded_us from ledger_head)
                     and not exists (select 1 from ledger_seal s where s.journal_id = j.id)";
        health.unsealed_journals = tx.first(sql, args![]).await?.map_or(Ok(0), |row| row.int("n"))?;
        let rows = tx
            .all(
                "select currency, cast(sum(debit) - sum(credit) as bigint) as off from ledger_posting where posted = 1
                 group by currency order by currency limit 200",
                args![],
            )
            .await?;
        for row in rows {
            health.trial_balance_minor_units.insert(row.text("currency")?, row.int("off")?);
        }
        Ok(health)
    }
}
