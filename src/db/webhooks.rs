//! Deliveries of providers, as they came, and what became of each.

use super::conn::{Row, args};
use super::{Db, Dialect};
use crate::base::Result;
use crate::base::id::sortable;
use crate::jobs::backoff::Backoff;

/// Tries to process a delivery; the sweeps find what it was about anyway.
pub const TRIES_MAX: i64 = 8;

/// A delivery as it comes in.
#[derive(Clone, Debug, Default)]
pub struct Incoming<'a> {
    /// `hyperswitch` or `stripe`.
    pub provider: &'a str,
    /// Its id, when it could be read.
    pub event_id: Option<&'a str>,
    /// What it is about, when it could be read.
    pub event_type: Option<&'a str>,
    /// The body, or its beginning.
    pub payload: &'a str,
    /// It is from the provider.
    pub signature_valid: bool,
    /// From where it came.
    pub source_ip: Option<&'a str>,
    /// Who sent it, in their words.
    pub user_agent: Option<&'a str>,
    /// Of the request that carried it.
    pub request_id: &'a str,
}

/// A delivery that waits to be processed.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// Its id.
    pub id: String,
    /// `hyperswitch` or `stripe`.
    pub provider: String,
    /// Its id at the provider.
    pub event_id: Option<String>,
    /// What it is about.
    pub event_type: Option<String>,
    /// The body.
    pub payload: String,
    /// The number of this try, from 1.
    pub number: i64,
}

/// What became of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// What it is about was read again.
    Ok,
    /// It is about nothing of ours.
    Skipped,
    /// Not yet, and why.
    Failed(String),
}

impl Db {
    /// Stores a delivery; a valid one waits to be processed then. Returns its id.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn store_webhook(&self, incoming: &Incoming<'_>, now_us: i64) -> Result<String> {
        let id = sortable("whd_", now_us);
        let (result, next_us) = match incoming.signature_valid {
            true => (None, Some(now_us)),
            false => (Some("signature_invalid"), None),
        };
        let mut tx = self.begin().await?;
        tx.execute(
            "insert into webhook_delivery (id, provider, event_id, event_type, payload, signature_valid, result, next_us,
               source_ip, user_agent, request_id, received_us)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
            args![
                &id,
                incoming.provider,
                incoming.event_id,
                incoming.event_type,
                incoming.payload,
                i64::from(incoming.signature_valid),
                result,
                next_us,
                incoming.source_ip,
                incoming.user_agent,
                incoming.request_id,
                now_us
            ],
        )
        .await?;
        tx.commit().await?;
        Ok(id)
    }

    /// Takes the deliveries whose time has come; nobody else gets them before `until_us`. Those of events that were
    /// processed before end here, as duplicates; of those that are about one event only the oldest is taken, and the others
    /// wait for what becomes of it.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn take_webhooks(&self, limit: u32, now_us: i64, until_us: i64) -> Result<Vec<Delivery>> {
        let mut tx = self.begin_one().await?;
        let due = "select id from webhook_delivery where next_us <= $1 limit 1";
        if tx.first(due, args![now_us]).await?.is_none() {
            return Ok(Vec::new());
        }
        drop(tx);
        let mut tx = self.begin().await?;
        tx.execute(
            "update webhook_delivery set result = 'duplicate', next_us = null, processed_us = $1
             where next_us <= $1 and event_id is not null and exists (select 1 from webhook_delivery d
               where d.provider = webhook_delivery.provider and d.event_id = webhook_delivery.event_id and d.result = 'ok')",
            args![now_us],
        )
        .await?;
        let sql = match tx.dialect() {
            Dialect::Sqlite => {
                "update webhook_delivery set tries = tries + 1, next_us = $2
                 where id in (select w.id from webhook_delivery w where w.next_us <= $1 and not exists (
                     select 1 from webhook_delivery d where d.provider = w.provider and d.event_id = w.event_id
                       and ((d.next_us <= $1 and d.id < w.id) or (d.next_us > $1 and d.next_us <= $2)))
                   order by w.next_us, w.id limit $3)
                 returning id, provider, event_id, event_type, payload, tries"
            }
            Dialect::Postgres => {
                "update webhook_delivery set tries = tries + 1, next_us = $2
                 where id in (select w.id from webhook_delivery w where w.next_us <= $1 and not exists (
                     select 1 from webhook_delivery d where d.provider = w.provider and d.event_id = w.event_id
                       and ((d.next_us <= $1 and d.id < w.id) or (d.next_us > $1 and d.next_us <= $2)))
                   order by w.next_us, w.id limit $3 for update skip locked)
                 returning id, provider, event_id, event_type, payload, tries"
            }
        };
        let one = |row: &Row| {
            Ok(Delivery {
                id: row.text("id")?,
                provider: row.text("provider")?,
                event_id: row.text_or_null("event_id")?,
                event_type: row.text_or_null("event_type")?,
                payload: row.text("payload")?,
                number: row.int("tries")?,
            })
        };
        let rows = tx.all(sql, args![now_us, until_us, i64::from(limit)]).await?;
        let mut taken = rows.iter().map(one).collect::<Result<Vec<_>>>()?;
        tx.commit().await?;
        taken.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(taken)
    }

    /// Writes down what became of a delivery. One that failed is tried again, unless it was often enough.
    ///
    /// # Errors
    /// When the database cannot be reached; the delivery is then processed again.
    pub async fn settle_webhook(
        &self,
        delivery: &Delivery,
        outcome: &Outcome,
        backoff: Backoff,
        now_us: i64,
    ) -> Result<()> {
        let (result, error, next_us) = match outcome {
            Outcome::Ok => ("ok", None, None),
            Outcome::Skipped => ("skipped", None, None),
            Outcome::Failed(why) => {
                let next_us = (delivery.number < TRIES_MAX).then(|| now_us + backoff.delay_us(delivery.number));
                ("error", Some(why.as_str()), next_us)
            }
        };
        let mut tx = self.begin().await?;
        tx.execute(
            "update webhook_delivery set result = $2, error = $3, next_us = $4, processed_us = $5
             where id = $1 and tries = $6 and (result is null or result = 'error')",
            args![&delivery.id, result, error, next_us, now_us, delivery.number],
        )
        .await?;
        tx.commit().await
    }

    /// Forgets deliveries that came before `before_us`, at most `limit`. Returns how many.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn forget_webhooks(&self, before_us: i64, limit: i64) -> Result<u64> {
        let mut tx = self.begin().await?;
        let gone = tx
            .execute(
                "delete from webhook_delivery where id in (
                   select id from webhook_delivery where received_us < $1 order by received_us limit $2)",
                args![before_us, limit],
            )
            .await?;
        tx.commit().await?;
        Ok(gone)
    }
}
